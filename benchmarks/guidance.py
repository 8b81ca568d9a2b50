"""Image guidance: registration on deformations it was not set up with, and what a day costs.

Head: the shared head study (IONRT_SHARED), pelvis: the built-in phantom, both deformed by a translation and eight Gaussian
bumps (sigma 18 to 30 mm, +-6 mm), 15 HU of noise on both images. Settings were chosen on seeds 1, 12, 14 and 21 to 23, then
frozen; seeds 31 to 36 were used for nothing else (docs/decisions/0155). Arguments: "accuracy", "speed", "memory"; none: all.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
from pathlib import Path

import dask
import numpy as np
import xarray as xr

from ionrt import plan
from ionrt.adapt import accumulate, daily_field, register_deformable, register_rigid, total
from ionrt.adapt.daily import deliver
from ionrt.adapt.images import body_of, coarser, sitk
from ionrt.adapt.mapping import map_field
from ionrt.adapt.sampling import at_points, centres
from ionrt.adapt.transform import invert, jacobian, move_points
from ionrt.patient import read_dicom, regrid, write_phantom
from ionrt.patient.registration import field_transform, matrix_transform
from ionrt.plan.setup.geometry import Grid

SEEDS = (31, 32, 33, 34, 35, 36)
SHARED = Path(os.environ.get("IONRT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def bumps(seed: int, grid: Grid) -> xr.Dataset:
    """The known deformation."""
    rng = np.random.default_rng(seed)
    at = centres(grid).T
    ends = [(a[0], a[-1]) for a in (grid.coords()[d] for d in "xyz")]
    u = np.zeros(at.shape)
    for _ in range(8):
        middle = [a + (b - a) * rng.uniform(0.25, 0.75) for a, b in ends]
        far = sum((at[k] - middle[k]) ** 2 for k in range(3))
        u += rng.uniform(-6.0, 6.0, 3)[:, None] * np.exp(-0.5 * far / rng.uniform(18.0, 30.0) ** 2)
    u += np.array([3.0, -2.0, 2.0])[:, None]
    return field_transform(u.reshape(3, *grid.shape), grid.coords())


def base(kind: str, folder: Path) -> xr.Dataset | None:
    """CT of the head study at 2 mm in plane, or of the phantom."""
    if kind == "pelvis":
        return read_dicom(write_phantom(folder / "pelvis"))[["ct"]]
    archive = SHARED / "data/dicom/dcpt_headphantom_proton/CT_177slices.tar.xz"
    if not archive.exists():
        print(f"head: {archive.name} not found; set IONRT_SHARED")
        return None
    with tarfile.open(archive) as file:
        file.extractall(folder / "head", filter="data")
    whole = read_dicom(folder / "head")[["ct"]]
    return regrid(whole, spacing=(float(whole.z[1] - whole.z[0]), 2.0, 2.0))


def pair(source: xr.Dataset, seed: int) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset, np.ndarray]:
    """Planning CT made from the daily one by the known deformation, with noise of its own on each; and the body's voxels."""
    grid, values = Grid.of(source), source["ct"].values
    way = bumps(seed, coarser(grid, 1.0))
    moved = np.nan_to_num(at_points(values[None], grid, move_points(way, centres(grid)))[0], nan=-1000.0).reshape(grid.shape)
    rng = np.random.default_rng(1000 + seed)
    images = [
        xr.Dataset(
            {"ct": (("z", "y", "x"), (v + rng.normal(0.0, 15.0, v.shape)).astype(np.float32), {"units": "HU"})},
            coords=grid.coords(),
            attrs={"content_hash": name},
        )
        for v, name in ((moved, f"planning {seed}"), (values, f"day {seed}"))
    ]
    return *images, way, np.flatnonzero(body_of(images[0], moved).ravel())


def accuracy() -> None:
    print("case      seed  rigid mean   95 %  deformable mean   95 %  largest   min J  inverse")
    with tempfile.TemporaryDirectory() as place:
        for kind in ("head", "pelvis"):
            source = base(kind, Path(place))
            for seed in SEEDS if source is not None else ():
                fixed, moving, way, body = pair(source, seed)
                points = centres(Grid.of(fixed))[body][::5]
                rigid = register_rigid(fixed, moving, on="body")
                found = register_deformable(fixed, moving, start=rigid)
                truth = move_points(way, points)
                off = [np.linalg.norm(move_points(t, points) - truth, axis=1) for t in (rigid, found)]
                off = [o[np.isfinite(o)] for o in off]
                change = jacobian(found)
                least = np.nanmin(at_points(change.values[None], Grid.of(change), points))
                figures = [f(o) for o in off for f in (np.mean, lambda o: np.percentile(o, 95))]
                print(
                    f"{kind:10}{seed:5}{figures[0]:12.2f}{figures[1]:7.2f}{figures[2]:17.2f}{figures[3]:7.2f}{off[1].max():9.2f}"
                    f"{least:8.2f}{invert(found).attrs['inverse_residual']:9.4f}",
                    flush=True,
                )


def timed(work, repeat: int = 1) -> tuple[float, float]:
    """Wall and CPU seconds, the least of some runs."""
    found = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(f[0] for f in found), min(f[1] for f in found)


