"""One member from a prepared set to its weights: start or continue, train, score the held-out fold.

    outcome = train_member(recipe, 0, "train", folder)

Callable in any process: it neither handles signals nor exits. ``listen`` says how it is asked to stop.
Reads data/<set>/ and weights/<pretrained>; writes runs/<set>/<recipe>_fold<k>/{config.json, runs.json,
last.pt, metrics.csv}, weights/<set>/<recipe>_fold<k>.safetensors and, last, oof.csv.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch

from liveness.base import distributed, launch
from liveness.base.compose import from_dict
from liveness.base.config import Recipe, Train
from liveness.base.errors import UserError
from liveness.base.files import show_path, write_text, written_aside
from liveness.evaluation import metrics
from liveness.evaluation.combine import video_scores
from liveness.frames.contract import make_contract
from liveness.members.trained import OOF_COLUMNS, write_oof
from liveness.members.weights import describe_member, save_member
from liveness.models.backend import TorchBackend
from liveness.models.batches import batches_for
from liveness.models.build import count_parameters
from liveness.models.device import pick_device, share_of_cores, use_all_cores
from liveness.models.score import Job, Request, score_jobs
from liveness.sets.dataset import HeldOutVideos, PreparedSet, frame_file, list_holdout, load_set, split_set
from liveness.sets.decoded import DecodedFrames, open_decoded
from liveness.training import loop, lr_finder, passing, tracking
from liveness.training.pseudo_labels import list_pseudo_provenance, split_training
from liveness.training.runs import describe_run, drop_state, find_run_weights, same_run, tell_changes
from liveness.training.saving import Saver
from liveness.training.start import Start, list_provenance, merge_provenance
from liveness.training.task import Task
from liveness.training.tasks import make_task
from liveness.training.teachers import describe_teachers, keep_own
from liveness.training.unlabelled import list_unlabelled_provenance

GPU_CACHE_GIB = 16.0  # of decoded frames, where train.cache_gib leaves it open: all of the challenge's set
FIGURES = ("logloss", "eer", "auc")  # of metrics.csv and of a member: its held-out videos

Asked = Callable[[], bool]  # whether this process is to stop


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    stopped: bool  # on request, with its state in last.pt: the same call continues
    weights: Path  # the member's file, there unless stopped
    epoch: int  # whose weights the member has; where stopped, how many are finished
    held_out: dict[str, float]  # logloss, eer and auc of the held-out videos; nothing where stopped


@dataclass
class Run:
    """A training on its way."""

    recipe: Recipe
    prepared: PreparedSet
    described: dict[str, Any]  # config.json
    folder: Path
    state: loop.State
    videos: HeldOutVideos  # of the fold that is held out
    log: tracking.Log
    saver: Saver
    trained_on: dict[str, list[str]]  # of list_provenance; taken at the start, as the source may go while this trains
    asked: Asked = lambda: False
    unasked: float = 0.0  # time.monotonic() when no stop had been asked for yet
    oof: pd.DataFrame | None = None  # the held-out fold's scores
    oof_epoch: int = 0  # by the weights of which epoch


def never() -> Asked:
    """Nobody will ask this training to stop."""
    return lambda: False


def train_member(
    recipe: Recipe, fold: int, name: str, folder: Path, naive: bool = False, listen: Callable[[], Asked] = never
) -> Outcome:
    """Everything from the prepared set to the member's weights and its out-of-fold scores.

    naive: by the folds that know no persons; the weights lie apart, as no prediction should use them.
    listen: called before the first step, when there is something to save. What it gives is asked after every step
    and every held-out video; where it says yes on one process, rank 0 saves the step and returns, while the other
    processes wait in a collective: its caller has to end the process, and not to wait for them.
    """
    use_all_cores(launch.local_world())
    prepared = load_set(name, recipe.frames, naive)
    split_set(prepared, fold, recipe.view)  # refuses a fold that is none
    described = describe_run(recipe, fold, prepared, naive)
    if same_run(folder, described, find_run_weights(described)):
        return _pass_over(recipe, described, folder)
    rows, held_out = split_training(recipe, fold, prepared)
    if changes := tell_changes(folder, described):
        _whisper(changes)
    device = pick_device(launch.local_rank())
    tracker = recipe.tracker if distributed.rank() == 0 else "none"
    with memory_told(recipe), tracking.open_tracker(tracker, folder, described, name_run(described)) as log:
        if distributed.rank() == 0:
            tracking.record_start(folder / "runs.json", described, device, distributed.size())
        start, task = Start(recipe, fold, name), make_task(recipe, prepared, rows)
        state = start_or_resume(task, start, device, folder / "last.pt")
        decoded = task.frames.decoded = open_cache(recipe.train, prepared, device, loop.count_bytes(state))
        if distributed.rank() == 0:  # not before: a start that failed must not claim the folder
            write_text(folder / "config.json", json.dumps(described, indent=1, sort_keys=True) + "\n")
            keep_own(recipe, fold, name)
        videos = HeldOutVideos(prepared, held_out, recipe.view, decoded)
        saver = Saver(state, folder / "last.pt")
        seen: dict[str, list[str]] = {}
        if distributed.rank() == 0:
            taught = [teacher.get("trained_on") or {} for teacher in describe_teachers(recipe, fold, name)]
            names = rows.filename[rows.folder == prepared.folder] if "folder" in rows else rows.filename
            own = list_provenance(prepared, names, start.describe())
            others = [list_unlabelled_provenance(recipe), list_pseudo_provenance(recipe, fold, prepared)]
            seen = merge_provenance([own, *taught, *others])
        run = Run(recipe, prepared, described, folder, state, videos, log, saver, seen)
        _say(f"{name_run(described)}: {_summary(run, rows)}")
        run.saver.begin(_say, _whisper)
        run.asked, run.unasked = listen(), time.monotonic()
        if not _train(run):
            return Outcome(True, find_run_weights(described), state.epoch, {})
        return _complete(run)


def _say(text: str) -> None:
    """A line from rank 0, at once: a process that is asked to stop may be ended right after."""
    if distributed.rank() == 0:
        print(text, flush=True)


def _whisper(text: str) -> None:
    if distributed.rank() == 0:
        print(f"note: {text}", file=sys.stderr, flush=True)


def name_run(described: dict[str, Any]) -> str:
    """What a run is called in lines that people read."""
    return f"{described['recipe']['name']} fold {described['fold']} of {described['data']}"


def _pass_over(recipe: Recipe, described: dict[str, Any], folder: Path) -> Outcome:
    """Leave a finished member as it is."""
    weights = find_run_weights(described)
    _say(f"{name_run(described)}: already trained, {weights}")
    if distributed.rank() == 0:
        drop_state(recipe, folder)
    about = describe_member(weights)
    figures = {key: math.nan if about["held_out"][key] is None else about["held_out"][key] for key in FIGURES}
    return Outcome(False, weights, about["epoch"], figures)


def find_lr(recipe: Recipe, fold: int, name: str, folder: Path) -> float:
    """Range test on what this member would train on; leaves lr_curve.{csv,png} in ``folder``."""
    use_all_cores()
    prepared = load_set(name, recipe.frames)
    describe_run(recipe, fold, prepared, False)  # for its checks of what training goes on or learns from
    rows, _ = split_training(recipe, fold, prepared)
    task = make_task(recipe, prepared, rows)
    task.begin(fold, name)
    Start(recipe, fold, name).load(task, _whisper)
    with memory_told(recipe):
        return lr_finder.choose_lr(task, pick_device(), folder)


@contextlib.contextmanager
def memory_told(recipe: Recipe) -> Iterator[None]:
    """Where the GPU's memory does not suffice, say which options take less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory; a smaller train.batch_per_process (it is {recipe.train.batch_per_process}; the "
            "global batch stays), train.checkpoint_activations=true or train.amp=true take less"
        ) from error


