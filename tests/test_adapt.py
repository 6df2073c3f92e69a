"""adapt: a few clips of one camera -> a candidate or nothing, chosen without letting a clip judge itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import at_home, prepare_here
from PIL import Image
from test_prediction import put_member
from torch import nn

from liveness import adapt
from liveness.adaptation import adapting, judging
from liveness.adaptation.candidates import (
    DAY_ONE,
    HOME,
    OF_SCORES,
    PROBE,
    THRESHOLDS,
    Shift,
    blend_shifted,
    fit_candidate,
    fit_shift,
    score_candidate,
)
from liveness.adaptation.choice import Choice, bound_gain, choose, compare_candidates, deal_clips, pick
from liveness.adaptation.clips import Clips, draw_clips, measure_light, relight, see_clips, share_lost_highlights
from liveness.adaptation.learning import fine_tune
from liveness.adaptation.start import Network, StartEnsemble, can_learn, load_start
from liveness.base.compose import load_adapt_plan, load_recipe
from liveness.base.config import Detector, FramePlan, View
from liveness.base.errors import UserError
from liveness.base.experiments import AdaptPlan
from liveness.evaluation.combine import logit, sigmoid
from liveness.exporting.ensemble import Export, export_ensemble
from liveness.frames.quality import MEASURES
from liveness.frames.views import make_request
from liveness.members.ensembles import find_ensemble
from liveness.members.weights import describe_member
from liveness.models.build import build
from liveness.prediction.detector import LivenessDetector
from liveness.prediction.engine import Member
from liveness.prediction.folder import score_videos
from liveness.prediction.limits import InputLimit, find_inside
from liveness.prediction.operating import Operating

PLAN = AdaptPlan(folds=3, steps=4, batch=8, head_spread=1.0)
KINDS = (*OF_SCORES, PROBE)  # what is quick
MEMBER = "convnext_xlarge_fold0"


def write_start(root: Path) -> None:
    """weights/home/tiny.json and its member of random weights, which look at whole frames of 32 px."""
    put_member("convnext_xlarge", 0, "home", "frames.plan=positions", data_hash="h")
    points = [{"name": "eer", "target": None, "threshold": 0.5, "threshold_interval": [0.45, 0.55]}]
    about = {
        "data_hash": "h",
        "weights": {MEMBER: 1.0},
        "calibration": {"how": "platt", "members": {MEMBER: {"how": "platt", "slope": 2.0, "offset": 0.0}}},
        "thresholds": points,
        "ensemble": [{"recipe": "convnext_xlarge", "fold": 0, "weight": 1.0}],
    }
    (root / "weights" / "home" / "tiny.json").write_text(json.dumps(about))


class Colours(nn.Module):
    """Mean colours of the middle and of the frame, a layer that mixes them, and a classifier of three classes whose
    first guess is poor: what adaptation sees of a network, with next to no computing."""

    class_layer, live_class, late_layers = "prob", 1, ("mix", "prob")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.prob = nn.Linear(6, 8), nn.Linear(8, 3, bias=False)

    def forward_early(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images[:, :, 8:24, 8:24].mean((2, 3)), images.mean((2, 3))], 1) / 50 - 2

    def forward_late(self, inner: torch.Tensor) -> torch.Tensor:
        return self.mix(inner)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.prob(features)


@pytest.fixture(scope="module")
def start() -> StartEnsemble:
    view = View(kind="frame", size=32, mean=[0, 0, 0], std=[1, 1, 1], white=255)
    wanted = make_request(FramePlan(), view, Detector(), 95)
    member = Member(MEMBER, 1.0, wanted, "mean", Path("colours"), False)
    return StartEnsemble("tiny", "home", [Network(member, Colours().eval().requires_grad_(False), {})], Operating())


def draw_picture(live: int, rng: np.random.Generator, bright: int = 0) -> np.ndarray:
    """A square on a ground, warm where live: 32 x 32 px."""
    picture = rng.integers(40, 120, (32, 32, 3)) + bright
    picture[8:24, 8:24] += np.array([90, 40, 0] if live else [0, 40, 90])
    return picture.clip(0, 255).astype(np.uint8)


def make_clips(count: int = 24, persons: int = 8, told: bool = True, brighter: int = 0, seed: int = 3) -> Clips:
    """Live and attack in turn, each person in both. told: whether colour tells them; brighter: by how much live is."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    shown = labels if told else rng.permutation(labels) * 0
    views = [np.stack([draw_picture(s, rng, brighter * label)] * 2) for s, label in zip(shown, labels, strict=True)]
    groups = np.array([f"p{number // 2 % persons}" for number in range(count)])
    measures = pd.DataFrame(1.0, index=range(count), columns=list(MEASURES))
    empty = np.full(count, "")
    names = [f"{number}.png" for number in range(count)]
    return Clips(names, labels, groups, empty, empty, measures, {MEMBER: views}, {MEMBER: [2] * count})


