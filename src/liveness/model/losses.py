"""The training loss on logits."""

from typing import Any


def smoothed_bce(logits: Any, labels: Any, smoothing: float) -> Any:
    """Binary cross-entropy per sample with label smoothing: the targets are smoothing/2 and
    1 - smoothing/2, which is what smoothing a two-class softmax does.

    logits and labels: float tensors of shape (N,). Returns (N,).
    """
    import torch

    targets = labels * (1 - smoothing) + smoothing / 2
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
