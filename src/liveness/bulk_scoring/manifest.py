"""Which videos there are to score, and how they are dealt into slices, each of which becomes one Parquet file.

    manifest = open_manifest("clips.csv")            or a Parquet file, or a folder; all of them may lie in a bucket
    count = check_manifest(manifest)
    for piece in deal(manifest, 500, identity): piece.digest, piece.keys, piece.places

A table has a column with a path or URI (``path``, ``uri``, ``filename`` or ``fname``) and may have a column ``key``, by
which the results are known; without it the path itself is the key. A folder is listed as the slices are asked for, one
folder at a time. Needs pyarrow for Parquet and buckets only. Writes nothing.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from liveness.base.errors import UserError
from liveness.base.files import IMAGE_ENDINGS, VIDEO_ENDINGS, natural_key
from liveness.base.names import find_column
from liveness.base.tables import read_table
from liveness.bulk_scoring.places import BUCKETS, WEB, check_scheme, fetch_bytes, in_bucket, name_of, resolve

PATH_COLUMNS, KEY_COLUMN = ("path", "uri", "filename", "fname"), "key"
MANIFEST_BYTES = 1 << 34  # of a table that is fetched, at most
_ROWS = 10_000  # of a table that are read at a time

_Pairs = Iterator[tuple[list[str], list[str]]]  # keys and places of some rows


@dataclass(frozen=True)
class Manifest:
    """``pairs()``: from the beginning, the keys of some rows and where their videos lie, until there are no more."""

    name: str
    folder: bool
    pairs: Callable[[], _Pairs]


@dataclass(frozen=True)
class Slice:
    """Some rows of a manifest that follow each other. ``digest``: of all that their scores depend on but the videos."""

    index: int
    digest: str
    keys: list[str]
    places: list[str]

    @property
    def name(self) -> str:
        """The file of its rows."""
        return f"part-{self.index:06d}-{self.digest[:16]}.parquet"


def open_manifest(source: str, column: str = "", key: str = "", images: bool = False) -> Manifest:
    """A manifest by its path or URI; a UserError where it is none.

    column and key: of a table, if they have other names than usual; images: of a folder, its still images too.
    """
    scheme = check_scheme(source, "MANIFEST")
    source = resolve(source, ".")
    if _is_folder(source, scheme):
        if column or key:
            raise UserError(f"{source}: a folder has no columns; leave out --column and --key")
        endings = (*VIDEO_ENDINGS, *IMAGE_ENDINGS) if images else VIDEO_ENDINGS
        return Manifest(source, True, lambda: _list_folder(source.rstrip("/"), scheme, endings))
    ending = os.path.splitext(name_of(source))[1].lower()
    if ending not in (".csv", ".parquet"):
        raise UserError(f"{source}: not a manifest; expected a table (.csv or .parquet) or a folder that is there")
    read = _read_parquet if ending == ".parquet" else _read_csv
    base = source.rpartition("/")[0] or "/"

    def pairs() -> _Pairs:
        with _local_copy(source, scheme) as path:
            for keys, texts in read(path, source, column, key):
                yield keys, [resolve(text, base) for text in texts]

    return Manifest(source, False, pairs)


def check_manifest(manifest: Manifest) -> int:
    """How many rows a table has; a UserError that names the first row that is wrong.

    Wrong are an empty key or path, a scheme that nothing reads, a key that is there twice, and no row at all.
    """
    hashes, count = [np.empty(0, np.uint64)], 0
    for keys, places in manifest.pairs():
        for row, (key, place) in enumerate(zip(keys, places, strict=True), count + 1):
            if not key or not place or place.endswith("/"):
                raise UserError(
                    f"{manifest.name}: row {row} has no {'path' if key else 'key'}; expected one in each row"
                )
            check_scheme(place, f"{manifest.name}, row {row}")
        hashes.append(np.array([_hash(key) for key in keys], np.uint64))
        count += len(keys)
    if not count:
        raise UserError(f"{manifest.name}: there is no row in it; expected a row per video")
    ordered = np.sort(np.concatenate(hashes))
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if twice:
        _require_distinct(manifest, twice)
    return count


def deal(manifest: Manifest, size: int, identity: str) -> Iterator[Slice]:
    """The manifest's rows, ``size`` by ``size``; ``identity``: of what scores them, part of each slice's digest."""
    keys: list[str] = []
    places: list[str] = []
    index = 0
    for more_keys, more_places in manifest.pairs():
        keys += more_keys
        places += more_places
        while len(keys) >= size:
            yield _slice(index, keys[:size], places[:size], identity)
            keys, places, index = keys[size:], places[size:], index + 1
    if keys:
        yield _slice(index, keys, places, identity)


def show_text(text: str) -> str:
    """The same text where it is UTF-8; else (a file's name may be anything) with escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _slice(index: int, keys: list[str], places: list[str], identity: str) -> Slice:
    digest = hashlib.sha256(json.dumps([identity, keys, places]).encode()).hexdigest()
    return Slice(index, digest, keys, places)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _require_distinct(manifest: Manifest, suspects: set[int]) -> None:
    """A UserError for the first key that is there twice, among those whose hashes are."""
    seen: dict[str, int] = {}
    row = 0
    for keys, _ in manifest.pairs():
        for key in keys:
            row += 1
            if _hash(key) in suspects:
                if key in seen:
                    raise UserError(
                        f"{manifest.name}: the key {key!r} is in rows {seen[key]} and {row}; expected it once "
                        "(--key NAME names another column)"
                    )
                seen[key] = row


# --- tables ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _local_copy(source: str, scheme: str) -> Iterator[Path]:
    """The path of a table: its own, or that of a copy while it is read."""
    if scheme in ("", "file"):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "manifest" + os.path.splitext(name_of(source))[1].lower())
        try:
            path.write_bytes(fetch_bytes(source, MANIFEST_BYTES))
        except OSError as error:
            raise UserError(f"{source}: cannot be read ({error}); expected a table") from error
        yield path


