"""Local effect model I: initial slopes of ions from the photon curve and an amorphous track (rapid scheme)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ionrt.biology.specific import particle_coords, particles
from ionrt.biology.tissues import Lem1, get_tissue
from ionrt.files import content_hash
from ionrt.ions import GY_UM2
from ionrt.quantities import stamp


def track_lethal_events(energy: np.ndarray, let: np.ndarray, tissue: Lem1) -> np.ndarray:
    """Integral of -ln S over the central track's cross-section within the nucleus [um2], zone by zone in closed form."""
    core, ax, bx, s, dt = tissue.core_radius, tissue.alpha_x, tissue.beta_x, tissue.s_max, tissue.threshold
    r_max = np.maximum(tissue.r_max_coefficient * energy**1.7, core)
    k = GY_UM2 * let / (np.pi * (1.0 + 2.0 * np.log(r_max / core)))
    peak = k / core**2
    inside = np.where(peak < dt, ax * peak + bx * peak**2, s * peak - bx * dt**2) * np.pi * core**2
    r_max = np.minimum(r_max, tissue.nucleus_radius)  # what falls outside the nucleus kills nobody
    rt = np.clip(np.sqrt(k / dt), core, r_max)
    overkill = 2.0 * np.pi * s * k * np.log(rt / core) - np.pi * bx * dt**2 * (rt**2 - core**2)
    penumbra = 2.0 * np.pi * ax * k * np.log(r_max / rt) + np.pi * bx * k**2 * (1.0 / rt**2 - 1.0 / r_max**2)
    return inside + overkill + penumbra


def lem1(charge: Any, energy: Any, *, let: Any, tissue: str | Lem1) -> xr.Dataset:
    """Linear-quadratic coefficients of ions in the local effect model I (rapid scheme).

    Local dose D(r) = k / r^2 between core radius and r_max = c E^1.7, flat core; N = (1/A) int -ln S_photon(D(r)) 2 pi r dr
    over the nucleus (area A, track through its centre), d1 = GY_UM2 LET / A; alpha_z = N / d1, beta_z = max(0, (s_max -
    alpha_z) / (2 D_t)); then alpha = (1 - exp(-alpha_z d1)) / d1 and beta = (alpha / alpha_z)^2 beta_z.

    Validity: one track at a time (low dose). Energy that leaves the nucleus is lost in this scheme, so alpha of fast light ions
    falls below alpha_x (0.6 alpha_x for 200 MeV protons): for ions of high LET, not for protons.

    Parameters
    ----------
    charge : [e] (labels the result; the track depends on energy and LET)
    energy : [MeV/u]
    let : [keV/um] as in `specific_energy`
    tissue : a LEM I set or its name.

    Returns
    -------
    Dataset ``alpha`` [1/Gy], ``beta`` [1/Gy2].

    Raises
    ------
    IonrtError
        Values that are not positive, an unknown tissue.

    References
    ----------
    Kraemer and Scholz 2006, doi 10.1088/0031-9155/51/8/001.
    """
    cell = get_tissue(tissue, Lem1)
    z, e, s = particles(charge, energy, let)
    area = np.pi * cell.nucleus_radius**2
    d1 = GY_UM2 * s.values / area
    alpha_z = track_lethal_events(e.values, s.values, cell) / area / d1
    beta_z = np.maximum(0.0, (cell.s_max - alpha_z) / (2.0 * cell.threshold))
    alpha = -np.expm1(-alpha_z * d1) / d1
    beta = (alpha / alpha_z) ** 2 * beta_z
    attrs = {"parameter_set": cell.name, "parameters_hash": content_hash(cell), "citation": cell.citation}
    out = {k: stamp(z.copy(data=v), k, **attrs) for k, v in (("alpha", alpha), ("beta", beta))}
    return xr.Dataset(out, coords=particle_coords(z, e))
