"""The two small networks of minivision-ai's Silent-Face-Anti-Spoofing as timm models, 0.4 million parameters each.

    timm.create_model("minifasnet_v2", num_classes=1)       also minifasnet_v1se; importing this module registers both

Layers are named and shaped as in the published checkpoints, so those load strictly. The widths of the bottlenecks are
uneven because the authors pruned a larger network; they are read off the checkpoints. Input: 80 x 80 px, BGR, 0 to 255.

The classifier tells three classes, of which number 1 is live. The model returns one logit, the log-odds of that class,
whose sigmoid is the softmax probability of live; so the classifier belongs to the published weights, and does not
start anew where training starts from them.
"""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from liveness.models.head import HeadLinear

LIVE = 1  # of the three classes; the two others are attacks
# Hidden channels of the bottlenecks, in order: the one that enters the stage at half the resolution, then the others.
_WIDTHS = {
    "minifasnet_v2": ([103, 13, 13, 13, 13], [231, 231, 52, 26, 77, 26, 26], [308, 26, 26]),
    "minifasnet_v1se": ([103, 13, 26, 13, 52], [231, 154, 52, 26, 52, 26, 26], [308, 26, 26]),
}
_CHANNELS = (64, 128, 128)  # of the three stages

default_cfgs = generate_default_cfgs(
    {
        f"{name}.minivision": {
            "input_size": (3, 80, 80),
            "num_classes": 1,
            "first_conv": "conv1.conv",
            "classifier": (),
        }
        for name in _WIDTHS
    }
)


class _ConvNorm(nn.Sequential):
    """A convolution without bias, a batch norm, and a PReLU where ``active``."""

    def __init__(self, inner: int, outer: int, kernel: int = 1, stride: int = 1, pad: int = 0, groups: int = 1,
                 active: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outer)
        if active:
            self.prelu = nn.PReLU(outer)


class _SqueezeExcite(nn.Module):
    """Channels weighed by what the whole picture holds (Hu et al. 2018), with batch norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels // 4)
        self.fc2 = nn.Conv2d(channels // 4, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.relu(self.bn1(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(self.bn2(self.fc2(gate)))


class _Bottleneck(nn.Module):
    """1 x 1 to the hidden width, 3 x 3 depthwise, 1 x 1 back; added to its input where it keeps the resolution."""

    def __init__(self, inner: int, hidden: int, outer: int, stride: int = 1, squeeze: bool = False) -> None:
        super().__init__()
        self.conv = _ConvNorm(inner, hidden)
        self.conv_dw = _ConvNorm(hidden, hidden, 3, stride, 1, groups=hidden)
        self.project = _ConvNorm(hidden, outer, active=False)
        self.se_module = _SqueezeExcite(outer) if squeeze else nn.Identity()
        self.residual = stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.se_module(self.project(self.conv_dw(self.conv(x))))
        return x + made if self.residual else made


class _Stage(nn.Module):
    """The bottlenecks of one resolution; with ``squeeze`` the last of them weighs its channels."""

    def __init__(self, channels: int, widths: list[int], squeeze: bool) -> None:
        super().__init__()
        last = len(widths) - 1
        blocks = [_Bottleneck(channels, width, channels, 1, squeeze and i == last) for i, width in enumerate(widths)]
        self.model = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class MiniFASNet(nn.Module):
    """float32 images (N x 3 x 80 x 80) -> the log-odds of live (N x 1)."""

    class_layer, live_class = "prob", LIVE  # the layer that tells the classes, and which is live (models/taps.py)
    late_layers = ("conv_5", "conv_6_sep", "conv_6_dw", "linear", "bn", "prob")  # of ``forward_late`` and the head

    def __init__(
        self,
        widths: tuple[list[int], list[int], list[int]],
        squeeze: bool,
        num_classes: int = 1,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        """widths: hidden channels, stage by stage. drop_rate: of the 128 features before the classifier, in training.

        A ValueError for another number of logits than one, or of channels than three.
        """
        super().__init__()
        if (num_classes, in_chans) != (1, 3):
            raise ValueError(f"num_classes={num_classes}, in_chans={in_chans}; expected one logit of three channels")
        self.num_classes, self.num_features = num_classes, 128
        self.conv1 = _ConvNorm(3, 32, 3, 2, 1)
        self.conv2_dw = _ConvNorm(32, 32, 3, 1, 1, groups=32)
        (third, fourth, fifth), (c3, c4, c5) = widths, _CHANNELS
        self.conv_23 = _Bottleneck(32, third[0], c3, 2)
        self.conv_3 = _Stage(c3, third[1:], squeeze)
        self.conv_34 = _Bottleneck(c3, fourth[0], c4, 2)
        self.conv_4 = _Stage(c4, fourth[1:], squeeze)
        self.conv_45 = _Bottleneck(c4, fifth[0], c5, 2)
        self.conv_5 = _Stage(c5, fifth[1:], squeeze)
        self.conv_6_sep = _ConvNorm(c5, 512)
        self.conv_6_dw = _ConvNorm(512, 512, 5, groups=512, active=False)  # 5 x 5 -> 1 x 1
        self.linear = nn.Linear(512, 128, bias=False)
        self.bn = nn.BatchNorm1d(128)
        self.drop = nn.Dropout(drop_rate)
        self.prob = HeadLinear(128, 3, bias=False)  # in float32, whatever the rest computes in

    def forward_early(self, x: torch.Tensor) -> torch.Tensor:
        """float32 images -> what the last stage is given (N x 128 x 5 x 5): nine tenths of the operations."""
        x = self.conv2_dw(self.conv1(x))
        x = self.conv_3(self.conv_23(x))
        return self.conv_45(self.conv_4(self.conv_34(x)))

    def forward_late(self, x: torch.Tensor) -> torch.Tensor:
        """What ``forward_early`` gives -> what the classifier looks at (N x 128)."""
        x = self.conv_6_dw(self.conv_6_sep(self.conv_5(x)))
        return self.bn(self.linear(x.flatten(1)))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """float32 images -> what the classifier looks at (N x 128)."""
        return self.forward_late(self.forward_early(x))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """Features -> the logits of the three classes (N x 3)."""
        return self.prob(self.drop(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """ln p1 - ln(p0 + p2), from the logits themselves, so that sure scores keep their digits."""
        logits = self.forward_head(self.forward_features(x)).float()
        attack, live, other = logits.split(1, dim=1)
        return live - torch.logaddexp(attack, other)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's: which parameters are of one depth, for ``train.layer_decay``."""
        stages = [name for name, layer in self.named_children() if isinstance(layer, _Stage)]
        return {
            name: rf"^{name}\.model\.(\d+)\." if name in stages else rf"^{name}\." for name, _ in self.named_children()
        }


def _make(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    squeeze = name.endswith("se")
    return build_model_with_cfg(MiniFASNet, name, pretrained, widths=_WIDTHS[name], squeeze=squeeze, **kwargs)


@register_model
def minifasnet_v2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The network that the authors show a window of 2.7 times the face."""
    return _make("minifasnet_v2", pretrained, **kwargs)


@register_model
def minifasnet_v1se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The network that the authors show a window of 4 times the face; it has squeeze-and-excitation."""
    return _make("minifasnet_v1se", pretrained, **kwargs)
