"""The hash of inputs on a field changes with everything that the field depends on, and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, simple_plan, synthetic_base, water_box

from ionrt.let import let_d
from ionrt.plan import Beam, Scenario, field, influence
from ionrt.plan.fields import scenario_field

BOX = (15, 41, 15)
BASE = {"C": synthetic_base("C")}
SETTINGS = {"target_radius": 8.0}


@pytest.fixture(scope="module")
def patient():
    return water_box(BOX, **SETTINGS)


@pytest.fixture(scope="module")
def made(patient):
    return influence(patient, simple_plan(), base=BASE)


def inputs(found: xr.Dataset) -> str:
    stamped = {found.attrs["inputs_hash"], *(v.attrs["inputs_hash"] for v in found.data_vars.values())}
    assert len(stamped) == 1
    return stamped.pop()


def of(made, *, weight: float = 1e6, **settings) -> str:
    return inputs(field(made, np.full(made.n_spots, weight), **{"models": ("constant",), **settings}))


def test_same_inputs_have_the_same_hash(patient, made):
    again = influence(patient.copy(deep=True), simple_plan(), base={"C": BASE["C"].copy(deep=True)})
    assert of(again) == of(made)
    of_another_purpose = replace(made, plan=replace(made.plan, prescription=3.0))
    assert of(of_another_purpose) == of(made)


def test_base_data_are_known_by_their_values(patient, made):
    brighter = BASE["C"].assign(dose=1.1 * BASE["C"]["dose"])
    assert brighter.attrs == BASE["C"].attrs  # an attribute says nothing about the values
    other_let = BASE["C"].assign(let_d=1.1 * BASE["C"]["let_d"])
    wider = BASE["C"].assign(halo_sigma=1.1 * BASE["C"]["halo_sigma"])
    made_of = [influence(patient, simple_plan(), base={"C": b}) for b in (BASE["C"].drop_attrs(), brighter, other_let, wider)]
    assert made_of[0].attrs["base"] == made.attrs["base"]
    assert len({i.attrs["base"] for i in made_of}) == 4
    assert len({of(i) for i in made_of}) == 4
    got, expected = (field(i, np.full(i.n_spots, 1e6), models=("constant",))["dose"] for i in (made_of[1], made))
    np.testing.assert_allclose(got, 1.1 * expected, rtol=1e-4)


def test_stored_blocks_are_not_those_of_changed_base_data(patient, made, tmp_path):
    influence(patient, simple_plan(), base=BASE, store=tmp_path)
    brighter = BASE["C"].assign(dose=1.1 * BASE["C"]["dose"])
    stored = influence(patient, simple_plan(), base={"C": brighter}, store=tmp_path)
    got, expected = (field(i, np.full(i.n_spots, 1e6), models=("constant",))["dose"] for i in (stored, made))
    np.testing.assert_allclose(got, 1.1 * expected, rtol=1e-4)


def test_hash_changes_with_every_input(patient, made):
    plan, denser = simple_plan(), patient.assign(spr=1.01 * patient["spr"])
    moved = water_box(BOX, origin=(-14.0, -40.0, -12.0), **SETTINGS)
    coarse = water_box((8, 21, 8), (4.0, 4.0, 4.0), **SETTINGS)
    isocentre = (0.0, 0.0, 0.0)

    def beam(**changed):
        return replace(plan, beams=(replace(Beam("C", 0.0, isocentre=isocentre, room=POINT_ROOM), **changed),))

    near = replace(POINT_ROOM, source_distance=(3000.0, 6500.0))
    spots = made.spots()
    plans = {
        "isocentre": beam(),
        "gantry": beam(gantry=1.0),
        "couch": beam(couch=1.0),
        "shifter": beam(range_shifter=3.0),
        "source": beam(room=near),
        "optics": beam(room=replace(POINT_ROOM, optics_sigma=2.5)),
        "cut-off": replace(plan, lateral_loss=0.004),
        "spots": replace(plan, margin=2.0),
    }
    hashes = {name: of(influence(patient, p, base=BASE)) for name, p in plans.items()}
    shifts = (Scenario(0.025), Scenario(0.0251), Scenario(setup=(0.0, 0.0, 2.0)))
    hashes |= {repr(s): of(influence(patient, plan, base=BASE, scenario=s)) for s in shifts}
    hashes |= {
        "nominal": of(made),
        "density": of(influence(denser, plan, base=BASE)),
        "place": of(influence(moved, plan, base=BASE)),
        "grid": of(influence(coarse, replace(plan, spacing=4.0), base=BASE)),
        "kernel": of(influence(patient, plan, base=BASE, kernel="point")),
        "given": of(influence(patient, plan, base=BASE, spots=spots.assign_coords(u=spots["u"] + 0.5))),
        "weights": of(made, weight=2e6),
        "LET": of(made, let_definition="primary"),
        "by": of(made, by="beam"),
    }
    assert len(set(hashes.values())) == len(hashes)
    weights = np.full(made.n_spots, 1e6)
    for definition, words in (("primary", "weighted with the dose of all particles"), ("charged", "")):
        found = field(made, weights, models=("constant",), let_definition=definition)
        assert words in let_d(found).attrs.get("assumed", "") and bool(words) == ("assumed" in found.let_x_dose.attrs)
    asked = {"models": ("wedenberg",), "parameters": {"wedenberg": {"alpha_beta": 3.0}}}
    assert of(made, **asked) == of(made)  # LET x dose is there anyway


def test_scenarios_are_inputs(patient, made):
    weights = np.full(made.n_spots, 1e6)
    sets = [(Scenario(),), (Scenario(0.025),), (Scenario(0.025004),), (Scenario(setup=(1.0, 0.0, 0.0)),)]
    found = [scenario_field(patient, made, weights, s, models=("constant",)) for s in sets]
    found.append(scenario_field(patient, made, weights, sets[0], models=("constant",), within=("CTV",)))
    assert len({inputs(f) for f in found}) == len(found)
