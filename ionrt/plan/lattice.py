"""The halo is wide and smooth: fewer rays carry it to coarse nodes, linear interpolation does the rest at both ends."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from ionrt.plan.geometry import Grid
from ionrt.plan.spots import Spots

NODE_DISTANCE = 6.0  # mm, at most; the sigma of the halo is 3-15 mm and its depth dose has no peak
RAY_DISTANCE = 1.2  # sigmas of the halo, at most


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


def coarse_spots(spots: Spots, sigma: float) -> tuple[Spots, csr_array | None, float]:
    """Spots on every second ray where a halo of `sigma` mm allows it; their bilinear shares (coarse spots, spots), None where
    it does not; the variance (mm2) that these add on the mean."""
    n = 2
    if 2.0 * spots.spacing > RAY_DISTANCE * sigma:
        return spots, None, 0.0
    u, v, energy = spots.per_spot()
    keys, shares = [], []
    for corner in np.ndindex(2, 2):
        places, share = [], np.ones(u.size)
        for position, side in zip((v, u), corner, strict=True):
            ray = np.rint(position / spots.spacing).astype(np.int64)
            fraction = (ray % n) / n
            places.append(ray // n + side)
            share = share * (fraction if side else 1.0 - fraction)
        keys.append(np.stack([*places, energy], axis=1))
        shares.append(share)
    used = [s > 0.0 for s in shares]
    column = np.concatenate([np.flatnonzero(m) for m in used])
    key, row = np.unique(np.concatenate([k[m] for k, m in zip(keys, used, strict=True)]), axis=0, return_inverse=True)
    share = np.concatenate([s[m] for s, m in zip(shares, used, strict=True)])
    matrix = csr_array((share, (row.ravel(), column)), shape=(len(key), u.size))
    follows = (np.diff(key[:, :2], axis=0) == 0).all(axis=1) & (np.diff(key[:, 2]) == 1)
    start = np.flatnonzero(np.concatenate([[True], ~follows]))
    count = np.diff(np.concatenate([start, [len(key)]]))
    step = n * spots.spacing
    coarse = Spots(step * key[start, 1], step * key[start, 0], key[start, 2], count, step)
    return coarse, matrix, (n * n - 1) * spots.spacing**2 / 6.0
