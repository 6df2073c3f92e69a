"""The faces in a frame, by the detector that the configuration names.

``DETECTORS`` lists the detectors. Another one is a module with such a class, and its line here; its name and the
digest of its weights stand in every contract (frames/contract.py), so a member never meets another detector's boxes.

Faces are always looked for in the stored frame, that is after the JPEG round trip, in preparation
and in prediction alike: otherwise the two would cut slightly different crops.
"""

from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from liveness.base.config import Detector, nearest
from liveness.base.errors import UserError
from liveness.base.files import sha256_of
from liveness.frames.boxes import Face
from liveness.frames.yunet import YuNet


class FaceDetector(Protocol):
    """What a detector can do. The same pixels give the same boxes, on any number of cores."""

    def __init__(self, config: Detector, weights: Path | None = None) -> None: ...

    @staticmethod
    def weights() -> Path:
        """The file whose digest tells one detector from another; a UserError where it is not installed."""
        ...

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """All faces of uint8 RGB (H x W x 3) of at least the configured confidence, most confident first."""
        ...


DETECTORS: dict[str, type[FaceDetector]] = {"yunet": YuNet}
DEFAULT = Detector().name


def detector_path(name: str = DEFAULT) -> Path:
    """The file with a detector's weights; a UserError where it is not installed, or no detector has the name."""
    require_detector(name, "face detector")
    return DETECTORS[name].weights()


@cache
def detector_digest(name: str = DEFAULT) -> str:
    """Hex SHA-256 of a detector's weights."""
    return sha256_of(detector_path(name))


def find_faces(rgb: np.ndarray, config: Detector, weights: Path | None = None) -> list[Face]:
    """All faces of a stored frame, most confident first. Each process keeps the detectors that it has used.

    weights: the detector's file (default: the installed one, ``detector_path``).
    """
    return _detector(config.name, config.threshold, config.max_side, weights).detect(rgb)


@cache
def _detector(name: str, threshold: float, max_side: int, weights: Path | None) -> FaceDetector:
    require_detector(name, "face detector")
    config = Detector(threshold, max_side, name)
    return DETECTORS[name](config) if weights is None else DETECTORS[name](config, weights)


def require_detector(name: str, where: str) -> None:
    """A UserError for a detector that this code does not have."""
    if name not in DETECTORS:
        raise UserError(
            f"{where}: detector.name={name}; expected one of {', '.join(DETECTORS)}{nearest(name, list(DETECTORS))}"
        )
