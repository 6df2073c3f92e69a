"""The benchmark of strategies: whose labels a draw keeps, and that nothing of a held-out camera group is trained on."""

import importlib.util

import pandas as pd
import pytest

from liveness.base.errors import UserError
from liveness.base.files import CODE


@pytest.fixture(scope="module")
def strategies():
    spec = importlib.util.spec_from_file_location("strategies", CODE / "benchmarks" / "strategies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_draw_keeps_its_share_of_each_camera_and_class_and_parts_the_rest(strategies, monkeypatch):
    rows = [(f"{c}{label}{i}.mp4", label, c, fold) for c, fold in (("a", 0), ("b", 0), ("c", 1), ("d", 2))
            for label in (0, 1) for i in range(12)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["filename", "label", "camera", "fold"]).assign(subject="p")
    made = {}
    monkeypatch.setattr(strategies, "make_set", lambda name, rows, *_: made.update({name: rows}))
    draws = strategies.make_draws(table, "s", draws=2, share=0.25, judged=5)
    assert [(draw.number, draw.fold) for draw in draws] == [(n, fold) for n in range(2) for fold in range(3)]
    for draw in draws:
        labelled, rest = made[draw.data], made[draw.rest]
        own, others = labelled[labelled.fold == draw.fold], labelled[labelled.fold != draw.fold]
        assert set(own.filename) == set(draw.judged) and set(own.groupby(["camera", "label"]).size()) == {5}
        assert set(others.groupby(["camera", "label"]).size()) == {3}  # a quarter of 12
        assert not (rest.fold == draw.fold).any() and not set(rest.filename) & set(labelled.filename)
        assert set(rest.filename) | set(others.filename) == set(table.filename[table.fold != draw.fold])
    kept = [set(made[draw.data].filename) - set(draw.judged) for draw in draws]
    assert kept[0] != kept[3] and draws[0].judged == draws[3].judged  # other labels, judged on the same


def test_camera_groups_that_do_not_fit_are_refused(strategies, tmp_path, monkeypatch):
    (tmp_path / "raw/one/videos").mkdir(parents=True)
    (tmp_path / "raw/one/videos/1.mp4").write_bytes(b"")
    (tmp_path / "raw/one/label.csv").write_text("fname,liveness_score,camera\n1.mp4,1,c1\n")
    monkeypatch.setenv("LIVENESS_ROOT", str(tmp_path))
    with pytest.raises(UserError, match="--camera-groups names c2; the sets have c1"):
        strategies.gather_videos(["one"], [["c2"]], 0)
