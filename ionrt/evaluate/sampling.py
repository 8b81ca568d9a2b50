"""Weighted samples of a quantity inside structures, whatever grids the two live on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import xarray as xr

from ionrt.parallel import each
from ionrt.patient.reading.frames import check_frame
from ionrt.quantities import QUANTITIES, IonrtError, check, defined, stamp

if TYPE_CHECKING:
    from ionrt.patient.geometry.coverage import Contours

GRID = ("z", "y", "x")
Structures = xr.DataArray | xr.Dataset


def quantity_of(da: xr.DataArray) -> tuple[xr.DataArray, str]:
    """The array with its checked quantity name."""
    if not isinstance(da, xr.DataArray):
        raise IonrtError(f"expected an xarray.DataArray on a grid z, y, x, got {type(da).__name__}")
    name = name_of(da)
    return defined(check(da, name, dims=GRID), name), name


def name_of(da: xr.DataArray) -> str:
    """The quantity of an array; without a name it is taken as physical dose."""
    name = "dose" if da.name is None else str(da.name)
    if name not in QUANTITIES:
        raise IonrtError(f"{name!r} is not a known quantity; rename it to one of {', '.join(QUANTITIES)}")
    return name


def kept_attrs(da: xr.DataArray) -> dict[str, Any]:
    """What a result inherits from its input: model, LET definition, parameter set, but no unit and no version."""
    return {str(k): v for k, v in da.attrs.items() if k not in ("units", "long_name", "ionrt_version")}


def labelled_structures(structures: xr.DataArray) -> xr.DataArray:
    """The fractions as (structure, z, y, x), whether one structure or several were given."""
    fractions = check(structures, "structures", dims=GRID)
    if "structure" not in fractions.dims:
        name = fractions.coords["structure"].item() if "structure" in fractions.coords else fractions.name
        fractions = fractions.drop_vars("structure", errors="ignore").expand_dims(structure=[str(name)])
    if "structure" not in fractions.coords:
        fractions = fractions.assign_coords(structure=[f"structure {i}" for i in range(fractions.sizes["structure"])])
    return fractions


def voxel_widths(coordinate: xr.DataArray) -> np.ndarray:
    """Width [mm] of each voxel along one axis; a single voxel cannot tell its width."""
    centres = np.asarray(coordinate, dtype=float)
    if centres.size < 2:
        raise IonrtError(f"{coordinate.name}: at least two voxels are needed to know their size, got {centres.size}")
    edges = np.concatenate([[1.5 * centres[0] - 0.5 * centres[1]], 0.5 * (centres[1:] + centres[:-1])])
    return np.diff(np.append(edges, 1.5 * centres[-1] - 0.5 * centres[-2]))


def voxel_volume(da: xr.DataArray) -> np.ndarray:
    """Volume [cm3] of each voxel, shape (z, y, x) or broadcastable to it."""
    z, y, x = (voxel_widths(da[d]) for d in GRID)
    return 1e-3 * z[:, None, None] * y[:, None] * x


@numba.njit(nogil=True, cache=True, inline="always")
def _lower(position, size):
    """Lower neighbour and weight of the upper one; -1 outside the voxel centres."""
    nearest = round(position)
    if abs(position - nearest) < 1e-6:
        position = float(nearest)
    if not (0.0 <= position <= size - 1):
        return -1, 0.0
    lower = min(int(position), max(size - 2, 0))
    return lower, position - lower


@numba.njit(nogil=True, cache=True)
def trilinear(values, z, y, x):
    """Trilinear interpolation at fractional indices; NaN outside the voxel centres."""
    k, wk = _lower(z, values.shape[0])
    j, wj = _lower(y, values.shape[1])
    i, wi = _lower(x, values.shape[2])
    if k < 0 or j < 0 or i < 0:
        return np.nan
    total = 0.0
    for dk in range(2):
        fk = wk if dk else 1.0 - wk
        if fk == 0.0:
            continue
        for dj in range(2):
            fj = fk * (wj if dj else 1.0 - wj)
            if fj == 0.0:
                continue
            for di in range(2):
                f = fj * (wi if di else 1.0 - wi)
                if f != 0.0:
                    total += f * values[k + dk, j + dj, i + di]
    return total


@numba.njit(nogil=True, cache=True)
def _interpolate(values, z, y, x):
    out = np.empty(z.size, dtype=np.float64)
    for n in range(z.size):
        out[n] = trilinear(values, z[n], y[n], x[n])
    return out


def _fractional_index(centres: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Index of each point between the voxel centres; NaN where there is nothing to interpolate between.

    On a side where all points lie within the outermost voxels, their value holds to their edge: a structure on the last slice
    is covered by a dose grid that ends with it. Where points go beyond, the grid ends at its last centres.
    """
    index = np.interp(points, centres, np.arange(centres.size, dtype=float))
    low, high = 1e-6, 1e-6
    if centres.size > 1 and points.size:
        edges = 0.5 * (centres[1] - centres[0]) + 1e-6, 0.5 * (centres[-1] - centres[-2]) + 1e-6
        low = edges[0] if points.min() >= centres[0] - edges[0] else low
        high = edges[1] if points.max() <= centres[-1] + edges[1] else high
    return np.where((points < centres[0] - low) | (points > centres[-1] + high), np.nan, index)


