"""What a network's classifier is given and what it returns, beside the one logit that the network gives.

    tap_classifier(model)
    model(images)
    inner = take_tapped(model)       # inner.features N x C, inner.classes N x K

The tap is a hook on the classifier itself, so the network is called as ever (compiled, distributed), keeps its names
of weights and gives the same bits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Tapped:
    """Of a forward pass, in float32."""

    features: torch.Tensor  # N x C: what the classifier was given, its positions averaged where it has some
    classes: torch.Tensor  # N x K: the logits of its classes; K = 1 is the log-odds of live


def find_classifier(model: nn.Module) -> nn.Module:
    """The layer that tells the classes: of two, as a network distilled by its authors may have, the first."""
    name: Any = getattr(model, "class_layer", "") or model.pretrained_cfg["classifier"]  # type: ignore[index]
    return model.get_submodule(name if isinstance(name, str) else name[0])


def measure_classifier(model: nn.Module) -> tuple[int, int]:
    """(how many classes it tells, how many features it is given); works on the meta device."""
    weight: Any = find_classifier(model).weight
    return int(weight.shape[0]), int(weight.shape[1])


def tap_classifier(model: nn.Module) -> None:
    """Keep what the classifier is given and returns, in its attribute ``tapped``, at each forward pass."""
    find_classifier(model).register_forward_hook(_keep)


def _keep(layer: nn.Module, given: tuple[torch.Tensor, ...], returned: torch.Tensor) -> None:
    # In the layer and not in a list outside: a copy of the network (moving average, range test) keeps its own.
    layer.tapped = (given[0], returned)  # type: ignore[assignment]


def take_tapped(model: nn.Module) -> Tapped:
    """What ``tap_classifier`` kept of the last forward pass, with its graph; it is kept no longer."""
    layer: Any = find_classifier(model)
    features, classes = layer.tapped
    layer.tapped = None
    return Tapped(_flat(features), _flat(classes))


def _flat(values: torch.Tensor) -> torch.Tensor:
    """N x C x H x W or N x C -> float32 N x C."""
    return (values.mean((2, 3)) if values.ndim == 4 else values).float()
