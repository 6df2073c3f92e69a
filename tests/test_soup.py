"""Soups of trained members, folds that know no persons, and views that are averaged, on a tiny prepared set."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import at_home, prepare_here, train_here
from safetensors.torch import load_file
from tiny_set import write_set

from liveness import evaluate, soup
from liveness.base import compose, config
from liveness.base.compose import load_ensemble, load_recipe
from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.evaluation.combine import video_scores
from liveness.evaluation.metrics import log_loss
from liveness.frames.contract import make_contract
from liveness.laboratory.soup import Ingredient, require_alike
from liveness.members.names import weights_path
from liveness.members.weights import describe_member, save_member
from liveness.prediction.engine import load_members, score_paths
from liveness.training.member import train_member

pytestmark = pytest.mark.full  # its fixtures train, which takes longer than all tests of figures

NARROW = [
    "model.kwargs.depths=[1,1,1,1]",
    "model.kwargs.dims=[8,16,16,16]",
    "model.pretrained=",
    "view.size=32",
    "train.epochs=2",
    "train.batch=6",
    "train.workers=0",
    "train.warmup_epochs=0",
    "augment=none",
]
# From one start to different ends: the third has learned the wrong way round.
SPICES = {"anise": ["train.lr=3e-3"], "basil": ["train.lr=6e-3", "model.drop_path=0"], "wrong": ["train.lr=3e-3"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """data/tiny (19 clips of 5 persons, 3 folds) and fold 0 of three recipes that share a start."""
    root = tmp_path_factory.mktemp("soup")
    write_set(root / "raw" / "tiny")
    prepare_here(root, "tiny", "folds.n=3")
    with at_home(root):
        for name, options in SPICES.items():
            recipe = load_recipe("convnext_xlarge", [*NARROW, *options])
            recipe.name = name
            folder = root / "runs" / "tiny" / f"{name}_fold0"
            folder.mkdir(parents=True)
            train_member(recipe, 0, "tiny", folder)
        path = weights_path("tiny", "wrong", 0)
        state, description = load_file(path), describe_member(path)
        for key in ("head.fc.weight", "head.fc.bias"):
            state[key] = -4 * state[key]
        description.pop("format")
        save_member(path, state, description)
    return root


@pytest.fixture
def root(trained, tmp_path, monkeypatch) -> Path:
    for part in ("raw", "data", "runs", "weights"):
        shutil.copytree(trained / part, tmp_path / part, symlinks=True)
    monkeypatch.setenv("LIVENESS_ROOT", str(tmp_path))
    return tmp_path


def make(*recipes: str, name: str = "garden", options: tuple = ()) -> None:
    assert soup.main([*recipes, "--fold", "0", "--name", name, "--data", "tiny", *options]) == 0


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(weights_path("tiny", name, 0))


def oof(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / "runs" / "tiny" / f"{name}_fold0" / "oof.csv", dtype={"video_id": str})


def test_a_uniform_soup_is_the_mean_and_equal_ingredients_give_equal_bytes(root):
    make("anise", "wrong", "basil")
    mean = weights("garden")
    parts = [weights(name) for name in SPICES]
    assert set(mean) == set(parts[0])
    for key, value in mean.items():
        expected = np.mean([part[key].numpy().astype(np.float64) for part in parts], axis=0)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-9)
        assert value.dtype == torch.float32
    path, table = weights_path("tiny", "garden", 0), root / "runs" / "tiny" / "garden_fold0" / "oof.csv"
    first = path.read_bytes(), table.read_bytes()
    make("basil", "anise", "wrong", "anise")
    assert (path.read_bytes(), table.read_bytes()) == first


def test_a_soup_of_one_has_that_members_weights_and_scores(root):
    make("anise")
    ours, theirs = weights("garden"), weights("anise")
    assert list(ours) == list(theirs)
    assert all(ours[key].numpy().tobytes() == theirs[key].numpy().tobytes() for key in ours)
    pd.testing.assert_frame_equal(oof(root, "garden"), oof(root, "anise"))


def test_a_greedy_soup_leaves_out_what_harms_and_is_judged_by_choices_that_did_not_see_the_video(root, capsys):
    make("anise", "basil", "wrong", options=("--greedy",))
    about = describe_member(weights_path("tiny", "garden", 0))["soup"]
    assert about["how"] == "greedy" and about["offered"] == ["anise", "basil", "wrong"]
    assert "wrong" not in about["mean_of"] and about["mean_of"]
    assert len(about["cross_fitted"]) >= 2
    text = capsys.readouterr().out
    assert f"the mean of {', '.join(about['mean_of'])}" in text and "held-out log loss" in text

    # Its scores are those of the soups that were chosen without the video, made here one by one.
    table = oof(root, "garden").set_index(["filename", "frame_id"])["score"]
    single = {}
    for choice in {tuple(choice) for choice in about["cross_fitted"]}:
        make(*choice, name="check")
        single[choice] = oof(root, "check").set_index(["filename", "frame_id"])["score"]
    assert all(any(np.isclose(table[row], scores[row], atol=1e-6) for scores in single.values()) for row in table.index)
    # What is chosen on the whole fold is no worse there than its best ingredient.
    make(*about["mean_of"], name="check")
    losses = {}
    for name in ("check", "anise", "basil"):
        videos = video_scores(oof(root, name), "mean")
        losses[name] = log_loss(videos.label.to_numpy(int), videos.score.to_numpy(float))
    assert losses["check"] <= min(losses["anise"], losses["basil"]) + 1e-9


def test_a_soup_is_a_member_for_the_evaluation_and_for_prediction(root, tmp_path, monkeypatch, capsys):
    make("anise", "basil")
    assert "garden fold 0 of tiny: the mean of anise, basil" in capsys.readouterr().out
    configs = tmp_path / "configs"
    shutil.copytree(compose.CONFIGS, configs)
    (configs / "ensemble" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /ensemble_schema\n  - _self_\nname: mine\ndata: tiny\n"
        "members:\n  - {recipe: garden, fold: 0, soup: true}\n"
    )
    monkeypatch.setattr(compose, "CONFIGS", configs)
    ensemble = load_ensemble("mine")
    assert evaluate.main(["mine"]) == 0
    paths = sorted((root / "data" / "tiny" / "videos").iterdir())
    scores = {row.fname: row.score for row in score_paths(paths, load_members(Ensemble("x", "tiny", ensemble.members)))}
    held_out = video_scores(oof(root, "garden"), "mean").set_index("filename")["score"]
    assert len(held_out) > 3
    for name, score in held_out.items():
        assert scores[name] == pytest.approx(score, abs=1e-6)
    # train.sh trains every member that is listed but the soup.
    monkeypatch.setattr(sys, "argv", ["members", "mine"])
    from liveness.members.__main__ import main as members

    capsys.readouterr()
    assert members() == 0 and capsys.readouterr().out == ""
    with pytest.raises(UserError, match="no recipe 'garden'"):
        compose.check_ensemble(Ensemble("x", "tiny", [EnsembleMember("garden", 0)]))


def changed(name: str, change) -> None:
    """Rewrite a member's file with its description (and state) changed."""
    path = weights_path("tiny", name, 0)
    state, description = load_file(path), describe_member(path)
    change(description, state)
    description.pop("format")
    save_member(path, state, description)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d, s: d["recipe"]["model"].update(name="convnext_nano"), r"other models \(name: convnext_nano, not"),
        (lambda d, s: d["contract"]["view"].update(size=48), r"other preprocessing \(view.size: 48, not 32\)"),
        (lambda d, s: d.update(data_hash="0"), "different states of the data"),
        (lambda d, s: s.pop("head.fc.bias"), "their files hold other tensors"),
    ],
)
def test_members_that_differ_in_more_than_their_training_are_refused(root, change, words):
    changed("basil", change)
    with pytest.raises(UserError, match=f"basil and anise cannot be one soup: .*{words}|{words}"):
        make("anise", "basil")
    assert not weights_path("tiny", "garden", 0).exists() and not (root / "runs" / "tiny" / "garden_fold0").exists()


