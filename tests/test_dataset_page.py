"""The dataset page: its figures, its markup, and that nothing in a set can break it."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from liveness.base.compose import load_data
from liveness.pages.dataset import render_dataset_page
from liveness.pages.dataset_tables import read_set_tables
from liveness.sets.folds import fold_set
from liveness.sets.preparation import prepare_set

VOID = {"meta", "link", "img", "br", "wbr"}
VIDEOS = ["filename", "label", "video_id", "status", "reason", "fps", "width", "height", "duration", "group"]
BOXES = ["filename", "video_id", "frame_id", "label", "face", "n_faces", "confidence", "x", "y", "w", "h"]
NASTY = 'o\'brien "x" <script>alert(1)<b> &lt; & Nguyễn 🙂.mp4'


class Page(HTMLParser):
    """A page's elements and text; asserts that every element is closed where it should be."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.texts, self.rows = [], [], [], []
        self.commands, self.tips = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag == "code":
            self.commands.append("")
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
        if "code" in self.open:
            self.commands[-1] += data
        if self.open[-2:] == ["rect", "title"]:
            self.tips.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def row(self, head: str) -> list[str]:
        """The cells of the first table row that begins with ``head``."""
        found = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return next(row for row in found if row and row[0] == head)

    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]


def make_page(workspace: Path, name: str = "demo") -> tuple[Page, str]:
    """The page of a set, parsed and as text."""
    text = render_dataset_page(read_set_tables(workspace / "data" / name))
    return Page(text), text


def call(name: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "liveness.dataset_page", name], capture_output=True, text=True)


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    import liveness

    monkeypatch.setenv("PYTHONPATH", str(Path(liveness.__file__).parents[1]))


@pytest.fixture
def tables(workspace: Path) -> Path:
    return make_tables(workspace / "data" / "demo")


def make_tables(folder: Path) -> Path:
    """A prepared set: 24 live and 24 attack videos of 8 groups, 2 grey frames each, written by hand.

    Live is brighter; one attack has the live video's picture; one video cannot be read.
    """
    (folder / "frames").mkdir(parents=True)
    rng = np.random.default_rng(5)
    videos, boxes, folds = [], [], []
    for i in range(48):
        label, group = i % 2, i // 6
        status = "unreadable" if i == 47 else "ok"
        info = ["", "", "", ""] if i == 47 else [20 + i % 3, 120, 200, 1 + i / 10]
        reason = "cannot be opened: <b>" if i == 47 else ""
        videos.append([f"{i}.mp4", label, i, status, reason, *info, f"p{group}"])
        folds.append([f"{i}.mp4", label, f"p{group}", group % 4, i % 4])
        for frame in (3, 7) if status == "ok" else ():
            grey = int(80 + 60 * label + rng.integers(0, 60))
            Image.new("L", (120, 200), grey).save(folder / "frames" / f"{i}-{frame}.jpg", quality=95)
            face = [1, 1, 0.9, 10, 10, 40 + i, 50 + i] if frame == 3 else [0, 0, "", "", "", "", ""]
            boxes.append([f"{i}-{frame}.jpg", i, frame, label, *face])
    table = pd.DataFrame(videos, columns=VIDEOS)
    table["species"] = ["print" if label == 0 else "" for label in table["label"]]
    table.to_csv(folder / "labels_video.csv", index=False)
    pd.DataFrame(boxes, columns=BOXES).to_csv(folder / "labels_bbox.csv", index=False)
    pd.DataFrame(folds, columns=["filename", "label", "group", "fold", "naive_fold"]).to_csv(
        folder / "folds.csv", index=False
    )
    pairs = [["0.mp4", "1.mp4", 0.02, 1], ["2.mp4", "4.mp4", 0.05, 0]]
    pd.DataFrame(pairs, columns=["filename", "other", "distance", "mirrored"]).to_csv(
        folder / "duplicates.csv", index=False
    )
    (folder / "prepare.json").write_text('{"version": 1, "data": {"jpeg_quality": 95}}')
    return folder


def test_the_figures_are_those_of_the_tables(workspace, tables):
    shown, _ = make_page(workspace)
    folds = pd.read_csv(tables / "folds.csv")
    for fold, rows in folds.groupby("fold"):
        expected = [len(rows), rows["group"].nunique(), (rows["label"] == 1).sum(), (rows["label"] == 0).sum()]
        assert shown.row(str(fold))[1:5] == [str(int(v)) for v in expected]
    assert shown.row("all")[1:5] == ["48", "8", "24", "24"]
    assert shown.row("120 × 200")[1:] == ["23", "24"]
    assert shown.row("47.mp4") == ["47.mp4", "live", "unreadable", "cannot be opened: <b>"]
    assert "47 frames (live: 23 (50.0 %); attack: 24 (50.0 %));" in shown.text
    assert shown.row("attack") == ["attack", "print", "6", "6", "6", "6", "24"]
    assert shown.row("p3")[1:] == ["6", "3", "3", "3"]
    assert shown.row("not known")[1:] == ["1", "0"]  # the unreadable video's size


