"""What every comparison starts from and ends in: a patient, the organs near a target, the body; maps of a planned field."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from ionrt import evaluate, plan, rbe
from ionrt.beam import base_data, read_matrad
from ionrt.beam.store import read_file
from ionrt.evaluate.histograms import mean_value
from ionrt.evaluate.profile import centroid
from ionrt.files import cache_folder, content_hash
from ionrt.ions import IONS, in_words
from ionrt.let import let_d
from ionrt.parallel import each
from ionrt.patient import read_dicom, regrid, stopping_power_ratio, write_phantom
from ionrt.patient.calibration import GENERIC
from ionrt.patient.geometry.margins import with_margin
from ionrt.patient.geometry.structures import find_structure
from ionrt.patient.names import kinds_of, organs_of, outline_of
from ionrt.patient.phantom import recipe
from ionrt.plan.engine.influence import Influence
from ionrt.plan.setup.machine import base_of as base_of_ion
from ionrt.quantities import IonrtError, one_of, stamp

AT_ONCE = 2
LEAST = 0.002  # of a structure that has dose, where its LET counts
LET_ABOVE = 0.02  # LETd counts where the physical dose [Gy] is at least this share of the prescription [Gy (RBE)]
CARBON_CLINIC = ("nirs_mkm",)  # clinical doses relative to a carbon beam: their ratio to physical dose is no RBE
GY, KEV = "[Gy (RBE)]", "[keV/µm]"
METRICS = {"D95": "rbe_dose", "D2": "rbe_dose", "mean": "rbe_dose", "L98": "let_d"}


@dataclass(frozen=True)
class Planned:
    """What is kept of one plan: the plan itself, its spot weights, its field, the time it took [s]; its influence if asked."""

    plan: plan.Plan
    weights: xr.DataArray
    field: xr.Dataset
    seconds: float
    influence: Influence | None = None


def open_patient(
    folder: str | Path | None = None, *, anatomy: str = "pelvis", gap: float = 0.0, shift: float = 0.0
) -> xr.Dataset:
    """The patient in a DICOM folder; without one, a built-in SYNTHETIC phantom, written as DICOM once and read back.

    Parameters
    ----------
    folder : DICOM folder, empty for the phantom.
    anatomy, gap, shift : of the phantom, as in `write_phantom`.

    Returns
    -------
    Dataset of `ionrt.read_dicom`; that of the phantom says ``synthetic`` in its attributes.

    Raises
    ------
    IonrtError
        As of `ionrt.read_dicom`; no such anatomy.
    """
    if folder:
        return read_dicom(folder)
    parts = recipe(anatomy, gap=gap, shift=shift)
    place = cache_folder(f"phantom-{content_hash(parts.to_csv())}")
    made = read_dicom(write_phantom(place, anatomy=anatomy, gap=gap, shift=shift))
    return made.assign({k: v.assign_attrs(synthetic=anatomy) for k, v in made.data_vars.items()}).assign_attrs(
        synthetic=anatomy
    )


def whose(patient: xr.Dataset) -> str:
    """A sentence for captions that says where the patient is a phantom; empty for one that was read from files.

    Parameters
    ----------
    patient : Dataset of `open_patient` or `read_dicom`.

    Returns
    -------
    str
    """
    kind = patient.attrs.get("synthetic")
    return f"SYNTHETIC patient ({kind} phantom)." if kind else ""


def system_of(ions: Iterable[str], model: str, proton_model: str) -> str:
    """The dose system of a plan: protons alone take their own where `model` is a clinical dose relative to a carbon beam."""
    return proton_model if set(ions) == {"p"} and model in CARBON_CLINIC else model


def system_and_parameters(
    ions: Iterable[str], model: str, proton_model: str, parameters: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The dose system of a plan and its parameters, as `Plan` takes them; those given are of `model`."""
    system = system_of(ions, model, proton_model)
    return {"model": system, "parameters": (parameters or {}) if system == model else {}}


def structures_of(
    patient: xr.Dataset, target: str, organs: Sequence[str], spacing: float
) -> tuple[xr.Dataset, tuple[str, ...]]:
    """The patient on the dose grid, the organs asked for or nearest."""
    names = list(kinds_of(patient))
    one_of(target, names, what="target")
    grid = regrid(patient, spacing=spacing)
    grid["structures"] = grid["structures"].compute()
    return grid, tuple(one_of(o, names, what="organ") for o in organs) or nearest_organs(grid, target)


def widened(patient: xr.Dataset, wanted: plan.Plan, margin: float, name: str) -> tuple[xr.Dataset, plan.Plan]:
    """The patient with the target and `margin` mm around it, within the outline; the plan that wishes there what it does."""
    wider = with_margin(patient, wanted.target, margin=margin, name=name, within=outline_of(patient))
    aims = tuple(replace(o, structure=name) if o.structure == wanted.target else o for o in wanted.objectives or ())
    return wider, replace(wanted, objectives=aims)


