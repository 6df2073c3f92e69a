"""What a download meets on the disk, in a line for a person."""

import errno
from pathlib import Path

CHUNK = 1 << 20  # bytes that are moved at a time


def describe_disk_error(error: OSError, path: Path) -> str:
    """One line for a failure of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path.parent}: the disk is full; what was fetched is kept: make room and run this again"
    return f"{error.filename or path}: {error.strerror or error}"
