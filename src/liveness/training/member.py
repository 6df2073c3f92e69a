"""One member from a prepared set to its weights: start or continue, fit, score the held-out fold.

Reads data/<set>/ and weights/<pretrained>; writes runs/<set>/<recipe>_fold<k>/{config.json, runs.json,
last.pt, metrics.csv}, weights/<set>/<recipe>_fold<k>.safetensors and, last, oof.csv.
"""

import contextlib
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from liveness.base import distributed, launch
from liveness.base.compose import from_dict
from liveness.base.config import Recipe, to_dict
from liveness.base.errors import UserError
from liveness.base.files import write_text, written_aside
from liveness.evaluation import metrics
from liveness.evaluation.combine import video_scores
from liveness.frames.contract import make_contract
from liveness.members.names import weights_path
from liveness.members.trained import OOF_COLUMNS, write_oof
from liveness.members.weights import load_pretrained, save_member
from liveness.models.build import build, parameter_count
from liveness.models.losses import class_weights
from liveness.models.score import Scorer, pick_device, share_of_cores, use_all_cores
from liveness.sets.dataset import HeldOutVideos, PreparedSet, holdout, load_set, split
from liveness.training import loop, passing, tracking
from liveness.training import lr_finder as range_test
from liveness.training.augment import Policy
from liveness.training.samples import TrainingFrames

STOPPED = 143  # exit code after SIGTERM or ctrl-C: 128 + 15
# Of a recipe: what may differ between two starts of one run without changing what is trained.
FREE = ("recipe.train.workers", "recipe.train.keep_state", "recipe.tracker")


def train_member(recipe: Recipe, fold: int, name: str, folder: Path, naive: bool = False) -> None:
    """Everything from the prepared set to the member's weights and its out-of-fold scores.

    naive: by the folds that know no persons; the weights lie apart, as no prediction should use them.
    """
    rank = distributed.rank()
    say = print if rank == 0 else lambda *_, **__: None
    use_all_cores(launch.local_world())
    prepared = load_set(name, recipe.frames, naive)
    rows, held_out = split(prepared, fold, recipe.view)
    described = describe(recipe, fold, prepared, naive)
    weights, last = weights_of(described), folder / "last.pt"
    title = f"{recipe.name} fold {fold} of {name}"
    if same_run(folder, described, weights):
        say(f"{title}: already trained, {weights}")
        if rank == 0:
            _drop_state(recipe, last)
        return
    device = pick_device(launch.local_rank())
    log, close = (lambda row: None), (lambda: None)
    if rank == 0:
        log, close = tracking.open_tracker(recipe.tracker, folder, described, title)
        tracking.record_start(folder / "runs.json", described, device, distributed.size())
    state, frames = _start(recipe, prepared, rows, last, device)
    if rank == 0:  # not before: a start that failed must not claim the folder
        write_text(folder / "config.json", json.dumps(described, indent=1, sort_keys=True) + "\n")
    say(f"{title}: {_summary(recipe, state, rows, held_out)}")
    videos = HeldOutVideos(prepared, held_out, recipe.view)
    oof, of_epoch = None, 0
    signals = _Signals()

    def stopping() -> bool:
        return _stop_now(rank, signals)

    def after_epoch(row: dict) -> None:
        nonlocal oof, of_epoch
        oof = score_held_out(state.best_guess, device, videos, prepared, recipe, stopping)
        of_epoch = row["epoch"]
        row.update(_figures(oof, recipe))
        state.finish_epoch(row, recipe.train.select)
        say(
            f"  epoch {row['epoch']:2d}/{recipe.train.epochs}  loss {row['train_loss']:.4f}  held-out: log loss "
            f"{row['logloss']:.4f}  EER {100 * row['eer']:.1f} %  AUC {row['auc']:.3f}  ({row['seconds']:.0f} s)"
        )
        if rank == 0:
            loop.save(state, last)
            _write_table(folder / "metrics.csv", pd.DataFrame(state.history))
            log(row)

    _fit(state, lambda: loop.fit(state, frames, recipe, after_epoch, stopping), signals, last, say)
    model = state.kept_model()
    if of_epoch != state.kept_epoch:  # an earlier epoch is kept, or the run was stopped after the last one
        oof = score_held_out(model, device, videos, prepared, recipe)
    oof = with_holdout(oof, model, device, prepared, recipe)
    if rank == 0:
        finish(model, oof, prepared, described | {"epoch": state.kept_epoch, "lr": state.lr}, folder)
        _drop_state(recipe, last)
        close()
    distributed.barrier()
    say(f"{title}: {weights}")


def describe(recipe: Recipe, fold: int, prepared: PreparedSet, naive: bool) -> dict[str, Any]:
    """What a run is: config.json, and the beginning of the member's description."""
    described = {"recipe": to_dict(recipe), "fold": fold, "data": prepared.name, "data_hash": prepared.digest}
    return described | ({"naive": True} if naive else {})


