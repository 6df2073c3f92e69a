"""HLG and PQ, as phones record them, to the standard range: one curve for both, in NumPy.

    signal -> light      HLG: inverse OETF and the OOTF of a display of 1000 cd/m2 (system gamma 1.2); PQ: its EOTF
                         (ITU-R BT.2100-2, tables 5 and 4)
    light -> linear      over 203 cd/m2, the reference white of HDR pictures (Report ITU-R BT.2408), which is 1
    BT.2020 -> BT.709    primaries, by their 3 x 3 matrix; what BT.709 cannot show is clipped at 0
    linear -> signal     the BT.709 transfer function (ITU-R BT.709-6)
    highlights           above the signal KNEE a shoulder of the same slope there: KNEE + (1 - KNEE) (1 - exp(-t)),
                         t = (signal - KNEE) / (1 - KNEE); so the reference white is 0.945, and nothing saturates

Up to the shoulder this inverts the conversion that puts an SDR picture into an HLG or PQ one at reference white.
"""

from functools import cache, reduce

import numpy as np

PQ, HLG = 16, 18  # FFmpeg's numbers of the transfer functions (ITU-T H.273)
NAMES = {HLG: "hlg", PQ: "pq"}
BT709 = 1  # FFmpeg's number of the primaries that need no matrix
WHITE = 203.0  # cd/m2
PEAK, GAMMA = 1000.0, 1.2  # of the display that HLG is meant for
KNEE = 0.85
_LUMA = (0.2627, 0.6780, 0.0593)  # BT.2020
TO_BT709 = (
    (1.660491, -0.587641, -0.072850),
    (-0.124550, 1.132900, -0.008349),
    (-0.018151, -0.100579, 1.118730),
)
_SAME = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
ROWS = 256  # so many at a time: a large frame in float32 would take hundreds of megabytes


def to_sdr(rgb: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """uint16 RGB (H x W x 3, full range) in HLG or PQ -> uint8 RGB of BT.709, as described above."""
    matrix = _SAME if primaries == BT709 else TO_BT709
    out = np.empty(rgb.shape, np.uint8)
    for top in range(0, len(rgb), ROWS):
        light = linear(rgb[top : top + ROWS], transfer)
        for channel, weights in enumerate(matrix):
            parts = [np.float32(weight) * part for weight, part in zip(weights, light, strict=True) if weight]
            out[top : top + ROWS, :, channel] = np.rint(255 * _signal(reduce(np.add, parts)))
    return out


def linear(rgb: np.ndarray, transfer: int) -> list[np.ndarray]:
    """The light of each channel (float32, H x W), 1 = reference white, in the primaries of the picture."""
    table = _light_table(transfer)
    light = [table[rgb[..., channel]] for channel in range(3)]
    if transfer == HLG:  # the OOTF: the display's gamma acts on luminance, so hues stay
        luminance = sum(np.float32(weight) * part for weight, part in zip(_LUMA, light, strict=True))
        gain = np.float32(PEAK / WHITE) * luminance ** np.float32(GAMMA - 1)
        light = [part * gain for part in light]
    return light


@cache
def _light_table(transfer: int) -> np.ndarray:
    """For each 16-bit signal: scene light from 0 to 1 (HLG), light over reference white (PQ); float32."""
    signal = np.arange(65536) / 65535
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    return (10000 / WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)).astype(np.float32)


def _signal(light: np.ndarray) -> np.ndarray:
    """The BT.709 signal of linear light, with the shoulder: 0 to 1."""
    light = np.maximum(light, 0)
    signal = np.where(light < 0.018, 4.5 * light, 1.099 * light ** np.float32(0.45) - np.float32(0.099))
    room = np.float32(1 - KNEE)
    above = np.maximum(signal - np.float32(KNEE), 0)
    return np.where(above > 0, np.float32(KNEE) + room * -np.expm1(-above / room), signal)