def two_levels(rows: Mapping[Any, Mapping[str, Any]], names: Sequence[str]) -> pd.DataFrame:
    """A table with one row per pair of labels, which these names are of."""
    table = pd.DataFrame.from_dict(dict(rows), orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=list(names))
    return table


def systems_of(systems: Mapping[str, str]) -> str:
    """Dose systems of several plans as one attribute: the one they share, or each with the plans that have it."""
    kinds = dict.fromkeys(systems.values())
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{k} ({', '.join(name for name, of in systems.items() if of == k)})" for k in kinds)


def about_systems(systems: Iterable[str]) -> str:
    """What a reader must know of the dose systems of a table; empty where nothing is special."""
    if not set(systems) & set(CARBON_CLINIC):
        return ""
    return (
        " NIRS-mMKM is a clinical dose relative to a carbon beam: over physical dose it gives a clinical factor, not an RBE,"
        " and for protons and helium it is no dose of their own clinics."
    )


def outside(body: xr.DataArray, grid: xr.Dataset, target: str) -> xr.DataArray:
    """The body without the target, as fractions."""
    return (body * (1.0 - grid["structures"].sel(structure=target, drop=True))).rename("structures")


def labelled(maps: Iterable[xr.Dataset], cases: Iterable[str], patient: xr.Dataset, systems: Mapping[str, str]) -> xr.Dataset:
    """Maps of several plans under one another along ``case``, each saying its dose systems and whether it is SYNTHETIC."""
    joined = xr.concat(list(maps), pd.Index(list(cases), name="case"), combine_attrs="drop_conflicts")
    about = {"rbe_model": systems_of(systems)}
    if kind := patient.attrs.get("synthetic"):
        about["synthetic"] = kind
    return xr.Dataset({name: da.assign_attrs(about) for name, da in joined.data_vars.items()})


def mean_let(maps: xr.Dataset, structures: xr.DataArray | xr.Dataset, where: xr.DataArray) -> xr.DataArray:
    """Mean LETd of each structure, weighted as LETd is itself, of the voxels in `where` only; NaN where it has less than 0.2 %
    of them."""
    dose = maps["counted_dose" if "counted_dose" in maps else "dose"].where(where, 0.0).drop_attrs()
    moment = (dose * maps["let_d"].drop_attrs().fillna(0.0)).rename("dose")
    below = mean_value(dose.rename("dose"), structures).compute()
    return mean_value(moment, structures).compute() / below.where((below > 0) & has_dose(where, structures).values)


