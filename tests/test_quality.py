"""The quality of a face's picture: what each measure says of a picture whose property is known."""

import cv2
import numpy as np
import pytest

from liveness.frames.boxes import Face
from liveness.frames.quality import measure_quality, median_quality

FACE = Face(40, 30, 50, 60, 0.9)


def picture(seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 180, (200, 160, 3), dtype=np.uint8)


def test_brightness_and_contrast_are_those_of_the_luma_inside_the_box():
    rgb = picture()
    found = measure_quality(rgb, FACE)
    inside = rgb[30:90, 40:90].astype(float) @ [0.299, 0.587, 0.114]
    assert found.brightness == pytest.approx(inside.mean(), abs=0.6)
    assert found.contrast == pytest.approx(inside.std(), rel=0.03)
    assert found.face_width == 50
    brighter = measure_quality(np.clip(rgb.astype(int) + 40, 0, 255).astype(np.uint8), FACE)
    assert brighter.brightness == pytest.approx(found.brightness + 40, abs=0.6)
    assert brighter.sharpness == pytest.approx(found.sharpness, rel=0.05)


def test_blur_lowers_sharpness_and_the_size_of_the_picture_hardly_matters():
    rgb = picture()
    blurred = measure_quality(cv2.GaussianBlur(rgb, (0, 0), 2.5), FACE)
    assert blurred.sharpness < 0.5 * measure_quality(rgb, FACE).sharpness
    smooth = cv2.GaussianBlur(picture(), (0, 0), 4)
    twice = cv2.resize(smooth, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    large = measure_quality(twice, Face(80, 60, 100, 120, 0.9))
    assert large.sharpness == pytest.approx(measure_quality(smooth, FACE).sharpness, rel=0.15)


def test_room_is_the_largest_window_that_fits():
    assert measure_quality(picture(), FACE).room == pytest.approx(min(160 / 50, 200 / 60))
    assert measure_quality(picture(), Face(-20, -20, 300, 300, 0.9)).room < 1


def test_a_box_that_leaves_the_frame_is_measured_on_what_is_there():
    rgb = picture()
    over = measure_quality(rgb, Face(130, 150, 80, 90, 0.9))
    assert over.brightness == pytest.approx((rgb[150:, 130:].astype(float) @ [0.299, 0.587, 0.114]).mean(), abs=0.6)
    assert np.isfinite(list(vars(measure_quality(rgb, Face(500, 500, 10, 10, 0.9))).values())).all()


def test_the_median_of_a_video_ignores_one_odd_frame():
    good = measure_quality(picture(), FACE)
    odd = measure_quality(np.zeros((200, 160, 3), np.uint8), FACE)
    assert median_quality([good, odd, good]) == good
    assert median_quality([]) is None
