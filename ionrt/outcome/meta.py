"""Meta-analysis of summaries: each site sends an estimate and its standard error, no patient row travels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.outcome.columns import check_level, number
from ionrt.quantities import IonrtError, one_of

METHODS = ("REML", "DL", "FE")


def meta_analysis(
    df: pd.DataFrame,
    estimate: str = "estimate",
    se: str = "se",
    *,
    method: str = "REML",
    knapp_hartung: bool = False,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Inverse-variance pooling with random or fixed effects.

    :math:`\hat\mu = \sum w_i y_i / \sum w_i`, :math:`w_i = 1/(se_i^2 + \tau^2)`

    Parameters
    ----------
    df : one row per site or study.
    estimate, se : columns of the estimate on an additive scale (log hazard ratio, log odds) and its standard error.
    method : "REML", "DL" (DerSimonian-Laird) or "FE" (no variance between sites).
    knapp_hartung : t-based interval that allows for the uncertainty of the variance between few sites.
    level : confidence level.

    Returns
    -------
    DataFrame with one row: `method`, `k` sites, `estimate`, `se`, `lower`, `upper`, `p`, `tau2`, `i2` [%], `q`, `q_df`,
        `q_p`, `prediction_lower`, `prediction_upper` (where a new site's true effect is expected; NaN below 3 sites).

    Raises
    ------
    IonrtError
        Fewer than two sites, standard errors that are not positive or leave nothing between sites, an unknown method, REML that
        does not converge.

    References
    ----------
    DerSimonian and Laird 1986, doi:10.1016/0197-2456(86)90046-2; Viechtbauer 2005, doi:10.3102/10769986030003261;
    Knapp and Hartung 2003, doi:10.1002/sim.1482.
    """
    one_of(method, METHODS, what="method")
    y, s = number(df, estimate), number(df, se)
    if (s <= 0).any():
        raise IonrtError(f"column {se!r}: expected positive standard errors")
    k, v = len(y), s**2
    if k < 2:
        raise IonrtError("meta-analysis: expected at least two sites, got 1")
    q, moment, typical = _between(y, v)
    tau2 = 0.0 if method == "FE" else moment
    if method == "REML":
        tau2 = _reml(y, v, tau2)
    w = 1 / (v + tau2)
    mean, error = float(np.average(y, weights=w)), float(w.sum() ** -0.5)
    reference = stats.norm
    if knapp_hartung:
        error = float(np.sqrt(np.sum(w * (y - mean) ** 2) / (k - 1) / w.sum()))
        reference = stats.t(k - 1)
    tail = 0.5 + check_level(level) / 2
    half = reference.ppf(tail) * error
    predict = stats.t.ppf(tail, k - 2) * np.hypot(error, np.sqrt(tau2)) if k > 2 else np.nan
    i2 = 100 * (max(0.0, (q - k + 1) / q) if method == "FE" and q > 0 else tau2 / (tau2 + typical))
    row = {"method": method, "k": k, "estimate": mean, "se": error, "lower": mean - half, "upper": mean + half}
    row |= {"p": 2 * float(reference.sf(abs(mean) / error)) if error > 0 else np.nan, "tau2": tau2, "i2": i2}
    row |= {"q": q, "q_df": k - 1, "q_p": float(stats.chi2.sf(q, k - 1))}
    row |= {"prediction_lower": mean - predict, "prediction_upper": mean + predict}
    return pd.DataFrame([row])


def _between(y: np.ndarray, v: np.ndarray) -> tuple[float, float, float]:
    """Cochran's Q = sum (y - mean)^2 / v, the moment estimate of tau2 = max(0, (Q - df) / C) with C = sum 1/v - sum 1/v^2 /
    sum 1/v (DerSimonian-Laird), and the typical variance within sites df / C (Higgins)."""
    w, df = 1.0 / v, y.size - 1
    q = float(np.sum(w * (y - np.average(y, weights=w)) ** 2))
    spread = float(w.sum() - np.sum(w**2) / w.sum())
    if not spread > 0 or not np.isfinite(q):
        raise IonrtError("sites: one standard error is so small beside the others that nothing can be told between sites")
    return q, max(0.0, (q - df) / spread), df / spread


def _reml(y: np.ndarray, v: np.ndarray, tau2: float) -> float:
    """Restricted maximum likelihood variance between sites, by Fisher scoring, not below zero."""
    for _ in range(500):
        w = 1 / (v + tau2)
        p = np.diag(w) - np.outer(w, w) / w.sum()
        py = p @ y
        step = (py @ py - np.trace(p)) / np.sum(p * p)
        new = max(0.0, tau2 + step)
        if abs(new - tau2) < 1e-14 * (1 + tau2):
            return float(new)
        tau2 = new
    raise IonrtError("REML: the variance between sites does not converge; use method='DL'")
