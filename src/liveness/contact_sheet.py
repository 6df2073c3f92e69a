"""Show what a recipe's augmentation policy does to real frames: one PNG to look at.

    python -m liveness.contact_sheet -c efficientnet_lite0 --data train -o augment=shift

A row is one frame of the prepared set: the view as prediction sees it, then what training would see
in its epochs 0, 1, 2, ... A red frame marks a live view that became a simulated attack, an orange one a
mixed sample with its soft label. Reads data/<set>/ (prepare_data.sh); writes --out, or
runs/<set>/<recipe>_<policy>.png. The pictures show the people in the set: treat them like the set.
"""

import argparse
from pathlib import Path

from liveness.base.compose import load_recipe
from liveness.base.errors import run
from liveness.base.files import workspace


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    recipe = load_recipe(args.config, args.override)
    name = args.data or recipe.data
    out = args.out or workspace() / "runs" / name / f"{recipe.name}_{recipe.augment.name}.png"

    from liveness.training.contact_sheet import write_sheet

    frames, draws, seconds = write_sheet(recipe, name, args.rows, args.columns, out)
    print(f"{out}: {frames} frames, {draws} draws of {recipe.augment.name}, {1e3 * seconds:.1f} ms each")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m liveness.contact_sheet", description="Look at an augmentation policy."
    )
    parser.add_argument("-c", "--config", required=True, metavar="RECIPE", help="a name in configs/recipe")
    parser.add_argument("--data", metavar="SET", help="the prepared set in data/ (default: the recipe's)")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="default: runs/SET/RECIPE_POLICY.png")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="frames (default 8)")
    parser.add_argument("--columns", type=int, default=8, metavar="N", help="the untouched view and N-1 draws")
    args = parser.parse_args(argv)
    if args.rows < 1 or args.columns < 2:
        parser.error(f"--rows {args.rows} --columns {args.columns}: expected at least 1 row and 2 columns")
    return args


if __name__ == "__main__":
    run(main)
