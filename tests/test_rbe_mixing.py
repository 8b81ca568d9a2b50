"""Mixed fields: numerators add, so order and splitting change nothing; one particle gives back its own coefficients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rbe_fields import PARAMS, field

from ionrt.biology import TISSUES, coefficients, effect, specific_energy
from ionrt.rbe import MODELS, apply_model, lem1, nirs_mkm, smk

PARTICLES = {"He": (2, 50.0, 4.9), "C": (6, 40.0, 53.0), "Ne": (10, 150.0, 55.0)}


def parts(name, n=5, dtype=np.float32):
    """Contributions of n beams (or spots, ions, fractions) with their own quality."""
    return [field(name, seed=k, dtype=dtype, high=1.5) for k in range(n)]


@pytest.mark.parametrize("name", list(MODELS))
@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(5)), cut=st.integers(1, 4), dtype=st.sampled_from([np.float32, np.float64]))
def test_order_and_grouping_change_nothing(name, order, cut, dtype):
    beams = parts(name, dtype=dtype)
    whole = sum(beams[1:], beams[0])
    mixed = [beams[i] for i in order]
    grouped = sum(mixed[1:cut], mixed[0]) + sum(mixed[cut + 1 :], mixed[cut])
    params = PARAMS.get(name, {})
    np.testing.assert_allclose(apply_model(grouped, name, **params), apply_model(whole, name, **params), rtol=1e-6)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize(("dim", "n"), [("ion", 5), ("beam", 5), ("fraction", 30)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_over_a_dimension_equals_the_sum_of_parts(name, dim, n, dtype):
    """In single precision what differs is the caller's own sum, by a rounding per part: 4e-7 for 10 parts, 7e-7 for 60."""
    beams = [b / np.float32(n) for b in parts(name, n, dtype)]
    params = PARAMS.get(name, {})
    whole = apply_model(xr.concat(beams, dim=dim).sum(dim), name, **params)
    assert whole.dtype == dtype
    np.testing.assert_allclose(apply_model(sum(beams[1:], beams[0]), name, **params), whole, rtol=1e-6)
    np.testing.assert_allclose(apply_model(sum(beams[-2::-1], beams[-1]), name, **params), whole, rtol=1e-6)
    halves = xr.concat([b * np.float32(0.5) for b in beams for _ in range(2)], dim=dim).sum(dim)
    np.testing.assert_allclose(apply_model(halves, name, **params), whole, rtol=1e-6)


def one_particle(ion, tissue, dose):
    """Numerators of a field of one particle."""
    z, e, let = PARTICLES[ion]
    cell = coefficients(z, e, let=let, tissue=tissue)
    t = TISSUES[tissue]
    values = {"dose": 1.0, "alpha_x_dose": float(cell.alpha), "sqrt_beta_x_dose": math.sqrt(cell.beta)}
    if hasattr(t, "z0"):
        s = specific_energy(z, e, let=let, domain_radius=t.domain_radius, nucleus_radius=t.nucleus_radius, z0=t.z0)
        values |= {f"{k}_x_dose": float(v) for k, v in s.items()}
    f = xr.Dataset({k: ("x", dose * v) for k, v in values.items()})
    return f, {str(k): float(v) for k, v in cell.items()}


@pytest.mark.parametrize("ion", list(PARTICLES))
def test_one_particle_gives_back_its_alpha_and_beta(ion):
    dose = np.array([0.1, 1.0, 2.0, 4.0])
    f, c = one_particle(ion, "mkm_nirs", dose)
    clinical = nirs_mkm(f).values / 2.41
    np.testing.assert_allclose(0.764 * clinical + 0.0615 * clinical**2, effect(dose, **c), rtol=1e-6)
    f, c = one_particle(ion, "lem1_hsg", dose)
    photon, t = lem1(f, tissue="lem1_hsg").values, TISSUES["lem1_hsg"]
    np.testing.assert_allclose(t.alpha_x * photon + t.beta_x * photon**2, effect(dose, **c), rtol=1e-6)
    f, c = one_particle(ion, "smk_hsg", dose)
    photon, t = smk(f).values, TISSUES["smk_hsg"]
    np.testing.assert_allclose(t.alpha0 * photon + t.beta0 * photon**2, effect(dose, **c), rtol=1e-6)


def test_mixture_weights_by_dose():
    dose = np.array([2.0])
    (a, ca), (b, cb) = (one_particle(i, "lem1_chordoma", d) for i, d in (("He", 0.75 * dose), ("C", 0.25 * dose)))
    alpha = 0.75 * ca["alpha"] + 0.25 * cb["alpha"]
    beta = (0.75 * math.sqrt(ca["beta"]) + 0.25 * math.sqrt(cb["beta"])) ** 2
    photon = float(lem1(a + b)[0])
    assert 0.1 * photon + 0.05 * photon**2 == pytest.approx(alpha * 2.0 + beta * 4.0, rel=1e-9)
