"""Specific energies of single events: z* (saturation-corrected), z_d (domain), z_n (nucleus)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import xarray as xr

from ionrt.biology import track as kc
from ionrt.biology.track import KieferChatterjee
from ionrt.files import content_hash
from ionrt.quantities import IonrtError, stamp

TRACK = KieferChatterjee()
OUTER, INNER = 16, 24  # Gauss-Legendre points per piece of b, and along the disk's edge
_REFERENCE = "Kase et al. 2008, doi 10.1088/0031-9155/53/1/003; Inaniwa and Kanematsu 2018, doi 10.1088/1361-6560/aabede"


@cache
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return nodes, weights


def particles(charge: Any, energy: Any, let: Any) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Charge, energy and LET on common dimensions: labelled input by name, plain arrays like numpy (last dim energy)."""
    labelled = []
    for value, name in ((charge, "charge"), (energy, "energy"), (let, "let")):
        if isinstance(value, xr.DataArray):
            labelled.append(value.astype(float))
            continue
        array = np.asarray(value, float)
        if array.ndim > 2:
            raise IonrtError(f"{name}: expected a number, a list or a (charge, energy) table, got shape {array.shape}")
        labelled.append(xr.DataArray(array, dims=("charge", "energy")[2 - array.ndim :]))
    named = [any(d in v.coords for d in v.dims) for v in labelled]
    if not any(named):
        shapes = [v.shape for v in labelled]
        try:
            plain = np.broadcast_arrays(*(v.values for v in labelled))
        except ValueError:
            raise IonrtError(
                f"charge, energy, let: shapes {shapes} do not fit together; give let as (charge, energy)"
            ) from None
        dims = ("charge", "energy")[2 - plain[0].ndim :]
        labelled = [xr.DataArray(p, dims=dims) for p in plain]
    try:
        z, e, s = xr.broadcast(*xr.align(*labelled, join="exact"))
    except ValueError as error:
        raise IonrtError(f"charge, energy, let: labels do not fit together: {error}") from None
    for v, name in ((z, "charge"), (e, "energy [MeV/u]"), (s, "let [keV/um]")):
        if not bool(((v > 0) & np.isfinite(v)).all()):
            raise IonrtError(
                f"{name}: expected positive finite numbers, got {float(v.where(~(v > 0), drop=True).values.flat[0]):g}"
            )
    return z, e, s


def _cylinder(z: Any, e: Any, s: Any, radius: float, z0: float, track: KieferChatterjee, points: tuple[int, int]) -> np.ndarray:
    """(closure, z_d, z*) per particle; refuses a cylinder no larger than the core, and an LET below the penumbra's."""
    if not radius > 0.03:
        raise IonrtError(f"radius: expected more than 0.03 um (beyond the track core), got {radius!r}")
    flat = [np.ascontiguousarray(v.values, dtype=float).reshape(-1) for v in (z, e, s)]
    shape = np.empty((flat[0].size, 4))
    kc.core_dose(*flat, track.constants, shape)
    if (shape[:, 3] < 0).any():
        i = int(shape[:, 3].argmin())
        raise IonrtError(
            f"let: {flat[2][i]:g} keV/um at charge {flat[0][i]:g}, {flat[1][i]:g} MeV/u is less than the penumbra of its track "
            "carries; give the unrestricted LET in water"
        )
    out = np.empty((flat[0].size, 3))
    outer, inner = points
    kc.integrals(*flat, float(radius), float(z0), track.constants, *_legendre(outer), *_legendre(inner), out)
    return out.reshape(*z.shape, 3)


def specific_energy(
    charge: Any,
    energy: Any,
    *,
    let: Any,
    domain_radius: float,
    nucleus_radius: float,
    z0: float,
    track: KieferChatterjee = TRACK,
    points: tuple[int, int] = (OUTER, INNER),
) -> xr.Dataset:
    """Dose-mean specific energies of single ions in a domain and in the nucleus.

    z_d = int z1^2 b db / int z1 b db and z* = int z0^2 [1 - exp(-z1^2/z0^2)] b db / int z1 b db in a cylinder of the
    domain's radius, z_n as z_d in one of the nucleus's; int z1 b db = GY_UM2 LET / (2 pi) exactly.

    Validity: about 0.1 to 1000 MeV/u, bare ions in water.

    Parameters
    ----------
    charge : [e]
    energy : [MeV/u], numbers, arrays that broadcast like numpy (last dimension energy) or labelled arrays
    let : [keV/um] unrestricted in water, of their shape
    domain_radius, nucleus_radius : [um]
    z0 : [Gy]
    track : the constants of the track
    points : Gauss-Legendre points (per piece of the impact parameter, along the disk's edge).

    Returns
    -------
    Dataset ``zstar``, ``zd``, ``zn`` [Gy] of the common shape.

    Raises
    ------
    IonrtError
        Values that are not positive, a radius within the track core, an LET below that of the penumbra.

    References
    ----------
    Kase et al. 2008, doi 10.1088/0031-9155/53/1/003.
    """
    if not z0 > 0:
        raise IonrtError(f"z0: expected a positive number of Gy, got {z0!r}")
    z, e, s = particles(charge, energy, let)
    domain = _cylinder(z, e, s, domain_radius, z0, track, points)
    nucleus = _cylinder(z, e, s, nucleus_radius, z0, track, points)
    attrs = {
        "parameters": f"domain_radius={domain_radius:g} um, nucleus_radius={nucleus_radius:g} um, z0={z0:g} Gy",
        "parameters_hash": content_hash(domain_radius, nucleus_radius, z0, track),
        "citation": _REFERENCE,
    }
    values = {"zstar": domain[..., 2], "zd": domain[..., 1], "zn": nucleus[..., 1]}
    out = {k: stamp(z.copy(data=v), k, **attrs) for k, v in values.items()}
    return xr.Dataset(out, coords=particle_coords(z, e))


def particle_coords(z: xr.DataArray, e: xr.DataArray) -> dict[str, Any]:
    """Charge and energy as coordinates, where the input carried none."""
    if z.coords:
        return {str(k): v for k, v in z.coords.items()}
    if z.ndim < 2:
        return {"charge": z.variable, "energy": e.variable}
    return {"charge": z.values[:, 0], "energy": e.values[0]}


def single_event_dose(
    charge: float, energy: float, *, let: float, radius: float, impact_parameter: Any, track: KieferChatterjee = TRACK
) -> xr.DataArray:
    """Mean dose z1(b) [Gy] that one ion gives to a cylinder of `radius` [um] parallel to its track, b [um] away.

    `energy` [MeV/u], `let` [keV/um]. Kase et al. 2008, doi 10.1088/0031-9155/53/1/003.
    """
    b = np.atleast_1d(np.asarray(impact_parameter, float))
    particles(charge, energy, let)
    out = np.empty_like(b)
    kc.profile(float(charge), float(energy), float(let), float(radius), b, track.constants, *_legendre(INNER), out)
    return stamp(xr.DataArray(out, dims="impact_parameter", coords={"impact_parameter": b}), "zd", citation=_REFERENCE)


def closure(charge: Any, energy: Any, *, let: Any, radius: float, track: KieferChatterjee = TRACK) -> xr.DataArray:
    """Integrated single-event energy over its exact value GY_UM2 LET / (2 pi): 1 where the quadrature is right.

    Parameters as for `specific_energy`; `radius` [um]. Returns: ratio [1] of the common shape.
    """
    z, e, s = particles(charge, energy, let)
    return z.copy(data=_cylinder(z, e, s, radius, 1.0, track, (OUTER, INNER))[..., 0]).rename("closure")
