"""Compiled loops over voxels: many variables pulled at points with one set of weights, or scattered without losing any mass."""

from __future__ import annotations

import numpy as np
from numba import njit

from ionrt.plan.setup.geometry import Grid

SNAP = 1e-6  # voxels: a point this close to a voxel's centre is there, so that whole-voxel shifts are exact


@njit(nogil=True, cache=True, inline="always")
def _lower(place, size):
    """Lower neighbour and weight of the upper one; -1 beyond the outer face of the outermost voxel (NaN as well)."""
    if not (-0.5 - SNAP <= place <= size - 0.5 + SNAP):
        return -1, 0.0
    place = min(max(place, 0.0), size - 1.0)
    nearest = round(place)
    if abs(place - nearest) < SNAP:
        place = float(nearest)
    lower = min(int(place), max(size - 2, 0))
    return lower, place - lower


@njit(nogil=True, cache=True)
def pull(values, points, origin, spacing, out):
    """`values` (variable, z, y, x) at `points` (n, 3: x, y, z mm) by trilinear weights, into `out`; NaN outside."""
    shape = values.shape
    for n in range(points.shape[0]):
        k, wk = _lower((points[n, 2] - origin[0]) / spacing[0], shape[1])
        j, wj = _lower((points[n, 1] - origin[1]) / spacing[1], shape[2])
        i, wi = _lower((points[n, 0] - origin[2]) / spacing[2], shape[3])
        if k < 0 or j < 0 or i < 0:
            out[:, n] = np.nan
            continue
        for m in range(shape[0]):
            total = 0.0
            for corner in range(8):
                dk, dj, di = corner >> 2, (corner >> 1) & 1, corner & 1
                f = (wk if dk else 1.0 - wk) * (wj if dj else 1.0 - wj) * (wi if di else 1.0 - wi)
                if f != 0.0:  # a neighbour without weight may be NaN, or not there
                    total += f * values[m, k + dk, j + dj, i + di]
            out[m, n] = total


@njit(nogil=True, cache=True)
def scatter(values, mass, points, parts, origin, spacing, into, weight):
    """Mass and mass times `values` (variable, voxel) of voxels whose `parts` lie at `points` (voxel * parts, 3), shared out by
    trilinear weights: added to `weight` (z, y, x) and `into` (variable, z, y, x). Returns the mass that left the grid."""
    shape, lost = weight.shape, 0.0
    for n in range(points.shape[0]):
        voxel = n // parts
        share = mass[voxel] / parts
        k, wk = _lower((points[n, 2] - origin[0]) / spacing[0], shape[0])
        j, wj = _lower((points[n, 1] - origin[1]) / spacing[1], shape[1])
        i, wi = _lower((points[n, 0] - origin[2]) / spacing[2], shape[2])
        if k < 0 or j < 0 or i < 0:
            lost += share
            continue
        for corner in range(8):
            dk, dj, di = corner >> 2, (corner >> 1) & 1, corner & 1
            f = share * (wk if dk else 1.0 - wk) * (wj if dj else 1.0 - wj) * (wi if di else 1.0 - wi)
            if f != 0.0:
                weight[k + dk, j + dj, i + di] += f
                for m in range(values.shape[0]):
                    into[m, k + dk, j + dj, i + di] += f * values[m, voxel]
    return lost


def at_points(values: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """`values` (variable, z, y, x) on `grid` at `points` (n, 3) mm: (variable, n) in their own type."""
    out = np.empty((values.shape[0], points.shape[0]), values.dtype)
    pull(np.ascontiguousarray(values), points, np.array(grid.origin), np.array(grid.spacing), out)
    return out


def middle_of(values: np.ndarray, grid: Grid) -> np.ndarray:
    """Centre (x, y, z) [mm] of a mask, or of fractions by their weight."""
    index = np.argwhere(values > 0.0)
    zyx = np.average(index, axis=0, weights=values[tuple(index.T)])
    return (np.array(grid.origin) + np.array(grid.spacing) * zyx)[::-1].copy()


def centres(grid: Grid, parts: int = 1) -> np.ndarray:
    """Middles (voxels * parts^3, 3: x, y, z mm) of the voxels, or of `parts` per axis within each, voxel by voxel."""
    offset = (np.arange(parts) + 0.5) / parts - 0.5
    axes = [o + s * (np.arange(n)[:, None] + offset) for o, s, n in zip(grid.origin, grid.spacing, grid.shape, strict=True)]
    z, y, x = axes
    out = np.empty((*grid.shape, parts, parts, parts, 3))
    out[..., 2] = z[:, None, None, :, None, None]
    out[..., 1] = y[None, :, None, None, :, None]
    out[..., 0] = x[None, None, :, None, None, :]
    return out.reshape(-1, 3)
