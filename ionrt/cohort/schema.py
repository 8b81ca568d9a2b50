"""The six tables of the exchange cohort: load, save, validate; `dictionary.yaml` is the only source of the checks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ionrt.files import write_text
from ionrt.quantities import IonrtError

Tables = dict[str, pd.DataFrame]
COLUMNS = ["table", "row", "column", "rule", "value"]
SHOWN = 200  # violations spelled out in the message; all of them are in the exception


class CohortError(IonrtError):
    """Tables that break the dictionary; `violations` lists every one: table, row, column, rule, value."""

    def __init__(self, violations: pd.DataFrame) -> None:
        self.violations = violations
        lines = [
            f"  {v.table}, row {v.row}, {v.column}: {v.rule}; found {v.value!r}" for v in violations.head(SHOWN).itertuples()
        ]
        more = f"\n  ... and {len(violations) - SHOWN} more (see .violations)" if len(violations) > SHOWN else ""
        super().__init__(f"the cohort breaks its dictionary in {len(violations)} places:\n" + "\n".join(lines) + more)


@functools.cache
def _shipped_dictionary() -> dict[str, Any]:
    """`dictionary.yaml`, read once, with the vocabularies put in place of their names."""
    raw = yaml.safe_load(Path(__file__).with_name("dictionary.yaml").read_text(encoding="utf-8"))
    for table in raw["tables"].values():
        for column in table["columns"].values():
            if isinstance(column.get("allowed"), str):
                column["allowed"] = list(raw["vocabulary"][column["allowed"]])
    return raw


def dictionary() -> dict[str, Any]:
    """The data dictionary: ``{"tables": {table: {"columns": {column: {...}}}}, "rules": {...}}``.

    Returns a dict per table with `key`, `references` and `columns`; per column `type` (str, int, float), `required`,
    `allowed`, `min`, `max`, `above`, `pattern`, `unit`, `label`. No parameters, no errors; the result may be changed
    freely and handed to `validate`.
    """
    import copy

    return copy.deepcopy(_shipped_dictionary())


def load(path: str | Path) -> Tables:
    """Read and validate a folder with one file per table (``patient.csv`` or ``patient.parquet``, ...).

    path : folder; ``dose_metric`` and ``toxicity`` may be absent, the other tables may not. Parquet needs the package pyarrow,
    which ionrt does not bring.
    Returns a dict of data frames in the order of the dictionary, one row per record.
    Raises IonrtError where a table is missing, CohortError with every violation where the content is wrong.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise IonrtError(f"expected a folder with patient.csv, course.csv, event.csv, followup.csv; {folder} is none")
    tables, missing = {}, []
    for name, spec in _shipped_dictionary()["tables"].items():
        files = [f for f in (folder / f"{name}.parquet", folder / f"{name}.csv") if f.exists()]
        if len(files) > 1:
            raise IonrtError(f"{name}: both {files[0].name} and {files[1].name} are there; keep one")
        if files:
            tables[name] = _read(files[0])
        elif not spec.get("optional"):
            missing.append(name)
    if missing:
        raise IonrtError(f"{folder.name}: no file for {', '.join(missing)}; expected {missing[0]}.csv or .parquet")
    return validate(tables)


def _read(file: Path) -> pd.DataFrame:
    """A table as text: only an empty cell is missing (NONE is a dose system, NA may be a stage)."""
    if file.suffix == ".csv":
        return pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    try:
        return pd.read_parquet(file)
    except ImportError as error:
        raise IonrtError(
            f"{file.name}: reading parquet needs the package pyarrow; install it, or export {file.stem} as CSV"
        ) from error
    except (OSError, ValueError) as error:
        raise IonrtError(f"{file.name}: is no readable parquet file ({error}); export {file.stem} as CSV") from error


def save(tables: Mapping[str, pd.DataFrame], path: str | Path, *, digits: int = 4) -> None:
    """Write the tables as CSV into a folder, each file in one step. For use inside the site: nothing is suppressed.

    tables : as from `validate`; path : folder, made where absent; digits : decimals of float columns.
    Raises CohortError before anything is written where the tables break the dictionary.
    """
    checked, folder = validate(tables), Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in checked.items():
        write_text(folder / f"{name}.csv", table.round(digits).to_csv(index=False, lineterminator="\n"))


def validate(tables: Mapping[str, pd.DataFrame], *, dictionary: Mapping[str, Any] | None = None) -> Tables:
    """Check all tables against the dictionary and return them with proper types; nothing is dropped or repaired.

    tables : dict of data frames (patient, course, dose_metric, event, toxicity, followup; one row per record);
    dictionary : another dictionary of the same form (default: the shipped one).
    Returns new frames: columns in the order of the dictionary, own ``x_`` columns last, numbers as int64 or float64.
    Raises CohortError that lists every violation with table, row (0 is the first record), column, rule and value.
    """
    found, clean = _examine(tables, dictionary or _shipped_dictionary())
    if len(found):
        raise CohortError(found)
    origin = str(clean["patient"]["origin"].iloc[0]) if len(clean["patient"]) else "clinical"
    for name, table in clean.items():
        table.attrs = {**dict(tables[name].attrs if name in tables else {}), "origin": origin}
    return clean


