"""The patient grid: DICOM orientation to z, y, x (mm, LPS, ascending) in one place; regrid, crop, affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np
import xarray as xr
from numba import njit

from ionrt.parallel import each
from ionrt.patient.geometry.coverage import spacing as distance
from ionrt.patient.geometry.structures import find_structure, lazy_fractions
from ionrt.quantities import IonrtError

DIMS = ("z", "y", "x")
AXIS_TOLERANCE = 0.1  # degrees; 0.4 mm at the edge of a 50 cm field
SPACING_TOLERANCE = 0.01  # share of the slice distance, and mm
ROUNDED = 0.051  # mm; positions written to 0.1 mm lie so far from a uniform stack
SIDEWAYS = 0.15  # mm; twice that rounding, in two directions
COSINE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Layout:
    """How a stack of slices becomes the grid: sort by `order`, transpose by `axes`, flip along `flips`."""

    order: np.ndarray
    axes: tuple[int, ...]
    flips: tuple[int, ...]
    coords: dict[str, np.ndarray]

    def arrange(self, stack: np.ndarray) -> np.ndarray:
        """Turn a stack (slice in `order`, row, column) into (z, y, x)."""
        return np.ascontiguousarray(np.flip(stack.transpose(self.axes), self.flips))

    @property
    def note(self) -> str:
        """What was done to the stored orientation; empty where nothing was."""
        moved = "" if self.axes == (0, 1, 2) else "axes permuted to z, y, x"
        turned = ", ".join(DIMS[i] for i in self.flips)
        return "; ".join(part for part in (moved, f"flipped along {turned}" if turned else "") if part)


def layout(
    positions: np.ndarray,
    orientation: Sequence[float] | np.ndarray,
    pixel_spacing: Sequence[float] | np.ndarray,
    shape: Sequence[int],
    *,
    what: str = "CT",
) -> Layout:
    """The layout of slices at `positions` (n, 3); refuses what is not a uniform, axis-aligned stack.

    `orientation` are the six direction cosines of ImageOrientationPatient, `pixel_spacing` (row, column) distances in mm,
    `shape` (rows, columns). A stack whose axes are a permutation of the patient axes is turned without interpolation.
    """
    along_row, along_column = _directions(orientation, what)
    normal = np.cross(along_row, along_column)
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    start, step = _uniform(depth[order], positions[order], normal, what)
    first = positions[order[0]] + (start - depth[order[0]]) * normal
    directions = (normal * step, along_column * pixel_spacing[0], along_row * pixel_spacing[1])
    axes_of = [_patient_axis(d, what) for d in directions]  # patient axis (0 x, 1 y, 2 z) of each stored axis
    if sorted(axes_of) != [0, 1, 2]:
        raise IonrtError(f"{what}: direction cosines {tuple(orientation)} are not orthogonal; the file is damaged")
    axes = tuple(axes_of.index(axis) for axis in (2, 1, 0))
    sizes = (len(positions), *shape)
    coords, flips = {}, []
    for dim, axis, stored in zip(DIMS, (2, 1, 0), axes, strict=True):
        delta = directions[stored][axis]
        values = first[axis] + delta * np.arange(sizes[stored])
        coords[dim] = values if delta > 0 else values[::-1].copy()
        if delta < 0:
            flips.append(DIMS.index(dim))
    return Layout(order, axes, tuple(flips), coords)


def _directions(orientation: Sequence[float] | np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Row and column direction as unit vectors; cosines come rounded, and a length or angle beyond that is damage."""
    cosines = np.asarray(orientation, float).reshape(2, 3)
    lengths = np.linalg.norm(cosines, axis=1)
    if not (np.abs(lengths - 1.0) < COSINE_TOLERANCE).all() or abs(cosines[0] @ cosines[1]) > COSINE_TOLERANCE:
        shown = tuple(float(c) for c in cosines.ravel())
        raise IonrtError(f"{what}: direction cosines {shown} are not orthogonal unit vectors; the file is damaged")
    along_row, along_column = cosines / lengths[:, None]
    return along_row, along_column


def affine(coords: dict[str, np.ndarray]) -> tuple[float, ...]:
    """The 4x4 matrix, row by row, that takes voxel indices (x, y, z, 1) to mm in LPS."""
    matrix = np.eye(4)
    for i, dim in enumerate(("x", "y", "z")):
        values = np.asarray(coords[dim])
        matrix[i, i], matrix[i, 3] = (distance(values) if len(values) > 1 else 1.0), values[0]
    return tuple(float(value) for value in matrix.ravel())


