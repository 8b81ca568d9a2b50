"""The primary beam, semi-analytic: survivors, straggling and scattering as functions of depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ionrt.beam.physics.nuclear import elastic_hydrogen, elastic_oxygen, macroscopic, slowed
from ionrt.beam.physics.scattering import fermi_eyges
from ionrt.beam.physics.stopping import Array, beta_gamma, smooth, table
from ionrt.beam.physics.water import kernels
from ionrt.beam.physics.water.cells import KINETIC_EDGES
from ionrt.ions import Isotope

SPACING = 0.02  # mm, look-up tables of the primary
FINE = 0.1  # mm, step of the survival and straggling integrals
HALF = 0.05  # mm, half the width over which the primary dose is averaged
_NODES = np.linspace(-5.0, 5.0, 81)
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


@dataclass(frozen=True)
class Primary:
    """On a fine depth grid: survivors, reactions per mm, collisions per mm that slow without breaking (4He; protons on
    hydrogen, and on oxygen by itself), energy per nucleon, standard deviation of the range (mm)."""

    isotope: Isotope
    reach: float  # mm, mean range
    depth: Array
    alive: Array
    reactions: Array
    elastic: Array
    on_oxygen: Array
    energy: Array
    sigma: Array

    def at(self, depth: Array, what: str) -> Array:
        """A column at other depths; zero reactions and survivors beyond the grid."""
        return np.interp(depth, self.depth, getattr(self, what))


def start(isotope: Isotope, energy: float, depth_end: float, *, energy_spread: float, range_sigma: float) -> Primary:
    """Integrate survival and straggling of a beam of one energy down to `depth_end` mm."""
    tab = table(isotope.symbol)
    reach = float(smooth_range(isotope.symbol, energy))
    depth = np.arange(0.0, depth_end + 2 * FINE, FINE)
    left = np.maximum(reach - depth, 0.0)
    here = np.maximum(smooth(isotope.symbol, left, "energy"), 1e-3)
    moving = left > 0
    rate = np.where(moving, macroscopic(isotope, np.maximum(here, 0.5)), 0.0)
    elastic, oxygen = np.where(moving, slowed(isotope.symbol, np.maximum(here, 0.5)), 0.0), np.zeros_like(rate)
    if isotope.symbol == "1H":
        elastic, oxygen = (np.where(moving, f(here), 0.0) for f in (elastic_hydrogen, elastic_oxygen))
    total = rate + elastic + oxygen
    alive = np.exp(-np.concatenate([[0.0], np.cumsum(0.5 * (total[1:] + total[:-1]))]) * FINE)
    variance = _straggling(isotope, here, moving)
    stopping = tab.at_energy(energy, "stopping")
    variance += (energy_spread * energy * isotope.mass_number / stopping) ** 2 + range_sigma**2 + 1e-4
    return Primary(isotope, reach, depth, alive, rate * alive, elastic * alive, oxygen * alive, here, np.sqrt(variance))


def smooth_range(symbol: str, energy: float) -> Array:
    """CSDA range in mm consistent with `smooth`."""
    tab = table(symbol)
    guess = tab.at_energy(energy)
    for _ in range(3):
        guess = guess * (
            1
            + (energy / smooth(symbol, guess, "energy") - 1)
            * energy
            * tab.isotope.mass_number
            / (guess * tab.at_energy(energy, "stopping"))
        )
    return guess


def _straggling(isotope: Isotope, energy: Array, moving: np.ndarray) -> Array:
    """Variance of the range in mm2 accumulated down to each depth (Bohr with the relativistic factor)."""
    beta, gamma = beta_gamma(energy, isotope.mass_per_nucleon)
    effective = isotope.charge * (1 - np.exp(-125 * beta * isotope.charge ** (-2 / 3)))
    omega2 = 0.00871 * effective**2 * gamma**2 * (1 - beta**2 / 2)  # MeV2/mm
    rate = np.where(moving, omega2 / table(isotope.symbol).at_energy(energy, "stopping") ** 2, 0.0)
    return np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1])) * FINE])


def _tables(primary: Primary) -> tuple[Array, Array, Array, Array]:
    """Kinetic energy, LET integral and residual range on a uniform grid of residual range, and their running integrals."""
    residual = np.arange(0.0, primary.reach + 6 * primary.sigma[-1] + 1.0, SPACING)
    symbol = primary.isotope.symbol
    columns = (smooth(symbol, residual), smooth(symbol, residual, "let_integral"), residual)
    sums = np.stack([np.concatenate([[0.0], np.cumsum(0.5 * (c[1:] + c[:-1]))]) for c in columns])
    return *columns, sums


def profile(primary: Primary, depth: Array) -> Array:
    """Energy (MeV/mm), LET x energy (MeV2/mm2) and path (mm/mm) of the primaries at each depth; shape (3, depth)."""
    kinetic, let, path, sums = _tables(primary)
    out = np.zeros((3, depth.size))
    args = (primary.at(depth, "alive"), primary.reach, primary.at(depth, "sigma"), _NODES, _WEIGHTS)
    kernels.primary_profile(depth, HALF, *args, kinetic, let, path, sums, SPACING, out)
    return out


def spectrum(primary: Primary, depth: Array) -> Array:
    """Energy left by the primaries per kinetic-energy bin, MeV/mm; shape (depth, bins)."""
    kinetic, _, _, sums = _tables(primary)
    out = np.zeros((depth.size, KINETIC_EDGES.size - 1))
    args = (primary.at(depth, "alive"), primary.reach, primary.at(depth, "sigma"), _NODES, _WEIGHTS)
    mass = primary.isotope.mass_number
    kernels.primary_spectrum(depth, HALF, *args, kinetic, sums[0], SPACING, mass, KINETIC_EDGES, out)
    return out


def lateral(primary: Primary, depth: Array) -> Array:
    """Fermi-Eyges moments of the primaries; shape (3, depth)."""
    return fermi_eyges(primary.isotope.symbol, primary.reach, depth)
