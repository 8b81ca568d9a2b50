"""Seconds of `optimise` and `field` here over those of another checkout: python benchmarks/before_after.py FOLDER [pairs]

FOLDER is a checkout of the commit to compare with (`git worktree add --detach FOLDER COMMIT`). Both plan the SYNTHETIC pelvis,
each in a process of its own that waits for its turn, so that what else the machine does falls on both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CASES = {
    "C, two beams, 3 mm": ("C", (90.0, 270.0), 3.0),
    "C, one beam, 4 mm": ("C", (90.0,), 4.0),
    "p, two beams, 3 mm": ("p", (90.0, 270.0), 3.0),
}
WORKS = {"optimise": 1, "field": 4}  # and how often in a turn


def serve(case: str) -> None:
    """Plans, then answers every line that names a work with its seconds by the clock and of the processors."""
    from ionrt.patient import read_dicom, write_phantom
    from ionrt.plan import Beam, Plan, field, influence, optimise

    ion, angles, spacing = CASES[case]
    model, parameters = ("constant", {"rbe": 1.1}) if ion == "p" else ("nirs_mkm", {})
    with tempfile.TemporaryDirectory() as folder:
        patient = read_dicom(write_phantom(Path(folder) / "pelvis")).load()
    plan = Plan(tuple(Beam(ion, a) for a in angles), "CTV", 3.0, model=model, parameters=parameters, spacing=spacing)
    dij = influence(patient, plan)
    weights = optimise(patient, plan, dij)
    works = {"optimise": lambda: optimise(patient, plan, dij), "field": lambda: field(dij, weights, models=(model,))}
    print(*(weights.attrs[k] for k in ("objective", "evaluations")), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(WORKS[line.strip()]):
            works[line.strip()]()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


def compare(case: str, folder: str, pairs: int) -> None:
    """Both sides by turns; a line per work."""
    sides, me = [], Path(__file__).resolve()
    for top in (folder, me.parents[1]):
        environment = {**os.environ, "PYTHONPATH": str(top)}
        command = [sys.executable, str(me), "--serve", case]
        sides.append(subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True))

    def answer(side: subprocess.Popen) -> list[float]:
        return [float(x) for x in side.stdout.readline().split()]  # type: ignore[union-attr]

    said = [answer(side) for side in sides]
    print(f"{case}: objective and evaluations {said[0]} there, {said[1]} here; load {os.getloadavg()[0]:.1f}")
    for work, times in WORKS.items():
        found = np.empty((pairs + 1, 2, 2))
        for pair in found:
            for k, side in enumerate(sides):
                print(work, file=side.stdin, flush=True)
                pair[k] = answer(side)
        found = found[1:] / times  # the first turn warms the caches
        for kind, s in (("wall", found[..., 0]), ("CPU", found[..., 1])):
            (there, here), middle = s.min(axis=0), np.median(s, axis=0)
            print(
                f"  {work:8} {kind:4} there {there:.3f} least, {middle[0]:.3f} median; here {here:.3f}, {middle[1]:.3f} s;"
                f" {there / here:.2f} times (least), {np.median(s[:, 0] / s[:, 1]):.2f} (median of ratios)",
                flush=True,
            )
    for side in sides:
        side.communicate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    elif len(sys.argv) < 2:
        raise SystemExit(__doc__)
    else:
        for name in CASES:
            compare(name, sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 9)
