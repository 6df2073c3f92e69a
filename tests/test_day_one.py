"""A decision for cameras that nobody trained for: what is learnt on some is judged on one that had no say in it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from liveness import convert
from liveness.base.compose import load_ensemble
from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.base.files import CODE, write_json
from liveness.evaluation.calibration import Calibration
from liveness.frames.quality import MEASURES
from liveness.laboratory import day_one
from liveness.laboratory.day_one import LearningPlan
from liveness.members.names import operating_path
from liveness.prediction.engine import load_members, read_ensemble
from liveness.prediction.limits import InputLimit
from liveness.prediction.operating import Operating, read_operating

SHARED = Path(os.environ.get("LIVENESS_SHARED") or CODE.parent / "shared") / "weights" / "minifasnet"
PLAN = LearningPlan({"a": 3.0, "b": 1.0})


def camera(name: str, offset: float, width: float = 150, room: float = 2.0, crop: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(len(name) + int(100 * (offset + 7)))
    labels = np.repeat([0, 1], [40, 50])
    table = pd.DataFrame({"domain": name, "filename": [f"{n}.jpg" for n in range(90)], "label": labels})
    table["species"], table["crop"] = "", crop
    for member, spread in (("a", 1.0), ("b", 2.0)):
        table[member] = 1 / (1 + np.exp(-rng.normal(4 * labels - 2 + offset, spread)))
    good = {"brightness": 90.0, "contrast": 40.0, "sharpness": 0.4, "face_width": width, "room": room}
    return table.assign(**good, other_face=0.0)[[*day_one.KEYS, "a", "b", *MEASURES]]


@pytest.fixture
def cameras() -> pd.DataFrame:
    parts = [camera("one", 0.3), camera("two", -0.4, 120), camera("three", 0.8, 130, 1.6), camera("four", 0, 200, 2.4)]
    return pd.concat([*parts, camera("cut", 5.0, 90, 1.0, True)], ignore_index=True)


def test_what_is_learnt_has_never_seen_the_camera_that_it_is_judged_on(cameras):
    rows = {row["domain"]: row for row in day_one.leave_one_out(cameras, PLAN)}
    here = cameras["domain"] == "two"
    turned = cameras.copy()
    turned.loc[here, "label"] = 1 - cameras.loc[here, "label"]
    turned.loc[here, ["a", "b", "face_width", "room"]] *= 0.5
    after = {row["domain"]: row for row in day_one.leave_one_out(turned, PLAN)}
    learnt = ("threshold", "threshold_interval", "limits")
    assert all(rows["two"][key] == after["two"][key] for key in learnt)
    assert all(rows["one"][key] != after["one"][key] for key in ("threshold", "limits"))
    assert rows["two"]["bpcer"] != after["two"]["bpcer"]
    # Pictures that were cut out are judged by what whole frames taught, and teach nothing.
    alone = day_one.leave_one_out(cameras[~cameras["crop"]], PLAN)
    assert [row for row in alone if row["domain"] == "one"] == [rows["one"]]
    assert rows["cut"]["crop"] and rows["cut"]["abstained"]["live"]["value"] == 1.0


def test_limits_are_the_least_of_the_live_videos_with_some_room(cameras):
    whole = cameras[~cameras["crop"]]
    attack = (whole["label"] == 0) & (whole["domain"] == "one")
    whole = whole.assign(face_width=whole["face_width"].where(~attack, 20.0))  # of attacks: no matter
    limits = {limit.reason: limit for limit in day_one.learn_decision(whole, PLAN).limits}
    assert limits["too_small"] == InputLimit("too_small", "face_width", pytest.approx(120 / 1.1, rel=5e-3))
    assert limits["cropped"] == InputLimit("cropped", "room", pytest.approx(1.6 / 1.1, rel=5e-3))
    assert limits["several_faces"] == day_one.SEVERAL


def test_an_abstention_turns_a_live_person_away_and_lets_no_attack_in():
    table = camera("x", 0).groupby("label").head(5).reset_index(drop=True)
    table["a"] = table["b"] = [0.1, 0.1, 0.5, 0.9, 0.9, 0.9, 0.9, 0.5, 0.1, 0.9]
    table.loc[[4, 9], "other_face"] = 0.3  # one attack and one live person who are not alone
    same = Calibration("none")
    operating = Operating(0.5, 0.4, 0.6, calibrations={"a": same, "b": same}, limits=(day_one.SEVERAL,))
    found = day_one.judge_decision(table, operating, PLAN.weights)

    def counts(part: dict) -> list[tuple[int, int]]:
        return [(part[name]["errors"], part[name]["of"]) for name in ("apcer", "bpcer")]

    assert counts(found) == [(1, 5), (3, 5)]  # live: abstained at 0.5, an attack by its score, not alone
    assert counts(found["decided"]) == [(1, 3), (1, 3)]
    assert counts(found["forced"]) == [(3, 5), (1, 5)]  # 0.5 reaches the threshold
    assert [found["abstained"][kind]["errors"] for kind in ("live", "attack")] == [2, 2]
    assert found["abstained"]["limits"] == {"several_faces": {"live": 1, "attack": 1}}


def test_every_camera_counts_the_same_for_the_threshold(cameras):
    whole = cameras[~cameras["crop"]]
    scores, labels, domains = (whole[name].to_numpy() for name in ("a", "label", "domain"))
    scores = np.where(np.arange(len(scores)) % 17, scores, np.nan)

    def cost(threshold: float) -> float:
        total = 0.0
        for name in set(domains):
            attack, live = (scores[(domains == name) & (labels == label)] for label in (0, 1))
            total += max((attack >= threshold).mean() - 0.05, 0) + max(1 - (live >= threshold).mean() - 0.05, 0)
        return total

    found = day_one.choose_threshold(scores, labels, domains, "eer", 0.05)
    best = min(cost(value) for value in np.linspace(0.001, 0.999, 3000))
    assert cost(found) <= best + 1e-9 and cost(found - 0.2) > best < cost(found + 0.2)
    strict = day_one.choose_threshold(scores, labels, domains, "apcer1", 0.05)
    worst = [
        max((scores[(domains == n) & (labels == 0)] >= t).mean() for n in set(domains)) for t in (strict, 0.9 * strict)
    ]
    assert worst[0] <= 0.01 < worst[1] and strict > found
    again = np.tile(np.arange(len(scores)), 2)[: len(scores) + 90]  # a camera twice as often: no other threshold
    assert day_one.choose_threshold(scores[again], labels[again], domains[again], "eer", 0.05) == pytest.approx(found)


def test_what_ships_is_read_as_it_was_learnt(cameras, tmp_path):
    points = [day_one.learn_decision(cameras, PLAN, name) for name in ("eer", "apcer5")]
    path = tmp_path / "mine.json"
    write_json(path, day_one.describe_decision(points, PLAN.weights, cameras))
    for learnt in points:
        read = read_operating(path, ["a", "b"], "", learnt.point, {"a": 6.0, "b": 2.0})
        assert replace(read, source="") == learnt and learnt.low <= learnt.threshold <= learnt.high
        assert "over 4 cameras, 360 videos" in read.source
    assert points[0].low < points[0].high


@pytest.mark.parametrize("sets", [["away"], ["live_only"], ["none"]])
def test_sets_that_teach_nothing_are_one_line(workspace, sets):
    for name, labels in (("live_only", "1"), ("none", "")):
        (workspace / "data" / name).mkdir(parents=True)
        table = f"filename,label,species,status\n1.mp4,{labels},,ok\n"
        (workspace / "data" / name / "labels_video.csv").write_text(table)
    with pytest.raises(UserError, match="prepare|labels are all 1; expected|no labelled video") as caught:
        day_one.score_domains(sets, "minifasnet")
    assert "\n" not in str(caught.value)


def test_too_few_cameras_are_one_line(cameras):
    with pytest.raises(UserError, match="2 cameras with whole frames; expected at least three"):
        day_one.learn_decision(cameras[cameras["domain"].isin(["one", "two", "cut"])], PLAN)


def test_the_shipped_decision_is_sound_and_of_the_ensemble_that_it_names():
    path = CODE / "configs" / "operating" / "minifasnet.json"
    weights = {f"{m.recipe}_fold{m.fold}": m.weight for m in load_ensemble("minifasnet").members}
    found = {
        entry["name"]: read_operating(path, list(weights), "", entry["name"], weights)
        for entry in json.loads(path.read_text())["thresholds"]
    }
    assert found["eer"].threshold < found["apcer5"].threshold < found["apcer1"].threshold
    assert all(one.low < one.high and one.limits and one.calibrations for one in found.values())


@pytest.mark.skipif(not SHARED.is_dir(), reason="neither LIVENESS_SHARED nor ../shared has the authors' checkpoints")
def test_the_shipped_decision_comes_with_the_weights_and_is_missed_where_it_is_not(workspace):
    folder = workspace / "weights" / "minifasnet"
    shutil.copytree(SHARED, folder)
    convert.main(["minifasnet"])
    path = operating_path("minifasnet", "minifasnet")
    for point in [entry["name"] for entry in json.loads(path.read_text())["thresholds"]]:
        described = read_ensemble(load_ensemble("minifasnet"), point=point)
        reasons = {limit.reason for limit in described.operating.limits}
        assert {"cropped", "too_small", "several_faces"} == reasons and not described.operating.lost
        assert all(wanted.measured for wanted in described.wanted())
    path.write_text(path.read_text().replace("0.", "x.", 1))
    with pytest.raises(UserError, match="minifasnet.json: .*run: python -m liveness.convert minifasnet") as caught:
        read_ensemble(load_ensemble("minifasnet"))
    assert "\n" not in str(caught.value)
    path.unlink()
    assert "minifasnet.json is not there" in read_ensemble(load_ensemble("minifasnet")).operating.lost
    # One network alone is no ensemble that anything was learnt for.
    alone = load_members(Ensemble("alone", "minifasnet", [EnsembleMember("minifasnet_v2", 0)]))
    assert not alone.operating.limits and not alone.operating.lost
