"""The ways to train, by their names in ``train.task``.

task = make_task(recipe, prepared, rows)
"""

import random
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from liveness.base.config import Recipe
from liveness.base.validity import require
from liveness.models.build import build
from liveness.sets.dataset import PreparedSet
from liveness.training.augment import Policy
from liveness.training.distil import make_distilled
from liveness.training.samples import TrainingFrames, find_balance
from liveness.training.semi import make_cross_pseudo, make_mean_teacher
from liveness.training.species import make_with_species
from liveness.training.task import Supervised

Maker = Callable[[Recipe, PreparedSet, pd.DataFrame, TrainingFrames], Supervised]


def make_task(recipe: Recipe, prepared: PreparedSet, rows: pd.DataFrame) -> Supervised:
    """What is learned from the frames ``rows``. The model has its first random weights, equal on every rank."""
    require(
        not recipe.train.pseudo_labels or "folder" in rows,
        f"train.pseudo_labels={recipe.train.pseudo_labels}: these labels are for the folds of the set alone, not for "
        "others within them (a search)",
    )
    seed = recipe.train.seed
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    frames = TrainingFrames(prepared.folder, rows, Policy(recipe.augment, recipe.view), seed)
    return MAKERS[recipe.train.task](recipe, prepared, rows, frames)


def _make_supervised(recipe: Recipe, prepared: PreparedSet, rows: pd.DataFrame, frames: TrainingFrames) -> Supervised:
    if recipe.train.species_weight:
        return make_with_species(recipe, prepared, rows, frames)
    return Supervised(recipe, build(recipe.model, recipe.view.size), frames, find_balance(recipe, prepared, rows))


# A maker builds its networks, the member's first.
MAKERS: dict[str, Maker] = {
    "supervised": _make_supervised,
    "distil": make_distilled,
    "cross_pseudo": make_cross_pseudo,
    "mean_teacher": make_mean_teacher,
}
