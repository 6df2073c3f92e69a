"""What an out-of-fold table says, as plain dictionaries (report.json); report_text.py puts them into words."""

import numpy as np
import pandas as pd

from liveness.evaluation import grouping, intervals, metrics
from liveness.evaluation.calibration import CrossFitted
from liveness.evaluation.rates import error_rates, rate

FPR_TARGETS = (0.01, 0.05, 0.1)  # at which the share of accepted live videos is told


def summarise(
    table: pd.DataFrame, members: list[str], species=None, groups_are: dict = grouping.UNKNOWN_GROUPS
) -> dict:
    """Measure a table of ``combine.assemble`` (filename, label, group, fold, score, status, members).

    species: one name per row or None. groups_are: what the groups are (evaluation/grouping.py). Returns nested
    dictionaries of plain numbers; every figure stands beside its interval. Equal tables give equal reports.
    """
    covered = table[table["status"] != "not_covered"]
    scored = covered[np.isfinite(covered["score"].to_numpy(dtype=np.float64))]
    kept = None if species is None else np.asarray(species, dtype=object)[table.index.get_indexer(scored.index)]
    labels, scores = scored["label"].to_numpy(dtype=int), scored["score"].to_numpy(dtype=np.float64)
    overall = measure_errors(labels, scores, scored["group"].to_numpy())
    return {
        "grouping": dict(groups_are),
        "counts": {
            **_counts(covered),
            "in_set": len(table),
            "scored": len(scored),
            "coverage": len(covered) / len(table) if len(table) else float("nan"),
        },
        "warning": _warn_of_groups(covered, groups_are),
        "pooled": overall | {"hter": half_total_error(labels, scores, scored["fold"].to_numpy())},
        "at_eer_threshold": error_rates(labels, scores, overall["threshold"], kept, scored["group"].to_numpy()),
        "non_response": _non_response(covered),
        "folds": [_part(part, "score", {"fold": int(fold)}) for fold, part in covered.groupby("fold", sort=True)],
        "members": [_part(covered[covered[name].notna()], name, {"member": name}) for name in members],
    }


