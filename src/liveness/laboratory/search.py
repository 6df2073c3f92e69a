"""Which members of an ensemble are worth their time? What ``liveness.search`` does, from the tables to search.json.

    found = search_ensemble(in_set("demo"), None, 0.005)

Reads runs/<set>/<ensemble>/{oof_video.csv,report.json} and the members' runs; writes runs/<set>/<ensemble>/search.json.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.base.files import workspace, write_json
from liveness.base.tables import read_table
from liveness.evaluation import calibration, intervals, metrics
from liveness.laboratory.candidates import (
    Candidate,
    Costs,
    ScoredVideos,
    deal_into_parts,
    judge_candidates,
    judge_own_pick,
    list_member_subsets,
    list_recipe_subsets,
)
from liveness.laboratory.cascades import choose_cascade, judge_cascades
from liveness.laboratory.cost import measure_costs, read_costs
from liveness.members.names import member_name, run_folder
from liveness.members.trained import read_run

_LEAST = 4  # videos of each class that a comparison needs


def search_ensemble(ensemble: Ensemble, milliseconds: Path | None, tolerance: float) -> dict:
    """All figures of search.json, which is written.

    milliseconds: a file of costs, or None to measure them here; tolerance: by how much a proposed cascade's EER
    may be higher, as a share. UserError where the evaluation is missing or is of other scores, or videos are too few.
    """
    data = ensemble.data
    recipes = {member_name(member.recipe, member.fold): member.recipe for member in ensemble.members}
    table, about = _read_scores(data, ensemble), _read_evaluation(data, ensemble.name)
    ensemble.calibration = about.pop("calibration") or ensemble.calibration
    table = _calibrate_scores(table, ensemble)
    home, left_out = _select_out_of_fold(table, ensemble, recipes)
    held = _select_holdout(table, ensemble)
    costs, device = read_costs(milliseconds, recipes) if milliseconds else measure_costs(ensemble, data)
    found = {
        "version": 1,
        "ensemble": ensemble.name,
        "data": data,
        **about,
        "costs": {
            "device": device,
            "decode": costs.decode,
            "views": {" ".join(sharing): value for sharing, value in costs.views.items()},
            "members": costs.members,
        },
        "members": _judge_members(table, ensemble, costs),
        **_search_videos(home, list_recipe_subsets(home, recipes, costs), list(recipes), costs, tolerance),
        "left_out": left_out,
        "holdout": None,
    }
    if held is not None:
        subsets = list_member_subsets(held, recipes, costs)
        found["holdout"] = _search_videos(held, subsets, list(recipes), costs, tolerance)
    write_json(search_path(ensemble), found, indent=1)
    return found


def search_path(ensemble: Ensemble) -> Path:
    """runs/<set>/<ensemble>/search.json"""
    return workspace() / "runs" / ensemble.data / ensemble.name / "search.json"


def _read_scores(data: str, ensemble: Ensemble) -> pd.DataFrame:
    """oof_video.csv: label and fold as numbers, a column of raw scores per member, nan for none."""
    path = workspace() / "runs" / data / ensemble.name / "oof_video.csv"
    again = f"run: python -m liveness.evaluate {ensemble.name} --data {data}"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {again}")
    names = [member_name(member.recipe, member.fold) for member in ensemble.members]
    table = read_table(path, ["filename", "label", "group", "fold"])
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise UserError(f"{path}: no column {missing[0]}; the ensemble changed since; {again}")
    numbers = {column: pd.to_numeric(table[column], errors="coerce") for column in ("label", "fold", *names)}
    table = table.assign(**numbers)
    if not table["label"].isin((0, 1)).all() or table["fold"].isna().any():
        raise UserError(f"{path}: labels other than 0 and 1, or a fold that is no number; {again}")
    table = table.astype({"label": int, "fold": int})
    for member, name in zip(ensemble.members, names, strict=True):
        if not _are_same_scores(table, data, member):
            raise UserError(f"{path}: {name} has other scores in its oof.csv, it was trained again since; {again}")
    return table


def _are_same_scores(table: pd.DataFrame, data: str, member: EnsembleMember) -> bool:
    """Whether a member's column is still what its run says, by the scores themselves; true without a run."""
    if not (run_folder(data, member.recipe, member.fold) / "oof.csv").is_file():
        return True
    trained = read_run(data, member)
    theirs = trained.video_scores().videos.set_index("filename")["score"]
    ours = table.set_index("filename")[trained.name]
    return bool(
        np.allclose(ours, theirs.reindex(ours.index), rtol=0, atol=1e-9, equal_nan=True)
        and set(theirs.index) <= set(ours.index)
    )


