"""The page about trained weights on another set: what ``evaluate --on`` found, with pictures, sliders and all videos.

Reads data/<set>/{labels_bbox.csv,labels_video.csv,frames,faces} of the set for pictures; writes
result/report_<data>_<ensemble>_on_<set>.html and .json.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.files import without_nan, workspace, write_json, write_text
from liveness.evaluation import grouping
from liveness.evaluation.format import counted, percent, percent_range, plain
from liveness.pages import charts
from liveness.pages.figures import describe_split, title_point
from liveness.pages.page import read_written_time
from liveness.pages.panels import embed_script, lay_panel, make_report_environment
from liveness.pages.report_laboratory import round_reach
from liveness.pages.videos import WorstPictures, list_worst, tabulate_conditions

_MOST_SILENT = 60


def write_on_page(summary: dict, warnings: list[str], written: Path) -> Path:
    """Write the page and its figures; the page's path. summary: what on_<set>.json (``written``) holds; warnings: what
    a reader must know before using a figure."""
    found = without_nan(_collect(summary, warnings))
    path = workspace() / "result" / f"report_{summary['data']}_{summary['ensemble']}_on_{summary['on']}.html"
    text = _render(found, workspace() / "data" / summary["on"], read_written_time(written))
    write_json(path.with_suffix(".json"), found, indent=1)
    write_text(path, text)
    return path


def _collect(summary: dict, warnings: list[str]) -> dict:
    """The evaluation as it is, and what the page adds to it."""
    table = pd.DataFrame(summary["videos"])
    table["score"] = table["score"].astype(float)
    scored = table[np.isfinite(table["score"])]
    both = scored["label"].nunique() == 2
    threshold = summary["headline"]["threshold"]
    points = [
        {"title": title_point(point["name"]), "approximate": False}
        | {key: point[key] for key in ("name", "threshold", "threshold_interval")}
        for point in summary["points"]
    ]  # fmt: skip
    return {
        **summary,
        "headline_words": _write_headline(summary),
        "warnings": [f"{text[0].upper()}{text[1:]}." for text in warnings],
        "operating_points": points,
        "splits": [describe_split("videos with a score", scored)] if both else [],
        "worst": [video | {"frames": {}} for video in list_worst(scored, threshold)],
    }


def _write_headline(summary: dict) -> str:
    """What the errors are, for a reader who knows none of the terms."""
    head, counts = summary["headline"], summary["counts"]
    passed, missed, silent = head["apcer"], head["bpcer"], head["abstained"]["live"]
    which = f"the worst kind of attack, {head['worst']}," if len(head["apcer_species"]) > 1 else "the attacks"
    return (
        f"At the threshold that the weights ship, {percent(passed['value'])} of {which} pass for live "
        f"({percent_range(passed['interval'])} with 95 % confidence), and {percent(missed['value'])} of the live "
        f"videos ({percent_range(missed['interval'])}) are not taken for live, {silent['errors']} of {silent['total']} "
        f"because there is no decision on them. Measured on {counted(counts['attack'], 'attack')} and "
        f"{counted(counts['live'], 'live video')}."
    )


def _render(found: dict, folder: Path, evaluated: str) -> str:
    pictures = WorstPictures(folder)
    title = title_point(found["headline"]["name"])
    head, pooled, time = found["headline"], found["pooled"], found["milliseconds"]
    limits = pooled[pooled["headline"]]["eer"]["interval"]
    silent = found["non_response"]["videos"]
    facts = [
        (f"APCER, {title}", percent(head["apcer"]["value"])),
        (f"BPCER, {title}", percent(head["bpcer"]["value"])),
        ("live abstained from", percent(head["abstained"]["live"]["value"])),
        ("attacks abstained from", percent(head["abstained"]["attack"]["value"])),
        ("EER, needs these labels", percent(pooled["eer"])),
        ("its 95 % interval", percent_range(limits)),
        ("ms per video", plain(time["median"], 0)),
    ]
    return make_report_environment().get_template("other_set.html").render(
        found=found,
        shipped=head,
        head_title=title,
        facts=facts,
        noun=grouping.noun(found["grouping"]),
        sentence=grouping.sentence(found["grouping"]),
        eer_limits=limits,
        **embed_script(found, f"videos_{found['data']}_{found['ensemble']}_on_{found['on']}.csv"),
        panels=[lay_panel(part, found["operating_points"], head["threshold"]) for part in found["splits"]],
        points=[point | {"title": title_point(point["name"])} for point in found["points"]],
        cameras=_tabulate_cameras(found["cameras"]),
        species=_tabulate_kinds(head),
        conditions=tabulate_conditions(found["conditions"], bool(found["cameras"])),
        conditions_words=f"At the shipped point ({title}), abstentions counted as in the table above.",
        abstains=True,
        rows_file=f"runs/{found['data']}/{found['ensemble']}/on_{found['on']}.csv",
        cut_at=head["threshold"],
        worst=[video | {"pictures": pictures.of_video(video)} for video in found["worst"]],
        worst_words="Whether prediction would abstain plays no part here.",
        silent=silent[:_MOST_SILENT],
        silent_all=len(silent),
        evaluated=evaluated,
    )  # fmt: skip


def _tabulate_cameras(found: dict | None) -> dict | None:
    """The cameras with pictures, the worst one, and between which thresholds their own EERs lie."""
    if not found:
        return None
    rates = [row[side] for row in found["rows"] for side in ("apcer", "bpcer") if row[side]["total"]]
    most = round_reach([rate["interval"] for rate in rates])
    rows = [
        row
        | {
            f"{side}_picture": charts.draw_whisker(row[side]["value"], row[side]["interval"], most)
            for side in ("apcer", "bpcer")
        }
        for row in found["rows"]
    ]
    return {**found, "rows": rows, "most": most}


def _tabulate_kinds(head: dict) -> list[dict]:
    """Each species of attack, the worst first."""
    ordered = sorted(head["apcer_species"].items(), key=lambda item: (-(item[1]["value"] or 0), item[0]))
    most = round_reach([rate["interval"] for _, rate in ordered])
    return [
        {"name": name, **rate, "picture": charts.draw_whisker(rate["value"], rate["interval"], most)}
        for name, rate in ordered
    ]
