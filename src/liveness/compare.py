"""Compare recipes, or variants of one, in one table: what each costs, its out-of-fold error, the paired difference.

    python -m liveness.compare demo_face demo_frame --data demo
    python -m liveness.compare backbones --data mine                        the rows of configs/compare/backbones.yaml
    python -m liveness.compare demo_face -o train.loss=focal -o view.size=96 augment=none        an ablation: 3 rows

What is missing is trained first, as train.sh trains it, once all of it is known to be trainable; a stopped comparison
continues with the same command. Every -o adds a row to each that is listed, --all changes all of them. Prints the
table and writes result/compare_<set>_<name>.{html,json,md}. See docs/comparison.md.
"""

import argparse

from liveness.base.compose import load_recipe
from liveness.base.errors import run
from liveness.base.files import plain_name, show_path, workspace, write_json, write_text
from liveness.laboratory.comparison import add_costs, judge_contenders
from liveness.laboratory.comparison_text import list_remarks, render_comparison, render_markdown
from liveness.laboratory.contenders import STOPPED, StoppedTraining, choose_contenders, choose_folds, train_missing
from liveness.pages.comparison import render_comparison_page


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    contenders = choose_contenders(args.names, args.override, args.all)
    data = plain_name(args.data or load_recipe(contenders[0].recipe).data, "--data")
    path = workspace() / "result" / f"compare_{data}_{plain_name(args.name or args.names[0], '--name')}.json"
    folds = choose_folds(data, args.folds)
    try:
        train_missing(contenders, data, folds)
    except StoppedTraining:
        print("stopped; the same command continues")
        return STOPPED
    found = judge_contenders(contenders, data, folds)
    add_costs(found, contenders, data, not args.untimed)
    write_json(path, found, indent=1)
    write_text(path.with_suffix(".md"), render_markdown(found))
    write_text(path.with_suffix(".html"), render_comparison_page(found, path.stem, list_remarks(found)))
    print(render_comparison(found))
    print(f"  page: {show_path(path.with_suffix('.html'))}; for documents: {show_path(path.with_suffix('.md'))}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.compare", description=__doc__.split("\n")[0])
    parser.add_argument("names", metavar="RECIPE", nargs="+", help="in configs/recipe, or rows in configs/compare")
    parser.add_argument("--data", metavar="SET", help="the prepared set (default: the first recipe's)")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="append", metavar="KEY=VALUE",
                        help="one more row for each that is listed, with these changes")  # fmt: skip
    parser.add_argument("--all", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="change all rows")
    parser.add_argument("--folds", type=int, nargs="+", default=[], metavar="K", help="only these (default: all)")
    parser.add_argument("--name", help="of the files in result/ (default: the first RECIPE)")
    parser.add_argument("--untimed", action="store_true", help="do not measure milliseconds")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
