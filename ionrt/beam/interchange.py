"""Base data read from matRad machine files (.mat, version 7)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ionrt.beam.check import check_base_data
from ionrt.beam.mat_file import read_mat
from ionrt.beam.physics.stopping import Array, energy_for_range, stopping_power
from ionrt.files import content_hash
from ionrt.quantities import LET_DEFINITIONS, IonrtError, one_of, stamp

RADIATION = {"p": "protons", "He": "helium", "C": "carbon", "O": "oxygen", "Ne": "neon"}  # neon: no matRad data set exists
MEV_PER_MM = 10.0  # MeV cm2/g in water to MeV/mm: divide
DEPTH_STEP = 0.1  # mm, of base data that are read
_LET_HINT = '; missing_let="primary" puts the stopping power of the primaries there'
_NEGLIGIBLE = 1e-6  # weight of a halo that is none
_DEEPEST = 2000.0  # mm of water
_MOST = {"energy": (1000.0, "MeV/u"), "range": (_DEEPEST, "mm"), "peakPos": (_DEEPEST, "mm")}


def read_matrad(
    path: str | os.PathLike[str],
    *,
    let_definition: str = "charged",
    missing_let: str = "raise",
    depth_step: float = DEPTH_STEP,
) -> xr.Dataset:
    """Read a matRad machine file of protons or ions (.mat, version 5 to 7) as base data.

    dose = Z / 10 [MeV/mm], sigma = sigma or sigma1, halo_sigma = sigma2, halo_weight = weight; of several Gaussians the
    narrowest is the core and the others are joined, by weight, in the halo. `offset` moves the depth axis.

    Parameters
    ----------
    path : the machine file
    let_definition : what the LET in the file is; matRad files do not say so
    missing_let : "raise", or "primary": files without LET get the stopping power of the primaries at their residual range
    depth_step : [mm] between depths of the tables; the engine takes the nearest depth, which at 0.1 mm and a sharp carbon peak
        moves single doses by up to a few per cent and the sum of absolute differences by 0.2 %.

    Returns
    -------
    Dataset of the base-data contract without spectra (`check_base_data`); attribute `repaired` names what was put
    right (halo widths where the halo has no weight). Where all energies have the same tissue classes, `alpha` [1/Gy], `beta`
    [1/Gy2] (tissue, energy, depth) and photon `alpha_x`, `beta_x` (tissue) for the model ``lem_kernel``; values that are not
    numbers at depth 0 are those of the next depth.

    Raises
    ------
    IonrtError
        No such file, no machine, a field missing (LET included), depths in cm, NaN, negative dose, depth_step not positive.

    References
    ----------
    matRad, doi 10.1002/mp.12251.
    """
    if not depth_step > 0.0:
        raise IonrtError(f"depth_step: expected mm greater than 0, got {depth_step!r}")
    one_of(let_definition, LET_DEFINITIONS, what="let_definition")
    file = Path(path)
    machine = _load(file)
    ion = _ion(machine)
    one_of(missing_let, ("raise", "primary"), what="missing_let")
    entries = sorted(_entries(machine), key=lambda e: float(_number(e, "energy")))
    if not entries:
        raise IonrtError(f"{file.name}: machine.data is empty; expected one element per energy")
    repaired: set[str] = set()
    if missing_let == "primary" and not any(_numbers(e.get("LET")).size for e in entries):
        entries = [e | {"LET": _of_primaries(ion, e)} for e in entries]
        let_definition = "primary"
        repaired.add("LET computed for the primaries alone")
    tables = [_table(e, repaired) for e in entries]
    depth = np.arange(int(np.ceil(max(t["depth"][-1] for t in tables) / depth_step - 1e-6)) + 1) * depth_step
    data = {k: np.stack([_on(depth, t, k) for t in tables]).astype(np.float32) for k in _COLUMNS}
    energy = np.array([float(_number(e, "energy")) for e in entries])
    reach = np.array([float(_number(e, "range", "peakPos")) for e in entries], np.float32)
    kernels = kernels_of(entries, tables, depth, repaired, file)
    return _dataset(ion, energy, depth, data, reach, let_definition, repaired, file, kernels)


_COLUMNS = ("dose", "let_d", "sigma", "halo_weight", "halo_sigma")


def _dataset(
    ion: str,
    energy: Array,
    depth: Array,
    data: dict[str, Array],
    reach: Array,
    let_definition: str,
    repaired: set[str],
    file: Path,
    kernels: dict[str, Array],
) -> xr.Dataset:
    ds = xr.Dataset(coords={"energy": energy, "depth": depth, "let_definition": [let_definition]})
    ds["energy"].attrs["units"], ds["depth"].attrs["units"] = "MeV/u", "mm"
    for name, value in data.items():
        if name == "let_d":
            da = xr.DataArray(value[None], dims=("let_definition", "energy", "depth"))
            ds[name] = stamp(da, "let_d", ion=ion, let_definition="see coordinate let_definition")
        else:
            quantity = "depth_dose" if name == "dose" else name
            ds[name] = stamp(xr.DataArray(value, dims=("energy", "depth")), quantity, ion=ion)
    for name, value in kernels.items():
        ds[name] = (("tissue", "energy", "depth")[: value.ndim], value)
        ds[name].attrs["units"] = "1/Gy" if name.startswith("alpha") else "1/Gy2"
    ds["csda_range"] = stamp(xr.DataArray(reach, dims=("energy",)), "csda_range", ion=ion)
    ds.attrs = {
        "ion": ion,
        "let": f"read from {file.name}, taken as {let_definition}",
        "citation": f"matRad machine file {file.name}",
        "content_key": content_hash(file.read_bytes(), let_definition),
        "repaired": "; ".join(sorted(repaired)) or "nothing",
    }
    return check_base_data(ds)


def _load(file: Path) -> dict[str, Any]:
    if not os.path.isfile(file):
        raise IonrtError(f"{file}: no such file; expected a matRad machine file (.mat)")
    content = read_mat(file)
    machine = content.get("machine")
    if not isinstance(machine, dict) or not {"meta", "data"} <= machine.keys():
        raise IonrtError(f"{file.name}: expected the structure `machine` with `meta` and `data`; got {_names(content)}")
    if not isinstance(machine["meta"], dict):
        raise IonrtError(f"{file.name}: machine.meta is no structure")
    return machine


def _names(content: dict[str, Any]) -> str:
    return ", ".join(sorted(k for k in content if not k.startswith("__"))) or "nothing"


def _ion(machine: dict[str, Any]) -> str:
    mode = str(machine["meta"].get("radiationMode", "nothing")).strip()
    ions = {v: k for k, v in RADIATION.items()}
    if mode not in ions:
        raise IonrtError(f"machine.meta.radiationMode: expected one of {', '.join(ions)}, got {mode!r}")
    return ions[mode]


def _entries(machine: dict[str, Any]) -> Iterator[dict[str, Any]]:
    data = machine["data"]
    for entry in [data] if isinstance(data, dict) else np.ravel(np.asarray(data, dtype=object)):
        if not isinstance(entry, dict):
            raise IonrtError("machine.data: expected an array of structures, one per energy")
        yield entry


def _numbers(value: object) -> Array:
    """Real numbers of a field; an empty array where it is absent, text, a structure or ragged."""
    try:
        numbers = np.asarray(value)
        return np.asarray(numbers if numbers.dtype.kind in "biuf" else [], float)
    except (ValueError, TypeError):  # ragged
        return np.empty(0)


def _number(entry: dict[str, Any], *names: str) -> float:
    """The first of `names` that is there, a positive number."""
    for name in names:
        value = np.ravel(_numbers(entry.get(name)))
        if value.size == 1 and np.isfinite(value[0]) and value[0] > 0:
            most, unit = _MOST.get(name, (np.inf, ""))
            if value[0] > most:
                raise IonrtError(f"machine.data: {name} {value[0]:g}; expected {unit} up to {most:g}")
            return float(value[0])
        if name in entry and np.size(entry[name]):
            raise IonrtError(f"machine.data: {name} is not a positive number")
    raise IonrtError(f"machine.data: {' or '.join(names)} missing or not a positive number")


def _column(entry: dict[str, Any], name: str, size: int | None = None) -> Array:
    """A column of numbers, finite and not negative, as long as the depths."""
    what = f"machine.data at {entry.get('energy')} MeV/u: {name}"
    value = np.ravel(_numbers(entry.get(name)))
    if value.size == 0:
        raise IonrtError(f"{what} is missing or no numbers; got {_names(entry)}" + (_LET_HINT if name == "LET" else ""))
    if size is not None and value.size != size:
        raise IonrtError(f"{what} has {value.size} values for {size} depths")
    if not np.all(np.isfinite(value)):
        raise IonrtError(f"{what} has {int((~np.isfinite(value)).sum())} values that are not numbers; repair them")
    if np.any(value < 0) and name != "depths":
        raise IonrtError(f"{what} has negative values")
    return value


def _table(entry: dict[str, Any], repaired: set[str]) -> dict[str, Array]:
    """Depth and columns of one energy in our units."""
    depth = _column(entry, "depths")
    if depth.size < 3 or np.any(np.diff(depth) <= 0):
        raise IonrtError(f"machine.data at {entry['energy']} MeV/u: depths must be ascending, at least three")
    if depth[-1] > _DEEPEST or depth[0] < -_DEEPEST:
        raise IonrtError(
            f"machine.data at {entry['energy']} MeV/u: depths reach {depth[-1]:.3g}; expected mm up to {_DEEPEST:g}"
        )
    shift = np.ravel(_numbers(entry.get("offset", 0.0)))
    if shift.size != 1 or not abs(shift[0]) < _DEEPEST:
        raise IonrtError(
            f"machine.data at {entry['energy']} MeV/u: offset {entry['offset']!r}; expected one finite number in mm"
        )
    offset = float(shift[0])
    dose = _column(entry, "Z", depth.size) / MEV_PER_MM
    _plausible(entry, depth, dose)
    core, weight, halo = _gaussians(entry, depth.size, repaired)
    let = _column(entry, "LET", depth.size)
    return dict(zip(("depth", *_COLUMNS), (depth + offset, dose, let, core, weight, halo), strict=True))


def _of_primaries(ion: str, entry: dict[str, Any]) -> Array:
    """LET of ions that stop at the peak, keV/um; at least 0.5 mm before their end."""
    depth, reach = _column(entry, "depths"), _number(entry, "peakPos", "range")
    energy = energy_for_range(ion, np.clip(reach - depth, 0.5, None)).values
    let: Array = stopping_power(ion, energy).values / 10
    return let


def _plausible(entry: dict[str, Any], depth: Array, dose: Array) -> None:
    """Depths in cm or doses in other units would pass every other test: the range tells."""
    peak, said = depth[dose.argmax()], _number(entry, "peakPos", "range")
    if depth[-1] < 0.5 * said or not 0.5 < peak / said < 2:
        raise IonrtError(
            f"machine.data at {entry['energy']} MeV/u: the peak of Z lies at {peak:.3g}, peakPos says {said:.3g}; "
            "depths, range and peakPos are expected in mm"
        )


def _gaussians(entry: dict[str, Any], size: int, repaired: set[str]) -> tuple[Array, Array, Array]:
    """Core sigma, halo weight and halo sigma from one, two or several Gaussians."""
    if _numbers(entry.get("sigmaMulti")).size:
        return _several(entry, size)
    if _numbers(entry.get("sigma1")).size:
        core, halo, weight = (_column(entry, n, size) for n in ("sigma1", "sigma2", "weight"))
        empty = (weight < _NEGLIGIBLE) & (halo > 10 * np.maximum(core, 1.0))
        if empty.any():
            repaired.add("sigma2 where the halo has no weight")
        return core, np.minimum(weight, 1.0), np.maximum(np.where(empty, core, halo), core)
    core = _column(entry, "sigma", size)
    return core, np.zeros(size), core


def _several(entry: dict[str, Any], size: int) -> tuple[Array, Array, Array]:
    sigma, weight = (_numbers(entry.get(n)) for n in ("sigmaMulti", "weightMulti"))
    sigma, weight = (a if a.ndim == 2 and a.shape[0] == size else np.atleast_2d(a).T for a in (sigma, weight))
    if sigma.shape[0] != size or weight.shape[0] != size or not (np.isfinite(sigma).all() and np.isfinite(weight).all()):
        raise IonrtError(f"machine.data at {entry['energy']} MeV/u: sigmaMulti and weightMulti need finite values per depth")
    if weight.shape[1] == sigma.shape[1] - 1:  # the first weight is what the others leave
        weight = np.column_stack([1 - weight.sum(1), weight])
    order = np.argsort(sigma, axis=1)
    sigma, weight = np.take_along_axis(sigma, order, 1), np.take_along_axis(weight, order, 1)
    rest = weight[:, 1:].sum(1)
    variance = (weight[:, 1:] * sigma[:, 1:] ** 2).sum(1) / np.maximum(rest, _NEGLIGIBLE)
    halo = np.where(rest > _NEGLIGIBLE, np.sqrt(np.maximum(variance, 0)), sigma[:, 0])
    return sigma[:, 0], np.clip(rest, 0, 1), np.maximum(halo, sigma[:, 0])


def _on(depth: Array, table: dict[str, Array], name: str) -> Array:
    """On the common depths; no dose behind the table, the other columns stay at their last value."""
    beyond = 0.0 if name == "dose" else None
    return np.interp(depth, table["depth"], table[name], right=beyond)


def kernels_of(
    entries: list[dict[str, Any]], tables: list[dict[str, Array]], depth: Array, repaired: set[str], file: Path
) -> dict[str, Array]:
    """alpha and beta over depth per tissue class, and alpha_x, beta_x; nothing where the file has none."""
    if not all(np.size(e.get(k, ())) for e in entries for k in ("alpha", "beta", "alphaX", "betaX")):
        return {}
    photon = np.array([[np.ravel(np.asarray(e[k], float)) for k in ("alphaX", "betaX")] for e in entries])
    if not (photon == photon[0]).all():
        raise IonrtError(f"{file.name}: tissue classes (alphaX, betaX) differ between energies; expected the same at all")
    out = {"alpha_x": photon[0, 0], "beta_x": photon[0, 1]}
    for name in ("alpha", "beta"):
        rows = []
        for entry, table in zip(entries, tables, strict=True):
            value = np.asarray(entry[name], float).reshape(table["depth"].size, -1)
            if value.shape[1] != photon.shape[2]:
                raise IonrtError(f"{file.name}: {value.shape[1]} columns of {name} for {photon.shape[2]} tissue classes")
            if not np.isfinite(value[0]).all():
                repaired.add(f"{name} at depth 0")
                value = np.where(np.isfinite(value), value, np.append(value[1:2], value[1:], axis=0))
            if not np.isfinite(value).all() or (value < 0.0).any():
                raise IonrtError(
                    f"{file.name}: {name} at {entry.get('energy')} MeV/u has values that are no numbers or negative"
                )
            rows.append([np.interp(depth, table["depth"], column) for column in value.T])
        out[name] = np.moveaxis(np.array(rows), 0, 1).astype(np.float32)
    return out
