"""Which voxels a beam doses, in buckets of the isocentre plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ionrt.plan.beams import Beam
from ionrt.plan.geometry import Grid
from ionrt.plan.machine import Machine
from ionrt.plan.scene import Scene
from ionrt.plan.spots import Spots, View
from ionrt.quantities import IonrtError


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
    beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots, radius: float, grid: Grid, index: np.ndarray
) -> Rows:
    """Of the voxels `index` of `grid`, those within `radius` mm of any ray and no deeper than the base data, by bucket."""
    bev = view.bev(index, grid)
    # the farthest downstream voxels see the rays spread most: radius in the isocentre plane
    radius *= 1.05
    size = max(radius / 2.0, 2.0)
    origin = np.array([spots.u.min(), spots.v.min()]) - 3.0 * size
    n_bucket = np.array([int((a.max() - o) / size) + 4 for a, o in zip((spots.u, spots.v), origin, strict=True)])
    near = np.zeros(n_bucket[::-1], dtype=bool)
    near[((spots.v - origin[1]) / size).astype(int), ((spots.u - origin[0]) / size).astype(int)] = True
    near = _widen(near, 3)
    place = np.floor((bev[:, :2] - origin) / size).astype(np.int64)
    inside = np.all((place >= 0) & (place < n_bucket), axis=1)
    inside[inside] = near[place[inside, 1], place[inside, 0]]
    index, bev, place = index[inside], bev[inside], place[inside]
    bins = np.rint((view.wepl(index, scene, grid) + beam.range_shifter) / machine.depth_step)
    dosed = bins < machine.dose.shape[0]
    if not dosed.any():
        moved = f" in scenario {view.scenario!r}" if view.scenario else ""
        raise IonrtError(f"beam {beam.name} misses the patient{moved}: no voxel near its rays; check isocentre and angles")
    order = np.flatnonzero(dosed)
    cell = place[order, 1] * n_bucket[0] + place[order, 0]
    by_cell = np.argsort(cell, kind="stable")
    order, cell = order[by_cell], cell[by_cell]
    bucket = np.searchsorted(cell, np.arange(n_bucket.prod() + 1)).astype(np.int64)
    return Rows(index[order], bins[order].astype(np.uint16), bev[order], bucket, n_bucket, origin, size, 3)


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
