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
from ionrt.threads import each, slabs

REACH = 3  # buckets that a ray looks at on either side
LOOKED_AT = 50_000  # voxels at a time


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
    body = np.flatnonzero(scene.body)
    if found[0].size == 0 and _dosed(beam, scene, view, machine, spots, radius, scene.grid, body)[0].size == 0:
        moved = f" in scenario {view.scenario!r}" if view.scenario else ""
        raise IonrtError(f"beam {beam.name} misses the patient{moved}: no voxel near its rays; check isocentre and angles")
    return in_buckets(*found, spots, radius if looks is None else looks)


def _dosed(
    beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots, radius: float, grid: Grid, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels that are dosed, their depth bins and places."""
    rays = _ray_map(spots, radius)

    def work(part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        bev = view.bev(index[part], grid)
        near = _near_rays(bev, rays, spots, radius)
        mine, bev = index[part][near], bev[near]
        bins = np.rint((view.wepl(mine, scene, grid) + beam.range_shifter) / machine.depth_step)
        dosed = np.flatnonzero(bins < machine.dose.shape[0])
        return mine[dosed], bins[dosed], bev[dosed]

    found = each(work, slabs(index.size, LOOKED_AT)) or [work(slice(0, 0))]
    return found[0] if len(found) == 1 else tuple(np.concatenate(a) for a in zip(*found, strict=True))  # type: ignore[return-value]


def in_buckets(voxel: np.ndarray, bins: np.ndarray, bev: np.ndarray, spots: Spots, radius: float) -> Rows:
    """Rows sorted into buckets; a ray finds all within `radius` mm in its own bucket and the `REACH` around it."""
    origin, n_bucket, size = _buckets(spots, radius)
    place = np.clip(np.floor((bev[:, :2] - origin) / size).astype(np.int64), 0, n_bucket - 1)
    cell = place[:, 1] * n_bucket[0] + place[:, 0]
    few = int(n_bucket.prod()) <= np.iinfo(np.uint16).max  # numpy sorts these by digits, many times faster
    order = np.argsort(cell.astype(np.uint16) if few else cell, kind="stable")
    bucket = np.searchsorted(cell[order], np.arange(n_bucket.prod() + 1)).astype(np.int64)
    return Rows(voxel[order], bins[order].astype(np.uint16), bev[order], bucket, n_bucket, origin, size, REACH)


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


def _near_rays(bev: np.ndarray, near: np.ndarray, spots: Spots, radius: float) -> np.ndarray:
    """Whether a voxel is in one of the buckets `near` rays."""
    origin, n_bucket, size = _buckets(spots, radius)
    place = np.floor((bev[:, :2] - origin) / size).astype(np.int64)
    inside = np.all((place >= 0) & (place < n_bucket), axis=1)
    inside[inside] = near[place[inside, 1], place[inside, 0]]
    return inside


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
