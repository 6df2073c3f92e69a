"""The training loop: optimiser steps of the global batch until the member is made.

    state = start(model, recipe, device, steps_per_epoch, lr)
    fit(state, frames, recipe, after_epoch, stopping)

Every random draw comes from (seed, epoch, sample): augmentation, drop path, the order of samples. So
a run that continues from ``last.pt`` does what an undisturbed run does, whatever step it left at, and
several processes do what one does, up to the rounding of sums.
"""

import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveness.base import distributed
from liveness.base.config import Recipe, Train
from liveness.base.errors import UserError
from liveness.base.files import written_aside
from liveness.models.device import autocast, half_type
from liveness.models.losses import sample_losses
from liveness.training import passing
from liveness.training.augment import seed_of
from liveness.training.samples import TrainingFrames, batches
from liveness.training.schedule import ema_decay, learning_rate


@dataclass
class State:
    """Everything that changes while a member is trained."""

    model: Any  # without the DDP wrapper
    ema: Any | None  # timm's ModelEmaV3
    optimizer: Any
    scaler: Any  # GradScaler, off unless float16 is used
    device: Any
    steps_per_epoch: int
    drop_path: dict[str, Any]  # the seeds of the samples at hand
    lr: float  # the highest
    class_weights: tuple[float, float] = (1.0, 1.0)  # of attack and of live samples
    step: int = 0  # finished optimiser steps
    loss: float = 0.0  # sums over this epoch so far, of all ranks
    samples: int = 0
    history: list[dict] = field(default_factory=list)  # rows of metrics.csv
    best: dict[str, Any] | None = None  # with select=logloss: epoch, logloss and weights of the best epoch
    unjudged: dict | None = None  # the row of an epoch whose steps are done and whose held-out fold is not scored

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch

    @property
    def best_guess(self) -> Any:
        """The model to score and to save: the moving average where there is one."""
        return self.ema.module if self.ema is not None else self.model

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
        return self.best["epoch"] if self.best else self.epoch

    def kept_model(self) -> Any:
        """The model that becomes the member: the last epoch's, or the selected one's."""
        if self.best:
            self.best_guess.load_state_dict(self.best["weights"])
        return self.best_guess


def start(model: Any, recipe: Recipe, device: Any, steps_per_epoch: int, lr: float) -> State:
    """Optimiser, moving average and scaler for a fresh or a resumed run. ``lr``: the highest."""
    import torch
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    from liveness.models.drop_path import replace_drop_path

    config = recipe.train
    drop_path = replace_drop_path(model)
    if config.checkpoint_activations:
        checkpoint_activations(model, recipe.model.name)
    model.to(device, memory_format=torch.channels_last)  # 2 to 3 times as fast, on CPUs as well
    optimizer = create_optimizer_v2(
        model,
        opt="adamw",
        lr=lr,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay if config.layer_decay < 1 else None,
        fused=True,
    )
    ema = None
    if config.ema_half_life > 0:
        ema = ModelEmaV3(model, decay=ema_decay(config, steps_per_epoch), use_warmup=True)
    half = device.type == "cuda" and config.amp and half_type() == torch.float16
    return State(model, ema, optimizer, torch.amp.GradScaler(enabled=half), device, steps_per_epoch, drop_path, lr)


def checkpoint_activations(model: Any, name: str) -> None:
    """Keep no activations; a UserError where the model does not know how."""
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise UserError(f"train.checkpoint_activations: timm's {name} does not support it") from error


def save(state: State, path: Path) -> None:
    """Write last.pt: all that resume needs, whole or not at all. For rank 0: the ranks' states are
    equal after a step."""
    import torch

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
        "ema": state.ema.state_dict() if state.ema is not None else None,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
    }
    with written_aside(path) as side:
        torch.save(content, side)


def require_finite(state: State) -> None:
    """A UserError where a step has left weights that are not finite: its own loss could not show it."""
    import torch

    for key, value in state.model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f"the weights ({key}) are not finite after step {state.step}; train.clip_grad=1, a lower train.lr or "
                "train.amp=false may help; last.pt keeps what was saved before"
            )


def _require_finite_loss(losses: Any, step: int) -> None:
    import torch

    if not torch.isfinite(losses[0]):
        raise UserError(
            f"the loss is not finite in step {step}; train.clip_grad=1, a lower train.lr or train.amp=false may "
            "help; last.pt keeps what was saved before"
        )


