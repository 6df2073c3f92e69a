"""Names as people write them: the columns, file names and subjects of every table are compared here.

Blanks around a name do not count, nor which of Unicode's two spellings an accented letter has (macOS
writes another one than most others). Anything else that differs is never guessed at: it is said.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from liveness.base.errors import UserError


def clean(text: str) -> str:
    """A name without the blanks around it, its accented letters as one sign each (NFC)."""
    return unicodedata.normalize("NFC", text.strip())


def loose(text: str) -> str:
    """What is left of a name when case and blanks do not count: equal for two that are easily confused."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def stem_of(name: str) -> str:
    """A file name without its ending: ``Path(name).stem`` of a name without a folder, at a tenth of its time."""
    dot = name.rfind(".")
    return name[:dot] if 0 < dot < len(name) - 1 else name


def find_column(columns: Sequence[str], *wanted: str) -> str | None:
    """The column of the first of the ``wanted`` names that is there: exactly so, else in another case or with blanks.

    A UserError where two columns are the same but for that.
    """
    for name in wanted:
        if name in columns:
            return name
        alike = [column for column in columns if clean(column).casefold() == clean(name).casefold()]
        if len(alike) > 1:
            raise UserError(f"the columns {' and '.join(map(repr, alike))} are both {name}; expected it once")
        if alike:
            return alike[0]
    return None


def one_spelling(values: Iterable[str], what: str) -> list[str]:
    """The values, those that differ by surrounding blanks or Unicode spelling all in the spelling of the first.

    ``what`` says what they are and where ("label.csv, column subject"). A UserError names the first two that
    differ only by case or inner blanks: one person under two names would be on both sides of a fold.
    """
    first: dict[str, str] = {}
    known: dict[str, str] = {}
    spelled = []
    for value in values:
        key = clean(value)
        if key:
            one = first.setdefault(key, value.strip())
            other = known.setdefault(loose(key), key)
            if other != key:
                raise UserError(
                    f"{what}: {first[other]!r} and {one!r} differ only by case or blanks; "
                    "write the same name in one way, or give two that are not the same names that differ in more"
                )
        spelled.append(first.get(key, ""))
    return spelled


class Names:
    """The file names of a folder, to look up what tables call them."""

    def __init__(self, filenames: Iterable[str]) -> None:
        self.filenames = list(filenames)
        self._exact = set(self.filenames)
        self._by_name = _unambiguous((clean(name), name) for name in self.filenames)
        self._by_stem = _unambiguous((clean(stem_of(name)), name) for name in self.filenames)

    def get(self, name: str) -> str | None:
        """The file that ``name`` (with or without its ending) means; None for none, or for several."""
        if name in self._exact:
            return name
        key = clean(name)
        return self._by_name.get(key) or self._by_stem.get(key) or None

    def near_miss(self, name: str) -> str:
        """Which file a name that means none just misses, and by what; "" where there is none."""
        for way, by in _WAYS:
            wanted = way(clean(name))
            other = next((file for file in self.filenames if way(clean(file)) == wanted), None)
            if other is not None:
                return f"{other!r} is there: {by}"
        return ""

    def require(self, names: Iterable[str], path: Path, also: Iterable[str] = ()) -> None:
        """A UserError with the count and three examples unless every name means a file here or in ``also``."""
        names, others = list(dict.fromkeys(names)), Names(also)
        unknown = [name for name in names if self.get(name) is None and others.get(name) is None]
        if not unknown:
            return
        examples = ", ".join(map(repr, unknown[:3])) + (", …" if len(unknown) > 3 else "")
        near = self.near_miss(unknown[0])
        here = f" ({near})" if near else f"; its names look like {self.filenames[0]!r}" if self.filenames else ""
        raise UserError(
            f"{path}: {len(unknown)} of its {len(names)} names are no video of the set: {examples}{here}; "
            "expected each to be one, with or without its ending: correct or delete them"
        )


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """key -> name; "" for a key of several names."""
    found: dict[str, str] = {}
    for key, name in pairs:
        found[key] = name if found.get(key, name) == name else ""
    return found


def _without_zeros(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _stem(text: str) -> str:
    return Path(text).stem if Path(text).suffix[1:2].isalpha() else text


# From the nearest to the farthest: what two names have in common, and what then is different.
_WAYS = (
    (str.casefold, "upper and lower case differ"),
    (_stem, "another ending"),
    (_without_zeros, "zeros in front are lost (Excel drops them unless the column is text)"),
    (lambda text: _without_zeros(_stem(text)), "zeros in front are lost, and the ending"),
    (lambda text: _without_zeros(_stem(loose(text))), "case, blanks, ending or zeros in front differ"),
)


def few(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
