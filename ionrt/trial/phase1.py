"""Phase I designs by counting: the 3+3 rule exactly, and the Bayesian optimal interval design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ionrt.quantities import IonrtError
from ionrt.trial import limits
from ionrt.trial.axis import Axis, level_values


def three_plus_three(p: Sequence[float], *, axis: Axis | None = None, confirm: bool = True) -> pd.DataFrame:
    """Operating characteristics of the 3+3 rule, exact.

    Three patients; 0 toxicities: next level; 1: three more, then next level if still 1; otherwise stop. After a stop the
    level below is recommended; with `confirm` it must show at most 1 toxicity in 6, else one goes further down. Each level's
    outcome is independent of the others', so the path probabilities multiply.

    Parameters
    ----------
    p : true probability of dose-limiting toxicity per level (level,), not decreasing.
    axis : values of the levels.
    confirm : treat six patients at the recommended level.

    Returns
    -------
    DataFrame, one row per level plus level 0 ("none tolerated"): value, p_toxicity, selected (probability), n (expected
        patients), toxicities (expected).

    Raises
    ------
    IonrtError
        Probabilities out of [0, 1] or decreasing ones.

    References
    ----------
    Storer 1989, doi:10.2307/2531693.

    Examples
    --------
    One level with 25 % toxicity is tolerated when six patients show at most one: 0.75^6 + 6 * 0.25 * 0.75^5 = 0.534.

    >>> table = ionrt.trial.three_plus_three([0.25])
    >>> table["selected"].round(3).tolist()  # none, level 1
    [0.466, 0.534]
    """
    truth = limits.toxicity(p, "p")
    values = level_values(axis, truth.size)
    none, one = stats.binom.pmf(0, 3, truth), stats.binom.pmf(1, 3, truth)
    clean6 = one * none  # one toxicity in the first three, none in the next
    passed = none + clean6
    selected, extra = np.zeros(truth.size + 1), np.zeros(truth.size)
    reach = np.concatenate([[1.0], np.cumprod(passed)])
    n = reach[:-1] * (3.0 + 3.0 * one)
    six = clean6 / np.where(passed > 0, passed, 1.0)  # share of passes that already have six patients
    held = none + one  # at most one toxicity among three more, after none in three
    for stop in range(truth.size + 1):  # the level at which escalation ends; truth.size: the last one was passed
        arrive = reach[stop] * (1.0 - passed[stop]) if stop < truth.size else reach[stop]
        for level in range(stop - 1, -1, -1):
            if not confirm:
                selected[level + 1] += arrive
                arrive = 0.0
                break
            extra[level] += 3.0 * arrive * (1.0 - six[level])
            accept = six[level] + (1.0 - six[level]) * held[level]
            selected[level + 1] += arrive * accept
            arrive *= 1.0 - accept
        selected[0] += arrive
    table = pd.DataFrame(
        {
            "value": [np.nan, *values],
            "p_toxicity": np.append(np.nan, truth),
            "selected": selected,
            "n": np.append(0.0, n + extra),
        },
        index=pd.RangeIndex(truth.size + 1, name="level"),
    )
    table["toxicities"] = (table.n * table.p_toxicity).fillna(0.0)
    return table


@dataclass(frozen=True)
class Boin:
    """A Bayesian optimal interval design; make one with `boin`."""

    target: float
    n_levels: int
    n_max: int
    cohort: int
    lambda_e: float
    lambda_d: float
    cutoff: float
    axis: Axis | None
    table: pd.DataFrame = field(repr=False, compare=False)

    def next_level(self, level: int, toxicities: Sequence[int], treated: Sequence[int]) -> int:
        """Level of the next cohort (1-based); 0 where even the lowest is too toxic.

        `toxicities`, `treated`: counts per level (level,), `level`: where the last cohort was treated.
        """
        x, n = _counts(toxicities, treated, self.n_levels)
        at = limits.count(level, "level") - 1
        if at >= self.n_levels or n[at] == 0:
            raise IonrtError(f"level: expected a level with patients among 1..{self.n_levels}, got {level}")
        closed = _too_toxic(x, n, self.target, self.cutoff)
        if closed[at]:
            return at
        if x[at] <= np.floor(self.lambda_e * n[at] + 1e-12):
            return at + 1 + int(at + 1 < self.n_levels and not closed[at + 1])
        return max(at, 1) if x[at] >= np.ceil(self.lambda_d * n[at] - 1e-12) else at + 1

    def select(self, toxicities: Sequence[int], treated: Sequence[int]) -> int:
        """Maximum tolerated level (1-based) by isotonic regression, among those with patients and not closed; 0 for none."""
        x, n = _counts(toxicities, treated, self.n_levels)
        closed = _too_toxic(x, n, self.target, self.cutoff)
        return int(select_isotonic(x, n, closed, self.target))


def boin(
    target: float,
    *,
    levels: int = 3,
    n_max: int = 30,
    cohort: int = 3,
    axis: Axis | None = None,
    p_saf: float | None = None,
    p_tox: float | None = None,
    cutoff: float = 0.95,
) -> Boin:
    """Bayesian optimal interval design with its whole decision table.

    lambda_e = ln((1 - p_saf) / (1 - target)) / ln(target (1 - p_saf) / (p_saf (1 - target))), lambda_d likewise with p_tox;
    escalate while the observed rate is <= lambda_e, de-escalate at >= lambda_d, and close a level where P(p > target | data)
    > cutoff under a uniform prior (from 3 patients on).

    Parameters
    ----------
    target : acceptable toxicity probability.
    levels : number of levels where no `axis` is given.
    n_max : maximum number of patients.
    cohort : patients per cohort.
    axis : values of the levels (dose or LETd).
    p_saf, p_tox : highest rate that is too low and lowest that is too high; 0.6 and 1.4 times the target by default.
    cutoff : probability above which a level is closed.

    Returns
    -------
    a Boin with `table` indexed by patients treated at a level: escalate (largest count), deescalate, eliminate (smallest
        count).

    Raises
    ------
    IonrtError
        Rates that are not in order p_saf < target < p_tox.

    References
    ----------
    Liu & Yuan 2015, doi:10.1111/rssc.12089.

    Examples
    --------
    Target 30 %: go up at or below 23.6 % of toxicities, down at or above 35.9 %, that is with 0 and with 2 of 3 patients.

    >>> design = ionrt.trial.boin(0.3)
    >>> design.table.loc[3, ["escalate", "deescalate"]].astype(int).tolist()
    [0, 2]
    """
    target = limits.probability(target, "target")
    p_saf = limits.probability(0.6 * target if p_saf is None else p_saf, "p_saf")
    p_tox = limits.probability(1.4 * target if p_tox is None else p_tox, "p_tox")
    if not p_saf < target < p_tox:
        raise IonrtError(f"boin: expected p_saf < target < p_tox, got {p_saf:g}, {target:g}, {p_tox:g}")
    cutoff, n_max = limits.probability(cutoff, "cutoff"), limits.count(n_max, "n_max", most=limits.MOST)
    if limits.count(cohort, "cohort") > n_max:
        raise IonrtError(f"cohort: expected at most n_max = {n_max} patients, got {cohort}")
    lambda_e = np.log((1 - p_saf) / (1 - target)) / np.log(target * (1 - p_saf) / (p_saf * (1 - target)))
    lambda_d = np.log((1 - target) / (1 - p_tox)) / np.log(p_tox * (1 - target) / (target * (1 - p_tox)))
    n_levels = limits.count(len(axis.levels) if axis else levels, "levels", least=2, most=limits.MOST)
    n = np.arange(1, n_max + 1)
    x = np.arange(n_max + 1)
    closes = (stats.beta.sf(target, x[None, :] + 1, n[:, None] - np.minimum(x, n[:, None]) + 1) > cutoff) & (x <= n[:, None])
    table = pd.DataFrame(
        {
            "escalate": np.floor(lambda_e * n + 1e-12).astype(int),
            "deescalate": np.ceil(lambda_d * n - 1e-12).astype(int),
            "eliminate": pd.array(np.where(closes.any(axis=1) & (n >= 3), closes.argmax(axis=1), -1), dtype="Int64"),
        },
        index=pd.Index(n, name="n"),
    )
    table["eliminate"] = table["eliminate"].mask(table["eliminate"] < 0)
    return Boin(target, n_levels, n_max, cohort, float(lambda_e), float(lambda_d), cutoff, axis, table)


def _counts(toxicities: Sequence[int], treated: Sequence[int], n_levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts per level, checked against each other."""
    x, n = limits.counts(toxicities, "toxicities"), limits.counts(treated, "treated")
    if x.shape != (n_levels,) or n.shape != (n_levels,):
        raise IonrtError(f"expected {n_levels} counts of toxicities and of patients, got {x.shape} and {n.shape}")
    if np.any(x > n):
        raise IonrtError(f"toxicities {x.tolist()} do not fit the patients treated {n.tolist()}")
    return x, n


def _too_toxic(x: np.ndarray, n: np.ndarray, target: float, cutoff: float) -> np.ndarray:
    """Levels closed for toxicity: the first one that is, and all above."""
    closed = (n >= 3) & (stats.beta.sf(target, x + 1, n - x + 1) > cutoff)
    return np.maximum.accumulate(closed)


def select_isotonic(x: np.ndarray, n: np.ndarray, closed: np.ndarray, target: float) -> int:
    """Level (1-based) with patients, not closed, whose monotone toxicity estimate is nearest to the target; 0 for none."""
    tried = np.flatnonzero((n > 0) & ~closed)
    if closed[0] or not tried.size:
        return 0
    x, n = x[tried], n[tried]
    estimate = (x + 0.05) / (n + 0.1)
    weight = (n + 0.1) ** 2 * (n + 1.1) / ((x + 0.05) * (n - x + 0.05))
    fitted = optimize.isotonic_regression(estimate, weights=weight).x + 1e-10 * np.arange(1, tried.size + 1)
    return int(tried[np.argmin(np.abs(fitted - target))]) + 1
