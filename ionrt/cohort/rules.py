"""Rules over several columns or tables of the cohort; each yields (table, row, column, rule, value) per violation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ionrt.cohort.dates import holds_date
from ionrt.cohort.doors import distinct

Violation = tuple[Any, ...]
Tables = dict[str, pd.DataFrame]
IONS = ("p", "He", "C", "O", "Ne")


def cross_table(tables: Tables, spec: Mapping[str, Any]) -> list[Violation]:
    """Run every rule; the text of a rule is the dictionary's."""
    found = list(_references(tables, spec))
    for name, text in spec.get("rules", {}).items():
        found += [(table, row, column, text, value) for table, row, column, value in RULES[name](tables)]
    return found


def _references(tables: Tables, spec: Mapping[str, Any]) -> Iterator[Violation]:
    for name, table_spec in spec["tables"].items():
        for column, parent in table_spec.get("references", {}).items():
            cells = tables[name][column]
            for row in np.flatnonzero(cells.notna() & ~cells.isin(tables[parent][column])):
                yield name, int(row), column, f"is not in table {parent}", cells[row]


def _rows(name: str, column: str, table: pd.DataFrame, bad: Any) -> Iterator[Violation]:
    for row in np.flatnonzero(np.asarray(bad, dtype=bool)):
        yield name, int(row), column, table[column].iloc[row]


def relative_days(tables: Tables) -> Iterator[Violation]:
    dated = functools.cache(holds_date)
    for name, table in tables.items():
        for column in table.columns:
            cells = table[column]
            if pd.api.types.is_datetime64_any_dtype(cells):
                yield from _rows(name, column, table, cells.notna())
            elif not pd.api.types.is_numeric_dtype(cells) or str(column).startswith("x_"):
                cells = cells if cells.dtype == "str" else cells.map(str, na_action="ignore")  # x_ columns may hold anything
                found = {v for v in distinct(cells) if dated(v.removesuffix(".0"))}
                if found:
                    yield from _rows(name, column, table, cells.isin(found))


def one_origin(tables: Tables) -> Iterator[Violation]:
    seen = {o for t in tables.values() for o in t["origin"].dropna().unique()}
    if len(seen) > 1:
        for name, table in tables.items():
            yield from _rows(name, "origin", table, table["origin"].eq("SYNTHETIC"))


def first_course_day_0(tables: Tables) -> Iterator[Violation]:
    course = tables["course"]
    first = course.groupby("pid")["start_day"].transform("min")
    yield from _rows("course", "start_day", course, (first > 0) & (course["start_day"] == first))


def ion_shares(tables: Tables) -> Iterator[Violation]:
    course = tables["course"]
    shares = course[[f"share_{ion}" for ion in IONS]].astype("float64").fillna(0.0)
    given = course[[f"share_{ion}" for ion in IONS]].notna().any(axis=1)
    total, used = shares.sum(axis=1), (shares > 0).sum(axis=1)
    modality = course["modality"]
    bad = given & ~modality.eq("photon") & ((total - 1.0).abs() > 1e-3)
    bad |= given & modality.eq("photon") & (total > 0)
    bad |= modality.eq("mixed") & (used < 2)
    for ion in IONS:
        bad |= given & modality.eq(ion) & ((shares[f"share_{ion}"] - 1.0).abs() > 1e-3)
    yield from _rows("course", "modality", course, bad)


def let_definition_given(tables: Tables) -> Iterator[Violation]:
    course, metric = tables["course"], tables["dose_metric"]
    has_let = course[["let_d_mean", "let_d_min", "let_d_d98"]].notna().any(axis=1)
    yield from _rows("course", "let_definition", course, has_let & course["let_definition"].isna())
    yield from _rows("dose_metric", "let_definition", metric, metric["quantity"].eq("let_d") & metric["let_definition"].isna())


def dose_system_fits(tables: Tables) -> Iterator[Violation]:
    course, metric = tables["course"], tables["dose_metric"]
    yield from _rows("course", "rbe_model", course, course["modality"].eq("photon") & course["rbe_model"].ne("NONE"))
    yield from _rows("dose_metric", "rbe_model", metric, metric["quantity"].eq("rbe_dose") & metric["rbe_model"].isna())
    allowed = {"dose": {"Gy"}, "rbe_dose": {"Gy (RBE)"}, "let_d": {"keV/um"}}
    is_volume = metric["metric"].astype("str").str.match(r"V\d|Volume")
    for quantity, units in allowed.items():
        fits = metric["unit"].isin(units) & ~is_volume | metric["unit"].isin({"cm3", "%"}) & is_volume
        bad = metric["quantity"].eq(quantity) & metric["unit"].notna() & ~fits
        yield from _rows("dose_metric", "unit", metric, bad)


