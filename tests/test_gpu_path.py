"""What a GPU is asked to do, proven without one: no wait for a step, a head in float32, memory that does not suffice.

Host and device are told apart by torch's "meta" device, on which there is nothing to read: the real loop, model,
optimiser and samples run there, and every copy between the two is seen by a dispatch mode.
"""

import sys
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from hand_set import NARROW, write_prepared
from test_prediction import put_member
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from liveness.base.compose import load_recipe
from liveness.base.config import Ensemble, EnsembleMember, Model
from liveness.base.errors import UserError
from liveness.models import device as device_module
from liveness.models.backend import MOST_VIEWS, TorchBackend
from liveness.models.batches import GpuBatches
from liveness.models.build import build
from liveness.models.device import halve
from liveness.models.drop_path import _draw_uniform
from liveness.prediction import engine, memory
from liveness.prediction.engine import load_members, score_paths
from liveness.sets.dataset import load_set, split_set
from liveness.training import arrivals, loop, member
from liveness.training.start import FineTuning

META, CPU = torch.device("meta"), torch.device("cpu")


@pytest.fixture
def root(workspace, monkeypatch):
    write_prepared(workspace)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return workspace


class StubEvent:
    """torch.cuda.Event on a machine without CUDA. ``waits``: what each wait was for, and what was recorded by then."""

    recorded = 0
    waits: list[tuple[int, int]] = []

    def __init__(self, enable_timing: bool = False) -> None:
        self.number = 0

    def record(self) -> None:
        StubEvent.recorded += 1
        self.number = StubEvent.recorded

    def synchronize(self) -> None:
        StubEvent.waits.append((self.number, StubEvent.recorded))

    def elapsed_time(self, other: "StubEvent") -> float:
        return 1.0


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", StubEvent)
    monkeypatch.setattr(StubEvent, "recorded", 0)
    monkeypatch.setattr(StubEvent, "waits", [])
    return StubEvent


class Traffic(TorchDispatchMode):
    """What passes between host and device, by name; sums that come back arrive as 1 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []  # the host asks for a number, and waits
        self.down: list[bool] = []  # copies to the host; whether the host need not wait
        self.up = 0  # copies to the device
        self.constants: list[str] = []

    def __torch_dispatch__(self, call, types, arguments=(), options=None):
        options, name = options or {}, str(call)
        if name in ("aten._local_scalar_dense.default", "aten.is_nonzero.default", "aten.equal.default"):
            self.reads.append(name)
        if name == "aten.copy_.default" and arguments[0].device == CPU and arguments[1].device == META:
            self.down.append(bool(arguments[2] if len(arguments) > 2 else options.get("non_blocking")))
            return arguments[0].fill_(1.0)
        if name == "aten._to_copy.default" and options.get("device") is not None:
            to = torch.device(options["device"])
            if (arguments[0].device, to) == (META, CPU):
                self.reads.append(name)
            self.up += (arguments[0].device, to) == (CPU, META)
        return call(*arguments, **options)


class Constants(TorchFunctionMode):
    """Tensors that are made of numbers on the device: on a GPU each is a copy that is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_function__(self, call, types, arguments=(), options=None):
        result, name = call(*arguments, **(options or {})), getattr(call, "__name__", "")
        if name in ("tensor", "as_tensor", "new_tensor") and result.device == META:
            self.made.append(name)
        return result


OPTIONS = ["train.clip_grad=1", "model.drop_path=0.3", "train.batch_per_process=4"]


def begun(device: torch.device, *options: str) -> loop.State:
    recipe = load_recipe("convnext_xlarge", [*NARROW, *OPTIONS, *options])
    prepared = load_set("tiny", recipe.frames)
    rows, _ = split_set(prepared, 0, recipe.view)
    task = member.make_task(recipe, prepared, rows)
    task.tuning = FineTuning(recipe.train, task.model)
    return loop.start_state(task, device, 1e-3)


