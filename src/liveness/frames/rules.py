"""What the versions of the preprocessing contract do differently on the way from a file to a face.

A member's scores are its contract's: whatever is added here is a new version, and the earlier ones stay as they are.
Videos of one 8-bit SDR track with square pixels and one face a frame look the same under all of them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """One version's rules."""

    best_track: bool  # of several video tracks the one that ffmpeg takes by itself; else the first
    displayed: bool  # HLG and PQ are tone-mapped and pixels made square; else the coded values count
    face_margin: float  # so many times the area of any other face makes the largest the one that is scored


RULES = {
    1: Rules(best_track=False, displayed=False, face_margin=1.0),
    2: Rules(best_track=True, displayed=True, face_margin=1.5),
}
NEWEST = max(RULES)
