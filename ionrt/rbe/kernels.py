"""Fused voxel kernels: one pass from a field's numerators to RBE-weighted dose, and its slopes.

Flat arrays in, `out` filled. Value kernels compute in the precision of the arrays (single precision: RBE-weighted dose good to
1e-6, and sixteen voxels at a time), slopes always in double. A value kernel returns (unusable, outside): how many voxels are
NaN, negative or infinite, and how many lie beyond the model's declared range. Parameters typed `p` may be a number or an array
with one value per voxel. `T` is the precision: a bare 2.0 would turn a loop in single precision into one in double.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from ionrt.rbe.blocks import BIG
from ionrt.rbe.elementary import exp, log, log1p, to_bits

STAGE = 512  # voxels that go through a long formula stage by stage: short loops overlap, the cache holds what is between
# Fused multiply-add shortens the chains of the series threefold; NaN, infinity and order of summation keep their meaning.
OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}


def at(p, i):
    """The parameter of voxel i."""
    return p[i] if isinstance(p, np.ndarray) else p


@overload(at, inline="always")
def _at_overload(p, i):
    if isinstance(p, types.Array):
        return lambda p, i: p[i]
    return lambda p, i: p


def onward(p, start):
    """The parameters of the voxels from `start` on."""
    return p[start:] if isinstance(p, np.ndarray) else p


@overload(onward, inline="always")
def _from_overload(p, start):
    if isinstance(p, types.Array):
        return lambda p, start: p[start:]
    return lambda p, start: p


@njit(inline="always")
def unusable(x):
    T = type(x)
    return not ((x >= T(0.0)) & (x <= T(BIG)))


@njit(inline="always")
def _any_bad(x, y, z, w):
    """`unusable` of any by the bits: as unsigned integers, negative values, infinity and NaN are the largest; so is -0, which
    passes when the voxel is looked for.
    """
    a, b, c, d = to_bits(x), to_bits(y), to_bits(z), to_bits(w)
    return max(max(a, b), max(c, d)) > to_bits(type(x)(BIG))


@njit(inline="always")
def counted(count, one_more):
    """Counts of 32 bits keep the lanes of single precision whole."""
    return np.int32(count + one_more)


@njit(inline="always")
def isoeffective(effect, alpha, beta):
    """Dose of the reference radiation with this effect, and its slope; the form without cancellation at small effect."""
    T = type(effect)
    effect = max(effect, T(0.0))
    root = sqrt(alpha * alpha + T(4.0) * beta * effect)
    return T(2.0) * effect / (alpha + root), T(1.0) / root


@njit(**OPTIONS)
def constant_value(out, d, rbe, dose_max):
    bad, outside = np.int32(0), np.int32(0)
    for i in range(d.size):
        x = d[i]
        out[i] = at(rbe, i) * x
        bad, outside = counted(bad, unusable(x)), counted(outside, x > dose_max)
    return bad, outside


@njit(**OPTIONS)
def constant_slopes(out_d, d, rbe):
    for i in range(d.size):
        out_d[i] = at(rbe, i)


@njit(**OPTIONS)
def mkm_value(out, d, z, a0, b0, ar, br, scale, dose_max):
    bad, outside = np.int32(0), np.int32(0)
    for i in range(d.size):
        x, y = d[i], z[i]
        equivalent, _ = isoeffective(a0 * x + b0 * y + b0 * x * x, ar, br)
        out[i] = scale * equivalent
        bad, outside = counted(bad, unusable(x) | unusable(y)), counted(outside, x > dose_max)
    return bad, outside


@njit(**OPTIONS)
def mkm_slopes(out_d, out_z, d, z, a0, b0, ar, br, scale):
    for i in range(d.size):
        x, y = np.float64(d[i]), np.float64(z[i])
        _, slope = isoeffective(a0 * x + b0 * y + b0 * x * x, ar, br)
        out_d[i] = scale * slope * (a0 + 2.0 * b0 * x)
        out_z[i] = scale * slope * b0


@njit(inline="always")
def _lem_effect(x, a, b, threshold, s_max):
    """-ln S, and its slopes by dose, alpha_x_dose and sqrt_beta_x_dose; linear beyond the transition dose."""
    T = type(x)
    beyond = x > threshold
    t = threshold / x if beyond else T(1.0)  # alpha and beta are a / x and (b / x)^2
    over = x - threshold if beyond else T(0.0)
    bent = (s_max - (a * t + T(2.0) * b * b * t * t) / x) if beyond else T(0.0)
    return a * t + b * b * t * t + s_max * over, bent, t, T(2.0) * b * t * t


@njit(inline="always")
def _lem_dose(effect, ax, bx, threshold, s_max):
    """Photon dose with this effect, and its slope."""
    T = type(effect)
    at_threshold = ax * threshold + bx * threshold * threshold
    beyond = effect > at_threshold
    dose, slope = isoeffective(effect, ax, bx)
    linear = threshold + (effect - at_threshold) * (T(1.0) / s_max)
    return (linear if beyond else dose), (T(1.0) / s_max if beyond else slope)


@njit(**OPTIONS)
def lem_value(out, d, a, b, ax, bx, threshold, s_max, dose_max):
    bad, outside = np.int32(0), np.int32(0)
    for i in range(d.size):
        x, y, z = d[i], a[i], b[i]
        effect = _lem_effect(x, y, z, threshold, s_max)[0]
        out[i] = _lem_dose(effect, ax, bx, threshold, s_max)[0]
        bad, outside = counted(bad, unusable(x) | unusable(y) | unusable(z)), counted(outside, x > dose_max)
    return bad, outside


@njit(**OPTIONS)
def lem_slopes(out_d, out_a, out_b, d, a, b, ax, bx, threshold, s_max):
    for i in range(d.size):
        effect, by_d, by_a, by_b = _lem_effect(np.float64(d[i]), np.float64(a[i]), np.float64(b[i]), threshold, s_max)
        slope = _lem_dose(effect, ax, bx, threshold, s_max)[1]
        out_d[i], out_a[i], out_b[i] = slope * by_d, slope * by_a, slope * by_b


@njit(inline="always")
def _smk_terms(x, s, t, n, g, al, a_s, b0):
    """z*, z_n, q = z*/z_d, alpha, beta, u = alpha + 2 beta D, and the second-order term within the bracket 1 + ..."""
    T = type(x)
    inverse = T(1.0) / x if x > T(0.0) else T(0.0)
    q = s / t if t > T(0.0) else T(1.0)
    zs, zn = s * inverse, n * inverse
    beta = q * b0 * g * g
    alpha = al + a_s * g + b0 * zs * g * g
    u = alpha + T(2.0) * beta * x
    return zs, zn, q, alpha, beta, u, max(n * (T(0.5) * u * u - beta), T(1e-6) - T(1.0))


@njit(inline="always")
def _beyond_expansion(second, zn, alpha, beta, most):
    """Whether the second-order term is not small: against 1, or against alpha where the dose goes to 0 (there the slope alpha -
    z_n (alpha^2 / 2 - beta) would turn negative, and the effect with it).
    """
    return (abs(second) > most) | (zn * (type(zn)(0.5) * alpha * alpha - beta) > most * alpha)


@njit(inline="always")
def _resistance(zr, p, r_m, k):
    """1/R of the OSMK 2021 at zr = (z_d / z_R)^gamma."""
    T = type(zr)
    return (p * (zr + r_m) + k * (zr + T(1.0))) / ((p + k) * (zr + r_m))


@njit(inline="always")
def _radioresistance(zd, p, z_r, gamma, r_m, k):
    """1/R of the OSMK 2021 and its slope by z_d, in double precision."""
    zr = exp(gamma * log(zd / z_r + 1e-30))
    slope = k / (p + k) * (r_m - 1.0) / (zr + r_m) ** 2 * (gamma * zr / zd if zd > 0.0 else 0.0)
    return _resistance(zr, p, r_m, k), slope


@njit(inline="always")
def _smk_dose(o, d, s, t, n, g, al, a_s, b0, ar, br, scale, correction_max, dose_max):
    """A stage of voxels: effect, then RBE-weighted dose into `o`; g = 1/R, a number or per voxel. Bad ones, ones outside."""
    bad, outside = np.int32(0), np.int32(0)
    for i in range(o.size):
        x, y, z, w = d[i], s[i], t[i], n[i]
        _, zn, _, alpha, beta, _, second = _smk_terms(x, y, z, w, at(g, i), al, a_s, b0)
        o[i] = alpha * x + beta * x * x - log1p(second)
        bad = counted(bad, _any_bad(x, y, z, w))
        outside = counted(outside, _beyond_expansion(second, zn, alpha, beta, correction_max) | (x > dose_max))
    for i in range(o.size):
        o[i] = scale * isoeffective(o[i], ar, br)[0]
    return bad, outside


@njit(**OPTIONS)
def smk_value(out, d, s, t, n, a0, b0, ar, br, scale, correction_max, dose_max):
    bad, outside = np.int32(0), np.int32(0)
    T = type(d[0])
    for a in range(0, d.size, STAGE):
        o, ds, ss, ts, ns = out[a : a + STAGE], d[a : a + STAGE], s[a : a + STAGE], t[a : a + STAGE], n[a : a + STAGE]
        more = _smk_dose(o, ds, ss, ts, ns, T(1.0), a0, T(0.0), b0, ar, br, scale, correction_max, dose_max)
        bad, outside = counted(bad, more[0]), counted(outside, more[1])
    return bad, outside


@njit(**OPTIONS)
def osmk_value(out, d, s, t, n, p, al, a_s, b0, z_r, gamma, r_m, k, ar, br, scale, correction_max, dose_max):
    bad, outside = np.int32(0), np.int32(0)
    T = type(d[0])
    for a in range(0, d.size, STAGE):
        o, ds, ss, ts, ns = out[a : a + STAGE], d[a : a + STAGE], s[a : a + STAGE], t[a : a + STAGE], n[a : a + STAGE]
        for i in range(o.size):
            x = ds[i]
            zd = ts[i] / x if x > T(0.0) else T(0.0)
            o[i] = log(zd * (T(1.0) / z_r) + T(1e-30))
        ps = onward(p, a)
        for i in range(o.size):
            o[i] = _resistance(exp(gamma * o[i]), at(ps, i), r_m, k)
        more = _smk_dose(o, ds, ss, ts, ns, o, al, a_s, b0, ar, br, scale, correction_max, dose_max)
        bad, outside = counted(bad, more[0]), counted(outside, more[1])
    return bad, outside


@njit(inline="always")
def _smk_slopes(x, s, t, n, g, gz, al, a_s, b0):
    """Effect and its slopes by D, z*D, z_dD, z_nD; g = 1/R, gz its slope by z_d."""
    zs, zn, q, alpha, beta, u, second = _smk_terms(x, s, t, n, g, al, a_s, b0)
    per_t = 1.0 / t if t > 0.0 else 0.0
    zd = t / x if x > 0.0 else 0.0
    n_per_t = n * per_t
    ag = (a_s + 2.0 * b0 * zs * g) * gz  # d alpha / d z_d through R
    bg = 2.0 * q * b0 * g * gz  # d beta / d z_d through R
    g2 = g * g
    # slopes of alpha D + beta D^2
    e_d = al + a_s * g - ag * zd + (2.0 * beta - bg * zd) * x
    e_s = b0 * g2 + b0 * g2 * x * x * per_t
    e_t = ag - beta * x * x * per_t + bg * x
    # n times the slopes of u and of beta
    u_d = -zn * (ag * zd + b0 * zs * g2) + 2.0 * n * beta - 2.0 * n * bg * zd
    u_s = zn * b0 * g2 + 2.0 * b0 * g2 * x * n_per_t
    u_t = zn * ag - 2.0 * beta * x * n_per_t + 2.0 * n * bg
    b_d, b_s, b_t = -zn * bg * zd, b0 * g2 * n_per_t, zn * bg - beta * n_per_t
    effect, bracket = alpha * x + beta * x * x - log1p(second), 1.0 + second
    return (
        effect,
        e_d - (u * u_d - b_d) / bracket,
        e_s - (u * u_s - b_s) / bracket,
        e_t - (u * u_t - b_t) / bracket,
        -(0.5 * u * u - beta) / bracket,
    )


@njit(**OPTIONS)
def smk_slopes(out_d, out_s, out_t, out_n, d, s, t, n, a0, b0, ar, br, scale):
    for i in range(d.size):
        x, y, z, w = np.float64(d[i]), np.float64(s[i]), np.float64(t[i]), np.float64(n[i])
        effect, by_d, by_s, by_t, by_n = _smk_slopes(x, y, z, w, 1.0, 0.0, a0, 0.0, b0)
        f = scale * isoeffective(effect, ar, br)[1]
        out_d[i], out_s[i], out_t[i], out_n[i] = f * by_d, f * by_s, f * by_t, f * by_n


@njit(**OPTIONS)
def osmk_slopes(out_d, out_s, out_t, out_n, d, s, t, n, p, al, a_s, b0, z_r, gamma, r_m, k, ar, br, scale):
    for i in range(d.size):
        x, y, z, w = np.float64(d[i]), np.float64(s[i]), np.float64(t[i]), np.float64(n[i])
        g, gz = _radioresistance(z / x if x > 0.0 else 0.0, np.float64(at(p, i)), z_r, gamma, r_m, k)
        effect, by_d, by_s, by_t, by_n = _smk_slopes(x, y, z, w, g, gz, al, a_s, b0)
        f = scale * isoeffective(effect, ar, br)[1]
        out_d[i], out_s[i], out_t[i], out_n[i] = f * by_d, f * by_s, f * by_t, f * by_n
