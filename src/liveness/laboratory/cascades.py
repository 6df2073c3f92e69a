"""Cascades: a few members first, the others only for videos that these leave open. Their error and their cost.

Pure functions on arrays, as in candidates.py. docs/ensembles.md says what can be judged and how.
"""

from dataclasses import dataclass

import numpy as np

from liveness.evaluation import intervals, metrics
from liveness.laboratory.candidates import Candidate, Costs, ScoredVideos, compare_with_all

_GRID = 24  # thresholds tried on either side of a cascade
_BUDGETS = (0.1, 0.25, 0.5)  # largest shares of escalated videos that cascades are fitted for
NO_WORSE = "no worse than all"


@dataclass(frozen=True)
class Thresholds:
    """A first score at or below ``low``, or at or above ``high``, is final."""

    low: float
    high: float


def apply_cascade(first: np.ndarray, full: np.ndarray, between: Thresholds) -> tuple[np.ndarray, np.ndarray]:
    """(scores, escalated): the first stage's score where it is final, else that of all members.

    A video without a first score is escalated.
    """
    final = (first <= between.low) | (first >= between.high)
    return np.where(final, first, full), ~final


def fit_thresholds(first: np.ndarray, full: np.ndarray, labels: np.ndarray) -> dict[str, Thresholds]:
    """Thresholds for every rule, learned from videos with both scores.

    All pairs of a grid with low <= t <= high are tried, t being the threshold of the whole
    ensemble's EER, and errors are counted at t: that is what decides in use.
    ``no worse than all``: fewest escalated with no more error than the whole ensemble's.
    ``at most 25 % escalated``: least error within that share (as far as the grid goes), then the
    widest gap that it allows. A class absent: everything is escalated.
    """
    whole = metrics.eer(labels, full)
    names = [NO_WORSE, *(_name_budget(budget) for budget in _BUDGETS)]
    if not np.isfinite(whole.value):
        return dict.fromkeys(names, Thresholds(0.0, 1.0))
    live = labels.astype(bool)
    cost = np.where(live, 0.5 / live.sum(), 0.5 / (~live).sum())  # of an error: half a share of its class
    early, late = cost * ((first >= whole.threshold) != live), cost * ((full >= whole.threshold) != live)
    tried = []
    for low in _list_thresholds(first[first < whole.threshold], 0.0, whole.threshold):
        for high in _list_thresholds(first[first >= whole.threshold], 1.0, whole.threshold):
            _, escalated = apply_cascade(first, full, Thresholds(low, high))
            error = round(float(np.where(escalated, late, early).sum()), 12)
            tried.append((float(escalated.mean()), error, low, high))
    # A first score of exactly 0 or 1 is always final, so that even all escalated can be worse than the whole.
    allowed = [row for row in tried if row[1] <= round(whole.value, 12)] or [(1.0, whole.value, 0.0, 1.0)]
    # Of equals the one that is further from deciding: a smaller low, a larger high.
    chosen = {NO_WORSE: min(allowed, key=lambda row: (row[0], row[1], row[2] - row[3]))}
    for budget in _BUDGETS:
        least = max(budget, min(row[0] for row in tried))
        within = [row for row in tried if row[0] <= least]
        chosen[_name_budget(budget)] = min(within, key=lambda row: (row[1], -row[0], row[2] - row[3]))
    return {name: Thresholds(row[2], row[3]) for name, row in chosen.items()}


def _name_budget(budget: float) -> str:
    return f"at most {100 * budget:.0f} % escalated"


def _list_thresholds(scores: np.ndarray, end: float, threshold: float) -> list[float]:
    """``end`` (nothing is decided on this side), the threshold (all is), and points midway between scores.

    Rounded outwards, as they are printed: what is judged is what is used, and none passes the threshold.
    """
    distinct = np.unique(scores)
    middles = (distinct[1:] + distinct[:-1]) / 2
    if middles.size > _GRID:
        middles = middles[np.linspace(0, middles.size - 1, _GRID).round().astype(int)]
    outwards = np.floor if end < threshold else np.ceil
    points = outwards(np.append(middles, threshold) * 1e4) / 1e4
    return sorted({end, *np.clip(points, 0, 1).tolist()})


def judge_cascades(videos: ScoredVideos, first: Candidate, whole: Candidate, costs: Costs) -> list[dict]:
    """A row per rule for cascades that start with ``first``; figures by nested cross-fitting.

    For each part the thresholds are learned on the others; ``low`` and ``high`` in the row are
    those learned on all videos, to be used. Milliseconds per video: decoding and all views (they
    are cut before the first score is known), the first members, and for the escalated share the
    others. Fewer than two parts: no rows.
    """
    parts = sorted(set(videos.parts.tolist()))
    if len(parts) < 2:
        return []
    early, full = videos.blend(list(first.columns)), videos.blend(list(whole.columns))
    found = fit_thresholds(early, full, videos.labels)
    scores = {rule: np.empty(early.size) for rule in found}
    escalated = {rule: np.empty(early.size, dtype=bool) for rule in found}
    for part in parts:
        here = videos.parts == part
        for rule, between in fit_thresholds(early[~here], full[~here], videos.labels[~here]).items():
            scores[rule][here], escalated[rule][here] = apply_cascade(early[here], full[here], between)
    rest = costs.forward([name for name in whole.members if name not in first.members])
    rows = []
    for rule, between in found.items():
        share = float(escalated[rule].mean())
        compared = compare_with_all(videos, scores[rule], full)
        row = {"first": list(first.members), "rule": rule, "low": between.low, "high": between.high}
        row |= {"milliseconds": whole.milliseconds - rest * (1 - share), "escalated": share}
        row["escalated_interval"] = list(intervals.clopper_pearson(int(escalated[rule].sum()), early.size))
        rows.append({**row, "eer": metrics.eer(videos.labels, scores[rule]).value, **compared})
    return rows


def choose_cascade(rows: list[dict], milliseconds: float, tolerance: float) -> dict | None:
    """The cheapest cascade that is not told to be worse and whose EER rises by at most ``tolerance``.

    None where no such cascade takes less than ``milliseconds``, what all members take. One that
    escalates nothing is no cascade: then the first members alone do, as the subsets say.
    """
    fit = [
        row
        for row in rows
        if row["escalated"] > 0
        and row["milliseconds"] < milliseconds
        and row["against_full"] != "worse"
        and row["difference"] <= tolerance
    ]
    return min(fit, key=lambda row: (row["milliseconds"], row["eer"])) if fit else None
