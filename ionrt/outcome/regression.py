"""Cox regression and the test of proportional hazards."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import patsy
from scipy import stats

from ionrt.outcome import hazards
from ionrt.outcome.columns import (
    LARGEST,
    Names,
    SurvivalColumns,
    check_labels,
    check_level,
    numbers,
    require,
    rows,
    stratum_codes,
    survival_columns,
)
from ionrt.outcome.survival import product_limit, risk_table
from ionrt.quantities import IonrtError, one_of

TIES = ("efron", "breslow")


@dataclass(frozen=True)
class Design:
    """Covariates of a formula: matrix (row, term), name of each column, columns of each term of the formula."""

    x: np.ndarray
    names: list[str]
    terms: dict[str, slice]


def design(df: pd.DataFrame, formula: str, *, intercept: bool = False) -> Design:
    """The right-hand side of a formula as covariates; missing values raise, categories are coded against the first level."""
    text = formula.split("~", 1)[-1].strip()
    try:
        parsed = patsy.ModelDesc.from_formula(text)
    except patsy.PatsyError as error:
        raise IonrtError(f"formula {formula!r}: {str(error).splitlines()[0]}") from None
    for name in _columns_of(parsed, df):
        if getattr(df[name].dtype, "kind", "") in "mM":
            numbers(df[name], f"formula {formula!r}, column {name!r}")
        check_labels(df[name], name)
        if (empty := df[name].isna().to_numpy()).any():  # patsy would make a level of its own of them
            raise IonrtError(
                f"formula {formula!r}: {rows(df, empty)} missing; impute them (ionrt.outcome.impute) or exclude those openly"
            )
    try:
        matrix = patsy.dmatrix(parsed, df, NA_action=patsy.NAAction(NA_types=[]), return_type="matrix")
    except (patsy.PatsyError, TypeError, ValueError, OverflowError) as error:
        raise IonrtError(f"formula {formula!r}: {str(error).splitlines()[0]}") from None
    info = matrix.design_info
    x = np.asarray(matrix, dtype=float)
    large = (np.abs(x) > LARGEST).any(axis=1)
    if large.any():
        raise IonrtError(f"formula {formula!r}: {rows(df, large)} above {LARGEST:g}")
    empty = ~np.isfinite(x).all(axis=1)
    if empty.any():
        raise IonrtError(
            f"formula {formula!r}: {rows(df, empty)} missing; impute them (ionrt.outcome.impute) or exclude those openly"
        )
    keep = [i for i, name in enumerate(info.column_names) if intercept or name != "Intercept"]
    if not keep:
        raise IonrtError(f"formula {formula!r} leaves no term to estimate (a column with one level only?)")
    names = [info.column_names[i] for i in keep]
    terms: dict[str, slice] = {}
    for name, where in info.term_name_slices.items():
        if name != "Intercept":
            shift = len(info.column_names) - len(keep)
            terms[name] = slice(where.start - shift, where.stop - shift)
    return Design(x[:, keep], names, terms)


def _columns_of(parsed: patsy.ModelDesc, df: pd.DataFrame) -> list[str]:
    """The columns that a formula uses: its names and what stands in Q(), but no functions."""
    factors = {factor for term in parsed.rhs_termlist for factor in term.factors}
    try:
        nodes = [node for factor in factors for node in ast.walk(ast.parse(factor.code, mode="eval"))]
    except SyntaxError:
        return []  # patsy says what is wrong
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    quoted = [str(n.args[0].value) for n in nodes if isinstance(n, ast.Call) and n.args and isinstance(n.args[0], ast.Constant)]
    named = [node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called]
    return [name for name in dict.fromkeys([*named, *quoted]) if name in df.columns]


@dataclass(frozen=True)
class Prepared:
    """All that a fit needs, as arrays."""

    design: Design
    weight: np.ndarray
    sets: hazards.RiskSets
    stop: np.ndarray
    event: np.ndarray


def _prepare(
    df: pd.DataFrame, formula: str, time: str, event: str, start: str | None, weights: str | None, strata: Names
) -> Prepared:
    """Read the table; rows of weight zero count nowhere."""
    cols = survival_columns(df, time, event, start=start, weights=weights)
    levels, _ = stratum_codes(df, strata)
    happened = (cols.code > 0) & (cols.weight > 0)
    if not happened.any():
        raise IonrtError(f"column {event!r}: no event; a regression needs events")
    sets = hazards.risk_sets(cols.start, cols.stop, happened, levels)
    return Prepared(design(df, formula), cols.weight, sets, cols.stop, happened)


def cox(
    df: pd.DataFrame,
    formula: str,
    time: str,
    event: str,
    start: str | None = None,
    weights: str | None = None,
    strata: Names = None,
    cluster: str | None = None,
    ties: str = "efron",
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Cox proportional-hazards regression.

    :math:`\lambda_i(t) = \lambda_{0s}(t) \exp(x_i^T \beta)`, maximised by Newton's method on the partial likelihood.

    Parameters
    ----------
    df : one row per patient, or per interval (start, time] of a patient with `cluster`.
    formula : right-hand side in formula notation, for instance ``"let_d + np.log(gtv_volume) + C(centre)"``; no intercept.
    time, event : column names; event 0 censored, 1 event (cause-specific hazards: competing events count as censored).
    start : column of the late-entry or interval start; at risk on (start, time].
    weights : column of case weights. With weights or `cluster` the standard errors are the sandwich ones.
    strata : column name or names with a baseline hazard of their own.
    cluster : column of the patient (or centre) whose rows belong together.
    ties : "efron" or "breslow".
    level : confidence level.

    Returns
    -------
    DataFrame, one row per term: `term`, `coef` (log hazard ratio per unit), `se` (used below), `se_model`, `se_robust`,
        `z`, `p`, `hazard_ratio`, `lower`, `upper`. Its ``attrs``: n, n_events, loglik, loglik_null, score_chi2, lr_chi2,
        wald_chi2, df, concordance, iterations, ties, variance ("model" or "robust"), covariance (nested lists).

    Raises
    ------
    IonrtError : missing columns or values, no event, linearly dependent or constant terms, complete separation.

    References
    ----------
    Cox 1972, doi:10.1111/j.2517-6161.1972.tb00899.x; Efron 1977, doi:10.1080/01621459.1977.10480613;
    Lin and Wei 1989, doi:10.1080/01621459.1989.10478874.

    Examples
    --------
    Four patients (SYNTHETIC), two of them treated; the likelihood of their order of death is largest at (1 + sqrt(17)) / 2.

    >>> df = pd.DataFrame({"treated": [1, 0, 1, 0], "time": [1, 2, 3, 4], "dead": [1, 1, 1, 1]})  # years
    >>> fit = ionrt.outcome.cox(df, "treated", "time", "dead")
    >>> fit[["term", "hazard_ratio"]].round(2).values.tolist()
    [['treated', 2.56]]
    """
    one_of(ties, TIES, what="ties")
    ready = _prepare(df, formula, time, event, start, weights, strata)
    require(df, cluster)
    groups = np.arange(len(df)) if cluster is None else stratum_codes(df, cluster)[0]
    robust = cluster is not None or weights is not None
    out = regress(ready, groups, robust, ties, level, n=len(np.unique(groups)))
    out.attrs["concordance"] = hazards.concordance(ready.design.x @ out["coef"].to_numpy(), ready.weight, ready.sets)
    return out


