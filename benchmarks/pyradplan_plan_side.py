"""The other half of `optimise_against_pyradplan.py`: runs with the interpreter that has pyRadPlan, leaves problem and history.

Called as: python pyradplan_plan_side.py <output.npz> <iterations> <cores> <run> [run ...]; runs: "rbe" (its default for
carbon), "rbe-corrected" (the same with the slope of its RBE-weighted dose corrected), "dose".
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from importlib.resources import files

import numpy as np

ION, SPACING = "C", 5.0


def main(out: str, iterations: int, cores: int, runs: list[str]) -> None:
    """One carbon beam on TG119: influence, objectives that the phantom brings along, histories of the runs."""
    from pyRadPlan import IonPlan, generate_stf, load_tg119
    from pyradplan_side import MODES, Recorded, inputs

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    ct, cst = load_tg119()
    plan = IonPlan(radiation_mode=MODES[ION], machine="Generic")
    plan.prop_stf = {"gantry_angles": [0.0], "couch_angles": [0.0], "bixel_width": SPACING}
    plan.prop_dose_calc = {"dose_grid": {"resolution": dict.fromkeys("xyz", SPACING)}}
    stf = generate_stf(ct, cst, plan)
    saved: dict = {}
    for biology in (False, True):
        engine = Recorded(plan)
        engine.kept = []
        engine.air_offset_correction, engine.calc_let, engine.lateral_model = False, False, "single"
        engine.calc_bio_dose = biology
        cpu, wall = time.process_time(), time.perf_counter()
        dij = engine.calc_dose_influence(ct, cst, stf)
        saved["influence_rbe" if biology else "influence_dose"] = (time.process_time() - cpu, time.perf_counter() - wall)
    matrix = dij.physical_dose.flat[0].tocsc()
    saved |= inputs(engine, stf, dij) | biology_tables(engine) | {
        "indptr": matrix.indptr, "indices": matrix.indices.astype(np.int32), "data": matrix.data.astype(np.float32),
        "alpha_data": dij.alpha_dose.flat[0].tocsc().data, "sqrt_beta_data": dij.sqrt_beta_dose.flat[0].tocsc().data,
        "alphax": np.asarray(dij.alphax), "betax": np.asarray(dij.betax),
        "machine": str(files("pyRadPlan.data.machines").joinpath(f"{MODES[ION]}_Generic.mat")),
    }  # fmt: skip
    for run in runs:
        saved |= {f"{run}_{k}": v for k, v in optimised(run, ct, cst, stf, dij, plan, iterations).items()}
    np.savez(out, **saved)


def biology_tables(engine) -> dict:
    """alpha and beta per depth that the engine used, by energy."""
    out = {}
    energies = {float(b["energy"]) for k in engine.kept for ray in k["info"]["beam"]["rays"] for b in ray["beamlets"]}
    for k, energy in enumerate(sorted(energies)):
        kernel = engine._machine.get_kernel_by_energy(energy)
        rows = (kernel.depths, kernel.alpha[0], kernel.beta[0])
        out[f"lq{k}"] = np.concatenate([[energy], *(np.asarray(r, dtype=float).ravel() for r in rows)])
    return out


def optimised(run: str, ct, cst, stf, dij, plan, iterations: int) -> dict:
    """Weights, value with CPU and wall seconds after each evaluation, and the seconds that evaluations take by themselves."""
    from pyRadPlan.optimization.problems import NonLinearFluencePlanningProblem
    from pyRadPlan.quantities import RBExDose

    shipped = RBExDose._compute_chain_derivative_single_scenario
    if run == "rbe-corrected":
        RBExDose._compute_chain_derivative_single_scenario = corrected
    values, stamps, inside = [], [], []

    class Logged(NonLinearFluencePlanningProblem):
        default_quantities = NonLinearFluencePlanningProblem.default_quantities | (
            {"carbon": "physical_dose"} if run == "dose" else {}
        )

        def _objective_function(self, x):
            cpu = time.process_time()
            value = super()._objective_function(x)
            inside.append(time.process_time() - cpu)
            values.append(float(value))
            return value

        def _objective_gradient(self, x):
            cpu = time.process_time()
            gradient = super()._objective_gradient(x)
            inside[-1] += time.process_time() - cpu
            stamps.append((time.process_time(), time.perf_counter()))
            return gradient

    plan.prop_opt = {"solver": "scipy", "max_iter": iterations}
    problem = Logged(plan)
    begin = (time.process_time(), time.perf_counter())
    weights, info = problem.solve(ct, cst, stf, dij)
    end = (time.process_time(), time.perf_counter())
    out = {
        "weights": weights, "values": np.array(values), "stamps": np.array(stamps) - begin, "seconds": np.subtract(end, begin),
        "inside": np.array(inside), "iterations": int(info["num_iter"]), "message": str(info["message"]),
    }  # fmt: skip
    out |= {"slope_error": slope_error(problem, weights)} | terms(problem)
    RBExDose._compute_chain_derivative_single_scenario = shipped
    return out


def corrected(self, slope, scenario: int):
    """Slope by the weights: that of the RBE-weighted dose by the effect is 1 / (2 beta_x (D_rbe + alpha_x / 2 beta_x))."""
    alpha, beta = self._dij.alphax, self._dij.betax
    inside = beta > 0
    dose, slope = self._q_cache.flat[scenario], slope.reshape(-1)
    by_effect = np.zeros_like(slope)
    by_effect[inside] = slope[inside] / (2.0 * beta[inside] * dose[inside] + alpha[inside])
    return self._deps["effect"]._compute_chain_derivative_single_scenario(by_effect.reshape(1, -1), scenario)


def slope_error(problem, weights: np.ndarray) -> float:
    """Relative error of its slope along a direction at its result, against a central difference."""
    rng = np.random.default_rng(0)
    at = np.maximum(weights, 0.05 * weights.mean()) * rng.uniform(0.8, 1.2, weights.size)
    direction, step = rng.normal(size=at.size) * weights.mean(), 1e-3
    slope = float(np.asarray(problem._objective_gradient(at)).ravel() @ direction)
    up, down = (float(problem._objective_function(at + s * step * direction)) for s in (1.0, -1.0))
    difference = (up - down) / (2.0 * step)
    return slope / difference - 1.0


def terms(problem) -> dict:
    """Objectives as used: kind, priority, level, voxels of each."""
    out: dict = {}
    for mask, objectives in problem._objective_list:
        for one in objectives:
            k = len(out) // 2
            out[f"term{k}"] = np.array([one.name, str(one.priority), str(one.parameters[0])])
            out[f"term{k}_voxels"] = np.flatnonzero(mask)
    return out


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
