"""How good is an ensemble? Its out-of-fold error, with intervals; with --on its error on another labelled set.

    python -m liveness.evaluate demo
    python -m liveness.evaluate zalo2022_published --on mine

Reads runs/<set>/<member>/{oof.csv,config.json} and data/<set>/{folds,labels_video}.csv. Writes runs/<set>/<ensemble>/
{oof_video.csv,report.json} (there ``score`` is calibrated and blended, members' columns are raw) and the thresholds,
weights/<set>/<ensemble>.json (not with --members); equal inputs give equal files. --on: laboratory/other_set.py.
"""

import argparse
from pathlib import Path

from liveness.base.errors import run
from liveness.base.files import show_path, workspace, write_json, write_text
from liveness.base.tables import table_text
from liveness.evaluation import out_of_fold, report_text
from liveness.evaluation.cameras import measure_cues
from liveness.laboratory.other_set import OtherSet, measure_on, warn_on
from liveness.laboratory.other_set_text import render_on
from liveness.members.ensembles import choose_members, in_set
from liveness.members.names import operating_path, weights_path
from liveness.members.trained import read_members, read_naive_members
from liveness.members.weights import digest_files
from liveness.pages.other_set import write_on_page
from liveness.sets.cues import read_cues
from liveness.sets.fold_table import count_soft, read_folds
from liveness.sets.grouping import read_grouping


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.on:
        found = measure_on(args.ensemble, OtherSet(args.on, args.data, args.point, args.against, args.workers))
        print(render_on(*found, write_on_page(found[0], warn_on(found[0]), found[1])))
        return 0
    ensemble = in_set(args.ensemble, args.data)
    data, members = ensemble.data, choose_members(ensemble.members, args.members)
    name, prepared = f"{args.ensemble}-subset" if args.members else args.ensemble, workspace() / "data" / data
    folds, trained = read_folds(prepared), read_members(data, members)
    naive, groups_are = read_naive_members(data, trained), read_grouping(prepared)
    what = f"{args.ensemble} on {data}"
    judged = out_of_fold.evaluate(folds, trained, naive, ensemble.calibration, groups_are, what, args.combinations)
    digests = digest_files({m.name: weights_path(data, m.recipe, m.fold) for m in trained})
    about: dict = {"ensemble": name, "data": data, "data_hash": trained[0].data_hash, "weights_sha256": digests}
    cues = {"cues": measure_cues(read_cues(prepared))} if "cameras" in judged.summary else {}
    summary, folder = about | judged.summary | cues | count_soft(prepared), workspace() / "runs" / data / name
    write_text(folder / "oof_video.csv", table_text(judged.table))
    if not args.members:
        shipped = out_of_fold.describe_shipped(summary, judged.basis, out_of_fold.count_typical_frames(trained))
        write_json(operating_path(data, name), shipped, sort_keys=True)
    write_json(folder / "report.json", summary, sort_keys=True)
    print(report_text.render_report(summary, f"{what}{', chosen members only' if args.members else ''}"))
    if args.combinations:
        print(report_text.render_combinations(summary, {m.name: (m.recipe, m.fold) for m in trained}))
    print(f"  per video: {show_path(folder / 'oof_video.csv')}; all figures: {show_path(folder / 'report.json')}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.evaluate", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("ensemble", metavar="ENSEMBLE", help="a file in configs/ensemble, without .yaml")
    add("--data", metavar="SET", help="the data set of the training, if not the one that the ensemble names")
    add("--members", metavar="RECIPE:FOLD", nargs="+", help="judge only these members")
    add("--combinations", action="store_true", help="also compare other ways to combine the scores")
    add("--on", metavar="SET", help="score and judge another prepared set that has labels")
    add("--point", metavar="NAME", default="eer", help="with --on: the operating point that decides")
    add("--against", metavar="FILE.json", type=Path, help="with --on: compare with an earlier on_SET.json")
    add("--workers", metavar="N", type=int, default=0, help="with --on: decoding processes (default: one per core)")
    args = parser.parse_args(argv)
    if args.on and (args.members or args.combinations):
        parser.error("--on judges an ensemble as it is shipped: without --members and --combinations")
    if not args.on and (args.against or args.workers or args.point != "eer"):
        parser.error("--against, --point and --workers are for --on SET")
    return args


if __name__ == "__main__":
    run(main)
