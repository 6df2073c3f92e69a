"""How good is an ensemble on videos that its members did not see? Tables in, tables and plain dictionaries out.

A video's score comes only from members that held it out in training, each calibrated on its own held-out fold
without that video's part of it (cross-fitted); none is calibrated where that makes the blend's log loss worse.
``evaluate`` makes everything that report.json says and ``describe_shipped`` what prediction needs of it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from liveness.base.errors import UserError
from liveness.evaluation import calibration, cameras, combine, intervals, metrics, report, thresholds


class HeldOut(Protocol):
    """A member and what it says of the videos that it held out (members/trained.py reads it)."""

    @property
    def name(self) -> str: ...
    @property
    def recipe(self) -> str: ...
    @property
    def fold(self) -> int: ...
    @property
    def weight(self) -> float: ...
    @property
    def frames(self) -> pd.DataFrame:
        """filename and score (nan where there is none) per frame."""
        ...

    def video_scores(self, how: str = "") -> combine.MemberScores:
        """A score per video; ``how``: another way from frames to a video than the recipe's."""
        ...


@dataclass(frozen=True)
class Judged:
    """An ensemble's scores of the videos that its members held out."""

    table: pd.DataFrame  # of combine.assemble: members' columns raw, score calibrated and blended
    raw: pd.Series  # the blend without calibration, rows as in table
    calibrated: pd.DataFrame  # members' columns on the common scale, rows as in table
    how: str  # of calibration
    fits: dict[str, calibration.CrossFitted]
    weights: dict[str, float]
    withheld: dict | None = None  # of calibration.describe_harm: the calibration that was asked for and does harm

    @property
    def home(self) -> np.ndarray:
        """Mask of the rows that are not of the holdout."""
        return (self.table["fold"] != combine.HOLDOUT).to_numpy()


@dataclass(frozen=True)
class Evaluation:
    """``table`` goes to oof_video.csv, ``summary`` to report.json; ``basis`` is what thresholds were chosen on."""

    table: pd.DataFrame
    summary: dict[str, Any]
    basis: thresholds.Basis


def evaluate(
    folds: pd.DataFrame,
    members: Sequence[HeldOut],
    naive: Sequence[HeldOut],
    how: str,
    groups_are: dict,
    what: str,
    combinations: bool = False,
) -> Evaluation:
    """Everything that is measured of an ensemble.

    folds: filename, label, group, fold, species, camera ("" for none), with naive members naive_fold too; members and
    naive: finished runs, the latter trained on folds that know no groups; how: the calibration that is asked for;
    groups_are: what the groups are (evaluation/grouping.py); what: the ensemble and set in words, for errors;
    combinations: compare other ways to combine too. A
    UserError where the scores do not fit the folds, or where the scored videos lack a class.
    """
    judged = judge_as_shipped(folds, members, how)
    species = folds["species"].tolist() if (folds["species"] != "").any() else None
    summary = summarise_judged(judged, species, groups_are, what)
    recipes = {member.name: member.recipe for member in members}
    basis = thresholds.choose_basis(judged.table, judged.calibrated, judged.weights, recipes, species)
    summary["operating_points"] = describe_operating_points(basis, summary)
    summary |= measure_by_camera(judged, folds, species, summary["pooled"]["threshold"])
    if naive and "naive_fold" not in folds.columns:
        raise UserError(f"{what}: folds.csv has no column naive_fold; run: bash prepare_data.sh SET")
    summary["naive_gap"] = measure_naive_gap(folds, members, naive, judged.how) if naive else None
    if combinations:
        summary["combinations"] = compare_combinations(folds, members, judged)
        summary["learned_weights"] = learn_weights(members, judged)
    return Evaluation(judged.table, summary, basis)


def judge_ensemble(folds: pd.DataFrame, members: Sequence[HeldOut], how: str, frames: str = "") -> Judged:
    """Assemble, calibrate each member by ``how`` and blend; frames are combined by ``frames`` or the recipe's way."""
    table = combine.assemble(folds, [member.video_scores(frames) for member in members])
    weights = {member.name: member.weight for member in members}
    held_out = {member.name: member.fold for member in members}
    fits = calibration.calibrate_members(how, table[list(weights)], table, held_out)
    calibrated = pd.DataFrame({name: fit.scores for name, fit in fits.items()})
    blended = table.assign(score=combine.blend(calibrated, weights).to_numpy())
    return Judged(blended, table["score"], calibrated, how, fits, weights)


