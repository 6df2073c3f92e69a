"""Which candidate: by log loss in nested cross-validation, and the start itself unless one is better beyond doubt.

    found = choose(start, seen, plan)
    found.kind, found.shift          the candidate, and what is to be shifted once its networks are fitted on all clips
    found.nested                     scores of the whole procedure: no clip had a say in what scores it

A fit that leaves out two folds serves twice: for each of the two as the outer one. Reads and writes nothing, but for
what ``keep`` does with each fit's log-odds.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from liveness.adaptation.candidates import (
    CANDIDATES,
    DAY_ONE,
    OF_SCORES,
    Shift,
    blend_shifted,
    fit_candidate,
    fit_shift,
    score_candidate,
)
from liveness.adaptation.clips import SeenClips
from liveness.adaptation.start import StartEnsemble
from liveness.base.experiments import AdaptPlan
from liveness.evaluation import intervals, metrics
from liveness.models.device import share_of_cores

Held = tuple[int, ...]  # the folds that a fit has left out
# (candidate, folds left out, compute) -> the log-odds of the clips left out, computed or from an earlier start
Keep = Callable[[str, Held, Callable[[], np.ndarray]], np.ndarray]


def compute_anew(kind: str, held: Held, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The ``Keep`` that keeps nothing."""
    return compute()


@dataclass(frozen=True)
class Compared:
    """A candidate against the start, out of fold. ``gain``: its log loss less the start's, classes alike, with its
    interval; ``relit``: the same difference on relit clips; ``verdict``: in a few words."""

    kind: str
    loss: float
    gain: float
    interval: tuple[float, float]
    relit: float
    verdict: str

    @property
    def is_better(self) -> bool:
        return self.verdict == "better"


@dataclass
class Choice:
    """What ``choose`` found. ``scores``: candidate -> out-of-fold probabilities (clips x 2); ``folds``: per clip;
    ``apart``: whether no group lies in two folds; ``picked``: per outer fold the candidate that its own clips had no
    say in; ``shifts``: per outer fold what it was shifted by."""

    kind: str
    shift: Shift
    compared: list[Compared]
    scores: dict[str, np.ndarray]
    nested: np.ndarray
    folds: np.ndarray
    apart: bool
    picked: list[str] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)


# --- folds -----------------------------------------------------------------------------------------


