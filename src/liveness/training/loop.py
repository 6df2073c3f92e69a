"""The training loop: steps of the global batch, epoch by epoch, until the member is made.

    state = start(model, recipe, device, steps_per_epoch)
    fit(state, frames, recipe, run)

Every random draw of a step comes from (seed, step), every one of a sample from (seed, epoch, sample),
so a run that continues from ``last.pt`` does what an undisturbed run does.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveness import distributed
from liveness.config import Recipe, Train
from liveness.data.augment import seed_of
from liveness.data.dataset import TrainingFrames, batches
from liveness.errors import UserError
from liveness.files import written_aside
from liveness.model.losses import smoothed_bce
from liveness.model.score import autocast, half_type
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
    epoch: int = 0  # finished epochs
    history: list[dict] = field(default_factory=list)  # rows of metrics.csv

    @property
    def best_guess(self) -> Any:
        """The model to score and to save: the moving average where there is one."""
        return self.ema.module if self.ema is not None else self.model


def start(model: Any, recipe: Recipe, device: Any, steps_per_epoch: int) -> State:
    """Optimiser, moving average and scaler for a fresh or a resumed run."""
    import torch
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    config = recipe.train
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    optimizer = create_optimizer_v2(
        model,
        opt="adamw",
        lr=config.lr,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay if config.layer_decay < 1 else None,
        fused=device.type == "cuda",
    )
    ema = None
    if config.ema_half_life > 0:
        ema = ModelEmaV3(model, decay=ema_decay(config, steps_per_epoch), use_warmup=True)
    half = device.type == "cuda" and config.amp and half_type() == torch.float16
    return State(model, ema, optimizer, torch.amp.GradScaler(enabled=half), device, steps_per_epoch)


def save(state: State, path: Path) -> None:
    """Write last.pt: all that resume needs, whole or not at all."""
    import torch

    content = {
        "epoch": state.epoch,
        "history": state.history,
        "model": state.model.state_dict(),
        "ema": state.ema.state_dict() if state.ema is not None else None,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
    }
    with written_aside(path) as side:
        torch.save(content, side)


def resume(state: State, path: Path) -> None:
    """Continue from last.pt, in place."""
    import torch

    content = torch.load(path, map_location=state.device, weights_only=True)
    state.model.load_state_dict(content["model"])
    if state.ema is not None:
        state.ema.load_state_dict(content["ema"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    state.epoch, state.history = content["epoch"], content["history"]


@dataclass
class Share:
    """What one process puts through at once: a part of its part of a global batch."""

    step: int
    epoch: int
    batch: int  # size of the global batch
    last: bool  # the step's last share: gradients are summed over the processes and applied
    keys: list[tuple[int, int]]


def shares(n: int, config: Train, first_epoch: int) -> list[Share]:
    """This rank's shares of all remaining epochs, in order."""
    rank, world = distributed.rank(), distributed.size()
    if min(config.batch, n) < world:
        raise UserError(f"a global batch of {min(config.batch, n)} cannot be dealt to {world} processes; lower NGPU")
    plan, step = [], first_epoch * count_steps(n, config)
    for epoch in range(first_epoch, config.epochs):
        for batch in batches(n, config.batch, config.seed, epoch):
            mine = batch[rank::world]
            size = config.batch_per_process
            pieces = [mine[at : at + size] for at in range(0, len(mine), size)]
            for number, piece in enumerate(pieces):
                keys = [(epoch, index) for index in piece]
                plan.append(Share(step, epoch, len(batch), number == len(pieces) - 1, keys))
            step += 1
    return plan


