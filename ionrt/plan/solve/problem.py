"""What one evaluation of the optimiser computes: objectives over scenarios, and their slopes by every weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ionrt.plan.setup.moments import Moment
from ionrt.plan.setup.objectives import Objective
from ionrt.plan.solve.products import Columns, largest_first

LEAST_DOSE = 1e-3  # Gy: LETd of voxels below counts as if they had this dose
SHARPNESS = 10  # exponent of the smooth maximum: between the maximum of n values and n^(1/10) times it


@dataclass(frozen=True)
class Term:
    """An objective on rows of the problem: their positions and their share c_i / sum c. A hard limit has the multipliers
    `shift` (scenarios, rows or 1) in the unit of its quantity, and a weight that may grow by `factor`."""

    objective: Objective
    rows: np.ndarray
    share: np.ndarray
    shift: np.ndarray | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Delivery:
    """The influence under one scenario against the rows of the problem: columns per beam, spots of each."""

    columns: tuple[tuple[Columns, ...], ...]
    slices: tuple[slice, ...]

    def forward(self, weights: np.ndarray) -> np.ndarray:
        """Dose and moments (rows, 1 + moments) of all beams."""
        pairs = [(c, weights[s]) for beam, s in zip(self.columns, self.slices, strict=True) for c in beam]
        return sum(largest_first(lambda c, own: c.forward(own), pairs))

    def backward(self, slopes: np.ndarray) -> np.ndarray:
        """Slope by every weight."""
        found = iter(largest_first(lambda c: c.backward(slopes), [(c,) for beam in self.columns for c in beam]))
        return np.concatenate([sum(next(found) for _ in beam) for beam in self.columns])


@dataclass(frozen=True)
class Problem:
    """Deliveries (the nominal one first), terms, RBE model with parameters, moments; `members` of the scenario set with their
    probabilities."""

    deliveries: tuple[Delivery, ...]
    terms: tuple[Term, ...]
    model: Any
    parameters: dict[str, Any]
    moments: tuple[Moment, ...]
    members: tuple[int, ...] = (0,)
    probability: np.ndarray = field(default_factory=lambda: np.ones(1))

    def value_and_gradient(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Objective and its slope by every weight: grad_w = sum_s sum_k M_sk^T (v_s * partial_k)."""
        fields = [d.forward(weights) for d in self.deliveries]
        q = [self.quantities(f) for f in fields]
        total, v = self.terms_and_slopes(q)
        gradient = np.zeros(weights.size)
        for delivery, one, values, slopes in zip(self.deliveries, fields, q, v, strict=True):
            if any(s.any() for s in slopes.values()):
                gradient += delivery.backward(self._chain(one, values, slopes))
        return total, gradient

    def quantities(self, field: np.ndarray) -> dict[str, np.ndarray]:
        """Every quantity that an objective asks for, per row."""
        out = {}
        for name in dict.fromkeys(t.objective.quantity for t in self.terms):
            if name == "rbe_dose":
                out[name] = self.rbe_dose(field)
            elif name == "let_d":
                out[name] = field[:, self._place("let_x_dose")] / np.maximum(field[:, self._weight()], LEAST_DOSE)
            else:
                out[name] = field[:, self._place(name)]
        return out

    def rbe_dose(self, field: np.ndarray) -> np.ndarray:
        """RBE-weighted dose of the rows."""
        return self.model.kernel(*self._arguments(field), **self.parameters)

    def terms_and_slopes(self, q: Sequence[dict[str, np.ndarray]]) -> tuple[float, list[dict[str, np.ndarray]]]:
        """Objective, and its slopes by every quantity per delivery."""
        v = [{name: np.zeros(a.size) for name, a in one.items()} for one in q]
        total = 0.0
        composite: list[tuple[Term, list[float], list[np.ndarray]]] = []
        for term in self.terms:
            which = (0,) if term.objective.robust == "nominal" else self.members
            values = np.stack([q[s][term.objective.quantity][term.rows] for s in which])
            if term.objective.robust == "composite":
                results = [term.objective.evaluate(x, term.share) for x in values]
                composite.append((term, [r[0] for r in results], [r[1] for r in results]))
                continue
            value, slopes = combine(term, values, self.probability)
            total += term.factor * term.objective.weight * value
            self._add(v, which, term, slopes)
        return total + self._worst_sum(v, composite), v

    def _worst_sum(self, v: list[dict[str, np.ndarray]], composite: list) -> float:
        """Smooth maximum over scenarios of the sum of the composite terms."""
        if not composite:
            return 0.0
        sums = sum(term.objective.weight * np.array(values) for term, values, _ in composite)
        worst, share = smooth_maximum(sums)
        for term, _, slopes in composite:
            self._add(v, self.members, term, [w * s for w, s in zip(share, slopes, strict=True)])
        return worst

    def _add(self, v: list, which: Sequence[int], term: Term, slopes: Sequence[np.ndarray]) -> None:
        for s, slope in zip(which, slopes, strict=True):
            # rows of one term are unique
            v[s][term.objective.quantity][term.rows] += term.factor * term.objective.weight * slope

    def _chain(self, field: np.ndarray, q: dict[str, np.ndarray], v: dict[str, np.ndarray]) -> np.ndarray:
        """Slopes by dose and moments from those by the quantities."""
        slopes = np.zeros(field.shape)
        for name, slope in v.items():
            if name == "rbe_dose":
                partials = self.model.partials(*self._arguments(field), **self.parameters)
                for place, partial in zip(self._places(), partials, strict=True):
                    slopes[:, place] += slope * partial
            elif name == "let_d":
                weight = self._weight()
                over = np.maximum(field[:, weight], LEAST_DOSE)
                slopes[:, self._place("let_x_dose")] += slope / over
                slopes[:, weight] -= np.where(field[:, weight] > LEAST_DOSE, slope * q["let_d"] / over, 0.0)
            else:
                slopes[:, self._place(name)] += slope
        return slopes

    def _place(self, name: str) -> int:
        return 0 if name == "dose" else 1 + [m.name for m in self.moments].index(name)

    def _weight(self) -> int:
        """The dose that LETd is weighted with."""
        return self._place("counted_dose" if any(m.name == "counted_dose" for m in self.moments) else "dose")

    def _places(self) -> list[int]:
        return [0, *(self._place(n) for n in self.model.moments)]

    def _arguments(self, field: np.ndarray) -> list[np.ndarray]:
        return [np.ascontiguousarray(field[:, place]) for place in self._places()]


