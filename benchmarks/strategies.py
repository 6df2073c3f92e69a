"""What learning beyond labels is worth on cameras that were left out: each strategy against plain supervised training.

    python benchmarks/strategies.py nuaa cameras --camera-groups nuaa,c1,c6 c2,c4,c7 c3,c5,c8 \\
        --out benchmarks/results/strategies.json

SET: raw sets with labels (docs/preparation.md). The label file's column `camera` names a video's camera and `subject`
its person; where a set has no such column, its name stands for its one camera, and a camera for its one person.
Each camera group is held out once, whole. Of the other cameras' videos a share keeps its label, drawn for each camera
and class, as often as --draws says; the rest is the unlabelled set. Every draw and group has sets of its own,
data/<name>_d<draw>_g<group> and _rest, and the set with all labels is data/<name>_all.

What is prepared or trained is not made again, so the same command continues one that was stopped. A row's scores are
those of members that held the camera group out, uncalibrated, since nobody has labels of a new camera. Prints a table,
writes JSON.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SOURCE))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from liveness.base.compose import load_data  # noqa: E402
from liveness.base.config import EnsembleMember  # noqa: E402
from liveness.base.errors import UserError, run  # noqa: E402
from liveness.base.files import workspace, write_bytes, write_json, write_text  # noqa: E402
from liveness.base.tables import read_table, table_text  # noqa: E402
from liveness.evaluation.format import percent, percent_range, plain, plain_range  # noqa: E402
from liveness.evaluation.metrics import eer  # noqa: E402
from liveness.laboratory.comparison import judge_scores  # noqa: E402
from liveness.laboratory.comparison_text import tell_difference  # noqa: E402
from liveness.laboratory.contenders import Contender  # noqa: E402
from liveness.laboratory.pseudo_labelling import label_set, plan_labelling  # noqa: E402
from liveness.members.trained import read_members  # noqa: E402
from liveness.sets.folds import fold_set  # noqa: E402
from liveness.sets.labels import find_set  # noqa: E402
from liveness.sets.preparation import prepare_set  # noqa: E402
from liveness.training.checks import claim_run  # noqa: E402
from liveness.training.member import train_member  # noqa: E402
from liveness.training.pseudo_labels import pseudo_path  # noqa: E402

RECIPE = "efficientnet_lite0"
# Narrow, so that the whole table takes a CPU core about an hour: one small view of a face instead of three.
SETTING = (
    "frames.plan=even", "frames.count=1", "view.size=80", "view.scales=[1.9]", "view.train_scales=[1.3,2.7]",
    "augment.attack_rate=0", "augment.camera=0", "train.epochs=3", "train.batch=16", "train.balance=camera",
    "train.workers=0", "train.cache_gib=2",
)  # fmt: skip
TEACHER = "supervised"  # that row's member of the same fold, trained on the same labels
PSEUDO = "strategies"  # the file of pseudo-labels
CONFIDENCE = 0.9  # of a pseudo-label: the calibrated probability of its class
PLAN = ["frames.plan=even", "frames.count=1"]  # one frame of a clip, as of a still image


# --- the sets ----------------------------------------------------------------------------------------


def gather_videos(sets: list[str], groups: list[list[str]], most: int) -> pd.DataFrame:
    """A row per video: path, filename (its set's name before its own), label, camera, subject, fold (its camera group).

    Of each camera at most ``most`` videos of a class, drawn by a fixed seed; 0 means all.
    """
    parts = []
    for name in sets:
        raw = find_set(name)
        if raw.labels is None:
            raise UserError(f"{name}: no labels; expected a set with a label file")
        table = raw.labels.assign(path=raw.videos)
        table["filename"] = [f"{name}-{one}" for one in table["filename"]]
        table["camera"] = table.get("camera", name)
        table["subject"] = table.get("subject", table["camera"])
        parts.append(table[["path", "filename", "label", "camera", "subject"]])
    table = pd.concat(parts, ignore_index=True)
    folds = {camera: fold for fold, cameras in enumerate(groups) for camera in cameras}
    there = sorted(set(table["camera"]))
    if sorted(folds) != there:
        raise UserError(f"--camera-groups names {', '.join(sorted(folds))}; the sets have {', '.join(there)}")
    table["fold"] = table["camera"].map(folds)
    return limit_rows(table, most)


def limit_rows(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows of each camera and class, drawn by a fixed seed; 0 means all."""
    return draw_rows(table, lambda count: min(count, most or count), np.random.default_rng(0))


def draw_rows(table: pd.DataFrame, how_many: Callable[[int], int], rng: np.random.Generator) -> pd.DataFrame:
    """So many rows of each camera and class, in the table's order."""
    chosen: list[int] = []
    for _, part in table.groupby(["camera", "label"], sort=True):
        chosen += list(rng.choice(part.index, how_many(len(part)), replace=False))
    return table.loc[sorted(chosen)].reset_index(drop=True)


def make_set(name: str, table: pd.DataFrame, labelled: bool, source: str = "") -> None:
    """Link the videos to raw/<name>/ and prepare them; folds, if ``labelled``, are the camera groups.

    source: a prepared set with these videos, whose frames and faces are linked, so that nothing is decoded again.
    """
    folder, made = workspace() / "raw" / name, workspace() / "data" / name
    if (made / ("folds.json" if labelled else "prepare.json")).is_file():
        return
    for path, filename in zip(table["path"], table["filename"], strict=True):
        link = folder / "videos" / filename
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path.resolve())
    # Also where training will read no label: a set of videos and images has to say that the images belong to it, and
    # the persons in it have to be told apart from those that are held out.
    write_text(folder / "label.csv", table_text(table[["filename", "label", "camera", "subject"]]))
    if source:
        link_prepared(workspace() / "data" / source, made, [Path(name).stem for name in table["filename"]])
    data = load_data(name, [*PLAN, "workers=1"])
    prepare_set(data)
    if labelled:
        write_text(made / "folds.csv", table_text(table[["filename", "label", "fold"]]))
        fold_set(made, data.folds)


