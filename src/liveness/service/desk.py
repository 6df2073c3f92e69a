"""Where clips wait, are decoded in processes that may be killed, scored, and answered.

    desk = Desk(scorer, limits, Metrics())
    with desk.take_place():            a Refusal (429) where all places are taken
        answer = await desk.score(path, pictures=False, gone=...)

One thread and one worker process for each clip that is worked on. A worker that dies, hangs or eats its memory is
replaced; a clip whose worker died is tried again.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import LifoQueue
from typing import Any

from liveness.frames.views import VideoViews
from liveness.frames.workers import Failed, KeptWorker
from liveness.prediction.rows import SCORED
from liveness.service.answers import Scorer, describe_row
from liveness.service.decoding import ClipTask, TooMuch, decode_clip
from liveness.service.metrics import Metrics
from liveness.service.settings import Refusal, ServiceLimits

DECODE_GIB = 4.0  # of memory for a worker beyond what it starts with, as at prediction
TRIES, TRIES_IF_KILLED = (
    2,
    4,
)  # of a clip whose worker crashed; whose worker was killed, as a rule for no fault of its own
LONGEST_WAIT = 60  # seconds that Retry-After asks for at most


class Desk:
    """The clips that the service works on. ``close`` lets those that are worked on be finished."""

    def __init__(self, scorer: Scorer, limits: ServiceLimits, metrics: Metrics) -> None:
        self.scorer, self.limits, self.metrics = scorer, limits, metrics
        self.taken = 0
        self.open = False
        self.workers = [KeptWorker(decode_clip, limits.decode_seconds, DECODE_GIB) for _ in range(limits.clips)]
        self._idle: LifoQueue[KeptWorker[ClipTask, VideoViews | TooMuch]] = LifoQueue()
        self._threads = ThreadPoolExecutor(limits.clips, "clip")

    def start(self) -> None:
        """Start the workers, and accept clips from now on."""
        for worker in self.workers:
            worker.start()
            self._idle.put(worker)
        self.open = True

    def close(self) -> None:
        """Accept nothing more, wait for what is worked on, and end the workers."""
        self.open = False
        self._threads.shutdown(wait=True)
        for worker in self.workers:
            worker.close()

    @contextmanager
    def take_place(self) -> Iterator[None]:
        """A place for a clip from its first byte to its answer."""
        if not self.open:
            raise Refusal(503, "stopping", "the service is stopping", {"Retry-After": "5"})
        if self.taken >= self.limits.places():
            again = math.ceil(self.metrics.mean("decode", "score") * self.taken / self.limits.clips)
            raise Refusal(
                429,
                "busy",
                f"all {self.limits.places()} places are taken; try again later",
                {"Retry-After": str(min(max(1, again), LONGEST_WAIT))},
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def score(self, path: Path, pictures: bool, gone: Awaitable[None]) -> dict[str, Any]:
        """The answer to a clip, as a JSON object; a Refusal where there is none.

        ``gone`` ends when the caller has hung up: then a clip that still waits is dropped.
        """
        work = self._threads.submit(self._answer, path, pictures, time.perf_counter())
        answer: asyncio.Future[Any] = asyncio.wrap_future(work)
        watch: asyncio.Future[Any] = asyncio.ensure_future(gone)
        try:
            await asyncio.wait({answer, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and work.cancel():
                raise Refusal(400, "gone", "the caller hung up")  # counted; nobody is there to read it
            return await answer
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    def _answer(self, path: Path, pictures: bool, since: float) -> dict[str, Any]:
        """In one of the threads."""
        started = time.perf_counter()
        self.metrics.observe("wait", started - since)
        views = self._decode(ClipTask(path, self.scorer.wanted, self.limits.seconds, self.limits.pixels))
        decoded = time.perf_counter()
        self.metrics.observe("decode", decoded - started)
        if isinstance(views, TooMuch):
            raise Refusal(422, views.error, views.reason)
        if views.status not in SCORED:
            raise Refusal(422, views.status, views.reason)
        row = self.scorer.judge(views)
        self.metrics.observe("score", time.perf_counter() - decoded)
        if row.status == "failed":
            raise Refusal(500, "failed", row.reason)
        self.metrics.count("clips", "decision", row.decision)
        return describe_row(row, self.scorer, pictures)

    def _decode(self, task: ClipTask) -> VideoViews | TooMuch:
        worker = self._idle.get()
        try:
            for tries in range(1, 1 + max(TRIES, TRIES_IF_KILLED)):
                clip = worker.run(task)
                if not isinstance(clip, Failed):
                    return clip
                worker.start()  # now, not when the next clip is there
                if tries >= (TRIES_IF_KILLED if clip.killed else TRIES if clip.died else 1):
                    break
            return VideoViews(task.path, "crashed", clip.reason + (f", {tries} times" if tries > 1 else ""))
        finally:
            self._idle.put(worker)
