"""One scale for the scores of different members: calibration on the videos that a member held out.

    fitted = fit_calibration("platt", scores, labels)
    fitted.apply(other_scores)
    read_calibration(fitted.to_dict()) == fitted

Every method is monotone, so a member never ranks two videos the other way round afterwards, and
none gives 0, 1 or an infinity, however well a fold is told apart. Scores are probabilities of
live; nan means "no score" and stays nan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from liveness.base.errors import UserError
from liveness.evaluation.combine import HOLDOUT, logit, sigmoid
from liveness.evaluation.metrics import log_loss

if TYPE_CHECKING:
    import pandas as pd

CALIBRATIONS = ("none", "temperature", "platt", "isotonic")
_LEAST = 5  # videos of each class that a fit needs; with fewer the scores stay as they are
_INNER = 5  # parts of a held-out fold for cross-fitting
_SEED = 20221


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration. ``note``: why it is none, or empty."""

    how: str
    slope: float = 1.0  # temperature (its inverse), platt: factor of the log-odds
    offset: float = 0.0  # platt: added to the log-odds
    knots: tuple[tuple[float, float], ...] = ()  # isotonic: (score, probability), straight lines between
    note: str = ""

    def apply(self, scores) -> np.ndarray:
        """Calibrated scores of the same shape, float64; nan stays nan, ``none`` changes nothing."""
        scores = np.asarray(scores, dtype=np.float64)
        if self.how == "none":
            return scores.copy()
        if self.how == "isotonic":
            x, y = np.array(self.knots).T
            return np.where(np.isnan(scores), np.nan, np.interp(scores, x, y))
        return sigmoid(self.slope * logit(scores) + self.offset)

    def to_dict(self) -> dict:
        """Plain numbers for JSON, without what this method does not use."""
        found: dict[str, str | float | list[list[float]]] = {"how": self.how}
        if self.how in ("temperature", "platt"):
            found["slope"] = self.slope
        if self.how == "platt":
            found["offset"] = self.offset
        if self.how == "isotonic":
            found["knots"] = [list(knot) for knot in self.knots]
        return found | ({"note": self.note} if self.note else {})


