"""What the machine gives: cores and memory from cgroups, GPUs that cannot be used, names in any locale, sockets."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from liveness.base import machine
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.models.device import pick_device
from liveness.prediction import memory
from liveness.sets.duplicates import BITS, find_pairs

GIB = 1 << 30
SCRIPTS = sorted([*CODE.glob("*.sh"), *(p for p in CODE.glob("scripts/*.sh") if p.name != "common.sh")])


def tree(root: Path, files: dict[str, str]) -> Path:
    """A root folder with these files in it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.fixture
def many_cores(monkeypatch):
    """Affinity allows 64 cores, as on a large host."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"
IN_V1 = {"proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n7:memory:/docker/abc\n1:name=systemd:/docker/abc"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({f"{V2}/cpu.max": "max 100000"}, 64),
        ({f"{V2}/cpu.max": "400000 100000"}, 4),
        ({f"{V2}/cpu.max": "150000 100000"}, 2),
        ({f"{V2}/cpu.max": "20000 100000"}, 1),
        ({f"{V2}/cpu.max": "9900000 100000"}, 64),
        # A group of one's own, the limit at the one above it.
        (
            {"proc/self/cgroup": "0::/pod/app", f"{V2}/pod/cpu.max": "300000 100000", f"{V2}/pod/app/cpu.max": "max 1"},
            3,
        ),
        # The group of a sibling does not count.
        ({"proc/self/cgroup": "0::/pod/app", f"{V2}/pod/other/cpu.max": "100000 100000"}, 64),
        ({**IN_V1, f"{V1}/docker/abc/cpu.cfs_quota_us": "250000", f"{V1}/docker/abc/cpu.cfs_period_us": "50000"}, 5),
        # In the container the host's path is not there: the mount's top is the container's own group.
        ({**IN_V1, f"{V1}/cpu.cfs_quota_us": "200000", f"{V1}/cpu.cfs_period_us": "100000"}, 2),
        ({**IN_V1, f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, 64),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"proc/self/cgroup": "nonsense", f"{V2}/cpu.max": "nonsense"}, 64),
    ],
)
def test_cores_are_those_of_the_container(many_cores, tmp_path, files, expected):
    assert machine.cores(tree(tmp_path, files)) == expected


def test_affinity_counts_below_a_larger_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    assert machine.cores(tree(tmp_path, {f"{V2}/cpu.max": "800000 100000"})) == 3


FREE = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {64 * GIB // 1024} kB"}
MEMORY = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({f"{V2}/memory.max": "max", f"{V2}/memory.current": str(GIB)}, 64),
        ({f"{V2}/memory.max": str(8 * GIB), f"{V2}/memory.current": str(3 * GIB)}, 5),
        # What is only cached goes when its room is needed.
        (
            {
                f"{V2}/memory.max": str(8 * GIB),
                f"{V2}/memory.current": str(6 * GIB),
                f"{V2}/memory.stat": f"file 9\ninactive_file {2 * GIB}",
            },
            4,
        ),
        ({f"{V2}/memory.high": str(6 * GIB), f"{V2}/memory.current": str(GIB)}, 5),
        (
            {
                "proc/self/cgroup": "0::/pod/app",
                f"{V2}/pod/memory.max": str(4 * GIB),
                f"{V2}/pod/memory.current": str(GIB),
                f"{V2}/pod/app/memory.max": "max",
                f"{V2}/pod/app/memory.current": str(GIB),
            },
            3,
        ),
        (
            {
                **IN_V1,
                f"{MEMORY}/docker/abc/memory.limit_in_bytes": str(5 * GIB),
                f"{MEMORY}/docker/abc/memory.usage_in_bytes": str(3 * GIB),
                f"{MEMORY}/docker/abc/memory.stat": f"total_inactive_file {GIB}",
            },
            3,
        ),
        (
            {
                **IN_V1,
                f"{MEMORY}/memory.limit_in_bytes": "9223372036854771712",
                f"{MEMORY}/memory.usage_in_bytes": "1",
            },
            64,
        ),
        ({f"{V2}/memory.max": str(GIB), f"{V2}/memory.current": str(2 * GIB)}, 0),
    ],
)
def test_memory_is_that_of_the_container(tmp_path, files, expected):
    assert machine.free_memory(tree(tmp_path, {**FREE, **files})) == expected * GIB


def test_room_to_work_in_grows_with_threads_and_processes():
    cpu = SimpleNamespace(type="cpu")
    members = [GIB] * 8
    assert memory.fits(members, cpu, 1, 2, free=10 * GIB)
    assert not memory.fits(members, cpu, 1, 16, free=10 * GIB)
    assert memory.fits(members, cpu, 1, 16, free=17 * GIB)
    assert not memory.fits(members, cpu, 2, 2, free=10 * GIB)
    assert memory.fits(members, cpu, 2, 2, free=20 * GIB)


def test_no_other_place_counts_cores():
    """One function asks: a second one would forget the container."""
    asking = ("cpu_count", "sched_getaffinity", "process_cpu_count")
    found = set()
    for path in CODE.glob("src/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in asking:
                found.add(path.name)
    assert found == {"machine.py"}
    assert not [path.name for path in SCRIPTS if "nproc" in path.read_text().replace("nproc_per_node", "")]


def nvidia_smi(folder: Path, summary: str) -> Path:
    path = folder / "nvidia-smi"
    path.write_text(
        f"#!/bin/sh\n[ $# = 0 ] && echo '{summary}' && exit\n[ $1 = -L ] && echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'\n"
    )
    path.chmod(0o755)
    return folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a usable GPU")
def test_a_gpu_that_torch_does_not_see_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = nvidia_smi(tmp_path, "| NVIDIA-SMI 470.57.02   Driver Version: 470.57.02   CUDA Version: 11.4 |")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for built, expected in ((None, "without CUDA"), ("12.8", "needs a driver for CUDA 12.8 or newer")):
        monkeypatch.setattr(torch.version, "cuda", built)
        with pytest.raises(UserError) as error:
            pick_device()
        text = str(error.value)
        assert "\n" not in text and expected in text
        for part in ("NVIDIA A100", "driver 470.57.02", "CUDA up to 11.4", "NGPU=0"):
            assert part in text
    # On purpose: what common.sh sets for NGPU=0.
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert pick_device().type == "cpu"
    # A tool without a card behind it is no GPU.
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho 'has failed' >&2; exit 9\n")
    assert pick_device().type == "cpu"


NAME = "gương mặt \udcff.mp4"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_are_printed_in_any_locale(encoding):
    """Also a name that is no UTF-8 at all; the text that the encoding has stays as it is."""
    program = (
        "import sys\nfrom liveness.base.errors import UserError, run\n"
        f"def main():\n    print({NAME!a})\n    raise UserError({NAME!a})\nrun(main)"
    )
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(CODE / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=60)
    shown = NAME.encode(encoding, errors="backslashreplace")
    assert (done.returncode, done.stdout, done.stderr) == (1, shown + b"\n", b"error: " + shown + b"\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_another_shell_is_told_to_use_bash(script):
    shell = shutil.which("dash")
    if shell is None:
        pytest.skip("needs dash")
    done = subprocess.run([shell, str(script), "-h"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{script.name}: use bash: bash {script}\n"


def test_workers_start_under_a_long_temporary_folder(tmp_path, monkeypatch):
    """A socket's path has at most 107 bytes; the temporary folder of a batch system may have as many."""
    long = tmp_path / ("t" * (92 - len(str(tmp_path)) if len(str(tmp_path)) < 80 else 60))
    long.mkdir()
    program = (
        "import sys\nfrom liveness.frames.workers import run_tasks\nfrom liveness.base.files import natural_key\n"
        "print(sorted(r[1][0][0][1] for r in run_tasks(natural_key, ['a', 'b'], 1, 60, 4)))"
    )
    env = {**os.environ, "TMPDIR": str(long), "PYTHONPATH": str(CODE / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout == "['a', 'b']\n", done.stderr
    # A folder that is short enough is used as it is.
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/short")
    machine.make_room_for_sockets()
    assert tempfile.tempdir == "/tmp/short"


def test_large_products_use_all_cores_and_only_they(monkeypatch):
    """Near-duplicates are searched by products of large matrices; all else in NumPy stays on one thread."""
    if not any(library["user_api"] == "blas" for library in threadpool_info()):
        pytest.skip("needs a NumPy with a BLAS library of its own")
    seen = []

    class Watched(np.ndarray):
        def __matmul__(self, other):
            seen.append(max(part["num_threads"] for part in threadpool_info() if part["user_api"] == "blas"))
            return np.asarray(self) @ np.asarray(other)

    from liveness.sets import near

    signs = near._signs
    monkeypatch.setattr(near, "_signs", lambda codes: signs(codes).view(Watched))
    monkeypatch.setattr(near, "choose_plan", lambda *_: None)  # all with all
    hashes = ["f" * (BITS // 4)] * 6
    before = [part["num_threads"] for part in threadpool_info()]
    assert find_pairs({"a": [hashes, hashes], "b": [hashes, hashes]}, 0.1)
    assert set(seen) == {machine.cores()}
    assert [part["num_threads"] for part in threadpool_info()] == before
