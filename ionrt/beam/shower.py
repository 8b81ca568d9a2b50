"""The secondaries: born along the primary beam, slowed down exactly, reacting again, scored slab by slab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ionrt.beam import kernels
from ionrt.beam.cells import CELL, CHARGE_OF, CHARGES, KINETIC_EDGES, SLAB, cells, range_cells
from ionrt.beam.cells import shower as shower_tables
from ionrt.beam.emission import SPECIES, Emission, elastic_pairs, emission
from ionrt.beam.primary import Primary, lateral
from ionrt.beam.stopping import Array, smooth

WIDTH = SLAB * CELL  # mm, one slab


@dataclass
class Secondaries:
    """Per species and slab: energy, LET x energy and path per mm, lateral second moment; local energy per mm and slab;
    neutral = MeV carried off by neutrons and photons, escaped = MeV of the charged that leave the far end."""

    depth: Array
    profile: Array
    local: Array
    neutral: float
    escaped: float
    spectra: Array
    cone: Array


def _sources(primary: Primary, edges: Array) -> list[tuple[Array, Emission]]:
    """Events of the primary at each slab edge (those between the neighbouring slab centres) and what they emit."""
    low, high = np.maximum(edges - WIDTH / 2, 0.0), edges + WIDTH / 2
    energy = np.maximum(primary.at(edges, "energy"), 3.0)
    nodes = 9
    cumulative = {}
    for what in ("reactions", "collisions"):
        rate = getattr(primary, what)
        total = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(primary.depth))])
        cumulative[what] = np.interp(high, primary.depth, total) - np.interp(low, primary.depth, total)
    out = [(cumulative["reactions"], emission(primary.isotope.symbol, tuple(energy), nodes))]
    if primary.isotope.symbol == "1H":
        out.append((cumulative["collisions"], elastic_pairs(energy)))
    return out


def run(primary: Primary, end: float, *, every: int = 2, spectra_at: Array | None = None, cone: float = 0.0) -> Secondaries:
    """Transport all secondaries down to `end` mm; secondaries react and scatter every `every` slabs."""
    slabs = int(np.ceil(end / WIDTH))
    edges = np.arange(slabs) * WIDTH
    sources = [(rate, e, range_cells(e.species, e.energy)) for rate, e in _sources(primary, edges)]
    widest = max(float(c.max()) for _, _, c in sources) + slabs * SLAB + 4
    count = int(min(np.ceil(widest / 1000) * 1000, 7000))
    tab, tail = cells(count), shower_tables()
    kinetic_here = smooth(primary.isotope.symbol, primary.reach - edges)
    moments = lateral(primary, edges)
    state = np.zeros((4, len(SPECIES), count + slabs * 0))
    bounds = np.zeros((len(SPECIES), 2), np.int64)
    bounds[:, 0] = count
    out = np.zeros((slabs, 4, len(SPECIES)))
    local = np.zeros(slabs)
    neutral = 0.0
    histogram = np.zeros((5, tail.local.shape[1]))
    wanted = set() if spectra_at is None else set(np.minimum(spectra_at / WIDTH, slabs - 1).astype(int).tolist())
    spectra = np.zeros((slabs if wanted else 0, CHARGES.size, KINETIC_EDGES.size - 1))
    inside = np.zeros((slabs if cone else 0, CHARGES.size))
    for i in range(slabs):
        cell = i * SLAB
        if i and i % every == 0:
            kernels.drift(state, bounds, cell, every * WIDTH, tab.power)
            here, gone = kernels.react(
                state, bounds, cell, every * WIDTH, tab.sigma, tab.kinetic, tab.which, tail.pointer,
                tail.species, tail.cells, tail.number, tail.theta2, tail.local, histogram,
            )  # fmt: skip
            local[i] += here
            neutral += gone
        for number, e, where in sources:
            rate = number[i]
            if rate <= 0:
                continue
            sent = kernels.emit(
                state, bounds, tab.kinetic, cell, rate, moments[0, i], moments[1, i], moments[2, i],
                e.species, where[i], e.number[i], e.theta2[i],
            )  # fmt: skip
            brought = rate * kinetic_here[i]
            stays = min(rate * e.local[i], max(brought - sent, 0.0))
            local[i] += stays
            neutral += brought - sent - stays
        kernels.score(state, bounds, cell, tab.d_kinetic, tab.d_let, tab.d_path, out[i])
        if i in wanted:
            kernels.score_spectrum(
                state, bounds, cell, tab.d_kinetic, tab.top, tab.bottom, CHARGE_OF, KINETIC_EDGES, spectra[i]
            )
        if cone:
            kernels.inside_cone(state, bounds, cell, CHARGE_OF, cone, inside[i])
    left = slabs * SLAB
    escaped = float(sum((state[0, j, left:] * tab.kinetic[j, : count - left]).sum() for j in range(len(SPECIES))))
    centre = edges + WIDTH / 2
    return Secondaries(centre, np.moveaxis(out, 0, 2) / WIDTH, local / WIDTH, neutral, escaped, spectra / WIDTH, inside)
