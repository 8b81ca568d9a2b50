"""LET of a field: averages, definitions, weighted dose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, simple_plan, synthetic_base, water_box

from ionrt import rbe
from ionrt.let import high_let_dose, let_d, let_t, let_weighted_dose
from ionrt.plan import Beam, influence
from ionrt.plan import field as plan_field
from ionrt.plan.mixture import course
from ionrt.quantities import IonrtError, stamp


def particles(let, dose, **attrs):
    """A field of particles with known LET in every voxel; dims (particle, x)."""
    f = xr.Dataset({"dose": (("particle", "x"), dose)}, coords={"x": np.arange(dose.shape[1], dtype=float)})
    let = xr.DataArray(let.astype(np.float32), dims="particle")
    f["let_x_dose"] = (f.dose * let).assign_attrs(let_definition="charged")
    f["dose_per_let"] = (f.dose / let).assign_attrs(let_definition="charged")
    return f.assign_attrs(attrs)


LET = np.array([0.5, 5.0, 80.0])
DOSE = np.random.default_rng(3).uniform(0.1, 2.0, (3, 7)).astype(np.float32)


def test_averages_of_a_mixture():
    f = particles(LET, DOSE).sum("particle", keep_attrs=True)
    np.testing.assert_allclose(let_d(f), (LET[:, None] * DOSE).sum(0) / DOSE.sum(0), rtol=1e-6)
    fluence = DOSE / LET[:, None]  # up to one constant
    np.testing.assert_allclose(let_t(f), (LET[:, None] * fluence).sum(0) / fluence.sum(0), rtol=1e-6)
    assert (let_t(f) < let_d(f)).all()


@pytest.mark.parametrize("let", LET)
def test_one_particle_has_its_own_let(let):
    f = particles(np.array([let]), DOSE[:1]).sum("particle", keep_attrs=True)
    np.testing.assert_allclose(let_d(f), let, rtol=1e-6)
    np.testing.assert_allclose(let_t(f), let, rtol=1e-6)


def test_no_dose_no_let_and_no_warning():
    f = particles(LET, np.zeros((3, 4), np.float32)).sum("particle", keep_attrs=True)
    for out in (let_d(f), let_t(f), let_weighted_dose(f, c=0.04)):
        assert (out == 0).all()


def test_definition_travels_and_contradictions_raise():
    f = particles(LET, DOSE).sum("particle", keep_attrs=True)
    assert let_d(f).attrs["let_definition"] == "charged"
    assert let_d(f).attrs["units"] == "keV/um"
    with pytest.raises(IonrtError, match="primary"):
        let_d(f, let_definition="primary")
    bare = f.copy()
    bare["let_x_dose"] = bare.let_x_dose.drop_attrs()
    assumed = let_d(bare)  # somebody else's numerator that says nothing: the default, and the result says so
    assert assumed.attrs["let_definition"] == "charged" and "does not say" in assumed.attrs["assumed"]
    protons = particles(np.array([0.5, 5.0]), DOSE[:2]).sum("particle", keep_attrs=True)
    protons["let_x_dose"] = protons.let_x_dose.drop_attrs()
    weighted = rbe.wedenberg(protons, alpha_beta=2.0)
    several = rbe.add_fractions(weighted.expand_dims("fraction"), alpha_beta=2.0)
    for made in (weighted, rbe.eqd2(weighted, fractions=5, alpha_beta=2.0), several):
        assert "does not say" in made.attrs["assumed"]
    assert "assumed" not in let_d(f).attrs
    assert "dose of all particles" in let_d(bare, let_definition="primary").attrs["assumed"]  # what `dose` holds
    assert let_d(bare, let_definition="primary").attrs["let_definition"] == "primary"


def test_a_numerator_that_lost_its_definition_in_plain_arithmetic_is_refused():
    one, other = (particles(LET, DOSE).sum("particle", keep_attrs=True) for _ in range(2))
    one["let_x_dose"] = stamp(one.let_x_dose, "let_x_dose", let_definition="charged")
    other["let_x_dose"] = stamp(other.let_x_dose, "let_x_dose", let_definition="primary")
    with xr.set_options(keep_attrs=True):
        both = one + other
    uses = (let_d, lambda f: let_weighted_dose(f, c=0.04), lambda f: rbe.wedenberg(f, alpha_beta=2.0))
    for average in uses:
        with pytest.raises(IonrtError, match="without let_definition"):
            average(both)


def primaries():
    """A field of definition primary: the first two kinds count, the third deposits dose only; and their sums by hand."""
    f = particles(LET, DOSE)
    mine = f.isel(particle=slice(2)).sum("particle")
    about = {"let_definition": "primary", "weighted_with": "counted_dose"}
    out = f[["dose"]].sum("particle")
    for name, values in (("let_x_dose", mine.let_x_dose), ("dose_per_let", mine.dose_per_let), ("counted_dose", mine.dose)):
        out[name] = stamp(values, name, **about)
    return out, DOSE[:2], LET[:2, None]


def test_let_of_the_primaries_is_weighted_with_their_own_dose():
    f, dose, let = primaries()
    own, track = (dose * let).sum(0) / dose.sum(0), dose.sum(0) / (dose / let).sum(0)
    np.testing.assert_allclose(let_d(f), own, rtol=1e-6)
    np.testing.assert_allclose(let_t(f), track, rtol=1e-6)
    weighted = DOSE.sum(0) * (1 + 0.04 * own)  # the dose is that of all
    np.testing.assert_allclose(let_weighted_dose(f, c=0.04), weighted, rtol=1e-6)
    assert all("assumed" not in average(f).attrs for average in (let_d, let_t))


def test_let_of_the_primaries_over_days():
    pytest.importorskip("pydicom")  # of the days
    from ionrt.adapt import total

    f, dose, let = primaries()
    with xr.set_options(keep_attrs=True):
        twice = course([f, 2 * f], parts=[1, 3])
    np.testing.assert_allclose(let_d(total(twice)), (dose * let).sum(0) / dose.sum(0), rtol=1e-6)


def test_primaries_without_their_dose_are_told_from_those_of_old_files():
    f, dose, let = primaries()
    old = f.drop_vars("counted_dose")
    with pytest.raises(IonrtError, match="counted_dose"):
        let_d(old)
    old["let_x_dose"] = stamp((dose * let).sum(0) / dose.sum(0) * f.dose, "let_x_dose", let_definition="primary")
    np.testing.assert_allclose(let_d(old), (dose * let).sum(0) / dose.sum(0), rtol=1e-6)
    assert "dose of all particles" in let_d(old).attrs["assumed"]
    with pytest.raises(IonrtError, match="counted_dose"):
        course([f, old], parts=[1, 1])
    with xr.set_options(keep_attrs=True), pytest.raises(IonrtError, match="counted_dose"):
        let_d(f + old)  # plain arithmetic drops the variable that one of them lacks
    with pytest.raises(IonrtError, match="without let_definition"):
        let_d(f.drop_attrs())
    with pytest.raises(IonrtError, match="without let_definition"):
        rbe.wedenberg(f.drop_attrs(), alpha_beta=2.0)


def test_weighted_dose():
    f = particles(LET, DOSE, ion="p").sum("particle", keep_attrs=True)
    expected = f.dose * (1 + 0.04 * let_d(f))
    np.testing.assert_allclose(let_weighted_dose(f, c=0.04), expected, rtol=1e-6)
    np.testing.assert_allclose(let_weighted_dose(f, c=0.04, form="product"), expected - f.dose, rtol=1e-4)
    assert let_weighted_dose(f, c=0.04).attrs["units"] == "Gy"
    assert let_weighted_dose(f, c=0.04).dtype == np.float32


@pytest.mark.parametrize("ion", ["C", "Ne", "p+C", ["He", "O"]])
def test_weighted_dose_warns_for_heavy_ions(ion):
    f = particles(LET, DOSE).sum("particle", keep_attrs=True).assign_attrs(ion=ion)
    with pytest.warns(UserWarning, match="derived for protons"):
        let_weighted_dose(f, c=0.04)


def test_dose_above_a_threshold_says_which():
    f = particles(LET, DOSE).sum("particle", keep_attrs=True)
    f["high_let_dose"] = f.dose * 0.3
    with pytest.raises(IonrtError, match="let_threshold"):
        high_let_dose(f)
    f["high_let_dose"] = f.high_let_dose.assign_attrs(let_threshold=50.0)
    assert "does not say" in high_let_dose(f).attrs["assumed"]
    f["high_let_dose"] = f.high_let_dose.assign_attrs(let_definition="charged")
    assert high_let_dose(f).attrs["let_threshold"] == 50.0
    assert list(f.high_let_dose.attrs) == ["let_threshold", "let_definition"]  # the field is as it was


def test_planned_field_has_both_averages():
    """LETt is 0.6 LETd in the base data: that ratio comes back, or less where a voxel mixes LETs: mean(L) mean(1/L) >= 1."""
    made = synthetic_base("C", energies=[150.0, 250.0])
    base = made.assign(let_t=0.6 * made.let_d)
    plan = simple_plan(spacing=2.0, spot_spacing=5.0)
    d = influence(water_box((21, 61, 21), target_radius=10.0), plan, base={"C": base})
    f = plan_field(d, np.ones(d.n_spots), models=("constant",), moments=("dose_per_let",))
    inside = (f.dose > 0.1 * f.dose.max()).values
    ratio = (let_t(f) / let_d(f)).values[inside]
    assert ratio.max() <= 0.6 * (1 + 1e-5)
    assert np.median(ratio) == pytest.approx(0.6, rel=5e-3)
    assert let_t(f).attrs["let_definition"] == let_d(f).attrs["let_definition"] == "charged"
    with pytest.raises(IonrtError, match="dose_per_let"):
        let_t(plan_field(d, np.ones(d.n_spots), models=("constant",)))
    with pytest.raises(IonrtError, match="moments"):
        plan_field(d, np.ones(d.n_spots), models=("constant",), moments=("let_t",))


def test_planned_primaries_of_two_ions_two_beams_and_many_energies_are_those_of_single_energies_summed_by_hand():
    """Dose of every energy alone, shared out and given its LET by hand at the depth of the voxel: at most 0.5 % apart."""
    base, box, names = {}, water_box((9, 41, 41), target_radius=12.0), ("energy", "depth")
    for ion, energies in (("C", np.linspace(130.0, 190.0, 5)), ("p", np.linspace(60.0, 105.0, 5))):
        data = synthetic_base(ion, energies=energies, depth_end=140.0)
        # SYNTHETIC: few primaries of the low energies, and LET that hardly cares for 0.1 mm
        mine = data.dose * np.exp(-data.depth / (0.5 * data.csda_range))
        let = (data.let_d * 0 + 1) * (80.0 - 0.4 * data.energy) * (1.0 + data.depth / 200.0)
        data = data.assign(let_d=let, let_t=0.6 * let, dose_by_origin=(("origin", *names), mine.values[None]))
        base[ion] = data.assign_coords(origin=["primary"])
    beams = tuple(Beam(ion, g, room=POINT_ROOM) for ion, g in (("C", 0.0), ("p", 90.0)))
    d = influence(box, replace(simple_plan(spacing=2.0, spot_spacing=5.0), beams=beams), base=base)
    ions, energies = (d.spots()[name].values for name in ("ion", "energy"))
    w = np.random.default_rng(1).uniform(0.5, 1.5, d.n_spots) * np.where(ions == "p", 30.0, 1.0)
    asked = {"models": ("constant",), "let_definition": "primary", "moments": ("dose_per_let",)}
    whole = plan_field(d, w, **asked)
    depth = {"C": (whole.y + 41.0).values[None, :, None], "p": (41.0 - whole.x).values[None, None, :]}
    top, bottom, tracks, wrong = (np.zeros(whole.dose.shape) for _ in range(4))
    for ion, energy in sorted(set(zip(ions.tolist(), energies.tolist(), strict=True))):
        one = plan_field(d, np.where((ions == ion) & (energies == energy), w, 0.0), models=("constant",))
        data = base[ion].sel(energy=energy).sel(let_definition="primary")

        def slab(values, ion=ion, data=data):  # mean over the 2 mm of a voxel
            sums = np.concatenate([[0.0], np.cumsum(values.astype(float))])
            first = np.rint((depth[ion] - 1.0) / 0.1).astype(int)
            return (sums[first + 20] - sums[first]) / 20.0

        given, mine, let = slab(data.dose.values), data.dose_by_origin.values[0], data.let_d.values
        dose = np.divide(one.dose.values, given, out=np.zeros(whole.dose.shape), where=given > 0.0)
        top += dose * slab(mine * let)
        bottom += dose * slab(mine)
        tracks += dose * slab(mine / (0.6 * let))
        wrong += dose * slab(data.dose.values * let)
    inside = (whole.dose > 0.1 * whole.dose.max()).values
    by_hand = top[inside] / bottom[inside]
    np.testing.assert_allclose(let_d(whole).values[inside], by_hand, rtol=5e-3)
    np.testing.assert_allclose(let_t(whole).values[inside], bottom[inside] / tracks[inside], rtol=5e-3)
    assert np.abs(wrong[inside] / whole.dose.values[inside] / by_hand - 1.0).max() > 0.05  # the whole dose would not do
    assert "assumed" not in let_d(whole).attrs
    mixed = plan_field(replace(d, base=base | {"p": base["p"].drop_vars("dose_by_origin")}), w, **asked)
    assert "dose of all particles" in let_d(mixed).attrs["assumed"]  # one of the ions does not say


def test_bad_input():
    f = particles(LET, DOSE).sum("particle", keep_attrs=True)
    with pytest.raises(IonrtError, match="has no 'let_x_dose'"):
        let_d(f.drop_vars("let_x_dose"))
    with pytest.raises(IonrtError, match="Gy"):
        let_d(f.assign(dose=f.dose.assign_attrs(units="cGy")))
    with pytest.raises(IonrtError, match="c:"):
        let_weighted_dose(f, c=-1.0)
    with pytest.raises(IonrtError, match="form"):
        let_weighted_dose(f, c=0.04, form="other")
    with pytest.raises(IonrtError, match="expected a field"):
        let_d(f.dose)
