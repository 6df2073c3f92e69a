"""Videos -> frame scores -> rows: the engine behind predict.sh, the notebook and ``liveness.predict.score_videos``.

    loaded = load_members(load_ensemble("demo"))
    row = score_one(Path("clips/7.mp4"), loaded)
    for row in score_videos(find_videos(Path("clips")), loaded): ...

Worker processes decode ahead while the models score; each video is decoded once for all members.
``read_ensemble`` needs only what the weights' files say about themselves, so that decoding can begin
while ``load_weights`` still imports torch and builds the models.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from liveness.base import launch
from liveness.base.compose import names
from liveness.base.config import Cascade, Ensemble
from liveness.base.errors import UserError
from liveness.frames.notes import with_notes
from liveness.frames.views import Prepared, Wanted, prepare_task, wanted_of
from liveness.frames.workers import Failed, run_tasks
from liveness.members.names import member_name, operating_path, parse_recipe_fold, weights_path
from liveness.prediction import memory
from liveness.prediction.operating import Operating, read_operating
from liveness.prediction.ready import WeightsMissing
from liveness.prediction.rows import NO_SCORE, Row

SECONDS, GIB = 120.0, 4.0  # what one video may take to decode; see frames/workers.py
# While the members take turns, the videos between two rows on the disk: at most so many, and so many bytes of views.
TURN, CHUNK = 100, 1 << 30
MODES = ("auto", "resident", "turns")


@dataclass
class Member:
    """A model with all that scoring with it takes. ``scorer``: a model.score.Scorer once it is loaded."""

    name: str
    weight: float
    wanted: Wanted
    combine: str
    path: Path
    amp: bool
    scorer: Any = None


@dataclass
class LoadedEnsemble:
    """``lanes`` (models/score.py) stand once the weights are loaded; None before."""

    name: str
    members: list[Member]
    operating: Operating
    cascade: Cascade = field(default_factory=Cascade)
    device: Any = None
    threads: int = 1
    resident: bool = True
    lanes: Any = None

    def wanted(self) -> list[Wanted]:
        """What the members need of a video, equal needs once."""
        return list({member.wanted.key: member.wanted for member in self.members}.values())

    def first(self) -> list[Member]:
        """The members that score every video: those of the cascade, or all."""
        names = {member_name(*parse_recipe_fold(entry, "cascade.first")) for entry in self.cascade.first}
        return [member for member in self.members if not names or member.name in names]

    def close(self) -> None:
        if self.lanes is not None:
            self.lanes.close()


# --- loading ---------------------------------------------------------------------------------------


def load_members(ensemble: Ensemble, data: str = "", memory: str = "resident", point: str = "eer") -> LoadedEnsemble:
    """An ensemble ready to score; a UserError naming all files that are missing.

    memory: ``resident`` (all members at once), ``turns`` (one at a time) or ``auto`` (turns where the
    others do not fit); point: the operating point that decides (prediction/operating.py).
    """
    return load_weights(read_ensemble(ensemble, data, point), memory)


def read_ensemble(ensemble: Ensemble, data: str = "", point: str = "eer") -> LoadedEnsemble:
    """An ensemble by its files' own descriptions, checked; no weights are read yet."""
    from liveness.members.ensembles import in_weights
    from liveness.members.weights import describe_member

    data = data or ensemble.data
    ensemble = in_weights(ensemble, data)
    paths = {(m.recipe, m.fold): weights_path(data, m.recipe, m.fold) for m in ensemble.members}
    missing = [path for path in paths.values() if not path.is_file()]
    if missing:
        raise WeightsMissing(missing, ensemble.name, data)
    members, hashes, digests = [], [], {}
    for member in ensemble.members:
        path = paths[member.recipe, member.fold]
        description = describe_member(path)
        members.append(_described(path, description, member.recipe, member.fold, member.weight))
        hashes.append(str(description.get("data_hash") or ""))
        if digest := description.get("weights_sha256"):
            digests[members[-1].name] = digest
    of_data = hashes[0] if len(set(hashes)) == 1 else "members of different data"
    weights = {member.name: member.weight for member in members}
    if point != "eer" and ensemble.cascade.first:
        raise UserError(
            f"--point {point}: with a cascade only eer; its bounds were chosen around that threshold, and what they "
            "decide never reaches the other members"
        )
    expected = ensemble.calibration if any(hashes) and ensemble.name in names("ensemble") else ""
    operating = read_operating(
        operating_path(data, ensemble.name), list(weights), of_data, point, weights, digests, expected
    )
    return LoadedEnsemble(ensemble.name, members, operating, ensemble.cascade)


