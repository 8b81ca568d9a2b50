"""Kiefer-Chatterjee track structure and its integrals over a cylinder: specific energy of single events."""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, asinh, atan2, cos, exp, expm1, log, log1p, pi, sin, sinh, sqrt
from typing import Any

import numpy as np
from numba import njit

from ionrt.ions import GY_UM2

_U = 931.494  # MeV, as the track model was published
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@dataclass(frozen=True)
class KieferChatterjee:
    """Constants of the track: core radius c beta [um], penumbra radius p E^exponent [um], K_p = k (z_eff / beta)^2 [Gy um2].

    z_eff = Z (1 - exp(-barkas beta Z^(-2/3))). Reference: Kase et al. 2008, doi 10.1088/0031-9155/53/1/003.
    """

    core: float = 0.0116
    penumbra: float = 0.0616
    exponent: float = 1.7
    k: float = 1.25e-4
    barkas: float = 125.0

    @property
    def constants(self) -> tuple[float, ...]:
        """The numbers in the order the kernels take them."""
        return self.core, self.penumbra, self.exponent, self.k, self.barkas


@njit(**_OPTIONS)
def _track(charge, energy, let, core, penumbra, exponent, k, barkas):
    """Core and penumbra radius [um], K_p [Gy um2], core dose [Gy]."""
    beta = sqrt(1.0 - 1.0 / (1.0 + energy / _U) ** 2)
    rc = core * beta
    rp = max(penumbra * energy**exponent, rc)
    effective = charge * -expm1(-barkas * beta * charge ** (-2.0 / 3.0))
    kp = k * (effective / beta) ** 2
    return rc, rp, kp, (GY_UM2 * let - 2.0 * pi * kp * log(rp / rc)) / (pi * rc * rc)


@njit(**_OPTIONS)
def _segment(radius, angle):
    """Area of a circular segment of half-angle `angle`; the series avoids the cancellation at small angles."""
    x = 2.0 * angle
    if x < 0.1:
        return 0.5 * radius * radius * x**3 / 6.0 * (1.0 - x * x / 20.0 * (1.0 - x * x / 42.0 * (1.0 - x * x / 72.0)))
    return 0.5 * radius * radius * (x - sin(x))


@njit(**_OPTIONS)
def _lens(b, radius, core):
    """Area common to a disk of `radius` at distance `b` and the core disk (core < radius)."""
    if b >= radius + core:
        return 0.0
    if b <= radius - core:
        return pi * core * core
    product = (core + radius - b) * (b + core - radius) * (b - core + radius) * (b + core + radius)
    chord = sqrt(max(product, 0.0)) / (2.0 * b)
    angle_core = atan2(chord, (b * b + core * core - radius * radius) / (2.0 * b))
    angle_disk = atan2(chord, (b * b + radius * radius - core * core) / (2.0 * b))
    return _segment(core, angle_core) + _segment(radius, angle_disk)


@njit(**_OPTIONS)
def _beyond(b, radius, rho, nodes, weights):
    """Integral of 1/r^2 over the part of the disk (radius, at distance b) with r > rho.

    Closed unless the circle rho cuts the disk; then the divergence theorem leaves one integral along the disk's edge, taken on
    eta = eps sinh t, which grades the points toward the track.
    """
    if rho >= b + radius:
        return 0.0
    apart = abs(radius - b)
    if rho <= apart:
        if b < radius:
            return pi * log((radius - b) * (radius + b) / (rho * rho))
        return -pi * log1p(-((radius / b) ** 2))
    product = radius * b
    start = 2.0 * asin(min(1.0, sqrt((rho - apart) * (rho + apart) / (4.0 * product))))
    eps = rho / sqrt(product)
    t0, t1 = asinh(start / eps), asinh(pi / eps)
    total, half = 0.0, 0.5 * (t1 - t0)
    difference = (radius - b) * (radius + b)
    for j in range(nodes.size):
        t = t0 + half * (1.0 + nodes[j])
        eta = eps * sinh(t)
        r2 = apart * apart + 4.0 * product * sin(0.5 * eta) ** 2
        total += weights[j] * log(r2 / (rho * rho)) * (1.0 + difference / r2) * sqrt(eps * eps + eta * eta)
    return 0.5 * half * total


