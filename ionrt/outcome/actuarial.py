"""Actuarial NTCP: the probability that a complication ever comes, and when, from censored follow-up."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special, stats

from ionrt.outcome import likelihood
from ionrt.outcome.columns import check_level, numbers, survival_columns
from ionrt.outcome.ntcp import likelihood_table
from ionrt.outcome.regression import design
from ionrt.outcome.survival import median_follow_up
from ionrt.quantities import IonrtError, one_of

LATENCIES = ("lognormal", "weibull", "loglogistic")


def _latency(z: np.ndarray, latency: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distribution function, log density and its slope, of the standardised log time."""
    if latency == "lognormal":
        return special.ndtr(z), stats.norm.logpdf(z), -z
    if latency == "weibull":
        e = np.exp(np.minimum(z, 700.0))
        return -np.expm1(-e), z - e, 1 - e
    f = special.expit(z)
    return f, special.log_expit(z) + special.log_expit(-z), 1 - 2 * f


def _objective(x: np.ndarray, t: np.ndarray, event: np.ndarray, link: str, latency: str) -> likelihood.Objective:
    """Likelihood in (beta, location, log scale): event p f(t), censored 1 - p F(t)."""
    log_t = np.log(np.maximum(t, 1e-300))

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        location, scale = theta[-2], np.exp(np.clip(theta[-1], -50, 50))
        up, _, dup, _ = likelihood.log_probabilities(x @ theta[:-2], link)
        z = (log_t - location) / scale
        f, log_density, slope = _latency(z, latency)
        p, density = np.exp(up), np.exp(log_density)
        free = np.maximum(1 - p * f, 1e-300)
        loglik = np.where(event, up + log_density - log_t - np.log(scale), np.log(free))
        predictor = np.where(event, dup, -f * p * dup / free)
        along = np.where(event, -slope, p * density / free)
        width = np.where(event, -1 - np.where(event, z * slope, 0.0), p * density * z / free)
        return float(-loglik.sum()), -np.concatenate([x.T @ predictor, [along.sum() / scale, width.sum()]])

    return objective


