"""Recipes and variants of recipes that are compared: their names, whether they can be trained, and training them.

    contenders = choose_contenders(["demo_face"], [["train.loss=focal"]], [])
    train_missing(contenders, "demo", [0, 1, 2])

A contender is trained as any recipe is, by scripts/train_member.sh, as members <name>_fold<k>: what is trained once is
found again by the next comparison. Writes what training writes.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

from liveness.base.compose import load_recipe, load_rows, names
from liveness.base.config import Recipe, nearest
from liveness.base.errors import UserError
from liveness.base.files import CODE, unprepared, workspace
from liveness.base.validity import require
from liveness.members.names import member_name, recipe_fold, run_folder, weights_path

STOPPED = 143  # exit code of a training that was asked to stop, and of what started it


@dataclass(frozen=True)
class Contender:
    """A row of a comparison."""

    name: str  # its members are <name>_fold<k>
    recipe: str  # in configs/recipe
    overrides: tuple[str, ...] = ()
    apart: bool = False  # it does not start as the others do
    by_fold: dict[int, tuple[str, ...]] = field(default_factory=dict)  # overrides of one fold's member alone
    replaced: bool = False  # a member of other values under its name gives way: the name stands for a search's result

    def arguments(self, fold: int) -> list[str]:
        """KEY=VALUE that make this row's member of a fold from its recipe."""
        mine = [] if self.name == self.recipe else [f"name={self.name}"]
        return [*mine, *self.overrides, *self.by_fold.get(fold, ())]

    def load(self, fold: int) -> Recipe:
        return load_recipe(self.recipe, self.arguments(fold))


class StoppedTraining(Exception):
    """The training of a contender was asked to stop, and has saved its state."""


def choose_contenders(listed: Sequence[str], variants: Sequence[list[str]], everywhere: list[str]) -> list[Contender]:
    """The rows of a command: each name is a recipe, or a list of rows in configs/compare.

    variants: each adds a row with these overrides to every row listed; everywhere: overrides of all rows. Overrides
    that no file names become part of the row's name. A UserError for an unknown name or for two rows of one name.
    """
    rows: list[Contender] = []
    for name in listed:
        for one in _list_rows(name):
            base = _vary(one, everywhere)
            rows += [base, *(_vary(base, variant) for variant in variants)]
    for row in rows:
        require(sum(other.name == row.name for other in rows) == 1, f"{row.name} is compared twice; expected it once")
    return rows


def _list_rows(name: str) -> list[Contender]:
    recipes, lists = names("recipe"), names("compare")
    if name in recipes and name in lists:
        raise UserError(f"{name} is in configs/recipe and in configs/compare; rename one of them")
    if name in recipes:
        return [Contender(name, name)]
    if name not in lists:
        raise UserError(
            f"no {name!r} in configs/recipe ({', '.join(recipes)}) and none in configs/compare ({', '.join(lists)})"
            f"{nearest(name, recipes + lists)}"
        )
    found = []
    for row in load_rows(name).rows:
        own = row.name or row.recipe
        fits = re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", own)
        require(fits, f"compare {name}: name {own!r}; expected letters, digits, _, . and -, a letter first")
        taken = row.overrides and own in recipes
        require(not taken, f"compare {name}: {own} with overrides has the name of a recipe; expected another name")
        found.append(Contender(own, row.recipe, tuple(row.overrides), row.apart))
    return found


def _vary(row: Contender, overrides: list[str]) -> Contender:
    """The row with more overrides, which its name tells in short and by a digest."""
    if not overrides:
        return row
    words = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", text.partition("=")[0].rpartition(".")[2]) + "-"
                     + re.sub(r"[^A-Za-z0-9.]+", "-", text.partition("=")[2]) for text in overrides)  # fmt: skip
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:6]
    name = f"{row.name}_{words[:24].strip('-._')}_{digest}"
    return Contender(name, row.recipe, (*row.overrides, *overrides), row.apart)


def choose_folds(data: str, wanted: Sequence[int]) -> list[int]:
    """The set's folds, or those of them that are wanted; a UserError for one that it has not."""
    import pandas as pd

    path = workspace() / "data" / data / "folds.csv"
    if not path.is_file():
        raise UserError(unprepared(data))
    count = int(pd.read_csv(path, usecols=["fold"])["fold"].max()) + 1
    for fold in wanted:
        require(0 <= fold < count, f"--folds {fold}: data/{data} has the folds 0 to {count - 1}")
    return sorted(set(wanted)) or list(range(count))


