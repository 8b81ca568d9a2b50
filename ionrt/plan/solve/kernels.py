"""The numba loops over entries: their products with weights and with voxel gradients, and how they are packed for them."""

from __future__ import annotations

import numpy as np
from numba import njit

from ionrt.plan.engine.kernels import MOST_ENERGIES


@njit(nogil=True, cache=True)
def _span(j, first, count, bin_, lowest, spans):
    """First energy of an entry's row within its block, and how many there are; uint64, which needs no test for negatives."""
    if spans.size > 0:
        return np.uint64(spans[j, 0]), np.uint64(spans[j, 1])
    skip = max(lowest[bin_] - first, 0)
    return np.uint64(skip), np.uint64(max(count - skip, 0))


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def forward(first, count, spot, row_start, entry_start, rows, dose, spans, bins, lowest, table, weights, out):
    """out[row, 0] += dose . w and out[row, 1 + k] += (dose table_k) . w, for all blocks.

    `spans` (row of a block; first energy, number) or empty: from `lowest` on. `weights` float32: the sum over a ray's energies
    is float32, that over rays float64 (`out`).
    """
    n_moments = table.shape[1]
    for b in range(first.size):
        used = False
        for s in range(spot[b], spot[b] + count[b]):
            used |= weights[s] != 0.0
        if not used:
            continue
        at = np.uint64(entry_start[b])
        for j in range(row_start[b], row_start[b + 1]):
            i, bin_ = rows[j], bins[rows[j]]
            skip, n = _span(j, first[b], count[b], bin_, lowest, spans)
            s, f = np.uint64(spot[b]) + skip, np.uint64(first[b]) + skip
            total, one, two = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            if n_moments == 0:
                for e in range(n):
                    total += weights[s + e] * dose[at + e]
            elif n_moments == 1:
                for e in range(n):
                    product = weights[s + e] * dose[at + e]
                    total += product
                    one += product * table[bin_, 0, f + e]
            else:
                for e in range(n):
                    product = weights[s + e] * dose[at + e]
                    total += product
                    one += product * table[bin_, 0, f + e]
                    two += product * table[bin_, 1, f + e]
            out[i, 0] += total
            if n_moments > 0:
                out[i, 1] += one
            if n_moments > 1:
                out[i, 2] += two
            for k in range(2, n_moments):
                more = np.float32(0.0)
                for e in range(n):
                    more += weights[s + e] * dose[at + e] * table[bin_, k, f + e]
                out[i, 1 + k] += more
            at += n


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def backward(first, count, spot, row_start, entry_start, rows, dose, spans, bins, lowest, table, g, out):
    """out[spot] += sum over rows of dose (g[row, 0] + sum_k table_k g[row, 1 + k]), for all blocks; rows without slope cost
    nothing.

    `g` float32: sums over 64 rows are float32, those over all rows float64 (`out`).
    """
    n_moments = table.shape[1]
    total = np.zeros(MOST_ENERGIES, np.float32)
    for b in range(first.size):
        at, summed = np.uint64(entry_start[b]), 0
        for j in range(row_start[b], row_start[b + 1]):
            i, bin_ = rows[j], bins[rows[j]]
            skip, n = _span(j, first[b], count[b], bin_, lowest, spans)
            f, g0 = np.uint64(first[b]) + skip, g[i, 0]
            g1 = g[i, 1] if n_moments > 0 else np.float32(0.0)
            g2 = g[i, 2] if n_moments > 1 else np.float32(0.0)
            if n_moments == 0 and g0 != 0.0:
                for e in range(n):
                    total[skip + e] += dose[at + e] * g0
            elif n_moments == 1 and (g0 != 0.0 or g1 != 0.0):
                for e in range(n):
                    total[skip + e] += dose[at + e] * (g0 + g1 * table[bin_, 0, f + e])
            elif n_moments > 1 and (g0 != 0.0 or g1 != 0.0 or g2 != 0.0):
                for e in range(n):
                    total[skip + e] += dose[at + e] * (g0 + g1 * table[bin_, 0, f + e] + g2 * table[bin_, 1, f + e])
            for k in range(2, n_moments):
                if g[i, 1 + k] != 0.0:
                    for e in range(n):
                        total[skip + e] += dose[at + e] * (g[i, 1 + k] * table[bin_, k, f + e])
            at += n
            summed += 1
            if summed == 64 or j + 1 == row_start[b + 1]:
                for e in range(count[b]):
                    out[spot[b] + e] += total[e]
                    total[e] = 0.0
                summed = 0


