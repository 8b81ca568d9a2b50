"""Scenarios: what the sets consist of, what an error does to the dose, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, simple_plan, synthetic_base, water_box

from ionrt import IonrtError, plot
from ionrt.compare import compare_robustness
from ionrt.evaluate import band, dose_at_volume
from ionrt.evaluate.bands import error_parts
from ionrt.patient.geometry.margins import with_margin
from ionrt.patient.geometry.structures import Contours, add_structures, contours
from ionrt.plan import (
    MeanDose,
    Scenario,
    SquaredDeviation,
    SquaredOverdose,
    SquaredUnderdose,
    field,
    influence,
    optimise,
    scenario_set,
)
from ionrt.plan.fields import scenario_field
from ionrt.plan.setup.objectives import ROBUST, make_robust
from ionrt.plan.setup.scenarios import NOMINAL, scenarios_random
from ionrt.quantities import stamp


def test_the_sets_hold_what_they_say():
    single, grid = scenario_set(range_shift=0.035, setup=3.0), scenario_set(together=True)
    assert len(single) == 9 and len(set(single)) == 9 and single[0] == NOMINAL
    assert {s.range_shift for s in single} == {0.0, 0.035, -0.035}
    assert all(bool(s.range_shift) + sum(map(bool, s.setup)) <= 1 for s in single)
    assert len(set(grid)) == 21 and grid[0] == NOMINAL
    assert sorted({s.setup for s in grid}) == sorted({s.setup for s in scenario_set()})
    assert scenario_set(range_shift=0.0, setup=0.0) == (NOMINAL,)


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


def test_a_longer_range_pushes_the_dose_in_by_as_much(box):
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
    for shift in (-0.03, 0.03):
        expected = surface + (edges[0.0] - surface) * (1.0 + shift)
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
        (lambda: scenario_set(setup=-2.0), "error >= 0"),
        (lambda: scenario_set(together=True, range_shift=float("inf")), "error >= 0"),
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


@pytest.fixture(scope="module")
def planned(box):
    patient, plan, base, nominal = box
    return patient, plan, base, nominal, optimise(patient, plan, nominal, iterations=40)


def d95(dose, patient):
    return dose_at_volume(dose, patient["structures"].sel(structure=["CTV"]), percent=95.0).sel(structure="CTV")


def test_the_field_of_the_scenario_without_error_is_the_nominal_field(planned):
    patient, _, _, nominal, weights = planned
    plain = field(nominal, weights, models=("constant",))
    many = scenario_field(patient, nominal, weights, scenario_set(setup=4.0), models=("constant",))
    assert many["dose"].dims == ("scenario", "z", "y", "x") and many.sizes["scenario"] == 9
    np.testing.assert_array_equal(many["dose"].sel(scenario="nominal").values, plain["dose"].values)
    assert many["let_x_dose"].attrs["units"] == plain["let_x_dose"].attrs["units"]
    assert float(many["setup_z"].sel(scenario="set-up z -4 mm")) == -4.0
    tiny = scenario_field(patient, nominal, weights, [Scenario(1e-9, (1e-7, 0.0, 0.0))], models=("constant",))
    np.testing.assert_allclose(tiny["dose"].values[0], plain["dose"].values, atol=2e-3)


def test_moments_of_beams_sum_to_the_whole_in_every_scenario(planned):
    patient, _, base, nominal, weights = planned
    moved = influence(patient, nominal.plan, base=base, scenario=Scenario(0.03, (2.0, 0.0, -2.0)))
    parts = field(moved, weights, models=("constant",), by="beam").sum("beam")
    whole = field(moved, weights, models=("constant",))
    same = scenario_field(patient, nominal, weights, [Scenario(0.03, (2.0, 0.0, -2.0))], models=("constant",)).isel(scenario=0)
    for name in ("dose", "let_x_dose"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(same[name], whole[name], rtol=1e-5, atol=1e-6)


def test_a_wider_range_error_never_improves_the_worst_case(planned):
    patient, _, _, nominal, weights = planned
    worst, scenarios = [], [Scenario()]
    for size in (0.015, 0.03, 0.05):
        scenarios += [Scenario(size), Scenario(-size)]
        dose = scenario_field(patient, nominal, weights, scenarios, models=("constant",))["dose"]
        worst.append(float(band(d95(dose, patient)).sel(statistic="min")))
    assert np.all(np.diff(worst) <= 0.0) and worst[-1] < worst[0] - 0.05


def test_robust_optimisation_beats_nominal_in_the_worst_case(planned):
    patient, plan, _, nominal, _ = planned
    scenarios = [Scenario(), Scenario(0.03), Scenario(-0.03), Scenario(setup=(0.0, 0.0, 4.0)), Scenario(setup=(0.0, 0.0, -4.0))]
    objectives = (
        SquaredUnderdose("CTV", weight=300.0, level=2.0),
        SquaredOverdose("CTV", weight=100.0, level=2.1),
        SquaredOverdose("BODY", weight=10.0, level=1.0),
    )
    found = {}
    for how in ("nominal", *ROBUST[1:]):
        chosen = replace(plan, objectives=make_robust(objectives, robust=how, structures=["CTV"]))
        extra = {} if how == "nominal" else {"scenarios": scenarios}
        w = optimise(patient, chosen, nominal, iterations=40, **extra)
        dose = scenario_field(patient, nominal, w, scenarios, models=("constant",))["dose"]
        found[how] = float(band(d95(dose, patient)).sel(statistic="min"))
    assert all(found[how] > found["nominal"] + 0.03 for how in ROBUST[1:]), found
    assert found["voxel_worst"] > 1.9


@pytest.mark.parametrize("how", ROBUST[1:])
def test_robust_with_one_scenario_without_error_is_the_nominal_plan(planned, how):
    patient, plan, _, nominal, _ = planned
    objectives = (SquaredDeviation("CTV", weight=100.0, level=2.0), SquaredOverdose("BODY", weight=10.0, level=1.0))
    plain = optimise(patient, replace(plan, objectives=objectives), nominal, iterations=5)
    robust = make_robust(objectives, robust=how, structures=["CTV"])
    one = optimise(patient, replace(plan, objectives=robust), nominal, iterations=5, scenarios=[NOMINAL])
    np.testing.assert_allclose(one.values, plain.values, rtol=1e-6, atol=1.0)


def test_daily_shifts_are_a_dimension_and_split_into_systematic_and_random(planned):
    patient, _, _, nominal, weights = planned
    courses = scenarios_random(2, seed=1, setup_sigma=2.0, daily_sigma=2.0, fractions=3)
    many = scenario_field(patient, nominal, weights, courses, models=("constant",))
    assert many["dose"].dims == ("scenario", "fraction", "z", "y", "x")
    one = scenario_field(patient, nominal, weights, [courses[1].fractions()[2]], models=("constant",))
    np.testing.assert_array_equal(many["dose"].values[1, 2], one["dose"].values[0])
    parts = error_parts(d95(many["dose"], patient))
    assert list(parts["part"].values) == ["mean", "systematic", "random"]


def test_bad_input_to_robust_planning(planned):
    patient, plan, base, nominal, weights = planned
    robust = replace(plan, objectives=(SquaredUnderdose("CTV", level=2.0, robust="worst"),))
    with pytest.raises(IonrtError, match="none were given"):
        optimise(patient, robust, nominal)
    with pytest.raises(IonrtError, match="all objectives are nominal"):
        optimise(patient, plan, nominal, scenarios=scenario_set())
    with pytest.raises(IonrtError, match=r"expected ionrt\.plan\.Scenario"):
        optimise(patient, robust, nominal, scenarios=["worst"])
    with pytest.raises(IonrtError, match="empty list"):
        scenario_field(patient, nominal, weights, [])
    with pytest.raises(IonrtError, match="misses the patient in scenario"):
        scenario_field(patient, nominal, weights, [Scenario(setup=(0.0, 0.0, 200.0))], models=("constant",))
    with pytest.raises(IonrtError, match="misses the patient in scenario"):
        optimise(patient, robust, nominal, scenarios=[Scenario(setup=(0.0, 0.0, 200.0))])
    with pytest.raises(IonrtError, match="more than memory"):
        scenario_field(patient, nominal, weights, scenario_set(together=True), memory=1e-4)
    with pytest.raises(IonrtError, match="number of fractions"):
        mixed = [Scenario(daily=((0.0, 0.0, 1.0),) * n) for n in (2, 3)]
        scenario_field(patient, nominal, weights, mixed)
    with pytest.raises(IonrtError, match="nominal one"):
        optimise(patient, plan, influence(patient, plan, base=base, scenario=Scenario(0.01)))
    with pytest.raises(IonrtError, match="nominal one"):
        moved = influence(patient, plan, base=base, scenario=Scenario(0.01))
        scenario_field(patient, moved, weights, [NOMINAL], models=("constant",))
    with pytest.raises(IonrtError, match="structure: 'GTV' does not exist"):
        unknown = (SquaredUnderdose("GTV", level=2.0, robust="worst"),)
        optimise(patient, replace(plan, objectives=unknown), nominal, scenarios=scenario_set())


def test_bands_are_those_of_the_numbers():
    values = xr.DataArray(
        [[1.0, 5.0], [2.0, 3.0], [6.0, 1.0]],
        dims=("scenario", "structure"),
        coords={"scenario": ["nominal", "a", "b"], "weight": ("scenario", [2.0, 1.0, 1.0])},
        name="dose",
    )
    got = band(values, percent=(0.0, 100.0))
    assert list(got["statistic"].values) == ["nominal", "expected", "min", "max", "0 %", "100 %"]
    np.testing.assert_allclose(got.values, [[1.0, 5.0], [2.5, 3.5], [1.0, 1.0], [6.0, 5.0], [1.0, 1.0], [6.0, 5.0]])
    assert got.attrs["units"] == "Gy"
    lazy = band(values.chunk({"structure": 1}), percent=())
    assert lazy.chunks is not None
    np.testing.assert_allclose(lazy.values, got.values[:4])
    with pytest.raises(IonrtError, match="'beam'"):
        band(values, dim="beam")
    with pytest.raises(IonrtError, match="between 0 and 100"):
        band(values, percent=(105.0,))
    with pytest.raises(IonrtError, match="positive numbers"):
        band(values, weights=xr.DataArray([1.0, -1.0, 1.0], dims="scenario"))


def test_no_value_in_one_scenario_is_none_in_every_statistic():
    values = xr.DataArray(
        [[1.0, 5.0], [2.0, np.nan]], dims=("scenario", "structure"), coords={"scenario": ["nominal", "a"]}, name="dose"
    )
    got = band(values, percent=(0.0, 5.0, 50.0, 95.0))
    assert float(got.sel(statistic="nominal").isel(structure=1)) == 5.0
    assert np.isnan(got.drop_sel(statistic="nominal").isel(structure=1)).all()
    assert np.isfinite(got.isel(structure=0)).all()


def test_systematic_and_random_parts_are_found_again():
    rng = np.random.default_rng(2)
    values = 60.0 + rng.normal(0.0, 2.0, (3000, 1)) + rng.normal(0.0, 1.0, (3000, 5))
    got = error_parts(xr.DataArray(values, dims=("scenario", "fraction"), name="rbe_dose", attrs={"rbe_model": "constant"}))
    np.testing.assert_allclose(got.values, [60.0, 2.0, 1.0], rtol=0.05)
    with pytest.raises(IonrtError, match="at least two"):
        error_parts(xr.DataArray(values[:1], dims=("scenario", "fraction"), name="dose"))


def test_only_the_voxels_asked_for_and_there_the_same_dose(planned):
    patient, _, _, nominal, weights = planned
    scenarios = [Scenario(), Scenario(0.03, (2.0, 0.0, 0.0))]
    whole = scenario_field(patient, nominal, weights, scenarios, models=("constant",))
    part = scenario_field(patient, nominal, weights, scenarios, models=("constant",), within=["CTV"])
    inside = patient["structures"].sel(structure="CTV").values > 0.0
    for name in ("dose", "let_x_dose"):
        a, b = part[name].values, whole[name].values
        np.testing.assert_allclose(a[:, inside], b[:, inside], atol=2e-3 * b.max())
        assert (a > 0.0).sum() < 0.6 * (b > 0.0).sum()
    with pytest.raises(IonrtError, match="structure: 'GTV' does not exist"):
        scenario_field(patient, nominal, weights, scenarios, models=("constant",), within=["GTV"])


def test_several_plans_of_the_same_spots_are_each_its_own(planned):
    patient, _, _, nominal, weights = planned
    scenarios = [NOMINAL, Scenario(0.03, (2.0, 0.0, 0.0))]
    other = weights * np.linspace(0.2, 3.0, weights.size)
    both = xr.concat([weights, other], dim="plan").assign_coords(plan=["margin", "robust"])
    many = scenario_field(patient, nominal, both, scenarios, models=("constant",))
    assert many["dose"].dims == ("plan", "scenario", "z", "y", "x")
    for name, w in (("margin", weights), ("robust", other)):
        alone = scenario_field(patient, nominal, w, scenarios, models=("constant",))
        for quantity in alone.data_vars:
            np.testing.assert_array_equal(many[quantity].sel(plan=name).values, alone[quantity].values)
    assert not np.array_equal(many["dose"].values[0], many["dose"].values[1])


def test_a_structure_that_no_beam_comes_near_has_no_dose():
    """Robust aims and fields for it alone: nothing there, instead of a beam that misses the patient."""
    patient = water_box((11, 41, 121), (3.0, 3.0, 3.0), target_radius=9.0, target_at=(-120.0, 0.0, 0.0))
    organ = patient["structures"].values[1]
    organ[...] = 0.0
    organ[3:8, 15:25, 105:110] = 1.0
    aims = (SquaredDeviation("CTV", weight=100.0, level=2.0), MeanDose("ORGAN", robust="worst"))
    plan = replace(simple_plan(spacing=3.0), objectives=aims)
    nominal = influence(patient, plan, base={"C": synthetic_base("C")}, scenario=Scenario(weight=2.0))
    assert "scenario" not in nominal.attrs
    weights = optimise(patient, plan, nominal, scenarios=[NOMINAL, Scenario(0.03)], iterations=3)
    far = scenario_field(patient, nominal, weights, [NOMINAL, Scenario(0.03)], models=("constant",), within=["ORGAN"])
    assert far["dose"].shape[0] == 2 and not far["dose"].values.any()
    with pytest.raises(IonrtError, match="misses the patient in scenario"):
        scenario_field(patient, nominal, weights, [Scenario(setup=(0.0, 0.0, 200.0))], models=("constant",), within=["ORGAN"])


def studied(patient, base, **named):
    return compare_robustness(
        patient,
        gantry_angles=(0.0, 90.0),
        room=POINT_ROOM,
        range_error=0.03,
        setup_error=3.0,
        prescription=2.0,
        model="constant",
        parameters={"rbe": 1.0},
        spacing=2.0,
        tested=(NOMINAL, Scenario(0.03), Scenario(-0.03), Scenario(setup=(0.0, 0.0, -3.0))),
        iterations=25,
        base=base,
        **named,
    )


@pytest.fixture(scope="module")
def study(box):
    patient, _, base, _ = box
    return studied(patient, base, organs=["ORGAN"])


def test_margin_and_robust_plan_side_by_side(study):
    table = study.worst_table()
    assert list(table.columns) == ["margin", "robust"]
    d95 = table.loc["CTV D95 [Gy (RBE)]"]
    assert (d95.loc["worst"] <= d95.loc["nominal"] + 1e-9).all() and (d95.loc["nominal"] > 1.9).all()
    assert d95.loc["worst", "robust"] > d95.loc["worst", "margin"]
    per_scenario = study.metrics["D95"].sel(case="robust", structure="CTV")
    assert float(per_scenario.min()) == pytest.approx(d95.loc["worst", "robust"])
    assert list(per_scenario["scenario"]) == ["nominal", "range +3 %", "range -3 %", "set-up z -3 mm"]
    bands = study.histogram("let_d")
    assert bands.dims[0] == "statistic" and {"case", "structure"} <= set(bands.dims)
    assert (bands.sel(statistic="min") <= bands.sel(statistic="max")).all()
    assert len(study.key_numbers().splitlines()) == 2 and "CTV" in study.summary_table().to_string()
    parts = study.course_table("robust", range_error=0.03, setup_error=3.0, patients=2, fractions=2)
    assert (parts[["systematic", "random"]].values >= 0.0).all() and list(parts.columns) == ["mean", "systematic", "random"]


def test_a_target_of_any_name_is_planned_alike(box, study):
    """The margin around it is no part of the outline that is to be spared, as around a CTV."""
    patient, _, base, _ = box
    names = ["Tumour_1" if s == "CTV" else str(s) for s in patient["structure"].values]
    other = studied(patient.assign_coords(structure=names), base, target="Tumour_1")
    assert other.organs == ("ORGAN",)
    for name in ("margin", "robust"):
        np.testing.assert_allclose(other.plans[name].weights, study.plans[name].weights, rtol=1e-3, atol=1.0)
    assert other.metrics["D95"].sel(structure="Tumour_1").min() > 1.8


def test_figures_of_bands_and_scenarios(study):
    bands = plot.histograms(study.histogram("rbe_dose"), caption="A test.")
    points = plot.scenario_points(study.in_scenarios())
    for figure in (bands, points):
        assert "Bokeh" in figure.to_html() and [k[0] for k in figure.key] == ["margin", "robust"]
    assert "bands: between the extremes" in bands.caption and "LETd" in points.caption
    with pytest.raises(IonrtError, match="statistic 'nominal' is missing"):
        plot.histograms(study.histogram("rbe_dose").drop_sel(statistic="nominal"))
    with pytest.raises(IonrtError, match="at least one"):
        plot.scenario_points([])


@pytest.mark.parametrize("margin", [0.0, 0.7, 2.5, 4.0])
def test_a_margin_counts_parts_of_a_voxel_and_stays_inside(margin):
    """Along each axis a box grows by twice the margin, whatever the voxel; beyond the outline it does not."""
    spacing = {"z": 3.0, "y": 1.0, "x": 2.0}
    coords = {d: step * np.arange(24) for d, step in spacing.items()}
    box = np.zeros((2, 24, 24, 24), np.float32)
    box[0, 8:14, 8:14, 8:14] = 1.0
    box[1, :, :, 7:] = 1.0
    structures = xr.DataArray(box, dims=("structure", "z", "y", "x"), coords={"structure": ["CTV", "BODY"], **coords})
    free = with_margin(structures.to_dataset(name="structures"), "CTV", margin=margin, name="PTV")["structures"]
    middle = {"z": 11, "y": 11, "x": 11}
    for dim, step in spacing.items():
        line = free.sel(structure="PTV").isel({d: i for d, i in middle.items() if d != dim})
        assert float(line.sum()) * step == pytest.approx(6 * step + 2 * margin, abs=1e-4)
    kept = with_margin(structures.to_dataset(name="structures"), "CTV", margin=margin, name="PTV", within="BODY")["structures"]
    line = kept.sel(structure="PTV").isel(z=11, y=11)
    assert float(line.sum()) * 2.0 == pytest.approx(12.0 + margin + min(margin, 2.0), abs=1e-4)


def test_a_margin_leaves_the_rest_of_the_patient_as_it_was():
    """Images, a dose in the same data set, contours, types and the frame of reference stay; the new one takes over the type."""
    levels = np.arange(-9.0, 10.0, 3.0)
    coords = {"z": levels, "y": np.arange(-20.0, 21.0, 2.0), "x": np.arange(-20.0, 21.0, 2.0)}
    rings = [np.array([[-5.0, -5.0, z], [5.0, -5.0, z], [5.0, 5.0, z], [-5.0, 5.0, z]]) for z in levels[2:5]]
    drawn = Contours("CTV", np.concatenate(rings), np.full(3, 4))
    body = Contours("BODY", np.concatenate([2.0 * r * [1, 1, 0.5] for r in rings]), np.full(3, 4))
    water = xr.DataArray(np.zeros((7, 21, 21), np.float32), dims=("z", "y", "x"), coords=coords)
    images = {"ct": stamp(water, "ct"), "dose": stamp(water + 2.0, "dose")}
    patient = add_structures(xr.Dataset(images, attrs={"source": "SYNTHETIC"}), [drawn, body], ["CTV", "EXTERNAL"])
    patient["structures"].attrs["frame_of_reference_uid"] = "2.25.1"
    wider = with_margin(patient, "CTV", margin=4.0, name="PTV")
    assert list(wider["structure"].values) == ["CTV", "BODY", "PTV"] and wider.attrs == patient.attrs
    assert list(wider["roi_type"].values) == ["CTV", "EXTERNAL", "CTV"]
    assert wider["structures"].attrs["frame_of_reference_uid"] == "2.25.1"
    assert list(wider.data_vars) == list(patient.data_vars)
    xr.testing.assert_identical(wider.drop_dims("structure"), patient.drop_dims("structure"))
    np.testing.assert_array_equal(wider["structures"].sel(structure=["CTV", "BODY"]), patient["structures"])
    assert len(contours(wider, "CTV")) == len(contours(patient, "CTV")) == 3 and contours(wider, "PTV") == []


def test_a_margin_grows_the_structure_by_as_much():
    patient = water_box((31, 31, 31), target_radius=12.0)
    got = with_margin(patient, "CTV", margin=6.0, name="PTV")["structures"].sel(structure="PTV")
    radius = (3.0 / (4.0 * np.pi) * float(got.sum()) * 8.0) ** (1.0 / 3.0)
    assert radius == pytest.approx(18.0, abs=0.5)  # a quarter of a voxel
    assert ((got - patient["structures"].sel(structure="CTV")).values >= 0.0).all()
    with pytest.raises(IonrtError, match="margin >= 0"):
        with_margin(patient, "CTV", margin=-1.0, name="PTV")
    with pytest.raises(IonrtError, match="'GTV' does not exist"):
        with_margin(patient, "GTV", margin=1.0, name="PTV")
    with pytest.raises(IonrtError, match="nothing to be robust against"):
        compare_robustness(patient, range_error=0.0, setup_error=0.0)
    with pytest.raises(IonrtError, match="first is the nominal"):
        compare_robustness(patient, tested=[Scenario(0.01)])
