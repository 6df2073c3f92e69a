"""Near-duplicate videos: the same recording re-encoded, scaled, cropped a little or mirrored.

A copy on the other side of a fold, perhaps with another label, makes every figure a fiction. Each
stored frame is hashed (ImageHash's perceptual hash, 144 bits); two videos are near-duplicates when
two different frames of each, or their only one, differ in at most a share ``threshold`` of the bits.
To see through mirroring and cropping the hashes of six variants of a frame are kept: mirrored or
not, cropped by 0, 2.5 or 5 % at every border.

The threshold of 0.12 is measured (3 frames per video): on 238 webcam clips of 9 persons, copies that
were re-encoded, halved, brightened, mirrored, cropped by 3 or 5 % and mixtures of these lay at up to
0.083 (0.11 in a scene of plain sky), different persons in front of one camera at 0.153 and more
(docs/preparation.md has the table and the command). It misses copies cut to another part of the
recording, of which no stored frame shows the same moment.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from liveness.sets.tiles import multiply_tiles

HASH_SIDE = 12
BITS = HASH_SIDE**2
CROPS = (0.0, 0.025, 0.05)
VARIANTS = 2 * len(CROPS)  # (crop, mirrored) in the order of CROPS: even = as it is, odd = mirrored
FLAT = 8.0  # grey levels: a frame with less deviation (black, fogged) looks like any other
MOST_HASHED = 8  # hashed per video


@dataclass(frozen=True)
class Pair:
    """Two near-duplicate videos. ``distance``: share of differing bits of the last frame pair that counts."""

    one: str
    other: str
    distance: float
    mirrored: bool


def hash_frame(rgb: np.ndarray) -> list[str]:
    """The hashes (hex) of a frame's variants; an empty list for a frame too flat to be told apart."""
    import imagehash
    from PIL import Image

    grey = Image.fromarray(rgb).convert("L")
    variants = []
    for crop in CROPS:
        x, y = crop * grey.width, crop * grey.height
        small = grey.resize((128, 128), Image.Resampling.BOX, box=(x, y, grey.width - x, grey.height - y))
        variants += [small, small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    if np.asarray(variants[0], dtype=np.float32).std() < FLAT:
        return []
    return [str(imagehash.phash(variant, HASH_SIDE)) for variant in variants]


def frames_to_hash(count: int) -> set[int]:
    """Which of ``count`` stored frames are hashed: all, or MOST_HASHED evenly spread."""
    return {int(i) for i in np.linspace(0, count - 1, min(count, MOST_HASHED)).round()} if count else set()


def find_pairs(hashes: dict[str, list[list[str]]], threshold: float, frames_alike: int = 2) -> list[Pair]:
    """All near-duplicates among videos (name -> frames -> variants), in the order of the names.

    frames_alike: how many different frames of each have to match, 1 or 2; 2 is the rule by which videos are grouped.
    Compares every frame with every variant of every other: time grows with the square of the
    number of videos (docs/preparation.md has the seconds), memory does not.
    """
    names = list(hashes)
    owner = np.array([v for v, name in enumerate(names) for frame in hashes[name] if frame], dtype=np.int64)
    frames = [frame for name in names for frame in hashes[name] if frame]
    if threshold <= 0 or not frames:
        return []
    most = int(threshold * BITS)
    # (one, other) -> (frame of one, frame of other) -> (distance in bits, mirrored)
    found: dict[tuple, dict[tuple, tuple]] = defaultdict(dict)
    for variant, first, second, apart in _near(frames, most):
        if owner[first] == owner[second]:
            continue
        if owner[first] > owner[second]:  # the variant may be of either frame
            first, second = second, first
        seen = found[int(owner[first]), int(owner[second])]
        match = apart, bool(variant % 2)
        seen[first, second] = min(seen.get((first, second), match), match)
    counts = np.bincount(owner, minlength=len(names))
    pairs = []
    for (one, other), matches in sorted(found.items()):
        several = frames_alike > 1 and min(counts[one], counts[other]) > 1
        best = _second_best(matches) if several else min(matches.values())
        if best is not None:
            pairs.append(Pair(names[one], names[other], round(best[0] / BITS, 4), best[1]))
    return pairs


def _near(frames: list[list[str]], most: int) -> Iterator[tuple[int, int, int, int]]:
    """(variant, i, k, bits): frame i as it is and that variant of frame k differ in ``bits`` <= ``most``."""
    plain = _signs([frame[0] for frame in frames])
    for variant in range(VARIANTS):
        others = _signs([frame[variant] for frame in frames])
        # Of +1 and -1 the product is what agrees less what differs: exact in float32, and fast.
        for top, left, agree in multiply_tiles(plain, others):
            rows, columns = np.nonzero(agree >= BITS - 2 * most)
            apart = (BITS - agree[rows, columns]).astype(int) // 2
            for row, column, bits in zip(rows.tolist(), columns.tolist(), apart.tolist(), strict=True):
                yield variant, top + row, left + column, bits


def _signs(texts: list[str]) -> np.ndarray:
    """The bits of hexadecimal hashes as +1 and -1, float32, hashes x BITS."""
    packed = np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(len(texts), BITS // 8)
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def _second_best(matches: dict[tuple, tuple]) -> tuple | None:
    """The smaller of what two matches that share no frame have as their larger distance; None without two."""
    ranked = sorted((match, frames) for frames, match in matches.items())
    for i, (match, (a, b)) in enumerate(ranked):
        if any(x != a and y != b for _, (x, y) in ranked[:i]):
            return match
    return None
