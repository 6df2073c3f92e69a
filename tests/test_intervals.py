"""Intervals: exact values, libraries, and what must hold of any honest interval."""

import os

import numpy as np
import pytest
from scipy import stats

from liveness.evaluation import intervals, metrics


def scored(count, seed=3, separation=2.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return labels, 1 / (1 + np.exp(-rng.normal((labels - 0.5) * separation, 1)))


@pytest.mark.parametrize(("errors", "total"), [(0, 30), (1, 30), (25, 420), (30, 30), (7, 8)])
def test_clopper_pearson_is_scipys_exact_interval(errors, total):
    expected = stats.binomtest(errors, total).proportion_ci(0.95, method="exact")
    assert intervals.clopper_pearson(errors, total) == pytest.approx((expected.low, expected.high))


def test_clopper_pearson_by_hand_and_at_the_edges():
    assert intervals.clopper_pearson(25, 420) == pytest.approx((0.039, 0.087), abs=5e-4)
    assert intervals.clopper_pearson(0, 30)[1] == pytest.approx(1 - 0.025 ** (1 / 30))
    assert intervals.clopper_pearson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError):
        intervals.clopper_pearson(3, 2)


def test_clopper_pearson_covers_at_least_95_percent():
    for total in (5, 20, 60):
        for rate in (0.01, 0.05, 0.2, 0.5):
            limits = [intervals.clopper_pearson(k, total) for k in range(total + 1)]
            inside = [low <= rate <= high for low, high in limits]
            assert stats.binom.pmf(np.arange(total + 1), total, rate)[inside].sum() >= 0.95


