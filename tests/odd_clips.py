"""Clips that the versions of the preprocessing contract see differently, for tests: lossless, of known pixels.

``write_clips(folder)`` writes plain.mkv (SDR, square pixels, one face), hlg.mkv, pq.mkv, wide.mkv (pixels twice as wide
as high), two_faces.mkv and two_tracks.mkv (a small picture before the real track).
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from skimage import data

HLG, PQ, BT2020 = 18, 16, 9  # FFmpeg's numbers
NAMES = ("plain", "hlg", "pq", "wide", "two_faces", "two_tracks")
TO_BT2020 = np.linalg.inv(
    [[1.660491, -0.587641, -0.07285], [-0.12455, 1.1329, -0.008349], [-0.018151, -0.100579, 1.11873]]
)


def portrait(side: int = 240) -> np.ndarray:
    """A face in the middle of the picture, uint8 RGB, side x side x 3."""
    image = Image.fromarray(data.astronaut()[:360, 60:420])
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def signal_of(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """An SDR picture (BT.709 signal from 0 to 1) in HLG or PQ of BT.2020, its white at 203 cd/m2: the plain inverse."""
    light = np.where(rgb < 0.081, rgb / 4.5, ((rgb + 0.099) / 1.099) ** (1 / 0.45)) @ TO_BT2020.T * 203
    light = np.maximum(light, 1e-9)
    if transfer == PQ:
        root = (light / 10000) ** (2610 / 16384)
        return ((3424 / 4096 + 2413 / 128 * root) / (1 + 2392 / 128 * root)) ** (2523 / 32)
    scene = light / 1000
    scene *= (scene @ [0.2627, 0.678, 0.0593])[..., None] ** (1 / 1.2 - 1)
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    )


def ten_bits(signal: np.ndarray) -> av.VideoFrame:
    """A frame of yuv444p10le, limited range, BT.2020 non-constant luminance."""
    luma = signal @ [0.2627, 0.678, 0.0593]
    planes = [
        64 + 876 * luma,
        512 + 896 * (signal[..., 2] - luma) / 1.8814,
        512 + 896 * (signal[..., 0] - luma) / 1.4746,
    ]
    frame = av.VideoFrame(signal.shape[1], signal.shape[0], "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
        rows[:, : plane.width] = np.rint(values).clip(0, 1023)
        plane.update(rows.tobytes())
    return frame


def write_tracks(path: Path, *tracks: list[np.ndarray], transfer: int = 0, aspect: Fraction | None = None) -> Path:
    """A lossless clip of 25 frames a second: a video track for each list of pictures (uint8 RGB)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        streams = []
        for pictures in tracks:
            # PyAV writes no shape of the pixels beside FFV1; H.264 holds it, and is lossless with qp 0.
            stream = container.add_stream(*(("libx264", 25, {"qp": "0"}) if aspect else ("ffv1", 25)))
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "yuv444p10le" if transfer else "yuv444p" if aspect else "bgr0"
            context = stream.codec_context
            if transfer:
                context.color_trc, context.color_primaries, context.colorspace, context.color_range = (
                    transfer,
                    BT2020,
                    BT2020,
                    1,
                )
            if aspect:
                context.sample_aspect_ratio = aspect
            streams.append(stream)
        for stream, pictures in zip(streams, tracks, strict=True):
            for number, rgb in enumerate(pictures):
                frame = (
                    ten_bits(signal_of(rgb / 255, transfer))
                    if transfer
                    else av.VideoFrame.from_ndarray(rgb, format="rgb24")
                )
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


def write_clips(folder: Path, frames: int = 5) -> dict[str, Path]:
    """All clips; their paths by name."""
    shot = [np.roll(portrait(), 2 * number, axis=1) for number in range(frames)]
    half = [np.asarray(Image.fromarray(rgb).resize((120, 240), Image.Resampling.BICUBIC)) for rgb in shot]
    both = []
    for rgb in shot:  # a face of 1.2 times the area at the side, the other in the middle
        ground = np.full((300, 520, 3), 90, np.uint8)
        ground[30:250, 150:370] = np.asarray(Image.fromarray(rgb).resize((220, 220), Image.Resampling.BICUBIC))
        ground[20:261, 370:520] = np.asarray(
            Image.fromarray(rgb[:, 45:195]).resize((150, 241), Image.Resampling.BICUBIC)
        )
        both.append(ground)
    small = [np.asarray(Image.fromarray(shot[0]).resize((64, 64), Image.Resampling.BICUBIC))]
    return {
        "plain": write_tracks(folder / "plain.mkv", shot),
        "hlg": write_tracks(folder / "hlg.mkv", shot, transfer=HLG),
        "pq": write_tracks(folder / "pq.mkv", shot, transfer=PQ),
        "wide": write_tracks(folder / "wide.mkv", half, aspect=Fraction(2)),
        "two_faces": write_tracks(folder / "two_faces.mkv", both),
        "two_tracks": write_tracks(folder / "two_tracks.mkv", small, shot),
    }


def write_set(folder: Path) -> None:
    """raw/<set> in ``folder``: label.csv and six clips without a face; 1 and 4 are HLG, 2 has wide pixels."""
    y, x = np.mgrid[0:64, 0:80]
    for number in range(6):
        rng = np.random.default_rng(number)
        waves = [128 + 90 * np.sin(x / rng.uniform(4, 20) + y / rng.uniform(4, 20) + rng.uniform(0, 6)) for _ in "rgb"]
        pictures = [np.roll(np.stack(waves, -1), step, axis=1).astype(np.uint8) for step in range(6)]
        more = {"transfer": HLG} if number in (1, 4) else {"aspect": Fraction(3, 2)} if number == 2 else {}
        write_tracks(folder / "videos" / f"{number}.mkv", pictures, **more)
    labels = "".join(f"{number}.mkv,{number % 2}\n" for number in range(6))
    (folder / "label.csv").write_text("fname,liveness_score\n" + labels)
