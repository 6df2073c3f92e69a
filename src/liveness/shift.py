"""How much worse does an ensemble get on videos that are not like those at home? The shift laboratory.

    python -m liveness.shift efficientnet_lite0 --data mine
    python -m liveness.shift efficientnet_lite0 --data mine --videos 100 --severities 2 --stressors jpeg blur print
    python -m liveness.shift --data mine --each --members first:0 first:1 second:0 second:1
    python -m liveness.shift efficientnet_lite0 --data mine --sheet stressors.png

Held-out videos are stressed (simulation/stress.py) and scored on the road of prediction, each by members
that did not train on it. Reads data/<set>/{folds.csv,videos/}, runs/<set>/<member>/{oof.csv,config.json}
and weights/<set>/. Prints error per stressor and severity, worst first, and writes
runs/<set>/<ensemble>/shift.json and shift.csv (a row per video and stress); with --each one pair per
recipe in runs/<set>/<recipe>/. See docs/shift.md.
"""

import argparse
import hashlib
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from liveness.base.compose import load_ensemble
from liveness.base.config import Ensemble, EnsembleMember, FramePlan
from liveness.base.errors import UserError, run
from liveness.base.files import plain_name, workspace, write_json, write_text, written_aside
from liveness.evaluation.combine import HOLDOUT, blend, frames_to_video
from liveness.evaluation.intervals import FEW_GROUPS
from liveness.laboratory import shift
from liveness.members.ensembles import in_set
from liveness.members.names import member_name, operating_path, parse_recipe_fold, weights_path
from liveness.members.trained import Trained, read_members
from liveness.members.weights import digests_of
from liveness.prediction.operating import Operating, read_operating
from liveness.sets.fold_table import read_folds
from liveness.sets.labels import table_text
from liveness.simulation.stress import CLEAN, SEVERITIES, STRESSORS, Stress, list_stresses

SEED = 1
SECONDS, GIB = 900.0, 4.0  # what one video may take under all stresses; see frames/workers.py


@dataclass
class System:
    """What is judged: some members and how they are weighed.

    ``shipped``: a whole ensemble, whose ``operating`` point calibrates its members as at prediction.
    Of others the scores are taken as they are.
    """

    name: str
    weights: dict[str, float]  # member name -> weight
    shipped: bool = False
    operating: Operating | None = None


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    data = plain_name(args.data or load_ensemble(args.ensemble).data, "--data")
    stresses = list_stresses(args.stressors or list(STRESSORS), args.severities)
    folds = read_folds(workspace() / "data" / data)
    # A video outside all folds is scored by every member in their evaluation; it is kept for that.
    folds = folds[folds["fold"] != HOLDOUT].reset_index(drop=True)[["filename", "label", "group", "fold"]]
    if args.sheet:
        return make_sheet(args.sheet, data, folds, stresses, args.seed)
    systems, members = chosen(args)
    trained = read_members(data, members)
    require_same_folds(data, trained, folds)
    for one in systems:
        if one.shipped:
            digests = digests_of(
                {m.name: weights_path(data, m.recipe, m.fold) for m in trained if m.name in one.weights}
            )
            one.operating = read_operating(
                operating_path(data, one.name), list(one.weights), trained[0].data_hash, weights=one.weights,
                digests=digests, expected=load_ensemble(one.name).calibration,
            )  # fmt: skip
            if one.operating.lost:
                print(f"warning: {one.name}: {one.operating.lost}", file=sys.stderr, flush=True)
    videos = chosen_videos(folds, trained, args.videos, args.seed)
    print(
        f"{len(videos)} held-out videos of {data}, {len(stresses)} stresses, {len(trained)} members "
        f"in {len(systems)} system{'s' if len(systems) > 1 else ''}",
        flush=True,
    )
    scores = score_all(data, members, trained, videos, stresses, args)
    check_road(scores, trained)
    about = {"data": data, "data_hash": trained[0].data_hash, "seed": args.seed}
    about["weights_sha256"] = digests_of({m.name: weights_path(data, m.recipe, m.fold) for m in trained})
    groups = [systems] if args.against else [[one] for one in systems]
    summaries = [report(about, judged, scores, videos, stresses) for judged in groups]
    if args.each:
        print(render_each(summaries))
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
    parser.add_argument("--seed", type=int, default=SEED, help=f"of sample and stressors (default {SEED})")
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


