"""Error measures: hand-worked cases, and scikit-learn and torchmetrics on random score sets."""

import math
import os
import time

import numpy as np
import pytest
from sklearn import metrics as sk

from liveness.base.files import CODE
from liveness.evaluation import metrics

SEED = int(os.environ.get("LIVENESS_TEST_SEED", time.time_ns() % 2**32))


def random_sets(count):
    """Score sets of many sizes, balances and amounts of ties, each with both classes."""
    print(f"seed {SEED} (LIVENESS_TEST_SEED={SEED} repeats it)")
    rng = np.random.default_rng(SEED)
    for _ in range(count):
        size = int(rng.integers(2, 120))
        labels = rng.random(size) < rng.uniform(0.1, 0.9)
        labels[:2] = [True, False]
        scores = 1 / (1 + np.exp(-rng.normal(labels * rng.uniform(-0.5, 4), 1)))
        yield labels.astype(int), np.round(scores, int(rng.integers(1, 8)))


def eer_by_trying(labels, scores):
    """EER by its words: every threshold between, below and above the scores, one by one."""
    best = None
    for threshold in [*np.unique(scores), np.inf]:
        fpr = np.mean(scores[labels == 0] >= threshold)
        fnr = np.mean(scores[labels == 1] < threshold)
        key = (round(abs(fpr - fnr), 12), round(fpr + fnr, 12))
        best = key if best is None else min(best, key)
    return best[1] / 2


def test_libraries_agree_on_random_sets():
    for labels, scores in random_sets(200):
        fpr, tpr, thresholds = sk.roc_curve(labels, scores, drop_intermediate=False)
        curve = metrics.trace_error_curve(labels, scores)
        np.testing.assert_allclose(curve.fpr, fpr, atol=1e-12)
        np.testing.assert_allclose(1 - curve.fnr, tpr, atol=1e-12)
        np.testing.assert_array_equal(curve.thresholds, thresholds)
        assert metrics.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores))
        assert metrics.log_loss(labels, scores) == pytest.approx(sk.log_loss(labels, scores, labels=[0, 1]))
        assert metrics.brier(labels, scores) == pytest.approx(sk.brier_score_loss(labels, scores))
        equal = metrics.eer(labels, scores)
        assert equal.value == pytest.approx(eer_by_trying(labels, scores))
        assert metrics.hter(labels, scores, equal.threshold) == pytest.approx(equal.value)
        for target in (0, 0.05, 0.3):
            assert metrics.tpr_at_fpr(labels, scores, target) == pytest.approx(tpr[fpr <= target].max())


def test_torchmetrics_agrees_on_random_sets():
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

    for labels, scores in random_sets(30):
        target, preds = torch.tensor(labels), torch.tensor(scores)
        assert metrics.auc(labels, scores) == pytest.approx(float(binary_auroc(preds, target)), abs=1e-6)
        # Scores on a bin's edge belong to either bin by rounding; these do not lie on one.
        inner = np.round(scores * 100000) / 100000 + 3e-7
        inner = np.clip(inner, 1e-6, 1 - 1e-6)
        theirs = binary_calibration_error(torch.tensor(inner), target, n_bins=15, norm="l1")
        assert metrics.calibration_error(labels, inner) == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize(
    ("attacks", "lives", "value"),
    [
        ([0.1, 0.2], [0.8, 0.9], 0.0),
        ([0.8, 0.9], [0.1, 0.2], 1.0),
        ([0.1, 0.6], [0.4, 0.9], 0.5),
        ([0.1, 0.2, 0.3, 0.7], [0.4, 0.8, 0.9, 0.95], 0.25),  # one of four each
        ([0.5], [0.5], 0.5),  # constant: everything live or nothing live
        # 1 attack of 4 and 1 live of 2 fail above .5; both kinds of errors are 1/4 and 0 or 1/2 around it
        ([0.1, 0.2, 0.3, 0.6], [0.5, 0.9], 0.125),
    ],
)
def test_eer_by_hand(attacks, lives, value):
    labels, scores = [0] * len(attacks) + [1] * len(lives), attacks + lives
    assert metrics.eer(labels, scores).value == pytest.approx(value)
    # The threshold does what is said, and stands apart from the scores where there is room.
    equal = metrics.eer(labels, scores)
    assert math.isfinite(equal.threshold)
    assert metrics.hter(labels, scores, equal.threshold) == pytest.approx(value)


