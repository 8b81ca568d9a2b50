"""Registration: known shifts and rotations, common grids at every level, the same bits, and what is refused."""

from __future__ import annotations

import json

import dask
import numpy as np
import pytest
import xarray as xr
from adapt_fixtures import bumps

from ionrt.adapt import place, propagate, register, register_deformable, register_rigid
from ionrt.adapt.changes import anatomy_change
from ionrt.adapt.images import coarser, resampled, smoothed, to_image
from ionrt.adapt.sampling import at_points, centres
from ionrt.adapt.transform import invert, jacobian, move_points
from ionrt.patient import add_ellipsoid, read_dicom
from ionrt.patient.registration import matrix_transform
from ionrt.plan.setup.geometry import Grid
from ionrt.quantities import IonrtError

pytest.importorskip("SimpleITK", reason='registration needs the extra: pip install "ionrt[guidance]"')
GRID = Grid((-60.0, -75.0, -75.0), (3.0, 3.0, 3.0), (41, 51, 51))


def scene(points: np.ndarray, texture: float = 15.0) -> np.ndarray:
    """CT numbers of a SYNTHETIC trunk at points: skin, two bones that are no tubes, a tumour."""
    x, y, z = points.T
    inside = 1.0 / (1.0 + np.exp((np.hypot(x / 60.0, y / 50.0) - 1.0) * 40.0))
    hu = -1000.0 + 1040.0 * inside + texture * np.sin(x / 9.0) * np.cos(y / 11.0) * np.sin(z / 10.0)
    for at, r in (((20.0, 25.0, 10.0), (10.0, 8.0, 30.0)), ((-25.0, 20.0, -12.0), (8.0, 12.0, 18.0))):
        hu += 700.0 / (
            1.0 + np.exp(8.0 * (np.sqrt(sum(((p - a) / b) ** 2 for p, a, b in zip((x, y, z), at, r, strict=True))) - 1.0))
        )
    return hu


def ct(values: np.ndarray, name: str, grid: Grid = GRID) -> xr.Dataset:
    data = (("z", "y", "x"), values.reshape(grid.shape).astype(np.float32), {"units": "HU"})
    return xr.Dataset({"ct": data}, coords=grid.coords(), attrs={"content_hash": name})


def planning() -> xr.Dataset:
    return ct(scene(centres(GRID)), "planning")


def moved(matrix: np.ndarray) -> xr.Dataset:
    """The day on which the planning point X lies at `matrix` X."""
    back = np.linalg.inv(matrix)
    return ct(scene(centres(GRID) @ back[:3, :3].T + back[:3, 3]), "day")


def rigid(degrees, axis, shift) -> np.ndarray:
    a = np.deg2rad(degrees)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(4)
    matrix[i, i] = matrix[j, j] = np.cos(a)
    matrix[i, j], matrix[j, i] = -np.sin(a), np.sin(a)
    matrix[:3, 3] = shift
    return matrix


@pytest.mark.parametrize("axis", range(3))
def test_sign_of_each_axis(axis):
    way = np.zeros(3)
    way[axis] = 5.0
    found = register_rigid(planning(), moved(rigid(0.0, 0, way)), on="body", degrees=3)
    np.testing.assert_allclose(found.attrs["shift"], way, atol=0.2)
    assert found.attrs["hu_after"] < 0.5 * found.attrs["hu_before"]


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("on", ["body", "bone"])
def test_three_degrees_within_a_fifth(axis, on):
    truth = rigid(3.0, axis, (4.0, -3.0, 6.0))
    found = register_rigid(planning(), moved(truth), on=on)
    off = np.linalg.inv(truth) @ found["matrix"].values
    assert np.degrees(np.arccos(np.clip((np.trace(off[:3, :3]) - 1) / 2, -1, 1))) < 0.2
    inside = centres(GRID)[::997]
    inside = inside[np.hypot(inside[:, 0], inside[:, 1]) < 50.0]
    apart = np.linalg.norm(move_points(found, inside) - move_points(matrix_transform(truth), inside), axis=1)
    assert apart.mean() < 0.5 and found.attrs["rotation"] == pytest.approx(3.0, abs=0.2)


