"""The patient as the planner sees it: stopping-power ratio on the CT grid, target and outline on the dose grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from ionrt.plan.beams import Plan
from ionrt.plan.geometry import Grid
from ionrt.plan.objectives import is_external
from ionrt.quantities import IonrtError, check, one_of

AIR = 0.05  # stopping-power ratio below which a voxel outside every outline is air; lung is above 0.1


@dataclass(frozen=True)
class Scene:
    """`spr` on its own grid; `target` (volume fractions) and `body` (mask), flat, on the dose grid."""

    grid: Grid
    spr: np.ndarray
    spr_grid: Grid
    target: np.ndarray
    body: np.ndarray

    def centroid(self) -> np.ndarray:
        """Centre of the target's volume, (x, y, z) mm."""
        index = np.flatnonzero(self.target)
        z, y, x = np.unravel_index(index, self.grid.shape)
        zyx = np.average(np.stack([z, y, x], 1), axis=0, weights=self.target[index])
        return np.array([o + s * c for o, s, c in zip(self.grid.origin, self.grid.spacing, zyx, strict=True)])[::-1].copy()


def stopping_power(patient: xr.Dataset) -> xr.DataArray:
    """`spr` of the patient: its own variable, else the CT through the default calibration."""
    if "spr" in patient:
        return check(patient["spr"], "spr", dims=("z", "y", "x"))
    if "ct" not in patient:
        raise IonrtError("patient: expected a Dataset with ct (HU) or spr, as ionrt.read_dicom returns it")
    from ionrt.patient import stopping_power_ratio

    return stopping_power_ratio(patient["ct"])


def on_dose_grid(patient: xr.Dataset, plan: Plan) -> xr.Dataset:
    """The patient averaged onto the plan's dose grid; unchanged where the spacing is already that."""
    return on_spacing(patient, plan.grid_spacing)


def on_spacing(patient: xr.Dataset, spacing: tuple[float, float, float]) -> xr.Dataset:
    """The same for a spacing (z, y, x) in mm."""
    have = Grid.of(patient, what="patient").spacing
    if all(abs(a - b) < 1e-6 for a, b in zip(have, spacing, strict=True)):
        return patient
    from ionrt.patient import regrid

    return regrid(patient, spacing=spacing)


def structure_fractions(patient: xr.Dataset, name: str) -> np.ndarray:
    """Volume fractions (z, y, x) float32 of one structure."""
    if "structures" not in patient:
        raise IonrtError("patient: expected structures (structure, z, y, x); read the RTSTRUCT together with the CT")
    one_of(name, [str(s) for s in patient["structure"].values], what="structure")
    picked = patient["structures"].sel(structure=name).transpose("z", "y", "x")
    return np.asarray(picked.values, dtype=np.float32)


def make_scene(patient: xr.Dataset, plan: Plan) -> Scene:
    """Bring CT, target and outline together; raises where the target is empty or values are not finite."""
    values, spr_grid = _traced(patient)
    coarse = on_dose_grid(patient, plan)
    grid = Grid.of(coarse, what="dose grid")
    target = structure_fractions(coarse, plan.target).ravel()
    if not np.isfinite(target).all():
        raise IonrtError(f"target {plan.target!r}: volume fractions are not finite")
    if target.max(initial=0.0) <= 0.0:
        raise IonrtError(f"target {plan.target!r} is empty on the dose grid; check that it lies inside the CT")
    return Scene(grid, values, spr_grid, target, _body(coarse, grid, values, spr_grid) | (target > 0.0))


def scene_without_target(patient: xr.Dataset, spacing: tuple[float, float, float]) -> Scene:
    """The patient on a dose grid of `spacing` mm (z, y, x), where the spots are given."""
    values, spr_grid = _traced(patient)
    names = [s for s in patient["structure"].values if is_external(str(s))] if "structures" in patient else []
    needed = patient[["structures"]].sel(structure=names[:1]) if names else patient[["spr" if "spr" in patient else "ct"]]
    coarse = on_spacing(needed, spacing)
    grid = Grid.of(coarse, what="dose grid")
    return Scene(grid, values, spr_grid, np.zeros(grid.size, np.float32), _body(coarse, grid, values, spr_grid))


def _traced(patient: xr.Dataset) -> tuple[np.ndarray, Grid]:
    """Stopping-power ratio, finite, and its grid."""
    spr = stopping_power(patient).transpose("z", "y", "x")
    values = np.ascontiguousarray(spr.values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise IonrtError("patient: the CT (stopping-power ratio) has values that are not finite; repair the CT first")
    return values, Grid.of(spr, what="CT")


def _body(coarse: xr.Dataset, grid: Grid, spr: np.ndarray, spr_grid: Grid) -> np.ndarray:
    """Voxels that may get dose: the outline where there is one, else everything denser than air."""
    named = coarse["structure"].values if "structures" in coarse else ()
    outlines = [str(s) for s in named if is_external(str(s))]
    if outlines:
        return structure_fractions(coarse, outlines[0]).ravel() > 0.0
    nearest = []
    for k in range(3):
        at = grid.origin[k] + grid.spacing[k] * np.arange(grid.shape[k])
        cell = np.rint((at - spr_grid.origin[k]) / spr_grid.spacing[k]).astype(int)
        nearest.append(np.clip(cell, 0, spr_grid.shape[k] - 1))
    return (spr[np.ix_(*nearest)] > AIR).ravel()
