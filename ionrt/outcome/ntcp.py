"""gEUD, the Lyman-Kutcher-Burman model, logistic and other dose-response fits, and the Delta-NTCP rule."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from scipy import special

from ionrt.outcome import likelihood
from ionrt.outcome.columns import check_level, check_once, number, probabilities, require
from ionrt.outcome.regression import design
from ionrt.quantities import IonrtError, one_of

Histogram = TypeVar("Histogram", pd.DataFrame, xr.DataArray)


def geud(dvh: pd.DataFrame | xr.DataArray, a: float, *, by: str | None = None) -> float | pd.Series | xr.DataArray:
    r"""Generalised equivalent uniform dose.

    :math:`\mathrm{gEUD} = (\sum_i v_i d_i^a / \sum_i v_i)^{1/a}`, :math:`a = 1/n`, summed in logarithms so that
    a = 83 (n = 0.012) does not overflow.

    Parameters
    ----------
    dvh : a table of a *differential* histogram with columns `dose` [Gy or Gy (RBE)] and `volume` (any unit), or the
        *cumulative* ``volume_fraction`` of `ionrt.dvh` (..., dose), whose volume above the last dose counts at that dose.
    a : exponent; 1 is the mean, infinity the maximum, negative for targets; not 0.
    by : column of the patient; one value per patient then.

    Returns
    -------
    Number in the unit of the dose, Series by patient, or DataArray without the dose dimension.

    Raises
    ------
    IonrtError
        a = 0, negative doses or volumes, a histogram without volume or without a dose axis.

    References
    ----------
    Niemierko 1999, Med Phys 26, 1100.
    """
    if a == 0 or np.isnan(a):
        raise IonrtError(f"a: expected a number other than 0, got {a}; a = 1/n")
    if isinstance(dvh, xr.DataArray):
        return _geud_of_curve(dvh, a)
    require(dvh, "dose", "volume", by)
    dose, volume = number(dvh, "dose", minimum=0.0), number(dvh, "volume", minimum=0.0)
    if by is None:
        return float(_power_mean(dose, volume, a))
    rows = dvh.reset_index(drop=True).groupby(by, sort=True, observed=True).indices
    return pd.Series({key: float(_power_mean(dose[i], volume[i], a)) for key, i in rows.items()}, name="geud").rename_axis(by)


def _power_mean(dose: np.ndarray, volume: np.ndarray, a: float) -> np.ndarray:
    """Volume-weighted power mean along the last axis."""
    total = volume.sum(axis=-1)
    if not np.all(total > 0):
        raise IonrtError("a histogram without volume has no gEUD; leave empty structures out")
    if np.isinf(a):
        hit = volume > 0
        return np.where(hit, dose, -np.inf).max(axis=-1) if a > 0 else np.where(hit, dose, np.inf).min(axis=-1)
    with np.errstate(divide="ignore"):
        logarithm = np.where(volume > 0, np.log(np.maximum(volume, 1e-300)) + a * np.log(dose), -np.inf)
    peak = special.logsumexp(logarithm, axis=-1) - np.log(total)
    return np.exp(peak / a)


def _geud_of_curve(dvh: xr.DataArray, a: float) -> xr.DataArray:
    """gEUD of a cumulative histogram; each bin of dose is represented by its middle."""
    dim = dvh.attrs.get("quantity") or dvh.dims[-1]
    if dim not in dvh.dims or dim not in dvh.coords:
        raise IonrtError(f"dvh: expected a cumulative histogram with a dose axis, got dimensions {dvh.dims}")
    edges = dvh[dim].values.astype(float)

    def kernel(curve: np.ndarray) -> np.ndarray:
        above = np.append(curve, np.zeros((*curve.shape[:-1], 1)), axis=-1)
        volume = np.concatenate([np.ones((*curve.shape[:-1], 1)), above], axis=-1)
        share = np.maximum(volume[..., :-1] - volume[..., 1:], 0.0)
        middle = np.concatenate([[edges[0]], (edges[1:] + edges[:-1]) / 2, [edges[-1]]])
        empty = np.isnan(curve).any(axis=-1)
        share[empty] = 1.0
        return np.where(empty, np.nan, _power_mean(np.broadcast_to(middle, share.shape), share, a))

    out = xr.apply_ufunc(
        kernel, dvh, input_core_dims=[[dim]], join="exact", keep_attrs=False, dask="parallelized", output_dtypes=[float]
    )
    return out.rename("geud").assign_attrs(quantity=str(dim), exponent=float(a))


def lkb(
    dvh: pd.DataFrame | xr.DataArray, *, n: float, m: float, td50: float, by: str | None = None
) -> float | pd.Series | xr.DataArray:
    r"""Complication probability of the Lyman-Kutcher-Burman model.

    :math:`\mathrm{NTCP} = \Phi\big((\mathrm{gEUD}(1/n) - TD_{50}) / (m\,TD_{50})\big)`

    Parameters
    ----------
    dvh, by : as in `geud`; the doses in the dose system (RBE model, fractionation) in which the parameters were fitted.
    n : volume parameter.
    m : slope.
    td50 : uniform dose with 50 % complications [unit of the dose].

    Returns
    -------
    Probability, as number, Series or DataArray like `geud`.

    Raises
    ------
    IonrtError
        n, m or td50 not positive; histograms as in `geud`.

    References
    ----------
    Lyman 1985, doi:10.2307/3576626; Kutcher and Burman 1989, doi:10.1016/0360-3016(89)90972-3.
    """
    for name, value in (("n", n), ("m", m), ("td50", td50)):
        if not value > 0:
            raise IonrtError(f"{name}: expected a positive number, got {value}")
    u = (geud(dvh, 1 / n, by=by) - td50) / (m * td50)
    if isinstance(u, xr.DataArray):
        return xr.apply_ufunc(special.ndtr, u, dask="parallelized", keep_attrs=False).rename("ntcp").assign_attrs(units="1")
    return u.map(special.ndtr).rename("ntcp") if isinstance(u, pd.Series) else float(special.ndtr(u))


def fit_ntcp(
    df: pd.DataFrame, formula: str, event: str, *, total: str | None = None, link: str = "logit", level: float = 0.95
) -> pd.DataFrame:
    r"""Dose-response regression of a binary outcome, with profile-likelihood limits.

    :math:`g(p_i) = x_i^T \beta` with the logit, probit or complementary log-log link g.

    Parameters
    ----------
    df : one row per patient, or per dose group with `total`.
    formula : right-hand side, for instance ``"geud + let_d + np.log(gtv_volume)"``; the intercept is added.
    event : column with 0 or 1, or the number of events of the group.
    total : column with the number of patients of the group.
    link : "logit", "probit" or "cloglog".
    level : confidence level.

    Returns
    -------
    DataFrame, one row per term: `term`, `coef`, `se`, `p` (likelihood ratio), `lower`, `upper` (profile likelihood). ``attrs``:
        n, n_events, loglik, deviance, aic, link; with a single term also `td50` and `m` (= -1/intercept).

    Raises
    ------
    IonrtError : separation, dependent terms, events not in 0..total.
    """
    one_of(link, likelihood.LINKS, what="link")
    check_level(level)
    y = number(df, event, minimum=0.0)
    size = np.ones(len(df)) if total is None else number(df, total, minimum=0.0)
    if (y > size).any() or (y != np.round(y)).any():
        raise IonrtError(f"column {event!r}: expected whole numbers from 0 to {total or 1}; recode the outcome")
    d = design(df, formula, intercept=True)
    likelihood.check_separation(d.x, y, size, d.names)
    scale = np.sqrt(np.average(d.x**2, axis=0))
    objective = likelihood.binomial_objective(d.x / scale, y, size, link)
    best, loglik = likelihood.maximise(objective, np.zeros(len(scale)))
    out = likelihood_table(d.names, objective, best, scale, level)
    saturated = float(np.sum(special.xlogy(y, y / size) + special.xlogy(size - y, 1 - y / size)))
    out.attrs = {
        "n": int(size.sum()),
        "n_events": int(y.sum()),
        "loglik": loglik,
        "deviance": 2 * (saturated - loglik),
        "aic": 2 * (len(best) - loglik),
        "link": link,
    }
    if len(best) == 2 and d.names[0] == "Intercept":
        out.attrs |= {"td50": float(-out.coef[0] / out.coef[1]), "m": float(-1 / out.coef[0])}
    return out


def likelihood_table(
    names: list[str],
    objective: likelihood.Objective,
    best: np.ndarray,
    scale: np.ndarray,
    level: float,
    *,
    tested: int | None = None,
) -> pd.DataFrame:
    """Estimates with profile limits, on the scale of the covariates; the first `tested` with a test of being zero."""
    tested = len(best) if tested is None else tested
    variance = np.diag(likelihood.covariance(objective, best))
    se = np.sqrt(np.where(variance > 0, variance, np.nan))
    limits = [likelihood.profile_limits(objective, best, j, level=level, scale=se[j]) for j in range(len(best))]
    return pd.DataFrame(
        {
            "term": names,
            "coef": best / scale,
            "se": se / scale,
            "p": [likelihood.likelihood_ratio_p(objective, best, j) if j < tested else np.nan for j in range(len(best))],
            "lower": [low / s for (low, _), s in zip(limits, scale, strict=True)],
            "upper": [high / s for (_, high), s in zip(limits, scale, strict=True)],
        }
    )


def fit_lkb(
    dvh: pd.DataFrame,
    outcome: pd.DataFrame,
    *,
    event: str = "event",
    by: str = "pid",
    n: float | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Lyman-Kutcher-Burman parameters by maximum likelihood, with profile-likelihood limits.

    Parameters
    ----------
    dvh : differential histograms of all patients in long form: columns `by`, `dose` [Gy or Gy (RBE)], `volume`.
    outcome : one row per patient: columns `by` and `event` (0 or 1).
    event, by : names of these columns.
    n : volume parameter, fixed; by default it is estimated.
    level : confidence level.

    Returns
    -------
    DataFrame, one row per parameter: `term` (``n``, ``m``, ``td50``), `estimate`, `lower`, `upper`; a limit at infinity (or
        0) says that the data do not bound the parameter. ``attrs``: n_patients, n_events, loglik.

    Raises
    ------
    IonrtError
        A patient twice or without a histogram, outcomes other than 0 and 1, doses that separate them, a likelihood without
        maximum.

    References
    ----------
    Lyman 1985, doi:10.2307/3576626; likelihood limits: Venzon and Moolgavkar 1988, doi:10.2307/2347496.
    """
    check_level(level)
    require(dvh, by, "dose", "volume")
    require(outcome, by, event)
    check_once(outcome, by, "outcome: patient")
    dose, volume = _histograms(dvh, outcome, by)
    y = number(outcome, event, minimum=0.0)
    if not np.isin(y, (0, 1)).all():
        raise IonrtError(f"column {event!r}: expected 0 or 1")
    u = np.column_stack([np.ones(len(y)), _power_mean(dose, volume, 1.0 if n is None else 1 / n)])
    likelihood.check_separation(u, y, np.ones(len(y)), ["Intercept", "gEUD"])
    names = ["m", "td50"] if n is not None else ["n", "m", "td50"]
    objective = _lkb_objective(dose, volume, y, n)
    best = _start_lkb(objective, dose, volume, y, n)
    table = likelihood_table(names, objective, best, np.ones(len(best)), level, tested=0)
    logarithms = table[["coef", "lower", "upper"]].set_axis(["estimate", "lower", "upper"], axis=1)
    out = pd.concat([table["term"], np.exp(logarithms)], axis=1)
    if n is not None:
        out = pd.concat(
            [pd.DataFrame({"term": ["n"], "estimate": [n], "lower": [np.nan], "upper": [np.nan]}), out], ignore_index=True
        )
    out.attrs = {"n_patients": len(y), "n_events": int(y.sum()), "loglik": -objective(best)[0]}
    return out


