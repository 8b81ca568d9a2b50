"""Time, memory and agreement of the influence against pyRadPlan 0.5.0 on its TG119 phantom, same machine file and spots.

IONRT_PYRADPLAN=<python that has pyRadPlan> python benchmarks/against_pyradplan.py [case ...]; cases: C5, C3 and He5.

Both run in one thread unless said otherwise, and seconds are of CPU (least of three for ours, once for theirs). Ours are
given twice: the point kernel with their cut-offs, which can be compared entry by entry, and the kernel that plans use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
from cores import gain
from memory import keep_freed_memory

from ionrt.beam import read_matrad
from ionrt.parallel import each
from ionrt.plan import Beam, Plan, Room
from ionrt.plan.engine.blocks import Work, divided, filled
from ionrt.plan.engine.influence import BeamInfluence, Prepared, finish, prepare_beam
from ionrt.plan.engine.points import Point, point_tables
from ionrt.plan.engine.rows import Rows, dosed_rows
from ionrt.plan.engine.store import Chunk, Keeper
from ionrt.plan.setup.geometry import Grid, bev_axes
from ionrt.plan.setup.machine import Machine, make_machine
from ionrt.plan.setup.scene import Scene
from ionrt.plan.setup.spots import Spots, View

CASES = {"C5": ("C", 5.0, (0.0,)), "C3": ("C", 3.0, (0.0, 90.0)), "He5": ("He", 5.0, (0.0,))}
STEP = 0.04  # mm of the depth tables: they interpolate, ours takes the nearest depth
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Case:
    """One beam of theirs in our terms; `order` of their spots among ours."""

    beam: Beam
    machine: Machine
    spots: Spots
    view: View
    scene: Scene
    cut2: np.ndarray
    limit2: np.ndarray
    order: np.ndarray


def theirs(ion: str, spacing: float, angles: tuple[float, ...], folder: Path, *more: str) -> dict[str, Any]:
    """Run pyRadPlan in its own interpreter and read what it leaves."""
    out = folder / f"{ion}{spacing:g}.npz"
    script = Path(__file__).with_name("pyradplan_side.py")
    named = [ion, f"{spacing:g}", ",".join(f"{a:g}" for a in angles), str(out), *more]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ONE_THREAD
    subprocess.run([os.environ["IONRT_PYRADPLAN"], str(script), *named], check=True, env=environment, stderr=subprocess.DEVNULL)
    with np.load(out) as saved:
        return {k: saved[k] for k in saved.files}


def translated(saved: dict[str, Any], ion: str) -> list[Case]:
    """Their beams, spots, widths in air and cut-offs as ours."""
    base = read_matrad(str(saved["machine"]), missing_let="primary", depth_step=STEP)
    spr = np.ascontiguousarray(saved["spr"], dtype=np.float32)
    grid = Grid(tuple(saved["origin"][::-1]), tuple(saved["spacing"][::-1]), spr.shape)
    body = np.zeros(spr.size, dtype=bool)
    body[saved["voxels"]] = True
    scene = Scene(grid, spr, grid, body.astype(np.float32), body)
    return [_case(saved, b, ion, base, scene) for b in range(int(saved["beams"]))]


def _case(saved: dict[str, Any], b: int, ion: str, base: Any, scene: Scene) -> Case:
    gantry, couch, distance = (float(saved[f"{k}{b}"]) for k in ("gantry", "couch", "sad"))
    room = Room("pyRadPlan", energies={ion: (1.0, 1000.0)}, source_distance=(distance, distance))
    beam = Beam(ion, gantry, couch, room=room, isocentre=tuple(saved[f"isocentre{b}"]))
    axes, table, machine = bev_axes(gantry, couch), saved[f"spots{b}"], make_machine(beam, base)
    u, v = (np.round(table[:, :3] @ axes[k], 4) for k in range(2))
    energy = np.abs(table[:, 3, None] - machine.energy).argmin(axis=1)
    order = np.lexsort((energy, u, v))
    u, v, energy = u[order], v[order], energy[order]
    start = np.flatnonzero(np.r_[True, (np.diff(u) != 0) | (np.diff(v) != 0) | (np.diff(energy) != 1)])
    low = int(energy.min())
    spots = Spots(u[start], v[start], energy[start] - low, np.diff(np.r_[start, u.size]), 5.0)
    machine = machine.select(low, int(energy.max()))
    used = [table[order][energy - low == k, 4] for k in range(machine.energy.size)]
    sigma = np.array([s.mean() if s.size else 1.0 for s in used])
    machine = replace(machine, air=np.stack([sigma**2, 0.0 * sigma, 0.0 * sigma], axis=1))
    cut2, widest = _cut_offs(saved, b, machine)
    ray = np.unique(np.stack([spots.u, spots.v], axis=1), axis=0, return_inverse=True)[1].ravel()
    top = np.zeros(ray.max() + 1, dtype=int)
    np.maximum.at(top, ray, spots.first + spots.count - 1)
    view = View(axes, saved[f"isocentre{b}"], np.array([distance, distance]))
    return Case(beam, machine, spots, view, scene, cut2, widest[top[ray]] ** 2, order)


def _cut_offs(saved: dict[str, Any], b: int, machine: Machine) -> tuple[np.ndarray, np.ndarray]:
    """Their squared cut-offs on our depths; and the widest of each energy, to which they limit a ray by its highest one."""
    depth = machine.depth_step * np.arange(machine.dose.shape[0])
    cut2, widest = np.full(machine.dose.shape, -1.0), np.zeros(machine.energy.size)
    for k in range(machine.energy.size):
        if f"cut{b}_{k}" not in saved:
            break
        row = saved[f"cut{b}_{k}"]
        n, e = (row.size - 2) // 2, int(np.abs(machine.energy - row[0]).argmin())
        cut2[:, e] = np.interp(depth, row[2 : 2 + n], row[2 + n :] ** 2, left=-1.0, right=-1.0)
        widest[e] = row[2 + n :].max()
    return np.where(machine.dose > 0.0, cut2, -1.0), widest  # they drop entries without dose


def points_to_be(case: Case) -> tuple[Rows, Point, Work]:
    """Entries with their cut-offs, before they are made."""
    point = replace(point_tables(case.machine, loss=0.005, cut2=case.cut2), limit2=case.limit2)
    radius = float(np.sqrt(case.cut2.max()))
    index = np.flatnonzero(case.scene.body)
    rows = dosed_rows(case.beam, case.scene, case.view, case.machine, case.spots, radius, case.scene.grid, index)
    return rows, point, divided(point, case.machine, case.spots, rows, case.view)


def points(case: Case) -> tuple[Rows, Point, tuple[Chunk, ...]]:
    """Entries with their cut-offs."""
    rows, point, work = points_to_be(case)
    return rows, point, filled([work], Keeper())[0]


def plans_to_be(case: Case) -> Prepared:
    """Entries as plans use them, with the same share outside the cut-off, before they are made."""
    plan = Plan((case.beam,), "target", 2.0, spacing=tuple(case.scene.grid.spacing), lateral_loss=0.005)
    return prepare_beam(plan, case.beam, case.scene, case.view, case.machine, case.spots)


def plans(case: Case) -> BeamInfluence:
    """Entries as plans use them."""
    return finish([plans_to_be(case)], Keeper())[0]


def least(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Least CPU seconds of some runs after a first one, and the last result."""
    result, cpu = work(), []
    for _ in range(times):
        result = None
        start = time.process_time()
        result = work()
        cpu.append(time.process_time() - start)
    return min(cpu), result


