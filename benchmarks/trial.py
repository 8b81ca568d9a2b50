"""Time of searches, bounds and replicates; one core against two.

python benchmarks/trial.py [replicates]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import dask

from ionrt import trial
from ionrt.trial.simulation import dose_finding

TRIALS = Path(__file__).resolve().parents[1] / "trials"


def timed(name: str, call: Callable[[], object]) -> float:
    """Run once and print the seconds."""
    begin = time.perf_counter()
    call()
    seconds = time.perf_counter() - begin
    print(f"{name:58s} {seconds:8.3f} s", flush=True)
    return seconds


def main(n_sim: int) -> None:
    trial.simon(0.3, 0.5)  # load the room
    timed("simon 0.6 against 0.8, beta 0.1, n up to 100", lambda: trial.simon(0.6, 0.8, 0.05, 0.10))
    timed(
        "spending_bounds, 5 looks, beta spending",
        lambda: trial.spending_bounds(5, power=0.9, beta_spending="lan_demets_pocock"),
    )
    timed("spending_bounds, 20 looks, Pocock", lambda: trial.spending_bounds(20, spending="pocock", power=0.9))
    curve = [0.10, 0.25, 0.40]
    designs = {
        "boin": trial.boin(0.25, n_max=30),
        "crm": trial.crm([0.12, 0.25, 0.38], 0.25, n_max=30),
        "tite_crm": trial.crm([0.12, 0.25, 0.38], 0.25, window=90, n_max=30),
    }
    for name, design in designs.items():
        dose_finding(design, curve, n_sim=32)  # compile or load
        timed(f"{name}, {n_sim} replicates", lambda d=design: dose_finding(d, curve, n_sim=n_sim))
    protocol = trial.load(TRIALS / "pancreas_randomised.yaml")
    trial.simulate(protocol, 32)
    seconds = {}
    for cores in (1, 2):
        with dask.config.set(scheduler="threads", num_workers=cores):
            name = f"two-look survival trial, 2 x {n_sim} replicates, {cores} core(s)"
            cpu = time.process_time()
            seconds[cores] = timed(name, lambda: trial.simulate(protocol, n_sim))
            print(f"{'  cores in use on average':58s} {(time.process_time() - cpu) / seconds[cores]:8.2f}")
    print(f"{'speed-up of the second core':58s} {seconds[1] / seconds[2]:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
