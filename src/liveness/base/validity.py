"""Whether a configuration (base/config.py) is within its bounds, and its parts fit each other."""

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from liveness.base.config import (
    COMBINE,
    Augment,
    Data,
    Ensemble,
    Folds,
    FramePlan,
    Recipe,
    Train,
    nearest,
    to_dict,
)
from liveness.base.errors import UserError

_Part = TypeVar("_Part")


def rebuild(schema: type[_Part], values: Any, where: str) -> _Part:
    """A part of the schema that nests no other, from ``to_dict``'s form; held against its bounds.

    What base/compose.py's ``from_dict`` does for any part, but without the configuration's libraries, which prediction
    with an exported ensemble does not have. A UserError for an unknown key, another type or a value out of its bounds.
    """
    require(isinstance(values, dict), f"{where}: {values!r}; expected the keys of {schema.__name__}")
    found = schema()
    known = [item.name for item in fields(found)]  # type: ignore[arg-type]
    for key, value in values.items():
        require(key in known, f"{where}: unknown key {key!r}{nearest(str(key), known)}")
        setattr(found, key, _typed(getattr(found, key), value, f"{where}: {key}"))
    check(found, where)
    return found


def _typed(usual: Any, value: Any, where: str) -> Any:
    """``value`` in the type of ``usual``: a whole number may stand for a real one, nothing else for another type."""
    if isinstance(usual, list):
        require(isinstance(value, list), f"{where}={_shown(value)}; expected a list")
        return [_typed(usual[0] if usual else 0.0, entry, where) for entry in value]
    kind = type(usual)
    fits = type(value) in ((int, float) if kind is float else (kind,))
    require(fits, f"{where}={_shown(value)}; expected {_KINDS[kind]}")
    return kind(value)


_KINDS = {float: "a number", int: "a whole number", str: "a word", bool: "true or false"}


def check(config: Any, where: str, prefix: str = "") -> None:
    """Hold every value of a configuration against its bound; a UserError names the first that lies outside.

    Then come the rules that several values of a dataclass have to fulfil together (``RULES``).
    """
    for item in fields(config):
        key, value = prefix + item.name, getattr(config, item.name)
        if is_dataclass(value):
            check(value, where, f"{key}.")
        elif isinstance(value, list) and value and is_dataclass(value[0]):
            for place, entry in enumerate(value):
                check(entry, where, f"{key}[{place}].")
        elif bound := item.metadata.get("bound"):
            require(bound.admits(value), f"{where}: {key}={_shown(value)}; expected {bound.expected()}")
    for rule in RULES.get(type(config), ()):
        rule(config, where)


def require(condition: Any, message: str) -> None:
    if not condition:
        raise UserError(message)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _check_frames(plan: FramePlan, where: str) -> None:
    require(
        plan.plan != "positions" or plan.positions,
        f"{where}: frames.positions is empty; expected at least one share from 0 to 1",
    )


def _check_data(data: Data, where: str) -> None:
    if data.folds.by == "camera":
        n, usual = data.folds.n, Folds().n
        require(
            n == usual, f"{where}: folds.n={n} with folds.by=camera, which has a fold for each camera; leave it out"
        )
        require(
            data.folds.holdout == 0,
            f"{where}: folds.holdout={data.folds.holdout:g} with folds.by=camera: a holdout is drawn from all cameras, "
            "so that its thresholds would be those of cameras that the members know; expected 0",
        )
    else:  # sets/folds.py knows how many cameras there are, and so whether folds.test is one
        require(
            data.folds.test < data.folds.n,
            f"{where}: folds.test={data.folds.test}; expected a fold, 0 to {data.folds.n - 1}",
        )
    require(
        not (data.folds.identities and data.folds.embeddings),
        f"{where}: folds.identities={data.folds.identities} and folds.embeddings={data.folds.embeddings}; expected "
        "one of them: auto computes embeddings, the other reads yours",
    )


def _check_recipe(recipe: Recipe, where: str) -> None:
    view, train = recipe.view, recipe.train
    require(
        re.fullmatch(COMBINE, recipe.combine),
        f"{where}: combine={recipe.combine}; expected mean, median, logit_mean, top<k>, low<k> or trimmed<percent>",
    )
    require(
        len(set(view.crops)) == len(view.crops) and all(0.1 <= share < 1 for share in view.crops),
        f"{where}: view.crops={view.crops}; expected different shares of a side from 0.1, below 1",
    )
    frozen = re.fullmatch(r"none|backbone|stages:[1-9]\d*", train.freeze)
    require(frozen is not None, f"{where}: train.freeze={train.freeze}; expected none, backbone or stages:N")
    _check_task(train, where)
    _check_unlabelled(train, where)
    _check_pseudo(train, where)
    require(
        not train.thaw_epochs or train.freeze != "none",
        f"{where}: train.thaw_epochs={train.thaw_epochs:g} without train.freeze: there is nothing to thaw",
    )
    if train.lr != "auto":
        number = isinstance(train.lr, int | float) and not isinstance(train.lr, bool)
        require(number and 0 < train.lr <= 1, f"{where}: train.lr={train.lr}; expected above 0, at most 1, or auto")
        require(0 <= train.min_lr <= train.lr, f"{where}: train.min_lr={train.min_lr}; expected 0 to train.lr")


