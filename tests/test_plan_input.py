"""Bad input of the planning room: one clear error each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, simple_plan, synthetic_base, water_box

from ionrt.plan import (
    FIXED_ROOM,
    GANTRY_1,
    GEUD,
    Beam,
    DoseVolume,
    MeanDose,
    Plan,
    Room,
    SquaredDeviation,
    field,
    influence,
    optimise,
)
from ionrt.plan.setup.beams import ReachError
from ionrt.plan.setup.objectives import default_objectives
from ionrt.plan.setup.raytrace import wepl
from ionrt.plan.setup.room import GANTRY_2, REFERENCE_FACILITY
from ionrt.quantities import IonrtError

BASE = {"C": synthetic_base("C")}
BEAM = Beam("C", 0.0, room=POINT_ROOM)


@pytest.fixture(scope="module")
def small():
    patient, plan = water_box((15, 41, 15), target_radius=8.0), simple_plan()
    return patient, plan, influence(patient, plan, base=BASE)


@pytest.mark.parametrize("prescription", [0.0, -2.0, float("nan")])
def test_prescription_must_be_positive(prescription):
    with pytest.raises(IonrtError, match="positive prescription"):
        Plan((BEAM,), "CTV", prescription)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beams": ()}, "at least one ionrt.Beam"),
        ({"fractions": 0}, "whole number of fractions"),
        ({"spacing": 0.0}, "grid spacing"),
        ({"spacing": (3.0, 3.0)}, "grid spacing"),
        ({"margin": -1.0}, "margin"),
        ({"spot_spacing": 0.0}, "spot spacing"),
        ({"lateral_loss": 0.5}, "lateral loss"),
        ({"objectives": ()}, "empty list of objectives"),
    ],
)
def test_plan_says_what_it_expects(change, message):
    with pytest.raises(IonrtError, match=message):
        replace(simple_plan(), **change)


def test_beams_of_one_plan_share_a_room():
    with pytest.raises(IonrtError, match="gantry 1, gantry 2"):
        Plan((Beam("C", 0.0, room=GANTRY_1), Beam("C", 90.0, room=GANTRY_2)), "CTV", 2.0)


def test_fixed_room_refuses_other_angles_and_takes_its_own():
    assert Beam("C", 450.0, room=FIXED_ROOM).room in REFERENCE_FACILITY
    with pytest.raises(IonrtError, match="cannot deliver gantry 30 degrees; it offers 90"):
        Beam("C", 30.0, room=FIXED_ROOM)


def test_unknown_ion_and_an_ion_the_room_lacks():
    with pytest.raises(IonrtError, match="'Fe' does not exist"):
        Beam("Fe", 0.0)
    with pytest.raises(IonrtError, match="'C' does not exist; there are 'p'"):
        Beam("C", 0.0, room=Room("protons", energies={"p": (70.0, 230.0)}))


@pytest.mark.parametrize("change", [{"gantry": float("nan")}, {"isocentre": (0.0, 0.0)}, {"range_shifter": -1.0}])
def test_beam_geometry_must_be_finite(change):
    with pytest.raises(IonrtError, match="beam: expected"):
        replace(BEAM, **change)


@pytest.mark.parametrize(
    "change", [{"energies": {"C": (300.0, 100.0)}}, {"source_distance": (0.0, 0.0)}, {"optics_sigma": 0.0}]
)
def test_rooms_are_checked(change):
    with pytest.raises(IonrtError, match="room 'x'"):
        Room("x", **change)


def test_reach_error_names_the_missing_depth():
    patient = water_box((15, 101, 15), (2.0, 3.0, 2.0), target_radius=10.0, target_at=(0.0, 130.0, 0.0))
    weak = BASE["C"].sel(energy=slice(80.0, 200.0))
    with pytest.raises(ReachError, match="mm are missing") as caught:
        influence(patient, simple_plan(spacing=(2.0, 3.0, 2.0)), base={"C": weak})
    # the surface is at y = -151.5 mm, the deepest voxel centres of the target at y = 138 mm
    assert caught.value.missing_depth == pytest.approx(289.5 - _peak(weak), abs=0.1)
    assert isinstance(caught.value, IonrtError)


def _peak(base) -> float:
    return float(base["depth"][base["dose"].isel(energy=-1).argmax("depth")])


def test_beam_that_misses_the_patient():
    patient = water_box((15, 41, 15), target_radius=8.0)
    patient["spr"] = patient["spr"] * 0.0
    with pytest.raises(IonrtError, match="misses the patient"):
        influence(patient, simple_plan(), base=BASE)


def test_target_that_does_not_exist_is_empty_or_not_finite(small):
    patient, plan, _ = small
    with pytest.raises(IonrtError, match="'PTV' does not exist; there are 'CTV'"):
        influence(patient, replace(plan, target="PTV"), base=BASE)
    empty = patient.assign(structures=patient["structures"] * 0.0)
    with pytest.raises(IonrtError, match="empty on the dose grid"):
        influence(empty, plan, base=BASE)
    with pytest.raises(IonrtError, match="not finite"):
        influence(patient.assign(spr=patient["spr"] * np.nan), plan, base=BASE)


def test_an_empty_structure_is_no_aim_by_default_and_refused_where_it_is_asked_for(small):
    patient, plan, dij = small
    empty = (patient["structures"].isel(structure=[0]) * 0.0).assign_coords(structure=["drawn nowhere"])
    wider = patient.drop_dims("structure").assign(structures=xr.concat([patient["structures"], empty], "structure"))
    np.testing.assert_array_equal(optimise(wider, plan, dij), optimise(patient, plan, dij))
    asked = (SquaredDeviation("CTV", level=plan.prescription), MeanDose("drawn nowhere"))
    with pytest.raises(IonrtError, match="'drawn nowhere': the structure is empty"):
        optimise(wider, replace(plan, objectives=asked), dij)


def test_base_data_must_fit_the_contract(small):
    patient, plan, _ = small
    for change, message in (
        (BASE["C"].drop_vars("sigma"), "'sigma' is missing"),
        (BASE["C"].assign(dose=BASE["C"]["dose"] * np.nan), "not finite"),
        (BASE["C"].assign(dose=-BASE["C"]["dose"]), "dose has negative values"),
        (BASE["C"].assign(halo_weight=BASE["C"]["halo_weight"] - 1.0), "halo_weight has negative values"),
        (BASE["C"].isel(energy=slice(None, None, -1)), "must ascend"),
        (BASE["C"].assign_attrs(ion="O"), "expected those of C, got those of O"),
        (BASE["C"].assign_coords(energy=BASE["C"]["energy"] / 100.0), "give base data for the room's energies"),
        (BASE["C"].isel(depth=slice(1, None)), "must start at 0"),
    ):
        with pytest.raises(IonrtError, match=message):
            influence(patient, plan, base={"C": change})
    with pytest.raises(IonrtError, match="expected base data of 'C'"):
        influence(patient, plan, base={"O": BASE["C"]})


def test_weights_must_be_those_of_the_plan(small):
    _, _, got = small
    for weights in (np.ones(3), np.full(got.n_spots, -1.0), np.full(got.n_spots, np.nan)):
        with pytest.raises(IonrtError, match="weights"):
            field(got, weights, models=("constant",))
    with pytest.raises(IonrtError, match="'mkm' does not exist"):
        field(got, np.ones(got.n_spots), models=("mkm",))


def test_two_parameter_sets_for_one_moment_are_refused(small):
    _, _, got = small
    with pytest.raises(IonrtError, match="zstar_x_dose"):
        field(got, np.ones(got.n_spots), models=("nirs_mkm", "smk"))


def test_objectives_are_checked(small):
    patient, plan, got = small
    with pytest.raises(IonrtError, match="'LIVER' does not exist"):
        optimise(patient, replace(plan, objectives=(MeanDose("LIVER"),)), got)
    with pytest.raises(IonrtError, match="'effect' does not exist"):
        MeanDose("CTV", quantity="effect")
    with pytest.raises(IonrtError, match="positive weight"):
        SquaredDeviation("CTV", weight=0.0)
    with pytest.raises(IonrtError, match="level >= 0"):
        SquaredDeviation("CTV", level=-1.0)
    with pytest.raises(IonrtError, match="exponent"):
        GEUD("CTV", exponent=0.0)
    with pytest.raises(IonrtError, match="volume fraction"):
        DoseVolume("CTV", volume=1.5)
    with pytest.raises(IonrtError, match="target: 'GTV' does not exist"):
        default_objectives("GTV", 2.0, ["CTV"])


def test_another_grid_is_refused(small):
    patient, plan, got = small
    moved = patient.assign_coords(x=patient["x"] + 1.0)
    with pytest.raises(IonrtError, match="x\\[0\\] is"):
        optimise(moved, plan, got)


def test_grids_must_be_uniform():
    spr = water_box((5, 5, 5))["spr"]
    crooked = spr.assign_coords(x=[0.0, 2.0, 4.0, 6.0, 9.0])
    with pytest.raises(IonrtError, match="uniform steps"):
        wepl(crooked, gantry=0.0, isocentre=(0.0, 0.0, 0.0))
