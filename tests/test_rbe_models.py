"""Every RBE model through the same door: units, provenance, chunks, limits, slopes, bad values; then each one's numbers."""

from __future__ import annotations

import csv
import warnings

import dask
import numpy as np
import pytest
import xarray as xr
from rbe_fields import PARAMS, PER_GY, arrays, field

from ionrt import rbe
from ionrt.quantities import QUANTITIES, IonrtError
from ionrt.rbe import MODELS, apply_model, functions
from ionrt.rbe.model import voxels_outside

NAMES = list(MODELS)
LET_MODELS = [n for n in NAMES if "let_x_dose" in MODELS[n].moments]


@pytest.mark.parametrize("name", NAMES)
def test_slopes_equal_finite_differences(name):
    model, params, given = MODELS[name], PARAMS.get(name, {}), arrays(name)
    slopes = model.partials(*given, **params)
    assert len(slopes) == len(given)
    for k, slope in enumerate(slopes):
        step = 1e-5 * given[k]
        up, down = ([*given[:k], given[k] + s, *given[k + 1 :]] for s in (step, -step))
        difference = (model.kernel(*up, **params) - model.kernel(*down, **params)) / (2 * step)
        scale = np.abs(slope).max() or 1.0
        np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-6 * scale, err_msg=f"{name} by {k}")


@pytest.mark.parametrize("name", NAMES)
def test_limits(name):
    model, params = MODELS[name], PARAMS.get(name, {})
    zero = [np.zeros(3)] * (1 + len(model.moments))
    assert (model.kernel(*zero, **params) == 0.0).all()
    assert all(np.isfinite(s).all() for s in model.partials(*zero, **params))
    # toward zero dose the RBE is finite, positive, and where the slopes at zero say
    quality = [PER_GY[m] for m in model.moments]
    tiny, small = (model.kernel(np.array([d]), *(np.array([d * q]) for q in quality), **params)[0] / d for d in (1e-9, 1e-6))
    assert 0.1 < tiny < 20.0
    assert tiny == pytest.approx(small, rel=1e-4)
    huge = model.kernel(np.array([1e4]), *(np.array([1e4 * q]) for q in quality), **params)
    assert np.isfinite(huge).all()
    assert huge[0] > 0


@pytest.mark.parametrize("name", NAMES)
def test_more_dose_of_the_same_quality_is_worth_more(name):
    dose = np.linspace(0.0, 20.0, 300)
    given = [dose * PER_GY[m] for m in MODELS[name].moments]
    assert (np.diff(MODELS[name].kernel(dose, *given, **PARAMS.get(name, {}))) > 0).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("chen", "constant", "smk", "osmk", "osmk23")])
def test_higher_let_is_worth_more(name):
    slopes = MODELS[name].partials(*arrays(name), **PARAMS.get(name, {}))
    assert all((s >= 0).all() for s in slopes[1:])


# RBEmax and RBEmin of the models on LETd at LETd = 0, as published; a/b 3 Gy.
WITHOUT_LET = {"carabe": (0.843, 1.09), "mcnamara": (0.99064, 1.1012), "wilkens": (0.1 / 0.112, 1.0)}


