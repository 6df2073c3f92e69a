"""The preparation driver on tiny clips: what it writes, what it repeats, what it survives."""

import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from skimage import data as images

from liveness import sanity_check
from liveness.base import files
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.frames.workers import Failed, run_tasks
from liveness.sets.grouping import read_grouping
from liveness.sets.groups import column_notes, find_subjects
from liveness.sets.labels import find_set
from liveness.sets.set_tables import VIDEO_COLUMNS


@pytest.fixture
def clips(workspace, tiny_clips):
    """raw/s with 12 labelled clips of 6 subjects; a face walks through the last of each class."""
    folder = workspace / "raw/s"
    rows = ["fname,liveness_score,subject"]
    for i in range(12):
        tiny_clips(folder / f"videos/{i}.mp4", frames=10, seed=i)
        rows.append(f"{i}.mp4,{i % 2},p{i // 2 % 6}")
    for i in (10, 11):
        face_clip(folder / f"videos/{i}.mp4", shift=i)
    (folder / "label.csv").write_text("\n".join(rows) + "\n")
    return folder


def face_clip(path: Path, shift: int = 0) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 240, 240, "yuv420p"
        for i in range(10):
            picture = np.roll(images.astronaut()[: 240 + shift, 100:340][-240:], i, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a prepared set but the records (they name the source's time), by relative path.

    The page says when the set was prepared; that alone may differ between two preparations.
    """
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".records" not in path.parts
    }
    if "dataset.html" in found:
        found["dataset.html"] = re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC", b"", found["dataset.html"])
    return found


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def prepare(run_driver, *args, env=None):
    result = run_driver("prepare_data.sh", *args, env=env)
    assert "Traceback" not in result.stderr, result.stderr
    return result


@pytest.fixture
def prepare_here(monkeypatch, capsys):
    """What the driver runs, step by step in this process: much quicker to repeat. ``warned``: what stderr got last."""

    def call(name: str, *overrides: str, verbs=("prepare", "make_folds", "sanity_check"), options=()) -> str:
        monkeypatch.setattr(files, "_swept", set())  # a process of its own looks for what dead ones left
        for verb in verbs:
            changes = ["-o", *overrides] if overrides and verb != "sanity_check" else []
            monkeypatch.setattr(sys, "argv", [verb, name, *changes, *options])
            assert not importlib.import_module(f"liveness.{verb}").main()
        printed = capsys.readouterr()
        call.warned = printed.err
        return printed.out

    return call


def test_everything_is_written(clips, workspace, run_driver):
    result = prepare(run_driver, "s", "-o", "folds.n=3")
    assert result.returncode == 0, result.stderr
    folder = workspace / "data/s"
    heads = {
        "labels_video": ["filename", "label"],
        "labels_keyframes": ["filename", "video_id", "frame_id", "label"],
        "labels_bbox": ["filename", "video_id", "frame_id", "label"],
    }
    for name, head in heads.items():
        whole, train, test = (read(folder / f"{name}{part}.csv") for part in ("", "_train", "_test"))
        assert list(whole.columns[: len(head)]) == head
        assert len(whole) == len(train) + len(test) and len(test) > 0
        assert not set(train["video_id"]) & set(test["video_id"])
    assert (folder / "labels.csv").read_bytes() == (clips / "label.csv").read_bytes()
    videos, frames, boxes = (read(folder / f"{name}.csv") for name in heads)
    assert list(videos["filename"]) == [f"{i}.mp4" for i in range(12)]
    assert set(videos["status"]) == {"ok"} and set(videos["frames"]) == {"10"}
    assert list(frames["filename"]) == [f"{i}-{k}.jpg" for i in range(12) for k in (2, 5, 7)]
    assert list(boxes["face"]) == ["0"] * 30 + ["1"] * 6
    for row in boxes.itertuples():
        stem = row.filename.removesuffix(".jpg")
        image = cv2.imread(str(folder / "frames" / row.filename))
        assert image is not None
        lines = (folder / f"faces/bbox/{stem}.txt").read_text().splitlines()
        assert len(lines) == int(row.n_faces)
        assert (folder / f"faces/crop/{stem}.jpg").is_file() == (row.face == "1")
        assert (folder / f"faces/viz/{stem}.jpg").is_file() == (row.face == "1")
        if row.face == "1":
            kind, *values = lines[0].split()
            assert kind == "face" and values == [row.confidence, row.x, row.y, row.w, row.h]
            crop = cv2.imread(str(folder / f"faces/crop/{stem}.jpg"))
            assert crop.shape[:2] == (round(1.4 * max(float(row.w), float(row.h))),) * 2
    folds = read(folder / "folds.csv")
    assert list(folds.columns[:4]) == ["filename", "label", "group", "fold"]
    assert folds.groupby("group")["fold"].nunique().max() == 1 and set(folds["fold"]) == {"0", "1", "2"}
    assert set(read(folder / "labels_video_test.csv")["filename"]) == set(folds[folds["fold"] == "0"]["filename"])
    link = folder / "videos/3.mp4"
    assert link.is_symlink() and not os.path.isabs(os.readlink(link)) and link.samefile(clips / "videos/3.mp4")
    assert json.loads((folder / "prepare.json").read_text())["data"]["name"] == "s"


def test_the_second_run_does_only_what_is_missing(clips, workspace, prepare_here):
    prepare_here("s", "folds.n=3")
    folder = workspace / "data/s"
    before = tree(folder)
    times = {path: (folder / path).stat().st_mtime_ns for path in before if path.startswith(("frames", "faces"))}
    again = prepare_here("s", "folds.n=3")
    assert "12 already done" in again and "kept" in again
    assert tree(folder) == before
    assert all((folder / path).stat().st_mtime_ns == then for path, then in times.items())
    (folder / "frames/3-5.jpg").unlink()
    (folder / "faces/bbox/4-5.txt").write_text("face 1 2 3 4 5\n")
    again = prepare_here("s", "folds.n=3")
    assert "10 already done" in again and tree(folder) == before
    # Another video of the same size and time of change, as archives with fixed times unpack.
    raw = clips / "videos/3.mp4"
    times, data = (raw.stat().st_atime_ns, raw.stat().st_mtime_ns), bytearray(raw.read_bytes())
    data[-1] ^= 1
    raw.write_bytes(data)
    os.utime(raw, ns=times)
    assert "11 already done" in prepare_here("s", "folds.n=3")


@pytest.mark.full
def test_changed_settings_rebuild_what_they_touch(clips, workspace, prepare_here):
    prepare_here("s", "folds.n=3")
    folder = workspace / "data/s"
    before = tree(folder)
    assert "12 to do: faces" in prepare_here("s", "folds.n=3", "crop_scale=2")
    after = tree(folder)
    changed = {path for path in before if before[path] != after[path]}
    assert {path.split("/")[0] for path in changed} == {"faces", "prepare.json"}
    assert "12 to do: frames" in prepare_here("s", "folds.n=3", "frames.plan=even", "frames.count=2")
    assert len(list((folder / "frames").iterdir())) == 24 == len(read(folder / "labels_keyframes.csv"))
    assert not list(folder.rglob(".aside*"))
    folds = (folder / "folds.csv").read_bytes()
    assert "dealing anew" in prepare_here("s", "folds.n=2")
    assert (folder / "folds.csv").read_bytes() != folds
    prepare_here("s", "folds.n=3")
    assert tree(folder) == before  # the way back is the same


def test_videos_that_leave_the_set_take_their_files_along(clips, workspace, prepare_here):
    prepare_here("s", "folds.n=3")
    lines = (clips / "label.csv").read_text().splitlines()
    (clips / "label.csv").write_text("\n".join(lines[:-2]) + "\n")
    assert "dealing anew" in prepare_here("s", "folds.n=2")
    assert not list((workspace / "data/s").rglob("11*"))


def test_one_bad_video_among_many(clips, workspace, prepare_here):
    (clips / "videos/4.mp4").write_bytes(b"")
    data = (clips / "videos/5.mp4").read_bytes()
    (clips / "videos/5.mp4").write_bytes(data[: len(data) // 2])
    prepare_here("s", "folds.n=3")
    said = prepare_here.warned
    assert "warning: 4.mp4: unreadable" in said and "warning: 5.mp4" in said
    videos = read(workspace / "data/s/labels_video.csv").set_index("filename")
    assert videos.at["4.mp4", "status"] == "unreadable" and videos.at["4.mp4", "reason"]
    assert videos.at["3.mp4", "status"] == "ok"
    assert "4.mp4" in set(read(workspace / "data/s/folds.csv")["filename"])
    with pytest.raises(UserError, match="--strict: 2 videos cannot be read"):
        prepare_here("s", "folds.n=3", options=["--strict"])
    for path in (clips / "videos").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no video of s can be read"):
        prepare_here("s")


def test_a_set_without_labels(workspace, tiny_clips, prepare_here):
    for i in range(3):
        tiny_clips(workspace / f"raw/public/{i}.mp4", seed=i)
    assert "no labels, so no folds" in prepare_here("public")
    folder = workspace / "data/public"
    assert set(read(folder / "labels_video.csv")["label"]) == {""}
    assert not (folder / "labels.csv").exists() and not (folder / "folds.csv").exists()
    assert not list(folder.glob("*_train.csv"))


@pytest.mark.full
def test_the_default_set_in_the_published_layout(workspace, tiny_clips, run_driver):
    rows = ["fname,liveness_score"]
    for i in range(10):
        tiny_clips(workspace / f"train_video/{i}.mp4", frames=4, seed=i)
        rows.append(f"{i}.mp4,{i % 2}")
    (workspace / "raw").mkdir()
    (workspace / "raw/label.csv").write_text("\n".join(rows) + "\n")
    result = prepare(run_driver)
    assert result.returncode == 0, result.stderr
    # Of the challenge's duplicates only 1 is in these ten (ids are names without their ending): it is used.
    assert "groups: zalo2022.txt: 1 ids of 27, the others are not in the set" in result.stdout
    assert len(read(workspace / "data/train/folds.csv")) == 10


def test_a_prepared_set_is_a_set(clips, workspace, prepare_here):
    """The baseline's layout: videos and labels.csv already lie in data/<set>."""
    folder = workspace / "data/own"
    folder.mkdir(parents=True)
    shutil.move(clips / "videos", folder / "videos")
    shutil.move(clips / "label.csv", folder / "labels.csv")
    prepare_here("own", "folds.n=3")
    assert not (folder / "videos/0.mp4").is_symlink() and (folder / "labels_video.csv").is_file()


def test_groups_file_joins_and_leaves_out(clips, workspace, prepare_here):
    (workspace / "groups.txt").write_text("same: 0, 2, 99\nleft out: 7, 8.MP4\n")
    with pytest.raises(UserError, match=r"2 of its 5 names are no video of the set: '99', '8.MP4'"):
        prepare_here("s", "folds.n=2", "folds.groups=groups.txt")
    assert not (workspace / "data").exists()  # known before the first video is decoded
    (workspace / "groups.txt").write_text("same: 0 , 2.mp4\nleft out: 7\n")
    printed = prepare_here("s", "folds.n=2", "folds.groups=groups.txt")
    assert "groups: groups.txt: 3 ids; left out: 7.mp4" in printed
    folder = workspace / "data/s"
    videos = read(folder / "labels_video.csv").set_index("filename")
    assert videos.at["7.mp4", "status"] == "left_out" and videos.at["7.mp4", "frames"] == ""
    assert len(set(videos.loc[["0.mp4", "1.mp4", "2.mp4", "3.mp4"], "group"])) == 1
    assert "7.mp4" not in set(read(folder / "folds.csv")["filename"])


def test_copies_join_groups_and_are_listed(clips, workspace, prepare_here):
    shutil.copy(clips / "videos/0.mp4", clips / "videos/5.mp4")  # attack of p0 = live of p2
    prepare_here("s", "folds.n=2")
    folder = workspace / "data/s"
    groups = read(folder / "labels_video.csv").set_index("filename")["group"]
    assert len(set(groups[["0.mp4", "1.mp4", "4.mp4", "5.mp4"]])) == 1 and groups.nunique() == 5
    row = read(folder / "duplicates.csv").set_index(["filename", "other"]).loc[("0.mp4", "5.mp4")]
    assert (row["distance"], row["joins_groups"], row["contradiction"]) == ("0.0", "1", "1")
    prepare_here("s", "folds.n=2", "folds.duplicates=0")
    assert read(folder / "labels_video.csv")["group"].nunique() == 6 and read(folder / "duplicates.csv").empty


def test_folds_of_ones_own_are_checked_and_kept(clips, workspace, prepare_here):
    folder = workspace / "data/s"
    folder.mkdir(parents=True)
    rows = ["filename,label,fold"] + [f"{i}.mp4,{i % 2},{i // 2 % 2}" for i in range(12)]
    (folder / "folds.csv").write_text("\n".join(rows) + "\n")
    assert "checked and kept" in prepare_here("s")
    # Names, labels and folds stay; the groups, which evaluation and training need, are added.
    kept = read(folder / "folds.csv")
    assert [",".join(row) for row in kept[["filename", "label", "fold"]].to_numpy()] == rows[1:]
    assert list(kept["group"]) == list(read(folder / "labels_video.csv")["group"])
    spaced = ["Fname;Label;Fold".replace(";", ","), *(row.replace(".mp4", " ", 1) for row in rows[1:])]
    (folder / "folds.csv").write_text("\n".join(spaced) + "\n")
    prepare_here("s")
    assert read(folder / "folds.csv").equals(kept)
    (folder / "folds.csv").write_text("\n".join(rows).replace("0.mp4,0,0", "0.mp4,0,1", 1) + "\n")
    with pytest.raises(UserError, match="leak: group 'p0'"):
        prepare_here("s")


@pytest.mark.parametrize(
    ("args", "code", "expected"),
    [
        (["nowhere"], 1, "the sets that are there: raw/s"),
        (["raw/s/", "-o", "frames.step=0"], 1, "frames.step=0"),
        (["s", "-o", "frame.plan=all"], 1, "did you mean"),
        pytest.param(["s", "-o", "folds.n=20"], 1, "groups for 20 folds", marks=pytest.mark.full),
        (["s", "-o"], 2, "-o needs KEY=VALUE"),
        (["s", "t"], 2, "one SET at a time"),
        (["s", "folds.n=3"], 2, "folds.n=3 needs -o before it: bash prepare_data.sh s -o folds.n=3 (-h"),
        (["--wrong"], 2, "unknown option"),
        (["-h"], 0, ""),
    ],
)
def test_mistakes_are_one_line(clips, run_driver, args, code, expected):
    result = prepare(run_driver, *args)
    assert result.returncode == code and expected in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == (1 if code else 0)
    assert code or "prepare_data.sh [SET]" in result.stdout


def test_shards_merge_into_the_tables_of_one_run(clips, workspace, prepare_here, monkeypatch):
    prepare_here("s", "folds.n=3")
    whole = tree(workspace / "data/s")
    shutil.rmtree(workspace / "data")
    for shard in ("2/3", "1/3", "3/3"):
        monkeypatch.setenv("SHARD", shard)
        prepare_here("s", "folds.n=3", verbs=["prepare"])
        assert not (workspace / "data/s/labels_video.csv").exists()
    monkeypatch.delenv("SHARD")
    assert "12 already done" in prepare_here("s", "folds.n=3")
    assert tree(workspace / "data/s") == whole
    monkeypatch.setenv("SHARD", "4/3")
    with pytest.raises(UserError, match="SHARD=4/3"):
        prepare_here("s")


def test_videos_that_are_away_cost_nothing_that_was_made_of_them(clips, workspace, prepare_here):
    """As links into a disk that is not mounted: their frames and tables are not theirs to take along."""
    prepare_here("s", "folds.n=3")
    folder, videos = workspace / "data/s", workspace / "raw/s/videos"

    def files() -> dict[str, bytes]:
        made = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".mp4", ".lock")]
        return {str(path): path.read_bytes() for path in made if path.name != ".lock"}

    before = files()
    store = workspace / "disk"
    videos.rename(store)
    videos.mkdir()
    for path in store.iterdir():
        (videos / path.name).symlink_to(store / path.name)
    store.rename(workspace / "elsewhere")
    for verbs, options in ((["prepare"], []), (["sanity_check"], ["--fix"])):
        with pytest.raises(UserError, match="prepared videos are not there any more"):
            prepare_here("s", *(["folds.n=3"] if verbs == ["prepare"] else []), verbs=verbs, options=options)
    assert files() == before
    (workspace / "elsewhere").rename(store)
    assert "already done" in prepare_here("s", "folds.n=3")