def fit_actuarial_ntcp(
    df: pd.DataFrame,
    formula: str,
    time: str,
    event: str,
    *,
    link: str = "logit",
    latency: str = "lognormal",
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Complication probability against dose, LETd and GTV volume from censored follow-up.

    A patient gets the complication eventually with probability :math:`p_i = g^{-1}(x_i^T\beta)`, and if so at a time with
    distribution F (its logarithm has location :math:`\mu` and scale :math:`\sigma`):
    an event contributes :math:`p_i f(t_i)`, a censored patient :math:`1 - p_i F(t_i)`.

    Parameters
    ----------
    df : one row per patient.
    formula : right-hand side with the dose, LETd and volume terms, for instance ``"geud + let_d + np.log(gtv_volume)"``;
        adjusting for the GTV volume matters, since large targets have low LETd and worse control. The intercept is added.
    time : column of the time to complication or last look, unit of the table.
    event : 0 censored, 1 complication; 2, 3, ... (death, relapse) count as censored: the NTCP is the risk of a patient who
        would not die first.
    link : "logit", "probit" (Lyman) or "cloglog".
    latency : "lognormal", "weibull" or "loglogistic".
    level : confidence level.

    Returns
    -------
    DataFrame, one row per term, then ``latency_location`` (mean log time) and ``latency_log_scale``: `term`, `coef`, `se`,
        `p` (likelihood ratio; NaN for the latency), `lower`, `upper` (profile likelihood; infinite where the data do not bound
        it). ``attrs``: n, n_events, loglik, aic, link, latency, formula, covariance (nested lists, for `predict_ntcp`),
        latency_scale (exp of the location), follow_up (median, by the reverse Kaplan-Meier estimate), identified (latency_scale
        does not exceed follow_up). Predictions: `predict_ntcp`.

    Raises
    ------
    IonrtError : no event, an event at time 0, separation, dependent terms.

    Warns
    -----
    UserWarning where the latency scale exceeds the follow-up: incidence and latency cannot be told apart then, the
    probability of "ever" is no estimate, and only predictions up to times within the follow-up rest on data.

    Validity: needs follow-up well beyond the usual latency, otherwise the limits of the intercept are wide or infinite. A
    regression on observed LETd is no proof of an effect of LETd.

    References
    ----------
    Tucker et al. 2008 (generalised Lyman model), doi:10.1016/j.ijrobp.2008.04.053; Farewell 1982, doi:10.2307/2529885.
    """
    one_of(link, likelihood.LINKS, what="link")
    one_of(latency, LATENCIES, what="latency")
    check_level(level)
    cols = survival_columns(df, time, event, competing=True)
    happened = cols.code == 1
    d = design(df, formula, intercept=True)
    likelihood.check_separation(d.x, happened.astype(float), np.ones(len(df)), d.names)
    if (cols.stop[happened] <= 0).any():
        raise IonrtError(f"column {time!r}: a complication at time 0 has no latency; set it to the resolution of the clock")
    scale = np.append(np.sqrt(np.average(d.x**2, axis=0)), [1.0, 1.0])
    objective = _objective(d.x / scale[:-2], cols.stop, happened, link, latency)
    best = _maximum(objective, d.x / scale[:-2], cols.stop, happened, link)
    out = likelihood_table(
        [*d.names, "latency_location", "latency_log_scale"], objective, best, scale, level, tested=len(d.names)
    )
    loglik = -objective(best)[0]
    latency_scale, follow_up = float(np.exp(min(best[-2], 700.0))), median_follow_up(cols, happened)
    if latency_scale > follow_up:
        warnings.warn(
            f"actuarial NTCP: the latency scale {latency_scale:.3g} exceeds the median follow-up {follow_up:.3g}: how many get"
            " the complication ever cannot be told from how late; predict up to times within the follow-up only",
            stacklevel=2,
        )
    covariance = likelihood.covariance(objective, best) / np.outer(scale, scale)
    out.attrs = {
        "n": len(df),
        "n_events": int(happened.sum()),
        "loglik": loglik,
        "aic": 2 * (len(best) - loglik),
        "link": link,
        "latency": latency,
        "formula": formula,
        "covariance": covariance.tolist(),
        "latency_scale": latency_scale,
        "follow_up": follow_up,
        "identified": latency_scale <= follow_up,
    }
    return out


def _maximum(objective: likelihood.Objective, x: np.ndarray, t: np.ndarray, event: np.ndarray, link: str) -> np.ndarray:
    """Start from the crude binary fit and the observed latencies, with two guesses of how late events still come."""
    crude, _ = likelihood.maximise(
        likelihood.binomial_objective(x, event.astype(float), np.ones(len(t)), link), np.zeros(x.shape[1])
    )
    log_t = np.log(t[event])
    spread = np.log(max(float(log_t.std()), 0.2))
    starts = [np.concatenate([crude, [log_t.mean() + late, spread]]) for late in (0.0, 0.7)]
    why = "the actuarial likelihood has no maximum: follow-up too short or too few events to tell incidence from latency"
    return likelihood.best_of(objective, starts, why)


def predict_ntcp(fit: pd.DataFrame, df: pd.DataFrame, *, at: Sequence[float] = (), level: float = 0.95) -> pd.DataFrame:
    r"""Complication probability of new patients from `fit_actuarial_ntcp`, eventually and up to chosen times.

    :math:`\mathrm{NTCP}_i(t) = p_i F(t)`

    Parameters
    ----------
    fit : result of `fit_actuarial_ntcp`.
    df : one row per patient with the columns of the formula.
    at : times in the unit of the fit.
    level : confidence level of the limits.

    Returns
    -------
    DataFrame, one row per patient (index of `df`) and time: `time` (infinity: eventually), `ntcp`, `lower`, `upper` (delta
        method on the scale of log(-log(1 - NTCP)), all parameters together; NaN where the likelihood is flat). ``attrs``:
        identified, as in the fit; where it is False, "eventually" is an extrapolation.

    Raises
    ------
    IonrtError
        What is no table of `fit_actuarial_ntcp`, or categories other than those of the fit.
    """
    if "latency" not in fit.attrs:
        raise IonrtError("fit: expected the table returned by fit_actuarial_ntcp, with its attrs")
    d = design(df, fit.attrs["formula"], intercept=True)
    coef = fit.set_index("term").coef
    if list(coef.index[:-2]) != d.names:
        raise IonrtError(f"df: the formula gives terms {d.names}, the fit has {list(coef.index[:-2])}; use the same categories")
    theta, covariance = coef.to_numpy(), np.asarray(fit.attrs["covariance"])
    normal = stats.norm.ppf(0.5 + check_level(level) / 2)

    def risk(theta: np.ndarray, t: float) -> np.ndarray:
        p = np.exp(likelihood.log_probabilities(d.x @ theta[:-2], fit.attrs["link"])[0])
        z = (np.log(t) - theta[-2]) / np.exp(theta[-1]) if t > 0 else -np.inf
        return p * (1.0 if t == np.inf else float(_latency(np.asarray(z, dtype=float), fit.attrs["latency"])[0]))

    def stretched(q: np.ndarray) -> np.ndarray:
        return np.log(-np.log1p(-np.clip(q, 1e-300, 1 - 1e-16)))

    parts = []
    for t in (*numbers(at, "at"), np.inf):
        q, slopes = risk(theta, t), np.empty((len(theta), len(d.x)))
        for j, step in enumerate(1e-5 * np.sqrt(np.maximum(np.diag(covariance), 0.0))):
            shift = np.where(np.arange(len(theta)) == j, step, 0.0)
            slopes[j] = (
                (stretched(risk(theta + shift, t)) - stretched(risk(theta - shift, t))) / (2 * step) if step > 0 else np.nan
            )
        with np.errstate(invalid="ignore"):
            half = normal * np.sqrt(np.einsum("jp,jk,kp->p", slopes, covariance, slopes))
        ends = [-np.expm1(-np.exp(np.minimum(stretched(q) + side * half, 700.0))) for side in (-1, 1)]
        parts.append(pd.DataFrame({"time": float(t), "ntcp": q, "lower": ends[0], "upper": ends[1]}, index=df.index))
    out = pd.concat(parts)
    out.attrs["identified"] = fit.attrs["identified"]
    return out
