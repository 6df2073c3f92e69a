"""Combining frames into a video's score and members into an ensemble's."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from liveness.base.compose import load_recipe
from liveness.base.errors import UserError
from liveness.evaluation import combine, metrics


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", 0.46),
        ("median", 0.5),
        ("top2", 0.75),
        ("top9", 0.46),
        ("low2", 0.15),
        ("trimmed20", (0.2 + 0.5 + 0.6) / 3),
        ("trimmed19", 0.46),
        ("trimmed0", 0.46),
    ],
)
def test_frames_to_video_by_hand(how, expected):
    assert combine.frames_to_video(np.array([0.5, 0.1, 0.9, 0.2, 0.6]), how) == pytest.approx(expected)


def test_logit_mean_is_the_mean_of_log_odds_and_trimming_is_scipys():
    scores = np.array([0.2, 0.9, 0.6, 0.55])
    odds = np.exp(np.mean(np.log(scores / (1 - scores))))
    assert combine.frames_to_video(scores, "logit_mean") == pytest.approx(odds / (1 + odds))
    assert combine.frames_to_video(scores, "trimmed25") == pytest.approx(stats.trim_mean(scores, 0.25))
    assert 0.999 < combine.frames_to_video(np.array([1.0, 1.0]), "logit_mean") <= 1
    assert combine.frames_to_video(np.array([0.0, 1.0]), "logit_mean") == pytest.approx(0.5)


@pytest.mark.parametrize("how", ["mean", "median", "logit_mean", "top2", "low1", "trimmed40"])
def test_frames_without_a_score_are_passed_over(how):
    scores = np.array([0.3, np.nan, 0.7])
    assert combine.frames_to_video(scores, how) == combine.frames_to_video(scores[[2, 0]], how)
    assert np.isnan(combine.frames_to_video(np.array([np.nan]), how))
    assert np.isnan(combine.frames_to_video(np.array([]), how))
    assert combine.frames_to_video(np.array([0.123456, 0.123456]), how) == 0.123456


@pytest.mark.parametrize("how", ["max", "top0", "top", "trimmed50", ""])
def test_unknown_ways_are_refused(how):
    with pytest.raises(ValueError, match="cannot combine frames"):
        combine.frames_to_video(np.array([0.5]), how)


def test_video_scores_keep_order_and_status():
    oof = pd.DataFrame(
        {
            "filename": ["9.mp4", "9.mp4", "10.mp4", "8.mp4", "8.mp4"],
            "label": [1, 1, 0, 0, 0],
            "fold": 2,
            "score": [0.4, np.nan, np.nan, 0.1, 0.3],
            "status": ["ok", "no_face", "unreadable", "ok", "ok"],
        }
    )
    table = combine.video_scores(oof, "mean")
    assert list(table["filename"]) == ["9.mp4", "10.mp4", "8.mp4"]
    assert list(table["status"]) == ["ok", "unreadable", "ok"]
    np.testing.assert_allclose(table["score"], [0.4, np.nan, 0.2])
    oof.loc[1, "label"] = 0
    with pytest.raises(UserError, match="9.mp4.*different labels"):
        combine.video_scores(oof, "mean")


def test_blend_renormalises_over_the_members_present():
    scores = pd.DataFrame({"a": [0.2, 0.2, np.nan, np.nan], "b": [0.8, np.nan, 0.7, np.nan]}, index=list("wxyz"))
    blended = combine.blend(scores, {"b": 3.0, "a": 1.0})
    np.testing.assert_allclose(blended, [0.65, 0.2, 0.7, np.nan])
    assert blended["x"] == 0.2  # exactly, whatever the weights
    np.testing.assert_allclose(combine.blend(scores, {"a": 10, "b": 30}), blended)
    np.testing.assert_allclose(combine.blend(scores, {"a": 1, "b": 0}), [0.2, 0.2, np.nan, np.nan])
    for weights in ({"a": 1}, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": -1}, {"a": 1, "b": np.nan}):
        with pytest.raises(ValueError):
            combine.blend(scores, weights)


def member(name, fold, rows, weight=1.0):
    columns = ["filename", "label", "fold", "score", "status"]
    return combine.MemberScores(name, fold, weight, pd.DataFrame(rows, columns=columns))


FOLDS = pd.DataFrame(
    {
        "filename": ["1.mp4", "2.mp4", "3.mp4", "4.mp4"],
        "label": [0, 1, 0, 1],
        "group": list("abcd"),
        "fold": [0, 1, 0, 2],
    }
)


def test_assemble_uses_only_members_that_held_the_video_out():
    table = combine.assemble(
        FOLDS,
        [
            member("x_fold0", 0, [("1.mp4", 0, 0, 0.1, "ok"), ("3.mp4", 0, 0, np.nan, "no_face")]),
            member("x_fold1", 1, [("2.mp4", 1, 1, 0.9, "ok")]),
            member("l_fold0", 0, [("1.mp4", 0, 0, 0.4, "ok")], weight=2.0),
        ],
    )
    np.testing.assert_allclose(table["score"], [0.3, 0.9, np.nan, np.nan])
    assert list(table["status"]) == ["ok", "ok", "no_face", "not_covered"]
    assert np.isnan(table.loc[1, "x_fold0"]) and np.isnan(table.loc[1, "l_fold0"])


@pytest.mark.parametrize(
    "row",
    [("2.mp4", 1, 0, 0.5, "ok"), ("1.mp4", 1, 0, 0.5, "ok"), ("9.mp4", 0, 0, 0.5, "ok"), ("4.mp4", 1, 2, 0.5, "ok")],
)
def test_assemble_refuses_a_score_that_may_come_from_training_data(row):
    with pytest.raises(UserError, match="train this member again"):
        combine.assemble(FOLDS, [member("x_fold0", 0, [row])])


def two_recipes(count=240, seed=4, separation=2.0, noise=(0.6, 1.5)):
    """Labels, folds and two recipes' scores; the second is the noisier one and misses fold 2."""
    rng = np.random.default_rng(seed)
    labels, folds = rng.permutation(np.arange(count) % 2), np.arange(count) % 3
    base = (labels - 0.5) * separation + 0.4 * rng.normal(size=count)
    scores = pd.DataFrame(
        {name: 1 / (1 + np.exp(-(base + n * rng.normal(size=count)))) for name, n in zip("ab", noise, strict=True)}
    )
    scores.loc[folds == 2, "b"] = np.nan
    return scores, labels, folds


