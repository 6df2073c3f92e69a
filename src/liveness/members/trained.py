"""What training left of a member: its run's configuration and the scores of the videos that it held out.

    trained = read_members("mine", in_set("demo", "mine").members)
    trained[0].video_scores().videos                     a row per held-out video

Reads runs/<set>/<recipe>_fold<k>/{oof.csv,config.json}; ``write_oof`` writes the former.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from liveness.base.config import EnsembleMember
from liveness.base.errors import UserError
from liveness.base.files import show_path, write_text
from liveness.base.tables import read_table, table_text, whole_numbers
from liveness.evaluation.combine import MemberScores, check_how, video_scores
from liveness.members.names import member_name, run_folder

# A row per held-out frame. A video without any frame to score has one row, without frame_id and score.
OOF_COLUMNS = ["filename", "video_id", "frame_id", "label", "fold", "score", "status"]


@dataclass(frozen=True)
class Trained:
    """A finished member and its held-out frame scores."""

    name: str
    recipe: str
    fold: int
    weight: float  # in the ensemble that asks for it
    combine: str  # the recipe's way from frames to a video
    data_hash: str  # of the data that it was trained on
    frames: pd.DataFrame  # of oof.csv

    def video_scores(self, how: str = "") -> MemberScores:
        """Its score per held-out video, combined by the recipe's own way or by ``how``."""
        videos = video_scores(self.frames, how or self.combine)
        return MemberScores(self.name, self.fold, self.weight, videos)


def read_members(data: str, members: Sequence[EnsembleMember]) -> list[Trained]:
    """The members' runs on set ``data``; a UserError unless all are there and of one state of the data."""
    require_runs(data, members)
    trained = [read_run(data, member) for member in members]
    for member in trained:
        if member.data_hash != trained[0].data_hash:
            raise UserError(
                f"{member.name} and {trained[0].name} were trained on different states of data/{data}; "
                "train one of them again"
            )
    return trained


def read_naive_members(data: str, trained: Sequence[Trained]) -> list[Trained]:
    """Those of the members that were trained with --naive too (recipe ``<recipe>_naive``), with the same weights."""
    naive = [EnsembleMember(f"{member.recipe}_naive", member.fold, weight=member.weight) for member in trained]
    naive = [member for member in naive if _oof_path(data, member).is_file()]
    if not naive:
        return []
    found = read_members(data, naive)
    if found[0].data_hash != trained[0].data_hash:
        raise UserError(f"{found[0].name} was trained on another state of data/{data}; train it again")
    return found


def require_runs(data: str, members: Sequence[EnsembleMember]) -> None:
    """A UserError that names the members without a finished run and the commands that make them."""
    missing = [member for member in members if not _oof_path(data, member).is_file()]
    if missing:
        names = ", ".join(member_name(member.recipe, member.fold) for member in missing)
        runs = show_path(_oof_path(data, missing[0]).parents[1])
        commands = "; ".join(_command(data, member) for member in missing)
        raise UserError(f"not trained yet: {names}; train with: {commands} (there is no oof.csv in {runs})")


def _command(data: str, member: EnsembleMember) -> str:
    if member.soup:
        return f"python -m liveness.soup RECIPE RECIPE --fold {member.fold} --name {member.recipe} --data {data}"
    return f"DATA={data} bash scripts/train_member.sh {member.recipe} {member.fold}"


def _oof_path(data: str, member: EnsembleMember) -> Path:
    return run_folder(data, member.recipe, member.fold) / "oof.csv"


def read_run(data: str, member: EnsembleMember) -> Trained:
    """One member's run; a UserError where its files are not those of a finished run."""
    path = run_folder(data, member.recipe, member.fold) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        how, data_hash = config["recipe"]["combine"], str(config.get("data_hash", ""))
        check_how(how)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{show_path(path)}: not the configuration of a run ({type(error).__name__}); train again"
        ) from error
    name = member_name(member.recipe, member.fold)
    frames = read_oof(_oof_path(data, member))
    return Trained(name, member.recipe, member.fold, member.weight, how, data_hash, frames)


def read_oof(path: Path) -> pd.DataFrame:
    """oof.csv with numbers as numbers; an empty score is nan."""
    table = read_table(path, OOF_COLUMNS)
    table["label"] = whole_numbers(table, "label", path)
    table["fold"] = whole_numbers(table, "fold", path)
    scores = pd.to_numeric(table["score"], errors="coerce")
    bad = table[(scores.isna() & (table["score"] != "")) | (scores < 0) | (scores > 1)]
    if len(bad):
        row = bad.iloc[0]
        raise UserError(f"{show_path(path)}: score {row['score']!r} of {row['filename']}; expected 0 to 1 or nothing")
    return table.assign(score=scores.astype(float))


def write_oof(path: Path, table: pd.DataFrame) -> None:
    """Write a table of ``OOF_COLUMNS`` whole; its presence means that the member is made."""
    write_text(path, table_text(table[OOF_COLUMNS]))
