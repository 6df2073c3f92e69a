"""A sheet of pictures that shows what a policy of configs/augment does to the frames of a prepared set.

A row is one frame: the view as prediction sees it, then what training would see in its epochs 0, 1, 2, ... A red
frame marks a live view that became a simulated attack, an orange one a mixed sample with its soft label.
Reads data/<set>/.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from liveness.base.config import Recipe
from liveness.base.errors import UserError
from liveness.base.files import written_aside
from liveness.frames.contract import cut_views, to_colour
from liveness.sets.dataset import load_set, read_face, read_frame
from liveness.sets.soft_labels import COLUMNS
from liveness.training.augment import Policy
from liveness.training.samples import TrainingFrames

_STRIP, _GAP, _TITLE = 18, 3, 24  # pixels: the line over a tile, between tiles, the line over all
_GREY, _RED, _ORANGE, _WHITE = (190, 190, 190), (255, 60, 60), (255, 170, 40), (255, 255, 255)

Tile = tuple[np.ndarray, str, tuple[int, int, int]]  # picture, text, colour of the text and the frame


def write_sheet(recipe: Recipe, name: str, rows: int, columns: int, out: Path) -> tuple[int, int, float]:
    """Draw ``rows`` frames of data/<name> and write the sheet, a PNG. Returns the numbers of frames and of draws,
    and the seconds that a draw took."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a name that ends in .png")
    tiles, seconds = draw_tiles(recipe, name, rows, columns)
    view = f"{recipe.view.kind} {recipe.view.size} px"
    title = f"policy {recipe.augment.name}   recipe {recipe.name}, {view}, set {name}   first column: untouched"
    with written_aside(out) as side:
        arrange_tiles(tiles, title).save(side)
    draws = sum(len(row) - 1 for row in tiles)
    return len(tiles), draws, seconds / draws


def draw_tiles(recipe: Recipe, name: str, rows: int, columns: int) -> tuple[list[list[Tile]], float]:
    """The tiles row by row, made by the very samples of training; and the seconds that the draws took."""
    prepared = load_set(name, recipe.frames)
    # The labels that a sheet tells are the classes.
    table = prepared.frames[prepared.frames.label.notna()].drop(columns=list(COLUMNS), errors="ignore")
    if recipe.view.kind == "face":
        table = table[table.face == 1]
    if table.empty:
        what = "frame with a face" if recipe.view.kind == "face" else "frame"
        raise UserError(f"data/{name}: no {what} has a label, 0 or 1; a policy works on labelled frames")
    samples = TrainingFrames(prepared.folder, table, Policy(recipe.augment, recipe.view), recipe.train.seed)
    tiles: list[list[Tile]] = []
    seconds = 0.0
    for index in choose_rows(table.label.to_numpy(int), rows):
        row = samples.rows[index]
        plain = cut_views(read_frame(prepared.folder, row), read_face(row), recipe.view)[0]
        label = int(row.label)
        tiles.append([(plain, f"{row.video_id}-{row.frame_id} {_word(label)}", _WHITE)])
        for epoch in range(columns - 1):
            begin = time.perf_counter()
            tensor, drawn = samples[epoch, index]
            seconds += time.perf_counter() - begin
            mixed = samples.partner((epoch, index)) is not None
            tiles[-1].append((to_picture(tensor, recipe), *describe_draw(label, float(drawn), mixed)))
    return tiles, seconds


def choose_rows(labels: np.ndarray, rows: int) -> list[int]:
    """Up to ``rows`` indices, live and attack as equal in number as there are any, spread evenly over the set."""
    live, attack = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    n_live = min(len(live), max(rows - rows // 2, rows - len(attack)))
    chosen = []
    for group, n in ((live, n_live), (attack, min(len(attack), rows - n_live))):
        chosen += [int(group[(2 * k + 1) * len(group) // (2 * n)]) for k in range(n)]
    return chosen


def describe_draw(label: int, drawn: float, mixed: bool) -> tuple[str, tuple[int, int, int]]:
    """Text and colour of a draw: its label, and whether that is still the frame's own."""
    if mixed:
        return f"mixed: {drawn:.2f} live", _ORANGE
    if drawn == label:
        return _word(label), _GREY
    return f"was {_word(label)}: {_word(int(drawn))}", _RED


def _word(label: int) -> str:
    return "live" if label else "attack"


def to_picture(tensor: torch.Tensor, recipe: Recipe) -> np.ndarray:
    """The tensor (3 x H x W) that the model would see as uint8 RGB (H x W x 3)."""
    mean, std = np.array(recipe.view.mean), np.array(recipe.view.std)
    values = tensor.numpy().transpose(1, 2, 0) * std + mean
    return np.clip(to_colour(values, recipe.view) + 0.5, 0, 255).astype(np.uint8)


def arrange_tiles(tiles: list[list[Tile]], title: str) -> Image.Image:
    """One PIL image of all tiles at their true size, black between them."""
    height = max(tile[0].shape[0] for row in tiles for tile in row)
    width = max(80, max(tile[0].shape[1] for row in tiles for tile in row))
    step_x, step_y = width + 2 * _GAP, height + _STRIP + 2 * _GAP
    small, large = ImageFont.load_default(11), ImageFont.load_default(14)
    total = max(len(tiles[0]) * step_x, int(large.getlength(title)) + 2 * _GAP)
    sheet = Image.new("RGB", (total, _TITLE + len(tiles) * step_y))
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 3), title, _WHITE, large)
    for i, row in enumerate(tiles):
        for k, (pixels, text, colour) in enumerate(row):
            left, top = k * step_x + _GAP, _TITLE + i * step_y + _GAP
            pen.text((left, top), fit_text(text, width, small.getlength), colour, small)
            if colour in (_RED, _ORANGE):
                box = (left - _GAP, top + _STRIP - _GAP, left + pixels.shape[1] + _GAP - 1,
                       top + _STRIP + pixels.shape[0] + _GAP - 1)  # fmt: skip
                pen.rectangle(box, colour)
            sheet.paste(Image.fromarray(pixels), (left, top + _STRIP))
    return sheet


def fit_text(text: str, width: float, length: Callable[[str], float]) -> str:
    """The text, or as much of its end as is not wider, after "…": the label there matters more than the name."""
    shown = text
    while length(shown) > width and len(text) > 1:
        text = text[1:]
        shown = "…" + text
    return shown
