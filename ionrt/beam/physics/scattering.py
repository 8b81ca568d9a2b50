"""Multiple Coulomb scattering in water: differential scattering power and Fermi-Eyges moments."""

from __future__ import annotations

from functools import cache

import numpy as np

from ionrt.beam.physics.stopping import Array, beta_gamma, table
from ionrt.ions import ATOMIC_MASS_UNIT

_SCATTERING_ENERGY = 14.1  # MeV
_RADIATION_LENGTH = 360.8  # mm of water
_KANEMATSU = (0.0224, -0.16, -0.46)  # sigma_R / R, powers of charge and mass; Kanematsu 2009, arXiv:0810.1390


def _highland(symbol: str, energy: Array) -> Array:
    """d<theta^2>/dz per projected plane in rad2/mm before the normalisation per ion."""
    isotope = table(symbol).isotope
    beta, gamma = beta_gamma(np.maximum(energy, 0.05), isotope.mass_per_nucleon)
    momentum = isotope.mass_u * ATOMIC_MASS_UNIT * beta * gamma
    return (_SCATTERING_ENERGY * isotope.charge / (momentum * beta)) ** 2 / _RADIATION_LENGTH


@cache
def _normalisation(symbol: str) -> float:
    """Factor that gives Kanematsu's spread at the end of a 20 cm range (the Highland log term differs per ion)."""
    reach, isotope = 200.0, table(symbol).isotope
    residual = np.linspace(0.05, reach, 4000)
    power = _highland(symbol, table(symbol).at_range(residual))
    plain = np.sqrt(np.trapezoid(power * residual**2, residual))
    slope, by_charge, by_mass = _KANEMATSU
    return float((slope * isotope.charge**by_charge * isotope.mass_number**by_mass * reach / plain) ** 2)


def scattering_power(symbol: str, energy: Array) -> Array:
    """d<theta^2>/dz per projected plane in rad2/mm at kinetic energies per nucleon."""
    return _normalisation(symbol) * _highland(symbol, energy)


def fermi_eyges(symbol: str, reach: float, depth: Array) -> Array:
    """Moments <theta^2>, <x theta>, <x^2> (rad2, rad mm, mm2) of a pencil beam of range `reach` mm; shape (3, depth)."""
    step = 0.1
    fine = np.arange(0, max(depth[-1], step) + 2 * step, step)
    middle = 0.5 * (fine[1:] + fine[:-1])
    residual = reach - middle
    power = np.where(residual > 0, scattering_power(symbol, table(symbol).at_range(np.maximum(residual, 0.02))), 0.0)
    moments = [np.concatenate([[0.0], np.cumsum(power * middle**k) * step]) for k in range(3)]
    moments = [np.interp(depth, fine, m) for m in moments]
    zero, first, second = moments
    return np.stack([zero, depth * zero - first, np.maximum(depth**2 * zero - 2 * depth * first + second, 0)])
