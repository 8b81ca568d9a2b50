"""From a flat record export (REDCap: one row per record, event and repeat) and a mapping to the six tables."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ionrt.cohort.doors import table_of
from ionrt.cohort.perturb import secret
from ionrt.cohort.schema import Tables, dictionary, validate
from ionrt.files import read_yaml, write_text
from ionrt.quantities import IonrtError, one_of

EVENT, INSTRUMENT, INSTANCE = "redcap_event_name", "redcap_repeat_instrument", "redcap_repeat_instance"
ORDERS = {"ymd": (0, 1, 2), "dmy": (2, 1, 0), "mdy": (2, 0, 1)}
HOW = ("field", "date", "year", "age", "value", "filled")
CHECKBOX = "___"  # in the name of a column of REDCap's, one per choice
YES, NO = {"1", "yes", "true", "checked"}, {"0", "no", "false", "unchecked"}
WORDS = {"record", "day0", "origin", "dates", "missing", "tables"}
Row = Mapping[str, Any]


def templates(folder: str | Path) -> list[Path]:
    """Six empty tables (names of the columns only) and an example mapping for `import_records`, to begin with.

    Parameters
    ----------
    folder : made where absent.

    Returns
    -------
    Files.

    Raises
    ------
    IonrtError
        One of them is there already; nothing is written then.
    """
    target = Path(folder)
    texts = {f"{name}.csv": ",".join(spec["columns"]) + "\n" for name, spec in dictionary()["tables"].items()}
    texts["mapping.yaml"] = Path(__file__).with_name("mapping.yaml").read_text(encoding="utf-8")
    there = [name for name in texts if (target / name).exists()]
    if there:
        raise IonrtError(f"{target.name}: {', '.join(there)} is there already; choose an empty folder")
    for name, text in texts.items():
        write_text(target / name, text)
    return [target / name for name in texts]


def import_records(
    records: pd.DataFrame | str | Path,
    mapping: Mapping[str, Any] | str | Path,
    *,
    key: str | bytes | None = None,
    encoding: str | None = None,
) -> Tables:
    """The six tables from a record export, raw or labelled, with repeating instruments and events.

    Names of records become keyed hashes, dates become days since the first fraction, a date of birth becomes a band of ages; no
    date and no name is in the result. Empty fields (hidden by branching, not yet known) stay empty.

    Parameters
    ----------
    records : CSV file or frame of text, as REDCap exports it.
    mapping : YAML file or dict: which field is which column (`templates` writes an example with every form).
    key : secret of the site for the hashes, 16 characters or more (default: one kept in the user's data folder).
    encoding : of the file.

    Returns
    -------
    Validated tables; ``attrs["left_out"]`` of each lists what is not in them and why: row (0 is the first), field, why.

    Raises
    ------
    IonrtError
        A mapping or an export that does not fit, CohortError where the result breaks the dictionary. Warns where a record, row
        or cell was left out (fields without a place in the mapping are only listed).
    """
    said = _mapping(read_yaml(mapping) if isinstance(mapping, (str, Path)) else mapping)
    frame = table_of(records, "records", encoding=encoding)
    export = _Export(frame, said, secret(key))
    spec = dictionary()["tables"]
    made = {name: pd.DataFrame(export.rows(name, said["tables"].get(name, [])), dtype=object) for name in spec}
    if export.left_out:
        kinds = pd.Series([f"{why} ({field})" for _, field, why in export.left_out]).value_counts()
        listed = "; ".join(f"{n} x {what}" for what, n in kinds.head(10).items())
        warnings.warn(f"records: left out: {listed}. attrs['left_out'] has the rows", stacklevel=2)
    tables = validate({name: table.reindex(columns=list(spec[name]["columns"])) for name, table in made.items() if len(table)})
    unread = [str(c) for c in frame.columns if c not in export.used and c not in (EVENT, INSTRUMENT, INSTANCE)]
    left_out = [*export.left_out, *(("-", c, "no place in the mapping") for c in unread)]
    for table in tables.values():
        table.attrs["left_out"] = left_out
    return tables


def _mapping(given: Any) -> dict[str, Any]:
    """The mapping with every block a list of column rules, or an error that names the place."""
    if not isinstance(given, Mapping) or not WORDS.issuperset(given) or not {"record", "day0", "tables"} <= set(given):
        raise IonrtError(f"mapping: expected record, day0 and tables; possible are {', '.join(sorted(WORDS))}")
    spec = dictionary()["tables"]
    out = {"origin": "clinical", "dates": "ymd", "missing": [], **given}
    one_of(out["dates"], tuple(ORDERS), what="mapping: dates")
    if not all(isinstance(out[w], str) for w in ("record", "day0", "origin")) or not isinstance(out["missing"], list):
        raise IonrtError("mapping: record, day0 and origin are text, missing is a list of codes")
    if not isinstance(out["tables"], Mapping):
        raise IonrtError("mapping: tables holds one entry per table")
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, blocks in out["tables"].items():
        one_of(name, tuple(spec), what="mapping: table")
        tables[name] = [_block(b, name, spec[name]) for b in _listed(blocks)]
    return out | {"tables": tables, "missing": {str(m).strip() for m in out["missing"]}}


def _block(block: Any, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    words = {"instrument", "event", "when", "columns"}
    if not isinstance(block, Mapping) or not words.issuperset(block) or not isinstance(block.get("columns"), Mapping):
        raise IonrtError(f"mapping: {name}: expected columns, and perhaps instrument, event, when")
    columns = {}
    for column, rule in block["columns"].items():
        one_of(str(column), tuple(spec["columns"]), what=f"mapping: column of {name}")
        rule = rule if isinstance(rule, Mapping) else {"value": rule}
        how = [h for h in HOW if h in rule]
        if (
            len(how) != 1
            or not {*HOW, "codes", "then", "otherwise"}.issuperset(rule)
            or not isinstance(rule.get("codes", {}), Mapping)
        ):
            raise IonrtError(f"mapping: {name}.{column}: expected one of {', '.join(HOW)} (and codes, then, otherwise)")
        codes = {str(k).strip(): v for k, v in rule["codes"].items()} if "codes" in rule else None
        fields = [] if how[0] == "value" else [str(f) for f in _listed(rule[how[0]])]
        columns[str(column)] = {**rule, "how": how[0], "fields": fields, "codes": codes}
    return {**block, "columns": columns, "when": [str(w) for w in _listed(block.get("when", []))]}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_filled(field: str, row: Row) -> bool:
    """Whether a cell holds something; a checkbox that is not ticked does not."""
    text = row.get(field)
    return bool(text) and not (CHECKBOX in field and str(text).casefold() in NO)


class _Export:
    """The rows of an export, and what could not be taken over."""

    def __init__(self, frame: pd.DataFrame, said: Mapping[str, Any], key: bytes) -> None:
        self.said, self.key = said, key
        self.used = {said["record"], said["day0"]}
        self.left_out: list[tuple[Any, str, str]] = []
        blocks = [b for listed in said["tables"].values() for b in listed]
        rules = [r for b in blocks for r in b["columns"].values()]
        when = {w for b in blocks for w in b["when"]}
        wanted = self.used | when | {f for r in rules for f in r["fields"]}
        missing = sorted(wanted - set(map(str, frame.columns)))
        if missing:
            raise IonrtError(
                f"records: there is no field {', '.join(missing)}; the mapping names fields as the export's first line does"
            )
        for word, column in (("instrument", INSTRUMENT), ("event", EVENT)):
            if any(word in b for b in blocks) and column not in frame:
                raise IonrtError(f"records: the mapping says {word}, but the export has no column {column}")
        self.used |= wanted
        self.lines = [self._clean(row) for row in frame.to_dict("records")]
        for field in when | {f for r in rules if r["how"] == "filled" for f in r["fields"]}:
            self._check_filled(field)
        self.base: dict[str, dict[str, str]] = {}
        self.several: set[tuple[str, str]] = set()  # record and field with different values in its rows
        for i, line in enumerate(self.lines):
            record = line.get(said["record"])
            if record is None:
                self.left_out.append((i, said["record"], "row without a record"))
            elif not line.get(INSTRUMENT):
                base = self.base.setdefault(record, {})
                self.several |= {(record, c) for c, v in line.items() if base.get(c, v) != v}
                base |= {c: v for c, v in line.items() if c not in base}
        self.day0 = {record: self._date(base.get(said["day0"])) for record, base in self.base.items()}
        first = {line.get(said["record"]): i for i, line in reversed(list(enumerate(self.lines)))}
        for record, day in self.day0.items():
            if day is None:
                self.left_out.append((first[record], said["day0"], "record without a date of the first fraction"))

    def _clean(self, row: Row) -> dict[str, str]:
        """The cells that hold something, as text."""
        there = {str(c): v for c, v in row.items() if not (pd.api.types.is_scalar(v) and pd.isna(v))}
        whole = {c: int(v) if isinstance(v, float) and v.is_integer() else v for c, v in there.items()}
        text = {c: unicodedata.normalize("NFKC", str(v)).strip() for c, v in whole.items()}
        return {c: v for c, v in text.items() if v and v not in self.said["missing"]}

    def _check_filled(self, field: str) -> None:
        """A field of yes and no is filled in both cases; a checkbox says itself what is meant."""
        held = {line[field].casefold() for line in self.lines if field in line}
        if CHECKBOX not in field and held & NO and held <= NO | YES:
            raise IonrtError(
                f"mapping: {field} holds yes and no, so that it is filled in both cases; expected a field that is empty where"
                " there is nothing: use field with codes, or another one"
            )

    def _date(self, text: str | None) -> dt.date | None:
        match = re.match(r"(\d{1,4})[-/.]\s?(\d{1,2})[-/.]\s?(\d{1,4})(?:[ T]\d{1,2}:\d{2}(?::\d{2})?)?$", text or "", re.ASCII)
        if not match:
            return None
        year, month, day = (int(match[k + 1]) for k in ORDERS[self.said["dates"]])
        try:
            return dt.date(year, month, day) if 1900 <= year <= 2100 else None
        except ValueError:
            return None

    def rows(self, table: str, blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The rows of one table; a row before day 0 is left out with a word."""
        counted: dict[str, int] = {}
        for block in blocks:
            mine = list(self._of(block))
            own = {f for _, line in mine for f in line} if {"event", "instrument"} & set(block) else set()
            for i, line in mine:
                record = line[self.said["record"]]
                row = {f: v for f, v in self.base.get(record, {}).items() if f not in own} | line
                if not all(_is_filled(w, row) for w in block["when"]):
                    continue
                pid = "P" + hmac.new(self.key, record.encode(), hashlib.sha256).hexdigest()[:16]
                counted[pid] = counted.get(pid, 0) + 1
                out = {"pid": pid, "origin": self.said["origin"]}
                if table in ("course", "dose_metric"):
                    out["cid"] = f"{pid}-{counted[pid] if table == 'course' else 1}"
                out |= {column: self._cell(i, rule, row, record) for column, rule in block["columns"].items()}
                dates = [c for c, r in block["columns"].items() if r["how"] == "date" and isinstance(out[c], int)]
                if early := [c for c in dates if out[c] < 0]:
                    self.left_out.append((i, ", ".join(early), "row before the first fraction"))
                    continue
                yield out

    def _of(self, block: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, str]]]:
        """The lines that a block is about: of its instrument and event, or one per record."""
        seen = set()
        for i, line in enumerate(self.lines):
            record = line.get(self.said["record"])
            if record is None or self.day0.get(record) is None:
                continue
            if "event" in block and line.get(EVENT) != str(block["event"]):
                continue
            if "instrument" in block:
                if line.get(INSTRUMENT) != str(block["instrument"]):
                    continue
            elif line.get(INSTRUMENT) or ("event" not in block and record in seen):
                continue
            seen.add(record)
            yield i, line

    def _cell(self, i: int, rule: Mapping[str, Any], row: Row, record: str) -> Any:
        how, fields = rule["how"], rule["fields"]
        if how == "value":
            return rule["value"]
        if how == "filled":
            return rule.get("then", 1) if any(_is_filled(f, row) for f in fields) else rule.get("otherwise", 0)
        taken = next((f for f in fields if row.get(f)), None)
        text = None if taken is None else row[taken]
        if taken is not None and taken not in self.lines[i] and (record, taken) in self.several:
            self.left_out.append((i, taken, "further values of other events; the first is taken"))
        if text is None:
            return rule.get("otherwise")
        if how == "field":
            codes = rule["codes"]
            if codes is None:
                return text
            if text not in codes:
                self.left_out.append((i, fields[0], "cell whose code is not in the mapping"))
            return codes.get(text, rule.get("otherwise"))
        date, day0 = self._date(text), self.day0[record]
        if date is None or day0 is None:
            self.left_out.append((i, fields[0], f"cell that is no date ({self.said['dates']})"))
            return None
        if how == "year":
            return date.year
        if how == "date":
            return (date - day0).days
        age = day0.year - date.year - ((day0.month, day0.day) < (date.month, date.day))
        if not 0 <= age <= 120:
            self.left_out.append((i, fields[0], "cell that gives no age"))
            return None
        return "90+" if age >= 90 else f"{age // 10 * 10}-{age // 10 * 10 + 9}"
