"""From views to scores: the one forward pass of out-of-fold scoring and of prediction.

The same views get the same bits wherever, whenever and beside whatever they are scored. Two things
would change the last bits, so both are fixed. On the CPU the number of threads: every forward pass
runs on one, with the views of one video; several passes run side by side (``Lanes``), which also
spares the waiting at the end of each layer. On a GPU the shape of the batch: it is always
MOST_VIEWS, filled with the views of several videos (``Packs``) and padded.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from liveness.base.errors import UserError
from liveness.base.machine import cores, unusable_gpu

# Views that go through the model at once: on a GPU always this many, on the CPU at most.
MOST_VIEWS = 32


def pick_device(local_rank: int = 0) -> Any:
    """This process's GPU, or the CPU. A UserError for a GPU that is there and cannot be used.

    Whoever computes asks here first, so here the arithmetic is set too.
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


def autocast(device: Any, enabled: bool = True) -> Any:
    """Mixed precision on a GPU (bfloat16 where the hardware has it, else float16); float32 on the CPU."""
    import torch

    if device.type != "cuda":
        return torch.autocast("cpu", enabled=False)
    return torch.autocast("cuda", dtype=half_type(), enabled=enabled)


def half_type() -> Any:
    import torch

    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def halve(model: Any) -> Any:
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


class Scorer:
    """A model in evaluation mode that turns views into probabilities of live."""

    def __init__(self, model: Any, device: Any, amp: bool = True) -> None:
        import torch

        self.model = model.to(device, memory_format=torch.channels_last).eval()
        self.device, self.amp = device, amp

    def views(self, views: Any) -> np.ndarray:
        """float32 views (V x 3 x H x W) -> float64 scores (V,)."""
        self.model.eval()
        with _one_thread() if self.device.type == "cpu" else contextlib.nullcontext():
            parts = [self.forward(self._placed(part))[: len(part)].cpu().numpy() for part in views.split(MOST_VIEWS)]
        return np.concatenate(parts)

    def frames(self, views: Any | None, n_frames: int) -> np.ndarray:
        """One score per frame: the mean over its views, which lie one after the other."""
        if n_frames == 0:
            return np.empty(0)
        return frame_scores(self.views(views), n_frames)

    def stream(self, videos: Iterable[tuple[Any, Any | None, int]], threads: int) -> Iterator[tuple[Any, np.ndarray]]:
        """``frames`` of many videos: (name, views or None, frames) -> (name, a score per frame), in that order.

        The same scores as one by one, sooner: ``threads`` videos side by side on the CPU.
        """
        waiting: deque[tuple[Any, int, Future]] = deque()
        self.model.eval()
        with lanes_of(self.device, threads) as lanes:
            for name, views, n_frames in videos:
                future = lanes.submit([self], views)[0] if n_frames else _nothing()
                waiting.append((name, n_frames, future))
                if len(waiting) > lanes.ahead:
                    yield _first(waiting, lanes)
            while waiting:
                yield _first(waiting, lanes)

    def forward(self, batch: Any) -> Any:
        """A batch on the device -> float64 probabilities, still there."""
        import torch

        with torch.inference_mode(), autocast(self.device, self.amp):
            return torch.sigmoid(self.model(batch).double()).flatten()

    def _placed(self, part: Any) -> Any:
        import torch

        if self.device.type == "cpu":
            return part.contiguous(memory_format=torch.channels_last)
        return padded(part).to(self.device, memory_format=torch.channels_last)


def frame_scores(scores: np.ndarray, n_frames: int) -> np.ndarray:
    """Scores of views -> scores of frames, whose views lie one after the other."""
    return scores.reshape(n_frames, -1).mean(axis=1)


def padded(views: Any) -> Any:
    """MOST_VIEWS views, of which the last are zeros."""
    import torch

    missing = MOST_VIEWS - len(views)
    return torch.cat([views, views.new_zeros(missing, *views.shape[1:])]) if missing else views


