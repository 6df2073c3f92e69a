"""All that can be known of a training before it starts: checked before hours are spent, or an earlier run is removed.

    check_member(recipe, 0, "train", folder, restart=True)

Reads what training would read, pretrained files mapped and models by their shapes; writes nothing.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pandas as pd

from liveness.base import distributed, launch
from liveness.base.compose import from_dict
from liveness.base.config import Model, Recipe, View, to_dict
from liveness.base.errors import UserError
from liveness.base.files import unprepared, workspace
from liveness.frames.contract import LONGEST
from liveness.members.names import run_folder
from liveness.members.weights import check_pretrained, pretrained_path
from liveness.models.build import build, build_without_weights, count_parameters
from liveness.models.device import pick_device
from liveness.sets.dataset import PreparedSet, load_set, split_set
from liveness.training import tracking
from liveness.training.pseudo_labels import split_training
from liveness.training.runs import clear_run, describe_run, differences_of_run, find_run_weights, lock_run, same_run
from liveness.training.samples import find_balance, require_share
from liveness.training.saving import given_seconds
from liveness.training.semi import find_apart
from liveness.training.start import count_frozen, list_stages
from liveness.training.task import checkpoint_activations


@contextmanager
def claim_run(
    recipe: Recipe, fold: int, name: str, naive: bool = False, restart: bool = False, replace: bool = False
) -> Iterator[Path]:
    """Gives the run's folder, locked, once every rank has found that it can train; emptied for a restart, and with
    ``replace`` where it holds another run."""
    if not (workspace() / "data" / name / "folds.csv").is_file():
        raise UserError(unprepared(name))  # before there is a folder
    folder, rank = run_folder(name, recipe.name, fold), distributed.rank()
    with lock_run(folder, rank):
        if replace:
            described = describe_run(recipe, fold, load_set(name, recipe.frames, naive), naive)
            restart = restart or bool(differences_of_run(folder, described, find_run_weights(described)))
        check_member(recipe, fold, name, folder, naive, restart)
        distributed.barrier()
        if restart and rank == 0:
            clear_run(folder)
        distributed.barrier()
        yield folder


def check_member(
    recipe: Recipe, fold: int, name: str, folder: Path, naive: bool = False, restart: bool = False
) -> None:
    """The UserError that training this member would end on, as far as it can be known; nothing where it is finished.

    folder: of its run. restart: what lies there does not count.
    """
    prepared = load_set(name, recipe.frames, naive)
    split_set(prepared, fold, recipe.view)  # refuses a fold that is none
    described = describe_run(recipe, fold, prepared, naive)
    weights = find_run_weights(described)
    if not restart and same_run(folder, described, weights):
        return
    pick_device(launch.local_rank())  # a GPU that cannot be used is an error
    tracking.require_tracker(recipe.tracker)
    given_seconds()
    _require_frames_that_fit(recipe.view, prepared)
    rows, _ = split_training(recipe, fold, prepared)
    if recipe.train.task == "mean_teacher":
        rows = rows[~rows.filename.isin(find_apart(recipe, prepared, rows))]
    require_share(len(rows), recipe.train, distributed.size())
    find_balance(recipe, prepared, rows)
    fresh = restart or not (folder / "last.pt").is_file()
    parameters = _check_model(
        json.dumps(to_dict(recipe.model)),
        recipe.view.size,
        fresh and (not recipe.train.init or recipe.train.task == "cross_pseudo"),
        recipe.train.checkpoint_activations,
        recipe.train.freeze,
    )
    states = 2 if fresh else 1  # a new last.pt is written beside the one before it
    freed = (folder / "last.pt").stat().st_size if restart and (folder / "last.pt").is_file() else 0
    each = (16 if recipe.train.ema_half_life else 12) + (12 if recipe.train.task == "cross_pseudo" else 0)
    require_room(folder, states * each * parameters - freed)
    require_room(weights.parent, 4 * parameters)


def _require_frames_that_fit(view: View, prepared: PreparedSet) -> None:
    """A UserError for a video whose frames are too long for a view that keeps their shape."""
    videos = prepared.videos
    if (view.kind, view.resize) != ("frame", "short_side") or not {"width", "height"} <= set(videos.columns):
        return
    sizes = videos[["width", "height"]].apply(pd.to_numeric, errors="coerce")
    long = videos.index[sizes.max(axis=1) > LONGEST * sizes.min(axis=1)]
    if len(long):
        raise UserError(
            f"view.resize=short_side: the frames of {long[0]} are more than {LONGEST} times as long as wide; leave it "
            "out of the set, or take view.resize=stretch"
        )


@lru_cache(maxsize=8)  # the members of a recipe share it
def _check_model(model: str, size: int, pretrained: bool, activations: bool, freeze: str) -> int:
    """The number of parameters, once the model builds, takes images of that size, has the stages that are frozen and
    its pretrained file fits."""
    config = from_dict(Model, json.loads(model), "model")
    if pretrained and config.pretrained:
        pretrained_path(config)  # before the model is built, which takes seconds
    found = build_without_weights(config, size) or build(config, size)
    if activations:
        checkpoint_activations(found, config.name)
    if freeze != "none":
        count_frozen(freeze, len(list_stages(found)))
    if pretrained:
        check_pretrained(found, config)
    return count_parameters(found)


def require_room(folder: Path, size: int) -> None:
    """A UserError unless ``size`` more bytes can be written to a folder, which need not be there yet."""
    there = folder
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{there}: is a file; expected a folder, for {folder}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there}: cannot write there; expected a folder for {folder}")
    free = shutil.disk_usage(there).free
    if free < size:
        raise UserError(f"{there}: {free / 1e9:.1f} GB free, this training writes {size / 1e9:.1f} GB there; make room")
