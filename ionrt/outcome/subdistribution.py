"""Fine-Gray regression: the subdistribution hazard of one cause through the Cox engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from ionrt.outcome import hazards
from ionrt.outcome.columns import require, stratum_codes, survival_columns
from ionrt.outcome.regression import TIES, Design, Prepared, design, regress
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
    estimate of the censoring time, in the Cox engine with the sandwich variance per patient.

    Parameters
    ----------
    df, formula, time, cluster, level : as in `cox`.
    event : column with 0 censored, 1, 2, ... the causes.
    cause : the code of interest.
    ties : "breslow" (the convention of Fine and Gray's own program) or "efron".

    Returns
    -------
    DataFrame as `cox`, with `subhazard_ratio` in place of `hazard_ratio`. The variance takes G as known, which differs by
    up to about 0.1 % from the full one.

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
    out = regress(Prepared(expanded, weight, sets, stop, happened), groups[source], True, ties, level, n=len(df))
    del out.attrs["concordance"]  # not defined for patients who stay at risk after failing
    out.attrs["cause"] = cause
    return out.rename(columns={"hazard_ratio": "subhazard_ratio"})


def censoring_curve(stop: np.ndarray, code: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Kaplan-Meier estimate G(t-) of still being followed just before t, as a function of t."""
    censored, counts = np.unique(stop[code == 0], return_counts=True)
    exposed = len(stop) - np.searchsorted(np.sort(stop), censored, side="left")
    curve = np.append(1.0, np.cumprod(1 - counts / exposed))
    return lambda t: curve[np.searchsorted(censored, t, side="left")]