def test_batch_norms_with_statistics_of_their_own_are_refused_and_frozen_ones_are_not():
    def ingredient(name: str, mean: float) -> Ingredient:
        recipe = load_recipe("efficientnet_lite0")
        contract = make_contract(recipe, config.Data(), "0")
        state = {"bn.weight": torch.ones(2), "bn.running_mean": torch.full((2,), mean)}
        return Ingredient(name, {"recipe": config.to_dict(recipe), "contract": contract}, state)

    require_alike([ingredient("a", 1.0), ingredient("b", 1.0)])
    with pytest.raises(UserError, match=r"b and a cannot .*other statistics \(bn.running_mean\).*freeze_norm=true"):
        require_alike([ingredient("a", 1.0), ingredient("b", 2.0)])


def test_missing_ingredients_and_names_that_are_taken_are_one_clear_line(root):
    with pytest.raises(UserError, match="train them: DATA=tiny bash scripts/train_member.sh thyme 0"):
        make("anise", "thyme")
    with pytest.raises(UserError, match="anise_fold1.safetensors: no such weights"):
        soup.main(["anise", "basil", "--fold", "1", "--name", "garden", "--data", "tiny"])
    with pytest.raises(UserError, match="a recipe in configs/recipe has this name"):
        make("anise", name="convnext_large")
    with pytest.raises(UserError, match="holds a training"):
        make("anise", name="basil")


