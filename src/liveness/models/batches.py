"""Queues that score the views of many videos: each has its own way of making batches.

The same views get the same bits wherever, whenever and beside whatever they are scored. Two things
would change the last bits, so both are fixed. On the CPU the number of threads: every forward pass
runs on one, with the views of one video; several passes run side by side (``CpuBatches``), which also
spares the waiting at the end of each layer. On a GPU the shape of the batch: it is always
MOST_VIEWS, filled with the views of several videos (``GpuBatches``) and padded.
"""

import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from liveness.models.backend import MOST_VIEWS, Backend, Device
from liveness.models.device import empty_for

if TYPE_CHECKING:
    import torch


@dataclass
class Scored:
    """One model's scores of one video's views, and the time that they took."""

    scores: np.ndarray  # float64 (V,)
    milliseconds: float


class Batches(Protocol):
    """A queue of views on their way through models; a context manager, which closes it."""

    capacity: int  # videos that may wait for their scores

    def submit(self, backends: Sequence[Backend], views: Any) -> list["Future[Scored]"]:
        """Scores of one video's views (float32, V x 3 x H x W, from ``Backend.to_batch``) by each model."""
        ...

    def result(self, future: "Future[Scored]") -> Scored:
        """What a future of ``submit`` holds, as soon as it is there. Raises what the model raised."""
        ...

    def flush(self) -> None:
        """Let nothing wait for further views, and wait for everything."""
        ...

    def close(self) -> None:
        """Forget what is pending."""
        ...

    def __enter__(self) -> "Batches": ...

    def __exit__(self, *_: object) -> None: ...


def batches_for(device: Device, threads: int) -> Batches:
    """The queue for a device; ``threads``: forward passes side by side on the CPU."""
    return GpuBatches(device) if device.type == "cuda" else CpuBatches(threads)  # type: ignore[arg-type]


class CpuBatches:
    """The CPU's queue: each thread puts the views of one video through one model, by itself."""

    def __init__(self, threads: int) -> None:
        self.capacity = 2 * threads
        self._pool = ThreadPoolExecutor(threads, "score", _use_one_thread)

    def submit(self, backends: Sequence[Backend], views: Any) -> list["Future[Scored]"]:
        """As ``Batches.submit``."""
        return [self._pool.submit(_score_timed, backend, views) for backend in backends]

    def result(self, future: "Future[Scored]") -> Scored:
        """As ``Batches.result``."""
        return future.result()

    def flush(self) -> None:
        """Nothing waits for further views here."""

    def close(self) -> None:
        """As ``Batches.close``."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(torch.get_num_threads())  # new threads again get what this one has

    def __enter__(self) -> "CpuBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _use_one_thread() -> None:
    if torch := sys.modules.get("torch"):  # other backends need no such setting, and torch may not be installed
        torch.set_num_threads(1)  # of this thread


def _score_timed(backend: Backend, views: Any) -> Scored:
    started = time.perf_counter()
    scores = backend.score_views(views)
    return Scored(scores, 1000 * (time.perf_counter() - started))


@dataclass
class _Submitted:
    """One video's views, parts of which lie in one batch or in several."""

    views: "torch.Tensor"
    futures: list["Future[Scored]"]  # one for each model
    sent: int = 0  # views that are in a batch already
    scores: list[np.ndarray] = field(default_factory=list)  # models x views, batch by batch
    milliseconds: float = 0.0


@dataclass
class _Batch:
    """A batch that the GPU works on. ``slots``: whose views lie in it, one after the other, and how many."""

    scores: "torch.Tensor"  # models x MOST_VIEWS, in page-locked memory; there when ``ended``
    slots: list[tuple[_Submitted, int]]
    begun: "torch.cuda.Event"
    ended: "torch.cuda.Event"


@dataclass
class _Staged:
    """A buffer of MOST_VIEWS views in page-locked memory. ``copied``: its last copy to the GPU is over."""

    views: "torch.Tensor"
    copied: "torch.cuda.Event"


