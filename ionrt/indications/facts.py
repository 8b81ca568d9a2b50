"""Schedules, constraints, toxicity, outcomes and trials as data: checked against each other, every fault named at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ionrt.files import read_yaml
from ionrt.quantities import IonrtError, one_of
from ionrt.rbe.systems import DOSE_SYSTEMS
from ionrt.resources import shipped

# Passive and scanned period of NIRS together; and a source that does not say. Neither has a formula, neither equals another.
SYSTEMS = (*DOSE_SYSTEMS, "NIRS-family", "unknown")
CONFIDENCE = ("retrieved", "derived", "memory")
READ = ("abstract", "table", "registry", "web page", "full text")
KINDS = ("clinical", "cut_off", "converted", "objective")
OPS = ("<", "<=", ">", ">=", "=", "mean", "")
ADDRESS = {
    "doi": r"10\.\d{4,9}/\S+",
    "pmid": r"\d{6,9}",
    "pmc": r"PMC\d{6,9}",
    "registry": r"NCT\d{8}|jRCT\w?\d{9,10}|UMIN\d{9}",
    "url": r"https?://\S+\.\S+",
}
COLUMNS = {
    "schedules": "id page total fractions system basis what source confidence",
    "constraints": "id page organ metric op limit unit fractions system basis kind what source confidence",
    "toxicity": "id page term percent events n what source confidence",
    "outcomes": "id page study n schedule system basis endpoint group years percent low high events source",
    "trials": "id page what status seen source",
    "sources": "id cite read doi pmid pmc registry url",
}
WHOLE = ("fractions", "events", "n")
LARGEST = 1e6  # of any number of these tables
PER_FRACTION = (1.0, 60.0)  # Gy (RBE); the largest published is 50 in one
NUMBERS = ("total", "fractions", "limit", "percent", "events", "n", "years", "low", "high")
NEEDED = {
    "schedules": ("total", "fractions", "system", "basis", "confidence"),
    "constraints": ("organ", "metric", "system", "basis", "kind", "confidence"),
    "toxicity": ("term", "percent", "n", "confidence"),
    "outcomes": ("study", "system", "basis", "endpoint", "percent"),
    "trials": ("what", "status", "seen"),
    "sources": ("cite", "read"),
}
ALLOWED = {"system": SYSTEMS, "confidence": CONFIDENCE, "read": READ, "kind": KINDS, "op": OPS}


@dataclass(frozen=True)
class Indications:
    """What is known, per page: `pages` {name: entry of ``pages.yaml``} and one DataFrame per table, text as in the file."""

    pages: dict[str, dict[str, Any]]
    schedules: pd.DataFrame
    constraints: pd.DataFrame
    toxicity: pd.DataFrame
    outcomes: pd.DataFrame
    trials: pd.DataFrame
    sources: pd.DataFrame

    def of(self, table: str, page: str) -> pd.DataFrame:
        """The rows of one table that belong to one page, by id."""
        rows: pd.DataFrame = getattr(self, one_of(table, tuple(COLUMNS)[:-1], what="table"))
        return rows[rows["page"] == one_of(page, tuple(self.pages), what="indication")].set_index("id")

    def schedule(self, page: str) -> pd.Series | None:
        """The schedule that the page plans; None where there is no default (children)."""
        chosen = self.pages[one_of(page, tuple(self.pages), what="indication")]["schedule"]
        return None if chosen is None else self.schedules.set_index("id").loc[chosen]


def load(folder: str | Path | None = None) -> Indications:
    """Read and check the facts of all indications.

    Parameters
    ----------
    folder : with ``pages.yaml`` and the tables; default the one that came with the package, ``datasets/indications``.

    Returns
    -------
    Indications; numbers are floats (NaN where the source does not say), everything else is text.

    Raises
    ------
    IonrtError : every violation in one message, one per line: file, id, what was expected and what came.

    Examples
    --------
    >>> schedule = ionrt.indications.load().schedules.set_index("id").loc["pr1"]
    >>> schedule["page"], schedule["system"], float(schedule["total"]), int(schedule["fractions"])  # Gy (RBE): 12 of 4.3
    ('prostate', 'NIRS-mMKM', 51.6, 12)
    """
    place = Path(folder) if folder else shipped("datasets") / "indications"
    tables = {name: _read(place / f"{name}.csv", columns.split()) for name, columns in COLUMNS.items()}
    pages = read_yaml(place / "pages.yaml")
    if not isinstance(pages, dict) or not all(isinstance(p, dict) for p in pages.values()):
        raise IonrtError("pages.yaml: expected one mapping per indication")
    if found := [*_table_faults(tables, set(pages)), *_page_faults(pages, tables)]:
        raise IonrtError(f"{len(found)} violations in {place.name}:\n" + "\n".join(found))
    numeric = {n: t.assign(**{c: pd.to_numeric(t[c]) for c in NUMBERS if c in t}) for n, t in tables.items()}
    return Indications(pages, **numeric)


def counts(percent: float, n: float) -> list[int]:
    """Whole numbers of `n` that round to the printed percentage (to as many decimals as it has)."""
    if not np.isfinite([percent, n]).all():
        return []
    step = 0.5 * 10.0 ** -len(f"{percent:g}".partition(".")[2])
    low, high = (percent - step) * n / 100, (percent + step) * n / 100
    return [k for k in range(max(0, int(low)), min(int(n), int(high) + 1) + 1) if low - 1e-9 <= k <= high + 1e-9]


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", nrows=10_000)
    except (OSError, ValueError) as error:
        raise IonrtError(f"{path.name}: cannot be read: {error}") from None
    if list(table) != columns:
        raise IonrtError(f"{path.name}: expected the columns {', '.join(columns)}, got {', '.join(map(str, table))}")
    return table.fillna("")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    plain = text.isascii() and "_" not in text  # Python takes 1_0 and digits of other scripts
    return value if plain and 0 <= value <= LARGEST else None


def _table_faults(tables: dict[str, pd.DataFrame], pages: set[str]) -> Iterator[str]:
    sources = set(tables["sources"]["id"])
    for name, table in tables.items():
        again = (table["id"].duplicated() & (name != "outcomes")).tolist()  # a study has many rows
        for i, row in enumerate(table.to_dict("records")):
            faults = [*_own_faults(name, row), *_link_faults(row, pages, sources)]
            faults += ["the id stands twice"] if row["id"] and again[i] else []
            yield from (f"{name}.csv, {row['id'] or f'row {i + 2}'}: {fault}" for fault in faults)


def _link_faults(row: dict[str, str], pages: set[str], sources: set[str]) -> Iterator[str]:
    """Where a row leads: to a page, a source, and to how its dose system is known."""
    if "page" in row and row["page"] not in pages:
        yield f"page: there is no {row['page']!r} in pages.yaml"
    if "basis" in row and row["basis"] not in (("not stated",) if row["system"] == "unknown" else ("stated", "inferred")):
        yield f"basis: {row['basis']!r} does not go with the dose system {row['system']!r}"
    from_memory = row.get("confidence") == "memory" and not row["source"]
    if "source" in row and row["source"] not in sources and not from_memory:
        yield f"source: there is no {row['source']!r} in sources.csv"


def _own_faults(name: str, row: dict[str, str]) -> Iterator[str]:
    """What is wrong with a row by itself."""
    number = {column: _number(row.get(column) or "") for column in NUMBERS}
    if not row["id"]:
        yield "no id"
    yield from (f"{column} is missing" for column in NEEDED[name] if not row[column])
    for column, value in number.items():
        if row.get(column) and (value is None or (column in ("total", "fractions") and not value)):
            yield f"{column}: expected a positive number, got {row[column]!r}"
        if column in WHOLE and value is not None and not value.is_integer():
            yield f"{column}: expected a whole number, got {row[column]!r}"
    for column, allowed in ALLOWED.items():
        if row.get(column) and row[column] not in allowed:
            yield f"{column}: {row[column]!r} is not one of {', '.join(allowed)}"
    if name == "constraints" and "(RBE)" not in row["unit"] and row["unit"] not in ("", "cc", "cm2", "percent", "mm", "Gy"):
        yield f"unit: {row['unit']!r}"
    if row.get("seen") and not re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", row["seen"]):
        yield f"seen: expected a month such as 2026-11, got {row['seen']!r}"
    if name == "sources" and not any(row[kind] for kind in ADDRESS):
        yield f"no address; expected one of {', '.join(ADDRESS)}"
    for kind, form in ADDRESS.items():
        if row.get(kind) and not re.fullmatch(form, row[kind]):
            yield f"{kind}: {row[kind]!r} does not look like one"
    total, fractions, percent, events, n, low, high = (
        number[c] for c in ("total", "fractions", "percent", "events", "n", "low", "high")
    )
    if total and fractions and not PER_FRACTION[0] <= total / fractions <= PER_FRACTION[1]:
        least, most = PER_FRACTION
        yield f"total: {total:g} in {fractions:g} is {total / fractions:.3g} per fraction, not {least:g} to {most:g} Gy (RBE)"
    if percent is not None and percent > 100:
        yield f"percent: expected at most 100, got {row['percent']}"
    if low is not None and high is not None and percent is not None and not low <= percent <= high:
        yield f"limits: {row['low']} to {row['high']} do not hold {row['percent']}"
    if events is not None and n is not None and percent is not None and events not in counts(percent, n):
        yield f"events: {row['events']} of {row['n']} is not {row['percent']} %"


def _is_page(entry: dict[str, Any]) -> bool:
    """Whether the parts of a page are of the kinds into which the checks look."""
    outcomes, *parts = (entry[name] for name in ("outcomes", "beams", "why", "gaps"))
    if not all(isinstance(one, list) for one in (outcomes, *parts)):
        return False
    items = [item for part in parts for item in part]
    if not all(isinstance(item, dict) for item in items) or not all("text" in gap for gap in entry["gaps"]):
        return False
    texts = [item.get(name) or "" for item in items for name in ("text", "source", "read")]
    return all(isinstance(one, str) for one in (*outcomes, entry["schedule"] or "", *texts))


def _page_faults(pages: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame]) -> Iterator[str]:
    schedules, sources = tables["schedules"].drop_duplicates("id").set_index("id"), set(tables["sources"]["id"])
    for page, entry in pages.items():
        where = f"pages.yaml, {page}:"
        if missing := [
            k for k in ("title", "outcomes", "schedule", "planned_in", "beams", "why", "plan", "gaps") if k not in entry
        ]:
            yield f"{where} expected {', '.join(missing)}"
            continue
        if not _is_page(entry):
            yield f"{where} expected ids in outcomes and schedule; in beams, why and gaps lists of texts with read and source"
            continue
        for study in entry["outcomes"]:
            if study not in set(tables["outcomes"].loc[tables["outcomes"]["page"] == page, "id"]):
                yield f"{where} outcomes: there is no {study!r} of this page in outcomes.csv"
        chosen = entry["schedule"]
        if chosen is not None and (chosen not in schedules.index or schedules["page"].get(chosen) != page):
            yield f"{where} schedule: there is no {chosen!r} of this page in schedules.csv"
        elif chosen is not None and schedules["confidence"].get(chosen) == "memory":
            yield f"{where} schedule: {chosen!r} is from memory; a number from memory is never a default"
        known = DOSE_SYSTEMS.get(str(entry["planned_in"]))
        if known is None or known.model is None:
            yield f"{where} planned_in: {entry['planned_in']!r} has no formula here"
        for gap in entry["gaps"]:
            if re.search(r"\d", gap["text"]) and gap.get("source") not in sources:
                yield f"{where} gap {gap['text'][:40]!r}: expected a source of its number"
        for part in (*entry["beams"], *entry["why"]):
            if part.get("read") not in (*READ, "memory") or (part["read"] != "memory" and part.get("source") not in sources):
                yield f"{where} {str(part.get('text'))[:40]!r}: expected a source, or read: memory"