def _last_contact(tables: Tables) -> pd.Series:
    return tables["followup"].groupby("pid")["day"].max()


def _deaths(tables: Tables) -> pd.Series:
    """Day of death per patient, from OS."""
    event = tables["event"]
    return event[event["endpoint"].eq("OS") & event["code"].eq(1)].drop_duplicates("pid").set_index("pid")["day"]


def event_before_last_contact(tables: Tables) -> Iterator[Violation]:
    last = _last_contact(tables)
    for name, column in (("event", "day"), ("toxicity", "day_from")):
        table = tables[name]
        until = table["pid"].map(last).astype("float64")
        late = (table[column] > until) | (until.isna() & table["pid"].isin(tables["patient"]["pid"]))
        yield from _rows(name, column, table, late)


def event_before_death(tables: Tables) -> Iterator[Violation]:
    death = _deaths(tables)
    for name, column in (("event", "day"), ("toxicity", "day_from"), ("followup", "day")):
        table = tables[name]
        yield from _rows(name, column, table, table[column] > table["pid"].map(death).astype("float64"))


def death_is_death(tables: Tables) -> Iterator[Violation]:
    event, contact = tables["event"], tables["followup"]
    death = _deaths(tables)
    dead = contact["status"].eq("dead")
    yield from _rows("followup", "status", contact, dead & (contact["pid"].map(death).astype("float64") != contact["day"]))
    recorded = contact[dead].drop_duplicates("pid").set_index("pid")["day"]
    died = event["endpoint"].eq("OS") & event["code"].eq(1)
    yield from _rows("event", "code", event, died & (event["pid"].map(recorded).astype("float64") != event["day"]))


def os_has_no_competitor(tables: Tables) -> Iterator[Violation]:
    event = tables["event"]
    yield from _rows("event", "code", event, event["endpoint"].eq("OS") & event["code"].eq(2))


def competing_needs_cause(tables: Tables) -> Iterator[Violation]:
    event = tables["event"]
    competing = event["code"].eq(2) & event["endpoint"].ne("OS")
    same_day = event["pid"].map(_deaths(tables)).astype("float64") == event["day"]
    bad = competing & (event["cause"].isna() | (event["cause"].eq("death") & ~same_day))
    yield from _rows("event", "cause", event, bad)


def grade_5_is_death(tables: Tables) -> Iterator[Violation]:
    event, toxicity = tables["event"], tables["toxicity"]
    by_toxicity = event[event["endpoint"].eq("OS") & event["code"].eq(1) & event["cause"].eq("toxicity")]
    fatal = toxicity["grade"].eq(5)
    yield from _rows("toxicity", "grade", toxicity, fatal & ~toxicity["pid"].isin(by_toxicity["pid"]))
    unexplained = by_toxicity.index[~by_toxicity["pid"].isin(toxicity.loc[fatal, "pid"])]
    yield from _rows("event", "cause", event, event.index.isin(unexplained))


def toxicity_days(tables: Tables) -> Iterator[Violation]:
    toxicity = tables["toxicity"]
    yield from _rows("toxicity", "day_to", toxicity, toxicity["day_to"] < toxicity["day_from"])
    yield from _rows("toxicity", "last_clean_day", toxicity, toxicity["last_clean_day"] > toxicity["day_from"])


def paediatric_age(tables: Tables) -> Iterator[Violation]:
    patient = tables["patient"]
    bad = patient["indication"].eq("paediatric") & ~patient["age_band"].isin(["0-9", "10-19"])
    yield from _rows("patient", "age_band", patient, bad)


RULES: dict[str, Callable[[Tables], Iterator[Violation]]] = {
    rule.__name__: rule
    for rule in (
        relative_days,
        one_origin,
        first_course_day_0,
        ion_shares,
        let_definition_given,
        dose_system_fits,
        event_before_last_contact,
        event_before_death,
        death_is_death,
        os_has_no_competitor,
        competing_needs_cause,
        grade_5_is_death,
        toxicity_days,
        paediatric_age,
    )
}
