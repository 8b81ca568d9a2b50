"""Spot weights by bounded quasi-Newton steps; hard limits by an augmented Lagrangian around them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from scipy.optimize import OptimizeResult, minimize
from tqdm.auto import tqdm

from ionrt.plan.engine.influence import Influence
from ionrt.plan.setup.beams import Plan
from ionrt.plan.setup.objectives import mean
from ionrt.plan.setup.scenarios import Scenario
from ionrt.plan.solve.assemble import SAMPLES, check_nominal, make_problem
from ionrt.plan.solve.blas import one_blas_thread
from ionrt.plan.solve.problem import Problem, Term
from ionrt.quantities import IonrtError, stamp

STALL = 5  # iterations over which the gain is averaged
LIMIT_TOLERANCE = 2e-3  # of its level: a hard limit passed by less is kept
LIMIT_ROUNDS = 16  # at most, of quasi-Newton steps with fixed multipliers
LIMIT_STEPS = 60  # of them per round after the first
GROWTH = 10.0  # of a limit's weight where a round has not brought it much nearer


@dataclass
class Progress:
    """What the steps leave behind."""

    iterations: int = 0
    evaluations: int = 0
    value: float = 0.0


def optimise(
    patient: xr.Dataset,
    plan: Plan,
    influence: Influence,
    *,
    scenarios: Sequence[Scenario] = (),
    iterations: int = 200,
    tolerance: float = 1e-5,
    samples: int = SAMPLES,
    seed: int = 0,
) -> xr.DataArray:
    """Weights of all spots of all beams and ions that minimise the plan's objectives, also over range and set-up errors.

    F(w) = sum_o weight_o f_o(q(w)), w >= 0, by L-BFGS-B; the model's partial derivatives give the gradient. Objectives that are
    `robust` combine f over `scenarios`. Hard limits: f_o of q + lambda_i, lambda_i <- max(0, lambda_i + excess_i), until no
    voxel passes its level by more than 0.2 % of it; a limit that is still passed after the last round warns.

    Parameters
    ----------
    patient : Dataset with structures
    plan, influence : of that plan (nominal)
    scenarios : for robust objectives, of which only the voxels of these objectives are computed
    iterations : at most (60 more per round for hard limits)
    tolerance : gain per iteration, as a share of F at the start, below which to stop
    samples : voxels of each structure far from the target that stand for all of them (hard limits count all voxels)
    seed : of their draw.

    Returns
    -------
    `spot_weight` (spot): particles per fraction, with coordinates beam, ion, energy (MeV/u), u, v (mm).

    Raises
    ------
    IonrtError
        Objective on an unknown structure, structure that no spot reaches, influence on another grid, robust objectives without
        scenarios or scenarios without robust objectives.

    References
    ----------
    Byrd et al., doi 10.1137/0916069; Wilkens and Oelfke, doi 10.1088/0031-9155/51/12/009; Fredriksson et al., doi
    10.1118/1.3556559 (minimax); Nocedal and Wright, Numerical Optimization (2006), chapter 17 (augmented Lagrangian).
    """
    check_nominal(influence)
    problem = make_problem(patient, plan, influence, scenarios=scenarios, samples=samples, seed=seed)
    start, scale = start_weights(problem, plan)
    done = Progress()
    desc = f"optimise {', '.join(dict.fromkeys(b.ion for b in plan.beams))}"
    weights = minimise_weights(problem, start, scale, iterations, tolerance, done, desc)
    weights, excess = _with_limits(problem, weights, scale, tolerance, done)
    out = xr.DataArray(weights, dims="spot", coords=influence.spots().coords)
    return stamp(
        out,
        "spot_weight",
        objective=done.value,
        iterations=done.iterations,
        evaluations=done.evaluations,
        limit_excess=excess,
        scenarios=", ".join(s.label for s in scenarios) or None,
        dose_per="fraction",
        rbe_model=plan.model,
        **influence.attrs,
    )


def minimise_weights(
    problem: Problem,
    start: np.ndarray,
    scale: np.ndarray,
    iterations: int,
    tolerance: float,
    done: Progress,
    desc: str = "hard limits",
) -> np.ndarray:
    """Quasi-Newton steps on weights in units of `scale`."""
    values: list[float] = []

    def after_iteration(intermediate_result: OptimizeResult) -> None:
        bar.update()
        values.append(float(intermediate_result.fun))
        if len(values) > STALL and values[-1 - STALL] - values[-1] < STALL * tolerance * values[0]:
            raise StopIteration

    with one_blas_thread(), tqdm(total=iterations, desc=desc, unit="it", disable=None, leave=False) as bar:
        found = minimize(
            lambda x: _scaled(problem, x, scale),
            start / scale,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, None)] * start.size,
            callback=after_iteration,
            options={"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 0.0, "gtol": 0.0, "maxcor": 10},
        )
        bar.total = bar.n  # converged early is done, not failed: an unfilled bar turns red
        bar.refresh()
    done.iterations += int(found.nit)
    done.evaluations += int(found.nfev)
    done.value = float(found.fun)
    return np.maximum(found.x, 0.0) * scale


def _scaled(problem: Problem, x: np.ndarray, scale: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient = problem.value_and_gradient(x * scale)
    return value, gradient * scale


def _with_limits(
    problem: Problem, weights: np.ndarray, scale: np.ndarray, tolerance: float, done: Progress
) -> tuple[np.ndarray, float | None]:
    """Rounds with renewed multipliers until every hard limit is kept; the largest excess left, as a share of its level."""
    if not any(t.objective.hard for t in problem.terms):
        return weights, None
    before = np.inf
    for turn in range(LIMIT_ROUNDS + 1):
        problem, passed = _renewed(problem, weights, before)
        largest = max(passed.values())
        if largest <= LIMIT_TOLERANCE or turn == LIMIT_ROUNDS:
            break
        before = largest
        weights = minimise_weights(problem, weights, scale, LIMIT_STEPS, tolerance, done)
    if largest > LIMIT_TOLERANCE:
        worst = max(passed, key=passed.__getitem__)
        warnings.warn(
            f"hard limit on {problem.terms[worst].objective.structure!r} passed by {100.0 * largest:.2g} % of its level"
            f" after {LIMIT_ROUNDS} rounds; give it a larger weight, more spots, or more room beside the other limits",
            UserWarning,
            stacklevel=3,
        )
    return weights, largest


def _renewed(problem: Problem, weights: np.ndarray, before: float) -> tuple[Problem, dict[int, float]]:
    """The problem with the multipliers that the excess of `weights` asks for, and the excess per limit."""
    q = [problem.quantities(d.forward(weights)) for d in problem.deliveries]
    terms, passed = list(problem.terms), {}
    for k, term in enumerate(problem.terms):
        if not term.objective.hard:
            continue
        which = (0,) if term.objective.robust == "nominal" else problem.members
        values = [q[s][term.objective.quantity][term.rows] for s in which]
        excess = np.stack([term.objective.excess(x, term.share) for x in values])
        passed[k] = float(excess.max()) / max(_level(term), 1e-12)
        shift = np.maximum((0.0 if term.shift is None else term.shift) + excess, 0.0)
        grow = GROWTH if passed[k] > max(0.4 * before, LIMIT_TOLERANCE) else 1.0
        terms[k] = replace(term, shift=shift / grow, factor=term.factor * grow)
    return replace(problem, terms=tuple(terms)), passed


def _level(term: Term) -> float:
    return float(getattr(term.objective, "level"))  # noqa: B009  only objectives with a level can be hard


def start_weights(problem: Problem, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Weights that give every spot the same dose in the target and the prescription on average, and the scale of the steps."""
    target = next((t for t in problem.terms if t.objective.structure == plan.target), problem.terms[0])
    nominal = problem.deliveries[0]
    slopes = np.zeros((nominal.columns[0][0].bins.size, 1 + len(problem.moments)))
    slopes[target.rows, 0] = target.share
    per_particle = nominal.backward(slopes)
    if per_particle.max(initial=0.0) <= 0.0:
        raise IonrtError(f"optimise: no spot gives dose to {target.objective.structure!r}")
    floor = 0.05 * float(np.median(per_particle[per_particle > 0.0]))
    scale = 1.0 / np.maximum(per_particle, floor)
    scale *= plan.prescription / scale.size
    low, high = 0.0, 4.0
    field = nominal.forward(scale)[target.rows]
    for _ in range(30):
        middle = 0.5 * (low + high)
        average = mean(target.share, problem.rbe_dose(middle * field))
        low, high = (middle, high) if average < plan.prescription else (low, middle)
    return 0.5 * (low + high) * scale, scale
