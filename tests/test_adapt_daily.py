"""A day in the room: shifted profiles, frozen isocentres, set-up corrections, propagated contours, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import dask
import numpy as np
import pytest
import xarray as xr
from plan_fixtures import simple_plan, synthetic_base, water_box
from test_adapt_dicom import make_ct

from ionrt import evaluate, let_d, plan, rbe
from ionrt.adapt import accumulate, daily_field, decide, interplay, itv, measure, place, propagate, total
from ionrt.adapt.changes import anatomy_change, depth_table
from ionrt.adapt.daily import deliver
from ionrt.adapt.depth import depth_change
from ionrt.adapt.motion import Timing, phase_field
from ionrt.compare.cases import planned_maps
from ionrt.compare.guidance import PUBLISHED
from ionrt.patient import read_days, read_dicom, volumes
from ionrt.patient.geometry.margins import with_margin
from ionrt.patient.names import kinds_of
from ionrt.patient.phantom import add_ellipsoid, write_phantom
from ionrt.patient.registration import field_transform, matrix_transform
from ionrt.plan.setup.objectives import default_objectives
from ionrt.quantities import IonrtError

ASKED = {"models": ("constant",)}


def box(**more) -> xr.Dataset:
    """A water box with air around it, so that beams enter from outside."""
    out = water_box(**more)
    body = np.zeros(out["spr"].shape, np.float32)
    body[2:-2, 4:-4, 4:-4] = 1.0
    out["spr"] = out["spr"] * body
    out["structures"][2] = body
    return out


@pytest.fixture(scope="module")
def planned():
    """One beam from above (gantry 0, along +y) and its weights."""
    patient, wanted = box(), simple_plan()
    influence = plan.influence(patient, wanted, base={"C": synthetic_base()})
    return patient, influence, plan.optimise(patient, wanted, influence, iterations=30)


def test_the_same_ct_gives_the_same_bits(planned):
    patient, influence, weights = planned
    nominal, daily = plan.field(influence, weights, **ASKED), daily_field(influence, weights, patient, **ASKED)
    assert all(a.chunks is not None for a in daily.data_vars.values())
    for name, a in nominal.data_vars.items():
        np.testing.assert_array_equal(daily[name].compute().values, a.values)
        assert daily[name].attrs["units"] == a.attrs["units"]


def test_a_slab_of_water_shifts_the_profile(planned):
    """10 mm of water more on the way in: dose, LETd and RBE-weighted dose are those of 10 mm up the beam (along y)."""
    patient, influence, weights = planned
    day = patient.copy(deep=True)
    y = day["y"].values
    first = y[4]
    day["spr"][:, (y >= first) & (y < first + 9.9), 4:-4] = 2.0
    day["spr"][:2] = day["spr"][-2:] = 0.0
    change = depth_change(influence, patient, day)
    assert float(abs(change["wepl_change"] - 10.0).max()) < 0.2
    assert depth_table(change).loc["1 C gantry 0", "median [mm]"] == pytest.approx(10.0, abs=0.2)
    nominal, moved = (plan.field(influence, weights, **ASKED), daily_field(influence, weights, day, **ASKED).compute())
    for quantity in (lambda f: f["dose"], let_d, lambda f: rbe.constant(f, rbe=1.1)):
        reference = quantity(nominal).assign_coords(y=nominal["y"] - 10.0)
        inside = reference.sel(y=slice(first + 14.0, 40.0), x=slice(-14, 14), z=slice(-14, 14))
        index = evaluate.gamma(inside, quantity(moved), dose_percent=1.0, distance_mm=1.0)
        assert float(index.max()) <= 1.0


def test_the_depth_changes_on_the_way_of_the_beam_also_for_a_prone_patient():
    """Gantry 0 reaches who lies on the belly from the back: 10 mm more count there, and not on the far side."""
    patient, wanted = box(), simple_plan()
    wanted = replace(wanted, beams=tuple(replace(beam, position="HFP") for beam in wanted.beams))
    influence = plan.influence(patient, wanted, base={"C": synthetic_base()})
    y = patient["y"].values
    for rows, expected in ((slice(-9, -4), 10.0), (slice(4, 9), 0.0)):
        day = patient.copy(deep=True)
        day["spr"][:, rows, 4:-4] = 2.0
        assert y[1] - y[0] == 2.0
        assert float(abs(depth_change(influence, patient, day)["wepl_change"] - expected).max()) < 0.2


def test_isocentre_stays_where_it_was_planned(planned):
    """The target moves; the beam does not follow it."""
    _patient, influence, weights = planned
    day = box(target_at=(8.0, 0.0, 0.0))
    assert influence.plan.beams[0].isocentre is None
    moved = deliver(influence, day)
    assert moved.beams[0].isocentre == influence.beams[0].isocentre
    np.testing.assert_array_equal(
        plan.field(moved, weights, **ASKED)["dose"].values, plan.field(influence, weights, **ASKED)["dose"].values
    )


def test_translation_moves_coordinates_and_contours_exactly(tmp_path):
    from ionrt.patient import write_phantom

    for day in (0, 1):
        write_phantom(tmp_path / f"day{day}", pixel=8.0, slice_distance=8.0, day=day)
    days = read_days(tmp_path)
    assert list(days) == ["planning", "day 1"] and days["day 1"].attrs["date"] > days["planning"].attrs["date"]
    here = place(days["day 1"], days["planning"], correction=(4.0, -3.0, 6.0))
    np.testing.assert_array_equal(here["ct"].values, days["day 1"]["ct"].values)
    found = anatomy_change(days["planning"], here, structures=["CTV", "Bladder"])
    assert found["centroid [mm]"].max() < 0.3
    np.testing.assert_allclose(volumes(here).values, volumes(days["day 1"]).values, rtol=1e-6)
    assert here.attrs["frame_of_reference_uid"] == days["planning"].attrs["frame_of_reference_uid"]
    with pytest.raises(IonrtError, match=r"two frames of reference.*no registration"):
        place(days["day 1"], days["planning"])
    with pytest.raises(IonrtError, match="is the planning CT"):
        place(days["planning"], days["planning"])
    with pytest.raises(IonrtError, match=r"% of 'CTV' lies outside"):
        place(days["day 1"], days["planning"], correction=(0.0, 0.0, 90.0))
    with pytest.raises(IonrtError, match="moved as a whole"):
        u = np.zeros((3, 2, 2, 2))
        place(days["day 1"], days["planning"], correction=field_transform(u, dict.fromkeys("zyx", np.array([0.0, 50.0]))))


def test_a_rotation_is_resampled_and_says_what_it_has_not_seen():
    a = np.deg2rad(3.0)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    matrix[:3, 3] = 2.0, -1.0, 3.0
    day = box(target_at=(10.0, 5.0, 0.0))
    here = place(day, box(), correction=matrix_transform(matrix), calibrated=True)
    back = np.linalg.inv(matrix)
    expected = (back @ np.array([10.0, 5.0, 0.0, 1.0]))[:3]
    inside = here["structures"].sel(structure="CTV")
    got = [float((inside * here[d]).sum() / inside.sum()) for d in "xyz"]
    np.testing.assert_allclose(got, expected, atol=0.1)
    assert not here["seen"].all() and float(here["spr"].min()) >= 0.0


@pytest.mark.parametrize(("around", "noise"), [(-700.0, 30.0), (-90.0, 15.0)])
@pytest.mark.parametrize("radii", [(24.0, 18.0, 20.0), (22.0, 15.0, 17.0), (15.0, 12.0, 12.0)])
def test_a_propagated_contour_of_what_shrinks_says_how_much_of_it_is_other_tissue(around, noise, radii):
    """An ellipsoid in lung or fat of which the map, here the identity, finds no change: its volume is wrong, its HU tell."""
    before, on = (24.0, 18.0, 20.0), {d: 2.0 * np.arange(-20.0, 21.0) for d in "zyx"}
    rng, sides = np.random.default_rng(5), []
    for r in (before, radii):
        air = xr.Dataset({"ct": (("z", "y", "x"), np.zeros((41, 41, 41), np.float32), {"units": "HU"})}, coords=on)
        one = add_ellipsoid(air, "GTV", centre=(1.0, -2.0, 0.5), radii=r)
        inside = one["structures"].sel(structure="GTV")
        hu = around + (40.0 - around) * inside + rng.normal(0.0, noise, inside.shape)
        sides.append(one.assign(ct=hu.astype(np.float32).drop_vars("structure").assign_attrs(units="HU")))
    planning, day = sides
    bare = day.drop_dims("structure")
    found = anatomy_change(planning, propagate(planning, bare, matrix_transform(np.eye(4))), structures=["GTV"]).loc["GTV"]
    own = anatomy_change(planning, day, structures=["GTV"]).loc["GTV"]
    gone = 100.0 * (1.0 - np.prod(radii) / np.prod(before))
    assert found["volume [%]"] == pytest.approx(0.0, abs=0.1) and own["volume [%]"] == pytest.approx(-gone, abs=1.5)
    assert gone - 6.0 < found["other HU [%]"] < gone + 3.0  # at least: the rim of either is mixed
    assert own["other HU [%]"] < 12.0 and own["contour"] == "own"
    assert found["contour"] == f"propagated; at least {found['other HU [%]']:.0f} % of it shows other HU"


def test_a_turned_ct_without_noise_shows_no_other_tissue():
    """Interpolation between voxels of 40 HU gives 39.9999 HU: the same tissue."""
    on = {d: 2.0 * np.arange(-20.0, 21.0) for d in "zyx"}
    air = xr.Dataset({"ct": (("z", "y", "x"), np.zeros((41, 41, 41), np.float32), {"units": "HU"})}, coords=on)
    planning = add_ellipsoid(air, "GTV", centre=(0.0, 0.0, 0.0), radii=(24.0, 18.0, 20.0))
    planning["ct"] = planning["ct"] + 40.0
    day = planning.assign(ct=planning["ct"] - 1e-4)
    assert anatomy_change(planning, day, structures=["GTV"]).loc["GTV", "other HU [%]"] == 0.0


def test_structures_are_propagated_by_the_inverse():
    patient, day = box(), box().drop_vars("structures").drop_vars("structure")
    shift = np.eye(4)
    shift[:3, 3] = 4.0, -2.0, 2.0
    patient = patient.assign_coords(roi_type=("structure", ["CTV" if s == "CTV" else "" for s in patient["structure"].values]))
    found = propagate(patient, day, matrix_transform(shift), structures=["CTV"])
    assert kinds_of(found) == {"CTV": "CTV"}
    change = anatomy_change(patient, found, structures=["CTV"]).loc["CTV"]
    np.testing.assert_allclose([change[f"{k} [mm]"] for k in "xyz"], [4.0, -2.0, 2.0], atol=0.05)
    assert abs(change["volume [%]"]) < 0.1 and found.attrs["propagated"] == ("CTV",)


def test_a_ct_that_cuts_a_beam_is_refused(planned):
    patient, influence, weights = planned
    cut = patient.isel(y=slice(20, None))
    with pytest.raises(IonrtError, match="enter the daily CT within the patient"):
        daily_field(influence, weights, cut, **ASKED)["dose"].compute()


def test_a_ct_that_does_not_hold_the_target_is_refused(planned):
    """A cropped field of view, and a correction that is far off; the share is said."""
    patient, _, _ = planned
    day = patient.assign_attrs(content_hash="day")
    for image, way in ((day.isel(z=slice(0, day.sizes["z"] // 2)), (0.0, 0.0, 0.0)), (day, (0.0, 0.0, 60.0))):
        with pytest.raises(IonrtError, match=r"\d+ % of 'CTV' lies outside the daily CT"):
            place(image, patient, correction=way)


def test_no_outline_is_said_loudly(planned):
    patient, influence, _weights = planned
    with pytest.warns(UserWarning, match="no outline"):
        deliver(influence, patient.drop_vars("structures").drop_vars("structure"))


def test_other_patients_and_other_scanners_are_refused(tmp_path):
    make_ct(tmp_path / "a", day=0, frame="2.25.9")
    make_ct(tmp_path / "b", day=1, frame="2.25.9", patient="SYNTHETIC-2")
    a, b = read_dicom(tmp_path / "a"), read_dicom(tmp_path / "b")
    with pytest.raises(IonrtError, match="different patients"):
        place(b, a)
    with pytest.raises(IonrtError, match="belong to 2 patients"):
        read_days(tmp_path)
    import pydicom

    make_ct(tmp_path / "c", day=2, frame="2.25.9")
    for path in (tmp_path / "c").glob("*.dcm"):
        data = pydicom.dcmread(path)
        data.ManufacturerModelName = "On-Board Imager"
        data.save_as(path)
    c = read_dicom(tmp_path / "c")
    with pytest.raises(IonrtError, match=r"another scanner.*calibration"):
        place(c, a)
    assert place(c, a, calibrated=True).attrs["correction"] == "none"
    with pytest.raises(IonrtError, match="at least one more CT series"):
        read_days(tmp_path / "a")


def test_days_of_one_frame_get_their_own_structures_only(tmp_path):
    """The planning contours are not taken for the day's where both images have one frame of reference."""
    from ionrt.patient import write_phantom

    write_phantom(tmp_path / "plan", pixel=10.0, slice_distance=10.0)
    frame = read_dicom(tmp_path / "plan").attrs["frame_of_reference_uid"]
    make_ct(tmp_path / "day", day=7, frame=frame, patient="SYNTHETIC-PELVIS")
    days = read_days(tmp_path)
    assert "structure" in days["planning"].coords and "structure" not in days["day 1"].coords


