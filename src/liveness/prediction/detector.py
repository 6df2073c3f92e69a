"""An exported ensemble from Python: loaded once, then clips, images and frames to rows.

    from liveness import Detector

    with Detector("weights/demo/exported/demo") as detector:
        row = detector.score("clip.mp4")            # row.score, row.decision, row.reason, row.members, row.seen, ...
        row = detector.score_frames(frames)         # uint8 RGB, T x H x W x 3

``score`` is ``prepare`` (decoding, in a process of its own that may die) and ``judge`` (the models, in this process).
Who decodes elsewhere (``prepare_task`` of frames/views.py with the requests ``detector.wanted``) calls ``judge`` alone.
All methods may be called from several threads. Imports neither torch nor pandas; writes nothing.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from liveness.base.config import FramePlan
from liveness.base.errors import UserError
from liveness.frames.display import MAX_PIXELS
from liveness.frames.hints import list_hints
from liveness.frames.video import take_frames
from liveness.frames.views import SeenFrame, VideoViews, ViewRequest, prepare_frames
from liveness.prediction.engine import decode_ahead, load_weights, run_members
from liveness.prediction.exported import read_exported
from liveness.prediction.judging import combine_frames, make_row
from liveness.prediction.rows import Row


@dataclass
class DetailedRow(Row):
    """A row of predictions.csv with what led to it.

    members: each member's own score, before calibration (nan: it saw no face; a member that a cascade did not ask is
    not there). threshold_interval: what holds the threshold; a score inside is not decided on. seen: the frames that
    were scored, with boxes and a small picture. measures: medians of frames/quality.py, None without a face. hints:
    what would make a better picture, as words (frames/hints.py).
    """

    members: dict[str, float] = field(default_factory=dict)
    threshold: float = 0.5
    threshold_interval: tuple[float, float] = (0.5, 0.5)
    seen: list[SeenFrame] = field(default_factory=list)
    measures: dict[str, float] | None = None
    hints: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: without the pictures' bytes, and None where a member has no score."""
        values = asdict(self)
        values["members"] = {name: score if np.isfinite(score) else None for name, score in self.members.items()}
        values["threshold_interval"] = list(self.threshold_interval)
        for one in values["seen"]:
            del one["picture"]
        return values


class LivenessDetector:
    """``liveness.Detector``: an exported ensemble, ready to score."""

    def __init__(self, folder: Path | str, runtime: str = "onnxruntime", point: str = "eer") -> None:
        """folder: of ``liveness export``; runtime: onnxruntime or openvino; point: the operating point that decides.

        UserError, one line, where the folder is damaged, newer than this code, or the library is not installed.
        """
        described = read_exported(Path(folder), point, runtime)
        members = [replace(m, wanted=replace(m.wanted, measured=True, shown=True)) for m in described.members]
        self._cutting = threading.Lock()
        self._loaded = load_weights(replace(described, members=members))
        self.name, self.data, self.runtime, self.operating = (
            described.name,
            described.data,
            runtime,
            described.operating,
        )

    @property
    def wanted(self) -> list[ViewRequest]:
        """What the members need of a video."""
        return self._loaded.wanted()

    @property
    def threads(self) -> int:
        """How many passes through a member go on side by side."""
        return self._loaded.threads

    def score(self, path: Path | str) -> DetailedRow:
        """The row of a video or a still image; whatever is wrong with it is its status and its reason."""
        return self.judge(self.prepare(path))

    def score_all(self, paths: Iterable[Path | str], workers: int = 0) -> Iterator[DetailedRow]:
        """A row per path as they get done, several decoded at a time (``workers``: 0 = one per core)."""
        for views in decode_ahead([Path(path) for path in paths], self.wanted, workers):
            yield self.judge(views)

    def score_frames(self, frames: np.ndarray, fps: float | None = None, name: str = "frames") -> DetailedRow:
        """The row of upright frames, uint8 RGB, T x H x W x 3 (or H x W x 3: a still image).

        Without ``fps`` each of them is scored; with it they are a whole clip of so many frames a second, of which the
        recipes' own are. A UserError for another array. Runs in this process.
        """
        frames = _check_frames(frames)
        if fps is not None and not 0 < fps < float("inf"):
            raise UserError(f"fps={fps}: expected frames a second, above 0")
        wanted = self.wanted if fps else [replace(one, plan=FramePlan(plan="all")) for one in self.wanted]
        with self._cutting:  # a face detector serves one thread at a time
            views = prepare_frames(name, take_frames(frames, fps or 25.0), wanted)
        return self.judge(views)

    def prepare(self, path: Path | str) -> VideoViews:
        """A file, decoded and cut in a process of its own with limits of time and memory; ``crashed`` where it dies."""
        (views,) = decode_ahead([Path(path)], self.wanted, 1)
        return views

    def judge(self, views: VideoViews) -> DetailedRow:
        """The row of a prepared video."""
        started = time.perf_counter()
        (job,) = run_members([views], self._loaded)
        row = make_row(job, self._loaded)
        row.milliseconds = views.milliseconds + 1000 * (time.perf_counter() - started)
        operating = self.operating
        return DetailedRow(
            **asdict(row),
            members=combine_frames(job, self._loaded),
            threshold=operating.threshold,
            threshold_interval=(operating.low, operating.high),
            seen=views.seen,
            measures=views.measures,
            hints=list_hints(views),
        )

    def close(self) -> None:
        """Give the scoring threads back."""
        self._loaded.close()

    def __enter__(self) -> "LivenessDetector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_frames(frames: np.ndarray) -> np.ndarray:
    found = np.asarray(frames)
    if found.ndim == 3:
        found = found[None]
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != 3 or 0 in found.shape:
        raise UserError(
            f"frames of {found.dtype}, {' x '.join(map(str, found.shape))}; "
            "expected uint8 RGB, T x H x W x 3 or H x W x 3"
        )
    if found.shape[1] * found.shape[2] > MAX_PIXELS:
        raise UserError(f"frames of {found.shape[2]} x {found.shape[1]}; expected at most {MAX_PIXELS} pixels")
    return found