def chosen(args: argparse.Namespace) -> tuple[list[System], list[EnsembleMember]]:
    """What is judged, and every member that this needs, once."""
    ensemble = in_set(args.ensemble, args.data) if args.ensemble else Ensemble(data=args.data)
    members = ensemble.members
    if args.members:
        known = {(member.recipe, member.fold): member for member in members}
        wanted = [EnsembleMember(*parse_recipe_fold(text)) for text in dict.fromkeys(args.members)]
        members = [known.get((member.recipe, member.fold), member) for member in wanted]
    if args.each:
        recipes = dict.fromkeys(member.recipe for member in members)
        return [system(r, [m for m in members if m.recipe == r]) for r in recipes], members
    name = args.ensemble or "members"
    systems = [system(f"{name}-subset" if args.members else name, members, shipped=not args.members)]
    if args.against:
        others = in_set(args.against, ensemble.data).members
        systems.append(system(args.against, others, shipped=True))
        members = list({(m.recipe, m.fold): m for m in [*members, *others]}.values())
    return systems, members


def system(name: str, members: list[EnsembleMember], shipped: bool = False) -> System:
    return System(name, {member_name(member.recipe, member.fold): member.weight for member in members}, shipped)


def require_same_folds(data: str, trained: list[Trained], folds: pd.DataFrame) -> None:
    """A UserError unless every member held out the videos of today's fold."""
    for member in trained:
        held_out = set(member.frames["filename"][member.frames["fold"] == member.fold])
        if held_out != set(folds["filename"][folds["fold"] == member.fold]):
            raise UserError(
                f"{member.name}: its oof.csv and data/{data}/folds.csv have different videos in fold "
                f"{member.fold}: the folds changed since training; train this member again"
            )


def chosen_videos(folds: pd.DataFrame, trained: list[Trained], count: int, seed: int) -> pd.DataFrame:
    """The videos that some member held out, or a seeded sample of them; both classes."""
    covered = folds[folds["fold"].isin({member.fold for member in trained})]
    order = [int(hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()[:12], 16) for name in covered["filename"]]
    videos = shift.sample(covered, count, order)
    if videos["label"].nunique() < 2:
        raise UserError(f"{len(videos)} held-out videos, all of one class; an error rate needs live and attack videos")
    return videos.set_index("filename")


Scores = dict[str, dict[Stress, dict[str, float]]]  # member -> stress -> file name -> score, nan without one


def score_all(
    data: str, members: list[EnsembleMember], trained: list[Trained], videos: pd.DataFrame,
    stresses: list[Stress], args: argparse.Namespace,
) -> Scores:  # fmt: skip
    """Every member's score of every video that it held out, clean and under each stress; one pass."""
    from liveness.base.machine import cores
    from liveness.frames.views import Prepared
    from liveness.frames.workers import Failed, run_tasks
    from liveness.laboratory.stressed import Task, stress_task
    from liveness.prediction.engine import load_members

    loaded = load_members(Ensemble("shift laboratory", data, members), data)
    fold_of = {member.name: member.fold for member in trained}
    holders = {f: [m for m in loaded.members if fold_of[m.name] == f] for f in fold_of.values()}
    folder = workspace() / "data" / data / "videos"

    def tasks() -> Iterator[Task]:
        for name, video in videos.iterrows():
            wanted = {member.wanted.key: member.wanted for member in holders[video["fold"]]}
            mine = [s for s in stresses if s.kind != "attack" or video["label"] == 1]
            yield Task(folder / name, tuple(wanted.values()), (CLEAN, *mine), args.seed)

    scores: Scores = {member.name: {stress: {} for stress in (CLEAN, *stresses)} for member in loaded.members}
    models = Models(loaded.lanes, scores)
    results = run_tasks(stress_task, tasks(), args.workers or max(1, cores() - 1), SECONDS, GIB)
    for task, found in with_progress(results, len(videos)):
        name = task.path.name
        if isinstance(found, Failed):
            print(f"warning: {name}: {found.reason}", file=sys.stderr)
            found = {stress: Prepared(task.path, "crashed", found.reason) for stress in task.stresses}
        for stress, prepared in found.items():
            models.submit(name, stress, prepared, holders[videos.loc[name, "fold"]])
    models.settle(0)
    loaded.close()
    return scores


