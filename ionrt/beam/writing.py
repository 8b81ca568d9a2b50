"""Base data written in the formats of others: matRad machine files (.mat, version 7), netCDF-3."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.io import savemat

from ionrt.beam.check import check_base_data
from ionrt.beam.interchange import MEV_PER_MM, RADIATION
from ionrt.beam.physics.stopping import Array
from ionrt.beam.store import save
from ionrt.files import atomic
from ionrt.quantities import IonrtError, one_of

SOURCE_DISTANCE = 10000.0  # mm
SPOT_SIGMA = 3.0  # mm at the isocentre; the beam in air is the room's matter, a machine file cannot do without one


def export_netcdf(base: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write base data as netCDF-3, which every netCDF library reads; returns the path, errors as `export`."""
    out = Path(path)
    save(check_base_data(base), out)
    return out


def export_matrad(
    base: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    let_definition: str = "charged",
    spot_sigma: float = SPOT_SIGMA,
    name: str = "ionrt",
) -> Path:
    """Write base data as a matRad machine file (.mat, version 7; doi 10.1002/mp.12251) and return its path.

    Z = 10 dose [MeV cm2/g], LET = let_d [keV/um], sigma1 = sigma, sigma2 = halo_sigma, weight = halo_weight. Depths are 0.1 mm
    apart around the peak and coarser elsewhere; doses between them are linear. `machine.meta.description` names the LET
    definition; programs weight it with the dose of all particles, which for "primary" is up to 12 % off where energies meet.
    `spot_sigma` [mm] in air is the same at all distances.
    """
    check_base_data(base)
    one_of(let_definition, tuple(str(d) for d in base["let_definition"].values), what="let_definition")
    if not (np.isfinite(spot_sigma) and spot_sigma > 0):
        raise IonrtError(f"spot_sigma: expected a positive number in mm, got {spot_sigma}")
    entries = [_entry(base.isel(energy=i), let_definition, spot_sigma) for i in range(base.sizes["energy"])]
    ion = str(base.attrs["ion"])
    meta = {
        "radiationMode": RADIATION[ion],
        "dataType": "doubleGauss",
        "created_by": f"ionrt {base.attrs.get('ionrt_version', '')}",
        "description": f"{ion} in water; LET is dose-averaged, {let_definition}; Z in MeV cm2/g per primary",
        "SAD": SOURCE_DISTANCE,
        "BAMStoIsoDist": 1000.0,
        "machine": name,
        "LUT_bxWidthminFWHM": np.array([[1.0, 1e6], [1.0, 1.0]]),
        "fitAirOffset": 0.0,
    }
    data = np.zeros(len(entries), dtype=[(k, object) for k in entries[0]])
    for i, entry in enumerate(entries):
        data[i] = tuple(entry.values())
    with atomic(Path(path)) as place, place.open("wb") as file:
        savemat(file, {"machine": {"meta": meta, "data": data}}, do_compression=True, long_field_names=True)
    return Path(path)


def _entry(one: xr.Dataset, let_definition: str, spot_sigma: float) -> dict[str, Any]:
    """One element of machine.data."""
    all_depths = one["depth"].values.astype(float)
    dose = one["dose"].values.astype(float)
    peak = int(dose.argmax())
    depth = all_depths[_chosen(all_depths, all_depths[peak])]

    def column(da: xr.DataArray) -> Array:
        value: Array = np.interp(depth, all_depths, da.values.astype(float))
        return value[:, None]

    distance = np.array([0.0, 2 * SOURCE_DISTANCE])
    return {
        "energy": float(one["energy"]),
        "range": float(one["csda_range"]),
        "peakPos": float(all_depths[peak]),
        "offset": 0.0,
        "depths": depth[:, None],
        "Z": MEV_PER_MM * column(one["dose"]),
        "LET": column(one["let_d"].sel(let_definition=let_definition)),
        "sigma1": column(one["sigma"]),
        "sigma2": column(one["halo_sigma"]),
        "weight": column(one["halo_weight"]),
        "initFocus": {"dist": distance, "sigma": np.full(2, spot_sigma), "SisFWHMAtIso": 2.3548 * spot_sigma},
    }


def _chosen(depth: Array, peak: float) -> np.ndarray:
    """Indices of 0.1 mm at the surface and around the peak, 0.5 mm in the plateau, 2 mm in the tail: a tenth of the file."""
    near = (depth < 20) | (depth > peak - 15) & (depth < peak + 10)
    every = np.arange(depth.size)
    keep = near | (every % 5 == 0) & (depth < peak) | (every % 20 == 0) | (every == depth.size - 1)
    return np.flatnonzero(keep)


EXPORT: dict[str, Callable[[xr.Dataset, Path], Path]] = {".nc": export_netcdf, ".mat": export_matrad}


def export(base: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write base data in the format that the ending of `path` names.

    Parameters
    ----------
    base : Dataset as `base_data` returns it (energy [MeV/u], depth [mm])
    path : ends in ".nc" (netCDF) or ".mat" (matRad machine file).

    Returns
    -------
    Path of the file.

    Raises
    ------
    IonrtError
        Another ending; base data that `check_base_data` refuses.
    """
    ending = Path(path).suffix
    if ending not in EXPORT:
        raise IonrtError(f"{path}: expected a name that ends in {' or '.join(EXPORT)}, got {ending!r}")
    return EXPORT[ending](base, Path(path))
