"""What this process may take of the machine: cores and memory, by affinity and by its container's limits.

Containers and batch systems limit a process by control groups (cgroups), which neither os.cpu_count nor nproc
nor /proc/meminfo know. Both versions of cgroups are read, from the process's own group up to the root: the
tightest limit counts. ``root`` is the folder in which proc/ and sys/ lie.
"""

import contextlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
SOCKET_PATH = 107  # bytes of a socket's path at most (Linux); less on other systems
OF_A_SOCKET = 34  # what multiprocessing adds to the temporary folder: /pymp-xxxxxxxx/listener-xxxxxxxx


def cores(root: Path = ROOT) -> int:
    """Cores that this process may use, at least 1. Part of a core counts as one, as without it it would lie idle."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(there)]
    for group in groups(root, ""):
        quota, period, *_ = (*_words(group / "cpu.max"), "", "")
        shares += _share(quota, period)
    for group in groups(root, "cpu"):
        quota, period = ((*_words(group / f"cpu.cfs_{name}_us"), "")[0] for name in ("quota", "period"))
        shares += _share(quota, period)
    return max(1, min(there, math.ceil(min(shares))))


def _share(quota: str, period: str) -> list[float]:
    """A quota in cores; nothing where there is none ("max", -1)."""
    try:
        share = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return []
    return [share] if share > 0 else []


def free_memory(root: Path = ROOT) -> int:
    """Bytes that this process and its children may still take: the system's, or less where a group's limit says so."""
    found = []
    if available := _entry(root / "proc/meminfo", "MemAvailable:"):
        found.append(1024 * available)
    for controller, limits, used, cache in (
        ("", ("memory.max", "memory.high"), "memory.current", "inactive_file"),
        ("memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in groups(root, controller):
            taken = _number(group / used)
            for limit in (_number(group / name) for name in limits):
                if limit is not None and taken is not None:
                    # Cached files count as used, but go when their room is needed.
                    found.append(limit - taken + _entry(group / "memory.stat", cache))
    return max(0, min(found)) if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def groups(root: Path, controller: str) -> list[Path]:
    """The folders of this process's cgroup and of all above it; ``controller``: of version 1, or "" for version 2.

    In a container the path may be the host's while only the container's part is mounted: what is not there is
    passed over, and the mount's own top is always among them.
    """
    paths = ["/"]
    tops = (f"sys/fs/cgroup/{controller}",) if controller else ("sys/fs/cgroup", "sys/fs/cgroup/unified")
    for line in _lines(root / "proc/self/cgroup"):
        number, names, path = (*line.split(":", 2), "", "")[:3]
        if (names == "" and number == "0") if not controller else controller in names.split(","):
            paths.append(path)
            if controller:
                tops = (f"sys/fs/cgroup/{names}", f"sys/fs/cgroup/{controller}")
    found = []
    for top in tops:
        for path in paths:
            parts = [part for part in path.split("/") if part not in ("", ".", "..")]
            found += [root.joinpath(top, *parts[:depth]) for depth in range(len(parts), -1, -1)]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else None  # not there, or "max"


def _entry(path: Path, key: str) -> int:
    """The number after ``key`` at the start of a line; 0 without one."""
    return next((int(line.split()[1]) for line in _lines(path) if line.startswith(key + " ")), 0)


@contextlib.contextmanager
def all_cores_for_matrices() -> Iterator[None]:
    """Products of large matrices in NumPy on all cores, which liveness/__init__.py otherwise keeps to one."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=cores(), user_api="blas"):
        yield


def unusable_gpu() -> str:
    """Why torch cannot use a GPU that nvidia-smi lists; "" where there is none, or where it is hidden on purpose."""
    import torch

    tool = shutil.which("nvidia-smi")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip()
    if torch.cuda.is_available() or tool is None or hidden == "" or hidden.startswith("-1"):
        return ""
    listed = [line for line in _said_by(tool, "-L").splitlines() if line.startswith("GPU ")]
    if not listed:
        return ""
    summary = _said_by(tool)
    driver, newest = (re.search(rf"{name} Version: *([\d.]+)", summary) for name in ("Driver", "CUDA"))
    version = f"driver {driver[1]}" if driver else "driver of unknown version"
    version += f", good for CUDA up to {newest[1]}" if newest else ""
    name = listed[0].split(" (UUID", 1)[0]
    way_on = "NGPU=0 runs on the CPU on purpose"
    if torch.version.cuda is None:
        return (
            f"nvidia-smi lists {name} ({version}), but this torch {torch.__version__} is built without CUDA; "
            f"install one with CUDA (bash scripts/setup.sh), or {way_on}"
        )
    return (
        f"nvidia-smi lists {name} ({version}), but torch {torch.__version__} does not see it; it needs a driver for "
        f"CUDA {torch.version.cuda} or newer{_reason_of_torch()}; update the driver, or {way_on}"
    )


def _said_by(*command: str) -> str:
    """What a command prints; "" where it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _reason_of_torch() -> str:
    """What torch itself says about CUDA, in brackets."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()
        return f" (torch: {first[0]})" if first else ""
    return ""


def make_room_for_sockets() -> None:
    """A temporary folder that is short enough: worker processes are reached through sockets that lie in it.

    Where TMPDIR is too long for that, this process's temporary files go to another folder.
    """
    try:
        if _fits_a_socket(tempfile.gettempdir()):
            return
    except FileNotFoundError:  # none can be written to; who needs one says so
        return
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            tempfile.tempdir = folder
            return


def _fits_a_socket(folder: str) -> bool:
    return len(os.fsencode(folder)) + OF_A_SOCKET <= SOCKET_PATH


if __name__ == "__main__":
    sys.exit(print(cores()))
