"""The report as the text that a person reads: what evaluation/report.py measured, in words and aligned columns."""

import textwrap

from liveness.evaluation import grouping
from liveness.evaluation.cameras import tell_cues, tell_worst
from liveness.evaluation.format import (
    NO_FIGURE,
    align_columns,
    counted,
    of_total,
    percent,
    percent_range,
    percentage_points,
    percentage_points_range,
    plain,
    plain_range,
)

_WIDTH = 100  # columns of a report


def render_combinations(summary: dict, members: dict[str, tuple[str, int]]) -> str:
    """What ``evaluate --combinations`` adds; members: name -> (recipe, fold)."""
    ways = _render_ways(summary["combinations"])
    return f"{ways}\n{_render_weights(summary['learned_weights'], members, summary['ensemble'])}"


def _render_ways(combinations: dict[str, list[dict]]) -> str:
    """The comparisons of ``compare_ways`` as text, a table for each kind."""
    head = ("videos", "EER", "AUC", "EER less ours", "95 % interval", "AUC less ours", "95 % (DeLong)", "verdict")
    lines = []
    for title, rows in combinations.items():
        cells = [
            (
                row["way"],
                str(row["videos"]),
                percent(row["eer"]),
                plain(row["auc"]),
                percentage_points(row["difference"]),
                percentage_points_range(row["interval"]),
                plain(row["auc_difference"]),
                " to ".join(map(plain, row["auc_interval"])),
                verdict(row),
            )
            for row in rows
        ]
        lines += [*align_columns([(title, *head), *cells]), ""]
    return "\n".join(lines)


def _render_weights(learned: dict[str, dict[str, float]], members: dict[str, tuple[str, int]], ensemble: str) -> str:
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


def render_report(summary: dict, title: str) -> str:
    """The report as text of at most 100 columns."""
    pooled, counts = summary["pooled"], summary["counts"]
    limits, groups_are = pooled[pooled["headline"]], summary["grouping"]
    lines = [
        "",
        f"{title}: every video judged only by models that were not trained on it",
        "",
        f"  out-of-fold EER {percent(pooled['eer'])} (95 % interval {percent_range(limits['eer']['interval'])}), "
        f"{counted(counts['scored'], 'video')}, "
        f"{grouping.count_groups(groups_are, counts['groups'], counts['videos'])}",
        f"  (0 % is perfect, 50 % is chance); {grouping.sentence(groups_are)}",
    ]
    lines += [f"  warning: {summary['warning']}"] if summary["warning"] else []
    lines += ["", *_measures(summary), "", *_coverage(summary), "", *_parts(summary), ""]
    lines += [*_cameras(summary), ""] if summary.get("cameras") else []
    lines += [*_calibration(summary["calibration"], pooled), "", *_points(summary["operating_points"]), ""]
    if summary.get("naive_gap"):
        lines += [*_naive_gap(summary["naive_gap"], grouping.noun(groups_are)), ""]
    return "\n".join(lines)


def _cameras(summary: dict) -> list[str]:
    """A line per camera, the worst one, how far their thresholds lie apart, and what tells the classes there."""
    found = summary["cameras"]
    scores = "uncalibrated scores, since calibration saw the camera" if found["uncalibrated"] else "scores"
    rows: list[tuple[str, ...]] = [
        ("camera", "videos", "EER", "95 % interval", "at", "APCER", "95 % interval", "BPCER", "95 % interval")
    ]
    for row in found["rows"]:
        sides = [cell for side in ("apcer", "bpcer") for cell in _rate_and_limits(row[side])]
        equal = (percent(row["eer"]), percent_range(row["eer_interval"]), plain(row["threshold"]))
        rows.append((row["camera"] or "not named", str(row["videos"]), *equal, *sides))
    lines = [*_wrap(tell_worst(found)), *align_columns(rows)]
    lines += _wrap(f"at: threshold of the camera's own EER; APCER and BPCER at {plain(found['threshold'])} ({scores})")
    if found["spread"]:
        low, high, many = (found["spread"][key] for key in ("low", "high", "cameras"))
        lines.append(f"  the cameras' own thresholds lie between {plain(low)} and {plain(high)} ({many} cameras)")
    text = tell_cues(summary.get("cues", []))
    return lines + (_wrap(f"warning: {text}") if text else [])


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _rate_and_limits(rate: dict) -> tuple[str, str]:
    return percent(rate["value"]), percent_range(rate["interval"])


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
    limits = percentage_points_range(gap["interval"])
    return [
        f"  with {noun}s on both sides of the folds (naive) the EER would read {percent(gap['naive_eer'])}, not "
        f"{percent(gap['grouped_eer'])}:",
        f"    {percentage_points(gap['difference'])} points between them (95 % interval {limits}), {gap['verdict']}; "
        f"{counted(gap['videos'], 'video')}, {', '.join(gap['recipes'])}",
    ]


def _points(points: list[dict]) -> list[str]:
    """The shipped thresholds, one per line."""
    first = points[0]
    where = f"{counted(first['videos'], 'video')} of {counted(first['groups'], 'group')}"
    if first["split"] == "holdout":
        lines = [f"  thresholds, chosen on the holdout ({where}), which all members score:"]
    elif first["approximate"]:
        lines = [f"  thresholds, approximate: out of fold ({where}), corrected for the blend of all members:"]
    else:
        lines = [f"  thresholds, chosen out of fold ({where}):"]
    rows: list[tuple[str, ...]] = [
        ("point", "live if score ≥", "95 % interval", "APCER", "95 % interval", "BPCER", "95 % interval")
    ]
    for p in points:
        title = f"{p['name'][:5].upper()} ≤ {100 * p['target']:.0f} %" if p["target"] else "equal error rate"
        sides = [cell for s in ("apcer", "bpcer") for cell in (percent(p[s]), percent_range(p[f"{s}_interval"]))]
        rows.append((title, plain(p["threshold"]), plain_range(p["threshold_interval"]), *sides))
    lines += align_columns(rows, "    ")
    if first["by"] == "video" and first["groups"] < first["videos"]:
        lines.append(
            "    intervals of thresholds are by video (too few groups to draw), those of APCER and BPCER by group"
        )
    return lines


