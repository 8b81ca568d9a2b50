"""Single-arm design on the survival rate at a fixed time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.quantities import IonrtError, one_of
from ionrt.trial import limits
from ionrt.trial.phase2 import ahern

TRANSFORMS = ("identity", "log", "loglog", "logit", "arcsine")


def transform(s, name: str):
    """(h(s), h'(s)) of a survival probability; every transform increases with s."""
    s = np.asarray(s, float)
    if name == "identity":
        return s, np.ones_like(s)
    if name == "log":
        return np.log(s), 1.0 / s
    if name == "loglog":
        return -np.log(-np.log(s)), -1.0 / (s * np.log(s))
    if name == "logit":
        return np.log(s / (1.0 - s)), 1.0 / (s * (1.0 - s))
    return np.arcsin(np.sqrt(s)), 0.5 / np.sqrt(s * (1.0 - s))


def survival_rate(
    s0: float,
    s1: float,
    *,
    time: float,
    accrual: float,
    follow_up: float,
    method: str = "exact",
    alpha: float = 0.05,
    power: float = 0.80,
    n_max: int = 500,
    dropout: float = 0.0,
) -> pd.Series:
    """Patients to show that survival at `time` exceeds s0.

    exact: with follow-up of at least `time` for everybody and no loss, survival at `time` is a binomial proportion (see
    `ahern`). Otherwise a Kaplan-Meier estimate tested on a transformed scale h: n = ((z_alpha v0 + z_power v1) / (h(s1) -
    h(s0)))^2, v = h'(s) s sqrt(int_0^time hazard / (S(u) G(u)) du), exponential survival S, uniform entry and exponential
    loss G.

    Parameters
    ----------
    s0, s1 : uninteresting and interesting survival at `time`.
    time, accrual, follow_up : same unit; follow_up counts from the last entry.
    alpha, power : one-sided type I error; power.
    n_max : largest n searched by "exact".
    dropout : rate of loss to follow-up per unit time (0 for method "exact").
    method : "exact" or the transform "identity", "log", "loglog", "logit", "arcsine" (best size in small samples).

    Returns
    -------
    a Series: n (not rounded), n_planned; for "exact" also r (reject s <= s0 with more than r survivors), type1, power.

    Raises
    ------
    IonrtError
        Where nobody is observed up to `time`, or "exact" meets censoring.

    References
    ----------
    doi:10.1002/sim.721; Nagashima et al. 2021, doi:10.1002/pst.2090.
    """
    s0, s1 = limits.rates(s0, s1, ("s0", "s1"))
    alpha, power = limits.error_rates(alpha, power)
    time, accrual = limits.positive(time, "time"), limits.positive(accrual, "accrual")
    if accrual + limits.non_negative(follow_up, "follow_up") <= time:
        raise IonrtError(f"follow_up: nobody is observed up to {time:g}; accrual + follow_up must exceed it")
    if one_of(method, ("exact", *TRANSFORMS), what="method") == "exact":
        if follow_up < time or dropout > 0:
            raise IonrtError(
                f"method 'exact' needs follow_up >= {time:g} for everybody and no dropout, got {follow_up:g} and {dropout:g};"
                " use method='arcsine'"
            )
        found = ahern(s0, s1, alpha, 1.0 - power, n_max=n_max)
        return pd.Series({**found.to_dict(), "n_planned": found["n"]}, name="exact", dtype=object)
    h0, h1 = (transform(s, method)[0] for s in (s0, s1))
    v0, v1 = (_standard_deviation(s, time, accrual, follow_up, dropout, method) for s in (s0, s1))
    n = ((stats.norm.isf(alpha) * v0 + stats.norm.ppf(power) * v1) / (h1 - h0)) ** 2
    return pd.Series({"n": float(n), "n_planned": int(np.ceil(n - 1e-9))}, name=method, dtype=object)


def _standard_deviation(s: float, time: float, accrual: float, follow_up: float, dropout: float, method: str) -> float:
    """sqrt(n Var h(KM(time))) by Greenwood's integral; split where the censoring by entry begins."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    rate, total = -np.log(s) / time, 0.0
    edges = np.unique([0.0, min(follow_up, time), time])
    for a, b in pairwise(edges):
        u = (b - a) / 2.0 * nodes + (a + b) / 2.0
        entered = np.clip((accrual + follow_up - u) / accrual, 0.0, 1.0)
        total += float((b - a) / 2.0 * weights @ (rate * np.exp((rate + dropout) * u) / entered))
    return float(transform(s, method)[1] * s * np.sqrt(total))
