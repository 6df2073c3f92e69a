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

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from liveness.sets.near import BITS, find_near

HASH_SIDE = 12  # of BITS
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
    """
    names = list(hashes)
    owner = np.array([v for v, name in enumerate(names) for frame in hashes[name] if frame], dtype=np.int64)
    frames = [frame for name in names for frame in hashes[name] if frame]
    found = pair_frames(owner, pack_hashes(frames), threshold, frames_alike)
    return [Pair(names[one], names[other], distance, mirrored) for one, other, distance, mirrored in found]


def pack_hashes(frames: list[list[str]]) -> np.ndarray:
    """The hashes of ``hash_frame`` as bytes: frames x VARIANTS x BITS / 8."""
    packed = np.frombuffer(bytes.fromhex("".join(text for frame in frames for text in frame)), np.uint8)
    return packed.reshape(len(frames), VARIANTS, BITS // 8)


def pair_frames(
    owner: np.ndarray, codes: np.ndarray, threshold: float, frames_alike: int = 2
) -> list[tuple[int, int, float, bool]]:
    """``find_pairs`` of columns: (one, other, distance, mirrored) for each pair of videos, by their numbers.

    owner: the video's number of each frame, in order; codes: ``pack_hashes``. Exact at every size (sets/near.py).
    """
    if threshold <= 0 or not len(owner):
        return []
    variant, first, second, apart = find_near(codes, owner, int(threshold * BITS))
    first, second = np.minimum(first, second), np.maximum(first, second)  # the variant may be of either frame
    # The best match of each two frames stands first: the fewest bits, then not mirrored.
    order = np.lexsort((variant % 2, apart, second, first, owner[second], owner[first]))
    variant, first, second, apart = (values[order] for values in (variant, first, second, apart))
    best = np.ones(len(first), dtype=bool)
    best[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    matches = zip(*(v[best].tolist() for v in (first, second, apart, variant % 2)), strict=True)
    counts, pairs = np.bincount(owner), []
    for (one, other), group in groupby(matches, key=lambda match: (owner[match[0]], owner[match[1]])):
        own = {(a, b): (bits, bool(mirrored)) for a, b, bits, mirrored in group}
        several = frames_alike > 1 and min(counts[one], counts[other]) > 1
        match = _second_best(own) if several else min(own.values())
        if match is not None:
            pairs.append((int(one), int(other), round(match[0] / BITS, 4), match[1]))
    return pairs


def _second_best(matches: dict[tuple, tuple]) -> tuple | None:
    """The smaller of what two matches that share no frame have as their larger distance; None without two."""
    ranked = sorted((match, frames) for frames, match in matches.items())
    for i, (match, (a, b)) in enumerate(ranked):
        if any(x != a and y != b for _, (x, y) in ranked[:i]):
            return match
    return None
