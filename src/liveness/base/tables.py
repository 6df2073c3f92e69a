"""Csv files, ours and those that people bring: every value a string, every refusal with the way to mend it."""

import codecs
import contextlib
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from liveness.base.config import nearest
from liveness.base.errors import UserError
from liveness.base.files import CODE, show_path, workspace
from liveness.base.names import find_column

NAME_COLUMNS = ("filename", "fname")
_AS_TEXT: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "index_col": False}
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_table(path: Path, columns: list[str], lines: bool = False) -> pd.DataFrame:
    """A csv file with every value as a string ("" for an empty one); its columns must include ``columns``.

    Their case and the blanks around them do not count, fname is filename; rows without any value are skipped.
    With ``lines`` the index is each row's line in the file, else it counts from 0.
    """
    with _telling(path):
        return _mend(pd.read_csv(path, **_AS_TEXT), path, columns, lines)


def read_parts(path: Path, columns: list[str], rows: int = 50_000) -> Iterator[pd.DataFrame]:
    """``read_table`` with ``lines`` in parts of up to ``rows``: of a wide file, whose strings would fill the memory."""
    with _telling(path), pd.read_csv(path, chunksize=rows, **_AS_TEXT) as parts:
        for part in parts:
            yield _mend(part, path, columns, lines=True)


def _mend(table: pd.DataFrame, path: Path, columns: list[str], lines: bool) -> pd.DataFrame:
    """A table as it was read, with its columns as they are wanted and without blank rows."""
    table.columns = [str(column).strip() for column in table.columns]
    table.index += 2
    table = table[~_blank_rows(table)]
    table = table if lines else table.reset_index(drop=True)
    missing = []
    for column in columns:
        try:
            found = find_column(list(table.columns), *(NAME_COLUMNS if column == "filename" else (column,)))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        if found is None:
            missing.append(column)
        else:
            table = table.rename(columns={found: column})
    if missing:
        known = list(table.columns)
        raise UserError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(known) or 'none'}, "
            f"expected {','.join(columns)}{wrong_separator(path) or nearest(missing[0], known)}"
        )
    return table


def _blank_rows(table: pd.DataFrame) -> np.ndarray:
    """Which rows have no value: a mask. A column is looked at only in the rows that are blank so far."""
    blank = np.ones(len(table), dtype=bool)
    for place in range(table.shape[1]):
        rows = np.flatnonzero(blank)
        if not len(rows):
            break
        blank[rows] = table.iloc[rows, place].str.strip() == ""
    return blank


def whole_numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A column of strings as whole numbers; a UserError names the first row (by its filename) that holds none."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    bad = table[numbers.isna() | (numbers % 1 != 0)]
    if len(bad):
        row = bad.iloc[0]
        raise UserError(f"{show_path(path)}: {column} {row[column]!r} of {row['filename']}; expected a whole number")
    return numbers.astype(int)


def table_text(table: pd.DataFrame) -> str:
    """A table as the text of a csv file: \\n at line ends, missing values empty."""
    return table.to_csv(index=False, lineterminator="\n")


def wrong_separator(path: Path) -> str:
    """``; its values are parted by semicolons …`` where the header of a file that was refused says so, or ""."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    if "," in header:
        return ""
    for sign, name in SEPARATORS.items():
        if sign in header:
            mend = f"tr '{repr(sign)[1:-1]}' , < {shlex.quote(str(path))} > mended.csv"
            return f"; its values are parted by {name}, expected commas: {mend}"
    return ""


def list_places(name: str) -> list[Path]:
    """Where a file that the configuration names may lie: in the workspace, with the code, from here."""
    path = Path(name).expanduser()
    return [path] if path.is_absolute() else [workspace() / path, CODE / path, path]


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """What pandas says of a file as a UserError."""
    try:
        _require_utf8(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except pd.errors.ParserWarning as error:
        raise UserError(
            f"{path}: a row has more values than the header has columns; quote a value with commas"
            f"{wrong_separator(path)}"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a csv file") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path}: the file is empty; expected a csv file with a header") from error
    except pd.errors.ParserError as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path}: not a csv file in UTF-8 ({why}){wrong_separator(path)}") from error
    except OSError as error:
        raise UserError(f"{path}: not a csv file in UTF-8 ({error.strerror or error})") from error


def _require_utf8(path: Path) -> None:
    """A UserError that names the likely encoding and the command that makes UTF-8 of it."""
    data = path.read_bytes()
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if marked or b"\0" in data[:4096]:
        name = "UTF-16" if marked else "UTF-16LE" if data[1:2] == b"\0" else "UTF-16BE"
        tabs = " | tr '\\t' ," if b"\t" in data else ""
        raise UserError(
            f"{path}: not a csv file in UTF-8 but in UTF-16{', parted by tabs' if tabs else ''} (as Excel's “Unicode "
            f"text”); expected UTF-8, commas: iconv -f {name} -t UTF-8 {shlex.quote(str(path))}{tabs} > mended.csv"
        )
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: not a csv file in UTF-8 (byte {data[error.start]:#04x} in line {line}); if it is Windows-1252, "
            f"as Excel saves “CSV”: iconv -f WINDOWS-1252 -t UTF-8 {shlex.quote(str(path))} > mended.csv"
        ) from error