def regrid(patient: xr.Dataset, *, spacing: float | Sequence[float]) -> xr.Dataset:
    """Average the patient onto a coarser grid, exactly.

    Each new voxel holds the volume-weighted mean of what it overlaps, mean = sum_i V_i a_i / sum_i V_i for CT and dose; for
    structures the share of the whole new voxel, so that volumes are kept. Untouched structures of `read_dicom` are worked
    out from their contours instead, which is exact on the new grid as well and needs no fine one.

    Parameters
    ----------
    patient : Dataset on a uniform grid (z, y, x) in mm.
    spacing : new voxel size in mm, one number or (z, y, x). The low edges of the grid stay where they are.

    Returns
    -------
    Dataset on the new grid; what was lazy stays lazy; the contours stay.

    Raises
    ------
    IonrtError for a spacing that is not positive or larger than the grid.

    Valid for any target spacing; one finer than the source repeats values, it adds no detail.
    """
    size = (float(spacing),) * 3 if isinstance(spacing, (int, float)) else tuple(float(s) for s in spacing)
    if len(size) != 3:
        raise IonrtError(f"regrid: expected one spacing or three (z, y, x), got {len(size)}")
    coords = {dim: _coarse(patient[dim].values, step, dim) for dim, step in zip(DIMS, size, strict=True)}
    grid = patient.drop_vars([n for n in patient.variables if set(DIMS) & set(patient[n].dims)]).assign_coords(coords)
    grid.attrs = {**patient.attrs, "affine": affine(coords), "regridded_from": tuple(distance(patient[d].values) for d in DIMS)}
    for name, array in patient.data_vars.items():
        if name == "structures":  # from the contours while the fractions are still theirs (same graph)
            own = "contour_points" in patient and array.chunks is not None
            own = own and array.data.name == lazy_fractions(patient).data.name
            grid[name] = lazy_fractions(grid) if own else _average(array, coords, whole=True)
        elif set(DIMS) <= set(array.dims):
            grid[name] = _average(array, coords, whole=False)
    return grid[list(patient.data_vars)] if patient.data_vars else grid


def crop(patient: xr.Dataset, name: str, *, margin: float) -> xr.Dataset:
    """The patient on the box around a structure and `margin` mm on every side, as far as the grid goes; a view."""
    inside = find_structure(patient, name) > 0
    keep = {}
    for dim in DIMS:
        hit = inside.any([d for d in DIMS if d != dim]).values
        if not hit.any():
            raise IonrtError(f"structure {name!r} covers no voxel of the grid; nothing to crop to")
        at = patient[dim].values
        low, high = at[hit][0] - margin, at[hit][-1] + margin
        keep[dim] = slice(int(np.searchsorted(at, low - 1e-9)), int(np.searchsorted(at, high + 1e-9)))
    out = patient.isel(keep)
    out.attrs = {**patient.attrs, "affine": affine({dim: out[dim].values for dim in DIMS})}
    return out


def _uniform(depth: np.ndarray, positions: np.ndarray, normal: np.ndarray, what: str) -> tuple[float, float]:
    """Depth of the first slice and slice distance of the sorted stack; refuses duplicates, gaps, changing distances, shear."""
    if len(depth) == 1:
        return float(depth[0]), 1.0
    gaps = np.diff(depth)
    usual = float(np.median(gaps))
    same = np.nonzero(gaps < 1e-3)[0]
    if same.size:
        raise IonrtError(
            f"{what}: slices share a position ({same.size} pairs, first at {depth[same[0]]:g} mm);"
            " expected one slice per position: remove the copies or name one series"
        )
    off = np.nonzero(np.abs(gaps - usual) > max(SPACING_TOLERANCE * usual, SPACING_TOLERANCE))[0]
    fit = _rounded(depth) if off.size else None
    if off.size and fit is None:
        i = int(np.abs(gaps - usual).argmax())
        raise IonrtError(
            f"{what}: slice distance is {usual:g} mm, but {gaps[i]:g} mm between {depth[i]:g} and {depth[i + 1]:g} mm"
            f" ({off.size} such place{'s' if off.size > 1 else ''}): a slice is missing or the spacing is not uniform;"
            " complete the series or resample it to a uniform spacing"
        )
    shift = positions[-1] - positions[0]
    tilt = np.degrees(np.arccos(np.clip(abs(shift @ normal) / np.linalg.norm(shift), 0.0, 1.0)))
    if tilt > AXIS_TOLERANCE:
        raise IonrtError(
            f"{what}: slices are sheared by {tilt:.1f} degrees (gantry tilt); expected a straight stack: resample the series"
            " without tilt before reading it"
        )
    sideways = positions - positions[0] - np.outer((depth - depth[0]) / (depth[-1] - depth[0]), shift)
    sideways -= np.outer(sideways @ normal, normal)
    far = np.linalg.norm(sideways, axis=1)
    if far.max() > SIDEWAYS:
        i = int(far.argmax())
        raise IonrtError(
            f"{what}: the slice at {depth[i]:g} mm lies {far[i]:.2g} mm sideways of the others; expected a straight stack"
        )
    return fit or (float(depth[0]), float(depth[-1] - depth[0]) / (len(depth) - 1))


