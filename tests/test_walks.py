"""What the two original READMEs tell a user, typed in their order on a small set of the challenge's shape.

The models are narrow: by -o for training, by two lines in the copy's recipes for the published weights. The
server is this machine's loopback address; where namespaces can be made there is no other network device.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from namespaces import SERVE_AND_ASK, Container, code_tree, reason_against

from liveness.base.files import CODE

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]

# The tables that the baseline's README lists below data/train/.
BASELINES_TABLES = {"labels.csv"} | {
    f"labels_{table}{part}.csv" for table in ("video", "keyframes", "bbox") for part in ("", "_train", "_test")
}

FIRST_PLACE = r"""
# ---- 2. Data
mkdir -p raw train_video data
cd raw
fetch "$SERVER/train.zip"
unzip -q train.zip
mv train/videos/* ../train_video/
mv train/label.csv .
rm -r train train.zip
fetch "$SERVER/public_test.zip"
unzip -q public_test.zip
mv public_test/videos/* ../data/
rm -r public_test public_test.zip
cd ..
bash prepare_data.sh
python create_sample_sub.py

# ---- 3. Training
(cd weights && fetch "$SERVER/weights/convnext_xlarge_22k_1k_224_ema.pth")
(cd weights && fetch "$SERVER/weights/convnext_large_22k_1k_224.pth")
bash scripts/train_convnext_xlarge_fold0.sh -o "${NARROW[@]}"
bash scripts/train_convnext_xlarge_fold1.sh -o "${NARROW[@]}"
bash scripts/train_convnext_xlarge_fold2.sh -o "${NARROW[@]}"
bash scripts/train_convnext_xlarge_fold3.sh -o "${NARROW[@]}"
bash scripts/train_convnext_xlarge_fold4.sh -o "${NARROW[@]}"
bash scripts/train_convnext_large_fold0.sh -o "${NARROW[@]}"
bash scripts/train_convnext_large_fold1.sh -o "${NARROW[@]}"
bash scripts/train_convnext_large_fold2.sh -o "${NARROW[@]}"

# ---- 4. Trained weights
LIVENESS_WEIGHTS_URL=$SERVER/weights bash download_weights.sh

# ---- 5. Prediction
bash predict.sh
mv result/submission.csv result/own.csv
ENSEMBLE=zalo2022_published bash predict.sh
"""

# What stands around the lines that a user types: the server, and tools that not every machine has.
AROUND = r"""
set -euo pipefail
ip link set lo up 2>/dev/null || true
python -u -m http.server --bind 127.0.0.1 --directory "$SERVED" 0 >"$SERVED/server.txt" 2>&1 &
trap 'kill %1' EXIT
until grep -q 'port [1-9]' "$SERVED/server.txt"; do sleep 0.1; done
SERVER=http://127.0.0.1:$(grep -o 'port [0-9]*' "$SERVED/server.txt" | cut -d' ' -f2)
fetch() { python -c 'import sys, urllib.request as u; u.urlretrieve(sys.argv[1], sys.argv[2])' "$1" "${1##*/}"; }
command -v wget >/dev/null && fetch() { wget -q "$1"; }
command -v unzip >/dev/null || unzip() { python -m zipfile -e "$2" .; }
NARROW=('model.kwargs.depths=[1,1,1,1]' 'model.kwargs.dims=[8,16,16,16]' view.size=32 train.epochs=1 train.batch=8
  train.warmup_epochs=0 train.workers=0)
