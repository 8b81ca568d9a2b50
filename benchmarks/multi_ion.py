"""Several ions in one plan against carbon alone, and five ions on a head study.

python benchmarks/multi_ion.py                LETd in a deep GTV of 50 cm3 (SYNTHETIC pelvis), coverage, organs
python benchmarks/multi_ion.py --head FOLDER  time of the plans of five ions, 3 beams, 3 mm; with --scenarios judged under nine
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import pandas as pd

from ionrt.beam import base_data
from ionrt.compare import compare_ions, compare_options, open_patient
from ionrt.ions import IONS
from ionrt.patient import add_ellipsoid
from ionrt.plan import DoseVolume, beam_set, scenario_set

MIXES = {"C": "C", "O": "O", "He + C": ("He", "C"), "C + O": ("C", "O"), "C + Ne": ("C", "Ne")}
ANGLES = (140.0, 220.0)
RADIUS = 22.85  # mm: 50 cm3
ORGANS = ["Rectum", "Bladder", "Bowel"]
LIMITS = (  # for every option: D2 of the bladder and of the rectum [Gy (RBE) per fraction]
    DoseVolume("Bladder", weight=1000.0, level=1.5, volume=0.02),
    DoseVolume("Rectum", weight=1000.0, level=3.45, volume=0.02),
)


def used(start: tuple[float, float]) -> str:
    """Wall and CPU seconds since `start`, load, peak memory."""
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return f"wall {wall:.1f} s, CPU {cpu:.1f} s, load {os.getloadavg()[0]:.1f}, peak memory {peak:.2f} GB"


def now() -> tuple[float, float]:
    """Wall and CPU clock."""
    return time.perf_counter(), time.process_time()


def mixed_plans(spacing: float, minimum: float, weight: float) -> None:
    """The same objectives for every option; LETd of at least `minimum` wished for in the GTV."""
    patient = add_ellipsoid(open_patient(), "GTV deep", centre=(0, 0, 0), radii=RADIUS)
    patient = add_ellipsoid(patient, "CTV deep", centre=(0, 0, 0), radii=RADIUS + 5.0, kind="CTV")
    start = now()
    found = compare_options(
        patient,
        {name: beam_set(ions, ANGLES) for name, ions in MIXES.items()},
        target="CTV deep",
        gtv="GTV deep",
        organs=ORGANS,
        let_minimum=minimum,
        let_weight=weight,
        limits=LIMITS,
        spacing=spacing,
        scenarios=scenario_set(),
        iterations=150,
    )
    pd.set_option("display.width", 200, "display.max_columns", 20)
    print(f"GTV of 50 cm3, middle of the pelvis, LETd of {minimum:g} keV/um wished for, weight {weight:g}, {spacing:g} mm")
    print(found.target_table().round(1).to_string())
    print(found.organ_table().round(2).to_string())
    print(found.share_table().round(0).to_string())
    print(used(start), flush=True)


def head_plans(folder: str, target: str, ions: list[str]) -> None:
    """Five ions, three beams, 3 mm, nominal; the first round compiles and builds base data."""
    for ion in ions:
        base_data(ion)
    patient = open_patient(folder)
    settings = {"target": target, "gantry_angles": (80.0, 180.0, 280.0), "prescription": 3.6}
    compare_ions(patient, ions=ions[:1], spacing=6.0, iterations=3, **settings)
    start = now()
    found = compare_ions(patient, ions=ions, spacing=3.0, **settings)
    print(f"{len(found.plans)} ions, 3 beams, 3 mm, all plans: {used(start)}")
    print(found.target_table().round(2).to_string())


def head_robust(folder: str, target: str, ions: list[str]) -> None:
    """The same plans judged under nine scenarios."""
    patient, start = open_patient(folder), now()
    options = {ion: beam_set(ion, (80.0, 180.0, 280.0)) for ion in ions}
    found = compare_options(patient, options, target=target, spacing=3.0, scenarios=scenario_set())
    print(f"judged under 9 scenarios: {used(start)}")
    print(found.target_table().round(1).to_string())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spacing", type=float, default=4.0)
    parser.add_argument("--weight", type=float, default=0.05, help="of the LETd objective, per (keV/um)2")
    parser.add_argument("--head", metavar="FOLDER")
    parser.add_argument("--target", default="CTV")
    parser.add_argument("--ions", nargs="+", default=list(IONS))
    parser.add_argument("--scenarios", action="store_true")
    chosen = parser.parse_args()
    if chosen.head:
        (head_robust if chosen.scenarios else head_plans)(chosen.head, chosen.target, chosen.ions)
        return
    mixed_plans(chosen.spacing, 90.0, chosen.weight)


if __name__ == "__main__":
    main()
