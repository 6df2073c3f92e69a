"""Training from start to end, also killed and in several processes, on a small prepared set of drawn clips."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import prepare_here, train_here

from liveness.base.compose import load_recipe
from liveness.base.config import Train
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.members.weights import load_member
from liveness.training.schedule import ema_decay, learning_rate

NARROW = [
    "model.kwargs.depths=[1,1,1,1]",
    "model.kwargs.dims=[8,16,16,16]",
    "model.pretrained=",
    "view.size=32",
    "train.epochs=2",
    "train.batch=6",
    "train.workers=0",
]


def environment(root: Path, **more: str) -> dict[str, str]:
    values = {**os.environ, "LIVENESS_ROOT": str(root), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **more}
    return values | {"PYTHONPATH": str(CODE / "src"), "NO_ALBUMENTATIONS_UPDATE": "1"}


def drive(root: Path, *command: str, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", *command], cwd=CODE, env=environment(root, **more), capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_clips) -> Path:
    """A workspace with data/train: 19 clips of 5 persons in 3 folds (odd counts: nothing divides evenly)."""
    root = tmp_path_factory.mktemp("training")
    videos = root / "raw" / "train" / "videos"
    rows = []
    for number in range(19):
        tiny_clips(videos / f"{number}.mp4", frames=6, size=(64, 80), seed=number)
        rows.append((f"{number}.mp4", number % 2, f"p{number // 2 % 5}"))
    with open(root / "raw" / "train" / "label.csv", "w", newline="") as file:
        csv.writer(file).writerows([("fname", "liveness_score", "subject"), *rows])
    prepare_here(root, "train", "folds.n=3", "folds.groups=")
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A workspace of its own with the prepared set in it."""
    shutil.copytree(prepared / "data", tmp_path / "data", symlinks=True)
    return tmp_path


