"""A request's body -> a temporary file, within bytes and seconds: raw, or the one file of a multipart form.

The caller's file name and the types that it claims are neither kept nor believed: the bytes tell what a file is.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from liveness.service.settings import MIB, Refusal, ServiceLimits
from liveness.service.spool import Spool

OVERHEAD = 16 * 1024  # bytes of a form around its file
MOST_HEADERS, LONGEST_HEADER, LONGEST_BOUNDARY = 16, 4096, 200  # of a part; bytes
_FORM = "expected a form with exactly one file: curl -F clip=@FILE URL/score"

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it writes what callers send into the log


@asynccontextmanager
async def stored_body(request: Request, spool: Spool, limits: ServiceLimits) -> AsyncIterator[Path]:
    """A file with the clip of the request, for as long as the context lasts; a Refusal where there is none."""
    sink = _sink_of(request, limits)
    try:
        path, descriptor = spool.create()
    except OSError as error:
        raise _no_room(error) from error
    try:
        try:
            with open(descriptor, "wb") as file:  # it tells a full disk when it is closed, too
                await _receive(request, sink, file, limits)
        except OSError as error:
            raise _no_room(error) from error
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


async def _receive(request: Request, sink: "_Raw | _Form", file: BinaryIO, limits: ServiceLimits) -> None:
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for chunk in request.stream():
                for part in sink.take(chunk):
                    file.write(part)
    except TimeoutError as error:
        raise Refusal(408, "too_slow", f"the body was not there within {limits.upload_seconds:g} s") from error
    except ClientDisconnect as error:
        raise Refusal(400, "gone", "the body broke off") from error
    sink.end()


def _no_room(error: OSError) -> Refusal:
    return Refusal(503, "no_room", f"the body cannot be stored: {error.strerror}", {"Retry-After": "60"})


def _sink_of(request: Request, limits: ServiceLimits) -> "_Raw | _Form":
    """What takes the body, by the request's headers."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Refusal(
            415, "encoded", "Content-Encoding: send the file as it is; clips and images are compressed already"
        )
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    form = kind.startswith(b"multipart/")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limits.bytes + OVERHEAD * form:
        raise _too_large(limits)
    if not form:
        if kind in (b"application/json", b"text/json"):
            raise Refusal(415, "no_file", "JSON; expected the bytes of a clip or an image, or a form with one file")
        return _Raw(limits)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= LONGEST_BOUNDARY:
        raise Refusal(400, "bad_form", f"{_FORM}; its Content-Type has to be multipart/form-data with a boundary")
    return _Form(boundary, limits)


def _too_large(limits: ServiceLimits) -> Refusal:
    return Refusal(413, "too_large", f"expected a file of at most {limits.bytes / MIB:g} MiB")


class _Raw:
    """The body is the file."""

    def __init__(self, limits: ServiceLimits) -> None:
        self._limits, self._size = limits, 0

    def take(self, chunk: bytes) -> list[bytes]:
        """What of the body's next bytes belongs to the file."""
        self._size += len(chunk)
        if self._size > self._limits.bytes:
            raise _too_large(self._limits)
        return [chunk]

    def end(self) -> None:
        """A Refusal where the body is no whole file."""
        if not self._size:
            raise Refusal(
                400, "empty", "an empty body; expected the bytes of a clip or an image, or a form with one file"
            )


class _Form:
    """The body is a form (RFC 7578) whose only part is the file; nothing of it is held but the part's headers."""

    def __init__(self, boundary: bytes, limits: ServiceLimits) -> None:
        self._file, self._limits = _Raw(limits), limits
        self._left = limits.bytes + OVERHEAD
        self._parts, self._whole = 0, False
        self._header = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        self._data: list[bytes] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._add(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._check_headers,
                "on_part_data": lambda data, start, end: self._data.append(bytes(data[start:end])),
                "on_end": self._finish,
            },
            max_header_count=MOST_HEADERS,
            max_header_size=LONGEST_HEADER,
        )

    def take(self, chunk: bytes) -> list[bytes]:
        """As ``_Raw.take``."""
        self._left -= len(chunk)
        if self._left < 0:
            raise _too_large(self._limits)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Refusal(400, "bad_form", f"{_FORM}; this one is damaged") from error
        data, self._data = self._data, []
        return [part for piece in data for part in self._file.take(piece)]

    def end(self) -> None:
        """As ``_Raw.end``."""
        if not self._whole:
            raise Refusal(400, "bad_form", f"{_FORM}; this one {'breaks off' if self._parts else 'has no file'}")
        if not self._parts:
            raise Refusal(400, "bad_form", f"{_FORM}; this one has no file")
        self._file.end()

    def _begin(self) -> None:
        self._parts += 1
        self._headers = {}
        if self._parts > 1:
            raise Refusal(400, "bad_form", f"{_FORM}; this one has several parts")

    def _add(self, which: int, data: bytes) -> None:
        self._header[which] += data

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = [b"", b""]

    def _check_headers(self) -> None:
        coded = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if coded not in (b"binary", b"8bit", b"7bit"):
            raise Refusal(415, "encoded", "Content-Transfer-Encoding: send the file as it is")
        if b"filename" not in parse_options_header(self._headers.get(b"content-disposition", b""))[1]:
            raise Refusal(400, "bad_form", f"{_FORM}; this one has a field that is no file")

    def _finish(self) -> None:
        self._whole = True
