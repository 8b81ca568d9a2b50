"""Simulate a protocol: type I error, power, expected n, stopping, early end of accrual; what a dose-finding design finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ionrt.quantities import IonrtError
from ionrt.trial import limits
from ionrt.trial.axis import level_values
from ionrt.trial.continual_reassessment import Crm
from ionrt.trial.designs import DESIGNS, design_of
from ionrt.trial.kernels import boin_trials, crm_trials, in_batches
from ionrt.trial.phase1 import Boin, select_isotonic, three_plus_three
from ionrt.trial.protocol import Protocol


def simulate(protocol: Protocol, n_sim: int = 10_000, seed: int = 0, *, stop_accrual_at: int | None = None) -> pd.DataFrame:
    """Replicates of a protocol under its null hypothesis and its alternative.

    Parameters
    ----------
    protocol : from `load`.
    n_sim, seed : replicates and random seed; the same seed gives the same numbers on any number of cores.
    stop_accrual_at : number of patients at which accrual ends early (at the planned rate); the rules stay those of the
        protocol.

    Returns
    -------
    DataFrame. Dose finding: one row per scenario and level (see `dose_finding`). Otherwise one row per truth (null,
        alternative): rejected (share of the replicates), se, nominal (what the design's own calculation gives), mean_n,
        stopped_early (share), and for survival mean_events, mean_duration.

    Raises
    ------
    IonrtError
        Where accrual stops too early for any analysis.
    """
    if stop_accrual_at is not None and not 2 <= limits.count(stop_accrual_at, "stop_accrual_at") <= protocol.n:
        raise IonrtError(f"stop_accrual_at: expected 2..{protocol.n}, got {stop_accrual_at}")
    n = protocol.n if stop_accrual_at is None else int(stop_accrual_at)
    replicates = DESIGNS[protocol.design].simulate
    if replicates is None:
        return _dose_finding(protocol, n_sim, seed, n)
    rows = []
    for i, truth in enumerate(("null", "alternative")):
        row = replicates(protocol, truth, n, n_sim, (seed, i))
        share = row.pop("rejected")
        rows.append({"truth": truth, "rejected": share, "se": float(np.sqrt(share * (1 - share) / n_sim)), **row})
    table = pd.DataFrame(rows).set_index("truth")
    table.attrs = {"protocol": protocol.id, "n_sim": n_sim, "seed": seed, "n": n, "data": "SYNTHETIC"}
    return table


def _dose_finding(protocol: Protocol, n_sim: int, seed: int, n: int) -> pd.DataFrame:
    if not protocol.scenarios:
        raise IonrtError(f"{protocol.id}: a dose-finding protocol needs scenarios (true toxicity per level) to be simulated")
    design = design_of(protocol)
    if n < protocol.n:
        if n < design.cohort:
            raise IonrtError(f"stop_accrual_at: expected at least one cohort of {design.cohort}, got {n}")
        shorter = {"table": design.table.loc[:n]} if hasattr(design, "table") else {}
        design = replace(design, n_max=n, **shorter)
    parts = {name: dose_finding(design, p, n_sim=n_sim, seed=seed) for name, p in protocol.scenarios.items()}
    table = pd.concat(parts, names=["scenario"])
    table.attrs = {"protocol": protocol.id, "n_sim": n_sim, "seed": seed, "n": n, "data": "SYNTHETIC"}
    return table


def accrual_curve(protocol: Protocol, at: list[int], *, n_sim: int = 2_000, seed: int = 0) -> pd.DataFrame:
    """Power and type I error when accrual stops early.

    Parameters
    ----------
    protocol : from `load`.
    at : numbers of patients.
    n_sim, seed : replicates and random seed.

    Returns
    -------
    DataFrame indexed by n: type1, power and their Monte Carlo standard errors.

    Raises
    ------
    IonrtError
        As `simulate`.
    """
    tables = [simulate(protocol, n_sim, seed, stop_accrual_at=n)[["rejected", "se"]] for n in at]
    columns = ["type1", "type1_se", "power", "power_se"]
    return pd.DataFrame([t.to_numpy().ravel() for t in tables], index=pd.Index(at, name="n"), columns=columns)


def overview(protocols: Sequence[Protocol], *, n_sim: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Plan and simulation of protocols side by side; dose finding has neither type I error nor power and shows NaN.

    Parameters
    ----------
    protocols : from `load`.
    n_sim, seed : replicates and random seed.

    Returns
    -------
    DataFrame indexed by protocol: design, endpoint, n, alpha (one-sided), type1 (by calculation), type1_simulated,
    power (planned), power_attained, power_simulated, stopped_early (share of the trials under the alternative).

    Raises
    ------
    IonrtError
        As `simulate`.
    """
    rows = {}
    for protocol in protocols:
        row: dict[str, Any] = {"design": protocol.design, "endpoint": protocol.endpoint["name"], "n": protocol.n}
        if DESIGNS[protocol.design].simulate is not None:
            t = simulate(protocol, n_sim, seed)
            row |= {"alpha": protocol.one_sided_alpha, "type1": t.nominal["null"], "type1_simulated": t.rejected["null"]}
            row |= {"power": protocol.power, "power_attained": t.nominal["alternative"]}
            row |= {"power_simulated": t.rejected["alternative"], "stopped_early": t.stopped_early["alternative"]}
        rows[protocol.id] = row
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("protocol")
    table.attrs = {"n_sim": n_sim, "seed": seed, "data": "SYNTHETIC"}
    return table


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
