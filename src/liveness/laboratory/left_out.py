"""What a way of fine-tuning is worth on cameras that it never saw, with the first stages kept as they are.

    frames = gather_frames(["nuaa", "cameras"])              a row per frame with a face: domain, label, box
    samples = draw_samples(frames, recipe, draws=3)        what training makes of them, drawn once
    kept = run_first(samples.images, network, frozen=7)    what the frozen stages and the classifier say of them
    tail = train_tail(recipe, network, kept, …)            the rest of the network, trained by the package's own loop

With ``train.freeze`` the frozen stages say the same of the same sample for good, so they are asked once, and a
training takes seconds on a CPU. What is trained, and by which losses, is what ``train.sh`` trains; only that each video
has a fixed number of drawn samples instead of new ones in each epoch. benchmarks/generalist.py is its command.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from liveness.base.config import Recipe, View
from liveness.base.files import workspace
from liveness.frames.contract import cut_views, to_tensor
from liveness.laboratory.day_one import read_domains
from liveness.models.build import hold_statistics
from liveness.models.distillation import distil_logits
from liveness.models.losses import sample_losses
from liveness.models.minifasnet import LIVE
from liveness.sets.dataset import load_set, read_face, read_frame
from liveness.sets.settings import read_settings
from liveness.training import loop
from liveness.training.augment import Policy, derive_seed
from liveness.training.samples import CameraBalance, Share, TrainingFrames, count_steps, plan_shares
from liveness.training.start import FineTuning
from liveness.training.task import Task

STAGES = ("conv1", "conv2_dw", "conv_23", "conv_3", "conv_34", "conv_4", "conv_45", "conv_5", "conv_6_sep", "conv_6_dw")
_CLASSIFIER = ("linear", "bn", "prob")
_AT_ONCE = 64  # images per forward pass


# --- samples -----------------------------------------------------------------------------------------


def gather_frames(sets: list[str]) -> pd.DataFrame:
    """The frames with a face of the labelled videos of prepared sets: those of ``PreparedSet.frames``, with ``set``,
    ``domain`` (a camera, or the set) and ``crop``."""
    found = []
    for name in sets:
        plan = read_settings(workspace() / "data" / name).data.frames
        videos = read_domains(name)[["filename", "domain", "crop"]]
        frames = load_set(name, plan).frames.merge(videos, on="filename", how="inner", validate="m:1")
        found.append(frames[frames.face == 1].assign(set=name))
    return pd.concat(found, ignore_index=True)


def list_videos(frames: pd.DataFrame) -> pd.DataFrame:
    """set, filename, domain, label and crop of each video of ``gather_frames``, in the order of the frames."""
    videos = frames.drop_duplicates(["set", "filename"])[["set", "filename", "domain", "label", "crop"]]
    return videos.astype({"label": int}).reset_index(drop=True)


def draw_samples(frames: pd.DataFrame, recipe: Recipe, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of ``draws`` samples of each video: uint8 videos x draws x 3 x H x W in the order of
    ``list_videos``, and int videos x draws, where a simulated attack is one. Draw d takes a video's frame d modulo
    how many it has."""
    policy, size = Policy(recipe.augment, recipe.view), recipe.view.size
    videos = list_videos(frames)
    images = np.zeros((len(videos), draws, 3, size, size), np.uint8)
    labels = np.zeros((len(videos), draws), int)
    for at, ((name, _), rows) in enumerate(frames.groupby(["set", "filename"], sort=False)):
        drawn = TrainingFrames(workspace() / "data" / name, rows, policy, derive_seed(seed, at))
        for d in range(draws):
            tensor, label = drawn[(d, d % len(rows))]
            images[at, d], labels[at, d] = _restore_pixels(tensor, recipe.view), int(label)
    return images, labels


def _restore_pixels(tensor: torch.Tensor, view: View) -> np.ndarray:
    """A view's tensor as the pixels it was made of; for views without mean and std, as MiniFASNets have."""
    return (tensor.numpy() * (255 / view.white) + 0.5).astype(np.uint8)


def cut_scored(frames: pd.DataFrame, view: View) -> np.ndarray:
    """What prediction scores of each frame: uint8 frames x views x 3 x H x W."""
    found = []
    for row in frames.itertuples(index=False):
        views = cut_views(read_frame(workspace() / "data" / row.set, row), read_face(row), view)
        found.append([_restore_pixels(to_tensor(one, view), view) for one in views])
    return np.array(found)


# --- the network in two parts ------------------------------------------------------------------------


