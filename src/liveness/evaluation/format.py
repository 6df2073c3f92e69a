"""Figures as text, alike in the printed reports and on the pages: rates in percent, numbers, their intervals.

A figure that does not exist (None, as JSON has it, or nan) is a dash, and so is an interval without both its limits.
"""

import math
from collections.abc import Sequence
from typing import TypeGuard

NO_FIGURE = "–"
Limits = Sequence[float | None] | Sequence[float] | None


def percent(rate: float | None) -> str:
    """A rate of 0 to 1: ``8.3 %``."""
    return f"{100 * rate:.1f} %" if _exists(rate) else NO_FIGURE


def percent_range(limits: Limits) -> str:
    """The limits of a rate: ``3.1–17.2 %``."""
    return f"{100 * limits[0]:.1f}–{100 * limits[1]:.1f} %" if _exist(limits) else NO_FIGURE


def plain(value: float | None, digits: int = 3) -> str:
    """A number that is no rate: ``0.693``."""
    return f"{value:.{digits}f}" if _exists(value) else NO_FIGURE


def plain_range(limits: Limits, digits: int = 3) -> str:
    """The limits of a number that is no rate: ``0.512–0.874``."""
    return f"{limits[0]:.{digits}f}–{limits[1]:.{digits}f}" if _exist(limits) else NO_FIGURE


def percentage_points(difference: float | None) -> str:
    """A difference of rates in percentage points with its sign: ``+1.5``; ``0.0`` for what rounds to nothing."""
    if not _exists(difference):
        return NO_FIGURE
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def percentage_points_range(limits: Limits) -> str:
    """The limits of a difference of rates: ``-1.5 to +2.0``."""
    return " to ".join(percentage_points(limit) for limit in limits) if _exist(limits) else NO_FIGURE


def of_total(rate: dict) -> str:
    """The counts behind a rate (a dictionary with ``errors`` and ``total``): ``3 of 20``."""
    return f"{rate['errors']} of {rate['total']}"


def counted(number: int, word: str) -> str:
    """A number and its noun: ``1 video``, ``2 videos``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def _exists(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


def _exist(limits: Limits) -> TypeGuard[Sequence[float]]:
    return bool(limits) and all(_exists(limit) for limit in limits or ())


def align_columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows as aligned text: the first and last column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines
