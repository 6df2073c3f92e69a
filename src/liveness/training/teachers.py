"""Who teaches in distillation: trained members, as ``train.teacher`` names them, checked and then asked.

    record = check_teacher(recipe, fold, prepared)         for config.json; a UserError before anything is trained
    teachers = Teachers(recipe, fold, prepared)
    teachers.to(device); answer = teachers(images)

A teacher sees the very tensors that the model sees, so it has to have been trained on such: kind, size, resize,
normalisation. It must not have seen the videos that are held out, or the out-of-fold error would be a fiction.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from liveness.base.compose import from_dict, load_ensemble, names
from liveness.base.config import Recipe, View
from liveness.base.errors import UserError
from liveness.base.files import plain_name, show_path, written_aside
from liveness.members.names import run_folder, species_path, weights_path
from liveness.members.weights import describe_member, load_member, load_state, load_strictly
from liveness.models.build import build, build_without_weights
from liveness.models.device import autocast
from liveness.models.distillation import blend_logits, split_in_two
from liveness.models.taps import measure_classifier, take_tapped, tap_classifier
from liveness.sets.dataset import PreparedSet
from liveness.training.species import Species
from liveness.training.start import init_path, require_fold_safe

# Of a view: what may differ between a teacher and the recipe, because a training tensor does not depend on it.
_FREE = {"train_scales", "crops", "mirror"}
_OF_FACES = {"scales", "cut"}


@dataclass(frozen=True)
class Teaching:
    """A member that teaches, and its weight among them. ``path``: where its file is read."""

    member: Path  # the file that was named
    path: Path
    weight: float = 1.0


# --- who -------------------------------------------------------------------------------------------


def find_teachers(recipe: Recipe, fold: int, data: str) -> list[Teaching]:
    """The members that ``train.teacher`` names: RECIPE:FOLD, or RECIPE for the same fold, or the members of an ensemble
    for the same fold, of the same set or of SET/. A UserError where one is not there.

    A recipe can teach its own next training: the file that this training will replace is kept in the run's folder.
    """
    text = recipe.train.teacher
    folder, _, name = text.rpartition("/")
    where = plain_name(folder, "train.teacher") if folder else data
    if name in names("ensemble"):
        members = [m for m in load_ensemble(name).members if m.folds or m.fold == fold]
        if [m.recipe for m in members] != [name]:  # else both meanings of the name are one
            if name in names("recipe") or weights_path(where, name, fold).is_file():
                raise UserError(f"train.teacher={text}: a recipe and an ensemble; write {name}:{fold} for the recipe's")
            if not members:
                raise UserError(f"train.teacher={text}: the ensemble {name} has no member of fold {fold}")
            named = {weights_path(where, m.recipe, fold): m.weight for m in members}
            missing = [show_path(path) for path in named if not path.is_file()]
            if missing:
                raise UserError(f"train.teacher={text}: not there: {', '.join(missing)}; train them first")
            return [Teaching(path, _find_kept(path, recipe, fold, data), weight) for path, weight in named.items()]
    path = init_path(text, fold, data, "train.teacher")
    return [Teaching(path, _find_kept(path, recipe, fold, data))]


def _find_kept(path: Path, recipe: Recipe, fold: int, data: str) -> Path:
    """A teacher's file; of the recipe's own earlier member what ``keep_own`` has kept, as soon as it has."""
    kept = run_folder(data, recipe.name, fold) / "teacher" / path.name
    return kept if path == weights_path(data, recipe.name, fold) and kept.is_file() else path


def keep_own(recipe: Recipe, fold: int, data: str) -> None:
    """Copy the recipe's own earlier member, if it teaches, to where this training does not replace it. For rank 0."""
    own = weights_path(data, recipe.name, fold)
    if recipe.train.task != "distil" or own not in [teaching.path for teaching in find_teachers(recipe, fold, data)]:
        return
    kept = run_folder(data, recipe.name, fold) / "teacher" / own.name
    if kept.is_file():  # else a run that was killed while it wrote its member would take that for its teacher
        return
    pairs = ((species_path(own), species_path(kept)), (own, kept))  # the member last: it says that all is there
    for path, copy in pairs:
        if path.is_file():
            with written_aside(copy) as side:
                shutil.copyfile(path, side)


# --- whether they may ------------------------------------------------------------------------------


def check_teacher(
    recipe: Recipe, fold: int, prepared: PreparedSet, species: Species | None
) -> list[dict[str, Any]] | None:
    """Who teaches a run, for its config.json: member, digest of the weights and weight; None without a teacher.

    A UserError where a teacher is of another input contract, may have seen the videos that this run holds out, or does
    not have what the losses compare.
    """
    if recipe.train.task != "distil":
        return None
    found = []
    for teaching in find_teachers(recipe, fold, prepared.name):
        path, about = teaching.path, describe_member(teaching.path)
        where = show_path(teaching.member)
        _require_same_view(about, recipe, prepared, where)
        require_fold_safe(about, prepared, fold, where)
        entry = {"member": where, "weights_sha256": str(about.get("weights_sha256", "")), "weight": teaching.weight}
        found.append(entry | _check_parts(recipe, path, about, species, where))
    return found


