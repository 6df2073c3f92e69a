"""What an adaptation starts from: the members of an ensemble with their calibration, and how it decides.

    start = load_start("minifasnet")

Reads weights/<set>/; writes nothing.
"""

import copy
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from liveness.base.errors import UserError
from liveness.base.files import show_path
from liveness.evaluation.calibration import Calibration
from liveness.members.ensembles import find_ensemble
from liveness.members.names import operating_path
from liveness.members.weights import load_member
from liveness.models.taps import find_classifier
from liveness.prediction.engine import EnsembleDescription, Member, read_ensemble
from liveness.prediction.operating import Operating


@dataclass
class Network:
    """A member as adaptation changes it. ``slope`` and ``offset``: its calibration, on the log-odds of its score."""

    member: Member
    model: nn.Module
    description: dict[str, Any]
    slope: float = 1.0
    offset: float = 0.0

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def learns(self) -> bool:
        """Whether it has a classifier that can be told apart from the rest of it, and so can be adapted."""
        return can_learn(self.model)

    def early(self, images: torch.Tensor) -> torch.Tensor:
        """float32 images -> what the part that learns is given; the images where all of a model learns."""
        run = getattr(self.model, "forward_early", None)
        return images if run is None else run(images)

    def with_copy(self) -> "Network":
        """The same with a model of its own, which may be changed."""
        return replace(self, model=copy.deepcopy(self.model))


@dataclass
class StartEnsemble:
    """The ensemble that is adapted. ``points``: its thresholds as its operating file lists them."""

    name: str
    data: str
    networks: list[Network]
    operating: Operating
    points: list[dict[str, Any]] = field(default_factory=list)
    least_frames: int = 0

    @property
    def weights(self) -> dict[str, float]:
        return {network.name: network.member.weight for network in self.networks}


def can_learn(model: nn.Module) -> bool:
    """Whether a model's classifier is one linear layer that is found by name."""
    try:
        return isinstance(find_classifier(model), nn.Linear)
    except (AttributeError, IndexError, KeyError, TypeError):
        return False


def load_start(name: str, data: str = "") -> StartEnsemble:
    """The ensemble ``name`` with weights/<data> (default: its own), ready to be adapted.

    A UserError where weights are missing, no member can learn, or a calibration is no line of the log-odds.
    """
    ensemble = find_ensemble(name, data)
    described = read_ensemble(ensemble, data)
    networks = [_load_network(member, described) for member in described.members]
    if not any(network.learns for network in networks):
        raise UserError(
            f"{name}: none of its members has a classifier that could learn; expected a linear one at least, as in "
            "minifasnet"
        )
    path = operating_path(data or ensemble.data, name)
    points, least = _read_points(path, described.operating)
    return StartEnsemble(name, data or ensemble.data, networks, described.operating, points, least)


def _load_network(member: Member, described: EnsembleDescription) -> Network:
    model, description = load_member(member.path)
    model.requires_grad_(False).to(memory_format=torch.channels_last)  # as it scores
    fitted = described.operating.calibrations.get(member.name, Calibration("none"))
    if fitted.how == "isotonic":
        raise UserError(
            f"{described.name}: {member.name} is calibrated by isotonic steps, which cannot be moved a little; "
            "expected platt, temperature or none in configs/ensemble, evaluated again"
        )
    member = replace(member, wanted=replace(member.wanted, measured=True))
    return Network(member, model, description, fitted.slope, fitted.offset)


def _read_points(path: Path, operating: Operating) -> tuple[list[dict[str, Any]], int]:
    """The thresholds of an operating file and its least number of frames; a bare one without the file."""
    bare = {"name": "eer", "target": None, "threshold": operating.threshold}
    if not path.is_file():
        return [bare | {"threshold_interval": [operating.low, operating.high]}], 0
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        kept = ("name", "target", "threshold", "threshold_interval")
        points = [{key: entry[key] for key in kept if key in entry} for entry in about["thresholds"]]
        return points, int((about.get("frames") or {}).get("least", 0))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{show_path(path)}: no table of thresholds ({type(error).__name__})") from error
