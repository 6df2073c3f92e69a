"""The day-one ensemble: the authors' windows and scores, its way from their repository to a folder's scores.

The parity tests need their checkpoints and what their code gave: LIVENESS_SHARED names a folder with
data/reference/minifasnet and weights/minifasnet; without it, the folder shared/ beside this checkout is looked at.
"""

import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from liveness import convert, download
from liveness.base.compose import load_ensemble, load_recipe
from liveness.base.config import Data
from liveness.base.errors import UserError
from liveness.base.files import CODE, sha256_of
from liveness.downloads import catalogue
from liveness.frames.boxes import Face, find_window
from liveness.frames.contract import cut_views, make_contract, read_contract, to_tensor
from liveness.members import published
from liveness.members.names import weights_path
from liveness.members.weights import load_member, load_pretrained
from liveness.models.backend import TorchBackend
from liveness.models.build import build
from liveness.prediction.folder import choose_ensemble
from liveness.prediction.ready import WeightsMissing
from liveness.sets.fold_table import read_folds

SHARED = Path(os.environ.get("LIVENESS_SHARED") or CODE.parent / "shared")
REFERENCE, WEIGHTS = SHARED / "data" / "reference" / "minifasnet", SHARED / "weights" / "minifasnet"
RECIPES = ("minifasnet_v2", "minifasnet_v1se")
recipe_of = functools.cache(load_recipe)


@pytest.mark.skipif(
    not (REFERENCE.is_dir() and WEIGHTS.is_dir()),
    reason="neither LIVENESS_SHARED nor ../shared has the authors' checkpoints and scores",
)
def test_windows_and_scores_are_those_of_the_authors_code():
    import cv2

    expected = json.loads((REFERENCE / "expected.json").read_text())
    recipes = {published.ORIGINALS[name].name: recipe_of(name) for name in RECIPES}
    assert {name: sha256_of(WEIGHTS / name) for name in recipes} == expected["digests"]
    scorers = {
        name: TorchBackend(published.load_checkpoint(WEIGHTS / name, recipe), torch.device("cpu"))
        for name, recipe in recipes.items()
    }
    assert len(expected["cases"]) == 12
    for case in expected["cases"]:
        rgb = cv2.cvtColor(cv2.imread(str(REFERENCE / case["image"])), cv2.COLOR_BGR2RGB)
        face, scores = Face(*case["box_xywh"], 1.0), []
        for name, figures in case["models"].items():
            view = recipes[name].view
            window = find_window(face, rgb.shape[1], rgb.shape[0], figures["scale"])
            assert window == tuple(figures["window_x0y0x1y1_inclusive"]) and view.scales == [figures["scale"]]
            tensor = torch.stack([to_tensor(piece, view) for piece in cut_views(rgb, face, view)])
            assert tensor.mean((0, 2, 3)).tolist() == pytest.approx(figures["patch_mean_bgr"], abs=1e-3)
            scores.append(float(scorers[name].score_views(tensor)[0]))
            assert scores[-1] == pytest.approx(figures["probabilities"][1], abs=1e-5)
        assert np.mean(scores) == pytest.approx(case["live"], abs=1e-5)


@pytest.mark.parametrize(
    ("box", "scale", "window"),
    [  # in a frame of 100 x 80 pixels; worked out by hand
        ((40, 30, 10, 20), 2.0, (35, 20, 55, 60)),  # 20 x 40 around (45, 40)
        ((0, 30, 10, 20), 2.0, (0, 20, 20, 60)),  # -5 to 15, pushed right by 5
        ((92, 60, 8, 10), 2.0, (83, 55, 99, 75)),  # 88 to 104, pushed left by 5
        ((92, -3, 8, 10), 2.0, (83, 0, 99, 20)),  # and -8 to 12, pushed down by 8
        ((30, 20, 20, 50), 4.0, (24, 0, 55, 79)),  # the height allows 79 / 50: 31.6 x 79 around (40, 45)
        ((-10, -10, 200, 160), 2.7, (0, 0, 99, 79)),  # a box larger than the frame
        ((50, 40, 0.4, 0.4), 1.0, (50, 40, 50, 40)),  # never less than a pixel
    ],
)
def test_a_window_is_pushed_back_into_the_frame_and_shrinks_where_it_ends(box, scale, window):
    assert find_window(Face(*box, 1.0), 100, 80, scale) == window