def member(root: Path, recipe: str = "convnext_xlarge", fold: int = 0) -> Path:
    return root / "weights" / "train" / f"{recipe}_fold{fold}.safetensors"


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory) -> Path:
    """Fold 0 of a narrow ConvNeXt, trained without an interruption."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(prepared / "data", root / "data", symlinks=True)
    assert train_fold_0(root) == 0
    return root


def train_fold_0(root: Path, *options: str) -> int:
    """What scripts/train_convnext_xlarge_fold0.sh starts, in this process."""
    return train_here(root, "-c", "convnext_xlarge", "--fold", "0", "-o", *NARROW, *options)


def test_every_held_out_frame_is_scored_once_and_no_other(trained):
    folds = pd.read_csv(trained / "data/train/folds.csv")
    frames = pd.read_csv(trained / "data/train/labels_keyframes.csv")
    held_out = set(folds.filename[folds.fold == 0])
    wanted = {(f"{v}.mp4", k) for v, k in zip(frames.video_id, frames.frame_id, strict=True) if f"{v}.mp4" in held_out}
    oof = pd.read_csv(trained / "runs/train/convnext_xlarge_fold0/oof.csv")
    assert not oof.duplicated(["filename", "frame_id"]).any()
    assert set(zip(oof.filename, oof.frame_id, strict=True)) == wanted
    assert (oof.status == "ok").all() and oof.score.between(0, 1).all() and (oof.fold == 0).all()
    labels = dict(zip(folds.filename, folds.label, strict=True))
    assert (oof.label == oof.filename.map(labels)).all()


def test_a_run_leaves_its_metrics_its_configuration_and_weights_that_describe_themselves(trained):
    run = trained / "runs/train/convnext_xlarge_fold0"
    rows = pd.read_csv(run / "metrics.csv")
    assert rows.epoch.tolist() == [1, 2] and np.isfinite(rows.train_loss).all()
    assert json.loads((run / "config.json").read_text())["recipe"]["model"]["kwargs"]["dims"] == [8, 16, 16, 16]
    model, description = load_member(member(trained))
    assert description["recipe"]["view"]["size"] == 32 and description["fold"] == 0 and description["data"] == "train"
    assert description["contract"]["frames"]["positions"] == [0.2, 0.4666667, 0.7333333]
    assert description["held_out"]["videos"] == len(set(pd.read_csv(run / "oof.csv").filename))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1)


def test_a_finished_member_is_left_alone_and_another_recipe_is_refused(trained, capsys):
    before = member(trained).stat().st_mtime_ns
    assert train_fold_0(trained) == 0 and "already trained" in capsys.readouterr().out
    assert member(trained).stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"recipe\.train\.lr is 0\.0001 there, 0\.0003 here"):
        train_fold_0(trained, "train.lr=3e-4")
    assert member(trained).stat().st_mtime_ns == before


@pytest.mark.full
def test_the_same_seed_gives_the_same_bytes(trained, root):
    """By its script, in a process of its own under torchrun, and in this one."""
    done = drive(root, "scripts/train_convnext_xlarge_fold0.sh", "-o", *NARROW)
    assert done.returncode == 0, done.stderr
    assert member(root).read_bytes() == member(trained).read_bytes()
    for table in ("oof.csv",):
        run = "runs/train/convnext_xlarge_fold0"
        assert (root / run / table).read_bytes() == (trained / run / table).read_bytes()


def test_two_processes_train_what_one_trains(trained, root):
    done = drive(root, "scripts/train_convnext_xlarge_fold0.sh", "-o", *NARROW, NGPU="2")
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    one, two = load_member(member(trained))[0].state_dict(), load_member(member(root))[0].state_dict()
    for key, value in one.items():
        assert (value - two[key]).norm() <= 1e-5 * value.norm() + 1e-9, key
    run = "runs/train/convnext_xlarge_fold0/oof.csv"
    left, right = pd.read_csv(trained / run), pd.read_csv(root / run)
    assert left.filename.tolist() == right.filename.tolist()
    assert left.score.to_numpy() == pytest.approx(right.score.to_numpy(), abs=1e-5)


def test_accumulation_trains_what_one_pass_trains(trained, root):
    assert train_fold_0(root, "train.batch_per_process=4") == 0
    one, many = load_member(member(trained))[0].state_dict(), load_member(member(root))[0].state_dict()
    for key, value in one.items():
        assert (value - many[key]).norm() <= 1e-5 * value.norm() + 1e-9, key


def start(root: Path, *options: str, **more: str) -> subprocess.Popen:
    command = ["bash", "scripts/train_convnext_xlarge_fold0.sh", "-o", *NARROW, *options]
    return subprocess.Popen(
        command, cwd=CODE, env=environment(root, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def processes_of(root: Path) -> list[int]:
    """Processes whose environment names this workspace."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and f"LIVENESS_ROOT={root}\0" in (entry / "environ").read_text():
                found.append(int(entry.name))
        except (OSError, UnicodeDecodeError):
            continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.full
def test_a_killed_launcher_takes_its_workers_along_and_the_next_start_ends_with_the_same_bytes(trained, root):
    process = start(root)
    for line in process.stdout:
        if line.strip().startswith("epoch"):
            break
    process.kill()  # -9: torchrun itself, which has taken the driver's place
    process.wait()
    deadline = time.monotonic() + 120
    while processes_of(root) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(root) == []
    assert train_fold_0(root) == 0
    assert member(root).read_bytes() == member(trained).read_bytes()


@pytest.mark.full
def test_five_kills_at_random_moments_end_with_the_same_bytes(trained, root):
    """Kill -9 of the launcher wherever it happens to be: loading, in a step, scoring, saving."""
    seed = int(time.time())
    print(f"seed {seed}")
    moments = random.Random(seed)
    for _ in range(5):
        process = start(root)
        try:
            process.wait(moments.uniform(2, 10))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        deadline = time.monotonic() + 120
        while processes_of(root) and time.monotonic() < deadline:
            time.sleep(0.2)
    done = drive(root, "scripts/train_convnext_xlarge_fold0.sh", "-o", *NARROW)
    assert done.returncode == 0, done.stderr
    assert member(root).read_bytes() == member(trained).read_bytes()
    run = "runs/train/convnext_xlarge_fold0/oof.csv"
    assert (root / run).read_bytes() == (trained / run).read_bytes()


