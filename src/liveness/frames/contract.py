"""The one preprocessing: from a frame and its face to the tensor that a model sees.

Training, out-of-fold scoring, prediction and the notebook all go through ``cut`` and ``to_array``.
What they need is recorded in every member's file as its *contract*, so that prediction takes no
size, view or normalisation flag, and refuses a file whose contract it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from liveness.base.config import Data, Detector, FramePlan, Recipe, View, to_dict
from liveness.base.errors import UserError
from liveness.base.validity import rebuild
from liveness.frames.rules import NEWEST, RULES

if TYPE_CHECKING:
    import torch

    from liveness.frames.boxes import Face

# Raised whenever the same contract would give other tensors than before. What each version means is in frames/rules.py;
# all of them are spoken, so that a member scores as it did when it was trained.
LONGEST = 8  # times the short side: a longer frame is no picture of a person, and its view would fill the memory
CONTRACT_KEYS = {"version", "frames", "view", "combine", "jpeg_quality", "detector", "detector_sha256"}


def make_contract(recipe: Recipe, data: Data, detector_sha256: str, version: int = NEWEST) -> dict[str, Any]:
    """The contract of a member of ``recipe`` trained on a set prepared by ``data`` under the rules of ``version``."""
    return {
        "version": version,
        "frames": to_dict(recipe.frames),
        "view": to_dict(recipe.view),
        "combine": recipe.combine,
        "jpeg_quality": data.jpeg_quality,
        "detector": to_dict(data.detector),
        "detector_sha256": detector_sha256,
    }


def read_contract(contract: dict[str, Any], where: str) -> tuple[FramePlan, View, Detector]:
    """The typed parts of a stored contract; a UserError if this code does not speak it."""
    require_known(contract.get("version"), where)
    if set(contract) != CONTRACT_KEYS:
        raise UserError(f"{where}: the contract has the keys {sorted(contract)}; expected {sorted(CONTRACT_KEYS)}")
    from liveness.frames.faces import require_detector

    detector = rebuild(Detector, contract["detector"], where)
    require_detector(detector.name, where)
    return rebuild(FramePlan, contract["frames"], where), rebuild(View, contract["view"], where), detector


def require_known(version: Any, where: str) -> None:
    """A UserError for a version of the contract that this code does not speak."""
    if type(version) is not int or version not in RULES:
        raise UserError(
            f"{where}: preprocessing contract version {version!r}; this code speaks the versions "
            f"{', '.join(map(str, RULES))}: update it"
        )


def cut(rgb: np.ndarray, face: Face | None, view: View, scale: float) -> np.ndarray | None:
    """What ``view`` sees of a frame (uint8 RGB, H x W x 3): all of it, or a square or a window around the face.

    None where the view needs a face and there is none.
    """
    if view.kind == "frame":
        return rgb
    if face is None:
        return None
    from liveness.frames.boxes import crop_square, find_window

    if view.cut == "square":
        return crop_square(rgb, face, scale)
    left, top, right, bottom = find_window(face, rgb.shape[1], rgb.shape[0], scale)
    return rgb[top : bottom + 1, left : right + 1]


def resize(rgb: np.ndarray, view: View) -> np.ndarray:
    """Resample uint8 RGB to the model's input size: PIL's antialiased filters, or OpenCV's linear one.

    A VideoError where only the short side has a size and the other is more than LONGEST times as long.
    """
    height, width = rgb.shape[:2]
    if view.resize == "stretch":
        target = (view.size, view.size)
    elif max(height, width) > LONGEST * min(height, width):
        from liveness.frames.video import VideoError

        raise VideoError(f"its frames are {width} x {height}; expected at most {LONGEST} times as long as wide")
    elif width <= height:
        target = (view.size, int(view.size * height / width))
    else:
        target = (int(view.size * width / height), view.size)
    if view.interpolation == "cv2_linear":
        import cv2

        return cv2.resize(rgb, target, interpolation=cv2.INTER_LINEAR)
    from PIL import Image

    method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[view.interpolation]
    return np.asarray(Image.fromarray(rgb).resize(target, method))


def to_array(rgb: np.ndarray, view: View) -> np.ndarray:
    """uint8 RGB (H x W x 3) -> float32 (3 x H x W): value * white / 255, minus mean, over std.

    Its channels are in the order that ``view.channels`` names, as are mean and std.
    """
    if view.channels == "bgr":
        rgb = rgb[:, :, ::-1]
    values = np.array(rgb.transpose(2, 0, 1), dtype=np.float32, order="C")
    values /= np.float32(255 / view.white)
    values -= np.array(view.mean, dtype=np.float32).reshape(3, 1, 1)
    values /= np.array(view.std, dtype=np.float32).reshape(3, 1, 1)
    return values


def to_tensor(rgb: np.ndarray, view: View) -> torch.Tensor:
    """``to_array`` as a torch tensor."""
    import torch

    return torch.from_numpy(to_array(rgb, view))


def to_colour(values: list[float] | np.ndarray, view: View) -> np.ndarray:
    """What stands in a tensor before mean and std (three values, or an array of ... x 3) as RGB from 0 to 255."""
    colour = 255 * np.asarray(values) / view.white
    return colour[..., ::-1] if view.channels == "bgr" else colour


def stack(tensors: list[torch.Tensor]) -> torch.Tensor | None:
    """A batch from a list of equal tensors; None for an empty list."""
    import torch

    return torch.stack(tensors) if tensors else None


def cut_views(rgb: np.ndarray, face: Face | None, view: View) -> list[np.ndarray]:
    """The resized views (uint8 RGB) of a frame whose face is known; none where the view needs a face without one."""
    return finish_views(cut_scales(rgb, face, view), view)


def cut_scales(rgb: np.ndarray, face: Face | None, view: View) -> list[np.ndarray]:
    """What ``view`` sees of a frame, at each of its face scales; the frame itself is seen once."""
    scales = view.scales if view.kind == "face" else [1.0]
    return [piece for scale in scales if (piece := cut(rgb, face, view, scale)) is not None]


def finish_views(pieces: list[np.ndarray], view: View) -> list[np.ndarray]:
    """The resized views (uint8 RGB) that a frame's score is averaged over, always equally many.

    For each piece that was cut, the whole of it and its central ``crops``; with ``mirror`` each of them is
    followed by its mirror image.
    """
    views = [resize(_crop_center(piece, share), view) for piece in pieces for share in (1.0, *view.crops)]
    if view.mirror:
        views = [turned for piece in views for turned in (piece, np.ascontiguousarray(piece[:, ::-1]))]
    return views


def _crop_center(rgb: np.ndarray, share: float) -> np.ndarray:
    """The middle of a picture (H x W x 3): ``share`` of either side, at least a pixel."""
    height, width = rgb.shape[:2]
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    top, left = (height - tall) // 2, (width - wide) // 2
    return rgb[top : top + tall, left : left + wide]
