"""Simulate a protocol: type I error, power, expected n, stopping, and what remains when accrual stops early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.quantities import IonrtError
from ionrt.trial import limits
from ionrt.trial.kernels import survival_trials
from ionrt.trial.noninferiority import exact_rejection, farrington_manning
from ionrt.trial.operating import dose_finding, in_batches
from ionrt.trial.phase2 import _reject, _tables
from ionrt.trial.protocol import DOSE_FINDING, Protocol, bounds_of, design_of
from ionrt.trial.sequential import crossing
from ionrt.trial.survival_design import logrank_drift, time_of_events


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
    alternative):
    rejected (share of the replicates), se, nominal (what the design's own calculation gives), mean_n, stopped_early (share),
    and for
    survival mean_events, mean_duration.

    Raises IonrtError where accrual stops too early for any analysis.
    """
    if stop_accrual_at is not None and not 2 <= limits.count(stop_accrual_at, "stop_accrual_at") <= protocol.n:
        raise IonrtError(f"stop_accrual_at: expected 2..{protocol.n}, got {stop_accrual_at}")
    n = protocol.n if stop_accrual_at is None else int(stop_accrual_at)
    if protocol.design in DOSE_FINDING:
        return _dose_finding(protocol, n_sim, seed, n)
    kind = "two_arm_survival" if protocol.design == "two_arm_survival" else protocol.design
    rows = []
    for i, truth in enumerate(("null", "alternative")):
        row = _SIMULATORS[kind](protocol, truth, n, n_sim, (seed, i))
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


def _single_arm(protocol: Protocol, truth: str, n: int, n_sim: int, seed: Any) -> dict[str, float]:
    """One-stage binomial test; when accrual stops early, r becomes the smallest count that still holds alpha."""
    p0, p1 = (protocol.parameters[k] for k in (("s0", "s1") if protocol.design == "survival_rate" else ("p0", "p1")))
    design = design_of(protocol)
    if "r" not in design:
        raise IonrtError(f"{protocol.id}: only method 'exact' of survival_rate is simulated; the others are asymptotic sizes")
    r = int(design["r"]) if n == protocol.n else int(stats.binom.isf(protocol.one_sided_alpha, n, p0))
    p = p0 if truth == "null" else p1
    hits = np.concatenate(in_batches(lambda rng, m: rng.random((m, n)), n_sim, seed)) < p
    return {
        "rejected": float((hits.sum(axis=1) > r).mean()),
        "nominal": float(stats.binom.sf(r, n, p)),
        "mean_n": float(n),
        "stopped_early": 0.0,
    }


def _two_stage(protocol: Protocol, truth: str, n: int, n_sim: int, seed: Any) -> dict[str, float]:
    d = design_of(protocol).loc["optimal"].astype(float)
    r1, n1, r = int(d.r1), int(d.n1), int(d.r)
    if n <= n1:
        raise IonrtError(f"stop_accrual_at: expected more than the first stage's {n1} patients, got {n}")
    p0, p1 = protocol.parameters["p0"], protocol.parameters["p1"]
    if n < protocol.n:
        r = int(np.argmax(_reject(n1, n, *_tables(n, p0))[r1] <= protocol.one_sided_alpha))
    p = p0 if truth == "null" else p1
    hits = np.concatenate(in_batches(lambda rng, m: rng.random((m, n)), n_sim, seed)) < p
    first = hits[:, :n1].sum(axis=1)
    on = first > r1
    return {
        "rejected": float((on & (hits.sum(axis=1) > r)).mean()),
        "nominal": float(_reject(n1, n, *_tables(n, p))[r1, r]),
        "mean_n": float(np.where(on, n, n1).mean()),
        "stopped_early": float(1.0 - on.mean()),
    }


def _rates(protocol: Protocol, truth: str, n: int, n_sim: int, seed: Any) -> dict[str, float]:
    """Farrington-Manning test; nominal by exact enumeration, at the same allocation."""
    q = protocol.parameters
    pc, margin = q["p_control"], q["margin"]
    pe = pc - margin if truth == "null" else q["p_experimental"]
    n_c = round(n / (1.0 + q.get("allocation", 1.0)))
    n_e = n - n_c
    x = np.concatenate(
        in_batches(lambda rng, m: np.column_stack([rng.binomial(n_e, pe, m), rng.binomial(n_c, pc, m)]), n_sim, seed)
    )
    z = farrington_manning(x[:, 0], n_e, x[:, 1], n_c, margin=margin)
    alpha = protocol.one_sided_alpha
    return {
        "rejected": float((z >= stats.norm.isf(alpha)).mean()),
        "nominal": exact_rejection(pe, pc, n_experimental=n_e, n_control=n_c, margin=margin, alpha=alpha),
        "mean_n": float(n),
        "stopped_early": 0.0,
    }


