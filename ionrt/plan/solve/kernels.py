"""The numba loops over entries: their products with weights and with voxel gradients, and how they are packed for them."""

from __future__ import annotations

import numpy as np
from numba import njit

from ionrt.plan.engine.kernels import MOST_ENERGIES

ROUNDING = {"reassoc", "contract", "nsz"}
LEAST_ROWS, MOST_ROWS = 8, 128  # of a run: fewer are done one by one, more are more runs, since its sums are float32


@njit(nogil=True, cache=True)
def runs_of(row_start, rows, bins, spans):
    """Runs of rows of a block at one depth, with the same energies, whose entries so are a matrix: per run depth bin, first
    energy within the block, number of energies, number of rows (1 where they are few); and where those of each block begin."""
    runs, start, found = np.empty((rows.size, 4), np.uint16), np.zeros(row_start.size, np.int64), 0
    for b in range(row_start.size - 1):
        j = row_start[b]
        while j < row_start[b + 1]:
            bin_, low, number, n = bins[rows[j]], spans[j, 0], spans[j, 1], 1
            last = min(row_start[b + 1], j + MOST_ROWS)
            while j + n < last and bins[rows[j + n]] == bin_ and spans[j + n, 0] == low and spans[j + n, 1] == number:
                n += 1
            n = n if n >= LEAST_ROWS else 1
            runs[found, 0], runs[found, 1], runs[found, 2], runs[found, 3] = bin_, low, number, n
            j, found = j + n, found + 1
        start[b + 1] = found
    return runs[:found].copy(), start


@njit(nogil=True, cache=True)
def _run(q, i, first, count, bins, lowest, runs):
    """Depth bin, first energy within the block, number of energies and of rows of run `q`, or of row `i` alone."""
    if runs.size > 0:
        return runs[q, 0], np.uint64(runs[q, 1]), np.uint64(runs[q, 2]), np.int64(runs[q, 3])
    skip = max(lowest[bins[i]] - first, 0)
    return bins[i], np.uint64(skip), np.uint64(max(count - skip, 0)), 1


@njit(nogil=True, cache=True, fastmath=ROUNDING)
def _times(dose, n, both, rows, k, out):
    """out[row, k] += dose . both[0], and with both[1] in the next column if there is one; `dose` (row, n energies)."""
    one, two = both[0], both[1]
    pair = k + 1 < out.shape[1]
    for r in range(rows.size):
        own = dose[r * n : (r + 1) * n]
        first, second = np.float32(0.0), np.float32(0.0)
        for e in range(n):
            first += one[e] * own[e]
            second += two[e] * own[e]
        out[rows[r], k] += first
        if pair:
            out[rows[r], k + 1] += second


@njit(nogil=True, cache=True, fastmath=ROUNDING)
def _transposed(dose, n, g, k, rows, both):
    """both[0] = sum over rows of g[row, k] dose, and both[1] with the next column if there is one; `dose` (row, n energies)."""
    one, two = both[0], both[1]
    for e in range(n):
        one[e], two[e] = 0.0, 0.0
    pair, begin = k + 1 < g.shape[1], 0
    while begin < rows.size and g[rows[begin], k] == 0.0 and not (pair and g[rows[begin], k + 1] != 0.0):
        begin += 1  # a test of every row would take longer than its product
    for r in range(begin, rows.size):
        own, first = dose[r * n : (r + 1) * n], g[rows[r], k]
        second = g[rows[r], k + 1] if pair else np.float32(0.0)
        for e in range(n):
            one[e] += first * own[e]
            two[e] += second * own[e]


@njit(nogil=True, cache=True, fastmath=ROUNDING)
def forward(first, count, spot, row_start, entry_start, rows, dose, runs, run_start, bins, lowest, table, weights, out):
    """out[row, 0] += dose . w and out[row, 1 + k] += (dose table_k) . w, for all blocks.

    `runs` of rows, or empty: each row by itself, with the energies from `lowest` on. `weights` float32: the sum over a ray's
    energies is float32, that over rays float64 (`out`).
    """
    n_moments = table.shape[1]
    both = np.zeros((2, MOST_ENERGIES), np.float32)
    for b in range(first.size):
        if not np.any(weights[spot[b] : spot[b] + count[b]]):
            continue
        at, j, q = np.uint64(entry_start[b]), row_start[b], run_start[b]
        while j < row_start[b + 1]:
            i = rows[j]
            bin_, skip, n, alike = _run(q, i, first[b], count[b], bins, lowest, runs)
            s, f = np.uint64(spot[b]) + skip, np.uint64(first[b]) + skip
            if alike > 1:
                for k in range(0, 1 + n_moments, 2):
                    for e in range(n):
                        both[0, e] = weights[s + e] * table[bin_, k - 1, f + e] if k > 0 else weights[s + e]
                        both[1, e] = weights[s + e] * table[bin_, k, f + e] if k < n_moments else np.float32(0.0)
                    _times(dose[at : at + np.uint64(alike) * n], np.int64(n), both, rows[j : j + alike], k, out)
                at, j, q = at + np.uint64(alike) * n, j + alike, q + 1
                continue
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
            at, j, q = at + n, j + 1, q + 1


@njit(nogil=True, cache=True, fastmath=ROUNDING)
def backward(first, count, spot, row_start, entry_start, rows, dose, runs, run_start, bins, lowest, table, g, out):
    """out[spot] += sum over rows of dose (g[row, 0] + sum_k table_k g[row, 1 + k]), for all blocks; runs without slope cost
    nothing.

    `g` float32: sums over 64 rows, or over those of a run, are float32, those over all rows float64 (`out`).
    """
    n_moments = table.shape[1]
    total, both = np.zeros(MOST_ENERGIES, np.float32), np.zeros((2, MOST_ENERGIES), np.float32)
    for b in range(first.size):
        at, j, q, summed = np.uint64(entry_start[b]), row_start[b], run_start[b], 0
        while j < row_start[b + 1]:
            i = rows[j]
            bin_, skip, n, alike = _run(q, i, first[b], count[b], bins, lowest, runs)
            f = np.uint64(first[b]) + skip
            if alike > 1:
                for k in range(0, 1 + n_moments, 2):
                    _transposed(dose[at : at + np.uint64(alike) * n], np.int64(n), g, k, rows[j : j + alike], both)
                    for e in range(n):
                        total[skip + e] += both[0, e] * table[bin_, k - 1, f + e] if k > 0 else both[0, e]
                        total[skip + e] += both[1, e] * table[bin_, k, f + e] if k < n_moments else np.float32(0.0)
            else:
                g0 = g[i, 0]
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
            at, j, q, summed = at + np.uint64(alike) * n, j + alike, q + 1, summed + alike
            if summed >= 64 or j == row_start[b + 1]:
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
def _by_depth(rows, bins, depths):
    """The same rows in the order of their depth bins, of `depths`; those of one bin as they came."""
    place, out = np.zeros(depths + 1, np.int64), np.empty_like(rows)
    for i in rows:
        place[bins[i] + 1] += 1
    place = np.cumsum(place)
    for i in rows:
        out[place[bins[i]]] = i
        place[bins[i]] += 1
    return out


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
        for i in _by_depth(mine, new_bins, lowest.size):
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
