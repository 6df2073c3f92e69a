"""Calibration: agrees with scikit-learn, stays finite, keeps the order, and learns nothing from what it judges."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.special import logit as log_odds
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from liveness.base.errors import UserError
from liveness.evaluation.calibration import (
    CALIBRATIONS,
    Calibration,
    calibrate_members,
    cross_fit_calibration,
    fit_calibration,
    read_calibration,
)

SEED = 20260712
LEARN = ("temperature", "platt", "isotonic")


def random_scores(rng, count=80, slope=1.0, shift=0.0):
    labels = rng.integers(0, 2, count)
    return expit(slope * (2 * labels - 1 + rng.normal(0, 1.2, count)) + shift), labels


def smoothed_regression(scores, labels, prior, intercept):
    """scikit-learn's unregularised regression on Platt's targets: each video as a live and an attack one, weighted."""
    live, attack = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (live + 1) / (live + 2), 1 / (attack + 2))
    weights = np.ones(len(labels))
    if prior is not None:
        weights = np.where(labels == 1, prior / live, (1 - prior) / attack) * len(labels)
        effective = weights.sum() ** 2 / (weights**2).sum()
        targets = np.where(labels == 1, 1 - 4 * (1 - prior) / (effective + 4), 4 * prior / (effective + 4))
    x = np.tile(log_odds(scores), 2)[:, None]
    model = LogisticRegression(C=np.inf, fit_intercept=intercept, tol=1e-10, max_iter=10_000)
    y = np.repeat([1, 0], len(labels))
    return model.fit(x, y, sample_weight=np.concatenate((weights * targets, weights * (1 - targets))))


@pytest.mark.parametrize("prior", [None, 0.3])
@pytest.mark.parametrize("how", ["platt", "temperature"])
def test_platt_and_temperature_are_logistic_regression_on_the_log_odds(how, prior):
    rng = np.random.default_rng(SEED)
    for _ in range(10):
        scores, labels = random_scores(rng, int(rng.integers(30, 300)), rng.uniform(0.3, 3), rng.normal(0, 0.3))
        found, model = (
            fit_calibration(how, scores, labels, prior),
            smoothed_regression(scores, labels, prior, how == "platt"),
        )
        new = rng.uniform(size=50)
        expected = model.predict_proba(log_odds(new)[:, None])[:, 1]
        np.testing.assert_allclose(found.apply(new), expected, atol=2e-5, err_msg=f"seed {SEED}")


def test_isotonic_is_scikit_learns_kept_away_from_0_and_1():
    rng = np.random.default_rng(SEED)
    for _ in range(10):
        scores, labels = random_scores(rng, int(rng.integers(30, 300)))
        expected = IsotonicRegression().fit_transform(scores, labels)
        expected = np.clip(expected, 1 / ((1 - labels).sum() + 2), (labels.sum() + 1) / (labels.sum() + 2))
        np.testing.assert_allclose(fit_calibration("isotonic", scores, labels).apply(scores), expected, atol=1e-12)


def test_hand_worked_cases():
    # 8 live videos at log-odds 1, 8 attacks at -1: the targets 0.9 and 0.1 are met exactly by the slope ln 9.
    scores, labels = expit(np.repeat([1.0, -1.0], 8)), np.repeat([1, 0], 8)
    assert fit_calibration("temperature", scores, labels).slope == pytest.approx(np.log(9), abs=1e-6)
    assert fit_calibration("platt", scores, labels).apply([expit(1.0), 0.5]) == pytest.approx([0.9, 0.5], abs=1e-6)
    # Scores that tell nothing give the mean target (here of 8 live and 5 attack videos), or the prior.
    constant, labels = np.full(13, 0.7), np.repeat([1, 0], [8, 5])
    assert fit_calibration("platt", constant, labels).apply([0.7])[0] == pytest.approx((8 * 0.9 + 5 / 7) / 13, abs=1e-6)
    assert fit_calibration("platt", constant, labels, prior=0.3).apply([0.7])[0] == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize("how", LEARN)
def test_a_fold_that_is_told_apart_perfectly_stays_finite(how):
    for scores in (np.repeat([0.0, 1.0], 6), np.r_[np.linspace(0, 0.1, 6), np.linspace(0.9, 1, 6)]):
        found = fit_calibration(how, scores, np.repeat([0, 1], 6))
        values = found.apply(np.r_[0, 1e-300, 0.5, 1])
        assert np.isfinite([found.slope, found.offset]).all() and found.slope < 1000
        assert ((values > 0) & (values < 1)).all() and (np.diff(values) >= 0).all()
        json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("how", CALIBRATIONS)
def test_every_method_keeps_the_order_nan_and_its_own_form_in_json(how):
    rng = np.random.default_rng(SEED)
    for turned in (False, True):  # a member that is worse than chance is not turned round
        scores, labels = random_scores(rng)
        found = fit_calibration(how, scores, 1 - labels if turned else labels)
        again = read_calibration(json.loads(json.dumps(found.to_dict())))
        assert again == found
        new = np.sort(rng.uniform(size=200))
        assert (np.diff(again.apply(new)) >= 0).all()
        assert np.isnan(found.apply([np.nan, 0.5])).tolist() == [True, False]
    assert fit_calibration("none", scores, labels).apply(scores).tolist() == scores.tolist()


@pytest.mark.parametrize(
    "values",
    [
        {"how": "magic"},
        {},
        [],
        {"how": "platt", "slope": -1},
        {"how": "platt", "slope": "x"},
        {"how": "platt", "slope": float("nan")},
        {"how": "isotonic"},
        {"how": "isotonic", "knots": [[0, 0.5], [1, 0.2]]},
        {"how": "isotonic", "knots": [[0, 0.5, 1]]},
    ],
)
def test_what_is_no_calibration_is_one_line(values):
    with pytest.raises(UserError, match="mine: not a calibration") as caught:
        read_calibration(values, "mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", LEARN)
def test_a_fold_of_one_class_or_of_few_videos_is_left_as_it_is_and_says_so(how):
    scores = np.linspace(0.1, 0.9, 12)
    for labels, words in ((np.ones(12), "12 live and 0 attack"), (np.repeat([0, 1], [8, 4]), "4 live and 8 attack")):
        found = cross_fit_calibration(how, scores, labels, np.arange(12))
        assert found.calibration.how == "none" and words in found.calibration.note
        assert found.parted == "not" and found.scores.tolist() == scores.tolist()
    with pytest.raises(ValueError, match="cannot calibrate"):
        fit_calibration("magic", scores, labels)


def test_scales_and_shifts_of_members_disappear():
    rng = np.random.default_rng(SEED)
    evidence = rng.normal(0, 1.5, 4000)
    labels = (rng.uniform(size=4000) < expit(evidence)).astype(int)  # so the evidence is the true log-odds
    for slope, shift in ((0.3, 1.0), (1.0, 0.0), (3.0, -2.0)):
        found = fit_calibration("platt", expit(slope * evidence + shift), labels)
        assert (found.slope, found.offset) == pytest.approx((1 / slope, -shift / slope), rel=0.15, abs=0.1)


def member_table(rng, share_of_live):
    """Two members, a fold each, and a holdout; 60 videos of 12 groups in each."""
    labels = np.concatenate([rng.uniform(size=60) < share for share in share_of_live]).astype(int)
    fold = np.repeat([0, 1, -1], 60)
    table = pd.DataFrame({"label": labels, "group": np.arange(180) // 5, "fold": fold})
    scores = pd.DataFrame({"a_fold0": rng.uniform(size=180), "a_fold1": rng.uniform(size=180)})
    for k in (0, 1):
        scores.loc[fold == 1 - k, f"a_fold{k}"] = np.nan
    return table, scores


@pytest.mark.parametrize("shares", [(0.25, 0.75, 0.5), (0.2, 0.5, 0.3)])
@pytest.mark.parametrize("how", LEARN)
def test_scores_that_know_nothing_stay_at_chance_whatever_the_folds_share_of_live_videos(how, shares):
    """Cross-fitting looks at no label that it is judged by, and a fold's share of live videos does not leak."""
    found = []
    for k in range(30):
        table, scores = member_table(np.random.default_rng([SEED, k]), shares)
        fits = calibrate_members(how, scores, table, {"a_fold0": 0, "a_fold1": 1})
        blended = np.nanmean([fits[name].scores for name in fits], axis=0)
        home = (table["fold"] >= 0).to_numpy()
        found.append(roc_auc_score(table["label"][home], blended[home]))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 0.5) < max(3 * error, 0.02), f"AUC {np.mean(found):.3f} +- {error:.3f}, seed {SEED}"


