"""Motion within a fraction: phases of a 4DCT, the volume they cover, and what spot after spot on a moving target does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ionrt.adapt.mapping import map_field
from ionrt.adapt.sampling import at_points, centres
from ionrt.adapt.transform import invert, move_points
from ionrt.evaluate.sampling import kept_attrs
from ionrt.parallel import running_sum
from ionrt.patient.geometry.structures import with_fractions
from ionrt.patient.names import kinds_of
from ionrt.plan import field
from ionrt.plan.engine.influence import Influence
from ionrt.plan.fields import check_weights
from ionrt.plan.mixture import course, shared_variables
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.scene import structure_fractions
from ionrt.quantities import IonrtError, stamp


@dataclass(frozen=True)
class Timing:
    """How a room delivers spots in time; the defaults are assumptions of ionrt, not data of a machine."""

    energy_switch: float = 1.0  # s between two energies of a beam (about 1 s for a synchrotron)
    beam_switch: float = 60.0  # s between two beams
    rate: float = 1e8  # particles per second
    travel: float = 5e-4  # s between two spots

    def __post_init__(self) -> None:
        if min(self.energy_switch, self.beam_switch, self.travel) < 0.0 or not self.rate > 0.0:
            raise IonrtError("timing: expected times of at least 0 s and a positive rate of particles per second")

    def starts(self, influence: Influence, weights: xr.DataArray | np.ndarray, *, rescans: int = 1) -> np.ndarray:
        """When each spot begins, s from the start of the fraction: (rescan, spot). Beam by beam, highest energy first, along
        rows; each layer is painted `rescans` times with that share of the particles before the next energy."""
        w, spots = check_weights(influence, weights), influence.spots()
        beam, energy = spots["beam_index"].values, spots["energy"].values
        order = np.lexsort((spots["u"].values, spots["v"].values, -energy, beam))
        out, clock, before = np.zeros((rescans, w.size)), 0.0, None
        layers = np.split(order, np.flatnonzero((np.diff(beam[order]) != 0) | (np.diff(energy[order]) != 0)) + 1)
        for layer in (kept for one in layers if (kept := one[w[one] > 0.0]).size):
            if before is not None:
                clock += self.beam_switch if beam[layer[0]] != before else self.energy_switch
            before = beam[layer[0]]
            lasts = w[layer] / (rescans * self.rate) + self.travel
            for k in range(rescans):
                out[k, layer] = clock + np.concatenate([[0.0], np.cumsum(lasts)[:-1]])
                clock += float(lasts.sum())
        return out


def phase_field(
    fields: Sequence[xr.Dataset], transforms: Sequence[xr.Dataset], *, like: xr.Dataset, shares: Sequence[float]
) -> xr.Dataset:
    """One fraction on a moving patient: moments of the phases add, then the model is applied once.

    `fields` of the whole plan on each phase, `transforms` from the reference phase to each, `shares` of the time in each (their
    sum is 1); the field (z, y, x) lies on the grid of `like`, per fraction.
    """
    if not len(fields) == len(transforms) == len(shares) or abs(sum(shares) - 1.0) > 1e-6 or min(shares) < 0.0:
        raise IonrtError(f"phase_field: expected one share per phase, together 1, got {tuple(shares)} for {len(fields)} fields")
    return _added([map_field(f, t, like=like) for f, t in zip(fields, transforms, strict=True)], shares)


def itv(
    phases: Sequence[xr.Dataset], structure: str, *, transforms: Sequence[xr.Dataset] | None = None, name: str = "ITV"
) -> xr.Dataset:
    """The first phase with an internal target volume: wherever the structure is in any phase.

    Parameters
    ----------
    phases : Datasets in one frame of reference, the first being the reference.
    structure : contoured on every phase, or only on the first, with
    transforms : from the first to each phase.
    name : of the new structure.

    Returns
    -------
    Dataset with one more structure, the voxel-wise maximum of the fractions.

    Raises
    ------
    IonrtError
        A structure that a phase does not have; a name that exists.
    """
    first = phases[0]
    grid = Grid.of(first, what="first phase")
    points, whole = centres(grid), np.zeros(grid.shape, np.float32)
    for k, phase in enumerate(phases):
        if transforms is None:
            found = at_points(structure_fractions(phase, structure)[None], Grid.of(phase, what="phase"), points)[0]
        else:  # where the reference structure goes: pulled back by the inverse
            found = at_points(structure_fractions(first, structure)[None], grid, move_points(invert(transforms[k]), points))[0]
        whole = np.maximum(whole, np.nan_to_num(found).reshape(grid.shape))
    kinds = kinds_of(first)
    if name in kinds:
        raise IonrtError(f"itv: there is a structure {name!r} already; choose another name")
    layers = {s: structure_fractions(first, s) for s in kinds} | {name: whole}
    return with_fractions(first, layers, kinds | {name: kinds[structure]})


def interplay(
    influences: Sequence[Influence],
    weights: xr.DataArray | np.ndarray,
    transforms: Sequence[xr.Dataset],
    *,
    period: float,
    starts: Sequence[float],
    timing: Timing | None = None,
    rescans: int = 1,
    like: xr.Dataset,
    models: Sequence[str] = ("nirs_mkm",),
    let_definition: str = "charged",
) -> xr.Dataset:
    r"""Fractions on a breathing patient, every spot on the phase in which it falls.

    A spot that begins at t is given in phase :math:`\lfloor n\,((t + t_0)/T \bmod 1) \rfloor`; the fraction is the sum over
    phases of the mapped fields, each with the weights of its spots.

    Parameters
    ----------
    influences : of the plan on each phase (`deliver`), phases of equal length in the order of breathing.
    weights : particles per spot and fraction.
    transforms : reference to each phase.
    period : T [s].
    starts : t0 of each fraction [s], drawn by the user: one fraction each.
    timing : of the room, default `Timing()`.
    rescans : how often each layer is painted.
    like : grid of the reference phase.
    models, let_definition : as in `ionrt.field`.

    Returns
    -------
    Dataset (fraction, z, y, x); ``ionrt.adapt.total`` and `ionrt.rbe.add_fractions` take it from there.

    Raises
    ------
    IonrtError for unequal numbers of phases, a period that is not positive, no fraction.

    Validity: a spot is short against a phase; regular breathing; timing is an assumption unless measured.

    References
    ----------
    Bert and Durante, Phys. Med. Biol. 56 (2011) R113, doi 10.1088/0031-9155/56/16/R01.
    """
    n = len(influences)
    if n != len(transforms) or n == 0 or not period > 0.0 or not len(starts):
        raise IonrtError("interplay: expected one transform per phase, a positive period and at least one start")
    timing, w = timing or Timing(), check_weights(influences[0], weights)
    begin = timing.starts(influences[0], w, rescans=rescans)
    fractions = []
    for start in starts:
        phase = np.floor(n * (((begin + start) / period) % 1.0)).astype(int) % n
        parts = []
        for k, (one, way) in enumerate(zip(influences, transforms, strict=True)):
            given = w * (phase == k).sum(axis=0) / rescans
            parts.append(map_field(field(one, given, models=models, let_definition=let_definition), way, like=like))
        fractions.append(_added(parts, [1.0] * n))
    return course(fractions, parts=[1] * len(fractions))


def _added(parts: Sequence[xr.Dataset], shares: Sequence[float]) -> xr.Dataset:
    """Sum of share times field; NaN where any phase is NaN."""
    out = xr.Dataset(attrs=parts[0].attrs | {"outside": max(p.attrs["outside"] for p in parts)})
    for name, shared in shared_variables(parts, what="phase_field").items():
        a = parts[0][name]
        told = kept_attrs(a) | shared | {"outside": out.attrs["outside"]}
        total = running_sum(p[name] * np.float32(s) for p, s in zip(parts, shares, strict=True))
        out[name] = stamp(total.astype(a.dtype), name, **told)
    return out
