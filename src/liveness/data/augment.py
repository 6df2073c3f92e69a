"""What training does to a view: the policies of configs/augment, drawn anew for each sample.

Everything random comes from one seed per (run, epoch, sample), so that a sample looks the same
whichever process or loader worker makes it, and a resumed run sees what an undisturbed one sees.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from liveness.config import Augment, View
from liveness.data.contract import resize, to_tensor


def seed_of(*parts: int) -> int:
    """One 32-bit seed from several numbers, well mixed (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[np.random.Generator]:
    """Seed the global generators that timm and torchvision draw from; restore them afterwards."""
    import torch

    state, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield np.random.default_rng(seed)
        finally:
            random.setstate(state)
            np.random.set_state(legacy)


class Policy:
    """A policy of configs/augment, ready to be applied to many samples."""

    def __init__(self, config: Augment, view: View) -> None:
        from timm.data.auto_augment import rand_augment_transform
        from timm.data.random_erasing import RandomErasing
        from timm.data.transforms import RandomResizedCropAndInterpolation

        self.config, self.view = config, view
        size = view.size
        self.crop = None
        if tuple(config.crop_scale) != (1.0, 1.0):
            self.crop = RandomResizedCropAndInterpolation(
                size, scale=tuple(config.crop_scale), ratio=tuple(config.crop_ratio), interpolation=view.interpolation
            )
        self.rand_augment = None
        if config.rand_augment:
            grey = tuple(round(255 * value) for value in view.mean)
            hint = {"translate_const": int(size * 0.45), "img_mean": grey}
            self.rand_augment = rand_augment_transform(config.rand_augment, hint)
        self.erase = None
        if config.erase:
            self.erase = RandomErasing(config.erase, mode="pixel", device="cpu")
        self.pixels = _pixel_changes(config)

    def __call__(self, rgb: np.ndarray, label: int, seed: int) -> tuple[Any, int]:
        """uint8 RGB (any size) and its label -> float32 tensor (3 x size x size) and the label.

        The label changes only where a live sample becomes a simulated attack.
        """
        from PIL import Image

        config = self.config
        with seeded(seed) as rng:
            if label == 1 and config.attack_rate and rng.random() < config.attack_rate:
                rgb, label = self._attack(rgb, rng), 0
            if self.crop is not None:
                rgb = np.asarray(self.crop(Image.fromarray(rgb)))
            else:
                rgb = resize(rgb, self.view)
            if rng.random() < config.hflip:
                rgb = rgb[:, ::-1]
            if rng.random() < config.vflip:
                rgb = rgb[::-1]
            if self.rand_augment is not None:
                rgb = np.asarray(self.rand_augment(Image.fromarray(np.ascontiguousarray(rgb))))
            if self.pixels is not None:
                self.pixels.set_random_seed(seed)
                rgb = self.pixels(image=np.ascontiguousarray(rgb))["image"]
            tensor = to_tensor(rgb, self.view)
            if self.erase is not None:
                tensor = self.erase(tensor)
        return tensor, label

    def _attack(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A simulated attack on a live view, at no more than twice the model's resolution."""
        import cv2

        from liveness.media.attacks import simulate

        factor = 2 * self.view.size / max(rgb.shape[:2])
        if factor < 1:
            rgb = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        kind = self.config.attack_kinds[int(rng.integers(len(self.config.attack_kinds)))]
        return simulate(rgb, kind, rng)


def _pixel_changes(config: Augment) -> Any | None:
    """The albumentations part of a policy; None where it has none."""
    import albumentations as A
    import cv2

    strength = config.colour_strength
    steps = []
    if config.rotate:
        steps.append(A.Rotate(limit=(-config.rotate, config.rotate), border_mode=cv2.BORDER_REFLECT_101, p=0.5))
    if config.downscale:
        pair = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}
        steps.append(
            A.Downscale(scale_range=tuple(config.downscale_range), interpolation_pair=pair, p=config.downscale)
        )
    if config.blur:
        steps.append(A.OneOf([A.GaussianBlur(sigma_limit=(0.3, 1.5)), A.MotionBlur(blur_limit=(3, 7))], p=config.blur))
    if config.colour:
        steps.append(
            A.ColorJitter(
                brightness=(1 - strength, 1 + strength),
                contrast=(1 - strength, 1 + strength),
                saturation=(1 - strength, 1 + strength),
                hue=(-strength / 10, strength / 10),
                p=config.colour,
            )
        )
        steps.append(A.RandomGamma(gamma_limit=(100 - 100 * strength, 100 + 100 * strength), p=config.colour / 2))
    if config.noise:
        steps.append(A.GaussNoise(std_range=(0.01, 0.05), p=config.noise))
    if config.jpeg:
        low, high = config.jpeg_quality
        steps.append(A.ImageCompression(quality_range=(int(low), int(high)), p=config.jpeg))
    return A.Compose(steps) if steps else None
