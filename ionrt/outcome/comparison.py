"""Log-rank tests: plain, weighted, stratified, with late entry."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numba import njit
from scipy import stats

from ionrt.outcome.columns import Names, stratum_codes, survival_columns
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

    Examples
    --------
    Two groups of two (SYNTHETIC), times in years: U = 2 - (1/2 + 1/3), variance 1/4 + 2/9.

    >>> df = pd.DataFrame({"arm": ["A", "A", "B", "B"], "time": [1, 2, 3, 4], "dead": [1, 1, 1, 1]})
    >>> test = ionrt.outcome.logrank(df, "time", "dead", by="arm")
    >>> test["observed"].tolist(), test["expected"].round(3).tolist(), round(float(test["chi2"].iloc[0]), 2)
    ([2.0, 2.0], [0.833, 3.167], 2.88)
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
        rows = np.flatnonzero(levels == level)
        entry, stop, failed = cols.start[rows], cols.stop[rows], cols.code[rows] > 0
        enter = np.argsort(entry) if np.isfinite(entry).any() else np.zeros(0, dtype=np.int64)
        about = (enter, entry, WEIGHTS.index(weights), float(rho), float(gamma))
        parts = logrank_sums(np.argsort(stop), stop, failed, cols.stratum[rows], groups, *about)
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


@njit(nogil=True, cache=True)
def logrank_sums(order, stop, event, group, groups, enter, entry, kind, rho, gamma):
    """Weighted (observed, expected, covariance of their difference) of the groups: the one log-rank, also of simulated trials.

    `order` are the rows by `stop`, `enter` those by `entry`, none where all are at risk from the start; `kind` is the place in
    `WEIGHTS`.
    """
    observed, expected, variance = np.zeros(groups), np.zeros(groups), np.zeros((groups, groups))
    risk, dead, share = np.zeros(groups), np.zeros(groups), np.zeros(groups)
    if enter.size == 0:
        for i in order:
            risk[group[i]] += 1.0
    survival, first, came = 1.0, 0, 0
    while first < order.size:
        t, last, d = stop[order[first]], first, 0.0
        dead[:] = 0.0
        while last < order.size and stop[order[last]] == t:
            if event[order[last]]:
                dead[group[order[last]]] += 1.0
                d += 1.0
            last += 1
        while came < enter.size and entry[enter[came]] < t:
            risk[group[enter[came]]] += 1.0
            came += 1
        if d > 0.0:
            n = risk.sum()
            w = 1.0
            if kind == 1:
                w = n
            elif kind == 2:
                w = np.sqrt(n)
            elif kind == 3:
                w = survival
            elif kind == 4:
                w = survival**rho * (1.0 - survival) ** gamma
            spread = w * w * d * (n - d) / max(n - 1.0, 1.0)
            for a in range(groups):
                share[a] = risk[a] / n
                observed[a] += w * dead[a]
                expected[a] += w * d * share[a]
                variance[a, a] += spread * share[a]
                for b in range(a + 1):
                    variance[a, b] -= spread * share[a] * share[b]
            survival *= 1.0 - d / n
        for k in range(first, last):
            risk[group[order[k]]] -= 1.0
        first = last
    for a in range(groups):
        for b in range(a):
            variance[b, a] = variance[a, b]
    return observed, expected, variance
