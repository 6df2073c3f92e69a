"""Limits of an operating file: a picture that the scores were not measured on lowers a decision, and no score."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_operating import MEMBERS, write
from test_prediction import put_member

from liveness.base.config import Detector, Ensemble, EnsembleMember, FramePlan, View
from liveness.base.errors import UserError
from liveness.frames.boxes import Face
from liveness.frames.quality import measure_quality
from liveness.frames.video import Decoded, VideoInfo, jpeg_decode, jpeg_encode
from liveness.frames.views import VideoViews, cut_requests, make_request, prepare_video
from liveness.members.names import operating_path
from liveness.prediction.engine import load_members, score_video
from liveness.prediction.operating import read_operating
from liveness.prediction.rows import row_text

GOOD = {"brightness": 120, "contrast": 40, "sharpness": 0.6, "face_width": 140, "room": 3.4, "other_face": 0.0}
ROOM = {"reason": "cropped", "measure": "room", "least": 2.7}
SMALL = {"reason": "too_small", "measure": "face_width", "least": 64}
GLARE = {"reason": "too_bright", "measure": "brightness", "most": 240}


def test_a_limit_lowers_the_decision_with_its_reason_and_leaves_the_score(workspace, tiny_clips):
    put_member("convnext_large", 0)
    clip = tiny_clips(workspace / "clips" / "1.mp4", frames=6, size=(64, 96), seed=1)
    ensemble = Ensemble("mine", "train", [EnsembleMember("convnext_large", 0)])

    def row_with(limits: list | None, measures: dict | None):
        about = {"thresholds": [{"name": "eer", "threshold": 0.0}]} | ({} if limits is None else {"limits": limits})
        operating_path("train", "mine").write_text(json.dumps(about))
        loaded = load_members(ensemble)
        assert [wanted.measured for wanted in loaded.wanted()] == [bool(limits)]
        video = replace(prepare_video(clip, loaded.wanted()), measures=measures, milliseconds=0.0)
        return replace(score_video(video, loaded), milliseconds=0.0)

    plain = row_with(None, None)
    assert (plain.decision, plain.reason) == ("live", "")
    limits = [ROOM, SMALL, GLARE]
    assert row_text(row_with(limits, GOOD)) == row_text(plain) == row_text(row_with([], None))
    far = row_with(limits, GOOD | {"room": 1.42, "face_width": 40})
    assert far.decision == "abstain" and far.score == plain.score
    assert far.reason == "cropped: room 1.42, expected at least 2.7; too_small: face_width 40, expected at least 64"
    assert row_with(limits, GOOD | {"brightness": 250}).reason == "too_bright: brightness 250, expected at most 240"
    assert row_with(limits, GOOD | {"room": 2.7, "face_width": 64, "brightness": 240}).decision == "live"


def test_quality_is_measured_where_it_is_asked_for_on_the_frames_that_are_scored(monkeypatch):
    rng = np.random.default_rng(4)
    frames = {n: cv2.GaussianBlur(rng.integers(0, 255, (120, 90, 3), np.uint8), (0, 0), 1 + n) for n in range(3)}
    faces = {n: Face(20 + n, 30, 30, 40, 0.9) for n in (0, 2)}  # none in the middle frame

    others = [Face(70, 2, 15, 20, 0.8), Face(2, 2, 5, 5, 0.8)]

    def found(stored, detector):
        (number,) = [n for n in frames if np.array_equal(jpeg_decode(jpeg_encode(frames[n], 95)), stored.rgb)]
        return [faces[number], *others] if number in faces else []

    monkeypatch.setattr("liveness.frames.views.StoredFrame.faces", found)
    decoded = Decoded(VideoInfo(3, 10, 90, 120, 0.3, np.arange(3) / 10, "h264", 0), frames, "ok", "")
    request = make_request(FramePlan("all"), View(kind="face", size=32), Detector(), 95)
    asked, silent = VideoViews("a"), VideoViews("a")
    cut_requests(decoded, [replace(request, measured=True)], asked)
    cut_requests(decoded, [request], silent)
    assert silent.measures is None
    np.testing.assert_array_equal(asked.views[request.key], silent.views[request.key])
    parts = [measure_quality(jpeg_decode(jpeg_encode(frames[n], 95)), faces[n]) for n in faces]
    assert asked.measures["sharpness"] == pytest.approx(
        np.mean([part.sharpness for part in parts])
    )  # the median of two
    assert asked.measures["room"] == 3.0 and asked.measures["other_face"] == 0.25


def test_an_older_file_has_no_limits(tmp_path):
    assert read_operating(write(tmp_path), MEMBERS, "abc").limits == ()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (3, "its limits are no list"),
        ([3], r"limits\[0\]: 3; expected the keys reason"),
        ([ROOM, {**ROOM, "lest": 1}], r"limits\[1\]: .*expected the keys"),
        ([{**ROOM, "measure": "rom"}], "measure 'rom'; expected one of .*did you mean room"),
        ([{**ROOM, "reason": "too far\nx"}], "expected a word of small letters"),
        ([{**ROOM, "least": "much"}], "expected numbers"),
        ([{**ROOM, "least": None}], "expected numbers"),
        ([{"reason": "cropped", "measure": "room"}], "expected least or most"),
        ([{**ROOM, "most": 1.0}], "least <= most"),
        ([{**ROOM, "least": float("nan")}], "least <= most"),
    ],
)
def test_damaged_limits_are_one_line_with_the_file_and_the_place(tmp_path, limits, words):
    with pytest.raises(UserError, match=words) as caught:
        read_operating(write(tmp_path, limits=limits), MEMBERS, "abc")
    assert "\n" not in str(caught.value) and str(tmp_path / "mine.json") in str(caught.value)
