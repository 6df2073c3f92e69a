"""Where the files of a video lie in a prepared set.

In a set of up to FLAT_MOST videos each folder (frames/, faces/bbox/, faces/crop/, faces/viz/, .records/) has its files
directly, as in all sets from before. In a larger one they lie in 4,096 subfolders, by the video's name, since folders
of millions of files are slow to list and to copy, and some file systems have no room for them. The first run decides,
and the set keeps its layout when it grows or shrinks: its records, and the tables that are made of them, name each
frame with its subfolder, so that nothing else needs to know.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

FLAT_MOST = 20_000  # videos
RECORDS = ".records"


def subfolder_of(video_id: str) -> str:
    """The subfolder of a video's files: the first three hexadecimal digits of its name's SHA-256."""
    return hashlib.sha256(os.fsencode(video_id)).hexdigest()[:3]


def has_subfolders(folder: Path, count: int) -> bool:
    """Whether new files of data/<set> go into subfolders: as its records do; in a set that has none, if it has more
    than FLAT_MOST videos."""
    for entry in _entries(folder / RECORDS):
        return entry.is_dir()
    return count > FLAT_MOST


def name_stored(video_id: str, ending: str, spread: bool) -> str:
    """The name of a video's file within a folder: "17-30.jpg", or with ``spread`` "ab9/17-30.jpg"."""
    name = f"{video_id}{ending}"
    return f"{subfolder_of(video_id)}/{name}" if spread else name


def find_record(folder: Path, video_id: str) -> Path:
    """Where a video's record is; one in a subfolder if there is none."""
    flat, spread = (folder / RECORDS / name_stored(video_id, ".json", way) for way in (False, True))
    return flat if flat.is_file() else spread


def list_stored(folder: Path, hidden: bool = False) -> Iterator[str]:
    """The names of all files in a folder, and with their subfolder of those in its subfolders, in the file system's
    order. hidden: those too that begin with a dot, as what a killed run was writing does."""
    for entry in _entries(folder, hidden):
        if entry.is_dir():
            yield from (f"{entry.name}/{inner.name}" for inner in _entries(Path(entry.path), hidden))
        else:
            yield entry.name


def list_folders(folder: Path) -> list[Path]:
    """A folder and its subfolders."""
    return [folder, *(Path(entry.path) for entry in _entries(folder) if entry.is_dir())]


def _entries(folder: Path, hidden: bool = False) -> Iterator[os.DirEntry]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if hidden or not entry.name.startswith("."))
