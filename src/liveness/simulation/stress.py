"""What can befall a video between the camera and the model: stressors, each at three severities.

    stress = Stress("jpeg", 2)
    worse = stress_frame(stress, [frame], Draws(seed, "7.mp4", stress), index=12, time=0.4)    # uint8 RGB HxWx3

A stressor changes the pixels of frames, or the frames that a video has (``keep_frames``). What is drawn at
random (a direction, an amount of noise, a print) follows from the seed, the video's file name, the
stressor and its severity alone: the same video is always stressed in the same way, whichever frames
are asked for and in whatever order. Nothing is read or written.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator

from liveness.base.errors import UserError
from liveness.frames.video import jpeg_round_trip
from liveness.simulation.attacks import ATTACKS, PrintAttack, ReplayAttack
from liveness.simulation.camera import draw_sensor_noise
from liveness.simulation.recompress import RECORDED_CRF, reencode

SEVERITIES = (1, 2, 3)
NEIGHBOURS = 2  # frames before a frame that are encoded with it
_PRESET = "veryfast"  # of libx264, for a video that is sent on


@dataclass(frozen=True)
class Stressor:
    """``values``: the parameter at severity 1, 2 and 3 (fewer where there are no grades)."""

    kind: str  # pixels | time | attack (only live videos, which become attacks)
    values: tuple[float, ...]
    text: str  # the parameter in words


STRESSORS = {
    "reencode": Stressor("pixels", (28, 34, 40), "H.264, crf {:g}"),
    "jpeg": Stressor("pixels", (60, 30, 12), "quality {:g}"),
    "downscale": Stressor("pixels", (0.5, 0.3, 0.18), "to {:.0%} of the side"),
    "crop": Stressor("pixels", (0.85, 0.7, 0.55), "{:.0%} of the sides left"),
    "blur": Stressor("pixels", (1.0, 2.0, 4.0), "sigma {:g} px of 400"),
    "noise": Stressor("pixels", (0.02, 0.05, 0.1), "deviation {:.0%}"),
    "cast": Stressor("pixels", (0.1, 0.2, 0.4), "strength {:g}"),
    "gamma": Stressor("pixels", (0.3, 0.6, 1.0), "|ln gamma| {:g}"),
    "contrast": Stressor("pixels", (0.75, 0.5, 0.3), "{:.0%} of the contrast left"),
    "rotation": Stressor("pixels", (4, 8, 16), "{:g} degrees"),
    "mirror": Stressor("pixels", (1,), "left and right exchanged"),
    "shorten": Stressor("time", (0.6, 0.35, 0.15), "{:.0%} of the duration left"),
    "drop": Stressor("time", (0.5, 0.75, 0.9), "{:.0%} of the frames lost"),
    "print": Stressor("attack", (1, 0.5, 0.25), "traces x {:g}"),
    "replay": Stressor("attack", (1, 0.5, 0.25), "traces x {:g}"),
}


@dataclass(frozen=True)
class Stress:
    """A stressor at a severity. ``Stress()`` is the clean video."""

    name: str = "clean"
    severity: int = 0

    @property
    def kind(self) -> str:
        return STRESSORS[self.name].kind if self.severity else "clean"

    @property
    def value(self) -> float:
        return STRESSORS[self.name].values[self.severity - 1] if self.severity else 0.0

    @property
    def parameters(self) -> str:
        return STRESSORS[self.name].text.format(self.value) if self.severity else ""


CLEAN = Stress()


def list_stresses(names: list[str], severities: list[int]) -> list[Stress]:
    """Every named stressor at every severity that it has; a UserError for a name or severity unknown here."""
    for name in names:
        if name not in STRESSORS:
            raise UserError(f"no stressor {name!r}; expected among {', '.join(STRESSORS)}")
    for severity in severities:
        if severity not in SEVERITIES:
            raise UserError(f"severity {severity}; expected 1 (mild), 2 or 3 (strong)")
    found = []
    for name in dict.fromkeys(names):
        grades = len(STRESSORS[name].values)
        # What has no grades is there once, whatever severities are asked for.
        found += [Stress(name, s) for s in dict.fromkeys(min(s, grades) for s in severities)]
    return found


@dataclass(frozen=True)
class Draws:
    """The random numbers of one video under one stress."""

    seed: int
    filename: str
    stress: Stress

    def video(self) -> Generator:
        """For what is one for all frames of the video."""
        return self._generator("video")

    def frame(self, index: int) -> Generator:
        """For what differs from frame to frame; ``index`` as in the untouched video."""
        return self._generator(str(index))

    def _generator(self, part: str) -> Generator:
        text = "\n".join((str(self.seed), self.filename, self.stress.name, str(self.stress.severity), part))
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        return np.random.default_rng(np.frombuffer(digest, np.uint32))


def keep_frames(
    stress: Stress, times: np.ndarray, duration: float, draws: Draws
) -> tuple[np.ndarray, np.ndarray, float]:
    """What is left of a video in time: (ascending indices of its frames, their times, its duration).

    times: seconds from 0, ascending. At least one frame is left.
    """
    left = np.arange(len(times))
    if stress.kind != "time" or len(times) < 2:
        return left, times, duration
    if stress.name == "drop":
        left = _drop_frames(len(times), stress.value, draws.video())
        return left, times[left], duration
    left = _cut_in_time(times, duration, stress.value, draws.video())
    return left, times[left] - times[left[0]], stress.value * duration


def _cut_in_time(times: np.ndarray, duration: float, share: float, rng: Generator) -> np.ndarray:
    """The frames of a part as long as ``share`` of the video, from a random start; at least one."""
    start = rng.uniform(0, 1 - share) * duration
    left = np.flatnonzero((times >= start) & (times < start + share * duration))
    return left if left.size else np.array([int(np.abs(times - start).argmin())])


def _drop_frames(count: int, share: float, rng: Generator) -> np.ndarray:
    """Which of ``count`` frames are left when a random ``share`` of them is lost; at least one."""
    return np.sort(rng.choice(count, max(1, round((1 - share) * count)), replace=False))


def stress_frame(stress: Stress, frames: list[np.ndarray], draws: Draws, index: int, time: float) -> np.ndarray:
    """The last of ``frames`` (uint8 RGB HxWx3) under ``stress``; those before it are its predecessors in time.

    ``index`` and ``time`` (s): its place in the video. Only re-encoding looks at the predecessors.
    Downscaling and cropping give a smaller frame; every other result has the frame's shape.
    """
    frame = frames[-1]
    if stress.kind in ("clean", "time"):
        return frame
    if stress.name == "reencode":
        return reencode(frames, int(stress.value), _PRESET)
    if stress.kind == "attack":
        return _recapture(stress.name, stress.value, frame, draws, (index, time))
    return np.ascontiguousarray(_PIXELS[stress.name](frame, stress.value, draws.video(), draws.frame(index)))


def _recapture(kind: str, traces: float, frame: np.ndarray, draws: Draws, at: tuple[int, float]) -> np.ndarray:
    """The frame printed, or played on a screen, and recorded by a second camera: uint8 of the same shape.

    ``traces`` scales what gives the attack away: 1 as ``simulation.attacks`` draws it; below 1 it is made
    with more care, and its edges are out of view. ``at``: index and time of the frame.
    """
    attack = ATTACKS[kind].draw(draws.video())
    if traces < 1:
        attack = _make_careful(attack, traces)
    index, time = at
    return reencode([attack.apply(frame, time, draws.frame(index))], sum(RECORDED_CRF) // 2, _PRESET)


def _make_careful(attack: PrintAttack | ReplayAttack, traces: float) -> PrintAttack | ReplayAttack:
    """The same attack with its traces scaled, and its edges out of view."""
    names = ("dots", "grain", "banding", "glare", "grid", "rows", "blue", "reflection", "black")
    less: dict = {name: traces * getattr(attack, name) for name in names if hasattr(attack, name)}
    if hasattr(attack, "gamut"):
        less["gamut"] = 1 - (1 - attack.gamut) * traces
    # The picture fills the view, held so straight that no edge shows.
    held = attack.holding
    tilt = (traces * held.tilt[0], traces * held.tilt[1])
    held = replace(held, fill=max(held.fill, 1.15), shift=(0.0, 0.0), tilt=tilt)
    held = replace(held, shake=traces * held.shake, turn=traces * held.turn, bend=traces * held.bend)
    return replace(attack, holding=held, **less)


def _jpeg(frame: np.ndarray, quality: float, video: Generator, each: Generator) -> np.ndarray:
    return jpeg_round_trip(frame, int(quality))


def _downscale(frame: np.ndarray, share: float, video: Generator, each: Generator) -> np.ndarray:
    height, width = frame.shape[:2]
    size = (max(16, round(share * width)), max(16, round(share * height)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _crop(frame: np.ndarray, share: float, video: Generator, each: Generator) -> np.ndarray:
    """A window of the frame that lies at most half way off the middle."""
    (height, width), place = frame.shape[:2], video.uniform(0.25, 0.75, 2)
    rows, columns = max(1, round(share * height)), max(1, round(share * width))
    top, left = round((height - rows) * place[0]), round((width - columns) * place[1])
    return frame[top : top + rows, left : left + columns]


def _blur(frame: np.ndarray, sigma: float, video: Generator, each: Generator) -> np.ndarray:
    sigma *= min(frame.shape[:2]) / 400
    return cv2.GaussianBlur(frame, (0, 0), sigma) if sigma > 0 else frame


def _noise(frame: np.ndarray, deviation: float, video: Generator, each: Generator) -> np.ndarray:
    noisy = frame + np.float32(255 * deviation) * draw_sensor_noise(frame.shape[0], frame.shape[1], each)
    return cv2.convertScaleAbs(np.maximum(noisy, 0))


def _cast(frame: np.ndarray, strength: float, video: Generator, each: Generator) -> np.ndarray:
    """A wrong white balance: a gain for each channel in a random direction, the brightness kept."""
    towards = video.normal(size=3)
    towards -= towards.mean()
    gains = np.exp(strength * towards / np.abs(towards).max())
    gains /= gains @ (0.299, 0.587, 0.114)
    tables = np.clip(np.arange(256)[:, None] * gains + 0.5, 0, 255).astype(np.uint8)
    return cv2.LUT(frame, tables[None])


def _gamma(frame: np.ndarray, strength: float, video: Generator, each: Generator) -> np.ndarray:
    """Darker or brighter, by chance."""
    gamma = np.exp(strength * video.choice((-1, 1)))
    return (255 * (np.arange(256) / 255) ** gamma + 0.5).astype(np.uint8)[frame]


def _contrast(frame: np.ndarray, share: float, video: Generator, each: Generator) -> np.ndarray:
    mean = float(frame.mean())
    table = np.clip(mean + share * (np.arange(256) - mean) + 0.5, 0, 255).astype(np.uint8)
    return table[frame]


def _rotation(frame: np.ndarray, degrees: float, video: Generator, each: Generator) -> np.ndarray:
    """About the middle, to either side by chance; corners are filled with the mirrored border."""
    height, width = frame.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees * int(video.choice((-1, 1))), 1)
    return cv2.warpAffine(frame, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _mirror(frame: np.ndarray, value: float, video: Generator, each: Generator) -> np.ndarray:
    return frame[:, ::-1]


_Pixels = Callable[[np.ndarray, float, Generator, Generator], np.ndarray]
_PIXELS: dict[str, _Pixels] = {
    "jpeg": _jpeg,
    "downscale": _downscale,
    "crop": _crop,
    "blur": _blur,
    "noise": _noise,
    "cast": _cast,
    "gamma": _gamma,
    "contrast": _contrast,
    "rotation": _rotation,
    "mirror": _mirror,
}
