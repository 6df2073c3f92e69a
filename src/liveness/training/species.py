"""Attack species as an auxiliary task: a second head beside the model learns them, the score stays the live logit.

    species = list_species(recipe, prepared, rows)        what the head tells, and what the run records of it
    task = WithSpecies(recipe, model, frames, balance, species)

The head's classes are live and the attack species of the training side: those that the label table names, and the kinds
that the recipe simulates. An attack without a named species and a sample mixed of two teach the head nothing.

The head is no part of the member. Its moving average is written to weights/<set>/species/, where a teacher's is looked
for (training/teachers.py).
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from liveness.base.config import Recipe
from liveness.base.errors import UserError
from liveness.members.names import species_path
from liveness.members.weights import describe_member, save_member
from liveness.models.build import build
from liveness.models.device import to_device
from liveness.models.losses import part_weights, sample_losses
from liveness.models.taps import Tapped, measure_classifier, take_tapped, tap_classifier
from liveness.sets.dataset import PreparedSet
from liveness.training.augment import derive_seed
from liveness.training.samples import CameraBalance, Key, Share, TrainingFrames, find_balance
from liveness.training.schedule import ema_decay
from liveness.training.task import Supervised

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

LIVE = "live"  # class 0 of the head
_UNKNOWN = -1  # what the head is taught nothing about


@dataclass(frozen=True)
class Species:
    """What the head tells apart: the first class is live. ``of_rows``: the class of each row of the training side,
    or -1; ``simulated``: that of each simulated kind; ``digest``: of the table's words for them."""

    classes: list[str]
    of_rows: list[int]
    simulated: dict[str, int]
    digest: str

    def describe(self) -> dict[str, Any]:
        """For config.json: labels_video.csv, which names them, is not in the set's own digest."""
        return {"classes": self.classes, "sha256": self.digest}

    def find(self, frames: TrainingFrames, keys: list[Key]) -> list[int]:
        """The class of each sample as it is trained on, or -1."""
        return [self._find_one(frames, *key) for key in keys]

    def _find_one(self, frames: TrainingFrames, epoch: int, index: int) -> int:
        if frames.partner((epoch, index)) is not None:
            return _UNKNOWN
        row = index % len(frames)
        kind = frames.policy.find_simulated(int(frames.rows[row].label), derive_seed(frames.seed, epoch, index))
        return self.simulated[kind] if kind else self.of_rows[row]


def list_species(recipe: Recipe, prepared: PreparedSet, rows: pd.DataFrame) -> Species | None:
    """The species that the training side ``rows`` has; None where the recipe asks for none.

    A UserError with fewer than two: one alone is what the label tells already.
    """
    if not recipe.train.species_weight:
        return None
    videos = prepared.videos
    named = videos["species"].fillna("").str.strip() if "species" in videos else pd.Series("", index=videos.index)
    words = rows["filename"].map(named).where(rows["label"].astype(int) == 0, LIVE)
    contrary = rows["filename"][(words.str.casefold() == LIVE) & (rows["label"].astype(int) == 0)]
    if len(contrary):
        raise UserError(
            f"train.species_weight: {contrary.iloc[0]} of data/{prepared.name} is an attack of the species {LIVE}; "
            "name another in the label file, or none"
        )
    mix = recipe.augment.attack_mix
    kinds = [kind for kind in ("print", "replay") if getattr(mix, kind) and recipe.augment.attack_rate]
    # One spelling: a simulated print is what the table calls Print.
    spelt = {word.casefold(): word for word in [*kinds, *words] if word}
    classes = [LIVE, *(spelt[key] for key in sorted(spelt) if key != LIVE)]
    if len(classes) < 3:
        raise UserError(
            f"train.species_weight: the training side of data/{prepared.name} has "
            f"{len(classes) - 1} attack species ({', '.join(classes[1:]) or 'none is named'}); expected two at least: "
            "name them in the label file's column species, or simulate attacks (augment.attack_rate)"
        )
    place = {word.casefold(): number for number, word in enumerate(classes)}
    of_rows = [place.get(word.casefold(), _UNKNOWN) for word in words]
    lines = sorted({f"{name}\t{word}" for name, word in zip(rows["filename"], words, strict=True)})
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Species(classes, of_rows, {kind: place[kind] for kind in kinds}, digest)


