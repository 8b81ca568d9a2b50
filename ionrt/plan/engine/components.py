"""Depth dose and widths of one beam as two Gaussians on voxels: the narrow core, and the halo that a lattice carries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from ionrt.ions import GY_UM2
from ionrt.parallel import each, slabs
from ionrt.plan.engine.lattice import Lattice, choose_lattice
from ionrt.plan.setup.machine import DEPTHS, Machine, highest, slab_mean, slab_taps

NEGLIGIBLE = 1e-5  # of an energy's largest depth dose
LEAST_CORE, LEAST_HALO = 3.0, 5.0  # half the squared cut-off in variances, of what counts at all: 2.4 and 3.2 sigma
HALO_LOSS = 0.25  # of the lateral loss: far out there is little dose but much of the width
LEAST_RETAINED = 0.5  # of a component in the shadow of other energies
NARROWEST = 1.2  # half the squared cut-off in variances below which the inside cannot be given the whole's variance
TAIL = 25.0  # mm behind the distal edge, over which the core passes into the halo
PASSED, TAIL_ERROR = 0.998, 0.003  # halo weight from which there is no core; what the levels may then miss of the dose
WIDENING, WIDEST_CORE = 0.03, 0.25  # of the core's variance: by what lies between levels, and at most
SMOOTH = 2.0  # mm over which the halo is averaged along the depth
WIDE = 10.0  # mm2: variance from which the fragments behind the peak begin to pass into the halo


@dataclass(frozen=True)
class Component:
    """Core or halo on voxels of one thickness, tables (depth bin, energy): `amplitude` Gy mm2 per 1e6 particles, `variance`
    mm2 without air; `cut2` and `lowest` (depth bin): mm2, first energy with dose there; `taps` the slabs of a voxel in bins."""

    amplitude: np.ndarray
    variance: np.ndarray
    cut2: np.ndarray
    lowest: np.ndarray
    taps: np.ndarray


def undivided(machine: Machine, *, thickness: float, loss: float) -> Component:
    """All dose on voxels, of a machine without halo."""
    fine = slab_taps(thickness, machine.depth_step)
    whole = slab_mean(machine.dose, fine)
    return _cut_off(machine, whole, whole, machine.core_var, fine, loss, LEAST_CORE)


def split(machine: Machine, *, thickness: float, spacing: float, loss: float) -> tuple[Component, Component, Lattice]:
    """Core on voxels `thickness` mm thick along the beam; halo on a lattice, of rays `spacing` mm apart.

    The core gets what the lattice cannot show of the halo, so that the dose is that of the base data at every depth.
    """
    fine, air = slab_taps(thickness, machine.depth_step), machine.air[:, 0]
    whole = slab_mean(machine.dose, fine)
    weight, halo_var = with_tail(machine)
    smooth = slab_taps(SMOOTH, machine.depth_step, SMOOTH / 20.0)
    halo = slab_mean(slab_mean(machine.dose * weight, fine), smooth)
    spread = _ratio(slab_mean(slab_mean(machine.dose * weight * halo_var, fine), smooth), halo, halo_var)
    passed = weight >= PASSED
    allowed = WIDENING * (machine.core_var + air) / (spread + air) * np.maximum(whole, 0.3 * highest(whole))
    allowed = np.where(passed, np.minimum(allowed, TAIL_ERROR * whole + 0.1 * NEGLIGIBLE * highest(whole)), allowed)
    lattice = choose_lattice(halo, spread + air, whole, allowed, machine.depth_step, spacing)
    added = lattice.added_variance()[:, None]
    wide = spread[lattice.level] + air >= lattice.narrowest()[:, None] + added
    nodes = np.where(wide, halo[lattice.level], 0.0)
    nodes *= np.where(
        passed[lattice.level], lattice.same_mean(nodes, np.where(passed, whole, halo)), lattice.at_most(nodes, whole)
    )
    shown = lattice.between(nodes)
    alone = passed[lattice.level[lattice.share(np.arange(lattice.n))[0]]] & passed
    core = np.where(alone, 0.0, np.maximum(whole - shown, 0.0))
    left = np.clip(_ratio(halo - shown, core, 0.0 * core), -0.1, 1.0)
    core_var = (1.0 - left) * machine.core_var + left * halo_var
    core_var = np.clip(core_var, 0.9 * machine.core_var, machine.core_var + WIDEST_CORE * (machine.core_var + air))
    table, variance = np.zeros_like(whole), np.ones_like(whole)
    table[lattice.level], variance[lattice.level] = nodes, spread[lattice.level] - added
    point = np.zeros(1, dtype=np.int64)
    return (
        _cut_off(machine, whole, core, core_var, fine, loss, LEAST_CORE),
        _cut_off(machine, whole, table, variance, point, HALO_LOSS * loss, LEAST_HALO),
        lattice,
    )


def with_tail(machine: Machine) -> tuple[np.ndarray, np.ndarray]:
    """Halo weight and variance where the fragments behind the peak pass into the halo, with the variance of both, as far as
    a lattice can show that."""
    depth = machine.depth_step * np.arange(machine.dose.shape[0])[:, None]
    high = machine.dose > 0.1 * highest(machine.dose)
    end = machine.depth_step * (machine.dose.shape[0] - 1 - np.argmax(high[::-1], axis=0))
    own = machine.halo_weight
    mixed = own * machine.halo_var + (1.0 - own) * machine.core_var + machine.air[:, 0]
    moved = np.clip((depth - end) / TAIL, 0.0, 1.0) * np.clip(mixed / WIDE - 1.0, 0.0, 1.0) * (1.0 - own)
    weight = own + moved
    return weight, _ratio(own * machine.halo_var + moved * machine.core_var, weight, machine.halo_var)


def _cut_off(
    machine: Machine, whole: np.ndarray, dose: np.ndarray, variance: np.ndarray, taps: np.ndarray, loss: float, least: float
) -> Component:
    """Outside the cut-off lies at most the share `loss` of the dose at that depth; the inside is given the dose and the
    variance of the whole."""
    air, shape = machine.air[:, 0], whole.shape
    amplitude, spread = np.zeros(shape, np.float32), np.empty(shape, np.float32)
    cut2, lowest = np.zeros(shape[0]), np.empty(shape[0], np.int32)
    negligible = NEGLIGIBLE * highest(whole)

    def work(part: slice) -> None:
        tables = (whole[part], dose[part], variance[part], air, negligible)
        _cut_rows(*tables, loss, least, _WIDENED, amplitude[part], spread[part], cut2[part], lowest[part])

    each(work, slabs(shape[0], DEPTHS))
    return Component(amplitude, spread, cut2, lowest, taps)


@njit(nogil=True, cache=True)
def _cut_rows(whole, dose, variance, air, negligible, loss, least, widened, amplitude, spread, cut2, lowest):
    for d in range(whole.shape[0]):
        top, lowest[d] = whole[d].max(), air.size
        for e in range(air.size):
            if whole[d, e] > negligible[e] and dose[d, e] > loss * whole[d, e]:
                lowest[d] = min(lowest[d], e)
                # next to the other energies' dose, the edges of a weak tail may be cut closer
                excess = dose[d, e] / max(whole[d, e], 0.2 * top) / loss
                if excess > 1.0:
                    cut2[d] = max(cut2[d], 2.0 * (variance[d, e] + air[e]) * max(np.log(excess), least))
        for e in range(air.size):
            spread[d, e] = variance[d, e]
            if whole[d, e] > negligible[e] and dose[d, e] > loss * whole[d, e] and cut2[d] > 0.0:
                inside = _inside(cut2[d] / max(2.0 * (variance[d, e] + air[e]), 1e-6), widened)
                spread[d, e] = cut2[d] / max(2.0 * inside, 1e-6) - air[e]
                amplitude[d, e] = GY_UM2 * dose[d, e] / max(-np.expm1(-inside), LEAST_RETAINED)


_X = np.linspace(0.05, 40.0, 4000)
_SHARE = 1.0 / _X - 1.0 / np.expm1(_X)  # <r2> within the cut-off over its square
_WIDENED = np.interp(np.linspace(0.0, 0.5, 8193), _SHARE[::-1], _X[::-1])  # _X of shares in equal steps


@njit(nogil=True, cache=True)
def _inside(cut, widened):
    r"""Half the squared cut-off in variances of the Gaussian that has the variance wanted inside the cut-off, from the same in
    variances wanted: 1/x - 1/(e^x - 1) = 1/cut."""
    at = min(1.0 / cut, 0.5) * (2 * widened.size - 2)
    k = min(int(at), widened.size - 2)
    found = widened[k] + (at - k) * (widened[k + 1] - widened[k])
    return cut if cut >= 30.0 else max(found, min(cut, NARROWEST))  # the same to 1e-10 from there on


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.array(np.broadcast_to(otherwise, above.shape), dtype=np.float64), where=below > 0.0)
