"""What may leave the site: tables with complementary suppression, coarse curves, rows only with k-anonymity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ionrt.cohort.suppression import suppress
from ionrt.quantities import IonrtError

MIN_CELL = 10
TOTALS = ("Total", "All")
QUASI_IDENTIFIERS = ("indication", "age_band", "sex", "treat_centre", "treat_year")
CURVE_VALUES = ("survival", "cif", "incidence", "lower", "upper")


def safe_table(df: pd.DataFrame, min_cell: int = MIN_CELL, *, totals: bool = False) -> pd.DataFrame:
    """A table of counts without cells below `min_cell`, also not by subtraction from row and column totals.

    Small cells are taken out, then further cells until no small count can be bounded to a range narrower than `min_cell` by
    someone who knows every other cell, all totals of at least `min_cell`, and that counts are not negative.
    df : counts (whole numbers >= 0), no totals; rows or columns named Total or All are left out and counted again;
    min_cell : smallest count that may be seen (zeros are counts below it); totals : add the safe totals as Total.
    Returns the table as Int64 with <NA> for what is not shown; ``attrs``: min_cell, suppressed (number of cells), note.
    Protects one table; two tables over the same patients have to be made coarse in the same way.
    Raises IonrtError where a cell is no count.
    Method: Cox 1980, doi 10.1080/01621459.1980.10477481 (suppression); bounds by linear programming.
    """
    counts = _counts(df, min_cell)
    full = np.pad(counts.to_numpy(dtype="int64"), ((0, 1), (0, 1)))
    full[:-1, -1], full[-1, :] = full[:-1, :-1].sum(axis=1), 0
    full[-1, :] = full[:-1, :].sum(axis=0)
    hidden = suppress(full, min_cell)
    shown = (
        pd.DataFrame(full, index=[*counts.index, TOTALS[0]], columns=[*counts.columns, TOTALS[0]]).astype("Int64").mask(hidden)
    )
    out = shown if totals else shown.iloc[:-1, :-1].set_axis(counts.index).set_axis(counts.columns, axis=1)
    taken = int(out.isna().to_numpy().sum())
    out.attrs = {
        **df.attrs,
        "min_cell": min_cell,
        "suppressed": taken,
        "note": _note(taken, out.size, int(full[-1, -1]), min_cell),
    }
    return out


def _counts(df: pd.DataFrame, min_cell: int) -> pd.DataFrame:
    if min_cell < 1:
        raise IonrtError(f"min_cell: expected at least 1, got {min_cell}")
    plain = df.drop(index=[t for t in TOTALS if t in df.index], columns=[t for t in TOTALS if t in df.columns])
    if plain.empty:
        raise IonrtError("safe_table: the table has no cells")
    try:
        values = plain.to_numpy(dtype="float64")
    except (TypeError, ValueError) as error:
        raise IonrtError(
            "safe_table: expected counts in every cell; put labels into the index (pandas.crosstab does)"
        ) from error
    if not (np.isfinite(values).all() and (values >= 0).all() and (values % 1 == 0).all()):
        raise IonrtError("safe_table: expected whole numbers >= 0 in every cell (no rates, no missing values)")
    return plain


def _note(taken: int, cells: int, n: int, min_cell: int) -> str:
    if taken == cells:
        size = f"n = {n}" if n >= min_cell else f"n < {min_cell}"
        return f"the cohort is too small for this table ({size}): nothing can be shown with min_cell = {min_cell}"
    return f"{taken} of {cells} cells not shown (min_cell = {min_cell})"


def safe_curve(curve: pd.DataFrame, *, time_step: float, min_cell: int = MIN_CELL, digits: int = 2) -> pd.DataFrame:
    """A Kaplan-Meier or cumulative-incidence curve that shows no single event and no censoring.

    The curve is read at multiples of `time_step`, only where at least `min_cell` events lie since the last point and at
    least `min_cell` patients are at risk; between the points a straight line is drawn. No point is biased: each is the
    estimate itself at that time.
    curve : one row per time with time, at_risk, events, survival (or cif, incidence), lower, upper, and stratum or cause
    where there are several, as from `ionrt.outcome.kaplan_meier`; time_step : rounding of time, unit of `time`;
    min_cell : smallest number of patients; digits : decimals of the estimates.
    Returns time, the estimates, at_risk (rounded down to a multiple of `min_cell`), stratum and cause;
    ``attrs["not_shown"]`` names the strata with too few events or patients. Raises IonrtError for missing columns.
    """
    missing = [c for c in ("time", "at_risk", "events") if c not in curve]
    values = [c for c in CURVE_VALUES if c in curve]
    if missing or not values:
        raise IonrtError(
            f"safe_curve: columns {', '.join(missing or ['survival'])} are missing; found {', '.join(curve.columns)}"
        )
    if not time_step > 0:
        raise IonrtError(f"time_step: expected a positive time, got {time_step}")
    by = [c for c in ("stratum", "cause") if c in curve]
    parts, hidden = [], []
    for label, group in curve.groupby(by, sort=False, dropna=False) if by else [((), curve)]:
        points = _points(group.sort_values("time"), values, time_step, min_cell)
        if len(points) < 2:
            hidden.append(" ".join(map(str, label)) or "all")
            continue
        parts.append(points.assign(**dict(zip(by, label, strict=True))))
    columns = [*by, "time", *values, "at_risk"]
    out = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    out[values] = out[values].astype("float64").round(digits)
    out.attrs = {**curve.attrs, "min_cell": min_cell, "time_step": time_step, "not_shown": hidden}
    return out


def _points(group: pd.DataFrame, values: Sequence[str], step: float, min_cell: int) -> pd.DataFrame:
    """The points of one curve that may be shown; the last block takes what is left over."""
    time, risk = group["time"].to_numpy(dtype=float), group["at_risk"].to_numpy(dtype=float)
    so_far = np.concatenate([[0.0], np.cumsum(group["events"].to_numpy(dtype=float))])
    grid = np.arange(0.0, time[-1] + step / 2, step)
    at = np.searchsorted(time, grid, side="right")
    # at_risk counts just before a time: at a grid point it is that of the next row
    left = np.where(at < time.size, risk[np.minimum(at, time.size - 1)], 0.0)
    allowed = np.flatnonzero(left >= min_cell)
    if allowed.size == 0:
        return group.iloc[:0]
    chosen = [0]
    for i in allowed:
        if so_far[at[i]] - so_far[at[chosen[-1]]] >= min_cell:
            chosen.append(int(i))
    if len(chosen) > 1:
        chosen[-1] = int(allowed[-1])
    if so_far[at[chosen[-1]]] < min_cell:
        return group.iloc[:0]
    index = np.maximum(at[chosen] - 1, 0)
    out = group.iloc[index][list(values)].reset_index(drop=True)
    if time[0] > 0:
        out.loc[0, list(values)] = 1.0 if "survival" in values else 0.0
    out.insert(0, "time", grid[chosen])
    out["at_risk"] = (np.minimum(left[chosen], risk[0]) // min_cell * min_cell).astype("int64")
    return out


def k_anonymity(tables: Mapping[str, pd.DataFrame], *, columns: Sequence[str] = QUASI_IDENTIFIERS, k: int = 5) -> pd.DataFrame:
    """The classes of patients that are smaller than `k`: who shares indication, age band, sex, centre and year.

    tables : as from `load`; columns : quasi-identifiers of patient or course; k : smallest class. Returns the columns and
    `patients`, one row per class below k (for use inside the site). Raises IonrtError for unknown columns.
    """
    patient = tables["patient"]
    both = tables["course"].merge(patient, on="pid", how="left", suffixes=("_course", ""))
    unknown = [c for c in columns if c not in both]
    if unknown:
        raise IonrtError(f"k_anonymity: {', '.join(unknown)} is no column of patient or course")
    classes = both.groupby(list(columns), dropna=False)["pid"].nunique().rename("patients").reset_index()
    return classes[classes["patients"] < k].reset_index(drop=True)


def export_rows(tables: Mapping[str, pd.DataFrame], path: str | Path, *, k: int = 5) -> None:
    """Write patient-level tables for a partner, if every patient hides among `k` and agreed to it.

    tables : as from `load`; path : folder; k : smallest class on {indication, age band, sex, centre, year}.
    Raises IonrtError, and writes nothing, where a class is smaller or where consent covers the site only.
    """
    from ionrt.cohort.schema import save

    at_home = int(tables["patient"]["consent_scope"].eq("site").sum())
    if at_home:
        raise IonrtError(f"{at_home} patients consented to use at their site only; take them out before the export")
    small = k_anonymity(tables, k=k)
    if len(small):
        raise IonrtError(
            f"{len(small)} classes of {', '.join(QUASI_IDENTIFIERS)} have fewer than {k} patients"
            f" ({small['patients'].sum()} patients);"
            " group years or ages, or leave them out, or share a summary instead of rows (ionrt.cohort.summary)"
        )
    save(tables, path)