def judge_as_shipped(folds: pd.DataFrame, members: Sequence[HeldOut], how: str) -> Judged:
    """``judge_ensemble`` as it will be shipped: uncalibrated where calibration makes the blend's log loss worse.

    Both log losses are out of fold; a video's calibrated score is from fits that have not seen its part of the fold.
    """
    judged = judge_ensemble(folds, members, how)
    rows = judged.home & np.isfinite(judged.raw.to_numpy()) & judged.table["score"].notna().to_numpy()
    labels, scores = judged.table["label"].to_numpy()[rows], judged.table["score"].to_numpy()[rows]
    harm = calibration.describe_harm(how, labels, judged.raw.to_numpy()[rows], scores)
    return replace(judge_ensemble(folds, members, "none"), withheld=harm) if harm else judged


def summarise_judged(judged: Judged, species: list[str] | None, groups_are: dict, what: str) -> dict[str, Any]:
    """The out-of-fold figures, those of the holdout, and what calibration did; a UserError without both classes."""
    home = judged.home
    table, names = judged.table[home].reset_index(drop=True), list(judged.weights)
    summary = report.summarise(table, names, _of_rows(species, home), groups_are)
    if math.isnan(summary["pooled"]["eer"]):
        found = summary["counts"]
        raise UserError(
            f"{what}: {found['scored']} of {found['videos']} held-out videos have a score, "
            "and not both classes are among them; an error rate needs live and attack videos"
        )
    aside = judged.table[~home].reset_index(drop=True)
    summary["holdout"] = report.summarise_holdout(aside, _of_rows(species, ~home), groups_are)
    raw = judged.raw.to_numpy()
    scored = home & np.isfinite(raw)
    labels = judged.table["label"].to_numpy()[scored]
    summary["calibration"] = report.summarise_calibration(judged.how, judged.fits, labels, raw[scored])
    summary["calibration"]["withheld"] = judged.withheld
    summary["weights"] = judged.weights
    return summary


def measure_by_camera(judged: Judged, folds: pd.DataFrame, species: list[str] | None, threshold: float) -> dict:
    """``cameras`` of report.json: ``cameras.measure_cameras`` out of fold; {} where no camera is named.

    Where each fold holds out whole cameras the scores are uncalibrated, and the threshold is that of their own EER:
    a member is calibrated on the fold that it holds out, which is to say on labels of that very camera, and nobody
    has those of a new one.
    """
    home = judged.home & (judged.table["status"] != "not_covered").to_numpy()
    named = (folds["camera"] if "camera" in folds else pd.Series("", index=folds.index)).to_numpy()
    table, whole = judged.table.assign(camera=named), hold_out_cameras(folds)
    table, raw = table[home].reset_index(drop=True), whole and judged.how != "none"
    if raw:
        table["score"] = judged.raw.to_numpy()[home]
        scored = table[np.isfinite(table["score"])]
        threshold = metrics.eer(scored["label"], scored["score"]).threshold
    found = cameras.measure_cameras(table, threshold, _of_rows(species, home))
    return {"cameras": {**found, "held_out": whole, "uncalibrated": raw}} if found else {}


def hold_out_cameras(folds: pd.DataFrame) -> bool:
    """Whether each named camera lies whole in one fold, and not all in the same. folds: fold, camera ("": none)."""
    named = folds[folds["camera"] != ""] if "camera" in folds else folds[:0]
    return named["fold"].nunique() > 1 and bool((named.groupby("camera")["fold"].nunique() == 1).all())


def _of_rows(species: list[str] | None, rows: np.ndarray) -> list[str] | None:
    return None if species is None else [name for name, row in zip(species, rows, strict=True) if row]


# What compare_eer says of the grouped figure, in words of the naive one.
_NAIVE_VERDICTS = {"worse": "the naive split flatters", "better": "the naive split is harder"}


def measure_naive_gap(folds: pd.DataFrame, members: Sequence[HeldOut], naive: Sequence[HeldOut], how: str) -> dict:
    """Grouped against naive folds, for the recipes that were trained with --naive too.

    Both sides are these recipes alone, calibrated and blended alike, on the videos that both score.
    """
    both = {member.recipe for member in naive}
    same = [member for member in members if f"{member.recipe}_naive" in both]
    table = judge_ensemble(folds, same, how).table
    theirs = judge_ensemble(folds.assign(fold=folds["naive_fold"]), naive, how).table["score"]
    home = (table["fold"] != combine.HOLDOUT).to_numpy()
    rows = table[home]
    gap = compare_splits(rows["label"], rows["score"], theirs[home], rows["group"])
    names, recipes = [member.name for member in naive], list(dict.fromkeys(member.recipe for member in naive))
    return {"members": names, "recipes": recipes, **gap}