def combine(term: Term, values: np.ndarray, probability: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """One term over its scenarios: value, and slopes per scenario; `values` (scenarios, rows)."""
    objective, share = term.objective, term.share
    if term.shift is not None:
        values = values + objective.side * term.shift
        results = [objective.evaluate(x, share) for x in values]
        return sum(r[0] for r in results), [r[1] for r in results]
    if objective.robust == "voxel_worst":
        return _voxel_worst(objective, values, share)
    results = [objective.evaluate(x, share) for x in values]
    found = np.array([r[0] for r in results])
    if objective.robust == "expected":
        value, by = float(probability @ found), probability
    elif objective.robust == "worst":
        value, by = smooth_maximum(found)
    else:
        value, by = float(found[0]), np.ones(1)
    return value, [w * r[1] for w, r in zip(by, results, strict=True)]


def _voxel_worst(objective: Objective, values: np.ndarray, share: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The objective of the worst value that each voxel has in any scenario."""
    place = objective.worst(values)
    at = np.arange(place.size)
    value, slope = objective.evaluate(values[place, at], share)
    slopes = np.zeros(values.shape)
    slopes[place, at] = slope
    return value, list(slopes)


def smooth_maximum(values: np.ndarray) -> tuple[float, np.ndarray]:
    """(sum v^p)^(1/p) of values >= 0, and its slopes; exactly the value where there is one only."""
    top = float(values.max())
    if top <= 0.0:
        return 0.0, np.zeros(values.size)
    relative = (values / top) ** (SHARPNESS - 1)
    total = float(np.sum(relative * values / top))
    return top * total ** (1.0 / SHARPNESS), relative * total ** (1.0 / SHARPNESS - 1.0)