def test_an_exchanged_planning_ct_shows_by_its_contours(tmp_path):
    """The dates of a copy may be wrong; a plan was drawn on the CT that has contours."""
    for k in range(2):
        write_phantom(tmp_path / f"day{k}", pixel=8.0, slice_distance=8.0, day=k)
    both = [tmp_path / "day0", tmp_path / "day1"]
    assert list(read_days(both)) == ["planning", "day 1"]
    (both[0] / "RS.dcm").unlink()
    with pytest.raises(IonrtError, match="exchanged"):
        read_days(both)
    chosen = read_dicom(both[1]).attrs["series_instance_uid"]
    found = read_days(both, planning=chosen)
    assert found["planning"].attrs["series_instance_uid"] == chosen and "structure" not in found["day 1"].coords


def test_ten_days_hold_the_memory_of_one_at_a_time(planned):
    """Lazy over days: each day is one block, and none is computed before it is asked for."""
    patient, influence, weights = planned
    nominal = plan.field(influence, weights, **ASKED)

    def refuse(*_, **__):
        raise AssertionError("computed before it was asked to")

    with dask.config.set(scheduler=refuse):
        fields = [daily_field(influence, weights, patient, **ASKED) for _ in range(10)]
        days = accumulate(fields, [matrix_transform(np.eye(4))] * 10, parts=[2] * 10, like=nominal)
    assert days["dose"].chunks[0] == (1,) * 10
    np.testing.assert_allclose(total(days)["dose"].values, 20.0 * nominal["dose"].values, rtol=1e-6)


