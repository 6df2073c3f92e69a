"""From what was read (``sources``) to all that the report shows: result/report.json's content.

Everything here is plain numbers, lists and text. The page draws and prints them, and re-computes only
what its slider moves.
"""

import numpy as np
import pandas as pd

from liveness.evaluation import decisions, grouping, metrics
from liveness.evaluation.cameras import tell_cues, tell_worst
from liveness.evaluation.format import counted, percent
from liveness.evaluation.intervals import FEW_GROUPS, clopper_pearson
from liveness.members.names import parse_member_name
from liveness.pages.sources import Sources, read_frame_scores, select_holdout, select_out_of_fold
from liveness.pages.videos import list_worst

_BINS = 40  # of the score histogram
_RELIABILITY_BINS = 15  # as in metrics.calibration_error
_LEAST_SHARED = 10  # videos that two members must both have scored for a correlation
_POINT_WORDS = {
    "eer": "equal errors",
    "apcer1": "APCER ≤ 1 %",
    "apcer5": "APCER ≤ 5 %",
    "apcer10": "APCER ≤ 10 %",
    "bpcer1": "BPCER ≤ 1 %",
    "bpcer5": "BPCER ≤ 5 %",
}


def collect_figures(sources: Sources) -> dict:
    """The whole report as one JSON value; "evaluation" is the evaluation's own report.json, unchanged."""
    points = _list_operating_points(sources)
    together = _correlate_members(sources)
    parts = {"out of fold": select_out_of_fold(sources.table), "holdout": select_holdout(sources.table)}
    return {
        "version": 1,
        "ensemble": sources.ensemble,
        "data": sources.data,
        "data_hash": sources.summary["data_hash"],
        "headline": _write_headline(sources.summary),
        "warnings": _list_warnings(sources, points),
        "evaluation": sources.summary,
        "operating_points": points,
        "splits": [describe_split(name, rows) for name, rows in parts.items() if rows["label"].nunique() == 2],
        "correlation": together,
        "shipped": {key: (sources.thresholds or {}).get(key) for key in ("split", "alike", "frames")},
        "worst": _show_worst(sources),
        "conditions": _measure_conditions(sources),
        "videos": _list_videos(sources),
        "shift": sources.shift,
        "search": sources.search,
        "runs": _describe_runs(sources),
        "absent": _explain_absent(sources, together["errors"]),
    }


def _write_headline(summary: dict) -> str:
    """What the error is and how sure, for a reader who knows none of the terms; the worst camera first."""
    over_all = _write_pooled_headline(summary)
    return f"{tell_worst(summary['cameras'])} {over_all}" if summary.get("cameras") else over_all


def _write_pooled_headline(summary: dict) -> str:
    pooled, counts = summary["pooled"], summary["counts"]
    low, high = pooled[pooled["headline"]]["eer"]["interval"]
    many = f"{counted(counts['attack'], 'attack')} and {counted(counts['live'], 'live video')}"
    groups_are = summary["grouping"]
    persons, noun = "", grouping.noun(groups_are)
    if counts["groups"] != counts["videos"] or grouping.are_persons(groups_are):
        persons = f" of {counted(counts['groups'], noun)}"
    if low is None or high is None:
        return f"On {many}{persons} the error cannot be bounded: one class or one {noun} only."
    if pooled["eer"] == 0:
        return (
            f"No error was seen on {many}{persons}, each judged only by models that were not trained on it. "
            f"That is not “no error”: a rate of up to {percent(high)} could show none here (95 % confidence)."
        )
    worse = "" if pooled["eer"] < 0.45 else " That is hardly better than a coin."
    return (
        f"With one threshold for all, about {_in_hundred(pooled['eer'])} attacks pass for live, and as large a share "
        f"of live videos is turned away (equal error rate {percent(pooled['eer'])}). For new videos of the same kind "
        f"the rate lies between {percent(low)} and {percent(high)} with 95 % confidence. Measured on {many}{persons}, "
        f"each judged only by models that were not trained on it.{worse}"
    )


def _in_hundred(rate: float) -> str:
    """ "7 in 100", or per thousand where that would be less than one."""
    if rate >= 0.0095:
        return f"{100 * rate:.0f} in 100"
    return f"{1000 * rate:.0f} in 1000" if rate >= 0.0005 else "less than 1 in 1000"


