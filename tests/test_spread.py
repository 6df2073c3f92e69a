"""PARALLEL=members: members side by side, each with its GPU or its share of the cores, its log and its own end."""

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

from liveness.base.files import CODE
from liveness.training import passing, saving

MEMBERS = "\n".join(f"small {fold} mine" for fold in range(5))
# Instead of a training: notes what it was given, then does what the fold says.
MEMBER = """#!/usr/bin/env bash
echo "$1 $2 $DATA ${CUDA_VISIBLE_DEVICES-none} $NGPU $OMP_NUM_THREADS $LIVENESS_AT_ONCE ${*:3}" >>"$NOTES/given"
echo "+" >>"$NOTES/running"
trap 'echo "saved"; exit 143' TERM
for _ in $(seq "${LENGTH:-3}"); do sleep 0.1; done
echo "-" >>"$NOTES/running"
[[ $2 != 1 ]] || { echo "error: no such face" >&2; exit 3; }
echo "done with $2"
"""


def start_spread(folder: Path, **more: str) -> subprocess.Popen:
    """``spread`` over five members in a copy of the scripts whose train_member.sh is the one above."""
    scripts = folder / "code" / "scripts"
    if not scripts.is_dir():
        scripts.mkdir(parents=True)
        for name in ("common.sh", "spread.sh"):
            shutil.copy(CODE / "scripts" / name, scripts)
        (scripts / "train_member.sh").write_text(MEMBER)
    clean = {key: value for key, value in os.environ.items() if key not in ("NGPU", "CUDA_VISIBLE_DEVICES", "SLOTS")}
    text = 'source "$0/common.sh"; source "$0/spread.sh"; spread "$1" "$2" -o a=b'
    values = {**clean, "NOTES": str(folder), "OMP_NUM_THREADS": "1", **more}
    command = ["bash", "-c", text, str(scripts), MEMBERS, str(folder / "logs")]
    return subprocess.Popen(
        command, env=values, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell cannot trap what was ignored when it began, as ctrl-C is where the tests run in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def most_at_once(notes: Path) -> int:
    now = most = 0
    for line in notes.read_text().split():
        now += 1 if line == "+" else -1
        most = max(most, now)
    return most


def test_a_member_that_fails_is_named_at_the_end_and_the_others_finish(tmp_path):
    process = start_spread(tmp_path, NGPU="0", SLOTS="2")
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 1, said + complaints
    assert most_at_once(tmp_path / "running") == 2
    last = complaints.strip().splitlines()[-1]
    assert last.endswith(f"failed: small_fold1 (exit code 3, {tmp_path}/logs/small_fold1.log)")
    assert "error: no such face" in complaints  # its last words, without a look into the log
    assert all(f"small_fold{fold}: done with {fold}" in said for fold in (0, 2, 3, 4))
    assert (tmp_path / "logs/small_fold1.log").read_text().endswith("error: no such face\n")
    given = sorted((tmp_path / "given").read_text().splitlines())
    assert given == [f"small {fold} mine  0 1 2 -o a=b" for fold in range(5)]  # on the CPU, all GPUs hidden


@pytest.mark.parametrize(
    ("env", "devices"),
    [
        ({"NGPU": "2"}, {"0", "1"}),
        ({"NGPU": "2", "CUDA_VISIBLE_DEVICES": "5,GPU-ab,7"}, {"5", "GPU-ab"}),
        ({"NGPU": "1", "SLOTS": "2"}, {"0"}),  # two members share the GPU
    ],
)
def test_each_member_sees_one_gpu(tmp_path, env, devices):
    process = start_spread(tmp_path, LENGTH="1", **env)
    process.communicate(timeout=120)
    given = [line.split() for line in (tmp_path / "given").read_text().splitlines()]
    assert {words[3] for words in given} == devices and {words[4] for words in given} == {"1"}
    assert most_at_once(tmp_path / "running") <= 2 and len(given) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_that_run_and_starts_no_more(tmp_path, number):
    process = start_spread(tmp_path, NGPU="0", SLOTS="2", LENGTH="300")
    running = tmp_path / "running"
    while not running.is_file() or len(running.read_text()) < 4:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    said, complaints = process.communicate(timeout=20)
    assert process.returncode == 143 and complaints == ""
    assert said.count("stopped; the same command goes on with it") == 2
    logs = sorted((tmp_path / "logs").iterdir())
    assert [path.name for path in logs] == ["small_fold0.log", "small_fold1.log"]
    assert all(path.read_text().endswith("saved\n") for path in logs)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"PARALLEL": "folds"}, "PARALLEL=folds: expected members"),
        ({"PARALLEL": "members", "NNODES": "2"}, "for one machine"),
    ],
)
def test_what_cannot_be_spread_is_said(run_driver, env, words):
    done = run_driver("train.sh", "demo", env=env)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_a_gpu_the_number_of_members_must_be_said(tmp_path):
    process = start_spread(tmp_path, NGPU="0")
    assert "SLOTS=2" in process.communicate(timeout=60)[1] and process.returncode == 2


def test_members_side_by_side_reckon_with_each_other(tmp_path, monkeypatch):
    """Four that save at once need four times as long, and four that hold batches in /dev/shm four times the room."""
    saver = saving.Saver(None, tmp_path / "last.pt")
    saver.seconds = 20.0
    about = os.statvfs(passing.SHM)
    third = about.f_bavail * about.f_frsize // 3 // (passing.PREFETCH + 2)  # of what is free, for one loader's batches
    alone = (saver.wanted, passing.choose_way(1, third)[1])
    monkeypatch.setenv("LIVENESS_AT_ONCE", "4")
    assert alone == (42, False)
    assert (saver.wanted, passing.choose_way(1, third)[1]) == (162, True)


@pytest.mark.full
def test_two_members_at_once_stopped_and_continued_are_those_trained_alone(tmp_path):
    """The real drivers: SIGTERM in mid-training, then the same command; the bytes of undisturbed members."""
    changes = [
        *NARROW,
        "model.name=convnext_tiny",
        "view.kind=frame",
        "train.epochs=20",
        "train.lr=1e-3",
        "augment=light",
    ]
    for name in ("together", "alone"):
        write_prepared(tmp_path / name, folds=2)
    root = tmp_path / "together"
    more = {"LIVENESS_ROOT": str(root), "PYTHON": sys.executable, "PARALLEL": "members", "NGPU": "0", "SLOTS": "2"}
    command = ["bash", str(CODE / "train.sh"), "efficientnet_lite0", "-o", *changes]
    values = {**os.environ, **more, "OMP_NUM_THREADS": "1", "DATA": "tiny"}
    begun = [root / f"runs/tiny/efficientnet_lite0_fold{fold}/last.pt" for fold in (0, 1)]
    process = subprocess.Popen(command, env=values, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not all(path.is_file() for path in begun):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert all(path.is_file() for path in begun) and not (root / "weights").exists()
    again = subprocess.run(command, env=values, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (root / "result/report_tiny_efficientnet_lite0.html").is_file()
    for fold in ("0", "1"):
        arguments = ["-c", "efficientnet_lite0", "--fold", fold, "--data", "tiny", "-o", *changes]
        assert train_here(tmp_path / "alone", *arguments) == 0
        for path in (
            f"weights/tiny/efficientnet_lite0_fold{fold}.safetensors",
            "runs/tiny/efficientnet_lite0_fold" + fold + "/oof.csv",
        ):
            assert (root / path).read_bytes() == (tmp_path / "alone" / path).read_bytes(), path
