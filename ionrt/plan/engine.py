"""Pencil-beam influence: dose per spot and voxel, with the depth bin from which every moment is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import dask
import numpy as np
import xarray as xr
from scipy.sparse import csr_array
from tqdm.auto import tqdm

from ionrt.plan import kernels
from ionrt.plan.beams import Beam, Plan
from ionrt.plan.components import Component, split
from ionrt.plan.geometry import Grid
from ionrt.plan.lattice import every_second_ray, nodes_of
from ionrt.plan.machine import Machine, make_machine
from ionrt.plan.rows import Rows, dosed_rows
from ionrt.plan.scenarios import NOMINAL, Scenario
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
class Part:
    """Core or halo of a beam: depth bin (uint16) per row, `lowest` energy per depth bin, entries, the slabs (`taps`) of a row.

    Rows of the core are those of the beam; rows of the halo are nodes of a coarse lattice, and `lift` (rows of the beam, nodes)
    interpolates between them; its spots lie on fewer rays, and `share` (coarse spots, spots) deals the weights out to them.
    """

    bins: np.ndarray
    lowest: np.ndarray
    chunks: tuple[Chunk, ...]
    taps: np.ndarray
    lift: csr_array | None = None
    share: csr_array | None = None

    @property
    def nbytes(self) -> int:
        """Memory of everything."""
        maps = [a for m in (self.lift, self.share) if m is not None for a in (m.data, m.indices, m.indptr)]
        return sum(a.nbytes for a in (self.bins, self.lowest, *maps)) + sum(a.nbytes for c in self.chunks for a in c.arrays())


@dataclass(frozen=True)
class BeamInfluence:
    """One beam: the flat grid index of its rows (`voxel`), its spots, and its parts."""

    beam: Beam
    machine: Machine
    spots: Spots
    isocentre: tuple[float, float, float]
    voxel: np.ndarray
    parts: tuple[Part, ...]

    @property
    def entries(self) -> int:
        """Number of stored doses."""
        return sum(c.dose.size for p in self.parts for c in p.chunks)

    @property
    def nbytes(self) -> int:
        """Memory of entries, indices, depth bins and interpolation."""
        return self.voxel.nbytes + sum(p.nbytes for p in self.parts)


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


def influence(
    patient: xr.Dataset, plan: Plan, *, base: Mapping[str, xr.Dataset] | None = None, scenario: Scenario = NOMINAL
) -> Influence:
    r"""Sparse dose influence of all spots of a plan, model-agnostic.

    D_ij = c Z_E(d_i) [(1-w) G(r; s_1^2 + s_0^2) + w G(r; s_2^2 + s_0^2)]: depth dose Z at the voxel's own water-equivalent
    depth d, lateral core s_1 and halo (w, s_2) of the base data, beam in air s_0; the dose of a voxel is the mean over slabs no
    thicker than 1 mm along the beam.

    Parameters: `patient` Dataset with ct or spr and structures (`ionrt.read_dicom`); `plan`; `base` {ion: Dataset} of the
    user's own base data (None: `ionrt.beam.base_data`); `scenario` range and set-up error under which the spots of the
    nominal plan are delivered. A running `distributed.Client` is used.
    Returns an `Influence`: 4 bytes per entry and 4 per (ray, voxel), whatever the number of moments.
    Validity: dose to water; every voxel sees the material on its own ray (no lateral heterogeneity inside a spot).
    Errors: `ReachError` where an ion cannot reach; IonrtError where a beam misses the patient or base data do not fit.
    Reference: Hong et al., doi 10.1088/0031-9155/41/8/005; Parodi et al., doi 10.1088/0031-9155/57/12/3759.
    """
    scene = make_scene(patient, plan)
    data = {ion: _base_data(ion, base) for ion in dict.fromkeys(b.ion for b in plan.beams)}
    beams = tuple(
        _beam_influence(plan, beam, scene, data[beam.ion], scenario)
        for beam in tqdm(plan.beams, desc="influence", unit="beam", disable=None, leave=False)
    )
    attrs = {"patient": content_hash(scene.spr, scene.target), "base": content_hash(*(_identity(d) for d in data.values()))}
    if scenario != NOMINAL:
        attrs["scenario"] = scenario.label
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


def _beam_influence(plan: Plan, beam: Beam, scene: Scene, base: xr.Dataset, scenario: Scenario) -> BeamInfluence:
    view = make_view(beam, scene)
    machine = make_machine(beam, base)
    spots = place_spots(plan, beam, scene, view, machine)
    return beam_influence(plan, beam, scene, view.moved(scenario), machine, spots)


def beam_influence(
    plan: Plan, beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots, index: np.ndarray | None = None
) -> BeamInfluence:
    """Entries of the given spots in the voxels `index` (flat; None: all of the body)."""
    if spots.count.max() > MOST_ENERGIES:
        raise IonrtError(
            f"beam {beam.name}: {spots.count.max()} energies on one ray; at most {MOST_ENERGIES}: thin the base data"
        )
    low, high = int(spots.first.min()), int((spots.first + spots.count).max()) - 1
    machine = machine.select(low, high)
    spots = Spots(spots.u, spots.v, spots.first - low, spots.count, spots.spacing)
    core, halo, lattice = split(machine, thickness=_thickness(scene.grid, view), spacing=spots.spacing, loss=plan.lateral_loss)
    radius = float(np.sqrt(max(core.cut2.max(), halo.cut2.max())))
    index = np.flatnonzero(scene.body) if index is None else index
    rows = dosed_rows(beam, scene, view, machine, spots, radius, scene.grid, index)
    parts = [Part(rows.bins, core.lowest, _fill(core, machine, spots, rows, view), core.taps)]
    for thinned in (False, True) if halo.cut2.max() > 0.0 else ():
        rays, share = every_second_ray(spots) if thinned else (spots, None)
        found = nodes_of(lattice, rows, rays, radius, thinned=thinned)
        if found is not None:
            nodes, lift = found
            parts.append(Part(nodes.bins, halo.lowest, _fill(halo, machine, rays, nodes, view), halo.taps, lift, share))
    iso = tuple(float(c) for c in view.isocentre)
    return BeamInfluence(beam, machine, spots, iso, rows.voxel, tuple(parts))  # type: ignore[arg-type]


def _thickness(grid: Grid, view: View) -> float:
    """Mean thickness of a voxel along the beam: its volume over its projected area."""
    z, y, x = grid.spacing
    w = np.abs(view.axes[2])
    return grid.voxel_volume / float(w[0] * y * z + w[1] * x * z + w[2] * x * y)


def _fill(component: Component, machine: Machine, spots: Spots, rows: Rows, view: View) -> tuple[Chunk, ...]:
    """Dask tasks over blocks of rays; whichever scheduler is active runs them."""
    tables = (component.amplitude, component.variance, machine.air)
    shared = dask.delayed((component.lowest, component.cut2, rows, view.source, tables), pure=False, traverse=False)
    chunks = [dask.delayed(_chunk, pure=False)(shared, spots, part) for part in _parts(spots, rows, component.cut2)]
    return tuple(dask.compute(*chunks))


def _parts(spots: Spots, rows: Rows, cut2: np.ndarray) -> list[slice]:
    """Cut the blocks into slices of similar work; several per worker, none too large for one message."""
    per_area = rows.voxel.size / max(float(np.ptp(rows.bev[:, 0]) * np.ptp(rows.bev[:, 1])), 1.0)
    entries = spots.count * max(per_area * np.pi * float(np.mean(cut2[rows.bins])), 1.0)
    parts = int(np.clip(np.ceil(entries.sum() / ENTRIES_PER_CHUNK), min(4, spots.u.size), spots.u.size))
    edges = np.searchsorted(np.cumsum(entries), np.linspace(0.0, entries.sum(), parts + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], edges, [spots.u.size]]))
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _chunk(shared: tuple, spots: Spots, part: slice) -> Chunk:
    """Count, allocate exactly, fill."""
    lowest, cut2, rows, source, tables = shared
    u, v, first, count = spots.u[part], spots.v[part], spots.first[part], spots.count[part]
    where = (lowest, rows.bev, rows.bins, cut2, rows.bucket, rows.n_bucket, rows.origin, rows.size, rows.reach, source)
    n_rows, n_entries = np.zeros(u.size, np.int64), np.zeros(u.size, np.int64)
    kernels.count_rows(u, v, first, count, *where, n_rows, n_entries)
    row_start, entry_start = starts(n_rows), starts(n_entries)
    index, dose = np.empty(row_start[-1], np.int32), np.empty(entry_start[-1], np.float32)
    kernels.fill(u, v, first, count, *where, *tables, row_start, entry_start, index, dose)  # type: ignore[call-arg]
    return Chunk(first, count, spots.start()[:-1][part], row_start, entry_start, index, dose)


def starts(counts: np.ndarray) -> np.ndarray:
    """Where each block begins, and the total at the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
