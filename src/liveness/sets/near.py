"""Hashes that differ in few bits, among millions: exact, and far from comparing all with all.

Two hashes of BITS that differ in at most ``most`` agree wholly in most of their blocks. Cut into b blocks they agree in
b - most of them at least; of g groups of blocks one has ceil((b - most) / g) of those. So two such hashes are equal on
one of a fixed list of keys, each of so many blocks of one group (multi-index hashing, Norouzi, Punjani and Fleet 2012,
with several blocks to a key). For each key the hashes are ordered by it, and only those with an equal one are compared.
Longer keys are more keys, on which fewer hashes agree by chance: the plan that is cheapest for the number of hashes is
taken. Where comparing all with all is cheaper (few hashes, a high threshold), that is done. Hashes that resemble each
other more than random ones cost time, never a pair (benchmarks/million.py measures both).
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

from liveness.base.machine import cores
from liveness.sets.tiles import multiply_tiles

BITS = 144  # of a hash
_MOST_KEYS = 5000
_AT_ONCE = 1 << 21  # candidates, and matches, that are held at a time
# Nanoseconds, measured: of two hashes by a matrix product, of a hash for a key, of a candidate.
_PRODUCT, _LOOK_UP, _CANDIDATE = 15.0, 80.0, 60.0

Near = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """``groups`` of blocks, each block the bits from its first to before its second number; a key is ``choose`` blocks
    of one group."""

    groups: tuple[tuple[tuple[int, int], ...], ...]
    choose: int


def find_near(codes: np.ndarray, owner: np.ndarray, most: int) -> Near:
    """All (variant, i, k, bits) where hash i's variant 0 and that variant of hash k differ in bits <= most.

    codes: hashes x variants x BITS / 8 bytes; owner: hashes, of one owner are not paired. Of variant 0 each pair is
    there once, i < k. In no particular order.
    """
    plan = choose_plan(len(codes), codes.shape[1], most, round(_measure_bits(codes), 1))
    found = _Matches(len(codes))
    for match in _compare_all(codes, owner, most) if plan is None else _compare_by_keys(codes, owner, most, plan):
        found.add(match)
    return found.all()


class _Matches:
    """Matches as columns; the same one, found by several keys, is kept once."""

    def __init__(self, count: int) -> None:
        self._count, self._kept, self._new, self._waiting = count, self._nothing(), list[Near](), 0

    def add(self, match: Near) -> None:
        self._new.append(match)
        self._waiting += len(match[0])
        if self._waiting > _AT_ONCE + len(self._kept[0]):
            self.all()

    def all(self) -> Near:
        variant, one, other, bits = (np.concatenate(parts) for parts in zip(self._kept, *self._new, strict=True))
        kept = np.unique((variant.astype(np.int64) * self._count + one) * self._count + other, return_index=True)[1]
        self._kept, self._new, self._waiting = (variant[kept], one[kept], other[kept], bits[kept]), [], 0
        return self._kept

    @staticmethod
    def _nothing() -> Near:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)


@cache
def choose_plan(count: int, variants: int, most: int, telling: float = 1.0) -> Plan | None:
    """The plan that takes the least time by the measured costs; None for comparing all with all.

    telling: what a bit tells of a hash, 1 for random bits."""
    best, least = None, _PRODUCT * variants * count**2
    for blocks in range(most + 1, BITS // 2 + 1):
        for groups in range(1, blocks // 2 + 1):
            choose = math.ceil((blocks - most) / groups)
            sizes = [blocks // groups + (number < blocks % groups) for number in range(groups)]
            keys = sum(math.comb(size, choose) for size in sizes)
            if not 0 < keys <= _MOST_KEYS or math.ceil(BITS / blocks) * choose > 64:
                continue
            equal = 2.0 ** (-telling * choose * BITS / blocks) + 2.0 ** -_count_places(count)
            cost = keys * variants * count * (_LOOK_UP + _CANDIDATE * count * equal)
            if cost < least:
                edges, starts = [BITS * block // blocks for block in range(blocks + 1)], np.cumsum([0, *sizes])
                cut = [
                    tuple(zip(edges[a:b], edges[a + 1 : b + 1], strict=True))
                    for a, b in zip(starts, starts[1:], strict=False)
                ]
                best, least = Plan(tuple(cut), choose), cost
    return best


def _count_places(count: int) -> int:
    """Bits of a key's place in the table of ``count`` hashes: two places for each."""
    return max(8, (2 * count - 1).bit_length())


