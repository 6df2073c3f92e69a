"""From views to scores: the one loop of out-of-fold scoring, of prediction and of the shift laboratory.

    with batches_for(device, threads) as batches:
        for job in score_jobs(jobs, batches):
            job.item, job.scores["my_recipe_fold0"]

A job is a video (or whatever has frames) and what some models are to score of it. Several jobs are pending
at a time, so that a device's queue (models/batches.py) can make good batches; that changes no bit of a score.
No library that computes is named here: what a model can do is a ``Backend`` (models/backend.py).
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from liveness.base.config import View
from liveness.models.backend import Backend
from liveness.models.batches import Batches, Scored

_Item = TypeVar("_Item")


@dataclass
class Request:
    """Views of one video that some models are to score; they share the tensors, and on a GPU the batch.

    ``views``: uint8, V x H x W x 3, made into tensors by ``view``; without one they are tensors already (float32,
    V x 3 x H x W). Those of a frame lie one after the other. May be None where there is no frame.
    """

    backends: dict[str, Backend]  # by the member's name
    views: Any
    n_frames: int
    view: View | None = None


@dataclass(eq=False)
class Job(Generic[_Item]):
    """A video on its way through the models. Every request leaves an entry in ``scores``."""

    item: _Item  # the caller's: what it knows the video by
    requests: list[Request]  # not yet submitted
    scores: dict[str, np.ndarray] = field(default_factory=dict)  # member -> a score for each frame, float64
    milliseconds: float = 0.0  # making tensors and scoring
    _futures: dict[str, tuple["Future[Scored]", int]] = field(default_factory=dict)

    def submit(self, batches: Batches) -> None:
        """Hand all requests to the queue."""
        started = time.perf_counter()
        for request in self.requests:
            if not request.n_frames:
                self.scores.update({name: np.empty(0) for name in request.backends})
                continue
            names, backends = list(request.backends), list(request.backends.values())
            views = request.views if request.view is None else backends[0].to_batch(request.views, request.view)
            for name, future in zip(names, batches.submit(backends, views), strict=True):
                self._futures[name] = future, request.n_frames
        self.requests = []  # and with them the tensors
        self.milliseconds += 1000 * (time.perf_counter() - started)

    def wait(self, batches: Batches) -> None:
        """Until all that was submitted is scored."""
        for future, _ in self._futures.values():
            batches.result(future)

    def collect(self) -> bool:
        """Take over the scores if all are there; whether they are. Raises what a model raised."""
        if not all(future.done() for future, _ in self._futures.values()):
            return False
        for name, (future, n_frames) in self._futures.items():
            scored = future.result()
            self.scores[name] = average_views(scored.scores, n_frames)
            self.milliseconds += scored.milliseconds
        self._futures = {}
        return True


def _no_more(job: Job) -> list[Request]:
    return []


def score_jobs(
    jobs: Iterable[Job[_Item]], batches: Batches, follow_up: Callable[[Job[_Item]], list[Request]] = _no_more
) -> Iterator[Job[_Item]]:
    """Put every job through its models, several at a time; yields each as it gets done, not always in their order.

    follow_up: what else is to be scored of a job, asked whenever all its requests are scored; it is done when
    there is nothing else. Raises what a model raised.
    """
    pending: deque[Job[_Item]] = deque()
    for job in jobs:
        job.submit(batches)
        pending.append(job)
        yield from _finished(pending, batches, follow_up)
        while len(pending) > batches.capacity:
            pending[0].wait(batches)
            yield from _finished(pending, batches, follow_up)
    while pending:
        pending[0].wait(batches)
        yield from _finished(pending, batches, follow_up)


def _finished(
    pending: deque[Job[_Item]], batches: Batches, follow_up: Callable[[Job[_Item]], list[Request]]
) -> Iterator[Job[_Item]]:
    """Take what is done out of ``pending``; jobs with a follow-up stay in it."""
    for job in list(pending):
        if not job.collect():
            continue
        job.requests = follow_up(job)
        if job.requests:
            job.submit(batches)
        else:
            pending.remove(job)
            yield job


def average_views(scores: np.ndarray, n_frames: int) -> np.ndarray:
    """Scores of views -> scores of frames, whose views lie one after the other."""
    return scores.reshape(n_frames, -1).mean(axis=1)
