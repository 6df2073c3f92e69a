"""Thresholds for an ensemble: chosen for a target, with intervals, on scores like those of prediction.

A new video is scored by all members. Videos that no member was trained on (the holdout) are too, so
thresholds chosen there carry over as they are. An out-of-fold score comes from one or two members,
and scores of so few spread more; ``like_all_members`` then draws what the absent members would
have said, as correlated with the present ones as measured or assumed. docs/metrics.md has the
simulation that says how well this works.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from liveness.evaluation import intervals, metrics
from liveness.evaluation.combine import HOLDOUT, blend, logit, sigmoid

TARGETS = (("apcer", 0.01), ("apcer", 0.05), ("apcer", 0.1), ("bpcer", 0.01), ("bpcer", 0.05))
_REPLICATES = (1000, 500)  # of the thresholds' bootstrap: of exact scores, of drawn ones
_SEED = 20221
LEAST_PAIRS = 30  # videos of a class that two members scored, to measure how alike members are
# Where no video shows it: five small networks of one recipe, each trained on four fifths of the same
# data, agreed on new samples of a class by 0.64 to 0.97 in seven trials (docs/metrics.md).
ASSUMED_ALIKE = (0.5, 0.8, 1.0)  # low, central, high
_DRAWN_SCORES = 20_000  # about as many scores are drawn, but from 8 to 100 per video
_BOOTSTRAP_DRAWS = 4
_CHUNK = 2_000_000  # entries of a replicate matrix held at once


@dataclass(frozen=True)
class Sample:
    """Scores to choose thresholds on: ``scores`` is videos x draws, one draw where they are exact."""

    labels: np.ndarray  # 1 live, 0 attack
    scores: np.ndarray
    groups: np.ndarray
    species: Sequence[str] | None = None

    @property
    def by_group(self) -> bool:
        """Whether the threshold's bootstrap draws groups: they hold several videos, and are enough."""
        return intervals.FEW_GROUPS <= len(set(self.groups)) < len(self.groups)

    def few(self, draws: int) -> "Sample":
        return Sample(self.labels, self.scores[:, :draws], self.groups, self.species)


def exact_sample(labels, scores, groups, species=None) -> Sample:
    """A sample of videos that all members scored."""
    return Sample(np.asarray(labels, dtype=int), np.asarray(scores, dtype=float)[:, None], np.asarray(groups), species)


def choose_operating_points(samples: list[Sample]) -> list[dict]:
    """The thresholds of the EER, APCER <= 1, 5, 10 % (BPCER100, BPCER20, BPCER10) and BPCER <= 1, 5 %.

    The first sample decides the thresholds. Further ones are other accounts of the same videos
    (members less or more alike); every interval is widened to hold theirs. Each entry: name,
    target, threshold, threshold_interval (``threshold_bounds``), by (what the bootstrap drew), value and
    interval (of the rate that the target limits), apcer (worst species), apcer_interval, bpcer,
    bpcer_interval, abstained (``measure_abstained``). For the EER, value is the mean of apcer and bpcer.
    """
    bounds = [threshold_bounds(sample) for sample in samples]
    return [_entry(kind, target, samples, bounds) for kind, target in (("eer", None), *TARGETS)]


def name_point(kind: str, target: float | None) -> str:
    return kind if target is None else f"{kind}{100 * target:.0f}"


def _entry(kind: str, target: float | None, samples: list[Sample], bounds: list[dict]) -> dict:
    name = name_point(kind, target)
    threshold = bounds[0][name][1]
    rates = [measure_rates(sample, threshold) for sample in samples]
    entry = {"name": name, "target": target, "threshold": threshold, "by": "group" if samples[0].by_group else "video"}
    entry["threshold_interval"] = [min(b[name][0] for b in bounds), max(b[name][2] for b in bounds)]
    for side in ("apcer", "bpcer"):
        entry[side] = rates[0][side]
        limits = [r[f"{side}_interval"] for r in rates]
        entry[f"{side}_interval"] = [min(low for low, _ in limits), max(high for _, high in limits)]
    entry["abstained"] = measure_abstained(samples[0], *entry["threshold_interval"])
    if kind == "eer":
        entry["value"] = (entry["apcer"] + entry["bpcer"]) / 2
        entry["interval"] = [(a + b) / 2 for a, b in zip(entry["apcer_interval"], entry["bpcer_interval"], strict=True)]
    else:
        entry["value"], entry["interval"] = entry[kind], entry[f"{kind}_interval"]
    return entry


