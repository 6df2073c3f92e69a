"""What a training loop is fed with: augmented samples of a prepared set, and the order in which they come.

Everything here is a function of (seed, epoch, sample), so that a resumed or distributed run sees what one
undisturbed process sees. Reads data/<set>/frames/; writes nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from liveness.frames.contract import cut
from liveness.sets.dataset import read_face, read_frame
from liveness.training.augment import Policy, seed_of


class TrainingFrames:
    """Samples for the loader. A key is (epoch, index): what it gives depends on nothing else."""

    def __init__(self, folder: Path, rows: pd.DataFrame, policy: Policy, seed: int) -> None:
        self.folder, self.policy, self.seed = folder, policy, seed
        self.rows = list(rows.itertuples(index=False))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, float]:
        epoch, index = key
        seed = seed_of(self.seed, epoch, index)
        sample = self._sample(index, seed)
        partner = self.partner(key)
        if partner is None:
            return sample
        return self.policy.mix(sample, self._sample(partner, seed_of(seed, partner)), seed)

    def partner(self, key: tuple[int, int]) -> int | None:
        """Index of the sample that is mixed into this one by mixup or cutmix; None where none is."""
        return self.policy.partner(len(self), seed_of(self.seed, *key))

    def _sample(self, index: int, seed: int) -> tuple[Any, float]:
        row, view = self.rows[index], self.policy.view
        scale = 1.0
        if view.kind == "face":
            low, high = np.log(view.train_scales)
            # A stream apart from the policy's: else the scale would tell which samples become attacks.
            scale = float(np.exp(np.random.default_rng([seed, 2]).uniform(low, high)))
        piece = cut(read_frame(self.folder, row), read_face(row), view, scale)
        tensor, label = self.policy(piece, int(row.label), seed)
        return tensor, float(label)


def batches(n: int, batch: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """The global batches of one epoch: a seeded permutation of 0..n-1, the rest left out.

    A set smaller than a batch is one batch.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n)
    batch = min(batch, n)
    for start in range(0, n - batch + 1, batch):
        yield order[start : start + batch].tolist()
