"""Decoding against ffprobe and ffmpeg: number of frames, their times, size and turn, and their pixels.

The programs are a build of their own (the system's), not the libraries that the package decodes
with. Where they are not installed these tests are skipped; CI installs them.
"""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from odd_clips import write_tracks
from test_video import ALL, CLIPS, EDITS, MATRICES, SECOND, audio_only, number_of, patched, picture, with_edits, write

from liveness.base.config import FramePlan
from liveness.frames.colour import BT709, HLG, PQ, TO_BT709, WHITE, linear
from liveness.frames.rules import NEWEST
from liveness.frames.video import VideoError, probe, read_frames

pytestmark = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="needs the programs ffmpeg and ffprobe"
)

QUIET_HEVC = {"x265-params": "log-level=none"}
QUIET_AV1 = {"svtav1-params": "lp=1", "preset": "10"}
FULL = 2  # FFmpeg's number for the colour range "pc"; that of the colour space "bt709" is that of its primaries
COLOURS = {
    "tenbit_full.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "color_range": FULL, "options": QUIET_HEVC},
    "hevc_full.mp4": {"codec": "libx265", "color_range": FULL, "options": QUIET_HEVC},
    "vp9_full.webm": {"codec": "libvpx-vp9", "color_range": FULL},
    "av1_full.mkv": {"codec": "libsvtav1", "color_range": FULL, "options": QUIET_AV1},
    "bt709.mp4": {"codec": "libx264", "colorspace": BT709},
    "odd.mkv": {"codec": "libvpx-vp9", "size": (97, 67)},
}
# Here swscale interpolates the colour between its samples, and its versions do that differently:
# next to an edge between two colours the reference may be many levels off, elsewhere by the three
# levels of blue that one step of an 8-bit colour difference makes.
INTERPOLATED = {"tenbit.mp4", "tenbit_h264.mkv", "tenbit_full.mp4", "odd.avi", "odd.mkv"}


def ffprobe(path: Path) -> tuple[dict, np.ndarray]:
    """The video stream as ffprobe describes it, and its frames' times in seconds from 0."""
    command = ["ffprobe", "-v", "quiet", "-of", "json", "-select_streams", "v:0", "-show_streams", "-show_frames"]
    told = json.loads(subprocess.run([*command, str(path)], capture_output=True, check=False).stdout)
    keys = ("best_effort_timestamp_time", "pkt_dts_time")
    times = [next((float(frame[k]) for k in keys if k in frame), np.nan) for frame in told["frames"]]
    return told["streams"][0], np.array(times) - times[0]


