"""The report as a page: the figures of ``pages.figures`` put into words, tables, plots and pictures."""

import json
from pathlib import Path

from liveness.evaluation import grouping
from liveness.evaluation.cameras import CUES, tell_worst
from liveness.evaluation.format import percent, percent_range, plain
from liveness.pages import charts
from liveness.pages.panels import embed_script, lay_panel, make_report_environment
from liveness.pages.report_laboratory import round_reach, tabulate_search, tabulate_shift
from liveness.pages.videos import WorstPictures, tabulate_conditions

_MOST_SILENT = 60
_CONDITIONS_WORDS = "Out of fold, at the threshold of the EER; videos without a score are in no row."
_WORST_WORDS = (
    "The scores are out of fold. Under a frame: its score from the members that held the video out, before calibration."
)
_OPTIONAL = (
    # Key of ``page``, of the reason in found["absent"], and what the section would show.
    ("correlation", "correlation", "How far members go wrong together"),
    ("naive", "naive_gap", "What folds that ignore persons would have claimed"),
    ("shift", "shift", "Shift laboratory"),
    ("search", "search", "Which ensemble"),
)


def render_report_page(found: dict, folder: Path, evaluated: str) -> str:
    """The whole page as HTML. found: of ``figures``; folder: data/<set>, where the frames lie; evaluated: when."""
    env = make_report_environment()
    pictures = WorstPictures(folder)
    optional = {
        "correlation": _tabulate_correlation(found["correlation"]),
        "naive": _tell_naive_gap(found["evaluation"].get("naive_gap")),
        "shift": tabulate_shift(found["shift"]),
        "search": tabulate_search(found["search"]),
    }
    return env.get_template("report.html").render(
        found=found,
        summary=found["evaluation"],
        limits=_get_limits,
        facts=_list_facts(found["evaluation"]),
        noun=grouping.noun(found["evaluation"]["grouping"]),
        **embed_script(found, f"videos_{found['data']}_{found['ensemble']}.csv"),
        panels=[lay_panel(part, found["operating_points"]) for part in found["splits"]],
        conditions=tabulate_conditions(found["conditions"], bool(found["evaluation"].get("cameras"))),
        rows_file=f"runs/{found['data']}/{found['ensemble']}/oof_video.csv",
        cut_at=found["evaluation"]["pooled"]["threshold"],
        conditions_words=_CONDITIONS_WORDS,
        worst_words=_WORST_WORDS,
        abstains=False,
        silent_all=len(found["evaluation"]["non_response"]["videos"]),
        parts=_tabulate_parts(found["evaluation"]),
        species=_tabulate_species(found["evaluation"]),
        cameras=_tabulate_cameras(found["evaluation"].get("cameras")),
        cues=[row | {"name": CUES[row["cue"]]} for row in found["evaluation"].get("cues", [])],
        calibration=_tabulate_calibration(found["evaluation"]),
        withheld=(found["evaluation"].get("calibration") or {}).get("withheld"),
        **optional,
        lacking=_list_lacking(optional),
        evaluated=evaluated,
        digests=_list_digests(found),
        worst=[video | {"pictures": pictures.of_video(video)} for video in found["worst"]],
        silent=found["evaluation"]["non_response"]["videos"][:_MOST_SILENT],
        recipes=_group_runs(found["runs"]),
    )


def _list_lacking(optional: dict) -> list[tuple[str, str]]:
    """The parts that there is nothing to show of: (title, key of the reason)."""
    empty = {key for key, part in optional.items() if not part or (key == "shift" and not part["rows"])}
    return [(title, reason) for key, reason, title in _OPTIONAL if key in empty]


def _list_digests(found: dict) -> list[tuple[str, str]]:
    """Member -> the beginning of the SHA-256 of the weights that were evaluated, as far as they are recorded."""
    return [(name, digest[:12]) for name, digest in (found["evaluation"].get("weights_sha256") or {}).items()]


def _get_limits(summary: dict) -> dict:
    return {name: value["interval"] for name, value in summary["pooled"][summary["pooled"]["headline"]].items()}


def _list_facts(summary: dict) -> list[tuple[str, str]]:
    """The figures at the top."""
    pooled, counts = summary["pooled"], summary["counts"]
    low_high = _get_limits(summary)["eer"]
    known = counts["groups"] != counts["videos"] or grouping.are_persons(summary["grouping"])
    groups = [(grouping.noun(summary["grouping"]) + "s", str(counts["groups"]))] if known else []
    return [
        ("equal error rate", percent(pooled["eer"])),
        ("its 95 % interval", percent_range(low_high)),
        ("AUC", plain(pooled["auc"])),
        ("live", str(counts["live"])),
        ("attacks", str(counts["attack"])),
        *groups,
        ("without a score", str(len(summary["non_response"]["videos"]))),
        *([("soft labels, not judged", str(summary["soft_labelled"]))] if "soft_labelled" in summary else []),
    ]