ALL_WAYS = [*combine.FIXED, *combine.LEARNED]


@pytest.mark.parametrize("how", ALL_WAYS)
def test_every_way_to_combine_members_beats_chance_and_keeps_gaps(how):
    scores, labels, folds = two_recipes()
    scores.loc[0] = np.nan
    combined = combine.cross_fit_combination(how, scores, labels, folds)
    assert np.isnan(combined[0]) and combined[1:].notna().all() and combined[1:].between(0, 1).all()
    assert metrics.auc(labels[1:], combined[1:]) > 0.8


@pytest.mark.parametrize("how", ALL_WAYS)
def test_random_labels_stay_at_chance(how):
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scores = pd.DataFrame(rng.random((150, 4)), columns=list("abcd"))
        # Stratified folds, as ours are: with others, a pooled cross-fit falls below chance.
        labels, folds = np.arange(150) % 2, np.arange(150) // 2 % 5
        found.append(metrics.auc(labels, combine.cross_fit_combination(how, scores, labels, folds)))
    assert abs(np.mean(found) - 0.5) < 0.05, found


@pytest.mark.parametrize("how", combine.LEARNED)
def test_labels_of_the_judged_fold_are_never_used(how):
    scores, labels, folds = two_recipes()
    changed = np.where(folds == 1, 1 - labels, labels)
    before, after = (combine.cross_fit_combination(how, scores, truth, folds) for truth in (labels, changed))
    np.testing.assert_array_equal(before[folds == 1], after[folds == 1])


