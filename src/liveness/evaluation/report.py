"""What an out-of-fold table says: a plain dictionary (report.json) and the text a person reads.

``summarise`` measures, ``render_report`` prints; neither reads or writes a file.
"""

import math

import numpy as np
import pandas as pd

from liveness.evaluation import grouping, intervals, metrics
from liveness.evaluation.calibration import CrossFitted
from liveness.evaluation.rates import error_rates, rate


def summarise(
    table: pd.DataFrame, members: list[str], species=None, groups_are: dict = grouping.UNKNOWN_GROUPS
) -> dict:
    """Measure a table of ``combine.assemble`` (filename, label, group, fold, score, status, members).

    species: one name per row or None. groups_are: what the groups are (evaluation/grouping.py). Returns nested
    dictionaries of plain numbers; every figure stands beside its interval. Equal tables give equal reports.
    """
    covered = table[table["status"] != "not_covered"]
    scored = covered[np.isfinite(covered["score"].to_numpy(dtype=np.float64))]
    kept = None if species is None else np.asarray(species, dtype=object)[table.index.get_indexer(scored.index)]
    labels, scores = scored["label"].to_numpy(dtype=int), scored["score"].to_numpy(dtype=np.float64)
    overall = measure_errors(labels, scores, scored["group"].to_numpy())
    return {
        "grouping": dict(groups_are),
        "counts": {
            **_counts(covered),
            "in_set": len(table),
            "scored": len(scored),
            "coverage": len(covered) / len(table) if len(table) else float("nan"),
        },
        "warning": warning(covered, groups_are),
        "pooled": overall,
        "at_eer_threshold": error_rates(labels, scores, overall["threshold"], kept, scored["group"].to_numpy()),
        "non_response": _non_response(covered),
        "folds": [_part(part, "score", {"fold": int(fold)}) for fold, part in covered.groupby("fold", sort=True)],
        "members": [_part(covered[covered[name].notna()], name, {"member": name}) for name in members],
    }


