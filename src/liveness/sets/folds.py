"""The folds of a prepared set as files: dealt once, checked against the set, and read.

``fold_set`` deals a set (sets/dealing.py) and writes what the make_folds command names.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from liveness.base.config import Folds, to_dict
from liveness.base.errors import UserError
from liveness.base.files import natural_key, sha256_of, write_text
from liveness.base.names import Names, few, stem_of
from liveness.base.tables import read_table, table_text
from liveness.evaluation.combine import HOLDOUT
from liveness.evaluation.grouping import sentence, warn_of_unknown_persons
from liveness.sets.cameras import has_cameras, list_shared
from liveness.sets.dealing import assert_no_leak, deal_set
from liveness.sets.grouping import describe_groups
from liveness.sets.labels import LABELS, other_sets
from liveness.sets.soft_labels import COLUMNS, is_soft, take_soft

SPLIT = ("labels_video", "labels_keyframes", "labels_bbox")
TRAINED_ON = ("folds.csv", "labels_keyframes.csv", "labels_bbox.csv", "prepare.json")


def fold_set(folder: Path, config: Folds, force: bool = False) -> None:
    """Deal the prepared set in ``folder``, or keep its folds while they fit; print what was done."""
    path = folder / "labels_video.csv"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; prepare the set first: bash prepare_data.sh {folder.name}{other_sets(folder.name)}"
        )
    videos = read_table(path, ["filename", "label", "video_id", "status", "group", "species"])
    videos = videos[videos["status"] != "left_out"].reset_index(drop=True)
    if (videos["label"] == "").all():
        print(f"{folder.name}: no labels, so no folds")
        return
    videos["label"] = videos["label"].astype(int)
    folds = None if force else _existing(folder, videos, config)
    if folds is None:
        folds = _deal(folder, videos, config)
        how = ", each holds out a camera" if config.by == "camera" else f", seed {config.seed}"
        print(f"{folder.name}: {folds['fold'].max() + 1} folds dealt{how}")
    folds = take_soft(folds, videos)  # of folds that are kept too: they are what training reads
    if config.by == "camera":
        _tell_joined(folds, videos)
    groups_are = _write(folder, folds, videos, config)
    _print_folds(folds)
    print("  " + "; ".join(text for text in (sentence(groups_are), warn_of_unknown_persons(groups_are)) if text))


def _deal(folder: Path, videos: pd.DataFrame, config: Folds) -> pd.DataFrame:
    """``deal_set``; a UserError where that cannot be says with which number of folds it can."""
    try:
        folds = deal_set(videos, config)
        if not (folds["fold"] == config.test).any():  # checked by base/config.py for a number of folds that it knows
            last = folds["fold"].max()
            raise UserError(f"folds.test={config.test}: expected a fold, 0 to {last}: one for each camera")
        return folds
    except UserError as error:
        for n in range(config.n - 1, 1, -1) if config.by == "group" else ():
            try:
                deal_set(videos, replace(config, n=n))
            except UserError:
                continue
            raise UserError(
                f"{error}. With {n} it works: bash prepare_data.sh {folder.name} -o folds.n={n}; then train an "
                f"ensemble of the folds 0 to {n - 1} (`folds: all`, as efficientnet_lite0 says, is those of the set)"
            ) from error
        raise


def _dealing(config: dict) -> dict:
    """Of the folds' configuration: what decides how groups are dealt."""
    found = {"n": config.get("n"), "seed": config.get("seed"), "holdout": config.get("holdout", 0.0)}
    return found | ({"by": config["by"]} if "by" in config else {})


def _dealt_from(videos: pd.DataFrame, config: Folds, cameras: bool) -> dict:
    """What the folds of ``videos`` follow from. cameras: of folds that say each video's camera.

    Everything else in ``config`` acts through the groups, which are in the videos' digest.
    """
    return {"folds": _dealing(to_dict(config)), "videos": _digest(videos, cameras)}


def digest_of_set(folder: Path) -> str:
    """Hex SHA-256 over the tables of data/<set> that decide what is trained on; "" where one of them is not there."""
    if not all((folder / table).is_file() for table in TRAINED_ON):
        return ""
    return hashlib.sha256(b"".join((folder / table).read_bytes() for table in TRAINED_ON)).hexdigest()


