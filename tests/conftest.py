"""What all tests share: the options and marks, a fresh workspace, the real drivers, tiny clips."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from liveness.base.files import CODE

# Files that take longest, so that none of them is left to a single worker at the end.
FIRST = ("pipeline", "prediction_resume", "walks", "notebooks", "prepare", "training", "container", "training_options",
         "prediction", "demo", "thresholds", "intervals", "training_checks", "shift")  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the tests marked `full`, which take minutes")
    parser.addoption("--extras", action="store_true", help="also run the tests marked `extras`, of optional packages")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first; without --full `full` is left out, without --extras `extras` skipped, without CUDA `gpu`."""
    place = {f"test_{name}.py": number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(FIRST)))
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("full")]
    if not config.getoption("--extras"):
        for item in (item for item in items if item.get_closest_marker("extras")):
            item.add_marker(pytest.mark.skip(reason="needs optional packages; run with --extras"))
    # Not by item.keywords, which hold the names of folders too: of a checkout in a folder "gpu" all would be skipped.
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU, none is here"))


@pytest.fixture(autouse=True)
def ordinary_priority():
    """No test leaves its process at a real-time priority: all that later tests start would inherit it and hang."""
    yield
    if hasattr(os, "sched_getscheduler"):
        found = os.sched_getscheduler(0)
        if found != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        assert found == os.SCHED_OTHER, f"this test left its thread at scheduling policy {found}"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh, empty LIVENESS_ROOT, for calls in this process and for drivers alike."""
    root = tmp_path / "workspace"
    root.mkdir()
    monkeypatch.setenv("LIVENESS_ROOT", str(root))
    return root


@pytest.fixture
def run_driver(workspace: Path) -> Callable[..., subprocess.CompletedProcess]:
    """``run_driver("train.sh", "demo", env={"NGPU": "2"}, cwd=..., timeout=600)``: a real driver in the workspace.

    Never raises: the exit code, stdout and stderr (text) are in the result; a timeout gives exit code 124.
    Values of None in ``env`` unset a variable.
    """

    def call(
        name: str, *args: str, env: dict[str, str | None] | None = None, cwd: Path = CODE, timeout: float = 600
    ) -> subprocess.CompletedProcess:
        values = {**os.environ, "LIVENESS_ROOT": str(workspace), "PYTHON": sys.executable, **(env or {})}
        command = [sys.executable if name.endswith(".py") else "bash", str(CODE / name), *map(str, args)]
        try:
            return subprocess.run(
                command,
                cwd=cwd,
                env={key: str(value) for key, value in values.items() if value is not None},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            out, err = (part.decode(errors="replace") if part else "" for part in (error.stdout, error.stderr))
            return subprocess.CompletedProcess(command, 124, out, err + f"\nno end within {timeout} s")

    return call


@pytest.fixture(scope="session")
def tiny_clips() -> Callable[..., Path]:
    """``tiny_clips(path, frames=12, size=(96, 128), fps=25, seed=0)``: write one small H.264 clip, return its path.

    ``size`` is (width, height), even numbers. A textured disc of a colour drawn from ``seed`` moves over a
    drifting gradient, so that every frame differs from its neighbours and every seed from the others.
    """
    import av

    def write(path: Path, frames: int = 12, size: tuple[int, int] = (96, 128), fps: int = 25, seed: int = 0) -> Path:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height, stream.pix_fmt = size[0], size[1], "yuv420p"
            for picture in _moving_pattern(frames, size, seed):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


def _moving_pattern(frames: int, size: tuple[int, int], seed: int) -> list[np.ndarray]:
    """``frames`` pictures, uint8 RGB of shape (height, width, 3)."""
    width, height = size
    rng = np.random.default_rng(seed)
    colour, tint = rng.uniform(60, 255, 3), rng.uniform(0.3, 1.0, 3)
    phase, radius = rng.uniform(0, 2 * np.pi), min(width, height) * rng.uniform(0.2, 0.35)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    pictures = []
    for i in range(frames):
        turn = phase + 2 * np.pi * i / max(frames, 8)
        ground = (128 + 100 * np.sin((x + 3 * i) / width * 4 + y / height * 3))[..., None] * tint
        disc = np.hypot(x - width * (0.5 + 0.2 * np.cos(turn)), y - height * (0.5 + 0.2 * np.sin(turn))) < radius
        texture = (0.75 + 0.25 * np.sin((x + y) / 3))[..., None] * colour
        pictures.append(np.clip(np.where(disc[..., None], texture, ground), 0, 255).astype(np.uint8))
    return pictures
