"""torchrun that leaves the last word to the training processes.

    python -m liveness.torchrun --standalone --nproc_per_node 2 -m liveness.train -c demo_face --fold 0

The arguments are torchrun's own (python -m torch.distributed.run). A process that failed has printed
its one line already; torchrun would bury it under a traceback of its own. Exit code: that of the first
process that failed, 128 + the signal where a signal ended it. A single process on one machine is started without
torch, whose import takes seconds; torchrun's habits hold for it too.
"""

import logging
import os
import signal
import subprocess
import sys

from liveness.base.launch import LAUNCHER

PATIENCE = 30  # seconds that torchrun gives its processes between SIGTERM and SIGKILL
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}


def main() -> None:
    os.environ[LAUNCHER] = str(os.getpid())  # what its processes know it by
    split = sys.argv.index("-m") if "-m" in sys.argv else len(sys.argv)
    options, command = sys.argv[1:split], sys.argv[split:]
    if "--standalone" in options and options[-2:] == ["--nproc_per_node", "1"] and command:
        sys.exit(run_alone(command))

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(tell_end(rank, failure.exitcode))
    except SignalException as error:
        sys.exit(128 + error.sigval)


def run_alone(command: list[str]) -> int:
    """The exit code of one process, ``python -u -m MODULE …``, to which SIGTERM and ctrl-C are handed on as SIGTERM."""
    came: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, _: object) -> None:
        came.append(number)
        if process is not None:
            process.terminate()
        signal.alarm(PATIENCE)

    def lose_patience(*_: object) -> None:
        if process is not None:
            process.kill()

    signal.signal(signal.SIGALRM, lose_patience)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    process = subprocess.Popen([sys.executable, "-u", *command], env={**os.environ, **ALONE})
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


if __name__ == "__main__":
    main()