class Models:
    """Sends prepared videos to the members, several at a time, and notes their scores."""

    def __init__(self, lanes: Any, scores: Scores) -> None:
        self.lanes, self.scores = lanes, scores
        self.waiting: deque[tuple] = deque()

    def submit(self, filename: str, stress: Stress, prepared: Any, members: list[Any]) -> None:
        """One video under one stress; members with equal needs share its tensors."""
        from liveness.frames.contract import stack, to_tensor

        for key in dict.fromkeys(member.wanted.key for member in members):
            mine = [member for member in members if member.wanted.key == key]
            count = len(prepared.frames_of.get(key, []))
            futures = []
            if count:
                tensors = stack([to_tensor(view, mine[0].wanted.view) for view in prepared.views[key]])
                futures = self.lanes.submit([member.scorer for member in mine], tensors)
            self.waiting.append((filename, stress, mine, count, futures))
        self.settle(self.lanes.ahead)

    def settle(self, most: int) -> None:
        """Note scores until at most ``most`` are waited for; nan where a member got no view of the video."""
        from liveness.models.score import frame_scores

        while len(self.waiting) > most:
            filename, stress, members, count, futures = self.waiting.popleft()
            for place, member in enumerate(members):
                score = float("nan")
                if count:
                    views = self.lanes.result(futures[place]).scores
                    score = frames_to_video(frame_scores(views, count), member.combine)
                self.scores[member.name][stress][filename] = score


def with_progress(results: Iterator, total: int) -> Iterator:
    """A bar on a terminal, a line every half minute elsewhere."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        yield from tqdm(results, total=total, unit="video", desc="shift")
        return
    started = told = time.monotonic()
    for done, result in enumerate(results, 1):
        yield result
        if time.monotonic() - told > 30 or done == total:
            told = time.monotonic()
            print(f"  {done}/{total} videos, {told - started:.0f} s", file=sys.stderr, flush=True)


def check_road(scores: Scores, trained: list[Trained]) -> None:
    """Say so where clean scores are not those of oof.csv: another road than at training, or another machine."""
    for member in trained:
        here = scores[member.name][CLEAN]
        told = member.video_scores().videos.set_index("filename")["score"]
        apart = {name: abs(here[name] - told[name]) for name in here if here[name] == here[name]}
        lost = [name for name in here if math.isnan(here[name]) != math.isnan(told[name])]
        worst = max(apart, key=lambda name: apart[name] if apart[name] == apart[name] else -1.0, default=None)
        if lost or (worst and apart[worst] > 1e-3):
            name = lost[0] if lost else worst
            print(
                f"warning: {member.name}: {name} scores {here[name]:.4f} here, {told[name]:.4f} in oof.csv; "
                "was it trained on another machine, or its data changed?",
                file=sys.stderr,
            )


def report(about: dict, judged: list[System], scores: Scores, videos: pd.DataFrame, stresses: list[Stress]) -> dict:
    """Judge the first system (against the second, if there is one), print its table, write its files.

    about: what is the same for all of a run: data, data_hash, seed.
    """
    first = judged[0]
    tables = {stress: table_of(first, stress, scores, videos) for stress in (CLEAN, *stresses)}
    others = {s: table_of(judged[1], s, scores, videos) for s in (CLEAN, *stresses)} if judged[1:] else {}
    clean = tables[CLEAN]
    if clean["label"].nunique() < 2:
        raise UserError(f"{first.name}: the held-out videos of its members are all of one class; expected both")
    threshold = shift.threshold_of(clean)
    rows = []
    for stress in stresses:
        row = {"stressor": stress.name, "severity": stress.severity, "parameters": stress.parameters}
        row |= shift.judge(clean, tables[stress], threshold)
        rows.append(row | _against(judged, tables, others, stress))
    plain = shift.judge(clean, clean, threshold)
    summary = {
        "version": 1,
        "ensemble": first.name,
        "members": list(first.weights),
        **about,
        "weights_sha256": {name: value for name, value in about["weights_sha256"].items() if name in first.weights},
        "videos": len(clean),
        "clean": {
            **{key: plain[key] for key in ("eer", "interval", "auc", "videos", "no_score")},
            "groups": int(clean["group"].nunique()),
            "threshold": threshold,
            **_against(judged, tables, others, CLEAN),
        },
        "rows": shift.worst_first(rows),
    }
    folder = workspace() / "runs" / about["data"] / first.name
    write_text(folder / "shift.csv", table_text(long_table(tables)))
    write_json(folder / "shift.json", summary)
    print(render(summary, judged[1].name if judged[1:] else ""))
    where = folder.relative_to(workspace())
    print(f"  per video: {where / 'shift.csv'}; all figures: {where / 'shift.json'}", flush=True)
    return summary


def _against(judged: list[System], tables: dict, others: dict, stress: Stress) -> dict:
    """The other system's EER under the same stress, and whether the first one differs from it."""
    if not others:
        return {}
    mine, theirs = (shift.presented(its[CLEAN], its[stress]) for its in (tables, others))
    both = mine.index.intersection(theirs.index)
    found = shift.compare(theirs.loc[both], mine.loc[both])
    return {"against": {"ensemble": judged[1].name, "videos": len(both), **found}}