def _find_columns(there: list[str], name: str, column: str, key: str) -> tuple[str, str]:
    """The columns of the path and of the key; a UserError where they are not there."""
    for asked, option in ((column, "--column"), (key, "--key")):
        if asked and asked not in there:
            raise UserError(f"{name}: no column {asked} ({option}); it has {', '.join(there) or 'none'}")
    found = column or find_column(there, *PATH_COLUMNS)
    if not found:
        raise UserError(
            f"{name}: no column with paths; it has {', '.join(there) or 'none'}, expected "
            f"{', '.join(PATH_COLUMNS[:-1])} or {PATH_COLUMNS[-1]} (--column NAME names another)"
        )
    return found, key or find_column(there, KEY_COLUMN) or found


def _read_csv(path: Path, name: str, column: str, key: str) -> _Pairs:
    table = read_table(path, [])
    paths, keys = _find_columns(list(table.columns), name, column, key)
    for start in range(0, len(table), _ROWS):
        part = table.iloc[start : start + _ROWS]
        yield part[keys].tolist(), part[paths].tolist()


def _read_parquet(path: Path, name: str, column: str, key: str) -> _Pairs:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        paths, keys = _find_columns(file.schema_arrow.names, name, column, key)
        for batch in file.iter_batches(_ROWS, columns=list(dict.fromkeys((paths, keys)))):
            texts = [batch.column(one).cast(pa.string()).fill_null("").to_pylist() for one in (keys, paths)]
            yield texts[0], texts[1]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{name}: not a Parquet file that can be read ({error}); expected a table") from error


# --- folders ---------------------------------------------------------------------------------------


def _is_folder(source: str, scheme: str) -> bool:
    if scheme in WEB:
        return False
    if scheme not in BUCKETS:
        return os.path.isdir(source)
    from pyarrow.fs import FileType

    system, path = in_bucket(source)
    try:
        return system.get_file_info(path).type == FileType.Directory
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error}); expected a table or a folder of videos") from error


def _list_folder(source: str, scheme: str, endings: tuple[str, ...]) -> _Pairs:
    """The videos in a folder and those below it, in natural order, a folder at a time; hidden ones are passed over."""
    look = _look_into_bucket if scheme else _look_into
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        files, folders = look(f"{source}/{inner}".rstrip("/") or "/")
        names = sorted((n for n in files if _is_wanted(n, endings)), key=natural_key)
        below = [f"{inner}{name}" for name in names]
        for start in range(0, len(below), _ROWS):
            part = below[start : start + _ROWS]
            yield [show_text(name) for name in part], [f"{source}/{name}" for name in part]
        waiting += [f"{inner}{name}/" for name in sorted(folders, key=natural_key, reverse=True) if name[0] != "."]


def _is_wanted(name: str, endings: tuple[str, ...]) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in endings


def _look_into(folder: str) -> tuple[list[str], list[str]]:
    """The files and the folders in a folder; links to folders, which may lead in a circle, are passed over."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif not entry.is_dir():
                    files.append(entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); expected a folder of videos") from error
    return files, folders


def _look_into_bucket(folder: str) -> tuple[list[str], list[str]]:
    from pyarrow.fs import FileSelector, FileType

    system, path = in_bucket(folder)
    try:
        found = system.get_file_info(FileSelector(path))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error}); expected a folder of videos") from error
    return [one.base_name for one in found if one.type == FileType.File], [
        one.base_name for one in found if one.type == FileType.Directory
    ]
