"""What decisions do: error rates with their abstentions, of all videos and of those taken under one condition.

A table here has a row per labelled video: label (1 live, 0 attack), decision ("live", "attack" or "abstain"), group
and species ("" where none is named). By ISO/IEC 30107-3 whoever is not let in is turned away: a live video that is
abstained from counts in the BPCER, an attack that is abstained from is not accepted. The rates among the decided videos
alone stand beside them. Nothing is read or written.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from liveness.evaluation import intervals, metrics
from liveness.evaluation.rates import error_rates, rate
from liveness.evaluation.thresholds import rate_interval

FEW_VIDEOS = 10  # of a class under one condition: with fewer its rate says little
UNKNOWN = "not known"
# Condition -> its title, and the edges between its parts where it is a number.
CONDITIONS: dict[str, tuple[str, tuple[int, ...]]] = {
    "camera": ("Camera", ()),
    "side": ("Resolution, shorter side in pixels", (480, 720, 1080)),
    "brightness": ("Brightness of the face, luma 0 to 255", (50, 90, 130, 170)),
    "face_width": ("Width of the face in pixels", (80, 160, 240, 320)),
    "codec": ("Codec", ()),
}


def measure_decisions(table: pd.DataFrame) -> dict:
    """The rates of ``rates.error_rates``, all videos counting as ISO/IEC 30107-3 says; ``abstained`` (of live, of
    attack: rates); ``decided``: the same error rates among the videos that are decided."""
    decisions = table["decision"].to_numpy()
    abstained = {
        name: _rate_of(table[table["label"] == label], "abstain") for label, name in ((1, "live"), (0, "attack"))
    }
    return {**_errors(table), "abstained": abstained, "decided": _errors(table[decisions != "abstain"])}


def _errors(table: pd.DataFrame) -> dict:
    accepted = (table["decision"] == "live").to_numpy(dtype=float)
    species = table["species"].tolist()
    return error_rates(table["label"].to_numpy(int), accepted, 0.5, species, table["group"].to_numpy())


def _rate_of(part: pd.DataFrame, decision: str, wrong: bool = True) -> dict:
    """The share of a class's videos with that decision (without it where not ``wrong``), with its interval."""
    hit = ((part["decision"] == decision) == wrong).to_numpy()
    counted, groups = metrics.Rate(int(hit.sum()), len(part)), part["group"].to_numpy()
    shared = len(part) and len(set(groups)) < len(groups)
    return rate(counted, rate_interval(hit, groups) if shared else None)


def divide_into_parts(conditions: pd.DataFrame) -> pd.DataFrame:
    """The part of every condition that each video belongs to, as text; UNKNOWN where nothing is known.

    conditions: columns of CONDITIONS, numbers as floats (nan: not known), the others as text ("": not known).
    """
    found = {}
    for name, (_, edges) in CONDITIONS.items():
        values = conditions[name]
        if edges:
            numbers = values.to_numpy(dtype=float)
            places = np.searchsorted(edges, numbers, "right")
            texts = [name_part(edges, int(place)) for place in places]
            found[name] = np.where(np.isfinite(numbers), texts, UNKNOWN)
        else:
            found[name] = np.where(values == "", UNKNOWN, values)
    return pd.DataFrame(found, index=conditions.index, dtype=object)


def name_part(edges: Sequence[int], place: int) -> str:
    """``below 480``, ``480 to 719``, ``1080 and more``."""
    if place == 0:
        return f"below {edges[0]}"
    return f"{edges[place - 1]} and more" if place == len(edges) else f"{edges[place - 1]} to {edges[place] - 1}"


def measure_conditions(table: pd.DataFrame, conditions: pd.DataFrame) -> list[dict]:
    """For every condition: name, title and rows, a row per part that has videos (``measure_part``).

    table: decisions, rows as in ``conditions`` (of ``divide_into_parts``' argument).
    """
    parts = divide_into_parts(conditions)
    found = []
    for name, (title, edges) in CONDITIONS.items():
        there = set(parts[name])
        ordered = [name_part(edges, place) for place in range(len(edges) + 1)] if edges else sorted(there - {UNKNOWN})
        rows = [
            {"part": part, **measure_part(table[(parts[name] == part).to_numpy()])}
            for part in (*ordered, UNKNOWN)
            if part in there
        ]
        found.append({"name": name, "title": title, "rows": rows})
    return found


def measure_part(table: pd.DataFrame) -> dict:
    """Errors of some of the videos: apcer (all attacks together), bpcer and abstained as rates with intervals; ``few``
    says of which class there are fewer than FEW_VIDEOS ("", "live", "attacks", "both")."""
    live, attack = table[table["label"] == 1], table[table["label"] == 0]
    short = [name for name, part in (("live", live), ("attacks", attack)) if len(part) < FEW_VIDEOS]
    return {
        "live": len(live),
        "attack": len(attack),
        "apcer": _rate_of(attack, "live"),
        "bpcer": _rate_of(live, "live", wrong=False),
        "abstained": _rate_of(table, "abstain"),
        "few": "both" if len(short) == 2 else "".join(short),
    }


def measure_cameras_apart(table: pd.DataFrame) -> dict | None:
    """Every camera for itself: ``measure_part``, its EER with interval and the threshold of that EER; which is the
    worst (the larger of APCER and BPCER), and how far the thresholds are spread. None where no camera is named.

    table: with decisions, camera and score (nan for none).
    """
    named = sorted(set(table["camera"]) - {""})
    if not named:
        return None
    rows = []
    for name in [*named, *([""] if (table["camera"] == "").any() else [])]:
        part = table[(table["camera"] == name).to_numpy()]
        scored = part[np.isfinite(part["score"].to_numpy(dtype=float))]
        labels, scores, groups = (scored[key].to_numpy() for key in ("label", "score", "group"))
        equal = metrics.eer(labels, scores)
        limits = intervals.bootstrap(labels, scores, groups if len(set(groups)) < len(groups) else None)["eer"]
        own = {"eer": equal.value, "eer_interval": limits.as_list(), "eer_threshold": equal.threshold}
        rows.append({"camera": name or UNKNOWN, **measure_part(part), **own})
    known = rows[: len(named)]  # videos of which no camera is known are of none
    thresholds = [row["eer_threshold"] for row in known if np.isfinite(row["eer_threshold"])]
    sides = {row["camera"]: [row[side]["value"] for side in ("apcer", "bpcer") if row[side]["total"]] for row in known}
    return {
        "rows": rows,
        "worst": max(sides, key=lambda camera: max(sides[camera])),
        "thresholds": [min(thresholds), max(thresholds)] if thresholds else None,
    }


def compare_decisions(before: pd.DataFrame, after: pd.DataFrame) -> list[dict]:
    """Per class how many of the same videos were decided wrongly before and are now, how many were mended and how many
    are newly wrong, and the exact two-sided p of McNemar's test (a coin for every video that changed sides).

    before, after: decisions, rows of the same videos. Wrong: a live video not taken for live, an attack that is.
    """
    from scipy import stats

    rows = []
    for label, name in ((1, "live"), (0, "attack")):
        mine = (after["label"] == label).to_numpy()
        old, new = ((part["decision"] == "live").to_numpy()[mine] != (label == 1) for part in (before, after))
        mended, spoiled = int((old & ~new).sum()), int((~old & new).sum())
        p = float(stats.binomtest(mended, mended + spoiled).pvalue) if mended + spoiled else 1.0
        rows.append(
            {"class": name, "videos": int(mine.sum()), "before": int(old.sum()), "after": int(new.sum()),
             "mended": mended, "spoiled": spoiled, "p": p}
        )  # fmt: skip
    return rows
