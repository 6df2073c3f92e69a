"""A set of videos becomes frames, faces and tables.

    python -m liveness.prepare [SET] [-o key=value ...] [--strict] [--renew]

Reads the set's videos and label file (sets/labels.py lists the layouts) and configs/data/<set>.yaml
or default.yaml. Writes under data/<set>/: labels.csv, frames/, faces/{bbox,crop,viz}/, videos/,
duplicates.csv, identities.csv (with folds.embeddings), embeddings.csv too (with folds.identities=auto),
labels_keyframes.csv, labels_bbox.csv, labels_video.csv and last prepare.json. A second run does only
what is missing. SHARD=i/n (1 <= i <= n) works on one n-th of the videos and writes no tables; a run without SHARD
then finds everything done and writes them. --renew: by the newest preprocessing contract, also where the set
was prepared by an earlier one.
"""

import argparse

from liveness.base.compose import load_data
from liveness.base.errors import run
from liveness.sets.arguments import set_parser
from liveness.sets.labels import set_name
from liveness.sets.preparation import prepare_set


def main() -> None:
    args = parse()
    prepare_set(load_data(set_name(args.set, say=True), args.override), args.strict, args.renew)


def parse() -> argparse.Namespace:
    parser = set_parser("prepare", __doc__)
    parser.add_argument("--strict", action="store_true", help="a video without a readable frame is an error")
    parser.add_argument("--renew", action="store_true", help="by the newest contract, not by the set's own")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
