"""Drawn arrays and drawn chunkings: chunked equals eager, and nothing computes before it is asked to."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rbe_fields import PARAMS, PER_GY

from ionrt import let
from ionrt.biology import oer_antonovic
from ionrt.rbe import MODELS, apply_model, convert, ensemble, eqd2, oxygen_weighted_dose
from ionrt.rbe.isoeffect import bed


def refuse(*_, **__):
    raise AssertionError("computed before it was asked to")


@st.composite
def chunked_fields(draw):
    """A field with every moment, and a chunking of it."""
    shape = [draw(st.integers(1, 5)) for _ in range(3)]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    dose = rng.uniform(0.0, 6.0, shape) * (rng.random(shape) > 0.2)
    data = {"dose": dose, **{k: dose * v * rng.uniform(0.7, 1.4, shape) for k, v in PER_GY.items()}}
    coords = {d: 3.0 * np.arange(n) for d, n in zip("zyx", shape, strict=True)}
    f = xr.Dataset({k: (("z", "y", "x"), v.astype(np.float32)) for k, v in data.items()}, coords=coords)
    f["high_let_dose"] = (f.dose * 0.25).assign_attrs(let_threshold=50.0)
    chunks = {d: draw(st.integers(1, n)) for d, n in zip("zyx", shape, strict=True)}
    return f, chunks


def operations():
    """Every voxel-wise function of a field that this file answers for."""
    ops = {f"rbe.{n}": lambda f, n=n: apply_model(f, n, **PARAMS.get(n, {})) for n in MODELS}
    ops |= {
        "let_d": let.let_d,
        "let_t": let.let_t,
        "high_let_dose": let.high_let_dose,
        "let_weighted_dose": lambda f: let.let_weighted_dose(f, c=0.04),
        "oer": lambda f: oer_antonovic(let.let_d(f), po2=4.0),
        "bed": lambda f: bed(apply_model(f, "nirs_mkm"), fractions=16, alpha_beta=3.0),
        "eqd2": lambda f: eqd2(apply_model(f, "nirs_mkm"), fractions=16, alpha_beta=f.dose * 0 + 3.0),
        "oxygen": lambda f: oxygen_weighted_dose(apply_model(f, "lem1"), let.let_d(f), po2=f.dose),
        "map": lambda f: apply_model(f, "osmk", po2=f.dose * 10),
        "convert": lambda f: convert(f, source="LEM-I", target="NIRS-mMKM")["factor"],
        "ensemble": lambda f: ensemble(f, "nirs_mkm", samples={"alpha0": [0.1, 0.2], "zstar_x_dose": [0.97, 1.03]}),
    }
    return ops


@pytest.mark.parametrize("name", list(operations()))
@settings(max_examples=6, deadline=None)
@given(drawn=chunked_fields())
def test_chunked_equals_eager(name, drawn):
    (f, chunks), operation = drawn, operations()[name]
    eager = operation(f)
    with dask.config.set(scheduler=refuse):
        lazy = operation(f.chunk(chunks))
    assert lazy.chunks is not None
    assert lazy.attrs == eager.attrs
    got, expected = lazy.compute(scheduler="synchronous"), eager.compute(scheduler="synchronous")
    assert got.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(got.values, expected.values, rtol=1e-6, atol=1e-7)
