"""How groups of videos are dealt into folds: grouped, stratified, seeded. Pure functions on a table of videos."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pandas as pd

from liveness.base.config import Folds
from liveness.base.errors import UserError
from liveness.evaluation.combine import HOLDOUT
from liveness.sets.cameras import deal_cameras, has_cameras
from liveness.sets.soft_labels import is_soft

TRIES = 50  # orders that are compared; the best balanced is taken
DRAWS = 2000  # sets of groups that are compared for the holdout


def deal_groups(table: pd.DataFrame, n: int, seed: int) -> np.ndarray:
    """A fold (0 .. n-1) for each row of ``table`` (filename, label, group, and species if known).

    Grouped: a group is never parted. Stratified: each fold gets its share of each label (and
    species) as nearly as the groups allow: groups go, the large ones first, where they even out
    most; of ``TRIES`` seeded orders the most even result is taken. A UserError when there are fewer
    groups than folds or when a fold would be left with one class.
    """
    labels, (rows, names) = table["label"].to_numpy(int), _number(table["group"])
    if not len(labels):
        raise UserError("no video with a label; folds need both classes, 0 and 1")
    if len(set(labels)) < 2:
        only = "live (1)" if labels[0] else "attack (0)"
        raise UserError(f"all {len(labels)} videos are {only}; folds need both classes, 0 and 1")
    count = len(names)
    if count < n:
        plural = "group" if count == 1 else "groups"
        raise UserError(f"{count} {plural} for {n} folds; expected at least one group per fold (-o folds.n=)")
    sizes, live = _strata(table, rows)
    tries = _deal_orders(sizes / sizes.sum(0), sizes.sum(1), n, np.random.RandomState(seed))
    costs = [_unevenness(folds, sizes, live, n) for folds in tries]
    best = tries[costs.index(min(costs))].astype(int)[rows]
    hard = ~is_soft(table).to_numpy()  # by the others nobody is judged
    for fold in range(n):
        classes = set(labels[(best == fold) & hard])
        if len(classes) < 2:
            held = ("only live" if 1 in classes else "only attacked") if classes else "no"
            raise UserError(
                f"fold {fold} of {n} would have {held} videos; expected both classes in each: "
                "fewer folds (-o folds.n=) or smaller groups"
            )
    assert_no_leak(best, table["group"].to_numpy())
    return best


def draw_holdout(table: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    """Which rows of ``table`` (columns as in ``deal``) are set aside from all folds: a mask.

    ``share`` of the groups (rounded, at least one if above 0), each whole; of ``DRAWS`` seeded draws the
    one that is nearest to that share of each label (and species) and of the videos. A UserError where
    no draw has both classes inside and outside.
    """
    if share <= 0 or not len(table):
        return np.zeros(len(table), dtype=bool)
    rows, names = _number(table["group"])
    sizes, live = _strata(table, rows)
    wanted = min(max(1, round(share * len(names))), len(names))
    inside, lives = np.zeros((DRAWS, sizes.shape[1])), np.zeros(DRAWS)
    for draw, drawn in enumerate(_draw_groups(len(names), wanted, seed)):
        inside[draw], lives[draw] = sizes[drawn].sum(0), live[drawn].sum()
    off = ((inside / sizes.sum(0) - share) ** 2).sum(1) + (inside.sum(1) / sizes.sum() - share) ** 2
    attacks = inside.sum(1) - lives
    sound = (lives > 0) & (attacks > 0) & (lives < live.sum()) & (attacks < sizes.sum() - live.sum())
    if not sound.any():
        raise UserError(
            f"no {wanted} of {len(names)} groups leave both classes inside and outside of the holdout; "
            "expected another share (-o folds.holdout=) or smaller groups"
        )
    best = int(np.flatnonzero(sound)[np.argmin(np.round(off[sound], 12))])
    aside = np.zeros(len(names), dtype=bool)
    aside[next(islice(_draw_groups(len(names), wanted, seed), best, None))] = True
    return aside[rows]


def _draw_groups(count: int, wanted: int, seed: int) -> Iterator[np.ndarray]:
    """DRAWS times the numbers of ``wanted`` of ``count`` groups: where the first ones stand in a random order."""
    random = np.random.RandomState(seed)
    for _ in range(DRAWS):
        values = random.uniform(size=count)
        ordered = np.sort(values)
        if (ordered[1:] == ordered[:-1]).any():  # among equal values the earlier comes first
            yield np.flatnonzero(np.argsort(values, kind="stable") < wanted)
        else:
            yield np.searchsorted(ordered, values[:wanted])


def deal_set(videos: pd.DataFrame, config: Folds) -> pd.DataFrame:
    """filename, label, group, fold, naive_fold of a labelled set: the holdout (-1), then the folds of the rest.

    And camera, where ``videos`` names cameras. With folds.by=camera ``deal_cameras`` deals.
    """
    folds = videos[["filename", "label", "group"]].copy()
    if config.by == "camera":
        folds["fold"], parts = deal_cameras(videos)
        folds["naive_fold"] = deal_naive(videos, len(parts), config.seed)
        assert_no_leak(folds["fold"].to_numpy(), folds["group"].to_numpy())
        return folds.assign(camera=videos["camera"])
    aside = draw_holdout(videos, config.holdout, config.seed)
    for column, way in (("fold", deal_groups), ("naive_fold", deal_naive)):
        folds[column] = HOLDOUT
        folds.loc[~aside, column] = way(videos[~aside], config.n, config.seed)
    return folds.assign(camera=videos["camera"]) if has_cameras(videos) else folds


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
    number = pd.factorize(groups)[0]
    there = np.asarray(folds)[np.unique(number, return_index=True)[1]][number]
    for row in np.flatnonzero(there != folds)[:1]:
        raise UserError(
            f"leak: group {str(groups[row])!r} is in fold {there[row]} and in fold {folds[row]}; expected one fold"
        )


def _strata(table: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Videos of each group (``rows``: a group's number per video) in each stratum, and its live videos.

    A stratum is a label, or a label with a species where species are known; soft labels are strata of their own.
    """
    labels = table["label"].to_numpy(int)
    species = table["species"].astype(str) if "species" in table else pd.Series("", index=table.index)
    kinds, names = _number(species.mask(is_soft(table), "(soft)"))
    pairs, first, pair = np.unique(labels * len(names) + kinds, return_index=True, return_inverse=True)
    written = np.array([f"{labels[row]} {names[kinds[row]]}" for row in first])
    strata = np.unique(written, return_inverse=True)[1][pair]
    sizes = np.zeros((rows.max() + 1, strata.max() + 1))
    for stratum in range(sizes.shape[1]):
        sizes[:, stratum] = np.bincount(rows[strata == stratum], minlength=len(sizes))
    return sizes, sizes[:, np.unique(strata[labels == 1])].sum(1)