def test_learned_weights_prefer_the_better_member_and_are_the_optimum():
    scores, labels, _ = two_recipes(count=600)
    scores, labels = scores.dropna(), labels[scores.notna().all(axis=1)]
    for how in ("weights", "greedy"):
        weights = combine.fit_combination(how, scores, labels).weights
        assert min(weights.values()) >= 0 and sum(weights.values()) == pytest.approx(1)
        assert weights["a"] > weights["b"]
    learned = combine.fit_combination("weights", scores, labels).weights["a"]

    def cost(weight):
        blended = weight * scores["a"] + (1 - weight) * scores["b"]
        return metrics.log_loss(labels, blended) + 0.01 * 2 * (weight - 0.5) ** 2

    assert cost(learned) <= min(cost(w) for w in np.linspace(0, 1, 101)) + 1e-6


def test_equal_members_get_equal_weights_and_one_class_teaches_nothing():
    scores, labels, _ = two_recipes()
    twins = pd.DataFrame({"a": scores["a"], "b": scores["a"]})
    assert combine.fit_combination("weights", twins, labels).weights == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-4)
    for how in combine.LEARNED:
        assert combine.fit_combination(how, scores, np.ones(len(scores))).weights == {"a": 0.5, "b": 0.5}
    with pytest.raises(ValueError, match="two folds"):
        combine.cross_fit_combination("weights", scores, labels, np.zeros(len(scores)))
    with pytest.raises(ValueError, match="cannot combine members"):
        combine.fit_combination("vote", scores, labels)


def test_stacking_is_scikit_learns_regression_on_log_odds():
    from sklearn.linear_model import LogisticRegression

    scores, labels, _ = two_recipes()
    scores, labels = scores.dropna(), labels[scores.notna().all(axis=1)]
    inputs = np.log(scores / (1 - scores)).to_numpy()
    expected = LogisticRegression(C=combine.STACKING_C).fit(inputs, labels).predict_proba(inputs)[:, 1]
    np.testing.assert_allclose(combine.fit_combination("stacking", scores, labels).apply(scores), expected, atol=1e-5)


def test_recipes_are_joined_over_their_folds():
    table = pd.DataFrame(
        {"filename": ["1", "2", "3"], "x_fold0": [0.1, np.nan, np.nan], "x_fold1": [np.nan, 0.2, np.nan], "y": 0.5}
    )
    joined = combine.join_by_recipe(table, {"x_fold0": "x", "x_fold1": "x", "y": "y"})
    np.testing.assert_allclose(joined["x"], [0.1, 0.2, np.nan])
    assert list(joined.columns) == ["x", "y"] and list(joined.index) == ["1", "2", "3"]


@pytest.mark.parametrize("how", ["mean", "low1", "top12", "trimmed49", "trimmed50", "top0", "best", "mean2"])
def test_a_recipe_takes_what_combines_frames_and_nothing_else(how):
    try:
        combine.check_how(how)
    except ValueError:
        with pytest.raises(UserError, match=f"combine={how}; expected mean"):
            load_recipe("convnext_large", [f"combine={how}"])
    else:
        assert load_recipe("convnext_large", [f"combine={how}"]).combine == how


@pytest.mark.parametrize("how", ["mean", "median", "logit_mean", "top3", "low2", "trimmed20"])
def test_whole_tables_give_the_bits_of_one_video_at_a_time(how):
    rng = np.random.default_rng(20261126)
    owner = np.repeat(np.arange(120), rng.integers(1, 40, 120))
    scores = rng.random(len(owner))
    scores[rng.random(len(owner)) < 0.2] = np.nan
    scores[rng.random(len(owner)) < 0.1] = 1.0
    names = [f"{i}.mp4" for i in owner]
    oof = pd.DataFrame({"filename": names, "label": owner % 2, "fold": owner % 5, "score": scores, "status": "ok"})
    oof = oof.iloc[rng.permutation(len(oof))].reset_index(drop=True)  # the videos' rows are mixed
    table = combine.video_scores(oof, how)
    assert list(table["filename"]) == list(oof["filename"].drop_duplicates())
    one_by_one = [combine.frames_to_video(oof["score"][oof["filename"] == name], how) for name in table["filename"]]
    assert np.array_equal(table["score"], one_by_one, equal_nan=True)
    assert list(table["status"]) == ["ok" if np.isfinite(score) else "no_score" for score in one_by_one]