def link_prepared(source: Path, made: Path, stems: list[str]) -> None:
    """What preparation has made of some videos of ``source``: its records, and hard links to the files they name.

    Preparation checks each record against its video and makes anew what does not fit.
    """
    for stem in stems:
        record = source / ".records" / f"{stem}.json"
        files = json.loads(record.read_text(encoding="utf-8"))["files"]
        for name in [*files["frames"], *files["faces"]]:
            target = made / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(source / name, target)
        write_bytes(made / ".records" / record.name, record.read_bytes())


@dataclass(frozen=True)
class Draw:
    """A draw of the labels with one camera group held out."""

    data: str  # the set: the group that is held out, and what keeps its labels
    rest: str  # the others' videos, without labels
    number: int
    fold: int  # the camera group that is held out
    judged: list[str]  # its videos


def make_draws(table: pd.DataFrame, name: str, draws: int, share: float, judged: int) -> list[Draw]:
    """The sets of every draw; of the group that is held out at most ``judged`` videos of a camera and class."""
    found = []
    for draw in range(draws):
        rng = np.random.default_rng(draw + 1)
        kept = set(draw_rows(table, lambda count: max(1, round(share * count)), rng)["filename"])
        for fold in sorted(set(table["fold"])):
            data, own = f"{name}_d{draw}_g{fold}", table[table["fold"] == fold]
            own = limit_rows(own.reset_index(drop=True), judged)
            others = table[table["fold"] != fold]
            labelled = others["filename"].isin(kept)
            make_set(data, pd.concat([own, others[labelled]]), True, f"{name}_all")
            if not labelled.all():  # with --share 1 there is no rest
                make_set(f"{data}_rest", others[~labelled], False, f"{name}_all")
            found.append(Draw(data, f"{data}_rest", draw, fold, list(own["filename"])))
    return found


# --- the strategies ----------------------------------------------------------------------------------


