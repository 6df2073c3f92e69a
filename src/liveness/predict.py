"""Score every video of a folder with an ensemble.

    python -m liveness.predict [INPUT] [OUTPUT] --ensemble demo

Reads   the videos in INPUT (flat, INPUT/videos or INPUT/<set>/videos), or its still images where it has no
        video; weights/<set>/; the order of a sample_submission.csv, if there is one.
Writes  OUTPUT/submission.csv (fname,liveness_score) and OUTPUT/predictions.csv (status, reason, ...), both
        when every video has its row; until then the finished rows are in OUTPUT/predictions.partial.csv,
        and the same command continues from them.

Started by torchrun (predict.sh does that for several GPUs) the processes share the videos.

Exit code 0: a row for every video. With --strict any video without a score of its own is an error
(after both files are written). 130 and 143 after ctrl-C and SIGTERM.

With --exported DIR (a folder of ``liveness export``) or --backend onnx exported models score, which needs no torch.
In Python: ``table = liveness.predict.score_videos(paths, "demo")``; ``liveness.Detector(DIR)`` of an exported one.
"""

import argparse
import shlex
from pathlib import Path

from liveness.base.errors import UserError, run
from liveness.base.files import plain_name
from liveness.prediction.folder import BACKENDS, Options, choose_ensemble, predict_folder, score_videos
from liveness.prediction.inputs import default_input, default_output
from liveness.prediction.ready import WeightsMissing

__all__ = ["main", "score_videos"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.predict", description="Score videos.")
    parser.add_argument(
        "input", type=Path, nargs="?", help="a folder of videos or images, or one (default: /data or data/)"
    )
    parser.add_argument("output", type=Path, nargs="?", help="where the csv files go (default: /result or result/)")
    parser.add_argument("--ensemble", default="", metavar="NAME",
                        help="a name in configs/ensemble (default: zalo2022; minifasnet if alone there)")  # fmt: skip
    parser.add_argument("--members", nargs="+", default=[], metavar="RECIPE:FOLD", help="only these members")
    parser.add_argument("--data", default="", metavar="SET", help="weights/<SET> (default: the ensemble's)")
    parser.add_argument("--point", default="eer", metavar="NAME",
                        help="the operating point that decides: eer, apcer5, ...")  # fmt: skip
    parser.add_argument("--sample", type=Path, metavar="FILE", help="a sample submission: its order (default: found)")
    parser.add_argument("--images", action="store_true", help="score still images beside videos, too")
    parser.add_argument("--strict", action="store_true",
                        help="a video without a score, or lost thresholds, is an error")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, help="decoding processes (default: one per core)")
    parser.add_argument("--exported", type=Path, metavar="DIR",
                        help="score with this folder of liveness export, without torch")  # fmt: skip
    parser.add_argument("--backend", choices=("torch", *BACKENDS),
                        help="what computes (default: torch; with --exported: onnx); onnx and openvino take the "
                        "exported ensemble, by default the one beside the weights")  # fmt: skip
    parser.add_argument("--memory", choices=("auto", "resident", "turns"), default="auto",
                        help="all members at once, or one after the other (default: by what is free)")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    args = parse()
    if args.data:
        plain_name(args.data, "DATA")
    if args.workers < 0:
        raise UserError(f"--workers {args.workers}: expected 0 (one per core) or more")
    if args.exported and (args.ensemble or args.members or args.data or args.backend == "torch"):
        raise UserError("--exported DIR is the ensemble; leave out --ensemble, --members, --data, --backend torch")
    backend = args.backend or ("onnx" if args.exported else "torch")
    ensemble = None if args.exported else choose_ensemble(args.ensemble, args.members, args.data)
    source = args.input or default_input()
    options = Options(args.data, args.point, args.sample, args.strict, args.workers, args.memory, args.images,
                      args.exported, backend)  # fmt: skip
    try:
        return predict_folder(source, args.output or default_output(source), ensemble, options)
    except WeightsMissing as error:
        raise error.for_videos(shlex.join(str(path) for path in (args.input, args.output) if path)) from error


if __name__ == "__main__":
    run(main)