def test_measures_and_the_pancreas_rule(planned):
    patient, influence, _ = planned
    same = measure(influence, patient, patient)
    assert same["centroid"] < 1e-6 and same["depth_95"] < 1e-6
    off = measure(influence, patient, box(target_at=(0.0, 6.0, 0.0)))
    assert off["centroid"] == pytest.approx(6.0, abs=0.1) and off["depth_median"] == pytest.approx(6.0, abs=0.3)
    shrunk = anatomy_change(patient, box(target_radius=12.0), structures=["CTV"]).loc["CTV", "volume [%]"]
    assert shrunk == pytest.approx(100.0 * ((12.0 / 15.0) ** 3 - 1.0), abs=1.5)


@pytest.fixture(scope="module")
def with_margin_planned():
    """The beam of `planned`, for the target and 3 mm around it."""
    patient = with_margin(box(), "CTV", margin=3.0, name="CTV + 3 mm")
    aims = default_objectives("CTV + 3 mm", 2.0, ["CTV", "CTV + 3 mm", "BODY"], organs=[])
    wanted = simple_plan(margin=8.0, objectives=aims)
    influence = plan.influence(patient, wanted, base={"C": synthetic_base()})
    return box(), influence, plan.optimise(patient, wanted, influence, iterations=60)


def of_a_day(planned, daily) -> dict[str, float]:
    """All measures of a day, with the dose computed on it."""
    patient, influence, weights = planned
    fields = plan.field(influence, weights, **ASKED), daily_field(influence, weights, daily, **ASKED).load()
    maps = [planned_maps(influence.plan, f) for f in fields]
    return measure(influence, patient, daily, planned=maps[0], field=maps[1])