def test_two_preparations_of_one_set_do_not_meet(clips, workspace, prepare_here, monkeypatch):
    """Whole runs are alone; those of different shards, on several machines, work side by side."""
    module = importlib.import_module("liveness.sets.preparation")
    folder = workspace / "data/s"

    def in_the_middle(*_):
        """What a second run meets while the first is at its videos."""
        monkeypatch.setattr(module, "_work", work)
        with pytest.raises(UserError, match="data/s: another process prepares this set"):
            prepare_here("s", "folds.n=3", verbs=["prepare"])
        with pytest.raises(UserError, match="another process prepares this set"):
            prepare_here("s", "folds.n=3", verbs=["make_folds"])
        others = os.environ.get("SHARD")
        if not others:
            return
        monkeypatch.setenv("SHARD", "2/3")
        assert "SHARD=2/3: 4 of 12" in prepare_here("s", "folds.n=3", verbs=["prepare"])
        monkeypatch.delenv("SHARD")
        with pytest.raises(UserError, match="another process prepares this set"):
            prepare_here("s", "folds.n=3", verbs=["prepare"])
        monkeypatch.setenv("SHARD", others)

    work = module._work
    monkeypatch.setattr(module, "_work", in_the_middle)
    monkeypatch.setenv("SHARD", "1/3")
    prepare_here("s", "folds.n=3", verbs=["prepare"])
    monkeypatch.delenv("SHARD")
    monkeypatch.setattr(module, "_work", lambda *given: (in_the_middle(), work(*given)))
    assert "4 already done" in prepare_here("s", "folds.n=3", verbs=["prepare"])
    assert [path.name for path in folder.glob(".lock*")] == [".lock"]


