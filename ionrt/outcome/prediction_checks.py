"""Do predicted probabilities come true? Calibration by groups, Brier score and AUC from censored follow-up."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ionrt.outcome.columns import check_level, probabilities, survival_columns
from ionrt.outcome.subdistribution import censoring_curve
from ionrt.outcome.survival import kaplan_meier
from ionrt.quantities import IonrtError


def calibration(
    df: pd.DataFrame,
    predicted: str,
    event: str,
    time: str | None = None,
    *,
    at: float | None = None,
    groups: int = 5,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Predicted against observed risk by quantiles of the prediction, with Brier score and AUC at a time.

    :math:`BS = \sum_i w_i (y_i - p_i)^2 / n` and
    :math:`AUC = \sum_{i: y_i = 1} \sum_{j: y_j = 0} w_i w_j [p_i > p_j] / \sum \sum w_i w_j` (ties one half), with y the
    event up to `at` and w the inverse probability of still being followed (0 for a patient lost before); without `time` w = 1.

    Parameters
    ----------
    df : one row per patient.
    predicted : column of the predicted probability of an event up to `at`, 0..1.
    event : column with 0 or 1; with `time` also 2, 3, ... (death), which count as lost: the risk of a patient who lives, as in
        `fit_actuarial_ntcp`.
    time : column of the time to event or last look.
    at : horizon in its unit; both or neither.
    groups : number of quantile groups (fewer where predictions are tied).
    level : confidence level.

    Returns
    -------
    DataFrame, one row per group: `group`, `n`, `n_events` up to the horizon, `predicted` (mean), `observed` (1 -
        Kaplan-Meier, or the share), `lower`, `upper`. ``attrs``: at, n, brier, brier_null (everybody given the observed risk of
        all), auc.

    Raises
    ------
    IonrtError : predictions out of 0..1, one of `time` and `at` without the other, nobody followed up to the horizon.

    Validity
        on the patients that a model was fitted to, the figures are too good; validate on others, or across sites.

    References
    ----------
    Graf et al. 1999, doi:10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5; Blanche, Dartigues and
    Jacqmin-Gadda 2013, doi:10.1002/sim.5958.
    """
    p = probabilities(df, predicted)
    if (time is None) != (at is None):
        raise IonrtError("calibration: give both time (column) and at (horizon), or neither for an outcome without times")
    table, name = (df.assign(_once=1.0), "_once") if time is None else (df, time)
    cols = survival_columns(table, name, event, competing=time is not None)
    horizon = 1.0 if at is None else float(cols.moments([at])[0])
    mine, stop = cols.code == 1, cols.stop
    if time is not None and not (stop >= horizon).any():
        raise IonrtError(f"at = {horizon:g}: nobody is followed so long (last time {stop.max():g}); choose an earlier horizon")
    y = mine & (stop <= horizon)
    free = ~y if time is None else stop > horizon
    followed = censoring_curve(stop, mine.astype(int)) if time is not None else np.ones_like
    weight = np.where(y, 1 / followed(stop), np.where(free, 1 / followed(np.nextafter([horizon], np.inf)), 0.0))
    if not weight.any():
        raise IonrtError("calibration: no patient has the event or is followed up to the horizon; choose an earlier one")
    rows = pd.DataFrame({"p": p, "time": stop, "event": mine.astype(int), "y": y})
    rows["group"] = pd.qcut(rows.p.rank(method="average"), groups, duplicates="drop").cat.codes + 1
    out = pd.DataFrame([_group(g, part, horizon, time is None, check_level(level)) for g, part in rows.groupby("group")])
    overall = float(np.average(y, weights=weight))
    out.attrs = {
        "at": at,
        "n": len(df),
        "brier": float(np.sum(weight * (y - p) ** 2) / len(df)),
        "brier_null": float(np.sum(weight * (y - overall) ** 2) / len(df)),
        "auc": _auc(p[y], weight[y], p[free], weight[free]),
    }
    return out


def _group(group: int, rows: pd.DataFrame, at: float, plain: bool, level: float) -> dict[str, float]:
    """Observed risk of one group with its limits."""
    n_events = int(rows.y.sum())
    row: dict[str, float] = {"group": int(group), "n": len(rows), "n_events": n_events, "predicted": float(rows.p.mean())}
    if plain:
        from ionrt.outcome.toxicity import binomial_ci

        found = binomial_ci(n_events, len(rows), level=level).iloc[0]
        return row | {"observed": found["rate"], "lower": found["lower"], "upper": found["upper"]}
    curve = kaplan_meier(rows, "time", "event", at=[at], level=level).iloc[0]
    return row | {"observed": 1 - curve["survival"], "lower": 1 - curve["upper"], "upper": 1 - curve["lower"]}


def _auc(cases: np.ndarray, case_weight: np.ndarray, controls: np.ndarray, control_weight: np.ndarray) -> float:
    """Weighted share of case-control pairs in which the case was given the higher risk; NaN without pairs."""
    if not len(cases) or not len(controls):
        return float("nan")
    order = np.argsort(controls)
    total = np.append(0.0, np.cumsum(control_weight[order]))
    below, upto = (np.searchsorted(controls[order], cases, side=side) for side in ("left", "right"))
    return float(np.sum(case_weight * (total[below] + total[upto]) / 2) / (case_weight.sum() * total[-1]))
