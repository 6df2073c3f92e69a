"""Error measures of a liveness score: pure functions on arrays.

Everywhere: ``labels`` is an array of 0 (attack) and 1 (live), ``scores`` an array of finite
numbers of the same length, higher meaning more live, and a video is taken for live when
``score >= threshold``. FPR is the share of attacks taken for live, FNR the share of live videos
taken for attacks. A measure that needs both classes is nan when one is absent (or both), so that
a report over small folds goes on; malformed input is a ValueError. See docs/metrics.md.
"""

from dataclasses import dataclass

import numpy as np

POOLED = "pooled, species unknown"


@dataclass(frozen=True)
class EER:
    """Equal error rate and the threshold that realises it."""

    value: float
    threshold: float


@dataclass(frozen=True)
class ErrorCurve:
    """Every distinct operating point, from "nothing is live" (+inf) to "everything is live"."""

    thresholds: np.ndarray  # descending, the first is +inf, then each distinct score
    fpr: np.ndarray  # share of attacks with score >= threshold (APCER when pooled)
    fnr: np.ndarray  # share of live videos with score < threshold (BPCER)


@dataclass(frozen=True)
class Rate:
    """errors out of total; value is nan when total is 0."""

    errors: int
    total: int

    @property
    def value(self) -> float:
        return self.errors / self.total if self.total else float("nan")


@dataclass(frozen=True)
class Apcer:
    """Attack presentation classification error rate, per species and at its worst."""

    worst: str  # the species with the highest rate; POOLED when no species are known
    maximum: Rate
    species: dict[str, Rate]


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold chosen for a target, and what it does on the data it was chosen on."""

    threshold: float
    apcer: float  # of the worst species
    bpcer: float


def check_scores(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """labels as bool, scores as float64; ValueError for anything that is not as described above."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}: expected two lists of one length")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels other than 0 (attack) and 1 (live)")
    if not np.isfinite(scores).all():
        raise ValueError("scores that are not finite; leave videos without a score out, see non_response")
    return labels.astype(bool), scores


def trace_error_curve(labels, scores) -> ErrorCurve:
    """Every operating point, none left out (scikit-learn's ``drop_intermediate=False``)."""
    labels, scores = check_scores(labels, scores)
    distinct, live, attack = _counts(labels, scores)
    with np.errstate(invalid="ignore"):
        fpr = np.concatenate(([0], np.cumsum(attack))) / np.float64(attack.sum())
        fnr = 1 - np.concatenate(([0], np.cumsum(live))) / np.float64(live.sum())
    return ErrorCurve(np.concatenate(([np.inf], distinct)), fpr, fnr)


