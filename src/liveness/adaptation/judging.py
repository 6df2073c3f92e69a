"""What an adaptation is worth: errors before and after on clips that had no say, what the old has kept, what to doubt.

Functions on tables; nothing is read or written.
"""

from typing import Any

import numpy as np
import pandas as pd

from liveness.adaptation.candidates import DAY_ONE, Fitted, Shift, blend_shifted, score_candidate
from liveness.adaptation.choice import Choice, bound_gain, mean_of_classes
from liveness.adaptation.clips import Clips, SeenClips
from liveness.evaluation import decisions, intervals, metrics, report
from liveness.evaluation.combine import logit
from liveness.prediction.limits import InputLimit
from liveness.prediction.operating import Operating

SURE, SIDE = 0.1, 0.5  # a label is doubted where its probability is below SURE before, and below SIDE after
_MANY_FRAMES = 1 << 30


def find_doubtful(choice: Choice, names: list[str], labels: np.ndarray) -> list[str]:
    """Clips whose label the start contradicts for sure, and the scores out of fold too: perhaps it is wrong."""
    before, after = (
        np.where(labels == 1, part, 1 - part) for part in (choice.scores[DAY_ONE][:, 0], choice.nested[:, 0])
    )
    return [names[row] for row in np.flatnonzero((before < SURE) & (after < SIDE))]


def widen_limits(limits: tuple[InputLimit, ...], clips: Clips, room: float = 1.1) -> tuple[InputLimit, ...]:
    """The limits, but that one which turns away most of the live clips is moved to where these are (with some room).

    Such a limit says that nobody had measured such pictures. Now somebody has; without it nothing would be decided.
    """
    live, found = clips.measures[clips.labels == 1], []
    for limit in limits:
        values = live[limit.measure].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        if values.size and ((values < limit.least) | (values > limit.most)).mean() > 0.5:
            least, most = (float(f"{bound:.3g}") for bound in (values.min() / room, values.max() * room))
            limit = InputLimit(
                limit.reason, limit.measure,
                min(limit.least, least), limit.most if limit.most == np.inf else max(limit.most, most),
            )  # fmt: skip
        found.append(limit)
    return tuple(found)


def judge_clips(scores: np.ndarray, inside: np.ndarray, clips: Clips, operating: Operating) -> dict[str, Any]:
    """Figures of some scores (clips,) at an operating point: EER, log loss and AUC with intervals; ``decisions``, in
    which an abstention counts as ISO/IEC 30107-3 has it; ``forced``: all decided at the threshold; its HTER."""
    table = pd.DataFrame({"label": clips.labels, "group": clips.groups, "species": clips.species})
    made = [
        operating.decide(float(score), "ok", _MANY_FRAMES) if there else "abstain"
        for score, there in zip(scores, inside, strict=True)
    ]
    decided = decisions.measure_decisions(table.assign(decision=made))
    at_threshold = np.where(scores >= operating.threshold, "live", "attack")
    forced = decisions.measure_decisions(table.assign(decision=at_threshold, species=""))
    sides = [forced["apcer"], forced["bpcer"]]
    errors = report.measure_errors(clips.labels, scores, clips.groups)
    limits = errors[errors["headline"]]
    return {
        "eer": errors["eer"],
        "eer_interval": limits["eer"]["interval"],
        "auc": errors["auc"],
        "log_loss": mean_of_classes(metrics.log_losses(clips.labels, scores), clips.labels),
        "hter": sum(side["value"] for side in sides) / 2,
        "hter_interval": [sum(side["interval"][end] for side in sides) / 2 for end in (0, 1)],
        "forced": {"apcer": sides[0], "bpcer": sides[1]},
        "decisions": {key: decided[key] for key in ("apcer", "bpcer", "abstained", "worst", "by")}
        | {"species": len(decided["apcer_species"])},
        "made": made,
    }


def compare_scores(before: np.ndarray, after: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """After less before, paired: log loss (classes alike) and EER, each with interval and verdict."""
    shared = groups if len(set(groups)) < len(groups) else None
    gains = metrics.log_losses(labels, after) - metrics.log_losses(labels, before)
    low, high = bound_gain(gains, labels, shared)
    equal = intervals.compare_eer(labels, before, after, shared)
    verdict = "better" if high < 0 else "worse" if low > 0 else "cannot be told apart"
    return {
        "log_loss": {"difference": mean_of_classes(gains, labels), "interval": [low, high], "verdict": verdict},
        "eer": {
            "difference": equal.difference,
            "interval": equal.interval.as_list(),
            "verdict": equal.verdict,
        },
    }


def measure_distance(before: np.ndarray, after: np.ndarray, threshold: float) -> dict[str, float]:
    """How far scores have moved: mean change of the log-odds, rank correlation, share of clips on another side."""
    from scipy import stats

    same = len(set(before)) < 2 or len(set(after)) < 2
    return {
        "log_odds": float(np.abs(logit(after) - logit(before)).mean()),
        "rank_correlation": 1.0 if same else float(stats.spearmanr(before, after).statistic),
        "other_side": float(((before >= threshold) != (after >= threshold)).mean()),
    }


def judge_anchor(
    clips: Clips, seen: SeenClips, start: Fitted, fitted: Fitted, shift: Shift, operating: Operating
) -> dict[str, Any]:
    """Other cameras' clips by the old and by the new: figures at the threshold, limits aside, and the comparison; a row
    per camera where they are named."""
    rows = np.arange(len(seen))
    before = blend_shifted(DAY_ONE, score_candidate(start, seen, rows), start.weights, Shift())[:, 0]
    after = blend_shifted(fitted.kind, score_candidate(fitted, seen, rows), fitted.weights, shift)[:, 0]
    everyone = np.ones(len(clips), bool)
    cameras = [name for name in sorted(set(clips.cameras)) if len(set(clips.labels[clips.cameras == name])) == 2]
    found = {
        key: {k: v for k, v in judge_clips(scores, everyone, clips, operating).items() if k != "made"}
        for key, scores in (("before", before), ("after", after))
    }
    return {
        "clips": len(clips),
        **found,
        "compared": compare_scores(before, after, clips.labels, clips.groups),
        "cameras": [
            {"camera": name or "not named", "clips": int(mine.sum())}
            | {
                key: metrics.hter(clips.labels[mine], scores[mine], operating.threshold)
                for key, scores in (("hter_before", before), ("hter_after", after))
            }
            for name in cameras
            if (mine := clips.cameras == name).any()
        ],
    }
