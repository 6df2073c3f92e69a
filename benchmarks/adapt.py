"""What adaptation to one camera chooses and is worth: every camera of some prepared sets, with few clips and with all.

    python benchmarks/adapt.py nuaa cameras --clips 20 0 --out benchmarks/results/adapt.json

0 means all clips. A set whose column camera names several counts as so many cameras. Prints a row for each camera and
number of clips; a row that --out has already is not computed again. Figures of ``adapt`` are of the whole procedure,
on clips that had no say (docs/adapt.md). Labels that contradict near-duplicates are trusted.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from liveness.adaptation.candidates import DAY_ONE
from liveness.adaptation.choice import choose
from liveness.adaptation.clips import Clips, draw_clips, read_clips, see_clips
from liveness.adaptation.judging import find_doubtful, judge_clips
from liveness.adaptation.start import StartEnsemble, load_start
from liveness.base.compose import load_adapt_plan
from liveness.base.errors import run
from liveness.base.experiments import AdaptPlan
from liveness.base.files import workspace, write_json
from liveness.sets.fold_table import read_folds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--clips", type=int, nargs="+", default=[20, 0], metavar="N", help="0 = all")
    parser.add_argument("--seed", type=int, default=1, help="of which clips are drawn")
    parser.add_argument("--ensemble", default="minifasnet")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("-o", "--override", nargs="+", default=[], action="extend", metavar="KEY=VALUE")
    args = parser.parse_args()
    plan, start = load_adapt_plan("default", args.override), load_start(args.ensemble)
    rows = json.loads(args.out.read_text())["rows"] if args.out.is_file() else []
    for count in args.clips:
        for name in args.sets:
            for camera in _list_cameras(name):
                key = {"domain": camera or name, "asked": count, "seed": args.seed}
                if any(key.items() <= row.items() for row in rows):
                    continue
                clips = read_clips(name, start, camera, trust=True)
                if count:
                    clips = clips.take(draw_clips(clips, count, args.seed))
                rows.append(key | _measure(start, clips, plan))
                write_json(args.out, {"overrides": args.override, "rows": rows})
                print(_tell(rows[-1]), flush=True)
    return 0


def _list_cameras(name: str) -> list[str]:
    return sorted(set(read_folds(workspace() / "data" / name)["camera"]))


def _measure(start: StartEnsemble, clips: Clips, plan: AdaptPlan) -> dict:
    began, used = time.perf_counter(), time.process_time()
    seen = see_clips(start, clips)
    found = choose(start, seen, plan)
    seconds = {"wall": time.perf_counter() - began, "cpu": time.process_time() - used}
    everyone = np.ones(len(clips), bool)
    scores = {one: part[:, 0] for one, part in found.scores.items()} | {"adapt": found.nested[:, 0]}
    if found.kind == DAY_ONE:
        scores["adapt"] = scores[DAY_ONE]
    kept = ("eer", "eer_interval", "hter", "hter_interval", "log_loss")
    return {
        "clips": len(clips),
        "live": int(clips.labels.sum()),
        "groups": len(set(clips.groups)),
        "chosen": found.kind,
        "picked": found.picked,
        "apart": found.apart,
        "doubtful": len(find_doubtful(found, clips.names, clips.labels)),
        "verdicts": {one.kind: one.verdict for one in found.compared},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "figures": {
            one: {key: judged[key] for key in kept}
            for one, values in scores.items()
            if (judged := judge_clips(values, everyone, clips, start.operating))
        },
    }


def _tell(row: dict) -> str:
    figures = row["figures"]
    told = "; ".join(f"{one} {100 * part['hter']:.1f}/{100 * part['eer']:.1f}" for one, part in figures.items())
    return (
        f"{row['domain']:8} {row['clips']:4} clips: {row['chosen']:12} HTER/EER {told}; {row['seconds']['cpu']:.0f} s"
    )


if __name__ == "__main__":
    run(main)
