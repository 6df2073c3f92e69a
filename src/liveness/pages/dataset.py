"""The dataset page: the figures of ``dataset_figures`` and pictures of what in a prepared set needs a look."""

import numpy as np
import pandas as pd

from liveness.base.config import Folds
from liveness.base.errors import UserError
from liveness.base.files import natural_key
from liveness.evaluation.cameras import tell_cues
from liveness.evaluation.format import counted
from liveness.pages.dataset_figures import describe_set, format_share, get_setting
from liveness.pages.dataset_tables import LABEL_KINDS, LabelKind, SetTables
from liveness.pages.page import make_environment, make_thumbnail, spread_evenly
from liveness.sets.groups import join
from liveness.sets.identities import EMBEDDINGS, Merge, list_merges, read_embeddings

# At most so many; a thumbnail is about 4 kB, so that the page stays below 6 MB.
MOST_CONTACTS = 100  # thumbnails of each label's contact sheet
MOST_CLUSTERS = 40  # near-duplicate clusters
MOST_IN_CLUSTER = 8  # thumbnails in one of them
MOST_NAMES = 60  # names in one of them
MOST_PAIRS = 30  # pairs of contradicting labels, two thumbnails each
MOST_FACELESS = 60
MOST_DOUBTFUL = 12  # joins of persons on each side of the threshold, two thumbnails each
NEAR = 0.02  # of the threshold: the joins that may be wrong


def render_dataset_page(tables: SetTables) -> str:
    """The whole page as HTML."""
    pictures = SetPictures(tables)
    parts = {
        **describe_set(tables),
        "faceless": _show_faceless(tables, pictures),
        "clusters": _show_clusters(tables, pictures),
        "contradictions": _show_contradictions(tables, pictures),
        "persons": _show_persons(tables, pictures),
        "sheets": [_lay_contact_sheet(tables, kind, pictures) for kind in tables.kinds],
    }
    parts["attention"] = _list_attention(parts)
    if text := tell_cues(tables.cues or []):
        parts["attention"].append(("cameras", text))
    parts["nothing"] = _list_empty_sections(parts)
    return make_environment().get_template("dataset.html").render(parts)