def _list_warnings(sources: Sources, points: list[dict]) -> list[str]:
    """What a reader must know before using a figure, the gravest first."""
    summary, found = sources.summary, []
    counts, silent = summary["counts"], summary["non_response"]
    groups_are = summary["grouping"]
    noun = grouping.noun(groups_are)
    found += [text] if (text := tell_cues(summary.get("cues", []))) else []
    cameras = summary.get("cameras") or {}
    if cameras.get("uncalibrated"):
        found.append(
            "Each member’s calibration was fitted on the camera that it holds out, which flatters the figures over all "
            "for a camera that nobody has labels of; those by camera are of uncalibrated scores."
        )
    if counts["groups"] < FEW_GROUPS:
        text = f"Few {noun}s ({counts['groups']}): the intervals are too narrow to speak for other {noun}s."
        found.append(text)
    if grouping.warn_of_unknown_persons(groups_are):
        what, why = grouping.sentence(groups_are), grouping.warn_of_unknown_persons(groups_are)
        found.append(f"{what[0].upper()}{what[1:]}; {why}.")
    if any(point["approximate"] for point in points):
        found.append(
            "The thresholds are approximate: these videos were scored by one member or two, a new video is by all; the "
            "difference is corrected for, on assumptions."
            + ("" if cameras.get("held_out") else " A holdout (folds.holdout) gives exact ones.")
        )
    if counts["videos"] < counts["in_set"]:
        left = counts["in_set"] - counts["videos"]
        found.append(f"{left} of {counts['in_set']} videos are in no figure: no member holds out their fold.")
    if silent["videos"]:
        found.append(f"{counted(len(silent['videos']), 'video')} got no score and are in no error rate: see below.")
    if set(summary["at_eer_threshold"]["apcer_species"]) <= {metrics.POOLED}:
        found.append("The kinds of attack are not named: a kind that always passes would not show.")
    if any(run["config"].get("recipe", {}).get("train", {}).get("select") == "logloss" for run in sources.runs):
        found.append("Members kept the epoch that was best on their held-out fold: that flatters them.")
    hashes = {run["config"].get("data_hash") for run in sources.runs if run["config"]} - {None}
    if hashes - {summary["data_hash"]}:
        found.append("A member was trained on another state of the data since: evaluate again.")
    return found


def _list_operating_points(sources: Sources) -> list[dict]:
    """The shipped thresholds; without them those that the evaluation found."""
    listed = (sources.thresholds or {}).get("thresholds") or sources.summary["operating_points"]
    usable = [p for p in listed if isinstance(p, dict) and isinstance(p.get("threshold"), (int, float))]
    return [
        {
            **point,
            "title": title_point(point["name"]),
            "approximate": point.get("approximate", True),
            "split": point.get("split", "out of fold"),
            **_get_sides(point),
        }
        for point in usable
    ]


def title_point(name: str) -> str:
    """An operating point in words: ``APCER ≤ 5 %``."""
    return _POINT_WORDS.get(name, name)


def _get_sides(point: dict) -> dict:
    """The intervals of APCER and BPCER, None where the point has none; ``interval`` is of what the target limits."""
    limited = {"apcer_interval": None, "bpcer_interval": None}
    limited[f"{point['name'][:5]}_interval"] = point.get("interval")
    return {key: point.get(key, limited[key]) for key in ("apcer_interval", "bpcer_interval")}


def describe_split(name: str, rows: pd.DataFrame) -> dict:
    """One split's scores, curves, histogram and reliability; rows have both classes and finite scores."""
    labels, scores = rows["label"].to_numpy(), rows["score"].to_numpy()
    curve = metrics.trace_error_curve(labels, scores)
    edges = np.linspace(0, 1, _BINS + 1)
    kinds = metrics.species_rows(labels, rows["species"].tolist())
    return {
        "name": name,
        "videos": len(rows),
        "live": int(labels.sum()),
        "attack": int((1 - labels).sum()),
        "eer": metrics.eer(labels, scores).value,
        "threshold": metrics.eer(labels, scores).threshold,
        "auc": metrics.auc(labels, scores),
        "scores": {
            "live": sorted(scores[labels == 1].tolist()),
            "attack": {kind: sorted(scores[mask].tolist()) for kind, mask in kinds},
        },
        "curve": {
            "threshold": [None, *curve.thresholds[1:].tolist()],  # the first: nothing is taken for live
            "apcer": curve.fpr.tolist(),
            "bpcer": curve.fnr.tolist(),
        },
        "histogram": {
            "edges": edges.tolist(),
            "live": np.histogram(scores[labels == 1], edges)[0].tolist(),
            "attack": np.histogram(scores[labels == 0], edges)[0].tolist(),
        },
        "reliability": _bin_reliability(labels, scores),
    }


