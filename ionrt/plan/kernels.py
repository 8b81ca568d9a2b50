"""The numba loops: which voxels a ray sees, their dose per spot, and the products with weights and with voxel gradients.

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
        n_rows[b], n_entries[b] = _visit(
            u[b], v[b], first[b], count[b], lowest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, none
        )


@njit(nogil=True, cache=True)
def _visit(u, v, first, count, lowest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, rows):
    found, entries = 0, 0
    iu, iv = int((u - origin[0]) / size), int((v - origin[1]) / size)
    for jv in range(max(iv - reach, 0), min(iv + reach + 1, n_bucket[1])):
        j0, j1 = jv * n_bucket[0] + max(iu - reach, 0), jv * n_bucket[0] + min(iu + reach + 1, n_bucket[0])
        if j1 <= j0:
            continue
        for i in range(bucket[j0], bucket[j1]):
            left = count - max(lowest[bins[i]] - first, 0)
            if left <= 0:
                continue
            du = (bev[i, 0] - u) * (1.0 - bev[i, 2] / source[0])
            dv = (bev[i, 1] - v) * (1.0 - bev[i, 2] / source[1])
            if du * du + dv * dv <= cut2[bins[i]]:
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
        f, n = first[b], count[b]
        _visit(u[b], v[b], f, n, lowest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, mine)
        for i in mine:
            w, d = bev[i, 2], bins[i]
            du = (bev[i, 0] - u[b]) * (1.0 - w / source[0])
            dv = (bev[i, 1] - v[b]) * (1.0 - w / source[1])
            low, high = max(f, lowest[d]), f + n
            if at + high - low - done > BATCH:
                gauss(amplitudes[: at - done], variances[: at - done], halves[: at - done], dose[done:at])
                done = at
            strip(amplitude, variance, air, d, low, high, w, du * du + dv * dv, at - done, amplitudes, variances, halves)
            at += high - low
    gauss(amplitudes[: at - done], variances[: at - done], halves[: at - done], dose[done:at])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def forward(first, count, spot, row_start, entry_start, rows, dose, bins, lowest, table, weights, out):
    """out[row, 0] += dose . w and out[row, 1 + k] += (dose table_k) . w, for all blocks.

    `weights` float32: the sum over a ray's energies is float32, that over rays float64 (`out`).
    """
    n_moments = table.shape[1]
    product = np.empty(MOST_ENERGIES, np.float32)
    for b in range(first.size):
        f, n = first[b], count[b]
        w = weights[spot[b] : spot[b] + n]
        if not np.any(w != 0.0):
            continue
        at = entry_start[b]
        for j in range(row_start[b], row_start[b + 1]):
            i = rows[j]
            bin_ = bins[i]
            skip = max(lowest[bin_] - f, 0)
            ne = n - skip
            if ne <= 0:
                continue
            mine, of = w[skip:n], dose[at : at + ne]
            total = np.float32(0.0)
            if n_moments == 1:  # the usual case in one pass
                t = table[bin_, 0, f + skip : f + n]
                moment = np.float32(0.0)
                for e in range(ne):
                    p = mine[e] * of[e]
                    total += p
                    moment += p * t[e]
                out[i, 1] += moment
            else:
                for e in range(ne):
                    product[e] = mine[e] * of[e]
                    total += product[e]
                for k in range(n_moments):
                    t = table[bin_, k, f + skip : f + n]
                    moment = np.float32(0.0)
                    for e in range(ne):
                        moment += product[e] * t[e]
                    out[i, 1 + k] += moment
            out[i, 0] += total
            at += ne


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def backward(first, count, spot, row_start, entry_start, rows, dose, bins, lowest, table, g, out):
    """out[spot] += sum over rows of dose (g[row, 0] + sum_k table_k g[row, 1 + k]), for all blocks.

    `g` float32: sums over 64 rows are float32, those over all rows float64 (`out`).
    """
    total = np.empty(MOST_ENERGIES, np.float32)
    for b in range(first.size):
        n, at, begin = count[b], entry_start[b], row_start[b]
        while begin < row_start[b + 1]:
            end = min(begin + 64, row_start[b + 1])
            total[:n] = 0.0
            at = _add_rows(rows[begin:end], at, first[b], n, dose, bins, lowest, table, g, total)
            for e in range(n):
                out[spot[b] + e] += total[e]
            begin = end


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _add_rows(rows, at, first, count, dose, bins, lowest, table, g, total):
    """Add dose times slope of some rows to the totals of a block; returns the next entry. Apart, so that its loops are SIMD."""
    n_moments = table.shape[1]
    for i in rows:
        bin_ = bins[i]
        skip = max(lowest[bin_] - first, 0)
        ne = count - skip
        if ne <= 0:
            continue
        of, sums, g0 = dose[at : at + ne], total[skip:], g[i, 0]
        if n_moments == 0:
            for e in range(ne):
                sums[e] += g0 * of[e]
        for k in range(n_moments):
            t, gk = table[bin_, k, first + skip :], g[i, 1 + k]
            if k == 0:  # dose and the first moment in one pass
                for e in range(ne):
                    sums[e] += (g0 + gk * t[e]) * of[e]
            else:
                for e in range(ne):
                    sums[e] += gk * t[e] * of[e]
        at += ne
    return at


@njit(nogil=True, cache=True)
def count_kept(first, count, row_start, rows, bins, lowest, new_row, n_rows, n_entries):
    """Rows and entries per block that `keep_rows` will copy."""
    for b in range(count.size):
        for j in range(row_start[b], row_start[b + 1]):
            if new_row[rows[j]] >= 0:
                n_rows[b] += 1
                n_entries[b] += count[b] - max(lowest[bins[rows[j]]] - first[b], 0)


@njit(nogil=True, cache=True)
def keep_rows(
    first, count, row_start, entry_start, rows, dose, bins, lowest, new_row, out_row_start, out_entry_start, out_rows, out_dose
):
    """Copy the entries of rows with new_row >= 0."""
    for b in range(count.size):
        to, entry, at = out_row_start[b], out_entry_start[b], entry_start[b]
        for j in range(row_start[b], row_start[b + 1]):
            ne = count[b] - max(lowest[bins[rows[j]]] - first[b], 0)
            i = new_row[rows[j]]
            if i >= 0:
                out_rows[to] = i
                out_dose[entry : entry + ne] = dose[at : at + ne]
                to += 1
                entry += ne
            at += ne
