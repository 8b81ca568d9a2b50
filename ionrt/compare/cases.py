"""What every comparison starts from and ends in: a patient, the organs near a target, the body; maps of a planned field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from ionrt import plan, rbe
from ionrt.beam import base_data
from ionrt.evaluate.profile import centroid
from ionrt.files import cache_folder, content_hash
from ionrt.let import let_d
from ionrt.parallel import each
from ionrt.patient import read_dicom, recipe, stopping_power_ratio, write_phantom
from ionrt.patient.names import is_external, is_margin_of, is_target
from ionrt.quantities import stamp

AT_ONCE = 2
VOLUMES = ("GTV", "CTV", "ITV", "PTV", "EXTERNAL")  # types in a structure set that are no organs
ION_NAMES = {"p": "protons", "He": "helium", "C": "carbon", "O": "oxygen", "Ne": "neon"}


@dataclass(frozen=True)
class Planned:
    """What is kept of one plan: the plan itself, its spot weights, its field, the time it took [s]."""

    plan: plan.Plan
    weights: xr.DataArray
    field: xr.Dataset
    seconds: float


def open_patient(folder: str | Path | None = None, *, anatomy: str = "pelvis") -> xr.Dataset:
    """The patient in a DICOM folder; without one, a built-in SYNTHETIC phantom, written as DICOM once and read back.

    Parameters: `folder` DICOM folder, empty for the phantom; `anatomy` of the phantom, "pelvis" or "head".
    Returns the Dataset of `ionrt.read_dicom`.
    """
    if folder:
        return read_dicom(folder)
    return read_dicom(write_phantom(cache_folder(f"phantom-{content_hash(recipe(anatomy).to_csv())}"), anatomy=anatomy))


def planning_patient(patient: xr.Dataset) -> xr.Dataset:
    """The patient with its stopping-power ratio instead of CT numbers, worked out once for all plans."""
    if "ct" not in patient or "spr" in patient:
        return patient
    spr = stopping_power_ratio(patient["ct"])
    return patient.drop_vars("ct").assign(spr=spr)


def body_of(grid: xr.Dataset) -> xr.DataArray:
    """The outline where there is one, else what is denser than air."""
    outline = [str(s) for s in grid["structure"].values if is_external(str(s))]
    if outline:
        return grid["structures"].sel(structure=outline[0], drop=True)
    return stamp((grid["ct"] > -400.0).astype(np.float32), "structures")


def nearest_organs(grid: xr.Dataset, target: str, n: int = 4) -> tuple[str, ...]:
    """The `n` structures nearest to the centre of the target that are neither outlines nor target volumes.

    Where the structure set says which are organs, only those are asked; what it calls a target volume is none.
    """
    names = [str(s) for s in grid["structure"].values]
    kinds = dict(zip(names, map(str, grid["roi_type"].values), strict=True)) if "roi_type" in grid.coords else {}
    volumes = {s for s in names if is_external(s) or is_target(s) or is_margin_of(s, target) or kinds.get(s) in VOLUMES}
    candidates = [s for s in names if s != target and s not in volumes]
    organs = [s for s in candidates if kinds.get(s) == "ORGAN"] or candidates
    x, y, z = centroid(grid["structures"].sel(structure=target, drop=True))
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
    return dict(base) if base is not None else {ion: base_data(ion) for ion in dict.fromkeys(ions)}


def asked_of(wanted: plan.Plan) -> dict[str, Any]:
    """What a plan wants in its field, as `ionrt.field` and `ionrt.plan.scenario_field` take it."""
    parameters = {wanted.model: wanted.parameters} if wanted.parameters else None
    return {"models": (wanted.model,), "let_definition": wanted.let_definition, "parameters": parameters}


def planned_maps(wanted: plan.Plan, total: xr.Dataset) -> xr.Dataset:
    """Dose, LETd and RBE-weighted dose, each with the definitions of the plan."""
    weighted = rbe.apply_model(total, wanted.model, **wanted.parameters)
    about = {"rbe_model": wanted.model, "let_definition": wanted.let_definition}
    maps = {"dose": total["dose"], "let_d": let_d(total), "rbe_dose": weighted}
    return xr.Dataset({name: da.assign_attrs(about) for name, da in maps.items()})
