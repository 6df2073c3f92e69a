"""The report's plots as inline SVG, drawn from its figures; colours and lines come from the page's style.

A plot whose marks the slider moves tells the page's script where it lies: data-box (left, top, right,
bottom in SVG units) and, on probability axes, data-range (the rates at both ends).
"""

import math
from collections.abc import Callable

from markupsafe import Markup, escape
from scipy.stats import norm

WIDTH, HEIGHT = 360, 290
LEFT, TOP, RIGHT, BOTTOM = 46, 10, 350, 250
_NEAR_TICKS = 0.065  # share of the axis between two labels, at least
_NEAR_COUNTS = 14  # SVG units between two counts of the histogram, at least
_RATE_TICKS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


class Plot:
    """An SVG with one pair of axes. ``x`` and ``y`` map a value to [0, 1]; y grows upwards."""

    def __init__(self, x: Callable, y: Callable, height: int = HEIGHT, bottom: int = BOTTOM):
        self._x, self._y, self.height, self.bottom = x, y, height, bottom
        self._parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point in SVG units."""
        across, up = (min(1.0, max(0.0, share)) for share in (self._x(x), self._y(y)))
        return LEFT + across * (RIGHT - LEFT), self.bottom - up * (self.bottom - TOP)

    def raw(self, text: str) -> None:
        self._parts.append(text)

    def axes(self, xticks: list, yticks: list, xlabel: str, ylabel: str) -> None:
        """Grid, tick labels as (value, text), titles."""
        for value, text in xticks:
            x = self.at(value, 0)[0]
            self.raw(f'<path class="grid" d="M{x:.1f} {TOP}V{self.bottom}"/>')
            self.raw(
                f'<text class="tick" x="{x:.1f}" y="{self.bottom + 14}" text-anchor="middle">{escape(text)}</text>'
            )
        for value, text in yticks:
            y = self.at(0, value)[1]
            self.raw(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
            self.raw(f'<text class="tick" x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>')
        self.raw(f'<path class="axis" d="M{LEFT} {TOP}V{self.bottom}H{RIGHT}"/>')
        middle = (LEFT + RIGHT) / 2
        self.raw(
            f'<text class="label" x="{middle}" y="{self.bottom + 31}" text-anchor="middle">{escape(xlabel)}</text>'
        )
        turned = f'transform="translate(11 {(TOP + self.bottom) / 2}) rotate(-90)"'
        self.raw(f'<text class="label" {turned} text-anchor="middle">{escape(ylabel)}</text>')

    def line(self, points: list[tuple[float, float]], css: str) -> None:
        """A polyline; points that fall on the one before are left out."""
        placed = [f"{x:.1f} {y:.1f}" for x, y in (self.at(*point) for point in points)]
        kept = [text for i, text in enumerate(placed) if i == 0 or text != placed[i - 1]]
        self.raw(f'<path class="{css}" d="M{"L".join(kept)}"/>')

    def dot(self, x: float, y: float, css: str, title: str, radius: float = 3.5) -> None:
        px, py = self.at(x, y)
        tip = f"<title>{escape(title)}</title>"
        self.raw(f'<circle class="{css}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}">{tip}</circle>')

    def text(self, x: float, y: float, words: str, css: str = "tick", anchor: str = "start") -> None:
        """Words at a place in SVG units."""
        self.raw(f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    def svg(self, spoken: str, more: str = "") -> Markup:
        box = f'data-box="{LEFT} {TOP} {RIGHT} {self.bottom}"'
        head = f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(spoken)}" {box} {more}>'
        return Markup(head + "".join(self._parts) + "</svg>")


def _tick_text(rate: float) -> str:
    """A tick: ``0.5``, ``20`` (percent)."""
    return f"{100 * rate:.3g}"


def _deviate_range(part: dict) -> tuple[float, float]:
    """The rates at the ends of the DET axes: below one error of the larger class, up to 60 % or more."""
    least = 0.5 / max(part["live"], part["attack"])
    low = max((tick for tick in _RATE_TICKS[:8] if tick <= least), default=_RATE_TICKS[0])
    return low, 0.6 if part["eer"] < 0.35 else 0.95


def draw_det(part: dict, points: list[dict]) -> Markup:
    """Detection error trade-off: APCER against BPCER on normal deviates; 0 and 1 lie on the edge."""
    low, high = _deviate_range(part)
    ends = norm.ppf(low), norm.ppf(high)

    def place(rate: float) -> float:
        return (norm.ppf(min(max(rate, low), high)) - ends[0]) / (ends[1] - ends[0])

    plot = Plot(place, place)
    ticks: list[tuple[float, str]] = []
    for tick in _RATE_TICKS:
        if low <= tick <= high and (not ticks or place(tick) - place(ticks[-1][0]) > _NEAR_TICKS):
            ticks.append((tick, _tick_text(tick)))
    plot.axes(ticks, ticks, "APCER, % (attacks taken for live)", "BPCER, % (live turned away)")
    plot.line([(low, low), (high, high)], "guide")
    curve = part["curve"]
    plot.line(trace_stairs(curve["apcer"], curve["bpcer"]), "curve")
    _mark_points(plot, part, points)
    plot.raw(_CROSS)
    rates = f"equal error rate {100 * part['eer']:.1f} percent"
    return plot.svg(f"DET curve, {part['name']}: {rates}", f'data-plot="det" data-range="{low} {high}"')


def draw_roc(part: dict, points: list[dict]) -> Markup:
    """ROC: share of live videos accepted over share of attacks accepted."""
    plot = Plot(float, lambda rate: 1 - rate)
    ticks = [(tick / 5, f"{20 * tick}") for tick in range(6)]
    plot.axes(
        ticks, [(1 - value, text) for value, text in ticks], "APCER, % (attacks taken for live)", "live accepted, %"
    )
    plot.line([(0, 1), (1, 0)], "guide")
    plot.line(trace_stairs(part["curve"]["apcer"], part["curve"]["bpcer"]), "curve")
    _mark_points(plot, part, points)
    plot.raw(_CROSS)
    return plot.svg(f"ROC curve, {part['name']}: area {part['auc']:.3f}", 'data-plot="roc"')


# Where the slider is: the intervals of both rates as a cross. Hidden until the script moves it.
_CROSS = (
    '<g class="mark" data-mark="cross" visibility="hidden"><path data-across="" d="M0 0H0"/><path data-down="" '
    'd="M0 0V0"/><circle r="5"/></g>'
)


def trace_stairs(apcer: list[float], bpcer: list[float]) -> list[tuple[float, float]]:
    """The steps of an empirical curve: what no threshold reaches is not drawn as a slope."""
    found = [(apcer[0], bpcer[0])]
    for x, y in zip(apcer[1:], bpcer[1:], strict=True):
        found += [(x, found[-1][1]), (x, y)]
    return found


def _mark_points(plot: Plot, part: dict, points: list[dict]) -> None:
    """A ring for each shipped operating point."""
    for point in points:
        rates = _rates_at(part, point["threshold"])
        title = f"{point['title']}: APCER {100 * rates[0]:.1f} %, BPCER {100 * rates[1]:.1f} %"
        plot.dot(*rates, "ring", title)


def _rates_at(part: dict, threshold: float) -> tuple[float, float]:
    """(APCER of all attacks together, BPCER) of a split at a threshold."""
    attacks = [score for scores in part["scores"]["attack"].values() for score in scores]
    passed = sum(score >= threshold for score in attacks)
    missed = sum(score < threshold for score in part["scores"]["live"])
    return passed / len(attacks), missed / len(part["scores"]["live"])


def draw_histogram(part: dict) -> Markup:
    """Scores of live videos upwards, of attacks downwards; root scale, so that single errors show."""
    edges, live, attack = (part["histogram"][key] for key in ("edges", "live", "attack"))
    most = max(*live, *attack, 1)
    plot = Plot(float, lambda count: 0.5 + math.copysign(math.sqrt(abs(count) / most), count) / 2)
    tops: list[int] = []
    for count in (step * 10**power for power in range(6) for step in (1, 2, 5)):
        if count <= most and plot.at(0, tops[-1] if tops else 0)[1] - plot.at(0, count)[1] >= _NEAR_COUNTS:
            tops.append(count)
    ticks = [(0, "0")] + [(sign * count, str(count)) for count in tops for sign in (1, -1)]
    xticks = [(tick / 5, f"{tick / 5:.1f}") for tick in range(6)]
    plot.axes(xticks, ticks, "score (0 = attack, 1 = live)", "number of videos (root scale)")
    for counts, sign, css in ((live, 1, "live"), (attack, -1, "attack")):
        corners = [(0, 0)]
        for i, count in enumerate(counts):
            corners += [(edges[i], sign * count), (edges[i + 1], sign * count)]
        plot.line([*corners, (1, 0)], f"area {css}")
    plot.raw(f'<path class="axis" d="M{LEFT} {plot.at(0, 0)[1]:.1f}H{RIGHT}"/>')
    plot.text(LEFT + 8, TOP + 16, f"↑ live ({part['live']})", "live")
    plot.text(RIGHT - 8, BOTTOM - 10, f"attacks ({part['attack']}) ↓", "attack", "end")
    line = f'<path class="mark" data-mark="threshold" visibility="hidden" d="M{LEFT} {TOP}V{BOTTOM}"/>'
    plot.raw(line)
    spoken = f"Scores, {part['name']}: {part['live']} live videos, {part['attack']} attacks"
    return plot.svg(spoken, 'data-plot="histogram"')


def draw_reliability(part: dict) -> Markup:
    """Share of live over mean score, with intervals; below it how many videos each bin has."""
    plot = Plot(float, float, height=HEIGHT + 56)
    ticks = [(tick / 5, f"{tick / 5:.1f}") for tick in range(6)]
    plot.axes([(tick / 5, "") for tick in range(6)], ticks, "", "share of live videos")
    plot.line([(0, 0), (1, 1)], "guide")
    bins = [row for row in part["reliability"] if row["videos"]]
    for row in bins:
        x, (low, high) = row["mean_score"], row["interval"]
        plot.line([(x, low), (x, high)], "whisker")
        title = f"{row['videos']} videos of score {row['low']:.2f} to {row['high']:.2f}: {row['live']} live"
        plot.dot(x, row["share"], "point", title)
    most, base, tall = max(row["videos"] for row in bins), BOTTOM + 56, 42
    for row in bins:
        left, right = (plot.at(row[side], 0)[0] for side in ("low", "high"))
        up = max(1.0, tall * math.sqrt(row["videos"] / most))
        size = f'width="{right - left - 1:.1f}" height="{up:.1f}"'
        plot.raw(f'<rect class="bar" x="{left + 0.5:.1f}" y="{base - up:.1f}" {size}/>')
        plot.text((left + right) / 2, base - up - 2, str(row["videos"]), "tiny", "middle")
    plot.raw(f'<path class="axis" d="M{LEFT} {base}H{RIGHT}"/>')
    for value, text in ticks:
        plot.text(plot.at(value, 0)[0], base + 14, text, "tick", "middle")
    plot.text((LEFT + RIGHT) / 2, base + 30, "score; below: number of videos (root scale)", "label", "middle")
    return plot.svg(f"Reliability, {part['name']}: share of live videos in {len(bins)} bins of the score")


def draw_pareto(search: dict) -> Markup | None:
    """Error against milliseconds: every subset, the Pareto front joined, members and cascades marked."""
    kinds = [("subset", search["subsets"]), ("member", search["members"]), ("cascade", search["cascades"])]
    rows = [(kind, row) for kind, listed in kinds for row in listed if row["milliseconds"] and row["eer"] is not None]
    if not rows:
        return None
    costs = [row["milliseconds"] for _, row in rows]
    low, high = min(costs) / 1.2, max(costs) * 1.2
    front = sorted((row for kind, row in rows if kind == "subset" and row["pareto"]), key=lambda r: r["milliseconds"])
    folds = dict.fromkeys(row["folds"] for row in front)  # subsets with one fold of a recipe have a front of their own
    most = max([row["eer"] for _, row in rows] + [(row["interval"] or [0, 0])[1] or 0 for row in front] + [0.01])
    plot = Plot(lambda ms: math.log(ms / low) / math.log(high / low) if ms > 0 else 0, lambda rate: rate / most / 1.05)
    xticks = [(v, f"{v:g}") for v in _list_log_values(low, high)]
    plot.axes(
        xticks, [(v, _tick_text(v)) for v in list_round_values(most)], "milliseconds a video (log scale)", "EER, %"
    )
    for row in front:
        if row["interval"] and None not in row["interval"]:
            plot.line([(row["milliseconds"], bound) for bound in row["interval"]], "whisker")
    for kind in folds:
        plot.line([(row["milliseconds"], row["eer"]) for row in front if row["folds"] == kind], "curve")
    for kind, row in rows:
        css = "point" if kind == "subset" and row["pareto"] else kind
        title = f"{row['title']}: {row['milliseconds']:.0f} ms, EER {100 * row['eer']:.1f} %"
        plot.dot(row["milliseconds"], row["eer"], css, title, 3 if css == "subset" else 4)
    return plot.svg(f"EER against milliseconds of {len(rows)} combinations; {len(front)} on the Pareto front")


def list_round_values(most: float) -> list[float]:
    """Four to eight round values from 0 up to ``most``."""
    step = next(s * 10**e for e in range(-5, 2) for s in (1, 2, 5) if most / (s * 10**e) <= 8)
    return [i * step for i in range(int(most / step + 1e-9) + 1)]


def _list_log_values(low: float, high: float) -> list[float]:
    """Round values between two, at most about eight."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [s * 10.0**e for e in range(-3, 8) for s in steps if low <= s * 10.0**e <= high]
        if 2 <= len(found) <= 8:
            return found
    return [float(f"{low * 1.2:.2g}"), float(f"{high / 1.2:.2g}")]