def count_steps(n: int, config: Train) -> int:
    """Optimiser steps per epoch."""
    return max(1, n // config.batch)


def fit(state: State, frames: TrainingFrames, recipe: Recipe, after_epoch: Callable[[State, dict], None]) -> None:
    """Train from ``state.epoch`` to the last epoch. ``after_epoch(state, row)`` runs on every rank."""
    import torch
    from torch.utils.data import DataLoader

    config = recipe.train
    plan = shares(len(frames), config, state.epoch)
    model = torch.compile(state.model) if config.compile else state.model
    model = distributed.wrap(model, state.device)
    # One loader for the whole run: its workers prepare the next epoch while this one ends.
    loader = DataLoader(
        frames,
        batch_sampler=[share.keys for share in plan],
        num_workers=config.workers,
        pin_memory=state.device.type == "cuda",
        worker_init_fn=_quiet_worker,
    )
    arriving = iter(zip(plan, loader, strict=True))
    while state.epoch < config.epochs:
        row = _run_epoch(state, model, arriving, config)
        state.epoch += 1
        after_epoch(state, row)


def _quiet_worker(_: int) -> None:
    """A loader worker is one of several: it keeps to one thread."""
    import cv2

    cv2.setNumThreads(0)


def _run_epoch(state: State, model: Any, arriving: Iterator, config: Train) -> dict:
    """One epoch; returns its row for metrics.csv."""
    import torch
    from tqdm import tqdm

    model.train()
    started, loss_sum, lr = time.monotonic(), torch.zeros(2, dtype=torch.float64, device=state.device), 0.0
    show = distributed.rank() == 0 and sys.stderr.isatty()
    title = f"epoch {state.epoch + 1}/{config.epochs}"
    with tqdm(total=state.steps_per_epoch, desc=title, unit="step", disable=not show, leave=False) as bar:
        done = 0
        while done < state.steps_per_epoch:
            share, (images, labels) = next(arriving)
            losses = _forward_backward(state, model, share, images, labels, config)
            loss_sum += torch.stack([losses.sum(), torch.full_like(losses, 1).sum()])
            if share.last:
                lr = _apply(state, share.step, config)
                done += 1
                bar.update()
                if show:
                    bar.set_postfix(loss=f"{(loss_sum[0] / loss_sum[1]).item():.3f}", lr=f"{lr:.1e}")
    distributed.total(loss_sum)
    seconds = time.monotonic() - started
    return {
        "epoch": state.epoch + 1,
        "step": (state.epoch + 1) * state.steps_per_epoch,
        "lr": lr,
        "train_loss": (loss_sum[0] / loss_sum[1]).item(),
        "seconds": seconds,
        "images_per_second": loss_sum[1].item() / seconds,
    }


def _forward_backward(state: State, model: Any, share: Share, images: Any, labels: Any, config: Train) -> Any:
    """Add a share's gradients. Returns its per-sample losses, detached, in float64."""
    import torch

    torch.manual_seed(seed_of(config.seed, share.step, distributed.rank(), len(share.keys)))
    layout = torch.channels_last if state.device.type == "cuda" else torch.contiguous_format
    images = images.to(state.device, non_blocking=True, memory_format=layout)
    labels = labels.to(state.device, torch.float32, non_blocking=True)
    waits = nullcontext() if share.last or model is state.model or distributed.size() == 1 else model.no_sync()
    with waits:
        with autocast(state.device, config.amp):
            logits = model(images).flatten()
        losses = smoothed_bce(logits.float(), labels, config.label_smoothing)
        if not torch.isfinite(losses).all():
            raise UserError(
                f"the loss is not finite at step {share.step}; a lower train.lr, train.clip_grad=1 or train.amp=false "
                "may help; the last whole epoch is kept"
            )
        # DDP averages over processes; the sum over the global batch divided by its size is meant.
        state.scaler.scale(losses.sum() * (distributed.size() / share.batch)).backward()
    return losses.detach().double()


def _apply(state: State, step: int, config: Train) -> float:
    """One optimiser step. Returns its learning rate."""
    import torch

    lr = learning_rate(config, step, state.steps_per_epoch)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    if config.clip_grad:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(state.model, step=step)
    return lr
