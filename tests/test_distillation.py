"""Distillation and species: the losses against computations by hand, who may teach, and exact resuming."""

import functools
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hand_set import NARROW, write_prepared
from in_process import at_home, train_here
from safetensors.torch import load_file
from scipy.special import expit, log_softmax, rel_entr, softmax

from liveness import train
from liveness.base.compose import load_recipe
from liveness.base.config import Augment, Recipe, View, to_dict
from liveness.base.errors import UserError
from liveness.evaluation.combine import blend_rows
from liveness.frames.contract import make_contract
from liveness.members.weights import describe_member, save_member
from liveness.models.build import build
from liveness.models.distillation import (
    blend_logits,
    choose_targets,
    distil_decoupled,
    distil_features,
    distil_logits,
    split_in_two,
)
from liveness.models.taps import measure_classifier, take_tapped, tap_classifier
from liveness.sets import extract
from liveness.sets.dataset import load_set, split_set
from liveness.simulation import attacks
from liveness.training import loop, member
from liveness.training.augment import Policy
from liveness.training.start import Start
from liveness.training.teachers import check_teacher, find_teachers

recipe_of = functools.cache(lambda name, override: load_recipe(name, override))
SAME = "model.name=convnext_large"  # whatever the recipe: another name for a run of the same architecture
SPECIES = ["train.species_weight=0.5"]


def logits(*shape: int, seed: int = 3) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the losses


def test_classical_distillation_is_the_divergence_at_the_temperature_times_its_square():
    student, teacher, heat = logits(9, seed=1), logits(9, seed=2), 2.5
    p, q = (expit(values.double().numpy() / heat) for values in (teacher, student))
    by_hand = heat**2 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q))
    assert distil_logits(student, teacher, heat).numpy() == pytest.approx(by_hand, rel=1e-4, abs=1e-6)
    assert distil_logits(teacher, teacher, heat).abs().max() < 1e-5


def decoupled_by_hand(student, teacher, target, heat, alpha, beta) -> float:
    """Equations 5 to 7 of Zhao et al. 2022 for one sample."""
    p, q = softmax(teacher / heat), softmax(student / heat)
    rest = [k for k in range(len(p)) if k != target]
    of_target = sum(rel_entr([p[target], p[rest].sum()], [q[target], q[rest].sum()]))
    of_others = sum(rel_entr(p[rest] / p[rest].sum(), q[rest] / q[rest].sum()))
    return heat**2 * (alpha * of_target + beta * of_others)


def test_decoupled_distillation_is_that_of_the_paper():
    student, teacher = logits(7, 4, seed=1), logits(7, 4, seed=2)
    target = torch.tensor([0, 1, 2, 3, 3, 0, 1])
    found = distil_decoupled(student, teacher, target, 4.0, 1.5, 8.0)
    for row in range(7):
        one, two = student[row].double().numpy(), teacher[row].double().numpy()
        assert float(found[row]) == pytest.approx(
            decoupled_by_hand(one, two, int(target[row]), 4.0, 1.5, 8.0), rel=1e-4
        )


def test_with_the_papers_weights_decoupled_is_classical_and_with_two_classes_there_is_no_second_term():
    student, teacher, target = logits(5, 3, seed=1), logits(5, 3, seed=2), torch.tensor([0, 1, 2, 0, 1])
    for row in range(5):
        given = softmax(teacher[row].double().numpy())
        classical = rel_entr(given, softmax(student[row].double().numpy())).sum()
        rows = slice(row, row + 1)
        weight = 1 - given[int(target[row])]
        found = distil_decoupled(student[rows], teacher[rows], target[rows], 1.0, 1.0, float(weight))
        assert float(found) == pytest.approx(classical, rel=1e-4)
    assert decoupled_by_hand(np.array([1.0, 2.0]), np.array([-3.0, 1.0]), 0, 1.0, 0.0, 1.0) == 0
    with pytest.raises(ValueError, match="2 classes"):
        distil_decoupled(student[:, :2], teacher[:, :2], target, 1.0, 1.0, 1.0)


