"""What the pages share: values in bars, axes, colours that can be read, names and commands as text."""

import html
import math
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from liveness.pages.charts import BOTTOM, LEFT, RIGHT, TOP, draw_histogram, draw_reliability
from liveness.pages.distributions import BOTTOM as FOOT
from liveness.pages.distributions import Measure, count_bars, draw_bars, place_ticks
from liveness.pages.figures import describe_split
from liveness.pages.page import TEMPLATES, allow_breaks, format_command


def random_values(random: np.random.Generator) -> np.ndarray:
    """Values as a set may have them, and as none has them."""
    size = int(random.integers(1, 60))
    kinds = [
        lambda: random.normal(size=size),
        lambda: random.integers(0, 6, size) + 0.0,
        lambda: random.choice([480.0, 498.83, 554.0], size),  # sizes between whole numbers
        lambda: random.choice([0.5, 1.5, 2.5, -0.5], size),  # halves: rounded to even
        lambda: np.full(size, random.choice([0.0, 3.14159, -7, 1e300])),
        lambda: np.linspace(0, 1, size),  # on the edges of the bars
        lambda: 1e16 + np.arange(size) * 2.0,  # as close as floats can be
        lambda: np.nextafter(0.1, [0, 1], size=(2,)) if size == 2 else np.array([0.1, np.nextafter(0.1, 1), 0.2]),
        lambda: np.append(random.normal(size=size), [1e308, -1e308]),
        lambda: np.append(np.full(500, 2.0) + random.normal(0, 0.01, 500), [9e6]),  # one far from all others
    ]
    values = kinds[random.integers(len(kinds))]()
    unknown = random.choice([np.nan, np.inf, -np.inf], int(random.integers(0, 4)))
    return random.permutation(np.concatenate([values, unknown]))


def test_every_known_value_is_in_exactly_one_bar():
    for seed in range(300):
        print(f"seed {seed}")
        check_bars(np.random.default_rng(seed))


def check_bars(random: np.random.Generator) -> None:
    values = {"live": random_values(random), "attack": random_values(random)}
    digits, discrete = int(random.integers(0, 3)), bool(random.random() < 0.2)
    measure = Measure("Duration", "s", "videos", values, digits, discrete)
    if not any(np.isfinite(part).any() for part in values.values()):
        return
    with np.errstate(all="raise", under="ignore"):
        bars = count_bars(measure)
        svg = str(draw_bars(measure, bars, "spoken"))
    assert "nan" not in svg and "inf" not in svg
    for name, part in values.items():
        known = [float(value) for value in part if math.isfinite(value)]
        assert bars.counts[name].sum() == len(known)
        if bars.edges is None:
            cut = 4 if discrete else math.inf
            printed = Counter(f"{min(round(v, 0 if discrete else digits), cut):.0f}".replace("-0", "0") for v in known)
            found = {title.split()[0]: n for title, n in zip(bars.names, bars.counts[name], strict=True) if n}
            assert found == printed
        else:
            last = len(bars.edges) - 2
            for i, (low, high) in enumerate(zip(bars.edges, bars.edges[1:], strict=False)):
                inside = [v for v in known if (low <= v or i == 0) and (v < high or i == last)]
                assert bars.counts[name][i] == len(inside)
                assert low < high  # a bar has a width to be seen by
            if not bars.beyond:
                assert bars.edges[0] <= min(known, default=math.inf) and bars.edges[-1] >= max(known, default=-math.inf)


@pytest.mark.parametrize("discrete", [True, False])
def test_the_bars_that_are_drawn_add_up_to_all_videos(discrete):
    """Read back from the picture: heights as shares of the highest, by the number that a bar stands for."""
    sizes = {"live": [480.0] * 12 + [498.83] * 10 + [554.26] * 8, "attack": [480.0] * 11 + [498.4] * 9 + [554.5] * 10}
    if discrete:
        sizes = {"live": [0.0, 1, 1, 7, 9], "attack": [1.0, 1, 2, 3]}
    measure = Measure("Size", "pixels", "videos", {k: np.array(v) for k, v in sizes.items()}, 0, discrete)
    bars = count_bars(measure)
    svg = str(draw_bars(measure, bars, "spoken"))
    heights = {}
    for name in sizes:
        corners = re.findall(rf'class="area {name}" d="M\S+ (\S+?)L\S+ (\S+?)L', svg)
        assert all(float(foot) == FOOT for foot, _ in corners)
        heights[name] = [FOOT - float(top) for _, top in corners]
    top = max(max(part) for part in heights.values())
    most = max(
        max(Counter(f"{min(v, 4 if discrete else v):.0f}" for v in part).values()) / len(part)
        for part in sizes.values()
    )
    for part in heights.values():
        assert sum(part) / top * most == pytest.approx(1, abs=0.01)
    axis = html.unescape(svg)
    assert "Size, pixels" in axis and "% of the videos" in axis
    if discrete:
        assert "4 or more" in axis


