"""What a bulk run leaves in OUT: a Parquet file per slice of the manifest, and bulk.json, which says what made them.

    shards = Shards(Store(out)); shards.begin(about)
    if not shards.holds(piece): shards.write(piece, table)

A file's name has the slice's number and digest, its metadata (``liveness``, one JSON value) the whole digest; one that
was written by another run, of other rows or by another ensemble is never taken for finished.
"""

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from liveness.base.errors import UserError, first_line
from liveness.base.files import without_nan
from liveness.bulk_scoring.manifest import Slice, show_text
from liveness.bulk_scoring.places import Store, name_of
from liveness.prediction.rows import ROW_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

ABOUT = "bulk.json"
_PART = re.compile(r"part-(\d{6,})-[0-9a-f]{16}\.parquet")
NOT_FETCHED = "cannot be fetched: "  # how the reason begins where a URI gave nothing
_COUNTS = ("frames", "faces", "faces_in_frame")
_NUMBERS = ("score", "milliseconds")


class Shards:
    """The files of one OUT."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.there: set[str] = set()

    def begin(self, about: dict[str, Any]) -> None:
        """Take up what is there; a UserError where it was made with something else. ``about``: what makes it now."""
        try:
            names = self.store.names()
            self.there = {name for name in names if _PART.fullmatch(name)}
            before = json.loads(self.store.read(ABOUT)) if ABOUT in names else None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.store.place}: cannot be read ({first_line(error)}); expected a folder for the results"
            ) from error
        if before is not None:
            for key, what in (("rows_per_shard", "--rows"), ("ensemble", "the ensemble"), ("scoring", "other weights, "
                              "thresholds or calibration"), ("libraries", "other versions of libraries")):  # fmt: skip
                if before.get(key) != (now := about[key]):
                    told = f" {_tell(before.get(key))}, now {_tell(now)}" if key != "scoring" else ""
                    raise UserError(
                        f"{self.store.place}: begun with {what}{told}; expected the same (or take another folder)"
                    )
            return
        self.store.write(ABOUT, (json.dumps(about, indent=2) + "\n").encode())

    def holds(self, piece: Slice, again: bool = False) -> bool:
        """Whether the rows of a slice are there, whole. ``again``: not where some of them might succeed now."""
        if piece.name not in self.there:
            return False
        try:
            metadata = json.loads(self._open(piece.name).schema_arrow.metadata[b"liveness"])
            whole = metadata["digest"] == piece.digest and metadata["rows"] == len(piece.keys)
            return whole and not (again and metadata["again"])
        except (OSError, ValueError, KeyError, TypeError):  # pyarrow's ArrowInvalid is a ValueError
            return False

    def require_no_others(self, expected: set[str]) -> None:
        """A UserError where there is a part of other rows than the manifest's."""
        others = sorted(self.there - expected)
        if others:
            raise UserError(
                f"{self.store.show(others[0])}: {len(others)} of the parts there are of other rows than the manifest "
                "has now; expected the manifest of the first start (take another folder, or remove those parts)"
            )

    def write(self, piece: Slice, rows: "pa.Table") -> None:
        """Put a slice's file there. ``rows``: position and the columns of ``to_table`` for each row, in any order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        _, first = np.unique(rows["position"].to_numpy(), return_index=True)
        if len(first) != len(piece.keys):
            raise RuntimeError(f"{piece.name}: {len(first)} rows of {len(piece.keys)}")
        rows = rows.take(pa.array(first))
        names = [show_text(name_of(place)) for place in piece.places]
        columns = {"key": pa.array(piece.keys, pa.string()), "fname": pa.array(names, pa.string())}
        table = pa.table(columns | {name: rows[name] for name in ROW_COLUMNS[1:]})
        doubtful = sum(
            status == "crashed" or reason.startswith(NOT_FETCHED)
            for status, reason in zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True)
        )
        about = {"format": 1, "digest": piece.digest, "rows": len(piece.keys), "again": doubtful}
        table = table.replace_schema_metadata({"liveness": json.dumps(about)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.store.write(piece.name, sink.getvalue().to_pybytes())
        self.there.add(piece.name)

    def read(self, name: str, columns: list[str]) -> "pa.Table":
        """Some columns of a part."""
        return self._open(name).read(columns)

    def _open(self, name: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.ParquetFile(pa.BufferReader(self.store.read(name)))


def to_table(places: list[tuple[int, int]], values: list[dict[str, Any]]) -> "pa.Table":
    """Rows as the scoring hands them on: the slice's number, the position in it, and the columns of a Row."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {
        "shard": pa.array([shard for shard, _ in places], pa.int64()),
        "position": pa.array([position for _, position in places], pa.int64()),
    }
    for name in ROW_COLUMNS[1:]:
        kind = pa.int32() if name in _COUNTS else pa.float64() if name in _NUMBERS else pa.string()
        found = [value[name] for value in values]
        columns[name] = pa.array([show_text(one) for one in found] if kind == pa.string() else found, kind)
    return pa.table(columns)


def write_json_to(store: Store, name: str, value: dict[str, Any]) -> None:
    """A JSON file in a store, as base/files.py writes it."""
    store.write(name, (json.dumps(without_nan(value), indent=2, ensure_ascii=False) + "\n").encode())


def _tell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
