"""The doors for files that come from outside: tables of text, and JSON. Bytes in, bounded and decoded cells out.

Every error names the file, the row (0 is the first record) with its line, the column and the rule; cells are not repeated in
messages, because they may be a patient's.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import stat
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ionrt.quantities import IonrtError

MAX_BYTES = 2**28  # of a table; a cohort of 100 000 patients has 2**24
MAX_JSON = 2**24
MAX_COLUMNS = 20_000
DELIMITERS = ",;\t|"
WORKBOOKS = (b"PK\x03\x04", bytes.fromhex("D0CF11E0A1B11AE1"))  # first bytes of .xlsx and .ods, of .xls
ENCODINGS = ("utf-8", "cp949", "cp932", "euc_jp", "cp1252")
_NUMBER = r"\s*[+-]?(?:\d+(?:{mark}\d*)?|{mark}\d+)(?:[eE][+-]?\d{{1,3}})?\s*"
POINT, COMMA = (re.compile(_NUMBER.format(mark=mark), re.ASCII) for mark in (r"\.", ","))


def read_table(path: str | Path, *, encoding: str | None = None, delimiter: str | None = None) -> pd.DataFrame:
    """A table of text from a CSV file: nothing is guessed about the cells, only an empty cell is missing.

    Parameters
    ----------
    path : file of at most 256 MB with one line of column names.
    encoding : of the file; default: what a byte order mark says, else UTF-8, else Korean (cp949), Japanese (cp932, EUC-JP) or
        western European (cp1252) where the text fits exactly one of them.
    delimiter : one of comma, semicolon, tab and vertical bar; default: the one by which every row has as many fields as the
        line of names.

    Returns
    -------
    DataFrame of text, one row per record; ``attrs``: file (its name), encoding, delimiter.

    Raises
    ------
    IonrtError
        For what is no such file, with file, row, column and rule: unknown encoding, rows of another length, a quotation mark
        that never ends, two columns of one name. No cell is repeated in the message.

    Warns
    -----
    UserWarning
        Where the encoding was found by the text alone; state `encoding` to be sure.
    """
    file = Path(path)
    raw = _bytes(file, MAX_BYTES)
    text, used = _decoded(raw, file.name, encoding)
    if delimiter is not None and (len(delimiter) != 1 or delimiter not in DELIMITERS):
        raise IonrtError(f"{file.name}: delimiter is one of comma, semicolon, tab and vertical bar")
    mark = delimiter or _delimiter(text)
    header, rows, lines = _records(text, mark, file.name)
    names = _names(header, rows, file.name)
    for i, row in enumerate(rows):
        if len(row) != len(header):
            at = f"row {i} (line {lines[i]})"
            raise IonrtError(
                f"{file.name}, {at}: {len(row)} fields where the line of names has {len(header)}; a delimiter, a quotation mark"
                " or the end of the file is missing"
            )
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    frame = pd.DataFrame({i: pd.Series(cells, dtype="str") for i, cells in enumerate(columns)})
    frame = frame.iloc[:, [i for i, name in enumerate(names) if name]]
    frame.columns = pd.Index([name for name in names if name])
    out = frame.mask(frame.eq(""))
    out.attrs = {"file": file.name, "encoding": used, "delimiter": mark}
    return out


def table_of(source: pd.DataFrame | str | Path, what: str, *, encoding: str | None = None) -> pd.DataFrame:
    """A frame as it is (columns named once, rows counted from 0), or the table of a file."""
    if isinstance(source, (str, Path)):
        return read_table(source, encoding=encoding)
    if not isinstance(source, pd.DataFrame):
        raise IonrtError(f"{what}: expected a pandas.DataFrame or a CSV file, got {type(source).__name__}")
    if not source.columns.is_unique:
        raise IonrtError(f"{what}: two columns have one name")
    return source.reset_index(drop=True)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file of at most 16 MB: no NaN or infinity, no key twice; an error names the file and the place."""
    file = Path(path)
    text, _ = _decoded(_bytes(file, MAX_JSON), file.name, "utf-8")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) < len(items):
            raise IonrtError(f"{file.name}: a key stands twice in one object")
        return out

    def constant(name: str) -> Any:
        raise IonrtError(f"{file.name}: {name} is no number in JSON")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise IonrtError(f"{file.name}: is no JSON; {error.msg} in line {error.lineno}, column {error.colno}") from None
    except IonrtError:
        raise
    except (ValueError, RecursionError) as error:  # whole numbers of thousands of digits, brackets without end
        raise IonrtError(f"{file.name}: is no JSON that can be read ({type(error).__name__})") from None


