"""The secondaries: born along the primary beam, slowed down exactly, reacting again, scored slab by slab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ionrt.beam.physics.emission import SPECIES, Emission, deflected, elastic_pairs, emission, whole_helium
from ionrt.beam.physics.nuclear import by_parent
from ionrt.beam.physics.stopping import Array, smooth
from ionrt.beam.physics.water import kernels
from ionrt.beam.physics.water.cells import CELL, CHARGE_OF, CHARGES, KINETIC_EDGES, SLAB, cells, range_cells, reacting
from ionrt.beam.physics.water.cells import shower as shower_tables
from ionrt.beam.physics.water.primary import Primary, lateral
from ionrt.ions import Isotope

_MOST_CELLS = 7000  # 3.5 m of residual range; particles that would reach further (tritons) are put into the last cell


@dataclass(frozen=True)
class Mesh:
    """Discretisation: cell of the residual range (mm), cells per scoring slab, slabs per step of secondary reactions."""

    cell: float = CELL
    slab: int = SLAB
    every: int = 1

    @property
    def width(self) -> float:
        """Width of a slab in mm."""
        return self.cell * self.slab


MESH = Mesh()
PROTON_MESH = Mesh(slab=1, every=2)  # the protons' own slow secondaries build up within 3 mm


def mesh_of(isotope: Isotope) -> Mesh:
    """The discretisation that a beam of this isotope needs."""
    return PROTON_MESH if isotope.charge == 1 else MESH


@dataclass(frozen=True)
class Wanted:
    """What is scored beside the dose: spectra at depths (mm), ions per charge inside a cone (rad) around the axis."""

    spectra_at: Array | None = None
    cone: float = 0.0


@dataclass
class Secondaries:
    """Per species and slab: energy, LET x energy, path per mm, energy x lateral variance; local energy per mm and slab;
    neutral = MeV carried off by neutrons and photons, escaped = MeV of the charged that leave the far end."""

    depth: Array
    profile: Array
    local: Array
    neutron: Array  # energy per mm and slab that neutrons gave to charged particles
    neutral: float
    escaped: float
    spectra: Array
    cone: Array


@dataclass
class Source:
    """Events of the primaries at each slab edge (those between the neighbouring slab centres) and what they emit."""

    events: Array
    emits: Emission
    low: Array  # residual ranges in cells, ends of the energy intervals
    high: Array


def _sources(primary: Primary, edges: Array, mesh: Mesh) -> list[Source]:
    before, after = np.maximum(edges - mesh.width / 2, 0.0), edges + mesh.width / 2
    energy = np.maximum(primary.at(edges, "energy"), 3.0)

    def source(what: str, emits: Emission) -> Source:
        rate = getattr(primary, what)
        total = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(primary.depth))])
        events = np.interp(after, primary.depth, total) - np.interp(before, primary.depth, total)
        low = range_cells(emits.species, emits.low, mesh.cell)
        high = low if emits.high is emits.low else range_cells(emits.species, emits.high, mesh.cell)
        return Source(events, emits, low, high)

    out = [source("reactions", emission(primary.isotope.symbol, energy))]
    if primary.isotope.symbol == "1H":
        out += [source("elastic", elastic_pairs(energy)), source("on_oxygen", deflected(energy, float(primary.sigma[-1])))]
    if primary.isotope.symbol == "4He":
        out.append(source("elastic", whole_helium(energy)))
    return out


class _Tracks:
    """All secondaries of one beam: number and lateral moments per species and cell, and the energy they give away."""

    def __init__(self, isotope: Isotope, count: int, mesh: Mesh) -> None:
        self.isotope = isotope
        self.mesh, self.tab, self.tail = mesh, cells(count, mesh.cell, mesh.slab), shower_tables(mesh.cell)
        self.share = reacting(count, mesh.cell, mesh.slab, mesh.every * mesh.width)
        self.state = np.zeros((4, len(SPECIES), count))
        self.bounds = np.zeros((len(SPECIES), 2), np.int64)
        self.bounds[:, 0] = count
        self.histogram = np.zeros((5, self.tail.local.shape[1]))
        self.neutral = 0.0

    def step(self, i: int) -> float:
        """Scattering and reactions of the secondaries around slab edge `i`; returns the energy left there."""
        cell, length = i * self.mesh.slab, self.mesh.every * self.mesh.width
        kernels.drift(self.state, self.bounds, cell, length, self.tab.power)
        t = self.tail
        here, gone = kernels.react(
            self.state,
            self.bounds,
            cell,
            self.share,
            self.tab.kinetic,
            self.tab.which,
            t.pointer,
            t.species,
            t.low,
            t.high,
            t.number,
            t.theta2,
            t.local,
            self.histogram,
        )
        self.neutral += gone
        return float(here)

    def born(self, i: int, source: Source, kinetic: float, moments: Array) -> float:
        """Add what the primaries' events at slab edge `i` emit; returns the energy left there."""
        rate, e = source.events[i], source.emits
        if rate <= 0:
            return 0.0
        sent = kernels.emit(
            self.state,
            self.bounds,
            self.tab.kinetic,
            i * self.mesh.slab,
            rate,
            moments[0],
            moments[1],
            moments[2],
            e.species,
            source.low[i],
            source.high[i],
            e.number[i],
            e.theta2[i],
        )
        stays = min(rate * e.local[i], max(rate * kinetic - sent, 0.0))
        self.neutral += rate * kinetic - sent - stays
        return float(stays)

    def neutrons(self) -> float:
        """Energy that the neutrals on their way give to charged particles in one slab; left there."""
        given = self.neutral * -np.expm1(-self.mesh.width * by_parent("neutron.transfer_per_mm", self.isotope))
        self.neutral -= given
        return float(given)

    def escaped(self, cell: int) -> float:
        """Kinetic energy beyond a depth, MeV."""
        return float((self.state[0, :, cell:] * self.tab.kinetic[:, : self.state.shape[2] - cell]).sum())


