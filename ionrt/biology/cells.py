"""Coefficients, survival and dose at a survival of single particles, for every parameter set alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import brentq

from ionrt.beam import stopping_power
from ionrt.biology.lem import lem1
from ionrt.biology.moments import ISOTOPE_OF_CHARGE
from ionrt.biology.oxygen import osmk21_resistance
from ionrt.biology.specific import specific_energy
from ionrt.biology.tissues import Lem1, Osmk21, Osmk23, Smk, Tissue, any_tissue
from ionrt.quantities import IonrtError, stamp


def coefficients(charge: Any, energy: Any, *, let: Any, tissue: str | Tissue, po2: float = 160.0) -> xr.Dataset:
    """Linear-quadratic coefficients of single particles under any parameter set, and z_n where the model is stochastic.

    MKM: alpha0 + beta0 z*, beta0; SMK: alpha0 + beta0 z*, beta0 z*/z_d; OSMK 2021: the same at `po2`; LEM I: see `lem1`.

    Parameters
    ----------
    charge : [e]
    energy : [MeV/u]
    let : [keV/um] as in `specific_energy`
    tissue : a set or its name
    po2 : [mmHg] (OSMK 2021 only; the OSMK 2023 comes as an SMK set of `osmk23_at`).

    Returns
    -------
    Dataset ``alpha`` [1/Gy], ``beta`` [1/Gy2] and, for SMK and OSMK, ``zn`` [Gy].

    Raises
    ------
    IonrtError
        As `specific_energy`.

    References
    ----------
    the citation of the set.
    """
    cell = any_tissue(tissue)
    if isinstance(cell, Lem1):
        return lem1(charge, energy, let=let, tissue=cell)
    if isinstance(cell, Osmk23):
        raise IonrtError(f"{cell.name}: oxygen changes the domain itself; use its set at one pressure, osmk23_at")
    z = specific_energy(
        charge, energy, let=let, domain_radius=cell.domain_radius, nucleus_radius=cell.nucleus_radius, z0=cell.z0
    )
    resistance: Any = osmk21_resistance(z.zd, po2=po2, tissue=cell) if isinstance(cell, Osmk21) else 1.0
    intrinsic = cell.alpha_l + cell.alpha_s / resistance if isinstance(cell, Osmk21) else cell.alpha0
    stochastic = isinstance(cell, (Smk, Osmk21))
    alpha = intrinsic + cell.beta0 * z.zstar / resistance**2
    beta = cell.beta0 / resistance**2 * (z.zstar / z.zd if stochastic else xr.ones_like(z.zstar))
    attrs = {"parameter_set": cell.name, "citation": cell.citation}
    out = {"alpha": stamp(alpha, "alpha", **attrs), "beta": stamp(beta, "beta", **attrs)}
    return xr.Dataset(out | ({"zn": z.zn} if stochastic else {}))


def effect(dose: Any, *, alpha: Any, beta: Any, zn: Any = 0.0) -> Any:
    """-ln S = alpha D + beta D^2 - ln{1 + D z_n [-beta + (alpha + 2 beta D)^2 / 2]}.

    Validity: D z_n [...] small against 1.

    Parameters
    ----------
    dose : [Gy]
    alpha : [1/Gy]
    beta : [1/Gy2]
    zn : [Gy], 0 for the plain linear-quadratic model.

    Returns
    -------
    effect [1].

    References
    ----------
    Inaniwa and Kanematsu 2018, doi 10.1088/1361-6560/aabede.

    Examples
    --------
    >>> round(float(ionrt.biology.effect(2.0, alpha=0.2, beta=0.05)), 3)  # 0.2 * 2 + 0.05 * 4
    0.6
    """
    slope = alpha + 2.0 * beta * dose
    return alpha * dose + beta * dose**2 - np.log1p(dose * zn * (0.5 * slope**2 - beta))


def survival(dose: Any, *, alpha: Any, beta: Any, zn: Any = 0.0) -> Any:
    """Surviving fraction exp(-`effect`), valid as that.

    Parameters
    ----------
    dose, alpha, beta, zn : as in `effect`.

    Returns
    -------
    S [1].

    Raises
    ------
    IonrtError
        As `effect`.

    Examples
    --------
    >>> round(float(ionrt.biology.survival(2.0, alpha=0.2, beta=0.05)), 3)  # 2 Gy of photons: exp(-0.4 - 0.2)
    0.549
    """
    return np.exp(-effect(dose, alpha=alpha, beta=beta, zn=zn))


def dose_at_survival(fraction: float, *, alpha: float, beta: float, zn: float = 0.0) -> float:
    """Dose [Gy] that leaves `fraction` of the cells alive, e.g. D10 at 0.1.

    Parameters
    ----------
    fraction : in (0, 1)
    alpha : [1/Gy]
    beta : [1/Gy2]
    zn : [Gy] of one radiation.

    Returns
    -------
    Dose [Gy].

    Raises
    ------
    IonrtError
        A fraction outside (0, 1).

    References
    ----------
    as `effect`.

    Examples
    --------
    D10 of photons (0.2 1/Gy, 0.05 1/Gy2) and of an ion with four times that alpha (SYNTHETIC); their ratio is the RBE at 10 %:

    >>> photons = ionrt.biology.dose_at_survival(0.1, alpha=0.2, beta=0.05)
    >>> ions = ionrt.biology.dose_at_survival(0.1, alpha=0.8, beta=0.05)
    >>> round(photons, 2), round(ions, 2), round(photons / ions, 2)  # Gy, Gy, 1
    (5.07, 2.49, 2.04)
    """
    if not 0.0 < fraction < 1.0:
        raise IonrtError(f"fraction: expected a surviving fraction between 0 and 1, got {fraction!r}")
    target = -np.log(fraction)
    guess = 2.0 * target / (alpha + np.sqrt(alpha**2 + 4.0 * beta * target))
    if zn == 0.0:
        return float(guess)
    return float(brentq(lambda d: effect(d, alpha=alpha, beta=beta, zn=zn) - target, 0.0, 10.0 * guess, xtol=1e-12))


def energy_at_let(charge: int, let: float) -> float:
    """Energy [MeV/u] above the maximum of stopping at which an ion of `charge` [e] has this LET [keV/um] in water.

    Parameters
    ----------
    charge : [e].
    let : [keV/um].

    Returns
    -------
    Energy [MeV/u].

    Raises
    ------
    IonrtError
        Where no energy up to 1000 MeV/u has it.

    Examples
    --------
    Carbon of 13 keV/um, the usual reference plateau (nominally 290 MeV/u):

    >>> round(ionrt.biology.energy_at_let(6, 13.0))  # MeV/u
    285
    """
    symbol = ISOTOPE_OF_CHARGE[charge]
    grid = np.geomspace(0.02, 1000.0, 400)
    values = stopping_power(symbol, grid).values * 0.1
    top = int(values.argmax())
    if not values[-1] <= let <= values[top]:
        raise IonrtError(f"let: charge {charge} has {values[-1]:.3g} to {values[top]:.4g} keV/um below 1000 MeV/u, got {let:g}")
    return float(np.exp(np.interp(-np.log(let), -np.log(values[top:]), np.log(grid[top:]))))