def _counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores in descending order, and how many live and attack videos have each."""
    distinct, index = np.unique(-scores, return_inverse=True)
    live = np.bincount(index[labels], minlength=distinct.size)
    attack = np.bincount(index[~labels], minlength=distinct.size)
    return -distinct, live, attack


def eer(labels, scores) -> EER:
    """Equal error rate: the mean of FPR and FNR where they are closest over all thresholds.

    All thresholds are tried, "nothing is live" included. Of two equally close points the one with
    the smaller mean counts; of two equal ones the higher threshold (fewer attacks pass). Closeness
    is compared in whole numbers, so rounding never decides. Every threshold between two
    neighbouring scores acts alike on the data; the returned one lies midway. Constant scores give
    0.5. One class or none: EER(nan, nan).
    """
    labels, scores = check_scores(labels, scores)
    if labels.all() or not labels.any():
        return EER(float("nan"), float("nan"))
    distinct, live, attack = _counts(labels, scores)
    value, index = eer_of_counts(live[None], attack[None])
    return EER(float(value[0]), midway(distinct, int(index[0])))


def eer_of_counts(live: np.ndarray, attack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The EER of many weighted sets at once: the one place where it is defined.

    live, attack: integer arrays (sets x distinct scores, descending): how often each score
    occurs. Returns (value, index) per set: index i means that the i highest distinct scores are
    taken for live. nan where a class is absent.
    """
    n_live, n_attack = live.sum(axis=1, keepdims=True), attack.sum(axis=1, keepdims=True)
    zero = np.zeros((live.shape[0], 1), dtype=np.int64)
    missed = n_live - np.concatenate((zero, np.cumsum(live, axis=1, dtype=np.int64)), axis=1)
    passed = np.concatenate((zero, np.cumsum(attack, axis=1, dtype=np.int64)), axis=1)
    # FPR and FNR over their common denominator n_live * n_attack.
    fpr, fnr = passed * n_live, missed * n_attack
    distance = np.abs(fpr - fnr)
    closest = distance == distance.min(axis=1, keepdims=True)
    total = np.where(closest, fpr + fnr, np.iinfo(np.int64).max)
    index = total.argmin(axis=1)
    both = np.take_along_axis(fpr + fnr, index[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore"):
        value = both / np.float64(2) / (n_live * n_attack)[:, 0]
    return value, index


def midway(distinct: np.ndarray, index: int) -> float:
    """A finite threshold that takes exactly the ``index`` highest of the descending scores for live."""
    if index == 0:
        return float(np.nextafter(distinct[0], np.inf))
    upper = float(distinct[index - 1])
    if index == distinct.size:
        return upper
    lower = float(distinct[index])
    middle = lower + (upper - lower) / 2
    return middle if middle > lower else upper


def auc(labels, scores) -> float:
    """Area under the ROC curve: the chance that a live video scores above an attack, ties half."""
    labels, scores = check_scores(labels, scores)
    _, live, attack = _counts(labels, scores)
    return float(auc_of_counts(live[None], attack[None])[0])


def auc_of_counts(live: np.ndarray, attack: np.ndarray) -> np.ndarray:
    """The AUC of many weighted sets; arguments as in ``eer_of_counts``; nan where a class is absent."""
    above = np.cumsum(live, axis=1, dtype=np.float64) - live / 2
    with np.errstate(invalid="ignore"):
        return (above * attack).sum(axis=1) / (live.sum(axis=1) * attack.sum(axis=1, dtype=np.float64))


def log_losses(labels, scores) -> np.ndarray:
    """-log of the probability given to the true class, per video (natural logarithm).

    Scores must be probabilities; they are clipped by 2.2e-16 (as scikit-learn does) so that a
    certain error costs 36, not infinity.
    """
    labels, scores = _check_probabilities(labels, scores)
    eps = np.finfo(np.float64).eps
    return -np.log(np.clip(np.where(labels, scores, 1 - scores), eps, 1 - eps))


def log_loss(labels, scores) -> float:
    """Mean of ``log_losses``; defined for one class, nan for no video."""
    return _mean(log_losses(labels, scores))


def brier(labels, scores) -> float:
    """Mean squared distance of the score from the label; nan for no video."""
    labels, scores = _check_probabilities(labels, scores)
    return _mean((scores - labels) ** 2)


def calibration_error(labels, scores, bins: int = 15) -> float:
    """Expected calibration error: |share of live - mean score| per bin, weighted by the bin's size.

    Bins are of equal width over [0, 1], closed on the right (Guo et al. 2017, for the score of
    the live class). nan for no video. It depends on the number of bins and grows on small sets.
    """
    labels, scores = _check_probabilities(labels, scores)
    if scores.size == 0:
        return float("nan")
    index = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=labels - scores, minlength=bins)
    return float(np.abs(gaps).sum() / scores.size)


def _check_probabilities(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = check_scores(labels, scores)
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        raise ValueError("scores outside [0, 1]; expected probabilities of live")
    return labels, scores


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def bpcer(labels, scores, threshold: float) -> Rate:
    """Bona fide presentation classification error rate: live videos taken for attacks."""
    labels, scores = check_scores(labels, scores)
    return Rate(int((scores[labels] < threshold).sum()), int(labels.sum()))


def apcer(labels, scores, threshold: float, species=None) -> Apcer:
    """Attack presentation classification error rate at a threshold (ISO/IEC 30107-3).

    species: one name per video (those of live videos are not read), or None. Attacks without a
    name ("") form the species ``unknown`` when others have one; when none has, all are one pool
    named ``pooled, species unknown``. The headline is the species with the highest rate (of equal
    ones the first by name). Videos without a response are not in here, see ``non_response``.
    """
    labels, scores = check_scores(labels, scores)
    passed = scores >= threshold
    rates = {name: Rate(int(passed[rows].sum()), int(rows.sum())) for name, rows in species_rows(labels, species)}
    if not rates:
        return Apcer(POOLED, Rate(0, 0), {})
    worst = max(sorted(rates), key=lambda name: rates[name].value)
    return Apcer(worst, rates[worst], rates)


def species_rows(labels: np.ndarray, species) -> list[tuple[str, np.ndarray]]:
    """(name, mask of its attacks) per species, by name; one pool when no species is named."""
    attack = ~np.asarray(labels, dtype=bool)
    if not attack.any():
        return []
    if species is None:
        return [(POOLED, attack)]
    named = np.array(["" if s is None or s != s else str(s) for s in species], dtype=object)
    if named.shape != attack.shape:
        raise ValueError(f"{named.size} species for {attack.size} videos")
    present = sorted(set(named[attack]))
    if present == [""]:
        return [(POOLED, attack)]
    return [(name or "unknown", attack & (named == name)) for name in present]


def non_response(labels, scores) -> tuple[Rate, Rate]:
    """(APNRR, BPNRR): the shares of attacks and of live videos that got no score (nan)."""
    labels = np.asarray(labels).astype(bool)
    silent = ~np.isfinite(np.asarray(scores, dtype=np.float64))
    return (
        Rate(int((silent & ~labels).sum()), int((~labels).sum())),
        Rate(int((silent & labels).sum()), int(labels.sum())),
    )


def hter(labels, scores, threshold: float) -> float:
    """Half total error rate at a given threshold: (FPR + FNR) / 2, attacks pooled."""
    return (apcer(labels, scores, threshold).maximum.value + bpcer(labels, scores, threshold).value) / 2


def acer(labels, scores, threshold: float, species=None) -> float:
    """(maximal APCER + BPCER) / 2. A convention of the literature; the ISO standard has no such figure."""
    worst = apcer(labels, scores, threshold, species).maximum.value
    return (worst + bpcer(labels, scores, threshold).value) / 2


def tpr_at_fpr(labels, scores, target: float) -> float:
    """The largest share of live videos accepted by a threshold whose FPR is at most ``target``.

    No interpolation: a threshold that does it exists. nan when a class is absent.
    """
    labels, scores = check_scores(labels, scores)
    if labels.all() or not labels.any():
        return float("nan")
    curve = trace_error_curve(labels, scores)
    return float(1 - curve.fnr[curve.fpr <= target].min())


def at_apcer(labels, scores, target: float, species=None) -> OperatingPoint:
    """The lowest threshold at which no species' APCER exceeds ``target``.

    Its ``bpcer`` is BPCER20 for target 0.05, BPCER10 for 0.1, BPCER100 for 0.01. "Nothing is live"
    always reaches the target. nan when a class is absent.
    """
    labels, scores = check_scores(labels, scores)
    if labels.all() or not labels.any():
        return OperatingPoint(float("nan"), float("nan"), float("nan"))
    distinct, _, _ = _counts(labels, scores)
    order = np.searchsorted(-distinct, -scores)
    worst = np.zeros(distinct.size + 1)
    for _, rows in species_rows(labels, species):
        passed = np.cumsum(np.bincount(order[rows], minlength=distinct.size))
        worst = np.maximum(worst, np.concatenate(([0], passed)) / rows.sum())
    return _operating_point(labels, scores, midway(distinct, int((worst <= target).sum()) - 1), species)


def at_bpcer(labels, scores, target: float, species=None) -> OperatingPoint:
    """The highest threshold at which BPCER does not exceed ``target``; nan when a class is absent."""
    labels, scores = check_scores(labels, scores)
    if labels.all() or not labels.any():
        return OperatingPoint(float("nan"), float("nan"), float("nan"))
    distinct, live, _ = _counts(labels, scores)
    missed = live.sum() - np.concatenate(([0], np.cumsum(live)))
    index = int(np.argmax(missed / live.sum() <= target))
    return _operating_point(labels, scores, midway(distinct, index), species)


def _operating_point(labels, scores, threshold: float, species) -> OperatingPoint:
    worst = apcer(labels, scores, threshold, species).maximum.value
    return OperatingPoint(threshold, worst, bpcer(labels, scores, threshold).value)
