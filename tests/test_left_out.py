"""Fine-tuning with frozen first stages on kept samples does what training the whole network does."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from liveness.base.compose import load_ensemble, load_recipe
from liveness.laboratory import left_out
from liveness.models.build import build
from liveness.training.augment import Policy
from liveness.training.start import count_frozen, list_stages


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return build(load_recipe("minifasnet_v2").model, 80).eval()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(5)
    bright = rng.integers(0, 2, 12)[:, None, None, None]
    return (rng.integers(0, 120, (12, 3, 80, 80)) + 120 * bright).astype(np.uint8), bright.ravel()


def drawn_of(images, labels, network, frozen=6, **kwargs):
    cameras = np.array(["a", "b"])[np.arange(len(labels)) % 2]
    return left_out.Drawn(left_out.run_first(images, network, frozen), labels[:, None], cameras, 1, **kwargs)


def recipe_with(**train):
    recipe = load_recipe("generalist_v2", ["train.epochs=3", "train.batch=4", "train.warmup_epochs=0"])
    return replace(recipe, train=replace(recipe.train, freeze="none", **train))


@pytest.mark.parametrize("frozen", [0, 4, 6])
def test_the_two_parts_of_a_network_say_what_the_whole_says(network, images, frozen):
    kept = left_out.run_first(images[0], network, frozen)
    with torch.no_grad():
        whole = network(torch.from_numpy(images[0]).float()).flatten()
    assert torch.allclose(kept.logits, whole, atol=1e-4)
    scores = left_out.score_kept(left_out.Tail(network, frozen), kept.features)
    assert np.allclose(scores, torch.sigmoid(whole).numpy(), atol=5e-3)  # features are kept in half precision


def test_a_tail_learns_its_labels_and_mixing_gives_back_the_first_weights(network, images):
    pictures, labels = images
    own = left_out.Tail(build(load_recipe("minifasnet_v2").model, 80), 6)
    own.load_state_dict(left_out.Tail(network, 6).state_dict())
    drawn = drawn_of(pictures, labels, network)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    recipe = recipe_with(task="supervised", lr=3e-3, epochs=8, ema_half_life=0.0)
    whole = build(recipe.model, 80)
    whole.load_state_dict(network.state_dict())
    trained = left_out.train_tail(recipe, whole, 6, drawn)
    scores = left_out.score_kept(trained, drawn.kept.features)
    assert scores[labels == 1].min() > scores[labels == 0].max()
    again = left_out.mix_states(before, trained.state_dict(), 1.0)
    assert all(torch.equal(value, before[name]) for name, value in again.items())
    half = left_out.mix_states(before, trained.state_dict(), 0.5)["prob.weight"]
    assert torch.allclose(half, (before["prob.weight"] + trained.state_dict()["prob.weight"]) / 2)


def test_simulated_attacks_take_the_place_of_live_samples_alone(network, images):
    pictures, labels = images
    plain = drawn_of(pictures, labels, network)
    drawn = replace(plain, attacks=plain.kept, attack_draws=1, rate=1.0)
    task = left_out.TailTask(recipe_with(), left_out.Tail(network, 6), drawn)
    taken = [told for (_, (_, told, _)), _ in zip(task.stream(0, torch.device("cpu")), range(3), strict=False)]
    assert not torch.cat(taken).any()
    task = left_out.TailTask(recipe_with(), left_out.Tail(network, 6), plain)
    share, (features, told, logits) = next(iter(task.stream(0, torch.device("cpu"))))
    at = [index % len(labels) for _, index in share.keys]
    assert told.tolist() == labels[at].tolist()
    assert torch.equal(features, plain.kept.features[at].float()) and torch.equal(logits, plain.kept.logits[at])


def test_cues_are_taken_from_both_classes_alike():
    recipe = load_recipe("generalist_v2")
    policy, face = Policy(recipe.augment, recipe.view), np.full((90, 90, 3), 120, np.uint8)
    face[20:60, 30:70] = (180, 140, 120)
    means = []
    for seed in range(40):
        live, attack = policy(face, 1, seed), policy(face, 0, seed)
        assert torch.equal(live[0], attack[0]) and (live[1], attack[1]) == (1, 0)
        means.append(float(live[0].mean()))
    assert np.ptp(means) > 60, "brightness has to vary by more than cameras differ"


def test_the_generalist_keeps_what_it_is_said_to_keep():
    for member in load_ensemble("generalist").members:
        recipe = load_recipe(member.recipe)
        first = load_recipe(member.recipe.replace("generalist", "minifasnet"))
        assert recipe.model == first.model and recipe.train.keep_init > 0
        assert recipe.view == replace(first.view, train_scales=recipe.view.train_scales)
        assert recipe.train.balance == "camera" and recipe.model.freeze_norm
        stages = list_stages(build(recipe.model, recipe.view.size))
        frozen = stages[: count_frozen(recipe.train.freeze, len(stages))]
        assert {name.split(".")[0] for part in frozen for name in part} == set(left_out.STAGES[:7])
        low, high = recipe.view.train_scales
        assert low < first.view.scales[0] < high


def test_videos_of_a_table_of_frames():
    frames = pd.DataFrame(
        {
            "set": ["a", "a", "b"], "filename": ["1", "1", "1"], "domain": ["a", "a", "c"], "label": [1.0, 1.0, 0.0],
            "crop": [False, False, True],
        }
    )  # fmt: skip
    assert left_out.list_videos(frames).to_dict("records") == [
        {"set": "a", "filename": "1", "domain": "a", "label": 1, "crop": False},
        {"set": "b", "filename": "1", "domain": "c", "label": 0, "crop": True},
    ]