def deal_clips(labels: np.ndarray, groups: np.ndarray, plan: AdaptPlan) -> tuple[np.ndarray, bool]:
    """A fold for each clip, and whether every group lies in one of them.

    It does where any two folds can be left out and both classes remain, of two groups each at least. Else (one person,
    or one live person) the clips are dealt one by one.
    """
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    codes = intervals.group_codes(groups)
    most = min(plan.folds, int(codes.max()) + 1, max(int((labels == label).sum()) for label in (0, 1)))
    for count in range(most, 2, -1):
        folds = np.empty(len(labels), int)
        with warnings.catch_warnings():  # of classes with fewer clips than folds
            warnings.simplefilter("ignore", UserWarning)
            split = StratifiedGroupKFold(count, shuffle=True, random_state=plan.seed)
            for number, (_, held) in enumerate(split.split(labels, labels, codes)):
                folds[held] = number
        if len(set(folds)) == count and all(
            len(set(codes[(labels == label) & ~np.isin(folds, pair)])) > 1
            for pair in combinations(range(count), 2)
            for label in (0, 1)
        ):
            return folds, True
    rng, folds = np.random.default_rng(plan.seed), np.empty(len(labels), int)
    count = min(plan.folds, len(labels))
    for label in (0, 1):
        mine = rng.permutation(np.flatnonzero(labels == label))
        folds[mine] = (np.arange(len(mine)) + (count // 2) * label) % count
    return folds, False


# --- choosing --------------------------------------------------------------------------------------


def choose(
    start: StartEnsemble,
    seen: SeenClips,
    plan: AdaptPlan,
    kinds: Iterable[str] = CANDIDATES,
    keep: Keep = compute_anew,
) -> Choice:
    """The candidate of least log loss among those that are better than the start beyond the interval; else the start.

    Where persons cannot be kept apart, only candidates that change no network are there.
    """
    folds, apart = deal_clips(seen.labels, seen.groups, plan)
    asked = [kind for kind in kinds if apart or kind in OF_SCORES]
    asked = asked if DAY_ONE in asked else [DAY_ONE, *asked]
    logits, weights = _cross_score(start, seen, plan, asked, folds, keep)
    single = {kind: logits[kind][0] for kind in asked}
    scores = {kind: calibrate_apart(kind, single[kind], weights[kind], seen.labels, folds, plan) for kind in asked}
    compared = compare_candidates(scores, seen.labels, seen.groups, plan.least_gain)
    kind = pick(compared)
    shift = fit_shift(kind, single[kind], weights[kind], seen.labels, plan)
    found = Choice(kind, shift, compared, scores, np.empty((len(seen), 2)), folds, apart)
    for outer in range(int(folds.max()) + 1):
        rest, here = np.flatnonzero(folds != outer), np.flatnonzero(folds == outer)
        inner = {one: logits[one][1][outer][rest] for one in asked}
        labels = seen.labels[rest]
        apart_scores = {one: calibrate_apart(one, inner[one], weights[one], labels, folds[rest], plan) for one in asked}
        best = pick(compare_candidates(apart_scores, labels, seen.groups[rest], plan.least_gain))
        moved = fit_shift(best, inner[best], weights[best], labels, plan)
        found.nested[here] = blend_shifted(best, single[best][here], weights[best], moved)
        found.picked.append(best)
        found.shifts.append(moved)
    return found


Levels = tuple[np.ndarray, dict[int, np.ndarray]]  # out of one fold; per outer fold: out of that and of one more


def _cross_score(
    start: StartEnsemble, seen: SeenClips, plan: AdaptPlan, kinds: list[str], folds: np.ndarray, keep: Keep
) -> tuple[dict[str, Levels], dict[str, dict[str, float]]]:
    """Log-odds of every clip by fits that left out its fold, and by fits that left out another fold besides; and the
    weights of each candidate's networks."""
    numbers = range(int(folds.max()) + 1)
    everyone = np.arange(len(seen))

    def compute(kind: str, held: Held) -> np.ndarray:
        out = everyone if kind in OF_SCORES else np.flatnonzero(np.isin(folds, held))
        rest = everyone if kind in OF_SCORES else np.flatnonzero(~np.isin(folds, held))
        return score_candidate(fit_candidate(kind, start, seen, rest, plan), seen, out)

    tasks: list[tuple[str, Held]] = [(DAY_ONE, ())]
    for kind in kinds:
        if kind not in OF_SCORES:
            tasks += [(kind, (number,)) for number in numbers]
            tasks += [(kind, pair) for pair in combinations(numbers, 2)]
    with ThreadPoolExecutor(share_of_cores()) as pool:
        done = list(pool.map(lambda task: keep(task[0], task[1], lambda: compute(*task)), tasks))
    of_task = dict(zip(tasks, done, strict=True))
    found: dict[str, Levels] = {}
    for kind in kinds:
        if kind in OF_SCORES:
            plain = of_task[DAY_ONE, ()]
            found[kind] = plain, dict.fromkeys(numbers, plain)
            continue
        empty = np.full((len(seen), *of_task[kind, (0,)].shape[1:]), np.nan)
        single, nested = empty.copy(), {number: empty.copy() for number in numbers}
        for number in numbers:
            single[folds == number] = of_task[kind, (number,)]
        for pair in combinations(numbers, 2):
            for outer, inner in (pair, pair[::-1]):
                there = folds[np.isin(folds, pair)] == inner
                nested[outer][folds == inner] = of_task[kind, pair][there]
        found[kind] = single, nested
    return found, {kind: _weights_of(kind, start, plan) for kind in kinds}


def _weights_of(kind: str, start: StartEnsemble, plan: AdaptPlan) -> dict[str, float]:
    from liveness.adaptation.candidates import HOME, HOME_SUFFIX

    weights = dict(start.weights)
    if kind == HOME:
        weights[HOME_SUFFIX] = sum(weights.values()) * plan.home_share / (1 - plan.home_share)
    return weights


def calibrate_apart(
    kind: str, logits: np.ndarray, weights: dict[str, float], labels: np.ndarray, folds: np.ndarray, plan: AdaptPlan
) -> np.ndarray:
    """Probabilities (clips x 2) of out-of-fold log-odds, each fold shifted by what the other folds say."""
    found = np.empty((len(labels), 2))
    for fold in np.unique(folds):
        here = folds == fold
        shift = fit_shift(kind, logits[~here], weights, labels[~here], plan)
        found[here] = blend_shifted(kind, logits[here], weights, shift)
    return found


def compare_candidates(
    scores: dict[str, np.ndarray], labels: np.ndarray, groups: np.ndarray, least_gain: float = 0.0
) -> list[Compared]:
    """Each candidate against the start, by log loss on the clips as they are, and a look at the relit ones.

    least_gain: what is better by less is as good as the start.
    """
    losses = {kind: np.stack([metrics.log_losses(labels, part) for part in both.T]) for kind, both in scores.items()}
    shared = len(set(groups)) < len(groups)
    found = []
    for kind, (plain, relit) in losses.items():
        gains, moved = plain - losses[DAY_ONE][0], relit - losses[DAY_ONE][1]
        low, high = bound_gain(gains, labels, groups if shared else None)
        gain, in_other_light = mean_of_classes(gains, labels), mean_of_classes(moved, labels)
        verdict = "the start" if kind == DAY_ONE else "cannot be told apart"
        if low > 0:
            verdict = "worse"
        elif high < 0 and gain > -least_gain:
            verdict = "as good"
        elif high < 0:
            stays = in_other_light <= 0 and _keeps(mean_of_classes(plain, labels), mean_of_classes(relit, labels))
            verdict = "better" if stays else "better in this light only"
        found.append(Compared(kind, mean_of_classes(plain, labels), gain, (low, high), in_other_light, verdict))
    return found


def _keeps(plain: float, relit: float) -> bool:
    """Whether relit clips leave at least half of what a candidate knows more than a coin (log loss ln 2)."""
    knows, left = (max(np.log(2) - loss, 0.0) for loss in (plain, relit))
    return bool(left >= knows / 2)


def pick(compared: list[Compared]) -> str:
    """The candidate of least log loss among the better ones; the start where there is none."""
    better = [one for one in compared if one.is_better]
    return min(better, key=lambda one: one.loss).kind if better else DAY_ONE


def mean_of_classes(values: np.ndarray, labels: np.ndarray) -> float:
    """The mean over live clips and that over attacks, averaged."""
    return float((values[labels == 1].mean() + values[labels == 0].mean()) / 2)


def bound_gain(
    gains: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, level: float = 0.95
) -> tuple[float, float]:
    """The interval of ``mean_of_classes`` of paired differences: a bootstrap by group (its tails widened for few of
    them), or by clip within each class. (-inf, inf) for a single group."""
    if groups is not None and len(set(groups)) < 2:
        return -np.inf, np.inf
    rng, live = np.random.default_rng(intervals.SEED), labels == 1
    drawn = intervals.draw_counts(live, groups, intervals.REPLICATES, rng)
    drawn = drawn[(drawn @ live > 0) & (drawn @ ~live > 0)]
    parts = [(drawn[:, rows] @ gains[rows]) / drawn[:, rows].sum(axis=1) for rows in (live, ~live)]
    tail = (1 - level) / 2
    tail = tail if groups is None else intervals.expanded_tail(len(set(groups)), tail)
    low, high = np.quantile((parts[0] + parts[1]) / 2, [tail, 1 - tail])
    return float(low), float(high)
