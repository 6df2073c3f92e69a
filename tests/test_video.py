"""Decoding: exact frames, upright, whatever the container, codec or damage.

The crafted clips carry their own truth: every frame shows its number as a bar code, and its
corners have four colours, so neither our decoder nor another is the reference.
"""

import functools
import struct
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from liveness.base.config import FramePlan
from liveness.frames.video import (
    VideoError,
    choose_frames,
    jpeg_decode,
    jpeg_encode,
    jpeg_round_trip,
    probe,
    read_frames,
    read_jpegs,
)

ALL = FramePlan(plan="all")
BITS = 8
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (235, 235, 235)


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A frame: corners red, green / blue, white; its number in bars across the middle."""
    image = np.full((height, width, 3), 128, np.uint8)
    h, w = height // 4, width // 3
    for (top, left), colour in {(0, 0): RED, (0, 1): GREEN, (1, 0): BLUE, (1, 1): WHITE}.items():
        image[height - h if top else 0 : height if top else h, width - w if left else 0 : width if left else w] = colour
    for bit in range(BITS):
        value = 225 if number >> bit & 1 else 30
        image[height * 3 // 8 : height * 5 // 8, width * bit // BITS : width * (bit + 1) // BITS] = value
    return image


def number_of(rgb: np.ndarray) -> int:
    """The number in a frame's bars."""
    height, width = rgb.shape[:2]
    return sum((rgb[height // 2, round(width * (bit + 0.5) / BITS)].mean() > 128) << bit for bit in range(BITS))


def corners(rgb: np.ndarray) -> list[str]:
    """The names of the colours: top left, top right, bottom left, bottom right."""
    names = {"red": RED, "green": GREEN, "blue": BLUE, "white": WHITE}
    height, width = rgb.shape[:2]
    y, x = height // 10, width // 10
    points = [(y, x), (y, width - 1 - x), (height - 1 - y, x), (height - 1 - y, width - 1 - x)]
    return [min(names, key=lambda n: np.abs(rgb[p].astype(int) - names[n]).sum()) for p in points]


def in_a_thread(call):
    """The same call in a thread that ends with it.

    Where it may (as root), the encoder of AV1 raises the thread that calls it to real-time priority and leaves it
    there; whatever that thread starts afterwards inherits this, and threads that wait by spinning then starve each
    other for minutes.
    """

    @functools.wraps(call)
    def wrapped(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(call, *args, **kwargs).result()

    return wrapped


@in_a_thread
def write(
    path: Path,
    count: int = 12,
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    times: list[int] | None = None,
    pix_fmt: str = "yuv420p",
    options: dict | None = None,
    **fields,
) -> Path:
    """Encode ``count`` numbered frames at 25 fps, or at ``times`` (milliseconds)."""
    with av.open(str(path), "w", options=fields.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in fields.items():
            setattr(stream.codec_context, name, value)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(path: Path, plan: FramePlan = ALL) -> list[int]:
    return [number_of(rgb) for _, rgb in sorted(read_frames(path, [plan]).frames.items())]


@pytest.mark.parametrize(("frames", "expected"), [(126, [25, 59]), (121, [24, 56]), (152, [30, 71])])
def test_positions_are_those_of_the_published_solution(frames, expected):
    plan = FramePlan(positions=[0.2, 0.4666667])
    assert choose_frames(plan, np.arange(frames) / 25, frames / 25) == expected


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 16, 100, 301])
@pytest.mark.parametrize("fps", [7.0, 24000 / 1001, 30.0])
def test_every_plan_gives_frames_of_the_video_once_each(frames, fps):
    times, duration = np.arange(frames) / fps, frames / fps
    plans = [
        FramePlan(),
        FramePlan(positions=[1.0, 0.0]),
        FramePlan(plan="even", count=5),
        FramePlan(plan="even", count=1),
        FramePlan(plan="every", step=4),
        FramePlan(plan="rate", per_second=3),
        FramePlan(plan="rate", per_second=1000),
        ALL,
    ]
    for plan in plans:
        chosen = choose_frames(plan, times, duration)
        assert chosen and len(set(chosen)) == len(chosen) and min(chosen) >= 0 and max(chosen) < frames, plan
    assert choose_frames(ALL, times, duration) == list(range(frames))
    assert choose_frames(FramePlan(plan="every", step=4), times, duration) == list(range(0, frames, 4))
    shares = np.linspace(0.1, 0.9, 5)
    nearest = [int(np.argmin(np.abs(times - share * duration))) for share in shares]
    distance = [abs(times[i] - share * duration) for i, share in zip(nearest, shares, strict=True)]
    got = choose_frames(FramePlan(plan="even", count=5), times, duration)
    for share, best in zip(shares, distance, strict=True):
        assert min(abs(times[i] - share * duration) for i in got) <= best + 1e-9


def test_plans_on_known_clips():
    times = np.arange(50) / 25
    assert choose_frames(FramePlan(plan="rate", per_second=2), times, 2.0) == [0, 12, 25, 37]
    assert choose_frames(FramePlan(plan="even", count=3, margin=0.0), times, 2.0) == [0, 25, 49]
    assert choose_frames(FramePlan(positions=[0.9, 0.1, 0.1]), times, 2.0) == [45, 5]  # the plan's order, once
    assert choose_frames(FramePlan(), np.array([]), 0.0) == []


CLIPS = {
    "h264.mp4": {"codec": "libx264"},
    "h264.mov": {"codec": "libx264"},
    "h264.mkv": {"codec": "libx264"},
    "h264.avi": {"codec": "libx264"},
    "h264.3gp": {"codec": "libx264"},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"lag-in-frames": "10", "auto-alt-ref": "1"}},
    "vp9.mp4": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx", "options": {"lag-in-frames": "10", "auto-alt-ref": "1"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"svtav1-params": "lp=1", "preset": "12"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"svtav1-params": "lp=1", "preset": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg4.3gp": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "h263.3gp": {"codec": "h263", "size": (176, 144)},
    "tenbit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}},
    "tenbit_h264.mkv": {"codec": "libx264", "pix_fmt": "yuv420p10le"},
    "fullrange.mp4": {"codec": "libx264", "pix_fmt": "yuvj420p"},
    "odd444.mp4": {"codec": "libx264", "pix_fmt": "yuv444p", "size": (97, 67)},
    "odd.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "size": (97, 67)},
    "UPPER.MP4": {"codec": "libx264"},
    '-dash it\'s "quoted" and spaced.mp4': {"codec": "libx264"},
    "khuôn mặt người.mp4": {"codec": "libx264"},
    "percent%03d,[x].mp4": {"codec": "libx264"},
}


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_of_every_format_in_its_order(tmp_path, name):
    path = write(tmp_path / name, count=13, **CLIPS[name])
    decoded = read_frames(path, [ALL])
    assert (decoded.status, decoded.reason) == ("ok", "")
    assert [number_of(decoded.frames[i]) for i in range(13)] == list(range(13))
    for rgb in decoded.frames.values():
        assert corners(rgb) == ["red", "green", "blue", "white"]
    info = probe(path)
    shown = (192, 144) if name == "h263.3gp" else CLIPS[name].get("size", (96, 64))  # H.263 has pixels of 12:11
    assert (info.frames, info.width, info.height) == (13, *shown)
    assert decoded.frames[0].shape == (*shown[::-1], 3)
    assert decoded.notes == (["pixel_aspect=12:11"] if name == "h263.3gp" else [])
    assert info.fps == pytest.approx(25, rel=0.02) and info.duration == pytest.approx(13 / 25, abs=0.01)
    np.testing.assert_allclose(info.times, np.arange(13) / 25, atol=2e-3)
    # A few frames by plan are the same pixels as when everything is decoded.
    some = read_frames(path, [FramePlan()])
    assert sorted(some.frames) == [3, 6, 10]
    for index, rgb in some.frames.items():
        np.testing.assert_array_equal(rgb, decoded.frames[index])


@pytest.mark.parametrize("name", ["h264.mp4", "tenbit.mp4", "fullrange.mp4", "mpeg4.avi", "mjpeg.avi", "vp9.webm"])
def test_colours_are_right_whatever_depth_and_range(tmp_path, name):
    path = write(tmp_path / name, **CLIPS[name], bit_rate=4_000_000)
    rgb = read_frames(path, [FramePlan(positions=[0.5])]).frames[6].astype(int)
    for place, colour in (((5, 5), RED), ((5, -6), GREEN), ((-6, 5), BLUE), ((-6, -6), WHITE)):
        assert np.abs(rgb[place] - colour).max() <= 14, (name, place, rgb[place], colour)


def test_a_colon_in_a_relative_name_is_no_protocol(tmp_path, monkeypatch):
    write(tmp_path / "2022-01-01T12:30.mp4")
    monkeypatch.chdir(tmp_path)
    assert numbers(Path("2022-01-01T12:30.mp4")) == list(range(12))


def test_pixels_are_those_of_opencv(tmp_path):
    path = write(tmp_path / "a.mp4", count=20, size=(128, 96))
    capture, index = cv2.VideoCapture(str(path)), 0
    decoded = read_frames(path, [ALL])
    while True:
        more, bgr = capture.read()
        if not more:
            break
        np.testing.assert_array_equal(decoded.frames[index], bgr[..., ::-1])
        index += 1
    assert index == 20


def test_variable_frame_rate_goes_by_time(tmp_path):
    times = [0, 10, 20, 30, 40, 50, 60, 500, 900, 910, 920, 1000]
    for name in ("v.mp4", "v.mkv"):
        path = write(tmp_path / name, count=12, times=times)
        info = probe(path)
        np.testing.assert_allclose(info.times * 1000, times, atol=1.01)
        middle = FramePlan(positions=[0.5])
        assert choose_frames(middle, info.times, info.duration) == [7]
        assert numbers(path, middle) == [7]


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 1]), (3, [1, 2])])
def test_shortest_clips(tmp_path, count, expected):
    path = write(tmp_path / "short.mp4", count=count)
    decoded = read_frames(path, [FramePlan()])
    assert decoded.status == "ok" and sorted(decoded.frames) == expected
    assert [number_of(decoded.frames[i]) for i in expected] == expected


