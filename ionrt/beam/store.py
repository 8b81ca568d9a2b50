"""Base data on disk: kept by the hash of physics and request, written whole or not at all, cleared on demand."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import xarray as xr

from ionrt.beam.check import check_base_data
from ionrt.beam.physics.water.cells import CHARGES
from ionrt.files import atomic, cache_folder, content_hash
from ionrt.ions import IONS

_FOLDER = "basedata"
_NAME = re.compile(rf"({'|'.join(IONS)})-([0-9a-f]{{16}})\.nc")


@cache
def physics_hash() -> str:
    """Hash of everything the numbers depend on: the folder `physics` with its tables, and the isotopes."""
    folder = Path(str(files("ionrt.beam"))) / "physics"
    files_ = sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".csv", ".toml"))
    named = [part for p in files_ for part in (p.relative_to(folder).as_posix(), p.read_bytes())]
    return content_hash(*named, (folder.parents[1] / "ions.py").read_bytes())


def path_of(ion: str, key: str) -> Path:
    """Where the base data of an ion with this content key are kept."""
    return cache_folder(_FOLDER) / f"{ion}-{key}.nc"


def load(ion: str, key: str) -> xr.Dataset | None:
    """The cached dataset, or None where the file is absent, damaged or of other physics."""
    path = path_of(ion, key)
    if not path.exists():
        return None
    try:
        ds = read(path)
        return check_base_data(ds) if ds.attrs.get("content_key") == key else None
    except (OSError, KeyError, TypeError, ValueError):
        return None


def save(ds: xr.Dataset, path: Path) -> None:
    """Write base data as netCDF-3 (needs no HDF5 library) so that a killed run leaves nothing half-written."""
    slim = ds.sel(charge=slice(1, IONS[ds.attrs["ion"]].charge)) if "charge" in ds.dims else ds
    with atomic(path) as place:
        slim.to_netcdf(place, engine="scipy", format="NETCDF3_64BIT")


def _all_charges(ds: xr.Dataset) -> xr.Dataset:
    """The spectra with zeros for the charges that were not stored; reindex would take five times as long."""
    stored = ds["dose_spectrum"].transpose("energy", "node", "charge", "kinetic_energy")
    shape = (stored.sizes["energy"], stored.sizes["node"], CHARGES.size, stored.sizes["kinetic_energy"])
    whole = np.zeros(shape, stored.dtype)
    whole[:, :, stored["charge"].values.astype(int) - 1] = stored.values
    rest = ds.drop_dims("charge").assign_coords(charge=CHARGES)
    return rest.assign(dose_spectrum=(stored.dims, whole, stored.attrs))


def read(path: Path) -> xr.Dataset:
    """Read what `save` wrote, with all charges 1..10 again."""
    with xr.open_dataset(path, engine="scipy") as stored:
        ds = stored.load()
    if "charge" in ds.dims:
        ds = _all_charges(ds)
    for name in ("origin", "let_definition"):
        if name in ds.coords:
            ds[name] = ds[name].astype(str)
    if "node" in ds.coords:
        ds["node"] = ds["node"].astype(np.int64)
    return ds


def _ours(path: Path) -> str | None:
    """Hash of the physics of a file that `base_data` wrote; None for anything else."""
    name = _NAME.fullmatch(path.name)
    if not name or path.is_symlink():
        return None
    try:
        with xr.open_dataset(path, engine="scipy") as stored:
            attrs = dict(stored.attrs)
    except (OSError, KeyError, TypeError, ValueError):
        return None
    if attrs.get("ion") != name[1] or attrs.get("content_key") != name[2] or "ionrt_version" not in attrs:
        return None
    return str(attrs.get("physics", "before"))


def clear(*, everything: bool = False) -> tuple[list[Path], int]:
    """Delete cached base data that other versions of the physics wrote.

    Parameters
    ----------
    everything: delete those of the present physics as well; they are computed again when they are asked for.

    Returns
    -------
    Paths of the deleted files and their bytes in all. Files that `base_data` did not write are never touched.
    """
    folder = cache_folder(_FOLDER)
    gone, size = [], 0
    for path in sorted(folder.glob("*.nc")) if folder.is_dir() else ():
        physics = _ours(path)
        if physics is not None and (everything or physics != physics_hash()):
            size += path.stat().st_size
            path.unlink()
            gone.append(path)
    return gone, size
