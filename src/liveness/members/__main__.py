"""Print the members of an ensemble that are trained, a line each: recipe, fold, data set. train.sh reads this.

    python -m liveness.members demo
    python -m liveness.members demo --check -o train.lr=5e-5

With --check all of them are looked at first, in this one process: folds, models, pretrained files, options,
room on the disk. A soup is not among them: liveness.soup makes it from trained ones.
"""

import argparse

from liveness.base.compose import load_recipe
from liveness.base.config import EnsembleMember
from liveness.base.errors import UserError, run
from liveness.members.ensembles import in_set
from liveness.members.names import recipe_fold, run_folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m liveness.members", description="List an ensemble's members.")
    parser.add_argument("ensemble", help="a name in configs/ensemble")
    parser.add_argument("--data", default="", metavar="SET", help="the data set (default: the ensemble's)")
    parser.add_argument("--check", action="store_true", help="an error where one of them could not be trained")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE")
    parser.add_argument("--restart", action="store_true", help="with --check: trained anew, whatever is there")
    arguments = parser.parse_args(argv)
    ensemble = in_set(arguments.ensemble, arguments.data)
    members = [member for member in ensemble.members if not member.soup]
    if arguments.check:
        _require_trainable(ensemble.name, members, ensemble.data, arguments.override, arguments.restart)
    for member in members:
        print(member.recipe, member.fold, ensemble.data)
    return 0


def _require_trainable(name: str, members: list[EnsembleMember], data: str, override: list[str], restart: bool) -> None:
    """One UserError that names every member that could not be trained, and why."""
    from liveness.training.checks import check_member

    found: dict[str, list[str]] = {}
    for member in members:
        try:
            recipe = load_recipe(member.recipe, override)
            check_member(recipe, member.fold, data, run_folder(data, recipe.name, member.fold), restart=restart)
        except UserError as error:
            found.setdefault(str(error), []).append(recipe_fold(member.recipe, member.fold))
    if found:
        reasons = "; ".join(f"{', '.join(those)}: {reason}" for reason, those in found.items())
        raise UserError(f"ensemble {name}, nothing was started: {reasons}")


if __name__ == "__main__":
    run(main)
