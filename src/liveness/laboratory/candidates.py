"""Which members are worth their time? Subsets of an ensemble, their error and their cost.

Pure functions on arrays. Scores are calibrated probabilities of live, one column per member, nan
where a member has none; costs are milliseconds per video. docs/ensembles.md says what can be
judged from out-of-fold scores and what cannot. Cascades of such subsets: cascades.py.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from liveness.evaluation import intervals, metrics
from liveness.evaluation.combine import blend

_EXHAUSTIVE = 10  # up to so many units every subset is tried (2^10); with more, a greedy path down and up
_DETAILED = 64  # rows that get intervals and a comparison
_PARTS = 5  # that videos of no fold are dealt into, by group


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
class ScoredVideos:
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


def list_recipe_subsets(videos: ScoredVideos, recipes: dict[str, str], costs: Costs) -> list[Candidate]:
    """Subsets of recipes, each with all its folds and with one fold of each recipe (the heaviest, then the first).

    Both have the same out-of-fold score: a video was held out by one member of a recipe, whichever
    and however many of them are used later.
    """
    names = list(dict.fromkeys(recipes.values()))
    folds = {recipe: tuple(name for name, its in recipes.items() if its == recipe) for recipe in names}
    lone = {recipe: max(members, key=lambda name: videos.weights[name]) for recipe, members in folds.items()}

    def error(chosen: tuple[str, ...]) -> float:
        return _measure_eer(videos, [name for recipe in chosen for name in folds[recipe]])

    found = []
    for chosen in list_subsets(names, error):
        columns = tuple(name for recipe in chosen for name in folds[recipe])
        systems = {columns: "all"}
        systems.setdefault(tuple(lone[recipe] for recipe in chosen), "one")
        size = len(chosen)
        found += [Candidate(who, columns, how, costs.of(list(who), recipes), size) for who, how in systems.items()]
    return found


def list_member_subsets(videos: ScoredVideos, recipes: dict[str, str], costs: Costs) -> list[Candidate]:
    """Subsets of members, for videos that every member has a score for."""
    tried = list_subsets(list(recipes), lambda chosen: _measure_eer(videos, list(chosen)))
    return [Candidate(chosen, chosen, "", costs.of(list(chosen), recipes), len(chosen)) for chosen in tried]


def list_subsets(names: list[str], error: Callable[[tuple[str, ...]], float]) -> list[tuple[str, ...]]:
    """Every subset of up to ``_EXHAUSTIVE`` names, the whole last; of more names those on two greedy paths.

    error: a function of a subset. The paths add the name that helps most, and leave out the one that
    is missed least.
    """
    if len(names) <= _EXHAUSTIVE:
        return [chosen for size in range(1, len(names) + 1) for chosen in combinations(names, size)]
    found: dict[tuple[str, ...], None] = {(name,): None for name in names}
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


def deal_into_parts(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """A part for each video (up to 5), groups whole, the classes as even as they go."""
    from sklearn.model_selection import StratifiedGroupKFold

    # No more parts than the larger class has videos: scikit-learn refuses those.
    count = min(_PARTS, len(set(groups)), int(np.bincount(labels, minlength=2).max()))
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


def _measure_eer(videos: ScoredVideos, columns: list[str]) -> float:
    return metrics.eer(videos.labels, videos.blend(columns)).value


def _mark_front(costs: list[float], errors: list[float]) -> list[bool]:
    """Whether nothing is at once as cheap and as good: each member of the front buys less error for more cost.

    Of several with the same cost and error the first counts.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], errors[i], i))
    best, front = np.inf, [False] * len(costs)
    for i in order:
        if errors[i] < best:
            best, front[i] = errors[i], True
    return front


