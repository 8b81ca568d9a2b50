"""Options for one target at equal aims: mixes of ions, rooms, angles. A beam that options share is computed once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from ionrt import evaluate, plan
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
from ionrt.patient import regrid
from ionrt.plan.engine.influence import BeamInfluence
from ionrt.plan.setup.beams import ReachError
from ionrt.plan.setup.objectives import Objective, default_objectives
from ionrt.plan.setup.scene import Scene, make_scene
from ionrt.plan.solve.assemble import in_scenario
from ionrt.quantities import IonrtError, one_of, stamp

ABOVE = f"only where the physical dose is at least {100 * LET_ABOVE:g} % of its median in the target"


@dataclass(frozen=True)
class Options:
    """Plans of several options for one target, on one grid.

    `grid` patient on the dose grid; `options` by name; `unreachable` {name: reason}; `maps` Dataset (option, z, y, x) of
    ``dose``, ``let_d``, ``rbe_dose`` per fraction; `errors` Dataset (option, scenario) of ``rbe_dose`` (D95 of the target)
    and ``let_d`` (D98 in the GTV), None without scenarios; `body` fractions (z, y, x).
    """

    patient: xr.Dataset
    grid: xr.Dataset
    target: str
    gtv: str
    organs: tuple[str, ...]
    prescription: float
    options: Mapping[str, Planned]
    unreachable: Mapping[str, str]
    maps: xr.Dataset
    errors: xr.Dataset | None
    body: xr.DataArray
    made: Mapping[str, str]

    @property
    def cases(self) -> dict[str, tuple[xr.Dataset, plan.Plan]]:
        """Field (z, y, x) and plan of each option, for `ionrt.plot.explore`."""
        return {name: (one.field.sum("ion", keep_attrs=True), one.plan) for name, one in self.options.items()}

    @property
    def outlines(self) -> xr.DataArray:
        """Fractions of target, GTV and organs on the dose grid."""
        return self.grid["structures"].sel(structure=list(dict.fromkeys([self.target, self.gtv, *self.organs])))

    def histogram(self, quantity: str) -> xr.DataArray:
        """Volume histogram of ``dose``, ``rbe_dose`` or ``let_d`` for target, GTV and organs, per option (as ``ion``)."""
        shown = self.maps[quantity].rename(option="ion")
        if quantity != "let_d":
            return evaluate.dvh(shown, self.outlines).compute()
        return evaluate.dvh(shown.where(self.dosed(LET_ABOVE)), self.outlines).compute().assign_attrs(above=ABOVE)

    def how_table(self) -> pd.DataFrame:
        """What the plans rest on, enough to make them again."""
        return pd.DataFrame({"": dict(self.made)}).rename_axis("")

    @property
    def systems(self) -> dict[str, str]:
        """The dose system of each option."""
        return {name: one.plan.model for name, one in self.options.items()}

    def target_table(self) -> pd.DataFrame:
        """One row per option: LETd in the GTV, coverage of the target, both under scenarios, dose outside the target."""
        aim, t, g = self.prescription, self.target, self.gtv
        dose = evaluate.statistics(self.maps["rbe_dose"], self._one(self.target), percent=(95, 2))
        let = evaluate.statistics(self.maps["let_d"], self._one(self.gtv), percent=(98,))
        mean = mean_let(self.maps, self._one(g), self.dosed(LET_ABOVE).rename(ion="option"))
        beyond = outside(self.body, self.grid, t)
        whole, weighted = (evaluate.integral_dose(self.maps[q], beyond).squeeze("structure") for q in ("dose", "rbe_dose"))
        rows = {}
        for name in self.options:
            d, q = dose.loc[(name, t)], let.loc[(name, g)]
            row = {
                f"{g} LETd L98 [keV/µm]": q["L98%"],
                f"{g} LETd mean [keV/µm]": float(mean.sel(option=name).squeeze()),
                f"{t} D95 [%]": 100 * d["D95%"] / aim,
            }
            if self.errors is not None:
                worst = self.errors.sel(option=name).min("scenario")
                row |= {
                    f"{t} worst-case D95 [%]": 100 * float(worst["rbe_dose"]) / aim,
                    f"{g} worst-case LETd L98 [keV/µm]": float(worst["let_d"]),
                }
            rows[name] = row | {
                f"{t} D2 [%]": 100 * d["D2%"] / aim,
                f"RBE-weighted integral dose outside {t} [Gy (RBE) L]": float(weighted.sel(option=name)),
                f"physical integral dose outside {t} [Gy L]": float(whole.sel(option=name)),
            }
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("option")
        return table.reindex([*self.options, *self.unreachable])

    def organ_table(self) -> pd.DataFrame:
        """Mean and D2 of the RBE-weighted dose of each organ (columns) for each option (rows), per fraction."""
        if not self.organs:
            return pd.DataFrame(index=pd.Index(list(self.options), name="option"))
        found = evaluate.statistics(self.maps["rbe_dose"], self._one(*self.organs), percent=(2,))
        rows = {
            name: {
                f"{o} {k} [Gy (RBE)]": found.loc[(name, o), c]
                for o in self.organs
                for k, c in (("mean", "mean"), ("D2", "D2%"))
            }
            for name in self.options
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("option")

    def spot_table(self) -> pd.DataFrame:
        """Spots, particles and energies of each option and beam."""
        parts = {name: plan.spot_table(one.weights) for name, one in self.options.items()}
        return pd.concat(parts, names=["option", "beam"])

    def share_table(self) -> pd.DataFrame:
        """Share of each ion (columns, %) in the mean physical dose of the target, for each option (rows)."""
        inside = self.grid["structures"].sel(structure=self.target)
        rows = {}
        for name, one in self.options.items():
            part = (one.field["dose"] * inside).sum(("z", "y", "x"), dtype=float)
            rows[name] = {ION_NAMES[str(i)]: 100 * float((part / part.sum()).sel(ion=i)) for i in part["ion"].values}
        return pd.DataFrame.from_dict(rows, orient="index").fillna(0.0).rename_axis("option")

    def dosed(self, share: float) -> xr.DataArray:
        """Mask (ion, z, y, x) of voxels with at least `share` of the median dose in the target; options as ``ion``."""
        inside = self.grid["structures"].sel(structure=self.target) > 0.5
        dose = self.maps["dose"].rename(option="ion")
        return dose >= share * dose.where(inside).median(("z", "y", "x"))

    def key_numbers(self) -> str:
        """What must come out the same on every machine: coverage, and LETd against that of the first option."""
        table, lines = self.target_table(), []
        let = table[f"{self.gtv} LETd L98 [keV/µm]"]
        for name in table.index:
            if name in self.unreachable:
                lines.append(f"{name}: does not reach")
                continue
            covered = "yes" if table.loc[name, f"{self.target} D95 [%]"] >= 95.0 else "NO"
            more = "yes" if let[name] > let.iloc[0] + 8.0 else "no"
            lines.append(f"{name}: D95 at least 95 %: {covered}; LETd L98 more than 8 keV/um above {let.index[0]}: {more}")
        return "\n".join(lines)

    def caption(self, what: str) -> str:
        """A caption with the definitions that every table needs."""
        system, let = in_words(self.systems), self.maps["let_d"].attrs["let_definition"]
        missing = "".join(f" {name} does not reach the target." for name in self.unreachable)
        return (
            f"{what} {whose(self.patient)} Dose system: {system}.{about_systems(system)} LETd: dose average, definition"
            f" “{let}”, means weighted with dose; doses per fraction.{missing}"
        )

    def _one(self, *names: str) -> xr.DataArray:
        return self.grid["structures"].sel(structure=list(names))


def compare_options(
    patient: xr.Dataset,
    options: Mapping[str, Iterable[plan.Beam]],
    *,
    target: str,
    gtv: str | None = None,
    organs: Sequence[str] = (),
    prescription: float = 3.6,
    fractions: int = 16,
    model: str = "nirs_mkm",
    proton_model: str = "constant",
    parameters: Mapping[str, Any] | None = None,
    let_definition: str = "charged",
    let_minimum: float | None = None,
    let_weight: float = 0.1,
    limits: Sequence[Objective] = (),
    spacing: float = 4.0,
    margin: float = 5.0,
    spot_spacing: float | None = None,
    iterations: int = 100,
    scenarios: Sequence[plan.Scenario] = (),
    calibration: str | Path | None = None,
    base: Mapping[str, xr.Dataset] | None = None,
) -> Options:
    """Plan the same target in several ways with the same objectives; beams that options share are computed once.

    Parameters
    ----------
    patient : Dataset of `read_dicom`; options : {name: beams}, e.g. of `ionrt.plan.beam_set`; one room each.
    target : structure that is prescribed to; gtv : where LETd is judged, default the target; organs : default the four nearest.
    prescription : Gy (RBE) per fraction; fractions : for the record; model : one of `ionrt.rbe.MODELS` with its `parameters`.
    proton_model : dose system of options with protons alone, where `model` is relative to a carbon beam.
    let_definition : of LETd; let_minimum : LETd [keV/um] below which a voxel of the GTV is penalised, the same for every option
        (None: no such objective), with `let_weight` per (keV/um)2.
    limits : further objectives of `ionrt.plan`, the same for every option, e.g. organ limits.
    spacing : of the dose grid, margin : around the target that spots cover, spot_spacing : in the isocentre plane [mm].
    iterations : of the optimiser at most.
    scenarios : of `ionrt.plan`, for worst-case values of target and GTV; the plans themselves are nominal.
    calibration : CSV with ``hu, spr``, default generic; base : {ion: Dataset}, default `ionrt.beam.base_data`.

    Returns
    -------
    Options. Those of which a beam does not reach are listed in `unreachable` with the reason.

    Errors
    ------
    IonrtError for unknown structures, ions or models, a prescription that is not positive, or if no option reaches.
    """
    names = [str(s) for s in patient["structure"].values] if "structure" in patient.coords else []
    gtv = one_of(gtv or target, names, what="gtv")
    one_of(target, names, what="target")
    if not options:
        raise IonrtError("compare_options: expected at least one option, {name: beams}")
    grid = regrid(patient, spacing=spacing)
    grid["structures"] = grid["structures"].compute()
    chosen = tuple(one_of(o, names, what="organ") for o in organs) or nearest_organs(grid, target)
    objectives: list[Objective] = [*default_objectives(target, prescription, names, organs=chosen), *limits]
    if let_minimum is not None:
        objectives.append(plan.SquaredUnderdose(gtv, weight=let_weight, quantity="let_d", level=let_minimum))
    plans = {}
    for name, beams in options.items():
        beams = tuple(beams)
        system = system_of([b.ion for b in beams], model, proton_model)
        given = (parameters or {}) if system == model else {}
        plans[name] = plan.Plan(
            beams,
            target,
            prescription,
            fractions,
            system,
            given,
            tuple(objectives),
            spacing,
            margin,
            spot_spacing,
            let_definition,
        )
    patient_spr = planning_patient(patient, calibration)
    data = base_of((b.ion for p in plans.values() for b in p.beams), base)
    tried = _influences(patient_spr, plans, data)
    late = {b: r for b, r in tried.items() if isinstance(r, ReachError)}
    parts = {b: i for b, i in tried.items() if not isinstance(i, ReachError)}
    unreachable = {name: str(late[b]) for name, p in plans.items() for b in p.beams if b in late}
    reached = {name: p for name, p in plans.items() if name not in unreachable}
    if not reached:
        raise IonrtError(f"no option reaches {target!r}: {'; '.join(unreachable.values())}")
    joined = {name: plan.join_influences(p, [parts[b] for b in p.beams]) for name, p in reached.items()}
    made = side_by_side(lambda n: _optimised(patient_spr, joined[n], iterations), reached, "options")
    errors = _in_scenarios(patient_spr, grid, joined, made, gtv, scenarios) if scenarios else None
    maps = [planned_maps(one.plan, one.field.sum("ion", keep_attrs=True)) for one in made.values()]
    together = xr.concat(maps, pd.Index(list(made), name="option"), combine_attrs="drop_conflicts")
    system = in_words({n: p.model for n, p in reached.items()})
    together = labelled(together, rbe_model=system, synthetic=patient.attrs.get("synthetic"))
    how = how_made(reached.values(), data, patient_spr["spr"], iterations)
    how["spots"] += "; " + ", ".join(f"{n}: {one.weights.size} spots in {one.seconds:.0f} s" for n, one in made.items())
    return Options(patient, grid, target, gtv, chosen, prescription, made, unreachable, together, errors, body_of(grid), how)


def _influences(
    patient: xr.Dataset, plans: Mapping[str, plan.Plan], data: Mapping[str, xr.Dataset]
) -> dict[plan.Beam, plan.Influence | ReachError]:
    """The influence of every beam once, or why it does not reach."""
    settings = next(iter(plans.values()))
    beams = list(dict.fromkeys(b for p in plans.values() for b in p.beams))

    def one(beam: plan.Beam) -> plan.Influence | ReachError:
        try:
            return plan.influence(patient, replace(settings, beams=(beam,)), base=data)
        except ReachError as error:
            return error

    return side_by_side(one, beams, "beams")


def _optimised(patient: xr.Dataset, influence: plan.Influence, iterations: int) -> Planned:
    start, wanted = time.perf_counter(), influence.plan
    weights = plan.optimise(patient, wanted, influence, iterations=iterations)
    seconds = time.perf_counter() - start
    return Planned(wanted, weights, plan.field(influence, weights, by="ion", **asked_of(wanted)), seconds)


def _under(
    single: Mapping[plan.Beam, plan.Influence], scene: Scene, scenario: plan.Scenario, index: np.ndarray, beam: plan.Beam
) -> BeamInfluence:
    return in_scenario(single[beam], scene, scenario, index)[0]


def _in_scenarios(
    patient: xr.Dataset,
    grid: xr.Dataset,
    joined: Mapping[str, plan.Influence],
    made: Mapping[str, Planned],
    gtv: str,
    scenarios: Sequence[plan.Scenario],
) -> xr.Dataset:
    """D95 of the target and LETd D98 in the GTV of every option under every scenario; only their voxels are computed."""
    first = next(iter(joined.values()))
    target = first.plan.target
    inside = grid["structures"].sel(structure=list(dict.fromkeys([target, gtv])))
    index = np.flatnonzero((inside > 0.0).any("structure").transpose("z", "y", "x").values.ravel())
    scene = make_scene(patient, first.plan)
    single = {b.beam: replace(one, beams=(b,)) for one in joined.values() for b in one.beams}
    dose, let = (np.empty((len(made), len(scenarios))) for _ in range(2))
    for s, scenario in enumerate(tqdm(scenarios, desc="scenarios", disable=None)):
        under = partial(_under, single, scene, scenario, index)
        moved = side_by_side(under, single, scenario.label)
        for k, (name, one) in enumerate(made.items()):
            there = replace(joined[name], beams=tuple(moved[b] for b in one.plan.beams))
            maps = planned_maps(one.plan, plan.field(there, one.weights, **asked_of(one.plan)))
            dose[k, s] = evaluate.dose_at_volume(maps["rbe_dose"], inside.sel(structure=[target]), percent=95).item()
            let[k, s] = evaluate.dose_at_volume(maps["let_d"], inside.sel(structure=[gtv]), percent=98).item()
    coords = {"option": list(made), "scenario": [s.label for s in scenarios]}
    about = {"rbe_model": in_words({n: one.plan.model for n, one in made.items()}), "let_definition": first.plan.let_definition}
    values = {"rbe_dose": (dose, {"metric": "D95", "structure": target}), "let_d": (let, {"metric": "D98", "structure": gtv})}
    return xr.Dataset(
        {n: stamp(xr.DataArray(v, dims=tuple(coords), coords=coords), n, **about, **more) for n, (v, more) in values.items()}
    )
