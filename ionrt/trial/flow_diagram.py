"""CONSORT flow of participants: counts that add up, or an error."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ionrt.quantities import IonrtError

ARM_STAGES = ("allocated", "received", "not_received", "lost", "discontinued", "analysed", "excluded_from_analysis")


def consort(
    *, assessed: int, excluded: Mapping[str, int], randomised: int, arms: Mapping[str, Mapping[str, int | Mapping[str, int]]]
) -> pd.DataFrame:
    """Flow of participants from assessment to analysis, one row per count: stage, arm ("all" before allocation), reason, n.

    Must hold: assessed = excluded + randomised; randomised = sum of allocated; in every arm allocated = received +
    not_received = analysed + excluded_from_analysis, and lost + discontinued <= allocated. Counts with reasons are the sum of
    their reasons. Every equation that does not hold is named. `arms`: per arm the counts of `ARM_STAGES`; not_received, lost,
    discontinued and excluded_from_analysis may be mappings of reasons. Hopewell et al. 2025, doi:10.1136/bmj-2024-081123.
    """
    rows, faults = [_row("assessed", "all", "", assessed)], []
    rows += _reasons("excluded", "all", excluded)
    rows.append(_row("randomised", "all", "", randomised))
    out = sum(excluded.values())
    if assessed != out + randomised:
        faults.append(f"assessed {assessed} is not excluded {out} + randomised {randomised}")
    for arm, counts in arms.items():
        unknown, missing = set(counts) - set(ARM_STAGES), set(ARM_STAGES) - set(counts)
        if unknown or missing:
            raise IonrtError(f"consort: arm {arm!r}: unknown counts {sorted(unknown)}, missing counts {sorted(missing)}")
        for stage in ARM_STAGES:
            value = counts[stage]
            rows += _reasons(stage, arm, value) if isinstance(value, Mapping) else [_row(stage, arm, "", value)]
        faults += _arm_faults(arm, {stage: _total(counts[stage]) for stage in ARM_STAGES})
    allocated = sum(_total(counts["allocated"]) for counts in arms.values())
    if randomised != allocated:
        faults.append(f"randomised {randomised} is not the sum of allocated {allocated}")
    table = pd.DataFrame(rows)
    if (table["n"] < 0).any():
        faults.append("negative counts: " + ", ".join(table.loc[table["n"] < 0, "stage"]))
    if faults:
        raise IonrtError("consort: counts do not add up:\n- " + "\n- ".join(faults))
    return table


def _arm_faults(arm: str, n: Mapping[str, int]) -> list[str]:
    faults = []
    for a, b in (("received", "not_received"), ("analysed", "excluded_from_analysis")):
        if n["allocated"] != n[a] + n[b]:
            faults.append(f"{arm}: allocated {n['allocated']} is not {a} {n[a]} + {b} {n[b]}")
    if n["lost"] + n["discontinued"] > n["allocated"]:
        faults.append(f"{arm}: lost {n['lost']} + discontinued {n['discontinued']} exceed allocated {n['allocated']}")
    return faults


def _total(value: int | Mapping[str, int]) -> int:
    return sum(value.values()) if isinstance(value, Mapping) else int(value)


def _row(stage: str, arm: str, reason: str, n: int) -> dict[str, str | int]:
    return {"stage": stage, "arm": arm, "reason": reason, "n": int(n)}


def _reasons(stage: str, arm: str, counts: Mapping[str, int]) -> list[dict[str, str | int]]:
    return [_row(stage, arm, "", _total(counts)), *(_row(stage, arm, reason, n) for reason, n in counts.items())]


def consort_from(participants: pd.DataFrame) -> pd.DataFrame:
    """CONSORT flow from one row per assessed participant.

    Parameters
    ----------
    participants : columns `excluded` (reason, empty or missing for none), `arm` (missing unless randomised), `received` (bool),
        `lost` (reason), `discontinued` (reason), `analysed` (bool) and `not_analysed` (reason).

    Returns
    -------
    the table of `consort`.

    Raises
    ------
    IonrtError
        Missing columns, or a participant both excluded and randomised or neither.
    """
    needed = ["excluded", "arm", "received", "lost", "discontinued", "analysed", "not_analysed"]
    absent = [c for c in needed if c not in participants]
    if absent:
        raise IonrtError(f"consort: columns {absent} are missing; expected {needed}")
    if not participants.columns.is_unique:
        raise IonrtError("consort: two columns have one name")
    out = participants["excluded"].fillna("").astype(str)
    randomised = participants["arm"].notna()
    for name in ("received", "analysed"):
        if not participants.loc[randomised, name].isin((True, False)).all():
            raise IonrtError(f"consort: {name} holds other than True and False (or 1 and 0)")
    both = (out != "") == randomised
    if both.any():
        raise IonrtError(f"consort: {int(both.sum())} participants are both excluded and randomised, or neither")

    def reasons(part: pd.DataFrame, column: str) -> dict[str, int]:
        text = part[column].fillna("").astype(str)
        return {str(k): int(v) for k, v in text[text != ""].value_counts().sort_index().items()}

    arms: dict[str, Mapping[str, int | Mapping[str, int]]] = {}
    for arm, part in participants[randomised].groupby(participants.loc[randomised, "arm"].astype(str).to_numpy()):
        received, analysed = part["received"].astype(bool), part["analysed"].astype(bool)
        arms[str(arm)] = {
            "allocated": len(part),
            "received": int(received.sum()),
            "not_received": int((~received).sum()),
            "lost": reasons(part, "lost"),
            "discontinued": reasons(part, "discontinued"),
            "analysed": int(analysed.sum()),
            "excluded_from_analysis": reasons(part[~analysed], "not_analysed"),
        }
    return consort(
        assessed=len(participants), excluded=reasons(participants, "excluded"), randomised=int(randomised.sum()), arms=arms
    )
