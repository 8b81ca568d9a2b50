"""A day: its CT in the planning frame, the planning structures on it, and the planned spots, unchanged, delivered to it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from ionrt.adapt.depth import check_entry
from ionrt.adapt.sampling import at_points, centres
from ionrt.adapt.transform import invert, move_points
from ionrt.files import content_hash
from ionrt.patient.days import same_scanner
from ionrt.patient.geometry.structures import contours_of, find_structure, lazy_fractions, with_fractions
from ionrt.patient.names import is_target, kinds_of, outline_of
from ionrt.patient.registration import check_transform, matrix_transform
from ionrt.plan import field
from ionrt.plan.engine.influence import Influence
from ionrt.plan.fields import field_moments
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.provenance import of_patient
from ionrt.plan.setup.scenarios import NOMINAL
from ionrt.plan.setup.scene import on_spacing, scene_without_target, structure_fractions
from ionrt.plan.solve.assemble import in_scenario
from ionrt.quantities import IonrtError, stamp

DIMS = ("z", "y", "x")
AIR_HU = -1000.0
LOST = 0.05  # share of a target volume that may lie outside a daily CT
Shift = Sequence[float]


def place(
    daily: xr.Dataset, planning: xr.Dataset, *, correction: xr.Dataset | Shift | None = None, calibrated: bool = False
) -> xr.Dataset:
    r"""The daily CT as it lies in the treatment room, in the planning frame: :math:`X = A^{-1}(x - t)`.

    A translation shifts the coordinates and contours, exactly; a rotation resamples once. Beams stay where they were planned.

    Parameters
    ----------
    daily, planning : Datasets of `read_dicom`.
    correction : the set-up correction: a rigid transform of `register_rigid` (bone match, tumour match), the way (x, y, z) [mm]
        that planning points have gone in the daily CT, or None: no correction, and no registration: both CTs must then have
        one frame of reference.
    calibrated : True where the daily HU have a calibration of their own, put in as ``spr``, or are known to be those of the
        planning scanner.

    Returns
    -------
    Dataset of the day in the planning frame; attributes ``correction`` (what was done) and ``placed`` (16 numbers).

    Raises
    ------
    IonrtError for the same image twice, a frame of reference without registration, another scanner without calibration, a
    correction that deforms, a target volume of which more than 5 % lies outside the daily CT.
    """
    _check_pair(daily, planning, calibrated)
    if correction is None:
        if (a := planning.attrs.get("frame_of_reference_uid")) != (b := daily.attrs.get("frame_of_reference_uid")):
            raise IonrtError(
                f"place: the CTs have two frames of reference ({a} and {b}) and no registration was given; register them"
                " (ionrt.adapt.register_rigid), read the registration, or state the shift"
            )
        correction, named = (0.0, 0.0, 0.0), "none"
    elif isinstance(correction, xr.Dataset):
        named = str(correction.attrs.get("method", "rigid transform"))
    else:
        named = "given shift"
    if not isinstance(correction, xr.Dataset):
        correction = matrix_transform(_shift_matrix(correction))
    if check_transform(correction) != "matrix":
        raise IonrtError("place: a patient is moved as a whole; expected a rigid transform, got a displacement")
    matrix = correction["matrix"].values
    out = _shifted(daily, matrix[:3, 3]) if np.array_equal(matrix[:3, :3], np.eye(3)) else _turned(daily, matrix)
    out.attrs = {
        **daily.attrs,
        "correction": named,
        "placed": tuple(float(v) for v in matrix.ravel()),
        "frame_of_reference_uid": planning.attrs.get("frame_of_reference_uid", ""),
        "content_hash": content_hash(daily.attrs.get("content_hash", ""), matrix),
    }
    out.attrs.pop("affine", None)
    _check_target(out, planning)
    return out


def propagate(
    planning: xr.Dataset, daily: xr.Dataset, transform: xr.Dataset, *, structures: Sequence[str] | None = None
) -> xr.Dataset:
    """The day with planning structures on its CT, found by the inverse of the registration.

    Parameters
    ----------
    planning : Dataset with structures.
    daily : Dataset of `place`.
    transform : planning to that day.
    structures : names; default all of the planning CT that the day does not have.

    Returns
    -------
    Dataset with ``structures`` (structure, z, y, x) on the daily CT's grid, own ones first; the attribute ``propagated`` names
    the others. Contours are dropped: a moved contour lies in no slice.

    Raises
    ------
    IonrtError
        A structure that the planning CT does not have; what is no transform.
    """
    own, kinds = kinds_of(daily), kinds_of(planning)
    wanted = list(kinds) if structures is None else list(structures)
    wanted = [s for s in wanted if structures is not None or s not in own]
    back, grid = invert(transform), Grid.of(daily, what="daily CT")
    layers = {s: np.asarray(find_structure(daily, s).values, np.float32) for s in own if s not in wanted}
    for name in wanted:
        layers[name] = _carried_over(find_structure(planning, name), transform, back, grid)
    types = own | {s: kinds[s] for s in wanted}
    return with_fractions(daily, layers, types).assign_attrs(propagated=tuple(wanted))


def deliver(influence: Influence, daily: xr.Dataset) -> Influence:
    """The planned spots, unchanged, on another CT of the same patient; every beam keeps its planned isocentre.

    `daily` of `place`, with ct or spr; a target is not needed. The influence lies on the day's dose grid, spots in the same
    order: the plan's weights fit. Refused where the daily CT is the planning CT itself (unless it states no content), or cuts a
    beam.
    """
    beams = tuple(replace(b, beam=replace(b.beam, isocentre=b.isocentre)) for b in influence.beams)
    plan = replace(influence.plan, beams=tuple(b.beam for b in beams))
    if "structures" not in daily or outline_of(daily) is None:
        warnings.warn(
            "deliver: the day has no outline (BODY, EXTERNAL); everything denser than air is dosed, the couch included",
            stacklevel=2,
        )
    scene = scene_without_target(daily, plan.grid_spacing)
    fixed = replace(influence, plan=plan, beams=beams)
    for one in beams:
        check_entry(one, scene, None if "seen" not in daily else daily["seen"].values)
    attrs = {**influence.attrs, "planned_on": influence.attrs.get("patient", ""), "patient": of_patient(scene)}
    return Influence(plan, scene.grid, in_scenario(fixed, scene, NOMINAL), influence.base, attrs)


def daily_field(
    influence: Influence,
    weights: xr.DataArray | np.ndarray,
    daily: xr.Dataset,
    *,
    models: Sequence[str] = ("nirs_mkm",),
    let_definition: str = "charged",
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    let_threshold: float | None = None,
) -> xr.Dataset:
    """The additive field of the plan on a day, per fraction: same spots, same isocentre; computed when it is asked for.

    Parameters
    ----------
    influence, weights : of the plan.
    daily : Dataset of `place`.
    models, let_definition, parameters, let_threshold : as in `ionrt.field`.

    Returns
    -------
    Dataset (z, y, x) on the day's dose grid, one dask block per variable, all from one task; attribute ``day`` is the content
    hash of the day.

    Raises
    ------
    IonrtError as `deliver` and `ionrt.field`, those of the CT when it is computed.
    """
    names = field_moments(models, parameters or {}, let_definition, let_threshold)
    asked = {"models": models, "let_definition": let_definition, "parameters": parameters, "let_threshold": let_threshold}
    grid = on_spacing(xr.Dataset(coords={d: daily[d].values for d in DIMS}), influence.plan.grid_spacing)
    coords = {d: grid[d].values for d in DIMS}
    shape = (1 + len(names), *(len(coords[d]) for d in DIMS))
    made = dask.delayed(partial(_day, influence, weights, daily, asked), pure=False)()
    stack = da.from_delayed(made, shape, np.float32)
    day = daily.attrs.get("content_hash")
    ions = ", ".join(sorted({b.beam.ion for b in influence.beams}))
    about = {"ion": ions, "dose_per": "fraction", "day": day, "correction": daily.attrs.get("correction")}
    about = {k: v for k, v in about.items() if v is not None}
    out = xr.Dataset(attrs={"target": influence.plan.target, "fractions": influence.plan.fractions, **about})
    for k, (name, carried) in enumerate([("dose", {}), *((m.name, m.attrs(influence.base.values())) for m in names)]):
        out[name] = stamp(xr.DataArray(stack[k], dims=DIMS, coords=coords), name, **carried, **about)
    return out


def _day(influence: Influence, weights: Any, daily: xr.Dataset, asked: dict[str, Any]) -> np.ndarray:
    """All variables (variable, z, y, x) of the field of a day."""
    made = field(deliver(influence, daily), weights, **asked)
    return np.stack([made[v].values for v in made.data_vars])


def _shift_matrix(shift: Shift) -> np.ndarray:
    way = np.asarray(shift, dtype=float)
    if way.shape != (3,) or not np.isfinite(way).all():
        raise IonrtError(f"place: expected the correction as a transform or (x, y, z) in mm, got {shift!r}")
    matrix = np.eye(4)
    matrix[:3, 3] = way
    return matrix


def _check_pair(daily: xr.Dataset, planning: xr.Dataset, calibrated: bool) -> None:
    """Two images of one patient, the second with HU that mean what those of the first mean."""
    for key, what in (("content_hash", "content"), ("series_instance_uid", "series")):
        if daily.attrs.get(key) and daily.attrs.get(key) == planning.attrs.get(key):
            raise IonrtError(f"place: the daily CT is the planning CT (same {what}); give an image of another day")
    if not calibrated and "spr" not in daily:
        same_scanner(planning, daily)


def _check_target(placed: xr.Dataset, planning: xr.Dataset) -> None:
    """Target volumes of planning must lie within the placed daily CT."""
    for name in (s for s, kind in kinds_of(planning).items() if is_target(s, kind)):
        inside = find_structure(planning, name)
        volume = float(inside.sum())
        for d in DIMS:
            half = 0.5 * float(placed[d][1] - placed[d][0])
            within = (planning[d] >= float(placed[d][0]) - half) & (planning[d] <= float(placed[d][-1]) + half)
            inside = inside.where(within, 0.0)
        if volume > 0.0 and (lost := 1.0 - float(inside.sum()) / volume) > LOST:
            raise IonrtError(
                f"place: {100 * lost:.0f} % of {name!r} lies outside the daily CT; check the correction, or image the target"
            )


def _shifted(daily: xr.Dataset, way: np.ndarray) -> xr.Dataset:
    """Coordinates and contours moved; not a value is changed."""
    out = daily.assign_coords({d: daily[d] - way[k] for k, d in enumerate(("x", "y", "z"))})
    for d in DIMS:
        out[d].attrs = dict(daily[d].attrs)
    if "contour_points" not in out or "structures" not in out:
        return out
    out["contour_points"] = out["contour_points"] - way
    if "contour_bounds" in out:  # where each contour begins and ends, along its structure's axis
        axis = {str(s): contours_of(daily, str(s)).axis() for s in daily["structure"].values}
        along = np.array([way[axis[str(s)]] for s in out["contour_structure"].values])
        out["contour_bounds"] = out["contour_bounds"] - along[:, None]
    if out["structures"].chunks is not None:
        out["structures"] = lazy_fractions(out)
    return out


def _turned(daily: xr.Dataset, matrix: np.ndarray) -> xr.Dataset:
    """Resampled onto the day's own grid, put where its middle comes to lie; air outside, where `seen` is False."""
    there = Grid.of(daily, what="daily CT")
    middle = np.array([o + 0.5 * s * (n - 1) for o, s, n in zip(there.origin, there.spacing, there.shape, strict=True)])[::-1]
    way = middle - np.linalg.solve(matrix[:3, :3], middle - matrix[:3, 3])
    grid = Grid(tuple(o - w for o, w in zip(there.origin, way[::-1], strict=True)), there.spacing, there.shape)
    points = move_points(matrix_transform(matrix), centres(grid))

    def pulled(values: np.ndarray, air: float) -> np.ndarray:
        found = at_points(np.asarray(values, np.float32)[None], there, points)[0].reshape(grid.shape)
        return np.where(np.isfinite(found), found, np.float32(air))

    seen = np.isfinite(at_points(np.ones((1, *there.shape), np.float32), there, points)[0]).reshape(grid.shape)
    out = xr.Dataset({"seen": (DIMS, seen)}, coords=grid.coords())
    for name, air in (("ct", AIR_HU), ("spr", 0.0)):
        if name in daily:
            out[name] = (DIMS, pulled(daily[name].transpose(*DIMS).values, air), dict(daily[name].attrs))
    if "structures" in daily:
        kinds = kinds_of(daily)
        out = with_fractions(out, {s: pulled(structure_fractions(daily, s), 0.0) for s in kinds}, kinds)
    return out


