"""A coarse lattice of nodes for the halo, and the trilinear interpolation from its nodes to the voxels."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from ionrt.plan.geometry import Grid

NODE_DISTANCE = 6.0  # mm, at most; the sigma of the halo is 3-15 mm and its depth dose has no peak


def coarse_grid(grid: Grid) -> tuple[Grid, tuple[int, int, int]]:
    """Every n-th voxel centre along each axis, reaching over the end of the grid; and n."""
    factor = tuple(max(1, int(NODE_DISTANCE / s + 1e-6)) for s in grid.spacing)
    shape = tuple(-(-(n - 1) // f) + 1 for n, f in zip(grid.shape, factor, strict=True))
    spacing = tuple(s * f for s, f in zip(grid.spacing, factor, strict=True))
    return Grid(grid.origin, spacing, shape), factor  # type: ignore[arg-type, return-value]


def added_variance(grid: Grid, coarse: Grid) -> float:
    """Variance (mm2 per axis, mean over the axes) that the interpolation adds to what the nodes sample.

    A triangle of half-width h sampled in steps s has the variance (h2 - s2)/6 of its own and that of the nodes' grid.
    """
    return float(np.mean([(h * h - s * s) / 6.0 for h, s in zip(coarse.spacing, grid.spacing, strict=True)]))


def interpolation(index: np.ndarray, grid: Grid, factor: tuple[int, int, int], coarse: Grid) -> csr_array:
    """(voxels, nodes of the whole coarse grid) float32 weights for voxels given by flat index."""
    low, weight = [], []
    for place, f, n in zip(np.unravel_index(index, grid.shape), factor, coarse.shape, strict=True):
        cell = np.minimum(place // f, max(n - 2, 0))
        low.append(cell)
        weight.append((place - f * cell) / f)
    columns, values = [], []
    for corner in np.ndindex(2, 2, 2):
        node = [np.minimum(a + c, n - 1) for a, c, n in zip(low, corner, coarse.shape, strict=True)]
        columns.append(np.ravel_multi_index(node, coarse.shape))
        values.append(np.prod([b if c else 1.0 - b for b, c in zip(weight, corner, strict=True)], axis=0))
    rows = np.tile(np.arange(index.size), 8)
    data = np.concatenate(values).astype(np.float32)
    out = csr_array((data, (rows, np.concatenate(columns))), shape=(index.size, coarse.size))
    out.eliminate_zeros()
    return out
