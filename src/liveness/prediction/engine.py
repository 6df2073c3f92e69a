"""Videos -> frame scores -> rows: the engine behind predict.sh, the notebook and ``liveness.predict.score_videos``.

    loaded = load_members(load_ensemble("demo"))
    row = score_one(Path("clips/7.mp4"), loaded)
    for row in score_paths(find_videos(Path("clips")), loaded): ...

Worker processes decode ahead while the models score; each video is decoded once for all members.
``read_ensemble`` needs only what the weights' files say about themselves, so that decoding can begin
while ``load_weights`` still imports torch and builds the models.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from liveness.base import launch
from liveness.base.compose import names
from liveness.base.config import Cascade, Ensemble
from liveness.base.errors import UserError
from liveness.frames.views import VideoViews, ViewRequest, make_request, prepare_task
from liveness.frames.workers import Failed, KeptWorker, run_tasks
from liveness.members.names import member_name, operating_path, parse_recipe_fold, shipped_operating, weights_path
from liveness.models.backend import HOST, TORCH, Backend, Device
from liveness.models.batches import Batches, batches_for
from liveness.models.device import share_of_cores
from liveness.models.score import Job, Request, score_jobs
from liveness.prediction import memory
from liveness.prediction.inputs import note
from liveness.prediction.judging import combine_frames, is_open, make_row
from liveness.prediction.operating import Operating, read_operating
from liveness.prediction.ready import WeightsMissing
from liveness.prediction.rows import Row

DECODE_SECONDS, DECODE_GIB = 120.0, 4.0  # what one video may take; see frames/workers.py
# While the members take turns, the videos between two rows on the disk: at most so many, and so many bytes of views.
TURN_VIDEOS, TURN_BYTES = 100, 1 << 30

VideoJob = Job[VideoViews]


@dataclass
class Member:
    """A model with all that scoring with it takes. ``amp``: in mixed precision on a GPU; ``exact``: in float32 there,
    without TF32; ``runtime``: what computes, one of models/exported.py for a file that was exported; ``backend``: the
    model itself, once it is loaded."""

    name: str
    weight: float
    wanted: ViewRequest
    combine: str
    path: Path
    amp: bool
    exact: bool = False
    runtime: str = TORCH
    backend: Backend | None = None

    def loaded(self) -> Backend:
        """``backend``, where it has to be there."""
        if self.backend is None:
            raise RuntimeError(f"{self.name}: its weights are not loaded")
        return self.backend


@dataclass
class EnsembleDescription:
    """An ensemble as its files describe it: what it needs of a video, and how its scores become a decision."""

    name: str
    members: list[Member]
    operating: Operating
    cascade: Cascade = field(default_factory=Cascade)
    data: str = ""  # the members were trained on this set

    @property
    def runtime(self) -> str:
        """What computes: torch, or for an exported ensemble one of models/exported.py."""
        return self.members[0].runtime

    def wanted(self) -> list[ViewRequest]:
        """What the members need of a video, equal needs once."""
        return list({member.wanted.key: member.wanted for member in self.members}.values())

    def first(self) -> list[Member]:
        """The members that score every video: those of the cascade, or all."""
        names = {member_name(*parse_recipe_fold(entry, "cascade.first")) for entry in self.cascade.first}
        return [member for member in self.members if not names or member.name in names]


@dataclass(kw_only=True)
class LoadedEnsemble(EnsembleDescription):
    """An ensemble that is ready to score. ``resident``: all members are loaded; else they take turns."""

    device: Device
    threads: int  # forward passes side by side on the CPU
    resident: bool
    batches: Batches

    def take_turns(self) -> None:
        """From now on one member at a time: the device's memory has not sufficed for all of them."""
        note(
            "out of GPU memory: from here on the members take turns, which gives the same scores and is slower "
            "(--memory turns begins so)"
        )
        self.batches.close()
        self.members = [replace(member, backend=None) for member in self.members]
        self.resident, self.batches = False, batches_for(self.device, self.threads)
        memory.give_back()

    def close(self) -> None:
        """Give the scoring threads back."""
        self.batches.close()

    def __enter__(self) -> "LoadedEnsemble":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- loading ---------------------------------------------------------------------------------------


