"""Published two-class checkpoints as members of this project: timm's names, one logit, a preprocessing contract.

    for path, made in convert_ensemble("zalo2022_published"): ...

Reads weights/<set>/original/<model name>_fold<k>.pth (Meta's key names, index 1 = live) of every member of the
ensemble; writes weights/<set>/<recipe>_fold<k>.safetensors. No weights are unpickled freely (members/weights.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from liveness.base.compose import load_ensemble, load_recipe
from liveness.base.config import Data, Recipe, to_dict
from liveness.base.errors import UserError
from liveness.base.files import sha256_of, workspace
from liveness.members.names import member_name, weights_path
from liveness.members.weights import (
    describe_member,
    head_name,
    load_strictly,
    read_state,
    save_member,
    to_one_logit,
    to_timm_names,
    without_prefixes,
)

if TYPE_CHECKING:
    from torch import nn


def convert_ensemble(name: str) -> Iterator[tuple[Path, bool]]:
    """(member's file, whether it was made now) for each member; what is of the same original and recipe stays.

    A UserError, before the first is made, that names every original that is missing.
    """
    ensemble, plan = load_ensemble(name), []
    for member in ensemble.members:
        if member.folds:
            raise UserError(f"ensemble {name}: folds: {member.folds}; expected a fold per member to convert")
        recipe = load_recipe(member.recipe)
        original = f"{member_name(recipe.model.name, member.fold)}.pth"
        source = workspace() / "weights" / ensemble.data / "original" / original
        plan.append((source, weights_path(ensemble.data, member.recipe, member.fold), recipe, member.fold))
    missing = [str(source) for source, *_ in plan if not source.is_file()]
    if missing:
        raise UserError(f"missing: {', '.join(missing)}; run: bash download_weights.sh {name}")
    for source, target, recipe, fold in plan:
        made = not (target.is_file() and is_made_from(target, source, recipe))
        if made:
            convert_checkpoint(source, target, recipe, fold)
        yield target, made


def is_made_from(target: Path, source: Path, recipe: Recipe) -> bool:
    """Whether a member is this original's, by its digest and what of the recipe scores; damaged or other files are not.

    How a recipe trains says nothing of a converted member, and gains options with time.
    """
    try:
        about = describe_member(target)
    except UserError:
        return False
    wanted = to_dict(recipe)
    same = all(about["recipe"].get(key) == wanted[key] for key in ("name", "frames", "view", "combine", "model"))
    return same and about.get("converted_from") == sha256_of(source)


def convert_checkpoint(source: Path, target: Path, recipe: Recipe, fold: int) -> None:
    """One checkpoint with two classes (0 = attack, 1 = live) as a member with one logit.

    softmax(z)[1] = sigmoid(z1 - z0), so the head becomes the difference of its rows, and the scores
    are the original's. A UserError where the checkpoint does not fit the recipe's model.
    """
    from liveness.frames.contract import make_contract
    from liveness.frames.faces import detector_path

    model = load_checkpoint(source, recipe)
    description = {
        "recipe": to_dict(recipe),
        "fold": fold,
        "data": recipe.data,
        "data_hash": "",
        "converted_from": sha256_of(source),
        "contract": make_contract(recipe, Data(), sha256_of(detector_path())),
        "held_out": {},
    }
    save_member(target, model.state_dict(), description)


def load_checkpoint(source: Path, recipe: Recipe) -> nn.Module:
    """The recipe's model with a two-class checkpoint's weights."""
    from liveness.models.build import build

    model = build(recipe.model, recipe.view.size)
    state, prefix = without_prefixes(read_state(source), model)
    if prefix:
        print(f"{source}: {prefix!r} before every name left out")
    state = to_timm_names(state, model)
    head = head_name(model)
    if f"{head}.weight" not in state:
        raise UserError(f"{source}: no classifier {head}.weight in it; not a checkpoint of {recipe.model.name}")
    load_strictly(model, to_one_logit(state, head), str(source))
    return model
