"""Where manifests, videos and results lie: a path, or s3://, gs://, http:// and https:// (to read from).

    scheme_of("s3://clips/a.mp4")          s3; "" for a path
    data = fetch_bytes("https://…/a.mp4")
    store = Store("s3://results/june"); store.write("summary.json", b"{}")

Buckets are read and written with pyarrow, web servers read with fsspec; both take their credentials and endpoints from
the environment (AWS_…, GOOGLE_APPLICATION_CREDENTIALS). Nothing of that is imported for paths.
"""

import functools
import os
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from liveness.base.errors import UserError, first_line
from liveness.base.files import write_bytes

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

BUCKETS, WEB = ("s3", "gs"), ("http", "https")
FETCH_BYTES, FETCH_SECONDS = 1 << 30, 300.0  # of one video at most
_TRIES, _CHUNK = 3, 1 << 20


def scheme_of(text: str) -> str:
    """What stands before ``://``, in small letters; "" where it is a path."""
    head, there, _ = text.partition("://")
    return head.lower() if there else ""


def check_scheme(text: str, where: str, known: tuple[str, ...] = ("", "file", *BUCKETS, *WEB)) -> str:
    """The scheme of ``text``, which stands at ``where``; a UserError for one that is not ``known``."""
    if (scheme := scheme_of(text)) not in known:
        kinds = ["a path" if kind == "" else f"{kind}://" for kind in known]
        raise UserError(f"{where}: nothing here reads or writes {scheme}:// ({text}); expected {', '.join(kinds)}")
    return scheme


def resolve(text: str, base: str) -> str:
    """An absolute path, or a URI: what a manifest that lies in ``base`` (a folder, or the URI of one) means."""
    scheme = scheme_of(text)
    if scheme == "file":
        return unquote(urlsplit(text).path)
    if scheme or os.path.isabs(text):
        return text
    return f"{base}/{text}" if scheme_of(base) else os.path.join(os.path.abspath(base), text)


def name_of(place: str) -> str:
    """The file's name in a path or URI."""
    path = urlsplit(place).path if scheme_of(place) in WEB else place
    name = path.rstrip("/").rpartition("/")[2]
    return unquote(name) if scheme_of(place) in WEB else name


def in_bucket(uri: str) -> tuple["FileSystem", str]:
    """The file system of s3://BUCKET/KEY or gs://BUCKET/KEY, and the path in it."""
    scheme, _, path = uri.partition("://")
    return _open_bucket(scheme.lower(), path.partition("/")[0]), path.rstrip("/")


@functools.cache
def _open_bucket(scheme: str, bucket: str) -> "FileSystem":
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(f"{scheme}://{bucket}")[0]
    except (OSError, ValueError, NotImplementedError) as error:
        raise OSError(f"{scheme}://{bucket}: {first_line(error)}") from error


def fetch_bytes(uri: str, most: int = FETCH_BYTES) -> bytes:
    """What a URI holds. OSError, one line, where there is nothing, too much, or no answer in three tries."""
    for attempt in range(_TRIES):
        try:
            return _read_whole(uri, most)
        except FileNotFoundError as error:
            raise OSError("there is no such file") from error
        except Exception as error:  # web clients raise all kinds
            if attempt == _TRIES - 1 or isinstance(error, _TooLarge):
                raise OSError(first_line(error)) from error
            time.sleep(4**attempt)
    raise AssertionError


class _TooLarge(OSError):
    pass


def _read_whole(uri: str, most: int) -> bytes:
    parts, size, started = [], 0, time.monotonic()
    with _open_uri(uri) as stream:
        while part := stream.read(_CHUNK):
            parts.append(part)
            size += len(part)
            if size > most:
                raise _TooLarge(f"larger than {most >> 20} MiB")
            if time.monotonic() - started > FETCH_SECONDS:
                raise TimeoutError(f"not there after {FETCH_SECONDS:g} s")
    return b"".join(parts)


def _open_uri(uri: str) -> IO[bytes]:
    if scheme_of(uri) in BUCKETS:
        system, path = in_bucket(uri)
        return system.open_input_stream(path)
    import aiohttp
    import fsspec

    client = {"timeout": aiohttp.ClientTimeout(total=FETCH_SECONDS), "trust_env": True}
    return fsspec.filesystem("http", client_kwargs=client).open(uri, "rb", block_size=0)


class Store:
    """A folder of results, here or in a bucket, each file of which appears whole or not at all."""

    def __init__(self, place: str) -> None:
        """place: a path, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; a UserError for another."""
        self.scheme = check_scheme(place, "OUT", ("", *BUCKETS))
        self.place = place.rstrip("/") or "/"

    def show(self, name: str) -> str:
        """A file of it, for people."""
        return f"{self.place}/{name}"

    def names(self) -> list[str]:
        """The files in it; none where it is not there yet."""
        if not self.scheme:
            return os.listdir(self.place) if os.path.isdir(self.place) else []
        from pyarrow.fs import FileSelector

        system, path = in_bucket(self.place)
        return [one.base_name for one in system.get_file_info(FileSelector(path, allow_not_found=True))]

    def read(self, name: str) -> bytes:
        """A file's bytes; OSError where it cannot be read."""
        if not self.scheme:
            return Path(self.place, name).read_bytes()
        system, path = in_bucket(self.place)
        with system.open_input_stream(f"{path}/{name}") as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        """Put a file there: beside its place and then renamed, or, in a bucket, in one put."""
        try:
            if not self.scheme:
                write_bytes(Path(self.place, name), data)
                return
            system, path = in_bucket(self.place)
            with system.open_output_stream(f"{path}/{name}") as stream:
                stream.write(data)
        except OSError as error:
            raise UserError(
                f"{self.show(name)}: cannot write there ({error.strerror or first_line(error)}); "
                "expected a folder for the results"
            ) from error