def load_members(ensemble: Ensemble, data: str = "", memory: str = "resident", point: str = "eer") -> LoadedEnsemble:
    """An ensemble ready to score; a UserError naming all files that are missing.

    memory: ``resident`` (all members at once), ``turns`` (one at a time) or ``auto`` (turns where the
    others do not fit); point: the operating point that decides (prediction/operating.py).
    """
    return load_weights(read_ensemble(ensemble, data, point), memory)


def read_ensemble(ensemble: Ensemble, data: str = "", point: str = "eer") -> EnsembleDescription:
    """An ensemble by its files' own descriptions, checked; no weights are read yet."""
    from liveness.members.ensembles import in_weights
    from liveness.members.weights import describe_member

    data = data or ensemble.data
    ensemble = in_weights(ensemble, data)
    paths = {(m.recipe, m.fold): weights_path(data, m.recipe, m.fold) for m in ensemble.members}
    missing = [path for path in paths.values() if not path.is_file()]
    if missing:
        raise WeightsMissing(missing, ensemble.name, data)
    members: list[Member] = []
    hashes: list[str] = []
    digests: dict[str, str] = {}
    for member in ensemble.members:
        path = paths[member.recipe, member.fold]
        description = describe_member(path)
        members.append(_describe(path, description, member.recipe, member.fold, member.weight))
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
    if shipped_operating(data, ensemble.name):
        expected = "platt"
    operating = read_operating(
        operating_path(data, ensemble.name), list(weights), of_data, point, weights, digests, expected
    )
    if operating.limits:
        members = [replace(m, wanted=replace(m.wanted, measured=True)) for m in members]
    return EnsembleDescription(ensemble.name, members, operating, ensemble.cascade, data)


def _describe(path: Path, description: dict, recipe: str, fold: int, weight: float) -> Member:
    from liveness.frames.contract import read_contract
    from liveness.frames.faces import detector_digest, detector_path

    made_as = description["recipe"]["name"]
    if made_as != recipe or description["fold"] != fold:
        raise UserError(
            f"{path}: holds {made_as} fold {description['fold']}, expected {recipe} fold {fold}; "
            "a file of another member lies under this name"
        )
    contract = description["contract"]
    plan, view, detector = read_contract(contract, str(path))
    if view.kind == "face" and contract["detector_sha256"] != detector_digest(detector.name):
        raise UserError(
            f"{path}: made with another face detector than {detector_path(detector.name).name} of this environment"
        )
    wanted = make_request(plan, view, detector, contract["jpeg_quality"], contract["version"])
    # Converted members promise the original's scores, which mixed precision does not keep.
    exact = "converted_from" in description
    amp = description["recipe"]["train"]["amp"] and not exact
    return Member(member_name(recipe, fold), weight, wanted, contract["combine"], path, amp, exact)


def load_weights(described: EnsembleDescription, mode: str = "resident") -> LoadedEnsemble:
    """Take the device and, unless the members are to take turns, build every model.

    mode: ``memory`` of ``load_members``.
    """
    ranks = launch.local_world()
    device, threads = _take_device(described.runtime, ranks), share_of_cores(ranks)
    sizes = [memory.weight_bytes(member.path, device, member.amp) for member in described.members]
    resident = mode == "resident" or (mode == "auto" and memory.fits(sizes, device, ranks, threads))
    loaded = LoadedEnsemble(
        described.name, described.members, described.operating, described.cascade, described.data,
        device=device, threads=threads, resident=resident, batches=batches_for(device, threads),
    )  # fmt: skip
    try:
        if resident:
            loaded.members = [replace(member, backend=_load_backend(member, device)) for member in described.members]
        return loaded
    except RuntimeError as error:
        if not memory.is_short(error):
            raise
    loaded.take_turns()  # here: while the error is at hand, it holds what has been loaded
    return loaded


