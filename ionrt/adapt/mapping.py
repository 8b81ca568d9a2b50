"""The field of a day brought onto the planning grid: additive moments only, all with the same weights."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr

from ionrt.adapt.sampling import at_points, centres, scatter
from ionrt.adapt.transform import invert, move_points
from ionrt.evaluate.sampling import kept_attrs
from ionrt.patient.registration import check_transform
from ionrt.plan.setup.geometry import Grid
from ionrt.quantities import QUANTITIES, IonrtError, one_of, stamp

DIMS = ("z", "y", "x")
METHODS = ("direct", "energy_mass")
PARTS = 2  # per axis: eight pieces of a voxel are moved one by one


def map_field(
    field: xr.Dataset,
    transform: xr.Dataset,
    *,
    like: xr.Dataset | xr.DataArray,
    method: str = "direct",
    mass: xr.DataArray | None = None,
) -> xr.Dataset:
    r"""Dose and moments of a day at the planning points that received them; all variables with the same weights.

    Direct: :math:`\tilde M(X) = M(\phi(X))`, right for a point, wrong where voxels merge in a gradient. Energy and mass: every
    piece i of the day's tissue, of mass :math:`m_i` (`mass` on the field's grid, in any unit of density, e.g. the
    stopping-power ratio), is taken back and shared out, :math:`\tilde M(X) = \sum_i w_{iX} m_i M_i / \sum_i w_{iX} m_i`, which
    conserves :math:`\sum m` and :math:`\sum m M` (Siebers and Zhong, doi 10.1118/1.2968215).

    LETd and RBE belong *after* the mapping and are refused. A voxel whose point lies outside the daily CT (or that received no
    mass) is NaN, never 0; attribute ``outside`` is the share of such voxels. Lazy stays lazy.
    """
    one_of(method, METHODS, what="map_field: method")
    names = _additive(field)
    _same_images(field, transform)
    grid, there = Grid.of(like, what="like"), Grid.of(field, what="field")

    def work(values: np.ndarray) -> np.ndarray:  # finds the points anew: those of ten days would lie in memory together
        if method == "direct":
            return at_points(values, there, move_points(transform, centres(grid))).reshape(-1, *grid.shape)
        return _transfer(values, *_pieces(field, transform, mass), grid)[0].astype(values.dtype)

    whole = np.ones((1, *there.shape), np.float32)  # tells what the day does not hold
    arrays = [field[n].transpose(*DIMS) for n in names]
    if any(a.chunks is not None for a in arrays):
        stack = da.stack([a.data if a.chunks is not None else da.from_array(a.values) for a in arrays])
        chunks = ((len(names),), *((n,) for n in grid.shape))
        made = da.map_blocks(work, stack.rechunk(-1), chunks=chunks, dtype=stack.dtype, meta=np.empty((0,) * 4, stack.dtype))
        outside = float(np.isnan(work(whole)).mean())
    else:
        made = work(np.concatenate([np.stack([a.values for a in arrays]), whole]))
        outside = float(np.isnan(made[-1]).mean())
    out = xr.Dataset(attrs={**field.attrs, "mapped": method, "outside": outside})
    for k, (name, a) in enumerate(zip(names, arrays, strict=True)):
        carried = kept_attrs(a)
        if carried.pop("frame_of_reference_uid", None) and (frame := transform.attrs.get("fixed_frame")):
            carried["frame_of_reference_uid"] = frame  # it lies on the planning CT now
        one = xr.DataArray(made[k], dims=DIMS, coords={d: like[d].values for d in DIMS})
        out[name] = stamp(one, name, **carried, outside=outside)
    return out


def _additive(field: xr.Dataset) -> list[str]:
    """Names of the variables; one that does not add up, or a further dimension, raises."""
    names = [str(v) for v in field.data_vars]
    for name in names:
        if name not in QUANTITIES or not QUANTITIES[name].additive:
            raise IonrtError(
                f"map_field: {name!r} does not add up over voxels and fractions; map the additive field (dose and moments) and"
                " apply LETd or the RBE model to the result"
            )
        if set(field[name].dims) != set(DIMS):
            raise IonrtError(f"map_field: expected {name} on (z, y, x), got {field[name].dims}; sum or select the others first")
    if not names:
        raise IonrtError("map_field: the field has no variables")
    return names


def _same_images(field: xr.Dataset, transform: xr.Dataset) -> None:
    """The transform must lead to the image that the field was computed on, where both say which it is."""
    check_transform(transform)
    if transform.attrs.get("maps") == "daily to planning":
        raise IonrtError("map_field: the transform maps daily to planning points; give the other one, see invert")
    day, known = field.attrs.get("day"), {transform.attrs.get(f"{s}_hash") for s in ("fixed", "moving")}
    if day and None not in known and day != transform.attrs["moving_hash"]:
        swapped = " (planning and daily CT are exchanged)" if day == transform.attrs["fixed_hash"] else ""
        raise IonrtError(f"map_field: the transform leads to another image than the field's{swapped}; register this day")


def _pieces(field: xr.Dataset, transform: xr.Dataset, mass: xr.DataArray | None) -> tuple[np.ndarray, np.ndarray]:
    """Where the pieces of the day's voxels lie in planning, and the mass of each voxel."""
    if mass is None:
        raise IonrtError("map_field: method energy_mass needs the mass of the day's voxels, e.g. mass=day['spr'] on its grid")
    there = Grid.of(field, what="field")
    if Grid.of(mass, what="mass") != there:
        raise IonrtError("map_field: mass lies on another grid than the field; regrid it first")
    values = np.asarray(mass.transpose(*DIMS).values, dtype=np.float64).ravel()
    if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() > 0.0):
        raise IonrtError("map_field: mass must be finite, not negative, and somewhere above 0")
    return move_points(invert(transform, like=field), centres(there, PARTS)), values


def _transfer(values: np.ndarray, points: np.ndarray, mass: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Values per mass on the planning grid (NaN where none arrived), and the mass there."""
    into, weight = np.zeros((values.shape[0], *grid.shape)), np.zeros(grid.shape)
    flat = np.ascontiguousarray(values.reshape(values.shape[0], -1), dtype=np.float64)
    scatter(flat, mass, points, PARTS**3, np.array(grid.origin), np.array(grid.spacing), into, weight)
    return np.divide(into, weight, out=np.full_like(into, np.nan), where=weight > 0.0), weight
