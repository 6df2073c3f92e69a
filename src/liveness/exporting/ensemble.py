"""An ensemble -> one folder that is whole: ONNX files, contract.json, the face detector, the card, digests.

    folder = export_ensemble(Export("demo"))

The folder is written aside and gets its name only when the parity gate (gate.py) has passed. Reads weights/<set>/ and
the set of the gate (data/<set>/); writes weights/<set>/exported/<ensemble>/ or where it is told.
"""

import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from liveness import __version__
from liveness.base.config import Ensemble
from liveness.base.errors import UserError
from liveness.base.files import held, plain_name, sha256_of, show_path, write_json, write_text
from liveness.evaluation.format import counted
from liveness.exporting.card import write_card
from liveness.exporting.gate import (
    GateClips,
    choose_gate,
    judge_gate,
    measure_gate,
    part_for_calibration,
    require_enough,
)
from liveness.exporting.networks import quantise_network, require_libraries, write_network
from liveness.frames.contract import to_array
from liveness.frames.faces import detector_digest, detector_path
from liveness.members.ensembles import find_ensemble
from liveness.members.names import exported_path, operating_path, parse_member_name
from liveness.members.weights import describe_member
from liveness.models.exported import RUNTIMES
from liveness.prediction.engine import EnsembleDescription, Member, decode_ahead, read_ensemble
from liveness.prediction.exported import VERSION, read_exported
from liveness.prediction.operating import CONTRACT_FILE, Operating, list_points, read_points_file

CARD_FILE, NOTICE_FILE = "MODEL_CARD.md", "NOTICE.txt"
_CALIBRATION_VIEWS = 256  # of one member, at most
_PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Export:
    """What is asked. data: weights/<data> (default: the ensemble's set); on: the set of the parity gate (default: the
    members' own); int8: quantised; tolerance: of the share of flipped decisions, for int8; out: the folder."""

    ensemble: str
    data: str = ""
    on: str = ""
    int8: bool = False
    tolerance: float = 0.02
    out: Path | None = None


def export_ensemble(asked: Export) -> Path:
    """Export, compare, and only then give the folder its name; returns it.

    UserError, and no folder, where the weights or the set of the comparison are not as they have to be, a network has
    an operation that ONNX lacks, or the gate does not pass.
    """
    require_libraries()
    if not 0 < asked.tolerance < 1:
        raise UserError(f"--tolerance {asked.tolerance:g}: expected a share above 0, below 1, for example 0.02")
    data = asked.data and plain_name(asked.data, "--data")
    ensemble = find_ensemble(asked.ensemble, data)
    described = read_ensemble(ensemble, data)
    if described.operating.lost:
        raise UserError(
            f"{described.operating.lost}; the decisions of an export would not be those that were evaluated: "
            f"python -m liveness.evaluate {described.name} --data {described.data}"
        )
    clips, calibration = choose_gate(described, asked.on), None
    if asked.int8:
        calibration, clips = part_for_calibration(clips)
        require_enough(clips, asked.tolerance)
    usual = exported_path(described.data, described.name + ("_int8" if asked.int8 else ""))
    out = asked.out.resolve() if asked.out else usual
    with _folder_aside(out) as side:
        print(f"exporting {counted(len(described.members), 'member')} of {described.name}", flush=True)
        for member in described.members:
            write_network(member.path, side / _file_of(member))
        if calibration is not None:
            print(f"int8: calibrating on {counted(len(calibration), 'clip')}", flush=True)
            _quantise(described, side, calibration["path"].tolist())
        about = _describe(described, ensemble, asked.int8, side)
        _pass_gate(about, described, side, clips, _read_points(ensemble, described), asked)
        write_text(side / CARD_FILE, write_card(about))
        about["files"] = _list_files(side)
        write_json(side / CONTRACT_FILE, about)
        read_exported(side)  # whole: as its users will read it
    return out


def _file_of(member: Member) -> str:
    return f"{member.name}.onnx"


