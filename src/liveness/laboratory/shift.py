"""How much worse does an ensemble get on videos that are not like those at home? What ``liveness.shift`` does.

    systems, members = choose_systems("demo", "mine")
    for summary in measure_shift(systems, members, StressPlan("mine", list_stresses(["jpeg"], [2]))): ...

Held-out videos are stressed in worker processes (stressed.py) and scored as at prediction, each by members that
did not train on it. Reads data/<set>/{folds.csv,videos/}, runs/<set>/<member>/{oof.csv,config.json} and
weights/<set>/; writes runs/<set>/<system>/{shift.json,shift.csv}.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from liveness.base.compose import load_ensemble
from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.base.files import workspace, write_json, write_text
from liveness.base.progress import with_progress
from liveness.base.tables import table_text
from liveness.evaluation.combine import HOLDOUT, blend
from liveness.laboratory import shift_figures
from liveness.members.ensembles import in_set
from liveness.members.names import member_name, operating_path, parse_recipe_fold, weights_path
from liveness.members.trained import Trained, read_members
from liveness.members.weights import digest_files
from liveness.prediction.operating import Operating, read_operating
from liveness.sets.fold_table import read_folds
from liveness.simulation.stress import CLEAN, Stress

Scores = dict[str, dict[Stress, dict[str, float]]]  # member -> stress -> file name -> score, nan without one


@dataclass(frozen=True)
class StressPlan:
    """Which stresses are applied to which videos of set ``data``.

    seed: of the sample and of what the stresses draw; videos: size of the sample, 0 for all; workers: processes that
    stress, 0 for one fewer than there are cores.
    """

    data: str
    stresses: list[Stress]
    seed: int = 1
    videos: int = 0
    workers: int = 0


@dataclass
class System:
    """Some members and how they are weighed, which are judged together.

    ``shipped``: a whole ensemble, whose ``operating`` point calibrates its members as at prediction.
    The scores of other systems are not calibrated.
    """

    name: str
    weights: dict[str, float]  # member name -> weight
    shipped: bool = False
    operating: Operating | None = None


def choose_systems(
    name: str | None, data: str | None, wanted: list[str] | None = None, each: bool = False, against: str | None = None
) -> tuple[list[System], list[EnsembleMember]]:
    """The systems to judge, and every member that they need, once.

    name: of an ensemble, or None for the members ``wanted`` (RECIPE:FOLD) alone; each: every recipe is a system of its
    own; against: the ensemble that is the second system. A UserError for a name that is not known.
    """
    ensemble = in_set(name, data or "") if name else Ensemble(data=data or "")
    members = ensemble.members
    if wanted:
        known = {(member.recipe, member.fold): member for member in members}
        read = [EnsembleMember(*parse_recipe_fold(text)) for text in dict.fromkeys(wanted)]
        members = [known.get((member.recipe, member.fold), member) for member in read]
    if each:
        recipes = dict.fromkeys(member.recipe for member in members)
        return [_make_system(r, [m for m in members if m.recipe == r]) for r in recipes], members
    title = name or "members"
    systems = [_make_system(f"{title}-subset" if wanted else title, members, shipped=not wanted)]
    if against:
        others = in_set(against, ensemble.data).members
        systems.append(_make_system(against, others, shipped=True))
        members = list({(m.recipe, m.fold): m for m in [*members, *others]}.values())
    return systems, members


def _make_system(name: str, members: list[EnsembleMember], shipped: bool = False) -> System:
    return System(name, {member_name(member.recipe, member.fold): member.weight for member in members}, shipped)


def measure_shift(
    systems: list[System], members: list[EnsembleMember], plan: StressPlan, compared: bool = False
) -> Iterator[dict]:
    """Stress and score the held-out videos of ``members`` in one pass, then judge and write each system.

    Yields what shift.json holds, system by system; with ``compared`` of the first system only, against the second.
    """
    folds = read_home_folds(plan.data)
    trained = read_members(plan.data, members)
    _require_same_folds(plan.data, trained, folds)
    for system in systems:
        if system.shipped:
            system.operating = _read_calibration(system, trained, plan.data)
    videos = _sample_held_out(folds, trained, plan)
    print(
        f"{len(videos)} held-out videos of {plan.data}, {len(plan.stresses)} stresses, {len(trained)} members "
        f"in {len(systems)} system{'s' if len(systems) > 1 else ''}",
        flush=True,
    )
    scores = _score_held_out(members, trained, videos, plan)
    _warn_where_apart(scores, trained)
    about: dict[str, Any] = {"data": plan.data, "data_hash": trained[0].data_hash, "seed": plan.seed}
    about["weights_sha256"] = _weights_digests(trained, plan.data)
    for judged in [systems] if compared else [[one] for one in systems]:
        yield _judge_system(about, judged, scores, videos, plan.stresses)


def shift_path(data: str, system: str, kind: str) -> Path:
    """runs/<set>/<system>/shift.<kind>: ``csv`` with a row per video and stress, ``json`` with the figures."""
    return workspace() / "runs" / data / system / f"shift.{kind}"


def _weights_digests(trained: list[Trained], data: str) -> dict[str, str]:
    return digest_files({member.name: weights_path(data, member.recipe, member.fold) for member in trained})


def _read_calibration(system: System, trained: list[Trained], data: str) -> Operating:
    """How prediction calibrates a shipped ensemble; a warning where its file says that something is amiss."""
    digests = _weights_digests([member for member in trained if member.name in system.weights], data)
    operating = read_operating(
        operating_path(data, system.name),
        list(system.weights),
        trained[0].data_hash,
        weights=system.weights,
        digests=digests,
        expected=load_ensemble(system.name).calibration,
    )
    if operating.lost:
        print(f"warning: {system.name}: {operating.lost}", file=sys.stderr, flush=True)
    return operating


def read_home_folds(data: str) -> pd.DataFrame:
    """filename, label, group, fold of the videos that are in a fold; those of the holdout belong to the evaluation."""
    folds = read_folds(workspace() / "data" / data)
    return folds[folds["fold"] != HOLDOUT].reset_index(drop=True)[["filename", "label", "group", "fold"]]


def _require_same_folds(data: str, trained: list[Trained], folds: pd.DataFrame) -> None:
    """A UserError unless every member held out the videos of today's fold."""
    for member in trained:
        held_out = set(member.frames["filename"][member.frames["fold"] == member.fold])
        if held_out != set(folds["filename"][folds["fold"] == member.fold]):
            raise UserError(
                f"{member.name}: its oof.csv and data/{data}/folds.csv have different videos in fold "
                f"{member.fold}: the folds changed since training; train this member again"
            )