def _share(local: Array, energy: float, i: int, span: int) -> None:
    """Spread energy left by events around slab edge `i` over the `span` slab widths that they stand for."""
    half = span // 2
    if span % 2 == 0:
        local[max(i - half, 0) : i + half] += energy / len(local[max(i - half, 0) : i + half])
        return
    local[i] += energy / 2
    local[max(i - 1, 0)] += energy / 2


def run(primary: Primary, end: float, *, wanted: Wanted | None = None, mesh: Mesh = MESH) -> Secondaries:
    """Transport all secondaries down to `end` mm."""
    wanted = wanted or Wanted()
    slabs = int(np.ceil(end / mesh.width))
    edges = np.arange(slabs) * mesh.width
    sources = _sources(primary, edges, mesh)
    widest = max(float(s.high.max()) for s in sources) + slabs * mesh.slab + 4
    most = int(_MOST_CELLS * CELL / mesh.cell)
    tracks = _Tracks(primary.isotope, int(min(np.ceil(widest / 1000) * 1000, most)), mesh)
    kinetic = smooth(primary.isotope.symbol, primary.reach - edges)
    moments = lateral(primary, edges)
    out, local, neutron = np.zeros((slabs, 4, len(SPECIES))), np.zeros(slabs), np.zeros(slabs)
    spectral = np.zeros(slabs, bool)
    if wanted.spectra_at is not None:
        spectral[np.minimum(wanted.spectra_at / mesh.width, slabs - 1).astype(int)] = True
    spectra = np.zeros((slabs if spectral.any() else 0, CHARGES.size, KINETIC_EDGES.size - 1))
    inside = np.zeros((slabs if wanted.cone else 0, CHARGES.size))
    for i in range(slabs):
        if i and i % mesh.every == mesh.every // 2:
            _share(local, tracks.step(i), i, mesh.every)
        _share(local, sum(tracks.born(i, s, kinetic[i], moments[:, i]) for s in sources), i, 1)
        _share(neutron, tracks.neutrons(), i, 1)
        t, cell = tracks.tab, i * mesh.slab
        kernels.score(tracks.state, tracks.bounds, cell, t.d_kinetic, t.d_let, t.d_path, out[i])
        if spectral[i]:
            args = (t.d_kinetic, t.top, t.bottom, t.entry, CHARGE_OF, KINETIC_EDGES, spectra[i])
            kernels.score_spectrum(tracks.state, tracks.bounds, cell, *args)
        if wanted.cone:
            kernels.inside_cone(tracks.state, tracks.bounds, cell, CHARGE_OF, wanted.cone, inside[i])
    profile = np.moveaxis(out, 0, 2) / mesh.width
    escaped = tracks.escaped(slabs * mesh.slab)
    return Secondaries(
        edges + mesh.width / 2,
        profile,
        local / mesh.width,
        neutron / mesh.width,
        tracks.neutral,
        escaped,
        spectra / mesh.width,
        inside,
    )