def resume(state: State, path: Path) -> None:
    """Continue from last.pt, in place: model, moving average, optimiser, scaler, then the position."""
    import torch

    content = torch.load(path, map_location=state.device, weights_only=True)
    state.model.load_state_dict(content["model"])
    if state.ema is not None:
        state.ema.load_state_dict(content["ema"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    state.step, state.history, state.best = content["step"], content["history"], content["best"]
    state.unjudged = content.get("unjudged")
    state.loss, state.samples = content["loss"], content["samples"]


def saved_lr(path: Path) -> float:
    """The highest learning rate of the run that left last.pt."""
    import torch

    return torch.load(path, map_location="meta", weights_only=True)["lr"]


@dataclass
class Share:
    """What one process puts through at once: a part of its part of a global batch."""

    batch: int  # size of the global batch
    last: bool  # the step's last share: gradients are summed over the processes and applied
    keys: list[tuple[int, int]]  # (epoch, index) of each sample


def count_steps(n: int, config: Train) -> int:
    """Optimiser steps per epoch."""
    return max(1, n // config.batch)


def require_share(n: int, config: Train, world: int) -> None:
    """A UserError where a process would get nothing of a batch of ``n`` samples."""
    if min(config.batch, n) < world:
        raise UserError(f"a global batch of {min(config.batch, n)} cannot be dealt to {world} processes; lower NGPU")


def shares(n: int, config: Train, first_step: int) -> list[Share]:
    """This rank's shares of all steps from ``first_step`` to the end of training, in order."""
    rank, world = distributed.rank(), distributed.size()
    require_share(n, config, world)
    plan, step = [], 0
    for epoch in range(config.epochs):
        for batch in batches(n, config.batch, config.seed, epoch):
            step += 1
            if step <= first_step:
                continue
            mine = batch[rank::world]
            pieces = [mine[at : at + config.batch_per_process] for at in range(0, len(mine), config.batch_per_process)]
            for piece in pieces:
                plan.append(Share(len(batch), piece is pieces[-1], [(epoch, index) for index in piece]))
    return plan


def fit(
    state: State,
    frames: TrainingFrames,
    recipe: Recipe,
    after_epoch: Callable[[dict], None],
    stopping: Callable[[], bool],
) -> bool:
    """Train from ``state.step`` to the end. ``after_epoch(row of metrics.csv)`` runs on every rank.

    ``stopping()`` is asked after every step. Returns whether training is finished. A run that left
    between an epoch's last step and its row begins with that row.
    """
    config = recipe.train
    model = parallel(state, config)
    arriving = samples(frames, shares(len(frames), config, state.step), config, state.device)
    while state.unjudged or state.epoch < config.epochs:
        if state.unjudged is None:
            state.unjudged = _run_epoch(state, model, arriving, config, stopping)
            if state.unjudged is None or stopping():
                return False
        after_epoch(dict(state.unjudged))
        state.unjudged = None
    return True


def parallel(state: State, config: Train) -> Any:
    """The model as it is called in training: compiled if asked, under DDP if there are several processes."""
    import torch

    model = torch.compile(state.model) if config.compile else state.model
    return distributed.wrap(model, state.device, config.reduce)


def samples(frames: TrainingFrames, plan: list[Share], config: Train, device: Any) -> Iterator:
    """Pairs of a share and its (images, labels), in the plan's order.

    One loader for the whole plan: its workers prepare the next epoch while this one ends.
    """
    from torch.utils.data import DataLoader

    gpu = device.type == "cuda"
    each = passing.bytes_of_batch(min(config.batch_per_process, config.batch, len(frames)), frames.policy.view)
    workers, pipes = passing.way(config.workers, each)
    loader = DataLoader(
        frames,
        batch_sampler=[share.keys for share in plan],
        num_workers=workers,
        pin_memory=gpu and not pipes,
        collate_fn=passing.pack_batch if pipes else None,
        worker_init_fn=quiet_worker,
    )
    made = iter(loader)  # the workers begin now
    return zip(plan, (passing.unpack_batch(batch, gpu) for batch in made) if pipes else made, strict=True)


def quiet_worker(_: int) -> None:
    """A loader worker is one of several and keeps to one thread; ctrl-C and SIGTERM are its parent's
    affair, and it ends with its parent: it has inherited the lock of the run's folder."""
    import signal

    import cv2

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _run_epoch(
    state: State, model: Any, arriving: Iterator, config: Train, stopping: Callable[[], bool]
) -> dict | None:
    """The rest of an epoch; returns its row for metrics.csv, or None if it was stopped before its last step."""
    import torch
    from tqdm import tqdm

    started, lr = time.monotonic(), 0.0
    shown = started
    losses = torch.tensor([state.loss, state.samples], dtype=torch.float64, device=state.device)
    before, pending = state.samples, losses
    end = (state.epoch + 1) * state.steps_per_epoch
    show = distributed.rank() == 0 and sys.stderr.isatty()
    title = f"epoch {state.epoch + 1}/{config.epochs}"
    model.train()
    with tqdm(total=end - state.step, desc=title, unit="step", disable=not show, leave=False) as bar:
        while state.step < end:
            lr = learning_rate(config, state.step, state.steps_per_epoch, state.lr)
            sums = run_step(state, model, arriving, config, lr)
            # One step late: asking at once would make the GPU wait for this process after every step.
            _require_finite_loss(pending, state.step - 1)
            pending = sums
            losses += sums
            bar.update()
            if show and time.monotonic() - shown > 0.5:  # reading the loss waits for the step
                shown = time.monotonic()
                bar.set_postfix(_gauges(losses, lr, state.device))
            if state.step < end and stopping():
                state.loss, state.samples = losses[0].item(), int(losses[1].item())
                return None
    _require_finite_loss(pending, state.step)
    require_finite(state)
    seen = losses[1].item() - before
    state.loss, state.samples = 0.0, 0
    seconds = time.monotonic() - started
    return {
        "epoch": state.epoch,
        "step": state.step,
        "lr": lr,
        "train_loss": (losses[0] / losses[1]).item(),
        "seconds": round(seconds, 1),
        "images_per_second": round(seen / seconds, 1),
    }


def _gauges(losses: Any, lr: float, device: Any) -> dict[str, str]:
    """What the bar shows beside its rate and the time left."""
    import torch

    gauges = {"loss": f"{(losses[0] / losses[1]).item():.3f}", "lr": f"{lr:.1e}"}
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
    else:
        most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return gauges | {"GB": f"{most / 1e9:.1f}"}


def run_step(state: State, model: Any, arriving: Iterator, config: Train, lr: float) -> Any:
    """One optimiser step of a global batch. Returns its sum of losses and number of samples, on every rank.

    Summed over the ranks at once and not at the epoch's end: rank 0 may leave after any step, alone, and what
    it saves has to hold the others' share.
    """
    import torch

    losses = torch.zeros(2, dtype=torch.float64, device=state.device)
    last = False
    while not last:
        share, (images, labels) = next(arriving)
        loss = _forward_backward(state, model, share, images, labels, config)
        losses += torch.stack([loss.sum(), loss.new_tensor(len(loss))])
        last = share.last
    _apply(state, config, lr)
    return distributed.total(losses)


def _forward_backward(state: State, model: Any, share: Share, images: Any, labels: Any, config: Train) -> Any:
    """Add a share's gradients. Returns its per-sample losses, detached, in float64."""
    import torch

    seeds = [seed_of(config.seed, *key) for key in share.keys]
    state.drop_path["seeds"] = torch.tensor(seeds, dtype=torch.int64, device=state.device)
    torch.manual_seed(seeds[0])  # for dropout in models that have it
    images = images.to(state.device, non_blocking=True, memory_format=torch.channels_last)
    labels = labels.to(state.device, torch.float32, non_blocking=True)
    alone = share.last or distributed.size() == 1
    with nullcontext() if alone else model.no_sync():
        with autocast(state.device, config.amp):
            logits = model(images).flatten()
        losses = sample_losses(logits.float(), labels, config, state.class_weights)
        # DDP averages over processes; the sum over the global batch divided by its size is meant.
        state.scaler.scale(losses.sum() * (distributed.size() / share.batch)).backward()
    return losses.detach().double()


def _apply(state: State, config: Train, lr: float) -> None:
    """Apply the gradients that the step's shares have left."""
    import torch

    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    if config.clip_grad:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(state.model, step=state.step)
    state.step += 1
