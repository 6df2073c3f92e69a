"""The report: one offline page whose figures are those of the evaluation, and report.json with all of them."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_set import HASH, MEMBERS, NASTY, SEARCH, SHIFT, SPECIES, make_configs, make_set, percent
from scipy.stats import beta
from sklearn.metrics import roc_auc_score, roc_curve
from test_dataset_page import Page

from liveness import evaluate, report
from liveness.base.errors import UserError
from liveness.base.files import CODE


class Report(Page):
    """The parsed page; inputs are void elements, a script's text is no text of the page."""

    def handle_starttag(self, tag, attrs):
        if tag == "input":
            self.elements.append((tag, dict(attrs)))
        else:
            super().handle_starttag(tag, attrs)

    def handle_data(self, data):
        if "script" not in self.open:
            super().handle_data(data)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A workspace with ``mix`` evaluated on ``tiny``, and its configs; tests that change it take ``own``."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        make_configs(folder / "configs", patch)
        patch.setenv("LIVENESS_ROOT", str(folder / "root"))
        make_set(folder / "root")
        evaluate.main(["mix", "--combinations"])
    return folder


@pytest.fixture
def own(evaluated, tmp_path, monkeypatch) -> Path:
    """A copy of that workspace, set as LIVENESS_ROOT."""
    from liveness.base import compose

    monkeypatch.setattr(compose, "CONFIGS", evaluated / "configs")
    root = tmp_path / "root"
    shutil.copytree(evaluated / "root", root)
    monkeypatch.setenv("LIVENESS_ROOT", str(root))
    return root


def make(root: Path, *arguments: str) -> tuple[Report, str, dict]:
    """The page parsed, its text, and report.json."""
    assert report.main(["mix", *arguments]) == 0
    text = (root / "result" / "report.html").read_text(encoding="utf-8")
    return Report(text), text, json.loads((root / "result" / "report.json").read_text(encoding="utf-8"))


def scores(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "runs" / "tiny" / "mix" / "oof_video.csv")


def edit_json(path: Path, **changes) -> dict:
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(value))
    return value


def test_the_page_is_one_well_formed_file_that_asks_for_nothing(own):
    page, text, _ = make(own)
    assert text.startswith("<!DOCTYPE html>")
    words = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|srcset|<link(?! rel=\"icon\" href=\"data:,\")", words)
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for tag, attrs in page.elements:
        for key in ("src", "href", "xlink:href", "action", "poster", "data"):
            if key in attrs:
                assert attrs[key].startswith("data:") or attrs[key][1:] in ids, (tag, attrs)
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    script = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert allowed == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_names_are_text_wherever_they_stand(own):
    page, text, _ = make(own)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 2  # the figures and the program
    assert "b" not in tags
    assert all(attrs["src"].startswith("data:image/jpeg") for tag, attrs in page.elements if tag == "img")
    assert "<b>replay</b>" in page.text and "alert(1)" not in re.sub(
        r"(&lt;|\\u003c)script(&gt;|\\u003e)alert\(1\)", "", text
    )
    # The figures for the script cannot end their element, and are JSON.
    data = re.search(r'<script type="application/json" id="scores">(.*?)</script>', text, flags=re.DOTALL).group(1)
    assert not set("<>&") & set(data)
    assert [name for name, _ in json.loads(data)["splits"][0]["attack"]] == sorted(SPECIES)


def test_it_can_be_used_by_keyboard_and_read_aloud(own):
    page, _, _ = make(own)
    elements = page.elements
    tags = [tag for tag, _ in elements]
    assert dict(elements[0][1]) == {"lang": "en"}
    assert tags.count("h1") == tags.count("main") == 1 and tags.index("title") < tags.index("body")
    assert any(a.get("name") == "viewport" for t, a in elements if t == "meta")
    labels = {a["for"] for t, a in elements if t == "label"}
    inputs = [a for t, a in elements if t == "input"]
    assert {a["type"] for a in inputs} == {"range", "number", "search"}
    assert all(a["id"] in labels or a.get("aria-label") for a in inputs)
    assert all(a["type"] == "button" for t, a in elements if t == "button")
    pictures = [a for t, a in elements if t == "svg" and a.get("aria-hidden") != "true"]
    assert len(pictures) >= 4
    assert all(a["role"] == "img" and len(a["aria-label"]) > 10 for a in pictures)
    assert all(a["alt"] for t, a in elements if t == "img")
    # Wide tables scroll by themselves, reachable by tab and named.
    regions = [a for t, a in elements if a.get("role") == "region"]
    assert tags.count("table") == len(regions)
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in regions)
    assert all(a.get("scope") in ("col", "row") for t, a in elements if t == "th")
    assert any(t == "a" and a.get("class") == "skip" for t, a in elements)


