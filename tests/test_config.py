"""Configuration: what a recipe's user types, and what a typing mistake gets."""

import dataclasses
import shutil

import pytest

from liveness.base import compose, config
from liveness.base.errors import UserError
from liveness.models.build import build_without_weights, count_parameters


@pytest.mark.parametrize("name", compose.names("recipe"))
def test_every_recipe_composes_and_survives_its_own_record(name):
    recipe = compose.load_recipe(name)
    assert recipe.name == name
    assert compose.from_dict(config.Recipe, config.to_dict(recipe), "record") == recipe


def test_the_student_is_small_and_sees_what_its_teacher_sees():
    student = compose.load_recipe("student")
    assert student.view == compose.load_recipe(student.train.teacher).view
    model = build_without_weights(student.model, student.view.size, fits=True)
    assert model is not None and count_parameters(model) <= 2_000_000


@pytest.mark.parametrize("name", compose.names("ensemble"))
def test_every_ensemble_names_recipes_that_exist(name):
    ensemble = compose.load_ensemble(name)
    assert ensemble.name == name
    for member in ensemble.members:
        compose.load_recipe(member.recipe)


@pytest.mark.parametrize("name", compose.names("augment"))
def test_every_policy_is_usable_in_a_recipe(name):
    assert compose.load_recipe("efficientnet_lite0", [f"augment={name}"]).augment.name == name


def test_the_winners_ensemble_has_their_shape():
    members = compose.load_ensemble("zalo2022").members
    assert [(m.recipe, m.fold) for m in members] == [
        *(("convnext_xlarge", fold) for fold in range(5)),
        *(("convnext_large", fold) for fold in range(3)),
    ]
    assert len({m.weight for m in members}) == 1


def test_the_published_blend_is_the_winners():
    weights = {(m.recipe, m.fold): m.weight for m in compose.load_ensemble("zalo2022_published").members}
    large = {("published_large", k): 0.3 * w for k, w in enumerate((0.3, 0.3, 0.4))}
    xlarge = {("published_xlarge", k): 0.7 * w for k, w in enumerate((0.25, 0.3, 0.15, 0.15, 0.15))}
    assert weights == pytest.approx(large | xlarge)


def test_overrides_reach_every_level():
    recipe = compose.load_recipe(
        "convnext_xlarge", ["train.lr=5e-5", "augment=light", "model.kwargs.depths=[1,1,2,1]", "augment.jpeg=0.5"]
    )
    assert recipe.train.lr == 5e-5
    assert recipe.augment.name == "light" and recipe.augment.jpeg == 0.5
    assert recipe.model.kwargs == {"depths": [1, 1, 2, 1]}


def test_a_set_without_its_own_file_is_prepared_by_default_under_its_name():
    assert compose.load_data("my_videos") == dataclasses.replace(compose.load_data("default"), name="my_videos")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lrr=1", ["train.lrr", "did you mean train.lr?"]),
        ("epochs=3", ["epochs", "did you mean train.epochs?"]),
        ("augmnt=light", ["augmnt", "augment"]),
        ("augment=lihgt", ["lihgt", "light"]),
        ("train.lr=fast", ["train.lr", "fast", "auto"]),
        ("train.epochs=1.5", ["train.epochs", "1.5", "Integer"]),
        ("train.lr", ["key=value"]),
        ("+new.key=1", ["key=value"]),
        ("~train.lr=1", ["key=value"]),
        ("train.lr=-1", ["train.lr", "above 0"]),
        ("train.min_lr=low", ["train.min_lr", "low", "Float"]),
        ("train.epochs=0", ["train.epochs", "at least 1"]),
        ("view.kind=faces", ["view.kind", "frame, face"]),
        ("frames.plan=some", ["frames.plan", "positions"]),
        ("frames.positions=[1.2]", ["frames.positions", "0 to 1"]),
        ("augment.hflip=2", ["augment.hflip", "0 to 1"]),
        ("view.train_scales=[2.0,1.0]", ["view.train_scales", "low <= high"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(override, words):
    with pytest.raises(UserError) as error:
        compose.load_recipe("convnext_xlarge", [override])
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UserError, match="did you mean convnext_large"):
        compose.load_recipe("convnext_larg")


@pytest.mark.parametrize(
    ("text", "words"),
    [("members: [", "not YAML"), ("", "@package _global_"), ("name: x\n", "@package _global_")],
)
def test_a_broken_yaml_file_is_one_line(tmp_path, monkeypatch, text, words):
    shutil.copytree(compose.CONFIGS, tmp_path / "configs")
    (tmp_path / "configs/ensemble/mine.yaml").write_text(text)
    monkeypatch.setattr(compose, "CONFIGS", tmp_path / "configs")
    with pytest.raises(UserError, match=words) as error:
        compose.load_ensemble("mine")
    assert "\n" not in str(error.value)
