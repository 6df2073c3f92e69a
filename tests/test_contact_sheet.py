"""The contact sheet, on a tiny prepared set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveness import contact_sheet
from liveness.base.compose import load_data
from liveness.base.errors import UserError
from liveness.sets.folds import fold_set
from liveness.sets.preparation import prepare_set
from liveness.training.contact_sheet import choose_rows, describe_draw, fit_text


@pytest.fixture
def tiny_set(workspace: Path, tiny_clips) -> Path:
    """data/tiny of four clips without faces, two of each class."""
    lines = ["fname,liveness_score"]
    for i in range(4):
        tiny_clips(workspace / "raw" / "tiny" / "videos" / f"{i}.mp4", seed=i)
        lines.append(f"{i}.mp4,{i % 2}")
    (workspace / "raw" / "tiny" / "label.csv").write_text("\n".join(lines) + "\n")
    data = load_data("tiny", ["folds.n=2", "folds.duplicates=0"])
    prepare_set(data)
    fold_set(workspace / "data" / "tiny", data.folds)
    return workspace


def test_a_sheet_shows_untouched_views_and_marks_simulated_attacks(tiny_set, capsys):
    options = ["-c", "demo_frame", "--data", "tiny", "--rows", "3", "--columns", "4", "-o", "augment=attacks"]
    contact_sheet.main([*options, "augment.attack_rate=1"])
    out = tiny_set / "runs" / "tiny" / "demo_frame_attacks.png"
    printed = capsys.readouterr().out
    assert str(out) in printed and "9 draws of attacks" in printed
    pixels = np.asarray(Image.open(out)).astype(int)
    assert pixels.shape[0] > 3 * 160 and pixels.shape[1] >= 4 * 160
    red = (np.abs(pixels - (255, 60, 60)).max(2) == 0).sum()
    assert red > 6 * 4 * 160 * 2  # two live rows of three draws: a frame round each

    contact_sheet.main([*options, "augment.attack_rate=1", "--out", str(tiny_set / "again.png")])
    assert np.array_equal(pixels, np.asarray(Image.open(tiny_set / "again.png")))


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["-c", "efficientnet_lite0"], "no frame with a face has a label"),
        (["-c", "demo_frame", "--out", "sheet.jpg"], "ends in .png"),
        (["-c", "demo_frame", "-o", "augment=shfit"], "shift"),
    ],
)
def test_a_users_mistake_is_one_line(tiny_set, args, word):
    with pytest.raises(UserError, match=word) as caught:
        contact_sheet.main(["--data", "tiny", *args])
    assert "\n" not in str(caught.value)


def test_a_sheet_without_a_draw_is_misuse(capsys):
    with pytest.raises(SystemExit) as caught:
        contact_sheet.main(["--data", "tiny", "-c", "demo_frame", "--columns", "1"])
    assert caught.value.code == 2 and "at least 1 row and 2 columns" in capsys.readouterr().err


def test_rows_are_dealt_to_both_classes_and_spread_over_the_set():
    labels = np.array([1] * 10 + [0] * 90)
    chosen = choose_rows(labels, 8)
    assert [int(labels[i]) for i in chosen] == [1] * 4 + [0] * 4
    assert len(set(chosen)) == 8 and max(chosen) > 80
    assert (
        choose_rows(labels[:10], 4) == sorted(set(choose_rows(labels[:10], 4)))
        and len(choose_rows(labels[:10], 4)) == 4
    )
    assert len(choose_rows(labels, 1000)) == 100
    assert len(choose_rows(np.array([1, 0, 0, 0, 0]), 4)) == 4


def test_a_tile_says_what_became_of_the_label():
    assert describe_draw(1, 1.0, False)[0] == "live" and describe_draw(0, 0.0, False)[0] == "attack"
    assert "was live" in describe_draw(1, 0.0, False)[0]
    assert "0.62" in describe_draw(1, 0.62, True)[0]


def test_a_text_that_is_too_wide_is_cut_with_a_sign_and_keeps_its_label():
    assert fit_text("12-3 live", 9, len) == "12-3 live"
    assert fit_text("a long name-12 live", 9, len) == "…-12 live"
    assert fit_text("live", 0, len) == "…e"