def _first(waiting: deque, lanes: Any) -> tuple[Any, np.ndarray]:
    name, n_frames, future = waiting.popleft()
    scores = lanes.result(future).scores
    return name, frame_scores(scores, n_frames) if n_frames else scores


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for what the calling thread computes."""
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


# --- many videos ---------------------------------------------------------------------------------


@dataclass
class Scored:
    """One model's scores of one video's views, and the time that they took."""

    scores: np.ndarray
    milliseconds: float


def _nothing() -> Future:
    future: Future = Future()
    future.set_result(Scored(np.empty(0), 0.0))
    return future


def lanes_of(device: Any, threads: int) -> Any:
    """What scores many videos on a device: a context manager with ``submit``, ``result``, ``flush``, ``close``."""
    return Packs(device) if device.type == "cuda" else Lanes(threads)


class Lanes:
    """The CPU's: each thread puts the views of one video through one model, by itself."""

    def __init__(self, threads: int) -> None:
        self.ahead = 2 * threads  # videos that may wait for their scores
        self._pool = ThreadPoolExecutor(threads, "score", _alone)

    def submit(self, scorers: list[Scorer], views: Any) -> list[Future]:
        """Scores of one video's views (float32, V x 3 x H x W) by each model: futures of ``Scored``."""
        return [self._pool.submit(_timed, scorer, views) for scorer in scorers]

    def result(self, future: Future) -> Scored:
        return future.result()

    def flush(self) -> None:
        """Nothing waits for company here."""

    def close(self) -> None:
        import torch

        self._pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())  # new threads again get what this one has

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _alone() -> None:
    import torch

    torch.set_num_threads(1)  # of this thread


def _timed(scorer: Scorer, views: Any) -> Scored:
    started = time.perf_counter()
    scores = scorer.views(views)
    return Scored(scores, 1000 * (time.perf_counter() - started))


@dataclass
class _Order:
    """One video's views on their way through some models."""

    views: Any
    futures: list[Future]
    sent: int = 0
    scores: list[np.ndarray] = field(default_factory=list)  # models x views, batch by batch
    milliseconds: float = 0.0


@dataclass
class _Flight:
    """A batch that the GPU works on: which views of which order lie in it."""

    scores: Any  # models x MOST_VIEWS, on the GPU
    seats: list[tuple[_Order, int]]
    begun: Any
    ended: Any


class Packs:
    """A GPU's: views of several videos fill batches of one shape, one of which is always under way."""

    def __init__(self, device: Any) -> None:
        self.ahead = 4 * MOST_VIEWS
        self._device = device
        self._waiting: dict[tuple, deque[_Order]] = {}  # by the models that they are for
        self._models: dict[tuple, list[Scorer]] = {}
        self._flights: deque[_Flight] = deque()

    def submit(self, scorers: list[Scorer], views: Any) -> list[Future]:
        """As ``Lanes.submit``; a future is done when its batch is full, or after ``flush``."""
        key = (*map(id, scorers), *views.shape[1:])
        order = _Order(views, [Future() for _ in scorers])
        self._models[key] = scorers
        self._waiting.setdefault(key, deque()).append(order)
        while sum(len(o.views) - o.sent for o in self._waiting[key]) >= MOST_VIEWS:
            self._send(key)
        return order.futures

    def result(self, future: Future) -> Scored:
        if not future.done():
            self.flush()
        return future.result()

    def flush(self) -> None:
        """Send what waits for company, and wait for everything."""
        for key in list(self._waiting):
            while self._waiting[key]:
                self._send(key)
        while self._flights:
            self._land()

    def close(self) -> None:
        self._waiting.clear()
        self._flights.clear()

    def __enter__(self) -> "Packs":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _send(self, key: tuple) -> None:
        import torch

        parts, seats, room = [], [], MOST_VIEWS
        waiting = self._waiting[key]
        while waiting and room:
            order = waiting[0]
            part = order.views[order.sent : order.sent + room]
            order.sent += len(part)
            room -= len(part)
            parts.append(part)
            seats.append((order, len(part)))
            if order.sent == len(order.views):
                waiting.popleft()
        batch = padded(torch.cat(parts)).pin_memory().to(self._device, non_blocking=True)
        batch = batch.contiguous(memory_format=torch.channels_last)
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        scores = torch.stack([scorer.forward(batch) for scorer in self._models[key]])
        ended.record()
        self._flights.append(_Flight(scores, seats, begun, ended))
        while len(self._flights) > 1:  # the GPU works on the newest while this process fetches the one before
            self._land()

    def _land(self) -> None:
        flight = self._flights.popleft()
        scores, place = flight.scores.cpu().numpy(), 0
        per_view = flight.begun.elapsed_time(flight.ended) / sum(count for _, count in flight.seats)
        for order, count in flight.seats:
            order.scores.append(scores[:, place : place + count])
            order.milliseconds += per_view * count
            place += count
            if sum(part.shape[1] for part in order.scores) == len(order.views):
                whole, share = np.concatenate(order.scores, axis=1), order.milliseconds / len(order.futures)
                for future, row in zip(order.futures, whole, strict=True):
                    future.set_result(Scored(row, share))
