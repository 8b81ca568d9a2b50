"""Cumulative incidence with competing events (Aalen-Johansen) and Gray's test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.outcome.columns import Names, SurvivalColumns, stratum_rows, survival_columns, uncensored
from ionrt.outcome.comparison import quadratic_form
from ionrt.outcome.survival import at_risk_at, confidence_limits, product_limit, read_off, risk_table
from ionrt.quantities import IonrtError, one_of

VARIANCES = ("delta", "aalen")


def cumulative_incidence(
    df: pd.DataFrame,
    time: str,
    event: str,
    by: Names = None,
    at: Sequence[float] = (),
    *,
    start: str | None = None,
    weights: str | None = None,
    causes: Sequence[int] | None = None,
    variance: str = "delta",
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Aalen-Johansen cumulative incidence of every cause, by stratum, at chosen times or as curves.

    :math:`\hat F_k(t) = \sum_{t_j \le t} \hat S(t_j-) d_{kj} / n_j`; the causes and the event-free survival add up to one.

    Parameters
    ----------
    df, time, by, at, start, level : as in `kaplan_meier`.
    event : column with 0 censored, 1, 2, ... the causes.
    causes : codes to report; default those that occur.
    weights : column of case weights; the standard error then uses the effective size of the risk set.
    variance : "delta" (Greenwood-type, of Dinse and Larson and of Gaynor et al.; as SAS ``error=delta``) or "aalen" (counting
        processes, as R's cmprsk ``cuminc`` and SAS ``error=aalen``; not with weights). They differ by about 1 / (2 n).

    Returns
    -------
    DataFrame, one row per stratum, cause and time: `stratum`, `cause`, `time`, `at_risk`, `events` of the cause since the
        previous row, `incidence`, `se`, `lower`, `upper` (log-log scale), `event_free`, `n`, `n_events` of the cause. NaN after
        the last follow-up. ``attrs["variance"]`` says whose variance it is.

    Raises
    ------
    IonrtError
        A column that is missing, has empty cells or holds what is no time or event code; an unknown variance, and "aalen" with
        weights; a cause that does not occur.

    References
    ----------
    Aalen and Johansen 1978; variances: Dinse and Larson 1986, doi:10.1093/biomet/73.2.379; Gaynor et al. 1993,
    doi:10.1080/01621459.1993.10476289; Aalen 1978, doi:10.1214/aos/1176344247.

    Examples
    --------
    Recurrence (1) with death (2) competing, in years (SYNTHETIC). 1 - Kaplan-Meier would say 1 after four years.

    >>> df = pd.DataFrame({"time": [1, 2, 3, 4], "code": [1, 2, 0, 1]})
    >>> table = ionrt.outcome.cumulative_incidence(df, "time", "code", at=[2, 4], causes=[1])
    >>> table[["time", "incidence"]].round(3).values.tolist()  # 1/4, then 1/4 + (1/2) 1/1
    [[2.0, 0.25], [4.0, 0.75]]
    """
    one_of(variance, VARIANCES, what="variance")
    if variance == "aalen" and weights is not None:
        raise IonrtError("variance 'aalen' is that of counted patients; with weights use 'delta'")
    cols = survival_columns(df, time, event, by=by, start=start, weights=weights, competing=True)
    if causes is None:
        causes = sorted(set(cols.code[cols.code > 0].tolist())) or [1]
    wanted = cols.moments(at)
    parts = []
    for code, label in enumerate(cols.labels):
        rows = stratum_rows(cols, code)
        parts += [_stratum_incidence(cols, rows, label, int(cause), wanted, level, variance) for cause in causes]
    out = pd.concat(parts, ignore_index=True)
    out.attrs |= {"variance": variance} | uncensored(cols)
    return out if weights else out.astype(dict.fromkeys(["at_risk", "events"], int))


