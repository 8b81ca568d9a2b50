"""Kaplan-Meier, numbers at risk, log-rank tests and restricted mean survival time.

One table of risk sets serves all of them, so late entry (a hand-over gap between two countries) and weights mean the
same everywhere. A row is at risk on (start, stop].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.outcome.columns import Names, SurvivalColumns, check_level, stratum_rows, survival_columns
from ionrt.quantities import IonrtError, one_of

CONFIDENCE = ("log-log", "log", "plain")


@dataclass(frozen=True)
class RiskTable:
    """Weighted risk set and events at each distinct time of one stratum."""

    time: np.ndarray
    at_risk: np.ndarray
    squares: np.ndarray  # sum of squared weights of the risk set
    events: np.ndarray
    censored: np.ndarray


def at_risk_at(cols: SurvivalColumns, rows: np.ndarray, times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum of `weight` over the rows at risk just before each time; at time 0 those who enter at 0 count."""

    def total_from(values: np.ndarray, side: str) -> np.ndarray:
        order = np.argsort(values)
        tail = np.append(np.cumsum(weight[rows][order][::-1])[::-1], 0.0)
        return tail[np.searchsorted(values[order], times, side=side)]  # type: ignore[call-overload]

    not_yet = total_from(np.where(cols.start[rows] == 0, -np.inf, cols.start[rows]), "left")
    return total_from(cols.stop[rows], "left") - not_yet


def risk_table(cols: SurvivalColumns, rows: np.ndarray, *, events_only: bool = False) -> RiskTable:
    """Risk sets at the distinct times (or event times) of the rows."""
    stop, weight = cols.stop[rows], cols.weight[rows]
    event = cols.code[rows] > 0
    time = np.unique(stop[event] if events_only else stop)
    place = np.minimum(np.searchsorted(time, stop), max(len(time) - 1, 0))
    count = np.bincount(place, weights=weight * event, minlength=len(time)) if len(time) else np.zeros(0)
    lost = np.bincount(place, weights=weight * ~event, minlength=len(time)) if len(time) else np.zeros(0)
    return RiskTable(time, at_risk_at(cols, rows, time, cols.weight), at_risk_at(cols, rows, time, cols.weight**2), count, lost)


def product_limit(table: RiskTable) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier estimate and its Greenwood standard error, in the variance of Xie and Liu where rows are weighted."""
    left = table.at_risk - table.events
    dead = left <= 1e-12 * table.at_risk  # nobody left: the estimate is zero from here on
    factor = np.where(dead, 0.0, left / table.at_risk)
    effective = table.at_risk**2 / table.squares
    hazard_variance = np.where(dead, 0.0, table.events / np.where(dead, 1.0, left) / effective)
    survival = np.cumprod(factor)
    se = survival * np.sqrt(np.cumsum(hazard_variance))
    se[survival == 0] = np.nan
    return survival, se


def emptied(cols: SurvivalColumns) -> dict[str, str]:
    """A word for the result's attributes where late entry leaves nobody at risk for a while: the estimate is then stuck."""
    said = []
    for code, label in enumerate(cols.labels if np.isfinite(cols.start).any() else ()):
        table = risk_table(cols, stratum_rows(cols, code))
        gone = np.flatnonzero(table.at_risk - table.events <= 1e-12 * table.at_risk)
        if len(gone) and (table.at_risk[gone[0] + 1 :] > 0).any():
            said.append(f"stratum {label!r}: everybody at risk at {table.time[gone[0]]:g} had the event, others enter later")
    return {"assumed": "; ".join(said) + ": the estimate cannot change from there on"} if said else {}


def _still_followed(table: RiskTable) -> np.ndarray:
    """Kaplan-Meier estimate of the time under observation: censoring is the event, and who had an event leaves before it."""
    exposed = table.at_risk - table.events
    return np.cumprod(1.0 - np.divide(table.censored, exposed, out=np.zeros_like(exposed), where=exposed > 1e-12))