def judge_candidates(videos: ScoredVideos, candidates: list[Candidate], full: list[str]) -> list[dict]:
    """A row per candidate (the most telling ``_DETAILED``, where there are more), cheapest first.

    ``pareto`` refers to candidates of the same ``folds``, since two that differ in nothing else have
    the same score. ``against_full``: the paired test of the EER against all members.
    """
    ours = videos.blend(full)
    scores = {candidate.columns: videos.blend(list(candidate.columns)) for candidate in candidates}
    errors = [metrics.eer(videos.labels, scores[candidate.columns]).value for candidate in candidates]
    front = _mark_fronts(candidates, errors)
    compared: dict[tuple[str, ...], dict] = {}
    rows = []
    for i in _choose_telling(candidates, errors, front):
        candidate = candidates[i]
        if candidate.columns not in compared:
            compared[candidate.columns] = compare_with_all(videos, scores[candidate.columns], ours)
        row = {"members": list(candidate.members), "folds": candidate.folds, "size": candidate.size}
        row["milliseconds"] = candidate.milliseconds
        rows.append({**row, "eer": errors[i], "pareto": front[i], **compared[candidate.columns]})
    return rows


def _mark_fronts(candidates: list[Candidate], errors: list[float]) -> list[bool]:
    front = [False] * len(candidates)
    for folds in {candidate.folds for candidate in candidates}:
        rows = [i for i, candidate in enumerate(candidates) if candidate.folds == folds]
        found = _mark_front([candidates[i].milliseconds for i in rows], [errors[i] for i in rows])
        for i, on in zip(rows, found, strict=True):
            front[i] = on
    return front


def _choose_telling(candidates: list[Candidate], errors: list[float], front: list[bool]) -> list[int]:
    """The rows to show, cheapest first: the fronts, single and nearly whole systems, then the best."""
    most = max(candidate.size for candidate in candidates)

    def place(i: int) -> tuple:
        return not front[i], candidates[i].size not in (1, most - 1, most), errors[i], candidates[i].milliseconds, i

    order = sorted(range(len(candidates)), key=place)
    return sorted(order[:_DETAILED], key=lambda i: (candidates[i].milliseconds, errors[i], i))


def compare_with_all(videos: ScoredVideos, scores: np.ndarray, ours: np.ndarray) -> dict:
    """The interval of a system's EER, and how it stands against the whole ensemble."""
    found = intervals.compare_eer(videos.labels, ours, scores, videos.clusters)
    limits = intervals.bootstrap(videos.labels, scores, videos.clusters)["eer"]
    return {
        "interval": limits.as_list(),
        "against_full": found.verdict,
        "difference": found.difference,
        "difference_interval": found.interval.as_list(),
        "videos_to_tell": found.videos_to_tell,
    }


def _choose_best(candidates: list[Candidate], scores: list[np.ndarray], labels: np.ndarray) -> int:
    """The candidate of the lowest EER; of equal ones the cheapest, then the first."""
    errors = [metrics.eer(labels, values).value for values in scores]
    errors = [error if np.isfinite(error) else 1.0 for error in errors]
    return min(range(len(candidates)), key=lambda i: (errors[i], candidates[i].milliseconds, i))


def judge_own_pick(videos: ScoredVideos, candidates: list[Candidate], full: list[str]) -> dict:
    """What the search would choose by the lowest EER, and what choosing so is worth.

    ``eer`` is of the choice on the videos that it was chosen on, and flatters. ``nested_eer``: for
    each part the choice is made on the other parts and scores this one. nan with one part only.
    """
    scores = [videos.blend(list(candidate.columns)) for candidate in candidates]
    chosen = _choose_best(candidates, scores, videos.labels)
    pick = candidates[chosen]
    by_part: list[dict] = []
    found = {
        "members": list(pick.members),
        "folds": pick.folds,
        "milliseconds": pick.milliseconds,
        "eer": metrics.eer(videos.labels, scores[chosen]).value,
        "nested_eer": float("nan"),
        "interval": [float("nan")] * 2,
        "by_part": by_part,
    }
    parts = sorted(set(videos.parts.tolist()))
    if len(parts) < 2:
        return found
    nested = np.empty(videos.labels.size)
    for part in parts:
        here = videos.parts == part
        index = _choose_best(candidates, [values[~here] for values in scores], videos.labels[~here])
        nested[here] = scores[index][here]
        by_part.append({"part": int(part), "members": list(candidates[index].members)})
    compared = compare_with_all(videos, nested, videos.blend(full))
    return {**found, "nested_eer": metrics.eer(videos.labels, nested).value, **compared}
