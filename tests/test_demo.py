"""The demo set: its files, its truthfulness as a task, and how a second start treats it."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from liveness.base.files import CODE
from liveness.demo.clips import NEW_PERSONS, PERSONS, Clip, draw_person, make_clip, plan_clips
from liveness.demo.head import draw_head


def demo(root: Path, *args: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "LIVENESS_ROOT": str(root), "PYTHONPATH": str(CODE / "src")}
    command = [sys.executable, "-m", "liveness.make_demo", *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a demo set of 3 + 1 clips."""
    root = tmp_path_factory.mktemp("demo")
    done = demo(root, "--clips", "3", "--unlabelled", "1", "--workers", "1")
    assert done.returncode == 0, done.stderr
    return root


def test_set_has_labels_videos_and_a_hidden_truth(tiny: Path) -> None:
    labels = rows(tiny / "raw/demo/label.csv")
    assert list(labels[0]) == ["fname", "liveness_score", "subject", "species"]
    assert sorted(row["fname"] for row in labels) == sorted(p.name for p in (tiny / "raw/demo/videos").iterdir())
    for row in labels:
        assert row["liveness_score"] == str(int(row["species"] == "live"))
    assert [p.name for p in (tiny / "raw/demo_test/videos").iterdir()] == ["0.mp4"]
    assert len(rows(tiny / "raw/demo_test/truth.csv")) == 1
    assert not (tiny / "raw/demo_test/label.csv").exists()


def test_clips_are_short_h264_that_moves(tiny: Path) -> None:
    for path in (tiny / "raw/demo/videos").iterdir():
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
            rate = float(stream.average_rate)
        frames = decoded(path)
        assert 1.5 <= len(frames) / rate <= 2.5
        assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 2


@pytest.mark.full
def test_second_start_keeps_the_set_and_other_arguments_remake_it(tiny: Path) -> None:
    args = ("--clips", "2", "--unlabelled", "0", "--out", "raw/other", "--workers", "1")
    folder = tiny / "raw/other"
    assert demo(tiny, *args).returncode == 0
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("**/*") if p.is_file()}
    again = demo(tiny, *args)
    assert again.returncode == 0 and "kept" in again.stdout
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.glob("**/*") if p.is_file()}
    first = (folder / "videos/0.mp4").read_bytes()
    (folder / "label.csv").unlink()  # as after an interruption
    assert demo(tiny, *args).returncode == 0
    assert (folder / "videos/0.mp4").read_bytes() == first
    assert demo(tiny, *args, "--seed", "9").returncode == 0
    assert json.loads((folder / "demo.json").read_text())["seed"] == 9
    assert (folder / "videos/0.mp4").read_bytes() != first


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    keep = tmp_path / "raw/demo_test/videos/mine.mp4"
    keep.parent.mkdir(parents=True)
    keep.write_bytes(b"x")
    refused = demo(tmp_path, "--clips", "1")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "demo_test" in refused.stderr
    assert keep.read_bytes() == b"x" and not (tmp_path / "raw/demo").exists()
    (tmp_path / "file").write_text("")
    assert demo(tmp_path, "--out", str(tmp_path / "file")).returncode == 1
    assert demo(tmp_path, "--clips", "0").returncode == 2


@pytest.mark.parametrize("species", ["live", "print", "replay"])
def test_equal_arguments_give_equal_bytes(tmp_path: Path, species: str) -> None:
    paths = []
    make_clip(Clip(str(tmp_path / "other.mp4"), 6, 2, "live", False, 0))
    for k in range(2):  # with the head that an earlier clip of the person has left, and with a new one
        paths.append(make_clip(Clip(str(tmp_path / f"{k}.mp4"), 5, 2, species, True, 0)))
        draw_head.cache_clear()
    assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()


def test_plan_is_balanced_shuffled_and_gives_every_person_both_labels() -> None:
    clips = plan_clips(Path("videos"), 60, list(range(PERSONS)), 0)
    assert Counter(clip.species for clip in clips) == {"live": 30, "print": 15, "replay": 15}
    for number in range(PERSONS):
        own = Counter(clip.species for clip in clips if clip.person == number)
        assert own["live"] >= 2 and own["print"] + own["replay"] >= 2
    for label in (True, False):
        masked = [clip.masked for clip in clips if (clip.species == "live") == label]
        assert 0.2 <= np.mean(masked) <= 0.5
    live = np.array([clip.species == "live" for clip in clips])
    assert abs(np.corrcoef(np.arange(60), live)[0, 1]) < 0.25
    assert plan_clips(Path("videos"), 60, list(range(PERSONS)), 0) == clips
    assert plan_clips(Path("videos"), 60, list(range(PERSONS)), 1) != clips
    assert len({draw_person(k, 0) for k in range(PERSONS + NEW_PERSONS)}) == PERSONS + NEW_PERSONS
