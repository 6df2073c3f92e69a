"""The operating point that ships with the weights: which one is read, what is refused, what is decided."""

import json

import numpy as np
import pytest

from liveness.base.errors import UserError
from liveness.evaluation.calibration import Calibration
from liveness.prediction.operating import Operating, read_operating

MEMBERS = ["a_fold0", "a_fold1"]


def content(**changes) -> dict:
    point = {"name": "eer", "target": None, "threshold": 0.4, "threshold_interval": [0.3, 0.6], "videos": 42}
    strict = {"name": "apcer5", "target": 0.05, "threshold": 0.7, "threshold_interval": [0.65, 0.8]}
    return {
        "data_hash": "abc",
        "weights": {"a_fold0": 1.0, "a_fold1": 3.0},
        "frames": {"typical": 3, "least": 2},
        "calibration": {
            "how": "platt",
            "members": {
                "a_fold0": {"how": "platt", "slope": 2.0, "offset": 0.0},
                "a_fold1": {"how": "none", "note": "too few"},
            },
        },
        "thresholds": [
            {**point, "split": "out of fold", "approximate": True},
            {**strict, "split": "holdout", "videos": 9},
        ],
        **changes,
    }


def write(folder, **changes):
    path = folder / "mine.json"
    path.write_text(json.dumps(content(**changes)))
    return path


def test_without_the_file_the_threshold_is_a_half_and_says_so(tmp_path):
    operating = read_operating(tmp_path / "mine.json", MEMBERS, "abc")
    assert (operating.threshold, operating.calibrations, operating.least_frames) == (0.5, {}, 0)
    assert "0.5" in operating.source and operating.calibrate("a_fold0", 0.123456789) == 0.123456789
    assert [operating.decide(s, "ok", 1) for s in (0.5, np.nextafter(0.5, 0))] == ["live", "attack"]
    with pytest.raises(UserError, match="no operating point 'apcer5'.*liveness.evaluate mine"):
        read_operating(tmp_path / "mine.json", MEMBERS, "abc", "apcer5")


def test_the_point_that_is_asked_for_is_read(tmp_path):
    path = write(tmp_path)
    equal, strict = read_operating(path, MEMBERS, "abc"), read_operating(path, MEMBERS, "abc", "apcer5")
    assert (equal.threshold, equal.low, equal.high) == (0.4, 0.3, 0.6)
    assert (strict.threshold, strict.low, strict.high) == (0.7, 0.65, 0.8)
    assert equal.source == "mine.json: equal error rate out of fold, 42 videos, approximate"
    assert strict.source == "mine.json: APCER <= 5 % on the holdout, 9 videos"
    with pytest.raises(UserError, match="no threshold named 'apcer7'.*there are eer, apcer5"):
        read_operating(path, MEMBERS, "abc", "apcer7")


def test_members_are_calibrated_each_by_its_own(tmp_path):
    operating = read_operating(write(tmp_path), MEMBERS, "abc")
    # Odds of 3 to 1, squared: 9 to 1.
    assert operating.calibrate("a_fold0", 0.75) == pytest.approx(0.9)
    assert operating.calibrate("a_fold1", 0.75) == 0.75
    assert np.isnan(operating.calibrate("a_fold0", float("nan")))
    assert operating.calibrations["a_fold0"] == Calibration("platt", 2.0, 0.0)


@pytest.mark.parametrize(
    ("score", "status", "frames", "expected"),
    [
        (0.6, "ok", 3, "live"),
        (0.3, "ok", 3, "attack"),
        (0.31, "ok", 3, "abstain"),
        (0.59, "ok", 3, "abstain"),
        (0.99, "ok", 2, "live"),
        (0.99, "ok", 1, "abstain"),  # fewer than half of the usual three frames
        (0.99, "partial", 3, "live"),
        (0.99, "no_face", 3, "abstain"),
        (0.01, "unreadable", 0, "abstain"),
        (float("nan"), "ok", 3, "abstain"),
    ],
)
def test_decisions(tmp_path, score, status, frames, expected):
    assert read_operating(write(tmp_path), MEMBERS, "abc").decide(score, status, frames) == expected


def test_at_a_threshold_without_an_interval_a_score_on_it_is_live():
    operating = Operating(threshold=0.4, low=0.4, high=0.4)
    assert [operating.decide(s, "ok", 3) for s in (0.4, 0.39999)] == ["live", "attack"]


@pytest.mark.parametrize(
    ("changes", "members", "words"),
    [
        ({"data_hash": "other"}, MEMBERS, "another state of the data than the members"),
        ({}, ["a_fold0"], "other members than those blended \\(a_fold1\\)"),
        ({}, ["a_fold0", "b_fold0"], "other members"),
        ({"calibration": {"how": "platt"}}, MEMBERS, "names no members"),
        ({"calibration": {"members": {name: {"how": "x"} for name in MEMBERS}}}, MEMBERS, "a_fold0: not a calibration"),
        ({"thresholds": [{"name": "eer"}]}, MEMBERS, "not a number"),
        ({"thresholds": [{"name": "eer", "threshold": None}]}, MEMBERS, "not a number"),
        ({"thresholds": [{"name": "eer", "threshold": 7}]}, MEMBERS, "expected 0 to 1"),
        ({"thresholds": [{"name": "eer", "threshold": float("nan")}]}, MEMBERS, "expected 0 to 1"),
        (
            {"thresholds": [{"name": "eer", "threshold": 0.5, "threshold_interval": [0.6, 0.7]}]},
            MEMBERS,
            "within its interval",
        ),
        ({"thresholds": []}, MEMBERS, "no threshold named 'eer'"),
        ({"thresholds": 3}, MEMBERS, "no table of thresholds"),
        ({"thresholds": [{"name": "eer", "threshold": 0.5, "target": "x"}]}, MEMBERS, "is damaged"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(tmp_path, changes, members, words):
    with pytest.raises(UserError, match=words) as caught:
        read_operating(write(tmp_path, **changes), members, "abc")
    assert "\n" not in str(caught.value)
    assert "python -m liveness.evaluate mine" in str(caught.value) or "not a calibration" in str(caught.value)


def test_other_weights_are_refused_and_equal_ratios_are_not(tmp_path):
    path = write(tmp_path)
    read_operating(path, MEMBERS, "abc", weights={"a_fold0": 0.25, "a_fold1": 0.75})
    with pytest.raises(UserError, match="other weights"):
        read_operating(path, MEMBERS, "abc", weights={"a_fold0": 1.0, "a_fold1": 1.0})


def test_a_member_that_was_trained_again_has_no_threshold_yet(tmp_path):
    path = write(tmp_path, weights_sha256={"a_fold0": "11", "a_fold1": "22"})
    read_operating(path, MEMBERS, "abc", digests={"a_fold0": "11"})  # an older file tells no digest
    with pytest.raises(UserError, match="before a_fold1 was trained again; run: python -m liveness.evaluate mine"):
        read_operating(path, MEMBERS, "abc", digests={"a_fold0": "11", "a_fold1": "33"})


def test_a_file_that_is_no_json_is_one_line(tmp_path):
    path = tmp_path / "mine.json"
    for text in ("{", "[]", "3", '{"thresholds": [3]}'):
        path.write_text(text)
        with pytest.raises(UserError, match="no table of thresholds"):
            read_operating(path, MEMBERS, "abc")