def list_ways(draw: Draw, args: argparse.Namespace) -> list[Contender]:
    """The rows for a draw; the first is what the others are compared with."""
    ways = {
        "supervised": [],
        "cross_pseudo": ["train.task=cross_pseudo", f"train.unlabelled={draw.rest}"],
        "mean_teacher": ["train.task=mean_teacher", f"train.unlabelled={draw.rest}"],
        "pseudo_labels": [f"train.pseudo_labels={PSEUDO}"],
        "distil": ["train.task=distil", f"train.teacher={TEACHER}"],
    }
    wanted = {name: own for name, own in ways.items() if name in (args.ways or ways)}
    return [Contender(name, RECIPE, (*SETTING, *args.options, *own)) for name, own in wanted.items()]


def label_rest(draw: Draw, args: argparse.Namespace) -> None:
    """Make the pseudo-labels of a draw: a labeller trained on the same labels, but for those that calibrate it."""
    if not pseudo_path(draw.data, PSEUDO).with_suffix(".json").is_file():
        own = [*SETTING, *args.options]
        plan = plan_labelling(RECIPE, own, draw.data, draw.rest, [draw.fold], CONFIDENCE, PSEUDO)
        for labeller, _ in plan.by_fold[draw.fold]:
            train(labeller, draw.data, draw.fold)
        label_set(plan)


def train(row: Contender, data: str, fold: int) -> None:
    """Train a member in this process; passed over where it is made, refused where it was made with other values."""
    recipe = row.load(fold)
    with claim_run(recipe, fold, data) as folder:
        train_member(recipe, fold, data, folder)


def train_all(draws: list[Draw], args: argparse.Namespace) -> None:
    """Row by row, as a row may be taught by the members of one before it."""
    for way in range(len(list_ways(draws[0], args))):
        for draw in draws:
            row = list_ways(draw, args)[way]
            if row.name == "pseudo_labels":
                label_rest(draw, args)
            train(row, draw.data, draw.fold)


# --- the table ---------------------------------------------------------------------------------------


def read_scores(name: str, draws: list[Draw]) -> pd.Series:
    """A row's scores of the held-out videos by (draw, file name), uncalibrated."""
    parts = []
    for draw in draws:
        member = read_members(draw.data, [EnsembleMember(name, draw.fold)])[0]
        videos = member.video_scores().videos.set_index("filename")["score"].reindex(draw.judged)
        parts.append(videos.set_axis(pd.MultiIndex.from_product([[draw.number], draw.judged])))
    return pd.concat(parts)


def judge(table: pd.DataFrame, rows: list[Contender], draws: list[Draw]) -> dict[str, Any]:
    """Figures of the rows over some draws, on the videos that every row scores.

    An interval draws whole groups (persons; of a camera without names of persons the camera), with all draws' scores.
    """
    scores = pd.DataFrame({row.name: read_scores(row.name, draws) for row in rows})
    about = table.set_index("filename").loc[scores.index.get_level_values(1)]
    kept = scores.notna().all(axis=1).to_numpy()
    labels, groups = about["label"].to_numpy(int)[kept], about["subject"].to_numpy()[kept]
    found = judge_scores(rows, labels, scores[kept], groups)
    counts = {"videos": len(set(about.index[kept])), "left_out": len(set(about.index[~kept]))}
    for against in [value for row in found for value in (row["against"] or {}).values()]:
        if against["videos_to_tell"]:  # every draw scores the same videos
            against["videos_to_tell"] = math.ceil(against["videos_to_tell"] * counts["videos"] / len(labels))
    shown = ("name", "log_loss", "log_loss_interval", "eer", "eer_interval", "against")
    return {**counts, "groups": len(set(groups)), "rows": [{key: row[key] for key in shown} for row in found]}


def measure_by_camera(table: pd.DataFrame, rows: list[Contender], draws: list[Draw]) -> dict[str, dict[str, float]]:
    """EER of every row on each camera's videos, all draws pooled; nan where one class has no score."""
    scores = pd.DataFrame({row.name: read_scores(row.name, draws) for row in rows}).dropna()
    about = table.set_index("filename").loc[scores.index.get_level_values(1)]
    cameras, labels = about["camera"].to_numpy(), about["label"].to_numpy(int)
    found: dict[str, dict[str, float]] = {}
    for camera in sorted(set(cameras)):
        mine = cameras == camera
        both = len(set(labels[mine])) == 2
        found[camera] = {
            name: eer(labels[mine], scores[name].to_numpy()[mine]).value if both else math.nan for name in scores
        }
    return found


