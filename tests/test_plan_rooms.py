"""Reach maps, beam-angle sweeps and rooms: closed forms in water, and the planner's own verdict."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import synthetic_base, water_box

from ionrt.plan import FIXED_ROOM, GANTRY_1, Beam, Plan, Room, angle_sets, beam_set, influence, reach, sweep
from ionrt.plan.setup.beams import ReachError
from ionrt.plan.setup.room import REFERENCE_FACILITY
from ionrt.quantities import IonrtError

BASE = {"C": synthetic_base("C"), "Ne": synthetic_base("Ne")}
CARBON = {"C": BASE["C"]}


@pytest.fixture(scope="module")
def box():
    """Water, 200 (x) by 160 (y) by 80 (z) mm, with a sphere of 10 mm at x = 30, y = 20 mm."""
    return water_box((41, 81, 101), target_radius=10.0, target_at=(30.0, 20.0, 0.0))


def test_far_edge_of_a_sphere_in_water_is_a_distance(box):
    found = reach(box, "CTV", ions=("C",), spacing=2.0, gantry=(0.0, 90.0, 180.0, 270.0), base=CARBON)
    # faces lie half a voxel outside the outermost centres: x +-101, y +-81; the farthest voxel centre is 10 mm from the middle
    expected = {0.0: 81 + 20 + 10, 90.0: 101 - 30 + 10, 180.0: 81 - 20 + 10, 270.0: 101 + 30 + 10}
    for gantry, depth in expected.items():
        assert float(found["wepl_distal"].sel(gantry=gantry, couch=0)) == pytest.approx(depth, abs=0.2), gantry
        assert float(found["wepl_proximal"].sel(gantry=gantry, couch=0)) == pytest.approx(depth - 20, abs=0.2), gantry
    peak = float(BASE["C"]["depth"][BASE["C"]["dose"].isel(energy=-1).argmax("depth")])
    np.testing.assert_allclose(found["reach_margin"].sel(ion="C", couch=0), peak - found["wepl_distal"].sel(couch=0))
    assert found["reach_margin"].attrs["units"] == found["wepl_distal"].attrs["units"] == "mm"


def test_denser_material_is_deeper_in_proportion(box):
    dense = box.assign(spr=box["spr"] * 1.5)
    a, b = (reach(p, "CTV", ions=("C",), gantry=(40.0,), base=CARBON)["wepl_distal"] for p in (box, dense))
    np.testing.assert_allclose(b, 1.5 * a, rtol=1e-5)


def test_reach_says_what_the_planner_says(box):
    """Where the map is positive a plan is made, elsewhere the planner names the same missing depth."""
    short = Room("short", energies={"C": (80.0, 235.0)})
    found = reach(box, "CTV", ions=("C",), room=short, spacing=2.0, gantry=np.arange(0.0, 360.0, 45.0), base=CARBON)
    assert 0 < int(found["reaches"].sum()) < found["reaches"].size
    for gantry in found["gantry"].values:
        plan = Plan(Beam("C", gantry, room=short), "CTV", 2.0, model="constant", spacing=2.0, spot_spacing=10.0)
        here = found.sel(ion="C", gantry=gantry, couch=0)
        if bool(here["reaches"]):
            assert influence(box, plan, base=CARBON).n_spots > 0
            continue
        with pytest.raises(ReachError) as caught:
            influence(box, plan, base=CARBON)
        assert caught.value.missing_depth == pytest.approx(-float(here["reach_margin"]), abs=0.05)


def test_turning_the_couch_by_half_is_the_other_side(box):
    fixed = reach(box, "CTV", ions=("C",), room=FIXED_ROOM, couch=(0.0, 180.0), base=CARBON)
    gantry = reach(box, "CTV", ions=("C",), gantry=(90.0, 270.0), base=CARBON)
    np.testing.assert_allclose(fixed["wepl_distal"].values.ravel(), gantry["wepl_distal"].values.ravel(), atol=1e-6)


def test_where_the_ct_ends_the_depth_is_unknown(box):
    along = reach(box, "CTV", ions=("C",), room=FIXED_ROOM, couch=(0.0, 90.0), base=CARBON).sel(gantry=90, ion="C")
    assert along["cut_rays"].values.tolist() == [0.0, 1.0], "at 90 degrees the beam comes in through the last slice"
    assert np.isnan(along["reach_margin"].sel(couch=90)) and not bool(along["reaches"].sel(couch=90))


def test_angles_of_a_room():
    gantry, couch = GANTRY_1.angles(gantry_step=45.0)
    assert len(gantry) == 8 and couch == (0.0,)
    gantry, couch = FIXED_ROOM.angles(couch_step=90.0)
    assert gantry == (90.0,) and couch == (0.0, 90.0, 180.0, 270.0)
    assert GANTRY_1.offers(33.0, 7.0) and not FIXED_ROOM.offers(33.0, 0.0)


def test_the_map_is_empty_where_the_room_cannot_deliver(box):
    found = reach(box, "CTV", ions=("C",), room=FIXED_ROOM, gantry=(0.0, 90.0), couch=(0.0,), base=CARBON)
    assert np.isnan(found["wepl_distal"].sel(gantry=0.0, couch=0)) and np.isfinite(
        found["wepl_distal"].sel(gantry=90.0, couch=0)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "CTW"}, "'CTW' does not exist; there are 'CTV'"),
        ({"ions": ("Fe",)}, "ion in room 'gantry 1'"),
        ({"room": FIXED_ROOM, "gantry": (0.0,)}, "offers none of the 24 directions"),
        ({"gantry": ()}, "at least one gantry"),
        ({"base": {}}, "expected base data of 'C'"),
        ({"room": Room("low", energies={"C": (20.0, 30.0)})}, "base data of C cover"),
    ],
)
def test_bad_input_of_a_reach_map(box, change, message):
    settings = {"target": "CTV", "ions": ("C",), "base": CARBON, "spacing": 4.0} | change
    with pytest.raises(IonrtError, match=message):
        reach(box, settings.pop("target"), **settings)


@pytest.fixture(scope="module")
def swept(box):
    return sweep(box, "CTV", organs=["ORGAN"], ions=("C", "Ne"), gantry_step=15.0, spacing=2.0, base=BASE)


def direction(swept, room, gantry, couch=0.0):
    here = (swept["room"] == room) & (swept["gantry"] == gantry) & (swept["couch"] == couch)
    return swept.isel(direction=int(np.flatnonzero(here)[0]))


def test_gradient_at_a_flat_face_is_the_tangent(box):
    """Depth y / cos(a) below a flat face: tan(a) per mm sideways in the plane, nothing across; y tan(a) / cos(a) per radian."""
    wide = water_box((31, 41, 201), target_radius=8.0)
    found = sweep(wide, "CTV", organs=[], ions=("C",), gantry_step=15.0, spacing=2.0, base=CARBON)
    straight, oblique = (direction(found, "gantry 1", g) for g in (0.0, 45.0))
    assert float(straight["wepl_gradient"]) < 0.01
    assert float(oblique["wepl_gradient"]) == pytest.approx(np.tan(np.pi / 4) / np.sqrt(2.0), rel=0.02)
    mean_depth = float(oblique["wepl_distal"] + oblique["wepl_proximal"]) / 2.0
    per_degree = mean_depth * np.tan(np.pi / 4) * np.deg2rad(1.0) / np.sqrt(2.0)
    assert float(oblique["wepl_turn"]) == pytest.approx(per_degree, rel=0.1), "the far edge is 0-8 mm deeper than the middle"
    assert float(straight["wepl_turn"]) < 0.05


def test_an_organ_is_in_the_channel_from_its_own_side_only(box, swept):
    """The organ lies at 49 mm in x, 19 mm to the left of the target's middle, at the same height."""
    left, right, front = (direction(swept, "gantry 1", g) for g in (90.0, 270.0, 0.0))
    assert float(left["organ_channel"].sel(organ="ORGAN")) > 0.8 and float(left["organ_behind"].sel(organ="ORGAN")) == 0.0
    assert float(right["organ_channel"].sel(organ="ORGAN")) < 0.1 and float(right["organ_behind"].sel(organ="ORGAN")) > 0.3
    # from the front the channel (10 mm and a cell of 3 mm) takes a cap of about 4 mm off the organ: h^2 (3 r - h) / (4 r^3)
    assert float(front["organ_channel"].sel(organ="ORGAN")) == pytest.approx(16 * 26 / 4000, abs=0.03)


