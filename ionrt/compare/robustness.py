"""Does a plan survive range and set-up errors, in dose and in LETd? A margin plan and a robust plan, under the same errors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import plan
from ionrt.compare import cases
from ionrt.compare.comparison import Comparison
from ionrt.compare.how import how_made
from ionrt.ions import IONS
from ionrt.plan.fields import scenario_field
from ionrt.plan.setup.objectives import Objective, default_objectives, make_robust
from ionrt.plan.setup.room import GANTRY_1
from ionrt.plan.setup.scene import make_scene
from ionrt.plan.setup.spots import make_view
from ionrt.quantities import IonrtError, one_of

PLANS = ("margin", "robust")
SPOT_MARGIN = 5.0  # mm of spots beyond the volume that must be covered


def compare_robustness(
    patient: xr.Dataset,
    *,
    target: str = "CTV",
    organs: Sequence[str] = (),
    ions: Sequence[str] = ("C",),
    gantry_angles: Sequence[float] = (90.0, 270.0),
    room: plan.Room = GANTRY_1,
    range_error: float = 0.025,
    setup_error: float = 2.0,
    prescription: float = 3.6,
    model: str = "nirs_mkm",
    parameters: Mapping[str, Any] | None = None,
    proton_model: str = "constant",
    let_definition: str = "charged",
    spacing: float = 3.0,
    robust: str = "voxel_worst",
    goals: Sequence[Objective] = (),
    tested: Sequence[plan.Scenario] | None = None,
    iterations: int = 200,
    calibration: str | Path | None = None,
    base: Mapping[str, xr.Dataset] | None = None,
) -> Comparison:
    """Plan a target twice, with a margin and robustly, and deliver both under range and set-up errors.

    The margin plan covers target + (set-up error + range error times the target's greatest water-equivalent depth); the robust
    plan sees the nine scenarios with one error at a time, the objectives on the target counting as `robust` says. Both have the
    same directions, spots and objectives.

    Parameters
    ----------
    patient, target, organs, room, prescription, model, parameters, let_definition : as in `compare_ions`.
    spacing, iterations, calibration, base, proton_model : likewise.
    ions, gantry_angles : one beam for each pair.
    range_error : relative.
    setup_error : mm per axis.
    robust : how target objectives count, one of `ionrt.plan.objectives.ROBUST`.
    goals : further objectives of both plans, those on the target made robust in the robust plan (e.g. a least LETd).
    tested : scenarios of the evaluation, the nominal one first, default `ionrt.plan.scenario_set` together.

    Returns
    -------
    Comparison
        The cases ``margin`` and ``robust``, with maps (case, scenario, z, y, x) in target and organs.

    Raises
    ------
    IonrtError
        As of `ionrt.influence`, `ionrt.optimise`; no error to be robust against.
    """
    if not range_error + setup_error > 0.0:
        raise IonrtError("compare_robustness: range_error and setup_error are 0; there is nothing to be robust against")
    planned = plan.scenario_set(range_shift=range_error, setup=setup_error)
    tested = plan.scenario_set(range_shift=range_error, setup=setup_error, together=True) if tested is None else tuple(tested)
    if not tested or not tested[0].is_nominal:
        raise IonrtError("tested: expected scenarios of which the first is the nominal one")
    grid, chosen = cases.structures_of(patient, target, organs, spacing)
    beams = tuple(plan.Beam(one_of(i, tuple(IONS), what="ion"), float(a), room=room) for i in ions for a in gantry_angles)
    patient_spr, data = cases.planning_patient(patient, calibration), cases.base_of(ions, base)
    common = plan.Plan(
        beams,
        target,
        prescription,
        **cases.system_and_parameters(ions, model, proton_model, parameters),
        spacing=spacing,
        let_definition=let_definition,
        objectives=(*default_objectives(target, prescription, grid, organs=chosen), *goals),
    )
    margin = setup_error + range_error * _greatest_depth(patient_spr, common)
    volume = f"{target} + {margin:.1f} mm"
    common = replace(common, margin=SPOT_MARGIN + margin)
    wider, around = cases.widened(patient_spr, common, margin, volume)
    influence = plan.influence(wider, common, base=data)
    robustly = make_robust(common.objectives or (), robust=robust, structures=[target])
    plans = dict(zip(PLANS, (around, replace(common, objectives=robustly)), strict=True))
    weights, seconds = {}, {}
    for name, seen in zip(PLANS, ((), planned), strict=True):
        start = time.perf_counter()
        weights[name] = plan.optimise(wider, plans[name], influence, scenarios=seen, iterations=iterations)
        seconds[name] = time.perf_counter() - start
    both = xr.concat(list(weights.values()), pd.Index(PLANS, name="plan"), join="exact", combine_attrs="drop_conflicts")
    fields = scenario_field(patient_spr, influence, both, tested, within=(target, *chosen), **cases.asked_of(common))
    made = {
        name: cases.Planned(plans[name], weights[name], fields.sel(plan=name, drop=True), seconds[name], influence)
        for name in PLANS
    }
    maps = cases.labelled(
        [cases.planned_maps(common, one.field) for one in made.values()], PLANS, patient, dict.fromkeys(PLANS, common.model)
    )
    structures = patient.sel(structure=[target, *chosen])
    measured = structures if "contour_points" in structures else structures["structures"]
    how = how_made(plans.values(), data, patient_spr["spr"], iterations)
    how["computing time"] = ", ".join(f"{name} plan {one.seconds:.0f} s" for name, one in made.items())
    asked = {
        "range error": f"{100.0 * range_error:g} % of the water-equivalent path",
        "set-up error": f"{setup_error:g} mm along x, y, z",
        "margin plan": f"nominal, {volume}",
        "robust plan": f"{len(planned)} scenarios, {robust.replace('_', '-')}",
        "evaluated in": f"{len(tested)} scenarios",
        "spots": f"{influence.n_spots}, the same for both",
    }
    above = f"only where the physical dose is at least {cases.LET_ABOVE * prescription:.2g} Gy per fraction"
    return Comparison(
        "plan", patient, grid, target, target, chosen, prescription, common.fractions, model, made, {}, maps, measured,
        prescription, above, how, _of_plans, cases.scenario_metrics(maps, measured), asked,
    )  # fmt: skip


def _greatest_depth(patient: xr.Dataset, wanted: plan.Plan) -> float:
    """Greatest water-equivalent depth (mm) of the target, mean over the beams."""
    scene = make_scene(patient, wanted)
    index = np.flatnonzero(scene.target >= 0.5)
    return float(np.mean([make_view(b, scene).wepl(index, scene).max() for b in wanted.beams]))


def _of_plans(made: Comparison) -> dict[str, str]:
    """D95 in steps of 2 % of the prescription, LETd the step of 5 keV/um below it."""
    found, said = made.in_scenarios(), {}
    for case in made.plans:
        d95, l98 = (metric.sel(case=case) for metric in found)
        nominal, worst = (2 * round(50.0 * float(v) / made.prescription) for v in (d95[0], d95.min()))
        let = [5 * int(float(v) // 5.0) for v in (l98[0], l98.min())]
        dose = f"D95 about {nominal} % of the prescription, worst about {worst} %"
        said[case] = f"{case:<7} {dose}; L98 above {let[0]} keV/um, worst above {let[1]} keV/um"
    return said
