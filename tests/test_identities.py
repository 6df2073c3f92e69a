"""Identities from embeddings: the clusters are those of the similarities, a file that is none is one line."""

import networkx
import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from sklearn.cluster import AgglomerativeClustering

from liveness.base.errors import UserError
from liveness.sets.groups import join
from liveness.sets.identities import find_links, link_persons, list_merges, read_embeddings

SEED = 20260301


def table(path, names, vectors):
    rows = [f"{name}," + ",".join(f"{v:.6f}" for v in vector) for name, vector in zip(names, vectors, strict=True)]
    path.write_text("filename," + ",".join(f"e{i}" for i in range(len(vectors[0]))) + "\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("case", range(4))
def test_links_are_a_maximum_spanning_forest_of_the_similar(tmp_path, case, monkeypatch):
    monkeypatch.setattr("liveness.sets.tiles.TILE", 16)  # several tiles also for a small set
    rng = np.random.default_rng(SEED + case)
    persons = rng.normal(size=(12, 8))
    vectors = persons[rng.integers(0, 12, 70)] + rng.normal(size=(70, 8)) * 0.5
    names = [f"{i}.mp4" for i in range(70)]
    links = find_links(read_embeddings(table(tmp_path / "e.csv", names, vectors * 7), names), 0.8)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    graph = networkx.Graph()
    graph.add_nodes_from(names)
    for i, k in zip(*np.nonzero(np.triu(unit @ unit.T >= 0.8, 1)), strict=True):
        graph.add_edge(names[i], names[k], weight=unit[i] @ unit[k])
    forest = networkx.maximum_spanning_tree(graph)
    assert links and {(link.one, link.other) for link in links} == {
        tuple(sorted(edge, key=names.index)) for edge in forest.edges
    }
    for link in links:
        assert link.similarity == pytest.approx(graph.edges[link.one, link.other]["weight"], abs=1e-4)


def test_rows_of_one_video_are_averaged_and_strangers_named(tmp_path):
    path = table(tmp_path / "e.csv", ["1", "2.mp4", " 2", "9"], [[2, 0], [9, 0], [0, 1], [1, 1]])
    with pytest.raises(UserError, match=r"1 of its 4 names are no video of the set: '9'"):
        read_embeddings(path, ["1.mp4", "2.mp4", "3.mp4"])
    embeddings = read_embeddings(path, ["1.mp4", "2.mp4", "3.mp4"], also=["9.mp4"])  # beside the set: not used
    assert embeddings.filenames == ["1.mp4", "2.mp4"]
    np.testing.assert_allclose(embeddings.vectors, [[1, 0], [0.5**0.5, 0.5**0.5]])
    (link,) = find_links(embeddings, 0.7)
    assert (link.one, link.other, link.similarity) == ("1.mp4", "2.mp4", 0.7071)
    assert find_links(embeddings, 0.71) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("filename\n1\n", "columns of numbers"),
        ("name,a\n1,2\n", "no column filename"),
        ("filename,a,b\n", "a row per video"),
        ("filename,a,b\n1,2,3\n2,x,4\n", "line 3: not an embedding of '2'"),
        ("filename,a,b\n1,2,\n", "line 2: not an embedding"),
        ("filename,a,b\n1,0,0\n", "not all of them 0"),
        ("filename,a,b\n1,inf,0\n", "expected 2 finite numbers"),
        ("filename,a,b\n7,1,0\n", "1 of its 1 names are no video of the set: '7'"),
    ],
)
def test_what_is_no_embedding_is_one_line(tmp_path, text, expected):
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        read_embeddings(tmp_path / "e.csv", ["1.mp4", "2.mp4"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", range(4))
def test_persons_are_the_clusters_of_average_linkage(tmp_path, case, monkeypatch):
    monkeypatch.setattr("liveness.sets.tiles.TILE", 16)
    rng, threshold = np.random.default_rng(SEED + case), (0.3, 0.5, 0.7, 0.9)[case]
    persons = rng.normal(size=(9, 6))
    vectors = persons[rng.integers(0, 9, 60)] + rng.normal(size=(60, 6)) * 0.7
    names = [f"{i}.mp4" for i in range(60)]
    embeddings = read_embeddings(table(tmp_path / "e.csv", names, vectors), names)
    links = link_persons(embeddings, threshold)
    theirs = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=1 - threshold)
    person = theirs.fit_predict(vectors)
    expected = {tuple(name for name, p in zip(names, person, strict=True) if p == k) for k in set(person)}
    parts = join(names, [[link.one, link.other] for link in links])
    assert {tuple(part) for part in parts} == expected and 1 < len(expected) < 60
    assert len(links) == 60 - len(parts) and min(link.similarity for link in links) >= threshold - 1e-4
    # The joins near the threshold are those of the whole tree.
    heights = 1 - linkage(vectors, "average", metric="cosine")[:, 2]
    merges = list_merges(embeddings, threshold, 0.1)
    near = sorted((height for height in heights if abs(height - threshold) <= 0.1), reverse=True)
    assert merges and [merge.similarity for merge in merges] == pytest.approx(near, abs=1e-4)
    group = {name: i for i, part in enumerate(parts) for name in part}
    assert all((group[merge.one] == group[merge.other]) == merge.joined for merge in merges)


def test_a_chain_of_look_alikes_does_not_make_one_person_of_all(tmp_path):
    angles = np.arange(0, 3, 0.1)  # neighbours are alike by 0.995, the ends are opposite
    names = [f"{i}.mp4" for i in range(len(angles))]
    path = table(tmp_path / "e.csv", names, np.stack([np.cos(angles), np.sin(angles)], axis=1))
    embeddings = read_embeddings(path, names)
    assert len(join(names, [[link.one, link.other] for link in find_links(embeddings, 0.95)])) == 1
    parts = join(names, [[link.one, link.other] for link in link_persons(embeddings, 0.95)])
    assert len(parts) > 3 and all(angles[names.index(p[-1])] - angles[names.index(p[0])] < 0.7 for p in parts)


def test_the_digests_of_computed_embeddings_are_no_numbers(tmp_path):
    (tmp_path / "e.csv").write_text("filename,made_from,e0,e1\n1,00ff,0,2\n")
    assert read_embeddings(tmp_path / "e.csv", ["1.mp4"]).vectors.tolist() == [[0, 1]]