def test_groups_stay_whole_in_cross_fitting_and_one_group_is_parted_by_video():
    rng = np.random.default_rng(SEED)
    scores, labels = random_scores(rng, 60)
    groups = np.arange(60) % 6
    found = cross_fit_calibration("platt", scores, labels, groups)
    assert found.parted == "by group"
    # The slopes and offsets that were used: two scores of one group have been through the same line.
    for group in range(6):
        x, y = log_odds(scores[groups == group]), log_odds(found.scores[groups == group])
        assert np.ptp(np.diff(y) / np.diff(x)) < 1e-6
    assert cross_fit_calibration("platt", scores, labels, np.zeros(60)).parted == "by video"
    assert cross_fit_calibration("platt", scores, labels, labels).parted == "by video"  # a group of each class


def test_the_holdout_is_calibrated_by_the_fit_that_ships():
    table, scores = member_table(np.random.default_rng(SEED), (0.5, 0.5, 0.5))
    scores = scores.where(table["label"] == 0, np.sqrt(scores), axis=0)
    fits = calibrate_members("platt", scores, table, {"a_fold0": 0, "a_fold1": 1})
    for k in (0, 1):
        name, own, aside = f"a_fold{k}", (table["fold"] == k).to_numpy(), (table["fold"] == -1).to_numpy()
        whole = fit_calibration(
            "platt", scores[name][own], table["label"][own], table["label"][table["fold"] >= 0].mean()
        )
        assert fits[name].calibration == whole
        np.testing.assert_array_equal(fits[name].scores[aside], whole.apply(scores[name][aside]))
        assert np.isnan(fits[name].scores[(table["fold"] == 1 - k).to_numpy()]).all()
        assert np.abs(fits[name].scores[own] - whole.apply(scores[name][own])).max() > 0


def test_platt_of_no_effect_is_the_identity():
    scores = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(Calibration("platt").apply(scores), scores, atol=1e-12)
