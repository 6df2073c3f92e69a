"""Where a run's numbers go besides metrics.csv, and what is recorded about how it was made.

TensorBoard and Weights & Biases are optional packages (pip install tensorboard, wandb); only rank 0
comes here. Weights & Biases stays offline unless the environment holds an account (WANDB_API_KEY) or
says otherwise (WANDB_MODE).
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveness.base.errors import UserError
from liveness.base.files import CODE, IN_REPOSITORY, write_text
from liveness.base.machine import cores

if TYPE_CHECKING:
    import torch

Log = Callable[[dict[str, Any]], None]


def require_tracker(name: str) -> None:
    """A UserError where the tracker's package is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"tracker={name}: the package is missing; pip install {name}")


@contextmanager
def open_tracker(name: str, folder: Path, config: dict[str, Any], title: str) -> Iterator[Log]:
    """Gives ``log(row of metrics.csv)`` of the tracker ``none``, ``tensorboard`` or ``wandb``, and closes it after."""
    require_tracker(name)
    log, close = _TRACKERS[name](folder, config, title)
    try:
        yield log
    finally:
        close()


def _none(*_: Any) -> tuple[Log, Callable[[], None]]:
    return lambda row: None, lambda: None


def _tensorboard(folder: Path, *_: Any) -> tuple[Log, Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder / "tensorboard")

    def log(row: dict[str, Any]) -> None:
        for key, value in row.items():
            if key not in ("epoch", "step"):
                writer.add_scalar(key, value, row["step"])
        writer.flush()

    return log, writer.close


def _wandb(folder: Path, config: dict[str, Any], title: str) -> tuple[Log, Callable[[], None]]:
    import wandb

    mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    run = wandb.init(project="liveness", name=title, dir=str(folder), config=config, mode=mode)
    return lambda row: run.log(row, step=row["step"]), run.finish


_TRACKERS = {"none": _none, "tensorboard": _tensorboard, "wandb": _wandb}


def record_start(path: Path, described: dict[str, Any], device: "torch.device", processes: int) -> None:
    """Add this start to runs.json: command, versions, commit, data, hardware. One entry per start."""
    starts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    starts.append(
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv,
            "seed": described["recipe"]["train"]["seed"],
            "data": described["data"],
            "data_hash": described["data_hash"],
            "commit": _commit(),
            "versions": _versions(),
            "hardware": _hardware(device, processes),
        }
    )
    write_text(path, json.dumps(starts, indent=1) + "\n")


def _commit() -> str:
    """The code's commit, with + where tracked files were changed; empty outside a repository."""
    if not IN_REPOSITORY:
        return ""
    try:
        git = ["git", "-C", str(CODE)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
        return commit + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "av", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _hardware(device: "torch.device", processes: int) -> dict[str, Any]:
    import torch

    found = {"machine": platform.machine(), "cores": cores(), "processes": processes, "device": device.type}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found
