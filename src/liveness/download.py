"""Fetch weights and data sets: resumed, checked, whole or not at all.

    python -m liveness.download weights [pretrained] [zalo2022_published]
    python -m liveness.download data [train] [public_test] [public_test_2] [private_test]

Weights go to weights/*.pth and weights/zalo2022_published/original/*.pth, sets to raw/<set>/.
A file grows as <name>.partial, which a later run continues; it gets its name only after its
content was checked. Digests are written to weights/digests.json and raw/digests.json the first
time, and compared ever after. Files that are already there (also those put there by hand) are
checked and left alone.

LIVENESS_WEIGHTS_URL and LIVENESS_DATA_URL name mirrors (http, https or file) laid out like
weights/ and raw/; LIVENESS_DRIVE_URL replaces the address of Google Drive's downloads.
"""

import argparse
import contextlib
import errno
import fcntl
import http.client
import json
import os
import re
import shutil
import socket
import stat
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from liveness.base.errors import UserError, run
from liveness.base.files import VIDEO_ENDINGS, sha256_of, workspace, write_text, written_aside

PRETRAINED_URL = "https://dl.fbaipublicfiles.com/convnext"
DATA_URL = "https://dl-challenge.zalo.ai/liveness-detection"
DRIVE_URL = "https://drive.usercontent.google.com/download"

PRETRAINED = ("convnext_xlarge_22k_1k_224_ema.pth", "convnext_large_22k_1k_224.pth")
SETS = ("train", "public_test", "public_test_2", "private_test")
# The 1st place's trained members on Google Drive.
PUBLISHED = {
    "convnext_large_fold0": "1_JlsQ3CHHCiO5LkCIgaPG-osyZ5CpRTf",
    "convnext_large_fold1": "1Dwe7l8ArkkU4aOk5dx_KsxdoX6pIdqbM",
    "convnext_large_fold2": "1wxNMCNIxBt8SewQESD-nzkdGxzumR0Zt",
    "convnext_xlarge_fold0": "1qAPsdf92LPQyvCke15PXDZ22pnAjqxie",
    "convnext_xlarge_fold1": "1fdq2ZQCnWqZ0IUOCpFg3PlrXNm2lu7Ht",
    "convnext_xlarge_fold2": "1ATvs-3Zxu5oUgwSQGCezOk9K74VVLsbY",
    "convnext_xlarge_fold3": "1_K_YPfDqQlg5xR7VRfIXPF6TuwtB6zzP",
    "convnext_xlarge_fold4": "1Df5IoAcCLuPJc7FSxMCZvy_JFLcsRbPM",
}
# SHA-256 of files whose source publishes one, by the name used in digests.json. None does so far:
# every digest is the one of the first download here.
PUBLISHED_DIGESTS: dict[str, str] = {}

ATTEMPTS = 5  # in a row without a new byte
WAIT = 2.0  # seconds before the second attempt; doubled for each further one
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20
PAGE = 1 << 20  # most that is read of a web page
# Most that is taken of a reply that does not say how long it is (bytes): more than any file that is fetched here
# (checkpoints of up to 6 GB, sets of a few GB), less than a disk.
LONGEST_UNSAID = 16 << 30
RATIO = 100  # videos hardly shrink in an archive: one that grows by more than this is an attack


class Unreachable(UserError):
    """The server cannot be reached at all: no use in asking it for the next file."""


class Interrupted(Exception):
    """The transfer broke off in a way that a further attempt may mend."""


class Wrong(Exception):
    """A file is not what it should be; the text is the reason and what to do."""


@dataclass(frozen=True)
class Item:
    """One file to fetch."""

    key: str  # its path below its base folder (weights/ or raw/), and its name in digests.json
    base: Path
    url: str
    by_hand: str  # an address for a person's browser

    @property
    def target(self) -> Path:
        return self.base / self.key

    @property
    def advice(self) -> str:
        return f"by hand: save {self.by_hand} as {self.target}, then run this again"


