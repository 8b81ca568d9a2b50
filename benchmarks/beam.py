"""Beam physics against references: `python benchmarks/beam.py validate` (figures) or `cost` (seconds per energy).

References are read from the folder $IONRT_SHARED (default: ../shared); nothing of it is kept in the repository.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

import ionrt
from ionrt.beam import broad_beam as bb
from ionrt.beam.validation import lines
from ionrt.ions import IONS

SHARED = Path(os.environ.get("IONRT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def validate() -> None:
    """Print line, measured, target and whether it is met."""
    print(f"{'line':58s} {'measured':>9s} {'target':>8s}")
    for line in lines(lambda name: SHARED / name):
        verdict = "pass" if line.reached else "MISS"
        print(f"{line.name:58s} {line.measured:9.3f} {line.target:8.3f} {line.unit:3s} {verdict}")


def cost() -> None:
    """CPU seconds per energy, spectra at 64 depths included, after compilation."""
    for ion in IONS:
        for reach in (50.0, 150.0, 300.0):
            energy = float(ionrt.beam.energy_for_range(ion, reach)[0])
            if energy > 440:
                continue
            depth = np.arange(0, reach + 200, 0.1)
            nodes = np.linspace(0, reach + 200, 64)
            bb.solve(IONS[ion], energy * 0.999, depth, spectrum_depth=nodes)
            begin = time.process_time()
            bb.solve(IONS[ion], energy, depth, spectrum_depth=nodes)
            print(f"{ion:3s} {reach:5.0f} mm {energy:6.1f} MeV/u: {time.process_time() - begin:.3f} s CPU")


if __name__ == "__main__":
    commands = {"validate": validate, "cost": cost}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit("usage: python benchmarks/beam.py validate | cost")
    commands[sys.argv[1]]()
