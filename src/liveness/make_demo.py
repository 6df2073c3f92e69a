"""Make the demo set: short selfie clips of invented persons, live, printed and replayed.

    python -m liveness.make_demo [--out raw/demo] [--seed 0] [--clips 60] [--unlabelled 12] [--workers 0]

Reads nothing but scikit-image's portrait. Writes raw/demo/{videos/*.mp4, label.csv, demo.json} and
raw/demo_test/{videos/*.mp4, truth.csv, demo.json}: label.csv is fname,liveness_score,subject,species and is
written last, so its presence means that the set is whole. truth.csv has the same columns; no driver
reads it. The same arguments give the same bytes; a finished set is kept, one made with other
arguments is made anew.
"""

import argparse
from pathlib import Path

from liveness.base.errors import run
from liveness.base.files import workspace
from liveness.demo.clips import make_demo_set


def main() -> int:
    options = parse()
    out = options.out if options.out.is_absolute() else workspace() / options.out
    print(make_demo_set(out, options.seed, options.clips, options.unlabelled, options.workers))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.make_demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("raw/demo"), help="folder of the set (default: raw/demo)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=60, help="labelled clips")
    parser.add_argument("--unlabelled", type=int, default=12, help="clips of the set OUT_test")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 = one per core")
    options = parser.parse_args()
    for name, least in (("seed", 0), ("clips", 1), ("unlabelled", 0), ("workers", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)}: expected at least {least}")
    return options


if __name__ == "__main__":
    run(main)