def _read_evaluation(data: str, name: str) -> dict:
    """What the evaluation has noted of its scores: state of the data, members' weights, how they are calibrated."""
    path = workspace() / "runs" / data / name / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        how = str((report.get("calibration") or {}).get("how", ""))
        return {"calibration": how} | {key: report[key] for key in ("data_hash", "weights_sha256")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        again = f"python -m liveness.evaluate {name} --data {data}"
        raise UserError(
            f"{path}: does not say what its scores are of ({type(error).__name__}); run: {again}"
        ) from error


def _calibrate_scores(table: pd.DataFrame, ensemble: Ensemble) -> pd.DataFrame:
    """The table with every member's scores on the common scale, as the evaluation blends them."""
    folds = {member_name(member.recipe, member.fold): member.fold for member in ensemble.members}
    fits = calibration.calibrate_members(ensemble.calibration, table[list(folds)], table, folds)
    return table.assign(**{name: fit.scores for name, fit in fits.items()})


def _select_out_of_fold(
    table: pd.DataFrame, ensemble: Ensemble, recipes: dict[str, str]
) -> tuple[ScoredVideos, dict[str, int]]:
    """The videos that a member of every recipe held out and scored, and how many are left out and why."""
    home = (table["fold"] >= 0).to_numpy()
    by_recipe = [
        table[[name for name, its in recipes.items() if its == recipe]].notna().any(axis=1)
        for recipe in dict.fromkeys(recipes.values())
    ]
    some, every = np.any(by_recipe, axis=0), np.all(by_recipe, axis=0)
    videos = _take_rows(table[home & every], ensemble, table["fold"][home & every].to_numpy(int))
    if min(np.bincount(videos.labels, minlength=2)) < _LEAST:
        raise UserError(
            f"{ensemble.name}: {int((home & every).sum())} videos have an out-of-fold score of every recipe; "
            f"expected at least {_LEAST} live and {_LEAST} attack ones, so that recipes can be compared on them"
        )
    return videos, {"no_score": int((home & ~some).sum()), "not_of_every_recipe": int((home & some & ~every).sum())}


def _select_holdout(table: pd.DataFrame, ensemble: Ensemble) -> ScoredVideos | None:
    """The videos that no member was trained on (fold -1) and all scored; None without enough of them."""
    names = [member_name(member.recipe, member.fold) for member in ensemble.members]
    rows = table[(table["fold"] < 0) & table[names].notna().all(axis=1)]
    if min(np.bincount(rows["label"].to_numpy(int), minlength=2)) < _LEAST:
        return None
    return _take_rows(rows, ensemble, deal_into_parts(rows["label"].to_numpy(int), rows["group"].to_numpy()))


def _take_rows(rows: pd.DataFrame, ensemble: Ensemble, parts: np.ndarray) -> ScoredVideos:
    weights = {member_name(member.recipe, member.fold): member.weight for member in ensemble.members}
    scores = rows[list(weights)].reset_index(drop=True)
    return ScoredVideos(rows["label"].to_numpy(int), rows["group"].to_numpy(), parts, scores, weights)


def _search_videos(
    videos: ScoredVideos, candidates: list[Candidate], names: list[str], costs: Costs, tolerance: float
) -> dict:
    """Subsets, the search's own pick, cascades: everything that one kind of videos can tell."""
    whole = next(candidate for candidate in candidates if candidate.members == tuple(names))
    # One fold of a recipe has the same score as all of them: to choose between the two is not to choose by error.
    rivals = [candidate for candidate in candidates if candidate.folds != "one"]
    firsts: dict[tuple, Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.milliseconds):
        if candidate.size == 1 and candidate.columns != whole.columns:
            firsts.setdefault(candidate.columns, candidate)
    cascades = [row for first in firsts.values() for row in judge_cascades(videos, first, whole, costs)]
    cascades.sort(key=lambda row: (row["milliseconds"], row["eer"]))
    rows = judge_candidates(videos, candidates, names)
    alike = [row for row in rows if row["folds"] != "one" and row["against_full"] != "worse"]
    return {
        "videos": len(videos.labels),
        "groups": len(set(videos.groups)),
        "tried": len(candidates),
        "subsets": rows,
        "cheapest_alike": min(alike, key=lambda row: (row["milliseconds"], row["eer"]))["members"],
        "pick": judge_own_pick(videos, rivals, names),
        "cascades": cascades,
        "cascade": choose_cascade(cascades, whole.milliseconds, tolerance),
    }


def _judge_members(table: pd.DataFrame, ensemble: Ensemble, costs: Costs) -> list[dict]:
    """Each member on its own held-out fold; folds differ, so these figures do not rank members of one recipe."""
    rows = []
    for member in ensemble.members:
        name = member_name(member.recipe, member.fold)
        mine = table[(table["fold"] == member.fold) & table[name].notna()]
        videos = _take_rows(mine, ensemble, mine["fold"].to_numpy(int))
        scores = videos.scores[name].to_numpy()
        limits = intervals.bootstrap(videos.labels, scores, videos.clusters)["eer"].as_list()
        row = {"name": name, "recipe": member.recipe, "fold": member.fold, "milliseconds": costs.members[name]}
        rows.append({**row, "videos": len(mine), "eer": metrics.eer(videos.labels, scores).value, "interval": limits})
    return rows
