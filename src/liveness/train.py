"""Train one member: one recipe on all folds but one, then score the fold that was held out.

    python -m liveness.train -c convnext_xlarge --fold 0 --data train -o train.lr=5e-5

Reads   data/<set>/ (prepare_data.sh) and weights/<pretrained>.
Writes  runs/<set>/<recipe>_fold<k>/: config.json, last.pt (resume), metrics.csv, oof.csv
        weights/<set>/<recipe>_fold<k>.safetensors

A run that was stopped continues: after SIGTERM or ctrl-C from the very step, after a crash from the
last whole epoch; both end with the bytes of an undisturbed run. A finished run is left as it is.
Under torchrun every process trains on its part of each global batch, and rank 0 writes.
"""

import argparse
import ctypes
import fcntl
import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from liveness.config import Recipe, load_recipe, to_dict
from liveness.errors import UserError, run
from liveness.files import workspace, write_text, written_aside

STOPPED = 143  # exit code after SIGTERM or ctrl-C: 128 + 15
OOF_COLUMNS = ["filename", "video_id", "frame_id", "label", "fold", "score", "status"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.train", description="Train one member.")
    parser.add_argument("-c", "--config", required=True, metavar="RECIPE", help="a name in configs/recipe")
    parser.add_argument("--fold", type=int, required=True, metavar="K", help="the fold that is held out")
    parser.add_argument("--data", metavar="SET", help="the prepared set in data/ (default: the recipe's)")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE")
    parser.add_argument("--restart", action="store_true", help="throw away what an earlier run left")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    _die_with_parent()
    recipe = load_recipe(arguments.config, arguments.override)
    name = arguments.data or recipe.data
    folder = workspace() / "runs" / name / f"{recipe.name}_fold{arguments.fold}"

    from liveness import distributed

    rank, _, _ = distributed.start()
    try:
        with _only_run(folder, rank):
            if arguments.restart and rank == 0:
                for path in folder.iterdir():
                    if path.name != "lock":
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            distributed.barrier()
            train_member(recipe, arguments.fold, name, folder)
    finally:
        distributed.stop()
    return 0


class _only_run:
    """Holds the run's folder for one launch: a second one would write between its lines."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank, self.file = folder, rank, None

    def __enter__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.rank == 0:
            self.file = open(self.folder / "lock", "w")
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.folder}: another process is training this member") from error

    def __exit__(self, *_: Any) -> None:
        if self.file is not None:
            self.file.close()


def train_member(recipe: Recipe, fold: int, name: str, folder: Path) -> None:
    """Everything from the prepared set to the member's weights and its out-of-fold scores."""
    from liveness import distributed
    from liveness.data.augment import Policy
    from liveness.data.dataset import HeldOutVideos, TrainingFrames, load_set, split
    from liveness.model.build import build, parameter_count
    from liveness.model.checkpoint import load_pretrained, member_path
    from liveness.model.losses import class_weights
    from liveness.model.score import pick_device, use_all_cores
    from liveness.training import loop

    rank, world = distributed.rank(), distributed.size()
    say = print if rank == 0 else lambda *_, **__: None
    use_all_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    prepared = load_set(name, recipe.frames)
    rows, held_out = split(prepared, fold, recipe.view)
    described = {"recipe": to_dict(recipe), "fold": fold, "data": name, "data_hash": prepared.digest}
    weights = member_path(name, recipe.name, fold)
    title = f"{recipe.name} fold {fold} of {name}"
    if _same_run(folder, described, weights):
        say(f"{title}: already trained, {weights}")
        return
    if rank == 0:
        write_text(folder / "config.json", json.dumps(described, indent=1, sort_keys=True) + "\n")

    device = pick_device(int(os.environ.get("LOCAL_RANK", "0")))
    _seed_all(recipe.train.seed)
    model = build(recipe.model, recipe.view.size)
    last = folder / "last.pt"
    frames = TrainingFrames(prepared.folder, rows, Policy(recipe.augment, recipe.view), recipe.train.seed)
    steps = loop.count_steps(len(frames), recipe.train)
    if not last.is_file():
        load_pretrained(model, recipe.model)
    state = loop.start(model, recipe, device, steps)
    if recipe.train.class_balance:
        live = int((rows.label == 1).sum())
        state.class_weights = class_weights(live, len(rows) - live)
    if last.is_file():
        loop.resume(state, last)
    say(
        f"{title}: {recipe.model.name}, {parameter_count(model) / 1e6:.1f} M parameters, "
        f"{recipe.view.kind} {recipe.view.size} px, {len(frames)} frames of {rows.filename.nunique()} videos, "
        f"{len(held_out)} videos held out, {recipe.train.epochs} epochs of {steps} steps, {world} x {device.type}"
        + (f", continuing after step {state.step}" if state.step else "")
    )
    videos = HeldOutVideos(prepared, held_out, recipe.view)
    oof = None

    def after_epoch(row: dict) -> None:
        nonlocal oof
        oof = score_held_out(state, videos, prepared, recipe)
        row.update(_figures(oof, recipe))
        state.history.append(row)
        say(
            f"  epoch {row['epoch']:2d}/{recipe.train.epochs}  loss {row['train_loss']:.4f}  held-out: log loss "
            f"{row['logloss']:.4f}  EER {100 * row['eer']:.1f} %  AUC {row['auc']:.3f}  ({row['seconds']:.0f} s)"
        )
        if rank == 0:
            loop.save(state, last)
            _write_history(folder / "metrics.csv", state.history)

    signals = _Signals()
    try:
        finished = loop.fit(state, frames, recipe, after_epoch, lambda: rank == 0 and signals.came)
    except RuntimeError:
        if signals.came:  # rank 0 has left, and this rank was waiting for it
            sys.exit(STOPPED)
        raise
    if not finished:
        loop.save(state, last)
        say(f"{title}: stopped in epoch {state.epoch + 1} after step {state.step}; the same command continues")
        sys.stdout.flush()
        os._exit(STOPPED)  # the other ranks wait in a collective, so leaving it in good order would hang
    if oof is None:  # stopped between the last epoch and the end
        oof = score_held_out(state, videos, prepared, recipe)
    if rank == 0:
        finish(state, oof, prepared, described, folder)
    distributed.barrier()
    say(f"{title}: {weights}")


class _Signals:
    """Notes SIGTERM and SIGINT instead of dying in the middle of a step."""

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, *_: Any) -> None:
        self.came = True