def _measure_bits(codes: np.ndarray) -> float:
    """How much a bit tells of random hashes: -log2 of the chance that two have the same, mean over the bits."""
    share = np.unpackbits(codes[:: max(1, len(codes) // 10_000), 0], axis=1).mean(axis=0)
    return float(-np.log2(share**2 + (1 - share) ** 2).mean()) if len(codes) else 1.0


def _compare_all(codes: np.ndarray, owner: np.ndarray, most: int) -> Iterator[Near]:
    # Of +1 and -1 the product is what agrees less what differs: exact in float32, and fast.
    plain = _signs(codes[:, 0])
    for variant in range(codes.shape[1]):
        for top, left, agree in multiply_tiles(plain, _signs(codes[:, variant]), upper=variant == 0):
            rows, columns = np.nonzero(agree >= BITS - 2 * most)
            one, other = top + rows, left + columns
            keep = owner[one] != owner[other]
            keep &= (one < other) | (variant > 0)
            bits = (BITS - agree[rows[keep], columns[keep]]).astype(np.int64) // 2
            yield np.full(len(bits), variant), one[keep], other[keep], bits


def _signs(codes: np.ndarray) -> np.ndarray:
    """The bits of hashes (hashes x bytes) as +1 and -1, float32, hashes x BITS."""
    return np.unpackbits(codes, axis=1).astype(np.float32) * 2 - 1


def _compare_by_keys(codes: np.ndarray, owner: np.ndarray, most: int, plan: Plan) -> Iterator[Near]:
    words = np.zeros((codes.shape[1], 3, len(codes)), np.uint64)  # 18 bytes are three words, of which the last has 2
    for word in range(3):
        part = np.zeros((*codes.shape[:2], 8), np.uint8)
        part[..., : codes[..., 8 * word : 8 * word + 8].shape[-1]] = codes[..., 8 * word : 8 * word + 8]
        words[:, word] = part.view(np.uint64)[..., 0].T
    with ThreadPoolExecutor(cores()) as pool:  # numpy works outside Python's lock
        for group in plan.groups:
            blocks = [[_cut(codes[:, variant], *block) for block in group] for variant in range(codes.shape[1])]
            widths = [high - low for low, high in group]

            def compare(chosen: tuple[int, ...], blocks: list = blocks, widths: list[int] = widths) -> list[Near]:
                places = min(sum(widths[block] for block in chosen), _count_places(len(codes)))
                keys = (_join(parts, widths, chosen, places) for parts in blocks)
                return list(_compare_equal(words, owner, most, keys, places))

            for found in pool.map(compare, combinations(range(len(group)), plan.choose)):
                yield from found


def _cut(codes: np.ndarray, low: int, high: int) -> np.ndarray:
    """The bits from ``low`` to before ``high`` of each hash as a number (at most 16 bits)."""
    first, last = low // 8, (high + 7) // 8
    value = np.zeros(len(codes), np.uint32)
    for byte in range(first, last):
        value = value << 8 | codes[:, byte]
    return ((value >> (8 * last - high)) & ((1 << (high - low)) - 1)).astype(np.uint16)


def _join(parts: list[np.ndarray], widths: list[int], chosen: tuple[int, ...], places: int) -> np.ndarray:
    """The place of each hash's key: the chosen blocks as one number, mixed where it has more bits than ``places``."""
    bits = sum(widths[block] for block in chosen)
    key: np.ndarray = np.zeros(len(parts[0]), np.uint32 if bits <= 32 else np.uint64)
    for block in chosen:
        key = (key << widths[block]) | parts[block]
    if bits > places:  # Fibonacci hashing (Knuth, volume 3, 6.4)
        key = (key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - places)
    return key.astype(np.int32)


def _compare_equal(
    words: np.ndarray, owner: np.ndarray, most: int, keys: Iterator[np.ndarray], places: int
) -> Iterator[Near]:
    """Those of equal key that are near; keys: hashes, a row for each variant."""
    order = starts = np.empty(0, np.int32)
    for variant, key in enumerate(keys):
        if variant == 0:
            order = np.argsort(key).astype(np.int32)
            starts = np.concatenate([[0], np.cumsum(np.bincount(key, minlength=1 << places))]).astype(np.int32)
        low = starts[key]
        counts = starts[key + 1] - low
        ends = np.cumsum(counts)
        row = 0
        while row < len(key):  # as many hashes at a time as have so many candidates, one at least
            done = int(ends[row - 1]) if row else 0
            stop = max(row + 1, int(np.searchsorted(ends, done + _AT_ONCE, "right")))
            other = np.repeat(np.arange(row, stop, dtype=np.int32), counts[row:stop])
            shift = low[row:stop] - (ends[row:stop] - counts[row:stop] - done)
            one = order[np.repeat(shift, counts[row:stop]) + np.arange(len(other))]
            row = stop
            keep = np.flatnonzero(owner[one] != owner[other] if variant else owner[one] < owner[other])
            one, other = one[keep], other[keep]
            apart = np.zeros(len(one), np.int64)
            for word in range(3):
                apart += np.bitwise_count(words[0, word][one] ^ words[variant, word][other])
                keep = np.flatnonzero(apart <= most)
                one, other, apart = one[keep], other[keep], apart[keep]
            yield np.full(len(one), variant), one.astype(np.int64), other.astype(np.int64), apart
