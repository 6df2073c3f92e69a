"""A set of videos becomes frames, faces and tables.

    python -m liveness.prepare [SET] [-o key=value ...] [--strict] [--renew]

Reads the set's videos and label file (sets/labels.py lists the layouts) and configs/data/<set>.yaml
or default.yaml. Writes under data/<set>/: labels.csv, frames/, faces/{bbox,crop,viz}/, videos/,
duplicates.csv, identities.csv (with folds.embeddings), labels_keyframes.csv, labels_bbox.csv,
labels_video.csv and last prepare.json. A second run does only what is missing. SHARD=i/n
(1 <= i <= n) works on one n-th of the videos and writes no tables; a run without SHARD then finds
everything done and writes them. --renew: by the newest preprocessing contract, also where the set
was prepared by an earlier one.
"""

import argparse

from liveness.base.compose import load_data
from liveness.base.errors import run
from liveness.sets.labels import set_name
from liveness.sets.preparation import prepare_set


def main() -> None:
    args = _arguments()
    prepare_set(load_data(set_name(args.set, say=True), args.override), args.strict, args.renew)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("set", nargs="?", default="train", metavar="SET", help="name of the set (default: train)")
    parser.add_argument("-o", dest="override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--strict", action="store_true", help="a video without a readable frame is an error")
    parser.add_argument("--renew", action="store_true", help="by the newest contract, not by the set's own")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
