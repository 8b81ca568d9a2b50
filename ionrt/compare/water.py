"""Which ion suffers most where the patient is thicker by some water all round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.ndimage import distance_transform_edt

from ionrt import adapt, evaluate, plan
from ionrt.compare.cases import asked_of, planned_maps, system_and_parameters
from ionrt.compare.guidance import planned
from ionrt.ions import in_words
from ionrt.patient.names import outline_of
from ionrt.plan.setup.beams import ReachError
from ionrt.plan.setup.scene import spr_of
from ionrt.quantities import stamp, system_in_words


def water_table(
    planning: xr.Dataset,
    wanted: plan.Plan,
    *,
    ions: Sequence[str] = ("p", "He", "C", "O", "Ne"),
    thickness: float = 5.0,
    iterations: int = 60,
) -> pd.DataFrame:
    """Which ion suffers most where the patient is thicker by some water all round: D98 and LETd98 of the target, before and
    after.

    Parameters
    ----------
    planning : Dataset.
    wanted : a plan whose beams are given to each ion in turn.
    ions : those that do not reach are listed as such; protons have their own RBE beside `nirs_mkm`.
    thickness : mm of water on the skin.
    iterations : of each plan.

    Returns
    -------
    DataFrame, one row per ion: D98 [% of the prescription] and LETd98 [keV/um] planned and with the water.

    Raises
    ------
    IonrtError
        As of `ionrt.influence` and `ionrt.optimise`.
    """
    thicker = _with_water(planning, thickness)
    rows: dict[str, dict[str, Any]] = {}
    target = planning["structures"].sel(structure=[wanted.target])
    for ion in ions:
        system = system_and_parameters([ion], wanted.model, "constant", wanted.parameters)
        one = replace(wanted, beams=tuple(replace(b, ion=ion) for b in wanted.beams), **system)
        row: dict[str, Any] = {"dose system": system_in_words(one.model), "note": ""}
        try:
            influence, weights = planned(planning, one, iterations)
        except ReachError as error:
            rows[in_words(ion)] = row | {"note": f"{error.missing_depth:.0f} mm of water missing"}
            continue
        asked = asked_of(one)
        both = (plan.field(influence, weights, **asked), adapt.daily_field(influence, weights, thicker, **asked).load())
        for label, made in zip(("planned", f"with {thickness:g} mm"), both, strict=True):
            maps = planned_maps(one, made)
            dose = evaluate.statistics(maps["rbe_dose"], target, percent=(98,)).iloc[0]
            row[f"D98 {label} [%]"] = 100.0 * float(dose["D98%"]) / one.prescription
            row[f"LETd98 {label} [keV/µm]"] = float(evaluate.statistics(maps["let_d"], target, percent=(98,)).iloc[0]["L98%"])
        rows[in_words(ion)] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ion")


def _with_water(patient: xr.Dataset, thickness: float) -> xr.Dataset:
    """The patient with a skin of water, also in the outline."""
    outline = outline_of(patient)
    inside = patient["structures"].sel(structure=outline).transpose("z", "y", "x").values
    steps = [float(patient[d][1] - patient[d][0]) for d in ("z", "y", "x")]
    far = distance_transform_edt(inside < 0.5, sampling=[1e6, *steps[1:]])  # slice by slice: the ends of the CT are no skin
    share = np.clip((thickness - far) / max(steps[1:]) + 1.0, 0.0, 1.0).astype(np.float32) * (1.0 - inside)
    spr = spr_of(patient).transpose("z", "y", "x")
    fractions = patient["structures"].transpose("structure", "z", "y", "x").values.copy()
    fractions[list(patient["structure"].values).index(outline)] = np.maximum(inside, share)
    coords = {"structure": patient["structure"].values, **{d: patient[d] for d in ("z", "y", "x")}}
    return xr.Dataset(
        {
            "spr": stamp(spr + share * (1.0 - spr), "spr"),
            "structures": stamp(xr.DataArray(fractions, dims=("structure", "z", "y", "x"), coords=coords), "structures"),
        }
    )