def _check_task(train: Train, where: str) -> None:
    require(
        (train.task == "distil") == bool(train.teacher),
        f"{where}: train.task={train.task} with train.teacher={train.teacher!r}; distil needs a teacher (RECIPE:FOLD, "
        "SET/RECIPE:FOLD, a recipe or an ensemble), other tasks take none",
    )
    require(
        not train.species_weight or train.task in ("supervised", "distil"),
        f"{where}: train.species_weight={train.species_weight:g} with train.task={train.task}; expected 0",
    )


def _check_pseudo(train: Train, where: str) -> None:
    plain = train.task in ("supervised", "distil") and not train.species_weight
    require(
        plain or not train.pseudo_labels,
        f"{where}: train.pseudo_labels={train.pseudo_labels} with train.task={train.task} and train.species_weight="
        f"{train.species_weight:g}; expected supervised or distil, without species",
    )
    require(
        not train.keep_apart or train.select == "last",
        f"{where}: train.keep_apart with train.select={train.select}: a labeller's epoch may not be chosen on the fold "
        "that is held out; expected train.select=last",
    )


def _check_unlabelled(train: Train, where: str) -> None:
    semi = train.task in ("cross_pseudo", "mean_teacher")
    require(
        semi or not train.unlabelled,
        f"{where}: train.unlabelled={train.unlabelled} with train.task={train.task}; "
        "expected cross_pseudo or mean_teacher, which learn from a set without labels",
    )
    require(
        train.unlabelled or not semi,
        f"{where}: train.task={train.task} without train.unlabelled; expected the "
        "name of a prepared set, whose labels are not read",
    )
    require(
        train.ema_half_life > 0 or train.task != "mean_teacher",
        f"{where}: train.ema_half_life=0 with train.task=mean_teacher; expected above 0: the moving average teaches",
    )


def _check_augment(augment: Augment, where: str) -> None:
    require(
        augment.mixup + augment.cutmix <= 1,
        f"{where}: augment.mixup={augment.mixup} and augment.cutmix={augment.cutmix}; expected a sum of at most 1",
    )
    require(
        augment.attack_mix.print + augment.attack_mix.replay > 0 or augment.attack_rate == 0,
        f"{where}: augment.attack_mix={to_dict(augment.attack_mix)}; expected weights from 0, one at least above 0",
    )


def _check_ensemble(ensemble: Ensemble, where: str) -> None:
    require(ensemble.members, f"{where}: members is empty; expected a list of recipe, fold, weight")
    seen: set[tuple[str, int]] = set()
    whole = [member.recipe for member in ensemble.members if member.folds]
    for member in ensemble.members:
        key = (member.recipe, member.fold)
        twice = whole.count(member.recipe) > 1 or (member.recipe in whole and not member.folds)
        require(not twice, f"{where}: {member.recipe} is listed beside its own folds: all")
        require(key not in seen, f"{where}: {member.recipe} fold {member.fold} is listed twice")
        seen.add(key)
    if not whole:  # else it is not known yet which members there are
        check_cascade(ensemble)


def check_cascade(ensemble: Ensemble) -> None:
    """A UserError unless the cascade is one of the ensemble's members."""
    cascade, where = ensemble.cascade, f"ensemble {ensemble.name}"
    members = [f"{member.recipe}:{member.fold}" for member in ensemble.members]
    for entry in cascade.first:
        require(
            entry in members,
            f"{where}: cascade.first has {entry!r}; expected recipe:fold of its members{nearest(entry, members)}",
        )
    require(len(set(cascade.first)) == len(cascade.first), f"{where}: cascade.first lists a member twice")
    require(
        not cascade.first or len(cascade.first) < len(members),
        f"{where}: cascade.first lists all members; expected some of them, or none for no cascade",
    )
    require(
        0 <= cascade.low <= cascade.high <= 1,
        f"{where}: cascade.low={cascade.low}, cascade.high={cascade.high}; expected 0 <= low <= high <= 1",
    )


RULES: dict[type, tuple[Callable[[Any, str], None], ...]] = {
    FramePlan: (_check_frames,),
    Data: (_check_data,),
    Recipe: (_check_recipe,),
    Augment: (_check_augment,),
    Ensemble: (_check_ensemble,),
}