def incidence(cols: SurvivalColumns, rows: np.ndarray, cause: int, variance: str) -> tuple[np.ndarray, ...]:
    """Times, event-free survival, incidence of the cause, its standard error and its events per time."""
    table = risk_table(cols, rows)
    survival, _ = product_limit(table)
    before = np.append(1.0, survival)[:-1]
    mine = rows[cols.code[rows] == cause]
    d = np.bincount(np.searchsorted(table.time, cols.stop[mine]), weights=cols.weight[mine], minlength=len(table.time))
    n, dead = table.at_risk, table.events
    m = n**2 / table.squares  # effective size; n without weights
    curve = np.cumsum(before * d / n)
    left = n - dead
    last = left <= 1e-12 * n
    alive = np.where(last, 1.0, left)
    if variance == "aalen":
        m = np.maximum(n - 1.0, 1.0)
        c = np.where(last, 0.0, before * d * (n - d) / n / alive / m)
    else:
        c = before * d / n / m
    a = np.where(last, 0.0, dead / alive / m)
    b = before**2 * (n - d) * d / n**2 / m
    sums = [np.cumsum(v) for v in (a, a * curve, a * curve**2, b, c, c * curve)]
    square = curve**2 * sums[0] - 2 * curve * sums[1] + sums[2] + sums[3] - 2 * (curve * sums[4] - sums[5])
    return table.time, survival, curve, np.sqrt(np.maximum(square, 0.0)), d


def _stratum_incidence(
    cols: SurvivalColumns, rows: np.ndarray, label: object, cause: int, at: np.ndarray, level: float, variance: str
) -> pd.DataFrame:
    """The rows of one stratum and cause."""
    time, survival, curve, se, d = incidence(cols, rows, cause, variance)
    lower, upper = confidence_limits(curve, se, level=level, method="log-log")
    times, place, step = read_off(time, survival, at)
    return pd.DataFrame(
        {
            "stratum": [label] * len(times),
            "cause": cause,
            "time": times,
            "at_risk": at_risk_at(cols, rows, times, cols.weight),
            "events": np.diff(np.append(0.0, np.cumsum(d))[place], prepend=0.0),
            "incidence": step(curve, 0.0),
            "se": step(se, 0.0),
            "lower": step(lower, np.nan),
            "upper": step(upper, np.nan),
            "event_free": step(survival, 1.0),
            "n": len(rows),
            "n_events": int((cols.code[rows] == cause).sum()),
        }
    )


def gray_test(df: pd.DataFrame, time: str, event: str, by: Names, *, rho: float = 0.0) -> pd.DataFrame:
    r"""Gray's test of equal cumulative incidence between groups, for every cause.

    Score :math:`U_k = \int (1 - \hat F_0)^\rho R_k (d\hat\Gamma_k - d\hat\Gamma_0)` with the risk set of the subdistribution
    :math:`R_k = Y_k (1 - \hat F_k(t-)) / \hat S_k(t-)`.

    Parameters
    ----------
    df, time : as in `kaplan_meier`; no late entry.
    event : column with 0 censored, 1, 2, ... the causes.
    by : column name or names of the groups.
    rho : power of the weight.

    Returns
    -------
    DataFrame, one row per cause: `cause`, `chi2`, `df`, `p`.

    Raises
    ------
    IonrtError
        A column that is missing, has empty cells or holds what is no time or event code; one group only; no event.

    References
    ----------
    Gray 1988, doi:10.1214/aos/1176350951.
    """
    cols = survival_columns(df, time, event, by=by, competing=True)
    if len(cols.labels) < 2:
        raise IonrtError(f"Gray's test: expected at least two groups in {by!r}, got only {cols.labels[0]!r}")
    causes = np.unique(cols.code[cols.code > 0])
    if not len(causes):
        raise IonrtError("Gray's test: no event in any group, so there is nothing to compare")
    out = []
    for cause in causes:
        score, variance = _gray_score(cols, int(cause), rho)
        chi2, degrees = quadratic_form(score, variance)
        out.append({"cause": int(cause), "chi2": chi2, "df": degrees, "p": stats.chi2.sf(chi2, degrees)})
    table = pd.DataFrame(out)
    table.attrs = uncensored(cols)
    return table


