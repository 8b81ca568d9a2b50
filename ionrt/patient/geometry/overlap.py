"""Contours of one structure beside each other: copies, which even-odd would cancel, and contours that cross."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

import numpy as np

from ionrt.patient.geometry.coverage import Contours, plane_coverage

SAME = 0.05  # mm; two contours whose boxes differ by less and whose areas by less than SAME_AREA are one contour twice,
SAME_AREA = 2e-3
CLOSE, CLOSE_AREA = 1.0, 0.05  # and so are two that differ by less than this, if the vertices of one lie on the other's line
BESIDE, WITHIN = 0.02, 5e-3  # shares of the smaller contour that a neighbour may cover, that a hole may reach out,
ALIKE, JUST_WITHIN = 0.95, 1e-4  # and a hole nearly as large as what it is in
IN_PLANE, ROWS = 0.1, 16  # mm; bands of a box, for speed alone


def without_copies(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Contours (vertex, 3) without those that come again, in any order of points and with some of them left out."""
    seen: dict[tuple[int, ...], list[tuple[np.ndarray, float, np.ndarray]]] = defaultdict(list)
    kept = []
    for part in parts:
        box = np.concatenate([part.min(axis=0), part.max(axis=0)])
        area = float(np.abs(np.cross(part - part[0], np.roll(part, -1, axis=0) - part[0]).sum(axis=0)).max()) / 2.0
        cell = tuple(int(v) for v in np.floor(box[:3] / 10.0))
        if any(_is_copy((box, area, part), other) for dz in (-1, 0, 1) for other in seen[(cell[0], cell[1], cell[2] + dz)]):
            continue
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                seen[(cell[0] + dx, cell[1] + dy, cell[2])].append((box, area, part))
        kept.append(part)
    return kept


def _is_copy(one: tuple[np.ndarray, float, np.ndarray], other: tuple[np.ndarray, float, np.ndarray]) -> bool:
    apart, area = np.abs(one[0] - other[0]).max(), max(one[1], other[1])
    if apart < SAME and abs(one[1] - other[1]) <= SAME_AREA * area:
        return True
    if apart > CLOSE or abs(one[1] - other[1]) > CLOSE_AREA * area:
        return False
    fewer, more = sorted((one[2], other[2]), key=len)
    return bool(_distance(fewer, more).max() < SAME)


def _distance(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance of each point from a closed line, mm."""
    way = np.roll(line, -1, axis=0) - line
    length = np.maximum((way**2).sum(axis=1), 1e-30)
    to = points[:, None, :] - line
    at = np.clip((to * way).sum(axis=2) / length, 0.0, 1.0)
    return np.linalg.norm(to - at[..., None] * way, axis=2).min(axis=1)


def crossing(one: Contours) -> list[tuple[float, float]]:
    """(level in mm, area in common in cm2) of contours of one plane that overlap in part: neither hole nor neighbour."""
    if len(one.lengths) < 2:
        return []
    axis = one.axis()
    flat = [k for k in range(3) if k != axis]
    planes: dict[int, list[np.ndarray]] = defaultdict(list)
    for part in np.split(one.points, np.cumsum(one.lengths)[:-1]):
        planes[round(float(part[:, axis].mean()) / IN_PLANE)].append(part[:, flat])
    found = []
    for level, parts in planes.items():
        boxes = [(part.min(axis=0), part.max(axis=0)) for part in parts]
        for i, j in combinations(range(len(parts)), 2):
            if not (np.minimum(boxes[i][1], boxes[j][1]) > np.maximum(boxes[i][0], boxes[j][0])).all():
                continue
            small, large = sorted((i, j), key=lambda k: float(np.prod(boxes[k][1] - boxes[k][0])))
            box = boxes[small]
            whole, other, either = (_area([parts[k] for k in some], *box) for some in ((small,), (large,), (small, large)))
            common = (whole + other - either) / 2.0
            out = JUST_WITHIN if whole > ALIKE * _area([parts[large]], *boxes[large]) else WITHIN
            if BESIDE * whole < common < (1.0 - out) * whole:
                found.append((level * IN_PLANE, common / 100.0))
    return found


def _area(parts: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> float:
    """Area (mm2) within a box that an odd number of contours enclose."""
    u, v = ((np.concatenate(parts) - low) / (high - low)).T
    lengths = np.array([len(part) for part in parts])
    return float(plane_coverage(u.copy(), ROWS * v, lengths, ROWS, 1).mean() * np.prod(high - low))
