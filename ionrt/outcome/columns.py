"""Reading the columns of a survival table; every analysis enters through here.

Nothing is dropped or repaired: a missing value, a negative time or an interval of length zero raises with the rows
in which it was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd

from ionrt.quantities import IonrtError

Names = str | Sequence[str] | None
LARGEST = 1e100  # squares and their sums stay finite
MOST_CODE = 1000  # of an event: larger ones are times or amounts in the wrong column
ZERO = "; times count from the patient's time zero"
SAME_TIME = 2.0**-26  # relative to the mean time; R's `timefix` (square root of the machine's precision) has the same


@dataclass(frozen=True)
class SurvivalColumns:
    """Risk interval (start, stop], event code, weight and stratum code of every row."""

    start: np.ndarray
    stop: np.ndarray
    code: np.ndarray
    weight: np.ndarray
    stratum: np.ndarray
    labels: list
    tolerance: float = 0.0  # times no further apart were taken for one

    def moments(self, at: Sequence[float]) -> np.ndarray:
        """The times asked for, finite and not negative, each moved onto the time of the table that it can only mean."""
        wanted = numbers(at, "at")
        if not (np.isfinite(wanted) & (wanted >= 0)).all():
            raise IonrtError(f"at: expected times from 0 up in the unit of the table, got {list(at)[:5]}")
        if not self.tolerance or not wanted.size:
            return wanted
        known = np.unique(self.stop)
        near = known[np.clip(np.searchsorted(known, wanted), 0, len(known) - 1)]
        below = known[np.clip(np.searchsorted(known, wanted) - 1, 0, len(known) - 1)]
        near = np.where(np.abs(below - wanted) < np.abs(near - wanted), below, near)
        return np.where(np.abs(near - wanted) <= self.tolerance, near, wanted)


def names_of(names: Names) -> list[str]:
    """The column names as a list."""
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(names)


def require(df: pd.DataFrame, *names: Names) -> None:
    """Raise unless `df` is a data frame with rows, with these columns, and without missing values in them."""
    if not isinstance(df, pd.DataFrame):
        raise IonrtError(f"expected a pandas DataFrame, got {type(df).__name__}")
    wanted = [n for group in names for n in names_of(group)]
    missing = [n for n in wanted if n not in df.columns]
    if missing:
        raise IonrtError(f"column {missing[0]!r} is not in the table; it has {', '.join(map(str, df.columns))}")
    if twice := [n for n in wanted if (df.columns == n).sum() > 1]:
        raise IonrtError(f"column {twice[0]!r} stands twice in the table; give each column a name of its own")
    if len(df) == 0:
        raise IonrtError("the table has no rows; at least one patient is needed")
    for name in wanted:
        empty = df[name].isna().to_numpy()
        if empty.any():
            raise IonrtError(
                f"column {name!r}: {rows(df, empty)} missing; impute them (ionrt.outcome.impute) or exclude those openly"
            )


def check_once(df: pd.DataFrame, name: str, what: str) -> None:
    """Raise where a value of the column `name` stands in two rows."""
    if (twice := df[name].duplicated()).any():
        raise IonrtError(f"{what} {df[name][twice].iloc[0]!r} has more than one row")


def rows(df: pd.DataFrame, mask: np.ndarray) -> str:
    """How many rows, and the first few of them, for a message."""
    where = [str(i) for i in df.index[mask][:5]]
    more = ", ..." if mask.sum() > 5 else ""
    return f"{int(mask.sum())} value{'s' if mask.sum() != 1 else ''} (row {', '.join(where)}{more})"


def numbers(values: Sequence | np.ndarray | pd.Series, label: str) -> np.ndarray:
    """`values` as float64; missing ones become NaN. What would need a guess (durations, dates, text, complex) raises."""
    column = values if isinstance(values, pd.Series) else pd.Series(values, dtype=None if len(values) else float)
    kinds = pd.api.types
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if kinds.is_object_dtype(column):
        present = column[column.notna()]
        held = [t for t in (timedelta, date) if present.map(lambda v, t=t: isinstance(v, t)).any()]
        if not held and not present.map(lambda v: isinstance(v, (Real, Decimal, np.bool_))).all():
            raise IonrtError(f"{label}: expected numbers, got {type(present.iloc[0]).__name__}")
        kind = held[0] if held else None
    else:
        kind = timedelta if kinds.is_timedelta64_dtype(column) else date if kinds.is_datetime64_any_dtype(column) else None
    if kind is timedelta:
        raise IonrtError(f"{label}: expected numbers, got durations; say the unit, such as .dt.total_seconds() / 86400 (days)")
    if kind is date or isinstance(column.dtype, pd.PeriodDtype):
        raise IonrtError(f"{label}: expected numbers, got dates; subtract the patient's time zero and give days")
    if not (kinds.is_object_dtype(column) or kinds.is_bool_dtype(column) or kinds.is_numeric_dtype(column)):
        raise IonrtError(f"{label}: expected numbers, got {column.dtype}")
    if kinds.is_complex_dtype(column):
        raise IonrtError(f"{label}: expected numbers, got complex ones")
    return column.to_numpy(dtype=float, na_value=np.nan)


def number(df: pd.DataFrame, name: str, *, minimum: float | None = None, reason: str = "") -> np.ndarray:
    """Column `name` as finite float64, not below `minimum` (`reason`: how the message ends)."""
    if pd.api.types.is_list_like(name):
        raise IonrtError(f"expected the name of one column, got {name!r}")
    require(df, name)
    values = numbers(df[name], f"column {name!r}")
    if not np.isfinite(values).all():
        raise IonrtError(f"column {name!r}: {rows(df, ~np.isfinite(values))} not finite")
    if (large := np.abs(values) > LARGEST).any():
        raise IonrtError(f"column {name!r}: {rows(df, large)} above {LARGEST:g}")
    if minimum is not None and (values < minimum).any():
        raise IonrtError(f"column {name!r}: {rows(df, values < minimum)} below {minimum:g}{reason}")
    return values


def probabilities(df: pd.DataFrame, name: str) -> np.ndarray:
    """Column `name` as probabilities."""
    p = number(df, name)
    if ((p < 0) | (p > 1)).any():
        raise IonrtError(
            f"column {name!r}: expected probabilities 0..1, got {p.min():g}..{p.max():g}; divide percentages by 100"
        )
    return p


def event_codes(df: pd.DataFrame, name: str, *, competing: bool) -> np.ndarray:
    """Event column as integers: 0 censored, 1 event and, where `competing`, 2, 3, ... competing events."""
    values = number(df, name)
    odd = (values != np.round(values)) | (values < 0) | (values > MOST_CODE)
    if odd.any():
        raise IonrtError(f"column {name!r}: {rows(df, odd)} not an event code 0, 1, 2, ...")
    if not competing and (values > 1).any():
        raise IonrtError(
            f"column {name!r}: codes {sorted(set(values.astype(int).tolist()))}; with competing events use"
            " cumulative_incidence, gray_test or fine_gray, or say what counts as event: df.assign(event=df.code == 1)"
        )
    return values.astype(np.int64)


def stratum_codes(df: pd.DataFrame, by: Names) -> tuple[np.ndarray, list]:
    """Code 0, 1, ... of each row and the label of each code, in sorted (or categorical) order."""
    columns = names_of(by)
    if not columns:
        return np.zeros(len(df), dtype=np.int64), ["all"]
    require(df, columns)
    for column in columns:
        check_labels(df[column], column)
    try:
        if len(columns) == 1:
            codes, labels = pd.factorize(df[columns[0]], sort=True)
            return codes.astype(np.int64), list(labels)
        grouped = df[columns].reset_index(drop=True).groupby(columns, sort=True, observed=True)
        labels = [", ".join(map(str, key)) for key in grouped.groups]
        return grouped.ngroup().to_numpy(dtype=np.int64), labels
    except TypeError:
        raise IonrtError(
            f"columns {columns}: labels of different kinds cannot be told apart; use one kind, text or number"
        ) from None


def check_labels(labels: pd.Series, column: str) -> None:
    """Labels that differ by space around them or by capitals only are one level written in two ways."""
    if pd.api.types.is_numeric_dtype(labels):
        return
    plain: dict[str, str] = {}
    for text in dict.fromkeys(v for v in labels if isinstance(v, str)):
        if (first := plain.setdefault(text.strip().casefold(), text)) != text:
            raise IonrtError(
                f"column {column!r}: labels {first!r} and {text!r} differ by space or capitals only; write one level in one way"
            )


def uncensored(cols: SurvivalColumns) -> dict[str, str]:
    """A word for the result's attributes where competing codes stand and nobody is censored."""
    if (cols.code == 0).any() or cols.code.max() < 2:
        return {}
    return {"assumed": "no row has code 0: nobody is taken as censored; where 1 means censored and 2 the event, give 0 and 1"}


