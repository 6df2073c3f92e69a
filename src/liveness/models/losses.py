"""The training loss on logits."""

from typing import TYPE_CHECKING

from liveness.base.config import Train

if TYPE_CHECKING:
    import torch


def sample_losses(
    logits: "torch.Tensor", labels: "torch.Tensor", config: Train, weights: tuple[float, float] = (1.0, 1.0)
) -> "torch.Tensor":
    """The loss of each sample, shape (N,), from logits and labels of shape (N,), both float.

    Binary cross-entropy with label smoothing: the targets are s/2 and 1 - s/2, which is what
    smoothing a two-class softmax by s does. Labels between 0 and 1 (mixed samples) are meant as they
    stand. ``loss=focal`` multiplies by |target - p|^gamma, the focal loss (Lin et al. 2017) in its form
    for soft targets (Li et al. 2020). ``weights``: of attack and of live samples.
    """
    import torch

    targets = labels * (1 - config.label_smoothing) + config.label_smoothing / 2
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if config.loss == "focal":
        losses = losses * (targets - torch.sigmoid(logits)).abs() ** config.focal_gamma
    if weights != (1.0, 1.0):
        losses = losses * (labels * weights[1] + (1 - labels) * weights[0])
    return losses


def part_weights(taught: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor | float]":
    """Labels (N,) and weights (N,) of samples that come with weights (N, 2); those without weigh 1 (N,)."""
    return (taught, 1.0) if taught.ndim == 1 else (taught[:, 0], taught[:, 1])


def class_weights(live: float, attacks: float) -> tuple[float, float]:
    """Weights of an attack and of a live sample that give both classes half of the total: n / (2 n_c)."""
    both = live + attacks
    return both / (2 * attacks), both / (2 * live)