def test_eer_does_not_depend_on_order_scale_or_which_class_is_called_live():
    for labels, scores in random_sets(50):
        value = metrics.eer(labels, scores).value
        order = np.random.default_rng(SEED).permutation(len(labels))
        assert metrics.eer(labels[order], scores[order]).value == value
        assert metrics.eer(labels, scores * 3 - 7).value == value
        assert metrics.eer(1 - labels, -scores).value == pytest.approx(value)


def test_threshold_lies_in_the_middle_of_the_gap_and_never_rounds_onto_the_lower_score():
    assert metrics.eer([0, 1], [0.1, 0.9]).threshold == pytest.approx(0.5)
    lower, upper = 0.3, np.nextafter(0.3, 1)
    assert metrics.eer([0, 1], [lower, upper]).threshold == upper


@pytest.mark.parametrize("labels", [[], [1, 1, 1], [0, 0, 0]])
def test_one_class_is_nan_not_an_error(labels):
    scores = [0.2, 0.5, 0.9][: len(labels)]
    assert math.isnan(metrics.eer(labels, scores).value) and math.isnan(metrics.eer(labels, scores).threshold)
    assert math.isnan(metrics.auc(labels, scores))
    assert math.isnan(metrics.tpr_at_fpr(labels, scores, 0.1))
    assert math.isnan(metrics.at_apcer(labels, scores, 0.1).threshold)
    assert math.isnan(metrics.hter(labels, scores, 0.5))
    assert math.isnan(metrics.brier(labels, scores)) == (not labels)


@pytest.mark.parametrize(
    ("labels", "scores"), [([0, 1], [0.1]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, float("nan")]), ([[0, 1]], [[0, 1]])]
)
def test_malformed_input_is_refused(labels, scores):
    with pytest.raises(ValueError):
        metrics.eer(labels, scores)


def test_probabilities_are_required_where_they_matter():
    with pytest.raises(ValueError, match="probabilities"):
        metrics.log_loss([0, 1], [-2.0, 3.0])
    assert metrics.eer([0, 1], [-2.0, 3.0]).value == 0


def test_apcer_is_per_species_with_the_worst_as_headline():
    labels = [0, 0, 0, 0, 0, 1, 1]
    scores = [0.9, 0.1, 0.1, 0.8, 0.1, 0.9, 0.2]
    species = ["print", "print", "print", "replay", "replay", "", ""]
    found = metrics.apcer(labels, scores, 0.5, species)
    assert found.worst == "replay" and found.maximum == metrics.Rate(1, 2)
    assert found.species == {"print": metrics.Rate(1, 3), "replay": metrics.Rate(1, 2)}
    assert metrics.apcer(labels, scores, 0.5).worst == "pooled, species unknown"
    assert metrics.apcer(labels, scores, 0.5).maximum == metrics.Rate(2, 5)
    assert metrics.apcer(labels, scores, 0.5, [""] * 7).species == {"pooled, species unknown": metrics.Rate(2, 5)}
    assert metrics.bpcer(labels, scores, 0.5) == metrics.Rate(1, 2)
    assert metrics.acer(labels, scores, 0.5, species) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert metrics.hter(labels, scores, 0.5) == pytest.approx((2 / 5 + 1 / 2) / 2)


def test_non_responses_are_counted_per_class():
    nan = float("nan")
    attack, live = metrics.non_response([0, 0, 0, 1, 1], [nan, 0.2, 0.3, nan, nan])
    assert (attack.errors, attack.total, live.errors, live.total) == (1, 3, 2, 2)


def test_score_equal_to_the_threshold_is_live():
    assert metrics.apcer([0, 1], [0.5, 0.5], 0.5).maximum.value == 1
    assert metrics.bpcer([0, 1], [0.5, 0.5], 0.5).value == 0


