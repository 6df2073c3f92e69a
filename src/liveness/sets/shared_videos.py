"""Which videos of one prepared set are in another too, by digest or as near-duplicates.

Reads data/<set>/.records of both; writes nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from liveness.base.config import Folds
from liveness.base.files import natural_key
from liveness.sets.duplicates import find_pairs
from liveness.sets.extract import known_records, read_record


@dataclass(frozen=True)
class Twin:
    """A video and the one of another set that shows the same recording. ``same``: they are equal byte for byte."""

    filename: str
    other: str
    same: bool


def find_shared(folder: Path, other: Path, among: Collection[str] | None = None) -> list[Twin]:
    """The videos of ``folder`` (data/<set>) that ``other`` has too, each with one twin, equal files first.

    among: the file names of ``other`` that count; all by default."""
    ours, theirs = _read_records(folder), _read_records(other)
    if among is not None:
        theirs = {name: record for name, record in theirs.items() if name in among}
    by_digest = {record["sha256"]: name for name, record in theirs.items() if record.get("sha256")}
    found = {
        name: Twin(name, by_digest[record["sha256"]], True)
        for name, record in ours.items()
        if record.get("sha256") in by_digest
    }
    # The sets' names may be the same: the side stands first.
    hashes = {
        f"{side}{name}": _hashes(record) for side, part in (("a", ours), ("b", theirs)) for name, record in part.items()
    }
    for pair in find_pairs(hashes, Folds().duplicates):
        if pair.one[0] == "a" and pair.other[0] == "b":
            found.setdefault(pair.one[1:], Twin(pair.one[1:], pair.other[1:], False))
    return [found[name] for name in ours if name in found]


def _hashes(record: dict) -> list[list[str]]:
    return [row.get("hashes") or [] for row in record.get("frames") or []]


def _read_records(folder: Path) -> dict[str, dict]:
    """File name -> record; one that cannot be read is left out: preparation makes it anew."""
    records = (read_record(folder, Path(f"{stem}.json")) for stem in sorted(known_records(folder), key=natural_key))
    return {record["filename"]: record for record in records if record}
