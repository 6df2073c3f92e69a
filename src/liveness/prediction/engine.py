"""Videos -> frame scores -> rows: the engine behind predict.sh, the notebook and ``score_videos``.

    members = load_members(load_ensemble("demo"))
    table = score_videos(find_videos(Path("clips")), members)

Worker processes decode ahead while the models score; each video is decoded once for all members.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from liveness.config import Ensemble
from liveness.errors import UserError
from liveness.files import workspace
from liveness.media.workers import Failed, cores, run_tasks
from liveness.prediction.prepare import Prepared, Wanted, prepare_task, wanted_of
from liveness.prediction.results import NO_SCORE, Row, decide

SECONDS, GIB = 120.0, 4.0  # what one video may take to decode; see media/workers.py


@dataclass
class Member:
    """A loaded model with all that scoring with it takes."""

    name: str
    weight: float
    scorer: Any  # model.score.Scorer
    wanted: Wanted
    combine: str


@dataclass
class LoadedEnsemble:
    name: str
    members: list[Member]
    threshold: float
    threshold_source: str


def load_members(ensemble: Ensemble, data: str = "") -> LoadedEnsemble:
    """Load every member's weights; a UserError naming all files that are missing."""
    from liveness.model.checkpoint import member_path
    from liveness.model.score import pick_device, use_all_cores

    data = data or ensemble.data
    paths = {(m.recipe, m.fold): member_path(data, m.recipe, m.fold) for m in ensemble.members}
    missing = [path for path in paths.values() if not path.is_file()]
    if missing:
        raise UserError(_ways_to_get(missing, ensemble.name, data))
    use_all_cores()
    device = pick_device()
    members = [_load(paths[m.recipe, m.fold], m.recipe, m.fold, m.weight, device) for m in ensemble.members]
    threshold, source = _threshold(workspace() / "weights" / data / f"{ensemble.name}.json")
    return LoadedEnsemble(ensemble.name, members, threshold, source)


def _load(path: Path, recipe: str, fold: int, weight: float, device: Any) -> Member:
    from liveness.data.contract import read_contract
    from liveness.files import sha256_of
    from liveness.media.faces import detector_path
    from liveness.model.checkpoint import load_member
    from liveness.model.score import Scorer

    model, description = load_member(path)
    made_as = description["recipe"]["name"]
    if made_as != recipe or description["fold"] != fold:
        raise UserError(
            f"{path}: holds {made_as} fold {description['fold']}, expected {recipe} fold {fold}; "
            "a file of another member lies under this name"
        )
    contract = description["contract"]
    plan, view, detector = read_contract(contract, str(path))
    if view.kind == "face" and contract["detector_sha256"] != sha256_of(detector_path()):
        raise UserError(f"{path}: made with another face detector than {detector_path().name} of this environment")
    wanted = wanted_of(plan, view, detector, contract["jpeg_quality"])
    scorer = Scorer(model, device, description["recipe"]["train"]["amp"])
    return Member(f"{recipe}_fold{fold}", weight, scorer, wanted, contract["combine"])


def _ways_to_get(missing: list[Path], ensemble: str, data: str) -> str:
    shown = ", ".join(str(path) for path in missing)
    if ensemble == "zalo2022_published":
        return f"weights missing: {shown}; get them: bash download_weights.sh zalo2022_published"
    train = f"DATA={data} bash train.sh {ensemble}"
    return (
        f"weights missing: {shown}; train them ({train}), copy them there, or use the published ones "
        "(bash download_weights.sh zalo2022_published, then ENSEMBLE=zalo2022_published bash predict.sh)"
    )


def _threshold(path: Path) -> tuple[float, str]:
    """The operating point that ships with the ensemble's weights: its equal error rate's."""
    if not path.is_file():
        return 0.5, "no operating point beside the weights: 0.5"
    try:
        points = json.loads(path.read_text(encoding="utf-8"))["thresholds"]
        point = next(point for point in points if point["name"] == "eer")
        threshold = float(point["threshold"])
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise UserError(f"{path}: no threshold named 'eer' in it; run: bash train.sh {path.stem}") from error
    if not 0 <= threshold <= 1:
        raise UserError(f"{path}: the threshold 'eer' is {threshold}; expected 0 to 1; run: bash train.sh {path.stem}")
    return threshold, f"{path.name}: equal error rate out of fold"


def score_videos(paths: list[Path], loaded: LoadedEnsemble, workers: int = 0) -> Iterator[Row]:
    """Score videos; yields one row for each, in the given order, whatever happens to it.

    ``workers``: decoding processes; 0 = one per core but one, which scores.
    """
    wanted = list({member.wanted.key: member.wanted for member in loaded.members}.values())
    rows: dict[Path, Row] = {}
    order = iter(paths)
    due = next(order, None)
    for prepared in decode_ahead(paths, wanted, workers or max(1, cores() - 1)):
        rows[prepared.path] = score_video(prepared, loaded)
        while due in rows:
            yield rows.pop(due)
            due = next(order, None)


def decode_ahead(paths: list[Path], wanted: list[Wanted], workers: int) -> Iterator[Prepared]:
    """``prepare`` every video in worker processes, ahead of the models, in the order that they get done.

    A video that kills its worker, hangs or eats its memory is tried once more when all others are
    done, alone; then it is given up.
    """
    failed: list[Path] = []
    for (path, _), result in run_tasks(prepare_task, ((p, wanted) for p in paths), workers, SECONDS, GIB):
        if isinstance(result, Failed):
            failed.append(path)
        else:
            yield result
    for (path, _), result in run_tasks(prepare_task, ((p, wanted) for p in failed), 1, SECONDS, GIB):
        yield Prepared(path, "crashed", f"{result.reason}, twice") if isinstance(result, Failed) else result


def score_video(prepared: Prepared, loaded: LoadedEnsemble) -> Row:
    """All members' scores of one prepared video, blended into its row."""
    import pandas as pd

    from liveness.evaluation.combine import blend, frames_to_video

    started = time.perf_counter()
    tensors: dict[str, Any] = {}
    scores: dict[str, float] = {}
    for member in loaded.members:
        key = member.wanted.key
        if key not in tensors and key in prepared.views:
            tensors[key] = _tensors(prepared.views[key], member.wanted)
        frames = member.scorer.frames(tensors.get(key), len(prepared.frames_of.get(key, [])))
        scores[member.name] = frames_to_video(frames, member.combine)
    weights = {member.name: member.weight for member in loaded.members}
    score = float(blend(pd.DataFrame([scores]), weights).iloc[0])
    status, reason = _status(prepared, scores)
    if not np.isfinite(score):
        score = NO_SCORE
    milliseconds = prepared.milliseconds + 1000 * (time.perf_counter() - started)
    faces = None if prepared.faces < 0 else prepared.faces
    decision = decide(score, status, loaded.threshold)
    return Row(prepared.path.name, score, decision, status, reason, prepared.frames, faces, milliseconds)


def _tensors(views: np.ndarray, wanted: Wanted) -> Any:
    from liveness.data.contract import to_tensor
    from liveness.data.dataset import stack

    return stack([to_tensor(view, wanted.view) for view in views])


def _status(prepared: Prepared, scores: dict[str, float]) -> tuple[str, str]:
    without = [name for name, score in scores.items() if not np.isfinite(score)]
    if prepared.status in ("ok", "partial") and without:
        others = len(scores) - len(without)
        extra = f"; scored by the {others} members that see the whole frame" if others else ""
        return "no_face", f"no face found in {prepared.frames} frames{extra}"
    return prepared.status, prepared.reason
