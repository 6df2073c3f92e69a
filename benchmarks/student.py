"""A student beside its teacher: errors, size, speed, int8, and errors under the shift laboratory's stresses.

    python benchmarks/student.py student efficientnet_lite0 --data SET --exported FOLDER --out FILE
                                 [--parts errors exports speed shift] [--on SET] [--videos N] [--severities 2]

Both ensembles are trained and evaluated on SET (train.sh). Per part:

    errors     out of fold, as shipped: EER, log loss, and HTER at thresholds that were learnt on the other folds, with
               95 % intervals by person; the student's paired difference to the teacher
    exports    FOLDER/<ensemble> and FOLDER/<ensemble>_int8, made where they are not there: bytes a member, and the
               parity gate's figures, for int8 on the clips of another set if --on names one. An int8 file is made
               with a wide tolerance, so that it can be measured; ``passes`` is what the gate says at its own
    speed      milliseconds of one member's passes a clip, on one thread: torch, ONNX Runtime, int8, in turns
    shift      both under the same stresses, on a sample of N held-out videos

A part is put into FILE when it is finished, and the others stay as they are there. Prints the tables as Markdown.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent / "src"), str(FOLDER)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import runtime  # noqa: E402  (benchmarks/runtime.py: forward passes in turns)
import train  # noqa: E402  (benchmarks/train.py: the machine)

from liveness.base.compose import from_dict, load_ensemble  # noqa: E402
from liveness.base.config import Model  # noqa: E402
from liveness.base.errors import UserError, run  # noqa: E402
from liveness.base.files import find_videos, show_path, workspace, write_json  # noqa: E402
from liveness.base.tables import read_table  # noqa: E402
from liveness.evaluation import intervals, metrics  # noqa: E402
from liveness.evaluation.format import percent, percent_range, plain, plain_range  # noqa: E402
from liveness.exporting.ensemble import Export, export_ensemble  # noqa: E402
from liveness.laboratory.comparison import count_gflops, judge_scores  # noqa: E402
from liveness.laboratory.contenders import Contender  # noqa: E402
from liveness.laboratory.shift import StressPlan, choose_systems, measure_shift, shift_path  # noqa: E402
from liveness.laboratory.shift_figures import compare_systems, measure_hter, select_presented  # noqa: E402
from liveness.members.weights import load_member  # noqa: E402
from liveness.models.build import count_parameters  # noqa: E402
from liveness.prediction.engine import EnsembleDescription, read_ensemble  # noqa: E402
from liveness.prediction.exported import read_description, read_exported  # noqa: E402
from liveness.simulation.stress import SEVERITIES, STRESSORS, list_stresses  # noqa: E402

PARTS = ("errors", "exports", "speed", "shift")
TOLERANCE, WIDE = (
    0.02,
    0.5,
)  # of flipped decisions: the gate's own, and one at which an int8 file is made to be measured
REPLICATES = 2000


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    found: dict[str, Any] = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    same = {"benchmark": "student", "data": args.data, "student": args.student, "teacher": args.teacher}
    if any(found.get(key, value) != value for key, value in same.items()):
        raise UserError(f"{args.out}: of other ensembles or another set; expected those, or a new file")
    measure = {"errors": measure_errors, "exports": measure_exports, "speed": measure_speed, "shift": measure_stressed}
    for part in args.parts:
        found = same | {"machine": train.machine()} | found | {part: measure[part](args)}
        write_json(args.out, found, indent=1)
    print(render(found))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/student.py", description=__doc__.split("\n")[0])
    parser.add_argument("student", metavar="STUDENT", help="an ensemble of configs/ensemble")
    parser.add_argument("teacher", metavar="TEACHER", help="the ensemble that taught it")
    parser.add_argument("--data", required=True, metavar="SET")
    parser.add_argument("--exported", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--on", default="", metavar="SET", help="int8: a set of more clips to compare on")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.json")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--videos", type=int, default=0, metavar="N", help="sample of the stresses (default: all)")
    parser.add_argument("--stressors", nargs="+", default=list(STRESSORS), metavar="NAME", help="default: all")
    parser.add_argument("--severities", type=int, nargs="+", default=[2], choices=SEVERITIES, metavar="N")
    parser.add_argument("--clips", type=int, default=5, metavar="N", help="clips whose passes are timed (default 5)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    return parser.parse_args(argv)


# --- errors ------------------------------------------------------------------------------------------


def measure_errors(args: argparse.Namespace) -> dict[str, Any]:
    """Per ensemble the out-of-fold figures, the network's size, and the difference to the teacher."""
    names = (args.teacher, args.student)
    tables = {name: read_scores(args.data, name) for name in names}
    both = tables[args.teacher].index.intersection(tables[args.student].index)
    table = tables[args.teacher].loc[both]
    scores = pd.DataFrame({name: tables[name].loc[both, "score"] for name in names})
    labels, groups = table["label"].to_numpy(int), table["group"].to_numpy()
    clusters = groups if len(set(groups)) < len(groups) else None
    rows = judge_scores([Contender(name, name) for name in names], labels, scores, clusters)
    for name, row in zip(names, rows, strict=True):
        row |= judge_threshold(labels, scores[name].to_numpy(), table["fold"].to_numpy(), clusters)
        row |= describe_network(name, args.data)
    return {"videos": len(both), "live": int(labels.sum()), "groups": len(set(groups)), "rows": rows}


