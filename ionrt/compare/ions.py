"""The main question, end to end: the same target, the same prescribed RBE-weighted dose, one plan per ion."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import evaluate, plan, rbe
from ionrt.compare.cases import (
    ION_NAMES,
    LET_ABOVE,
    Planned,
    about_systems,
    asked_of,
    base_of,
    body_of,
    how_made,
    in_words,
    labelled,
    mean_let,
    nearest_organs,
    outside,
    planned_maps,
    planning_patient,
    side_by_side,
    system_of,
    whose,
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
    model: str
    made: Mapping[str, str]

    @property
    def systems(self) -> dict[str, str]:
        """The dose system of each ion's plan."""
        return {ion: one.plan.model for ion, one in self.plans.items()}

    @property
    def cases(self) -> dict[str, tuple[xr.Dataset, plan.Plan]]:
        """Field (z, y, x) and plan of each ion, for `ionrt.plot.explore`."""
        return {ION_NAMES[i]: (one.field.sum("beam", keep_attrs=True), one.plan) for i, one in self.plans.items()}

    @property
    def dosed(self) -> xr.DataArray:
        """Mask (ion, z, y, x) of the voxels in which LETd counts: those with a physical dose of at least `let_floor`."""
        return self.maps["dose"] >= self.let_floor

    @property
    def let_floor(self) -> float:
        """Least physical dose [Gy] per fraction where LETd counts: 2 % of the prescribed number of Gy (RBE)."""
        return LET_ABOVE * self.prescription

    @property
    def structures(self) -> xr.Dataset:
        """Target and organs with their contours, for histograms."""
        return self.patient.sel(structure=[self.target, *self.organs])

    @property
    def outlines(self) -> xr.DataArray:
        """Fractions of target and organs on the dose grid, for drawing."""
        return self.grid["structures"].sel(structure=[self.target, *self.organs])

    def histogram(self, quantity: str) -> xr.DataArray:
        """Volume histogram of ``dose``, ``rbe_dose``, ``let_d`` or ``rbe`` for target and organs, per ion.

        LETd and RBE: of the part of each structure that has dose (`dosed`).
        """
        if quantity in ("let_d", "rbe"):
            shown = self.maps[quantity].where(self.dosed)
            return evaluate.dvh(shown, self.structures).compute().assign_attrs(above=self._above)
        return evaluate.dvh(self.maps[quantity], self.structures).compute()

    @property
    def _above(self) -> str:
        return f"only where the physical dose is at least {self.let_floor:.2g} Gy per fraction"

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
        """One row per ion, those that do not reach among them: coverage, homogeneity, LETd, what lies outside the target."""
        return self._target_table.copy()

    @cached_property
    def _target_table(self) -> pd.DataFrame:
        t, target = self.target, self.structures.sel(structure=[self.target])
        dose = evaluate.statistics(self.maps["rbe_dose"], target, percent=(95, 2, 98, 50))
        let = evaluate.statistics(self.maps["let_d"].where(self.dosed), target, percent=(98,))
        mean = mean_let(self.maps, target, self.dosed)
        physical = evaluate.statistics(self.maps["dose"], target, percent=(50,))
        beyond = outside(self.body, self.grid, t)
        whole, weighted = (evaluate.integral_dose(self.maps[q], beyond) for q in ("dose", "rbe_dose"))
        rows = {}
        for ion, one in self.plans.items():
            d, key = dose.loc[(ion, t)], (ion, t)
            rows[ION_NAMES[ion]] = {
                "dose system": one.plan.model,
                f"{t} D95 [Gy (RBE)]": d["D95%"],
                f"{t} D2 [Gy (RBE)]": d["D2%"],
                f"{t} (D2 − D98) / D50": (d["D2%"] - d["D98%"]) / d["D50%"],
                f"{t} LETd mean [keV/µm]": float(mean.sel(ion=ion).squeeze()),
                f"{t} LETd L98 [keV/µm]": let.loc[key, "L98%"],
                f"{t} RBE-weighted / physical dose": d["mean"] / physical.loc[key, "mean"],
                f"RBE-weighted dose, entrance / {t}": self._ratio(ion, evaluate.entrance_to_target),
                f"RBE-weighted dose, behind / {t}": self._ratio(ion, evaluate.tail_to_target),
                f"RBE-weighted integral dose outside {t} [Gy (RBE) L]": float(weighted.sel(ion=ion).squeeze()),
                f"physical integral dose outside {t} [Gy L]": float(whole.sel(ion=ion).squeeze()),
            }
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("ion")
        return table.reindex([ION_NAMES[i] for i in (*self.plans, *self.unreachable)])

    def quality_table(self) -> pd.DataFrame:
        """Indices of the target (rows) per fraction and of the course, for each ion (columns); ICRU 83 and Paddick."""
        inside = self.grid["structures"].sel(structure=self.target, drop=True)
        found = evaluate.plan_quality(
            self.maps["rbe_dose"],
            self.structures.sel(structure=[self.target]),
            target=self.target,
            prescription=self.prescription,
            on_grid=inside,
        ).xs(self.target, level="structure")
        rows = {}
        for key in ("D98", "D95", "D50", "D2", "Dmean", "D0.03cc"):
            rows[(f"{key} [Gy (RBE)]", "per fraction")] = found[key]
            rows[(f"{key} [Gy (RBE)]", f"course of {self.fractions}")] = self.fractions * found[key]
        rows |= {("V95 [%]", ""): found["V95"], ("(D2 − D98) / D50", ""): found["HI"], ("Paddick conformity", ""): found["CI"]}
        table = pd.DataFrame({key: values.rename(index=ION_NAMES) for key, values in rows.items()}).T
        table.index = pd.MultiIndex.from_tuples(table.index, names=[f"{self.target}, RBE-weighted dose", ""])
        return table

    def goal_table(self, goals: Sequence[str]) -> pd.DataFrame:
        """Goals of the course (rows), with what each ion reaches and whether the goal is met (columns)."""
        found = evaluate.judge(
            self.maps["rbe_dose"], self.patient, goals, prescription=self.prescription, fractions=self.fractions
        )
        words = (found["reached"].map("{:.4g}".format) + " " + found["met"]).unstack("ion", sort=False)
        return words.rename(columns=ION_NAMES).rename_axis("goal of the course")

    def systems_table(self) -> pd.DataFrame:
        """The same plans (rows: ion and dose system) in every dose system that a reader may hold them against."""
        rows = {}
        for ion, one in self.plans.items():
            total = one.field.sum("beam", keep_attrs=True)
            for model in dict.fromkeys((one.plan.model, self.model)):
                parameters = next((p.plan.parameters for p in self.plans.values() if p.plan.model == model), {})
                weighted = rbe.apply_model(total, model, **parameters)
                mean = evaluate.mean_value(weighted, self.structures).compute()
                beyond = float(evaluate.integral_dose(weighted, outside(self.body, self.grid, self.target)).squeeze())
                rows[(ION_NAMES[ion], model + (" (planned)" if model == one.plan.model else ""))] = {
                    **{f"{s} mean [Gy (RBE)]": float(mean.sel(structure=s)) for s in (self.target, *self.organs)},
                    f"integral dose outside {self.target} [Gy (RBE) L]": beyond,
                }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index = pd.MultiIndex.from_tuples(table.index, names=["ion", "RBE-weighted dose in"])
        return table

    def organ_table(self) -> pd.DataFrame:
        """RBE-weighted dose per fraction and of the course, dose-weighted LETd of each organ (rows) for each ion (columns)."""
        if not self.organs:
            return pd.DataFrame(columns=[ION_NAMES[i] for i in self.plans]).rename_axis("no organ was found or asked for")
        organs = self.structures.sel(structure=list(self.organs))
        dose = evaluate.statistics(self.maps["rbe_dose"], organs, percent=(2,), cc=(0.03,))
        let, course = mean_let(self.maps, organs, self.dosed), f"course of {self.fractions}"
        rows = {}
        for organ in self.organs:
            for label, column, times in (
                ("Dmean [Gy (RBE)] per fraction", "mean", 1),
                (f"Dmean [Gy (RBE)] {course}", "mean", self.fractions),
                ("D2 [Gy (RBE)] per fraction", "D2%", 1),
                (f"D2 [Gy (RBE)] {course}", "D2%", self.fractions),
                (f"D0.03cc [Gy (RBE)] {course}", "D0.03cc", self.fractions),
            ):
                rows[(organ, label)] = {ION_NAMES[i]: times * dose.loc[(i, organ), column] for i in self.plans}
            rows[(organ, "LETd mean [keV/µm]")] = {ION_NAMES[i]: float(let.sel(ion=i, structure=organ)) for i in self.plans}
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index = pd.MultiIndex.from_tuples(table.index, names=["organ", "quantity"])
        return table

    def how_table(self) -> pd.DataFrame:
        """What the plans rest on, enough to make them again."""
        return pd.DataFrame({"": dict(self.made)}).rename_axis("")

    def summary_table(self) -> pd.DataFrame:
        """What was asked: target, prescription, dose system, beams, and the ions that reach or do not."""
        target = self.structures.sel(structure=[self.target])
        size = float(evaluate.mean_value(self.maps["dose"].isel(ion=0, drop=True), target)["volume"].squeeze())
        beams = ", ".join(f"gantry {b.gantry:g}°" for b in next(iter(self.plans.values())).plan.beams)
        rows = {
            "target": f"{self.target}, {size:.1f} cm³",
            "prescription": f"{self.prescription:g} Gy (RBE) per fraction, {self.fractions} fractions",
            "patient": whose(self.patient).rstrip(".") or "read from DICOM",
            "dose system": in_words(self.systems),
            "LETd": f"dose average, definition “{self.maps['let_d'].attrs['let_definition']}”",
            "beams": beams,
            "organs at risk": ", ".join(self.organs),
            "dose grid": " × ".join(f"{float(self.grid[d][1] - self.grid[d][0]):.2g}" for d in ("x", "y", "z")) + " mm",
            "ions that reach": ", ".join(ION_NAMES[i] for i in self.plans),
            "ions that do not": "; ".join(f"{ION_NAMES[i]}: {why}" for i, why in self.unreachable.items()) or "none",
        }
        return pd.DataFrame({"": rows}).rename_axis("")

    def caption(self, what: str, *, let: bool = True) -> str:
        """A caption with the definitions that every table needs; `let`: those of LETd, too."""
        system = in_words(self.systems)
        missing = "".join(f" {ION_NAMES[i].capitalize()} does not reach the target." for i in self.unreachable)
        definition = f"definition “{self.maps['let_d'].attrs['let_definition']}”"
        quality = f" LETd: dose average, {definition}, {self._above}, means weighted with dose." if let else ""
        return f"{what} {whose(self.patient)} Dose system: {system}.{about_systems(system)}{quality}{missing}"

    def key_numbers(self) -> str:
        """Rounded figures that must come out the same on every machine: LETd to 5 or 10 keV/um, the factor to 0.1."""
        table, lines = self.target_table(), []
        for ion in (*self.plans, *self.unreachable):
            if ion in self.unreachable:
                lines.append(f"{ion:<3} does not reach")
                continue
            row = table.loc[ION_NAMES[ion]]
            covered = "yes" if row[f"{self.target} D95 [Gy (RBE)]"] >= 0.95 * self.prescription else "NO"
            let, factor = row[f"{self.target} LETd mean [keV/µm]"], row[f"{self.target} RBE-weighted / physical dose"]
            step = 5 if let < 20.0 else 10
            lines.append(
                f"{ion:<3} {row['dose system']:<9} D95 at least 95 %: {covered}   RBE-weighted over physical dose {factor:.1f}"
                f"   LETd about {step * round(let / step)} keV/um"
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
    proton_model: str = "constant",
    parameters: Mapping[str, Any] | None = None,
    let_definition: str = "charged",
    spacing: float = 3.0,
    iterations: int = 200,
    calibration: str | Path | None = None,
    base: Mapping[str, xr.Dataset] | None = None,
) -> Comparison:
    """Plan the same target with each ion at the same prescribed RBE-weighted dose per fraction.

    Parameters
    ----------
    patient : Dataset of `read_dicom` (CT, structures, contours).
    target : its name; organs : names of organs at risk, default the four nearest structures.
    ions : of ``p He C O Ne``; gantry_angles : one beam each [degrees]; room : where.
    prescription : Gy (RBE) per fraction; fractions : number of fractions (for the record).
    model : one of `ionrt.rbe.MODELS` with its `parameters`; let_definition : of LETd.
    proton_model : dose system of protons where `model` is a clinical dose relative to a carbon beam (``nirs_mkm``): by default
        the constant RBE of 1.1 that proton clinics prescribe with.
    spacing : of the dose grid [mm]; iterations : of the optimiser at most; calibration : CSV with ``hu, spr``, default generic.
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
    wanted = {}
    for ion in (one_of(i, tuple(IONS), what="ion") for i in ions):
        system = system_of([ion], model, proton_model)
        settings = (target, prescription, fractions, system, (parameters or {}) if system == model else {}, objectives, spacing)
        wanted[ion] = plan.Plan(plan.beam_set(ion, gantry_angles, room=room), *settings, let_definition=let_definition)
    patient_spr, data = planning_patient(patient, calibration), base_of(wanted, base)
    made = side_by_side(lambda ion: _plan(patient_spr, wanted[ion], iterations, data, model), wanted, "ions")
    plans = {ion: one for ion, one in made.items() if isinstance(one, Planned)}
    unreachable = {ion: str(one) for ion, one in made.items() if isinstance(one, ReachError)}
    if not plans:
        raise IonrtError(f"no ion reaches {target!r}: {'; '.join(unreachable.values())}")
    system = in_words({ion: one.plan.model for ion, one in plans.items()})
    maps = xr.concat([_maps(one) for one in plans.values()], pd.Index(list(plans), name="ion"), combine_attrs="drop_conflicts")
    maps = labelled(maps, rbe_model=system, synthetic=patient.attrs.get("synthetic"))
    how = how_made([one.plan for one in plans.values()], data, patient_spr["spr"], iterations)
    how["spots per ion"] = ", ".join(f"{ION_NAMES[i]} {one.weights.size} in {one.seconds:.0f} s" for i, one in plans.items())
    return Comparison(
        patient, grid, target, chosen, prescription, fractions, plans, unreachable, maps, body_of(grid), model, how
    )


def _plan(
    patient: xr.Dataset, wanted: plan.Plan, iterations: int, base: Mapping[str, xr.Dataset], also: str
) -> Planned | ReachError:
    """The plan of one ion, its field with the moments of the model `also`; or why it does not reach."""
    start = time.perf_counter()
    try:
        influence = plan.influence(patient, wanted, base=base)
    except ReachError as error:
        return error
    weights = plan.optimise(patient, wanted, influence, iterations=iterations)
    field = plan.field(influence, weights, by="beam", **asked_of(wanted, also))
    return Planned(wanted, weights, field, time.perf_counter() - start)


def _rbe_dose(field: xr.Dataset, wanted: plan.Plan) -> xr.DataArray:
    return rbe.apply_model(field, wanted.model, **wanted.parameters)


def _maps(one: Planned) -> xr.Dataset:
    """Dose, LETd, RBE-weighted dose and RBE of the whole plan."""
    maps = planned_maps(one.plan, one.field.sum("beam", keep_attrs=True))
    ratio = (maps["rbe_dose"] / maps["dose"]).where(maps["dose"] > 0, 0.0)
    about = {k: maps["rbe_dose"].attrs[k] for k in ("rbe_model", "let_definition")}
    return maps.assign(rbe=stamp(ratio, "rbe", **about))
