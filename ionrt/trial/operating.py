"""Operating characteristics of dose-finding designs, simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ionrt.quantities import IonrtError
from ionrt.trial import limits
from ionrt.trial.axis import level_values
from ionrt.trial.batches import in_batches
from ionrt.trial.continual_reassessment import Crm
from ionrt.trial.kernels import boin_trials, crm_trials
from ionrt.trial.phase1 import Boin, select_isotonic, three_plus_three


def dose_finding(design: Boin | Crm, p_true: Sequence[float], *, n_sim: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Operating characteristics of a phase I design (`boin`, `crm`) under a true toxicity curve; `three_plus_three` is exact.

    One row per level plus level 0 (stopped, none tolerated): value, p_toxicity, selected (share of the replicates), se (of that
    share), n, toxicities (means per trial). Escalation never skips a level; CRM toxicities of the truth come uniformly over the
    window, patients of the TITE-CRM a quarter of it apart on average.
    """
    p = limits.toxicity(p_true)
    k = design.n_levels if isinstance(design, Boin) else len(design.skeleton)
    if p.size != k:
        raise IonrtError(f"p_true: expected one probability for each of the {k} levels, got {p.size}")
    if isinstance(design, Boin):
        parts = in_batches(_boin_batch, n_sim, seed, design, p)
    else:
        parts = in_batches(_crm_batch, n_sim, seed, design, p)
    selected = np.concatenate([part[0] for part in parts])
    share = np.bincount(selected, minlength=k + 1) / n_sim
    n, x = (np.concatenate([part[i] for part in parts]).mean(axis=0) for i in (1, 2))
    return pd.DataFrame(
        {
            "value": np.append(np.nan, level_values(design.axis, k)),
            "p_toxicity": np.append(np.nan, p),
            "selected": share,
            "se": np.sqrt(share * (1 - share) / n_sim),
            "n": np.append(0.0, n),
            "toxicities": np.append(0.0, x),
        },
        index=pd.RangeIndex(k + 1, name="level"),
    )


def _boin_batch(rng: np.random.Generator, size: int, design: Boin, p: np.ndarray):
    bounds = design.table.reindex(range(design.n_max + 1))
    table = [bounds[c].fillna(-1).to_numpy(np.int64) for c in ("escalate", "deescalate", "eliminate")]
    closed, n, x = boin_trials(rng.random((size, design.n_max)), p, design.cohort, *table)
    patterns, inverse = np.unique(np.column_stack([closed, n, x]), axis=0, return_inverse=True)
    k = p.size
    chosen = np.array(
        [select_isotonic(row[1 + k :], row[1 : 1 + k], np.arange(k) >= row[0], design.target) for row in patterns]
    )
    return chosen[np.ravel(inverse)], n, x


def _crm_batch(rng: np.random.Generator, size: int, design: Crm, p: np.ndarray):
    grid = np.linspace(-5.0 * design.scale, 5.0 * design.scale, 121)
    prior = np.exp(-0.5 * (grid / design.scale) ** 2)
    shape = (size, design.n_max)
    window = design.window or 0.0
    entry = np.cumsum(rng.exponential(window / 4.0 or 1.0, shape), axis=1)
    rules = (design.p_toxicity(grid), design.target, design.cutoff, window)
    return crm_trials(rng.random(shape), rng.random(shape), entry, p, design.cohort, grid, prior, *rules)


def compare_dose_finding(
    designs: Mapping[str, Boin | Crm | None], scenarios: Mapping[str, Sequence[float]], *, n_sim: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Operating characteristics of several designs under several true toxicity curves.

    Parameters
    ----------
    designs : name -> design; None stands for the 3+3 rule, which is exact (se 0).
    scenarios : name -> true toxicity probability per level.
    n_sim, seed : as in `dose_finding`.

    Returns
    -------
    the rows of `dose_finding`, indexed by scenario, design and level.

    Raises
    ------
    IonrtError
        As `three_plus_three`: a curve that decreases or does not have the design's number of levels.
    """
    axes = [design.axis for design in designs.values() if design is not None and design.axis is not None]
    parts = {}
    for scenario, p in scenarios.items():
        for name, design in designs.items():
            if design is None:
                parts[scenario, name] = three_plus_three(p, axis=axes[0] if axes else None).assign(se=0.0)
            else:
                parts[scenario, name] = dose_finding(design, p, n_sim=n_sim, seed=seed)
    return pd.concat(parts, names=["scenario", "design"])


def summarise_dose_finding(table: pd.DataFrame, *, target: float) -> pd.DataFrame:
    """Rows of `compare_dose_finding` in four figures per scenario and design.

    The right level is the highest whose true toxicity does not exceed the target (none where even the lowest does).

    Parameters
    ----------
    table : of `compare_dose_finding`.
    target : acceptable toxicity probability.

    Returns
    -------
    a DataFrame: right (level value, NaN for none), recommended (share of the trials that recommend it), n (mean patients),
        above_target (share of the patients treated above the target), toxicities (mean).

    Raises
    ------
    IonrtError
        A target out of (0, 1).
    """
    rows = {}
    for key, part in table.groupby(["scenario", "design"], sort=False):
        levels = part.droplevel(["scenario", "design"])
        right = int((levels["p_toxicity"] <= limits.probability(target, "target") + 1e-12).sum())
        over = levels["n"][levels["p_toxicity"] > target + 1e-12].sum()
        rows[key] = {
            "right": levels["value"][right],
            "recommended": levels["selected"][right],
            "n": levels["n"].sum(),
            "above_target": over / levels["n"].sum(),
            "toxicities": levels["toxicities"].sum(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["scenario", "design"])
