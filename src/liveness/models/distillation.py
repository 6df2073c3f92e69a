"""Losses between a network and its teacher, one for each sample. All logits are float32.

Sources: Hinton et al. 2015 (temperature, T^2), Zhao et al. 2022 (decoupled), Romero et al. 2015 (features).
"""

from collections.abc import Sequence

import torch
from torch.nn import functional


def distil_logits(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(p || q) of the probabilities of live p = sigmoid(teacher / T) and q = sigmoid(student / T): (N,), from
    logits of shape (N,). Its gradient is that of the binary cross-entropy with the teacher's soft label."""
    soft = torch.sigmoid(teacher / temperature)
    cross = functional.binary_cross_entropy_with_logits(student / temperature, soft, reduction="none")
    own = functional.binary_cross_entropy_with_logits(teacher / temperature, soft, reduction="none")
    return (cross - own) * temperature**2


def distil_decoupled(
    student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor, temperature: float, alpha: float, beta: float
) -> torch.Tensor:
    """T^2 (alpha TCKD + beta NCKD) of Zhao et al. 2022: (N,), from logits of shape (N, K) and classes of shape (N,).

    TCKD compares the probability of the target class with that of all others, NCKD the others among themselves.
    Classical distillation weighs NCKD by one minus the teacher's probability of the target. ValueError below three
    classes, where NCKD is identically zero.
    """
    classes = student.shape[1]
    if classes < 3:
        raise ValueError(f"{classes} classes; expected three at least")
    there = torch.arange(classes - 1, device=target.device)
    others = there + (there >= target[:, None])  # N x (K - 1): every class but the target
    terms = []
    for logits in (teacher / temperature, student / temperature):
        apart = logits.gather(1, others)
        binary = torch.stack([logits.gather(1, target[:, None])[:, 0], apart.logsumexp(1)], 1)
        terms.append((binary.log_softmax(1), apart.log_softmax(1)))
    (binary_t, apart_t), (binary_s, apart_s) = terms
    first, second = _divergence(binary_t, binary_s), _divergence(apart_t, apart_s)
    return (alpha * first + beta * second) * temperature**2


def _divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """KL of log probabilities, by row."""
    return (teacher.exp() * (teacher - student)).sum(1)


def distil_features(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of the features: (N,), from two of shape (N, C)."""
    return (student - teacher).square().mean(1)


def choose_targets(labels: torch.Tensor, teacher: torch.Tensor, live: int) -> torch.Tensor:
    """The class of each sample, (N,), from labels (N,) of which 1 is live and the teacher's logits (N, K).

    A label says only that a sample is an attack: of the other classes the one that the teacher finds most probable is
    meant. A mixed sample counts as what its larger part is.
    """
    attack = teacher.clone()
    attack[:, live] = -torch.inf
    return torch.where(labels >= 0.5, live, attack.argmax(1))


def blend_logits(logits: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Several teachers as one: the log of the weighted mean of their probabilities, (N, K), from logits (N, K).

    Probabilities are averaged, as an ensemble's scores are in prediction. One teacher's logits stay as they are.
    """
    if len(logits) == 1:
        return logits[0]
    total = sum(weights)
    shares = torch.tensor([weight / total for weight in weights], dtype=torch.float64).log().tolist()
    parts = [part.log_softmax(1) + share for part, share in zip(logits, shares, strict=True)]
    return torch.stack(parts).logsumexp(0)


def split_in_two(logits: torch.Tensor) -> torch.Tensor:
    """The log-odds of live (N,) as logits of two classes (N, 2), attack and live."""
    return torch.stack([torch.zeros_like(logits), logits], 1)
