"""The page of a comparison: one table with pictures of the errors, and error against operations. Writes nothing.

text = render_comparison_page(found, "compare_demo_backbones", remarks)
"""

import math
from typing import Any

from markupsafe import Markup

from liveness.base.files import without_nan
from liveness.evaluation.format import percent, percent_range, percentage_points, percentage_points_range, plain
from liveness.evaluation.format import plain_range as show_range
from liveness.evaluation.report_text import verdict
from liveness.pages.charts import Plot, draw_whisker, list_round_values
from liveness.pages.page import make_environment
from liveness.pages.report_laboratory import round_reach


def render_comparison_page(found: dict[str, Any], title: str, remarks: list[str]) -> str:
    """The page as text. found: what the comparison's json holds; remarks: what to know before using a figure."""
    found = without_nan(found)
    rows = sorted(found["rows"], key=lambda row: row["apart"])
    reach = {
        "eer": round_reach([row["eer_interval"] for row in rows]),
        "log_loss": max([row["log_loss_interval"][1] or 0 for row in rows] + [0.1]),
    }
    return (
        make_environment()
        .get_template("comparison.html")
        .render(
            found=found,
            title=title,
            remarks=[f"{text[0].upper()}{text[1:]}." for text in remarks],
            rows=[_lay_row(row, reach) for row in rows],
            chart=_draw_errors(rows),
        )
    )


def _lay_row(row: dict[str, Any], reach: dict[str, float]) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "title": row["name"],
        "apart": row["apart"],
        "changes": " ".join(row["overrides"]),
        "model": row["model"],
        "start": row["start"],
        "size": row["size"],
        "parameters": f"{row['parameters'] / 1e6:.2f}",
        "gflops": f"{row['gflops']:.3g}",
        "milliseconds": plain(row["milliseconds"], 1),
        "log_loss": plain(row["log_loss"]),
        "log_loss_range": show_range(row["log_loss_interval"]),
        "eer": percent(row["eer"]),
        "eer_range": percent_range(row["eer_interval"]),
        "against": None,
    }
    for figure in ("log_loss", "eer"):
        cells[f"{figure}_picture"] = draw_whisker(row[figure], row[f"{figure}_interval"], reach[figure])
    if row["against"]:
        eer, loss = row["against"]["eer"], row["against"]["log_loss"]
        limits = loss["interval"]
        around = f"{limits[0]:+.3f} to {limits[1]:+.3f}" if None not in limits else "—"
        cells["against"] = {
            "log_loss": f"{loss['difference']:+.3f} ({around})",
            "log_loss_verdict": verdict(loss),
            "eer": f"{percentage_points(eer['difference'])} ({percentage_points_range(eer['interval'])})",
            "eer_verdict": verdict(eer),
        }
    return cells


def _draw_errors(rows: list[dict[str, Any]]) -> Markup | None:
    """Log loss against operations (log scale), the interval as a line; None without a cost or with a single row."""
    there = [row for row in rows if row["gflops"] and row["log_loss"] is not None]
    if len(there) < 2:
        return None
    low, high = min(row["gflops"] for row in there) / 1.3, max(row["gflops"] for row in there) * 1.3
    most = max(row["log_loss_interval"][1] or row["log_loss"] for row in there) * 1.05
    plot = Plot(lambda cost: math.log(cost / low) / math.log(high / low) if cost > 0 else 0, lambda loss: loss / most)
    ends = [low * (high / low) ** share for share in (0.1, 0.5, 0.9)]
    plot.axes(
        [(value, f"{value:.2g}") for value in ends],
        [(value, f"{value:.2g}") for value in list_round_values(most)],
        "GFLOPs a view (log scale)",
        "log loss, out of fold",
    )
    for row in there:
        if None not in row["log_loss_interval"]:
            plot.line([(row["gflops"], bound) for bound in row["log_loss_interval"]], "whisker")
        told = f"{row['name']}: {row['gflops']:.3g} GFLOPs, log loss {row['log_loss']:.3f}"
        plot.dot(row["gflops"], row["log_loss"], "member" if row["apart"] else "point", told, 4)
    return plot.svg(f"Log loss against operations of {len(there)} rows")
