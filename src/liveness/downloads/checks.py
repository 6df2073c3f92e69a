"""Whether a file is what it should be: not empty, no web page, a whole archive, of the digest that is known.

Digests are written to weights/digests.json and raw/digests.json the first time, and compared ever after.
"""

import json
import os
import zipfile
from pathlib import Path

from liveness.base.errors import UserError
from liveness.base.files import sha256_of, write_text
from liveness.downloads.catalogue import PUBLISHED_DIGESTS, Item


class _Wrong(Exception):
    """A file is not what it should be; the text is the reason and what to do."""


def check_present_file(item: Item) -> None:
    """The file that lies there: a UserError if it is not what it should be. It is left as it is."""
    try:
        _require_file(item, item.target)
        _require_digest(item, item.target)
    except _Wrong as error:
        raise UserError(f"{item.target}: {error}; or move it away and run this again") from error


def check_new_file(item: Item, partial: Path) -> None:
    """A finished download: a UserError if it is not what it should be. It is set aside, not deleted."""
    try:
        _require_file(item, partial)
        _require_digest(item, partial)
    except _Wrong as error:
        rejected = item.target.with_name(item.target.name + ".rejected")
        os.replace(partial, rejected)
        raise UserError(f"{item.key}: {error}; what came is kept as {rejected}") from error


def _require_file(item: Item, path: Path) -> None:
    """Raise for a web page, an empty file and a damaged archive (checkpoints are archives too)."""
    with open(path, "rb") as stream:
        head = stream.read(512)
    if not head:
        raise _Wrong(f"the file is empty; {item.advice}")
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise _Wrong(f"a web page instead of the file; {item.advice}")
    if not (item.key.endswith(".zip") or head.startswith(b"PK")):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _Wrong(f"not a whole archive ({error}); {item.advice}") from error
    if damaged:
        raise _Wrong(f"damaged inside ({damaged}); {item.advice}")


def _require_digest(item: Item, path: Path) -> None:
    """Compare with the published or recorded digest; record the first one."""
    digest, record = sha256_of(path), item.base / "digests.json"
    known = read_digests(record)
    expected = PUBLISHED_DIGESTS.get(item.key) or known.get(item.key)
    if expected is None:
        write_text(record, json.dumps({**known, item.key: digest}, indent=2, sort_keys=True) + "\n")
    elif digest != expected and item.key in PUBLISHED_DIGESTS:
        raise _Wrong(f"its SHA-256 is {digest}, the published one is {expected}; {item.advice}")
    elif digest != expected:
        raise _Wrong(
            f"its SHA-256 is {digest}, {record} says {expected}; "
            f"if this file is the right one, take the entry {item.key!r} out of that record and run this again"
        )


def read_digests(record: Path) -> dict[str, str]:
    """digests.json: file name -> SHA-256; {} where there is none, a UserError for what is no such record."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{record}: not JSON ({error}); mend it or remove it.") from error
    if not isinstance(known, dict):
        raise UserError(f"{record}: expected one JSON object of file names and digests.")
    return known
