"""Tables of every species on the cells of the residual-range grid, shared by all energies of a process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ionrt.beam.physics.emission import SPECIES, TARGET, isotope_of, secondary
from ionrt.beam.physics.nuclear import macroscopic, slowed
from ionrt.beam.physics.scattering import scattering_power
from ionrt.beam.physics.stopping import Array, smooth, table
from ionrt.ions import ISOTOPES

CELL = 0.5  # mm, width of a cell of the residual-range coordinate
SLAB = 2  # cells per scoring slab
BINS = np.geomspace(3.0, 760.0, 91)  # parents' energy bins, MeV/u
KINETIC_EDGES = np.geomspace(0.1, 700.0, 129)  # MeV/u, bins of the stored spectra
CHARGES = np.arange(1, 11)


@dataclass(frozen=True)
class Cells:
    """Per species and cell: kinetic MeV, its loss in one slab, LET x energy and path in one slab, reactions per mm,
    energy bin, scattering power, energies per nucleon at slab entry and exit, spectral bin of the latter."""

    kinetic: Array
    d_kinetic: Array
    d_let: Array
    d_path: Array
    sigma: Array
    which: np.ndarray
    power: Array
    top: Array
    bottom: Array
    entry: np.ndarray


@dataclass(frozen=True)
class Shower:
    """What each (species, energy bin) emits, flattened: entries pointer[j, b] to pointer[j, b + 1]."""

    pointer: np.ndarray
    species: np.ndarray
    low: Array  # residual range in cells
    high: Array
    number: Array
    theta2: Array
    local: Array


CHARGE_OF = np.array([0 if s == "target" else ISOTOPES[s].charge for s in SPECIES])


def range_cells(species: np.ndarray, energy: Array, width: float = CELL) -> Array:
    """Residual range of particles born at the current depth, in cells."""
    out = np.empty(energy.shape)
    for j in np.unique(species):
        pick = species == j
        e = np.clip(energy[..., pick], 2e-3, 990.0)
        out[..., pick] = _range_of(SPECIES[j], e)
    return out / width


def _range_of(species: str, energy: Array) -> Array:
    return table(isotope_of(species)).at_energy(energy)


def _cell_mean(symbol: str, what: str, count: int, width: float) -> Array:
    """Mean of a column over each cell (Gauss-Legendre; the first cells, where it is steep, in sub-cells)."""
    x, w = np.polynomial.legendre.leggauss(4)
    left = np.arange(count) * width
    value = (smooth(symbol, left[:, None] + (x + 1) / 2 * width, what) * w / 2).sum(1)
    sub = (np.arange(400) + 0.5) / 400 * width
    value[:2] = [smooth(symbol, k * width + sub, what).mean() for k in (0, 1)]
    return value


def _less_slab(mean: Array, slab: int) -> Array:
    """Value in a cell less the value one slab further down; at the end of range everything is left."""
    out = mean.copy()
    out[slab:] -= mean[:-slab]
    return out


@cache
def cells(count: int, width: float = CELL, slab: int = SLAB) -> Cells:
    """The tables for `count` cells of `width` mm, scored in slabs of `slab` cells."""
    names = [isotope_of(s) for s in SPECIES]
    middle = (np.arange(count) + 0.5) * width
    unique: dict[str, tuple[Array, ...]] = {}
    for name in dict.fromkeys(names):
        energy = smooth(name, middle, "energy")
        safe = np.clip(energy, 0.5, 999.0)
        unique[name] = (
            _cell_mean(name, "kinetic", count, width),
            _cell_mean(name, "let_integral", count, width),
            np.where(energy > BINS[0], macroscopic(ISOTOPES[name], safe) + slowed(name, safe), 0.0),
            np.clip(np.searchsorted(BINS, energy) - 1, -1, BINS.size - 2).astype(float),
            scattering_power(name, safe),
            energy,
            smooth(name, middle - slab * width, "energy"),
        )
    kinetic, let, sigma, which, power, top, bottom = (np.stack([unique[n][k] for n in names]) for k in range(7))
    sigma[TARGET] = 0.0
    d_kinetic, d_let = (np.stack([_less_slab(row, slab) for row in a]) for a in (kinetic, let))
    d_path = np.stack([_less_slab(middle, slab)] * len(names))
    entry = np.clip(np.searchsorted(KINETIC_EDGES, bottom) - 1, 0, KINETIC_EDGES.size - 2).astype(np.int16)
    return Cells(kinetic, d_kinetic, d_let, d_path, sigma, which.astype(np.int16), power, top, bottom, entry)


@cache
def reacting(count: int, width: float, slab: int, length: float) -> Array:
    """Share of the particles in each cell that react within `length` mm."""
    return -np.expm1(-cells(count, width, slab).sigma * length)


@cache
def shower(width: float = CELL) -> Shower:
    """Emission tables of all secondaries."""
    centre = np.sqrt(BINS[1:] * BINS[:-1])
    pointer = np.zeros((len(SPECIES), centre.size + 1), np.int64)
    parts: list[tuple[np.ndarray, ...]] = []
    local = np.zeros((len(SPECIES), centre.size))
    total = 0
    for j, name in enumerate(SPECIES):
        pointer[j] = total
        if name == "target":
            continue
        e = secondary(name, centre, 5, 12 if name == "1H" else 7)
        low, high = (e.low, e.high) if name == "1H" else (0.5 * (e.low + e.high),) * 2  # intervals where it matters
        low, high = range_cells(e.species, low, width), range_cells(e.species, high, width)
        local[j] = e.local
        pointer[j] = total + np.arange(centre.size + 1) * e.species.size
        total = int(pointer[j, -1])
        parts.append((np.tile(e.species, centre.size), low.ravel(), high.ravel(), e.number.ravel(), e.theta2.ravel()))
    species, low, high, number, theta2 = (np.concatenate([p[k] for p in parts]) for k in range(5))
    return Shower(pointer, species.astype(np.int64), low, high, number, theta2, local)
