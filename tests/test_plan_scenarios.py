"""Scenarios: what the sets consist of, what an error does to the dose, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from plan_fixtures import simple_plan, synthetic_base, water_box

from ionrt import IonrtError
from ionrt.plan import NOMINAL, Scenario, field, influence, scenarios_grid, scenarios_random, scenarios_single


def test_the_sets_hold_what_they_say():
    single, grid = scenarios_single(range_shift=0.035, setup=3.0), scenarios_grid()
    assert len(single) == 9 and len(set(single)) == 9 and single[0] == NOMINAL
    assert {s.range_shift for s in single} == {0.0, 0.035, -0.035}
    assert all(bool(s.range_shift) + sum(map(bool, s.setup)) <= 1 for s in single)
    assert len(set(grid)) == 21 and grid[0] == NOMINAL
    assert sorted({s.setup for s in grid}) == sorted({s.setup for s in scenarios_single()})
    assert scenarios_single(range_shift=0.0, setup=0.0) == (NOMINAL,)


def test_random_courses_have_the_spread_asked_for_and_depend_on_the_seed_only():
    drawn = scenarios_random(4000, seed=3, range_sigma=0.01, setup_sigma=(1.0, 2.0, 0.0), daily_sigma=1.5, fractions=4)
    assert drawn == scenarios_random(4000, seed=3, range_sigma=0.01, setup_sigma=(1.0, 2.0, 0.0), daily_sigma=1.5, fractions=4)
    assert drawn != scenarios_random(4000, seed=4, range_sigma=0.01, setup_sigma=(1.0, 2.0, 0.0), daily_sigma=1.5, fractions=4)
    assert np.std([s.range_shift for s in drawn]) == pytest.approx(0.01, rel=0.05)
    np.testing.assert_allclose(np.std([s.setup for s in drawn], axis=0), (1.0, 2.0, 0.0), rtol=0.05)
    assert np.std([s.daily for s in drawn], axis=(0, 1)) == pytest.approx(1.5, rel=0.05)
    one = drawn[0].fractions()
    assert len(one) == 4 and one[2].setup == pytest.approx(np.add(drawn[0].setup, drawn[0].daily[2]))
    assert scenarios_random(1, seed=0)[0].fractions() == scenarios_random(1, seed=0)


@pytest.fixture(scope="module")
def box():
    patient, base = water_box((25, 61, 31), target_radius=12.0), {"C": synthetic_base("C")}
    plan = simple_plan(gantry=(0.0, 90.0))
    return patient, plan, base, influence(patient, plan, base=base)


def test_no_error_is_the_nominal_plan_exactly(box):
    patient, plan, base, nominal = box
    same = influence(patient, plan, base=base, scenario=Scenario(0.0, (0.0, 0.0, 0.0)))
    entries = [np.concatenate([c.dose for b in i.beams for p in b.parts for c in p.chunks]) for i in (nominal, same)]
    np.testing.assert_array_equal(*entries)
    assert nominal.attrs == same.attrs


def depth_of(distribution, dim):
    return float((distribution * distribution[dim]).sum() / distribution.sum())


def test_more_material_draws_the_dose_back_by_as_much(box):
    patient, _, base, _ = box
    plan = simple_plan(gantry=(0.0,))
    edges = {}
    for shift in (-0.03, 0.0, 0.03):
        got = influence(patient, plan, base=base, scenario=Scenario(shift))
        dose = field(got, np.ones(got.n_spots) * 1e6, models=("constant",))["dose"].sum(["z", "x"])
        half = 0.5 * float(dose.max())
        beyond = dose.where(dose["y"] > dose["y"][int(dose.argmax("y"))], drop=True)
        edges[shift] = float(np.interp(-half, -beyond.values, beyond["y"].values))
    surface = float(patient["y"][0]) - 1.0
    for shift in (-0.03, 0.03):  # depth in water scales with 1 / (1 + shift)
        expected = surface + (edges[0.0] - surface) / (1.0 + shift)
        assert edges[shift] == pytest.approx(expected, abs=0.25)


def test_a_shift_moves_the_dose_along_with_the_beam(box):
    patient, plan, base, nominal = box
    w = np.full(nominal.n_spots, 1e6)
    before = field(nominal, w, models=("constant",))["dose"]
    moved = influence(patient, plan, base=base, scenario=Scenario(setup=(0.0, 0.0, 4.0)))  # two voxels across both beams
    after = field(moved, w, models=("constant",))["dose"]
    for dim, shift in (("x", 0.0), ("y", 0.0), ("z", 4.0)):
        assert depth_of(after, dim) - depth_of(before, dim) == pytest.approx(shift, abs=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scenario(range_shift=2.5), "0.025 for 2.5"),
        (lambda: Scenario(range_shift=float("nan")), "relative range_shift"),
        (lambda: Scenario(setup=(1.0, 2.0)), r"\(x, y, z\) in mm"),
        (lambda: Scenario(setup=(0.0, 0.0, 1e4)), "within 300 mm"),
        (lambda: Scenario(weight=0.0), "positive weight"),
        (lambda: scenarios_single(setup=-2.0), "error >= 0"),
        (lambda: scenarios_grid(range_shift=float("inf")), "error >= 0"),
        (lambda: scenarios_random(5, seed=0, setup_sigma=-1.0), "standard deviations >= 0"),
        (lambda: scenarios_random(0, seed=0), "at least 1"),
    ],
)
def test_bad_scenarios_say_what_is_wrong(make, message):
    with pytest.raises(IonrtError, match=message):
        make()


def test_a_scenario_off_the_patient_says_which(box):
    patient, plan, base, _ = box
    with pytest.raises(IonrtError, match=r"misses the patient in scenario 'set-up z \+200 mm'"):
        influence(patient, plan, base=base, scenario=Scenario(setup=(0.0, 0.0, 200.0)))
    with pytest.raises(IonrtError, match="daily"):
        influence(patient, plan, base=base, scenario=Scenario(daily=((1.0, 0.0, 0.0),)))
