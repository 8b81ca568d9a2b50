"""CDISC ADTTE at the border. There CNSR 0 is the event; inside, code 1 is. The one place where this is converted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ionrt.quantities import IonrtError

CNSR_OF_CODE = {1: 0, 0: 1, 2: 2}  # event, censored, competing
CODE_OF_CNSR = {cnsr: code for code, cnsr in CNSR_OF_CODE.items()}
DAYS = {"DAYS": 1.0, "WEEKS": 7.0, "MONTHS": 365.25 / 12, "YEARS": 365.25}
PARAM = {
    "OS": "Overall Survival",
    "LC": "Local Control",
    "PFS": "Progression-Free Survival",
    "DM": "Distant Metastasis",
    "bRFS": "Biochemical Relapse-Free Survival",
}


def to_adtte(tables: Mapping[str, pd.DataFrame], *, study: str) -> pd.DataFrame:
    """The event table as CDISC ADaM time-to-event rows (ADTTE).

    tables : as from `load`; study : STUDYID. Returns STUDYID, USUBJID, PARAMCD, PARAM, AVAL (days elapsed since day 0),
    AVALU, CNSR (0 event, 1 censored, 2 competing event), EVNTDESC, SRCDOM, ORIGIN; one row per patient and endpoint.
    No dates: ADT and STARTDT do not exist for relative days.
    """
    event = tables["event"]
    said = event["code"].map({1: "EVENT", 0: "CENSORED", 2: "COMPETING EVENT"})
    return pd.DataFrame(
        {
            "STUDYID": study,
            "USUBJID": event["pid"],
            "PARAMCD": event["endpoint"].str.upper(),
            "PARAM": event["endpoint"].map(PARAM),
            "AVAL": event["day"],
            "AVALU": "DAYS",
            "CNSR": event["code"].map(CNSR_OF_CODE).astype("int64"),
            "EVNTDESC": event["cause"].where(event["cause"].notna(), said),
            "SRCDOM": event["site"],
            "ORIGIN": event["origin"],
        }
    )


def from_adtte(adtte: pd.DataFrame, *, origin: str = "clinical") -> pd.DataFrame:
    """The event table from ADTTE rows.

    adtte : USUBJID, PARAMCD, AVAL, CNSR; AVALU (DAYS, WEEKS, MONTHS, YEARS; default DAYS), EVNTDESC, SRCDOM, ORIGIN where
    present; origin : taken where there is no ORIGIN. Returns pid, origin, endpoint, day [d], code (1 event, 0 censored, 2
    competing), cause, site. CNSR above 2 are further reasons of censoring and become 0, the reason stays in `cause`.
    Raises IonrtError for missing columns, unknown units or endpoints, and CNSR that is no whole number >= 0.
    """
    missing = [c for c in ("USUBJID", "PARAMCD", "AVAL", "CNSR") if c not in adtte]
    if missing:
        raise IonrtError(f"ADTTE: columns {', '.join(missing)} are missing; found {', '.join(map(str, adtte.columns))}")
    unit = adtte["AVALU"].astype("str").str.upper() if "AVALU" in adtte else pd.Series("DAYS", index=adtte.index)
    names = {name.upper(): name for name in PARAM}
    _refuse_unknown("AVALU", unit, DAYS)
    _refuse_unknown("PARAMCD", adtte["PARAMCD"].astype("str").str.upper(), names)
    cnsr = pd.to_numeric(adtte["CNSR"], errors="coerce")
    bad = cnsr.isna() | (cnsr < 0) | (cnsr % 1 != 0)
    if bad.any():
        raise IonrtError(f"ADTTE: CNSR must be 0 (event) or a whole number above; row {int(np.flatnonzero(bad)[0])} is not")
    code = cnsr.map(CODE_OF_CNSR).fillna(0).astype("int64")
    plain = {"EVENT", "CENSORED", "COMPETING EVENT"}
    described = adtte["EVNTDESC"] if "EVNTDESC" in adtte else pd.Series(None, index=adtte.index, dtype="str")
    day = pd.to_numeric(adtte["AVAL"], errors="coerce") * unit.map(DAYS)
    return pd.DataFrame(
        {
            "pid": adtte["USUBJID"],
            "origin": adtte.get("ORIGIN", origin),
            "endpoint": adtte["PARAMCD"].astype("str").str.upper().map(names),
            "day": day.round(),
            "code": code,
            "cause": described.where(~described.isin(plain), None),
            "site": adtte.get("SRCDOM", None),
        }
    ).reset_index(drop=True)


def _refuse_unknown(column: str, cells: pd.Series, allowed: Mapping[str, object]) -> None:
    unknown = sorted(set(cells) - set(allowed))
    if unknown:
        raise IonrtError(f"ADTTE: {column} {', '.join(map(repr, unknown))} is not known; there are {', '.join(allowed)}")