def _bin_reliability(labels: np.ndarray, scores: np.ndarray) -> list[dict]:
    """Per bin of the calibration error: videos, mean score, share of live with its Clopper-Pearson interval."""
    index = np.clip(np.ceil(scores * _RELIABILITY_BINS).astype(int) - 1, 0, _RELIABILITY_BINS - 1)
    found = []
    for i in range(_RELIABILITY_BINS):
        mine = index == i
        videos, live = int(mine.sum()), int(labels[mine].sum())
        found.append(
            {
                "low": i / _RELIABILITY_BINS,
                "high": (i + 1) / _RELIABILITY_BINS,
                "videos": videos,
                "live": live,
                "mean_score": float(scores[mine].mean()) if videos else None,
                "share": live / videos if videos else None,
                "interval": list(clopper_pearson(live, videos)) if videos else None,
            }
        )
    return found


def _correlate_members(sources: Sources) -> dict:
    """Pearson's correlation of the members' errors (score - label) over the videos that both scored.

    Errors, not scores: two members that are both right agree on everything, and still may err apart.
    """
    names, table = sources.members, sources.table
    errors = table[names].sub(table["label"], axis=0).to_numpy(dtype=np.float64)
    shared = [[int((np.isfinite(a) & np.isfinite(b)).sum()) for b in errors.T] for a in errors.T]
    values = [[_correlate(a, b) for b in errors.T] for a in errors.T]
    return {"members": names, "videos": shared, "errors": values}


def _correlate(a: np.ndarray, b: np.ndarray) -> float | None:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < _LEAST_SHARED or a[both].std() < 1e-9 or b[both].std() < 1e-9:
        return None
    return float(np.corrcoef(a[both], b[both])[0, 1])


def _show_worst(sources: Sources) -> list[dict]:
    """``list_worst`` of the out-of-fold scores at the threshold of the EER, with the scores of their frames."""
    found = list_worst(select_out_of_fold(sources.table), sources.summary["pooled"]["threshold"])
    frames = read_frame_scores(sources, [video["filename"] for video in found])
    return [video | {"frames": frames.get(video["filename"], {})} for video in found]


def _measure_conditions(sources: Sources) -> list[dict]:
    """Errors by condition out of fold, at the threshold of the EER; videos without a score are in none."""
    rows = select_out_of_fold(sources.table)
    decided = rows.assign(decision=np.where(rows["score"] >= sources.summary["pooled"]["threshold"], "live", "attack"))
    return decisions.measure_conditions(decided, sources.conditions.loc[rows.index])


def _list_videos(sources: Sources) -> list[dict]:
    """Every video of the evaluation with its score, None where it has none, and its conditions."""
    shown = sources.table[["filename", "label", "score", "status", "species", "group", "fold"]]
    joined = pd.concat([shown, sources.conditions.drop(columns="filename")], axis=1)
    return joined.to_dict("records")


def _describe_runs(sources: Sources) -> list[dict]:
    """What each member was: recipe, settings, data, code, versions, machine."""
    weights = sources.summary.get("weights", {})
    found = []
    for run in sources.runs:
        config, start = run["config"], run["start"]
        found.append(
            {
                "member": run["member"],
                "weight": weights.get(run["member"]),
                "fold": config.get("fold"),
                "recipe": config.get("recipe", {}),
                "data_hash": config.get("data_hash"),
                "started": start.get("started"),
                "starts": run["starts"],
                "commit": start.get("commit"),
                "versions": start.get("versions", {}),
                "hardware": start.get("hardware", {}),
            }
        )
    return found


def _explain_absent(sources: Sources, errors: list[list]) -> dict[str, str]:
    """Part of the report -> why it is empty, then ": " and the command that fills it, if there is one.

    errors: the members' correlations of ``correlation``.
    """
    found = dict(sources.absent)
    if not sources.summary.get("naive_gap"):
        recipe, fold = parse_member_name(sources.members[0]) if sources.members else ("RECIPE", 0)
        command = f"python -m liveness.train -c {recipe} --fold {fold} --data {sources.data} --naive"
        found["naive_gap"] = f"Not measured yet. For each fold, then evaluate again: {command}"
    rows = (sources.shift or {}).get("rows", [])
    if sources.shift and not any(isinstance(row, dict) and isinstance(row.get("eer"), (int, float)) for row in rows):
        found["shift"] = "The laboratory ran and has no row with an error rate."
    if not any(v is not None for i, row in enumerate(errors) for k, v in enumerate(row) if i != k):
        found["correlation"] = (
            "No two members held out the same videos; members of several recipes on one fold, or a holdout, show it."
        )
    return found
