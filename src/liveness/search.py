"""Which members of an ensemble are worth their time? Subsets and cascades, with their error and their cost.

    python -m liveness.search demo
    python -m liveness.search demo --data mine --milliseconds runs/mine/demo/search.json

Reads configs/ensemble/<name>.yaml and runs/<set>/<ensemble>/oof_video.csv (liveness.evaluate writes it).
Milliseconds per video are measured here, on clips of data/<set>/videos with the members' weights, or
read from a file: {"decode": 40, "views": {"RECIPE RECIPE": 25}, "members": {"RECIPE_fold0": 80}}.
Prints tables and, where a cascade is worth it, the lines for the ensemble's file; writes
runs/<set>/<ensemble>/search.json. docs/ensembles.md says what such figures can tell.
"""

import argparse
from pathlib import Path

from liveness.base.errors import run
from liveness.base.files import show_path
from liveness.laboratory.search import search_ensemble, search_path
from liveness.laboratory.search_text import render_search
from liveness.members.ensembles import in_set


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    ensemble = in_set(args.ensemble, args.data)
    found = search_ensemble(ensemble, args.milliseconds, args.tolerance)
    print(render_search(found, ensemble))
    print(f"  all figures: {show_path(search_path(ensemble))}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.search", description=__doc__.split("\n")[0])
    parser.add_argument("ensemble", metavar="ENSEMBLE", help="a file in configs/ensemble, without .yaml")
    parser.add_argument("--data", metavar="SET", help="the data set, if not the one that the ensemble names")
    parser.add_argument("--milliseconds", metavar="FILE.json", type=Path, help="measured before (docs/ensembles.md)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.005,
        metavar="SHARE",
        help="a cascade is proposed if its EER rises by at most this (default 0.005 = half a percentage point)",
    )
    args = parser.parse_args(argv)
    if not 0 <= args.tolerance < 0.5:
        parser.error(f"--tolerance {args.tolerance}: expected 0 to below 0.5")
    return args


if __name__ == "__main__":
    run(main)