def patched(path: Path, atom: bytes, offset: int, value: bytes) -> Path:
    """The file with bytes replaced at ``offset`` after every occurrence of an atom's name."""
    data = bytearray(path.read_bytes())
    start = data.find(atom)
    assert start >= 0
    while start >= 0:
        data[start + len(atom) + offset : start + len(atom) + offset + len(value)] = value
        start = data.find(atom, start + 1)
    path.write_bytes(data)
    return path


def test_header_without_duration_rate_or_count(tmp_path):
    mp4 = write(tmp_path / "duration0.mp4")
    patched(mp4, b"mvhd", 16, struct.pack(">I", 0))
    patched(mp4, b"mdhd", 16, struct.pack(">I", 0))
    avi = write(tmp_path / "count.avi", codec="mpeg4")
    patched(avi, b"avih", 4 + 16, struct.pack("<I", 9999))  # total frames
    patched(avi, b"avih", 4, struct.pack("<I", 0))  # microseconds per frame
    mkv = write(tmp_path / "live.mkv", container={"live": "1"})  # a stream: no duration, no index
    for path in (mp4, avi, mkv):
        assert numbers(path) == list(range(12)), path
        assert probe(path).frames == 12
        assert numbers(path, FramePlan()) == [2, 6, 9] or numbers(path, FramePlan()) == [2, 5, 9]


