"""Which videos of a set belong together, and the groups that follow.

A group is everything that must lie in one fold: the videos of one person, recordings of one scene,
near-duplicates. The column of subjects, the groups file, the embeddings and the search for near-duplicates
(sets/duplicates.py) give links; the groups are the connected parts of their union. Reads the files that
``folds.groups`` and ``folds.embeddings`` name, or data/<set>/embeddings.csv; writes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from liveness.base.config import Data, Folds, nearest
from liveness.base.errors import UserError
from liveness.base.files import CONFIGS, natural_key
from liveness.base.names import Names, few, find_column, loose, one_spelling
from liveness.base.tables import list_places, read_table
from liveness.sets.alike import EXACT_MOST
from liveness.sets.identities import Link, embeddings_path, find_links, link_persons, read_embeddings, recheck_links
from liveness.sets.labels import RawSet

LEFT_OUT = "left out"
# What people call the columns that are read by another name; case, blanks, - and _ do not count.
ALSO_CALLED = {
    "subject": ("subjects", "subjectid", "subjectno", "person", "persons", "personid", "people", "client", "clientid",
                "identity", "identities", "user", "userid"),
    "species": ("attack", "attacktype", "spooftype", "pai", "pais", "paispecies", "attackspecies", "instrument"),
    "camera": ("cameras", "cam", "cameraid", "camid", "device", "deviceid", "sensor", "sensorid", "capturedevice"),
}  # fmt: skip


def join(filenames: list[str], links: Iterable[Iterable[str]]) -> list[list[str]]:
    """Connected parts of ``filenames`` under ``links`` (each a list of names that belong together).

    Every name is in exactly one part; names keep their order, parts that of their first name.
    """
    parent = {filename: filename for filename in filenames}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    place = {filename: i for i, filename in enumerate(filenames)}
    for link in links:
        roots = sorted({root(name) for name in link}, key=place.__getitem__)
        for other in roots[1:]:
            parent[other] = roots[0]
    parts: dict[str, list[str]] = {}
    for filename in filenames:
        parts.setdefault(root(filename), []).append(filename)
    return list(parts.values())


def name_groups(parts: list[list[str]], known: dict[str, str]) -> dict[str, str]:
    """A name for each video's group.

    A group of one person keeps that name (``known``: filename -> subject, "" for unknown); a
    group of several is "a+b"; a group of unknown persons has the name of its first video.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for part in parts:
        people = sorted({known.get(filename, "") for filename in part} - {""}, key=natural_key)
        name = "+".join(people) if len(people) <= 3 else f"{people[0]}+{len(people) - 1} others"
        name = name or part[0]
        while name in taken:
            name += "'"
        taken.add(name)
        names |= dict.fromkeys(part, name)
    return names


def find_subjects(raw: RawSet, group_column: str) -> tuple[str, dict[str, str]]:
    """The column of the label file that names subjects ("" for none), and file name -> subject ("" for nobody).

    A UserError names two subjects that differ only by case or blanks.
    """
    if raw.labels is None or not group_column:
        return "", {}
    column = find_column(list(raw.labels.columns), group_column)
    if column is None:
        return "", {}
    people = one_spelling(raw.labels[column], f"{raw.label_file}, column {column}")
    return column, dict(zip(raw.labels["filename"], people, strict=True))


def column_notes(raw: RawSet, group_column: str, our_columns: Sequence[str]) -> list[str]:
    """What is to be said of the label file's columns; a UserError where the group column that was asked for is missing.

    Named are columns that are not taken over, since labels_video.csv has others of that name, and near misses
    of subject, species and camera: who overlooks one has persons on both sides of a fold.
    """
    if raw.labels is None:
        return []
    columns, notes = list(raw.labels.columns), []
    named, _ = find_subjects(raw, group_column)
    if not named and group_column not in ("", Folds().group_column):
        raise UserError(
            f"folds.group_column={group_column}: {raw.label_file} has only the columns {', '.join(columns)}"
            f"{nearest(group_column, columns)}"
        )
    for wanted, there in (
        ("subject", named),
        ("species", find_column(columns, "species")),
        ("camera", find_column(columns, "camera")),
    ):
        near = None if there else _near_miss(columns, wanted)
        if near and wanted == "subject" and group_column:
            notes.append(
                f"{raw.label_file}: no column subject, but {near!r}, which is not used: one person may be on both "
                f"sides of a fold. To keep persons together: -o folds.group_column={near} (or name the column subject)"
            )
        elif near and wanted == "species":
            notes.append(f"{raw.label_file}: {near!r} is not used; kinds of attack are read from a column species")
        elif near and wanted == "camera":
            notes.append(f"{raw.label_file}: {near!r} is not used; cameras are read from a column camera")
    ours = set(our_columns) - {"filename", "label", "species", named}
    taken = [name for name in columns if name in ours]
    if taken:
        hint = "; to group by it: -o folds.group_column=group" if "group" in taken else ""
        notes.append(
            f"{raw.label_file}: {', '.join(taken)}: labels_video.csv has columns of that name, not taken over{hint}"
        )
    return notes