def _tabulate_parts(summary: dict) -> dict[str, dict]:
    """The tables by fold and by member; each has its rows and the rate at the end of its pictures."""
    folds = [(f"fold {row['fold']}" if row["fold"] >= 0 else "holdout", row) for row in summary["folds"]]
    members = [(row["member"], row) for row in summary["members"]]
    most = round_reach([row["eer_interval"] for _, row in (*folds, *members)])
    weights = summary.get("weights", {})
    return {
        kind: {
            "most": most,
            "rows": [
                {
                    "name": name,
                    **row,
                    "picture": charts.draw_whisker(row["eer"], row["eer_interval"], most),
                    "weight": weights.get(name),
                }
                for name, row in listed
            ],
        }
        for kind, listed in (("Fold", folds), ("Member", members))
    }


def _tabulate_species(summary: dict) -> list[dict]:
    """APCER of each species at the EER's threshold, the worst first."""
    rates = summary["at_eer_threshold"]["apcer_species"]
    ordered = sorted(rates.items(), key=lambda item: (-(item[1]["value"] or 0), item[0]))
    most = round_reach([rate["interval"] for rate in rates.values()])
    return [
        {"name": name, **rate, "picture": charts.draw_whisker(rate["value"], rate["interval"], most)}
        for name, rate in ordered
    ]


def _tabulate_cameras(found: dict | None) -> dict | None:
    """The rows by camera, the worst first; None where no camera is named."""
    if not found:
        return None
    most = round_reach([row["eer_interval"] for row in found["rows"]])
    rows = [
        row | {"picture": charts.draw_whisker(row["eer"], row["eer_interval"], most), "name": row["camera"]}
        for row in found["rows"]
    ]
    return found | {"rows": rows, "headline": tell_worst(found), "most": most}


def _tabulate_correlation(found: dict) -> dict | None:
    """The matrix with numbered columns; None where no two members scored the same videos."""
    values, names = found["errors"], found["members"]
    if not any(v is not None for i, row in enumerate(values) for j, v in enumerate(row) if i != j):
        return None
    rows = []
    for i, name in enumerate(names):
        cells = [
            {"text": plain(v, 2), "videos": found["videos"][i][j], "shade": "" if v is None else f"{0.55 * abs(v):.2f}"}
            for j, v in enumerate(values[i])
        ]
        rows.append({"number": i + 1, "name": name, "cells": cells})
    return {"rows": rows}


def _tabulate_calibration(summary: dict) -> dict | None:
    """How each member's scores were calibrated, and the figures before and after; None where nothing was."""
    found = summary.get("calibration")
    if not isinstance(found, dict) or found.get("how") in (None, "none"):
        return None
    rows = []
    for member in found["members"]:
        values = member["parameters"]
        numbers = [f"{key} {value:.3f}" for key, value in values.items() if isinstance(value, (int, float))]
        numbers += [f"{len(value)} {key}" for key, value in values.items() if isinstance(value, list)]
        words = ", ".join([*numbers, *([values["note"]] if values.get("note") else [])])
        rows.append({**member, "how": values.get("how"), "numbers": words or "–"})
    titles = {"eer": "EER", "auc": "AUC", "log_loss": "log loss", "brier": "Brier"}
    titles["calibration_error"] = "calibration error"
    change = []
    for name, title in titles.items():
        show = percent if name == "eer" else plain
        change.append((title, show(found["raw"].get(name)), show(summary["pooled"].get(name))))
    return {"how": found["how"], "rows": rows, "change": change}


def _tell_naive_gap(found: dict | None) -> dict | None:
    """What folds that ignore persons would have claimed."""
    if not isinstance(found, dict) or found.get("grouped_eer") is None or found.get("naive_eer") is None:
        return None
    interval = found.get("interval")
    sure = interval and None not in interval and (interval[0] > 0 or interval[1] < 0)
    verdict = found.get("verdict") or ("" if sure else "cannot be told apart")
    return {"difference": None, **found, "interval": interval, "members": found.get("members", []), "verdict": verdict}


def _group_runs(runs: list[dict]) -> list[dict]:
    """Runs of equal recipes together: settings and versions once, the members as rows."""
    found: dict[str, dict] = {}
    for run in runs:
        key = json.dumps(run["recipe"], sort_keys=True)
        name = run["recipe"].get("name", "unknown")
        entry = found.setdefault(key, {"name": name, "settings": _flatten(run["recipe"]), "runs": [], "versions": {}})
        commit = run["commit"] or ""
        entry["runs"].append(run | {"code": commit[:12] + "+" * commit.endswith("+") or "not recorded"})
        versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
        entry["versions"].setdefault(versions or "not recorded", []).append(run["member"])
    return list(found.values())


def _flatten(values: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted keys, as ``-o`` takes them."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += _flatten(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", json.dumps(value, ensure_ascii=False)))
    return found
