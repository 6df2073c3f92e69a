"""The preprocessing contract's versions: what each sees, members and prepared sets of version 1, one pass for both.

tests/version1/ was made by the code before version 2: two narrow members with random weights, their scores of the
clips of odd_clips.py (one member alone, the other, both), and the prepare.json of the set that it also writes.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from odd_clips import NAMES, write_clips, write_set
from skimage.metrics import structural_similarity

from liveness import prepare
from liveness.base.compose import load_data
from liveness.base.config import Ensemble, EnsembleMember, FramePlan
from liveness.base.errors import UserError
from liveness.base.tables import read_table
from liveness.frames.notes import parse_notes, with_notes
from liveness.frames.video import probe, read_frames
from liveness.frames.views import prepare_video
from liveness.members.names import weights_path
from liveness.members.weights import describe_member, load_member, save_member
from liveness.prediction.engine import load_members, score_video
from liveness.sets.dataset import load_set
from liveness.sets.extract import find_version, read_record
from liveness.sets.folds import fold_set
from liveness.sets.labels import find_set
from liveness.sets.preparation import prepare_set
from liveness.sets.sanity import check_set
from liveness.training.member import finish

OLD = Path(__file__).parent / "version1"
ALL = FramePlan(plan="all")
# Of the set of odd_clips.py, prepared and dealt by the code before version 2.
OLD_HASH = "9a9d43e9f06c4fc4b350222fe665561549490e93de1990bae667f6f8857911fd"
OLD_KEYS = {"frames_key": "b666529c29459793", "faces_key": "7ad63970b7ab78f1"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    return write_clips(tmp_path_factory.mktemp("odd"))


def put_members(folder: Path) -> None:
    """The members of version 1 as they are, and the same weights under version 2, as fold 1."""
    folder.mkdir(parents=True)
    for path in OLD.glob("*.safetensors"):
        shutil.copy(path, folder)
        model, description = load_member(path)
        description["contract"]["version"] = 2
        description["fold"] = 1
        save_member(weights_path("version1", description["recipe"]["name"], 1), model.state_dict(), description)


def scored(clips: dict[str, Path], *members: tuple[str, int]) -> dict[str, object]:
    chosen = [EnsembleMember(recipe, fold) for recipe, fold in members]
    loaded = load_members(Ensemble("mine", "version1", chosen, calibration="none"))
    try:
        return {name: score_video(prepare_video(path, loaded.wanted()), loaded) for name, path in clips.items()}
    finally:
        loaded.close()


def test_members_of_version_1_score_as_before_alone_and_beside_those_of_version_2(workspace, clips):
    put_members(workspace / "weights" / "version1")
    expected = json.loads((OLD / "scores.json").read_text())
    alone = {}
    for recipe in ("convnext_large", "demo_face"):
        for fold in (0, 1):
            alone[recipe, fold] = scored(clips, (recipe, fold))
        before = {name: expected[recipe][f"{name}.mkv"] for name in NAMES}
        assert {name: row.score for name, row in alone[recipe, 0].items()} == pytest.approx(before, abs=2e-6)
    both = scored(clips, ("convnext_large", 0), ("demo_face", 0))
    assert [row.score for row in both.values()] == pytest.approx(
        list(expected["convnext_large+demo_face"].values()), abs=2e-6
    )
    # One pass over each video for members of both versions: every member sees what it sees alone.
    mixed = scored(clips, *alone)
    for name in NAMES:
        scores = [rows[name].score for rows in alone.values()]
        assert mixed[name].score == pytest.approx(np.mean(scores), abs=1e-7), name
    frame, face = (alone[recipe, 1] for recipe in ("convnext_large", "demo_face"))
    assert frame["plain"].score == alone["convnext_large", 0]["plain"].score  # to the last digit
    assert face["plain"].score == alone["demo_face", 0]["plain"].score
    assert face["two_tracks"].score == pytest.approx(face["plain"].score, abs=1e-6)
    truth, before = frame["plain"].score, alone["convnext_large", 0]
    for name in ("hlg", "pq", "two_tracks"):  # not wide: the whole frame is squeezed into a square by any version
        assert abs(frame[name].score - truth) < abs(before[name].score - truth) / 2, name
    assert abs(face["two_faces"].score - alone["demo_face", 0]["two_faces"].score) > 1e-3


def test_rows_note_what_is_unusual(workspace, clips):
    put_members(workspace / "weights" / "version1")
    rows = scored(clips, ("demo_face", 1))
    assert {row.status for row in rows.values()} == {"ok"}
    told = {name: parse_notes(row.reason) for name, row in rows.items()}
    assert told == {
        "plain": {},
        "hlg": {"hlg": ""},
        "pq": {"pq": ""},
        "wide": {"pixel_aspect": "2:1"},
        "two_faces": {"several_faces": "2"},
        "two_tracks": {"track": "2/2"},
    }
    assert {name: row.faces_in_frame for name, row in rows.items()} == dict.fromkeys(NAMES, 1) | {"two_faces": 2}
    # Where a member of version 1 has its part in the score, the row says what it did not follow.
    mixed = scored(clips, ("demo_face", 0), ("convnext_large", 1))
    assert parse_notes(mixed["hlg"].reason) == {"hlg": "", "hlg_ignored": ""}
    whole = scored(clips, ("convnext_large", 0))
    assert parse_notes(whole["wide"].reason) == {"pixel_aspect_ignored": "2:1"} and whole["wide"].faces_in_frame is None


def test_notes_are_read_back():
    assert with_notes("", []) == "" and parse_notes("") == {}
    assert with_notes("breaks off; 3 frames decode", []) == "breaks off; 3 frames decode"
    text = with_notes("breaks off; 3 frames decode", ["hlg", "several_faces=2", "hlg"])
    assert text == "breaks off; 3 frames decode; note: hlg; several_faces=2"
    assert parse_notes(text) == {"hlg": "", "several_faces": "2"}
    assert parse_notes("its footnote: none") == {}


def test_hlg_pq_and_wide_pixels_look_like_their_ordinary_twin(clips):
    (plain,) = read_frames(clips["plain"], [FramePlan(positions=[0.5])]).frames.values()
    for name, worst in (("hlg", 3), ("pq", 5), ("two_tracks", 0)):
        decoded = read_frames(clips[name], [FramePlan(positions=[0.5])])
        (rgb,) = decoded.frames.values()
        off = np.abs(rgb.astype(int) - plain)
        assert off[plain.max(-1) < 200].max() <= worst and off.max() <= 20, name  # highlights bend to the shoulder
        (before,) = read_frames(clips[name], [FramePlan(positions=[0.5])], version=1).frames.values()
        if before.shape == plain.shape:
            assert np.abs(before.astype(int) - plain).mean() > 10 * off.mean()
    (wide,) = read_frames(clips["wide"], [FramePlan(positions=[0.5])]).frames.values()
    assert wide.shape == plain.shape and structural_similarity(wide, plain, channel_axis=2) > 0.9
    info = probe(clips["wide"])
    assert (info.width, info.height) == (240, 240)
    assert (probe(clips["wide"], version=1).width, read_frames(clips["wide"], [ALL], version=1).info.width) == (
        120,
        120,
    )


def test_a_set_of_version_1_stays_so_until_it_is_made_anew(workspace, capsys):
    """Its digest is what its members were trained on: if it changed, their runs could not go on."""
    write_set(workspace / "raw" / "old")
    folder, data = workspace / "data" / "old", load_data("old", ["folds.n=2", "workers=1"])
    folder.mkdir(parents=True)
    shutil.copy(OLD / "prepare.json", folder)

    def prepared(*options: str) -> str:
        sys.argv = ["prepare", "old", *options, "-o", "folds.n=2", "workers=1"]
        prepare.main()
        return capsys.readouterr().out

    assert "contract version 1, which stays; by version 2: bash prepare_data.sh old --renew" in prepared()
    fold_set(folder, data.folds)
    record = read_record(folder, workspace / "raw" / "old" / "videos" / "1.mkv")
    assert {key: record[key] for key in OLD_KEYS} == OLD_KEYS and "contract" not in record
    assert (folder / "prepare.json").read_bytes() == (OLD / "prepare.json").read_bytes()
    old = load_set("old", data.frames)
    assert (old.digest, old.version) == (OLD_HASH, 1)
    assert set(read_table(folder / "labels_video.csv", ["reason"])["reason"]) == {""}
    assert check_set(folder, find_set("old"), data) == ([], set())
    assert "6 already done" in prepared() and load_set("old", data.frames).digest == OLD_HASH
    assert member_version(old, workspace) == 1

    # Stopped before its end it goes on as it was begun: version 1 by its records.
    (folder / "prepare.json").unlink()
    (folder / ".records" / "3.json").unlink()
    assert find_version(folder) == 1 and "5 already done" in prepared()
    assert load_set("old", data.frames).digest == OLD_HASH

    # Made anew, also when that is stopped and goes on without the option.
    assert "6 to do: frames missing or made under another plan or contract" in prepared("--renew")
    (folder / "prepare.json").unlink()
    (folder / ".records" / "3.json").unlink()
    assert find_version(folder) == 2
    told = prepared()
    assert "which stays" not in told and "noted: hlg 2, pixel_aspect 1" in told
    new = load_set("old", data.frames)
    assert new.version == 2 and new.digest != OLD_HASH and member_version(new, workspace) == 2
    fold_set(folder, data.folds)
    videos = read_table(folder / "labels_video.csv", ["reason", "width", "height"]).set_index("filename")
    assert videos["reason"].tolist() == ["", "note: hlg", "note: pixel_aspect=3:2", "", "note: hlg", ""]
    assert videos.loc["2.mkv", ["width", "height"]].tolist() == ["120", "64"]
    assert check_set(folder, find_set("old"), data) == ([], set())


def member_version(prepared, workspace: Path) -> int:
    """The contract version of a member that is trained on a set."""
    import pandas as pd

    model, description = load_member(OLD / "convnext_large_fold0.safetensors")
    described = {"recipe": description["recipe"], "fold": 0, "data": "old", "data_hash": prepared.digest}
    rows = [{"filename": "0.mkv", "video_id": "0", "frame_id": 1, "label": 0, "fold": 0, "score": 0.2, "status": "ok"}]
    rows.append(rows[0] | {"filename": "1.mkv", "label": 1, "score": 0.7})
    finish(model, pd.DataFrame(rows), prepared, described, workspace)
    return describe_member(weights_path("old", "convnext_large", 0))["contract"]["version"]


def test_a_version_that_is_not_spoken_is_refused_with_the_ones_that_are(workspace):
    write_set(workspace / "raw" / "old")
    data = load_data("old", ["folds.n=2", "workers=1"])
    prepare_set(data)
    path = workspace / "data" / "old" / "prepare.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(UserError, match=r"prepare.json: .*version 3; this code speaks the versions 1, 2"):
        prepare_set(data)