def test_medians_and_aucs_are_those_of_numpy_and_scikit_learn(workspace, tables):
    shown, _ = make_page(workspace)
    videos = pd.read_csv(tables / "labels_video.csv").query("status == 'ok'")
    grey = {
        v: np.mean([np.asarray(Image.open(tables / f"frames/{v}-{f}.jpg")).mean() for f in (3, 7)]) for v in range(47)
    }
    for head, values, digits in (
        ("Duration, s", videos["duration"], 2),
        ("Brightness (mean grey), 0 to 255", videos["video_id"].map(grey), 0),
    ):
        row = shown.row(head)
        for cell, label in ((row[1], 1), (row[2], 0)):
            assert cell.split()[0] == f"{np.median(values[videos['label'] == label]):.{digits}f}"
        assert float(row[3].split()[0]) == pytest.approx(roc_auc_score(videos["label"], values), abs=0.02)
    assert shown.row("Brightness (mean grey), 0 to 255")[3].endswith("!")
    assert "Telling by itself: brightness." in shown.text


def test_a_size_between_two_whole_numbers_has_its_bar_and_bars_hold_every_video(workspace, tables):
    """432 × 576 is a square of 498.83 pixels; 360 × 640 one of 480."""
    videos = pd.read_csv(tables / "labels_video.csv", dtype=str, keep_default_na=False)
    sizes = [("360", "640"), ("432", "576"), ("480", "640")]
    for i in range(47):
        videos.loc[i, ["width", "height"]] = sizes[i % 3]
    videos.to_csv(tables / "labels_video.csv", index=False)
    shown, text = make_page(workspace)
    for size, place in ((480, 0), (499, 1), (554, 2)):
        live, attack = (sum(i % 3 == place and i % 2 == label for i in range(47)) for label in (1, 0))
        assert f"{size} pixels: live {live} of 23, attack {attack} of 24" in shown.tips
    # Every chart, by what its bars tell: each label's counts add up to what the legend says.
    charts = re.findall(r'<p class="legend">(.*?)</p>\s*<svg(.*?)</svg>', text, flags=re.DOTALL)
    assert len(charts) >= 5
    for legend, svg in charts:
        for name, total in re.findall(r"(live|attack) \((\d+)\)", legend):
            counts = re.findall(rf"{name} (\d+) of {total}\b", svg)
            assert sum(map(int, counts)) == int(total) and counts, svg[:200]
    assert "1 of the videos has no value." in shown.text  # the unreadable one, in no chart of videos


def test_videos_in_no_fold_have_a_row_so_that_the_folds_add_up(workspace, tables):
    folds = pd.read_csv(tables / "folds.csv")
    folds[folds["filename"] != "3.mp4"].to_csv(tables / "folds.csv", index=False)
    shown, _ = make_page(workspace)
    assert shown.row("in none")[1:5] == ["1", "1", "1", "0"]
    rows = [shown.row(name) for name in ("0", "1", "2", "3", "in none")]
    assert sum(int(row[1]) for row in rows) == int(shown.row("all")[1]) == 48


def test_the_top_says_when_it_was_prepared_and_of_which_state_of_the_data(workspace, tables):
    (tables / "labels_keyframes.csv").write_text("filename\n")
    os.utime(tables / "labels_video.csv", (1770091500, 1770091500))
    digest = hashlib.sha256()
    for name in ("folds.csv", "labels_keyframes.csv", "labels_bbox.csv", "prepare.json"):
        digest.update((tables / name).read_bytes())
    shown, _ = make_page(workspace)
    head = shown.text[: shown.text.index("Labels and folds")]
    assert f"Prepared 2026-02-03 04:05 UTC Data digest {digest.hexdigest()[:12]}" in head


