"""What the records of a set's videos say, as columns: a million of them fit into memory, as Python objects they do not.

``gather_records`` takes the records (sets/extract.py) one by one; the tables, the search for near-duplicates and the
sanity check work on what it returns.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from liveness.frames.notes import IMAGE, with_notes
from liveness.sets.duplicates import pack_hashes
from liveness.sets.extract import notes_of_record

_AT_ONCE = 4096  # records that are held as they are
_FACE = ("confidence", "x", "y", "w", "h")
# The kinds are those of the records' values, so that csv has them as the records do.
_VIDEO = {
    **{"filename": "str", "status": "str", "reason": "str", "frames": "Int64", "fps": "float64", "width": "Int64"},
    **{"height": "Int64", "duration": "float64", "codec": "str", "rotation": "Int64", "sha256": "str"},
}
_FRAME = {
    **{"video": "int64", "stored": "str", "size": "int64", "checksum": "int64", "frame_id": "int64", "time": "float64"},
    **{"n_faces": "int64", "face": "bool", **dict.fromkeys(_FACE, "float64")},
}


@dataclass
class Records:
    """``videos``: a row per record: filename, status, reason (with its notes), frames, fps, width, height, duration,
    codec, rotation, sha256 ("" of a file that could not be read). ``frames``: a row per stored frame, in the videos'
    order: video (its row), stored (the path in data/<set>), size and checksum of that file, frame_id, time, n_faces,
    face (whether there is one) and its confidence, x, y, w, h. What is not known is missing.

    ``codes``: hashes x variants x bytes (duplicates.pack_hashes), ``coded``: the video of each.
    """

    videos: pd.DataFrame
    frames: pd.DataFrame
    codes: np.ndarray
    coded: np.ndarray

    def __len__(self) -> int:
        return len(self.videos)


def gather_records(records: Iterable[tuple[str, dict[str, Any]]]) -> Records:
    """The columns of records (file name, record), in their order."""
    videos, frames, codes, coded = list[pd.DataFrame](), list[pd.DataFrame](), list[np.ndarray](), list[np.ndarray]()
    rows: list[tuple] = []
    shots: list[tuple] = []
    hashed: list[tuple[int, list[str]]] = []

    def put_away() -> None:
        videos.append(_frame_of(rows, _VIDEO))
        frames.append(_frame_of(shots, _FRAME))
        codes.append(pack_hashes([texts for _, texts in hashed]))
        coded.append(np.array([video for video, _ in hashed], dtype=np.int64))
        for part in (rows, shots, hashed):
            part.clear()

    for count, (filename, record) in enumerate(records):
        rows.append(_describe(filename, record))
        named = record.get("files", {}).get("frames", {}).items() if record["frames"] else ()
        for row, (stored, (size, checksum)) in zip(record["frames"], named, strict=True):
            face = row["face"] or {}
            head = (count, stored, size, checksum, row["frame_id"], row["time"], row["n_faces"], bool(face))
            shots.append((*head, *(face.get(key) for key in _FACE)))
            if row["hashes"]:
                hashed.append((count, row["hashes"]))
        if len(rows) >= _AT_ONCE:
            put_away()
    put_away()
    tables = [pd.concat(parts, ignore_index=True) for parts in (videos, frames)]
    return Records(tables[0], tables[1], np.concatenate(codes), np.concatenate(coded))


def _describe(filename: str, record: dict[str, Any]) -> tuple:
    """A record's row of ``Records.videos``."""
    info, read = record.get("info") or {}, record.get("bytes") and record.get("sha256")
    timed = bool(info) and IMAGE not in record.get("notes", ())
    reason = with_notes(record.get("reason", ""), notes_of_record(record))
    rate, duration = (round(info[key], 3) if timed else None for key in ("fps", "duration"))
    size, rest = (
        (info.get("width"), info.get("height")),
        (duration, info.get("codec", ""), info.get("rotation"), read or ""),
    )
    return filename, record.get("status", ""), reason, info.get("frames"), rate, *size, *rest


def _frame_of(rows: list[tuple], kinds: dict[str, str]) -> pd.DataFrame:
    columns = zip(*rows, strict=True) if rows else ((),) * len(kinds)
    named = zip(kinds.items(), columns, strict=True)
    return pd.DataFrame({name: pd.Series(list(values), dtype=kind) for (name, kind), values in named})
