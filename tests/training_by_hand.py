"""Expected values once more, without the functions that computed them: formulas written out, integrals as plain sums.

What remains ionrt's own: the transport (spectra and depth doses of base data, held against measurements in
`test_beam_reference.py`) and the weights of the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product

import numpy as np
import training_answers
from scipy.optimize import brentq
from scipy.special import ndtr

GY = 0.1602176634  # Gy per keV/um2 in water
CHARGE = {"He": 2, "C": 6, "O": 8, "Ne": 10}
MASS = (1, 4, 7, 9, 11, 12, 14, 16, 19, 20)  # most abundant, by charge


def bethe(charge: float, energy: np.ndarray) -> np.ndarray:
    """LET [keV/um] in water: Bethe, I = 78 eV, effective charge after Pierce and Blann 1968 (doi 10.1103/PhysRev.173.390)."""
    gamma = 1 + np.asarray(energy, float) / 931.494
    beta2 = 1 - 1 / gamma**2
    effective = charge * (1 - np.exp(-0.95 * 137 * np.sqrt(beta2) * charge ** (-2 / 3)))
    return 0.1 * 0.17045 * effective**2 / beta2 * (np.log(2 * 0.510999e6 * beta2 * gamma**2 / 78.0) - beta2)


@cache
def spectrum(ion: str, depth: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dose [Gy] by charge and energy at a depth of the field, with its charges and energies [MeV/u]."""
    base, weights = training_answers._bases(ion)
    total = 0.0
    for one, weight in zip(base.energy.values, weights.values, strict=True):
        layer = base.sel(energy=one)
        dose = weight * 1.602176634e-7 * np.interp(depth, layer.depth, layer.dose)
        nodes = layer.spectrum_depth.values
        k = min(max(np.searchsorted(nodes, depth), 1), nodes.size - 1)
        far = np.clip((depth - nodes[k - 1]) / (nodes[k] - nodes[k - 1]), 0, 1)
        near, behind = (layer.dose_spectrum.transpose("node", "charge", "kinetic_energy").values[j] for j in (k - 1, k))
        parts = [s / s.sum() for s in (near, behind) if s.sum() > 0]
        if parts:
            total = total + dose * (parts[0] if len(parts) == 1 else (1 - far) * parts[0] + far * parts[1])
    return total, base.charge.values, base.kinetic_energy.values


def mean(ion: str, depth: float, value: Callable[[int, np.ndarray], np.ndarray]) -> float:
    """Dose mean of a value of charge and energy."""
    dose, charges, energy = spectrum(ion, depth)
    return float(sum((d * value(int(z), energy)).sum() for d, z in zip(dose, charges, strict=True)) / dose.sum())


def let_charged(ion: str, depth: float = 130.0) -> float:
    return mean(ion, depth, bethe)


def let_primary(ion: str, depth: float = 130.0) -> float:
    """Primaries alone: each layer as an energy behind `depth` of water, smeared by the ripple filter; no transport."""
    base, weights = training_answers._bases(ion)
    charge, energy = CHARGE[ion], np.geomspace(0.1, 500, 4000)
    let = bethe(charge, energy)
    step = MASS[charge - 1] * np.diff(energy) / (0.5 * (let[1:] + let[:-1]))  # MeV per keV/um is mm
    reach, once, twice = (np.concatenate([[0.0], np.cumsum(step * 0.5 * (v[1:] + v[:-1]))]) for v in (let**0, let, let**2))
    first = second = 0.0
    edges = np.linspace(-4, 4, 402)
    share = np.diff(ndtr(edges))
    for whole, weight in zip(base.csda_range.values, weights.values, strict=True):
        sigma = np.hypot(1.2, 0.120 * (whole / 10) ** 0.951 / np.sqrt(MASS[charge - 1]))  # ripple and straggling
        left = np.maximum(whole - depth + sigma * edges, 0.0)
        for total, integral in (("first", once), ("second", twice)):
            got = weight * (share * np.diff(np.interp(left, reach, integral))).sum() / (sigma * (edges[1] - edges[0]))
            first, second = (first + got, second) if total == "first" else (first, second + got)
    return second / first


@cache
def zstar(charge: int, energy: float, let: float) -> float:
    """Saturation-corrected specific energy [Gy] of a Kiefer-Chatterjee track in a domain of 0.32 um (Inaniwa 2010), by sums."""
    radius, nucleus, beta0 = 0.32, 3.9, 0.0615
    z0 = (nucleus / radius) ** 2 / np.sqrt(beta0 * (1 + (nucleus / radius) ** 2))
    beta = np.sqrt(1 - 1 / (1 + energy / 931.494) ** 2)
    core, penumbra = 0.0116 * beta, max(0.0616 * energy**1.7, 0.0116 * beta)
    k = 1.25e-4 * (charge * (1 - np.exp(-125 * beta * charge ** (-2 / 3))) / beta) ** 2
    inner = (GY * let - 2 * np.pi * k * np.log(penumbra / core)) / (np.pi * core**2)
    r = np.geomspace(core / 60, penumbra, 3000)
    middle, width = np.sqrt(r[1:] * r[:-1]), np.diff(r)
    dose = np.where(middle < core, inner, k / middle**2)
    b = np.unique(np.concatenate([np.linspace(1e-4, 2 * radius, 240), np.geomspace(2 * radius, penumbra + radius, 80)]))
    cosine = (middle**2 + b[:, None] ** 2 - radius**2) / (2 * middle * b[:, None])
    z1 = (dose * 2 * np.arccos(np.clip(cosine, -1, 1)) * middle * width).sum(axis=1) / (np.pi * radius**2)
    first = np.trapezoid(z1 * b, b)
    return float(np.trapezoid(z0**2 * -np.expm1(-((z1 / z0) ** 2)) * b, b) / first)