def violations(tables: Mapping[str, pd.DataFrame], *, dictionary: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Every violation of the dictionary as a table: table, row, column, rule, value (empty where all is well).

    Parameters as in `validate`; raises nothing but for objects that are not tables.
    """
    return _examine(tables, dictionary or _shipped_dictionary())[0]


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
        clean[name], wrong = typed(name, tables[name].reset_index(drop=True), table_spec)
        found += wrong + _with_pandera(name, clean[name], table_spec, {(r, c) for _, r, c, *_ in wrong})
    found += cross_table(clean, spec)
    listed = pd.DataFrame(found, columns=COLUMNS).drop_duplicates(["table", "row", "column", "rule"], ignore_index=True)
    return listed, clean


def _empty(spec: Mapping[str, Any]) -> pd.DataFrame:
    kind = {"str": "str", "int": "float64", "float": "float64"}
    return pd.DataFrame({c: pd.Series(dtype=kind[s["type"]]) for c, s in spec["columns"].items()})


def typed(name: str, table: pd.DataFrame, spec: Mapping[str, Any]) -> tuple[pd.DataFrame, list[tuple[Any, ...]]]:
    """Numbers as numbers, text as text; what cannot become its type is listed and left empty."""
    wrong: list[tuple[Any, ...]] = []
    out: dict[str, Any] = {}
    for column, rules in spec["columns"].items():
        if column not in table:
            if rules.get("required"):
                wrong.append((name, "-", column, "column is missing", None))
            out[column] = _empty(spec)[column].reindex(range(len(table)))
            continue
        cells = table[column]
        if rules["type"] == "str":
            out[column] = cells.map(_text, na_action="ignore").astype("str").where(cells.notna(), np.nan)
            continue
        numbers = pd.to_numeric(cells, errors="coerce").astype("float64")
        bad = (numbers.isna() & cells.notna()) | np.isinf(numbers)
        rule = "a number is needed"
        if rules["type"] == "int":
            bad, rule = bad | (numbers.notna() & (numbers % 1 != 0)), "a whole number is needed"
        wrong += [(name, int(i), column, rule, cells[i]) for i in np.flatnonzero(bad)]
        numbers = numbers.where(~bad)
        out[column] = numbers.astype("int64") if rules["type"] == "int" and numbers.notna().all() else numbers
    for column in table.columns.difference(list(spec["columns"]), sort=False):
        if str(column).startswith("x_"):
            out[column] = table[column]
        else:
            wrong.append((name, "-", column, "column is not in the dictionary (own columns start with x_)", None))
    return pd.DataFrame(out, index=table.index), wrong


def _text(cell: Any) -> str:
    """Text of a cell; a number that came where text belongs loses its '.0'."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


@functools.cache
def _pandera() -> Any:
    """pandera, imported at the first validation: it takes two seconds."""
    import pandera.pandas

    return pandera.pandas


def _with_pandera(name: str, table: pd.DataFrame, spec: Mapping[str, Any], skip: set[tuple[Any, Any]]) -> list[tuple[Any, ...]]:
    """Column rules and keys, checked by pandera; every failure case becomes one violation."""
    pa = _pandera()
    columns = {c: _column(pa, rules) for c, rules in spec["columns"].items() if ("-", c) not in skip}
    key = [c for c in spec.get("key", []) if c in columns]
    schema = pa.DataFrameSchema(columns, unique=key or None, report_duplicates="exclude_first")
    try:
        schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
    else:
        return []
    out: list[tuple[Any, ...]] = []
    for case in cases.itertuples():
        rule, value = str(case.check), case.failure_case
        column = str(case.column)
        if rule == "multiple_fields_uniqueness":
            rule, column = f"{' + '.join(key)} must be unique", key[0]
            value = ", ".join(str(table.at[int(case.index), c]) for c in key)
        elif rule == "not_nullable":
            rule, value = "may not be empty", None
        if (case.index, column) not in skip:
            out.append((name, int(case.index), column, rule, value))
    return out


def _column(pa: Any, rules: Mapping[str, Any]) -> Any:
    """One column of the dictionary as a pandera column."""
    checks = []
    if "allowed" in rules:
        checks.append(pa.Check.isin(rules["allowed"], error="must be one of " + ", ".join(map(str, rules["allowed"]))))
    if "min" in rules:
        checks.append(pa.Check.ge(rules["min"], error=f"must be at least {rules['min']}"))
    if "above" in rules:
        checks.append(pa.Check.gt(rules["above"], error=f"must be greater than {rules['above']}"))
    if "max" in rules:
        checks.append(pa.Check.le(rules["max"], error=f"must be at most {rules['max']}"))
    if "pattern" in rules:
        text = rf"^(?:{rules['pattern']})$"
        checks.append(pa.Check.str_matches(text, error=f"must look like {rules['pattern']}"))
    return pa.Column(None, nullable=not rules.get("required"), checks=checks)