def regress(
    ready: Prepared,
    cluster: np.ndarray,
    robust: bool,
    ties: str,
    level: float,
    *,
    n: int,
    estimated: hazards.Estimated | None = None,
) -> pd.DataFrame:
    """Fit, and lay the result out as a table of terms; `estimated`: what estimated weights add to the residuals."""
    d = ready.design
    fit = hazards.newton(d.x, ready.weight, ready.sets, d.names, ties)
    residuals = hazards.score_residuals(d.x, fit.beta, ready.weight, ready.sets, fit.swept, estimated)
    sandwich = hazards.cluster_covariance(residuals, fit.covariance, cluster)
    covariance = sandwich if robust else fit.covariance
    out = coefficient_table(d.names, fit.beta, covariance, level=level)
    out.insert(3, "se_model", np.sqrt(np.diag(fit.covariance)))
    out.insert(4, "se_robust", np.sqrt(np.diag(sandwich)))
    out["hazard_ratio"], out["lower"], out["upper"] = np.exp(out.coef), np.exp(out.lower), np.exp(out.upper)
    out.attrs = {
        "n": n,
        "n_events": int(ready.event.sum()),
        "loglik": fit.loglik,
        "loglik_null": fit.loglik_null,
        "score_chi2": fit.score_test,
        "lr_chi2": 2 * (fit.loglik - fit.loglik_null),
        "wald_chi2": _quadratic(fit.beta, covariance),
        "df": len(fit.beta),
        "iterations": fit.iterations,
        "ties": ties,
        "variance": "robust" if robust else "model",
        "covariance": covariance.tolist(),
    }
    return out[["term", "coef", "se", "se_model", "se_robust", "z", "p", "hazard_ratio", "lower", "upper"]]


