"""torchrun that leaves the last word to the training processes.

    python -m liveness.torchrun --standalone --nproc_per_node 2 -m liveness.train -c demo_face --fold 0

The arguments are torchrun's own (python -m torch.distributed.run). A process that failed has printed
its one line already; torchrun would bury it under a traceback of its own. Exit code: that of the first
process that failed, 128 + the signal where a signal ended it. Processes that are to end get the time that they
have asked for (training/saving.py), not the 30 s of torchrun.
"""

import logging
import math
import os
import signal
import sys
import tempfile
from pathlib import Path

from liveness.base.launch import GRACE_FILE, LAUNCHER


def give_grace(asked: Path) -> None:
    """Wait for processes that are to end as long as they have asked for in a file, at least torch's own 30 s."""
    from torch.distributed.elastic.multiprocessing.api import PContext

    close = PContext.close

    def close_in_time(self: PContext, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        try:
            wanted = math.ceil(float(asked.read_text()))
        except (OSError, ValueError):
            wanted = 0
        close(self, death_sig, max(timeout, wanted))

    PContext.close = close_in_time  # type: ignore[method-assign]


def main() -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[LAUNCHER] = str(os.getpid())  # what its processes know it by
    try:
        with tempfile.TemporaryDirectory(prefix="liveness-") as folder:
            asked = Path(folder) / "grace"
            os.environ[GRACE_FILE] = str(asked)
            give_grace(asked)
            torchrun(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            hint = " (the kernel does this when memory runs out)" if name == "SIGKILL" else ""
            print(f"error: the process of rank {rank} was ended by {name}{hint}; the job is over", file=sys.stderr)
        sys.exit(failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()