def test_a_view_is_the_window_in_bgr_from_0_to_255_resized_linearly():
    view = load_recipe("minifasnet_v2", ["view.scales=[1]", "view.mirror=false"]).view
    rgb = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    (piece,) = cut_views(rgb, Face(30, 50, 79, 79, 1.0), view)  # pixels 30 to 109: nothing to resize
    tensor = to_tensor(piece, view)
    assert tensor.dtype == torch.float32 and tensor.shape == (3, 80, 80)
    for channel, colour in enumerate((2, 1, 0)):
        assert np.array_equal(tensor[channel].numpy(), rgb[50:130, 30:110, colour].astype(np.float32))
    smooth = np.add.outer(np.arange(240), np.arange(320))[..., None] * [0.1, 0.2, 0.3] + 20
    smooth[::2] += 40  # finer than the view can show: a filter against aliasing would level it out
    large = smooth.astype(np.uint8)
    (piece,) = cut_views(large, Face(10, 20, 199, 199, 1.0), view)  # 200 px to 80
    part = torch.from_numpy(large[20:220, 10:210, ::-1].astype(np.float32).transpose(2, 0, 1).copy())[None]
    wanted = torch.nn.functional.interpolate(part, (80, 80), mode="bilinear", antialias=False)[0]
    assert (to_tensor(piece, view) - wanted).abs().max() <= 1
    levelled = torch.nn.functional.interpolate(part, (80, 80), mode="bilinear", antialias=True)[0]
    assert (levelled - wanted).abs().max() > 5


@pytest.mark.parametrize(("recipe", "tensors", "numbers"), [(RECIPES[0], 334, 444978), (RECIPES[1], 370, 444610)])
def test_the_networks_have_the_published_size_and_one_logit(recipe, tensors, numbers):
    """The sizes are those of the published checkpoints."""
    config = recipe_of(recipe)
    torch.manual_seed(0)
    model = build(config.model, config.view.size).eval()
    state = model.state_dict()
    assert (len(state), sum(value.numel() for value in state.values())) == (tensors, numbers)
    images = 255 * torch.rand(4, 3, 80, 80)
    with torch.inference_mode():
        logit, classes = model(images), model.forward_head(model.forward_features(images))
    assert logit.shape == (4, 1) and classes.shape == (4, 3) and logit.std() > 0
    assert torch.allclose(torch.sigmoid(logit.double()).flatten(), classes.double().softmax(1)[:, 1], atol=1e-6)
    with pytest.raises(UserError, match=r"cannot take view\.size=96"):
        build(config.model, 96)


def test_its_contract_says_all_and_others_say_what_they_said():
    recipe = recipe_of("minifasnet_v1se")
    contract = json.loads(json.dumps(make_contract(recipe, Data(), "0" * 64)))
    assert read_contract(contract, "here")[1] == recipe.view
    old = make_contract(load_recipe("efficientnet_lite0"), Data(), "0" * 64)["view"]
    assert not {"cut", "channels", "white"} & set(old)
    with pytest.raises(UserError, match=r"view\.cut.*square, box_inside"):
        load_recipe("minifasnet_v2", ["view.cut=circle"])


# ---- from the authors' repository to scores


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    """A folder like weights/ with the two files as they are published, but with random numbers in them."""
    folder = tmp_path / "mirror"
    (folder / "minifasnet").mkdir(parents=True)
    for name in RECIPES:
        torch.manual_seed(len(name))
        state = build(recipe_of(name).model, 80, fits=True).state_dict()
        path = folder / "minifasnet" / published.ORIGINALS[name].name
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    monkeypatch.setenv("LIVENESS_WEIGHTS_URL", folder.as_uri())
    return folder