def test_a_millimetre_goes_on_and_gas_with_a_moved_target_asks_for_a_new_plan(with_margin_planned):
    """The dose of each day is computed: 1 mm of shift, and a pancreas-like day, 5 mm of shift and 20 mm of gas on the way."""
    planned = with_margin_planned
    near = of_a_day(planned, box(target_at=(1.0, 0.0, 0.0)))
    assert near["centroid"] == pytest.approx(1.0, abs=0.05) and decide(near).attrs["decision"] == "continue"
    assert decide([near, near]).attrs["decision"] == "continue"
    day = box(target_at=(5.0, 0.0, 0.0))
    gas = (np.abs(day["x"]) < 30.0) & (day["y"] >= -40.0) & (day["y"] < -20.0)  # ten voxels
    day["spr"] = xr.where(gas, 0.001, day["spr"]).transpose("z", "y", "x").assign_attrs(day["spr"].attrs)
    far = of_a_day(planned, day)
    assert far["depth_median"] == pytest.approx(20.0, abs=1.0) and far["V95"] < 80.0
    assert decide(far).attrs["decision"] == "image again"  # one image asks for a second
    found = decide([far, far])
    assert found.attrs["decision"] == "replan" and any("V95" in r for r in found.attrs["reasons"])
    assert (found["source"] != "").all()
    assert near["gamma"] > 90.0 > far["gamma"], "the dose that reaches 20 mm too far is not found again"
    # change of V95 beside published patients: signs and order, sizes as they are (a box all behind the gas loses far more)
    matched = place(day, planned[0], correction=(5.0, 0.0, 0.0))
    whole = of_a_day(planned, planned[0])["V95"]
    again = with_margin(day, "CTV", margin=3.0, name="CTV + 3 mm")
    influence = plan.influence(again, planned[1].plan, base={"C": synthetic_base()})
    new = planned_maps(planned[1].plan, plan.field(influence, plan.optimise(again, planned[1].plan, influence), **ASKED))
    replanned = float(
        evaluate.statistics(new["rbe_dose"], day["structures"].sel(structure=["CTV"]), dose=(1.9,)).iloc[0]["V1.9"]
    )
    changes = {"bone match": far["V95"], "tumour match": of_a_day(planned, matched)["V95"], "replan": replanned}
    changes = {name: v95 - whole for name, v95 in changes.items()}
    published = {name: float(PUBLISHED[name].split()[0]) for name in changes}
    assert sorted(changes, key=changes.get) == sorted(published, key=published.get) == list(changes)
    assert abs(changes["replan"]) < 3.0 and changes["tumour match"] < published["tumour match"]


