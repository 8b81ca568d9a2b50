"""Base data on disk: kept by the hash of physics and request, written whole or not at all, cleared on demand."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import xarray as xr

from ionrt.beam.check import check_base_data
from ionrt.beam.physics.water.cells import CHARGES
from ionrt.files import atomic, cache_folder, content_hash, read_sealed, sources, write_sealed
from ionrt.ions import IONS
from ionrt.quantities import IonrtError

_FOLDER, _CONTENT = "basedata", "content_hash"
_NAME = re.compile(rf"({'|'.join(IONS)})-([0-9a-f]{{16}})\.nc")


@cache
def physics_hash() -> str:
    """Hash of everything the numbers depend on: the folder `physics` with its tables, and the isotopes."""
    folder = Path(str(files("ionrt.beam"))) / "physics"
    return content_hash(*sources(folder), (folder.parents[1] / "ions.py").read_bytes())


def path_of(ion: str, key: str) -> Path:
    """Where the base data of an ion with this content key are kept."""
    return cache_folder(_FOLDER) / f"{ion}-{key}.nc"


def load(ion: str, key: str) -> xr.Dataset | None:
    """The cached dataset, or None where the file is absent, damaged or of other physics."""
    content = read_sealed(path_of(ion, key))
    if content is None:
        return None
    ds = read(BytesIO(content))
    return check_base_data(ds) if ds.attrs.get("content_key") == key else None


def save(ds: xr.Dataset, path: Path, *, sealed: bool = False) -> None:
    """Write base data as netCDF-3 (needs no HDF5 library), whole or not at all; `sealed` for the cache."""
    slim = ds.sel(charge=slice(1, IONS[ds.attrs["ion"]].charge)) if "charge" in ds.dims else ds
    if not sealed:
        slim = slim.assign_attrs({_CONTENT: _fingerprint(slim)})
    content = bytes(slim.to_netcdf(None, engine="scipy", format="NETCDF3_64BIT"))
    if sealed:
        write_sealed(path, content)
        return
    with atomic(path) as place:
        place.write_bytes(content)


def read_file(path: Path) -> xr.Dataset:
    """Base data from a netCDF file of a user, checked; one that `save` wrote has to hold what was written, bit by bit.

    Raises IonrtError for a file that no library reads, that is damaged, or that `check_base_data` refuses.
    """
    try:
        ours = path.read_bytes()[:3] == b"CDF"  # netCDF-3
        ds = xr.load_dataset(path, engine="scipy" if ours else None)
    except Exception as error:  # a damaged file makes the readers below raise whatever they meet first
        raise IonrtError(f"{path.name}: cannot be read as netCDF ({type(error).__name__}); take a fresh copy") from None
    if ds.attrs.get(_CONTENT, _fingerprint(ds)) != _fingerprint(ds):
        raise IonrtError(
            f"{path.name}: is not as ionrt wrote it; take a fresh copy (changed on purpose: remove its attribute {_CONTENT})"
        )
    return _restored(check_base_data(ds))


def _fingerprint(ds: xr.Dataset) -> str:
    """A hash of names, dimensions, numbers and texts that stays the same in netCDF-3, which has fewer types."""
    parts: list[object] = [sorted((k, v) for k, v in ds.attrs.items() if isinstance(v, str) and k != _CONTENT)]
    for name in sorted(map(str, ds.variables)):
        one = ds.variables[name]
        parts += [name, one.dims, sorted((k, v) for k, v in one.attrs.items() if isinstance(v, str))]
        parts.append(one.values.astype(float) if one.dtype.kind in "fiu" else [str(v) for v in one.values.ravel()])
    return content_hash(*parts)


def _all_charges(ds: xr.Dataset) -> xr.Dataset:
    """The spectra with zeros for the charges that were not stored; reindex would take five times as long."""
    stored = ds["dose_spectrum"].transpose("energy", "node", "charge", "kinetic_energy")
    shape = (stored.sizes["energy"], stored.sizes["node"], CHARGES.size, stored.sizes["kinetic_energy"])
    whole = np.zeros(shape, stored.dtype)
    whole[:, :, stored["charge"].values.astype(int) - 1] = stored.values
    rest = ds.drop_dims("charge").assign_coords(charge=CHARGES)
    return rest.assign(dose_spectrum=(stored.dims, whole, stored.attrs))


def read(source: BytesIO) -> xr.Dataset:
    """Read what `save` wrote, with all charges 1..10 again."""
    with xr.open_dataset(source, engine="scipy") as stored:
        return _restored(stored.load())


def _restored(ds: xr.Dataset) -> xr.Dataset:
    """The types and charges that netCDF-3 and `save` left out."""
    if "charge" in ds.dims:
        ds = _all_charges(ds)
    for name in ("origin", "let_definition"):
        if name in ds.coords:
            ds[name] = ds[name].astype(str)
    if "node" in ds.coords:
        ds["node"] = ds["node"].astype(np.int64)
    return ds


def _physics_of(path: Path) -> str | None:
    """Hash of the physics of a file that has a name of ours, "damaged" where it is not whole; None for anything else."""
    if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_file():
        return None
    content = read_sealed(path)
    if content is None:
        return "damaged"
    with xr.open_dataset(BytesIO(content), engine="scipy") as stored:
        return str(stored.attrs.get("physics", "before"))


def clear(*, everything: bool = False) -> tuple[list[Path], int]:
    """Delete cached base data that other versions of the physics wrote, and those that are damaged.

    Parameters
    ----------
    everything : delete those of the present physics as well; they are computed again when they are asked for.

    Returns
    -------
    Paths of the deleted files and their size in all [bytes]. Files whose names are not those of `base_data` are never touched.
    """
    folder = cache_folder(_FOLDER)
    gone, size = [], 0
    for path in sorted(folder.glob("*.nc")) if folder.is_dir() else ():
        physics = _physics_of(path)
        if physics is not None and (everything or physics != physics_hash()):
            size += path.stat().st_size
            path.unlink()
            gone.append(path)
    return gone, size