def open_cache(config: Train, prepared: PreparedSet, device: torch.device, state: int) -> DecodedFrames | None:
    """The decoded frames of the set, as far as ``train.cache_gib`` says; None where there are to be none.

    state: bytes of last.pt. Room for two (one is written beside the other) and for the member stays free."""
    gib = config.cache_gib if config.cache_gib >= 0 else GPU_CACHE_GIB if device.type == "cuda" else 0.0
    if not gib:
        return None
    names = [frame_file(row) for row in prepared.frames.itertuples(index=False)]
    decoded = open_decoded(prepared.folder, names, gib * (1 << 30), 2.5 * state)
    if len(decoded) < len(names):
        _whisper(
            f"{len(decoded)} of {len(names)} frames are kept decoded in {show_path(decoded.path.parent)} "
            f"(train.cache_gib={gib:g}, half of the free disk, room for last.pt); the others are decoded each time"
        )
    return decoded


def start_or_resume(task: Task, start: Start, device: torch.device, last: Path) -> loop.State:
    """The state of a fresh run, or the one in ``last`` where it is there."""
    fresh = not last.is_file()
    task.begin(start.fold, start.data)
    if fresh or start.is_kept:
        start.load(task, _whisper)
    lr = start.recipe.train.lr
    if lr == "auto":
        lr = lr_finder.choose_lr(task, device, last.parent) if fresh else loop.saved_lr(last)
    state = loop.start_state(task, device, lr)
    if not fresh:
        loop.resume(state, last, _whisper)
    return state