def test_other_training_settings_and_older_files_make_no_difference_to_a_soup(root):
    for key in ("mirror", "crops"):  # as if made before these options existed
        changed("basil", lambda d, s, key=key: (d["contract"]["view"].pop(key), d["recipe"]["view"].pop(key)))
    changed("basil", lambda d, s: d["contract"]["view"].update(train_scales=[1.2, 2.0]))
    make("anise", "basil")
    assert weights_path("tiny", "garden", 0).is_file()


def test_data_that_changed_since_the_training_is_refused(root):
    path = root / "data" / "tiny" / "folds.csv"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="changed since anise was trained"):
        make("anise", "basil")


# Naive folds.


def test_naive_training_holds_out_the_naive_fold_and_lies_apart(root, monkeypatch):
    options = [*NARROW, "train.epochs=1"]
    command = ["-c", "convnext_xlarge", "--fold", "1", "--data", "tiny", "--naive", "-o", *options]
    assert train_here(root, *command) == 0
    folds = pd.read_csv(root / "data" / "tiny" / "folds.csv")
    table = pd.read_csv(root / "runs" / "tiny" / "convnext_xlarge_naive_fold1" / "oof.csv")
    assert set(table.filename) == set(folds.filename[folds.naive_fold == 1])
    assert set(table.filename) != set(folds.filename[folds.fold == 1]) and set(table.fold) == {1}
    settings = json.loads((root / "runs" / "tiny" / "convnext_xlarge_naive_fold1" / "config.json").read_text())
    assert settings["naive"] is True and settings["recipe"]["name"] == "convnext_xlarge_naive"
    assert (root / "weights" / "tiny" / "naive" / "convnext_xlarge_naive_fold1.safetensors").is_file()
    assert not list((root / "weights" / "tiny").glob("convnext*"))


def test_naive_folds_leave_the_holdout_aside(root):
    from liveness.sets.dataset import load_set

    path = root / "data" / "tiny" / "folds.csv"
    folds = pd.read_csv(path)
    folds.loc[folds.group == folds.group.iloc[0], "fold"] = -1
    folds.to_csv(path, index=False)
    naive = load_set("tiny", load_recipe("convnext_xlarge").frames, naive=True)
    aside = set(folds.filename[folds.fold == -1])
    assert set(naive.videos.index[naive.videos.fold == -1]) == aside
    assert set(naive.frames.filename[naive.frames.fold == -1]) == aside
    folds.drop(columns="naive_fold").to_csv(path, index=False)
    with pytest.raises(UserError, match="no column naive_fold"):
        load_set("tiny", load_recipe("convnext_xlarge").frames, naive=True)


# Mirrored views and central crops.


def test_prediction_gives_the_held_out_scores_of_a_member_with_mirror_and_crops(root, capsys):
    recipe = load_recipe("convnext_xlarge", [*NARROW, "view.mirror=true", "view.crops=[0.75]"])
    folder = root / "runs" / "tiny" / "convnext_xlarge_fold0"
    folder.mkdir(parents=True)
    train_member(recipe, 0, "tiny", folder)
    expected = pd.read_csv(folder / "oof.csv").groupby("filename").score.mean()
    loaded = load_members(Ensemble("mine", "tiny", [EnsembleMember("convnext_xlarge", 0)]))
    paths = [root / "raw" / "tiny" / "videos" / name for name in expected.index]
    scores = {row.fname: row.score for row in score_paths(paths, loaded)}
    assert len(scores) == len(expected) > 3
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-6)
    assert loaded.members[0].wanted.view == recipe.view

    # A run from before an option existed is the same run: it is finished, not another one.
    plain = load_recipe("convnext_xlarge", NARROW)
    with pytest.raises(UserError, match="holds another run: recipe.view.crops"):
        train_member(plain, 0, "tiny", folder)
    record = json.loads((folder / "config.json").read_text())
    del record["recipe"]["view"]["mirror"], record["recipe"]["view"]["crops"]
    (folder / "config.json").write_text(json.dumps(record))
    capsys.readouterr()
    train_member(plain, 0, "tiny", folder)
    assert "already trained" in capsys.readouterr().out