def test_operating_points_meet_their_target_and_no_laxer_threshold_does():
    for labels, scores in random_sets(60):
        species = np.where(np.arange(len(labels)) % 3, "print", "replay")
        for target in (0.01, 0.05, 0.1, 0.5):
            point = metrics.at_apcer(labels, scores, target, species)
            assert metrics.apcer(labels, scores, point.threshold, species).maximum.value == point.apcer <= target
            lower = scores[scores < point.threshold]
            if lower.size:
                assert metrics.apcer(labels, scores, lower.max(), species).maximum.value > target
            point = metrics.at_bpcer(labels, scores, target)
            assert metrics.bpcer(labels, scores, point.threshold).value == point.bpcer <= target
            higher = scores[scores >= point.threshold]
            if higher.size:
                assert metrics.bpcer(labels, scores, np.nextafter(higher.min(), 2)).value > target


def eer_variants(labels, scores):
    """What public code calls EER, on one score set."""
    from scipy.optimize import brentq

    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    few_fpr, few_tpr, _ = sk.roc_curve(labels, scores)
    grid = np.linspace(0, 1, 101)[:, None]
    grid_fpr = (scores[labels == 0] >= grid).mean(axis=1)
    grid_fnr = (scores[labels == 1] < grid).mean(axis=1)
    closest = np.argmin(np.abs(fpr - (1 - tpr)))
    few = np.argmin(np.abs(few_fpr - (1 - few_tpr)))
    coarse = np.argmin(np.abs(grid_fpr - grid_fnr))
    return {
        "FPR at the closest point": fpr[closest],
        "FNR at the closest point": 1 - tpr[closest],
        "smaller of the two there": min(fpr[closest], 1 - tpr[closest]),
        "larger of the two there": max(fpr[closest], 1 - tpr[closest]),
        "crossing of the interpolated ROC": brentq(lambda x: 1 - x - np.interp(x, fpr, tpr), 0, 1),
        "crossing of the ROC's convex hull": hull_eer(fpr, tpr),
        "mean, scikit-learn's default points": (few_fpr[few] + 1 - few_tpr[few]) / 2,
        "mean, 101 fixed thresholds": (grid_fpr[coarse] + grid_fnr[coarse]) / 2,
        "least HTER over all thresholds": ((fpr + 1 - tpr) / 2).min(),
    }


def hull_eer(fpr, tpr):
    """Where the upper convex hull of the ROC meets FPR = FNR."""
    hull = []
    for point in zip(fpr, tpr, strict=True):
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (x1 - x0) * (point[1] - y0) - (y1 - y0) * (point[0] - x0) < 0:
                break
            hull.pop()
        hull.append(point)
    x, y = np.array(hull).T
    # FPR + TPR grows along the hull; at 1 the two error rates are equal.
    return np.interp(1, x + y, x)


def variants_table(sets=300):
    """Rows of the table in docs/metrics.md: a variant's mean and largest difference from ours, in points."""
    lines = {}
    for videos in (60, 420):
        rng, found = np.random.default_rng(videos), []
        for _ in range(sets):
            labels = (rng.random(videos) < 0.45).astype(int)
            scores = 1 / (1 + np.exp(-2 * rng.normal((labels - 0.5) * 3, 1)))
            ours = metrics.eer(labels, scores).value
            found.append({name: 100 * (value - ours) for name, value in eer_variants(labels, scores).items()})
        for name in found[0]:
            values = np.array([row[name] for row in found])
            largest = f"{np.abs(values).max():.1f}"
            lines.setdefault(name, []).extend([f"{values.mean() + 0.0:+.2f}".replace("-0.00", "+0.00"), largest])
    return [f"| {name} | {' | '.join(cells)} |" for name, cells in lines.items()]


def test_documented_differences_between_variants_of_eer_are_the_measured_ones():
    documented = (CODE / "docs" / "metrics.md").read_text(encoding="utf-8")
    for row in variants_table():
        assert row in documented, row