def test_the_figures_are_those_of_the_evaluation(own):
    page, _, found = make(own)
    evaluation = json.loads((own / "runs" / "tiny" / "mix" / "report.json").read_text())
    assert found["evaluation"] == evaluation
    table, pooled = scores(own), evaluation["pooled"]
    low, high = pooled["by_group"]["eer"]["interval"]
    assert page.row("EER")[1:3] == [percent(pooled["eer"]), f"{100 * low:.1f}–{100 * high:.1f} %"]
    assert page.row("AUC")[1] == f"{roc_auc_score(table.label, table.score):.3f}"
    assert page.row("log loss")[1] == f"{pooled['log_loss']:.3f}"
    assert page.row("Brier")[1] == f"{((table.score - table.label) ** 2).mean():.3f}"
    missed = (table.score[table.label == 1] < pooled["threshold"]).sum()
    assert page.row("BPCER")[1] == percent(missed / (table.label == 1).sum())
    for point in evaluation["operating_points"]:
        title = next(p["title"] for p in found["operating_points"] if p["name"] == point["name"])
        assert page.row(title)[1] == f"{point['threshold']:.3f}"
        assert [page.row(title)[i] for i in (3, 5)] == [percent(point["apcer"]), percent(point["bpcer"])]
    for part, name in [(p, f"fold {p['fold']}") for p in evaluation["folds"]] + [
        (p, p["member"]) for p in evaluation["members"]
    ]:
        rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
        assert percent(part["eer"]) in [row[1] for row in rows if row and row[0] == name]
    for way in ("median", "stacking"):
        rows = [r for listed in evaluation["combinations"].values() for r in listed]
        assert page.row(way)[1] == percent(next(r["eer"] for r in rows if r["way"] == way))
    assert f"equal error rate {percent(pooled['eer'])}" in found["headline"] and found["headline"] in page.text


def test_further_figures_are_shown_where_the_evaluation_has_them(own):
    page, _, _ = make(own)
    path, table = own / "runs" / "tiny" / "mix" / "report.json", scores(own)
    summary = json.loads(path.read_text())
    rates, pooled = summary["at_eer_threshold"], summary["pooled"]
    assert page.row("ACER")[1] == percent((rates["apcer"]["value"] + rates["bpcer"]["value"]) / 2)
    assert page.row("HTER")[1] == percent(pooled["hter"])
    fpr, tpr, _ = roc_curve(table.label, table.score, drop_intermediate=False)
    for target in (1, 5, 10):
        assert page.row(f"TPR at FPR ≤ {target} %")[1] == percent(tpr[fpr <= target / 100].max())
    way = next(row for row in summary["combinations"]["frames to a video"] if row["way"] == "median")
    low, high = way["auc_interval"]
    cells = [f"{way['auc_difference']:.3f}", f"{low:.3f} to {high:.3f}", way["auc_verdict"]]
    assert page.row("median")[6:] == cells
    # An evaluation made before there were such figures.
    del rates["acer"], pooled["hter"], pooled["tpr_at_fpr"]
    for rows in summary["combinations"].values():
        for row in rows:
            del row["auc_difference"], row["auc_interval"], row["auc_verdict"]
    path.write_text(json.dumps(summary))
    older, _, _ = make(own)
    assert len(older.row("median")) == 6
    assert not {"ACER", "HTER", "TPR at FPR ≤ 5 %"} & {" ".join(row[0].split()) for row in older.rows if row}


def test_what_the_page_adds_agrees_with_independent_computations(own):
    page, _, found = make(own)
    table = scores(own)
    (part,) = found["splits"]
    fpr, tpr, cuts = roc_curve(table.label, table.score, drop_intermediate=False)
    np.testing.assert_allclose(part["curve"]["apcer"], fpr)
    np.testing.assert_allclose(part["curve"]["bpcer"], 1 - tpr, atol=1e-12)
    np.testing.assert_allclose(part["curve"]["threshold"][1:], cuts[1:])
    for label, name in ((1, "live"), (0, "attack")):
        assert sum(part["histogram"][name]) == part[name] == (table.label == label).sum()
        assert part["histogram"][name] == np.histogram(table.score[table.label == label], 40, (0, 1))[0].tolist()
    bins = part["reliability"]
    gap = sum(row["videos"] * abs(row["share"] - row["mean_score"]) for row in bins if row["videos"]) / len(table)
    assert gap == pytest.approx(found["evaluation"]["pooled"]["calibration_error"])
    members = found["correlation"]["members"]
    errors = table[members].sub(table.label, axis=0)
    np.testing.assert_allclose(
        np.array(found["correlation"]["errors"], float), errors.corr(min_periods=10).to_numpy(float)
    )
    assert page.row("1 convnext_xlarge_fold0")[3] == f"{errors.corr().iloc[0, 2]:.2f}"
    assert page.row("1 convnext_xlarge_fold0")[2] == "–"  # two folds of a recipe share no video
    # The threshold table before the slider moves, with exact intervals.
    cut, live = part["threshold"], table.score[table.label == 1]
    wrong, total = int((live < cut).sum()), len(live)
    low, high = beta.ppf(0.025, wrong, total - wrong + 1), beta.ppf(0.975, wrong + 1, total - wrong)
    expected = [percent(wrong / total), f"{100 * low:.1f}–{100 * high:.1f} %", f"{wrong} of {total}"]
    assert page.row("BPCER: live turned away")[1:] == expected


