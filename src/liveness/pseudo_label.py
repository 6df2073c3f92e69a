"""Label the videos of a set without labels by trained members, for each fold by those that held it out.

    python -m liveness.pseudo_label efficientnet_lite0 --unlabelled public_test --data train
    bash scripts/train_member.sh efficientnet_lite0 0 -o train.pseudo_labels=efficientnet_lite0_public_test

The labellers are members <recipe>_labeller_fold<k>: as the recipe's, but that they keep a part of their training videos
apart, on which they are calibrated. Those that are missing are trained first; a stopped training continues with the
same command. Writes them and runs/<set>/pseudo_labels/<name>.{csv,json}. See docs/semi_supervised.md.
"""

import argparse

from liveness.base.compose import load_recipe, names
from liveness.base.errors import run
from liveness.base.files import plain_name
from liveness.laboratory.contenders import STOPPED, StoppedTraining, choose_folds
from liveness.laboratory.pseudo_labelling import label_set, plan_labelling, render_labelling, train_labellers


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    usual = load_recipe(args.who).data if args.who in names("recipe") else "train"
    data = plain_name(args.data or usual, "--data")
    folds = choose_folds(data, args.folds)
    labelling = plan_labelling(args.who, args.override, data, args.unlabelled, folds, args.confidence, args.name)
    try:
        train_labellers(labelling)
    except StoppedTraining:
        print("stopped; the same command continues")
        return STOPPED
    print(render_labelling(*label_set(labelling)))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.pseudo_label", description=__doc__.split("\n")[0])
    parser.add_argument("who", metavar="RECIPE", help="in configs/recipe; or an ENSEMBLE, whose members label together")
    parser.add_argument(
        "--unlabelled", required=True, metavar="SET", help="the prepared set; of its labels none is read"
    )
    parser.add_argument("--data", metavar="SET", help="the labelled set (default: the recipe's)")
    parser.add_argument("--folds", type=int, nargs="+", default=[], metavar="K", help="only for these (default: all)")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE",
                        help="of the labellers' recipes")  # fmt: skip
    parser.add_argument("--confidence", type=float, default=0.9, metavar="P",
                        help="the calibrated probability of its class that a video needs (default: 0.9)")  # fmt: skip
    parser.add_argument("--name", default="", help="of the file (default: RECIPE_SET)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
