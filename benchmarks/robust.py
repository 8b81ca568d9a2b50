"""Robust against margin planning: worst cases, time, memory, CPU time per evaluation.

python benchmarks/robust.py [DICOM folder] [spacing in mm] [ion] [gantry angles, comma-separated] [robust]

Without a folder: the built-in SYNTHETIC pelvis at 5 mm. The head study: its folder, then 3 C 30,90,330.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from dataclasses import replace

import numpy as np

from ionrt.compare import Comparison, compare_robustness, open_patient
from ionrt.compare.robustness import SPOT_MARGIN
from ionrt.patient.geometry.margins import with_margin
from ionrt.plan import scenario_set
from ionrt.plan.solve.assemble import make_problem

REPEATS = 5
ERRORS = 0.025, 2.0  # of range, relative; of set-up, mm


def per_evaluation(result: Comparison, name: str) -> str:
    """CPU milliseconds of value and gradient, forward and backward apart, with the entries they run over."""
    one = result.plans[name]
    wanted, margin = one.plan, one.plan.margin - SPOT_MARGIN
    patient = with_margin(result.patient, result.target, margin=margin, name=f"{result.target} + {margin:.1f} mm")
    scenarios = scenario_set(range_shift=ERRORS[0], setup=ERRORS[1]) if name == "robust" else ()
    problem = make_problem(patient, replace(wanted), one.influence, scenarios=scenarios)
    w = np.asarray(one.weights)
    problem.value_and_gradient(w)
    took = []
    for _ in range(REPEATS):
        start = time.process_time()
        problem.value_and_gradient(w)
        took.append(time.process_time() - start)
    entries = sum(c.dose.size for d in problem.deliveries for b in d.columns for part in b for c in part.chunks)
    over = f"{entries / 1e6:6.1f} M entries in {len(problem.deliveries)} scenarios"
    return f"{name:7} {1e3 * min(took):7.1f} ms CPU per evaluation, {over}"


def main(folder: str = "", spacing: str = "5", ion: str = "C", angles: str = "135,225", robust: str = "voxel_worst") -> None:
    """The study, its tables, its cost."""
    warnings.simplefilter("ignore")
    wall, cpu = time.perf_counter(), time.process_time()
    organs = ["BrainStem"] if folder else []
    result = compare_robustness(
        open_patient(folder),
        organs=organs,
        ions=(ion,),
        gantry_angles=[float(a) for a in angles.split(",")],
        spacing=float(spacing),
        robust=robust,
        range_error=ERRORS[0],
        setup_error=ERRORS[1],
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(result.summary_table().to_string(header=False))
    print(result.worst_table().round(3).to_string())
    print(result.key_numbers())
    for name, one in result.plans.items():
        print(f"{name:7} {one.weights.attrs['evaluations']} evaluations, {one.seconds:.0f} s with its scenarios")
        print(per_evaluation(result, name))
    n = result.maps.sizes["scenario"]
    print(f"study of two plans, {n} scenarios each: {wall:.0f} s, {cpu:.0f} s CPU, {memory:.1f} GB at most")


if __name__ == "__main__":
    main(*sys.argv[1:6])
