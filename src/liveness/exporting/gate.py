"""The parity gate: does an exported ensemble, in its own runtime, say what its members say? Measured before it appears.

    clips = choose_gate(described)                                which clips, and who held each of them out
    figures = measure_gate(described, exported, clips, points)    per runtime
    why = judge_gate(figures["onnxruntime"], None)                "" where it passes

A clip is scored by the members that held it out, with torch and with the exported files, from the same decoded views;
so both scores are of members that never saw its person. Reads a prepared set's tables and raw videos; writes nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from liveness.base.config import Cascade
from liveness.base.errors import UserError
from liveness.base.files import plain_name, show_path, unprepared, workspace
from liveness.base.progress import with_progress
from liveness.evaluation.combine import HOLDOUT, blend_rows
from liveness.evaluation.intervals import clopper_pearson, compare_eer
from liveness.evaluation.metrics import eer
from liveness.frames.views import VideoViews
from liveness.members.weights import describe_member
from liveness.prediction.engine import EnsembleDescription, decode_ahead, load_weights, score_members
from liveness.prediction.operating import Operating
from liveness.sets.fold_table import read_folds
from liveness.sets.folds import digest_of_set
from liveness.sets.labelled import raw_videos, read_labelled

FLOAT_TOLERANCE = 1e-4  # the largest difference of a score that is rounding
_AT_ONCE = 32  # videos whose views are held
_SEED = 20221
_MOST_CALIBRATION, _LEAST_CALIBRATION = 32, 4  # clips that int8 ranges are learnt on


@dataclass
class GateClips:
    """``table``: filename, label, group, path, members (the names of those that score it), a row per clip; ``on``: the
    set; ``held_out``: each member scores only what it held out."""

    on: str
    table: pd.DataFrame
    held_out: bool


def choose_gate(described: EnsembleDescription, on: str = "") -> GateClips:
    """The labelled clips of set ``on``; without one those of the members' own, each for the members that held it out.

    What was adapted to a camera has learnt from all of its set, so there every member scores every clip.

    A UserError where the set is not prepared, has no labels, has lost its raw videos, or is another one than the
    members were trained on; or where no set is named and the members were trained elsewhere.
    """
    told = {member.name: describe_member(member.path) for member in described.members}
    elsewhere = [name for name, about in told.items() if not about.get("data_hash")]
    if elsewhere and not on:
        raise UserError(
            f"{elsewhere[0]} was trained elsewhere, so that no held-out clips of it are here; name a labelled, "
            "prepared set to compare on: --on SET"
        )
    folder = workspace() / "data" / plain_name(on or described.data, "--on")
    videos, _ = read_labelled(folder)
    table = videos[["filename", "label", "group"]].assign(path=raw_videos(folder, videos["filename"].tolist()))
    adapted = any(about.get("adapted") for about in told.values())
    if (on and on != described.data) or adapted:
        return GateClips(folder.name, table.assign(members=[list(told)] * len(table)), held_out=False)
    if not (folder / "folds.csv").is_file():
        raise UserError(unprepared(folder.name))
    now = digest_of_set(folder)
    if changed := [name for name, about in told.items() if about["data_hash"] != now]:
        raise UserError(
            f"{show_path(folder)}: not as it was when {changed[0]} was trained, so that it is not known which clips "
            "that member held out; train again, or name another set: --on SET"
        )
    folds = read_folds(folder).set_index("filename")["fold"]
    home = [int(folds.get(name, HOLDOUT - 1)) for name in table["filename"]]
    who = [[name for name, about in told.items() if fold in (about["fold"], HOLDOUT)] for fold in home]
    table = table.assign(members=who)
    return GateClips(folder.name, table[table["members"].map(len) > 0].reset_index(drop=True), held_out=True)


def part_for_calibration(clips: GateClips) -> tuple[pd.DataFrame, GateClips]:
    """Clips to learn int8 ranges on, and the rest for the gate: no group is in both.

    Whole groups are drawn (the same each time) until there are enough clips; at most a third of all. A UserError where
    there are too few groups.
    """
    table = clips.table
    groups = np.random.default_rng(_SEED).permutation(sorted(set(table["group"])))
    most = min(_MOST_CALIBRATION, len(table) // 3)
    taken: list[str] = []
    for group in groups:
        if (table["group"].isin([*taken, group])).sum() <= most:
            taken.append(group)
    mine = table["group"].isin(taken)
    if mine.sum() < _LEAST_CALIBRATION:
        raise UserError(
            f"{clips.on}: {len(table)} clips of {len(groups)} groups; --int8 needs at least {_LEAST_CALIBRATION} clips "
            "to calibrate on, of persons that the comparison does not use, and at most a third of all: more clips, "
            "or another set (--on SET)"
        )
    return table[mine], replace(clips, table=table[~mine].reset_index(drop=True))


def require_enough(clips: GateClips, tolerance: float) -> None:
    """A UserError where so few clips could not pass whatever they gave: found out before the work."""
    count = len(clips.table)
    if (upper := clopper_pearson(0, count)[1]) > tolerance:
        raise UserError(
            f"{clips.on}: {count} clips to compare on, which without any flipped decision allow up to "
            f"{100 * upper:.1f} % (95 %); expected at most {100 * tolerance:g} %: too few clips to say so, "
            f"{count_needed(0, count, tolerance)} would do; more clips, another set (--on SET) or a larger --tolerance"
        )


def measure_gate(
    described: EnsembleDescription,
    exported: dict[str, EnsembleDescription],
    clips: GateClips,
    points: dict[str, Operating],
) -> dict[str, dict[str, Any]]:
    """Per runtime (``exported``: the folder as each reads it) how far the exported scores are from the members'.

    points: the shipped operating points by name. See ``_compare`` for the figures.
    """
    scores = _score_clips({"": described, **exported}, clips)
    return {runtime: _compare(scores[""], scores[runtime], clips.table, described, points) for runtime in exported}


def _score_clips(ways: dict[str, EnsembleDescription], clips: GateClips) -> dict[str, pd.DataFrame]:
    """Per way a member's own score of each clip (column per member, nan where it did not score it), decoded once."""
    names = [member.name for member in ways[""].members]
    found = {way: np.full((len(clips.table), len(names)), np.nan) for way in ways}
    row_of = {str(path): row for row, path in enumerate(clips.table["path"])}
    loaded = {way: load_weights(one, "auto") for way, one in ways.items()}
    try:
        videos = decode_ahead(clips.table["path"].tolist(), ways[""].wanted())
        for some in _some_at_a_time(with_progress(videos, len(row_of), "gate")):
            for group in _by_members(some, row_of, clips.table):
                who = clips.table["members"].iloc[row_of[str(group[0].path)]]
                for way, one in loaded.items():
                    members = [member for member in one.members if member.name in who]
                    mine = replace(one, members=members, cascade=Cascade())  # which would leave members out
                    for video, scores in score_members(group, mine):
                        for name, score in scores.items():
                            found[way][row_of[str(video.path)], names.index(name)] = score
    finally:
        for one in loaded.values():
            one.close()
    return {way: pd.DataFrame(values, columns=names) for way, values in found.items()}