def read_calibration(values: dict, where: str = "calibration") -> Calibration:
    """The calibration of ``to_dict``; a UserError where the values are none."""
    try:
        how = values["how"]
        knots = tuple((float(x), float(y)) for x, y in values.get("knots", ()))
        found = Calibration(
            str(how), float(values.get("slope", 1)), float(values.get("offset", 0)), knots, str(values.get("note", ""))
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: not a calibration ({type(error).__name__}: {error})") from error
    steps = np.diff(np.array(knots, dtype=np.float64).reshape(-1, 2), axis=0)
    sound = found.how in CALIBRATIONS and np.isfinite([found.slope, found.offset]).all() and found.slope >= 0
    if not sound or (found.how == "isotonic" and not (knots and np.isfinite(knots).all() and (steps >= 0).all())):
        raise UserError(f"{where}: not a calibration of the kinds {', '.join(CALIBRATIONS)} with finite, rising values")
    return found


def fit_calibration(how: str, scores, labels, prior: float | None = None, least: int = _LEAST) -> Calibration:
    """Learn a calibration from scores (nan: left out) and their labels (1 live, 0 attack).

    ``platt``: probability = sigmoid(slope * log-odds + offset) of least log loss against the
    targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) instead of 1 and 0 (Platt 1999; with a prior see
    ``_targets``), which keeps it finite on separable classes. ``temperature``: the same without
    the offset. ``isotonic``: the monotone function of least squared error (scikit-learn's
    IsotonicRegression on the score), kept between those two targets. A slope below 0 would turn
    the order round and becomes 0.

    prior: the share of live videos that the probabilities are to refer to (the classes are weighed
    so); None takes that of the labels. Folds differ in it, and a score that told a fold's share of
    live videos would look better out of fold than it is. With fewer than ``least`` videos of a
    class the result is ``none`` with a note. ValueError for any other ``how``.
    """
    if how not in CALIBRATIONS:
        raise ValueError(f"cannot calibrate by {how!r}; expected one of {', '.join(CALIBRATIONS)}")
    if how == "none":
        return Calibration("none")
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    labels, scores = labels[np.isfinite(scores)], scores[np.isfinite(scores)]
    live, attack = int(labels.sum()), int((~labels).sum())
    if min(live, attack) < max(least, 1):
        return Calibration("none", note=f"{live} live and {attack} attack videos: too few to calibrate on")
    share = live / labels.size if prior is None else prior
    weights = np.where(labels, share / live, (1 - share) / attack)
    low, high = _targets(live, attack, None if prior is None else share, weights)
    if how == "isotonic":
        return _fit_isotonic(scores, labels, weights, (low, high))
    slope, offset = _fit_line(logit(scores), np.where(labels, high, low), weights, how == "platt")
    if slope == 0 and how == "platt" and prior is not None:
        offset = float(logit(np.array(prior)))  # to the last digit: nothing of the fold is left to tell
    return Calibration(how, slope, offset)


def fit_platt(scores, labels, weights) -> Calibration:
    """Platt's calibration where every video has a weight of its own (weights of sum 1), both classes there."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    low, high = _targets(int(labels.sum()), int((~labels).sum()), None, np.asarray(weights))
    return Calibration("platt", *_fit_line(logit(scores), np.where(labels, high, low), np.asarray(weights), True))


def _targets(live: int, attack: int, prior: float | None, weights: np.ndarray) -> tuple[float, float]:
    """What attacks and live videos are fitted to, instead of 0 and 1.

    Platt's; with a prior the same for the effective number of videos, moved so that the weighted mean is
    the prior, whatever the fold's share of live videos (for a prior of a half they are Platt's again).
    """
    if prior is None:
        return 1 / (attack + 2), (live + 1) / (live + 2)
    off = 2 / (weights.sum() ** 2 / (weights**2).sum() + 4)
    return 2 * off * prior, 1 - 2 * off * (1 - prior)


def _fit_line(x: np.ndarray, targets: np.ndarray, weights: np.ndarray, with_offset: bool) -> tuple[float, float]:
    """(slope >= 0, offset) of least weighted log loss; weights of sum 1; convex."""
    from scipy.optimize import minimize

    # Moved and scaled, so that slope and offset are of one size and hardly depend on each other.
    centre = float(x.mean()) if with_offset else 0.0
    scale = float(x.std()) if np.ptp(x) > 1e-9 else 1.0
    moved = np.where(np.abs(x - centre) > 1e-12, x - centre, 0.0)  # equal scores have no slope, rounding or not
    design = np.stack([moved / scale, np.ones_like(x)])[: 2 if with_offset else 1]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        line = values @ design
        return weights @ (np.logaddexp(0, line) - targets * line), design @ (weights * (sigmoid(line) - targets))

    bounds = [(0, None), (None, None)][: len(design)]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    found = minimize(loss, np.zeros(len(design)), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    slope = float(found.x[0]) / scale
    return slope, (float(found.x[1]) - slope * centre if with_offset else 0.0)


def _fit_isotonic(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, limits: tuple) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    found = IsotonicRegression(y_min=limits[0], y_max=limits[1], out_of_bounds="clip")
    found.fit(scores, labels.astype(np.float64), sample_weight=weights)
    values = np.round(found.y_thresholds_, 12)  # else rounding would order folds that all know nothing
    knots = zip(found.X_thresholds_.tolist(), values.tolist(), strict=True)
    return Calibration("isotonic", knots=tuple(knots))


@dataclass(frozen=True)
class CrossFitted:
    """One member's held-out fold: what ships, and scores from fits that did not see the video."""

    calibration: Calibration  # fitted on the whole fold
    scores: np.ndarray  # cross-fitted, nan where there was none
    parted: str  # "by group" | "by video" (where a fold has too few groups) | "not" (nothing was learned)


