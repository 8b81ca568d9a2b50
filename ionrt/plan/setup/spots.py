"""Where the spots go: rays on a grid in the isocentre plane, energies whose Bragg peaks cover the target plus margin."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numba import njit

from ionrt.plan.setup.beams import Beam, Plan, ReachError
from ionrt.plan.setup.geometry import Grid, to_bev
from ionrt.plan.setup.machine import Machine
from ionrt.plan.setup.raytrace import trace_voxels
from ionrt.plan.setup.scenarios import Scenario
from ionrt.plan.setup.scene import Scene
from ionrt.quantities import IonrtError

SAME_ENERGY, SAME_PLACE = 0.01, 1e-3  # MeV/u, mm: given spots against base data and each other
REACH_TOLERANCE = 1.0  # mm of water: peaks this much short of the deepest target voxel still count as reaching


@dataclass(frozen=True)
class View:
    """A beam in place: BEV axes, isocentre and source distances (float64 arrays); `density` multiplies every path, `scenario`
    names the errors."""

    axes: np.ndarray
    isocentre: np.ndarray
    source: np.ndarray
    density: float = 1.0
    scenario: str = ""

    def wepl(self, index: np.ndarray, scene: Scene, grid: Grid | None = None) -> np.ndarray:
        """WEPL (mm) at voxels of the dose grid, or of another one."""
        path = trace_voxels(index, grid or scene.grid, scene.spr, scene.spr_grid, self.axes, self.isocentre, self.source)
        return path if self.density == 1.0 else self.density * path

    def moved(self, scenario: Scenario) -> View:
        """The same beam with the errors of a scenario whose fractions are alike."""
        if scenario.daily:
            raise IonrtError(f"scenario {scenario.label!r} has daily shifts; take one of its fractions()")
        if scenario.is_nominal:
            return self
        return replace(
            self,
            isocentre=self.isocentre + np.array(scenario.setup),
            density=1.0 / (1.0 + scenario.range_shift),
            scenario=scenario.label,
        )

    def bev(self, index: np.ndarray, grid: Grid) -> np.ndarray:
        """(n, 3): u, v in the isocentre plane and w of voxels of a grid."""
        return to_bev(index, grid, self.axes, self.isocentre, self.source)

    def surface(self, scene: Scene) -> float:
        """Where the beam's axis enters the body, mm from the isocentre towards the source."""
        bev = self.bev(np.flatnonzero(scene.body), scene.grid)
        near = np.abs(bev[:, :2]).max(axis=1) <= 2.0 * max(scene.grid.spacing)
        if not near.any():
            raise IonrtError("the axis of the beam misses the patient: check that plan and CT have the same frame of reference")
        return float(bev[near, 2].max())