def _digest(videos: pd.DataFrame, cameras: bool) -> str:
    text = table_text(videos[["filename", "label", "group", "species", *(["camera"] if cameras else [])]])
    return hashlib.sha256(text.encode()).hexdigest()


def _existing(folder: Path, videos: pd.DataFrame, config: Folds) -> pd.DataFrame | None:
    """The folds that are there if they still fit; None to deal anew, with the reason printed."""
    path = folder / "folds.csv"
    if not path.is_file():
        return None
    try:
        about = json.loads((folder / "folds.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        about = {}
    folds = read_table(path, ["filename", "label", "fold"])
    if about.get("folds_sha256") == sha256_of(path):
        # Folds that were dealt before cameras were known of stay as they are.
        dealt_from = _dealt_from(videos, config, "camera" in folds and has_cameras(videos))
        then = {"videos": about.get("videos"), "folds": _dealing(about.get("folds", {}))}
        changed = [key for key in ("folds", "videos") if then[key] != dealt_from[key]]
        if changed:
            what = {"folds": "number, seed, holdout or way of the folds", "videos": "videos, labels, groups or cameras"}
            print(
                f"{path}: {' and '.join(what[key] for key in changed)} changed since they were dealt: dealing anew. "
                "Members trained on the old folds do not fit the new ones"
            )
            return None
        print(f"{path}: kept (--force deals anew)")
    else:
        print(f"{path}: not dealt by this command; checked and kept (--force deals anew)")
        folds = _as_in_set(path, folds, videos)
        check_folds(path, folds, videos)
        if not (folds["fold"] == str(config.test)).any():
            raise UserError(f"{path}: no video in fold {config.test}, the test fold (-o folds.test=)")
    folds["label"], folds["fold"] = folds["label"].astype(int), folds["fold"].astype(int)
    return folds


def _as_in_set(path: Path, folds: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """Folds of the user's own with names and labels written as the set has them, and its groups if they lack them.

    What trains and evaluates reads folds.csv by exact names, and by group.
    """
    names = Names(videos["filename"])
    names.require(folds["filename"], path)
    folds = folds.assign(
        filename=[names.get(name) for name in folds["filename"]],
        label=[str(LABELS.get(value.strip(), value)) for value in folds["label"]],
        fold=folds["fold"].str.strip(),
    )
    if "group" not in folds:
        group_of = dict(zip(videos["filename"], videos["group"], strict=True))
        folds.insert(2, "group", [group_of[name] for name in folds["filename"]])
    if "camera" not in folds and has_cameras(videos):
        camera_of = dict(zip(videos["filename"], videos["camera"], strict=True))
        folds["camera"] = [camera_of[name] for name in folds["filename"]]
    taken = take_soft(folds, videos)
    return folds.assign(**{column: taken[column] for column in COLUMNS if column in taken and column not in folds})


def check_folds(path: Path, folds: pd.DataFrame, videos: pd.DataFrame) -> None:
    """A UserError unless a folds.csv (strings) covers the set with its labels and cameras and parts no group."""
    videos, anew = videos[videos["status"] != "left_out"], _deal_anew(path.parent)
    for name, one, other in (("no row", videos, folds), ("no such video in the set", folds, videos)):
        lost = sorted(set(one["filename"]) - set(other["filename"]))
        if lost:
            raise UserError(f"{path}: {name} for {lost[0]!r} ({len(lost)} in all); {anew}")
    _require_whole(path, folds)
    if folds["filename"].duplicated().any():
        twice = folds["filename"][folds["filename"].duplicated()].iloc[0]
        raise UserError(f"{path}: {twice!r} is there twice; {anew}")
    joined = folds.merge(videos, on="filename", suffixes=("_own", ""))
    wrong = joined[joined["label_own"] != joined["label"].astype(str)]
    if len(wrong):
        raise UserError(f"{path}: another label than the set's for {wrong['filename'].iloc[0]!r}; {anew}")
    if "camera_own" in joined and (joined["camera_own"] != joined["camera"]).any():
        wrong = joined[joined["camera_own"] != joined["camera"]]
        raise UserError(f"{path}: another camera than the set's for {wrong['filename'].iloc[0]!r}; {anew}")
    for column in COLUMNS:
        theirs = videos.set_index("filename")[column] if column in videos else pd.Series("", index=videos["filename"])
        own = folds.set_index("filename")[column] if column in folds else pd.Series("", index=folds["filename"])
        other = own.index[own.str.strip() != theirs.reindex(own.index).fillna("").str.strip()]
        if len(other):
            raise UserError(f"{path}: another {column} than the set's for {other[0]!r}; {anew}")
    try:
        assert_no_leak(joined["fold"].to_numpy(), joined["group"].to_numpy())
    except UserError as error:
        raise UserError(f"{path}: {error}; {anew}") from error


def write_split(folder: Path, folds: pd.DataFrame, test: int) -> None:
    """The _train and _test tables, ``test`` being the test fold; a video of no fold or the holdout is in neither."""
    for name, (others, held_out) in split_tables(folder, folds, test).items():
        write_text(folder / f"{name}_train.csv", table_text(others))
        write_text(folder / f"{name}_test.csv", table_text(held_out))


def split_tables(folder: Path, folds: pd.DataFrame, test: int) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Each prepared table as (train, test) under ``folds`` (filename, fold)."""
    _require_whole(folder / "folds.csv", folds)
    fold_of = pd.Series(folds["fold"].astype(int).to_numpy(), index=folds["filename"].map(stem_of))
    fold_of = fold_of[~fold_of.index.duplicated(keep="last")]
    tables = {}
    for name in SPLIT:
        table = read_table(folder / f"{name}.csv", ["video_id"])
        fold = table["video_id"].map(fold_of)
        tables[name] = table[fold.notna() & (fold != test) & (fold != HOLDOUT)], table[fold == test]
    return tables


def _require_whole(path: Path, folds: pd.DataFrame) -> None:
    if not folds["fold"].astype(str).str.fullmatch(r"-1|\d+").all():
        raise UserError(f"{path}: fold must be a whole number from 0, or -1 for the holdout; {_deal_anew(path.parent)}")


def _deal_anew(folder: Path) -> str:
    return f"to deal anew: python -m liveness.make_folds {folder.name} --force"


def _write(folder: Path, folds: pd.DataFrame, videos: pd.DataFrame, config: Folds) -> dict:
    """The split tables, folds.csv where it changed, and folds.json; returned is what the groups are."""
    write_split(folder, folds, config.test)
    text, path = table_text(folds), folder / "folds.csv"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    dealt_from = _dealt_from(videos, config, "camera" in folds)
    about = dealt_from | {"folds_sha256": sha256_of(path), "groups": describe_groups(folder)}
    if config.by == "camera" and "camera" in folds:
        about["cameras"] = {str(fold): names for fold, names in _list_cameras(folds).items()}
    write_text(folder / "folds.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return about["groups"]


def _print_folds(folds: pd.DataFrame) -> None:
    """One line per fold: videos, groups, live, attacks."""
    column = "group" if "group" in folds else "filename"
    cameras = _list_cameras(folds) if hold_whole_cameras(folds) else {}
    for fold, rows in folds.groupby("fold"):
        live = int((rows["label"] == 1).sum())
        groups = rows[column].nunique()
        name = "holdout" if fold == HOLDOUT else f"fold {fold}"
        name += f" ({few(cameras[fold], 3)})" if fold in cameras else ""
        soft = int(is_soft(rows).sum())
        of_them = f"; {soft} with soft labels, for training alone" if soft else ""
        print(f"  {name}: {len(rows)} videos, {groups} groups, {live} live, {len(rows) - live} attacks{of_them}")


def hold_whole_cameras(folds: pd.DataFrame) -> bool:
    """Whether every camera named in ``folds`` lies in one fold, and there are several."""
    if not has_cameras(folds):
        return False
    named = folds[folds["camera"] != ""]
    return bool((named.groupby("camera")["fold"].nunique() == 1).all() and named["camera"].nunique() > 1)


def _list_cameras(folds: pd.DataFrame) -> dict[int, list[str]]:
    """Fold -> the cameras that it has videos of, in natural order."""
    return {int(fold): sorted(set(rows["camera"]), key=natural_key) for fold, rows in folds.groupby("fold")}


def _tell_joined(folds: pd.DataFrame, videos: pd.DataFrame) -> None:
    """A line for each fold that holds out several cameras, with the groups for which it does."""
    for fold, names in _list_cameras(folds).items() if has_cameras(folds) else ():
        if len(names) > 1:
            shared = "; ".join(list_shared(videos[videos["camera"].isin(names)]))
            print(f"  {' and '.join(names)} are held out together, in fold {fold}, since they share groups: {shared}")
