"""Recapture attacks, simulated on frames: a printed photo, and a replay on a screen.

Each attack is a frozen set of parameters (one sheet, one screen, one second camera) drawn from a
generator; ``apply`` shows a frame on it at time ``t`` and shoots that again. The demo set draws one
attack per clip and lets ``t`` run; training draws one per frame (``simulate``).

    attack = PrintAttack.draw(np.random.default_rng(1))
    fake = attack.apply(frame, t=0.4)            # uint8 RGB HxWx3 -> the same shape

Print: gamut and cast of the inks, a rotated halftone screen per ink, paper grain, banding of the
head, bend, perspective, hand motion, glare, edges of the sheet. Replay: gamma and blue shift, the
grid of coloured subpixels sampled by the camera (moire), refresh banding, reflections, bezel.
Nothing is read or written.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from liveness.base.errors import UserError
from liveness.simulation.camera import Camera, to_pair, to_triple
from liveness.simulation.scenes import draw_clouds, draw_scene
from liveness.simulation.warp import Sway, apply_homography, place_nodes, remap, upsample_nodes


@dataclass(frozen=True)
class Holding:
    """How a sheet or screen is held before the second camera, and how that moves."""

    seed: int
    fill: float  # size of the shown picture over the frame; below 1 its edges are in view
    turn: float  # radians
    tilt: tuple[float, float]  # perspective about the vertical and the horizontal axis
    shift: tuple[float, float]  # shares of the frame
    shake: float  # 0 = on a stand
    bend: float = 0.0  # of paper, share of the width
    bend_angle: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, edges: float, bend: float) -> "Holding":
        """``edges``: probability that edges are in view; ``bend``: typical bend of the sheet."""
        visible = rng.random() < edges
        fill = rng.uniform(0.80, 0.97) if visible else rng.uniform(1.04, 1.2)
        room = 0.5 * abs(fill - 1)
        return cls(
            seed=int(rng.integers(2**31)),
            fill=float(fill),
            turn=float(rng.normal(0, 0.035)),
            tilt=to_pair(np.clip(rng.normal(0, 0.06, 2), -0.14, 0.14)),
            shift=to_pair(rng.uniform(-room, room, 2)),
            shake=float(rng.uniform(0.2, 1.0)),
            bend=float(rng.normal(0, bend)),
            bend_angle=float(rng.uniform(-0.6, 0.6)),
        )

    def read_at(self, height: int, width: int, t: float) -> np.ndarray:
        """Coarse nodes (rows x columns x 2): where on the flat picture, in pixels, each node of the frame reads."""
        x, y = place_nodes(height, width)
        sway = Sway(np.random.default_rng(self.seed), [0.012, 0.012, 0.014, 0.012, 0.02, 0.02, 0.25])(t) * self.shake
        angle, size = self.turn + sway[2], self.fill * (1 + sway[3])
        across, along = self.tilt[0] + sway[4], self.tilt[1] + sway[5]
        u = (x / width - 0.5 - self.shift[0] - sway[0]) * (width / height)
        v = y / height - 0.5 - self.shift[1] - sway[1]
        rotation = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        perspective = np.array([[1, 0, 0], [0, 1, 0], [across, along, 1.0]])
        u, v = apply_homography(np.diag([1 / size, 1 / size, 1.0]) @ perspective @ rotation, u, v)
        if self.bend:
            s = u * np.cos(self.bend_angle) + v * np.sin(self.bend_angle)
            amount = self.bend * (1 + sway[6])
            u, v = u + amount * s * np.abs(s) * 1.2, v + amount * s * s * 0.5
        return np.dstack([(u * height / width + 0.5) * width, (v + 0.5) * height]).astype(np.float32)


def _inside(read: np.ndarray, height: int, width: int, margin: float) -> np.ndarray:
    """Signed distance (pixels, inside positive) of coarse nodes to the picture's edge widened by ``margin``."""
    u, v = read[..., 0], read[..., 1]
    return np.minimum(np.minimum(u + margin, width + margin - u), np.minimum(v + margin, height + margin - v))