def _drop_state(recipe: Recipe, last: Path) -> None:
    """A finished member needs no last.pt, four times its size; killed just before, the next start comes here too."""
    if not recipe.train.keep_state:
        last.unlink(missing_ok=True)


def find_lr(recipe: Recipe, fold: int, name: str, folder: Path) -> float:
    """Range test on what this member would train on; leaves lr_curve.{csv,png} in ``folder``."""
    use_all_cores()
    prepared = load_set(name, recipe.frames)
    rows, _ = split(prepared, fold, recipe.view)
    frames, model = _fresh(recipe, prepared, rows)
    load_pretrained(model, recipe.model, say=_whisper)
    with memory_told(recipe):
        return range_test.choose(model, frames, recipe, pick_device(), folder)


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


def _fresh(recipe: Recipe, prepared: PreparedSet, rows: Any) -> tuple[TrainingFrames, Any]:
    """The frames to train on, and the model with its first random weights: equal on every rank."""
    seed = recipe.train.seed
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    frames = TrainingFrames(prepared.folder, rows, Policy(recipe.augment, recipe.view), seed)
    return frames, build(recipe.model, recipe.view.size)


def _start(recipe: Recipe, prepared: PreparedSet, rows: Any, last: Path, device: Any) -> tuple[Any, Any]:
    """The state of a fresh run, or that of ``last``, and the frames to train on."""
    frames, model = _fresh(recipe, prepared, rows)
    fresh = not last.is_file()
    if fresh:
        load_pretrained(model, recipe.model, say=_whisper)
    lr = recipe.train.lr
    if lr == "auto":
        lr = range_test.choose(model, frames, recipe, device, last.parent) if fresh else loop.saved_lr(last)
    state = loop.start(model, recipe, device, loop.count_steps(len(frames), recipe.train), lr)
    if recipe.train.class_balance:
        # As they are trained on: some of the live samples become attacks.
        live = (1 - recipe.augment.attack_rate) * int((rows.label == 1).sum())
        state.class_weights = class_weights(live, len(rows) - live)
    if not fresh:
        loop.resume(state, last)
    return state, frames


def _whisper(text: str) -> None:
    if distributed.rank() == 0:
        print(f"note: {text}", file=sys.stderr, flush=True)


def _summary(recipe: Recipe, state: Any, rows: Any, held_out: list[str]) -> str:
    return (
        f"{recipe.model.name}, {parameter_count(state.model) / 1e6:.1f} M parameters, "
        f"{recipe.view.kind} {recipe.view.size} px, {len(rows)} frames of {rows.filename.nunique()} videos, "
        f"{len(held_out)} videos held out, {recipe.train.epochs} epochs of {state.steps_per_epoch} steps, "
        f"lr {state.lr:g}, {distributed.size()} x {state.device.type}"
        + (f", continuing after step {state.step}" if state.step else "")
    )


def _fit(state: Any, fit: Callable[[], bool], signals: "_Signals", last: Path, say: Any) -> None:
    """Train to the end, or save and leave when a signal came."""
    try:
        finished = fit()
    except Stopped:
        finished = False
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if signals.came or _stop_was_told():  # rank 0 has left, and this rank was waiting for it
            sys.exit(STOPPED)
        if distributed.lost_another(error):
            time.sleep(2)  # torchrun blames the first that it sees gone: that has to be the other one
            raise UserError("another process of this training is gone; last.pt keeps the last whole epoch") from error
        raise
    if not finished:
        loop.save(state, last)
        epoch = state.epoch if state.unjudged else state.epoch + 1
        say(f"stopped in epoch {epoch} after step {state.step}; the same command continues", flush=True)
        os._exit(STOPPED)  # the other ranks wait in a collective, so leaving in good order would hang


class Stopped(Exception):
    """A signal came while the held-out fold was being scored."""


def _stop_now(rank: int, signals: "_Signals") -> bool:
    """Whether to save and leave: rank 0 does when a signal came to it or to any other rank.

    A spot instance is told alone that it has to go; where rank 0 runs on another, it hears it here.
    """
    if signals.came:
        distributed.tell("stop")
    return rank == 0 and (signals.came or distributed.told("stop"))


def _stop_was_told() -> bool:
    """Whether the training was asked to stop; False where the store is gone with rank 0's node."""
    try:
        return distributed.told("stop")
    except RuntimeError:
        return False


class _Signals:
    """Notes SIGTERM and SIGINT instead of dying in the middle of a step."""

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, *_: Any) -> None:
        self.came = True


def weights_of(described: dict) -> Path:
    """Where a member's weights go: weights/<set>/, those of naive folds into naive/ there."""
    data = f"{described['data']}/naive" if described.get("naive") else described["data"]
    return weights_path(data, described["recipe"]["name"], described["fold"])


