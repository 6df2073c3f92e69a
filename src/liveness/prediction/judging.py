"""From the members' scores of a video to its row: calibrated, blended, held against limits and thresholds.

    row = make_row(job, loaded)                 of a job whose members have all scored (engine.py)

Writes nothing.
"""

from typing import TYPE_CHECKING

import numpy as np

from liveness.evaluation.combine import blend_rows, frames_to_video
from liveness.frames.notes import IMAGE, with_notes
from liveness.frames.views import VideoViews
from liveness.models.score import Job
from liveness.prediction.limits import exceeded_limits
from liveness.prediction.rows import NO_SCORE, Row

if TYPE_CHECKING:
    from liveness.prediction.engine import LoadedEnsemble


def is_open(job: Job[VideoViews], loaded: "LoadedEnsemble") -> bool:
    """Whether the members that have scored a video leave it to the others."""
    score = _blend_members(job, loaded)
    return not (score <= loaded.cascade.low or score >= loaded.cascade.high)  # nan is open too


def combine_frames(job: Job[VideoViews], loaded: "LoadedEnsemble") -> dict[str, float]:
    """The members' own scores of a video, frames combined, as they are before calibration; nan without a frame."""
    ways = {member.name: member.combine for member in loaded.members}
    return {name: float(frames_to_video(frames, ways[name])) for name, frames in job.scores.items()}


def _blend_members(job: Job[VideoViews], loaded: "LoadedEnsemble") -> float:
    """The score of a video by those members that were asked: calibrated and weighed; nan where none has one."""
    asked = [member for member in loaded.members if member.name in job.scores]
    scores = [loaded.operating.calibrate(m.name, frames_to_video(job.scores[m.name], m.combine)) for m in asked]
    return float(blend_rows(np.array([scores]), np.array([member.weight for member in asked]))[0])


def make_row(job: Job[VideoViews], loaded: "LoadedEnsemble") -> Row:
    """The row of a video that all members have scored that were to."""
    video, score = job.item, _blend_members(job, loaded)
    status, reason = _judge_status(job, loaded)
    amiss = exceeded_limits(loaded.operating.limits, video.measures)
    reason = "; ".join(filter(None, (reason, *amiss, loaded.operating.lost)))
    if not np.isfinite(score):
        score = NO_SCORE
    faces, most = (None if count < 0 else count for count in (video.faces, video.most_faces))
    several = [f"several_faces={most}"] if most and most > 1 else []
    reason = with_notes(reason, [*video.notes, *several])
    most_frames = max((int(np.isfinite(frames).sum()) for frames in job.scores.values()), default=0)
    if IMAGE in video.notes:  # all its frames are scored: a least number of them asks for nothing more
        most_frames = loaded.operating.least_frames
    decision = "abstain" if amiss else loaded.operating.decide(score, status, most_frames)
    milliseconds = video.milliseconds + job.milliseconds
    return Row(video.path.name, score, decision, status, reason, video.frames, faces, milliseconds, most)


def _judge_status(job: Job[VideoViews], loaded: "LoadedEnsemble") -> tuple[str, str]:
    """Status and reason of a video's row (prediction/rows.py)."""
    video = job.item
    if video.status not in ("ok", "partial"):
        return video.status, video.reason
    broken = [m.name for m in loaded.members if not np.isfinite(job.scores.get(m.name, 0.0)).all()]
    if broken:
        return "failed", f"no finite score from {', '.join(broken)}: damaged weights, or an overflow"
    without = [name for name, frames in job.scores.items() if not len(frames)]
    if without:
        others = len(job.scores) - len(without)
        extra = f"; scored by the {others} members that see the whole frame" if others else ""
        return "no_face", f"no face found in {video.frames} frames{extra}"
    return video.status, video.reason
