"""Inverse probability of treatment weights, and what to look at before they are believed: balance and overlap."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ionrt.outcome import likelihood
from ionrt.outcome.columns import number, require
from ionrt.outcome.regression import design
from ionrt.quantities import IonrtError, one_of

ESTIMANDS = ("ATE", "ATT", "ATO")


def iptw(
    df: pd.DataFrame,
    treatment: str,
    formula: str,
    *,
    estimand: str = "ATE",
    stabilised: bool = True,
    truncate: float | None = None,
) -> pd.DataFrame:
    r"""Propensity scores by logistic regression and the weights of each patient.

    :math:`w = z/e + (1-z)/(1-e)` (ATE), :math:`z + (1-z)\,e/(1-e)` (ATT), :math:`z(1-e) + (1-z)e` (ATO, overlap weights)

    Parameters
    ----------
    df : one row per patient.
    treatment : column with 0 or 1 (two arms, two centres).
    formula : right-hand side of the propensity model: what decided the treatment and matters for the outcome.
    estimand : "ATE" (whole cohort), "ATT" (the treated) or "ATO" (those whom either treatment could have met).
    stabilised : multiply ATE weights with the share of the patient's arm, so that they average one.
    truncate : cut the weights at this quantile (0.5..1) of their distribution, and at one minus it; default none.

    Returns
    -------
    DataFrame, one row per patient (index of `df`): `propensity`, `weight`. ``attrs``: estimand, formula. Then
        ``cox(df.assign(weight=w.weight), ..., weights="weight")``. Look at `balance` and `overlap` first.

    Raises
    ------
    IonrtError : one arm only; covariates that determine the treatment (no overlap at all).

    References
    ----------
    Austin and Stuart 2015, doi:10.1002/sim.6607;
    overlap weights: Li, Morgan and Zaslavsky 2018, doi:10.1080/01621459.2016.1260466.
    """
    one_of(estimand, ESTIMANDS, what="estimand")
    if truncate is not None and not 0.5 < truncate <= 1:
        raise IonrtError(f"truncate: expected a quantile between 0.5 and 1, got {truncate}")
    z = _arms(df, treatment)
    d = design(df, formula, intercept=True)
    likelihood.check_separation(d.x, z, np.ones(len(z)), d.names)
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    size = np.sqrt(np.average(d.x**2, axis=0))
    if not (size > 0).all():
        raise IonrtError(f"formula {formula!r}: {d.names[int(np.argmin(size))]} is 0 for everybody; leave it out")
    e = np.asarray(GLM(z, d.x / size, family=Binomial()).fit(tol=1e-13).fittedvalues)
    if estimand == "ATE":
        w = z / e + (1 - z) / (1 - e)
        w = w * np.where(z == 1, z.mean(), 1 - z.mean()) if stabilised else w
    else:
        w = z + (1 - z) * e / (1 - e) if estimand == "ATT" else z * (1 - e) + (1 - z) * e
    if truncate is not None:
        w = np.clip(w, *np.quantile(w, [1 - truncate, truncate]))
    out = pd.DataFrame({"propensity": e, "weight": w}, index=df.index)
    out.attrs = {"estimand": estimand, "formula": formula}
    return out


def _arms(df: pd.DataFrame, treatment: str) -> np.ndarray:
    """The treatment as 0 and 1, both present."""
    z = number(df, treatment)
    if not np.isin(z, (0, 1)).all():
        raise IonrtError(f"column {treatment!r}: expected 0 or 1, got {sorted(set(z.tolist()))[:5]}")
    if z.min() == z.max():
        raise IonrtError(f"column {treatment!r}: all patients have {int(z[0])}; weighting needs both arms (one centre only?)")
    return z


def balance(df: pd.DataFrame, treatment: str, formula: str, *, weights: str | None = None) -> pd.DataFrame:
    r"""Standardised mean differences between the arms, before and after weighting.

    :math:`\mathrm{SMD} = (\bar x_1 - \bar x_0) / \sqrt{(s_1^2 + s_0^2)/2}`, the deviations unweighted in both columns, so that
    a change of the difference is not hidden by a change of the spread.

    Parameters
    ----------
    df, treatment : as in `iptw`.
    formula : covariates to compare (every level of a category is its own row).
    weights : column of the weights.

    Returns
    -------
    DataFrame, one row per covariate: `term`, `mean_1`, `mean_0` (weighted), `smd_before`, `smd_after`. Below 0.1 is usual.

    Raises
    ------
    IonrtError
        One arm only, a treatment other than 0 and 1, missing cells, negative weights.
    """
    z = _arms(df, treatment)
    w = np.ones(len(z)) if weights is None else number(df, weights, minimum=0.0)
    d = design(df, formula)
    one, zero = z == 1, z == 0
    spread = np.sqrt((d.x[one].var(axis=0, ddof=1) + d.x[zero].var(axis=0, ddof=1)) / 2)
    before = d.x[one].mean(axis=0) - d.x[zero].mean(axis=0)
    treated, control = (np.average(d.x[m], axis=0, weights=w[m]) for m in (one, zero))

    def smd(difference: np.ndarray) -> np.ndarray:
        return np.divide(difference, spread, out=np.where(difference == 0, 0.0, np.inf * np.sign(difference)), where=spread > 0)

    with np.errstate(invalid="ignore"):
        columns = {"smd_before": smd(before), "smd_after": smd(treated - control)}
    return pd.DataFrame({"term": d.names, "mean_1": treated, "mean_0": control, **columns})


def overlap(df: pd.DataFrame, treatment: str, scores: pd.DataFrame) -> pd.DataFrame:
    r"""Do the arms overlap, and how many patients are the weighted arms worth?

    Effective sample size :math:`(\sum w)^2 / \sum w^2`.

    Parameters
    ----------
    df, treatment : as in `iptw`.
    scores : its result.

    Returns
    -------
    DataFrame, one row per arm: `arm`, `n`, `effective_n`, `propensity_min`, `propensity_median`, `propensity_max`,
        `max_weight`, `outside` (share of patients whose propensity lies outside the range of the other arm).

    Raises
    ------
    IonrtError
        Scores that are not those of `df`, row by row; a treatment other than 0 and 1.
    """
    require(scores, "propensity", "weight")
    z = _arms(df, treatment)
    if not scores.index.equals(df.index):
        raise IonrtError("scores: expected one row per row of df, in the same order (the result of iptw)")
    e, w = scores.propensity.to_numpy(), scores.weight.to_numpy()
    out = []
    for arm in (0, 1):
        mine, other = z == arm, e[z != arm]
        out.append(
            {
                "arm": arm,
                "n": int(mine.sum()),
                "effective_n": float(w[mine].sum() ** 2 / np.sum(w[mine] ** 2)),
                "propensity_min": float(e[mine].min()),
                "propensity_median": float(np.median(e[mine])),
                "propensity_max": float(e[mine].max()),
                "max_weight": float(w[mine].max()),
                "outside": float(np.mean((e[mine] < other.min()) | (e[mine] > other.max()))),
            }
        )
    return pd.DataFrame(out)
