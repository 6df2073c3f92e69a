"""Augmentation: reproducible per sample, true to its name, quiet towards everybody else."""

import pickle
import random

import numpy as np
import pandas as pd
import pytest
import torch

from liveness.base.compose import load_recipe, names
from liveness.base.config import AttackMix, Augment, View
from liveness.base.errors import UserError
from liveness.frames.contract import resize, to_tensor
from liveness.frames.video import jpeg_encode
from liveness.simulation.recompress import reencode
from liveness.training.augment import Policy, derive_seed, seeded
from liveness.training.samples import TrainingFrames, batches

VIEW = View(size=48)


def picture(height=90, width=70):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 100 * np.sin(x / 5)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("name", names("augment"))
def test_a_policy_gives_the_same_tensor_for_the_same_seed_and_another_for_another(name):
    config = load_recipe("efficientnet_lite0", [f"augment={name}"]).augment
    once, again = Policy(config, VIEW), Policy(config, VIEW)
    again(picture(), 1, 5)  # what came before must not matter
    first, second, other = once(picture(), 1, 7), again(picture(), 1, 7), [once(picture(), 1, s) for s in range(8, 14)]
    assert first[0].shape == (3, 48, 48) and first[0].dtype == torch.float32
    assert torch.equal(first[0], second[0]) and first[1] == second[1]
    if name != "none":
        assert any(not torch.equal(first[0], tensor) for tensor, _ in other)


def test_no_augmentation_is_the_preprocessing_of_prediction():
    tensor, label = Policy(Augment(), VIEW)(picture(), 0, 3)
    assert label == 0
    assert torch.equal(tensor, to_tensor(resize(picture(), VIEW), VIEW))


def test_the_seed_of_a_sample_leaves_everybody_elses_random_numbers_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(99):
        random.random(), np.random.rand(), torch.rand(1)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted


def test_simulated_attacks_flip_live_to_attack_at_their_rate_and_spare_attacks():
    policy = Policy(Augment(attack_rate=0.5), VIEW)
    flipped = [policy(picture(160, 160), 1, seed)[1] for seed in range(60)]
    assert 15 <= sum(label == 0 for label in flipped) <= 45  # binomial(60, 0.5): 4 standard deviations
    assert all(policy(picture(160, 160), 0, seed)[1] == 0 for seed in range(3))


def test_a_simulated_attack_changes_the_picture():
    plain, _ = Policy(Augment(), VIEW)(picture(160, 160), 1, 1)
    for kind in ("print", "replay"):
        mix = AttackMix(**{"print": 0.0, "replay": 0.0, kind: 2.0})
        attacked, label = Policy(Augment(attack_rate=1.0, attack_mix=mix), VIEW)(picture(160, 160), 1, 1)
        assert label == 0
        assert (attacked - plain).abs().mean() > 0.05


def test_the_mix_of_attacks_is_kept(monkeypatch):
    drawn = []

    def note(rgb, kind, rng):
        drawn.append(kind)
        return rgb

    monkeypatch.setattr("liveness.simulation.attacks.simulate", note)
    policy = Policy(Augment(attack_rate=1.0, attack_mix=AttackMix(print=3.0, replay=1.0)), VIEW)
    for seed in range(120):
        policy(picture(), 1, seed)
    assert len(drawn) == 120 and 70 <= drawn.count("print") <= 109  # binomial(120, 0.75): 4 standard deviations


def test_the_second_camera_changes_views_of_both_classes_and_no_label():
    policy = Policy(Augment(camera=1.0), VIEW)
    plain, _ = Policy(Augment(), VIEW)(picture(160, 160), 1, 1)
    for label in (0, 1):
        tensor, same = policy(picture(160, 160), label, 1)
        assert same == label
        assert not torch.equal(tensor, plain)


