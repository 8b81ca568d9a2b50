"""The guard: a plan meets a constraint only where dose system and fractionation are the same."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import evaluate
from ionrt.evaluate.histograms import mean_value
from ionrt.quantities import IonrtError

METRIC = re.compile(
    r"Dmax|Mean|D(?P<d>[\d.]+)(?P<unit>%|cc)|V(?P<v>[\d.]+)Gy|share D>=(?P<share_d>[\d.]+)Gy LETd>(?P<share_l>[\d.]+)keV/um"
)
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

    Parameters
    ----------
    constraints : rows of ``constraints.csv`` (`Indications.of`).
    system : dose system of the plan.
    fractions : of its course.
    dose : RBE-weighted dose per fraction (z, y, x) [Gy (RBE)].
    let_d : (z, y, x) [keV/um].
    structures : fractions (structure, z, y, x). Without them nothing is measured.

    Returns
    -------
    DataFrame by the id of the constraint: `verdict` ("within the limit", "beyond the limit", the same "an association" for a
    retrospective cut-off, "not comparable"), `reason` of the last, `value` of the plan [unit of the constraint; NaN without].

    Raises
    ------
    IonrtError
        A metric or a unit that is not known.
    """
    rows = {}
    for key, one in constraints.iterrows():
        value, reason = np.nan, why_not(one, system, fractions)
        if not reason:
            if dose is None or structures is None:
                reason = "no plan"
            elif one["organ"] not in structures["structure"].values:
                reason = f"no {one['organ']} in the phantom"
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