def test_range_error_and_score_are_what_they_say(swept):
    one = direction(swept, "gantry 1", 30.0)
    assert float(one["range_error"]) >= 0.025 * float(one["wepl_proximal"])
    attrs = swept["range_error"].attrs
    assert (attrs["range_share"], attrs["setup"], attrs["turn"], attrs["units"]) == (0.025, 2.0, 1.0, "mm")
    usable = np.isfinite(swept["direction_score"])
    reaches = (swept["reach_margin"].sel(ion="C") >= -1.0).values
    np.testing.assert_array_equal(usable.values, reaches)


def test_rooms_alike_are_looked_at_once(swept):
    assert set(swept["room"].values) == {"gantry 1", "fixed beam"} and len(REFERENCE_FACILITY) == 3
    sides = [direction(swept, "fixed beam", 90.0, c)["wepl_distal"] for c in (0.0, 180.0)]
    np.testing.assert_allclose(sides, [direction(swept, "gantry 1", g)["wepl_distal"] for g in (90.0, 270.0)], atol=1e-6)


def test_angle_sets_are_apart_and_in_order(swept):
    sets = angle_sets(swept, room="gantry 1", beams=2, separation=60.0, count=4)
    columns = ("gantry", "couch", "direction_score")
    score = {(g, c): s for g, c, s in zip(*(swept[k].values for k in columns), strict=True)}
    totals = [sum(score[a] for a in one) for one in sets]
    assert totals == sorted(totals) and len(sets) > 1
    for (g1, _), (g2, _) in sets:
        assert abs((g1 - g2 + 180.0) % 360.0 - 180.0) >= 60.0
    assert angle_sets(swept, room="fixed beam", beams=1)[0][0][0] == 90.0


