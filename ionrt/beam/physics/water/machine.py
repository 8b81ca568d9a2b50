"""Arrays of base data: one energy after another through water, together on one grid of depths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from ionrt.beam.physics.stopping import Array, table
from ionrt.beam.physics.water import broad_beam as tr
from ionrt.beam.physics.water.cells import CHARGES
from ionrt.beam.physics.water.primary import start
from ionrt.ions import IONS, TOP_ENERGY, Isotope
from ionrt.quantities import LET_DEFINITIONS, IonrtError, one_of, stamp

LOWEST_ENERGY = 50.0
RANGE_STEP = 2.0  # mm
DEPTH_STEP = 0.1  # mm
TAIL = 200.0  # mm behind the deepest range
ENERGY_SPREAD = 0.001  # relative standard deviation of the energy of a synchrotron beam
NODES = 64


def machine_energies(ion: str, *, step: float = RANGE_STEP) -> Array:
    """Machine energies of an ion in MeV/u, equidistant in range by at most `step` mm, 50 MeV/u to the top energy."""
    one_of(ion, tuple(IONS), what="ion")
    if not 0.1 <= step <= 50:
        raise IonrtError(f"step: expected 0.1 to 50 mm of range, got {step}")
    tab = table(IONS[ion].symbol)
    low, high = (float(tab.at_energy(e)) for e in (LOWEST_ENERGY, TOP_ENERGY[ion]))
    count = int(np.ceil((high - low) / step)) + 1
    value = tab.at_range(np.linspace(low, high, count))
    value[[0, -1]] = LOWEST_ENERGY, TOP_ENERGY[ion]
    return value


def node_depths(isotope: Isotope, energy: float, end: float, *, energy_spread: float, ripple: float, shifter: float) -> Array:
    """Depths at which spectra are kept: dense around the peak, coarse before and in the tail; ascending, from 0."""
    beam = start(isotope, energy, shifter + end, energy_spread=energy_spread, range_sigma=ripple)
    reach = beam.reach - shifter
    sigma = max(float(beam.at(np.array([beam.reach]), "sigma")[0]), 0.15)
    rise, peak = max(reach - 8 * sigma, 0.5 * reach), reach + 4 * sigma
    plateau = np.linspace(0, rise, 24, endpoint=False)
    around = np.concatenate(
        [np.linspace(rise, reach - 3 * sigma, 10, endpoint=False), np.linspace(reach - 3 * sigma, peak, 18)]
    )
    tail = peak + (end - peak) * np.linspace(0, 1, 13)[1:] ** 2
    return np.clip(np.concatenate([plateau, around, tail]), 0, end)


def _one(ion: str, energy: float, depth: Array, options: dict[str, float]) -> dict[str, Array]:
    """All arrays of one energy, float32."""
    isotope = IONS[ion]
    spread, ripple, shifter = options["energy_spread"], options["ripple_sigma"], options["range_shifter"]
    nodes = node_depths(isotope, energy, depth[-1], energy_spread=spread, ripple=ripple, shifter=shifter)
    s = tr.solve(isotope, energy, depth, spectrum_depth=nodes, energy_spread=spread, range_sigma=ripple, range_shifter=shifter)
    by_origin = tr.dose_by_origin(isotope, s)
    let_d, let_t = tr.let_averages(isotope, s)
    sigma, weight, halo = tr.lateral(isotope, s)
    out = {
        "dose": by_origin.sum(0),
        "dose_by_origin": by_origin,
        "let_d": let_d,
        "let_t": let_t,
        "sigma": sigma,
        "halo_weight": weight,
        "halo_sigma": halo,
        "spectrum_depth": nodes,
        "dose_spectrum": s.spectrum,
        "csda_range": np.array(float(table(isotope.symbol).at_energy(energy))),
        "energy_neutral": np.array(s.neutral),
        "energy_beyond": np.array(s.beyond),
    }
    return {k: v.astype(np.float32) for k, v in out.items()}


_DIMS: dict[str, tuple[tuple[str, ...], str]] = {
    "dose": (("energy", "depth"), "depth_dose"),
    "dose_by_origin": (("origin", "energy", "depth"), "depth_dose"),
    "let_d": (("let_definition", "energy", "depth"), "let_d"),
    "let_t": (("let_definition", "energy", "depth"), "let_t"),
    "sigma": (("energy", "depth"), "sigma"),
    "halo_weight": (("energy", "depth"), "halo_weight"),
    "halo_sigma": (("energy", "depth"), "halo_sigma"),
    "spectrum_depth": (("energy", "node"), "wepl"),
    "dose_spectrum": (("energy", "node", "charge", "kinetic_energy"), "dose_spectrum"),
    "csda_range": (("energy",), "csda_range"),
    "energy_neutral": (("energy",), ""),
    "energy_beyond": (("energy",), ""),
}


def _batches(jobs: list[Any], size: int) -> Iterator[list[Any]]:
    for i in range(0, len(jobs), size):
        yield jobs[i : i + size]


def build(ion: str, energy: Array, options: dict[str, float], *, progress: bool | None = None) -> xr.Dataset:
    """Compute the base data of an ion; one dask task per energy, in whatever scheduler is active."""
    depth_end = float(table(IONS[ion].symbol).at_energy(energy[-1])) + TAIL
    depth = np.arange(int(np.ceil(depth_end / DEPTH_STEP)) + 1) * DEPTH_STEP
    one = dask.delayed(_one, pure=False)
    jobs = [one(ion, float(e), depth, options) for e in energy]
    done: list[dict[str, Array]] = []
    with tqdm(total=len(jobs), desc=f"base data {ion}", disable=not progress if progress is not None else None) as bar:
        for batch in _batches(jobs, 32):
            done += dask.compute(*batch)
            bar.update(len(batch))
    coords = {
        "energy": energy,
        "depth": depth,
        "let_definition": list(LET_DEFINITIONS),
        "charge": CHARGES,
        "kinetic_energy": tr.KINETIC_ENERGY,
        "origin": list(tr.origins(IONS[ion])),
        "node": np.arange(NODES),
    }
    ds = xr.Dataset(coords=coords)
    for name, (dims, quantity) in _DIMS.items():
        data = np.stack([d.pop(name) for d in done], axis=dims.index("energy"))
        ds[name] = _labelled(ion, data, dims, quantity)
    for dim, unit in (("energy", "MeV/u"), ("depth", "mm"), ("kinetic_energy", "MeV/u")):
        ds[dim].attrs["units"] = unit
    return ds


def _labelled(ion: str, data: Array, dims: tuple[str, ...], quantity: str) -> xr.DataArray:
    da = xr.DataArray(data, dims=dims)
    if not quantity:
        return da.assign_attrs(units="MeV", ion=ion)
    extra = {"let_definition": "see coordinate let_definition"} if quantity.startswith("let") else {}
    if quantity == "dose_spectrum":
        extra = {"population": "charged"}
    out = stamp(da, quantity, ion=ion, **extra)
    if dims == ("energy", "node"):
        out.attrs["long_name"] = "depth of the spectrum"
    return out
