"""What a second core gives to the whole influence of carbon beams on a DICOM study, targets CTV: alone, and against a control.

python benchmarks/cores.py FOLDER [gantry angles] [spacing in mm ...]; for instance FOLDER 30,90,330 3 2

A virtual core may be the other half of a physical one, or busy with neighbours. Arithmetic that shares nothing then gains 1.0
instead of 2.0, and nothing else can gain more. So such arithmetic is timed before and after every pair of times.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
import numpy as np
from memory import keep_freed_memory
from numba import njit

from ionrt.parallel import each
from ionrt.patient import read_dicom
from ionrt.plan import Beam, Plan, influence

OFFERED = 1.9  # gain of the control from which the machine is said to have two cores


@contextmanager
def on(cores: int) -> Iterator[None]:
    """So many cores for this thread, those it starts, and dask."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:cores])
    try:
        with dask.config.set(scheduler="threads", num_workers=cores):
            yield
    finally:
        os.sched_setaffinity(0, every)


@njit(nogil=True, cache=True)
def _arithmetic(a, b, rounds):
    for _ in range(rounds):
        for i in range(a.size):
            b[i] = 0.999 * b[i] + a[i] * a[i]


def offered(rounds: int = 20_000) -> float:
    """Gain of a loop in the first cache that shares nothing."""
    arrays = [np.ones((2, 4000), np.float32) for _ in range(2)]
    seconds = []
    for several in (arrays[:1], arrays):
        start = time.perf_counter()
        each(lambda a: _arithmetic(a[0], a[1], rounds), several)
        seconds.append(time.perf_counter() - start)
    return 2.0 * seconds[0] / seconds[1]


def gain(work: Callable[[], Any], pairs: int = 25) -> str:
    """One core over two: least times of all pairs and their median, and those of pairs with two cores on offer throughout."""
    offered(10)
    seconds, least = np.empty((pairs, 2)), np.empty(pairs)
    for cores in (1, 2):  # compiles, and fills what is kept
        with on(cores):
            work()
    control = offered()
    for pair in range(pairs):
        controls = [control]
        for cores in (1, 2):
            with on(cores):
                start = time.perf_counter()
                made = work()
                seconds[pair, cores - 1] = time.perf_counter() - start
                del made
            controls.append(offered())
        control, least[pair] = controls[-1], min(controls)
    whole = seconds[least >= OFFERED]
    return (
        f"one core {_said(seconds[:, 0])} s, two {_said(seconds[:, 1])} s (least, median of {pairs}): {_ratios(seconds)};"
        f" two cores on offer in {len(whole)} pairs{': ' + _ratios(whole) if len(whole) else ''};"
        f" control {np.median(least):.2f}, load {os.getloadavg()[0]:.1f}"
    )


def _said(seconds: np.ndarray) -> str:
    return f"{seconds.min():.3f}, {np.median(seconds):.3f}"


def _ratios(seconds: np.ndarray) -> str:
    least = seconds[:, 0].min() / seconds[:, 1].min()
    return f"{least:.2f} times (least), {np.median(seconds[:, 0] / seconds[:, 1]):.2f} (median of ratios)"


def main(folder: str, angles: str = "30,90,330", *spacings: str) -> None:
    """Whole influence: scene, hashes, spots, rows, tables, entries."""
    patient = read_dicom(folder)
    print(f"freed memory is {keep_freed_memory()}")
    beams = tuple(Beam("C", float(a)) for a in angles.split(","))
    for spacing in spacings or ("3", "2"):
        plan = Plan(beams, "CTV", 2.0, spacing=float(spacing))
        print(f"{spacing} mm, {len(beams)} beams: {gain(lambda plan=plan: influence(patient, plan), 9)}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
