"""A trial under way and at its end: interim looks on data, the planned analysis, and what departs from the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.outcome.comparison import logrank
from ionrt.outcome.regression import cox
from ionrt.outcome.toxicity import binomial_ci
from ionrt.quantities import IonrtError
from ionrt.trial.noninferiority import farrington_manning
from ionrt.trial.protocol import Protocol, bounds_of, design_of
from ionrt.trial.sequential import spending_bounds

PLANNED, EXPLORATORY = "as planned", "exploratory"
COMPARED = ("endpoint", "population", "method", "strata", "covariates", "alpha")


def departures(protocol: Protocol, performed: Mapping[str, Any]) -> pd.DataFrame:
    """Compare an analysis with the protocol's plan.

    Parameters
    ----------
    protocol : from `load`.
    performed : what was done: any of endpoint, population, method, strata, covariates, alpha; what is left out was done as
        planned.

    Returns a DataFrame, one row per item that differs: item, planned, performed; attrs["status"] is "as planned" or
    "exploratory".
    Raises IonrtError for an item that the plan does not know.
    """
    unknown = [key for key in performed if key not in COMPARED]
    if unknown:
        raise IonrtError(f"departures: {unknown[0]!r} is not compared; there are {list(COMPARED)}")
    plan = {"endpoint": protocol.endpoint["name"], "alpha": protocol.alpha}
    plan |= {key: protocol.analysis.get(key) for key in ("population", "method", "strata", "covariates")}
    rows = [
        {"item": key, "planned": plan[key], "performed": value}
        for key, value in performed.items()
        if _canonical(value) != _canonical(plan[key])
    ]
    table = pd.DataFrame(rows, columns=["item", "planned", "performed"])
    table.attrs["status"] = EXPLORATORY if rows else PLANNED
    return table


def _canonical(value: Any) -> Any:
    """Order of strata and covariates, and case of words, do not matter."""
    if isinstance(value, (list, tuple, set)):
        return tuple(sorted(str(v) for v in value))
    return value.strip().casefold() if isinstance(value, str) else (() if value is None else value)


def interim(protocol: Protocol, data: pd.DataFrame, *, previous: tuple[float, ...] = ()) -> pd.Series:
    """Look of a group-sequential survival trial at the data of today.

    The boundary is recomputed for the information really there: events / planned events, with the looks done before.

    Parameters
    ----------
    protocol : of design two_arm_survival; the first arm is the control.
    data : one row per patient: `time`, `event` (0, 1), `arm`, and the strata of the analysis plan.
    previous : information fractions of earlier looks, increasing.

    Returns a Series: events, information, z (positive in favour of the experimental arm), z_efficacy, z_futility, p
    (one-sided),
    decision ("stop for efficacy", "stop for futility", "continue", at full information "reject"/"do not reject").
    Raises IonrtError for other designs, unknown arms, and fewer events than at an earlier look.
    """
    if protocol.design != "two_arm_survival":
        raise IonrtError(f"interim: expected a two_arm_survival protocol, got {protocol.design!r}")
    control, experimental = _two_arms(protocol, data)
    planned = int(design_of(protocol)["events_planned"])
    events = int(data["event"].sum())
    now = min(events / planned, 1.0)
    if previous and now <= previous[-1]:
        raise IonrtError(f"interim: information {now:.3f} is not above the earlier look at {previous[-1]:.3f}")
    fractions = [*previous, now] + ([] if now == 1.0 else [1.0])
    rules = {k: v for k, v in protocol.looks.items() if k != "information"}
    bounds = spending_bounds(fractions, alpha=protocol.one_sided_alpha, power=protocol.power, **rules).loc[len(previous) + 1]
    z = logrank_z(data, control=control, experimental=experimental, strata=list(protocol.analysis.get("strata") or []))
    return pd.Series(
        {
            "events": events,
            "information": now,
            "z": z,
            "p": float(stats.norm.sf(z)),
            "z_efficacy": float(bounds["z_efficacy"]),
            "z_futility": float(bounds["z_futility"]),
            "decision": _decision(z, bounds, final=now == 1.0),
        },
        name=protocol.id,
        dtype=object,
    )


def _decision(z: float, bounds: pd.Series, *, final: bool) -> str:
    if final:
        return "reject" if z >= bounds["z_efficacy"] else "do not reject"
    if z >= bounds["z_efficacy"]:
        return "stop for efficacy"
    return "stop for futility" if z < bounds["z_futility"] else "continue"


def _two_arms(protocol: Protocol, data: pd.DataFrame) -> tuple[str, str]:
    names = [arm["name"] for arm in protocol.arms]
    if len(names) != 2:
        raise IonrtError(f"{protocol.id}: expected two arms, the protocol has {names}")
    strangers = set(data["arm"]) - set(names)
    if strangers:
        raise IonrtError(f"data: arms {sorted(strangers)} are not in the protocol {names}")
    return names[0], names[1]


def logrank_z(data: pd.DataFrame, *, control: str, experimental: str, strata: list[str] | None = None) -> float:
    """Signed root of the (stratified) log-rank statistic, positive in favour of the experimental arm."""
    table = logrank(data, "time", "event", "arm", strata=strata or None).set_index("stratum")
    sign = np.sign(table.loc[control, "observed"] - table.loc[control, "expected"])
    return float(sign * np.sqrt(table["chi2"].iloc[0]))


def analyse(protocol: Protocol, data: pd.DataFrame, **performed: Any) -> pd.DataFrame:
    """Primary analysis by the plan, labelled exploratory where `performed` says that it was done otherwise.

    Parameters
    ----------
    protocol : from `load`.
    data : one row per patient of the analysis population, with time, event, arm and strata (survival), success (0, 1) and arm
        (rates), or success (single arm).
    performed : departures from the plan, see `departures`; `strata` and `alpha` are also used in the computation.

    Returns a one-row DataFrame: endpoint, method, n, estimate, lower, upper, statistic, p (one-sided), reject, status, and
    departs (names of the
    items that differ). Raises IonrtError for missing columns and designs without a primary test.
    """
    differs = departures(protocol, performed)
    alpha = float(performed.get("alpha", protocol.alpha)) / protocol.sided
    strata = list(performed.get("strata", protocol.analysis.get("strata") or []))
    if protocol.design == "two_arm_survival":
        row = _analyse_survival(protocol, data, strata, alpha)
    elif protocol.design == "noninferiority_rates":
        row = _analyse_rates(protocol, data, alpha)
    elif protocol.design in ("ahern", "survival_rate"):
        row = _analyse_single_arm(protocol, data, alpha)
    else:
        raise IonrtError(f"analyse: design {protocol.design!r} has no primary test; use its own `select` or `fit`")
    row |= {"status": differs.attrs["status"], "departs": ", ".join(differs["item"])}
    method = performed.get("method", protocol.analysis["method"])
    table = pd.DataFrame([{"endpoint": protocol.endpoint["name"], "method": method, "n": len(data), **row}])
    table.attrs = {"protocol": protocol.id, **data.attrs}
    return table


def _analyse_survival(protocol: Protocol, data: pd.DataFrame, strata: list[str], alpha: float) -> dict[str, Any]:
    """Stratified log-rank at the final bound and hazard ratio with confidence limits."""
    control, experimental = _two_arms(protocol, data)
    z = logrank_z(data, control=control, experimental=experimental, strata=strata)
    coded = data.assign(experimental=(data["arm"] == experimental).astype(float))
    fit = cox(coded, "experimental", "time", "event", strata=strata or None, level=1.0 - 2.0 * alpha).iloc[0]
    bound = (
        float(bounds_of(protocol)["z_efficacy"].iloc[-1]) if alpha == protocol.one_sided_alpha else float(stats.norm.isf(alpha))
    )
    return {
        "estimate": float(fit["hazard_ratio"]),
        "lower": float(fit["lower"]),
        "upper": float(fit["upper"]),
        "statistic": z,
        "p": float(stats.norm.sf(z)),
        "reject": z >= bound,
    }


def _analyse_rates(protocol: Protocol, data: pd.DataFrame, alpha: float) -> dict[str, Any]:
    """Farrington-Manning test; limits are the margins that the test would just reject."""
    from scipy.optimize import brentq

    control, experimental = _two_arms(protocol, data)
    x = data.groupby("arm")["success"].sum()
    n = data["arm"].value_counts()
    args = (int(x[experimental]), int(n[experimental]), int(x[control]), int(n[control]))
    z = float(farrington_manning(*args, margin=protocol.parameters["margin"]))
    difference = args[0] / args[1] - args[2] / args[3]
    cut = float(stats.norm.isf(alpha))

    def gap(margin: float) -> float:
        return float(farrington_manning(*args, margin=margin)) - cut

    lower = -brentq(gap, 1e-6, 0.999) if gap(1e-6) < 0 < gap(0.999) else np.nan
    return {
        "estimate": difference,
        "lower": lower,
        "upper": np.nan,
        "statistic": z,
        "p": float(stats.norm.sf(z)),
        "reject": z >= cut,
    }


def _analyse_single_arm(protocol: Protocol, data: pd.DataFrame, alpha: float) -> dict[str, Any]:
    """Exact binomial test with Clopper-Pearson limits."""
    p0 = protocol.parameters["s0" if protocol.design == "survival_rate" else "p0"]
    x, n = int(data["success"].sum()), len(data)
    limits_ = binomial_ci(x, n, level=1.0 - 2.0 * alpha).iloc[0]
    p = float(stats.binom.sf(x - 1, n, p0))
    return {
        "estimate": x / n,
        "lower": float(limits_["lower"]),
        "upper": float(limits_["upper"]),
        "statistic": float(x),
        "p": p,
        "reject": p <= alpha,
    }
