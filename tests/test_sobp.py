"""Spread-out Bragg peaks: flat where they should be, conserved energy, moments that are those of their parts."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ionrt import let, rbe, sobp
from ionrt.quantities import IonrtError

INTERVAL = (60.0, 90.0)


@pytest.fixture(scope="module")
def base():
    return sobp.layers("C", interval=INTERVAL, step=3.0, progress=False)


def inside(da):
    return da.sel(depth=slice(*INTERVAL)).values


def test_physical_dose_is_flat(base):
    weights = sobp.fluence(base, interval=INTERVAL, prescription=2.0)
    dose = inside(sobp.depth_field(base, weights).dose)
    assert np.abs(dose / 2.0 - 1.0).max() < 0.02
    assert weights.attrs["units"] == "1/mm2" and (weights.values >= 0).all()


@pytest.mark.parametrize("model", ["nirs_mkm", "lem1", "smk"])
def test_rbe_weighted_dose_is_flat_and_physical_dose_falls(base, model):
    weights = sobp.fluence(base, interval=INTERVAL, prescription=3.6, model=model)
    field = sobp.depth_field(base, weights, model=model)
    assert np.abs(inside(rbe.apply_model(field, model)) / 3.6 - 1.0).max() < 0.03
    assert weights.attrs["worst"] < 0.03
    dose = inside(field.dose)
    assert dose[-4] < 0.85 * dose[3]  # carbon RBE rises with depth


def test_weights_of_flat_dose_grow_with_depth_as_theory_says(base):
    """Bortfeld and Schlegel 1996 (doi 10.1088/0031-9155/41/8/006): the deepest energy has by far the largest weight."""
    w = sobp.fluence(base, interval=INTERVAL, prescription=1.0).values
    assert w.argmax() == w.size - 1 and (np.diff(w[:-1]) > 0).mean() > 0.8


def test_energy_is_conserved(base):
    """Energy deposited per area is at most what the ions bring, and most of it."""
    weights = sobp.fluence(base, interval=INTERVAL, prescription=1.0)
    field = sobp.depth_field(base, weights)
    deposited = float(field.dose.integrate("depth")) * 1e-6  # J/mm2: Gy mm times 1e-6 kg/mm3
    brought = float((weights * weights.energy).sum()) * 12 * 1.602176634e-13  # J/mm2
    assert 0.80 < deposited / brought < 1.0


def test_moments_are_dose_weighted_means_of_single_energies(base):
    weights = sobp.fluence(base, interval=INTERVAL, prescription=1.0)
    whole = sobp.depth_field(base, weights, model="nirs_mkm", moments=("let_x_dose",))
    parts = [
        sobp.depth_field(base, weights * (base.energy == e), model="nirs_mkm", moments=("let_x_dose",)) for e in base.energy
    ]
    total = sum(xr.Dataset({n: p[n] for n in whole.data_vars}) for p in parts)
    for name in whole.data_vars:
        np.testing.assert_allclose(total[name].values, whole[name].values, rtol=1e-10)
    single = parts[3]
    table = base.let_d.sel(let_definition="charged").isel(energy=3)
    np.testing.assert_allclose(let.let_d(single).sel(depth=50).values, table.sel(depth=50).values, rtol=1e-5)


def test_let_definition_travels(base):
    weights = sobp.fluence(base, interval=INTERVAL, prescription=1.0)
    field = sobp.depth_field(base, weights, moments=("let_x_dose",), let_definition="primary")
    assert let.let_d(field).attrs["let_definition"] == "primary" and "assumed" not in let.let_d(field).attrs
    plain = sobp.depth_field(base, weights, moments=("let_x_dose",))
    assert "assumed" not in let.let_d(plain).attrs and "counted_dose" not in plain
    with pytest.raises(IonrtError, match="let_definition"):
        let.let_d(field, let_definition="charged")


def test_let_of_primaries_is_their_own_mean_where_energies_meet(base):
    """Every energy's primaries by hand: fluence times what they deposit, and their stopping power."""
    weights = sobp.fluence(base, interval=INTERVAL, prescription=1.0)
    field = sobp.depth_field(base, weights, moments=("let_x_dose", "dose_per_let"), let_definition="primary")
    mine = weights * base["dose_by_origin"].sel(origin="primary")
    of_depth = slice(0.0, INTERVAL[1] + 3.0)
    for average, power in (("let_d", 1.0), ("let_t", -1.0)):
        value = base[average].sel(let_definition="primary", depth=of_depth).astype(float)
        value, share = value.where(value > 0), mine.sel(depth=of_depth)
        by_hand = ((share * value**power).sum("energy") / share.sum("energy")) ** power
        got = getattr(let, average)(field).sel(depth=of_depth)
        np.testing.assert_allclose(got, by_hand, rtol=1e-4)
    machine = base.drop_vars(["dose_by_origin", "origin"])  # as a machine file has them
    older = let.let_d(sobp.depth_field(machine, weights, moments=("let_x_dose",), let_definition="primary"))
    assert "dose of all particles" in older.attrs["assumed"]
    assert 0.02 < float(abs(older / let.let_d(field) - 1).sel(depth=slice(*INTERVAL)).max()) < 0.15