class SetPictures:
    """Thumbnails of stored frames as data URIs, with what a reader needs to know of each."""

    def __init__(self, tables: SetTables):
        self._folder = tables.folder / "frames"
        self._videos = tables.videos.set_index("filename")
        self._names = {kind.label: kind.name for kind in LABEL_KINDS}
        self._boxes = tables.boxes
        self._owner, ids = pd.factorize(tables.boxes["video_id"])  # of each frame the video's number
        self._number = pd.Index(ids)

    def of_video(self, filename: str) -> dict:
        """The middle stored frame of a video."""
        number = self._number.get_indexer([self._videos.at[filename, "video_id"]])[0]
        rows = np.flatnonzero(self._owner == number)  # -1 for none, which is no frame's
        return self._picture(filename, self._boxes.iloc[rows[len(rows) // 2]] if len(rows) else None)

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
        thumb = make_thumbnail(self._folder / row["filename"], box)
        return values | thumb if thumb else values | {"alt": f"Frame {row['frame_id']} of {filename} cannot be read"}


def _show_faceless(tables: SetTables, pictures: SetPictures) -> dict:
    """Frames in which no face was found."""
    boxes = tables.boxes
    rows = boxes[boxes["face"] != "1"]
    filename = dict(zip(tables.videos["video_id"], tables.videos["filename"], strict=True))
    rows = rows[rows["video_id"].isin(filename)]
    never = set(rows["video_id"]) - set(boxes.loc[boxes["face"] == "1", "video_id"])
    by_label = [
        (kind.name, format_share(int((rows["label"] == kind.label).sum()), int((boxes["label"] == kind.label).sum())))
        for kind in tables.kinds
    ]
    chosen = [rows.iloc[place] for place in spread_evenly(range(len(rows)), MOST_FACELESS)]
    shown = [pictures.of_frame(row, filename[row["video_id"]]) for row in chosen]
    return {"shown": shown, "all": len(rows), "videos": len(never), "by_label": by_label}


def _show_clusters(tables: SetTables, pictures: SetPictures) -> dict:
    """Near-duplicates, joined: contradicting labels first, then several groups or folds, then the largest."""
    pairs, videos = tables.pairs, tables.videos.set_index("filename")
    named = sorted({*pairs["filename"], *pairs["other"]}, key=natural_key)
    parts = join(named, pairs[["filename", "other"]].to_numpy().tolist())
    owner = {name: i for i, part in enumerate(parts) for name in part}
    farthest = pairs.groupby(pairs["filename"].map(owner))["distance"].max() if len(pairs) else {}
    clusters = []
    for i, part in enumerate(parts):
        labels = videos.loc[part, "label"]
        counts = [(kind.name, int((labels == kind.label).sum())) for kind in tables.kinds]
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
        cluster["pictures"] = [pictures.of_video(name) for name in spread_evenly(cluster["names"], MOST_IN_CLUSTER)]
    searched = (tables.folder / "duplicates.csv").is_file() and get_setting(tables, "folds").get("duplicates") != 0
    return {
        "shown": clusters[:MOST_CLUSTERS],
        "all": len(clusters),
        "pairs": len(pairs),
        "videos": len(named),
        "searched": searched,
    }


def _show_contradictions(tables: SetTables, pictures: SetPictures) -> dict:
    """Pairs of near-duplicates of which one is called live and the other attack."""
    pairs = tables.pairs[tables.pairs["label"] != tables.pairs["other_label"]]
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


def _show_persons(tables: SetTables, pictures: SetPictures) -> dict:
    """What average linkage joined and kept apart nearest to the threshold, where folds.identities=auto told persons."""
    settings = get_setting(tables, "folds")
    found = {"asked": bool(settings.get("identities")), "lacking": "", "joined": [], "apart": [], "counts": (0, 0)}
    if not found["asked"]:
        return found
    threshold = settings.get("identity_similarity", Folds().identity_similarity)
    names, left_out = (table["filename"].tolist() for table in (tables.videos, tables.left_out))
    try:
        embeddings = read_embeddings(tables.folder / EMBEDDINGS, names, left_out)
    except UserError as error:
        return found | {"lacking": str(error)}

    def show(merge: Merge) -> dict:
        shown = [pictures.of_video(merge.one), pictures.of_video(merge.other)]
        return {"pictures": shown, "similarity": f"{merge.similarity:.3f}"}

    merges = list_merges(embeddings, threshold, NEAR)
    joined, apart = ([merge for merge in merges if merge.joined == side] for side in (True, False))
    return found | {
        "threshold": f"{threshold:g}",
        "near": f"{NEAR:g}",
        "joined": [show(merge) for merge in joined[::-1][:MOST_DOUBTFUL]],
        "apart": [show(merge) for merge in apart[:MOST_DOUBTFUL]],
        "counts": (len(joined), len(apart)),
    }


def _lay_contact_sheet(tables: SetTables, kind: LabelKind, pictures: SetPictures) -> dict:
    """Videos of one label, spread evenly over its groups in their order."""
    videos = tables.videos[tables.videos["label"] == kind.label]
    frames = set(tables.boxes["video_id"])
    usable = videos[videos["video_id"].isin(frames)]
    group, groups = pd.factorize(usable["group"])
    rank = np.empty(len(groups), dtype=int)
    rank[sorted(range(len(groups)), key=lambda place: natural_key(groups[place]))] = np.arange(len(groups))
    order = np.argsort(rank[group], kind="stable")
    shown = [pictures.of_video(usable["filename"].iloc[row]) for row in spread_evenly(order.tolist(), MOST_CONTACTS)]
    return {"name": kind.name, "shown": shown, "usable": len(usable), "all": len(videos)}


def _list_attention(parts: dict) -> list[tuple[str, str]]:
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
    if any(parts["persons"]["counts"]):
        text = "Persons were told apart by their faces: look at the joins near the threshold."
        found.append(("persons", text))
    measured = [*parts["summary"], *parts["formats"]]
    telling = [row["title"].split(",")[0].split(" (")[0].lower() for row in measured if row["telling"]]
    if telling:
        text = f"Telling by itself: {', '.join(dict.fromkeys(telling))}. A model may learn this instead of liveness."
        found.append(("measures", text))
    return found


def _list_empty_sections(parts: dict) -> list[str]:
    """The sections that would be empty, a line each."""
    found = []
    if not parts["trouble"]["all"] and not parts["trouble"]["missing_frames"]:
        found.append("Videos with trouble: every video decodes to its end.")
    if not parts["faceless"]["all"]:
        found.append("Frames without a face: a face was found in every stored frame.")
    if not parts["clusters"]["all"]:
        searched = "no two videos look alike" if parts["clusters"]["searched"] else "not looked for"
        found.append(f"Near-duplicates: {searched}.")
    if parts["persons"]["asked"] and not any(parts["persons"]["counts"]):
        found.append(f"Who is who: {parts['persons']['lacking'] or 'no two persons are near the threshold'}.")
    labelled = any(kind.label for kind in parts["kinds"])
    if labelled and parts["clusters"]["all"] and not parts["contradictions"]["all"]:
        found.append("Contradicting labels: near-duplicates have the same label.")
    return found
