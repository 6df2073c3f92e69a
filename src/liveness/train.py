"""Train one member: one recipe on all folds but one, then score the fold that was held out.

    python -m liveness.train -c convnext_xlarge --fold 0 --data train -o train.lr=5e-5

--naive holds out by naive_fold, which deals persons to both sides, to measure how much that flatters. Such a member
goes by <recipe>_naive, with its weights in weights/<set>/naive/.
Reads   data/<set>/ (prepare_data.sh) and weights/<pretrained>.
Writes  runs/<set>/<recipe>_fold<k>/ (docs/files.md) and weights/<set>/<recipe>_fold<k>.safetensors

A run that was stopped continues: after SIGTERM or ctrl-C (exit code 143) from the very step if it could be saved in
time (GRACE_SECONDS), else and after a crash from the last whole epoch; both end with the bytes of an undisturbed run.
--restart throws an earlier run away once the new one is known to train, --replace only one of another recipe or data.
Under torchrun every process trains on its part of each batch; rank 0 alone writes and speaks, errors come from all.
"""

import argparse
import os
import signal
from collections.abc import Callable

from liveness.base import launch
from liveness.base.compose import load_recipe
from liveness.base.errors import run
from liveness.base.files import plain_name

STOPPED = 143  # exit code after SIGTERM or ctrl-C: 128 + 15


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.train", description="Train one member.")
    parser.add_argument("-c", "--config", required=True, metavar="RECIPE", help="a name in configs/recipe")
    parser.add_argument("--fold", type=fold_number, required=True, metavar="K", help="the fold that is held out")
    parser.add_argument("--data", metavar="SET", help="the prepared set in data/ (default: the recipe's)")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE")
    parser.add_argument("--naive", action="store_true", help="fold K of a split that ignores persons (docs/report.md)")
    parser.add_argument("--restart", action="store_true", help="throw away an earlier run, once the new one can train")
    parser.add_argument("--replace", action="store_true", help="the same, but only for a run of another recipe or data")
    return parser.parse_args()


def fold_number(text: str) -> int:
    """``0``; also as the files say it: ``fold0``."""
    if (digits := text.removeprefix("fold")).isdecimal():
        return int(digits)
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number, as 0")


def main() -> int:
    arguments = parse()
    launch.die_with_torchrun()
    recipe = load_recipe(arguments.config, arguments.override)
    name = plain_name(arguments.data or recipe.data, "DATA")
    recipe.name += "_naive" if arguments.naive else ""

    from liveness.base import distributed
    from liveness.training.checks import claim_run
    from liveness.training.member import train_member

    rank = distributed.start()[0]
    try:
        distributed.follow_rank_0(STOPPED)
        with claim_run(recipe, arguments.fold, name, arguments.naive, arguments.restart, arguments.replace) as folder:
            outcome = train_member(recipe, arguments.fold, name, folder, arguments.naive, note_signals)
        if outcome.stopped and rank == 0:
            os._exit(STOPPED)  # leaving the group in good order would wait for the others
    finally:
        distributed.stop()
    return STOPPED if outcome.stopped else 0


def note_signals() -> Callable[[], bool]:
    """From now on note SIGTERM and SIGINT instead of dying in the middle of a step. Gives: whether one has come."""
    came: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: came.append(number))
    return lambda: bool(came)


if __name__ == "__main__":
    run(main)
