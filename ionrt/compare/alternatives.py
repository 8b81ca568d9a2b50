"""Which ion, which mix of ions, which room: the same target and aims planned in several ways, a shared beam computed once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from ionrt import plan
from ionrt.compare import cases
from ionrt.compare.cases import KEV, LET_ABOVE, Planned
from ionrt.compare.comparison import Comparison
from ionrt.compare.how import how_made
from ionrt.ions import IONS, in_words
from ionrt.plan.engine.influence import BeamInfluence, Influence
from ionrt.plan.mixture import join_influences
from ionrt.plan.setup.beams import ReachError
from ionrt.plan.setup.objectives import Objective, default_objectives
from ionrt.plan.setup.room import GANTRY_1
from ionrt.plan.setup.scene import Scene, make_scene
from ionrt.plan.solve.assemble import in_scenario
from ionrt.quantities import IonrtError, one_of, stamp


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
    store: str | Path | None = None,
) -> Comparison:
    """Plan the same target with each ion at the same prescribed RBE-weighted dose per fraction.

    Structures are measured by their contours; the maps are on the dose grid.

    Parameters
    ----------
    patient : Dataset of `read_dicom` (CT, structures, contours).
    target : its name.
    organs : names of organs at risk, default the four nearest structures.
    ions : of ``p He C O Ne``.
    gantry_angles : one beam each [degrees].
    room : where.
    prescription : Gy (RBE) per fraction.
    fractions : number of fractions (for the record).
    model, parameters : one of `ionrt.rbe.MODELS` and its parameters.
    proton_model : dose system of protons where `model` is a clinical dose relative to a carbon beam (``nirs_mkm``): by default
        the constant RBE of 1.1 that proton clinics prescribe with.
    let_definition : of LETd.
    spacing : of the dose grid [mm].
    iterations : of the optimiser at most.
    calibration : CSV with ``hu, spr``, default generic.
    base : {ion: Dataset}, base data of your own, default `ionrt.beam.base_data`.
    store : folder that keeps influences, from which another prescription, dose system or objective is planned without computing
        doses again.

    Returns
    -------
    Comparison
        One case per ion; those that do not reach are listed in `unreachable` with the reason.

    Raises
    ------
    IonrtError
        Unknown structures, ions or models, a prescription that is not positive, or no ion reaches.
    """
    if not prescription > 0:
        raise IonrtError(f"prescription: expected a positive prescription in Gy (RBE) per fraction, got {prescription!r}")
    grid, chosen = cases.structures_of(patient, target, organs, spacing)
    objectives = default_objectives(target, prescription, grid, organs=chosen)
    wanted = {}
    for ion in (one_of(i, tuple(IONS), what="ion") for i in ions):
        beams = plan.beam_set(ion, gantry_angles, room=room)
        settings = cases.system_and_parameters([ion], model, proton_model, parameters)
        settings |= {"objectives": objectives, "spacing": spacing, "let_definition": let_definition}
        wanted[ion] = plan.Plan(beams, target, prescription, fractions, **settings)
    measured = patient.sel(structure=[target, *chosen])
    return _compare("ion", patient, grid, wanted, target, chosen, measured, model, iterations, calibration, base, store)


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
    parameters: Mapping[str, Any] | None = None,
    proton_model: str = "constant",
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
    store: str | Path | None = None,
) -> Comparison:
    """Plan the same target in several ways with the same objectives; beams that options share are computed once.

    Structures are measured as fractions of the dose grid's voxels.

    Parameters
    ----------
    patient, target, organs, prescription, fractions, model, parameters, let_definition : as in `compare_ions`.
    spacing, iterations, calibration, base, store : likewise.
    proton_model : dose system of options with protons alone, where `model` is relative to a carbon beam.
    options : {name: beams}, e.g. of `ionrt.plan.beam_set`; one room each.
    gtv : where LETd is judged, default the target.
    let_minimum : LETd [keV/um] below which a voxel of the GTV is penalised, the same for every option (None: no such
        objective).
    let_weight : of that objective, per (keV/um)2.
    limits : further objectives of `ionrt.plan`, the same for every option, e.g. organ limits.
    margin : around the target that spots cover [mm].
    spot_spacing : in the isocentre plane [mm].
    scenarios : of `ionrt.plan`, the nominal one first, for worst cases of target and GTV; the plans are nominal.

    Returns
    -------
    Comparison
        One case per option; those of which a beam does not reach are listed in `unreachable` with the reason.

    Raises
    ------
    IonrtError
        Unknown structures, ions or models, a prescription that is not positive, or no option reaches.
    """
    grid, chosen = cases.structures_of(patient, target, organs, spacing)
    gtv = one_of(gtv or target, [str(s) for s in grid["structure"].values], what="gtv")
    if not options:
        raise IonrtError("compare_options: expected at least one option, {name: beams}")
    objectives: list[Objective] = [*default_objectives(target, prescription, grid, organs=chosen), *limits]
    if let_minimum is not None:
        objectives.append(plan.SquaredUnderdose(gtv, weight=let_weight, quantity="let_d", level=let_minimum))
    plans = {}
    for name, beams in options.items():
        beams = tuple(beams)
        settings = cases.system_and_parameters([b.ion for b in beams], model, proton_model, parameters)
        settings |= {"objectives": tuple(objectives), "let_definition": let_definition}
        settings |= {"spacing": spacing, "margin": margin, "spot_spacing": spot_spacing}
        plans[name] = plan.Plan(beams, target, prescription, fractions, **settings)
    measured = grid["structures"].sel(structure=list(dict.fromkeys([target, gtv, *chosen])))
    asked = (measured, model, iterations, calibration, base, store, scenarios)
    return _compare("option", patient, grid, plans, gtv, chosen, *asked)


def _compare(
    kind: str,
    patient: xr.Dataset,
    grid: xr.Dataset,
    plans: Mapping[str, plan.Plan],
    gtv: str,
    organs: tuple[str, ...],
    measured: xr.Dataset | xr.DataArray,
    model: str,
    iterations: int,
    calibration: str | Path | None,
    base: Mapping[str, xr.Dataset] | None,
    store: str | Path | None,
    under: Sequence[plan.Scenario] = (),
) -> Comparison:
    """Plan every case, two at a time, ions with their field by beam, options by ion; LETd of ions counts from a share of the
    prescription on, that of options from one of their own dose in the target."""
    first = next(iter(plans.values()))
    target = first.target
    patient_spr = cases.planning_patient(patient, calibration)
    data = cases.base_of((b.ion for p in plans.values() for b in p.beams), base)
    times = Counter(b for p in plans.values() for b in p.beams)
    shared = [b for b, n in times.items() if n > 1 or under]
    reach = partial(_influence, data=data, store=store)
    parts = cases.side_by_side(lambda b: reach(patient_spr, replace(first, beams=(b,))), shared, "beams") if shared else {}
    by, also = ("beam", (model,)) if kind == "ion" else ("ion", ())
    work = partial(_planned, patient_spr, parts, reach, by, also, iterations)
    made = cases.side_by_side(lambda case: work(plans[case]), plans, f"{kind}s")
    done = {case: one for case, one in made.items() if isinstance(one, Planned)}
    unreachable = {case: str(one) for case, one in made.items() if isinstance(one, ReachError)}
    if not done:
        raise IonrtError(f"no {kind} reaches {target!r}: {'; '.join(dict.fromkeys(unreachable.values()))}")
    systems = {case: one.plan.model for case, one in done.items()}
    maps = cases.labelled([_maps(one) for one in done.values()], done, patient, systems)
    level, above = _let_counts(kind, maps, grid, target, first.prescription)
    metrics = _under(patient_spr, grid, parts, done, gtv, under) if under else None
    how = how_made([one.plan for one in done.values()], data, patient_spr["spr"], iterations)
    how["spots, computing time"] = "; ".join(
        f"{in_words(c)} {one.weights.size}, planned in {one.seconds:.0f} s" for c, one in done.items()
    )
    return Comparison(
        kind, patient, grid, target, gtv, organs, first.prescription, first.fractions, model, done, unreachable, maps, measured,
        level, above, how, _of_ions if kind == "ion" else _of_options, metrics,
    )  # fmt: skip


def _let_counts(
    kind: str, maps: xr.Dataset, grid: xr.Dataset, target: str, prescription: float
) -> tuple[float | xr.DataArray, str]:
    """The dose [Gy] that the threshold of LETd is a share of, and that threshold in words."""
    if kind == "ion":
        floor = LET_ABOVE * prescription
        return prescription, f"only where the physical dose is at least {floor:.2g} Gy per fraction"
    inside = grid["structures"].sel(structure=target, drop=True) > 0.5
    words = f"only where the physical dose is at least {100 * LET_ABOVE:g} % of its median in the target"
    return maps["dose"].where(inside).median(("z", "y", "x")), words


def _influence(
    patient: xr.Dataset, wanted: plan.Plan, *, data: Mapping[str, xr.Dataset], store: str | Path | None
) -> Influence | ReachError:
    """The influence of a plan, or why it does not reach."""
    try:
        return plan.influence(patient, wanted, base=data, store=store)
    except ReachError as error:
        return error


def _planned(
    patient: xr.Dataset,
    parts: Mapping[plan.Beam, Influence | ReachError],
    reach: Callable[[xr.Dataset, plan.Plan], Influence | ReachError],
    by: str,
    also: Iterable[str],
    iterations: int,
    wanted: plan.Plan,
) -> Planned | ReachError:
    """One plan with its field, also with the moments of the models `also`; or why it does not reach."""
    start = time.perf_counter()
    own = tuple(b for b in wanted.beams if b not in parts)
    found = [parts[b] for b in wanted.beams if b in parts]
    found += [reach(patient, replace(wanted, beams=own))] if own else []
    reached = [one for one in found if isinstance(one, Influence)]
    if len(reached) < len(found):
        return next(one for one in found if isinstance(one, ReachError))
    influence = join_influences(wanted, reached)
    weights = plan.optimise(patient, wanted, influence, iterations=iterations)
    field = plan.field(influence, weights, by=by, **cases.asked_of(wanted, *also))
    return Planned(wanted, weights, field, time.perf_counter() - start)


def _maps(one: Planned) -> xr.Dataset:
    """Dose, LETd, RBE-weighted dose and RBE of the whole plan."""
    maps = cases.planned_maps(one.plan, one.field.sum([d for d in ("beam", "ion") if d in one.field.dims], keep_attrs=True))
    ratio = (maps["rbe_dose"] / maps["dose"]).where(maps["dose"] > 0, 0.0)
    about = {k: maps["rbe_dose"].attrs[k] for k in ("rbe_model", "let_definition")}
    return maps.assign(rbe=stamp(ratio, "rbe", **about))


def _moved(
    parts: Mapping[plan.Beam, Influence], scene: Scene, scenario: plan.Scenario, index: np.ndarray, beam: plan.Beam
) -> BeamInfluence:
    return in_scenario(parts[beam], scene, scenario, index)[0]


def _under(
    patient: xr.Dataset,
    grid: xr.Dataset,
    parts: Mapping[plan.Beam, Any],
    made: Mapping[str, Planned],
    gtv: str,
    scenarios: Sequence[plan.Scenario],
) -> xr.Dataset:
    """Metrics of target and GTV of every plan under every scenario; only their voxels are computed."""
    wanted = next(iter(made.values())).plan
    inside = grid["structures"].sel(structure=list(dict.fromkeys([wanted.target, gtv])))
    index = np.flatnonzero((inside > 0.0).any("structure").transpose("z", "y", "x").values.ravel())
    scene, used = make_scene(patient, wanted), dict.fromkeys(b for one in made.values() for b in one.plan.beams)
    found = []
    for scenario in tqdm(scenarios, desc="scenarios", disable=None):
        moved = cases.side_by_side(partial(_moved, parts, scene, scenario, index), used, scenario.label)
        rows = []
        for one in made.values():
            there = join_influences(one.plan, [replace(parts[b], beams=(moved[b],)) for b in one.plan.beams])
            maps = cases.planned_maps(one.plan, plan.field(there, one.weights, **cases.asked_of(one.plan)))
            rows.append(cases.scenario_metrics(maps, inside))
        found.append(xr.concat(rows, pd.Index(list(made), name="case"), combine_attrs="drop_conflicts"))
    labels = pd.Index([s.label for s in scenarios], name="scenario")
    return xr.concat(found, labels, combine_attrs="drop_conflicts").transpose("case", "scenario", "structure")


def _of_ions(made: Comparison) -> dict[str, str]:
    """LETd to 5 or 10 keV/um, RBE-weighted over physical dose to 0.1."""
    table, said, t = made.target_table(), {}, made.target
    for case in made.plans:
        row = table.loc[in_words(case)]
        covered = "yes" if row[f"{t} D95 [%]"] >= 95.0 else "NO"
        let, factor = row[f"{t} LETd mean {KEV}"], row[f"{t} RBE-weighted / physical dose"]
        step = 5 if let < 20.0 else 10
        said[case] = (
            f"{case:<3} {made.systems[case]:<9} D95 at least 95 %: {covered}   RBE-weighted over physical dose {factor:.1f}"
            f"   LETd about {step * round(let / step)} keV/um"
        )
    return said


def _of_options(made: Comparison) -> dict[str, str]:
    """Coverage, and LETd against that of the first option."""
    table = made.target_table()
    let, said = table[f"{made.gtv} LETd L98 {KEV}"], {}
    for case in made.plans:
        covered = "yes" if table.loc[case, f"{made.target} D95 [%]"] >= 95.0 else "NO"
        more = "yes" if let[case] > let.iloc[0] + 8.0 else "no"
        said[case] = f"{case}: D95 at least 95 %: {covered}; LETd L98 more than 8 keV/um above {let.index[0]}: {more}"
    return said