def draw_difference(value: float | None, limits: list | None, most: float) -> Markup:
    """A table cell's small picture of a difference: the interval as a line, the value as a dot, from -most to most."""
    if value is None or not limits or None in limits or most <= 0:
        return Markup("")
    low, high, at = (55 + 52 * min(1.0, max(-1.0, v / most)) for v in (*limits, value))
    line = f'<path class="whisker" d="M{low:.1f} 7H{high:.1f}M{low:.1f} 3V11M{high:.1f} 3V11"/>'
    dot = f'<circle class="point" cx="{at:.1f}" cy="7" r="3"/>'
    return Markup(
        f'<svg class="mini" viewBox="0 0 110 14" aria-hidden="true"><path class="grid" d="M55 0V14"/>{line}{dot}</svg>'
    )


def draw_whisker(value: float | None, limits: list | None, most: float) -> Markup:
    """A table cell's small picture: the interval as a line, the value as a dot, from 0 to ``most``."""
    if value is None or not limits or None in limits or most <= 0:
        return Markup("")
    low, high, at = (3 + 104 * min(1.0, max(0.0, v / most)) for v in (*limits, value))
    line = f'<path class="whisker" d="M{low:.1f} 7H{high:.1f}M{low:.1f} 3V11M{high:.1f} 3V11"/>'
    dot = f'<circle class="point" cx="{at:.1f}" cy="7" r="3"/>'
    return Markup(
        f'<svg class="mini" viewBox="0 0 110 14" aria-hidden="true"><path class="grid" d="M3 0V14"/>{line}{dot}</svg>'
    )