def d10(charge: int) -> float:
    energy = brentq(lambda e: bethe(charge, e) - 70.0, 0.05 * charge**2, 100 * charge)
    alpha = 0.172 + 0.0615 * zstar(charge, energy, 70.0)
    return (np.sqrt(alpha**2 + 4 * 0.0615 * np.log(10)) - alpha) / (2 * 0.0615)


def zstars(charge: int, energy: np.ndarray) -> np.ndarray:
    coarse = np.geomspace(0.5, 600, 24)
    table = [zstar(charge, float(e), float(bethe(charge, e))) for e in coarse]
    return np.interp(np.log(energy), np.log(coarse), table)


def nirs(dose: float, z: float) -> float:
    """Inaniwa 2015: clinical dose of the reference carbon beam, alpha 0.764, factor 2.41."""
    effect = (0.172 + 0.0615 * z) * dose + 0.0615 * dose**2
    return 2.41 * (np.sqrt(0.764**2 + 4 * 0.0615 * effect) - 0.764) / (2 * 0.0615)


def physical(ion: str, depth: float = 130.0, clinical: float = 3.6) -> float:
    """Dose of this radiation that has the clinical dose."""
    z = mean(ion, depth, zstars)
    return brentq(lambda dose: nirs(dose, z) - clinical, 0.01, 10.0)


def lem_slopes(charge: int, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """LEM I, chordoma (0.1, 0.05, threshold 30 Gy, nucleus 5 um): one track through the middle of the nucleus."""
    alpha, beta, threshold, nucleus, core, s_max = 0.1, 0.05, 30.0, 5.0, 0.01, 0.1 + 2 * 0.05 * 30.0
    found = []
    for e in energy:
        let, reach = float(bethe(charge, e)), max(0.062 * e**1.7, core)
        k = GY * let / (np.pi * (1 + 2 * np.log(reach / core)))
        r = np.concatenate([np.linspace(0, core, 50), np.geomspace(core, min(reach, nucleus), 3000)[1:]])
        dose = k / np.maximum(r, core) ** 2
        over = alpha * threshold + beta * threshold**2 + s_max * (dose - threshold)
        lethal = np.trapezoid(np.where(dose < threshold, alpha * dose + beta * dose**2, over) * 2 * np.pi * r, r)
        area = np.pi * nucleus**2
        hit = GY * let / area
        slope = lethal / area / hit
        initial = -np.expm1(-slope * hit) / hit
        found.append((initial, (initial / slope) ** 2 * max(0.0, (s_max - slope) / (2 * threshold))))
    first, second = np.array(found).T
    return first, np.sqrt(second)


def lem(ion: str, depth: float, dose: float) -> float:
    """RBE-weighted dose of LEM I below its threshold, sets mixed by dose (Zaider and Rossi 1980)."""
    coarse = np.geomspace(1.0, 600, 40)
    tables = {z: lem_slopes(z, coarse) for z in range(1, 11)}
    a, b = (
        mean(ion, depth, lambda z, e, i=i: np.interp(np.log(np.maximum(e, 1.0)), np.log(coarse), tables[z][i])) for i in (0, 1)
    )
    return (np.sqrt(0.1**2 + 4 * 0.05 * (a * dose + (b * dose) ** 2)) - 0.1) / (2 * 0.05)


def factor(ion: str) -> float:
    return lem(ion, 130.0, physical(ion)) / 3.6


def factor_before(ion: str, depth: float = 20.0) -> float:
    """In front of the target: the dose there from its ratio to the middle."""
    dose = physical(ion) * spectrum(ion, depth)[0].sum() / spectrum(ion, 130.0)[0].sum()
    return lem(ion, depth, dose) / nirs(dose, mean(ion, depth, zstars))


def gamma_share(percent: float, distance: float) -> float:
    """Share [%] of a Gaussian (sigma 12 mm) shifted by 3 mm that passes, every point against every other on a fine grid."""
    x, fine = np.arange(-48.0, 49.0), np.arange(-52.0, 52.0, 0.1)
    dose = lambda at, shift: np.exp(-((at - shift) ** 2) / (2 * 12.0**2))  # noqa: E731
    inside = dose(x, 0) >= 0.1
    difference = (dose(fine, 3.0) - dose(x, 0)[:, None]) / (percent / 100)
    away = (fine - x[:, None]) / distance
    return 100 * float((np.hypot(difference, away).min(axis=1) <= 1)[inside].mean())


def blank_cells(men: int = 11, women: int = 1, smallest: int = 10) -> int:
    """Fewest cells to leave blank so that the sum of the row gives none away that is small."""
    ways = [
        gone
        for gone in product((False, True), repeat=2)
        if all(hidden or n >= smallest for hidden, n in zip(gone, (men, women), strict=True)) and sum(gone) != 1
    ]
    return min(map(sum, ways))


ANSWERS = {
    "T03.1": lambda: let_charged("C"),
    "T03.3": lambda: let_charged("Ne"),
    "T03.4": lambda: let_charged("O") / let_charged("C"),
    "T04.1": lambda: d10(6),
    "T04.2": lambda: d10(2),
    "T04.3": lambda: d10(10),
    "T05.1": lambda: physical("C"),
    "T05.2": lambda: factor("C"),
    "T05.3": lambda: factor_before("C"),
    "T05.4": lambda: factor("Ne"),
    "T07.3": lambda: min(97, 94, 88),
    "T10.1": blank_cells,
}
