"""Which members of an ensemble are worth their time? Subsets and cascades, with their error and their cost.

    python -m liveness.search demo
    python -m liveness.search demo --data mine --milliseconds runs/mine/demo/search.json

Reads configs/ensemble/<name>.yaml and runs/<set>/<ensemble>/oof_video.csv (liveness.evaluate writes it).
Milliseconds per video are measured here, on clips of data/<set>/videos with the members' weights, or
read from a file: {"decode": 40, "views": {"RECIPE RECIPE": 25}, "members": {"RECIPE_fold0": 80}}.
Prints tables and, where a cascade is worth it, the lines for the ensemble's file; writes
runs/<set>/<ensemble>/search.json. docs/ensembles.md says what such figures can tell.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.config import Ensemble
from liveness.base.errors import UserError, run
from liveness.base.files import workspace, write_json
from liveness.evaluation import calibration, metrics
from liveness.evaluation.combine import frames_to_video
from liveness.evaluation.format import (
    align_columns,
    counted,
    percent,
    percent_range,
    percentage_points,
    percentage_points_range,
)
from liveness.evaluation.report_text import verdict
from liveness.laboratory import search
from liveness.laboratory.cost import measure
from liveness.members.ensembles import in_set
from liveness.members.names import member_name, parse_member_name, recipe_fold
from liveness.sets.labels import read_table

LEAST = 4  # videos of each class that a comparison needs


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    ensemble = in_set(args.ensemble, args.data)
    data = ensemble.data
    recipes = {member_name(member.recipe, member.fold): member.recipe for member in ensemble.members}
    table, about = read_scores(data, ensemble), evaluated(data, ensemble.name)
    ensemble.calibration = about.pop("calibration") or ensemble.calibration
    table = calibrated(table, ensemble)
    home, left_out = out_of_fold(table, ensemble, recipes)
    held = holdout(table, ensemble)
    costs, device = read_costs(args.milliseconds, recipes) if args.milliseconds else measure(ensemble, data)
    found = {
        "version": 1,
        "ensemble": args.ensemble,
        "data": data,
        **about,
        "costs": {
            "device": device,
            "decode": costs.decode,
            "views": {" ".join(sharing): value for sharing, value in costs.views.items()},
            "members": costs.members,
        },
        "members": member_rows(table, ensemble, costs),
        **searched(home, search.family_candidates(home, recipes, costs), list(recipes), costs, args.tolerance),
        "left_out": left_out,
        "holdout": None,
    }
    if held is not None:
        candidates = search.member_candidates(held, recipes, costs)
        found["holdout"] = searched(held, candidates, list(recipes), costs, args.tolerance)
    path = workspace() / "runs" / data / args.ensemble / "search.json"
    write_json(path, found, indent=1)
    print(rendered(found, ensemble))
    print(f"  all figures: {path.relative_to(workspace())}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.search", description=__doc__.split("\n")[0])
    parser.add_argument("ensemble", metavar="ENSEMBLE", help="a file in configs/ensemble, without .yaml")
    parser.add_argument("--data", metavar="SET", help="the data set, if not the one that the ensemble names")
    parser.add_argument("--milliseconds", metavar="FILE.json", type=Path, help="take these, measure none (see above)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.005,
        metavar="SHARE",
        help="a cascade is proposed if its EER rises by at most this (default 0.005 = half a percentage point)",
    )
    args = parser.parse_args(argv)
    if not 0 <= args.tolerance < 0.5:
        parser.error(f"--tolerance {args.tolerance}: expected 0 to below 0.5")
    return args


def read_scores(data: str, ensemble: Ensemble) -> pd.DataFrame:
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
    for name in names:
        if not same_scores(table, name, workspace() / "runs" / data / name):
            raise UserError(f"{path}: {name} has other scores in its oof.csv, it was trained again since; {again}")
    return table


def same_scores(table: pd.DataFrame, member: str, run: Path) -> bool:
    """Whether a member's column is still what its run says, by the scores themselves; true without a run."""
    if not (run / "oof.csv").is_file():
        return True
    frames = read_table(run / "oof.csv", ["filename", "score"])
    try:
        how = json.loads((run / "config.json").read_text(encoding="utf-8"))["recipe"]["combine"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run / 'config.json'}: not the configuration of a run; train again") from error
    values = pd.to_numeric(frames["score"], errors="coerce").astype(float)
    theirs = {name: frames_to_video(part, how) for name, part in values.groupby(frames["filename"], sort=False)}
    ours = table.set_index("filename")[member]
    return bool(
        np.allclose(ours, pd.Series(theirs, dtype=float).reindex(ours.index), rtol=0, atol=1e-9, equal_nan=True)
        and set(theirs) <= set(ours.index)
    )


def evaluated(data: str, name: str) -> dict:
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


def calibrated(table: pd.DataFrame, ensemble: Ensemble) -> pd.DataFrame:
    """The table with every member's scores on the common scale, as the evaluation blends them."""
    folds = {member_name(member.recipe, member.fold): member.fold for member in ensemble.members}
    fits = calibration.calibrate_members(ensemble.calibration, table[list(folds)], table, folds)
    return table.assign(**{name: fit.scores for name, fit in fits.items()})