def test_a_set_that_is_not_there_leaves_no_folder(workspace, prepare_here):
    with pytest.raises(UserError):
        prepare_here("sett", verbs=["prepare"])
    assert not (workspace / "data").exists()


def test_a_name_too_long_for_its_frames_is_a_row_and_a_warning(workspace, tiny_clips, prepare_here, capsys):
    names = ["n" * 248 + ".mp4", "m" * 200 + ".mp4"]
    for i, name in enumerate(names):
        tiny_clips(workspace / "raw/long/videos" / name, frames=4, seed=i)
    prepare_here("long", verbs=["prepare", "sanity_check"])
    videos = read(workspace / "data/long/labels_video.csv").set_index("filename")
    assert list(videos.loc[names, "status"]) == ["left_out", "ok"]
    assert "too long" in videos.loc[names[0], "reason"] and "rename" in videos.loc[names[0], "reason"]
    assert set(read(workspace / "data/long/labels_keyframes.csv")["video_id"]) == {"m" * 200}


def test_sanity_check_sees_and_mends(clips, workspace, prepare_here, monkeypatch, capsys):
    prepare_here("s", "folds.n=3")
    folder = workspace / "data/s"
    before = tree(folder)

    def check(*args):
        monkeypatch.setattr(sys, "argv", ["sanity_check", "s", *args])
        code = sanity_check.main()
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())

    assert check().returncode == 0
    (folder / "frames/1-2.jpg").unlink()
    picture = bytearray((folder / "faces/crop/11-5.jpg").read_bytes())
    picture[len(picture) // 2] ^= 255  # same size, other content
    (folder / "faces/crop/11-5.jpg").write_bytes(picture)
    table = (folder / "labels_video.csv").read_text()
    (folder / "labels_video.csv").write_text(table.replace("3.mp4,1,3,ok", "3.mp4,0,3,ok"))
    (folder / "labels_keyframes_train.csv").unlink()
    (folder / "videos/6.mp4").unlink()
    found = check()
    assert found.returncode == 1
    for part in ("frames/1-2.jpg", "faces/crop/11-5.jpg", "unexpected row: 3.mp4,0", "_train.csv", "videos/6.mp4"):
        assert part in found.stderr, part
    fixed = check("--fix")
    assert fixed.returncode == 0, fixed.stderr
    assert tree(folder) == before and "no mismatch" in fixed.stdout
    (folder / "frames/nobody-1.jpg").write_bytes(b"")
    assert "nobody-1.jpg" in check("--fix").stderr and (folder / "frames/nobody-1.jpg").exists()


def test_a_video_that_needs_too_much_costs_only_itself(clips, workspace, prepare_here):
    """Its row says so, the set is whole for the check, and the next run tries it again."""
    import av

    with av.open(str(clips / "videos/4.mp4"), "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 8000, 6000, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((6000, 8000, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    prepare_here("s", "folds.n=2", "video_gib=0.3")
    row = read(workspace / "data/s/labels_video.csv").set_index("filename").loc["4.mp4"]
    assert (row["status"], row["reason"]) == ("unreadable", "needs more than 0.3 GiB of memory")
    assert "1 to do: not prepared yet" in prepare_here("s", "folds.n=2", "video_gib=4")
    assert set(read(workspace / "data/s/labels_video.csv")["status"]) == {"ok"}


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file whose reading fails: Linux has one")
def test_a_video_that_cannot_be_read_from_the_disk_costs_only_itself(clips, workspace, prepare_here):
    (clips / "videos/4.mp4").unlink()
    (clips / "videos/4.mp4").symlink_to("/proc/self/mem")
    prepare_here("s", "folds.n=2", verbs=["prepare", "make_folds"])
    row = read(workspace / "data/s/labels_video.csv").set_index("filename").loc["4.mp4"]
    assert row["status"] == "unreadable" and row["reason"].startswith("cannot be read: ")


def test_embeddings_join_persons(clips, workspace, prepare_here):
    # Within 0.45 rad: 0, 1, 8, 10 and 11; 2, 3 and 9; 4 and 5; 6 and 7. Subject p4 (8 and 9) joins the first two.
    angles = [0, 0.1, 3, 3.1, 1.5, 1.6, 4.5, 4.6, 0.2, 2.9, 6, 6]
    rows = [f"{i}.mp4,{np.cos(a)},{np.sin(a)}" for i, a in enumerate(angles)]
    (workspace / "mặt.csv").write_text("filename,x,y\n" + "\n".join(rows) + "\n", encoding="utf-8")
    said = prepare_here("s", "folds.n=2", 'folds.embeddings="mặt.csv"', "folds.embedding_similarity=0.9")
    assert "identities: mặt.csv: 12 videos; 8 links" in said
    groups = read(workspace / "data/s/labels_video.csv").set_index("filename")["group"]
    assert set(groups) == {"p0+3 others", "p2", "p3"}
    assert (groups == "p0+3 others").sum() == 8
    links = read(workspace / "data/s/identities.csv")
    assert list(links.columns) == ["filename", "other", "similarity", "label", "other_label", "joins_groups"]
    joins = links[links["joins_groups"] == "1"]
    assert set(zip(joins["filename"], joins["other"], strict=True)) >= {("0.mp4", "10.mp4"), ("2.mp4", "9.mp4")}
    prepare_here("s", "folds.n=2")
    assert not (workspace / "data/s/identities.csv").exists()
    assert read(workspace / "data/s/labels_video.csv")["group"].nunique() == 6
    with pytest.raises(UserError, match="folds.embeddings=nowhere.csv: no such file"):
        prepare_here("s", "folds.embeddings=nowhere.csv")


def test_the_test_fold_and_the_crops_size_are_choices(clips, workspace, prepare_here):
    folder = workspace / "data/s"
    prepare_here("s", "folds.n=3", "folds.test=2", "crop_size=48")
    folds = read(folder / "folds.csv")
    assert set(read(folder / "labels_video_test.csv")["filename"]) == set(folds[folds["fold"] == "2"]["filename"])
    crops = [cv2.imread(str(path)) for path in (folder / "faces/crop").iterdir()]
    assert len(crops) == 6 and {crop.shape for crop in crops} == {(48, 48, 3)}
    # Another test fold deals nothing anew: members trained on the folds stay good.
    assert "kept" in prepare_here("s", "folds.n=3", "folds.test=1", "crop_size=48")
    assert (folder / "folds.csv").read_text() == folds.to_csv(index=False, lineterminator="\n")
    assert set(read(folder / "labels_video_test.csv")["filename"]) == set(folds[folds["fold"] == "1"]["filename"])


def test_nothing_of_the_users_is_lost_silently(clips, workspace, prepare_here, capsys):
    own = workspace / "data/s/videos/3.mp4"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"another recording")
    with pytest.raises(UserError, match="not overwritten"):
        prepare_here("s", "folds.n=2")
    assert own.read_bytes() == b"another recording"
    own.unlink()
    with pytest.raises(UserError, match="folds.group_column=person: .* only the columns filename, label, subject"):
        prepare_here("s", "folds.n=2", "folds.group_column=person")
    text = (clips / "label.csv").read_text()
    (clips / "label.csv").write_text(text.replace("subject", "group"))
    prepare_here("s", "folds.n=2", verbs=["prepare"])
    capsys.readouterr()
    shutil.rmtree(workspace / "data")
    importlib.import_module("liveness.prepare").main()
    assert "group: labels_video.csv has columns of that name" in capsys.readouterr().err
    (clips / "label.csv").unlink()
    (clips / "label.csv").mkdir()
    with pytest.raises(UserError, match="label.csv: not a file"):
        prepare_here("s", "folds.n=2")


def test_two_videos_allow_no_folds_and_the_check_says_so(workspace, tiny_clips, prepare_here):
    for i in range(2):
        tiny_clips(workspace / f"raw/two/videos/{i}.mp4", frames=4, seed=i)
    (workspace / "raw/two/label.csv").write_text("fname,liveness_score\n0.mp4,0\n1.mp4,1\n")
    said = prepare_here("two", "folds.n=2", verbs=["prepare", "sanity_check"])
    assert "no folds, the set allows none" in said and "no mismatch" in said


DAMAGE = {
    "a table in no known encoding": lambda d: (d / "labels_keyframes.csv").write_bytes(b"\xff\xfe\0x"),
    "an empty table": lambda d: (d / "labels_video.csv").write_bytes(b""),
    "no split": lambda d: (d / "labels_bbox_test.csv").unlink(),
    "folds that are no table": lambda d: (d / "folds.csv").write_bytes(b"\xff\xfe\0x"),
    "no folds": lambda d: (d / "folds.csv").unlink(),
    "a record cut short": lambda d: (d / ".records/3.json").write_text('{"version": 5, "by'),
    "a record of another kind": lambda d: (d / ".records/3.json").write_text("[]"),
    "a record altered by hand": lambda d: (d / ".records/3.json").write_text(
        (d / ".records/3.json").read_text().replace("frames/3-2.jpg", "../../raw/s/videos/0.mp4")
    ),
    "no records": lambda d: shutil.rmtree(d / ".records"),
    "no images": lambda d: (shutil.rmtree(d / "frames"), shutil.rmtree(d / "faces")),
    "a killed run's rest": lambda d: (d / "frames/.aside-1-2.jpg").write_bytes(b"half"),
    "another label file": lambda d: (d / "labels.csv").write_text("x"),
    "a link to another video": lambda d: ((d / "videos/1.mp4").unlink(), (d / "videos/1.mp4").symlink_to("2.mp4")),
}


@pytest.mark.full
def test_every_damage_is_reported_and_mended(clips, workspace, prepare_here, monkeypatch, capsys):
    prepare_here("s", "folds.n=2")
    folder = workspace / "data/s"
    before = tree(folder)
    check = importlib.import_module("liveness.sanity_check").main
    for name, damage in DAMAGE.items():
        damage(folder)
        monkeypatch.setattr(sys, "argv", ["sanity_check", "s"])
        assert check() == 1, name
        monkeypatch.setattr(sys, "argv", ["sanity_check", "s", "--fix"])
        assert check() == 0, (name, capsys.readouterr().err)
        assert tree(folder) == before, name
    assert (clips / "videos/0.mp4").exists()


def test_what_is_not_the_checks_to_decide_is_left_and_named(clips, workspace, prepare_here, monkeypatch, capsys):
    prepare_here("s", "folds.n=2")
    folder = workspace / "data/s"
    folds = (folder / "folds.csv").read_text()
    lines = folds.splitlines()
    check = importlib.import_module("liveness.sanity_check").main
    monkeypatch.setattr(sys, "argv", ["sanity_check", "s", "--fix"])
    moved = lines[1].split(",")
    moved[3] = str(1 - int(moved[3]))
    for text, expected in (
        ("\n".join(lines[:-1]), "no row for '11.mp4'"),
        ("\n".join([*lines, lines[-1]]), "'11.mp4' is there twice"),
        ("\n".join([lines[0], ",".join(moved), *lines[2:]]), "leak: group 'p0'"),
    ):
        (folder / "folds.csv").write_text(text + "\n")
        assert check() == 1
        said = capsys.readouterr().err
        assert expected in said and "python -m liveness.make_folds s --force" in said
        assert (folder / "folds.csv").read_text() == text + "\n"
    (folder / "prepare.json").write_text('{"data": {"frames": {"plan": "nonsense"}}}')
    with pytest.raises(UserError, match="nonsense"):
        check()
    (folder / "prepare.json").write_text("[]")
    with pytest.raises(UserError, match="damaged; delete it"):
        check()


def test_what_a_killed_process_left_half_written_is_cleared_away_by_the_next(clips, workspace, prepare_here):
    prepare_here("s", "folds.n=3")
    whole = tree(workspace / "data/s")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    side = workspace / "data/s" / f"{files.ASIDE}{files._here()}-{dead.stdout.strip()}-abc.csv"
    side.write_text("half")
    (workspace / "data/s/duplicates.csv").unlink()
    prepare_here("s", "folds.n=3")
    assert tree(workspace / "data/s") == whole


@pytest.mark.full
def test_killed_anywhere_and_run_again(clips, workspace, prepare_here):
    prepare_here("s", "folds.n=3")
    whole = tree(workspace / "data/s")
    seed = int(time.time())
    rng = random.Random(seed)
    for _ in range(10):
        shutil.rmtree(workspace / "data")
        command = [sys.executable, "-m", "liveness.prepare", "s", "-o", "folds.n=3"]
        env = {**os.environ, "PYTHONPATH": str(CODE / "src")}
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(rng.uniform(0.5, 3.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        prepare_here("s", "folds.n=3")
        assert tree(workspace / "data/s") == whole, f"seed {seed}"


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Damage: flipped bytes, a cut, a moved or zeroed stretch, or two swapped boxes."""
    out = bytearray(data)
    kind = rng.choice(["flip", "flip", "head", "cut", "move", "zero", "swap"])
    if kind == "flip":
        for _ in range(rng.choice([1, 5, 50, 500])):
            out[rng.randrange(len(out))] = rng.randrange(256)
    elif kind == "head":  # where the sizes, counts and offsets are
        for _ in range(rng.choice([1, 3, 10])):
            out[rng.choice([rng.randrange(min(200, len(out))), -rng.randrange(1, min(1500, len(out)))])] = (
                rng.randrange(256)
            )
    elif kind == "cut":
        del out[rng.randrange(len(out)) :]
    elif kind in ("move", "zero"):
        start, size = rng.randrange(len(out)), rng.randrange(1, 2000)
        part = bytes(out[start : start + size])
        out[start : start + size] = bytes(len(part)) if kind == "zero" else b""
        if kind == "move":
            place = rng.randrange(len(out) + 1)
            out[place:place] = part
    else:
        names = [
            n for n in (b"moov", b"mdat", b"trak", b"stsz", b"stco", b"stts", b"avcC", b"idx1", b"movi") if n in out
        ]
        if len(names) > 1:
            one, other = rng.sample(names, 2)
            i, k = out.find(one), out.find(other)
            out[i : i + 4], out[k : k + 4] = other, one
    return bytes(out)


@pytest.mark.full
def test_five_hundred_damaged_files(workspace, tiny_clips, tmp_path, prepare_here):
    seed = int(time.time())
    print(f"seed {seed}")
    rng = random.Random(seed)
    sources = [tiny_clips(tmp_path / f"{i}.{ending}", seed=i) for i, ending in enumerate(("mp4", "mkv", "avi", "mov"))]
    folder = workspace / "raw/s/videos"
    folder.mkdir(parents=True)
    for i in range(500):
        source = rng.choice(sources)
        (folder / f"{i}{source.suffix}").write_bytes(mutated(source.read_bytes(), rng))
    start = time.monotonic()
    prepare_here("s", "video_seconds=20", "folds.duplicates=0")
    rows = read(workspace / "data/s/labels_video.csv")
    assert len(rows) == 500, f"seed {seed}"
    assert set(rows["status"]) <= {"ok", "partial", "unreadable"}
    assert all(rows.loc[rows["status"] != "ok", "reason"] != ""), f"seed {seed}"
    crashed = rows[rows["reason"].str.contains("crashed|given up|GiB")]
    assert crashed.empty, f"seed {seed}: {crashed[['filename', 'reason']].to_dict('records')}"
    print(rows["status"].value_counts().to_dict(), f"{time.monotonic() - start:.0f} s")


def misbehave(task: str):
    """A task for the pool: what a decoder may do on a damaged file."""
    if task == "hang":
        time.sleep(600)
    if task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "memory":
        return len(np.ones(6 << 30, np.uint8))
    return task.upper()


def test_a_worker_that_hangs_crashes_or_eats_memory_costs_one_task():
    tasks = ["a", "hang", "b", "crash", "c", "memory", "d", "e"]
    results = dict(run_tasks(misbehave, tasks, workers=2, seconds=4, gib=2))
    assert set(results) == set(tasks)
    assert {t: r for t, r in results.items() if len(t) == 1} == {t: t.upper() for t in "abcde"}
    assert isinstance(results["hang"], Failed) and "given up after 4 s" in results["hang"].reason
    assert "SIGSEGV" in results["crash"].reason and "more than 2 GiB" in results["memory"].reason


def test_a_header_in_another_case_still_keeps_persons_together(workspace, tiny_clips, prepare_here):
    for i in range(8):
        tiny_clips(workspace / f"raw/s/videos/{i}.mp4", frames=4, seed=i)
    # Blanks around a name and the two spellings of its accents are one person, in the spelling that comes first.
    people = ["Ng\u1ebf", "Nge\u0302\u0301", "Bob", " Bob ", "cy", "cy", "di", "di"]
    rows = [f"{i}.mp4,{i % 2},{who}, print" for i, who in enumerate(people)]
    label = workspace / "raw/s/label.csv"
    label.write_text("\n".join(["fname,liveness_score, Subject ,SPECIES", *rows]) + "\n", encoding="utf-8")
    said = prepare_here("s", "folds.n=2")
    assert "groups are persons, by the column subject" in said and "unknown" not in said
    folds = read(workspace / "data/s/folds.csv")
    assert folds.groupby(folds["group"]).size().to_dict() == {"Ng\u1ebf": 2, "Bob": 2, "cy": 2, "di": 2}
    assert folds.groupby("group")["fold"].nunique().max() == 1
    assert set(read(workspace / "data/s/labels_video.csv")["species"]) == {"print"}
    for one, other in (("Bob", "bob"), ("cy", "c y")):
        label.write_text("\n".join(["fname,liveness_score,subject", f"0.mp4,0,{one}", f"1.mp4,1,{other}"]) + "\n")
        with pytest.raises(UserError, match=f"column subject: '{one}' and '{other}' differ only by case or blanks"):
            prepare_here("s", verbs=["prepare"])


@pytest.mark.parametrize("header", ["Subject_id", "person", "subjects"])
def test_a_column_that_just_misses_subject_is_named(clips, workspace, prepare_here, capsys, header):
    text = (clips / "label.csv").read_text()
    (clips / "label.csv").write_text(text.replace("subject", header))
    raw = find_set("s")
    (note,) = column_notes(raw, "subject", VIDEO_COLUMNS)
    assert f"no column subject, but '{header}'" in note and f"-o folds.group_column={header}" in note
    assert find_subjects(raw, header.upper())[0] == header and not column_notes(raw, header, VIDEO_COLUMNS)


def test_what_the_groups_are_is_recorded_and_told_of_older_sets(clips, workspace, prepare_here):
    folder = workspace / "data/s"
    said = prepare_here("s", "folds.n=3")
    subjects = {"kind": "subjects", "source": "subject", "without": 0}
    assert json.loads((folder / "folds.json").read_text())["groups"] == subjects == read_grouping(folder)
    assert "groups are persons, by the column subject" in said
    dealt = json.loads((folder / "folds.json").read_text())
    dealt.pop("groups")  # as a version before this one left it
    (folder / "folds.json").write_text(json.dumps(dealt))
    assert read_grouping(folder) == subjects and "kept" in prepare_here("s", "folds.n=3")
    assert json.loads((folder / "folds.json").read_text())["groups"] == subjects
    # Without a column there are only what looks alike and what is listed, and that is said.
    label = (clips / "label.csv").read_text().splitlines()
    (clips / "label.csv").write_text("\n".join(row.rpartition(",")[0] for row in label) + "\n")
    said = prepare_here("s", "folds.n=3")
    assert read_grouping(folder)["kind"] == "near_duplicates" and "persons are unknown" in said  # the two face clips
    said = prepare_here("s", "folds.n=3", "folds.duplicates=0", verbs=["prepare", "make_folds"])
    assert read_grouping(folder)["kind"] == "none" and "no groups are known; persons are unknown" in said
    (workspace / "g.txt").write_text("4 6\n")
    prepare_here("s", "folds.n=3", "folds.groups=g.txt")
    assert read_grouping(folder) == {"kind": "listed", "source": "g.txt", "without": 0}
    for count, without in ((12, 0), (9, 3)):
        rows = [f"{i},{np.cos(i)},{np.sin(i)}" for i in range(count)]
        (workspace / "e.csv").write_text("\n".join(["fname,x,y", *rows]) + "\n")
        prepare_here("s", "folds.n=2", "folds.embeddings=e.csv", "folds.embedding_similarity=0.99")
        assert read_grouping(folder) == {"kind": "identities", "source": "e.csv", "without": without}
    own = read(folder / "folds.csv").assign(group="x")
    own.to_csv(folder / "folds.csv", index=False)
    (folder / "folds.json").unlink()
    assert read_grouping(folder)["kind"] == "unknown"


def test_two_folders_are_a_set_with_labels_and_species(workspace, tiny_clips, prepare_here):
    raw = workspace / "raw/s"
    for i, place in enumerate(["Live/a", "Live/b", "SPOOF/c", "SPOOF/print/d", "SPOOF/replay/e", "Live/f"]):
        tiny_clips(raw / f"{place}.mp4", frames=4, seed=i)
    before = sorted(path.relative_to(raw) for path in raw.rglob("*"))
    said = prepare_here("s", "folds.n=2")
    assert "labels are those of the folders, live (1): Live; attack (0): SPOOF" in said and "no mismatch" in said
    videos = read(workspace / "data/s/labels_video.csv")
    found = dict(zip(videos["filename"], zip(videos["label"], videos["species"], strict=True), strict=True))
    attacks = {"c.mp4": ("0", ""), "d.mp4": ("0", "print"), "e.mp4": ("0", "replay")}
    assert found == attacks | {f"{name}.mp4": ("1", "") for name in "abf"}
    assert (workspace / "data/s/videos/d.mp4").samefile(raw / "SPOOF/print/d.mp4")
    assert sorted(path.relative_to(raw) for path in raw.rglob("*")) == before
    shutil.copy(raw / "Live/a.mp4", raw / "SPOOF/a.mp4")
    with pytest.raises(UserError, match=r"two videos with one name.*mv -n") as caught:
        find_set("s")
    command = str(caught.value).partition("All of a folder: ")[2]
    subprocess.run(["bash", "-c", command], check=True)
    assert len(find_set("s").videos) == 7
    (raw / "2").mkdir()
    with pytest.raises(UserError, match="2: neither live nor spoof"):
        find_set("s")


def test_too_few_persons_for_the_folds_are_told_how_many_do(clips, workspace, prepare_here):
    with pytest.raises(UserError, match=r"6 groups for 7 folds.* With 6 it works: bash prepare_data.sh s -o folds.n=6"):
        prepare_here("s", "folds.n=7")
    prepare_here("s", "folds.n=6", verbs=["make_folds"])
    assert set(read(workspace / "data/s/folds.csv")["fold"]) == set("012345")