def _some_at_a_time(videos: Iterable[VideoViews]) -> Iterator[list[VideoViews]]:
    left = iter(videos)
    while some := list(islice(left, _AT_ONCE)):
        yield some


def _by_members(videos: list[VideoViews], row_of: dict[str, int], table: pd.DataFrame) -> list[list[VideoViews]]:
    groups: dict[tuple[str, ...], list[VideoViews]] = {}
    for video in videos:
        groups.setdefault(tuple(table["members"].iloc[row_of[str(video.path)]]), []).append(video)
    return list(groups.values())


def _blend(scores: pd.DataFrame, described: EnsembleDescription) -> np.ndarray:
    """The members' scores, calibrated and blended as prediction does with those that have one."""
    values = np.stack(
        [[described.operating.calibrate(name, score) for score in scores[name]] for name in scores.columns], axis=1
    )
    return blend_rows(values, np.array([member.weight for member in described.members]))


def _compare(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    table: pd.DataFrame,
    described: EnsembleDescription,
    points: dict[str, Operating],
) -> dict[str, Any]:
    """The gate's figures.

    largest_difference: of the clips' scores, blended; member_difference: of the members' own. points: per operating
    point the clips whose decision (live, attack, abstain) is another (``flipped``), those that went from one side of
    the threshold itself to the other (``crossed``), and the upper limit of the exact 95 % interval for the flipped
    share. inversions: pairs of clips whose order is turned round. eer: its change with the paired interval.
    """
    a, b = _blend(ours, described), _blend(theirs, described)
    scored = np.isfinite(a) & np.isfinite(b)
    lost = int((np.isfinite(a) != np.isfinite(b)).sum())
    figures: dict[str, Any] = {
        "clips": len(a),
        "scored": int(scored.sum()),
        "lost": lost,
        "groups": int(table["group"][scored].nunique()),
        "largest_difference": float(np.abs(a - b)[scored].max()) if scored.any() else None,
        "member_difference": float(np.nanmax(np.abs(ours.to_numpy() - theirs.to_numpy()))) if scored.any() else None,
        "points": [_flips(name, point, a[scored], b[scored], lost) for name, point in points.items()],
        "inversions": _count_inversions(a[scored], b[scored]),
        "eer": None,
    }
    labels, groups = (table[column].to_numpy()[scored] for column in ("label", "group"))
    if len(set(labels)) == 2:
        change = compare_eer(labels, a[scored], b[scored], groups)
        figures["eer"] = {
            "members": eer(labels, a[scored]).value,
            "exported": eer(labels, b[scored]).value,
            "difference": change.difference,
            "interval": change.interval.as_list(),
            "method": change.interval.method,
        }
    return figures


