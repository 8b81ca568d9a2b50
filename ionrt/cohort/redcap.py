"""The data dictionary in REDCap's form: 18 columns, one form per table, out and in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

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
NAME, FORM, KIND, LABEL, CHOICES, NOTE, CHECK, LOW, HIGH, IDENTIFIER, REQUIRED, ANNOTATION = (
    COLUMNS[i] for i in (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 17)
)
RECORD = "pid"


def to_redcap(dictionary: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The dictionary as a REDCap data dictionary (CSV upload), one row per column of a table.

    dictionary : as from `ionrt.cohort.dictionary` (default: that one). Returns a frame of text with REDCap's 18 columns:
    the record is the patient (`pid`, first field), every other table a repeating form, fields are ``table_column``;
    what REDCap cannot say (patterns, exclusive limits) stands in the annotation. Raises nothing.
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


def from_redcap(redcap: pd.DataFrame) -> dict[str, Any]:
    """A dictionary for `validate` from a REDCap data dictionary.

    redcap : frame with REDCap's 18 columns (read with ``dtype=str``). Fields written by `to_redcap` come back as they were;
    in others the form is the table, the field the column, dropdown, radio and yesno give allowed values, integer and number
    their limits. Descriptive and calculated fields are left out. Returns ``{"tables": ..., "rules": ...}``: the rules and
    keys of the shipped dictionary where all its tables and columns are there.
    Raises IonrtError for missing columns, and for date fields: only days since day 0 are kept.
    """
    missing = [c for c in COLUMNS if c not in redcap]
    if missing:
        raise IonrtError(f"a REDCap data dictionary has 18 columns; {', '.join(missing)} are missing")
    cells = redcap.astype("object").where(redcap.notna(), "").astype("str")
    dates = cells.loc[cells[CHECK].str.startswith(("date", "time")), NAME]
    if len(dates):
        raise IonrtError(f"fields {', '.join(dates)} are dates; turn them into days since the first fraction")
    tables: dict[str, Any] = {}
    for _, field in cells[~cells[KIND].isin(["descriptive", "calc", "file"])].iterrows():
        said = dict(part.split("=", 1) for part in field[ANNOTATION].split(" ") if "=" in part)
        table, column = said.get("ionrt", f"{field[FORM]}.{field[NAME]}").split(".", 1)
        spec = tables.setdefault(table, {"label": table, "columns": {}})
        spec["columns"][column] = _rules(field, said)
    return _with_keys(tables)


def _rules(field: pd.Series, said: Mapping[str, str]) -> dict[str, Any]:
    kinds = {"integer": "int", "number": "float"}
    kind = said.get("type", kinds.get(field[CHECK], "str"))
    readers: dict[str, Callable[[str], Any]] = {"int": int, "float": _number}
    number = readers.get(kind, str)
    rules: dict[str, Any] = {"type": kind, "label": field[LABEL]}
    if field[REQUIRED]:
        rules["required"] = True
    if field[IDENTIFIER]:
        rules["identifier"] = True
    if field[KIND] in ("dropdown", "radio"):
        rules["allowed"] = [number(choice.split(",")[0].strip()) for choice in field[CHOICES].split("|")]
    elif field[KIND] in ("yesno", "truefalse"):
        rules |= {"type": "int", "allowed": [0, 1]}
    for name, cell in (("min", field[LOW]), ("max", field[HIGH]), ("above", said.get("above", ""))):
        if cell:
            rules[name] = number(cell)
    if "pattern" in said:
        rules["pattern"] = said["pattern"]
    if field[NOTE]:
        rules["unit"] = field[NOTE]
    return rules


def _number(text: str) -> float:
    value = float(text)
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
    whole = all(
        name in tables and set(spec["columns"]) <= set(tables[name]["columns"]) for name, spec in shipped["tables"].items()
    )
    if not whole:
        for spec in tables.values():
            spec.pop("references", None)
            spec["key"] = [c for c in spec.get("key", []) if c in spec["columns"]]
    return {"tables": tables, "rules": shipped["rules"] if whole else {}}