def test_the_worst_videos_come_first_with_their_frames(own):
    page, _, found = make(own)
    table = scores(own)
    for label, name in ((0, "attack"), (1, "live")):
        mine = table[table.label == label].sort_values("score", ascending=bool(label))
        shown = [video for video in found["worst"] if video["label"] == name]
        assert [video["score"] for video in shown] == mine["score"].head(len(shown)).tolist()
        assert len(shown) >= 6
    oof = pd.concat(pd.read_csv(p) for p in (own / "runs" / "tiny").glob("*_fold*/oof.csv"))
    worst = found["worst"][0]
    mine = oof[oof.filename == worst["filename"]].groupby("frame_id")["score"].mean()
    assert {int(k): v for k, v in worst["frames"].items()} == pytest.approx(mine.to_dict())
    # Every twelfth video has pictures: three frames and a face.
    known = {f"{i}.mp4" for i in range(0, 120, 12)} | {NASTY}
    expected = sum(video["filename"] in known for video in found["worst"])
    pictures = [attrs["alt"] for tag, attrs in page.elements if tag == "img"]
    assert len(pictures) == 4 * expected


def test_damaged_frames_and_absent_tables_do_not_stop_it(own):
    for path in (own / "data" / "tiny" / "frames").iterdir():
        path.write_bytes(b"\xff\xd8 no picture")
    shutil.rmtree(own / "data" / "tiny" / "faces")
    page, _, _ = make(own)
    assert not any(tag == "img" for tag, _ in page.elements) and "No stored frame." in page.text
    (own / "data" / "tiny" / "labels_bbox.csv").unlink()
    (own / "runs" / "tiny" / "second_fold0" / "runs.json").write_text("{")
    make(own)


def test_parts_that_were_not_measured_say_how_in_a_line_each_at_the_end(own):
    page, _, found = make(own)
    assert found["shift"] is None and found["search"] is None
    headings = [attrs["id"] for tag, attrs in page.elements if tag == "h2"]
    assert headings[-1] == "lacking" and not {"naive", "shift", "search"} & set(headings)
    end = page.text[page.text.rindex("Not in this report") :]
    for name in ("shift", "search"):
        assert f"Not measured yet. To measure: python -m liveness.{name} mix --data tiny" in end
    # The code type covers commands, whole and alone: each is one to copy.
    assert page.commands == [
        "python -m liveness.train -c convnext_xlarge --fold 0 --data tiny --naive",
        "python -m liveness.shift mix --data tiny",
        "python -m liveness.search mix --data tiny",
        "python -m liveness.report mix --data tiny",
    ]


def test_the_top_says_when_it_was_evaluated_on_which_data_and_weights(own):
    digests = {
        f"{recipe}_fold{fold}": hashlib.sha256(f"{recipe}{fold}".encode()).hexdigest() for recipe, fold in MEMBERS
    }
    path = own / "runs" / "tiny" / "mix" / "report.json"
    edit_json(path, weights_sha256=digests)
    os.utime(path, (1770091500, 1770091500))
    page, _, _ = make(own)
    first = (own / "result" / "report.json").read_bytes()
    head = page.text[: page.text.index("What it is")]
    assert f"Evaluated 2026-02-03 04:05 UTC Data digest {HASH[:12]}" in head
    for name, digest in digests.items():
        assert f"{name} {digest[:12]}" in head
    # The day is the page's alone: equal figures are equal bytes whenever they were made.
    os.utime(path, (1780000000, 1780000000))
    page, _, _ = make(own)
    assert "2026-02-03 04:05" not in page.text and (own / "result" / "report.json").read_bytes() == first


