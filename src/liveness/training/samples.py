"""What a training loop is fed with: augmented samples of a prepared set, their order, and each process's part of it.

Everything here is a function of (seed, epoch, sample), so that a resumed or distributed run sees what one
undisturbed process sees. Reads data/<set>/frames/; writes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from liveness.base import distributed
from liveness.base.config import Recipe, Train
from liveness.base.errors import UserError
from liveness.base.names import few
from liveness.frames.contract import cut
from liveness.sets.dataset import PreparedSet, read_face, read_frame
from liveness.sets.decoded import DecodedFrames
from liveness.sets.soft_labels import SOFT, WEIGHT
from liveness.training import passing
from liveness.training.augment import Policy, derive_seed

# (epoch, index) of a sample; index + n, index + 2n, … are further draws of it in that epoch. A third number, where
# there is one, says which of several kinds of samples it is (training/unlabelled.py).
Key = tuple[int, ...]

# What a sample teaches: its label (1 live, 0 attack, between them where it is soft or mixed), or, where samples have
# weights, label and weight as float64 (2,).
Taught = float | np.ndarray


class Samples(Protocol):
    """What a loader is fed with: key -> float32 image (3 x H x W) and what it teaches."""

    policy: Policy
    weighted: bool  # whether what they teach is label and weight

    def __len__(self) -> int: ...
    def __getitem__(self, key: Key) -> "tuple[torch.Tensor, Taught]": ...


class TrainingFrames:
    """Samples for the loader. A key is (epoch, index): what it gives depends on nothing else."""

    def __init__(
        self, folder: Path, rows: pd.DataFrame, policy: Policy, seed: int, decoded: DecodedFrames | None = None
    ) -> None:
        """rows: of ``PreparedSet.frames``; those with a column ``folder`` are of that set, the others of ``folder``.
        decoded: the pixels of the frames in ``folder``, as far as they are kept; the samples are the same without."""
        self.folder, self.policy, self.seed, self.decoded = folder, policy, seed, decoded
        self.rows = list(rows.itertuples(index=False))
        self.weighted = SOFT in rows and WEIGHT in rows  # whether samples are label and weight

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, Taught]:
        epoch, index = key
        seed = derive_seed(self.seed, epoch, index)
        sample = self._sample(index % len(self), seed)
        partner = self.partner(key)
        if partner is None:
            return sample
        other = self._sample(partner, derive_seed(seed, partner))
        if not self.weighted:
            return self.policy.mix(sample, other, seed)
        # Of both losses, each with its weight, the mean by the shares: the cross-entropy is linear in the label.
        first, second = ((image, np.array([t[0] * t[1], t[1]])) for image, t in (sample, other))
        tensor, mixed = self.policy.mix(first, second, seed)
        return tensor, np.array([mixed[0] / mixed[1], mixed[1]])

    def partner(self, key: Key) -> int | None:
        """Index of the sample that is mixed into this one by mixup or cutmix; None where none is."""
        return self.policy.partner(len(self), derive_seed(self.seed, *key))

    def _sample(self, index: int, seed: int) -> tuple[torch.Tensor, Any]:
        row, view = self.rows[index], self.policy.view
        scale = 1.0
        if view.kind == "face":
            low, high = np.log(view.train_scales)
            # A stream apart from the policy's: else the scale would tell which samples become attacks.
            scale = float(np.exp(np.random.default_rng([seed, 2]).uniform(low, high)))
        folder = getattr(row, "folder", self.folder)
        frame = read_frame(folder, row, self.decoded if folder == self.folder else None)
        piece = cut(frame, read_face(row), view, scale)
        assert piece is not None  # a face view is trained on frames with a face
        tensor, label = self.policy(piece, int(row.label), seed)
        if not self.weighted:
            return tensor, float(label)
        soft = label == int(row.label) and not np.isnan(row.soft_label)  # a simulated attack is one for sure
        return tensor, np.array([row.soft_label if soft else label, row.weight], dtype=np.float64)

    def count_classes(self, attack_rate: float) -> tuple[float, float]:
        """How many samples of an epoch are live and attacks, as they are trained on: by their labels and weights,
        ``attack_rate`` of the live ones as simulated attacks."""
        if not self.weighted:
            live = (1 - attack_rate) * sum(int(row.label) == 1 for row in self.rows)
            return live, len(self) - live
        total = live = 0.0
        for row in self.rows:
            label = float(row.label) if np.isnan(row.soft_label) else float(row.soft_label)
            live += row.weight * label * (1 - attack_rate if int(row.label) == 1 else 1)
            total += row.weight
        return live, total - live


class CameraBalance:
    """Draws samples so that each camera, and of each camera each class, has an equal part of an epoch.

    The camera is drawn first, then the class, half and half (of a camera of one class always that one), then the
    sample: none of a camera and class comes again before all of them have come. Cameras are drawn in rounds of all of
    them, a camera's classes in pairs, so that the parts are equal within one, not on average.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        """rows: label and camera of each sample."""
        self.n = len(rows)
        labels, cameras = rows["label"].to_numpy(dtype=int), rows["camera"].to_numpy(dtype=str)
        self.cells = [
            [cell for label in (0, 1) if len(cell := np.flatnonzero((cameras == camera) & (labels == label)))]
            for camera in sorted(set(cameras))
        ]
        shares = [labels[np.concatenate(cells)].mean() if len(cells) == 1 else 0.5 for cells in self.cells]
        self.live = float(np.mean(shares))  # share of live samples among those drawn

    def draw(self, seed: int, epoch: int) -> np.ndarray:
        """The order of an epoch: as many keys' indices as there are samples, a function of (seed, epoch) alone."""
        rng, rounds = np.random.default_rng([seed, epoch, 1]), -(-self.n // len(self.cells))
        cameras = rng.permuted(np.tile(np.arange(len(self.cells)), (rounds, 1)), axis=1).ravel()[: self.n]
        order = np.empty(self.n, dtype=np.int64)
        for camera, cells in enumerate(self.cells):
            places = np.flatnonzero(cameras == camera)
            pairs = np.tile(np.arange(len(cells)), (-(-len(places) // len(cells)), 1))
            classes = rng.permuted(pairs, axis=1).ravel()[: len(places)]
            for number, cell in enumerate(cells):
                mine = places[classes == number]
                times = np.arange(-(-len(mine) // len(cell)))
                drawn = rng.permuted(np.tile(cell, (len(times), 1)), axis=1) + self.n * times[:, None]
                order[mine] = drawn.ravel()[: len(mine)]
        return order


def find_balance(recipe: Recipe, prepared: PreparedSet, rows: pd.DataFrame) -> CameraBalance | None:
    """How the recipe draws from the frames ``rows``; None: each once an epoch. A UserError without their cameras."""
    if recipe.train.balance == "none":
        return None
    where = f"data/{prepared.name}: train.balance={recipe.train.balance}"
    if "camera" not in rows:
        raise UserError(
            f"{where}: folds.csv has no column camera; with one in the label file deal the folds anew: "
            f"python -m liveness.make_folds {prepared.name} --force"
        )
    without = rows["filename"][rows["camera"] == ""].unique()
    if len(without):
        raise UserError(
            f"{where}: {len(without)} videos have no camera: {few(list(without), 3)}; name it in the label file's "
            "column camera, then prepare the set again"
        )
    return CameraBalance(rows)


def batches(n: int, batch: int, seed: int, epoch: int, balance: CameraBalance | None = None) -> Iterator[list[int]]:
    """The global batches of one epoch: a seeded permutation of 0..n-1, or what ``balance`` draws, the rest left out.

    A set smaller than a batch is one batch.
    """
    order = balance.draw(seed, epoch) if balance else np.random.default_rng([seed, epoch]).permutation(n)
    batch = min(batch, n)
    for start in range(0, n - batch + 1, batch):
        yield order[start : start + batch].tolist()


def count_steps(n: int, config: Train) -> int:
    """Optimiser steps per epoch of ``n`` samples."""
    return max(1, n // config.batch)


@dataclass
class Share:
    """What one process puts through at once: a part of its part of a global batch."""

    batch: int  # size of the global batch: how many losses all processes sum up in this step
    last: bool  # the step's last share: gradients are summed over the processes and applied
    keys: list[Key]


def require_share(n: int, config: Train, world: int) -> None:
    """A UserError where a process would get nothing of a batch of ``n`` samples."""
    if min(config.batch, n) < world:
        raise UserError(f"a global batch of {min(config.batch, n)} cannot be dealt to {world} processes; lower NGPU")


def plan_shares(n: int, config: Train, first_step: int, balance: CameraBalance | None = None) -> list[Share]:
    """This rank's shares of all steps from ``first_step`` to the end of training, in order."""
    rank, world = distributed.rank(), distributed.size()
    require_share(n, config, world)
    plan, step = [], 0
    for epoch in range(config.epochs):
        for batch in batches(n, config.batch, config.seed, epoch, balance):
            step += 1
            if step <= first_step:
                continue
            mine = batch[rank::world]
            pieces = [mine[at : at + config.batch_per_process] for at in range(0, len(mine), config.batch_per_process)]
            for piece in pieces:
                plan.append(Share(len(batch), piece is pieces[-1], [(epoch, index) for index in piece]))
    return plan


def load_batches(
    frames: Samples, plan: list[Share], config: Train, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(images, labels) of each share, in the plan's order: float32 N x 3 x H x W and float64 N, or N x 2 with weights,
    on the CPU.

    One loader for the whole plan: its workers prepare the next epoch while this one ends.
    """
    from torch.utils.data import DataLoader

    gpu = device.type == "cuda"
    each = passing.bytes_of_batch(min(config.batch_per_process, config.batch, len(frames)), frames.policy.view)
    workers, pipes = passing.choose_way(config.workers, each)
    loader: DataLoader = DataLoader(
        frames,  # type: ignore[arg-type]  # a map from keys, as the loader wants; torch's class adds nothing
        batch_sampler=[share.keys for share in plan],
        num_workers=workers,
        pin_memory=gpu and not pipes,
        collate_fn=passing.pack_batch if pipes else None,
        worker_init_fn=passing.quiet_worker,
    )
    made = iter(loader)  # the workers begin now
    return (passing.unpack_batch(batch, gpu) for batch in made) if pipes else made
