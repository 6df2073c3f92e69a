"""What people hand over to be scored: folders of all kinds, one file, orders, weights that lie elsewhere."""

import csv
import shutil
import sys
import unicodedata
from pathlib import Path

import av
import numpy as np
import pytest
from test_prediction import put_member

from liveness import predict
from liveness.base.compose import load_ensemble
from liveness.base.config import Ensemble, EnsembleMember, FramePlan
from liveness.base.errors import UserError
from liveness.base.files import VIDEO_ENDINGS, look_through
from liveness.frames.video import read_frames
from liveness.prediction.engine import load_members, read_ensemble, score_paths
from liveness.prediction.inputs import NoVideos, videos_below
from liveness.prediction.ready import WeightsMissing
from liveness.prediction.rows import Row
from liveness.prediction.submission_order import arrange_rows, find_order

FORMATS = {
    ".qt": ("mov", "libx264"), ".f4v": ("f4v", "libx264"), ".3gpp": ("3gp", "libx264"),
    ".mk3d": ("matroska", "libx264"), ".divx": ("avi", "mpeg4"), ".asf": ("asf", "wmv2"),
    ".mpe": ("mpeg", "mpeg1video"), ".vob": ("vob", "mpeg2video"),
    ".m2t": ("mpegts", "libx264"), ".h264": ("h264", "libx264"), ".264": ("h264", "libx264"),
    ".hevc": ("hevc", "libx265"), ".h265": ("hevc", "libx265"), ".265": ("hevc", "libx265"),
    ".mjpeg": ("mjpeg", "mjpeg"), ".mjpg": ("mjpeg", "mjpeg"), ".ivf": ("ivf", "libvpx"),
}  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
def test_an_ending_that_counts_as_a_videos_is_one_that_decodes(tmp_path, ending):
    format, codec = FORMATS[ending]
    path = tmp_path / f"clip{ending}"
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        for number in range(6):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(picture.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode())
    assert ending in VIDEO_ENDINGS and videos_below(tmp_path) == [path]
    assert len(read_frames(path, [FramePlan(plan="all")]).frames) == 6


@pytest.fixture
def mix(tmp_path, tiny_clips) -> Path:
    """A video, what could be meant as one, and what nobody takes for one."""
    folder = tmp_path / "mix"
    clip = tiny_clips(folder / "0.mp4", 4, (64, 64))
    for name in ("noext", "z.mp4 ", "more/1.mp4", "more/2.mp4", "odd.xyz", "a.gif", "b.GIF", "c.gif", "d.gif"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, folder / name)
    (folder / "pages").mkdir()
    for name in ("README", "label.csv", ".hidden.xyz", "pages/index.html"):
        (folder / name).write_text("text\n")
    return folder


def test_what_is_not_scored_is_counted_and_named_in_one_note(mix, capsys):
    assert [path.name for path in videos_below(mix)] == ["0.mp4"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"note: {mix}: 8 are not scored beside the videos: a.gif, b.GIF, c.gif and 1 more (a picture or animation), "
        "more (a folder with videos in it), noext (no ending), odd.xyz (an unknown ending), "
        "'z.mp4 ' (a blank after the ending)"
    )
    left = look_through(mix)[1]
    assert ("noext", "no ending") in left and len(left) == 8


def test_a_folder_of_nothing_but_these_says_what_there_is(mix):
    (mix / "0.mp4").unlink()
    with pytest.raises(NoVideos, match=r"no videos in it.*there is a\.gif, b\.GIF, c\.gif and 1 more \(a picture"):
        videos_below(mix)


