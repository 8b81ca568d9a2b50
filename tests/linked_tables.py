"""The attack of an outsider who lays all published tables side by side and solves for what was left out.

Unknowns are the counts of every combination of levels in a few groups of columns (cliques); groups that share columns have to
agree on them. Where the groups form a tree, this allows exactly what one table of all columns together would allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

Where = Mapping[str, object]


class Outsider:
    """Collects published counts, then bounds the ones that were not published."""

    def __init__(
        self,
        levels: Mapping[str, Sequence[object]],
        cliques: Sequence[tuple[str, ...]],
        possible: Callable[[dict[str, object]], bool] = lambda cell: True,
    ) -> None:
        self.cliques = list(cliques)
        self.cells = [
            (k, cell)
            for k, clique in enumerate(self.cliques)
            for values in product(*(levels[c] for c in clique))
            if possible(cell := dict(zip(clique, values, strict=True)))
        ]
        self.rows: list[np.ndarray] = []
        self.low: list[float] = []
        self.high: list[float] = []
        for a, b in combinations(range(len(self.cliques)), 2):
            shared = [c for c in self.cliques[a] if c in self.cliques[b]]
            for values in product(*(levels[c] for c in shared)):  # without shared columns: both add up to everybody
                where = dict(zip(shared, values, strict=True))
                self._add(self._indicator(where, a) - self._indicator(where, b), 0.0, 0.0)

    def _indicator(self, where: Where, clique: int | None = None) -> np.ndarray:
        """1 for each cell that belongs to `where`, in the first group of columns that knows all of it."""
        if clique is None:
            clique = next(k for k, names in enumerate(self.cliques) if set(where) <= set(names))
        return np.array([float(k == clique and all(cell[c] == v for c, v in where.items())) for k, cell in self.cells])

    def _add(self, row: np.ndarray, low: float, high: float) -> None:
        self.rows.append(row)
        self.low.append(low)
        self.high.append(high)

    def learn(self, where: Where, low: float, high: float | None = None) -> None:
        """A published count (or one known to lie between two)."""
        self._add(self._indicator(where), low, low if high is None else high)

    def bounds(self, where: Where) -> tuple[float, float]:
        """Least and largest count that fits all that is known."""
        matrix = csr_array(np.array(self.rows))
        limits = np.concatenate([self.high, -np.array(self.low)])
        target = self._indicator(where)
        found = []
        for sign in (1.0, -1.0):
            fit = linprog(sign * target, A_ub=vstack([matrix, -matrix]), b_ub=limits + 1e-6, bounds=(0, None), method="highs")
            assert fit.status in (0, 3), fit.message
            found.append(np.inf if fit.status == 3 else sign * fit.fun)
        return found[0], found[1]