CHANGES = {
    "blur": {"blur": 1.0, "blur_sigma": [1.0, 2.0]},
    "noise": {"noise": 1.0},
    "rotate": {"rotate": 30.0},
    "colour": {"colour": 1.0},
    "gamma": {"gamma": 1.0},
    "cast": {"cast": 1.0},
    "downscale": {"downscale": 1.0},
    "jpeg": {"jpeg": 1.0, "jpeg_quality": [10, 30]},
    "codec": {"codec": 1.0, "codec_crf": [30, 45]},
    "crop": {"crop_scale": [0.3, 0.6]},
    "relative crop": {"crop_scale": [0.3, 0.6], "crop_relative": True},
    "hflip": {"hflip": 1.0},
    "vflip": {"vflip": 1.0},
    "erase": {"erase": 1.0},
    "camera": {"camera": 1.0},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_option_works_and_keeps_the_picture_recognisable(change):
    view = View(size=64)
    plain, _ = Policy(Augment(), view)(picture(200, 150), 1, 0)
    policy = Policy(Augment(**change), view)
    draws = torch.stack([policy(picture(200, 150), 1, seed)[0] for seed in range(8)])
    assert not any(torch.equal(draw, plain) for draw in draws) or "rotate" in change  # rotates every second sample
    assert any(not torch.equal(draw, plain) for draw in draws)
    if not {"hflip", "vflip", "crop_scale"} & set(change):
        for draw in draws:
            assert np.corrcoef(draw.flatten(), plain.flatten())[0, 1] > 0.6


def test_an_erased_box_holds_noise_of_a_picture_whatever_a_full_channel_is():
    view = View(size=64, channels="bgr", white=255.0, mean=[0.0] * 3, std=[1.0] * 3)
    plain, _ = Policy(Augment(), view)(picture(64, 64), 1, 0)
    for seed in range(6):
        tensor, _ = Policy(Augment(erase=1.0), view)(picture(64, 64), 1, seed)
        changed = (tensor != plain).any(dim=0)
        box = tensor[:, changed]
        assert 0.01 < changed.float().mean() < 0.5
        assert abs(box.mean() - 127.5) < 15 and 50 < box.std() < 80


def test_what_was_not_drawn_leaves_the_preprocessing_of_prediction():
    view = View(size=32)
    policy = Policy(Augment(blur=0.3, jpeg=0.3, codec=0.2, noise=0.2), view)
    plain = to_tensor(resize(picture(300, 200), view), view)
    same = [torch.equal(policy(picture(300, 200), 1, seed)[0], plain) for seed in range(60)]
    assert 0.3 * 60 * 0.3 < sum(same) < 60  # expected: 0.7 * 0.7 * 0.8 * 0.8 = 31 %


@pytest.mark.parametrize("shape", [(16, 16), (9, 31), (400, 21), (57, 33)])
@pytest.mark.parametrize("name", ["light", "shift", "attacks", "shift_attacks", "zalo2022"])
def test_small_and_odd_views_are_no_error(name, shape):
    policy = Policy(load_recipe("efficientnet_lite0", [f"augment={name}"]).augment, VIEW)
    for seed in range(6):
        tensor, _ = policy(picture(*shape), 1, seed)
        assert tensor.shape == (3, 48, 48) and torch.isfinite(tensor).all()


def test_zalo2022_is_timms_own_training_transform():
    from PIL import Image
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import RandomResizedCropAndInterpolation

    view = View(size=48)
    config = Augment(crop_scale=[0.08, 1.0], rand_augment="rand-m9-mstd0.5-inc1")
    image = Image.fromarray(picture())
    hint = {"translate_const": 21, "img_mean": tuple(round(255 * v) for v in view.mean)}
    crop = RandomResizedCropAndInterpolation(48, scale=(0.08, 1.0), interpolation="bicubic")
    for seed in range(20):
        with seeded(seed):
            wanted = rand_augment_transform(config.rand_augment, hint)(crop(image))
        assert torch.equal(Policy(config, view)(picture(), 1, seed)[0], to_tensor(np.asarray(wanted), view))


def test_rand_augment_at_its_highest_magnitude_is_no_error_and_not_black():
    policy = Policy(Augment(rand_augment="rand-m10-inc1"), View(size=24))
    for seed in range(150):  # posterize, which would keep no bit, comes once in fifteen
        tensor, _ = policy(picture(24, 24), 1, seed)
        assert tensor.std() > 0


def test_a_relative_crop_of_a_tall_frame_is_tall():
    policy = Policy(Augment(crop_scale=[0.5, 0.9], crop_ratio=[0.9, 1.1], crop_relative=True), VIEW)
    for seed in range(30):
        height, width = policy._crop(picture(160, 90), np.random.default_rng(seed)).shape[:2]
        assert 0.5 * 0.97 < height * width / (160 * 90) < 0.9 * 1.03
        assert 0.9 * 0.95 < (width / 90) / (height / 160) < 1.1 * 1.05


def test_h264_keeps_size_and_colours_and_loses_more_at_a_higher_crf():
    frame = picture(121, 83)
    losses = []
    for crf in (18, 30, 42):
        coded = reencode([frame], crf)
        assert coded.shape == frame.shape and coded.dtype == np.uint8
        assert np.array_equal(coded, reencode([frame], crf))
        losses.append(np.abs(coded.astype(int) - frame).mean())
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("colour", [(200, 100, 50), (30, 180, 90), (255, 0, 0), (128, 128, 128), (5, 5, 5)])
def test_h264_uses_one_colour_space_both_ways(colour):
    flat = np.full((48, 64, 3), colour, np.uint8)
    assert np.abs(reencode([flat], 20).astype(int) - flat).max() <= 3


def test_a_policy_survives_pickling():
    policy = Policy(load_recipe("efficientnet_lite0", ["augment=shift_attacks"]).augment, VIEW)
    again = pickle.loads(pickle.dumps(policy))
    for seed in range(5):
        assert torch.equal(policy(picture(), 1, seed)[0], again(picture(), 1, seed)[0])


def test_mixing_takes_its_share_of_samples_and_any_partner():
    policy = Policy(Augment(mixup=0.2, cutmix=0.3), VIEW)
    partners = [policy.partner(50, seed) for seed in range(400)]
    mixed = [partner for partner in partners if partner is not None]
    assert 160 <= len(mixed) <= 240  # binomial(400, 0.5): 4 standard deviations
    assert set(mixed) <= set(range(50)) and len(set(mixed)) > 40
    assert partners == [policy.partner(50, seed) for seed in range(400)]
    assert all(Policy(Augment(), VIEW).partner(50, seed) is None for seed in range(50))


def test_mixup_is_the_weighted_mean_of_pixels_and_labels():
    policy = Policy(Augment(mixup=1.0), VIEW)
    for seed in range(10):
        tensor, label = policy.mix((torch.ones(3, 8, 8), 1.0), (torch.zeros(3, 8, 8), 0.0), seed)
        assert 0.5 <= label <= 1
        assert torch.allclose(tensor, torch.full((3, 8, 8), label))


def test_cutmix_weighs_the_label_by_the_area():
    policy = Policy(Augment(cutmix=1.0), VIEW)
    first, labels = torch.ones(3, 40, 30), []
    for seed in range(20):
        tensor, label = policy.mix((first, 1.0), (torch.zeros(3, 40, 30), 0.0), seed)
        assert set(tensor.unique().tolist()) <= {0.0, 1.0}
        assert label == pytest.approx(tensor[0].mean().item())
        labels.append(label)
    assert first.min() == 1  # the sample that came in is as it was
    assert min(labels) >= 0.49 and len(set(labels)) > 10


@pytest.fixture
def frames(tmp_path):
    """A folder with four stored frames, two live and two attack, and their rows."""
    (tmp_path / "frames").mkdir()
    rows = []
    for i in range(4):
        (tmp_path / "frames" / f"{i}-0.jpg").write_bytes(jpeg_encode(np.roll(picture(120, 100), 20 * i, axis=1), 95))
        box = {"face": 1, "confidence": 0.9, "x": 40.0, "y": 45.0, "w": 20.0, "h": 20.0}
        rows.append({"video_id": str(i), "frame_id": 0, "label": i % 2, **box})
    return tmp_path, pd.DataFrame(rows)


def test_the_face_scale_does_not_tell_which_samples_become_attacks(frames):
    notes = []

    class Noting(Policy):
        def __call__(self, rgb, label, seed):
            sample = super().__call__(rgb, label, seed)
            notes.append((len(rgb), sample[1]))
            return sample

    view = View(kind="face", size=24, train_scales=[1.0, 4.0])
    samples = TrainingFrames(*frames, Noting(Augment(attack_rate=0.4), view), 3)
    for epoch in range(150):
        samples[epoch, 1]
    side, label = np.log([n for n, _ in notes]), np.array([label for _, label in notes])
    assert 30 < (label == 0).sum() < 90
    gap = abs(side[label == 0].mean() - side[label == 1].mean())
    assert gap < 4 * side.std() * np.sqrt(1 / (label == 0).sum() + 1 / (label == 1).sum())


def test_a_mixed_sample_depends_on_its_seed_epoch_and_place_alone(frames):
    policy = Policy(Augment(mixup=0.5, cutmix=0.5, hflip=0.5), VIEW)
    samples, again = TrainingFrames(*frames, policy, 3), TrainingFrames(*frames, policy, 3)
    wanted = {(epoch, i): samples[epoch, i] for epoch in range(5) for i in range(4)}
    for key in reversed(wanted):
        tensor, label = again[key]
        assert torch.equal(tensor, wanted[key][0]) and label == wanted[key][1]
    labels = [label for _, label in wanted.values()]
    assert any(0 < label < 1 for label in labels) and all(0 <= label <= 1 for label in labels)


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("augment.codec=2", "codec"),
        ("augment.codec_crf=[40,20]", "codec_crf"),
        ("augment.crop_scale=[0,1]", "crop_scale"),
        ("augment.mixup_alpha=0", "mixup_alpha"),
        ("augment.attack_mix.mask=1", "attack_mix.mask"),
        ("augment.attack_mix.print=-1", "attack_mix"),
        ("augment.gamma_strength=-1", "gamma_strength"),
    ],
)
def test_a_wrong_option_is_named(override, word):
    with pytest.raises(UserError, match=word):
        load_recipe("efficientnet_lite0", [override])


def test_mixup_and_cutmix_together_are_at_most_every_sample():
    with pytest.raises(UserError, match="sum of at most 1"):
        load_recipe("efficientnet_lite0", ["augment.mixup=0.6", "augment.cutmix=0.6"])


def test_seeds_differ_by_run_epoch_and_sample():
    assert len({derive_seed(s, e, i) for s in range(5) for e in range(5) for i in range(40)}) == 1000


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (7, 7), (5, 16), (100, 1)])
def test_an_epoch_is_whole_batches_without_repeats(n, batch):
    rounds = list(batches(n, batch, seed=1, epoch=0))
    flat = [index for part in rounds for index in part]
    assert len(set(flat)) == len(flat) == (n // min(batch, n)) * min(batch, n)
    assert set(flat) <= set(range(n))
    assert n < 5 or rounds != list(batches(n, batch, seed=1, epoch=1)) or batch == n
