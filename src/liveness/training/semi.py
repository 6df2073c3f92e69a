"""Semi-supervised training: labelled frames as usual, and frames of a set without labels beside them.

CrossPseudo    two networks of different first weights teach each other (cross pseudo supervision, Chen et al., CVPR
               2021)
MeanTeacher    the model's moving average teaches it (Tarvainen and Valpola 2017) what it is sure of on a weakly changed
               view, to be found again on a strongly changed one (FixMatch, Sohn et al. 2020)

Both add to each labelled sample's loss the mean loss of its ``train.unlabelled_batch`` unlabelled samples, by a weight
that grows (``ramp_up``). docs/semi_supervised.md says it for users.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from liveness.base import distributed
from liveness.base.config import Augment, Recipe, Train
from liveness.base.errors import UserError
from liveness.evaluation.calibration import fit_calibration
from liveness.evaluation.combine import logit, sigmoid
from liveness.models.build import build
from liveness.models.device import autocast, to_device
from liveness.models.losses import part_weights, sample_losses
from liveness.sets.dataset import PreparedSet, load_unlabelled
from liveness.sets.soft_labels import COLUMNS, is_soft
from liveness.training.augment import Policy, derive_seed
from liveness.training.samples import (
    CameraBalance,
    Key,
    Share,
    TrainingFrames,
    find_balance,
    load_batches,
    plan_shares,
)
from liveness.training.task import Supervised, checkpoint_activations
from liveness.training.unlabelled import JoinedSamples, divide_batch, join_plan, rows_of_view

_Batch = tuple[torch.Tensor, torch.Tensor, list[Key], float]  # images, labels, all keys, time in epochs
_FEWEST = 5  # frames of each class that the teacher's calibration needs


def ramp_up(epoch: float, config: Train) -> float:
    """The weight of the unlabelled loss at a time in epochs: exp(-5 (1 - t)^2) of its full weight (Laine and Aila
    2017), where t rises from 0 to 1 in the first ``unlabelled_ramp`` of the training."""
    length = config.unlabelled_ramp * config.epochs
    done = min(1.0, epoch / length) if length else 1.0
    return config.unlabelled_weight * float(np.exp(-5 * (1 - done) ** 2))


class SemiSupervised(Supervised):
    """What both have in common: a stream of labelled and unlabelled samples."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        frames: TrainingFrames,
        balance: CameraBalance | None,
        kinds: list[TrainingFrames],
        beside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """kinds: the unlabelled frames, changed in one or more ways."""
        super().__init__(recipe, model, frames, balance, beside)
        self.kinds = kinds
        videos = len({row.filename for row in kinds[0].rows})
        self.about = f", with {len(kinds[0])} unlabelled frames of {videos} videos of {kinds[0].folder.name}"

    def stream(self, first_step: int, device: torch.device) -> Iterator[tuple[Share, _Batch]]:
        """Shares of labelled samples; their batches hold the unlabelled samples behind them."""
        config, kinds = divide_batch(self.config, len(self.kinds)), len(self.kinds)
        plan = plan_shares(len(self.frames), config, first_step, self.balance)
        joined = join_plan(plan, len(self.frames), config, len(self.kinds[0]), kinds, self.balance)
        # Whatever fits into batch_per_process: the loader wants to know how large a batch gets.
        loader = replace(self.config, batch=self.config.batch * (1 + kinds * self.config.unlabelled_batch))
        loaded = load_batches(JoinedSamples(self.frames, list(self.kinds)), joined, loader, device)
        step = first_step
        for share, whole, (images, labels) in zip(plan, joined, loaded, strict=True):
            yield share, (images, labels, whole.keys, step / self.steps_per_epoch)
            step += share.last

    def score_both(
        self, network: nn.Module, images: torch.Tensor, taught: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A network's logits on ``images``, (N + N * unlabelled_batch,), and the supervised losses of the first N,
        those of ``taught``, with their weights. One forward pass: a distributed network may have one before its
        gradients are summed."""
        with autocast(images.device, self.config.amp):
            logits = network(images).flatten().float()
        labels, weights = part_weights(taught)
        return logits, weights * sample_losses(logits[: len(labels)], labels, self.config, self.class_weights)

    def prepare_batch(self, batch: _Batch, n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """All images and what the first ``n`` teach, on the device."""
        images = to_device(batch[0], device).contiguous(memory_format=torch.channels_last)
        return images, to_device(batch[1][:n], device).float()


class CrossPseudo(SemiSupervised):
    """Two networks; the hard label that one gives a sample is what the other learns. The first becomes the member."""

    also_pretrained = ("other",)

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        other: nn.Module,
        frames: TrainingFrames,
        balance: CameraBalance | None,
        unlabelled: TrainingFrames,
    ) -> None:
        """other: of the model's architecture, with other random weights."""
        super().__init__(recipe, model, frames, balance, [unlabelled], {"other": other})
        if self.config.checkpoint_activations:
            checkpoint_activations(other, recipe.model.name)

    def losses(
        self, networks: Mapping[str, nn.Module], share: Share, batch: _Batch, device: torch.device
    ) -> torch.Tensor:
        n, keys, weight = len(share.keys), batch[2], ramp_up(batch[3], self.config)
        self.seed_draws(keys, device)
        images, labels = self.prepare_batch(batch, n, device)
        (one, first), (other, second) = (self.score_both(networks[name], images, labels) for name in ("model", "other"))
        cross = cross_losses(one, other)
        return first + second + weight * (cross[:n] + cross[n:].view(n, -1).mean(1))


def cross_losses(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cross pseudo supervision of each sample, from both networks' logits (N,): each one's cross-entropy with the
    other's decision, through which no gradient goes."""
    decided = [(logits.detach() > 0).float() for logits in (other, one)]
    first, second = (
        binary_cross_entropy_with_logits(logits, labels, reduction="none")
        for logits, labels in zip((one, other), decided, strict=True)
    )
    return first + second


class MeanTeacher(SemiSupervised):
    """The moving average's sure decisions on weakly changed views are the labels of strongly changed ones.

    What is sure is decided for each class by the teacher's own calibration, fitted at the start of every epoch on
    labelled videos that are kept from training: their groups have none in it.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        frames: TrainingFrames,
        balance: CameraBalance | None,
        views: tuple[TrainingFrames, TrainingFrames],
        calibration: TrainingFrames,
    ) -> None:
        """views: the unlabelled frames, strongly and weakly changed. calibration: the videos that are set apart."""
        super().__init__(recipe, model, frames, balance, list(views))
        self.calibration = calibration
        self.bounds = {"epoch": -1.0, "live": np.inf, "attack": -np.inf}  # in the teacher's logits, of which epoch
        videos = len({row.filename for row in calibration.rows})
        self.about += f", {videos} labelled videos set apart to calibrate the teacher"

    def losses(
        self, networks: Mapping[str, nn.Module], share: Share, batch: _Batch, device: torch.device
    ) -> torch.Tensor:
        n, keys, weight = len(share.keys), batch[2], ramp_up(batch[3], self.config)
        images, labels = self.prepare_batch(batch, n, device)
        strong = (
            n + n * self.config.unlabelled_batch
        )  # labelled and strongly changed images; the rest is weakly changed
        teacher = self.average
        if teacher is not None:
            self._calibrate(teacher, share.keys[0][0], device)
            taught = teach(self._score(teacher, images[strong:]), self.bounds["live"], self.bounds["attack"])
        self.seed_draws(keys[:strong], device)
        logits, losses = self.score_both(networks["model"], images[:strong], labels)
        if teacher is None:  # a range test of the learning rate
            return losses
        return losses + weight * pseudo_losses(logits[n:], *taught).view(n, -1).mean(1)

    @torch.no_grad()
    def _score(self, teacher: nn.Module, images: torch.Tensor) -> torch.Tensor:
        teacher.eval()
        with autocast(images.device, self.config.amp):
            return teacher(images).flatten().float()

    def _calibrate(self, teacher: nn.Module, epoch: int, device: torch.device) -> None:
        """The bounds of an epoch, unless they are known: a run that continues has them from last.pt. Every process
        comes here at the same share, and scores its part of the frames."""
        if self.bounds["epoch"] == epoch:
            return
        mine, most = range(distributed.rank(), len(self.calibration), distributed.size()), self.config.batch_per_process
        pieces: list[list[Key]] = [[(0, index) for index in mine[at : at + most]] for at in range(0, len(mine), most)]
        plan = [Share(len(keys), True, keys) for keys in pieces]
        scored: list[tuple[int, float]] = []
        with torch.random.fork_rng(devices=[]):  # the loader draws a seed
            for share, (images, _) in zip(plan, load_batches(self.calibration, plan, self.config, device), strict=True):
                images = to_device(images, device).contiguous(memory_format=torch.channels_last)
                indices = [key[1] for key in share.keys]
                scored += zip(indices, self._score(teacher, images).tolist(), strict=True)
        logits = np.array([score for _, score in sorted(distributed.gather(scored))])
        labels = np.array([int(row.label) for row in self.calibration.rows])
        live, attack = bound_classes(logits, labels, self.config.confidence)
        self.bounds = {"epoch": float(epoch), "live": live, "attack": attack}
        if distributed.rank() == 0:
            told = (
                f"live from {float(sigmoid(np.array(live))):.4f}, attack up to {float(sigmoid(np.array(attack))):.4f}"
            )
            print(f"  epoch {epoch + 1:2d}: the teacher is sure of {told if live < np.inf else 'no frame'}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"bounds": dict(self.bounds)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        self.bounds = dict(saved["bounds"])


def teach(logits: torch.Tensor, live: float, attack: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The pseudo-labels (1 live, 0 attack) of a teacher's logits (N,), and which of them count: those from ``live`` on,
    and those up to ``attack``. Both float."""
    return (logits >= live).float(), ((logits >= live) | (logits <= attack)).float()


def pseudo_losses(logits: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each sample with its pseudo-label, 0 where it does not count; all (N,)."""
    return counted * binary_cross_entropy_with_logits(logits, labels, reduction="none")


def bound_classes(logits: np.ndarray, labels: np.ndarray, confidence: float) -> tuple[float, float]:
    """(live, attack): the logit from which a teacher's frame is live, and up to which it is an attack, with a
    probability of ``confidence`` by Platt's calibration of its logits (N,) on their labels (1 live, 0 attack).

    (inf, -inf), so none at all, where its scores do not rise with the labels or a class has too few frames.
    """
    fitted = fit_calibration("platt", sigmoid(logits), labels, least=_FEWEST)
    if fitted.how == "none" or fitted.slope <= 0:
        return np.inf, -np.inf
    sure = float(logit(np.array(confidence)))
    live, attack = (sure - fitted.offset) / fitted.slope, (-sure - fitted.offset) / fitted.slope
    return live, attack


def set_apart(videos: pd.DataFrame, share: float, seed: int) -> set[str]:
    """Groups of labelled videos (group, label; indexed by file name) to calibrate a teacher on: drawn in turn until
    they have a ``share`` of the videos of each class, and never the last videos of a class. A UserError where there is
    no such part."""
    groups, total = sorted(set(videos.group)), videos.label.astype(int).value_counts()
    apart: set[str] = set()
    have = pd.Series(0, index=total.index)
    for place in np.random.default_rng([seed, 3]).permutation(len(groups)):
        adds = videos.label[videos.group == groups[place]].astype(int).value_counts().reindex(total.index, fill_value=0)
        if ((adds > 0) & (have < share * total)).any() and (have + adds < total).all():
            apart.add(groups[place])
            have += adds
    if (have == 0).any():
        raise UserError(
            f"train.calibration_share: no groups of videos to calibrate the teacher on can be kept from training: the "
            f"training side has {len(groups)} groups, and needs live videos and attacks on both sides of such a part; "
            "give it more groups, or learn in a way that needs no such part (train.task=cross_pseudo)"
        )
    return apart


# --- making them -----------------------------------------------------------------------------------


def make_cross_pseudo(recipe: Recipe, prepared: PreparedSet, rows: pd.DataFrame, frames: TrainingFrames) -> CrossPseudo:
    """For ``training.tasks.make_task``. The model has the first weights of supervised training."""
    model, other = (build(recipe.model, recipe.view.size) for _ in range(2))
    return CrossPseudo(recipe, model, other, frames, find_balance(recipe, prepared, rows), _make_unlabelled(recipe)[0])


def make_mean_teacher(recipe: Recipe, prepared: PreparedSet, rows: pd.DataFrame, frames: TrainingFrames) -> MeanTeacher:
    """For ``training.tasks.make_task``. The model has the first weights of supervised training; of ``frames`` those are
    learned from that do not calibrate the teacher."""
    model, train = build(recipe.model, recipe.view.size), recipe.train
    apart = find_apart(recipe, prepared, rows)
    kept = rows[~rows.filename.isin(apart)].reset_index(drop=True)
    labelled = TrainingFrames(prepared.folder, kept, frames.policy, train.seed)
    plain = Policy(Augment(), recipe.view)
    judged = rows[rows.filename.isin(apart) & ~is_soft(rows)].drop(columns=list(COLUMNS), errors="ignore")
    calibration = TrainingFrames(prepared.folder, judged, plain, train.seed)
    views = _make_unlabelled(recipe)
    return MeanTeacher(recipe, model, labelled, find_balance(recipe, prepared, kept), views, calibration)


def find_apart(recipe: Recipe, prepared: PreparedSet, rows: pd.DataFrame) -> set[str]:
    """File names of the videos among the training frames ``rows`` that nothing is learned from, but that calibrate a
    teacher; none where the recipe sets none apart. A UserError where they cannot be had, or have too few frames of a
    class."""
    if recipe.train.task != "mean_teacher" and not recipe.train.keep_apart:
        return set()
    videos = prepared.videos.loc[sorted(set(rows.filename))]
    groups = set_apart(videos[~is_soft(videos)], recipe.train.calibration_share, recipe.train.seed)
    apart = set(videos.index[videos.group.isin(groups)])
    hard = rows[rows.filename.isin(apart) & ~is_soft(rows)]
    attacks, live = ((hard.label.astype(int) == label).sum() for label in (0, 1))
    if min(attacks, live) < _FEWEST:
        raise UserError(
            f"train.calibration_share={recipe.train.calibration_share:g}: the {len(apart)} videos that are kept from "
            f"training to calibrate the teacher have {live} live frames and {attacks} of attacks; expected "
            f"{_FEWEST} of each: give it a larger share"
        )
    return apart


def _make_unlabelled(recipe: Recipe) -> tuple[TrainingFrames, TrainingFrames]:
    """The frames of ``train.unlabelled``, strongly changed (as the recipe changes labelled ones, but for what changes a
    label) and weakly (mirrored as often). Their draws are not those of the labelled frames."""
    unlabelled = load_unlabelled(recipe.train.unlabelled, recipe.frames)
    rows, seed = rows_of_view(unlabelled, recipe.view), recipe.train.seed
    strong = replace(recipe.augment, attack_rate=0.0, mixup=0.0, cutmix=0.0)
    weak = Augment(hflip=recipe.augment.hflip)
    one, other = (
        TrainingFrames(unlabelled.folder, rows, Policy(augment, recipe.view), derive_seed(seed, number))
        for number, augment in ((1, strong), (2, weak))
    )
    return one, other