def test_features_are_compared_by_their_mean_squared_difference():
    found = distil_features(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 5.0], [0.0, 0.0]]))
    assert found.tolist() == [4.5, 0.0]


def test_an_ensemble_teaches_the_weighted_mean_of_its_members_probabilities():
    parts, weights = [logits(6, seed=1), logits(6, seed=2), logits(6, seed=3)], [1.0, 2.0, 0.5]
    two = blend_logits([split_in_two(part) for part in parts], weights)
    expected = blend_rows(np.stack([expit(part.double().numpy()) for part in parts], 1), np.array(weights))
    assert expit((two[:, 1] - two[:, 0]).numpy()) == pytest.approx(expected, rel=1e-5)
    wide = [logits(6, 3, seed=1), logits(6, 3, seed=2)]
    mean = (softmax(wide[0].numpy(), 1) + 3 * softmax(wide[1].numpy(), 1)) / 4
    assert log_softmax(blend_logits(wide, [1, 3]).numpy(), 1) == pytest.approx(np.log(mean), rel=1e-4)


def test_an_attack_is_the_class_that_the_teacher_finds_most_probable_among_the_attacks():
    teacher = torch.tensor([[0.0, 9.0, 1.0], [2.0, 9.0, 1.0], [2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    assert choose_targets(torch.tensor([0.0, 0.3, 1.0, 0.7]), teacher, 1).tolist() == [2, 0, 1, 1]


# --- what the losses look at


@pytest.mark.parametrize("name", ["convnext_large", "efficientnet_lite0", "minifasnet_v1se"])
def test_what_is_tapped_is_what_the_classifier_makes_the_logit_of(name):
    size = 80 if "mini" in name else 32
    narrow = NARROW[:3] if "conv" in name else ["model.pretrained="]
    model = build(recipe_of(name, tuple(narrow)).model, size).eval()
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(images)
        tap_classifier(model)
        assert torch.equal(model(images), before)
        inner = take_tapped(model)
    classes, width = measure_classifier(model)
    assert inner.features.shape == (3, width) and inner.classes.shape == (3, classes)
    layer = model.get_submodule("prob" if classes == 3 else model.pretrained_cfg["classifier"])
    again = torch.nn.functional.linear(inner.features, layer.weight, layer.bias)
    assert torch.allclose(again, inner.classes, atol=1e-5)
    score = torch.softmax(again, 1)[:, 1] if classes == 3 else torch.sigmoid(again[:, 0])
    assert torch.allclose(torch.sigmoid(before[:, 0]), score, atol=1e-5)


def test_the_policy_tells_which_attack_it_simulates(monkeypatch):
    policy, seen = Policy(Augment(attack_rate=0.5, camera=0.2), View(size=16)), []
    simulate = attacks.simulate

    def noted(rgb, kind, rng):
        seen.append(kind)
        return simulate(rgb, kind, rng)

    monkeypatch.setattr(attacks, "simulate", noted)
    picture = np.random.default_rng(1).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    for seed in range(12):
        label = policy(picture, 1, seed)[1]
        kind = policy.find_simulated(1, seed)
        assert kind == (seen.pop() if seen else "") and label == (kind == "")
    assert policy.find_simulated(0, 1) == ""


# --- a workspace with members


def name_species(root: Path, data: str = "tiny") -> None:
    path = root / "data" / data / "labels_video.csv"
    table = pd.read_csv(path, dtype=str)
    kinds = ["print" if int(number) < 6 else "Replay" for number in table.video_id]
    table["species"] = [kind if label == "0" else "" for kind, label in zip(kinds, table.label, strict=True)]
    table.to_csv(path, index=False)


def weights(root: Path, recipe: str = "convnext_large", fold: int = 0, data: str = "tiny") -> Path:
    return root / "weights" / data / f"{recipe}_fold{fold}.safetensors"


def run_of(root: Path, recipe: str = "convnext_xlarge") -> Path:
    return root / "runs" / "tiny" / f"{recipe}_fold0"


def fit(root: Path, recipe: str = "convnext_large", fold: int = 0, *override: str) -> Path:
    assert train_here(root, "-c", recipe, "--fold", str(fold), "--data", "tiny", "-o", *NARROW, SAME, *override) == 0
    return weights(root, recipe, fold)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A workspace with data/tiny, whose attacks have species, and members of its folds 0 and 1."""
    root = tmp_path_factory.mktemp("distil")
    folder = write_prepared(root)
    name_species(root)
    (folder / ".records").mkdir()
    for number in range(12):
        record = {"sha256": f"{number + 1:0<64x}"}
        text = json.dumps({**record, "seal": extract._digest(record)})
        (folder / ".records" / f"{number}.json").write_text(text)
    fit(root, "convnext_large", 0, *SPECIES)
    fit(root, "convnext_large", 1)
    return root


TEACH = ["train.task=distil", "train.teacher=convnext_large"]


def task_of(root: Path, *override: str):
    with at_home(root):
        recipe = recipe_of(
            "convnext_xlarge",
            (
                *NARROW,
                SAME,
                *override,
            ),
        )
        prepared = load_set("tiny", recipe.frames)
        task = member.make_task(recipe, prepared, split_set(prepared, 0, recipe.view)[0])
        task.begin(0, "tiny")
        return task


def begun(root: Path, *override: str) -> loop.State:
    with at_home(root):
        task = task_of(root, *override)
        Start(
            recipe_of(
                "convnext_xlarge",
                (
                    *NARROW,
                    SAME,
                    *override,
                ),
            ),
            0,
            "tiny",
        ).load(task, print)
        return loop.start_state(task, torch.device("cpu"), task.config.lr)


def share_losses(state: loop.State) -> tuple[torch.Tensor, tuple]:
    share, batch = next(state.task.stream(0, state.device))
    networks = {name: network.train() for name, network in state.task.networks.items()}
    return state.task.losses(networks, share, batch, state.device), batch


def test_a_model_that_says_what_its_teacher_says_has_nothing_to_learn_of_it(trained):
    alone = ["train.distil_weight=1", "train.distil_features=1", "train.init=convnext_large"]
    found, _ = share_losses(begun(trained, *TEACH, *alone))
    assert found.abs().max() < 1e-6


def test_the_loss_is_made_of_its_parts(trained):
    options = ["train.distil_weight=0.3", "train.distil_temperature=3", "train.distil_features=0.2"]
    state = begun(trained, *TEACH, *options, "train.label_smoothing=0")
    found, (images, labels) = share_losses(state)
    with torch.no_grad():
        teacher = build(
            recipe_of(
                "convnext_large",
                (
                    *NARROW,
                    SAME,
                ),
            ).model,
            32,
        )
        teacher.load_state_dict(load_file(weights(trained)))
        says = [
            (network.forward_head(network.forward_features(images), pre_logits=True), network(images)[:, 0])
            for network in (state.model.eval(), teacher.eval())
        ]
    (mine, student), (theirs, given) = says
    p, q, live = (expit(v.double().numpy()) for v in (given / 3, student / 3, student))
    kd = 9 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q))
    bce = -np.where(labels.numpy() == 1, np.log(live), np.log(1 - live))
    features = ((mine - theirs) ** 2).mean(1).numpy()
    assert found.detach().numpy() == pytest.approx(0.7 * bce + 0.3 * kd + 0.2 * features, rel=1e-4)


def test_species_of_samples_are_those_of_the_table_and_of_simulated_attacks(trained):
    task = task_of(trained, *SPECIES, "augment.attack_rate=0.5")
    species = task.species
    assert species.classes == ["live", "print", "Replay"]
    keys = [(epoch, index) for epoch in range(2) for index in range(len(task.frames))]
    counts = dict.fromkeys(range(-1, 3), 0)
    for key, place in zip(keys, species.find(task.frames, keys), strict=True):
        row, label = task.frames.rows[key[1]], task.frames[key][1]
        counts[place] += 1
        assert (place == 0) == (label == 1)
        if int(row.label) == 0:
            assert species.classes[place] == ("print" if int(row.video_id) < 6 else "Replay")
    assert counts[-1] == 0 and min(counts[0], counts[1], counts[2]) > 3
    mixed = task_of(trained, *SPECIES, "augment.mixup=1")
    assert set(mixed.species.find(mixed.frames, keys)) == {-1}


def test_the_second_head_learns_species_and_is_no_part_of_the_member(trained):
    loss, plain = share_losses(begun(trained, *SPECIES))[0], share_losses(begun(trained))[0]
    known = math.log(3) * 0.5  # of a head that is near zero
    assert (loss - plain).detach().numpy() == pytest.approx(known, rel=0.6)
    path = weights(trained)
    assert not [name for name in load_file(path) if "species" in name]
    head = path.parent / "species" / path.name
    assert load_file(head)["weight"].shape == (3, 16)
    assert describe_member(head)["member_sha256"] == describe_member(path)["weights_sha256"]


@pytest.mark.full
def test_a_head_of_species_tells_them_after_training(trained):
    """Frames of 'Replay' are given another colour: the averaged head, on the member's features, knows it."""
    root = trained.parent / "coloured"
    folder = write_prepared(root)
    name_species(root)
    from PIL import Image

    for number in (6, 8, 10):
        for path in (folder / "frames").glob(f"{number}-*.jpg"):
            pixels = np.asarray(Image.open(path)).copy()
            pixels[..., 0] = 250
            Image.fromarray(pixels).save(path, quality=95)
    options = [*SPECIES, "train.epochs=12", "train.lr=0.01", "train.ema_half_life=0.5"]
    path = fit(root, "convnext_large", 0, *options)
    task = task_of(root, *SPECIES)
    task.model.load_state_dict(load_file(path))
    task.networks["species"].load_state_dict(load_file(path.parent / "species" / path.name))
    keys = [(0, index) for index in range(len(task.frames))]
    with torch.no_grad():
        task.model.eval()(torch.stack([task.frames[key][0] for key in keys]))
        told = task.networks["species"](take_tapped(task.model).features).argmax(1)
    assert (told == torch.tensor(task.species.find(task.frames, keys))).float().mean() > 0.9


def test_species_are_distilled_decoupled(trained):
    options = [*TEACH, *SPECIES, "train.distil=dkd", "train.distil_weight=0.4", "train.distil_temperature=2"]
    state, plain = begun(trained, *options), begun(trained, *options[:-3], *options[-2:])
    found, (images, labels) = share_losses(state)
    classical, _ = share_losses(plain)
    share, _ = next(state.task.stream(0, state.device))
    known = state.task.species.find(state.task.frames, share.keys)
    head = load_file(weights(trained).parent / "species" / weights(trained).name)
    with torch.no_grad():
        teacher = build(
            recipe_of(
                "convnext_large",
                (
                    *NARROW,
                    SAME,
                ),
            ).model,
            32,
        )
        teacher.load_state_dict(load_file(weights(trained)))
        mine, theirs = (
            n.eval().forward_head(n.forward_features(images), pre_logits=True) for n in (state.model, teacher)
        )
        student = state.task.networks["species"](mine).double().numpy()
        given = (theirs @ head["weight"].T + head["bias"]).double().numpy()
    by_hand = [decoupled_by_hand(s, t, k, 2.0, 1.0, 8.0) for s, t, k in zip(student, given, known, strict=True)]
    assert (found - classical).detach().numpy() == pytest.approx(0.4 * np.array(by_hand), rel=1e-3, abs=1e-6)


def test_three_classes_of_the_networks_themselves_are_distilled_decoupled(trained):
    view = [
        "view.kind=frame",
        "view.cut=square",
        "train.batch=4",
        "train.workers=0",
        "model.pretrained=",
        "augment=none",
    ]
    view += ["model.freeze_norm=false", "frames.plan=positions", "frames.count=3", "train.label_smoothing=0"]
    torch.manual_seed(9)
    recipe = load_recipe("minifasnet_v2", view)
    teacher = build(recipe.model, 80).eval()
    with at_home(trained):
        prepared = load_set("tiny", recipe.frames)
        contract = make_contract(recipe, prepared.data, prepared.detector_sha256, prepared.version)
        about = {"recipe": to_dict(recipe), "fold": 0, "contract": contract, "data": "elsewhere"}
        save_member(weights(trained, "three", data="elsewhere"), teacher.state_dict(), about)
        teach = ["train.task=distil", "train.teacher=elsewhere/three", "train.distil=dkd", "train.distil_weight=1"]
        recipe = recipe_of(
            "minifasnet_v2",
            (
                *view,
                *teach,
            ),
        )
        assert check_teacher(recipe, 0, prepared, None)
        task = member.make_task(recipe, prepared, split_set(prepared, 0, recipe.view)[0])
        task.begin(0, "tiny")
        share, (images, labels) = next(task.stream(0, torch.device("cpu")))
        found = task.losses(task.networks, share, (images, labels), torch.device("cpu")).detach().numpy()
        with torch.no_grad():
            task.model.train()
            student, given = (
                net.forward_head(net.forward_features(images)).double().numpy() for net in (task.model, teacher)
            )
    for row, label in enumerate(labels):
        target = 1 if label == 1 else int(2 * (given[row][2] > given[row][0]))
        by_hand = decoupled_by_hand(student[row], given[row], target, 2.0, 1.0, 8.0)
        assert found[row] == pytest.approx(by_hand, rel=1e-3, abs=1e-5)


# --- who may teach


def test_a_run_records_its_teacher_and_the_member_what_that_has_seen(trained):
    fit(trained, "convnext_xlarge", 0, *TEACH, "--restart")
    (record,) = json.loads((run_of(trained) / "config.json").read_text())["teacher"]
    source = describe_member(weights(trained))
    assert record["member"] == "weights/tiny/convnext_large_fold0.safetensors" and record["weight"] == 1
    assert record["weights_sha256"] == source["weights_sha256"]
    made = describe_member(weights(trained, "convnext_xlarge"))
    assert made["trained_on"] == source["trained_on"] and made["teacher"] == [record]


def refused(root: Path, *override: str, fold: int = 0, recipe: str = "convnext_xlarge") -> str:
    """What a start with these overrides says; it has written no weights."""
    before = sorted(root.rglob("*.safetensors"))
    with at_home(root) as patch:
        words = f"train -c {recipe} --fold {fold} --data tiny --restart -o".split()
        patch.setattr(sys, "argv", [*words, *override])
        with pytest.raises(UserError) as error:
            train.main()
    assert sorted(root.rglob("*.safetensors")) == before
    assert "\n" not in str(error.value)
    return str(error.value)


DISTIL = [*NARROW, SAME, "train.task=distil"]


@pytest.mark.parametrize(
    "override, expected",
    [
        (["train.teacher=convnext_large:1"], "was trained on '0.mp4' or on its group (4 such videos), which fold 0"),
        (["train.teacher=convnext_large:7"], "train.teacher=convnext_large:7: weights/tiny/convnext_large_fold7"),
        pytest.param(["train.teacher=../x"], "train.teacher: ", marks=pytest.mark.full),
        (["train.teacher=demo"], "not there: weights/tiny/demo_f"),
        ([], "train.task=distil with train.teacher=''; distil needs a teacher"),
        (["train.teacher=convnext_large", "train.task=supervised"], "other tasks take none"),
        (["train.teacher=convnext_large", "view.size=48"], "trained with view.size=32, the recipe has 48"),
        (["train.teacher=convnext_large", "view.mean=[0,0,0]"], "a teacher has to see what the recipe's model sees"),
        (
            ["train.teacher=convnext_large", "model.kwargs.dims=[8,16,16,24]", "train.distil_features=1"],
            "convnext_large_fold0.safetensors has 16 features before its classifier, convnext_large has 24",
        ),
        (
            ["train.teacher=convnext_large", "train.distil=dkd"],
            "two classes, of which the term among the other classes",
        ),
        (["train.teacher=convnext_large", "train.distil=other"], "train.distil='other'; expected one of kd, dkd"),
        (["train.teacher=convnext_large", "train.distil_weight=1.5"], "expected 0 to 1"),
    ],
)
def test_who_cannot_teach_is_refused_before_anything_is_trained(trained, override, expected):
    assert expected in refused(trained, *DISTIL, *override)


@pytest.mark.full
def test_decoupled_species_need_a_teacher_with_the_same_species(trained):
    options = [*DISTIL, "train.teacher=convnext_large", "train.distil=dkd", *SPECIES]
    head = weights(trained).parent / "species" / weights(trained).name
    kept = head.read_bytes()
    head.unlink()
    assert "has no species head" in refused(trained, *options)
    shutil.copyfile(weights(trained, fold=1), head)  # not a head at all
    assert "belongs to other weights" in refused(trained, *options)
    head.write_bytes(kept)
    table = trained / "data" / "tiny" / "labels_video.csv"
    before = table.read_text()
    table.write_text(before.replace("Replay", "Mask"))
    assert "tells live, print, Replay, the training side has live, Mask, print" in refused(trained, *options)
    table.write_text(before.replace("Replay", "print"))
    assert "has 1 attack species (print); expected two at least" in refused(trained, *options)
    table.write_text(before.replace("print", "Live"))
    assert "2.mp4 of data/tiny is an attack of the species live" in refused(trained, *options)
    table.write_text(before)


@pytest.mark.full
def test_an_ensemble_teaches_with_its_members_of_the_same_fold(trained):
    for recipe in ("demo_frame", "demo_face"):
        shutil.copyfile(weights(trained), weights(trained, recipe))
    recipe = recipe_of(
        "convnext_xlarge",
        (
            *DISTIL,
            "train.teacher=demo",
        ),
    )
    with at_home(trained):
        found = find_teachers(recipe, 0, "tiny")
    assert sorted(teaching.path.name for teaching in found) == [
        f"demo_{k}_fold0.safetensors" for k in ("face", "frame")
    ]
    both, one = (
        share_losses(begun(trained, "train.task=distil", f"train.teacher={t}"))[0] for t in ("demo", "demo_face:0")
    )
    assert torch.allclose(both, one, atol=1e-5)  # two of the same say what one says
    weights(trained, "demo_face").unlink()
    weights(trained, "demo_frame").unlink()


@pytest.mark.full
def test_a_recipe_teaches_its_own_next_training(trained):
    first = fit(trained, "convnext_xlarge", 0, "--restart").read_bytes()
    own = ["train.task=distil", "train.teacher=convnext_xlarge", "train.lr=0.01"]
    second = fit(trained, "convnext_xlarge", 0, *own, "--restart").read_bytes()
    kept = run_of(trained) / "teacher" / "convnext_xlarge_fold0.safetensors"
    assert second != first and kept.read_bytes() == first
    assert fit(trained, "convnext_xlarge", 0, *own).read_bytes() == second  # it is made: nothing is trained
    fit(trained, "convnext_xlarge", 0, *own, "--restart")
    assert kept.read_bytes() == second  # the generation before


@pytest.mark.full
def test_a_teacher_that_was_trained_again_ends_the_run(trained):
    fit(trained, "convnext_xlarge", 0, *TEACH, "--restart")
    path = weights(trained)
    kept = path.read_bytes()
    shutil.copyfile(weights(trained, "convnext_xlarge"), path)
    with pytest.raises(UserError, match="holds another run: teacher is"):
        fit(trained, "convnext_xlarge", 0, *TEACH)
    path.write_bytes(kept)


# --- exactness

WHOLE = [*TEACH, *SPECIES, "train.distil=dkd", "train.distil_features=0.1", "train.epochs=2", "train.lr=0.01"]
WHOLE += ["model.drop_path=0.3", "augment.hflip=0.5", "augment.mixup=0.2"]
SIMULATED = ["augment=light", "augment.attack_rate=0.3"]


def content(state: loop.State) -> dict:
    return {"model": state.model.state_dict(), "ema": state.ema.module.state_dict(), **state.task.state_dict()}


def test_a_run_that_is_stopped_and_continued_gives_the_same_bytes(trained, tmp_path):
    first, whole, halved = content(begun(trained, *WHOLE)), begun(trained, *WHOLE), begun(trained, *WHOLE)
    assert loop.run_epochs(whole, lambda row: None, lambda: False)
    assert not loop.run_epochs(halved, lambda row: None, lambda: halved.step == 5)
    loop.save(halved, tmp_path / "last.pt")
    resumed = begun(trained, *WHOLE)
    loop.resume(resumed, tmp_path / "last.pt")
    assert resumed.step == 5 and loop.run_epochs(resumed, lambda row: None, lambda: False)
    found, expected = content(resumed), content(whole)
    assert set(found) == {"model", "ema", "species", "species_average", "steps"} and found.pop("steps") == 8
    for name, state in found.items():
        assert all(torch.equal(value, expected[name][key]) for key, value in state.items()), name
        assert any(not torch.equal(value, first[name][key]) for key, value in state.items()), name


@pytest.mark.full
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(trained, monkeypatch):
    path = fit(trained, "convnext_xlarge", 0, *WHOLE, *SIMULATED, "--restart")
    head = path.parent / "species" / path.name
    expected = path.read_bytes(), head.read_bytes(), (run_of(trained) / "oof.csv").read_bytes()
    step, calls = loop.run_step, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 6:  # in the second epoch: last.pt has the first
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(trained, "convnext_xlarge", 0, *WHOLE, *SIMULATED, "--restart")
    fit(trained, "convnext_xlarge", 0, *WHOLE, *SIMULATED)
    assert (path.read_bytes(), head.read_bytes(), (run_of(trained) / "oof.csv").read_bytes()) == expected


GENTLE = ["train.batch=5", "train.lr=1e-4"]  # AdamW makes large steps of small differences


def on_two(rank: int, port: int, root: str, last: str) -> None:
    from test_saving import joined

    from liveness.base import distributed

    joined(rank, port)
    state = begun(Path(root), *WHOLE, *GENTLE)
    assert loop.run_epochs(state, lambda row: None, lambda: False)
    if rank == 0:
        loop.save(state, Path(last))
    distributed.barrier()
    distributed.stop()


@pytest.mark.full
def test_two_processes_train_what_one_trains(trained, tmp_path):
    from test_saving import free_port

    one, two = (begun(trained, *WHOLE, *GENTLE) for _ in range(2))
    assert loop.run_epochs(one, lambda row: None, lambda: False)
    torch.multiprocessing.spawn(on_two, (free_port(), str(trained), str(tmp_path / "last.pt")), nprocs=2)
    loop.resume(two, tmp_path / "last.pt")
    assert two.step == one.step
    found, expected = content(two), content(one)
    for name in ("model", "ema", "species", "species_average"):
        for key, value in expected[name].items():
            assert (value - found[name][key]).norm() <= 1e-5 * value.norm() + 1e-9, (name, key)


def test_a_recipe_that_uses_nothing_of_it_is_written_as_before():
    added = {"task", "teacher", "distil", "distil_weight", "distil_temperature", "distil_features"}
    assert not (added | {"dkd_target", "dkd_others", "species_weight"}) & set(to_dict(Recipe())["train"])
