"""Near hashes and like embeddings among many: what is found is what comparing all with all finds."""

from pathlib import Path

import numpy as np
import pytest

from liveness.sets import alike, identities, near
from liveness.sets.identities import Embeddings, find_links, link_persons, list_merges

SEED = 20261126


def make_hashes(videos: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """codes (frames x 3 variants x 18 bytes) and owners; scenes recur, with 0 to 30 other bits."""
    scenes = rng.integers(0, 2, (videos // 3, 144), dtype=np.uint8)
    bits = scenes[rng.integers(0, len(scenes), (2 * videos, 3))]
    bits ^= rng.random(bits.shape) < rng.uniform(0, 0.2, (len(bits), 1, 1))
    return np.packbits(bits, axis=-1), np.repeat(np.arange(videos), 2)


def compare_one_by_one(codes: np.ndarray, owner: np.ndarray, most: int) -> set[tuple[int, int, int, int]]:
    bits = np.unpackbits(codes, axis=-1)
    found = set()
    for variant in range(codes.shape[1]):
        apart = (bits[:, None, 0] != bits[None, :, variant]).sum(-1)
        for one, other in zip(*np.nonzero((apart <= most) & (owner[:, None] != owner)), strict=True):
            if variant or one < other:
                found.add((variant, int(one), int(other), int(apart[one, other])))
    return found


@pytest.mark.parametrize("most", [0, 5, 17, 23, 40])
def test_near_hashes_are_those_of_comparing_all_with_all(most, monkeypatch):
    codes, owner = make_hashes(90, np.random.default_rng(SEED + most))
    expected = compare_one_by_one(codes, owner, most)
    assert most < 5 or len(expected) > 50
    monkeypatch.setattr(near, "_AT_ONCE", 50)  # many parts, and matches that several keys find
    for price in (1e9, 0.0):  # of comparing all with all: so keys, then that
        monkeypatch.setattr(near, "_PRODUCT", price)
        near.choose_plan.cache_clear()
        assert (near.choose_plan(len(codes), 3, most, 1.0) is None) == (price == 0)
        found = near.find_near(codes, owner, most)
        rows = list(zip(*(column.tolist() for column in found), strict=True))
        assert len(rows) == len(set(rows)) and set(rows) == expected
    near.choose_plan.cache_clear()


@pytest.mark.parametrize("count", [3_000, 300_000, 3_000_000])
@pytest.mark.parametrize("most", [8, 17, 30])
def test_no_near_hash_can_miss_every_key(count, most):
    """Spread in any way, ``most`` differing bits leave some key untouched: counted for the worst way, bit by bit."""
    plan = near.choose_plan(count, 6, most, 0.8)
    if plan is None:
        return
    # A group without a whole key has at most choose - 1 blocks that agree: so many differing bits it takes at least.
    assert sum(len(group) - plan.choose + 1 for group in plan.groups) > most
    assert [bit for group in plan.groups for low, high in group for bit in range(low, high)] == list(range(144))


def make_faces(count: int, rng: np.random.Generator) -> Embeddings:
    persons = rng.normal(size=(count // 6, 16))
    vectors = persons[rng.integers(0, len(persons), count)] + rng.normal(size=(count, 16)) * 0.3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(Path("e.csv"), [f"{i}.mp4" for i in range(count)], vectors)


@pytest.mark.parametrize("similarity", [0.7, 0.85])
def test_many_faces_are_linked_as_few_are(similarity, monkeypatch):
    """The way of large sets against scipy's linkage, which is that of small ones."""
    faces = make_faces(300, np.random.default_rng(SEED))
    expected = link_persons(faces, similarity), find_links(faces, similarity), list_merges(faces, similarity, 0.05)
    monkeypatch.setattr(identities, "EXACT_MOST", 10)
    assert link_persons(faces, similarity) == expected[0] and len(expected[0]) > 100
    assert find_links(faces, similarity) == expected[1]
    merges = list_merges(faces, similarity, 0.05)
    assert [(m.similarity, m.joined) for m in merges] == [(m.similarity, m.joined) for m in expected[2]]
    assert {m.joined for m in merges} == {True, False}


def test_without_the_index_all_pairs_are_looked_at_and_a_line_says_what_to_install(monkeypatch, capsys):
    faces = make_faces(200, np.random.default_rng(SEED))
    expected = alike.find_alike(faces.vectors, 0.8)
    assert not capsys.readouterr().err
    monkeypatch.setattr(alike, "EXACT_MOST", 10)
    monkeypatch.setattr(alike.importlib.util, "find_spec", lambda name: None)
    found = alike.find_alike(faces.vectors, 0.8)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and 'pip install "liveness[scale]"' in told


@pytest.mark.extras
def test_the_index_finds_nearly_all_and_nothing_else(monkeypatch):
    pytest.importorskip("faiss", reason="needs liveness[scale]")
    faces = make_faces(3000, np.random.default_rng(SEED))
    expected = set(zip(*(c.tolist() for c in alike.find_alike(faces.vectors, 0.8)[:2]), strict=True))
    monkeypatch.setattr(alike, "EXACT_MOST", 10)
    one, other, values = alike.find_alike(faces.vectors, 0.8)
    found = set(zip(one.tolist(), other.tolist(), strict=True))
    assert found <= expected and len(found) > 0.99 * len(expected)
    assert np.allclose(values, (faces.vectors[one] * faces.vectors[other]).sum(1))
    again = alike.find_alike(faces.vectors, 0.8)
    assert np.array_equal(again[0], one) and np.array_equal(again[1], other)