def _measures(summary: dict) -> list[str]:
    """The table of figures, one per line, with its interval and what it says."""
    pooled, rates = summary["pooled"], summary["at_eer_threshold"]
    by = "by " + grouping.noun(summary["grouping"]) if pooled["headline"] == "by_group" else "by video"
    head = ("figure", "value", "95 % interval", f"what it is (intervals {by})")
    lines = align_columns([head, *_score_rows(pooled), *_error_rows(pooled, rates)])
    if len(rates["apcer_species"]) > 1:
        for name, r in rates["apcer_species"].items():
            lines.append(f"    APCER {name}: {percent(r['value'])} ({percent_range(r['interval'])}), {of_total(r)}")
    lines.append(f"  APCER and BPCER at the threshold of the EER: live means score ≥ {plain(pooled['threshold'])}")
    held = summary["holdout"]
    if held:
        limits, counts = held["pooled"][held["pooled"]["headline"]], held["counts"]
        lines += [
            f"  holdout, all members blended: EER {percent(held['pooled']['eer'])} "
            f"({percent_range(limits['eer']['interval'])}), {counted(counts['scored'], 'video')}, "
            f"{grouping.count_groups(summary['grouping'], counts['groups'], counts['videos'])}"
        ]
    if soft := summary.get("soft_labelled"):
        lines.append(f"  {counted(soft, 'video')} with soft labels: for training alone, in none of these figures")
    return lines


def _score_rows(pooled: dict) -> list[tuple[str, str, str, str]]:
    """What the scores are worth, at no threshold or at every one."""
    limits = {name: plain_range(value["interval"]) for name, value in pooled[pooled["headline"]].items()}
    rows = [
        ("AUC", plain(pooled["auc"]), limits["auc"], "1 is perfect, 0.5 is chance"),
        ("log loss", plain(pooled["log_loss"]), limits["log_loss"], "0 is perfect, 0.693 is a coin's"),
        ("Brier score", plain(pooled["brier"]), NO_FIGURE, "0 is perfect, 0.25 is a coin's"),
    ]
    for fpr, tpr in pooled["tpr_at_fpr"].items():
        title = f"TPR, FPR ≤ {100 * float(fpr):.0f} %"
        rows.append((title, percent(tpr), NO_FIGURE, "live videos accepted, the threshold chosen on these videos"))
    return rows


def _error_rows(pooled: dict, rates: dict) -> list[tuple[str, str, str, str]]:
    """The errors of decisions: at the threshold of the EER, and (HTER) at thresholds of other folds."""
    species = rates["worst"] if rates["apcer"]["total"] else "no attacks"
    if len(rates["apcer_species"]) > 1:
        species = f"worst species: {species}"
    found = {
        name: (percent(rates[name]["value"]), percent_range(rates[name]["interval"])) for name in ("apcer", "bpcer")
    }
    return [
        ("APCER", *found["apcer"], f"attacks taken for live, {of_total(rates['apcer'])} ({species})"),
        ("BPCER", *found["bpcer"], f"live videos taken for attacks, {of_total(rates['bpcer'])}"),
        ("ACER", percent(rates["acer"]), NO_FIGURE, "mean of the two above"),
        ("HTER", percent(pooled["hter"]), NO_FIGURE, "each fold at the other folds' threshold, attacks pooled"),
    ]


def _coverage(summary: dict) -> list[str]:
    """How much of the folds the figures speak for."""
    counts, silent = summary["counts"], summary["non_response"]
    if counts["videos"] == counts["in_set"]:
        what = "of the folds" if summary["holdout"] else "of the set"
        lines = [f"  covers all {counted(counts['in_set'], 'video')} {what}"]
    else:
        lines = [
            f"  covers {counts['videos']} of {counted(counts['in_set'], 'video')} ({percent(counts['coverage'])}): "
            "no member holds out the folds of the others"
        ]
    if silent["videos"]:
        names = ", ".join(f"{v['filename']} ({v['status']})" for v in silent["videos"][:5])
        more = ", …" if len(silent["videos"]) > 5 else ""
        lines.append(
            f"  without a score: {of_total(silent['apnrr'])} attacks, {of_total(silent['bpnrr'])} live videos; "
            f"not in the figures above: {names}{more}"
        )
    return lines


def _parts(summary: dict) -> list[str]:
    """EER of each fold and each member; small parts have wide intervals."""
    head = ("", "videos", grouping.noun(summary["grouping"]) + "s", "EER", "95 % interval", "AUC")
    rows = [(f"fold {p['fold']}", *_cells(p)) for p in summary["folds"]]
    rows += [(p["member"], *_cells(p)) for p in summary["members"]]
    return align_columns([head, *rows])


def _cells(part: dict) -> tuple[str, ...]:
    return (
        str(part["videos"]),
        str(part["groups"]),
        percent(part["eer"]),
        percent_range(part["eer_interval"]),
        plain(part["auc"]),
    )
