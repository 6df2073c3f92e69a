"""Finished rows while a folder is being scored: predictions.partial.csv.

The first line says what they were made with: "# " and one JSON value. Then come a header and a row
per finished video, appended as it gets done: the columns of predictions.csv, and the digest of the file.
Several processes may append; a row is one write. A start with the same fingerprint continues from it, any
other begins anew. A row that was torn by a kill is left out.
"""

import csv
import hashlib
import importlib.metadata
import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from liveness.base.errors import UserError
from liveness.base.files import digest_file, written_aside
from liveness.frames.views import find_state
from liveness.prediction.engine import EnsembleDescription
from liveness.prediction.rows import ROW_COLUMNS, Row, parse_row, row_text

PARTIAL_FILE = "predictions.partial.csv"
# Distributions on a video's way to its score: another version of one may give other last bits.
_LIBRARIES = (
    "torch",
    "timm",
    "onnxruntime",
    "openvino",
    "av",
    "opencv-python-headless",
    "numpy",
    "pillow",
    "scipy",
    "pandas",
)
# Settings of theirs that choose among kernels; by how their names begin.
_SWITCHES = ("ATEN_", "CUBLAS_", "CUDNN_", "DNNL_", "MKL_", "NVIDIA_TF32", "ONEDNN_", "OPENBLAS_CORETYPE", "OPENCV_",
            "TORCH_ALLOW_TF32", "TORCH_BLAS", "TORCH_CUDNN")  # fmt: skip
_AGAIN = ("crashed",)  # what may have been the machine's fault is tried again


class Partial:
    """The file of one folder of results."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = folder / PARTIAL_FILE, fingerprint
        self._handle: int | None = None
        self.rows: dict[str, tuple[Row, str]] = {}  # file name -> its row, and the state of the file then

    def begin(self, videos: list[Path]) -> str:
        """Keep the rows that still hold for these videos, drop all others. Returns a line for the user."""
        there, found = self.path.exists(), self._read()
        self.rows = {
            path.name: found[path.name]
            for path in videos
            if path.name in found
            and found[path.name][1] == find_state(path)
            and found[path.name][0].status not in _AGAIN
        }
        lines = [_line([*row_text(row), state]) for row, state in self.rows.values()]
        try:
            with written_aside(self.path) as side, open(side, "wb") as file:
                file.write(
                    f"# {json.dumps({'fingerprint': self.fingerprint})}\n".encode() + _line([*ROW_COLUMNS, "file"])
                )
                file.writelines(lines)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; expected room for a row per video") from error
        if self.rows:
            return f"continuing: {len(self.rows)} of {len(videos)} videos are in {self.path}"
        anew = "none of its rows is of these videos and what scores them now (weights, settings, hardware)"
        return f"{self.path} is begun anew: {anew}" if there else ""

    def join(self) -> None:
        """Read what another process has begun."""
        self.rows = self._read()

    def add(self, row: Row, path: Path, state: str = "") -> None:
        """Append a finished row; a UserError where the disk refuses it. ``state``: the file's, if it is known."""
        try:
            if self._handle is None:
                self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            line = _line([*row_text(row), state or find_state(path)])
            if os.write(self._handle, line) < len(line):
                raise UserError(f"{self.path}: the disk is full; {self.where()}")
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; {self.where()}") from error

    def finished(self) -> dict[str, Row]:
        """Every row that any process has added, by file name."""
        return {name: row for name, (row, _) in self._read().items()}

    def where(self) -> str:
        """For whoever ends early: what is there, and how to go on."""
        count = len(self._read())
        if not count:
            return "no video was finished; the same command starts again"
        return f"{count} finished rows are in {self.path}; the same command continues"

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _read(self) -> dict[str, tuple[Row, str]]:
        """The rows of the file; none where it is absent, damaged from the start, or of another fingerprint."""
        try:
            if not self.path.is_file():
                return {}
            text = self.path.read_bytes().decode("utf-8", "surrogateescape")
            first, _, rest = text.partition("\n")
            if json.loads(first.removeprefix("# "))["fingerprint"] != self.fingerprint:
                return {}
        except (ValueError, KeyError, TypeError):
            return {}
        rows = {}
        for values in csv.reader(io.StringIO(rest[: rest.rfind("\n") + 1], newline="")):
            try:
                *values, state = values
                rows[values[0]] = (parse_row(values), state)
            except (ValueError, IndexError):
                continue  # the header, or a row that was torn
        return rows


def _line(values: list[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "surrogateescape")


def make_fingerprint(described: EnsembleDescription, settings: dict[str, Any]) -> str:
    """Whatever a score or a decision depends on besides the video: weights, contracts, cascade, operating point,
    this code, its libraries and their settings, hardware."""
    about = {
        **describe_scoring(described),
        "code": _code(),
        "libraries": library_versions(),
        "switches": sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(_SWITCHES)),
        "hardware": _hardware(),
        **settings,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def describe_scoring(described: EnsembleDescription) -> dict[str, Any]:
    """Whatever a score or a decision depends on besides the video, the code and the machine; it can be JSON."""
    from liveness.frames.rules import NEWEST

    return {
        "contract": NEWEST,
        "members": [
            [m.name, m.weight, m.combine, m.wanted.key, m.amp, m.runtime, digest_file(m.path)]
            for m in described.members
        ],
        "operating": repr(described.operating),
        "cascade": asdict(described.cascade),
    }


def library_versions() -> list[str]:
    """``torch 2.11.0``, ...: the distributions on a video's way to its score, without a version where one is absent."""
    return [f"{name} {_version(name)}" for name in _LIBRARIES]


def _code() -> str:
    """Digest of this package's sources."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _hardware(root: Path = Path("/")) -> list[str]:
    """The GPUs' names, which of them are to be seen, and the CPU's: another kind gives other last bits. Without
    importing torch."""
    names = []
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        names += [line for line in path.read_text().splitlines() if line.startswith("Model")]
    # Not every container lists them; their devices are there all the same.
    if names or any((root / "dev" / name).exists() for name in ("nvidiactl", "dxg")):
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()
        some = chosen != "" and not chosen.startswith("-1")
        # Of equal ones it does not matter which.
        names.append(f"visible {chosen if some and len(set(names)) != 1 else some}")
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return names + sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
