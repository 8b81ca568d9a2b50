"""A displacement that is smooth by what it is made of: Gauss-Newton steps on the HU difference for a blurred field."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse.linalg import LinearOperator, cg

from ionrt.adapt.images import coarser, resampled, smoothed
from ionrt.adapt.sampling import at_points, centres
from ionrt.plan.setup.geometry import Grid

LATTICE = 2  # voxels of the images per voxel of the displacement, along each axis
IMAGE_SMOOTHING = (6.0, 6.0, 4.0)  # mm, of each Gauss-Newton step
ROUNDS, CLOSE = 40, 1e-3  # conjugate gradients of each step: at most, and to which share of the right side
NOISE, OUTLIER = 20.0, 100.0  # HU: one standard deviation; differences beyond this count less and less (gas, what is gone)
STIFFNESS = 3e-4  # of the unsmoothed field, beside the HU difference in units of NOISE
PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def smooth_displacement(fixed: np.ndarray, moving: np.ndarray, seen: np.ndarray, grid: Grid, sigma: float) -> np.ndarray:
    r"""The displacement :math:`u = G_\sigma * z` (3, z, y, x) [mm] that makes the moving image look like the fixed one.

    Least :math:`\sum_X w\,(M(X + u) - F(X))^2/s^2 + \alpha \sum |z|^2` over z, :math:`w = 1/(1 + (M - F)^2/c^2)`; images in HU,
    `sigma` of the Gaussian G in mm. Voxels that not both images show (`seen`) exert no force: there the field goes on as its
    surroundings demand and dies away within sigma; noise bends it little.
    """
    lattice, at = coarser(grid, LATTICE), centres(grid)
    steps = [sigma / s for s in lattice.spacing]

    def spread(x: np.ndarray) -> np.ndarray:
        return np.stack([gaussian_filter(one, steps, mode="reflect", truncate=3.0) for one in x])

    z = np.zeros((3, *lattice.shape))
    u = np.zeros_like(z)
    for blur in IMAGE_SMOOTHING:
        images = [smoothed(a, grid, blur) for a in (fixed, moving)]
        here = at + _finer(u, lattice, grid).reshape(3, -1).T
        pulled = at_points(np.ascontiguousarray(images[1], np.float32)[None], grid, here)[0].reshape(grid.shape)
        there = seen & np.isfinite(pulled)
        pulled = np.where(there, pulled, images[0])
        off = (pulled - images[0]).astype(np.float64)
        both = np.stack(list(np.gradient(0.5 * (images[0] + pulled), *grid.spacing)))[::-1]
        weight = np.where(there, 1.0 / (1.0 + (off / OUTLIER) ** 2) / NOISE**2, 0.0)
        pull = _blocks([weight * both[k] * off for k in range(3)])
        square = _blocks([weight * both[i] * both[j] for i, j in PAIRS])

        def normal(flat: np.ndarray, square: np.ndarray = square) -> np.ndarray:
            x = flat.reshape(3, *lattice.shape)
            return (spread(_times(square, spread(x))) + STIFFNESS * x).ravel()

        right = spread(_times(square, u) - pull).ravel()
        found, _ = cg(LinearOperator((z.size, z.size), normal, dtype=float), right, z.ravel(), rtol=CLOSE, maxiter=ROUNDS)
        z = found.reshape(z.shape)
        u = spread(z)
    return _finer(u, lattice, grid)


def _finer(u: np.ndarray, lattice: Grid, grid: Grid) -> np.ndarray:
    """Components on the grid of the images."""
    return np.stack([resampled(one, lattice, grid, outside=0.0) for one in u])


def _blocks(parts: list[np.ndarray]) -> np.ndarray:
    """Means over the voxels of each lattice voxel; beyond the grid's end nothing is seen (0)."""
    pad = [(0, -n % LATTICE) for n in parts[0].shape]
    shape = [k for n, (_, p) in zip(parts[0].shape, pad, strict=True) for k in ((n + p) // LATTICE, LATTICE)]
    return np.stack([np.pad(a, pad).reshape(shape).mean(axis=(1, 3, 5)) for a in parts])


def _times(square: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The symmetric 3 x 3 matrix of each voxel times its vector."""
    out = np.zeros_like(x)
    for values, (i, j) in zip(square, PAIRS, strict=True):
        out[i] += values * x[j]
        if i != j:
            out[j] += values * x[i]
    return out