def test_twice_the_dose_is_twice_the_fluence(base):
    one, two = (sobp.fluence(base, interval=INTERVAL, prescription=d).values for d in (1.0, 2.0))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)


def test_bad_input_is_explained(base):
    weights = sobp.fluence(base, interval=INTERVAL, prescription=1.0)
    for interval in ((90.0, 60.0), (0.0, 50.0), (np.nan, 3.0)):
        with pytest.raises(IonrtError, match="interval"):
            sobp.layers("C", interval=interval)
    with pytest.raises(IonrtError, match="prescription"):
        sobp.fluence(base, interval=INTERVAL, prescription=-1.0)
    with pytest.raises(IonrtError, match="step"):
        sobp.layers("C", interval=INTERVAL, step=0.0)
    with pytest.raises(IonrtError, match="lies behind"):
        sobp.fluence(base, interval=(300.0, 900.0), prescription=1.0)
    with pytest.raises(IonrtError, match="weights"):
        sobp.depth_field(base, weights.isel(energy=slice(2)))
    with pytest.raises(IonrtError, match="further moment"):
        sobp.depth_field(base, weights, moments=("alpha_x_dose",))
    with pytest.raises(IonrtError, match="RBE model"):
        sobp.depth_field(base, weights, model="nirs")


def test_quality_stays_when_the_dose_is_scaled(base):
    weights = sobp.fluence(base, interval=INTERVAL, prescription=1.0)
    field = sobp.depth_field(base, weights, model="nirs_mkm", moments=("let_x_dose",))
    doses = np.array([0.5, 2.0, 4.0])
    point = sobp.at_dose(field, doses, depth=75)
    np.testing.assert_allclose(point.dose.values, doses, rtol=1e-12)
    np.testing.assert_allclose(let.let_d(point).values, float(let.let_d(field).sel(depth=75)), rtol=1e-6)
    expected = rbe.apply_model(sobp.depth_field(base, weights * (2.0 / field.dose.sel(depth=75)), model="nirs_mkm"), "nirs_mkm")
    assert float(rbe.apply_model(point, "nirs_mkm")[1]) == pytest.approx(float(expected.sel(depth=75)), rel=1e-6)
    everywhere = sobp.at_dose(field, 2.0)
    np.testing.assert_allclose(everywhere.dose.values, 2.0)
    for bad in ({"dose": 0.0}, {"dose": doses}):
        with pytest.raises(IonrtError, match="dose"):
            sobp.at_dose(field, **bad)


def test_one_beam_under_several_models(base):
    weights = sobp.fluence(base, interval=INTERVAL, prescription=3.6, model="nirs_mkm")
    found = sobp.rbe_doses(base, weights, {"a": ("nirs_mkm", {}), "b": ("lem1", {"tissue": "lem1_hsg"}), "c": ("constant", {})})
    field = sobp.depth_field(base, weights)
    assert found["b"].attrs["parameter_set"] == "lem1_hsg"
    np.testing.assert_allclose(sobp.rbe_of(found["c"], field).sel(depth=slice(*INTERVAL)).values, 1.1, rtol=1e-12)
    assert 2.0 < float(sobp.rbe_of(found["a"], field).sel(depth=75)) < 3.5
