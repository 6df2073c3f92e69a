"""Still images: every kind of file as Pillow, OpenCV and arithmetic say it should look, and folders of them."""

import json
import runpy
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from test_prediction import put_member
from test_prediction_inputs import predicted, rows_of

from liveness.base.config import Data, FramePlan
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.base.tables import read_table
from liveness.frames.notes import parse_notes
from liveness.frames.video import VideoError, probe, read_frames
from liveness.laboratory.stressed import read_stressed_frames
from liveness.pages.dataset import render_dataset_page
from liveness.pages.dataset_tables import read_set_tables
from liveness.prediction.inputs import videos_below
from liveness.sets.dataset import load_set
from liveness.sets.folds import fold_set
from liveness.sets.labels import find_set
from liveness.sets.preparation import prepare_set
from liveness.sets.sanity import check_set
from liveness.simulation.stress import STRESSORS, list_stresses

PLANS = [FramePlan(plan=plan) for plan in ("positions", "even", "every", "rate", "all")]


def picture(width: int = 40, height: int = 24, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.integers(0, 256, (4, 6, channels), dtype=np.uint8), (width, height))
    return smooth.reshape(height, width, channels)


def decoded(path: Path) -> np.ndarray:
    """The one frame, which every plan and every contract version gives."""
    found = [read_frames(path, [plan], version=version) for plan in PLANS for version in (1, 2)]
    assert all(list(one.frames) == [0] and one.notes == ["image"] and one.status == "ok" for one in found)
    assert all((one.frames[0] == found[0].frames[0]).all() for one in found)
    info = found[0].info
    assert (info.frames, info.fps, info.duration, list(info.times)) == (1, 0.0, 0.0, [0.0])
    assert found[0].frames[0].shape == (info.height, info.width, 3) == (probe(path).height, probe(path).width, 3)
    return found[0].frames[0]


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "png", "webp", "bmp"])
def test_the_pixels_are_those_of_opencv_and_pillow(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(picture()).save(path)
    rgb = decoded(path)
    assert (rgb == cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)).all()
    assert (rgb == np.asarray(Image.open(path).convert("RGB"))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_camera_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for ending in ("jpg", "png", "webp"):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(picture()).save(path, exif=exif)
        with Image.open(path) as image:
            assert (decoded(path) == np.asarray(ImageOps.exif_transpose(image))).all()
    assert (decoded(tmp_path / "a.jpg") == cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1]).all()
    turns = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}  # those of a video with the same matrix
    assert probe(tmp_path / "a.jpg").rotation == turns.get(orientation, 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_16_bits_the_upper_8_count(tmp_path, channels):
    values = np.random.default_rng(1).integers(0, 65536, (24, 40, channels), dtype=np.uint16)
    if channels == 4:
        values[..., 3] = 65535
    cv2.imwrite(str(tmp_path / "a.png"), values)
    expected = (values // 256).astype(np.uint8)[..., ::-1]
    expected = expected[..., 1:] if channels == 4 else np.broadcast_to(expected, (24, 40, 3))
    assert (decoded(tmp_path / "a.png") == expected).all()


def test_transparent_pixels_lie_on_white(tmp_path):
    rgba = picture(channels=4).copy()
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    alpha = rgba[..., 3:] / 255.0
    expected = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha))
    for ending in ("png", "webp"):
        Image.fromarray(rgba).save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
        rgb = decoded(tmp_path / f"a.{ending}").astype(float)
        assert np.abs(rgb - expected)[rgba[..., 3] > 0].max() <= 1 and (rgb[0] == 255).all()
    grey = Image.fromarray(picture(channels=1)[..., 0])
    grey.putpixel((3, 2), 77)
    palette = Image.fromarray(picture()).quantize(16)
    for image, clear in ((grey, 77), (palette, palette.getpixel((3, 2)))):
        image.save(tmp_path / "t.png", transparency=clear)
        rgb, mask = decoded(tmp_path / "t.png"), np.asarray(image) == clear
        assert (rgb[mask] == 255).all() and (rgb[~mask] == np.asarray(image.convert("RGB"))[~mask]).all()


