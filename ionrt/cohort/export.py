"""Rows that may leave the site: only with k-anonymity, and without free text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ionrt.cohort.exchange import refuse_site_consent
from ionrt.cohort.schema import save
from ionrt.quantities import IonrtError

QUASI_IDENTIFIERS = ("indication", "age_band", "sex", "treat_centre", "treat_year")
CAUSES = ("death", "cancer", "toxicity", "other")
FREE_TEXT: dict[str, dict[str, str | None]] = {  # and what stands there instead
    "patient": {"histology": None, "stage": None, "strata": None},
    "course": {"rx_verbatim": "left out"},
    "event": {"cause": "other"},
}


def k_anonymity(tables: Mapping[str, pd.DataFrame], *, columns: Sequence[str] = QUASI_IDENTIFIERS, k: int = 5) -> pd.DataFrame:
    """The classes of patients that are smaller than `k`: who shares indication, age band, sex, centre and year.

    Parameters
    ----------
    tables : as from `load`.
    columns : quasi-identifiers of patient or course.
    k : smallest class.

    Returns
    -------
    DataFrame: the columns and `patients`, one row per class below k (for use inside the site).

    Raises
    ------
    IonrtError
        Unknown columns.

    Examples
    --------
    Of 20 patients (SYNTHETIC) all stand out by indication, age, sex, centre and year, none by sex alone.

    >>> tables = ionrt.cohort.synthetic(20, seed=1)
    >>> int(ionrt.cohort.k_anonymity(tables)["patients"].sum())  # patients in classes below five
    20
    >>> int(ionrt.cohort.k_anonymity(tables, columns=["sex"])["patients"].sum())
    0
    """
    patient = tables["patient"]
    both = tables["course"].merge(patient, on="pid", how="left", suffixes=("_course", ""))
    unknown = [c for c in columns if c not in both]
    if unknown:
        raise IonrtError(f"k_anonymity: {', '.join(unknown)} is no column of patient or course")
    classes = both.groupby(list(columns), dropna=False)["pid"].nunique().rename("patients").reset_index()
    return classes[classes["patients"] < k].reset_index(drop=True)


def export_rows(tables: Mapping[str, pd.DataFrame], path: str | Path, *, k: int = 5, free_text: Sequence[str] = ()) -> None:
    """Write patient-level tables for a partner, if every patient hides among `k` and agreed to it.

    Free text stays at home: own columns (``x_...``), histology, stage, strata, the prescription as written, and causes other
    than death, cancer and toxicity (then "other"). GTV volumes, by which a row could be found again, are rounded to a tenth of
    a decade.

    Parameters
    ----------
    tables : as from `load`.
    path : folder.
    k : smallest class on {indication, age band, sex, centre, year}.
    free_text : columns to be exported all the same, each by its name (``"patient.histology"``), after somebody has read them.

    Raises
    ------
    IonrtError
        A class is smaller, consent covers the site only, or fewer than `k` patients have a structure or a toxicity term that is
        not in `free_text`; nothing is written then.
    """
    if isinstance(free_text, str):
        raise IonrtError("free_text: expected a list of columns such as 'patient.histology'")
    there = {f"{name}.{column}" for name, table in tables.items() for column in table.columns}
    unknown = [c for c in free_text if c not in there]
    if unknown:
        raise IonrtError(f"free_text: there is no column {', '.join(map(str, unknown))}; write table.column")
    refuse_site_consent("the export", tables)
    small = k_anonymity(tables, k=k)
    if len(small):
        raise IonrtError(
            f"{len(small)} classes of {', '.join(QUASI_IDENTIFIERS)} have fewer than {k} patients"
            f" ({small['patients'].sum()} patients);"
            " group years or ages, or leave them out, or share a summary instead of rows (ionrt.cohort.summary)"
        )
    pid_of = tables["course"].set_index("cid")["pid"]
    for name, column in (("toxicity", "term"), ("dose_metric", "structure")):
        table = tables.get(name, pd.DataFrame())
        if len(table) and f"{name}.{column}" not in free_text:
            who = table["pid"] if "pid" in table else table["cid"].map(pid_of)
            rare = int((who.groupby(table[column]).nunique() < k).sum())
            if rare:
                raise IonrtError(
                    f"{rare} values of {name}.{column} stand with fewer than {k} patients; join or take them out, or name the"
                    " column in free_text="
                )
    save({name: _without_free_text(name, table, free_text) for name, table in tables.items()}, path)


def _without_free_text(name: str, table: pd.DataFrame, named: Sequence[str]) -> pd.DataFrame:
    """The table as it may go to a partner."""
    out = table.drop(columns=[c for c in table.columns if str(c).startswith("x_") and f"{name}.{c}" not in named])
    for column, instead in FREE_TEXT.get(name, {}).items():
        if column in out and f"{name}.{column}" not in named:
            cells = out[column]
            kept = cells.isna() | (cells.isin(CAUSES) if instead == "other" else False)
            out[column] = cells.where(kept, instead).astype("str").where(cells.notna() & (instead is not None))
    if "gtv_volume" in out:
        decade = np.log10(out["gtv_volume"].astype("float64"))
        out["gtv_volume"] = (10 ** (decade.mul(10).round() / 10)).round(1)
    return out
