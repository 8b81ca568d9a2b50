"""The halo is wide and smooth: fewer rays carry it to nodes at a few depths, linear interpolation does the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from ionrt.plan.kernels import MOST_ENERGIES
from ionrt.plan.rows import Rows, in_buckets
from ionrt.plan.spots import Spots
from ionrt.threads import each, slabs

DISTANCE = 0.8  # of the narrowest halo (sigma) at that depth, between nodes
NEAREST, FARTHEST = 2.0, 10.0  # mm between nodes of a level
STEPS = (8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0)  # mm of water between levels
AT_ONCE = 20_000  # voxels: few enough for the caches
RAY_DISTANCE = 1.2  # sigmas of the halo, at most


@dataclass(frozen=True)
class Lattice:
    """Levels of water-equivalent depth (`level`, depth bins of `n` altogether), each with nodes `distance` mm apart in the
    isocentre plane. A voxel interpolates at its own depth, so the material on its own ray counts. `thinned` levels see only
    every second ray, and `by_rays` mm2 is the variance that this adds."""

    level: np.ndarray
    distance: np.ndarray
    thinned: np.ndarray
    by_rays: float
    n: int

    def narrowest(self) -> np.ndarray:
        """Variance (mm2, per level) below which the sum over nodes is off by more than 0.1 %."""
        return 0.4 * self.distance**2

    def added_variance(self) -> np.ndarray:
        """Variance (mm2 per axis, per level) that linear interpolation adds (that of a triangle), and that of the rays."""
        return self.distance**2 / 6.0 + np.where(self.thinned, self.by_rays, 0.0)

    def share(self, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Level above each depth bin, and the share of the level below it."""
        upper = np.clip(np.searchsorted(self.level, bins, side="right") - 1, 0, self.level.size - 2)
        return upper, (bins - self.level[upper]) / (self.level[upper + 1] - self.level[upper])

    def between(self, nodes: np.ndarray) -> np.ndarray:
        """(depth, energy) after interpolation, from (level, energy)."""
        upper, lower = self.share(np.arange(self.n))
        return nodes[upper] * (1.0 - lower[:, None]) + nodes[upper + 1] * lower[:, None]

    def at_most(self, nodes: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Factors (level, energy) with which the interpolation nowhere exceeds `limit` (depth, energy)."""
        shown = self.between(nodes)
        room = np.divide(limit, shown, out=np.ones_like(shown), where=shown > limit)
        within = np.minimum.reduceat(room, self.level[:-1], axis=0)
        return np.minimum(np.vstack([within[:1], within]), np.vstack([within, within[-1:]]))

    def same_mean(self, nodes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Factors (level, energy) with which the interpolation has the mean of `wanted` (depth, energy) around each level."""
        want, shown = (np.add.reduceat(a, self.level[:-1], axis=0) for a in (wanted, self.between(nodes)))
        within = np.divide(want, shown, out=np.ones_like(shown), where=shown > 0.0)
        return 0.5 * (np.vstack([within[:1], within]) + np.vstack([within, within[-1:]]))


def choose_lattice(
    halo: np.ndarray, variance: np.ndarray, whole: np.ndarray, allowed: np.ndarray, step: float, spacing: float
) -> Lattice:
    """Levels as far apart as the error `allowed` in the halo's dose lets them be, and nodes as its variance does, all (depth,
    energy); `spacing` mm of the rays, every second of which is enough for a wide halo."""
    n, level = halo.shape[0], [0]
    while level[-1] < n - 1:
        at = level[-1]
        for jump in STEPS:
            to = min(at + max(round(jump / step), 1), n - 1)
            share = np.linspace(0.0, 1.0, to - at + 1)[:, None]
            apart = np.abs(halo[at] + share * (halo[to] - halo[at]) - halo[at : to + 1])
            if (apart <= allowed[at : to + 1]).all():
                break
        level.append(to)
    levels = np.array(level)
    counts = halo > 1e-3 * np.maximum(whole, 0.2 * whole.max(axis=1, keepdims=True))
    least = np.where(counts, variance, np.inf).min(axis=1)[levels]
    by_rays = spacing**2 if np.isfinite(spacing) else 0.0
    least = np.minimum(least, (FARTHEST / DISTANCE) ** 2 + by_rays)
    thinned = 2.0 * spacing <= RAY_DISTANCE * np.sqrt(least)
    distance = np.clip(DISTANCE * np.sqrt(least - np.where(thinned, by_rays, 0.0)), NEAREST, FARTHEST)
    return Lattice(levels, distance, thinned, by_rays, n)


def nodes_of(lattice: Lattice, rows: Rows, spots: Spots, radius: float, *, thinned: bool) -> tuple[Rows, csr_array] | None:
    """Nodes around the given voxels as rows of their own, and the interpolation (voxels, nodes) in float32; of the levels that
    are `thinned` or of the others (None where there are none)."""
    if rows.bins.size == 0:
        return None
    upper, lower = lattice.share(rows.bins.astype(np.int64))
    low = np.floor(rows.bev[:, :2].min(axis=0) / lattice.distance[:, None]).astype(np.int64)
    shape = np.floor(rows.bev[:, :2].max(axis=0) / lattice.distance[:, None]).astype(np.int64) + 2 - low
    start = np.concatenate([[0], np.cumsum(shape.prod(axis=1))])
    columns, values = np.empty((rows.bins.size, 8), np.int64), np.empty((rows.bins.size, 8), np.float32)

    def work(some: slice) -> None:
        for k, depth in enumerate((1.0 - lower[some], lower[some])):
            at = upper[some] + k
            place = rows.bev[some, :2] / lattice.distance[at, None]
            cell = np.floor(place).astype(np.int64)
            part, cell = place - cell, cell - low[at]
            depth = np.where(lattice.thinned[at] == thinned, depth, 0.0)
            for c, (i, j) in enumerate(np.ndindex(2, 2)):
                columns[some, 4 * k + c] = start[at] + (cell[:, 1] + j) * shape[at, 0] + cell[:, 0] + i
                values[some, 4 * k + c] = depth * np.abs(1 - i - part[:, 0]) * np.abs(1 - j - part[:, 1])

    each(work, slabs(rows.bins.size, AT_ONCE))
    flat, weight = columns.ravel(), values.ravel()
    seen = np.bincount(flat, weights=weight, minlength=start[-1])
    along = np.bincount(flat, weights=(values * rows.bev[:, 2:]).ravel(), minlength=start[-1])
    used = np.flatnonzero(seen > 0.0)
    if used.size == 0:
        return None
    at = np.searchsorted(start, used, side="right") - 1
    iv, iu = np.divmod(used - start[at], shape[at, 0])
    plane = (np.stack([iu, iv], axis=1) + low[at]) * lattice.distance[at, None]
    nodes = in_buckets(used, lattice.level[at], np.column_stack([plane, along[used] / seen[used]]), spots, radius)
    place = np.zeros(start[-1], np.int32)
    place[nodes.voxel] = np.arange(nodes.voxel.size, dtype=np.int32)
    kept = weight > 0.0
    pointer = np.concatenate([[0], np.cumsum(kept.reshape(-1, 8).sum(axis=1))])
    pointer = pointer.astype(np.int32 if pointer[-1] <= np.iinfo(np.int32).max else np.int64)
    return nodes, csr_array((weight[kept], place[flat[kept]], pointer), shape=(rows.bins.size, nodes.voxel.size))


def every_second_ray(spots: Spots) -> tuple[Spots, csr_array]:
    """Spots on every second ray, and the shares (these spots, spots) with which they stand for all: on each axis 1/8, 3/4, 1/8
    for a ray that stays and 1/2, 1/2 for one that does not. Both have the variance of the spacing squared."""
    u, v, energy = spots.per_spot()
    ray = [np.rint(p / spots.spacing).astype(np.int64) for p in (v, u)]
    keys, shares = [], []
    for sides in np.ndindex(3, 3):
        share = np.ones(u.size)
        for r, side in zip(ray, sides, strict=True):
            share = share * np.where(r % 2 == 0, (0.125, 0.75, 0.125)[side], (0.0, 0.5, 0.5)[side])
        keys.append(np.stack([*(r // 2 + side - 1 for r, side in zip(ray, sides, strict=True)), energy], axis=1))
        shares.append(share)
    used = [s > 0.0 for s in shares]
    column = np.concatenate([np.flatnonzero(m) for m in used])
    key, row = np.unique(np.concatenate([k[m] for k, m in zip(keys, used, strict=True)]), axis=0, return_inverse=True)
    share = np.concatenate([s[m] for s, m in zip(shares, used, strict=True)])
    matrix = csr_array((share, (row.ravel(), column)), shape=(len(key), u.size))
    follows = (np.diff(key[:, :2], axis=0) == 0).all(axis=1) & (np.diff(key[:, 2]) == 1)
    begins = np.concatenate([[True], ~follows])
    run = np.flatnonzero(begins)
    within = np.arange(len(key)) - run[np.cumsum(begins) - 1]
    start = np.flatnonzero(within % MOST_ENERGIES == 0)  # two rays may have more energies together than one block may
    step = 2.0 * spots.spacing
    return Spots(step * key[start, 1], step * key[start, 0], key[start, 2], np.diff(np.append(start, len(key))), step), matrix
