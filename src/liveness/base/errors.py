"""The one exception for a user's mistake, and how an entry point ends on it.

A ``UserError`` carries one complete line: what is wrong, where, and what was expected. Entry
points wrap their ``main`` in ``run`` so that such a line reaches stderr without a traceback.
Anything else that is raised is our own defect and keeps its traceback.
"""

import errno
import io
import os
import sys
import time
from collections.abc import Callable

from liveness.base import launch
from liveness.base.machine import make_room_for_sockets

REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG)


class UserError(Exception):
    """Bad input: one line that says what, where, and what was expected."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def run(main: Callable[[], int | None]) -> None:
    """Run an entry point and exit: 0 or main's own code, 1 on a UserError, 130 on ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks (LANG=C, latin-1), or that is no UTF-8, is shown in escapes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    make_room_for_sockets()
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        if launch.global_rank():
            # All ranks make the same mistake as a rule: rank 0 says it, and torchrun ends the others
            # while they wait here. What only this rank has met is said after the wait.
            time.sleep(10)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # What the machine refuses (permission, read-only, full) is no defect of the code: one line says it.
        if isinstance(error, BrokenPipeError):
            _leave_quietly()
        if error.errno not in REFUSALS or not error.filename:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)


def _leave_quietly() -> None:
    """The reader of stdout went away (`... | head`); point it elsewhere so that exit does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
