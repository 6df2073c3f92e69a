"""Turn published two-class checkpoints into members of this project.

    python -m liveness.convert zalo2022_published

Reads   configs/ensemble/<name>.yaml and, for each of its members,
        weights/<set>/original/<model name>_fold<k>.pth (Meta's key names, index 1 = live)
Writes  weights/<set>/<recipe>_fold<k>.safetensors: timm's names, one logit, and the preprocessing
        that its recipe describes. A member of the same original (by its digest) and recipe is left alone.
"""

import argparse
from pathlib import Path
from typing import Any

from liveness.base.compose import load_ensemble, load_recipe
from liveness.base.config import Data, Recipe, to_dict
from liveness.base.errors import UserError, run
from liveness.base.files import workspace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m liveness.convert", description="Convert two-class checkpoints.")
    parser.add_argument("ensemble", help="a name in configs/ensemble whose originals were downloaded")
    ensemble = load_ensemble(parser.parse_args().ensemble)

    from liveness.members.names import weights_path

    plan = []
    for member in ensemble.members:
        if member.folds:
            raise UserError(f"ensemble {ensemble.name}: folds: {member.folds}; expected a fold per member to convert")
        recipe = load_recipe(member.recipe)
        name = f"{recipe.model.name}_fold{member.fold}.pth"
        source = workspace() / "weights" / ensemble.data / "original" / name
        plan.append((member, recipe, source, weights_path(ensemble.data, member.recipe, member.fold)))
    missing = [str(source) for _, _, source, _ in plan if not source.is_file()]
    if missing:  # before the first, each of which takes a while
        raise UserError(f"missing: {', '.join(missing)}; run: bash download_weights.sh {ensemble.name}")
    for member, recipe, source, target in plan:
        if target.is_file() and made_from(target, source, recipe):
            print(f"{target}: already converted")
            continue
        convert(source, target, recipe, member.fold)
        print(target)
    return 0


def made_from(target: Path, source: Path, recipe: Recipe) -> bool:
    """Whether a member is this original's, by its digest and the recipe; damaged or other files are not."""
    from liveness.base.files import sha256_of
    from liveness.members.weights import describe_member

    try:
        about = describe_member(target)
    except UserError:
        return False
    return about["recipe"] == to_dict(recipe) and about.get("converted_from") == sha256_of(source)


def convert(source: Path, target: Path, recipe: Recipe, fold: int) -> None:
    """One checkpoint with two classes (0 = attack, 1 = live) as a member with one logit.

    softmax(z)[1] = sigmoid(z1 - z0), so the head becomes the difference of its rows, and the scores
    are the original's. A UserError where the checkpoint does not fit the recipe's model.
    """
    from liveness.base.files import sha256_of
    from liveness.frames.contract import make_contract
    from liveness.frames.faces import detector_path
    from liveness.members.weights import save_member

    model = convert_state(source, recipe)
    description: dict[str, Any] = {
        "recipe": to_dict(recipe),
        "fold": fold,
        "data": recipe.data,
        "data_hash": "",
        "converted_from": sha256_of(source),
        "contract": make_contract(recipe, Data(), sha256_of(detector_path())),
        "held_out": {},
    }
    save_member(target, model.state_dict(), description)


def convert_state(source: Path, recipe: Recipe) -> Any:
    """The recipe's model with a two-class checkpoint's weights."""
    from liveness.members.weights import (
        head_name,
        load_strictly,
        read_state,
        to_one_logit,
        to_timm_names,
        without_prefixes,
    )
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


if __name__ == "__main__":
    run(main)
