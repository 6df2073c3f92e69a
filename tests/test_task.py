"""Training as a library: another task runs through the same loop, and a training gives back its figures."""

import pandas as pd
import pytest
import torch
from hand_set import NARROW, write_prepared

from liveness.base.compose import load_recipe
from liveness.evaluation.combine import video_scores
from liveness.evaluation.metrics import log_loss
from liveness.members.names import weights_path
from liveness.models.build import build
from liveness.sets.dataset import load_set, split_set
from liveness.training import loop, member
from liveness.training.samples import batches
from liveness.training.task import Supervised


@pytest.fixture
def root(workspace, monkeypatch):
    """A workspace with data/tiny in three folds."""
    write_prepared(workspace)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return workspace


class Twins(Supervised):
    """Two networks that learn from one another's scores on samples without labels, beside a teacher that follows the
    model: what cross pseudo supervision and a mean teacher ask of the loop."""

    def __init__(self, recipe, model, frames, twin) -> None:
        super().__init__(recipe, model, frames, beside={"twin": twin})
        self.teacher = {key: value.clone() for key, value in model.state_dict().items()}

    def stream(self, first_step, device):
        unlabelled = [
            batch
            for epoch in range(self.config.epochs)
            for batch in batches(len(self.frames), self.config.batch, self.config.seed + 1, epoch)
        ]
        for number, (share, labelled) in enumerate(super().stream(first_step, device), first_step):
            images = torch.stack([self.frames[0, index][0] for index in unlabelled[number]])
            yield share, (*labelled, images)

    def losses(self, networks, share, batch, device):
        images, labels, others = batch
        supervised = [
            Supervised.losses(self, {"model": network}, share, (images, labels), device)
            for network in networks.values()
        ]
        self.seed_draws(share.keys, device)
        one, other = (network(others).flatten() for network in networks.values())
        apart = torch.nn.functional.mse_loss(one, other, reduction="none")
        return torch.stack(supervised).sum(0) + apart

    def after_step(self) -> None:
        for key, value in self.model.state_dict().items():
            self.teacher[key] = 0.9 * self.teacher[key] + 0.1 * value

    def state_dict(self):
        return super().state_dict() | {"teacher": self.teacher}

    def load_state_dict(self, saved) -> None:
        super().load_state_dict(saved)
        self.teacher = saved["teacher"]


def test_two_networks_and_unlabelled_samples_train_and_resume_without_an_edit_to_the_loop(root):
    options = ["train.epochs=2", "train.lr=1e-2", "train.clip_grad=5", "model.drop_path=0.3"]
    recipe = load_recipe("convnext_xlarge", [*NARROW, *options])
    prepared = load_set("tiny", recipe.frames)
    rows, _ = split_set(prepared, 0, recipe.view)

    def begin() -> loop.State:
        frames = member.make_task(recipe, prepared, rows).frames
        one, twin = (build(recipe.model, recipe.view.size) for _ in range(2))
        return loop.start_state(Twins(recipe, one, frames, twin), torch.device("cpu"), recipe.train.lr)

    def content(state: loop.State) -> dict:
        return {"model": state.model.state_dict(), **state.task.state_dict()}

    first, whole, halved = content(begin()), begin(), begin()
    assert loop.run_epochs(whole, lambda row: None, lambda: False)
    assert not loop.run_epochs(halved, lambda row: None, lambda: halved.step == 3)
    loop.save(halved, root / "last.pt")
    resumed = begin()
    loop.resume(resumed, root / "last.pt")
    assert resumed.step == 3 and loop.run_epochs(resumed, lambda row: None, lambda: False)
    found, expected = content(resumed), content(whole)
    assert set(found) == {"model", "twin", "teacher"}
    for name, state in expected.items():
        assert all(torch.equal(value, found[name][key]) for key, value in state.items()), name
        assert any(not torch.equal(value, first[name][key]) for key, value in state.items()), name
    assert not torch.equal(expected["model"]["head.fc.weight"], expected["twin"]["head.fc.weight"])


def test_training_gives_back_its_figures_and_says_them_again_of_a_finished_member(root):
    recipe, folder = load_recipe("convnext_xlarge", [*NARROW, "name=told"]), root / "runs/tiny/told_fold0"
    folder.mkdir(parents=True)
    made = member.train_member(recipe, 0, "tiny", folder)
    assert not made.stopped and made.weights == weights_path("tiny", "told", 0) and made.epoch == 1
    table = video_scores(pd.read_csv(folder / "oof.csv"), "mean")
    assert made.held_out["logloss"] == pytest.approx(log_loss(table.label.to_numpy(int), table.score.to_numpy()))
    assert set(made.held_out) == {"logloss", "eer", "auc"}
    assert member.train_member(recipe, 0, "tiny", folder) == made
