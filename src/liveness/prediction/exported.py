"""An exported ensemble: the folder that ``liveness export`` writes, read back without torch.

    described = read_exported(Path("weights/demo/exported/demo"), "eer", "onnxruntime")
    with load_weights(described) as loaded: ...                       (engine.py; everything there holds for it)

Reads DIR/contract.json, which says all that scoring takes (members with their preprocessing contracts, weights,
calibration, thresholds) and has the digest of every other file in DIR; each is held against it. Writes nothing.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from liveness.base.config import Cascade, Ensemble
from liveness.base.errors import UserError
from liveness.base.files import plain_name, sha256_of, show_path
from liveness.evaluation.combine import check_how
from liveness.frames.contract import read_contract
from liveness.frames.views import make_request
from liveness.members.names import exported_path, member_name
from liveness.members.weights import describe_member
from liveness.models.exported import require_runtime
from liveness.prediction.engine import EnsembleDescription, Member, read_ensemble
from liveness.prediction.operating import CONTRACT_FILE, Operating, parse_operating

VERSION = 1  # of contract.json; raised whenever a reader of the one before would score otherwise
_KEYS = ("ensemble", "data", "precision", "members", "cascade", "operating", "detector", "gate", "files", "made_with")


def read_exported(folder: Path, point: str = "eer", runtime: str = "onnxruntime") -> EnsembleDescription:
    """An exported ensemble as its contract describes it, its files checked; nothing is loaded yet.

    point: the operating point that decides; runtime: what is to compute (models/exported.py). A UserError where the
    folder is none, of a newer version, or where a file is not the one that was exported.
    """
    require_runtime(runtime)
    return _describe(read_description(folder), folder, point, runtime)


def _describe(about: dict[str, Any], folder: Path, point: str, runtime: str) -> EnsembleDescription:
    path = folder / CONTRACT_FILE
    try:
        detector_file = folder / about["detector"]["file"] if about["detector"] else None
        members = [_read_member(entry, folder, runtime, detector_file) for entry in about["members"]]
        weights = {member.name: member.weight for member in members}
        operating = _read_operating(about, path, weights, point)
        cascade = Cascade(**about["cascade"])
        _require_passed(about["gate"], runtime, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from error
    if point != "eer" and cascade.first:
        raise UserError(f"--point {point}: with a cascade only eer, around whose threshold its bounds were chosen")
    if operating.limits:
        members = [replace(one, wanted=replace(one.wanted, measured=True)) for one in members]
    return EnsembleDescription(about["ensemble"], members, operating, cascade, about["data"])


def read_beside(ensemble: Ensemble, data: str, point: str, runtime: str) -> EnsembleDescription:
    """What is exported beside the weights; a UserError unless it is of just these weights, blend and thresholds."""
    here = read_ensemble(ensemble, data, point)
    folder = exported_path(here.data, here.name)
    again = f"liveness export {here.name} --data {here.data}"
    if not (folder / CONTRACT_FILE).is_file():
        raise UserError(f"{show_path(folder)}: {here.name} is not exported; run: {again} (or leave BACKEND out)")
    about = read_description(folder)
    found = _describe(about, folder, point, runtime)
    told = {member_name(entry["recipe"], entry["fold"]): entry["weights_sha256"] for entry in about["members"]}
    mine = {member.name: describe_member(member.path).get("weights_sha256", "") for member in here.members}
    blends = [{member.name: member.weight for member in one.members} for one in (here, found)]
    same = replace(here.operating, source="") == replace(found.operating, source="")
    if told != mine or blends[0] != blends[1] or here.cascade != found.cascade or not same:
        what = "trained" if told != mine else "evaluated or weighed"
        raise UserError(f"{show_path(folder)}: exported before {here.name} was {what} anew; run: {again}")
    return found


def read_description(folder: Path) -> dict[str, Any]:
    """contract.json of an exported ensemble, whose files all have the digests that it tells; a UserError otherwise."""
    path = folder / CONTRACT_FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no exported ensemble ({CONTRACT_FILE} is not there); see: liveness export -h"
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    version = about.get("version") if isinstance(about, dict) else None
    if type(version) is int and version > VERSION:
        raise UserError(
            f"{path}: exported as version {version}, this code reads version {VERSION}; update liveness, or export it "
            "again with this version"
        )
    if version != VERSION or any(key not in about for key in _KEYS):
        raise _damaged(path, KeyError("version" if version != VERSION else "keys"))
    try:
        for name, told in about["files"].items():
            _require_file(folder / plain_name(name, str(path)), str(told["sha256"]))
        named = [entry["file"] for entry in about["members"]]
        named += [about["detector"]["file"]] if about["detector"] else []
        if strange := [name for name in named if name not in about["files"]]:
            raise KeyError(strange[0])
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return about


def _require_passed(gate: dict[str, Any], runtime: str, path: Path) -> None:
    """A UserError where this runtime was tried when the ensemble was exported, and did not agree with the members."""
    found = gate.get("runtimes", {}).get(runtime)
    if found and not found["passed"]:
        raise UserError(f"{path}: not to be used by {runtime}, which did not agree with the members: {found['why']}")


def _require_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise UserError(f"{path}: is missing from the exported ensemble; copy the folder again, or export it again")
    if sha256_of(path) != digest:
        raise UserError(
            f"{path}: not the file that was exported (SHA-256 differs from {CONTRACT_FILE}); copy the folder again, or "
            "export it again"
        )


def _read_member(entry: dict[str, Any], folder: Path, runtime: str, detector_file: Path | None) -> Member:
    path, contract = folder / entry["file"], entry["contract"]
    plan, view, detector = read_contract(contract, str(path))
    if view.kind == "face" and detector_file is None:
        raise KeyError("detector")
    wanted = make_request(plan, view, detector, int(contract["jpeg_quality"]), contract["version"])
    wanted = replace(wanted, detector_file=detector_file)
    name, weight = member_name(entry["recipe"], int(entry["fold"])), float(entry["weight"])
    check_how(contract["combine"])
    if not weight > 0:
        raise ValueError(f"weight {weight}")
    return Member(name, weight, wanted, contract["combine"], path, amp=False, runtime=runtime)


def _read_operating(about: dict[str, Any], path: Path, weights: dict[str, float], point: str) -> Operating:
    """As ``read_operating``, of what the contract holds; without anything there, 0.5 on scores as they are."""
    told = about["operating"]
    if told is None:
        if point != "eer":
            raise UserError(f"{path}: no operating point {point!r} in it; it was exported without any")
        return Operating(source="exported without an operating point: 0.5, nothing calibrated")
    digests = {
        member_name(entry["recipe"], entry["fold"]): entry["weights_sha256"]
        for entry in about["members"]
        if entry.get("weights_sha256")
    }
    return parse_operating(told, path, list(weights), str(told.get("data_hash") or ""), point, weights, digests)


def _damaged(path: Path, error: Exception) -> UserError:
    what = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return UserError(
        f"{path}: damaged, or not made by liveness export ({what}); copy the folder again, or export it again"
    )
