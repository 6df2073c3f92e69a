"""What training does to a view: the policies of configs/augment, drawn anew for each sample.

Everything random comes from one seed per (run, epoch, sample), so that a sample looks the same
whichever process or loader worker makes it, and a resumed run sees what an undisturbed one sees.

A view goes the way that a video goes: a simulated attack or a second camera, the crop, what editing
and sending on do to it, the contract's resize, then flips, RandAugment and erasing on the model's own
pixels. A sample for which nothing of this is drawn is resized just as in prediction.
"""

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from liveness.base.config import Augment, View
from liveness.frames.contract import resize, to_colour, to_tensor

# Changes of pixels are made at up to this many times the model's resolution (per side): their traces
# must pass the resize like those of a real video, and full-size frames would take too long.
FINE = 2.0

Step = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def derive_seed(*parts: int) -> int:
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
        # The CPU's generator alone: torch.manual_seed also records a stack trace for GPUs that nothing here draws on.
        torch.default_generator.manual_seed(seed)
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

        self.config, self.view = config, view
        size = view.size
        self.crops = tuple(config.crop_scale) != (1.0, 1.0)
        # A random crop has no aspect ratio worth keeping, and equal shapes make a batch.
        self.last_view = replace(view, resize="stretch") if self.crops else view
        self.steps = _steps(config, size)
        self.rand_augment = None
        if config.rand_augment:
            grey = tuple(round(value) for value in to_colour(view.mean, view).tolist())
            hint = {"translate_const": int(size * 0.45), "img_mean": grey}
            self.rand_augment = rand_augment_transform(config.rand_augment, hint)
            for op in self.rand_augment.ops:
                if op.name.startswith("Posterize"):
                    op.level_fn = _some_bits(op.level_fn)
        self.erase = None
        if config.erase:
            self.erase = RandomErasing(config.erase, mode="pixel", device="cpu")
        mix = {kind: weight for kind, weight in asdict(config.attack_mix).items() if weight}
        self.kinds, self.shares = list(mix), np.array(list(mix.values())) / (sum(mix.values()) or 1)

    def __reduce__(self) -> tuple:
        return Policy, (self.config, self.view)  # so that loader processes of any kind can have one

    def __call__(self, rgb: np.ndarray, label: int, seed: int) -> tuple[Any, int]:
        """uint8 RGB (any size) and its label -> float32 tensor (3 x size x size) and the label.

        The label changes only where a live sample becomes a simulated attack.
        """
        from PIL import Image

        config = self.config
        with seeded(seed) as rng:
            rgb, label = self._recapture(rgb, label, rng)
            if self.crops:
                rgb = self._crop(rgb, rng)
            drawn = [step for probability, step in self.steps if rng.random() < probability]
            if drawn:
                rgb = _fit(rgb, FINE * self.view.size)
            for step in drawn:
                rgb = step(rgb, rng)
            rgb = resize(np.ascontiguousarray(rgb), self.last_view)
            if rng.random() < config.hflip:
                rgb = rgb[:, ::-1]
            if rng.random() < config.vflip:
                rgb = rgb[::-1]
            if self.rand_augment is not None:
                rgb = np.asarray(self.rand_augment(Image.fromarray(np.ascontiguousarray(rgb))))
            tensor = to_tensor(rgb, self.view)
            tensor = self._erase_box(tensor)
        return tensor, label

    def _erase_box(self, tensor: Any) -> Any:
        """Noise in a random box. timm's has mean 0 and deviation 1, as images have by ImageNet's mean and std; where a
        full channel is not 1 it gets a picture's mean and deviation (a half and a quarter of full) instead."""
        import torch

        view = self.view
        if self.erase is None or view.white == 1:
            return self.erase(tensor) if self.erase else tensor
        noise = self.erase(torch.full_like(tensor, math.nan))  # which stays where nothing is erased
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (view.mean, view.std))
        return torch.where(noise.isnan(), tensor, ((0.5 + 0.25 * noise) * view.white - mean) / std)

    def partner(self, n: int, seed: int) -> int | None:
        """Which of ``n`` samples is mixed into the sample of ``seed``; None for most samples, or without mixing."""
        kind, rng = self._mixing(seed)
        return int(rng.integers(n)) if kind else None

    def mix(self, first: tuple[Any, Any], second: tuple[Any, Any], seed: int) -> tuple[Any, Any]:
        """Two samples (tensor, label) as one: mixup (the weighted mean) or cutmix (a box of the second in the
        first); the label is the mean weighted by the same shares. Tensors are 3 x H x W of one shape.

        Sources: Zhang et al. 2018 (mixup); Yun et al. 2019 (CutMix), with the label by the box's true area.
        """
        kind, rng = self._mixing(seed)
        tensor, (height, width) = first[0], first[0].shape[1:]
        rng.integers(2)  # the draw of the partner
        alpha = self.config.mixup_alpha if kind == "mixup" else self.config.cutmix_alpha
        share = float(rng.beta(alpha, alpha))
        share = max(share, 1 - share)  # the sample itself stays the larger part
        if kind == "mixup":
            tensor = tensor * share + second[0] * (1 - share)
        else:
            half, centre = np.sqrt(1 - share) / 2, rng.uniform(0, 1, 2)
            top, left = (round(max(0.0, c - half) * n) for c, n in zip(centre, (height, width), strict=True))
            bottom, right = (round(min(1.0, c + half) * n) for c, n in zip(centre, (height, width), strict=True))
            tensor = tensor.clone()
            tensor[:, top:bottom, left:right] = second[0][:, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (height * width)
        return tensor, first[1] * share + second[1] * (1 - share)

    def _mixing(self, seed: int) -> tuple[str, np.random.Generator]:
        rng = np.random.default_rng([seed, 1])  # its own stream: the sample itself must not change
        draw = rng.random()
        if draw < self.config.mixup:
            return "mixup", rng
        return "cutmix" if draw < self.config.mixup + self.config.cutmix else "", rng

    def _recapture(self, rgb: np.ndarray, label: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """A simulated attack (label 0) on a share of the live views. A share of the other views, live and
        attack, is shot again by the same kind of camera without sheet or screen, so that the camera's
        traces tell nothing of the label."""
        from liveness.simulation.attacks import simulate
        from liveness.simulation.camera import Camera
        from liveness.simulation.recompress import RECORDED_CRF

        attack = self._draw_attack(label, rng)
        if not attack and not (self.config.camera and rng.random() < self.config.camera):
            return rgb, label
        rgb = _fit(rgb, FINE * self.view.size)
        if attack:
            rgb, label = simulate(rgb, attack, rng), 0
        else:
            rgb = Camera.draw(rng).apply(rgb, rng)
        return _h264(rgb, int(rng.integers(*RECORDED_CRF, endpoint=True))), label

    def _draw_attack(self, label: int, rng: np.random.Generator) -> str:
        """The kind of attack that is simulated on a sample; "" for none."""
        if not (label == 1 and self.config.attack_rate and rng.random() < self.config.attack_rate):
            return ""
        return self.kinds[int(rng.choice(len(self.kinds), p=self.shares))]

    def find_simulated(self, label: int, seed: int) -> str:
        """The kind of attack that ``self(rgb, label, seed)`` simulates; "" for none."""
        return self._draw_attack(label, np.random.default_rng(seed))  # the policy's own stream: this is its first draw

    def _crop(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random part of the view: timm's random resized crop without the resizing, or the same in
        units of the view's own sides, so that a tall frame is cut to parts that are as tall."""
        import torch
        from timm.data.transforms import RandomResizedCropAndInterpolation

        (least, most), ratio = self.config.crop_scale, self.config.crop_ratio
        height, width = rgb.shape[:2]
        if not self.config.crop_relative:
            empty = torch.empty((1, height, width), device="meta")  # only its size is looked at
            top, left, height, width = RandomResizedCropAndInterpolation.get_params(empty, (least, most), tuple(ratio))
        else:
            share, shape = rng.uniform(least, most), np.exp(rng.uniform(*np.log(ratio)))
            rows, columns = min(1.0, np.sqrt(share / shape)), min(1.0, np.sqrt(share * shape))
            top, left = (int(rng.uniform(0, 1 - part) * n) for part, n in ((rows, height), (columns, width)))
            height, width = max(1, round(rows * height)), max(1, round(columns * width))
        return rgb[top : top + height, left : left + width]


def _side(rgb: np.ndarray) -> float:
    """Side of the square of equal area, pixels."""
    return float(np.sqrt(rgb.shape[0] * rgb.shape[1]))


def _fit(rgb: np.ndarray, side: float, interpolation: int | None = None) -> np.ndarray:
    """Shrunk to the area of a square of ``side`` pixels, the aspect ratio kept; never enlarged."""
    import cv2

    factor = side / _side(rgb)
    if factor >= 1:
        return rgb
    size = tuple(max(1, round(factor * n)) for n in (rgb.shape[1], rgb.shape[0]))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if interpolation is None else interpolation)


def _steps(config: Augment, size: int) -> list[tuple[float, Step]]:
    """Probability and function of every change of pixels, in the order in which they befall a video:
    the camera's (blur, noise), editing (rotation, colours), sending on (resolution, JPEG, H.264)."""
    steps = [
        (config.blur, lambda rgb, rng: _blur(rgb, rng.uniform(*config.blur_sigma) * _side(rgb) / size, rng)),
        (config.noise, lambda rgb, rng: _noise(rgb, 255 * rng.uniform(*config.noise_std), rng)),
        (0.5 if config.rotate else 0.0, lambda rgb, rng: _rotate(rgb, rng.uniform(-config.rotate, config.rotate))),
        (config.colour, _colour(config.colour_strength) if config.colour else _nothing),
        (config.gamma, lambda rgb, rng: _gamma(rgb, config.gamma_strength, rng)),
        (config.cast, lambda rgb, rng: _cast(rgb, config.cast_strength, rng)),
        (config.downscale, lambda rgb, rng: _downscale(rgb, size * rng.uniform(*config.downscale_range), rng)),
        (config.jpeg, lambda rgb, rng: _jpeg(rgb, int(rng.integers(*config.jpeg_quality, endpoint=True)))),
        (config.codec, lambda rgb, rng: _h264(rgb, int(rng.integers(*config.codec_crf, endpoint=True)))),
    ]
    return [(probability, step) for probability, step in steps if probability]


def _some_bits(level: Callable) -> Callable:
    """A drawn magnitude of 10 asks posterize for 0 bits: a black picture with old Pillow, an error with new."""
    return lambda magnitude, hint: (max(1, level(magnitude, hint)[0]),)


def _nothing(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rgb


def _colour(strength: float) -> Step:
    """Brightness, contrast, saturation and (a tenth as far) hue, in random order."""
    import albumentations as A

    span = (1 - strength, 1 + strength)
    jitter = A.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(-strength / 10, strength / 10), p=1)

    def change(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        jitter.set_random_seed(int(rng.integers(2**31)))
        return jitter(image=np.ascontiguousarray(rgb))["image"]

    return change


def _gamma(rgb: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    gamma = np.exp(rng.uniform(-strength, strength))
    return (255 * (np.arange(256) / 255) ** gamma + 0.5).astype(np.uint8)[rgb]


def _cast(rgb: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A wrong white balance or a tint: a gain for each channel, the brightness kept."""
    gains = np.exp(rng.uniform(-strength, strength, 3))
    gains /= gains @ (0.299, 0.587, 0.114)
    tables = np.clip(np.arange(256)[:, None] * gains + 0.5, 0, 255).astype(np.uint8)
    return np.dstack([tables[:, k][rgb[..., k]] for k in range(3)])


def _rotate(rgb: np.ndarray, degrees: float) -> np.ndarray:
    import cv2

    height, width = rgb.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1)
    return cv2.warpAffine(rgb, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _blur(rgb: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Out of focus or (as often) moved: a Gaussian, or a straight smear of the same deviation."""
    import cv2

    if rng.random() < 0.5:
        return cv2.GaussianBlur(rgb, (0, 0), max(sigma, 0.1))
    reach = max(1, int(np.ceil(1.8 * sigma)))  # a line of half-length h has the deviation h / sqrt(3)
    angle, y, x = rng.uniform(0, np.pi), *np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, off = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.clip(1 - np.abs(off), 0, 1) * np.clip(np.sqrt(3) * sigma + 0.5 - np.abs(along), 0, 1)
    return cv2.filter2D(rgb, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def _noise(rgb: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    from liveness.simulation.camera import draw_sensor_noise

    height, width = rgb.shape[:2]
    noisy = rgb + np.float32(std) * draw_sensor_noise(height, width, rng)
    return np.clip(noisy + np.float32(0.5), 0, 255).astype(np.uint8)


def _downscale(rgb: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Resolution lost for good, by a good or by a cheap scaler (with aliasing)."""
    import cv2

    return _fit(rgb, side, (cv2.INTER_AREA, cv2.INTER_LINEAR)[int(rng.integers(2))])


def _jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    from liveness.frames.video import jpeg_decode, jpeg_encode

    return jpeg_decode(jpeg_encode(np.ascontiguousarray(rgb), quality))


def _h264(rgb: np.ndarray, crf: int) -> np.ndarray:
    from liveness.simulation.recompress import reencode

    return reencode([rgb], crf)
