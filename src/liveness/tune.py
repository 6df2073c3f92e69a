"""Search a recipe's hyperparameters with Optuna, nested: no video that the result is reported on chose anything.

    python -m liveness.tune efficientnet_lite0 --trials 20 --data mine

What is minimised is the space's objective: the inner fold's log loss, or its worst HTER under the shift laboratory's
stresses. The same command continues a search, or joins it, here or on a machine that shares the workspace. Writes
runs/<set>/tune_<recipe>/, members and result/tune_<set>_<recipe>.html. Needs liveness[tune]; see docs/tuning.md.
"""

import argparse
from contextlib import ExitStack

from liveness.base.compose import load_recipe, load_space
from liveness.base.errors import UserError, run
from liveness.base.files import held, plain_name, show_path, workspace, write_text
from liveness.laboratory import studies, tuning
from liveness.laboratory.comparison_text import list_remarks, render_comparison
from liveness.laboratory.contenders import STOPPED, StoppedTraining, choose_folds, train_missing
from liveness.pages.comparison import render_comparison_page


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    studies.require_optuna()
    data = plain_name(args.data or load_recipe(args.recipe).data, "--data")
    folds, space = choose_folds(data, args.folds), load_space(args.space)
    search = tuning.plan_search(args.recipe, args.override, data, space, args.trials, folds, args.name)
    tuning.check_search(search)
    found = tuning.run_search(search, args.give_up)
    if unfinished := tuning.list_unfinished(search, found):
        print("; ".join(unfinished) + "; the same command ends the search once they are done (--give-up: without them)")
        return 0
    with ExitStack() as lock:
        try:
            lock.enter_context(held(search.folder / "final.lock", ""))
        except UserError:
            print("all trials are done; another process trains the final members")
            return 0
        return report(search, found)


def report(search: tuning.Search, found: dict) -> int:
    """Train what the search has chosen and the default, and say what the choice was worth."""
    rows = [search.default, tuning.choose_tuned(search, found)]
    about = tuning.describe_search(search, found)
    print(tuning.render_search_results(about), flush=True)
    try:
        train_missing(rows, search.data, search.folds)
    except StoppedTraining:
        print("stopped; the same command continues")
        return STOPPED
    estimate = tuning.estimate_search(search, rows)
    page = workspace() / "result" / f"tune_{search.data}_{search.default.name}.html"
    write_text(page, render_comparison_page(estimate, page.stem, list_remarks(estimate)))
    print(render_comparison(estimate))
    print(
        f"  all: {show_path(tuning.write_found(search, about, estimate))}, {show_path(page)}; every trial: trials.csv"
    )
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.tune", description=__doc__.split("\n")[0])
    parser.add_argument("recipe", metavar="RECIPE", help="a name in configs/recipe")
    parser.add_argument("--trials", type=int, required=True, metavar="N", help="in each outer fold's study, in all")
    parser.add_argument("--space", default="optimisation", metavar="NAME", help="configs/tune/NAME.yaml")
    parser.add_argument("--data", metavar="SET", help="the prepared set (default: the recipe's)")
    parser.add_argument("--folds", type=int, nargs="+", default=[], metavar="K", help="only these outer folds")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE")
    parser.add_argument("--name", default="", help="of the search's folder in runs/<set>/ (default: tune_<recipe>)")
    parser.add_argument("--give-up", action="store_true", help="fail trials of other machines that never ended")
    args = parser.parse_args(argv)
    if args.trials < 1:
        parser.error(f"--trials {args.trials}: expected a number from 1")
    return args


if __name__ == "__main__":
    run(main)
