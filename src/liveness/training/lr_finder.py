"""The learning-rate range test (Smith 2017): train with a rate that grows with every step, and watch.

It runs through the real loop: the same model, samples, augmentation, precision and processes.
"""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from liveness.base import distributed
from liveness.base.errors import UserError
from liveness.base.files import written_aside
from liveness.training import loop
from liveness.training.task import Task

LOWEST, HIGHEST = 1e-7, 1.0  # the rates that are tried
SANE = (1e-6, 1e-2)  # AdamW fine-tuning outside of these has never been a good idea
STEPS = 100
MEMORY = 0.9  # of the exponential smoothing of the loss
EXPLODED = 3.0  # times the lowest smoothed loss: no use to go on
DIVISOR = 10.0  # the suggestion is the rate of the lowest smoothed loss over this


@dataclass
class Curve:
    """The curve of a range test: one entry per step that was made."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray


def measure_curve(task: Task, device: torch.device, steps: int = STEPS) -> Curve:
    """Train a copy of ``task`` for up to ``steps`` steps with exponentially growing rates."""
    trial = copy.deepcopy(task)
    trial.config = replace(task.config, ema_half_life=0, epochs=max(1, math.ceil(steps / task.steps_per_epoch)))
    state = loop.start_state(trial, device, LOWEST)
    networks = loop.ready_networks(state)
    stream = trial.stream(0, device)
    rates, losses = [], []
    for rate in np.geomspace(LOWEST, HIGHEST, steps):
        sums = loop.run_step(state, networks, stream, float(rate))
        if not torch.isfinite(sums[0]):  # of all ranks, so that all of them stop here
            break
        rates.append(float(rate))
        losses.append((sums[0] / sums[1]).item())
        smoothed = smooth(np.array(losses))
        if len(losses) > steps // 10 and smoothed[-1] > EXPLODED * smoothed.min():
            break
    return Curve(np.array(rates), np.array(losses), smooth(np.array(losses)))


def smooth(losses: np.ndarray) -> np.ndarray:
    """Exponential smoothing without the bias towards the start (as Adam corrects its means)."""
    value, out = 0.0, []
    for count, loss in enumerate(losses, 1):
        value = MEMORY * value + (1 - MEMORY) * loss
        out.append(value / (1 - MEMORY**count))
    return np.array(out)


def suggest_lr(curve: Curve) -> float:
    """The rate of the lowest smoothed loss over 10, inside sane bounds.

    A UserError where the curve shows nothing: too short, no descent beyond its own noise.
    """
    if len(curve.rates) < 20:
        raise UserError(
            f"the range test ended after {len(curve.rates)} steps, too few to read; set train.lr to a number"
        )
    lowest = int(np.argmin(curve.smoothed))
    start = max(5, len(curve.rates) // 10)
    level = float(np.mean(curve.losses[:start]))
    # Of the level, by the differences of neighbours, which a slope does not widen.
    noise = float(np.std(np.diff(curve.losses[: max(lowest, start) + 1]), ddof=1)) / math.sqrt(2 * start)
    descent = level - float(curve.smoothed[lowest])
    # The lowest of 100 smoothed losses lies below the level by chance: 4.5 lets 1 noise in 200 pass (3: 1 in 10).
    if lowest < start or descent < max(4.5 * noise, 0.01 * level):
        raise UserError(
            f"the range test shows no descent (from {level:.4f} to {curve.smoothed[lowest]:.4f}, noise {noise:.4f}); "
            "set train.lr to a number, or give it more data or a larger train.batch"
        )
    return float(np.clip(curve.rates[lowest] / DIVISOR, *SANE))


def choose_lr(task: Task, device: torch.device, folder: Path) -> float:
    """Measure, leave lr_curve.csv and lr_curve.png in ``folder``, and suggest. For ``train.lr=auto``."""
    curve = measure_curve(task, device)
    if distributed.rank() == 0:
        write_curve(curve, folder)
    return suggest_lr(curve)


def write_curve(curve: Curve, folder: Path) -> None:
    """lr_curve.csv (lr, loss, smoothed) and lr_curve.png."""
    import pandas as pd

    table = pd.DataFrame({"lr": curve.rates, "loss": curve.losses, "smoothed": curve.smoothed})
    with written_aside(folder / "lr_curve.csv") as side:
        table.to_csv(side, index=False, lineterminator="\n")
    with written_aside(folder / "lr_curve.png") as side:
        _plot(curve, side)


def _plot(curve: Curve, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, ".", color="0.75", label="loss of a step")
    axes.plot(curve.rates, curve.smoothed, label="smoothed")
    try:
        suggestion = suggest_lr(curve)
        axes.axvline(suggestion, color="tab:green", label=f"suggestion {suggestion:.1e}")
    except UserError:
        axes.set_title("no suggestion: the curve shows no descent")
    top = float(np.quantile(curve.losses, 0.9)) if len(curve.losses) else 1.0
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0, 1.5 * top))
    axes.legend()
    figure.savefig(path, dpi=120)