def distinct(cells: pd.Series) -> list[str]:
    """Each text that a column of text holds: what is asked of a text is asked once."""
    return [v for v in cells.unique().tolist() if isinstance(v, str)]


def numbers(cells: pd.Series, *, comma: bool = False) -> pd.Series:
    """float64 of numbers and of text such as 57.6 (57,6 with `comma`); NaN where a cell is empty or no finite number."""
    out = pd.Series(np.nan, index=cells.index, dtype="float64")
    if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_complex_dtype(cells):
        out = cells.astype("float64")
    elif not pd.api.types.is_datetime64_any_dtype(cells) and not pd.api.types.is_timedelta64_dtype(cells):
        fits = (COMMA if comma else POINT).fullmatch
        out = cells.map(lambda v: _number(v, fits)).astype("float64")
    return out.where(np.isfinite(out))


def _number(cell: Any, fits: Any) -> float:
    if isinstance(cell, str):
        return float(cell.replace(",", ".")) if fits(cell) else math.nan
    if isinstance(cell, (int, float, np.integer, np.floating)) and not isinstance(cell, (bool, np.bool_)):
        try:
            return float(cell)
        except OverflowError:
            return math.inf
    return math.nan


def decimal_comma(columns: list[pd.Series]) -> bool:
    """Whether the numbers of a table are written with a decimal comma: some are, none has a point, not all like 1,234."""
    written = [c for cells in columns if not pd.api.types.is_numeric_dtype(cells) for c in cells if isinstance(c, str)]
    if any("." in cell and POINT.fullmatch(cell) for cell in written):
        return False
    commas = [cell for cell in written if "," in cell and COMMA.fullmatch(cell)]
    return not all(re.fullmatch(r"\s*[+-]?\d{1,3},\d{3}\s*", cell) for cell in commas)


def _bytes(file: Path, limit: int) -> bytes:
    """The bytes of a regular file of bounded size."""
    try:
        said = file.stat()
        if not stat.S_ISREG(said.st_mode):
            raise IonrtError(f"{file.name}: expected a file, this is none")
        if said.st_size > limit:
            raise IonrtError(f"{file.name}: {said.st_size / 2**20:.0f} MB; at most {limit / 2**20:.0f} MB are read")
        with file.open("rb") as stream:
            raw = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, IonrtError):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise IonrtError(f"{file.name}: cannot be read ({why})") from None
    if len(raw) > limit:
        raise IonrtError(f"{file.name}: more than {limit / 2**20:.0f} MB")
    if raw.startswith(WORKBOOKS):
        raise IonrtError(f"{file.name}: is an Excel workbook or an archive, no table of text; save it as CSV UTF-8 there")
    return raw


def _decoded(raw: bytes, name: str, encoding: str | None) -> tuple[str, str]:
    """The text and its encoding: stated, marked, UTF-8, or the only one of the others that makes sense."""
    if encoding is not None:
        try:
            used = codecs.lookup(encoding).name
            text = raw.decode(used)
        except (LookupError, AttributeError):
            raise IonrtError(f"{name}: encoding {encoding!r} does not exist; usual ones are {', '.join(ENCODINGS)}") from None
        except (UnicodeError, ValueError) as error:
            raise IonrtError(
                f"{name}: is not {encoding}{_place(raw, error)}; save as UTF-8 or state another encoding"
            ) from None
        if not isinstance(text, str):
            raise IonrtError(f"{name}: {encoding!r} is no encoding of text")
    else:
        text, used = _detected(raw, name)
    text = text.removeprefix("\ufeff")
    odd = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]", text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise IonrtError(
            f"{name}, line {line}: holds a control character (U+{ord(odd[0]):04X}); this is no text file, or damaged"
        )
    return text, used


def _detected(raw: bytes, name: str) -> tuple[str, str]:
    for mark, codec in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if raw.startswith(mark):
            try:
                return raw.decode(codec), codec
            except UnicodeError as error:
                raise IonrtError(
                    f"{name}: begins like {codec} and is not{_place(raw, error)}; save it as UTF-8 again"
                ) from None
    try:
        return raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        where = _place(raw, error)
    fitting = [(codec, text) for codec in ENCODINGS[1:] if (text := _sensible(raw, codec)) is not None]
    if len(fitting) != 1:
        few = ", ".join(codec for codec, _ in fitting) or "none of " + ", ".join(ENCODINGS[1:])
        raise IonrtError(f"{name}: is not UTF-8{where} and fits {few}; save it as UTF-8, or state encoding=")
    warnings.warn(
        f"{name}: is not UTF-8; read as {fitting[0][0]}, which its text fits. State encoding= to be sure", stacklevel=5
    )
    return fitting[0][1], fitting[0][0]


