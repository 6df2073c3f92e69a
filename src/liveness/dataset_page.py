"""A page about a prepared set: what is in it, and what in it needs a look.

    python -m liveness.dataset_page [SET]

Reads data/<set>/: labels_video.csv, labels_bbox.csv, frames/, prepare.json, and where they exist
folds.csv and duplicates.csv. Writes data/<set>/dataset.html: one file that asks for nothing else,
pictures and plots inside. Equal input gives equal bytes. Sets without labels have a page too.
"""

import argparse
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from liveness.base.errors import UserError, run
from liveness.base.files import natural_key, plain_name, workspace, write_text
from liveness.base.machine import cores
from liveness.base.tables import read_table
from liveness.evaluation import grouping
from liveness.evaluation.combine import HOLDOUT
from liveness.frames.notes import notes_of
from liveness.pages.distributions import Measure, count, draw, shown
from liveness.pages.page import counted, environment, read_image, spread, thumbnail, written_at
from liveness.sets.folds import digest_of_set, join
from liveness.sets.grouping import grouping_of
from liveness.sets.labels import set_name

# At most so many; a thumbnail is about 4 kB, so that the page stays below 6 MB.
MOST_CONTACTS = 100  # thumbnails of each label's contact sheet
MOST_CLUSTERS = 40  # near-duplicate clusters
MOST_IN_CLUSTER = 8  # thumbnails in one of them
MOST_NAMES = 60  # names in one of them
MOST_PAIRS = 30  # pairs of contradicting labels, two thumbnails each
MOST_FACELESS = 60
MOST_ROWS = 200  # rows of a table
MOST_GROUPS = 20
MOST_SPECIES = 30
BRIGHTNESS_FRAMES = 3  # stored frames of a video that are measured
TELLING = 0.2  # distance of an AUC from 0.5 that is pointed out ...
ENOUGH = 20  # ... where each class has so many videos


@dataclass(frozen=True)
class Kind:
    """What a label's videos are called; the name is their class in the page's style, too."""

    label: str
    name: str


KINDS = (
    Kind("1", "live"),
    Kind("0", "attack"),
    Kind("", "unlabelled"),
)


@dataclass
class Prepared:
    """The tables of a prepared set.

    ``videos``: labels_video.csv without those left out, natural order, with fold, naive_fold ("" =
    in none) and brightness; ``boxes``: labels_bbox.csv; ``pairs``: duplicates.csv.
    """

    name: str
    folder: Path
    videos: pd.DataFrame
    left_out: pd.DataFrame
    boxes: pd.DataFrame
    pairs: pd.DataFrame
    about: dict
    kinds: list[Kind]
    missing_frames: int = 0


def main() -> None:
    args = _arguments()
    args.set = plain_name(set_name(args.set), "name of the set")
    folder = workspace() / "data" / args.set
    prepared = read_set(folder)
    path = folder / "dataset.html"
    write_text(path, page(prepared))
    print(f"{path}: {counted(len(prepared.videos), 'video')}, {path.stat().st_size / 1e6:.1f} MB")


