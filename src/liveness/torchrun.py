"""torchrun that leaves the last word to the training processes.

    python -m liveness.torchrun --standalone --nproc_per_node 2 -m liveness.train -c demo_face --fold 0

The arguments are torchrun's own (python -m torch.distributed.run). A process that failed has printed
its one line already; torchrun would bury it under a traceback of its own. Exit code: that of the first
process that failed, 128 + the signal where a signal ended it. Processes that are to end get the time that they
have asked for (training/saving.py), not the 30 s of torchrun. A single process on one machine is started without torch,
whose import takes seconds (base/alone.py).
"""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from liveness.base.alone import read_grace, run_alone, tell_end
from liveness.base.launch import GRACE_FILE, LAUNCHER


def give_grace(asked: Path) -> None:
    """Wait for processes that are to end as long as they have asked for in a file, at least torch's own 30 s."""
    from torch.distributed.elastic.multiprocessing.api import PContext

    close = PContext.close

    def close_in_time(self: PContext, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        close(self, death_sig, max(timeout, read_grace(asked)))

    PContext.close = close_in_time  # type: ignore[method-assign]


def main() -> None:
    os.environ[LAUNCHER] = str(os.getpid())  # what its processes know it by
    split = sys.argv.index("-m") if "-m" in sys.argv else len(sys.argv)
    options, command = sys.argv[1:split], sys.argv[split:]
    with tempfile.TemporaryDirectory(prefix="liveness-") as folder:
        asked = Path(folder) / "grace"
        os.environ[GRACE_FILE] = str(asked)
        if command and "--standalone" in options and options[-2:] == ["--nproc_per_node", "1"]:
            sys.exit(run_alone(command, asked))
        run_several(asked)


def run_several(asked: Path) -> None:
    """What torch's own torchrun does; the process ends with the exit code of the first process that failed."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    give_grace(asked)
    try:
        torchrun(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(tell_end(rank, failure.exitcode))
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()