def compare_splits(labels, grouped, naive, groups) -> dict:
    """How much a split that knows no persons flatters: the same videos scored by both kinds of members.

    grouped: out-of-fold scores of members that saw no video of the person; naive: of members that may
    have. ``difference`` is grouped less naive EER, above 0 where the naive split flatters, with a
    paired interval (by group where groups hold several videos). Videos without either score are left
    out. nan where a class is absent.
    """
    labels, grouped, naive = np.asarray(labels).astype(int), np.asarray(grouped, float), np.asarray(naive, float)
    both = np.isfinite(grouped) & np.isfinite(naive)
    labels, grouped, naive, groups = labels[both], grouped[both], naive[both], np.asarray(groups)[both]
    clusters = groups if len(set(groups)) < len(groups) else None
    found = intervals.compare_eer(labels, naive, grouped, clusters)
    return {
        "videos": int(both.sum()),
        "groups": len(set(groups)),
        "grouped_eer": metrics.eer(labels, grouped).value,
        "naive_eer": metrics.eer(labels, naive).value,
        "difference": found.difference,
        "interval": found.interval.as_list(),
        "verdict": _NAIVE_VERDICTS.get(found.verdict, found.verdict),
    }


def compare_combinations(folds: pd.DataFrame, members: Sequence[HeldOut], judged: Judged) -> dict[str, list[dict]]:
    """Every other way from frames to a video, and from members to an ensemble, against ``judged``; out of fold."""
    home = judged.home
    table = judged.table.assign(**judged.calibrated)[home].reset_index(drop=True)
    frames = {
        way: judge_ensemble(folds, members, judged.how, way).table["score"][home].reset_index(drop=True)
        for way in report.FRAME_WAYS
    }
    found = {"frames to a video": report.compare_ways(table, frames)}
    joined = combine.join_by_recipe(table, {member.name: member.recipe for member in members})
    if joined.shape[1] < 2:
        return found
    covered = joined.notna().any(axis=1).to_numpy()
    labels, dealt = table["label"].to_numpy()[covered], table["fold"].to_numpy()[covered]
    ways = combine.FIXED + (combine.LEARNED if len(set(dealt)) > 1 else ())
    blended = {way: pd.Series(np.nan, index=joined.index) for way in ways}
    for way, scores in blended.items():
        scores[covered] = combine.cross_fit_combination(way, joined[covered], labels, dealt).to_numpy()
    found["members to an ensemble"] = report.compare_ways(table, {**{name: joined[name] for name in joined}, **blended})
    return found


def learn_weights(members: Sequence[HeldOut], judged: Judged) -> dict[str, dict[str, float]]:
    """What ``weights`` and ``greedy`` learn on all folds, as weights of the members for configs/ensemble/.

    A recipe's weight is shared by its members. Empty where there is one recipe only.
    """
    table = judged.table.assign(**judged.calibrated)[judged.home]
    recipes = {member.name: member.recipe for member in members}
    joined = combine.join_by_recipe(table, recipes)
    if joined.shape[1] < 2:
        return {}
    sizes, labels = Counter(recipes.values()), table["label"].to_numpy()
    fits = {how: combine.fit_combination(how, joined, labels).weights for how in ("weights", "greedy")}
    return {how: {name: fit[recipe] / sizes[recipe] for name, recipe in recipes.items()} for how, fit in fits.items()}


def describe_operating_points(basis: thresholds.Basis, summary: dict) -> list[dict]:
    """The operating points with what they were chosen on. The EER beside its threshold is the measured one."""
    pooled = (summary["holdout"] if basis.split == "holdout" else summary)["pooled"]
    about = {key: getattr(basis, key) for key in ("split", "approximate", "videos", "groups")}
    found = [{**point, **about} for point in thresholds.choose_operating_points(basis.samples)]
    found[0] |= {"value": pooled["eer"], "interval": pooled[pooled["headline"]]["eer"]["interval"]}
    return found


def count_typical_frames(members: Sequence[HeldOut]) -> int:
    """Median over the videos of the most frames that any member scored."""
    counts = [member.frames[member.frames["score"].notna()].groupby("filename").size() for member in members]
    return int(pd.concat(counts).groupby(level=0).max().median())


def describe_shipped(summary: dict, basis: thresholds.Basis, frames: int) -> dict:
    """What weights/<set>/<ensemble>.json holds.

    summary: that of ``evaluate`` with ensemble, data, data_hash and weights_sha256; frames: of
    ``count_typical_frames``. At prediction a video of which fewer than half as many gave a score is too little to
    decide on. alike: how alike the members were taken to be where thresholds are approximate.
    """
    alike, how = basis.alike, summary["calibration"]
    return {
        **{key: summary[key] for key in ("ensemble", "data", "data_hash", "weights", "weights_sha256")},
        **{key: getattr(basis, key) for key in ("split", "videos", "groups")},
        "frames": {"typical": frames, "least": math.ceil(frames / 2)},
        "calibration": {"how": how["how"], "members": {m["member"]: m["parameters"] for m in how["members"]}},
        "alike": alike and {"value": alike.value, "interval": [alike.low, alike.high], "videos": alike.videos},
        "thresholds": summary["operating_points"],
    }
