"""Optimisation and whole plan against pyRadPlan 0.5.0: one carbon beam on TG119 at 5 mm, same machine file and spots.

IONRT_PYRADPLAN=<python that has pyRadPlan> python benchmarks/optimise_against_pyradplan.py [cores ...]; default: one core, all.

Same objectives, weights, voxels (all of them, none sampled) and cut-offs, spot by spot; 50 Gy (RBE) in one fraction, as
theirs has it. Runs: "rbe", its default for carbon, from alpha and beta of the machine file with alpha_x 0.1/Gy and beta_x
0.05/Gy2; "rbe-corrected", the same with the slope of its RBE-weighted dose corrected; "dose". Ours: "their start" is zero in
their unit of weights, so the same solver sees the same numbers; "own start" is that of `ionrt.optimise`. CPU of an evaluation
is the median over all of them; a program's threads count wherever they spin.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
from against_pyradplan import ONE_THREAD, Case, plans, points, translated
from scipy.sparse import csc_array

from ionrt.beam import read_matrad
from ionrt.biology.tissues import Lem1
from ionrt.plan import Plan
from ionrt.plan.engine.influence import BeamInfluence, Part
from ionrt.plan.setup.machine import Machine
from ionrt.plan.setup.moments import Moment
from ionrt.plan.setup.objectives import Objective, SquaredDeviation, SquaredOverdose
from ionrt.plan.solve.optimiser import Progress, minimise_weights, start_weights
from ionrt.plan.solve.problem import Delivery, Problem, Term
from ionrt.plan.solve.products import MILLION, compact
from ionrt.rbe import MODELS

RUNS = ("rbe", "rbe-corrected", "dose")
ITERATIONS, LONG = 100, 150  # of the plan; to see where equal values are reached
KINDS = {"Squared Deviation": SquaredDeviation, "Squared Overdosing": SquaredOverdose}
PHOTON = Lem1("of the machine file", "any", 0.1, 0.05, 1e6, 5.0, "")  # linear-quadratic: the transition dose is out of reach


@dataclass
class Logged:
    """A problem that notes the value of each evaluation, CPU seconds inside of it, and CPU and wall seconds after it."""

    problem: Problem
    values: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    stamps: list[tuple[float, float]] = field(default_factory=list)

    def value_and_gradient(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """That of the problem."""
        cpu = time.process_time()
        value, gradient = self.problem.value_and_gradient(weights)
        self.inside.append(time.process_time() - cpu)
        self.values.append(value)
        self.stamps.append((time.process_time(), time.perf_counter()))
        return value, gradient


def theirs(cores: int, folder: Path) -> dict[str, Any]:
    """Run pyRadPlan in its own interpreter, on some cores, and read what it leaves."""
    out, script = folder / "theirs.npz", Path(__file__).with_name("pyradplan_plan_side.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    given = [os.environ["IONRT_PYRADPLAN"], str(script), str(out), str(ITERATIONS), str(cores), *RUNS]
    subprocess.run(given, check=True, env=environment, stderr=subprocess.DEVNULL)
    with np.load(out) as saved:
        return {k: saved[k] for k in saved.files}


def one_by_one(case: Case) -> BeamInfluence:
    """The point kernel with their cut-offs."""
    rows, _, chunks = points(case)
    part = Part(rows.bins, np.zeros(case.machine.dose.shape[0], np.int32), chunks, np.zeros(1, np.int64))
    return BeamInfluence(case.beam, case.machine, case.spots, case.beam.isocentre, rows.voxel, (part,))


def as_planned(case: Case) -> BeamInfluence:
    """The kernel of plans, with the same share outside its cut-off."""
    return plans(case)


Influence = Callable[[Case], BeamInfluence]
WAYS: tuple[tuple[str, Influence, bool], ...] = (
    ("ours, their start", one_by_one, False),
    ("ours, own start", one_by_one, True),
    ("plans' kernel, own start", as_planned, True),
)


def their_terms(saved: dict[str, Any], run: str) -> list[tuple[Objective, np.ndarray]]:
    """Objectives with all their voxels; the one that asks for a dose first, which is the target's."""
    out = []
    for k in range(sum(key.startswith(f"{run}_term") for key in saved) // 2):
        kind, weight, level = saved[f"{run}_term{k}"]
        quantity = "dose" if run == "dose" else "rbe_dose"
        made = KINDS[kind](f"structure {k}", float(weight), quantity, level=float(level))
        out.append((made, saved[f"{run}_term{k}_voxels"]))
    return sorted(out, key=lambda t: not isinstance(t[0], SquaredDeviation))


def problem_of(saved: dict[str, Any], case: Case, beam: BeamInfluence, run: str) -> Problem:
    """Their problem in our terms; voxels without dose count in the shares and cost nothing, but for those of the target."""
    dosed = np.zeros(case.scene.grid.size, dtype=bool)
    dosed[beam.voxel] = True
    given = [(o, v[dosed[v]], v.size) for o, v in their_terms(saved, run)]
    voxels = np.unique(np.concatenate([v for _, v, _ in given]))
    position = np.full(dosed.size, -1)
    position[voxels] = np.arange(voxels.size)
    tables, moments, model, parameters = [], (), MODELS["constant"], {"rbe": 1.0}
    if run != "dose":
        tables, model, parameters = alpha_beta(saved, beam.machine), MODELS["lem1"], {"tissue": PHOTON}
        moments = tuple(Moment(name) for name in model.moments)
    delivery = Delivery((tuple(compact(beam, tables, position, voxels.size)),), (slice(0, case.order.size),))
    terms = tuple(Term(o, position[v], np.full(v.size, 1.0 / n)) for o, v, n in given)
    return Problem((delivery,), terms, model, parameters, moments)


def alpha_beta(saved: dict[str, Any], machine: Machine) -> list[np.ndarray]:
    """alpha and square root of beta (depth, energy) of the machine file, as their engine read them, on the depths of ours."""
    energy = read_matrad(str(saved["machine"]), missing_let="primary")["energy"].values
    depth = machine.depth_step * np.arange(machine.dose.shape[0])
    out = [np.zeros((depth.size, energy.size)) for _ in range(2)]
    for k in range(sum(key.startswith("lq") for key in saved)):
        row = saved[f"lq{k}"]
        at, values = int(np.abs(energy - row[0]).argmin()), row[1:].reshape(3, -1)
        out[0][:, at] = np.interp(depth, values[0], values[1])
        out[1][:, at] = np.sqrt(np.interp(depth, values[0], values[2]))
    return out


def their_value(saved: dict[str, Any], run: str, weights: np.ndarray) -> float:
    """Their objective, from their matrices, of weights in their order and unit (millions)."""

    def product(name: str) -> np.ndarray:
        return csc_array((saved[name], saved["indices"], saved["indptr"])) @ weights

    if run == "dose":
        quantity = product("data")
    else:
        effect = product("alpha_data") + product("sqrt_beta_data") ** 2
        a, b = PHOTON.alpha_x, PHOTON.beta_x
        quantity = (np.sqrt(a * a + 4.0 * b * effect) - a) / (2.0 * b)
    quantity = np.concatenate([quantity, np.zeros(saved["spr"].size - quantity.size)])
    return sum(o.weight * o.evaluate(quantity[v], np.full(v.size, 1.0 / v.size))[0] for o, v in their_terms(saved, run))


def in_their_order(case: Case, weights: np.ndarray) -> np.ndarray:
    """Spot weights in their order and unit."""
    out = np.empty_like(weights)
    out[case.order] = weights / MILLION
    return out


def descend(problem: Problem, case: Case, *, own_start: bool, iterations: int) -> tuple[Logged, np.ndarray]:
    """What was noted on the way (seconds since the beginning), and the weights."""
    begin = clocks()
    start, scale = np.zeros(case.order.size), np.full(case.order.size, MILLION)
    if own_start:
        first = problem.terms[0].objective
        start, scale = start_weights(problem, Plan((case.beam,), first.structure, first.level))  # type: ignore[attr-defined]
    noted = Logged(problem)
    weights = minimise_weights(noted, start, scale, iterations, 0.0, Progress())  # type: ignore[arg-type]
    noted.stamps = [tuple(np.subtract(stamp, begin)) for stamp in noted.stamps]
    return noted, weights


def clocks() -> tuple[float, float]:
    """Seconds of CPU and on the clock."""
    return time.process_time(), time.perf_counter()


def whole_plan(saved: dict[str, Any], case: Case, make: Influence, run: str) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (CPU, wall) of the influence, and of problem and iterations; least of three."""
    parts = []
    for _ in range(3):
        begin = clocks()
        beam = make(case)
        middle = clocks()
        descend(problem_of(saved, case, beam, run), case, own_start=True, iterations=ITERATIONS)
        parts.append((np.subtract(middle, begin), np.subtract(clocks(), middle)))
    return min(parts, key=lambda p: p[0][1] + p[1][1])


def line(name: str, values: np.ndarray, stamps: Any, inside: Any, goal: float) -> str:
    """One row of the table."""
    best = np.minimum.accumulate(values)
    shown = " ".join(f"{best[k - 1]:8.1f}" for k in (25, 50, 100))
    there = np.flatnonzero(best <= goal)
    reached = "not reached" if there.size == 0 else "{:3d}, {:5.2f} s, {:5.2f} s".format(there[0] + 1, *stamps[there[0]])
    return f"  {name:26} {1e3 * np.median(inside):5.1f} ms {shown}   {reached:22}"


def compare(saved: dict[str, Any], case: Case, run: str) -> None:
    """The table of one run; the goal is their value after all iterations."""
    weights, values, inside = (saved[f"{run}_{k}"] for k in ("weights", "values", "inside"))
    goal, per = float(values.min()), float(np.median(inside))
    ours = problem_of(saved, case, one_by_one(case), run).value_and_gradient(MILLION * weights[case.order])[0]
    print(f"{run}: at their weights theirs {their_value(saved, run, weights):.2f}, ours {ours:.2f};", end=" ")
    print(f"their slope along a direction is off by {float(saved[f'{run}_slope_error']):+.1%}")
    heads = "CPU each  value after 25, 50, 100 evaluations  their value reached: evaluations, CPU, wall"
    print(f"  {'':26} {heads}; value after {LONG} iterations (by their matrices)")
    print(line("theirs", values, saved[f"{run}_stamps"], inside, goal))
    influence = saved["influence_dose" if run == "dose" else "influence_rbe"]
    spent = saved[f"{run}_seconds"]
    wholes = [f"  influence + {ITERATIONS} iterations, wall (CPU): theirs {_sum(influence, spent)}"]
    for name, make, own in WAYS:
        noted, found = descend(problem_of(saved, case, make(case), run), case, own_start=own, iterations=LONG)
        ratio = per / float(np.median(noted.inside))
        row = line(name, np.array(noted.values), noted.stamps, noted.inside, goal)
        checked = their_value(saved, run, in_their_order(case, found))
        print(f"{row} {ratio:4.1f} times less CPU each; {min(noted.values):.1f} ({checked:.1f})")
        if own:
            parts = whole_plan(saved, case, make, run)
            times = (influence[1] + spent[1]) / (parts[0][1] + parts[1][1])
            wholes.append(f"  {name} {_sum(*parts)}, {times:.1f} times less wall")
    print("\n".join(wholes), flush=True)


def _sum(first: np.ndarray, second: np.ndarray) -> str:
    return f"{first[1]:.2f} + {second[1]:.2f} = {first[1] + second[1]:.2f} s ({first[0]:.2f} + {second[0]:.2f} s)"


def one_setting(cores: int) -> None:
    """Both on this many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory() as folder:
        saved = theirs(cores, Path(folder))
    (case,) = translated(saved, "C")
    print(
        f"\n{cores} core(s), load {os.getloadavg()[0]:.1f}; {case.order.size} spots, {saved['data'].size / 1e6:.2f} M entries"
    )
    with dask.config.set(scheduler="synchronous" if cores == 1 else "threads", num_workers=cores):
        for run in RUNS:
            for _, make, own in WAYS:  # compile
                descend(problem_of(saved, case, make(case), run), case, own_start=own, iterations=2)
            compare(saved, case, run)


def main(given: list[str]) -> None:
    """Every number of cores in a process of its own: pools of threads are made once; one core has one thread of BLAS."""
    if "IONRT_PYRADPLAN" not in os.environ:
        raise SystemExit("set IONRT_PYRADPLAN to a python that has pyRadPlan 0.5.0; see the docstring")
    if given[:1] == ["within"]:
        one_setting(int(given[1]))
        return
    everything = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for cores in given or dict.fromkeys(("1", str(everything))):
        subprocess.run(
            [sys.executable, __file__, "within", cores], check=True, env=os.environ | (ONE_THREAD if cores == "1" else {})
        )


if __name__ == "__main__":
    main(sys.argv[1:])
