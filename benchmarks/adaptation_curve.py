"""What labelled clips of a new camera are worth: the error after 0, 5, 10, 20 and 50 of them, by what adapt may do.

    python benchmarks/adaptation_curve.py SET... [--sizes 5 10 20 50] [--draws 10] [--cameras NAME ...] [--shares]
                                          [--scores FILE.csv] [--kept FILE.csv] [--out FILE.json] [--svg FILE.svg]

SET: prepared sets (bash prepare_data.sh SET), as for benchmarks/day_one.py. For every camera the day-one calibration
and threshold are learnt on all others (--scores: those of benchmarks/day_one.py, made where the file is not there).
Then clips of the camera are drawn at random, half of them live where there are so many, the candidates of liveness
adapt are fitted on them, one is chosen as adapt chooses, and all are judged on the clips that were not drawn, where
these are at least 30, and 10 of each class. Every clip is decided at the threshold, without abstentions. --kept has a
row per camera, size, draw and candidate, and a stopped run goes on from it. --shares also tries other weights of
WiSE-FT. Prints a table; --out writes all figures, --svg the picture.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SOURCE))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from liveness.adaptation.candidates import (  # noqa: E402
    CANDIDATES,
    DAY_ONE,
    FINE_TUNING,
    OF_SCORES,
    Fitted,
    blend_shifted,
    fit_candidate,
    fit_shift,
    score_candidate,
)
from liveness.adaptation.choice import calibrate_apart, compare_candidates, deal_clips, pick  # noqa: E402
from liveness.adaptation.clips import Clips, SeenClips, draw_clips, read_clips, see_clips  # noqa: E402
from liveness.adaptation.start import StartEnsemble, load_start  # noqa: E402
from liveness.adaptation.text import TITLES  # noqa: E402
from liveness.base.compose import load_adapt_plan  # noqa: E402
from liveness.base.errors import UserError, run  # noqa: E402
from liveness.base.experiments import AdaptPlan  # noqa: E402
from liveness.base.files import write_json, write_text  # noqa: E402
from liveness.base.tables import table_text  # noqa: E402
from liveness.evaluation.metrics import eer  # noqa: E402
from liveness.laboratory.day_one import LearningPlan, learn_decision, score_domains  # noqa: E402
from liveness.pages.charts import WIDTH, Plot, list_round_values  # noqa: E402

LEAST_HELD_OUT = 30
LEAST_OF_CLASS = 10  # of these
CHOSEN = "adapt"  # the candidate that was chosen
SHARES = (0.0, 0.25, 0.5, 0.75)  # of the first weights
SEED = 20221


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", metavar="SET", nargs="+")
    parser.add_argument("--ensemble", default="minifasnet")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--cameras", nargs="*", help="only these; default: all")
    parser.add_argument("--shares", action="store_true")
    for name in ("--scores", "--kept", "--out", "--svg"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    table = _day_one_scores(args)
    rows = pd.read_csv(args.kept) if args.kept and args.kept.is_file() else pd.DataFrame()
    start, plan = load_start(args.ensemble), load_adapt_plan()
    cameras = dict(table.drop_duplicates("domain")[["domain", "set"]].itertuples(index=False))
    ready: dict[str, tuple[StartEnsemble, Clips, SeenClips]] = {}
    for draw in range(args.draws):
        for camera in args.cameras or list(cameras):
            done = _finished(rows, camera)
            for size in [size for size in args.sizes if (size, draw) not in done]:
                if camera not in ready:
                    ready[camera] = _get_ready(start_elsewhere(start, table, camera), cameras[camera], camera)
                fresh, clips, seen = ready[camera]
                if leaves_enough(clips, size):
                    found = judge_draw(fresh, plan, clips, seen, size, draw, args.shares)
                    rows = pd.concat([rows, pd.DataFrame(found).assign(camera=camera, size=size, draw=draw)])
                    if args.kept:
                        write_text(args.kept, table_text(rows))
    _finish(rows, args)
    return 0


def _day_one_scores(args: argparse.Namespace) -> pd.DataFrame:
    """The table of ``score_domains``, with the set that each camera is of."""
    if args.scores and args.scores.is_file():
        table = pd.read_csv(args.scores, dtype={"species": str, "filename": str})
    else:
        table = score_domains(args.sets, args.ensemble)
        if args.scores:
            write_text(args.scores, table_text(table))
    named = [name for name in args.sets if name not in set(table["domain"])]
    return table.assign(set=table["domain"].where(table["domain"].isin(args.sets), named[0] if named else ""))


def _get_ready(start: StartEnsemble, name: str, camera: str) -> tuple[StartEnsemble, Clips, SeenClips]:
    clips = read_clips(name, start, "" if camera == name else camera, trust=True)
    return start, clips, see_clips(start, clips)


def start_elsewhere(start: StartEnsemble, table: pd.DataFrame, camera: str) -> StartEnsemble:
    """The start with calibration and threshold that were learnt without the camera."""
    learnt = learn_decision(table[table["domain"] != camera], LearningPlan(start.weights))
    networks = [
        replace(one, slope=learnt.calibrations[one.name].slope, offset=learnt.calibrations[one.name].offset)
        for one in start.networks
    ]
    return replace(start, networks=networks, operating=learnt)


def _finished(rows: pd.DataFrame, camera: str) -> set[tuple[int, int]]:
    if rows.empty:
        return set()
    mine = rows[rows["camera"] == camera]
    return set(zip(mine["size"], mine["draw"], strict=True))


# --- a draw ------------------------------------------------------------------------------------------


def leaves_enough(clips: Clips, size: int) -> bool:
    """Whether a draw leaves clips to judge it by: so many in all, and so many of each class."""
    left = np.bincount(np.delete(clips.labels, draw_clips(clips, min(size, len(clips)))).astype(int), minlength=2)
    return bool(left.sum() >= LEAST_HELD_OUT and left.min() >= LEAST_OF_CLASS)


def judge_draw(
    start: StartEnsemble, plan: AdaptPlan, clips: Clips, seen: SeenClips, size: int, draw: int, shares: bool
) -> list[dict]:
    """Errors of every candidate on the clips that were not drawn: a row each, and one more for the chosen one."""
    taken = draw_clips(clips, size, SEED + draw)
    held = np.setdiff1d(np.arange(len(clips)), taken)
    here, labels, everyone = see_clips(start, clips.take(taken)), seen.labels[held], np.arange(size)
    folds, apart = deal_clips(here.labels, here.groups, plan)
    fitted, single = {}, {}
    for kind in [kind for kind in CANDIDATES if apart or kind in OF_SCORES]:
        fitted[kind] = fit_candidate(kind, start, here, everyone, plan)
        single[kind] = _score_apart(kind, start, here, folds, plan)
    scores = {
        kind: calibrate_apart(kind, logits, fitted[kind].weights, here.labels, folds, plan)
        for kind, logits in single.items()
    }
    best = pick(
        compare_candidates(scores, here.labels, here.groups, plan.least_gain)
    )  # as ``choose`` does, without its outer folds
    rows = [_judge(kind, fitted[kind], single[kind], start, plan, here, seen, held, labels) for kind in fitted]
    rows.append({**rows[list(fitted).index(best)], "kind": CHOSEN, "chosen": best})
    return rows + (_try_shares(start, plan, here, seen, held, folds) if shares and apart else [])


def _score_apart(kind: str, start: StartEnsemble, here: SeenClips, folds: np.ndarray, plan: AdaptPlan) -> np.ndarray:
    """Log-odds of every clip by a candidate that was fitted without its fold."""
    if kind in OF_SCORES:
        return score_candidate(fit_candidate(kind, start, here, folds, plan), here, np.arange(len(here)))
    parts = {}
    for fold in range(int(folds.max()) + 1):
        fitted = fit_candidate(kind, start, here, np.flatnonzero(folds != fold), plan)
        parts[fold] = score_candidate(fitted, here, np.flatnonzero(folds == fold))
    return _join(parts, folds)


def _join(parts: dict[int, np.ndarray], folds: np.ndarray) -> np.ndarray:
    """Out-of-fold log-odds of all clips from those of each fold's."""
    joined = np.empty((len(folds), *parts[0].shape[1:]))
    for fold, logits in parts.items():
        joined[folds == fold] = logits
    return joined