def _described(path: Path, description: dict, recipe: str, fold: int, weight: float) -> Member:
    from liveness.base.files import sha256_of
    from liveness.frames.contract import read_contract
    from liveness.frames.faces import detector_path

    made_as = description["recipe"]["name"]
    if made_as != recipe or description["fold"] != fold:
        raise UserError(
            f"{path}: holds {made_as} fold {description['fold']}, expected {recipe} fold {fold}; "
            "a file of another member lies under this name"
        )
    contract = description["contract"]
    plan, view, detector = read_contract(contract, str(path))
    if view.kind == "face" and contract["detector_sha256"] != sha256_of(detector_path()):
        raise UserError(f"{path}: made with another face detector than {detector_path().name} of this environment")
    wanted = wanted_of(plan, view, detector, contract["jpeg_quality"], contract["version"])
    amp = description["recipe"]["train"]["amp"]
    return Member(member_name(recipe, fold), weight, wanted, contract["combine"], path, amp)


def load_weights(loaded: LoadedEnsemble, mode: str = "resident") -> LoadedEnsemble:
    """Take the device and, unless the members are to take turns, build every model."""
    from liveness.models.score import lanes_of, pick_device, share_of_cores, use_all_cores

    ranks = launch.local_world()
    use_all_cores(ranks)
    loaded.device, loaded.threads = pick_device(launch.local_rank()), share_of_cores(ranks)
    sizes = [memory.taken(member.path, loaded.device, member.amp) for member in loaded.members]
    loaded.resident = mode == "resident" or (
        mode == "auto" and memory.fits(sizes, loaded.device, ranks, loaded.threads)
    )
    for member in loaded.members if loaded.resident else ():
        member.scorer = _scorer(member, loaded.device)
    loaded.lanes = lanes_of(loaded.device, loaded.threads)
    return loaded


def _scorer(member: Member, device: Any) -> Any:
    from liveness.members.weights import load_member
    from liveness.models.score import Scorer, halve

    model, _ = load_member(member.path)
    if device.type == "cuda" and member.amp:
        halve(model)
    return Scorer(model, device, member.amp)


# --- scoring ---------------------------------------------------------------------------------------


def score_one(path: Path, loaded: LoadedEnsemble) -> Row:
    """One video's row, the same as among many. Its milliseconds are the decoding (in a worker that may
    die) and then the time from the views to the score; starting that worker is not in them."""
    (prepared,) = decode_ahead([path], loaded.wanted(), 1)
    started = time.perf_counter()
    row = score_video(prepared, loaded)
    return replace(row, milliseconds=prepared.milliseconds + 1000 * (time.perf_counter() - started))


def score_videos(paths: list[Path], loaded: LoadedEnsemble, workers: int = 0) -> Iterator[Row]:
    """Score videos; yields one row for each path, in the given order, whatever happens to it.

    ``workers``: decoding processes; 0 = one per core.
    """
    rows: dict[Path, Row] = {}
    order = iter(paths)
    due = next(order, None)
    once = list(dict.fromkeys(paths))
    for prepared, row in score_prepared(decode_ahead(once, loaded.wanted(), workers), loaded):
        rows[prepared.path] = row
        while due in rows:
            yield replace(rows[due])
            due = next(order, None)


def decode_ahead(paths: list[Path], wanted: list[Wanted], workers: int = 0) -> Iterator[Prepared]:
    """``prepare`` every video in worker processes, which begin at once; yields them as they get done.

    A video that kills its worker, hangs or eats its memory is tried once more when all others are
    done, alone; then it is given up.
    """
    tasks = ((path, wanted) for path in paths)
    return _decoded(run_tasks(prepare_task, tasks, workers, SECONDS, GIB), wanted)


