"""The halo is wide and smooth: fewer rays carry it to nodes at a few depths, linear interpolation does the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.sparse import csr_array

from ionrt.parallel import each, slabs
from ionrt.plan.engine.kernels import MOST_ENERGIES
from ionrt.plan.engine.rows import Rows, in_buckets
from ionrt.plan.engine.store import starts
from ionrt.plan.setup.spots import Spots

DISTANCE = 0.8  # of the narrowest halo (sigma) at that depth, between nodes
NEAREST, FARTHEST = 2.0, 10.0  # mm between nodes of a level
STEPS = (8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5)  # mm of water between levels
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
    levels = np.array(_levels(halo, allowed, np.array([max(round(jump / step), 1) for jump in STEPS])))
    counts = halo > 1e-3 * np.maximum(whole, 0.2 * whole.max(axis=1, keepdims=True))
    least = np.where(counts, variance, np.inf).min(axis=1)[levels]
    by_rays = spacing**2 if np.isfinite(spacing) else 0.0
    least = np.minimum(least, (FARTHEST / DISTANCE) ** 2 + by_rays)
    thinned = 2.0 * spacing <= RAY_DISTANCE * np.sqrt(least)
    distance = np.clip(DISTANCE * np.sqrt(least - np.where(thinned, by_rays, 0.0)), NEAREST, FARTHEST)
    return Lattice(levels, distance, thinned, by_rays, halo.shape[0])


@njit(nogil=True, cache=True)
def _levels(halo, allowed, jumps):
    """Depth bins between which linear interpolation is good enough; as many bins on as the first jump that is, or the last."""
    last, found = halo.shape[0] - 1, [0]
    while found[-1] < last:
        at, to = found[-1], found[-1]
        for jump in jumps:
            to = min(at + jump, last)
            if _straight(halo, allowed, at, to):
                break
        found.append(to)
    return found


@njit(nogil=True, cache=True)
def _straight(halo, allowed, at, to):
    for d in range(at + 1, to):
        share = (d - at) / (to - at)
        for e in range(halo.shape[1]):
            if not abs(halo[at, e] + share * (halo[to, e] - halo[at, e]) - halo[d, e]) <= allowed[d, e]:
                return False
    return True


def nodes_of(lattice: Lattice, rows: Rows, spots: Spots, radius: float, *, thinned: bool) -> tuple[Rows, csr_array] | None:
    """Nodes around the given voxels as rows of their own, and the interpolation (voxels, nodes) in float32; of the levels that
    are `thinned` or of the others (None where there are none)."""
    if rows.bins.size == 0:
        return None
    low = np.floor(rows.bev[:, :2].min(axis=0) / lattice.distance[:, None]).astype(np.int64)
    shape = np.floor(rows.bev[:, :2].max(axis=0) / lattice.distance[:, None]).astype(np.int64) + 2 - low
    start = starts(shape.prod(axis=1))
    levels = (*lattice.share(np.arange(lattice.n)), lattice.thinned == thinned, lattice.distance, low, shape[:, 0], start)
    node, weight = np.empty((rows.bins.size, 8), np.int32), np.empty((rows.bins.size, 8), np.float32)
    count, pieces = np.empty(rows.bins.size, np.int64), slabs(rows.bins.size, AT_ONCE)
    each(lambda part: _around(rows.bev[part], rows.bins[part], *levels, node[part], weight[part], count[part]), pieces)
    seen, along = np.zeros((2, start[-1]))
    _gathered(node, weight, count, rows.bev, seen, along)
    used = np.flatnonzero(seen)
    if used.size == 0:
        return None
    at = np.searchsorted(start, used, side="right") - 1
    iv, iu = np.divmod(used - start[at], shape[at, 0])
    plane = (np.stack([iu, iv], axis=1) + low[at]) * lattice.distance[at, None]
    nodes = in_buckets(used, lattice.level[at], np.column_stack([plane, along[used] / seen[used]]), spots, radius)
    place = np.zeros(start[-1], np.int32)
    place[nodes.voxel] = np.arange(nodes.voxel.size, dtype=np.int32)
    pointer = starts(count)
    data, column = np.empty(pointer[-1], np.float32), np.empty(pointer[-1], np.int32)
    each(lambda part: _packed(node[part], weight[part], count[part], pointer[part], place, data, column), pieces)
    pointer = pointer.astype(np.int32 if pointer[-1] <= np.iinfo(np.int32).max else np.int64)
    return nodes, csr_array((data, column, pointer), shape=(rows.bins.size, nodes.voxel.size))


@njit(nogil=True, cache=True)
def _around(bev, bins, upper, lower, wanted, distance, low, width, start, node, weight, count):
    """Nodes around every voxel on the levels above and below it that are `wanted`, and their weights: how many are not 0."""
    for i in range(bins.size):
        n = 0
        for k in range(2):
            level = upper[bins[i]] + k
            if not wanted[level]:
                continue
            depth = lower[bins[i]] if k == 1 else 1.0 - lower[bins[i]]
            u, v = bev[i, 0] / distance[level], bev[i, 1] / distance[level]
            iu, iv = np.floor(u), np.floor(v)
            corner = start[level] + (int(iv) - low[level, 1]) * width[level] + int(iu) - low[level, 0]
            for j in range(4):
                share = depth * abs(1 - j // 2 - (u - iu)) * abs(1 - j % 2 - (v - iv))
                node[i, n], weight[i, n] = corner + (j % 2) * width[level] + j // 2, share
                n += weight[i, n] > 0.0
        count[i] = n


@njit(nogil=True, cache=True)
def _gathered(node, weight, count, bev, seen, along):
    """Sum of the weights of every node, and of the places along the beam that they stand for."""
    for i in range(count.size):
        for n in range(count[i]):
            seen[node[i, n]] += weight[i, n]
            along[node[i, n]] += weight[i, n] * bev[i, 2]


@njit(nogil=True, cache=True)
def _packed(node, weight, count, begin, place, data, column):
    for i in range(count.size):
        for n in range(count[i]):
            data[begin[i] + n], column[begin[i] + n] = weight[i, n], place[node[i, n]]


def every_second_ray(spots: Spots) -> tuple[Spots, csr_array]:
    """Spots on every second ray, and the shares (these spots, spots) with which they stand for all: on each axis 1/8, 3/4, 1/8
    for a ray that stays and 1/2, 1/2 for one that does not. Both have the variance of the spacing squared."""
    u, v, energy = spots.per_spot()
    ray = [np.rint(p / spots.spacing).astype(np.int64) for p in (v, u)]
    # rays of the coarse grid that a ray may give to, numbered so that energies of one follow each other
    low = [r.min() // 2 - 1 for r in ray]
    width, energies = ray[1].max() // 2 + 2 - low[1], energy.max() + 1
    keys, shares = [], []
    for sides in np.ndindex(3, 3):
        share = np.ones(u.size)
        for r, side in zip(ray, sides, strict=True):
            share = share * np.where(r % 2 == 0, (0.125, 0.75, 0.125)[side], (0.0, 0.5, 0.5)[side])
        iv, iu = (r // 2 + side - 1 - least for r, side, least in zip(ray, sides, low, strict=True))
        keys.append((iv * width + iu) * energies + energy)
        shares.append(share)
    used = [s > 0.0 for s in shares]
    column = np.concatenate([np.flatnonzero(m) for m in used])
    key, row = np.unique(np.concatenate([k[m] for k, m in zip(keys, used, strict=True)]), return_inverse=True)
    share = np.concatenate([s[m] for s, m in zip(shares, used, strict=True)])
    matrix = csr_array((share, (row, column)), shape=(key.size, u.size))
    cell, first = np.divmod(key, energies)
    begins = np.concatenate([[True], (np.diff(key) != 1) | (np.diff(cell) != 0)])
    run = np.flatnonzero(begins)
    within = np.arange(key.size) - run[np.cumsum(begins) - 1]
    start = np.flatnonzero(within % MOST_ENERGIES == 0)  # two rays may have more energies together than one block may
    step = 2.0 * spots.spacing
    iv, iu = (i + least for i, least in zip(np.divmod(cell[start], width), low, strict=True))
    return Spots(step * iu, step * iv, first[start], np.diff(np.append(start, key.size)), step), matrix
