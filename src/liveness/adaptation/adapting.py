"""A few labelled clips of one camera -> weights/<set>/ members and the decision of the ensemble ``adapted``.

    summary, path = adapt_set(Asked("mine"))

Reads data/<set>/ (and the anchor's) and weights/<start's set>/. Writes runs/<set>/adapted/ (``adapted.json``, all
figures; ``fits/``, what a killed run has fitted), weights/<set>/{*_adapted_fold<k>.safetensors,adapted.json}. Nothing
of that is begun before all that was asked for has been looked at.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from liveness.adaptation.candidates import CANDIDATES, DAY_ONE, OF_SCORES, Fitted, Shift, fit_candidate
from liveness.adaptation.choice import Choice, Held, choose
from liveness.adaptation.clips import Clips, SeenClips, read_clips, see_clips
from liveness.adaptation.judging import (
    compare_scores,
    find_doubtful,
    judge_anchor,
    judge_clips,
    measure_distance,
    widen_limits,
)
from liveness.adaptation.shipping import ship
from liveness.adaptation.start import StartEnsemble, load_start
from liveness.base.compose import load_adapt_plan
from liveness.base.errors import UserError
from liveness.base.experiments import AdaptPlan
from liveness.base.files import held, natural_key, plain_name, workspace, write_json
from liveness.evaluation.cameras import measure_cues
from liveness.prediction.limits import find_inside
from liveness.sets.cues import read_cues
from liveness.sets.extract import known_records
from liveness.sets.grouping import read_grouping
from liveness.sets.shared_videos import find_shared
from liveness.training.start import find_seen

VERSION = 1  # of what a fit gives for the same clips, plan and networks: results of another version are not taken over
DOUBTED_SHARE, DOUBTED_CLIPS = 0.1, 3  # of the labels: from there on nothing is learnt from them


@dataclass(frozen=True)
class Asked:
    """What is asked. ``camera``: of a set that names several; ``ensemble``, ``data``: the start, where its weights lie;
    ``anchor``: a set of other cameras to be scored before and after; ``trust_labels``: learn though many labels
    contradict the scores."""

    name: str
    camera: str = ""
    ensemble: str = "minifasnet"
    data: str = ""
    anchor: str = ""
    overrides: list[str] = field(default_factory=list)
    trust_labels: bool = False
    workers: int = 0

    @property
    def result(self) -> str:
        """The name of the ensemble that is made."""
        return f"adapted_{self.camera}" if self.camera else "adapted"


def adapt_set(asked: Asked) -> tuple[dict[str, Any], Path]:
    """Choose, fit, judge and write; what runs/<set>/<result>/adapted.json holds, and that file."""
    folder = workspace() / "data" / plain_name(asked.name, "SET")
    plain_name(asked.result, "--camera")
    plan, start = load_adapt_plan("default", asked.overrides), load_start(asked.ensemble, asked.data)
    _require_unseen(start, folder)
    if asked.anchor:
        _require_apart(folder, asked.anchor)
    clips = read_clips(asked.name, start, asked.camera, asked.workers, asked.trust_labels)
    anchor = read_clips(asked.anchor, start, None, asked.workers, trust=True) if asked.anchor else None
    runs = workspace() / "runs" / asked.name / asked.result
    with held(runs / "lock", f"{runs}: another process adapts to this camera"):
        seen = see_clips(start, clips)
        found = choose(start, seen, plan, keep=_keep_in(runs / "fits", _fingerprint(start, clips, plan)))
        doubtful = find_doubtful(found, clips.names, clips.labels)
        distrusted = len(doubtful) >= max(DOUBTED_CLIPS, DOUBTED_SHARE * len(clips)) and not asked.trust_labels
        kind, shift = (DAY_ONE, Shift()) if distrusted else (found.kind, found.shift)
        fitted = fit_candidate(kind, start, seen, np.arange(len(seen)), plan)
        judged = _judge(start, clips, found, kind)
        summary = {
            "version": VERSION,
            "set": asked.name,
            "camera": asked.camera,
            "ensemble": asked.result,
            "start": {"ensemble": start.name, "data": start.data},
            "plan": asdict(plan),
            "clips": _count_clips(clips),
            "grouping": read_grouping(folder),
            "apart": found.apart,
            "doubtful": doubtful,
            "distrusted": distrusted,
            **_describe_choice(found, kind, shift),
            "figures": judged,
            "cues": _find_cues(folder, clips),
            "anchor": _judge_anchor(start, anchor, fitted, shift, asked.anchor),
        }
        ship(
            start, fitted, shift, widen_limits(start.operating.limits, clips) if kind != DAY_ONE else None, asked, clips
        )
        write_json(runs / "adapted.json", summary)
    return summary, runs / "adapted.json"


# --- before anything is computed -------------------------------------------------------------------


def _require_unseen(start: StartEnsemble, folder: Path) -> None:
    """A UserError where a member of the start was trained on clips of the set: every figure would be a fiction."""
    ids = sorted(known_records(folder), key=natural_key)
    for network in start.networks:
        if seen := find_seen(network.description, folder, ids):
            raise UserError(
                f"{start.name}: {network.name} was trained on {len(seen)} videos of {folder.name} (first {seen[0]}), "
                "so its errors there are a fiction; start from an ensemble that has not seen them, such as minifasnet"
            )


def _require_apart(folder: Path, anchor: str) -> None:
    """A UserError where the anchor has videos of the set."""
    other = workspace() / "data" / plain_name(anchor, "--anchor")
    if other == folder:
        raise UserError(f"--anchor {anchor}: is the set itself; expected clips of other cameras")
    if twins := find_shared(folder, other):
        one = twins[0]
        raise UserError(
            f"--anchor {anchor}: {len(twins)} clips of {folder.name} are in it too ({one.filename} is "
            f"{'equal' if one.same else 'nearly equal'} to its {one.other}); what is learnt would be judged on itself"
        )


# --- what a killed run has fitted --------------------------------------------------------------------


def _fingerprint(start: StartEnsemble, clips: Clips, plan: AdaptPlan) -> str:
    """SHA-256 of all that a fit depends on."""
    weights = {network.name: network.description.get("weights_sha256", "") for network in start.networks}
    calibrations = {network.name: [network.slope, network.offset] for network in start.networks}
    about = [VERSION, asdict(plan), weights, start.weights, calibrations, clips.names]
    about += [clips.labels.tolist(), clips.groups.tolist()]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for parts in clips.views.values():
        for views in parts:
            digest.update(np.ascontiguousarray(views).data)
    return digest.hexdigest()


def _keep_in(folder: Path, fingerprint: str) -> Callable[[str, Held, Callable[[], np.ndarray]], np.ndarray]:
    """A ``choice.Keep`` with a file per fit in ``folder``; those of other clips, plans or networks are made anew."""

    def keep(kind: str, out: Held, compute: Callable[[], np.ndarray]) -> np.ndarray:
        path = folder / f"{kind}-{'_'.join(map(str, out)) or 'none'}.json"
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            if there["fingerprint"] == fingerprint:
                return np.array(there["logits"], dtype=np.float64)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        logits = compute()
        write_json(path, {"fingerprint": fingerprint, "logits": logits.tolist()})
        return logits

    return keep


# --- figures ---------------------------------------------------------------------------------------


def _count_clips(clips: Clips) -> dict[str, Any]:
    labels = clips.labels
    return {
        "clips": len(clips),
        "live": int(labels.sum()),
        "attack": int((1 - labels).sum()),
        "groups": len(set(clips.groups)),
        "without_face": list(clips.without),
    }


def _describe_choice(found: Choice, kind: str, shift: Shift) -> dict[str, Any]:
    return {
        "chosen": kind,
        "changes": CANDIDATES[kind],
        "best": found.kind,
        "shift": asdict(shift),
        "candidates": [asdict(one) | {"interval": list(one.interval)} for one in found.compared],
        "left_out": [] if found.apart else [one for one in CANDIDATES if one not in OF_SCORES],
        "picked": found.picked,
    }


def _judge(start: StartEnsemble, clips: Clips, found: Choice, kind: str) -> dict[str, Any]:
    """Figures before and after, on clips that had no say in what scores them; a row per clip."""
    operating = start.operating
    before, after = found.scores[DAY_ONE][:, 0], found.nested[:, 0] if kind != DAY_ONE else found.scores[DAY_ONE][:, 0]
    limits = widen_limits(operating.limits, clips) if kind != DAY_ONE else operating.limits
    sides = {
        "before": judge_clips(before, find_inside(clips.measures, operating.limits), clips, operating),
        "after": judge_clips(after, find_inside(clips.measures, limits), clips, operating),
    }
    made = {side: part.pop("made") for side, part in sides.items()}
    candidates = {
        one: {"hter": part["hter"], "eer": part["eer"]}
        for one, scores in found.scores.items()
        if (part := judge_clips(scores[:, 0], np.ones(len(clips), bool), clips, operating))
    }
    rows = [
        {
            "filename": name,
            "label": int(clips.labels[row]),
            "group": str(clips.groups[row]),
            "fold": int(found.folds[row]),
            "before": float(before[row]),
            "after": float(after[row]),
            "decision_before": made["before"][row],
            "decision_after": made["after"][row],
        }
        for row, name in enumerate(clips.names)
    ]
    live = clips.labels == 1
    moved = [
        {"reason": old.reason, "measure": old.measure,
         "turned_away": float((~find_inside(clips.measures, (old,))[live]).mean()),
         "bound": old.least if np.isfinite(old.least) else old.most,
         "now": new.least if np.isfinite(new.least) else new.most}
        for old, new in zip(operating.limits, limits, strict=True)
    ]  # fmt: skip
    return {
        **sides,
        "threshold": operating.threshold,
        "compared": compare_scores(before, after, clips.labels, clips.groups),
        "distance": measure_distance(before, after, operating.threshold),
        "candidates": candidates,
        "limits": moved,
        "rows": rows,
    }


def _judge_anchor(
    start: StartEnsemble, anchor: Clips | None, fitted: Fitted, shift: Shift, name: str
) -> dict[str, Any] | None:
    if anchor is None:
        return None
    seen: SeenClips = see_clips(start, anchor, relit=False)
    old = Fitted(DAY_ONE, start.networks, start.weights, {network.name: network.name for network in start.networks})
    return {"set": name, **judge_anchor(anchor, seen, old, fitted, shift, start.operating)}


def _find_cues(folder: Path, clips: Clips) -> list[dict]:
    stems = {Path(name).stem for name in clips.names}
    table = read_cues(folder)
    return measure_cues(table[table["video_id"].isin(stems)])
