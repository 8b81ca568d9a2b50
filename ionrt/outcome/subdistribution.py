"""Fine-Gray regression: the subdistribution hazard of one cause through the Cox engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from ionrt.outcome import hazards
from ionrt.outcome.columns import SurvivalColumns, require, stratum_codes, survival_columns, uncensored
from ionrt.outcome.regression import TIES, Design, Prepared, design, regress
from ionrt.outcome.survival import product_limit, risk_table
from ionrt.quantities import IonrtError, one_of


def fine_gray(
    df: pd.DataFrame,
    formula: str,
    time: str,
    event: str,
    *,
    cause: int = 1,
    cluster: str | None = None,
    ties: str = "breslow",
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Fine-Gray regression of the subdistribution hazard of one cause.

    Patients who failed from another cause stay at risk with weight :math:`\hat G(t-) / \hat G(T_i-)`, G the Kaplan-Meier
    estimate of the censoring time, in the Cox engine. The variance is the sandwich per patient of :math:`\eta_i + \psi_i`:
    the score residual and what the patient adds through the estimate of G (Fine and Gray 1999, eq. 7 and 8).

    Parameters
    ----------
    df, formula, time, cluster, level : as in `cox`.
    event : column with 0 censored, 1, 2, ... the causes.
    cause : the code of interest.
    ties : "breslow" (the convention of Fine and Gray's own program) or "efron".

    Returns
    -------
    DataFrame as `cox`, with `subhazard_ratio` in place of `hazard_ratio`; ``attrs["variance"]`` says what `se` is.

    Raises
    ------
    IonrtError
        A column that is missing, has empty cells or holds what is no time or event code; no event of the cause; covariates that
        the formula cannot tell apart.

    References
    ----------
    Fine and Gray 1999, doi:10.1080/01621459.1999.10474144; Geskus 2011, doi:10.1111/j.1541-0420.2010.01420.x.
    """
    one_of(ties, TIES, what="ties")
    cols = survival_columns(df, time, event, competing=True)
    if not (cols.code == cause).any():
        raise IonrtError(f"column {event!r}: no event of cause {cause}; it has codes {sorted(set(cols.code.tolist()))}")
    require(df, cluster)
    groups = np.arange(len(df)) if cluster is None else stratum_codes(df, cluster)[0]
    stay = np.flatnonzero((cols.code > 0) & (cols.code != cause))
    source = np.concatenate([np.arange(len(df)), stay])
    stop = np.concatenate([cols.stop, np.full(len(stay), np.inf)])
    start = np.concatenate([cols.start, cols.stop[stay]])
    happened = (cols.code[source] == cause) & np.isfinite(stop)
    carried = np.arange(len(source)) >= len(df)
    still_followed = censoring_curve(cols.stop, cols.code)
    weight = np.where(carried, 1 / np.maximum(still_followed(cols.stop[source]), 1e-300), 1.0)
    sets = hazards.risk_sets(start, stop, happened, np.zeros(len(source), dtype=np.int64), carried)
    sets = replace(sets, factor=still_followed(sets.time))
    d = design(df, formula)
    expanded = Design(np.ascontiguousarray(d.x[source]), d.names, d.terms)

    def estimated(x: np.ndarray, risk: np.ndarray, swept: hazards.Sweep) -> np.ndarray:
        return _of_censoring(cols, x, risk, sets, swept, cols.stop[source])

    ready = Prepared(expanded, weight, sets, stop, happened)
    out = regress(ready, groups[source], True, ties, level, n=len(df), estimated=estimated)
    out.attrs |= {"cause": cause, "variance": "sandwich with the censoring term"} | uncensored(cols)
    return out.rename(columns={"hazard_ratio": "subhazard_ratio"})


def _of_censoring(
    cols: SurvivalColumns, x: np.ndarray, risk: np.ndarray, sets: hazards.RiskSets, swept: hazards.Sweep, failed: np.ndarray
) -> np.ndarray:
    r"""What each patient adds to the score through the estimated G, on the expanded rows (0 on the carried ones).

    :math:`\psi_i = \int q(u)\,dM^c_i(u) / Y(u)`: :math:`q(u)` is how the score answers a relative change of G at u, the
    expected score after u of those who failed otherwise up to u; :math:`M^c_i` is the martingale of the censoring.
    """
    carried = np.flatnonzero(sets.carried == 1)
    carried = carried[np.argsort(failed[carried], kind="stable")]
    at, counts = np.unique(cols.stop[cols.code == 0], return_counts=True)
    exposed = len(cols.stop) - np.searchsorted(np.sort(cols.stop), at, side="left")

    def total(values: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])

    inside = np.searchsorted(failed[carried], at, side="right")
    later = np.searchsorted(sets.time, at, side="right")
    hazard, hazard_mean = total(sets.factor * swept.hazard), total(sets.factor[:, None] * swept.hazard_mean)
    q = total(risk[carried, None] * x[carried])[inside] * (hazard[-1] - hazard[later])[:, None]
    q -= total(risk[carried])[inside][:, None] * (hazard_mean[-1] - hazard_mean[later])
    jump = q / exposed[:, None]
    borne = total(jump * (counts / exposed)[:, None])[np.searchsorted(at, cols.stop, side="right")]
    out = np.zeros_like(x)
    out[: len(cols.stop)] = -borne
    censored = np.flatnonzero(cols.code == 0)
    out[censored] += jump[np.searchsorted(at, cols.stop[censored])]
    return out


def censoring_curve(stop: np.ndarray, code: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Kaplan-Meier estimate G(t-) of still being followed just before t, as a function of t."""
    rows, all_ = np.arange(len(stop)), np.zeros(len(stop), dtype=np.int64)
    turned = SurvivalColumns(np.full(len(stop), -np.inf), stop, (code == 0).astype(np.int64), np.ones(len(stop)), all_, ["all"])
    table = risk_table(turned, rows, events_only=True)
    curve = np.append(1.0, product_limit(table)[0])
    return lambda t: curve[np.searchsorted(table.time, t, side="left")]
