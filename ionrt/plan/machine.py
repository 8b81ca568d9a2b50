"""What the engine takes from the base data for one beam: tables over (depth bin, energy) on the plan's voxel size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from ionrt.plan.beams import Beam
from ionrt.quantities import IonrtError

GY_PER_MEV_MM = 0.1602176634  # Gy mm3/MeV at density 1 g/cm3, for 1e6 particles
SLAB = 1.0  # mm: a voxel's dose is the mean over slabs that are no thicker along the beam
NEGLIGIBLE = 1e-5  # of an energy's largest depth dose


@dataclass(frozen=True)
class Machine:
    """One ion in one room. All energies the room offers; `peak` (energy) mm, `depth_step` mm, tables (depth, energy).

    `core`, `halo`: Gy mm2 per 1e6 particles; `core_var`, `halo_var`: mm2 of scattering in water; `air_var` (energy, 3):
    coefficients of 1, w, w2 of the variance in air; `last` (energy): bin behind which there is no dose.
    """

    ion: str
    energy: np.ndarray
    energy_index: np.ndarray
    peak: np.ndarray
    depth_step: float
    dose: np.ndarray
    core: np.ndarray
    halo: np.ndarray
    core_var: np.ndarray
    halo_var: np.ndarray
    air_var: np.ndarray
    last: np.ndarray
    taps: np.ndarray

    def select(self, used: np.ndarray) -> Machine:
        """Only the energies in the slice from the first to the last of `used`."""
        s = slice(int(used.min()), int(used.max()) + 1)
        table = {k: np.ascontiguousarray(getattr(self, k)[:, s]) for k in ("dose", "core", "halo", "core_var", "halo_var")}
        row = {k: np.ascontiguousarray(getattr(self, k)[s]) for k in ("energy", "energy_index", "peak", "air_var", "last")}
        return Machine(self.ion, depth_step=self.depth_step, taps=self.taps, **table, **row)

    def cutoff2(self, loss: float) -> np.ndarray:
        """Squared radius (mm2) per depth bin outside which no energy has more than `loss` of its dose in the plane."""
        halo, total, v1, v2 = self.halo, self.core + self.halo, *self.variances()
        weight = np.divide(halo, total, out=np.zeros_like(total), where=total > 0.0)
        radius2 = np.zeros(total.shape)
        low, high = np.zeros(total.shape), 60.0 * np.maximum(v1, np.where(weight > 0.0, v2, 0.0))
        for _ in range(30):
            radius2 = 0.5 * (low + high)
            outside = (1.0 - weight) * np.exp(-0.5 * radius2 / v1) + weight * np.exp(-0.5 * radius2 / v2)
            low, high = np.where(outside > loss, radius2, low), np.where(outside > loss, high, radius2)
        matters = total > NEGLIGIBLE * total.max(axis=0)
        return np.where(matters, radius2, 0.0).max(axis=1)

    def variances(self) -> tuple[np.ndarray, np.ndarray]:
        """Total variances (mm2) of core and halo for voxels at the isocentre's distance."""
        return self.core_var + self.air_var[:, 0], self.halo_var + self.air_var[:, 0]

    def retained(self, radius2: np.ndarray) -> np.ndarray:
        """Share of the dose inside the radius, per (depth, energy)."""
        v1, v2 = self.variances()
        total = self.core + self.halo
        weight = np.divide(self.halo, total, out=np.zeros_like(total), where=total > 0.0)
        r2 = radius2[:, None]
        inside = 1.0 - (1.0 - weight) * np.exp(-0.5 * r2 / v1) - weight * np.exp(-0.5 * r2 / v2)
        return np.where(r2 > 0.0, inside, 1.0)


def slab_taps(thickness: float, depth_step: float) -> np.ndarray:
    """Offsets in depth bins of the slabs' middles in a voxel of the given thickness (mm); one slab up to 1 mm."""
    n = max(1, round(thickness / SLAB))
    return np.rint(((np.arange(n) + 0.5) / n - 0.5) * thickness / depth_step).astype(np.int64)


def slab_mean(table: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Mean over the taps along the first axis (depth), clamped at the ends; float64."""
    at = np.arange(table.shape[0])
    out = np.zeros(table.shape)
    for tap in taps:
        out += table[np.clip(at + tap, 0, table.shape[0] - 1)]
    return out / taps.size


def make_machine(beam: Beam, base: xr.Dataset, *, thickness: float) -> Machine:
    """Tables of `base` (dims energy, depth) for `beam` and voxels `thickness` mm thick along it."""
    energy, step = _axes(beam, base)
    lowest, highest = beam.room.energy_range(beam.ion)
    index = np.flatnonzero((energy >= lowest - 1e-6) & (energy <= highest + 1e-6))
    if index.size == 0:
        raise IonrtError(
            f"base data of {beam.ion} cover {energy[0]:g}-{energy[-1]:g} MeV/u; room {beam.room.name!r} offers"
            f" {lowest:g}-{highest:g} MeV/u: give base data for the room's energies"
        )

    def table(name: str) -> np.ndarray:
        return base[name].transpose("depth", "energy").values[:, index].astype(np.float64)

    taps = slab_taps(thickness, step)
    dose, weight = table("dose"), table("halo_weight")
    mean = slab_mean(dose, taps)
    over = np.where(mean > 0.0, mean, 1.0)
    halo_share = np.where(mean > 0.0, slab_mean(dose * weight, taps) / over, 0.0)
    air = np.array([_air_variance(beam, float(e)) for e in energy[index]])
    significant = mean > NEGLIGIBLE * mean.max(axis=0)
    return Machine(
        ion=beam.ion,
        energy=energy[index],
        energy_index=index,
        peak=np.asarray(base["depth"].values, float)[dose.argmax(axis=0)],
        depth_step=step,
        dose=dose,
        core=GY_PER_MEV_MM * mean * (1.0 - halo_share),
        halo=GY_PER_MEV_MM * mean * halo_share,
        core_var=table("sigma") ** 2,
        halo_var=table("halo_sigma") ** 2,
        air_var=air,
        last=mean.shape[0] - 1 - np.argmax(significant[::-1], axis=0),
        taps=taps,
    )


def _axes(beam: Beam, base: xr.Dataset) -> tuple[np.ndarray, float]:
    """Energies and depth step of the base data; raises where the contract is broken."""
    missing = [v for v in ("dose", "sigma", "halo_weight", "halo_sigma") if v not in base]
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
    bad = [v for v in ("dose", "sigma", "halo_weight", "halo_sigma") if not np.isfinite(base[v].values).all()]
    if bad:
        raise IonrtError(f"base data of {beam.ion}: {bad[0]!r} has values that are not finite")
    return energy, step


def _air_variance(beam: Beam, energy: float) -> np.ndarray:
    """Quadratic in w through the variances at -300, 0 and 300 mm."""
    v = [beam.room.sigma_in_air(beam.ion, energy, upstream=w) ** 2 for w in (-300.0, 0.0, 300.0)]
    return np.array([v[1], (v[2] - v[0]) / 600.0, (v[2] - 2.0 * v[1] + v[0]) / 180_000.0])
