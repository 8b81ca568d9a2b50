"""Speed of the RBE models: fused kernels against plain NumPy and against the machine's own copy bandwidth; tables; streaming.

    python benchmarks/rbe.py                       # kernels and table
    python benchmarks/rbe.py --stream-gb 0.5       # and a zarr -> zarr stream of this size (16 for the full claim)
    python benchmarks/rbe.py --only table          # one of kernels, table, stream
    python benchmarks/rbe.py --pymkm FOLDER        # and the table by pymkm 1.0.0 of that site-packages folder

All data are SYNTHETIC.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from memory import keep_freed_memory
from numba import njit
from rbe_numpy import FORMULAS, checked

from ionrt.biology import TISSUES, specific_energy
from ionrt.biology.moments import let_table
from ionrt.parallel import each, slabs
from ionrt.rbe import MODELS, apply_model

PER_GY = {"let_x_dose": 5, "zstar_x_dose": 9, "zd_x_dose": 10, "zn_x_dose": 0.02, "alpha_x_dose": 0.7, "sqrt_beta_x_dose": 0.2}
PARAMS = {n: {"alpha_beta": 3.0} for n in ("wedenberg", "carabe", "mcnamara", "rorvik", "wilkens", "chen", "mairani_helium")}
PARAMS |= {"linear": {"slope": 0.055}, "osmk": {"po2": 7.0}, "osmk23": {"po2": 7.0, "z0_exponent": 2.0}}


def best(work: Callable[[], object], repeat: int = 7, clock: Callable[[], float] = time.perf_counter) -> float:
    """Shortest of several times, s: the least disturbed by other work on the machine."""
    work()
    times = []
    for _ in range(repeat):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def field_of(name: str, n: int) -> xr.Dataset:
    """SYNTHETIC field of float32 with one quality of radiation in every voxel."""
    rng = np.random.default_rng(1)
    dose = rng.uniform(0.1, 4.0, (n, n, n)).astype(np.float32)
    values = {"dose": dose, **{m: dose * np.float32(PER_GY[m]) for m in MODELS[name].moments}}
    coords = {d: np.arange(n, dtype=float) for d in "zyx"}
    return xr.Dataset({k: (("z", "y", "x"), v) for k, v in values.items()}, coords=coords)


@njit(nogil=True, cache=True)
def _copy(out, a):
    for i in range(a.size):
        out[i] = a[i]


def copies(arrays: list[np.ndarray]) -> dict[str, Callable[[], object]]:
    """Ways to copy the arrays of a field, one after the other; the fastest is what the machine can do."""
    flat = [a.reshape(-1) for a in arrays]
    old = np.empty_like(flat[0])

    def on_threads(copy: Callable[[np.ndarray, np.ndarray], object], fresh: bool) -> None:
        for a in flat:
            out = np.empty_like(a) if fresh else old
            each(lambda p, out=out, a=a: copy(out[p], a[p]), slabs(a.size))

    return {
        "NumPy": lambda: [a.copy() for a in flat],
        "NumPy on threads": lambda: on_threads(np.copyto, True),
        "compiled on threads": lambda: on_threads(_copy, True),
        "NumPy on threads into old memory": lambda: on_threads(np.copyto, False),
    }


def seconds_side_by_side(works: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Shortest time of each, taken in turns so that all meet the same load."""
    times = dict.fromkeys(works, np.inf)
    for turn in range(repeat + 1):
        for k, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                times[k] = min(times[k], time.perf_counter() - start)
    return times