# --- choosing --------------------------------------------------------------------------------------


def test_what_clips_teach_is_taken_and_chance_is_not(start):
    seen = see_clips(start, make_clips())
    found = choose(start, seen, PLAN, KINDS)
    assert found.kind == PROBE and found.apart and len(found.picked) == 3
    right = (found.nested[:, 0] > 0.5) == (seen.labels == 1)
    assert right.mean() > 0.9 > ((found.scores[DAY_ONE][:, 0] > 0.5) == (seen.labels == 1)).mean()
    nothing = choose(start, see_clips(start, make_clips(told=False)), PLAN, KINDS)
    assert nothing.kind in OF_SCORES  # scores that say nothing may be made less sure of themselves


def test_no_clip_has_a_say_in_its_own_score(start):
    seen = see_clips(start, make_clips())
    before = choose(start, seen, PLAN, KINDS)
    person = seen.groups == "p2"
    turned = replace(seen, labels=np.where(person, 1 - seen.labels, seen.labels))  # as many of each class as before
    after = choose(start, turned, PLAN, KINDS)
    assert np.array_equal(before.folds, after.folds)
    fold = before.folds == before.folds[person][0]
    assert all(len(set(before.folds[seen.groups == group])) == 1 for group in set(seen.groups))
    assert np.array_equal(before.nested[fold], after.nested[fold])
    assert not np.array_equal(before.nested[~fold], after.nested[~fold])


def test_light_alone_is_not_taken_for_liveness(start):
    seen = see_clips(start, make_clips(40, 20, told=False, brighter=80))
    found = choose(start, seen, PLAN, KINDS)
    assert found.kind in OF_SCORES
    assert "better in this light only" in {one.verdict for one in found.compared}


@pytest.mark.parametrize("persons", [1, 2])
def test_one_person_changes_no_network(start, persons):
    clips = make_clips(12, persons)
    folds, apart = deal_clips(clips.labels, clips.groups, PLAN)
    assert not apart and all(set(clips.labels[folds == fold]) == {0, 1} for fold in set(folds))
    found = choose(start, see_clips(start, clips), PLAN)
    assert [one.kind for one in found.compared] == list(OF_SCORES)


def test_a_live_person_alone_is_on_no_side_without_the_other_class():
    labels, groups = np.arange(20) % 2, np.arange(20).astype(str)
    groups[labels == 1] = "me"
    folds, apart = deal_clips(labels, groups, PLAN)
    assert not apart and all(labels[folds != fold].sum() for fold in set(folds))


@pytest.mark.parametrize("live", [2, 3])
def test_so_few_clips_that_no_class_fills_the_folds_are_dealt_one_by_one(live):
    labels = np.array([1] * live + [0] * (5 - live))
    folds, apart = deal_clips(labels, np.array([f"{at}.mp4" for at in range(5)]), PLAN)
    assert not apart and len(set(folds)) > 2
    assert max(np.bincount(folds[labels == 1]).max(), np.bincount(folds[labels == 0]).max()) == 1


def test_only_what_is_beyond_the_interval_is_better():
    rng = np.random.default_rng(0)
    labels, groups = np.arange(200) % 2, np.arange(200).astype(str)
    scores = sigmoid(rng.normal(2 * labels - 1, 1.5))
    both = np.stack([scores, scores], axis=1)
    sharper, noisy = sigmoid(3 * logit(both)), sigmoid(logit(both) + rng.normal(0, 0.1, both.shape))
    good = sigmoid(logit(both) + (2 * labels - 1)[:, None])
    compared = compare_candidates({DAY_ONE: both, "noisy": noisy, "sharper": sharper, "good": good}, labels, groups)
    verdicts = {one.kind: one.verdict for one in compared}
    assert verdicts["noisy"] == "cannot be told apart" and verdicts["good"] == "better" == compared[-1].verdict
    assert pick(compared) == "good" and pick(compared[:3]) == DAY_ONE
    gains = rng.normal(-0.1, 1, 200)
    low, high = bound_gain(gains, labels, None)
    error = np.sqrt(sum(gains[labels == one].var(ddof=1) / 100 for one in (0, 1)) / 4)
    middle = (gains[labels == 0].mean() + gains[labels == 1].mean()) / 2
    assert (low, high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.15 * error)
    assert bound_gain(gains, labels, np.full(200, "p")) == (-np.inf, np.inf)


