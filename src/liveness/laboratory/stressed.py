"""One video -> the views that each member needs, clean and under every stress, made in a worker process; their scores.

The video is decoded once. A stressed frame is treated like every frame at prediction: JPEG round trip, face
detection on the result, crop, resize. No worker imports torch.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from liveness.base.config import FramePlan
from liveness.base.errors import UserError
from liveness.frames.rules import NEWEST
from liveness.frames.views import VideoViews, ViewRequest, cut_requests, decode_by_version
from liveness.frames.workers import Failed
from liveness.simulation.stress import NEIGHBOURS, Draws, Stress, keep_frames, stress_frame

if TYPE_CHECKING:
    from liveness.frames.video import Decoded
    from liveness.models.batches import Batches
    from liveness.models.score import Job
    from liveness.prediction.engine import Member

_SECONDS, _GIB = 900.0, 4.0  # what one video may take under all stresses; see frames/workers.py

Stressed = tuple["StressTask", "dict[Stress, VideoViews] | Failed"]


@dataclass(frozen=True)
class StressTask:
    """A video, what its members need of it, and the stresses that it is put under."""

    path: Path
    wanted: tuple[ViewRequest, ...]
    stresses: tuple[Stress, ...]
    seed: int

    def draws(self, stress: Stress) -> Draws:
        return Draws(self.seed, self.path.name, stress)


def stress_video(task: StressTask) -> dict[Stress, VideoViews]:
    """The video's views under each stress. Never raises for the video's own faults."""
    from liveness.frames.video import Decoded, VideoError

    plans = [item.plan for item in task.wanted]
    found: dict[Stress, VideoViews] = {}
    try:
        for decoded, items in decode_by_version(list(task.wanted), lambda version: _decode(task, plans, version)):
            for stress in task.stresses:
                prepared = found.setdefault(stress, VideoViews(task.path, decoded.status, decoded.reason))
                times, duration, frames = _stressed(decoded, stress, plans, task.draws(stress))
                info = replace(decoded.info, frames=len(times), times=times, duration=duration)
                worse = Decoded(info, frames, decoded.status, decoded.reason, decoded.notes)
                cut_requests(worse, items, prepared)
                prepared.frames = len(frames)
    except VideoError as error:
        return {stress: VideoViews(task.path, "unreadable", str(error)) for stress in task.stresses}
    return found


def stress_videos(tasks: Iterable[StressTask], workers: int = 0) -> Iterator[Stressed]:
    """``stress_video`` in worker processes, 0 for one fewer than there are cores."""
    from liveness.base.machine import cores
    from liveness.frames.workers import run_tasks

    return run_tasks(stress_video, tasks, workers or max(1, cores() - 1), _SECONDS, _GIB)


def score_stressed(
    results: Iterable[Stressed],
    members_of: Callable[[str], list["Member"]],
    batches: "Batches",
) -> Iterator[tuple[str, Stress, dict[str, float]]]:
    """The results of many ``stress_video``: file name, stress, and each member's score, nan without one.

    members_of: file name -> its members, which are loaded.
    """
    from liveness.evaluation.combine import frames_to_video
    from liveness.models.score import Job, score_jobs
    from liveness.prediction.engine import requests_for

    def jobs() -> Iterator["Job[tuple[str, Stress]]"]:
        for task, found in results:
            name = task.path.name
            if isinstance(found, Failed):
                print(f"warning: {name}: {found.reason}", file=sys.stderr)
                found = {stress: VideoViews(task.path, "crashed", found.reason) for stress in task.stresses}
            for stress, video in found.items():
                yield Job((name, stress), requests_for(members_of(name), video))

    for job in score_jobs(jobs(), batches):
        name, stress = job.item
        yield name, stress, {m.name: frames_to_video(job.scores[m.name], m.combine) for m in members_of(name)}


def read_stressed_frames(path: Path, plan: FramePlan, stresses: list[Stress], seed: int) -> Iterator[np.ndarray]:
    """The first frame of the plan under each stress (uint8 RGB): for people to look at."""
    from liveness.frames.video import VideoError

    task = StressTask(path, (), tuple(stresses), seed)
    try:
        decoded = _decode(task, [plan], NEWEST)
    except VideoError as error:
        raise UserError(f"{path}: {error}; expected a video that can be read") from error
    for stress in stresses:
        frames = _stressed(decoded, stress, [plan], task.draws(stress))[2]
        yield frames[next(iter(frames))]


def _decode(task: StressTask, plans: list[FramePlan], version: int) -> "Decoded":
    """The frames that any of the stresses needs, and those before them that re-encoding needs."""
    from liveness.frames.video import choose_frames, probe, read_frames

    extra: set[int] = set()
    info = probe(task.path, version)
    for stress in task.stresses:
        left, times, duration = keep_frames(stress, info.times, info.duration, task.draws(stress))
        wanted = {int(left[i]) for plan in plans for i in choose_frames(plan, times, duration)}
        if stress.kind == "time":
            extra |= wanted
        elif stress.name == "reencode":
            extra |= {k for i in wanted for k in range(max(0, i - NEIGHBOURS), i)}
    if extra:
        # Positions are what a plan has to name frames by: each is exactly at its frame's time.
        shares = [float(info.times[i]) / (info.duration or 1.0) for i in sorted(extra)]  # 0 s: a still image
        plans = [*plans, FramePlan(plan="positions", positions=shares)]
    return read_frames(task.path, plans, None, version=version)


def _stressed(
    decoded: "Decoded", stress: Stress, plans: list[FramePlan], draws: Draws
) -> tuple[np.ndarray, float, dict[int, np.ndarray]]:
    """The stressed video: its frames' times, its duration, and those of its frames that the plans choose."""
    from liveness.frames.video import choose_frames

    info, there = decoded.info, np.array(sorted(decoded.frames))
    left, times, duration = keep_frames(stress, info.times, info.duration, draws)
    frames: dict[int, np.ndarray] = {}
    for place in dict.fromkeys(i for plan in plans for i in choose_frames(plan, times, duration)):
        # A damaged file can decode to fewer frames than it announced: then the nearest one stands in.
        index = int(left[place])
        index = index if index in decoded.frames else int(there[np.abs(there - index).argmin()])
        before = [decoded.frames[i] for i in range(index - NEIGHBOURS, index) if i in decoded.frames]
        frames[place] = stress_frame(stress, [*before, decoded.frames[index]], draws, index, float(info.times[index]))
    return times, duration, frames
