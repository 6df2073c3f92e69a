"""The candidates of an adaptation: what each changes, how it is fitted on some clips, what it says of others.

    fitted = fit_candidate("probe", start, seen, rows, plan)        networks; the last three candidates have new ones
    logits = score_candidate(fitted, seen, rows)                    calibrated log-odds, clips x members x 2
    shift = fit_shift("probe", logits, fitted.weights, labels, plan)    slope and offset of a camera, shrunk
    scores = blend_shifted("probe", logits, fitted.weights, shift)      probabilities, clips x 2

``fit_shift`` is to see log-odds of clips that the networks were not fitted on. All functions of what they are given.
"""

from dataclasses import dataclass, replace

import numpy as np

from liveness.adaptation.clips import SeenClips
from liveness.adaptation.learning import fine_tune, fit_at_home, fit_classifier, score_clips
from liveness.adaptation.start import Network, StartEnsemble
from liveness.base.experiments import AdaptPlan
from liveness.evaluation.combine import blend_rows, logit, sigmoid

DAY_ONE, THRESHOLDS, CALIBRATION = "day_one", "thresholds", "calibration"
PROBE, FINE_TUNING, HOME = "probe", "fine_tuning", "home_blend"
# From the one that changes least to the one that changes most, with what a reader is told of it.
CANDIDATES = {
    DAY_ONE: "nothing: the ensemble as it is",
    THRESHOLDS: "the threshold alone",
    CALIBRATION: "the calibration: slope and offset",
    PROBE: "the networks' classifiers, and the calibration",
    FINE_TUNING: "the networks' last stage, and the calibration",
    HOME: "a member more, which has learnt at home, and the calibration",
}
OF_SCORES = (DAY_ONE, THRESHOLDS, CALIBRATION)  # what one person's clips allow: no network changes
HOME_SUFFIX = "_home"


@dataclass
class Fitted:
    """A candidate's networks with their weights in the blend, which need no sum."""

    kind: str
    networks: list[Network]
    weights: dict[str, float]
    seen_by: dict[str, str]  # network -> whose ``Seen`` it looks at


@dataclass(frozen=True)
class Shift:
    """A camera's own slope and offset on calibrated log-odds."""

    slope: float = 1.0
    offset: float = 0.0


def fit_candidate(kind: str, start: StartEnsemble, seen: SeenClips, rows: np.ndarray, plan: AdaptPlan) -> Fitted:
    """A candidate's networks, fitted on the clips ``rows``; the start's own where these are of one class."""
    same = Fitted(kind, start.networks, start.weights, {network.name: network.name for network in start.networks})
    if kind in OF_SCORES or len(set(seen.labels[rows])) < 2:
        return same
    if kind == HOME:
        return _add_home_member(same, start, seen, rows, plan)
    fit = fit_classifier if kind == PROBE else fine_tune
    same.networks = [
        fit(network, seen.of[network.name], seen.labels, rows, plan) if network.learns else network
        for network in start.networks
    ]
    return same


def _add_home_member(same: Fitted, start: StartEnsemble, seen: SeenClips, rows: np.ndarray, plan: AdaptPlan) -> Fitted:
    """The start's networks, and the heaviest of them with a classifier that these clips alone have made."""
    base = max((network for network in start.networks if network.learns), key=lambda one: one.member.weight)
    made, offset = fit_at_home(base, seen.of[base.name], seen.labels, rows, plan)
    made.slope, made.offset = 1.0, offset
    name = f"{base.name}{HOME_SUFFIX}"
    weight = sum(same.weights.values()) * plan.home_share / (1 - plan.home_share)
    made.member = replace(made.member, name=name, weight=weight)
    return Fitted(HOME, [*same.networks, made], {**same.weights, name: weight}, {**same.seen_by, name: base.name})


def score_candidate(fitted: Fitted, seen: SeenClips, rows: np.ndarray) -> np.ndarray:
    """Calibrated log-odds of the clips ``rows``: clips x networks x 2 (as they are, relit)."""
    parts = [score_clips(network, seen.of[fitted.seen_by[network.name]], rows) for network in fitted.networks]
    return np.stack(parts, axis=1)


def fit_shift(kind: str, logits: np.ndarray, weights: dict[str, float], labels: np.ndarray, plan: AdaptPlan) -> Shift:
    """A camera's slope and offset by the clips as they are, shrunk to 1 and 0.

    The least of: log loss, the classes alike, times twice the number of clips of the rarer class, plus what a normal
    prior of the plan's spreads says of the offset and of the slope's logarithm. ``thresholds`` has no slope: its offset
    moves the blend, and so stands for a threshold that moves the other way.
    """
    from scipy.optimize import minimize

    live = labels == 1
    sizes = np.array([(~live).sum(), live.sum()])
    if kind == DAY_ONE or not sizes.all():
        return Shift()
    share, count = 0.5 / sizes[live.astype(int)], 2 * int(sizes.min())
    with_slope = kind != THRESHOLDS

    def loss(values: np.ndarray) -> float:
        shift = Shift(float(np.exp(values[1])) if with_slope else 1.0, float(values[0]))
        scores = blend_shifted(kind, logits[:, :, :1], weights, shift)[:, 0]
        fit = share @ -np.log(np.clip(np.where(live, scores, 1 - scores), 1e-12, 1))
        prior = (values[0] / plan.offset_spread) ** 2 + (values[1] / plan.slope_spread) ** 2 * with_slope
        return count * fit + prior / 2

    bounds = [(-30.0, 30.0), (-3.0, 3.0) if with_slope else (0.0, 0.0)]
    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=bounds).x
    return Shift(float(np.exp(found[1])) if with_slope else 1.0, float(found[0]))


def blend_shifted(kind: str, logits: np.ndarray, weights: dict[str, float], shift: Shift) -> np.ndarray:
    """Probabilities of live, clips x 2, from calibrated log-odds (clips x networks x 2) as prediction blends them."""
    shares = np.array(list(weights.values()))
    if kind == THRESHOLDS:
        plain = np.stack([blend_rows(sigmoid(logits[:, :, k]), shares) for k in range(logits.shape[2])], axis=1)
        return sigmoid(logit(plain) + shift.offset)
    moved = sigmoid(shift.slope * logits + shift.offset)
    return np.stack([blend_rows(moved[:, :, k], shares) for k in range(logits.shape[2])], axis=1)
