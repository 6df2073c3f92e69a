"""APCER, BPCER and other rates with their intervals, as plain dictionaries for report.json."""

import math

import numpy as np

from liveness.evaluation import intervals, metrics
from liveness.evaluation.thresholds import rate_interval


def rate(value: metrics.Rate, limits: tuple[float, float] | None = None) -> dict:
    """A rate with its counts and its interval: Clopper-Pearson, or the ``limits`` that are given."""
    return {
        "value": value.value,
        "errors": value.errors,
        "total": value.total,
        "interval": list(limits or intervals.clopper_pearson(value.errors, value.total)),
    }


def error_rates(labels, scores, threshold: float, species=None, groups=None) -> dict:
    """APCER (worst species and each), BPCER and ACER at a threshold; empty rates when it is nan.

    groups: one per row. Where they hold several videos the intervals are by group, as those of the EER
    (``thresholds.rate_interval``); ``by`` says which they are.
    """
    by = "video" if groups is None or len(set(groups)) == len(groups) else "group"
    if math.isnan(threshold):
        nothing = rate(metrics.Rate(0, 0))
        return {"apcer": nothing, "apcer_species": {}, "worst": "", "bpcer": nothing, "acer": float("nan"), "by": by}
    passed = np.asarray(scores, dtype=float) >= threshold
    live = np.asarray(labels).astype(bool)

    def by_group(wrong: np.ndarray, rows: np.ndarray) -> tuple[float, float] | None:
        return rate_interval(wrong[rows], np.asarray(groups)[rows]) if by == "group" and len(rows) else None

    attack = metrics.apcer(labels, scores, threshold, species)
    kinds = dict(metrics.species_rows(labels, species)) if attack.species else {}
    rates = {name: rate(value, by_group(passed, kinds[name])) for name, value in attack.species.items()}
    return {
        "apcer": rates.get(attack.worst, rate(attack.maximum)),
        "worst": attack.worst,
        "apcer_species": rates,
        "bpcer": rate(metrics.bpcer(labels, scores, threshold), by_group(~passed, np.flatnonzero(live))),
        "acer": metrics.acer(labels, scores, threshold, species),
        "by": by,
    }
