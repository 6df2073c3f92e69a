"""The whole pipeline on drawn faces, through the drivers: what a newcomer's two commands stand on."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from liveness.base.files import CODE

# Small and short, but with the real backbone, its pretrained weights and the real faces.
SHORT = ["train.epochs=1", "train.batch=8", "train.workers=0", "view.size=64"]


def drive(root: Path, *command: str, **more: str) -> subprocess.CompletedProcess:
    values = {**os.environ, "LIVENESS_ROOT": str(root), "PYTHON": sys.executable, **more}
    done = subprocess.run(["bash", *command], cwd=CODE, env=values, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A workspace with 24 drawn, prepared clips of 12 persons in three folds, and a few unlabelled ones."""
    root = tmp_path_factory.mktemp("pipeline")
    values = {**os.environ, "LIVENESS_ROOT": str(root), "PYTHONPATH": str(CODE / "src")}
    make = [sys.executable, "-m", "liveness.make_demo", "--clips", "24", "--unlabelled", "4"]
    subprocess.run(make, env=values, check=True, capture_output=True, timeout=300)
    drive(root, "prepare_data.sh", "demo")
    return root


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"filename": str, "fname": str})


@pytest.mark.full
def test_prediction_gives_a_held_out_video_its_out_of_fold_score(drawn):
    """The proof that training and prediction share one road: frames, faces, crops, tensors, scores."""
    drive(drawn, "scripts/train_member.sh", "demo_face", "0", "-o", *SHORT, "view.scales=[1.3,1.9]")
    oof = read(drawn / "runs/demo/demo_face_fold0/oof.csv")
    folds = read(drawn / "data/demo/folds.csv")
    assert set(oof.filename) == set(folds.filename[folds.fold == 0])
    assert (oof.status == "ok").mean() > 0.8  # faces are found
    held_out = drawn / "held_out"
    held_out.mkdir()
    for name in sorted(set(oof.filename)):
        (held_out / name).symlink_to(drawn / "raw/demo/videos" / name)
    drive(drawn, "predict.sh", str(held_out), str(drawn / "again"), "--members", "demo_face:0", DATA="demo")
    predicted = read(drawn / "again/predictions.csv").set_index("fname").score
    own = oof.groupby("filename").score.mean().fillna(0.5)
    assert set(predicted.index) == set(own.index) and len(own) >= 6
    assert (predicted - own).abs().max() <= 1e-9  # what nine decimals leave


@pytest.mark.full
def test_the_demos_ensemble_goes_from_videos_to_a_submission(drawn, tmp_path):
    root = tmp_path / "workspace"
    (root / "raw").mkdir(parents=True)
    for name in ("demo", "demo_test"):
        (root / "raw" / name).symlink_to(drawn / "raw" / name)
    drive(root, "prepare_data.sh", "demo")
    done = drive(root, "train.sh", "demo", "-o", *SHORT)
    assert "out-of-fold EER" in done.stdout and "95 % interval" in done.stdout
    report = json.loads((root / "runs/demo/demo/report.json").read_text())
    table = read(root / "runs/demo/demo/oof_video.csv")
    assert len(table) == 24 and report["data"] == "demo"
    again = drive(root, "train.sh", "demo", "-o", *SHORT)
    assert again.stdout.count("already trained") == 5
    done = drive(root, "predict.sh", str(root / "raw/demo_test"), str(root / "result"), ENSEMBLE="demo")
    assert "demo.json: equal error rate out of fold" in done.stdout
    with open(root / "result/submission.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and list(rows[0]) == ["fname", "liveness_score"]
    decisions = set(read(root / "result/predictions.csv").decision)
    assert decisions <= {"live", "attack", "abstain"}


@pytest.mark.full
def test_the_demo_as_a_newcomer_starts_it(tmp_path):
    """bash demo.sh from start to end with the interpreter at hand; it ends with the figure and the file."""
    done = drive(tmp_path, "demo.sh")
    assert "out-of-fold EER" in done.stdout
    tail = done.stdout.split("== result")[1]
    assert "95 %" in tail and f"submission: {tmp_path}/result/submission.csv" in tail
    assert len(read(tmp_path / "result/submission.csv")) == 12
