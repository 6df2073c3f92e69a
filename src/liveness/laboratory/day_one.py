"""What an ensemble can decide on a camera that it never saw: learnt on some cameras, judged on one that is left out.

    table = score_domains(["nuaa", "cameras"], "minifasnet")
    operating = learn_decision(table, LearningPlan(weights))        everything that prediction decides with
    rows = leave_one_out(table, LearningPlan(weights))              the same, learnt without the camera it is judged on

A domain is a camera (the column camera of a prepared set), or a set that names none. Reads data/<set>/labels_video.csv
and the raw videos; ``describe_decision`` gives what weights/<set>/<ensemble>.json holds. benchmarks/day_one.py is its
command.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from liveness.base.compose import load_ensemble
from liveness.base.errors import UserError
from liveness.base.files import plain_name, show_path, unprepared, workspace
from liveness.base.names import find_column
from liveness.base.tables import read_table, whole_numbers
from liveness.evaluation.calibration import fit_platt
from liveness.evaluation.combine import blend_rows, logit, sigmoid
from liveness.evaluation.intervals import clopper_pearson
from liveness.frames.quality import MEASURES
from liveness.prediction.engine import decode_ahead, load_weights, read_ensemble, score_members
from liveness.prediction.limits import InputLimit, find_inside
from liveness.prediction.operating import Operating
from liveness.prediction.rows import SCORED

KEYS = ["domain", "filename", "label", "species", "crop"]
CROP = "crop"  # in the column framing: someone cut the face out, so that what is around it does not exist
SEVERAL = InputLimit("several_faces", "other_face", most=0.2)
_CLOSEST = 1200  # thresholds that are tried at most


@dataclass(frozen=True)
class LearningPlan:
    """How a decision is learnt. weights: member -> its weight in the blend.

    target: the share of live videos and of attacks of a camera that may be decided wrongly before it counts (half of
    what is hoped for on a new camera). learnt: reason -> measure whose least value among the live videos of the
    cameras, over ``widen``, becomes a limit. fixed: limits that are no matter of learning.
    """

    weights: dict[str, float]
    target: float = 0.05
    widen: float = 1.1
    learnt: dict[str, str] = field(default_factory=lambda: {"cropped": "room", "too_small": "face_width"})
    fixed: tuple[InputLimit, ...] = (SEVERAL,)


# --- scores ------------------------------------------------------------------------------------------


def score_domains(sets: list[str], ensemble: str, workers: int = 0) -> pd.DataFrame:
    """KEYS, a raw score per member and MEASURES (nan where there is none), a row per labelled video of the sets."""
    videos = pd.concat([read_domains(name) for name in sets], ignore_index=True)
    for name, part in videos.groupby("domain"):
        if set(part["label"]) != {0, 1}:
            raise UserError(f"{name}: its labels are all {part['label'].iloc[0]}; expected attacks (0) and live (1)")
    described = read_ensemble(load_ensemble(ensemble))
    described.members = [replace(m, wanted=replace(m.wanted, measured=True)) for m in described.members]
    found: dict[str, dict[str, float]] = {}
    with load_weights(described, "auto") as loaded:
        prepared = decode_ahead(videos["path"].tolist(), described.wanted(), workers)
        for video, scores in score_members(prepared, loaded):
            usable = video.status in SCORED and len(scores) == len(described.members)
            found[str(video.path)] = {**scores, **(video.measures or {})} if usable else {}
    columns = [*(member.name for member in described.members), *MEASURES]
    values = [[found[str(path)].get(name, np.nan) for name in columns] for path in videos["path"]]
    return pd.concat([videos[KEYS], pd.DataFrame(values, columns=columns, dtype=float)], axis=1)


def read_domains(name: str) -> pd.DataFrame:
    """KEYS and ``path`` of a prepared set's labelled videos; a UserError where there are none."""
    folder = workspace() / "data" / plain_name(name, "SET")
    path = folder / "labels_video.csv"
    if not path.is_file():
        raise UserError(unprepared(name))
    table = read_table(path, ["filename", "label", "species", "status"])
    table = table[(table["label"] != "") & (table["status"] != "left_out")].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{show_path(path)}: no labelled video in it")
    table["label"] = whole_numbers(table, "label", path)
    camera, framing = (find_column(list(table.columns), column) for column in ("camera", "framing"))
    table["domain"] = table[camera].where(table[camera] != "", name) if camera else name
    table["crop"] = table[framing] == CROP if framing else False
    table["path"] = [folder / "videos" / filename for filename in table["filename"]]
    return table[[*KEYS, "path"]]


# --- learning ----------------------------------------------------------------------------------------


