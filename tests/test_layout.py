"""Large sets: files in subfolders by the video's name, with the tables, resume and repair of small ones."""

import hashlib
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tiny_set import write_set

from liveness.base.compose import load_data
from liveness.base.config import FramePlan
from liveness.base.files import workspace
from liveness.base.tables import read_table
from liveness.pages.dataset import render_dataset_page
from liveness.pages.dataset_tables import read_set_tables
from liveness.sets import layout
from liveness.sets.dataset import frame_file, load_set, read_frame
from liveness.sets.folds import fold_set
from liveness.sets.preparation import prepare_set
from liveness.sets.sanity import check_and_fix
from liveness.sets.set_tables import BOX_COLUMNS

CLIPS = 8


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Path]:
    """The same set twice, prepared as a small one and as one that is too large for a folder."""
    folders = []
    for name, most in (("flat", layout.FLAT_MOST), ("spread", CLIPS - 1)):
        root = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LIVENESS_ROOT", str(root))
            patch.setattr(layout, "FLAT_MOST", most)
            write_set(root / "raw" / "s", CLIPS)
            prepare(root)
        folders.append(root)
    return folders[0], folders[1]


def prepare(root: Path) -> None:
    data = load_data("s")
    data.workers, data.folds.n = 1, 2
    prepare_set(data)
    fold_set(root / "data" / "s", data.folds)


@pytest.fixture
def large(prepared, tmp_path, monkeypatch) -> Path:
    """A copy of the large set, in the workspace; the limit is the ordinary one again."""
    shutil.copytree(prepared[1], tmp_path / "w", symlinks=True)
    monkeypatch.setenv("LIVENESS_ROOT", str(tmp_path / "w"))
    return workspace() / "data" / "s"


def test_only_the_places_of_files_differ(prepared):
    flat, spread = (root / "data" / "s" for root in prepared)
    for part in ("frames", "faces/bbox"):  # the drawn clips have no face
        names = sorted(path.name for path in (spread / part).glob("*/*"))
        assert names == sorted(path.name for path in (flat / part).iterdir())
        for path in (spread / part).glob("*/*"):
            digest = hashlib.sha256(path.stem.rpartition("-")[0].encode()).hexdigest()
            assert path.parent.name == digest[:3] and path.read_bytes() == (flat / part / path.name).read_bytes()
    for name in ("labels_video", "folds", "duplicates", "labels_video_train"):
        assert (flat / f"{name}.csv").read_bytes() == (spread / f"{name}.csv").read_bytes()
    for name in ("labels_keyframes", "labels_bbox"):
        one, other = (pd.read_csv(folder / f"{name}.csv", dtype=str) for folder in (flat, spread))
        assert (other["filename"].str.len() == one["filename"].str.len() + 4).all()
        assert all((spread / "frames" / stored).is_file() for stored in other["filename"])
        pd.testing.assert_frame_equal(one, other.assign(filename=other["filename"].str[4:]))


def test_training_and_the_page_see_the_same_pixels(prepared, monkeypatch):
    pictures, pages = [], []
    for root in prepared:
        monkeypatch.setenv("LIVENESS_ROOT", str(root))
        found = load_set("s", FramePlan())
        pictures.append([read_frame(found.folder, row).tobytes() for row in found.frames.itertuples(index=False)])
        page = render_dataset_page(read_set_tables(found.folder))
        pages.append(page[page.index("</h1>") :].partition("Data digest")[2].partition("</dd>")[2])
    assert pictures[0] == pictures[1] and len(pictures[0]) == 3 * CLIPS
    assert pages[0] == pages[1]


def test_it_stays_as_it_is_and_is_repaired_in_its_places(large, capsys):
    before = {path: path.read_bytes() for path in large.rglob("*") if path.is_file()}
    prepare(large.parents[1])
    assert "8 already done" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in large.rglob("*") if path.is_file()} == before
    next((large / "frames").glob("*/3-*.jpg")).unlink()
    next((large / "faces" / "bbox").glob("*/5-*.txt")).write_text("face 1 2 3 4 5\n")
    (large / ".records" / layout.subfolder_of("6") / "6.json").write_text("{}")
    (large / "frames" / "fff").mkdir(exist_ok=True)
    (large / "frames" / "fff" / "99-0.jpg").write_bytes(b"stray")
    assert not check_and_fix("s", fix=False)
    told = capsys.readouterr().err
    assert "99-0.jpg: no video of the set has such a file" in told and "6.mp4: not prepared yet" in told
    (large / "frames" / "fff" / "99-0.jpg").unlink()
    assert check_and_fix("s", fix=True)
    after = {path for path in large.rglob("*") if path.is_file()}
    assert after == set(before)


def test_a_flat_set_stays_flat_when_it_grows(prepared, tmp_path, monkeypatch):
    root = tmp_path / "w"
    shutil.copytree(prepared[0], root, symlinks=True)
    monkeypatch.setenv("LIVENESS_ROOT", str(root))
    monkeypatch.setattr(layout, "FLAT_MOST", CLIPS - 1)
    before = (root / "data/s/labels_keyframes.csv").read_text()
    shutil.copy(root / "raw/s/videos/3.mp4", root / "raw/s/videos/90.mp4")
    with open(root / "raw/s/label.csv", "a") as file:
        file.write("90.mp4,1,p1\n")
    prepare(root)
    assert (root / "data/s/labels_keyframes.csv").read_text().startswith(before)
    assert (root / "data/s/frames/90-1.jpg").is_file()
    assert not any(path.is_dir() for path in (root / "data/s/frames").iterdir())


def test_a_removed_video_takes_its_files_along(large):
    videos = workspace() / "raw" / "s"
    (videos / "videos" / "2.mp4").unlink()
    (large / "videos" / "2.mp4").unlink()
    table = read_table(videos / "label.csv", ["fname"])
    table[table["fname"] != "2.mp4"].to_csv(videos / "label.csv", index=False)
    prepare(workspace())
    assert not [path for path in large.rglob("2[-.]*") if path.suffix != ".csv"]


def test_no_name_in_a_table_leads_out_of_frames(large):
    for table, columns in (("labels_keyframes", None), ("labels_bbox", BOX_COLUMNS)):
        rows = pd.read_csv(large / f"{table}.csv", dtype=str, keep_default_na=False)
        rows["filename"] = "../../../" + rows["filename"]
        rows[columns or rows.columns].to_csv(large / f"{table}.csv", index=False)
    frames = load_set("s", FramePlan()).frames
    assert not any(".." in frame_file(row) for row in frames.itertuples(index=False))
