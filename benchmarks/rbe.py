"""Speed of the RBE models: fused kernels against plain NumPy and against the machine's own copy bandwidth; tables; streaming.

    python benchmarks/rbe.py                       # kernels and table
    python benchmarks/rbe.py --stream-gb 0.5       # and a zarr -> zarr stream of this size (16 for the full claim)
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

from ionrt.biology import TISSUES, let_table, specific_energy
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


def field_arrays(name: str, n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    dose = rng.uniform(0.1, 4.0, (n, n, n)).astype(np.float32)
    return [dose, *(dose * np.float32(PER_GY[m]) for m in MODELS[name].moments)]


def numpy_model(name: str) -> Callable[..., np.ndarray]:
    """The formula as one would write it in NumPy with the quality as ratios, in the arrays' own precision."""
    t = TISSUES

    def mkm(d, z):
        zstar = np.where(d > 0, z / d, 0)
        effect = (t["mkm_nirs"].alpha0 + t["mkm_nirs"].beta0 * zstar) * d + t["mkm_nirs"].beta0 * d**2
        return 2.41 * (-0.764 + np.sqrt(0.764**2 + 4 * 0.0615 * effect)) / (2 * 0.0615)

    def lem(d, a, b):
        c = t["lem1_chordoma"]
        alpha, beta = np.where(d > 0, a / d, 0), np.where(d > 0, b / d, 0) ** 2
        e = np.where(d <= 30, alpha * d + beta * d**2, alpha * 30 + beta * 900 + c.s_max * (d - 30))
        bend = c.alpha_x * 30 + c.beta_x * 900
        low = (-c.alpha_x + np.sqrt(c.alpha_x**2 + 4 * c.beta_x * e)) / (2 * c.beta_x)
        return np.where(e <= bend, low, 30 + (e - bend) / c.s_max)

    def let(d, m):
        ab, let_d = 3.0, np.where(d > 0, m / d, 0)
        high, low = 0.99064 + 0.35605 * let_d / ab, 1.1012 - 0.0038703 * np.sqrt(ab) * let_d
        return (np.sqrt(ab**2 + 4 * d * ab * high + 4 * d**2 * low**2) - ab) / 2

    def smk(d, s, zd, zn, g=1.0, alpha0=t["smk_hsg"].alpha0, beta0=t["smk_hsg"].beta0):
        z, q, n = np.where(d > 0, s / d, 0), np.where(zd > 0, s / zd, 1), np.where(d > 0, zn / d, 0)
        alpha, beta = alpha0 + beta0 * z * g**2, beta0 * q * g**2
        e = alpha * d + beta * d**2 - np.log(1 + d * n * (-beta + (alpha + 2 * beta * d) ** 2 / 2))
        return (-alpha0 + np.sqrt(alpha0**2 + 4 * beta0 * e)) / (2 * beta0)

    def osmk(d, s, zd, zn):
        c, z = t["osmk21_hsg"], np.where(d > 0, zd / d, 0)
        ratio = (z / c.z_r) ** c.gamma
        g = (7.0 + c.k * (ratio + 1) / (ratio + c.r_m)) / (7.0 + c.k)
        return smk(d, s, zd, zn, g, c.alpha_s, c.beta0)

    return {"nirs_mkm": mkm, "lem1": lem, "mcnamara": let, "smk": smk, "osmk": osmk, "constant": lambda d: 1.1 * d}[name]


def copy_bandwidth(n: int) -> float:
    """Bytes read plus written per second by a copy into fresh memory, on as many threads as the kernels use."""
    from ionrt.rbe.blocks import in_slabs, thread_count

    a = np.ones(n**3, np.float32)

    def copy() -> None:
        out = np.empty_like(a)

        def piece(cut: slice) -> None:
            out[cut] = a[cut]

        in_slabs(piece, a.size, thread_count())

    return 2 * a.nbytes / best(copy)


def kernels(n: int) -> None:
    bandwidth = copy_bandwidth(n)
    print(f"copy {bandwidth / 1e9:.1f} GB/s; field {n}^3 float32; {os.cpu_count()} cores")
    print(f"{'model':16}{'ms':>8}{'GB/s':>8}{'of copy':>9}{'NumPy ms':>10}{'ratio':>7}")
    for name, model in MODELS.items():
        arrays, params = field_arrays(name, n), PARAMS.get(name, {})
        seconds = best(lambda a=arrays, m=model, p=params: m.kernel(*a, **p))
        rate = (len(arrays) + 1) * arrays[0].nbytes / seconds
        line = f"{name:16}{1e3 * seconds:8.1f}{rate / 1e9:8.1f}{rate / bandwidth:9.0%}"
        if name in ("nirs_mkm", "lem1", "mcnamara", "smk", "osmk", "constant"):
            reference = numpy_model(name)
            plain = best(lambda a=arrays, f=reference: f(*a), repeat=2)
            line += f"{1e3 * plain:10.0f}{plain / seconds:7.1f}"
        print(line, flush=True)


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
    """A field larger than memory, zarr to zarr through a model; the first block is compared with the same in memory."""
    import dask.array as da

    side = 256
    layers = max(1, round(gigabytes * 1e9 / (2 * 4 * side**2)))
    folder = Path(tempfile.mkdtemp(prefix="ionrt-bench-"))
    try:
        rng = da.random.default_rng(1)
        dose = rng.uniform(0.1, 4.0, (layers, side, side), chunks=(64, side, side)).astype(np.float32)
        f = xr.Dataset({"dose": (("z", "y", "x"), dose), "zstar_x_dose": (("z", "y", "x"), dose * np.float32(9))})
        f.to_zarr(folder / "in.zarr")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        start = time.perf_counter()
        opened = xr.open_zarr(folder / "in.zarr")
        apply_model(opened, "nirs_mkm").to_dataset().to_zarr(folder / "out.zarr")
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        part = {"z": slice(0, 64)}
        got = xr.open_zarr(folder / "out.zarr").rbe_dose.isel(part).values
        same = np.array_equal(got, apply_model(opened.isel(part).load(), "nirs_mkm").values)
        size = opened.nbytes / 1e9
        print(f"stream {size:.2f} GB zarr -> zarr: {seconds:.1f} s, peak {peak:.2f} GB (was {before:.2f}), equal: {same}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=200, help="voxels along each side of the field")
    parser.add_argument("--stream-gb", type=float, default=0.0, help="size of the streamed field (0: skip)")
    parser.add_argument("--pymkm", help="site-packages folder with pymkm 1.0.0, to compare with")
    options = parser.parse_args()
    kernels(options.side)
    table(options.pymkm)
    if options.stream_gb:
        stream(options.stream_gb)