def learn_decision(table: pd.DataFrame, plan: LearningPlan, point: str = "eer") -> Operating:
    """Limits, calibration, threshold and its interval from whole frames of several cameras.

    Limits come first, from the live videos. Each member is calibrated by Platt's method on what is left, every camera
    and class with the same weight. The threshold is ``choose_threshold``'s; its interval holds all those that would be
    chosen with one of the cameras left out.
    """
    whole = table[~table["crop"].astype(bool)].reset_index(drop=True)
    if whole["domain"].nunique() < 3:
        raise UserError(f"{whole['domain'].nunique()} cameras with whole frames; expected at least three to learn from")
    limits = _learn_limits(whole, plan)
    inside = find_inside(whole, limits) & np.isfinite(whole[list(plan.weights)].to_numpy()).all(axis=1)
    weights = (1 / whole.groupby(["domain", "label"])["label"].transform("size")).to_numpy()[inside]
    labels = whole["label"].to_numpy(dtype=int)
    members = {
        name: fit_platt(whole[name].to_numpy()[inside], labels[inside], weights / weights.sum())
        for name in plan.weights
    }
    learnt = Operating(calibrations=members, point=point, limits=limits)
    scores, domains = blend_members(whole, learnt, plan.weights), whole["domain"].to_numpy()
    scores[~inside] = np.nan
    learnt.threshold = choose_threshold(scores, labels, domains, point, plan.target)
    others = [
        choose_threshold(scores[domains != name], labels[domains != name], domains[domains != name], point, plan.target)
        for name in sorted(set(domains))
    ]
    learnt.low, learnt.high = min([learnt.threshold, *others]), max([learnt.threshold, *others])
    return learnt


def _learn_limits(whole: pd.DataFrame, plan: LearningPlan) -> tuple[InputLimit, ...]:
    live = whole[whole["label"] == 1]
    least = {reason: float(live[measure].min()) / plan.widen for reason, measure in plan.learnt.items()}
    found = (InputLimit(reason, plan.learnt[reason], float(f"{value:.3g}")) for reason, value in least.items())
    return (*found, *plan.fixed)


def blend_members(table: pd.DataFrame, operating: Operating, weights: dict[str, float]) -> np.ndarray:
    """The score of each video as prediction gives it; nan where a member has none."""
    names = list(weights)
    values = np.stack([operating.calibrations[name].apply(table[name].to_numpy()) for name in names], axis=1)
    scores = blend_rows(values, np.array([weights[name] for name in names]))
    return np.where(np.isfinite(values).all(axis=1), scores, np.nan)


def choose_threshold(scores: np.ndarray, labels: np.ndarray, domains: np.ndarray, point: str, target: float) -> float:
    """The threshold for several cameras, each of which counts the same. nan scores (abstained from) are not accepted.

    ``eer``: the least sum, over cameras, of what APCER and BPCER are above ``target``; of all such thresholds the
    middle one by log-odds. ``apcer5``: the lowest at which no camera's APCER is above 5 %.
    """
    known = np.unique(scores[np.isfinite(scores)])
    tried = (known[1:] + known[:-1]) / 2
    if tried.size > _CLOSEST:
        tried = tried[np.linspace(0, tried.size - 1, _CLOSEST).astype(int)]
    filled = np.where(np.isfinite(scores), scores, -1.0)
    rates = []
    for name in sorted(set(domains)):
        attack, live = (np.sort(filled[(domains == name) & (labels == label)]) for label in (0, 1))
        rates.append((1 - np.searchsorted(attack, tried) / attack.size, np.searchsorted(live, tried) / live.size))
    apcer, bpcer = np.array(rates).swapaxes(0, 1)
    if point != "eer":
        within = np.flatnonzero(apcer.max(axis=0) <= int(point.removeprefix("apcer")) / 100)
        return float(tried[within[0]]) if within.size else float(tried[-1])
    cost = (np.maximum(apcer - target, 0) + np.maximum(bpcer - target, 0)).sum(axis=0)
    best = np.flatnonzero(cost <= cost.min() + 1e-9)
    return float(sigmoid(logit(tried[best[[0, -1]]]).mean()))


# --- judging -----------------------------------------------------------------------------------------


def leave_one_out(table: pd.DataFrame, plan: LearningPlan) -> list[dict]:
    """For every camera what the decisions are there that were learnt on all others (``judge_decision``)."""
    found = []
    for name in dict.fromkeys(table["domain"]):
        here = table["domain"] == name
        operating = learn_decision(table[~here], plan)
        found.append({"domain": name, **judge_decision(table[here], operating, plan.weights)})
    return found