@dataclass
class Answer:
    """What a server sent: the bytes from ``start`` of a file of ``total`` (None: unknown), or a web page."""

    stream: BinaryIO
    start: int
    total: int | None
    tag: str  # the server's mark of this version of the file, or ""
    url: str
    page: str | None = None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m liveness.download", description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    choices = {"weights": ("pretrained", "zalo2022_published"), "data": SETS}
    for kind, names in choices.items():
        kinds.add_parser(kind).add_argument(
            "names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default all"
        )
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in choices[args.kind]:
            parser.error(f"no {args.kind} {name!r}: expected {', '.join(choices[args.kind])}")
    names = list(dict.fromkeys(args.names)) or list(choices[args.kind])
    if args.kind == "weights":
        fetch_all([item for name in names for item in weight_items(name)])
    else:
        fetch_sets(names)
    return 0


def weight_items(name: str) -> list[Item]:
    """The files of ``pretrained`` or ``zalo2022_published``, from their source or the mirror."""
    base, mirror = workspace() / "weights", os.environ.get("LIVENESS_WEIGHTS_URL", "").rstrip("/")
    items = []
    if name == "pretrained":
        for key in PRETRAINED:
            url = f"{mirror or PRETRAINED_URL}/{key}"
            items.append(Item(key, base, url, url))
        return items
    drive = os.environ.get("LIVENESS_DRIVE_URL") or DRIVE_URL
    for member, drive_id in PUBLISHED.items():
        key = f"zalo2022_published/original/{member}.pth"
        url = f"{mirror}/{key}" if mirror else f"{drive}?id={drive_id}&export=download"
        items.append(Item(key, base, url, url if mirror else f"https://drive.google.com/file/d/{drive_id}/view"))
    return items


def fetch_all(items: list[Item]) -> None:
    """Fetch every item; a UserError at the end if some failed."""
    check_before(items)
    for_each(items, fetch)


def fetch_sets(names: list[str]) -> None:
    """Fetch and unpack data sets into raw/<set>; sets that are there already are left alone."""
    base = workspace() / "raw"
    for name in names:
        if (base / name).exists() and not (base / name).is_dir():
            raise UserError(f"{base / name}: is a file; expected a folder for the set {name}, or nothing; move it away")
    check_before([set_item(name) for name in names if not is_there(base / name)])
    for_each(names, fetch_set)


