"""The six tables of the exchange cohort: load, save, validate; `dictionary.yaml` is the only source of the checks."""

from __future__ import annotations

import copy
import functools
import operator
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ionrt.cohort.doors import decimal_comma, distinct, numbers, read_table
from ionrt.files import read_yaml, write_text
from ionrt.quantities import IonrtError

Tables = dict[str, pd.DataFrame]
COLUMNS = ["table", "row", "column", "rule", "value"]
SHOWN = 200  # kinds of violation spelled out in the message; all violations are in the exception
ROWS_SHOWN = 5
MAX_CELL = 10_000  # characters
LIMITS = (("min", "at least", operator.lt), ("above", "greater than", operator.le), ("max", "at most", operator.gt))


class CohortError(IonrtError):
    """Tables that break the dictionary; `violations` lists every place: table, row, column, rule. No cell is repeated."""

    def __init__(self, violations: pd.DataFrame) -> None:
        self.violations = violations.drop(columns="value", errors="ignore")
        kinds = violations.groupby(["table", "column", "rule"], sort=False)["row"].agg(list)
        lines = [f"  {table}, {column}: {_where(rows)}{rule}" for (table, column, rule), rows in kinds.head(SHOWN).items()]
        more = f"\n  ... and {len(kinds) - SHOWN} more kinds (see .violations)" if len(kinds) > SHOWN else ""
        places = f"{len(violations)} place{'s' if len(violations) > 1 else ''}"
        super().__init__(f"the cohort breaks its dictionary in {places}:\n" + "\n".join(lines) + more)


def _where(rows: list[Any]) -> str:
    """ "row 4: ", "120 rows (0, 1, 2, 3, 4, ...): ", or nothing where a whole column or table is meant."""
    if rows == ["-"]:
        return ""
    first = ", ".join(map(str, rows[:ROWS_SHOWN])) + (", ..." if len(rows) > ROWS_SHOWN else "")
    return f"row {first}: " if len(rows) == 1 else f"{len(rows)} rows ({first}): "


@functools.cache
def _shipped_dictionary() -> dict[str, Any]:
    """`dictionary.yaml`, read once, with the vocabularies put in place of their names."""
    raw = read_yaml(Path(__file__).with_name("dictionary.yaml"))
    for table in raw["tables"].values():
        for column in table["columns"].values():
            if isinstance(column.get("allowed"), str):
                column["allowed"] = list(raw["vocabulary"][column["allowed"]])
    return raw


def dictionary() -> dict[str, Any]:
    """The data dictionary: ``{"tables": {table: {"columns": {column: {...}}}}, "rules": {...}}``, which may be changed freely.

    Per table `key`, `references` and `columns`; per column `type` (str, int, float), `required`, `allowed`, `min`, `max`,
    `above`, `pattern`, `unit`, `label`.
    """
    return copy.deepcopy(_shipped_dictionary())


def load(path: str | Path, *, encoding: str | None = None) -> Tables:
    """Read and validate a folder with one file per table (``patient.csv`` or ``patient.parquet``, ...).

    Parameters
    ----------
    path : folder; ``dose_metric`` and ``toxicity`` may be absent, the other tables may not. Parquet needs the package pyarrow,
        which ionrt does not bring.
    encoding : of the CSV files (default: as `read_table` finds it; decimal commas are understood where a table has no decimal
        point).

    Returns
    -------
    Dict of data frames in the order of the dictionary, one row per record.

    Raises
    ------
    IonrtError
        A table is missing or is no such file (file, row, column), CohortError with every violation where the content is wrong.
    """
    folder = Path(path)
    if not os.path.isdir(folder):
        raise IonrtError(f"expected a folder with patient.csv, course.csv, event.csv, followup.csv; {folder.name!r} is none")
    tables, missing = {}, []
    for name, spec in _shipped_dictionary()["tables"].items():
        files = [f for f in (folder / f"{name}.parquet", folder / f"{name}.csv") if f.exists()]
        if len(files) > 1:
            raise IonrtError(f"{name}: both {files[0].name} and {files[1].name} are there; keep one")
        if files:
            tables[name] = _read(files[0], encoding)
        elif not spec.get("optional"):
            missing.append(name)
    if missing:
        raise IonrtError(f"{folder.name}: no file for {', '.join(missing)}; expected {missing[0]}.csv or .parquet")
    return validate(tables)


def _read(file: Path, encoding: str | None) -> pd.DataFrame:
    """A table as text: only an empty cell is missing (NONE is a dose system, NA may be a stage)."""
    if file.suffix == ".csv":
        return read_table(file, encoding=encoding)
    try:
        return pd.read_parquet(file)
    except ImportError as error:
        raise IonrtError(
            f"{file.name}: reading parquet needs the package pyarrow; install it, or export {file.stem} as CSV"
        ) from error
    except Exception as error:  # whatever the library says of a damaged file
        raise IonrtError(
            f"{file.name}: is no readable parquet file ({type(error).__name__}); export {file.stem} as CSV"
        ) from error


