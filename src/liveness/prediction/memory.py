"""How much memory members take, and whether all of them fit at once.

Reads the sizes of the weights' files and what the system says is free; writes nothing.
"""

import os
from pathlib import Path
from typing import Any

GIB = 1 << 30
WORK = {"cuda": 2 * GIB, "cpu": GIB}  # for activations, views on their way and the libraries


def taken(path: Path, device: Any, amp: bool) -> int:
    """Bytes of a member's weights on the device: its file's (float32), half of them in mixed precision."""
    size = path.stat().st_size
    return size // 2 if device.type == "cuda" and amp else size


def fits(sizes: list[int], device: Any, ranks: int = 1) -> bool:
    """Whether members of these sizes leave room to work in; on the CPU ``ranks`` processes share what is free."""
    free = free_on_gpu(device) if device.type == "cuda" else free_here() // ranks
    return sum(sizes) + WORK[device.type] <= free


def free_on_gpu(device: Any) -> int:
    import torch

    return torch.cuda.mem_get_info(device)[0]


def free_here(root: Path = Path("/")) -> int:
    """Bytes that this process and its children may still take: the system's, or less where a container says so."""
    found = [_available(root / "proc/meminfo")]
    for group, limit, used, cache in (
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        values = [_number(root / group / name) for name in (limit, used)]
        if None not in values:
            # Cached files count as used, but go when their room is needed.
            found.append(values[0] - values[1] + _entry(root / group / "memory.stat", cache))
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _available(path: Path) -> int | None:
    value = _entry(path, "MemAvailable:")
    return 1024 * value if value else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _entry(path: Path, key: str) -> int:
    """The number after ``key`` at the start of a line; 0 without one."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key + " ")), 0)
