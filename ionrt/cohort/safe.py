"""Counts and curves that may leave the site: complementary suppression, coarse steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ionrt.cohort.suppression import suppress
from ionrt.quantities import IonrtError

MIN_CELL = 10
TOTALS = ("Total", "All")
CURVE_VALUES = ("survival", "cif", "incidence", "lower", "upper")


def safe_table(df: pd.DataFrame | Mapping[str, pd.DataFrame], min_cell: int = MIN_CELL, *, totals: bool = False) -> Any:
    """A table of counts, or several over the same people, without cells below `min_cell`, also not by subtraction from totals.

    Small cells are taken out, then further cells until no small count can be bounded to a range narrower than `min_cell` by
    someone who knows every other cell, all totals of at least `min_cell`, and that counts are not negative. Of several tables
    the outsider lays all side by side: a column total that one of them hides is hidden in all, and the ranges are those that
    fit all at once.

    Parameters
    ----------
    df : DataFrame of counts (whole numbers from 0 up), no totals: rows or columns named Total or All are left out and counted
        again. Or name -> such a table, with the same columns (the centres, say); tables that cross other columns (age by sex)
        share no total but that of everybody and are protected one by one.
    min_cell : smallest count that may be seen (zeros are counts below it).
    totals : add the safe totals as Total; several tables always have them.

    Returns
    -------
    DataFrame, or name -> DataFrame, of Int64 with <NA> for what is not shown; ``attrs``: min_cell, suppressed (number of
    cells), note.

    Raises
    ------
    IonrtError
        A cell that is no count; tables that do not have the same columns and totals.

    References
    ----------
    Suppression: Cox 1980, doi:10.1080/01621459.1980.10477481; bounds by linear programming.

    Examples
    --------
    Totals would give the 4 away (64 - 60), and each neighbour that is hidden for it as well: of two by two nothing is left.

    >>> counts = pd.DataFrame({"A": [60, 40], "B": [4, 30]}, index=["carbon", "protons"])  # SYNTHETIC
    >>> ionrt.cohort.safe_table(counts).values.tolist()
    [[<NA>, <NA>], [<NA>, <NA>]]
    """
    tables = df if isinstance(df, Mapping) else {"": df}
    counts = {name: _counts(table, min_cell) for name, table in tables.items()}
    full = {name: _with_totals(c) for name, c in counts.items()}
    if not tables:
        raise IonrtError("safe_table: expected at least one table")
    first = next(iter(full))
    for name in full:
        if list(counts[name].columns) != list(counts[first].columns) or (full[name][-1] != full[first][-1]).any():
            raise IonrtError(f"safe_table: {name!r} and {first!r} do not have the same columns with the same totals")
    hidden = dict(zip(full, suppress(list(full.values()), min_cell), strict=True))
    totals = totals or tables is df
    shown = {n: _shown(t, counts[n], full[n], hidden[n], min_cell, totals=totals) for n, t in tables.items()}
    return shown if tables is df else shown[""]


def _with_totals(counts: pd.DataFrame) -> np.ndarray:
    full = np.pad(counts.to_numpy(dtype="int64"), ((0, 1), (0, 1)))
    full[:-1, -1] = full[:-1, :-1].sum(axis=1)
    full[-1, :] = full[:-1, :].sum(axis=0)
    return full


def _shown(
    df: pd.DataFrame, counts: pd.DataFrame, full: np.ndarray, hidden: np.ndarray, min_cell: int, *, totals: bool
) -> pd.DataFrame:
    """The table without its hidden cells."""
    rows, columns = (pd.Index([*axis, TOTALS[0]], name=axis.name) for axis in (counts.index, counts.columns))
    shown = pd.DataFrame(full, index=rows, columns=columns).astype("Int64").mask(hidden)
    out = shown if totals else shown.iloc[:-1, :-1].set_axis(counts.index).set_axis(counts.columns, axis=1)
    taken = int(out.isna().to_numpy().sum())
    note = _note(taken, out.size, int(full[-1, -1]), min_cell)
    out.attrs = {**df.attrs, "min_cell": min_cell, "suppressed": taken, "note": note}
    return out


def safe_count(n: int, min_cell: int = MIN_CELL) -> str:
    """A count in words that leave it open by `min_cell`: "fewer than 10", "at least 640".

    Parameters
    ----------
    n : number of people.
    min_cell : smallest count that may be seen.

    Returns
    -------
    The text. Such counts may stand beside any safe table: no difference between them can be known better than to `min_cell`.

    Raises
    ------
    IonrtError
        A negative count.

    Examples
    --------
    >>> [ionrt.cohort.safe_count(n) for n in (7, 10, 647)]
    ['fewer than 10', 'at least 10', 'at least 640']
    """
    if n < 0 or min_cell < 1:
        raise IonrtError(f"safe_count: expected a count >= 0 and min_cell >= 1, got {n} and {min_cell}")
    return f"at least {n // min_cell * min_cell}" if n >= min_cell else f"fewer than {min_cell}"


def merge_bands(values: pd.Series, min_cell: int = MIN_CELL, *, counted: pd.Series | None = None) -> pd.Series:
    """Ordered bands joined with the next ones until each holds `min_cell` people: 10-19, 20-29, 30-39 become 10-39.

    A rare band can be narrowed from another table (the youngest are the paediatric patients of a table by indication); a joined
    one cannot, if it holds enough people beside them.

    Parameters
    ----------
    values : bands as text (or numbers) that sort in their order.
    min_cell : smallest count.
    counted : who counts (boolean, as `values`; default: all), for instance everybody but the paediatric patients.

    Returns
    -------
    Values as text; a last band that is too small joins the one before it; missing values stay missing.

    Raises
    ------
    IonrtError
        Fewer than `min_cell` values.

    Examples
    --------
    >>> ages = pd.Series(["10-19"] * 3 + ["20-29"] * 9 + ["30-39"] * 15)  # SYNTHETIC
    >>> ionrt.cohort.merge_bands(ages).value_counts().to_dict()  # 3 are too few, 3 + 9 are not
    {'30-39': 15, '10-29': 12}
    """
    who = values if counted is None else values.where(counted)
    counts = who.value_counts().reindex(sorted(values.dropna().unique()), fill_value=0)
    if counts.sum() < min_cell:
        raise IonrtError(f"merge_bands: fewer than {min_cell} values; nothing can be shown with min_cell = {min_cell}")
    groups: list[list[str]] = [[]]
    size = 0
    for level, n in counts.items():
        groups[-1].append(str(level))
        size += int(n)
        if size >= min_cell:
            groups.append([])
            size = 0
    rest = groups.pop()
    groups[-1] += rest
    label = {level: _band(group) for group in groups for level in group}
    return values.map(lambda v: label[str(v)], na_action="ignore").rename(values.name)


def _band(levels: Sequence[str]) -> str:
    """10-19 and 30-39 are 10-39; 80-89 and 90+ are 80+; other words are joined by "to"."""
    first, last = levels[0], levels[-1]
    if first == last:
        return first
    if "-" in first and (last.endswith("+") or "-" in last):
        return f"{first.split('-')[0]}+" if last.endswith("+") else f"{first.split('-')[0]}-{last.split('-')[-1]}"
    return f"{first} to {last}"


def safe_at_risk(table: pd.DataFrame, min_cell: int = MIN_CELL) -> pd.DataFrame:
    """Numbers at risk for export: rounded down to a multiple of `min_cell`, nothing where they fall below it.

    Exact numbers at two times differ by the events and losses between them, which may be few.

    Parameters
    ----------
    table : with column at_risk, as from `ionrt.outcome.at_risk`.
    min_cell : smallest count that may be seen.

    Returns
    -------
    Table with at_risk as Int64, without what counts exactly (events, censored, n, n_events).

    Raises
    ------
    IonrtError
        No column at_risk.

    Examples
    --------
    >>> table = pd.DataFrame({"time": [0, 12, 24], "at_risk": [43, 21, 8], "events": [0, 12, 19]})  # months, SYNTHETIC
    >>> shown = ionrt.cohort.safe_at_risk(table)
    >>> list(shown), shown["at_risk"].tolist()
    (['time', 'at_risk'], [40, 20, <NA>])
    """
    if "at_risk" not in table:
        raise IonrtError(f"safe_at_risk: column at_risk is missing; found {', '.join(map(str, table.columns))}")
    risk = (table["at_risk"] // min_cell * min_cell).astype("Int64")
    exact = [c for c in ("events", "censored", "n", "n_events") if c in table]
    return table.assign(at_risk=risk.where(risk >= min_cell)).drop(columns=exact)


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


def safe_curve(
    curve: pd.DataFrame, *, time_step: float, min_cell: int = MIN_CELL, digits: int = 2, prefer: Sequence[float] = ()
) -> pd.DataFrame:
    """A Kaplan-Meier or cumulative-incidence curve that shows no single event and no censoring.

    The curve is read at multiples of `time_step`, only where at least `min_cell` events lie since the last point and at least
    `min_cell` patients are at risk; between the points a straight line is drawn. No point is biased: each is the estimate
    itself at that time.

    Parameters
    ----------
    curve : one row per time with time, at_risk, events, survival (or cif, incidence), lower, upper, and stratum or cause where
        there are several, as from `ionrt.outcome.kaplan_meier`.
    time_step : rounding of time, unit of `time`.
    min_cell : smallest number of patients.
    digits : decimals of the estimates.
    prefer : times that get a point where they may have one, before the others are chosen (multiples of `time_step`). A table of
        estimates at these times beside the curve has to be read off the result: two sets of points of one curve could be
        subtracted.

    Returns
    -------
    DataFrame: time, the estimates, at_risk (rounded down to a multiple of `min_cell`), stratum and cause;
    ``attrs["not_shown"]`` names the strata with too few events or patients, and the next smallest where one alone would be
    hidden: a curve of everybody beside the strata must not tell it.

    Raises
    ------
    IonrtError
        Missing columns.
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
    drawn, events = {}, {}
    for label, group in curve.groupby(by, sort=False, dropna=False) if by else [((), curve)]:
        points = _points(group.sort_values("time"), values, time_step, min_cell, prefer)
        drawn[label] = points.assign(**dict(zip(by, label, strict=True))) if len(points) > 1 else None
        events[label] = float(group["events"].sum())
    _hide_beside_all(drawn, events, by, min_cell)
    hidden = [" ".join(map(str, label)) or "all" for label, points in drawn.items() if points is None]
    parts = [points for points in drawn.values() if points is not None]
    columns = [*by, "time", *values, "at_risk"]
    out = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    out[values] = out[values].astype("float64").round(digits)
    out.attrs = {**curve.attrs, "min_cell": min_cell, "time_step": time_step, "not_shown": hidden}
    return out