class WithSpecies(Supervised):
    """Supervised, and beside the model a head for species; without ``species`` it has none."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        frames: TrainingFrames,
        balance: CameraBalance | None = None,
        species: Species | None = None,
    ) -> None:
        from liveness.models.head import HeadLinear

        tap_classifier(model)
        heads = {"species": HeadLinear(measure_classifier(model)[1], len(species.classes))} if species else {}
        super().__init__(recipe, model, frames, balance, heads)
        self.recipe, self.species = recipe, species
        self._steps = 0
        # The moving average of the head, as the loop has one of the model.
        self._average = self._begin_average(heads["species"]) if species and self.config.ema_half_life else None

    def _begin_average(self, head: nn.Module) -> "ModelEmaV3":
        from timm.utils import ModelEmaV3

        return ModelEmaV3(head, decay=ema_decay(self.config, self.steps_per_epoch), use_warmup=True)

    def stream(self, first_step: int, device: torch.device) -> Iterator[tuple[Share, Any]]:
        if self._average is not None:
            self._average.to(device)
        return super().stream(first_step, device)

    def losses(
        self,
        networks: Mapping[str, nn.Module],
        share: Share,
        batch: tuple[torch.Tensor, torch.Tensor],
        device: torch.device,
    ) -> torch.Tensor:
        images, taught, logits = self.put_through(networks, share, batch, device)
        labels, weights = part_weights(taught)
        inner = take_tapped(self.model)
        losses = self.taught_losses(images, labels, logits, inner)
        if self.species is None:
            return weights * losses
        told = networks["species"](inner.features)
        known = to_device(torch.tensor(self.species.find(self.frames, share.keys)), device)
        own = functional.cross_entropy(told, known, ignore_index=_UNKNOWN, reduction="none")
        return weights * (losses + self.config.species_weight * own + self.species_losses(labels, told, known))

    def taught_losses(
        self, images: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor, inner: Tapped
    ) -> torch.Tensor:
        """The losses of the live logit, (N,)."""
        return sample_losses(logits, labels, self.config, self.class_weights)

    def species_losses(self, labels: torch.Tensor, told: torch.Tensor, known: torch.Tensor) -> torch.Tensor | float:
        """What is added to the head's cross-entropy: (N,), from its logits (N, K) and the classes (N,), -1 unknown."""
        return 0.0

    def after_step(self) -> None:
        if self._average is not None:
            self._average.update(self.networks["species"], step=self._steps)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        if self._average is None:
            return super().state_dict()
        return super().state_dict() | {"species_average": self._average.state_dict(), "steps": self._steps}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        if self._average is not None:
            self._average.load_state_dict(saved["species_average"])
            self._steps = saved["steps"]

    def save_beside(self, weights: Path, described: dict[str, Any]) -> None:
        """Write the head beside the member, unless the member has other weights than those that it goes with."""
        if self.species is None or self.config.select != "last" or self.config.keep_init:
            return
        head = self._average.module if self._average is not None else self.networks["species"]
        member = describe_member(weights)
        about = {key: member[key] for key in ("recipe", "fold", "contract", "data")}
        about |= {"species": self.species.classes, "member_sha256": member["weights_sha256"]}
        save_member(species_path(weights), head.state_dict(), about)


def make_with_species(recipe: Recipe, prepared: PreparedSet, rows: pd.DataFrame, frames: TrainingFrames) -> WithSpecies:
    """The supervised task of a recipe with ``train.species_weight``."""
    model = build(recipe.model, recipe.view.size)
    return WithSpecies(
        recipe, model, frames, find_balance(recipe, prepared, rows), list_species(recipe, prepared, rows)
    )