# --- candidates ------------------------------------------------------------------------------------


def test_a_camera_s_offset_is_shrunk_by_how_few_clips_there_are():
    rng, found = np.random.default_rng(1), {}
    for count in (6, 60, 600):
        labels = np.arange(count) % 2
        logits = np.repeat((rng.normal(0, 1, count) + 4 * labels - 2 + 3)[:, None, None], 2, axis=2)  # off by 3
        found[count] = fit_shift(THRESHOLDS, logits, {"a": 1.0}, labels, PLAN).offset
        grid = np.linspace(-6, 1, 3001)
        fit = np.logaddexp(0, -(2 * labels - 1)[:, None] * (logits[:, 0, :1] + grid)).mean(axis=0)
        reference = grid[np.argmin(count * fit + (grid / PLAN.offset_spread) ** 2 / 2)]
        assert found[count] == pytest.approx(reference, abs=0.01)
    assert 0 > found[6] > found[60] > found[600] > -3.5
    assert fit_shift(THRESHOLDS, logits, {"a": 1.0}, np.ones(600, int), PLAN) == Shift()


def test_a_threshold_that_moves_is_a_score_that_moves_the_other_way():
    logits = np.random.default_rng(2).normal(0, 2, (50, 2, 2))
    weights, shift = {"a": 5.0, "b": 1.0}, Shift(1.0, -1.3)
    plain = blend_shifted(DAY_ONE, logits, weights, Shift())
    moved = blend_shifted(THRESHOLDS, logits, weights, shift)
    threshold = sigmoid(logit(np.array(0.52)) + 1.3)
    assert np.array_equal(moved >= 0.52, plain >= threshold)
    assert plain[:, 0] == pytest.approx((5 * sigmoid(logits[:, 0, 0]) + sigmoid(logits[:, 1, 0])) / 6)


def test_fine_tuning_keeps_what_it_is_told_to_keep_and_repeats_itself(start):
    seen, rows = see_clips(start, make_clips(8)), np.arange(8)
    network = start.networks[0]

    def tune(plan: AdaptPlan) -> dict[str, torch.Tensor]:
        return fine_tune(network, seen.of[MEMBER], seen.labels, rows, plan).model.state_dict()

    def distance(state: dict[str, torch.Tensor]) -> float:
        return sum(float((value - first[key]).square().sum()) for key, value in state.items()) ** 0.5

    first = {key: value.clone() for key, value in network.model.state_dict().items()}
    free, half, held = (tune(replace(PLAN, **a)) for a in ({"keep_init": 0.0}, {"keep_init": 0.5}, {"l2_sp": 100.0}))
    assert distance(free) > 0 and distance(half) == pytest.approx(distance(free) / 2, rel=1e-3)
    assert distance(held) < distance(half) and distance(tune(replace(PLAN, keep_init=1.0))) == pytest.approx(
        0, abs=1e-5
    )
    assert all(torch.equal(value, half[key]) for key, value in tune(PLAN).items())
    assert all(torch.equal(value, first[key]) for key, value in network.model.state_dict().items())


def test_the_published_networks_learn_behind_what_is_kept_and_give_the_same_scores_before():
    from liveness.adaptation.learning import _find_learning, _to_logits

    for recipe in ("minifasnet_v2", "minifasnet_v1se"):
        torch.manual_seed(1)
        model = build(load_recipe(recipe).model, 80, fits=True).eval().requires_grad_(False)
        images = 255 * torch.rand(3, 3, 80, 80)
        with torch.no_grad():
            assert torch.allclose(_to_logits(model, model.forward_early(images)), model(images).flatten(), atol=1e-5)
        learning = _find_learning(model)
        _to_logits(model, model.forward_early(images)).sum().backward()
        assert all(parameter.grad is not None for parameter in learning)
        assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == set(model.late_layers)


def test_a_member_made_at_home_knows_these_clips_only(start):
    seen = see_clips(start, make_clips())
    rows = np.arange(len(seen))
    fitted = fit_candidate(HOME, start, seen, rows, PLAN)
    assert len(fitted.networks) == 2 and list(fitted.weights.values()) == [1.0, 1.0]  # home_share: a half
    home = score_candidate(fitted, seen, rows)[:, 1, 0]
    assert ((home > 0) == (seen.labels == 1)).mean() > 0.9
    alone = fit_candidate(HOME, start, seen, rows[seen.labels == 1], PLAN)  # of one class nothing is learnt
    assert alone.networks is start.networks


