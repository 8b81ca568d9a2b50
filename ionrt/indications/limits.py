"""The guard: a plan meets a constraint only where dose system and fractionation are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import evaluate
from ionrt.compare.received import Received
from ionrt.evaluate.histograms import mean_value
from ionrt.let import let_d as let_of
from ionrt.patient.names import nomenclature
from ionrt.quantities import IonrtError
from ionrt.rbe.systems import first_in_system

METRIC = re.compile(
    r"Dmax|Mean|D(?P<d>[\d.]+)(?P<unit>%|cc)|V(?P<v>[\d.]+)Gy|share D>=(?P<share_d>[\d.]+)Gy LETd>(?P<share_l>[\d.]+)keV/um"
)
NONE = "no plan"
LEFT = 1e-6  # voxels of an organ outside a dose grid that count as none
TEST: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def check_limits(
    constraints: pd.DataFrame,
    *,
    system: str,
    fractions: float,
    dose: xr.DataArray | None = None,
    let_d: xr.DataArray | None = None,
    structures: xr.DataArray | None = None,
) -> pd.DataFrame:
    """Constraints against one plan: what agrees in dose system and number of fractions is compared, the rest is not.

    `constraints` are rows of ``constraints.csv``; `dose` is RBE-weighted per fraction (z, y, x) [Gy (RBE)], `let_d` in keV/um;
    without `dose` and `structures` nothing is measured.

    By the id of the constraint: `verdict` ("within the limit", "beyond the limit", the same "an association" for a
    retrospective cut-off, "not comparable"), `reason` of the last, `value` of the plan [unit of the constraint; NaN without].
    """
    rows = {}
    for key, one in constraints.iterrows():
        value, reason = np.nan, why_not(one, system, fractions)
        if not reason:
            if dose is None or structures is None:
                reason = NONE
            elif one["organ"] not in structures["structure"].values:
                reason = f"no {one['organ']} drawn"
            else:
                course = dose.copy(data=dose.data * float(fractions))
                here = structures.sel(structure=[one["organ"]])
                value = measure(str(one["metric"]), course, here, let_d, unit=str(one["unit"]))
        verdict = "not comparable"
        if not reason:
            holds = TEST[str(one["op"])](value, float(one["limit"]))
            verdict = ("within" if holds else "beyond") + (" an association" if one["kind"] == "cut_off" else " the limit")
        rows[key] = {"verdict": verdict, "reason": reason, "value": value}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["verdict", "reason", "value"])


def limits_received(
    constraints: pd.DataFrame, received: Received, fields: Sequence[xr.Dataset], structures: xr.DataArray
) -> pd.DataFrame:
    """Limits of an indication against a received plan: its sender's dose in the sender's system, the recomputed field in that
    of each limit; both only at the number of fractions that the limit was found at.

    `fields` are of `Received.recomputed` without ``beam``, per fraction, with different parameter sets; organs are found by
    their TG-263 names, on either side. By dose system and organ: `limit`, `fractions`, `kind`, verdict and value of `their
    dose` and of `recomputed here` (– where it is not compared), and `not compared` for the reasons.
    """
    constraints = _of_structures(constraints, [str(s) for s in structures["structure"].values])
    held: dict[str, Any] = {"let_d": let_of(fields[0]), "fractions": received.fractions}
    came = received.theirs("rbe_dose").get("plan")
    theirs = None if came is None else came.interp({d: structures[d] for d in "zyx"})
    inside = structures
    if theirs is not None:  # an organ that leaves their dose grid has no value there
        outside = structures.where(theirs.isnull(), 0.0).sum(["z", "y", "x"]).compute()
        inside, theirs = structures.isel(structure=np.flatnonzero(outside.values < LEFT)), theirs.fillna(0.0)
    system = received.system or "unknown"
    first = check_limits(constraints, system=system, dose=theirs, structures=inside, **held)
    parts = [
        check_limits(rows, system=str(name), dose=_recalculated(fields, str(name)), structures=structures, **held)
        for name, rows in constraints.groupby("system", sort=False)
    ]
    second = pd.concat(parts).loc[constraints.index] if parts else first
    why = (first["reason"].replace(NONE, "no such dose came"), second["reason"].replace(NONE, "no open formula"))
    rows = constraints.itertuples()
    printed = {
        "limit": [f"{r.metric} {r.op} {r.limit:g} {r.unit}" if pd.notna(r.limit) else f"{r.metric}: no value" for r in rows],
        "fractions": [f"{n:g}" if n > 0 else "not stated" for n in constraints["fractions"]],
        "kind": constraints["kind"].str.replace("cut_off", "association"),
        "their dose": [_said(*r) for r in zip(first["verdict"], first["value"], first["reason"], strict=True)],
        "recomputed here": [_said(*r) for r in zip(second["verdict"], second["value"], second["reason"], strict=True)],
        "not compared": [_both(str(a), str(b)) for a, b in zip(*why, strict=True)],
    }
    table = constraints[["system", "organ"]].assign(**printed)
    return table.sort_values(["system", "organ"], kind="stable").set_index(["system", "organ"])


def _said(verdict: str, value: float, reason: str) -> str:
    return "–" if reason else f"{verdict} ({round(value, 3):.3g})"


def _both(theirs: str, here: str) -> str:
    """Why not, said once where it is the same."""
    if theirs == here:
        return theirs
    return "; ".join(f"{of}: {reason}" for of, reason in (("theirs", theirs), ("here", here)) if reason)


def _of_structures(constraints: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A row per structure that is the organ of a limit; a limit without one keeps its organ."""
    known = {name: nomenclature(name) or name for name in names}
    rows = []
    for key, one in constraints.iterrows():
        sides = {one["organ"], f"{one['organ']}_L", f"{one['organ']}_R"}
        mine = [name for name, organ in known.items() if organ in sides]
        rows += [pd.Series({**one, "organ": name}, name=f"{key} {name}") for name in mine] or [one]
    return pd.DataFrame(rows).astype(constraints.dtypes) if rows else constraints