def _spread(n: int) -> np.ndarray:
    """Offsets (n, 3) in -0.5..0.5 of a voxel that fill it evenly (additive recurrence), so that gradients along an axis do
    not put whole planes of samples on one value."""
    base = 1.2207440846057596  # real root of x^4 = x + 1
    places = np.arange(n)[:, None] * (1.0 / base ** np.arange(1, 4)) + 0.5
    return places - np.floor(places) - 0.5


class Samples:
    """Values and weights of one structure: what every histogram and quantile is computed from."""

    def __init__(self, values: np.ndarray, weights: np.ndarray) -> None:
        has_value = np.isfinite(values)
        self.volume = float(weights.sum())
        self.outside = float(weights[~has_value].sum() / self.volume) if self.volume > 0 else np.nan
        self._drawn = values[has_value], weights[has_value]
        self.sampled = float(self._drawn[1].sum())

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        values, weights = self._drawn
        order = np.argsort(values, kind="stable")
        return values[order], weights[order]

    @property
    def values(self) -> np.ndarray:
        """From the lowest to the highest."""
        return self._sorted[0]

    @property
    def weights(self) -> np.ndarray:
        """In the order of `values`."""
        return self._sorted[1]

    def at_volume(self, fractions: np.ndarray) -> np.ndarray:
        """Value exceeded by each volume fraction, linear between the middles of the sorted samples."""
        if not self.values.size:
            return np.full(np.shape(fractions), np.nan)
        below = np.cumsum(self.weights) - 0.5 * self.weights
        return np.interp((1.0 - np.asarray(fractions)) * self.sampled, below, self.values)

    def at_value(self, thresholds: np.ndarray) -> np.ndarray:
        """Volume fraction with at least each value: a step at every sample, no bins."""
        if not self.values.size:
            return np.full(np.shape(thresholds), np.nan)
        below = np.concatenate([[0.0], np.cumsum(self.weights)])
        return 1.0 - below[np.searchsorted(self.values, thresholds, side="left")] / self.sampled

    def mean(self) -> float:
        """Mean weighted with occupancy."""
        values, weights = self._drawn
        return float((values * weights).sum() / self.sampled) if values.size else np.nan


class Sampler:
    """Knows both grids, and which values of the one a structure on the other holds."""

    def __init__(self, da: xr.DataArray, structures: xr.DataArray) -> None:
        check_frame(structures, da, what=f"the {da.name}", quiet=True)
        self.volume = voxel_volume(structures)
        self.centres = [da[d].values.astype(float) for d in GRID]
        self.points = [structures[d].values.astype(float) for d in GRID]
        self.widths = [voxel_widths(structures[d]) for d in GRID]
        pairs = zip(self.centres, self.points, strict=True)
        self.same = all(a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs)

    def inside(self, fractions: np.ndarray) -> Callable[[np.ndarray], Samples]:
        """What makes the `Samples` of one structure from values (z, y, x); its places are worked out once for all of them."""
        where = np.nonzero(fractions > 0)
        weights = np.asarray(fractions[where], dtype=float) * self.volume[where]
        if self.same:
            return lambda values: Samples(np.asarray(values[where], dtype=float), weights)
        offsets = _spread(weights.size).T
        grids = zip(self.centres, self.points, self.widths, where, offsets, strict=True)
        index = [_fractional_index(c, p[i] + w[i] * o) for c, p, w, i, o in grids]
        return lambda values: Samples(_interpolate(np.ascontiguousarray(values), *index), weights)


def _one_chunk(da: xr.DataArray, dims: tuple[str, ...]) -> xr.DataArray:
    return da.chunk(dict.fromkeys(dims, -1)) if da.chunks is not None else da


def _refuse_nan(values: np.ndarray, name: str) -> None:
    if np.isnan(values.min(initial=np.inf)):
        k, j, i = (int(n) for n in np.argwhere(np.isnan(values))[0])
        raise IonrtError(f"{name}: NaN at voxel z={k}, y={j}, x={i}; every voxel of the grid needs a value")


