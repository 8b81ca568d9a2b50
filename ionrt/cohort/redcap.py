"""The data dictionary in REDCap's form: 18 columns, one form per table, out and in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ionrt.cohort.doors import numbers, table_of
from ionrt.cohort.schema import dictionary as _dictionary
from ionrt.quantities import IonrtError

COLUMNS = (
    "Variable / Field Name",
    "Form Name",
    "Section Header",
    "Field Type",
    "Field Label",
    "Choices, Calculations, OR Slider Labels",
    "Field Note",
    "Text Validation Type OR Show Slider Number",
    "Text Validation Min",
    "Text Validation Max",
    "Identifier?",
    "Branching Logic (Show field only if...)",
    "Required Field?",
    "Custom Alignment",
    "Question Number (surveys only)",
    "Matrix Group Name",
    "Matrix Ranking?",
    "Field Annotation",
)
API = (  # the same in what the programming interface exports
    "field_name", "form_name", "section_header", "field_type", "field_label", "select_choices_or_calculations", "field_note",
    "text_validation_type_or_show_slider_number", "text_validation_min", "text_validation_max", "identifier",
    "branching_logic", "required_field", "custom_alignment", "question_number", "matrix_group_name", "matrix_ranking",
    "field_annotation",
)  # fmt: skip
NAME, FORM, KIND, LABEL, CHOICES, NOTE, CHECK, LOW, HIGH, IDENTIFIER, BRANCHING, REQUIRED, ANNOTATION = (
    COLUMNS[i] for i in (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 17)
)
RECORD = "pid"


def to_redcap(dictionary: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The dictionary as a REDCap data dictionary (CSV upload): text in 18 columns, one row per column of a table.

    The record is the patient (`pid`, first field), every other table a repeating form, fields are ``table_column``; what REDCap
    cannot say (patterns, exclusive limits) stands in the annotation.
    """
    rows = []
    for table, spec in (dictionary or _dictionary())["tables"].items():
        for column, rules in spec["columns"].items():
            if column == RECORD and table != "patient":
                continue  # the record identifier ties the forms together
            rows.append(_field(table, column, rules))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype("str")


def _field(table: str, column: str, rules: Mapping[str, Any]) -> dict[str, str]:
    extra = [f"{k}={rules[k]}" for k in ("above", "pattern") if k in rules]
    field = dict.fromkeys(COLUMNS, "") | {
        NAME: RECORD if column == RECORD else f"{table}_{column}".lower(),
        FORM: table,
        KIND: "dropdown" if "allowed" in rules else "text",
        LABEL: rules["label"],
        NOTE: rules.get("unit", ""),
        IDENTIFIER: "y" if rules.get("identifier") else "",
        REQUIRED: "y" if rules.get("required") else "",
        ANNOTATION: " ".join([f"ionrt={table}.{column}", f"type={rules['type']}", *extra]),
    }
    if "allowed" in rules:
        field[CHOICES] = " | ".join(f"{value}, {value}" for value in rules["allowed"])
    if rules["type"] != "str" and "allowed" not in rules:
        field[CHECK] = {"int": "integer", "float": "number"}[rules["type"]]
        field[LOW], field[HIGH] = (str(rules.get(k, "")) for k in ("min", "max"))
    return field


def from_redcap(redcap: pd.DataFrame | str | Path, *, encoding: str | None = None) -> dict[str, Any]:
    """A dictionary for `validate` from a REDCap data dictionary, a frame of text or its CSV file.

    Fields written by `to_redcap` come back as they were; in others the form is the table, the field the column. Dropdown,
    radio, yesno give allowed values; a checkbox one column of 0 or 1 per choice, named as in REDCap's exports; every validation
    as integer or number its limits as numbers. A field that branching may hide is never required; descriptive fields have no
    column. Rules and keys are those of the shipped dictionary where all its tables and columns are there; `left_out` says which
    limits are none (piped from other fields). Refused by name: dates (only days since day 0 are kept), choices that are none, a
    field twice, a pattern of its own (patterns from outside are not run; those of the shipped dictionary are).
    """
    frame = table_of(redcap, "REDCap dictionary", encoding=encoding).rename(columns=dict(zip(API, COLUMNS, strict=True)))
    missing = [c for c in COLUMNS if c not in frame]
    if missing:
        raise IonrtError(f"a REDCap data dictionary has 18 columns; {', '.join(missing)} are missing")
    cells = frame.astype("object").where(frame.notna(), "").map(lambda v: str(v).strip())
    wrong = cells.loc[~cells[NAME].str.fullmatch(r"[A-Za-z]\w{0,99}", flags=re.ASCII)]
    if len(wrong):
        raise IonrtError(f"REDCap dictionary, row {wrong.index[0]}: the field has no name, or not one of letters, digits and _")
    dates = cells.loc[cells[CHECK].str.lower().str.startswith(("date", "time")), NAME]
    if len(dates):
        raise IonrtError(f"fields {', '.join(dates)} are dates; turn them into days since the first fraction")
    tables: dict[str, Any] = {}
    left_out: list[str] = []
    for _, field in cells[~cells[KIND].str.lower().isin(["descriptive"])].iterrows():
        table, made = _columns(field, left_out)
        columns = tables.setdefault(table, {"label": table, "columns": {}})["columns"]
        for column, rules in made.items():
            if column in columns:
                raise IonrtError(f"REDCap field {field[NAME]}: column {column} of table {table} stands twice")
            columns[column] = rules
    return _with_keys(tables) | {"left_out": left_out}