def is_there(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def set_item(name: str) -> Item:
    """A set's archive."""
    url = (os.environ.get("LIVENESS_DATA_URL") or DATA_URL).rstrip("/")
    return Item(f"{name}.zip", workspace() / "raw", f"{url}/{name}.zip", f"{url}/{name}.zip")


def check_before(items: list[Item]) -> None:
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


def require_scheme(item: Item, url: str) -> str:
    """The address's scheme; a UserError for one that cannot be fetched."""
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("file", "http", "https"):
        raise UserError(f"{item.key}: {url}: expected an address that begins with http, https or file")
    return scheme


def fetch_set(name: str) -> None:
    folder, item = workspace() / "raw" / name, set_item(name)
    if is_there(folder):
        print(f"{name}: there already ({folder})")
        return
    fetch(item)
    count = unpack(item.target, folder)
    item.target.unlink()
    print(f"{name}: {count} files in {folder}")


def for_each(things: list, work: Callable) -> None:
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
        raise UserError(f"{len(failures)} of {len(things)} failed; the others are in place")


# ---- one file -------------------------------------------------------------------------------


def fetch(item: Item) -> None:
    """Bring one file into place, or check the one that is there; a UserError if neither works."""
    partial = item.target.with_name(item.target.name + ".partial")
    try:
        if item.target.exists():
            check_present(item)
            print(f"{item.key}: there already, SHA-256 agrees")
            return
        partial.parent.mkdir(parents=True, exist_ok=True)
        with only_one(partial):
            print(f"{item.key}: fetching {item.url}", flush=True)
            transfer(item, partial)
            check_new(item, partial)
            os.replace(partial, item.target)
            tag_file(partial).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(disk_line(error, partial)) from error
    print(f"{item.key}: done, {item.target.stat().st_size / 1e6:.1f} MB", flush=True)


@contextlib.contextmanager
def only_one(partial: Path) -> Iterator[None]:
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
                tag_file(partial).unlink(missing_ok=True)


def transfer(item: Item, partial: Path) -> None:
    """Make ``partial`` complete: continue it, and try again while the connection breaks off."""
    attempt = 0
    while True:
        before = partial.stat().st_size
        try:
            answer = ask(item, before, read_tag(partial))
            with contextlib.closing(answer.stream):
                if receive(item, answer, partial):
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


def receive(item: Item, answer: Answer, partial: Path) -> bool:
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
        tag_file(partial).write_text(answer.tag, encoding="utf-8")
        bar = tqdm(total=answer.total, initial=size, unit="B", unit_scale=True, desc=item.target.name, disable=None)
        with bar:
            while chunk := read_some(answer.stream):
                size += len(chunk)
                if size > most:
                    out.truncate(0)  # whatever it is, it is not the file
                    said = "the server does not say how long it is" if answer.total is None else "as announced"
                    raise UserError(f"{item.key}: more than {most} bytes came ({said}); given up; {item.advice}")
                out.write(chunk)
                bar.update(len(chunk))
    return answer.total is None or size == answer.total


def read_some(stream: BinaryIO) -> bytes:
    """The next bytes; b"" at the end. A network failure is Interrupted, so that no disk failure can look like one."""
    try:
        return stream.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the connection broke off ({type(error).__name__})") from error


def read_page(stream: BinaryIO) -> str:
    """A web page, as far as it matters here."""
    try:
        return stream.read(PAGE).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the connection broke off ({type(error).__name__})") from error


def tag_file(partial: Path) -> Path:
    return partial.with_name(partial.name.removesuffix(".partial") + ".tag.partial")


def read_tag(partial: Path) -> str:
    try:
        return tag_file(partial).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def disk_line(error: OSError, path: Path) -> str:
    """One line for a failure of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path.parent}: the disk is full; what was fetched is kept: make room and run this again"
    return f"{error.filename or path}: {error.strerror or error}"


# ---- what the file is -----------------------------------------------------------------------


def check_present(item: Item) -> None:
    """The file that lies there: a UserError if it is not what it should be. It is left as it is."""
    try:
        require_file(item, item.target)
        require_digest(item, item.target)
    except Wrong as error:
        raise UserError(f"{item.target}: {error}; or move it away and run this again") from error


def check_new(item: Item, partial: Path) -> None:
    """A finished download: a UserError if it is not what it should be. It is set aside, not deleted."""
    try:
        require_file(item, partial)
        require_digest(item, partial)
    except Wrong as error:
        rejected = item.target.with_name(item.target.name + ".rejected")
        os.replace(partial, rejected)
        raise UserError(f"{item.key}: {error}; what came is kept as {rejected}") from error


def require_file(item: Item, path: Path) -> None:
    """Wrong for a web page, an empty file and a damaged archive (checkpoints are archives too)."""
    with open(path, "rb") as stream:
        head = stream.read(512)
    if not head:
        raise Wrong(f"the file is empty; {item.advice}")
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise Wrong(f"a web page instead of the file; {item.advice}")
    if not (item.key.endswith(".zip") or head.startswith(b"PK")):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise Wrong(f"not a whole archive ({error}); {item.advice}") from error
    if damaged:
        raise Wrong(f"damaged inside ({damaged}); {item.advice}")


def require_digest(item: Item, path: Path) -> None:
    """Compare with the published or recorded digest; record the first one."""
    digest, record = sha256_of(path), item.base / "digests.json"
    known = read_digests(record)
    expected = PUBLISHED_DIGESTS.get(item.key) or known.get(item.key)
    if expected is None:
        write_text(record, json.dumps({**known, item.key: digest}, indent=2, sort_keys=True) + "\n")
    elif digest != expected and item.key in PUBLISHED_DIGESTS:
        raise Wrong(f"its SHA-256 is {digest}, the published one is {expected}; {item.advice}")
    elif digest != expected:
        raise Wrong(
            f"its SHA-256 is {digest}, {record} says {expected}; "
            f"if this file is the right one, take the entry {item.key!r} out of that record and run this again"
        )


def read_digests(record: Path) -> dict[str, str]:
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{record}: not JSON ({error}); mend it or remove it.") from error
    if not isinstance(known, dict):
        raise UserError(f"{record}: expected one JSON object of file names and digests.")
    return known


# ---- servers --------------------------------------------------------------------------------


def ask(item: Item, offset: int, tag: str) -> Answer:
    """Ask for the file from ``offset`` on, passing Google Drive's confirmation page where it comes."""
    answer = request(item, item.url, offset, tag)
    if answer.page is not None:
        form = confirmation(answer.page, answer.url)
        if form:
            answer.stream.close()
            answer = request(item, form, offset, tag)
    if answer.page is not None:
        answer.stream.close()
        raise UserError(f"{item.key}: {refusal(answer.page)}; {item.advice}")
    return answer


def request(item: Item, url: str, offset: int, tag: str) -> Answer:
    """One request. Interrupted for what may pass, Unreachable without a network, a UserError for the rest."""
    if require_scheme(item, url) == "file":
        return open_file(item, url, offset)
    headers = {"User-Agent": "liveness-download", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if tag:
            headers["If-Range"] = tag
    try:
        reply = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        return refused(item, error, url, offset)
    except urllib.error.URLError as error:
        raise unreachable(item, error.reason) from error
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the server did not answer ({type(error).__name__})") from error
    return read_head(reply, offset)


def open_file(item: Item, url: str, offset: int) -> Answer:
    """A file:// address; continued like any other."""
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    try:
        stream = open(path, "rb")  # noqa: SIM115  (the caller closes it)
    except OSError as error:
        raise UserError(f"{item.key}: {path}: {error.strerror}; expected the file there") from error
    total = os.fstat(stream.fileno()).st_size
    start = offset if offset <= total else 0
    stream.seek(start)
    return Answer(stream, start, total, "", url)


def read_head(reply: http.client.HTTPResponse, offset: int) -> Answer:
    """The reply's headers: a web page, a whole file (200) or the rest of one (206)."""
    length = reply.headers.get("Content-Length")
    total, start = int(length) if length and length.isdecimal() else None, 0
    # A weak mark ("W/…") does not vouch for equal bytes.
    tag = reply.headers.get("ETag", "")
    tag = tag if tag and not tag.startswith("W/") else reply.headers.get("Last-Modified", "")
    if reply.headers.get_content_type() == "text/html":
        return Answer(reply, 0, total, "", reply.url, read_page(reply))
    if reply.status == 206:
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", "").strip())
        if not part or int(part[1]) != offset:
            reply.close()
            raise Interrupted("the server sent another part than was asked for")
        start = offset
        total = int(part[2]) if part[2] != "*" else (None if total is None else offset + total)
    return Answer(reply, start, total, tag, reply.url)


def refused(item: Item, error: urllib.error.HTTPError, url: str, offset: int) -> Answer:
    """An HTTP error: a download that is complete already, one to begin anew, to repeat, or to give up."""
    with error:
        if error.code == 416 and offset:
            whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", "").strip())
            if whole and int(whole[1]) == offset:
                return Answer(open(os.devnull, "rb"), offset, offset, "", url)
            return request(item, url, 0, "")
        if error.code in (408, 425, 429) or error.code >= 500:
            raise Interrupted(f"the server answered {error.code} {error.reason}") from error
        page = read_page(error)
        what = refusal(page) if "quota" in page.lower() else f"the server answered {error.code} {error.reason}"
        raise UserError(f"{item.key}: {what} for {item.url}; {item.advice}") from error


def unreachable(item: Item, reason: object) -> Exception:
    """The exception for a connection that did not come about."""
    host = urllib.parse.urlsplit(item.url).netloc
    if isinstance(reason, TimeoutError | ConnectionResetError):
        return Interrupted(f"{host} did not answer")
    if isinstance(reason, socket.gaierror):
        reason = "its name is not known; is there a network?"
    return Unreachable(f"{item.key}: {host} cannot be reached ({reason}); {item.advice}")


class FormReader(HTMLParser):
    """Finds the first form that asks for a download, and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if tag == "form" and not self.action and "download" in values.get("id", "") + values.get("action", ""):
            self.action, self.inside = values.get("action", ""), True
        elif tag == "input" and self.inside and values.get("type") == "hidden" and "name" in values:
            self.fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.inside = False


def confirmation(page: str, url: str) -> str:
    """The address behind Drive's "can't scan this file for viruses, download anyway"; "" if the page is another."""
    reader = FormReader()
    reader.feed(page)
    if not reader.action or not reader.fields:
        return ""
    target, source = (urllib.parse.urlsplit(a) for a in (urllib.parse.urljoin(url, reader.action), url))
    # A form that leads elsewhere is not followed.
    if (target.scheme, target.netloc) != (source.scheme, source.netloc):
        return ""
    query = dict(urllib.parse.parse_qsl(target.query)) | reader.fields
    return urllib.parse.urlunsplit(target._replace(query=urllib.parse.urlencode(query)))


def refusal(page: str) -> str:
    """What a web page that came instead of the file says, in a few words."""
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split()).lower()
    if "quota" in text or "too many users" in text:
        return "Google Drive gives this file out no more today (its download quota is used up); try again tomorrow, or"
    if "sign in" in text or "access denied" in text:
        return "the file is not public (the server asks to sign in)"
    title = re.search(r"<title>([^<]{1,80})", page, re.IGNORECASE)
    return f"a web page came instead of the file ({' '.join(title[1].split()) if title else 'no title'})"


# ---- archives -------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a set's zip file into ``folder`` (which must not hold anything yet); return the number of files.

    One folder that encloses everything is left out. Nothing is written outside a side folder, which
    gets its name when all is there; an archive that would, or that is no set, is a UserError.
    """
    side = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(side, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as source:
            plan = plan_of(archive, source)
            free = shutil.disk_usage(archive.parent).free
            need = sum(entry.file_size for entry in plan.values())
            if need > free:
                raise UserError(f"{archive}: becomes {need} bytes, {free} are free in {archive.parent}; make room")
            for path, entry in tqdm(plan.items(), desc=f"unpacking {archive.name}", disable=None):
                target = side / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as inside, open(target, "xb") as out:
                    shutil.copyfileobj(inside, out, CHUNK)
        os.replace(side, folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: damaged ({error}); remove it and run this again") from error
    except OSError as error:
        raise UserError(disk_line(error, side)) from error
    finally:
        shutil.rmtree(side, ignore_errors=True)
    return len(plan)


def plan_of(archive: Path, source: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Where each file of the archive goes, below the set's folder; a UserError for anything unsafe."""
    plan: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in source.infolist():
        path = safe_path(archive, entry)
        if entry.filename.endswith(("/", "\\")) or path.parts[0] == "__MACOSX" or path.name == ".DS_Store":
            continue
        if path in plan:
            raise UserError(f"{archive}: has {str(path)!r} twice; nothing was unpacked")
        plan[path] = entry
    need, packed = sum(entry.file_size for entry in plan.values()), archive.stat().st_size
    if need > RATIO * packed + CHUNK:
        raise UserError(f"{archive}: {packed} bytes that would become {need}; refused, nothing was unpacked")
    tops = {path.parts[0] for path in plan}
    if len(tops) == 1 and tops != {"videos"} and all(len(path.parts) > 1 for path in plan):
        plan = {PurePosixPath(*path.parts[1:]): entry for path, entry in plan.items()}
    videos = [p for p in plan if p.suffix.lower() in VIDEO_ENDINGS and p.parts[:-1] in ((), ("videos",))]
    if not videos:
        raise UserError(f"{archive}: no video in it; expected videos/*.mp4, and label.csv for a labelled set")
    return plan


def safe_path(archive: Path, entry: zipfile.ZipInfo) -> PurePosixPath:
    """The entry's path if it stays inside and is a plain file or a folder."""
    # Archives made on Windows may part folders by backslashes.
    path, mode = PurePosixPath(entry.filename.replace("\\", "/")), entry.external_attr >> 16
    bad = ""
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        bad = "would leave its folder"
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        bad = "is a link or a device, not a plain file"
    elif entry.flag_bits & 1:
        bad = "is encrypted"
    if bad:
        raise UserError(f"{archive}: {entry.filename!r} {bad}; refused, nothing was unpacked")
    return path


if __name__ == "__main__":
    run(main)