def _sample_held_out(folds: pd.DataFrame, trained: list[Trained], plan: StressPlan) -> pd.DataFrame:
    """The videos that some member held out, or a seeded sample of them, by file name; both classes."""
    covered = folds[folds["fold"].isin({member.fold for member in trained})]
    order = shift_figures.order_by_seed(covered["filename"], plan.seed)
    videos = shift_figures.sample_videos(covered, plan.videos, order)
    if videos["label"].nunique() < 2:
        raise UserError(f"{len(videos)} held-out videos, all of one class; an error rate needs live and attack videos")
    return videos.set_index("filename")


def _score_held_out(
    members: list[EnsembleMember], trained: list[Trained], videos: pd.DataFrame, plan: StressPlan
) -> Scores:
    """Every member's score of every video that it held out, clean and under each stress; one pass."""
    from liveness.laboratory.stressed import StressTask, score_stressed, stress_videos
    from liveness.prediction.engine import load_members

    loaded = load_members(Ensemble("shift laboratory", plan.data, members), plan.data)
    fold_of = {member.name: member.fold for member in trained}
    holders = {f: [m for m in loaded.members if fold_of[m.name] == f] for f in fold_of.values()}
    folder = workspace() / "data" / plan.data / "videos"

    def tasks() -> Iterator[StressTask]:
        for name, video in videos.iterrows():
            wanted = {member.wanted.key: member.wanted for member in holders[video["fold"]]}
            mine = [s for s in plan.stresses if s.kind != "attack" or video["label"] == 1]
            yield StressTask(folder / str(name), tuple(wanted.values()), (CLEAN, *mine), plan.seed)

    scores: Scores = {member.name: {stress: {} for stress in (CLEAN, *plan.stresses)} for member in loaded.members}
    results = with_progress(stress_videos(tasks(), plan.workers), len(videos), "shift")
    for name, stress, found in score_stressed(results, lambda name: holders[videos.loc[name, "fold"]], loaded.batches):
        for member, score in found.items():
            scores[member][stress][name] = score
    loaded.close()
    return scores