MATRICES = {  # a, b, c, d of the display matrix: where the corners go
    "90": ((0, 1, -1, 0), ["blue", "red", "white", "green"]),
    "180": ((-1, 0, 0, -1), ["white", "blue", "green", "red"]),
    "270": ((0, -1, 1, 0), ["green", "white", "red", "blue"]),
    "mirrored": ((-1, 0, 0, 1), ["green", "red", "white", "blue"]),
    "upside down mirrored": ((1, 0, 0, -1), ["blue", "white", "red", "green"]),
    "transposed": ((0, 1, 1, 0), ["red", "blue", "green", "white"]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_rotation_and_mirroring_are_applied(tmp_path, name):
    (a, b, c, d), expected = MATRICES[name]
    path = write(tmp_path / "turned.mp4", size=(96, 64))
    fixed = [v << 16 for v in (a, b)] + [0] + [v << 16 for v in (c, d)] + [0, 0, 0, 1 << 30]
    patched(path, b"tkhd", 40, struct.pack(">9i", *fixed))
    decoded = read_frames(path, [FramePlan()])
    size = (64, 96) if b else (96, 64)
    assert (decoded.info.width, decoded.info.height) == size
    assert (probe(path).width, probe(path).height) == size
    for rgb in decoded.frames.values():
        assert (rgb.shape[1], rgb.shape[0]) == size
        assert corners(rgb) == expected
    if name in ("90", "180", "270"):
        assert decoded.info.rotation == int(name)
        more, bgr = cv2.VideoCapture(str(path)).read()  # OpenCV turns, but does not mirror
        assert more and corners(bgr[..., ::-1]) == expected


def test_truncated_files_give_what_decodes(tmp_path):
    whole = write(tmp_path / "w.mp4", count=60, size=(128, 96), container={"movflags": "faststart"}, gop_size=10)
    data = whole.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * 0.6)])
    decoded = read_frames(path, [ALL])
    assert decoded.status == "partial" and "breaks off" in decoded.reason
    count = decoded.info.frames
    assert 5 < count < 60 and sorted(decoded.frames) == list(range(count))
    assert [number_of(decoded.frames[i]) for i in range(count - 1)] == list(range(count - 1))
    some = read_frames(path, [FramePlan()])
    assert sorted(some.frames) == sorted(choose_frames(FramePlan(), some.info.times, some.info.duration))
    assert max(some.frames) < count