def measure(name: str, n: int, repeat: int) -> tuple[dict[str, float], dict[str, float], int]:
    """Seconds of the public call and of NumPy, seconds of each copy of the same arrays, and the bytes of the call."""
    field, params = field_of(name, n), PARAMS.get(name, {})
    arrays = [field[v].values for v in ("dose", *MODELS[name].moments)]
    np.testing.assert_allclose(apply_model(field, name, **params), checked(name, *arrays, **params)[0], rtol=2e-5)
    quick = {"ours": lambda: apply_model(field, name, **params), **copies(arrays)}
    slow = {
        "ours": quick["ours"],
        "checked": lambda: checked(name, *arrays, **params),
        "formula": lambda: FORMULAS[name](*arrays, **params),
    }
    t, plain = seconds_side_by_side(quick, repeat), seconds_side_by_side(slow, max(3, repeat // 4))
    ours = min(t.pop("ours"), plain.pop("ours"))
    return (
        {"ours": ours, "cpu": best(quick["ours"], repeat, time.process_time), **plain},
        t,
        (len(arrays) + 1) * arrays[0].nbytes,
    )


def kernels(n: int, repeat: int) -> None:
    """Public call on a field against plain NumPy with and without the checks, and against the machine's fastest copy."""
    print(f"field {n}^3 float32; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; best of {repeat}, in turns")
    print(f"memory that is freed is {keep_freed_memory()}")
    print("MB: what the call must read and write; copy: the fastest of four ways to copy the same arrays, read plus written;")
    print("share: of the copy's rate; NumPy: formula and checks (finite, not negative, in range); bare: formula alone;")
    print("most: the ratio to NumPy with checks of a call that only moves its bytes, at the copy's rate")
    heads = ("MB", "ms", "cpu ms", "GB/s", "copy", "share", "NumPy", "ratio", "most", "bare", "ratio")
    print(f"{'model':16}" + "".join(f"{h:>8}" for h in heads))
    fastest: dict[str, float] = {}
    out_of_reach = []
    for name in FORMULAS:  # `lem_kernel` is a table of one tissue, no formula
        t, copied, moved = measure(name, n, repeat)
        rates = {k: moved * 2 * (1 - n**3 * 4 / moved) / v for k, v in copied.items()}
        fastest = {k: max(v, fastest.get(k, 0.0)) for k, v in rates.items()}
        copy = max(rates.values())
        least = moved / copy
        numbers = [f"{v:8.1f}" for v in (moved / 1e6, 1e3 * t["ours"], 1e3 * t["cpu"], moved / t["ours"] / 1e9, copy / 1e9)]
        numbers += [f"{least / t['ours']:8.0%}", f"{1e3 * t['checked']:8.1f}", f"{t['checked'] / t['ours']:8.1f}"]
        numbers += [f"{v:8.1f}" for v in (t["checked"] / least, 1e3 * t["formula"], t["formula"] / t["ours"])]
        print(f"{name:16}" + "".join(numbers), flush=True)
        if t["checked"] / least < 5.0:
            out_of_reach.append((name, moved, copy, least, t))
    print("copies, GB/s read plus written: " + ", ".join(f"{k} {v / 1e9:.1f}" for k, v in fastest.items()))
    for case in out_of_reach:
        print(why_out_of_reach(*case))


def why_out_of_reach(name: str, moved: int, copy: float, least: float, t: dict[str, float]) -> str:
    """The arithmetic of the memory, where it forbids five times NumPy."""
    checks, bare = t["checked"], t["formula"]
    return (
        f"{name}: 5x is beyond this machine's memory: {moved / 1e6:.0f} MB at the copy's {copy / 1e9:.1f} GB/s take "
        f"{1e3 * least:.2f} ms (ours {1e3 * t['ours']:.2f}); NumPy takes {1e3 * checks:.2f} ms with checks, {1e3 * bare:.2f} "
        f"without: at most {checks / least:.1f}x and {bare / least:.1f}x, measured {checks / t['ours']:.1f}x and "
        f"{bare / t['ours']:.1f}x"
    )


def table(pymkm: str | None) -> None:
    """One core, so processor time: it does not count what else the machine does."""
    z, e, t = np.array([1, 2, 6, 8, 10]), np.geomspace(1, 400, 60), TISSUES["smk_hsg"]
    let = let_table(z, e).values
    radii = {"domain_radius": t.domain_radius, "nucleus_radius": t.nucleus_radius, "z0": t.z0}
    seconds = best(lambda: specific_energy(z[:, None], e, let=let, **radii), repeat=5, clock=time.process_time)
    carbon = best(lambda: specific_energy(6, e, let=let[2], **radii), repeat=5, clock=time.process_time)
    print(f"SMK table, 5 ions x 60 energies x (z*, z_d, z_n): {seconds:.3f} s of one core; carbon alone {carbon:.4f} s")
    if pymkm:
        theirs, values = pymkm_carbon(pymkm, e, radii)
        ours = specific_energy(6, values["energy"], let=values["let"] * 0.1, **radii)
        off = {k: float(np.abs(values[v] / ours[k] - 1).max()) for k, v in PYMKM_COLUMNS.items()}
        print(f"pymkm, same carbon table: {theirs:.1f} s of one core, ratio {theirs / carbon:.0f}; largest differences {off}")


PYMKM_COLUMNS = {"zstar": "z_bar_star_domain", "zd": "z_bar_domain", "zn": "z_bar_nucleus"}


def pymkm_carbon(folder: str, energy: np.ndarray, radii: dict[str, float]) -> tuple[float, dict[str, np.ndarray]]:
    """Processor time and table of pymkm 1.0.0 (installed in `folder`) for carbon."""
    sys.path.append(folder)
    setattr(np, "trapz", np.trapezoid)  # noqa: B010 - removed from NumPy 2, still called there
    from pymkm.io.table_set import StoppingPowerTableSet
    from pymkm.mktable.core import MKTable, MKTableParameters

    parameters = MKTableParameters(**radii, use_stochastic_model=True)
    made = MKTable(parameters=parameters, sp_table_set=StoppingPowerTableSet.from_default_source("fluka_2020_0"))
    start = time.process_time()
    made.compute(ions=["C"], energy=energy, parallel=False)
    seconds = time.process_time() - start
    return seconds, {k: v.to_numpy() for k, v in made.table["Carbon"]["data"].items()}


def stream(gigabytes: float) -> None:
    """A field larger than memory, zarr to zarr through a model; then all of it compared with the same in memory."""
    import dask.array as da

    side, slab = 256, 64
    layers = slab * max(1, round(gigabytes * 1e9 / (2 * 4 * side**2 * slab)))
    folder = Path(tempfile.mkdtemp(prefix="ionrt-bench-"))
    try:
        dose = da.random.default_rng(1).uniform(0.1, 4.0, (layers, side, side), chunks=(slab, side, side)).astype(np.float32)
        f = xr.Dataset({"dose": (("z", "y", "x"), dose), "zstar_x_dose": (("z", "y", "x"), dose * np.float32(9))})
        f.to_zarr(folder / "in.zarr")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        opened = xr.open_zarr(folder / "in.zarr")
        start = time.perf_counter()
        apply_model(opened, "nirs_mkm").to_dataset().to_zarr(folder / "out.zarr")
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        written = xr.open_zarr(folder / "out.zarr").rbe_dose
        parts = [{"z": slice(z, z + slab)} for z in range(0, layers, slab)]
        same = [np.array_equal(written.isel(p).values, apply_model(opened.isel(p).load(), "nirs_mkm").values) for p in parts]
        print(
            f"stream {opened.nbytes / 1e9:.2f} GB zarr -> zarr: {seconds:.1f} s, peak memory of the process {peak:.2f} GB "
            f"({before:.2f} after making the field); equal to in memory: {sum(same)} of {len(same)} slabs"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=200, help="voxels along each side of the field")
    parser.add_argument("--repeat", type=int, default=15, help="turns of each measurement")
    parser.add_argument("--stream-gb", type=float, default=0.0, help="size of the streamed field (0: skip)")
    parser.add_argument("--only", choices=("kernels", "table", "stream"), help="leave out the others")
    parser.add_argument("--pymkm", help="site-packages folder with pymkm 1.0.0, to compare with")
    options = parser.parse_args()
    if options.only in (None, "kernels"):
        kernels(options.side, options.repeat)
    if options.only in (None, "table"):
        table(options.pymkm)
    if options.stream_gb and options.only in (None, "stream"):
        stream(options.stream_gb)
