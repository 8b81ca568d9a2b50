"""From where which ion reaches a target: water-equivalent depth of its far edge against the deepest Bragg peak."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import xarray as xr
from scipy.ndimage import binary_erosion
from tqdm.auto import tqdm

from ionrt.ions import IONS
from ionrt.parallel import whole_cluster
from ionrt.plan.setup.geometry import Grid, bev_axes
from ionrt.plan.setup.machine import base_of
from ionrt.plan.setup.raytrace import trace
from ionrt.plan.setup.room import GANTRY_1, Room
from ionrt.plan.setup.scene import AIR, spr_of, structure_fractions
from ionrt.plan.setup.spots import REACH_TOLERANCE
from ionrt.quantities import IonrtError, one_of, stamp

BATCHES = 20  # steps of the progress bar


@dataclass(frozen=True)
class Look:
    """What is looked at: `points` (n, 3) mm LPS on the surface of the target, stopping-power ratio, isocentre and sources."""

    points: np.ndarray
    spr: np.ndarray
    spr_grid: Grid
    isocentre: np.ndarray
    source: np.ndarray

    def wepl(self, points: np.ndarray, axes: np.ndarray) -> np.ndarray:
        """Water-equivalent depth (mm) of points, seen along the given BEV axes."""
        out = np.empty(len(points))
        grid = self.spr_grid
        trace(points, self.spr, np.array(grid.origin), np.array(grid.spacing), axes, self.isocentre, self.source, out)
        return out

    def cut_rays(self, axes: np.ndarray) -> float:
        """Share of the points whose way to the source leaves the CT through its first or last slice, inside the patient."""
        origin, spacing, shape = (np.array(getattr(self.spr_grid, k), float) for k in ("origin", "spacing", "shape"))
        relative = self.points - self.isocentre
        u, v, w = axes @ relative.T
        su, sv = -u / (self.source[0] - w), -v / (self.source[1] - w)
        flight = (axes[2] + su[:, None] * axes[0] + sv[:, None] * axes[1])[:, ::-1]  # z, y, x as the grid
        start = self.points[:, ::-1]
        edge = np.where(flight > 0.0, origin + (shape - 0.5) * spacing, origin - 0.5 * spacing)
        way = np.divide(edge - start, flight, out=np.full_like(flight, np.inf), where=np.abs(flight) > 1e-9)
        first = way.argmin(axis=1)
        at = start + way.min(axis=1)[:, None] * flight
        cell = np.clip(np.rint((at - origin) / spacing), 0, shape - 1).astype(int)
        return float(np.mean((first == 0) & (self.spr[tuple(cell.T)] > AIR)))


def reach(
    patient: xr.Dataset,
    target: str,
    *,
    ions: Iterable[str] = tuple(IONS),
    room: Room = GANTRY_1,
    gantry: Iterable[float] | None = None,
    couch: Iterable[float] | None = None,
    isocentre: tuple[float, float, float] | None = None,
    spacing: float = 3.0,
    base: Mapping[str, xr.Dataset] | None = None,
) -> xr.Dataset:
    """Reach map: for every direction, by how much each ion reaches beyond the far edge of a target.

    margin = deepest Bragg peak of the ion in the room - max over the target of the water-equivalent path length.

    Parameters
    ----------
    patient : Dataset with ct or spr, and structures.
    target : its name.
    ions : names.
    room : angles, energies and source distances.
    gantry, couch : angles [degrees, IEC 61217]; default those of the room, every 10 and 15 degrees where it offers all: the
        couch turns only where the gantry does not.
    isocentre : (x, y, z) [mm, LPS], default the centroid of the target.
    spacing : of the grid whose voxels (at least half filled) stand for the target [mm].
    base : {ion: Dataset}, base data of your own, default `ionrt.beam.base_data`.

    Returns
    -------
    Dataset (ion, gantry, couch): ``reach_margin`` [mm], ``ion_reach`` (ion) [mm], ``wepl_distal`` and ``wepl_proximal``
        (gantry, couch) [mm], ``cut_rays`` (gantry, couch) share of rays that enter through an end of the CT, where the
        patient goes on but the CT does not: their depth is unknown and `reach_margin` is NaN, as where the room cannot
        deliver. ``reaches``
        is True where a plan is possible.

    Raises
    ------
    IonrtError for an unknown structure or ion, an empty target, a room that offers none of the directions.
    """
    names = [one_of(i, tuple(dict(room.energies)), what=f"ion in room {room.name!r}") for i in ions]
    gantry, couch = _angles(room, gantry, couch)
    look = make_look(patient, target, spacing=spacing, room=room, isocentre=isocentre)
    pairs = [(g, c) for g in gantry for c in couch]
    allowed = [p for p in pairs if room.offers(*p)]
    if not allowed:
        raise IonrtError(f"reach: room {room.name!r} offers none of the {len(pairs)} directions asked for")
    found = dict(zip(allowed, over_directions(_edges, look, allowed, what="reach"), strict=True))
    table = np.array([found.get(p, (np.nan,) * 3) for p in pairs]).reshape(len(gantry), len(couch), 3)
    coords = {"gantry": ("gantry", gantry, {"units": "degree"}), "couch": ("couch", couch, {"units": "degree"})}
    about = {"target": target, "room": room.name}
    out = xr.Dataset(coords={"ion": names, **coords})
    for k, name in enumerate(("wepl_distal", "wepl_proximal", "cut_rays")):
        out[name] = stamp(xr.DataArray(table[..., k], dims=("gantry", "couch"), coords=coords), name, **about)
    deepest = xr.DataArray([deepest_peak(i, room, base) for i in names], dims="ion", coords={"ion": names})
    out["ion_reach"] = stamp(deepest, "ion_reach", room=room.name)
    margin = (deepest - out["wepl_distal"]).where(out["cut_rays"] == 0.0)
    out["reach_margin"] = stamp(margin.transpose("ion", "gantry", "couch"), "reach_margin", **about)
    out["reaches"] = out["reach_margin"] >= -REACH_TOLERANCE
    out["reaches"].attrs = {"long_name": "a plan is possible", **about}
    out.attrs = {**about, "isocentre": tuple(float(c) for c in look.isocentre)}
    return out


def deepest_peak(ion: str, room: Room, base: Mapping[str, xr.Dataset] | None = None) -> float:
    """Depth of the deepest Bragg peak [mm of water] of an ion in a room, within its energies and those of the base data."""
    data = base_of(ion, base)
    lowest, highest = room.energy_range(ion)
    energy = np.asarray(data["energy"].values, float)
    usable = np.flatnonzero((energy >= lowest - 1e-6) & (energy <= highest + 1e-6))
    if usable.size == 0:
        raise IonrtError(
            f"base data of {ion} cover {energy[0]:g}-{energy[-1]:g} MeV/u; room {room.name!r} offers {lowest:g}-{highest:g}"
        )
    dose = data["dose"].isel(energy=int(usable[-1]))
    return float(data["depth"][int(dose.argmax("depth"))])


def make_look(
    patient: xr.Dataset,
    target: str,
    *,
    spacing: float,
    room: Room,
    isocentre: tuple[float, float, float] | None,
) -> Look:
    """The surface of the target, whose voxels hold its deepest and its shallowest point from any direction."""
    from ionrt.patient import regrid

    spr = spr_of(patient).transpose("z", "y", "x")
    values = np.ascontiguousarray(spr.values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise IonrtError("patient: the CT (stopping-power ratio) has values that are not finite; repair the CT first")
    fine = Grid.of(spr, what="CT")
    finest = max(fine.spacing)
    coarse = regrid(patient, spacing=spacing) if spacing > finest + 1e-6 else patient
    fraction = structure_fractions(coarse, target)
    if fraction.max(initial=0.0) <= 0.0:
        raise IonrtError(f"target {target!r} is empty on a grid of {spacing:g} mm; check that it lies inside the CT")
    grid = Grid.of(coarse, what="grid of the target")
    inside = fraction >= min(0.5, float(fraction.max()))
    points = centres(np.flatnonzero(inside & ~binary_erosion(inside)), grid)
    weight = fraction.ravel()[(index := np.flatnonzero(fraction))]
    middle = np.average(centres(index, grid), axis=0, weights=weight) if isocentre is None else np.array(isocentre, float)
    return Look(points, values, fine, middle, np.array(room.source_distance, float))


def centres(index: np.ndarray, grid: Grid) -> np.ndarray:
    """(n, 3) x, y, z (mm, LPS) of voxels given by flat index."""
    zyx = np.unravel_index(index, grid.shape)
    return np.stack([o + s * i for o, s, i in zip(grid.origin, grid.spacing, zyx, strict=True)][::-1], axis=1)


def over_directions(work: Callable[..., Any], shared: Any, pairs: Sequence[tuple[float, ...]], *, what: str) -> list[Any]:
    """`work(shared, *direction)` for all directions as dask tasks: threads here, workers where a distributed client runs."""
    held = dask.delayed(shared, pure=False, traverse=False)
    size = max(1, -(-len(pairs) // BATCHES))
    out: list[Any] = []
    with whole_cluster(), tqdm(total=len(pairs), desc=what, unit="direction", disable=None, leave=False) as bar:
        for first in range(0, len(pairs), size):
            part = pairs[first : first + size]
            out += dask.compute(*(dask.delayed(work, pure=False)(held, *pair) for pair in part))
            bar.update(len(part))
    return out


def _edges(look: Look, gantry: float, couch: float) -> tuple[float, float, float]:
    """Depth of far and near edge, share of cut rays."""
    axes = bev_axes(gantry, couch)
    depth = look.wepl(look.points, axes)
    return float(depth.max()), float(depth.min()), look.cut_rays(axes)


def _angles(room: Room, gantry: Iterable[float] | None, couch: Iterable[float] | None) -> tuple[list[float], list[float]]:
    """Given angles, or those of the room."""
    turns = tuple(float(g) for g in gantry) if gantry is not None else room.angles()[0]
    tables = tuple(float(c) for c in couch) if couch is not None else room.angles()[1]
    if not turns or not tables:
        raise IonrtError("reach: expected at least one gantry and one couch angle")
    return list(turns), list(tables)
