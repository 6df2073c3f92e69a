"""A prepared set as it is loaded: one label per video, that of folds.csv, whatever the other tables say."""

import json

import pandas as pd
import pytest
from hand_set import write_prepared

from liveness.base.config import FramePlan
from liveness.base.errors import UserError
from liveness.sets.dataset import load_set


@pytest.fixture
def folder(workspace):
    return write_prepared(workspace)


def change(path, column, value, rows=slice(None)):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[rows, column] = value
    table.to_csv(path, index=False)


def test_frames_have_their_videos_label(folder):
    for table in ("labels_keyframes.csv", "labels_bbox.csv"):
        change(folder / table, "label", "1")
    prepared = load_set("tiny", FramePlan())
    folds = pd.read_csv(folder / "folds.csv").set_index("filename")
    assert prepared.videos.label.to_dict() == folds.label.to_dict()
    assert prepared.frames.label.tolist() == folds.label[prepared.frames.filename].tolist()
    assert set(prepared.frames.label) == {0, 1}


def test_without_the_other_tables_labels_a_set_loads(folder):
    for table in ("labels_keyframes.csv", "labels_bbox.csv"):
        pd.read_csv(folder / table, dtype=str).drop(columns="label").to_csv(folder / table, index=False)
    assert set(load_set("tiny", FramePlan()).frames.label) == {0, 1}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (
            "label",
            "1",
            r"folds.csv: another label than labels_video.csv has for '0.mp4'; run: bash",
        ),
        ("label", "", r"folds.csv: another label than labels_video.csv has for '0.mp4'"),
        ("video_id", "1", r"labels_video.csv: the video_id of '0.mp4' is not its name; run: bash prepare_data.sh tiny"),
        ("filename", "x.mp4", r"folds.csv: not the videos of labels_video.csv; run: bash prepare_data.sh tiny"),
    ],
)
def test_what_the_digest_does_not_cover_cannot_change_the_training(folder, column, value, said):
    """labels_video.csv is not in a set's digest: load_set takes nothing from it that folds.csv does not confirm."""
    digest = load_set("tiny", FramePlan()).digest
    change(folder / "labels_video.csv", column, value, rows=0)
    with pytest.raises(UserError, match=said):
        load_set("tiny", FramePlan())
    change(folder / "labels_video.csv", column, {"label": "0", "video_id": "0", "filename": "0.mp4"}[column], rows=0)
    assert load_set("tiny", FramePlan()).digest == digest


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', '{"version": 2, "data": 1, "detector_sha256": ""}'])
def test_a_damaged_record_of_the_preparation_is_one_line(folder, text):
    (folder / "prepare.json").write_text(text)
    with pytest.raises(UserError, match=r"prepare.json: damaged; delete it and run: bash prepare_data.sh tiny"):
        load_set("tiny", FramePlan())


def test_a_set_says_by_which_detector_only_where_it_is_not_the_default(folder):
    path = folder / "prepare.json"
    assert set(json.loads(path.read_text())["data"]["detector"]) == {"threshold", "max_side"}
    assert load_set("tiny", FramePlan()).data.detector.name == "yunet"
    path.write_text(path.read_text().replace('"max_side"', '"name": "other", "max_side"'))
    assert load_set("tiny", FramePlan()).data.detector.name == "other"