def test_synthetic_carbon_study(shared):
    """Made by others: patient shifted by (4, -3, 6) mm, tumour by another (3, -1, -2) mm in the planning frame."""
    root = shared("data/dicom/synthetic_carbon_study")
    truth = json.loads((root / "truth.json").read_text())
    plan, day = (read_dicom(root / f"CT_{n}") for n in ("plan", "day1"))
    series = plan.attrs["series_instance_uid"]
    plan = read_dicom(root, series=series)
    bone = register_rigid(plan, day, on="bone")
    np.testing.assert_allclose(bone.attrs["shift"], -np.array(truth["day1_to_plan_translation_mm"]), atol=0.5)
    assert bone.attrs["rotation"] < 0.2
    tumour = register_rigid(plan, day, on="GTV", start=bone)
    known = np.subtract(truth["tumour_day1_in_plan_frame"]["centre"], truth["tumour_plan"]["centre"])
    apart = np.subtract(tumour.attrs["shift"], bone.attrs["shift"])
    np.testing.assert_allclose(apart, known, atol=0.3)
    # the day has no contours: the truth's sphere is drawn on it, in the planning frame that the bone match gives
    sphere, before = truth["tumour_day1_in_plan_frame"], truth["tumour_plan"]["volume_cc"]
    drawn = add_ellipsoid(place(day, plan, correction=bone), "GTV", centre=sphere["centre"], radii=sphere["radius"])
    change = anatomy_change(plan, drawn, structures=["GTV"]).loc["GTV"]
    assert change["planned [cm3]"] == pytest.approx(before, rel=0.01)
    assert change["that day [cm3]"] == pytest.approx(sphere["volume_cc"], rel=0.01)
    assert change["centroid [mm]"] == pytest.approx(np.linalg.norm(known), abs=0.2)
    # found by the images alone, with a length well below the tumour's radius (20 mm, the default, leaves 36 cm3)
    here = place(day, plan, correction=bone)
    found = propagate(plan, here, register_deformable(plan, here, smoothing=5.0), structures=["GTV"])
    change = anatomy_change(plan, found, structures=["GTV"]).loc["GTV"]
    assert change["that day [cm3]"] == pytest.approx(sphere["volume_cc"], rel=0.01)
    np.testing.assert_allclose([change[f"{d} [mm]"] for d in "xyz"], known, atol=0.3)
    # independent of contours: tumour of 45 HU in water of 0 HU, its volume is the sum of the HU over 45
    away = [drawn[d] - c for d, c in zip("xyz", sphere["centre"], strict=True)]
    near = sum(a**2 for a in away) < 24.0**2
    assert float(drawn["ct"].where(near, 0.0).sum()) / 45.0 * 18.75e-3 == pytest.approx(sphere["volume_cc"], rel=0.01)


@pytest.mark.parametrize("level", [1, 2, 4])
def test_every_level_lies_where_the_image_lies(level):
    """A ramp: value minus position is zero at every level; SimpleITK's Shrink is half a voxel off."""
    grid = Grid((-20.0, 3.0, 7.0), (3.0, 3.0, 3.0), (40, 41, 42))
    for axis, k in (("x", 0), ("y", 1), ("z", 2)):
        ramp = centres(grid)[:, k].reshape(grid.shape)
        coarse = coarser(grid, level)
        image = to_image(resampled(smoothed(ramp, grid, 0.0), grid, coarse), coarse)
        for index in ((3, 4, 2), (5, 2, 4)):
            assert image.GetPixel(index) == pytest.approx(image.TransformIndexToPhysicalPoint(index)[k], abs=1e-3), axis


