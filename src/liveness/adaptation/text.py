"""What an adaptation has found, in words: the warnings and the printed report. Reads and writes nothing.

warn_adapted(summary)       what a reader must know before using a figure, the gravest first
render_adapted(summary, figures, page)
"""

import shlex
import textwrap
from pathlib import Path
from typing import Any

from liveness.adaptation.candidates import CANDIDATES, DAY_ONE, OF_SCORES
from liveness.base.files import show_path
from liveness.base.names import few
from liveness.evaluation import grouping
from liveness.evaluation.cameras import CUES
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
from liveness.evaluation.intervals import warn_of_few_groups

_WIDTH = 100
FEW_CLIPS = 10  # of a class
TITLES = {
    DAY_ONE: "as it is",
    "thresholds": "threshold",
    "calibration": "calibration",
    "probe": "classifier",
    "fine_tuning": "fine-tuning",
    "home_blend": "home member",
}


def tell_choice(summary: dict[str, Any]) -> str:
    """What was chosen and why, in one sentence."""
    kind, start = summary["chosen"], summary["start"]["ensemble"]
    if summary["distrusted"]:
        return (
            f"{start} stays as it is: {counted(len(summary['doubtful']), 'label')} of {summary['clips']['clips']} "
            "contradict its scores and those of everything that was learnt, so nothing is learnt from them"
        )
    if kind == DAY_ONE:
        return f"{start} stays as it is: nothing is better beyond the interval"
    one = next(row for row in summary["candidates"] if row["kind"] == kind)
    low, high = one["interval"]
    return (
        f"{TITLES[kind]} is chosen, which changes {CANDIDATES[kind]}: its log loss out of fold is "
        f"{plain(one['loss'])}, {plain(-one['gain'])} below that of {start} ({plain(-high)} to {plain(-low)})"
    )


def warn_adapted(summary: dict[str, Any]) -> list[str]:
    """What a reader must know before using a figure, the gravest first."""
    counts, groups_are, found = summary["clips"], summary["grouping"], []
    if doubtful := summary["doubtful"]:
        labels = "label" if len(doubtful) == 1 else "labels"
        found.append(
            f"the scores contradict the {labels} of {few(doubtful)}: look at them; "
            "if the labels are right, these clips are what the ensemble cannot do"
            + ("; to learn from them all the same: --trust-labels" if summary["distrusted"] else "")
        )
    anchor = summary["anchor"]
    if anchor and anchor["compared"]["log_loss"]["verdict"] == "worse":
        found.append(f"it forgets: its log loss on {anchor['set']} is higher than before, beyond the interval")
    if summary["chosen"] in ("probe", "fine_tuning", "home_blend") and not anchor:
        found.append("what it does on other cameras was not measured; --anchor SET does")
    if not grouping.are_persons(groups_are):
        found.append("within person: persons are not known, so new faces of the camera may do worse than these figures")
    elif not summary["apart"]:
        found.append("within person: there are too few persons to keep any of them apart; no network was changed")
    if few_groups := warn_of_few_groups(counts["groups"], grouping.noun(groups_are)):
        found.append(few_groups)
    if min(counts["live"], counts["attack"]) < FEW_CLIPS:
        found.append(f"{counts['live']} live and {counts['attack']} attacks: expected ten of each, better thirty")
    found += [_tell_cue(row) for row in summary["cues"]]
    found += [
        f"{TITLES[row['kind']]} is better on these clips, but not so in another light: it has "
        "learnt the light, and is not chosen"
        for row in summary["candidates"]
        if row["verdict"] == "better in this light only"
    ]
    picked = set(summary["picked"])
    if len(picked) > 2 and summary["chosen"] != DAY_ONE:
        found.append(
            f"the choice is unsteady: with a part of the clips left out it falls on {_list(summary['picked'])}"
        )
    return found + _warn_of_pictures(summary)


def _warn_of_pictures(summary: dict[str, Any]) -> list[str]:
    found = []
    for row in summary["figures"]["limits"]:
        if row["now"] != row["bound"]:
            found.append(
                f"the limit {row['reason']} turned away {percent(row['turned_away'])} of the live clips, and was moved "
                f"from {row['bound']:g} to {row['now']:g}"
            )
        elif row["turned_away"] > 0:
            found.append(f"the limit {row['reason']} turns away {percent(row['turned_away'])} of the live clips")
    if without := summary["clips"]["without_face"]:
        found.append(f"{counted(len(without), 'clip')} without a face, in no figure: {few(without)}")
    return found


def _tell_cue(row: dict[str, Any]) -> str:
    return (
        f"{CUES[row['cue']]} alone tells live from attack in these clips (AUC {plain(row['auc'], 2)}; live "
        f"{row['live']:.3g}, attacks {row['attack']:.3g}): film both in the same way"
    )


def _list(kinds: list[str]) -> str:
    return ", ".join(f"{TITLES[kind]} ({kinds.count(kind)})" for kind in CANDIDATES if kind in kinds)