@njit(**_OPTIONS)
def _z1(b, radius, rc, rp, kp, dc, nodes, weights):
    """Mean dose [Gy] that one track at impact parameter b [um] gives to a cylinder of `radius` parallel to it."""
    penumbra = _beyond(b, radius, rc, nodes, weights) - _beyond(b, radius, rp, nodes, weights)
    return (dc * _lens(b, radius, rc) + kp * penumbra) / (pi * radius * radius)


@njit(**_OPTIONS)
def _moments(radius, z0, rc, rp, kp, dc, outer, outer_w, inner, inner_w):
    """Integrals over b db of z1, z1^2 and z0^2 (1 - exp(-z1^2 / z0^2)).

    Pieces end where z1 has a kink; each is graded toward the cylinder's edge (b = R -+ e^t) and mapped by a cosine, which
    removes the half powers at its ends.
    """
    cuts = np.sort(np.array([0.0, radius - rc, abs(rp - radius), radius + rc, rp + radius]))
    first, second, saturated = 0.0, 0.0, 0.0
    for i in range(cuts.size - 1):
        low, high = cuts[i], cuts[i + 1]
        if high - low <= 1e-13 * high:
            continue
        middle = 0.5 * (low + high)
        side = 0.0 if abs(middle - radius) < rc else (1.0 if middle > radius else -1.0)
        u0, u1 = low, high
        if side != 0.0:
            u0, u1 = log(abs(low - radius)), log(abs(high - radius))
        panels = max(1, int(abs(u1 - u0) / 2.5 + 1.0)) if side != 0.0 else 1
        step = (u1 - u0) / panels
        for p in range(panels):
            for j in range(outer.size):
                phi = 0.5 * pi * (1.0 + outer[j])
                u = u0 + step * (p + 0.5 * (1.0 - cos(phi)))
                jacobian = 0.25 * pi * sin(phi) * abs(step) * outer_w[j]
                b = u
                if side != 0.0:
                    b = radius + side * exp(u)
                    jacobian *= exp(u)
                z = _z1(b, radius, rc, rp, kp, dc, inner, inner_w)
                first += jacobian * b * z
                second += jacobian * b * z * z
                saturated += jacobian * b * z0 * z0 * -expm1(-((z / z0) ** 2))
    return first, second, saturated


@njit(**_OPTIONS)
def integrals(charge, energy, let, radius, z0, constants, outer, outer_w, inner, inner_w, out):
    """`out[i]` = (closure, z_d, z*) of particle i in a cylinder of `radius`; the exact denominator is GY_UM2 LET / (2 pi)."""
    for i in range(charge.size):
        rc, rp, kp, dc = _track(charge[i], energy[i], let[i], *constants)
        first, second, saturated = _moments(radius, z0, rc, rp, kp, dc, outer, outer_w, inner, inner_w)
        exact = GY_UM2 * let[i] / (2.0 * pi)
        out[i, 0], out[i, 1], out[i, 2] = first / exact, second / exact, saturated / exact


@njit(**_OPTIONS)
def profile(charge, energy, let, radius, b, constants, inner, inner_w, out):
    """`out[i]` = z1(b[i]) [Gy] of one particle."""
    rc, rp, kp, dc = _track(charge, energy, let, *constants)
    for i in range(b.size):
        out[i] = _z1(b[i], radius, rc, rp, kp, dc, inner, inner_w)


@njit(**_OPTIONS)
def core_dose(charge, energy, let, constants, out):
    """`out[i]` = (core radius, penumbra radius, K_p, core dose) of particle i."""
    for i in range(charge.size):
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = _track(charge[i], energy[i], let[i], *constants)
