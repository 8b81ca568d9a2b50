"""Multiple imputation by chained equations, and Rubin's rules for the results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.outcome.columns import check_level, number, require
from ionrt.quantities import IonrtError


def impute(
    df: pd.DataFrame, columns: Sequence[str], *, predictors: Sequence[str] = (), m: int = 20, burn_in: int = 10, seed: int = 0
) -> list[pd.DataFrame]:
    """Fill missing values `m` times by chained equations with predictive mean matching.

    Parameters
    ----------
    df : one row per patient.
    columns : numeric, two-level or ordered columns to impute. A category with more than two unordered levels raises.
    predictors : complete columns that help to predict them; include the event indicator and the cumulative hazard
        (or time), otherwise effects shrink towards zero.
    m : number of completed tables.
    burn_in : cycles before each one.
    seed : of the random numbers.

    Returns
    -------
    List of `m` data frames like `df` with `columns` filled; analyse each and join the results with `pool_imputations`.

    Raises
    ------
    IonrtError
        Columns that are not there or have gaps among the predictors, fewer than two imputations, nothing known to learn from,
        more than two unordered levels.

    References
    ----------
    van Buuren and Groothuis-Oudshoorn 2011, doi:10.18637/jss.v045.i03; White and Royston 2009, doi:10.1002/sim.3618.
    """
    from statsmodels.imputation.mice import MICEData

    require(df, list(predictors))
    absent = [c for c in columns if c not in df.columns]
    if absent:
        raise IonrtError(f"column {absent[0]!r} is not in the table; it has {', '.join(map(str, df.columns))}")
    if m < 2:
        raise IonrtError(
            f"m: expected at least 2 imputations, got {m}; the variance between them is what carries the uncertainty"
        )
    coded, levels = _coded(df, columns, predictors)
    chain = MICEData(coded, rng=np.random.default_rng(seed))
    tables = []
    for _ in range(m):
        chain.update_all(burn_in)
        filled = df.copy()
        for i, name in enumerate(columns):
            values = chain.data[f"v{i}"].to_numpy()
            filled[name] = pd.Categorical.from_codes(values.astype(int), dtype=levels[name]) if name in levels else values
        tables.append(filled)
    return tables


def _coded(
    df: pd.DataFrame, columns: Sequence[str], predictors: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, pd.CategoricalDtype]]:
    """Numbers under names that formulas accept; categories as codes (imputed) or indicators (predicting)."""
    out, levels = {}, {}
    for i, name in enumerate(columns):
        column = df[name]
        if column.notna().sum() < 2:
            raise IonrtError(f"column {name!r}: {column.notna().sum()} values known; nothing can be learned from them")
        if pd.api.types.is_complex_dtype(column) or column.map(lambda v: isinstance(v, (list, dict, set))).any():
            raise IonrtError(f"column {name!r}: expected numbers or labels, not lists or complex numbers")
        if not pd.api.types.is_numeric_dtype(column):
            category = column.astype("category").cat
            if len(category.categories) > 2 and not category.ordered:
                raise IonrtError(
                    f"column {name!r} has {len(category.categories)} unordered levels; impute an indicator of one of them"
                )
            levels[name] = column.astype("category").dtype
            column = category.codes.where(df[name].notna())
        out[f"v{i}"] = column.astype(float).to_numpy()
    known = (
        pd.get_dummies(df[list(predictors)], drop_first=True, dtype=float) if len(predictors) else pd.DataFrame(index=df.index)
    )
    for j, name in enumerate(known.columns):
        out[f"p{j}"] = known[name].to_numpy(dtype=float)
    return pd.DataFrame(out), levels


def pool_imputations(fits: Sequence[pd.DataFrame], *, complete_df: float = np.inf, level: float = 0.95) -> pd.DataFrame:
    r"""Rubin's rules with the degrees of freedom of Barnard and Rubin.

    :math:`\bar Q = \sum Q_l / m`, :math:`T = \bar U + (1 + 1/m) B`

    Parameters
    ----------
    fits : one table per imputation with columns `term`, `coef`, `se`, for instance from `cox`.
    complete_df : degrees of freedom of the complete data, n minus the number of terms (events minus terms for Cox).
    level : confidence level.

    Returns
    -------
    DataFrame, one row per term: `term`, `coef`, `se`, `within`, `between`, `total` variance, `r` (relative increase),
        `fmi` (fraction of missing information), `df`, `t`, `p`, `lower`, `upper`.

    Raises
    ------
    IonrtError
        Fewer than two fits, or fits with different terms.

    References
    ----------
    Rubin 1987, doi:10.1002/9780470316696; Barnard and Rubin 1999, doi:10.1093/biomet/86.4.948.
    """
    m = len(fits)
    if m < 2:
        raise IonrtError(f"fits: expected the results of at least 2 imputations, got {m}")
    for fit in fits:
        require(fit, "term", "coef", "se")
        if list(fit.term) != list(fits[0].term):
            raise IonrtError(f"fits: terms differ between imputations: {list(fits[0].term)} against {list(fit.term)}")
    q = np.stack([number(fit, "coef") for fit in fits])
    u = np.stack([number(fit, "se", minimum=0.0) ** 2 for fit in fits])
    mean, within, between = q.mean(axis=0), u.mean(axis=0), q.var(axis=0, ddof=1)
    total = within + (1 + 1 / m) * between
    r = (1 + 1 / m) * between / within
    df = _barnard_rubin((1 + 1 / m) * between / total, m, complete_df)
    t = mean / np.sqrt(total)
    half = stats.t.ppf(0.5 + check_level(level) / 2, df) * np.sqrt(total)
    return pd.DataFrame(
        {
            "term": list(fits[0].term),
            "coef": mean,
            "se": np.sqrt(total),
            "within": within,
            "between": between,
            "total": total,
            "r": r,
            "fmi": (r + 2 / (df + 3)) / (r + 1),
            "df": df,
            "t": t,
            "p": 2 * stats.t.sf(np.abs(t), df),
            "lower": mean - half,
            "upper": mean + half,
        }
    )


def _barnard_rubin(share: np.ndarray, m: int, complete_df: float) -> np.ndarray:
    """Degrees of freedom; `share` of the variance that is due to the missing values."""
    with np.errstate(divide="ignore"):
        old = (m - 1) / share**2
        if np.isinf(complete_df):
            return old
        observed = (complete_df + 1) / (complete_df + 3) * complete_df * (1 - share)
        return 1 / (1 / old + 1 / observed)
