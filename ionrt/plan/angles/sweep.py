"""Beam-angle sweep: what can be said about a direction before any dose is computed, for gantries and fixed beams alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import xarray as xr
from scipy.ndimage import maximum_filter

from ionrt.plan.angles.reach import Look, centres, deepest_peak, make_look, over_directions
from ionrt.plan.setup.geometry import Grid, bev_axes
from ionrt.plan.setup.room import REFERENCE_FACILITY, Room
from ionrt.plan.setup.scene import structure_fractions
from ionrt.plan.setup.spots import REACH_TOLERANCE
from ionrt.quantities import IonrtError, one_of, stamp

SHIFT = 2.0  # mm, sideways, over which the gradient is taken
TURN = 1.0  # degree, over which the change with direction is taken
SCALES = {"organ_channel": 1.0, "organ_behind": 1.0, "range_error": 10.0, "wepl_proximal": 300.0}
Angles = tuple[float, float]


@dataclass(frozen=True)
class Shared:
    """The target's surface, the voxels of each organ (x, y, z mm), cells of the view and way behind the target (mm)."""

    look: Look
    organs: tuple[np.ndarray, ...]
    cell: float
    behind: float


def sweep(
    patient: xr.Dataset,
    target: str,
    *,
    organs: Iterable[str],
    ions: Iterable[str] = ("C",),
    rooms: Iterable[Room] = REFERENCE_FACILITY,
    gantry_step: float = 10.0,
    couch_step: float = 15.0,
    importance: Mapping[str, float] | None = None,
    range_share: float = 0.025,
    setup: float = 2.0,
    turn: float = 1.0,
    behind: float = 10.0,
    spacing: float = 4.0,
    base: Mapping[str, xr.Dataset] | None = None,
) -> xr.Dataset:
    r"""Judge every direction that some rooms offer by geometry and water-equivalent depth alone, without a dose.

    range_error^2 = (range_share d)^2 + (wepl_gradient setup)^2 + (wepl_turn turn)^2 with d the mean depth of the far edge;
    score = sum over organs of importance (channel + behind) + range_error / 10 mm + wepl_proximal / 300 mm.
    The scales are a convention that makes the terms alike in size; take the variables for another one.

    Parameters
    ----------
    patient : Dataset with ct or spr, and structures.
    target, organs : names.
    ions : those whose reach is asked; a direction counts where the first one reaches.
    rooms : rotating gantries that offer the same are looked at once, under the first one's name.
    gantry_step, couch_step : where a room offers every angle [degrees].
    importance : {organ: weight} in the sum, default 1.
    range_share : systematic range error as a share of the depth.
    setup : shift [mm].
    turn : rotation [degrees]: one standard deviation each.
    behind : mm of water behind the far edge where an organ counts as behind.
    spacing : of the grid for target and organs [mm].
    base : {ion: Dataset}, base data of your own.

    Returns
    -------
    Dataset along ``direction`` with coordinates room, gantry, couch [degrees]: ``wepl_distal``, ``wepl_proximal``,
        ``range_error`` [mm], ``wepl_gradient`` (root mean square over the far edge, mm per mm), ``wepl_turn`` [mm/degree],
        ``cut_rays``; ``organ_channel``, ``organ_behind`` (organ, direction) shares of the organ's volume; ``reach_margin``
        (ion, direction) [mm]; ``direction_score``, NaN where the first ion does not reach or the CT ends.

    Raises
    ------
    IonrtError for unknown structures, ions or empty targets.
    """
    rooms, names, ions = tuple(rooms), list(organs), list(ions)
    if not rooms or not ions:
        raise IonrtError("sweep: expected at least one room and one ion")
    directions = _directions(rooms, gantry_step, couch_step)
    shared = _shared(patient, target, names, spacing, rooms[0], behind)
    found = over_directions(_judge, shared, [(g, c, *room.source_distance) for room, g, c in directions], what="sweep")
    out = xr.Dataset(coords={"organ": names, "ion": ions})
    labels = ([r.name for r, _, _ in directions], [g for _, g, _ in directions], [c for _, _, c in directions])
    out = out.assign_coords({k: ("direction", v) for k, v in zip(("room", "gantry", "couch"), labels, strict=True)})
    for k, name in enumerate(("wepl_distal", "wepl_proximal", "cut_rays", "wepl_gradient", "wepl_turn")):
        out[name] = stamp(xr.DataArray([f[k] for f in found], dims="direction"), name, target=target)
    mean_depth = xr.DataArray([f[5] for f in found], dims="direction")
    for k, name in ((6, "organ_channel"), (7, "organ_behind")):
        share = xr.DataArray(np.array([f[k] for f in found]).reshape(len(found), len(names)).T, dims=("organ", "direction"))
        out[name] = stamp(share, name, target=target)
    variance = (range_share * mean_depth) ** 2 + (setup * out["wepl_gradient"]) ** 2 + (turn * out["wepl_turn"]) ** 2
    out["range_error"] = stamp(variance**0.5, "range_error", range_share=range_share, setup=setup, turn=turn)
    peaks = {(i, r.name): deepest_peak(i, r, base) for r in rooms for i in ions}
    deepest = xr.DataArray([[peaks[i, r.name] for r, _, _ in directions] for i in ions], dims=("ion", "direction"))
    margin = (deepest - out["wepl_distal"]).where(out["cut_rays"] == 0.0)
    out["reach_margin"] = stamp(margin, "reach_margin", target=target)
    out.attrs = {"target": target, "isocentre": tuple(float(c) for c in shared.look.isocentre)}
    out["direction_score"] = _score(out, importance or {})
    return out


