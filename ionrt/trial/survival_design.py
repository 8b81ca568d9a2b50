"""Sample size of survival trials: events, then patients from accrual, follow-up, dropout and allocation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ionrt.quantities import IonrtError, one_of
from ionrt.trial import limits


def _z_sum(alpha: float, power: float, sided: int) -> float:
    """z(1 - alpha / sided) + z(power)."""
    alpha, power = limits.error_rates(alpha, power)
    if sided not in (1, 2):
        raise IonrtError(f"sided: expected 1 or 2, got {sided!r}")
    return float(stats.norm.isf(alpha / sided) + stats.norm.ppf(power))


def _hazard_ratio(hr: float, margin: float) -> float:
    """log(hr / margin); the two must differ."""
    log_effect = float(np.log(limits.positive(hr, "hr") / limits.positive(margin, "margin")))
    if log_effect == 0.0:
        raise IonrtError(
            f"hr: expected a hazard ratio different from {margin:g}, got {hr:g}; no number of events shows no effect"
        )
    return log_effect


def schoenfeld(
    hr: float, *, alpha: float = 0.05, power: float = 0.80, allocation: float = 1.0, sided: int = 2, margin: float = 1.0
) -> float:
    """Events for a log-rank test, local alternative.

    events = (z_alpha + z_power)^2 (1 + k)^2 / (k ln(hr / margin)^2), k = allocation.

    Parameters
    ----------
    hr : hazard ratio experimental to control under the alternative.
    alpha, power, sided : error rates; sided is 1 or 2.
    allocation : experimental patients per control patient.
    margin : hazard ratio of the null hypothesis (1 = superiority).

    Returns
    -------
    the number of events, not rounded. Accurate for hr near the margin; with unequal allocation and a strong effect see
        `logrank_drift`.

    Raises
    ------
    IonrtError
        A hazard ratio that is not positive or equals the margin; impossible error rates.

    References
    ----------
    Schoenfeld 1983, doi:10.2307/2531021.

    Examples
    --------
    >>> round(ionrt.trial.schoenfeld(0.7), 1)  # (1.960 + 0.842)^2 * 4 / ln(0.7)^2
    246.8
    """
    effect, k = _hazard_ratio(hr, margin), limits.positive(allocation, "allocation")
    return _z_sum(alpha, power, sided) ** 2 * (1.0 + k) ** 2 / (k * effect**2)


def freedman(hr: float, *, alpha: float = 0.05, power: float = 0.80, allocation: float = 1.0, sided: int = 2) -> float:
    """Events for a log-rank test under proportional hazards with a constant ratio at risk; not rounded.

    events = (z_alpha + z_power)^2 (1 + k hr)^2 / (k (1 - hr)^2), k = allocation. Parameters as in `schoenfeld`. Freedman 1982,
    doi:10.1002/sim.4780010204.
    """
    _hazard_ratio(hr, 1.0)
    k = limits.positive(allocation, "allocation")
    return _z_sum(alpha, power, sided) ** 2 * (1.0 + k * hr) ** 2 / (k * (1.0 - hr) ** 2)


def hazard(*, median: float | None = None, survival: tuple[float, float] | None = None) -> float:
    """Exponential hazard per unit of time from a median or from (survival, time): ln 2 / median or -ln(survival) / time."""
    if (median is None) == (survival is None):
        raise IonrtError("hazard: give either median= or survival=(probability, time)")
    if survival is None:
        assert median is not None
        return float(np.log(2.0) / limits.positive(median, "median"))
    return float(-np.log(limits.probability(survival[0], "survival")) / limits.positive(survival[1], "survival time"))


def event_probability(time: float, *, hazard: float, accrual: float, dropout: float = 0.0) -> float:
    """Probability that a patient enrolled by calendar time `time` has had the event by then.

    Uniform entry over [0, accrual], exponential event and dropout (rates per unit time); with c = hazard + dropout and entries
    up to a = min(time, accrual): hazard / c (1 - (exp(-c (time - a)) - exp(-c time)) / (c a)). Lachin & Foulkes 1986,
    doi:10.2307/2531201.
    """
    c = limits.positive(hazard, "hazard") + limits.non_negative(dropout, "dropout")
    entered = min(limits.positive(time, "time"), limits.positive(accrual, "accrual"))
    after = c * (time - entered)
    return float(hazard / c * (_leaving(c * entered) * np.exp(-after) - np.expm1(-after)))


def _leaving(y: float) -> float:
    """1 - (1 - exp(-y)) / y: who has left after uniform entry; a series where the difference would lose its digits."""
    if y > 0.5:
        return 1.0 + np.expm1(-y) / y
    term, total = 0.5 * y, 0.0
    for k in range(3, 20):
        total += term
        term *= -y / k
    return total


def dropout_hazard(share: float, time: float) -> float:
    """Rate at which a `share` of patients is lost by `time`: -ln(1 - share) / time; 0 for share 0."""
    if share == 0:
        return 0.0
    return float(-np.log1p(-limits.probability(share, "dropout share")) / limits.positive(time, "dropout time"))


def survival_sample_size(
    hr: float,
    *,
    accrual: float,
    follow_up: float,
    control_hazard: float | None = None,
    control_median: float | None = None,
    control_survival: Sequence[float] | None = None,
    alpha: float = 0.05,
    power: float = 0.80,
    sided: int = 2,
    allocation: float = 1.0,
    dropout: float = 0.0,
    dropout_share: float = 0.0,
    dropout_time: float = 1.0,
    margin: float = 1.0,
    method: str = "schoenfeld",
    inflation: float = 1.0,
) -> pd.Series:
    """Events and patients of a two-arm trial with uniform accrual and exponential survival.

    n = events / mean event probability at the end of the study, weighted by allocation.

    Parameters
    ----------
    hr : hazard ratio experimental to control under the alternative.
    control_hazard, control_median, control_survival : the control arm, by one of them: rate per unit time, median, or
        (survival, time).
    accrual, follow_up : duration of accrual, and of follow-up after the last entry, in that unit of time.
    alpha, power, sided, allocation, margin : as in `schoenfeld`.
    dropout : rate of loss to follow-up; or
    dropout_share, dropout_time : the share that is lost by that time.
    method : "schoenfeld", "freedman" or "logrank" (numerical drift of the log-rank statistic, see `logrank_drift`).
    inflation : maximum information of a group-sequential design over the fixed one (see `spending_bounds`).

    Returns
    -------
    Series: events, n (not rounded); n_control, n_experimental (whole, in the allocation ratio); n_planned (their sum);
        events_planned (rounded up); p_control, p_experimental, p_event; duration; control_hazard, dropout (rates).

    Raises
    ------
    IonrtError
        Impossible rates and durations.

    References
    ----------
    doi:10.2307/2531021, doi:10.2307/2531201.

    Examples
    --------
    Median survival of the controls 2 years, 3 years of accrual and 2 of follow-up: 0.626 of the patients have the event.

    >>> size = ionrt.trial.survival_sample_size(0.7, accrual=3, follow_up=2, control_median=2)  # years
    >>> int(size["events_planned"]), round(float(size["p_event"]), 3), int(size["n_planned"])
    (247, 0.626, 396)
    """
    one_of(method, ("schoenfeld", "freedman", "logrank"), what="method")
    if control_hazard is None:
        if control_survival is not None and np.shape(control_survival) != (2,):
            raise IonrtError(f"control_survival: expected (survival, time), got {control_survival!r}")
        at = None if control_survival is None else (control_survival[0], control_survival[1])
        control_hazard = hazard(median=control_median, survival=at)
    elif control_median is not None or control_survival is not None:
        raise IonrtError("control arm: give one of control_hazard, control_median and control_survival")
    if dropout and dropout_share:
        raise IonrtError("dropout: give a rate, or dropout_share and dropout_time, not both")
    dropout = dropout or dropout_hazard(dropout_share, dropout_time)
    follow_up, k = limits.non_negative(follow_up, "follow_up"), limits.positive(allocation, "allocation")
    limits.positive(accrual, "accrual")
    total = accrual + follow_up
    p_control = event_probability(total, hazard=control_hazard, accrual=accrual, dropout=dropout)
    p_experimental = event_probability(total, hazard=control_hazard * hr, accrual=accrual, dropout=dropout)
    p_event = (p_control + k * p_experimental) / (1.0 + k)
    if method == "schoenfeld":
        events = schoenfeld(hr, alpha=alpha, power=power, allocation=k, sided=sided, margin=margin)
    elif margin != 1.0:
        raise IonrtError(f"method {method!r} holds for superiority (margin 1) only; use 'schoenfeld' with margin {margin:g}")
    elif method == "freedman":
        events = freedman(hr, alpha=alpha, power=power, allocation=k, sided=sided)
    else:
        _hazard_ratio(hr, 1.0)
        drift = logrank_drift(
            1.0, hr, control_hazard=control_hazard, accrual=accrual, time=total, allocation=k, dropout=dropout
        )
        events = (_z_sum(alpha, power, sided) / drift) ** 2 * p_event
    events *= inflation
    n = events / p_event
    return pd.Series(
        {
            "events": events,
            "n": n,
            **limits.whole_arms(n / (1.0 + k), k),
            "events_planned": int(np.ceil(events - 1e-9)),
            "p_control": p_control,
            "p_experimental": p_experimental,
            "p_event": p_event,
            "duration": total,
            "control_hazard": control_hazard,
            "dropout": dropout,
        },
        name=method,
        dtype=object,
    )


def logrank_drift(
    n: float, hr: float, *, control_hazard: float, accrual: float, time: float, allocation: float = 1.0, dropout: float = 0.0
) -> float:
    """Expected log-rank statistic at calendar time `time`, without the local approximation.

    With numbers at risk n p_j(u) at time u since entry and hazards h_j: U = n int (h_0 - h_1) p_0 p_1 / (p_0 + p_1) du, V = n
    int (h_0 p_0 + h_1 p_1) p_0 p_1 / (p_0 + p_1)^2 du, drift = U / sqrt(V) (positive in favour of the experimental arm), `n`
    patients enrolled over the whole accrual; power of a one-sided test = Phi(drift - z_alpha). Lakatos 1988,
    doi:10.2307/2531910.
    """
    u, weight = np.polynomial.legendre.leggauss(200)
    edges = np.unique([0.0, max(time - accrual, 0.0), time])
    points = np.concatenate([(b - a) / 2 * u + (a + b) / 2 for a, b in pairwise(edges)])
    weights = np.concatenate([(b - a) / 2 * weight for a, b in pairwise(edges)])
    entered = np.clip((time - points) / limits.positive(accrual, "accrual"), 0.0, 1.0) * np.exp(-dropout * points)
    h0, h1 = control_hazard, control_hazard * limits.positive(hr, "hr")
    risk0 = entered * np.exp(-h0 * points) / (1.0 + allocation)
    risk1 = entered * np.exp(-h1 * points) * allocation / (1.0 + allocation)
    at_risk = risk0 + risk1
    share = np.divide(risk0 * risk1, at_risk, out=np.zeros_like(at_risk), where=at_risk > 0)
    score = np.sum(weights * share * (h0 - h1))
    variance = np.sum(
        weights * share * np.divide(h0 * risk0 + h1 * risk1, at_risk, out=np.zeros_like(at_risk), where=at_risk > 0)
    )
    return float(np.sqrt(n) * score / np.sqrt(variance))


def time_of_events(
    events: float, n: float, *, hr: float, control_hazard: float, accrual: float, allocation: float = 1.0, dropout: float = 0.0
) -> float:
    """Calendar time at which `events` events are expected among `n` patients; infinite where they never come.

    Solves n mean event probability(t) min(t / accrual, 1) = events. Parameters as in `survival_sample_size`.
    """

    def expected(t: float) -> float:
        p0 = event_probability(t, hazard=control_hazard, accrual=accrual, dropout=dropout)
        p1 = event_probability(t, hazard=control_hazard * hr, accrual=accrual, dropout=dropout)
        return n * min(t / accrual, 1.0) * (p0 + allocation * p1) / (1.0 + allocation) - events

    last = accrual + 50.0 / (control_hazard * min(hr, 1.0) + dropout)
    return float("inf") if expected(last) < 0 else float(optimize.brentq(expected, 1e-9, last))
