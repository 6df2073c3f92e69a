"""The report in a few lines: Markdown as GitHub shows it, and tables that other programs read."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt
from sklearn.metrics import roc_curve

from liveness import review
from liveness.base.errors import UserError
from liveness.base.files import CODE, without_nan
from liveness.evaluation import report as evaluation
from liveness.evaluation.intervals import compare_eer
from liveness.pages.figures import describe_split


def make_report(path: Path, apart: float, dropped: int = 0, seed: int = 3) -> pd.DataFrame:
    """A report.json of 80 videos of 20 persons with what the review reads; ``dropped`` of them have no score."""
    rng, index = np.random.default_rng(seed), np.arange(80)
    table = pd.DataFrame({"filename": [f"{i}.mp4" for i in index], "label": index // 20 % 2, "fold": index % 2})
    table["group"], table["status"], table["species"] = [f"p{i % 20}" for i in index], "ok", ""
    table["score"] = np.clip(0.5 + apart * (2 * table["label"] - 1) + rng.normal(0, 0.2, 80), 0.01, 0.99)
    table.loc[: dropped - 1, "score"] = np.nan
    scored = table[table["score"].notna()]
    found = {
        "ensemble": "demo",
        "data": "demo",
        "headline": "About 1 in 100 of camera <b>|x|</b> @someone pass.",
        "warnings": ["Few persons (20): *careful*."],
        "evaluation": evaluation.summarise(table, []),
        "splits": [describe_split("out of fold", scored)],
        "videos": table.to_dict("records"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(without_nan(found)))
    return table


def test_the_review_compares_two_reports_on_the_videos_that_both_have(workspace, tmp_path, capsys):
    ours = make_report(workspace / "result/report_demo_demo.json", apart=0.3)
    theirs = make_report(tmp_path / "base.json", apart=0.1, dropped=3, seed=4)
    assert review.main(["demo", "--against", str(tmp_path / "base.json"), "--names", "this change", "main"]) == 0
    text = (workspace / "result/review_demo_demo/review.md").read_text()
    assert text in capsys.readouterr().out
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert page.count("<table>") == 1 and page.count("<th>") == 3 and 'class="language-mermaid"' in page
    assert "<b>" not in page and "@someone" not in page and "<em>" not in page and "data:" not in text
    both = theirs["score"].notna()
    part = (frame[both]["score"].to_numpy() for frame in (theirs, ours))
    expected = compare_eer(ours["label"][both].to_numpy(), *part, ours["group"][both].to_numpy())
    assert f"Against main: {expected.verdict}" in text and expected.verdict == "better"
    assert "Paired on 77 videos of 20 groups, 3 videos without a counterpart left out" in text
    fpr, tpr, _ = roc_curve(ours["label"], ours["score"], drop_intermediate=False)
    assert f"≤ 5 % of attacks pass | {100 * (1 - tpr[fpr <= 0.05].max()):.1f} %" in text


def test_the_tables_for_dvc_hold_the_curve_the_histogram_and_flat_figures(workspace):
    table = make_report(workspace / "result/report_demo_demo.json", apart=0.15)
    review.main(["demo"])
    folder = workspace / "result/review_demo_demo"
    figures = json.loads((folder / "metrics.json").read_text())
    assert all(isinstance(value, (int, float)) for value in figures.values()) and figures["scored"] == 80
    curve, bars = (pd.read_csv(folder / name).to_dict("records") for name in ("det.csv", "scores.csv"))
    fpr, tpr, _ = roc_curve(table["label"], table["score"], drop_intermediate=False)
    drawn = {(float(row["apcer"]), float(row["bpcer"])) for row in curve}
    assert all(any(abs(a - x) + abs(b - y) < 1e-5 for x, y in drawn) for a, b in zip(fpr, 1 - tpr, strict=True))
    assert sum(float(row["live"]) + float(row["attack"]) for row in bars) == 80
    # Without another report there is nothing that is compared, and one line in the chart.
    text = (folder / "review.md").read_text()
    assert "Against" not in text and text.count("\n  line [") == 1


def test_what_is_no_report_is_one_line(workspace, tmp_path):
    with pytest.raises(UserError, match=r"liveness\.report"):
        review.main(["demo"])
    make_report(workspace / "result/report_demo_demo.json", apart=0.3)
    (tmp_path / "odd.json").write_text('{"headline": ""}')
    for path in ("odd.json", "absent.json"):
        with pytest.raises(UserError, match=f"--against .*{path}.*liveness.report"):
            review.main(["demo", "--against", str(tmp_path / path)])
    make_report(tmp_path / "other.json", apart=0.3)
    found = json.loads((tmp_path / "other.json").read_text())
    found["videos"] = [row | {"label": 1 - row["label"]} for row in found["videos"]]
    (tmp_path / "other.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match="different labels for 80 videos"):
        review.main(["demo", "--against", str(tmp_path / "other.json")])


@pytest.mark.parametrize("path", sorted((CODE / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_pin_their_actions_and_what_runs_the_change_may_only_read(path):
    flow = yaml.safe_load(path.read_text())
    assert flow["permissions"] == {}
    for job in flow["jobs"].values():
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(len(name.partition("@")[2]) == 40 for name in uses)
        if any(name.startswith("actions/checkout@") for name in uses):
            assert set(job["permissions"].values()) == {"read"}
        for script in (word for step in job["steps"] for word in step.get("run", "").split() if word.endswith(".sh")):
            assert (CODE / script).is_file()
