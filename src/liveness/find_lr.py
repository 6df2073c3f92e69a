"""Which learning rate? A range test through the real training loop.

    python -m liveness.find_lr -c efficientnet_lite0 --fold 0 --data mine

Reads what training reads; writes runs/<set>/<recipe>_fold<k>/lr_curve.{csv,png} and prints a
suggestion, or says that the curve shows none (exit code 1). ``-o train.lr=auto`` does the same at the
start of a training run.
"""

import argparse

from liveness.base.compose import load_recipe
from liveness.base.errors import run
from liveness.base.files import plain_name
from liveness.members.names import run_folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m liveness.find_lr", description="Learning-rate range test.")
    parser.add_argument("-c", "--config", required=True, metavar="RECIPE", help="a name in configs/recipe")
    parser.add_argument("--fold", type=int, default=0, metavar="K", help="the fold that is held out (default 0)")
    parser.add_argument("--data", metavar="SET", help="the prepared set in data/ (default: the recipe's)")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.config, arguments.override)
    name = plain_name(arguments.data or recipe.data, "DATA")

    from liveness.training.member import find_lr

    folder = run_folder(name, recipe.name, arguments.fold)
    rate = find_lr(recipe, arguments.fold, name, folder)
    print(f"{rate:.2e}   (curve: {folder / 'lr_curve.png'}; use it with -o train.lr={rate:.2e})")
    return 0


if __name__ == "__main__":
    run(main)