def table_of(system: System, stress: Stress, scores: Scores, videos: pd.DataFrame) -> pd.DataFrame:
    """label, group, fold and the blended score of every video that a member of the system held out.

    Under an attack only the live videos, with label 0.
    """
    columns = pd.DataFrame({name: pd.Series(scores[name][stress], dtype=float) for name in system.weights})
    if system.operating:
        for name in columns:
            columns[name] = [system.operating.calibrate(name, score) for score in columns[name]]
    held = {filename for name in system.weights for filename in scores[name][CLEAN]}
    table = videos.loc[videos.index.isin(held)]
    if stress.kind == "attack":
        table = table[table["label"] == 1].assign(label=0)
    return table.assign(score=blend(columns.reindex(table.index), system.weights))


def long_table(tables: dict[Stress, pd.DataFrame]) -> pd.DataFrame:
    """One row per stress and video."""
    parts = [
        table.reset_index().assign(stressor=stress.name, severity=stress.severity) for stress, table in tables.items()
    ]
    columns = ["stressor", "severity", "filename", "label", "group", "fold", "score"]
    return pd.concat(parts, ignore_index=True)[columns]


def render(summary: dict, other: str = "") -> str:
    """The table for people."""
    clean = summary["clean"]
    lines = [
        "",
        f"{summary['ensemble']} on {summary['data']}: {summary['videos']} held-out videos, {clean['groups']} groups; "
        f"clean EER {_percent(clean['eer'])} {_range(clean['interval'])}",
        f"  {'stressor':12}{'parameters':28}{'EER':>7}  {'95 % interval':15}{'change':>7}  "
        f"{'APCER':>7}{'BPCER':>7}{'no score':>9}  verdict" + (f"  ({other}: EER, verdict)" if other else ""),
    ]
    for row in summary["rows"]:
        name = f"{row['stressor']} {row['severity']}"
        line = (
            f"  {name:12}{row['parameters']:28}{_percent(row['eer']):>7}  {_range(row['interval']):15}"
            f"{100 * row['difference']:>+7.1f}  {_percent(row['apcer']):>7}{_percent(row['bpcer']):>7}"
            f"{row['no_score']:>9}  {row['verdict']}"
        )
        if other:
            line += f"  ({_percent(row['against']['eer'])}, {row['against']['verdict']})"
        lines.append(line)
    lines.append(
        "  APCER and BPCER at the clean equal-error threshold; print and replay: against the clean live videos"
    )
    if clean["groups"] < FEW_GROUPS:
        lines.append(f"  {clean['groups']} groups: intervals are by video, too narrow to speak for other groups")
    return "\n".join(lines)


