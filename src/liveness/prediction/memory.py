"""How much memory members take, and whether all of them fit at once.

Reads the sizes of the weights' files and what the system and its container leave; writes nothing.
"""

from pathlib import Path
from typing import Any

from liveness.base.machine import free_memory

GIB = 1 << 30
# Besides the weights: libraries, views on their way and activations. On the CPU each lane adds its own: the
# activations of one video's views, and a decoding process beside it.
WORK = {"cuda": 2 * GIB, "cpu": GIB // 2}
PER_LANE = GIB // 2


def taken(path: Path, device: Any, amp: bool) -> int:
    """Bytes of a member's weights on the device: its file's (float32), half of them in mixed precision."""
    size = path.stat().st_size
    return size // 2 if device.type == "cuda" and amp else size


def fits(sizes: list[int], device: Any, ranks: int = 1, lanes: int = 1, free: int | None = None) -> bool:
    """Whether members of these sizes leave room to work in.

    On the CPU ``ranks`` processes share what is free, and each scores on ``lanes`` threads. ``free``: bytes
    (default: what the device has left).
    """
    if free is None:
        free = free_on_gpu(device) if device.type == "cuda" else free_memory()
    if device.type == "cuda":
        return sum(sizes) + WORK["cuda"] <= free
    return ranks * (sum(sizes) + WORK["cpu"] + lanes * PER_LANE) <= free


def free_on_gpu(device: Any) -> int:
    import torch

    return torch.cuda.mem_get_info(device)[0]
