"""The report as a page: the figures of ``pages.figures`` put into words, tables, plots and pictures."""

import base64
import hashlib
import json
from pathlib import Path

from markupsafe import Markup

from liveness.base.tables import read_table
from liveness.evaluation import grouping
from liveness.evaluation.cameras import CUES, tell_worst
from liveness.evaluation.format import (
    of_total,
    percent,
    percent_range,
    percentage_points,
    percentage_points_range,
    plain,
    plain_range,
)
from liveness.evaluation.intervals import clopper_pearson
from liveness.pages import charts
from liveness.pages.page import TEMPLATES, make_environment, make_thumbnail, spread_evenly
from liveness.pages.report_laboratory import round_reach, tabulate_search, tabulate_shift

_MOST_FRAMES = 3  # thumbnails of a worst video, besides its face
_MOST_SILENT = 60
_OPTIONAL = (
    # Key of ``page``, of the reason in found["absent"], and what the section would show.
    ("correlation", "correlation", "How far members go wrong together"),
    ("naive", "naive_gap", "What folds that ignore persons would have claimed"),
    ("shift", "shift", "Shift laboratory"),
    ("search", "search", "Which ensemble"),
)


def render_report_page(found: dict, folder: Path, evaluated: str) -> str:
    """The whole page as HTML. found: of ``figures``; folder: data/<set>, where the frames lie; evaluated: when."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    env = make_environment()
    env.filters.update(
        pct=percent,
        pct_range=percent_range,
        plain=plain,
        plain_range=plain_range,
        points=percentage_points,
        points_range=percentage_points_range,
        of=of_total,
        cut=_write_threshold,
    )
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
        script=Markup(script),
        script_digest=digest,
        payload=_make_payload(found),
        panels=[_lay_panel(part, found["operating_points"]) for part in found["splits"]],
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


def _write_threshold(value: float | None) -> str:
    """A score with three digits, with more near 0 and 1, where scores crowd."""
    return plain(value, 3 if value is None or 0.01 <= value <= 0.99 else 5)


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
    ]


def _make_payload(found: dict) -> Markup:
    """What the script needs, as JSON that cannot end its element: every split's scores and intervals.

    upper[n][k] is Clopper and Pearson's upper limit for k errors of n; the lower one is
    1 - upper[n][n - k].
    """
    splits = []
    for part in found["splits"]:
        attack = list(part["scores"]["attack"].items())
        totals = {part["live"], part["attack"], *(len(scores) for _, scores in attack)}
        upper = {n: [round(clopper_pearson(k, n)[1], 8) for k in range(n + 1)] for n in totals}
        splits.append({"live": part["scores"]["live"], "attack": attack, "upper": upper})
    points = [
        {
            "name": p["name"],
            "title": p["title"],
            "threshold": p["threshold"],
            "between": p.get("threshold_interval"),
        }
        for p in found["operating_points"]
    ]
    text = json.dumps({"splits": splits, "points": points}, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _lay_panel(part: dict, points: list[dict]) -> dict:
    """A split's table at the start, where its own errors are equal, and its plots."""
    start = part["threshold"]
    attack = part["scores"]["attack"]
    passed = {name: sum(score >= start for score in scores) for name, scores in attack.items()}
    missed = sum(score < start for score in part["scores"]["live"])
    rows = [("bpcer", "BPCER: live turned away", _rate_cells(missed, part["live"]))]
    rows += [("species", f"APCER, {name}", _rate_cells(passed[name], len(attack[name]))) for name in attack]
    if len(attack) > 1:
        rows.append(("pooled", "APCER, all attacks together", _rate_cells(sum(passed.values()), part["attack"])))
    worst = max(sorted(passed), key=lambda name: passed[name] / len(attack[name]))
    half = (sum(passed.values()) / part["attack"] + missed / part["live"]) / 2
    return {
        "name": part["name"],
        "part": part,
        "start": start,
        "rows": rows,
        "worst": f"{worst}: {percent(passed[worst] / len(attack[worst]))}" if len(attack) > 1 else "",
        "hter": percent(half),
        "confusion": [part["live"] - missed, missed, sum(passed.values()), part["attack"] - sum(passed.values())],
        "points": points,
        "approximate": part["name"] != "holdout" and any(point["approximate"] for point in points),
        "histogram": charts.draw_histogram(part),
        "det": charts.draw_det(part, points),
        "roc": charts.draw_roc(part, points),
        "reliability": charts.draw_reliability(part),
        # The slider lies under the histogram's axis.
        "left": 100 * charts.LEFT / charts.WIDTH,
        "right": 100 * (charts.WIDTH - charts.RIGHT) / charts.WIDTH,
    }


def _rate_cells(errors: int, total: int) -> list[str]:
    """Value, interval, counts: as the script writes them."""
    return [percent(errors / total), percent_range(list(clopper_pearson(errors, total))), f"{errors} of {total}"]


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


class WorstPictures:
    """Thumbnails of the worst videos: stored frames with the face's box, and one face."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._frames: dict[str, list] = {}
        self._ids: dict[str, str] = {}
        boxes, videos = folder / "labels_bbox.csv", folder / "labels_video.csv"
        if boxes.is_file() and videos.is_file():
            listed = read_table(videos, ["filename", "video_id"])
            self._ids = dict(zip(listed["filename"], listed["video_id"], strict=True))
            table = read_table(boxes, ["filename", "video_id", "frame_id", "face", "x", "y", "w", "h"])
            for row in table.itertuples(index=False):
                self._frames.setdefault(row.video_id, []).append(row)

    def of_video(self, video: dict) -> list[dict]:
        """Up to three frames and a face, each {src, width, height, alt, caption}."""
        rows = self._frames.get(self._ids.get(video["filename"], ""), [])
        shown = []
        for row in spread_evenly(rows, _MOST_FRAMES):
            box = [float(row.x), float(row.y), float(row.w), float(row.h)] if row.face == "1" else None
            made = make_thumbnail(self._folder / "frames" / row.filename, box)
            score = video["frames"].get(row.frame_id)
            caption = f"frame {row.frame_id}" + ("" if score is None else f": {score:.2f}")
            shown += (
                [made | {"alt": f"Frame {row.frame_id} of {video['filename']}", "caption": caption}] if made else []
            )
        faces = [row for row in rows if row.face == "1"]
        if faces:
            row = faces[len(faces) // 2]
            made = make_thumbnail(self._folder / "faces" / "crop" / row.filename)
            alt = f"Face in frame {row.frame_id} of {video['filename']}"
            shown += [made | {"alt": alt, "caption": f"face, frame {row.frame_id}"}] if made else []
        return shown
