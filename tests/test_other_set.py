"""evaluate --on: trained weights on another labelled set, at the thresholds that they ship, as predict.sh decides."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_set
from in_process import prepare_here
from sklearn.metrics import roc_auc_score
from test_prediction import put_member
from test_report import Report
from test_shift import eer

from liveness import evaluate
from liveness.base import compose
from liveness.base.compose import load_ensemble
from liveness.base.errors import UserError
from liveness.evaluation import decisions
from liveness.laboratory.other_set import _compare, find_origin
from liveness.prediction.engine import read_ensemble
from liveness.prediction.folder import score_videos

# Name -> threshold and its interval, among the scores that the random weights give.
POINTS = {"eer": (0.615, 0.6115, 0.6185), "apcer5": (0.6253, 0.6245, 0.6255)}
CLIPS = 14  # of the set; the last is no video


def write_raw(root: Path) -> None:
    """raw/away: clips of seven persons and two cameras, the last one damaged; raw/home: one of these, one other."""
    (root / "raw" / "away" / "videos").mkdir(parents=True)
    rows = ["fname,liveness_score,subject,species,camera"]
    for number in range(CLIPS):
        live, path = number % 2, root / "raw" / "away" / "videos" / f"{number}.mp4"
        tiny_set.write_clip(path, live ^ (number in (3, 4, 9)), seed=100 + number)  # some look like the other class
        kind = "" if live else ("print", "replay")[number % 4 // 2]
        rows.append(f"{number}.mp4,{live},p{number // 2},{kind},{'ab'[number > 5]}")
    path.write_bytes(b"\0" * 5000)
    (root / "raw" / "away" / "label.csv").write_text("\n".join(rows) + "\n")
    (root / "raw" / "home" / "videos").mkdir(parents=True)
    shutil.copy(root / "raw" / "away" / "videos" / "4.mp4", root / "raw" / "home" / "videos" / "same.mp4")
    tiny_set.write_clip(root / "raw" / "home" / "videos" / "other.mp4", 1, seed=7)


def write_weights(root: Path) -> None:
    """Two members of random weights, and operating points with a calibration that spreads their scores."""
    for fold in (0, 1):
        put_member("convnext_xlarge", fold, "home", data_hash="h")
    names = [f"convnext_xlarge_fold{fold}" for fold in (0, 1)]
    thresholds = [
        {"name": name, "target": None, "threshold": middle, "threshold_interval": [low, high]}
        for name, (middle, low, high) in POINTS.items()
    ]
    members = {name: {"how": "platt", "slope": 3.0, "offset": 0.2} for name in names}
    about = {"data_hash": "h", "weights": dict.fromkeys(names, 1.0), "frames": {"typical": 3, "least": 2}}
    shipped = about | {"thresholds": thresholds, "calibration": {"how": "platt", "members": members}}
    (root / "weights" / "home" / "pair.json").write_text(json.dumps(shipped))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with configs/ and root/: weights of the ensemble ``pair``, trained on ``home``, judged on ``away``."""
    folder = tmp_path_factory.mktemp("other_set")
    root = folder / "root"
    root.mkdir()
    shutil.copytree(compose.CONFIGS, folder / "configs")
    head = "# @package _global_\ndefaults:\n  - /ensemble_schema\n  - _self_\nname: pair\ndata: home\nmembers:\n"
    members = "".join(f"  - {{recipe: convnext_xlarge, fold: {fold}}}\n" for fold in (0, 1))
    (folder / "configs" / "ensemble" / "pair.yaml").write_text(head + members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "CONFIGS", folder / "configs")
        patch.setenv("LIVENESS_ROOT", str(root))
        write_raw(root)
        write_weights(root)
        for name in ("away", "home"):
            prepare_here(root, name, "folds.n=2")
        assert evaluate.main(["pair", "--on", "away"]) == 0
    return folder


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    """A copy to spoil."""
    copy = tmp_path / "root"
    shutil.copytree(made / "root", copy, symlinks=True)
    monkeypatch.setattr(compose, "CONFIGS", made / "configs")
    monkeypatch.setenv("LIVENESS_ROOT", str(copy))
    return copy


