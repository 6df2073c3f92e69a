"""Show what a recipe's augmentation policy does to real frames: one PNG to look at.

    python -m liveness.contact_sheet -c efficientnet_lite0 --data train -o augment=shift

A row is one frame of the prepared set: the view as prediction sees it, then what training would see
in its epochs 0, 1, 2, ... A red frame marks a live view that became a simulated attack, an orange one a
mixed sample with its soft label. Reads data/<set>/ (prepare_data.sh); writes --out, or
runs/<set>/<recipe>_<policy>.png. The pictures show the people in the set: treat them like the set.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from liveness.base.compose import load_recipe
from liveness.base.config import Recipe
from liveness.base.errors import UserError, run
from liveness.base.files import workspace, written_aside

STRIP, GAP, TITLE = 18, 3, 24  # pixels: the line over a tile, between tiles, the line over all
GREY, RED, ORANGE, WHITE = (190, 190, 190), (255, 60, 60), (255, 170, 40), (255, 255, 255)

Tile = tuple[np.ndarray, str, tuple[int, int, int]]  # picture, text, colour of the text and the frame


def main() -> None:
    args = _arguments()
    recipe = load_recipe(args.config, args.override)
    name = args.data or recipe.data
    out = args.out or workspace() / "runs" / name / f"{recipe.name}_{recipe.augment.name}.png"
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a name that ends in .png")
    tiles, seconds = draw(recipe, name, args.rows, args.columns)
    view = f"{recipe.view.kind} {recipe.view.size} px"
    title = f"policy {recipe.augment.name}   recipe {recipe.name}, {view}, set {name}   first column: untouched"
    with written_aside(out) as side:
        arrange(tiles, title).save(side)
    draws = sum(len(row) - 1 for row in tiles)
    print(f"{out}: {len(tiles)} frames, {draws} draws of {recipe.augment.name}, {1e3 * seconds / draws:.1f} ms each")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.contact_sheet", description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", required=True, metavar="RECIPE", help="a name in configs/recipe")
    parser.add_argument("--data", metavar="SET", help="the prepared set in data/ (default: the recipe's)")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="default: runs/SET/RECIPE_POLICY.png")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="frames (default 8)")
    parser.add_argument("--columns", type=int, default=8, metavar="N", help="the untouched view and N-1 draws")
    args = parser.parse_args()
    if args.rows < 1 or args.columns < 2:
        parser.error(f"--rows {args.rows} --columns {args.columns}: expected at least 1 row and 2 columns")
    return args


def draw(recipe: Recipe, name: str, rows: int, columns: int) -> tuple[list[list[Tile]], float]:
    """The tiles row by row, made by the very samples of training; and the seconds that the draws took."""
    from liveness.frames.contract import cut_views
    from liveness.sets.dataset import load_set, read_face, read_frame
    from liveness.training.augment import Policy
    from liveness.training.samples import TrainingFrames

    prepared = load_set(name, recipe.frames)
    table = prepared.frames[prepared.frames.label.notna()]
    if recipe.view.kind == "face":
        table = table[table.face == 1]
    if table.empty:
        what = "frame with a face" if recipe.view.kind == "face" else "frame"
        raise UserError(f"data/{name}: no {what} has a label, 0 or 1; a policy works on labelled frames")
    samples = TrainingFrames(prepared.folder, table, Policy(recipe.augment, recipe.view), recipe.train.seed)
    tiles, seconds = [], 0.0
    for index in choose(table.label.to_numpy(int), rows):
        row = samples.rows[index]
        plain = cut_views(read_frame(prepared.folder, row), read_face(row), recipe.view)[0]
        label = int(row.label)
        tiles.append([(plain, f"{row.video_id}-{row.frame_id} {_word(label)}", WHITE)])
        for epoch in range(columns - 1):
            begin = time.perf_counter()
            tensor, drawn = samples[epoch, index]
            seconds += time.perf_counter() - begin
            mixed = samples.partner((epoch, index)) is not None
            tiles[-1].append((picture(tensor, recipe), *describe(label, drawn, mixed)))
    return tiles, seconds


def choose(labels: np.ndarray, rows: int) -> list[int]:
    """Up to ``rows`` indices, live and attack as equal in number as there are any, spread evenly over the set."""
    live, attack = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    n_live = min(len(live), max(rows - rows // 2, rows - len(attack)))
    chosen = []
    for group, n in ((live, n_live), (attack, min(len(attack), rows - n_live))):
        chosen += [int(group[(2 * k + 1) * len(group) // (2 * n)]) for k in range(n)]
    return chosen


def describe(label: int, drawn: float, mixed: bool) -> tuple[str, tuple[int, int, int]]:
    """Text and colour of a draw: its label, and whether that is still the frame's own."""
    if mixed:
        return f"mixed: {drawn:.2f} live", ORANGE
    if drawn == label:
        return _word(label), GREY
    return f"was {_word(label)}: {_word(int(drawn))}", RED


def _word(label: int) -> str:
    return "live" if label else "attack"


def picture(tensor: Any, recipe: Recipe) -> np.ndarray:
    """The tensor (3 x H x W) that the model would see as uint8 RGB (H x W x 3)."""
    mean, std = np.array(recipe.view.mean), np.array(recipe.view.std)
    values = tensor.numpy().transpose(1, 2, 0) * std + mean
    return np.clip(255 * values + 0.5, 0, 255).astype(np.uint8)


def arrange(tiles: list[list[Tile]], title: str) -> Any:
    """One PIL image of all tiles at their true size, black between them."""
    from PIL import Image, ImageDraw, ImageFont

    height = max(tile[0].shape[0] for row in tiles for tile in row)
    width = max(80, max(tile[0].shape[1] for row in tiles for tile in row))
    step_x, step_y = width + 2 * GAP, height + STRIP + 2 * GAP
    small, large = ImageFont.load_default(11), ImageFont.load_default(14)
    total = max(len(tiles[0]) * step_x, int(large.getlength(title)) + 2 * GAP)
    sheet = Image.new("RGB", (total, TITLE + len(tiles) * step_y))
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 3), title, WHITE, large)
    for i, row in enumerate(tiles):
        for k, (pixels, text, colour) in enumerate(row):
            left, top = k * step_x + GAP, TITLE + i * step_y + GAP
            pen.text((left, top), fitting(text, width, small.getlength), colour, small)
            if colour in (RED, ORANGE):
                box = (left - GAP, top + STRIP - GAP, left + pixels.shape[1] + GAP - 1,
                       top + STRIP + pixels.shape[0] + GAP - 1)  # fmt: skip
                pen.rectangle(box, colour)
            sheet.paste(Image.fromarray(pixels), (left, top + STRIP))
    return sheet


def fitting(text: str, width: float, length: Callable[[str], float]) -> str:
    """The text, or as much of its end as is not wider, after "…": the label there matters more than the name."""
    shown = text
    while length(shown) > width and len(text) > 1:
        text = text[1:]
        shown = "…" + text
    return shown


if __name__ == "__main__":
    run(main)