def traffic_of(state: loop.State, stop: int = 0) -> tuple[list[Traffic], dict | None]:
    """An epoch's steps, each with what passed between its start and that of the next; and the epoch's row.

    stop: the step after which the training is stopped: an epoch's end looks at all weights, and "meta" has none.
    """
    networks, stream, found = loop.ready_networks(state), state.task.stream(0, state.device), []
    with ExitStack() as watched:

        def next_step() -> bool:
            watched.close()
            found.append(watched.enter_context(Traffic()))
            found[-1].constants = watched.enter_context(Constants()).made
            return state.step == stop

        next_step()
        row = loop._run_epoch(state, networks, stream, next_step)
    return found, row


@pytest.mark.parametrize(("scaled", "l2_sp"), [(False, 0.0), (True, 0.0), (True, 0.1)])
def test_between_two_steps_the_host_reads_no_number_and_copies_no_constant(root, events, monkeypatch, scaled, l2_sp):
    """With gradient clipping, a moving average, drop path, accumulation; fp16's scaler; fine-tuning's pull."""
    for module in ("torch.optim.optimizer", "torch.utils._foreach_utils"):
        monkeypatch.setattr(sys.modules[module], "_get_fused_kernels_supported_devices", lambda: ["meta", "cpu"])
    make = torch.Generator  # there is none on "meta"; the moving average of float32 does not ask it
    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", lambda device=None: make())
        state = begun(META, "train.batch=4", f"train.l2_sp={l2_sp}")
    if scaled:
        state.scaler = torch.amp.GradScaler("cpu", enabled=True)
    found, row = traffic_of(state, stop=5)
    assert row is None and state.step == 5 and len(found) == 6
    for step in found[1:-1]:  # the first makes the optimiser's state; after the last is nothing but the waiting
        assert step.reads == []
        assert step.down == [True]  # the running sums, behind the step
        assert step.up == 3  # images, labels and seeds
        assert step.constants == []
    # Of the step at hand no sum is waited for: LATE others are queued by then.
    assert events.waits[: -arrivals.LATE] == [(n, n + arrivals.LATE) for n in range(1, 4)]


def test_on_the_cpu_too_no_step_asks_for_a_number_and_the_scaler_changes_nothing(root):
    plain, scaled = begun(CPU, "train.batch=4"), begun(CPU, "train.batch=4")
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=True)
    for state in (plain, scaled):
        found, row = traffic_of(state)
        assert all(step.reads == [] for step in found[1:-1]) and 0 < row["train_loss"] < 2
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_step_whose_loss_is_not_finite_is_named_and_never_saved(root, tmp_path):
    """Looked at late, but before anything is saved: at the epoch's end, and where the training is asked to stop."""
    for bad, stopped in ((2, True), (3, False), (6, False)):
        state = begun(CPU, "train.batch=4", "train.clip_grad=0")
        losses, last = state.task.losses, tmp_path / f"{bad}.pt"

        def planted(*arguments, losses=losses, state=state, bad=bad):
            return losses(*arguments) * (float("inf") if state.step == bad - 1 else 1)

        state.task.losses = planted
        saved = lambda row, state=state, last=last: loop.save(state, last)  # noqa: E731
        with pytest.raises(UserError, match=f"the loss is not finite in step {bad};"):
            loop.run_epochs(state, saved, lambda state=state, stop=bad if stopped else 0: state.step == stop)
        assert not last.exists()


def test_drop_path_draws_what_splitmix64_does():
    """The published algorithm in Python's own numbers."""

    def expected(seed: int, number: int) -> float:
        mask = (1 << 64) - 1
        z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return (((z ^ (z >> 31)) >> 40) & 0xFFFFFF) / (1 << 24)

    seeds = [0, 1, 2**62 + 12345, -(2**63), 2**63 - 1]
    for number in (0, 1, 35, 1000):
        found = _draw_uniform(torch.tensor(seeds), number)
        assert found.tolist() == [expected(seed, number) for seed in seeds]


# --- the head


def full(*family):
    return pytest.param(*family, marks=pytest.mark.full)


FAMILIES = [
    ("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 64]}, 32),
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, 32),
    full("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": [1, 1, 1, 1], "embed_dim": 24}, 56),
    full("efficientnet_b0", {}, 32),
    full("mobilenetv3_small_050", {}, 32),
]