def save(tables: Mapping[str, pd.DataFrame], path: str | Path, *, digits: int = 4) -> None:
    """Write the tables as CSV into a folder, each file in one step. For use inside the site: nothing is suppressed.

    Parameters
    ----------
    tables : as from `validate`.
    path : folder, made where absent.
    digits : decimals of float columns.

    Raises
    ------
    CohortError
        The tables break the dictionary; nothing is written then.
    """
    checked, folder = validate(tables), Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in checked.items():
        write_text(folder / f"{name}.csv", table.round(digits).to_csv(index=False, lineterminator="\n"))


def validate(tables: Mapping[str, pd.DataFrame], *, dictionary: Mapping[str, Any] | None = None) -> Tables:
    """Check all tables against the dictionary and return them with proper types; nothing is dropped or repaired.

    Parameters
    ----------
    tables : dict of data frames (patient, course, dose_metric, event, toxicity, followup; one row per record).
    dictionary : another dictionary of the same form (default: the shipped one).

    Returns
    -------
    New frames: columns in the order of the dictionary, own ``x_`` columns last, numbers as int64 or float64.

    Raises
    ------
    CohortError
        Lists every violation with table, row (0 is the first record), column and rule; no cell is repeated.
    """
    found, clean = _examine(tables, dictionary or _shipped_dictionary())
    if len(found):
        raise CohortError(found)
    first = clean.get("patient", pd.DataFrame()).get("origin", pd.Series(dtype="str"))
    origin = str(first.iloc[0]) if len(first) else "clinical"
    for name, table in clean.items():
        table.attrs = {**dict(tables[name].attrs if name in tables else {}), **table.attrs, "origin": origin}
    return clean


def violations(
    tables: Mapping[str, pd.DataFrame], *, dictionary: Mapping[str, Any] | None = None, values: bool = False
) -> pd.DataFrame:
    """Every violation of the dictionary as a table: table, row, column, rule (empty where all is well).

    Parameters
    ----------
    tables, dictionary : as in `validate`.
    values : add the column `value` with the cells, which may be a patient's.

    Returns
    -------
    DataFrame: table, row (0 is the first record), column, rule.

    Raises
    ------
    IonrtError
        Objects that are not tables.
    """
    found = _examine(tables, dictionary or _shipped_dictionary())[0]
    return found if values else found.drop(columns="value")


def _examine(tables: Mapping[str, pd.DataFrame], spec: Mapping[str, Any]) -> tuple[pd.DataFrame, Tables]:
    """All violations and the typed tables."""
    from ionrt.cohort.rules import cross_table

    found: list[tuple[Any, ...]] = []
    clean: Tables = {}
    for name in tables:
        if name not in spec["tables"]:
            found.append((name, "-", "-", f"unknown table; there are {', '.join(spec['tables'])}", name))
    for name, table_spec in spec["tables"].items():
        if name not in tables:
            if not table_spec.get("optional"):
                found.append((name, "-", "-", "table is missing", None))
            clean[name] = _empty(table_spec)
            continue
        if not isinstance(tables[name], pd.DataFrame):
            raise IonrtError(f"{name}: expected a pandas.DataFrame, got {type(tables[name]).__name__}")
        if not tables[name].columns.is_unique:
            twice = ", ".join(sorted({str(c) for c in tables[name].columns[tables[name].columns.duplicated()]}))
            raise IonrtError(f"{name}: column {twice} stands twice; every column needs a name of its own")
        clean[name], wrong = typed(name, tables[name].reset_index(drop=True), table_spec)
        found += wrong + list(_columns_hold(name, clean[name], table_spec, {(r, c) for _, r, c, *_ in wrong}))
    found += cross_table(clean, spec)
    listed = pd.DataFrame(found, columns=COLUMNS).drop_duplicates(["table", "row", "column", "rule"], ignore_index=True)
    return listed, clean


def _empty(spec: Mapping[str, Any]) -> pd.DataFrame:
    kind = {"str": "str", "int": "float64", "float": "float64"}
    return pd.DataFrame({c: pd.Series(dtype=kind[s["type"]]) for c, s in spec["columns"].items()})


