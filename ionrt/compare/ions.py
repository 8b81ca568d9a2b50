"""The main question, end to end: the same target, the same prescribed RBE-weighted dose, one plan per ion."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import evaluate, plan, rbe
from ionrt.compare.cases import (
    ION_NAMES,
    Planned,
    asked_of,
    base_of,
    body_of,
    nearest_organs,
    planned_maps,
    planning_patient,
    side_by_side,
)
from ionrt.evaluate.profile import centroid
from ionrt.ions import IONS
from ionrt.let import let_d
from ionrt.patient import regrid
from ionrt.plan.setup.beams import ReachError
from ionrt.plan.setup.objectives import default_objectives
from ionrt.plan.setup.room import GANTRY_1
from ionrt.quantities import IonrtError, one_of, stamp


@dataclass(frozen=True)
class Comparison:
    """Plans of several ions for one target, on one grid.

    `patient` with contours on the CT grid, `grid` the same on the dose grid; `plans` per ion; `unreachable` {ion: reason};
    `maps` Dataset (ion, z, y, x) of ``dose``, ``let_d``, ``rbe``, ``rbe_dose`` per fraction; `body` fractions (z, y, x).
    """

    patient: xr.Dataset
    grid: xr.Dataset
    target: str
    organs: tuple[str, ...]
    prescription: float
    fractions: int
    plans: Mapping[str, Planned]
    unreachable: Mapping[str, str]
    maps: xr.Dataset
    body: xr.DataArray

    @property
    def structures(self) -> xr.Dataset:
        """Target and organs with their contours, for histograms."""
        return self.patient.sel(structure=[self.target, *self.organs])

    @property
    def outlines(self) -> xr.DataArray:
        """Fractions of target and organs on the dose grid, for drawing."""
        return self.grid["structures"].sel(structure=[self.target, *self.organs])

    def histogram(self, quantity: str) -> xr.DataArray:
        """Volume histogram of ``dose``, ``rbe_dose``, ``let_d`` or ``rbe`` for target and organs, per ion."""
        return evaluate.dvh(self.maps[quantity], self.structures).compute()

    def profiles(self, beam: int = 0) -> list[xr.DataArray]:
        """Dose, LETd and RBE-weighted dose of one beam alone along its axis, from the skin (0 mm) on, per ion."""
        through, direction = self._axis(beam)
        skin, _, far = self._crossings(beam)
        along = np.arange(skin, far + 80.0, 1.0)
        parts: dict[str, list[xr.DataArray]] = {"dose": [], "let_d": [], "rbe_dose": []}
        for ion, one in self.plans.items():
            alone = one.field.isel(beam=beam, drop=True)
            for da in (alone["dose"], let_d(alone), _rbe_dose(alone, one.plan)):
                line = evaluate.depth_profile(da, through=through, direction=direction, distance=along, radius=4.0)
                parts[str(da.name)].append(line.expand_dims(ion=[ion]))
        inside = parts["dose"][0].isel(ion=0, drop=True).notnull()
        joined = [xr.concat(p, "ion", combine_attrs="drop_conflicts").where(inside, drop=True) for p in parts.values()]
        return [da.assign_coords(distance=("distance", da["distance"].values - skin, {"units": "mm"})) for da in joined]

    def target_depth(self, beam: int = 0) -> tuple[float, float]:
        """Where the beam's axis enters and leaves the target, mm from the skin."""
        skin, near, far = self._crossings(beam)
        return near - skin, far - skin

    def target_table(self) -> pd.DataFrame:
        """One row per ion, those that do not reach among them: coverage, homogeneity, LETd, RBE, entrance, tail, cost."""
        return self._target_table.copy()

    @cached_property
    def _target_table(self) -> pd.DataFrame:
        target = self.structures.sel(structure=[self.target])
        dose = evaluate.statistics(self.maps["rbe_dose"], target, percent=(95, 2, 98, 50))
        let = evaluate.statistics(self.maps["let_d"], target, percent=(98,))
        physical = evaluate.statistics(self.maps["dose"], target, percent=(50,))
        whole = evaluate.integral_dose(self.maps["dose"], self.body)
        rows = {}
        for ion, one in self.plans.items():
            d, key = dose.loc[(ion, self.target)], (ion, self.target)
            rows[ION_NAMES[ion]] = {
                "D95 [Gy (RBE)]": d["D95%"],
                "D2 [Gy (RBE)]": d["D2%"],
                "homogeneity": (d["D2%"] - d["D98%"]) / d["D50%"],
                "LETd mean [keV/µm]": let.loc[key, "mean"],
                "LETd D98 [keV/µm]": let.loc[key, "L98%"],
                "RBE": d["mean"] / physical.loc[key, "mean"],
                "entrance / target": self._ratio(ion, evaluate.entrance_to_target),
                "tail / target": self._ratio(ion, evaluate.tail_to_target),
                "integral dose [Gy L]": float(whole.sel(ion=ion).squeeze()),
                "spots": one.weights.size,
                "time [s]": round(one.seconds),
            }
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("ion")
        return table.reindex([ION_NAMES[i] for i in (*self.plans, *self.unreachable)])

    def organ_table(self) -> pd.DataFrame:
        """Mean and D2 of the RBE-weighted dose and dose-weighted mean LETd of each organ (rows) for each ion (columns)."""
        if not self.organs:
            return pd.DataFrame(columns=[ION_NAMES[i] for i in self.plans]).rename_axis("no organ was found or asked for")
        organs = self.structures.sel(structure=list(self.organs))
        dose = evaluate.statistics(self.maps["rbe_dose"], organs, percent=(2,))
        physical = evaluate.mean_value(self.maps["dose"], organs).compute()
        moment = evaluate.mean_value((self.maps["dose"] * self.maps["let_d"]).rename("dose").drop_attrs(), organs).compute()
        rows = {}
        for organ in self.organs:
            for label, of in {
                "mean [Gy (RBE)]": lambda i, o=organ: dose.loc[(i, o), "mean"],
                "D2 [Gy (RBE)]": lambda i, o=organ: dose.loc[(i, o), "D2%"],
                "LETd [keV/µm]": lambda i, o=organ: float((moment / physical).sel(ion=i, structure=o)),
            }.items():
                rows[(organ, label)] = {ION_NAMES[i]: of(i) for i in self.plans}
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index = pd.MultiIndex.from_tuples(table.index, names=["organ", "per fraction"])
        return table

    def summary_table(self) -> pd.DataFrame:
        """What was asked: target, prescription, dose system, beams, and the ions that reach or do not."""
        target = self.structures.sel(structure=[self.target])
        size = float(evaluate.mean_value(self.maps["dose"].isel(ion=0, drop=True), target)["volume"].squeeze())
        beams = ", ".join(f"gantry {b.gantry:g}°" for b in next(iter(self.plans.values())).plan.beams)
        rows = {
            "target": f"{self.target}, {size:.1f} cm³",
            "prescription": f"{self.prescription:g} Gy (RBE) per fraction, {self.fractions} fractions",
            "RBE model": str(self.maps["rbe_dose"].attrs["rbe_model"]),
            "LETd": f"dose average, definition “{self.maps['let_d'].attrs['let_definition']}”",
            "beams": beams,
            "organs at risk": ", ".join(self.organs),
            "dose grid": " × ".join(f"{float(self.grid[d][1] - self.grid[d][0]):.2g}" for d in ("x", "y", "z")) + " mm",
            "ions that reach": ", ".join(ION_NAMES[i] for i in self.plans),
            "ions that do not": "; ".join(f"{ION_NAMES[i]}: {why}" for i, why in self.unreachable.items()) or "none",
        }
        return pd.DataFrame({"": rows}).rename_axis("")

    def caption(self, what: str) -> str:
        """A caption with the definitions that every table needs."""
        model, let = self.maps["rbe_dose"].attrs["rbe_model"], self.maps["let_d"].attrs["let_definition"]
        missing = "".join(f" {ION_NAMES[i].capitalize()} does not reach the target." for i in self.unreachable)
        return f"{what} RBE model: {model}; LETd: dose average, definition “{let}”; doses per fraction.{missing}"

    def key_numbers(self) -> str:
        """Rounded figures that must come out the same on every machine: LETd to 5 keV/um, RBE to 0.1."""
        table, lines = self.target_table(), []
        for ion in (*self.plans, *self.unreachable):
            if ion in self.unreachable:
                lines.append(f"{ion:<3} does not reach")
                continue
            row = table.loc[ION_NAMES[ion]]
            covered = "yes" if row["D95 [Gy (RBE)]"] >= 0.95 * self.prescription else "NO"
            let = row["LETd mean [keV/µm]"]
            lines.append(
                f"{ion:<3} D95 at least 95 %: {covered}   RBE {row['RBE']:.1f}   LETd about {5 * round(let / 5)} keV/um"
            )
        return "\n".join(lines)

    def _axis(self, beam: int) -> tuple[np.ndarray, np.ndarray]:
        first = next(iter(self.plans.values())).plan.beams[beam]
        return centroid(self.grid["structures"].sel(structure=self.target)), -first.axes[2]

    def _crossings(self, beam: int) -> tuple[float, float, float]:
        """Distance [mm] along the axis of skin, near and far end of the target; 0 at the centre of the target."""
        through, direction = self._axis(beam)
        along = np.arange(-600.0, 600.5, 0.5)
        inside = [
            evaluate.depth_profile(one, through=through, direction=direction, distance=along) > 0.5
            for one in (self.grid["structures"].sel(structure=self.target, drop=True), self.body)
        ]
        target, body = inside
        at = target["distance"].values
        return float(at[body.values].min()), float(at[target.values].min()), float(at[target.values].max())

    def _ratio(self, ion: str, of: Any) -> float:
        """Mean over the beams of a ratio of RBE-weighted dose, each beam alone."""
        one, target = self.plans[ion], self.grid["structures"].sel(structure=self.target)
        found = []
        for k, beam in enumerate(one.plan.beams):
            alone = _rbe_dose(one.field.isel(beam=k, drop=True), one.plan)
            found.append(float(of(alone, target, self.body, direction=-beam.axes[2])))
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def compare_ions(
    patient: xr.Dataset,
    *,
    target: str = "CTV",
    organs: Sequence[str] = (),
    ions: Sequence[str] = tuple(IONS),
    gantry_angles: Sequence[float] = (90.0, 270.0),
    room: plan.Room = GANTRY_1,
    prescription: float = 3.6,
    fractions: int = 16,
    model: str = "nirs_mkm",
    parameters: Mapping[str, Any] | None = None,
    let_definition: str = "charged",
    spacing: float = 3.0,
    iterations: int = 200,
    base: Mapping[str, xr.Dataset] | None = None,
) -> Comparison:
    """Plan the same target with each ion at the same prescribed RBE-weighted dose per fraction.

    Parameters
    ----------
    patient : Dataset of `read_dicom` (CT, structures, contours).
    target : its name; organs : names of organs at risk, default the four nearest structures.
    ions : of ``p He C O Ne``; gantry_angles : one beam each [degrees]; room : where.
    prescription : Gy (RBE) per fraction; fractions : number of fractions (for the record).
    model : one of `ionrt.rbe.MODELS` with its `parameters`, for all ions; let_definition : of LETd.
    spacing : of the dose grid [mm]; iterations : of the optimiser at most.
    base : {ion: Dataset}, base data of your own, default `ionrt.beam.base_data`.

    Returns
    -------
    Comparison. Ions that do not reach are listed in `unreachable` with the reason.

    Errors
    ------
    IonrtError for unknown structures, ions or models, a prescription that is not positive, or if no ion reaches.
    """
    if not prescription > 0:
        raise IonrtError(f"prescription: expected a positive prescription in Gy (RBE) per fraction, got {prescription!r}")
    names = [str(s) for s in patient["structure"].values] if "structure" in patient.coords else []
    one_of(target, names, what="target")
    grid = regrid(patient, spacing=spacing)
    grid["structures"] = grid["structures"].compute()
    chosen = tuple(one_of(o, names, what="organ") for o in organs) or nearest_organs(grid, target)
    objectives = default_objectives(target, prescription, names, organs=chosen)
    settings = (target, prescription, fractions, model, parameters or {}, objectives, spacing)
    wanted = {
        ion: plan.Plan(plan.beam_set(ion, gantry_angles, room=room), *settings, let_definition=let_definition)
        for ion in (one_of(i, tuple(IONS), what="ion") for i in ions)
    }
    patient_spr, data = planning_patient(patient), base_of(wanted, base)
    made = side_by_side(lambda ion: _plan(patient_spr, wanted[ion], iterations, data), wanted, "ions")
    plans = {ion: one for ion, one in made.items() if isinstance(one, Planned)}
    unreachable = {ion: str(one) for ion, one in made.items() if isinstance(one, ReachError)}
    if not plans:
        raise IonrtError(f"no ion reaches {target!r}: {'; '.join(unreachable.values())}")
    maps = xr.concat([_maps(one) for one in plans.values()], pd.Index(list(plans), name="ion"), combine_attrs="drop_conflicts")
    return Comparison(patient, grid, target, chosen, prescription, fractions, plans, unreachable, maps, body_of(grid))


def _plan(patient: xr.Dataset, wanted: plan.Plan, iterations: int, base: Mapping[str, xr.Dataset]) -> Planned | ReachError:
    """The plan of one ion, or why it does not reach."""
    start = time.perf_counter()
    try:
        influence = plan.influence(patient, wanted, base=base)
    except ReachError as error:
        return error
    weights = plan.optimise(patient, wanted, influence, iterations=iterations)
    field = plan.field(influence, weights, by="beam", **asked_of(wanted))
    return Planned(wanted, weights, field, time.perf_counter() - start)


def _rbe_dose(field: xr.Dataset, wanted: plan.Plan) -> xr.DataArray:
    return rbe.apply_model(field, wanted.model, **wanted.parameters)


def _maps(one: Planned) -> xr.Dataset:
    """Dose, LETd, RBE-weighted dose and RBE of the whole plan."""
    maps = planned_maps(one.plan, one.field.sum("beam", keep_attrs=True))
    ratio = (maps["rbe_dose"] / maps["dose"]).where(maps["dose"] > 0, 0.0)
    about = {k: maps["rbe_dose"].attrs[k] for k in ("rbe_model", "let_definition")}
    return maps.assign(rbe=stamp(ratio, "rbe", **about))
