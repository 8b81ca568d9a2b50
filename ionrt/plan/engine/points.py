"""Every spot by itself: core and halo at the middle of each voxel within a cut-off of its own, nothing interpolated or shared.

Several times as many entries as the split into core and lattice, but each is the formula: for given spots, for checks of the
split, for comparison with other engines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from ionrt.ions import GY_UM2
from ionrt.plan.engine.kernels import BATCH, distance2, gauss, single, strip, visit
from ionrt.plan.setup.machine import Machine

STEPS = 60  # halvings in search of the cut-off


@dataclass(frozen=True)
class Point:
    """Tables (depth bin, energy): `amplitude` Gy mm2 per 1e6 particles and `variance` mm2 without air of core and halo, `cut2`
    mm2; per depth bin the `widest` cut-off and the `lowest` energy that has dose there; `limit2` mm2 per block of spots, in the
    isocentre plane (None: no other cut-off)."""

    core: np.ndarray
    core_var: np.ndarray
    halo: np.ndarray
    halo_var: np.ndarray
    cut2: np.ndarray
    widest: np.ndarray
    lowest: np.ndarray
    limit2: np.ndarray | None = None


def point_tables(machine: Machine, *, loss: float, cut2: np.ndarray | None = None) -> Point:
    """Outside the cut-off lies the share `loss` of the dose of an energy at every depth; the inside is scaled up to the whole.
    `cut2` (depth, energy) mm2 takes the place of the engine's own cut-off."""
    scale = GY_UM2 / (1.0 - loss) * machine.dose
    weight = machine.halo_weight
    if cut2 is None:
        air = machine.air[:, 0]
        cut2 = np.where(machine.dose > 0.0, _radius2(machine.core_var + air, machine.halo_var + air, weight, loss), -1.0)
    doses = cut2 >= 0.0
    lowest = np.where(doses.any(axis=1), doses.argmax(axis=1), doses.shape[1])
    core, halo = single((1.0 - weight) * scale), single(weight * scale)
    return Point(core, single(machine.core_var), halo, single(machine.halo_var), cut2, cut2.max(axis=1), lowest)


def _radius2(narrow: np.ndarray, wide: np.ndarray, weight: np.ndarray, loss: float) -> np.ndarray:
    """Squared radius outside which two Gaussians leave `loss`, by halving."""
    low, high = np.zeros_like(narrow), 2.0 * np.maximum(narrow, wide) * np.log(1.0 / loss)
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        outside = (1.0 - weight) * np.exp(-0.5 * middle / narrow) + weight * np.exp(-0.5 * middle / wide)
        low, high = np.where(outside > loss, middle, low), np.where(outside > loss, high, middle)
    return high


def count_points(point: Point, where: tuple, part: slice) -> np.ndarray:
    """Entries of every spot of the blocks."""
    out = np.zeros(where[3].sum(), np.int64)
    _count(*where, _limit(point, where, part), point.cut2, out)  # type: ignore[call-arg]
    return out


def fill_points(
    point: Point, air: np.ndarray, where: tuple, part: slice, row_start: np.ndarray, index: np.ndarray, dose: np.ndarray
) -> None:
    """Rows and dose (Gy per 1e6 particles) of every spot of the blocks."""
    tables = (point.core, point.core_var, point.halo, point.halo_var, bool(point.halo.any()), air)
    _fill(*where, _limit(point, where, part), point.cut2, *tables, row_start[:-1].copy(), index, dose)  # type: ignore[call-arg]


def _limit(point: Point, where: tuple, part: slice) -> np.ndarray:
    return np.full(where[0].size, np.inf) if point.limit2 is None else point.limit2[part]


@njit(nogil=True, cache=True)
def _count(
    u, v, first, count, lowest, bev, bins, widest, bucket, n_bucket, origin, size, reach, source, limit2, cut2, counts
):  # fmt: skip
    row, start = np.empty(bins.size, np.int32), 0
    for b in range(u.size):
        near = (lowest, bev, bins, widest, bucket, n_bucket, origin, size, reach, source, limit2[b])
        n, _ = visit(u[b], v[b], first[b], count[b], *near, row)
        for i in row[:n]:
            r2 = distance2(u[b], v[b], bev, i, source)
            low = max(first[b], lowest[bins[i]])
            d, e, to = np.uint64(bins[i]), np.uint64(low), np.uint64(start + low - first[b])
            for k in range(np.uint64(first[b] + count[b] - low)):
                counts[to + k] += r2 <= cut2[d, e + k]
        start += count[b]


@njit(nogil=True, cache=True)
def _fill(
    u, v, first, count, lowest, bev, bins, widest, bucket, n_bucket, origin, size, reach, source, limit2, cut2,
    core, core_var, halo, halo_var, both, air, at, index, dose,
):  # fmt: skip
    row, r2 = np.empty(bins.size, np.int32), np.empty(bins.size)
    depth, place = np.empty(bins.size, np.uint64), np.empty(bins.size, np.int64)
    by_energy = np.ascontiguousarray(cut2.T)
    amplitudes, variances, halves = np.empty(BATCH, np.float32), np.empty(BATCH, np.float32), np.empty(BATCH, np.float32)
    value, more = np.empty(BATCH, np.float32), np.empty(BATCH, np.float32)
    start = 0
    for b in range(u.size):
        near = (lowest, bev, bins, widest, bucket, n_bucket, origin, size, reach, source, limit2[b])
        n, _ = visit(u[b], v[b], first[b], count[b], *near, row)
        high, begin = first[b] + count[b], 0
        while begin < n:
            end, used = begin, 0
            while end < n and used + count[b] <= BATCH:
                i = row[end]
                low = max(first[b], lowest[bins[i]])
                r2[end] = distance2(u[b], v[b], bev, i, source)
                strip(core, core_var, air, bins[i], low, high, bev[i, 2], r2[end], used, amplitudes, variances, halves)
                depth[end], place[end] = bins[i], used - low
                used += high - low
                end += 1
            gauss(amplitudes[:used], variances[:used], halves[:used], value[:used])
            if both:
                used = 0
                for j in range(begin, end):
                    i = row[j]
                    low = max(first[b], lowest[bins[i]])
                    strip(halo, halo_var, air, bins[i], low, high, bev[i, 2], r2[j], used, amplitudes, variances, halves)
                    used += high - low
                gauss(amplitudes[:used], variances[:used], halves[:used], more[:used])
                value[:used] += more[:used]
            for e in range(first[b], high):
                spot = start + e - first[b]
                to = at[spot]
                for j in range(begin, end):
                    if r2[j] <= by_energy[e, depth[j]]:
                        index[to], dose[to] = row[j], value[place[j] + e]
                        to += 1
                at[spot] = to
            begin = end
        start += count[b]
