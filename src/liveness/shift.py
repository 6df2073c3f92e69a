"""How much worse does an ensemble get on videos that are not like those at home? The shift laboratory.

    python -m liveness.shift efficientnet_lite0 --data mine
    python -m liveness.shift efficientnet_lite0 --data mine --videos 100 --severities 2 --stressors jpeg blur print
    python -m liveness.shift --data mine --each --members first:0 first:1 second:0 second:1
    python -m liveness.shift efficientnet_lite0 --data mine --sheet stressors.png

Held-out videos are stressed (simulation/stress.py) and scored as at prediction, each by members
that did not train on it. Reads data/<set>/{folds.csv,videos/}, runs/<set>/<member>/{oof.csv,config.json}
and weights/<set>/. Prints error per stressor and severity, worst first, and writes
runs/<set>/<ensemble>/shift.json and shift.csv (a row per video and stress); with --each one pair per
recipe in runs/<set>/<recipe>/. See docs/shift.md.
"""

import argparse
from pathlib import Path

from liveness.base.compose import load_ensemble
from liveness.base.errors import run
from liveness.base.files import plain_name, show_path
from liveness.laboratory.sheet import draw_sheet
from liveness.laboratory.shift import StressPlan, choose_systems, measure_shift, shift_path
from liveness.laboratory.shift_text import render_recipes, render_shift
from liveness.simulation.stress import SEVERITIES, STRESSORS, list_stresses


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    data = plain_name(args.data or load_ensemble(args.ensemble).data, "--data")
    stresses = list_stresses(args.stressors or list(STRESSORS), args.severities)
    plan = StressPlan(data, stresses, args.seed, args.videos, args.workers)
    if args.sheet:
        draw_sheet(args.sheet, plan)
        print(args.sheet)
        return 0
    systems, members = choose_systems(args.ensemble, args.data, args.members, args.each, args.against)
    summaries = []
    for summary in measure_shift(systems, members, plan, compared=bool(args.against)):
        print(render_shift(summary, args.against or ""))
        table, figures = (shift_path(data, summary["ensemble"], kind) for kind in ("csv", "json"))
        print(f"  per video: {show_path(table)}; all figures: {show_path(figures)}", flush=True)
        summaries.append(summary)
    if args.each:
        print(render_recipes(summaries))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.shift", description=__doc__.split("\n")[0])
    parser.add_argument("ensemble", metavar="ENSEMBLE", nargs="?", help="a file in configs/ensemble, without .yaml")
    parser.add_argument("--data", metavar="SET", help="the data set, if not the one that the ensemble names")
    parser.add_argument("--members", metavar="RECIPE:FOLD", nargs="+", help="judge these members, of any recipe")
    parser.add_argument("--each", action="store_true", help="judge every recipe by itself")
    parser.add_argument("--against", metavar="ENSEMBLE", help="compare with another ensemble trained on the set")
    parser.add_argument("--stressors", metavar="NAME", nargs="+", help=f"only these of: {', '.join(STRESSORS)}")
    parser.add_argument("--severities", metavar="N", nargs="+", type=int, default=list(SEVERITIES),
                        help="1 (mild), 2, 3 (strong); default: all")  # fmt: skip
    parser.add_argument(
        "--videos", metavar="N", type=int, default=0, help="a sample, each label and fold in proportion"
    )
    parser.add_argument("--seed", type=int, default=1, help="of sample and stressors (default 1)")
    parser.add_argument("--workers", type=int, default=0, help="processes that stress (default: by the cores)")
    parser.add_argument("--sheet", metavar="FILE.png", type=Path, help="only draw the stressors on two videos")
    args = parser.parse_args(argv)
    if not args.ensemble and not (args.data and (args.members or args.sheet)):
        parser.error("name an ensemble, or give --data with --members or --sheet")
    if args.against and args.each:
        parser.error("--against compares two ensembles; --each judges recipes one by one")
    if args.videos < 0:
        parser.error(f"--videos {args.videos}: expected a number above 0")
    if args.sheet and args.sheet.suffix.lower() != ".png":
        parser.error(f"--sheet {args.sheet}: expected a name that ends in .png")
    return args


if __name__ == "__main__":
    run(main)