def test_every_room_is_traced_from_its_own_sources(box):
    """A near source sees the side of the target farther away, through more of the patient."""
    rooms = [Room("far", (60.0,)), Room("near", (60.0,), source_distance=(700.0, 900.0))]
    settings = {"organs": ["ORGAN"], "ions": ("C",), "couch_step": 180.0, "spacing": 2.0, "base": CARBON}
    together = sweep(box, "CTV", rooms=rooms, **settings)
    for room in rooms:
        alone = sweep(box, "CTV", rooms=[room], **settings)
        here = together.isel(direction=np.flatnonzero(together["room"] == room.name))
        for name in alone.data_vars:
            np.testing.assert_array_equal(here[name], alone[name], err_msg=f"{room.name}: {name}")
        deepest = reach(box, "CTV", ions=("C",), room=room, couch=(0.0,), spacing=2.0, base=CARBON)["wepl_distal"]
        assert float(here["wepl_distal"].isel(direction=0)) == pytest.approx(deepest.item(), abs=1e-9)
    assert abs(np.subtract(*together["wepl_distal"].values[together["couch"] == 0.0])) > 0.05


def test_bad_input_of_sweep_and_sets(box, swept):
    with pytest.raises(IonrtError, match="room of the sweep: 'cellar' does not exist"):
        angle_sets(swept, room="cellar")
    with pytest.raises(IonrtError, match="directions of room 'fixed beam' reach"):
        angle_sets(swept, room="fixed beam", beams=40)
    with pytest.raises(IonrtError, match="structure: 'Orgam'"):
        sweep(box, "CTV", organs=["Orgam"], base=CARBON)
    with pytest.raises(IonrtError, match="importance: organ"):
        sweep(box, "CTV", organs=["ORGAN"], importance={"Organ": 1.0}, gantry_step=180.0, couch_step=180.0, base=CARBON)
    with pytest.raises(IonrtError, match="at least one room"):
        sweep(box, "CTV", organs=[], rooms=(), base=CARBON)


def test_beams_of_a_set():
    beams = beam_set(("C", "O"), (10.0, (350.0, 15.0)))
    assert [b.name for b in beams] == ["C gantry 10", "O gantry 10", "C gantry 350 couch 15", "O gantry 350 couch 15"]
    assert Plan(beams, "CTV", 2.0).ions == ("C", "O")


def test_rooms_that_conflict():
    with pytest.raises(IonrtError, match="beams disagree about room 'gantry 1'"):
        Plan((Beam("C", 0.0), Beam("C", 90.0, room=Room("gantry 1", optics_sigma=3.0))), "CTV", 2.0)
    with pytest.raises(IonrtError, match="beam C gantry 0 is there twice"):
        Plan((Beam("C", 0.0), Beam("C", 0.0)), "CTV", 2.0)
    with pytest.raises(IonrtError, match="fixed beam, gantry 1"):
        Plan((Beam("C", 0.0), Beam("C", 90.0, room=FIXED_ROOM)), "CTV", 2.0)


def test_a_map_on_a_cluster_is_the_same(box):
    """Tasks go to whichever dask scheduler is active."""
    import dask

    with dask.config.set(scheduler="synchronous"):
        alone = reach(box, "CTV", ions=("C",), gantry=(0.0, 45.0), base=CARBON)
    xr.testing.assert_identical(alone, reach(box, "CTV", ions=("C",), gantry=(0.0, 45.0), base=CARBON))
