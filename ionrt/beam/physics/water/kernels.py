"""Numba kernels of the transport: everything lives on s = residual range + depth, so slowing down is exact."""

from __future__ import annotations

import numpy as np
from numba import njit

FEWEST = 3e-6  # reactions per primary and step that are worth a set of fragments of their own


@njit(nogil=True, cache=True)
def deposit(state, bounds, species, cell, number, th2, xth, xx):  # pragma: no cover
    """Put `number` particles at fractional cell position, keeping number and first moment; returns the cells used."""
    last = state.shape[2] - 1
    x = min(max(cell, 0.0), last - 1.0)
    k = int(x)
    f = x - k
    for q, part in ((k, number * (1 - f)), (k + 1, number * f)):
        state[0, species, q] += part
        state[1, species, q] += part * th2
        state[2, species, q] += part * xth
        state[3, species, q] += part * xx
    bounds[species, 0] = min(bounds[species, 0], k)
    bounds[species, 1] = max(bounds[species, 1], k + 2)
    return k, f


@njit(nogil=True, cache=True)
def smear(state, bounds, species, low, high, number, th2, xth, xx, kinetic, i):  # pragma: no cover
    """Put `number` particles evenly on the cells from `low` to `high`; returns their kinetic energy."""
    last = state.shape[2] - 1
    high = min(high, last - 1.0)
    first, end = int(low), int(high)
    total = 0.0
    for k in range(first, end + 1):
        part = number * (min(high, k + 1.0) - max(low, k * 1.0)) / (high - low)
        state[0, species, k] += part
        state[1, species, k] += part * th2
        state[2, species, k] += part * xth
        state[3, species, k] += part * xx
        total += part * kinetic[species, k - i]
    bounds[species, 0] = min(bounds[species, 0], first)
    bounds[species, 1] = max(bounds[species, 1], end + 1)
    return total


@njit(nogil=True, cache=True)
def emit(state, bounds, kinetic, i, rate, th2, xth, xx, species, low, high, number, dtheta2):  # pragma: no cover
    """Deposit the fragments of `rate` reactions at cell offset `i`; returns the kinetic energy sent on.

    `low` and `high` are residual ranges in cells; fragments fill the interval, or share two cells if it is short.
    """
    total = 0.0
    for e in range(species.size):
        w = rate * number[e]
        if w <= 0.0:
            continue
        j, t = species[e], th2 + dtheta2[e]
        if high[e] - low[e] > 1.0 and low[e] + i < state.shape[2] - 3:
            total += smear(state, bounds, j, low[e] + i, high[e] + i, w, t, xth, xx, kinetic, i)
            continue
        k, f = deposit(state, bounds, j, max(0.5 * (low[e] + high[e]) - 0.5, 0.0) + i, w, t, xth, xx)
        total += w * ((1 - f) * kinetic[j, k - i] + f * kinetic[j, k - i + 1])
    return total


@njit(nogil=True, cache=True)
def collect(state, i, j, lo, hi, share, kinetic, which, histogram):  # pragma: no cover
    """Take the share that reacts out of each cell of species `j` and sum it up by energy bin; returns (first, last) bin."""
    histogram[:] = 0.0
    first, last = histogram.shape[1], -1
    for k in range(lo, hi):
        m = k - i
        b, n = which[j, m], state[0, j, k]
        if n <= 0.0 or b < 0:
            continue
        f = share[j, m]
        first, last = min(first, b), max(last, b)
        histogram[4, b] += n * f * kinetic[j, m]
        for q in range(4):
            histogram[q, b] += state[q, j, k] * f
            state[q, j, k] *= 1.0 - f
    return first, last