def _histograms(dvh: pd.DataFrame, outcome: pd.DataFrame, by: str) -> tuple[np.ndarray, np.ndarray]:
    """Doses and volumes as (patient, bin), padded with bins of no volume, in the order of `outcome`."""
    dose, volume = number(dvh, "dose", minimum=0.0), number(dvh, "volume", minimum=0.0)
    rows = dvh.reset_index(drop=True).groupby(by, observed=True).indices
    absent = [p for p in outcome[by] if p not in rows]
    if absent:
        raise IonrtError(f"{len(absent)} patients of `outcome` have no histogram (first: {absent[0]!r})")
    width = max(len(rows[p]) for p in outcome[by])
    d, v = np.ones((len(outcome), width)), np.zeros((len(outcome), width))
    for i, p in enumerate(outcome[by]):
        d[i, : len(rows[p])], v[i, : len(rows[p])] = dose[rows[p]], volume[rows[p]]
    return d, v


def _lkb_objective(dose: np.ndarray, volume: np.ndarray, y: np.ndarray, n: float | None) -> likelihood.Objective:
    """Likelihood in the logarithms of (n,) m and TD50, with its gradient."""
    with np.errstate(divide="ignore"):
        logv, logd = np.log(volume / volume.sum(axis=1, keepdims=True)), np.log(dose)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        inverse = np.exp(-theta[0]) if n is None else 1 / n
        m, td50 = np.exp(theta[-2:])
        term = logv + inverse * logd
        total = special.logsumexp(term, axis=1)
        g = np.exp(total / inverse)
        up, down, dup, ddown = likelihood.log_probabilities((g - td50) / (m * td50), "probit")
        slope = y * dup + (1 - y) * ddown
        gradient = [-np.sum(slope * (g - td50)) / (m * td50), -np.sum(slope * g) / (m * td50)]
        if n is None:  # d ln g / d ln n = ln g - (softmax-weighted mean of ln d)... with weights v d^a
            share = np.exp(term - total[:, None])
            mean = np.sum(np.where(share > 0, share * np.where(share > 0, logd, 0.0), 0.0), axis=1)
            gradient.insert(0, np.sum(slope * g * (total / inverse - mean)) / (m * td50))
        return float(-np.sum(y * up + (1 - y) * down)), -np.asarray(gradient)

    return objective