@pytest.mark.parametrize("name", NAMES)
def test_without_let_the_effect_is_that_of_low_let(name):
    """Photons, where the model was fitted so; else its own limit."""
    dose = np.linspace(0.1, 10, 20)
    moments = {"alpha_x_dose": 0.1 * dose, "sqrt_beta_x_dose": np.sqrt(0.05) * dose}  # LEM I: the photons of its chordoma
    given = [moments.get(m, 0.0 * dose) for m in MODELS[name].moments]
    got = MODELS[name].kernel(dose, *given, **{**PARAMS.get(name, {}), **({"po2": 1e12} if "osmk" in name else {})})
    high, low = WITHOUT_LET.get(name, (1.0, 1.0))
    expected = (np.sqrt(9.0 + 12.0 * dose * high + 4.0 * dose**2 * low**2) - 3.0) / 2.0
    if name == "constant":
        expected = 1.1 * dose
    if name == "nirs_mkm":  # as much carbon of the reference beam as has the effect of alpha0, beta0, times 2.41
        carbon = got / 2.41
        got, expected = 0.764 * carbon + 0.0615 * carbon**2, 0.172 * dose + 0.0615 * dose**2
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_result_is_labelled_and_stamped(name):
    f = field(name)
    out = apply_model(f, name, **PARAMS.get(name, {}))
    assert out.name == "rbe_dose"
    assert out.dtype == np.float32
    assert out.dims == ("z", "y", "x")
    assert out.attrs["units"] == QUANTITIES["rbe_dose"].unit
    assert out.attrs["rbe_model"] == name
    assert out.attrs["citation"]
    assert out.attrs["dose_per"] == "fraction"
    assert out.attrs["confidence"] in (("?",) if name == "osmk23" else ("1", "2+"))
    xr.testing.assert_equal(out.z, f.z)
    np.testing.assert_array_equal(out.values, getattr(functions, name)(f, **PARAMS.get(name, {})).values)
    double = apply_model(f.astype(np.float64), name, **PARAMS.get(name, {}))
    assert double.dtype == np.float64
    np.testing.assert_allclose(out, double, rtol=3e-7)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_keeps_six_digits(name):
    """Over all that is met: 1 mGy to 30 Gy, quality from a hundredth of that of a peak to ten times it."""
    rng = np.random.default_rng(7)
    dose = np.exp(rng.uniform(np.log(1e-3), np.log(30.0), 200_000))
    quality = np.exp(rng.uniform(np.log(0.01), np.log(10.0), dose.size))
    single = [a.astype(np.float32) for a in (dose, *(dose * quality * PER_GY[m] for m in MODELS[name].moments))]
    params = PARAMS.get(name, {})
    exact = MODELS[name].kernel(*(a.astype(np.float64) for a in single), **params)
    np.testing.assert_allclose(MODELS[name].kernel(*single, **params), exact, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, -0.5, np.inf])
def test_unusable_voxels_are_named(name, value):
    params = PARAMS.get(name, {})
    for variable in ("dose", *MODELS[name].moments):
        f = field(name)
        f[variable][2, 1, 3] = value
        with pytest.raises(IonrtError, match=rf"{variable} is .* z\[2\] = 4.0, y\[1\] = 2.0, x\[3\] = 6.0"):
            apply_model(f, name, **params)
        lazy = apply_model(f.chunk(z=2, x=2), name, **params)
        with pytest.raises(IonrtError, match=r"z\[2\] = 4.0, y\[1\] = 2.0, x\[3\] = 6.0"):
            lazy.compute(scheduler="synchronous")


@pytest.mark.parametrize("name", NAMES)
def test_negative_zero_is_no_dose(name):
    f, params = field(name).copy(deep=True), PARAMS.get(name, {})
    for v in f:
        f[v][1, 1, 1] = -0.0
    out = apply_model(f, name, **params)
    assert out[1, 1, 1] == 0.0
    assert (out > 0).sum() == out.size - 1


@pytest.mark.parametrize("name", NAMES)
def test_chunked_equals_eager_and_nothing_computes_early(name):
    f, params = field(name), PARAMS.get(name, {})

    def refuse(*_, **__):
        raise AssertionError("computed too early")

    with dask.config.set(scheduler=refuse):
        lazy = apply_model(f.chunk(z=3, y=1, x=2), name, **params)
    assert lazy.chunks is not None
    assert lazy.attrs == apply_model(f, name, **params).attrs
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous").values, apply_model(f, name, **params).values)


@pytest.mark.parametrize("name", NAMES)
def test_doors_check_units_and_definitions(name):
    params, f = PARAMS.get(name, {}), field(name)
    for variable in ("dose", *MODELS[name].moments):
        wrong = f.copy()
        wrong[variable] = wrong[variable].assign_attrs(units="furlong")
        with pytest.raises(IonrtError, match="furlong"):
            apply_model(wrong, name, **params)
        with pytest.raises(IonrtError, match=variable):
            apply_model(f.drop_vars(variable), name, **params)
        key, other = ("let_definition", "primary") if variable == "let_x_dose" else ("parameter_set", "another cell")
        if variable != "dose":
            wrong[variable] = f[variable].assign_attrs({key: other})
            with pytest.raises(IonrtError, match=other):
                apply_model(wrong, name, **params)
    with pytest.raises(IonrtError, match="no parameter 'nonsense'"):
        apply_model(f, name, **params, nonsense=1)
    with pytest.raises(IonrtError, match="expected a field"):
        apply_model(f["dose"], name, **params)


