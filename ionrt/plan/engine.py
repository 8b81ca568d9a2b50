"""Pencil-beam influence: dose per spot and voxel, with the depth bin from which every moment is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import dask
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from ionrt.plan import kernels
from ionrt.plan.beams import Beam, Plan
from ionrt.plan.geometry import Grid
from ionrt.plan.machine import Machine, make_machine
from ionrt.plan.scene import Scene, make_scene
from ionrt.plan.spots import Spots, View, make_view, place_spots
from ionrt.quantities import IonrtError, content_hash

ENTRIES_PER_CHUNK = 8_000_000
MOST_ENERGIES = 256  # per ray; the products keep one row of them on the stack


@dataclass(frozen=True)
class Chunk:
    """Some blocks of a beam. Per block `first`, `count` (energies), `spot` (index in the beam); entries in CSR fashion:
    `rows` (int32) are rows of the beam, `dose` (float32) is Gy per 1e6 particles, (row, energy) with energy fastest."""

    first: np.ndarray
    count: np.ndarray
    spot: np.ndarray
    row_start: np.ndarray
    entry_start: np.ndarray
    rows: np.ndarray
    dose: np.ndarray

    def arrays(self) -> tuple[np.ndarray, ...]:
        """In the order the kernels take them."""
        return self.first, self.count, self.spot, self.row_start, self.entry_start, self.rows, self.dose


@dataclass(frozen=True)
class BeamInfluence:
    """One beam: `voxel` (flat grid index) and `bins` (uint16 depth bin) per row, its spots and its chunks of entries."""

    beam: Beam
    machine: Machine
    spots: Spots
    isocentre: tuple[float, float, float]
    voxel: np.ndarray
    bins: np.ndarray
    chunks: tuple[Chunk, ...]

    @property
    def entries(self) -> int:
        """Number of stored doses."""
        return sum(c.dose.size for c in self.chunks)

    @property
    def nbytes(self) -> int:
        """Memory of entries, indices and depth bins."""
        return self.voxel.nbytes + self.bins.nbytes + sum(a.nbytes for c in self.chunks for a in c.arrays())


@dataclass(frozen=True)
class Influence:
    """Dose of every spot in every voxel. `beams` hold the entries, `base` the base data per ion (for the moments)."""

    plan: Plan
    grid: Grid
    beams: tuple[BeamInfluence, ...]
    base: Mapping[str, xr.Dataset]
    attrs: dict[str, str] = field(default_factory=dict)

    @property
    def n_spots(self) -> int:
        """Number of spots of all beams."""
        return sum(b.spots.size for b in self.beams)

    @property
    def entries(self) -> int:
        """Number of stored doses."""
        return sum(b.entries for b in self.beams)

    @property
    def nbytes(self) -> int:
        """Memory in bytes of all quantities."""
        return sum(b.nbytes for b in self.beams)

    def slices(self) -> list[slice]:
        """The spots of each beam in the vector of weights."""
        ends = np.cumsum([0] + [b.spots.size for b in self.beams])
        return [slice(int(a), int(b)) for a, b in pairwise(ends)]

    def spots(self) -> xr.Dataset:
        """Coordinates along `spot`: beam name, beam_index, ion, energy (MeV/u), u, v (mm in the isocentre plane)."""
        parts = []
        for i, b in enumerate(self.beams):
            u, v, e = b.spots.per_spot()
            n = u.size
            parts.append((np.full(n, b.beam.name), np.full(n, i), np.full(n, b.beam.ion), b.machine.energy[e], u, v))
        names = ("beam", "beam_index", "ion", "energy", "u", "v")
        columns = [np.concatenate(c) for c in zip(*parts, strict=True)]
        out = xr.Dataset(coords={k: ("spot", c) for k, c in zip(names, columns, strict=True)})
        out["energy"].attrs["units"] = "MeV/u"
        for k in ("u", "v"):
            out[k].attrs["units"] = "mm"
        return out


def influence(patient: xr.Dataset, plan: Plan, *, base: Mapping[str, xr.Dataset] | None = None) -> Influence:
    r"""Sparse dose influence of all spots of a plan, model-agnostic.

    D_ij = c Z_E(d_i) [(1-w) G(r; s_1^2 + s_0^2) + w G(r; s_2^2 + s_0^2)]: depth dose Z at the voxel's own water-equivalent
    depth d, lateral core s_1 and halo (w, s_2) of the base data, beam in air s_0; the dose of a voxel is the mean over slabs no
    thicker than 1 mm along the beam.

    Parameters: `patient` Dataset with ct or spr and structures (`ionrt.read_dicom`); `plan`; `base` {ion: Dataset} of the
    user's own base data (None: `ionrt.beam.base_data`). A running `distributed.Client` is used.
    Returns an `Influence`: 4 bytes per entry and 4 per (ray, voxel), whatever the number of moments.
    Validity: dose to water; every voxel sees the material on its own ray (no lateral heterogeneity inside a spot).
    Errors: `ReachError` where an ion cannot reach; IonrtError where a beam misses the patient or base data do not fit.
    Reference: Hong et al., doi 10.1088/0031-9155/41/8/005; Parodi et al., doi 10.1088/0031-9155/57/12/3759.
    """
    scene = make_scene(patient, plan)
    data = {ion: _base_data(ion, base) for ion in dict.fromkeys(b.ion for b in plan.beams)}
    beams = tuple(
        _beam_influence(plan, beam, scene, data[beam.ion])
        for beam in tqdm(plan.beams, desc="influence", unit="beam", disable=None, leave=False)
    )
    attrs = {"patient": content_hash(scene.spr, scene.target), "base": content_hash(*(_identity(d) for d in data.values()))}
    return Influence(plan, scene.grid, beams, data, attrs)


def _base_data(ion: str, base: Mapping[str, xr.Dataset] | None) -> xr.Dataset:
    if base is None:
        from ionrt.beam import base_data

        return base_data(ion)
    if ion not in base:
        raise IonrtError(f"base: expected base data of {ion!r}, got those of {', '.join(base) or 'no ion'}")
    return base[ion]


def _identity(base: xr.Dataset) -> object:
    return base.attrs.get("content_hash") or np.asarray(base["dose"].values)


def _beam_influence(plan: Plan, beam: Beam, scene: Scene, base: xr.Dataset) -> BeamInfluence:
    view = make_view(beam, scene)
    machine = make_machine(beam, base, thickness=_thickness(scene.grid, view))
    spots = place_spots(plan, beam, scene, view, machine)
    return beam_influence(plan, beam, scene, view, machine, spots)


def _thickness(grid: Grid, view: View) -> float:
    """Mean thickness of a voxel along the beam: its volume over its projected area."""
    z, y, x = grid.spacing
    w = np.abs(view.axes[2])
    return grid.voxel_volume / float(w[0] * y * z + w[1] * x * z + w[2] * x * y)


def beam_influence(plan: Plan, beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots) -> BeamInfluence:
    """Entries of the given spots: rows of dosed voxels, then dask tasks over blocks."""
    first, last = spots.first, spots.first + spots.count - 1
    low = int(first.min())
    machine = machine.select(np.array([low, int(last.max())]))
    spots = Spots(spots.u, spots.v, first - low, spots.count, spots.spacing)
    if spots.count.max() > MOST_ENERGIES:
        raise IonrtError(
            f"beam {beam.name}: {spots.count.max()} energies on one ray; at most {MOST_ENERGIES}: thin the base data"
        )
    cut2 = machine.cutoff2(plan.lateral_loss)
    retained = machine.retained(cut2)
    rows = _dosed_rows(beam, scene, view, machine, spots, np.sqrt(cut2.max()))
    tables = (machine.core / retained, machine.halo / retained, machine.core_var, machine.halo_var, machine.air_var)
    shared = dask.delayed((machine.last, cut2, rows, view.source, tables), pure=False, traverse=False)
    chunks = [dask.delayed(_chunk, pure=False)(shared, spots, part) for part in _parts(spots, rows, cut2, scene.grid)]
    done = dask.compute(*chunks)
    iso = tuple(float(c) for c in view.isocentre)
    return BeamInfluence(beam, machine, spots, iso, rows.voxel, rows.bins, tuple(done))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rows:
    """Dosed voxels in buckets of the isocentre plane, so that a ray looks only at its neighbourhood."""

    voxel: np.ndarray
    bins: np.ndarray
    bev: np.ndarray
    bucket: np.ndarray
    n_bucket: np.ndarray
    origin: np.ndarray
    size: float
    reach: int


def _dosed_rows(beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots, radius: float) -> Rows:
    """Body voxels near any ray and no deeper than the dose goes, sorted by bucket."""
    index = np.flatnonzero(scene.body)
    bev = view.bev(index, scene.grid)
    # the farthest downstream voxels see the rays spread most: radius in the isocentre plane
    radius *= 1.05
    size = max(radius / 2.0, 2.0)
    origin = np.array([spots.u.min(), spots.v.min()]) - 3.0 * size
    n_bucket = np.array([int((a.max() - o) / size) + 4 for a, o in zip((spots.u, spots.v), origin, strict=True)])
    near = np.zeros(n_bucket[::-1], dtype=bool)
    near[((spots.v - origin[1]) / size).astype(int), ((spots.u - origin[0]) / size).astype(int)] = True
    near = _widen(near, 3)
    place = np.floor((bev[:, :2] - origin) / size).astype(np.int64)
    inside = np.all((place >= 0) & (place < n_bucket), axis=1)
    inside[inside] = near[place[inside, 1], place[inside, 0]]
    index, bev, place = index[inside], bev[inside], place[inside]
    bins = np.rint((view.wepl(index, scene) + beam.range_shifter) / machine.depth_step)
    dosed = bins <= machine.last.max()
    if not dosed.any():
        raise IonrtError(f"beam {beam.name} misses the patient: no voxel near its rays; check isocentre and angles")
    order = np.flatnonzero(dosed)
    cell = place[order, 1] * n_bucket[0] + place[order, 0]
    by_cell = np.argsort(cell, kind="stable")
    order, cell = order[by_cell], cell[by_cell]
    bucket = np.searchsorted(cell, np.arange(n_bucket.prod() + 1)).astype(np.int64)
    return Rows(index[order], bins[order].astype(np.uint16), bev[order], bucket, n_bucket, origin, size, 3)


def _widen(mask: np.ndarray, by: int) -> np.ndarray:
    """Grow a mask by a number of cells in both directions."""
    out = mask.copy()
    for axis in (0, 1):
        grown = out.copy()
        for shift in range(1, by + 1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(ahead)] |= out[tuple(behind)]
            grown[tuple(behind)] |= out[tuple(ahead)]
        out = grown
    return out


def _parts(spots: Spots, rows: Rows, cut2: np.ndarray, grid: Grid) -> list[slice]:
    """Cut the blocks into slices of similar work; several per worker, none too large for one message."""
    depth = rows.voxel.size / max(np.unique(spots.u).size * np.unique(spots.v).size * spots.spacing**2, 1.0)
    entries = spots.count * max(depth * np.pi * float(np.mean(cut2[rows.bins])), 1.0)
    parts = int(np.clip(np.ceil(entries.sum() / ENTRIES_PER_CHUNK), min(4, spots.u.size), spots.u.size))
    edges = np.searchsorted(np.cumsum(entries), np.linspace(0.0, entries.sum(), parts + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], edges, [spots.u.size]]))
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _chunk(shared: tuple, spots: Spots, part: slice) -> Chunk:
    """Count, allocate exactly, fill."""
    last, cut2, rows, source, tables = shared
    u, v, first, count = spots.u[part], spots.v[part], spots.first[part], spots.count[part]
    where = (last, rows.bev, rows.bins, cut2, rows.bucket, rows.n_bucket, rows.origin, rows.size, rows.reach, source)
    n_rows = np.zeros(u.size, np.int64)
    kernels.count_rows(u, v, first, count, *where, n_rows)
    row_start = np.concatenate([[0], np.cumsum(n_rows)])
    entry_start = np.concatenate([[0], np.cumsum(n_rows * count)])
    index, dose = np.empty(row_start[-1], np.int32), np.empty(entry_start[-1], np.float32)
    kernels.fill(u, v, first, count, *where, *tables, row_start, entry_start, index, dose)  # type: ignore[call-arg]
    return Chunk(first, count, spots.start()[:-1][part], row_start, entry_start, index, dose)