def out_of_fold(
    table: pd.DataFrame, ensemble: Ensemble, recipes: dict[str, str]
) -> tuple[search.Judged, dict[str, int]]:
    """The videos that a member of every recipe held out and scored, and how many are left out and why."""
    home = (table["fold"] >= 0).to_numpy()
    by_recipe = [
        table[[name for name, its in recipes.items() if its == recipe]].notna().any(axis=1)
        for recipe in dict.fromkeys(recipes.values())
    ]
    some, every = np.any(by_recipe, axis=0), np.all(by_recipe, axis=0)
    judged = judged_rows(table[home & every], ensemble, table["fold"][home & every].to_numpy(int))
    if min(np.bincount(judged.labels, minlength=2)) < LEAST:
        raise UserError(
            f"{ensemble.name}: {int((home & every).sum())} videos have an out-of-fold score of every recipe; "
            f"expected at least {LEAST} live and {LEAST} attack ones, so that recipes can be compared on them"
        )
    return judged, {"no_score": int((home & ~some).sum()), "not_of_every_recipe": int((home & some & ~every).sum())}


def holdout(table: pd.DataFrame, ensemble: Ensemble) -> search.Judged | None:
    """The videos that no member was trained on (fold -1) and all scored; None without enough of them."""
    names = [member_name(member.recipe, member.fold) for member in ensemble.members]
    rows = table[(table["fold"] < 0) & table[names].notna().all(axis=1)]
    if min(np.bincount(rows["label"].to_numpy(int), minlength=2)) < LEAST:
        return None
    return judged_rows(rows, ensemble, search.deal(rows["label"].to_numpy(int), rows["group"].to_numpy()))


def judged_rows(rows: pd.DataFrame, ensemble: Ensemble, parts: np.ndarray) -> search.Judged:
    weights = {member_name(member.recipe, member.fold): member.weight for member in ensemble.members}
    scores = rows[list(weights)].reset_index(drop=True)
    return search.Judged(rows["label"].to_numpy(int), rows["group"].to_numpy(), parts, scores, weights)


def searched(
    judged: search.Judged, candidates: list[search.Candidate], names: list[str], costs: search.Costs, tolerance: float
) -> dict:
    """Subsets, the search's own pick, cascades: everything that one kind of videos can tell."""
    whole = next(candidate for candidate in candidates if candidate.members == tuple(names))
    # One fold of a recipe has the same score as all of them: to choose between the two is not to choose by error.
    rivals = [candidate for candidate in candidates if candidate.folds != "one"]
    firsts: dict[tuple, search.Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.milliseconds):
        if candidate.size == 1 and candidate.columns != whole.columns:
            firsts.setdefault(candidate.columns, candidate)
    cascades = [row for first in firsts.values() for row in search.judge_cascades(judged, first, whole, costs)]
    cascades.sort(key=lambda row: (row["milliseconds"], row["eer"]))
    rows = search.judge(judged, candidates, names)
    alike = [row for row in rows if row["folds"] != "one" and row["against_full"] != "worse"]
    return {
        "videos": len(judged.labels),
        "groups": len(set(judged.groups)),
        "tried": len(candidates),
        "subsets": rows,
        "cheapest_alike": min(alike, key=lambda row: (row["milliseconds"], row["eer"]))["members"],
        "pick": search.own_pick(judged, rivals, names),
        "cascades": cascades,
        "cascade": search.chosen_cascade(cascades, whole.milliseconds, tolerance),
    }


def member_rows(table: pd.DataFrame, ensemble: Ensemble, costs: search.Costs) -> list[dict]:
    """Each member on its own held-out fold; folds differ, so these figures do not rank members of one recipe."""
    rows = []
    for member in ensemble.members:
        name = member_name(member.recipe, member.fold)
        mine = table[(table["fold"] == member.fold) & table[name].notna()]
        judged = judged_rows(mine, ensemble, mine["fold"].to_numpy(int))
        scores = judged.scores[name].to_numpy()
        limits = search.intervals.bootstrap(judged.labels, scores, judged.clusters)["eer"].as_list()
        row = {"name": name, "recipe": member.recipe, "fold": member.fold, "milliseconds": costs.members[name]}
        rows.append({**row, "videos": len(mine), "eer": metrics.eer(judged.labels, scores).value, "interval": limits})
    return rows