def test_what_was_not_found_goes_last_in_a_line_each(workspace, tables):
    boxes = pd.read_csv(tables / "labels_bbox.csv")
    boxes.assign(face=1).to_csv(tables / "labels_bbox.csv", index=False)
    (tables / "duplicates.csv").write_text("filename,other,distance,mirrored\n")
    shown, _ = make_page(workspace)
    headings = [attrs["id"] for tag, attrs in shown.elements if tag == "h2"]
    assert headings[-1] == "nothing" and not {"faceless", "duplicates", "contradictions"} & set(headings)
    assert "trouble" in headings  # there is some
    end = shown.text[shown.text.rindex("Nothing to show") :]
    assert "Near-duplicates: no two videos look alike." in end
    assert "Frames without a face: a face was found in every stored frame." in end
    assert shown.commands == ["python -m liveness.dataset_page demo"]  # code type is for commands
    (tables / "duplicates.csv").unlink()
    assert "Near-duplicates: not looked for." in make_page(workspace)[0].text


def test_leaks_of_the_blind_folds_are_counted_and_good_folds_have_none(workspace, tables):
    shown, _ = make_page(workspace)
    assert shown.row("Groups in more than one fold")[1:] == ["0", "8"]
    assert shown.row("Videos with their group in another fold, too")[1:] == ["0 (0.0 %)", "48 (100.0 %)"]
    assert shown.row("Near-duplicate pairs in two folds (of 2)")[1:] == ["0", "2"]
    assert shown.row("… with contradicting labels")[1:] == ["0", "1"]
    assert "These folds leak." not in shown.text


def test_folds_that_part_a_group_are_called_leaking(workspace, tables):
    folds = pd.read_csv(tables / "folds.csv")
    folds.loc[0, "fold"] = 3
    folds.to_csv(tables / "folds.csv", index=False)
    shown, _ = make_page(workspace)
    assert shown.row("Groups in more than one fold")[1] == "1"
    assert "These folds leak." in shown.text


def test_near_duplicates_and_contradictions_are_shown(workspace, tables):
    shown, _ = make_page(workspace)
    assert "2 pairs of 4 videos, joined into 2 clusters" in shown.text
    assert "2 videos: 1 live, 1 attack (contradicting labels)" in shown.text
    assert "2 videos: 2 attack" in shown.text
    assert "1 pair of near-duplicates of which one is live and the other an attack" in shown.text
    assert "distance 0.020, mirrored" in shown.text