def _start_lkb(
    objective: likelihood.Objective, dose: np.ndarray, volume: np.ndarray, y: np.ndarray, n: float | None
) -> np.ndarray:
    """The best maximum over several starting volume parameters: the likelihood in n can have more than one."""
    starts = []
    for guess in (0.03, 0.1, 0.3, 1.0) if n is None else (n,):
        middle = float(np.log(np.median(_power_mean(dose, volume, 1 / guess)[y == 1])) + 0.1)
        starts.append(np.array(([np.log(guess)] if n is None else []) + [np.log(0.2), middle]))
    why = "fit_lkb: the likelihood has no maximum that can be found; the risk may not rise with the dose"
    return likelihood.best_of(objective, starts, why)


def delta_ntcp_rule(
    df: pd.DataFrame,
    *,
    reference: str = "ntcp_reference",
    candidate: str = "ntcp_candidate",
    grade: str = "grade",
    by: str = "pid",
    grade_2: float = 10.0,
    grade_3: float = 5.0,
    total: float = 15.0,
) -> pd.DataFrame:
    """Patients who qualify for the candidate treatment by their gain in complication probability.

    A patient qualifies with a gain of at least `grade_2` points for one toxicity of grade 2, at least `grade_3` points for one
    of grade 3 or more, or at least `total` points for the sum over the toxicities of grade 2.

    Parameters
    ----------
    df : one row per patient and toxicity.
    reference, candidate : columns of NTCP (0..1) under the reference (photon) plan and the candidate plan.
    grade : column of the grade that the NTCP model predicts (2..5).
    by : column of the patient.
    grade_2, grade_3, total : thresholds in percentage points.

    Returns
    -------
    DataFrame, one row per patient: `by`, `max_grade_2`, `max_grade_3`, `sum_grade_2` [percentage points], `qualifies`, `reason`
        ("" where none).

    Validity: research on how a rule would select; the thresholds are those of the Dutch protocol for head and neck cancer.

    Raises
    ------
    IonrtError
        Missing columns, probabilities out of 0..1, grades below 2 or above 5.

    References
    ----------
    Langendijk et al. 2021, doi:10.14338/IJPT-20-00089.1.

    Examples
    --------
    A gain of 12 points of dysphagia of grade 2 qualifies (at least 10), 4 points of grade 3 do not (at least 5). SYNTHETIC.

    >>> ntcp = {"ntcp_reference": [0.32, 0.14], "ntcp_candidate": [0.20, 0.10], "grade": [2, 3]}
    >>> ionrt.outcome.delta_ntcp_rule(pd.DataFrame({"pid": ["a", "b"], **ntcp}))["qualifies"].tolist()
    [True, False]
    """
    require(df, by, reference, candidate, grade)
    old, new, severity = probabilities(df, reference), probabilities(df, candidate), number(df, grade)
    if not np.isin(severity, (2, 3, 4, 5)).all():
        raise IonrtError(f"column {grade!r}: expected 2, 3, 4 or 5; the rule says nothing about other grades")
    # rounding: 0.30 - 0.20 is not quite 0.10 in binary
    gain = pd.Series(np.round(100 * (old - new), 9))
    patient = df[by].reset_index(drop=True)
    second, third = pd.Series(severity == 2), pd.Series(severity >= 3)
    out = pd.DataFrame(
        {
            "max_grade_2": gain.where(second).groupby(patient).max(),
            "max_grade_3": gain.where(third).groupby(patient).max(),
            "sum_grade_2": gain.where(second, 0.0).groupby(patient).sum(),
        }
    ).rename_axis(by)
    rules = {
        f"grade 2: {grade_2:g} points": out.max_grade_2 >= grade_2,
        f"grade 3: {grade_3:g} points": out.max_grade_3 >= grade_3,
        f"sum of grade 2: {total:g} points": out.sum_grade_2.round(9) >= total,
    }
    met = pd.DataFrame(rules)
    out["qualifies"] = met.any(axis=1)
    out["reason"] = [", ".join(met.columns[row]) for row in met.to_numpy()]
    return out.reset_index()
