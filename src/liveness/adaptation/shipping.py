"""An adapted ensemble's files: members that describe themselves, and beside them how they decide.

    ship(start, fitted, shift, limits, asked, clips)

Writes weights/<set>/<recipe>_<result>_fold<k>.safetensors, then weights/<set>/<result>.json, which names the members
(``ensemble``), so that ``DATA=<set> ENSEMBLE=<result>`` scores with them; what an earlier adaptation left goes.
"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from liveness.adaptation.candidates import DAY_ONE, HOME_SUFFIX, THRESHOLDS, Fitted, Shift
from liveness.adaptation.clips import Clips
from liveness.adaptation.start import Network, StartEnsemble
from liveness.base.errors import UserError
from liveness.base.files import workspace, write_json
from liveness.evaluation.combine import logit, sigmoid
from liveness.members.names import member_name, operating_path, parse_member_name, weights_path
from liveness.members.weights import describe_member, save_member
from liveness.prediction.limits import InputLimit
from liveness.sets.folds import digest_of_set
from liveness.training.start import digest_provenance

if TYPE_CHECKING:
    from liveness.adaptation.adapting import Asked

# Of a source's description: what is true of the source alone.
_OF_SOURCE = {"format", "weights_sha256", "held_out", "trained_on", "epoch", "lr", "soup", "init", "teacher", "folds"}


def ship(
    start: StartEnsemble,
    fitted: Fitted,
    shift: Shift,
    limits: tuple[InputLimit, ...] | None,
    asked: "Asked",
    clips: Clips,
) -> None:
    """Write the members and the operating file. limits: None keeps the start's."""
    folder = workspace() / "data" / asked.name
    digest = digest_of_set(folder)  # "" for a set that is too small for folds
    groups = {Path(name).stem: str(group) for name, group in zip(clips.names, clips.groups, strict=True)}
    members: list[dict[str, Any]] = []
    digests, calibrations = {}, {}
    for network in fitted.networks:
        source = next(one for one in start.networks if one.name == fitted.seen_by[network.name])
        own = HOME_SUFFIX if network.name.endswith(HOME_SUFFIX) else ""
        recipe = f"{source.description['recipe']['name']}{own}_{asked.result}"
        fold = int(source.description["fold"])
        about = _describe(network, source, recipe, fitted.kind)
        if fitted.kind != DAY_ONE:  # what was chosen on the clips has seen them, though no weight has changed
            about |= {"data": asked.name, "data_hash": digest}
            about["trained_on"] = digest_provenance(folder, groups, source.description)
        elif "trained_on" in source.description:
            about["trained_on"] = source.description["trained_on"]
        path = weights_path(asked.name, recipe, fold)
        save_member(path, network.model.state_dict(), about)
        name = member_name(recipe, fold)
        digests[name] = describe_member(path)["weights_sha256"]
        members.append({"recipe": recipe, "fold": fold, "weight": network.member.weight})
        calibrations[name] = _calibrate(network, start, fitted.kind, shift)
    hashes = {_tell_hash(network, fitted.kind, digest) for network in start.networks}
    operating = {
        "data_hash": hashes.pop() if len(hashes) == 1 else "members of different data",
        "weights": {member_name(m["recipe"], m["fold"]): m["weight"] for m in members},
        "weights_sha256": digests,
        "calibration": {"how": "platt", "members": calibrations},
        "thresholds": [_move_point(point, fitted.kind, shift, start.name, len(clips)) for point in start.points],
        "limits": [_list_limit(one) for one in (start.operating.limits if limits is None else limits)],
        "frames": {"least": start.least_frames},
        "ensemble": members,
        "adapted": {"from": start.name, "candidate": fitted.kind, "clips": len(clips)},
    }
    write_json(operating_path(asked.name, asked.result), operating, sort_keys=True)
    _sweep_older(asked.name, asked.result, set(digests))


def _tell_hash(network: Network, kind: str, digest: str) -> str:
    """The data_hash that a member says."""
    return str(network.description.get("data_hash") or "") if kind == DAY_ONE else digest


def _describe(network: Network, source: Network, recipe: str, kind: str) -> dict[str, Any]:
    """The description of a member that was made of ``source``."""
    found = {key: value for key, value in source.description.items() if key not in _OF_SOURCE}
    same = all(
        np.array_equal(value.numpy(), network.model.state_dict()[key].numpy())
        for key, value in source.model.state_dict().items()
    )
    train = dict(found["recipe"]["train"])
    if not same:
        found.pop("converted_from", None)  # it no longer promises the original's scores
        train["amp"] = False
    found["recipe"] = {**found["recipe"], "name": recipe, "train": train}
    digest = str(source.description.get("weights_sha256", ""))
    return {**found, "adapted": {"from": source.name, "weights_sha256": digest, "candidate": kind}}


def _calibrate(network: Network, start: StartEnsemble, kind: str, shift: Shift) -> dict[str, Any]:
    """The member's calibration and then the camera's own; a threshold that moves changes no score."""
    own = Shift() if kind in (DAY_ONE, THRESHOLDS) else shift
    if network.name in start.weights and network.name not in start.operating.calibrations and own == Shift():
        return {"how": "none"}
    return {"how": "platt", "slope": own.slope * network.slope, "offset": own.slope * network.offset + own.offset}


def _move_point(point: dict[str, Any], kind: str, shift: Shift, start: str, clips: int) -> dict[str, Any]:
    """A threshold of the start's: where the threshold alone moves, it goes against the offset of the scores."""
    offset = shift.offset if kind == THRESHOLDS else 0.0
    middle = float(point["threshold"])
    ends = [float(end) for end in point.get("threshold_interval") or (middle, middle)]

    def move(value: float) -> float:
        return float(sigmoid(logit(np.array(value)) - offset)) if offset else value

    split = f"as {start} ships it" if kind == DAY_ONE else f"of {start}, adapted to a camera by {clips} clips"
    moved = {"threshold": move(middle), "threshold_interval": [move(end) for end in ends], "split": split}
    return {**point, **moved}


def _list_limit(limit: InputLimit) -> dict[str, Any]:
    bounds = {name: getattr(limit, name) for name in ("least", "most") if np.isfinite(getattr(limit, name))}
    return {"reason": limit.reason, "measure": limit.measure, **bounds}


def _sweep_older(data: str, result: str, now: set[str]) -> None:
    """Remove the members of an earlier adaptation of this name that this one has not."""
    for path in (workspace() / "weights" / data).glob(f"*_{result}_fold*.safetensors"):
        recipe, _ = parse_member_name(path.stem)
        with contextlib.suppress(UserError):  # of a file that is none of ours, or is damaged
            if path.stem not in now and recipe.endswith(f"_{result}") and "adapted" in describe_member(path):
                path.unlink()
