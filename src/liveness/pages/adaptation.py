"""The page about an adaptation: what was chosen and why, errors before and after, what the old has kept.

Writes result/<adapted>_<set>.html and .json.
"""

from pathlib import Path
from typing import Any

from liveness.adaptation.candidates import CANDIDATES, DAY_ONE
from liveness.adaptation.text import (
    TITLES,
    list_candidates,
    list_figures,
    tell_choice,
    tell_command,
    tell_kept,
    warn_adapted,
)
from liveness.base.files import without_nan, workspace, write_json, write_text
from liveness.evaluation import grouping
from liveness.evaluation.format import percent
from liveness.pages import charts
from liveness.pages.page import read_written_time
from liveness.pages.panels import make_report_environment
from liveness.pages.report_laboratory import round_reach
from liveness.pages.videos import WorstPictures

_MOST_PICTURES = 12


def write_adapted_page(summary: dict[str, Any], written: Path) -> Path:
    """Write the page and its figures; the page's path. summary: what adapted.json (``written``) holds."""
    found = without_nan(summary)
    path = workspace() / "result" / f"{summary['ensemble']}_{summary['set']}.html"
    text = render_adapted_page(found, workspace() / "data" / summary["set"], read_written_time(written))
    write_json(path.with_suffix(".json"), found, indent=1)
    write_text(path, text)
    return path


def render_adapted_page(found: dict[str, Any], folder: Path, written: str) -> str:
    """The page as text. folder: data/<set>, for pictures of clips whose labels are doubted."""
    counts, figures = found["clips"], found["figures"]
    before, after = figures["before"], figures["after"]
    facts = [
        ("chosen", TITLES[found["chosen"]]),
        ("HTER before", percent(before["hter"])),
        ("HTER after", percent(after["hter"])),
        ("EER before", percent(before["eer"])),
        ("EER after", percent(after["eer"])),
        ("live clips", counts["live"]),
        ("attacks", counts["attack"]),
    ]
    choice = tell_choice(found)
    kept = tell_kept(found)
    return make_report_environment().get_template("adaptation.html").render(
        found=found,
        facts=facts,
        choice=f"{choice[0].upper()}{choice[1:]}.",
        kept=f"{kept[0].upper()}{kept[1:]}.",
        warnings=[f"{text[0].upper()}{text[1:]}." for text in warn_adapted(found)],
        sentence=grouping.sentence(found["grouping"]),
        candidates=_lay_candidates(found),
        rows=_lay_figures(found),
        doubtful=_show_doubtful(found, folder),
        left_out=[TITLES[kind] for kind in found["left_out"]],
        titles=TITLES,
        changes=CANDIDATES,
        use=tell_command(found),
        is_same=found["chosen"] == DAY_ONE,
        written=written,
    )  # fmt: skip


def _lay_candidates(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidates with a picture of the log loss that each takes away or adds."""
    reach = [abs(end) for one in found["candidates"] for end in one["interval"] if end is not None]
    most = max([*reach, 0.01])
    rows = []
    for one, cells in zip(found["candidates"], list_candidates(found), strict=True):
        picture = "" if one["kind"] == DAY_ONE else charts.draw_difference(one["gain"], one["interval"], most)
        chosen = one["kind"] == found["chosen"]
        rows.append({"cells": cells, "changes": CANDIDATES[one["kind"]], "picture": picture, "chosen": chosen})
    return rows


def _lay_figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Before and after, with pictures of the rates on one scale."""
    sides = [found["figures"][name] for name in ("before", "after")]
    limits = [part for side in sides for part in (side["hter_interval"], side["eer_interval"])]
    rates = [side[of][kind] for side in sides for of in ("forced", "decisions") for kind in ("apcer", "bpcer")]
    most = round_reach([*limits, *(rate["interval"] for rate in rates)])

    def draw(side: dict[str, Any], row: int) -> object:
        if row == 0 or row == 5:
            key = ("hter", "eer")[row == 5]
            return charts.draw_whisker(side[key], side[f"{key}_interval"], most)
        if row == 6:
            return ""
        rate = side[("forced", "decisions")[row > 2]][("apcer", "bpcer")[row % 2 == 0]]
        return charts.draw_whisker(rate["value"], rate["interval"], most)

    return [
        {"cells": cells, "before": draw(sides[0], row), "after": draw(sides[1], row)}
        for row, cells in enumerate(list_figures(found))
    ]


def _show_doubtful(found: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Clips whose labels are doubted, with pictures."""
    pictures = WorstPictures(folder)
    by_name = {row["filename"]: row for row in found["figures"]["rows"]}
    return [
        row | {"pictures": pictures.of_video({"filename": name, "frames": {}})}
        for name in found["doubtful"][:_MOST_PICTURES]
        if (row := by_name.get(name))
    ]
