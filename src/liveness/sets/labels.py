"""A set as it came: which videos it has, and what the label file or the folders say about them.

Reads raw/<set>/{label.csv,videos/*,images/*} (or the videos beside label.csv); without a label file
raw/<set>/{live,spoof}/*; for the set "train" also raw/label.csv + train_video/*; else
data/<set>/{labels.csv,videos/}. Sets with neither are sets without labels. Writes nothing.

Still images are videos of one frame. They belong to the set where the label file names them, or where
there is no video.
"""

import os
import shlex
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from liveness.base.config import nearest
from liveness.base.errors import UserError
from liveness.base.files import (
    IMAGE_ENDINGS,
    IMAGES_FOLDER,
    VIDEO_ENDINGS,
    is_still,
    look_through,
    natural_key,
    plain_name,
    require_distinct_stems,
    workspace,
)
from liveness.base.names import Names, clean, find_column, loose, one_spelling
from liveness.base.tables import NAME_COLUMNS, read_table, table_text, wrong_separator
from liveness.sets.soft_labels import SOFT, WEIGHT, part_label, read_weights

__all__ = ["RawSet", "find_set", "other_sets", "read_labels", "read_table", "set_name", "table_text"]

LABEL_FILES = ("label.csv", "labels.csv")
LABEL_COLUMNS = ("label", "liveness_score")
OUR_COLUMNS = ("subject", "species", "camera", WEIGHT)  # what else of a label file is used
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
# Names of the two folders of a set without a label file; case, blanks, - and _ do not count.
_CLASS_FOLDERS = {
    1: ("live", "real", "bonafide", "genuine", "1"),
    0: ("spoof", "fake", "attack", "attacks", "0"),
}


@dataclass(frozen=True)
class RawSet:
    """A set before preparation.

    ``videos`` are those that belong to it, in natural order. ``labels`` has one row per video in
    the same order: filename, label (0 or 1, 1 = live) and every other column of the label file as
    strings; None for a set without labels. Labels without a ``label_file`` are those of two folders.
    ``unlabelled`` are the names that the folder has and the label file does not: they are no part of
    the set. ``notes`` are what a reader should know of how it was read; ``folders`` hold the videos.
    """

    name: str
    videos: list[Path]
    labels: pd.DataFrame | None
    label_file: Path | None
    unlabelled: list[str]
    notes: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def labels_csv(self) -> bytes | None:
        """The content of data/<set>/labels.csv: the label file's, or that of a table of the folders."""
        if self.label_file is not None:
            return self.label_file.read_bytes()
        return None if self.labels is None else table_text(self.labels).encode()


def find_set(name: str) -> RawSet:
    """Find the set ``name`` in one of its layouts and check its labels; a UserError if it is not whole."""
    plain_name(name, "name of the set")
    label_file, folders = _locate(name)
    folder = folders[0]
    there = _files_in(folders)
    videos = _without_images(there)
    if label_file is None and (not videos or is_still(videos[0])):
        classes = next((classes for path in folders if (classes := _class_folders(path))), None)
        if classes:
            return _set_of_folders(name, classes)
    labels = None if label_file is None else read_labels(label_file)
    if labels is not None:
        videos = _with_named_images(videos, there, list(labels["filename"]))
    require_distinct_stems(videos)
    if not videos:
        raise UserError(f"{folder}: no video in it; expected files ending in {_endings()}{_within(folder)}")
    _check_letters(videos)
    if label_file is None or labels is None:
        beside = [path.name for paths in (_class_folders(folder) or {}).values() for path in paths]
        notes = [f"{folder}: {', '.join(beside)} are not read, since videos lie beside them"] if beside else []
        return RawSet(name, videos, None, None, [], notes, folders)
    names = Names(path.name for path in videos)
    labels["filename"], notes = _as_on_disk(list(labels["filename"]), names, label_file, folders)
    by_name = {path.name: path for path in videos}
    order = {path.name: i for i, path in enumerate(videos)}
    labels = labels.sort_values("filename", key=lambda column: column.map(order)).reset_index(drop=True)
    named = set(labels["filename"])
    others = [path.name for path in videos if path.name not in named]
    mine = [by_name[filename] for filename in labels["filename"]]
    return RawSet(name, mine, labels, label_file, others, notes, folders)


