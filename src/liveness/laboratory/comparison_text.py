"""A comparison as text for a terminal and as a markdown table for documents. Reads and writes nothing."""

from typing import Any

from liveness.evaluation.format import (
    align_columns,
    counted,
    percent,
    percent_range,
    percentage_points,
    percentage_points_range,
    plain,
    plain_range,
)
from liveness.evaluation.intervals import warn_of_few_groups
from liveness.evaluation.report_text import verdict


def render_comparison(found: dict[str, Any]) -> str:
    """What is printed: a table of costs, a table of errors, what to know before using them."""
    rows = _in_order(found)
    costs = [("row", "model", "start", "M parameters", "GFLOPs", "ms a video", "of it network")]
    for row in rows:
        ms = (plain(row["milliseconds"], 1), plain(row["milliseconds_network"], 1))
        size = (f"{row['parameters'] / 1e6:.2f}", f"{row['gflops']:.3g}")
        costs.append((_title(row), f"{row['model']}, {row['size']} px", _start(row), *size, *ms))
    errors = [("row", "log loss", "95 % interval", "EER", "95 % interval", "log loss against the first")]
    for row in rows:
        told = _tell(row, "log_loss") if row["against"] else "(first)"
        limits = plain_range(row["log_loss_interval"]), percent(row["eer"]), percent_range(row["eer_interval"])
        errors.append((_title(row), plain(row["log_loss"]), *limits, told))
    pairs = [("row", "EER against the first"), *((_title(row), _tell(row, "eer")) for row in rows if row["against"])]
    lines = [f"{found['data']}: {_count(found)}", "", *align_columns(costs), "", *align_columns(errors)]
    if len(pairs) > 1:
        lines += ["", *align_columns(pairs)]
    return "\n".join([*lines, *(f"  {text}" for text in list_remarks(found))])


def render_markdown(found: dict[str, Any]) -> str:
    """One table for a document, and below it what it was measured on."""
    head = ["", "model", "start", "M parameters", "GFLOPs", "ms", "log loss", "95 %", "EER", "95 %"]
    head += ["log loss against the first", "EER against the first"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in _in_order(found):
        cells = [_title(row), f"`{row['model']}`, {row['size']} px", _start(row)]
        cells += [f"{row['parameters'] / 1e6:.2f}", f"{row['gflops']:.3g}", plain(row["milliseconds"], 1)]
        cells += [plain(row["log_loss"]), plain_range(row["log_loss_interval"])]
        cells += [percent(row["eer"]), percent_range(row["eer_interval"])]
        cells += [_tell(row, "log_loss"), _tell(row, "eer")] if row["against"] else ["(first)", "(first)"]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    remarks = " ".join(f"{text[0].upper()}{text[1:]}." for text in list_remarks(found))
    return "\n".join([*lines, "", f"Measured on `{found['data']}`: {_count(found)}. {remarks}", ""])


def list_remarks(found: dict[str, Any]) -> list[str]:
    """What a reader must know before using a figure."""
    texts = [f"intervals are by {found['by']}; a difference below 0 is better than the first"]
    if few := warn_of_few_groups(found["groups"], "group"):
        texts.append(f"{few} ({counted(found['groups'], 'group')})")
    if "stressed" in found:
        texts.append(_tell_stressed(found["stressed"]))
    if any(row["apart"] for row in found["rows"]):
        texts.append("rows marked * do not start as the others do, so that they do not compare the architectures alone")
    if found["left_out"]:
        texts.append(f"{counted(found['left_out'], 'video')} without a score of every row are left out")
    if found["untimed"]:
        texts.append(found["untimed"])
    elif found["device"]:
        texts.append(f"milliseconds of a further video with one member, decoding and views included: {found['device']}")
    return texts


def _in_order(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows as they were listed, those apart below the others."""
    return sorted(found["rows"], key=lambda row: row["apart"])


def _title(row: dict[str, Any]) -> str:
    return row["name"] + (" *" if row["apart"] else "")


def _start(row: dict[str, Any]) -> str:
    start = row["start"]
    return start if len(start) <= 20 else f"{start[:19]}…"


def _count(found: dict[str, Any]) -> str:
    folds = ", ".join(map(str, found["folds"]))
    groups = counted(found["groups"], "group")
    return f"{counted(found['videos'], 'video')} ({found['live']} live), {groups}, folds {folds}"


def _tell(row: dict[str, Any], figure: str) -> str:
    """The paired difference, its interval, the verdict."""
    against = row["against"][figure]
    if figure == "eer":
        difference, limits = percentage_points(against["difference"]), percentage_points_range(against["interval"])
    else:
        difference, limits = f"{against['difference']:+.3f}", _signed_range(against["interval"])
    return f"{difference} ({limits}): {verdict(against)}"


def _signed_range(limits: list[float]) -> str:
    return f"{limits[0]:+.3f} to {limits[1]:+.3f}"


def _tell_stressed(found: dict[str, Any]) -> str:
    """The nested estimate of a search for the least stressed HTER (laboratory/stressed_search.py)."""
    default, tuned = (f"{percent(one['hter'])} ({one['stress']})" for one in (found["default"], found["tuned"]))
    return (
        f"worst stressed HTER of the folds reported on: {default} by the default, {tuned} by the tuned values; "
        f"difference {percentage_points(found['difference'])} ({percentage_points_range(found['interval'])})"
    )
