"""The designs that a protocol can name, as data.

A new design is one more `Design` here, with the function that computes it: reading, simulation and analysis ask nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.outcome.columns import event_codes
from ionrt.outcome.comparison import logrank
from ionrt.outcome.regression import cox
from ionrt.outcome.toxicity import binomial_ci
from ionrt.quantities import IonrtError
from ionrt.trial import limits
from ionrt.trial.continual_reassessment import crm, tite_crm
from ionrt.trial.kernels import in_batches, survival_trials
from ionrt.trial.phase1 import boin
from ionrt.trial.phase2 import ahern, reject_tables, rejection, simon, survival_rate
from ionrt.trial.protocol import Protocol
from ionrt.trial.rates import difference_limits, exact_rejection, farrington_manning, noninferiority_rates, superiority_rates
from ionrt.trial.sequential import crossing, final_bound, interim_bounds, spending_bounds
from ionrt.trial.survival_design import logrank_drift, survival_sample_size, time_of_events

Row = dict[str, Any]


@dataclass(frozen=True)
class Design:
    """What the room asks of a design.

    Parameters
    ----------
    function : the calculation; its keyword arguments are the parameters of a protocol.
    given : protocol -> the arguments that stand elsewhere in a protocol (error rates, axis).
    size : result of the calculation -> number of patients.
    simulate : (protocol, truth, n, n_sim, seed) -> rejected, nominal, mean_n, stopped_early and what else it counts, under
        "null" or "alternative" with n patients; None for dose finding, which is simulated per scenario.
    analyse : (protocol, data, strata, one-sided alpha) -> estimate, lower, upper, statistic, p, reject; None without a
        primary test.
    event_driven : whether its information is a number of events, so that it has interim looks.
    """

    function: Callable[..., Any]
    given: Callable[[Protocol], dict[str, Any]]
    size: Callable[[Any], int]
    simulate: Callable[[Protocol, str, int, int, Sequence[int]], Row] | None = None
    analyse: Callable[[Protocol, pd.DataFrame, list[str], float], Row] | None = None
    event_driven: bool = False


def design_of(protocol: Protocol) -> Any:
    """The design computed from the protocol's parameters.

    Parameters
    ----------
    protocol : from `load`.

    Returns
    -------
    A phase I design, a table, or a Series of sizes.

    Examples
    --------
    Alive after 3 years, 40 % against 65 %: more than 18 of 32 are by chance P(Bin(32, 0.4) > 18) = 0.021, below 0.025.

    >>> design = ionrt.trial.design_of(ionrt.trial.load("recurrent_rectal"))
    >>> int(design["n"]), int(design["r"]), round(float(design["type1"]), 3), round(float(design["power"]), 3)
    (32, 18, 0.021, 0.804)
    """
    design = DESIGNS[protocol.design]
    return design.function(**protocol.parameters, **design.given(protocol))


def sample_size(protocol: Protocol) -> int:
    """Number of patients that follows from the parameters."""
    return int(DESIGNS[protocol.design].size(design_of(protocol)))


def bounds_of(protocol: Protocol) -> pd.DataFrame:
    """Group-sequential boundaries of the protocol; one look at full information where it plans none."""
    looks = {"information": 1, **protocol.looks}
    return spending_bounds(looks.pop("information"), alpha=protocol.one_sided_alpha, power=protocol.power, **looks)


def _rules(protocol: Protocol) -> dict[str, Any]:
    looks = dict(protocol.looks)
    return {"planned": looks.pop("information", 1), "alpha": protocol.one_sided_alpha, "power": protocol.power, **looks}


def look_bounds(protocol: Protocol, information: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Efficacy and futility bounds in force at looks before the last, at these shares of the planned events."""
    return interim_bounds(information, **_rules(protocol))


def last_bound(protocol: Protocol, previous: Sequence[float], now: float) -> float:
    """Critical value of the final look at information `now`, after looks at `previous` (shares of the planned events)."""
    return final_bound([*previous, now], **_rules(protocol))


def check_event_driven(protocol: Protocol, who: str) -> None:
    """Refuse designs whose information is not a number of events."""
    if not DESIGNS[protocol.design].event_driven:
        names = [name for name, design in DESIGNS.items() if design.event_driven]
        raise IonrtError(f"{who}: expected a protocol of {' or '.join(names)}, got {protocol.design!r}")


def events_of(data: pd.DataFrame) -> int:
    """Events of a table of patients, each 0 or 1."""
    return int(event_codes(data, "event", competing=False).sum())


def successes(data: pd.DataFrame) -> np.ndarray:
    """Success of each patient, 0 or 1; a missing one is no failure, but an error."""
    return event_codes(data, "success", competing=False)


