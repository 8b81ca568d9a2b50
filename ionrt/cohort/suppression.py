"""Complementary cell suppression in two-way tables with totals over the same people, audited by linear programming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import lil_array, vstack

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


def suppress(tables: Sequence[Counts], min_cell: int) -> list[Mask]:
    """Which cells to hide of tables over the same people with the same columns; last row and column are totals.

    A total that one table hides is hidden in all. Hides everything where nothing else is safe.
    """
    hidden = [full < min_cell for full in tables]
    if not any(h.any() for h in hidden):
        return hidden
    if tables[0][-1, -1] < min_cell:
        return [np.ones_like(h) for h in hidden]
    while True:
        _settle(hidden, tables)
        weak = _unprotected(hidden, tables, min_cell)
        if not weak or all(h.all() for h in hidden):
            return hidden
        # a hidden total protects its whole line: serve totals alone first, then one cell per line, and look again
        totals = [(k, r, c) for k, r, c in weak if r == tables[k].shape[0] - 1 or c == tables[k].shape[1] - 1]
        for k, r, c in totals[:1] or {(k, r): (k, r, c) for k, r, c in weak}.values():
            _hide_one_more(hidden[k], tables[k], r, c)


def _settle(hidden: Sequence[Mask], tables: Sequence[Counts]) -> None:
    """No line with a single hidden cell, and the same totals hidden in every table."""
    while True:
        before = sum(int(h.sum()) for h in hidden)
        totals = np.logical_or.reduce([h[-1] for h in hidden])
        for h, full in zip(hidden, tables, strict=True):
            h[-1] = totals
            _break_single(h, full)
        if sum(int(h.sum()) for h in hidden) == before:
            return


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


def _unprotected(hidden: Sequence[Mask], tables: Sequence[Counts], min_cell: int) -> list[tuple[int, int, int]]:
    """Small cells (table, row, column) whose value an outsider can bound to a range narrower than `min_cell`."""
    number, size = _numbered(hidden)
    parts = [_equations(n, full, size) for n, full in zip(number, tables, strict=True)]
    equations, constants = vstack([p[0] for p in parts]).tocsr(), np.concatenate([p[1] for p in parts])
    out, seen = [], set()
    for k, full in enumerate(tables):
        for r, c in np.argwhere(full < min_cell):
            unknown = int(number[k][r, c])
            if unknown in seen:
                continue
            seen.add(unknown)
            if _range_is_narrow(unknown, int(full[r, c]), equations, constants, min_cell):
                out.append((k, int(r), int(c)))
    return out


def _range_is_narrow(unknown: int, count: int, equations: Any, constants: NDArray[np.float64], min_cell: int) -> bool:
    objective = np.zeros(equations.shape[1])
    objective[unknown] = 1.0
    most = linprog(-objective, A_eq=equations, b_eq=constants, bounds=(0, None), method="highs")
    high = np.inf if most.status == 3 else -most.fun
    if high >= count + min_cell:  # the least value is at most the true one: wide enough
        return False
    least = linprog(objective, A_eq=equations, b_eq=constants, bounds=(0, None), method="highs")
    return bool(high - least.fun < min_cell)


def _numbered(hidden: Sequence[Mask]) -> tuple[list[NDArray[np.int64]], int]:
    """A number for every hidden cell, -1 for shown ones; the tables share the numbers of their column totals."""
    out: list[NDArray[np.int64]] = []
    size = 0
    for h in hidden:
        number = -np.ones(h.shape, dtype=np.int64)
        own = h.copy()
        if out:
            number[-1], own[-1] = out[0][-1], False
        number[own] = size + np.arange(int(own.sum()))
        size += int(own.sum())
        out.append(number)
    return out, size


def _equations(number: NDArray[np.int64], full: Counts, size: int) -> tuple[Any, NDArray[np.float64]]:
    """Rows and columns add up to their totals: hidden cells on the left, the rest on the right."""
    rows, columns = full.shape
    sign_row = np.append(np.ones(columns - 1), -1.0)
    sign_column = np.append(np.ones(rows - 1), -1.0)
    matrix, right = lil_array((rows + columns, size)), np.zeros(rows + columns)
    for r in range(rows):
        for c in range(columns):
            for line, sign in ((r, sign_row[c]), (rows + c, sign_column[r])):
                if number[r, c] >= 0:
                    matrix[line, number[r, c]] += sign
                else:
                    right[line] -= sign * full[r, c]
    return matrix, right
