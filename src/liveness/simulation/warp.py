"""Smooth image warps: a coarse grid of nodes, upsampled to one cv2.remap.

The maps are inverse, as cv2.remap wants them: for every pixel of the result, where to read.
Numpy and OpenCV only; nothing is read or written.
"""

from collections.abc import Callable

import cv2
import numpy as np

STEP = 8  # pixels between nodes: smooth bends need no more

Field = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


def place_nodes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (x, y) of the coarse grid, one node beyond the picture on every side."""
    rows, columns = -(-height // STEP) + 2, -(-width // STEP) + 2
    x = (np.arange(columns, dtype=np.float32) - 0.5) * STEP - 0.5
    y = (np.arange(rows, dtype=np.float32) - 0.5) * STEP - 0.5
    return np.meshgrid(x, y)


def upsample_nodes(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    """Upsample values at ``place_nodes(height, width)`` (rows x columns [x channels]) to every pixel, linearly."""
    rows, columns = coarse.shape[:2]
    full = cv2.resize(coarse.astype(np.float32), (columns * STEP, rows * STEP), interpolation=cv2.INTER_LINEAR)
    return full[STEP : STEP + height, STEP : STEP + width]


def remap(
    image: np.ndarray,
    field: np.ndarray,
    interpolation: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_REPLICATE,
    value: list[float] | float = 0,
) -> np.ndarray:
    """Read ``image`` (HxW[xC], at most four channels) at ``field`` (rows x columns x 2, pixels): rows x columns[xC].

    value: what lies beyond the picture where the border is constant.
    """
    # OpenCV's stubs do not know that the second map may be missing.
    return cv2.remap(image, field, None, interpolation, borderMode=border, borderValue=value)  # type: ignore[call-overload]


def apply_homography(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply a 3x3 homography to coordinates."""
    z = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    return (
        (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / z,
        (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / z,
    )


def warp_thin_plate(image: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Warp ``image`` (HxWxC) so that the points ``source`` (n x 2, x and y) come to lie on ``target``.

    Thin-plate spline of Bookstein (1989), fitted from target to source because remap reads backwards.
    """
    height, width = image.shape[:2]
    scale = float(max(height, width))
    p, q = target / scale, source / scale
    n = len(p)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _kernel(p[:, None] - p[None])
    system[:n, n:] = np.c_[np.ones(n), p]
    system[n:, :n] = system[:n, n:].T
    system[:n, :n] += np.eye(n) * 1e-6
    weights = np.linalg.solve(system, np.r_[q, np.zeros((3, 2))])
    x, y = place_nodes(height, width)
    at = np.stack([x.ravel(), y.ravel()], 1) / scale
    read = _kernel(at[:, None] - p[None]) @ weights[:n] + np.c_[np.ones(len(at)), at] @ weights[n:]
    field = upsample_nodes((read * scale).reshape(*x.shape, 2), height, width)
    parts = [image[..., k : k + 3] for k in range(0, image.shape[2], 3)]
    return np.dstack([remap(part, field, cv2.INTER_CUBIC) for part in parts])


def _kernel(delta: np.ndarray) -> np.ndarray:
    square = (delta**2).sum(-1)
    return square * np.log(square + 1e-12)


class Sway:
    """Smooth random motion of several quantities: sums of slow sines, fixed by a generator.

    ``sway(t)`` is an array of ``len(sizes)`` values of about unit size times ``sizes``; t in seconds.
    """

    def __init__(self, rng: np.random.Generator, sizes: list[float], rate: tuple[float, float] = (0.2, 1.3)):
        self.sizes = np.asarray(sizes, np.float64)
        self.rates = rng.uniform(*rate, (3, len(sizes))) * np.array([[0.6], [1.0], [2.2]])
        self.phases = rng.uniform(0, 2 * np.pi, (3, len(sizes)))
        self.weights = np.array([[0.75], [0.5], [0.16]])

    def __call__(self, t: float) -> np.ndarray:
        waves = np.sin(2 * np.pi * self.rates * t + self.phases)
        return self.sizes * (self.weights * waves).sum(0)