class Tail(nn.Module):
    """The stages of a MiniFASNet from number ``frozen`` on, under their own names: features -> log-odds of live."""

    def __init__(self, network: nn.Module, frozen: int) -> None:
        super().__init__()
        self.stages = STAGES[frozen:]
        for name in (*self.stages, *_CLASSIFIER):
            setattr(self, name, network.get_submodule(name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.stages:
            x = self.get_submodule(name)(x)
        x = x.flatten(1)
        for name in _CLASSIFIER:
            x = self.get_submodule(name)(x)
        logits = x.float()
        others = [k for k in range(logits.shape[1]) if k != LIVE]
        return logits[:, LIVE : LIVE + 1] - logits[:, others].logsumexp(1, keepdim=True)


@dataclass(frozen=True)
class Kept:
    """What the first stages say of N samples (float16, N x C x H x W), and the untouched network's log-odds (N,)."""

    features: torch.Tensor
    logits: torch.Tensor


@torch.inference_mode()
def run_first(images: np.ndarray, network: nn.Module, frozen: int) -> Kept:
    """``images``: uint8 N x 3 x H x W, as ``draw_samples`` and ``cut_scored`` give them, flattened."""
    tail, features, logits = Tail(network.eval(), frozen), [], []
    for at in range(0, len(images), _AT_ONCE):
        x = torch.from_numpy(images[at : at + _AT_ONCE].astype(np.float32))
        for name in STAGES[:frozen]:
            x = network.get_submodule(name)(x)
        features.append(x.half())
        logits.append(tail(x).flatten())
    return Kept(torch.cat(features), torch.cat(logits))


@torch.inference_mode()
def score_kept(tail: Tail, features: torch.Tensor) -> np.ndarray:
    """The probability of live of each sample, float64 (N,)."""
    parts = [tail.eval()(part.float()).flatten().double().sigmoid() for part in features.split(4 * _AT_ONCE)]
    return torch.cat(parts).numpy()


# --- training ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Samples to train on. ``kept``, ``labels``: of videos x draws; ``attacks``: of simulated attacks (videos x their
    draws), which take a live sample's place with the probability ``rate``; ``cameras``: of each video."""

    kept: Kept
    labels: np.ndarray
    cameras: np.ndarray
    draws: int
    attacks: Kept | None = None
    attack_draws: int = 0
    rate: float = 0.0
    balanced: bool = True


class TailTask(Task):
    """Labels, and the untouched network with the weight ``distil_weight``, teach the tail of a MiniFASNet."""

    def __init__(self, recipe: Recipe, tail: Tail, drawn: Drawn) -> None:
        super().__init__(recipe, tail)
        self.drawn = drawn
        rows = pd.DataFrame({"label": drawn.labels[:, 0], "camera": drawn.cameras})
        self.balance = CameraBalance(rows) if drawn.balanced else None
        self.tuning = FineTuning(recipe.train, tail)

    @property
    def steps_per_epoch(self) -> int:
        return count_steps(len(self.drawn.labels), self.config)

    def stream(self, first_step: int, device: torch.device) -> Iterator[tuple[Share, Any]]:
        for share in plan_shares(len(self.drawn.labels), self.config, first_step, self.balance):
            yield share, self._take(share.keys)

    def _take(self, keys: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, labels and the teacher's log-odds of the samples."""
        drawn, n = self.drawn, len(self.drawn.labels)
        features, labels, told = [], [], []
        for epoch, index in keys:
            rng = np.random.default_rng([self.config.seed, epoch, index])
            video, d = index % n, int(rng.integers(drawn.draws))
            label, kept, at = drawn.labels[video, d], drawn.kept, video * drawn.draws + d
            if label == 1 and drawn.attacks is not None and rng.random() < drawn.rate:
                label, kept = 0, drawn.attacks
                at = video * drawn.attack_draws + int(rng.integers(drawn.attack_draws))
            features.append(kept.features[at])
            told.append(kept.logits[at])
            labels.append(float(label))
        return torch.stack(features).float(), torch.tensor(labels), torch.stack(told)

    def losses(self, networks: Mapping[str, nn.Module], share: Share, batch: Any, device: torch.device) -> torch.Tensor:
        features, labels, told = batch
        logits = networks["model"](features).flatten()
        own, weight = sample_losses(logits, labels, self.config), self.config.distil_weight
        if self.config.task != "distil":
            return own
        return (1 - weight) * own + weight * distil_logits(logits, told, self.config.distil_temperature)


def train_tail(recipe: Recipe, network: nn.Module, frozen: int, drawn: Drawn) -> Tail:
    """The tail of ``network``, a copy of the published one that this changes, trained as the recipe says."""
    recipe = replace(recipe, train=replace(recipe.train, freeze="none"))  # what is frozen is not in the tail
    tail = Tail(network, frozen)
    if recipe.model.freeze_norm:
        for module in tail.modules():
            hold_statistics(module)
    state = loop.start_state(TailTask(recipe, tail, drawn), torch.device("cpu"), float(recipe.train.lr))
    loop.run_epochs(state, lambda row: None, lambda: False)
    return state.kept_model()  # type: ignore[return-value]  # a copy of the tail, averaged over the steps


def mix_states(first: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor], share: float) -> dict:
    """``share`` parts of the first weights and the rest trained ones (WiSE-FT)."""
    return {
        name: value.lerp(first[name], share) if value.is_floating_point() else value for name, value in trained.items()
    }
