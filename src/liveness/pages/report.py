"""The report as a page: the figures of ``pages.figures`` put into words, tables, plots and pictures."""

import base64
import hashlib
import json
import math
from pathlib import Path

from markupsafe import Markup

from liveness.base.tables import read_table
from liveness.evaluation import format as figures_as_text
from liveness.evaluation import grouping
from liveness.evaluation.intervals import clopper_pearson
from liveness.members.names import parse_member_name, recipe_fold
from liveness.pages import charts
from liveness.pages.page import TEMPLATES, environment, spread, thumbnail

MOST_FRAMES = 3  # thumbnails of a worst video, besides its face
MOST_SHIFT = 60  # rows of a table
MOST_SUBSETS = 40
MOST_SILENT = 60
CELLS = {"worse": "bad", "better": "is-live"}


def page(found: dict, folder: Path, evaluated: str) -> str:
    """The whole page as HTML. found: of ``figures``; folder: data/<set>, where the frames lie; evaluated: when."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    env = environment()
    env.filters.update(
        pct=percent,
        pct_range=percent_range,
        plain=plain,
        plain_range=plain_range,
        points=difference,
        of=of_total,
        cut=threshold,
    )
    pictures = Pictures(folder)
    optional = {
        "correlation": correlation(found["correlation"]),
        "naive": naive(found["evaluation"].get("naive_gap")),
        "shift": shift(found["shift"]),
        "search": search(found["search"]),
    }
    return env.get_template("report.html").render(
        found=found,
        summary=found["evaluation"],
        limits=headline_limits,
        facts=facts(found["evaluation"]),
        noun=grouping.noun(found["evaluation"]["grouping"]),
        script=Markup(script),
        script_digest=digest,
        payload=payload(found),
        panels=[panel(part, found["operating_points"]) for part in found["splits"]],
        parts=parts(found["evaluation"]),
        species=species(found["evaluation"]),
        calibration=calibration(found["evaluation"]),
        withheld=(found["evaluation"].get("calibration") or {}).get("withheld"),
        **optional,
        lacking=lacking(optional),
        evaluated=evaluated,
        digests=digests(found),
        worst=[video | {"pictures": pictures.of_video(video)} for video in found["worst"]],
        silent=found["evaluation"]["non_response"]["videos"][:MOST_SILENT],
        recipes=recipes(found["runs"]),
        charts=charts,
    )


OPTIONAL = (
    # Key of ``page``, of the reason in found["absent"], and what the section would show.
    ("correlation", "correlation", "How far members go wrong together"),
    ("naive", "naive_gap", "What folds that ignore persons would have claimed"),
    ("shift", "shift", "Shift laboratory"),
    ("search", "search", "Which ensemble"),
)


def lacking(optional: dict) -> list[tuple[str, str]]:
    """The parts that there is nothing to show of: (title, key of the reason)."""
    empty = {key for key, part in optional.items() if not part or (key == "shift" and not part["rows"])}
    return [(title, reason) for key, reason, title in OPTIONAL if key in empty]


def digests(found: dict) -> list[tuple[str, str]]:
    """Member -> the beginning of the SHA-256 of the weights that were evaluated, as far as they are recorded."""
    return [(name, digest[:12]) for name, digest in (found["evaluation"].get("weights_sha256") or {}).items()]


def percent(rate: float | None) -> str:
    return figures_as_text.percent(rate)


def percent_range(limits: list | None) -> str:
    """``3.1–17.2 %``; a dash where there is no interval."""
    return "–" if not limits or None in limits else figures_as_text.percent_range(limits)


def plain(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def plain_range(limits: list | None, digits: int = 3) -> str:
    return "–" if not limits or None in limits else f"{plain(limits[0], digits)}–{plain(limits[1], digits)}"


def difference(value: float | None) -> str:
    """A difference of rates in percentage points, with its sign."""
    return "–" if value is None else figures_as_text.percentage_points(value)


def threshold(value: float | None) -> str:
    """A score with three digits, with more near 0 and 1, where scores crowd."""
    return plain(value, 3 if value is None or 0.01 <= value <= 0.99 else 5)


def of_total(rate: dict) -> str:
    return f"{rate['errors']} of {rate['total']}"


def headline_limits(summary: dict) -> dict:
    return {name: value["interval"] for name, value in summary["pooled"][summary["pooled"]["headline"]].items()}


def facts(summary: dict) -> list[tuple[str, str]]:
    """The figures at the top."""
    pooled, counts = summary["pooled"], summary["counts"]
    low_high = headline_limits(summary)["eer"]
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


def payload(found: dict) -> Markup:
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


def panel(part: dict, points: list[dict]) -> dict:
    """A split's table at the start, where its own errors are equal, and its plots."""
    start = part["threshold"]
    attack = part["scores"]["attack"]
    passed = {name: sum(score >= start for score in scores) for name, scores in attack.items()}
    missed = sum(score < start for score in part["scores"]["live"])
    rows = [("bpcer", "BPCER: live turned away", rate_cells(missed, part["live"]))]
    rows += [("species", f"APCER, {name}", rate_cells(passed[name], len(attack[name]))) for name in attack]
    if len(attack) > 1:
        rows.append(("pooled", "APCER, all attacks together", rate_cells(sum(passed.values()), part["attack"])))
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
        "histogram": charts.histogram(part),
        "det": charts.det(part, points),
        "roc": charts.roc(part, points),
        "reliability": charts.reliability(part),
        # The slider lies under the histogram's axis.
        "left": 100 * charts.LEFT / charts.WIDTH,
        "right": 100 * (charts.WIDTH - charts.RIGHT) / charts.WIDTH,
    }


