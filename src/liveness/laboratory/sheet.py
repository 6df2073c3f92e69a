"""The stressors as a picture, for people: a row per stressor, and per video its severities side by side.

    draw_sheet(Path("stressors.png"), StressPlan("demo", list_stresses(["jpeg"], [1, 2, 3])))

Reads data/<set>/folds.csv and two videos of data/<set>/videos; writes the png.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from liveness.base.config import FramePlan
from liveness.base.files import workspace, written_aside
from liveness.laboratory.shift import StressPlan, read_home_folds
from liveness.laboratory.stressed import read_stressed_frames
from liveness.simulation.stress import CLEAN, Stress

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE, _STRIP, _GAP = 150, 16, 4  # pixels: a tile's height, the line over it, between tiles
_Tiles = dict[tuple[str, int, int], np.ndarray]  # stressor, severity, video -> uint8 RGB


def draw_sheet(path: Path, plan: StressPlan) -> None:
    """Draw every stress of the plan on a live video and on an attack of its set."""
    tiles: _Tiles = {}
    folds, folder = read_home_folds(plan.data), workspace() / "data" / plan.data / "videos"
    videos = [folds[folds["label"] == label].iloc[0] for label in (1, 0) if (folds["label"] == label).any()]
    for column, video in enumerate(videos):
        mine = [CLEAN, *(s for s in plan.stresses if s.kind != "attack" or video["label"] == 1)]
        frames = read_stressed_frames(folder / video["filename"], FramePlan(), mine, plan.seed)
        for stress, frame in zip(mine, frames, strict=True):
            tiles[stress.name, stress.severity, column] = frame
    with written_aside(path) as side:
        _lay_out(tiles, [f"{v['filename']} {'live' if v['label'] else 'attack'}" for v in videos]).save(side)


def _lay_out(tiles: _Tiles, titles: list[str]) -> "Image":
    """One PIL image: a row per stressor, and per video its severities side by side."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(11)
    names = list(dict.fromkeys(name for name, _, _ in tiles))
    columns = list(dict.fromkeys((video, severity) for _, severity, video in tiles if severity))
    columns.sort()
    columns = columns or [(video, 0) for video in range(len(titles))]
    clean = tiles[names[0], 0, 0]
    width = max(90, round(_SIDE * clean.shape[1] / clean.shape[0]))
    sheet = Image.new("RGB", (len(columns) * (width + _GAP) + _GAP, len(names) * (_SIDE + _STRIP + _GAP) + _GAP))
    pen = ImageDraw.Draw(sheet)
    for line, name in enumerate(names):
        for place, (video, severity) in enumerate(columns):
            first = place == 0 or columns[place - 1][0] != video
            key = (name, severity, video) if name != "clean" else (name, 0 if first else -1, video)
            if key not in tiles:
                continue
            left, top = _GAP + place * (width + _GAP), _GAP + line * (_SIDE + _STRIP + _GAP)
            stress = Stress(name, key[1])
            text = f"{name} {key[1]}: {stress.parameters}" if key[1] else titles[video]
            pen.text((left, top), text, (230, 230, 230), font)
            picture = Image.fromarray(tiles[key])
            factor = min(width / picture.width, _SIDE / picture.height)
            size = (round(factor * picture.width), round(factor * picture.height))
            way = Image.Resampling.BICUBIC if factor < 1 else Image.Resampling.NEAREST  # lost pixels stay visible
            sheet.paste(picture.resize(size, way), (left, top + _STRIP))
    return sheet