def test_relit_clips_have_the_light_of_another_and_lose_their_own():
    rng = np.random.default_rng(4)
    views = rng.integers(60, 160, (3, 40, 40, 3)).astype(np.uint8)
    other = relight(views, (180.0, 12.0))
    assert measure_light(other) == pytest.approx((180, 12), abs=1.0)
    brighter = (views * 0.5 + 70).astype(np.uint8)
    both = [relight(part, (110.0, 15.0)).astype(int) for part in (views, brighter)]
    assert np.abs(both[0] - both[1]).max() <= 3


def test_highlights_that_only_live_clips_have_lost_are_lost_by_all_relit_ones():
    clips, rng = make_clips(told=False), np.random.default_rng(5)
    assert not share_lost_highlights(clips).any()
    plain = [rng.integers(20, 250, (2, 32, 32, 3)).astype(np.uint8) for _ in clips.names]
    exposed = [
        (v * 1.5).clip(0, 255).astype(np.uint8) if live else v for v, live in zip(plain, clips.labels, strict=True)
    ]
    lit = replace(clips, views=dict.fromkeys(clips.views, exposed))
    lost = share_lost_highlights(lit)
    assert lost == pytest.approx(np.full(3, 1 - 148 / 230), abs=0.05)  # what is above 255 / 1.5
    flat = [(part == part.max((0, 1, 2))).mean() for part in (relight(v, (120.0, 40.0), lost) for v in exposed)]
    assert max(flat) - min(flat) < 0.05 and min(flat) > 0.3  # live and attack alike
    assert not share_lost_highlights(replace(lit, labels=1 - lit.labels)).any()  # the trace of a screen


def test_drawn_clips_are_half_live():
    clips = make_clips(30)
    rows = draw_clips(clips, 10, seed=1)
    assert len(set(rows)) == 10 and clips.labels[rows].sum() == 5
    few = clips.take(np.flatnonzero((clips.labels == 1) | (np.arange(30) < 6)))  # three attacks
    assert few.labels[draw_clips(few, 12)].sum() == 9 and few.take(draw_clips(few, 12)).names[0] in clips.names


# --- judging ---------------------------------------------------------------------------------------


def test_labels_that_all_scores_contradict_are_doubted():
    clips = make_clips(20)
    scores = np.where(clips.labels == 1, 0.97, 0.02)
    swapped = [2, 7, 12, 17]
    labels = clips.labels.copy()
    labels[swapped] = 1 - labels[swapped]
    after = scores.copy()
    after[7] = labels[7]  # what was learnt mends one of them
    found = Choice(DAY_ONE, Shift(), [], {DAY_ONE: np.stack([scores] * 2, 1)}, np.stack([after] * 2, 1), labels, True)
    assert judging.find_doubtful(found, clips.names, labels) == ["2.png", "12.png", "17.png"]


def test_labels_swapped_in_a_fifth_of_the_clips_are_found(start):
    seen = see_clips(start, make_clips(40, 20))
    good = fit_candidate(PROBE, start, seen, np.arange(40), PLAN).networks
    swapped = np.arange(40) % 5 == 0
    wrong = replace(seen, labels=np.where(swapped, 1 - seen.labels, seen.labels))
    found = choose(replace(start, networks=good), wrong, PLAN, OF_SCORES)
    assert judging.find_doubtful(found, wrong.names, wrong.labels) == [f"{number}.png" for number in range(0, 40, 5)]


def test_a_limit_that_turns_all_away_moves_to_the_measured_clips():
    clips = make_clips(10)
    clips.measures["room"], clips.measures["face_width"] = 1.0, [50.0, *[200.0] * 9]
    limits = (InputLimit("cropped", "room", least=1.21), InputLimit("too_small", "face_width", least=88.0))
    cropped, small = judging.widen_limits(limits, clips)
    assert cropped.least == pytest.approx(1 / 1.1, rel=1e-2) and small == limits[1]
    assert find_inside(clips.measures, limits).sum() == 0 and find_inside(clips.measures, (cropped, small)).sum() == 9


# --- the verb --------------------------------------------------------------------------------------