class GpuBatches:
    """A GPU's queue: views of several videos fill batches of one shape, one of which is always being computed."""

    def __init__(self, device: "torch.device") -> None:
        self.capacity = 4 * MOST_VIEWS
        self._device = device
        self._pending: dict[tuple, deque[_Submitted]] = {}  # not yet all in a batch; by the models that they are for
        self._backends: dict[tuple, Sequence[Backend]] = {}
        self._running: deque[_Batch] = deque()
        self._staged: dict[tuple, deque[_Staged]] = {}  # page-locked buffers by the shape of a view

    def submit(self, backends: Sequence[Backend], views: "torch.Tensor") -> list["Future[Scored]"]:
        """As ``Batches.submit``; a future is done when its batch was full and is computed, or after ``flush``."""
        key = (*map(id, backends), *views.shape[1:])
        submitted = _Submitted(views, [Future() for _ in backends])
        self._backends[key] = backends
        self._pending.setdefault(key, deque()).append(submitted)
        while sum(len(one.views) - one.sent for one in self._pending[key]) >= MOST_VIEWS:
            self._start_batch(key)
        return submitted.futures

    def result(self, future: "Future[Scored]") -> Scored:
        """As ``Batches.result``."""
        if not future.done():
            self.flush()
        return future.result()

    def flush(self) -> None:
        """As ``Batches.flush``."""
        for key in list(self._pending):
            while self._pending[key]:
                self._start_batch(key)
        while self._running:
            self._finish_batch()

    def close(self) -> None:
        """As ``Batches.close``; the models are let go of, and so are the buffers."""
        for held in (self._pending, self._backends, self._staged):
            held.clear()
        self._running.clear()

    def __enter__(self) -> "GpuBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_batch(self, key: tuple) -> None:
        import torch

        parts, slots = self._fill(self._pending[key])
        batch = self._send(parts).contiguous(memory_format=torch.channels_last)
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        scores = torch.stack([backend.forward(batch) for backend in self._backends[key]])
        # Behind this batch: asked for later, the copy would queue behind the next one and wait for that too.
        fetched = empty_for(self._device, tuple(scores.shape), scores.dtype).copy_(scores, non_blocking=True)
        ended.record()
        self._running.append(_Batch(fetched, slots, begun, ended))
        while len(self._running) > 1:  # the GPU works on the newest while this process fetches the one before
            self._finish_batch()

    def _send(self, parts: list["torch.Tensor"]) -> "torch.Tensor":
        """The parts and zeros up to MOST_VIEWS on their way to the GPU, through one of two buffers in turn: the copy
        out of one may still be going on while the other is filled."""
        import torch

        shape = (MOST_VIEWS, *parts[0].shape[1:])
        staged = self._staged.setdefault(shape, deque())
        if len(staged) < 2:
            buffer = _Staged(empty_for(self._device, shape, parts[0].dtype), torch.cuda.Event())
        else:
            buffer = staged.popleft()
            buffer.copied.synchronize()
        filled = sum(map(len, parts))
        torch.cat(parts, out=buffer.views[:filled])
        buffer.views[filled:].zero_()
        batch = buffer.views.to(self._device, non_blocking=True, copy=True)
        buffer.copied.record()
        staged.append(buffer)
        return batch

    def _fill(self, pending: deque[_Submitted]) -> tuple[list["torch.Tensor"], list[tuple[_Submitted, int]]]:
        """At most MOST_VIEWS of the pending views, and whose they are."""
        parts, slots, room = [], [], MOST_VIEWS
        while pending and room:
            one = pending[0]
            part = one.views[one.sent : one.sent + room]
            one.sent += len(part)
            room -= len(part)
            parts.append(part)
            slots.append((one, len(part)))
            if one.sent == len(one.views):
                pending.popleft()
        return parts, slots

    def _finish_batch(self) -> None:
        batch = self._running.popleft()
        batch.ended.synchronize()
        scores, place = batch.scores.numpy(), 0
        per_view = batch.begun.elapsed_time(batch.ended) / sum(count for _, count in batch.slots)
        for one, count in batch.slots:
            one.scores.append(scores[:, place : place + count])
            one.milliseconds += per_view * count
            place += count
            if sum(part.shape[1] for part in one.scores) == len(one.views):
                whole, share = np.concatenate(one.scores, axis=1), one.milliseconds / len(one.futures)
                for future, row in zip(one.futures, whole, strict=True):
                    future.set_result(Scored(row, share))