def _flips(name: str, point: Operating, a: np.ndarray, b: np.ndarray, lost: int) -> dict[str, Any]:
    def decide(scores: np.ndarray) -> np.ndarray:
        return np.array([point.decide(float(score), "ok", point.least_frames) for score in scores], dtype=object)

    flipped = int((decide(a) != decide(b)).sum()) + lost
    return {
        "name": name,
        "threshold": point.threshold,
        "flipped": flipped,
        "crossed": int(((a >= point.threshold) != (b >= point.threshold)).sum()) + lost,
        "of": a.size + lost,
        "upper": clopper_pearson(flipped, a.size + lost)[1],
    }


def _count_inversions(a: np.ndarray, b: np.ndarray) -> dict[str, int]:
    """Pairs of clips, and how many of them the two scores order the other way round (ties are no order)."""
    turned = sum(int(((a[i] - a[i + 1 :]) * (b[i] - b[i + 1 :]) < 0).sum()) for i in range(a.size))
    return {"pairs": a.size * (a.size - 1) // 2, "turned": turned}


def judge_gate(figures: dict[str, Any], tolerance: float | None) -> str:
    """Why an export is not to be used; "" where it is. tolerance: of the flipped share for int8; None for float32."""
    if not figures["scored"]:
        return "not one clip of the comparison has a score"
    worst = max(figures["points"], key=lambda point: point["upper"])
    if tolerance is None:
        if not figures["largest_difference"] <= FLOAT_TOLERANCE or not figures["member_difference"] <= FLOAT_TOLERANCE:
            most = max(figures["largest_difference"], figures["member_difference"])
            return f"scores differ by up to {most:.2g}; expected at most {FLOAT_TOLERANCE:g}"
        if worst["flipped"]:
            return f"{worst['flipped']} of {worst['of']} decisions differ at the point {worst['name']}; expected none"
        return ""
    if worst["upper"] <= tolerance:
        return ""
    flipped, of = worst["flipped"], worst["of"]
    said = (
        f"at the point {worst['name']} {flipped} of {of} decisions differ, which may be up to "
        f"{100 * worst['upper']:.1f} % (95 %); expected at most {100 * tolerance:g} %"
    )
    if flipped / of >= tolerance:
        return f"{said}: more clips would not help; a larger --tolerance, or the float export"
    return f"{said}: too few clips to say so, {count_needed(flipped, of, tolerance)} would do at this share"


def count_needed(flipped: int, of: int, tolerance: float) -> int:
    """How many clips with this share of flipped ones bring the upper limit down to ``tolerance`` (> flipped / of)."""
    share, low, high = flipped / of, of, max(of, 1)
    while clopper_pearson(round(share * high), high)[1] > tolerance:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = clopper_pearson(round(share * middle), middle)[1] <= tolerance
        low, high = (low, middle) if enough else (middle, high)
    return high