def _files_in(folders: list[Path]) -> list[Path]:
    """The videos and still images of some folders, natural order."""
    found = [path for folder in folders for path in look_through(folder, images=True)[0]]
    return sorted(found, key=lambda path: natural_key(path.name))


def _without_images(files: list[Path]) -> list[Path]:
    """The videos; where there is none, the images."""
    return [path for path in files if not is_still(path)] or files


def _with_named_images(videos: list[Path], there: list[Path], named: list[str]) -> list[Path]:
    """``videos`` and those images that a label file names and that are no video by that name."""
    names, chosen = Names(path.name for path in videos), set(videos)
    images = Names(path.name for path in there if path not in chosen)
    meant = {images.get(name) for name in named if names.get(name) is None}
    return [path for path in there if path in chosen or path.name in meant]


def _endings() -> str:
    return ", ".join((*VIDEO_ENDINGS, *IMAGE_ENDINGS))


def _check_letters(videos: list[Path]) -> None:
    for path in videos:
        # Cc: control characters; Cs: what Python makes of bytes that are no UTF-8.
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path.name):
            name = os.fsencode(path.name)
            raise UserError(f"{path.parent}: {name!r}: a line break, a control character or no UTF-8; rename it")


def _as_on_disk(named: list[str], names: Names, where: Path, folders: list[Path]) -> tuple[list[str], list[str]]:
    """The names of a label file as the files have them, and notes; a UserError names those that are no video."""
    absent = [name for name in named if names.get(name) is None]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise UserError(f"{where}: {absent[0]!r}{more} {_why_absent(absent[0], names, folders)}")
    found = [names.get(name) or name for name in named]
    seen: dict[str, str] = {}
    for name, path in zip(named, found, strict=True):
        if path in seen:
            raise UserError(f"{where}: {seen[path]!r} and {name!r} are one video; expected it once")
        seen[path] = name
    bare = [(name, path) for name, path in zip(named, found, strict=True) if clean(name) != clean(path)]
    if not bare:
        return found, []
    name, path = bare[0]
    return found, [f"{where.name} names {len(bare)} videos without their ending: {name} is {path}"]


def _why_absent(name: str, names: Names, folders: list[Path]) -> str:
    """Why a name of the label file is no video of ``folders``, and what to do."""
    there = [path for folder in folders for path in sorted(folder.iterdir())]
    other = next((path for path in there if clean(path.name) == clean(name)), None)
    if other is not None and other.suffix.lower() == ".gif":
        gif, mp4 = shlex.quote(str(other)), shlex.quote(str(other.with_suffix(".mp4")))
        return (
            f"is a GIF, which is not read; make a video of it and name that in the label file: ffmpeg -i {gif} "
            f"-vf 'scale=trunc(iw/2)*2:trunc(ih/2)*2' -pix_fmt yuv420p {mp4} (or delete its row)"
        )
    if other is not None:
        return (
            f"is there as {other.name!r}, whose ending is none of {_endings()}; rename or convert it, or delete its row"
        )
    near = names.near_miss(name)
    where = " and ".join(map(str, folders))
    if near:
        return f"is not there, but {near}; expected the names as the files in {where} have them"
    return f"is not there; expected every named video in {where}"


