"""Time, memory and plan quality of five ions on the built-in SYNTHETIC pelvis: python benchmarks/plan.py [spacing in mm]."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ionrt.patient import read_dicom, regrid, write_phantom
from ionrt.plan import Beam, Plan, field, influence, optimise
from ionrt.plan.setup.beams import ReachError
from ionrt.rbe import apply_model

PRESCRIPTION = 3.0
ANGLES = {"p": (90.0, 270.0), "He": (90.0, 270.0), "C": (90.0, 270.0), "O": (90.0, 270.0), "Ne": (0.0, 180.0)}


def one_ion(patient, target: np.ndarray, ion: str, spacing: float) -> str:
    """Plan one ion; a line of seconds (wall and CPU), size and coverage."""
    model, parameters = ("constant", {"rbe": 1.1}) if ion == "p" else ("nirs_mkm", {})
    beams = tuple(Beam(ion, angle) for angle in ANGLES[ion])
    plan = Plan(beams, "CTV", PRESCRIPTION, model=model, parameters=parameters, spacing=spacing)
    wall, cpu = [time.perf_counter()], [time.process_time()]
    try:
        dij = influence(patient, plan)
    except ReachError as error:
        return f"{ion:3} {error}"
    wall.append(time.perf_counter())
    weights = optimise(patient, plan, dij)
    wall.append(time.perf_counter())
    result = field(dij, weights, models=(model,))
    wall.append(time.perf_counter())
    cpu.append(time.process_time())
    dose = apply_model(result, model, **parameters).values[target] / PRESCRIPTION
    low, high = np.percentile(dose, [5.0, 98.0])
    return (
        f"{ion:3} influence {wall[1] - wall[0]:5.1f} s, optimise {wall[2] - wall[1]:5.1f} s, field {wall[3] - wall[2]:4.1f} s"
        f" (CPU {cpu[1] - cpu[0]:5.1f} s) | {dij.n_spots:6d} spots, {dij.entries / 1e6:6.1f} M entries,"
        f" {dij.nbytes / dij.entries:4.1f} bytes each |"
        f" {weights.attrs['iterations']:3d} iterations, D95 {low:.3f}, D2 {high:.3f}"
    )


def main(spacing: float = 3.0) -> None:
    """Twice over: the first round compiles and builds base data."""
    with tempfile.TemporaryDirectory() as folder:
        patient = read_dicom(write_phantom(Path(folder) / "pelvis"))
        target = regrid(patient, spacing=spacing)["structures"].sel(structure="CTV").values >= 0.5
        for turn in ("cold", "warm"):
            start = time.perf_counter()
            for ion in ANGLES:
                print(one_ion(patient, target, ion, spacing), flush=True)
            print(f"{turn}: {time.perf_counter() - start:.1f} s altogether")


if __name__ == "__main__":
    main(*(float(a) for a in sys.argv[1:2]))
