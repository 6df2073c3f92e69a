"""Augmentation: reproducible per sample, true to its name, quiet towards everybody else."""

import random

import numpy as np
import pytest
import torch

from liveness.config import Augment, View, load_recipe, names
from liveness.data.augment import Policy, seed_of, seeded
from liveness.data.contract import resize, to_tensor
from liveness.data.dataset import batches

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
        attacked, label = Policy(Augment(attack_rate=1.0, attack_kinds=[kind]), VIEW)(picture(160, 160), 1, 1)
        assert label == 0
        assert (attacked - plain).abs().mean() > 0.05


def test_seeds_differ_by_run_epoch_and_sample():
    assert len({seed_of(s, e, i) for s in range(5) for e in range(5) for i in range(40)}) == 1000


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (7, 7), (5, 16), (100, 1)])
def test_an_epoch_is_whole_batches_without_repeats(n, batch):
    rounds = list(batches(n, batch, seed=1, epoch=0))
    flat = [index for part in rounds for index in part]
    assert len(set(flat)) == len(flat) == (n // min(batch, n)) * min(batch, n)
    assert set(flat) <= set(range(n))
    assert n < 5 or rounds != list(batches(n, batch, seed=1, epoch=1)) or batch == n
