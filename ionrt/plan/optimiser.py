"""Spot weights by bounded quasi-Newton steps on objectives of dose, RBE-weighted dose and LETd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import distance_transform_edt
from scipy.optimize import OptimizeResult, minimize
from tqdm.auto import tqdm

from ionrt.plan.beams import Plan
from ionrt.plan.engine import Influence
from ionrt.plan.geometry import Grid
from ionrt.plan.moments import Moment, merge, moment_values, moments_of
from ionrt.plan.objectives import Objective, default_objectives, is_external
from ionrt.plan.products import Columns, compact
from ionrt.plan.scene import on_dose_grid, structure_fractions
from ionrt.quantities import IonrtError, check_same_grid, one_of, stamp

SAMPLES = 2_500  # voxels of a structure that stand for all those far from the target
NEAR = 9.0  # mm: voxels this close to the target all count
STALL = 5  # iterations over which the gain is averaged
LEAST_DOSE = 1e-3  # Gy: LETd of voxels below counts as if they had this dose


@dataclass(frozen=True)
class Term:
    """An objective on rows of the problem: their positions and their share c_i / sum c."""

    objective: Objective
    rows: np.ndarray
    share: np.ndarray


@dataclass(frozen=True)
class Problem:
    """Everything an evaluation needs: columns per beam, spots of each, terms, model with parameters, place of LET."""

    columns: tuple[tuple[Columns, ...], ...]
    slices: tuple[slice, ...]
    terms: tuple[Term, ...]
    model: Any
    parameters: dict[str, Any]
    moments: tuple[Moment, ...]

    def forward(self, weights: np.ndarray) -> np.ndarray:
        """Dose and moments (rows, 1 + moments) of all beams."""
        return sum(c.forward(weights[s]) for beam, s in zip(self.columns, self.slices, strict=True) for c in beam)  # type: ignore[return-value]

    def backward(self, slopes: np.ndarray) -> np.ndarray:
        """Slope by every weight."""
        return np.concatenate([sum(c.backward(slopes) for c in beam) for beam in self.columns])

    def rbe_dose(self, field: np.ndarray) -> np.ndarray:
        """RBE-weighted dose of the rows."""
        return self.model.kernel(*self._arguments(field), **self.parameters)

    def let_d(self, field: np.ndarray) -> np.ndarray:
        """LETd of the rows."""
        return field[:, 1 + self._let()] / np.maximum(field[:, 0], LEAST_DOSE)

    def value_and_gradient(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Objective and its slope by every weight: grad_w = sum_k M_k^T (v * partial_k)."""
        field = self.forward(weights)
        total, slopes = self.value_and_slopes(field)
        return total, self.backward(slopes)

    def value_and_slopes(self, field: np.ndarray) -> tuple[float, np.ndarray]:
        """Objective and its slopes by dose and moments of every row."""
        used = {t.objective.quantity for t in self.terms}
        q = {"dose": field[:, 0]}
        if "rbe_dose" in used:
            q["rbe_dose"] = self.rbe_dose(field)
        if "let_d" in used:
            q["let_d"] = self.let_d(field)
        v = {name: np.zeros(field.shape[0]) for name in q}
        total = 0.0
        for term in self.terms:
            name = term.objective.quantity
            value, slope = term.objective.evaluate(q[name][term.rows], term.share)
            total += term.objective.weight * value
            v[name][term.rows] += term.objective.weight * slope  # rows of one term are unique
        return total, self._chain(field, q, v)

    def _chain(self, field: np.ndarray, q: dict[str, np.ndarray], v: dict[str, np.ndarray]) -> np.ndarray:
        slopes = np.zeros(field.shape)
        slopes[:, 0] = v["dose"]
        if "rbe_dose" in v:
            partials = self.model.partials(*self._arguments(field), **self.parameters)
            for place, partial in zip(self._places(), partials, strict=True):
                slopes[:, place] += v["rbe_dose"] * partial
        if "let_d" in v:
            over = np.maximum(field[:, 0], LEAST_DOSE)
            slopes[:, 1 + self._let()] += v["let_d"] / over
            slopes[:, 0] -= np.where(field[:, 0] > LEAST_DOSE, v["let_d"] * q["let_d"] / over, 0.0)
        return slopes

    def _places(self) -> list[int]:
        names = [m.name for m in self.moments]
        return [0, *(1 + names.index(n) for n in self.model.moments)]

    def _arguments(self, field: np.ndarray) -> list[np.ndarray]:
        return [np.ascontiguousarray(field[:, place]) for place in self._places()]

    def _let(self) -> int:
        return [m.name for m in self.moments].index("let_x_dose")


