"""A report in a few lines of Markdown, for a pull request, and as small tables for other programs (DVC's plots).

Reads one or two report.json of ``liveness.report``: that of the change, and that of the state it is compared with. The
Markdown keeps to what GitHub shows in a job's summary and in a comment: tables, and Mermaid for the curve. Pictures in
the text itself (data:, svg) are removed there.
"""

import json
import math
from pathlib import Path

import numpy as np
from scipy.stats import norm

from liveness.base.errors import UserError
from liveness.base.files import write_json, write_text
from liveness.evaluation import intervals
from liveness.evaluation.format import (
    counted,
    percent,
    percent_range,
    percentage_points,
    percentage_points_range,
    plain,
    plain_range,
)
from liveness.evaluation.report_text import verdict
from liveness.pages.charts import trace_stairs

_TARGETS = (0.01, 0.05, 0.1, 0.2)  # of accepted attacks, at which the share of rejected live videos is told
_GRID = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # of the drawn curve
_DEVIATE = 3.1  # normal deviates beyond which the curve is not drawn: 0.1 % and 99.9 %
_MEASURES = ("eer", "auc", "log_loss", "brier", "calibration_error")
_COLOURS = ("#0969da", "#8c8c8c")  # of the change and of what it is compared with


def read_report_json(path: Path, needed_for: str = "") -> dict:
    """A report.json; a UserError for anything else, which names the option ``needed_for``."""
    start = f"{needed_for} {path}".strip()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{start}: cannot be read ({error.strerror}); python -m liveness.report writes it") from error
    except ValueError as error:
        raise UserError(f"{start}: is not JSON; expected what python -m liveness.report writes") from error
    needed = {"headline", "warnings", "evaluation", "splits", "videos", "data", "ensemble"}
    if not isinstance(found, dict) or needed - found.keys() or not found["splits"]:
        raise UserError(f"{start}: not a report with error rates; expected what python -m liveness.report writes")
    return found


def compare_reports(found: dict, base: dict) -> dict:
    """The change in EER and log loss from ``base`` to ``found`` on the videos that both have scored out of fold."""
    theirs = {row["filename"]: row for row in base["videos"] if row["score"] is not None and row["fold"] >= 0}
    ours = [row for row in found["videos"] if row["score"] is not None and row["fold"] >= 0]
    rows = [(row, theirs[row["filename"]]) for row in ours if row["filename"] in theirs]
    if odd := [mine["filename"] for mine, other in rows if mine["label"] != other["label"]]:
        raise UserError(
            f"the reports have different labels for {counted(len(odd), 'video')}, as {odd[0]}; prepare anew"
        )
    labels = np.array([mine["label"] for mine, _ in rows], dtype=int)
    if len(set(labels.tolist())) < 2:
        raise UserError("the reports have no videos of both classes in common, so they cannot be compared")
    before, after = (np.array([pair[side]["score"] for pair in rows], dtype=float) for side in (1, 0))
    groups = np.array([mine["group"] for mine, _ in rows])
    grouped = groups if len(set(groups.tolist())) < len(groups) else None
    compared: dict = {
        "videos": len(rows),
        "left_out": len(ours) + len(theirs) - 2 * len(rows),
        "groups": len(set(groups)),
    }
    for name, compare in (("eer", intervals.compare_eer), ("log_loss", intervals.compare_log_loss)):
        told = compare(labels, before, after, grouped)
        limits = told.interval.as_list()
        compared[name] = {"difference": told.difference, "interval": limits, "method": told.interval.method}
        compared[name] |= {"verdict": told.verdict, "videos_to_tell": told.videos_to_tell}
    return compared


def flatten_metrics(found: dict) -> dict[str, float | int | None]:
    """The figures that one follows from state to state, without nesting."""
    pooled, counts = found["evaluation"]["pooled"], found["evaluation"]["counts"]
    low, high = pooled[pooled["headline"]]["eer"]["interval"]
    flat = {name: pooled[name] for name in _MEASURES} | {"eer_low": low, "eer_high": high}
    flat |= {f"bpcer_at_apcer_{100 * target:.0f}": rejected_at(found, target) for target in _TARGETS}
    return flat | {"videos": counts["videos"], "scored": counts["scored"]}


def rejected_at(found: dict, target: float) -> float:
    """The least share of live videos that is turned away where at most ``target`` of the attacks pass."""
    curve = found["splits"][0]["curve"]
    return min(b for a, b in zip(curve["apcer"], curve["bpcer"], strict=True) if a <= target + 1e-12)


def render_review(found: dict, base: dict | None, compared: dict | None, names: tuple[str, str]) -> str:
    """The Markdown. names: of the change and of what it is compared with, as ``("this change", "main")``."""
    pooled = found["evaluation"]["pooled"]
    title = f"{found['ensemble']} on {found['data']}: equal error rate {percent(pooled['eer'])}"
    limits = percent_range(pooled[pooled["headline"]]["eer"]["interval"])
    lines = [f"## {_plain_text(title)} ({limits})", "", _plain_text(found["headline"]), ""]
    if base is not None and compared is not None:
        lines += [_tell_difference(compared, names[1]), ""]
    shown = [found] if base is None else [found, base]
    lines += [*_tabulate(shown, names), "", *_draw_curve(shown, names), ""]
    if found["warnings"]:
        lines += ["<details><summary>What to know before using a figure</summary>", ""]
        lines += [f"- {_plain_text(text)}" for text in found["warnings"]]
        lines += ["", "</details>", ""]
    return "\n".join(lines)