def test_phases_mix_within_a_fraction(planned):
    _patient, influence, weights = planned
    f = plan.field(influence, weights, **ASKED)
    still = matrix_transform(np.eye(4))
    for n in (1, 2, 3):
        mixed = phase_field([f] * n, [still] * n, like=f, shares=[1.0 / n] * n)
        np.testing.assert_allclose(mixed["dose"].values, f["dose"].values, rtol=1e-6)
    with pytest.raises(IonrtError, match="together 1"):
        phase_field([f], [still], like=f, shares=[0.5])
    other = f.assign(let_x_dose=f.let_x_dose.assign_attrs(let_definition="primary"))
    for wrong, match in ((other, "let_definition differs"), (f.drop_vars("let_x_dose"), "not all fields have let_x_dose")):
        with pytest.raises(IonrtError, match=match):
            phase_field([f, wrong], [still] * 2, like=f, shares=[0.5, 0.5])


def test_a_turned_day_and_an_itv_keep_what_structures_are():
    """An outline in any script is one by its type."""
    patient = box()
    kinds = {s: {"CTV": "CTV", "BODY": "EXTERNAL"}.get(s, "ORGAN") for s in patient["structure"].values}
    patient = patient.assign_coords(roi_type=("structure", list(kinds.values())))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.03), -np.sin(0.03)], [np.sin(0.03), np.cos(0.03)]]
    day = patient.assign_attrs(patient.attrs, content_hash="day")
    assert kinds_of(place(day, patient, correction=matrix_transform(turn), calibrated=True)) == kinds
    assert kinds_of(itv([patient, patient], "CTV")) == kinds | {"ITV": "CTV"}