def _recalculated(fields: Sequence[xr.Dataset], system: str) -> xr.DataArray | None:
    """Dose per fraction in a dose system, from the first field that has its moments; None without an open formula."""
    try:
        return first_in_system(fields, system)
    except IonrtError:
        return None


def why_not(constraint: pd.Series, system: str, fractions: float) -> str:
    """Why a plan of this dose system and number of fractions cannot be held against a constraint; empty where it can."""
    own = constraint["fractions"]
    if constraint["confidence"] == "memory":
        return "from memory"
    if constraint["system"] != system or system == "unknown":
        return f"other dose system ({constraint['system']})"
    if pd.isna(own):
        return "fractions not stated"
    if float(own) != float(fractions):
        return f"other fractionation ({own:g})"
    if constraint["kind"] == "objective":
        return "a weight of an optimiser"
    if constraint["op"] not in TEST or pd.isna(constraint["limit"]):
        return "no threshold"
    return "" if METRIC.fullmatch(str(constraint["metric"])) else "not measured here"


def measure(
    metric: str, dose: xr.DataArray, organ: xr.DataArray, let_d: xr.DataArray | None = None, *, unit: str = "percent"
) -> float:
    """A metric of one structure, of the form that ``constraints.csv`` uses.

    Parameters
    ----------
    metric : ``Dmax``, ``Mean``, ``D5%``, ``D2cc`` [Gy (RBE)]; ``V30Gy`` [`unit`]; ``share D>=64Gy LETd>55keV/um``, the share of
        the structure with at least this dose and this LETd [%].
    dose : RBE-weighted dose of the whole course (z, y, x) [Gy (RBE)].
    organ : fractions (structure, z, y, x) of one structure.
    let_d : (z, y, x) [keV/um], for the share.
    unit : of a volume at a dose, "percent" or "cc".

    Raises
    ------
    IonrtError for a metric of another form, or a share without LETd.
    """
    if not (form := METRIC.fullmatch(metric)):
        raise IonrtError(f"metric {metric!r} is not one that is measured here")
    if metric == "Mean":
        return float(mean_value(dose, organ).squeeze())
    if metric == "Dmax":
        return float(evaluate.dose_at_volume(dose, organ, percent=0).squeeze())
    if form["share_d"]:
        if let_d is None:
            raise IonrtError(f"{metric}: expected the LETd of the plan")
        at = {"dose_at": float(form["share_d"]), "let_at": float(form["share_l"])}
        return 100.0 * float(evaluate.dose_let_histogram(dose, let_d, organ, **at).squeeze())
    if form["v"]:
        share = evaluate.volume_at_dose(dose, organ, dose=float(form["v"]))
        return float((share * (share["volume"] if unit == "cc" else 100.0)).squeeze())
    key = {"percent" if form["unit"] == "%" else "cc": float(form["d"])}
    return float(evaluate.dose_at_volume(dose, organ, **key).squeeze())