@contextmanager
def _folder_aside(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the block succeeds, and is gone when it does not."""
    if out.exists() and not (out / CONTRACT_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{show_path(out)}: is there and no exported ensemble; expected a new or an empty folder")
    side, old = (out.with_name(f".{out.name}.{word}") for word in ("exporting", "old"))
    with held(out.with_name(f".{out.name}.lock"), f"{show_path(out)}: another export writes there"):
        if old.exists() and not out.exists():
            old.replace(out)  # an export ended between its two renames
        for left in (side, old):
            shutil.rmtree(left, ignore_errors=True)
        side.mkdir(parents=True)
        try:
            yield side
            if out.exists():
                out.replace(old)
            side.replace(out)
        finally:
            for left in (side, old):
                shutil.rmtree(left, ignore_errors=True)
            out.with_name(f".{out.name}.lock").unlink(missing_ok=True)


def _describe(described: EnsembleDescription, ensemble: Ensemble, int8: bool, side: Path) -> dict[str, Any]:
    """contract.json but for the gate and the files' digests; puts the detector and a notice of the weights beside."""
    detectors = {one.wanted.detector.name for one in described.members if one.wanted.view.kind == "face"}
    if len(detectors) > 1:
        raise UserError(f"{described.name}: its members have different face detectors; an export holds one")
    detector = None
    for name in detectors:
        shutil.copyfile(detector_path(name), side / detector_path(name).name)
        detector = {"name": name, "file": detector_path(name).name, "sha256": detector_digest(name)}
    notice = described.members[0].path.parent / NOTICE_FILE
    if notice.is_file():
        shutil.copyfile(notice, side / NOTICE_FILE)
    return {
        "version": VERSION,
        "ensemble": described.name,
        "data": described.data,
        "precision": "int8" if int8 else "float32",
        "members": [_describe_member(member) for member in described.members],
        "cascade": asdict(described.cascade),
        "calibration": ensemble.calibration,
        "operating": read_points_file(operating_path(described.data, described.name)),
        "detector": detector,
        "gate": {},
        "made_with": {"liveness": __version__} | {name: version for name in _PACKAGES if (version := _version(name))},
        "files": {},
    }


def _describe_member(member: Member) -> dict[str, Any]:
    recipe, fold = parse_member_name(member.name)
    told = describe_member(member.path)
    return {
        "recipe": recipe,
        "fold": fold,
        "weight": member.weight,
        "file": _file_of(member),
        "model": told["recipe"]["model"]["name"],
        "contract": told["contract"],
        "data_hash": str(told.get("data_hash") or ""),
        "weights_sha256": str(told.get("weights_sha256") or ""),
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _list_files(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted(path for path in folder.iterdir() if path.name != CONTRACT_FILE)
    return {path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in paths}


def _quantise(described: EnsembleDescription, side: Path, paths: list[Path]) -> None:
    """Every member's file in int8 in the place of its float one; views of the calibration clips give the ranges."""
    views: dict[str, list[np.ndarray]] = {member.name: [] for member in described.members}
    for video in decode_ahead(paths, described.wanted()):
        for member in described.members:
            if (found := video.views.get(member.wanted.key)) is not None:
                views[member.name].append(np.stack([to_array(one, member.wanted.view) for one in found]))
    for member in described.members:
        batches = views[member.name]
        while sum(map(len, batches)) > _CALIBRATION_VIEWS and len(batches) > 1:
            batches = batches[:-1]
        if not batches:
            raise UserError(f"{member.name}: not one of the {len(paths)} clips to calibrate on gave a view")
        path = side / _file_of(member)
        small = path.with_suffix(".int8.onnx")
        quantise_network(path, small, batches)
        small.replace(path)


def _pass_gate(
    about: dict[str, Any],
    described: EnsembleDescription,
    side: Path,
    clips: GateClips,
    points: dict[str, Operating],
    asked: Export,
) -> None:
    """Measure the gate in every runtime that is installed, into ``about``; a UserError where ONNX Runtime's fails."""
    about["files"] = _list_files(side)
    write_json(side / CONTRACT_FILE, about)
    runtimes = [name for name in RUNTIMES if _version(name)]
    figures = measure_gate(described, {name: read_exported(side, "eer", name) for name in runtimes}, clips, points)
    tolerance = asked.tolerance if asked.int8 else None
    for runtime, found in figures.items():
        why = judge_gate(found, tolerance)
        found |= {"version": _version(runtime), "passed": not why, "why": why}
        if why and runtime == RUNTIMES[0]:
            raise UserError(f"{described.name}: the exported models do not agree with the members ({runtime}): {why}")
        if why:
            print(f"note: not to be used by {runtime}: {why}", flush=True)
    about["gate"] = {
        "on": clips.on,
        "held_out": clips.held_out,
        "tolerance": tolerance,
        "runtimes": figures,
    }


def _read_points(ensemble: Ensemble, described: EnsembleDescription) -> dict[str, Operating]:
    """Every operating point that ships with the weights; with a cascade the one that it was chosen around."""
    path = operating_path(described.data, described.name)
    names = ["eer"] if described.cascade.first else list_points(path)
    return {point: read_ensemble(ensemble, described.data, point).operating for point in names}
