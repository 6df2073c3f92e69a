"""A prepared set as tables, and its held-out videos for scoring.

Reads data/<set>/{labels_video,labels_keyframes,labels_bbox,folds}.csv, prepare.json and frames/;
writes nothing.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from liveness.base.config import Data, FramePlan, View, to_dict
from liveness.base.errors import UserError
from liveness.base.files import unprepared, workspace
from liveness.base.names import stem_of
from liveness.base.tables import read_table, table_text
from liveness.evaluation.combine import HOLDOUT
from liveness.frames.boxes import Face
from liveness.frames.contract import cut_views, stack, to_tensor
from liveness.frames.notes import IMAGE, parse_notes
from liveness.frames.rules import NEWEST
from liveness.frames.video import VideoError, choose_frames, jpeg_decode
from liveness.sets.folds import TRAINED_ON, digest_of_set
from liveness.sets.settings import read_settings
from liveness.sets.soft_labels import COLUMNS, is_soft, read_soft

if TYPE_CHECKING:
    import torch

    from liveness.sets.decoded import DecodedFrames

# Of each table what is read. The label is folds.csv's alone, which is in the set's digest (folds.digest_of_set); the
# other tables have a column label for people and other programs.
_COLUMNS = {
    "labels_video.csv": ["filename", "label", "video_id", "status", "reason"],
    "labels_keyframes.csv": ["video_id", "frame_id", "time"],
    "labels_bbox.csv": ["video_id", "frame_id", "face", "confidence", "x", "y", "w", "h"],
    "folds.csv": ["filename", "label", "group", "fold"],
}


@dataclass
class PreparedSet:
    """The tables of data/<set>. ``videos`` is indexed by file name, ``frames`` has a row per frame."""

    name: str
    folder: Path
    data: Data
    detector_sha256: str
    digest: str  # SHA-256 over the tables that decide what is trained on
    # filename (index), video_id, label, fold (-1: holdout), group, status, reason; camera where folds.csv has it;
    # soft_label (nan: hard) and weight where folds.csv has one of them
    videos: pd.DataFrame
    # filename, video_id, frame_id, label, fold, (camera, soft_label, weight,) face, confidence, x, y, w, h, and in a
    # large set subfolder: where in frames/ the frame lies, "ab9/"
    frames: pd.DataFrame
    version: int = NEWEST  # of the contract by whose rules the set was prepared

    @property
    def n_folds(self) -> int:
        return int(self.videos.fold.max()) + 1


def load_set(name: str, plan: FramePlan, naive: bool = False) -> PreparedSet:
    """Read data/<name> with the frames of ``plan``; a UserError where it was prepared otherwise.

    naive: deal the videos by folds.csv's naive_fold, which knows no persons; held-out ones stay held out.
    """
    folder = workspace() / "data" / name
    _require_tables(folder, (*_COLUMNS, "prepare.json"))
    return _read_set(folder, plan, _read_videos(folder, naive), digest_of_set(folder))


def load_unlabelled(name: str, plan: FramePlan) -> PreparedSet:
    """data/<name> as ``load_set`` reads it, but without labels and folds (nan), which it need not have.

    ``digest`` is that of the tables which name its frames and faces."""
    folder = workspace() / "data" / name
    tables = [table for table in TRAINED_ON if table != "folds.csv"]
    _require_tables(folder, ("labels_video.csv", *tables))
    videos = _read_typed(folder, "labels_video.csv").set_index("filename")
    videos = videos[videos.status != "left_out"].assign(label=np.nan, fold=np.nan)
    videos = videos.drop(columns=list(COLUMNS), errors="ignore")
    digest = hashlib.sha256(b"".join((folder / table).read_bytes() for table in tables)).hexdigest()
    return _read_set(folder, plan, videos, digest)


def _require_tables(folder: Path, tables: tuple[str, ...]) -> None:
    missing = [table for table in tables if not (folder / table).is_file()]
    if missing:
        raise UserError(f"{unprepared(folder.name)} (missing there: {', '.join(missing)})")


def _read_set(folder: Path, plan: FramePlan, videos: pd.DataFrame, digest: str) -> PreparedSet:
    """The set of ``videos`` with its settings, and its frames by a plan."""
    name, settings = folder.name, read_settings(folder)
    frames = _read_frames(folder, videos)
    stills = {video.video_id for video in videos.itertuples() if IMAGE in parse_notes(video.reason)}
    if frames.video_id.isin(stills).all():  # every plan takes an image's one frame
        frames = frames.reset_index(drop=True)
    else:
        frames = _of_plan(frames, plan, settings.data, name)
    return PreparedSet(name, folder, settings.data, settings.detector_sha256, digest, videos, frames, settings.version)


def _read_videos(folder: Path, naive: bool) -> pd.DataFrame:
    """labels_video.csv with label, group and fold of folds.csv; a UserError where the two contradict each other.

    labels_video.csv is not in the set's digest: so nothing that training depends on may be known from it alone.
    """
    videos = _read_typed(folder, "labels_video.csv").set_index("filename")
    videos = videos[videos.status != "left_out"].copy()
    folds = _read_typed(folder, "folds.csv").set_index("filename")
    again = f"run: bash prepare_data.sh {folder.name}"
    if set(videos.index) != set(folds.index):
        raise UserError(f"{folder}/folds.csv: not the videos of labels_video.csv; {again}")
    folds = folds.loc[videos.index]
    other = videos.index[(videos.label != folds.label) & ~(videos.label.isna() & folds.label.isna())]
    if len(other):
        raise UserError(f"{folder}/folds.csv: another label than labels_video.csv has for {other[0]!r}; {again}")
    other = [filename for filename, video_id in videos.video_id.items() if video_id != stem_of(filename)]
    if other:
        raise UserError(f"{folder}/labels_video.csv: the video_id of {other[0]!r} is not its name; {again}")
    videos["label"], videos["group"] = folds.label, folds.group
    if "camera" in folds and "camera" in videos and (videos.camera != folds.camera).any():
        other = videos.index[videos.camera != folds.camera]
        raise UserError(f"{folder}/folds.csv: another camera than labels_video.csv has for {other[0]!r}; {again}")
    # Training draws by camera, so that it knows cameras from folds.csv alone, as labels.
    videos = videos.drop(columns=["camera", *COLUMNS], errors="ignore")
    if "camera" in folds:
        videos["camera"] = folds.camera
    if set(COLUMNS) & set(folds.columns):
        videos = videos.join(read_soft(folds.reset_index().set_axis(folds.index), f"{folder}/folds.csv"))
    videos["fold"] = _naive(folds, folder) if naive else folds.fold
    return videos


def _read_frames(folder: Path, videos: pd.DataFrame) -> pd.DataFrame:
    """A row per stored frame of ``videos``, with its box, and its video's name, label and fold."""
    boxes = _read_typed(folder, "labels_bbox.csv")[_COLUMNS["labels_bbox.csv"]]
    for column in ("confidence", "x", "y", "w", "h"):
        boxes[column] = pd.to_numeric(boxes[column])
    frames = _read_typed(folder, "labels_keyframes.csv").drop(columns="label", errors="ignore")
    frames = _name_subfolders(frames)
    frames = frames.merge(boxes, on=["video_id", "frame_id"], how="left", validate="1:1")
    by_id = videos.reset_index().set_index("video_id")
    frames = frames[frames.video_id.isin(by_id.index)].copy()
    for column in ("filename", "label", "fold", *(name for name in ("camera", *COLUMNS) if name in videos)):
        frames[column] = frames.video_id.map(by_id[column])
    return frames


