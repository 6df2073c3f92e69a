"""How good is an ensemble? Its out-of-fold error, with intervals.

    python -m liveness.evaluate demo
    python -m liveness.evaluate zalo2022 --data train --members convnext_large:0 convnext_large:1

Reads configs/ensemble/<name>.yaml, runs/<set>/<recipe>_fold<k>/{oof.csv,config.json} of every member,
data/<set>/folds.csv and labels_video.csv. Thresholds are chosen on the holdout (fold -1), which all members score,
or out of fold, then corrected and called approximate. Prints the table and writes
runs/<set>/<ensemble>/{oof_video.csv,report.json} (there ``score`` is calibrated and blended, the members' columns
are raw) and weights/<set>/<ensemble>.json (calibration and thresholds for prediction). Equal inputs give equal files.

With --members only those are judged: then the folder is runs/<set>/<ensemble>-subset and no thresholds are written.
With --combinations other ways to combine frames and members are compared with the configured one; those that learn
are judged on folds that they did not learn from.
"""

import argparse

from liveness.base.errors import run
from liveness.base.files import show_path, workspace, write_json, write_text
from liveness.base.tables import table_text
from liveness.evaluation import out_of_fold, report_text
from liveness.members.ensembles import choose_members, in_set
from liveness.members.names import operating_path, weights_path
from liveness.members.trained import read_members, read_naive_members
from liveness.members.weights import digest_files
from liveness.sets.fold_table import read_folds
from liveness.sets.grouping import read_grouping


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    ensemble = in_set(args.ensemble, args.data)
    data, members = ensemble.data, choose_members(ensemble.members, args.members)
    name, prepared = f"{args.ensemble}-subset" if args.members else args.ensemble, workspace() / "data" / data
    folds, trained = read_folds(prepared), read_members(data, members)
    naive, groups_are = read_naive_members(data, trained), read_grouping(prepared)
    what = f"{args.ensemble} on {data}"
    found = out_of_fold.evaluate(folds, trained, naive, ensemble.calibration, groups_are, what, args.combinations)
    digests = digest_files({m.name: weights_path(data, m.recipe, m.fold) for m in trained})
    about: dict = {"ensemble": name, "data": data, "data_hash": trained[0].data_hash, "weights_sha256": digests}
    summary, folder = about | found.summary, workspace() / "runs" / data / name
    write_text(folder / "oof_video.csv", table_text(found.table))
    if not args.members:
        shipped = out_of_fold.describe_shipped(summary, found.basis, out_of_fold.count_typical_frames(trained))
        write_json(operating_path(data, name), shipped, sort_keys=True)
    write_json(folder / "report.json", summary, sort_keys=True)
    print(report_text.render_report(summary, f"{what}{', chosen members only' if args.members else ''}"))
    if args.combinations:
        print(report_text.render_ways(summary["combinations"]))
        named = {member.name: (member.recipe, member.fold) for member in trained}
        print(report_text.render_weights(summary["learned_weights"], named, name))
    print(f"  per video: {show_path(folder / 'oof_video.csv')}; all figures: {show_path(folder / 'report.json')}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("ensemble", metavar="ENSEMBLE", help="a file in configs/ensemble, without .yaml")
    parser.add_argument("--data", metavar="SET", help="the data set, if not the one that the ensemble names")
    parser.add_argument("--members", metavar="RECIPE:FOLD", nargs="+", help="judge only these members")
    parser.add_argument("--combinations", action="store_true", help="also compare other ways to combine the scores")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
