"""What an evaluation on another set has found, as text for people. Reads and writes nothing."""

from pathlib import Path
from typing import Any

from liveness.base.files import show_path
from liveness.evaluation import grouping
from liveness.evaluation.format import (
    align_columns,
    counted,
    of_total,
    percent,
    percent_range,
    percentage_points,
    percentage_points_range,
    plain,
)
from liveness.evaluation.report_text import verdict
from liveness.laboratory.other_set import warn_on


def render_on(summary: dict[str, Any], figures: Path, page: Path) -> str:
    """The whole evaluation as text; figures and page: the files that it went to, the rows being beside the figures."""
    counts, head = summary["counts"], summary["headline"]
    lines = [
        "",
        f"{summary['ensemble']} (weights of {summary['data']}) on {summary['on']}, at its own threshold "
        f"{plain(head['threshold'])} ({head['name']})",
        "",
        f"  {counted(counts['live'], 'live video')}, {counted(counts['attack'], 'attack')}, "
        f"{grouping.count_groups(summary['grouping'], counts['groups'], counts['videos'])}; "
        f"{grouping.sentence(summary['grouping'])}",
    ]
    lines += [f"  warning: {line}" for line in warn_on(summary)]
    if summary["origin"]["independent"]:
        lines.append(f"  {summary['origin']['line']}")
    lines += ["", *_points(summary), "", *_species(head), *_cameras(summary["cameras"]), *_scores(summary)]
    time = summary["milliseconds"]
    lines += [
        f"  {time['median']:.0f} ms per video (median; 5 to 95 % of them: {time['p5']:.0f} to {time['p95']:.0f}), "
        f"decoding included; {time['device']}",
        "",
    ]
    files = [show_path(path) for path in (figures.with_suffix(".csv"), figures, page)]
    lines += _against(summary["against"])
    return "\n".join([*lines, f"  per video: {files[0]}; all figures: {files[1]}; page: {files[2]}"])


def _points(summary: dict[str, Any]) -> list[str]:
    """The rates at every shipped point, with and without the abstentions."""
    titles = ("point", "threshold", "APCER", "95 % interval", "BPCER", "95 % interval")
    rows = [(*titles, "abstained: live", "attacks", "decided alone: APCER", "BPCER")]
    for entry in summary["points"]:
        sides = [
            text
            for s in ("apcer", "bpcer")
            for text in (percent(entry[s]["value"]), percent_range(entry[s]["interval"]))
        ]
        silent = [percent(entry["abstained"][name]["value"]) for name in ("live", "attack")]
        alone = [percent(entry["decided"][side]["value"]) for side in ("apcer", "bpcer")]
        rows.append((entry["name"], plain(entry["threshold"]), *sides, *silent, *alone))
    by = "by group" if summary["headline"]["by"] == "group" else "by video"
    note = f"  intervals {by}; a live video that is abstained from counts in BPCER, an attack is not accepted (ISO)"
    return [*align_columns(rows), note]


def _species(head: dict[str, Any]) -> list[str]:
    rates = head["apcer_species"]
    if len(rates) < 2:
        return []
    rows = [
        (f"APCER, {name}", percent(r["value"]), percent_range(r["interval"]), of_total(r)) for name, r in rates.items()
    ]
    return [*align_columns(rows), f"  the APCER above is that of the worst species, {head['worst']}", ""]


def _cameras(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    heads = (
        "camera",
        "live",
        "attacks",
        "APCER",
        "95 % interval",
        "BPCER",
        "95 % interval",
        "abstained",
        "EER",
        "its threshold",
        "",
    )
    rows = [heads]
    for row in found["rows"]:
        sides = [
            text for s in ("apcer", "bpcer") for text in (percent(row[s]["value"]), percent_range(row[s]["interval"]))
        ]
        own = (percent(row["abstained"]["value"]), percent(row["eer"]), plain(row["eer_threshold"]))
        few = f"few: {row['few']}" if row["few"] else ""
        rows.append((row["camera"], str(row["live"]), str(row["attack"]), *sides, *own, few))
    lines = [*align_columns(rows), f"  worst camera: {found['worst']}"]
    if found["thresholds"]:
        low, high = found["thresholds"]
        lines[-1] += f"; the thresholds of the cameras' own EERs lie between {plain(low)} and {plain(high)}"
    return [*lines, ""]


def _scores(summary: dict[str, Any]) -> list[str]:
    """What the scores could do with a threshold that nobody has without these labels."""
    pooled = summary["pooled"]
    limits = pooled[pooled["headline"]]
    return [
        f"  EER {percent(pooled['eer'])} ({percent_range(limits['eer']['interval'])}) at {plain(pooled['threshold'])}: "
        "not usable without labels, the threshold is chosen on these videos",
        f"  AUC {plain(pooled['auc'])}, log loss {plain(pooled['log_loss'])}, Brier score {plain(pooled['brier'])}",
    ]


def _against(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    lines = [
        f"  against {found['file']} ({found['ensemble']}), paired over {counted(found['common'], 'video')}:",
        f"    EER {percent(found['eer_before'])} before, {percent(found['eer'])} now: "
        f"{percentage_points(found['difference'])} points ({percentage_points_range(found['interval'])}), "
        f"{verdict(found)}",
        f"    AUC {plain(found['auc_before'])} before, {plain(found['auc'])} now: {plain(found['auc_difference'])} "
        f"({' to '.join(map(plain, found['auc_interval']))}), "
        f"{found['auc_verdict']}",
    ]
    for row in found["decisions"]:
        what = "live videos not taken for live" if row["class"] == "live" else "attacks taken for live"
        lines.append(
            f"    {what}: {row['before']} before, {row['after']} now, of {row['videos']} "
            f"({row['mended']} mended, {row['spoiled']} new; p {plain(row['p'])})"
        )
    return [*lines, ""]