def describe(table: pd.DataFrame, rows: list[Contender], draws: list[Draw], groups: list[list[str]]) -> dict[str, Any]:
    """All draws and groups pooled; each camera's EER; each group alone; each draw alone."""
    return {
        "pooled": judge(table, rows, draws),
        "eer_by_camera": measure_by_camera(table, rows, draws),
        "by_group": [
            {"cameras": cameras, **judge(table, rows, [draw for draw in draws if draw.fold == fold])}
            for fold, cameras in enumerate(groups)
        ],
        "by_draw": [
            judge(table, rows, [draw for draw in draws if draw.number == number])
            for number in sorted({draw.number for draw in draws})
        ],
    }


def count_pseudo(table: pd.DataFrame, draws: list[Draw]) -> list[dict[str, Any]]:
    """By draw and group how many of the unlabelled videos were labelled, and how many of those rightly."""
    labels, found = table.set_index("filename")["label"].astype(int), []
    for draw in draws:
        path = pseudo_path(draw.data, PSEUDO)
        if path.is_file():
            given = read_table(path, ["filename", "label"]).set_index("filename")["label"].astype(float)
            right = int(((given > 0.5) == labels[given.index]).sum())
            found.append({"draw": draw.number, "group": draw.fold, "labelled": len(given), "right": right})
    return found


def render(title: str, found: dict[str, Any]) -> list[str]:
    """A markdown table."""
    lines = [f"{title}: {found['videos']} videos, {found['groups']} persons or cameras", ""]
    lines += [
        "| | log loss | 95 % | EER | 95 % | log loss against the first | EER against the first |",
        "|" + "---|" * 7,
    ]
    for row in found["rows"]:
        cells = [row["name"], plain(row["log_loss"]), plain_range(row["log_loss_interval"])]
        cells += [percent(row["eer"]), percent_range(row["eer_interval"])]
        cells += [tell_difference(row, figure) if row["against"] else "(first)" for figure in ("log_loss", "eer")]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    groups = [text.split(",") for text in args.camera_groups]
    table = gather_videos(args.sets, groups, args.most)
    make_set(f"{args.name}_all", table, True)
    draws = make_draws(table, args.name, args.draws, args.share, args.judged)
    for number in range(args.draws):
        so_far = [draw for draw in draws if draw.number <= number]
        train_all(so_far, args)
        found = describe(table, list_ways(draws[0], args), so_far, groups)
        about = {"sets": args.sets, "camera_groups": groups, "share": args.share, "draws": number + 1}
        about |= {"recipe": RECIPE, "options": [*SETTING, *args.options], "teacher": TEACHER}
        about |= {"videos": len(table), "pseudo_labels": count_pseudo(table, so_far)}
        if args.out:
            write_json(args.out, about | found, indent=1)
        if number == args.draws - 1:
            print("\n".join(render("all camera groups", found["pooled"])))
            for part in found["by_group"]:
                print("\n".join(render(f"held out: {', '.join(part['cameras'])}", part)))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", metavar="SET", nargs="+", help="raw sets with labels")
    parser.add_argument("--camera-groups", nargs="+", required=True, metavar="CAMERA,...", help="held out together")
    parser.add_argument("--draws", type=int, default=2, help="of the labels; 0 only makes the set with all")
    parser.add_argument("--share", type=float, default=0.25, help="of the labels that are kept")
    parser.add_argument("--most", type=int, default=60, help="videos of a camera and class; 0 = all")
    parser.add_argument("--judged", type=int, default=20, help="of them in the group that is held out; 0 = all")
    parser.add_argument("--name", default="strategies", help="of the sets that are made")
    parser.add_argument("-o", dest="options", nargs="+", default=[], metavar="KEY=VALUE", help="changes in every row")
    parser.add_argument("--ways", nargs="+", default=[], help="only these rows")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
