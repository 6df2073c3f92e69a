"""Which members an ensemble has: ``folds: all`` of a member's entry becomes the folds that there are.

    ensemble = in_set("efficientnet_lite0", "mine")      to train and to judge: as data/mine was dealt
    ensemble = in_weights(ensemble, "mine")              to score: as the weights say, where there may be no data/

An ensemble that lists every fold itself is never changed, and needs neither.
"""

import contextlib
import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from liveness.base.compose import check_ensemble, load_ensemble, names
from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.base.files import plain_name, unprepared, workspace
from liveness.base.validity import check_cascade
from liveness.members.names import operating_path, parse_member_name, parse_recipe_fold, recipe_fold


def find_ensemble(name: str, data: str = "") -> Ensemble:
    """The ensemble of configs/ensemble/<name>.yaml; else one that a program has made (``liveness.adapt``), as
    weights/<data>/<name>.json lists its members. Without ``data`` the one set is taken that has such a file.

    A UserError where there is neither, or several sets have it and none is named.
    """
    if name in names("ensemble"):
        return load_ensemble(name)
    plain_name(name, "the ensemble")
    made = {of: found for of, found in list_made() if found.name == name}
    if data in made:
        return made[data]
    if len(made) > 1 and not data:
        raise UserError(f"{name} was made for the sets {', '.join(made)}; name one: DATA={next(iter(made))}")
    if made:
        return replace(next(iter(made.values())), data=data or next(iter(made)))
    return load_ensemble(name)


def list_made() -> list[tuple[str, Ensemble]]:
    """(set, ensemble) for each operating file in weights/ that defines an ensemble of its own, by name of file."""
    paths = sorted((workspace() / "weights").glob("*/*.json"))
    return [(path.parent.name, found) for path in paths if (found := _read_made(path)) is not None]


def _read_made(path: Path) -> Ensemble | None:
    """The ensemble that an operating file lists under ``ensemble``; None for a file that lists none."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if "ensemble" not in about:
            return None
        found = [
            EnsembleMember(str(m["recipe"]), int(m["fold"]), float(m["weight"]), soup=True) for m in about["ensemble"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    ensemble = Ensemble(path.stem, path.parent.name, found)
    check_ensemble(ensemble)
    return ensemble


def in_set(name: str, data: str = "") -> Ensemble:
    """The ensemble of configs/ensemble/<name>.yaml on set ``data`` (default: its own), with the set's folds.

    ``data`` of the result is that set. A UserError where ``folds: all`` stands and the set is not prepared.
    """
    ensemble = find_ensemble(name, data)
    ensemble.data = plain_name(data or ensemble.data, "DATA")
    if not any(member.folds for member in ensemble.members):
        return ensemble
    path = workspace() / "data" / ensemble.data / "folds.csv"
    if not path.is_file():
        raise UserError(unprepared(ensemble.data))
    return _spread(ensemble, lambda member: list(range(_count_in_set(path))))


def choose_members(members: list[EnsembleMember], wanted: list[str] | None) -> list[EnsembleMember]:
    """The ensemble's members, or those that ``wanted`` (RECIPE:FOLD, each once) names; weights stay as they are."""
    if not wanted:
        return members
    known = {(member.recipe, member.fold): member for member in members}
    chosen = []
    for text in dict.fromkeys(wanted):
        key = parse_recipe_fold(text)
        if key not in known:
            there = ", ".join(recipe_fold(*pair) for pair in known)
            raise UserError(f"--members {text}: not a member of the ensemble; expected among {there}")
        chosen.append(known[key])
    return chosen


def in_weights(ensemble: Ensemble, data: str = "") -> Ensemble:
    """The same ensemble with the folds that weights/<data>/ holds members of.

    How many they have to be, <ensemble>.json says, which evaluation has left, else the members' own files, else the
    prepared set. So a file that was lost is still a member, and is missed where the weights are read.
    """
    if not any(member.folds for member in ensemble.members):
        return ensemble
    path = operating_path(data or ensemble.data, ensemble.name)
    folder, judged = path.parent, _judged(path)
    return _spread(ensemble, lambda member: judged.get(member.recipe) or _of_files(folder, member.recipe))


def _spread(ensemble: Ensemble, folds_of: Callable[[EnsembleMember], list[int]]) -> Ensemble:
    """Every entry with ``folds: all`` as a member for each fold that ``folds_of`` gives it."""
    members: list[EnsembleMember] = []
    for member in ensemble.members:
        folds = folds_of(member) if member.folds else [member.fold]
        members += [replace(member, fold=fold, folds="") for fold in folds]
    found = replace(ensemble, members=members)
    check_cascade(found)
    return found


def _count_in_set(path: Path) -> int:
    """How many folds a folds.csv has (the holdout, -1, is none)."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        folds = [row.get("fold") or "" for row in csv.DictReader(file)]
    return max((int(fold) + 1 for fold in folds if fold.isdecimal()), default=0)


def _judged(path: Path) -> dict[str, list[int]]:
    """Recipe -> its folds, as the operating points beside the weights name the members; empty without them.

    A file that cannot be read is left to prediction/operating.py, which says what is wrong with it.
    """
    found: dict[str, list[int]] = {}
    try:
        names = list(json.loads(path.read_text(encoding="utf-8"))["weights"])
    except (OSError, ValueError, KeyError, TypeError):
        return found
    for name in names:
        with contextlib.suppress(UserError):
            recipe, fold = parse_member_name(str(name))
            found.setdefault(recipe, []).append(fold)
    return {recipe: sorted(folds) for recipe, folds in found.items()}


def _of_files(folder: Path, recipe: str) -> list[int]:
    """The folds of a recipe by its members' files: as many as they were trained with."""
    from liveness.members.weights import describe_member

    there = {}
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(UserError):
            name, fold = parse_member_name(path.stem)
            if name == recipe:
                there[fold] = path
    told = {int(count): path for path in there.values() if (count := describe_member(path).get("folds"))}
    if len(told) > 1:
        (few, one), (many, other) = sorted(told.items())[:2]
        raise UserError(
            f"{one} was trained with {few} folds, {other.name} with {many}; train the ensemble again, or remove "
            "the members that do not belong to it"
        )
    if told:
        return list(range(next(iter(told))))
    if there:  # from before members told how many folds there are
        return list(range(max(there) + 1))
    path = workspace() / "data" / folder.name / "folds.csv"
    return list(range(max(1, _count_in_set(path)))) if path.is_file() else [0]