def _near_miss(columns: list[str], wanted: str) -> str | None:
    for column in columns:
        text = loose(column).replace("_", "").replace("-", "")
        if text in ALSO_CALLED[wanted] or nearest(text, [wanted], 0.8):
            return column
    return None


@dataclass
class Groups:
    """A groups file's content: lists of ids that belong together, ids to leave out."""

    path: Path
    together: list[list[str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def find_groups_file(name: str) -> Path:
    """The file that ``folds.groups`` names: a path, or a name in configs/groups."""
    places = list_places(name)
    listed = sorted(CONFIGS.glob("groups/*.*")) if CONFIGS.is_dir() else []
    places += [path for path in listed if name in (path.name, path.stem)]
    for place in places:
        if place.is_file():
            return place
    known = [path.stem for path in listed]
    raise UserError(
        f"folds.groups={name}: no such file; expected a csv of filename,group, a text file with a group "
        f"per line, or one of {', '.join(known) or 'configs/groups (empty)'}{nearest(name, known)}"
    )


def read_groups(path: Path) -> Groups:
    """Read a groups file: csv with the columns filename,group, or text with one group per line.

    Text: ids parted by commas (or by spaces where a line has no comma); ``#`` starts a comment, a
    remark may stand before a colon, and the remark ``left out`` names videos to leave out. An id
    is a file name with or without its ending.
    """
    if path.suffix.lower() == ".csv":
        table = read_table(path, ["filename", "group"])
        table["group"] = one_spelling(table["group"], f"{path}, column group")
        table = table[table["group"] != ""]
        return Groups(path, [list(rows) for _, rows in table.groupby("group", sort=False)["filename"]])
    groups = Groups(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    for line in lines:
        remark, colon, rest = line.split("#")[0].rpartition(":")
        ids = [part.strip() for part in rest.split(",")] if "," in rest else rest.split()
        ids = [part for part in ids if part]
        if not ids:
            continue
        if colon and remark.strip().lower() == LEFT_OUT:
            groups.left_out += ids
        else:
            groups.together.append(ids)
    return groups


def resolve_ids(ids: Iterable[str], filenames: list[str]) -> tuple[list[str], list[str]]:
    """File names for ids (a name with or without its ending), and the ids that name none of them."""
    names = Names(filenames)
    found = {i: names.get(i) for i in ids}
    return [name for name in found.values() if name is not None], [i for i in found if found[i] is None]


def read_links(data: Data, raw: RawSet, quiet: bool = False) -> tuple[dict[str, str], list[list[str]]]:
    """From the groups file: which videos are left out (name -> reason) and which belong together."""
    if not data.folds.groups:
        return {}, []
    path = find_groups_file(data.folds.groups)
    groups, filenames = read_groups(path), [video.name for video in raw.videos]
    ids = list(dict.fromkeys(i for part in [*groups.together, groups.left_out] for i in part))
    found, unknown = resolve_ids(ids, filenames)
    if not path.is_relative_to(CONFIGS):
        Names(filenames).require(ids, path, raw.unlabelled)
    left_out = resolve_ids(groups.left_out, filenames)[0]
    if not quiet:
        # A list that ships with the code is about one published set, of which there may be a part here.
        ignored = f" of {len(ids)}, the others are not in the set (-o folds.groups= uses none)" if unknown else ""
        print(f"groups: {path.name}: {len(found)} ids{ignored}; left out: {few(left_out) or 'none'}")
    links = [resolve_ids(part, filenames)[0] for part in groups.together]
    return dict.fromkeys(left_out, f"left out by {path.name}"), [part for part in links if len(part) > 1]


def read_identities(
    data: Data, raw: RawSet, folder: Path, quiet: bool = False, listed: Path | None = None
) -> list[Link] | None:
    """Who is the same person by the embeddings, the user's or those in data/<set>; None where there shall be none.

    listed: an identities.csv, whose links are checked where there are too many embeddings to look for them exactly."""
    config = data.folds
    path = embeddings_path(config.identities, config.embeddings, folder)
    if path is None:
        return None
    if not path.is_file():
        raise UserError(f"folds.embeddings={config.embeddings}: no such file; expected a csv of filename and numbers")
    filenames = [video.name for video in raw.videos]
    embeddings = read_embeddings(path, filenames, raw.unlabelled)
    if listed and listed.is_file() and len(embeddings.filenames) > EXACT_MOST:
        least = config.identity_similarity if config.identities else config.embedding_similarity
        links = recheck_links(embeddings, listed, least)
    elif config.identities:
        links = link_persons(embeddings, config.identity_similarity)
    else:
        links = find_links(embeddings, config.embedding_similarity)
    if not quiet:
        without = len(filenames) - len(embeddings.filenames)
        weakest = f", the weakest at {min(link.similarity for link in links):.3f}" if links else ""
        persons = f" of {len(embeddings.filenames) - len(links)} persons" if config.identities else ""
        print(
            f"identities: {path.name}: {len(embeddings.filenames)} videos{persons}; {len(links)} links{weakest}; "
            f"{without} videos have no embedding"
        )
    return links
