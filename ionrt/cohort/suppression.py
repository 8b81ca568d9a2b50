"""Complementary cell suppression in a two-way table with totals, audited by linear programming."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import lil_array

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


def suppress(full: Counts, min_cell: int) -> Mask:
    """Which cells of a table to hide, its last row and column being totals. Hides everything where nothing else is safe."""
    small = full < min_cell
    hidden = small.copy()
    if not small.any():
        return hidden
    if full[-1, -1] < min_cell:
        return np.ones_like(hidden)
    while True:
        _break_single(hidden, full)
        weak = _unprotected(hidden, small, full, min_cell)
        if not weak or hidden.all():
            return hidden
        # a hidden total protects its whole line: serve totals alone first, then one cell per line, and look again
        totals = [(r, c) for r, c in weak if r == full.shape[0] - 1 or c == full.shape[1] - 1]
        for r, c in totals[:1] or {r: (r, c) for r, c in weak}.values():
            _hide_one_more(hidden, full, r, c)


def _break_single(hidden: Mask, full: Counts) -> None:
    """A line with one hidden cell gives it away: hide its smallest other cell, a total only where nothing else is left."""
    cost = _cost(full)
    changed = True
    while changed:
        changed = False
        for h, f in ((hidden, cost), (hidden.T, cost.T)):
            for line in np.flatnonzero(h.sum(axis=1) == 1):
                h[line, int(np.argmin(np.where(h[line], np.inf, f[line])))] = True
                changed = True


def _hide_one_more(hidden: Mask, full: Counts, r: int, c: int) -> None:
    """Hide the cheapest shown cell in the row or the column of (r, c); anywhere, where both are hidden already."""
    cost = _cost(full)
    cross = np.zeros_like(hidden)
    cross[r, :], cross[:, c] = True, True
    for where in (cross & ~hidden, ~hidden):
        if where.any():
            cell = np.argmin(np.where(where, cost, np.inf))
            hidden[np.unravel_index(int(cell), full.shape)] = True
            return


def _cost(full: Counts) -> NDArray[np.float64]:
    """What is lost by hiding a cell: its count; totals are likely to be known from elsewhere and come last."""
    cost = full.astype("float64")
    cost[-1, :] += full[-1, -1]
    cost[:, -1] += full[-1, -1]
    return cost


def _unprotected(hidden: Mask, small: Mask, full: Counts, min_cell: int) -> list[tuple[int, int]]:
    """Small cells whose value an outsider can bound to a range narrower than `min_cell`."""
    cells = np.argwhere(hidden)
    number = -np.ones(full.shape, dtype=int)
    number[tuple(cells.T)] = np.arange(len(cells))
    equations, constants = _equations(number, full)
    out = []
    for r, c in np.argwhere(small):
        objective = np.zeros(len(cells))
        objective[number[r, c]] = 1.0
        most = linprog(-objective, A_eq=equations, b_eq=constants, bounds=(0, None), method="highs")
        high = np.inf if most.status == 3 else -most.fun
        if high >= full[r, c] + min_cell:  # the least value is at most the true one: wide enough
            continue
        least = linprog(objective, A_eq=equations, b_eq=constants, bounds=(0, None), method="highs")
        if high - least.fun < min_cell:
            out.append((int(r), int(c)))
    return out


def _equations(number: NDArray[np.int64], full: Counts) -> tuple[Any, NDArray[np.float64]]:
    """Rows and columns add up to their totals: hidden cells on the left, the rest on the right."""
    rows, columns = full.shape
    sign_row = np.append(np.ones(columns - 1), -1.0)
    sign_column = np.append(np.ones(rows - 1), -1.0)
    matrix, right = lil_array((rows + columns, int((number >= 0).sum()))), np.zeros(rows + columns)
    for r in range(rows):
        for c in range(columns):
            for line, sign in ((r, sign_row[c]), (rows + c, sign_column[r])):
                if number[r, c] >= 0:
                    matrix[line, number[r, c]] += sign
                else:
                    right[line] -= sign * full[r, c]
    return matrix.tocsr(), right