def read(root: Path) -> tuple[pd.DataFrame, dict]:
    folder = root / "runs" / "home" / "pair"
    table = pd.read_csv(folder / "on_away.csv", keep_default_na=False, na_values={"score": [""]})
    return table, json.loads((folder / "on_away.json").read_text())


def test_rows_are_those_of_prediction(root):
    table, _ = read(root)
    paths = [root / "raw" / "away" / "videos" / name for name in table["filename"]]
    predicted = score_videos(paths, "pair")
    assert table["filename"].tolist() == [f"{number}.mp4" for number in range(CLIPS)]
    for column in ("decision", "status", "reason", "frames"):
        assert table[column].tolist() == predicted[column].tolist(), column
    there = table["score"].notna()
    np.testing.assert_allclose(table["score"][there], predicted["score"][there], atol=2e-9)
    assert table["status"].iloc[-1] == "unreadable" and not there.iloc[-1] and there.sum() == CLIPS - 1
    assert table["score"][there].nunique() == CLIPS - 1


def test_abstentions_count_as_the_standard_says(root):
    table, found = read(root)
    assert [point["name"] for point in found["points"]] == list(POINTS)
    seen = set()
    for point in found["points"]:
        middle, low, high = POINTS[point["name"]]
        silent = table.score.isna() | ((table.score > low) & (table.score < high))
        live, attack, passed = table.label == 1, table.label == 0, ~silent & (table.score >= middle)
        turned = live & ~passed
        assert point["bpcer"]["errors"] == turned.sum() and point["bpcer"]["total"] == live.sum()
        kinds = {name: passed[attack & (table.species == name)].mean() for name in ("print", "replay")}
        assert {name: rate["value"] for name, rate in point["apcer_species"].items()} == pytest.approx(kinds)
        assert point["apcer"]["value"] == pytest.approx(max(kinds.values()))
        for name, mine in (("live", live), ("attack", attack)):
            assert point["abstained"][name]["errors"] == (silent & mine).sum()
        decided = point["decided"]["bpcer"]
        assert (decided["errors"], decided["total"]) == ((turned & ~silent).sum(), (live & ~silent).sum())
        seen.add((turned.sum(), passed.sum(), silent.sum()))
    assert len(seen) == 2 and all(silent > 1 for _, _, silent in seen)
    assert found["headline"] == found["points"][0]
    assert (
        table["decision"].eq("abstain").sum()
        == found["headline"]["abstained"]["live"]["errors"] + (found["headline"]["abstained"]["attack"]["errors"])
    )


def test_scores_cameras_and_time_are_told(root):
    table, found = read(root)
    scored = table[table.score.notna()]
    assert found["pooled"]["auc"] == pytest.approx(roc_auc_score(scored.label, scored.score))
    assert found["pooled"]["eer"] == pytest.approx(eer(scored.label, scored.score))
    assert found["non_response"]["bpnrr"]["errors"] == 1 and found["non_response"]["apnrr"]["errors"] == 0
    worst = {}
    for row in found["cameras"]["rows"]:
        mine = table[table.camera == row["camera"]]
        apcer = (mine.decision[mine.label == 0] == "live").mean()
        bpcer = (mine.decision[mine.label == 1] != "live").mean()
        assert [row["apcer"]["value"], row["bpcer"]["value"]] == pytest.approx([apcer, bpcer])
        known = mine[mine.score.notna()]
        assert row["eer"] == pytest.approx(eer(known.label, known.score)) and row["few"] == "both"
        worst[row["camera"]] = max(apcer, bpcer)
    assert set(worst) == {"a", "b"} and worst[found["cameras"]["worst"]] == max(worst.values())
    cuts = [row["eer_threshold"] for row in found["cameras"]["rows"]]
    assert found["cameras"]["thresholds"] == [min(cuts), max(cuts)]
    assert found["milliseconds"]["median"] == pytest.approx(table.milliseconds.median(), abs=0.06)
    # One clip lies in the training's set too.
    assert found["origin"]["independent"] is False and found["origin"]["shared"] == 1
    assert "not independent: 1 video of away" in found["origin"]["line"] and "4.mp4 is equal" in found["origin"]["line"]


