"""The stored frames of a set, decoded once: one memory-mapped file of pixels that every loader process shares.

    decoded = open_decoded(folder, names, most_bytes)      # built at the first call
    rgb = decoded.get("17-30.jpg")                         # uint8 RGB, H x W x 3, read-only; None where it is not in it

Decoding a JPEG file takes most of the time in which a sample is made, and gives the same pixels in each epoch. Reads
data/<set>/frames/; writes data/<set>/decoded/<digest>.u8, and its <digest>.json last. The digest covers the frames'
JPEG files and the decoder's version, and is computed anew at every start: another preparation is another file.
"""

import fcntl
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from liveness.base.files import digest_file, sweep, write_json, written_aside
from liveness.base.machine import cores
from liveness.frames.video import VideoError, jpeg_decode

_SHARE_OF_DISK = 0.5  # of what is free: so much may be filled at most

_Place = tuple[int, int, int]  # where a frame begins in the file, its height and its width


class DecodedFrames:
    """The pixels by the name of the JPEG file. Another process that gets it maps the file again."""

    def __init__(self, path: Path, places: dict[str, _Place]) -> None:
        self.path, self.places = path, places
        self._pixels: np.ndarray = np.empty(0, np.uint8)
        if places:
            self._file = open(path, "rb")  # noqa: SIM115  (held as long as the pixels: its lock keeps them from being cleared away)
            _lock(self._file, fcntl.LOCK_SH)
            self._pixels = np.memmap(self._file, dtype=np.uint8, mode="r")

    def __reduce__(self) -> tuple:
        return DecodedFrames, (self.path, self.places)

    def __len__(self) -> int:
        return len(self.places)

    def get(self, name: str) -> np.ndarray | None:
        """A frame as uint8 RGB (H x W x 3) that must not be written to, or None."""
        if name not in self.places:
            return None
        start, height, width = self.places[name]
        return self._pixels[start : start + 3 * height * width].reshape(height, width, 3)


def open_decoded(folder: Path, names: list[str], most_bytes: float, spare: float = 0.0) -> DecodedFrames:
    """The frames ``names`` of data/<set>/frames/, as many of the first as ``most_bytes`` and half of the free disk
    hold; ``spare``: bytes of the disk that something else needs. The first process builds the file, the others wait for
    it; a disk that is full costs the file and a note."""
    place = folder / "decoded"
    path = place / f"{_digest_frames(folder, names)}.u8"
    try:
        place.mkdir(exist_ok=True)
        with open(place / "lock", "w") as lock:
            _lock(lock, fcntl.LOCK_EX)
            if not path.with_suffix(".json").is_file() or _too_small(path.with_suffix(".json"), most_bytes):
                print(f"note: {place}: decoding {len(names)} frames, once", file=sys.stderr, flush=True)
                _build(folder, names, path, most_bytes, spare)
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            return DecodedFrames(path, {name: tuple(where) for name, where in about["frames"].items()})
    except OSError as error:  # a folder that must not be written to, a full disk
        print(f"note: {place}: {error.strerror or error}; frames are decoded anew each time", file=sys.stderr)
        return DecodedFrames(path, {})


def _lock(file: IO, how: int) -> bool:
    """Whether the file could be locked, as also where the file system has no locks."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _digest_frames(folder: Path, names: list[str]) -> str:
    """What the pixels depend on: the JPEG files, in this order, and the decoder."""
    with ThreadPoolExecutor(cores()) as pool:  # hashing works outside Python's lock
        digests = list(pool.map(lambda name: _digest_or_none(folder / "frames" / name), names))
    text = json.dumps([cv2.__version__, list(zip(names, digests, strict=True))])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _digest_or_none(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError:
        return ""  # training says what is missing when it comes to it


def _too_small(index: Path, most_bytes: float) -> bool:
    """Whether the file ended at a smaller limit than today's, or found no room at all."""
    about = json.loads(index.read_text(encoding="utf-8"))
    return not about["whole"] and (about["most_bytes"] < most_bytes or not about["frames"])


def _build(folder: Path, names: list[str], path: Path, most_bytes: float, spare: float) -> None:
    """Write the pixels and the index, after those that nobody has mapped are cleared away."""
    for old in path.parent.glob("*.u8"):
        with open(old, "rb") as file:
            if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                old.with_suffix(".json").unlink(missing_ok=True)
                old.unlink()
    sweep(path.parent, patience=0)
    free = shutil.disk_usage(path.parent).free
    limit = min(most_bytes, _SHARE_OF_DISK * free, free - spare)
    places: dict[str, _Place] = {}
    start, whole = 0, True
    with written_aside(path) as side, open(side, "wb") as file:
        for name, rgb in _decode_in_order(folder, names):
            if rgb is None:
                continue
            if start + rgb.nbytes > limit:
                whole = False
                break
            file.write(np.ascontiguousarray(rgb).data)
            places[name] = (start, rgb.shape[0], rgb.shape[1])
            start += rgb.nbytes
    write_json(path.with_suffix(".json"), {"whole": whole, "most_bytes": most_bytes, "frames": places})


def _decode_in_order(folder: Path, names: list[str]) -> Iterator[tuple[str, np.ndarray | None]]:
    def decode(name: str) -> np.ndarray | None:
        try:
            return jpeg_decode((folder / "frames" / name).read_bytes())
        except (OSError, VideoError):
            return None  # training says what is wrong with it when it comes to it

    with ThreadPoolExecutor(cores()) as pool:
        waiting = iter(names)
        while batch := list(islice(waiting, 4 * cores())):  # so many are held at once
            yield from zip(batch, pool.map(decode, batch), strict=True)
