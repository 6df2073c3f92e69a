"""A scorer for tests of the service around it: the mean of the views, in no time, and clips to send.

python tests/service_scorer.py PORT [LIMIT=VALUE ...]        serve with it
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from liveness.base.config import Detector, FramePlan, View
from liveness.frames.hints import list_hints
from liveness.frames.views import VideoViews, ViewRequest, make_request
from liveness.prediction.detector import DetailedRow
from liveness.prediction.operating import Operating
from liveness.service.decoding import ClipTask, TooMuch, decode_clip

THREE = FramePlan(plan="even", count=3)


class MeanScorer:
    """Two members, of a face and of the whole frame, whose score is their views' mean grey over 255."""

    def __init__(self) -> None:
        self.name = "means"
        self.operating = Operating(0.4, 0.35, 0.45, "a test", point="eer")
        made = {kind: make_request(THREE, View(kind=kind, size=32), Detector(), 95) for kind in ("face", "frame")}
        self._wanted = {kind: replace(item, measured=True, shown=True) for kind, item in made.items()}

    @property
    def wanted(self) -> list[ViewRequest]:
        return list(self._wanted.values())

    def judge(self, views: VideoViews) -> DetailedRow:
        found = {kind: views.views.get(item.key) for kind, item in self._wanted.items()}
        scores = {kind: np.nan if part is None else float(part.mean() / 255) for kind, part in found.items()}
        status = "no_face" if np.isnan(scores["face"]) else views.status
        score = float(np.nanmean(list(scores.values())))
        decision = self.operating.decide(score, status, views.frames)
        fixed = ("", score, decision, status, views.reason, views.frames, views.faces, views.milliseconds)
        interval, hints = (self.operating.low, self.operating.high), list_hints(views)
        seen, measures = views.seen, views.measures
        return DetailedRow(*fixed, views.most_faces, scores, self.operating.threshold, interval, seen, measures, hints)


def portrait_clip(path: Path, frames: int = 12, turn: int = 0, level: float = 1.0, side: int = 240) -> Path:
    """An mp4 of a face that moves a little; ``turn``: in quarters, counterclockwise; ``level``: times brightness."""
    import av
    from odd_clips import portrait

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 320, "yuv420p"
        for number in range(frames):
            picture = np.full((320, 320, 3), 90, np.uint8)
            at = (320 - side) // 2 + number % 3
            picture[at : at + side, at : at + side] = portrait(side)[: 320 - at, : 320 - at]
            picture = np.rot90((picture * level).astype(np.uint8), turn)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def harm(task: ClipTask) -> VideoViews | TooMuch:
    """In a worker: dies, hangs, eats memory or waits for a file where the clip says so."""
    words = task.path.read_bytes()[:200]
    if words == b"die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if words == b"hang":
        time.sleep(60)
    if words == b"eat":
        bytearray(30 << 30)
    if words.startswith(b"wait"):
        while not os.path.exists(words[4:]):
            time.sleep(0.01)
    if words == b"once" and not (task.path.parent / "again").exists():
        (task.path.parent / "again").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_clip(task)


if __name__ == "__main__":
    from liveness.base.errors import run
    from liveness.service.app import make_app
    from liveness.service.server import run_server
    from liveness.service.settings import ServiceLimits, read_token

    given = {name: float(value) for name, _, value in (word.partition("=") for word in sys.argv[2:])}
    types = {name: type(value) for name, value in vars(ServiceLimits()).items()}
    chosen = ServiceLimits(**{name: types[name](value) for name, value in given.items()})
    run(
        lambda: run_server(
            make_app(MeanScorer(), chosen, read_token("127.0.0.1")), "127.0.0.1", int(sys.argv[1]), chosen
        )
    )
