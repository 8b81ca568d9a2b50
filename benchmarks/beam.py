"""Beam physics against references: `python benchmarks/beam.py validate` (figures), `cost` (seconds per energy) or `build`
(all base data, as a first user waits for them).

References: `datasets/reference`, whose card says where each comes from.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time

import numpy as np

import ionrt
from ionrt.beam.physics.water import broad_beam as bb
from ionrt.beam.validation import lines
from ionrt.ions import IONS


def validate() -> None:
    """Print line, measured, target and whether it is met."""
    print(f"{'line':63s} {'reference':>10s} {'ours':>10s} {'apart':>9s} {'target':>8s}")
    for line in lines():
        verdict = "pass" if line.reached else "MISS"
        values = f"{line.reference:10.4g} {line.ours:10.4g}"
        print(f"{line.name:63s} {values} {line.measured:9.3f} {line.target:8.3f} {line.unit:3s} {verdict}")


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


def build() -> None:
    """Seconds, processor seconds and memory of the base data of all ions, built anew; then of reading them back."""
    ionrt.beam.transport("C", 100.0, depth=[0.0, 10.0])  # compiled before the clock starts
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IONRT_CACHE"] = folder
        begin, cpu = time.perf_counter(), time.process_time()
        for ion in IONS:
            wall, work = time.perf_counter(), time.process_time()
            size = ionrt.beam.base_data(ion, progress=False).sizes["energy"]
            wall, work = time.perf_counter() - wall, time.process_time() - work
            again = time.perf_counter()
            ionrt.beam.base_data(ion)
            print(f"{ion:3s} {size:4d} energies: {wall:5.1f} s, {work:5.1f} s CPU; read {time.perf_counter() - again:.2f} s")
        print(f"all {time.perf_counter() - begin:5.1f} s, {time.process_time() - cpu:5.1f} s CPU", end="; ")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    commands = {"validate": validate, "cost": cost, "build": build}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit("usage: python benchmarks/beam.py validate | cost | build")
    commands[sys.argv[1]]()
