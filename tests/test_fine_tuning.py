"""Going on from a trained member: what is loaded, frozen and pulled back, and what must not be judged by it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hand_set import NARROW, write_prepared
from in_process import at_home, train_here
from safetensors.torch import load_file

from liveness import train
from liveness.base.compose import load_recipe
from liveness.base.config import Recipe, Train, to_dict
from liveness.base.errors import UserError
from liveness.members.weights import describe_member
from liveness.models.build import build
from liveness.sets import extract
from liveness.training import loop
from liveness.training.start import FineTuning, list_stages

SAME = "model.name=convnext_large"  # whatever the recipe: another name for a run of the same architecture


def member(root: Path, data: str = "tiny", recipe: str = "convnext_large", fold: int = 0) -> Path:
    return root / "weights" / data / f"{recipe}_fold{fold}.safetensors"


def fit(root: Path, recipe: str = "convnext_large", fold: int = 0, data: str = "tiny", *override: str) -> Path:
    assert train_here(root, "-c", recipe, "--fold", str(fold), "--data", data, "-o", *NARROW, SAME, *override) == 0
    return member(root, data, recipe, fold)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A workspace with data/tiny and a member of each of its folds 0 and 1."""
    root = tmp_path_factory.mktemp("fine")
    folder = write_prepared(root)
    (folder / ".records").mkdir()
    for number in range(12):
        record = {"sha256": f"{number + 1:0<64x}"}
        text = json.dumps({**record, "seal": extract._digest(record)})
        (folder / ".records" / f"{number}.json").write_text(text)
    fit(root, fold=0)
    fit(root, fold=1)
    return root