def _quadratic(vector: np.ndarray, matrix: np.ndarray) -> float:
    """v' M^-1 v; NaN where M has no inverse (fewer clusters than terms, events at one time only)."""
    scale = np.sqrt(np.diag(matrix))
    if not (scale > 0).all() or np.linalg.cond(matrix / np.outer(scale, scale)) > 1e12:
        return float("nan")
    return float(vector @ np.linalg.solve(matrix, vector))


def coefficient_table(names: Sequence[str], beta: np.ndarray, covariance: np.ndarray, *, level: float = 0.95) -> pd.DataFrame:
    """Estimate, standard error, Wald test and limits, one row per term."""
    se = np.sqrt(np.diag(covariance))
    z = stats.norm.ppf(0.5 + check_level(level) / 2)
    ratio = beta / se
    columns = {
        "coef": beta,
        "se": se,
        "z": ratio,
        "p": 2 * stats.norm.sf(np.abs(ratio)),
        "lower": beta - z * se,
        "upper": beta + z * se,
    }
    return pd.DataFrame({"term": list(names), **columns})


def ph_test(
    df: pd.DataFrame,
    formula: str,
    time: str,
    event: str,
    start: str | None = None,
    weights: str | None = None,
    strata: Names = None,
    ties: str = "efron",
    *,
    transform: str = "km",
) -> pd.DataFrame:
    r"""Score test of proportional hazards: is :math:`\beta(t) = \beta + \theta g(t)` with :math:`\theta \ne 0`?

    Parameters
    ----------
    df, formula, time, event, start, weights, strata, ties : as in `cox`.
    transform : g(t): "km" (1 - Kaplan-Meier just before t), "rank", "identity" or "log".

    Returns
    -------
    DataFrame, one row per term of the formula and a last row ``GLOBAL``: `term`, `chi2`, `df`, `p`; NaN where
        too few event times leave nothing to test.

    Raises
    ------
    IonrtError
        What is no fit of `cox` with its attributes; an unknown transform of time.

    References
    ----------
    Grambsch and Therneau 1994, doi:10.1093/biomet/81.3.515 (here as the exact score test).
    """
    one_of(ties, TIES, what="ties")
    ready = _prepare(df, formula, time, event, start, weights, strata)
    d = ready.design
    fit = hazards.newton(d.x, ready.weight, ready.sets, d.names, ties)
    g = _clock(ready, start, df, transform)
    x = np.ascontiguousarray(d.x - d.x.mean(axis=0))
    plain, first, second = (hazards.sweep(x, fit.beta, ready.weight, ready.sets, ties, g**k) for k in (0, 1, 2))
    information = np.block([[plain.information, first.information], [first.information, second.information]])
    size = len(d.names)
    out = []
    for name, where in [*d.terms.items(), ("GLOBAL", slice(0, size))]:
        tested = np.arange(size)[where]
        keep = np.concatenate([np.arange(size), size + tested])
        score = np.concatenate([np.zeros(size), first.score[tested]])
        chi2 = _quadratic(score, information[np.ix_(keep, keep)])
        out.append({"term": name, "chi2": chi2, "df": len(tested), "p": stats.chi2.sf(chi2, len(tested))})
    return pd.DataFrame(out)


def _clock(ready: Prepared, start: str | None, df: pd.DataFrame, transform: str) -> np.ndarray:
    """g at each event time, centred over the events (which the test does not see, but the numerics do)."""
    one_of(transform, ("km", "rank", "identity", "log"), what="transform")
    t = ready.sets.time
    if transform == "km":
        begin = np.full(len(df), -np.inf) if start is None else df[start].to_numpy(dtype=float)
        cols = SurvivalColumns(
            begin, ready.stop, ready.event.astype(np.int64), ready.weight, np.zeros(len(df), dtype=int), ["all"]
        )
        table = risk_table(cols, np.arange(len(df)), events_only=True)
        before = np.append(1.0, product_limit(table)[0])[:-1]
        g = 1 - before[np.searchsorted(table.time, t)]
    elif transform == "rank":
        g = stats.rankdata(t)
    elif transform == "log":
        if (t <= 0).any():
            raise IonrtError("transform='log': an event at time 0 has no logarithm; use 'km'")
        g = np.log(t)
    else:
        g = t.astype(float)
    return g - np.average(g, weights=np.diff(ready.sets.fail[0]))
