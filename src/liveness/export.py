"""Turn an ensemble into one folder that scores without torch: ONNX files, contract, face detector, card.

    liveness export ENSEMBLE [--data SET] [--on SET] [--int8 [--tolerance 0.02]] [--out DIR]

Reads   weights/<set>/ and the prepared set of the comparison (data/<set>/, with its raw videos)
Writes  weights/<set>/exported/<ensemble>/ (or <ensemble>_int8/, or DIR), whole or not at all: only when the exported
        models agree with the members on clips that those held out (docs/export.md)
Needs   pip install "liveness[train,export]"
"""

import argparse
from pathlib import Path

from liveness.base.errors import run
from liveness.base.files import show_path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.export", description="Export an ensemble as ONNX files.")
    parser.add_argument("ensemble", help="a name in configs/ensemble")
    parser.add_argument("--data", default="", metavar="SET", help="weights/<SET> (default: the ensemble's)")
    parser.add_argument("--on", default="", metavar="SET",
                        help="a labelled set to compare on (default: the members' own, each on its fold)")  # fmt: skip
    parser.add_argument("--int8", action="store_true", help="quantise: smaller, faster on some processors, not exact")
    parser.add_argument("--tolerance", type=float, default=0.02, metavar="SHARE",
                        help="int8: flipped decisions at most, by the upper 95 %% limit (default: 0.02)")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder (default: weights/<SET>/exported/<ENSEMBLE>)"
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
    from liveness.exporting.ensemble import Export, export_ensemble
    from liveness.prediction.exported import read_description

    folder = export_ensemble(Export(args.ensemble, args.data, args.on, args.int8, args.tolerance, args.out))
    for runtime, found in read_description(folder)["gate"]["runtimes"].items():
        worst = max(found["points"], key=lambda point: point["flipped"])
        print(
            f"{runtime}: {found['scored']} clips, scores differ by up to {found['largest_difference']:.1e}, "
            f"{worst['flipped']} decisions flipped, {found['inversions']['turned']} pairs turned round"
        )
    print(show_path(folder))
    return 0


if __name__ == "__main__":
    run(main)