@pytest.mark.parametrize(("name", "kwargs", "size"), FAMILIES)
def test_scores_in_mixed_precision_are_not_steps(name, kwargs, size, monkeypatch):
    """bfloat16 has 193 numbers from 2 to 6; with halved weights, as prediction has them, and without."""
    import timm

    monkeypatch.setattr(device_module, "half_type", lambda: torch.bfloat16)
    torch.manual_seed(1)
    model = build(Model(name, kwargs), size).eval()
    plain = timm.create_model(name, num_classes=1, **kwargs).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(96, 3, size, size) * torch.linspace(0.1, 3, 96).view(-1, 1, 1, 1)
    with torch.inference_mode():
        whole = model(images)
        assert torch.equal(whole, plain(images))  # in float32 not a bit is another
        for network in (model, halve(model)):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(images)
            assert logits.dtype == torch.float32
            assert len(logits.unique()) > 90
            assert (logits - whole).abs().max() < 0.1 * whole.std() + 0.02
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert plain(images).dtype == torch.bfloat16  # what it would be without


def test_the_loss_and_its_gradient_see_the_head_in_float32():
    model = build(Model(*FAMILIES[0][:2]), 32).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(torch.randn(8, 3, 32, 32)).square()
    losses.sum().backward()
    head = model.get_classifier()
    assert head.weight.dtype == head.weight.grad.dtype == torch.float32
    assert not torch.equal(head.weight.grad, head.weight.grad.bfloat16().float())


def test_published_members_are_scored_in_float32_without_tf32(workspace, monkeypatch):
    """Only that keeps the original's scores on a GPU; their weights take as much memory as on the disk."""
    put_member("convnext_xlarge", 0, converted_from="0" * 64)
    put_member("convnext_large", 0)
    loaded = load_members(
        Ensemble("mine", "train", [EnsembleMember("convnext_xlarge"), EnsembleMember("convnext_large")])
    )
    published, own = loaded.members
    assert (published.amp, published.exact, own.amp, own.exact) == (False, True, True, False)
    seen = []

    class Probe(torch.nn.Module):
        def forward(self, views):
            switches = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            seen.append((*switches, torch.is_autocast_enabled("cuda")))
            return views.mean(dim=(1, 2, 3))

    device_module.set_arithmetic()
    for one in (published, own):
        backend = TorchBackend(Probe(), CPU, one.amp, one.exact)
        monkeypatch.setattr(backend, "device", torch.device("cuda"))
        with monkeypatch.context() as patch:
            patch.setattr(device_module, "half_type", lambda: torch.bfloat16)
            backend.forward(torch.zeros(MOST_VIEWS, 3, 4, 4))
    assert seen[0] == (False, False, False) and seen[1][:2] == (True, True)
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    loaded.close()


# --- memory


