"""How groups of videos are dealt into folds: grouped, stratified, seeded. Pure functions on a table of videos."""

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
    hard = ~is_soft(table).to_numpy()  # by the others nobody is judged
    for fold in range(n):
        classes = set(labels[(best == fold) & hard])
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
    where: dict[str, int] = {}
    for fold, group in zip(folds, groups, strict=True):
        if where.setdefault(group, fold) != fold:
            raise UserError(
                f"leak: group {str(group)!r} is in fold {where[group]} and in fold {fold}; expected one fold"
            )


def _strata(table: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Videos of each group (``rows``: a group's number per video) in each stratum, and its live videos.

    A stratum is a label, or a label with a species where species are known; soft labels are strata of their own.
    """
    labels = table["label"].to_numpy(int)
    species = table["species"].to_numpy(str) if "species" in table else np.full(len(table), "")
    species = np.where(is_soft(table), "(soft)", species)
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