def test_a_member_says_what_it_was_trained_on(trained):
    told = describe_member(member(trained))["trained_on"]
    assert told["videos"] == sorted(f"{n + 1:0<64x}"[:16] for n in range(12) if n // 2 % 3 != 0)
    assert len(told["groups"]) == 2


def test_it_goes_on_from_the_weights_of_the_source(trained):
    path = fit(trained, "convnext_xlarge", 0, "tiny", "train.init=convnext_large", "train.lr=1e-12", "train.min_lr=0")
    first, then = load_file(member(trained)), load_file(path)
    assert all(torch.allclose(first[name], then[name], atol=1e-7) for name in first)
    source = json.loads((trained / "runs" / "tiny" / "convnext_xlarge_fold0" / "config.json").read_text())["init"]
    assert source["member"] == "weights/tiny/convnext_large_fold0.safetensors"
    assert source["weights_sha256"] == describe_member(member(trained))["weights_sha256"]
    assert describe_member(path)["trained_on"] == describe_member(member(trained))["trained_on"]


def refused(root: Path, *override: str, fold: int = 0, data: str = "tiny") -> str:
    """What a start with these overrides says; it has written no weights."""
    before = sorted(root.rglob("*.safetensors"))
    options = [*NARROW, SAME, *override]
    with at_home(root) as patch:
        words = f"train -c convnext_xlarge --fold {fold} --data {data} --restart -o".split()
        patch.setattr(sys, "argv", [*words, *options])
        with pytest.raises(UserError) as error:
            train.main()
    assert sorted(root.rglob("*.safetensors")) == before
    return str(error.value)


@pytest.mark.parametrize("other", ["view.channels=bgr", "view.white=255"])
def test_a_source_that_saw_other_numbers_is_refused(trained, other):
    name, value = other.split("=")
    assert f"was trained with {name}=" in refused(trained, "train.init=convnext_large", other)


def test_a_source_that_has_seen_the_held_out_fold_is_refused(trained):
    said = refused(trained, "train.init=convnext_large:1")
    assert "was trained on '0.mp4' or on its group (4 such videos), which fold 0 holds out" in said


def test_the_same_file_under_another_name_in_another_set_is_found(trained):
    folder = write_prepared(trained, "other")
    (folder / ".records").mkdir(exist_ok=True)
    record = {"sha256": f"{3:0<64x}"}  # a video that convnext_large_fold0 of tiny was trained on
    text = json.dumps({**record, "seal": extract._digest(record)})
    (folder / ".records" / "7.json").write_text(text)  # in fold 0 of this set
    said = refused(trained, "train.init=tiny/convnext_large:0", data="other")
    assert "was trained on '7.mp4'" in said


def test_a_member_from_before_provenance_counts_only_for_its_own_fold(trained, tmp_path):
    from liveness.members.weights import save_member

    about = {k: v for k, v in describe_member(member(trained)).items() if k not in ("trained_on", "weights_sha256")}
    old = member(trained, recipe="old_one")
    save_member(old, load_file(member(trained)), about)
    save_member(member(trained, recipe="old_one", fold=1), load_file(member(trained)), about)
    assert "does not say which videos" in refused(trained, "train.init=old_one", fold=1)
    fit(trained, "convnext_xlarge", 0, "tiny", "train.init=old_one", "--restart")


@pytest.mark.parametrize(
    "override, expected",
    [
        (["train.init=convnext_large:7"], "convnext_large_fold7.safetensors is not there; train it first"),
        (["train.init=../x"], "train.init"),
        (["train.init=convnext_large", "view.size=48"], "was trained with view.size=32, the recipe has 48"),
        (
            ["train.init=convnext_large", "model.name=convnext_tiny"],
            "is a convnext_large, the recipe builds a convnext_tiny",
        ),
        (["train.freeze=stages:9"], "train.freeze=stages:9: the model has 6 stages"),
        (["train.freeze=stages:0"], "expected none, backbone or stages:N"),
        (["train.keep_init=1.5"], "train.keep_init=1.5; expected 0 to 1"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(trained, override, expected):
    assert expected in refused(trained, *override)


def test_a_frozen_backbone_stays_and_the_classifier_learns(trained):
    freeze = ["train.init=convnext_large", "train.freeze=backbone", "train.ema_half_life=0", "--restart"]
    path = fit(trained, "convnext_xlarge", 0, "tiny", "train.lr=0.01", *freeze)
    first, then = load_file(member(trained)), load_file(path)
    changed = {name for name in first if not torch.equal(first[name], then[name])}
    assert changed and all(name.startswith("head.") for name in changed)


def tuning(*override: str, model: torch.nn.Module | None = None) -> tuple[FineTuning, torch.nn.Module]:
    recipe = load_recipe("convnext_large", [*NARROW, *override])
    torch.manual_seed(1)
    model = model or build(recipe.model, 32)
    return FineTuning(recipe.train, model), model


def test_stages_thaw_one_by_one_from_the_classifier(trained):
    kept, model = tuning("train.freeze=backbone", "train.thaw_epochs=0.5")
    stages = list_stages(model)
    assert [kept.stages_frozen(epoch) for epoch in (0, 0.49, 0.5, 1.0, 2.4, 2.5, 9)] == [5, 5, 4, 3, 1, 0, 0]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept.change_gradients(1.0)
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {name for stage in stages[3:] for name in stage}


def test_statistics_of_frozen_stages_stay(trained):
    recipe = load_recipe(
        "efficientnet_lite0", ["model.pretrained=", "model.freeze_norm=false", "train.freeze=stages:4"]
    )
    model = build(recipe.model, 32)
    FineTuning(recipe.train, model)
    model.train()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert not norms["bn1"].training and not norms["blocks.1.0.bn1"].training and norms["blocks.6.0.bn1"].training


def test_l2_sp_adds_the_gradient_of_its_penalty():
    kept, model = tuning("train.l2_sp=0.3")
    first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    penalty = sum(((p - first[name]) ** 2).sum() for name, p in model.named_parameters()) * 0.3 / 2
    expected = dict(zip(first, torch.autograd.grad(penalty, list(model.parameters())), strict=True))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    kept.change_gradients(0.0)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name] + 2, atol=1e-5)


def test_a_share_of_the_first_weights_is_in_the_member_and_in_its_scores(trained):
    pull = ["train.init=convnext_large", "train.lr=0.01", "--restart"]
    own = load_file(fit(trained, "convnext_xlarge", 0, "tiny", *pull))
    first = load_file(member(trained))
    mixed = load_file(fit(trained, "convnext_xlarge", 0, "tiny", "train.keep_init=0.25", *pull))
    for name in first:
        assert torch.allclose(mixed[name], 0.25 * first[name] + 0.75 * own[name], atol=1e-6)
    oof = (trained / "runs" / "tiny" / "convnext_xlarge_fold0" / "oof.csv").read_bytes()
    whole = load_file(fit(trained, "convnext_xlarge", 0, "tiny", "train.keep_init=1", *pull))
    assert all(torch.allclose(whole[name], first[name], atol=1e-6) for name in first)
    assert oof != (trained / "runs" / "tiny" / "convnext_xlarge_fold0" / "oof.csv").read_bytes()


def test_a_run_that_is_stopped_and_continued_gives_the_same_bytes(trained, monkeypatch):
    options = ["train.init=convnext_large", "train.l2_sp=0.1", "train.keep_init=0.3", "train.epochs=2", "train.lr=0.01"]
    options += ["train.freeze=stages:2", "train.thaw_epochs=1", "--restart"]
    expected = fit(trained, "convnext_xlarge", 0, "tiny", *options).read_bytes()
    step, calls = loop.run_step, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(trained, "convnext_xlarge", 0, "tiny", *options)
    assert fit(trained, "convnext_xlarge", 0, "tiny", *options[:-1]).read_bytes() == expected


def test_a_recipe_that_uses_nothing_of_it_is_written_as_before():
    assert not {"init", "freeze", "thaw_epochs", "l2_sp", "keep_init"} & set(to_dict(Recipe(train=Train()))["train"])