def _name_subfolders(keyframes: pd.DataFrame) -> pd.DataFrame:
    """labels_keyframes.csv with the subfolder of frames/ ("ab9/") that each ``filename`` names, in a column where any
    does (sets/layout.py). Nothing else of it is believed, so that no name leads out of frames/."""
    if "filename" not in keyframes:
        return keyframes
    subfolder = keyframes["filename"].str.extract(r"^([0-9a-f]{3}/)", expand=False)
    keyframes = keyframes.drop(columns="filename")
    return keyframes.assign(subfolder=subfolder.fillna("")) if subfolder.notna().any() else keyframes


def _read_typed(folder: Path, table: str) -> pd.DataFrame:
    """A table of the set, names as strings and numbers as numbers; an empty label is missing."""
    text = table_text(read_table(folder / table, _COLUMNS[table]))
    strings = {"filename": str, "video_id": str, "status": str, "reason": str, "group": str, "species": str}
    strings |= dict.fromkeys(("camera", *COLUMNS), str)
    return pd.read_csv(io.StringIO(text), dtype=strings, keep_default_na=False, na_values={"label": [""]})


def _naive(folds: pd.DataFrame, folder: Path) -> pd.Series:
    """The naive fold of each video; -1 (held out from all members) wherever the real fold is -1."""
    if "naive_fold" not in folds.columns:
        raise UserError(f"{folder}/folds.csv: no column naive_fold; run: bash prepare_data.sh {folder.name}")
    return folds.naive_fold.where(folds.fold >= 0, folds.fold)


