"""Scores averaged over mirrored views and central crops (through training and prediction: test_soup.py)."""

import numpy as np
import pytest
import torch
from PIL import Image

from liveness.base.compose import load_recipe
from liveness.base.config import Data, FramePlan, View, to_dict
from liveness.base.errors import UserError
from liveness.frames.boxes import Face
from liveness.frames.contract import cut_views, make_contract, read_contract, stack, to_tensor
from liveness.frames.rules import NEWEST
from liveness.models.backend import TorchBackend
from liveness.models.build import build
from liveness.models.score import average_views

NARROW = ["model.kwargs.depths=[1,1,1,1]", "model.kwargs.dims=[8,16,16,16]", "model.pretrained=", "view.size=32"]


def picture(width: int = 48, height: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def scorer() -> TorchBackend:
    torch.manual_seed(3)
    recipe = load_recipe("convnext_xlarge", [*NARROW, "model.drop_path=0"])
    model = build(recipe.model, 32)
    for parameter in model.parameters():  # layer scale starts at 1e-6: every score would be the same
        torch.nn.init.normal_(parameter, std=0.2)
    return TorchBackend(model, torch.device("cpu"))


def score(scorer: TorchBackend, rgb: np.ndarray, view: View) -> float:
    views = cut_views(rgb, None, view)
    return float(average_views(scorer.score_views(stack([to_tensor(v, view) for v in views])), 1)[0])


def test_a_symmetric_picture_scores_the_same_with_mirror_and_its_mirror_image_like_any_picture(scorer):
    plain, mirrored = View(size=32), View(size=32, mirror=True)
    half = picture(24)
    symmetric = np.concatenate([half, half[:, ::-1]], axis=1)
    assert score(scorer, symmetric, mirrored) == pytest.approx(score(scorer, symmetric, plain), abs=1e-6)
    other = picture()
    turned = np.ascontiguousarray(other[:, ::-1])
    assert abs(score(scorer, other, plain) - score(scorer, turned, plain)) > 1e-4
    assert score(scorer, other, mirrored) == pytest.approx(score(scorer, turned, mirrored), abs=1e-6)
    mean = (score(scorer, other, plain) + score(scorer, turned, plain)) / 2
    assert score(scorer, other, mirrored) == pytest.approx(mean, abs=1e-6)


def test_crops_are_the_middle_of_the_whole_and_of_every_scale():
    rgb = picture(40, 60)
    view = View(size=20, crops=[0.5], mirror=True)
    found = cut_views(rgb, None, view)
    assert len(found) == 4 and all(piece.shape == (20, 20, 3) and piece.flags.c_contiguous for piece in found)
    middle = np.asarray(Image.fromarray(rgb[15:45, 10:30]).resize((20, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found[2], middle)
    np.testing.assert_array_equal(found[3], middle[:, ::-1])
    np.testing.assert_array_equal(found[1], found[0][:, ::-1])
    face = Face(10, 20, 12, 14, 0.9)
    view = View(kind="face", size=20, scales=[1.2, 1.6], crops=[0.5, 0.8], mirror=True)
    assert len(cut_views(rgb, face, view)) == 12
    assert cut_views(rgb, None, view) == []


def test_without_the_options_views_and_the_contract_of_an_older_member_are_what_they_were():
    rgb = picture()
    (found,) = cut_views(rgb, None, View(size=32))
    np.testing.assert_array_equal(found, np.asarray(Image.fromarray(rgb).resize((32, 32), Image.Resampling.BICUBIC)))
    contract = make_contract(load_recipe("convnext_large"), Data(), "0" * 64)
    assert contract["view"].pop("mirror") is False and contract["view"].pop("crops") == []
    plan, view, _ = read_contract(contract, "an older file")
    assert contract["version"] == NEWEST
    assert view.mirror is False and view.crops == [] and to_dict(plan) == to_dict(FramePlan())


@pytest.mark.parametrize("crops", ["[1.0]", "[0.5,0.5]", "[0.01]", "[-0.5]"])
def test_crops_that_are_none_are_refused(crops):
    with pytest.raises(UserError, match="view.crops=.*expected different shares of a side"):
        load_recipe("convnext_large", [f"view.crops={crops}"])
