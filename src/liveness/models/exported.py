"""Exported members (ONNX files) as ``Backend``: by ONNX Runtime or by OpenVINO, on the CPU, without torch.

    backend = open_exported(Path("demo_face_fold0.onnx"), "onnxruntime")

A file takes float32 views (V x 3 x H x W, any V) and gives logits (V x 1). Both libraries compute a view's score with
one thread and in float32, so that it does not depend on the number of cores, as with torch. Reads the file; writes
nothing.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from liveness.base.config import View, nearest
from liveness.base.errors import UserError, first_line
from liveness.evaluation.combine import sigmoid
from liveness.frames.contract import to_array
from liveness.models.backend import HOST, MOST_VIEWS, Device
from liveness.models.device import share_of_cores

INSTALL = {"onnxruntime": "liveness[runtime]", "openvino": "liveness[openvino]"}  # by the name of the library
_FIRST_ARRAY = threading.Lock()


class ArrayBackend:
    """A function of float32 views (V x 3 x H x W) to logits as a ``Backend`` of numpy arrays on the CPU."""

    device: Device = HOST

    def __init__(self, compute: Callable[[np.ndarray], np.ndarray]) -> None:
        self._compute = compute

    def to_batch(self, views: np.ndarray, view: View) -> np.ndarray:
        """As ``Backend.to_batch``."""
        return np.stack([to_array(one, view) for one in views])

    def score_views(self, batch: np.ndarray) -> np.ndarray:
        """As ``Backend.score_views``."""
        return np.concatenate([self.forward(batch[at : at + MOST_VIEWS]) for at in range(0, len(batch), MOST_VIEWS)])

    def forward(self, batch: np.ndarray) -> np.ndarray:
        """As ``Backend.forward``, of at most MOST_VIEWS views."""
        logits = np.asarray(self._compute(np.ascontiguousarray(batch)), dtype=np.float64).reshape(len(batch))
        return np.array([sigmoid(float(logit)) for logit in logits])


def open_exported(path: Path, runtime: str) -> ArrayBackend:
    """An exported member, ready to score; a UserError where the library is not installed or cannot read the file."""
    require_runtime(runtime)
    try:
        return ArrayBackend(_OPENERS[runtime](path))
    except ModuleNotFoundError as error:
        raise UserError(
            f'{runtime}: the package {error.name} is missing; install: pip install "{INSTALL[runtime]}"'
        ) from error
    except Exception as error:  # the libraries have exceptions of their own for files that they cannot read
        raise UserError(f"{path}: {runtime} cannot read it ({first_line(error)[:200]}); export it again") from error


def require_runtime(name: str) -> None:
    """A UserError for a library that no exported ensemble can be scored with."""
    if name not in _OPENERS:
        known = list(_OPENERS)
        raise UserError(f"runtime {name!r}; expected one of {', '.join(known)}{nearest(name, known)}")


def _open_onnxruntime(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def _open_openvino(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    # As soon as it is imported, OpenVINO reports that by this package; where that cannot be imported, it does without.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    # Its first array has to be met by one thread alone: two that meet theirs at a time wait for each other for ever.
    with _FIRST_ARRAY:
        openvino.Tensor(np.zeros(1, dtype=np.float32)).data  # noqa: B018
    # A stream is one thread; as many as passes go on side by side (models/batches.py). Without the hint a CPU with
    # matrix units would compute in bfloat16.
    streams = share_of_cores()
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(streams),
    }
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    own = threading.local()

    def compute(batch: np.ndarray) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
        return own.request.infer([batch])[0]

    return compute


_OPENERS: dict[str, Callable[[Path], Callable[[np.ndarray], np.ndarray]]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
}
RUNTIMES = tuple(_OPENERS)
