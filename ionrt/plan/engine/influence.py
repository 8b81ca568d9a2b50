"""Pencil-beam influence: dose per spot and voxel, with the depth bin from which every moment is looked up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.sparse import csr_array
from tqdm.auto import tqdm

from ionrt.files import content_hash
from ionrt.parallel import each
from ionrt.plan.engine.blocks import Work, at_once, counted, divided, filled
from ionrt.plan.engine.components import split, undivided
from ionrt.plan.engine.kernels import MOST_ENERGIES
from ionrt.plan.engine.lattice import every_second_ray, nodes_of
from ionrt.plan.engine.points import point_tables
from ionrt.plan.engine.rows import dosed_rows
from ionrt.plan.engine.store import Chunk, Keeper
from ionrt.plan.setup.beams import Beam, Plan
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.machine import Machine, base_of, make_machine
from ionrt.plan.setup.provenance import of_base, of_patient
from ionrt.plan.setup.scenarios import NOMINAL, Scenario
from ionrt.plan.setup.scene import Scene, make_scene
from ionrt.plan.setup.spots import Spots, View, given_spots, make_view, place_spots
from ionrt.quantities import IonrtError, one_of

KERNELS = ("split", "point")


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
    patient: xr.Dataset,
    plan: Plan,
    *,
    base: Mapping[str, xr.Dataset] | None = None,
    scenario: Scenario = NOMINAL,
    spots: xr.Dataset | None = None,
    kernel: str = "split",
    store: str | os.PathLike[str] | None = None,
    memory: float | None = None,
) -> Influence:
    r"""Sparse dose influence of all spots of a plan, model-agnostic.

    D_ij = c Z_E(d_i) [(1-w) G(r; s_1^2 + s_0^2) + w G(r; s_2^2 + s_0^2)]: depth dose Z at the voxel's own water-equivalent
    depth d, lateral core s_1 and halo (w, s_2) of the base data, beam in air s_0; the dose of a voxel is the mean over slabs no
    thicker than 1 mm along the beam.

    Validity: dose to water; every voxel sees the material on its own ray (no lateral heterogeneity inside a spot).

    Parameters
    ----------
    patient : Dataset with ct or spr and structures (`ionrt.read_dicom`)
    plan, base : {ion: Dataset} of the user's own base data (None: `ionrt.beam.base_data`)
    scenario : range and set-up error under which the spots of the nominal plan are delivered
    spots : given ones, with coordinates beam_index, energy (MeV/u), u, v (mm) along `spot` as `Influence.spots` returns them
        (None: placed on the target); they come out ordered by beam, ray and energy
    kernel : "split" (core on voxels, halo on a lattice) or "point" (the formula at each voxel's middle within
        `plan.lateral_loss`, several times the entries)
    store : folder that keeps finished blocks by content, from which an interrupted run goes on
    memory : bytes that the entries may take: with a `store` what does not fit stays there and is mapped. A running
        `distributed.Client` is used (the folder must then be there for all workers).

    Returns
    -------
    an `Influence`: 4 bytes per entry and 4 per (ray, voxel), whatever the number of moments.

    Raises
    ------
    IonrtError
        `ReachError` where an ion cannot reach; IonrtError where a beam misses the patient, base data do not fit or lack an
        energy of a given spot, no spot is given, `memory` is too small (says how much is needed).

    References
    ----------
    Hong et al., doi 10.1088/0031-9155/41/8/005; Parodi et al., doi 10.1088/0031-9155/57/12/3759.
    """
    one_of(kernel, KERNELS, what="kernel")
    scene = make_scene(patient, plan)
    data = {ion: base_of(ion, base) for ion in dict.fromkeys(b.ion for b in plan.beams)}
    with tqdm(total=len(plan.beams), desc=f"influence {', '.join(data)}", unit="beam", disable=None, leave=False) as bar:

        def prepare(i: int) -> Prepared:
            beam = plan.beams[i]
            view, machine = make_view(beam, scene), make_machine(beam, data[beam.ion])
            placed = place_spots(plan, beam, scene, view, machine) if spots is None else given_spots(spots, i, beam, machine)[0]
            made = prepare_beam(plan, beam, scene, view.moved(scenario), machine, placed, kernel=kernel)
            bar.update()
            return made

        jobs = [partial(of_base, data), partial(of_patient, scene), *(partial(prepare, i) for i in range(len(plan.beams)))]
        base_hash, patient_hash, *prepared = each(lambda job: job(), jobs)
    keeper = Keeper(None if store is None else Path(store), memory)
    keeper.clear_stale()
    beams = finish(prepared, keeper)
    attrs = {"patient": patient_hash, "base": base_hash, "kernel": kernel}
    if not scenario.is_nominal:
        attrs |= {"scenario": scenario.label, "scenario_hash": content_hash(scenario.range_shift, scenario.setup)}
    return Influence(plan, scene.grid, beams, data, attrs)


def beam_influence(
    plan: Plan, beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots, index: np.ndarray | None = None
) -> BeamInfluence:
    """Entries of the given spots in the voxels `index` (flat; None: all of the body)."""
    return finish([prepare_beam(plan, beam, scene, view, machine, spots, index)], Keeper())[0]


@dataclass(frozen=True)
class Prepared:
    """A beam before its entries are made: the parts still without chunks, and the work that makes them."""

    influence: BeamInfluence
    works: tuple[Work, ...]


def finish(prepared: Sequence[Prepared], keeper: Keeper) -> tuple[BeamInfluence, ...]:
    """With the entries of all beams, made together: no core waits at the end of a part."""
    works = [work for p in prepared for work in p.works]
    if keeper.memory is not None:
        works = counted(works)
        sizes = [n for work in works for n in work.nbytes]
        keeper = keeper.for_sizes(sizes, sum(p.influence.nbytes for p in prepared), at_once())
    chunks = iter(filled(works, keeper))
    parts = [tuple(replace(part, chunks=next(chunks)) for part in p.influence.parts) for p in prepared]
    return tuple(replace(p.influence, parts=made) for p, made in zip(prepared, parts, strict=True))


def prepare_beam(
    plan: Plan,
    beam: Beam,
    scene: Scene,
    view: View,
    machine: Machine,
    spots: Spots,
    index: np.ndarray | None = None,
    kernel: str = "split",
) -> Prepared:
    """A beam up to the making of its entries in the voxels `index` (flat; None: all of the body)."""
    if spots.count.max() > MOST_ENERGIES:
        raise IonrtError(
            f"beam {beam.name}: {spots.count.max()} energies on one ray; at most {MOST_ENERGIES}: thin the base data"
        )
    low, high = int(spots.first.min()), int((spots.first + spots.count).max()) - 1
    machine = machine.select(low, high)
    spots = replace(spots, first=spots.first - low)
    index = scene.inside if index is None else index
    parts = _points if kernel == "point" else _core_and_halo
    voxel, made, works = parts(plan, beam, scene, view, machine, spots, index)
    iso = tuple(float(c) for c in view.isocentre)
    return Prepared(BeamInfluence(beam, machine, spots, iso, voxel, tuple(made)), tuple(works))  # type: ignore[arg-type]


def _core_and_halo(
    plan: Plan, beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots, index: np.ndarray
) -> tuple[np.ndarray, list[Part], list[Work]]:
    """Core on voxels, halo on a lattice: of all rays where it is narrow, of every second ray where it is wide."""
    thickness = _thickness(scene.grid, view)
    if not machine.halo_weight.max() > 0.0:
        core = undivided(machine, thickness=thickness, loss=plan.lateral_loss)
        rows = dosed_rows(beam, scene, view, machine, spots, float(np.sqrt(core.cut2.max())), scene.grid, index)
        return rows.voxel, [Part(rows.bins, core.lowest, (), core.taps)], [divided(core, machine, spots, rows, view)]
    core, halo, lattice = split(machine, thickness=thickness, spacing=spots.spacing, loss=plan.lateral_loss)
    narrow, wide = (float(np.sqrt(c.cut2.max())) for c in (core, halo))
    radius = max(narrow, wide)
    rows = dosed_rows(beam, scene, view, machine, spots, radius, scene.grid, index, narrow)

    def part(thinned: bool | None) -> tuple[Part, Work] | None:
        if thinned is None:
            return Part(rows.bins, core.lowest, (), core.taps), divided(core, machine, spots, rows, view)
        rays, share = every_second_ray(spots) if thinned else (spots, None)
        found = nodes_of(lattice, rows, rays, radius, thinned=thinned)
        if found is None:
            return None
        nodes, lift = found
        return Part(nodes.bins, halo.lowest, (), halo.taps, lift, share), divided(halo, machine, rays, nodes, view)

    kinds = np.unique(lattice.thinned).tolist() if halo.cut2.max() > 0.0 else []
    made = [m for m in each(part, [None, *kinds]) if m is not None]
    return rows.voxel, [p for p, _ in made], [w for _, w in made]


def _points(
    plan: Plan, beam: Beam, scene: Scene, view: View, machine: Machine, spots: Spots, index: np.ndarray
) -> tuple[np.ndarray, list[Part], list[Work]]:
    """Every spot by itself."""
    point = point_tables(machine, loss=plan.lateral_loss)
    rows = dosed_rows(beam, scene, view, machine, spots, float(np.sqrt(point.cut2.max())), scene.grid, index)
    part = Part(rows.bins, np.zeros(machine.dose.shape[0], np.int32), (), np.zeros(1, np.int64))
    return rows.voxel, [part], [divided(point, machine, spots, rows, view)]


def _thickness(grid: Grid, view: View) -> float:
    """Mean thickness of a voxel along the beam: its volume over its projected area."""
    z, y, x = grid.spacing
    w = np.abs(view.axes[2])
    return grid.voxel_volume / float(w[0] * y * z + w[1] * x * z + w[2] * x * y)
