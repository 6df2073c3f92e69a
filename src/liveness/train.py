"""Train one member: one recipe on all folds but one, then score the fold that was held out.

    python -m liveness.train -c convnext_xlarge --fold 0 --data train -o train.lr=5e-5

--naive holds out by folds.csv's naive_fold, which deals persons to both sides: only to measure how much
that flatters. Such a member goes by <recipe>_naive, with its weights in weights/<set>/naive/.

Reads   data/<set>/ (prepare_data.sh) and weights/<pretrained>.
Writes  runs/<set>/<recipe>_fold<k>/: config.json, metrics.csv, oof.csv; last.pt (resume) until it is finished
        weights/<set>/<recipe>_fold<k>.safetensors

A run that was stopped continues: after SIGTERM or ctrl-C from the very step, after a crash from the
last whole epoch; both end with the bytes of an undisturbed run. A finished run is left as it is.
--restart throws an earlier run away, once all that can be known says that the new one will train.
Under torchrun every process trains on its part of each global batch, and rank 0 writes.
"""

import argparse
import ctypes
import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from liveness.base import launch
from liveness.base.compose import load_recipe
from liveness.base.errors import UserError, run
from liveness.base.files import plain_name, unprepared, workspace
from liveness.members.names import run_folder


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.train", description="Train one member.")
    parser.add_argument("-c", "--config", required=True, metavar="RECIPE", help="a name in configs/recipe")
    parser.add_argument("--fold", type=fold_number, required=True, metavar="K", help="the fold that is held out")
    parser.add_argument("--data", metavar="SET", help="the prepared set in data/ (default: the recipe's)")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE")
    parser.add_argument("--naive", action="store_true", help="fold K of a split that knows no persons (see above)")
    parser.add_argument("--restart", action="store_true", help="throw away what an earlier run left")
    return parser.parse_args()


def fold_number(text: str) -> int:
    """``0``; also as the files say it: ``fold0``."""
    digits = text.removeprefix("fold")
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, as 0")
    return int(digits)


def main() -> int:
    arguments = parse()
    _die_with_parent()
    recipe = load_recipe(arguments.config, arguments.override)
    name = plain_name(arguments.data or recipe.data, "DATA")
    if not (workspace() / "data" / name / "folds.csv").is_file():
        raise UserError(unprepared(name))
    if arguments.naive:
        recipe.name += "_naive"
    folder = run_folder(name, recipe.name, arguments.fold)

    from liveness.base import distributed
    from liveness.training.checks import check_member
    from liveness.training.member import memory_told, train_member

    rank, _, _ = distributed.start()
    try:
        with _only_run(folder, rank):
            check_member(recipe, arguments.fold, name, folder, arguments.naive, arguments.restart)
            distributed.barrier()  # every rank has found that it can train; only then
            if arguments.restart and rank == 0:
                _clear(folder)
            distributed.barrier()
            with memory_told(recipe):
                train_member(recipe, arguments.fold, name, folder, arguments.naive)
    finally:
        distributed.stop()
    return 0


def _clear(folder: Path) -> None:
    """Throw away what an earlier run left, but for the lock that is held. What says whose run it is goes last: killed
    in between, another recipe must not continue from what is left."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


class _only_run:
    """Holds the run's folder for one launch: a second one would write between its lines."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank, self.file = folder, rank, None

    def __enter__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.rank == 0:
            self.file = open(self.folder / "lock", "w")
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.folder}: another process is training this member") from error

    def __exit__(self, *_: Any) -> None:
        if self.file is not None:
            self.file.close()


def _die_with_parent() -> None:
    """Ask Linux to kill this process when torchrun dies, so that no orphan goes on writing."""
    if sys.platform == "linux" and launch.BY_TORCHRUN:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    # tqdm and prints of several ranks would mix; rank 0 alone speaks, errors come from every rank.
    sys.stdout.reconfigure(line_buffering=True)
    run(main)