def _columns(field: pd.Series, left_out: list[str]) -> tuple[str, dict[str, Any]]:
    """The table of a field and the columns that its data have."""
    said = dict(part.split("=", 1) for part in field[ANNOTATION].split(" ") if "=" in part)
    if "ionrt" not in said:  # another one's annotation says nothing to us
        table = field[FORM] or "form"
        if field[KIND].lower() == "checkbox":  # in exports -99 is _99, all else than letters and digits _
            boxes = choices(field[NAME], field[CHOICES])
            named = {re.sub(r"[^a-z0-9_]", "_", code.lower()): label for code, label in boxes}
            if len(named) < len(boxes):
                raise IonrtError(
                    f"REDCap field {field[NAME]}: two choices give one checkbox column; their codes differ in signs only"
                )
            rule = {"type": "int", "allowed": [0, 1]}
            return table, {f"{field[NAME]}___{c}": {**rule, "label": f"{field[LABEL]}: {label}"} for c, label in named.items()}
        return table, {field[NAME]: _rules(field, {}, left_out)}
    table, dot, column = said["ionrt"].partition(".")
    if not (dot and re.fullmatch(r"\w+", table) and re.fullmatch(r"\w+", column)):
        raise IonrtError(f"REDCap field {field[NAME]}: the annotation ionrt= needs table.column")
    return table, {column: _rules(field, said, left_out)}


def choices(field: str, text: str) -> list[tuple[str, str]]:
    """(code, label) of the choices of a field: ``1, Yes | 2, No``, or a line each (``\\n`` in old dictionaries)."""
    parts = [part for part in re.split(r"\||\n|\\n", text) if part.strip()]
    out = [(code.strip(), label.strip()) for code, _, label in (part.partition(",") for part in parts)]
    if not out or not all(code for code, _ in out) or len({code for code, _ in out}) < len(out):
        raise IonrtError(f"REDCap field {field}: the choices need codes, each once (1, Yes | 2, No)")
    return out


def _rules(field: pd.Series, said: Mapping[str, str], left_out: list[str]) -> dict[str, Any]:
    check, form = field[CHECK].lower(), field[KIND].lower()
    kind = said.get("type") or ("int" if check == "integer" else "float" if check.startswith("number") else "str")
    if kind not in ("int", "float", "str"):
        raise IonrtError(f"REDCap field {field[NAME]}: the annotation type= is int, float or str")
    rules: dict[str, Any] = {"type": kind, "label": field[LABEL]}
    if field[REQUIRED].lower() in ("y", "yes", "1") and not field[BRANCHING]:
        rules["required"] = True
    if field[IDENTIFIER]:
        rules["identifier"] = True
    if form in ("dropdown", "radio"):
        codes = [code for code, _ in choices(field[NAME], field[CHOICES])]
        rules["allowed"] = codes if kind == "str" else [_limit(field[NAME], "a choice", code) for code in codes]
    elif form in ("yesno", "truefalse"):
        rules |= {"type": "int", "allowed": [0, 1]}
    if kind != "str":
        for name, cell in (("min", field[LOW]), ("max", field[HIGH]), ("above", said.get("above", ""))):
            if "[" in cell:
                left_out.append(f"{field[NAME]}: {name} {cell} is another field's value")
            elif cell:
                rules[name] = _limit(field[NAME], name, cell)
    if "pattern" in said:
        known = {c.get("pattern") for t in _dictionary()["tables"].values() for c in t["columns"].values()}
        if said["pattern"] not in known:
            raise IonrtError(
                f"REDCap field {field[NAME]}: its pattern is not one of the shipped dictionary; patterns are not run"
            )
        rules["pattern"] = said["pattern"]
    if field[NOTE]:
        rules["unit"] = field[NOTE]
    return rules


def _limit(field: str, name: str, text: str) -> float:
    value = float(numbers(pd.Series([text]), comma="," in text).iloc[0])
    if not abs(value) < 1e15:
        raise IonrtError(f"REDCap field {field}: {name} is no number")
    return int(value) if value.is_integer() else value


def _with_keys(tables: dict[str, Any]) -> dict[str, Any]:
    """Keys, references and cross-table rules need the shipped tables; elsewhere only the columns are checked."""
    shipped = _dictionary()
    for name, spec in shipped["tables"].items():
        if name in tables:
            record = {RECORD: spec["columns"][RECORD]} if RECORD in spec["columns"] else {}
            columns = {**record, **tables[name]["columns"]}
            order = [c for c in spec["columns"] if c in columns] + [c for c in columns if c not in spec["columns"]]
            tables[name] = {**{k: v for k, v in spec.items() if k != "columns"}, "columns": {c: columns[c] for c in order}}
    whole = all(n in tables and set(spec["columns"]) <= set(tables[n]["columns"]) for n, spec in shipped["tables"].items())
    if not whole:
        for spec in tables.values():
            spec.pop("references", None)
            spec["key"] = [c for c in spec.get("key", []) if c in spec["columns"]]
    return {"tables": tables, "rules": shipped["rules"] if whole else {}}