def read_costs(path: Path, recipes: dict[str, str]) -> tuple[search.Costs, str]:
    """The file of --milliseconds, or the ``costs`` of a search.json, checked."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values = values.get("costs", values)
        costs = search.Costs(
            float(values["decode"]),
            {tuple(key.split()): float(value) for key, value in values.get("views", {}).items()},
            {name: float(values["members"][name]) for name in recipes},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path}: expected {{"decode": 40, "views": {{...}}, "members": {{"RECIPE_fold0": 80, ...}}}} with every '
            f"member of the ensemble ({type(error).__name__}: {error})"
        ) from error
    if not all(math.isfinite(ms) and ms >= 0 for ms in (costs.decode, *costs.views.values(), *costs.members.values())):
        raise UserError(f"{path}: milliseconds that are no number from 0 up")
    return costs, str(values.get("device", "given"))


def rendered(found: dict, ensemble: Ensemble) -> str:
    """Everything as text of at most 110 columns."""
    costs = found["costs"]
    counts = counted(found["videos"], "video")
    left = sum(found["left_out"].values())
    lines = [
        "",
        f"{found['ensemble']} on {found['data']}: {counts} that every recipe scores out of fold"
        + (f" ({left} others left out)" if left else ""),
        f"  milliseconds per video ({costs['device']}): decoding {costs['decode']:.1f}, views "
        f"{sum(costs['views'].values()):.1f}, all members {sum(costs['members'].values()):.1f}",
        "",
        *subset_lines(found),
        *cascade_lines(found, ensemble),
    ]
    if found["holdout"]:
        held = found["holdout"]
        lines += ["", f"on the holdout, {counted(held['videos'], 'video')} that no member was trained on:", ""]
        lines += [*subset_lines(held), *cascade_lines(held, ensemble)]
    return "\n".join(lines)


def subset_lines(found: dict) -> list[str]:
    """Subsets, cheapest first; those on the front are marked."""
    one = {tuple(sorted(recipes_of(row["members"]))): row for row in found["subsets"] if row["folds"] == "one"}
    rows = [("system", "ms", "ms, one fold each", "EER", "95 % interval", "front", "against all members")]
    most = max(row["size"] for row in found["subsets"])
    for row in found["subsets"]:
        if row["folds"] == "one":
            continue
        names = recipes_of(row["members"]) if row["folds"] else [member_text(name) for name in row["members"]]
        lone = one.get(tuple(sorted(names)))
        rows.append(
            (
                shortened(names),
                f"{row['milliseconds']:.1f}",
                f"{lone['milliseconds']:.1f}" if lone else "",
                percent(row["eer"]),
                percent_range(row["interval"]),
                "*" if row["pareto"] else "",
                "(all members)" if row["size"] == most else against(row),
            )
        )
    pick, cheap = found["pick"], found["cheapest_alike"]
    alike = next(row for row in found["subsets"] if row["members"] == cheap)
    more = found["tried"] - len(found["subsets"])
    lines = align_columns(rows) + ([f"  {more} more were tried and are less telling"] if more > 0 else [])
    lines += [
        "",
        f"  lowest EER: {system_text(pick)}, {percent(pick['eer'])} on the videos that it was chosen on;",
        f"    chosen on some folds and judged on the others: {percent(pick['nested_eer'])} "
        f"({percent_range(pick['interval'])})",
        f"  cheapest that is not told to be worse than all members: {system_text(alike)}, "
        f"{alike['milliseconds']:.1f} ms",
    ]
    return lines


def cascade_lines(found: dict, ensemble: Ensemble) -> list[str]:
    """Cascades, cheapest first, and the lines that put the proposed one to use."""
    if not found["cascades"]:
        return ["", "  no cascade can be judged: that takes a second recipe, or a holdout, and two folds"]
    rows = [("cascade: first", "rule", "ms", "escalated", "EER", "95 % interval", "change", "95 % interval")]
    for row in found["cascades"]:
        limits = row["difference_interval"]
        rows.append(
            (
                shortened([member_text(name) for name in row["first"]]),
                row["rule"],
                f"{row['milliseconds']:.1f}",
                percent(row["escalated"]),
                percent(row["eer"]),
                percent_range(row["interval"]),
                percentage_points(row["difference"]),
                percentage_points_range(limits),
            )
        )
    lines = ["", *align_columns(rows), ""]
    chosen = found["cascade"]
    if chosen is None:
        return [*lines, "  no cascade saves time at the same error"]
    first = ", ".join(member_text(name) for name in chosen["first"])
    return [
        *lines,
        f"  to use the cheapest that keeps the error, put into configs/ensemble/{ensemble.name}.yaml:",
        f"    cascade: {{first: [{first}], low: {chosen['low']}, high: {chosen['high']}}}",
    ]


def recipes_of(members: list[str]) -> list[str]:
    return list(dict.fromkeys(parse_member_name(name)[0] for name in members))


def member_text(name: str) -> str:
    """``recipe:fold``, as ensembles and --members write it."""
    return recipe_fold(*parse_member_name(name))


def against(row: dict) -> str:
    return verdict({"verdict": row["against_full"], "videos_to_tell": row["videos_to_tell"]})


def system_text(row: dict) -> str:
    return shortened(recipes_of(row["members"]) if row["folds"] else [member_text(name) for name in row["members"]])


def shortened(names: list[str]) -> str:
    text = " + ".join(names)
    return text if len(text) <= 60 else f"{names[0]} + {len(names) - 1} more"


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # dashes that not every terminal's encoding knows
    run(main)