def _decoded(results: Iterator[tuple[Any, Any]], wanted: list[Wanted]) -> Iterator[Prepared]:
    failed: list[Path] = []
    for (path, _), result in results:
        if isinstance(result, Failed):
            failed.append(path)
        else:
            yield result
    for (path, _), result in run_tasks(prepare_task, ((p, wanted) for p in failed), 1, SECONDS, GIB):
        yield Prepared(path, "crashed", f"{result.reason}, twice") if isinstance(result, Failed) else result


def score_video(prepared: Prepared, loaded: LoadedEnsemble) -> Row:
    """All members' scores of one prepared video, blended into its row."""
    ((_, row),) = score_prepared([prepared], loaded)
    return row


def score_prepared(videos: Iterable[Prepared], loaded: LoadedEnsemble) -> Iterator[tuple[Prepared, Row]]:
    """Score prepared videos, several at a time; yields each with its row as it gets done."""
    for video in (_resident if loaded.resident else _in_turns)(videos, loaded):
        yield video.prepared, _row(video, loaded)


@dataclass
class _Video:
    """A video on its way through the members."""

    prepared: Prepared
    scores: dict[str, float] = field(default_factory=dict)  # member -> video score, nan without one
    tickets: dict[str, Any] = field(default_factory=dict)  # member -> future of its views' scores
    most_frames: int = 0  # the most that any member scored
    broken: list[str] = field(default_factory=list)  # members that gave a view no finite score
    milliseconds: float = 0.0

    def ready(self) -> bool:
        return all(future.done() for future in self.tickets.values())


def _resident(videos: Iterable[Prepared], loaded: LoadedEnsemble) -> Iterator[_Video]:
    """Every video through the first members at once, and through the others if those leave it open."""
    waiting: deque[_Video] = deque()
    for prepared in videos:
        video = _Video(prepared)
        _submit(video, loaded.first(), loaded.lanes)
        waiting.append(video)
        yield from _advance(waiting, loaded)
        while len(waiting) > loaded.lanes.ahead:
            _await(waiting[0], loaded.lanes)
            yield from _advance(waiting, loaded)
    while waiting:
        _await(waiting[0], loaded.lanes)
        yield from _advance(waiting, loaded)


def _advance(waiting: deque[_Video], loaded: LoadedEnsemble) -> Iterator[_Video]:
    """Take what is done out of ``waiting``; videos that are still open go on to the other members."""
    for video in list(waiting):
        if not video.ready():
            continue
        _collect(video, loaded)
        rest = [member for member in loaded.members if member.name not in video.scores]
        if rest and _open(video, loaded):
            _submit(video, rest, loaded.lanes)
        else:
            waiting.remove(video)
            yield video


def _in_turns(videos: Iterable[Prepared], loaded: LoadedEnsemble) -> Iterator[_Video]:
    """Chunk by chunk: a member is loaded, scores the chunk, and makes room for the next one."""
    first = loaded.first()
    order = [*first, *(member for member in loaded.members if member not in first)]
    for chunk in _chunks(videos):
        left = chunk
        for number, member in enumerate(order):
            if number == len(first):  # once: what the others say must not close a video for those after them
                left = [video for video in chunk if _open(video, loaded)]
            if left:
                _one_turn(left, member, loaded)
        yield from chunk


def _one_turn(videos: list[_Video], member: Member, loaded: LoadedEnsemble) -> None:
    from liveness.models.score import lanes_of

    loads = replace(member, scorer=_scorer(member, loaded.device))
    with lanes_of(loaded.device, loaded.threads) as lanes:
        waiting: deque[_Video] = deque()
        for video in videos:
            _submit(video, [loads], lanes)
            waiting.append(video)
            if len(waiting) > lanes.ahead:
                _await(waiting[0], lanes)
            while waiting and waiting[0].ready():
                _collect(waiting.popleft(), loaded)
        lanes.flush()
        while waiting:
            _await(waiting[0], lanes)
            _collect(waiting.popleft(), loaded)