def _carried_over(inside: xr.DataArray, transform: xr.Dataset, back: xr.Dataset, grid: Grid) -> np.ndarray:
    """Fractions of one planning structure on the daily grid, worked out in the box it can reach."""
    values = np.asarray(inside.transpose(*DIMS).values, np.float32)
    home = Grid.of(inside, what="planning CT")
    out = np.zeros(grid.shape, np.float32)
    filled = np.argwhere(values > 0.0)
    if not filled.size:
        return out
    places = np.array(home.origin) + np.array(home.spacing) * filled
    moved = move_points(transform, places[:, ::-1])
    moved = moved[np.isfinite(moved).all(axis=1)][:, ::-1]
    pad = 2.0 * np.array(home.spacing) + 3.0
    low = np.floor((moved.min(axis=0) - pad - grid.origin) / grid.spacing).astype(int)
    high = np.ceil((moved.max(axis=0) + pad - grid.origin) / grid.spacing).astype(int) + 1
    low, high = np.clip(low, 0, grid.shape), np.clip(high, 0, grid.shape)
    if (high <= low).any():
        return out
    start = tuple(o + s * k for o, s, k in zip(grid.origin, grid.spacing, low, strict=True))
    box = Grid(start, grid.spacing, tuple(int(n) for n in high - low))  # type: ignore[arg-type]
    found = at_points(values[None], home, move_points(back, centres(box)))[0].reshape(box.shape)
    out[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = np.nan_to_num(found)
    return out
