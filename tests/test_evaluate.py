"""Indices and depth profiles on fields with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ionrt import evaluate
from ionrt.evaluate.profile import ratio_to_target
from ionrt.evaluate.quality import conformity, homogeneity
from ionrt.quantities import IonrtError

GRID = ("z", "y", "x")
AT = np.arange(-30, 31, 2.0)
Z, Y, X = np.meshgrid(AT, AT, AT, indexing="ij")


def on_grid(values, name="dose", **attrs):
    return xr.DataArray(np.asarray(values, dtype=float), dims=GRID, coords=dict.fromkeys(GRID, AT), name=name, attrs=attrs)


def cube(half, centre=0.0, name="target"):
    inside = (abs(X - centre) <= half) & (abs(Y) <= half) & (abs(Z) <= half)
    return on_grid(inside, "structures").expand_dims(structure=[name])


def test_homogeneity_is_zero_for_a_uniform_dose_and_grows_with_the_spread():
    target = cube(10)
    assert homogeneity(on_grid(np.full(X.shape, 2.0)), target).item() == 0.0
    slope = on_grid(50 + X)  # uniform in x over +-10 mm: D2 - D98 = 0.96 of the spread of 22 mm (11 voxel planes)
    assert homogeneity(slope, target).item() == pytest.approx(20 / 50, rel=0.05)


def test_conformity_of_cubes():
    target = cube(10)
    same = on_grid(np.where(target[0] > 0, 2.0, 0.1))
    assert conformity(same, target, prescription=2.0).item() == pytest.approx(1.0)
    shifted = on_grid(np.where(cube(10, centre=10)[0] > 0, 2.0, 0.1))
    shared = 6 / 11  # planes of the target that are covered
    assert conformity(shifted, target, prescription=2.0).item() == pytest.approx(shared**2)
    everything = on_grid(np.full(X.shape, 2.0))
    assert conformity(everything, target, prescription=2.0).item() == pytest.approx((11 / 31) ** 3)
    with pytest.raises(IonrtError, match="positive"):
        conformity(same, target, prescription=0.0)


def test_integral_dose_is_mean_times_volume():
    dose = on_grid(X - X.min())
    whole = evaluate.integral_dose(dose, on_grid(np.ones(X.shape), "structures"))
    assert whole.attrs["units"] == "Gy L"
    assert whole.item() == pytest.approx(float(dose.mean()) * 62**3 * 1e-6, rel=1e-6)
    weighted = evaluate.integral_dose(
        (2 * dose).rename("rbe_dose").assign_attrs(rbe_model="x"), on_grid(np.ones(X.shape), "structures")
    )
    assert weighted.name == "integral_rbe_dose" and weighted.attrs["units"] == "Gy (RBE) L"
    assert weighted.item() == pytest.approx(2 * whole.item(), rel=1e-6)
    with pytest.raises(IonrtError, match="let_d"):
        evaluate.integral_dose(dose.rename("let_d").assign_attrs(let_definition="charged"), cube(5))


def test_indices_of_a_ramp_are_those_of_its_closed_form():
    """A dose that rises linearly through a box: D_v = low + (1 - v) span, HI = 0.96 span / middle."""
    ramp = on_grid(10.0 + X).assign_attrs(units="Gy").rename("dose")
    inside = on_grid(((np.abs(X) <= 10) & (np.abs(Y) <= 10) & (np.abs(Z) <= 10)).astype(float), "structures")
    box = inside.expand_dims(structure=["CTV"])
    table = evaluate.plan_quality(ramp, box, target="CTV", prescription=10.0, on_grid=inside)
    row = table.loc["CTV"]
    low, high = 10.0 - 10, 10.0 + 10
    for key, share in (("D98", 0.98), ("D95", 0.95), ("D50", 0.5), ("D2", 0.02)):
        assert row[key] == pytest.approx(high - share * (high - low), abs=1.5)
    assert row["Dmean"] == pytest.approx(10.0, abs=0.1)
    assert row["HI"] == pytest.approx((row["D2"] - row["D98"]) / row["D50"])
    assert row["V95"] == pytest.approx(100 * float((inside * (ramp >= 9.5)).sum() / inside.sum()), rel=1e-6)
    assert row["CI"] == pytest.approx(conformity(ramp, inside, prescription=10.0).item())
    with pytest.raises(IonrtError, match="positive"):
        evaluate.plan_quality(ramp, box, target="CTV", prescription=0.0)


def test_goals_are_of_the_course_and_judged_in_their_own_unit():
    dose = on_grid(np.full(X.shape, 3.0)).rename("dose")
    box = cube(5).expand_dims(structure=["CTV"]) if "structure" not in cube(5).dims else cube(5)
    name = str(box["structure"].values[0])
    goals = [
        f"{name} D95% >= 95 %",
        f"{name} Dmean <= 47.9 Gy",
        f"{name} V48 >= 100 %",
        f"{name} V110% <= 2 %",
        f"{name} D0.03cc <= 48 Gy",
    ]
    table = evaluate.judge(dose, box, goals, prescription=3.0, fractions=16)
    assert list(table["met"]) == ["met", "NOT met", "met", "met", "met"]
    np.testing.assert_allclose(table["reached"], [100, 48, 100, 0, 48], atol=1e-9)
    for wrong, message in (
        ("CTV D95", "cannot be read"),
        (f"{name} D95% >= 5 m", "% or Gy"),
        ("Nowhere Dmean <= 3 Gy", "no structure 'Nowhere'"),
        (f"{name} V20 <= 3 Gy", "% or Gy"),
    ):
        with pytest.raises(IonrtError, match=message):
            evaluate.judge(dose, box, [wrong], prescription=3.0)


def test_profile_of_a_linear_field_is_a_line_whatever_the_direction():
    dose = on_grid(100 + 2 * X - Y + 0.5 * Z)
    u = np.array([1.0, 2.0, -2.0]) / 3
    line = evaluate.depth_profile(dose, through=(1.0, 2.0, 3.0), direction=3 * u, distance=[-5, 0, 7.5], radius=4.0)
    expected = 100 + 2 * 1 - 2 + 0.5 * 3 + np.array([-5, 0, 7.5]) * (2 * u[0] - u[1] + 0.5 * u[2])
    np.testing.assert_allclose(line, expected, rtol=1e-6)
    assert np.isnan(evaluate.depth_profile(dose, through=(0, 0, 0), direction=(1, 0, 0), distance=[500.0])).all()
    with pytest.raises(IonrtError, match="direction"):
        evaluate.depth_profile(dose, through=(0, 0, 0), direction=(0, 0, 0), distance=[0.0])


def test_entrance_and_tail_of_a_slab():
    """1 Gy on the way in, 4 Gy in the target, 0.2 Gy behind; the beam may come from either side."""
    body, target = on_grid(abs(X) <= 26, "structures"), cube(6)
    values = np.where(abs(X) <= 6, 4.0, np.where(X < 0, 1.0, 0.2))
    for sign in (1, -1):
        dose = on_grid(values if sign > 0 else values[..., ::-1])
        kind = {"direction": (sign, 0, 0), "radius": 2.0}
        entrance = ratio_to_target(dose, target, body, side="entrance", window=(2.0, 10.0), **kind)
        tail = ratio_to_target(dose, target, body, side="tail", window=(4.0, 15.0), **kind)
        assert entrance.item() == pytest.approx(1 / 4, rel=0.03)
        assert tail.item() == pytest.approx(0.2 / 4, rel=0.03)
        assert entrance.attrs["units"] == "1"


def test_a_beam_that_misses_is_an_error():
    body, target = on_grid(abs(X) <= 26, "structures"), cube(6)
    with pytest.raises(IonrtError, match="empty"):
        ratio_to_target(on_grid(X * 0 + 1), target * 0, body, direction=(1, 0, 0), side="entrance")
    with pytest.raises(IonrtError, match="one structure"):
        ratio_to_target(on_grid(X * 0 + 1), xr.concat([target, target], "structure"), body, direction=(1, 0, 0), side="tail")