def test_whether_the_weights_have_seen_the_videos_is_told(root):
    described, data = read_ensemble(load_ensemble("pair")), root / "data"
    same = find_origin(described, data / "home")
    assert same["independent"] is False and "these very videos" in same["line"]
    (data / "away" / ".records" / "4.json").unlink()
    assert find_origin(described, data / "away")["independent"] is True
    shutil.rmtree(data / "home")
    unknown = find_origin(described, data / "away")
    assert unknown["independent"] is None and "data/home is not here" in unknown["line"]
    # The member went on from one that has seen a video of the set, as only its own file says.
    digest = json.loads((data / "away" / ".records" / "7.json").read_text())["sha256"]
    put_member("convnext_xlarge", 1, "home", data_hash="h", trained_on={"videos": [digest[:16]], "groups": []})
    seen = find_origin(described, data / "away")
    assert seen["independent"] is False and "1 video of away (first 7) is among those that pair" in seen["line"]


def test_an_earlier_report_is_compared_on_the_videos_of_both(root, capsys):
    table, found = read(root)
    earlier = json.loads(json.dumps(found))
    rng = np.random.default_rng(5)
    earlier["videos"] = earlier["videos"][2:]
    for video in earlier["videos"]:
        if video["score"] is not None:
            video["score"] = float(np.clip(video["score"] + rng.normal(0, 0.2), 0, 1))
            video["decision"] = "live" if video["score"] >= 0.6 else "attack"
    path = root / "earlier.json"
    path.write_text(json.dumps(earlier))
    assert evaluate.main(["pair", "--on", "away", "--against", str(path), "--workers", "1"]) == 0
    told = read(root)[1]["against"]
    before = pd.DataFrame(earlier["videos"]).set_index("filename")
    now = table.set_index("filename").loc[before.index]
    both = before.score.notna() & now.score.notna()
    assert told["common"] == CLIPS - 2 and told["videos"] == both.sum()
    values = [eer(now.label[both], part.score[both]) for part in (before, now)]
    assert [told["eer_before"], told["eer"]] == pytest.approx(values)
    assert told["difference"] == pytest.approx(values[1] - values[0])
    for row in told["decisions"]:
        live = row["class"] == "live"
        mine = now.label == live
        old, new = ((part.decision[mine] == "live") != live for part in (before, now))
        assert [row["before"], row["after"]] == [old.sum(), new.sum()]
        changed, least = row["mended"] + row["spoiled"], min(row["mended"], row["spoiled"])
        assert changed == (old != new).sum()
        tail = 2 * sum(math.comb(changed, k) for k in range(least + 1)) / 2**changed
        assert row["p"] == pytest.approx(min(1.0, tail))
    assert "paired over 12 videos" in capsys.readouterr().out
    page = Report((root / "result" / "report_home_pair_on_away.html").read_text())
    row = [row for row in page.rows if row and row[0] == "EER"][1]
    assert row[1:4] == [f"{100 * v:.1f} %" for v in values] + [f"{100 * told['difference']:+.1f} points"]


def drop_labels(root: Path, keep: str) -> None:
    path = root / "data" / "away" / "labels_video.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[table["label"] != keep, "label"] = ""
    table.to_csv(path, index=False)
    (root / "data" / "away" / "folds.csv").unlink()


