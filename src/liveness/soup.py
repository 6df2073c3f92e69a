"""A soup: one member whose weights are the mean of several members' weights, at the cost of one.

    python -m liveness.soup RECIPE_A RECIPE_B --fold 0 --name garden [--greedy] [--data SET]

The ingredients share architecture, preprocessing, data and the held-out fold K, and started from the same
pretrained weights. Reads weights/<set>/<recipe>_fold<k>.safetensors and data/<set>/; scores the held-out
fold and writes runs/<set>/<name>_fold<k>/{oof.csv,config.json}, then weights/<set>/<name>_fold<k>.safetensors.
Equal ingredients give equal bytes. An ensemble lists it as {recipe: garden, fold: 0, soup: true}.

--greedy takes in, best first, only what lowers the log loss on the held-out fold; its out-of-fold scores are
then cross-fitted within the fold. See docs/ensembles.md, also for why there is no soup across folds.
"""

import argparse

from liveness.base.compose import load_recipe, names
from liveness.base.errors import UserError, run
from liveness.base.files import plain_name
from liveness.laboratory.soup import make_soup


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    name = plain_name(args.name, "--name")
    if name in names("recipe"):
        raise UserError(f"--name {name}: a recipe in configs/recipe has this name; expected another")
    recipes = sorted(dict.fromkeys(plain_name(recipe, "RECIPE") for recipe in args.recipes))
    data = plain_name(args.data or _find_common_set(recipes), "--data")
    used, figures = make_soup(recipes, data, args.fold, name, args.greedy)
    print(f"{name} fold {args.fold} of {data}: the mean of {', '.join(used)}")
    for title, text in figures.items():
        print(f"  {title}: {text}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.soup", description=__doc__.split("\n")[0])
    parser.add_argument("recipes", metavar="RECIPE", nargs="+", help="trained members' recipes")
    parser.add_argument("--fold", type=int, required=True, metavar="K", help="the fold that all of them held out")
    parser.add_argument("--name", required=True, help="the soup's own name, in the place of a recipe's")
    parser.add_argument("--data", metavar="SET", help="the data set (default: that of the recipes)")
    parser.add_argument("--greedy", action="store_true", help="only what helps on the held-out fold")
    return parser.parse_args(argv)


def _find_common_set(recipes: list[str]) -> str:
    """The set that all recipes name in configs/recipe."""
    sets = sorted({load_recipe(recipe).data for recipe in recipes})
    if len(sets) > 1:
        raise UserError(f"the recipes are of the sets {', '.join(sets)}; say which with --data SET")
    return sets[0]


if __name__ == "__main__":
    run(main)