@pytest.mark.parametrize("name", NAMES)
def test_outside_the_declared_range_warns_once_with_the_count(name):
    model, params, f = MODELS[name], PARAMS.get(name, {}), field(name)
    if not np.isfinite(model.validity.dose):
        return
    f = f.copy(deep=True)
    for v in f:
        f[v][0, 0, :2] *= 100.0 * 30.0
    with pytest.warns(UserWarning, match=r"2 of 60 voxels") as caught:
        apply_model(f, name, **params)
    assert len(caught) == 1
    assert voxels_outside(f, name, **params) == 2


@pytest.mark.parametrize("name", NAMES)
def test_chunked_warns_once_and_counts_on_request(name):
    params, f = PARAMS.get(name, {}), field(name).copy(deep=True)
    if not np.isfinite(MODELS[name].validity.dose):
        return
    for v in f:
        f[v][0, 0, :2] *= 100.0 * 30.0
        f[v][3, 2, 4] *= 100.0 * 30.0
    chunked = f.chunk(z=2, x=3)
    lazy, count = apply_model(chunked, name, **params), voxels_outside(chunked, name, **params)
    with pytest.warns(UserWarning, match=r"[12] of \d+ voxels of the block at z\[\d\] = .* \(voxels_outside") as caught:
        lazy.compute(scheduler="synchronous")
        lazy.compute(scheduler="threads", num_workers=2)
    assert len(caught) == 1
    assert count.chunks is not None
    assert count.compute(scheduler="synchronous") == 3
    assert count.attrs["rbe_model"] == name


@pytest.mark.parametrize("name", LET_MODELS)
def test_let_models_refuse_other_ions(name):
    wrong = "C"
    for f in (field(name, ion=wrong), field(name).expand_dims(ion=[wrong]), field(name, ion=["p", "He", "C"])):
        with pytest.raises(IonrtError, match="made for"):
            apply_model(f, name, **PARAMS[name])
    right = MODELS[name].validity.ions[0]
    apply_model(field(name, ion=right), name, **PARAMS[name])


def test_clinical_dose_of_the_reference_radiation():
    for dose in (1e-3, 0.5, 2.0, 4.6, 12.0, 30.0):
        f = xr.Dataset({"dose": ("x", [dose]), "zstar_x_dose": ("x", [9.63 * dose])})
        assert float(rbe.nirs_mkm(f)[0]) / dose == pytest.approx(2.41, abs=1e-3)


def test_published_let_models(shared):
    text = shared("reference/biology/let_models.csv").read_text().splitlines()
    for row in csv.DictReader(line for line in text if line[0] != "#"):
        let, ab = float(row["let"]), float(row["alpha_beta"])
        got = MODELS[row["model"]].kernel(np.array([2.0]), np.array([2.0 * let]), alpha_beta=ab)[0] / 2.0
        written = row["rbe"]
        # three decimals are all that the helium rows carry
        assert got == pytest.approx(float(written), abs=max(1e-4, 0.51 * 10.0 ** -len(written.split(".")[1]))), row


def test_mcnamara_and_wedenberg_by_hand():
    dose, let, ab = 2.0, 8.0, 2.0
    high, low = 0.99064 + 0.35605 * let / ab, 1.1012 - 0.0038703 * np.sqrt(ab) * let
    expected = (np.sqrt(ab**2 + 4 * dose * ab * high + 4 * dose**2 * low**2) - ab) / 2
    assert MODELS["mcnamara"].kernel(np.array([dose]), np.array([dose * let]), alpha_beta=ab)[0] == pytest.approx(expected)
    high = 1 + 0.434 * let / ab
    expected = (np.sqrt(ab**2 + 4 * dose * ab * high + 4 * dose**2) - ab) / 2
    assert MODELS["wedenberg"].kernel(np.array([dose]), np.array([dose * let]), alpha_beta=ab)[0] == pytest.approx(expected)


