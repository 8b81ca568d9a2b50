"""Several ions in one plan: parts and whole, one ion alone, LETd pushed up in the GTV, mixing against alternating."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, synthetic_base, water_box

from ionrt import let_d, rbe
from ionrt.plan import (
    Plan,
    Scenario,
    SquaredDeviation,
    SquaredOverdose,
    SquaredUnderdose,
    beam_set,
    field,
    influence,
    ion_share,
    optimise,
)
from ionrt.plan.mixture import course, join_influences, spot_table
from ionrt.quantities import IonrtError, stamp
from ionrt.rbe import MODELS, add_fractions
from ionrt.rbe.isoeffect import bed

BASE = {"C": synthetic_base("C"), "O": synthetic_base("O", energies=np.linspace(100.0, 400.0, 51))}
MODEL = {"model": "linear", "parameters": {"slope": 0.04}, "target": "CTV", "prescription": 3.0, "spacing": 3.0}
OBJECTIVES = (
    SquaredDeviation("CTV", weight=100.0, level=3.0),
    SquaredUnderdose("CTV", weight=300.0, level=3.0),
    SquaredOverdose("BODY", weight=1000.0, level=3.0),
)


def made(*args, **more) -> xr.Dataset:
    """The field with the moments of the linear model."""
    return field(*args, models=("linear",), parameters={"linear": MODEL["parameters"]}, **more)


@pytest.fixture(scope="module")
def patient():
    return water_box((21, 51, 31), (3.0, 3.0, 3.0), target_radius=12.0)


@pytest.fixture(scope="module")
def mixed(patient):
    assert "linear" in MODELS
    plan = Plan(beam_set(("C", "O"), (0.0, 90.0), room=POINT_ROOM), objectives=OBJECTIVES, **MODEL)
    got = influence(patient, plan, base=BASE)
    return plan, got, optimise(patient, plan, got, iterations=40)


def test_ions_of_a_field_add_up_to_the_plan(mixed):
    _, got, weights = mixed
    parts, whole = made(got, weights, by="ion"), made(got, weights)
    assert parts["dose"].dims == ("ion", "z", "y", "x") and set(parts["ion"].values) == {"C", "O"}
    for name in ("dose", "let_x_dose"):
        np.testing.assert_allclose(parts[name].sum("ion"), whole[name], rtol=1e-5, atol=1e-6)
    by_beam = made(got, weights, by="beam")
    np.testing.assert_allclose(by_beam["dose"].sum("beam"), whole["dose"], rtol=1e-5, atol=1e-6)


def test_all_but_one_ion_off_is_that_ions_plan(patient, mixed):
    """The carbon columns of a mixed plan are those of a plan that never heard of oxygen."""
    plan, got, weights = mixed
    alone = replace(plan, beams=tuple(b for b in plan.beams if b.ion == "C"))
    single = influence(patient, alone, base=BASE)
    carbon, oxygen = (weights.where(weights["ion"] == i, 0.0) for i in ("C", "O"))
    own = weights.values[weights["ion"].values == "C"]
    for name, da in made(single, own).items():
        np.testing.assert_allclose(made(got, carbon)[name], da, rtol=1e-6, atol=1e-8)
    both = made(got, carbon) + made(got, oxygen)
    np.testing.assert_allclose(both["dose"], made(got, weights)["dose"], rtol=1e-5, atol=1e-6)


def test_joined_influences_are_the_plans_own(patient, mixed):
    plan, got, weights = mixed
    parts = [influence(patient, replace(plan, beams=tuple(b for b in plan.beams if b.ion == i)), base=BASE) for i in "OC"]
    joined = join_influences(plan, parts)
    assert joined.n_spots == got.n_spots and [b.beam for b in joined.beams] == list(plan.beams)
    xr.testing.assert_equal(made(joined, weights)["dose"], made(got, weights)["dose"])
    again = optimise(patient, plan, joined, iterations=5)
    np.testing.assert_allclose(again, optimise(patient, plan, got, iterations=5))
    fewer = join_influences(replace(plan, beams=plan.beams[:1]), [joined])
    assert fewer.beams[0] is joined.beams[0] and set(fewer.base) == {"C"}


def test_parts_of_other_base_data_or_scenarios_do_not_join(patient, mixed):
    """Equal tables in another object are the same base data; another LET alone is not."""
    plan = mixed[0]
    one, other = (replace(plan, beams=tuple(b for b in plan.beams if b.ion == i)) for i in "CO")
    part = influence(patient, one, base=BASE)
    first, second = (replace(plan, beams=(b,)) for b in one.beams)
    a, b = (replace(part, plan=p, beams=(beam,)) for p, beam in zip((first, second), part.beams, strict=True))
    assert join_influences(one, [a, replace(b, base={"C": BASE["C"].copy(deep=True)})]).n_spots == part.n_spots
    richer = {name: da * 1.1 for name, da in BASE["C"].data_vars.items() if "let" in str(name)}
    assert richer
    with pytest.raises(IonrtError, match="different base data of C"):
        join_influences(one, [a, replace(b, base={"C": BASE["C"].assign(richer)})])
    short = influence(patient, other, base=BASE, scenario=Scenario(-0.03))
    assert join_influences(other, [short]).attrs["scenario"] == "range -3 %"
    with pytest.raises(IonrtError, match="different scenarios, 'nominal' and 'range -3 %'"):
        join_influences(plan, [part, short])


def test_two_ions_reach_a_higher_let_at_the_same_dose(patient, mixed):
    """Minimum LETd in the target: more freedom cannot be worse at equal objectives, and here oxygen carries it."""
    plan, got, _ = mixed
    wanted = (*OBJECTIVES, SquaredUnderdose("CTV", weight=1.0, quantity="let_d", level=30.0))
    inside = patient["structures"].sel(structure="CTV").values > 0.5
    found, value = {}, {}
    for name, ions in {"C": ("C",), "C+O": ("C", "O")}.items():
        one = replace(plan, beams=tuple(b for b in plan.beams if b.ion in ions), objectives=wanted)
        weights = optimise(patient, one, join_influences(one, [got]), iterations=80)
        total = made(join_influences(one, [got]), weights)
        found[name], value[name] = let_d(total).values[inside], weights.attrs["objective"]
        dose = (total["dose"] + 0.04 * total["let_x_dose"]).values[inside]  # the model, 1 + slope LETd, by hand
        assert np.percentile(dose, 5) > 0.93 * 3.0
    assert value["C+O"] < value["C"]
    assert np.percentile(found["C+O"], 2) > np.percentile(found["C"], 2) + 3.0


def test_shares_of_the_ions(mixed):
    _, got, weights = mixed
    parts = made(got, weights, by="ion")
    share = ion_share(parts)
    total = share.sum("ion")
    dosed = (parts["dose"].sum("ion") > 0.02 * parts["dose"].sum("ion").max()).values
    np.testing.assert_allclose(total.values[dosed], 1.0, rtol=1e-5)
    assert np.isnan(share.values[:, ~dosed]).all() and share.attrs["units"] == "1" and share.attrs["of"] == "dose"
    by_let = ion_share(parts, quantity="let_x_dose")
    richer = (by_let - share).sel(ion="O").values[dosed]
    assert np.nanmin(richer) > -1e-6 and by_let.attrs["let_definition"] == "charged", "oxygen's LET is the higher one"


def test_spots_per_ion(mixed):
    _, got, weights = mixed
    table = spot_table(weights)
    assert list(table["ion"]) == ["C", "O", "C", "O"] and table["spots"].sum() == got.n_spots
    assert table["particles"].sum() == pytest.approx(float(weights.sum()))
    assert (table["in use"] <= table["spots"]).all() and (table["highest [MeV/u]"] > table["lowest [MeV/u]"]).all()
    twice = spot_table(weights.assign_coords(beam=("spot", np.full(weights.size, "front"))))
    assert list(twice.index) == ["1 front", "2 front", "3 front", "4 front"]
    np.testing.assert_array_equal(twice.values[:, 1:], table.values[:, 1:])


def nirs_field(dose, zstar):
    """A field by hand: dose Gy and dose-mean z* Gy in one voxel."""
    grid = {"z": [0.0], "y": [0.0], "x": [0.0]}
    values = {"dose": dose, "zstar_x_dose": dose * zstar}
    return xr.Dataset({n: stamp(xr.DataArray(np.full((1, 1, 1), v), coords=grid, dims=("z", "y", "x")), n,
                                parameter_set=None if n == "dose" else "mkm_nirs") for n, v in values.items()})  # fmt: skip


def test_fractions_add_effect_and_ions_within_a_fraction_mix():
    """Alternating carbon and oxygen adds the effects of two fractions; mixing halves of both gives the mean quality instead."""
    carbon, oxygen = nirs_field(1.0, 8.0), nirs_field(1.0, 16.0)
    apart = rbe.nirs_mkm(course([carbon, oxygen], parts=(4, 4)))
    assert apart.sizes["fraction"] == 2 and apart["fractions"].values.tolist() == [4, 4]
    by_hand = sum(bed(rbe.nirs_mkm(f), fractions=4, alpha_beta=3.8).drop_attrs() for f in (carbon, oxygen))
    total = add_fractions(apart, alpha_beta=3.8)
    np.testing.assert_allclose(total, by_hand, rtol=1e-6)
    assert total.attrs["units"] == "Gy" and total.attrs["fractions"] == 8
    half = course([(carbon + oxygen) / 2], parts=(8,))
    for name in half.data_vars:  # arithmetic has dropped what the moments carry
        half[name].attrs = dict(carbon[name].attrs)
    mixed = add_fractions(rbe.nirs_mkm(half), alpha_beta=3.8)
    assert float(mixed.squeeze()) != pytest.approx(float(total.squeeze()), rel=1e-6)
    assert float(mixed.squeeze()) == pytest.approx(float(total.squeeze()), rel=0.1)


def test_a_course_keeps_what_its_fields_state(mixed):
    """Ions, so that models fitted to others refuse them; LET thresholds; the same variables in all."""
    _, got, weights = mixed
    both = made(got, weights)

    def above(threshold):
        part = stamp(0.5 * both["dose"], "high_let_dose", let_definition="charged", let_threshold=threshold)
        return both.assign(high_let_dose=part)

    joined = course([above(50.0).assign_attrs(ion="C"), above(50.0)], parts=(2, 3))
    assert joined.attrs["ion"] == "C, O" and joined["dose"].attrs["ion"] == "C, O"
    assert joined["high_let_dose"].attrs["let_threshold"] == 50.0
    with pytest.raises(IonrtError, match="the field holds 'C'"):
        rbe.wedenberg(joined, alpha_beta=2.0)
    with pytest.raises(IonrtError, match="let_threshold differs"):
        course([above(50.0), above(100.0)], parts=(2, 3))
    with pytest.raises(IonrtError, match="not all fields have high_let_dose"):
        course([above(50.0), both], parts=(2, 3))


def test_a_course_of_equal_fractions_is_the_ordinary_one():
    one = rbe.nirs_mkm(nirs_field(1.2, 9.0))
    same = rbe.nirs_mkm(course([nirs_field(1.2, 9.0)] * 2, parts=(3, 5)))
    np.testing.assert_allclose(add_fractions(same, alpha_beta=3.0), bed(one, fractions=8, alpha_beta=3.0), rtol=1e-6)
    eqd = add_fractions(same, alpha_beta=3.0, fraction_size=2.0)
    np.testing.assert_allclose(eqd, rbe.eqd2(one, fractions=8, alpha_beta=3.0), rtol=1e-6)
    assert eqd.name == "eqd"


def test_bad_input(mixed):
    plan, got, weights = mixed
    with pytest.raises(IonrtError, match="no part has the beam C gantry 45"):
        join_influences(replace(plan, beams=beam_set("C", (45.0,), room=POINT_ROOM)), [got])
    with pytest.raises(IonrtError, match="another margin"):
        join_influences(replace(plan, margin=2.0), [got])
    with pytest.raises(IonrtError, match="at least one influence"):
        join_influences(plan, [])
    with pytest.raises(IonrtError, match="'let_d' is not an additive quantity"):
        ion_share(made(got, weights, by="ion"), quantity="let_d")
    with pytest.raises(IonrtError, match="'ion' is missing"):
        ion_share(made(got, weights))
    one = nirs_field(1.0, 8.0)
    with pytest.raises(IonrtError, match="one count per field"):
        course([one], parts=(1, 2))
    with pytest.raises(IonrtError, match="whole numbers of fractions"):
        course([one], parts=(0,))
    with pytest.raises(IonrtError, match="'fraction' is missing"):
        add_fractions(rbe.nirs_mkm(one), alpha_beta=3.0)
    with pytest.raises(IonrtError, match="fraction_size"):
        add_fractions(rbe.nirs_mkm(course([one], parts=(1,))), alpha_beta=3.0, fraction_size=0.0)
