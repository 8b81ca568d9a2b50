"""Structures of a patient: contours as drawn, volume fractions per voxel (lazy, one dask block per structure), volumes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import dask
import dask.array as da
import numpy as np
import xarray as xr

from ionrt.files import content_hash
from ionrt.patient.geometry.coverage import Contours, coverage, spacing
from ionrt.quantities import IonrtError, stamp


def contours(patient: xr.Dataset, name: str) -> list[np.ndarray]:
    """The closed contours (vertices, 3) of a structure as they were drawn, mm (LPS); they survive `regrid` and `crop`.

    Empty for a structure without contours; an unknown name raises, those that exist nearest first.
    """
    one = contours_of(patient, _known(patient, name))
    return np.split(one.points, np.cumsum(one.lengths)[:-1]) if len(one.lengths) else []


def find_structure(patient: xr.Dataset, name: str) -> xr.DataArray:
    """Volume fraction (z, y, x) of one structure, lazily; an unknown name raises, those that exist nearest first."""
    known = _known(patient, name)
    found = patient["structures"].sel(structure=known)
    return stamp(found, "structures", structure=name, **_frame(patient))


def volumes(patient: xr.Dataset) -> xr.DataArray:
    """Volume of every structure on the grid: sum of fraction times voxel volume.

    Parameters
    ----------
    patient : Dataset with `structures` (structure, z, y, x) on a uniform grid in mm.

    Returns
    -------
    DataArray (structure) in cm3, as lazy as `structures`.

    Raises
    ------
    IonrtError
        A patient without structures, a grid of one voxel along an axis, which has no spacing.
    """
    if "structures" not in patient:
        raise IonrtError("volumes: the patient has no structures; read it together with its RTSTRUCT")
    voxel = np.prod([spacing(patient[dim].values) for dim in ("z", "y", "x")]) / 1000.0
    total = patient["structures"].sum(("z", "y", "x"), dtype=np.float64) * voxel
    return stamp(total, "volume")


def add_structures(patient: xr.Dataset, found: list[Contours], types: list[str]) -> xr.Dataset:
    """Put contours into the Dataset (ragged: points, lengths, bounds, owner) and their lazy fractions on its grid."""
    slices = [patient[dim].values for dim in ("x", "y", "z")]
    found = [one if one.bounds is not None else one.on_slices(*slices) for one in found]
    bounds = np.concatenate([np.empty((0, 2)), *(one.bounds for one in found if one.bounds is not None)])
    names = [one.name for one in found]
    out = patient.assign_coords(structure=("structure", np.array(names, dtype=str)))
    out = out.assign_coords(roi_type=("structure", np.array(types, dtype=str)))
    owner = np.repeat(np.array(names, dtype=str), [len(one.lengths) for one in found])
    points = np.concatenate([np.empty((0, 3)), *(one.points for one in found)])
    lengths = np.concatenate([np.empty(0, np.int64), *(one.lengths for one in found)]).astype(np.int64)
    out["contour_points"] = (("point", "axis"), points, {"units": "mm", "long_name": "contour vertices x, y, z (LPS)"})
    out["contour_lengths"] = (("contour",), lengths, {"long_name": "vertices of the contour"})
    out["contour_bounds"] = (
        ("contour", "edge"),
        bounds,
        {"units": "mm", "long_name": "where the contour's prism begins, ends"},
    )
    out["contour_structure"] = (("contour",), owner, {"long_name": "structure that the contour belongs to"})
    return out.assign(structures=lazy_fractions(out))


def with_fractions(patient: xr.Dataset, layers: Mapping[str, np.ndarray], types: Mapping[str, str]) -> xr.Dataset:
    """The patient with these structures (z, y, x) and their types alone, and no contours: a moved contour lies in no slice."""
    coords = {"structure": list(layers), "roi_type": ("structure", [types[s] for s in layers])}
    grid = {d: patient[d] for d in ("z", "y", "x")}
    stack = xr.DataArray(np.stack(list(layers.values())), dims=("structure", *grid), coords=coords | grid)
    bare = patient.drop_dims(["structure", "contour", "point"], errors="ignore")
    return bare.assign(structures=stamp(stack, "structures"))


def lazy_fractions(patient: xr.Dataset) -> xr.DataArray:
    """Fractions of all contoured structures on the grid of the Dataset; the graph's name is a hash of its content."""
    grid = tuple(patient[dim].values for dim in ("z", "y", "x"))
    names = [str(name) for name in patient["structure"].values]
    shape = tuple(len(c) for c in grid)
    blocks = []
    for name in names:
        one = contours_of(patient, name)
        key = f"fractions-{content_hash(one.points, one.lengths, one.bounds, *grid)}"
        block = dask.delayed(coverage, pure=True)(one, *grid, dask_key_name=key)
        blocks.append(da.from_delayed(block, shape, dtype=np.float32))
    data = da.stack(blocks) if blocks else da.zeros((0, *shape), dtype=np.float32)
    labelled = xr.DataArray(
        data,
        dims=("structure", "z", "y", "x"),
        coords={k: patient[k] for k in ("structure", "roi_type", "z", "y", "x") if k in patient.coords},
    )
    return stamp(labelled, "structures", **_frame(patient))


def contours_of(patient: xr.Dataset, name: str) -> Contours:
    """Cut the contours of one structure out of the ragged arrays."""
    if "contour_structure" not in patient:
        return Contours(name, np.empty((0, 3)), np.empty(0, np.int64))
    mine = patient["contour_structure"].values == name
    lengths = patient["contour_lengths"].values
    bounds = patient["contour_bounds"].values[mine] if "contour_bounds" in patient else None
    return Contours(name, patient["contour_points"].values[np.repeat(mine, lengths)], lengths[mine], bounds)


def _known(patient: xr.Dataset, name: str) -> str:
    """The name itself if the patient has that structure."""
    names = [str(n) for n in patient["structure"].values] if "structure" in patient.coords else []
    if name in names:
        return name
    near = sorted(names, key=lambda n: -difflib.SequenceMatcher(None, str(name).casefold(), n.casefold()).ratio())
    there = ", ".join(map(repr, near)) or "none (no structure set was read)"
    raise IonrtError(f"structure {name!r} does not exist; there are {there}")


def _frame(patient: xr.Dataset) -> dict[str, str]:
    """The frame of reference, carried by every variable on the grid."""
    uid = patient.attrs.get("frame_of_reference_uid")
    return {"frame_of_reference_uid": uid} if uid else {}
