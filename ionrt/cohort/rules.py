"""Rules over several columns or tables of the cohort; each yields (table, column, where it is broken)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame as Table

from ionrt.cohort.dates import holds_date
from ionrt.cohort.doors import distinct

Violation = tuple[Any, ...]
Tables = dict[str, pd.DataFrame]
Broken = Iterator[tuple[str, str, Any]]
SHARES = [f"share_{ion}" for ion in ("p", "He", "C", "O", "Ne")]
UNITS = {"dose": {"Gy"}, "rbe_dose": {"Gy (RBE)"}, "let_d": {"keV/um"}}


def cross_table(tables: Tables, spec: Mapping[str, Any]) -> list[Violation]:
    """(table, row, column, rule, value) of every violation of references and rules; the text of a rule is the dictionary's."""
    broken, found = [], []
    for name, table_spec in spec["tables"].items():
        for column, parent in table_spec.get("references", {}).items():
            cells = tables[name][column]
            lost = cells.notna() & ~cells.isin(tables[parent][column])
            broken.append((name, column, lost, f"is not in table {parent}"))
    broken += [(*one, text) for name, text in spec.get("rules", {}).items() for one in RULES[name](**tables)]
    for name, column, bad, text in broken:
        rows = np.flatnonzero(np.asarray(bad, dtype=bool))
        found += [(name, int(row), column, text, tables[name][column].iloc[row]) for row in rows]
    return found


def relative_days(**tables: Table) -> Broken:
    dated = functools.cache(holds_date)
    for name, table in tables.items():
        for column in table.columns:
            cells = table[column]
            if pd.api.types.is_datetime64_any_dtype(cells):
                yield name, column, cells.notna()
            elif not pd.api.types.is_numeric_dtype(cells) or str(column).startswith("x_"):
                cells = cells if cells.dtype == "str" else cells.map(str, na_action="ignore")  # x_ columns may hold anything
                if found := {v for v in distinct(cells) if dated(v.removesuffix(".0"))}:
                    yield name, column, cells.isin(found)


def one_origin(**tables: Table) -> Broken:
    if len({o for t in tables.values() for o in t["origin"].dropna().unique()}) > 1:
        for name, table in tables.items():
            yield name, "origin", table["origin"].eq("SYNTHETIC")


def first_course_day_0(course: Table, **_: Table) -> Broken:
    first = course.groupby("pid")["start_day"].transform("min")
    yield "course", "start_day", (first > 0) & (course["start_day"] == first)


def ion_shares(course: Table, **_: Table) -> Broken:
    shares = course[SHARES].astype("float64").fillna(0.0)
    given, modality = course[SHARES].notna().any(axis=1), course["modality"]
    total, used = shares.sum(axis=1), (shares > 0).sum(axis=1)
    bad = given & ~modality.eq("photon") & ((total - 1.0).abs() > 1e-3)
    bad |= given & modality.eq("photon") & (total > 0)
    bad |= modality.eq("mixed") & (used < 2)
    for share in SHARES:
        bad |= given & modality.eq(share.removeprefix("share_")) & ((shares[share] - 1.0).abs() > 1e-3)
    yield "course", "modality", bad


def let_definition_given(course: Table, dose_metric: Table, **_: Table) -> Broken:
    has_let = course[["let_d_mean", "let_d_min", "let_d_d98"]].notna().any(axis=1)
    yield "course", "let_definition", has_let & course["let_definition"].isna()
    yield "dose_metric", "let_definition", dose_metric["quantity"].eq("let_d") & dose_metric["let_definition"].isna()


def dose_system_fits(course: Table, dose_metric: Table, **_: Table) -> Broken:
    quantity, unit = dose_metric["quantity"], dose_metric["unit"]
    yield "course", "rbe_model", course["modality"].eq("photon") & course["rbe_model"].ne("NONE")
    yield "dose_metric", "rbe_model", quantity.eq("rbe_dose") & dose_metric["rbe_model"].isna()
    is_volume = dose_metric["metric"].astype("str").str.match(r"V\d|Volume")
    for name, units in UNITS.items():
        fits = unit.isin(units) & ~is_volume | unit.isin({"cm3", "%"}) & is_volume
        yield "dose_metric", "unit", quantity.eq(name) & unit.notna() & ~fits


def _deaths(event: Table) -> pd.Series:
    """Day of death per patient, from OS."""
    return event[event["endpoint"].eq("OS") & event["code"].eq(1)].drop_duplicates("pid").set_index("pid")["day"]


def event_before_last_contact(patient: Table, event: Table, toxicity: Table, followup: Table, **_: Table) -> Broken:
    last = followup.groupby("pid")["day"].max()
    for name, column, table in (("event", "day", event), ("toxicity", "day_from", toxicity)):
        until = table["pid"].map(last).astype("float64")
        yield name, column, (table[column] > until) | (until.isna() & table["pid"].isin(patient["pid"]))


def event_before_death(event: Table, toxicity: Table, followup: Table, **_: Table) -> Broken:
    death = _deaths(event)
    for name, column, table in (("event", "day", event), ("toxicity", "day_from", toxicity), ("followup", "day", followup)):
        yield name, column, table[column] > table["pid"].map(death).astype("float64")


def death_is_death(event: Table, followup: Table, **_: Table) -> Broken:
    dead, died = followup["status"].eq("dead"), event["endpoint"].eq("OS") & event["code"].eq(1)
    yield "followup", "status", dead & (followup["pid"].map(_deaths(event)).astype("float64") != followup["day"])
    recorded = followup[dead].drop_duplicates("pid").set_index("pid")["day"]
    yield "event", "code", died & (event["pid"].map(recorded).astype("float64") != event["day"])


def os_has_no_competitor(event: Table, **_: Table) -> Broken:
    yield "event", "code", event["endpoint"].eq("OS") & event["code"].eq(2)


def competing_needs_cause(event: Table, **_: Table) -> Broken:
    competing = event["code"].eq(2) & event["endpoint"].ne("OS")
    same_day = event["pid"].map(_deaths(event)).astype("float64") == event["day"]
    yield "event", "cause", competing & (event["cause"].isna() | (event["cause"].eq("death") & ~same_day))


def grade_5_is_death(event: Table, toxicity: Table, **_: Table) -> Broken:
    by_toxicity = event["endpoint"].eq("OS") & event["code"].eq(1) & event["cause"].eq("toxicity")
    fatal = toxicity["grade"].eq(5)
    yield "toxicity", "grade", fatal & ~toxicity["pid"].isin(event.loc[by_toxicity, "pid"])
    yield "event", "cause", by_toxicity & ~event["pid"].isin(toxicity.loc[fatal, "pid"])


def toxicity_days(toxicity: Table, **_: Table) -> Broken:
    yield "toxicity", "day_to", toxicity["day_to"] < toxicity["day_from"]
    yield "toxicity", "last_clean_day", toxicity["last_clean_day"] > toxicity["day_from"]


def paediatric_age(patient: Table, **_: Table) -> Broken:
    yield "patient", "age_band", patient["indication"].eq("paediatric") & ~patient["age_band"].isin(["0-9", "10-19"])


RULES: dict[str, Callable[..., Broken]] = {rule.__name__: rule for rule in (
    relative_days, one_origin, first_course_day_0, ion_shares, let_definition_given, dose_system_fits,
    event_before_last_contact, event_before_death, death_is_death, os_has_no_competitor, competing_needs_cause,
    grade_5_is_death, toxicity_days, paediatric_age,
)}  # fmt: skip