def angle_sets(
    swept: xr.Dataset, *, room: str, beams: int = 2, separation: float = 40.0, count: int = 3, apart: float = 20.0
) -> list[tuple[Angles, ...]]:
    """The best sets of directions of one room by the mean score of a sweep.

    Parameters
    ----------
    swept : of `sweep`
    room : name
    beams : directions in a set
    separation : degrees that two directions of a set lie apart at least
    count : sets at most
    apart : degrees by which two sets must differ in some direction.

    Returns
    -------
    a list of sets of (gantry, couch), best first; fewer than `count` where the room has no more.

    Raises
    ------
    IonrtError
        Unknown room, no direction that reaches, fewer directions than beams.
    """
    one_of(room, list(dict.fromkeys(swept["room"].values.tolist())), what="room of the sweep")
    usable = np.flatnonzero((swept["room"].values == room) & np.isfinite(swept["direction_score"].values))
    if not 1 <= beams <= usable.size:
        raise IonrtError(
            f"angle_sets: {usable.size} directions of room {room!r} reach {swept.attrs['target']!r}; got beams={beams}"
        )
    score = swept["direction_score"].values
    angles = [(float(g), float(c)) for g, c in zip(swept["gantry"].values, swept["couch"].values, strict=True)]
    between = _between(angles)
    sets = [s for s in combinations(usable, beams) if all(between[a, b] >= separation - 1e-6 for a, b in combinations(s, 2))]
    best: list[tuple] = []
    for one in sorted(sets, key=lambda s: float(score[list(s)].mean())):
        if all(max(min(between[a, b] for b in other) for a in one) >= apart - 1e-6 for other in best):
            best.append(one)
        if len(best) == count:
            break
    return [tuple(angles[i] for i in one) for one in best]


def _directions(rooms: tuple[Room, ...], gantry_step: float, couch_step: float) -> list[tuple[Room, float, float]]:
    """Every direction of every kind of room."""
    out, seen = [], set()
    for room in rooms:
        kind = (room.gantry_angles, room.couch_angles, room.energies, room.source_distance)
        if kind not in seen:
            seen.add(kind)
            gantry, couch = room.angles(gantry_step=gantry_step, couch_step=couch_step)
            out += [(room, float(g), float(c)) for g in gantry for c in couch]
    return out


def _shared(patient: xr.Dataset, target: str, organs: list[str], spacing: float, room: Room, behind: float) -> Shared:
    from ionrt.patient import regrid

    known = [str(s) for s in patient["structure"].values] if "structure" in patient.coords else []
    for name in (target, *organs):
        one_of(name, known, what="structure")
    coarse = regrid(patient, spacing=spacing)
    grid = Grid.of(coarse)
    points = [
        centres(np.flatnonzero((f := structure_fractions(coarse, o)) >= min(0.5, max(float(f.max()), 1e-6))), grid)
        for o in organs
    ]
    return Shared(make_look(patient, target, spacing=spacing, room=room, isocentre=None), tuple(points), 1.5 * spacing, behind)


