"""How good is an ensemble? Its out-of-fold error, with intervals.

    python -m liveness.evaluate demo
    python -m liveness.evaluate zalo2022 --data train --members convnext_large:0 convnext_large:1

A video's score comes only from members that held it out in training, each calibrated on its own
held-out fold without that video's part of it; none is calibrated where that makes the blend's log loss
worse. Thresholds are chosen on the holdout (fold -1),
which all members score, or out of fold, then corrected and called approximate. Reads
configs/ensemble/<name>.yaml, runs/<set>/<recipe>_fold<k>/{oof.csv,config.json} of every member and
data/<set>/folds.csv (labels_video.csv too, for the attack species). Prints the table and writes
runs/<set>/<ensemble>/{oof_video.csv,report.json} (there ``score`` is calibrated and blended, the
members' columns are raw) and weights/<set>/<ensemble>.json (calibration and thresholds for
prediction). Equal inputs give equal files.

With --members only those are judged: then the folder is runs/<set>/<ensemble>-subset and no
thresholds are written. With --combinations other ways to combine frames and members are compared
with the configured one; those that learn are judged on folds that they did not learn from.
"""

import argparse
import json
import math
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.config import EnsembleMember
from liveness.base.errors import UserError, run
from liveness.base.files import unprepared, workspace, write_text
from liveness.base.tables import read_table, table_text
from liveness.evaluation import calibration, combine, report, thresholds
from liveness.laboratory import candidates
from liveness.members.ensembles import in_set
from liveness.members.names import member_name, operating_path, recipe_fold, weights_path
from liveness.members.weights import digests_of
from liveness.sets.grouping import grouping_of

