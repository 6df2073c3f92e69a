"""What the day-one ensemble decides on a camera that it never saw, and the decision that it ships with.

    python benchmarks/day_one.py SET... [--ensemble minifasnet] [--scores FILE.csv] [--compare]
                                 [--out FILE.json] [--operating FILE.json]

SET: prepared sets (bash prepare_data.sh SET). A column camera of the label file parts a set into cameras; framing=crop
marks pictures of which only the face is left: they are judged, and nothing is learnt from them. For every camera,
limits, calibration and threshold are learnt on all others and judged there. Prints a table; --out writes all figures.
--compare adds APCER and BPCER with something left
out or done otherwise. --operating writes the decision learnt on all
cameras, as weights/<set>/<ensemble>.json holds it. --scores keeps the scores: written where the file is not there,
else read, so that nothing is scored twice.
"""

import argparse
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SOURCE))

import pandas as pd  # noqa: E402

from liveness.base.compose import load_ensemble  # noqa: E402
from liveness.base.errors import run  # noqa: E402
from liveness.base.files import write_json, write_text  # noqa: E402
from liveness.base.tables import table_text  # noqa: E402
from liveness.laboratory import day_one  # noqa: E402
from liveness.members.names import member_name, weights_path  # noqa: E402
from liveness.members.weights import digest_files  # noqa: E402

POINTS = ("eer", "apcer1", "apcer5")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", metavar="SET", nargs="+")
    parser.add_argument("--ensemble", default="minifasnet")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--compare", action="store_true")
    for name in ("--scores", "--out", "--operating"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args(argv)
    ensemble = load_ensemble(args.ensemble)
    plan = day_one.LearningPlan({member_name(m.recipe, m.fold): m.weight for m in ensemble.members})
    table = _scores(args)
    rows = day_one.leave_one_out(table, plan)
    print("\n".join(render(rows)))
    found: dict = {"ensemble": args.ensemble, "sets": args.sets, "weights": plan.weights, "left_out": rows}
    if args.compare:
        compared = day_one.compare_plans(table, plan)
        found["compared"] = {
            what: {row["domain"]: [row["apcer"]["value"], row["bpcer"]["value"]] for row in other}
            for what, other in compared.items()
        }  # APCER, BPCER
        for what, other in compared.items():
            print(f"{what}: {' '.join(_short(row) for row in other if not row['crop'])}")
    if args.out:
        write_json(args.out, found)
    if args.operating:
        learnt = [day_one.learn_decision(table, plan, point) for point in POINTS]
        paths = {member_name(m.recipe, m.fold): weights_path(ensemble.data, m.recipe, m.fold) for m in ensemble.members}
        about = day_one.describe_decision(learnt, plan.weights, table)
        write_json(args.operating, {**about, "weights_sha256": digest_files(paths)}, sort_keys=True)
    return 0


def _scores(args: argparse.Namespace) -> pd.DataFrame:
    if args.scores and args.scores.is_file():
        return pd.read_csv(args.scores, dtype={"species": str, "filename": str}, keep_default_na=True)
    table = day_one.score_domains(args.sets, args.ensemble, args.workers)
    if args.scores:
        write_text(args.scores, table_text(table))
    return table


def render(rows: list[dict]) -> list[str]:
    """A table of the cameras, in percent."""
    lines = [
        "camera    APCER  BPCER   abstained: attack  live   decided alone: APCER  BPCER   all decided: APCER  BPCER"
    ]
    for row in rows:
        parts = [row, row["abstained"], row["decided"], row["forced"]]
        names = [("apcer", "bpcer"), ("attack", "live"), ("apcer", "bpcer"), ("apcer", "bpcer")]
        cells = [_percent(part[name]) for part, pair in zip(parts, names, strict=True) for name in pair]
        lines.append("{:<9} {:>5} {:>6} {:>19} {:>5} {:>22} {:>6} {:>20} {:>6}".format(row["domain"], *cells))
    return lines


def _short(row: dict) -> str:
    return f"{row['domain']} {_percent(row['apcer'])}/{_percent(row['bpcer'])}"


def _percent(rate: dict) -> str:
    return "-" if rate["value"] is None else f"{100 * rate['value']:.1f}"


if __name__ == "__main__":
    run(main)