@pytest.mark.parametrize("name", ["cut.mkv", "cut.avi"])
def test_truncated_streams_are_marked(tmp_path, name):
    codec = "libx264" if name.endswith("mkv") else "mpeg4"
    data = write(tmp_path / name, count=100, size=(128, 96), codec=codec, gop_size=10).read_bytes()
    path = tmp_path / f"part_{name}"
    path.write_bytes(data[: len(data) // 2])
    decoded = read_frames(path, [FramePlan()])
    assert len(decoded.frames) == 3 and decoded.info.frames < 90
    assert decoded.status == "partial"


def test_a_hole_in_the_middle_costs_only_its_frames(tmp_path):
    path = write(tmp_path / "hole.mp4", count=60, size=(128, 96), gop_size=10)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        place, size = packets[30].pos, packets[30].size
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    decoded = read_frames(path, [FramePlan()])
    assert decoded.status == "partial"
    assert len(decoded.frames) == 3


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def with_edits(path: Path, edits: list[tuple[int, int]]) -> Path:
    """The file with another edit list: (length in thousandths of a second, first time in the track's own units)."""
    content = bytearray(path.read_bytes())
    start = content.find(b"elst") - 4
    length = int.from_bytes(content[start : start + 4], "big")
    body = struct.pack(">II", 0, len(edits)) + b"".join(struct.pack(">IiI", *edit, 1 << 16) for edit in edits)
    for box in (b"moov", b"trak", b"edts"):  # the index comes last, so nothing else moves
        at = content.find(box) - 4
        grown = int.from_bytes(content[at : at + 4], "big") + 8 + len(body) - length
        content[at : at + 4] = struct.pack(">I", grown)
    content[start : start + length] = struct.pack(">I", 8 + len(body)) + b"elst" + body
    path.write_bytes(content)
    return path


SECOND = 12800  # of libavformat's track at 25 frames a second
EDITS = {  # the frames that are shown, as (length, first) in frames
    "cut at the beginning": [(25, 15)],
    "cut at the end": [(20, 0)],
    "cut at both ends": [(10, 13)],
    "two pieces": [(5, 0), (10, 25)],
    "one piece twice": [(8, 4), (8, 4)],
}


@pytest.mark.parametrize("name", EDITS)
def test_what_an_edit_list_hides_is_no_damage(tmp_path, name):
    """As a phone's trimming and `ffmpeg -ss -c copy` leave it: all packets are there, some are not shown."""
    path = write(tmp_path / "a.mp4", count=40, gop_size=20)
    shift = 1024  # of the presentation times, by two frames that are kept for reordering
    with_edits(path, [(length * 40, first * SECOND // 25 + shift) for length, first in EDITS[name]])
    decoded = read_frames(path, [ALL])
    assert (decoded.status, decoded.reason, decoded.notes) == ("ok", "", [])
    shown = [first + i for length, first in EDITS[name] for i in range(length)]
    assert [number_of(rgb) for _, rgb in sorted(decoded.frames.items())] == shown
    assert probe(path).frames == len(shown)
    # What is really missing stays damage, also of a file that hides some of it.
    content = write(tmp_path / "fast.mp4", count=40, gop_size=20, container={"movflags": "faststart"}).read_bytes()
    (tmp_path / "broken.mp4").write_bytes(content[: len(content) * 6 // 10])
    assert read_frames(tmp_path / "broken.mp4", [ALL]).status == "partial"


def test_interlaced_is_noted_and_left_as_it_is(tmp_path):
    path = write(tmp_path / "a.mp4", options={"x264-params": "tff=1"})
    decoded = read_frames(path, [ALL])
    assert (decoded.status, decoded.notes) == ("ok", ["interlaced"])
    old = read_frames(path, [ALL], version=1)
    assert all(np.array_equal(rgb, old.frames[i]) for i, rgb in decoded.frames.items())


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(404, 405), Fraction(10)])
@pytest.mark.parametrize("turned", [False, True])
def test_pixels_are_made_square_before_the_frame_is_turned(tmp_path, aspect, turned):
    path = write(tmp_path / "a.mp4", size=(96, 64), sample_aspect_ratio=aspect)
    if turned:
        patched(path, b"tkhd", 40, struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))
    width, height = {Fraction(2): (192, 64), Fraction(1, 2): (96, 128)}.get(aspect, (96, 64))
    size = (height, width) if turned else (width, height)
    decoded, info = read_frames(path, [ALL]), probe(path)
    assert (decoded.info.width, decoded.info.height) == (info.width, info.height) == size
    assert {rgb.shape for rgb in decoded.frames.values()} == {(*size[::-1], 3)}
    assert corners(decoded.frames[0]) == (
        ["blue", "red", "white", "green"] if turned else ["red", "green", "blue", "white"]
    )
    note = {404: [], 10: ["pixel_aspect_ignored=10:1"]}.get(
        aspect.numerator, [f"pixel_aspect={aspect.numerator}:{aspect.denominator}"]
    )
    assert decoded.notes == note


INSTEAD = {
    "gif": (b"GIF89a" + bytes(range(200)), "a GIF image, not a video; convert it"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(200), "a PNG image, not a video"),
    "pdf": (b"%PDF-1.4\n" + bytes(range(256)), "a PDF document, not a video"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(200), "a HEIC image, not a video"),
    "zip": (b"PK\3\4" + bytes(200), "a zip archive, not a video; unpack it"),
    "webp": (b"RIFF\0\1\0\0WEBPVP8 " + bytes(200), "a WebP image, not a video"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n", "a Git LFS pointer, not a video"),
    "html": (b"\n<!DOCTYPE html><html>quota exceeded</html>", "an HTML page, not a video"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", r"a text \(XML or JSON\), not a video"),
    "text": ("tên,điểm\n1.mp4,0.5\n".encode(), "a text, not a video"),
    "mac": (b"\0\5\x16\7" + bytes(300), "the companion that macOS"),
    "zeros": (bytes(5000), "only zeros"),
    "empty": (b"", r"an empty file \(0 bytes\)"),
    "noise": (np.random.default_rng(1).bytes(5000), "cannot be opened"),
}


@pytest.mark.parametrize("name", INSTEAD)
def test_what_lies_under_a_videos_name_is_said(tmp_path, name):
    content, told = INSTEAD[name]
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    for call in (probe, lambda path: read_frames(path, [ALL])):
        with pytest.raises(VideoError, match=f"^{told}") as caught:
            call(path)
        assert "\n" not in str(caught.value)


def test_real_images_under_a_videos_name_are_said(tmp_path):
    """Some of them FFmpeg would open as a video of one frame."""
    image = Image.fromarray(picture(5, 96, 64))
    for kind in ("GIF", "PNG", "JPEG", "BMP", "TIFF", "WEBP", "AVIF"):
        image.save(tmp_path / "a.mp4", kind)
        with pytest.raises(VideoError, match=f"^an? {kind}.* image.*, not a video".replace("WEBP", "WebP")):
            read_frames(tmp_path / "a.mp4", [ALL])


def test_what_is_no_video_is_one_line(tmp_path):
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    whole = write(tmp_path / "whole.mp4", count=30)
    (tmp_path / "headless.mp4").write_bytes(whole.read_bytes()[:1500])  # the index comes last: lost
    audio_only(tmp_path / "audio.mp4")
    for name, why in (("zero", "empty"), ("text", "a text"), ("headless", "moov"), ("audio", "no video stream")):
        with pytest.raises(VideoError, match=why) as caught:
            read_frames(tmp_path / f"{name}.mp4", [FramePlan()])
        assert "\n" not in str(caught.value)
        with pytest.raises(VideoError):
            probe(tmp_path / f"{name}.mp4")
    with pytest.raises(VideoError):
        read_frames(tmp_path / "absent.mp4", [FramePlan()])


def test_playlists_open_nothing_else(tmp_path):
    """A text file in a video's clothes must not make the decoder read other files or the network."""
    write(tmp_path / "secret.mp4")
    lists = {
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.mp4").write_text(text)
        with pytest.raises(VideoError):
            read_frames(tmp_path / f"{name}.mp4", [FramePlan()])


def test_an_absurd_size_is_refused_before_memory_is_asked_for(tmp_path):
    path = write(tmp_path / "huge.avi", codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    start = data.find(b"\xff\xc0")
    while start >= 0:  # every picture claims 65000 x 65000
        data[start + 5 : start + 9] = struct.pack(">HH", 65000, 65000)
        start = data.find(b"\xff\xc0", start + 1)
    path.write_bytes(data)
    with pytest.raises(VideoError):
        read_frames(path, [FramePlan()])


def test_jpeg_is_opencvs_both_ways():
    rgb = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (61, 47, 3), np.uint8), (0, 0), 2)
    done, reference = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done and jpeg_encode(rgb, 95) == reference.tobytes()
    np.testing.assert_array_equal(jpeg_decode(reference.tobytes()), cv2.imdecode(reference, 1)[..., ::-1])
    with pytest.raises(VideoError):
        jpeg_decode(b"no jpeg")


def test_round_trip_and_stored_bytes_agree(tmp_path):
    path = write(tmp_path / "a.mp4")
    plain = read_frames(path, [FramePlan()])
    passed = read_frames(path, [FramePlan()], 95)
    stored = read_jpegs(path, [FramePlan()], 95)
    for index, rgb in plain.frames.items():
        np.testing.assert_array_equal(passed.frames[index], jpeg_round_trip(rgb, 95))
        np.testing.assert_array_equal(passed.frames[index], jpeg_decode(stored.frames[index]))


def test_threads_do_not_change_pixels(tmp_path):
    path = write(tmp_path / "a.mp4", count=30, size=(320, 240))
    one, four = read_frames(path, [ALL]), read_frames(path, [ALL], threads=4)
    assert one.frames.keys() == four.frames.keys()
    for index in one.frames:
        np.testing.assert_array_equal(one.frames[index], four.frames[index])


def test_plans_are_united_and_decoded_once(tmp_path):
    path = write(tmp_path / "a.mp4", count=30)
    plans = [FramePlan(), FramePlan(plan="even", count=4), FramePlan(positions=[0.2])]
    decoded = read_frames(path, plans)
    wanted = {i for p in plans for i in choose_frames(p, decoded.info.times, decoded.info.duration)}
    assert set(decoded.frames) == wanted
    assert all(number_of(rgb) == index for index, rgb in decoded.frames.items())
