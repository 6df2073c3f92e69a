"""How a number is spread over the videos of each label: counted into bars, and drawn.

Every value is put into its bar once and the drawing shows only those counts, so that a label's bars hold
all of its values, whatever they are.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from liveness.pages.charts import LEFT, RIGHT, TOP, Plot, list_round_values

MANY = 4  # so many and more of what is counted (faces) share a bar
FEW_VALUES = 12  # up to so many different whole numbers get a bar each
MOST_BINS = 30
HEIGHT, BOTTOM = 196, 156  # SVG units, of charts.Plot
NEAR_NAMES = 34  # SVG units between the names of two bars, at least
EXACT = 1e15  # above it floats are whole numbers, and rounding them may overflow


@dataclass(frozen=True)
class Measure:
    """One number per video or per frame, by the name of the label; nan where it is not known."""

    title: str
    unit: str
    of: str  # videos | frames
    values: dict[str, np.ndarray]
    digits: int = 2
    discrete: bool = False  # a count from 0 on

    @property
    def axis(self) -> str:
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def known(self) -> dict[str, np.ndarray]:
        return {name: values[np.isfinite(values)] for name, values in self.values.items()}


@dataclass(frozen=True)
class Bars:
    """Counted values. ``names``: of the bars, for a reader; ``counts``: label -> how many of its values each bar
    holds; ``edges``: one more than there are bars, or None where each bar is a number of its own; ``beyond``: the
    outermost bars hold what lies outside the edges."""

    names: list[str]
    counts: dict[str, np.ndarray]
    edges: np.ndarray | None = None
    beyond: bool = False


def round_as_shown(values: np.ndarray, digits: int) -> np.ndarray:
    """The values as they are printed: with so many digits after the point."""
    small = np.abs(values) < EXACT
    return np.where(small, np.round(np.where(small, values, 0), digits) + 0.0, values)  # + 0.0: no -0


def count_bars(measure: Measure) -> Bars:
    """The known values of every label in bars; each is in exactly one.

    A few whole numbers, as printed, have a bar each; else the bars are intervals of equal width, closed on the left.
    """
    known = measure.known
    everything = round_as_shown(np.concatenate([*known.values(), np.array([])]), measure.digits)
    distinct = np.unique(everything)
    if measure.discrete or (len(distinct) <= FEW_VALUES and (distinct == distinct.round()).all()):
        return _count_numbers(measure, known, distinct)
    return _count_intervals(measure, known)


def _count_numbers(measure: Measure, known: dict, distinct: np.ndarray) -> Bars:
    digits, most = (0, MANY) if measure.discrete else (measure.digits, math.inf)
    if measure.discrete:
        distinct = np.minimum(round_as_shown(distinct, 0), most)
        distinct = np.concatenate([np.arange(max(0, distinct.max(initial=0)) + 1), distinct])
    numbers = np.unique(distinct)
    counts = {}
    for name, values in known.items():
        places = np.searchsorted(numbers, np.minimum(round_as_shown(values, digits), most))
        counts[name] = np.bincount(places, minlength=len(numbers))
    return Bars([f"{number:.0f} or more" if number == most else f"{number:.0f}" for number in numbers], counts)


def _count_intervals(measure: Measure, known: dict) -> Bars:
    edges, beyond = _edges(np.concatenate(list(known.values())))
    bins = len(edges) - 1
    counts = {
        name: np.bincount(np.clip(np.searchsorted(edges, values, "right") - 1, 0, bins - 1), minlength=bins)
        for name, values in known.items()
    }
    digits = measure.digits + 1  # the edges are no round numbers
    names = [f"{_number(a, digits)} to {_number(b, digits)}" for a, b in zip(edges, edges[1:], strict=False)]
    return Bars(names, counts, edges, beyond)


def _edges(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Edges of the bins, and whether values lie beyond them: a few far ones must not flatten all others."""
    low, high = values.min(), values.max()
    near, far = np.percentile(values, [0.5, 99.5], method="nearest")
    beyond = bool(high / 4 - low / 4 > far / 2 - near / 2 > 0)  # twice as far; the differences themselves may overflow
    bins = int(np.clip(np.sqrt(len(values)), 5, MOST_BINS))
    low, high = (near, far) if beyond else (low, high)
    part = np.arange(bins + 1) / bins
    # Where the values are as close as floats can be, edges coincide.
    edges = np.unique(np.clip(low * (1 - part) + high * part, low, high))
    return (edges if len(edges) > 1 else np.array([low, np.nextafter(low, np.inf)])), beyond


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < EXACT else f"{value:g}"


def draw_bars(measure: Measure, bars: Bars, spoken: str) -> Markup:
    """The bars as an inline SVG, each label's in percent of its own known values.

    spoken: the text for those who do not see it. Every bar tells its counts when it is pointed at.
    """
    totals = {name: int(counts.sum()) for name, counts in bars.counts.items()}
    shares = {name: 100 * counts / totals[name] for name, counts in bars.counts.items() if totals[name]}
    most = 1.05 * max(share.max() for share in shares.values())
    places = np.arange(len(bars.names) + 1.0) if bars.edges is None else bars.edges
    low, span = places[0], places[-1] / 2 - places[0] / 2
    plot = Plot(lambda x: (x / 2 - low / 2) / span, lambda share: share / most, HEIGHT, BOTTOM)
    if bars.edges is None:
        apart = max(1, math.ceil(NEAR_NAMES * len(bars.names) / (RIGHT - LEFT)))
        xticks = [(i + 0.5, name) for i, name in enumerate(bars.names) if i % apart == 0]
    else:
        xticks = place_ticks(float(places[0]), float(places[-1]))
    plot.axes(xticks, [(y, f"{y:g}") for y in list_round_values(most)], measure.axis, f"% of the {measure.of}")
    for i, (name, share) in enumerate(shares.items()):
        if bars.edges is None:
            width = 0.8 / len(shares)
            for place in np.flatnonzero(share):
                left = place + 0.1 + i * width
                right, up = left + width, share[place]
                plot.line([(left, 0), (left, up), (right, up), (right, 0)], f"area {name}")
        else:
            steps = [(edge, up) for up, pair in zip(share, _pairs(places), strict=True) for edge in pair]
            plot.line([(places[0], 0), *steps, (places[-1], 0)], f"area {name}")
    for i, name in enumerate(bars.names):
        told = ", ".join(f"{label} {bars.counts[label][i]} of {total}" for label, total in totals.items())
        start, end = plot.at(places[i], 0)[0], plot.at(places[i + 1], 0)[0]
        unit = f" {measure.unit}" if measure.unit else ""
        box = f'x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" height="{BOTTOM - TOP}"'
        plot.raw(f'<rect class="hit" {box}><title>{escape(f"{name}{unit}: {told}")}</title></rect>')
    return plot.svg(spoken)


def _pairs(edges: np.ndarray) -> Iterable[tuple[float, float]]:
    return zip(edges, edges[1:], strict=False)


def place_ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Up to ``most`` round values from ``low`` to ``high``, with their text; the ends where there are none between."""
    span = high - low
    if math.isfinite(span) and span > 1e-9 * max(abs(low), abs(high)):
        power = 10.0 ** (math.floor(math.log10(span)) - 1)
        for step in (power * factor for factor in (1, 2, 5, 10, 20, 50)):
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first < most:
                digits = max(0, -math.floor(math.log10(step) + 1e-9))
                values = [i * step for i in range(first, last + 1)]
                return [(value, f"{value:.{digits}f}" if span < EXACT else f"{value:g}") for value in values]
    return [(low, f"{low:.17g}"), (high, f"{high:.17g}")]
