"""How sure a figure is: exact intervals for rates, bootstrap intervals for EER, AUC and log loss.

Labels and scores as in ``metrics``. All bootstraps are seeded and give the same interval every
time; a thousand replicates of a thousand videos take well under a second.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from liveness.evaluation import metrics

REPLICATES = 2000
SEED = 20221
FEW_GROUPS = 20
_CHUNK = 4_000_000  # entries of a replicate matrix held at once


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    method: str

    def as_list(self) -> list[float]:
        return [self.low, self.high]


def clopper_pearson(errors: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval for a rate (Clopper and Pearson 1934); (0, 1) when total is 0.

    It covers at least ``level`` when the videos are independent. With 0 errors the upper limit is
    1 - (alpha/2)^(1/total), about 3.7 / total at 95 %.
    """
    if not 0 <= errors <= total:
        raise ValueError(f"{errors} errors of {total}: expected 0 <= errors <= total")
    if total == 0:
        return 0.0, 1.0
    alpha = 1 - level
    low = stats.beta.ppf(alpha / 2, errors, total - errors + 1) if errors else 0.0
    high = stats.beta.ppf(1 - alpha / 2, errors + 1, total - errors) if errors < total else 1.0
    return float(low), float(high)


def warn_of_few_groups(groups: int, noun: str = "person") -> str:
    """The plain words to print beside an interval over so few groups (``noun``: what each is), or an empty string."""
    return f"few {noun}s: interval too narrow" if groups < FEW_GROUPS else ""


def bootstrap(
    labels, scores, groups=None, level: float = 0.95, replicates: int = REPLICATES, seed: int = SEED
) -> dict[str, Interval]:
    """Bootstrap intervals of ``eer``, ``auc`` and ``log_loss`` (nan unless the scores lie in [0, 1]).

    groups None: videos are drawn with replacement within each class, so that every replicate has
    the classes' sizes. groups given (one per video): whole groups are drawn, each with all its
    videos; replicates that lack a class are left out; the tails are widened for the number of
    groups (``expanded_tail``). The EER has percentile limits, AUC and log loss BCa limits (Efron
    1987), whose percentile limits would miss the truth on one side too often. Limits that only say that the sample
    was too small to show an error are replaced: the upper limit of the EER is never below the one
    for zero errors (``zero_errors``), the lower limit of a perfect AUC is that of a series of
    independent pairs, all in order. A class absent: nan limits. A single
    group: [0, 1], it says nothing about others.
    """
    labels, scores = metrics.check_scores(labels, scores)
    if labels.all() or not labels.any():
        nothing = Interval(float("nan"), float("nan"), "none: one class")
        return {"eer": nothing, "auc": nothing, "log_loss": nothing}
    if groups is not None and len(set(groups)) < 2:
        anything = Interval(0.0, 1.0, "none: one group")
        return {"eer": anything, "auc": anything, "log_loss": Interval(float("nan"), float("nan"), anything.method)}
    draws = _replicates(labels, scores, groups, replicates, seed)
    tail = _tail(groups, level)
    unit = "by video" if groups is None else "by group"
    codes = np.arange(labels.size) if groups is None else group_codes(groups)
    low, high = np.quantile(draws["eer"], [tail, 1 - tail])
    found = {"eer": Interval(float(low), float(high), f"percentile bootstrap {unit}")}
    for name, (value, influence) in {
        "auc": _auc_influence(labels, scores),
        "log_loss": _log_loss_influence(labels, scores),
    }.items():
        low, high = _bca(draws[name], value, np.bincount(codes, weights=influence), tail)
        found[name] = Interval(low, high, f"BCa bootstrap {unit}")
    return _never_certain(found, labels, scores, groups, level)


def _auc_influence(labels: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """The AUC and how much each video moves it (up to a factor): DeLong's structural components."""
    live, attack = _in_order(labels, scores)
    value = float(live.mean())
    influence = np.empty(labels.size)
    influence[labels] = (live - value) / live.size
    influence[~labels] = (attack - value) / attack.size
    return value, influence


def _log_loss_influence(labels: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    if scores.min() < 0 or scores.max() > 1:
        return float("nan"), np.zeros(labels.size)
    losses = metrics.log_losses(labels, scores)
    return float(losses.mean()), losses - losses.mean()


def _in_order(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per live video the share of attacks below it, per attack the share of live videos above it; ties half.

    A video's pairs in order are its midrank among all less its midrank in its own class.
    """
    ranks = stats.rankdata(scores)
    live = (ranks[labels] - stats.rankdata(scores[labels])) / (~labels).sum()
    attack = 1 - (ranks[~labels] - stats.rankdata(scores[~labels])) / labels.sum()
    return live, attack


def _bca(draws: np.ndarray, value: float, influence: np.ndarray, tail: float) -> tuple[float, float]:
    """Bias-corrected and accelerated limits; ``influence`` has one entry per resampled unit."""
    below = ((draws < value).mean() + (draws <= value).mean()) / 2
    spread = float((influence**2).sum())
    if not np.isfinite(value) or spread < 1e-24:
        return (value, value) if np.isfinite(value) else (float("nan"), float("nan"))
    bias = stats.norm.ppf(np.clip(below, 1e-3, 1 - 1e-3))
    acceleration = float((influence**3).sum()) / (6 * spread**1.5)
    # Two groups have a tail of 0 in floating point: 8 standard deviations stand for the end of the draws.
    z = bias + np.clip(stats.norm.ppf([tail, 1 - tail]), -8, 8)
    # The correction diverges where the denominator falls to 0; there the end of the draws is meant.
    z = bias + z / np.maximum(1 - acceleration * z, 1e-3)
    low, high = np.quantile(draws, stats.norm.cdf(z))
    # With two or three units the draws are so few that the correction can step over the value itself.
    return min(float(low), value), max(float(high), value)


def _tail(groups, level: float) -> float:
    tail = (1 - level) / 2
    return tail if groups is None else expanded_tail(len(set(groups)), tail)


def expanded_tail(count: int, tail: float) -> float:
    """The tail to read off so that a percentile interval of ``count`` units is as wide as a t interval.

    Phi(-sqrt(n / (n - 1)) * t_{n-1}(1 - tail)); Hesterberg (2015), The American Statistician 69(4).
    """
    if count < 2:
        return 0.0
    return float(stats.norm.cdf(-np.sqrt(count / (count - 1)) * stats.t.ppf(1 - tail, count - 1)))


def zero_errors(labels, groups=None, level: float = 0.95) -> float:
    """Upper limit of an EER when no error was seen: Clopper-Pearson's for the scarcer class.

    With groups, each counts once (no error seen says nothing about how errors cluster).
    """
    labels = np.asarray(labels).astype(bool)
    units = np.arange(labels.size) if groups is None else np.asarray(groups, dtype=object)
    scarcer = min(len(set(units[labels])), len(set(units[~labels])))
    return clopper_pearson(0, scarcer, level)[1]


def _never_certain(found: dict[str, Interval], labels, scores, groups, level: float) -> dict[str, Interval]:
    """Replace limits that only say that the sample was too small to show an error."""
    eer, auc = found["eer"], found["auc"]
    value = metrics.eer(labels, scores).value
    floor = zero_errors(labels, groups if value == 0 else None, level)
    if eer.high < floor:
        found["eer"] = Interval(eer.low, floor, f"{eer.method}, upper limit as for zero errors")
    # Pair each live video with another attack: independent trials, all of them in order.
    ceiling = 1 - zero_errors(labels, groups if metrics.auc(labels, scores) == 1 else None, level)
    if auc.low > ceiling and metrics.auc(labels, scores) == 1:
        found["auc"] = Interval(ceiling, auc.high, f"{auc.method}, lower limit as for no inversion")
    return found


def draw_counts(labels: np.ndarray, groups, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count x videos) integers: how often each video is in each replicate."""
    if groups is not None:
        codes = group_codes(groups)
        return _with_replacement(int(codes.max()) + 1, count, rng)[:, codes]
    drawn = np.zeros((count, labels.size), dtype=np.int64)
    for rows in (np.flatnonzero(labels), np.flatnonzero(~labels)):
        drawn[:, rows] = _with_replacement(rows.size, count, rng)
    return drawn


def _with_replacement(units: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count x units): how often each unit comes up in ``units`` draws, ``count`` times."""
    picked = rng.integers(0, max(units, 1), size=(count, units)) + np.arange(count)[:, None] * units
    return np.bincount(picked.ravel(), minlength=count * units).reshape(count, units)


def group_codes(groups) -> np.ndarray:
    """Group names as numbers from 0, in order of first appearance."""
    numbers: dict = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in groups])


def _chunks(videos: int, replicates: int) -> list[int]:
    """How many replicates to draw at a time, so that memory stays small for large sets."""
    step = max(1, _CHUNK // max(1, videos))
    return [min(step, replicates - start) for start in range(0, replicates, step)]


def _replicates(labels, scores, groups, replicates: int, seed: int) -> dict[str, np.ndarray]:
    """EER, AUC and log loss of every replicate; nan where a replicate lacks a class."""
    rng = np.random.default_rng(seed)
    probabilities = scores.min() >= 0 and scores.max() <= 1
    losses = metrics.log_losses(labels, scores) if probabilities else np.full(scores.size, np.nan)
    found: dict[str, list[np.ndarray]] = {"eer": [], "auc": [], "log_loss": []}
    for count in _chunks(scores.size, replicates):
        drawn = draw_counts(labels, groups, count, rng)
        live, attack = split_counts(drawn, labels, scores)
        found["eer"].append(metrics.eer_of_counts(live, attack)[0])
        found["auc"].append(metrics.auc_of_counts(live, attack))
        found["log_loss"].append(drawn @ losses / drawn.sum(axis=1))
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    usable = np.isfinite(values["eer"])
    return {name: part[usable] if usable.any() else part[:1] for name, part in values.items()}


def split_counts(drawn: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replicate counts per distinct score (descending): one matrix for live, one for attacks."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], np.diff(scores[order]) != 0)))
    by_score = drawn[:, order]
    live = np.add.reduceat(by_score * labels[order], starts, axis=1)
    attack = np.add.reduceat(by_score * ~labels[order], starts, axis=1)
    return live, attack


@dataclass(frozen=True)
class Comparison:
    """System B against system A on the same videos."""

    verdict: str  # of B: "better" | "worse" | "cannot be told apart"
    difference: float  # figure of B minus figure of A
    interval: Interval
    # Videos (of the same mix and the same persons per video) that would tell the two apart with
    # 80 % power if the difference seen is the true one; None if no difference was seen.
    videos_to_tell: int | None


def compare_eer(
    labels, scores_a, scores_b, groups=None, level: float = 0.95, replicates: int = REPLICATES
) -> Comparison:
    """Paired bootstrap of the difference in EER: both systems are judged on the same drawn videos.

    Arguments as in ``bootstrap``; every video needs a score of both. "better" and "worse" only
    if the whole interval lies on one side of 0. Where no draw differs, the limits are those of
    ``zero_errors`` to either side.
    """
    labels, scores_a = metrics.check_scores(labels, scores_a)
    _, scores_b = metrics.check_scores(labels, scores_b)
    difference = metrics.eer(labels, scores_b).value - metrics.eer(labels, scores_a).value
    rng, found = np.random.default_rng(SEED), []
    for count in _chunks(2 * scores_a.size, replicates):
        drawn = draw_counts(labels, groups, count, rng)
        values = [metrics.eer_of_counts(*split_counts(drawn, labels, scores))[0] for scores in (scores_a, scores_b)]
        found.append(values[1] - values[0])
    draws = np.concatenate(found)
    draws = draws[np.isfinite(draws)]
    if not draws.size or not np.isfinite(difference) or (groups is not None and len(set(groups)) < 2):
        nothing = Interval(float("nan"), float("nan"), "none: one class or one group")
        return Comparison("cannot be told apart", difference, nothing, None)
    tail = _tail(groups, level)
    low, high = (float(v) for v in np.quantile(draws, [tail, 1 - tail]))
    method = "paired bootstrap by video" if groups is None else "paired bootstrap by group"
    if low == high == 0:  # not one video told the systems apart: that happens up to this difference
        reach = zero_errors(labels, groups, level)
        low, high, method = -reach, reach, f"{method}, limits as for zero errors"
    return _comparison(difference, float(draws.std()), Interval(low, high, method), labels.size, -1)


def compare_log_loss(
    labels, scores_a, scores_b, groups=None, level: float = 0.95, replicates: int = REPLICATES
) -> Comparison:
    """Paired bootstrap of the difference in log loss: the mean over videos of what each gains or loses.

    Arguments as in ``compare_eer``; scores are probabilities. Percentile limits, their tails widened for few groups;
    nan limits for a single group.
    """
    labels, scores_a = metrics.check_scores(labels, scores_a)
    gains = metrics.log_losses(labels, scores_b) - metrics.log_losses(labels, scores_a)
    difference = float(gains.mean()) if gains.size else float("nan")
    if not np.isfinite(difference) or (groups is not None and len(set(groups)) < 2):
        return Comparison("cannot be told apart", difference, Interval(float("nan"), float("nan"), "none"), None)
    rng, found = np.random.default_rng(SEED), []
    for count in _chunks(scores_a.size, replicates):
        drawn = draw_counts(labels, groups, count, rng)
        found.append(drawn @ gains / drawn.sum(axis=1))
    draws, tail = np.concatenate(found), _tail(groups, level)
    low, high = (float(value) for value in np.quantile(draws, [tail, 1 - tail]))
    method = "paired bootstrap by video" if groups is None else "paired bootstrap by group"
    return _comparison(difference, float(draws.std()), Interval(low, high, method), labels.size, -1)


def compare_auc(labels, scores_a, scores_b, level: float = 0.95) -> Comparison:
    """Difference in AUC by DeLong's test (1988; midranks of Sun and Xu 2014); videos independent."""
    difference, error = delong(labels, scores_a, scores_b)
    reach = float(stats.norm.ppf(1 - (1 - level) / 2)) * error
    interval = Interval(difference - reach, difference + reach, "DeLong")
    return _comparison(difference, error, interval, len(labels), 1)


def _comparison(difference: float, error: float, interval: Interval, videos: int, sign: int) -> Comparison:
    """sign: 1 if more is better, -1 if less is."""
    verdict = "cannot be told apart"
    if interval.low > 0 or interval.high < 0:
        verdict = "better" if difference * sign > 0 else "worse"
    needed = None
    if np.isfinite(difference) and abs(difference) > 1e-12 and error > 0:
        reach = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
        needed = int(np.ceil(videos * (reach * error / difference) ** 2))
    return Comparison(verdict, difference, interval, needed)


def delong(labels, scores_a, scores_b) -> tuple[float, float]:
    """(AUC of B minus AUC of A, its standard error); nan with fewer than two videos of a class."""
    labels, scores_a = metrics.check_scores(labels, scores_a)
    _, scores_b = metrics.check_scores(labels, scores_b)
    difference = metrics.auc(labels, scores_b) - metrics.auc(labels, scores_a)
    n_live, n_attack = int(labels.sum()), int((~labels).sum())
    if min(n_live, n_attack) < 2:
        return difference, float("nan")
    (live_a, attack_a), (live_b, attack_b) = _in_order(labels, scores_a), _in_order(labels, scores_b)
    variance = np.var(live_b - live_a, ddof=1) / n_live + np.var(attack_b - attack_a, ddof=1) / n_attack
    return difference, float(np.sqrt(variance))