def _summary(run: Run, rows: pd.DataFrame) -> str:
    recipe, state = run.recipe, run.state
    theirs = rows[rows.folder != run.prepared.folder] if "folder" in rows else rows[:0]
    videos = rows.drop(theirs.index).filename.nunique()
    pseudo = f" and {theirs.filename.nunique()} pseudo-labelled ones" if recipe.train.pseudo_labels else ""
    return (
        f"{recipe.model.name}, {count_parameters(state.model) / 1e6:.1f} M parameters, "
        f"{recipe.view.kind} {recipe.view.size} px, {len(rows)} frames of {videos} videos{pseudo}, "
        f"{len(run.videos)} videos held out, {recipe.train.epochs} epochs of {state.task.steps_per_epoch} steps, "
        f"lr {state.lr:g}, {distributed.size()} x {state.device.type}{state.task.about}"
        + (f", continuing after step {state.step}" if state.step else "")
    )


class Stopped(Exception):
    """A request to stop came while the held-out fold was being scored."""


def _train(run: Run) -> bool:
    """Train to the end; False where the training was asked to stop, with its state saved by rank 0."""
    state = run.state
    try:
        finished = loop.run_epochs(state, lambda row: _judge_epoch(run, row), lambda: _stop_now(run))
    except Stopped:
        finished = False
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if run.asked() or _stop_was_told():  # rank 0 has left, and this rank was waiting for it
            return False
        if distributed.lost_another(error):
            time.sleep(2)  # torchrun blames the first that it sees gone: that has to be the other one
            raise UserError("another process of this training is gone; last.pt keeps the last whole epoch") from error
        raise
    if not finished:
        _leave(run)
        distributed.tell(distributed.LEFT)  # the others need not wait any longer
    return finished


def _leave(run: Run) -> None:
    """Save the step after which the training was asked to stop, or say why the last whole epoch has to do."""
    state, saver = run.state, run.saver
    epoch = state.epoch if state.unjudged else state.epoch + 1
    stopped = f"stopped in epoch {epoch} after step {state.step}"
    if saver.save_in_time(run.unasked):
        _say(f"{stopped}; the same command continues")
        return
    kept = f"last.pt keeps epoch {len(state.history)}" if state.history else "no epoch was whole yet"
    _say(
        f"{stopped}, which could not be saved in time ({saver.of_whom} gives {saver.given:.0f} s, saving takes about "
        f"{saver.seconds:.1f} s): {kept}; the same command continues from there"
    )


