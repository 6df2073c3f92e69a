"""Adapt an ensemble to one camera by 10 to a few hundred labelled clips: members, a decision, a page about them.

    python -m liveness.adapt mine
    python -m liveness.adapt mine --anchor others
    DATA=mine ENSEMBLE=adapted bash predict.sh VIDEOS

SET is prepared and labelled. Of six candidates, from nothing to fine-tuning, one is chosen by nested cross-validation;
where none is better beyond doubt the ensemble stays as it is. Writes weights/SET/, runs/SET/adapted/ and
result/adapted_SET.html; the same command continues a run that was stopped. docs/adapt.md is the guide.
"""

import argparse

from liveness.adaptation.adapting import Asked, adapt_set
from liveness.adaptation.text import render_adapted
from liveness.base.errors import run
from liveness.pages.adaptation import write_adapted_page


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    asked = Asked(
        args.set, args.camera, args.ensemble, args.data, args.anchor, args.override, args.trust_labels, args.workers
    )
    summary, figures = adapt_set(asked)
    print(render_adapted(summary, figures, write_adapted_page(summary, figures)))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.adapt", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("set", metavar="SET", help="a prepared set with labels, of one camera")
    add("--camera", metavar="NAME", default="", help="of a set whose column camera names several")
    add("--ensemble", metavar="NAME", default="minifasnet", help="what is adapted (default: minifasnet)")
    add("--data", metavar="SET", default="", help="weights/SET of that ensemble (default: its own)")
    add("--anchor", metavar="SET", default="", help="a labelled set of other cameras: is anything forgotten there?")
    add("--trust-labels", action="store_true", help="learn from labels that contradict all scores")
    add("--workers", metavar="N", type=int, default=0, help="decoding processes (default: one per core)")
    add("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="of configs/adapt")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
