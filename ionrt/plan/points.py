"""Every spot by itself: core and halo at the middle of each voxel within a cut-off of its own, nothing interpolated or shared.

Several times as many entries as the split into core and lattice, but each is the formula: for given spots, for checks of the
split, for comparison with other engines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from ionrt.plan.components import GY_PER_MEV_MM
from ionrt.plan.machine import Machine

STEPS = 60  # halvings in search of the cut-off


@dataclass(frozen=True)
class Point:
    """Tables (depth bin, energy): `amplitude` Gy mm2 per 1e6 particles and `variance` mm2 without air of core and halo, `cut2`
    mm2; `limit2` mm2 per block of spots, in the isocentre plane (None: no other cut-off)."""

    core: np.ndarray
    core_var: np.ndarray
    halo: np.ndarray
    halo_var: np.ndarray
    cut2: np.ndarray
    limit2: np.ndarray | None = None


def point_tables(machine: Machine, *, loss: float, cut2: np.ndarray | None = None) -> Point:
    """Outside the cut-off lies the share `loss` of the dose of an energy at every depth; the inside is scaled up to the whole.
    `cut2` (depth, energy) mm2 takes the place of the engine's own cut-off."""
    scale = GY_PER_MEV_MM / (1.0 - loss) * machine.dose
    weight = machine.halo_weight
    if cut2 is None:
        air = machine.air[:, 0]
        cut2 = np.where(machine.dose > 0.0, _radius2(machine.core_var + air, machine.halo_var + air, weight, loss), -1.0)
    return Point((1.0 - weight) * scale, machine.core_var, weight * scale, machine.halo_var, cut2)


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
    u, _, _, count = where[:4]
    start = np.concatenate([[0], np.cumsum(count)])
    out = np.zeros(start[-1], np.int64)
    _count(*where, start, _limit(point, u, part), point.cut2, point.cut2.max(axis=1), out)  # type: ignore[call-arg]
    return out


def fill_points(
    point: Point, air: np.ndarray, where: tuple, part: slice, row_start: np.ndarray, index: np.ndarray, dose: np.ndarray
) -> None:
    """Rows and dose (Gy per 1e6 particles) of every spot of the blocks."""
    u, _, _, count = where[:4]
    start = np.concatenate([[0], np.cumsum(count)])
    tables = (point.core, point.core_var, point.halo, point.halo_var, air, bool(point.halo.any()))
    cuts = (_limit(point, u, part), point.cut2, point.cut2.max(axis=1))
    _fill(*where, start, *cuts, *tables, row_start[:-1].copy(), index, dose)  # type: ignore[call-arg]


def _limit(point: Point, u: np.ndarray, part: slice) -> np.ndarray:
    return np.full(u.size, np.inf) if point.limit2 is None else point.limit2[part]


@njit(nogil=True, cache=True)
def _count(u, v, first, count, bev, bins, bucket, n_bucket, origin, size, reach, source, start, limit2, cut2, widest, counts):
    for b in range(u.size):
        iu, iv = int((u[b] - origin[0]) / size), int((v[b] - origin[1]) / size)
        for jv in range(max(iv - reach, 0), min(iv + reach + 1, n_bucket[1])):
            j0, j1 = jv * n_bucket[0] + max(iu - reach, 0), jv * n_bucket[0] + min(iu + reach + 1, n_bucket[0])
            if j1 <= j0:
                continue
            for i in range(bucket[j0], bucket[j1]):
                du, dv, d = bev[i, 0] - u[b], bev[i, 1] - v[b], bins[i]
                if du * du + dv * dv > limit2[b]:
                    continue
                r2 = (du * (1.0 - bev[i, 2] / source[0])) ** 2 + (dv * (1.0 - bev[i, 2] / source[1])) ** 2
                if r2 > widest[d]:
                    continue
                for e in range(count[b]):
                    if r2 <= cut2[d, first[b] + e]:
                        counts[start[b] + e] += 1


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def _fill(
    u, v, first, count, bev, bins, bucket, n_bucket, origin, size, reach, source, start, limit2, cut2, widest,
    core, core_var, halo, halo_var, air, both, at, index, dose,
):  # fmt: skip
    for b in range(u.size):
        iu, iv = int((u[b] - origin[0]) / size), int((v[b] - origin[1]) / size)
        for jv in range(max(iv - reach, 0), min(iv + reach + 1, n_bucket[1])):
            j0, j1 = jv * n_bucket[0] + max(iu - reach, 0), jv * n_bucket[0] + min(iu + reach + 1, n_bucket[0])
            if j1 <= j0:
                continue
            for i in range(bucket[j0], bucket[j1]):
                w, du, dv, d = bev[i, 2], bev[i, 0] - u[b], bev[i, 1] - v[b], bins[i]
                if du * du + dv * dv > limit2[b]:
                    continue
                r2 = (du * (1.0 - w / source[0])) ** 2 + (dv * (1.0 - w / source[1])) ** 2
                if r2 > widest[d]:
                    continue
                for k in range(count[b]):
                    e = first[b] + k
                    if r2 > cut2[d, e]:
                        continue
                    beam = air[e, 0] + w * (air[e, 1] + w * air[e, 2])
                    inverse = 0.5 / (core_var[d, e] + beam)
                    value = core[d, e] * inverse * np.exp(-r2 * inverse)
                    if both:
                        inverse = 0.5 / (halo_var[d, e] + beam)
                        value += halo[d, e] * inverse * np.exp(-r2 * inverse)
                    to = at[start[b] + k]
                    index[to] = i
                    dose[to] = value * (1.0 / np.pi)
                    at[start[b] + k] = to + 1
