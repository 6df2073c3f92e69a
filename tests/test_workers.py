"""A task that was done in time is not given up because whoever uses the results was slow."""

import time
from pathlib import Path
from types import SimpleNamespace

from liveness.frames import workers
from liveness.frames.workers import run_tasks


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def answer(task: tuple[str, Path | None, Path]) -> str:
    """Wait for a file, where one is named, leave another, and answer."""
    name, before, after = task
    if before:
        wait_for(before)
    after.touch()
    return name


def test_what_was_done_while_the_consumer_was_busy_counts(tmp_path, monkeypatch):
    late = [0.0]  # seconds that pass while the consumer holds a result, without anyone's having to wait for them
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late[0])
    monkeypatch.setattr(workers, "time", clock)
    go, done = tmp_path / "go", tmp_path / "done"
    results = run_tasks(answer, [("quick", None, tmp_path / "x"), ("slow", go, done)], 2, seconds=200, gib=2)
    assert next(results)[1] == "quick"
    go.touch()
    wait_for(done)
    time.sleep(1)  # its answer is on the way through the pipe
    late[0] = 1000
    assert next(results)[1] == "slow"
