"""One table of several recipes on one set: what each costs, its out-of-fold error, its difference to the first.

    found = judge_contenders(contenders, "demo", [0, 1, 2])
    add_costs(found, contenders, "demo")

All rows are judged on the same videos: those that every one of them scores. A video's score comes from the member that
held it out, calibrated as the evaluation calibrates an ensemble of that recipe alone; where every fold holds out whole
cameras it is uncalibrated, since a calibration would be fitted on labels of the very camera. Reads runs/<set>/ and
weights/<set>/; writes nothing.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from liveness.base.config import Ensemble, EnsembleMember, Model
from liveness.base.errors import UserError
from liveness.base.files import workspace
from liveness.evaluation import intervals, metrics
from liveness.evaluation.out_of_fold import hold_out_cameras, judge_as_shipped
from liveness.laboratory.contenders import Contender
from liveness.laboratory.cost import measure_costs
from liveness.members.names import member_name
from liveness.members.trained import read_members
from liveness.sets.fold_table import read_folds

_CALIBRATION = "platt"  # an ensemble's default


def judge_contenders(contenders: Sequence[Contender], data: str, folds: Sequence[int]) -> dict[str, Any]:
    """The table without what a row costs. A UserError where runs are missing or a class is."""
    dealt = read_folds(workspace() / "data" / data)
    wanted = {row.name: [EnsembleMember(row.name, fold) for fold in folds] for row in contenders}
    trained = read_members(data, [member for members in wanted.values() for member in members])
    scores, whole = pd.DataFrame(index=dealt.index), hold_out_cameras(dealt)
    for row in contenders:
        names = {member_name(member.recipe, member.fold) for member in wanted[row.name]}
        judged = judge_as_shipped(dealt, [member for member in trained if member.name in names], _CALIBRATION)
        scores[row.name] = (judged.raw if whole else judged.table["score"]).to_numpy()
    home = dealt["fold"].isin(folds).to_numpy()
    kept = home & scores.notna().all(axis=1).to_numpy()
    labels, groups = dealt["label"].to_numpy(int)[kept], dealt["group"].to_numpy()[kept]
    if len(set(labels)) < 2:
        raise UserError(f"{data}: {len(labels)} videos have a score of every row; expected live and attack ones")
    clusters = groups if len(set(groups)) < len(groups) else None
    rows = judge_scores(contenders, labels, scores[kept], clusters)
    for row, found in zip(contenders, rows, strict=True):
        found["unscored"] = int((home & scores[row.name].isna().to_numpy()).sum())
    counts = {"videos": len(labels), "live": int(labels.sum()), "groups": len(set(groups))}
    by = "video" if clusters is None else "group"
    left = int(home.sum() - len(labels))
    about = {"by": by, "left_out": left, "uncalibrated": whole}
    return {"version": 1, "data": data, "folds": list(folds), **counts, **about, "rows": rows}


def judge_scores(
    contenders: Sequence[Contender], labels: np.ndarray, scores: pd.DataFrame, clusters: np.ndarray | None
) -> list[dict[str, Any]]:
    """What the table says of each row's errors, and of its paired difference to the first, which has none.

    labels: (N,) 0 or 1; scores: N rows, a column for each contender's name; clusters: (N,) names of the groups that are
    drawn whole for the intervals; None: videos are drawn.
    """
    first = scores[contenders[0].name].to_numpy()
    rows = [_judge_row(row, labels, scores[row.name].to_numpy(), first, clusters) for row in contenders]
    rows[0]["against"] = None
    return rows


def _judge_row(
    row: Contender, labels: np.ndarray, scores: np.ndarray, first: np.ndarray, clusters: np.ndarray | None
) -> dict[str, Any]:
    found = intervals.bootstrap(labels, scores, clusters)
    against = {
        "eer": intervals.compare_eer(labels, first, scores, clusters),
        "log_loss": intervals.compare_log_loss(labels, first, scores, clusters),
    }
    return {
        "name": row.name,
        "recipe": row.recipe,
        "overrides": list(row.overrides),
        "apart": row.apart,
        "eer": metrics.eer(labels, scores).value,
        "eer_interval": found["eer"].as_list(),
        "log_loss": metrics.log_loss(labels, scores),
        "log_loss_interval": found["log_loss"].as_list(),
        "against": {
            key: {
                "difference": value.difference,
                "interval": value.interval.as_list(),
                "verdict": value.verdict,
                "videos_to_tell": value.videos_to_tell,
            }
            for key, value in against.items()
        },
    }


def add_costs(found: dict[str, Any], contenders: Sequence[Contender], data: str, timed: bool = True) -> None:
    """Put into the rows, in place, the network's size and operations and, if ``timed``, milliseconds a video."""
    fold = found["folds"][0]
    for row, about in zip(contenders, found["rows"], strict=True):
        about |= _describe_network(row, fold) | {"milliseconds": None, "milliseconds_network": None}
    found["device"], found["untimed"] = "", "" if timed else "milliseconds were not asked for"
    if not timed:
        return
    members = [EnsembleMember(row.name, fold) for row in contenders]
    try:
        costs, found["device"] = measure_costs(Ensemble("comparison", data, members), data)
    except UserError as error:
        found["untimed"] = f"milliseconds could not be measured: {re.sub(';? give --milliseconds.*', '', str(error))}"
        return
    for row, about in zip(contenders, found["rows"], strict=True):
        name = member_name(row.name, fold)
        about["milliseconds"] = costs.of([name], {name: row.name})
        about["milliseconds_network"] = costs.forward([name])


def _describe_network(row: Contender, fold: int) -> dict[str, Any]:
    from liveness.models.build import build, count_parameters

    recipe = row.load(fold)
    start = recipe.train.init or recipe.model.pretrained
    return {
        "model": recipe.model.name,
        "size": recipe.view.size,
        "start": start or "random",
        "parameters": count_parameters(build(recipe.model, recipe.view.size, fits=True)),
        "gflops": count_gflops(recipe.model, recipe.view.size),
    }


def count_gflops(model: Model, size: int) -> float:
    """Billions of operations of one view's forward pass, a multiplication and an addition counted as two.

    Counted in convolutions, matrix products and attention by torch's own counter; norms and activations are left out.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from liveness.models.build import build, build_without_weights

    network = (build_without_weights(model, size, fits=True) or build(model, size, fits=True)).eval()
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, size, size, device=device))
    return counter.get_total_flops() / 1e9