def test_grey_palettes_and_cmyk_become_rgb(tmp_path):
    plain = Image.fromarray(picture())
    for image in (plain.convert("L"), plain.quantize(16), plain.convert("1")):
        image.save(tmp_path / "a.png")
        assert (decoded(tmp_path / "a.png") == np.asarray(image.convert("RGB"))).all()
    Image.fromarray(picture(channels=4), "CMYK").save(tmp_path / "a.jpg", quality=100)
    with Image.open(tmp_path / "a.jpg") as image:
        ink = np.asarray(image).astype(float)
    assert np.abs(decoded(tmp_path / "a.jpg") - (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255).max() <= 1


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG file whose header asks for that many pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def saved(image: Image.Image, folder: Path, kind: str, **options) -> bytes:
    image.save(folder / "other", kind, **options)
    return (folder / "other").read_bytes()


def test_what_is_no_still_image_is_one_line(tmp_path, tiny_clips):
    first, second = (Image.fromarray(picture(seed=seed)) for seed in (1, 2))
    moving = {"save_all": True, "append_images": [second], "duration": 100}
    large = saved(first, tmp_path, "JPEG")
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16000).to_bytes(3, "little") * 2
    wrong = {
        "an animated PNG image": saved(first, tmp_path, "PNG", **moving),
        "an animated WebP image": saved(first, tmp_path, "WEBP", **moving),
        "a GIF image, not a JPEG, PNG.*; convert it: ffmpeg": saved(first, tmp_path, "GIF", **moving),
        "a TIFF image.*convert it to PNG": saved(first, tmp_path, "TIFF"),
        "an AVIF image.*convert it to JPEG or PNG": saved(first, tmp_path, "AVIF"),
        r"a video.*\(\.mp4": tiny_clips(tmp_path / "a.mp4", 4, (64, 64)).read_bytes(),
        "an HTML page, not a JPEG": b"<!DOCTYPE html><html>quota exceeded</html>",
        "an empty file": b"",
        "of no known kind": bytes(range(256)),
        "the image breaks off": large[: len(large) // 2],
        "does not decode": b"\x89PNG\r\n\x1a\n" + bytes(range(200)),
        "more than 67108864 pixels": bomb(8193, 8192),
        "more than 67108864 pixels is": bomb(60000, 60000),
        "more than 67108864 pixels is too": b"RIFF" + struct.pack("<I", 200) + b"WEBP" + vp8x + bytes(200),
    }
    for told, content in wrong.items():
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(VideoError, match=told) as caught:
            read_frames(tmp_path / "a.jpg", PLANS)
        assert "\n" not in str(caught.value)
    with pytest.raises(VideoError, match="No such file"):
        read_frames(tmp_path / "absent.jpg", PLANS)
    Image.fromarray(picture()).save(tmp_path / "still.webp", save_all=True)  # one frame is a still image
    assert decoded(tmp_path / "still.webp").shape == (24, 40, 3)
    (tmp_path / "clip.mp4").write_bytes(large)
    with pytest.raises(VideoError, match="a JPEG image, not a video; .*give it the ending .jpg"):
        read_frames(tmp_path / "clip.mp4", PLANS)


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        Image.fromarray(picture(96, 96, seed=seed + 10)).save(folder / name)


def test_images_are_scored_where_there_is_no_video_or_where_that_is_asked(tmp_path, tiny_clips, capsys):
    put(tmp_path / "b" / "images", "2.jpg", "10.PNG", "2.png")
    put(tmp_path, "poster.jpg")
    (tmp_path / "poster.jpg").rename(tmp_path / "b" / "poster.jpg")

    def names(folder: Path, images: bool = False) -> list[str]:
        return [path.name for path in videos_below(folder, images)]

    assert names(tmp_path / "b" / "images") == ["2.jpg", "2.png", "10.PNG"]
    assert names(tmp_path / "b" / "images" / "2.png") == ["2.png"]
    assert names(tmp_path) == ["2.jpg", "2.png", "10.PNG"] and capsys.readouterr().err == ""
    tiny_clips(tmp_path / "b" / "images" / "2.mp4", 4, (64, 64))
    assert names(tmp_path / "b" / "images") == ["2.mp4"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "3 are not scored beside the videos: 2.jpg, 2.png, 10.PNG (a still image); --images" in line
    assert names(tmp_path / "b" / "images", True) == ["2.jpg", "2.mp4", "2.png", "10.PNG"]
    tiny_clips(tmp_path / "b" / "videos" / "7.mp4", 4, (64, 64))
    assert names(tmp_path) == ["7.mp4"] and names(tmp_path / "b") == ["7.mp4"]
    assert "images (a folder with" in capsys.readouterr().err


def test_a_set_has_the_images_that_its_label_file_names(workspace, tiny_clips, capsys):
    raw = workspace / "raw" / "mine"
    put(raw / "images", "1.jpg", "2.png", "3.bmp")
    tiny_clips(raw / "videos" / "2.mp4", 4, (64, 64))
    assert [path.name for path in find_set("mine").videos] == ["2.mp4"]  # no label file: videos only
    (raw / "label.csv").write_text("fname,liveness_score\n2,1\n")
    assert [path.name for path in find_set("mine").videos] == ["2.mp4"]  # the video is meant, as it always was
    (raw / "label.csv").write_text("fname,liveness_score\n3.bmp,0\n1,1\n")
    found = find_set("mine")
    assert [path.name for path in found.videos] == ["1.jpg", "3.bmp"] and found.unlabelled == ["2.mp4"]
    (raw / "label.csv").write_text("fname,liveness_score\n2.png,0\n1.jpg,1\n")
    with pytest.raises(UserError, match=r"two videos with one name: .*2\.(mp4|png) and .*2\.(mp4|png)"):
        find_set("mine")
    (raw / "videos" / "2.mp4").unlink()
    (raw / "label.csv").unlink()
    assert [path.name for path in find_set("mine").videos] == ["1.jpg", "2.png", "3.bmp"]


def test_two_folders_of_images_are_a_labelled_set(workspace, tiny_clips):
    raw = workspace / "raw" / "mine"
    put(raw / "live", "1.jpg", "2.png")
    put(raw / "spoof" / "print", "3.jpg")
    put(raw, "preview.png")
    found = find_set("mine")
    assert found.labels is not None
    assert found.labels.to_numpy().tolist() == [["1.jpg", 1, ""], ["2.png", 1, ""], ["3.jpg", 0, "print"]]
    tiny_clips(raw / "live" / "4.mp4", 4, (64, 64))
    with pytest.raises(UserError, match="spoof: no video in it.*; its images are not read, since the set has videos"):
        find_set("mine")


def test_a_set_of_videos_and_images_is_prepared(workspace, tiny_clips, capsys):
    raw = workspace / "raw" / "mine"
    put(raw, "1.jpg", "2.png", "5.jpg")
    tiny_clips(raw / "3.mp4", 6, (64, 64))
    (raw / "4.jpg").write_bytes(b"<html>no</html>")
    (raw / "label.csv").write_text("fname,liveness_score,camera\n1.jpg,1,a\n2.png,0,a\n3.mp4,1,b\n4.jpg,0,b\n")
    prepare_set(Data(name="mine", workers=1))
    told = capsys.readouterr()
    assert "noted: image 2" in told.out
    assert "1 beside the videos are not read: 5.jpg (a still image); images belong to it where a label" in told.err
    videos = read_table(workspace / "data" / "mine" / "labels_video.csv", []).set_index("filename")
    rows = videos[["status", "frames", "fps", "duration", "width", "codec"]].to_numpy().tolist()
    assert rows[0] == ["ok", "1", "", "", "96", "jpeg"] and rows[1] == ["ok", "1", "", "", "96", "png"]
    assert rows[2][:3] == ["ok", "6", "25.0"] and rows[3][0] == "unreadable"
    assert [("image" in parse_notes(reason)) for reason in videos["reason"]] == [True, True, False, False]
    frames = read_table(workspace / "data" / "mine" / "labels_keyframes.csv", [])
    assert list(frames["filename"])[:2] == ["1-0.jpg", "2-0.jpg"] and len(frames) == 5
    assert check_set(workspace / "data" / "mine", find_set("mine"), Data(name="mine"))[0][1:] == []  # but for the folds
    stored = cv2.imread(str(workspace / "data" / "mine" / "frames" / "2-0.jpg"))
    assert np.abs(stored[..., ::-1].astype(int) - picture(96, 96, seed=11)).mean() < 3


def test_a_set_of_images_has_folds_a_page_and_the_frames_of_every_plan(workspace):
    put(workspace / "raw" / "mine" / "live", *(f"{i}.jpg" for i in range(2)))
    put(workspace / "raw" / "mine" / "spoof", *(f"{i}.png" for i in range(7, 9)))
    data, folder = Data(name="mine", workers=1), workspace / "data" / "mine"
    data.folds.n, data.folds.duplicates = 2, 0.0
    prepare_set(data)
    fold_set(folder, data.folds)
    assert check_set(folder, find_set("mine"), data) == ([], set())
    assert len(load_set("mine", FramePlan(plan="rate")).frames) == 4  # though it was prepared by another plan
    page = render_dataset_page(read_set_tables(folder))
    assert "of them still images" in page and "Frame rate" not in page and "jpeg" in page and "png" in page


def test_a_sample_submission_lists_what_is_scored(tmp_path, tiny_clips, monkeypatch):
    put(tmp_path / "in", "1.jpg", "2.png")
    main = runpy.run_path(str(CODE / "create_sample_sub.py"))["main"]

    def listed(*options: str) -> list[str]:
        monkeypatch.setattr(
            sys, "argv", ["create_sample_sub.py", str(tmp_path / "in"), str(tmp_path / "a.csv"), *options]
        )
        assert main() == 0
        return [line.split(",")[0] for line in (tmp_path / "a.csv").read_text().splitlines()[1:]]

    assert listed() == ["1.jpg", "2.png"]
    tiny_clips(tmp_path / "in" / "3.mp4", 4, (64, 64))
    assert listed() == ["3.mp4"] and listed("--images") == ["1.jpg", "2.png", "3.mp4"]


def test_changed_images_are_measured_too(tmp_path):
    put(tmp_path, "1.jpg")
    stresses = list_stresses([name for name, one in STRESSORS.items() if one.kind == "time"] + ["reencode"], [3])
    for frame in read_stressed_frames(tmp_path / "1.jpg", FramePlan(), stresses, 0):
        assert frame.shape == (96, 96, 3)


@pytest.mark.full
def test_prediction_scores_images_and_says_so(workspace, tiny_clips, monkeypatch):
    put_member("convnext_large", 0)
    put_member("convnext_large", 1)
    members = [f"convnext_large_fold{fold}" for fold in (0, 1)]
    about = {"data_hash": "", "weights": dict.fromkeys(members, 1.0), "frames": {"typical": 3, "least": 2}}
    about["thresholds"] = [{"name": "eer", "target": None, "threshold": 0.5}]
    name = "convnext_large_fold0+convnext_large_fold1.json"
    (workspace / "weights" / "train" / name).write_text(json.dumps(about))
    put(workspace / "clips", "1.jpg", "2.png")
    (workspace / "clips" / "3.webp").write_bytes(bomb(60000, 60000))
    tiny_clips(workspace / "clips" / "4.mp4", 1, (64, 64))
    options = ("--images", "--members", "convnext_large:0", "convnext_large:1")
    assert predicted(monkeypatch, workspace / "clips", workspace / "out", *options) == 0
    rows = rows_of(workspace / "out")
    assert [(row["fname"], row["reason"]) for row in rows[3:]] == [("4.mp4", "")]
    first = [(row["fname"], row["status"], row["frames"], row["reason"]) for row in rows[:2]]
    assert first == [("1.jpg", "ok", "1", "note: image"), ("2.png", "ok", "1", "note: image")]
    # The one frame of an image is all of it; that of a clip, of which two have to be scored, is not.
    assert {row["decision"] for row in rows[:2]} <= {"live", "attack"} and rows[3]["decision"] == "abstain"
    assert (rows[2]["status"], rows[2]["decision"]) == ("unreadable", "abstain") and "too large" in rows[2]["reason"]