def rate_cells(errors: int, total: int) -> list[str]:
    """Value, interval, counts: as the script writes them."""
    return [percent(errors / total), percent_range(list(clopper_pearson(errors, total))), f"{errors} of {total}"]


def parts(summary: dict) -> dict[str, dict]:
    """The tables by fold and by member; each has its rows and the rate at the end of its pictures."""
    folds = [(f"fold {row['fold']}" if row["fold"] >= 0 else "holdout", row) for row in summary["folds"]]
    members = [(row["member"], row) for row in summary["members"]]
    most = reach([row["eer_interval"] for _, row in (*folds, *members)])
    weights = summary.get("weights", {})
    return {
        kind: {
            "most": most,
            "rows": [
                {
                    "name": name,
                    **row,
                    "picture": charts.whisker(row["eer"], row["eer_interval"], most),
                    "weight": weights.get(name),
                }
                for name, row in listed
            ],
        }
        for kind, listed in (("Fold", folds), ("Member", members))
    }


def reach(intervals: list[list | None]) -> float:
    """The rate at which the pictures of a table end: the highest limit, rounded up to whole 10 %."""
    most = max((limits[1] for limits in intervals if limits and limits[1] is not None), default=1.0)
    return max(0.1, math.ceil(10 * most - 1e-9) / 10)


def species(summary: dict) -> list[dict]:
    """APCER of each species at the EER's threshold, the worst first."""
    rates = summary["at_eer_threshold"]["apcer_species"]
    ordered = sorted(rates.items(), key=lambda item: (-(item[1]["value"] or 0), item[0]))
    most = reach([rate["interval"] for rate in rates.values()])
    return [
        {"name": name, **rate, "picture": charts.whisker(rate["value"], rate["interval"], most)}
        for name, rate in ordered
    ]


def correlation(found: dict) -> dict | None:
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


def calibration(summary: dict) -> dict | None:
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
    words = {"eer": "EER", "auc": "AUC", "log_loss": "log loss", "brier": "Brier"}
    words["calibration_error"] = "calibration error"
    change = []
    for name, title in words.items():
        show = percent if name == "eer" else plain
        change.append((title, show(found["raw"].get(name)), show(summary["pooled"].get(name))))
    return {"how": found["how"], "rows": rows, "change": change}


def naive(found: dict | None) -> dict | None:
    """What folds that ignore persons would have claimed."""
    if not isinstance(found, dict) or found.get("grouped_eer") is None or found.get("naive_eer") is None:
        return None
    interval = found.get("interval")
    sure = bool(interval) and None not in interval and (interval[0] > 0 or interval[1] < 0)
    verdict = found.get("verdict") or ("" if sure else "cannot be told apart")
    return {"difference": None, **found, "interval": interval, "members": found.get("members", []), "verdict": verdict}


UNMEASURED = dict.fromkeys(
    ("parameters", "severity", "interval", "difference", "difference_interval", "verdict")
    + ("apcer", "bpcer", "auc", "videos", "no_score")
)


def shift(found: dict | None) -> dict | None:
    """The laboratory's rows, worst first, with pictures on one scale."""
    if not found:
        return None
    known = [row for row in found["rows"] if isinstance(row, dict) and isinstance(row.get("eer"), (int, float))]
    known.sort(key=lambda row: -row["eer"])
    clean = found.get("clean") if isinstance(found.get("clean"), dict) else {}
    most = reach([row.get("interval") for row in known])
    rows = [{**UNMEASURED, **row, "picture": charts.whisker(row["eer"], row.get("interval"), most)} for row in known]
    for row in rows:
        row["css"] = CELLS.get(row["verdict"], "")
    return {
        "rows": rows[:MOST_SHIFT],
        "all": len(found["rows"]),
        "clean": {"eer": clean.get("eer"), "interval": clean.get("interval"), "videos": clean.get("videos")},
        "clean_picture": charts.whisker(clean.get("eer"), clean.get("interval"), most),
        "counts": shift_counts(rows, len(found["rows"])),
    }


def shift_counts(rows: list[dict], every: int) -> str:
    """What became of all the changes, in words whose numbers add up; rows: those with an error rate."""
    verdicts = [row["verdict"] for row in rows]
    known = {"worse": "worse", "better": "better", "cannot be told apart": "undecided (cannot be told apart)"}
    parts = [f"{verdicts.count(verdict)} {words}" for verdict, words in known.items()]
    others = sum(verdict not in known for verdict in verdicts)
    parts += [f"{others} not compared"] if others else []
    parts += [f"{every - len(rows)} without an error rate"] if every > len(rows) else []
    return ", ".join(parts)


