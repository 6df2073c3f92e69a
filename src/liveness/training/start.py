"""Where a training starts, and what it keeps of its start: a trained member, frozen stages, the pull back to it.

    Start(recipe, fold, data).load(task, say)      the first weights: train.init, else model.pretrained
    task.tuning: FineTuning                        what of them learns when, and what pulls them back

A member that goes on from another must not be judged by videos which that one has seen: ``require_fold_safe`` compares
what the source was trained on, as its file says, with the fold that is held out here.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from liveness.base.compose import from_dict
from liveness.base.config import Recipe, Train, View
from liveness.base.errors import UserError
from liveness.base.files import natural_key, plain_name, show_path, workspace
from liveness.evaluation.combine import HOLDOUT
from liveness.members.names import parse_recipe_fold, weights_path
from liveness.members.weights import describe_member, load_member, load_pretrained, load_strictly
from liveness.models.build import hold_statistics
from liveness.sets.dataset import PreparedSet
from liveness.sets.extract import digest_sources, known_records
from liveness.sets.shared_videos import find_copies

if TYPE_CHECKING:
    from liveness.training.task import Task

_DIGITS = 16  # hexadecimal, of a digest: enough to tell a billion videos apart


# --- the first weights -----------------------------------------------------------------------------


def init_path(text: str, fold: int, data: str, key: str = "train.init") -> Path:
    """The file that ``key`` names: RECIPE:FOLD, or RECIPE for the same fold, of the same set or of SET/."""
    folder, _, rest = text.rpartition("/")
    folder = plain_name(folder, key) if folder else data
    recipe, number = parse_recipe_fold(rest, key) if ":" in rest else (plain_name(rest, key), fold)
    path = weights_path(folder, recipe, number)
    if not path.is_file():
        raise UserError(
            f"{key}={text}: {show_path(path)} is not there; train it first, or name another as RECIPE:FOLD or "
            "SET/RECIPE:FOLD"
        )
    return path


@dataclass(frozen=True)
class Start:
    """Where the training of a recipe's member for a fold of data/<data> starts."""

    recipe: Recipe
    fold: int
    data: str

    @property
    def is_kept(self) -> bool:
        """Whether the first weights, or what of them does not learn, count beyond the first step."""
        train = self.recipe.train
        return bool(train.l2_sp or train.keep_init or train.freeze != "none")

    def describe(self) -> dict[str, Any] | None:
        """The description of the member that training goes on from; None where there is none."""
        init = self.recipe.train.init
        return describe_member(init_path(init, self.fold, self.data)) if init else None

    def load(self, task: "Task", say: Callable[[str], None]) -> None:
        """Put a task's model at its start, in place, and tell the task what of it is kept."""
        model, train = task.model, self.recipe.train
        if train.init:
            path = init_path(train.init, self.fold, self.data)
            load_strictly(model, load_member(path)[0].state_dict(), show_path(path))
        else:
            load_pretrained(model, self.recipe.model, say=say)
        for name in task.also_pretrained:
            load_pretrained(task.networks[name], self.recipe.model, say=say)
        if self.is_kept:
            task.tuning = FineTuning(train, model)


def check_start(recipe: Recipe, fold: int, prepared: PreparedSet) -> dict[str, str] | None:
    """What a run goes on from, {"member", "weights_sha256"}; None for a start from pretrained or random weights.

    A UserError where the source is of another model or input, or may have seen the videos that this run holds out.
    """
    if not recipe.train.init:
        return None
    path = init_path(recipe.train.init, fold, prepared.name)
    source = describe_member(path)
    _require_alike(source, recipe, show_path(path))
    require_fold_safe(source, prepared, fold, show_path(path))
    return {"member": show_path(path), "weights_sha256": str(source.get("weights_sha256", ""))}


def _require_alike(source: dict[str, Any], recipe: Recipe, where: str) -> None:
    """A UserError unless a member is of the recipe's architecture and sees what the recipe's model sees."""
    there, here = source["recipe"]["model"], recipe.model
    if (there["name"], there.get("kwargs") or {}) != (here.name, here.kwargs):
        raise UserError(f"train.init: {where} is a {there['name']}, the recipe builds a {here.name}")
    view = from_dict(View, source["contract"]["view"], where)
    for part in ("kind", "size", "mean", "std", "channels", "white"):
        if getattr(view, part) != getattr(recipe.view, part):
            raise UserError(
                f"train.init: {where} was trained with view.{part}={getattr(view, part)}, the recipe has "
                f"{getattr(recipe.view, part)}; give the recipe the source's"
            )