def agreement(saved: dict[str, Any], cases: list[Case], made: list[tuple[Rows, Point, tuple[Chunk, ...]]]) -> str:
    """Number of entries, sum, and sum of absolute differences over theirs."""
    n = total = apart = 0.0
    offset, scratch = 0, np.zeros(cases[0].scene.grid.size)
    for case, (rows, _, chunks) in zip(cases, made, strict=True):
        for chunk in chunks:
            for k in range(chunk.spot.size):
                column = offset + case.order[chunk.spot[k]]
                part = slice(saved["indptr"][column], saved["indptr"][column + 1])
                mine = slice(chunk.row_start[k], chunk.row_start[k + 1])
                index = rows.voxel[chunk.rows[mine]]
                scratch[saved["indices"][part]] += saved["data"][part]
                scratch[index] -= chunk.dose[mine]
                apart += np.abs(scratch[saved["indices"][part]]).sum()
                scratch[saved["indices"][part]] = 0.0
                apart += np.abs(scratch[index]).sum()
                scratch[index] = 0.0
                n += index.size
                total += chunk.dose[mine].sum(dtype=float)
        offset += case.order.size
    reference = saved["data"].sum(dtype=float)
    return (
        f"entries {n / saved['data'].size - 1.0:+.1e}, sum {total / reference - 1.0:+.1e},"
        f" sum of absolute differences {apart / reference:.1e}"
    )


