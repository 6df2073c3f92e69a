"""The training loop: optimiser steps of a task's global batches until the member is made.

    state = start_state(task, device, lr)
    run_epochs(state, after_epoch, stopping)

What is learned from what is the task's affair (``training.task``); the loop knows steps, processes, the moving
average and last.pt. Every random draw comes from (seed, epoch, sample): augmentation, drop path, the order of
samples. So a run that continues from ``last.pt`` does what an undisturbed run does, whatever step it left at, and
several processes do what one does, up to the rounding of sums.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import nn

from liveness.base import distributed
from liveness.base.config import Train
from liveness.base.errors import UserError
from liveness.base.files import written_aside
from liveness.models.device import half_type
from liveness.training.arrivals import Arrivals
from liveness.training.schedule import ema_decay, learning_rate
from liveness.training.task import Share, Task

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

_Networks = Mapping[str, nn.Module]  # a task's, by name, as they are called in training
_Stream = Iterator[tuple[Share, Any]]  # of ``Task.stream``


@dataclass
class State:
    """Everything that changes while a member is trained."""

    task: Task  # its networks are without the DDP wrapper
    ema: "ModelEmaV3 | None"
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # off unless float16 is used
    device: torch.device
    lr: float  # the highest
    step: int = 0  # finished optimiser steps
    loss: float = 0.0  # sums over this epoch so far, of all ranks
    samples: int = 0
    history: list[dict] = field(default_factory=list)  # rows of metrics.csv
    best: dict[str, Any] | None = None  # with select=logloss: epoch, logloss and weights of the best epoch
    unjudged: dict | None = None  # the row of an epoch whose steps are done and whose held-out fold is not scored

    @property
    def model(self) -> nn.Module:
        """The network that becomes the member."""
        return self.task.model

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.task.steps_per_epoch

    @property
    def best_guess(self) -> nn.Module:
        """The model to score and to save: the moving average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def parameters(self) -> list[nn.Parameter]:
        """What is optimised."""
        return [parameter for network in self.task.networks.values() for parameter in network.parameters()]

    def finish_epoch(self, row: dict, select: str) -> None:
        """Note an epoch's row of metrics.csv, and its weights if they are to be kept."""
        self.history.append(row)
        self.unjudged = None
        # Without a log loss (one class has scores) an epoch is kept only until one has it.
        if select == "logloss" and (self.best is None or not row["logloss"] >= self.best["logloss"]):
            weights = {key: value.detach().cpu().clone() for key, value in self.best_guess.state_dict().items()}
            self.best = {"epoch": row["epoch"], "logloss": row["logloss"], "weights": weights}

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights the member gets."""
        return self.best["epoch"] if self.best else self.epoch

    def kept_model(self) -> nn.Module:
        """The model that becomes the member: the last epoch's, or the selected one's."""
        if self.best:
            self.best_guess.load_state_dict(self.best["weights"])
        return self.best_guess


def start_state(task: Task, device: torch.device, lr: float) -> State:
    """Optimiser, moving average and scaler for a fresh or a resumed run. ``lr``: the highest."""
    config = task.config
    for network in task.networks.values():
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # 2 to 3 times as fast, on CPUs as well
    optimizer = _make_optimizer(task.model, config, lr)
    for name, network in task.networks.items():
        if name != "model":
            for group in _make_optimizer(network, config, lr).param_groups:
                optimizer.add_param_group(group)
    ema = None
    if config.ema_half_life > 0:
        from timm.utils import ModelEmaV3

        ema = ModelEmaV3(task.model, decay=ema_decay(config, task.steps_per_epoch), use_warmup=True)
    task.average = ema.module if ema is not None else None
    half = device.type == "cuda" and config.amp and half_type() == torch.float16
    return State(task, ema, optimizer, torch.amp.GradScaler(enabled=half), device, lr)


def _make_optimizer(network: nn.Module, config: Train, lr: float) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(
        network,
        opt="adamw",
        lr=lr,
        weight_decay=config.weight_decay,
        # A head that learns beside the model is one layer: there is nothing to decay, and timm would warn of it.
        layer_decay=config.layer_decay if config.layer_decay < 1 and any(network.children()) else None,
        fused=True,
    )


def count_bytes(state: State) -> int:
    """The size of last.pt, from the tensors that go into it; AdamW has two numbers a parameter, also before a step."""
    kept: list[Mapping[str, Any]] = [state.model.state_dict(), state.ema.state_dict() if state.ema is not None else {}]
    if state.task.config.select == "logloss":
        kept.append(state.model.state_dict())
    kept += [part for part in state.task.state_dict().values() if isinstance(part, Mapping)]
    sizes = [value.nbytes for part in kept for value in part.values() if isinstance(value, torch.Tensor)]
    return sum(sizes) + 2 * sum(parameter.nbytes for parameter in state.parameters() if parameter.requires_grad)


def save(state: State, path: Path, through: Callable[[BinaryIO], Any] = lambda file: file) -> None:
    """Write last.pt: all that resume needs, whole or not at all. For rank 0: the ranks' states are
    equal after a step.

    through: what the bytes go through on their way to the file."""
    require_finite(state)
    content = {
        "step": state.step,
        "loss": state.loss,
        "samples": state.samples,
        "history": state.history,
        "best": state.best,
        "unjudged": state.unjudged,
        "lr": state.lr,
        "model": state.model.state_dict(),
        "task": state.task.state_dict(),
        "ema": state.ema.state_dict() if state.ema is not None else None,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
    }
    with written_aside(path) as side, open(side, "wb") as file:
        torch.save(content, through(file))


def require_finite(state: State) -> None:
    """A UserError where a step has left weights that are not finite: its own loss could not show it."""
    tensors = (item for network in state.task.networks.values() for item in network.state_dict().items())
    for key, value in tensors:
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f"the weights ({key}) are not finite after step {state.step}; train.clip_grad=1, a lower train.lr or "
                "train.amp=false may help; last.pt keeps what was saved before"
            )


def resume(state: State, path: Path, note: Callable[[str], None] = lambda _: None) -> None:
    """Continue from last.pt, in place: networks, moving average, optimiser, scaler, then the position.

    note: gets a line where this hardware needs what the one before had not.
    """
    # Not onto the device: beside the state that is there already it would take its room a second time.
    content = torch.load(path, map_location="cpu", weights_only=True)
    state.model.load_state_dict(content["model"])
    state.task.load_state_dict(content.get("task", {}))
    if state.ema is not None:
        state.ema.load_state_dict(content["ema"])
    state.optimizer.load_state_dict(content["optimizer"])
    if state.scaler.is_enabled() and not content["scaler"]:
        note(
            "so far this training needed no loss scaling (bf16 or float32); here it computes in fp16 and begins with "
            f"torch's own scale, {state.scaler.get_scale():g}; steps that overflow are left out while it settles"
        )
    else:
        state.scaler.load_state_dict(content["scaler"])
    state.step, state.history, state.best = content["step"], content["history"], content["best"]
    state.unjudged = content.get("unjudged")
    state.loss, state.samples = content["loss"], content["samples"]


def saved_lr(path: Path) -> float:
    """The highest learning rate of the run that left last.pt."""
    return torch.load(path, map_location="meta", weights_only=True)["lr"]


def run_epochs(state: State, after_epoch: Callable[[dict], None], stopping: Callable[[], bool]) -> bool:
    """Train from ``state.step`` to the end. ``after_epoch(row of metrics.csv)`` runs on every rank.

    ``stopping()`` is asked after every step. Returns whether training is finished. A run that left
    between an epoch's last step and its row begins with that row.
    """
    networks = ready_networks(state)
    stream = state.task.stream(state.step, state.device)
    while state.unjudged or state.epoch < state.task.config.epochs:
        if state.unjudged is None:
            state.unjudged = _run_epoch(state, networks, stream, stopping)
            if state.unjudged is None or stopping():
                return False
        after_epoch(dict(state.unjudged))
        state.unjudged = None
    return True


def ready_networks(state: State) -> dict[str, nn.Module]:
    """The networks as they are called in training: compiled if asked, under DDP if there are several processes."""
    config = state.task.config
    found = {}
    for name, network in state.task.networks.items():
        called: Any = torch.compile(network) if config.compile else network
        found[name] = distributed.wrap(called, state.device, config.reduce).train()
    return found


def _run_epoch(state: State, networks: _Networks, stream: _Stream, stopping: Callable[[], bool]) -> dict | None:
    """The rest of an epoch; returns its row for metrics.csv, or None if it was stopped before its last step."""
    from tqdm import tqdm

    config, steps = state.task.config, state.task.steps_per_epoch
    started, lr = time.monotonic(), 0.0
    shown = started
    losses = torch.tensor([state.loss, state.samples], dtype=torch.float64, device=state.device)
    arrivals, before = Arrivals(state.device), state.samples
    end = (state.epoch + 1) * steps
    show = distributed.rank() == 0 and sys.stderr.isatty()
    title = f"epoch {state.epoch + 1}/{config.epochs}"
    for network in networks.values():
        network.train()  # scoring the held-out fold has ended this
    with tqdm(total=end - state.step, desc=title, unit="step", disable=not show, leave=False) as bar:
        while state.step < end:
            lr = learning_rate(config, state.step, steps, state.lr)
            losses += run_step(state, networks, stream, lr)
            arrivals.send(losses, state.step)
            arrivals.require_finite()
            bar.update()
            if show and time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                bar.set_postfix(_gauges(arrivals, lr, state.device))
            if state.step < end and stopping():
                arrivals.require_finite(late=0)
                state.loss, state.samples = arrivals.loss, arrivals.samples
                return None
    arrivals.require_finite(late=0)
    require_finite(state)
    state.loss, state.samples = 0.0, 0
    seconds = time.monotonic() - started
    return {
        "epoch": state.epoch,
        "step": state.step,
        "lr": lr,
        "train_loss": arrivals.loss / arrivals.samples,
        "seconds": round(seconds, 1),
        "images_per_second": round((arrivals.samples - before) / seconds, 1),
    }


def _gauges(arrivals: Arrivals, lr: float, device: torch.device) -> dict[str, str]:
    """What the bar shows beside its rate and the time left."""
    gauges = {"lr": f"{lr:.1e}"}
    if arrivals.samples:
        gauges = {"loss": f"{arrivals.loss / arrivals.samples:.3f}"} | gauges
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
    else:
        most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return gauges | {"GB": f"{most / 1e9:.1f}"}


def run_step(state: State, networks: _Networks, stream: _Stream, lr: float) -> torch.Tensor:
    """One optimiser step of a global batch. Returns its sum of losses and number of samples, on every rank.

    Summed over the ranks at once and not at the epoch's end: rank 0 may leave after any step, alone, and what
    it saves has to hold the others' share.
    """
    losses = torch.zeros(2, dtype=torch.float64, device=state.device)
    last = False
    while not last:
        share, batch = next(stream)
        loss = _forward_backward(state, networks, share, batch)
        losses += torch.stack([loss.sum(), loss.new_full((), len(loss))])  # a fill, not a copy from here
        last = share.last
    _apply(state, lr)
    state.task.after_step()
    return distributed.total(losses)


def _forward_backward(state: State, networks: _Networks, share: Share, batch: Any) -> torch.Tensor:
    """Add a share's gradients. Returns its per-sample losses, detached, in float64."""
    alone = share.last or distributed.size() == 1
    with ExitStack() as unsummed:
        for network in () if alone else networks.values():
            unsummed.enter_context(network.no_sync())  # type: ignore[operator]  # under DDP
        losses = state.task.losses(networks, share, batch, state.device)
        # DDP averages over processes; the sum over the global batch divided by its size is meant.
        state.scaler.scale(losses.sum() * (distributed.size() / share.batch)).backward()
    return losses.detach().double()


def _apply(state: State, lr: float) -> None:
    """Apply the gradients that the step's shares have left."""
    task, clip = state.task, state.task.config.clip_grad
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    if clip or task.changes_gradients:
        state.scaler.unscale_(state.optimizer)
    if task.changes_gradients:
        task.change_gradients(state.step / task.steps_per_epoch)
    if clip:
        nn.utils.clip_grad_norm_(state.parameters(), clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(state.model, step=state.step)
    state.step += 1
