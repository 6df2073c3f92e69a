"""The figures of the dataset page: what a prepared set holds by label, fold, species and group, and its spread."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from liveness.base.config import Detector
from liveness.base.files import natural_key
from liveness.evaluation import grouping, metrics
from liveness.evaluation.cameras import CUES
from liveness.evaluation.format import plain
from liveness.pages.dataset_tables import LABEL_KINDS, SetTables
from liveness.pages.distributions import Measure, count_bars, draw_bars, round_as_shown
from liveness.pages.page import read_written_time
from liveness.sets.folds import digest_of_set
from liveness.sets.grouping import read_grouping

MOST_ROWS = 200  # rows of a table
MOST_GROUPS = 20
MOST_SPECIES = 30
TELLING = 0.2  # distance of an AUC from 0.5 that is pointed out ...
ENOUGH = 20  # ... where each class has so many videos


def describe_set(tables: SetTables) -> dict:
    """Everything on the page that needs no picture, by the names that the template has for it."""
    found = _list_measures(tables)
    enough = bool(tables.videos["label"].value_counts().min() >= ENOUGH)
    return {
        "set": tables.name,
        "kinds": tables.kinds,
        "facts": _list_facts(tables),
        "origin": _describe_origin(tables),
        "about": _describe_preparation(tables),
        "folds": _tabulate_folds(tables),
        "species": _tabulate_species(tables),
        "cameras": _tabulate_cameras(tables),
        "groups": _tabulate_groups(tables),
        "leak": _find_leaks(tables),
        "formats": [_count_values(tables, title, values, enough) for title, values in _list_formats(tables.videos)],
        "summary": [_summarise(measure, enough) for measure in found],
        "telling": TELLING,
        "plots": {of: [_plot(measure) for measure in found if measure.of == of] for of in ("videos", "frames")},
        "trouble": _list_trouble(tables),
    }


def _list_measures(tables: SetTables) -> list[Measure]:
    """Everything that is drawn and summarised, by label."""
    videos, boxes = tables.videos, tables.boxes
    frame_size = videos.set_index("video_id")[["width", "height"]].reindex(boxes["video_id"])
    shorter = frame_size.min(axis=1).to_numpy()
    side = boxes[["w", "h"]].max(axis=1).to_numpy()
    share = 100 * side / shorter

    def by_kind(table: pd.DataFrame, values: np.ndarray) -> dict[str, np.ndarray]:
        values = np.asarray(values, dtype=float)
        return {kind.name: values[(table["label"] == kind.label).to_numpy()] for kind in tables.kinds}

    looked_at = videos.iloc[tables.measured]
    sample = f" of {len(looked_at)} videos, evenly spread" if len(looked_at) < len(videos) else ""
    pixels = np.sqrt(videos["width"] * videos["height"])
    timed = [
        Measure("Duration", "s", "videos", by_kind(videos, videos["duration"])),
        Measure("Frame rate", "frames per second", "videos", by_kind(videos, videos["fps"])),
    ]
    return [
        *([] if videos["image"].any() and videos["duration"].isna().all() else timed),
        Measure("Frame size (root of width × height)", "pixels", "videos", by_kind(videos, pixels), 0),
        Measure(
            f"Brightness (mean grey{sample})", "0 to 255", "videos", by_kind(looked_at, looked_at["brightness"]), 0
        ),
        Measure("Faces in a frame", "", "frames", by_kind(boxes, boxes["n_faces"]), 0, discrete=True),
        Measure("Face size (longer side of the box)", "pixels", "frames", by_kind(boxes, side), 0),
        Measure("Face size (share of the frame's shorter side)", "%", "frames", by_kind(boxes, share), 0),
        Measure("Detector's confidence", "0 to 1", "frames", by_kind(boxes, boxes["confidence"])),
    ]


def _summarise(measure: Measure, enough: bool) -> dict:
    """Median and 5th to 95th percentile of each label, and how well the number alone tells the labels apart."""
    cells, known = [], measure.known
    for values in known.values():
        if not len(values):
            cells.append(("–", ""))
            continue
        low, middle, high = (f"{v:.{measure.digits}f}" for v in np.percentile(values, [5, 50, 95]))
        cells.append((middle, f"({low} to {high})" if low != high else ""))
    auc, telling = float("nan"), False
    if {"live", "attack"} <= set(known):
        labels = np.repeat([1, 0], [len(known["live"]), len(known["attack"])])
        auc = metrics.auc(labels, np.concatenate([known["live"], known["attack"]]))
        telling = enough and abs(auc - 0.5) >= TELLING
    return {"title": measure.axis, "cells": cells, "auc": plain(auc, 2), "telling": telling}


def _plot(measure: Measure) -> dict:
    """The distribution as inline SVG; one sentence instead where there is nothing to draw."""
    known = measure.known
    everything = np.concatenate([*known.values(), np.array([])])
    lacking = sum(map(len, measure.values.values())) - len(everything)
    legend = [(name, len(values)) for name, values in known.items() if len(values)]
    plot = {"title": measure.title, "svg": "", "text": "", "beyond": False, "legend": legend}
    plot["lacking"] = f"{lacking} of the {measure.of} {'has' if lacking == 1 else 'have'} no value." if lacking else ""
    if not len(everything):
        return plot | {"text": "no values.", "lacking": ""}
    distinct = np.unique(round_as_shown(everything, measure.digits))
    if len(distinct) == 1:
        unit = f" {measure.unit}" if measure.unit else ""
        among = f"all {len(everything)}" if not lacking else f"the {len(everything)} known"
        return plot | {"text": f"{distinct[0]:.{measure.digits}f}{unit} in {among} {measure.of}."}
    cells = zip(known, _summarise(measure, enough=False)["cells"], strict=True)
    spoken = "; ".join(f"{name}: median {' '.join(cell)}" for name, cell in cells)
    bars = count_bars(measure)
    return plot | {"svg": draw_bars(measure, bars, f"{measure.title}. {spoken}."), "beyond": bars.beyond}


def _list_facts(tables: SetTables) -> list[tuple[str, str]]:
    """The figures at the top."""
    videos, boxes = tables.videos, tables.boxes
    facts = [("videos", str(len(videos)))]
    facts += [(kind.name, str(int((videos["label"] == kind.label).sum()))) for kind in tables.kinds if kind.label]
    stills = int(videos["image"].sum())
    facts += [("of them still images", str(stills))] if stills else []
    groups = videos["group"].nunique()
    facts += [("groups", str(groups))]
    folds = sorted(set(videos["fold"]) - {"", "holdout"})
    facts += [("folds", str(len(folds)))] if folds else []
    faces = int((boxes["face"] == "1").sum())
    facts += [("stored frames", str(len(boxes))), ("with a face", str(faces))]
    bad = int((~videos["status"].isin(["ok"])).sum())
    facts += [("videos with trouble", str(bad))]
    return facts + ([("left out", str(len(tables.left_out)))] if len(tables.left_out) else [])


def _describe_origin(tables: SetTables) -> list[tuple[str, str]]:
    """When the set was prepared, and the digest that its members and their reports carry."""
    digest = digest_of_set(tables.folder)
    day = read_written_time(tables.folder / "labels_video.csv")
    return [("Prepared", day), ("Data digest", digest[:12] or "none, for want of folds")]


def _describe_preparation(tables: SetTables) -> list[tuple[str, str]]:
    """How the set was prepared, in words, from prepare.json."""
    data = tables.about.get("data") or {}
    plan, detector, folds = (get_setting(tables, key) for key in ("frames", "detector", "folds"))
    settings = {"positions": "positions", "even": "count", "every": "step", "rate": "per_second"}
    used = settings.get(plan.get("plan", ""), "")
    name = detector.get("name", Detector.name)
    frames = str(plan.get("plan", "unknown")) + (f", {used} {plan.get(used)}" if used else "")
    rows = [
        ("Frame plan", frames),
        ("JPEG quality of the stored frames", data.get("jpeg_quality", "unknown")),
        ("Face detector", f"{name} from confidence {detector.get('threshold')}, at {detector.get('max_side')} pixels"),
        ("Side of the crop over that of the box", data.get("crop_scale", "unknown")),
        ("Near-duplicates", f"at most {folds.get('duplicates')} of a frame hash's bits differ"),
        ("Groups", grouping.sentence(read_grouping(tables.folder))),
    ]
    return [(name, str(value)) for name, value in rows]


def get_setting(tables: SetTables, key: str) -> dict:
    """A group of the settings in prepare.json; {} where it is not told."""
    return (tables.about.get("data") or {}).get(key) or {}


def _tabulate_folds(tables: SetTables) -> list[dict]:
    """A row per fold, and the sum: videos, groups, videos by label, frames, frames with a face."""
    videos = tables.videos
    folds = sorted(set(videos["fold"]) - {""}, key=natural_key)
    if not folds:
        return []
    rows = [_tabulate_fold(tables, fold, videos[videos["fold"] == fold]) for fold in folds]
    if (videos["fold"] == "").any():
        rows.append(_tabulate_fold(tables, "in none", videos[videos["fold"] == ""]))
    return [*rows, _tabulate_fold(tables, "all", videos)]


def _tabulate_fold(tables: SetTables, name: str, videos: pd.DataFrame) -> dict:
    boxes = tables.boxes[tables.boxes["video_id"].isin(videos["video_id"])]
    live = int((videos["label"] == "1").sum())
    return {
        "name": name,
        "videos": len(videos),
        "groups": videos["group"].nunique(),
        "labels": [int((videos["label"] == kind.label).sum()) for kind in tables.kinds],
        "live": f"{100 * live / len(videos):.0f} %" if len(videos) else "–",
        "frames": len(boxes),
        "faces": int((boxes["face"] == "1").sum()),
    }


def _tabulate_species(tables: SetTables) -> dict | None:
    """Videos of each species by fold; None where no species is known."""
    videos = tables.videos
    if (videos["species"] == "").all():
        return None
    folds = sorted(set(videos["fold"]) - {""}, key=natural_key)
    counts = videos.groupby(["label", "species"]).size().reset_index(name="n")
    counts = counts.sort_values(["label", "n", "species"], ascending=[False, False, True])
    names = {kind.label: kind.name for kind in LABEL_KINDS}
    rows = []
    for label, species in counts[["label", "species"]].head(MOST_SPECIES).itertuples(index=False):
        mine = videos[(videos["label"] == label) & (videos["species"] == species)]
        per_fold = [int((mine["fold"] == fold).sum()) for fold in folds]
        rows.append({"label": names.get(label, label), "name": species, "folds": per_fold, "videos": len(mine)})
    return {"folds": folds, "rows": rows, "all": len(counts)}


def _tabulate_cameras(tables: SetTables) -> list[dict]:
    """Videos of each camera by label and fold, and the cues that alone tell its labels apart; [] without cameras."""
    if tables.cues is None:
        return []
    rows = []
    for name, mine in sorted(tables.videos.groupby("camera"), key=lambda item: (not item[0], natural_key(item[0]))):
        told = [f"{CUES[cue['cue']]} ({plain(cue['auc'], 2)})" for cue in tables.cues if cue["camera"] == name]
        labels = [int((mine["label"] == kind.label).sum()) for kind in tables.kinds]
        folds = ", ".join(sorted(set(mine["fold"]) - {""}, key=natural_key))
        rows.append({"name": name, "videos": len(mine), "labels": labels, "folds": folds, "cues": ", ".join(told)})
    return rows


def _tabulate_groups(tables: SetTables) -> dict:
    """The largest groups: videos by label, and the fold."""
    videos = tables.videos
    sizes = videos["group"].value_counts(sort=False)
    several = sorted(sizes[sizes > 1].index, key=lambda name: (-sizes[name], natural_key(name)))
    rows = []
    for name in several[:MOST_GROUPS]:
        mine = videos[videos["group"] == name]
        labels = [int((mine["label"] == kind.label).sum()) for kind in tables.kinds]
        folds = ", ".join(sorted(set(mine["fold"]) - {""}, key=natural_key))
        rows.append({"name": name, "videos": len(mine), "labels": labels, "folds": folds})
    return {"rows": rows, "several": len(several), "all": len(sizes)}


def _find_leaks(tables: SetTables) -> dict | None:
    """What lies on both sides of a fold, under these folds and under ones that ignore groups."""
    videos = tables.videos
    if (videos["fold"] == "").all():
        return None
    splits = [("these folds", "fold")]
    splits += [("folds by video, blind to groups", "naive_fold")] if (videos["naive_fold"] != "").any() else []
    return {"columns": [_count_parted(tables, title, column) for title, column in splits], "pairs": len(tables.pairs)}


def _count_parted(tables: SetTables, title: str, column: str) -> dict:
    """What the folds in ``column`` part: groups, their videos, pairs of near-duplicates."""
    pairs, inside = tables.pairs, tables.videos[tables.videos[column] != ""]
    parted = inside.groupby("group")[column].nunique()
    exposed = int(inside["group"].isin(parted[parted > 1].index).sum())
    fold = dict(zip(inside["filename"], inside[column], strict=True))
    apart = pairs["filename"].map(fold).fillna("") != pairs["other"].map(fold).fillna("")
    against = apart & (pairs["label"] != pairs["other_label"])
    return {
        "title": title,
        "groups": int((parted > 1).sum()),
        "videos": format_share(exposed, len(inside)),
        "pairs": int(apart.sum()),
        "against": int(against.sum()),
        "leaks": exposed > 0 or bool(apart.any()),
    }


def _list_formats(videos: pd.DataFrame) -> Iterable[tuple[str, pd.Series]]:
    """The properties that are counted rather than drawn."""
    readable = videos[videos["width"].notna()]
    sizes = readable["width"].astype(int).astype(str) + " × " + readable["height"].astype(int).astype(str)
    yield "Resolution (as displayed)", sizes.reindex(videos.index, fill_value="")
    yield "Codec", videos["codec"]
    yield "Rotation in the metadata", videos["rotation"].map(lambda turn: f"{turn}°" if turn else "")
    yield "Transfer function (HLG and PQ are tone-mapped)", videos["transfer"]
    yield "Shape of the pixels (made square)", videos["pixel_aspect"]
    yield "Scan (interlaced is left as it is)", videos["scan"]


def _count_values(tables: SetTables, title: str, values: pd.Series, enough: bool) -> dict:
    """How often each value occurs, by label, the most frequent first; and whether one alone tells the labels apart.

    Nothing where no value is known. The AUC of having a value is half of the difference of its shares away from 0.5.
    """
    if (values == "").all():
        return {"title": title, "rows": [], "all": 0, "telling": False}
    values = values.replace("", "not known")
    total = values.value_counts(sort=False)
    order = sorted(total.index, key=lambda value: (-total[value], natural_key(value)))
    labels = tables.videos["label"]
    rows = []
    for value in order[:MOST_GROUPS]:
        counts = [int(((values == value) & (labels == kind.label)).sum()) for kind in tables.kinds]
        named = zip(tables.kinds, counts, strict=True)
        share = {kind.name: count / (labels == kind.label).sum() for kind, count in named}
        apart = abs(share["live"] - share["attack"]) / 2 if {"live", "attack"} <= set(share) else 0
        rows.append({"name": value, "labels": counts, "telling": enough and apart >= TELLING})
    return {"title": title, "rows": rows, "all": len(order), "telling": any(row["telling"] for row in rows)}


def _list_trouble(tables: SetTables) -> dict:
    """The videos that are not simply ok, with the reason."""
    videos = pd.concat([tables.videos, tables.left_out])
    bad = videos[videos["status"] != "ok"]
    counts = bad["status"].value_counts(sort=False)
    names = {kind.label: kind.name for kind in LABEL_KINDS}
    shown = bad[["filename", "label", "status", "reason"]].head(MOST_ROWS).to_dict("records")
    rows = [row | {"label": names.get(row["label"], row["label"])} for row in shown]
    statuses = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"rows": rows, "all": len(bad), "statuses": statuses, "missing_frames": tables.missing_frames} | {
        "looked_at": f" of the {len(tables.measured)} videos whose frames were looked at"
        if len(tables.measured) < len(tables.videos)
        else ""
    }


def format_share(part: int, whole: int) -> str:
    """A count and its share: ``3 (12.5 %)``; the count alone of nothing."""
    return f"{part} ({100 * part / whole:.1f} %)" if whole else str(part)
