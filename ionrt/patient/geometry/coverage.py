"""Contours to volume fractions: exact polygon area per pixel, prisms between planes. Plain arrays, no labels.

A contour covers a pixel by the area it cuts out of it (even-odd rule over all contours of a plane, so that nested
contours and keyholes make holes), and a plane stands for a prism as thick as the CT's slice (`plane_bounds`). The sum of
the fractions is therefore the volume of the prism model to rounding, whatever the voxel size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from ionrt.patient.reading.notes import Notes
from ionrt.quantities import IonrtError

ON_SLICE = (0.06, 0.02)  # mm, share of the slice distance: positions written to 0.1 mm still lie on their slice
SAME_PLANE = 0.1  # mm; contours off the slices and closer than this lie in one plane
GAP = 1.5  # planes further apart than this times the usual distance are not joined
SKIPPED = 4  # a structure may be drawn on every second to fourth slice throughout


@dataclass(frozen=True)
class Contours:
    """The closed planar contours of one structure: `points` (n, 3) in mm, LPS; `lengths` vertices per contour; `bounds`
    (contour, 2) from where to where each stands along its axis, mm (None: not yet worked out)."""

    name: str
    points: np.ndarray
    lengths: np.ndarray
    bounds: np.ndarray | None = None

    def flat_along(self) -> int | None:
        """The patient axis (0 x, 1 y, 2 z) along which every contour is flat; None where there is none."""
        if not len(self.lengths):
            return 2
        starts = np.concatenate(([0], np.cumsum(self.lengths)[:-1]))
        extent = np.maximum.reduceat(self.points, starts) - np.minimum.reduceat(self.points, starts)
        return next((axis for axis in (2, 1, 0) if extent[:, axis].max() < 0.1), None)

    def axis(self) -> int:
        """The same; raises where there is none."""
        if (axis := self.flat_along()) is not None:
            return axis
        raise IonrtError(
            f"structure {self.name!r}: expected contours in planes across x, y or z, got oblique or non-planar ones;"
            " export it on the slices of an axis-aligned CT"
        )

    def on_slices(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, *, notes: Notes | None = None) -> Contours:
        """The same contours with the bounds that the slices of this grid (the CT's own) give them; see `plane_bounds`."""
        if not len(self.lengths):
            return replace(self, bounds=np.empty((0, 2)))
        bounds, word = plane_bounds(self, (x, y, z)[self.axis()])
        if word and notes is not None:
            notes.assume(f"structure {self.name!r} {word}", quiet=True)
        return replace(self, bounds=bounds)


def spacing(coordinate: np.ndarray) -> float:
    """Distance between neighbouring voxel centres of a uniform coordinate, mm."""
    if len(coordinate) < 2:
        raise IonrtError(f"expected at least two voxels along each axis, got {len(coordinate)}")
    return float(coordinate[-1] - coordinate[0]) / (len(coordinate) - 1)


def coverage(one: Contours, z: np.ndarray, y: np.ndarray, x: np.ndarray, *, end_caps: bool = True) -> np.ndarray:
    """Exact volume fraction (z, y, x) of one structure on a uniform grid; only its bounding box is worked on."""
    out = np.zeros((len(z), len(y), len(x)), dtype=np.float32)
    if not len(one.lengths):
        return out
    axis = one.axis()
    across, v_axis, u_axis = {2: (z, 1, 0), 1: (y, 2, 0), 0: (x, 2, 1)}[axis]
    u, v = (x, y, z)[u_axis], (x, y, z)[v_axis]
    view = np.moveaxis(out, {2: 0, 1: 1, 0: 2}[axis], 0)  # (plane, v, u)
    bounds = one.bounds if one.bounds is not None else plane_bounds(one, across, end_caps)[0]
    box_u, box_v = _box(one.points[:, u_axis], u), _box(one.points[:, v_axis], v)
    if box_u.stop <= box_u.start or box_v.stop <= box_v.start:
        return out
    for low, high, points, lengths in _planes(one, bounds):
        weights, first = _overlap(low, high, across)
        if not len(weights):
            continue
        pu = (points[:, u_axis] - u[0]) / spacing(u) + 0.5 - box_u.start
        pv = (points[:, v_axis] - v[0]) / spacing(v) + 0.5 - box_v.start
        area = plane_coverage(pu, pv, lengths, box_v.stop - box_v.start, box_u.stop - box_u.start)
        for i, weight in enumerate(weights):
            view[first + i, box_v, box_u] += (weight * area).astype(np.float32)
    return np.clip(out, 0.0, 1.0, out=out)


def plane_bounds(one: Contours, slices: np.ndarray, end_caps: bool = True) -> tuple[np.ndarray, str]:
    """Where each contour's prism begins and ends along its axis (contour, 2), mm, and a word where the rule had to guess.

    Contours that lie on the CT's slices stand for their slice, whatever their neighbours; slices between that are not drawn
    stay empty, which is said. Two exceptions, both said: where most neighbours (of three planes or more) are two to four slices
    apart, planes reach half way to each other; off the slices (drawn on another image of the same frame of reference), their
    own distance counts, and the CT's where there is only one plane.
    """
    parts = np.split(one.points, np.cumsum(one.lengths)[:-1])
    axis, step, word = one.axis(), spacing(slices), ""
    level = np.array([part[:, axis].mean() for part in parts])
    number = np.rint((level - slices[0]) / step)
    nearest = slices[0] + step * number
    if np.abs(level - nearest).max() <= max(ON_SLICE[0], ON_SLICE[1] * step):
        at, which = np.unique(nearest, return_inverse=True)
        gaps = np.rint(np.diff(at) / step).astype(int)
        counts = np.bincount(gaps, minlength=2) if len(at) > 2 else np.array([0, 1])
        often, usual, thick = int(counts.argmax()), step, np.full(len(at), step)
        if 2 <= often <= SKIPPED and 2 * counts[often] > counts.sum():
            usual, near = often * step, np.diff(at, prepend=-np.inf, append=np.inf)
            thick = np.minimum(usual, np.minimum(near[:-1], near[1:]))
            word = f"is drawn on every {often}. slice; its planes reach half way to each other"
        elif len(at) > 1 and gaps.max() > 1:
            word = f"is not drawn on {(gaps - 1).sum()} of the slices between its first and last; they stay empty"
    else:
        order = np.argsort(level, kind="stable")
        group = np.concatenate(([0], np.cumsum(np.diff(level[order]) > SAME_PLANE)))
        which = np.empty(len(level), dtype=np.int64)
        which[order] = group
        at = np.array([level[which == k].mean() for k in range(group[-1] + 1)])
        near = np.diff(at)
        near = near[near <= GAP * near.min()] if len(near) else near
        usual = float(np.median(near)) if len(near) and near.min() <= SKIPPED * step else step
        thick = np.full(len(at), usual)
        word = f"is not drawn on the CT's slices; its planes are taken to be {usual:g} mm thick"
    half = np.diff(at) / 2.0
    joined = np.diff(at) <= GAP * usual
    cap = thick / 2.0 if end_caps else np.zeros(len(at))
    low = at - np.concatenate((cap[:1], np.where(joined, half, cap[1:])))
    high = at + np.concatenate((np.where(joined, half, cap[:-1]), cap[-1:]))
    edges = slices[0] - step / 2.0, slices[-1] + step / 2.0  # a plane within the CT does not reach beyond it
    low = np.where(at > edges[0], np.maximum(low, edges[0]), low)
    high = np.where(at < edges[1], np.minimum(high, edges[1]), high)
    return np.column_stack([low, high])[which], word


def _planes(one: Contours, bounds: np.ndarray) -> Iterator[tuple[float, float, np.ndarray, np.ndarray]]:
    """(low, high, points, lengths) of each plane's prism."""
    parts = np.split(one.points, np.cumsum(one.lengths)[:-1])
    planes, which = np.unique(bounds, axis=0, return_inverse=True)
    for i, (low, high) in enumerate(planes):
        group = np.flatnonzero(which.ravel() == i)
        yield float(low), float(high), np.concatenate([parts[k] for k in group]), one.lengths[group]


def _overlap(low: float, high: float, centres: np.ndarray) -> tuple[np.ndarray, int]:
    """Share of each slice that the interval covers, and the index of the first slice it touches."""
    step = spacing(centres)
    edge = centres[0] - step / 2.0
    first = max(0, int(np.floor((low - edge) / step + 1e-9)))
    last = min(len(centres), int(np.ceil((high - edge) / step - 1e-9)))
    lower = edge + step * np.arange(first, max(first, last))
    share = (np.minimum(high, lower + step) - np.maximum(low, lower)) / step
    return np.clip(share, 0.0, 1.0), first


def _box(points: np.ndarray, centres: np.ndarray) -> slice:
    """Voxels that the points' extent touches, within the grid."""
    step = spacing(centres)
    low = int(np.floor((points.min() - centres[0]) / step + 0.5))
    high = int(np.floor((points.max() - centres[0]) / step + 0.5)) + 1
    return slice(max(0, low), max(0, min(len(centres), high)))


@njit(nogil=True, cache=True)
def _ramp(t: float, low: float, high: float) -> float:
    """Mean of max(0, t - s) for s uniform in [low, high]."""
    if t <= low:
        return 0.0
    if t >= high:
        return t - 0.5 * (low + high)
    return 0.5 * (t - low) ** 2 / (high - low)


@njit(nogil=True, cache=True)
def _add_edge(area: np.ndarray, right: np.ndarray, low: float, high: float, signed_height: float) -> None:
    """Add the region to the right of one edge piece; whole pixels go through the running sum `right`."""
    n = area.size
    begin = min(max(int(np.floor(low)), 0), n)
    end = min(max(int(np.floor(high)) + 1, 0), n)
    before = _ramp(float(begin), low, high)
    for i in range(begin, end):
        after = _ramp(i + 1.0, low, high)
        area[i] += signed_height * (after - before)
        before = after
    right[end] += signed_height


@njit(nogil=True, cache=True)
def _add_band(area: np.ndarray, right: np.ndarray, bottom: np.ndarray, top: np.ndarray, n: int, height: float) -> None:
    """Even-odd area of a band in which `n` edges run from `bottom` to `top`; bands are cut again where edges cross."""
    done = 0.0
    while done < 1.0 - 1e-12:
        for i in range(1, n):  # insertion sort by (bottom, top): a handful of edges
            b, t, j = bottom[i], top[i], i - 1
            while j >= 0 and (bottom[j] > b or (bottom[j] == b and top[j] > t)):
                bottom[j + 1], top[j + 1] = bottom[j], top[j]
                j -= 1
            bottom[j + 1], top[j + 1] = b, t
        cut = 1.0
        for i in range(n - 1):
            apart, over = bottom[i + 1] - bottom[i], top[i] - top[i + 1]
            if over > 1e-12:
                cut = min(cut, max(apart / (apart + over), 1e-6))
        sign = 1.0
        for i in range(n):
            end = bottom[i] + cut * (top[i] - bottom[i])
            _add_edge(area, right, min(bottom[i], end), max(bottom[i], end), sign * height * (1.0 - done) * cut)
            bottom[i] = end
            sign = -sign
        done += (1.0 - done) * cut


@njit(nogil=True, cache=True)
def plane_coverage(u: np.ndarray, v: np.ndarray, lengths: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Covered share of each pixel [row, col) of one plane; vertices in pixel units, even-odd over all contours."""
    u0, u1, v0, v1 = np.empty(u.size), np.empty(u.size), np.empty(u.size), np.empty(u.size)
    count, start = 0, 0
    for length in lengths:
        for i in range(length):
            a, b = start + i, start + (i + 1) % length
            if v[a] > v[b]:
                a, b = b, a
            if v[a] < v[b] and v[b] > 0.0 and v[a] < rows:
                u0[count], u1[count], v0[count], v1[count] = u[a], u[b], v[a], v[b]
                count += 1
        start += length
    first_of = np.zeros(rows + 1, np.int64)
    for k in range(count):
        first, last = max(0, int(np.floor(v0[k]))), min(rows, int(np.ceil(v1[k])))
        for row in range(first, last):
            first_of[row + 1] += 1
    first_of = np.cumsum(first_of)
    edges, fill = np.empty(first_of[rows], np.int64), first_of[:-1].copy()
    for k in range(count):
        first, last = max(0, int(np.floor(v0[k]))), min(rows, int(np.ceil(v1[k])))
        for row in range(first, last):
            edges[fill[row]] = k
            fill[row] += 1
    out = np.zeros((rows, cols))
    for row in range(rows):
        _row_coverage(out[row], row, edges[first_of[row] : first_of[row + 1]], u0, u1, v0, v1)
    return out


@njit(nogil=True, cache=True)
def _row_coverage(
    area: np.ndarray, row: int, edges: np.ndarray, u0: np.ndarray, u1: np.ndarray, v0: np.ndarray, v1: np.ndarray
) -> None:
    """Cut one pixel row into bands at every vertex, add each band, then let whole pixels run to the right."""
    breaks = np.empty(2 * edges.size + 2)
    breaks[0], breaks[1], n = row, row + 1.0, 2
    for k in edges:
        for value in (v0[k], v1[k]):
            if row < value < row + 1.0:
                breaks[n] = value
                n += 1
    breaks = np.sort(breaks[:n])
    right = np.zeros(area.size + 1)
    bottom, top = np.empty(edges.size), np.empty(edges.size)
    for i in range(n - 1):
        low, high = breaks[i], breaks[i + 1]
        if high - low < 1e-14:
            continue
        middle, active = 0.5 * (low + high), 0
        for k in edges:
            if v0[k] < middle < v1[k]:
                slope = (u1[k] - u0[k]) / (v1[k] - v0[k])
                bottom[active], top[active] = u0[k] + slope * (low - v0[k]), u0[k] + slope * (high - v0[k])
                active += 1
        _add_band(area, right, bottom, top, active, high - low)
    running = 0.0
    for i in range(area.size):
        running += right[i]
        area[i] += running