def _judge_epoch(run: Run, row: dict[str, Any]) -> None:
    """Score the held-out fold after an epoch, complete its row of metrics.csv, and save."""
    recipe, state = run.recipe, run.state
    stopping = lambda: _stop_now(run)  # noqa: E731
    run.oof = score_held_out(state.best_guess, state.device, run.videos, run.prepared, recipe, stopping)
    run.oof_epoch = row["epoch"]
    row.update(_figures(run.oof, recipe))
    state.finish_epoch(row, recipe.train.select)
    _say(
        f"  epoch {row['epoch']:2d}/{recipe.train.epochs}  loss {row['train_loss']:.4f}  held-out: log loss "
        f"{row['logloss']:.4f}  EER {100 * row['eer']:.1f} %  AUC {row['auc']:.3f}  ({row['seconds']:.0f} s)"
    )
    if distributed.rank() == 0:
        run.saver.save()
        _write_table(run.folder / "metrics.csv", pd.DataFrame(state.history))
        run.log(row)


def _stop_now(run: Run) -> bool:
    """Whether to save and leave: rank 0 does when it or any other rank was asked.

    A spot instance is told alone that it has to go; where rank 0 runs on another, it hears it here.
    """
    now, here = time.monotonic(), run.asked()
    if here:
        distributed.tell(distributed.STOP)
    if distributed.rank() == 0 and (here or distributed.told(distributed.STOP)):
        return True
    run.unasked = now
    return False


def _stop_was_told() -> bool:
    """Whether the training was asked to stop; False where the store is gone with rank 0's node."""
    try:
        return distributed.told(distributed.STOP)
    except RuntimeError:
        return False


def _complete(run: Run) -> Outcome:
    """Make the member of a training that has run to its end."""
    state, recipe, prepared = run.state, run.recipe, run.prepared
    weights, model, oof = find_run_weights(run.described), state.kept_model(), run.oof
    tuning = state.task.tuning
    if tuning is not None:
        tuning.interpolate(model)
    # An earlier epoch is kept, this process began after the last one, or these weights have not been judged.
    if oof is None or run.oof_epoch != state.kept_epoch or recipe.train.keep_init:
        oof = score_held_out(model, state.device, run.videos, prepared, recipe)
    whole = with_holdout(oof, model, state.device, prepared, recipe)
    if distributed.rank() == 0:
        about = {"epoch": state.kept_epoch, "lr": state.lr, "trained_on": run.trained_on}
        finish(model, whole, prepared, run.described | about, run.folder, state.task)
        drop_state(recipe, run.folder)
    distributed.barrier()
    _say(f"{name_run(run.described)}: {weights}")
    return Outcome(False, weights, state.kept_epoch, _figures(oof, recipe))


def score_held_out(
    model: torch.nn.Module,
    device: torch.device,
    videos: HeldOutVideos,
    prepared: PreparedSet,
    recipe: Recipe,
    stopping: Callable[[], bool] = lambda: False,
) -> pd.DataFrame:
    """The out-of-fold table: every held-out frame scored exactly once, on every rank the same.

    Videos are dealt to the ranks, and each is scored by itself, as in prediction. Stopped is raised
    between two videos where ``stopping()`` says so.
    """
    from torch.utils.data import DataLoader, Dataset, Subset

    backend = TorchBackend(model, device, recipe.train.amp)
    mine = list(range(distributed.rank(), len(videos), distributed.size()))
    most = max((len(rows) for rows in videos.rows.values()), default=0)
    each = passing.bytes_of_batch(most * passing.views_per_frame(recipe.view), recipe.view)
    workers, pipes = passing.choose_way(recipe.train.workers, each)
    collate: Callable[[Any], Any] = passing.pack_video if pipes else passing.as_it_is
    loader: DataLoader[Any] = DataLoader(
        Subset(cast(Dataset[Any], videos), mine),
        batch_size=None,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=passing.quiet_worker,
    )
    scored: list[tuple[str, int, float]] = []
    with torch.random.fork_rng(devices=[]):  # the loader draws a seed; training must not notice
        # Copies: a queue of videos that wait for their scores must not hold the loader's shared memory.
        arriving = map(passing.unpack_video if pipes else passing.copy_video, loader)
        jobs = (Job((name, ids), [Request({"": backend}, views, len(ids))]) for name, ids, views in arriving)
        with batches_for(device, share_of_cores(launch.local_world())) as batches:
            for job in score_jobs(jobs, batches):
                (name, ids), scores = job.item, job.scores[""]
                scored += [(name, frame_id, float(score)) for frame_id, score in zip(ids, scores, strict=True)]
                if stopping():
                    raise Stopped
    found = {(name, frame_id): score for name, frame_id, score in distributed.gather(scored)}
    return _oof_table(videos, prepared, found)


