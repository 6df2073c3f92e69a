"""How a detector does on each camera, and which cue alone tells the classes apart there. Tables in, dictionaries out.

A figure over all cameras hides the one on which the detector fails, and a camera on which, say, live images are
brighter teaches brightness instead of liveness.
"""

import numpy as np
import pandas as pd

from liveness.evaluation import intervals, metrics
from liveness.evaluation.format import percent, plain
from liveness.evaluation.rates import error_rates

# What is measured without looking for liveness, in words: columns of ``measure_cues``'s table.
CUES = {
    "brightness": "brightness of the face",
    "contrast": "contrast of the face",
    "sharpness": "sharpness of the face",
    "face_width": "width of the face",
    "resolution": "resolution",
}
# A cue is told of where its AUC is at least so far from chance, its interval's nearer end too, and there are ...
CUE_AUC = 0.8
CUE_BOUND = 0.7
CUE_VIDEOS = 10  # ... so many videos of each class


def measure_cameras(table: pd.DataFrame, threshold: float, species=None) -> dict | None:
    """A row per camera, the worst first, and how far apart the cameras' own thresholds lie; None where none is named.

    table: label (1 live, 0 attack), group, camera ("" for not named), score (nan for none), a row per video.
    threshold: live means a score at or above it, on all cameras. species: one name per row, or None. In a row
    ``threshold`` is that of the camera's own EER, ``elsewhere`` the rates at the one of all other cameras' videos:
    what a new camera would get. Intervals are by group where groups hold several videos. The worst camera is the one
    with the highest of APCER and BPCER at ``threshold``, of equal ones that with the higher EER. Videos without a
    camera have the last row.
    """
    if not (table["camera"] != "").any():
        return None
    kinds = np.asarray([None] * len(table) if species is None else list(species), dtype=object)
    scored = np.isfinite(table["score"].to_numpy(dtype=float))
    rows = []
    for name in sorted(set(table["camera"])):
        mine = (table["camera"] == name).to_numpy()
        other = table[~mine & scored]
        learned = metrics.eer(other["label"].to_numpy(int), other["score"].to_numpy(float)).threshold
        part, kept = table[mine & scored], None if species is None else list(kinds[mine & scored])
        rows.append({"camera": name, "videos": int(mine.sum()), **_measure_camera(part, threshold, learned, kept)})
    rows.sort(key=lambda row: (not row["camera"], *(-value for value in _rank_errors(row))))
    own = [row["threshold"] for row in rows if row["camera"] and np.isfinite(row["threshold"])]
    return {
        "rows": rows,
        "threshold": threshold,
        "worst": rows[0]["camera"],
        "spread": {"low": min(own), "high": max(own), "cameras": len(own)} if len(own) > 1 else None,
    }


def _measure_camera(part: pd.DataFrame, threshold: float, learned: float, species) -> dict:
    """Figures of one camera's videos, all with a score."""
    labels, scores = part["label"].to_numpy(dtype=int), part["score"].to_numpy(dtype=float)
    groups = part["group"].to_numpy()
    rates = error_rates(labels, scores, threshold, species, groups)
    equal = metrics.eer(labels, scores)
    found = intervals.bootstrap(labels, scores, groups if rates["by"] == "group" else None)
    elsewhere = error_rates(labels, scores, learned, species, groups)
    return {
        "scored": len(part),
        "live": int(labels.sum()),
        "attack": int((1 - labels).sum()),
        "groups": len(set(groups)),
        "eer": equal.value,
        "eer_interval": found["eer"].as_list(),
        "threshold": equal.threshold,
        "auc": metrics.auc(labels, scores),
        **{key: rates[key] for key in ("apcer", "bpcer", "by")},
        "worst_species": rates["worst"],
        "elsewhere": {"threshold": learned, "apcer": elsewhere["apcer"], "bpcer": elsewhere["bpcer"]},
    }


def _rank_errors(row: dict) -> tuple[float, float]:
    values = [row["apcer"]["value"], row["bpcer"]["value"], row["eer"]]
    apcer, bpcer, eer = (-1.0 if np.isnan(value) else value for value in values)
    return max(apcer, bpcer), eer


def tell_worst(found: dict) -> str:
    """The headline over cameras as a sentence."""
    row = found["rows"][0]
    many = sum(bool(one["camera"]) for one in found["rows"])
    which = f"On the worst of {many} cameras, {row['camera']}," if many > 1 else f"On the only camera, {row['camera']},"
    sides = [
        f"{percent(row[key]['value'])} of {what}"
        for key, what in (("apcer", "attacks pass for live"), ("bpcer", "live videos are turned away"))
        if row[key]["total"]
    ]
    equal = f" (its own equal error rate: {percent(row['eer'])})" if np.isfinite(_number(row["eer"])) else ""
    return f"{which} {' and '.join(sides) or 'nothing is scored'}{equal}."


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def measure_cues(table: pd.DataFrame) -> list[dict]:
    """The cues that alone tell live from attack within a camera: the strongest first, cameras by name.

    table: label (0 or 1), camera, and columns of CUES (nan where not measured), a row per video. ``auc``: the
    probability that a live video's value is above an attack's. Its interval is by video: what is asked is whether
    these videos teach the cue, not whether other persons' would.
    """
    found: list[dict] = []
    for camera in sorted(set(table["camera"])):
        mine, cues = table[table["camera"] == camera], []
        for cue in CUES:
            if cue in mine and (told := _measure_cue(mine, cue)):
                cues.append({"camera": camera, "cue": cue, **told})
        found += sorted(cues, key=lambda row: -abs(row["auc"] - 0.5))
    return found


def _measure_cue(videos: pd.DataFrame, cue: str) -> dict | None:
    values = pd.to_numeric(videos[cue]).to_numpy(dtype=float)
    known = np.isfinite(values)
    labels, values = videos["label"].to_numpy(dtype=int)[known], values[known]
    if min(int(labels.sum()), int((1 - labels).sum())) < CUE_VIDEOS:
        return None
    auc = metrics.auc(labels, values)
    if max(auc, 1 - auc) < CUE_AUC:
        return None
    sign = 1 if auc > 0.5 else -1  # of the bootstrap's limits only those of a high AUC know that none is certain
    low, high = intervals.bootstrap(labels, sign * values)["auc"].as_list()
    if low <= CUE_BOUND:
        return None
    low, high = (low, high) if sign == 1 else (1 - high, 1 - low)
    middle = [float(np.median(values[labels == label])) for label in (1, 0)]
    return {"auc": auc, "interval": [low, high], "live": middle[0], "attack": middle[1], "videos": len(labels)}


def tell_cues(found: list[dict]) -> str:
    """What ``measure_cues`` found as a sentence; "" for nothing."""
    by_camera: dict[str, list[str]] = {}
    for row in found:
        by_camera.setdefault(row["camera"], []).append(f"{CUES[row['cue']]} (AUC {plain(row['auc'], 2)})")
    listed = [f"{camera or 'no camera named'}: {', '.join(cues)}" for camera, cues in by_camera.items()]
    return (
        f"Within a camera a cue alone tells live from attack, which a model may learn instead: {'; '.join(listed)}."
        if listed
        else ""
    )
