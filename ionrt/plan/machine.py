"""What the engine takes from the base data for one beam: Gaussian components as tables over (depth bin, energy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from ionrt.plan.beams import Beam
from ionrt.quantities import IonrtError

GY_PER_MEV_MM = 0.1602176634  # Gy mm3/MeV at density 1 g/cm3, for 1e6 particles
SLAB = 1.0  # mm: a voxel's dose is the mean over slabs that are no thicker along the beam
NEGLIGIBLE = 1e-5  # of an energy's largest depth dose
LEAST_CORE, LEAST_HALO = 3.0, 5.0  # half the squared cut-off in variances, of what counts at all: 2.4 and 3.2 sigma
HALO_LOSS = 0.25  # of the lateral loss: far out there is little dose but much of the width
LEAST_RETAINED = 0.5  # of a component in the shadow of other energies
TAIL = 25.0  # mm behind the distal edge, over which the core passes into the halo
NEEDED = ("dose", "sigma", "halo_weight", "halo_sigma")


@dataclass(frozen=True)
class Component:
    """Core or halo on voxels of one thickness, tables (depth bin, energy): `amplitude` Gy mm2 per 1e6 particles, `variance`
    mm2 without air; `cut2` and `lowest` (depth bin): mm2, first energy with dose there; `taps` the slabs of a voxel in bins."""

    amplitude: np.ndarray
    variance: np.ndarray
    cut2: np.ndarray
    lowest: np.ndarray
    taps: np.ndarray


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
        s = slice(first, last + 1)
        tables = ("dose", "core_var", "halo_weight", "halo_var")
        table = {k: np.ascontiguousarray(getattr(self, k)[:, s]) for k in tables}
        row = {k: getattr(self, k)[s] for k in ("energy", "energy_index", "peak", "air")}
        return Machine(self.ion, depth_step=self.depth_step, **table, **row)

    def halo_sigma(self) -> float:
        """Mean standard deviation (mm) of the halo with air, weighted with its dose before the peak."""
        depth = self.depth_step * np.arange(self.dose.shape[0])[:, None]
        dose = np.where(depth <= self.peak, self.dose * self.halo_weight, 0.0)
        if not dose.any():
            return 0.0
        return float(np.sqrt(np.average(self.halo_var + self.air[:, 0], weights=dose)))

    def components(self, *, thickness: float, node: float, added: float, loss: float) -> tuple[Component, Component]:
        """Core on voxels `thickness` mm thick along the beam; halo on nodes `node` mm apart, whose interpolation adds `added`
        mm2 of variance. The core gets what the nodes cannot show of the halo's depth dose: the sum is exact at every depth.
        """
        fine, coarse = slab_taps(thickness, self.depth_step), slab_taps(node, self.depth_step)
        narrowest = 0.4 * node**2  # variance below which the sum over nodes is off by more than 0.1 %
        weight, halo_var = self._with_tail(narrowest + added)
        whole = slab_mean(self.dose, fine)
        halo, between = _smooth(self.dose * weight, whole, coarse, 2 * round(3.0 * node / self.depth_step) + 1)
        core = np.maximum(whole - between, 0.0)
        # halo that the nodes cannot show widens the core
        left = np.clip(
            np.divide(self.dose * self.halo_weight - between, core, out=np.zeros_like(core), where=core > 0.0), 0.0, 1.0
        )
        core_var = (1.0 - left) * self.core_var + left * self.halo_var
        halo_var = np.maximum(halo_var + self.air[:, 0] - added, narrowest) - self.air[:, 0]
        return (
            self._cut_off(core, core_var, fine, loss, LEAST_CORE),
            self._cut_off(halo, halo_var, coarse, HALO_LOSS * loss, LEAST_HALO),
        )

    def _with_tail(self, wide: float) -> tuple[np.ndarray, np.ndarray]:
        """Halo weight and variance where the fragments behind the peak pass into the halo, with the variance of both, as far as
        that is above `wide` mm2."""
        depth = self.depth_step * np.arange(self.dose.shape[0])[:, None]
        high = self.dose > 0.1 * self.dose.max(axis=0)
        end = self.depth_step * (self.dose.shape[0] - 1 - np.argmax(high[::-1], axis=0))
        mixed = self.halo_weight * self.halo_var + (1.0 - self.halo_weight) * self.core_var + self.air[:, 0]
        moved = np.clip((depth - end) / TAIL, 0.0, 1.0) * np.clip(mixed / wide - 1.0, 0.0, 1.0) * (1.0 - self.halo_weight)
        weight = self.halo_weight + moved
        both = self.halo_weight * self.halo_var + moved * self.core_var
        return weight, np.divide(both, weight, out=self.halo_var.copy(), where=weight > 0.0)

    def _cut_off(self, dose: np.ndarray, variance: np.ndarray, taps: np.ndarray, loss: float, least: float) -> Component:
        """Outside the cut-off lies at most the share `loss` of the dose at that depth; the inside is scaled up to the whole."""
        whole = slab_mean(self.dose, taps)
        total = variance + self.air[:, 0]
        reaches = (whole > NEGLIGIBLE * whole.max(axis=0)) & (dose > loss * whole)
        # next to the other energies' dose, the edges of a weak tail may be cut closer
        scale = np.maximum(whole, 0.2 * whole.max(axis=1, keepdims=True))
        matters = reaches & (dose > loss * scale)
        excess = np.log(np.where(matters, dose / np.where(matters, scale, 1.0) / loss, 1.0))
        cut2 = (2.0 * total * np.where(matters, np.maximum(excess, least), 0.0)).max(axis=1)
        retained = -np.expm1(-0.5 * cut2[:, None] / np.maximum(total, 1e-6))
        retained = np.where(retained > 0.0, np.maximum(retained, LEAST_RETAINED), 0.0)
        amplitude = np.where(retained > 0.0, GY_PER_MEV_MM * dose / np.where(retained > 0.0, retained, 1.0), 0.0)
        amplitude = np.where(reaches, amplitude, 0.0)
        lowest = np.where(reaches.any(axis=1), np.argmax(reaches, axis=1), dose.shape[1])
        return Component(amplitude, variance, cut2, lowest.astype(np.int32), taps)


def _smooth(halo: np.ndarray, whole: np.ndarray, taps: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The halo's depth dose at nodes, and what lies between nodes after interpolation, which must not exceed the whole dose."""
    if taps.size == 1:
        return halo, halo

    def interpolated(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at_nodes = slab_mean(slab_mean(slab_mean(table, taps), taps), taps)
        return at_nodes, slab_mean(slab_mean(at_nodes, taps), taps)

    half = window // 4 * 2 + 1  # no peak of the halo narrower than this
    opened = maximum_filter1d(minimum_filter1d(halo, half, axis=0), half, axis=0)
    between = interpolated(opened)[1]
    room = np.minimum(np.divide(whole, between, out=np.ones_like(whole), where=between > whole), 1.0)
    return interpolated(opened * minimum_filter1d(room, window, axis=0))


def slab_taps(thickness: float, depth_step: float) -> np.ndarray:
    """Offsets in depth bins of the slabs' middles in a voxel of the given thickness (mm); one slab up to 1 mm."""
    n = max(1, round(thickness / SLAB))
    return np.rint(((np.arange(n) + 0.5) / n - 0.5) * thickness / depth_step).astype(np.int64)


def slab_mean(table: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Mean over the taps along the first axis (depth), clamped at the ends; float64."""
    if taps.size == 1:
        return np.asarray(table, dtype=np.float64)
    at = np.arange(table.shape[0])
    out = np.zeros(table.shape)
    for tap in taps:
        out += table[np.clip(at + tap, 0, table.shape[0] - 1)]
    return out / taps.size


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
        return base[name].transpose("depth", "energy").values[:, index].astype(np.float64)

    dose = table("dose")
    return Machine(
        ion=beam.ion,
        energy=energy[index],
        energy_index=index,
        peak=step * dose.argmax(axis=0),
        depth_step=step,
        dose=dose,
        core_var=table("sigma") ** 2,
        halo_weight=table("halo_weight"),
        halo_var=table("halo_sigma") ** 2,
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
    bad = [v for v in NEEDED if not np.isfinite(base[v].values).all()]
    if bad:
        raise IonrtError(f"base data of {beam.ion}: {bad[0]!r} has values that are not finite")
    return energy, step


def _air_variance(beam: Beam, energy: float) -> np.ndarray:
    """Quadratic in w through the variances at -300, 0 and 300 mm."""
    v = [beam.room.sigma_in_air(beam.ion, energy, upstream=w) ** 2 for w in (-300.0, 0.0, 300.0)]
    return np.array([v[1], (v[2] - v[0]) / 600.0, (v[2] - 2.0 * v[1] + v[0]) / 180_000.0])
