"""A face becomes an embedding: 128 numbers that are alike for two pictures of one person. Writes nothing.

dlib finds five landmarks in the project's own box (its own detector overlooks many faces), turns and scales the face to
150 x 150 pixels, and its ResNet of 2017 encodes it. The weights are files of the package face-recognition-models (CC0),
which is not imported; each is checked by its digest. Both packages are the extra ``liveness[identity]``.
"""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from liveness.base.errors import UserError
from liveness.base.files import sha256_of
from liveness.frames.boxes import Face

_PACKAGE = "face_recognition_models"
_LANDMARKS, _ENCODER = "shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"
_SHA256 = {
    _LANDMARKS: "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    _ENCODER: "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
}
_SIDE, _PADDING = 150, 0.25  # of the encoder's input: pixels, and the margin around the face; as it was trained
# The digest of all that an embedding depends on besides the picture and the box.
EMBEDDER = hashlib.sha256(repr((sorted(_SHA256.items()), _SIDE, _PADDING)).encode()).hexdigest()


def require_embedder() -> Path:
    """The folder of the weights; a UserError that says what to install where the extra's packages are not there."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = [Path(place) / "models" for place in (spec.submodule_search_locations or [])] if spec else []
    folder = next((place for place in folders if all((place / name).is_file() for name in _SHA256)), None)
    lacking = [] if importlib.util.find_spec("dlib") else ["dlib-bin"]
    lacking += [] if folder else ["face-recognition-models"]
    if lacking or folder is None:
        raise UserError(
            f"folds.identities=auto needs {' and '.join(lacking)}, not installed here; run: bash scripts/setup.sh "
            '--identity (or: pip install ".[train,identity]")'
        )
    return folder


def embed_face(rgb: np.ndarray, face: Face) -> np.ndarray:
    """The embedding of the face in a frame (uint8 RGB, H x W x 3): float64, of length 1."""
    dlib, find_landmarks, encoder = _load()
    left, top, right, low = (round(v) for v in (face.x, face.y, face.x + face.w, face.y + face.h))
    landmarks = find_landmarks(rgb, dlib.rectangle(left, top, right, low))
    chip = dlib.get_face_chip(rgb, landmarks, _SIDE, _PADDING)
    vector = np.array(encoder.compute_face_descriptor(chip), np.float64)
    return vector / np.linalg.norm(vector)


@cache
def _load() -> tuple[Any, Any, Any]:
    """dlib, the landmark finder and the encoder; a UserError where one of them is not what it should be."""
    folder = require_embedder()
    for name, expected in _SHA256.items():
        if sha256_of(folder / name) != expected:
            raise UserError(
                f"{folder / name}: damaged, or of another version; install it again: "
                "pip install --force-reinstall face-recognition-models==0.3.0"
            )
    try:
        import dlib
    except ImportError as error:
        raise UserError(f"dlib does not load ({error}): pip install --force-reinstall dlib-bin") from error
    return dlib, dlib.shape_predictor(str(folder / _LANDMARKS)), dlib.face_recognition_model_v1(str(folder / _ENCODER))