@njit(nogil=True, cache=True)
def react(state, bounds, i, share, kinetic, which, pointer, species, low, high, number, dtheta2, local, histogram):
    # pragma: no cover
    """One nuclear step of all secondaries; returns (local energy, neutral energy).

    `share` of each cell reacts. Bins are joined with the following ones until `FEWEST` reactions have come together.
    """
    local_energy, neutral = 0.0, 0.0
    joined = np.zeros(6)  # reactions, their theta2, x theta, x2, energy, and reactions x bin
    for j in range(share.shape[0]):
        lo, hi = max(bounds[j, 0], i), bounds[j, 1]
        if hi <= lo or share[j, share.shape[1] - 1] <= 0.0:
            continue
        first, last = collect(state, i, j, lo, hi, share, kinetic, which, histogram)
        joined[:] = 0.0
        for b in range(first, last + 1):
            joined[:5] += histogram[:, b]
            joined[5] += histogram[0, b] * b
            rate = joined[0]
            if rate <= 0.0 or (rate < FEWEST and b < last):
                continue
            at = int(joined[5] / rate + 0.5)
            e0, e1 = pointer[j, at], pointer[j, at + 1]
            th2, xth, xx = joined[1] / rate, joined[2] / rate, joined[3] / rate
            ends = (species[e0:e1], low[e0:e1], high[e0:e1], number[e0:e1], dtheta2[e0:e1])
            sent = emit(state, bounds, kinetic, i, rate, th2, xth, xx, *ends)
            here = min(rate * local[j, at], max(joined[4] - sent, 0.0))
            local_energy += here
            neutral += joined[4] - sent - here
            joined[:] = 0.0
    return local_energy, neutral


@njit(nogil=True, cache=True)
def drift(state, bounds, i, step, power):  # pragma: no cover
    """Fermi-Eyges over one step: angles turn into displacement, scattering adds angle."""
    for j in range(state.shape[1]):
        for k in range(max(bounds[j, 0], i), bounds[j, 1]):
            n = state[0, j, k]
            if n <= 0.0:
                continue
            t = n * power[j, k - i] * step
            a, b = state[1, j, k], state[2, j, k]
            state[3, j, k] += step * (2 * b + a * step) + t * step * step / 3
            state[2, j, k] += a * step + t * step / 2
            state[1, j, k] = a + t


@njit(nogil=True, cache=True, fastmath=True)
def score(state, bounds, i, d_kinetic, d_let, d_path, out):  # pragma: no cover
    """Energy, LET x energy, path and energy-weighted lateral variance left in the slab that begins at cell i."""
    for j in range(state.shape[1]):
        lo, hi = max(bounds[j, 0], i), bounds[j, 1]
        if hi <= lo:
            continue
        n, xx = state[0, j, lo:hi], state[3, j, lo:hi]
        t, q, p = d_kinetic[j, lo - i : hi - i], d_let[j, lo - i : hi - i], d_path[j, lo - i : hi - i]
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        for k in range(n.size):
            s0 += n[k] * t[k]
            s1 += n[k] * q[k]
            s2 += n[k] * p[k]
            s3 += xx[k] * t[k]
        out[0, j], out[1, j], out[2, j], out[3, j] = s0, s1, s2, s3


@njit(nogil=True, cache=True)
def spread(spectrum, first, low, high, energy, edges):  # pragma: no cover
    """Add `energy` to the bins of `spectrum` from `first` on in proportion to their overlap with the interval (low, high)."""
    nbin = edges.size - 1
    if high <= edges[first + 1] or first == nbin - 1:
        spectrum[first] += energy
        return
    for b in range(first, nbin):
        left = low if b == first else edges[b]
        right = high if b == nbin - 1 else min(high, edges[b + 1])
        spectrum[b] += energy * (right - left) / (high - low)
        if right >= high:
            break


@njit(nogil=True, cache=True)
def score_spectrum(state, bounds, i, d_kinetic, top, bottom, entry, charge, edges, out):  # pragma: no cover
    """Share the energy left in a slab out to (charge, kinetic energy); targets (charge 0) are left out."""
    for j in range(state.shape[1]):
        if charge[j] == 0:
            continue
        for k in range(max(bounds[j, 0], i), bounds[j, 1]):
            m = k - i
            energy = state[0, j, k] * d_kinetic[j, m]
            if energy > 0.0:
                spread(out[charge[j] - 1], entry[j, m], bottom[j, m], top[j, m], energy, edges)