@lru_cache(maxsize=4)
def _surroundings(seed: int, height: int, width: int) -> np.ndarray:
    # A quarter of the size is enough for what is out of focus.
    small = draw_scene(np.random.default_rng(seed), max(height // 2, 16), max(width // 2, 16), 1.2)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32) / np.float32(255)


@lru_cache(maxsize=4)
def _texture(seed: int, height: int, width: int, cell: float) -> np.ndarray:
    return draw_clouds(np.random.default_rng(seed), height, width, cell, 2)[..., None].repeat(3, 2)


@lru_cache(maxsize=4)
def _screens(height: int, width: int, period: float, angles: tuple[float, float, float]) -> np.ndarray:
    """Halftone threshold of each ink, -1..1, height x width x 3: dots on a rotated square grid."""
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    result = np.empty((height, width, 3), np.float32)
    for k, angle in enumerate(angles):
        step = np.float32(2 * np.pi / period)
        a = (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y) * step
        b = (np.float32(-np.sin(angle)) * x + np.float32(np.cos(angle)) * y) * step
        result[..., k] = (np.cos(a) + np.cos(b)) * 0.5
    return result


@dataclass(frozen=True)
class PrintAttack:
    """A printed photo held before a second camera."""

    holding: Holding
    period: float  # of the halftone, pixels of a frame whose short side is 400
    angles: tuple[float, float, float]  # of the screens of cyan, magenta and yellow
    dots: float  # 0 = continuous tone .. 1 = hard dots
    gamut: float  # saturation of the inks
    cast: tuple[float, float, float]
    black: float  # reflectance of full ink
    paper: tuple[float, float, float]
    grain: float
    banding: float
    glare: float
    margin: float  # white border, share of the width
    defocus: float  # of the second camera, pixels of a frame whose short side is 400
    camera: Camera = field(default_factory=Camera)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "PrintAttack":
        angles = np.deg2rad([15, 75, 0]) + rng.uniform(-0.5, 0.5)
        return cls(
            holding=Holding.draw(rng, edges=0.45, bend=0.12),
            period=float(rng.uniform(2.5, 4.1)),
            angles=to_triple(angles),
            dots=float(rng.uniform(0.22, 0.6)),
            gamut=float(rng.uniform(0.5, 0.85)),
            cast=to_triple(np.exp(rng.normal(0, 0.07, 3))),
            black=float(rng.uniform(0.05, 0.2)),
            paper=to_triple(np.clip(rng.normal((0.95, 0.94, 0.91), 0.03), 0.8, 1.0)),
            grain=float(rng.uniform(0.005, 0.03)),
            banding=float(rng.uniform(0.0, 0.035)),
            glare=float(rng.uniform(0.0, 0.4)) if rng.random() < 0.7 else 0.0,
            margin=float(rng.uniform(0.0, 0.06)),
            defocus=float(rng.uniform(0.35, 0.75)),
            camera=Camera.draw(rng),
        )

    def surface(self, frame: np.ndarray) -> np.ndarray:
        """The flat sheet: the frame in ink on paper, float32 0..1 of the same shape."""
        height, width = frame.shape[:2]
        x = frame.astype(np.float32) * np.float32(1 / 255)
        luma = np.array([0.299, 0.587, 0.114], np.float32)
        mix = self.gamut * np.eye(3, dtype=np.float32) + (1 - self.gamut) * luma[None]
        x = np.asarray(cv2.transform(x, (np.diag(np.array(self.cast, np.float32)) @ mix).astype(np.float32)))
        if self.dots:
            # Ink lands where the tone lies below the screen's threshold; soft edges are dot gain.
            screen = _screens(height, width, round(self.period * _scale(height, width), 3), self.angles)
            # The screen's swing is half the gain, so that the mean of dots and paper keeps the tone.
            dots = np.clip((x - 0.5) * np.float32(1.7) + 0.5 + screen * np.float32(0.85), 0, 1)
            x += (dots - x) * np.float32(self.dots)
        x = np.float32(self.black) + np.clip(x, 0, 1) * np.float32(1 - self.black)
        x *= np.array(self.paper, np.float32)
        if self.banding:
            lines = draw_clouds(np.random.default_rng(self.holding.seed + 2), height, 1, 3.0, 2)
            x *= 1 + np.float32(self.banding) * lines[:, :, None]
        if self.grain:
            x *= 1 + np.float32(self.grain) * _texture(self.holding.seed + 1, height, width, 2.0)
        return x

    def capture(self, sheet: np.ndarray, t: float = 0.0, rng: np.random.Generator | None = None) -> np.ndarray:
        """Shoot a sheet from ``surface`` at time ``t`` (s): uint8 RGB of its shape."""
        height, width = sheet.shape[:2]
        read = self.holding.read_at(height, width, t)
        position = upsample_nodes(read, height, width)
        paper = [float(v) for v in self.paper]
        x = remap(sheet, position, border=cv2.BORDER_CONSTANT, value=paper)
        x = _defocused(x, self.defocus)
        u, v = read[..., 0] / width - 0.5, read[..., 1] / height - 0.5
        shade = _sheet_light(self.holding, self.glare, u, v, t)
        x *= upsample_nodes(shade[0], height, width)[..., None]
        if self.glare:
            x += upsample_nodes(shade[1], height, width)[..., None]
        coarse = _inside(read, height, width, self.margin * width)
        if coarse.min() < 2:
            x = _before_surroundings(x, coarse, self.holding, height, width)
            _thumbs(x, read, self.holding, self.margin)
        return self.camera.apply(x, _generator(rng, self.holding.seed, t))

    def apply(self, frame: np.ndarray, t: float = 0.0, rng: np.random.Generator | None = None) -> np.ndarray:
        """Print ``frame`` (uint8 RGB HxWx3) and shoot the sheet at time ``t``: uint8 RGB of the same shape.

        ``rng`` gives the camera's noise; None derives it from the attack and ``t``.
        """
        return self.capture(self.surface(_checked(frame)), t, rng)


@dataclass(frozen=True)
class ReplayAttack:
    """A screen that plays the frame, before a second camera."""

    holding: Holding
    pitch: float  # of the screen's pixels, pixels of a frame whose short side is 400
    grid: float  # what is left of the subpixel stripes' contrast after the optics
    rows: float  # contrast of the dark lines between rows
    gamma: float
    blue: float
    black: float  # ambient light and backlight on black
    banding: float
    band_rate: float  # bands per second that roll past
    band_length: float  # share of the height
    reflection: float
    bezel: float  # width of the black frame, share of the width
    quality: int  # JPEG quality of what is played
    defocus: float  # of the screen's pixels and the second camera, pixels of a frame whose short side is 400
    camera: Camera = field(default_factory=Camera)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "ReplayAttack":
        return cls(
            holding=Holding.draw(rng, edges=0.45, bend=0.0),
            pitch=float(rng.uniform(0.93, 1.12) if rng.random() < 0.6 else rng.uniform(1.6, 3.2)),
            grid=float(rng.uniform(0.07, 0.17)),
            rows=float(rng.uniform(0.02, 0.09)),
            gamma=float(rng.uniform(1.0, 1.2)),
            blue=float(rng.uniform(0.0, 0.18)),
            black=float(rng.uniform(0.01, 0.1)),
            banding=float(rng.uniform(0.0, 0.09)),
            band_rate=float(rng.uniform(0.3, 2.5)),
            band_length=float(rng.uniform(0.2, 0.9)),
            reflection=float(rng.uniform(0.03, 0.22)) if rng.random() < 0.7 else 0.0,
            bezel=float(rng.uniform(0.015, 0.07)),
            quality=int(rng.integers(60, 93)),
            defocus=float(rng.uniform(0.3, 1.1)),
            camera=Camera.draw(rng),
        )

    def surface(self, frame: np.ndarray) -> np.ndarray:
        """What the screen emits for ``frame``, float32 0..1 of its shape; the pixel grid comes with ``capture``."""
        packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1]
        shown = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
        gains = np.array([1 - self.blue, 1 - 0.35 * self.blue, 1.0])
        levels = (np.arange(256) / 255) ** self.gamma
        table = self.black + (1 - self.black) * levels[:, None] * gains
        x = np.empty(frame.shape, np.float32)
        for k in range(3):
            x[..., k] = table[:, k].astype(np.float32)[shown[..., k]]
        return x

    def capture(self, screen: np.ndarray, t: float = 0.0, rng: np.random.Generator | None = None) -> np.ndarray:
        """Shoot a screen from ``surface`` at time ``t`` (s): uint8 RGB of its shape."""
        height, width = screen.shape[:2]
        read = self.holding.read_at(height, width, t)
        position = upsample_nodes(read, height, width)
        x = remap(screen, position, border=cv2.BORDER_CONSTANT)
        # Before the grid: what the optics leave of the stripes is in `grid` already, and moire stays sharp.
        x = _defocused(x, self.defocus)
        self._stripes(x, position)
        rows = (np.arange(height, dtype=np.float32) / height / self.band_length + self.band_rate * t) * 2 * np.pi
        x *= (1 + np.float32(self.banding) * np.sin(rows))[:, None, None]
        edge = _inside(read, height, width, 0.0)
        if edge.min() < 2:
            lit = np.clip(upsample_nodes(edge, height, width) + 0.5, 0, 1)[..., None]
            x = x * lit + np.float32(0.03) * (1 - lit)
        if self.reflection:
            x += np.float32(self.reflection) * _reflection(self.holding, height, width, t)
        outer = _inside(read, height, width, self.bezel * width)
        if outer.min() < 2:
            x = _before_surroundings(x, outer, self.holding, height, width)
        return self.camera.apply(x, _generator(rng, self.holding.seed, t))

    def _stripes(self, x: np.ndarray, position: np.ndarray) -> None:
        """Multiply by the grid of subpixels, sampled once per camera pixel: what aliases is the moire. In place."""
        height, width = x.shape[:2]
        # The beat against the camera's pixels scales with the frame, and so does a pitch above the sampling limit.
        beat = 1 / self.pitch if self.pitch > 1.5 else 1 / self.pitch - 1
        step = np.float32(2 * np.pi * (beat / _scale(height, width) + (self.pitch <= 1.5)))
        u = position[..., 0] * step
        grid = np.empty_like(x)
        cos, sin = np.cos(u), np.sin(u)
        for k in range(3):  # red, green and blue stripes lie a third of a pixel apart
            shift = 2 * np.pi * k / 3
            grid[..., k] = cos * np.float32(np.cos(shift)) + sin * np.float32(np.sin(shift))
        grid *= np.float32(self.grid)
        grid += (1 + np.float32(self.rows) * np.cos(position[..., 1] * step))[..., None]
        x *= grid

    def apply(self, frame: np.ndarray, t: float = 0.0, rng: np.random.Generator | None = None) -> np.ndarray:
        """Show ``frame`` (uint8 RGB HxWx3) and shoot the screen at time ``t``: uint8 RGB of the same shape.

        ``rng`` gives the camera's noise; None derives it from the attack and ``t``.
        """
        return self.capture(self.surface(_checked(frame)), t, rng)


ATTACKS: dict[str, type[PrintAttack] | type[ReplayAttack]] = {"print": PrintAttack, "replay": ReplayAttack}


def simulate(frame: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """One frame (uint8 RGB HxWx3) as a freshly drawn attack, ``kind`` print or replay: uint8 RGB of the same shape.

    A UserError for any other kind.
    """
    if kind not in ATTACKS:
        raise UserError(f"attack kind {kind!r}; expected one of {', '.join(ATTACKS)}")
    attack = ATTACKS[kind].draw(rng)
    return attack.apply(frame, float(rng.uniform(0, 2)), rng)


def _checked(frame: np.ndarray) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame of shape {frame.shape}, type {frame.dtype}; expected HxWx3 uint8")
    return frame


def _defocused(x: np.ndarray, amount: float) -> np.ndarray:
    sigma = amount * _scale(*x.shape[:2])
    return cv2.GaussianBlur(x, (0, 0), sigma) if sigma > 0.1 else x


def _scale(height: int, width: int) -> float:
    """How much finer than a frame of 400 pixels this one is."""
    return max(min(height, width) / 400, 0.6)


def _generator(rng: np.random.Generator | None, seed: int, t: float) -> np.random.Generator:
    return rng if rng is not None else np.random.default_rng([seed, round(abs(t) * 1e4)])


def _sheet_light(holding: Holding, glare: float, u: np.ndarray, v: np.ndarray, t: float) -> tuple:
    """Coarse shading by the bend, and glare (None without), at places (u, v) of the sheet."""
    rng = np.random.default_rng(holding.seed + 3)
    s = u * np.cos(holding.bend_angle) + v * np.sin(holding.bend_angle)
    shade = np.clip(1 + 2.2 * holding.bend * s + rng.normal(0, 0.12) * u + rng.normal(0, 0.1) * v, 0.5, 1.4)
    if not glare:
        return shade, None
    x, y = rng.uniform(-0.5, 0.5, 2) + Sway(rng, [0.06, 0.06])(t) * holding.shake
    angle, long, short = rng.uniform(0, np.pi), rng.uniform(0.2, 0.6), rng.uniform(0.08, 0.2)
    a, b = (u - x) * np.cos(angle) + (v - y) * np.sin(angle), (v - y) * np.cos(angle) - (u - x) * np.sin(angle)
    return shade, glare * np.exp(-((a / long) ** 2) - (b / short) ** 2)


def _before_surroundings(x: np.ndarray, distance: np.ndarray, holding: Holding, height: int, width: int) -> np.ndarray:
    """Put what is inside (coarse signed distance > 0) before a scene, with a soft shadow round it."""
    alpha = np.clip(upsample_nodes(distance, height, width) * np.float32(holding.fill) + np.float32(0.5), 0, 1)
    shadow = upsample_nodes(1 - 0.35 * np.exp(np.minimum(distance, 0) / (0.03 * width)), height, width)
    return cv2.blendLinear(x, _surroundings(holding.seed + 4, height, width), alpha, shadow * (1 - alpha))


def _thumbs(x: np.ndarray, read: np.ndarray, holding: Holding, margin: float) -> None:
    """A thumb or two that hold the sheet at its edges, in place."""
    height, width = x.shape[:2]
    rng = np.random.default_rng(holding.seed + 5)
    tone = np.array([0.78, 0.58, 0.47], np.float32) * rng.uniform(0.45, 1.1)
    for _ in range(int(rng.integers(0, 3))):
        side, level = rng.integers(2), rng.uniform(0.35, 0.95)
        angle, length, thick = rng.normal(0, 0.35), rng.uniform(0.04, 0.1), rng.uniform(0.035, 0.05)
        u, v = read[..., 0] / width, (read[..., 1] - level * height) / width
        u = (1 + margin - u) if side else (u + margin)
        along = np.cos(angle) * u + np.sin(angle) * v
        off = np.cos(angle) * v - np.sin(angle) * u
        distance = np.hypot(np.maximum(along - length, 0), off) - thick
        rows, columns = np.nonzero(upsample_nodes(distance, height, width) * width < 2)
        if len(rows) == 0:
            continue
        part = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        alpha = np.clip(0.5 - upsample_nodes(distance, height, width)[part] * width / 2, 0, 1)[..., None]
        round_off = np.clip(1.05 - 0.35 * (upsample_nodes(off, height, width)[part] / thick) ** 2, 0.3, 1.1)[..., None]
        x[part] += (tone * round_off - x[part]) * alpha


@lru_cache(maxsize=4)
def _room(seed: int) -> np.ndarray:
    """What a screen reflects: lamps and a window in a dark room, 160 x 160 x 3, 0..1."""
    rng = np.random.default_rng(seed)
    room = np.zeros((160, 160, 3), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(10, 130, 2)
        w, h = rng.uniform(10, 50, 2)
        tone = np.clip(rng.normal((1.0, 0.97, 0.92), 0.06), 0, 1) * rng.uniform(0.5, 1.0)
        corners = np.array([(x, y), (x + w, y + rng.normal(0, 4)), (x + w, y + h), (x, y + h + rng.normal(0, 4))])
        cv2.fillPoly(room, [corners.astype(np.int32)], [float(v) for v in tone])
    return cv2.GaussianBlur(room, (0, 0), float(rng.uniform(1.5, 7)))


def _reflection(holding: Holding, height: int, width: int, t: float) -> np.ndarray:
    """The room's mirror image, which slides against the screen while that moves."""
    move = Sway(np.random.default_rng(holding.seed + 6), [9.0, 9.0])(t) * holding.shake
    matrix = np.array([[130 / width, 0, 15 + move[0]], [0, 130 / height, 15 + move[1]]], np.float32)
    return cv2.warpAffine(_room(holding.seed + 7), matrix, (width, height),
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
