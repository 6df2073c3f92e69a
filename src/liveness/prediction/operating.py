"""The operating point that ships with an ensemble's weights: calibration, threshold, decision.

    operating = read_operating(weights / "demo.json", ["demo_face_fold0", ...], data_hash, "apcer5")
    score = blend of operating.calibrate(member, its score) over the members
    amiss = exceeded_limits(operating.limits, measures)
    decision = "abstain" if amiss else operating.decide(score, status, frames)

Reads weights/<set>/<ensemble>.json, which ``python -m liveness.evaluate`` writes and ``download_weights.sh`` brings
for an ensemble that was trained elsewhere (configs/operating/); writes nothing.
The decision never changes the score.
"""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from liveness.base.errors import UserError, first_line
from liveness.evaluation.calibration import Calibration, read_calibration
from liveness.members.names import shipped_operating
from liveness.prediction.limits import InputLimit, read_limits
from liveness.prediction.rows import SCORED

CONTRACT_FILE = "contract.json"  # of an exported ensemble (exported.py), which holds an operating file's content


@dataclass
class Operating:
    """A threshold on the blended, calibrated scale, and what leads up to it.

    low, high: the interval that holds the threshold itself; a score between them could fall on
    either side had other videos been there to choose it on. least_frames: a video of which fewer
    frames gave a score is too little to decide on. source: one line for the user. lost: why the scores are
    not those that were evaluated, for every row; "" where nothing is amiss. limits: on what pictures no score is
    to be trusted.
    """

    threshold: float = 0.5
    low: float = 0.5
    high: float = 0.5
    source: str = ""
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    point: str = ""
    least_frames: int = 0
    lost: str = ""
    limits: tuple[InputLimit, ...] = ()

    def calibrate(self, member: str, score: float) -> float:
        """A member's video score on the common scale; the same score without calibration; nan stays nan."""
        calibration = self.calibrations.get(member)
        return float(score) if calibration is None else float(calibration.apply(score))

    def decide(self, score: float, status: str, frames: int) -> str:
        """``live`` where the score reaches the threshold, else ``attack``; ``abstain`` where that is not known.

        That is: a status that says that not every member scored the video (no face found, not
        readable); no score; fewer frames with a score than ``least_frames`` (``frames``: the most
        that any member scored); a score strictly between ``low`` and ``high``.
        """
        if status not in SCORED or not math.isfinite(score) or frames < self.least_frames:
            return "abstain"
        if self.low < score < self.high:
            return "abstain"
        return "live" if score >= self.threshold else "attack"


def read_operating(
    path: Path,
    members: list[str],
    data_hash: str,
    point: str = "eer",
    weights: dict[str, float] | None = None,
    digests: dict[str, str] | None = None,
    expected: str = "",
) -> Operating:
    """The operating point ``point`` of weights/<set>/<ensemble>.json, checked against what is blended.

    members: names <recipe>_fold<k> of all members; data_hash: that of the data they were trained on;
    weights: theirs in the blend (only the ratios count), where they are to be checked; digests: of the
    members' weights (member -> SHA-256), as far as they are known: a member that was trained again has
    other scores, for which no threshold was measured. Without the file the threshold is 0.5, nothing
    is calibrated and no score is too close to call; then only the point "eer" can be asked for.
    expected: the ensemble's way of calibration, where its members were trained here, so that the file
    was once made or is still to be: then its absence is told (``lost``). "" where none ever was.
    UserError where the file is damaged, has no such point, or is of other data, members or weights.
    """
    if not path.is_file():
        if point != "eer":
            raise UserError(f"{path}: no such file, so no operating point {point!r}; {_remedy(path)}")
        return _without(path, expected)
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: no table of thresholds ({type(error).__name__}); {_remedy(path)}") from error
    return parse_operating(about, path, members, data_hash, point, weights, digests)


def parse_operating(
    about: Any,
    path: Path,
    members: list[str],
    data_hash: str,
    point: str = "eer",
    weights: dict[str, float] | None = None,
    digests: dict[str, str] | None = None,
) -> Operating:
    """What such a file holds (``about``), wherever it came from: ``path``. Else as ``read_operating``."""
    try:
        points = {entry["name"]: entry for entry in about["thresholds"]}
        there = str(about.get("data_hash") or "")
        least_frames = int((about.get("frames") or {}).get("least", 0))
        calibration, limits = about.get("calibration"), about.get("limits", [])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no table of thresholds ({type(error).__name__}); {_remedy(path)}") from error
    if point not in points:
        raise UserError(
            f"{path}: no threshold named {point!r} in it; there are {', '.join(points) or 'none'}; {_remedy(path)}"
        )
    if there != data_hash:
        raise UserError(
            f"{path}: its thresholds are of another state of the data than the members "
            f"({there[:8] or 'none'} there, {data_hash[:8] or 'none'} in the members); {_remedy(path)}"
        )
    try:
        calibrations = _calibrations(path, calibration, members)
        _check_weights(path, about.get("weights"), weights)
        _check_digests(path, about.get("weights_sha256") or {}, digests or {})
        found = _operating(path, points[point], calibrations, least_frames)
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:  # of a file that was edited by hand
        raise UserError(f"{path}: is damaged ({first_line(error)}); {_remedy(path)}") from error
    return replace(found, limits=read_limits(limits, str(path)))


