"""Procedural surroundings: rooms, windows, curtains, shelves, foliage, tiles.

They stand behind a person, and round a sheet of paper or a screen held into the camera; live and
attacked clips draw from the same kinds. Nothing is read or written.
"""

import cv2
import numpy as np

_KINDS = ("wall", "window", "curtain", "shelf", "foliage", "tiles", "office", "street")


def draw_clouds(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 3) -> np.ndarray:
    """Smooth random texture, height x width float32, about zero mean and unit deviation; ``cell`` in pixels."""
    total = np.zeros((height, width), np.float32)
    for k in range(octaves):
        size = max(cell / 2**k, 1.0)
        rows, columns = int(height / size) + 3, int(width / size) + 3
        coarse = rng.standard_normal((rows, columns), dtype=np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**k
    return total / (total.std() + 1e-6)


def draw_colour(rng: np.random.Generator, low: float = 40, high: float = 220, chroma: float = 24) -> np.ndarray:
    """A random RGB colour (float, 0..255), greyish by ``chroma``."""
    return np.clip(rng.uniform(low, high) + rng.normal(0, chroma, 3), 5, 250)


def draw_scene(rng: np.random.Generator, height: int, width: int, blur: float | None = None) -> np.ndarray:
    """A random scene, uint8 RGB height x width x 3; ``blur`` in pixels (drawn when None)."""
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    picture = _PAINTERS[kind](rng, height, width)
    light = draw_clouds(rng, height, width, max(height, width) * 0.7, 1)[..., None] * rng.uniform(3, 18)
    sigma = float(np.exp(rng.uniform(np.log(0.5), np.log(3.5)))) if blur is None else blur
    picture = cv2.GaussianBlur((picture + light).astype(np.float32), (0, 0), sigma)
    grain = draw_clouds(rng, height, width, 2.2, 1)[..., None] * (rng.uniform(1.0, 12.0) / (0.5 + sigma))
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def _flat(rng: np.random.Generator, height: int, width: int, low: float = 70, high: float = 225) -> np.ndarray:
    base = np.empty((height, width, 3), np.float32)
    base[:] = draw_colour(rng, low, high, 13)
    slope = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * rng.normal(0, 14)
    return base + (slope + np.linspace(-1, 1, width, dtype=np.float32)[None] * rng.normal(0, 22))[..., None]


def _box(picture: np.ndarray, left: float, top: float, right: float, bottom: float, fill: np.ndarray) -> None:
    cv2.rectangle(picture, (int(left), int(top)), (int(right), int(bottom)), [float(v) for v in fill], -1)


def _wall(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    picture = _flat(rng, height, width)
    for _ in range(int(rng.integers(0, 4))):  # pictures and posters: rectangles are no proof of an attack
        w, h = rng.uniform(0.12, 0.4, 2) * width
        x, y = rng.uniform(-0.1, 0.9) * width, rng.uniform(-0.05, 0.6) * height
        edge = rng.uniform(0.008, 0.03) * width
        _box(picture, x, y, x + w, y + h, draw_colour(rng, 20, 240))
        _box(picture, x + edge, y + edge, x + w - edge, y + h - edge, draw_colour(rng, 40, 230, 30))
        _box(picture, x + w * 0.3, y + h * 0.4, x + w * 0.7, y + h * 0.8, draw_colour(rng, 40, 230, 30))
    if rng.random() < 0.4:
        x = rng.uniform(-0.1, 0.8) * width
        _box(picture, x, height * 0.1, x + width * 0.35, height, draw_colour(rng, 50, 230, 25))
    return picture


def _window(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    picture = _flat(rng, height, width, 50, 190)
    x, y = rng.uniform(-0.2, 0.6) * width, rng.uniform(-0.1, 0.2) * height
    w, h = rng.uniform(0.35, 0.8) * width, rng.uniform(0.4, 0.7) * height
    _box(picture, x - 8, y - 8, x + w + 8, y + h + 8, draw_colour(rng, 150, 245, 10))
    _box(picture, x, y, x + w, y + h, np.array([205, 220, 240]) + rng.normal(0, 12))
    _box(picture, x, y + h * 0.6, x + w, y + h, draw_colour(rng, 90, 200, 25))
    for k in range(1, int(rng.integers(2, 4))):
        _box(picture, x + w * k / 3 - 4, y, x + w * k / 3 + 4, y + h, draw_colour(rng, 120, 240, 8))
    return picture


def _curtain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    picture = _flat(rng, height, width, 60, 210)
    folds = draw_clouds(rng, 1, width, width * rng.uniform(0.03, 0.09), 2)
    return picture * (1 + 0.16 * folds[..., None])


def _shelf(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    picture = _flat(rng, height, width, 40, 160)
    rows = int(rng.integers(3, 7))
    board = draw_colour(rng, 60, 200, 20)
    for r in range(rows):
        bottom = (r + 1) * height / rows
        x = rng.uniform(0, 0.05) * width
        while x < width:
            w = rng.uniform(0.02, 0.07) * width
            h = rng.uniform(0.5, 0.88) * height / rows
            if rng.random() < 0.85:
                _box(picture, x, bottom - h, x + w, bottom, draw_colour(rng, 30, 220, 26))
            x += w + rng.uniform(0, 0.01) * width
        _box(picture, 0, bottom - 0.012 * height, width, bottom, board)
    return picture


def _foliage(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    texture = draw_clouds(rng, height, width, width * 0.12, 5)[..., None]
    dark, bright = np.array([44.0, 58, 40]), np.array([158.0, 174, 126]) + rng.normal(0, 15, 3)
    share = 1 / (1 + np.exp(-1.6 * texture))
    picture = (dark + (bright - dark) * share).astype(np.float32)
    sky = np.clip((height * rng.uniform(0.0, 0.4) - np.arange(height)) / (0.1 * height), 0, 1)[:, None, None]
    return picture * (1 - sky) + np.array([205, 220, 238], np.float32) * sky.astype(np.float32)


def _tiles(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    side_y, side_x = rng.uniform(0.05, 0.16) * width, rng.uniform(0.08, 0.24) * width
    rows, columns = int(height / side_y) + 2, int(width / side_x) + 3
    base, joint = draw_colour(rng, 80, 220, 14), draw_colour(rng, 60, 220, 8)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = joint
    gap, tone = max(1.0, 0.006 * width), rng.uniform(1, 14)
    for r in range(rows):
        shift = (r % 2) * side_x / 2 * (rng.random() < 0.9)
        for c in range(columns):
            x, y = c * side_x - shift, r * side_y
            _box(picture, x + gap, y + gap, x + side_x - gap, y + side_y - gap, base + rng.normal(0, tone))
    return picture


def _office(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    picture = _flat(rng, height, width, 120, 225)
    _box(picture, 0, height * rng.uniform(0.6, 0.8), width, height, draw_colour(rng, 60, 200, 25))
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.1, 0.9) * width, rng.uniform(0.2, 0.6) * height
        w, h = rng.uniform(0.15, 0.4) * width, rng.uniform(0.1, 0.25) * height
        _box(picture, x, y, x + w, y + h, np.array([22.0, 22, 26]))
        _box(picture, x + 4, y + 4, x + w - 4, y + h - 4, draw_colour(rng, 60, 230, 40))
    for k in range(int(rng.integers(1, 4))):
        x = rng.uniform(0, 1) * width
        _box(picture, x, height * 0.02, x + width * 0.25, height * (0.05 + 0.01 * k), np.array([250.0, 250, 244]))
    return picture


def _street(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    picture = _flat(rng, height, width, 170, 235)
    x = -0.1 * width
    while x < width:
        w, top = rng.uniform(0.15, 0.4) * width, rng.uniform(0.05, 0.4) * height
        wall = draw_colour(rng, 70, 200, 14)
        _box(picture, x, top, x + w, height, wall)
        pane = wall * rng.uniform(0.45, 0.8)
        for wy in np.arange(top + 0.04 * height, height * 0.8, 0.11 * height):
            for wx in np.arange(x + 0.03 * width, x + w - 0.06 * width, 0.09 * width):
                _box(picture, wx, wy, wx + 0.045 * width, wy + 0.06 * height, pane)
        x += w
    _box(picture, 0, height * rng.uniform(0.75, 0.95), width, height, draw_colour(rng, 60, 140, 8))
    return picture


_PAINTERS = {
    "wall": _wall, "window": _window, "curtain": _curtain, "shelf": _shelf,
    "foliage": _foliage, "tiles": _tiles, "office": _office, "street": _street,
}  # fmt: skip
