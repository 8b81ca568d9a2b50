"""The numba loops: which voxels a ray sees, their dose per spot, and the products with weights and with voxel gradients.

Entries lie ray by ray, voxel by voxel, with the energies of the block side by side: one voxel index serves all of them, and
tables over (depth bin, moment, energy) are read in the same order as the dose.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def count_rows(u, v, first, count, last, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, out):
    """Number of voxels within the cut-off of every block."""
    none = np.empty(0, np.int32)
    for b in range(u.size):
        deepest = last[first[b] + count[b] - 1]
        out[b] = _visit(u[b], v[b], deepest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, none)


@njit(nogil=True, cache=True)
def _visit(u, v, deepest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, rows):
    found = 0
    iu, iv = int((u - origin[0]) / size), int((v - origin[1]) / size)
    for jv in range(max(iv - reach, 0), min(iv + reach + 1, n_bucket[1])):
        j0, j1 = jv * n_bucket[0] + max(iu - reach, 0), jv * n_bucket[0] + min(iu + reach + 1, n_bucket[0])
        if j1 <= j0:
            continue
        for i in range(bucket[j0], bucket[j1]):
            if bins[i] > deepest:
                continue
            du = (bev[i, 0] - u) * (1.0 - bev[i, 2] / source[0])
            dv = (bev[i, 1] - v) * (1.0 - bev[i, 2] / source[1])
            if du * du + dv * dv <= cut2[bins[i]]:
                if rows.size > 0:
                    rows[found] = i
                found += 1
    return found


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def fill(
    u,
    v,
    first,
    count,
    last,
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
    for b in range(u.size):
        deepest = last[first[b] + count[b] - 1]
        mine = rows[row_start[b] : row_start[b + 1]]
        if mine.size == 0:
            continue
        _visit(u[b], v[b], deepest, bev, bins, cut2, bucket, n_bucket, origin, size, reach, source, mine)
        at = entry_start[b]
        for i in mine:
            w, d = bev[i, 2], bins[i]
            du = (bev[i, 0] - u[b]) * (1.0 - w / source[0])
            dv = (bev[i, 1] - v[b]) * (1.0 - w / source[1])
            half = -0.5 * (du * du + dv * dv)
            for e in range(first[b], first[b] + count[b]):
                value = 0.0
                if amplitude[d, e] > 0.0:
                    inverse = 1.0 / (variance[d, e] + air[e, 0] + w * (air[e, 1] + w * air[e, 2]))
                    value = amplitude[d, e] * inverse * np.exp(half * inverse) * (0.5 / np.pi)
                dose[at] = value
                at += 1


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def forward(first, count, spot, row_start, entry_start, rows, dose, bins, table, weights, out):
    """out[row, 0] += dose . w and out[row, 1 + k] += (dose table_k) . w, for all blocks."""
    n_moments = table.shape[1]
    product = np.empty(256)
    for b in range(first.size):
        ne, f = count[b], first[b]
        w = weights[spot[b] : spot[b] + ne]
        if not np.any(w != 0.0):
            continue
        at = entry_start[b]
        for j in range(row_start[b], row_start[b + 1]):
            i = rows[j]
            total = 0.0
            for e in range(ne):
                product[e] = w[e] * dose[at + e]
                total += product[e]
            out[i, 0] += total
            for k in range(n_moments):
                t = table[bins[i], k]
                total = 0.0
                for e in range(ne):
                    total += product[e] * t[f + e]
                out[i, 1 + k] += total
            at += ne


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def backward(first, count, spot, row_start, entry_start, rows, dose, bins, table, g, out):
    """out[spot] += sum over rows of dose (g[row, 0] + sum_k table_k g[row, 1 + k]), for all blocks."""
    n_moments = table.shape[1]
    slope, total = np.empty(256), np.empty(256)
    for b in range(first.size):
        ne, f = count[b], first[b]
        total[:ne] = 0.0
        at = entry_start[b]
        for j in range(row_start[b], row_start[b + 1]):
            i = rows[j]
            for e in range(ne):
                slope[e] = g[i, 0]
            for k in range(n_moments):
                t, gk = table[bins[i], k], g[i, 1 + k]
                for e in range(ne):
                    slope[e] += gk * t[f + e]
            for e in range(ne):
                total[e] += slope[e] * dose[at + e]
            at += ne
        for e in range(ne):
            out[spot[b] + e] += total[e]


@njit(nogil=True, cache=True)
def keep_rows(count, row_start, entry_start, rows, dose, new_row, out_row_start, out_entry_start, out_rows, out_dose):
    """Copy the entries of rows with new_row >= 0; with empty outputs only count them into out_row_start[1:]."""
    counting = out_rows.size == 0
    for b in range(count.size):
        ne = count[b]
        to = 0 if counting else out_row_start[b]
        entry = 0 if counting else out_entry_start[b]
        at = entry_start[b]
        for j in range(row_start[b], row_start[b + 1]):
            i = new_row[rows[j]]
            if i >= 0:
                if not counting:
                    out_rows[to] = i
                    out_dose[entry : entry + ne] = dose[at : at + ne]
                to += 1
                entry += ne
            at += ne
        if counting:
            out_row_start[b + 1] = to  # the caller sums them up