def _warn_where_apart(scores: Scores, trained: list[Trained]) -> None:
    """Warn where clean scores are not those of oof.csv: the data changed, or the member is from another machine."""
    for member in trained:
        here = scores[member.name][CLEAN]
        told = member.video_scores().videos.set_index("filename")["score"]
        apart = {name: abs(here[name] - told[name]) for name in here if here[name] == here[name]}
        lost = [name for name in here if math.isnan(here[name]) != math.isnan(told[name])]
        worst = max(apart, key=lambda name: apart[name] if apart[name] == apart[name] else -1.0, default=None)
        suspects = lost or ([worst] if worst and apart[worst] > 1e-3 else [])
        for name in suspects[:1]:
            print(
                f"warning: {member.name}: {name} scores {here[name]:.4f} here, {told[name]:.4f} in oof.csv; "
                "was it trained on another machine, or its data changed?",
                file=sys.stderr,
            )


def _judge_system(
    about: dict[str, Any], judged: list[System], scores: Scores, videos: pd.DataFrame, stresses: list[Stress]
) -> dict:
    """Judge the first system (against the second, if there is one) and write its files; what shift.json holds.

    about: what is the same for all of a run: data, data_hash, seed, weights_sha256.
    """
    first = judged[0]
    tables = _make_tables(first, scores, videos, stresses)
    others = _make_tables(judged[1], scores, videos, stresses) if judged[1:] else {}
    clean = tables[CLEAN]
    if clean["label"].nunique() < 2:
        raise UserError(f"{first.name}: the held-out videos of its members are all of one class; expected both")
    threshold = shift_figures.find_threshold(clean)
    rows = []
    for stress in stresses:
        row = {"stressor": stress.name, "severity": stress.severity, "parameters": stress.parameters}
        row |= shift_figures.judge_stress(clean, tables[stress], threshold)
        rows.append(row | _against(judged, tables, others, stress))
    plain = shift_figures.judge_stress(clean, clean, threshold)
    summary = {
        "version": 1,
        "ensemble": first.name,
        "members": list(first.weights),
        **about,
        "weights_sha256": {name: value for name, value in about["weights_sha256"].items() if name in first.weights},
        "videos": len(clean),
        "clean": {
            **{key: plain[key] for key in ("eer", "interval", "auc", "videos", "no_score")},
            "groups": int(clean["group"].nunique()),
            "threshold": threshold,
            **_against(judged, tables, others, CLEAN),
        },
        "rows": shift_figures.sort_worst_first(rows),
    }
    write_text(shift_path(about["data"], first.name, "csv"), table_text(_join_tables(tables)))
    write_json(shift_path(about["data"], first.name, "json"), summary)
    return summary


def _against(
    judged: list[System],
    tables: dict[Stress, pd.DataFrame],
    others: dict[Stress, pd.DataFrame],
    stress: Stress,
) -> dict:
    """The other system's EER under the same stress, and whether the first one differs from it."""
    if not others:
        return {}
    mine, theirs = (shift_figures.select_presented(its[CLEAN], its[stress]) for its in (tables, others))
    both = mine.index.intersection(theirs.index)
    found = shift_figures.compare_systems(theirs.loc[both], mine.loc[both])
    return {"against": {"ensemble": judged[1].name, "videos": len(both), **found}}


def _make_tables(
    system: System, scores: Scores, videos: pd.DataFrame, stresses: list[Stress]
) -> dict[Stress, pd.DataFrame]:
    return {stress: _make_table(system, stress, scores, videos) for stress in (CLEAN, *stresses)}


def _make_table(system: System, stress: Stress, scores: Scores, videos: pd.DataFrame) -> pd.DataFrame:
    """label, group, fold and the blended score of every video that a member of the system held out.

    Under an attack only the live videos, with label 0.
    """
    columns = pd.DataFrame({name: pd.Series(scores[name][stress], dtype=float) for name in system.weights})
    if system.operating:
        for name in columns:
            columns[name] = [system.operating.calibrate(name, score) for score in columns[name]]
    held = {filename for name in system.weights for filename in scores[name][CLEAN]}
    table = videos.loc[videos.index.isin(held)]
    if stress.kind == "attack":
        table = table[table["label"] == 1].assign(label=0)
    return table.assign(score=blend(columns.reindex(table.index), system.weights))


def _join_tables(tables: dict[Stress, pd.DataFrame]) -> pd.DataFrame:
    """One row per stress and video."""
    parts = [
        table.reset_index().assign(stressor=stress.name, severity=stress.severity) for stress, table in tables.items()
    ]
    columns = ["stressor", "severity", "filename", "label", "group", "fold", "score"]
    return pd.concat(parts, ignore_index=True)[columns]
