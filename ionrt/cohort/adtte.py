"""CDISC ADTTE at the border. There CNSR 0 is the event; inside, code 1 is. The one place where this is converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ionrt.cohort.doors import decimal_comma, numbers, table_of
from ionrt.quantities import IonrtError

CNSR_OF_CODE = {1: 0, 0: 1, 2: 2}  # event, censored, competing
COMPETING = "COMPETING EVENT"
MAX_DAY = 36500
DAYS = {"DAYS": 1.0, "WEEKS": 7.0, "MONTHS": 365.25 / 12, "YEARS": 365.25}
ORIGINS = ("clinical", "SYNTHETIC")
PARAM = {
    "OS": "Overall Survival",
    "LC": "Local Control",
    "PFS": "Progression-Free Survival",
    "DM": "Distant Metastasis",
    "bRFS": "Biochemical Relapse-Free Survival",
}


def to_adtte(tables: Mapping[str, pd.DataFrame], *, study: str) -> pd.DataFrame:
    """The event table as CDISC ADaM time-to-event rows (ADTTE), one per patient and endpoint.

    AVAL in days elapsed since day 0; CNSR 0 event, 1 censored, 2 competing event; EVNTDESC of competing events begins with
    COMPETING EVENT; SITEID is the centre that observed it. No dates: ADT and STARTDT do not exist for relative days.
    """
    event = tables["event"]
    said = event["code"].map({1: "EVENT", 0: "CENSORED", 2: COMPETING})
    named = event["cause"].where(event["code"].ne(2), COMPETING + ": " + event["cause"].astype("str"))
    return pd.DataFrame(
        {
            "STUDYID": study,
            "USUBJID": event["pid"],
            "PARAMCD": event["endpoint"].str.upper(),
            "PARAM": event["endpoint"].map(PARAM),
            "AVAL": event["day"],
            "AVALU": "DAYS",
            "CNSR": event["code"].map(CNSR_OF_CODE).astype("int64"),
            "EVNTDESC": named.where(event["cause"].notna(), said),
            "SITEID": event["site"],
            "ORIGIN": event["origin"],
        }
    )


def from_adtte(
    adtte: pd.DataFrame | str | Path, *, origin: str = "clinical", competing: Sequence[int] = (), encoding: str | None = None
) -> pd.DataFrame:
    """The event table from ADTTE rows.

    Every CNSR above 0 is censored, as CDISC has it: the number is the reason. What competes is said by `competing`, or by an
    EVNTDESC that begins with COMPETING EVENT, as `to_adtte` writes it.

    Parameters
    ----------
    adtte : frame or CSV file with USUBJID, PARAMCD, AVAL, CNSR; AVALU (DAYS, WEEKS, MONTHS, YEARS; default
        what stands in brackets in PARAM, else DAYS), EVNTDESC,
        SITEID, ORIGIN where present.
    origin : taken where there is no ORIGIN.
    competing : values of CNSR that are competing events.
    encoding : of the file.

    Returns
    -------
    DataFrame: pid, origin, endpoint, day [d] (rounded), code (1 event, 0 censored, 2 competing), cause (the description, of
    censored rows the reason), site; ``attrs["not_read"]`` names the columns that were not used, ``attrs["assumed"]`` what
        was not stated.

    Raises
    ------
    IonrtError
        Names row and column: missing columns, unknown units or endpoints, CNSR that is no whole number >= 0, AVAL that is no
        number from 0 to 100 years, a patient twice under one endpoint.
    """
    frame = table_of(adtte, "ADTTE", encoding=encoding)
    missing = [c for c in ("USUBJID", "PARAMCD", "AVAL", "CNSR") if c not in frame]
    if missing:
        raise IonrtError(f"ADTTE: columns {', '.join(missing)} are missing")
    codes = {competing} if isinstance(competing, int) else set(competing)
    if not all(isinstance(v, (int, np.integer)) and v > 0 for v in codes):
        raise IonrtError("ADTTE: competing takes values of CNSR above 0; 0 is the event")
    text = {c: _plain(frame[c]) for c in ("USUBJID", "PARAMCD", "AVALU", "EVNTDESC", "SITEID", "ORIGIN") if c in frame}
    if "AVALU" in text:
        unit, assumed = text["AVALU"], []
    else:  # ADaM has it in PARAM: Overall Survival (Months)
        said = _plain(frame["PARAM"]) if "PARAM" in frame else pd.Series("", index=frame.index)
        unit = said.str.extract(r"(?i)\((days?|weeks?|months?|years?)\)", expand=False)
        assumed = ["AVALU: taken as PARAM says"] * bool(unit.notna().any()) + ["AVALU: taken as DAYS"] * bool(unit.isna().any())
        unit = unit.fillna("DAYS")
    unit = unit.str.upper()
    unit = unit.where(unit.str.endswith("S"), unit + "S")
    endpoint = text["PARAMCD"].str.upper()
    comma = decimal_comma([frame["AVAL"], frame["CNSR"]])
    cnsr, value = numbers(frame["CNSR"], comma=comma), numbers(frame["AVAL"], comma=comma)
    names = {name.upper(): name for name in PARAM}
    day = (value * unit.map(DAYS).astype("float64")).round()
    given = text["ORIGIN"] if "ORIGIN" in text else pd.Series(origin, index=frame.index)
    for column, bad, rule in (
        ("USUBJID", text["USUBJID"].isna(), "may not be empty"),
        ("AVALU", ~unit.isin(DAYS), f"must be one of {', '.join(DAYS)}"),
        ("PARAMCD", ~endpoint.isin(names), f"must be one of {', '.join(names)}"),
        ("CNSR", cnsr.isna() | (cnsr < 0) | (cnsr % 1 != 0), "must be 0 (event) or a whole number above"),
        ("AVAL", value.isna() | ~day.between(0, MAX_DAY), f"must be a time from 0 to {MAX_DAY} days"),
        ("ORIGIN", ~given.isin(ORIGINS), f"must be one of {', '.join(ORIGINS)}"),
        ("USUBJID", pd.DataFrame({"who": text["USUBJID"], "what": endpoint}).duplicated(), "stands twice under one PARAMCD"),
    ):
        if (rows := np.flatnonzero(bad.to_numpy(dtype=bool))).size:
            first = ", ".join(map(str, rows[:5])) + (", ..." if rows.size > 5 else "")
            raise IonrtError(f"ADTTE: {column} {rule}; row{'s' if rows.size > 1 else ''} {first} ({rows.size} in all)")
    said = text.get("EVNTDESC", pd.Series(pd.NA, index=frame.index, dtype="str"))
    competes = (cnsr > 0) & (cnsr.isin(codes) | said.str.upper().str.startswith(COMPETING).eq(True))
    cause = said.str.replace(rf"(?i)^{COMPETING}\s*:?\s*", "", regex=True)
    out = pd.DataFrame(
        {
            "pid": text["USUBJID"],
            "origin": given,
            "endpoint": endpoint.map(names),
            "day": day,
            "code": np.select([cnsr == 0, competes], [1, 2], 0),
            "cause": cause.mask(cause.isin(["EVENT", "CENSORED", ""])),
            "site": text.get("SITEID"),
        }
    ).reset_index(drop=True)
    used = ("STUDYID", "PARAM", "AVAL", "CNSR", *text)
    out.attrs = {"not_read": [str(c) for c in frame.columns if c not in used], "assumed": assumed}
    return out


def _plain(cells: pd.Series) -> pd.Series:
    """Text without space around it; empty cells are missing."""
    text = cells.map(lambda v: str(v).strip(), na_action="ignore").astype("str")
    return text.where(cells.notna() & text.ne(""))
