"""The numba loops that make entries: which voxels a ray sees, and their dose per spot.

Entries lie ray by ray, voxel by voxel, with the energies of the block side by side: one voxel index serves all of them, and
tables over (depth bin, moment, energy) are read in the same order as the dose. Energies too low to reach a voxel come first
and are left out: `lowest` (depth bin) is the first energy that still has dose there.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MOST_ENERGIES = 256  # per block; the products keep one row of them on the stack
BATCH = 16 * MOST_ENERGIES  # entries whose Gaussians are done together: they stay in the first cache
ROUNDING = {"reassoc", "contract", "nsz", "arcp"}


def single(table: np.ndarray) -> np.ndarray:
    """In float32 and contiguous, as the loops over energies want their tables; of `air` (3, energy)."""
    return np.ascontiguousarray(table, dtype=np.float32)


@njit(nogil=True, cache=True)
def count_rows(u, v, first, count, lowest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, n_rows, n_entries):
    """Number of voxels within the cut-off of every block, and of entries."""
    none = np.empty(0, np.int32)
    for b in range(u.size):
        near = (lowest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, np.inf)
        n_rows[b], n_entries[b] = visit(u[b], v[b], first[b], count[b], *near, none)


@njit(nogil=True, cache=True)
def distance2(u, v, bev, i, source):
    """Squared distance (mm2) of a row from a ray. Counting and filling must agree on it: no liberties with rounding."""
    du = (bev[i, 0] - u) * (1.0 - bev[i, 2] / source[0])
    dv = (bev[i, 1] - v) * (1.0 - bev[i, 2] / source[1])
    return du * du + dv * dv


@njit(nogil=True, cache=True)
def visit(u, v, first, count, lowest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, limit2, rows):
    """Rows that one ray doses, into `rows` unless that is empty; their number and that of entries. `cut2` per depth bin;
    `limit2` mm2 holds in the isocentre plane."""
    found, entries = 0, 0
    iu, iv = int((u - origin[0]) / size), int((v - origin[1]) / size)
    for jv in range(max(iv - reach, 0), min(iv + reach + 1, n_bucket[1])):
        j0, j1 = jv * n_bucket[0] + max(iu - reach, 0), jv * n_bucket[0] + min(iu + reach + 1, n_bucket[0])
        if j1 <= j0:
            continue
        for i in range(bucket[j0], bucket[j1]):
            left = count - max(lowest[bins[i]] - first, 0)
            if left <= 0 or distance2(u, v, bev, i, source) > cut2[bins[i]]:
                continue
            if (bev[i, 0] - u) ** 2 + (bev[i, 1] - v) ** 2 > limit2:
                continue
            if rows.size > 0:
                rows[found] = i
            found += 1
            entries += left
    return found, entries


@njit(nogil=True, cache=True, fastmath=ROUNDING, error_model="numpy")
def gauss(amplitude, variance, half, out):
    """out = amplitude exp(half / variance) / (2 pi variance), entry by entry; `half` is -r2/2, mm2.

    exp(x) to 1e-6 as exp(x / 256)^256, nothing below x = -80: products alone, so that the loop is SIMD.
    """
    for k in range(out.size):
        inverse = 1.0 / variance[k]
        t = max(half[k] * inverse, -80.0) * (1.0 / 256.0)
        y = 1.0 + t * (1.0 + t * (1.0 / 2.0 + t * (1.0 / 6.0 + t * (1.0 / 24.0 + t * (1.0 / 120.0)))))
        y *= y
        y *= y
        y *= y
        y *= y
        y *= y
        y *= y
        y *= y
        y *= y
        out[k] = amplitude[k] * inverse * y * (0.5 / np.pi)


@njit(nogil=True, cache=True, fastmath=ROUNDING)
def strip(amplitude, variance, air, d, low, high, w, r2, to, amplitudes, variances, halves):
    """Energies low..high of one ray at a voxel of depth bin `d`, laid out for `gauss` from `to` on; `w` mm from the isocentre.

    Unsigned indices: signed ones may count from the end, and the test for it keeps the loop from being SIMD.
    """
    d, e, to = np.uint64(d), np.uint64(low), np.uint64(to)
    half, w = np.float32(-0.5 * r2), np.float32(w)
    for k in range(np.uint64(high - low)):
        amplitudes[to + k] = amplitude[d, e + k]
        spread = variance[d, e + k] + air[0, e + k] + w * (air[1, e + k] + w * air[2, e + k])
        variances[to + k] = max(spread, np.float32(1e-3))  # what has no amplitude may have no width
        halves[to + k] = half


@njit(nogil=True, cache=True, fastmath=ROUNDING)
def fill(
    u,
    v,
    first,
    count,
    lowest,
    bev,
    bins,
    cut2,
    bucket,
    n_bucket,
    origin,
    size,
    reach,
    source,
    amplitude,
    variance,
    air,
    row_start,
    entry_start,
    rows,
    dose,
):
    """Rows and dose (Gy per 1e6 particles) of every block: amplitude G(r; variance + air)."""
    amplitudes, variances, halves = np.empty(BATCH, np.float32), np.empty(BATCH, np.float32), np.empty(BATCH, np.float32)
    done = at = entry_start[0]
    for b in range(u.size):
        mine = rows[row_start[b] : row_start[b + 1]]
        if mine.size == 0:
            continue
        near = (lowest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, np.inf)
        visit(u[b], v[b], first[b], count[b], *near, mine)
        for i in mine:
            w, d, r2 = bev[i, 2], bins[i], distance2(u[b], v[b], bev, i, source)
            low, high = max(first[b], lowest[d]), first[b] + count[b]
            if at + high - low - done > BATCH:
                gauss(amplitudes[: at - done], variances[: at - done], halves[: at - done], dose[done:at])
                done = at
            strip(amplitude, variance, air, d, low, high, w, r2, at - done, amplitudes, variances, halves)
            at += high - low
    gauss(amplitudes[: at - done], variances[: at - done], halves[: at - done], dose[done:at])
