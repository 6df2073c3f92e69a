"""Which members are worth their time? Subsets and cascades of an ensemble, their error and their cost.

Pure functions on arrays. Scores are calibrated probabilities of live, one column per member, nan
where a member has none; costs are milliseconds per video. docs/ensembles.md says what can be
judged from out-of-fold scores and what cannot.
"""

import warnings
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from liveness.evaluation import intervals, metrics
from liveness.evaluation.combine import blend

EXHAUSTIVE = 10  # up to so many units every subset is tried (2^10); with more, a greedy path down and up
DETAILED = 64  # rows that get intervals and a comparison
PARTS = 5  # that videos of no fold are dealt into, by group
GRID = 24  # thresholds tried on either side of a cascade
BUDGETS = (0.1, 0.25, 0.5)  # largest shares of escalated videos that cascades are fitted for
NO_WORSE = "no worse than all"
SAME = "cannot be told apart"


@dataclass(frozen=True)
class Costs:
    """Milliseconds per video. Decoding is paid once, a view once for all recipes that share it."""

    decode: float
    views: dict[tuple[str, ...], float]  # recipes that share a view -> cutting it (face detection included)
    members: dict[str, float]  # member -> its forward pass

    def shared(self, recipes: set[str]) -> float:
        """Decoding and the views that these recipes need."""
        return self.decode + sum(value for sharing, value in self.views.items() if recipes & set(sharing))

    def of(self, members: list[str], recipes: dict[str, str]) -> float:
        """All of a system of these members; ``recipes``: member -> recipe."""
        return self.shared({recipes[name] for name in members}) + self.forward(members)

    def forward(self, members: list[str]) -> float:
        return sum(self.members[name] for name in members)


@dataclass(frozen=True)
class Judged:
    """The videos that all candidates are compared on: each is scored by every recipe (or member)."""

    labels: np.ndarray  # 1 live, 0 attack
    groups: np.ndarray  # a person or source per video
    parts: np.ndarray  # its fold: what is chosen on some parts is judged on another
    scores: pd.DataFrame  # a column per member
    weights: dict[str, float]  # member -> its weight in the ensemble

    def blend(self, columns: list[str]) -> np.ndarray:
        """The score of a system of these members, as the ensemble would blend it."""
        return blend(self.scores[columns], {name: self.weights[name] for name in columns}).to_numpy()

    @property
    def clusters(self) -> np.ndarray | None:
        """The groups, where they hold several videos; None where every video stands alone."""
        return self.groups if len(set(self.groups)) < len(self.groups) else None


@dataclass(frozen=True)
class Candidate:
    """A system that could be used instead of the whole ensemble."""

    members: tuple[str, ...]  # what runs at prediction: decides the cost
    columns: tuple[str, ...]  # whose scores judge it: its members and, out of fold, the other folds of their recipes
    folds: str  # all | one: of each recipe; "" where members themselves are judged
    milliseconds: float
    size: int  # recipes in it, or members where these are judged


def family_candidates(judged: Judged, recipes: dict[str, str], costs: Costs) -> list[Candidate]:
    """Subsets of recipes, each with all its folds and with one fold of each recipe (the heaviest, then the first).

    Both have the same out-of-fold score: a video was held out by one member of a recipe, whichever
    and however many of them are used later.
    """
    names = list(dict.fromkeys(recipes.values()))
    folds = {recipe: tuple(name for name, its in recipes.items() if its == recipe) for recipe in names}
    lone = {recipe: max(members, key=lambda name: judged.weights[name]) for recipe, members in folds.items()}

    def error(chosen: tuple[str, ...]) -> float:
        return error_of(judged, [name for recipe in chosen for name in folds[recipe]])

    found = []
    for chosen in tried_subsets(names, error):
        columns = tuple(name for recipe in chosen for name in folds[recipe])
        systems = {columns: "all"}
        systems.setdefault(tuple(lone[recipe] for recipe in chosen), "one")
        size = len(chosen)
        found += [Candidate(who, columns, how, costs.of(list(who), recipes), size) for who, how in systems.items()]
    return found


