"""The door for base data made elsewhere: everything the other rooms rely on is looked at here."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ionrt.ions import IONS
from ionrt.quantities import LET_DEFINITIONS, IonrtError, check, one_of

REQUIRED: dict[str, tuple[str, tuple[str, ...]]] = {
    "dose": ("depth_dose", ("energy", "depth")),
    "let_d": ("let_d", ("let_definition", "energy", "depth")),
    "sigma": ("sigma", ("energy", "depth")),
    "halo_weight": ("halo_weight", ("energy", "depth")),
    "halo_sigma": ("halo_sigma", ("energy", "depth")),
    "csda_range": ("csda_range", ("energy",)),
}
SPECTRA = {"spectrum_depth": ("energy", "node"), "dose_spectrum": ("energy", "node", "charge", "kinetic_energy")}


def check_base_data(ds: xr.Dataset) -> xr.Dataset:
    """Return base data that the planner can use; raise where something is missing, in another unit or not a number.

    Parameters
    ----------
    ds : Dataset as `base_data` returns it (dims energy, depth, let_definition; MeV/u, mm, keV/um).

    Returns
    -------
    The same Dataset. Spectra may be absent (then no RBE moments can be made from it).

    Raises
    ------
    IonrtError
        A variable, coordinate or unit is missing or wrong, a value is NaN or negative.
    """
    if not isinstance(ds, xr.Dataset):
        raise IonrtError(f"base data: expected an xarray.Dataset, got {type(ds).__name__}")
    one_of(str(ds.attrs.get("ion")), tuple(IONS), what="base data: attribute ion")
    missing = [n for n in REQUIRED if n not in ds]
    if missing:
        raise IonrtError(f"base data: {', '.join(missing)} missing; needed are {', '.join(REQUIRED)}")
    for name, (quantity, dims) in REQUIRED.items():
        check(ds[name], quantity, dims=dims, what=f"base data: {name}")
        check_values(ds[name])
    _axis(ds, "energy", "MeV/u")
    depth = _axis(ds, "depth", "mm")
    if depth[0] != 0 or np.ptp(np.diff(depth)) > 1e-6 * depth[-1]:
        raise IonrtError("base data: depth must be uniform and begin at 0 mm; resample it")
    if unknown := set(map(str, ds["let_definition"].values)) - set(LET_DEFINITIONS):
        raise IonrtError(f"base data: let_definition {sorted(unknown)} unknown; known are {', '.join(LET_DEFINITIONS)}")
    if float(ds["halo_weight"].max()) > 1:
        raise IonrtError("base data: halo_weight above 1; it is a share of the dose")
    _check_spectra(ds)
    return ds


def _check_spectra(ds: xr.Dataset) -> None:
    present = [n for n in SPECTRA if n in ds]
    if len(present) == 1:
        raise IonrtError(f"base data: {present[0]} without its partner; give both of {', '.join(SPECTRA)} or none")
    for name in present:
        if set(ds[name].dims) != set(SPECTRA[name]):
            raise IonrtError(f"base data: {name} needs dimensions {SPECTRA[name]}, got {ds[name].dims}")
        check_values(ds[name])
    if present:
        total = ds["dose_spectrum"].sum(("charge", "kinetic_energy"))
        if float(abs(total - 1).max()) > 1e-3:
            raise IonrtError("base data: dose_spectrum must sum to 1 over charge and kinetic_energy; normalise it")


def _axis(ds: xr.Dataset, name: str, unit: str) -> np.ndarray:
    if name not in ds.coords:
        raise IonrtError(f"base data: coordinate {name} missing ({unit})")
    if ds[name].attrs.get("units", unit) != unit:
        raise IonrtError(f"base data: {name} expected in {unit}, got {ds[name].attrs['units']!r}; convert it first")
    value = np.asarray(ds[name].values, float)
    if value.size < 1 or not np.all(np.isfinite(value)) or np.any(np.diff(value) <= 0):
        raise IonrtError(f"base data: {name} must be finite and ascending")
    return value


def check_values(da: xr.DataArray) -> None:
    """Raise where a variable of base data is not a number or negative."""
    value = da.values
    bad = ~np.isfinite(value)
    if bad.any():
        at = {d: int(i) for d, i in zip(da.dims, np.argwhere(bad)[0], strict=True)}
        raise IonrtError(
            f"base data: {da.name} has {int(bad.sum())} values that are not finite, the first at {at}; repair them"
        )
    if value.size and value.min() < 0:
        raise IonrtError(f"base data: {da.name} has negative values; repair them")
