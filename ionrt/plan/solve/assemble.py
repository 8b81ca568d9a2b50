"""From patient, plan, influence and scenarios to the problem that the optimiser solves: rows, shares, influence cut down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from ionrt.parallel import each
from ionrt.patient.names import is_external, is_target, kinds_of
from ionrt.plan.engine.influence import BeamInfluence, Influence, beam_influence
from ionrt.plan.setup.beams import Plan
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.moments import Moment, merge, moment_values, moments_of
from ionrt.plan.setup.objectives import Objective, default_objectives
from ionrt.plan.setup.scenarios import Scenario, check_scenarios
from ionrt.plan.setup.scene import Scene, fractions_of, make_scene, on_dose_grid
from ionrt.plan.setup.spots import make_view
from ionrt.plan.solve.problem import Delivery, Problem, Term
from ionrt.plan.solve.products import compact
from ionrt.quantities import IonrtError, check_same_grid, one_of

SAMPLES = 2_500  # voxels of a structure that stand for all those far from the target
NEAR = 9.0  # mm: voxels this close to the target all count
DEPTH = 300.0  # mm of water: range errors move dose by their share of this at most

Chosen = tuple[np.ndarray, np.ndarray]


def make_problem(
    patient: xr.Dataset,
    plan: Plan,
    influence: Influence,
    *,
    scenarios: Sequence[Scenario] = (),
    samples: int = SAMPLES,
    seed: int = 0,
) -> Problem:
    """Rows of the structures with objectives, and the influence of every scenario cut down to them."""
    from ionrt.rbe import MODELS

    model = MODELS[one_of(plan.model, tuple(MODELS), what="RBE model")]
    coarse = on_dose_grid(patient, plan)
    _check_grid(coarse, influence.grid)
    names = [str(s) for s in coarse["structure"].values]
    objectives = plan.objectives or default_objectives(plan.target, plan.prescription, coarse)
    for objective in objectives:
        one_of(objective.structure, names, what="objective: structure")
    set_of = _scenario_set(objectives, scenarios)
    moments = _moments(model, plan, objectives)
    jobs: list[Callable[[], Any]] = [partial(moment_values, base, moments) for base in influence.base.values()]
    rng = np.random.default_rng(seed)
    jobs.append(partial(_terms, coarse, plan, influence, objectives, _reach(set_of), samples, rng))
    *found, (terms, voxels) = each(lambda job: job(), jobs)
    position = np.full(influence.grid.size, -1, dtype=np.int64)
    position[voxels] = np.arange(voxels.size)
    located = tuple(replace(t, rows=position[t.rows]) for t in terms)
    values = dict(zip(influence.base, found, strict=True))

    def delivery(beams: Sequence[BeamInfluence]) -> Delivery:
        columns = each(lambda b: tuple(compact(b, values[b.beam.ion], position, voxels.size)), beams)
        return Delivery(tuple(columns), tuple(influence.slices()))

    deliveries, members = [delivery(influence.beams)], []
    robust = np.unique(np.concatenate([voxels[:0], *(t.rows for t in terms if t.objective.robust != "nominal")]))
    scene = make_scene(patient, plan) if any(not s.is_nominal for s in set_of) else None
    for scenario in tqdm(set_of, desc="scenarios", disable=None, leave=False):
        members.append(0 if scenario.is_nominal else len(deliveries))
        if scene is not None and not scenario.is_nominal:
            deliveries.append(delivery(in_scenario(influence, scene, scenario, robust)))
    probability = np.array([s.weight for s in set_of]) if set_of else np.ones(1)
    return Problem(
        tuple(deliveries),
        located,
        model,
        dict(plan.parameters),
        moments,
        tuple(members) or (0,),
        probability / probability.sum(),
    )


def check_nominal(influence: Influence) -> None:
    """Raises where the influence is that of an error scenario: errors start from the plan as it was made."""
    if influence.attrs.get("scenario"):
        raise IonrtError(f"influence: expected the nominal one, got that of scenario {influence.attrs['scenario']!r}")


def in_scenario(
    influence: Influence, scene: Scene, scenario: Scenario, index: np.ndarray | None = None
) -> tuple[BeamInfluence, ...]:
    """The beams of a plan, spots as they are, under a scenario; only in the voxels `index` (flat) where given."""
    return tuple(
        beam_influence(influence.plan, b.beam, scene, make_view(b.beam, scene).moved(scenario), b.machine, b.spots, index=index)
        for b in influence.beams
    )


def _scenario_set(objectives: Sequence[Objective], scenarios: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """Objectives and scenarios must go together."""
    robust = [o for o in objectives if o.robust != "nominal"]
    if robust and not scenarios:
        raise IonrtError(
            f"objective on {robust[0].structure!r} counts over scenarios ({robust[0].robust}), but none were given; pass"
            " scenarios, e.g. ionrt.plan.scenario_set()"
        )
    if not robust:
        if scenarios:
            raise IonrtError("scenarios were given, but all objectives are nominal; see make_robust")
        return ()
    return check_scenarios(scenarios)


def _reach(scenarios: Sequence[Scenario]) -> float:
    """How far (mm) errors may move the dose."""
    return max((float(np.linalg.norm(s.setup)) + abs(s.range_shift) * DEPTH for s in scenarios), default=0.0)


def _moments(model, plan: Plan, objectives: Sequence[Objective]) -> tuple[Moment, ...]:
    wanted = list(moments_of(model, plan.parameters, let_definition=plan.let_definition))
    if any(o.quantity == "let_d" for o in objectives):
        wanted.append(Moment("let_x_dose", let_definition=plan.let_definition))
    wanted += [Moment("high_let_dose", let_threshold=o.let_threshold) for o in objectives if o.let_threshold is not None]
    return merge(wanted)


def _check_grid(patient: xr.Dataset, grid: Grid) -> None:
    mine = xr.Dataset(coords={k: (k, v) for k, v in grid.coords().items()})
    check_same_grid(xr.Dataset(coords={k: patient[k] for k in ("z", "y", "x")}), mine, what="patient and influence")


def _terms(
    coarse: xr.Dataset,
    plan: Plan,
    influence: Influence,
    objectives: Sequence[Objective],
    reach: float,
    samples: int,
    rng: np.random.Generator,
) -> tuple[list[Term], np.ndarray]:
    """Voxels (flat) and shares per objective; only voxels that may be dosed, since the others stay at zero whatever the
    weights."""
    grid = influence.grid
    dosed = np.zeros(grid.size, dtype=bool)
    for beam in influence.beams:
        dosed[beam.voxel] = True
    if reach > 0.0:
        dosed = grid.near(dosed, reach).ravel()
    limited = {o.structure for o in objectives if o.hard}
    kinds = kinds_of(coarse)
    volumes = {o.structure for o in objectives if o.asks_for_dose or is_target(o.structure, kinds[o.structure])} - {plan.target}
    names = list(dict.fromkeys([plan.target, *(o.structure for o in objectives)]))
    fractions = dict(zip(names, fractions_of(coarse, names), strict=True))
    target = fractions[plan.target]
    near = grid.near(target > 0.0, NEAR).ravel()
    target = target.ravel()
    covered = np.any([target > 0.0, *(fractions[v].ravel() > 0.0 for v in volumes)], axis=0)
    chosen: dict[str, Chosen] = {}
    for name in dict.fromkeys(o.structure for o in objectives):
        fraction = fractions[name].ravel()
        if is_external(name, kinds[name]):
            fraction = np.where(covered, 0.0, fraction)
        if fraction.max(initial=0.0) <= 0.0:
            if not plan.objectives and name != plan.target:
                continue  # nobody asked for it by name, and there is nothing to spare
            raise IonrtError(f"objective on {name!r}: the structure is empty on the dose grid")
        most = fraction.size if name in limited else samples  # a limit holds in every voxel
        chosen[name] = sample(fraction, dosed | (name == plan.target), near, most, rng)
    voxels = np.unique(np.concatenate([c[0] for c in chosen.values()]))
    if voxels.size == 0:
        raise IonrtError("optimise: no spot reaches any structure that has an objective")
    return [Term(o, *chosen[o.structure]) for o in objectives if o.structure in chosen and chosen[o.structure][0].size], voxels


def sample(fraction: np.ndarray, dosed: np.ndarray, keep: np.ndarray, samples: int, rng: np.random.Generator) -> Chosen:
    """Voxels of a structure with their shares; all that are in `keep`, and `samples` of the others standing for them all."""
    total = float(fraction.sum(dtype=np.float64))
    always = np.flatnonzero((fraction > 0.0) & dosed & keep)
    others = np.flatnonzero((fraction > 0.0) & dosed & ~keep)
    picked = others if others.size <= samples else np.sort(rng.choice(others, samples, replace=False))
    share = fraction[picked].astype(np.float64)
    share *= float(fraction[others].sum(dtype=np.float64)) / max(share.sum(), 1e-300)
    return np.concatenate([always, picked]), np.concatenate([fraction[always].astype(np.float64), share]) / total
