"""SYNTHETIC participants of a two-arm survival protocol, to try its analysis before there are any data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ionrt.quantities import IonrtError
from ionrt.trial import limits
from ionrt.trial.designs import check_event_driven, design_of
from ionrt.trial.protocol import Protocol
from ionrt.trial.randomise import permuted_blocks

SCREENED_OUT = {"not eligible": 0.12, "declined": 0.08}
AGE_BANDS = ("under 60", "60-69", "70 and over")


def synthetic_participants(protocol: Protocol, seed: int, *, hr: float | None = None) -> pd.DataFrame:
    """One SYNTHETIC run of a two-arm survival trial, from assessment to the planned end.

    Patients are assessed until the protocol's n is randomised (stratified permuted blocks in the protocol's ratio), enter
    uniformly over the accrual, die and are lost at the protocol's rates, and are followed to the planned duration.

    Parameters
    ----------
    protocol : of design two_arm_survival with strata.
    seed : random seed.
    hr : true hazard ratio (default: the protocol's alternative).

    Returns
    -------
    a DataFrame, one row per assessed participant: pid, the columns of `consort_from`, the strata, age_band, sex, entry and time
        (unit of the protocol), event, worst_grade (of toxicity, 0-4); attrs["data"] = "SYNTHETIC".

    Raises
    ------
    IonrtError
        Other designs.
    """
    check_event_driven(protocol, "synthetic_participants")
    rng = np.random.default_rng(limits.count(seed, "seed", least=0))
    out = sum(SCREENED_OUT.values())
    reasons = rng.choice(["", *SCREENED_OUT], 3 * protocol.n, p=[1 - out, *SCREENED_OUT.values()])
    assessed = int(np.flatnonzero(np.cumsum(reasons == "") == protocol.n)[0]) + 1
    df = pd.DataFrame({"pid": [f"S{i:04d}" for i in range(assessed)], "excluded": reasons[:assessed]})
    for factor, levels in protocol.strata.items():
        df[factor] = rng.choice(levels, assessed)
    df["age_band"] = rng.choice(AGE_BANDS, assessed, p=[0.3, 0.4, 0.3])
    df["sex"] = rng.choice(["female", "male"], assessed)
    inside = df["excluded"] == ""
    df["arm"] = _allocate(protocol, df[inside], seed)
    _outcomes(protocol, df, inside.to_numpy(), hr, rng)
    df.attrs = {"data": "SYNTHETIC", "protocol": protocol.id, "seed": seed}
    return df


def _allocate(protocol: Protocol, randomised: pd.DataFrame, seed: int) -> pd.Series:
    arms = {arm["name"]: int(arm["ratio"]) for arm in protocol.arms}
    lists = permuted_blocks(arms, seed=seed, n_per_stratum=protocol.n, strata=protocol.strata)
    factors = list(protocol.strata)
    return pd.Series(
        [lists.allocate(row.pid, **{f: getattr(row, f) for f in factors}) for row in randomised.itertuples()],
        index=randomised.index,
    )


def _outcomes(protocol: Protocol, df: pd.DataFrame, inside: np.ndarray, hr: float | None, rng: np.random.Generator) -> None:
    """Treatment received, times, loss, toxicity; written into `df`."""
    size, q = design_of(protocol), protocol.parameters
    experimental = (df["arm"] == protocol.arms[1]["name"]).to_numpy()
    rate = size["control_hazard"] * np.where(experimental, q["hr"] if hr is None else limits.positive(hr, "hr"), 1.0)
    n = len(df)
    life = rng.exponential(1.0, n) / rate
    loss = rng.exponential(1.0, n) / size["dropout"] if size["dropout"] > 0 else np.full(n, np.inf)
    df["entry"] = np.sort(rng.uniform(0.0, q["accrual"], n))
    end = size["duration"] - df["entry"].to_numpy()
    df["time"] = np.minimum(np.minimum(life, loss), end).round(2).clip(0.01)
    df["event"] = ((life <= loss) & (life <= end)).astype(int)
    df["received"] = inside & (rng.random(n) > 0.03)
    df["lost"] = np.where(inside & (loss < np.minimum(life, end)), "left follow-up", "")
    df["discontinued"] = np.where(inside & (df["lost"] == "") & (rng.random(n) < 0.02), "treatment stopped", "")
    df["analysed"], df["not_analysed"] = inside, ""
    grade = rng.choice(5, n, p=[0.22, 0.33, 0.30, 0.12, 0.03])
    df["worst_grade"] = np.where(df["received"], grade, 0)
    df.loc[~inside, ["entry", "time", "event"]] = np.nan


def cut_at_events(participants: pd.DataFrame, events: int) -> pd.DataFrame:
    """The randomised participants as an interim look sees them when `events` events have happened, in calendar time.

    Parameters
    ----------
    participants : with entry, time, event and arm (see `synthetic_participants`)
    events : at most all there are.

    Returns
    -------
    Their rows with time and event cut at that day; who entered later is left out.

    Raises
    ------
    IonrtError
        Fewer events in the data than asked for.
    """
    df = participants[participants["arm"].notna()].copy()
    calendar = (df["entry"] + df["time"])[df["event"] == 1].sort_values()
    if limits.count(events, "events") > len(calendar):
        raise IonrtError(f"events: expected at most {len(calendar)}, which is all there are, got {events}")
    day = float(calendar.iloc[events - 1])
    df = df[df["entry"] < day]
    seen = df["entry"] + df["time"] <= day + 1e-9
    df["event"] = df["event"].where(seen, 0).astype(int)
    df["time"] = df["time"].where(seen, day - df["entry"])
    df.attrs = dict(participants.attrs)
    return df
