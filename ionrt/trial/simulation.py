"""Simulate a protocol: type I error, power, expected n, stopping, and what remains when accrual stops early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ionrt.quantities import IonrtError
from ionrt.trial import limits
from ionrt.trial.designs import DESIGNS, design_of
from ionrt.trial.operating import dose_finding
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