def _require_same_view(about: dict[str, Any], recipe: Recipe, prepared: PreparedSet, where: str) -> None:
    """A UserError unless a teacher was trained on what the recipe's training makes of a frame."""
    view = from_dict(View, about["contract"]["view"], where)
    face = recipe.view.kind == "face"
    for part in (item.name for item in fields(View) if item.name not in _FREE | (set() if face else _OF_FACES)):
        if getattr(view, part) != getattr(recipe.view, part):
            raise UserError(
                f"train.teacher: {where} was trained with view.{part}={getattr(view, part)}, the recipe has "
                f"{getattr(recipe.view, part)}; a teacher has to see what the recipe's model sees"
            )
    if face and about["contract"]["detector_sha256"] != prepared.detector_sha256:
        raise UserError(
            f"train.teacher: {where} was trained on boxes of another face detector than data/{prepared.name}'s"
        )


def compares_classes(recipe: Recipe, classes: int) -> bool:
    """Whether the decoupled loss compares the classes of the networks themselves, and not those of species heads."""
    return recipe.train.distil == "dkd" and classes >= 3


def _check_parts(
    recipe: Recipe, path: Path, about: dict[str, Any], species: Species | None, where: str
) -> dict[str, str]:
    """What a run records of a teacher beyond its weights: nothing, or the digest of its species head.

    A UserError where teacher or model lacks what decoupled distillation or feature matching compare.
    """
    train = recipe.train
    if train.distil != "dkd" and not train.distil_features:
        return {}
    theirs = from_dict(Recipe, {"model": about["recipe"]["model"], "view": about["recipe"]["view"]}, where)
    (classes, features), (of_teacher, taught) = _measure(recipe), _measure(theirs)
    if train.distil_features and features != taught:
        raise UserError(
            f"train.distil_features: {where} has {taught} features before its classifier, {recipe.model.name} has "
            f"{features}; expected as many, or train.distil_features=0"
        )
    if train.distil != "dkd":
        return {}
    if compares_classes(recipe, classes):
        if of_teacher != classes:
            raise UserError(f"train.distil=dkd: {where} tells {of_teacher} classes, {recipe.model.name} {classes}")
        return {}
    if species is None:
        raise UserError(
            f"train.distil=dkd: {recipe.model.name} tells two classes, of which the term among the other classes is "
            "identically zero; expected train.distil=kd, a model of three classes (minifasnet_v2), or species "
            "(train.species_weight)"
        )
    return {"species_sha256": _check_head(path, about, species)}


def _measure(recipe: Recipe) -> tuple[int, int]:
    model = build_without_weights(recipe.model, recipe.view.size, fits=True) or build(recipe.model, recipe.view.size)
    return measure_classifier(model)


def _check_head(path: Path, about: dict[str, Any], species: Species) -> str:
    """The digest of a teacher's species head; a UserError unless it is there, the member's own and of these classes."""
    head, how = species_path(path), "train the teacher with train.species_weight"
    if not head.is_file():
        raise UserError(f"train.distil=dkd: {show_path(path)} has no species head ({show_path(head)}); {how}")
    told = describe_member(head)
    if told.get("member_sha256", "") != about.get("weights_sha256"):
        raise UserError(f"train.distil=dkd: {show_path(head)} belongs to other weights than {show_path(path)}; {how}")
    if told["species"] != species.classes:
        raise UserError(
            f"train.distil=dkd: {show_path(head)} tells {', '.join(told['species'])}, the training side has "
            f"{', '.join(species.classes)}"
        )
    return str(told["weights_sha256"])


# --- what they say ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the teachers say of N images, blended; float32, without a graph."""

    live: torch.Tensor  # log-odds of live, (N,)
    classes: torch.Tensor | None  # logits of the networks' own classes, (N, K), where they are asked for
    species: torch.Tensor | None  # logits of the species heads, (N, K), where they are asked for
    features: list[torch.Tensor]  # of each teacher (N, C)


class Teachers:
    """Trained members in evaluation mode, which learn nothing and are no part of any state."""

    def __init__(self, recipe: Recipe, fold: int, data: str, classes: bool, species: int) -> None:
        """classes: their own are asked for. species: how many classes their species heads tell; 0 = they are not asked
        for."""
        from liveness.models.head import HeadLinear

        teachings = find_teachers(recipe, fold, data)
        self.weights = [teaching.weight for teaching in teachings]
        self.classes, self.amp = classes, recipe.train.amp
        self.models, self.heads = [], []
        for teaching in teachings:
            model, _ = load_member(teaching.path)
            tap_classifier(model)
            self.models.append(model.requires_grad_(False))
            if species:
                path = species_path(teaching.path)
                head = HeadLinear(measure_classifier(model)[1], species)
                load_strictly(head, load_state(path)[0], show_path(path))
                self.heads.append(head.requires_grad_(False))

    def to(self, device: torch.device) -> None:
        """Where they are asked."""
        for network in (*self.models, *self.heads):
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> Answer:
        """images: float32 N x 3 x H x W on the device, as the model gets them."""
        live, inner = [], []
        for model in self.models:
            with autocast(images.device, self.amp):
                live.append(model(images).flatten().float())
            inner.append(take_tapped(model))
        blend: Callable[[list[torch.Tensor]], torch.Tensor] = lambda parts: blend_logits(parts, self.weights)  # noqa: E731
        two = blend([split_in_two(logits) for logits in live])
        return Answer(
            two[:, 1] - two[:, 0],
            blend([part.classes for part in inner]) if self.classes else None,
            blend([head(part.features) for head, part in zip(self.heads, inner, strict=True)]) if self.heads else None,
            [part.features for part in inner],
        )


def describe_teachers(recipe: Recipe, fold: int, data: str) -> list[dict[str, Any]]:
    """The descriptions of the members that teach; none without a teacher."""
    if recipe.train.task != "distil":
        return []
    return [describe_member(teaching.path) for teaching in find_teachers(recipe, fold, data)]
