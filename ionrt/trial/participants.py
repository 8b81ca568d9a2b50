"""Participants of a trial as a table of one's own: read, checked against the protocol, ready for its analysis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ionrt.cohort.adtte import DAYS, from_adtte
from ionrt.cohort.doors import decimal_comma, numbers, read_table
from ionrt.quantities import IonrtError
from ionrt.trial.protocol import Protocol

MONTH = DAYS["MONTHS"]
MOST_MONTHS = 600
ARMS = ("TRTP", "TRT01P", "ARM")  # the planned treatment, as ADaM names it
# what stands where a column is absent: everybody assessed was randomised, treated, followed and analysed
FLOW: Mapping[str, Any] = {
    "excluded": "", "received": True, "lost": "", "discontinued": "", "analysed": True, "not_analysed": "",
}  # fmt: skip
NUMBERS = ("time", "event", "entry", "worst_grade", "AVAL", "CNSR")
LOGICAL = {"TRUE": "1", "FALSE": "0", "True": "1", "False": "0"}
TRUTH = {"true": True, "yes": True, "y": True, "1": True, "1.0": True} | dict.fromkeys(("false", "no", "n", "0", "0.0"), False)


def read_participants(path: str | Path, protocol: Protocol) -> pd.DataFrame:
    """Participants of a randomised trial with a survival endpoint, from a CSV file.

    Parameters
    ----------
    path : CSV as `cohort.read_table` takes it (any script; semicolons and decimal commas too; NA is an empty cell), one row per
        assessed participant: ``arm`` (a name of the protocol, empty if excluded), ``time`` [months from randomisation],
        ``event`` (0, 1), the strata of the protocol; where there, ``pid``, ``origin``, ``age_band``, ``sex``, ``worst_grade``
        (0 to 5) and the columns of `consort_from`. Or CDISC ADTTE rows (USUBJID, PARAMCD, AVAL, AVALU, CNSR)
        with the planned treatment in TRTP, TRT01P or ARM and the strata; those of the protocol's endpoint are taken.
    protocol : of two arms.

    Returns
    -------
    DataFrame, one row per participant, with all columns of `consort_from`; ``attrs["data"]`` says clinical or SYNTHETIC,
        ``attrs["assumed"]`` which columns of the flow were not there.

    Raises
    ------
    IonrtError for a file that is no such table, missing columns, arms or levels that the protocol does not have, events other
        than 0 and 1, times below 0, and a person twice.
    """
    text = read_table(path)
    rows = text.mask(text.isin(("NA", ".")))  # missing as R and SAS write it
    measured = [name for name in NUMBERS if name in rows]
    rows[measured] = rows[measured].replace(LOGICAL)
    comma = decimal_comma([rows[name] for name in measured])
    rows = rows.assign(**{name: numbers(rows[name], comma=comma) for name in measured})
    rows = _from_adtte(rows, protocol) if {"USUBJID", "CNSR"} <= set(rows) else rows
    absent = [c for c in ("arm", "time", "event", *protocol.strata) if c not in rows]
    if absent:
        raise IonrtError(f"participants: columns {', '.join(absent)} are missing; found {', '.join(map(str, rows.columns))}")
    rows = rows.assign(pid=rows["pid"] if "pid" in rows else [f"row {i}" for i in range(1, len(rows) + 1)])
    assumed = [name for name in FLOW if name not in rows] + ["AVALU (days)"] * ("AVAL" in rows and "AVALU" not in rows)
    rows = rows.assign(**{name: FLOW[name] for name in assumed if name in FLOW})
    if "excluded" in assumed:
        rows["excluded"] = rows["arm"].isna().map({True: "not randomised", False: ""})
    for name in ("received", "analysed"):
        rows[name] = rows[name].astype(str).str.strip().str.lower().map(TRUTH)
    _check(rows, protocol)
    rows["event"] = rows["event"].astype("Int64" if rows["event"].isna().any() else "int64")
    origin = set(rows["origin"].astype(str)) if "origin" in rows else {"clinical"}
    rows.attrs = {"data": "clinical" if origin != {"SYNTHETIC"} else "SYNTHETIC", "protocol": protocol.id, "assumed": assumed}
    return rows


def _from_adtte(rows: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """The columns of ours from ADTTE rows of the protocol's endpoint; times in months."""
    endpoint = str(protocol.endpoint["name"])
    rows = rows[rows.get("PARAMCD", pd.Series("", index=rows.index)).astype(str).str.upper() == endpoint.upper()]
    arm = next((name for name in ARMS if name in rows), None)
    if rows.empty or arm is None:
        raise IonrtError(f"participants: expected ADTTE rows with PARAMCD {endpoint} and one of {', '.join(ARMS)}")
    events = from_adtte(rows)
    own = rows.drop(columns=["time", "event", "pid", "origin", "arm"], errors="ignore").reset_index(drop=True)
    unit = rows["AVALU"].astype(str).str.upper().map(DAYS).to_numpy() if "AVALU" in rows else 1.0
    months = rows["AVAL"].to_numpy() * unit / MONTH  # the event table itself counts whole days
    known = {"pid": events["pid"], "origin": events["origin"], "event": events["code"].eq(1).astype("int64")}
    return own.assign(arm=rows[arm].to_numpy(), time=months, **known)


def _check(rows: pd.DataFrame, protocol: Protocol) -> None:
    """Everything that would make the analysis another one than the reader thinks."""
    faults = []
    inside = rows[rows["arm"].notna()]
    allowed: dict[str, list[Any]] = {"arm": [arm["name"] for arm in protocol.arms], "event": [0, 1]}
    allowed |= {name: list(levels) for name, levels in protocol.strata.items()}
    for name, levels in allowed.items():
        found = inside[name] if name == "event" else inside[name].astype(str)
        wrong = ~found.isin(levels if name == "event" else list(map(str, levels)))
        if wrong.any():
            values = ", ".join(sorted({f"{v:g}" if name == "event" else repr(v) for v in inside.loc[wrong, name]})[:5])
            faults.append(f"{name}: {int(wrong.sum())} rows hold {values}; must be one of {', '.join(map(str, levels))}")
    times = pd.to_numeric(inside["time"], errors="coerce")
    if bad := int((~(times >= 0)).sum()):
        faults.append(f"time: {bad} rows hold no number of months from 0 on")
    if bad := int((times > MOST_MONTHS).sum()):
        faults.append(f"time: {bad} rows hold more than {MOST_MONTHS} months; expected months, not days")
    for name in ("received", "analysed"):
        if bad := int(rows[name].isna().sum()):
            faults.append(f"{name}: {bad} rows hold neither yes nor no")
    if twice := int(rows["pid"].duplicated().sum()):
        faults.append(f"pid: {twice} rows repeat a participant; one row each")
    if faults:
        raise IonrtError("participants: " + "; ".join(faults))
