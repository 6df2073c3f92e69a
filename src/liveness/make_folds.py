"""The folds of a prepared set: grouped, stratified, seeded, free of leaks, dealt once.

    python -m liveness.make_folds [SET] [-o folds.n=5 folds.seed=42 ...] [--force]

Reads data/<set>/labels_video.csv, labels_keyframes.csv, labels_bbox.csv. Writes
data/<set>/{labels_video,labels_keyframes,labels_bbox}_{train,test}.csv (folds.test: fold 0), folds.csv
(filename, label, group, fold, naive_fold) and last folds.json (what they were dealt from). With
folds.holdout=0.2 a fifth of the groups is set aside first, as fold -1: no member is trained on it,
every member scores it, thresholds are chosen on it; it is in neither _train nor _test. Videos that
are left out of the set are in no fold; videos that cannot be read are. Existing folds are kept
while they fit; folds.csv of your own is checked and kept. A set without labels has no folds.
"""

import argparse
import contextlib

from liveness.base.compose import load_data
from liveness.base.errors import run
from liveness.base.files import workspace
from liveness.sets.arguments import set_parser
from liveness.sets.folds import fold_set
from liveness.sets.labels import set_name
from liveness.sets.preparation import alone_in


def main() -> None:
    args = parse()
    name = set_name(args.set)
    folder = workspace() / "data" / name
    with alone_in(folder) if folder.is_dir() else contextlib.nullcontext():
        fold_set(folder, load_data(name, args.override).folds, args.force)


def parse() -> argparse.Namespace:
    parser = set_parser("make_folds", __doc__)
    parser.add_argument("--force", action="store_true", help="deal anew even if there are folds that fit")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