def test_the_page_is_one_well_formed_accessible_file(workspace, tables):
    shown, text = make_page(workspace)
    assert text.startswith("<!DOCTYPE html>")
    tags = [tag for tag, _ in shown.elements]
    assert dict(shown.elements[0][1]) == {"lang": "en"}
    assert tags[: tags.index("body")].count("title") == 1 and tags.count("h1") == 1 and tags.count("main") == 1
    ids = shown.ids()
    assert len(ids) == len(set(ids))
    for tag, attrs in shown.elements:
        if tag == "img":
            assert attrs["src"].startswith("data:image/jpeg;base64,")
            assert attrs["alt"]
        for key in ("href", "xlink:href"):
            if key in attrs:
                assert attrs[key] == "data:," or attrs[key][1:] in ids
        if tag == "svg":
            assert attrs["role"] == "img" and "median" in attrs["aria-label"]
        if attrs.get("role") == "region":
            assert attrs["tabindex"] == "0" and attrs["aria-label"]
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert set(re.findall(r"https?://[^\s\"]+", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "script" not in tags


def test_equal_input_gives_equal_bytes(workspace, tables):
    result = call("demo")
    assert result.returncode == 0, result.stderr
    assert (tables / "dataset.html").read_text(encoding="utf-8") == make_page(workspace)[1]


def test_many_videos_keep_the_page_small_and_the_counts_are_told(workspace, tables):
    rng = np.random.default_rng(0)
    videos, boxes, pairs = [], [], []
    (tables / "folds.csv").unlink()
    noise = Image.fromarray(rng.integers(0, 255, (200, 120, 3), dtype=np.uint8))  # the worst case for JPEG
    noise.save(tables / "frames" / "noise.jpg", quality=95)
    for i in range(1500):
        videos.append([f"{i}.mp4", i % 2, i, "ok", "", 25, 120, 200, 2, f"g{i // 5}"])
        boxes.append([f"{i}-1.jpg", i, 1, i % 2, 0, 0, "", "", "", "", ""])
        shutil.copy(tables / "frames" / "noise.jpg", tables / "frames" / f"{i}-1.jpg")
        pairs.append([f"{i}.mp4", f"{i - i % 12}.mp4"])
    pd.DataFrame(videos, columns=VIDEOS).to_csv(tables / "labels_video.csv", index=False)
    pd.DataFrame(boxes, columns=BOXES).to_csv(tables / "labels_bbox.csv", index=False)
    pd.DataFrame([p for p in pairs if p[0] != p[1]], columns=["filename", "other"]).to_csv(
        tables / "duplicates.csv", index=False
    )
    shown, text = make_page(workspace)
    assert len(text) < 6e6
    assert "100 of 750 videos, spread evenly over the groups" in shown.text
    assert "60 of 1500 frames shown" in shown.text
    assert "joined into 125 clusters. 40 of 125 shown" in shown.text
    assert "No folds have been dealt yet" in shown.text


def test_missing_and_damaged_frames_are_told_and_do_not_stop_it(workspace, tables):
    (tables / "frames" / "0-3.jpg").unlink()
    (tables / "frames" / "2-7.jpg").write_bytes(b"\xff\xd8 no picture")
    (tables / "frames" / "4-7.jpg").write_bytes(b"")
    shown, _ = make_page(workspace)
    assert "Missing or damaged: 3 stored frames." in shown.text
    assert "Frame 7 of 2.mp4 cannot be read" in shown.text


def test_a_set_without_any_frame_has_a_page(workspace, tables):
    videos = pd.read_csv(tables / "labels_video.csv").iloc[-1:]
    videos.to_csv(tables / "labels_video.csv", index=False)
    pd.DataFrame(columns=BOXES).to_csv(tables / "labels_bbox.csv", index=False)
    shown, _ = make_page(workspace)
    assert shown.row("47.mp4")[2] == "unreadable"
    assert "0 of 1 videos (1 without a stored frame)" in shown.text


def test_a_set_that_is_not_prepared_is_one_line(workspace, tables):
    (tables / "prepare.json").unlink()
    for name in ("demo", "nosuchset"):
        result = call(name)
        assert result.returncode == 1
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        assert "bash prepare_data.sh" in result.stderr
    assert "is not a plain file name" in call("../demo").stderr


@pytest.mark.parametrize("labelled", [True, False])
def test_a_set_as_it_comes_with_hostile_names(workspace, tiny_clips, labelled):
    """Through the real preparation: names that would be markup, a copy, a file that is no video."""
    videos = workspace / "raw" / "demo" / "videos"
    names = [NASTY, "copy.mp4", "3.mp4", "bad.mp4"]
    tiny_clips(videos / NASTY, seed=1)
    shutil.copy(videos / NASTY, videos / "copy.mp4")
    tiny_clips(videos / "3.mp4", seed=3)
    (videos / "bad.mp4").write_bytes(b"no video")
    if labelled:
        table = pd.DataFrame({"fname": names, "liveness_score": [1, 0, 0, 1], "species": ["", "<i>", "<i>", ""]})
        table.to_csv(workspace / "raw" / "demo" / "label.csv", index=False)
    data = load_data("demo", ["workers=1", "folds.n=2"])
    prepare_set(data)
    if labelled:
        fold_set(workspace / "data" / "demo", data.folds)
    shown, text = make_page(workspace)
    assert "<script" not in text and "alert(1)" in shown.text
    assert any(attrs.get("alt", "").find(NASTY) >= 0 for tag, attrs in shown.elements if tag == "img")
    assert shown.row("bad.mp4")[2] == "unreadable"
    assert "1 pair of 2 videos, joined into 1 cluster." in shown.text
    assert ("The set has no labels, so it has no folds." in shown.text) == (not labelled)
    assert ("of which one is live and the other an attack" in shown.text) == labelled
    assert "Without a face: 9 frames; in none of their frames: 3 videos." in shown.text


def test_a_transfer_function_that_tells_the_labels_apart_is_pointed_out(workspace, tables):
    path = tables / "labels_video.csv"
    videos = pd.read_csv(path, dtype=str, keep_default_na=False)
    hlg = (videos["label"] == "1") & (videos["status"] == "ok") & (videos.index < 31)
    videos.loc[hlg, "reason"] = "note: hlg"
    videos.loc[2, "reason"] = "note: pixel_aspect=2:1; interlaced"
    videos.to_csv(path, index=False)
    shown, _ = make_page(workspace)
    assert "HLG" not in [row[0] for row in shown.rows]  # contract version 1 noted nothing, so nothing is said
    (tables / "prepare.json").write_text('{"version": 2, "data": {}}')
    shown, _ = make_page(workspace)
    of_live, of_sdr = int(hlg.sum()), int(((videos["label"] == "1") & (videos["status"] == "ok")).sum() - hlg.sum())
    assert shown.row("HLG")[1:] == [f"{of_live} !", "0 !"]
    assert abs(0.5 - roc_auc_score(videos["label"] == "1", hlg)) >= 0.2
    assert shown.row("SDR")[1:] == [f"{of_sdr} !", "24 !"]
    assert shown.row("2:1")[1:] == ["0", "1"] and shown.row("interlaced")[1:] == ["0", "1"]
    assert "Telling by itself: " in shown.text and "transfer function" in shown.text
