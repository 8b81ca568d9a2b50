"""Tables of the additive moments for the products: which field variables a model needs, and their values per unit dose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ionrt.plan.setup.machine import Machine, slab_mean
from ionrt.quantities import LET_MOMENTS, OWN_DOSE, IonrtError


@dataclass(frozen=True)
class Moment:
    """A field variable besides dose, with what it must carry: the LET definition or threshold, or the cell's parameter set."""

    name: str
    let_definition: str | None = None
    tissue: Any = None
    label: str | None = None
    let_threshold: float | None = None

    def attrs(self, bases: Iterable[xr.Dataset]) -> dict[str, Any]:
        """Attributes of the field variable made of these base data."""
        if self.name == "high_let_dose":
            return {"let_definition": "charged", "let_threshold": self.let_threshold}
        from ionrt.biology.moments import let_attrs

        return let_attrs(self.let_definition, bases) if self.name in LET_MOMENTS else {"parameter_set": self.label}


def moments_of(model: Any, parameters: Mapping[str, Any], *, let_definition: str) -> tuple[Moment, ...]:
    """The moments of an `ionrt.rbe.model.Model` with the given parameters, in its order."""
    merged = model.parameters(parameters)
    cell = model.cell(**merged) if model.cell else None
    out = []
    for name in model.moments:
        if name in LET_MOMENTS:
            out.append(Moment(name, let_definition=model.let_definition or let_definition))
        else:
            out.append(Moment(name, tissue=cell, label=cell.name if cell else None))
    return tuple(out)


def merge(wanted: Sequence[Moment]) -> tuple[Moment, ...]:
    """Each variable once, and the dose of the counted particles with LET that is weighted with it; two parameter sets for one
    variable raise, a field holds one."""
    seen: dict[str, Moment] = {}
    for moment in wanted:
        have = seen.setdefault(moment.name, moment)
        if (one := have.attrs(())) != (other := moment.attrs(())):
            raise IonrtError(f"{moment.name}: asked for {one} and {other} in one field; call ionrt.field once for each")
    for definition in {m.let_definition for m in seen.values() if m.name in LET_MOMENTS} & set(OWN_DOSE):
        seen.setdefault("counted_dose", Moment("counted_dose", let_definition=definition))
    return tuple(seen.values())


def moment_values(base: xr.Dataset, moments: Sequence[Moment]) -> list[np.ndarray]:
    """Value per unit dose of each moment, arrays (depth, energy) float64 over all energies of the base data."""
    from ionrt.biology.moments import moment_tables

    out = []
    for moment in moments:
        asked: dict[str, Any] = {"parameter_set": moment.tissue}
        if moment.name == "high_let_dose":
            asked = {"let_threshold": moment.let_threshold}
        elif moment.name in LET_MOMENTS:
            asked = {"let_definition": moment.let_definition}
        table = moment_tables(base, (moment.name,), **asked)[moment.name]
        out.append(table.transpose("depth", "energy").values.astype(np.float64))
    return out


def beam_table(machine: Machine, taps: np.ndarray, values: Sequence[np.ndarray]) -> np.ndarray:
    """(depth bin, moment, energy) float32: dose-weighted over the slabs of a voxel, for the energies of one beam."""
    shape = (machine.dose.shape[0], len(values), machine.energy.size)
    out = np.zeros(shape, dtype=np.float32)
    mean = slab_mean(machine.dose, taps)
    for k, value in enumerate(values):
        picked = np.nan_to_num(value[:, machine.energy_index])
        out[:, k] = np.divide(slab_mean(machine.dose * picked, taps), mean, out=picked.copy(), where=mean > 0.0)
    return out