def _judge(shared: Shared, gantry: float, couch: float, source_u: float, source_v: float) -> tuple:
    """All that is said about one direction of a room with these source distances, in the order `sweep` unpacks it."""
    look, axes = replace(shared.look, source=np.array([source_u, source_v])), bev_axes(gantry, couch)
    shared = replace(shared, look=look)
    depth = look.wepl(look.points, axes)
    origin, farthest, far = _raster(look, axes, depth, shared.cell)
    edge, at_edge = look.points[far], depth[far]
    gradient = _rms([look.wepl(edge + s * SHIFT * axes[k], axes) - at_edge for k in (0, 1) for s in (-1, 1)]) / SHIFT
    turned = [look.wepl(edge, axes @ _rotation(axes[k], s * TURN)) - at_edge for k in (0, 1) for s in (-1, 1)]
    shares = [_organ(shared, axes, organ, origin, farthest) for organ in shared.organs]
    across, behind = (np.array([s[k] for s in shares]) for k in (0, 1))
    return (
        float(depth.max()), float(depth.min()), look.cut_rays(axes), gradient, _rms(turned) / TURN, float(at_edge.mean()),
        across, behind,
    )  # fmt: skip


def _raster(look: Look, axes: np.ndarray, depth: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin (cells) and map of the target's farthest depth in the isocentre plane, a cell wider all round; its points."""
    place = np.floor(_plane(look, axes, look.points) / cell).astype(int)
    origin = place.min(axis=0) - 2
    place -= origin
    farthest = np.full(place.max(axis=0) + 3, -np.inf)
    np.maximum.at(farthest, tuple(place.T), depth)
    far = np.flatnonzero(depth >= farthest[tuple(place.T)])
    return origin, maximum_filter(farthest, 3), far


def _organ(
    shared: Shared, axes: np.ndarray, organ: np.ndarray, origin: np.ndarray, farthest: np.ndarray
) -> tuple[float, float]:
    """Shares of an organ before (or beside) and shortly behind the far edge."""
    if not len(organ):
        return np.nan, np.nan
    place = np.floor(_plane(shared.look, axes, organ) / shared.cell).astype(int) - origin
    inside = np.all((place >= 0) & (place < farthest.shape), axis=1)
    edge = farthest[tuple(place[inside].T)]
    met = np.isfinite(edge)
    depth = shared.look.wepl(organ[inside][met], axes)
    before = depth <= edge[met]
    return float(before.sum() / len(organ)), float(np.sum(~before & (depth <= edge[met] + shared.behind)) / len(organ))


def _plane(look: Look, axes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 2): u, v (mm) in the isocentre plane."""
    u, v, w = axes @ (points - look.isocentre).T
    return np.stack([u * look.source[0] / (look.source[0] - w), v * look.source[1] / (look.source[1] - w)], axis=1)


def _rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Matrix R so that rows @ R are turned about `axis`."""
    angle = np.deg2rad(degrees)
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


def _rms(parts: list[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.square(parts))))


def _score(out: xr.Dataset, importance: Mapping[str, float]) -> xr.DataArray:
    """Sum of the four terms where the first ion reaches."""
    names = [str(o) for o in out["organ"].values]
    for one in importance:
        one_of(one, names, what="importance: organ")
    weight = xr.DataArray([float(importance.get(one, 1.0)) for one in names], dims="organ")
    terms = [(weight * out[n]).sum("organ") / s if "organ" in out[n].dims else out[n] / s for n, s in SCALES.items()]
    usable = out["reach_margin"].isel(ion=0, drop=True) >= -REACH_TOLERANCE
    return stamp(sum(terms[1:], terms[0]).where(usable), "direction_score", target=out.attrs["target"])


def _between(angles: list[Angles]) -> np.ndarray:
    """Angles (degrees) between directions of flight."""
    flight = np.array([-bev_axes(g, c)[2] for g, c in angles])
    return np.degrees(np.arccos(np.clip(flight @ flight.T, -1.0, 1.0)))