def survival_columns(
    df: pd.DataFrame,
    time: str,
    event: str,
    *,
    by: Names = None,
    start: str | None = None,
    weights: str | None = None,
    competing: bool = False,
) -> SurvivalColumns:
    """Columns of a survival table, checked. Without `start` a row is at risk from before every time."""
    require(df, time, event, by, start, weights)
    stop = number(df, time, minimum=0.0, reason=ZERO)
    begin = np.full(len(df), -np.inf)
    if start is not None:
        begin = number(df, start, minimum=0.0, reason=ZERO)
    begin, stop, tolerance = same_times(begin, stop)
    if start is not None:
        empty = begin >= stop
        if empty.any():
            raise IonrtError(
                f"columns {start!r}, {time!r}: {rows(df, empty)} with start >= stop; an interval (start, stop] of length zero"
                " contributes nothing: exclude it, or add the resolution of the clock to stop"
            )
    weight = np.ones(len(df)) if weights is None else number(df, weights, minimum=0.0)
    if weights is not None and not weight.any():
        raise IonrtError(f"column {weights!r}: all weights are zero")
    stratum, labels = stratum_codes(df, by)
    return SurvivalColumns(begin, stop, event_codes(df, event, competing=competing), weight, stratum, labels, tolerance)


def same_times(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Times that differ only by the rounding of their computation (0.1 * 3 and 0.3) made equal, and the tolerance.

    Distinct times closer than 2^-26 of their mean become the earliest of them, as R's survival package does (Therneau,
    `timefix`), but relative only: the unit of time does not matter.
    """
    values = stop if np.isneginf(start).all() else np.concatenate([start[np.isfinite(start)], stop])
    if values.max() < 2.0**25 and (values == np.floor(values)).all():
        return start, stop, 0.0
    distinct, place = np.unique(values, return_inverse=True)
    tolerance = float(SAME_TIME * distinct.mean())
    apart = np.append(True, np.diff(distinct) > tolerance)
    if apart.all():
        return start, stop, tolerance
    moved = distinct[apart][np.cumsum(apart) - 1][place]
    late = np.flatnonzero(np.isfinite(start)) if len(values) > len(stop) else np.zeros(0, dtype=np.int64)
    start = start.copy()
    start[late] = moved[: len(late)]
    return start, moved[len(late) :], tolerance


def stratum_rows(cols: SurvivalColumns, code: int) -> np.ndarray:
    """Rows of a stratum that count; rows of weight zero are as if they were not there."""
    rows = np.flatnonzero((cols.stratum == code) & (cols.weight > 0))
    if not len(rows):
        raise IonrtError(f"stratum {cols.labels[code]!r}: all weights are zero; leave it out")
    return rows


def check_level(level: float) -> float:
    """The confidence level, a number between 0 and 1."""
    if not 0 < level < 1:
        raise IonrtError(f"level: expected a confidence level between 0 and 1, got {level}")
    return level
