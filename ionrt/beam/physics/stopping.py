"""Electronic stopping power and CSDA range of bare ions in liquid water (I = 78 eV, 1 g/cm3)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from ionrt.ions import ATOMIC_MASS_UNIT, ELECTRON_MASS, ISOTOPES, PROTON_MASS, Isotope, get
from ionrt.quantities import IonrtError, stamp

Array = NDArray[Any]
ENERGY_MIN, ENERGY_MAX = 0.001, 1000.0  # MeV/u, limits of the tables
_GRID = np.geomspace(ENERGY_MIN, ENERGY_MAX, 2400)
_BETHE = 0.307075 * 0.555087  # 4 pi N_A r_e^2 m_e c^2 times Z/A of water, MeV cm2/g
_EXCITATION = 78e-6  # MeV, ICRU 90
_FINE_STRUCTURE = 1 / 137.035999
_JOINT = {"He": (0.1, 0.5), "heavy": (1.0, 8.0)}  # MeV/u, from the table of slow ions to the formula
_REFERENCE = "ICRU Report 90 (2016); Errata and Addenda of ICRU Report 73 (2009)"


def read_rows(name: str) -> list[dict[str, str]]:
    """Rows of a cited table of this room, comment lines dropped."""
    text = (files("ionrt.beam.physics") / "tables" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if line and not line.startswith("#")))


def beta_gamma(energy: ArrayLike, mass_per_nucleon: float) -> tuple[Array, Array]:
    """Velocity beta and Lorentz factor of a kinetic energy per nucleon (total kinetic energy / A)."""
    gamma = 1 + np.asarray(energy, float) / (ATOMIC_MASS_UNIT * mass_per_nucleon)
    return np.sqrt(1 - 1 / gamma**2), gamma


def _proton_bethe(energy: Array) -> Array:
    """Bethe with an empirical shell term; below 700 MeV the density effect of water is zero."""
    beta, gamma = beta_gamma(energy, PROTON_MASS / ATOMIC_MASS_UNIT)
    ratio = ELECTRON_MASS / PROTON_MASS
    transfer = 2 * ELECTRON_MASS * (beta * gamma) ** 2 / (1 + 2 * gamma * ratio + ratio**2)
    number = 0.5 * np.log(2 * ELECTRON_MASS * (beta * gamma) ** 2 * transfer / _EXCITATION**2) - beta**2
    return _BETHE / beta**2 * (number - 0.4 / (energy + 1.05))


@cache
def _proton_spline() -> CubicSpline:
    rows = read_rows("proton_stopping.csv")
    energy = np.array([float(r["energy_MeV"]) for r in rows])
    value = np.array([float(r["stopping_power_MeV_cm2_g"]) for r in rows])
    joint = np.array([6.0, 8.0, 10.0])  # overlap with Bethe, so that the slope is continuous
    energy, value = np.append(energy, joint), np.append(value, _proton_bethe(joint))
    return CubicSpline(np.log(energy), np.log(value))


def _proton(energy: Array) -> Array:
    low = np.exp(_proton_spline()(np.log(np.minimum(energy, 10.0))))
    return np.where(energy < 8.0, low, _proton_bethe(np.maximum(energy, 8.0)))


def _bloch(y: ArrayLike) -> Array:
    y2 = np.asarray(y, float) ** 2
    return -y2 * (1.20206 - y2 * (1.042 - 0.8549 * y2 + 0.343 * y2**2))


@cache
def _slow_charge(charge: int) -> CubicSpline:
    """ln of the tabulated squared effective charge over Z^2 of slow ions against ln(energy)."""
    rows = read_rows("effective_charge.csv")
    columns = np.array([[float(r["energy_MeV_u"]), float(r[str(charge)])] for r in rows])
    return CubicSpline(*np.log(columns).T)


def _slow(isotope: Isotope, energy: Array, fast: Array, base: Array) -> Array:
    """Stopping of slow ions from the table, in place of the formula that was fitted to fast ones; smoothly joined."""
    low, high = _JOINT["He" if isotope.charge == 2 else "heavy"]
    share = np.clip(np.log(energy / low) / np.log(high / low), 0.0, 1.0)
    share = share**2 * (3 - 2 * share)
    tabulated = isotope.charge**2 * base * np.exp(_slow_charge(isotope.charge)(np.log(np.minimum(energy, high))))
    return share * fast + (1 - share) * tabulated


def _mass_stopping(isotope: Isotope, energy: Array) -> Array:
    """Proton stopping at the same velocity x effective charge squared x (Mott and Bloch terms)."""
    beta, gamma = beta_gamma(energy, isotope.mass_per_nucleon)
    base = _proton((gamma - 1) * PROTON_MASS)
    z = isotope.charge
    if z == 1:
        return base
    effective = z * (1 - np.exp(-213.94 * beta * z**-0.8363))
    number = np.log(2 * ELECTRON_MASS * (beta * gamma) ** 2 / _EXCITATION) - beta**2
    number = np.maximum(number, 1.0)  # the correction is switched off below ~10 MeV/u by `onset` anyway
    onset = 1 / (1 + (121.6 / energy) ** 2)
    y = np.minimum(z * _FINE_STRUCTURE / beta, 1.0)
    mott = np.pi * _FINE_STRUCTURE * beta * (z - 1) / 2 + _bloch(y) - _bloch(np.minimum(_FINE_STRUCTURE / beta, 1.0))
    fast = base * effective**2 * (1 + onset * mott / number) * (1.0027 if z > 2 else 1.0)
    return _slow(isotope, energy, fast, base)


@dataclass(frozen=True)
class StoppingTable:
    """Stopping of one isotope: energy MeV/u, stopping MeV/mm, range mm, total kinetic energy MeV,
    let_integral = integral of S dT (MeV2/mm), all on one log grid."""

    isotope: Isotope
    energy: Array
    stopping: Array
    range: Array
    kinetic: Array
    let_integral: Array

    def at_energy(self, energy: ArrayLike, what: str = "range") -> Array:
        """A column at kinetic energies per nucleon, log-log interpolation."""
        return np.exp(np.interp(np.log(energy), np.log(self.energy), np.log(getattr(self, what))))

    def at_range(self, residual: ArrayLike, what: str = "energy") -> Array:
        """A column at residual ranges (mm); zero at and below zero range."""
        residual = np.asarray(residual, float)
        safe = np.maximum(residual, self.range[0])
        value = np.exp(np.interp(np.log(safe), np.log(self.range), np.log(getattr(self, what))))
        return np.where(residual > 0, value * np.minimum(1.0, np.maximum(residual, 0) / self.range[0]), 0.0)


def _integrate(values: Array, over: Array, start: float) -> Array:
    """Cumulative integral by the trapezoid rule in the logarithm of `over`, from a power-law start."""
    step = np.diff(np.log(over))
    f = values * over
    return start + np.concatenate([[0.0], np.cumsum(0.5 * (f[1:] + f[:-1]) * step)])


@cache
def table(symbol: str) -> StoppingTable:
    """The stopping table of an isotope symbol; computed once per process."""
    isotope = ISOTOPES[symbol]
    stopping = _mass_stopping(isotope, _GRID) * 0.1  # MeV/mm at 1 g/cm3
    kinetic = _GRID * isotope.mass_number
    csda = _integrate(1 / stopping, kinetic, 2 * kinetic[0] / stopping[0])  # S ~ sqrt(E) below the grid
    let = _integrate(stopping, kinetic, 2 / 3 * kinetic[0] * stopping[0])
    return StoppingTable(isotope, _GRID, stopping, csda, kinetic, let)


@cache
def spline(symbol: str, what: str) -> CubicSpline:
    """ln(column) against ln(range): smooth enough to be differenced over a fraction of a millimetre."""
    tab = table(symbol)
    return CubicSpline(np.log(tab.range), np.log(getattr(tab, what)))


def smooth(symbol: str, residual: ArrayLike, what: str = "kinetic") -> Array:
    """A column of the stopping table at residual ranges (mm); zero at and below zero range."""
    residual = np.asarray(residual, float)
    tab = table(symbol)
    inside = np.clip(residual, tab.range[0], tab.range[-1])
    value = np.exp(spline(symbol, what)(np.log(inside)))
    return np.asarray(value * np.clip(residual / tab.range[0], 0.0, 1.0))


def energies(energy: ArrayLike, *, low: float = ENERGY_MIN, high: float = ENERGY_MAX) -> Array:
    """Check kinetic energies (MeV/u) and return them as a 1-d array."""
    try:
        value = np.atleast_1d(np.asarray(energy, float))
    except (TypeError, ValueError):
        raise IonrtError(f"energy: expected numbers in MeV/u, got {energy!r}") from None
    bad = ~((value >= low) & (value <= high))
    if value.ndim != 1 or bad.any():
        came = value[bad][0] if bad.any() else f"an array of {value.ndim} dimensions"
        raise IonrtError(f"energy: expected {low:g} to {high:g} MeV/u (total kinetic energy / A), got {came}")
    return value


def stopping_power(ion: str, energy: ArrayLike) -> xr.DataArray:
    """Electronic mass stopping power in liquid water.

    S(E) = S_p(beta) z_eff^2 [1 + x (first-order Mott + Bloch)/L0].

    Parameters
    ----------
    ion: "p", "He", "C", "O", "Ne" or an isotope symbol such as "11C".
    energy: total kinetic energy / A in MeV/u, scalar or 1-d, 0.001 to 1000.

    Returns
    -------
    DataArray (energy) in MeV cm2/g. Within 0.3 % of ICRU 90 / revised ICRU 73 above 50 MeV/u, 1 % from 20 to 50.

    Raises
    ------
    IonrtError: unknown ion, energy outside the table.

    References
    ----------
    ICRU Report 90.
    """
    isotope, value = get(ion), energies(energy)
    da = xr.DataArray(_mass_stopping(isotope, value), dims="energy", coords={"energy": value})
    return stamp(da, "stopping_power", ion=ion, medium="liquid water, I = 78 eV", citation=_REFERENCE)


def csda_range(ion: str, energy: ArrayLike) -> xr.DataArray:
    """Continuous-slowing-down range in liquid water, R = integral of dE/S.

    Parameters
    ----------
    ion: "p", "He", "C", "O", "Ne" or an isotope symbol.
    energy: total kinetic energy / A in MeV/u, scalar or 1-d, 0.001 to 1000.

    Returns
    -------
    DataArray (energy) in mm of water (1 g/cm3).

    Raises
    ------
    IonrtError: unknown ion, energy outside the table.

    References
    ----------
    ICRU Report 90.
    """
    isotope, value = get(ion), energies(energy)
    da = xr.DataArray(table(isotope.symbol).at_energy(value), dims="energy", coords={"energy": value})
    return stamp(da, "csda_range", ion=ion, medium="liquid water, I = 78 eV", citation=_REFERENCE)


def energy_for_range(ion: str, range_mm: ArrayLike) -> xr.DataArray:
    """Kinetic energy with which an ion has the given CSDA range; the inverse of `csda_range`.

    Parameters
    ----------
    ion: "p", "He", "C", "O", "Ne" or an isotope symbol.
    range_mm: range in mm of water, scalar or 1-d, positive.

    Returns
    -------
    DataArray (range_mm) of total kinetic energy / A in MeV/u.

    Raises
    ------
    IonrtError: unknown ion, range not positive or beyond 1000 MeV/u.
    """
    tab = table(get(ion).symbol)
    value = np.atleast_1d(np.asarray(range_mm, float))
    if not np.all((value > tab.range[0]) & (value <= tab.range[-1])):
        raise IonrtError(f"range_mm: expected {tab.range[0]:.3g} to {tab.range[-1]:.0f} mm of water, got {value.min():g}")
    da = xr.DataArray(tab.at_range(value), dims="range_mm", coords={"range_mm": value})
    return stamp(da, "kinetic_energy", ion=ion, medium="liquid water, I = 78 eV", citation=_REFERENCE)
