"""Near-duplicates: copies are found through what people do to them, different recordings are not."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage import data as images

from liveness.base.config import Folds, FramePlan
from liveness.frames.video import read_frames
from liveness.sets.duplicates import find_pairs, hash_frame

SIZE = (320, 240)
THRESHOLD = Folds().duplicates


def recording(seed: int, frames: int = 12) -> list[np.ndarray]:
    """A hand-held recording of one of several scenes: a drifting, breathing window on a photograph."""
    scenes = [images.astronaut, images.coffee, images.chelsea, images.rocket]
    scene = scenes[seed % len(scenes)]()
    rng = np.random.default_rng(seed)
    scene = cv2.resize(scene, (640, 480))[:, :: -1 if seed >= len(scenes) * 2 else 1]
    left, top = rng.integers(20, 280), rng.integers(20, 200)
    pictures = []
    for i in range(frames):
        x, y = int(left + 6 * np.sin(i / 3 + seed)), int(top + 5 * np.cos(i / 4))
        pictures.append(np.ascontiguousarray(scene[y : y + SIZE[1], x : x + SIZE[0]]))
    return pictures


def encode(path: Path, pictures: list[np.ndarray], crf: int = 23) -> Path:
    height, width = (side - side % 2 for side in pictures[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": str(crf), "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            frame = np.ascontiguousarray(picture[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def hashes_of(path: Path) -> list[list[str]]:
    return [hash_frame(rgb) for _, rgb in sorted(read_frames(path, [FramePlan()], 95).frames.items())]


def border(picture: np.ndarray, share: float) -> np.ndarray:
    y, x = round(share * picture.shape[0]), round(share * picture.shape[1])
    return picture[y : picture.shape[0] - y, x : picture.shape[1] - x]


COPIES = {
    "re-encoded": (lambda p: p, 38),
    "half the size": (lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 28),
    "larger": (lambda p: cv2.resize(p, None, fx=1.7, fy=1.7), 28),
    "mirrored": (lambda p: p[:, ::-1], 28),
    "cropped": (lambda p: border(p, 0.04), 28),
    "brighter": (lambda p: np.clip((p / 255.0) ** 0.8 * 255, 0, 255).astype(np.uint8), 28),
    "mirrored, cropped, smaller": (lambda p: cv2.resize(border(p[:, ::-1], 0.03), None, fx=0.6, fy=0.6), 32),
}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("recordings")
    return {f"{seed}.mp4": hashes_of(encode(folder / f"{seed}.mp4", recording(seed))) for seed in range(8)}


def test_different_recordings_are_apart(recordings):
    assert find_pairs(recordings, THRESHOLD) == []


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found(recordings, tmp_path, kind):
    change, crf = COPIES[kind]
    copies = {}
    for seed in range(4):
        path = encode(tmp_path / f"copy{seed}.mp4", [np.ascontiguousarray(change(p)) for p in recording(seed)], crf)
        copies[path.name] = hashes_of(path)
    pairs = find_pairs(recordings | copies, THRESHOLD)
    assert {(pair.one, pair.other) for pair in pairs} == {(f"{seed}.mp4", f"copy{seed}.mp4") for seed in range(4)}
    assert all(pair.mirrored == ("mirrored" in kind) for pair in pairs)


def test_black_frames_make_no_duplicates():
    black = [hash_frame(np.full((240, 320, 3), level, np.uint8)) for level in (0, 3, 0)]
    assert black == [[], [], []]
    assert find_pairs({"a": black, "b": black}, THRESHOLD) == []


def test_one_shared_frame_is_not_enough(recordings):
    one, other = recordings["0.mp4"], recordings["1.mp4"]
    assert find_pairs({"a": one, "b": [one[0], *other[1:]]}, THRESHOLD) == []
    assert len(find_pairs({"a": one, "b": [*one[:2], other[2]]}, THRESHOLD)) == 1
    assert len(find_pairs({"a": one, "b": [one[0], *other[1:]]}, THRESHOLD, frames_alike=1)) == 1  # but across sets
    assert len(find_pairs({"a": one[:1], "b": one}, THRESHOLD)) == 1  # a video of one frame has no more to show


def test_zero_turns_the_search_off(recordings):
    assert find_pairs({"a": recordings["0.mp4"], "b": recordings["0.mp4"]}, 0.0) == []


def test_pairs_are_those_of_imagehash_compared_one_by_one(monkeypatch):
    """The fast comparison against ImageHash's own distance, over several tiles."""
    import imagehash

    monkeypatch.setattr("liveness.sets.tiles.TILE", 7)
    rng = np.random.default_rng(5)
    scenes = rng.integers(0, 2, (6, 144))

    def near(scene: np.ndarray) -> str:
        return np.packbits(scene ^ (rng.random(144) < 0.06)).tobytes().hex()

    videos = {f"{v}": [[near(scenes[rng.integers(6)]) for _ in range(6)] for _ in range(2)] for v in range(14)}

    def apart(one: list[str], other: list[str]) -> float:
        """The nearest of one frame as it is and any variant of the other, either way round."""
        ways = [(one[0], text) for text in other] + [(other[0], text) for text in one]
        return min(imagehash.hex_to_hash(a) - imagehash.hex_to_hash(b) for a, b in ways) / 144

    expected = {}
    for i, (one, a) in enumerate(videos.items()):
        for other, b in list(videos.items())[i + 1 :]:
            best = min(max(apart(a[0], b[0]), apart(a[1], b[1])), max(apart(a[0], b[1]), apart(a[1], b[0])))
            if best <= 0.15:
                expected[one, other] = round(best, 4)
    assert len(expected) > 5
    assert {(pair.one, pair.other): pair.distance for pair in find_pairs(videos, 0.15)} == expected
