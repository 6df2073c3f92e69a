"""Saving in time: how long last.pt takes to write, how long there is for it, and what happens if that is too short.

    saver = Saver(state, folder / "last.pt")
    saver.begin(say, note)      # measures the disk, asks torchrun for enough time, says so
    saver.save()                # at the end of an epoch
    if saver.save_in_time(since): ...

Who ends this process gives it a time to leave: liveness.torchrun as long as it is asked for, Slurm, a spot instance or
``docker stop`` a fixed one, which GRACE_SECONDS tells. Where last.pt cannot be whole by then, the one of the last whole
epoch stays and nothing half-written is left.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from liveness.base import distributed, launch
from liveness.base.errors import UserError
from liveness.training import loop

LEAVING = 2.0  # seconds from a saved state to the end of this process, and for the step that was under way
LEAST = 30.0  # torchrun's own grace
_PACKING = 1e9  # bytes a second that leave a GPU and get their checksum: the part of saving that is not the disk
_PROBE, _PROBE_SECONDS, _CHUNK = 256 << 20, 2.0, 8 << 20  # at most so much is written to measure a disk, so long
_FLUSHED = 64 << 20  # bytes between two waits for the disk, while a deadline holds


def given_seconds() -> float | None:
    """Seconds between the request to stop and the kill, where they are fixed from outside; else None.

    GRACE_SECONDS tells them; torch's own torchrun gives 30. A UserError for what is no positive number.
    """
    text = os.environ.get("GRACE_SECONDS", "")
    if not text:
        return LEAST if launch.BY_TORCHRUN and not launch.by_ours() else None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"GRACE_SECONDS={text}: expected the seconds between SIGTERM and the kill, as 120")
    return seconds


class Saver:
    """last.pt of one training. Rank 0 measures and writes; on other ranks ``begin`` alone does something."""

    def __init__(self, state: "loop.State", path: Path) -> None:
        self.given = given_seconds()
        self.seconds = 0.0  # that saving takes: estimated, then measured
        self._state, self._path = state, path

    def begin(self, say: Callable[[str], None], note: Callable[[str], None]) -> None:
        """Estimate from the size and the disk; every rank asks its torchrun for that time."""
        found = []
        if distributed.rank() == 0:
            size = loop.count_bytes(self._state)
            rate = measure_rate(self._path.parent, size)
            found = [(size, rate, size / rate + size / _PACKING)]
        ((size, rate, self.seconds),) = distributed.gather(found)
        self._ask()
        about = f"{_amount(size)}, about {self.seconds:.1f} s at {_amount(rate)}/s"
        say(f"  saving: {about}; a stop has {self.given or self.wanted:.0f} s for it")
        together = self.seconds * launch.trained_at_once()  # where all members are stopped at once
        if self.given is not None and together + LEAVING > self.given:
            note(
                f"saving takes about {together:.1f} s, {self.of_whom} gives {self.given:.0f} s: a training that is "
                "stopped keeps its last whole epoch"
            )

    @property
    def wanted(self) -> float:
        """Seconds to ask for: twice what it takes, as the disk has others to serve, and more for members beside it."""
        return max(LEAST, math.ceil(2 * self.seconds * launch.trained_at_once() + LEAVING))

    @property
    def of_whom(self) -> str:
        """Who sets ``given``."""
        return "GRACE_SECONDS" if os.environ.get("GRACE_SECONDS") else "torchrun"

    def _ask(self) -> None:
        if launch.local_rank() == 0:
            launch.ask_for_grace(self.wanted)

    def save(self) -> None:
        """Write last.pt; what it took counts for the next time."""
        started = time.monotonic()
        loop.save(self._state, self._path)
        self.seconds = time.monotonic() - started
        self._ask()

    def save_in_time(self, since: float) -> bool:
        """Write last.pt if it can be whole in time; whether it is. Else the one before it stays.

        since: ``time.monotonic()`` of the last moment at which no stop had been asked for.
        """
        if self.given is None:
            self.save()
            return True
        left = self.given - (time.monotonic() - since)
        if self.seconds + LEAVING > left:
            return False
        deadline = time.monotonic() + left - LEAVING
        try:
            loop.save(self._state, self._path, lambda file: Timely(file, deadline))
        except UserError:
            raise
        except Exception:  # torch's writer hides TooLate behind an error of its own
            if time.monotonic() < deadline:
                raise
            return False
        return True


class TooLate(Exception):
    """The time for saving is over."""


class Timely:
    """A binary file that takes nothing any more after a deadline of ``time.monotonic()``."""

    def __init__(self, file: BinaryIO, deadline: float) -> None:
        self._file, self._deadline, self._unflushed = file, deadline, 0

    def write(self, data: bytes) -> int:
        if time.monotonic() >= self._deadline:
            raise TooLate
        written = self._file.write(data)
        self._unflushed += written
        if self._unflushed >= _FLUSHED:  # else all the waiting would come at the end, in one piece
            self._file.flush()
            os.fsync(self._file.fileno())
            self._unflushed = 0
        return written

    def flush(self) -> None:
        self._file.flush()


def measure_rate(folder: Path, size: int) -> float:
    """Bytes a second that reach the disk of a folder, by writing at most ``size`` of them to a file without a name."""
    folder.mkdir(parents=True, exist_ok=True)
    chunk, written, most = os.urandom(min(_CHUNK, max(size, 1 << 16))), 0, min(size, _PROBE)
    started = time.monotonic()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            while written < most and time.monotonic() - started < _PROBE_SECONDS or not written:
                written += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:  # a quota, which the check of the free space does not know of
        raise UserError(f"{folder}: cannot write there ({error.strerror}); expected room for last.pt") from error
    return written / max(time.monotonic() - started, 1e-6)


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
