#!/usr/bin/env python3
"""Write a sample submission for a folder of videos: every name as found, every score 0.5.

    python create_sample_sub.py [FOLDER] [OUTPUT] [--images]

FOLDER is read as predict.sh reads it (videos in it, in videos/ or in <set>/videos/, where there is none
still images; with --images both; default: /data if it holds videos, else the workspace's data/). Writes
OUTPUT (default: sample_submission.csv) with the header fname,liveness_score, rows in natural order. Needs
no package, only Python 3.11.
"""

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from liveness.base.errors import UserError, run
from liveness.base.files import written_aside
from liveness.prediction.inputs import default_input, videos_below


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of videos (default: /data or data/)")
    parser.add_argument("output", type=Path, nargs="?", default=Path("sample_submission.csv"), help="the csv to write")
    parser.add_argument("--images", action="store_true", help="list still images beside videos, too")
    arguments = parser.parse_args()
    folder = arguments.folder or default_input()
    videos = videos_below(folder, arguments.images)
    try:
        with (
            written_aside(arguments.output) as side,
            open(side, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("fname", "liveness_score"))
            writer.writerows((video.name, 0.5) for video in videos)
    except OSError as error:
        raise UserError(f"{arguments.output}: cannot be written ({error.strerror}); expected a file name") from error
    print(f"{arguments.output}: {len(videos)} videos of {folder}")
    return 0


if __name__ == "__main__":
    run(main)
