"""Persons by embeddings that preparation computes: what it keeps, what it says, and, with the extra, the embedder."""

import json
import sys
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from in_process import prepare_here
from skimage import data as images

from liveness.base.compose import load_data
from liveness.base.config import Data
from liveness.base.errors import UserError
from liveness.evaluation.grouping import sentence
from liveness.frames.embedder import embed_face, require_embedder
from liveness.pages.dataset import render_dataset_page
from liveness.pages.dataset_tables import read_set_tables
from liveness.sets.embedding import embed_set, find_unembedded, make_embed_tasks
from liveness.sets.extract import read_record
from liveness.sets.labels import find_set
from liveness.sets.preparation import prepare_set
from liveness.sets.records import Records, gather_records
from liveness.sets.sanity import check_and_fix

AUTO = ["folds.n=2", "folds.duplicates=0", "folds.identities=auto", "folds.identity_similarity=0.9"]


@pytest.fixture
def folder(workspace: Path) -> Path:
    """data/s of six clips of one face, live and attack in turns, nobody named; prepared without identities."""
    rows = ["fname,liveness_score"]
    for i in range(6):
        picture = np.roll(images.astronaut()[: 240 + i, 100:340][-240:], i, axis=1)
        picture = np.ascontiguousarray(picture[:, ::-1] if i % 2 else picture)
        (path := workspace / f"raw/s/videos/{i}.mp4").parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 240, 240, "yuv420p"
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        rows.append(f"{i}.mp4,{i % 2}")
    (workspace / "raw/s/label.csv").write_text("\n".join(rows) + "\n")
    prepare_here(workspace, "s", *AUTO[:2])
    return workspace / "data/s"


@pytest.fixture
def no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's packages cannot be found, installed or not."""
    extra = ("dlib", "face_recognition_models")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not any((Path(p) / name).exists() for name in extra)])


def records_of(folder: Path) -> Records:
    found = ((video.name, read_record(folder, video)) for video in find_set("s").videos)
    return gather_records((name, record) for name, record in found if record)


def write_embeddings(folder: Path, angles: list[float]) -> None:
    """embeddings.csv as if it had been computed: the angle of each video."""
    tasks = make_embed_tasks(records_of(folder), folder)
    rows = [[t.filename, t.made_from, np.cos(a), np.sin(a)] for t, a in zip(tasks, angles, strict=True)]
    pd.DataFrame(rows, columns=["filename", "made_from", "e0", "e1"]).to_csv(folder / "embeddings.csv", index=False)


def test_rows_that_fit_are_kept_and_persons_follow_from_them(folder, workspace, no_extra, capsys):
    # 0 and 1 are alike by cos 0.3 = 0.955, 2 and 3 too; 1 and 2 by 0.961, but the four pairs between them by 0.890.
    write_embeddings(folder, [0, 0.3, 0.58, 0.62, 3, 3])
    before = (folder / "embeddings.csv").read_bytes()
    prepare_here(workspace, "s", *AUTO)
    assert (folder / "embeddings.csv").read_bytes() == before
    groups = pd.read_csv(folder / "labels_video.csv").set_index("filename")["group"]
    assert groups.tolist() == ["0.mp4", "0.mp4", "2.mp4", "2.mp4", "4.mp4", "4.mp4"]
    recorded = json.loads((folder / "folds.json").read_text())["groups"]
    assert recorded == {"kind": "identities", "source": "embeddings.csv", "without": 0}
    assert "identities by embedding" in sentence(recorded)
    assert check_and_fix("s", fix=False)
    page = render_dataset_page(read_set_tables(folder))
    section = page.partition('<h2 id="persons">')[2].partition("</section>")[0]
    assert section.count("mean similarity 0.890") == 1 and "Kept apart" in section and "Joined" not in section
    assert section.count("<img") == 2 and ">1.mp4<" in section and ">2.mp4<" in section
    # Another box or frame: the row does not fit any more, which is said, and mended only with the extra.
    text = before.decode().replace(make_embed_tasks(records_of(folder), folder)[2].made_from, "0" * 16)
    (folder / "embeddings.csv").write_text(text)
    assert find_unembedded(records_of(folder), folder) == ["2.mp4"]
    assert not check_and_fix("s", fix=False) and "2.mp4: no row in" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"needs dlib-bin and face-recognition-models, .*setup.sh --identity"):
        prepare_here(workspace, "s", *AUTO)


def test_without_the_extra_one_line_says_what_to_install_before_any_work(workspace, tiny_clips, no_extra):
    tiny_clips(workspace / "raw/t/videos/0.mp4", frames=3)
    with pytest.raises(UserError, match=r"needs dlib-bin and face-recognition-models, .*setup.sh --identity"):
        prepare_set(load_data("t", ["folds.identities=auto"]))
    assert not (workspace / "data/t/frames").exists()


@pytest.mark.parametrize("by", ["group", "camera"])
def test_embeddings_are_computed_or_read_and_not_both(by):
    with pytest.raises(UserError, match="expected one of them: auto computes embeddings"):
        load_data("t", ["folds.identities=auto", "folds.embeddings=mine.csv", f"folds.by={by}"])


def test_a_set_without_any_face_cannot_tell_who_is_who(tmp_path):
    with pytest.raises(UserError, match="finds no face in any stored frame"):
        row = {"frame_id": 0, "time": 0.0, "n_faces": 0, "face": None, "hashes": []}
        record = {"frames": [row], "files": {"frames": {"frames/0-0.jpg": [1, 2]}}}
        embed_set(gather_records([("0.mp4", record)]), Data(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.extras
def test_embeddings_are_computed_once_and_are_those_of_dlib_on_its_own_box(folder, workspace, capsys):
    dlib = pytest.importorskip("dlib")
    weights = require_embedder()
    prepare_set(load_data("s", AUTO[:3]))  # by the threshold that comes with the embedder
    assert "faces to embed: 6 of 6 videos" in capsys.readouterr().out
    whole, table = (folder / "embeddings.csv").read_bytes(), pd.read_csv(folder / "embeddings.csv")
    vectors = table.filter(regex=r"^e\d").to_numpy()
    assert table.shape == (6, 130) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert pd.read_csv(folder / "labels_video.csv")["group"].nunique() == 1  # one face, mirrored or not
    lines = whole.splitlines(keepends=True)
    (folder / "embeddings.csv").write_bytes(b"".join([*lines[:3], *lines[4:]]))  # as a kill leaves it
    prepare_set(load_data("s", AUTO[:3]))
    assert "faces to embed: 1 of 6 videos" in capsys.readouterr().out
    assert (folder / "embeddings.csv").read_bytes() == whole
    picture = np.ascontiguousarray(images.astronaut()[:240, 100:340])
    (box,) = dlib.get_frontal_face_detector()(picture)
    landmarks = dlib.shape_predictor(str(weights / "shape_predictor_5_face_landmarks.dat"))(picture, box)
    encoder = dlib.face_recognition_model_v1(str(weights / "dlib_face_recognition_resnet_model_v1.dat"))
    theirs = np.array(encoder.compute_face_descriptor(picture, landmarks))
    task = make_embed_tasks(records_of(folder), folder)[0]
    ours = embed_face(picture, task.faces[0][1]) * np.linalg.norm(theirs)
    assert np.linalg.norm(ours - theirs) < 0.3  # dlib calls two pictures one person below 0.6