def measure_errors(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict:
    """EER, AUC and log loss with intervals by video and, where videos share groups, by group.

    ``headline`` names the intervals to quote: by group where groups hold several videos, because
    videos of one person err together.
    """
    equal = metrics.eer(labels, scores)
    result = {
        "threshold": equal.threshold,
        "eer": equal.value,
        "auc": metrics.auc(labels, scores),
        "log_loss": metrics.log_loss(labels, scores),
        "brier": metrics.brier(labels, scores),
        "calibration_error": metrics.calibration_error(labels, scores),
        "by_video": _limits(intervals.bootstrap(labels, scores)),
    }
    grouped = len(set(groups)) < len(labels)
    if grouped:
        result["by_group"] = _limits(intervals.bootstrap(labels, scores, groups))
    result["headline"] = "by_group" if grouped else "by_video"
    return result


def _limits(found: dict[str, intervals.Interval]) -> dict:
    return {name: {"interval": value.as_list(), "method": value.method} for name, value in found.items()}


def warning(table: pd.DataFrame, groups_are: dict) -> str:
    """What to say beside an interval over these groups: that they are few, that persons are unknown, or nothing."""
    few = intervals.warn_of_few_groups(int(table["group"].nunique()), grouping.noun(groups_are))
    return "; ".join(text for text in (few, grouping.warn_of_unknown_persons(groups_are)) if text)


def summarise_holdout(table: pd.DataFrame, species=None, groups_are: dict = grouping.UNKNOWN_GROUPS) -> dict | None:
    """Figures of the videos that no member was trained on and all have scored; None where there are none.

    table: rows of ``combine.assemble`` of the holdout. They say how good the whole ensemble is, on fewer videos.
    """
    if not len(table):
        return None
    scored = np.isfinite(table["score"].to_numpy(dtype=np.float64))
    part = table[scored]
    labels, scores = part["label"].to_numpy(dtype=int), part["score"].to_numpy(dtype=np.float64)
    kept = None if species is None else [name for name, there in zip(species, scored, strict=True) if there]
    overall = measure_errors(labels, scores, part["group"].to_numpy())
    return {
        "counts": {**_counts(table), "scored": len(part)},
        "warning": warning(table, groups_are),
        "pooled": overall,
        "at_eer_threshold": error_rates(labels, scores, overall["threshold"], kept, part["group"].to_numpy()),
        "non_response": _non_response(table),
    }


def summarise_calibration(how: str, fits: dict[str, CrossFitted], labels: np.ndarray, raw: np.ndarray) -> dict:
    """How each member was calibrated, and the same figures without: ``raw``, blended uncalibrated scores."""
    members = [
        {"member": name, "parameters": fit.calibration.to_dict(), "parted": fit.parted} for name, fit in fits.items()
    ]
    without = {
        "eer": metrics.eer(labels, raw).value,
        "auc": metrics.auc(labels, raw),
        "log_loss": metrics.log_loss(labels, raw),
        "brier": metrics.brier(labels, raw),
        "calibration_error": metrics.calibration_error(labels, raw),
    }
    return {"how": how, "members": members, "raw": without}


def _counts(table: pd.DataFrame) -> dict:
    return {
        "videos": len(table),
        "live": int((table["label"] == 1).sum()),
        "attack": int((table["label"] == 0).sum()),
        "groups": int(table["group"].nunique()),
    }


def _non_response(covered: pd.DataFrame) -> dict:
    attack, live = metrics.non_response(covered["label"].to_numpy(dtype=int), covered["score"].to_numpy(dtype=float))
    silent = covered[~np.isfinite(covered["score"].to_numpy(dtype=float))]
    return {
        "apnrr": rate(attack),
        "bpnrr": rate(live),
        "videos": [{"filename": r.filename, "status": r.status} for r in silent.itertuples(index=False)],
    }


def _part(part: pd.DataFrame, column: str, head: dict) -> dict:
    """EER and AUC of one fold or member, with intervals of the same kind as the headline's."""
    part = part[np.isfinite(part[column].to_numpy(dtype=np.float64))]
    labels, scores = part["label"].to_numpy(dtype=int), part[column].to_numpy(dtype=np.float64)
    groups = part["group"].to_numpy()
    found = intervals.bootstrap(labels, scores, groups if len(set(groups)) < len(groups) else None)
    equal = metrics.eer(labels, scores)
    return {
        **head,
        **_counts(part),
        "eer": equal.value,
        "eer_interval": found["eer"].as_list(),
        "auc": metrics.auc(labels, scores),
        "auc_interval": found["auc"].as_list(),
    }


FRAME_WAYS = ("mean", "median", "logit_mean", "top1", "low1", "trimmed20")


def compare_ways(table: pd.DataFrame, candidates: dict[str, pd.Series]) -> list[dict]:
    """Other ways to combine against the ensemble as configured, on the same videos.

    table: of ``combine.assemble``; candidates: way -> out-of-fold score per row of ``table``. Each
    row of the result has the way's EER, AUC and a paired comparison of the EER with the table's
    ``score`` (by group where groups hold several videos). Videos without either score are left out.
    """
    rows = []
    for way, scores in candidates.items():
        values, ours = np.asarray(scores, dtype=np.float64), table["score"].to_numpy(dtype=np.float64)
        both = np.isfinite(values) & np.isfinite(ours)
        labels, groups = table["label"].to_numpy(dtype=int)[both], table["group"].to_numpy()[both]
        grouped = groups if len(set(groups)) < len(groups) else None
        found = intervals.compare_eer(labels, ours[both], values[both], grouped)
        rows.append(
            {
                "way": way,
                "videos": int(both.sum()),
                "eer": metrics.eer(labels, values[both]).value,
                "auc": metrics.auc(labels, values[both]),
                "difference": found.difference,
                "interval": found.interval.as_list(),
                "verdict": found.verdict,
                "videos_to_tell": found.videos_to_tell,
            }
        )
    return rows


def render_ways(combinations: dict[str, list[dict]]) -> str:
    """The comparisons of ``compare_ways`` as text, a table for each kind."""
    lines = []
    for title, rows in combinations.items():
        head = (title, "videos", "EER", "AUC", "EER less ours", "95 % interval", "verdict")
        cells = [
            (
                row["way"],
                str(row["videos"]),
                percent(row["eer"]),
                plain(row["auc"]),
                points(row["difference"]),
                "–" if math.isnan(row["interval"][0]) else " to ".join(points(v) for v in row["interval"]),
                verdict(row),
            )
            for row in rows
        ]
        lines += [*_columns([head, *cells]), ""]
    return "\n".join(lines)


def render_weights(learned: dict[str, dict[str, float]], members: dict[str, tuple[str, int]], ensemble: str) -> str:
    """How to use what was learned: the lines of the ensemble's file, members without a part left out.

    members: name -> (recipe, fold).
    """
    lines = []
    for how, weights in learned.items():
        lines.append(f"  to blend by {how!r}, learned on all folds, put into configs/ensemble/{ensemble}.yaml:")
        for name, weight in weights.items():
            if weight > 0:
                recipe, fold = members[name]
                lines.append(f"    - {{recipe: {recipe}, fold: {fold}, weight: {weight:.4f}}}")
    return "\n".join([*lines, ""] if lines else [])


def verdict(row: dict) -> str:
    """The verdict in words, with the size of set that would tell where it is open."""
    if row["verdict"] != "cannot be told apart":
        return row["verdict"]
    if row["videos_to_tell"] is None:
        return "no difference seen"
    needed = row["videos_to_tell"]
    many = "over a million videos" if needed > 1_000_000 else f"about {float(f'{needed:.2g}'):.0f} videos"
    return f"cannot be told apart (would take {many})"


def points(value: float) -> str:
    """A difference of rates in percentage points, with its sign."""
    return "–" if math.isnan(value) else f"{100 * value:+.1f}"


def percent(value: float) -> str:
    """``8.3 %``; a dash for a figure that does not exist."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def percent_range(limits: list[float]) -> str:
    """``3.1–17.2 %``."""
    return "–" if any(math.isnan(v) for v in limits) else f"{100 * limits[0]:.1f}–{100 * limits[1]:.1f} %"


def plain(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def plain_range(limits: list[float]) -> str:
    return "–" if any(math.isnan(v) for v in limits) else f"{limits[0]:.3f}–{limits[1]:.3f}"


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def render_report(summary: dict, title: str) -> str:
    """The report as text of at most 100 columns."""
    pooled, counts = summary["pooled"], summary["counts"]
    limits, groups_are = pooled[pooled["headline"]], summary["grouping"]
    lines = [
        "",
        f"{title}: every video judged only by models that were not trained on it",
        "",
        f"  out-of-fold EER {percent(pooled['eer'])} (95 % interval {percent_range(limits['eer']['interval'])}), "
        f"{plural(counts['scored'], 'video')}, {grouping.count_groups(groups_are, counts['groups'], counts['videos'])}",
        f"  (0 % is perfect, 50 % is chance); {grouping.sentence(groups_are)}",
    ]
    lines += [f"  warning: {summary['warning']}"] if summary["warning"] else []
    lines += ["", *_measures(summary), "", *_coverage(summary), "", *_parts(summary), ""]
    lines += [*_calibration(summary["calibration"], pooled), "", *_points(summary["operating_points"]), ""]
    if summary.get("naive_gap"):
        lines += [*_naive_gap(summary["naive_gap"], grouping.noun(groups_are)), ""]
    return "\n".join(lines)


def _calibration(found: dict, pooled: dict) -> list[str]:
    """What was done to the members' scores, and for which members nothing or less could be done."""
    raw = found["raw"]
    if found.get("withheld"):
        lost = found["withheld"]
        return [
            f"  no member is calibrated: {lost['how']} would raise the blend's log loss out of fold from "
            f"{plain(lost['log_loss_without'])} to {plain(lost['log_loss'])}"
        ]
    if found["how"] == "none":
        return ["  members' scores are blended as they are (calibration: none)"]
    lines = [
        f"  each member calibrated on its own fold ({found['how']}, cross-fitted): "
        f"log loss {plain(raw['log_loss'])} before, {plain(pooled['log_loss'])} after"
    ]
    by_video = [m["member"] for m in found["members"] if m["parted"] == "by video"]
    lines += [f"    cross-fitted by video, its fold has too few groups: {name}" for name in by_video]
    lines += [
        f"    not calibrated: {m['member']} ({m['parameters']['note']})"
        for m in found["members"]
        if "note" in m["parameters"]
    ]
    return lines


def _naive_gap(gap: dict, noun: str) -> list[str]:
    """How much folds that know no groups would have flattered."""
    limits = "–" if math.isnan(gap["interval"][0]) else " to ".join(points(v) for v in gap["interval"])
    return [
        f"  with {noun}s on both sides of the folds (naive) the EER would read {percent(gap['naive_eer'])}, not "
        f"{percent(gap['grouped_eer'])}:",
        f"    {points(gap['difference'])} points between them (95 % interval {limits}), {gap['verdict']}; "
        f"{plural(gap['videos'], 'video')}, {', '.join(gap['recipes'])}",
    ]


def _points(points: list[dict]) -> list[str]:
    """The shipped thresholds, one per line."""
    first = points[0]
    where = f"{plural(first['videos'], 'video')} of {plural(first['groups'], 'group')}"
    if first["split"] == "holdout":
        lines = [f"  thresholds, chosen on the holdout ({where}), which all members score:"]
    elif first["approximate"]:
        lines = [f"  thresholds, approximate: out of fold ({where}), corrected for the blend of all members:"]
    else:
        lines = [f"  thresholds, chosen out of fold ({where}):"]
    rows = [("point", "live if score ≥", "95 % interval", "APCER", "95 % interval", "BPCER", "95 % interval")]
    for p in points:
        title = f"{p['name'][:5].upper()} ≤ {100 * p['target']:.0f} %" if p["target"] else "equal error rate"
        sides = [cell for s in ("apcer", "bpcer") for cell in (percent(p[s]), percent_range(p[f"{s}_interval"]))]
        rows.append((title, plain(p["threshold"]), plain_range(p["threshold_interval"]), *sides))
    lines += _columns(rows, "    ")
    if first["by"] == "video" and first["groups"] < first["videos"]:
        lines.append(
            "    intervals of thresholds are by video (too few groups to draw), those of APCER and BPCER by group"
        )
    return lines


def _measures(summary: dict) -> list[str]:
    """The table of figures, one per line, with its interval and what it says."""
    pooled, rates = summary["pooled"], summary["at_eer_threshold"]
    limits = pooled[pooled["headline"]]
    species = rates["worst"] if rates["apcer"]["total"] else "no attacks"
    if len(rates["apcer_species"]) > 1:
        species = f"worst species: {species}"
    rows = [
        ("AUC", plain(pooled["auc"]), plain_range(limits["auc"]["interval"]), "1 is perfect, 0.5 is chance"),
        (
            "log loss",
            plain(pooled["log_loss"]),
            plain_range(limits["log_loss"]["interval"]),
            "0 is perfect, 0.693 is a coin's",
        ),
        (
            "APCER",
            percent(rates["apcer"]["value"]),
            percent_range(rates["apcer"]["interval"]),
            f"attacks taken for live, {_of(rates['apcer'])} ({species})",
        ),
        (
            "BPCER",
            percent(rates["bpcer"]["value"]),
            percent_range(rates["bpcer"]["interval"]),
            f"live videos taken for attacks, {_of(rates['bpcer'])}",
        ),
    ]
    by = "by " + grouping.noun(summary["grouping"]) if pooled["headline"] == "by_group" else "by video"
    lines = _columns([("figure", "value", "95 % interval", f"what it is (intervals {by})"), *rows])
    many = {name: r for name, r in rates["apcer_species"].items() if len(rates["apcer_species"]) > 1}
    for name, r in many.items():
        lines.append(f"    APCER {name}: {percent(r['value'])} ({percent_range(r['interval'])}), {_of(r)}")
    lines.append(f"  APCER and BPCER at the threshold of the EER: live means score ≥ {plain(pooled['threshold'])}")
    held = summary["holdout"]
    if held:
        limits, counts = held["pooled"][held["pooled"]["headline"]], held["counts"]
        lines += [
            f"  holdout, all members blended: EER {percent(held['pooled']['eer'])} "
            f"({percent_range(limits['eer']['interval'])}), {plural(counts['scored'], 'video')}, "
            f"{grouping.count_groups(summary['grouping'], counts['groups'], counts['videos'])}"
        ]
    return lines


def _of(value: dict) -> str:
    return f"{value['errors']} of {value['total']}"


def _coverage(summary: dict) -> list[str]:
    """How much of the folds the figures speak for."""
    counts, silent = summary["counts"], summary["non_response"]
    if counts["videos"] == counts["in_set"]:
        what = "of the folds" if summary["holdout"] else "of the set"
        lines = [f"  covers all {plural(counts['in_set'], 'video')} {what}"]
    else:
        lines = [
            f"  covers {counts['videos']} of {plural(counts['in_set'], 'video')} ({percent(counts['coverage'])}): "
            "no member holds out the folds of the others"
        ]
    if silent["videos"]:
        names = ", ".join(f"{v['filename']} ({v['status']})" for v in silent["videos"][:5])
        more = ", …" if len(silent["videos"]) > 5 else ""
        lines.append(
            f"  without a score: {_of(silent['apnrr'])} attacks, {_of(silent['bpnrr'])} live videos; "
            f"not in the figures above: {names}{more}"
        )
    return lines


def _parts(summary: dict) -> list[str]:
    """EER of each fold and each member; small parts have wide intervals."""
    head = ("", "videos", grouping.noun(summary["grouping"]) + "s", "EER", "95 % interval", "AUC")
    rows = [(f"fold {p['fold']}", *_cells(p)) for p in summary["folds"]]
    rows += [(p["member"], *_cells(p)) for p in summary["members"]]
    return _columns([head, *rows])


def _cells(part: dict) -> tuple[str, ...]:
    return (
        str(part["videos"]),
        str(part["groups"]),
        percent(part["eer"]),
        percent_range(part["eer_interval"]),
        plain(part["auc"]),
    )


def _columns(rows: list[tuple[str, ...]], indent: str = "  ") -> list[str]:
    """Rows as aligned text: the first and last column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 or i == len(row) - 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines
