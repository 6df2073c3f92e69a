"""Several files or sets, one after another: what would make a download useless is found out before its first byte."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from liveness.base.errors import UserError
from liveness.base.files import workspace, written_aside
from liveness.downloads.catalogue import DownloadItem, make_set_item
from liveness.downloads.checks import read_digests
from liveness.downloads.server import Unreachable, require_scheme
from liveness.downloads.transfer import fetch_item
from liveness.downloads.unpack import unpack_set


def fetch_items(items: list[DownloadItem]) -> None:
    """Fetch every item; a UserError at the end if some failed."""
    require_places(items)
    _for_each(items, fetch_item)


def fetch_sets(names: list[str]) -> None:
    """Fetch and unpack data sets into raw/<set>; sets that are there already are left alone."""
    base = workspace() / "raw"
    for name in names:
        if (base / name).exists() and not (base / name).is_dir():
            raise UserError(f"{base / name}: is a file; expected a folder for the set {name}, or nothing; move it away")
    require_places([make_set_item(name) for name in names if not _is_there(base / name)])
    _for_each(names, _fetch_set)


def _fetch_set(name: str) -> None:
    folder, item = workspace() / "raw" / name, make_set_item(name)
    if _is_there(folder):
        print(f"{name}: there already ({folder})")
        return
    fetch_item(item)
    count = unpack_set(item.target, folder)
    item.target.unlink()
    print(f"{name}: {count} files in {folder}")


def require_places(items: list[DownloadItem]) -> None:
    """What would make a download useless, found out before its first byte: a UserError.

    The address's kind, the record of digests, whether the folders can be written to, and whether a folder lies
    where a file should come. How much room a file needs is known when the server answers.
    """
    for item in items:
        require_scheme(item, item.url)
    for item in items:
        for path in (item.target, item.target.with_name(item.target.name + ".partial")):
            if path.is_dir():
                raise UserError(f"{path}: is a folder; expected a file there, or nothing; move it away")
    missing = [item for item in items if not item.target.exists()]
    for folder in dict.fromkeys(path for item in missing for path in (item.base, item.target.parent)):
        try:
            with written_aside(folder / f".writable-{os.getpid()}") as probe:
                probe.write_bytes(b"x")
            (folder / f".writable-{os.getpid()}").unlink()
        except OSError as error:
            raise UserError(f"{folder}: cannot write there ({error.strerror}); expected a folder to fill") from error
    for base in dict.fromkeys(item.base for item in items):
        read_digests(base / "digests.json")


def _for_each(things: list, work: Callable) -> None:
    """Call ``work`` for each thing: one that fails does not keep the others from coming."""
    failures = []
    for thing in things:
        try:
            work(thing)
        except Unreachable:
            raise
        except UserError as error:
            failures.append(str(error))
    if len(failures) == 1:
        raise UserError(failures[0])
    for line in failures:
        print(f"error: {line}", file=sys.stderr)
    if failures:
        rest = "; the others are in place" if len(failures) < len(things) else ""
        raise UserError(f"{len(failures)} of {len(things)} failed{rest}")


def _is_there(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
