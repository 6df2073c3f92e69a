"""Asking a server for a file, from any byte on: the reply's headers, its errors, and what may be tried again."""

import http.client
import os
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from liveness.base.errors import UserError
from liveness.downloads.catalogue import Item
from liveness.downloads.drive import explain_page, find_confirmation

TIMEOUT = 60  # seconds without a byte
PAGE = 1 << 20  # most that is read of a web page


class Unreachable(UserError):
    """The server cannot be reached at all: no use in asking it for the next file."""


class Interrupted(Exception):
    """The transfer broke off in a way that a further attempt may mend."""


class Readable(Protocol):
    """Bytes that come one after another: a server's reply, or a file."""

    def read(self, size: int, /) -> bytes: ...


class Stream(Readable, Protocol):
    """What a file's bytes are read from."""

    def read1(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass
class Answer:
    """What a server sent: the bytes from ``start`` of a file of ``total`` (None: unknown), or a web page."""

    stream: Stream
    start: int
    total: int | None
    tag: str  # the server's mark of this version of the file, or ""
    url: str
    page: str | None = None


def require_scheme(item: Item, url: str) -> str:
    """The address's scheme; a UserError for one that cannot be fetched."""
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("file", "http", "https"):
        raise UserError(f"{item.key}: {url}: expected an address that begins with http, https or file")
    return scheme


def ask_for_item(item: Item, offset: int, tag: str) -> Answer:
    """Ask for the file from ``offset`` on, passing Google Drive's confirmation page where it comes."""
    answer = _request(item, item.url, offset, tag)
    if answer.page is not None:
        form = find_confirmation(answer.page, answer.url)
        if form:
            answer.stream.close()
            answer = _request(item, form, offset, tag)
    if answer.page is not None:
        answer.stream.close()
        raise UserError(f"{item.key}: {explain_page(answer.page)}; {item.advice}")
    return answer


def _request(item: Item, url: str, offset: int, tag: str) -> Answer:
    """One request. Interrupted for what may pass, Unreachable without a network, a UserError for the rest."""
    if require_scheme(item, url) == "file":
        return _open_file(item, url, offset)
    headers = {"User-Agent": "liveness-download", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if tag:
            headers["If-Range"] = tag
    try:
        reply = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        return _handle_refusal(item, error, url, offset)
    except urllib.error.URLError as error:
        raise _explain_unreachable(item, error.reason) from error
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the server did not answer ({type(error).__name__})") from error
    return _read_headers(reply, offset)


def _open_file(item: Item, url: str, offset: int) -> Answer:
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


def _read_headers(reply: http.client.HTTPResponse, offset: int) -> Answer:
    """The reply's headers: a web page, a whole file (200) or the rest of one (206)."""
    length = reply.headers.get("Content-Length")
    total, start = int(length) if length and length.isdecimal() else None, 0
    # A weak mark ("W/…") does not vouch for equal bytes.
    tag = reply.headers.get("ETag", "")
    tag = tag if tag and not tag.startswith("W/") else reply.headers.get("Last-Modified", "")
    if reply.headers.get_content_type() == "text/html":
        return Answer(reply, 0, total, "", reply.url, _read_page(reply))
    if reply.status == 206:
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", "").strip())
        if not part or int(part[1]) != offset:
            reply.close()
            raise Interrupted("the server sent another part than was asked for")
        start = offset
        total = int(part[2]) if part[2] != "*" else (None if total is None else offset + total)
    return Answer(reply, start, total, tag, reply.url)


def _handle_refusal(item: Item, error: urllib.error.HTTPError, url: str, offset: int) -> Answer:
    """An HTTP error: a download that is complete already, one to begin anew, to repeat, or to give up."""
    with error:
        if error.code == 416 and offset:
            whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", "").strip())
            if whole and int(whole[1]) == offset:
                return Answer(open(os.devnull, "rb"), offset, offset, "", url)
            return _request(item, url, 0, "")
        if error.code in (408, 425, 429) or error.code >= 500:
            raise Interrupted(f"the server answered {error.code} {error.reason}") from error
        page = _read_page(error)
        what = explain_page(page) if "quota" in page.lower() else f"the server answered {error.code} {error.reason}"
        raise UserError(f"{item.key}: {what} for {item.url}; {item.advice}") from error


def _explain_unreachable(item: Item, reason: object) -> Exception:
    """The exception for a connection that did not come about."""
    host = urllib.parse.urlsplit(item.url).netloc
    if isinstance(reason, TimeoutError | ConnectionResetError):
        return Interrupted(f"{host} did not answer")
    if isinstance(reason, socket.gaierror):
        reason = "its name is not known; is there a network?"
    return Unreachable(f"{item.key}: {host} cannot be reached ({reason}); {item.advice}")


def _read_page(stream: Readable) -> str:
    """A web page, as far as it matters here."""
    try:
        return stream.read(PAGE).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the connection broke off ({type(error).__name__})") from error
