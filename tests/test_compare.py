"""The comparison of ions, end to end on a small water box with the real rooms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ionrt import evaluate, plan, plot
from ionrt.compare import compare_ions, compare_options, nearest_organs
from ionrt.compare.cases import mean_let, planned_maps
from ionrt.patient.geometry.structures import Contours, add_structures
from ionrt.quantities import IonrtError, stamp

GRID = ("z", "y", "x")
BEHIND = "RBE-weighted dose, behind / CTV"


def box_contours(name, low, high, levels):
    (x0, y0), (x1, y1) = low, high
    rings = [np.array([[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]]) for z in levels]
    return Contours(name, np.concatenate(rings), np.full(len(rings), 4))


@pytest.fixture(scope="module")
def patient():
    """A box of water, 200 x 120 x 60 mm, with a target of 30 mm in the middle and an organ beside it."""
    at = {"z": np.arange(-28.75, 30, 2.5), "y": np.arange(-66.25, 67, 2.5), "x": np.arange(-108.75, 110, 2.5)}
    _, y, x = np.meshgrid(*at.values(), indexing="ij")
    inside = (abs(x) <= 100) & (abs(y) <= 60)
    ct = xr.DataArray(np.where(inside, 0.0, -1000.0).astype(np.float32), dims=GRID, coords=at)
    levels = at["z"]
    found = [
        box_contours("CTV", (-15, -15), (15, 15), levels[abs(levels) <= 15]),
        box_contours("Organ", (-12, 25), (12, 40), levels[abs(levels) <= 12]),
        box_contours("GTV", (-8, -8), (8, 8), levels[abs(levels) <= 8]),
        box_contours("BODY", (-100, -60), (100, 60), levels),
    ]
    return add_structures(xr.Dataset({"ct": stamp(ct, "ct")}), found, ["CTV", "ORGAN", "GTV", "EXTERNAL"])


@pytest.fixture(scope="module")
def result(patient):
    return compare_ions(patient, ions=("C", "Ne"), gantry_angles=(90.0,), prescription=3.0, spacing=2.5)


def test_targets_are_covered_and_let_grows_with_charge(result):
    table = result.target_table()
    on_grid = evaluate.dose_at_volume(result.maps["rbe_dose"], result.outlines.sel(structure=["CTV"]), percent=95)
    assert float(on_grid.min()) > 0.95 * 3.0, "voxels of the target that the planner sees"
    median = evaluate.dose_at_volume(result.maps["rbe_dose"], result.structures.sel(structure=["CTV"]), percent=50)
    np.testing.assert_allclose(median, 3.0, rtol=0.02)
    assert table.loc["neon", "CTV LETd mean [keV/µm]"] > 1.5 * table.loc["carbon", "CTV LETd mean [keV/µm]"]
    assert table.loc["neon", BEHIND] > table.loc["carbon", BEHIND] > 0.01
    assert result.organs == ("Organ",), "neither the outline nor the GTV inside the target"


def test_maps_are_consistent_and_carry_their_definitions(result):
    maps = result.maps
    for name in ("dose", "let_d", "rbe", "rbe_dose"):
        assert maps[name].dims == ("case", *GRID) and maps[name].attrs["rbe_model"] == "nirs_mkm"
        assert maps[name].attrs["let_definition"] == "charged"
    dosed = maps["dose"] > 0.1
    product = (maps["dose"] * maps["rbe"] / maps["rbe_dose"]).where(dosed)
    assert float(abs(product - 1).max()) < 1e-5


def test_protons_have_the_dose_system_of_proton_clinics_and_integral_doses_say_which(patient):
    found = compare_ions(patient, ions=("p", "C"), gantry_angles=(90.0,), prescription=3.0, spacing=4.0, iterations=20)
    assert found.systems == {"p": "constant", "C": "nirs_mkm"}
    ratio = (found.maps["rbe_dose"] / found.maps["dose"]).sel(case="p").where(found.maps["dose"].sel(case="p") > 0.05)
    assert float(ratio.min()) == pytest.approx(1.1, rel=1e-5) == float(ratio.max())
    assert found.maps["rbe_dose"].attrs["rbe_model"] == "constant (p); nirs_mkm (C)"
    assert {da.attrs["rbe_model"] for da in found.profiles()} == {"constant (p); nirs_mkm (C)"}
    assert "constant RBE" in plot.depth_profiles(found.profiles()).caption, "two dose systems beside each other are both said"
    table, systems = found.target_table(), found.systems_table()
    outside = (found.body * (1 - found.grid["structures"].sel(structure="CTV", drop=True))).rename("structures")
    volume = float(np.prod([float(found.grid[d][1] - found.grid[d][0]) for d in GRID])) * 1e-6
    for ion, name in (("p", "protons"), ("C", "carbon")):
        for quantity, column in (
            ("rbe_dose", "RBE-weighted integral dose outside CTV [Gy (RBE) L]"),
            ("dose", "physical integral dose outside CTV [Gy L]"),
        ):
            direct = float((found.maps[quantity].sel(case=ion) * outside).sum()) * volume
            assert table.loc[name, column] == pytest.approx(direct, rel=1e-4)
    rows = [("protons", "constant RBE (planned)"), ("protons", "NIRS-mMKM"), ("carbon", "NIRS-mMKM (planned)")]
    assert list(systems.index) == rows
    assert "clinical factor, not an RBE" in found.caption("x")
    same = compare_ions(
        patient, ions=("p",), gantry_angles=(90.0,), prescription=3.0, spacing=4.0, iterations=2, proton_model="nirs_mkm"
    )
    assert same.systems == {"p": "nirs_mkm"}


def test_let_counts_only_where_there_is_dose(result):
    curve = result.histogram("let_d")
    assert "0.06 Gy" in curve.attrs["above"]
    low = result.maps["dose"] < 0.02 * 3.0
    assert float(result.maps["let_d"].where(low).max()) > 0.0, "there are such voxels, or this shows nothing"
    body = result.grid["structures"].sel(structure=["BODY"])
    kept = result.maps["dose"].where(~low, 0.0) * body
    direct = (kept * result.maps["let_d"]).sum(GRID) / kept.sum(GRID)
    np.testing.assert_allclose(mean_let(result.maps, body, result.dosed()), direct, rtol=1e-4)
    beside = result.organ_table().loc[("Organ", "LETd mean [keV/µm]")]
    assert beside.isna().all(), "no dose, no LETd"


def test_mean_let_of_the_primaries_is_weighted_with_their_dose():
    """Halves of 2 Gy, 1.5 and 0.5 Gy of it from primaries of 40 and 160 keV/um: 70, not 100."""
    coords = {d: [0.0, 2.0] for d in GRID}
    values = {"dose": [2.0, 2.0], "counted_dose": [1.5, 0.5], "let_x_dose": [60.0, 80.0]}
    field = xr.Dataset({n: (GRID, np.broadcast_to(v, (2, 2, 2))) for n, v in values.items()}, coords)
    field["let_x_dose"].attrs = {"let_definition": "primary", "weighted_with": "counted_dose"}
    wanted = plan.Plan((plan.Beam("C", 0.0),), "CTV", 2.0, model="constant", parameters={"rbe": 1.0}, let_definition="primary")
    whole = xr.DataArray(np.ones((1, 2, 2, 2)), {"structure": ["CTV"], **coords}, ("structure", *GRID), "structures")
    assert mean_let(planned_maps(wanted, field), whole, field["dose"] > 0).values == pytest.approx([70.0])


def test_course_stands_beside_the_fraction_and_goals_are_judged(result):
    quality = result.quality_table()
    one = quality.xs("D95 [Gy (RBE)]")
    np.testing.assert_allclose(one.loc["course of 16"].astype(float), 16 * one.loc["per fraction"].astype(float))
    goals = result.goal_table(["CTV D95% >= 95 %", "CTV Dmean <= 1 Gy"])
    assert goals.loc["CTV D95% ≥ 95 %", "carbon"].endswith(" met") and "NOT met" in goals.loc["CTV Dmean ≤ 1 Gy (RBE)", "neon"]
    made = result.how_table()[""]
    assert "generic_ion" in made["HU to stopping power"] and "430 MeV/u" in made["room"] and "C: " in made["base data"]


def test_depth_starts_at_the_skin(result):
    near, far = result.target_depth()
    assert (near, far) == (pytest.approx(85, abs=1.5), pytest.approx(115, abs=1.5))
    dose, let, weighted = result.profiles()
    assert [da.name for da in (dose, let, weighted)] == ["dose", "let_d", "rbe_dose"]
    inside = (dose["distance"] > near + 3) & (dose["distance"] < far - 3)
    assert float(weighted.sel(case="C").where(inside).mean()) == pytest.approx(3.0, rel=0.05)


def test_an_ion_out_of_reach_is_listed_not_dropped(patient):
    from ionrt.plan import Room

    short = Room("short", energies={"C": (80.0, 430.0), "Ne": (100.0, 200.0)})
    found = compare_ions(
        patient, ions=("C", "Ne"), gantry_angles=(90.0,), room=short, prescription=3.0, spacing=4.0, iterations=3
    )
    assert list(found.plans) == ["C"] and "missing" in found.unreachable["Ne"]
    assert list(found.target_table().index) == ["carbon", "neon"] and found.target_table().loc["neon"].isna().all()
    assert "Ne  does not reach" in found.key_numbers() and "Not within reach: neon." in found.caption("x")
    with pytest.raises(IonrtError, match="no ion reaches 'CTV'"):
        compare_ions(patient, ions=("Ne",), gantry_angles=(90.0,), room=short, prescription=3.0, spacing=4.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "CTW"}, "target: 'CTW' does not exist; there are 'CTV'"),
        ({"organs": ["Orgen"]}, "organ: 'Orgen' does not exist; there are 'Organ'"),
        ({"ions": ("Fe",)}, "ion"),
        ({"prescription": 0.0}, "positive prescription"),
        ({"prescription": -3.0}, "positive prescription"),
        ({"model": "nirs"}, "nirs_mkm"),
    ],
)
def test_bad_input(patient, change, message):
    settings = {"ions": ("C",), "gantry_angles": (90.0,), "spacing": 4.0} | change
    with pytest.raises(IonrtError, match=message):
        compare_ions(patient, **settings)


def test_what_the_structure_set_calls_a_target_is_no_organ(patient):
    names = {"CTV": "Tumour_1", "GTV": "Tumour_2", "BODY": "Contour"}
    renamed = patient.assign_coords(structure=[names.get(s, s) for s in patient["structure"].values])
    untyped = renamed.assign_coords(roi_type=("structure", ["CTV", "", "GTV", "EXTERNAL"]))
    assert nearest_organs(renamed, "Tumour_1") == nearest_organs(untyped, "Tumour_1") == ("Organ",)


def test_a_renamed_structure_keeps_its_histogram(patient):
    """Its contours still bear the old name; before, its volume was 0 without a word."""
    dose = stamp((0.0 * patient["ct"] + abs(patient["x"])).transpose(*GRID).drop_attrs().astype(np.float32), "dose")
    names = [{"CTV": "臨床標的体積"}.get(str(s), str(s)) for s in patient["structure"].values]
    found, own = (evaluate.statistics(dose, p) for p in (patient, patient.assign_coords(structure=names)))
    assert own.loc["臨床標的体積", "volume_cc"] == pytest.approx(found.loc["CTV", "volume_cc"], rel=1e-6)
    assert own.loc["臨床標的体積", "mean"] == pytest.approx(found.loc["CTV", "mean"], rel=0.01)
    pd.testing.assert_frame_equal(own.drop("臨床標的体積"), found.drop("CTV"))


def test_nearest_organs_of_an_empty_list(result):
    assert nearest_organs(result.grid, "CTV", n=0) == ()
    with pytest.raises(IonrtError, match="structure 'CVT' does not exist; there are 'CTV'"):
        nearest_organs(result.grid, "CVT")


@pytest.fixture(scope="module")
def mixes(patient):
    options = {"carbon": plan.beam_set("C", (90.0,)), "carbon + oxygen": plan.beam_set(("C", "O"), (90.0,))}
    options["neon"] = (plan.Beam("Ne", 90.0, room=plan.Room("short", energies={"Ne": (100.0, 200.0)})),)
    settings = {"target": "CTV", "gtv": "GTV", "prescription": 3.0, "spacing": 3.0, "spot_spacing": 6.0, "iterations": 100}
    errors = (plan.Scenario(), *(plan.Scenario(range_shift=shift) for shift in (-0.05, 0.05)))
    return compare_options(patient, options, let_minimum=90.0, scenarios=errors, **settings)


def test_options_share_their_beams_and_keep_what_does_not_reach(mixes):
    assert list(mixes.plans) == ["carbon", "carbon + oxygen"] and "missing" in mixes.unreachable["neon"]
    table = mixes.target_table()
    assert list(table.index) == ["carbon", "carbon + oxygen", "neon"] and table.loc["neon"].isna().all()
    assert table.loc["carbon + oxygen", "GTV LETd L98 [keV/µm]"] > table.loc["carbon", "GTV LETd L98 [keV/µm]"] + 5.0
    assert "Not within reach: neon." in mixes.caption("x")
    shares = mixes.share_table()
    np.testing.assert_allclose(shares.sum(axis=1), 100.0, rtol=1e-6)
    assert shares.loc["carbon", "carbon [%]"] == pytest.approx(100.0)
    assert 1.0 < shares.loc["carbon + oxygen", "oxygen [%]"] < 99.0
    spots = mixes.spot_table()
    assert spots.loc[("carbon", "C gantry 90"), "spots"] == spots.loc[("carbon + oxygen", "C gantry 90"), "spots"]


def test_maps_of_options_are_those_of_their_fields(mixes):
    one = mixes.plans["carbon + oxygen"]
    total = one.field.sum("ion")
    np.testing.assert_allclose(mixes.maps["dose"].sel(case="carbon + oxygen"), total["dose"], rtol=1e-6)
    for name in ("dose", "let_d", "rbe_dose"):
        assert mixes.maps[name].attrs["let_definition"] == "charged" and mixes.maps[name].attrs["rbe_model"] == "nirs_mkm"


def test_the_nominal_scenario_is_the_plan_and_errors_cost_coverage(mixes):
    table, (d95, l98) = mixes.target_table(), mixes.in_scenarios()
    nominal = 100.0 * d95.sel(case="carbon", scenario="nominal").item() / 3.0
    assert nominal == pytest.approx(table.loc["carbon", "CTV D95 [%]"], abs=0.01)
    assert float(l98.sel(case="carbon", scenario="nominal")) == pytest.approx(
        table.loc["carbon", "GTV LETd L98 [keV/µm]"], abs=0.01
    )
    for shift in ("range -5 %", "range +5 %"):
        assert (d95.sel(scenario=shift) < d95.sel(scenario="nominal")).all(), shift
    assert (table["CTV worst-case D95 [%]"].dropna() < table["CTV D95 [%]"].dropna()).all()


def test_bad_options(patient):
    with pytest.raises(IonrtError, match="at least one option"):
        compare_options(patient, {}, target="CTV")
    with pytest.raises(IonrtError, match="gtv: 'GTW' does not exist"):
        compare_options(patient, {"a": plan.beam_set("C", (0.0,))}, target="CTV", gtv="GTW")
    mixed = (plan.Beam("C", 90.0), plan.Beam("O", 90.0, room=plan.FIXED_ROOM))
    with pytest.raises(IonrtError, match="share a room"):
        compare_options(patient, {"a": mixed}, target="CTV")


def test_another_prescription_takes_its_doses_from_the_store(patient, tmp_path):
    same = {"ions": ("C",), "gantry_angles": (90.0,), "spacing": 5.0, "iterations": 10}
    first = compare_ions(patient, prescription=3.0, store=tmp_path, **same)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    other = compare_ions(patient, prescription=2.0, store=tmp_path, **same)
    now = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert kept and now == kept, "nothing was computed again"
    alone = compare_ions(patient, prescription=2.0, **same)
    xr.testing.assert_allclose(other.maps["dose"], alone.maps["dose"], rtol=1e-5)
    assert float(first.maps["dose"].max()) > float(other.maps["dose"].max())


def test_let_of_a_structure_that_hardly_has_dose_is_not_given(result):
    where = result.dosed()
    assert float(mean_let(result.maps, result.structures, where).sel(structure="CTV").min()) > 10
    few = where & (where.cumsum("z").cumsum("y").cumsum("x") <= 1)
    assert np.isnan(mean_let(result.maps, result.structures, few)).all()
    drawn, given = result.histogram("let_d"), mean_let(result.maps, result.structures, where)
    np.testing.assert_array_equal(drawn.notnull().any("let_d").values, given.notnull().values)  # a curve for what has a mean
