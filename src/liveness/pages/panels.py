"""What the pages about errors share: the sliders with their tables and plots, and the script that moves them.

The script of a page is templates/report.js and templates/videos.js in one, so that its policy names one digest.
"""

import base64
import hashlib
import json

from jinja2 import Environment
from markupsafe import Markup

from liveness.evaluation.format import (
    of_total,
    percent,
    percent_range,
    percentage_points,
    percentage_points_range,
    plain,
    plain_range,
)
from liveness.evaluation.intervals import clopper_pearson
from liveness.pages import charts
from liveness.pages.page import TEMPLATES, make_environment
from liveness.pages.videos import tabulate_videos

_SCRIPTS = ("report.js", "videos.js")


def make_report_environment() -> Environment:
    """The templates with the filters that write figures."""
    env = make_environment()
    env.filters.update(
        pct=percent,
        pct_range=percent_range,
        plain=plain,
        plain_range=plain_range,
        points=percentage_points,
        points_range=percentage_points_range,
        of=of_total,
        cut=_write_threshold,
    )
    return env


def embed_script(found: dict, file: str) -> dict:
    """script, its digest for the page's policy, and payload, its data. found: with splits, operating_points and videos;
    file: the name of the csv that the table of all videos is saved as."""
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    table = {**tabulate_videos(found["videos"]), "file": file}
    return {"script": Markup(script), "script_digest": digest, "payload": _make_payload(found, table), "table": table}


def _write_threshold(value: float | None) -> str:
    """A score with three digits, with more near 0 and 1, where scores crowd."""
    return plain(value, 3 if value is None or 0.01 <= value <= 0.99 else 5)


def _make_payload(found: dict, table: dict) -> Markup:
    """What the script needs, as JSON that cannot end its element: every split's scores and intervals, and the table of
    all videos.

    upper[n][k] is Clopper and Pearson's upper limit for k errors of n; the lower one is
    1 - upper[n][n - k].
    """
    splits = []
    for part in found["splits"]:
        attack = list(part["scores"]["attack"].items())
        totals = {part["live"], part["attack"], *(len(scores) for _, scores in attack)}
        upper = {n: [round(clopper_pearson(k, n)[1], 8) for k in range(n + 1)] for n in totals}
        splits.append({"live": part["scores"]["live"], "attack": attack, "upper": upper})
    points = [
        {
            "name": p["name"],
            "title": p["title"],
            "threshold": p["threshold"],
            "between": p.get("threshold_interval"),
        }
        for p in found["operating_points"]
    ]
    content = {"splits": splits, "points": points, "table": table}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def lay_panel(part: dict, points: list[dict], start: float | None = None) -> dict:
    """A split's table and plots at the threshold ``start``; by default where its own errors are equal."""
    start = part["threshold"] if start is None else start
    attack = part["scores"]["attack"]
    passed = {name: sum(score >= start for score in scores) for name, scores in attack.items()}
    missed = sum(score < start for score in part["scores"]["live"])
    rows = [("bpcer", "BPCER: live turned away", _rate_cells(missed, part["live"]))]
    rows += [("species", f"APCER, {name}", _rate_cells(passed[name], len(attack[name]))) for name in attack]
    if len(attack) > 1:
        rows.append(("pooled", "APCER, all attacks together", _rate_cells(sum(passed.values()), part["attack"])))
    worst = max(sorted(passed), key=lambda name: passed[name] / len(attack[name]))
    half = (sum(passed.values()) / part["attack"] + missed / part["live"]) / 2
    return {
        "name": part["name"],
        "part": part,
        "start": start,
        "rows": rows,
        "worst": f"{worst}: {percent(passed[worst] / len(attack[worst]))}" if len(attack) > 1 else "",
        "hter": percent(half),
        "confusion": [part["live"] - missed, missed, sum(passed.values()), part["attack"] - sum(passed.values())],
        "points": points,
        "approximate": part["name"] != "holdout" and any(point["approximate"] for point in points),
        "histogram": charts.draw_histogram(part),
        "det": charts.draw_det(part, points),
        "roc": charts.draw_roc(part, points),
        "reliability": charts.draw_reliability(part),
        # The slider lies under the histogram's axis.
        "left": 100 * charts.LEFT / charts.WIDTH,
        "right": 100 * (charts.WIDTH - charts.RIGHT) / charts.WIDTH,
    }


def _rate_cells(errors: int, total: int) -> list[str]:
    """Value, interval, counts: as the script writes them."""
    return [percent(errors / total), percent_range(list(clopper_pearson(errors, total))), f"{errors} of {total}"]