def typed(name: str, table: pd.DataFrame, spec: Mapping[str, Any]) -> tuple[pd.DataFrame, list[tuple[Any, ...]]]:
    """Numbers as numbers, text as text; what cannot become its type is listed and left empty."""
    known = [c for c in spec["columns"] if c in table]
    if len(table.columns) and not known:
        names = ", ".join(spec["columns"])
        return _empty(spec).reindex(range(len(table))), [
            (name, "-", "-", f"none of its columns is there ({names}); is the line of names missing?", None)
        ]
    wrong: list[tuple[Any, ...]] = []
    out: dict[str, Any] = {}
    is_number = [c for c in known if spec["columns"][c]["type"] != "str"]
    comma = decimal_comma([table[c] for c in is_number])
    for column, rules in spec["columns"].items():
        if column not in table:
            if rules.get("required"):
                wrong.append((name, "-", column, "column is missing", None))
            out[column] = _empty(spec)[column].reindex(range(len(table)))
            continue
        cells = _stripped(table[column])
        if rules["type"] == "str":
            out[column] = cells
            if cells.dtype != "str":
                out[column] = cells.map(_text, na_action="ignore").astype("str").where(cells.notna(), np.nan)
            continue
        number = numbers(cells, comma=comma)
        bad = number.isna() & cells.notna()
        rule = "a number is needed"
        if rules["type"] == "int":
            bad, rule = bad | (number.notna() & (number % 1 != 0)), "a whole number is needed"
        wrong += [(name, int(i), column, rule, cells[i]) for i in np.flatnonzero(bad)]
        number = number.where(~bad)
        whole = rules["type"] == "int" and number.notna().all() and (number.abs() < 2**53).all()
        out[column] = number.astype("int64") if whole else number
    for column in table.columns.difference(list(spec["columns"]), sort=False):
        if str(column).startswith("x_"):
            out[column] = table[column]
        else:
            wrong.append((name, "-", column, "column is not in the dictionary (own columns start with x_)", None))
    made = pd.DataFrame(out, index=table.index)
    made.attrs["decimal"] = "," if comma else "."
    return made, wrong


def _stripped(cells: pd.Series) -> pd.Series:
    """Without space around text; text of nothing but space is an empty cell."""
    if cells.dtype == "str":
        if all(v and v == v.strip() for v in distinct(cells)):
            return cells
        bare = cells.str.strip()
        return bare.mask(bare.eq(""))
    if cells.dtype.kind in "iufbmM":
        return cells
    return cells.mask(np.array([isinstance(v, str) and not v.strip() for v in cells], dtype=bool))


def _text(cell: Any) -> str:
    """Text of a cell; a number that came where text belongs loses its '.0'."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _columns_hold(
    name: str, table: pd.DataFrame, spec: Mapping[str, Any], skip: set[tuple[Any, Any]]
) -> Iterator[tuple[Any, ...]]:
    """Rules of single columns and keys; one violation per cell. `skip` holds (row, column) that are listed already."""
    for column, rules in spec["columns"].items():
        if ("-", column) in skip or ("-", "-") in skip:
            continue
        cells = table[column]
        there = cells.notna()
        if rules.get("required"):
            yield from _cells(name, column, "may not be empty", cells, ~there, skip)
        for rule, bad in _broken(cells, rules):
            yield from _cells(name, column, rule, cells, there & bad, skip)
    key = [c for c in spec.get("key", []) if ("-", c) not in skip]
    if key:
        twice = table.duplicated(key) & table[key[0]].notna()
        yield from _cells(name, key[0], f"{' + '.join(key)} must be unique", table[key[0]], twice, set())


def _cells(
    name: str, column: str, rule: str, cells: pd.Series, bad: pd.Series, skip: set[tuple[Any, Any]]
) -> Iterator[tuple[Any, ...]]:
    for row in np.flatnonzero(bad):
        if (int(row), column) not in skip:
            yield name, int(row), column, rule, cells.iloc[row]


def _broken(cells: pd.Series, rules: Mapping[str, Any]) -> Iterator[tuple[str, pd.Series]]:
    """The rules of a column of the dictionary, and where each is broken."""
    if "allowed" in rules:
        yield "must be one of " + ", ".join(map(str, rules["allowed"])), ~cells.isin(rules["allowed"])
    for name, words, breaks in LIMITS:
        if name in rules:
            yield f"must be {words} {rules[name]}", breaks(cells, rules[name])
    if rules["type"] == "str":
        held = distinct(cells)
        long = {v for v in held if len(v) > MAX_CELL}
        yield f"may have at most {MAX_CELL} characters", cells.isin(long)
        half = [v for v in held if not v.isascii() and any("\ud800" <= c <= "\udfff" for c in v)]
        yield "holds characters that no file can hold (half a surrogate pair)", cells.isin(half)
        if "pattern" in rules:
            fits = re.compile(rules["pattern"]).fullmatch
            yield f"must look like {rules['pattern']}", cells.isin(long.union(v for v in held if v not in long and not fits(v)))
