"""One file into its place: continued where a run before stopped, tried again, checked before it gets its name.

It grows as <name>.partial, beside which <name>.tag.partial keeps the server's mark of its version.
"""

import contextlib
import fcntl
import http.client
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from liveness.base.errors import UserError
from liveness.downloads.catalogue import DownloadItem
from liveness.downloads.checks import check_new_file, check_present_file
from liveness.downloads.disk import CHUNK, describe_disk_error
from liveness.downloads.server import Answer, ByteStream, Interrupted, ask_for_item

ATTEMPTS = 5  # in a row without a new byte
WAIT = 2.0  # seconds before the second attempt; doubled for each further one
# Most that is taken of a reply that does not say how long it is (bytes): more than any file that is fetched here
# (checkpoints of up to 6 GB, sets of a few GB), less than a disk.
LONGEST_UNSAID = 16 << 30


def fetch_item(item: DownloadItem) -> None:
    """Bring one file into place, or check the one that is there; a UserError if neither works."""
    partial = item.target.with_name(item.target.name + ".partial")
    try:
        if item.target.exists():
            check_present_file(item)
            print(f"{item.key}: there already, SHA-256 agrees")
            return
        partial.parent.mkdir(parents=True, exist_ok=True)
        with lock_partial(partial):
            print(f"{item.key}: fetching {item.url}", flush=True)
            _transfer(item, partial)
            check_new_file(item, partial)
            os.replace(partial, item.target)
    except OSError as error:
        raise UserError(describe_disk_error(error, partial)) from error
    print(f"{item.key}: done, {item.target.stat().st_size / 1e6:.1f} MB", flush=True)


@contextlib.contextmanager
def lock_partial(partial: Path) -> Iterator[None]:
    """Keep a second download of the same file out: two writers would mix their bytes."""
    with open(partial, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{partial}: another download is writing it; wait for that one") from error
        try:
            yield
        finally:
            if partial.exists() and not partial.stat().st_size:
                partial.unlink()
            if not partial.exists():  # finished, refused or never begun: the mark has nothing to go with
                _tag_file(partial).unlink(missing_ok=True)


def _transfer(item: DownloadItem, partial: Path) -> None:
    """Make ``partial`` complete: continue it, and try again while the connection breaks off."""
    attempt = 0
    while True:
        before = partial.stat().st_size
        try:
            answer = ask_for_item(item, before, _read_tag(partial))
            with contextlib.closing(answer.stream):
                if _receive(item, answer, partial):
                    return
            why = "the connection broke off"
        except Interrupted as error:
            why = str(error)
        # The count starts again whenever the file grew: a long download may break off often.
        attempt = 1 if partial.stat().st_size > before else attempt + 1
        if attempt >= ATTEMPTS:
            raise UserError(
                f"{item.key}: {why}, {ATTEMPTS} times in a row; the {partial.stat().st_size} bytes so far are kept, "
                "run this again to continue"
            )
        wait = WAIT * 2 ** (attempt - 1)
        print(f"{item.key}: {why} after {partial.stat().st_size} bytes; again in {wait:g} s", flush=True)
        time.sleep(wait)


def _receive(item: DownloadItem, answer: Answer, partial: Path) -> bool:
    """Write the answer's bytes to ``partial``; True when the file is complete."""
    need = (answer.total or 0) - answer.start
    free = shutil.disk_usage(partial.parent).free
    if need > free:
        raise UserError(f"{item.key}: {need} more bytes needed, {free} free in {partial.parent}; make room, run again")
    size, most = answer.start, LONGEST_UNSAID if answer.total is None else answer.total
    with open(partial, "r+b") as out:
        # Only now, when an answer is there: a refusal must not cost the bytes that we have.
        out.truncate(answer.start)
        out.seek(answer.start)
        _tag_file(partial).write_text(answer.tag, encoding="utf-8")
        bar = tqdm(total=answer.total, initial=size, unit="B", unit_scale=True, desc=item.target.name, disable=None)
        with bar:
            while chunk := _read_some(answer.stream):
                size += len(chunk)
                if size > most:
                    out.truncate(0)  # whatever it is, it is not the file
                    said = "the server does not say how long it is" if answer.total is None else "as announced"
                    raise UserError(f"{item.key}: more than {most} bytes came ({said}); given up; {item.advice}")
                out.write(chunk)
                bar.update(len(chunk))
    return answer.total is None or size == answer.total


def _read_some(stream: ByteStream) -> bytes:
    """The next bytes; b"" at the end. A network failure is Interrupted, so that no disk failure can look like one."""
    try:
        return stream.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the connection broke off ({type(error).__name__})") from error


def _tag_file(partial: Path) -> Path:
    return partial.with_name(partial.name.removesuffix(".partial") + ".tag.partial")


def _read_tag(partial: Path) -> str:
    try:
        return _tag_file(partial).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
