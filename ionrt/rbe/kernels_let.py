"""Fused voxel kernels of the models on LETd; conventions as in `ionrt.rbe.kernels`."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit

from ionrt.rbe.elementary import exp, expm1
from ionrt.rbe.kernels import OPTIONS, STAGE, at, counted, isoeffective, onward, unusable


@njit(**OPTIONS)
def let_value(out, d, m, ab, a0, a1, a2, b0, b1, b2, let_max, dose_max):
    """RBEmax = a0 + (a1 / ab + a2) L and RBEmin = b0 + (b1 / ab + b2 sqrt(ab)) L, both times dose: no division by dose."""
    bad, outside = np.int32(0), np.int32(0)
    T = type(d[0])
    for i in range(d.size):
        x, y, r = d[i], m[i], at(ab, i)
        low = max(b0 * x + (b1 / r + b2 * sqrt(r)) * y, T(0.0))
        effect = a0 * x + (a1 / r + a2) * y + low * low * (T(1.0) / r)
        out[i] = isoeffective(effect, T(1.0), T(1.0) / r)[0]
        bad, outside = counted(bad, unusable(x) | unusable(y)), counted(outside, (y > let_max * x) | (x > dose_max))
    return bad, outside


@njit(**OPTIONS)
def let_slopes(out_d, out_m, d, m, ab, a0, a1, a2, b0, b1, b2):
    for i in range(d.size):
        x, y, r = np.float64(d[i]), np.float64(m[i]), np.float64(at(ab, i))
        c = b1 / r + b2 * sqrt(r)
        low = max(b0 * x + c * y, 0.0)
        a = a1 / r + a2
        slope = isoeffective(a0 * x + a * y + low * low / r, 1.0, 1.0 / r)[1]
        out_d[i] = slope * (a0 + 2.0 * low * b0 / r)
        out_m[i] = slope * (a + 2.0 * low * c / r)


@njit(**OPTIONS)
def linear_value(out, d, m, intercept, slope, let_max, dose_max):
    bad, outside = np.int32(0), np.int32(0)
    for i in range(d.size):
        x, y = d[i], m[i]
        out[i] = intercept * x + slope * y
        bad, outside = counted(bad, unusable(x) | unusable(y)), counted(outside, (y > let_max * x) | (x > dose_max))
    return bad, outside


@njit(**OPTIONS)
def linear_slopes(out_d, out_m, d, m, intercept, slope):
    for i in range(d.size):
        out_d[i], out_m[i] = intercept, slope


@njit(inline="always")
def _let_dose(o, d, m, r, let_max, dose_max):
    """A stage of voxels: effect over photon alpha, in `o`, to RBE-weighted dose. Bad ones, ones outside."""
    bad, outside = np.int32(0), np.int32(0)
    T = type(d[0])
    for i in range(o.size):
        x, y = d[i], m[i]
        o[i] = isoeffective(o[i], T(1.0), T(1.0) / at(r, i))[0]
        bad, outside = counted(bad, unusable(x) | unusable(y)), counted(outside, (y > let_max * x) | (x > dose_max))
    return bad, outside


@njit(inline="always")
def _chen_effect(x, y, r, alpha_x, p0, p1, p2):
    """Effect over photon alpha, and its slopes by dose and let_x_dose; RBEmax = [p0 + (1 - exp(-p1 L^2)) / (p2 L)] /
    alpha_x.
    """
    T = type(x)
    let = y / x if x > T(0.0) else T(0.0)
    died = -expm1(-p1 * let * let)
    low = let < T(1e-6)
    safe = T(1e-6) if low else let
    rise = died / (p2 * safe)
    steep = p1 / p2 if low else T(2.0) * p1 * (T(1.0) - died) / p2 - rise / safe  # d rise / d L
    per_alpha, per_ab = T(1.0) / alpha_x, T(1.0) / r  # once per field where they are numbers
    effect = x * (p0 + rise) * per_alpha + x * x * per_ab
    return effect, (p0 + rise - let * steep) * per_alpha + T(2.0) * x * per_ab, steep * per_alpha


@njit(**OPTIONS)
def chen_value(out, d, m, ab, alpha_x, p0, p1, p2, let_max, dose_max):
    bad, outside = np.int32(0), np.int32(0)
    for a in range(0, d.size, STAGE):
        o, ds, ms, rs = out[a : a + STAGE], d[a : a + STAGE], m[a : a + STAGE], onward(ab, a)
        for i in range(o.size):
            o[i] = _chen_effect(ds[i], ms[i], at(rs, i), alpha_x, p0, p1, p2)[0]
        more = _let_dose(o, ds, ms, rs, let_max, dose_max)
        bad, outside = counted(bad, more[0]), counted(outside, more[1])
    return bad, outside


@njit(**OPTIONS)
def chen_slopes(out_d, out_m, d, m, ab, alpha_x, p0, p1, p2):
    for i in range(d.size):
        r = np.float64(at(ab, i))
        effect, by_d, by_m = _chen_effect(np.float64(d[i]), np.float64(m[i]), r, alpha_x, p0, p1, p2)
        slope = isoeffective(effect, 1.0, 1.0 / r)[1]
        out_d[i], out_m[i] = slope * by_d, slope * by_m


@njit(inline="always")
def _helium_effect(x, y, r, c0, c1, c2):
    """Effect over photon alpha, and its slopes by dose and let_x_dose."""
    T = type(x)
    let = y / x if x > T(0.0) else T(0.0)
    per_ab = T(1.0) / r
    w = (c0 + per_ab) * c1 * exp(-c2 * let)
    effect = x * (T(1.0) + w * let * let) + x * x * per_ab
    return effect, T(1.0) + w * let * let * (c2 * let - T(1.0)) + T(2.0) * x * per_ab, w * let * (T(2.0) - c2 * let)


@njit(**OPTIONS)
def helium_value(out, d, m, ab, c0, c1, c2, let_max, dose_max):
    bad, outside = np.int32(0), np.int32(0)
    for a in range(0, d.size, STAGE):
        o, ds, ms, rs = out[a : a + STAGE], d[a : a + STAGE], m[a : a + STAGE], onward(ab, a)
        for i in range(o.size):
            o[i] = _helium_effect(ds[i], ms[i], at(rs, i), c0, c1, c2)[0]
        more = _let_dose(o, ds, ms, rs, let_max, dose_max)
        bad, outside = counted(bad, more[0]), counted(outside, more[1])
    return bad, outside


@njit(**OPTIONS)
def helium_slopes(out_d, out_m, d, m, ab, c0, c1, c2):
    for i in range(d.size):
        r = np.float64(at(ab, i))
        effect, by_d, by_m = _helium_effect(np.float64(d[i]), np.float64(m[i]), r, c0, c1, c2)
        slope = isoeffective(effect, 1.0, 1.0 / r)[1]
        out_d[i], out_m[i] = slope * by_d, slope * by_m