@pytest.mark.full
def test_sigterm_saves_the_step_and_the_next_start_ends_with_the_same_bytes(root, trained):
    process = start(root)
    for line in process.stdout:
        if "epochs of" in line:
            break
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    if "stopped in epoch" in out:  # else it came before the first step: then there is nothing to save
        assert (root / "runs/train/convnext_xlarge_fold0/last.pt").is_file()
    assert train_fold_0(root) == 0
    assert member(root).read_bytes() == member(trained).read_bytes()


def pid_of_rank(root: Path, rank: int) -> int:
    """The process that trains as ``rank`` in this workspace."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            settings = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if {f"RANK={rank}".encode(), f"LIVENESS_ROOT={root}".encode()} <= set(settings):
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.full
def test_a_signal_to_another_rank_alone_saves_the_step_too(root):
    """As when one node of several is reclaimed: the rank that writes did not get the signal itself."""
    process = start(root, "train.epochs=400", NGPU="2", CUDA_VISIBLE_DEVICES="")
    for line in process.stdout:
        if "epoch " in line and "held-out" in line:
            break
    os.kill(pid_of_rank(root, 1), signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "the same command continues" in out
    assert (root / "runs/train/convnext_xlarge_fold0/last.pt").is_file()


def test_a_fold_that_is_not_there_is_one_line(root):
    with pytest.raises(UserError, match="fold 7: data/train/folds.csv has the folds 0 to 2") as caught:
        train_here(root, "-c", "convnext_xlarge", "--fold", "7")
    assert "\n" not in str(caught.value)


def test_a_loss_that_explodes_ends_the_training_in_one_line_and_without_weights(root):
    """A planted option makes it explode. More mistakes are in test_training_checks."""
    with pytest.raises(UserError, match="the loss is not finite") as caught:
        train_fold_0(root, "train.lr=1", "train.warmup_epochs=0", "view.std=[1e-38,1e-38,1e-38]")
    assert "\n" not in str(caught.value)
    assert not member(root).exists()


def test_the_drivers_print_the_eight_commands(tmp_path):
    done = drive(tmp_path, "train.sh", "zalo2022", DRY_RUN="1", NGPU="2")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 8
    wanted = [("convnext_xlarge", k) for k in range(5)] + [("convnext_large", k) for k in range(3)]
    for line, (recipe, fold) in zip(lines, wanted, strict=True):
        assert "-m liveness.torchrun --standalone " in line and " --nproc_per_node 2 " in line
        assert f"-m liveness.train -c {recipe} --fold {fold}" in line
    several = drive(
        tmp_path, "train.sh", "zalo2022", DRY_RUN="1", NGPU="1", NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1"
    )
    assert "--nnodes 2 --node_rank 1 --master_addr 10.0.0.1" in several.stdout


def test_the_learning_rate_warms_up_and_ends_at_its_least():
    config = load_recipe("convnext_xlarge").train
    steps = 43
    rates = [learning_rate(config, step, steps, config.lr) for step in range(config.epochs * steps)]
    assert rates[0] == pytest.approx(config.lr / (4 * steps))
    assert max(rates) == rates[4 * steps - 1] == pytest.approx(config.lr)
    assert rates[-1] == pytest.approx(config.min_lr)
    assert all(a >= b for a, b in zip(rates[4 * steps :], rates[4 * steps + 1 :], strict=False))


def test_the_moving_average_forgets_half_in_its_half_life():
    assert ema_decay(Train(ema_half_life=1.0), 43) ** 43 == pytest.approx(0.5)
    assert ema_decay(Train(ema_half_life=2.0), 10) ** 20 == pytest.approx(0.5)
