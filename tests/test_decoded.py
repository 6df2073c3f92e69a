"""Decoded frames beside a set: training and scoring see the same pixels, whatever of the file is there."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from liveness.base.config import Augment, Train, View
from liveness.sets.dataset import PreparedSet, read_frame
from liveness.sets.decoded import open_decoded
from liveness.training.augment import Policy
from liveness.training.member import open_cache
from liveness.training.samples import TrainingFrames

SIZES = [(60, 44), (60, 44), (37, 81), (60, 44), (90, 50)]
ROWS = pd.DataFrame(
    {"video_id": range(5), "frame_id": 3, "label": [0, 1, 0, 1, 1], "face": 1, "confidence": 0.9}
    | {"x": 8.0, "y": 9.0, "w": 20.0, "h": 24.0}
)  # fmt: skip
NAMES = [f"{number}-3.jpg" for number in range(5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    (tmp_path / "frames").mkdir()
    for name, (height, width) in zip(NAMES, SIZES, strict=True):
        picture = cv2.resize(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8), (width, height))
        cv2.imwrite(str(tmp_path / "frames" / name), picture)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in (folder / "decoded").iterdir() if path.name != "lock")


@pytest.mark.parametrize("kind", ["frame", "face"])
def test_samples_are_the_same_from_decoded_frames(folder, kind):
    augment = Augment(crop_scale=[0.3, 1.0], hflip=0.5, rand_augment="rand-m9-mstd0.5-inc1", mixup=0.3, erase=0.25)
    policy = Policy(augment, View(kind=kind, size=32))
    decoded = pickle.loads(pickle.dumps(open_decoded(folder, NAMES, 1e9)))  # as a loader process of any kind gets it
    with_them = TrainingFrames(folder, ROWS, policy, 7, decoded)
    without = TrainingFrames(folder, ROWS, policy, 7)
    assert len(decoded) == 5
    for key in [(epoch, index) for epoch in range(4) for index in range(5)]:
        (image, label), (expected, same) = with_them[key], without[key]
        assert torch.equal(image, expected) and label == same


def test_only_as_many_frames_as_fit_and_the_rest_from_the_files(folder):
    decoded = open_decoded(folder, NAMES, 2.5 * 60 * 44 * 3)
    assert len(decoded) == 2
    for row in ROWS.itertuples(index=False):
        expected = cv2.imread(str(folder / "frames" / f"{row.video_id}-3.jpg"))[..., ::-1]
        assert np.array_equal(read_frame(folder, row, decoded), expected)
    assert len(open_decoded(folder, NAMES, 1e9)) == 5  # a higher limit is used
    for path in (folder / "decoded").glob("*.*"):
        path.unlink()
    assert len(open_decoded(folder, NAMES, 1e9, spare=1e18)) == 0  # what else needs the disk goes first
    assert len(open_decoded(folder, NAMES, 1e9)) == 5
    assert len(open_decoded(folder, NAMES, 1e3)) == 5  # what is there costs nothing


def test_a_frame_that_changed_is_decoded_anew_and_the_old_file_goes_when_nobody_has_it(folder):
    first = open_decoded(folder, NAMES, 1e9)
    before = first.get(NAMES[1]).copy()
    cv2.imwrite(str(folder / "frames" / NAMES[1]), np.full((60, 44, 3), 200, np.uint8))
    second = open_decoded(folder, NAMES, 1e9)
    assert int(second.get(NAMES[1])[0, 0, 0]) == 200
    assert np.array_equal(first.get(NAMES[1]), before)
    again = pickle.loads(pickle.dumps(first))  # a loader process that starts late still finds its file
    assert np.array_equal(again.get(NAMES[1]), before)
    del first, again
    cv2.imwrite(str(folder / "frames" / NAMES[1]), np.full((60, 44, 3), 90, np.uint8))
    third = open_decoded(folder, NAMES, 1e9)
    assert int(third.get(NAMES[1])[0, 0, 0]) == 90
    assert files(folder) == [".json", ".json", ".u8", ".u8"]  # the second's are still held


def test_a_build_that_was_cut_short_is_made_again(folder):
    decoded = open_decoded(folder, NAMES, 1e9)
    decoded.path.with_suffix(".json").unlink()  # it is written last
    with open(decoded.path, "r+b") as file:
        file.truncate(100)
    del decoded
    assert np.array_equal(
        open_decoded(folder, NAMES, 1e9).get(NAMES[4]), cv2.imread(str(folder / "frames" / NAMES[4]))[..., ::-1]
    )


def test_a_folder_that_cannot_be_written_to_costs_a_note(folder, capsys):
    (folder / "decoded").write_text("in the way")
    assert len(open_decoded(folder, NAMES, 1e9)) == 0
    assert "File exists; frames are decoded anew" in capsys.readouterr().err


def test_a_damaged_frame_is_left_to_training_to_name(folder):
    (folder / "frames" / NAMES[2]).write_bytes(b"no picture")
    decoded = open_decoded(folder, NAMES, 1e9)
    assert len(decoded) == 4 and decoded.get(NAMES[2]) is None


def test_the_cache_is_for_training_on_a_gpu_unless_it_is_asked_for(folder, capsys):
    prepared = PreparedSet("set", folder, None, "", "", pd.DataFrame(), ROWS)  # type: ignore[arg-type]
    assert open_cache(Train(), prepared, torch.device("cpu"), 0) is None
    assert open_cache(Train(cache_gib=0), prepared, torch.device("cuda"), 0) is None
    assert len(open_cache(Train(), prepared, torch.device("cuda"), 0) or ()) == 5
    assert len(open_cache(Train(cache_gib=1), prepared, torch.device("cpu"), 0) or ()) == 5
    told = capsys.readouterr().err
    assert told.count("\n") == told.count("decoding 5 frames, once") == 1
