"""A pool of processes in which one bad task costs only itself.

A decoder can hang, eat memory or crash the process on a damaged file. Each task therefore runs in
a worker that has a time and a memory limit; a worker that dies or exceeds them is killed and
replaced, and its task is reported as failed. One task per worker is in flight, so memory does not
grow with the number of tasks.
"""

import contextlib
import gc
import multiprocessing
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from liveness.base.machine import cores, make_room_for_sockets

_GIB = 1 << 30
IDLE = 0.0
# What tasks need, so that a fresh process has it; and what entry points may have imported, whose top level it runs.
PRELOAD, IF_HERE = ("liveness.frames.video", "liveness.frames.faces"), ("pandas", "tqdm")

_STARTING = threading.Lock()  # while one starts, this process's main module is not what it seems

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass
class Failed:
    """A task that gave no result; ``reason`` is one line. ``died``: its process ended; ``killed``: by SIGKILL, that is
    by someone else, or for the machine's memory."""

    reason: str
    died: bool = False
    killed: bool = False


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    task: Any = None
    deadline: float = IDLE


def run_tasks(
    function: Callable[[_Task], _Result], tasks: Iterable[_Task], workers: int, seconds: float, gib: float
) -> Iterator[tuple[_Task, _Result | Failed]]:
    """Yield (task, result or Failed) as they come. The first tasks are handed out at once, not at the first result.

    ``function`` must be importable in a fresh process, tasks and results must pickle. ``workers``
    of 0 means one per core; ``seconds`` and ``gib`` limit each task.
    """
    pool: list[_Worker] = []
    tasks = iter(tasks)
    most, limits = workers or cores(), (seconds, gib)
    try:
        more = _hand_out(pool, tasks, function, most, limits)
    except BaseException:
        _end_all(pool)
        raise
    return _outcomes(pool, more, lambda: _hand_out(pool, tasks, function, most, limits), limits)


class KeptWorker(Generic[_Task, _Result]):
    """A worker for tasks that come one by one, from a caller that waits; kept between them, replaced when it fails.

    ``function``, ``seconds`` and ``gib`` as in ``run_tasks``; ``started``: how many processes it has taken so far.
    """

    def __init__(self, function: Callable[[_Task], _Result], seconds: float, gib: float) -> None:
        self._function, self._limits = function, (seconds, gib)
        self._pool: list[_Worker] = []
        self.started = 0

    def start(self) -> None:
        """Have a process ready that lives, so that the next task need not wait for it."""
        if self._pool and not self._pool[0].process.is_alive():
            _end(self._pool.pop())
        if not self._pool:
            self._pool.append(_start(self._function, self._limits[1]))
            self.started += 1

    def run(self, task: _Task) -> _Result | Failed:
        """The task's result, or why there is none. Raises what ``function`` raised."""
        self.start()
        worker = self._pool[0]
        worker.task, worker.deadline = task, time.monotonic() + self._limits[0]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has just died: its pipe says so
            worker.pipe.send(task)
        ready = bool(wait([worker.pipe], timeout=self._limits[0]))
        return _result(self._pool, worker, ready, *self._limits)

    def process_id(self) -> int | None:
        """Of the worker's process; None while there is none."""
        return self._pool[0].process.pid if self._pool else None

    def close(self) -> None:
        """End the process, whatever it does."""
        _end_all(self._pool)
        self._pool.clear()


def _outcomes(
    pool: list[_Worker], more: bool, hand_out: Callable[[], bool], limits: tuple[float, float]
) -> Iterator[tuple[Any, Any]]:
    """The results of what the pool works on, and of what ``hand_out`` gives it in between."""
    try:
        while more or any(worker.deadline for worker in pool):
            more = more and hand_out()
            busy = [worker for worker in pool if worker.deadline]
            if not busy:
                continue
            patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            ready = wait([worker.pipe for worker in busy], timeout=patience)
            for worker in busy:
                # Asked again: while the caller was busy with the result before, this one may have come in time.
                answered = worker.pipe in ready or worker.pipe.poll()
                if answered or time.monotonic() >= worker.deadline:
                    task = worker.task
                    outcome = _result(pool, worker, answered, *limits)
                    # The next tasks go out first: the workers go on while the caller uses this result.
                    more = more and hand_out()
                    yield task, outcome
    finally:
        _end_all(pool)