def read_labels(path: Path) -> pd.DataFrame:
    """A label file as filename, label (int) and its other columns (strings), in the file's order.

    The header names the columns, in any case: fname or filename, liveness_score or label, and if you like
    subject, species, camera and weight. A label between 0 and 1 is soft (sets/soft_labels.py): ``label`` is then its
    class, and there is a column soft_label. Rows without any value are skipped. A UserError for missing columns, labels
    that are none, weights not above 0, names with a folder in them, names given twice, species or cameras that differ
    only by case or blanks.
    """
    table = read_table(path, [], lines=True)
    lines, table, columns = list(table.index), table.reset_index(drop=True), list(table.columns)
    try:
        name, label = find_column(columns, *NAME_COLUMNS), find_column(columns, *LABEL_COLUMNS)
        both = [c for c in (find_column(columns, wanted) for wanted in LABEL_COLUMNS) if c]
        ours = {find_column(columns, wanted): wanted for wanted in OUR_COLUMNS}
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if name is None or label is None:
        lacks = ("fname" if name is None else "") or "liveness_score"
        raise UserError(
            f"{path}: its columns are {', '.join(columns) or 'none'}; expected fname,liveness_score "
            f"(or filename,label), and others if you like{wrong_separator(path) or nearest(lacks, columns)}"
        )
    if len(both) > 1 and (table[both[0]] != table[both[1]]).any():
        raise UserError(f"{path}: its columns {both[0]} and {both[1]} contradict each other; expected one of them")
    if table.empty:
        raise UserError(f"{path}: no row in it; expected one per video")
    _check_rows(path, lines, list(table[name]), list(table[label]))
    if SOFT in columns:
        raise UserError(f"{path}: write soft labels into the column {label} (0.93), not into a column {SOFT}")
    parted = [LABELS.get(v.strip(), part_label(v)) for v in table[label]]
    classes, soft = zip(*(p if isinstance(p, tuple) else (p, "") for p in parted), strict=True)
    head = pd.DataFrame({"filename": table[name], "label": classes})
    head = head.assign(**{SOFT: soft}) if any(soft) else head
    used = {name, *both, *(find_column(columns, wanted) for wanted in NAME_COLUMNS)}
    rest = table[[c for c in columns if c not in used]].rename(columns={c: to for c, to in ours.items() if c})
    for column in ("species", "camera"):
        if column in rest:
            rest[column] = one_spelling(rest[column], f"{path}, column {column}")
    if WEIGHT in rest:
        read_weights(rest.assign(filename=head["filename"]), str(path))
    return pd.concat([head, rest], axis=1)


def _check_rows(path: Path, lines: list[int], names: list[str], labels: list[str]) -> None:
    """A UserError for the first row whose name or label is none; the words that people write are not guessed at."""
    seen: dict[str, int] = {}
    for line, filename, value in zip(lines, names, labels, strict=True):
        plain_name(filename, f"{path}, line {line}")
        if filename in seen:
            raise UserError(f"{path}, line {line}: {filename!r} is already in line {seen[filename]}; expected it once")
        if value.strip() not in LABELS and part_label(value) is None:
            words = sorted({label.strip() for label in labels} - set(LABELS) - {""})
            mapping = "expected 0 (attack) or 1 (live), or between them how probable live is, but for 0.5"
            if words and all(word[:1].isalpha() for word in words):
                said = ", ".join(map(repr, words[:4])) + (", …" if len(words) > 4 else "")
                mapping = (
                    f"its words ({said}) are not guessed at: write 1 for a live video (live, real, bona fide, genuine) "
                    "and 0 for an attack (spoof, fake, print, replay, mask)"
                )
            raise UserError(f"{path}, line {line}: label {value!r} of {filename!r}; {mapping}")
        seen[filename] = line


def _class_folders(folder: Path) -> dict[int, list[Path]] | None:
    """The folders of live (1) and attack videos (0) of a set without a label file, if it has both."""
    kinds = {name: label for label, names in _CLASS_FOLDERS.items() for name in names}
    found: dict[int | None, list[Path]] = {0: [], 1: [], None: []}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            found[kinds.get(loose(path.name).replace("-", "").replace("_", ""))].append(path)
    if not (found[0] and found[1]):
        return None
    if found[None]:
        # Folders 0, 1, 2 are persons as likely as labels, and a third kind of video would be lost without a word.
        raise UserError(
            f"{found[None][0]}: neither live nor spoof, beside {found[1][0].name} and {found[0][0].name}; "
            "expected no other folder there"
        )
    return {label: found[label] for label in (0, 1)}


def _set_of_folders(name: str, classes: dict[int, list[Path]]) -> RawSet:
    """A set whose labels are the folders' names; a folder within that of the attacks names their species."""
    found: list[tuple[Path, int, str]] = []
    folders: list[Path] = []
    for label, parents in classes.items():
        for parent in parents:
            inner = [path for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith(".")]
            if label == 1 and inner:
                raise UserError(f"{inner[0]}: a folder among the live videos; expected them directly in {parent}")
            species = {parent: "", **{path: path.name.strip() for path in inner}}
            folders += species
            found += [(path, label, kind) for where, kind in species.items() for path in _files_in([where])]
    found.sort(key=lambda row: natural_key(row[0].name))
    videos = _without_images([path for path, _, _ in found])
    rows = [row for row in found if is_still(row[0]) == is_still(videos[0])]
    for label, parents in classes.items():
        if not any(row[1] == label for row in rows):
            images = "; its images are not read, since the set has videos (a label file can name both)"
            also = images if any(row[1] == label for row in found) else ""
            raise UserError(f"{parents[0]}: no video in it; expected files ending in {_endings()}{also}")
    try:
        require_distinct_stems(videos)
    except UserError as error:
        where, name = shlex.quote(str(classes[0][0])), shlex.quote(classes[0][0].name)
        raise UserError(
            f'{error}. All of a folder: (cd {where} && for f in *.*; do mv -n "$f" {name}_"$f"; done)'
        ) from error
    _check_letters(videos)
    labels = pd.DataFrame({"filename": [path.name for path in videos], "label": [row[1] for row in rows]})
    if any(kind for _, _, kind in rows):
        labels["species"] = one_spelling([row[2] for row in rows], f"{classes[0][0]}, its folders")
    said = [f"{'live (1)' if k else 'attack (0)'}: {', '.join(p.name for p in classes[k])}" for k in (1, 0)]
    note = f"no label file; labels are those of the folders, {'; '.join(said)}"
    return RawSet(name, videos, labels, None, [], [note], folders)


