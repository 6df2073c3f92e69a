"""Published checkpoints as members of this project: timm's names, one logit, a preprocessing contract.

    for path, made in convert_ensemble("zalo2022_published"): ...

Reads the original of every member of the ensemble (``original_path``): two classes in Meta's key names, of which
index 1 is live, or a network that tells its own classes (models/minifasnet.py). Writes
weights/<set>/<recipe>_fold<k>.safetensors and, where their licence asks for it, weights/<set>/NOTICE.txt. No weights
are unpickled freely (members/weights.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from liveness.base.compose import load_ensemble, load_recipe
from liveness.base.config import Data, Recipe, to_dict
from liveness.base.errors import UserError
from liveness.base.files import sha256_of, show_path, workspace, write_text
from liveness.members.names import member_name, operating_path, shipped_operating, weights_path
from liveness.members.weights import (
    describe_member,
    head_names,
    load_strictly,
    read_state,
    save_member,
    to_one_logit,
    to_timm_names,
    without_prefixes,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Original:
    """A file that its authors have published, as it lies in their repository."""

    name: str
    sha256: str


# model.name -> its original under weights/<set>/, where that has a known digest.
ORIGINALS = {
    "minifasnet_v2": Original(
        "2.7_80x80_MiniFASNetV2.pth", "a5eb02e1843f19b5386b953cc4c9f011c3f985d0ee2bb9819eea9a142099bec0"
    ),
    "minifasnet_v1se": Original(
        "4_0_0_80x80_MiniFASNetV1SE.pth", "84ee1d37d96894d5e82de5a57df044ef80a58be2b218b5ed7cdfd875ec2f5990"
    ),
}


def original_path(data: str, model: str, fold: int) -> Path:
    """Where a member's original lies: weights/<set>/original/<model name>_fold<k>.pth, or under its authors' name."""
    folder = workspace() / "weights" / data
    if model in ORIGINALS:
        return folder / ORIGINALS[model].name
    return folder / "original" / f"{member_name(model, fold)}.pth"


def convert_ensemble(name: str) -> Iterator[tuple[Path, bool]]:
    """(member's file, whether it was made now) for each member; what is of the same original and recipe stays.

    A UserError, before the first is made, that names every original that is missing, or one that is another file.
    """
    ensemble, plan = load_ensemble(name), []
    for member in ensemble.members:
        if member.folds:
            raise UserError(f"ensemble {name}: folds: {member.folds}; expected a fold per member to convert")
        recipe = load_recipe(member.recipe)
        source = original_path(ensemble.data, recipe.model.name, member.fold)
        plan.append((source, weights_path(ensemble.data, member.recipe, member.fold), recipe, member.fold))
    missing = [str(source) for source, *_ in plan if not source.is_file()]
    if missing:
        raise UserError(f"missing: {', '.join(missing)}; run: bash download_weights.sh {name}")
    for source, _, recipe, _ in plan:
        _require_original(source, recipe.model.name)
    notice = Path(__file__).with_name("licences") / f"{ensemble.data}.txt"
    if notice.is_file():
        write_text(workspace() / "weights" / ensemble.data / "NOTICE.txt", notice.read_text(encoding="utf-8"))
    _write_operating(name, ensemble.data)
    for source, target, recipe, fold in plan:
        made = not (target.is_file() and is_made_from(target, source, recipe))
        if made:
            convert_checkpoint(source, target, recipe, fold)
        yield target, made


def _write_operating(name: str, data: str) -> None:
    """The decision that comes with an ensemble, configs/operating/<name>.json, beside its weights."""
    if shipped := shipped_operating(data, name):
        write_text(operating_path(data, name), shipped.read_text(encoding="utf-8"))


def _require_original(source: Path, model: str) -> None:
    """A UserError for another file under the name of an original whose digest is known."""
    if model in ORIGINALS and (digest := sha256_of(source)) != ORIGINALS[model].sha256:
        raise UserError(
            f"{source}: its SHA-256 is {digest}, the published one is {ORIGINALS[model].sha256}; "
            "nothing was converted; move it away and download it again"
        )


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


def told_of_published(data: str) -> str:
    """What to say where a set has only converted members, which held out no video of it; "" where that is not so."""
    folder = workspace() / "weights" / data
    paths = sorted(folder.glob("*_fold*.safetensors"))
    if not paths or not all(describe_member(path).get("converted_from") for path in paths):
        return ""
    return (
        f"{show_path(folder)} holds published members, trained elsewhere, which held out no video; measure them on a "
        "labelled set: python -m liveness.evaluate ENSEMBLE --on SET"
    )


def convert_checkpoint(source: Path, target: Path, recipe: Recipe, fold: int) -> None:
    """One checkpoint as a member with one logit, whose scores are the original's.

    Of two classes (0 = attack, 1 = live) the head becomes the difference of its rows: softmax(z)[1] = sigmoid(z1 - z0).
    A UserError where the checkpoint does not fit the recipe's model.
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
    """The recipe's model with a published checkpoint's weights."""
    from liveness.models.build import build

    model = build(recipe.model, recipe.view.size)
    state, prefix = without_prefixes(read_state(source), model)
    if prefix and recipe.model.name not in ORIGINALS:
        print(f"{source}: {prefix!r} before every name left out")
    state = to_timm_names(state, model)
    for head in head_names(model):
        if f"{head}.weight" not in state:
            raise UserError(f"{source}: no classifier {head}.weight in it; not a checkpoint of {recipe.model.name}")
        state = to_one_logit(state, head)
    load_strictly(model, state, str(source))
    return model
