"""The vector forms of logarithm and exponential against the library's, in both precisions."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from ionrt.rbe import elementary


def over(function):
    """A compiled loop over an array."""

    @njit
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return loop


PRECISION = [(np.float64, 2e-11), (np.float32, 3e-7)]


def compare(kernel, exact, x, rtol, atol=0.0):
    out = np.empty_like(x)
    kernel(x, out)
    np.testing.assert_allclose(out, exact(x.astype(np.longdouble)).astype(x.dtype), rtol=rtol, atol=atol)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISION)
def test_log(dtype, rtol):
    last = 300.0 if dtype is np.float64 else 37.0
    x = np.concatenate([np.logspace(-last, last, 50001), np.linspace(0.4, 3.0, 50001), 1 + np.geomspace(1e-12, 1e-2, 500)])
    compare(over(elementary.log), np.log, x.astype(dtype), rtol)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISION)
def test_log1p(dtype, rtol):
    x = np.concatenate([np.geomspace(1e-30, 1e30, 50001), -np.geomspace(1e-30, 0.999, 50001), np.linspace(-0.9, 9.0, 50001)])
    compare(over(elementary.log1p), np.log1p, x.astype(dtype), rtol)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISION)
def test_exp(dtype, rtol):
    x = np.linspace(-690.0, 690.0, 100001) if dtype is np.float64 else np.linspace(-86.0, 86.0, 100001)
    compare(over(elementary.exp), np.exp, x.astype(dtype), rtol)
    limits = np.array([-np.inf, -1e6, 1e6], dtype)
    out = np.empty_like(limits)
    over(elementary.exp)(limits, out)
    assert out[0] < 1e-37 and out[1] < 1e-37 and 1e37 < out[2] < np.inf


@pytest.mark.parametrize(("dtype", "rtol"), PRECISION)
def test_expm1(dtype, rtol):
    x = np.concatenate([np.linspace(-60.0, 60.0, 100001), np.geomspace(1e-30, 1.0, 5001), -np.geomspace(1e-30, 1.0, 5001)])
    compare(over(elementary.expm1), np.expm1, x.astype(dtype), rtol)