def _gray_tables(cols: SurvivalColumns, cause: int) -> tuple[np.ndarray, ...]:
    """At each time with an event, (time, group): at risk, events of the cause, of others, S before and after, F before."""
    groups = len(cols.labels)
    time = np.unique(cols.stop[cols.code > 0])
    shape = (len(time), groups)
    risk, mine, other = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for g in range(groups):
        rows = cols.stratum == g
        stop = np.sort(cols.stop[rows])
        risk[:, g] = len(stop) - np.searchsorted(stop, time, side="left")
        for out, chosen in ((mine, cols.code == cause), (other, (cols.code > 0) & (cols.code != cause))):
            np.add.at(out[:, g], np.searchsorted(time, cols.stop[rows & chosen]), 1.0)
    safe = np.maximum(risk, 1.0)
    after = np.cumprod(1 - (mine + other) / safe, axis=0)
    before = np.vstack([np.ones(groups), after[:-1]])
    incidence_before = np.vstack([np.zeros(groups), np.cumsum(before * mine / safe, axis=0)[:-1]])
    return risk, mine, other, before, after, incidence_before


def _gray_score(cols: SurvivalColumns, cause: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the groups and their covariance (Gray 1988, section 2, with ties as in his program)."""
    risk, mine, other, before, after, incidence_before = _gray_tables(cols, cause)
    seen = (risk > 0) & (before > 0)
    ratio = np.where(seen, risk / np.where(seen, before, 1.0), 0.0)  # Y / S(t-)
    total, events = ratio.sum(axis=1), mine.sum(axis=1)
    pooled = np.cumsum(events / np.where(total > 0, total, 1.0))
    pooled_before = np.append(0.0, pooled)[:-1]
    weight = (1 - pooled_before) ** rho
    sub = ratio * (1 - incidence_before)  # risk set of the subdistribution
    score = (weight[:, None] * (mine - events[:, None] * sub / sub.sum(axis=1, keepdims=True))).sum(axis=0)

    groups = ratio.shape[1]
    share = ratio / total[:, None]
    # a[t, i, k]: how the score of group i answers a jump of the subdistribution martingale of group k
    a = weight[:, None, None] * (np.eye(groups)[None] * ratio[:, :, None] - ratio[:, :, None] * share[:, None, :])
    c = np.cumsum(a * (events / (total * (1 - pooled_before)))[:, None, None], axis=0)

    gap = np.where(after > 0, (1 - pooled)[:, None] / np.where(after > 0, after, 1.0), 0.0)
    own, rest = _jump_variances(risk, mine, other, before, ratio, total, events, seen)
    end = c[-1]
    variance = np.zeros((groups, groups))
    for answer, v in ((a - (1 - gap)[:, None, :] * c + (1 - gap)[:, None, :] * end, own), (gap[:, None, :] * (end - c), rest)):
        variance += np.einsum("tik,tjk,tk->ij", answer, answer, v)
    return score, variance


def _jump_variances(risk, mine, other, before, ratio, total, events, seen) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the jumps, (time, group), of the cause (pooled over groups, as under the hypothesis) and of the others."""
    with np.errstate(divide="ignore", invalid="ignore"):
        tied = np.where(events[:, None] > 1, 1 - (events[:, None] - 1) / (total[:, None] * before - 1), 1.0)
        own = np.where(seen, tied * before * events[:, None] / (total[:, None] * risk), 0.0)
        tied = np.where(other > 1, 1 - (other - 1) / (risk - 1), 1.0)
        rest = np.where(seen & (other > 0), tied * before**2 * other / risk**2, 0.0)
    return own, rest