def _survival(protocol: Protocol, truth: str, n: int, n_sim: int, seed: Any) -> dict[str, float]:
    """Event-driven log-rank test at the protocol's looks; nominal from the drift of the log-rank statistic."""
    size, bounds, q = design_of(protocol), bounds_of(protocol), protocol.parameters
    margin, k = q.get("margin", 1.0), q.get("allocation", 1.0)
    hr = margin if truth == "null" else q["hr"]
    rates = {"control_hazard": size["control_hazard"], "dropout": size["dropout"], "allocation": k}
    accrual = q["accrual"] * n / protocol.n
    maximum = min(size["events_planned"], int(np.floor(n * size["p_event"])))
    looks = np.maximum(np.ceil(bounds.information.to_numpy() * maximum).astype(int), 1)
    end = np.inf if n == protocol.n else q["accrual"] + q["follow_up"]
    upper = bounds.z_efficacy.to_numpy()
    lower = bounds.z_futility.to_numpy() if np.isfinite(bounds.z_futility).any() else np.full(upper.size, -np.inf)
    n_c = round(n / (1.0 + k))
    arguments = (n_c, n - n_c, accrual, hr, rates, looks, upper, lower, np.log(margin), end)
    parts = in_batches(_survival_batch, n_sim, seed, *arguments)
    stop, rejected, events, enrolled, when = (np.concatenate([p[i] for p in parts]) for i in range(5))
    return {
        "rejected": float(rejected.mean()),
        "nominal": _survival_nominal(protocol, truth, n, accrual, hr, rates, looks, upper, lower),
        "mean_n": float(enrolled.mean()),
        "stopped_early": float((stop < looks.size).mean()),
        "mean_events": float(events.mean()),
        "mean_duration": float(when.mean()),
    }


def _survival_nominal(protocol, truth, n, accrual, hr, rates, looks, upper, lower) -> float:
    """Rejection probability from the bounds and the expected statistic at the expected time of the last look."""
    t = looks / looks[-1]
    if truth == "null":
        return float(crossing(t, upper, lower, 0.0)[0].sum())
    if protocol.parameters.get("margin", 1.0) != 1.0:
        effect = np.log(protocol.parameters["margin"] / hr)
        drift = float(effect * np.sqrt(looks[-1] * rates["allocation"]) / (1.0 + rates["allocation"]))
    else:
        end = time_of_events(looks[-1], n, hr=hr, accrual=accrual, **rates)
        drift = logrank_drift(n, hr, accrual=accrual, time=min(end, 1e4), **rates)
    return float(crossing(t, upper, lower, drift)[0].sum())


def _survival_batch(rng, size, n_c, n_e, accrual, hr, rates, looks, upper, lower, log_margin, end):
    n = n_c + n_e
    arm = rng.permuted(np.tile(np.r_[np.zeros(n_c, np.int64), np.ones(n_e, np.int64)], (size, 1)), axis=1)
    lifetime = rng.exponential(1.0, (size, n)) / np.where(arm == 1, rates["control_hazard"] * hr, rates["control_hazard"])
    loss = rng.exponential(1.0, (size, n)) / rates["dropout"] if rates["dropout"] > 0 else np.full((size, n), np.inf)
    entry = np.sort(rng.random((size, n)) * accrual, axis=1)
    return survival_trials(entry, arm, lifetime, loss, looks, upper, lower, log_margin, end)


_SIMULATORS = {
    "ahern": _single_arm,
    "survival_rate": _single_arm,
    "simon": _two_stage,
    "noninferiority_rates": _rates,
    "two_arm_survival": _survival,
}


def accrual_curve(protocol: Protocol, at: list[int], *, n_sim: int = 2_000, seed: int = 0) -> pd.DataFrame:
    """Power and type I error when accrual stops at each number of patients in `at`; one row per n.

    Returns a DataFrame indexed by n: type1, power and their Monte Carlo standard errors.
    """
    rows = {n: simulate(protocol, n_sim, seed, stop_accrual_at=n) for n in at}
    return pd.DataFrame(
        {
            n: {
                "type1": t.rejected["null"],
                "type1_se": t.se["null"],
                "power": t.rejected["alternative"],
                "power_se": t.se["alternative"],
            }
            for n, t in rows.items()
        }
    ).T.rename_axis("n")


def overview(protocols: Sequence[Protocol], *, n_sim: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Plan and simulation of protocols side by side; dose finding has neither type I error nor power and shows NaN.

    Returns a DataFrame indexed by protocol: design, endpoint, n, alpha (one-sided), type1 (by calculation), type1_simulated,
    power (planned), power_attained, power_simulated, stopped_early (share of the trials under the alternative).
    """
    rows = {}
    for protocol in protocols:
        row: dict[str, Any] = {"design": protocol.design, "endpoint": protocol.endpoint["name"], "n": protocol.n}
        if protocol.design not in DOSE_FINDING:
            t = simulate(protocol, n_sim, seed)
            row |= {"alpha": protocol.one_sided_alpha, "type1": t.nominal["null"], "type1_simulated": t.rejected["null"]}
            row |= {"power": protocol.power, "power_attained": t.nominal["alternative"]}
            row |= {"power_simulated": t.rejected["alternative"], "stopped_early": t.stopped_early["alternative"]}
        rows[protocol.id] = row
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("protocol")
    table.attrs = {"n_sim": n_sim, "seed": seed, "data": "SYNTHETIC"}
    return table