def optimise(
    patient: xr.Dataset, plan: Plan, influence: Influence, *, iterations: int = 200, tolerance: float = 1e-5
) -> xr.DataArray:
    """Weights of all spots of all beams and ions that minimise the plan's objectives.

    F(w) = sum_o weight_o f_o(q(w)), w >= 0, by L-BFGS-B; the model's partial derivatives give the gradient.

    Parameters: `patient` Dataset with structures; `plan`; `influence` of that plan; `iterations` at most; `tolerance`
    gain per iteration, as a share of F at the start, below which to stop.
    Returns `spot_weight` (spot): particles per fraction, with coordinates beam, ion, energy (MeV/u), u, v (mm).
    Errors: objective on an unknown structure, structure that no spot reaches, influence on another grid.
    Reference: Byrd et al., doi 10.1137/0916069; Wilkens and Oelfke, doi 10.1088/0031-9155/51/12/009.
    """
    problem = make_problem(patient, plan, influence)
    start, scale = _start(problem, plan)
    values: list[float] = []

    def after_iteration(intermediate_result: OptimizeResult) -> None:
        bar.update()
        values.append(float(intermediate_result.fun))
        if len(values) > STALL and values[-1 - STALL] - values[-1] < STALL * tolerance * values[0]:
            raise StopIteration

    with tqdm(total=iterations, desc="optimise", unit="it", disable=None, leave=False) as bar:
        found = minimize(
            lambda x: _scaled(problem, x, scale),
            start / scale,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, None)] * start.size,
            callback=after_iteration,
            options={"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 0.0, "gtol": 0.0, "maxcor": 10},
        )
    weights = np.maximum(found.x, 0.0) * scale
    out = xr.DataArray(weights, dims="spot", coords=influence.spots().coords)
    return stamp(
        out,
        "spot_weight",
        objective=float(found.fun),
        iterations=int(found.nit),
        evaluations=int(found.nfev),
        dose_per="fraction",
        rbe_model=plan.model,
        **influence.attrs,
    )


