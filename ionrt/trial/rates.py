"""Two success rates: superiority and non-inferiority (Farrington-Manning)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ionrt.quantities import IonrtError
from ionrt.trial import limits


def noninferiority_rates(
    p_experimental: float,
    p_control: float,
    margin: float,
    *,
    alpha: float = 0.025,
    power: float = 0.80,
    allocation: float = 1.0,
) -> pd.Series:
    """Patients to show that a success rate is not lower than the control's by `margin` or more.

    n_control = (z_alpha s0 + z_power s1)^2 / (p_experimental - p_control + margin)^2 with s^2 = p_e (1 - p_e) / k
    + p_c (1 - p_c), s0 at the rates restricted to p_e - p_c = -margin (maximum likelihood), s1 at the rates given.

    Parameters
    ----------
    p_experimental, p_control : success rates assumed true.
    margin : largest loss of success rate that is tolerated, > 0.
    alpha, power : one-sided type I error; power.
    allocation : experimental patients per control patient.

    Returns
    -------
    a Series: n (not rounded), n_control, n_experimental, n_planned, p0_experimental, p0_control (restricted rates).

    Raises
    ------
    IonrtError
        Rates or a margin out of (0, 1), a margin that would tolerate any rate, nothing to show.

    References
    ----------
    Farrington & Manning 1990, doi:10.1002/sim.4780091208.

    Examples
    --------
    Local control 85 % in both arms, 10 points tolerated; restricted to a difference of -0.1 the rates would be 0.787 and 0.887.

    >>> size = ionrt.trial.noninferiority_rates(0.85, 0.85, 0.10)
    >>> int(size["n_control"]), int(size["n_planned"])
    (207, 414)
    """
    return _two_rates(p_experimental, p_control, limits.probability(margin, "margin"), alpha, power, allocation)


def superiority_rates(
    p_experimental: float, p_control: float, *, alpha: float = 0.025, power: float = 0.80, allocation: float = 1.0
) -> pd.Series:
    """Patients to show that a success rate is higher than the control's; a Series as of `noninferiority_rates`.

    `noninferiority_rates` at margin 0: s0 at the pooled rate, so the score test is Pearson's chi-squared test, one-sided. For
    rates of harm give their complements. Fleiss, Levin & Paik 2003, doi:10.1002/0471445428, eq. 4.14 (no continuity
    correction); doi:10.1002/sim.4780091208.
    """
    return _two_rates(p_experimental, p_control, 0.0, alpha, power, allocation)


def _two_rates(
    p_experimental: float, p_control: float, margin: float, alpha: float, power: float, allocation: float
) -> pd.Series:
    """Sizes for a score test of p_experimental - p_control > -margin."""
    pe, pc = limits.probability(p_experimental, "p_experimental"), limits.probability(p_control, "p_control")
    k = limits.positive(allocation, "allocation")
    alpha, power = limits.error_rates(alpha, power)
    if pe - pc <= -margin:
        raise IonrtError(f"p_experimental: {pe:g} lies at or below the limit {pc - margin:g}; there is nothing to show")
    if margin >= pc:
        raise IonrtError(f"margin: expected less than the control's rate {pc:g}, got {margin:g}; it would tolerate any rate")
    e0, c0 = _restricted(pe, pc, k, margin)
    s0 = np.sqrt(e0 * (1 - e0) / k + c0 * (1 - c0))
    s1 = np.sqrt(pe * (1 - pe) / k + pc * (1 - pc))
    n_c = ((stats.norm.isf(alpha) * s0 + stats.norm.ppf(power) * s1) / (pe - pc + margin)) ** 2
    return pd.Series(
        {"n": n_c * (1.0 + k), **limits.whole_arms(n_c, k), "p0_experimental": e0, "p0_control": c0},
        name="noninferiority_rates" if margin else "superiority_rates",
        dtype=object,
    )


def _restricted(pe, pc, k, margin):
    """Maximum-likelihood rates under p_e - p_c = -margin, k experimental patients per control; root of a cubic."""
    # a x^3 + b x^2 + c x + d = 0 for x = p_e, with theta = 1 / k control patients per experimental one
    theta, delta = 1.0 / k, -margin
    a = 1.0 + theta
    b = -(1.0 + theta + pe + theta * pc + delta * (theta + 2.0))
    c = delta**2 + delta * (2.0 * pe + theta + 1.0) + pe + theta * pc
    d = -pe * delta * (1.0 + delta)
    v = b**3 / (27.0 * a**3) - b * c / (6.0 * a**2) + d / (2.0 * a)
    u = np.copysign(np.sqrt(np.maximum(b**2 / (9.0 * a**2) - c / (3.0 * a), 0.0)), v)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(u == 0.0, 0.0, np.clip(v / np.where(u == 0.0, 1.0, u) ** 3, -1.0, 1.0))
    w = (np.pi + np.arccos(cosine)) / 3.0
    x = np.clip(2.0 * u * np.cos(w) - b / (3.0 * a), 0.0, 1.0 + delta)
    return x, np.clip(x - delta, 0.0, 1.0)


def farrington_manning(x_experimental, n_experimental, x_control, n_control, *, margin: float):
    """Score statistic of two success rates: non-inferiority, or superiority with margin 0; large for the experimental arm.

    z = (p_e - p_c + margin) / sqrt(p~_e (1 - p~_e) / n_e + p~_c (1 - p~_c) / n_c), p~ the rates restricted to
    p_e - p_c = -margin; successes of any broadcastable shape. doi:10.1002/sim.4780091208.
    """
    margin = margin if margin == 0 else limits.probability(margin, "margin")
    return _score(x_experimental, n_experimental, x_control, n_control, margin)


def _score(x_experimental, n_experimental, x_control, n_control, margin):
    """The statistic for any margin in (-1, 1); statsmodels 0.15 has restricted rates that are not the maximum's."""
    pe, pc = np.asarray(x_experimental) / n_experimental, np.asarray(x_control) / n_control
    e0, c0 = _restricted(pe, pc, n_experimental / n_control, margin)
    variance = e0 * (1 - e0) / n_experimental + c0 * (1 - c0) / n_control
    return (pe - pc + margin) / np.sqrt(np.maximum(variance, 1e-12))