def measure_rates(sample: Sample, threshold: float) -> dict:
    """APCER of the worst species and BPCER at a threshold, each with its interval."""
    passed = (sample.scores >= threshold).mean(axis=1)
    kinds = metrics.species_rows(sample.labels, sample.species)
    worst = max((rows for _, rows in kinds), key=lambda rows: passed[rows].mean())
    live = sample.labels.astype(bool)
    return {
        "apcer": float(passed[worst].mean()),
        "apcer_interval": list(rate_interval(passed[worst], sample.groups[worst])),
        "bpcer": float((1 - passed[live]).mean()),
        "bpcer_interval": list(rate_interval(1 - passed[live], sample.groups[live])),
    }


def measure_abstained(sample: Sample, low: float, high: float) -> dict:
    """Of live videos and of attacks, the share whose score lies inside a threshold's interval, with its interval."""
    inside = ((sample.scores > low) & (sample.scores < high)).mean(axis=1)
    sides = {"live": sample.labels == 1, "attack": sample.labels == 0}
    return {
        name: {"value": float(inside[rows].mean()), "interval": list(rate_interval(inside[rows], sample.groups[rows]))}
        for name, rows in sides.items()
    }


def rate_interval(wrong: np.ndarray, groups: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of a rate: Clopper-Pearson, at the effective number of videos where they share groups.

    wrong: per video 0, 1, or a share of draws. Korn and Graubard (1998): the number of videos is
    divided by the design effect (by which the groups' spread exceeds that of independent videos;
    at least 1) and shrunk further for the few degrees of freedom of few groups. Where no error
    or only errors were seen the design effect is unknown and each group counts once.
    """
    from scipy import stats

    wrong, tail = np.asarray(wrong, dtype=float), (1 - level) / 2
    codes = intervals.group_codes(groups)
    count, number = int(codes.max()) + 1, wrong.size
    value, effective = float(wrong.mean()), float(number)
    if count < number:
        spread = value * (1 - value)
        if spread < 1e-12 or count < 2:
            effective = float(count)
        else:
            residual = np.bincount(codes, weights=wrong - value)
            variance = count / (count - 1) * (residual**2).sum() / number**2
            shrink = stats.t.ppf(1 - tail, number - 1) / stats.t.ppf(1 - tail, count - 1)
            effective = number / max(variance * number / spread, 1.0) * shrink**2
    errors = value * effective
    low = stats.beta.ppf(tail, errors, effective - errors + 1) if errors > 0 else 0.0
    high = stats.beta.ppf(1 - tail, errors + 1, effective - errors) if errors < effective else 1.0
    return float(low), float(high)


def threshold_bounds(sample: Sample, replicates: int = 0, level: float = 0.95) -> dict[str, tuple[float, float, float]]:
    """name -> (low, threshold, high) for the EER and every target.

    The threshold is that of ``metrics.eer``, ``at_apcer``, ``at_bpcer``. low and high: where it would
    lie had other videos been drawn (percentile bootstrap: by group where there are 20 groups or
    more, else by video within each class). Every threshold in the gap between two neighbouring
    scores does the same, so low is read off the gaps' lower ends and high off their upper ends.
    """
    points: list[tuple[str, float | None]] = [("eer", None), *TARGETS]
    draws = _Drawn(sample)
    ones = np.ones((1, sample.labels.size), dtype=np.int64)
    middles = {name: float(middle[0]) for name, (_, middle, _) in draws.bounds(ones, points).items()}
    few = _Drawn(sample.few(_BOOTSTRAP_DRAWS))
    rng, groups = np.random.default_rng(_SEED), sample.groups if sample.by_group else None
    ends: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {name: ([], []) for name in middles}
    replicates = replicates or _REPLICATES[sample.scores.shape[1] > 1]
    step = max(1, _CHUNK // few.video.size)
    for count in [min(step, replicates - start) for start in range(0, replicates, step)]:
        drawn = intervals.draw_counts(sample.labels.astype(bool), groups, count, rng)
        usable = (drawn @ sample.labels > 0) & (drawn @ (1 - sample.labels) > 0)
        for name, (low, _, high) in few.bounds(drawn[usable], points).items():
            ends[name][0].append(low)
            ends[name][1].append(high)
    tail = (1 - level) / 2
    tail = tail if groups is None else intervals.expanded_tail(len(set(groups)), tail)
    found = {}
    for name, (lows, highs) in ends.items():
        middle = middles[name]
        low, high = np.quantile(np.concatenate(lows), tail), np.quantile(np.concatenate(highs), 1 - tail)
        found[name] = (float(min(low, middle)), middle, float(max(high, middle)))
    return found


class _Drawn:
    """A sample's scores in descending order, ready for many weightings of its videos."""

    def __init__(self, sample: Sample) -> None:
        self.scores = sample.scores.ravel()
        self.video = np.repeat(np.arange(sample.labels.size), sample.scores.shape[1])
        self.live = sample.labels.astype(bool)[self.video]
        self.species = [rows[self.video] for _, rows in metrics.species_rows(sample.labels, sample.species)]
        distinct = -np.unique(-self.scores)
        # Entry i: the thresholds that take exactly the i highest of the distinct scores for live.
        self.middle = np.array([metrics.midway(distinct, i) for i in range(distinct.size + 1)])
        self.low = np.concatenate(([distinct[0]], distinct[1:], distinct[-1:]))
        self.high = np.concatenate((self.middle[:1], distinct))

    def bounds(self, drawn: np.ndarray, points: list[tuple]) -> dict[str, tuple]:
        """drawn: replicates x videos, how often each counts. name -> (low, middle, high), each per replicate."""
        weights = drawn[:, self.video]
        live, attack = intervals.split_counts(weights, self.live, self.scores)
        missed = live.sum(axis=1, keepdims=True) - _upto(live)
        missed = missed / missed[:, :1]
        worst = np.zeros(missed.shape)
        for rows in self.species:
            passed = _upto(intervals.split_counts(weights, ~rows, self.scores)[1])
            worst = np.maximum(worst, passed / np.maximum(passed[:, -1:], 1))
        found = {}
        for kind, target in points:
            if kind == "eer":
                index = metrics.eer_of_counts(live, attack)[1]
            elif kind == "apcer":
                index = (worst <= target).sum(axis=1) - 1
            else:
                index = (missed <= target).argmax(axis=1)
            found[name_point(kind, target)] = (self.low[index], self.middle[index], self.high[index])
        return found


def _upto(counts: np.ndarray) -> np.ndarray:
    """Cumulative counts with a 0 before them: how many are among the i highest scores."""
    return np.concatenate((np.zeros((len(counts), 1), dtype=np.int64), np.cumsum(counts, axis=1)), axis=1)


@dataclass(frozen=True)
class Alike:
    """How alike members are on one video of a class: correlation of their normal scores."""

    low: float
    value: float
    high: float
    videos: int  # that two members or more have scored; 0: assumed


def measure_alike(labels: np.ndarray, scores: pd.DataFrame, recipes: dict[str, str]) -> Alike:
    """Measured where enough videos of each class have out-of-fold scores of two members, else assumed.

    scores: a column per member, nan where it has none; recipes: member -> recipe. The interval is Fisher's; its
    upper end is 1, since members of one recipe may be more alike than those of two, of which the pairs are.
    """
    values, pairs, counted = _normal_scores(labels, scores, recipes), [], np.zeros(len(labels), dtype=bool)
    for i in range(values.shape[1]):
        for j in range(i):
            both = np.isfinite(values[:, i]) & np.isfinite(values[:, j])
            counted |= both
            pairs.append(values[both][:, [i, j]])
    joint = np.concatenate(pairs) if pairs else np.zeros((0, 2))
    if min((counted & (labels == kind)).sum() for kind in (0, 1)) < LEAST_PAIRS:
        return Alike(*ASSUMED_ALIKE, 0)
    # Normal scores have mean 0 and variance 1 in their class, so their product is the correlation.
    value = float(np.clip(joint.prod(axis=1).mean() / (joint**2).mean(), 0, 0.999))
    low = float(np.tanh(np.arctanh(value) - 1.96 / np.sqrt(counted.sum() - 3)))
    return Alike(max(low, 0.0), value, 1.0, int(counted.sum()))


@dataclass(frozen=True)
class Basis:
    """What an ensemble's thresholds are chosen on."""

    split: str  # "holdout" | "out of fold"
    approximate: bool  # some videos lack the score of some member
    videos: int
    groups: int
    samples: list[Sample]  # of ``choose_operating_points``
    alike: Alike | None  # None where nothing had to be drawn


def choose_basis(
    table: pd.DataFrame, scores: pd.DataFrame, weights: dict[str, float], recipes: dict[str, str], species=None
) -> Basis:
    """The holdout where it has both classes, else the folds; videos without any score are left out.

    table: of ``combine.assemble`` (label, group, fold, and score: the blend of ``scores``); scores: a
    calibrated column per member, rows as in ``table``; recipes: member -> recipe; species: one name per row, or None.
    """
    there = np.isfinite(table["score"].to_numpy(dtype=float))
    aside = there & (table["fold"] == HOLDOUT).to_numpy()
    held = table["label"][aside].nunique() == 2
    rows = aside if held else there & (table["fold"] != HOLDOUT).to_numpy()
    part, columns = table[rows], scores[rows]
    labels, groups = part["label"].to_numpy(dtype=int), part["group"].to_numpy()
    kept = None if species is None else [name for name, row in zip(species, rows, strict=True) if row]
    about = {"split": "holdout" if held else "out of fold", "videos": len(part), "groups": part["group"].nunique()}
    # On the holdout a missing score is missing at prediction too.
    if held or columns.notna().all(axis=None):
        sample = exact_sample(labels, part["score"], groups, kept)
        return Basis(**about, approximate=False, samples=[sample], alike=None)
    alike = measure_alike(labels, columns, recipes)
    levels = dict.fromkeys((alike.value, alike.low, alike.high))
    drawn = {level: like_all_members(labels, columns, weights, recipes, level) for level in levels}
    samples = [Sample(labels, values, groups, kept) for values in drawn.values()]
    return Basis(**about, approximate=True, samples=samples, alike=alike)


def _normal_scores(labels: np.ndarray, scores: pd.DataFrame, recipes: dict[str, str]) -> np.ndarray:
    """Each score's place among its class and recipe, as a standard normal quantile; nan stays nan."""
    from scipy import stats

    found = np.full(scores.shape, np.nan)
    for columns in _places(list(scores.columns), recipes):
        for kind in (0, 1):
            part = scores.to_numpy(dtype=float)[np.ix_(labels == kind, columns)]
            there = np.isfinite(part)
            normal = np.full(part.shape, np.nan)
            normal[there] = stats.norm.ppf((stats.rankdata(part[there]) - 0.5) / max(there.sum(), 1))
            found[np.ix_(labels == kind, columns)] = normal
    return found


def _places(members: list[str], recipes: dict[str, str]) -> list[list[int]]:
    """For each recipe the places of its members."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(members):
        found.setdefault(recipes[name], []).append(place)
    return list(found.values())


def like_all_members(
    labels: np.ndarray,
    scores: pd.DataFrame,
    weights: dict[str, float],
    recipes: dict[str, str],
    alike: float,
    draws: int = 0,
) -> np.ndarray:
    """Blended scores (videos x draws) as all members would give them, from those of a few of them.

    The absent members' scores are drawn from the scores of their recipe on other videos of the same
    class (of all members where it has fewer than 5 there), by a Gaussian copula in which any two
    members have the correlation ``alike``, given the present members' scores. Then all are blended.
    Seeded. labels: one per row of ``scores`` (a column per member, each row with one score at least); weights and
    recipes: by member.
    """
    from scipy import stats

    videos, members = scores.shape
    draws = draws or int(np.clip(_DRAWN_SCORES // max(videos, 1), 8, 100))
    rng, normal = np.random.default_rng(_SEED), _normal_scores(labels, scores, recipes)
    known = np.isfinite(normal)
    present = known.sum(axis=1)[:, None]
    # Equal correlations: the absent ones share what is left of the common part, and have one of their own.
    share = alike / (1 + (present - 1) * alike)
    common = (share * np.where(known, normal, 0).sum(axis=1, keepdims=True))[:, :, None]
    left = np.sqrt(np.maximum(alike * (1 - present * share), 0))[:, :, None] * rng.normal(size=(videos, 1, draws))
    drawn = common + left + np.sqrt(1 - alike) * rng.normal(size=(videos, members, draws))
    chances = stats.norm.cdf(drawn)
    values = scores.to_numpy(dtype=float)
    for columns in _places(list(scores.columns), recipes):
        for kind in (0, 1):
            rows = labels == kind
            margin = values[np.ix_(rows, columns)]
            margin = margin[np.isfinite(margin)]
            margin = margin if margin.size >= 5 else values[rows][np.isfinite(values[rows])]
            if margin.size:
                chances[np.ix_(rows, columns)] = _quantiles(margin, chances[np.ix_(rows, columns)])
    chances = np.where(known[:, :, None], values[:, :, None], chances)
    flat = pd.DataFrame(np.moveaxis(chances, 1, 2).reshape(-1, members), columns=scores.columns)
    return blend(flat, weights).to_numpy().reshape(videos, draws)


def _quantiles(margin: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Quantiles of scores, interpolated between their log-odds; beyond the outermost there is nothing."""
    margin = np.sort(logit(margin))
    places = (np.arange(margin.size) + 0.5) / margin.size
    return sigmoid(np.interp(chances, places, margin))
