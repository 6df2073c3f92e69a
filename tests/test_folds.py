"""Folds: no group is ever parted, the classes are even, dealt folds stay."""

import networkx
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from liveness.base.config import Data, Folds, FramePlan, View
from liveness.base.errors import UserError
from liveness.sets.dataset import PreparedSet, list_holdout, split_set
from liveness.sets.dealing import assert_no_leak, deal_groups, deal_naive, deal_set, draw_holdout
from liveness.sets.folds import check_folds, fold_set
from liveness.sets.groups import find_groups_file, join, name_groups, read_groups, resolve_ids

SEED = 20260101


def random_set(rng: np.random.Generator, videos: int, groups: int) -> pd.DataFrame:
    group = rng.integers(0, groups, videos)
    lean = rng.uniform(0.1, 0.9, groups)  # persons with mostly live or mostly attacked videos
    label = (rng.uniform(size=videos) < lean[group]).astype(int)
    names = [f"{i}.mp4" for i in range(videos)]
    return pd.DataFrame({"filename": names, "label": label, "group": [f"p{g}" for g in group]})


def spread(folds: np.ndarray, labels: np.ndarray, n: int) -> float:
    """The largest distance of a fold's share of a class from 1 / n."""
    return max(abs((labels[folds == k] == c).sum() / (labels == c).sum() - 1 / n) for k in range(n) for c in (0, 1))


@pytest.mark.parametrize("case", range(8))
def test_groups_stay_whole_and_classes_even(case):
    rng = np.random.default_rng(SEED + case)
    table = random_set(rng, int(rng.integers(60, 600)), int(rng.integers(20, 100)))
    n = int(rng.integers(2, 8))
    folds = deal_groups(table, n, seed=42)
    assert sorted(set(folds)) == list(range(n))
    assert table.assign(fold=folds).groupby("group")["fold"].nunique().max() == 1
    labels = table["label"].to_numpy()
    reference = np.empty(len(table), int)
    split = StratifiedGroupKFold(n, shuffle=True, random_state=42)
    for k, (_, held_out) in enumerate(split.split(labels, labels, table["group"])):
        reference[held_out] = k
    assert spread(folds, labels, n) <= spread(reference, labels, n) + 0.02, f"seed {SEED + case}"


def deal_one_by_one(table: pd.DataFrame, n: int, seed: int) -> list[int]:
    """``deal_groups`` as it was first written: order after order, group after group."""
    groups, rows = np.unique(table["group"].to_numpy(str), return_inverse=True)
    strata = np.unique([f"{a} {b}" for a, b in zip(table["label"], table["species"], strict=True)], return_inverse=True)
    sizes = np.zeros((len(groups), len(strata[0])))
    np.add.at(sizes, (rows, strata[1]), 1)
    live = sizes[:, [name.startswith("1") for name in strata[0]]].sum(1)
    shares, videos = sizes / sizes.sum(0), sizes.sum(1)
    random, found = np.random.RandomState(seed), []
    for _ in range(50):
        order = random.permutation(len(groups))
        order = order[np.argsort(-shares[order].max(1), kind="stable")]
        folds, have, count = np.zeros(len(groups), int), np.zeros((n, shares.shape[1])), np.zeros(n)
        for group in order:
            growth = (2 * have * shares[group]).sum(1) + 2 * count * videos[group] / videos.sum()
            folds[group] = fold = int(np.argmin(np.round(growth, 12)))
            have[fold] += shares[group]
            count[fold] += videos[group] / videos.sum()
        held = np.zeros((n, sizes.shape[1]))
        np.add.at(held, folds, sizes)
        lives = np.bincount(folds, weights=live, minlength=n)
        lacking = ((lives == 0) | (lives == held.sum(1))).sum()
        off = ((held / held.sum(0) - 1 / n) ** 2).sum() + ((held.sum(1) / held.sum() - 1 / n) ** 2).sum()
        found.append((int(lacking), round(float(off), 12), len(found), folds))
    return min(found)[3][rows].tolist()


