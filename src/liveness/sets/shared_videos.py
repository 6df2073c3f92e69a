"""Which videos of one prepared set are in another too, by digest or as near-duplicates.

Where a copy would leak into the figure of a held-out fold (``find_copies``), one frame that matches is enough, where
groups within a set take two: a copy at another frame rate has other moments at the places of the plan, of which one
alone may fit (docs/semi_supervised.md has the figures). There a false match costs a line and a video, a copy that is
missed the truth of a figure.

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


def find_shared(folder: Path, other: Path) -> list[Twin]:
    """The videos of ``folder`` (data/<set>) that ``other`` has too, each with one twin, equal files first."""
    return _match(_read_records(folder), _read_records(other), frames_alike=2)


def find_copies(folder: Path, other: Path, held_out: Collection[str]) -> list[Twin]:
    """As ``find_shared``, with the videos ``held_out`` of the other set (file names), by one frame that they share."""
    theirs = {name: record for name, record in _read_records(other).items() if name in held_out}
    return _match(_read_records(folder), theirs, frames_alike=1)


def _match(ours: dict[str, dict], theirs: dict[str, dict], frames_alike: int) -> list[Twin]:
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
    for pair in find_pairs(hashes, Folds().duplicates, frames_alike):
        if pair.one[0] == "a" and pair.other[0] == "b":
            found.setdefault(pair.one[1:], Twin(pair.one[1:], pair.other[1:], False))
    return [found[name] for name in ours if name in found]


def _hashes(record: dict) -> list[list[str]]:
    return [row.get("hashes") or [] for row in record.get("frames") or []]


def _read_records(folder: Path) -> dict[str, dict]:
    """File name -> record; one that cannot be read is left out: preparation makes it anew."""
    records = (read_record(folder, Path(f"{stem}.json")) for stem in sorted(known_records(folder), key=natural_key))
    return {record["filename"]: record for record in records if record}
