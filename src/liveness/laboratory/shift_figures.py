"""What a stress does to the error: clean against stressed scores of the same videos.

Tables are indexed by file name with the columns label (1 = live), group and score (nan: none). A
video without a score counts as prediction counts it: with NO_SCORE in the EER and the AUC, and as not
accepted (abstained) in APCER and BPCER. Nothing is read or written.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from liveness.evaluation import intervals, metrics
from liveness.evaluation.intervals import FEW_GROUPS, Interval
from liveness.prediction.rows import NO_SCORE

_REPLICATES = 1000


def _filled(table: pd.DataFrame) -> np.ndarray:
    """The scores, NO_SCORE where there is none."""
    return table["score"].fillna(NO_SCORE).to_numpy(dtype=np.float64)


def _read_groups(table: pd.DataFrame) -> np.ndarray | None:
    """The groups to draw by, or None (draw by video) where they are too few for that."""
    return table["group"].to_numpy() if table["group"].nunique() >= FEW_GROUPS else None


def find_threshold(clean: pd.DataFrame) -> float:
    """The equal-error threshold of the clean videos; nan where a class is absent."""
    return metrics.eer(clean["label"], _filled(clean)).threshold


def select_presented(clean: pd.DataFrame, stressed: pd.DataFrame) -> pd.DataFrame:
    """What is judged under a stress: ``stressed``, or for a simulated attack (label 0 throughout) the clean
    live videos with it, the attacks' file names marked so that the index stays unique."""
    if not len(stressed) or stressed["label"].any():
        return stressed
    return pd.concat([clean[clean["label"] == 1], stressed.rename(index=lambda name: f"attack: {name}")])


def judge_stress(clean: pd.DataFrame, stressed: pd.DataFrame, threshold: float) -> dict:
    """The figures of one stress: EER with interval, AUC, APCER and BPCER at ``threshold``, and the change.

    ``stressed`` has the videos of ``clean`` with their labels, or, for a simulated attack, the live ones
    with label 0: then these are the attacks against the clean live videos.
    """
    table = select_presented(clean, stressed)
    change = _change(clean.loc[stressed.index], stressed) if table is stressed else _attack_change(clean, stressed)
    return {**_figures(table, threshold), **change}


def _figures(table: pd.DataFrame, threshold: float) -> dict:
    labels, scores, groups = table["label"].to_numpy(), _filled(table), _read_groups(table)
    interval = intervals.bootstrap(labels, scores, groups, replicates=_REPLICATES)["eer"]
    accepted = (table["score"] >= threshold).to_numpy()  # no score is never accepted
    return {
        "eer": metrics.eer(labels, scores).value,
        "interval": interval.as_list(),
        "interval_method": interval.method,
        "auc": metrics.auc(labels, scores),
        "apcer": _share(accepted[labels == 0]),
        "bpcer": _share(~accepted[labels == 1]),
        "videos": len(table),
        "no_score": int(table["score"].isna().sum()),
    }


def measure_hter(clean: pd.DataFrame, stressed: pd.DataFrame, threshold: float) -> float:
    """(APCER + BPCER) / 2 under a stress at a threshold that was chosen on ``clean``; tables as in ``judge_stress``."""
    table = select_presented(clean, stressed)
    accepted, live = (table["score"] >= threshold).to_numpy(), table["label"].to_numpy() == 1
    return (_share(accepted[~live]) + _share(~accepted[live])) / 2


def _share(errors: np.ndarray) -> float:
    return float(errors.mean()) if errors.size else float("nan")


def _change(clean: pd.DataFrame, stressed: pd.DataFrame) -> dict:
    found = intervals.compare_eer(
        stressed["label"].to_numpy(), _filled(clean), _filled(stressed), _read_groups(stressed), replicates=_REPLICATES
    )
    return _as_dict(found.difference, found.interval, found.verdict)


def compare_systems(first: pd.DataFrame, second: pd.DataFrame) -> dict:
    """Two systems' scores of the same presentations: the EER of ``first``, that of ``second`` less it, the verdict
    on ``second``."""
    return {"eer": metrics.eer(first["label"], _filled(first)).value, **_change(first, second)}


def _as_dict(difference: float, interval: Interval, verdict: str) -> dict:
    return {"difference": difference, "difference_interval": interval.as_list(), "verdict": verdict}


def _attack_change(clean: pd.DataFrame, attacks: pd.DataFrame) -> dict:
    """The EER with the simulated attacks less the EER with the real ones, the live videos being the same.

    Bootstrap: a drawn live video brings its simulated attack with it; the real attacks are drawn too.
    """
    labels, scores, groups = clean["label"].to_numpy().astype(bool), _filled(clean), _read_groups(clean)
    place = clean.index.get_indexer(attacks.index)
    live = np.flatnonzero(labels)
    both_labels = np.concatenate([np.ones(live.size, bool), np.zeros(place.size, bool)])
    both_scores = np.concatenate([scores[live], _filled(attacks)])
    difference = metrics.eer(both_labels, both_scores).value - metrics.eer(labels, scores).value
    drawn = intervals.draw_counts(labels, groups, _REPLICATES, np.random.default_rng(intervals.SEED))
    before = metrics.eer_of_counts(*intervals.split_counts(drawn, labels, scores))[0]
    again = np.concatenate([drawn[:, live], drawn[:, place]], axis=1)
    after = metrics.eer_of_counts(*intervals.split_counts(again, both_labels, both_scores))[0]
    changes = (after - before)[np.isfinite(after - before)]
    if not changes.size or not np.isfinite(difference):
        return _as_dict(difference, Interval(float("nan"), float("nan"), "none"), "cannot be told apart")
    tail = 0.025 if groups is None else intervals.expanded_tail(len(set(groups)), 0.025)
    low, high = (float(value) for value in np.quantile(changes, [tail, 1 - tail]))
    interval = Interval(low, high, "paired bootstrap")
    verdict = "worse" if interval.low > 0 else "better" if interval.high < 0 else "cannot be told apart"
    return _as_dict(difference, interval, verdict)


def sort_worst_first(rows: list[dict]) -> list[dict]:
    """Rows by falling EER; equal ones by falling APCER + BPCER, then by name and severity."""
    return sorted(rows, key=lambda r: (-_low(r["eer"]), -_low(r["apcer"] + r["bpcer"]), r["stressor"], r["severity"]))


def _low(value: float) -> float:
    return value if np.isfinite(value) else -1.0


def order_by_seed(filenames: Iterable[str], seed: int) -> list[int]:
    """A number for each video, by its name and the seed alone."""
    return [int(hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()[:12], 16) for name in filenames]


def sample_videos(videos: pd.DataFrame, count: int, order: list[int]) -> pd.DataFrame:
    """``count`` of the videos (all for 0), each label and fold in proportion, in the table's order.

    order: a number per video; within a label and fold those with the smallest are taken. So a larger
    sample of the same order holds the smaller one as far as the proportions allow.
    """
    if not 0 < count < len(videos):
        return videos
    keyed = videos.assign(order=order)
    strata = keyed.groupby(["label", "fold"])["order"]
    keyed["place"] = (strata.rank(method="first") - 0.5) / strata.transform("size")
    chosen = keyed.sort_values(["place", "order"]).index[:count]
    return videos.loc[videos.index.isin(chosen)]