def tell_command(summary: dict[str, Any]) -> str:
    """How videos are scored with what was made."""
    data, name = (shlex.quote(summary[key]) for key in ("set", "ensemble"))
    return f"DATA={data} ENSEMBLE={name} bash predict.sh VIDEOS"


def list_candidates(summary: dict[str, Any]) -> list[list[str]]:
    """A row per candidate: title, log loss, the difference, its interval, HTER, EER, verdict."""
    figures, rows = summary["figures"]["candidates"], []
    for one in summary["candidates"]:
        low, high = one["interval"]
        first = one["kind"] == DAY_ONE
        rows.append(
            [
                TITLES[one["kind"]],
                plain(one["loss"]),
                "" if first else f"{one['gain']:+.3f}",
                "" if first or low is None or abs(low) == float("inf") else f"{low:+.3f} to {high:+.3f}",
                percent(figures[one["kind"]]["hter"]),
                percent(figures[one["kind"]]["eer"]),
                one["verdict"] + (", chosen" if one["kind"] == summary["chosen"] else ""),
            ]
        )
    return rows


def list_figures(summary: dict[str, Any]) -> list[list[str]]:
    """Rows of name, before, its interval, after, its interval; rates of the clips that had no say."""
    before, after = summary["figures"]["before"], summary["figures"]["after"]

    worst = after["decisions"]["worst"]
    kind = "" if worst.startswith("pooled") else f" ({worst}, the worst)"

    def rate(name: str, of: Any) -> list[str]:
        parts = [of(side) for side in (before, after)]
        return [
            name,
            *(
                text
                for part in parts
                for text in (f"{percent(part['value'])} ({of_total(part)})", percent_range(part["interval"]))
            ),
        ]

    return [
        ["HTER at the threshold", percent(before["hter"]), percent_range(before["hter_interval"]),
         percent(after["hter"]), percent_range(after["hter_interval"])],
        rate("APCER at the threshold", lambda side: side["forced"]["apcer"]),
        rate("BPCER at the threshold", lambda side: side["forced"]["bpcer"]),
        rate(f"APCER with abstentions{kind}", lambda side: side["decisions"]["apcer"]),
        rate("BPCER with abstentions", lambda side: side["decisions"]["bpcer"]),
        ["EER", percent(before["eer"]), percent_range(before["eer_interval"]),
         percent(after["eer"]), percent_range(after["eer_interval"])],
        ["log loss, classes alike", plain(before["log_loss"]), "", plain(after["log_loss"]), ""],
    ]  # fmt: skip


def tell_kept(summary: dict[str, Any]) -> str:
    """What is known of what the old has kept, in one sentence."""
    if anchor := summary["anchor"]:
        eer, loss = anchor["compared"]["eer"], anchor["compared"]["log_loss"]
        return (
            f"on {counted(anchor['clips'], 'clip')} of {anchor['set']} HTER goes from "
            f"{percent(anchor['before']['hter'])} to {percent(anchor['after']['hter'])}, EER from "
            f"{percent(anchor['before']['eer'])} to {percent(anchor['after']['eer'])} ("
            f"{percentage_points(eer['difference'])} points, "
            f"{percentage_points_range(eer['interval'])}; {eer['verdict']}), log loss by {loss['difference']:+.3f} "
            f"({loss['verdict']})"
        )
    if summary["chosen"] in OF_SCORES:
        return "no network has changed, so that no order of scores is other than before"
    far = summary["figures"]["distance"]
    return (
        f"on these clips the log-odds have moved by {plain(far['log_odds'], 2)} on average, the order is the old one "
        f"to {plain(far['rank_correlation'], 2)} (rank correlation), and {percent(far['other_side'])} of the clips "
        "lie on the other side of the threshold"
    )


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def render_adapted(summary: dict[str, Any], figures: Path, page: Path) -> str:
    """The whole report as text; figures and page: the files that it went to."""
    counts, name = summary["clips"], summary["set"] + (f", camera {summary['camera']}" if summary["camera"] else "")
    lines = [
        "",
        f"{summary['start']['ensemble']} and {counted(counts['clips'], 'clip')} of {name}: "
        f"{counts['live']} live, {counted(counts['attack'], 'attack')}, "
        f"{grouping.count_groups(summary['grouping'], counts['groups'], counts['clips'])}; "
        f"{grouping.sentence(summary['grouping'])}",
        "",
        *_wrap(tell_choice(summary)),
        *(part for line in warn_adapted(summary) for part in _wrap(f"warning: {line}")),
        "",
        *align_columns([["out of fold", "log loss", "less", "95 %", "HTER", "EER", ""], *list_candidates(summary)]),
        "",
        *align_columns([["the whole procedure", "before", "95 %", "after", "95 %"], *list_figures(summary)]),
        "",
        *_wrap(f"kept: {tell_kept(summary)}"),
        f"  use: {tell_command(summary)}",
        f"  page: {show_path(page)}; all figures: {show_path(figures)}",
    ]
    return "\n".join(lines)