@dataclass(frozen=True)
class Spots:
    """Blocks of spots: a ray (`u`, `v` mm in the isocentre plane) with `count` consecutive energies from index `first`."""

    u: np.ndarray
    v: np.ndarray
    first: np.ndarray
    count: np.ndarray
    spacing: float

    @property
    def size(self) -> int:
        """Number of spots."""
        return int(self.count.sum())

    def start(self) -> np.ndarray:
        """Index of each block's first spot, and the total at the end."""
        return np.concatenate([[0], np.cumsum(self.count)]).astype(np.int64)

    def per_spot(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u, v and energy index of every spot."""
        within = np.arange(self.size) - np.repeat(self.start()[:-1], self.count)
        return np.repeat(self.u, self.count), np.repeat(self.v, self.count), np.repeat(self.first, self.count) + within


def make_view(beam: Beam, scene: Scene) -> View:
    """Place the beam; the isocentre defaults to the target's centroid."""
    isocentre = scene.centroid() if beam.isocentre is None else np.array(beam.isocentre, dtype=np.float64)
    return View(beam.axes, isocentre, np.array(beam.room.source_distance, dtype=np.float64))


def place_spots(plan: Plan, beam: Beam, scene: Scene, view: View, machine: Machine) -> Spots:
    """Spots that cover the target and its margin; `ReachError` names the missing depth."""
    core = np.flatnonzero(scene.target >= min(0.5, float(scene.target.max())))
    depth = view.wepl(core, scene) + beam.range_shifter
    _check_reach(plan, beam, machine, depth)
    index = _with_margin(scene, plan.margin)
    bev = view.bev(index, scene.grid)
    depth = view.wepl(index, scene) + beam.range_shifter
    spacing = plan.spot_spacing or _spot_spacing(machine, float(depth.mean()))
    edge = max(scene.grid.spacing)
    u_axis, v_axis = (_ray_axis(bev[:, k], spacing) for k in range(2))
    marked = np.zeros((v_axis.size, u_axis.size, machine.energy.size), dtype=np.bool_)
    half = np.gradient(machine.peak) / 2.0 if machine.peak.size > 1 else np.full(1, edge)
    _mark(bev, depth, machine.peak, np.maximum(half, edge / 2.0), u_axis, v_axis, spacing, 0.75 * edge, marked)
    spots = _blocks(marked, u_axis, v_axis, spacing)
    if spots.size == 0:
        raise IonrtError(f"beam {beam.name}: no spot covers the target {plan.target!r}; check isocentre and base data")
    return spots


def _check_reach(plan: Plan, beam: Beam, machine: Machine, depth: np.ndarray) -> None:
    if depth.max() <= beam.range_shifter:
        raise IonrtError(
            f"beam {beam.name}: there is no material before the target {plan.target!r}; the beam misses the patient"
        )
    missing = float(depth.max() - machine.peak.max())
    if missing > REACH_TOLERANCE:
        raise ReachError(
            f"beam {beam.name}: {machine.ion} at {machine.energy[-1]:g} MeV/u reaches {machine.peak.max():.1f} mm of water, the"
            f" target {plan.target!r} ends at {depth.max():.1f} mm; {missing:.1f} mm are missing: choose another angle or ion",
            missing_depth=missing,
        )


def _with_margin(scene: Scene, margin: float) -> np.ndarray:
    """Flat indices of body voxels no farther than `margin` mm from the target (where at least half filled)."""
    target = scene.target >= min(0.5, float(scene.target.max()))
    return np.flatnonzero(scene.grid.near(target, margin).ravel() & scene.body)


def _spot_spacing(machine: Machine, depth: float) -> float:
    """1.5 sigma of a spot whose peak is in the middle of the target: its ripple is below 0.1 %."""
    e = int(np.abs(machine.peak - depth).argmin())
    variance = machine.core_var[round(machine.peak[e] / machine.depth_step), e] + machine.air[e, 0]
    return float(np.clip(1.5 * np.sqrt(variance), 2.5, 10.0))


def _ray_axis(position: np.ndarray, spacing: float) -> np.ndarray:
    """Multiples of the spacing, so that the isocentre lies on a ray."""
    return spacing * np.arange(np.floor(position.min() / spacing), np.ceil(position.max() / spacing) + 1)


@njit(nogil=True, cache=True)
def _mark(bev, depth, peak, tolerance, u_axis, v_axis, spacing, near, marked):
    for i in range(depth.size):
        for iv in range(int(np.ceil((bev[i, 1] - near - v_axis[0]) / spacing)), v_axis.size):
            if iv < 0:
                continue
            if v_axis[iv] > bev[i, 1] + near:
                break
            for iu in range(int(np.ceil((bev[i, 0] - near - u_axis[0]) / spacing)), u_axis.size):
                if iu < 0:
                    continue
                if u_axis[iu] > bev[i, 0] + near:
                    break
                for e in range(peak.size):
                    if abs(peak[e] - depth[i]) <= tolerance[e]:
                        marked[iv, iu, e] = True


def _blocks(marked: np.ndarray, u_axis: np.ndarray, v_axis: np.ndarray, spacing: float) -> Spots:
    """Cut every ray's energies into consecutive runs."""
    padded = np.pad(marked, ((0, 0), (0, 0), (1, 1))).astype(np.int8)
    edges = np.diff(padded, axis=2)
    iv, iu, first = np.nonzero(edges == 1)
    last = np.nonzero(edges == -1)[2]
    return Spots(u_axis[iu], v_axis[iv], first.astype(np.int64), (last - first).astype(np.int64), spacing)


def given_spots(table: xr.Dataset, index: int, beam: Beam, machine: Machine) -> tuple[Spots, np.ndarray]:
    """The spots of beam number `index` in a table with coordinates beam_index, energy, u and v along `spot`, and their places
    among those of the table that are of this beam."""
    missing = [k for k in ("beam_index", "energy", "u", "v") if k not in table.coords and k not in table]
    if missing or table.sizes.get("spot", 0) == 0:
        what = f"{missing[0]!r} is missing" if missing else "there is none"
        raise IonrtError(f"spots: expected beam_index, energy, u and v of at least one spot along `spot`; {what}")
    mine = np.asarray(table["beam_index"].values) == index
    if not mine.any():
        raise IonrtError(f"spots: none for beam {beam.name} (beam_index {index}); leave the beam out of the plan")
    u, v, energy = (np.asarray(table[k].values, dtype=np.float64)[mine] for k in ("u", "v", "energy"))
    if not all(np.isfinite(a).all() for a in (u, v, energy)):
        raise IonrtError(f"spots of beam {beam.name}: energy, u and v must be finite")
    nearest = np.abs(energy[:, None] - machine.energy).argmin(axis=1)
    apart = np.abs(machine.energy[nearest] - energy)
    if apart.max() > SAME_ENERGY:
        raise IonrtError(
            f"beam {beam.name}: no base data of {machine.ion} at {energy[apart.argmax()]:g} MeV/u; the nearest that the"
            f" room offers is {machine.energy[nearest[apart.argmax()]]:g} MeV/u: make base data at the spots' energies"
        )
    ray = np.rint(np.stack([v, u, nearest], axis=1) / np.array([SAME_PLACE, SAME_PLACE, 1.0])).astype(np.int64)
    order = np.lexsort(ray.T[::-1])
    ray, u, v = ray[order], u[order], v[order]
    follows = (np.diff(ray[:, :2], axis=0) == 0).all(axis=1)
    if (follows & (np.diff(ray[:, 2]) == 0)).any():
        raise IonrtError(f"spots of beam {beam.name}: two have the same energy, u and v; add their weights")
    start = np.flatnonzero(np.concatenate([[True], ~(follows & (np.diff(ray[:, 2]) == 1))]))
    return Spots(u[start], v[start], ray[start, 2], np.diff(np.append(start, len(ray))), _regular(u, v)), order


def _regular(u: np.ndarray, v: np.ndarray) -> float:
    """Distance of rays that lie on one square grid through the isocentre; infinite for others."""
    places = np.unique(np.abs(np.concatenate([u, v])))
    places = places[places > SAME_PLACE]
    if places.size == 0:
        return np.inf
    apart = places - places[0] * np.rint(places / places[0])
    return float(places[0]) if places[0] >= 0.5 and np.abs(apart).max() <= 10.0 * SAME_PLACE else np.inf
