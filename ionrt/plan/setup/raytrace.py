"""Water-equivalent path length from the source to a voxel by exact ray tracing through the stopping-power ratio."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numba import njit

from ionrt.parallel import each, slabs
from ionrt.plan.setup.geometry import Grid, bev_axes
from ionrt.quantities import check, stamp

TRACED = 20_000  # voxels at a time


@njit(nogil=True, cache=True)
def trace(points, spr, origin, spacing, axes, isocentre, source, out):
    """WEPL (mm) from each point (x, y, z LPS) towards the source, voxel by voxel (Siddon's planes, visited in order).

    For a point beyond the grid (a voxel of a coarser one) the outermost voxels reach as far as the point.
    """
    shape = spr.shape
    step, cell = np.empty(3, np.int64), np.empty(3, np.int64)
    held = np.empty(3, np.int64)  # the voxel whose material counts: of a point beyond the grid, the outermost one
    t_next, t_cell = np.empty(3), np.empty(3)
    for i in range(points.shape[0]):
        px, py, pz = points[i, 0] - isocentre[0], points[i, 1] - isocentre[1], points[i, 2] - isocentre[2]
        u = axes[0, 0] * px + axes[0, 1] * py + axes[0, 2] * pz
        v = axes[1, 0] * px + axes[1, 1] * py + axes[1, 2] * pz
        w = axes[2, 0] * px + axes[2, 1] * py + axes[2, 2] * pz
        su, sv = -u / (source[0] - w), -v / (source[1] - w)
        norm = np.sqrt(1.0 + su * su + sv * sv)
        position = (points[i, 2], points[i, 1], points[i, 0])
        step[:], t_next[:], t_cell[:] = 0, np.inf, np.inf
        inside = True
        for k in range(3):
            a = 2 - k  # z, y, x order against x, y, z axes
            flight = (axes[2, a] + su * axes[0, a] + sv * axes[1, a]) / norm
            place = (position[k] - origin[k]) / spacing[k] + 0.5
            cell[k] = int(np.floor(place))
            held[k] = min(max(cell[k], 0), shape[k] - 1)
            if flight > 1e-12:
                step[k] = 1
                t_cell[k] = spacing[k] / flight
                t_next[k] = (cell[k] + 1 - place) * t_cell[k]
                inside = inside and cell[k] < shape[k]
            elif flight < -1e-12:
                step[k] = -1
                t_cell[k] = -spacing[k] / flight
                t_next[k] = (place - cell[k]) * t_cell[k]
                inside = inside and cell[k] >= 0
        path, t = 0.0, 0.0
        while inside:
            k = 0
            if t_next[1] < t_next[k]:
                k = 1
            if t_next[2] < t_next[k]:
                k = 2
            path += (t_next[k] - t) * spr[held[0], held[1], held[2]]
            t = t_next[k]
            t_next[k] += t_cell[k]
            cell[k] += step[k]
            held[k] = min(max(cell[k], 0), shape[k] - 1)
            inside = cell[k] < shape[k] if step[k] > 0 else cell[k] >= 0
        out[i] = path


def trace_voxels(
    index: np.ndarray, grid: Grid, spr: np.ndarray, spr_grid: Grid, axes: np.ndarray, isocentre: np.ndarray, source: np.ndarray
) -> np.ndarray:
    """WEPL (mm, float64) at the centres of the voxels `index` (flat) of `grid`, through `spr` on its own, finer grid."""
    z, y, x = np.unravel_index(index, grid.shape)
    o, s = grid.origin, grid.spacing
    points = np.stack([o[2] + s[2] * x, o[1] + s[1] * y, o[0] + s[0] * z], axis=1)
    out = np.empty(index.size)

    def work(part: slice) -> None:
        trace(points[part], spr, np.array(spr_grid.origin), np.array(spr_grid.spacing), axes, isocentre, source, out[part])

    each(work, slabs(index.size, TRACED))
    return out


def wepl(
    spr: xr.DataArray,
    *,
    gantry: float,
    couch: float = 0.0,
    isocentre: tuple[float, float, float],
    source_distance: tuple[float, float] = (7000.0, 6500.0),
) -> xr.DataArray:
    r"""Water-equivalent path length [mm] from the source to every voxel centre: \int spr dl along the ray, exactly.

    Angles in degrees (IEC 61217), `isocentre` (x, y, z) and `source_distance` (BEV x, y) in mm; between source and grid there
    is vacuum. The computation is not lazy. Siddon, Med Phys 12 (1985) 252, doi 10.1118/1.595715.
    """
    check(spr, "spr", dims=("z", "y", "x"))
    grid = Grid.of(spr)
    values = np.ascontiguousarray(spr.transpose("z", "y", "x").values, dtype=np.float32)
    index = np.arange(grid.size)
    path = trace_voxels(
        index, grid, values, grid, bev_axes(gantry, couch), np.array(isocentre, float), np.array(source_distance, float)
    )
    out = xr.DataArray(path.astype(np.float32).reshape(grid.shape), dims=("z", "y", "x"), coords=grid.coords())
    return stamp(out, "wepl", gantry=gantry, couch=couch)