def _tell_difference(compared: dict, name: str) -> str:
    """The verdict first: it is what a reviewer looks for."""
    eer, loss = compared["eer"], compared["log_loss"]
    left = f", {counted(compared['left_out'], 'video')} without a counterpart left out" if compared["left_out"] else ""
    judged = f"{counted(compared['videos'], 'video')} of {counted(compared['groups'], 'group')}{left}"
    signed = " to ".join(
        f"{value:+.3f}" if value is not None and math.isfinite(value) else "–" for value in loss["interval"]
    )
    return (
        f"**Against {_plain_text(name)}: {verdict(eer)}** in EER, {percentage_points(eer['difference'])} percentage "
        f"points ({percentage_points_range(eer['interval'])}); log loss {loss['difference']:+.3f} ({signed}), "
        f"{verdict(loss)}. Paired on {judged}; 95 % intervals, below 0 is better."
    )


def _tabulate(shown: list[dict], names: tuple[str, str]) -> list[str]:
    """A row per figure, a column per report."""
    heads = [_plain_text(name) for name in names[: len(shown)]]
    rows = [["", *heads], ["---"] * (len(shown) + 1)]
    pooled = [report["evaluation"]["pooled"] for report in shown]
    parts = [part[part["headline"]] for part in pooled]
    pairs = list(zip(pooled, parts, strict=True))
    rows.append(["EER", *(f"{percent(p['eer'])} ({percent_range(i['eer']['interval'])})" for p, i in pairs)])
    rows.append(["AUC", *(f"{plain(p['auc'])} ({plain_range(i['auc']['interval'])})" for p, i in pairs)])
    rows.append(["log loss", *(plain(p["log_loss"]) for p in pooled)])
    for target in _TARGETS:
        label = f"live turned away where ≤ {100 * target:.0f} % of attacks pass"
        rows.append([label, *(percent(rejected_at(report, target)) for report in shown)])
    rows.append(["videos", *(str(report["evaluation"]["counts"]["scored"]) for report in shown)])
    return [f"| {' | '.join(row)} |" for row in rows]


def _draw_curve(shown: list[dict], names: tuple[str, str]) -> list[str]:
    """The DET curve as a Mermaid chart. Its ticks lie about evenly on normal deviates, as on DET paper."""
    ticks = ", ".join(f'"{100 * rate:.0f}"' for rate in _GRID)
    lines = [
        "```mermaid",
        "---",
        "config:",
        "  themeVariables:",
        "    xyChart:",
        f'      plotColorPalette: "{", ".join(reversed(_COLOURS[: len(shown)]))}"',
        "---",
        "xychart-beta",
        '  title "Detection error trade-off"',
        f'  x-axis "attacks that pass (APCER), at most %" [{ticks}]',
        '  y-axis "live turned away (BPCER), %" 0 --> ' + str(_round_up(shown)),
    ]
    for report in reversed(shown):  # the change is drawn over what it is compared with
        lines.append(f"  line [{', '.join(f'{100 * rejected_at(report, rate):.1f}' for rate in _GRID)}]")
    words = f"Blue: {_plain_text(names[0])}" + (f"; grey: {_plain_text(names[1])}" if len(shown) == 2 else "")
    return [*lines, "```", "", f"{words}. The page of the report has the curve with every threshold."]


def _round_up(shown: list[dict]) -> int:
    """The top of the axis: the next ten per cent."""
    most = max(rejected_at(report, rate) for report in shown for rate in _GRID)
    return min(100, 10 * max(1, math.ceil(10 * most)))


def _plain_text(text: str) -> str:
    """Text of the data (cameras, names) in Markdown: no markup, no column of a table, nobody is called."""
    for sign, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "/"), ("`", "'"), ("@", "@\u200b")):
        text = text.replace(sign, instead)
    return text.replace("*", "\\*").replace("_", "\\_").replace("[", "\\[")


def write_review(folder: Path, markdown: str, found: dict, compared: dict | None) -> None:
    """review.md, and metrics.json, det.csv and scores.csv, which DVC shows and compares (dvc.yaml)."""
    write_text(folder / "review.md", markdown)
    write_json(folder / "metrics.json", flatten_metrics(found) | ({"against": compared} if compared else {}), indent=1)
    curve = found["splits"][0]["curve"]
    stairs = trace_stairs(curve["apcer"], curve["bpcer"])
    rows = [[*point, *(_deviate(rate) for rate in point)] for point in stairs]
    write_text(folder / "det.csv", _lay_table(["apcer", "bpcer", "apcer_deviate", "bpcer_deviate"], rows))
    bars = found["splits"][0]["histogram"]
    middle = [(low + high) / 2 for low, high in zip(bars["edges"], bars["edges"][1:], strict=False)]
    counts = [list(row) for row in zip(middle, bars["live"], bars["attack"], strict=True)]
    write_text(folder / "scores.csv", _lay_table(["score", "live", "attack"], counts))


def _deviate(rate: float) -> float:
    return float(np.clip(norm.ppf(rate), -_DEVIATE, _DEVIATE))


def _lay_table(columns: list[str], rows: list[list[float]]) -> str:
    return "\n".join([",".join(columns), *(",".join(f"{value:.6g}" for value in row) for row in rows), ""])
