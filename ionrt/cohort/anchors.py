"""Marginal curves through published outcomes, and event times that follow them while a covariate effect is planted.

With proportional hazards the marginal survival of a mixed population is g(H) = E[exp(-H exp(lp))], lp the linear predictor
and H the baseline cumulative hazard. Drawing E ~ Exp(1) and taking t = S^-1(g(E exp(-lp))) gives every patient the hazard
ratio exp(lp) and the population exactly the published curve S.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq

from ionrt.quantities import IonrtError

Array = NDArray[np.floating]
Law = tuple[Array, Array]  # values and weights
DAYS = 365.25
FILE = Path(__file__).parent / "tables" / "published_outcomes.csv"


def published(indication: str | None = None) -> pd.DataFrame:
    """The published outcomes that anchor the synthetic cohort.

    Parameters
    ----------
    indication : one of them, or None for all.

    Returns
    -------
    DataFrame: study, indication, endpoint, kind (KM, CIF, crude), horizon_years [a], percent [%], n, reference; one row per
    number.

    Raises
    ------
    IonrtError
        An indication without anchors.
    """
    table = pd.read_csv(FILE, comment="#")
    if indication is None:
        return table
    if indication not in set(table["indication"]):
        raise IonrtError(f"no published anchor for {indication!r}; there are {', '.join(table['indication'].unique())}")
    return table[table["indication"].eq(indication)].reset_index(drop=True)


@functools.cache
def curve(indication: str, endpoint: str) -> tuple[Array, Array]:
    """Knots (years, cumulative marginal hazard) through the anchors; straight between, the last slope goes on for ever."""
    rows = published(indication).query("endpoint == @endpoint").sort_values("horizon_years")
    if rows.empty:
        raise IonrtError(f"no published {endpoint} for {indication}")
    years = np.concatenate([[0.0], rows["horizon_years"].to_numpy(dtype=float)])
    share = rows["percent"].to_numpy(dtype=float) / 100.0
    kind = rows["kind"].iloc[0]
    free = {"KM": share, "crude": 1.0 - share}
    hazard = -np.log(free[kind]) if kind in free else _hazard_of_cif(indication, years, share)
    return years, np.concatenate([[0.0], hazard])


def _hazard_of_cif(indication: str, years: Array, cif: Array) -> Array:
    """Cumulative cause-specific hazard at the horizons from a cumulative incidence with death competing."""
    total = [0.0]
    for stop, target in zip(years[1:], cif, strict=True):
        knots = years[: len(total) + 1]

        def miss(new: float, knots: Array = knots, stop: float = stop, target: float = target) -> float:
            return incidence(indication, (knots, np.array([*total, new])), stop) - target

        total.append(brentq(miss, total[-1], total[-1] + 10.0, xtol=1e-12))
    return np.array(total[1:])


def cumulative_hazard(knots: tuple[Array, Array], years: Array) -> Array:
    """Marginal cumulative hazard at `years`; the last slope continues."""
    x, y = knots
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.where(years > x[-1], y[-1] + slope * (years - x[-1]), np.interp(years, x, y))


def incidence(indication: str, knots: tuple[Array, Array], horizon: float) -> float:
    """Cumulative incidence of the event with death competing: the integral of S_OS(u) S(u) dH(u), by the midpoint rule."""
    edge = np.linspace(0.0, horizon, 4001)
    h = cumulative_hazard(knots, edge)
    alive = np.exp(-cumulative_hazard(curve(indication, "OS"), edge))
    return float(np.sum((alive[1:] + alive[:-1]) / 2 * -np.diff(np.exp(-h))))


def draw(rng: np.random.Generator, knots: tuple[Array, Array], lp: Array, law: Law) -> Array:
    """Event times [years] with linear predictor `lp`; `law` is the population's (values, weights) of the predictor."""
    values, weights = law
    h = np.concatenate([[0.0], np.logspace(-9, 4, 2601)])
    marginal = -np.log(np.maximum(np.exp(-np.outer(h, np.exp(values))) @ weights, 1e-300))
    reached = np.interp(rng.exponential(size=lp.size) * np.exp(-lp), h, marginal)
    x, y = knots
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    beyond = x[-1] + (reached - y[-1]) / slope
    return np.where(reached > y[-1], beyond, np.interp(reached, y, x))


def normal_law(sd: float) -> Law:
    """Values and weights of a centred normal predictor (Gauss-Hermite)."""
    x, w = np.polynomial.hermite_e.hermegauss(41)
    return sd * x, w / w.sum()


def sum_law(*laws: Law) -> Law:
    """Law of the sum of independent predictors."""
    values, weights = np.zeros(1), np.ones(1)
    for v, w in laws:
        values = (values[:, None] + np.asarray(v, dtype=float)[None, :]).ravel()
        weights = (weights[:, None] * np.asarray(w, dtype=float)[None, :]).ravel()
    return values, weights
