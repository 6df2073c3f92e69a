"""Print the members of an ensemble that are trained, a line each: recipe, fold, data set. train.sh reads this.

A soup is not among them: liveness.soup makes it from trained ones.

python -m liveness.members demo
"""

import argparse

from liveness.config import load_ensemble
from liveness.errors import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m liveness.members", description="List an ensemble's members.")
    parser.add_argument("ensemble", help="a name in configs/ensemble")
    parser.add_argument("--data", default="", metavar="SET", help="the data set (default: the ensemble's)")
    arguments = parser.parse_args()
    ensemble = load_ensemble(arguments.ensemble)
    for member in ensemble.members:
        if member.soup:
            continue
        print(member.recipe, member.fold, arguments.data or ensemble.data)
    return 0


if __name__ == "__main__":
    run(main)