def _rounded(depth: np.ndarray) -> tuple[float, float] | None:
    """First depth and distance of positions that are uniform but for their last digit; None where they are not.

    The straight line that lies nearest to the farthest point: the spread about a line is convex in its slope.
    """
    places = np.arange(len(depth))
    low, high = float(np.diff(depth).min()), float(np.diff(depth).max())
    for _ in range(60):
        one, other = low + (high - low) / 3.0, high - (high - low) / 3.0
        low, high = (low, other) if np.ptp(depth - one * places) < np.ptp(depth - other * places) else (one, high)
    step = (low + high) / 2.0
    left = depth - step * places
    off = float(np.ptp(left)) / 2.0
    return (float(left.min()) + off, step) if off <= ROUNDED and off < 0.2 * step else None


def _patient_axis(direction: np.ndarray, what: str) -> int:
    """The patient axis that a direction runs along."""
    axis = int(np.abs(direction).argmax())
    angle = np.degrees(np.arccos(np.clip(abs(direction[axis]) / np.linalg.norm(direction), 0.0, 1.0)))
    if angle > AXIS_TOLERANCE:
        raise IonrtError(
            f"{what}: an image axis is turned by {angle:.1f} degrees against the patient axes (oblique orientation);"
            " expected an axis-aligned series: resample it before reading"
        )
    return axis


def _coarse(centres: np.ndarray, step: float, dim: str) -> np.ndarray:
    """Centres of the new voxels; they start at the low edge of the old ones."""
    fine = distance(centres)
    extent = fine * len(centres)
    if not 0.0 < step <= extent / 2.0:
        raise IonrtError(f"regrid: expected a spacing above 0 and at most {extent / 2.0:g} mm along {dim}, got {step:g}")
    n = int(np.ceil(extent / step - 1e-6))
    return centres[0] - fine / 2.0 + step * (np.arange(n) + 0.5)


def _average(array: xr.DataArray, coords: dict[str, np.ndarray], *, whole: bool) -> xr.DataArray:
    """Volume average over the new voxels; leading dimensions stay as they are."""
    lead = [str(dim) for dim in array.dims if dim not in DIMS]
    array = array.transpose(*lead, *DIMS)
    weights = [_weights(array[dim].values, coords[dim], whole) for dim in DIMS]
    if array.chunks is None:
        data = np.empty((*array.shape[:-3], *(len(coords[dim]) for dim in DIMS)), array.dtype)
        each(lambda k: np.copyto(data[k], _average_block(array.values[k], weights)), np.ndindex(data.shape[:-3]))
    else:
        one = array.data.rechunk({len(lead) + i: -1 for i in range(3)})
        chunks = (*one.chunks[: len(lead)], *((len(coords[dim]),) for dim in DIMS))
        data = da.map_blocks(_average_block, one, weights, chunks=chunks, dtype=array.dtype, meta=one._meta)
    kept = {k: v for k, v in array.coords.items() if not set(DIMS) & set(v.dims)}
    return xr.DataArray(data, dims=(*lead, *DIMS), coords={**kept, **coords}, name=array.name, attrs=dict(array.attrs))


def _weights(old: np.ndarray, new: np.ndarray, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """First old voxel of each new one and the shares of the old ones in it; `whole` counts the part off the grid as zero."""
    fine, step = distance(old), distance(new)
    low = (new - step / 2.0 - old[0]) / fine + 0.5  # edges of the new voxels in old voxels
    high = np.minimum(low + step / fine, len(old))
    first = np.floor(low + 1e-9).astype(np.int64)
    width = int((np.ceil(high - 1e-9) - first).max())
    cell = first[:, None] + np.arange(width)
    share = np.clip(np.minimum(high[:, None], cell + 1.0) - np.maximum(low[:, None], cell), 0.0, None)
    return first, share / (step / fine if whole else share.sum(1, keepdims=True))


def _average_block(block: np.ndarray, weights: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Average the last three axes, one after the other."""
    for axis in (-3, -2, -1):
        first, share = weights[axis]
        before, after = int(np.prod(block.shape[:axis])), int(np.prod(block.shape[axis:][1:]))
        flat = np.ascontiguousarray(block).reshape(before, block.shape[axis], after)
        flat = _average_axis(flat, first, share)
        shape = list(block.shape)
        shape[axis] = len(first)
        block = flat.reshape(shape)
    return block


@njit(nogil=True, cache=True)
def _average_axis(block: np.ndarray, first: np.ndarray, share: np.ndarray) -> np.ndarray:
    """out[a, i, b] = sum_k share[i, k] block[a, first[i] + k, b], summed in double precision."""
    n_before, n_old, n_after = block.shape
    out = np.empty((n_before, first.size, n_after), block.dtype)
    row = np.empty(n_after)
    for a in range(n_before):
        for i in range(first.size):
            if n_after == 1:  # along the last axis, where rows of one would take four times as long
                total = 0.0
                for k in range(share.shape[1]):
                    if share[i, k] > 0.0 and first[i] + k < n_old:
                        total += share[i, k] * block[a, first[i] + k, 0]
                out[a, i, 0] = total
                continue
            row[:] = 0.0
            for k in range(share.shape[1]):
                weight, j = share[i, k], first[i] + k
                if weight > 0.0 and j < n_old:
                    for b in range(n_after):
                        row[b] += weight * block[a, j, b]
            for b in range(n_after):
                out[a, i, b] = row[b]
    return out