def _take_device(runtime: str, ranks: int) -> Device:
    if runtime != TORCH:
        return HOST
    from liveness.models.device import pick_device, use_all_cores

    use_all_cores(ranks)
    return pick_device(launch.local_rank())


def _load_backend(member: Member, device: Any) -> Backend:
    if member.runtime != TORCH:
        from liveness.models.exported import open_exported

        return open_exported(member.path, member.runtime)
    from liveness.members.weights import load_member
    from liveness.models.backend import TorchBackend
    from liveness.models.device import halve

    model, _ = load_member(member.path)
    if device.type == "cuda" and member.amp:
        halve(model)
    return TorchBackend(model, device, member.amp, member.exact)


# --- scoring ---------------------------------------------------------------------------------------


def score_one(path: Path, loaded: LoadedEnsemble) -> Row:
    """One video's row, the same as among many. Its milliseconds are the decoding (in a worker that may
    die) and then the time from the views to the score; starting that worker is not in them."""
    (prepared,) = decode_ahead([path], loaded.wanted(), 1)
    started = time.perf_counter()
    row = score_video(prepared, loaded)
    return replace(row, milliseconds=prepared.milliseconds + 1000 * (time.perf_counter() - started))


def score_paths(paths: list[Path], loaded: LoadedEnsemble, workers: int = 0) -> Iterator[Row]:
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


def decode_ahead(paths: list[Path], wanted: list[ViewRequest], workers: int = 0) -> Generator[VideoViews, None, None]:
    """``prepare`` every video in worker processes, which begin at once; yields them as they get done.

    A video that kills its worker, hangs or eats its memory is tried once more when all others are
    done, alone; then it is given up.
    """
    tasks = ((path, wanted) for path in paths)
    return _decoded(run_tasks(prepare_task, tasks, workers, DECODE_SECONDS, DECODE_GIB), wanted)


def start_decoder() -> KeptWorker[tuple[Path, list[ViewRequest]], VideoViews]:
    """A decoding process for ``decode_kept``, which is kept from call to call."""
    return KeptWorker(prepare_task, DECODE_SECONDS, DECODE_GIB)


def decode_kept(
    paths: list[Path], wanted: list[ViewRequest], decoder: KeptWorker[tuple[Path, list[ViewRequest]], VideoViews]
) -> Generator[VideoViews, None, None]:
    """As ``decode_ahead``, one video after the other in one process that is there already."""
    return _decoded((((path, wanted), decoder.run((path, wanted))) for path in paths), wanted)


def _decoded(results: Iterator[tuple[Any, Any]], wanted: list[ViewRequest]) -> Generator[VideoViews, None, None]:
    failed: list[Path] = []
    for (path, _), result in results:
        if isinstance(result, Failed):
            failed.append(path)
        else:
            yield result
    for (path, _), result in run_tasks(prepare_task, ((p, wanted) for p in failed), 1, DECODE_SECONDS, DECODE_GIB):
        yield VideoViews(path, "crashed", f"{result.reason}, twice") if isinstance(result, Failed) else result


def score_video(prepared: VideoViews, loaded: LoadedEnsemble) -> Row:
    """All members' scores of one prepared video, blended into its row."""
    ((_, row),) = score_prepared([prepared], loaded)
    return row


def score_prepared(videos: Iterable[VideoViews], loaded: LoadedEnsemble) -> Iterator[tuple[VideoViews, Row]]:
    """Score prepared videos, several at a time; yields each with its row as it gets done.

    Where the device's memory does not suffice for all members at once, they take turns from there on.
    """
    for job in run_members(videos, loaded):
        yield job.item, make_row(job, loaded)