def read_scores(data: str, name: str) -> pd.DataFrame:
    """label, group, fold and the calibrated out-of-fold score of every held-out video that has one, by file name."""
    path = workspace() / "runs" / data / name / "oof_video.csv"
    if not path.is_file():
        raise UserError(f"{show_path(path)}: not there; run: DATA={data} bash train.sh {name}")
    table = read_table(path, ["filename", "label", "group", "fold", "score"]).set_index("filename")
    table["score"] = pd.to_numeric(table["score"], errors="coerce")
    table = table.astype({"label": int, "fold": int})
    return table[(table["fold"] >= 0) & table["score"].notna()][["label", "group", "fold", "score"]]


def judge_threshold(
    labels: np.ndarray, scores: np.ndarray, folds: np.ndarray, clusters: np.ndarray | None
) -> dict[str, Any]:
    """HTER where each fold is judged at the equal-error threshold of the others, with its interval by cluster."""
    wrong = np.zeros(labels.size, bool)
    for fold in np.unique(folds):
        here = folds == fold
        threshold = metrics.eer(labels[~here], scores[~here]).threshold
        wrong[here] = (scores[here] >= threshold) != labels[here].astype(bool)
    live = labels.astype(bool)
    drawn = intervals.draw_counts(live, clusters, REPLICATES, np.random.default_rng(intervals.SEED))
    with np.errstate(invalid="ignore"):
        shares = [(drawn[:, kind] @ wrong[kind]) / drawn[:, kind].sum(axis=1) for kind in (live, ~live)]
    draws = sum(shares) / 2
    tail = 0.025 if clusters is None else intervals.expanded_tail(len(set(clusters)), 0.025)
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    most = intervals.zero_errors(live, clusters) if not wrong.any() else 0.0
    return {
        "hter": float(wrong[live].mean() + wrong[~live].mean()) / 2,
        "hter_interval": [float(low), max(float(high), most)],
        "accepted_attacks": int(wrong[~live].sum()),
        "rejected_live": int(wrong[live].sum()),
    }


def describe_network(name: str, data: str) -> dict[str, Any]:
    """Of an ensemble's first member: model, start, parameters, operations of a view, and how many members there are."""
    described = read_ensemble(load_ensemble(name), data)
    model, about = load_member(described.members[0].path)
    recipe = about["recipe"]
    return {
        "members": len(described.members),
        "model": recipe["model"]["name"],
        "start": recipe["model"]["pretrained"] or "random",
        "epochs": recipe["train"]["epochs"],
        "parameters": count_parameters(model),
        "gflops": count_gflops(from_dict(Model, recipe["model"], name), recipe["view"]["size"]),
    }


# --- exports and speed -------------------------------------------------------------------------------


def measure_exports(args: argparse.Namespace) -> dict[str, Any]:
    """Per ensemble and precision: bytes of a member's file, and what the gate says of the folder."""
    found: dict[str, Any] = {}
    for name in (args.teacher, args.student):
        for int8 in (False, True):
            out = find_export(args.exported, name, int8)
            if not out.is_dir():
                tolerance, on = (WIDE, args.on) if int8 else (TOLERANCE, "")
                export_ensemble(Export(name, args.data, on, int8, tolerance, out))
            about = read_description(out)
            first = f"{about['members'][0]['recipe']}_fold{about['members'][0]['fold']}.onnx"
            gate = about["gate"]["runtimes"]["onnxruntime"]
            worst = max(gate["points"], key=lambda point: point["upper"])
            found.setdefault(name, {})["int8" if int8 else "float32"] = {
                "bytes": about["files"][first]["bytes"],
                "on": about["gate"]["on"],
                "passes": worst["upper"] <= TOLERANCE if int8 else not gate["why"],
                **{key: gate[key] for key in ("scored", "largest_difference", "eer")},
                "worst_point": worst,
            }
    return found


def find_export(folder: Path, name: str, int8: bool) -> Path:
    return folder.resolve() / (name + ("_int8" if int8 else ""))


def measure_speed(args: argparse.Namespace) -> dict[str, Any]:
    """Per way milliseconds of one member's passes a clip on one thread, and how many times faster than the teacher."""
    described: dict[str, EnsembleDescription] = {}
    for name in (args.teacher, args.student):
        described[f"{name} torch"] = read_ensemble(load_ensemble(name), args.data)
        for int8, title in ((False, "float32"), (True, "int8")):
            described[f"{name} {title}"] = read_exported(find_export(args.exported, name, int8))
    described = {way: replace(one, members=one.members[:1]) for way, one in described.items()}
    clips = find_videos(workspace() / "data" / args.data / "videos")[: args.clips]
    found: dict[str, dict[str, Any]] = {way: {} for way in described}
    runtime.measure_forward(described, clips, args.repeat, found)
    for figures in found.values():
        for kind in ("forward_ms", "forward_processor_ms"):
            figures[f"{kind}_ratio"] = round(found[f"{args.teacher} torch"][kind] / figures[kind], 2)
    return {"clips": len(clips), "machine": train.machine(), "ways": found}


