"""Notes: what is worth knowing of a video that is no trouble, in the column ``reason`` of its row.

They stand at the end of the reason, after "note: ", as ``kind`` or ``kind=value``, parted by "; ":

    note: hlg; several_faces=2
    breaks off: 30 of 40 frames are whole; 30 frames decode; note: pixel_aspect=2:1

The kinds (docs/files.md says what each means): image, hlg, pq, pixel_aspect, interlaced, track, several_faces, and
with members of contract version 1 hlg_ignored, pq_ignored, pixel_aspect_ignored.
"""

from collections import Counter
from collections.abc import Iterable

_MARK = "note: "
BETWEEN = "; "
IMAGE = "image"  # a still image: one frame, no duration and no rate


def with_notes(reason: str, notes: Iterable[str]) -> str:
    """A reason ("" for none) with notes at its end, each once, in their order."""
    text = BETWEEN.join(dict.fromkeys(notes))
    return BETWEEN.join(part for part in (reason, text and _MARK + text) if part)


def parse_notes(reason: str) -> dict[str, str]:
    """The notes at the end of a reason: kind -> value ("" for one without)."""
    before, mark, text = reason.rpartition(_MARK)
    if not mark or (before and not before.endswith(BETWEEN)):
        return {}
    return {kind: value for kind, _, value in (note.partition("=") for note in text.split(BETWEEN))}


def count_notes(reasons: Iterable[str]) -> str:
    """How many videos have each kind of note, as one line; "" where none has any."""
    counts = Counter(kind for reason in reasons for kind in parse_notes(reason))
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    return f"{told} (number of videos; the column reason says which, docs/files.md what it means)" if told else ""