def score_members(
    videos: Iterable[VideoViews], loaded: LoadedEnsemble
) -> Iterator[tuple[VideoViews, dict[str, float]]]:
    """As ``score_prepared``, but each with its members' own scores, frames combined, as they are before calibration."""
    for job in run_members(videos, loaded):
        yield job.item, combine_frames(job, loaded)


def run_members(given: Iterable[VideoViews], loaded: LoadedEnsemble) -> Iterator[VideoJob]:
    """Prepared videos through the members, several at a time; yields each with its frames' scores as it gets done."""
    videos = iter(given)
    waiting: dict[int, VideoViews] = {}  # those that have gone to the models and have no row yet
    if loaded.resident:
        try:
            for job in _score_resident(_remembered(videos, waiting), loaded):
                del waiting[id(job.item)]
                yield job
            return
        except RuntimeError as error:
            if not memory.is_short(error):
                raise
        loaded.take_turns()
    try:
        yield from _score_in_turns(chain(waiting.values(), videos), loaded)
    except RuntimeError as error:
        if not memory.is_short(error):
            raise
        raise UserError(
            "out of GPU memory with one member at a time; end what else computes on this GPU, or NGPU=0 takes the CPU"
        ) from error


def _remembered(videos: Iterator[VideoViews], waiting: dict[int, VideoViews]) -> Iterator[VideoViews]:
    for views in videos:
        waiting[id(views)] = views
        yield views


def _score_resident(videos: Iterable[VideoViews], loaded: LoadedEnsemble) -> Iterator[VideoJob]:
    """Every video through the first members at once, and through the others if those leave it open."""

    def ask_the_others(job: VideoJob) -> list[Request]:
        others = [member for member in loaded.members if member.name not in job.scores]
        return requests_for(others, job.item) if others and is_open(job, loaded) else []

    jobs = (Job(views, requests_for(loaded.first(), views)) for views in videos)
    return score_jobs(jobs, loaded.batches, ask_the_others)


def _score_in_turns(videos: Iterable[VideoViews], loaded: LoadedEnsemble) -> Iterator[VideoJob]:
    """Some videos at a time: a member is loaded, scores them, and makes room for the next one."""
    first = loaded.first()
    order = [*first, *(member for member in loaded.members if member not in first)]
    for jobs in _rounds(videos):
        left = jobs
        for number, member in enumerate(order):
            if number == len(first):  # once: what the others say must not close a video for those after them
                left = [job for job in jobs if is_open(job, loaded)]
            if left:
                _take_turn(member, left, loaded)
        yield from jobs


def _take_turn(member: Member, jobs: list[VideoJob], loaded: LoadedEnsemble) -> None:
    member = replace(member, backend=_load_backend(member, loaded.device))
    for job in jobs:
        job.requests = requests_for([member], job.item)
    with batches_for(loaded.device, loaded.threads) as batches:
        for _ in score_jobs(jobs, batches):
            pass


def _rounds(videos: Iterable[VideoViews]) -> Iterator[list[VideoJob]]:
    """The videos that every member scores before the first one does again."""
    jobs: list[VideoJob] = []
    size = 0
    for video in videos:
        jobs.append(Job(video, []))
        size += sum(views.nbytes for views in video.views.values())
        if size >= TURN_BYTES or len(jobs) == TURN_VIDEOS:
            yield jobs
            jobs, size = [], 0
    if jobs:
        yield jobs


def requests_for(members: list[Member], video: VideoViews) -> list[Request]:
    """What loaded members are to score of a video; those of one view share it."""
    by_view: dict[str, list[Member]] = {}
    for member in members:
        by_view.setdefault(member.wanted.key, []).append(member)
    return [
        Request(
            {member.name: member.loaded() for member in group},
            video.views.get(key),
            len(video.frames_of.get(key, ())),
            group[0].wanted.view,
        )
        for key, group in by_view.items()
    ]
