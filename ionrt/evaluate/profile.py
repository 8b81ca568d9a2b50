"""Quantities along a beam: depth profiles, dose in front of and behind the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ionrt.evaluate.sampling import GRID, kept_attrs, labelled_structures, quantity_of, voxel_volume
from ionrt.patient.reading.frames import check_frame
from ionrt.quantities import IonrtError, check_same_grid, one_of, stamp

Vector = Sequence[float] | np.ndarray
WINDOWS = {"entrance": (5.0, 25.0), "tail": (10.0, 30.0)}  # mm


def _unit(direction: Vector) -> np.ndarray:
    vector = np.asarray(direction, dtype=float)
    if vector.shape != (3,) or not np.linalg.norm(vector) > 0:
        raise IonrtError(f"direction: expected three numbers (x, y, z) that are not all zero, got {direction}")
    return vector / np.linalg.norm(vector)


def _disc(direction: np.ndarray, radius: float) -> np.ndarray:
    """19 points (n, 3) [mm] that fill a disc across `direction` evenly; one point for radius 0."""
    if radius <= 0:
        return np.zeros((1, 3))
    across = np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))])
    across /= np.linalg.norm(across)
    other = np.cross(direction, across)
    points = [np.zeros(3)]
    for n, share in ((6, 0.46), (12, 0.84)):
        for angle in 2 * np.pi * np.arange(n) / n:
            points.append(radius * share * (np.cos(angle) * across + np.sin(angle) * other))
    return np.array(points)


def centroid(structure: xr.DataArray) -> np.ndarray:
    """Centre of mass (x, y, z) [mm] of one structure (z, y, x)."""
    weights = structure.transpose(*GRID) * xr.DataArray(voxel_volume(structure), dims=GRID)
    total = float(weights.sum())
    if not total > 0:
        raise IonrtError(f"{structure.name}: the structure is empty on this grid; it has no centre")
    return np.array([float((weights * structure[d]).sum()) / total for d in ("x", "y", "z")])


def depth_profile(
    da: xr.DataArray, *, through: Vector, direction: Vector, distance: Vector, radius: float = 0.0
) -> xr.DataArray:
    r"""A quantity along a line, averaged over a disc of `radius` across it.

    :math:`q(s) = \langle q(p + s u + r) \rangle_{|r| \le R,\, r \perp u}` with trilinear interpolation.

    Parameters
    ----------
    da : any quantity on (..., z, y, x), mm.
    through : point p (x, y, z) [mm].
    direction : vector u (x, y, z), any length, the way the ions travel.
    distance : s [mm] along the line, 0 at `through`.
    radius : R [mm].

    Returns
    -------
    DataArray of the same quantity (..., distance); NaN outside the grid.

    Raises
    ------
    IonrtError
        A direction of no length, a quantity of another kind.
    """
    da, name = quantity_of(da)
    unit, along = _unit(direction), np.asarray(distance, dtype=float)
    points = np.asarray(through, dtype=float) + along[:, None, None] * unit + _disc(unit, radius)
    where = {d: xr.DataArray(points[..., i], dims=("distance", "disc")) for i, d in enumerate("xyz")}
    out = da.interp(where, method="linear").mean("disc").drop_vars(list("xyz"), errors="ignore")
    out = out.assign_coords(distance=("distance", along, {"units": "mm"}))
    return stamp(out.astype(da.dtype), name, **kept_attrs(da))


def _one(structure: xr.DataArray, da: xr.DataArray, what: str) -> xr.DataArray:
    one = labelled_structures(structure)
    if one.sizes["structure"] != 1:
        raise IonrtError(f"{what}: expected one structure, got {one.sizes['structure']}; select it by name first")
    check_same_grid(da, one, what=f"dose and {what}")
    check_frame(one, da, what="the dose", quiet=True)
    return one.isel(structure=0, drop=True).astype(float).rename("structures")


def ratio_to_target(
    da: xr.DataArray,
    target: xr.DataArray,
    body: xr.DataArray,
    *,
    direction: Vector,
    side: str,
    radius: float = 5.0,
    window: tuple[float, float] | None = None,
) -> xr.DataArray:
    """Mean dose below the skin ("entrance") or in the fragment tail ("tail") of one beam over the mean dose in the target.

    On the beam's line through the target's centre; NaN where the body ends before the window.

    `direction` (x, y, z) is the way the ions travel, `radius` that of the averaging disc [mm]. `window` from, to [mm] behind
    the surface of the body is 5 to 25 by default; of the tail behind the target 10 to 30.
    """
    window = window or WINDOWS[one_of(side, tuple(WINDOWS), what="side")]
    da, _ = quantity_of(da)
    target, body = _one(target, da, "target"), _one(body, da, "body")
    reach = float(sum(abs(float(da[d][-1] - da[d][0])) for d in GRID))
    middle, along = centroid(target), np.arange(-reach, reach + 0.5, 0.5)
    inside = depth_profile(body, through=middle, direction=direction, distance=along) > 0.5
    hit = depth_profile(target, through=middle, direction=direction, distance=along) > 0.5
    if not bool(hit.any()) or not bool(inside.any()):
        raise IonrtError("the line along the beam through the target's centre does not cross target and body")
    edge = inside["distance"].where(inside).min() if side == "entrance" else hit["distance"].where(hit).max()
    profile = depth_profile(da, through=middle, direction=direction, distance=along, radius=radius)
    near = (profile["distance"] >= edge + window[0]) & (profile["distance"] <= edge + window[1]) & inside
    in_target = profile.where(hit).mean("distance")
    ratio = profile.where(near).mean("distance") / in_target.where(in_target > 0)
    return stamp(ratio, "dose_ratio", **kept_attrs(da), window_mm=tuple(map(float, window)))