def test_bootstrap_is_seeded_and_holds_the_figure():
    labels, scores = scored(200)
    for groups in (None, np.arange(200) // 5):
        first, again = intervals.bootstrap(labels, scores, groups), intervals.bootstrap(labels, scores, groups)
        assert first == again
        assert first["eer"].low < metrics.eer(labels, scores).value < first["eer"].high
        assert first["auc"].low < metrics.auc(labels, scores) < first["auc"].high
        assert first["log_loss"].low < metrics.log_loss(labels, scores) < first["log_loss"].high


def test_replicates_are_the_metrics_of_the_resampled_videos():
    labels, scores = scored(41)
    scores = np.round(scores, 1)
    chosen = labels.astype(bool)
    drawn = intervals.draw_counts(chosen, np.arange(41) // 4, 20, np.random.default_rng(0))
    live, attack = intervals.split_counts(drawn, chosen, scores)
    values, _ = metrics.eer_of_counts(live, attack)
    areas = metrics.auc_of_counts(live, attack)
    for row, value, area in zip(drawn, values, areas, strict=True):
        repeated = np.repeat(labels, row), np.repeat(scores, row)
        assert metrics.eer(*repeated).value == pytest.approx(value)
        assert metrics.auc(*repeated) == pytest.approx(area)


def test_videos_of_one_group_are_drawn_together():
    groups = np.array(["a", "b", "a", "c", "b", "c"])
    drawn = intervals.draw_counts(np.zeros(6, dtype=bool), groups, 50, np.random.default_rng(0))
    for name in "abc":
        assert (np.ptp(drawn[:, groups == name], axis=1) == 0).all()
    assert (drawn.sum(axis=1) == 6).all()


def test_groups_that_err_together_widen_the_interval():
    rng = np.random.default_rng(5)
    labels, groups = np.tile([0, 1], 150), np.arange(300) // 10
    scores = 1 / (1 + np.exp(-((labels - 0.5) * 2 + rng.normal(size=30)[groups])))
    by_video, by_group = intervals.bootstrap(labels, scores)["eer"], intervals.bootstrap(labels, scores, groups)["eer"]
    assert by_group.high - by_group.low > by_video.high - by_video.low


def test_no_error_seen_never_gives_a_certain_zero():
    labels, scores = [0] * 30 + [1] * 20, [0.1] * 30 + [0.9] * 20
    found = intervals.bootstrap(labels, scores)
    assert found["eer"].low == 0 and found["eer"].high == pytest.approx(intervals.clopper_pearson(0, 20)[1])
    assert found["auc"].high == 1 and found["auc"].low == pytest.approx(1 - intervals.clopper_pearson(0, 20)[1])
    groups = np.arange(50) % 5
    assert intervals.bootstrap(labels, scores, groups)["eer"].high == pytest.approx(intervals.clopper_pearson(0, 5)[1])
    # One error more must not make us surer than none.
    scores[0] = 0.95
    assert intervals.bootstrap(labels, scores)["eer"].high >= found["eer"].high


def test_one_class_has_no_interval():
    assert all(np.isnan(value.low) for value in intervals.bootstrap([1, 1], [0.2, 0.4]).values())


def test_one_group_says_nothing_about_others():
    labels, scores = scored(40)
    found = intervals.bootstrap(labels, scores, ["anna"] * 40)
    assert (found["eer"].low, found["eer"].high) == (found["auc"].low, found["auc"].high) == (0, 1)
    assert intervals.compare_eer(labels, scores, scores[::-1], ["anna"] * 40).verdict == "cannot be told apart"


def test_few_persons_are_told_in_plain_words():
    assert intervals.warn_of_few_groups(12) == "few persons: interval too narrow"
    assert intervals.warn_of_few_groups(20) == ""


def test_expanded_tail_is_the_normal_one_for_many_units():
    assert intervals.expanded_tail(10**6, 0.025) == pytest.approx(0.025, rel=1e-3)
    assert intervals.expanded_tail(12, 0.025) < 0.025 / 2


def two_systems(count=300, seed=11, second=2.5):
    """Labels and two systems whose errors go together; the second separates by ``second``."""
    rng = np.random.default_rng(seed)
    labels, shared = np.arange(count) % 2, rng.normal(size=count)
    return labels, *(
        1 / (1 + np.exp(-((labels - 0.5) * d + 0.8 * shared + 0.6 * rng.normal(size=count)))) for d in (2.5, second)
    )


def delong_by_pairs(labels, first, second):
    """DeLong et al. (1988) as written: structural components over all pairs, full covariance."""
    found = []
    for scores in (first, second):
        live, attack = scores[labels == 1], scores[labels == 0]
        pairs = (live[:, None] > attack[None]) + 0.5 * (live[:, None] == attack[None])
        found.append((pairs.mean(), pairs.mean(axis=1), pairs.mean(axis=0)))
    covariance = np.cov(found[0][1], found[1][1]) / (labels == 1).sum()
    covariance = covariance + np.cov(found[0][2], found[1][2]) / (labels == 0).sum()
    contrast = np.array([-1, 1])
    return found[1][0] - found[0][0], np.sqrt(contrast @ covariance @ contrast)


def test_delong_is_the_published_formula():
    labels, first, second = two_systems()
    for digits in (1, 8):
        expected = delong_by_pairs(labels, np.round(first, digits), np.round(second, digits))
        assert intervals.delong(labels, np.round(first, digits), np.round(second, digits)) == pytest.approx(expected)


def test_systems_that_no_video_told_apart_may_still_differ():
    labels = np.arange(56) % 2
    found = intervals.compare_eer(labels, 0.1 + 0.8 * labels, 0.2 + 0.6 * labels)
    assert found.verdict == "cannot be told apart" and found.difference == 0
    upper = stats.binomtest(0, 28).proportion_ci(0.95, "exact").high
    assert found.interval.as_list() == pytest.approx([-upper, upper])


def test_verdict_needs_evidence():
    labels, first, second = two_systems(second=4.5)
    for compare in (intervals.compare_eer, intervals.compare_auc):
        assert compare(labels, first, second).verdict == "better"
        assert compare(labels, second, first).verdict == "worse"
        same = compare(labels, first, first)
        assert same.verdict == "cannot be told apart" and same.videos_to_tell is None
        few = compare(labels[:30], first[:30], second[:30] * 0.5 + first[:30] * 0.5)
        assert few.verdict == "cannot be told apart"
        assert few.videos_to_tell is None or few.videos_to_tell > 30


def test_pairing_sees_what_separate_intervals_do_not():
    labels, first, second = two_systems(count=600, second=3.0)
    apart = intervals.bootstrap(labels, first)["eer"], intervals.bootstrap(labels, second)["eer"]
    assert apart[1].high > apart[0].low  # they overlap
    assert intervals.compare_eer(labels, first, second).verdict == "better"


def test_comparison_by_group_is_seeded_and_survives_one_class():
    labels, first, second = two_systems()
    groups = np.arange(300) // 10
    assert intervals.compare_eer(labels, first, second, groups) == intervals.compare_eer(labels, first, second, groups)
    assert intervals.compare_eer([1, 1], [0.2, 0.4], [0.3, 0.1]).verdict == "cannot be told apart"
    assert intervals.compare_auc([1, 1], [0.2, 0.4], [0.3, 0.1]).verdict == "cannot be told apart"


def simulated(rng, videos, groups, true_eer, shared):
    """Binormal scores of EER ``true_eer`` over all persons; ``shared`` of the variance is the person's."""
    labels, group = np.arange(videos) % 2, rng.permutation(videos) % groups
    noise = np.sqrt(shared) * rng.normal(size=groups)[group] + np.sqrt(1 - shared) * rng.normal(size=videos)
    return labels, stats.norm.cdf((labels - 0.5) * -2 * stats.norm.ppf(true_eer) + noise), group


def coverage(videos, groups, true_eer, shared, sets):
    """Shares of ``sets`` simulated sets whose interval holds the truth, per kind of interval."""
    rng, hits = np.random.default_rng(videos + groups), []
    truth = {"eer": true_eer, "auc": stats.norm.cdf(-2 * stats.norm.ppf(true_eer) / np.sqrt(2))}
    for _ in range(sets):
        labels, scores, group = simulated(rng, videos, groups, true_eer, shared)
        found = {"video": intervals.bootstrap(labels, scores, replicates=500)}
        if groups < videos:
            found["group"] = intervals.bootstrap(labels, scores, group, replicates=500)
        hits.append(
            {f"{n} by {unit}": f[n].low <= truth[n] <= f[n].high for unit, f in found.items() for n in ("eer", "auc")}
        )
    return {name: float(np.mean([hit[name] for hit in hits])) for name in hits[0]}


INDEPENDENT = [(60, 0.1), (200, 0.1), (200, 0.05), (420, 0.06), (1168, 0.05), (1168, 0.02), (1168, 0.005)]
CLUSTERED = [(60, 12), (240, 12), (240, 20), (500, 50)]
SETS = int(os.environ.get("LIVENESS_COVERAGE_SETS", 200))


@pytest.mark.full
def test_coverage_at_realistic_sizes():
    """docs/metrics.md quotes what this prints (-s)."""
    print("\nindependent videos: videos, EER | coverage")
    for videos, true_eer in INDEPENDENT:
        found = coverage(videos, videos, true_eer, 0.0, SETS)
        print(videos, true_eer, "|", found)
        assert found["eer by video"] >= 0.92
        assert found["auc by video"] >= 0.88
        if videos * true_eer > 10:  # with fewer errors the limits for zero errors rule, on the safe side
            assert found["eer by video"] <= 0.985
    print("EER 10 %, a person's videos share 30 % of the variance: videos, persons | coverage")
    for videos, groups in CLUSTERED:
        found = coverage(videos, groups, 0.1, 0.3, SETS)
        print(videos, groups, "|", found)
        assert found["eer by group"] >= 0.9
        assert found["auc by group"] > found["auc by video"]


@pytest.mark.full
def test_equal_systems_are_rarely_told_apart():
    """Two systems of one quality: a wrong "better" or "worse" at most about 5 % of the time."""
    rng, wrong = np.random.default_rng(1), []
    for _ in range(SETS):
        labels = np.arange(300) % 2
        shared = rng.normal(size=300)
        pair = [stats.norm.cdf((labels - 0.5) * 3 + 0.8 * shared + 0.6 * rng.normal(size=300)) for _ in range(2)]
        verdicts = [intervals.compare_eer(labels, *pair, replicates=400), intervals.compare_auc(labels, *pair)]
        wrong.append([v.verdict != "cannot be told apart" for v in verdicts])
    shares = np.mean(wrong, axis=0)
    print(f"\nwrong verdicts: EER {shares[0]:.3f}, AUC {shares[1]:.3f}")
    assert (shares <= 0.08).all()


@pytest.mark.parametrize("groups", [2, 3])
def test_very_few_groups_give_limits_that_hold_the_value(groups):
    """A fold of a small set has two or three persons, whose tails vanish in floating point."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        labels = np.arange(24) % 2 == 1
        scores = np.clip(rng.normal(np.where(labels, 0.8, 0.2), 0.25), 0, 1)
        found = intervals.bootstrap(labels, scores, np.arange(24) // 2 % groups, replicates=200)
        value, rounding = metrics.auc(labels, scores), 1e-12
        assert 0 <= found["auc"].low <= value + rounding and value - rounding <= found["auc"].high <= 1
        assert np.isfinite([found["log_loss"].low, found["log_loss"].high]).all()
