"""Cameras of a set: the column that names them, and folds that hold out one each.

Pure functions on a table of videos. A camera whose videos share a group with another's (a person, near-duplicates)
is held out together with it: else the member of the one would have seen the other's person, or part of its videos.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from liveness.base.errors import UserError
from liveness.base.files import natural_key
from liveness.base.names import few
from liveness.sets.groups import join


def has_cameras(videos: pd.DataFrame) -> bool:
    """Whether a table of videos has a column camera that names one."""
    return "camera" in videos and bool((videos["camera"] != "").any())


def require_cameras(videos: pd.DataFrame, where: str) -> None:
    """A UserError unless every row of ``videos`` (filename, camera) names a camera, and two are named.

    where: what asks for cameras, to begin the line with.
    """
    if not has_cameras(videos):
        raise UserError(f"{where}: the label file names no camera; expected a column camera with that of each video")
    without = list(videos["filename"][videos["camera"] == ""].drop_duplicates())
    if without:
        raise UserError(
            f"{where}: {len(without)} videos have no camera in the column camera: {few(without, 3)}; "
            "name it in the label file, or leave them out (folds.groups)"
        )
    names = set(videos["camera"])
    if len(names) < 2:
        raise UserError(f"{where}: all {len(videos)} videos are of one camera, {names.pop()!r}; expected two at least")


def deal_cameras(table: pd.DataFrame) -> tuple[np.ndarray, list[list[str]]]:
    """A fold for each row of ``table`` (filename, label, group, camera), and the cameras of each fold.

    Fold k holds out the k-th camera in natural order, together with those that share a group with it. A UserError
    where that leaves one fold, or a fold with one class.
    """
    require_cameras(table, "folds.by=camera")
    cameras = sorted(set(table["camera"]), key=natural_key)
    shared = table.groupby("group", sort=False)["camera"].unique()
    parts = join(cameras, shared[shared.map(len) > 1])
    if len(parts) == 1:
        raise UserError(
            f"folds.by=camera: none of the {len(cameras)} cameras can be held out alone, since groups (persons, "
            f"near-duplicates) have videos of several: {'; '.join(list_shared(table))}. Leave such videos out "
            "(folds.groups), lower folds.duplicates, or deal by group: -o folds.by=group"
        )
    number = {camera: fold for fold, part in enumerate(parts) for camera in part}
    folds = table["camera"].map(number).to_numpy(dtype=int)
    for fold, part in enumerate(parts):
        there = set(table["label"][folds == fold].astype(int))
        if len(there) < 2:
            raise UserError(
                f"folds.by=camera: {' and '.join(part)} would be fold {fold} and has only "
                f"{'live' if 1 in there else 'attacked'} videos; expected both classes of each camera: give it and "
                "another camera one name, or leave its videos out (folds.groups)"
            )
    return folds, parts


def list_shared(table: pd.DataFrame, most: int = 3) -> list[str]:
    """Which groups of ``table`` (group, camera) have videos of several cameras, in words, the largest first."""
    cameras = table.groupby("group")["camera"].agg(lambda names: sorted(set(names), key=natural_key))
    sizes = table["group"].value_counts()
    several = sorted(cameras.index[cameras.map(len) > 1], key=lambda name: (-sizes[name], natural_key(name)))
    more = [f"{len(several) - most} more groups"] if len(several) > most else []
    return [f"{name} ({sizes[name]} videos) of {_and(cameras[name])}" for name in several[:most]] + more


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
