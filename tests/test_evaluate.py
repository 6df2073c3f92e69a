"""The out-of-fold report: from runs on disk to the printed table and the files it leaves."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, roc_curve

from liveness import evaluate
from liveness.base import compose
from liveness.base.errors import UserError
from liveness.evaluation import calibration, combine, metrics, rates
from liveness.members.trained import OOF_COLUMNS
from liveness.prediction.operating import read_operating

MEMBERS = [("convnext_xlarge", 0), ("convnext_xlarge", 1), ("second", 0)]


@pytest.fixture
def ensemble(workspace, tmp_path, monkeypatch):
    """An ensemble ``mix`` of two folds of one recipe and one fold of another, with finished runs."""
    configs = tmp_path / "configs"
    shutil.copytree(compose.CONFIGS, configs)
    (configs / "recipe" / "second.yaml").write_text(
        (configs / "recipe" / "convnext_xlarge.yaml").read_text().replace("name: convnext_xlarge", "name: second", 1)
    )
    members = "".join(f"  - {{recipe: {r}, fold: {f}, weight: {1 + f}}}\n" for r, f in MEMBERS)
    (configs / "ensemble").mkdir(exist_ok=True)
    (configs / "ensemble" / "mix.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - /ensemble_schema\n  - _self_\nname: mix\ndata: tiny\nmembers:\n{members}"
    )
    monkeypatch.setattr(compose, "CONFIGS", configs)
    write_set(workspace)
    return workspace


def write_set(root, count=40, people=10):
    """A set of ``count`` videos over ``people`` groups in two folds, and a run for each member."""
    rng = np.random.default_rng(7)
    index = np.arange(count)
    folds = pd.DataFrame(
        {
            "filename": [f"{i}.mp4" for i in index],
            "label": (index // people) % 2,
            "group": [f"person {i % people}" for i in index],
            "fold": index % people % 2,
        }
    )
    (root / "data" / "tiny").mkdir(parents=True)
    folds.to_csv(root / "data" / "tiny" / "folds.csv", index=False)
    groups_are = {"kind": "subjects", "source": "subject", "without": 0}
    (root / "data" / "tiny" / "folds.json").write_text(json.dumps({"groups": groups_are}))
    for recipe, fold in MEMBERS:
        folder = root / "runs" / "tiny" / f"{recipe}_fold{fold}"
        folder.mkdir(parents=True)
        rows = []
        for video in folds[folds.fold == fold].itertuples():
            base = np.clip(0.3 + 0.4 * video.label + rng.normal(0, 0.2), 0.01, 0.99)
            for frame in (3, 6, 9):
                score = np.clip(base + rng.normal(0, 0.03), 0, 1)
                rows.append((video.filename, video.filename[:-4], frame, video.label, fold, round(score, 6), "ok"))
        write_oof(folder, rows)
        settings = {"recipe": {"name": recipe, "combine": "mean"}, "fold": fold, "data": "tiny", "data_hash": "abc"}
        (folder / "config.json").write_text(json.dumps(settings))


def write_oof(folder, rows):
    pd.DataFrame(rows, columns=OOF_COLUMNS).to_csv(folder / "oof.csv", index=False)


def oof(root, member):
    path = root / "runs" / "tiny" / member / "oof.csv"
    return path, pd.read_csv(path, dtype=str, keep_default_na=False)


def test_report_is_printed_and_written_the_same_each_time(ensemble, capsys):
    assert evaluate.main(["mix"]) == 0
    text = capsys.readouterr().out
    assert "out-of-fold EER" in text and "40 videos, 10 persons" in text
    assert "few persons: interval too narrow" in text
    assert "pooled, species unknown" in text
    assert max(len(line) for line in text.splitlines()) <= 110
    written = [
        ensemble / "runs" / "tiny" / "mix" / "oof_video.csv",
        ensemble / "runs" / "tiny" / "mix" / "report.json",
        ensemble / "weights" / "tiny" / "mix.json",
    ]
    first = [path.read_bytes() for path in written]
    evaluate.main(["mix"])
    assert [path.read_bytes() for path in written] == first


def set_calibration(how):
    path = compose.CONFIGS / "ensemble" / "mix.yaml"
    path.write_text(path.read_text().replace("data: tiny\n", f"data: tiny\ncalibration: {how}\n"))


def results(root, name="mix"):
    """(oof_video.csv by file name, report.json, what ships)."""
    folder = root / "runs" / "tiny" / name
    table = pd.read_csv(folder / "oof_video.csv", index_col="filename")
    shipped = json.loads((root / "weights" / "tiny" / f"{name}.json").read_text())
    return table, json.loads((folder / "report.json").read_text()), shipped


def test_score_is_the_weighted_mean_of_the_members_that_held_the_video_out(ensemble):
    set_calibration("none")
    evaluate.main(["mix"])
    table, report, shipped = results(ensemble)
    head = ["label", "group", "fold", "score", "status"]
    assert list(table.columns) == [*head, "convnext_xlarge_fold0", "convnext_xlarge_fold1", "second_fold0"]
    zero, one = table[table.fold == 0], table[table.fold == 1]
    assert zero["convnext_xlarge_fold1"].isna().all() and one["convnext_xlarge_fold0"].isna().all()
    np.testing.assert_allclose(zero["score"], (zero["convnext_xlarge_fold0"] + zero["second_fold0"]) / 2)
    np.testing.assert_array_equal(one["score"], one["convnext_xlarge_fold1"])
    _, frames = oof(ensemble, "convnext_xlarge_fold1")
    mean = frames.astype({"score": float}).groupby("filename")["score"].mean()
    np.testing.assert_allclose(one["score"], mean[one.index])
    assert shipped["calibration"]["how"] == report["calibration"]["how"] == "none"
    assert report["calibration"]["raw"]["log_loss"] == report["pooled"]["log_loss"]


@pytest.mark.parametrize("how", ["temperature", "platt", "isotonic"])
def test_members_are_calibrated_on_their_own_fold_and_then_blended(ensemble, how, capsys):
    set_calibration(how)
    evaluate.main(["mix"])
    assert f"each member calibrated on its own fold ({how}, cross-fitted)" in capsys.readouterr().out
    table, report, shipped = results(ensemble)
    parts = {}
    for name, fold in (("convnext_xlarge_fold0", 0), ("convnext_xlarge_fold1", 1), ("second_fold0", 0)):
        own = table[table.fold == fold]
        _, frames = oof(ensemble, name)
        raw = frames.astype({"score": float}).groupby("filename")["score"].mean()[own.index]
        np.testing.assert_allclose(own[name], raw)  # the members' columns stay raw
        parts[name] = calibration.cross_fit_calibration(how, raw, own["label"], own["group"], table["label"].mean())
        ships = calibration.read_calibration(shipped["calibration"]["members"][name])
        assert ships.how == how
        np.testing.assert_allclose(ships.apply(raw), parts[name].calibration.apply(raw))
    zero, one = table[table.fold == 0], table[table.fold == 1]
    expected = (parts["convnext_xlarge_fold0"].scores + parts["second_fold0"].scores) / 2
    np.testing.assert_allclose(zero["score"], expected)
    np.testing.assert_allclose(one["score"], parts["convnext_xlarge_fold1"].scores)
    assert report["calibration"]["raw"]["log_loss"] > report["pooled"]["log_loss"]
    assert report["calibration"]["withheld"] is None


def test_a_calibration_that_makes_the_blend_worse_is_shipped_for_no_member(ensemble, capsys):
    """Members that are right and sure of it: ten videos of a class do not vouch for 99 %, so a fit takes that back."""
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(3)
    folds = pd.read_csv(ensemble / "data" / "tiny" / "folds.csv")
    truth = {row.filename: abs(row.label - rng.uniform(0.005, 0.02)) for row in folds.itertuples()}
    for member in ("convnext_xlarge_fold0", "convnext_xlarge_fold1", "second_fold0"):
        path, table = oof(ensemble, member)
        table["score"] = table["filename"].map(truth)
        table.to_csv(path, index=False)
    evaluate.main(["mix"])
    text = capsys.readouterr().out
    table, found, shipped = results(ensemble)
    prior, parts = table["label"].mean(), []
    for fold in (0, 1):  # both members of fold 0 have the same scores
        own = table[table.fold == fold]
        fit = calibration.cross_fit_calibration(
            "platt", own[f"convnext_xlarge_fold{fold}"], own["label"], own["group"], prior
        )
        parts.append(pd.Series(fit.scores, own.index))
    calibrated, raw = pd.concat(parts)[table.index], pd.Series(truth)[table.index]
    with_it, without = log_loss(table["label"], calibrated), log_loss(table["label"], raw)
    assert with_it > without
    np.testing.assert_allclose(table["score"], raw)
    assert shipped["calibration"]["how"] == "none"
    assert {values["how"] for values in shipped["calibration"]["members"].values()} == {"none"}
    withheld = found["calibration"]["withheld"]
    assert withheld["how"] == "platt" and withheld["log_loss"] == pytest.approx(with_it)
    assert withheld["log_loss_without"] == pytest.approx(without) == pytest.approx(found["pooled"]["log_loss"])
    assert f"no member is calibrated: platt would raise the blend's log loss out of fold from {without:.3f}" in text
    operating = read_operating(ensemble / "weights" / "tiny" / "mix.json", list(found["weights"]), "abc")
    assert operating.calibrate("second_fold0", 0.3) == 0.3


def test_a_member_that_cannot_be_calibrated_says_so(ensemble, capsys):
    path, table = oof(ensemble, "second_fold0")
    live = table["filename"][table["label"] == "1"].unique()
    table.loc[table["filename"].isin(live[4:]), ["score", "status"]] = ["", "no_face"]
    table.to_csv(path, index=False)
    evaluate.main(["mix"])
    assert "not calibrated: second_fold0 (4 live and 10 attack videos" in capsys.readouterr().out
    shipped = results(ensemble)[2]["calibration"]["members"]
    assert shipped["second_fold0"]["how"] == "none" and shipped["convnext_xlarge_fold0"]["how"] == "platt"


def test_what_ships_is_what_prediction_reads(ensemble):
    evaluate.main(["mix"])
    table, report, shipped = results(ensemble)
    assert (shipped["ensemble"], shipped["data"], shipped["data_hash"]) == ("mix", "tiny", "abc")
    assert (shipped["videos"], shipped["groups"], shipped["split"]) == (40, 10, "out of fold")
    assert shipped["frames"] == {"typical": 3, "least": 2}
    assert shipped["thresholds"] == report["operating_points"]
    names = [point["name"] for point in shipped["thresholds"]]
    assert names == ["eer", "apcer1", "apcer5", "apcer10", "bpcer1", "bpcer5"]
    members = list(table.columns[-3:])
    for point in shipped["thresholds"]:
        assert point["approximate"] is True and (point["videos"], point["groups"]) == (40, 10)
        for key, around in (("threshold", "threshold_interval"), ("value", "interval")):
            assert point[around][0] <= point[key] <= point[around][1]
        assert point["target"] is None or point["value"] <= point["target"]
        path = ensemble / "weights" / "tiny" / "mix.json"
        operating = read_operating(path, members, "abc", point["name"], report["weights"])
        assert operating.threshold == point["threshold"] and "approximate" in operating.source
        assert operating.decide(point["threshold_interval"][1], "ok", 2) == "live"
        assert operating.decide(point["threshold_interval"][1], "ok", 1) == "abstain"
    assert shipped["thresholds"][0]["value"] == report["pooled"]["eer"]


def add_holdout(root, count=24, people=6):
    """Videos of other persons that are in no fold; every member has scored them."""
    rng = np.random.default_rng(8)
    index = np.arange(count)
    more = pd.DataFrame(
        {
            "filename": [f"h{i}.mp4" for i in index],
            "label": (index // people) % 2,
            "group": [f"other {i % people}" for i in index],
            "fold": -1,
        }
    )
    path = root / "data" / "tiny" / "folds.csv"
    pd.concat([pd.read_csv(path), more]).to_csv(path, index=False)
    for recipe, fold in MEMBERS:
        path, table = oof(root, f"{recipe}_fold{fold}")
        scores = np.clip(0.35 + 0.3 * more["label"] + rng.normal(0, 0.2, count), 0.01, 0.99)
        rows = more.assign(video_id=more["filename"].str[:-4], frame_id=3, score=scores.round(6), status="ok")
        pd.concat([table, rows[OOF_COLUMNS].astype(str)]).to_csv(path, index=False)


def test_thresholds_come_from_the_holdout_and_the_headline_from_the_folds(ensemble, capsys):
    evaluate.main(["mix"])
    _, without, _ = results(ensemble)
    add_holdout(ensemble)
    capsys.readouterr()
    evaluate.main(["mix", "--combinations"])
    text = capsys.readouterr().out
    assert "40 videos, 10 persons" in text and "covers all 40 videos of the folds" in text
    assert "chosen on the holdout (24 videos of 6 groups)" in text and "holdout, all members blended: EER" in text
    table, report, shipped = results(ensemble)
    for key in ("counts", "pooled", "folds", "members", "calibration"):
        assert report[key] == without[key], key
    aside = table[table.fold == -1]
    members = list(report["weights"])
    operating = read_operating(ensemble / "weights" / "tiny" / "mix.json", members, "abc")
    calibrated = pd.DataFrame({name: [operating.calibrate(name, s) for s in aside[name]] for name in members})
    expected = combine.blend(calibrated, {"convnext_xlarge_fold0": 1, "convnext_xlarge_fold1": 2, "second_fold0": 1})
    np.testing.assert_allclose(aside["score"], expected)  # as prediction scores them
    equal = metrics.eer(aside["label"], aside["score"])
    assert (shipped["split"], shipped["videos"], shipped["groups"]) == ("holdout", 24, 6)
    assert all(p["approximate"] is False and p["split"] == "holdout" for p in shipped["thresholds"])
    assert (shipped["thresholds"][0]["threshold"], shipped["thresholds"][0]["value"]) == (equal.threshold, equal.value)
    assert report["holdout"]["pooled"]["eer"] == equal.value
    assert all(row["videos"] <= 40 for rows in report["combinations"].values() for row in rows)
    for how, learned in report["learned_weights"].items():
        assert list(learned) == members and sum(learned.values()) == pytest.approx(1), how
        assert f"to blend by '{how}', learned on all folds, put into configs/ensemble/mix.yaml:" in text
    assert learned["convnext_xlarge_fold0"] == learned["convnext_xlarge_fold1"]
    for point in shipped["thresholds"]:
        passed = (aside["score"][aside.label == 0] >= point["threshold"]).mean()
        missed = (aside["score"][aside.label == 1] < point["threshold"]).mean()
        assert (passed, missed) == pytest.approx((point["apcer"], point["bpcer"]))


def test_a_member_that_has_not_scored_the_holdout_is_refused(ensemble):
    add_holdout(ensemble)
    path, table = oof(ensemble, "second_fold0")
    table[table["filename"] != "h7.mp4"].to_csv(path, index=False)
    with pytest.raises(UserError, match="second_fold0 has not scored h7.mp4 of the holdout .1 video.*train this"):
        evaluate.main(["mix"])


def test_missing_runs_are_named_with_the_commands_that_make_them(ensemble):
    shutil.rmtree(ensemble / "runs" / "tiny" / "second_fold0")
    with pytest.raises(UserError) as error:
        evaluate.main(["mix"])
    assert "second_fold0" in str(error.value) and "convnext_xlarge_fold0" not in str(error.value)
    assert "DATA=tiny bash scripts/train_member.sh second 0" in str(error.value)


def test_part_of_an_ensemble_states_its_coverage_and_ships_no_threshold(ensemble, capsys):
    evaluate.main(["mix", "--members", "convnext_xlarge:1"])
    assert "covers 20 of 40 videos" in capsys.readouterr().out
    assert not (ensemble / "weights" / "tiny" / "mix.json").exists()
    table = pd.read_csv(ensemble / "runs" / "tiny" / "mix-subset" / "oof_video.csv")
    assert (table["status"] == "not_covered").sum() == 20
    with pytest.raises(UserError, match="second:1"):
        evaluate.main(["mix", "--members", "second:1"])


def test_further_figures_agree_with_scikit_learn_and_a_threshold_of_the_other_folds(ensemble, capsys):
    evaluate.main(["mix", "--combinations"])
    text = capsys.readouterr().out
    table, report, _ = results(ensemble)
    labels, scores, pooled = table["label"], table["score"], report["pooled"]
    assert pooled["brier"] == pytest.approx(brier_score_loss(labels, scores))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert {float(key) for key in pooled["tpr_at_fpr"]} == {0.01, 0.05, 0.1}
    for key, value in pooled["tpr_at_fpr"].items():
        assert value == pytest.approx(tpr[fpr <= float(key)].max())
    at = report["at_eer_threshold"]
    assert at["acer"] == pytest.approx((at["apcer"]["value"] + at["bpcer"]["value"]) / 2)
    passed, missed = [], []
    for fold in (0, 1):  # each judged at the threshold that the other one gives
        here, other = table[table.fold == fold], table[table.fold != fold]
        threshold = metrics.eer(other["label"], other["score"]).threshold
        passed += (here["score"][here.label == 0] >= threshold).tolist()
        missed += (here["score"][here.label == 1] < threshold).tolist()
    assert pooled["hter"] == pytest.approx((np.mean(passed) + np.mean(missed)) / 2)
    for name, value in (("Brier score", f"{pooled['brier']:.3f}"), ("HTER", f"{100 * pooled['hter']:.1f} %")):
        assert re.search(rf"{name} +{re.escape(value)}", text)
    assert "ACER" in text and "TPR, FPR ≤ 5 %" in text and "95 % (DeLong)" in text
    for row in (row for rows in report["combinations"].values() for row in rows):
        assert row["auc_interval"][0] <= row["auc_difference"] <= row["auc_interval"][1]


def test_a_label_that_the_sets_table_does_not_have_is_refused(ensemble):
    folds = pd.read_csv(ensemble / "data" / "tiny" / "folds.csv")
    folds["label"] = folds["label"].where(folds["filename"] != "7.mp4", 1)
    folds.to_csv(ensemble / "data" / "tiny" / "labels_video.csv", index=False)
    with pytest.raises(UserError, match="labels_video.csv: does not have 7.mp4 with label 0.*make_folds tiny"):
        evaluate.main(["mix"])


def test_video_without_a_score_is_a_non_response(ensemble, capsys):
    path, table = oof(ensemble, "convnext_xlarge_fold1")
    silent = table["filename"].iloc[0]
    table.loc[table.filename == silent, ["score", "status"]] = ["", "no_face"]
    table.to_csv(path, index=False)
    evaluate.main(["mix"])
    assert f"{silent} (no_face)" in capsys.readouterr().out
    report = json.loads((ensemble / "runs" / "tiny" / "mix" / "report.json").read_text())
    assert report["counts"]["scored"] == 39 and report["counts"]["videos"] == 40
    assert report["non_response"]["apnrr"]["errors"] + report["non_response"]["bpnrr"]["errors"] == 1


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [("fold", "0", "folds changed since training"), ("label", "5", "now 0"), ("score", "1.5", "expected 0 to 1")],
)
def test_oof_that_does_not_fit_the_folds_is_refused(ensemble, column, value, expected):
    path, table = oof(ensemble, "convnext_xlarge_fold1")
    rows = table["filename"] == "1.mp4"
    table.loc[rows, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(UserError, match=expected):
        evaluate.main(["mix"])


def test_folds_dealt_anew_after_training_are_refused(ensemble):
    path = ensemble / "data" / "tiny" / "folds.csv"
    folds = pd.read_csv(path)
    folds["fold"] = 1 - folds["fold"]
    folds.to_csv(path, index=False)
    with pytest.raises(UserError, match="folds changed since training; train this member again"):
        evaluate.main(["mix"])


def test_members_of_different_data_are_refused(ensemble):
    path = ensemble / "runs" / "tiny" / "second_fold0" / "config.json"
    path.write_text(path.read_text().replace("abc", "other"))
    with pytest.raises(UserError, match="different states of data/tiny"):
        evaluate.main(["mix"])


def test_worst_species_is_the_headline(ensemble, capsys):
    folds = pd.read_csv(ensemble / "data" / "tiny" / "folds.csv")
    species = ["" if row.label else ("print" if int(row.filename[:-4]) % 3 else "replay") for row in folds.itertuples()]
    folds.assign(species=species).to_csv(ensemble / "data" / "tiny" / "labels_video.csv", index=False)
    evaluate.main(["mix"])
    assert "worst species:" in capsys.readouterr().out
    rates = json.loads((ensemble / "runs" / "tiny" / "mix" / "report.json").read_text())["at_eer_threshold"]
    assert set(rates["apcer_species"]) == {"print", "replay"}
    assert rates["apcer"]["value"] == max(r["value"] for r in rates["apcer_species"].values())


def test_unlabelled_set_and_missing_folds_are_one_clear_line(ensemble):
    path = ensemble / "data" / "tiny" / "folds.csv"
    folds = pd.read_csv(path, dtype=str)
    folds.assign(label="").to_csv(path, index=False)
    with pytest.raises(UserError, match="needs labels"):
        evaluate.main(["mix"])
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        evaluate.main(["mix"])


def test_other_ways_to_combine_are_compared_on_the_same_videos(ensemble, capsys):
    evaluate.main(["mix", "--combinations"])
    text = capsys.readouterr().out
    assert "frames to a video" in text and "members to an ensemble" in text
    report = json.loads((ensemble / "runs" / "tiny" / "mix" / "report.json").read_text())["combinations"]
    mean = next(row for row in report["frames to a video"] if row["way"] == "mean")
    assert mean["difference"] == 0 and mean["verdict"] == "cannot be told apart"
    ways = [row["way"] for row in report["members to an ensemble"]]
    assert ways == ["convnext_xlarge", "second", "equal", "logit_mean", "rank_mean", "weights", "stacking", "greedy"]
    # The second recipe knows one fold only, so alone it is compared on that fold only.
    assert [row["videos"] for row in report["members to an ensemble"]] == [40, 20] + [40] * 6


def test_config_of_no_run_is_one_clear_line(ensemble):
    path = ensemble / "runs" / "tiny" / "second_fold0" / "config.json"
    for text in ("{", "{}", '{"recipe": {"combine": "vote"}}'):
        path.write_text(text)
        with pytest.raises(UserError, match="not the configuration of a run"):
            evaluate.main(["mix"])


@pytest.mark.parametrize(
    ("groups_are", "expected"),
    [
        ({"kind": "near_duplicates", "source": "duplicates.csv", "without": 0}, "groups are near-duplicates only"),
        ({"kind": "listed", "source": "zalo2022", "without": 0}, "groups are those listed in zalo2022"),
        (
            {"kind": "subjects", "source": "who", "without": 3},
            "groups are persons, by the column who, but for 3 videos",
        ),
        (None, "what the groups are is not recorded"),
    ],
)
def test_groups_are_called_persons_only_where_they_are(ensemble, capsys, groups_are, expected):
    path = ensemble / "data" / "tiny" / "folds.json"
    path.write_text(json.dumps({"groups": groups_are})) if groups_are else path.unlink()
    evaluate.main(["mix"])
    text = capsys.readouterr().out
    assert "40 videos, 10 groups" in text and expected in text and "intervals by group" in text
    assert "few groups: interval too narrow; " in text and "if somebody appears in several folds" in text
    assert not re.search(r"\d persons|by person|few persons", text)
    written = json.loads((ensemble / "runs" / "tiny" / "mix" / "report.json").read_text())
    assert written["grouping"]["kind"] == (groups_are or {"kind": "unknown"})["kind"]


def test_where_each_video_is_a_known_person_nothing_is_warned_of(ensemble, capsys):
    path = ensemble / "data" / "tiny" / "folds.csv"
    folds = pd.read_csv(path)
    folds.assign(group=[f"p{i}" for i in range(len(folds))]).to_csv(path, index=False)
    evaluate.main(["mix"])
    text = capsys.readouterr().out
    assert "40 videos, 40 persons" in text and "groups are persons, by the column subject" in text
    assert "warning" not in text and "intervals by video" in text


def test_error_rates_have_intervals_of_the_kind_that_the_eer_has():
    """Ten attackers with four videos each, two of whom pass every time: that is 2 of 10, not 8 of 40."""
    labels = np.repeat([0, 1], [40, 40])
    scores = np.concatenate([np.repeat([0.9, 0.1], [8, 32]), np.full(40, 0.9)])
    people = np.arange(80) // 4
    by_group = rates.error_rates(labels, scores, 0.5, groups=people)
    by_video = rates.error_rates(labels, scores, 0.5, groups=np.arange(80))
    assert by_group["by"] == "group" and by_video["by"] == "video"
    assert (by_group["apcer"]["errors"], by_group["apcer"]["total"]) == (8, 40)
    videos, persons = (stats.binomtest(k, n).proportion_ci(0.95, method="exact") for k, n in ((8, 40), (2, 10)))
    assert by_video["apcer"]["interval"] == pytest.approx([videos.low, videos.high])
    low, high = by_group["apcer"]["interval"]
    # That of 2 of 10 and a little more: the spread of ten persons is itself only estimated.
    assert low <= persons.low < videos.low and videos.high < persons.high <= high < persons.high + 0.1
    # No live video is turned away: the limit is that of none of ten persons.
    assert by_group["bpcer"]["interval"][1] == pytest.approx(stats.binomtest(0, 10).proportion_ci(0.95).high)