def median_follow_up(cols: SurvivalColumns, event: np.ndarray) -> float:
    """Median time under observation of all rows (reverse Kaplan-Meier); the longest time where half stayed to the end."""
    table = risk_table(replace(cols, code=event.astype(np.int64)), np.arange(len(cols.stop)))
    found = crossing(table.time, _still_followed(table))
    return float(cols.stop.max()) if np.isnan(found) else found


def confidence_limits(survival: np.ndarray, se: np.ndarray, *, level: float, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise limits on the log-log, log or plain scale; NaN where the estimate is 0 or 1."""
    z = stats.norm.ppf(0.5 + check_level(level) / 2)
    inside = (survival > 1e-12) & (survival < 1 - 1e-12)
    s = np.where(inside, survival, 0.5)
    if method == "log-log":
        half = z * se / (s * np.abs(np.log(s)))
        lower, upper = s ** np.exp(half), s ** np.exp(-half)
    elif method == "log":
        half = z * se / s
        lower, upper = s * np.exp(-half), np.minimum(1.0, s * np.exp(half))
    else:
        lower, upper = np.maximum(0.0, s - z * se), np.minimum(1.0, s + z * se)
    return np.where(inside, lower, np.nan), np.where(inside, upper, np.nan)


def crossing(time: np.ndarray, curve: np.ndarray, level: float = 0.5) -> float:
    """First time the step curve falls below `level`, the middle of the step where it equals it, NaN if never."""
    tolerance = 1e-9
    below = np.flatnonzero(curve < level - tolerance)
    equal = np.flatnonzero(np.abs(curve - level) <= tolerance)
    if len(equal) and (not len(below) or equal[0] < below[0]):
        return float((time[equal[0]] + time[below[0]]) / 2) if len(below) else float(time[equal[0]])
    return float(time[below[0]]) if len(below) else float("nan")


def kaplan_meier(
    df: pd.DataFrame,
    time: str,
    event: str,
    by: Names = None,
    at: Sequence[float] = (),
    *,
    start: str | None = None,
    weights: str | None = None,
    confidence: str = "log-log",
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Kaplan-Meier estimate of survival, by stratum, at chosen times or as the whole curve.

    :math:`\hat S(t) = \prod_{t_j \le t} (1 - d_j / n_j)`

    Parameters
    ----------
    df : one row per patient (or per interval with `start`).
    time, event : column names; time in the unit of the table (days in ionrt tables), event 0 censored, 1 event.
    by : column name or names of the strata.
    at : times, same unit; empty: every distinct time of the stratum, from 0, as a step curve.
    start : column of the late-entry time; at risk on (start, time].
    weights : column of case weights (for instance from `iptw`).
    confidence : "log-log", "log" or "plain" scale of the pointwise limits.
    level : confidence level.

    Returns
    -------
    DataFrame, one row per stratum and time: `stratum`, `time`, `at_risk` just before it, `events` and `censored` since the
        previous row, `survival`, `se` (Greenwood), `lower`, `upper`; and per stratum, repeated in its rows: `n` patients,
        `n_events`, `median`, `median_lower`, `median_upper`, `follow_up` (median by the reverse Kaplan-Meier estimate). NaN:
        not estimable (after the last follow-up, limits at 0 and 1). ``attrs["assumed"]`` where late entry leaves nobody at
        risk for a while: the estimate is 0 from there on, whatever comes later.

    Raises
    ------
    IonrtError
        A column that is missing, has empty cells or holds what is no time or event code, an interval of length zero, weights
        that are all zero, an unknown scale.

    References
    ----------
    Kaplan and Meier 1958, doi:10.1080/01621459.1958.10501452; weighted variance: Xie and Liu 2005, doi:10.1002/sim.2174;
    median follow-up: Schemper and Smith 1996, doi:10.1016/0197-2456(96)00075-X.

    Examples
    --------
    Five patients (SYNTHETIC), times in months: 4/5 after the first death, 4/5 * 2/3 after the second.

    >>> df = pd.DataFrame({"time": [6, 12, 18, 24, 30], "dead": [1, 0, 1, 0, 0]})
    >>> ionrt.outcome.kaplan_meier(df, "time", "dead", at=[12, 24])[["time", "at_risk", "survival"]].round(3).values.tolist()
    [[12.0, 4.0, 0.8], [24.0, 2.0, 0.533]]
    """
    one_of(confidence, CONFIDENCE, what="confidence")
    cols = survival_columns(df, time, event, by=by, start=start, weights=weights)
    wanted = cols.moments(at)
    parts = [
        _stratum_curve(cols, stratum_rows(cols, code), label, wanted, confidence, level)
        for code, label in enumerate(cols.labels)
    ]
    out = pd.concat(parts, ignore_index=True)
    out = out if weights else out.astype(dict.fromkeys(["at_risk", "events", "censored"], int))
    out.attrs = emptied(cols)
    return out


def read_off(
    time: np.ndarray, survival: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Callable[..., np.ndarray]]:
    """The times asked for, else all and 0; how many of `time` each has behind it; and what takes steps from there.

    Beyond the last time a curve is known only where nobody is left.
    """
    times = at if len(at) else np.unique(np.append(0.0, time))
    place = np.searchsorted(time, times, side="right")
    beyond = (times > time[-1]) & (survival[-1] > 0)
    return times, place, lambda values, before: np.where(beyond, np.nan, np.append(before, values)[place])


def _stratum_curve(
    cols: SurvivalColumns, rows: np.ndarray, label: object, at: np.ndarray, confidence: str, level: float
) -> pd.DataFrame:
    """The rows of one stratum of the Kaplan-Meier table."""
    table = risk_table(cols, rows)
    survival, se = product_limit(table)
    lower, upper = confidence_limits(survival, se, level=level, method=confidence)
    times, place, step = read_off(table.time, survival, at)
    events, censored = (np.append(0.0, np.cumsum(v))[place] for v in (table.events, table.censored))
    return pd.DataFrame(
        {
            "stratum": [label] * len(times),
            "time": times,
            "at_risk": at_risk_at(cols, rows, times, cols.weight),
            "events": np.diff(events, prepend=0.0),
            "censored": np.diff(censored, prepend=0.0),
            "survival": step(survival, 1.0),
            "se": step(se, 0.0),
            "lower": step(lower, np.nan),
            "upper": step(upper, np.nan),
            "n": len(rows),
            "n_events": int((cols.code[rows] > 0).sum()),
            "follow_up": crossing(table.time, _still_followed(table)),
            "median": crossing(table.time, survival),
            "median_lower": crossing(table.time, lower),
            "median_upper": crossing(table.time, upper),
        }
    )


def at_risk(
    df: pd.DataFrame, time: str, event: str, by: Names = None, at: Sequence[float] = (), *, start: str | None = None
) -> pd.DataFrame:
    """Numbers at risk, events and censorings so far, as the table under a survival curve.

    Parameters
    ----------
    df, time, event, by, start : as in `kaplan_meier`; event codes above 0 all count as events.
    at : times in the unit of `time`; empty: four to nine evenly spaced round times.

    Returns
    -------
    DataFrame, one row per stratum and time: `stratum`, `time`, `at_risk` just before it, `events` and `censored` up to it.

    Raises
    ------
    IonrtError
        A column that is missing, has empty cells or holds what is no time or event code; labels of several kinds in `by`.

    Examples
    --------
    >>> df = pd.DataFrame({"time": [6, 12, 18, 24, 30], "dead": [1, 0, 1, 0, 0]})  # months, SYNTHETIC
    >>> ionrt.outcome.at_risk(df, "time", "dead", at=[0, 12, 24])["at_risk"].tolist()
    [5, 4, 2]
    """
    cols = survival_columns(df, time, event, by=by, start=start, competing=True)
    times = cols.moments(at) if len(at) else _round_times(float(cols.stop.max()))
    parts = []
    for code, label in enumerate(cols.labels):
        rows = np.flatnonzero(cols.stratum == code)
        event_row = cols.code[rows] > 0
        counts = [np.searchsorted(np.sort(cols.stop[rows][m]), times, side="right") for m in (event_row, ~event_row)]
        risk = at_risk_at(cols, rows, times, np.ones(len(cols.stop))).astype(int)
        parts.append(
            pd.DataFrame(
                {"stratum": [label] * len(times), "time": times, "at_risk": risk, "events": counts[0], "censored": counts[1]}
            )
        )
    return pd.concat(parts, ignore_index=True)


def _round_times(end: float) -> np.ndarray:
    """Four to nine times from 0 in steps of 1, 2 or 5 times a power of ten."""
    if end <= 0:
        return np.zeros(1)
    raw = end / 8
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    return np.arange(0.0, end + step * 1e-9, step)


def rmst(
    df: pd.DataFrame,
    time: str,
    event: str,
    by: Names = None,
    *,
    tau: float,
    start: str | None = None,
    weights: str | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Restricted mean survival time to `tau`, and its difference to the first stratum.

    :math:`\mu(\tau) = \int_0^\tau \hat S(t)\,dt`,
    :math:`\mathrm{var} = \sum_{t_j \le \tau} (\int_{t_j}^\tau \hat S)^2 d_j / (n_j (n_j - d_j))`

    Parameters
    ----------
    df, time, event, by, start, weights, level : as in `kaplan_meier`.
    tau : horizon, same unit as `time`; not beyond the last follow-up of a stratum that ends with a censoring.

    Returns
    -------
    DataFrame, one row per stratum: `stratum`, `n`, `n_events`, `tau`, `rmst`, `se`, `lower`, `upper` [unit of time] and,
        against the first stratum, `difference`, `difference_se`, `difference_lower`, `difference_upper`, `p` (NaN in its
        own row).

    Raises
    ------
    IonrtError
        A column that is missing, has empty cells or holds what is no time or event code; a tau that is not positive or lies
        beyond the last follow-up of a stratum that ends with a censoring.

    References
    ----------
    Royston and Parmar 2013, doi:10.1186/1471-2288-13-152.
    """
    cols = survival_columns(df, time, event, by=by, start=start, weights=weights)
    tau = float(cols.moments([tau])[0])
    if not tau > 0:
        raise IonrtError(f"tau: expected a positive time, got {tau}")
    out = pd.DataFrame(_stratum_rmst(cols, stratum_rows(cols, code), label, tau) for code, label in enumerate(cols.labels))
    z = stats.norm.ppf(0.5 + check_level(level) / 2)
    out["lower"], out["upper"] = out.rmst - z * out.se, out.rmst + z * out.se
    difference, se = out.rmst - out.rmst[0], np.hypot(out.se, out.se[0])
    columns = {
        "difference": difference,
        "difference_se": se,
        "difference_lower": difference - z * se,
        "difference_upper": difference + z * se,
        "p": 2 * stats.norm.sf(np.abs(difference) / se.where(se > 0)),
    }
    first = np.arange(len(out)) == 0
    out = out.assign(**{name: np.where(first, np.nan, value) for name, value in columns.items()})
    out.attrs = emptied(cols)
    return out


def _stratum_rmst(cols: SurvivalColumns, rows: np.ndarray, label: object, tau: float) -> dict[str, object]:
    """Area under one Kaplan-Meier curve and its standard error."""
    table = risk_table(cols, rows)
    survival, _ = product_limit(table)
    if tau > table.time[-1] and survival[-1] > 0:
        raise IonrtError(
            f"tau = {tau:g} is beyond the last follow-up of stratum {label!r} ({table.time[-1]:g}); choose a tau up to that"
        )
    early = table.time <= tau
    time, curve = table.time[early], survival[early]
    steps = np.diff(np.concatenate([[0.0], time, [tau]])) * np.append(1.0, curve)
    after = np.cumsum(steps[::-1])[::-1][1:]  # area from each time to tau
    left = (table.at_risk - table.events)[early]
    some = left > 1e-12 * table.at_risk[early]
    effective = (table.at_risk**2 / table.squares)[early]
    variance = np.sum(after[some] ** 2 * table.events[early][some] / left[some] / effective[some])
    return {
        "stratum": label,
        "n": len(rows),
        "n_events": int((cols.code[rows] > 0).sum()),
        "tau": float(tau),
        "rmst": float(steps.sum()),
        "se": float(np.sqrt(variance)),
    }
