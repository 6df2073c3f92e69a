"""timm models with one logit, the log-odds of live."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from liveness.base.config import Model, nearest
from liveness.base.errors import UserError, first_line

if TYPE_CHECKING:
    import torch


def load_timm() -> ModuleType:
    """timm, imported as if Weights & Biases were absent: it would import that too, for most of a second a process."""
    hidden = "wandb" not in sys.modules and "timm" not in sys.modules
    if hidden:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # importing it is an ImportError, which timm expects
    try:
        import timm
    finally:
        if hidden:
            del sys.modules["wandb"]
    return timm


def build(config: Model, size: int, fits: bool = False) -> "torch.nn.Module":
    """A timm model: float32 images (N x 3 x size x size) -> logits (N x 1), with random weights.

    fits: it is known to take that size, as it was trained on it.

    Errors: UserError for a name that timm does not know or arguments that it does not take.
    """
    timm = load_timm()
    from liveness.models import minifasnet  # noqa: F401  (timm knows its models from then on)
    from liveness.models.head import keep_head_in_float32

    if not timm.is_model(config.name):
        raise UserError(f"model.name={config.name!r}: timm has no such model{nearest(config.name, timm.list_models())}")
    kwargs = dict(config.kwargs)
    if config.drop_path:
        kwargs["drop_path_rate"] = config.drop_path
    try:
        model = timm.create_model(config.name, pretrained=False, num_classes=1, **kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"model {config.name} with {kwargs}: {first_line(error)}") from error
    expected = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if expected is not None and getattr(model.patch_embed, "strict_img_size", False) and max(expected) != size:
        raise UserError(
            f"model {config.name} takes {max(expected)} px, view.size is {size}; set model.kwargs.img_size={size}"
        )
    if not fits:
        _require_fit(config.name, kwargs, size)
    heads = _heads_of(model)
    _calm_heads(model, heads)
    keep_head_in_float32(model, heads)
    if config.freeze_norm:
        _freeze_norm(model)
    return model


def build_without_weights(config: Model, size: int, fits: bool = False) -> "torch.nn.Module | None":
    """The model by its shapes alone, on the meta device: random weights would take seconds to draw.

    None where it cannot be built so. Errors as those of ``build``.
    """
    import torch

    try:
        with torch.device("meta"):
            return build(config, size, fits)
    except (NotImplementedError, RuntimeError):
        return None


def _require_fit(name: str, kwargs: dict[str, Any], size: int) -> None:
    """A UserError where the model cannot take images of this size: tried by shape only, without memory."""
    import torch

    timm = load_timm()
    try:
        with torch.device("meta"), torch.no_grad():
            model = timm.create_model(name, pretrained=False, num_classes=1, **kwargs).eval()
            model(torch.empty(1, 3, size, size))
    except NotImplementedError:
        return  # an operation without a shape-only form; the first batch will tell
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"model {name} cannot take view.size={size}: {first_line(error)[:160]}") from error


def _heads_of(model: "torch.nn.Module") -> list[str]:
    """The names of a timm model's classifiers: one, or two where it was distilled."""
    about: Any = model.pretrained_cfg  # timm's
    heads = about["classifier"]
    return [heads] if isinstance(heads, str) else list(heads)


def _calm_heads(model: "torch.nn.Module", heads: list[str]) -> None:
    """Start the one-logit head near zero, as ConvNeXt's does: some families scale their first weights by
    the number of classes, which with a single one gives losses of 3 and a lost first epoch."""
    import torch

    for name in heads:
        head = model.get_submodule(name)
        if isinstance(head, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.trunc_normal_(head.weight, std=0.02)
            if head.bias is not None:
                torch.nn.init.zeros_(head.bias)


def _freeze_norm(model: "torch.nn.Module") -> None:
    """Keep every batch norm at its running statistics, in training mode too.

    Small batches spoil the statistics, and they are the one thing that couples samples of a
    batch, so freezing them also makes training independent of the number of processes.
    """
    for module in model.modules():
        hold_statistics(module)


def hold_statistics(module: "torch.nn.Module") -> None:
    """Keep a batch norm in evaluation mode for good; nothing for a module of another kind."""
    import torch

    if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
        module.eval()
        module.train = lambda mode=True, module=module: module  # type: ignore[method-assign,misc]


def count_parameters(model: "torch.nn.Module") -> int:
    """How many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())