def _of_plan(frames: pd.DataFrame, plan: FramePlan, data: Data, name: str) -> pd.DataFrame:
    """The rows of ``frames`` that a plan uses, per video in the plan's order."""
    if to_dict(plan) == to_dict(data.frames):
        return frames.reset_index(drop=True)
    if data.frames.plan != "all":
        raise UserError(
            f"data/{name} holds the frames of plan {data.frames.plan!r}, the recipe wants {plan.plan!r} "
            f"({to_dict(plan)}); prepare it so: bash prepare_data.sh {name} -o frames.plan=... (or frames.plan=all)"
        )
    kept = []
    for _, rows in frames.groupby("video_id", sort=False):
        times = rows.time.to_numpy(float)
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        kept.append(rows.iloc[choose_frames(plan, times, float(times[-1]) + step)])
    return pd.concat(kept).reset_index(drop=True)


def split_set(prepared: PreparedSet, fold: int, view: View) -> tuple[pd.DataFrame, list[str]]:
    """Frames to train on (labelled, neither in ``fold`` nor in the holdout, with a face where the view
    needs one), and the file names of the fold's videos but for those with soft labels. A UserError where a
    side is empty or has one class."""
    if not 0 <= fold < prepared.n_folds:
        raise UserError(
            f"fold {fold}: data/{prepared.name}/folds.csv has the folds 0 to {prepared.n_folds - 1} (an ensemble takes "
            "those that there are with folds: all, as efficientnet_lite0 does)"
        )
    labelled = prepared.videos[prepared.videos.label.notna()]
    others = (prepared.frames.fold != fold) & (prepared.frames.fold != HOLDOUT)
    train = prepared.frames[others & prepared.frames.label.notna()]
    if view.kind == "face":
        train = train[train.face == 1]
    judged = labelled[(labelled.fold == fold) & ~is_soft(labelled)]  # a soft label names no class to be judged by
    held_out = judged.index.tolist()
    for side, labels in (("training", train.label), ("held-out", judged.label)):
        there = sorted(set(labels.astype(int)))
        if there != [0, 1]:
            raise UserError(
                f"data/{prepared.name}, fold {fold}: the {side} side has the classes {there}; "
                "both live (1) and attack (0) are needed"
            )
    return train.reset_index(drop=True), held_out


def list_holdout(prepared: PreparedSet) -> list[str]:
    """File names of the labelled videos that no member trains on and every member scores."""
    videos = prepared.videos
    return videos.index[(videos.fold == HOLDOUT) & videos.label.notna() & ~is_soft(videos)].tolist()


def frame_file(row: Any) -> str:
    """The name in frames/ of a row of ``PreparedSet.frames``."""
    return f"{getattr(row, 'subfolder', '')}{row.video_id}-{row.frame_id}.jpg"


def read_frame(folder: Path, row: Any, decoded: DecodedFrames | None = None) -> np.ndarray:
    """The stored frame of a row as uint8 RGB (H x W x 3), not to be written to: from ``decoded`` where it has it."""
    rgb = decoded.get(frame_file(row)) if decoded is not None else None
    if rgb is not None:
        return rgb
    path = folder / "frames" / frame_file(row)
    try:
        return jpeg_decode(path.read_bytes())
    except (OSError, VideoError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run: bash prepare_data.sh {folder.name}") from error


def read_face(row: Any) -> Face | None:
    """The chosen face of a row of ``PreparedSet.frames``."""
    return Face(row.x, row.y, row.w, row.h, row.confidence) if row.face == 1 else None


class HeldOutVideos:
    """Videos for scoring: an item is (file name, [frame ids], tensor of views or None).

    The tensor is float32, views x 3 x H x W, with the same number of views for each frame listed.
    """

    def __init__(
        self, prepared: PreparedSet, filenames: list[str], view: View, decoded: DecodedFrames | None = None
    ) -> None:
        self.folder, self.filenames, self.view, self.decoded = prepared.folder, filenames, view, decoded
        frames = prepared.frames[prepared.frames.filename.isin(set(filenames))]
        self.rows = {name: list(rows.itertuples(index=False)) for name, rows in frames.groupby("filename", sort=False)}

    def __len__(self) -> int:
        return len(self.filenames)

    def __getitem__(self, index: int) -> tuple[str, list[int], torch.Tensor | None]:
        name = self.filenames[index]
        frame_ids, tensors = [], []
        for row in self.rows.get(name, []):
            views = cut_views(read_frame(self.folder, row, self.decoded), read_face(row), self.view)
            if views:
                frame_ids.append(int(row.frame_id))
                tensors += [to_tensor(view, self.view) for view in views]
        return name, frame_ids, stack(tensors)