def has_dose(where: xr.DataArray, structures: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """Whether a structure has at least 0.2 % of its voxels in `where`; less say nothing of the LET in it."""
    return mean_value(where.drop_attrs().astype(np.float32).rename("dose"), structures).compute() >= LEAST


def planning_patient(patient: xr.Dataset, calibration: str | Path | None = None) -> xr.Dataset:
    """The patient with its stopping-power ratio instead of CT numbers, worked out once for all plans with one calibration."""
    if "ct" not in patient or "spr" in patient:
        return patient
    spr = stopping_power_ratio(patient["ct"], table=calibration or GENERIC)
    return patient.drop_vars("ct").assign(spr=spr)


def body_of(grid: xr.Dataset) -> xr.DataArray:
    """The outline where there is one, else what is denser than air."""
    if (outline := outline_of(grid)) is not None:
        return grid["structures"].sel(structure=outline, drop=True)
    return stamp((grid["ct"] > -400.0).astype(np.float32), "structures")


def nearest_organs(grid: xr.Dataset, target: str, n: int = 4) -> tuple[str, ...]:
    """The `n` structures nearest to the centre of the target that are neither outlines nor target volumes.

    Where the structure set says which are organs, only those are asked; what it calls a target volume is none.

    Parameters
    ----------
    grid : Dataset with ``structures`` as fractions (structure, z, y, x).
    target : name of the target.
    n : how many.

    Returns
    -------
    tuple of names, the nearest first; fewer where there are not as many.

    Raises
    ------
    IonrtError
        No such target, or one without volume on the grid.
    """
    kinds = kinds_of(grid)
    candidates = organs_of(kinds, target)
    organs = [s for s in candidates if kinds[s] == "ORGAN"] or candidates
    x, y, z = centroid(find_structure(grid, target))
    distance = np.sqrt((grid["x"] - x) ** 2 + (grid["y"] - y) ** 2 + (grid["z"] - z) ** 2)
    away = {s: float(distance.where(grid["structures"].sel(structure=s, drop=True) > 0.25).min()) for s in organs}
    return tuple(sorted((s for s in organs if np.isfinite(away[s])), key=away.__getitem__)[:n])


def side_by_side(work: Callable[[Any], Any], items: Iterable[Any], what: str) -> dict[Any, Any]:
    """{item: work(item)} with a progress bar, two at a time: one keeps the cores busy in the serial parts of the other."""
    items = list(items)
    with tqdm(total=len(items), desc=what, disable=None) as bar:

        def one(item: Any) -> Any:
            done = work(item)
            bar.update()
            return done

        return dict(zip(items, each(one, items, AT_ONCE), strict=True))


def base_of(ions: Iterable[str], base: Mapping[str, xr.Dataset] | None) -> dict[str, xr.Dataset]:
    """The base data of a comparison, read once: those given, else ours."""
    return {ion: base_of_ion(ion, base) for ion in dict.fromkeys(ions)}


def open_machine(files: Mapping[str, str], ions: Iterable[str]) -> dict[str, xr.Dataset] | None:
    """Base data of the ions from files of a machine, ours for those without; None where there is no file.

    Parameters
    ----------
    files : {ion: path}, netCDF of `ionrt.beam.export` or matRad's .mat.
    ions : that will be planned.

    Returns
    -------
    {ion: Dataset} of `ionrt.beam.base_data`, or None.

    Raises
    ------
    IonrtError
        No such ion, a file that does not exist or is no base data.
    """
    if not files:
        return None
    if not isinstance(files, Mapping) or not all(isinstance(path, (str, Path)) for path in files.values()):
        raise IonrtError(f"machine: expected {{ion: file}}, for instance {{'C': 'carbon.nc'}}, got {files!r:.80}")
    for ion, path in files.items():
        one_of(ion, tuple(IONS), what="machine: ion")
        if not os.path.isfile(path):
            raise IonrtError(f"machine: {ion}: no file {str(path)!r}; expected base data as .nc or matRad .mat")
    read = {i: read_matrad(f) if Path(f).suffix == ".mat" else read_file(Path(f)) for i, f in files.items()}
    for ion, data in read.items():
        if data.attrs["ion"] != ion:
            raise IonrtError(f"machine: {ion}: {Path(files[ion]).name} holds base data of {in_words(data.attrs['ion'])}")
    return {ion: read[ion] if ion in read else base_data(ion) for ion in dict.fromkeys([*ions, *read])}


def asked_of(wanted: plan.Plan, *models: str) -> dict[str, Any]:
    """What a plan wants in its field, as `ionrt.field` and `ionrt.plan.fields.scenario_field` take it; also for `models`."""
    parameters = {wanted.model: wanted.parameters} if wanted.parameters else None
    return {
        "models": tuple(dict.fromkeys((wanted.model, *models))),
        "let_definition": wanted.let_definition,
        "parameters": parameters,
    }


def planned_maps(wanted: plan.Plan, total: xr.Dataset) -> xr.Dataset:
    """Dose, LETd and RBE-weighted dose per fraction, each with the definitions of the plan."""
    weighted = rbe.apply_model(total, wanted.model, **wanted.parameters)
    about = {"rbe_model": wanted.model, "let_definition": wanted.let_definition, "per": "fraction"}
    maps = {n: total[n] for n in ("dose", "counted_dose") if n in total} | {"let_d": let_d(total), "rbe_dose": weighted}
    return xr.Dataset({name: da.assign_attrs(about) for name, da in maps.items()})


def reach_table(maps: Iterable[xr.Dataset]) -> pd.DataFrame:
    """How many directions of each room reach the whole target with each ion, and by how much.

    Parameters
    ----------
    maps : Datasets of `ionrt.plan.reach`, one per room.

    Returns
    -------
    DataFrame, one row per (room, ion): directions looked at, those where the depth is known, those that reach, smallest and
    largest margin of the known ones [mm].

    Raises
    ------
    IonrtError
        Maps of something else.
    """
    rows = {}
    for found in maps:
        if "reach_margin" not in found:
            raise IonrtError("reach_table: expected Datasets of ionrt.plan.reach")
        for ion in found["ion"].values:
            margin = found["reach_margin"].sel(ion=ion)
            known = margin.values[np.isfinite(margin.values)]
            rows[(found.attrs["room"], in_words(str(ion)))] = {
                "directions": margin.size,
                "depth known": known.size,
                "reach": int(found["reaches"].sel(ion=ion).sum()),
                "smallest margin [mm water]": known.min() if known.size else np.nan,
                "largest margin [mm water]": known.max() if known.size else np.nan,
            }
    return two_levels(rows, ["room", "ion"])


def scenario_metrics(maps: xr.Dataset, structures: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """``D95``, ``D2``, ``mean`` [Gy (RBE)] and ``L98`` [keV/um] of each structure in maps (.., z, y, x)."""
    dose, let = maps["rbe_dose"], maps["let_d"]
    at = evaluate.dose_at_volume(dose, structures, percent=(95.0, 2.0)).compute()
    found = {
        "D95": at.sel(percent=95.0, drop=True),
        "D2": at.sel(percent=2.0, drop=True),
        "mean": mean_value(dose, structures).compute(),
        "L98": evaluate.dose_at_volume(let, structures, percent=98.0).compute(),
    }
    return xr.Dataset({k: v.drop_vars(["volume", "outside", "percent"], errors="ignore").rename(k) for k, v in found.items()})


def as_quantity(metric: xr.DataArray) -> xr.DataArray:
    """A metric under the name of its quantity, as `evaluate.band` and figures want it."""
    return metric.rename(METRICS[str(metric.name)]).assign_attrs(metric=metric.name)