def test_itv_covers_every_phase():
    phases = [box(target_at=(0.0, 0.0, dz)) for dz in (0.0, 6.0, -4.0)]
    found = itv(phases, "CTV")
    inside = found["structures"].sel(structure="ITV")
    assert all(float((inside - p["structures"].sel(structure="CTV")).min()) >= 0.0 for p in phases)
    assert float(volumes(found).sel(structure="ITV")) > float(volumes(found).sel(structure="CTV"))
    shift = np.eye(4)
    shift[2, 3] = 6.0
    moved = itv(phases[:2], "CTV", transforms=[matrix_transform(np.eye(4)), matrix_transform(shift)])
    np.testing.assert_allclose(
        moved["structures"].sel(structure="ITV").values,
        itv(phases[:2], "CTV")["structures"].sel(structure="ITV").values,
        atol=1e-6,
    )
    with pytest.raises(IonrtError, match="already"):
        itv(phases, "CTV", name="CTV")


def test_interplay_without_motion_is_the_plan_and_averages_out_with_it(planned):
    patient, influence, weights = planned
    f, still = plan.field(influence, weights, **ASKED), matrix_transform(np.eye(4))
    at_rest = interplay([influence] * 4, weights, [still] * 4, period=4.0, starts=[0.3], like=f, **ASKED)
    np.testing.assert_allclose(at_rest["dose"].values[0], f["dose"].values, rtol=1e-5, atol=1e-6)
    phases, ways = [], []
    for dx in (-4.0, 0.0, 4.0, 0.0):
        shift = np.eye(4)
        shift[0, 3] = dx
        ways.append(matrix_transform(shift))
        phases.append(deliver(influence, patient.assign_coords(x=patient["x"])))
    target = patient["structures"].sel(structure="CTV")

    def spread(**more):
        starts = np.random.default_rng(1).uniform(0.0, 4.0, 6)
        days = interplay(phases, weights, ways, period=4.0, starts=starts, timing=Timing(rate=2e8), like=f, **ASKED, **more)
        one, mean = days["dose"].values[0], days["dose"].values.mean(axis=0)
        inside = target.values >= 0.5
        return float(np.nanstd(one[inside])), float(np.nanstd(mean[inside]))

    single, averaged = spread()
    painted, _ = spread(rescans=6)
    assert averaged < single and painted < single


def test_delivery_takes_the_time_it_says(planned):
    _, influence, weights = planned
    timing = Timing(energy_switch=2.0, rate=1e8, travel=1e-3)
    once, often = timing.starts(influence, weights), timing.starts(influence, weights, rescans=3)
    energy = influence.spots()["energy"].values
    used = np.asarray(weights) > 0.0
    layers = len(np.unique(energy[used]))
    whole = float(np.asarray(weights).sum()) / 1e8 + used.sum() * 1e-3 + 2.0 * (layers - 1)
    last = once[0].argmax()
    assert once[0].max() + float(weights[last]) / 1e8 + 1e-3 == pytest.approx(whole, rel=1e-6)
    assert energy[once[0][used].argmin()] or once[0][used].min() == 0.0
    assert often.shape == (3, used.size) and (often[1][used] > often[0][used]).all()
    with pytest.raises(IonrtError, match="positive rate"):
        Timing(rate=0.0)
