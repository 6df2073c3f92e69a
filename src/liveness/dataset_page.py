"""A page about a prepared set: what is in it, and what in it needs a look.

    python -m liveness.dataset_page [SET]

Reads data/<set>/: labels_video.csv, labels_bbox.csv, frames/, prepare.json, and where they exist
folds.csv and duplicates.csv. Writes data/<set>/dataset.html: one file that asks for nothing else,
pictures and plots inside. Equal input gives equal bytes. Sets without labels have a page too.
"""

import argparse
import sys

from liveness.base.errors import run
from liveness.base.files import plain_name, workspace, write_text
from liveness.evaluation.cameras import tell_cues
from liveness.evaluation.format import counted
from liveness.pages.dataset import render_dataset_page
from liveness.pages.dataset_tables import read_set_tables
from liveness.sets.labels import set_name


def main() -> None:
    args = parse()
    folder = workspace() / "data" / plain_name(set_name(args.set), "name of the set")
    tables = read_set_tables(folder)
    path = folder / "dataset.html"
    write_text(path, render_dataset_page(tables))
    if text := tell_cues(tables.cues or []):
        print(f"warning: {text}", file=sys.stderr)
    print(f"{path}: {counted(len(tables.videos), 'video')}, {path.stat().st_size / 1e6:.1f} MB")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.dataset_page", description=__doc__.splitlines()[0])
    parser.add_argument("set", nargs="?", default="train", metavar="SET", help="name of the set (default: train)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
