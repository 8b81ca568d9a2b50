"""Base data of an ion over its machine energies: built in parallel, cached on disk by the hash of physics and request."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ionrt import __version__
from ionrt.beam import store
from ionrt.beam.physics.stopping import energies
from ionrt.beam.physics.water.broad_beam import CITATION
from ionrt.beam.physics.water.machine import ENERGY_SPREAD, build, machine_energies
from ionrt.files import DiskError, content_hash
from ionrt.ions import IONS
from ionrt.parallel import whole_cluster
from ionrt.quantities import IonrtError, one_of


def base_data(
    ion: str,
    *,
    energy: ArrayLike | None = None,
    energy_spread: float = ENERGY_SPREAD,
    ripple_sigma: float = 0.0,
    range_shifter: float = 0.0,
    progress: bool | None = None,
) -> xr.Dataset:
    """Base data of an ion over its machine energies, from the cache on disk or computed now.

    Parameters
    ----------
    ion : "p", "He", "C", "O", "Ne"
    energy : (energy,) [MeV/u] machine energies, ascending; default: range steps of at most 2 mm from 50 MeV/u to 250 (p, He) or
        430 MeV/u (C, O, Ne)
    energy_spread : [1] relative standard deviation of the energy
    ripple_sigma : [mm] standard deviation of range added by a ripple filter
    range_shifter : [mm] of water in front of depth 0
    progress : show a progress bar; default: when in a terminal.

    Returns
    -------
    Dataset with dims energy, depth (mm, 0.1 mm steps), let_definition, charge, kinetic_energy, origin, node:
    dose, dose_by_origin (MeV/mm per primary), let_d, let_t (keV/um), sigma, halo_weight, halo_sigma (mm, 1, mm),
    csda_range (mm), spectrum_depth (mm) and dose_spectrum (shares that sum to 1), energy_neutral and energy_beyond (MeV).

    Raises
    ------
    IonrtError
        Unknown ion, energies outside the limits or not ascending, negative options.

    References
    ----------
    See ionrt/beam/physics/tables/README.md.
    """
    one_of(ion, tuple(IONS), what="ion")
    value = machine_energies(ion) if energy is None else energies(energy, low=20.0, high=500.0 if ion != "p" else 300.0)
    if np.any(np.diff(value) <= 0):
        raise IonrtError("energy: expected ascending machine energies in MeV/u; sort them first")
    options = {"energy_spread": energy_spread, "ripple_sigma": ripple_sigma, "range_shifter": range_shifter}
    for name, number in options.items():
        if not (np.isfinite(number) and number >= 0):
            raise IonrtError(f"{name}: expected a number >= 0, got {number}")
    physics = store.physics_hash()
    key = content_hash(ion, value, sorted(options.items()), physics)
    cached = store.load(ion, key)
    if cached is not None:
        return cached
    with whole_cluster():
        ds = build(ion, value, options, progress=progress)
    ds.attrs = {
        "ion": ion,
        **options,
        "let": "computed from ionrt's own stopping powers",
        "citation": CITATION,
        "content_key": key,
        "physics": physics,
        "ionrt_version": __version__,
    }
    try:
        store.save(ds, store.path_of(ion, key), sealed=True)
    except DiskError as error:
        text = f"base data of {ion} will be computed again ({error}); set IONRT_CACHE to a folder with room"
        warnings.warn(text, stacklevel=2)
    return ds
