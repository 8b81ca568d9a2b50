"""Which voxels a beam doses, in buckets of the isocentre plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from ionrt.parallel import each, slabs
from ionrt.plan.setup.beams import Beam
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.machine import Machine
from ionrt.plan.setup.scene import Scene
from ionrt.plan.setup.spots import Spots, View
from ionrt.quantities import IonrtError

REACH = 3  # buckets that a ray looks at on either side
LOOKED_AT = 8_000  # voxels at a time


@dataclass(frozen=True)
class Rows:
    """Dosed voxels in buckets of the isocentre plane, so that a ray looks only at its neighbourhood."""

    voxel: np.ndarray
    bins: np.ndarray
    bev: np.ndarray
    bucket: np.ndarray
    n_bucket: np.ndarray
    origin: np.ndarray
    size: float
    reach: int


def dosed_rows(
    beam: Beam,
    scene: Scene,
    view: View,
    machine: Machine,
    spots: Spots,
    radius: float,
    grid: Grid,
    index: np.ndarray,
    looks: float | None = None,
) -> Rows:
    """Of the voxels `index` of `grid`, those within `radius` mm of any ray and no deeper than the base data, by bucket; a ray
    will look for them within `looks` mm (None: as far).

    None may be left where `index` is only a part of the body; a beam that doses nothing of all the body raises.
    """
    found = _dosed(beam, scene, view, machine, spots, radius, grid, index)
    if found[0].size == 0 and not _doses_anything(beam, scene, view, machine, spots, radius):
        moved = f" in scenario {view.scenario!r}" if view.scenario else ""
        raise IonrtError(f"beam {beam.name} misses the patient{moved}: no voxel near its rays; check isocentre and angles")
    return in_buckets(*found, spots, radius if looks is None else looks)


def _doses_anything(beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots, radius: float) -> bool:
    return _dosed(beam, scene, view, machine, spots, radius, scene.grid, scene.inside)[0].size > 0


def _dosed(
    beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots, radius: float, grid: Grid, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels that are dosed, their depth bins and places."""
    rays = _ray_map(spots, radius)
    origin, _, size = _buckets(spots, radius)

    def work(part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        bev = view.bev(index[part], grid)
        near = _near_rays(bev, rays, origin, size)
        mine, bev = index[part][near], bev[near]
        bins = np.rint((view.wepl(mine, scene, grid) + beam.range_shifter) / machine.depth_step)
        dosed = np.flatnonzero(bins < machine.dose.shape[0])
        return mine[dosed], bins[dosed], bev[dosed]

    found = each(work, slabs(index.size, LOOKED_AT)) or [work(slice(0, 0))]
    return found[0] if len(found) == 1 else tuple(np.concatenate(a) for a in zip(*found, strict=True))  # type: ignore[return-value]


def in_buckets(voxel: np.ndarray, bins: np.ndarray, bev: np.ndarray, spots: Spots, radius: float) -> Rows:
    """Rows sorted into buckets; a ray finds all within `radius` mm in its own bucket and the `REACH` around it."""
    origin, n_bucket, size = _buckets(spots, radius)
    rows = np.empty_like(voxel), np.empty(len(bev), np.uint16), np.empty_like(bev)
    bucket = _sort(voxel, bins, bev, origin, n_bucket, size, *rows)
    return Rows(*rows, bucket, n_bucket, origin, size, REACH)


def _buckets(spots: Spots, radius: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Origin, number and size of the buckets around the rays."""
    # the farthest downstream voxels see the rays spread most: radius in the isocentre plane
    size = max(1.05 * radius / (REACH - 1.0), 2.0)
    # the outermost buckets, which hold all that is farther away, are in the reach of no ray
    origin = np.array([spots.u.min(), spots.v.min()]) - (REACH + 1) * size
    n_bucket = np.array([int((a.max() - o) / size) + REACH + 2 for a, o in zip((spots.u, spots.v), origin, strict=True)])
    return origin, n_bucket, size


def _ray_map(spots: Spots, radius: float) -> np.ndarray:
    """Buckets (v, u) that have a ray in them or in the `REACH` around them."""
    origin, n_bucket, size = _buckets(spots, radius)
    near = np.zeros(n_bucket[::-1], dtype=bool)
    near[((spots.v - origin[1]) / size).astype(int), ((spots.u - origin[0]) / size).astype(int)] = True
    return _widen(near, REACH)


@njit(nogil=True, cache=True)
def _near_rays(bev, near, origin, size):
    """Which of the voxels are in a bucket that is `near` a ray."""
    found, n = np.empty(len(bev), np.int64), 0
    for i in range(len(bev)):
        u, v = (bev[i, 0] - origin[0]) / size, (bev[i, 1] - origin[1]) / size
        if 0.0 <= u < near.shape[1] and 0.0 <= v < near.shape[0] and near[int(v), int(u)]:
            found[n] = i
            n += 1
    return found[:n]


@njit(nogil=True, cache=True)
def _sort(voxel, bins, bev, origin, n_bucket, size, to_voxel, to_bins, to_bev):
    """Rows by their bucket, u fastest, and where each bucket begins; what is outside counts to the nearest."""
    cell = np.empty(len(bev), np.int64)
    start = np.zeros(n_bucket[0] * n_bucket[1] + 1, np.int64)
    for i in range(len(bev)):
        u = min(max(int(np.floor((bev[i, 0] - origin[0]) / size)), 0), n_bucket[0] - 1)
        v = min(max(int(np.floor((bev[i, 1] - origin[1]) / size)), 0), n_bucket[1] - 1)
        cell[i] = v * n_bucket[0] + u
        start[cell[i] + 1] += 1
    start = np.cumsum(start)
    free = start[:-1].copy()
    for i in range(len(bev)):
        to = free[cell[i]]
        to_voxel[to], to_bins[to], to_bev[to] = voxel[i], bins[i], bev[i]
        free[cell[i]] += 1
    return start


def _widen(mask: np.ndarray, by: int) -> np.ndarray:
    """Grow a mask by a number of cells in both directions."""
    out = mask.copy()
    for axis in (0, 1):
        grown = out.copy()
        for shift in range(1, by + 1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(ahead)] |= out[tuple(behind)]
            grown[tuple(behind)] |= out[tuple(ahead)]
        out = grown
    return out
