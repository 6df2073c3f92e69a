"""The report of an ensemble: one page that needs no network, and all its figures as JSON.

    python -m liveness.report demo
    python -m liveness.report zalo2022 --data train

Reads what is there: runs/<set>/<ensemble>/{report.json,oof_video.csv} (python -m liveness.evaluate; needed),
shift.json (liveness.shift), search.json (liveness.search), weights/<set>/<ensemble>.json,
runs/<set>/<recipe>_fold<k>/{config.json,runs.json,oof.csv}, data/<set>/{labels_*.csv,frames,faces}.
Writes result/report_<set>_<ensemble>.html and .json, and the same as result/report.html and .json: the
newest. Equal inputs give equal files. docs/report.md says what is in them.
"""

import argparse

from liveness.base.compose import load_ensemble
from liveness.base.errors import run
from liveness.base.files import plain_name, without_nan, workspace, write_json, write_text
from liveness.pages.figures import collect_figures
from liveness.pages.report import render_report_page
from liveness.pages.sources import read_sources


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    ensemble = plain_name(args.ensemble, "ENSEMBLE")
    # What evaluate --members wrote has no configuration of its own, but its ensemble's set.
    data = plain_name(args.data or load_ensemble(ensemble.removesuffix("-subset")).data, "--data")
    sources = read_sources(ensemble, data)
    found = without_nan(collect_figures(sources))
    text = render_report_page(found, sources.data_folder, sources.evaluated)
    result = workspace() / "result"
    path = result / f"report_{data}_{ensemble}.html"
    for name in (path.stem, "report"):  # the one that stays, and the newest
        write_json(result / f"{name}.json", found, indent=1)
        write_text(result / f"{name}.html", text)
    print(
        f"report: {path} ({path.stat().st_size / 1e6:.1f} MB), its figures: {path.with_suffix('.json')}; "
        f"the newest is also {result / 'report.html'}"
    )
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.report", description=__doc__.split("\n")[0])
    parser.add_argument("ensemble", metavar="ENSEMBLE", help="a file in configs/ensemble, without .yaml")
    parser.add_argument("--data", metavar="SET", help="the data set, if not the one that the ensemble names")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