def compare(name: str, folder: Path) -> list[Case]:
    """One case: agreement, CPU ratio, memory per entry; the case in our terms."""
    ion, spacing, angles = CASES[name]
    saved = theirs(ion, spacing, angles, folder)
    cases = translated(saved, ion)
    with dask.config.set(scheduler="synchronous"):
        cpu, made = least(lambda: [points(c) for c in cases])
        print(f"{name} point kernel against theirs: {agreement(saved, cases, made)}")
        split_cpu, split = least(lambda: [plans(c) for c in cases])
    let, dose = float(saved["cpu_with_let"]), float(saved["cpu_dose"])
    print(f"{name} CPU: theirs {let:.2f} s (dose alone {dose:.2f})")
    for kernel, seconds in (("point", cpu), ("plans'", split_cpu)):
        print(f"{name} CPU: {kernel} kernel {seconds:.3f} s, {let / seconds:.1f} times less (dose alone {dose / seconds:.1f})")
    mean = sum(a.nbytes for _, _, chunks in made for k in chunks for a in k.arrays()) / saved["data"].size
    entries, size = sum(b.entries for b in split), sum(b.nbytes for b in split)
    print(f"{name} memory: {mean:.1f} bytes an entry; plans' kernel {entries / 1e6:.1f} M, {size / entries:.1f} bytes each")
    sys.stdout.flush()
    return cases


def both_cores(name: str, cases: list[Case]) -> None:
    """Seconds on the clock of two cores against one: beams prepared side by side, then the entries of all, as
    `ionrt.plan.influence` does."""
    ways: dict[str, tuple[Callable[[Case], Any], Callable[[list[Any]], object]]] = {
        "point": (points_to_be, lambda made: filled([work for _, _, work in made], Keeper())),
        "plans'": (plans_to_be, lambda made: finish(made, Keeper())),
    }
    for kernel, (prepare, fill) in ways.items():
        print(f"{name} {kernel} kernel: {gain(lambda prepare=prepare, fill=fill: fill(each(prepare, cases)))}", flush=True)


def main(names: list[str]) -> None:
    """All cases, or those named."""
    if "IONRT_PYRADPLAN" not in os.environ:
        raise SystemExit("set IONRT_PYRADPLAN to a python that has pyRadPlan 0.5.0; see the docstring")
    with tempfile.TemporaryDirectory() as folder:
        made = {name: compare(name, Path(folder)) for name in names or CASES}
    print(f"freed memory is {keep_freed_memory()}")
    for name, cases in made.items():
        both_cores(name, cases)


if __name__ == "__main__":
    main(sys.argv[1:])
