"""Cameras as domains: the column, folds that hold a camera out, the sampler, the figures per camera, telling cues."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from liveness.evaluation.cameras import measure_cameras, measure_cues, tell_cues, tell_worst
from liveness.evaluation.metrics import eer


def scored_table(shifts: dict[str, float], each: int = 40, seed: int = 5) -> pd.DataFrame:
    """``each`` live videos and attacks a camera; scores overlap, and a camera's are moved by its shift."""
    rng, parts = np.random.default_rng(seed), []
    for camera, shift in shifts.items():
        labels = np.repeat([1, 0], each)
        scores = (0.5 + shift + np.where(labels == 1, 0.12, -0.12) + rng.normal(0, 0.1, 2 * each)).clip(0, 1)
        names = [f"{camera}-{i}" for i in range(2 * each)]
        parts.append(pd.DataFrame({"camera": camera, "label": labels, "score": scores, "group": names}))
    return pd.concat(parts, ignore_index=True)


def test_every_camera_has_its_row_and_the_worst_is_the_headline():
    table = scored_table({"c10": 0.25, "c2": 0.0, "": -0.05})
    table.loc[3, "score"] = np.nan
    found = measure_cameras(table, 0.5)
    assert [row["camera"] for row in found["rows"]] == ["c2", "c10", ""]
    for row in found["rows"]:
        part = table[(table["camera"] == row["camera"]) & table["score"].notna()]
        live, attack = part[part["label"] == 1]["score"], part[part["label"] == 0]["score"]
        assert row["apcer"]["value"] == (attack >= 0.5).mean() and row["bpcer"]["value"] == (live < 0.5).mean()
        assert row["eer"] == eer(part["label"], part["score"]).value
        assert row["threshold"] == eer(part["label"], part["score"]).threshold
        assert row["eer_interval"][0] <= row["eer"] <= row["eer_interval"][1]
        other = table[(table["camera"] != row["camera"]) & table["score"].notna()]
        learned = eer(other["label"], other["score"]).threshold
        assert row["elsewhere"]["apcer"]["value"] == (attack >= learned).mean()
        assert row["elsewhere"]["bpcer"]["value"] == (live < learned).mean()
    assert (found["rows"][1]["videos"], found["rows"][1]["scored"]) == (80, 79)
    assert found["worst"] == "c10"
    own = [found["rows"][i]["threshold"] for i in (0, 1)]
    assert found["spread"] == {"low": min(own), "high": max(own), "cameras": 2} and max(own) - min(own) > 0.15
    assert f"{100 * found['rows'][1]['apcer']['value']:.1f} % of attacks pass" in tell_worst(found)


def test_a_camera_of_one_class_or_without_a_score_has_a_row_and_one_without_a_name_is_no_camera():
    table = scored_table({"a": 0.0, "b": 0.0, "c": 0.0})
    table = table[(table["camera"] != "b") | (table["label"] == 0)]
    table.loc[table["camera"] == "c", "score"] = np.nan
    a, b, c = measure_cameras(table, 0.5)["rows"]
    assert np.isnan(b["eer"]) and b["bpcer"]["total"] == 0 and b["apcer"]["total"] == 40
    assert (c["videos"], c["scored"]) == (80, 0) and np.isnan(c["auc"])
    assert np.isnan(a["elsewhere"]["threshold"])  # the other cameras' scores are all attacks'
    assert measure_cameras(table, 0.5)["spread"] is None
    assert measure_cameras(table.assign(camera=""), 0.5) is None


def test_intervals_of_a_camera_are_by_group_where_groups_hold_several_videos():
    table = scored_table({"a": 0.1, "b": 0.0})
    alone = measure_cameras(table, 0.5)["rows"][0]
    shared = measure_cameras(table.assign(group=[f"p{i // 20}" for i in range(len(table))]), 0.5)["rows"][0]
    assert (alone["by"], shared["by"], shared["groups"]) == ("video", "group", 4)
    assert np.diff(shared["apcer"]["interval"]) > np.diff(alone["apcer"]["interval"])


def cue_table(seed: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"camera": np.repeat(["a", "b"], 60), "label": np.tile([1, 0], 60)})
    for cue, middle in {"brightness": 120, "sharpness": 0.4, "face_width": 150, "contrast": 40}.items():
        table[cue] = middle * rng.normal(1, 0.2, len(table))
    return table


def test_a_planted_shortcut_is_flagged_on_its_camera_and_nothing_else_is():
    table = cue_table()
    assert measure_cues(table) == []
    bright = (table["camera"] == "b") & (table["label"] == 1)
    table.loc[bright, "brightness"] += 60
    table.loc[(table["camera"] == "a") & (table["label"] == 1), "face_width"] *= 0.4  # a cue counts either way
    table.loc[[0, 1], "face_width"] = np.nan
    first, second = measure_cues(table)
    assert (first["camera"], first["cue"], second["camera"], second["cue"]) == ("a", "face_width", "b", "brightness")
    b = table[table["camera"] == "b"]
    assert second["auc"] == pytest.approx(roc_auc_score(b["label"], b["brightness"]))
    assert first["auc"] < 0.2 and first["videos"] == 58
    assert second["live"] == b[b["label"] == 1]["brightness"].median()
    told = tell_cues([first, second])
    assert len(told) == 2 and told[1].startswith("Camera b: brightness of the face (AUC 0.9")


def test_too_few_videos_flag_no_cue():
    table = cue_table().groupby(["camera", "label"]).head(9)
    assert measure_cues(table.assign(brightness=table["label"] * 100.0)) == []
