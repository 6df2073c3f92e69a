"""Another launcher's RANK and WORLD_SIZE in the environment are not ours: a process alone waits for nobody."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from liveness.base import launch
from liveness.base.files import CODE

LEFT_OVER = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}


def parent(tmp_path, *words: str):
    """A /proc in which process 7 has this command line."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "command", "expected"),
    [
        ({launch.LAUNCHER: "7"}, ["python", "-m", "liveness.torchrun"], True),
        ({launch.LAUNCHER: "8"}, ["bash", "predict.sh"], False),  # started from within a training
        ({}, ["slurmstepd"], False),
        ({"TORCHELASTIC_RUN_ID": "none"}, ["bash"], False),
        ({"TORCHELASTIC_RUN_ID": "none"}, ["python", "/opt/bin/torchrun", "--nproc_per_node", "2"], True),
        ({"TORCHELASTIC_RUN_ID": "none"}, ["python", "-m", "torch.distributed.run", "--standalone"], True),
    ],
)
def test_only_a_torchrun_that_is_the_parent_counts(tmp_path, variables, command, expected):
    assert launch.by_torchrun({**LEFT_OVER, **variables}, 7, parent(tmp_path, *command)) is expected


def test_what_others_have_left_is_passed_over(monkeypatch):
    for name, value in LEFT_OVER.items():
        monkeypatch.setenv(name, value)
    assert (launch.global_rank(), launch.world(), launch.local_rank(), launch.local_world()) == (0, 1, 0, 1)
    monkeypatch.setattr(launch, "BY_TORCHRUN", True)
    assert (launch.global_rank(), launch.world(), launch.local_rank(), launch.local_world()) == (1, 2, 1, 2)


ALONE = """
import os, signal, sys, time
from liveness.base import launch

print(launch.world(), launch.global_rank(), launch.BY_TORCHRUN, flush=True)
if sys.argv[1] == "wait":
    signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), os._exit(7)))
    print("ready", flush=True)
    time.sleep(60)
os.kill(os.getpid(), signal.SIGKILL) if sys.argv[1] == "killed" else sys.exit(int(sys.argv[1]))
"""


def start_alone(tmp_path: Path, word: str) -> subprocess.Popen:
    (tmp_path / "alone.py").write_text(ALONE)
    (tmp_path / "torch.py").write_text("raise AssertionError('torch takes seconds and is not needed')")
    left = {"WORLD_SIZE": "8", "RANK": "3", "PYTHONPATH": f"{tmp_path}:{CODE / 'src'}"}  # as Slurm leaves it
    options = ["--standalone", "--local_addr", "127.0.0.1", "--nproc_per_node", "1", "-m", "alone", word]
    command = [sys.executable, "-m", "liveness.torchrun", *options]
    return subprocess.Popen(
        command, env={**os.environ, **left}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [("0", 0, ""), ("3", 3, ""), ("killed", 137, "the process of rank 0 was ended by SIGKILL")],
)
def test_a_single_process_needs_no_torch_to_start_and_its_end_is_told(tmp_path, word, code, said):
    process = start_alone(tmp_path, word)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "1 0 True\n"), err
    assert said in err and len(err.splitlines()) == bool(said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_its_launcher_reaches_a_single_process_as_sigterm(tmp_path, number, code):
    process = start_alone(tmp_path, "wait")
    while "ready" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "saved\n", "")