def half_total_error(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> float:
    """HTER with every fold judged at the threshold of the EER on the other folds; nan where these lack a class.

    Unlike the EER it pays for a threshold that does not carry over to videos that had no say in it.
    """
    thresholds = np.full(len(labels), np.nan)
    for fold in np.unique(folds):
        here = folds == fold
        thresholds[here] = metrics.eer(labels[~here], scores[~here]).threshold
    if not np.isfinite(thresholds).all():
        return float("nan")
    # The sign of a difference is exact, so that 0 does what each fold's own threshold does.
    return metrics.hter(labels, scores - thresholds, 0.0)


def measure_errors(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict:
    """EER, AUC and log loss with intervals by video and, where videos share groups, by group; further figures.

    ``tpr_at_fpr``: false positive rate -> share of live videos that a threshold with no more than it accepts.
    ``headline`` names the intervals to quote: by group where groups hold several videos, because
    videos of one person err together.
    """
    equal = metrics.eer(labels, scores)
    result = {
        "threshold": equal.threshold,
        "eer": equal.value,
        "auc": metrics.auc(labels, scores),
        "log_loss": metrics.log_loss(labels, scores),
        "brier": metrics.brier(labels, scores),
        "calibration_error": metrics.calibration_error(labels, scores),
        "tpr_at_fpr": {str(target): metrics.tpr_at_fpr(labels, scores, target) for target in FPR_TARGETS},
        "by_video": _limits(intervals.bootstrap(labels, scores)),
    }
    grouped = len(set(groups)) < len(labels)
    if grouped:
        result["by_group"] = _limits(intervals.bootstrap(labels, scores, groups))
    result["headline"] = "by_group" if grouped else "by_video"
    return result


def _limits(found: dict[str, intervals.Interval]) -> dict:
    return {name: {"interval": value.as_list(), "method": value.method} for name, value in found.items()}


def _warn_of_groups(table: pd.DataFrame, groups_are: dict) -> str:
    """What to say beside an interval over these groups: that they are few, that persons are unknown, or nothing."""
    few = intervals.warn_of_few_groups(int(table["group"].nunique()), grouping.noun(groups_are))
    return "; ".join(text for text in (few, grouping.warn_of_unknown_persons(groups_are)) if text)


def summarise_holdout(table: pd.DataFrame, species=None, groups_are: dict = grouping.UNKNOWN_GROUPS) -> dict | None:
    """Figures of the videos that no member was trained on and all have scored; None where there are none.

    table: rows of ``combine.assemble`` of the holdout. They say how good the whole ensemble is, on fewer videos.
    """
    if not len(table):
        return None
    scored = np.isfinite(table["score"].to_numpy(dtype=np.float64))
    part = table[scored]
    labels, scores = part["label"].to_numpy(dtype=int), part["score"].to_numpy(dtype=np.float64)
    kept = None if species is None else [name for name, there in zip(species, scored, strict=True) if there]
    overall = measure_errors(labels, scores, part["group"].to_numpy())
    return {
        "counts": {**_counts(table), "scored": len(part)},
        "warning": _warn_of_groups(table, groups_are),
        "pooled": overall,
        "at_eer_threshold": error_rates(labels, scores, overall["threshold"], kept, part["group"].to_numpy()),
        "non_response": _non_response(table),
    }


def summarise_calibration(how: str, fits: dict[str, CrossFitted], labels: np.ndarray, raw: np.ndarray) -> dict:
    """How each member was calibrated, and the same figures without: ``raw``, blended uncalibrated scores."""
    members = [
        {"member": name, "parameters": fit.calibration.to_dict(), "parted": fit.parted} for name, fit in fits.items()
    ]
    without = {
        "eer": metrics.eer(labels, raw).value,
        "auc": metrics.auc(labels, raw),
        "log_loss": metrics.log_loss(labels, raw),
        "brier": metrics.brier(labels, raw),
        "calibration_error": metrics.calibration_error(labels, raw),
    }
    return {"how": how, "members": members, "raw": without}


def _counts(table: pd.DataFrame) -> dict:
    return {
        "videos": len(table),
        "live": int((table["label"] == 1).sum()),
        "attack": int((table["label"] == 0).sum()),
        "groups": int(table["group"].nunique()),
    }


def _non_response(covered: pd.DataFrame) -> dict:
    attack, live = metrics.non_response(covered["label"].to_numpy(dtype=int), covered["score"].to_numpy(dtype=float))
    silent = covered[~np.isfinite(covered["score"].to_numpy(dtype=float))]
    return {
        "apnrr": rate(attack),
        "bpnrr": rate(live),
        "videos": [{"filename": r.filename, "status": r.status} for r in silent.itertuples(index=False)],
    }


def _part(part: pd.DataFrame, column: str, head: dict) -> dict:
    """EER and AUC of one fold or member, with intervals of the same kind as the headline's."""
    part = part[np.isfinite(part[column].to_numpy(dtype=np.float64))]
    labels, scores = part["label"].to_numpy(dtype=int), part[column].to_numpy(dtype=np.float64)
    groups = part["group"].to_numpy()
    found = intervals.bootstrap(labels, scores, groups if len(set(groups)) < len(groups) else None)
    equal = metrics.eer(labels, scores)
    return {
        **head,
        **_counts(part),
        "eer": equal.value,
        "eer_interval": found["eer"].as_list(),
        "auc": metrics.auc(labels, scores),
        "auc_interval": found["auc"].as_list(),
    }


FRAME_WAYS = ("mean", "median", "logit_mean", "top1", "low1", "trimmed20")


def compare_ways(table: pd.DataFrame, candidates: dict[str, pd.Series]) -> list[dict]:
    """Other ways to combine against the ensemble as configured, on the same videos.

    table: of ``combine.assemble``; candidates: way -> out-of-fold score per row of ``table``. Each
    row of the result has the way's EER, AUC and a paired comparison of the EER with the table's
    ``score`` (by group where groups hold several videos), and one of the AUC (DeLong's, which takes every
    video for independent). Videos without either score are left out.
    """
    rows = []
    for way, scores in candidates.items():
        values, ours = np.asarray(scores, dtype=np.float64), table["score"].to_numpy(dtype=np.float64)
        both = np.isfinite(values) & np.isfinite(ours)
        labels, groups = table["label"].to_numpy(dtype=int)[both], table["group"].to_numpy()[both]
        grouped = groups if len(set(groups)) < len(groups) else None
        found = intervals.compare_eer(labels, ours[both], values[both], grouped)
        area = intervals.compare_auc(labels, ours[both], values[both])
        rows.append(
            {
                "way": way,
                "videos": int(both.sum()),
                "eer": metrics.eer(labels, values[both]).value,
                "auc": metrics.auc(labels, values[both]),
                "difference": found.difference,
                "interval": found.interval.as_list(),
                "verdict": found.verdict,
                "videos_to_tell": found.videos_to_tell,
                "auc_difference": area.difference,
                "auc_interval": area.interval.as_list(),
                "auc_verdict": area.verdict,
            }
        )
    return rows