def difference_limits(x_experimental: int, n_experimental: int, x_control: int, n_control: int, *, alpha: float):
    """Limits of p_e - p_c: the differences that the score test with `alpha` on either side would just not reject (Mee 1984)."""
    cut = float(stats.norm.isf(alpha))
    counts = (x_experimental, n_experimental, x_control, n_control)
    seen, edge = x_experimental / n_experimental - x_control / n_control, 1.0 - 1e-9

    def bound(side: float) -> float:
        def gap(difference: float) -> float:
            return side * float(_score(*counts, -difference)) - cut

        return float(optimize.brentq(gap, seen, -side * edge)) if gap(-side * edge) > 0 else -side

    return bound(1.0), bound(-1.0)


def exact_rejection(
    p_experimental: float, p_control: float, *, n_experimental: int, n_control: int, margin: float, alpha: float = 0.025
) -> float:
    """Exact probability that `farrington_manning` exceeds z(1 - alpha), summed over both binomials.

    At p_experimental = p_control - margin this is the attained type I error, elsewhere the power.
    """
    xe, xc = np.arange(n_experimental + 1), np.arange(n_control + 1)
    z = farrington_manning(xe[:, None], n_experimental, xc[None, :], n_control, margin=margin)
    joint = stats.binom.pmf(xe, n_experimental, p_experimental)[:, None] * stats.binom.pmf(xc, n_control, p_control)[None, :]
    return float(joint[z >= stats.norm.isf(limits.probability(alpha, "alpha"))].sum())