def _judge(
    kind: str, fitted: Fitted, single: np.ndarray, start: StartEnsemble, plan: AdaptPlan,
    here: SeenClips, seen: SeenClips, held: np.ndarray, labels: np.ndarray,
) -> dict:  # fmt: skip
    """single: the drawn clips' log-odds by fits that left them out, which place the camera's slope and offset."""
    shift = fit_shift(fitted.kind, single, fitted.weights, here.labels, plan)
    scores = blend_shifted(fitted.kind, score_candidate(fitted, seen, held), fitted.weights, shift)[:, 0]
    live, accepted = labels == 1, scores >= start.operating.threshold
    return {
        "kind": kind, "chosen": "", "accepted": int(accepted[~live].sum()), "attacks": int((~live).sum()),
        "rejected": int((~accepted[live]).sum()), "live": int(live.sum()), "eer": eer(labels, scores).value,
    }  # fmt: skip


def _try_shares(
    start: StartEnsemble, plan: AdaptPlan, here: SeenClips, seen: SeenClips, held: np.ndarray, folds: np.ndarray
) -> list[dict]:
    """Fine-tuning with other shares of the first weights, mixed from one and the same training."""
    whole = replace(plan, keep_init=0.0)
    numbers = range(int(folds.max()) + 1)
    rests = [np.flatnonzero(folds != number) for number in numbers]
    trained = [fit_candidate(FINE_TUNING, start, here, rest, whole) for rest in [*rests, np.arange(len(here))]]
    rows = []
    for share in SHARES:
        mixed = [_mix(one, start, share) for one in trained]
        parts = {number: score_candidate(mixed[number], here, np.flatnonzero(folds == number)) for number in numbers}
        single = _join(parts, folds)
        rows.append(_judge(f"keep_init={share:g}", mixed[-1], single, start, plan, here, seen, held, seen.labels[held]))
    return rows


def _mix(fitted: Fitted, start: StartEnsemble, share: float) -> Fitted:
    """``share`` parts of the start's weights in a fine-tuned candidate."""
    networks = [one.with_copy() for one in fitted.networks]
    with torch.no_grad():
        for new, old in zip(networks, start.networks, strict=True):
            for mine, first in zip(new.model.parameters(), old.model.parameters(), strict=True):
                mine.lerp_(first, share)
    return replace(fitted, networks=networks)


# --- figures -----------------------------------------------------------------------------------------


def pool(rows: pd.DataFrame) -> pd.DataFrame:
    """Per camera, size and candidate, pooled over draws: HTER, APCER, BPCER, mean EER, and in how many draws its HTER
    was above day one's on the same clips."""
    keys = ["camera", "size", "draw"]
    rates = rows.assign(hter=(rows.accepted / rows.attacks + rows.rejected / rows.live) / 2)
    before = rates[rates.kind == DAY_ONE].set_index(keys)["hter"]
    rates["worse"] = rates["hter"].to_numpy() > before.loc[list(rates[keys].itertuples(index=False))].to_numpy() + 1e-12
    parts = rates.groupby(["camera", "size", "kind"], sort=False)
    found = parts[["accepted", "attacks", "rejected", "live", "worse"]].sum()
    found["draws"], found["eer"] = parts.size(), parts["eer"].mean()
    found["apcer"], found["bpcer"] = found.accepted / found.attacks, found.rejected / found.live
    found["hter"] = (found.apcer + found.bpcer) / 2
    return found.reset_index()


def summarise(pooled: pd.DataFrame) -> pd.DataFrame:
    """Per size and candidate: median, mean and worst HTER over cameras, the median EER, and the share of draws that
    were worse than day one."""
    parts = pooled.groupby(["size", "kind"], sort=False)
    found = pd.DataFrame({
        "cameras": parts.size(), "hter_median": parts["hter"].median(), "hter_mean": parts["hter"].mean(),
        "hter_worst": parts["hter"].max(), "eer_median": parts["eer"].median(),
        "worse": parts["worse"].sum() / parts["draws"].sum(), "draws": parts["draws"].sum(),
    })  # fmt: skip
    return found.reset_index()


