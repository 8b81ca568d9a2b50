"""What the engine takes from the base data for one beam, as tables over (depth bin, energy)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numba import njit

from ionrt.beam import base_data
from ionrt.beam.check import check_values
from ionrt.parallel import each, slabs
from ionrt.plan.setup.beams import Beam
from ionrt.quantities import IonrtError

SLAB = 1.0  # mm: a voxel's dose is the mean over slabs that are no thicker along the beam
WIDEST = 40.0  # mm: the halo of the last thousandth of the dose is extrapolated in base data, and no wider than this here
DEPTHS = 1024  # rows of a table in one piece of work
NEEDED = ("dose", "sigma", "halo_weight", "halo_sigma")


def base_of(ion: str, base: Mapping[str, xr.Dataset] | None) -> xr.Dataset:
    """Base data of the user's own {ion: Dataset}, or where there are none those of `ionrt.beam.base_data`."""
    if base is None:
        return base_data(ion)
    if ion not in base:
        raise IonrtError(f"base: expected base data of {ion!r}, got those of {', '.join(base) or 'no ion'}")
    return base[ion]


@dataclass(frozen=True)
class Machine:
    """One ion in one room: energies that base data and room share, their `peak` (mm) and depth tables (depth, energy).

    `air` (energy, 3): coefficients of 1, w, w2 of the spot's variance in air (mm2), w mm from the isocentre to the source.
    """

    ion: str
    energy: np.ndarray
    energy_index: np.ndarray
    peak: np.ndarray
    depth_step: float
    dose: np.ndarray
    core_var: np.ndarray
    halo_weight: np.ndarray
    halo_var: np.ndarray
    air: np.ndarray

    def select(self, first: int, last: int) -> Machine:
        """Only the energies from `first` to `last`."""
        if first == 0 and last == self.energy.size - 1:
            return self
        s = slice(first, last + 1)
        tables = ("dose", "core_var", "halo_weight", "halo_var")
        table = {k: np.ascontiguousarray(getattr(self, k)[:, s]) for k in tables}
        row = {k: getattr(self, k)[s] for k in ("energy", "energy_index", "peak", "air")}
        return Machine(self.ion, depth_step=self.depth_step, **table, **row)


@njit(nogil=True, cache=True)
def highest(table):
    """Of every energy over all depths, of a table (depth, energy)."""
    out = table[0].copy()
    for d in range(1, table.shape[0]):
        for e in range(out.size):
            out[e] = max(out[e], table[d, e])
    return out


def slab_taps(thickness: float, depth_step: float, slab: float = SLAB) -> np.ndarray:
    """Offsets in depth bins of the middles of slabs, about `slab` mm thick at most, in a voxel of the given thickness (mm)."""
    n = max(1, round(thickness / slab))
    return np.rint(((np.arange(n) + 0.5) / n - 0.5) * thickness / depth_step).astype(np.int64)


def slab_mean(table: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Mean of a table (depth, energy) over the taps along the depth, clamped at the ends; float64."""
    table = np.asarray(table, dtype=np.float64)
    if taps.size == 1:
        return table
    out = np.zeros(table.shape)
    each(lambda part: _add_taps(table, taps, part.start, out[part]), slabs(table.shape[0], DEPTHS))
    return out


@njit(nogil=True, cache=True)
def _add_taps(table, taps, first, out):
    for i in range(out.shape[0]):
        for tap in taps:
            row = table[min(max(first + i + tap, 0), table.shape[0] - 1)]
            for e in range(row.size):
                out[i, e] += row[e] / taps.size


def make_machine(beam: Beam, base: xr.Dataset) -> Machine:
    """Tables of `base` (dims energy, depth) for the energies that the beam's room offers."""
    energy, step = _axes(beam, base)
    lowest, highest = beam.room.energy_range(beam.ion)
    index = np.flatnonzero((energy >= lowest - 1e-6) & (energy <= highest + 1e-6))
    if index.size == 0:
        raise IonrtError(
            f"base data of {beam.ion} cover {energy[0]:g}-{energy[-1]:g} MeV/u; room {beam.room.name!r} offers"
            f" {lowest:g}-{highest:g} MeV/u: give base data for the room's energies"
        )

    def table(name: str) -> np.ndarray:
        return base[name].transpose("depth", "energy").values[:, index].astype(np.float64, order="C")

    dose = table("dose")
    return Machine(
        ion=beam.ion,
        energy=energy[index],
        energy_index=index,
        peak=step * dose.argmax(axis=0),
        depth_step=step,
        dose=dose,
        core_var=np.minimum(table("sigma"), WIDEST) ** 2,
        halo_weight=table("halo_weight"),
        halo_var=np.minimum(table("halo_sigma"), WIDEST) ** 2,
        air=np.array([_air_variance(beam, float(e)) for e in energy[index]]),
    )


def _axes(beam: Beam, base: xr.Dataset) -> tuple[np.ndarray, float]:
    """Energies and depth step of the base data; raises where the contract is broken."""
    missing = [v for v in NEEDED if v not in base]
    if missing:
        raise IonrtError(f"base data of {beam.ion}: variable {missing[0]!r} is missing; see ionrt.beam.base_data")
    ion = base.attrs.get("ion", beam.ion)
    if ion != beam.ion:
        raise IonrtError(f"base data: expected those of {beam.ion}, got those of {ion}")
    energy, depth = np.asarray(base["energy"].values, float), np.asarray(base["depth"].values, float)
    step = float(depth[-1] / (depth.size - 1)) if depth.size > 1 else 0.0
    if depth.size < 2 or depth[0] != 0.0 or np.abs(np.diff(depth) - step).max() > 1e-3 * step:
        raise IonrtError(f"base data of {beam.ion}: depth must start at 0 and rise in uniform steps")
    if depth.size > np.iinfo(np.uint16).max:
        raise IonrtError(f"base data of {beam.ion}: {depth.size} depths; at most 65535 fit the influence")
    if np.any(np.diff(energy) <= 0.0):
        raise IonrtError(f"base data of {beam.ion}: energies must ascend")
    for name in NEEDED:
        check_values(base[name])
    return energy, step


def _air_variance(beam: Beam, energy: float) -> np.ndarray:
    """Quadratic in w through the variances at -300, 0 and 300 mm."""
    v = [beam.room.sigma_in_air(beam.ion, energy, upstream=w) ** 2 for w in (-300.0, 0.0, 300.0)]
    return np.array([v[1], (v[2] - v[0]) / 600.0, (v[2] - 2.0 * v[1] + v[0]) / 180_000.0])