def _hide_beside_all(drawn: dict[Any, Any], events: Mapping[Any, float], by: Sequence[str], min_cell: int) -> None:
    """One hidden stratum would follow from the others and a curve of everybody: hide the smallest with it, until enough are."""
    causes = {label[by.index("cause")] if "cause" in by else None for label in drawn} if "stratum" in by else ()
    for cause in causes:
        labels = [label for label in drawn if cause is None or label[by.index("cause")] == cause]
        while True:
            gone = [label for label in labels if drawn[label] is None]
            left = sorted((label for label in labels if drawn[label] is not None), key=lambda label: events[label])
            if not gone or not left or (len(gone) > 1 and sum(events[label] for label in gone) >= min_cell):
                break
            drawn[left[0]] = None


def _points(group: pd.DataFrame, values: Sequence[str], step: float, min_cell: int, prefer: Sequence[float]) -> pd.DataFrame:
    """The points of one curve that may be shown; the last block takes what is left over."""
    time, risk = group["time"].to_numpy(dtype=float), group["at_risk"].to_numpy(dtype=float)
    so_far = np.concatenate([[0.0], np.cumsum(group["events"].to_numpy(dtype=float))])
    grid = np.arange(0.0, time[-1] + step / 2, step)
    at = np.searchsorted(time, grid, side="right")
    # at_risk counts just before a time: at a grid point it is that of the next row
    left = np.where(at < time.size, risk[np.minimum(at, time.size - 1)], 0.0)
    allowed = np.flatnonzero(left >= min_cell)
    chosen = _chosen(so_far[at], allowed, [round(t / step) for t in prefer], min_cell)
    if len(chosen) < 2:
        return group.iloc[:0]
    index = np.maximum(at[chosen] - 1, 0)
    out = group.iloc[index][list(values)].reset_index(drop=True)
    if time[0] > 0:
        out.loc[0, list(values)] = 1.0 if "survival" in values else 0.0
    out.insert(0, "time", grid[chosen])
    out["at_risk"] = (np.minimum(left[chosen], risk[0]) // min_cell * min_cell).astype("int64")
    return out


def _chosen(events: np.ndarray, allowed: np.ndarray, prefer: Sequence[int], min_cell: int) -> list[int]:
    """Grid points with at least `min_cell` events between two: the preferred ones first, then from the left."""
    chosen = [0]
    for i in [*(p for p in prefer if p in allowed), *allowed]:
        if all(abs(events[i] - events[j]) >= min_cell for j in chosen):
            chosen.append(int(i))
    chosen.sort()
    if len(chosen) > 1 and chosen[-1] not in prefer:
        chosen[-1] = int(allowed[-1])
    return chosen
