"""The classifier in float32, whatever precision the rest of a network computes in.

Mixed precision would leave the logits in bfloat16, whose 8 bits allow 193 different scores between the logits 2 and 6:
thresholds there would be steps. The last layer costs nothing, so it computes outside of autocast and keeps its own
weights in float32 (``models.device.halve`` passes it over). Where all is float32 it changes no bit.
"""

import torch
from timm.layers import Linear
from torch import nn

from liveness.models.device import full_precision


class HeadLinear(nn.Linear):
    """A linear classifier of features in any precision: (N, ..., C) -> float32 (N, ..., 1)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with full_precision(features.device):
            return nn.functional.linear(features.float(), self.weight, self.bias)


class HeadConv(nn.Conv2d):
    """The same for families whose classifier is a convolution of 1 x 1."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with full_precision(features.device):
            return self._conv_forward(features.float(), self.weight, self.bias)


def keep_head_in_float32(model: nn.Module, heads: list[str]) -> None:
    """Make the named classifiers of a model compute in float32, in place. Names of weights stay."""
    for name in heads:
        head = model.get_submodule(name)
        # The class and not a wrapper around it: names of weights, copies and timm's own questions see a linear layer.
        if type(head) in (nn.Linear, Linear):
            head.__class__ = HeadLinear
        elif type(head) is nn.Conv2d:
            head.__class__ = HeadConv