def _closing(protocol: Protocol) -> dict[str, Any]:
    return {"axis": protocol.axis, "cutoff": 1.0 - limits.probability(protocol.alpha, "alpha")}


def _rates_of_error(protocol: Protocol) -> dict[str, Any]:
    alpha, power = limits.error_rates(protocol.one_sided_alpha, protocol.power if protocol.power is not None else 0.0)
    return {"alpha": alpha, "power": power}


def _and_its_complement(protocol: Protocol) -> dict[str, Any]:
    rates = _rates_of_error(protocol)
    return {"alpha": rates["alpha"], "beta": 1.0 - rates["power"]}


def _and_looks(protocol: Protocol) -> dict[str, Any]:
    return {"inflation": bounds_of(protocol).attrs["inflation"], "sided": 1, **_rates_of_error(protocol)}


def _share(p: float, n_sim: int, n: int, seed: Sequence[int]) -> np.ndarray:
    """Responses of `n` patients in each replicate (replicate, patient)."""
    return np.concatenate(in_batches(lambda rng, m: rng.random((m, n)), n_sim, seed)) < p


def _single_arm_trials(protocol: Protocol, truth: str, n: int, n_sim: int, seed: Sequence[int]) -> Row:
    """One-stage binomial test; when accrual stops early, r becomes the smallest count that still holds alpha."""
    p0, p1 = _null_and_alternative(protocol)
    design = design_of(protocol)
    if "r" not in design:
        raise IonrtError(f"{protocol.id}: only method 'exact' of survival_rate is simulated; the others are asymptotic sizes")
    r = int(design["r"]) if n == protocol.n else int(stats.binom.isf(protocol.one_sided_alpha, n, p0))
    p = p0 if truth == "null" else p1
    return {
        "rejected": float((_share(p, n_sim, n, seed).sum(axis=1) > r).mean()),
        "nominal": float(stats.binom.sf(r, n, p)),
        "mean_n": float(n),
        "stopped_early": 0.0,
    }


def _null_and_alternative(protocol: Protocol) -> tuple[float, float]:
    """Rates of a single arm, whatever they are called."""
    q = protocol.parameters
    return (q["s0"], q["s1"]) if "s0" in q else (q["p0"], q["p1"])


def _two_stage_trials(protocol: Protocol, truth: str, n: int, n_sim: int, seed: Sequence[int]) -> Row:
    d = design_of(protocol).loc["optimal"].astype(float)
    r1, n1, r = int(d.r1), int(d.n1), int(d.r)
    if n <= n1:
        raise IonrtError(f"stop_accrual_at: expected more than the first stage's {n1} patients, got {n}")
    p0, p1 = _null_and_alternative(protocol)
    if n < protocol.n:
        r = int(np.argmax(rejection(n1, n, *reject_tables(n, p0))[r1] <= protocol.one_sided_alpha))
    p = p0 if truth == "null" else p1
    hits = _share(p, n_sim, n, seed)
    on = hits[:, :n1].sum(axis=1) > r1
    return {
        "rejected": float((on & (hits.sum(axis=1) > r)).mean()),
        "nominal": float(rejection(n1, n, *reject_tables(n, p))[r1, r]),
        "mean_n": float(np.where(on, n, n1).mean()),
        "stopped_early": float(1.0 - on.mean()),
    }


def _two_rate_trials(protocol: Protocol, truth: str, n: int, n_sim: int, seed: Sequence[int]) -> Row:
    """Farrington-Manning test; nominal by exact enumeration, at the same allocation."""
    q = protocol.parameters
    pc, margin = q["p_control"], q.get("margin", 0.0)
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


def _survival_trials(protocol: Protocol, truth: str, n: int, n_sim: int, seed: Sequence[int]) -> Row:
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
    t = looks / looks[-1]
    if truth == "null":
        drift = 0.0
    elif margin != 1.0:
        drift = float(np.log(margin / hr) * np.sqrt(looks[-1] * k) / (1.0 + k))
    else:
        last = time_of_events(looks[-1], n, hr=hr, accrual=accrual, **rates)
        drift = logrank_drift(n, hr, accrual=accrual, time=min(last, 1e4), **rates)
    return {
        "rejected": float(rejected.mean()),
        "nominal": float(crossing(t, upper, lower, drift)[0].sum()),
        "mean_n": float(enrolled.mean()),
        "stopped_early": float((stop < looks.size).mean()),
        "mean_events": float(events.mean()),
        "mean_duration": float(when.mean()),
    }