def ffmpeg(path: Path, width: int, height: int) -> np.ndarray:
    """Every frame as ffmpeg shows it: upright RGB, frames x height x width x 3."""
    command = ["ffmpeg", "-v", "quiet", "-nostdin", "-i", str(path), "-map", "0:v:0"]
    for passthrough in (["-fps_mode", "passthrough"], ["-vsync", "passthrough"]):  # new and old name
        output = [*passthrough, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        data = subprocess.run([*command, *output], capture_output=True, check=False).stdout
        if data:
            break
    assert len(data) % (width * height * 3) == 0, f"{path.name}: ffmpeg's frames are not {width}x{height}"
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


def far_from_edges(rgb: np.ndarray) -> np.ndarray:
    """Where the 9 x 9 pixels around are of about one colour."""
    kernel = np.ones((9, 9), np.uint8)
    return (cv2.dilate(rgb, kernel).astype(int) - cv2.erode(rgb, kernel)).max(-1) < 12


def assert_as_ffmpeg(path: Path, interpolated: bool = False, version: int = NEWEST) -> None:
    """Number, times, displayed size and pixels of all frames, and the frames of a plan, by ffprobe's times."""
    stream, times = ffprobe(path)
    info, decoded = probe(path, version), read_frames(path, [ALL], version=version)
    assert info.frames == decoded.info.frames == len(decoded.frames) == len(times)
    if np.isfinite(times).all():
        np.testing.assert_allclose(info.times, times, atol=2e-6)
        np.testing.assert_allclose(decoded.info.times, times, atol=2e-6)
    else:  # AVI names no time for some frames: it has a rate
        rate = float(np.divide(*map(int, stream["avg_frame_rate"].split("/"))))
        np.testing.assert_allclose(info.times, np.arange(len(times)) / rate, atol=2e-6)
    assert info.codec in (stream["codec_name"], f"lib{stream['codec_name']}", "libdav1d")
    reference = ffmpeg(path, info.width, info.height)
    assert len(reference) == len(times)
    for index, rgb in decoded.frames.items():
        off = np.abs(rgb.astype(int) - reference[index])
        if interpolated:
            flat = far_from_edges(reference[index])
            assert flat.mean() > 0.2 and off[flat].max() <= 3 and off.mean() < 1.5, (path.name, index)
        else:
            assert off.max() <= 1, (path.name, index)
    plan, share = FramePlan(positions=[0.2, 0.4666667, 0.7333333]), [0.2, 0.4666667, 0.7333333]
    nearest = {int(np.argmin(np.abs(info.times - s * info.duration))) for s in share}
    chosen = read_frames(path, [plan], version=version).frames
    assert set(chosen) == nearest
    assert all(np.array_equal(rgb, decoded.frames[index]) for index, rgb in chosen.items())


@pytest.mark.parametrize("name", [*CLIPS, *COLOURS])
def test_every_codec_container_depth_range_and_name(tmp_path, name):
    path = write(tmp_path / name, count=7, **(CLIPS | COLOURS)[name])
    coded = 1 if name == "h263.3gp" else NEWEST  # its pixels are 12:11, which ffmpeg leaves to the player
    assert_as_ffmpeg(path, interpolated=name in INTERPOLATED, version=coded)
    stream, _ = ffprobe(path)
    assert (probe(path, coded).width, probe(path, coded).height) == (stream["width"], stream["height"])


@pytest.mark.parametrize("name", MATRICES)
def test_turned_and_mirrored(tmp_path, name):
    (a, b, c, d), _ = MATRICES[name]
    fixed = [v << 16 for v in (a, b)] + [0] + [v << 16 for v in (c, d)] + [0, 0, 0, 1 << 30]
    path = patched(write(tmp_path / "turned.mp4", count=5), b"tkhd", 40, struct.pack(">9i", *fixed))
    assert_as_ffmpeg(path)  # ffmpeg's own output is upright too
    stream, _ = ffprobe(path)
    info = probe(path)
    shown = (stream["height"], stream["width"]) if b else (stream["width"], stream["height"])
    assert (info.width, info.height) == shown
    if name in ("90", "180", "270"):
        (told,) = [data["rotation"] for data in stream["side_data_list"] if "rotation" in data]
        assert info.rotation == -told % 360  # ffprobe counts anticlockwise


def variable(folder: Path) -> Path:
    return write(folder / "vfr.mp4", times=[0, 10, 20, 30, 40, 50, 60, 500, 900, 910, 920, 1000])


def variable_matroska(folder: Path) -> Path:
    return write(folder / "vfr.mkv", times=[0, 7, 20, 33, 41, 150, 160, 500, 900, 911, 1920, 2000])


def no_duration(folder: Path) -> Path:
    path = patched(write(folder / "duration0.mp4"), b"mvhd", 16, struct.pack(">I", 0))
    return patched(path, b"mdhd", 16, struct.pack(">I", 0))


def wrong_count(folder: Path) -> Path:
    return patched(write(folder / "count.avi", codec="mpeg4"), b"avih", 4 + 16, struct.pack("<I", 9999))


def no_rate(folder: Path) -> Path:
    return patched(write(folder / "rate.avi", codec="mpeg4"), b"avih", 4, struct.pack("<I", 0))


def live_stream(folder: Path) -> Path:
    return write(folder / "live.mkv", container={"live": "1"})


def one_frame(folder: Path) -> Path:
    return write(folder / "one.mp4", count=1)


def two_frames(folder: Path) -> Path:
    return write(folder / "two.webm", count=2, codec="libvpx-vp9")


@pytest.mark.parametrize(
    "make",
    [variable, variable_matroska, no_duration, wrong_count, no_rate, live_stream, one_frame, two_frames],
    ids=lambda make: make.__name__,
)
def test_odd_timing_and_headers(tmp_path, make: Callable[[Path], Path]):
    assert_as_ffmpeg(make(tmp_path))


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_truncated_files(tmp_path, name):
    fields = {"codec": "mpeg4"} if name.endswith("avi") else {}
    fields |= {"container": {"movflags": "faststart"}} if name.endswith("mp4") else {}
    whole = write(tmp_path / f"whole_{name}", count=60, size=(128, 96), gop_size=10, **fields).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    decoded = read_frames(path, [ALL])
    reference = ffmpeg(path, 128, 96)
    assert decoded.status == "partial"
    # The last frame may be half there: the programs differ in whether they show it.
    assert abs(len(decoded.frames) - len(reference)) <= 1 and len(reference) > 10
    for index in range(min(len(decoded.frames), len(reference)) - 1):
        np.testing.assert_array_equal(decoded.frames[index], reference[index])


def test_what_has_no_picture_for_ffprobe_has_none_here(tmp_path):
    audio_only(tmp_path / "audio.mp4")
    (tmp_path / "zero.mp4").write_bytes(b"")
    for name in ("audio", "zero"):
        path = tmp_path / f"{name}.mp4"
        command = ["ffprobe", "-v", "quiet", "-of", "json", "-select_streams", "v:0", "-show_streams", str(path)]
        told = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
        assert not told.get("streams")
        with pytest.raises(VideoError):
            read_frames(path, [FramePlan()])


@pytest.mark.parametrize("name", EDITS)
def test_edit_lists(tmp_path, name):
    path = write(tmp_path / "a.mp4", count=40, gop_size=20)
    with_edits(path, [(length * 40, first * SECOND // 25 + 1024) for length, first in EDITS[name]])
    assert_as_ffmpeg(path)


# Sizes of the tracks of one file, and which of them are marked as the default; None: whatever the muxer marks.
TRACKS = {
    "preview first": (((64, 48), (128, 96)), None),
    "larger first": (((128, 96), (64, 48)), None),
    "equal": (((64, 48), (64, 48)), None),
    "default is small": (((128, 96), (64, 48)), (1,)),
    "none is default": (((64, 48), (128, 96), (96, 64)), ()),
}


@pytest.mark.parametrize("name", TRACKS)
@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_of_several_tracks_the_one_that_ffmpeg_takes(tmp_path, name, container):
    sizes, default = TRACKS[name]
    parts = []
    for number, size in enumerate(sizes):
        shots = [picture(10 * (number + 1) + i, *size) for i in range(1 if number == 0 else 6)]
        parts += ["-i", str(write_tracks(tmp_path / f"{number}.mkv", shots))]
    path = tmp_path / f"all.{container}"
    flags = (
        [] if default is None else [f"-disposition:v:{i} {'default' if i in default else 0}" for i in range(len(sizes))]
    )
    maps = " ".join([*(f"-map {i}:v" for i in range(len(sizes))), *flags]).split()
    subprocess.run(["ffmpeg", "-v", "error", *parts, *maps, "-c:v", "libx264", str(path)], check=True)
    command = ["ffmpeg", "-v", "quiet", "-nostdin", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout  # no -map: its own choice
    decoded = read_frames(path, [ALL])
    assert len(data) == decoded.info.width * decoded.info.height * 3 * len(decoded.frames)
    first = np.frombuffer(data, np.uint8)[: decoded.frames[0].size].reshape(decoded.frames[0].shape)
    assert number_of(first) == number_of(decoded.frames[0])
    assert decoded.notes == [f"track={number_of(first) // 10}/{len(sizes)}"]


@pytest.mark.parametrize(("transfer", "name"), [(HLG, "arib-std-b67"), (PQ, "smpte2084")])
def test_the_light_of_hlg_and_pq_is_that_of_zscale(transfer, name):
    """Linear light over the reference white, BT.709 primaries, by the zimg library behind ffmpeg's filter."""
    if " zscale " not in subprocess.run(["ffmpeg", "-v", "quiet", "-filters"], capture_output=True, text=True).stdout:
        pytest.skip("this ffmpeg was built without zscale")
    rgb = np.random.default_rng(3).integers(0, 60000, (16, 32, 3), np.uint16)
    chain = (
        f"format=gbrp16le,setparams=color_trc={name}:color_primaries=bt2020:colorspace=gbr:range=pc,"
        f"zscale=agamma=0:t=linear:npl={WHITE:.0f}:p=709,format=gbrpf32le"
    )
    head = ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", "32x16", "-i", "-", "-vf", chain]
    command = [*head, "-f", "rawvideo", "-pix_fmt", "gbrpf32le", "-"]
    data = subprocess.run(command, input=rgb.tobytes(), capture_output=True, check=True).stdout
    green, blue, red = np.frombuffer(data, "<f4").reshape(3, 16, 32)
    light = linear(rgb, transfer)
    for weights, reference in zip(TO_BT709, (red, green, blue), strict=True):
        ours = sum(weight * part for weight, part in zip(weights, light, strict=True))
        np.testing.assert_allclose(ours, reference, rtol=2e-3, atol=2e-3 * max(1, np.abs(reference).max() / 50))