def _chunks(videos: Iterable[Prepared]) -> Iterator[list[_Video]]:
    chunk, size = [], 0
    for prepared in videos:
        chunk.append(_Video(prepared))
        size += sum(views.nbytes for views in prepared.views.values())
        if size >= CHUNK or len(chunk) == TURN:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _submit(video: _Video, members: list[Member], lanes: Any) -> None:
    """Send a video's views on to some members; those of one view share a batch."""
    by_view: dict[str, list[Member]] = {}
    for member in members:
        by_view.setdefault(member.wanted.key, []).append(member)
    started = time.perf_counter()
    for key, group in by_view.items():
        if key not in video.prepared.views:
            video.scores.update({member.name: float("nan") for member in group})
            continue
        views = _tensors(video.prepared.views[key], group[0].wanted)
        futures = lanes.submit([member.scorer for member in group], views)
        video.tickets.update({member.name: future for member, future in zip(group, futures, strict=True)})
    video.milliseconds += 1000 * (time.perf_counter() - started)


def _await(video: _Video, lanes: Any) -> None:
    for future in video.tickets.values():
        lanes.result(future)


def _collect(video: _Video, loaded: LoadedEnsemble) -> None:
    """The members' scores of views -> their calibrated scores of the video."""
    from liveness.evaluation.combine import frames_to_video
    from liveness.models.score import frame_scores

    for member in loaded.members:
        future = video.tickets.pop(member.name, None)
        if future is None:
            continue
        done = future.result()
        frames = frame_scores(done.scores, len(video.prepared.frames_of[member.wanted.key]))
        if not np.isfinite(frames).all():
            video.broken.append(member.name)
        score = frames_to_video(frames, member.combine)
        video.scores[member.name] = loaded.operating.calibrate(member.name, score)
        video.most_frames = max(video.most_frames, int(np.isfinite(frames).sum()))
        video.milliseconds += done.milliseconds


def _open(video: _Video, loaded: LoadedEnsemble) -> bool:
    """Whether the members that have scored a video leave it to the others."""
    score = _blend(video, loaded)
    return not (score <= loaded.cascade.low or score >= loaded.cascade.high)  # nan is open too


def _blend(video: _Video, loaded: LoadedEnsemble) -> float:
    import pandas as pd

    from liveness.evaluation.combine import blend

    weights = {member.name: member.weight for member in loaded.members if member.name in video.scores}
    return float(blend(pd.DataFrame([video.scores])[list(weights)], weights).iloc[0])


def _row(video: _Video, loaded: LoadedEnsemble) -> Row:
    prepared, score = video.prepared, _blend(video, loaded)
    status, reason = _status(video, loaded)
    reason = "; ".join(filter(None, (reason, loaded.operating.lost)))
    if not np.isfinite(score):
        score = NO_SCORE
    faces, most = (None if count < 0 else count for count in (prepared.faces, prepared.most_faces))
    several = [f"several_faces={most}"] if most and most > 1 else []
    reason = with_notes(reason, [*prepared.notes, *several])
    decision = loaded.operating.decide(score, status, video.most_frames)
    milliseconds = prepared.milliseconds + video.milliseconds
    return Row(prepared.path.name, score, decision, status, reason, prepared.frames, faces, milliseconds, most)


def _tensors(views: np.ndarray, wanted: Wanted) -> Any:
    from liveness.frames.contract import stack, to_tensor

    return stack([to_tensor(view, wanted.view) for view in views])


def _status(video: _Video, loaded: LoadedEnsemble) -> tuple[str, str]:
    prepared = video.prepared
    if prepared.status not in ("ok", "partial"):
        return prepared.status, prepared.reason
    if video.broken:
        return "failed", f"no finite score from {', '.join(video.broken)}: damaged weights, or an overflow"
    key_of = {member.name: member.wanted.key for member in loaded.members}
    without = [name for name in video.scores if key_of[name] not in prepared.views]
    if without:
        others = len(video.scores) - len(without)
        extra = f"; scored by the {others} members that see the whole frame" if others else ""
        return "no_face", f"no face found in {prepared.frames} frames{extra}"
    return prepared.status, prepared.reason