def _survival_batch(rng, size, n_c, n_e, accrual, hr, rates, looks, upper, lower, log_margin, end):
    n = n_c + n_e
    arm = rng.permuted(np.tile(np.r_[np.zeros(n_c, np.int64), np.ones(n_e, np.int64)], (size, 1)), axis=1)
    lifetime = rng.exponential(1.0, (size, n)) / np.where(arm == 1, rates["control_hazard"] * hr, rates["control_hazard"])
    loss = rng.exponential(1.0, (size, n)) / rates["dropout"] if rates["dropout"] > 0 else np.full((size, n), np.inf)
    entry = np.sort(rng.random((size, n)) * accrual, axis=1)
    return survival_trials(entry, arm, lifetime, loss, looks, upper, lower, log_margin, end)


def logrank_z(data: pd.DataFrame, *, control: str, strata: list[str] | None = None) -> float:
    """Signed root of the (stratified) log-rank statistic, positive in favour of the experimental arm."""
    table = logrank(data, "time", "event", "arm", strata=strata or None).set_index("stratum")
    return float(np.sign(table.loc[control, "observed"] - table.loc[control, "expected"]) * np.sqrt(table["chi2"].iloc[0]))


def _analyse_survival(protocol: Protocol, data: pd.DataFrame, strata: list[str], alpha: float) -> Row:
    """Stratified log-rank at the final bound for the events there are, and hazard ratio with confidence limits."""
    control, experimental = protocol.two_arms(data)
    z = logrank_z(data, control=control, strata=strata)
    coded = data.assign(experimental=(data["arm"] == experimental).astype(float))
    fit = cox(coded, "experimental", "time", "event", strata=strata or None, level=1.0 - 2.0 * alpha).iloc[0]
    now = events_of(data) / int(design_of(protocol)["events_planned"])
    before = [t for t in bounds_of(protocol)["information"].iloc[:-1] if t < now - 1e-3]
    bound = last_bound(protocol, before, now) if alpha == protocol.one_sided_alpha else float(stats.norm.isf(alpha))
    looks = ", ".join(f"{t:.3g}" for t in before)
    return {
        "assumed": f"earlier looks were made at the planned information {looks}" if before else "",
        "estimate": float(fit["hazard_ratio"]),
        "lower": float(fit["lower"]),
        "upper": float(fit["upper"]),
        "statistic": z,
        "p": float(stats.norm.sf(z)),
        "reject": z >= bound,
        "bound": bound,
        "information": now,
    }


def _analyse_rates(protocol: Protocol, data: pd.DataFrame, strata: list[str], alpha: float) -> Row:
    """Farrington-Manning test; limits are the differences that the score test would just not reject."""
    control, experimental = protocol.two_arms(data)
    x, n = pd.Series(successes(data), data.index).groupby(data["arm"]).sum(), data["arm"].value_counts()
    counts = [int(v) for v in (x[experimental], n[experimental], x[control], n[control])]
    z = float(farrington_manning(*counts, margin=protocol.parameters.get("margin", 0.0)))
    lower, upper = difference_limits(*counts, alpha=alpha)
    return {
        "estimate": counts[0] / counts[1] - counts[2] / counts[3],
        "lower": lower,
        "upper": upper,
        "statistic": z,
        "p": float(stats.norm.sf(z)),
        "reject": z >= float(stats.norm.isf(alpha)),
    }


def _analyse_single_arm(protocol: Protocol, data: pd.DataFrame, strata: list[str], alpha: float) -> Row:
    """Exact binomial test with Clopper-Pearson limits."""
    x, n = int(successes(data).sum()), len(data)
    limits_ = binomial_ci(x, n, level=1.0 - 2.0 * alpha).iloc[0]
    p = float(stats.binom.sf(x - 1, n, _null_and_alternative(protocol)[0]))
    row = {"estimate": x / n, "lower": float(limits_["lower"]), "upper": float(limits_["upper"])}
    return row | {"statistic": float(x), "p": p, "reject": p <= alpha}


def _planned(size: pd.Series) -> int:
    return size["n_planned"]


DESIGNS: Mapping[str, Design] = {
    "boin": Design(boin, _closing, lambda design: design.n_max),
    "crm": Design(crm, _closing, lambda design: design.n_max),
    "tite_crm": Design(tite_crm, _closing, lambda design: design.n_max),
    "simon": Design(simon, _and_its_complement, lambda table: table.loc["optimal", "n"], _two_stage_trials),
    "ahern": Design(ahern, _and_its_complement, lambda size: size["n"], _single_arm_trials, _analyse_single_arm),
    "survival_rate": Design(survival_rate, _rates_of_error, _planned, _single_arm_trials, _analyse_single_arm),
    "noninferiority_rates": Design(noninferiority_rates, _rates_of_error, _planned, _two_rate_trials, _analyse_rates),
    "superiority_rates": Design(superiority_rates, _rates_of_error, _planned, _two_rate_trials, _analyse_rates),
    "two_arm_survival": Design(
        survival_sample_size, _and_looks, _planned, _survival_trials, _analyse_survival, event_driven=True
    ),
}