def _scaled(problem: Problem, x: np.ndarray, scale: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient = problem.value_and_gradient(x * scale)
    return value, gradient * scale


def make_problem(patient: xr.Dataset, plan: Plan, influence: Influence, *, seed: int = 0) -> Problem:
    """Rows of the structures with objectives, and the influence cut down to them."""
    from ionrt.rbe import MODELS

    model = MODELS[one_of(plan.model, tuple(MODELS), what="RBE model")]
    coarse = on_dose_grid(patient, plan)
    _check_grid(coarse, influence.grid)
    names = [str(s) for s in coarse["structure"].values]
    objectives = plan.objectives or default_objectives(plan.target, plan.prescription, names)
    for objective in objectives:
        one_of(objective.structure, names, what="objective: structure")
    wanted = list(moments_of(model, plan.parameters, let_definition=plan.let_definition))
    if any(o.quantity == "let_d" for o in objectives):
        wanted.append(Moment("let_x_dose", let_definition=plan.let_definition))
    moments = merge(wanted)
    terms, voxels = _terms(coarse, plan, influence, objectives, np.random.default_rng(seed))
    position = np.full(influence.grid.size, -1, dtype=np.int64)
    position[voxels] = np.arange(voxels.size)
    values = {ion: moment_values(base, moments) for ion, base in influence.base.items()}
    columns = tuple(tuple(compact(b, values[b.beam.ion], position, voxels.size)) for b in influence.beams)
    located = tuple(Term(t.objective, position[t.rows], t.share) for t in terms)
    return Problem(columns, tuple(influence.slices()), located, model, dict(plan.parameters), moments)


def _check_grid(patient: xr.Dataset, grid: Grid) -> None:
    mine = xr.Dataset(coords={k: (k, v) for k, v in grid.coords().items()})
    check_same_grid(xr.Dataset(coords={k: patient[k] for k in ("z", "y", "x")}), mine, what="patient and influence")


def _terms(
    coarse: xr.Dataset, plan: Plan, influence: Influence, objectives: Sequence[Objective], rng: np.random.Generator
) -> tuple[list[Term], np.ndarray]:
    """Voxels (flat) and shares per objective; only dosed voxels, since the others stay at zero whatever the weights."""
    dosed = np.zeros(influence.grid.size, dtype=bool)
    for beam in influence.beams:
        dosed[beam.voxel] = True
    target = structure_fractions(coarse, plan.target)
    near = (distance_transform_edt(target <= 0.0, sampling=influence.grid.spacing) <= NEAR).ravel()
    target = target.ravel()
    chosen: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in dict.fromkeys(o.structure for o in objectives):
        fraction = target if name == plan.target else structure_fractions(coarse, name).ravel()
        if is_external(name):
            fraction = np.where(target > 0.0, 0.0, fraction)
        if fraction.max(initial=0.0) <= 0.0:
            raise IonrtError(f"objective on {name!r}: the structure is empty on the dose grid")
        chosen[name] = _sample(fraction, dosed | (name == plan.target), near, rng)
    voxels = np.unique(np.concatenate([c[0] for c in chosen.values()]))
    if voxels.size == 0:
        raise IonrtError("optimise: no spot reaches any structure that has an objective")
    return [Term(o, *chosen[o.structure]) for o in objectives if chosen[o.structure][0].size], voxels


def _sample(
    fraction: np.ndarray, dosed: np.ndarray, keep: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of a structure with their shares; all that are in `keep`, and a sample of the others standing for them all."""
    total = float(fraction.sum(dtype=np.float64))
    always = np.flatnonzero((fraction > 0.0) & dosed & keep)
    others = np.flatnonzero((fraction > 0.0) & dosed & ~keep)
    picked = others if others.size <= SAMPLES else np.sort(rng.choice(others, SAMPLES, replace=False))
    share = fraction[picked].astype(np.float64)
    share *= float(fraction[others].sum(dtype=np.float64)) / max(share.sum(), 1e-300)
    return np.concatenate([always, picked]), np.concatenate([fraction[always].astype(np.float64), share]) / total


def _start(problem: Problem, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Weights that give every spot the same dose in the target and the prescription on average, and the scale of the steps."""
    target = next((t for t in problem.terms if t.objective.structure == plan.target), problem.terms[0])
    n_rows, n_moments = problem.columns[0][0].bins.size, len(problem.moments)
    slopes = np.zeros((n_rows, 1 + n_moments))
    slopes[target.rows, 0] = target.share
    per_particle = problem.backward(slopes)
    if per_particle.max(initial=0.0) <= 0.0:
        raise IonrtError(f"optimise: no spot gives dose to {target.objective.structure!r}")
    floor = 0.05 * float(np.median(per_particle[per_particle > 0.0]))
    scale = 1.0 / np.maximum(per_particle, floor)
    scale *= plan.prescription / scale.size
    low, high = 0.0, 4.0
    field = problem.forward(scale)[target.rows]
    for _ in range(30):
        middle = 0.5 * (low + high)
        mean = float(np.dot(target.share, problem.rbe_dose(middle * field)))
        low, high = (middle, high) if mean < plan.prescription else (low, middle)
    return 0.5 * (low + high) * scale, scale
