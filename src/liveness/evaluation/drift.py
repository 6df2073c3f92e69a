"""How far the scores of a population lie from those that an ensemble was measured on."""

from collections.abc import Sequence

import numpy as np

BINS = 10
# Rules of thumb for the index (Siddiqi 2006, as below), not tests of significance.
STABLE, SHIFTED = 0.1, 0.25


def quantile_edges(scores: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The inner edges of bins that hold equal shares of the scores (N,), ascending; fewer where scores are equal."""
    return np.unique(np.quantile(np.asarray(scores, float), np.arange(1, bins) / bins))


def count_in_bins(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many scores lie in each of the len(edges) + 1 bins; a score on an edge belongs to the bin above."""
    return np.bincount(np.searchsorted(edges, np.asarray(scores, float), side="right"), minlength=len(edges) + 1)


def population_stability(expected: Sequence[int] | np.ndarray, actual: Sequence[int] | np.ndarray) -> float:
    """The population stability index of two histograms over the same bins: the sum of (a - e) ln(a / e), with e and a
    the shares of a bin among the expected and the actual counts.

    0 for equal shares; below 0.1 is usually taken for stable, above 0.25 for shifted (N. Siddiqi, Credit Risk
    Scorecards, Wiley 2006, chapter "Scorecard Implementation"). It is the symmetric divergence of S. Kullback and R. A.
    Leibler (On Information and Sufficiency, Annals of Mathematical Statistics 22, 1951). Half a count is added to
    every bin, since a bin that one side leaves empty would make it infinite. nan where one side has no counts at all.
    """
    counts = [np.asarray(side, float) for side in (expected, actual)]
    if not all(side.sum() > 0 for side in counts):
        return float("nan")
    e, a = ((side + 0.5) / (side + 0.5).sum() for side in counts)
    return float(np.sum((a - e) * np.log(a / e)))
