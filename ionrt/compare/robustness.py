"""Does a plan survive range and set-up errors, in dose and in LETd? A margin plan and a robust plan, under the same errors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import evaluate, plan
from ionrt.compare.cases import (
    ION_NAMES,
    LET_ABOVE,
    Planned,
    about_systems,
    asked_of,
    base_of,
    how_made,
    labelled,
    nearest_organs,
    planned_maps,
    planning_patient,
    system_of,
    whose,
)
from ionrt.ions import IONS
from ionrt.patient import regrid, with_margin
from ionrt.patient.names import is_external
from ionrt.plan.setup.objectives import Objective, default_objectives
from ionrt.plan.setup.room import GANTRY_1
from ionrt.plan.setup.scene import make_scene
from ionrt.plan.setup.spots import make_view
from ionrt.quantities import IonrtError, one_of

PLANS = ("margin", "robust")
SPOT_MARGIN = 5.0  # mm of spots beyond the volume that must be covered


@dataclass(frozen=True)
class Robustness:
    """A margin plan and a robust plan of one target under the same errors.

    `patient` with contours on the CT grid; `margin` mm of the margin plan; `range_error` relative, `setup_error` mm;
    `planned` the scenarios that the robust plan saw, `tested` those under which both are evaluated; `influence` of the spots,
    which both plans share; `plans` by name; `maps` Dataset (plan, scenario, z, y, x) of ``rbe_dose`` and ``let_d`` per
    fraction, in target and organs.
    """

    patient: xr.Dataset
    target: str
    organs: tuple[str, ...]
    prescription: float
    margin: float
    range_error: float
    setup_error: float
    planned: tuple[plan.Scenario, ...]
    tested: tuple[plan.Scenario, ...]
    influence: plan.Influence
    plans: Mapping[str, Planned]
    maps: xr.Dataset
    made: Mapping[str, str]

    @property
    def cases(self) -> dict[str, tuple[xr.Dataset, plan.Plan]]:
        """Field (z, y, x) of each plan in each scenario, in target and organs, for `ionrt.plot.explore`."""
        return {
            f"{name}, {label}": (one.field.isel(scenario=k, drop=True), one.plan)
            for name, one in self.plans.items()
            for k, label in enumerate(map(str, one.field["scenario"].values))
        }

    @cached_property
    def grid(self) -> xr.Dataset:
        """The patient on the dose grid."""
        return regrid(self.patient, spacing=self.influence.plan.spacing)

    @property
    def structures(self) -> xr.Dataset | xr.DataArray:
        """Target and organs for histograms: with their contours, where the patient has them."""
        chosen = self.patient.sel(structure=[self.target, *self.organs])
        return chosen if "contour_points" in chosen else chosen["structures"]

    def histogram(self, quantity: str) -> xr.DataArray:
        """Band over scenarios (statistic) of the volume histogram of ``rbe_dose`` or ``let_d``, per plan and structure."""
        shown = self.maps[quantity]
        if quantity != "let_d":
            return evaluate.band(evaluate.dvh(shown, self.structures).compute())
        floor = LET_ABOVE * self.prescription  # voxels without dose have no LETd that matters
        bands = evaluate.band(evaluate.dvh(shown.where(self.maps["dose"] >= floor), self.structures).compute())
        return bands.assign_attrs(above=f"only where the physical dose is at least {floor:.2g} Gy per fraction")

    def how_table(self) -> pd.DataFrame:
        """What the plans rest on, enough to make them again."""
        return pd.DataFrame({"": dict(self.made)}).rename_axis("")

    @cached_property
    def metrics(self) -> xr.Dataset:
        """Per plan, scenario and structure: ``D95``, ``D2``, ``mean`` [Gy (RBE)] and ``L98``, ``LET`` (mean) [keV/um]."""
        dose, let, where = self.maps["rbe_dose"], self.maps["let_d"], self.structures
        at = evaluate.dose_at_volume(dose, where, percent=(95.0, 2.0)).compute()
        low = evaluate.dose_at_volume(let, where, percent=98.0).compute()
        found = {
            "D95": at.sel(percent=95.0, drop=True),
            "D2": at.sel(percent=2.0, drop=True),
            "mean": evaluate.mean_value(dose, where).compute(),
            "L98": low,
            "LET": evaluate.mean_value(let, where).compute(),
        }
        return xr.Dataset(
            {k: v.drop_vars(["volume", "outside", "percent"], errors="ignore").rename(k) for k, v in found.items()}
        )

    def in_scenarios(self) -> list[xr.DataArray]:
        """D95 and L98 of the target (plan, scenario), named as their quantities, for drawing."""
        found = self.metrics.sel(structure=self.target, drop=True)
        return [_as_quantity(found[m]).assign_attrs(metric=m) for m in ("D95", "L98")]

    def worst_table(self) -> pd.DataFrame:
        """Nominal, expected and worst value of coverage, LETd and organ doses (rows) for each plan (columns)."""
        found, rows = self.metrics, {}
        lowest = [(self.target, "D95", "min", "Gy (RBE)"), (self.target, "L98", "min", "keV/µm")]
        highest = [(self.target, "D2", "max", "Gy (RBE)")]
        highest += [(organ, metric, "max", "Gy (RBE)") for organ in self.organs for metric in ("D2", "mean")]
        for structure, metric, worst, unit in (*lowest, *highest):
            values = evaluate.band(_as_quantity(found[metric].sel(structure=structure, drop=True)), percent=())
            for label, statistic in (("nominal", "nominal"), ("expected", "expected"), ("worst", worst)):
                name = (f"{structure} {metric} [{unit}]", label)
                rows[name] = {p: float(values.sel(statistic=statistic, plan=p)) for p in self.plans}
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index = pd.MultiIndex.from_tuples(table.index, names=["per fraction", "over scenarios"])
        return table

    def scenario_table(self) -> pd.DataFrame:
        """D95 and L98 of the target (columns, per plan) in each scenario (rows)."""
        found = self.metrics.sel(structure=self.target)
        columns = {
            f"{metric} [{unit}], {p}": found[metric].sel(plan=p).values
            for metric, unit in (("D95", "Gy (RBE)"), ("L98", "keV/µm"))
            for p in self.plans
        }
        return pd.DataFrame(columns, index=pd.Index(found["scenario"].values, name="scenario"))

    def courses(self, patient_count: int = 4, *, fractions: int = 4, seed: int = 1, name: str = "robust") -> pd.DataFrame:
        """Systematic and random part of D95 and L98 of the target, from courses with daily set-up errors.

        Standard deviations: half the tested range error; systematic and daily set-up half the tested set-up error each.
        """
        one, half = self.plans[name], 0.5 * self.setup_error
        drawn = plan.scenarios_random(
            patient_count,
            seed=seed,
            range_sigma=0.5 * self.range_error,
            setup_sigma=half,
            daily_sigma=half,
            fractions=fractions,
        )
        found = plan.scenario_field(
            self.patient, self.influence, one.weights, drawn, within=(self.target,), **asked_of(one.plan)
        )
        maps = planned_maps(one.plan, found)
        target = self.structures.sel(structure=[self.target])
        rows = {}
        for label, da_, percent in (
            ("D95 [Gy (RBE)]", maps["rbe_dose"], 95.0),
            ("L98 [keV/µm]", maps["let_d"], 98.0),
        ):
            metric = evaluate.dose_at_volume(da_, target, percent=percent).isel(structure=0).compute()
            parts = evaluate.error_parts(metric)
            rows[label] = {str(p): float(parts.sel(part=p)) for p in parts["part"].values}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("per fraction")

    def summary_table(self) -> pd.DataFrame:
        """What was compared."""
        first = self.plans[PLANS[0]].plan
        beams = ", ".join(b.name for b in first.beams)
        rows = {
            "patient": whose(self.patient).rstrip(".") or "read from DICOM",
            "target": self.target,
            "prescription": f"{self.prescription:g} Gy (RBE) per fraction",
            "dose system": first.model,
            "beams": beams,
            "range error": f"{100.0 * self.range_error:g} % of the water-equivalent path",
            "set-up error": f"{self.setup_error:g} mm along x, y, z",
            "margin plan": f"nominal, {self.target} + {self.margin:.1f} mm",
            "robust plan": f"{len(self.planned)} scenarios, {self._how()}",
            "evaluated in": f"{len(self.tested)} scenarios",
            "spots": f"{self.influence.n_spots}, the same for both",
        }
        return pd.DataFrame({"": rows}).rename_axis("")

    def key_numbers(self) -> str:
        """Rounded figures, the same on every machine: D95 in steps of 2 % of the prescription, LETd of 5 keV/um."""
        found, lines = self.metrics.sel(structure=self.target), []
        for name in self.plans:
            one = found.sel(plan=name)
            nominal, worst = (2 * round(50.0 * float(v) / self.prescription) for v in (one["D95"][0], one["D95"].min()))
            let = [5 * round(float(v) / 5.0) for v in (one["L98"][0], one["L98"].min())]
            dose = f"D95 about {nominal} % of the prescription, worst about {worst} %"
            lines.append(f"{name:<7} {dose}; L98 about {let[0]} keV/um, worst about {let[1]} keV/um")
        return "\n".join(lines)

    @property
    def ions(self) -> str:
        """A sentence for captions."""
        ions = " + ".join(dict.fromkeys(ION_NAMES[b.ion] for b in self.influence.plan.beams))
        return f"{whose(self.patient)} Ions: {ions}.".strip()

    def caption(self, what: str) -> str:
        """A caption with the definitions that every table needs."""
        model, let = self.maps["rbe_dose"].attrs["rbe_model"], self.maps["let_d"].attrs["let_definition"]
        return (
            f"{what} {self.ions} Dose system: {model}.{about_systems(model)} LETd: dose average, definition “{let}”; doses per"
            " fraction."
        )

    def _how(self) -> str:
        objectives = self.plans["robust"].plan.objectives or ()
        return ", ".join(dict.fromkeys(o.robust for o in objectives if o.robust != "nominal")).replace("_", "-")


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
    proton_model: str = "constant",
    parameters: Mapping[str, Any] | None = None,
    let_definition: str = "charged",
    spacing: float = 3.0,
    robust: str = "voxel_worst",
    goals: Sequence[Objective] = (),
    tested: Sequence[plan.Scenario] | None = None,
    iterations: int = 200,
    calibration: str | Path | None = None,
    base: Mapping[str, xr.Dataset] | None = None,
) -> Robustness:
    """Plan a target twice, with a margin and robustly, and deliver both under range and set-up errors.

    The margin plan covers target + (set-up error + range error times the target's greatest water-equivalent depth); the robust
    plan sees the nine scenarios with one error at a time, the objectives on the target counting as `robust` says. Both have the
    same directions, spots and objectives.

    Parameters
    ----------
    patient : Dataset of `read_dicom`; target : structure; organs : to spare, default the four nearest.
    ions, gantry_angles : one beam for each pair; room : where.
    range_error : relative; setup_error : mm per axis; prescription : Gy (RBE) per fraction.
    model, parameters, let_definition : of RBE-weighted dose and LETd; proton_model : of a plan with protons alone, where
        `model` is relative to a carbon beam; spacing : of the dose grid [mm]; calibration : CSV with ``hu, spr``.
    robust : how target objectives count, one of `ionrt.plan.objectives.ROBUST`; goals : further objectives of both plans,
        those on the target made robust in the robust plan (e.g. a least LETd).
    tested : scenarios of the evaluation, the nominal one first, default `ionrt.plan.scenarios_grid`; iterations : at most;
    base : base data of your own.

    Returns
    -------
    Robustness. Errors: IonrtError as of `ionrt.influence`, `ionrt.optimise`; no error to be robust against.
    """
    if not range_error + setup_error > 0.0:
        raise IonrtError("compare_robustness: range_error and setup_error are 0; there is nothing to be robust against")
    planned = plan.scenarios_single(range_shift=range_error, setup=setup_error)
    tested = plan.scenarios_grid(range_shift=range_error, setup=setup_error) if tested is None else tuple(tested)
    if not tested or not tested[0].is_nominal:
        raise IonrtError("tested: expected scenarios of which the first is the nominal one")
    names = [str(s) for s in patient["structure"].values] if "structure" in patient.coords else []
    one_of(target, names, what="target")
    grid = regrid(patient, spacing=spacing)
    chosen = tuple(one_of(o, names, what="organ") for o in organs) or nearest_organs(grid, target)
    beams = tuple(plan.Beam(one_of(i, tuple(IONS), what="ion"), float(a), room=room) for i in ions for a in gantry_angles)
    system, patient_spr = system_of(ions, model, proton_model), planning_patient(patient, calibration)
    data = base_of(ions, base)
    common = plan.Plan(
        beams,
        target,
        prescription,
        model=system,
        parameters=(parameters or {}) if system == model else {},
        spacing=spacing,
        let_definition=let_definition,
        objectives=(*default_objectives(target, prescription, names, organs=chosen), *goals),
    )
    margin = setup_error + range_error * _greatest_depth(patient_spr, common)
    volume = f"{target} + {margin:.1f} mm"
    common = replace(common, margin=SPOT_MARGIN + margin)
    outline = next((n for n in names if is_external(n)), None)
    wider = with_margin(patient_spr, target, margin=margin, name=volume, within=outline)
    influence = plan.influence(wider, common, base=data)
    objectives = {
        "margin": tuple(replace(o, structure=volume) if o.structure == target else o for o in common.objectives or ()),
        "robust": plan.make_robust(common.objectives or (), robust=robust, structures=[target]),
    }
    plans, seconds = {name: replace(common, objectives=objectives[name]) for name in PLANS}, {}
    weights = {}
    for name, seen in zip(PLANS, ((), planned), strict=True):
        start = time.perf_counter()
        weights[name] = plan.optimise(wider, plans[name], influence, scenarios=seen, iterations=iterations)
        seconds[name] = time.perf_counter() - start
    both = xr.concat(list(weights.values()), pd.Index(PLANS, name="plan"), join="exact", combine_attrs="drop_conflicts")
    fields = plan.scenario_field(patient_spr, influence, both, tested, within=(target, *chosen), **asked_of(common))
    made = {name: Planned(plans[name], weights[name], fields.sel(plan=name, drop=True), seconds[name]) for name in PLANS}
    maps = planned_maps(common, fields)
    maps = labelled(maps, synthetic=patient.attrs.get("synthetic"))
    how = how_made(plans.values(), data, patient_spr["spr"], iterations)
    how["time"] = ", ".join(f"{name} plan {one.seconds:.0f} s" for name, one in made.items())
    return Robustness(
        patient,
        target,
        chosen,
        prescription,
        margin,
        range_error,
        setup_error,
        planned,
        tested,
        influence,
        made,
        maps,
        how,
    )


def _greatest_depth(patient: xr.Dataset, wanted: plan.Plan) -> float:
    """Greatest water-equivalent depth (mm) of the target, mean over the beams."""
    scene = make_scene(patient, wanted)
    index = np.flatnonzero(scene.target >= 0.5)
    return float(np.mean([make_view(b, scene).wepl(index, scene).max() for b in wanted.beams]))


def _as_quantity(metric: xr.DataArray) -> xr.DataArray:
    """A metric under the name of its quantity, as `evaluate.band` wants it."""
    return metric.rename("let_d" if metric.name in ("L98", "LET") else "rbe_dose")