def _end_all(pool: list[_Worker]) -> None:
    for worker in pool:
        _end(worker)


def _hand_out(pool: list[_Worker], tasks: Iterator, function: Callable, most: int, limits: tuple) -> bool:
    """Give every idle worker a task, starting workers as they are needed; False at the tasks' end."""
    while True:
        idle = next((worker for worker in pool if not worker.deadline), None)
        if idle is None and len(pool) >= most:
            return True
        try:
            task = next(tasks)
        except StopIteration:
            return False
        if idle is None:
            idle = _start(function, limits[1])
            pool.append(idle)
        idle.task, idle.deadline = task, time.monotonic() + limits[0]
        try:
            idle.pipe.send(task)
        except (BrokenPipeError, ConnectionResetError):
            idle.deadline = time.monotonic()  # it died while idle: its pipe is read next and says so


def _result(pool: list[_Worker], worker: _Worker, ready: bool, seconds: float, gib: float) -> Any:
    """The worker's result, or why there is none; a worker that failed leaves the pool."""
    if not ready:
        pool.remove(worker)
        _end(worker)
        return Failed(f"given up after {seconds:g} s")
    try:
        kind, value = worker.pipe.recv()
    except (EOFError, OSError, ConnectionResetError):
        pool.remove(worker)
        worker.process.join(5)
        code = worker.process.exitcode
        _end(worker)
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return Failed(f"the worker process crashed ({how})", died=True, killed=code == -signal.SIGKILL)
    worker.task, worker.deadline = None, IDLE
    if kind == "memory":
        return Failed(f"needs more than {gib:g} GiB of memory")
    if kind == "error":
        raise value
    return value


def _start(function: Callable, gib: float) -> _Worker:
    # Workers are forked from a clean server process, which has imported what they need: they start
    # at once, also as replacements, and inherit neither threads nor open files of this process.
    make_room_for_sockets()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *PRELOAD, *(name for name in IF_HERE if name in sys.modules)])
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function, gib), daemon=True)
    with _STARTING, _no_main_module():
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Workers need nothing of the program that was started: one would run a script of a few lines, which has no
    ``if __name__ == "__main__"``, once more from its top."""
    main = sys.modules["__main__"]
    kept: dict[str, Any] = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)


def _end(worker: _Worker) -> None:
    worker.pipe.close()
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join()


def _serve(pipe: Connection, function: Callable, gib: float) -> None:
    """A worker's life: a task, its result, until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the parent's to handle
    _offer_to_the_memory_killer()
    # Decoded frames lie in reference cycles, which Python's collector finds too seldom: 60 clips grew a
    # worker by 245 MiB. Frozen, what was imported is not looked through again each time (1 ms a clip).
    gc.collect()
    gc.freeze()
    limited = False
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if not limited:
                _limit_memory(gib)
                limited = True
            answer = ("done", function(task))
            gc.collect()
        except MemoryError:
            answer = ("memory", None)
        except Exception as error:  # noqa: BLE001  (it is raised again by the parent)
            answer = ("error", error)
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # noqa: BLE001  (a result that does not pickle is a defect of ours)
            pipe.send(("error", RuntimeError(f"{type(error).__name__}: {error}")))


def _offer_to_the_memory_killer() -> None:
    """When the machine runs out of memory, this process goes first: it costs one task, its parent all of them."""
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("1000")
    except OSError:
        return  # no such thing on this system


def _limit_memory(gib: float) -> None:
    """Allow this process ``gib`` GiB of address space beyond what it has."""
    try:
        with open("/proc/self/statm") as stream:
            now = int(stream.read().split()[0]) * resource.getpagesize()
    except OSError:
        return  # no such limit on this system
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = now + int(gib * _GIB)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