@njit(nogil=True, cache=True)
def add(out, voxel, part):
    """out[k, voxel] += part[row, k] (float64) of every row; a voxel has one row."""
    for i in range(voxel.size):
        for k in range(part.shape[1]):
            out[k, voxel[i]] += part[i, k]


@njit(nogil=True, cache=True)
def extents(begin, first, count, row_start, entry_start, rows, dose, bins, lowest, new_row, new_bins, n_rows, n_entries):
    """Rows and entries of every group of blocks (from `begin` on, one after another in energy) that `pack` will copy."""
    size = new_bins.size
    low, high = np.full(size, MOST_ENERGIES, np.int32), np.zeros(size, np.int32)
    touched = np.empty(size, np.int32)
    for group in range(begin.size - 1):
        blocks = (begin[group], begin[group + 1])
        n = _extent(blocks, first, count, row_start, entry_start, rows, dose, bins, lowest, new_row, low, high, touched)
        n_rows[group] = n
        for i in touched[:n]:
            n_entries[group] += high[i] - low[i]
            low[i], high[i] = MOST_ENERGIES, 0


@njit(nogil=True, cache=True)
def _extent(blocks, first, count, row_start, entry_start, rows, dose, bins, lowest, new_row, low, high, touched):
    """First and last energy (exclusive, within the group) with dose of every row that stays; how many rows those are."""
    found = 0
    for b in range(blocks[0], blocks[1]):
        at = entry_start[b]
        for j in range(row_start[b], row_start[b + 1]):
            skip = max(lowest[bins[rows[j]]] - first[b], 0)
            n = max(count[b] - skip, 0)
            i = new_row[rows[j]]
            if i >= 0:
                begin, end = 0, n
                while begin < end and dose[at + begin] == 0.0:
                    begin += 1
                while begin < end and dose[at + end - 1] == 0.0:
                    end -= 1
                if begin < end:
                    if high[i] == 0:
                        touched[found] = i
                        found += 1
                    offset = first[b] - first[blocks[0]] + skip
                    low[i], high[i] = min(low[i], offset + begin), max(high[i], offset + end)
            at += n
    return found


@njit(nogil=True, cache=True)
def pack(
    begin, first, count, row_start, entry_start, rows, dose, bins, lowest, new_row, new_bins, out_row_start, out_entry_start,
    out_rows, out_spans, out_dose,
):  # fmt: skip
    """Copy the entries of rows with new_row >= 0, one block per group, rows in the order of their depth (tables are then read
    in order), without zeros at either end of their energies."""
    size = new_bins.size
    low, high = np.full(size, MOST_ENERGIES, np.int32), np.zeros(size, np.int32)
    touched, to = np.empty(size, np.int32), np.empty(size, np.int64)
    for group in range(begin.size - 1):
        blocks = (begin[group], begin[group + 1])
        n = _extent(blocks, first, count, row_start, entry_start, rows, dose, bins, lowest, new_row, low, high, touched)
        here, entry = out_row_start[group], out_entry_start[group]
        mine = touched[:n]
        for i in mine[np.argsort(new_bins[mine], kind="mergesort")]:
            out_rows[here], out_spans[here, 0], out_spans[here, 1] = i, low[i], high[i] - low[i]
            to[i] = entry - low[i]
            here, entry = here + 1, entry + high[i] - low[i]
        for b in range(blocks[0], blocks[1]):
            at = entry_start[b]
            for j in range(row_start[b], row_start[b + 1]):
                skip = max(lowest[bins[rows[j]]] - first[b], 0)
                left = max(count[b] - skip, 0)
                i = new_row[rows[j]]
                if i >= 0:
                    offset = first[b] - first[blocks[0]] + skip
                    for e in range(max(low[i] - offset, 0), min(high[i] - offset, left)):
                        out_dose[to[i] + offset + e] = dose[at + e]
                at += left
        for i in mine:
            low[i], high[i] = MOST_ENERGIES, 0
