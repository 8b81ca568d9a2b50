"""The patient as the planner sees it: stopping-power ratio on the CT grid, target and outline on the dose grid."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import xarray as xr

from ionrt.parallel import each, slabs
from ionrt.patient.names import outline_of
from ionrt.patient.reading.notes import IncompleteWarning
from ionrt.plan.setup.beams import Plan
from ionrt.plan.setup.geometry import Grid
from ionrt.quantities import IonrtError, check, one_of

NO_OUTLINE = (
    "no structure is the outline of the body, by its type (EXTERNAL) or a usual name (BODY, Skin): everything denser than air"
    " is taken for it, the couch included"
)
AIR = 0.05  # stopping-power ratio below which a voxel outside every outline is air; lung is above 0.1


@dataclass(frozen=True)
class Scene:
    """`spr` on its own grid; `target` (volume fractions) and `body` (mask), flat, on the dose grid."""

    grid: Grid
    spr: np.ndarray
    spr_grid: Grid
    target: np.ndarray
    body: np.ndarray

    @cached_property
    def inside(self) -> np.ndarray:
        """Flat indices of the body's voxels."""
        return np.flatnonzero(self.body)

    def centroid(self) -> np.ndarray:
        """Centre of the target's volume, (x, y, z) mm."""
        index = np.flatnonzero(self.target)
        z, y, x = np.unravel_index(index, self.grid.shape)
        zyx = np.average(np.stack([z, y, x], 1), axis=0, weights=self.target[index])
        return np.array([o + s * c for o, s, c in zip(self.grid.origin, self.grid.spacing, zyx, strict=True)])[::-1].copy()


def spr_of(patient: xr.Dataset) -> xr.DataArray:
    """`spr` of the patient: its own variable, else the CT through the default calibration."""
    if "spr" in patient:
        return check(patient["spr"], "spr", dims=("z", "y", "x"))
    if "ct" not in patient:
        raise IonrtError("patient: expected a Dataset with ct (HU) or spr, as ionrt.read_dicom returns it")
    from ionrt.patient import stopping_power_ratio

    return stopping_power_ratio(patient["ct"])


def on_dose_grid(patient: xr.Dataset, plan: Plan) -> xr.Dataset:
    """The patient's structures, without images, averaged onto the plan's dose grid."""
    return on_spacing(patient, plan.grid_spacing)


def on_spacing(patient: xr.Dataset, spacing: tuple[float, float, float]) -> xr.Dataset:
    """The same for a spacing (z, y, x) in mm; unchanged where it is already that."""
    have = Grid.of(patient, what="patient").spacing
    images = [name for name, a in patient.data_vars.items() if name != "structures" and {"z", "y", "x"} & set(a.dims)]
    patient = patient.drop_vars(images)
    if all(abs(a - b) < 1e-6 for a, b in zip(have, spacing, strict=True)):
        return patient
    from ionrt.patient import regrid

    return regrid(patient, spacing=spacing)


def structure_fractions(patient: xr.Dataset, name: str) -> np.ndarray:
    """Volume fractions (z, y, x) float32 of one structure."""
    return fractions_of(patient, [name])[0]


def fractions_of(patient: xr.Dataset, names: list[str]) -> np.ndarray:
    """Those of several (structure, z, y, x), worked out side by side."""
    if "structures" not in patient:
        raise IonrtError("patient: expected structures (structure, z, y, x); read the RTSTRUCT together with the CT")
    there = [str(s) for s in patient["structure"].values]
    places = [there.index(one_of(name, there, what="structure")) for name in names]
    picked = patient["structures"].isel(structure=places).transpose("structure", "z", "y", "x")
    return np.asarray(picked.values, dtype=np.float32)


def make_scene(patient: xr.Dataset, plan: Plan) -> Scene:
    """Bring CT, target and outline together; raises where the target is empty or values are not finite."""
    scene = _scene(patient, plan.grid_spacing, plan.target)
    if not np.isfinite(scene.target).all():
        raise IonrtError(f"target {plan.target!r}: volume fractions are not finite")
    if scene.target.max(initial=0.0) <= 0.0:
        raise IonrtError(f"target {plan.target!r} is empty on the dose grid; check that it lies inside the CT")
    return replace(scene, body=scene.body | (scene.target > 0.0))


def scene_without_target(patient: xr.Dataset, spacing: tuple[float, float, float]) -> Scene:
    """The patient on a dose grid of `spacing` mm (z, y, x), where the spots are given."""
    return _scene(patient, spacing, None)


def _scene(patient: xr.Dataset, spacing: tuple[float, float, float], target: str | None) -> Scene:
    """Material and outlines side by side; the body is what its outline holds where there is one, else all denser than air."""
    if target is not None and "structures" in patient:  # a wrong name is told before anything is computed
        one_of(target, [str(s) for s in patient["structure"].values], what="structure")
    both = (partial(_traced, patient), partial(_outlines, patient, spacing, target))
    (spr, spr_grid), (grid, fractions, body) = each(lambda job: job(), both)
    if body is None:
        if "structures" in patient:
            warnings.warn(NO_OUTLINE, IncompleteWarning, stacklevel=5)
        nearest = []
        for k in range(3):
            at = grid.origin[k] + grid.spacing[k] * np.arange(grid.shape[k])
            cell = np.rint((at - spr_grid.origin[k]) / spr_grid.spacing[k]).astype(int)
            nearest.append(np.clip(cell, 0, spr_grid.shape[k] - 1))
        body = (spr[np.ix_(*nearest)] > AIR).ravel()
    return Scene(grid, spr, spr_grid, fractions, body)


def _traced(patient: xr.Dataset) -> tuple[np.ndarray, Grid]:
    """Stopping-power ratio, finite, and its grid."""
    spr = spr_of(patient).transpose("z", "y", "x")
    values = np.ascontiguousarray(spr.values, dtype=np.float32)
    if not all(each(lambda part: np.isfinite(values.reshape(-1)[part]).all(), slabs(values.size))):
        raise IonrtError("patient: the CT (stopping-power ratio) has values that are not finite; repair the CT first")
    return values, Grid.of(spr, what="CT")


def _outlines(
    patient: xr.Dataset, spacing: tuple[float, float, float], target: str | None
) -> tuple[Grid, np.ndarray, np.ndarray | None]:
    """Dose grid, and on it volume fractions of the target (zero without one) and the mask of the body (None: no outline)."""
    external = outline_of(patient) if "structures" in patient else None
    wanted = list(dict.fromkeys(name for name in (target, external) if name is not None))
    names = [str(s) for s in patient["structure"].values] if "structures" in patient else []
    if names and patient["structures"].chunks is None and set(wanted) <= set(names):  # no others are averaged
        patient = patient.isel(structure=[names.index(name) for name in wanted])
    coarse = on_spacing(patient, spacing)
    grid = Grid.of(coarse, what="dose grid")
    found = dict(zip(wanted, fractions_of(coarse, wanted).reshape(len(wanted), -1), strict=True)) if wanted else {}
    body = None if external is None else found[external] > 0.0
    return grid, np.zeros(grid.size, np.float32) if target is None else found[target].copy(), body  # not a view of both