def write_raw(root: Path, name: str, clips: Clips, **columns: list[str]) -> None:
    folder = root / "raw" / name
    (folder / "images").mkdir(parents=True)
    for number, filename in enumerate(clips.names):
        large = clips.views[MEMBER][number][0].repeat(3, axis=0).repeat(3, axis=1)
        Image.fromarray(large).save(folder / "images" / filename)
    table = pd.DataFrame({"fname": clips.names, "liveness_score": clips.labels, **columns})
    table.to_csv(folder / "label.csv", index=False)


QUICK = ["--ensemble", "tiny", "-o", "folds=3", "steps=2", "batch=4", "head_spread=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A workspace: the start, the set ``mine`` of named persons, ``other`` with some of its clips, ``away``."""
    root = tmp_path_factory.mktemp("adapt")
    with at_home(root):
        write_start(root)
        clips = make_clips(18, 6)
        write_raw(root, "mine", clips, subject=clips.groups.tolist())
        write_raw(root, "other", make_clips(6).take(np.array([0, 1, 4, 5])))
        write_raw(root, "away", make_clips(8, seed=9), camera=["a", "b", "b", "a"] * 2)
        for name in ("mine", "other", "away"):
            prepare_here(root, name, "folds.n=2", "folds.duplicates=0.001")
    return root


def test_a_killed_run_goes_on_with_what_it_has_fitted(start, tmp_path):
    seen, undisturbed = see_clips(start, make_clips()), choose(start, see_clips(start, make_clips()), PLAN, KINDS)
    keep, asked = adapting._keep_in(tmp_path, "f"), []

    def die(kind, held, compute):
        asked.append(held)
        if len(asked) > 4:
            raise KeyboardInterrupt
        return keep(kind, held, compute)

    with pytest.raises(KeyboardInterrupt):
        choose(start, seen, PLAN, KINDS, die)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert 0 < len(kept) < 7
    again = choose(start, seen, PLAN, KINDS, keep)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and len(list(tmp_path.glob("*.json"))) == 7
    assert np.array_equal(again.nested, undisturbed.nested) and again.compared == undisturbed.compared
    other = adapting._keep_in(tmp_path, "other clips")("probe", (0,), lambda: np.zeros(3))
    assert other.tolist() == [0, 0, 0]


def force(kind: str, patch: pytest.MonkeyPatch) -> list[tuple]:
    """Whatever the clips say, this candidate is chosen; what is shipped is listed."""
    real, ship, shipped = adapting.choose, adapting.ship, []

    def choose_it(*arguments, **others):
        found = real(*arguments, **{**others, "kinds": (DAY_ONE, kind)})
        return replace(found, kind=kind, shift=Shift() if kind == DAY_ONE else Shift(1.5, 0.3))

    patch.setattr(adapting, "choose", choose_it)
    patch.setattr(adapting, "ship", lambda *given: (shipped.append(given), ship(*given)))
    return shipped


@pytest.mark.full
def test_prediction_gives_what_was_learnt_and_two_runs_give_equal_bytes(home, capsys, monkeypatch):
    with at_home(home):
        shipped = force(HOME, monkeypatch)
        assert adapt.main(["mine", *QUICK]) == 0
        files = [*(home / "weights" / "mine").iterdir(), home / "runs" / "mine" / "adapted" / "adapted.json"]
        first = {path: path.read_bytes() for path in files}
        shutil.rmtree(home / "runs" / "mine" / "adapted" / "fits")
        assert adapt.main(["mine", *QUICK]) == 0
        assert {path: path.read_bytes() for path in first} == first and len(files) == 4
        said = capsys.readouterr().out
        assert "home member is chosen" in said.lower() and "DATA=mine ENSEMBLE=adapted" in said
        assert "What was chosen, and why" in (home / "result" / "adapted_mine.html").read_text()

        assert find_ensemble("adapted").data == "mine" and len(find_ensemble("adapted", "mine").members) == 2
        start, fitted, shift, _, _, clips = shipped[-1]
        logits = score_candidate(fitted, see_clips(start, clips), np.arange(18))
        learnt = blend_shifted(HOME, logits, fitted.weights, shift)[:, 0]
        paths = [home / "raw" / "mine" / "images" / name for name in clips.names]
        new = score_videos(paths, "adapted", "mine", workers=1)
        assert new["score"].to_numpy() == pytest.approx(learnt, abs=1e-6)
        told = [describe_member(path) for path in (home / "weights" / "mine").glob("*.safetensors")]
        assert all(len(one["trained_on"]["videos"]) == 18 and one["data"] == "mine" for one in told)
        with pytest.raises(UserError, match=r"was trained on 18 videos of mine"):
            adapt.main(["mine", "--ensemble", "adapted", "--data", "mine"])

        exported = export_ensemble(Export("adapted", "mine"))  # compared on its own clips: it has held out none
        assert json.loads((exported / "contract.json").read_text())["gate"]["on"] == "mine"
        with LivenessDetector(exported) as detector:
            rows = {path.name: detector.score(path) for path in paths[:2]}
        expected = new.set_index("fname")["score"]
        assert {name: row.score for name, row in rows.items()} == pytest.approx(dict(expected[list(rows)]), abs=1e-5)


@pytest.mark.full
def test_what_stays_as_it_is_scores_as_before(home, monkeypatch):
    with at_home(home):
        force(DAY_ONE, monkeypatch)
        adapt.main(["mine", *QUICK, "--anchor", "away"])
        anchor = json.loads((home / "runs" / "mine" / "adapted" / "adapted.json").read_text())["anchor"]
        assert anchor["before"] == anchor["after"] and anchor["clips"] == 8
        assert [row["camera"] for row in anchor["cameras"]] == ["a", "b"]
        paths = [home / "raw" / "mine" / "images" / f"{number}.png" for number in range(4)]
        new, old = (score_videos(paths, *named, workers=1) for named in (("adapted", "mine"), ("tiny", "home")))
        assert new["score"].tolist() == old["score"].tolist() and new["decision"].tolist() == old["decision"].tolist()
        assert "trained_on" not in describe_member(next((home / "weights" / "mine").glob("*adapted_fold0*")))


def test_an_anchor_with_the_set_s_own_clips_is_refused(home):
    with (
        at_home(home),
        pytest.raises(UserError, match=r"--anchor other: 4 clips of mine are in it too \(0.png is equal"),
    ):
        adapt.main(["mine", *QUICK, "--anchor", "other"])
    with at_home(home), pytest.raises(UserError, match="is the set itself"):
        adapt.main(["mine", *QUICK, "--anchor", "mine"])
    assert not (home / "weights" / "other").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.head(4), r"4 labelled clips with a face; expected 5 at least"),
        (lambda t: t.assign(label="1"), r"the labels of its 18 videos are 1 only"),
        (lambda t: t.assign(camera=["a", "b"] * 9), r"clips are of 2 cameras; name one: --camera a"),
    ],
)
def test_sets_that_cannot_teach_are_one_line(home, tmp_path, change, said):
    for part in ("data/mine", "weights/home"):
        shutil.copytree(home / part, tmp_path / part, symlinks=True)
    table = tmp_path / "data" / "mine" / "labels_video.csv"
    changed = change(pd.read_csv(table, dtype=str, keep_default_na=False))
    changed.to_csv(table, index=False)
    (tmp_path / "data" / "mine" / "folds.csv").unlink()
    with at_home(tmp_path), pytest.raises(UserError, match=said) as caught:
        adapt.main(["mine", *QUICK])
    assert "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


