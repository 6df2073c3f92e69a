"""Which ensembles' weights are there: the one to take where none is named, and what to do where weights are missing.

Looks at the names in weights/<set>/ and at configs/ensemble; opens no weights, writes nothing.
"""

import re
from pathlib import Path

from liveness.base.compose import load_ensemble, names
from liveness.base.config import Ensemble
from liveness.base.errors import UserError
from liveness.base.files import show_path, workspace
from liveness.members.ensembles import in_weights, list_made
from liveness.members.names import parse_member_name, weights_path

ADAPTED = re.compile(r"_adapted(_.+)?_fold\d+$")  # the names of members that liveness.adapt has made
_MOST_SHOWN = 3  # ready ensembles that are named
USUAL, DAY_ONE = "zalo2022", "minifasnet"  # what is taken where none is named; what needs no training
_GET_DAY_ONE = f"bash download_weights.sh {DAY_ONE}"


class WeightsMissing(UserError):
    """Members without a file. ``videos``: what stands for the arguments in the commands."""

    def __init__(self, missing: list[Path], ensemble: str, data: str, videos: str = "VIDEOS") -> None:
        self.missing, self.ensemble, self.data = missing, ensemble, data
        super().__init__(_ways_to_get(missing, ensemble, data, videos))

    def for_videos(self, videos: str) -> "WeightsMissing":
        """The same with what was asked for, quoted for a shell, in the commands."""
        return WeightsMissing(self.missing, self.ensemble, self.data, videos)


def default_ensemble() -> str:
    """The ensemble that scores where none is named: USUAL, or DAY_ONE where no other set has a member's file.

    The demo's members do not count: they know drawn faces only, and would score no one's videos.
    """
    alone = set(_folders_with_members()) - {"demo"} == {DAY_ONE} and _is_whole(load_ensemble(DAY_ONE), DAY_ONE)
    return DAY_ONE if alone else USUAL


def _folders_with_members() -> list[str]:
    """The sets that weights/ has at least one member's file of; what ``liveness.adapt`` has made does not count."""
    paths = (workspace() / "weights").glob("*/*_fold*.safetensors")
    return sorted({path.parent.name for path in paths if not ADAPTED.search(path.stem)})


def ready_ensembles() -> list[tuple[str, str]]:
    """(set, ensemble) wherever all members' files are there, by name."""
    found = []
    there = _folders_with_members()
    for name in names("ensemble") if there else ():
        try:
            found += [(data, name) for data in there if _is_whole(load_ensemble(name), data)]
        except UserError:
            continue  # a damaged file in configs/ or weights/ is told to whoever asks for it
    found += [(data, made.name) for data, made in list_made() if _is_whole(made, data)]
    return sorted(found)


def _is_whole(ensemble: Ensemble, data: str) -> bool:
    members = in_weights(ensemble, data).members
    return all(weights_path(data, member.recipe, member.fold).is_file() for member in members)


def _ways_to_get(missing: list[Path], ensemble: str, data: str, videos: str) -> str:
    """One line: what is missing, what could be used at once, and how the missing are made."""
    shown = f"in {show_path(missing[0].parent)}: {', '.join(path.name for path in missing)}"
    # Another set's members of this very ensemble first: then DATA was forgotten, or mistyped.
    ready = sorted(ready_ensembles(), key=lambda pair: pair[1] != ensemble)
    commands = [f"DATA={of} ENSEMBLE={name} bash predict.sh {videos}".rstrip() for of, name in ready[:_MOST_SHOWN]]
    more = f" (and {len(ready) - _MOST_SHOWN} more)" if len(ready) > _MOST_SHOWN else ""
    there = f"; ready to use: {'; or: '.join(commands)}{more}" if commands else ""
    published = "bash download_weights.sh zalo2022_published"
    if ensemble in ("zalo2022_published", DAY_ONE):
        get = published if ensemble != DAY_ONE else _GET_DAY_ONE
        return f"weights missing {shown}{there}; to get them: {get}"
    if not commands:
        use = f"ENSEMBLE={DAY_ONE} bash predict.sh {videos}".rstrip()
        there = f"; the quickest way to scores, without training: {_GET_DAY_ONE}, then {use}"
    train = f"DATA={data} bash train.sh {ensemble}"
    if ensemble not in names("ensemble"):  # members by name
        pairs = [parse_member_name(path.stem) for path in missing]
        train = "; ".join(f"DATA={data} bash scripts/train_member.sh {recipe} {fold}" for recipe, fold in pairs)
    line = f"weights missing {shown}{there}; to make them: {train}; or copy them there"
    if any(name == "zalo2022_published" for _, name in ready):
        return line
    use = f"ENSEMBLE=zalo2022_published bash predict.sh {videos}".rstrip()
    return f"{line}; or use the published ones: {published}, then {use}"