def read_set(folder: Path) -> Prepared:
    """The tables of data/<set>, checked for the columns that the page needs; brightness is measured."""
    for name in ("labels_video.csv", "prepare.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; prepare the set first: bash prepare_data.sh {folder.name}")
    columns = ["filename", "label", "video_id", "status", "reason", "fps", "width", "height", "duration", "group"]
    videos = read_table(folder / "labels_video.csv", columns)
    columns = ["filename", "video_id", "frame_id", "label", "face", "n_faces", "confidence", "x", "y", "w", "h"]
    boxes = read_table(folder / "labels_bbox.csv", columns)
    try:
        about = json.loads((folder / "prepare.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder}/prepare.json: not a JSON file; run: bash prepare_data.sh {folder.name}") from error
    for table, numbers in ((videos, ("fps", "width", "height", "duration")), (boxes, ("n_faces", "x", "y", "w", "h"))):
        for column in numbers:
            table[column] = pd.to_numeric(table[column], errors="coerce")
    boxes["confidence"] = pd.to_numeric(boxes["confidence"], errors="coerce")
    for column in ("species", "codec", "rotation"):
        if column not in videos:
            videos[column] = ""
    _add_notes(videos, int(about.get("version", 1)))
    videos = _natural(videos, "filename")
    _add_folds(videos, folder)
    boxes = _natural(boxes, "filename")
    out = videos["status"] == "left_out"
    left_out, videos = videos[out], videos[~out].reset_index(drop=True)
    kinds = [kind for kind in KINDS if (videos["label"] == kind.label).any()]
    prepared = Prepared(folder.name, folder, videos, left_out, boxes, _pairs(folder, videos), about, kinds)
    _measure_brightness(prepared)
    return prepared


def _add_notes(videos: pd.DataFrame, version: int) -> None:
    """The columns transfer, pixel_aspect and scan, from the notes in ``reason``; "" where no frame was read, and in
    all rows of a set of contract version 1, which noted nothing."""
    noted = videos["reason"].map(notes_of)
    found = {
        "transfer": [next((kind.upper() for kind in ("hlg", "pq") if kind in notes), "SDR") for notes in noted],
        "pixel_aspect": [notes.get("pixel_aspect", "1:1") for notes in noted],
        "scan": ["interlaced" if "interlaced" in notes else "progressive" for notes in noted],
    }
    known = videos["status"].isin(["ok", "partial"]) & (version > 1)
    for column, values in found.items():
        videos[column] = pd.Series(values, index=videos.index, dtype=object).where(known, "")


def _natural(table: pd.DataFrame, column: str) -> pd.DataFrame:
    order = sorted(range(len(table)), key=lambda i: natural_key(table[column].iloc[i]))
    return table.iloc[order].reset_index(drop=True)


def _add_folds(videos: pd.DataFrame, folder: Path) -> None:
    """The columns fold and naive_fold of folds.csv, as text ("holdout" for -1); "" for a video that is in no fold."""
    videos["fold"] = videos["naive_fold"] = ""
    if (folder / "folds.csv").is_file():
        folds = read_table(folder / "folds.csv", ["filename", "fold"]).drop_duplicates("filename").set_index("filename")
        for column in ("fold", "naive_fold"):
            if column in folds:
                videos[column] = videos["filename"].map(folds[column]).fillna("").replace(str(HOLDOUT), "holdout")


def _pairs(folder: Path, videos: pd.DataFrame) -> pd.DataFrame:
    """duplicates.csv among ``videos``, with both labels, in natural order; empty where there is no such file."""
    if not (folder / "duplicates.csv").is_file():
        return pd.DataFrame(columns=["filename", "other", "distance", "mirrored", "label", "other_label"])
    pairs = read_table(folder / "duplicates.csv", ["filename", "other"])
    labels = dict(zip(videos["filename"], videos["label"], strict=True))
    pairs = pairs[pairs["filename"].isin(labels) & pairs["other"].isin(labels)].reset_index(drop=True)
    pairs["label"], pairs["other_label"] = pairs["filename"].map(labels), pairs["other"].map(labels)
    pairs["distance"] = pd.to_numeric(pairs["distance"], errors="coerce") if "distance" in pairs else np.nan
    pairs["mirrored"] = pairs["mirrored"] == "1" if "mirrored" in pairs else False
    return pairs


def _measure_brightness(prepared: Prepared) -> None:
    """Add the column brightness to the videos: mean grey (0 to 255) of up to BRIGHTNESS_FRAMES stored frames."""
    frames = prepared.boxes.groupby("video_id", sort=False)["filename"].agg(list).to_dict()
    chosen = [spread(frames.get(video, []), BRIGHTNESS_FRAMES) for video in prepared.videos["video_id"]]

    def grey(name: str) -> float:
        # An eighth of each side is decoded: the mean does not need more, and it is several times as fast.
        image = read_image(prepared.folder / "frames" / name, cv2.IMREAD_REDUCED_GRAYSCALE_8)
        return np.nan if image is None else float(image.mean())

    with ThreadPoolExecutor(cores()) as pool:  # OpenCV decodes outside Python's lock
        values = list(pool.map(lambda names: [grey(name) for name in names], chosen))
    prepared.missing_frames = int(sum(np.isnan(part).sum() for part in values))
    means = [[value for value in part if not np.isnan(value)] for part in values]
    prepared.videos["brightness"] = [float(np.mean(part)) if part else np.nan for part in means]


def page(prepared: Prepared) -> str:
    """The whole page as HTML."""
    pictures = Pictures(prepared)
    found = measures(prepared)
    enough = bool(prepared.videos["label"].value_counts().min() >= ENOUGH)
    parts = {
        "set": prepared.name,
        "kinds": prepared.kinds,
        "facts": _facts(prepared),
        "origin": _origin(prepared),
        "about": _about(prepared),
        "folds": _fold_table(prepared),
        "species": _species_table(prepared),
        "groups": _group_table(prepared),
        "leak": _leak(prepared),
        "formats": [_counts_of(prepared, title, values, enough) for title, values in _formats(prepared.videos)],
        "summary": [_summary(measure, enough) for measure in found],
        "telling": TELLING,
        "plots": {of: [_plot(measure) for measure in found if measure.of == of] for of in ("videos", "frames")},
        "trouble": _trouble(prepared),
        "faceless": _faceless(prepared, pictures),
        "clusters": _clusters(prepared, pictures),
        "contradictions": _contradictions(prepared, pictures),
        "sheets": [_contact_sheet(prepared, kind, pictures) for kind in prepared.kinds],
    }
    parts["attention"] = _attention(parts)
    parts["nothing"] = _nothing(parts)
    return environment().get_template("dataset.html").render(parts)


class Pictures:
    """Thumbnails of stored frames as data URIs, with what a reader needs to know of each."""

    def __init__(self, prepared: Prepared):
        self._folder = prepared.folder / "frames"
        self._videos = prepared.videos.set_index("filename")
        self._names = {kind.label: kind.name for kind in KINDS}
        self._frames = dict(list(prepared.boxes.groupby("video_id", sort=False)))

    def of_video(self, filename: str) -> dict:
        """The middle stored frame of a video."""
        rows = self._frames.get(self._videos.at[filename, "video_id"])
        return self._picture(filename, None if rows is None else rows.iloc[len(rows) // 2])

    def of_frame(self, row: pd.Series, filename: str) -> dict:
        """One stored frame: a row of labels_bbox.csv."""
        return self._picture(filename, row)

    def _picture(self, filename: str, row: pd.Series | None) -> dict:
        video = self._videos.loc[filename]
        label = self._names.get(video["label"], "")
        values = {"name": filename, "label": label, "group": video["group"], "fold": video["fold"], "src": ""}
        if row is None:
            return values | {"frame": "", "alt": f"No stored frame of {filename}"}
        values |= {"frame": row["frame_id"], "alt": f"Frame {row['frame_id']} of {filename}, {label}"}
        box = [row[side] for side in "xywh"] if row["face"] == "1" else None
        thumb = thumbnail(self._folder / row["filename"], box)
        return values | thumb if thumb else values | {"alt": f"Frame {row['frame_id']} of {filename} cannot be read"}


def measures(prepared: Prepared) -> list[Measure]:
    """Everything that is drawn and summarised, by label."""
    videos, boxes = prepared.videos, prepared.boxes
    frame_size = videos.set_index("video_id")[["width", "height"]].reindex(boxes["video_id"])
    shorter = frame_size.min(axis=1).to_numpy()
    side = boxes[["w", "h"]].max(axis=1).to_numpy()
    share = 100 * side / shorter

    def by_kind(table: pd.DataFrame, values: np.ndarray) -> dict[str, np.ndarray]:
        values = np.asarray(values, dtype=float)
        return {kind.name: values[(table["label"] == kind.label).to_numpy()] for kind in prepared.kinds}

    pixels = np.sqrt(videos["width"] * videos["height"])
    return [
        Measure("Duration", "s", "videos", by_kind(videos, videos["duration"])),
        Measure("Frame rate", "frames per second", "videos", by_kind(videos, videos["fps"])),
        Measure("Frame size (root of width × height)", "pixels", "videos", by_kind(videos, pixels), 0),
        Measure("Brightness (mean grey)", "0 to 255", "videos", by_kind(videos, videos["brightness"]), 0),
        Measure("Faces in a frame", "", "frames", by_kind(boxes, boxes["n_faces"]), 0, discrete=True),
        Measure("Face size (longer side of the box)", "pixels", "frames", by_kind(boxes, side), 0),
        Measure("Face size (share of the frame's shorter side)", "%", "frames", by_kind(boxes, share), 0),
        Measure("Detector's confidence", "0 to 1", "frames", by_kind(boxes, boxes["confidence"])),
    ]


def _auc(live: np.ndarray, attack: np.ndarray) -> float | None:
    """Probability that a live value is above an attack's, ties counted half (Mann-Whitney U / product of counts)."""
    if not len(live) or not len(attack):
        return None
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([live, attack]))[: len(live)].sum()
    return float((ranks - len(live) * (len(live) + 1) / 2) / (len(live) * len(attack)))


def _summary(measure: Measure, enough: bool) -> dict:
    """Median and 5th to 95th percentile of each label, and how well the number alone tells the labels apart."""
    cells, known = [], measure.known
    for values in known.values():
        if not len(values):
            cells.append(("–", ""))
            continue
        low, middle, high = (f"{v:.{measure.digits}f}" for v in np.percentile(values, [5, 50, 95]))
        cells.append((middle, f"({low} to {high})" if low != high else ""))
    auc, telling = None, False
    if {"live", "attack"} <= set(known):
        auc = _auc(known["live"], known["attack"])
        telling = enough and auc is not None and abs(auc - 0.5) >= TELLING
    return {"title": measure.axis, "cells": cells, "auc": "–" if auc is None else f"{auc:.2f}", "telling": telling}


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
    distinct = np.unique(shown(everything, measure.digits))
    if len(distinct) == 1:
        unit = f" {measure.unit}" if measure.unit else ""
        among = f"all {len(everything)}" if not lacking else f"the {len(everything)} known"
        return plot | {"text": f"{distinct[0]:.{measure.digits}f}{unit} in {among} {measure.of}."}
    cells = zip(known, _summary(measure, enough=False)["cells"], strict=True)
    spoken = "; ".join(f"{name}: median {' '.join(cell)}" for name, cell in cells)
    bars = count(measure)
    return plot | {"svg": draw(measure, bars, f"{measure.title}. {spoken}."), "beyond": bars.beyond}


def _facts(prepared: Prepared) -> list[tuple[str, str]]:
    """The figures at the top."""
    videos, boxes = prepared.videos, prepared.boxes
    facts = [("videos", str(len(videos)))]
    facts += [(kind.name, str(int((videos["label"] == kind.label).sum()))) for kind in prepared.kinds if kind.label]
    groups = videos["group"].nunique()
    facts += [("groups", str(groups))]
    folds = sorted(set(videos["fold"]) - {"", "holdout"})
    facts += [("folds", str(len(folds)))] if folds else []
    faces = int((boxes["face"] == "1").sum())
    facts += [("stored frames", str(len(boxes))), ("with a face", str(faces))]
    bad = int((~videos["status"].isin(["ok"])).sum())
    facts += [("videos with trouble", str(bad))]
    return facts + ([("left out", str(len(prepared.left_out)))] if len(prepared.left_out) else [])


def _origin(prepared: Prepared) -> list[tuple[str, str]]:
    """When the set was prepared, and the digest that its members and their reports carry."""
    digest = digest_of_set(prepared.folder)
    day = written_at(prepared.folder / "labels_video.csv")
    return [("Prepared", day), ("Data digest", digest[:12] or "none, for want of folds")]


def _of(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %)" if whole else str(part)


def _setting(prepared: Prepared, key: str) -> dict:
    """A group of the settings in prepare.json; {} where it is not told."""
    return (prepared.about.get("data") or {}).get(key) or {}


def _about(prepared: Prepared) -> list[tuple[str, str]]:
    """How the set was prepared, in words, from prepare.json."""
    data = prepared.about.get("data") or {}
    plan, detector, folds = (_setting(prepared, key) for key in ("frames", "detector", "folds"))
    used = {
        "positions": "positions",
        "even": "count",
        "every": "step",
        "rate": "per_second",
    }.get(plan.get("plan"), "")
    frames = str(plan.get("plan", "unknown")) + (f", {used} {plan.get(used)}" if used else "")
    rows = [
        ("Frame plan", frames),
        ("JPEG quality of the stored frames", data.get("jpeg_quality", "unknown")),
        ("Face detector", f"YuNet from confidence {detector.get('threshold')}, at {detector.get('max_side')} pixels"),
        ("Side of the crop over that of the box", data.get("crop_scale", "unknown")),
        ("Near-duplicates", f"at most {folds.get('duplicates')} of a frame hash's bits differ"),
        ("Groups", grouping.sentence(grouping_of(prepared.folder))),
    ]
    return [(name, str(value)) for name, value in rows]


def _fold_table(prepared: Prepared) -> list[dict]:
    """A row per fold, and the sum: videos, groups, videos by label, frames, frames with a face."""
    videos = prepared.videos
    folds = sorted(set(videos["fold"]) - {""}, key=natural_key)
    if not folds:
        return []
    rows = [_fold_row(prepared, fold, videos[videos["fold"] == fold]) for fold in folds]
    if (videos["fold"] == "").any():
        rows.append(_fold_row(prepared, "in none", videos[videos["fold"] == ""]))
    return [*rows, _fold_row(prepared, "all", videos)]


def _fold_row(prepared: Prepared, name: str, videos: pd.DataFrame) -> dict:
    boxes = prepared.boxes[prepared.boxes["video_id"].isin(videos["video_id"])]
    live = int((videos["label"] == "1").sum())
    return {
        "name": name,
        "videos": len(videos),
        "groups": videos["group"].nunique(),
        "labels": [int((videos["label"] == kind.label).sum()) for kind in prepared.kinds],
        "live": f"{100 * live / len(videos):.0f} %" if len(videos) else "–",
        "frames": len(boxes),
        "faces": int((boxes["face"] == "1").sum()),
    }


def _species_table(prepared: Prepared) -> dict | None:
    """Videos of each species by fold; None where no species is known."""
    videos = prepared.videos
    if (videos["species"] == "").all():
        return None
    folds = sorted(set(videos["fold"]) - {""}, key=natural_key)
    counts = videos.groupby(["label", "species"]).size().reset_index(name="n")
    counts = counts.sort_values(["label", "n", "species"], ascending=[False, False, True])
    names = {kind.label: kind.name for kind in KINDS}
    rows = []
    for label, species in counts[["label", "species"]].head(MOST_SPECIES).itertuples(index=False):
        mine = videos[(videos["label"] == label) & (videos["species"] == species)]
        per_fold = [int((mine["fold"] == fold).sum()) for fold in folds]
        rows.append({"label": names.get(label, label), "name": species, "folds": per_fold, "videos": len(mine)})
    return {"folds": folds, "rows": rows, "all": len(counts)}


def _group_table(prepared: Prepared) -> dict:
    """The largest groups: videos by label, and the fold."""
    videos = prepared.videos
    sizes = videos["group"].value_counts(sort=False)
    several = sorted(sizes[sizes > 1].index, key=lambda name: (-sizes[name], natural_key(name)))
    rows = []
    for name in several[:MOST_GROUPS]:
        mine = videos[videos["group"] == name]
        labels = [int((mine["label"] == kind.label).sum()) for kind in prepared.kinds]
        folds = ", ".join(sorted(set(mine["fold"]) - {""}, key=natural_key))
        rows.append({"name": name, "videos": len(mine), "labels": labels, "folds": folds})
    return {"rows": rows, "several": len(several), "all": len(sizes)}


def _leak(prepared: Prepared) -> dict | None:
    """What lies on both sides of a fold, under these folds and under ones that ignore groups."""
    videos = prepared.videos
    if (videos["fold"] == "").all():
        return None
    splits = [("these folds", "fold")]
    splits += [("folds by video, blind to groups", "naive_fold")] if (videos["naive_fold"] != "").any() else []
    return {"columns": [_parted(prepared, title, column) for title, column in splits], "pairs": len(prepared.pairs)}


def _parted(prepared: Prepared, title: str, column: str) -> dict:
    """What the folds in ``column`` part: groups, their videos, pairs of near-duplicates."""
    pairs, inside = prepared.pairs, prepared.videos[prepared.videos[column] != ""]
    parted = inside.groupby("group")[column].nunique()
    exposed = int(inside["group"].isin(parted[parted > 1].index).sum())
    fold = dict(zip(inside["filename"], inside[column], strict=True))
    apart = pairs["filename"].map(fold).fillna("") != pairs["other"].map(fold).fillna("")
    against = apart & (pairs["label"] != pairs["other_label"])
    return {
        "title": title,
        "groups": int((parted > 1).sum()),
        "videos": _of(exposed, len(inside)),
        "pairs": int(apart.sum()),
        "against": int(against.sum()),
        "leaks": exposed > 0 or bool(apart.any()),
    }


def _formats(videos: pd.DataFrame) -> Iterable[tuple[str, pd.Series]]:
    """The properties that are counted rather than drawn."""
    readable = videos[videos["width"].notna()]
    sizes = readable["width"].astype(int).astype(str) + " × " + readable["height"].astype(int).astype(str)
    yield "Resolution (as displayed)", sizes.reindex(videos.index, fill_value="")
    yield "Codec", videos["codec"]
    yield "Rotation in the metadata", videos["rotation"].map(lambda turn: f"{turn}°" if turn else "")
    yield "Transfer function (HLG and PQ are tone-mapped)", videos["transfer"]
    yield "Shape of the pixels (made square)", videos["pixel_aspect"]
    yield "Scan (interlaced is left as it is)", videos["scan"]


def _counts_of(prepared: Prepared, title: str, values: pd.Series, enough: bool) -> dict:
    """How often each value occurs, by label, the most frequent first; and whether one alone tells the labels apart.

    Nothing where no value is known. The AUC of having a value is half of the difference of its shares away from 0.5.
    """
    if (values == "").all():
        return {"title": title, "rows": [], "all": 0, "telling": False}
    values = values.replace("", "not known")
    total = values.value_counts(sort=False)
    order = sorted(total.index, key=lambda value: (-total[value], natural_key(value)))
    labels = prepared.videos["label"]
    rows = []
    for value in order[:MOST_GROUPS]:
        counts = [int(((values == value) & (labels == kind.label)).sum()) for kind in prepared.kinds]
        named = zip(prepared.kinds, counts, strict=True)
        share = {kind.name: count / (labels == kind.label).sum() for kind, count in named}
        apart = abs(share["live"] - share["attack"]) / 2 if {"live", "attack"} <= set(share) else 0
        rows.append({"name": value, "labels": counts, "telling": enough and apart >= TELLING})
    return {"title": title, "rows": rows, "all": len(order), "telling": any(row["telling"] for row in rows)}


def _trouble(prepared: Prepared) -> dict:
    """The videos that are not simply ok, with the reason."""
    videos = pd.concat([prepared.videos, prepared.left_out])
    bad = videos[videos["status"] != "ok"]
    counts = bad["status"].value_counts(sort=False)
    names = {kind.label: kind.name for kind in KINDS}
    shown = bad[["filename", "label", "status", "reason"]].head(MOST_ROWS).to_dict("records")
    rows = [row | {"label": names.get(row["label"], row["label"])} for row in shown]
    statuses = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"rows": rows, "all": len(bad), "statuses": statuses, "missing_frames": prepared.missing_frames}


def _faceless(prepared: Prepared, pictures: Pictures) -> dict:
    """Frames in which no face was found."""
    boxes = prepared.boxes
    rows = boxes[boxes["face"] != "1"]
    filename = dict(zip(prepared.videos["video_id"], prepared.videos["filename"], strict=True))
    rows = rows[rows["video_id"].isin(filename)]
    never = set(rows["video_id"]) - set(boxes.loc[boxes["face"] == "1", "video_id"])
    by_label = [
        (kind.name, _of(int((rows["label"] == kind.label).sum()), int((boxes["label"] == kind.label).sum())))
        for kind in prepared.kinds
    ]
    chosen = spread([row for _, row in rows.iterrows()], MOST_FACELESS) if len(rows) else []
    shown = [pictures.of_frame(row, filename[row["video_id"]]) for row in chosen]
    return {"shown": shown, "all": len(rows), "videos": len(never), "by_label": by_label}


def _clusters(prepared: Prepared, pictures: Pictures) -> dict:
    """Near-duplicates, joined: contradicting labels first, then several groups or folds, then the largest."""
    pairs, videos = prepared.pairs, prepared.videos.set_index("filename")
    named = sorted({*pairs["filename"], *pairs["other"]}, key=natural_key)
    parts = join(named, pairs[["filename", "other"]].to_numpy().tolist())
    owner = {name: i for i, part in enumerate(parts) for name in part}
    farthest = pairs.groupby(pairs["filename"].map(owner))["distance"].max() if len(pairs) else {}
    clusters = []
    for i, part in enumerate(parts):
        labels = videos.loc[part, "label"]
        counts = [(kind.name, int((labels == kind.label).sum())) for kind in prepared.kinds]
        clusters.append(
            {
                "names": part[:MOST_NAMES],
                "size": len(part),
                "more": max(0, len(part) - MOST_NAMES),
                "labels": [f"{count} {name}" for name, count in counts if count],
                "contradiction": labels.nunique() > 1,
                "folds": sorted(set(videos.loc[part, "fold"]) - {""}, key=natural_key),
                "distance": f"{farthest[i]:.3f}" if np.isfinite(farthest[i]) else "unknown",
            }
        )
    clusters.sort(key=lambda c: (not c["contradiction"], len(c["folds"]) < 2, -c["size"], natural_key(c["names"][0])))
    for cluster in clusters[:MOST_CLUSTERS]:
        cluster["pictures"] = [pictures.of_video(name) for name in spread(cluster["names"], MOST_IN_CLUSTER)]
    searched = (prepared.folder / "duplicates.csv").is_file() and _setting(prepared, "folds").get("duplicates") != 0
    return {
        "shown": clusters[:MOST_CLUSTERS],
        "all": len(clusters),
        "pairs": len(pairs),
        "videos": len(named),
        "searched": searched,
    }


def _contradictions(prepared: Prepared, pictures: Pictures) -> dict:
    """Pairs of near-duplicates of which one is called live and the other attack."""
    pairs = prepared.pairs[prepared.pairs["label"] != prepared.pairs["other_label"]]
    pairs = pairs.sort_values("distance", kind="stable")
    shown = [
        {
            "pictures": [pictures.of_video(pair.filename), pictures.of_video(pair.other)],
            "distance": f"{pair.distance:.3f}" if np.isfinite(pair.distance) else "unknown",
            "mirrored": pair.mirrored,
        }
        for pair in pairs.head(MOST_PAIRS).itertuples()
    ]
    return {"shown": shown, "all": len(pairs)}


def _contact_sheet(prepared: Prepared, kind: Kind, pictures: Pictures) -> dict:
    """Videos of one label, spread evenly over its groups in their order."""
    videos = prepared.videos[prepared.videos["label"] == kind.label]
    frames = set(prepared.boxes["video_id"])
    usable = videos[videos["video_id"].isin(frames)]
    order = usable.sort_values("group", key=lambda column: column.map(natural_key), kind="stable")["filename"].tolist()
    shown = [pictures.of_video(name) for name in spread(order, MOST_CONTACTS)]
    return {"name": kind.name, "shown": shown, "usable": len(usable), "all": len(videos)}


def _attention(parts: dict) -> list[tuple[str, str]]:
    """What a reader should look at first: (anchor, sentence)."""
    trouble, faceless, leak = parts["trouble"], parts["faceless"], parts["leak"]
    found = []
    if leak and leak["columns"][0]["leaks"]:
        found.append(("folds", "The folds part a group or near-duplicates: figures made with them flatter."))
    if parts["contradictions"]["all"]:
        text = f"{counted(parts['contradictions']['all'], 'pair')} of near-duplicates with contradicting labels."
        found.append(("contradictions", text))
    if trouble["all"]:
        listed = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in trouble["statuses"])
        found.append(("trouble", f"Videos with trouble: {listed}."))
    if trouble["missing_frames"]:
        found.append(("trouble", f"Missing or damaged: {counted(trouble['missing_frames'], 'stored frame')}."))
    if faceless["all"]:
        text = f"Without a face: {counted(faceless['all'], 'frame')}; in none of their frames: "
        text += f"{counted(faceless['videos'], 'video')}."
        found.append(("faceless", text))
    measured = [*parts["summary"], *parts["formats"]]
    telling = [row["title"].split(",")[0].split(" (")[0].lower() for row in measured if row["telling"]]
    if telling:
        text = f"Telling by itself: {', '.join(dict.fromkeys(telling))}. A model may learn this instead of liveness."
        found.append(("measures", text))
    return found


def _nothing(parts: dict) -> list[str]:
    """The sections that would be empty, a line each."""
    found = []
    if not parts["trouble"]["all"] and not parts["trouble"]["missing_frames"]:
        found.append("Videos with trouble: every video decodes to its end.")
    if not parts["faceless"]["all"]:
        found.append("Frames without a face: a face was found in every stored frame.")
    if not parts["clusters"]["all"]:
        searched = "no two videos look alike" if parts["clusters"]["searched"] else "not looked for"
        found.append(f"Near-duplicates: {searched}.")
    labelled = any(kind.label for kind in parts["kinds"])
    if labelled and parts["clusters"]["all"] and not parts["contradictions"]["all"]:
        found.append("Contradicting labels: near-duplicates have the same label.")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.dataset_page", description=__doc__.splitlines()[0])
    parser.add_argument("set", nargs="?", default="train", metavar="SET", help="name of the set (default: train)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