def cross_fit_calibration(how: str, scores, labels, groups, prior: float | None = None) -> CrossFitted:
    """Calibrate one member's held-out videos without letting a video's own label have a say.

    The videos are dealt into at most 5 parts by group; each part is calibrated by a fit on the
    others. Where that would leave too few videos of a class to learn from (a fold of one
    person, say), they are dealt by video. Arguments as in ``fit_calibration``, and a group per video.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(int)
    whole = fit_calibration(how, scores, labels, prior)
    if whole.how == "none":
        return CrossFitted(whole, scores.copy(), "not")
    there = np.flatnonzero(np.isfinite(scores))
    parts, parted = _parts(labels[there], np.asarray(groups)[there])
    found = np.full(scores.shape, np.nan)
    for part in sorted(set(parts)):
        rest, here = there[parts != part], there[parts == part]
        found[here] = fit_calibration(how, scores[rest], labels[rest], prior, 1).apply(scores[here])
    return CrossFitted(whole, found, parted)


def calibrate_members(
    how: str, scores: pd.DataFrame, table: pd.DataFrame, folds: dict[str, int]
) -> dict[str, CrossFitted]:
    """Every member's scores on the common scale: its own fold cross-fitted, the holdout by the fit on that whole fold.

    scores: a column per member, raw, rows as in ``table`` (label, group, fold; -1 is the holdout). folds:
    member -> the fold that it held out. All refer to one share of live videos, that of the folds together.
    """
    labels, groups, where = (table[column].to_numpy() for column in ("label", "group", "fold"))
    home = where != HOLDOUT
    prior = float(labels[home].mean()) if home.any() else None
    found = {}
    for name, fold in folds.items():
        values, mine = scores[name].to_numpy(dtype=np.float64), where == fold
        fitted = cross_fit_calibration(how, values[mine], labels[mine], groups[mine], prior)
        whole = np.where(home, np.nan, fitted.calibration.apply(values))
        whole[mine] = fitted.scores
        found[name] = CrossFitted(fitted.calibration, whole, fitted.parted)
    return found


def describe_harm(how: str, labels: np.ndarray, raw: np.ndarray, calibrated: np.ndarray) -> dict | None:
    """Why a calibration is not to be used, by the blend's log loss without and with it; None where it does no harm.

    labels, raw, calibrated: of the same videos, out of fold; ``calibrated`` cross-fitted.
    """
    if how == "none" or not labels.size:
        return None
    before, after = log_loss(labels, raw), log_loss(labels, calibrated)
    return {"how": how, "log_loss": after, "log_loss_without": before} if after > before else None


def _parts(labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, str]:
    """A part for each video, and how they were dealt. At least _LEAST videos of both classes are there."""
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    codes = np.unique(groups, return_inverse=True)[1]
    parts = np.empty(labels.size, dtype=int)
    count = min(_INNER, int(codes.max()) + 1)
    if count > 1:
        with warnings.catch_warnings():  # scikit-learn warns of classes with fewer videos than parts
            warnings.simplefilter("ignore", UserWarning)
            split = StratifiedGroupKFold(count, shuffle=True, random_state=_SEED)
            for part, (_, held_out) in enumerate(split.split(labels, labels, codes)):
                parts[held_out] = part
        rest = [np.bincount(labels[parts != part], minlength=2).min() for part in set(parts)]
        if len(rest) > 1 and min(rest) >= min(_LEAST, np.bincount(labels).min() // 2):
            return parts, "by group"
    split = StratifiedKFold(min(_INNER, int(np.bincount(labels).min())), shuffle=True, random_state=_SEED)
    for part, (_, held_out) in enumerate(split.split(labels, labels)):
        parts[held_out] = part
    return parts, "by video"
