"""Limits of an ensemble's operating file: on what kind of picture its scores are not to be trusted.

    limits = read_limits([{"reason": "cropped", "measure": "room", "least": 2.7}], where)
    exceeded_limits(limits, measures)           ["cropped: room 1.4, expected at least 2.7"]

A limit lowers a decision to ``abstain`` and gives the reason; it never touches the score. Measures are those of
frames/quality.py (MEASURES), the median over the frames of a video that were scored. Reads and writes nothing.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from liveness.base.config import nearest
from liveness.base.errors import UserError
from liveness.frames.quality import MEASURES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_KEYS = ("reason", "measure", "least", "most")


@dataclass(frozen=True)
class InputLimit:
    """A measure of the picture that has to lie within [least, most]; ``reason``: one word for where it does not."""

    reason: str
    measure: str
    least: float = -math.inf
    most: float = math.inf

    def tell(self, measures: dict[str, float]) -> str:
        """What is amiss, in a few words; "" where nothing is."""
        value = measures[self.measure]
        if self.least <= value <= self.most:
            return ""
        bound = f"at least {self.least:g}" if value < self.least else f"at most {self.most:g}"
        return f"{self.reason}: {self.measure} {value:.3g}, expected {bound}"


def exceeded_limits(limits: tuple[InputLimit, ...], measures: dict[str, float] | None) -> list[str]:
    """What is amiss with a video's picture, a few words for each limit; none where nothing could be measured."""
    return [] if measures is None else [text for limit in limits if (text := limit.tell(measures))]


def find_inside(table: "pd.DataFrame", limits: tuple[InputLimit, ...]) -> "np.ndarray":
    """Whether each video (a row with the columns MEASURES) exceeds no limit; one whose picture could not be measured
    exceeds them all."""
    import numpy as np

    rows = table[list(MEASURES)].to_dict("records")
    return np.array([not exceeded_limits(limits, {str(name): v for name, v in row.items()}) for row in rows], bool)


def read_limits(entries: Any, where: str) -> tuple[InputLimit, ...]:
    """The limits as an operating file lists them; a UserError, one line with ``where``, for anything else."""
    if not isinstance(entries, list):
        raise UserError(f"{where}: its limits are no list")
    return tuple(_read_limit(entry, f"{where}: limits[{place}]") for place, entry in enumerate(entries))


def _read_limit(entry: Any, where: str) -> InputLimit:
    if not isinstance(entry, dict) or not set(entry) <= set(_KEYS):
        raise UserError(f"{where}: {entry}; expected the keys {', '.join(_KEYS)}")
    reason, measure = str(entry.get("reason", "")), str(entry.get("measure", ""))
    if not re.fullmatch(r"[a-z][a-z_]*", reason):
        raise UserError(f"{where}: reason {reason!r}; expected a word of small letters, for example too_small")
    if measure not in MEASURES:
        known = list(MEASURES)
        raise UserError(f"{where}: measure {measure!r}; expected one of {', '.join(known)}{nearest(measure, known)}")
    try:
        least, most = float(entry.get("least", -math.inf)), float(entry.get("most", math.inf))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {entry}; expected numbers as least and most") from error
    if not least <= most or (math.isinf(least) and math.isinf(most)):
        raise UserError(f"{where}: least {least:g}, most {most:g}; expected least or most, or least <= most")
    return InputLimit(reason, measure, least, most)