# --- shift -------------------------------------------------------------------------------------------


def measure_stressed(args: argparse.Namespace) -> dict[str, Any]:
    """Both ensembles' figures under each stress, of the same stressed videos, and the paired difference in EER."""
    stresses = list_stresses(args.stressors, args.severities)
    systems, members = choose_systems(args.student, args.data, against=args.teacher)
    plan = StressPlan(args.data, stresses, videos=args.videos, workers=1)
    judged = {summary["ensemble"]: summary for summary in measure_shift(systems, members, plan)}
    tables = {
        name: read_table(shift_path(args.data, name, "csv"), ["filename", "label", "stressor", "severity", "score"])
        for name in judged
    }
    rows = []
    for stress in stresses:
        row: dict[str, Any] = {"stressor": stress.name, "severity": stress.severity, "parameters": stress.parameters}
        shown = {}
        for name, summary in judged.items():
            clean = choose_rows(tables[name], "clean", 0)
            stressed = choose_rows(tables[name], stress.name, stress.severity)
            shown[name] = select_presented(clean, stressed)
            figures = next(
                one for one in summary["rows"] if (one["stressor"], one["severity"]) == (stress.name, stress.severity)
            )
            row[name] = {key: figures[key] for key in ("eer", "interval", "apcer", "bpcer", "no_score", "videos")}
            row[name]["hter"] = measure_hter(clean, stressed, summary["clean"]["threshold"])
        both = shown[args.teacher].index.intersection(shown[args.student].index)
        first, second = (shown[name].loc[both] for name in (args.teacher, args.student))
        rows.append(row | {"difference": compare_systems(first, second)})
    clean = {name: {key: s["clean"][key] for key in ("eer", "interval", "threshold")} for name, s in judged.items()}
    return {
        "videos": judged[args.student]["videos"],
        "groups": judged[args.student]["clean"]["groups"],
        "clean": clean,
        "rows": rows,
    }


def choose_rows(table: pd.DataFrame, stressor: str, severity: int) -> pd.DataFrame:
    """One stress of a shift.csv, with the columns that the laboratory's figures take."""
    table = table.assign(severity=table["severity"].astype(int), label=table["label"].astype(int))
    rows = table[(table["stressor"] == stressor) & (table["severity"] == severity)].set_index("filename")
    return rows.assign(score=pd.to_numeric(rows["score"], errors="coerce"))


# --- what is printed ---------------------------------------------------------------------------------


def render(found: dict[str, Any]) -> str:
    """The tables of the parts that are there, in Markdown."""
    lines: list[str] = []
    if "errors" in found:
        lines += ["| | parameters | EER | log loss | HTER | log loss less the teacher's |", "|---|---|---|---|---|---|"]
        for row in found["errors"]["rows"]:
            less = row["against"] and row["against"]["log_loss"]
            cells = [
                f"{row['parameters'] / 1e6:.2f} M",
                *(f"{percent(row[key])} ({percent_range(row[f'{key}_interval'])})" for key in ("eer", "hter")),
                f"{less['difference']:+.3f} ({plain_range(less['interval'])}): {less['verdict']}" if less else "",
            ]
            cells.insert(2, f"{plain(row['log_loss'])} ({plain_range(row['log_loss_interval'])})")
            lines.append("| " + " | ".join([row["name"], *cells]) + " |")
    for name, files in found.get("exports", {}).items():
        for precision, one in files.items():
            worst = one["worst_point"]
            lines.append(
                f"- {name} {precision}: {one['bytes'] / 1e6:.2f} MB, {worst['flipped']} of {worst['of']} decisions "
                f"flipped (at most {percent(worst['upper'])}), gate {'passed' if one['passes'] else 'not passed'}"
            )
    for way, one in found.get("speed", {}).get("ways", {}).items():
        lines.append(f"- {way}: {one['forward_processor_ms']} ms a clip, {one['forward_processor_ms_ratio']} x")
    if "shift" in found:
        names = (found["teacher"], found["student"])
        lines += [
            f"| stress | EER {names[0]} | {names[1]} | difference | HTER {names[0]} | {names[1]} |",
            "|---" * 6 + "|",
        ]
        for row in found["shift"]["rows"]:
            less = row["difference"]
            cells = [percent(row[name]["eer"]) for name in names]
            cells.append(f"{100 * less['difference']:+.1f} ({percent_range(less['difference_interval'])})")
            cells += [percent(row[name]["hter"]) for name in names]
            lines.append(f"| {row['stressor']} {row['severity']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