def same_run(folder: Path, described: dict, weights: Path) -> bool:
    """Whether this very run is finished. A run of another recipe or data is a UserError."""
    record = folder / "config.json"
    if record.is_file():
        there = json.loads(record.read_text(encoding="utf-8"))
        _fill(there.get("recipe", {}), to_dict(Recipe()))
        difference = [text for text in _differences(there, described) if not text.startswith(FREE)]
        if difference:
            raise UserError(
                f"{folder} holds another run: {'; '.join(difference[:3])}; remove the folder, or give --restart"
            )
    return record.is_file() and (folder / "oof.csv").is_file() and weights.is_file()


def _fill(old: dict, defaults: dict) -> None:
    """Give a recipe written before an option existed that option's default, which is what it was trained with."""
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _fill(old[key], value)
        else:
            old.setdefault(key, value)


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{key}.{k}".lstrip("."))]
    return [] if old == new else [f"{key} is {str(old)[:40]} there, {str(new)[:40]} here"]


def score_held_out(
    model: Any,
    device: Any,
    videos: Any,
    prepared: PreparedSet,
    recipe: Recipe,
    stopping: Callable[[], bool] = lambda: False,
) -> pd.DataFrame:
    """The out-of-fold table: every held-out frame scored exactly once, on every rank the same.

    Videos are dealt to the ranks, and each is scored by itself, as in prediction. Stopped is raised
    between two videos where ``stopping()`` says so.
    """
    from torch.utils.data import DataLoader, Subset

    scorer = Scorer(model, device, recipe.train.amp)
    processes = launch.local_world()
    mine = list(range(distributed.rank(), len(videos), distributed.size()))
    most = max((len(rows) for rows in videos.rows.values()), default=0)
    each = passing.bytes_of_batch(most * passing.views_per_frame(recipe.view), recipe.view)
    workers, pipes = passing.way(recipe.train.workers, each)
    loader = DataLoader(
        Subset(videos, mine),
        batch_size=None,
        num_workers=workers,
        collate_fn=passing.pack_video if pipes else passing.as_it_is,
        worker_init_fn=loop.quiet_worker,
    )
    scored: list[tuple[str, int, float]] = []
    with torch.random.fork_rng(devices=[]):  # the loader draws a seed; training must not notice
        arriving = map(passing.unpack_video, loader) if pipes else loader
        videos_of_mine = (((name, frame_ids), views, len(frame_ids)) for name, frame_ids, views in arriving)
        for (name, frame_ids), scores in scorer.stream(videos_of_mine, share_of_cores(processes)):
            scored += [(name, frame_id, float(score)) for frame_id, score in zip(frame_ids, scores, strict=True)]
            if stopping():
                raise Stopped
    found = {(name, frame_id): score for name, frame_id, score in distributed.gather(scored)}
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


def with_holdout(oof: pd.DataFrame, model: Any, device: Any, prepared: PreparedSet, recipe: Recipe) -> pd.DataFrame:
    """``oof`` and below it the rows of the videos that no member trains on; scored once, by the finished model."""
    aside = HeldOutVideos(prepared, holdout(prepared), recipe.view)
    if not len(aside):
        return oof
    return pd.concat([oof, score_held_out(model, device, aside, prepared, recipe)], ignore_index=True)


def _figures(oof: pd.DataFrame, recipe: Recipe) -> dict[str, float]:
    """Log loss, EER and AUC of the held-out videos that have a score."""
    table = video_scores(oof, recipe.combine)
    table = table[table.score.notna()]
    labels, scores = table.label.to_numpy(int), table.score.to_numpy(float)
    if len(set(labels)) < 2:
        return {"logloss": math.nan, "eer": math.nan, "auc": math.nan}
    return {
        "logloss": metrics.log_loss(labels, scores),
        "eer": metrics.eer(labels, scores).value,
        "auc": metrics.auc(labels, scores),
    }


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with written_aside(path) as side:
        table.to_csv(side, index=False, lineterminator="\n")


def finish(model: Any, oof: pd.DataFrame, prepared: PreparedSet, described: dict, folder: Path) -> None:
    """Write the weights, then oof.csv, whose presence in the run's folder means that the member is made: weights may
    lie there from before."""
    recipe = from_dict(Recipe, described["recipe"], "recipe")
    of_fold = oof[oof.fold == described["fold"]]
    figures = {key: value if math.isfinite(value) else None for key, value in _figures(of_fold, recipe).items()}
    contract = make_contract(recipe, prepared.data, prepared.detector_sha256, prepared.version)
    path = weights_of(described)
    held_out = {"videos": of_fold.filename.nunique(), **figures}
    # How many folds there are: a member that is lost is missed then, where an ensemble takes all of them.
    described = {**described, "folds": prepared.n_folds, "contract": contract, "held_out": held_out}
    save_member(path, model.state_dict(), described)
    write_oof(folder / "oof.csv", oof)
