"""A trial under way and at its end: interim looks on data, the planned analysis, and what departs from the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ionrt.quantities import IonrtError
from ionrt.trial.designs import DESIGNS, check_event_driven, design_of, events_of, last_bound, logrank_z, look_bounds
from ionrt.trial.protocol import Protocol

PLANNED, EXPLORATORY = "as planned", "exploratory"
COMPARED = ("endpoint", "population", "method", "strata", "covariates", "alpha")


def departures(protocol: Protocol, performed: Mapping[str, Any]) -> pd.DataFrame:
    """What was `performed` (of endpoint, population, method, strata, covariates, alpha) otherwise than the protocol planned.

    One row per item that differs: item, planned, performed; attrs["status"] is "as planned" or "exploratory". What is left out
    was done as planned.
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


def interim(protocol: Protocol, data: pd.DataFrame, *, previous: Sequence[float] = (), final: bool = False) -> pd.Series:
    """Look of a group-sequential survival trial at the data of today.

    The boundary is recomputed for the information really there: events / planned events, with the looks done before.

    Parameters
    ----------
    protocol : with an event-driven design (two_arm_survival); the first arm is the control.
    data : one row per patient: `time`, `event` (0, 1), `arm`, and the strata of the analysis plan.
    previous : information fractions of earlier looks, increasing, below 1.
    final : the trial ends with this look, whether it has the planned events, fewer or more: the type I error that is left is
        used up, at the information really there (`final_bound`). A look with all planned events is the last one in any case.

    Returns
    -------
    Series: events, information (over the planned; above 1 where there are more), z (positive in favour of the experimental
        arm), p (one-sided), z_efficacy, z_futility (NaN at the last look), decision ("stop for efficacy", "stop for futility",
        "continue", at the last look "reject" or "do not reject").

    Raises
    ------
    IonrtError : other designs, unknown arms, no more events than at an earlier look.
    """
    check_event_driven(protocol, "interim")
    control, events = protocol.two_arms(data)[0], events_of(data)
    now = events / int(design_of(protocol)["events_planned"])
    if previous and now <= previous[-1] + 1e-3:
        raise IonrtError(f"interim: information {now:.3f} is not above the earlier look at {previous[-1]:.3f}")
    z = logrank_z(data, control=control, strata=list(protocol.analysis.get("strata") or []))
    last = final or now >= 1.0
    if last:
        upper, lower = last_bound(protocol, previous, now), np.nan
        decision = "reject" if z >= upper else "do not reject"
    else:
        upper, lower = (float(bound[-1]) for bound in look_bounds(protocol, [*previous, now]))
        decision = "stop for efficacy" if z >= upper else "stop for futility" if z < lower else "continue"
    row = {"events": events, "information": now, "z": z, "p": float(stats.norm.sf(z)), "z_efficacy": upper, "z_futility": lower}
    return pd.Series({**row, "decision": decision}, name=protocol.id, dtype=object)


def analyse(protocol: Protocol, data: pd.DataFrame, **performed: Any) -> pd.DataFrame:
    """Primary analysis by the plan, labelled exploratory where `performed` says that it was done otherwise.

    Parameters
    ----------
    protocol : from `load`.
    data : one row per patient of the analysis population, with time, event, arm and strata (survival), success (0, 1) and arm
        (rates), or success (single arm).
    performed : departures from the plan, see `departures`; `strata` and `alpha` are also used in the computation.

    Returns
    -------
    a one-row DataFrame: endpoint, method, n, estimate, lower, upper, statistic, p (one-sided), reject, status, and departs
        (names of the items that differ); attrs["assumed"]: that earlier looks were made as planned (else see `interim`).

    Raises
    ------
    IonrtError
        Missing columns and designs without a primary test.
    """
    differs = departures(protocol, performed)
    alpha = float(performed.get("alpha", protocol.alpha)) / protocol.sided
    strata = list(performed.get("strata", protocol.analysis.get("strata") or []))
    test = DESIGNS[protocol.design].analyse
    if test is None:
        raise IonrtError(f"analyse: design {protocol.design!r} has no primary test; use its own `select` or `fit`")
    row = test(protocol, data, strata, alpha)
    assumed = row.pop("assumed", "")
    row |= {"status": differs.attrs["status"], "departs": ", ".join(differs["item"])}
    method = performed.get("method", protocol.analysis["method"])
    table = pd.DataFrame([{"endpoint": protocol.endpoint["name"], "method": method, "n": len(data), **row}])
    table.attrs = {"protocol": protocol.id, **data.attrs} | ({"assumed": assumed} if assumed else {})
    return table