def _finish(rows: pd.DataFrame, args: argparse.Namespace) -> None:
    if rows.empty:
        raise UserError("no camera has so many clips that 30 are left; lower --sizes")
    pooled = pool(rows)
    summary = summarise(pooled)
    print(render(summary))
    chosen = rows[rows.kind == CHOSEN].groupby(["size", "chosen"]).size()
    if args.out:
        write_json(args.out, {
            "sets": args.sets, "least_held_out": LEAST_HELD_OUT, "summary": summary.to_dict("records"),
            "cameras": pooled.to_dict("records"),
            "chosen": [{"size": size, "kind": kind, "draws": int(n)} for (size, kind), n in chosen.items()],
        })  # fmt: skip
    if args.svg:
        write_text(args.svg, draw_curve(summary))


def render(summary: pd.DataFrame) -> str:
    lines = ["clips  candidate        cameras draws  HTER median  mean  worst   EER median   draws worse than day one"]
    for row in summary.itertuples():
        lines.append(
            f"{row.size:>5}  {row.kind:<16} {row.cameras:>7} {row.draws:>5} {100 * row.hter_median:>12.1f} "
            f"{100 * row.hter_mean:>5.1f} {100 * row.hter_worst:>6.1f} {100 * row.eer_median:>12.1f} "
            f"{100 * row.worse:>8.0f} %"
        )
    return "\n".join(lines)


STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#444}.grid{stroke:#e4e4e4}.axis{stroke:#888;fill:none}"
    "path.line{fill:none;stroke-width:2}circle{stroke:none}"
)
COLOURS = {"day_one": "#888888", "thresholds": "#c9a227", "calibration": "#4c9f70", "probe": "#7b6fd0",
           "fine_tuning": "#d0664c", "home_blend": "#5aa9d6", CHOSEN: "#111111"}  # fmt: skip


def draw_curve(summary: pd.DataFrame) -> str:
    """An SVG: mean HTER over cameras against the number of clips, a line per candidate, adapt's choice in black."""
    kinds = [kind for kind in (*CANDIDATES, CHOSEN) if (summary.kind == kind).any()]
    sizes = sorted(set(summary["size"]))
    places = {size: at for at, size in enumerate([0, *sizes])}
    nought = summary[summary.kind == DAY_ONE].sort_values("size")["hter_mean"].iloc[0]
    top = 1.05 * max(summary.loc[summary.kind.isin(kinds), "hter_mean"].max(), nought)
    plot = Plot(lambda size: places[size] / len(sizes), lambda rate: rate / top)
    ticks = [(value, f"{100 * value:.3g}") for value in list_round_values(top)]
    plot.axes(
        [(size, str(size)) for size in places], ticks, "labelled clips of the new camera", "HTER, %, mean of cameras"
    )
    for at, kind in enumerate(kinds):
        mine = summary[summary.kind == kind].sort_values("size")
        points = [(0, nought), *zip(mine["size"], mine["hter_mean"], strict=True)]
        placed = "L".join("{:.1f} {:.1f}".format(*plot.at(*point)) for point in points)
        plot.raw(f'<path class="line" stroke="{COLOURS[kind]}" d="M{placed}"/>')
        plot.raw(f'<rect x="362" y="{16 + 15 * at}" width="12" height="4" fill="{COLOURS[kind]}"/>')
        plot.text(379, 22 + 15 * at, "what adapt chooses" if kind == CHOSEN else TITLES[kind])
    counts = {row.size: (row.draws, row.cameras) for row in summary[summary.kind == CHOSEN].itertuples()}
    most = max(counts.values())
    fewer = [f"; {size} clips: {part[0]} on {part[1]}" for size, part in counts.items() if part != most]
    plot.text(52, 244, f"{most[0]} draws on {most[1]} cameras{''.join(fewer)}")
    body = str(plot.svg("Error against the number of labelled clips"))
    head, _, rest = body.replace(f'"0 0 {WIDTH} ', f'"0 0 {WIDTH + 140} ', 1).partition(">")  # with room for the names
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="720">' + f"<style>{STYLE}</style>" + rest + "\n"


if __name__ == "__main__":
    run(main)