def _within(folder: Path) -> str:
    """What else a folder without videos has, and how folders of the two classes are to be named."""
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not inner:
        return ""
    some = ", ".join(inner[:4]) + (", …" if len(inner) > 4 else "")
    return f"; it has the folders {some}: without a label file, one named live and one named spoof are read"


def set_name(text: str, say: bool = False) -> str:
    """The name of the set that ``text`` means: a name, or the path of its folder in raw/ or data/ (with a note).

    A UserError for a path that leads elsewhere.
    """
    if "/" not in text.rstrip("/"):
        return text.rstrip("/") or text
    root, path = workspace(), Path(text)
    places = [Path(os.path.abspath(place)) for place in (root / path, path, path.parent.resolve() / path.name)]
    bases = [root / "raw", root / "data"]
    found = [
        base / place.relative_to(base).parts[0]
        for place in places
        for base in bases
        if place.is_relative_to(base) and place != base
    ]
    if found:
        name = next((folder for folder in found if folder.is_dir()), found[0]).name
        if say:
            print(f"{text}: the set {name}")
        return name
    link = f"; to make it a set: ln -s {path.resolve()} {root / 'raw'}/" if path.is_dir() else ""
    raise UserError(
        f"{text!r} is not a plain file name: expected that of a folder in {root / 'raw'}{link}{other_sets('')}"
    )


def other_sets(name: str) -> str:
    """``; the sets that are there: …``, and the nearest to ``name``; "" where there is none."""
    root = workspace()
    found = {}
    for base in ("data", "raw"):
        here = root / base
        for path in sorted(here.iterdir()) if here.is_dir() else ():
            if path.is_dir() and not path.name.startswith(".") and path.name != "train_video":
                found[path.name] = f"{base}/{path.name}"
    if not found:
        return ""
    shown = sorted(found.values(), key=natural_key)
    some = ", ".join(shown[:8]) + (", …" if len(shown) > 8 else "")
    return f"; the sets that are there: {some}{nearest(name, list(found))}"


def _locate(name: str) -> tuple[Path | None, list[Path]]:
    """The label file (None: no labels) and the folder of a set's videos, then that of its images, where it has one."""
    root = workspace()
    folder = root / "raw" / name
    if folder.is_dir():
        videos, images = folder / "videos", folder / IMAGES_FOLDER
        first = videos if videos.is_dir() else folder
        return _label_file(folder), [first, images] if images.is_dir() else [first]
    if name == "train" and (root / "raw" / "label.csv").is_file():
        for videos in (root / "train_video", root / "raw" / "train_video"):
            if videos.is_dir():
                return root / "raw" / "label.csv", [videos]
        raise UserError(f"{root}/raw/label.csv is there, its videos are not; expected {root}/train_video/*.mp4")
    prepared = root / "data" / name
    if (prepared / "videos").is_dir():
        return _label_file(prepared), [prepared / "videos"]
    raise UserError(
        f"no set {name!r}: expected {folder}/label.csv with {folder}/videos/, or data/{name}/videos/"
        + (", or raw/label.csv with train_video/" if name == "train" else "")
        + other_sets(name)
    )


def _label_file(folder: Path) -> Path | None:
    path = next((folder / name for name in LABEL_FILES if (folder / name).exists()), None)
    if path is not None and not path.is_file():
        raise UserError(f"{path}: not a file; expected a csv file of fname,liveness_score")
    return path