def test_labels_that_contradict_near_duplicates_are_one_line(home, tmp_path):
    for part in ("data/mine", "weights/home"):
        shutil.copytree(home / part, tmp_path / part, symlinks=True)
    path = tmp_path / "data" / "mine" / "duplicates.csv"
    path.write_text(
        "filename,other,distance,mirrored,label,other_label,joins_groups,contradiction\n3.png,4.png,0.1,0,1,0,1,1\n"
    )
    with (
        at_home(tmp_path),
        pytest.raises(UserError, match=r"3.png is labelled live and its near-duplicate 4.png attack"),
    ):
        adapt.main(["mine", *QUICK])
    assert not (tmp_path / "runs").exists()


def test_a_start_that_cannot_learn_is_one_line(tmp_path):
    with at_home(tmp_path):
        write_start(tmp_path)
        path = tmp_path / "weights" / "home" / "tiny.json"
        about = json.loads(path.read_text())
        steps = {"how": "isotonic", "knots": [[0.1, 0.2], [0.8, 0.9]]}
        about["calibration"]["members"][MEMBER] = steps
        path.write_text(json.dumps(about))
        with pytest.raises(UserError, match="calibrated by isotonic steps"):
            load_start("tiny")
        assert not can_learn(nn.Sequential(nn.Conv2d(3, 1, 1)))
        with pytest.raises(UserError, match="no ensemble 'nothing'"):
            load_start("nothing")
    with pytest.raises(UserError, match=r"keep_init=2"):
        load_adapt_plan("default", ["keep_init=2"])
