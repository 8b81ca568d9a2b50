"""Continual reassessment, with (TITE-CRM) or without (CRM) toxicities that arrive late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import expit, logit

from ionrt.quantities import IonrtError, one_of
from ionrt.trial import limits
from ionrt.trial.axis import Axis, level_values

Array = NDArray[np.float64]
MODELS = ("empiric", "logistic")
INTERCEPT = 3.0  # of the logistic model; only the product with the scaled level matters


@dataclass(frozen=True)
class Crm:
    """A continual-reassessment design; make one with `crm`."""

    skeleton: tuple[float, ...]
    target: float
    n_max: int
    cohort: int
    model: str
    scale: float
    cutoff: float
    axis: Axis | None
    window: float | None = None

    def p_toxicity(self, parameter: float | Array) -> Array:
        """Toxicity probability per level, shape (level,) or (parameter, level)."""
        return _curve(np.asarray(self.skeleton), np.asarray(parameter, float)[..., None], self.model)

    def fit(
        self, level: Sequence[int], toxicity: Sequence[int], *, follow_up: Sequence[float] | None = None, method: str = "bayes"
    ) -> pd.DataFrame:
        """Estimate the toxicity curve and the recommended level.

        Parameters
        ----------
        level, toxicity : level (1-based) and toxicity (0 or 1) of each patient (patient,).
        follow_up : time observed per patient, in the unit of the window; needed where the design has one.
        method : "bayes" (posterior mean of the parameter) or "mle".

        Returns
        -------
        a DataFrame indexed by level: value, n, toxicities, prior, p_toxicity, recommended; attrs estimate, level, and untried
            (nobody was treated there so far).

        Raises
        ------
        IonrtError
            Unknown levels, toxicities that are not 0 or 1, and for "mle" before both outcomes were seen.
        """
        index, y, weight = self._patients(level, toxicity, follow_up)
        estimate = self._posterior_mean(index, y, weight) if method == "bayes" else self._mle(index, y, weight, method)
        p = self.p_toxicity(estimate)
        chosen = int(np.argmin(np.abs(p - self.target))) + 1
        k = len(self.skeleton)
        table = pd.DataFrame(
            {
                "value": level_values(self.axis, k),
                "n": np.bincount(index, minlength=k),
                "toxicities": np.bincount(index, weights=y, minlength=k).astype(int),
                "prior": self.skeleton,
                "p_toxicity": p,
                "recommended": np.arange(1, k + 1) == chosen,
            },
            index=pd.RangeIndex(1, k + 1, name="level"),
        )
        table.attrs = {"estimate": estimate, "level": chosen, "untried": chosen > int(index.max(initial=-1)) + 1}
        return table

    def _patients(self, level, toxicity, follow_up) -> tuple[NDArray[np.int64], Array, Array]:
        """Levels from 0, outcomes, and weights of the patients without toxicity."""
        index, y = limits.counts(level, "level") - 1, limits.finite(toxicity, "toxicity")
        k = len(self.skeleton)
        if index.shape != y.shape or index.ndim != 1:
            raise IonrtError(f"crm: {index.size} levels for {y.size} toxicities; give one of each per patient")
        if np.any((index < 0) | (index >= k)):
            raise IonrtError(f"level: expected whole numbers from 1 to {k}, got {sorted(set((index + 1).tolist()))}")
        if np.any((y != 0) & (y != 1)):
            raise IonrtError("toxicity: expected 0 or 1 for every patient")
        if self.window is None:
            if follow_up is not None:
                raise IonrtError("crm: follow_up needs a window; give crm(..., window=)")
            return index, y, np.ones_like(y)
        if follow_up is None or np.shape(follow_up) != y.shape:
            raise IonrtError("crm: with a window, give follow_up, one time per patient")
        seen = limits.finite(follow_up, "follow_up")
        if np.any(seen < 0):
            raise IonrtError(f"follow_up: expected times from 0 up in the unit of the window, got {list(follow_up)}")
        weight = np.clip(seen / self.window, 0.0, 1.0)
        return index, y, np.where(y == 1, 1.0, weight)

    def _likelihood(self, parameter: Array, index, y: Array, weight: Array) -> Array:
        """log prod (w p)^y (1 - w p)^(1 - y) for each parameter value."""
        p = weight * self.p_toxicity(parameter)[..., index]
        return np.sum(np.where(y == 1, np.log(np.maximum(p, 1e-300)), np.log1p(-np.minimum(p, 1 - 1e-16))), axis=-1)

    def _posterior_mean(self, index, y: Array, weight: Array) -> float:
        grid = np.linspace(-10.0 * self.scale, 10.0 * self.scale, 4001)
        log_post = self._likelihood(grid, index, y, weight) - 0.5 * (grid / self.scale) ** 2
        post = np.exp(log_post - log_post.max())
        return float(grid @ post / post.sum())

    def _mle(self, index, y: Array, weight: Array, method: str) -> float:
        one_of(method, ("bayes", "mle"), what="method")
        if y.min(initial=1) == y.max(initial=0):
            raise IonrtError("mle: needs at least one patient with and one without toxicity; use method='bayes'")
        found = optimize.minimize_scalar(
            lambda b: -float(self._likelihood(np.asarray(b), index, y, weight)),
            bounds=(-10, 10),
            method="bounded",
            options={"xatol": 1e-10},
        )
        return float(found.x)


def _curve(skeleton: Array, parameter: Array, model: str) -> Array:
    """empiric: s^exp(b); logistic: expit(3 + exp(b) (logit s - 3))."""
    if model == "empiric":
        return skeleton ** np.exp(parameter)
    return expit(INTERCEPT + np.exp(parameter) * (logit(skeleton) - INTERCEPT))


def crm(
    skeleton: Sequence[float],
    target: float,
    *,
    window: float | None = None,
    axis: Axis | None = None,
    n_max: int = 30,
    cohort: int | None = None,
    model: str = "empiric",
    scale: float = 1.34**0.5,
    cutoff: float = 0.95,
) -> Crm:
    """Continual reassessment method with one parameter b ~ N(0, scale^2); with a `window` that of late toxicity (TITE-CRM).

    empiric: p_k = s_k^exp(b); logistic: logit p_k = 3 + exp(b) (logit s_k - 3). Recommended: the level with p_k at the
    posterior mean of b nearest to the target. Likelihood prod (w p)^y (1 - w p)^(1 - y), w = 1 after a toxicity and without a
    window, else follow-up / window.

    Parameters
    ----------
    skeleton : prior toxicity probability per level (level,), strictly increasing; see `indifference_skeleton`.
    target : acceptable toxicity probability.
    window : observation time for toxicity, in the unit of the follow-up, > 0; None: every toxicity is known at once.
    axis : values of the levels (dose or LETd).
    n_max, cohort : patients in all and per cohort (default 3, with a window 1), for simulation.
    model : "empiric" or "logistic".
    scale : prior standard deviation of b.
    cutoff : stop the trial where P(p_1 > target | data) exceeds it.

    Returns
    -------
    a Crm with `fit`, which needs `follow_up` where there is a window.

    Raises
    ------
    IonrtError
        A skeleton that does not increase, a window that is not positive.

    References
    ----------
    O'Quigley, Pepe & Fisher 1990, doi:10.2307/2531628; Cheung & Chappell 2000, doi:10.1111/j.0006-341X.2000.01177.x.
    """
    values = limits.skeleton(skeleton)
    level_values(axis, values.size)
    cohort = cohort if cohort is not None else 3 if window is None else 1
    if limits.count(cohort, "cohort") > limits.count(n_max, "n_max", most=limits.MOST):
        raise IonrtError(f"cohort: expected at most n_max = {n_max} patients, got {cohort}")
    return Crm(
        tuple(values.tolist()),
        limits.probability(target, "target"),
        n_max,
        cohort,
        one_of(model, MODELS, what="model"),
        limits.positive(scale, "scale"),
        limits.probability(cutoff, "cutoff"),
        axis,
        None if window is None else limits.positive(window, "window"),
    )


def tite_crm(
    skeleton: Sequence[float], target: float, *, window: float, axis: Axis | None = None, n_max: int = 30, cohort: int = 1,
    model: str = "empiric", scale: float = 1.34**0.5, cutoff: float = 0.95,
) -> Crm:  # fmt: skip
    """`crm` with a window, as protocols of 0.1.0 name it."""
    return crm(**locals())


def indifference_skeleton(half_width: float, target: float, prior_level: int, levels: int) -> Array:
    """Skeleton of the empiric model with equal indifference intervals target -+ half_width around every level.

    Neighbours satisfy ln s_(k+1) = ln s_k ln(target + half_width) / ln(target - half_width), with s = target at `prior_level`
    (1-based). Lee & Cheung 2009, doi:10.1177/1740774509105076.
    """
    limits.probability(target - limits.positive(half_width, "half_width"), "target - half_width")
    limits.probability(target + half_width, "target + half_width")
    if not 1 <= prior_level <= levels:
        raise IonrtError(f"prior_level: expected 1..{levels}, got {prior_level}")
    ratio = np.log(target + half_width) / np.log(target - half_width)  # < 1
    log_s = np.log(target) * ratio ** (np.arange(1, levels + 1) - prior_level)
    return np.exp(log_s)