def test_deformation_is_found_without_folds_and_the_same_twice():
    truth = bumps(5, GRID.coords(), amplitude=5.0, n=3, shift=(2.0, -1.0, 1.0))
    day = ct(scene(centres(GRID), texture=200.0), "day")
    fixed = ct(at_points(day["ct"].values[None], GRID, move_points(truth, centres(GRID)))[0], "planning")
    fixed["ct"] = fixed["ct"].fillna(-1000.0).assign_attrs(units="HU")

    found = register_deformable(fixed, day)
    at = centres(GRID)
    body = (np.hypot(at[:, 0] / 55.0, at[:, 1] / 45.0) < 1.0) & (np.abs(at[:, 2]) < 40.0)  # both images hold these points
    off = (found["displacement"] - truth["displacement"]).values.reshape(3, -1)[:, body]
    error = np.linalg.norm(off, axis=0)
    start = register_rigid(fixed, day, on="body")
    rigid_error = np.linalg.norm((move_points(start, centres(GRID)) - move_points(truth, centres(GRID)))[body], axis=1)
    assert np.nanmean(error) < 0.5 * np.nanmean(rigid_error), "half of what a rigid match leaves; the 1 mm are a benchmark"
    assert float(jacobian(found).min()) > 0.0
    assert invert(found).attrs["inverse_residual"] < 0.1
    assert found.attrs["hu_after"] < found.attrs["hu_before"] and "demons" in found.attrs["settings"]
    with dask.config.set(num_workers=1):
        again = register_deformable(fixed, day)
    np.testing.assert_array_equal(again["displacement"].values, found["displacement"].values)  # whatever the threads


def test_a_result_that_is_worse_than_none_is_refused(monkeypatch):
    """Whatever goes wrong inside: the HU difference is looked at before and after."""
    fixed, day = planning(), ct(scene(centres(GRID)) + np.random.default_rng(3).normal(0.0, 5.0, len(centres(GRID))), "day")
    wild = np.stack([np.full(GRID.shape, v, np.float32) for v in (9.0, 0.0, 0.0)])
    monkeypatch.setattr(
        register, "smooth_displacement", lambda fixed, *_: wild[:, : fixed.shape[0], : fixed.shape[1], : fixed.shape[2]]
    )
    with pytest.raises(IonrtError, match="worse than its start"):
        register_deformable(fixed, day, start=matrix_transform(np.eye(4)))
    monkeypatch.setattr(register, "_matrix_of", lambda _: rigid(0.0, 0, (20.0, 0.0, 0.0)))
    with pytest.raises(IonrtError, match=r"on 'body' got worse"):
        register_rigid(fixed, day, on="body")


def test_what_is_refused():
    a = planning()
    with pytest.raises(IonrtError, match="same image"):
        register_rigid(a, a)
    with pytest.raises(IonrtError, match="same image"):
        register_deformable(a, a.copy())
    day = moved(rigid(0.0, 0, (3.0, 0.0, 0.0)))
    with pytest.raises(IonrtError, match="3 or 6"):
        register_rigid(a, day, degrees=4)
    with pytest.raises(IonrtError, match="'GTV' does not exist"):
        register_rigid(a, day, on="GTV")
    air = ct(np.full(GRID.shape, -1000.0), "air")
    with pytest.raises(IonrtError, match="no body found"):
        register_rigid(air, day)
    with pytest.raises(IonrtError, match="denser than -300 HU"):
        register_rigid(a, air, on="body")
    soft = ct(np.minimum(scene(centres(GRID)), 60.0), "soft")
    with pytest.raises(IonrtError, match="no bone"):
        register_rigid(soft, day)
    with pytest.raises(IonrtError, match=r"SimpleITK cannot match images of .* at least four slices"):
        register_rigid(a, day.isel(z=slice(19, 22)), on="bone", start=matrix_transform(np.eye(4)))
    away = day.assign_coords(z=day["z"] + 400.0)
    with pytest.raises(IonrtError, match="bring the day into the planning frame first"):
        register_deformable(a, away)
    holed = a.copy(deep=True)
    holed["ct"][0, 0, 0] = np.nan
    with pytest.raises(IonrtError, match="not finite"):
        register_rigid(holed, day)
    with pytest.raises(IonrtError, match="expected a Dataset with ct"):
        register_rigid(a.rename(ct="spr"), day)
