"""Which of several processes is this one? Asked without importing torch.

torchrun tells its processes by environment variables, and so do other launchers (Slurm, MPI, a notebook
server), whose variables are inherited by whatever is started below them. They count here only where torchrun
itself is this process's parent; else this process is alone, and waits for nobody.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

LAUNCHER = "LIVENESS_TORCHRUN"  # liveness.torchrun's process id, for its children
GRACE_FILE = "LIVENESS_GRACE_FILE"  # where they tell it how many seconds they need to end
AT_ONCE = "LIVENESS_AT_ONCE"  # how many members scripts/spread.sh trains at once


def by_torchrun(environ: Mapping[str, str], parent: int, proc: Path = Path("/proc")) -> bool:
    """Whether the process ``parent``, whose child has these variables, is a torchrun that has set them."""
    if environ.get(LAUNCHER) == str(parent):
        return True
    if "TORCHELASTIC_RUN_ID" not in environ:
        return False
    try:  # torch's own command, started by hand
        words = (proc / str(parent) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(os.path.basename(word) == b"torchrun" or word.startswith(b"torch.distributed.") for word in words)


# Asked once: a process whose torchrun has died is still the one that it was.
BY_TORCHRUN = by_torchrun(os.environ, os.getppid())


def by_ours() -> bool:
    """Whether the torchrun that started this process is liveness.torchrun."""
    return BY_TORCHRUN and LAUNCHER in os.environ


def ask_for_grace(seconds: float) -> None:
    """Tell liveness.torchrun how long its processes may take to end after SIGTERM; nothing under another launcher."""
    if by_ours() and (path := os.environ.get(GRACE_FILE)):
        side = f"{path}.new"
        Path(side).write_text(f"{seconds:g}")
        os.replace(side, path)


def die_with_parent() -> None:
    """Ask Linux to kill this process (SIGKILL) when the one that started it ends; nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def die_with_torchrun() -> None:
    """The same for a process of torchrun's, so that no orphan goes on writing; one whose torchrun is gone ends here."""
    if BY_TORCHRUN:
        parent = os.getppid()
        die_with_parent()
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _told(name: str, alone: int) -> int:
    return int(os.environ.get(name, alone)) if BY_TORCHRUN else alone


def global_rank() -> int:
    """This process's number among all, on all machines."""
    return _told("RANK", 0)


def world() -> int:
    """How many processes there are, on all machines."""
    return _told("WORLD_SIZE", 1)


def local_rank() -> int:
    """This process's number on this machine: that of its GPU."""
    return _told("LOCAL_RANK", 0)


def local_world() -> int:
    """How many processes share this machine."""
    return _told("LOCAL_WORLD_SIZE", 1)


def trained_at_once() -> int:
    """How many members are trained on this machine at once (PARALLEL=members); they share its memory and its disk."""
    told = os.environ.get(AT_ONCE, "")
    return max(1, int(told)) if told.isdecimal() else 1