def _sensible(raw: bytes, codec: str) -> str | None:
    """The text where its letters beyond ASCII are those that this encoding is used for."""
    try:
        text = raw.decode(codec)
    except UnicodeDecodeError:
        return None
    far = [c for c in text if ord(c) > 127]
    names = [unicodedata.name(c, "") for c in far]
    hangul, jamo, half, latin, han = (
        sum(name.startswith(script) for name in names)
        for script in ("HANGUL SYLLABLE", "HANGUL LETTER", "HALFWIDTH", "LATIN", "CJK")
    )
    kana = sum(name.startswith(("HIRAGANA", "KATAKANA")) for name in names)
    if codec == "cp949":
        # Korean is in Hangul, nearly always the 2350 syllables of KS X 1001; much Han or letters: Chinese, Japanese
        common = sum(
            name.startswith("HANGUL SYLLABLE") and min(c.encode("cp949")) >= 0xA1 for c, name in zip(far, names, strict=True)
        )
        return text if common > 0 and common >= 0.9 * hangul and han <= 0.1 * common and jamo <= 0.1 * common else None
    if codec == "euc_jp":  # hiragana and katakana would be letters of Hangul and Greek
        return text if 10 * kana >= kana + han > 0 and 2 * (kana + han) > len(far) else None
    if codec == "cp932":
        return text if kana + han > 0 and half <= 0.2 * (kana + han) else None
    signs = sum(c in "°µ²³·±§€–—‘’“”…«»ªº" for c in far)
    alone = not re.search(r"[^\x00-\x7f]{3}", text)
    return text if alone and latin > 0 and latin + signs == len(far) else None


def _place(raw: bytes, error: Exception) -> str:
    """Row and column of the first byte that cannot be decoded."""
    at = getattr(error, "start", None)
    if at is None:
        return ""
    line = raw.count(b"\n", 0, at)
    before = raw[raw.rfind(b"\n", 0, at) + 1 : at]
    mark = max((m.encode() for m in DELIMITERS), key=before.count)
    if line == 0:
        return f" (line 1, column name {before.count(mark) + 1})"
    heads = raw[: max(raw.find(b"\n"), 0)].split(mark)
    k = before.count(mark)
    column = heads[k].strip(b' "\r').decode("ascii", "replace") if k < len(heads) else str(k + 1)
    return f" (row {line - 1}, line {line + 1}, column {column})"


def _delimiter(text: str) -> str:
    """The delimiter that a first line ``sep=;`` of Excel states, else that by which the first rows have as many fields as the
    names; comma where there is one column."""
    if stated := re.match(rf"sep=([{''.join(DELIMITERS)}])\r?\n", text):
        return stated[1]
    head = [line for line in text[:65536].splitlines()[:50] if line.strip()]
    if len(text) > 65536 and len(head) < 50:
        head = head[:-1] or head

    def score(mark: str) -> float:
        widths = [line.count(mark) for line in head]
        return widths[0] + 1000.0 * sum(w == widths[0] for w in widths) / len(widths) if any(widths[:1]) else 0.0

    return max(DELIMITERS, key=score)


def _records(text: str, mark: str, name: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Names, rows and the line in which each row ends; blank lines are no rows."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    found: list[tuple[list[str], int]] = []
    try:
        for row in reader:
            if row and (found or row != ["sep=", ""]):
                found.append((row, reader.line_num))
    except csv.Error as error:
        said = "a quotation mark never ends" if "unexpected end" in str(error) else str(error)
        raise IonrtError(f"{name}, row {max(len(found) - 1, 0)} (line {reader.line_num}): {said}") from None
    if not found:
        raise IonrtError(f"{name}: is empty; expected a line of column names")
    if len(header := found.pop(0)[0]) > MAX_COLUMNS:
        raise IonrtError(f"{name}: {len(header)} columns; at most {MAX_COLUMNS} are read")
    return header, [row for row, _ in found], [line for _, line in found]


def _names(header: list[str], rows: list[list[str]], name: str) -> list[str]:
    """Column names without space around them, each once; "" for a column that is empty from top to bottom."""
    names = [unicodedata.normalize("NFC", h.strip()) for h in header]
    for i, one in enumerate(names):
        if not one and any(len(row) > i and row[i].strip() for row in rows):
            raise IonrtError(f"{name}: column {i + 1} has cells and no name")
    place: dict[str, int] = {}
    for i, one in enumerate(names):
        if one and place.setdefault(one, i) != i:  # not by name: without a line of names it is a cell
            raise IonrtError(
                f"{name}: columns {place[one] + 1} and {i + 1} have one name; every column needs a name of its own"
            )
    if not any(names):
        raise IonrtError(f"{name}: has no column names")
    return names
