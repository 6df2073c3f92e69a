"""Ranks and gathers: the only module that imports torch.distributed.

torchrun starts every training process, also a single one; a process that was started by hand
counts as rank 0 of 1, and every function below works there without a process group.
"""

import os
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from liveness.base import launch
from liveness.base.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")

STOP, LEFT = "stop", "left"  # words of ``tell``: the training was asked to stop; rank 0 has saved what it could

_over = threading.Event()  # this process leaves the group in good order
_store: "torch.distributed.Store | None" = None  # where the processes meet; None in one that is alone


def start(backend: str = "", patience: float = 0) -> tuple[int, int, int]:
    """Join the process group that torchrun describes. Returns (rank, world size, local rank).

    ``backend``: nccl or gloo (default: by whether there are GPUs); ``patience``: seconds that a
    collective may wait for another process (default: torch's). A UserError where torchrun started
    more processes than there are GPUs.
    """
    import torch
    import torch.distributed as dist

    global _store
    world = launch.world()
    if world > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            local, there = launch.local_rank(), torch.cuda.device_count()
            if local >= there:
                raise UserError(f"process {local} has no GPU, only {there} are here; set NGPU={there}")
            torch.cuda.set_device(local)
        backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
        limit: dict[str, Any] = {"timeout": timedelta(seconds=patience)} if patience else {}
        _store, own_rank, world = next(dist.rendezvous("env://"))
        store = dist.PrefixStore("group", _store)
        dist.init_process_group(backend, store=store, rank=own_rank, world_size=world, **limit)
    return rank(), size(), launch.local_rank()


def stop() -> None:
    """Leave the process group, if there is one."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    _over.set()


def follow_rank_0(code: int, interval: float = 0.5) -> None:
    """From now on a process that is not rank 0 ends with this exit code as soon as rank 0 has left (``LEFT``), or is
    gone after a ``STOP``. It need not wait for the time limit of a collective that rank 0 will never join."""
    if rank() != 0 and _store is not None:
        _over.clear()
        threading.Thread(target=_follow, args=(_store.clone(), code, interval), daemon=True).start()


def _follow(store: "torch.distributed.Store", code: int, interval: float) -> None:
    asked = False
    while not _over.wait(interval):
        try:
            left = store.check([f"told/{LEFT}"])
            asked = asked or store.check([f"told/{STOP}"])
        except RuntimeError:  # the store has gone with rank 0's node; without a STOP that is another's affair
            if not asked:
                return
            left = True
        if left and not _over.is_set():
            os._exit(code)  # the thread that trains may be deep in a collective, where no exception reaches it


def rank() -> int:
    import torch.distributed as dist

    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def tell(word: str) -> None:
    """Leave a word that every rank can find, on any node; nothing happens in a process that is alone."""
    if _store is not None:
        _store.set(f"told/{word}", "1")


def told(word: str) -> bool:
    """Whether a rank has left this word. Asks over the network, which takes a fraction of a millisecond."""
    return _store is not None and _store.check([f"told/{word}"])


def lost_another(error: RuntimeError) -> bool:
    """Whether an error of a collective says that another process, or the way to it, is gone."""
    import torch.distributed as dist

    # gloo's are plain RuntimeErrors that begin with the place in its source.
    return size() > 1 and (isinstance(error, dist.DistError) or "gloo/transport" in str(error))


def barrier() -> None:
    """Wait until every rank is here."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()


def gather(values: list[T]) -> list[T]:
    """The concatenation of every rank's list, in rank order, on every rank."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return list(values)
    parts: list[list[T]] = [[] for _ in range(size())]
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]


def total(value: "torch.Tensor") -> "torch.Tensor":
    """The sum of a tensor over all ranks, in place; the tensor is returned."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def wrap(model: "nn.Module", device: "torch.device", reduce: str = "float32") -> "nn.Module":
    """The model under DistributedDataParallel where there is more than one process.

    ``reduce="bf16"`` sums the gradients in bfloat16: half the traffic, which is what limits large
    models on small images over PCIe.

    Buffers are not broadcast before each forward: the norms with running statistics either are
    frozen or see each rank's own share, and rank 0's are what is saved.
    """
    import inspect
    import warnings

    from torch.nn.parallel import DistributedDataParallel

    if size() == 1:
        return model
    # Depthwise gradients come in another memory layout than their bucket; a copy too small to warn of.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch renamed it
    ids = [device.index] if device.type == "cuda" else None
    options: dict[str, Any] = {buffers: False}
    wrapped = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, **options)
    if reduce == "bf16":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped
