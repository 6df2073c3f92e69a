"""What each option of training does, through the real loop, on a tiny prepared set."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import prepare_here
from tiny_set import write_set

from liveness.base import distributed, launch
from liveness.base.compose import load_recipe
from liveness.base.config import Recipe
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.base.machine import cores
from liveness.evaluation.combine import video_scores
from liveness.evaluation.metrics import log_loss
from liveness.members.names import weights_path
from liveness.members.weights import describe_member, load_member
from liveness.sets.dataset import load_set, split_set
from liveness.training import loop, lr_finder, member
from liveness.training.samples import batches

NARROW = [
    "model.kwargs.depths=[1,1,1,1]",
    "model.kwargs.dims=[8,16,16,16]",
    "model.pretrained=",
    "view.size=32",
    "train.epochs=1",
    "train.batch=6",
    "train.workers=0",
    "train.warmup_epochs=0",
]
# No step moves anything: what the loop reports is then a figure of the first weights.
STILL = ["train.lr=1e-30", "train.min_lr=0", "train.weight_decay=0", "model.drop_path=0", "train.label_smoothing=0"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A workspace with data/tiny: 19 clips of 5 persons in 3 folds; live is warm, attack is cold."""
    root = tmp_path_factory.mktemp("options")
    write_set(root / "raw" / "tiny")
    prepare_here(root, "tiny", "folds.n=3")
    return root


@pytest.fixture
def root(prepared, tmp_path, monkeypatch):
    """A workspace of its own."""
    shutil.copytree(prepared / "data", tmp_path / "data", symlinks=True)
    monkeypatch.setenv("LIVENESS_ROOT", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def environment(root: Path, **more: str) -> dict[str, str]:
    values = {**os.environ, "LIVENESS_ROOT": str(root), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **more}
    return values | {"PYTHONPATH": str(CODE / "src"), "NO_ALBUMENTATIONS_UPDATE": "1"}


def narrow(*options: str) -> Recipe:
    return load_recipe("convnext_xlarge", [*NARROW, *options])


def train(recipe: Recipe, root: Path, fold: int = 0) -> tuple[pd.DataFrame, dict]:
    """Train a member; return its metrics.csv and what its weights say of themselves."""
    folder = root / "runs" / "tiny" / f"{recipe.name}_fold{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    member.train_member(recipe, fold, "tiny", folder)
    return pd.read_csv(folder / "metrics.csv"), describe_member(weights_path("tiny", recipe.name, fold))


def weights(name: str) -> dict:
    return load_member(weights_path("tiny", name, 0))[0].state_dict()


def first_epoch(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the first weights and labels of every sample of the first epoch, without the loop."""
    prepared = load_set("tiny", recipe.frames)
    rows, _ = split_set(prepared, 0, recipe.view)
    task = member.make_task(recipe, prepared, rows)
    frames, model = task.frames, task.model
    indices = [i for batch in batches(len(frames), recipe.train.batch, recipe.train.seed, 0) for i in batch]
    images, labels = zip(*(frames[0, index] for index in indices), strict=True)
    with torch.no_grad():
        return model.train()(torch.stack(images)).flatten(), torch.tensor(labels)


def started(recipe: Recipe) -> loop.State:
    """A state at step 0, as training starts with it."""
    prepared = load_set("tiny", recipe.frames)
    rows, _ = split_set(prepared, 0, recipe.view)
    return loop.start_state(member.make_task(recipe, prepared, rows), torch.device("cpu"), recipe.train.lr)


# --- the loss


def test_focal_loss_is_that_of_torchvision(root):
    from torchvision.ops import sigmoid_focal_loss

    recipe = narrow(*STILL, "train.loss=focal", "train.focal_gamma=1.5")
    metrics, _ = train(recipe, root)
    logits, labels = first_epoch(recipe)
    expected = sigmoid_focal_loss(logits, labels, alpha=-1, gamma=1.5, reduction="mean").item()
    assert metrics.train_loss[0] == pytest.approx(expected, rel=1e-5)


def test_class_balance_counts_the_attacks_that_live_samples_become(root):
    recipe = narrow("train.class_balance=true", "augment.attack_rate=0.25")
    prepared = load_set("tiny", recipe.frames)
    rows, _ = split_set(prepared, 0, recipe.view)
    attack, live = member.make_task(recipe, prepared, rows).class_weights
    lives = 0.75 * (rows.label == 1).sum()
    assert live * lives == pytest.approx(len(rows) / 2) and attack * (len(rows) - lives) == pytest.approx(len(rows) / 2)


def test_class_balance_weighs_as_scikit_learn_does(root):
    from sklearn.utils.class_weight import compute_class_weight

    recipe = narrow(*STILL, "train.class_balance=true")
    metrics, _ = train(recipe, root)
    rows, _ = split_set(load_set("tiny", recipe.frames), 0, recipe.view)
    attack, live = compute_class_weight("balanced", classes=np.array([0, 1]), y=rows.label.to_numpy(int))
    assert attack != live
    logits, labels = first_epoch(recipe)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    expected = (losses * torch.where(labels == 1, live, attack)).mean().item()
    assert metrics.train_loss[0] == pytest.approx(expected, rel=1e-5)


# --- the optimiser


@pytest.mark.parametrize(("name", "kwargs"), [("convnext_xlarge", []), ("vit_tiny_patch16_224", ["img_size=32"])])
def test_layer_decay_slows_early_layers_and_norms_and_biases_do_not_decay(root, name, kwargs):
    options = NARROW if name == "convnext_xlarge" else [text for text in NARROW if "kwargs" not in text]
    kwargs = [f"model.kwargs.{text}" for text in kwargs]
    recipe = load_recipe(
        "convnext_xlarge", [*options, f"model.name={name}", *kwargs, "train.layer_decay=0.5", "train.lr=1e-3"]
    )
    state = started(recipe)
    loop.run_epochs(state, lambda row: None, stopping=lambda: True)  # one step
    assert state.step == 1
    names = {id(parameter): key for key, parameter in state.model.named_parameters()}
    rates, decays = {}, {}
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            rates[names[id(parameter)]], decays[names[id(parameter)]] = group["lr"], group["weight_decay"]
    assert set(rates) == set(names.values())
    head = "head.fc.weight" if name == "convnext_xlarge" else "head.weight"
    first = "stem.0.weight" if name == "convnext_xlarge" else "patch_embed.proj.weight"
    order = [key for key in rates if key.endswith("mlp.fc1.weight")]  # the blocks, from first to last
    assert rates[head] == pytest.approx(1e-3)
    assert rates[first] < rates[order[0]] < rates[order[-1]] < rates[head]
    assert all(rates[a] <= rates[b] for a, b in zip(order, order[1:], strict=False))
    for key, parameter in state.model.named_parameters():
        plain = parameter.ndim <= 1 or key.endswith((".bias", "cls_token", "pos_embed"))
        assert decays[key] == (0 if plain else recipe.train.weight_decay), key


def test_clipping_bounds_the_norm_of_the_gradient_that_is_applied(root):
    def norms(*options: str) -> list[float]:
        state = started(narrow(*options))
        seen = []

        def note(optimizer, *_):
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            seen.append(math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients)))

        state.optimizer.register_step_pre_hook(note)
        loop.run_epochs(state, lambda row: None, stopping=lambda: False)
        return seen

    free, clipped = norms(), norms("train.clip_grad=0.01")
    assert min(free) > 0.01
    assert max(clipped) <= 0.01 * (1 + 1e-4) and min(clipped) > 0.0099


def test_checkpointed_activations_give_the_same_weights(root):
    train(narrow("name=plain", "model.drop_path=0.3"), root)
    train(narrow("name=again", "model.drop_path=0.3", "train.checkpoint_activations=true"), root)
    plain, again = weights("plain"), weights("again")
    for key, value in plain.items():
        assert (value - again[key]).norm() <= 1e-5 * value.norm() + 1e-9, key


# --- which epoch is kept


def test_the_last_epoch_is_kept_or_with_select_logloss_the_best_and_the_weights_say_so(root):
    """The held-out labels are turned round, so that the more is learned the worse it looks."""
    held_out = None
    for table in ("folds.csv", "labels_video.csv"):
        path = root / "data" / "tiny" / table
        rows = pd.read_csv(path)
        held_out = rows.filename[rows.fold == 0] if held_out is None else held_out
        turned = rows.filename.isin(held_out)
        rows.loc[turned, "label"] = 1 - rows.loc[turned, "label"]
        rows.to_csv(path, index=False)
    options = ["train.epochs=4", "train.lr=3e-3", "train.ema_half_life=0", "augment=none"]
    last, described = train(narrow("name=last", *options), root)
    assert described["epoch"] == 4
    assert described["held_out"]["logloss"] == pytest.approx(last.logloss[3])
    best, described = train(narrow("name=best", "train.select=logloss", *options), root)
    assert best.logloss.tolist() == pytest.approx(last.logloss.tolist())  # selecting changes no training
    assert best.logloss.idxmin() + 1 == described["epoch"] < 4
    assert described["recipe"]["train"]["select"] == "logloss"
    assert described["held_out"]["logloss"] == pytest.approx(best.logloss.min())
    table = video_scores(pd.read_csv(root / "runs/tiny/best_fold0/oof.csv"), "mean")
    assert log_loss(table.label.to_numpy(int), table.score.to_numpy()) == pytest.approx(best.logloss.min())


# --- what a run records


def test_every_start_records_how_it_was_made(root):
    import platform

    import timm

    recipe = narrow("name=recorded")
    train(recipe, root)
    (start,) = json.loads((root / "runs/tiny/recorded_fold0/runs.json").read_text())
    assert start["command"] == sys.argv and start["seed"] == recipe.train.seed and start["data"] == "tiny"
    assert start["data_hash"] == load_set("tiny", recipe.frames).digest
    assert start["versions"]["python"] == platform.python_version()
    assert start["versions"]["timm"] == timm.__version__ and start["versions"]["torch"].startswith("2.")
    assert start["hardware"]["cores"] == cores() and start["hardware"]["device"] == "cpu"
    if (CODE / ".git").exists():
        head = subprocess.run(["git", "-C", str(CODE), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
        assert start["commit"].rstrip("+") == head.strip()


def test_tensorboard_gets_what_metrics_csv_gets(root):
    pytest.importorskip("tensorboard", reason="the optional package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics, _ = train(narrow("name=tracked", "tracker=tensorboard", "train.epochs=2"), root)
    events = EventAccumulator(str(root / "runs/tiny/tracked_fold0/tensorboard")).Reload()
    for key in ("train_loss", "lr", "logloss", "eer", "auc"):
        points = events.Scalars(key)
        assert [point.step for point in points] == metrics.step.tolist()
        assert [point.value for point in points] == pytest.approx(metrics[key].tolist(), rel=1e-5, abs=1e-7)


def test_weights_and_biases_works_offline(root, monkeypatch):
    pytest.importorskip("wandb", reason="the optional package wandb is not installed")
    for key in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(key, raising=False)
    train(narrow("name=tracked", "tracker=wandb"), root)
    (offline,) = (root / "runs/tiny/tracked_fold0/wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))


# --- the learning rate


@pytest.mark.full
def test_lr_auto_trains_with_the_suggestion_and_leaves_the_curve(root):
    options = ["train.lr=auto", "augment=none", "train.epochs=2"]
    _, described = train(narrow("name=auto", *options), root)
    low, high = lr_finder.SANE
    assert low <= described["lr"] <= high
    folder = root / "runs/tiny/auto_fold0"
    curve = pd.read_csv(folder / "lr_curve.csv")
    assert curve.columns.tolist() == ["lr", "loss", "smoothed"] and curve.lr.is_monotonic_increasing
    assert (folder / "lr_curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert described["lr"] == pytest.approx(np.clip(curve.lr[curve.smoothed.idxmin()] / lr_finder.DIVISOR, low, high))
    assert member.find_lr(narrow("name=auto", *options), 0, "tiny", folder) == described["lr"]


@pytest.mark.full
def test_the_range_test_refuses_where_no_rate_makes_the_loss_fall(root):
    # Gradients clipped to nothing: the curve is the noise of the batches, whatever the rate.
    still = narrow("train.clip_grad=1e-12", "train.weight_decay=0")
    with pytest.raises(UserError, match="shows no descent"):
        member.find_lr(still, 0, "tiny", root)
    assert (root / "lr_curve.csv").is_file() and (root / "lr_curve.png").is_file()  # to see why


def test_the_range_test_seldom_takes_noise_for_a_descent_and_never_misses_a_clear_one():
    rates = np.geomspace(lr_finder.LOWEST, lr_finder.HIGHEST, lr_finder.STEPS)
    place = np.log10(rates)
    explosion = np.maximum(place + 2, 0)  # above 1e-2
    valley = explosion - 0.15 * np.clip(place + 5, 0, 2.5)  # from 1e-5 on
    rng = np.random.default_rng(11)

    def accepted(trend: np.ndarray, noise: float) -> list[float]:
        found = []
        for _ in range(200):
            losses = 0.69 + trend + rng.normal(0, noise, len(rates))
            try:
                found.append(lr_finder.suggest_lr(lr_finder.Curve(rates, losses, lr_finder.smooth(losses))))
            except UserError:
                continue
        return found

    for noise in (0.005, 0.02, 0.05):
        assert len(accepted(np.zeros(len(rates)), noise)) <= 8  # 4 %
        assert len(accepted(explosion, noise)) <= 8
        suggestions = accepted(valley, noise)
        assert len(suggestions) == 200 and 1e-4 <= min(suggestions) <= max(suggestions) <= 3e-3


# --- models by name

FAMILIES = {
    "efficientnet_b0": ["view.size=32"],
    "vit_tiny_patch16_224": ["view.size=32", "model.kwargs.img_size=32", "model.kwargs.depth=2"],
    "swin_tiny_patch4_window7_224": [
        "view.size=64",
        "model.kwargs.img_size=64",
        "model.kwargs.window_size=4",
        "model.kwargs.embed_dim=24",
        "model.kwargs.depths=[1,1,1,1]",
    ],
    "convnextv2_atto": ["view.size=32", "model.kwargs.depths=[1,1,1,1]"],
    "eva02_tiny_patch14_224": ["view.size=28", "model.kwargs.img_size=28", "model.kwargs.depth=2"],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_other_families_train_by_name(root, name):
    fixed = [text for text in NARROW if "kwargs" not in text and "view.size" not in text]
    recipe = load_recipe("convnext_xlarge", [*fixed, f"model.name={name}", "train.lr=1e-3", *FAMILIES[name]])
    prepared = load_set("tiny", recipe.frames)
    before = member.make_task(recipe, prepared, split_set(prepared, 0, recipe.view)[0]).model.state_dict()
    metrics, described = train(recipe, root)
    assert np.isfinite(metrics.train_loss).all() and described["recipe"]["model"]["name"] == name
    model, _ = load_member(weights_path("tiny", recipe.name, 0))
    after = model.state_dict()
    moved = [key for key, _ in model.named_parameters() if not torch.equal(before[key], after[key])]
    assert len(moved) == len(list(model.parameters()))
    oof = pd.read_csv(root / f"runs/tiny/{recipe.name}_fold0/oof.csv")
    assert (oof.status == "ok").all() and oof.score.nunique() > 1


# --- what goes wrong


def test_weights_that_are_not_finite_stop_a_resumed_run_before_it_saves(root):
    """A NaN comes into the weights after an epoch; the next start says so, and last.pt stays as it was."""
    recipe = narrow("name=sick", "train.epochs=2", "train.ema_half_life=0")
    state = started(recipe)
    last = root / "runs/tiny/sick_fold0/last.pt"
    state.model.get_parameter("stem.0.weight").data[0, 0, 0, 0] = math.nan
    content_of = loop.save
    with pytest.raises(UserError, match="not finite"):
        content_of(state, last)
    assert not last.exists()
    with pytest.raises(UserError, match="the loss is not finite in step 1"):
        loop.run_epochs(state, lambda row: None, stopping=lambda: False)


def test_a_gradient_that_is_not_finite_in_an_epochs_last_step_is_never_saved(root, monkeypatch):
    """The loss of that step is still finite, so only the weights show it."""
    recipe = narrow("name=planted", "train.epochs=2")
    begin, states = loop.start_state, []

    def planted(*arguments):
        state = begin(*arguments)
        bad = lambda gradient: gradient * math.nan if state.step == 2 * state.task.steps_per_epoch - 1 else gradient  # noqa: E731
        state.model.get_parameter("stem.0.weight").register_hook(bad)
        states.append(state)
        return state

    monkeypatch.setattr(loop, "start_state", planted)
    with pytest.raises(UserError, match="not finite"):
        train(recipe, root)
    assert states[0].step == 2 * states[0].task.steps_per_epoch
    saved = torch.load(root / "runs/tiny/planted_fold0/last.pt", weights_only=True)
    assert saved["step"] == states[0].task.steps_per_epoch  # the first epoch's end
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
    assert not weights_path("tiny", "planted", 0).exists()


def workers(root: Path) -> dict[str, int]:
    """Process ids by rank of the training processes in a workspace."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            values = (entry / "environ").read_text().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if f"LIVENESS_ROOT={root}" in values:
            found |= {text.removeprefix("RANK="): int(entry.name) for text in values if text.startswith("RANK=")}
    return found


def test_more_processes_than_gpus_is_a_line_and_the_asked_for_backend_and_patience_are_taken(monkeypatch):
    """Prediction exchanges only presence: over gloo with GPUs too, for as long as the slowest share takes."""
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(device=device))
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url: iter([(torch.distributed.HashStore(), 1, 3)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **more: asked.update(more, b=backend))
    for name, value in (("WORLD_SIZE", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_store", None)
    monkeypatch.setattr(launch, "BY_TORCHRUN", True)
    distributed.start("gloo", 3600)
    assert (asked["b"], asked["timeout"].total_seconds(), asked["device"]) == ("gloo", 3600, 1)
    asked.clear()
    distributed.start()
    assert asked["b"] == "nccl" and "timeout" not in asked
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 has no GPU, only 2 are here; set NGPU=2"):
        distributed.start()


@pytest.mark.parametrize("select", ["logloss", pytest.param("last", marks=pytest.mark.full)])
def test_a_stop_at_any_step_and_while_the_fold_is_scored_changes_nothing(root, monkeypatch, select):
    """A signal in an epoch, at its last step and between two held-out videos: rows and weights are the undisturbed."""
    recipe = narrow("train.epochs=2", f"train.select={select}", "train.lr=1e-2")
    still = {"left": math.inf}

    def asked() -> bool:
        still["left"] -= 1
        return still["left"] < 0

    path = weights_path("tiny", "convnext_xlarge", 0)

    def trained(folder, stops) -> tuple[bytes, list]:
        path.unlink(missing_ok=True)
        folder.mkdir()
        for left in (*stops, math.inf):
            still["left"] = left
            outcome = member.train_member(recipe, 0, "tiny", folder, listen=lambda: asked)
            assert outcome.stopped == (left < math.inf) == (not path.exists())
        table = pd.read_csv(folder / "metrics.csv").drop(columns=["seconds", "images_per_second"])
        return path.read_bytes(), table.to_dict("records")

    whole = trained(root / "whole", [])
    steps = int(whole[1][0]["step"])
    assert steps >= 2 and len(whole[1]) == 2
    for stops in ([0, steps - 2, 0], [steps, steps + 1]):  # in an epoch, at its last step; while its fold is scored
        assert trained(root / "-".join(map(str, stops)), stops) == whole, stops


@pytest.mark.full
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_rank_ends_the_job_with_its_cause_named(root, rank):
    command = ["bash", "scripts/train_member.sh", "convnext_xlarge", "0", "-o", *NARROW, "train.epochs=2000"]
    process = subprocess.Popen(
        command,
        cwd=CODE,
        env=environment(root, NGPU="2", DATA="tiny"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.strip().startswith("epoch"):
            break
    os.kill(workers(root)[rank], signal.SIGKILL)
    _, said = process.communicate(timeout=300)  # a collective alone would wait for half an hour
    assert process.returncode == 128 + signal.SIGKILL
    assert f"the process of rank {rank} was ended by SIGKILL" in said
    assert "Traceback" not in said
    assert workers(root) == {}