def judge_decision(table: pd.DataFrame, operating: Operating, weights: dict[str, float]) -> dict:
    """Rates of one camera's videos, each as errors, of, value and its exact interval.

    apcer, bpcer: with abstentions, where a live video that is abstained from is turned away and such an attack is not
    accepted; abstained: their shares; decided: the rates among the videos that are decided; forced: those where every
    video with a score is decided at the threshold, without limits and without an interval.
    """
    scores, labels = blend_members(table, operating, weights), table["label"].to_numpy(dtype=int)
    inside = find_inside(table, operating.limits)
    decisions = np.array(
        [operating.decide(score, "ok", operating.least_frames) if there else "abstain"
         for score, there in zip(scores, inside, strict=True)]
    )  # fmt: skip
    forced = np.where(scores >= operating.threshold, "live", "attack")
    live, decided = labels == 1, decisions != "abstain"

    def rates(made: np.ndarray, rows: np.ndarray) -> dict:
        return {
            "apcer": _rate(made[rows & ~live] == "live"),
            "bpcer": _rate(made[rows & live] != "live"),
        }

    every = np.ones(len(table), bool)
    reasons = {
        limit.reason: {kind: int((~find_inside(table, (limit,)) & rows).sum()) for kind, rows in
                       (("live", live), ("attack", ~live))}
        for limit in operating.limits
    }  # fmt: skip
    return {
        **rates(decisions, every),
        "abstained": {"live": _rate(~decided[live]), "attack": _rate(~decided[~live]), "limits": reasons},
        "decided": rates(decisions, decided),
        "forced": rates(forced, every),
        "threshold": operating.threshold,
        "threshold_interval": [operating.low, operating.high],
        "limits": [describe_limit(limit) for limit in operating.limits],
        "crop": bool(table["crop"].any()),
    }


def _rate(wrong: np.ndarray) -> dict:
    errors, total = int(wrong.sum()), len(wrong)
    low, high = clopper_pearson(errors, total)
    return {"errors": errors, "of": total, "value": errors / total if total else None, "interval": [low, high]}


def compare_plans(table: pd.DataFrame, plan: LearningPlan) -> dict[str, list[dict]]:
    """``leave_one_out`` with something left out or done otherwise, by what it is."""
    alone = {name: LearningPlan({name: 1.0}) for name in plan.weights}
    limits = [*plan.learnt, *(limit.reason for limit in plan.fixed)]
    others = {
        "equal weights": replace(plan, weights=dict.fromkeys(plan.weights, 1.0)),
        **{f"{name} alone": one for name, one in alone.items()},
        **{f"without {reason}": _without(plan, [reason]) for reason in limits},
        "without limits": _without(plan, limits),
        **{f"with too_dark, at {widen}": _with(plan, "too_dark", "brightness", widen) for widen in (plan.widen,)},
        **{f"with blurred, at {widen}": _with(plan, "blurred", "sharpness", widen) for widen in (plan.widen,)},
        **{f"limits at {widen}": replace(plan, widen=widen) for widen in (1.0, 1.05, 1.2, 1.3)},
        **{f"several_faces from {most}": _several(plan, most) for most in (0.1, 0.15, 0.3, 0.5)},
        **{f"target {target}": replace(plan, target=target) for target in (0.02, 0.1)},
    }
    return {what: leave_one_out(table, other) for what, other in others.items()}


def _without(plan: LearningPlan, reasons: Iterable[str]) -> LearningPlan:
    learnt = {reason: measure for reason, measure in plan.learnt.items() if reason not in reasons}
    return replace(plan, learnt=learnt, fixed=tuple(limit for limit in plan.fixed if limit.reason not in reasons))


def _with(plan: LearningPlan, reason: str, measure: str, widen: float) -> LearningPlan:
    return replace(plan, learnt={**plan.learnt, reason: measure}, widen=widen)


def _several(plan: LearningPlan, most: float) -> LearningPlan:
    return replace(plan, fixed=tuple(replace(one, most=most) if one is SEVERAL else one for one in plan.fixed))


# --- shipping ----------------------------------------------------------------------------------------


def describe_limit(limit: InputLimit) -> dict:
    """A limit as an operating file lists it."""
    bounds = {name: getattr(limit, name) for name in ("least", "most") if np.isfinite(getattr(limit, name))}
    return {"reason": limit.reason, "measure": limit.measure, **bounds}


def describe_decision(points: list[Operating], weights: dict[str, float], table: pd.DataFrame) -> dict:
    """What weights/<set>/<ensemble>.json holds of decisions learnt on the table's cameras; ``points``: one or more."""
    first, whole = points[0], table[~table["crop"].astype(bool)]
    over = f"over {whole['domain'].nunique()} cameras"
    return {
        "data_hash": "",
        "weights": weights,
        "calibration": {"how": "platt", "members": {n: c.to_dict() for n, c in first.calibrations.items()}},
        "thresholds": [
            {"name": one.point, "target": None if one.point == "eer" else int(one.point.removeprefix("apcer")) / 100,
             "threshold": one.threshold, "threshold_interval": [one.low, one.high], "split": over, "videos": len(whole)}
            for one in points
        ],
        "limits": [describe_limit(limit) for limit in first.limits],
    }  # fmt: skip
