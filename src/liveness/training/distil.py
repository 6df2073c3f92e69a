"""Distillation (``train.task=distil``): the model learns from the labels and from what trained members say.

A sample's loss is (1 - w) times the recipe's own plus w times the distance to the teachers, w = ``distil_weight``, plus
``distil_features`` times the distance of the features before the classifiers. The distance is

    kd     of the live logits, with a temperature (Hinton et al. 2015)
    dkd    of the classes, decoupled (Zhao et al. 2022): of the networks' own where they tell three
           (models/minifasnet.py), else of the species heads, which then comes beside kd of the live logits

Teachers are asked on the fly, in evaluation mode, about the augmented samples themselves: what they say of a sample
depends on nothing else, so that a resumed run and several processes learn the same.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch

from liveness.base.config import Recipe
from liveness.models.build import build
from liveness.models.distillation import choose_targets, distil_decoupled, distil_features, distil_logits
from liveness.models.losses import sample_losses
from liveness.models.taps import Tapped, measure_classifier
from liveness.sets.dataset import PreparedSet
from liveness.training.samples import Share, TrainingFrames, find_balance
from liveness.training.species import WithSpecies, list_species
from liveness.training.teachers import TeacherAnswer, Teachers, compares_classes


class Distilled(WithSpecies):
    """The recipe's loss and the distance to frozen teachers, which are no part of the state."""

    teachers: Teachers  # from ``begin`` on
    _answer: TeacherAnswer  # to the share under way

    def begin(self, fold: int, data: str) -> None:
        own = compares_classes(self.recipe, measure_classifier(self.model)[0])
        species = self.species if self.config.distil == "dkd" and not own else None
        self.teachers = Teachers(self.recipe, fold, data, own, len(species.classes) if species else 0)

    def stream(self, first_step: int, device: torch.device) -> Iterator[tuple[Share, Any]]:
        self.teachers.to(device)
        return super().stream(first_step, device)

    def taught_losses(
        self, images: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor, inner: Tapped
    ) -> torch.Tensor:
        config, answer = self.config, self.teachers(images)
        self._answer = answer
        if answer.classes is not None:
            live: Any = self.model.live_class  # of models that tell three classes (models/minifasnet.py)
            target = choose_targets(labels, answer.classes, live)
            apart = self._decouple(inner.classes, answer.classes, target)
        else:
            apart = distil_logits(logits, answer.live, config.distil_temperature)
        own = sample_losses(logits, labels, config, self.class_weights)
        losses = (1 - config.distil_weight) * own + config.distil_weight * apart
        if config.distil_features:
            total = sum(self.teachers.weights)
            for weight, features in zip(self.teachers.weights, answer.features, strict=True):
                losses = losses + config.distil_features * weight / total * distil_features(inner.features, features)
        return losses

    def species_losses(self, labels: torch.Tensor, told: torch.Tensor, known: torch.Tensor) -> torch.Tensor | float:
        if self._answer.species is None:
            return 0.0
        target = torch.where(known >= 0, known, choose_targets(labels, self._answer.species, 0))
        return self.config.distil_weight * self._decouple(told, self._answer.species, target)

    def _decouple(self, student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        config = self.config
        return distil_decoupled(
            student, teacher, target, config.distil_temperature, config.dkd_target, config.dkd_others
        )


def make_distilled(recipe: Recipe, prepared: PreparedSet, rows: pd.DataFrame, frames: TrainingFrames) -> Distilled:
    """The task of a recipe with a teacher, who comes with ``begin``."""
    model = build(recipe.model, recipe.view.size)
    return Distilled(recipe, model, frames, find_balance(recipe, prepared, rows), list_species(recipe, prepared, rows))
