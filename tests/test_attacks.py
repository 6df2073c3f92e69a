"""Simulated attacks do what their parameters say, measured with plain Fourier transforms and means."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from liveness.base.errors import UserError
from liveness.simulation.attacks import ATTACKS, Holding, PrintAttack, ReplayAttack, simulate
from liveness.simulation.camera import Camera

FLAT = Holding(seed=5, fill=1.0, turn=0.0, tilt=(0.0, 0.0), shift=(0.0, 0.0), shake=0.0)
PLAIN = Camera(tint=(1.0, 1.0, 1.0), strength=0.0, blur=0.0, sharpen=0.0, noise=0.0, vignette=0.0)
SHEET = PrintAttack(holding=FLAT, period=4.0, angles=(0.3, 1.3, 0.0), dots=0.5, gamut=0.7, cast=(1.0, 1.0, 1.0),
                    black=0.1, paper=(1.0, 1.0, 1.0), grain=0.0, banding=0.0, glare=0.0, margin=0.0, defocus=0.0,
                    camera=PLAIN)  # fmt: skip
SCREEN = ReplayAttack(holding=FLAT, pitch=1.05, grid=0.15, rows=0.0, gamma=1.0, blue=0.0, black=0.0, banding=0.0,
                      band_rate=1.0, band_length=0.5, reflection=0.0, bezel=0.05, quality=90, defocus=0.0,
                      camera=PLAIN)  # fmt: skip


def grey(level: int = 128, height: int = 400, width: int = 400) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def picture(height: int = 240, width: int = 180) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((20, 20, 1), np.uint8))


def strongest(image: np.ndarray) -> tuple[float, float]:
    """Frequency (cycles per pixel: down, across, not negative) of the strongest wave of a square picture."""
    power = np.abs(np.fft.fft2((image - image.mean()) * np.hanning(len(image))[:, None] * np.hanning(len(image))))
    row, column = np.unravel_index(power.argmax(), power.shape)
    frequencies = np.fft.fftfreq(len(image))
    return abs(frequencies[row]), abs(frequencies[column])


@pytest.mark.parametrize("kind", sorted(ATTACKS))
@pytest.mark.parametrize("size", [(240, 180), (181, 333), (64, 64)])
def test_attack_keeps_shape_and_input(kind: str, size: tuple[int, int]) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    before = frame.copy()
    fake = simulate(frame, kind, np.random.default_rng(3))
    assert fake.shape == frame.shape and fake.dtype == np.uint8
    assert np.array_equal(frame, before)
    assert np.abs(fake.astype(int) - frame).mean() > 3


@pytest.mark.parametrize("kind", sorted(ATTACKS))
def test_same_seed_gives_same_pixels_and_another_seed_others(kind: str) -> None:
    frame = picture()
    first, second, other = (simulate(frame, kind, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", sorted(ATTACKS))
def test_one_attack_is_constant_but_moves_with_time(kind: str) -> None:
    attack = ATTACKS[kind].draw(np.random.default_rng(2))
    frame = picture()
    assert np.array_equal(attack.apply(frame, 0.5), attack.apply(frame, 0.5))
    assert not np.array_equal(attack.apply(frame, 0.5), attack.apply(frame, 1.5))
    with pytest.raises(FrozenInstanceError):
        attack.camera = PLAIN


def test_halftone_has_the_period_and_angle_of_its_screen() -> None:
    sheet = SHEET.surface(grey())
    for ink, angle in enumerate(SHEET.angles):
        down, across = strongest(sheet[..., ink])
        assert np.hypot(down, across) == pytest.approx(1 / 4.0, abs=0.005)
        turned = np.arctan2(down, across) % (np.pi / 2)
        assert min(abs(turned - angle % (np.pi / 2)), abs(turned - (-angle) % (np.pi / 2))) < 0.05


def test_print_narrows_contrast_and_colour() -> None:
    mean = [float(SHEET.surface(grey(level)).mean()) for level in (0, 64, 128, 192, 255)]
    assert mean == sorted(mean) and mean[0] == pytest.approx(0.1, abs=0.03) and mean[-1] > 0.9
    red = np.zeros((200, 200, 3), np.uint8)
    red[..., 0] = 200
    inks = SHEET.surface(red).mean((0, 1))
    assert inks[0] - inks[1:].mean() < 0.75 * 200 / 255


@pytest.mark.parametrize("pitch", [0.95, 1.05, 2.5])
def test_screen_grid_aliases_to_the_beat_with_the_cameras_pixels(pitch: float) -> None:
    shot = replace(SCREEN, pitch=pitch).apply(grey()).astype(float)
    beat = 1 / pitch if pitch > 2 else abs(1 / pitch - 1)
    for channel in range(3):
        down, across = strongest(shot[..., channel])
        assert across == pytest.approx(beat, abs=0.005) and down == 0
    # The coloured stripes lie a third of a period apart, so the three channels beat out of step.
    row = shot[200] - shot[200].mean(0)
    assert np.corrcoef(row.T)[0, 1] == pytest.approx(-0.5, abs=0.15)


def test_refresh_bands_roll_and_come_round() -> None:
    attack = replace(SCREEN, grid=0.0, banding=0.1, band_rate=2.0)
    start, half, whole = (attack.apply(grey(), t)[20:-20].mean((1, 2)) for t in (0.0, 0.25, 0.5))
    assert np.abs(start - whole).max() < 1
    assert np.corrcoef(start, half)[0, 1] < -0.95


def test_screen_is_bluer_than_what_it_shows() -> None:
    shown = replace(SCREEN, blue=0.15).surface(grey()).mean((0, 1))
    assert shown[2] > shown[1] > shown[0]


def test_edges_come_into_view_only_when_the_picture_is_smaller_than_the_frame() -> None:
    inside = replace(SCREEN, grid=0.0, holding=replace(FLAT, fill=1.2)).apply(grey())
    assert inside.std() < 2
    small = replace(SCREEN, grid=0.0, holding=replace(FLAT, fill=0.8)).apply(grey()).astype(float)
    assert small[200, 200].mean() > 110
    assert small[200, 32:38].mean() < 30  # the bezel: a twentieth of the width beyond the picture's edge at 40


def test_camera_pulls_exposure_and_colour_to_its_own_levels() -> None:
    camera = replace(PLAIN, level=0.5, strength=1.0)
    bright, dark = (camera.apply(picture() // 2 + k, np.random.default_rng(0)).mean() for k in (0, 120))
    assert abs(bright - dark) < 8


def test_unknown_kind_is_a_users_error() -> None:
    with pytest.raises(UserError, match="mask.*print, replay"):
        simulate(picture(), "mask", np.random.default_rng(0))


def test_wrong_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="HxWx3"):
        SHEET.apply(np.zeros((20, 20), np.uint8))