def test_ticks_are_few_and_on_the_axis_and_their_texts_say_where_they_are():
    random = np.random.default_rng(1)
    for _ in range(300):
        low = float(random.normal() * 10 ** random.uniform(-6, 8))
        high = low + float(random.uniform(0.1, 1) * 10 ** random.uniform(-3, 8))
        found, span = place_ticks(low, high), high - low
        print(low, high, found)
        assert 2 <= len(found) <= 6
        assert len({text for _, text in found}) == len(found)
        for value, text in found:
            assert low - 1e-6 * span <= value <= high + 1e-6 * span
            assert float(text) == pytest.approx(value, rel=0, abs=1e-6 * span)


def test_every_score_is_in_one_bar_of_the_reports_histogram_and_of_its_calibration():
    """Scores on the bars' edges, at the ends, equal, and next to them."""
    for seed in range(40):
        print(f"seed {seed}")
        random = np.random.default_rng(seed)
        edges = np.concatenate([np.arange(41) / 40, np.arange(16) / 15])
        near = np.clip(np.nextafter(edges, random.choice([-1.0, 2.0], len(edges))), 0, 1)
        scores = random.choice(np.concatenate([edges, near, random.random(9), [0.0, 1.0, 0.5, 5e-324]]), 50)
        labels = np.append(random.integers(0, 2, 48), [0, 1])
        made = describe_split("out of fold", pd.DataFrame({"label": labels, "score": scores, "species": ""}))
        for label, name in ((1, "live"), (0, "attack")):
            assert sum(made["histogram"][name]) == made[name] == (labels == label).sum()
            # Read back from the picture: the outline's steps are as high as the root of what they hold.
            path = re.search(rf'class="area {name}" d="M(.*?)"', str(draw_histogram(made))).group(1)
            corners = [tuple(map(float, corner.split())) for corner in path.split("L")]
            most, middle = max(*made["histogram"]["live"], *made["histogram"]["attack"]), (TOP + BOTTOM) / 2
            held = 0.0
            for (x, y), (right, level) in zip(corners, corners[1:], strict=False):
                if y == level:
                    held += most * ((y - middle) / (BOTTOM - middle)) ** 2 * (right - x) / (RIGHT - LEFT) * 40
            assert held == pytest.approx(made[name], rel=0.03)
        bins = made["reliability"]
        assert sum(row["videos"] for row in bins) == 50 and sum(row["live"] for row in bins) == labels.sum()
        drawn = re.findall(r'class="tiny".*?>(\d+)<', str(draw_reliability(made)))
        assert sum(map(int, drawn)) == 50


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_told_from_their_ground(dark):
    """WCAG 2.2 AA: 4.5 for text, 3 for lines, marks and the focus ring; in the light and the dark look."""
    css = (TEMPLATES / "house.css").read_text(encoding="utf-8")
    looks = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", part)) for part in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    colours = looks[0] | looks[1] if dark else looks[0]
    assert len(looks) == 2 and looks[0].keys() == looks[1].keys()

    def contrast(front: str, back: str) -> float:
        a, b = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        return (a + 0.05) / (b + 0.05)

    texts = [(front, "paper") for front in ("ink", "soft", "link", "bad", "live", "attack", "mark")]
    texts += [
        ("ink", "ground"),
        ("soft", "ground"),
        ("ink", "note"),
        ("link", "note"),
        ("ink", "good"),
        ("paper", "live"),
    ]
    for front, back in texts:
        assert contrast(front, back) >= 4.5, (front, back)
    for front, back in (("focus", "paper"), ("focus", "ground")):
        assert contrast(front, back) >= 3, (front, back)


def test_names_and_commands_stay_text_and_what_is_copied_is_what_was_said():
    nasty = 'a_b-c.mp4<script>"&'
    for made in (allow_breaks(nasty), format_command(f"python -m x {nasty} --fold 0")):
        assert isinstance(made, Markup) and "<script" not in made
    bare = re.sub(r"<wbr>|</?bdi>|</?code>", "", str(format_command(f"python -m x {nasty}")))
    assert html.unescape(bare) == f"python -m x {nasty}"
    assert html.unescape(str(allow_breaks(nasty)).replace("<wbr>", "")) == nasty
    assert "a_<wbr>b-<wbr>c.<wbr>mp4" in allow_breaks(nasty)