def test_lem_beyond_the_transition_dose_is_linear():
    dose = np.array([30.0, 31.0, 40.0])
    photon = MODELS["lem1"].kernel(dose, 0.1 * dose, np.sqrt(0.05) * dose)
    np.testing.assert_allclose(photon, dose, rtol=1e-12)  # photons as "ions" are photons, on both sides of the bend
    steeper = MODELS["lem1"].kernel(dose, 0.5 * dose, np.sqrt(0.05) * dose)
    assert steeper[1] - steeper[0] == pytest.approx((steeper[2] - steeper[1]) / 9, rel=1e-9)


def test_maps_of_parameters():
    f = field("wedenberg")
    ab = xr.full_like(f.dose, 10.0, dtype=np.float64)
    ab[1:] = 2.0
    out = rbe.wedenberg(f, alpha_beta=ab)
    np.testing.assert_allclose(out[0], rbe.wedenberg(f, alpha_beta=10.0)[0], rtol=1e-6)
    np.testing.assert_allclose(out[1:], rbe.wedenberg(f, alpha_beta=2.0)[1:], rtol=1e-6)
    chunked = rbe.wedenberg(f.chunk(z=1), alpha_beta=ab)
    np.testing.assert_array_equal(chunked.compute(scheduler="synchronous"), out)
    with pytest.raises(IonrtError, match="x"):
        rbe.wedenberg(f, alpha_beta=ab.assign_coords(x=ab.x + 0.5))
    with pytest.raises(IonrtError, match="alpha_beta"):
        rbe.wedenberg(f, alpha_beta=ab * 0.0)


def test_hypoxia_costs_effect():
    f = field("osmk")
    po2 = xr.zeros_like(f.dose)
    po2[:, :, 2:] = 60.0
    out = rbe.osmk(f, po2=po2)
    np.testing.assert_allclose(out[:, :, 0], rbe.osmk(f, po2=0.0)[:, :, 0], rtol=1e-6)
    assert (rbe.osmk(f, po2=0.0) < rbe.osmk(f, po2=60.0)).all()
    with pytest.raises(IonrtError, match="mmHg"):
        rbe.osmk(f, po2=po2 - 1.0)


def test_second_order_expansion_is_guarded():
    dose = np.full((1, 1, 2), 6.0)
    f = xr.Dataset({n: (("z", "y", "x"), dose * q) for n, q in (("dose", 1), ("zstar_x_dose", 30), ("zd_x_dose", 400))})
    f["zn_x_dose"] = f["dose"] * 0.5
    with pytest.warns(UserWarning, match="second-order"):
        rbe.smk(f)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f["zn_x_dose"] = f["dose"] * 0.001
        rbe.smk(f)


def test_slope_below_zero_is_no_effect_and_is_counted():
    """A nucleus hit as no particle can hit it: -alpha z_n / 2 outweighs alpha, at every dose however small."""
    for name, params in (("smk", {}), ("osmk", {"po2": 7.0}), ("osmk23", PARAMS["osmk23"])):
        dose = np.array([1e-6, 1e-3, 0.1, 2.0], np.float32)
        f = xr.Dataset(
            {n: ("x", dose * np.float32(q)) for n, q in zip(("dose", *MODELS[name].moments), (1, 30, 40, 3), strict=True)}
        )
        f["zn_x_dose"][3] = 0.02 * 2.0  # one voxel as it should be
        with pytest.warns(UserWarning, match="3 of 4 voxels.*second-order correction <= 0.5"):
            out = apply_model(f, name, **params)
        assert (out[:3] == 0.0).all()
        assert out[3] > 2.0


def test_unknown_names():
    with pytest.raises(IonrtError, match="'wedenberg'"):
        apply_model(field("wedenberg"), "wedenburg")
    with pytest.raises(IonrtError, match="alpha_beta"):
        apply_model(field("wedenberg"), "wedenberg")
    with pytest.raises(IonrtError, match="mkm_nirs"):
        rbe.nirs_mkm(field("nirs_mkm"), tissue="smk_hs")
    with pytest.raises(IonrtError, match="arrays"):
        MODELS["nirs_mkm"].kernel(np.ones(3))
