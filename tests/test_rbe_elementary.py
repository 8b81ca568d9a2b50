"""The vector forms of log and exp against the library's."""

from __future__ import annotations

import numpy as np
from numba import njit

from ionrt.rbe import elementary


@njit
def _log(x, out):
    for i in range(x.size):
        out[i] = elementary.log(x[i])


@njit
def _exp(x, out):
    for i in range(x.size):
        out[i] = elementary.exp(x[i])


def test_log():
    x = np.concatenate([np.geomspace(1e-300, 1e300, 50001), np.linspace(0.4, 3.0, 50001), 1 + np.geomspace(1e-12, 1e-2, 500)])
    out = np.empty_like(x)
    _log(x, out)
    np.testing.assert_allclose(out, np.log(x), rtol=2e-11, atol=0)


def test_exp():
    x = np.linspace(-690.0, 690.0, 100001)
    out = np.empty_like(x)
    _exp(x, out)
    np.testing.assert_allclose(out, np.exp(x), rtol=1e-11)
    limits = np.array([-np.inf, -1e6, 1e6])
    _exp(limits, out)
    assert out[0] < 1e-300 and out[1] < 1e-300 and 1e300 < out[2] < np.inf
