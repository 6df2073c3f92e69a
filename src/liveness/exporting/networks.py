"""One member as an ONNX file, in float32 or in int8.

    write_network(Path("weights/demo/demo_face_fold0.safetensors"), Path("demo_face_fold0.onnx"))
    quantise_network(Path("demo_face_fold0.onnx"), Path("small.onnx"), batches)

A file takes ``views`` (float32, any number x 3 x H x W, preprocessed as frames/contract.py does) and gives ``logits``
(that number x 1): log-odds of live. Needs liveness[export].
"""

import contextlib
import importlib.util
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from liveness.base.errors import UserError, first_line
from liveness.base.files import written_aside

INPUT, OUTPUT = "views", "logits"
MOST_BYTES = 2_000_000_000  # an ONNX file of one piece has at most 2 GiB


def require_libraries() -> None:
    """A UserError that says what to install, before any work."""
    needed = ["onnx", "onnxscript", "onnxruntime"]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UserError(
            f'exporting needs the package {missing[0]}; install: pip install "liveness[train,export]" '
            "(in the repository: bash scripts/setup.sh --export)"
        )


def write_network(weights: Path, path: Path) -> None:
    """A member's network as an ONNX file; a UserError where ONNX lacks one of its operations, or it is too large."""
    import torch

    from liveness.members.weights import load_member

    if weights.stat().st_size > MOST_BYTES:
        raise UserError(f"{weights}: above {MOST_BYTES / 1e9:g} GB, more than one ONNX file can hold")
    model, description = load_member(weights)
    size = description["recipe"]["view"]["size"]
    views = torch.zeros(2, 3, size, size)  # not one: its number would be taken for a constant
    shape: dict[int, Any] = {0: torch.export.Dim("views")}
    if description["recipe"]["view"]["resize"] == "short_side":
        shape |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    try:
        with _quiet():
            program = torch.onnx.export(
                model, (views,), dynamo=True, dynamic_shapes=(shape,), input_names=[INPUT], output_names=[OUTPUT],
                verbose=False,
            )  # fmt: skip
    except Exception as error:  # torch raises whatever its tracer, its decomposition or the translation meet
        raise UserError(f"{weights}: cannot be exported, {_what_lacks(error)}") from error
    if program is None:
        raise UserError(f"{weights}: cannot be exported; torch made no program of it")
    with written_aside(path) as side:
        program.save(str(side), external_data=False)


def _what_lacks(error: BaseException) -> str:
    """What torch's exporter met, in one line: an operation that ONNX lacks, where it names one."""
    parts, cause = [], error
    while cause is not None:
        parts.append(str(cause))
        cause = cause.__cause__  # type: ignore[assignment]
    text = " ".join(parts)
    if found := re.search(r"No (?:ONNX|decompositions|decomp|registered)[^\n]*?([\w.]+::[\w.]+|aten\.[\w.]+)", text):
        return f"since ONNX has no form of the operation {found.group(1)}"
    if found := re.search(r"(?:No ONNX function found for|DispatchError[^<]*)\s*<?([^>\n]*)", text):
        return f"since ONNX has no form of the operation {found.group(1).strip()[:100]}"
    return f"torch.onnx says: {first_line(error)[:200]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter and ONNX's tools print of their progress."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        nowhere = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _Reader:
    """Calibration batches as ONNX Runtime's quantisation asks for them."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def quantise_network(source: Path, target: Path, batches: Iterable[np.ndarray]) -> None:
    """An exported file in int8 (static, QDQ, weights by channel), calibrated on batches of preprocessed views.

    Weights have 7 bits: on processors without VNNI a sum of two products of 8 bits would overflow its 16, so that the
    file would score otherwise there than where it was tried. The first layer, the last one and what follows it stay in
    float32.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=target.parent) as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=_ends(prepared),
        )


def _ends(path: Path) -> list[str]:
    """The first layer with weights, the last one, and all that comes after it: they cost little, and a network that
    makes its log-odds of several classes by exponentials needs them whole."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node  # in the order in which they compute
    layers = [place for place, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm", "MatMul")]
    return [nodes[layers[0]].name, *(node.name for node in nodes[layers[-1] :])] if layers else []