def _die_with_parent() -> None:
    """Ask Linux to kill this process when torchrun dies, so that no orphan goes on writing."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _same_run(folder: Path, described: dict, weights: Path) -> bool:
    """Whether this very run is finished. A run of another recipe or data is a UserError."""
    record = folder / "config.json"
    if record.is_file():
        there = json.loads(record.read_text(encoding="utf-8"))
        # How many processes load data, or how much one takes at once, is not part of the recipe.
        difference = [d for d in _differences(there, described) if "recipe.train.workers" not in d]
        if difference:
            raise UserError(
                f"{folder} holds another run: {'; '.join(difference[:3])}; remove the folder, or give --restart"
            )
    return record.is_file() and (folder / "oof.csv").is_file() and weights.is_file()


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{key}.{k}".lstrip("."))]
    return [] if old == new else [f"{key} is {str(old)[:40]} there, {str(new)[:40]} here"]


def _seed_all(seed: int) -> None:
    """Seed the draw of the initial weights: equal on every rank."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def score_held_out(state: Any, videos: Any, prepared: Any, recipe: Recipe) -> Any:
    """The out-of-fold table: every held-out frame scored exactly once, on every rank the same.

    Videos are dealt to the ranks, and each is scored by itself, as in prediction.
    """
    import pandas as pd
    import torch
    from torch.utils.data import DataLoader, Subset

    from liveness import distributed
    from liveness.model.score import Scorer

    scorer = Scorer(state.best_guess, state.device, recipe.train.amp)
    mine = list(range(distributed.rank(), len(videos), distributed.size()))
    loader = DataLoader(
        Subset(videos, mine), batch_size=None, num_workers=recipe.train.workers, collate_fn=lambda item: item
    )
    scored: list[tuple[str, int, float]] = []
    with torch.random.fork_rng(devices=[]):  # the loader draws a seed; training must not notice
        for name, frame_ids, views in loader:
            for frame_id, score in zip(frame_ids, scorer.frames(views, len(frame_ids)), strict=True):
                scored.append((name, frame_id, float(score)))
    found = {(name, frame_id): score for name, frame_id, score in distributed.gather(scored)}
    rows = []
    for name in videos.filenames:
        video = prepared.videos.loc[name]
        fixed = {"filename": name, "video_id": video.video_id, "label": int(video.label), "fold": int(video.fold)}
        for row in videos.rows.get(name, []):
            score = found.get((name, int(row.frame_id)), math.nan)
            status = "ok" if math.isfinite(score) else "no_face"
            rows.append({**fixed, "frame_id": int(row.frame_id), "score": score, "status": status})
        if name not in videos.rows:
            status = video.status if video.status != "ok" else "no_frames"
            rows.append({**fixed, "frame_id": None, "score": math.nan, "status": status})
    table = pd.DataFrame(rows, columns=OOF_COLUMNS)
    table["frame_id"] = table.frame_id.astype("Int64")
    return table


def _figures(oof: Any, recipe: Recipe) -> dict[str, float]:
    """Log loss, EER and AUC of the held-out videos that have a score."""
    from liveness.evaluation import metrics
    from liveness.evaluation.combine import video_scores

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


def _write_history(path: Path, history: list[dict]) -> None:
    import pandas as pd

    with written_aside(path) as side:
        pd.DataFrame(history).to_csv(side, index=False, lineterminator="\n")


def finish(state: Any, oof: Any, prepared: Any, described: dict, folder: Path) -> None:
    """Write oof.csv, then the weights: the file whose presence means that the member is made."""
    from liveness.config import from_dict
    from liveness.data.contract import make_contract
    from liveness.model.checkpoint import member_path, save_member

    recipe = from_dict(Recipe, described["recipe"], "recipe")
    with written_aside(folder / "oof.csv") as side:
        oof.to_csv(side, index=False, lineterminator="\n")
    figures = {key: value if math.isfinite(value) else None for key, value in _figures(oof, recipe).items()}
    contract = make_contract(recipe, prepared.data, prepared.detector_sha256)
    path = member_path(described["data"], recipe.name, described["fold"])
    held_out = {"videos": oof.filename.nunique(), **figures}
    save_member(path, state.best_guess.state_dict(), {**described, "contract": contract, "held_out": held_out})


if __name__ == "__main__":
    # tqdm and prints of several ranks would mix; rank 0 alone speaks, errors come from every rank.
    sys.stdout.reconfigure(line_buffering=True)
    run(main)
