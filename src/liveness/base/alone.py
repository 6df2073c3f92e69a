"""One training process on one machine, kept as torchrun would keep it, but started without torch."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

GRACE = 30  # seconds that torchrun gives its processes between SIGTERM and SIGKILL
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}


def read_grace(asked: Path) -> int:
    """The seconds that processes have asked for in a file, to end; 0 where they have not."""
    try:
        return math.ceil(float(asked.read_text()))
    except (OSError, ValueError):
        return 0


def run_alone(command: list[str], asked: Path) -> int:
    """The exit code of one process, ``python -u -m MODULE ...``, to which SIGTERM and ctrl-C are handed on as SIGTERM.

    asked: the file in which it may ask for more than 30 s between that and SIGKILL.
    """
    came: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, _: object) -> None:
        came.append(number)
        if process is not None:
            process.terminate()
        signal.alarm(max(GRACE, read_grace(asked)))

    def lose_patience(*_: object) -> None:
        if process is not None:
            process.kill()

    signal.signal(signal.SIGALRM, lose_patience)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    process = subprocess.Popen([sys.executable, "-u", *command], env={**os.environ, **_ALONE})
    if came:  # before there was a process
        process.terminate()
    code = process.wait()
    return 128 + came[0] if came else tell_end(0, code)


def tell_end(rank: int, code: int) -> int:
    """The exit code for one of a process (negative: ended by a signal, which is told)."""
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    hint = " (the kernel does this when memory runs out)" if name == "SIGKILL" else ""
    print(f"error: the process of rank {rank} was ended by {name}{hint}; the job is over", file=sys.stderr)
    return 128 - code