def test_shift_search_and_naive_gap_are_shown(own):
    folder = own / "runs" / "tiny" / "mix"
    (folder / "shift.json").write_text(json.dumps(SHIFT))
    (folder / "search.json").write_text(json.dumps(SEARCH))
    gap = {"members": ["a", "b"], "grouped_eer": 0.1, "naive_eer": 0.04, "difference": 0.06, "interval": [0.01, 0.1]}
    edit_json(folder / "report.json", naive_gap=gap)
    page, _, found = make(own)
    assert found["shift"] == SHIFT and found["search"] == SEARCH
    assert page.row("print 3traces")[2:7] == ["31.0 %", "20.0–40.0 %", "+21.0", "–", "worse"]
    heads = [" ".join(row[0].split()) for row in page.rows if row]
    assert heads.index("print 3traces") < heads.index("jpeg 1")
    assert "Worst: print , severity 3" in page.text
    told = re.search(r"Of 3 changes: (.*?)\. ", page.text).group(1)
    assert [int(number) for number in re.findall(r"\d+", told)] == [1, 0, 1, 1]  # all three are accounted for
    assert "lacking" not in page.ids()
    assert page.row("convnext_xlarge_fold0, second_fold0")[1:] == ["90", "10.0 %", "5.0–20.0 %", "all members"]
    cascade = next(row for row in page.rows if "0.10–0.90" in row)
    assert (
        cascade[0] == "second:0"
        and cascade[2:6] == ["0.10–0.90", "40", "30.0 %", "12.0 %"]
        and cascade[8] == "-1.0 to +5.0"
    )
    assert "the EER is 10.0 %; with videos dealt at random it would have been 4.0 %: +6.0 points" in page.text
    assert "liveness.shift mix" not in page.text and "liveness.search mix" not in page.text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"data_hash": "another"}, "another ensemble, state of the data or training"),
        ({"ensemble": "other"}, "another ensemble, state of the data or training"),
        ({"weights_sha256": {"second_fold0": "0" * 64}}, "another ensemble, state of the data or training"),
        ({"version": 2}, "a form that this report does not know"),
        ({"rows": "many"}, "a form that this report does not know"),
    ],
)
def test_a_laboratory_of_something_else_is_not_shown(own, change, word):
    (own / "runs" / "tiny" / "mix" / "shift.json").write_text(json.dumps(SHIFT | change))
    page, _, found = make(own)
    assert found["shift"] is None and word in page.text and "31.0 %" not in page.text


def test_a_search_among_other_members_is_not_shown(own):
    path = own / "runs" / "tiny" / "mix" / "search.json"
    path.write_text(json.dumps(SEARCH | {"members": SEARCH["members"][:2]}))
    page, _, found = make(own)
    assert found["search"] is None and "search.json is of another ensemble" in page.text


def test_thresholds_of_another_state_of_the_data_are_not_called_shipped(own):
    edit_json(own / "weights" / "tiny" / "mix.json", data_hash="another")
    page, _, found = make(own)
    assert "as the evaluation found them" in page.text and "another state of the data" in page.text
    assert [p["name"] for p in found["operating_points"]][0] == "eer"


def test_nothing_evaluated_and_half_replaced_files_are_one_line(own):
    folder = own / "runs" / "tiny" / "mix"
    table = scores(own)
    table.assign(score=1 - table.score).to_csv(folder / "oof_video.csv", index=False)
    with pytest.raises(UserError, match="disagree on the EER; make them anew with: python -m liveness.evaluate mix"):
        report.main(["mix"])
    (folder / "oof_video.csv").write_text("filename,label\n1.mp4,1\n")
    with pytest.raises(UserError, match=r"oof_video\.csv"):
        report.main(["mix"])
    edit_json(folder / "report.json")
    (folder / "report.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        report.main(["mix"])
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="nothing to report; make it with: python -m liveness.evaluate mix --data tiny"):
        report.main(["mix"])
    with pytest.raises(UserError, match="not a plain file name"):
        report.main(["mix", "--data", "../tiny"])
    with pytest.raises(UserError, match="no ensemble 'mox'"):
        report.main(["mox"])
    assert not (own / "result").exists()


def test_equal_inputs_give_equal_files(own):
    make(own)
    names = ("report.html", "report.json")
    first = [(own / "result" / name).read_bytes() for name in names]
    make(own)
    assert [(own / "result" / name).read_bytes() for name in names] == first
    # The newest has a name of its own too, which the report of another set or ensemble leaves alone.
    kept = [(own / "result" / name.replace("report", "report_tiny_mix")) for name in names]
    assert [path.read_bytes() for path in kept] == first


