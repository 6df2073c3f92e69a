"""How much memory members take, and whether all of them fit at once.

Reads the sizes of the weights' files and what the system and its container leave; writes nothing.
"""

import sys
from pathlib import Path

from liveness.base.machine import free_memory
from liveness.models.backend import Device

_GIB = 1 << 30
# Besides the weights: libraries, views on their way and activations. On the CPU each scoring thread adds its own:
# the activations of one video's views, and a decoding process beside it.
_WORK = {"cuda": 2 * _GIB, "cpu": _GIB // 2}
_WORK_PER_THREAD = _GIB // 2


def weight_bytes(path: Path, device: Device, amp: bool) -> int:
    """Bytes of a member's weights on the device: its file's (float32), half of them in mixed precision."""
    size = path.stat().st_size
    return size // 2 if device.type == "cuda" and amp else size


def fits(sizes: list[int], device: Device, ranks: int = 1, threads: int = 1, free: int | None = None) -> bool:
    """Whether members of these sizes leave room to work in.

    On the CPU ``ranks`` processes share what is free, and each scores on ``threads`` threads. ``free``: bytes
    (default: what the device has left).
    """
    if free is None:
        free = _free_on_gpu(device) if device.type == "cuda" else free_memory()
    if device.type == "cuda":
        return sum(sizes) + _WORK["cuda"] <= free
    return ranks * (sum(sizes) + _WORK["cpu"] + threads * _WORK_PER_THREAD) <= free


def is_short(error: RuntimeError) -> bool:
    """Whether an error of torch says that the device's memory does not suffice."""
    torch = sys.modules.get("torch")  # not there where an exported ensemble scores
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def give_back() -> None:
    """Return to the GPU what this process keeps in reserve of it."""
    import gc

    import torch

    gc.collect()  # models refer to themselves
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _free_on_gpu(device: Device) -> int:
    import torch

    return torch.cuda.mem_get_info(device)[0]  # type: ignore[arg-type]