def member_candidates(judged: Judged, recipes: dict[str, str], costs: Costs) -> list[Candidate]:
    """Subsets of members, for videos that every member has a score for."""
    tried = tried_subsets(list(recipes), lambda chosen: error_of(judged, list(chosen)))
    return [Candidate(chosen, chosen, "", costs.of(list(chosen), recipes), len(chosen)) for chosen in tried]


def tried_subsets(names: list[str], error) -> list[tuple[str, ...]]:
    """Every subset of up to ``EXHAUSTIVE`` names, the whole last; of more names those on two greedy paths.

    error: a function of a subset. The paths add the name that helps most, and leave out the one that
    is missed least.
    """
    if len(names) <= EXHAUSTIVE:
        return [chosen for size in range(1, len(names) + 1) for chosen in combinations(names, size)]
    found = {(name,): None for name in names}
    path: tuple[str, ...] = ()
    while len(path) < len(names) - 1:
        path = min((_ordered(names, {*path, name}) for name in names if name not in path), key=error)
        found[path] = None
    path = tuple(names)
    while len(path) > 1:
        path = min((_ordered(names, set(path) - {name}) for name in path), key=error)
        found[path] = None
    return [*found, tuple(names)]


def _ordered(names: list[str], chosen: set[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in chosen)


def deal(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """A part for each video (up to 5), groups whole, the classes as even as they go."""
    from sklearn.model_selection import StratifiedGroupKFold

    # No more parts than the larger class has videos: scikit-learn refuses those.
    count = min(PARTS, len(set(groups)), int(np.bincount(labels, minlength=2).max()))
    parts = np.zeros(len(labels), dtype=int)
    if count < 2:
        return parts
    codes = intervals.group_codes(groups)
    with warnings.catch_warnings():  # scikit-learn warns of classes with fewer videos than parts
        warnings.simplefilter("ignore", UserWarning)
        split = StratifiedGroupKFold(count, shuffle=True, random_state=intervals.SEED).split(labels, labels, codes)
        for part, (_, rows) in enumerate(split):
            parts[rows] = part
    return parts


def error_of(judged: Judged, columns: list[str]) -> float:
    return metrics.eer(judged.labels, judged.blend(columns)).value


def on_front(costs: list[float], errors: list[float]) -> list[bool]:
    """Whether nothing is at once as cheap and as good: each member of the front buys less error for more cost.

    Of several with the same cost and error the first counts.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], errors[i], i))
    best, front = np.inf, [False] * len(costs)
    for i in order:
        if errors[i] < best:
            best, front[i] = errors[i], True
    return front


def judge(judged: Judged, candidates: list[Candidate], full: list[str]) -> list[dict]:
    """A row per candidate (the most telling ``DETAILED``, where there are more), cheapest first.

    ``pareto`` refers to candidates of the same ``folds``, since two that differ in nothing else have
    the same score. ``against_full``: the paired test of the EER against all members.
    """
    ours = judged.blend(full)
    scores = {candidate.columns: judged.blend(list(candidate.columns)) for candidate in candidates}
    errors = [metrics.eer(judged.labels, scores[candidate.columns]).value for candidate in candidates]
    front = _fronts(candidates, errors)
    compared: dict[tuple[str, ...], dict] = {}
    rows = []
    for i in _telling(candidates, errors, front):
        candidate = candidates[i]
        if candidate.columns not in compared:
            compared[candidate.columns] = _compared(judged, scores[candidate.columns], ours)
        row = {"members": list(candidate.members), "folds": candidate.folds, "size": candidate.size}
        row["milliseconds"] = candidate.milliseconds
        rows.append({**row, "eer": errors[i], "pareto": front[i], **compared[candidate.columns]})
    return rows


def _fronts(candidates: list[Candidate], errors: list[float]) -> list[bool]:
    front = [False] * len(candidates)
    for folds in {candidate.folds for candidate in candidates}:
        rows = [i for i, candidate in enumerate(candidates) if candidate.folds == folds]
        found = on_front([candidates[i].milliseconds for i in rows], [errors[i] for i in rows])
        for i, on in zip(rows, found, strict=True):
            front[i] = on
    return front


def _telling(candidates: list[Candidate], errors: list[float], front: list[bool]) -> list[int]:
    """The rows to show, cheapest first: the fronts, single and nearly whole systems, then the best."""
    most = max(candidate.size for candidate in candidates)

    def place(i: int) -> tuple:
        return not front[i], candidates[i].size not in (1, most - 1, most), errors[i], candidates[i].milliseconds, i

    order = sorted(range(len(candidates)), key=place)
    return sorted(order[:DETAILED], key=lambda i: (candidates[i].milliseconds, errors[i], i))


def _compared(judged: Judged, scores: np.ndarray, ours: np.ndarray) -> dict:
    """The interval of a system's EER, and how it stands against the whole ensemble."""
    found = intervals.compare_eer(judged.labels, ours, scores, judged.clusters)
    limits = intervals.bootstrap(judged.labels, scores, judged.clusters)["eer"]
    return {
        "interval": limits.as_list(),
        "against_full": found.verdict,
        "difference": found.difference,
        "difference_interval": found.interval.as_list(),
        "videos_to_tell": found.videos_to_tell,
    }


def best(candidates: list[Candidate], scores: list[np.ndarray], labels: np.ndarray) -> int:
    """The candidate of the lowest EER; of equal ones the cheapest, then the first."""
    errors = [metrics.eer(labels, values).value for values in scores]
    errors = [error if np.isfinite(error) else 1.0 for error in errors]
    return min(range(len(candidates)), key=lambda i: (errors[i], candidates[i].milliseconds, i))


def own_pick(judged: Judged, candidates: list[Candidate], full: list[str]) -> dict:
    """What the search would choose by the lowest EER, and what choosing so is worth.

    ``eer`` is of the choice on the videos that it was chosen on, and flatters. ``nested_eer``: for
    each part the choice is made on the other parts and scores this one. nan with one part only.
    """
    scores = [judged.blend(list(candidate.columns)) for candidate in candidates]
    chosen = best(candidates, scores, judged.labels)
    pick = candidates[chosen]
    found = {
        "members": list(pick.members),
        "folds": pick.folds,
        "milliseconds": pick.milliseconds,
        "eer": metrics.eer(judged.labels, scores[chosen]).value,
        "nested_eer": float("nan"),
        "interval": [float("nan")] * 2,
        "by_part": [],
    }
    parts = sorted(set(judged.parts.tolist()))
    if len(parts) < 2:
        return found
    nested = np.empty(judged.labels.size)
    for part in parts:
        here = judged.parts == part
        index = best(candidates, [values[~here] for values in scores], judged.labels[~here])
        nested[here] = scores[index][here]
        found["by_part"].append({"part": int(part), "members": list(candidates[index].members)})
    compared = _compared(judged, nested, judged.blend(full))
    return {**found, "nested_eer": metrics.eer(judged.labels, nested).value, **compared}


# Cascades: a few members first, the others only for videos that these leave open.


@dataclass(frozen=True)
class Thresholds:
    """A first score at or below ``low``, or at or above ``high``, is final."""

    low: float
    high: float


def cascade(first: np.ndarray, full: np.ndarray, between: Thresholds) -> tuple[np.ndarray, np.ndarray]:
    """(scores, escalated): the first stage's score where it is final, else that of all members.

    A video without a first score is escalated.
    """
    final = (first <= between.low) | (first >= between.high)
    return np.where(final, first, full), ~final


def fit_cascades(first: np.ndarray, full: np.ndarray, labels: np.ndarray) -> dict[str, Thresholds]:
    """Thresholds for every rule, learned from videos with both scores.

    All pairs of a grid with low <= t <= high are tried, t being the threshold of the whole
    ensemble's EER, and errors are counted at t: that is what decides in use.
    ``no worse than all``: fewest escalated with no more error than the whole ensemble's.
    ``at most 25 % escalated``: least error within that share (as far as the grid goes), then the
    widest gap that it allows. A class absent: everything is escalated.
    """
    whole = metrics.eer(labels, full)
    names = [NO_WORSE, *(budget_name(budget) for budget in BUDGETS)]
    if not np.isfinite(whole.value):
        return dict.fromkeys(names, Thresholds(0.0, 1.0))
    live = labels.astype(bool)
    cost = np.where(live, 0.5 / live.sum(), 0.5 / (~live).sum())  # of an error: half a share of its class
    early, late = cost * ((first >= whole.threshold) != live), cost * ((full >= whole.threshold) != live)
    tried = []
    for low in _grid(first[first < whole.threshold], 0.0, whole.threshold):
        for high in _grid(first[first >= whole.threshold], 1.0, whole.threshold):
            _, escalated = cascade(first, full, Thresholds(low, high))
            error = round(float(np.where(escalated, late, early).sum()), 12)
            tried.append((float(escalated.mean()), error, low, high))
    # A first score of exactly 0 or 1 is always final, so that even all escalated can be worse than the whole.
    allowed = [row for row in tried if row[1] <= round(whole.value, 12)] or [(1.0, whole.value, 0.0, 1.0)]
    # Of equals the one that is further from deciding: a smaller low, a larger high.
    chosen = {NO_WORSE: min(allowed, key=lambda row: (row[0], row[1], row[2] - row[3]))}
    for budget in BUDGETS:
        least = max(budget, min(row[0] for row in tried))
        within = [row for row in tried if row[0] <= least]
        chosen[budget_name(budget)] = min(within, key=lambda row: (row[1], -row[0], row[2] - row[3]))
    return {name: Thresholds(row[2], row[3]) for name, row in chosen.items()}


def budget_name(budget: float) -> str:
    return f"at most {100 * budget:.0f} % escalated"


def _grid(scores: np.ndarray, end: float, threshold: float) -> list[float]:
    """``end`` (nothing is decided on this side), the threshold (all is), and points midway between scores.

    Rounded outwards, as they are printed: what is judged is what is used, and none passes the threshold.
    """
    distinct = np.unique(scores)
    middles = (distinct[1:] + distinct[:-1]) / 2
    if middles.size > GRID:
        middles = middles[np.linspace(0, middles.size - 1, GRID).round().astype(int)]
    outwards = np.floor if end < threshold else np.ceil
    points = outwards(np.append(middles, threshold) * 1e4) / 1e4
    return sorted({end, *np.clip(points, 0, 1).tolist()})


def judge_cascades(judged: Judged, first: Candidate, whole: Candidate, costs: Costs) -> list[dict]:
    """A row per rule for cascades that start with ``first``; figures by nested cross-fitting.

    For each part the thresholds are learned on the others; ``low`` and ``high`` in the row are
    those learned on all videos, to be used. Milliseconds per video: decoding and all views (they
    are cut before the first score is known), the first members, and for the escalated share the
    others. Fewer than two parts: no rows.
    """
    parts = sorted(set(judged.parts.tolist()))
    if len(parts) < 2:
        return []
    early, full = judged.blend(list(first.columns)), judged.blend(list(whole.columns))
    found = fit_cascades(early, full, judged.labels)
    scores = {rule: np.empty(early.size) for rule in found}
    escalated = {rule: np.empty(early.size, dtype=bool) for rule in found}
    for part in parts:
        here = judged.parts == part
        for rule, between in fit_cascades(early[~here], full[~here], judged.labels[~here]).items():
            scores[rule][here], escalated[rule][here] = cascade(early[here], full[here], between)
    rest = costs.forward([name for name in whole.members if name not in first.members])
    rows = []
    for rule, between in found.items():
        share = float(escalated[rule].mean())
        compared = _compared(judged, scores[rule], full)
        row = {"first": list(first.members), "rule": rule, "low": between.low, "high": between.high}
        row |= {"milliseconds": whole.milliseconds - rest * (1 - share), "escalated": share}
        row["escalated_interval"] = list(intervals.clopper_pearson(int(escalated[rule].sum()), early.size))
        rows.append({**row, "eer": metrics.eer(judged.labels, scores[rule]).value, **compared})
    return rows


def chosen_cascade(rows: list[dict], milliseconds: float, tolerance: float) -> dict | None:
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