def test_beside_videos_in_videos_only_folders_are_told_of(mix, capsys):
    shutil.copytree(mix, mix / "set" / "videos")
    (mix / "0.mp4").rename(mix / "other.xyz")
    (mix / "videos").mkdir()
    shutil.copy(mix / "noext", mix / "videos" / "7.mp4")
    shutil.copy(mix / "noext", mix / "videos" / "8")
    assert [path.name for path in videos_below(mix)] == ["7.mp4"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(": videos/8 (no ending), more, set/videos (a folder with videos in it)")


def test_two_files_with_one_stem_are_two_rows_and_two_of_one_name_an_error_that_names_both(tmp_path, tiny_clips):
    for name in ("a/videos/IMG_1.mp4", "a/videos/IMG_1.MOV", "b/videos/2.mp4"):
        tiny_clips(tmp_path / name, 4, (64, 64))
    assert {path.name for path in videos_below(tmp_path)} == {"IMG_1.mp4", "IMG_1.MOV", "2.mp4"}
    (tmp_path / "b" / "videos" / "2.mp4").rename(tmp_path / "b" / "videos" / "IMG_1.mp4")
    with pytest.raises(UserError, match="a/videos/IMG_1.mp4 and .*b/videos/IMG_1.mp4 have one name") as caught:
        videos_below(tmp_path)
    assert f"bash predict.sh {tmp_path}/a/videos RESULT" in str(caught.value)


def predicted(monkeypatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    return predict.main()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_file_is_an_input(workspace, tiny_clips, monkeypatch):
    put_member("convnext_large", 0)
    clip = tiny_clips(workspace / "one.mp4", 4, (64, 64))
    tiny_clips(workspace / "other.mp4", 4, (64, 64))
    (workspace / "sample_submission.csv").write_text("fname,liveness_score\nother.mp4,0.5\n")
    assert predicted(monkeypatch, clip, workspace / "out", "--members", "convnext_large:0") == 0
    (row,) = rows_of(workspace / "out")  # not the sample's, which is of the whole folder
    assert (row["fname"], row["status"]) == ("one.mp4", "ok")


# The order.


@pytest.mark.parametrize(
    "text",
    ["fname;liveness_score\n2.mp4;0.5\n", "FNAME,SCORE\n2.mp4,0.5\n", "fname\n2.mp4\n2.mp4\n", "fname\n../2.mp4\n", ""],
)
def test_a_sample_that_was_only_found_costs_no_run_its_results(tmp_path, capsys, text):
    videos = [tmp_path / "1.mp4", tmp_path / "2.mp4"]
    (tmp_path / "sample_submission.csv").write_text(text)
    assert find_order(tmp_path, videos) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}/sample_submission.csv: ") and "rows are in natural order" in line
    with pytest.raises(UserError, match="sample_submission.csv"):  # which was named is meant
        find_order(tmp_path, videos, tmp_path / "sample_submission.csv")


def test_names_are_matched_however_their_letters_are_composed(tmp_path):
    composed, apart = (unicodedata.normalize(form, "nguyễn.mp4") for form in ("NFC", "NFD"))
    assert composed != apart
    rows = {name: Row(name, 0.25, "live", "ok", "", 3, None, 1.0) for name in (apart, "1.mp4", "z.mp4 ")}
    videos = [tmp_path / name for name in rows]
    found = arrange_rows(rows, videos, ["z.mp4", composed, "7.mp4"])
    # As the sample spells them: its reader looks for these names.
    names = [("z.mp4", "ok"), (composed, "ok"), ("7.mp4", "missing"), ("1.mp4", "ok")]
    assert [(row.fname, row.status) for row in found] == names
    both = {name: Row(name, score, "live", "ok", "", 3, None, 1.0) for name, score in ((composed, 0.1), (apart, 0.9))}
    kept = arrange_rows(both, [tmp_path / name for name in both], [apart])  # the very name comes before a like one
    assert [(row.fname, row.score) for row in kept] == [(apart, 0.9), (composed, 0.1)]


# Weights.


def put_ensemble(data: str, **changes) -> None:
    """Narrow members of zalo2022 in weights/<data>/."""
    for member in load_ensemble("zalo2022").members:
        put_member(member.recipe, member.fold, data, **changes)


def test_missing_weights_name_the_ensembles_that_are_ready(workspace, tiny_clips, monkeypatch):
    put_ensemble("mine")
    put_member("efficientnet_lite0", 0, "other", folds=5)  # one of five: not ready
    with pytest.raises(WeightsMissing, match="ready to use: DATA=mine ENSEMBLE=zalo2022 bash predict.sh VIDEOS;"):
        read_ensemble(load_ensemble("zalo2022"))
    clip = tiny_clips(workspace / "my clips" / "1.mp4", 4, (64, 64))
    with pytest.raises(UserError) as caught:
        predicted(monkeypatch, clip.parent, workspace / "out", "--ensemble", "demo")
    line = str(caught.value)
    assert f"DATA=mine ENSEMBLE=zalo2022 bash predict.sh '{clip.parent}' {workspace}/out" in line and "\n" not in line
    assert "DATA=demo bash train.sh demo" in line and "ENSEMBLE=efficientnet_lite0" not in line
    assert not (workspace / "out" / "submission.csv").exists()
    with pytest.raises(WeightsMissing, match="DATA=mine bash scripts/train_member.sh convnext_large 4"):
        read_ensemble(Ensemble("convnext_large_fold4", "mine", [EnsembleMember("convnext_large", 4)]))


def test_a_calibration_that_was_lost_is_told_in_every_row_and_refused_where_that_is_asked(
    workspace, tiny_clips, monkeypatch, capsys
):
    put_ensemble("train", data_hash="abc")
    clip = tiny_clips(workspace / "clips" / "1.mp4", 4, (64, 64))
    assert predicted(monkeypatch, clip, workspace / "out") == 0
    told = capsys.readouterr()
    (line,) = [line for line in told.err.splitlines() if "calibrated" in line]
    assert line.startswith("warning: not calibrated, weights/train/zalo2022.json is not there")
    assert "python -m liveness.evaluate zalo2022 --data train" in line
    assert "threshold 0.5000: 0.5, since weights/train/zalo2022.json is not there" in told.out
    (row,) = rows_of(workspace / "out")
    assert row["status"] == "ok" and row["reason"].startswith(
        "not calibrated, weights/train/zalo2022.json is not there"
    )
    with pytest.raises(UserError, match="not calibrated.*without --strict this is a warning"):
        predicted(monkeypatch, clip, workspace / "strict", "--strict")
    # Members chosen by hand, and weights of which nobody has held-out scores, never had one.
    assert predicted(monkeypatch, clip, workspace / "hand", "--members", "convnext_large:0", "--strict") == 0
    assert rows_of(workspace / "hand")[0]["reason"] == "" and "not calibrated" not in capsys.readouterr().err
    put_ensemble("train")
    (again,) = score_paths([clip], load_members(load_ensemble("zalo2022")))
    assert again.reason == ""
