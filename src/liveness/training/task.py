"""What is learned from what: a task owns its networks, its streams of samples and its loss.

    task = Supervised(recipe, model, frames)
    state = loop.start_state(task, device, lr)

The loop (``training.loop``) knows steps, processes, the moving average and last.pt, and nothing of samples or
losses. Another way to train is another subclass of ``Task`` with a line in ``MAKERS`` of ``training.tasks``:

- a frozen teacher is an attribute, used in ``losses``;
- a second network or head that learns too is given as ``beside``: it is optimised, distributed, saved and
  resumed as the model is;
- unlabelled samples are a second stream, which ``stream`` hands out beside the labelled one;
- a teacher that follows the model is ``average``, or updated in ``after_step`` and saved by ``state_dict``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from liveness.base.config import Recipe, Train
from liveness.base.errors import UserError
from liveness.models.device import autocast, to_device
from liveness.models.drop_path import replace_drop_path
from liveness.models.losses import class_weights, part_weights, sample_losses
from liveness.training.augment import derive_seed
from liveness.training.samples import (
    CameraBalance,
    Key,
    Share,
    TrainingFrames,
    count_steps,
    load_batches,
    plan_shares,
)
from liveness.training.start import FineTuning


class Task(ABC):
    """What the loop asks of a way to train.

    Every draw has to come from (seed, epoch, sample): then a resumed run and several processes do what one
    undisturbed process does.
    """

    also_pretrained: tuple[str, ...] = ()  # networks beside the model that start from model.pretrained as it does

    def __init__(self, recipe: Recipe, model: nn.Module, beside: Mapping[str, nn.Module] | None = None) -> None:
        """model: becomes the member. beside: what is trained with it and is no part of the member."""
        self.config: Train = recipe.train
        self.networks: dict[str, nn.Module] = {"model": model, **(beside or {})}
        self.tuning: FineTuning | None = None  # set when the model is at its start
        self.average: nn.Module | None = None  # the model's moving average where there is one; set by the loop
        self.about = ""  # what the line at the start of a training says of it, ", ..."
        self._drop_path = [replace_drop_path(network) for network in self.networks.values()]
        if self.config.checkpoint_activations:
            checkpoint_activations(model, recipe.model.name)

    def begin(self, fold: int, data: str) -> None:
        """A fresh or resumed training of the member for a fold of data/<data> is about to start."""
        return

    @property
    def model(self) -> nn.Module:
        """The network that becomes the member."""
        return self.networks["model"]

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""

    @abstractmethod
    def stream(self, first_step: int, device: torch.device) -> Iterator[tuple[Share, Any]]:
        """This process's shares of all steps from ``first_step`` to the end of training, in order, each with
        its batch: whatever ``losses`` takes."""

    @abstractmethod
    def losses(self, networks: Mapping[str, nn.Module], share: Share, batch: Any, device: torch.device) -> torch.Tensor:
        """A loss for each sample of a share: float32 (N,), with its graph. The loop minimises their sum over all
        processes' shares of the step over ``share.batch``.

        networks: those of the task by name, as they are to be called (compiled, distributed)."""

    @property
    def changes_gradients(self) -> bool:
        """Whether ``change_gradients`` has anything to do."""
        return self.tuning is not None and self.tuning.works

    def change_gradients(self, epoch: float) -> None:
        """Gradients at their true scale, summed over all processes, before the step at a time in epochs."""
        if self.tuning is not None:
            self.tuning.change_gradients(epoch)

    def after_step(self) -> None:
        """The optimiser has made a step, equal on every process."""
        return

    def save_beside(self, weights: Path, described: dict[str, Any]) -> None:
        """The member is written: keep what else of the task outlives it. For rank 0."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What resume needs besides the model: name -> state_dict."""
        return {name: network.state_dict() for name, network in self.networks.items() if name != "model"}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back, in place, what ``state_dict`` gave."""
        for name, network in self.networks.items():
            if name != "model":
                network.load_state_dict(saved[name])

    def seed_draws(self, keys: list[Key], device: torch.device) -> None:
        """Before a forward pass of these samples: drop path and dropout draw from their seeds."""
        seeds = [derive_seed(self.config.seed, *key) for key in keys]
        tensor = to_device(torch.tensor(seeds, dtype=torch.int64), device)
        for shared in self._drop_path:
            shared["seeds"] = tensor
        torch.manual_seed(seeds[0])  # for dropout in models that have it


class Supervised(Task):
    """Labelled frames, and the recipe's loss between their labels and the model's logits."""

    balance: CameraBalance | None = None  # also of a subclass that sets up its networks itself
    class_weights = (1.0, 1.0)  # of attack and of live samples

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        frames: TrainingFrames,
        balance: CameraBalance | None = None,
        beside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """balance: how samples are drawn, where not each once an epoch. beside: as in ``Task``."""
        super().__init__(recipe, model, beside)
        self.frames, self.balance = frames, balance
        if self.config.class_balance:
            # As they are trained on: some of the live samples become attacks.
            live, attacks = frames.count_classes(recipe.augment.attack_rate)
            if balance:
                live = (1 - recipe.augment.attack_rate) * (balance.live * len(frames))
                attacks = len(frames) - live
            self.class_weights = class_weights(live, attacks)

    @property
    def steps_per_epoch(self) -> int:
        return count_steps(len(self.frames), self.config)

    def stream(self, first_step: int, device: torch.device) -> Iterator[tuple[Share, Any]]:
        """Shares with their (images, labels)."""
        plan = plan_shares(len(self.frames), self.config, first_step, self.balance)
        return zip(plan, load_batches(self.frames, plan, self.config, device), strict=True)

    def losses(
        self,
        networks: Mapping[str, nn.Module],
        share: Share,
        batch: Any,
        device: torch.device,
    ) -> torch.Tensor:
        _, taught, logits = self.put_through(networks, share, batch, device)
        labels, weights = part_weights(taught)
        return weights * sample_losses(logits, labels, self.config, self.class_weights)

    def put_through(
        self,
        networks: Mapping[str, nn.Module],
        share: Share,
        batch: tuple[torch.Tensor, torch.Tensor],
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A share's images and what they teach (``part_weights``) on the device, and the model's logits: float32 (N,),
        with their graph."""
        images, labels = batch
        self.seed_draws(share.keys, device)
        images = to_device(images, device).contiguous(memory_format=torch.channels_last)
        labels = to_device(labels, device).float()  # there: changed on the way they would leave the pinned memory
        with autocast(device, self.config.amp):
            logits = networks["model"](images).flatten()
        return images, labels, logits.float()


def checkpoint_activations(model: nn.Module, name: str) -> None:
    """Keep no activations; a UserError where the model does not know how."""
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]  # timm's models have it
    except (AttributeError, AssertionError) as error:
        raise UserError(f"train.checkpoint_activations: timm's {name} does not support it") from error