def read_points_file(path: Path) -> dict[str, Any] | None:
    """What an operating file that ``read_operating`` has read holds; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def list_points(path: Path) -> list[str]:
    """The names of the operating points in weights/<set>/<ensemble>.json; "eer" alone where there is no such file.

    A file that cannot be read is left to ``read_operating``, which says what is wrong with it.
    """
    try:
        names = [str(entry["name"]) for entry in json.loads(path.read_text(encoding="utf-8"))["thresholds"]]
    except (OSError, ValueError, KeyError, TypeError):
        return ["eer"]
    return names or ["eer"]


def _without(path: Path, expected: str) -> Operating:
    """Nothing calibrated and decided at 0.5: by design where nothing was ``expected``, else told."""
    if not expected:
        return Operating(source="no operating point beside the weights: 0.5, nothing calibrated")
    where = f"{path.parent.name}/{path.name}"
    lost = f"weights/{where} is not there: the threshold is a bare 0.5"
    if expected != "none":
        lost = f"not calibrated, weights/{where} is not there: not the scores that an evaluation is of"
    return Operating(source=f"0.5, since weights/{where} is not there", lost=lost)


def _operating(path: Path, entry: dict, calibrations: dict[str, Calibration], least_frames: int) -> Operating:
    name = entry["name"]
    try:
        threshold = float(entry["threshold"])
        low, high = (float(v) for v in entry.get("threshold_interval") or (threshold, threshold))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: the threshold {name!r} is not a number ({entry.get('threshold')}); {_remedy(path)}"
        ) from error
    if not 0 <= threshold <= 1 or not low <= threshold <= high:
        raise UserError(
            f"{path}: the threshold {name!r} is {threshold} in [{low}, {high}]; expected 0 to 1, within its interval; "
            f"{_remedy(path)}"
        )
    return Operating(threshold, low, high, _source(path, entry), calibrations, name, least_frames)


def _source(path: Path, entry: dict) -> str:
    """``demo.json: APCER <= 5 % on the holdout, 42 videos``."""
    name, target = entry["name"], entry.get("target")
    over = str(entry.get("split", "")).startswith("over ")  # several cameras, of which each counts the same
    even = "errors of both kinds balanced" if over else "equal error rate"
    what = even if target is None else f"{name[:5].upper()} <= {100 * float(target):g} %"
    split = entry.get("split", "out of fold")
    where = "on the holdout" if split == "holdout" else split
    videos = f", {entry['videos']} videos" if "videos" in entry else ""
    return f"{path.name}: {what} {where}{videos}{', approximate' if entry.get('approximate') else ''}"


def _calibrations(path: Path, calibration: dict | None, members: list[str]) -> dict[str, Calibration]:
    """Per member; empty where the file has none at all. UserError where it names other members."""
    if calibration is None:
        return {}
    if not isinstance(calibration, dict) or not isinstance(calibration.get("members"), dict):
        raise UserError(f"{path}: its calibration names no members; {_remedy(path)}")
    named = calibration["members"]
    if set(named) != set(members):
        other = sorted(set(named) ^ set(members))
        raise UserError(
            f"{path}: made for other members than those blended ({', '.join(other[:3])}"
            f"{', ...' if len(other) > 3 else ''}); {_remedy(path)}"
        )
    return {name: read_calibration(values, f"{path}: {name}") for name, values in named.items()}


def _check_weights(path: Path, there: dict | None, weights: dict[str, float] | None) -> None:
    if not there or weights is None:
        return
    scale, ours = sum(there.values()), sum(weights.values())
    if any(abs(there.get(name, 0) / scale - weight / ours) > 1e-6 for name, weight in weights.items()):
        raise UserError(f"{path}: made for other weights of the members than those blended; {_remedy(path)}")


def _check_digests(path: Path, there: dict[str, str], here: dict[str, str]) -> None:
    changed = [name for name in here if there.get(name, here[name]) != here[name]]
    if changed:
        raise UserError(f"{path}: made before {', '.join(changed[:3])} was trained again; {_remedy(path)}")


def _remedy(path: Path) -> str:
    if path.name == CONTRACT_FILE:
        return f"export the ensemble into {path.parent} again"
    if shipped_operating(path.parent.name, path.stem):
        return f"it came with the weights; run: python -m liveness.convert {path.stem}"
    if path.stem.partition("_")[0] == "adapted":
        return f"run: python -m liveness.adapt {path.parent.name}"
    return f"run: python -m liveness.evaluate {path.stem} --data {path.parent.name}"