def test_chosen_members_have_a_report_too(own):
    evaluate.main(["mix", "--members", "convnext_xlarge:0", "second:0"])
    assert report.main(["mix-subset"]) == 0
    found = json.loads((own / "result" / "report.json").read_text())
    assert found["ensemble"] == "mix-subset"
    assert any("no member holds out their fold" in text for text in found["warnings"])
    page = Report((own / "result" / "report.html").read_text())
    assert "No thresholds are shipped" in page.text
    assert "python -m liveness.search mix --data tiny" in page.commands  # mix-subset is no ensemble to search
    assert not (own / "result" / "report_tiny_mix.html").exists()
    report.main(["mix"])
    assert "No thresholds are shipped" in (own / "result" / "report_tiny_mix-subset.html").read_text()
    assert json.loads((own / "result" / "report.json").read_text())["ensemble"] == "mix"


@pytest.fixture
def aside(workspace, tmp_path, monkeypatch) -> Path:
    """A workspace whose first eight persons are a holdout."""
    make_configs(tmp_path / "configs", monkeypatch)
    make_set(workspace, aside=8)
    evaluate.main(["mix"])
    return workspace


def test_a_holdout_has_a_panel_of_its_own(aside):
    page, _, found = make(aside)
    table = scores(aside)
    assert [part["name"] for part in found["splits"]] == ["out of fold", "holdout"]
    held = table[table.fold == -1]
    assert found["splits"][1]["videos"] == len(held) == 40
    assert found["splits"][1]["auc"] == pytest.approx(roc_auc_score(held.label, held.score))
    assert f"Holdout: {held.label.sum()} live, {(held.label == 0).sum()} attacks, seen by no member" in page.text
    assert [attrs["data-split"] for _, attrs in page.elements if "data-split" in attrs] == ["0", "1"]
    assert not any("approximate" in text for text in found["warnings"])


def test_few_persons_and_no_error_are_said_plainly(workspace, tmp_path, monkeypatch):
    make_configs(tmp_path / "configs", monkeypatch)
    make_set(workspace, count=48, people=8, apart=0.49)
    evaluate.main(["mix"])
    page, _, found = make(workspace)
    assert found["evaluation"]["pooled"]["eer"] == 0
    assert found["headline"].startswith("No error was seen on") and "That is not “no error”" in found["headline"]
    assert found["warnings"][0].startswith("Few persons (8)")
    assert found["warnings"][0] in page.text and "95 % intervals by person" in page.text
    folds = workspace / "data/tiny/folds.json"
    folds.write_text(folds.read_text().replace('"subjects"', '"near_duplicates"'))
    evaluate.main(["mix"])
    page, _, found = make(workspace)
    assert found["warnings"][:2] == [
        "Few groups (8): the intervals are too narrow to speak for other groups.",
        "Groups are near-duplicates only; persons are unknown: if somebody appears in several folds, these figures "
        "flatter.",
    ]
    assert "95 % intervals by group" in page.text and " of 8 groups" in found["headline"]


@pytest.mark.full
def test_a_large_set_gives_a_small_page(workspace, tmp_path, monkeypatch):
    make_configs(tmp_path / "configs", monkeypatch)
    make_set(workspace, count=1176, people=294, apart=0.1)
    evaluate.main(["mix"])
    _, text, found = make(workspace)
    assert len(found["worst"]) == 24
    assert len(text) < 2e6


def test_training_ends_with_the_evaluation_and_the_report(own, tmp_path):
    """train.sh with an interpreter that only notes which of our programs it is asked to run."""
    noted = tmp_path / "noted"
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/bash\ncase "$*" in\n*liveness.members*) echo "second 0 tiny" ;;\n'
        f'*"-m liveness."*) echo "$*" >>"{noted}" ;;\n*) exec "{sys.executable}" "$@" ;;\nesac\n'
    )
    fake.chmod(0o755)
    env = {**os.environ, "PYTHON": str(fake), "DATA": "tiny", "NGPU": "0"}
    for rank, nodes, expected in (
        ("3", "1", ["liveness.train", "liveness.evaluate", "liveness.report"]),  # another launcher's number
        ("1", "2", ["liveness.train"]),
    ):
        noted.write_text("")
        done = subprocess.run(
            ["bash", str(CODE / "train.sh"), "mix"],
            env={**env, "NODE_RANK": rank, "NNODES": nodes, "MASTER_ADDR": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        lines = noted.read_text().splitlines()
        asked = [found[0] for line in lines if (found := re.findall(r"liveness\.(?:train|evaluate|report)\b", line))]
        assert asked == expected
    assert "--data tiny" in lines[-1] or rank == "1"