def _oof_table(videos: HeldOutVideos, prepared: PreparedSet, found: dict[tuple[str, int], float]) -> pd.DataFrame:
    """A row for every frame of the videos, from the scores by (file name, frame)."""
    rows = []
    for name in videos.filenames:
        video = prepared.videos.loc[name]
        fixed = {"filename": name, "video_id": video.video_id, "label": int(video.label), "fold": int(video.fold)}
        for row in videos.rows.get(name, []):
            score = found.get((name, int(row.frame_id)), math.nan)
            status = "ok" if (name, int(row.frame_id)) in found else "no_face"
            rows.append({**fixed, "frame_id": int(row.frame_id), "score": score, "status": status})
        if name not in videos.rows:
            status = video.status if video.status != "ok" else "no_frames"
            rows.append({**fixed, "frame_id": None, "score": math.nan, "status": status})
    table = pd.DataFrame(rows, columns=OOF_COLUMNS)
    table["frame_id"] = table.frame_id.astype("Int64")
    return table


def with_holdout(
    oof: pd.DataFrame, model: torch.nn.Module, device: torch.device, prepared: PreparedSet, recipe: Recipe
) -> pd.DataFrame:
    """``oof`` and below it the rows of the videos that no member trains on; scored once, by the finished model."""
    aside = HeldOutVideos(prepared, list_holdout(prepared), recipe.view)
    if not len(aside):
        return oof
    return pd.concat([oof, score_held_out(model, device, aside, prepared, recipe)], ignore_index=True)


def _figures(oof: pd.DataFrame, recipe: Recipe) -> dict[str, float]:
    """Log loss, EER and AUC of the held-out videos that have a score."""
    table = video_scores(oof, recipe.combine)
    table = table[table.score.notna()]
    labels, scores = table.label.to_numpy(int), table.score.to_numpy(float)
    if len(set(labels)) < 2:
        return dict.fromkeys(FIGURES, math.nan)
    return {
        "logloss": metrics.log_loss(labels, scores),
        "eer": metrics.eer(labels, scores).value,
        "auc": metrics.auc(labels, scores),
    }


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with written_aside(path) as side:
        table.to_csv(side, index=False, lineterminator="\n")


def finish(
    model: torch.nn.Module,
    oof: pd.DataFrame,
    prepared: PreparedSet,
    described: dict,
    folder: Path,
    task: Task | None = None,
) -> None:
    """Write the weights, then oof.csv, whose presence in the run's folder means that the member is made: weights may
    lie there from before. task: that has trained it, for what it keeps beside the member."""
    recipe = from_dict(Recipe, described["recipe"], "recipe")
    of_fold = oof[oof.fold == described["fold"]]
    figures = {key: value if math.isfinite(value) else None for key, value in _figures(of_fold, recipe).items()}
    contract = make_contract(recipe, prepared.data, prepared.detector_sha256, prepared.version)
    path = find_run_weights(described)
    held_out = {"videos": of_fold.filename.nunique(), **figures}
    # How many folds there are: a member that is lost is missed then, where an ensemble takes all of them.
    described = {**described, "folds": prepared.n_folds, "contract": contract, "held_out": held_out}
    save_member(path, model.state_dict(), described)
    if task is not None:
        task.save_beside(path, described)
    write_oof(folder / "oof.csv", oof)
