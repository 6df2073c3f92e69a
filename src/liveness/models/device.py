"""Where a network computes: the device, the arithmetic that is used on it, and this process's share of the cores.

Training, out-of-fold scoring and prediction all ask here, so that they compute alike.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from liveness.base.errors import UserError
from liveness.base.machine import cores, unusable_gpu

if TYPE_CHECKING:
    import torch

    Model = TypeVar("Model", bound=torch.nn.Module)


def pick_device(local_rank: int = 0) -> "torch.device":
    """This process's GPU, or the CPU. A UserError for a GPU that is there and cannot be used.

    Whoever computes asks here first, so the arithmetic is set here too.
    """
    import torch

    set_arithmetic()
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    if why := unusable_gpu():
        raise UserError(why)
    return torch.device("cpu")


def set_arithmetic() -> None:
    """The global switches that move the digits of a float32 product on a GPU: one setting for training,
    out-of-fold scoring and prediction, so that with train.amp=false oof.csv holds what prediction gives."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def autocast(device: "torch.device", enabled: bool = True) -> "torch.autocast":
    """Mixed precision on a GPU (bfloat16 where the hardware has it, else float16); float32 on the CPU."""
    import torch

    if device.type != "cuda":
        return torch.autocast("cpu", enabled=False)
    return torch.autocast("cuda", dtype=half_type(), enabled=enabled)


def full_precision(device: "torch.device") -> "torch.autocast":
    """No mixed precision for what lies inside, whatever surrounds it."""
    import torch

    return torch.autocast("cuda" if device.type == "cuda" else "cpu", enabled=False)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Products and convolutions on a GPU in float32 proper (``set_arithmetic`` lets them round their factors to TF32);
    for what this process's only computing thread queues inside."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def to_device(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """A CPU tensor on the device; to a GPU it goes through page-locked memory, so that the host need not wait."""
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def empty_for(device: "torch.device", shape: tuple[int, ...], dtype: "torch.dtype") -> "torch.Tensor":
    """A CPU tensor for exchange with the device: page-locked for a GPU, so that no copy needs the host to wait."""
    import torch

    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def half_type() -> "torch.dtype":
    """The half precision that ``autocast`` computes in on this GPU."""
    import torch

    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def halve(model: "Model") -> "Model":
    """Keep the large weights in the type that ``autocast`` casts them to at each use: the same scores
    from half the memory. For models that only score."""
    import torch

    for module in model.modules():
        if type(module) in (torch.nn.Linear, torch.nn.Conv2d):  # subclasses may compute with their weights
            module.to(half_type())
    return model


def share_of_cores(processes: int = 1) -> int:
    """This process's share of the cores that it may use, unless OMP_NUM_THREADS decides."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return max(1, cores() // processes)


def use_all_cores(processes: int = 1) -> None:
    """Give this process its share of the cores, unless OMP_NUM_THREADS decides."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(share_of_cores(processes))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for what the calling thread computes with torch."""
    import torch

    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