def render_each(summaries: list[dict]) -> str:
    """Recipes side by side: clean error, error under the stresses of quality and time, and under simulated attacks."""
    lines = ["", f"  {'':24}{'clean':>7}   {'stressed EER':^18}   {'stressed HTER':^16}   {'attack EER':^16}"]
    lines.append(
        f"  {'recipe':24}{'EER':>7}   {'mean':>8}{'worst':>8}   {'mean':>8}{'worst':>8}   {'print':>8}{'replay':>8}"
    )
    for summary in summaries:
        quality = [row for row in summary["rows"] if STRESSORS[row["stressor"]].kind != "attack"]
        attacks = {kind: [row for row in summary["rows"] if row["stressor"] == kind] for kind in ("print", "replay")}
        figures = [
            *_mean_and_worst([row["eer"] for row in quality]),
            *_mean_and_worst([(row["apcer"] + row["bpcer"]) / 2 for row in quality]),
            *(_mean_and_worst([row["eer"] for row in rows])[1] for rows in attacks.values()),
        ]
        shown = [f"{_percent(value):>8}" for value in figures]
        pairs = "   ".join("".join(shown[k : k + 2]) for k in (0, 2, 4))
        lines.append(f"  {summary['ensemble']:24}{_percent(summary['clean']['eer']):>7}   {pairs}")
    lines.append("  HTER: mean of APCER and BPCER at the clean equal-error threshold; attacks: the worst severity")
    return "\n".join(lines)


def _mean_and_worst(values: list[float]) -> tuple[float, float]:
    return (float(np.mean(values)), float(max(values))) if values else (float("nan"), float("nan"))


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _range(interval: list[float]) -> str:
    low, high = interval
    return "-" if math.isnan(low) else f"{100 * low:.1f}-{100 * high:.1f}"


def make_sheet(path: Path, data: str, folds: pd.DataFrame, stresses: list[Stress], seed: int) -> int:
    """Draw every stress on a live video and on an attack: a row per stressor, a column per severity."""
    from liveness.laboratory.stressed import stressed_frames

    tiles: dict[tuple[str, int, int], np.ndarray] = {}
    videos = [folds[folds["label"] == label].iloc[0] for label in (1, 0) if (folds["label"] == label).any()]
    for column, video in enumerate(videos):
        mine = [CLEAN, *(s for s in stresses if s.kind != "attack" or video["label"] == 1)]
        frames = stressed_frames(workspace() / "data" / data / "videos" / video["filename"], FramePlan(), mine, seed)
        for stress, frame in zip(mine, frames, strict=True):
            tiles[stress.name, stress.severity, column] = frame
    with written_aside(path) as side:
        arrange(tiles, [f"{v['filename']} {'live' if v['label'] else 'attack'}" for v in videos]).save(side)
    print(path)
    return 0


SIDE, STRIP, GAP = 150, 16, 4  # pixels: a tile's height, the line over it, between tiles


def arrange(tiles: dict[tuple[str, int, int], np.ndarray], titles: list[str]) -> Any:
    """One PIL image: a row per stressor, and per video its severities side by side."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(11)
    names = list(dict.fromkeys(name for name, _, _ in tiles))
    columns = list(dict.fromkeys((video, severity) for _, severity, video in tiles if severity))
    columns.sort()
    columns = columns or [(video, 0) for video in range(len(titles))]
    clean = tiles[names[0], 0, 0]
    width = max(90, round(SIDE * clean.shape[1] / clean.shape[0]))
    sheet = Image.new("RGB", (len(columns) * (width + GAP) + GAP, len(names) * (SIDE + STRIP + GAP) + GAP))
    pen = ImageDraw.Draw(sheet)
    for line, name in enumerate(names):
        for place, (video, severity) in enumerate(columns):
            first = place == 0 or columns[place - 1][0] != video
            key = (name, severity, video) if name != "clean" else (name, 0 if first else -1, video)
            if key not in tiles:
                continue
            left, top = GAP + place * (width + GAP), GAP + line * (SIDE + STRIP + GAP)
            stress = Stress(name, key[1])
            text = f"{name} {key[1]}: {stress.parameters}" if key[1] else titles[video]
            pen.text((left, top), text, (230, 230, 230), font)
            picture = Image.fromarray(tiles[key])
            factor = min(width / picture.width, SIDE / picture.height)
            size = (round(factor * picture.width), round(factor * picture.height))
            way = Image.Resampling.BICUBIC if factor < 1 else Image.Resampling.NEAREST  # lost pixels stay visible
            sheet.paste(picture.resize(size, way), (left, top + STRIP))
    return sheet


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")
    run(main)
