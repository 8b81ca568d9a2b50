"""Gamma against closed forms and brute force."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

from ionrt import evaluate
from ionrt.evaluate.gamma_index import pass_rate
from ionrt.quantities import IonrtError

GRID = ("z", "y", "x")


def dose(values, spacing=2.0, origin=0.0):
    coords = {d: origin + spacing * np.arange(n, dtype=float) for d, n in zip(GRID, values.shape, strict=True)}
    return xr.DataArray(np.asarray(values, dtype=np.float64), dims=GRID, coords=coords, name="dose")


def ramp(gradient, shift=0.0, n=21, spacing=2.0):
    x = spacing * np.arange(n)
    return dose(np.broadcast_to(50 + gradient * (x - shift), (9, 9, n)).copy(), spacing)


def test_identical_is_zero_and_uniform_excess_is_the_dose_criterion():
    reference = dose(np.random.default_rng(0).uniform(50, 100, (5, 6, 7)))
    assert float(evaluate.gamma(reference, reference, dose_percent=3, distance_mm=3).max()) == 0.0
    flat = dose(np.full((5, 6, 7), 80.0))
    index = evaluate.gamma(flat, flat * 1.02, dose_percent=4, distance_mm=3)
    np.testing.assert_allclose(index, 0.5, rtol=1e-6)
    assert index.attrs["units"] == "1" and index.attrs["interpolation"] == 4 and index.dtype == np.float32


@pytest.mark.parametrize("gradient", [0.5, 1.0, 3.0])
def test_shifted_ramp_is_the_distance_to_a_line(gradient):
    """In scaled (distance, dose) space the evaluated ramp is a line; gamma is the distance from a point to it."""
    shift, percent, dta = 1.0, 3.0, 2.0
    reference = ramp(gradient)
    tolerance = percent / 100 * float(reference.max())
    expected = abs(shift) * gradient / np.hypot(tolerance, gradient * dta)
    index = evaluate.gamma(reference, ramp(gradient, shift), dose_percent=percent, distance_mm=dta, interpolation=32)
    np.testing.assert_allclose(index[4, 4, 5:-5], expected, rtol=0.01)


def test_voxels_only_agrees_with_brute_force():
    rng = np.random.default_rng(4)
    reference, evaluation = dose(rng.uniform(1, 2, (5, 6, 7))), dose(rng.uniform(1, 2, (5, 6, 7)))
    index = evaluate.gamma(reference, evaluation, dose_percent=5, distance_mm=3, interpolation=1, max_gamma=3)
    points = np.stack(np.meshgrid(*(reference[d].values for d in GRID), indexing="ij"), -1).reshape(-1, 3)
    apart = ((points[:, None] - points[None]) ** 2).sum(-1) / 9
    r, e = reference.values.ravel(), evaluation.values.ravel()
    both = np.where(apart <= 9, apart + ((e[None] - r[:, None]) / (0.05 * r.max())) ** 2, np.inf)
    np.testing.assert_allclose(index.values.ravel(), np.minimum(np.sqrt(both.min(1)), 3), rtol=1e-5)


def test_finer_search_never_finds_worse_and_says_how_fine_it_was():
    reference, evaluation = ramp(3.0), ramp(3.0, shift=1.0)
    rates = [evaluate.gamma(reference, evaluation, dose_percent=1, distance_mm=1.5, interpolation=n) for n in (1, 2, 4)]
    means = [float(r.mean()) for r in rates]
    assert means[0] > means[1] >= means[2]
    assert [r.attrs["interpolation"] for r in rates] == [1, 2, 4]


def test_local_and_global_threshold_and_cap():
    reference = dose(np.linspace(1, 100, 5 * 5 * 20).reshape(5, 5, 20), spacing=50.0)
    evaluation = reference * 1.03
    local = evaluate.gamma(reference, evaluation, dose_percent=3, distance_mm=1, local=True)
    whole = evaluate.gamma(reference, evaluation, dose_percent=3, distance_mm=1)
    below = reference < 10.0
    np.testing.assert_allclose(local.values[~below.values], 1.0, rtol=1e-5)
    np.testing.assert_allclose(whole, (reference / 100.0).where(~below), rtol=1e-5)
    capped = evaluate.gamma(reference, reference * 2, dose_percent=1, distance_mm=1, max_gamma=1.5)
    assert float(capped.max()) == 1.5
    assert pass_rate(whole).item() == 1.0 and pass_rate(capped).item() == 0.0


def test_grids_may_differ():
    fine = dose(np.broadcast_to(np.linspace(10, 20, 41), (9, 9, 41)).copy(), spacing=1.0)
    coarse = fine.isel(x=slice(None, None, 4), y=slice(None, None, 2))
    assert float(evaluate.gamma(fine, coarse, dose_percent=1, distance_mm=1).max()) < 1e-3


def test_lazy_input_stays_lazy():
    reference, evaluation = ramp(1.0), ramp(1.0, 1.0)

    def refuse(*_, **__):
        raise AssertionError("computed early")

    with dask.config.set(scheduler=refuse):
        lazy = evaluate.gamma(reference.chunk(z=3), evaluation.chunk(x=5), dose_percent=3, distance_mm=2)
    np.testing.assert_array_equal(lazy.compute(), evaluate.gamma(reference, evaluation, dose_percent=3, distance_mm=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dose_percent": 0}, "dose_percent must be positive"),
        ({"distance_mm": -1}, "distance_mm must be positive"),
        ({"interpolation": 0}, "interpolation counts"),
        ({"evaluation": dose(np.full((5, 5, 5), np.nan))}, "NaN"),
        ({"evaluation": dose(np.ones((5, 5, 5))).rename("effect")}, "quantity of the evaluation"),
        ({"evaluation": dose(np.ones((5, 5, 5))).assign_coords(x=[0, 1, 2, 3, 9.0])}, "equal spacing"),
    ],
)
def test_bad_input(change, message):
    reference = dose(np.ones((5, 5, 5)))
    settings = {"dose_percent": 3, "distance_mm": 3} | change
    with pytest.raises(IonrtError, match=message):
        evaluate.gamma(reference, settings.pop("evaluation", reference), **settings)


def test_two_dose_systems_are_not_compared():
    a = dose(np.ones((5, 5, 5))).rename("rbe_dose")
    with pytest.raises(IonrtError, match="rbe_model differs"):
        evaluate.gamma(a.assign_attrs(rbe_model="one"), a.assign_attrs(rbe_model="two"), dose_percent=3, distance_mm=3)
