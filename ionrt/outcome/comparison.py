"""Log-rank tests: plain, weighted, stratified, with late entry."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.outcome.columns import Names, SurvivalColumns, stratum_codes, survival_columns
from ionrt.quantities import IonrtError, one_of

WEIGHTS = ("logrank", "gehan-breslow", "tarone-ware", "peto-peto", "fleming-harrington")


def logrank(
    df: pd.DataFrame,
    time: str,
    event: str,
    by: Names,
    *,
    strata: Names = None,
    weights: str = "logrank",
    rho: float = 1.0,
    gamma: float = 0.0,
    start: str | None = None,
) -> pd.DataFrame:
    r"""Test of equal survival between the groups of `by`, optionally stratified and weighted in time.

    :math:`U_k = \sum_j w_j (d_{kj} - d_j n_{kj} / n_j)` with hypergeometric variance;
    :math:`w_j` is 1 (log-rank), :math:`n_j` (Gehan-Breslow), :math:`\sqrt{n_j}` (Tarone-Ware), :math:`\hat S(t_j-)`
    (Peto-Peto in R's convention) or :math:`\hat S(t_j-)^\rho (1 - \hat S(t_j-))^\gamma` (Fleming-Harrington).

    Parameters
    ----------
    df, time, event, start : as in `kaplan_meier`.
    by : column name or names of the groups that are compared.
    strata : column name or names; scores and variances are added over their levels.
    weights : one of the names above, as in `ionrt.outcome.comparison.WEIGHTS`.
    rho, gamma : powers of the Fleming-Harrington weight.

    Returns
    -------
    DataFrame, one row per group: `stratum`, `n`, `observed` and `expected` events (weighted), and repeated in each row
    the test: `chi2`, `df`, `p`.

    Raises
    ------
    IonrtError : one group only, or no event.

    References
    ----------
    Mantel 1966; Harrington and Fleming 1982, doi:10.1093/biomet/69.3.553.
    """
    one_of(weights, WEIGHTS, what="weights")
    cols = survival_columns(df, time, event, by=by, start=start)
    groups = len(cols.labels)
    if groups < 2:
        raise IonrtError(f"log-rank: expected at least two groups in {by!r}, got only {cols.labels[0]!r}")
    if not cols.code.any():
        raise IonrtError("log-rank: no event in any group, so there is nothing to compare")
    levels, _ = stratum_codes(df, strata)
    observed, expected, variance = np.zeros(groups), np.zeros(groups), np.zeros((groups, groups))
    for level in np.unique(levels):
        parts = _one_stratum(cols, np.flatnonzero(levels == level), groups, weights, rho, gamma)
        observed, expected, variance = observed + parts[0], expected + parts[1], variance + parts[2]
    chi2, degrees = quadratic_form(observed - expected, variance)
    return pd.DataFrame(
        {
            "stratum": cols.labels,
            "n": np.bincount(cols.stratum, minlength=groups),
            "observed": observed,
            "expected": expected,
            "chi2": chi2,
            "df": degrees,
            "p": stats.chi2.sf(chi2, degrees),
        }
    )


def quadratic_form(score: np.ndarray, variance: np.ndarray) -> tuple[float, int]:
    """Chi-squared of scores that add up to zero, and the rank of their covariance (groups minus one if all met)."""
    values, vectors = np.linalg.eigh(variance)
    keep = values > 1e-10 * max(values[-1], 1e-300)
    if not keep.any() or values[-1] <= 0:
        return float("nan"), 0
    return float(np.sum((vectors[:, keep].T @ score) ** 2 / values[keep])), int(keep.sum())


def group_counts(cols: SurvivalColumns, rows: np.ndarray, groups: int, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers at risk and events, (time, group), at the event times of the rows."""
    risk, dead = np.empty((len(time), groups)), np.empty((len(time), groups))
    for g in range(groups):
        mine = rows[cols.stratum[rows] == g]
        stop, start = np.sort(cols.stop[mine]), np.sort(cols.start[mine])
        events = np.sort(cols.stop[mine][cols.code[mine] > 0])
        risk[:, g] = np.searchsorted(start, time, side="left") - np.searchsorted(stop, time, side="left")
        dead[:, g] = np.searchsorted(events, time, side="right") - np.searchsorted(events, time, side="left")
    return risk, dead


def _one_stratum(
    cols: SurvivalColumns, rows: np.ndarray, groups: int, weights: str, rho: float, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted observed and expected events per group and the covariance of their difference."""
    time = np.unique(cols.stop[rows][cols.code[rows] > 0])
    risk, dead = group_counts(cols, rows, groups, time)
    n, d = risk.sum(axis=1), dead.sum(axis=1)
    before = np.append(1.0, np.cumprod(1 - d / n))[:-1]
    w = {
        "logrank": np.ones_like(n),
        "gehan-breslow": n,
        "tarone-ware": np.sqrt(n),
        "peto-peto": before,
        "fleming-harrington": before**rho * (1 - before) ** gamma,
    }[weights]
    share = risk / n[:, None]
    spread = w**2 * d * (n - d) / np.maximum(n - 1, 1)
    variance = np.diag(spread @ share) - (share * spread[:, None]).T @ share
    return w @ dead, (w * d) @ share, variance