@njit(nogil=True, cache=True)
def bin_of(value, edges):  # pragma: no cover
    """Bin of a geometric grid; the first and last take what lies outside."""
    if value <= edges[0]:
        return 0
    return min(int(np.log(value / edges[0]) / np.log(edges[1] / edges[0])), edges.size - 2)


@njit(nogil=True, cache=True)
def inside_cone(state, bounds, i, charge, angle, out):  # pragma: no cover
    """Number of particles per charge whose direction lies within `angle` (rad) of the axis."""
    for j in range(state.shape[1]):
        if charge[j] == 0:
            continue
        for k in range(max(bounds[j, 0], i), bounds[j, 1]):
            n = state[0, j, k]
            if n > 0.0:
                theta2 = max(state[1, j, k] / n, 1e-12)
                out[charge[j] - 1] += n * (1 - np.exp(-(angle**2) / (2 * theta2)))


@njit(nogil=True, cache=True)
def look_up(values, x):  # pragma: no cover
    """Linear interpolation on a uniform table that begins at 0; zero below."""
    if x <= 0.0:
        return 0.0
    k = min(int(x), values.size - 2)
    return values[k] + (x - k) * (values[k + 1] - values[k])


@njit(nogil=True, cache=True)
def mean_between(values, sums, low, high):  # pragma: no cover
    """Mean over an interval of a linearly interpolated table that is zero below 0; `sums` is its running integral."""
    total = 0.0
    for x, sign in ((high, 1.0), (low, -1.0)):
        if x > 0.0:
            k = min(int(x), values.size - 2)
            f = x - k
            total += sign * (sums[k] + f * values[k] + 0.5 * f * f * (values[k + 1] - values[k]))
    return total / (high - low)


@njit(nogil=True, cache=True)
def primary_profile(depth, half, alive, mean, sigma, nodes, weights, kinetic, let, path, sums, spacing, out):
    # pragma: no cover
    """Energy, LET x energy and path per mm of the primaries (Gaussian in s) at each depth.

    The Gaussian is a histogram over `nodes`; within each bin everything is integrated, so that the spike of the stopping
    power at the end of range is not missed between two nodes. Far from there every eighth node will do.
    """
    for d in range(depth.size):
        far = mean - depth[d] > 20 * sigma[d] + half
        step = 8 if far else 1
        bin_half = 0.5 * step * sigma[d] * (nodes[1] - nodes[0]) / spacing
        scale = alive[d] / (2 * half) / weights[::step].sum()
        for q in range(0, nodes.size, step):
            residual = (mean + sigma[d] * nodes[q] - depth[d]) / spacing
            up, down = residual + half / spacing, residual - half / spacing
            if up + bin_half <= 0.0:
                continue
            w = weights[q] * scale
            for c, table in enumerate((kinetic, let, path)):
                gone = mean_between(table, sums[c], up - bin_half, up + bin_half)
                gone -= mean_between(table, sums[c], down - bin_half, down + bin_half)
                out[c, d] += w * gone


@njit(nogil=True, cache=True)
def primary_spectrum(depth, half, alive, mean, sigma, nodes, weights, kinetic, sums, spacing, mass, edges, out):
    # pragma: no cover
    """Spectrum of the energy that the primaries leave around each node depth (MeV per mm)."""
    for d in range(depth.size):
        bin_half = 0.5 * sigma[d] * (nodes[1] - nodes[0]) / spacing
        for q in range(nodes.size):
            residual = (mean + sigma[d] * nodes[q] - depth[d]) / spacing
            up, down = residual + half / spacing, residual - half / spacing
            gone = mean_between(kinetic, sums, up - bin_half, up + bin_half)
            gone -= mean_between(kinetic, sums, down - bin_half, down + bin_half)
            if gone > 0.0:
                high, low = look_up(kinetic, up + bin_half), look_up(kinetic, down - bin_half)
                first = bin_of(low / mass, edges)
                spread(out[d], first, low / mass, high / mass, weights[q] * gone * alive[d] / (2 * half), edges)