def search(found: dict | None) -> list[dict]:
    """What liveness.search found, out of fold and on the holdout: each a plot and tables."""
    if not found:
        return []
    blocks = [("Out of fold", found), ("On the holdout", found.get("holdout"))]
    return [searched(title, block, found) for title, block in blocks if isinstance(block, dict)]


UNKNOWN = dict.fromkeys(
    ("milliseconds", "eer", "interval", "against_full", "pareto", "folds", "low", "high", "rule", "escalated")
    + ("difference", "difference_interval")
)


def searched(title: str, block: dict, found: dict) -> dict:
    """One block: figures that search.json does not have are None."""
    lists = {}
    for kind, source in (("members", found), ("subsets", block), ("cascades", block)):
        rows = [row for row in source.get(kind) or [] if isinstance(row, dict)]
        lists[kind] = [{**UNKNOWN, **row, "title": system(kind, row)} for row in rows]
    subsets = sorted(lists["subsets"], key=lambda row: (row["milliseconds"] is None, row["milliseconds"] or 0))
    most = max((len(row.get("members", [])) for row in subsets), default=0)
    shown = [row | {"whole": len(row.get("members", [])) == most} for row in subsets]
    alike = next((row for row in shown if row.get("members") == block.get("cheapest_alike")), None)
    front = [row for row in shown if row["pareto"] or row["whole"] or row is alike]
    pick, proposed = (block.get(key) if isinstance(block.get(key), dict) else None for key in ("pick", "cascade"))
    return {
        "title": title,
        "plot": charts.pareto(lists),
        "rows": front[:MOST_SUBSETS],
        "all_rows": len(front),
        "members": lists["members"],
        "cascades": telling(lists["cascades"], proposed),
        "all_cascades": len(lists["cascades"]),
        "tried": block.get("tried", len(subsets)),
        "alike": alike,
        "pick": pick and {**UNKNOWN, "nested_eer": None, **pick, "title": system("subsets", pick)},
        "proposed": proposed and {**UNKNOWN, **proposed, "title": system("cascades", proposed)},
    }


def telling(cascades: list[dict], proposed: dict | None) -> list[dict]:
    """The cascades that none beats in both time and error, and the proposed one, the fastest first."""
    known = [row for row in cascades if row["milliseconds"] is not None and row["eer"] is not None]
    shown, best = [], math.inf
    for row in sorted(known, key=lambda row: (row["milliseconds"], row["eer"])):
        ours = bool(proposed) and all(row.get(key) == proposed.get(key) for key in ("first", "rule", "low", "high"))
        if row["eer"] < best or ours:
            shown.append(row | {"proposed": ours})
        best = min(best, row["eer"])
    return shown[:MOST_SUBSETS]


def system(kind: str, row: dict) -> str:
    """A member, a subset, or a cascade's first members (recipe:fold, as a configuration has them), in words."""
    if kind == "members":
        return str(row.get("name", ""))
    names = [str(name) for name in row.get("first" if kind == "cascades" else "members") or []]
    if kind == "cascades":
        return ", ".join(recipe_fold(*parse_member_name(name)) for name in names)
    if row.get("folds"):
        recipes = ", ".join(dict.fromkeys(parse_member_name(name)[0] for name in names))
        return recipes + (" (one fold of each)" if row["folds"] == "one" else " (all folds)")
    return ", ".join(names)


def recipes(runs: list[dict]) -> list[dict]:
    """Runs of equal recipes together: settings and versions once, the members as rows."""
    found: dict[str, dict] = {}
    for run in runs:
        key = json.dumps(run["recipe"], sort_keys=True)
        name = run["recipe"].get("name", "unknown")
        entry = found.setdefault(key, {"name": name, "settings": flat(run["recipe"]), "runs": [], "versions": {}})
        commit = run["commit"] or ""
        entry["runs"].append(run | {"code": commit[:12] + "+" * commit.endswith("+") or "not recorded"})
        versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
        entry["versions"].setdefault(versions or "not recorded", []).append(run["member"])
    return list(found.values())


def flat(values: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted keys, as ``-o`` takes them."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", json.dumps(value, ensure_ascii=False)))
    return found


class Pictures:
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
        for row in spread(rows, MOST_FRAMES):
            box = [float(row.x), float(row.y), float(row.w), float(row.h)] if row.face == "1" else None
            made = thumbnail(self._folder / "frames" / row.filename, box)
            score = video["frames"].get(row.frame_id)
            caption = f"frame {row.frame_id}" + ("" if score is None else f": {score:.2f}")
            shown += (
                [made | {"alt": f"Frame {row.frame_id} of {video['filename']}", "caption": caption}] if made else []
            )
        faces = [row for row in rows if row.face == "1"]
        if faces:
            row = faces[len(faces) // 2]
            made = thumbnail(self._folder / "faces" / "crop" / row.filename)
            alt = f"Face in frame {row.frame_id} of {video['filename']}"
            shown += [made | {"alt": alt, "caption": f"face, frame {row.frame_id}"}] if made else []
        return shown