"""

PUBLISHED_NARROW = "model: {kwargs: {depths: [1, 1, 1, 1], dims: [8, 16, 16, 16]}}\n"


def copy_of_the_repository(folder: Path) -> Path:
    """The repository as a clone has it: no data, no weights, no .venv."""
    leave = [f"--exclude=./{name}" for name in (".git", ".venv", "raw", "data", "runs", "result", "weights")]
    folder.mkdir()
    pack = ["tar", "-C", str(CODE), *leave, "--exclude=__pycache__", "-cf", "-", "."]
    packed = subprocess.run(pack, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-C", str(folder), "-xf", "-"], input=packed, check=True)
    (folder / "weights").mkdir()
    return folder


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> Path:
    """The repository after the 1st place's steps; walked.txt holds what was printed."""
    root = tmp_path_factory.mktemp("walk")
    code = copy_of_the_repository(root / "Liveness Detection")
    for size in ("large", "xlarge"):
        with open(code / "configs" / "recipe" / f"published_{size}.yaml", "a") as file:
            file.write(PUBLISHED_NARROW)
    # An active environment, as conda makes one: `python` is the interpreter.
    (root / "bin").mkdir()
    for name in ("python", "python3"):
        (root / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (root / "bin" / name).chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "LIVENESS_ROOT", "PYTHONPATH")}
    values = clean | {"PATH": f"{root / 'bin'}:{os.environ['PATH']}", "SERVED": str(root / "served")}
    make = [sys.executable, str(CODE / "tests" / "challenge_set.py"), values["SERVED"]]
    paths = {"PYTHONPATH": f"{CODE / 'src'}:{CODE / 'tests'}"}
    done = subprocess.run(make, env=values | paths, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # Nothing that was started outlives the namespace.
    offline = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"] if not reason_against() else []
    done = subprocess.run(
        [*offline, "bash", "-c", AROUND + FIRST_PLACE],
        cwd=code,
        env=values,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (code / "walked.txt").write_text(done.stdout)
    return code


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_first_places_readme_from_the_download_to_the_submission(walked):
    data = walked / "data" / "train"
    assert {path.name for path in data.glob("labels*.csv")} == BASELINES_TABLES
    assert len(rows(data / "labels_video.csv")) == 20 and len(rows(data / "labels_keyframes.csv")) == 60
    faces = [row["face"] for row in rows(data / "labels_bbox.csv")]
    assert faces.count("1") > 40  # also behind masks
    trained = {path.name for path in (walked / "weights" / "train").glob("*.safetensors")}
    assert trained == {f"convnext_xlarge_fold{k}.safetensors" for k in range(5)} | {
        f"convnext_large_fold{k}.safetensors" for k in range(3)
    }
    said = (walked / "walked.txt").read_text()
    assert said.count("there already, SHA-256 agrees") == 2  # the two that section 3 had put there
    sample = rows(walked / "sample_submission.csv")
    own, published = (rows(walked / "result" / name) for name in ("own.csv", "submission.csv"))
    assert [row["fname"] for row in sample] == ["0.mp4", "1.mp4", "2.mp4"]
    for table in (own, published):
        assert list(table[0]) == ["fname", "liveness_score"]
        assert [row["fname"] for row in table] == ["0.mp4", "1.mp4", "2.mp4"]
        assert all(0 < float(row["liveness_score"]) < 1 for row in table)
    assert own != published
    assert {row["status"] for row in rows(walked / "result" / "predictions.csv")} == {"ok"}


def test_the_baselines_container_calls_with_those_weights(walked, tmp_path):
    """docker run … /bin/bash predict.sh, then docker run -p9777:9777 … /bin/bash jupyter.sh."""
    why = reason_against()
    if why:
        pytest.skip(f"no containers can be made here: {why}")
    code = code_tree(tmp_path / "code", walked / "weights")
    clips, out = tmp_path / "data", tmp_path / "result"
    clips.mkdir()
    out.mkdir(mode=0o755)
    for path in (walked / "data").glob("*.mp4"):
        (clips / path.name).write_bytes(path.read_bytes())
    box = Container(code, [(clips, "/data", True), (out, "/result", False)])
    done = box.run("/bin/bash", "predict.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "submission.csv").read_bytes() == (walked / "result" / "own.csv").read_bytes()
    done = box.run("bash", "-c", SERVE_AND_ASK, "jupyter.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    without_token, with_token, names = json.loads(done.stdout)
    assert (without_token, with_token) == (403, 200) and "predict_notebook.ipynb" in names
