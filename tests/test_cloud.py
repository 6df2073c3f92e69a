"""DVC and the bucket, against an S3 server on this machine. Needs the environments of scripts/setup_dvc.sh --s3."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hand_set import NARROW, write_prepared
from in_process import train_here
from s3_server import SERVER, started_server
from tiny_set import write_set

from liveness.base.files import CODE

DVC, AWS = (CODE / path for path in (".venv-dvc/bin/dvc", ".venv-s3/bin/aws"))
NEEDED = "needs .venv-dvc and .venv-s3; run: bash scripts/setup_dvc.sh --s3"
pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(not all(path.exists() for path in (DVC, AWS, SERVER)), reason=NEEDED),
]
RECIPE = """# @package _global_
defaults:
  - /recipe_schema
  - /frames: zalo2022
  - /augment: none
  - _self_
name: demo_face
data: demo
view: {kind: frame, size: 32}
model: {name: convnext_tiny, pretrained: "", kwargs: {depths: [1, 1, 1, 1], dims: [8, 16, 16, 16]}}
train: {epochs: 1, batch: 6, workers: 0, warmup_epochs: 0}
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with started_server(tmp_path_factory.mktemp("s3") / "log") as variables:
        yield variables


@pytest.fixture
def clone(tmp_path) -> Path:
    """The tracked files as a repository of their own, with a set of tiny clips and two narrow members."""
    code = tmp_path / "code"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=CODE, capture_output=True, check=True).stdout.decode()
    for name in tracked.strip("\0").split("\0"):
        if (CODE / name).is_file():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CODE / name, code / name)
    recipes, ensemble = code / "configs/recipe", code / "configs/ensemble/demo.yaml"
    (recipes / "demo_face.yaml").write_text(RECIPE)
    (recipes / "demo_frame.yaml").write_text(
        "# @package _global_\ndefaults:\n  - demo_face\n  - _self_\nname: demo_frame\ntrain: {lr: 1e-3}\n"
    )
    text = ensemble.read_text().partition("members:")[0]
    ensemble.write_text(f"{text}members:\n  - {{recipe: demo_face, fold: 0}}\n  - {{recipe: demo_frame, fold: 1}}\n")
    write_set(code / "raw/demo")
    mail = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*mail, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=code, check=True)
    return code


def test_dvc_runs_the_pipeline_keeps_it_in_a_bucket_and_retrains_what_changed(clone, s3, tmp_path):
    values = {key: value for key, value in os.environ.items() if key != "LIVENESS_ROOT"}
    values |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "NGPU": "0", **s3}

    def dvc(*words: str) -> str:
        done = subprocess.run([DVC, *words], cwd=clone, env=values, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    weights = [clone / f"weights/demo/{name}.safetensors" for name in ("demo_face_fold0", "demo_frame_fold1")]
    assert dvc("repro").count("Running stage") == 5
    before = [path.read_bytes() for path in weights]
    # git is asked to keep the record of what was run, and none of the outputs.
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert changed.stdout.split() == ["??", "dvc.lock"]

    dvc("remote", "add", "-q", "--local", "-d", "store", "s3://store/dvc")
    dvc("remote", "modify", "-q", "--local", "store", "endpointurl", s3["AWS_ENDPOINT_URL"])
    dvc("push")
    for path in (".dvc/cache", "data/demo", "runs", "weights/demo", "result"):
        shutil.rmtree(clone / path)
    dvc("pull")
    assert [path.read_bytes() for path in weights] == before
    assert "up to date" in dvc("repro")

    shown = json.loads(dvc("metrics", "show", "--json"))[""]["data"]["result/review_demo_demo/metrics.json"]["data"]
    assert 0 <= shown["eer_low"] <= shown["eer"] <= shown["eer_high"] <= 1
    page = Path(dvc("plots", "show", "-o", str(tmp_path / "plots")).split("file://")[-1].strip()).read_text()
    assert "apcer_deviate" in page and "attack" in page and "Scores out of fold" in page

    recipe = clone / "configs/recipe/demo_frame.yaml"
    recipe.write_text(recipe.read_text().replace("1e-3", "2e-3"))
    said = dvc("repro")
    assert "demo_face fold 0 of demo: already trained" in said and said.count("already trained") == 1
    assert weights[0].read_bytes() == before[0] and weights[1].read_bytes() != before[1]
    assert "Stage 'prepare' didn't change" in said and "Running stage 'report'" in said


def test_a_training_that_lost_its_machine_goes_on_from_the_bucket(s3, tmp_path):
    """Killed in mid-epoch; another machine has data and bucket. It ends with the bytes of an undisturbed one."""
    changes = [*NARROW, "train.epochs=20", "train.lr=1e-3", "augment=light"]
    command = [
        "bash",
        "scripts/with_bucket.sh",
        "s3://store/run",
        "bash",
        "scripts/train_member.sh",
        "convnext_xlarge",
        "0",
    ]
    values = {**os.environ, **s3, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "NGPU": "0", "DATA": "tiny"}
    values |= {"EVERY": "1", "AWS": str(AWS)}
    for name in ("first", "second", "alone"):
        write_prepared(tmp_path / name)

    def start(root: Path) -> subprocess.Popen:
        env = values | {"LIVENESS_ROOT": str(root)}
        return subprocess.Popen([*command, "-o", *changes], cwd=CODE, env=env, start_new_session=True)

    first = start(tmp_path / "first")
    run = "runs/tiny/convnext_xlarge_fold0/last.pt"
    while not (tmp_path / "first" / run).is_file():
        assert first.poll() is None
        time.sleep(0.02)
    _pause_training(first.pid)  # the copy to the bucket takes longer than these epochs
    while not _fetch(f"s3://store/run/{run}", tmp_path / "fetched", values):
        assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    weights = "weights/tiny/convnext_xlarge_fold0.safetensors"
    assert not (tmp_path / "first" / weights).exists()  # it was under way

    second = start(tmp_path / "second")
    assert second.wait(timeout=1500) == 0
    runs = json.loads((tmp_path / "second/runs/tiny/convnext_xlarge_fold0/runs.json").read_text())
    assert len(runs) == 2  # the first machine's start came along
    assert train_here(tmp_path / "alone", "-c", "convnext_xlarge", "--fold", "0", "--data", "tiny", "-o", *changes) == 0
    for path in (weights, "runs/tiny/convnext_xlarge_fold0/oof.csv"):
        assert (tmp_path / "second" / path).read_bytes() == (tmp_path / "alone" / path).read_bytes(), path
    assert _fetch(f"s3://store/run/{weights}", tmp_path / "fetched", values)
    assert (tmp_path / "fetched").read_bytes() == (tmp_path / "alone" / weights).read_bytes()


def _pause_training(group: int) -> None:
    """SIGSTOP for the processes of a group that train; the scripts around them go on."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group and b"liveness.train\0" in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGSTOP)
        except OSError:  # it has ended meanwhile
            continue


def _fetch(address: str, place: Path, values: dict[str, str]) -> bool:
    """Whether the bucket has the object, which then lies in ``place``."""
    command = [AWS, "s3", "cp", "--only-show-errors", address, str(place)]
    return subprocess.run(command, env=values, stderr=subprocess.DEVNULL, timeout=600).returncode == 0