def _number(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """A number for each of some strings, by the order of the different ones, and those."""
    numbers, different = pd.factorize(values.to_numpy(object), sort=True)
    return numbers, different


def _deal_orders(shares: np.ndarray, videos: np.ndarray, n: int, random: np.random.RandomState) -> np.ndarray:
    """TRIES times a fold for each group (groups x strata shares): the large first, each where it evens out most.

    All orders (TRIES x groups) go a group further at once: so many times fewer steps.
    """
    large = -shares.max(1)
    orders = [random.permutation(len(shares)).astype(np.int32) for _ in range(TRIES)]
    orders = [order[np.argsort(large[order], kind="stable")] for order in orders]
    part, one = videos / videos.sum(), np.arange(TRIES)
    folds = np.zeros((TRIES, len(shares)), dtype=np.int16)
    have, count = np.zeros((TRIES, n, shares.shape[1])), np.zeros((TRIES, n))
    for group in np.stack(orders, axis=1):
        mine, size = shares[group], part[group]
        # Of the sum of squared shares only the fold that grows changes: by 2 have * new + new².
        growth = (2 * have * mine[:, None]).sum(2) + 2 * count * videos[group][:, None] / videos.sum()
        fold = np.round(growth, 12).argmin(1)
        folds[one, group] = fold
        have[one, fold] += mine
        count[one, fold] += size
    return folds


def _unevenness(folds: np.ndarray, sizes: np.ndarray, live: np.ndarray, n: int) -> tuple[int, float]:
    """How far the folds are from equal shares: folds that lack a class first, then squared distances."""
    counts = np.stack([np.bincount(folds, weights=column, minlength=n) for column in sizes.T], axis=1)
    lives = np.bincount(folds, weights=live, minlength=n)
    lacking = int(((lives == 0) | (lives == counts.sum(1))).sum())
    off = ((counts / counts.sum(0) - 1 / n) ** 2).sum() + ((counts.sum(1) / counts.sum() - 1 / n) ** 2).sum()
    return lacking, round(float(off), 12)
