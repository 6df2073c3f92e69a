"""The learning rate of every optimiser step."""

import math

from liveness.base.config import Train


def learning_rate(config: Train, step: int, steps_per_epoch: int, lr: float) -> float:
    """Linear warm-up to ``lr`` over ``warmup_epochs``, then a half cosine down to ``min_lr``.

    ``step`` counts optimiser steps from 0; the last step of training has ``min_lr``. A warm-up that
    is as long as the training is cut to half of it.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    if step < warmup:
        return lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total - 1 - warmup)
    least = min(config.min_lr, lr)
    return least + (lr - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def ema_decay(config: Train, steps_per_epoch: int) -> float:
    """The decay per step whose half-life is ``ema_half_life`` epochs: 0.5^(1 / steps)."""
    return 0.5 ** (1 / (config.ema_half_life * steps_per_epoch))