OOF_COLUMNS = ["filename", "video_id", "frame_id", "label", "fold", "score", "status"]
FOLD_COLUMNS = ["filename", "label", "group", "fold"]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    ensemble = in_set(args.ensemble, args.data)
    data = ensemble.data
    members = chosen_members(ensemble.members, args.members)
    name = f"{args.ensemble}-subset" if args.members else args.ensemble
    folds = read_folds(workspace() / "data" / data / "folds.csv")
    require_runs(data, members)
    trained, data_hash = read_members(data, members)
    judged = judge_shipped(folds, trained, ensemble.calibration)
    species = read_species(data, judged.table)
    groups_are = grouping_of(workspace() / "data" / data)
    summary = measured(judged, species, groups_are, f"{args.ensemble} on {data}")
    about = {"ensemble": name, "data": data, "data_hash": data_hash, "weights": judged.weights}
    about["weights_sha256"] = digests_of({m.name: weights_path(data, m.recipe, m.fold) for m in trained})
    summary = about | summary
    recipes = {member.name: member.recipe for member in trained}
    basis = thresholds.basis(judged.table, judged.calibrated, judged.weights, recipes, species)
    summary["operating_points"] = shipped_points(basis, summary)
    summary["naive_gap"] = naive_gap(folds, trained, data, data_hash, judged.how)
    if args.combinations:
        summary["combinations"] = compare(folds, trained, judged.how, judged)
        summary["learned_weights"] = learned_weights(trained, judged)
    folder = workspace() / "runs" / data / name
    write_text(folder / "oof_video.csv", table_text(judged.table))
    if not args.members:
        write_json(operating_path(data, name), shipped(summary, basis, typical_frames(trained)))
    write_json(folder / "report.json", summary)
    print(report.render(summary, f"{args.ensemble} on {data}{', chosen members only' if args.members else ''}"))
    if args.combinations:
        print(report.render_ways(summary["combinations"]))
        print(report.render_weights(summary["learned_weights"], {m.name: (m.recipe, m.fold) for m in trained}, name))
    print(f"  per video: {shown(folder / 'oof_video.csv')}; all figures: {shown(folder / 'report.json')}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("ensemble", metavar="ENSEMBLE", help="a file in configs/ensemble, without .yaml")
    parser.add_argument("--data", metavar="SET", help="the data set, if not the one that the ensemble names")
    parser.add_argument("--members", metavar="RECIPE:FOLD", nargs="+", help="judge only these members")
    parser.add_argument("--combinations", action="store_true", help="also compare other ways to combine the scores")
    return parser.parse_args(argv)


def chosen_members(members: list[EnsembleMember], wanted: list[str] | None) -> list[EnsembleMember]:
    """The ensemble's members, or those that --members names; weights stay as they are."""
    if not wanted:
        return members
    known = {recipe_fold(member.recipe, member.fold): member for member in members}
    for text in wanted:
        if text not in known:
            raise UserError(f"--members {text}: not a member of the ensemble; expected among {', '.join(known)}")
    return [known[text] for text in dict.fromkeys(wanted)]


def require_runs(data: str, members: list[EnsembleMember]) -> None:
    """A UserError that names the members without a finished run and the commands that make them."""
    runs = workspace() / "runs" / data
    missing = [m for m in members if not (runs / member_name(m.recipe, m.fold) / "oof.csv").is_file()]
    if missing:
        commands = "; ".join(
            f"python -m liveness.soup RECIPE RECIPE --fold {m.fold} --name {m.recipe} --data {data}"
            if m.soup
            else f"DATA={data} bash scripts/train_member.sh {m.recipe} {m.fold}"
            for m in missing
        )
        names = ", ".join(member_name(m.recipe, m.fold) for m in missing)
        raise UserError(f"not trained yet: {names} (no oof.csv in {shown(runs)}); train with: {commands}")


def integers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A column of whole numbers; the first row that is none is named."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    bad = table[numbers.isna() | (numbers % 1 != 0)]
    if len(bad):
        row = bad.iloc[0]
        raise UserError(f"{shown(path)}: {column} {row[column]!r} of {row['filename']}; expected a whole number")
    return numbers.astype(int)


def read_folds(path: Path) -> pd.DataFrame:
    """folds.csv with whole-number labels and folds, one row per video."""
    if not path.is_file():
        raise UserError(f"{shown(path)}: no such file; {unprepared(path.parent.name)}")
    table = read_table(path, FOLD_COLUMNS)
    if len(table) == 0 or (table["label"] == "").all():
        raise UserError(f"{shown(path)}: no labelled video in it; an evaluation needs labels")
    table["label"] = integers(table, "label", path)
    table["fold"] = integers(table, "fold", path)
    if not table["label"].isin((0, 1)).all():
        raise UserError(f"{shown(path)}: labels other than 0 (attack) and 1 (live)")
    twice = table["filename"][table["filename"].duplicated()]
    if len(twice):
        raise UserError(f"{shown(path)}: {twice.iloc[0]} is listed twice; expected one row per video")
    return table


@dataclass(frozen=True)
class Trained:
    """A finished member and its held-out frame scores."""

    name: str
    recipe: str
    fold: int
    weight: float
    combine: str  # the recipe's way from frames to a video
    frames: pd.DataFrame  # of oof.csv

    def video_scores(self, how: str = "") -> combine.MemberScores:
        """Its score per held-out video, combined by the recipe's own way or by ``how``."""
        videos = combine.video_scores(self.frames, how or self.combine)
        return combine.MemberScores(self.name, self.fold, self.weight, videos)


def read_members(data: str, members: list[EnsembleMember]) -> tuple[list[Trained], str]:
    """Every member's held-out frame scores, and the hash of the data that all were trained on."""
    trained, hashes = [], {}
    for member in members:
        name = member_name(member.recipe, member.fold)
        folder = workspace() / "runs" / data / name
        config = read_run_config(folder / "config.json")
        hashes[name] = str(config.get("data_hash", ""))
        frames = read_oof(folder / "oof.csv")
        trained.append(Trained(name, member.recipe, member.fold, member.weight, config["recipe"]["combine"], frames))
    first = next(iter(hashes))
    for name, value in hashes.items():
        if value != hashes[first]:
            raise UserError(
                f"{name} and {first} were trained on different states of data/{data}; train one of them again"
            )
    return trained, hashes[first]


@dataclass(frozen=True)
class Judged:
    """An ensemble's scores of the videos that its members held out."""

    table: pd.DataFrame  # of combine.assemble: members' columns raw, score calibrated and blended
    raw: pd.Series  # the blend without calibration, rows as in table
    calibrated: pd.DataFrame  # members' columns on the common scale, rows as in table
    how: str  # of calibration
    fits: dict[str, calibration.CrossFitted]
    weights: dict[str, float]
    withheld: dict | None = None  # of calibration.withheld: the calibration that was asked for and does harm

    def out_of_fold(self) -> np.ndarray:
        """Mask of the rows that are not of the holdout."""
        return (self.table["fold"] != combine.HOLDOUT).to_numpy()


def judge(folds: pd.DataFrame, trained: list[Trained], how: str, frames: str = "") -> Judged:
    """Assemble, calibrate each member by ``how`` and blend; frames are combined by ``frames`` or the recipe's way."""
    table = combine.assemble(folds, [member.video_scores(frames) for member in trained])
    weights = {member.name: member.weight for member in trained}
    fits = calibration.calibrate(how, table[list(weights)], table, {member.name: member.fold for member in trained})
    calibrated = pd.DataFrame({name: fit.scores for name, fit in fits.items()})
    blended = table.assign(score=combine.blend(calibrated, weights).to_numpy())
    return Judged(blended, table["score"], calibrated, how, fits, weights)


def judge_shipped(folds: pd.DataFrame, trained: list[Trained], how: str) -> Judged:
    """``judge`` as it will be shipped: without any calibration where that makes the blend's log loss worse.

    Both log losses are out of fold; a video's calibrated score is from fits that have not seen its part of the fold.
    """
    judged = judge(folds, trained, how)
    rows = judged.out_of_fold() & np.isfinite(judged.raw.to_numpy()) & judged.table["score"].notna().to_numpy()
    labels, scores = judged.table["label"].to_numpy()[rows], judged.table["score"].to_numpy()[rows]
    withheld = calibration.withheld(how, labels, judged.raw.to_numpy()[rows], scores)
    return replace(judge(folds, trained, "none"), withheld=withheld) if withheld else judged


def measured(judged: Judged, species: list[str] | None, groups_are: dict, what: str) -> dict:
    """The out-of-fold figures, those of the holdout, and what calibration did; a UserError without both classes."""
    home = judged.out_of_fold()
    table, names = judged.table[home].reset_index(drop=True), list(judged.weights)
    summary = report.summarise(table, names, kept(species, home), groups_are)
    if math.isnan(summary["pooled"]["eer"]):
        found = summary["counts"]
        raise UserError(
            f"{what}: {found['scored']} of {found['videos']} held-out videos have a score, "
            "and not both classes are among them; an error rate needs live and attack videos"
        )
    scored = home & np.isfinite(judged.raw.to_numpy())
    labels = judged.table["label"].to_numpy()[scored]
    summary["holdout"] = report.holdout(judged.table[~home].reset_index(drop=True), kept(species, ~home), groups_are)
    summary["calibration"] = report.calibrated(judged.how, judged.fits, labels, judged.raw.to_numpy()[scored])
    summary["calibration"]["withheld"] = judged.withheld
    return summary


def naive_gap(folds: pd.DataFrame, trained: list[Trained], data: str, data_hash: str, how: str) -> dict | None:
    """Grouped against naive folds, for the recipes that were trained with --naive too; None where none was.

    Both sides are these recipes alone, calibrated and blended alike, on the videos that both score.
    """
    runs = workspace() / "runs" / data
    naive = [EnsembleMember(f"{m.recipe}_naive", m.fold, m.weight) for m in trained]
    naive = [member for member in naive if (runs / member_name(member.recipe, member.fold) / "oof.csv").is_file()]
    if not naive:
        return None
    if "naive_fold" not in folds.columns:
        raise UserError(f"data/{data}/folds.csv: no column naive_fold; run: bash prepare_data.sh {data}")
    others, their_hash = read_members(data, naive)
    if their_hash != data_hash:
        raise UserError(f"{others[0].name} was trained on another state of data/{data}; train it again")
    same = [member for member in trained if any(other.recipe == f"{member.recipe}_naive" for other in others)]
    path = workspace() / "data" / data / "folds.csv"
    dealt = integers(folds, "naive_fold", path).where(folds["fold"] != combine.HOLDOUT, combine.HOLDOUT)
    table = judge(folds, same, how).table
    theirs = judge(folds.assign(fold=dealt), others, how).table["score"]
    home = (table["fold"] != combine.HOLDOUT).to_numpy()
    rows = table[home]
    gap = candidates.naive_gap(rows["label"], rows["score"], theirs[home], rows["group"])
    names = [member.name for member in others]
    return {"members": names, "recipes": list(dict.fromkeys(member.recipe for member in others)), **gap}


def kept(species: list[str] | None, rows: np.ndarray) -> list[str] | None:
    return None if species is None else [name for name, row in zip(species, rows, strict=True) if row]


def compare(folds: pd.DataFrame, trained: list[Trained], how: str, judged: Judged) -> dict[str, list[dict]]:
    """Every other way from frames to a video, and from members to an ensemble, against ``judged``; out of fold."""
    home = judged.out_of_fold()
    table = judged.table.assign(**judged.calibrated)[home].reset_index(drop=True)
    frames = {way: judge(folds, trained, how, way).table["score"][home] for way in report.FRAME_WAYS}
    found = {"frames to a video": report.compare_ways(table, frames)}
    joined = combine.by_recipe(table, {member.name: member.recipe for member in trained})
    covered = joined.notna().any(axis=1).to_numpy()
    several_folds = table["fold"][covered].nunique() > 1
    ways = combine.FIXED + (combine.LEARNED if several_folds else ())
    if joined.shape[1] > 1:
        labels, dealt = table["label"].to_numpy(), table["fold"].to_numpy()
        blended = {how: pd.Series(np.nan, index=joined.index) for how in ways}
        for how, scores in blended.items():
            scores[covered] = combine.cross_fitted(how, joined[covered], labels[covered], dealt[covered]).to_numpy()
        found["members to an ensemble"] = report.compare_ways(table, {**{n: joined[n] for n in joined}, **blended})
    return found


def learned_weights(trained: list[Trained], judged: Judged) -> dict[str, dict[str, float]]:
    """What ``weights`` and ``greedy`` learn on all folds, as weights of the members for configs/ensemble/.

    A recipe's weight is shared by its members. Empty where there is one recipe only.
    """
    home = judged.out_of_fold()
    table = judged.table.assign(**judged.calibrated)[home]
    recipes = {member.name: member.recipe for member in trained}
    joined = combine.by_recipe(table, recipes)
    if joined.shape[1] < 2:
        return {}
    sizes = Counter(recipes.values())
    fits = {how: combine.fit(how, joined, table["label"].to_numpy()).weights for how in ("weights", "greedy")}
    return {how: {name: fit[recipe] / sizes[recipe] for name, recipe in recipes.items()} for how, fit in fits.items()}


def read_run_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        combine.check_how(config["recipe"]["combine"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{shown(path)}: not the configuration of a run ({type(error).__name__}); train again"
        ) from error
    return config


def read_oof(path: Path) -> pd.DataFrame:
    """oof.csv with numbers as numbers; an empty score is nan."""
    table = read_table(path, OOF_COLUMNS)
    table["label"] = integers(table, "label", path)
    table["fold"] = integers(table, "fold", path)
    scores = pd.to_numeric(table["score"], errors="coerce")
    bad = table[(scores.isna() & (table["score"] != "")) | (scores < 0) | (scores > 1)]
    if len(bad):
        row = bad.iloc[0]
        raise UserError(f"{shown(path)}: score {row['score']!r} of {row['filename']}; expected 0 to 1 or nothing")
    return table.assign(score=scores.astype(float))


def read_species(data: str, table: pd.DataFrame) -> list[str] | None:
    """The attack species of each row from labels_video.csv; None where none is named."""
    path = workspace() / "data" / data / "labels_video.csv"
    if not path.is_file():
        return None
    videos = read_table(path, ["filename"])
    if "species" not in videos.columns:
        return None
    named = dict(zip(videos["filename"], videos["species"], strict=True))
    species = [named.get(filename, "") for filename in table["filename"]]
    return species if any(species) else None


def shipped_points(basis: thresholds.Basis, summary: dict) -> list[dict]:
    """The operating points with what they were chosen on. The EER beside its threshold is the measured one."""
    measured_on = summary["holdout"] if basis.split == "holdout" else summary
    pooled = measured_on["pooled"]
    about = {key: getattr(basis, key) for key in ("split", "approximate", "videos", "groups")}
    points = [{**point, **about} for point in thresholds.operating_points(basis.samples)]
    points[0] |= {"value": pooled["eer"], "interval": pooled[pooled["headline"]]["eer"]["interval"]}
    return points


def typical_frames(trained: list[Trained]) -> int:
    """Median over the videos of the most frames that any member scored."""
    counts = [member.frames[member.frames["score"].notna()].groupby("filename").size() for member in trained]
    return int(pd.concat(counts).groupby(level=0).max().median())


def shipped(summary: dict, basis: thresholds.Basis, frames: int) -> dict:
    """What weights/<set>/<ensemble>.json holds.

    frames: at prediction a video of which fewer than half as many as ``typical`` frames gave a score
    is too little to decide on. alike: how alike the members were taken to be where thresholds are approximate.
    """
    alike = basis.alike
    how = summary["calibration"]
    return {
        **{key: summary[key] for key in ("ensemble", "data", "data_hash", "weights", "weights_sha256")},
        **{key: getattr(basis, key) for key in ("split", "videos", "groups")},
        "frames": {"typical": frames, "least": math.ceil(frames / 2)},
        "calibration": {"how": how["how"], "members": {m["member"]: m["parameters"] for m in how["members"]}},
        "alike": alike and {"value": alike.value, "interval": [alike.low, alike.high], "videos": alike.videos},
        "thresholds": summary["operating_points"],
    }


def write_json(path: Path, value: dict) -> None:
    """Sorted keys, figures that do not exist as null."""
    write_text(path, json.dumps(without_nan(value), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def without_nan(value):
    """The same value with nan as None, which JSON can say."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(path: Path) -> str:
    """A path as a user types it: relative to the workspace where it lies inside."""
    try:
        return str(path.relative_to(workspace()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # the table has dashes that not every terminal's encoding knows
    run(main)