def _fine_grid(one: Contours) -> list[np.ndarray]:
    """Voxel centres (z, y, x) around contours, about 50,000 voxels of 0.1 to 2 mm; voxel faces on the ends of the prisms."""
    low, high = one.points.min(axis=0), one.points.max(axis=0)
    step = float(np.clip((0.5 * np.prod(np.maximum(high - low, 1.0)) / 5e4) ** (1 / 3), 0.1, 2.0))
    margin = np.full(3, step)
    if one.bounds is not None:
        axis = one.axis()
        low[axis], high[axis], margin[axis] = one.bounds.min(), one.bounds.max(), 0.0
    grid = []
    for axis in (2, 1, 0):
        start, extent = low[axis] - margin[axis], high[axis] - low[axis] + 2 * margin[axis]
        n = max(int(np.ceil(extent / step)), 2)
        grid.append(start + extent / n * (np.arange(n) + 0.5))
    return grid


def from_contours(patient: xr.Dataset) -> list[xr.DataArray]:
    """Fractions of each structure on a fine grid of its own, from the contours that `read_dicom` keeps; those of the patient's
    grid where a structure has no contours and is not empty (renamed, carried to a day, made of others)."""
    from ionrt.patient.geometry.coverage import coverage
    from ionrt.patient.geometry.structures import contours_of

    frame, out = {"frame_of_reference_uid": patient.attrs.get("frame_of_reference_uid")}, []
    for name in (str(n) for n in patient["structure"].values):
        one = contours_of(patient, name)
        if (
            not len(one.lengths)
            and "structures" in patient
            and bool((given := patient["structures"].sel(structure=[name]).reset_coords(drop=True)).any())
        ):
            out.append(given)
            continue
        grid = _fine_grid(one) if len(one.lengths) else [np.array([0.0, 1.0])] * 3
        coords = {"structure": [name], **dict(zip(GRID, grid, strict=True))}
        out.append(stamp(xr.DataArray(coverage(one, *grid)[None], coords, list(coords)), "structures", **frame))
    return out


def per_structure(
    da: xr.DataArray, structures: Structures, kernel: Callable[[Samples], np.ndarray], *, dim: str, at: np.ndarray
) -> xr.DataArray:
    """Apply `kernel` to the samples of every structure and leading dimension, lazily where the input is lazy.

    The result has the dimension `dim` with coordinate `at`, and per structure the coordinates ``volume`` [cm3] and ``outside``
    (share of the volume that lies outside the grid of `da`, or where `da` has no value). A NaN in a dose raises, unless its
    attribute ``outside`` says that values are missing (a field mapped from a daily CT); a ratio such as LETd may be undefined
    where there is no dose.
    """
    if isinstance(structures, xr.Dataset):
        if not structures.sizes.get("structure"):
            raise IonrtError("the patient has no structures; read it together with its RTSTRUCT")
        parts = each(lambda one: per_structure(da, one, kernel, dim=dim, at=at), from_contours(structures))
        return xr.concat(parts, "structure", join="exact", coords="different", compat="equals")
    da, name = quantity_of(da)
    structures = labelled_structures(structures)
    sampler = Sampler(da, structures)
    finite = (QUANTITIES[name].additive or name == "rbe_dose") and not da.attrs.get("outside")

    def reduce(values: np.ndarray, fractions: np.ndarray) -> np.ndarray:
        if finite:
            _refuse_nan(values, name)
        leading = np.broadcast_shapes(values.shape[:-3], fractions.shape[:-3])
        values = np.broadcast_to(values, leading + values.shape[-3:])
        fractions = fractions.reshape((1,) * (values.ndim - fractions.ndim) + fractions.shape)
        out = np.empty((*leading, at.size + 1))
        for one in np.ndindex(fractions.shape[:-3]):
            samples_of = sampler.inside(fractions[one])
            alike = (range(n) if m == 1 else (i,) for i, m, n in zip(one, fractions.shape, leading, strict=False))
            for place in product(*alike):  # all values that this structure is asked for
                samples = samples_of(values[place])
                out[place] = np.append(kernel(samples), samples.outside)
        return out

    core = {d: f"structure_{d}" for d in GRID}
    both = xr.apply_ufunc(
        reduce,
        _one_chunk(da.drop_vars(GRID), GRID),
        _one_chunk(structures.drop_vars(GRID).rename(core), tuple(core.values())),
        input_core_dims=[list(GRID), list(core.values())],
        output_core_dims=[[dim]],
        dask_gufunc_kwargs={"output_sizes": {dim: at.size + 1}},
        dask="parallelized",
        join="exact",
        keep_attrs=False,
        output_dtypes=[float],
    )
    volume = (structures * xr.DataArray(sampler.volume, dims=GRID)).sum(GRID, dtype=float)
    return both.isel({dim: slice(0, -1)}).assign_coords(
        {
            dim: (dim, at, {"units": QUANTITIES[dim].unit} if dim in QUANTITIES else {}),
            "volume": stamp(volume, "volume"),
            "outside": stamp(both.isel({dim: -1}, drop=True), "volume_fraction"),
        }
    )