def list_missing(contenders: Sequence[Contender], data: str, folds: Sequence[int]) -> list[tuple[Contender, int]]:
    """What has to be trained, once all of it is known to be trainable; else one UserError says what is not, and why."""
    from liveness.training.checks import check_member

    missing, wrong = [], {}  # type: list[tuple[Contender, int]], dict[str, list[str]]
    for row in contenders:
        for fold in folds:
            folder = run_folder(data, row.name, fold)
            try:
                recipe, again = row.load(fold), row.replaced and not _is_made(row, data, fold)
                check_member(recipe, fold, data, folder, restart=again)
            except UserError as error:
                wrong.setdefault(str(error), []).append(recipe_fold(row.name, fold))
                continue
            if not _is_made(row, data, fold):
                missing.append((row, fold))
    if wrong:
        reasons = "; ".join(f"{', '.join(those)}: {reason}" for reason, those in wrong.items())
        raise UserError(f"nothing was started: {reasons}")
    return missing


def _is_made(row: Contender, data: str, fold: int) -> bool:
    """Whether the row's member of the fold is trained; of a replaced row, by these values on this state of the data."""
    folder = run_folder(data, row.name, fold)
    there = (folder / "oof.csv").is_file() and weights_path(data, row.name, fold).is_file()
    return there and (not row.replaced or _is_same(row, data, fold))


def _is_same(row: Contender, data: str, fold: int) -> bool:
    from liveness.sets.dataset import load_set
    from liveness.training.runs import describe_run, same_run

    recipe = row.load(fold)
    described = describe_run(recipe, fold, load_set(data, recipe.frames), naive=False)
    try:
        return same_run(run_folder(data, row.name, fold), described, weights_path(data, row.name, fold))
    except UserError:
        return False


def train_missing(contenders: Sequence[Contender], data: str, folds: Sequence[int]) -> int:
    """Train what is missing, one after another; how many that were. A UserError before the first where one could not be
    trained; StoppedTraining where the training under way was asked to stop."""
    missing = list_missing(contenders, data, folds)
    for number, (row, fold) in enumerate(missing, 1):
        print(f"training {number} of {len(missing)}: {recipe_fold(row.name, fold)} on {data}", flush=True)
        restart = row.replaced and (run_folder(data, row.name, fold) / "config.json").is_file()
        _train(row, data, fold, restart and not _can_go_on(row, data, fold))
    return len(missing)


def _can_go_on(row: Contender, data: str, fold: int) -> bool:
    """Whether what lies in a replaced row's folder is an unfinished run of these very values."""
    from liveness.training.checks import check_member

    try:
        check_member(row.load(fold), fold, data, run_folder(data, row.name, fold))
    except UserError:
        return False
    return True


def _train(row: Contender, data: str, fold: int, restart: bool) -> None:
    """Train one member as train.sh does, in a process of its own."""
    script, arguments = CODE / "scripts" / "train_member.sh", row.arguments(fold)
    command = ["bash", str(script), row.recipe, str(fold)]
    if not script.is_file():  # installed as a package, without the drivers: on one process
        command = [sys.executable, "-m", "liveness.train", "-c", row.recipe, "--fold", str(fold), "--data", data]
    command += (["-o", *arguments] if arguments else []) + (["--restart"] if restart else [])
    values = {**os.environ, "DATA": data, "PYTHON": sys.executable, "LIVENESS_ROOT": str(workspace())}
    came: list[int] = []
    child = subprocess.Popen(command, env=values, stdin=subprocess.DEVNULL)

    def hand_on(number: int, _: FrameType | None) -> None:
        came.append(number)
        child.send_signal(signal.SIGTERM)

    code = _wait_with(child, hand_on)
    if came or code == STOPPED:
        raise StoppedTraining
    if code:
        raise UserError(
            f"{member_name(row.name, fold)}: its training ended with exit code {code}, what it said stands above; the "
            "same command goes on from there"
        )


def _wait_with(child: subprocess.Popen, hand_on: Callable[[int, FrameType | None], None]) -> int:
    """The child's exit code; SIGTERM and ctrl-C that come meanwhile are handed on to it."""
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