@pytest.mark.parametrize(
    ("spoil", "arguments", "told"),
    [
        (lambda root: drop_labels(root, "1"), [], "the labels of its 7 videos are 1 only"),
        (lambda root: drop_labels(root, "none"), [], "no labelled video in it"),
        (lambda root: (root / "raw" / "away" / "videos" / "3.mp4").unlink(), [], "1 of 14 raw videos are gone .3.mp4"),
        (lambda root: (root / "weights/home/convnext_xlarge_fold1.safetensors").unlink(), [], "weights missing"),
        (lambda root: None, ["--on", "nowhere"], "data/nowhere"),
        (lambda root: None, ["--on", "../away"], "not a plain file name"),
        (lambda root: None, ["--point", "apcer7"], "no threshold named 'apcer7'"),
        (lambda root: None, ["--against", "nothing.json"], "nothing.json: cannot be read"),
        (lambda root: (root / "report.json").write_text('{"pooled": 1}'), ["--against", "{root}/report.json"],
         "not what evaluate --on has written"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_one_line_and_writes_nothing(root, spoil, arguments, told):
    shutil.rmtree(root / "runs")
    shutil.rmtree(root / "result")
    spoil(root)
    with pytest.raises(UserError, match=told) as error:
        evaluate.main(["pair", "--on", "away", *[text.format(root=root) for text in arguments]])
    assert "\n" not in str(error.value)
    assert not (root / "runs").exists() and not (root / "result").exists()


def test_the_page_has_the_figures_and_asks_for_nothing(root):
    table, found = read(root)
    text = (root / "result" / "report_home_pair_on_away.html").read_text()
    page = Report(text)
    figures = json.loads((root / "result" / "report_home_pair_on_away.json").read_text())
    assert figures["points"] == found["points"] and figures["conditions"] == found["conditions"]
    row = page.row("equal errors (decides)")
    head = found["headline"]
    assert [row[3], row[5]] == [f"{100 * head[side]['value']:.1f} %" for side in ("apcer", "bpcer")]
    assert row[7] == f"{100 * head['abstained']['live']['value']:.1f} %"
    assert "not usable without labels" in page.text and "Not independent: 1 video of away" in page.text
    ids = page.ids()
    assert {"points", "cameras", "conditions", "worst", "videos"} <= set(ids) and len(ids) == len(set(ids))
    assert all(a["href"][1:] in ids for t, a in page.elements if t == "a")
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")


def test_errors_by_condition_add_up_to_all_videos():
    rng = np.random.default_rng(3)
    count = 400
    table = pd.DataFrame({"label": rng.integers(0, 2, count), "group": [f"p{i // 2}" for i in range(count)]})
    table["decision"] = rng.choice(["live", "attack", "abstain"], count)
    sides = rng.choice([240.0, 479, 480, 719, 720, 1080, 2160, np.nan], count)
    light = np.where(rng.random(count) < 0.1, np.nan, rng.uniform(0, 255, count))
    conditions = pd.DataFrame({"camera": rng.choice(["", "x", "y"], count), "codec": "h264", "side": sides})
    conditions = conditions.assign(brightness=light, face_width=np.nan)
    found = {part["name"]: part["rows"] for part in decisions.measure_conditions(table, conditions)}
    bins = pd.cut(sides, [-np.inf, 480, 720, 1080, np.inf], right=False).codes
    names = [row["part"] for row in found["side"]]
    assert names == ["below 480", "480 to 719", "720 to 1079", "1080 and more", "not known"]
    for code, row in zip([0, 1, 2, 3, -1], found["side"], strict=True):
        mine = table[bins == code]
        assert row["apcer"]["errors"] == ((mine.label == 0) & (mine.decision == "live")).sum()
        assert row["bpcer"]["errors"] == ((mine.label == 1) & (mine.decision != "live")).sum()
        assert row["abstained"]["errors"] == (mine.decision == "abstain").sum() and row["few"] == ""
    for rows in found.values():
        assert sum(row["live"] + row["attack"] for row in rows) == count
    assert [row["part"] for row in found["camera"]] == ["x", "y", "not known"]
    assert [row["part"] for row in found["face_width"]] == ["not known"]


def test_a_comparison_that_the_scores_do_not_allow_costs_no_evaluation(root, capsys):
    _, found = read(root)
    earlier = root / "earlier.json"
    for video in found["videos"]:
        video["score"] = video["score"] if video["label"] else None
    earlier.write_text(json.dumps(found))
    with pytest.raises(UserError, match="not of both classes any with a score there"):
        evaluate.main(["pair", "--on", "away", "--against", str(earlier)])
    table = pd.DataFrame(found["videos"]).assign(score=np.nan)
    for video in found["videos"]:
        video["score"] = 0.5
    assert _compare(found, table, earlier) is None and "too few videos have a score now" in capsys.readouterr().err
