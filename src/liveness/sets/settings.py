"""prepare.json: by which settings, contract version and face detector a set was prepared.

It is written last, so where it is, the preparation is whole.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveness.base.compose import from_dict
from liveness.base.config import Data, to_dict
from liveness.base.errors import UserError
from liveness.frames.contract import require_known
from liveness.frames.faces import detector_digest

NOT_MAKING = ("workers", "video_seconds", "video_gib")  # settings that do not change what is made


@dataclass
class Settings:
    """What prepare.json says."""

    version: int  # of the contract
    data: Data
    detector_sha256: str


def describe_settings(data: Data, version: int) -> dict[str, Any]:
    """The content of prepare.json: everything that the output depends on; its version is the contract's."""
    values = {key: value for key, value in to_dict(data).items() if key not in NOT_MAKING}
    return {"version": version, "data": values, "detector_sha256": detector_digest(data.detector.name)}


def read_settings(folder: Path) -> Settings:
    """The settings of data/<set>; a UserError where prepare.json is damaged or of a version that is not spoken."""
    values, path = _read(folder), folder / "prepare.json"
    try:
        version, data, digest = values["version"], values["data"], values["detector_sha256"]
        if not isinstance(data, dict):
            raise TypeError("expected a mapping")
    except (KeyError, TypeError) as error:
        raise _damaged(path) from error
    typed = from_dict(Data, data, str(path))
    require_known(version, str(path))
    return Settings(version, typed, digest)


def read_version(folder: Path) -> int:
    """The contract version in prepare.json; a FileNotFoundError where there is none, a UserError as above."""
    try:
        version = _read(folder)["version"]
    except (KeyError, TypeError) as error:
        raise _damaged(folder / "prepare.json") from error
    require_known(version, str(folder / "prepare.json"))
    return version


def _read(folder: Path) -> Any:
    path = folder / "prepare.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: damaged; delete it and run: bash prepare_data.sh {path.parent.name}")
