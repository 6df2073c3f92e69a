"""Which videos belong together, and how the groups are dealt into folds.

A group is everything that must lie in one fold: the videos of one person, recordings of one
scene, near-duplicates. Every source of such knowledge gives links; the groups are the connected
parts of their union. ``fold_set`` deals a prepared set and writes what the make_folds command
names; the other functions are pure, but for ``read_groups``, which reads a groups file.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.config import Folds, nearest, to_dict
from liveness.base.errors import UserError
from liveness.base.files import CONFIGS, natural_key, sha256_of, write_text
from liveness.base.names import Names, one_spelling
from liveness.base.tables import places_of, read_table, table_text
from liveness.evaluation.combine import HOLDOUT
from liveness.evaluation.grouping import sentence, warn_of_unknown_persons
from liveness.sets.grouping import describe
from liveness.sets.labels import LABELS, other_sets

TRIES = 50  # orders that are compared; the best balanced is taken
DRAWS = 2000  # sets of groups that are compared for the holdout
LEFT_OUT = "left out"
SPLIT = ("labels_video", "labels_keyframes", "labels_bbox")
TRAINED_ON = ("folds.csv", "labels_keyframes.csv", "labels_bbox.csv", "prepare.json")


@dataclass
class Groups:
    """A groups file's content: lists of ids that belong together, ids to leave out."""

    path: Path
    together: list[list[str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def find_groups_file(name: str) -> Path:
    """The file that ``folds.groups`` names: a path, or a name in configs/groups."""
    places = places_of(name)
    listed = sorted(CONFIGS.glob("groups/*.*")) if CONFIGS.is_dir() else []
    places += [path for path in listed if name in (path.name, path.stem)]
    for place in places:
        if place.is_file():
            return place
    known = [path.stem for path in listed]
    raise UserError(
        f"folds.groups={name}: no such file; expected a csv of filename,group, a text file with a group "
        f"per line, or one of {', '.join(known) or 'configs/groups (empty)'}{nearest(name, known)}"
    )


def read_groups(path: Path) -> Groups:
    """Read a groups file: csv with the columns filename,group, or text with one group per line.

    Text: ids parted by commas (or by spaces where a line has no comma); ``#`` starts a comment, a
    remark may stand before a colon, and the remark ``left out`` names videos to leave out. An id
    is a file name with or without its ending.
    """
    if path.suffix.lower() == ".csv":
        table = read_table(path, ["filename", "group"])
        table["group"] = one_spelling(table["group"], f"{path}, column group")
        table = table[table["group"] != ""]
        return Groups(path, [list(rows) for _, rows in table.groupby("group", sort=False)["filename"]])
    groups = Groups(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    for line in lines:
        remark, colon, rest = line.split("#")[0].rpartition(":")
        ids = [part.strip() for part in rest.split(",")] if "," in rest else rest.split()
        ids = [part for part in ids if part]
        if not ids:
            continue
        if colon and remark.strip().lower() == LEFT_OUT:
            groups.left_out += ids
        else:
            groups.together.append(ids)
    return groups


def resolve_ids(ids: Iterable[str], filenames: list[str]) -> tuple[list[str], list[str]]:
    """File names for ids (a name with or without its ending), and the ids that name none of them."""
    names = Names(filenames)
    found = {i: names.get(i) for i in ids}
    return [name for name in found.values() if name is not None], [i for i in found if found[i] is None]


def join(filenames: list[str], links: Iterable[Iterable[str]]) -> list[list[str]]:
    """Connected parts of ``filenames`` under ``links`` (each a list of names that belong together).

    Every name is in exactly one part; names keep their order, parts that of their first name.
    """
    parent = {filename: filename for filename in filenames}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    place = {filename: i for i, filename in enumerate(filenames)}
    for link in links:
        roots = sorted({root(name) for name in link}, key=place.__getitem__)
        for other in roots[1:]:
            parent[other] = roots[0]
    parts: dict[str, list[str]] = {}
    for filename in filenames:
        parts.setdefault(root(filename), []).append(filename)
    return list(parts.values())


def name_groups(parts: list[list[str]], known: dict[str, str]) -> dict[str, str]:
    """A name for each video's group.

    A group of one person keeps that name (``known``: filename -> subject, "" for unknown); a
    group of several is "a+b"; a group of unknown persons has the name of its first video.
    """
    names, taken = {}, set()
    for part in parts:
        people = sorted({known.get(filename, "") for filename in part} - {""}, key=natural_key)
        name = "+".join(people) if len(people) <= 3 else f"{people[0]}+{len(people) - 1} others"
        name = name or part[0]
        while name in taken:
            name += "'"
        taken.add(name)
        names |= dict.fromkeys(part, name)
    return names


def deal_groups(table: pd.DataFrame, n: int, seed: int) -> np.ndarray:
    """A fold (0 .. n-1) for each row of ``table`` (filename, label, group, and species if known).

    Grouped: a group is never parted. Stratified: each fold gets its share of each label (and
    species) as nearly as the groups allow: groups go, the large ones first, where they even out
    most; of ``TRIES`` seeded orders the most even result is taken. A UserError when there are fewer
    groups than folds or when a fold would be left with one class.
    """
    labels, groups = table["label"].to_numpy(int), table["group"].to_numpy(str)
    if not len(labels):
        raise UserError("no video with a label; folds need both classes, 0 and 1")
    if len(set(labels)) < 2:
        only = "live (1)" if labels[0] else "attack (0)"
        raise UserError(f"all {len(labels)} videos are {only}; folds need both classes, 0 and 1")
    count = len(set(groups))
    if count < n:
        plural = "group" if count == 1 else "groups"
        raise UserError(f"{count} {plural} for {n} folds; expected at least one group per fold (-o folds.n=)")
    rows = np.unique(groups, return_inverse=True)[1]
    sizes, live = _strata(table, rows)
    random = np.random.RandomState(seed)
    tries = [_deal_once(sizes / sizes.sum(0), sizes.sum(1), n, random) for _ in range(TRIES)]
    costs = [_unevenness(folds, sizes, live, n) for folds in tries]
    best = tries[costs.index(min(costs))][rows]
    for fold in range(n):
        classes = set(labels[best == fold])
        if len(classes) < 2:
            held = ("only live" if 1 in classes else "only attacked") if classes else "no"
            raise UserError(
                f"fold {fold} of {n} would have {held} videos; expected both classes in each: "
                "fewer folds (-o folds.n=) or smaller groups"
            )
    assert_no_leak(best, groups)
    return best


def draw_holdout(table: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    """Which rows of ``table`` (columns as in ``deal``) are set aside from all folds: a mask.

    ``share`` of the groups (rounded, at least one if above 0), each whole; of ``DRAWS`` seeded draws the
    one that is nearest to that share of each label (and species) and of the videos. A UserError where
    no draw has both classes inside and outside.
    """
    labels, groups = table["label"].to_numpy(int), table["group"].to_numpy(str)
    names, rows = np.unique(groups, return_inverse=True)
    if share <= 0 or not len(labels):
        return np.zeros(len(labels), dtype=bool)
    sizes, live = _strata(table, rows)
    wanted = min(max(1, round(share * len(names))), len(names))
    random = np.random.RandomState(seed)
    drawn = np.argsort(random.uniform(size=(DRAWS, len(names))), axis=1, kind="stable") < wanted  # DRAWS x groups
    inside = drawn @ sizes
    off = ((inside / sizes.sum(0) - share) ** 2).sum(1) + (inside.sum(1) / sizes.sum() - share) ** 2
    lives = drawn @ live
    attacks = inside.sum(1) - lives
    sound = (lives > 0) & (attacks > 0) & (lives < live.sum()) & (attacks < sizes.sum() - live.sum())
    if not sound.any():
        raise UserError(
            f"no {wanted} of {len(names)} groups leave both classes inside and outside of the holdout; "
            "expected another share (-o folds.holdout=) or smaller groups"
        )
    return drawn[np.flatnonzero(sound)[np.argmin(np.round(off[sound], 12))]][rows]


def deal_set(videos: pd.DataFrame, config: Folds) -> pd.DataFrame:
    """filename, label, group, fold, naive_fold of a labelled set: the holdout (-1), then the folds of the rest."""
    folds = videos[["filename", "label", "group"]].copy()
    aside = draw_holdout(videos, config.holdout, config.seed)
    for column, way in (("fold", deal_groups), ("naive_fold", deal_naive)):
        folds[column] = HOLDOUT
        folds.loc[~aside, column] = way(videos[~aside], config.n, config.seed)
    return folds


def deal_naive(table: pd.DataFrame, n: int, seed: int) -> np.ndarray:
    """Folds by video and label alone, blind to groups: what a leak would look like, for comparison."""
    from sklearn.model_selection import StratifiedKFold

    labels = table["label"].to_numpy(int)
    folds = np.empty(len(table), dtype=int)
    split = StratifiedKFold(n, shuffle=True, random_state=seed)
    try:
        for fold, (_, held_out) in enumerate(split.split(labels, labels)):
            folds[held_out] = fold
    except ValueError as error:
        raise UserError(f"{np.bincount(labels).min()} videos of the rarer class for {n} folds (-o folds.n=)") from error
    return folds


def assert_no_leak(folds: np.ndarray, groups: np.ndarray) -> None:
    """A UserError that names the first group that lies in more than one fold."""
    where: dict[str, int] = {}
    for fold, group in zip(folds, groups, strict=True):
        if where.setdefault(group, fold) != fold:
            raise UserError(
                f"leak: group {str(group)!r} is in fold {where[group]} and in fold {fold}; expected one fold"
            )


def _strata(table: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Videos of each group (``rows``: a group's number per video) in each stratum, and its live videos.

    A stratum is a label, or a label with a species where species are known.
    """
    labels = table["label"].to_numpy(int)
    species = table["species"].to_numpy(str) if "species" in table else np.full(len(table), "")
    strata = np.unique([f"{label} {kind}" for label, kind in zip(labels, species, strict=True)], return_inverse=True)[1]
    sizes = np.zeros((rows.max() + 1, strata.max() + 1))
    np.add.at(sizes, (rows, strata), 1)
    return sizes, sizes[:, np.unique(strata[labels == 1])].sum(1)


def _deal_once(shares: np.ndarray, videos: np.ndarray, n: int, random: np.random.RandomState) -> np.ndarray:
    """A fold for each group (groups x strata shares): the large first, each where it evens out most."""
    order = random.permutation(len(shares))
    order = order[np.argsort(-shares[order].max(1), kind="stable")]
    folds = np.zeros(len(shares), dtype=int)
    have, count = np.zeros((n, shares.shape[1])), np.zeros(n)
    for group in order:
        # Of the sum of squared shares only the fold that grows changes: by 2 have * new + new².
        growth = (2 * have * shares[group]).sum(1) + 2 * count * videos[group] / videos.sum()
        fold = int(np.argmin(np.round(growth, 12)))
        folds[group] = fold
        have[fold] += shares[group]
        count[fold] += videos[group] / videos.sum()
    return folds


def _unevenness(folds: np.ndarray, sizes: np.ndarray, live: np.ndarray, n: int) -> tuple[int, float]:
    """How far the folds are from equal shares: folds that lack a class first, then squared distances."""
    counts = np.zeros((n, sizes.shape[1]))
    np.add.at(counts, folds, sizes)
    lives = np.bincount(folds, weights=live, minlength=n)
    lacking = int(((lives == 0) | (lives == counts.sum(1))).sum())
    off = ((counts / counts.sum(0) - 1 / n) ** 2).sum() + ((counts.sum(1) / counts.sum() - 1 / n) ** 2).sum()
    return lacking, round(float(off), 12)


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
    # Everything else in ``config`` acts through the groups, which are in the videos' digest.
    dealt_from = {"folds": _dealing(to_dict(config)), "videos": _digest(videos)}
    folds = None if force else _existing(folder, videos, dealt_from, config)
    if folds is None:
        folds = _deal(folder, videos, config)
        print(f"{folder.name}: {config.n} folds dealt, seed {config.seed}")
    groups_are = _write(folder, folds, dealt_from, config.test)
    _print_folds(folds)
    print("  " + "; ".join(text for text in (sentence(groups_are), warn_of_unknown_persons(groups_are)) if text))


def _deal(folder: Path, videos: pd.DataFrame, config: Folds) -> pd.DataFrame:
    """``deal_set``; a UserError where that cannot be says with which number of folds it can."""
    try:
        return deal_set(videos, config)
    except UserError as error:
        for n in range(config.n - 1, 1, -1):
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
    return {"n": config.get("n"), "seed": config.get("seed"), "holdout": config.get("holdout", 0.0)}


def digest_of_set(folder: Path) -> str:
    """Hex SHA-256 over the tables of data/<set> that decide what is trained on; "" where one of them is not there."""
    if not all((folder / table).is_file() for table in TRAINED_ON):
        return ""
    return hashlib.sha256(b"".join((folder / table).read_bytes() for table in TRAINED_ON)).hexdigest()


def _digest(videos: pd.DataFrame) -> str:
    text = table_text(videos[["filename", "label", "group", "species"]])
    return hashlib.sha256(text.encode()).hexdigest()


def _existing(folder: Path, videos: pd.DataFrame, dealt_from: dict, config: Folds) -> pd.DataFrame | None:
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
        then = {"videos": about.get("videos"), "folds": _dealing(about.get("folds", {}))}
        changed = [key for key in ("folds", "videos") if then[key] != dealt_from[key]]
        if changed:
            what = {"folds": "number, seed or holdout of the folds", "videos": "videos, labels or groups"}
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
    return folds


def check_folds(path: Path, folds: pd.DataFrame, videos: pd.DataFrame) -> None:
    """A UserError unless a folds.csv (strings) covers the set with its labels and parts no group."""
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
    fold_of = {Path(name).stem: int(fold) for name, fold in zip(folds["filename"], folds["fold"], strict=True)}
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


def _write(folder: Path, folds: pd.DataFrame, dealt_from: dict, test: int) -> dict:
    """The split tables, folds.csv where it changed, and folds.json; returned is what the groups are."""
    write_split(folder, folds, test)
    text, path = table_text(folds), folder / "folds.csv"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    about = dealt_from | {"folds_sha256": sha256_of(path), "groups": describe(folder)}
    write_text(folder / "folds.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return about["groups"]


def _print_folds(folds: pd.DataFrame) -> None:
    """One line per fold: videos, groups, live, attacks."""
    column = "group" if "group" in folds else "filename"
    for fold, rows in folds.groupby("fold"):
        live = int((rows["label"] == 1).sum())
        groups = rows[column].nunique()
        name = "holdout" if fold == HOLDOUT else f"fold {fold}"
        print(f"  {name}: {len(rows)} videos, {groups} groups, {live} live, {len(rows) - live} attacks")
