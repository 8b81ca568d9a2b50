"""Water-equivalent depth of the target's far edge, ray by ray over the beam's view, on the planning CT and on a day."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr

from ionrt.adapt.sampling import at_points
from ionrt.plan.engine.influence import BeamInfluence, Influence
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.raytrace import trace
from ionrt.plan.setup.scene import AIR, Scene, spr_of, structure_fractions
from ionrt.plan.setup.spots import View, make_view
from ionrt.quantities import IonrtError, stamp

RAY = 2.0  # mm between the rays, in the isocentre plane
STEP = 0.5  # mm along a ray, for the crossing of the edge
CUT = 0.05  # share of a beam's rays that may enter where the CT is cut off
TOUCH = 1.0  # mm along a ray, for what it meets first


def check_entry(one: BeamInfluence, scene: Scene, seen: np.ndarray | None = None) -> None:
    """Raises where rays of a beam enter the CT in the middle of tissue: it is cut off, and their depth is not known."""
    rays = np.unique(np.stack([one.spots.u, one.spots.v], axis=1), axis=0)
    view = make_view(one.beam, scene)
    grid = scene.spr_grid
    start, towards = _rays(view, rays)
    far = float(np.linalg.norm(np.array(grid.spacing) * grid.shape))
    t = np.arange(0.0, far, TOUCH)[::-1]  # from the source on
    points = (start[:, None] + t[:, None] * towards[:, None]).reshape(-1, 3)
    there = np.ones(grid.shape, bool) if seen is None else seen
    known = _nearest(there, grid, points).reshape(len(rays), -1) > 0.0
    first = np.minimum(known.argmax(axis=1) + 1, t.size - 1)
    met = _nearest(scene.spr, grid, start + t[first][:, None] * towards)
    cut = ~known[:, -1] | (met > AIR)
    if cut.any():
        said = f"beam {one.beam.name}: {int(cut.sum())} of {cut.size} rays enter the daily CT within the patient (cut off)"
        if cut.mean() > CUT:
            raise IonrtError(f"{said}; their depth is unknown: image a larger field, or use another correction")
        warnings.warn(f"{said}; what they cross before is taken as air", stacklevel=3)


def depth_change(influence: Influence, planning: xr.Dataset, daily: xr.Dataset) -> xr.Dataset:
    r"""Change of the water-equivalent depth of the target's far edge, per beam and ray.

    :math:`\Delta = \int^{far'} s'\,dl - \int^{far} s\,dl` along each ray through the target on both days, on exact paths
    (Siddon, doi 10.1118/1.595715), to the far edge of the day's own target.

    Dataset (beam, v, u) of ``wepl_change`` and ``wepl_distal`` (the planned depth) [mm] on rays 2 mm apart at the isocentre;
    NaN where a ray misses the target on either day.
    """
    name = influence.plan.target
    volumes = [(structure_fractions(p, name), Grid.of(p, what="patient")) for p in (planning, daily)]
    ratios = [spr_of(p).transpose("z", "y", "x") for p in (planning, daily)]
    images = [(np.ascontiguousarray(s.values, np.float32), Grid.of(s)) for s in ratios]
    found = {}
    for i, one in enumerate(influence.beams):
        view = View(one.beam.axes, np.array(one.isocentre), np.array(one.beam.room.source_distance, dtype=float))
        u, v, reach = _extent(volumes, view)
        rays = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
        start, towards = _rays(view, rays)
        edges = [start + _far(values, grid, start, towards, reach)[:, None] * towards for values, grid in volumes]
        depths = [_path(e, image, grid, view) for e, (image, grid) in zip(edges, images, strict=True)]
        change = (depths[1] - depths[0]).reshape(v.size, u.size)
        label = f"{i + 1} {one.beam.name}"
        found[label] = xr.Dataset(
            {"wepl_change": (("v", "u"), change), "wepl_distal": (("v", "u"), depths[0].reshape(change.shape))},
            coords={"u": u, "v": v},
        )
        if not np.isfinite(change).any():
            raise IonrtError(f"depth_change: no ray of {label} meets {name!r} on both days; check set-up and structures")
    out = xr.concat(list(found.values()), "beam", join="outer", combine_attrs="drop").assign_coords(beam=list(found))
    return xr.Dataset({k: stamp(out[k], k, structure=name) for k in ("wepl_change", "wepl_distal")})


def _rays(view: View, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Point in the isocentre plane and unit vector towards the (two) sources, of rays (n, 2: u, v)."""
    start = view.isocentre + rays @ view.axes[:2]
    back = view.axes[2] - rays[:, :1] / view.source[0] * view.axes[0] - rays[:, 1:] / view.source[1] * view.axes[1]
    return start, back / np.linalg.norm(back, axis=1, keepdims=True)


def _extent(volumes: list[tuple[np.ndarray, Grid]], view: View) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Ray axes u and v (multiples of the spacing) that cover the target of both days; from behind to before it, mm from the
    isocentre plane."""
    seen = np.concatenate([view.bev(np.flatnonzero(values.ravel() > 0.0), grid) for values, grid in volumes])
    if not seen.size:
        raise IonrtError("depth_change: the target is empty")
    low, high = seen.min(axis=0), seen.max(axis=0)
    u, v = (RAY * np.arange(np.floor(low[k] / RAY), np.ceil(high[k] / RAY) + 1) for k in range(2))
    pad = 3.0 * max(max(grid.spacing) for _, grid in volumes)
    return u, v, (float(low[2]) - pad, float(high[2]) + pad)


def _far(values: np.ndarray, grid: Grid, start: np.ndarray, towards: np.ndarray, reach: tuple[float, float]) -> np.ndarray:
    """Where along each ray the target, seen from behind, first fills half a voxel; NaN where it never does."""
    t = np.arange(reach[0], reach[1] + STEP, STEP)
    points = (start[:, None] + t[:, None] * towards[:, None]).reshape(-1, 3)
    filled = np.nan_to_num(at_points(np.asarray(values, np.float64)[None], grid, points)[0].reshape(-1, t.size))
    inside = filled >= 0.5
    first = inside.argmax(axis=1)
    met = inside.any(axis=1) & (first > 0)
    rows = np.arange(len(start))
    before, at = filled[rows, np.maximum(first - 1, 0)], filled[rows, first]
    rise = np.where(at > before, at - before, 1.0)
    return np.where(met, t[first] - STEP * (at - 0.5) / rise, np.nan)


def _path(points: np.ndarray, spr: np.ndarray, grid: Grid, view: View) -> np.ndarray:
    """WEPL (mm) from the source to points, NaN where they are."""
    out, good = np.full(len(points), np.nan), np.isfinite(points).all(axis=1)
    found, place = np.empty(int(good.sum())), (np.array(grid.origin), np.array(grid.spacing))
    trace(np.ascontiguousarray(points[good]), spr, *place, view.axes, view.isocentre, view.source, found)
    out[good] = found
    return out


def _nearest(values: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Value of the voxel that holds each point, 0 outside."""
    index = np.rint((points[:, ::-1] - np.array(grid.origin)) / np.array(grid.spacing)).astype(int)
    inside = ((index >= 0) & (index < grid.shape)).all(axis=1)
    out = np.zeros(len(points))
    out[inside] = values[tuple(index[inside].T)]
    return out
