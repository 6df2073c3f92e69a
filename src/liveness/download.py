"""Fetch weights and data sets: resumed, checked, whole or not at all.

    python -m liveness.download weights [pretrained] [zalo2022_published] [minifasnet]
    python -m liveness.download data [train] [public_test] [public_test_2] [private_test]

Weights go to weights/*.pth, weights/zalo2022_published/original/*.pth and weights/minifasnet/*.pth, sets to
raw/<set>/.
A file grows as <name>.partial, which a later run continues; it gets its name only after its
content was checked. Digests are written to weights/digests.json and raw/digests.json the first
time, and compared ever after. Files that are already there (also those put there by hand) are
checked and left alone.

LIVENESS_WEIGHTS_URL and LIVENESS_DATA_URL name mirrors (http, https or file) laid out like
weights/ and raw/; LIVENESS_DRIVE_URL replaces the address of Google Drive's downloads.
"""

import argparse

from liveness.base.errors import run
from liveness.downloads.catalogue import CATALOGUE, list_weight_items
from liveness.downloads.fetch import fetch_items, fetch_sets


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    names = list(dict.fromkeys(args.names)) or list(CATALOGUE[args.kind])
    if args.kind == "weights":
        fetch_items([item for name in names for item in list_weight_items(name)])
    else:
        fetch_sets(names)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.download", description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, names in CATALOGUE.items():
        words = f"of {', '.join(names)}; default all"
        kinds.add_parser(kind).add_argument("names", nargs="*", metavar="NAME", help=words)
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in CATALOGUE[args.kind]:
            parser.error(f"no {args.kind} {name!r}: expected {', '.join(CATALOGUE[args.kind])}")
    return args


if __name__ == "__main__":
    run(main)
