"""Every RBE model in plain NumPy, as the measure of `benchmarks/rbe.py`: the formula on whole arrays and the checks of a call.

The same work as the public call and nothing more: the arrays' own precision, numerators used as they are wherever the formula
allows, no dose gives no RBE-weighted dose; NaN, infinite and negative values refused with the voxel, voxels out of range
counted (by dose and LET; the second-order term of the stochastic models is not looked at, which spares NumPy a pass).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ionrt.biology import TISSUES
from ionrt.biology.oxygen import osmk23_at
from ionrt.rbe import MODELS

Formula = Callable[..., np.ndarray]


def isoeffective(effect: Any, alpha: float, beta: Any) -> Any:
    return (np.sqrt(alpha**2 + 4 * beta * effect) - alpha) / (2 * beta)


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b > 0, a / b, 0)


def mkm(d: Any, z: Any) -> Any:
    t = TISSUES["mkm_nirs"]
    return 2.41 * isoeffective(t.alpha0 * d + t.beta0 * z + t.beta0 * d**2, 0.764, t.beta0)


def lem(d: Any, a: Any, b: Any) -> Any:
    t = TISSUES["lem1_chordoma"]
    x = np.minimum(1, ratio(np.full_like(d, t.threshold), d))
    effect = a * x + (b * x) ** 2 + t.s_max * np.maximum(d - t.threshold, 0)
    bend = t.alpha_x * t.threshold + t.beta_x * t.threshold**2
    return np.where(effect <= bend, isoeffective(effect, t.alpha_x, t.beta_x), t.threshold + (effect - bend) / t.s_max)


def stochastic(d: Any, s: Any, zd: Any, zn: Any, alpha0: Any, beta0: Any, g: Any, reference: tuple[float, float]) -> Any:
    alpha, beta = alpha0 + beta0 * ratio(s, d) * g**2, beta0 * np.where(zd > 0, s / zd, 1) * g**2
    effect = alpha * d + beta * d**2 - np.log1p(zn * ((alpha + 2 * beta * d) ** 2 / 2 - beta))
    return isoeffective(effect, *reference)


def smk(d: Any, s: Any, zd: Any, zn: Any, name: str = "smk_hsg") -> Any:
    t = TISSUES[name]
    return stochastic(d, s, zd, zn, t.alpha0, t.beta0, 1.0, (t.alpha0, t.beta0))


def osmk(d: Any, s: Any, zd: Any, zn: Any, po2: float) -> Any:
    t = TISSUES["osmk21_hsg"]
    x = (ratio(zd, d) / t.z_r) ** t.gamma
    g = (po2 + t.k * (x + 1) / (x + t.r_m)) / (po2 + t.k)
    return stochastic(d, s, zd, zn, t.alpha_l + t.alpha_s * g, t.beta0, g, (t.alpha0, t.beta0))


def osmk23(d: Any, s: Any, zd: Any, zn: Any, **pressure: float) -> Any:
    t, cell = TISSUES["osmk23_cho"], osmk23_at("osmk23_cho", **pressure)
    return stochastic(d, s, zd, zn, cell.alpha0, cell.beta0, 1.0, (t.alpha0, t.beta0))


def let(a0: float, a1: float, b0: float, b1: float, b2: float) -> Formula:
    """RBEmax = a0 + a1 LETd / ab, RBEmin = b0 + (b1 / ab + b2 sqrt(ab)) LETd, both times dose."""

    def formula(d: Any, m: Any, alpha_beta: float) -> Any:
        low = b0 * d + (b1 / alpha_beta + b2 * np.sqrt(np.float32(alpha_beta))) * m if b1 or b2 else b0 * d
        return isoeffective(a0 * d + a1 / alpha_beta * m + low**2 / alpha_beta, 1.0, 1 / alpha_beta)

    return formula


def chen(d: Any, m: Any, alpha_beta: float) -> Any:
    x = ratio(m, d)
    rise = np.where(x > 0, -np.expm1(-0.0013 * x**2) / (0.045 * x), 0)
    return isoeffective(d * (0.1 + rise) / 0.1 + d**2 / alpha_beta, 1.0, 1 / alpha_beta)


def helium(d: Any, m: Any, alpha_beta: float) -> Any:
    x = ratio(m, d)
    high = 1 + (0.136938 + 1 / alpha_beta) * 9.73154e-3 * x**2 * np.exp(-1.51998e-2 * x)
    return isoeffective(d * high + d**2 / alpha_beta, 1.0, 1 / alpha_beta)


FORMULAS: dict[str, Formula] = {
    "constant": lambda d: 1.1 * d,
    "nirs_mkm": mkm,
    "lem1": lem,
    "smk": smk,
    "osmk": osmk,
    "osmk23": osmk23,
    "wedenberg": let(1.0, 0.434, 1.0, 0.0, 0.0),
    "carabe": let(0.843, 0.154 * 2.686, 1.09, 0.006 * 2.686, 0.0),
    "mcnamara": let(0.99064, 0.35605, 1.1012, 0.0, -0.0038703),
    "rorvik": let(1.0, 0.645, 1.0, 0.0, 0.0),
    "wilkens": lambda d, m, alpha_beta: isoeffective((0.1 * d + 0.02 * m) / 0.112 + d**2 / alpha_beta, 1.0, 1 / alpha_beta),
    "chen": chen,
    "linear": lambda d, m, slope: d + slope * m,
    "mairani_helium": helium,
}


def checked(name: str, *arrays: np.ndarray, **params: float) -> tuple[np.ndarray, int]:
    """Formula and the checks that the public call makes; returns values and the number of voxels out of range."""
    for a in arrays:
        usable = np.isfinite(a) & (a >= 0)
        if not usable.all():
            raise ValueError(f"{name}: {a[~usable][0]} at {np.unravel_index(usable.argmin(), a.shape)}")
    out = FORMULAS[name](*arrays, **params)
    valid = MODELS[name].validity
    if not np.isfinite(valid.dose):
        return out, 0
    outside = arrays[0] > valid.dose
    if valid.let is not None:
        outside |= arrays[1] > valid.let * arrays[0]
    return out, int(outside.sum())