class Counted(TorchBackend):
    """Notes the shape of every batch, and where on the host it came from."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, batch):
        self.shapes.append(tuple(batch.shape))
        return super().forward(batch)


def test_batches_keep_their_shape_and_go_through_two_buffers_in_turn(events, monkeypatch):
    made = []

    def noted(device, shape, dtype):
        made.append(shape)
        return torch.full(shape, torch.nan, dtype=dtype)  # what an earlier batch has left must not be seen

    monkeypatch.setattr("liveness.models.batches.empty_for", noted)
    backend = Counted(build(Model("convnext_tiny", FAMILIES[0][1]), 32), CPU)
    videos = [torch.randn(1 + n % 7, 3, 32, 32, generator=torch.Generator().manual_seed(n)) for n in range(60)]
    with GpuBatches(CPU) as batches:
        futures = [batches.submit([backend], views)[0] for views in videos]
        found = [batches.result(future).scores for future in futures]
    count = -(-sum(map(len, videos)) // MOST_VIEWS)
    assert backend.shapes == [(MOST_VIEWS, 3, 32, 32)] * count and count > 4
    assert made.count((MOST_VIEWS, 3, 32, 32)) == 2
    # Each batch records three events: its views are there, begun, ended. A buffer is filled again after a wait for its
    # own copy, two batches ago; scores are fetched while the next batch is under way already.
    filled = [(3 * number - 5, 3 * number) for number in range(2, count)]
    fetched = [(3 * number, min(3 * number + 3, 3 * count)) for number in range(1, count + 1)]
    assert sorted(events.waits) == sorted(filled + fetched)
    for views, scores in zip(videos, found, strict=True):
        assert np.allclose(scores, backend.score_views(views), atol=1e-6)


class Greedy(TorchBackend):
    """A model that finds the GPU full from some batch on, unless it is alone there."""

    loaded, most, batches_left = 0, 1, 0

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        Greedy.loaded += 1

    def __del__(self) -> None:
        Greedy.loaded -= 1

    def score_views(self, batch):
        if Greedy.loaded > Greedy.most:
            Greedy.batches_left -= 1
            if Greedy.batches_left < 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().score_views(batch)


@pytest.mark.parametrize("enough_for", [5, pytest.param(0, marks=pytest.mark.full)])
def test_members_take_turns_where_memory_runs_out_and_no_video_is_lost(
    workspace, tiny_clips, monkeypatch, capsys, enough_for
):
    clips = [tiny_clips(workspace / "clips" / f"{n}.mp4", 6, (64, 96), seed=n) for n in range(6)]
    for recipe in ("convnext_xlarge", "convnext_large"):
        put_member(recipe, 0)
    chosen = Ensemble("mine", "train", [EnsembleMember("convnext_xlarge"), EnsembleMember("convnext_large")])
    with load_members(chosen) as loaded:
        expected = [replace(row, milliseconds=0) for row in score_paths(clips, loaded, 1)]
    capsys.readouterr()
    monkeypatch.setattr("liveness.models.backend.TorchBackend", Greedy)
    monkeypatch.setattr(Greedy, "batches_left", enough_for)
    with load_members(chosen) as loaded:
        found = [replace(row, milliseconds=0) for row in score_paths(clips, loaded, 1)]
        assert found == expected and not loaded.resident
        again = [replace(row, milliseconds=0) for row in score_paths(clips[:2], loaded, 1)]
        assert again == expected[:2]
        said = capsys.readouterr().err
        assert said.count("out of GPU memory") == 1 and "take turns" in said
        monkeypatch.setattr(Greedy, "most", 0)
        with pytest.raises(UserError, match="with one member at a time"):
            list(score_paths(clips, loaded, 1))


def test_weights_that_do_not_fit_together_take_turns_from_the_start(workspace, monkeypatch, capsys):
    for fold in range(3):
        put_member("convnext_xlarge", fold)
    load, made = engine._load_backend, []

    def full(one, device):
        if len(made) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        made.append(one.name)
        return load(one, device)

    monkeypatch.setattr(engine, "_load_backend", full)
    with load_members(Ensemble("mine", "train", [EnsembleMember("convnext_xlarge", k) for k in range(3)])) as loaded:
        assert not loaded.resident and all(one.backend is None for one in loaded.members)
    assert "take turns" in capsys.readouterr().err


def test_eight_members_in_half_precision_fit_where_the_gpu_says_so(tmp_path, monkeypatch):
    """Five of 348.2 M and three of 196.2 M parameters: 9.32 GB as files, 4.66 GB in bf16, 2 GiB to work in."""
    gpu, paths = torch.device("cuda"), []
    for number, millions in enumerate([348.2] * 5 + [196.2] * 3):
        path = tmp_path / f"{number}.safetensors"
        with open(path, "wb") as file:
            file.truncate(int(4e6 * millions))  # without taking room
        paths.append(path)
    halves, wholes = ([memory.weight_bytes(path, gpu, amp) for path in paths] for amp in (True, False))
    assert sum(wholes) == 2 * sum(halves) == pytest.approx(9.3184e9)
    for free, expected in ((6.7e9, (False, False)), (6.9e9, (True, False)), (11.5e9, (True, True))):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free), int(80e9)))
        assert (memory.fits(halves, gpu), memory.fits(wholes, gpu)) == expected