# --- what a member was trained on -------------------------------------------------------------------


def list_provenance(
    prepared: PreparedSet, filenames: Iterable[str], source: dict[str, Any] | None = None
) -> dict[str, list[str]]:
    """What to write into a member that was trained on these videos: short digests of the videos' files and of their
    groups in the set; with those of the member that it went on from."""
    rows = prepared.videos.loc[sorted(set(filenames))]
    return digest_provenance(prepared.folder, dict(zip(rows.video_id, rows.group, strict=True)), source)


def digest_provenance(
    folder: Path, groups: dict[str, str], source: dict[str, Any] | None = None
) -> dict[str, list[str]]:
    """The same of videos of data/<set> by their ids, each with its group; the set need not have folds."""
    videos = {digest[:_DIGITS] for digest in digest_sources(folder, list(groups)).values()}
    own = {"videos": list(videos), "groups": list({_digest_group(folder.name, group) for group in groups.values()})}
    return merge_provenance([own, (source or {}).get("trained_on") or {}])


def merge_provenance(parts: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Of weights that are made of several members' weights."""
    return {key: sorted({digest for part in parts for digest in part.get(key, ())}) for key in ("videos", "groups")}


def _digest_group(data: str, group: str) -> str:
    return hashlib.sha256(f"{data}/{group}".encode()).hexdigest()[:_DIGITS]


def find_seen(source: dict[str, Any], folder: Path, video_ids: list[str]) -> list[str]:
    """Which videos of data/<set> a member was trained on, by the digests of their files in its description."""
    seen = set((source.get("trained_on") or {}).get("videos", ()))
    digests = digest_sources(folder, video_ids) if seen else {}
    return [video_id for video_id, digest in digests.items() if digest[:_DIGITS] in seen]


def require_fold_safe(source: dict[str, Any], prepared: PreparedSet, fold: int, where: str) -> None:
    """A UserError where a member has seen, or may have seen, a video or a group that fold ``fold`` or the holdout of
    the set holds out. A member that was trained elsewhere and does not say on what is taken at its word."""
    videos = prepared.videos
    held_out = videos[(videos.fold == fold) | (videos.fold == HOLDOUT)]
    seen = source.get("trained_on")
    if seen is None:
        here = source.get("data") == prepared.name
        if here and (source.get("data_hash"), source.get("fold")) != (prepared.digest, fold):
            raise UserError(
                f"{where} does not say which videos of {prepared.name} it was trained on; for fold {fold} only a "
                f"member that held out fold {fold} of this state of the set will do"
            )
        return
    groups = {_digest_group(prepared.name, group): name for name, group in held_out.group.items()}  # one name a group
    names = dict(zip(held_out.video_id, held_out.index, strict=True))
    common = {groups[key] for key in seen["groups"] if key in groups}
    common |= {names[video_id] for video_id in find_seen(source, prepared.folder, list(names))}
    if common:
        first = min(common, key=natural_key)
        raise UserError(
            f"{where} was trained on {first!r} or on its group ({len(common)} such videos), which fold {fold} "
            "holds out: its error would be a fiction; take a member that held out the same fold"
        )
    _require_no_copies(source, prepared, set(held_out.index), where, fold)


def _require_no_copies(
    source: dict[str, Any], prepared: PreparedSet, held_out: set[str], where: str, fold: int
) -> None:
    """A UserError where a member has seen a near-duplicate of a held-out video, as far as the other sets that it names
    are prepared here. Within one set near-duplicates share a group."""
    named = {str(source.get("data") or ""), str((source.get("unlabelled") or {}).get("set") or "")}
    digests = set(source["trained_on"]["videos"])
    for name in sorted(named - {"", prepared.name}):
        folder = workspace() / "data" / name
        known = digest_sources(folder, sorted(known_records(folder))) if (folder / ".records").is_dir() else {}
        seen = {video_id for video_id, digest in known.items() if digest[:_DIGITS] in digests}
        twins = find_copies(folder, prepared.folder, held_out) if seen else []
        for twin in (twin for twin in twins if Path(twin.filename).stem in seen):
            raise UserError(
                f"{where} was trained on {twin.filename} of {name}, which is {twin.other} of {prepared.name} or a "
                f"near-duplicate of it; fold {fold} holds that out: its error would be a fiction; take a member that "
                "has not seen it"
            )


# --- what of the start is kept ----------------------------------------------------------------------


class FineTuning:
    """What of a network learns when, and how it is held to its first weights. Nothing of it is a state: all follows
    from the first weights and the step."""

    def __init__(self, config: Train, model: nn.Module) -> None:
        """To be made when the model is at its start."""
        self.config, self.model = config, model
        self.stages = list_stages(model) if config.freeze != "none" else []
        self.frozen = count_frozen(config.freeze, len(self.stages))
        self.first = {}
        if config.l2_sp or config.keep_init:
            self.first = {name: value.detach().clone() for name, value in model.state_dict().items()}
        if self.frozen and not config.thaw_epochs:
            for name in self._names_frozen(0.0):
                model.get_parameter(name).requires_grad_(False)
        for module in self._modules_of(self.stages[: self.frozen]):
            hold_statistics(module)

    @property
    def works(self) -> bool:
        """Whether there is anything to do at a step."""
        return bool(self.config.l2_sp or (self.frozen and self.config.thaw_epochs))

    def stages_frozen(self, epoch: float) -> int:
        """How many stages, from the input, do not learn at a time in epochs: with ``thaw_epochs`` one less each."""
        thawed = int(epoch / self.config.thaw_epochs) if self.config.thaw_epochs else 0
        return max(0, self.frozen - thawed)

    def _names_frozen(self, epoch: float) -> list[str]:
        return [name for stage in self.stages[: self.stages_frozen(epoch)] for name in stage]

    def _modules_of(self, stages: list[list[str]]) -> list[nn.Module]:
        return [self.model.get_submodule(name) for name in {n.rpartition(".")[0] for part in stages for n in part}]

    def change_gradients(self, epoch: float) -> None:
        """Before a step, on gradients at their true scale: take away those of frozen stages, add L2-SP's.

        L2-SP (Li et al. 2018) adds l2_sp / 2 * |w - w0|^2 to the loss: the gradient l2_sp * (w - w0).
        """
        parameters = dict(self.model.named_parameters())
        for name in self._names_frozen(epoch):
            parameters[name].grad = None
        if self.config.l2_sp:
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    self.first[name] = self.first[name].to(parameter.device)  # once: a copy at each step would stall it
                    parameter.grad.add_(parameter.detach() - self.first[name], alpha=self.config.l2_sp)

    @torch.no_grad()
    def interpolate(self, model: nn.Module) -> None:
        """Move a finished model to ``keep_init`` times its first weights and the rest its own (WiSE-FT, Wortsman et al.
        2022), in place, with the statistics of its norms."""
        share = self.config.keep_init
        for name, value in model.state_dict().items():
            if share and value.is_floating_point():
                value.lerp_(self.first[name].to(value.device, value.dtype), share)


def list_stages(model: nn.Module) -> list[list[str]]:
    """The names of a model's parameters by stage, from the input to the classifier, as timm groups them."""
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):
        raise UserError(f"train.freeze: timm does not know the stages of {type(model).__name__}; expected none")
    matcher: Any = model.group_matcher(coarse=True)  # type: ignore[operator]  # timm's models have it
    return list(group_parameters(model, matcher).values())


def count_frozen(freeze: str, stages: int) -> int:
    """How many stages ``train.freeze`` holds: none, backbone (all but the last, the classifier's), or stages:N."""
    if freeze == "none":
        return 0
    if freeze == "backbone":
        return stages - 1
    number = int(freeze.removeprefix("stages:"))
    if number >= stages:
        raise UserError(
            f"train.freeze={freeze}: the model has {stages} stages with the classifier; at most {stages - 1}"
        )
    return number
