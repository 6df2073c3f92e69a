"""A report in a few lines: Markdown for a pull request, and figures and curves as tables for DVC.

    python -m liveness.review demo
    python -m liveness.review demo --against base/result/report_demo_demo.json --names "this change" main

Reads result/report_<set>_<ensemble>.json (python -m liveness.report); --against: such a file of another state of the
code, the recipe or the training, compared on the videos that both have scored. Writes result/review_<set>_<ensemble>/
{review.md,metrics.json,det.csv,scores.csv}. Equal inputs give equal files.
"""

import argparse
from pathlib import Path

from liveness.base.compose import load_ensemble
from liveness.base.errors import run
from liveness.base.files import plain_name, show_path, without_nan, workspace
from liveness.pages.review import compare_reports, read_report_json, render_review, write_review


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    ensemble = plain_name(args.ensemble, "ENSEMBLE")
    data = plain_name(args.data or load_ensemble(ensemble.removesuffix("-subset")).data, "--data")
    result = workspace() / "result"
    found = read_report_json(result / f"report_{data}_{ensemble}.json")
    base = read_report_json(args.against, "--against") if args.against else None
    compared = without_nan(compare_reports(found, base)) if base else None
    folder = result / f"review_{data}_{ensemble}"
    text = render_review(found, base, compared, tuple(args.names))
    write_review(folder, text, found, compared)
    print(text)
    print(f"review: {show_path(folder / 'review.md')}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.review", description=__doc__.split("\n")[0])
    parser.add_argument("ensemble", metavar="ENSEMBLE", help="a file in configs/ensemble, without .yaml")
    parser.add_argument("--data", metavar="SET", help="the data set, if not the one that the ensemble names")
    parser.add_argument("--against", metavar="REPORT.json", type=Path, help="compare with this report, paired by video")
    parser.add_argument(
        "--names",
        metavar=("OURS", "THEIRS"),
        nargs=2,
        default=("this state", "the other"),
        help="what the two are called in the text",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