def report(name: str, seconds: tuple[float, float], target: str) -> None:
    print(f"{name:60}{seconds[0]:8.2f} s wall {seconds[1]:8.2f} s CPU   target {target}", flush=True)


def speed() -> None:
    grid = Grid((-178.5, -244.0, -244.0), (3.0, 1.9140625, 1.9140625), (120, 256, 256))
    x, y, z = centres(grid).T
    hu = -1000.0 + 1040.0 / (1.0 + np.exp((np.hypot(x / 180.0, y / 120.0) - 1.0) * 60.0))
    hu += 60.0 * np.sin(x / 11.0) * np.cos(y / 13.0) * np.sin(z / 12.0)
    hu += 600.0 * (np.hypot((x - 50.0) / 20.0, (y - 60.0) / 15.0) < 1.0)
    images = [
        xr.Dataset(
            {"ct": (("z", "y", "x"), np.roll(hu.reshape(grid.shape), n, 2).astype(np.float32), {"units": "HU"})},
            coords=grid.coords(),
            attrs={"content_hash": str(n)},
        )
        for n in (0, 2)
    ]
    register_rigid(*images, on="body")
    report("rigid, 256 x 256 x 120", timed(lambda: register_rigid(*images, on="body")), "<= 5 s on two cores")
    start = register_rigid(*images, on="body")
    report("deformable, 256 x 256 x 120", timed(lambda: register_deformable(*images, start=start)), "<= 60 s on two cores")
    with tempfile.TemporaryDirectory() as place:
        patient = read_dicom(write_phantom(Path(place) / "pelvis"))
    wanted = plan.Plan(plan.beam_set("C", (90.0, 180.0, 270.0)), "CTV", 3.6, spacing=3.0)
    influence = plan.influence(patient, wanted)
    weights = np.full(influence.n_spots, 1e6)
    nominal = timed(lambda: plan.influence(patient, wanted), 2)

    day = timed(lambda: deliver(influence, patient), 2)
    report("influence, 3 carbon beams, 3 mm", nominal, "the measure")
    report("the same spots on a day", day, "<= 1.2 times the influence")
    print(f"{'ratio':60}{day[0] / nominal[0]:8.2f}   wall {day[1] / nominal[1]:10.2f}   CPU")
    field = plan.field(influence, weights, models=("nirs_mkm", "lem1"), let_threshold=50.0)
    way = bumps(1, Grid.of(field["dose"]))
    map_field(field, way, like=field)
    ours = timed(lambda: map_field(field, way, like=field), 3)
    report(f"mapping {len(field.data_vars)} variables of {field['dose'].size / 1e6:.2f} million voxels", ours, "<= 1 s for six")
    theirs = timed(lambda: _resample(field, way), 3)
    print(f"ours / SimpleITK.Resample, one by one: wall {ours[0] / theirs[0]:.2f}, CPU {ours[1] / theirs[1]:.2f}")


def _resample(field: xr.Dataset, way: xr.Dataset) -> None:
    """The same with SimpleITK."""
    from ionrt.adapt.images import to_image

    grid = Grid.of(field)
    u = np.moveaxis(way["displacement"].values, 0, -1).astype(np.float64)
    transform = sitk().DisplacementFieldTransform(to_image(np.ascontiguousarray(u), grid, vector=True))
    for a in field.data_vars.values():
        image = to_image(a.values, grid)
        sitk().Resample(image, image, transform, sitk().sitkLinear, float("nan"))


def memory(days: int | None = None) -> None:
    """Memory of a course of two and of ten days, each in a process of its own.

    Peak of the process with two workers (all that it holds included; it depends on which steps of two days happen to meet),
    and what the course allocates one day after the other, which is the same every time.
    """
    if days is None:
        found = {}
        for n in (2, 10):
            done = subprocess.run([sys.executable, __file__, "memory", str(n)], capture_output=True, text=True, check=True)
            found[n] = [float(v) for v in done.stdout.split()[-2:]]
        for what, two, ten in zip(("process, two workers", "allocated, day after day"), found[2], found[10], strict=True):
            print(f"peak memory of ten days / of two, {what}: {ten / two:.3f} ({ten:.0f} and {two:.0f} MB); target 1")
        return
    with tempfile.TemporaryDirectory() as place:
        patient = read_dicom(write_phantom(Path(place) / "pelvis"))
    influence = plan.influence(patient, plan.Plan(plan.beam_set("C", (90.0, 180.0)), "CTV", 3.6, spacing=4.0))
    weights = np.full(influence.n_spots, 1e6)
    nominal, still = plan.field(influence, weights), matrix_transform(np.eye(4))

    def course() -> None:
        fields = [daily_field(influence, weights, patient.assign_attrs(content_hash=str(k))) for k in range(days)]
        total(accumulate(fields, [still] * days, parts=[1] * days, like=nominal)).load()

    with dask.config.set(num_workers=2):
        course()
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with dask.config.set(scheduler="synchronous"):
        tracemalloc.start()
        course()
        print(process, tracemalloc.get_traced_memory()[1] / 2**20)


if __name__ == "__main__":
    asked = sys.argv[1:] or ["accuracy", "speed", "memory"]
    if asked[0] == "memory" and len(asked) == 2:
        memory(int(asked[1]))
    else:
        for part in asked:
            {"accuracy": accuracy, "speed": speed, "memory": memory}[part]()