@pytest.mark.parametrize("case", range(4))
def test_all_orders_at_once_give_the_folds_of_one_by_one(case):
    rng = np.random.default_rng(100 + case)
    count = int(rng.integers(40, 120))
    table = pd.DataFrame({"label": rng.integers(0, 2, count), "group": rng.integers(0, count // 2, count).astype(str)})
    table["species"] = np.where(table["label"] == 1, "", np.array(["a b", "c", "ü"])[rng.integers(0, 3, count)])
    assert deal_groups(table, 3 + case % 2, case).tolist() == deal_one_by_one(table, 3 + case % 2, case)


def test_the_holdout_is_that_of_drawing_all_at_once():
    rng = np.random.default_rng(7)
    table = pd.DataFrame({"label": rng.integers(0, 2, 90), "group": rng.integers(0, 40, 90).astype(str)})
    groups, rows = np.unique(table["group"].to_numpy(str), return_inverse=True)
    sizes = np.zeros((len(groups), 2))
    np.add.at(sizes, (rows, table["label"]), 1)
    wanted = round(0.2 * len(groups))
    drawn = np.argsort(np.random.RandomState(3).uniform(size=(2000, len(groups))), axis=1, kind="stable") < wanted
    inside = drawn @ sizes
    off = ((inside / sizes.sum(0) - 0.2) ** 2).sum(1) + (inside.sum(1) / sizes.sum() - 0.2) ** 2
    both = ((inside > 0) & (inside < sizes.sum(0))).all(1)
    best = np.flatnonzero(both)[np.argmin(np.round(off[both], 12))]
    assert np.array_equal(draw_holdout(table, 0.2, 3), drawn[best][rows])


def test_the_seed_decides():
    table = random_set(np.random.default_rng(SEED), 300, 120)
    np.testing.assert_array_equal(deal_groups(table, 5, 42), deal_groups(table, 5, 42))
    assert (deal_groups(table, 5, 42) != deal_groups(table, 5, 43)).any()


def test_species_are_spread_too():
    rng = np.random.default_rng(SEED)
    table = random_set(rng, 400, 150)
    kinds = rng.choice(["print", "replay", "mask"], 400, p=[0.5, 0.4, 0.1])
    table["species"] = np.where(table["label"] == 0, kinds, "")
    folds = deal_groups(table, 4, 42)
    masks = (table["species"] == "mask").to_numpy()
    assert all((folds[masks] == k).sum() >= masks.sum() / 4 * 0.6 for k in range(4))


@pytest.mark.parametrize(
    ("labels", "groups", "n", "expected"),
    [
        ([1, 1, 1, 1], "abcd", 2, "all 4 videos are live"),
        ([0, 0, 0], "abc", 2, "all 3 videos are attack"),
        ([0, 1, 0, 1], "aabb", 3, "2 groups for 3 folds"),
        ([0, 1], "aa", 2, "1 group for 2 folds"),
        ([0, 1, 0, 0], "abcd", 2, "would have only attacked"),
        ([0, 1], "ab", 2, "fold 0 of 2 would have only"),
    ],
)
def test_impossible_folds_are_one_line(labels, groups, n, expected):
    table = pd.DataFrame({"filename": [f"{i}.mp4" for i in range(len(labels))], "label": labels, "group": list(groups)})
    with pytest.raises(UserError, match=expected) as caught:
        deal_groups(table, n, 42)
    assert "\n" not in str(caught.value)


def test_a_leak_is_named():
    assert_no_leak(np.array([0, 1, 0]), np.array(["a", "b", "a"]))
    with pytest.raises(UserError, match="leak: group 'a'"):
        assert_no_leak(np.array([0, 1, 1]), np.array(["a", "b", "a"]))


def test_naive_folds_ignore_groups():
    table = random_set(np.random.default_rng(SEED), 200, 10)
    folds = deal_naive(table, 5, 42)
    assert table.assign(fold=folds).groupby("group")["fold"].nunique().max() > 1
    assert spread(folds, table["label"].to_numpy(), 5) < 0.02


@pytest.mark.parametrize("case", range(6))
def test_a_holdout_is_whole_groups_and_as_even_as_the_folds(case):
    rng = np.random.default_rng(SEED + case)
    table = random_set(rng, int(rng.integers(100, 600)), int(rng.integers(25, 100)))
    share = rng.uniform(0.1, 0.4)
    aside = draw_holdout(table, share, 42)
    groups, labels = table["group"], table["label"].to_numpy()
    assert not set(groups[aside]) & set(groups[~aside])
    assert groups[aside].nunique() == round(share * groups.nunique())
    for kind in (0, 1):
        assert (labels[aside] == kind).sum() / (labels == kind).sum() == pytest.approx(share, abs=0.06)
    np.testing.assert_array_equal(aside, draw_holdout(table, share, 42))
    assert (aside != draw_holdout(table, share, 43)).any()
    folds = deal_set(table, Folds(n=3, holdout=share))
    for column in ("fold", "naive_fold"):
        assert ((folds[column] == -1) == aside).all() and set(folds[column][~aside]) == {0, 1, 2}
    assert_no_leak(folds["fold"].to_numpy(), groups.to_numpy())


def test_without_a_holdout_folds_are_dealt_as_ever():
    table = random_set(np.random.default_rng(SEED), 300, 60)
    folds = deal_set(table, Folds(n=5, seed=42))
    np.testing.assert_array_equal(folds["fold"], deal_groups(table, 5, 42))
    np.testing.assert_array_equal(folds["naive_fold"], deal_naive(table, 5, 42))


def test_a_holdout_that_cannot_have_both_classes_is_one_line():
    table = pd.DataFrame({"filename": ["1", "2", "3"], "label": [0, 1, 1], "group": list("abc")})
    with pytest.raises(UserError, match="no 1 of 3 groups leave both classes"):
        draw_holdout(table, 0.2, 42)


def put_set(folder, table):
    """A prepared set's tables, one frame a video."""
    ids = [name.split(".")[0] for name in table["filename"]]
    videos = table.assign(video_id=ids, status="ok", species="")
    folder.mkdir(parents=True)
    videos.to_csv(folder / "labels_video.csv", index=False)
    for name in ("labels_keyframes", "labels_bbox"):
        videos[["filename", "video_id", "label"]].assign(frame_id=1).to_csv(folder / f"{name}.csv", index=False)
    return videos.astype(str)


def test_a_sets_holdout_is_in_neither_table_and_is_kept(tmp_path, capsys):
    folder = tmp_path / "mine"
    put_set(folder, random_set(np.random.default_rng(SEED), 120, 30))
    fold_set(folder, Folds(n=3, holdout=0.2))
    assert "holdout: " in capsys.readouterr().out
    folds = pd.read_csv(folder / "folds.csv")
    held = set(folds["filename"][folds["fold"] == -1])
    assert len(set(folds["group"][folds["fold"] == -1])) == 6
    for name in ("labels_video", "labels_keyframes", "labels_bbox"):
        sides = [set(pd.read_csv(folder / f"{name}_{side}.csv")["filename"]) for side in ("train", "test")]
        assert not held & (sides[0] | sides[1]) and len(sides[0]) + len(sides[1]) + len(held) == 120
    before = (folder / "folds.csv").read_bytes()
    fold_set(folder, Folds(n=3, holdout=0.2))
    assert "kept" in capsys.readouterr().out and (folder / "folds.csv").read_bytes() == before
    fold_set(folder, Folds(n=3))
    assert "number, seed, holdout or way of the folds changed" in capsys.readouterr().out
    assert (pd.read_csv(folder / "folds.csv")["fold"] >= 0).all()


def test_folds_of_ones_own_may_have_a_holdout(tmp_path):
    folder = tmp_path / "mine"
    videos = put_set(folder, random_set(np.random.default_rng(SEED), 60, 20))
    folds = deal_set(videos.astype({"label": int}), Folds(n=2, holdout=0.2)).astype(str)
    path = folder / "folds.csv"
    check_folds(path, folds, videos)
    folds.to_csv(path, index=False)
    fold_set(folder, Folds(n=2))
    assert len(pd.read_csv(folder / "labels_video_train.csv")) < (folds["fold"] != "0").sum()
    with pytest.raises(UserError, match="or -1 for the holdout"):
        check_folds(path, folds.replace({"fold": {"-1": "-2"}}), videos)
    aside = folds["fold"] == "-1"
    folds.loc[folds.index[aside][0], "fold"] = "1"
    with pytest.raises(UserError, match="leak"):
        check_folds(path, folds, videos)


def test_no_member_trains_on_the_holdout_and_every_member_scores_it(tmp_path):
    table = random_set(np.random.default_rng(SEED), 120, 30)
    table["fold"] = deal_set(table, Folds(n=3, holdout=0.2))["fold"]
    videos = table.set_index("filename").assign(status="ok", reason="")
    frames = table.assign(video_id=table["filename"], frame_id=1, face=1)
    prepared = PreparedSet("mine", tmp_path, Data(frames=FramePlan()), "", "", videos, frames)
    assert prepared.n_folds == 3
    aside = set(table["filename"][table["fold"] == -1])
    assert set(list_holdout(prepared)) == aside and aside
    for fold in range(3):
        train, held_out = split_set(prepared, fold, View())
        assert set(held_out) == set(table["filename"][table["fold"] == fold])
        assert set(train["filename"]) == set(table["filename"]) - set(held_out) - aside
    with pytest.raises(UserError, match="folds 0 to 2"):
        split_set(prepared, -1, View())


@pytest.mark.parametrize("case", range(5))
def test_join_is_connected_components(case):
    rng = np.random.default_rng(SEED + case)
    names = [f"{i}.mp4" for i in range(80)]
    links = [list(rng.choice(names, rng.integers(1, 4), replace=False)) for _ in range(40)]
    graph = networkx.Graph()
    graph.add_nodes_from(names)
    for link in links:
        networkx.add_path(graph, link)
    expected = {frozenset(part) for part in networkx.connected_components(graph)}
    parts = join(names, links)
    assert {frozenset(part) for part in parts} == expected and sum(len(part) for part in parts) == 80


def test_group_names_are_distinct_and_telling():
    parts = [["1.mp4", "2.mp4"], ["3.mp4"], ["4.mp4", "5.mp4"], ["6.mp4"]]
    names = name_groups(parts, {"1.mp4": "ann", "4.mp4": "bob", "5.mp4": "cy", "6.mp4": "3.mp4"})
    assert names["1.mp4"] == names["2.mp4"] == "ann" and names["4.mp4"] == names["5.mp4"] == "bob+cy"
    assert len(set(names.values())) == 4


def test_the_shipped_duplicates():
    groups = read_groups(find_groups_file("zalo2022"))
    assert groups.left_out == ["674"]
    assert [len(part) for part in groups.together] == [15, 13]
    assert {"42", "131", "657"} <= set(groups.together[0]) and {"316", "1", "244"} <= set(groups.together[1])
    names = [f"{i}.mp4" for i in range(1168)]
    parts = join(names, [resolve_ids(part, names)[0] for part in groups.together])
    assert sorted(map(len, parts))[-2:] == [1, 26]


def test_groups_files(tmp_path):
    text = tmp_path / "g.txt"
    text.write_text("# remark\n1 2 3\nann: 4.mp4, with space.mp4  # more\n\nLeft out: 9\n", encoding="utf-8")
    groups = read_groups(text)
    assert groups.together == [["1", "2", "3"], ["4.mp4", "with space.mp4"]] and groups.left_out == ["9"]
    table = tmp_path / "g.csv"
    table.write_text("filename,group\n1.mp4,a\n2.mp4,b\n3.mp4,a\n4.mp4,\n", encoding="utf-8")
    assert read_groups(table).together == [["1.mp4", "3.mp4"], ["2.mp4"]]
    assert resolve_ids(["1", "2.mp4", "7"], ["1.mp4", "2.mp4"]) == (["1.mp4", "2.mp4"], ["7"])
    accents = ["Nge\u0302\u0301.mp4", "2.mp4"]
    assert resolve_ids(["Ng\u1ebf", " 2.mp4 "], accents) == (accents, [])
    table.write_text("Filename,GROUP\n1.mp4,a\n3.mp4, a \n", encoding="utf-8")
    assert read_groups(table).together == [["1.mp4", "3.mp4"]]
    table.write_text("filename,group\n1.mp4,Ann\n3.mp4,ann\n", encoding="utf-8")
    with pytest.raises(UserError, match="column group: 'Ann' and 'ann' differ only by case"):
        read_groups(table)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="no column filename, group"):
        read_groups(tmp_path / "bad.csv")
    with pytest.raises(UserError, match="did you mean zalo2022"):
        find_groups_file("zalo202")