@pytest.fixture
def digests_fit(mirror, monkeypatch) -> None:
    for name in RECIPES:
        path = mirror / "minifasnet" / published.ORIGINALS[name].name
        monkeypatch.setitem(published.ORIGINALS, name, published.Original(path.name, sha256_of(path)))
        monkeypatch.setitem(catalogue.PUBLISHED_DIGESTS, f"minifasnet/{path.name}", sha256_of(path))


def test_files_of_another_digest_are_refused_and_nothing_is_converted(workspace, mirror, capsys):
    with pytest.raises(UserError, match="^2 of 2 failed$"):
        download.main(["weights", "minifasnet"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2 and all("the published one is" in line for line in lines)
    folder = workspace / "weights" / "minifasnet"
    assert {path.suffix for path in folder.iterdir()} == {".rejected"}  # what came is kept, under no name that is read
    for path in (mirror / "minifasnet").iterdir():  # put there by hand
        shutil.copy(path, folder)
    with pytest.raises(UserError, match=r"MiniFASNetV2\.pth: its SHA-256 is .*nothing was converted"):
        convert.main(["minifasnet"])
    assert not [*folder.glob("*.safetensors"), *folder.glob("NOTICE*")]


def test_a_download_becomes_members_that_score_where_no_ensemble_is_named(workspace, mirror, digests_fit, capsys):
    assert choose_ensemble("", [], "").name == "zalo2022"
    download.main(["weights", "minifasnet"])
    convert.main(["minifasnet"])
    folder = workspace / "weights" / "minifasnet"
    notice = (folder / "NOTICE.txt").read_text()
    assert "Apache License" in notice and "Copyright 2020 Minivision" in notice
    images = 255 * torch.rand(2, 3, 80, 80)
    for name in RECIPES:
        original = torch.load(folder / published.ORIGINALS[name].name, weights_only=True)
        model, about = load_member(weights_path("minifasnet", name, 0))
        assert all(torch.equal(value, original[f"module.{key}"]) for key, value in model.state_dict().items())
        assert about["contract"]["view"]["channels"] == "bgr"
        started = build(recipe_of(name).model, 80, fits=True)
        load_pretrained(started, recipe_of(name).model)  # training goes on from all of it, classifier included
        with torch.inference_mode():
            assert torch.equal(started.eval()(images), model(images))
    with pytest.raises(UserError, match=r"held out no video; measure them on .* --on SET"):
        read_folds(workspace / "data" / "minifasnet")
    capsys.readouterr()
    convert.main(["minifasnet"])
    assert capsys.readouterr().out.count("already converted") == 2

    (workspace / "weights" / "demo").mkdir()  # of drawn faces
    (workspace / "weights" / "demo" / "demo_face_fold0.safetensors").touch()
    assert choose_ensemble("", [], "").name == "minifasnet"
    (line,) = capsys.readouterr().err.splitlines()
    assert "minifasnet is the only one there" in line
    assert choose_ensemble("", [], "train").name == "zalo2022"
    other = weights_path("train", "convnext_large", 0)  # a member of the usual ensemble: then that is what is meant
    other.parent.mkdir()
    other.touch()
    assert choose_ensemble("", [], "").name == "zalo2022"
    assert capsys.readouterr().err == ""


def test_where_no_weights_are_the_quickest_way_is_named(workspace):
    missing = [weights_path("train", member.recipe, member.fold) for member in load_ensemble("zalo2022").members]
    line = str(WeightsMissing(missing, "zalo2022", "train", "my_videos"))
    assert "bash download_weights.sh minifasnet, then ENSEMBLE=minifasnet bash predict.sh my_videos" in line
    line = str(WeightsMissing([weights_path("minifasnet", "minifasnet_v2", 0)], "minifasnet", "minifasnet"))
    assert line.endswith("to get them: bash download_weights.sh minifasnet") and "\n" not in line
