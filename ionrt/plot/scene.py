"""What an explorer looks at: fields on one grid, and any value of them where it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from ionrt import rbe
from ionrt.let import let_d
from ionrt.patient.names import kinds_of
from ionrt.quantities import IonrtError

GRID = ("z", "y", "x")
LEVELS = 300  # of a histogram


class Scene:
    """What is looked at: fields by name on one grid, CT and structures; every value is worked out where it is asked for.

    A plan given with another dose per fraction has its dose and all moments multiplied alike; models are then applied to that.
    """

    def __init__(
        self,
        cases: Mapping[str, xr.Dataset],
        grid: xr.Dataset,
        *,
        prescription: float | None,
        models: Mapping[str, str],
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        ions: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        if not cases:
            raise IonrtError("explore: expected at least one field")
        self.fields = {
            name: xr.Dataset(
                {k: v.transpose(*GRID).reset_coords(drop=True) for k, v in field.data_vars.items() if set(v.dims) == set(GRID)}
            ).load()
            for name, field in cases.items()
        }
        for name, field in self.fields.items():
            if "dose" not in field:
                raise IonrtError(
                    f"explore: {name}: expected a field with `dose` on (z, y, x), it has {', '.join(map(str, field))}"
                )
        first = next(iter(self.fields.values()))
        self.axes = {d: first[d].values.astype(float) for d in GRID}
        self.ct = np.asarray(grid["ct"].transpose(*GRID).values, dtype=np.float32) if "ct" in grid else None
        self.structures = {
            str(s): np.asarray(grid["structures"].sel(structure=s).transpose(*GRID).values, dtype=np.float32)
            for s in (grid["structures"]["structure"].values if "structures" in grid else ())
        }
        self.kinds = kinds_of(grid["structures"]) if "structures" in grid else {}
        self.prescription = prescription or max(float(f["dose"].max()) for f in self.fields.values())
        self.planned, self.given = dict(models), dict(parameters or {})
        self.ions = {name: set((ions or {}).get(name, ())) for name in cases}

    def models(self, case: str) -> list[str]:
        """The models made for the ions of a case whose moments its field carries, the planned one first."""
        field, ions = self.fields[case], self.ions[case]
        made = [n for n, m in rbe.MODELS.items() if not m.validity.ions or (ions and ions <= set(m.validity.ions))]
        return list(dict.fromkeys([self.planned[case], *(n for n in made if n != "linear" and self._able(field, n))]))

    def _able(self, field: xr.Dataset, model: str) -> bool:
        point = field.isel(dict.fromkeys(GRID, slice(0, 1)))
        try:
            self._weighted(point, model, {}, {"alpha_beta": 2.0})
        except (IonrtError, TypeError):
            return False
        return True

    def _weighted(self, part: xr.Dataset, model: str, given: Mapping[str, Any], free: Mapping[str, float]) -> xr.DataArray:
        takes = rbe.MODELS[model].defaults
        chosen = {k: v for k, v in free.items() if k in takes}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one a slice would bury the notebook; the model's range stands in the status line
            return rbe.apply_model(part, model, **{**given, **chosen})

    def value(
        self,
        case: str,
        quantity: str,
        where: Mapping[str, Any] | np.ndarray,
        *,
        scale: float = 1.0,
        model: str = "",
        **free: float,
    ) -> np.ndarray:
        """A quantity of a case in a part of the grid: indices {dim: index}, or flat indices of voxels."""
        field = self.fields[case]
        if isinstance(where, np.ndarray):
            part = xr.Dataset({k: ("voxel", v.values.ravel()[where], v.attrs) for k, v in field.data_vars.items()})
        else:
            part = field.isel(where)
        part = xr.Dataset({k: (v * np.float32(scale)).assign_attrs(v.attrs) for k, v in part.data_vars.items()})
        if quantity == "dose":
            return part["dose"].values
        if quantity == "let_d":
            return let_d(part).where(part["dose"] > 0.02 * self.prescription * scale).values
        model = model or self.planned[case]
        weighted = self._weighted(part, model, self.given.get(case, {}) if model == self.planned[case] else {}, free).values
        if quantity == "rbe_dose":
            return weighted
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(part["dose"].values > 0.02 * self.prescription * scale, weighted / part["dose"].values, np.nan)

    def at(self, case: str, index: Mapping[str, int], **settings: Any) -> dict[str, float]:
        """HU, dose, LETd and RBE-weighted dose of one voxel."""
        place = tuple(index[d] for d in GRID)
        found = {"ct": float(self.ct[place])} if self.ct is not None else {}
        one = {d: slice(i, i + 1) for d, i in index.items()}
        quantities = ("dose", *(("let_d",) if "let_x_dose" in self.fields[case] else ()), "rbe_dose")
        return found | {q: float(self.value(case, q, one, **settings).ravel()[0]) for q in quantities}

    def inside(self, index: Mapping[str, int]) -> list[str]:
        """The structures that hold a voxel by more than half."""
        place = tuple(index[d] for d in GRID)
        return [name for name, fractions in self.structures.items() if fractions[place] > 0.5]

    @cached_property
    def voxels(self) -> np.ndarray:
        """Flat indices of the voxels that any structure but the whole body touches."""
        most = 0.5 * next(iter(self.fields.values()))["dose"].size
        counted = [f for f in self.structures.values() if np.count_nonzero(f) < most]
        return np.flatnonzero(np.any(counted, axis=0)) if counted else np.empty(0, dtype=int)

    def histograms(
        self, case: str, quantity: str, names: Iterable[str], **settings: Any
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Cumulative volume histograms {structure: (values, volume %)} on the dose grid."""
        values = self.value(case, quantity, self.voxels, **settings)
        good = np.isfinite(values)
        top = float(values[good].max(initial=0.0)) or 1.0
        edges = np.linspace(0.0, 1.0001 * top, LEVELS + 1)
        found = {}
        for name in names:
            weights = self.structures[name].ravel()[self.voxels][good]
            if not weights.sum() > 0:
                continue
            counts = np.histogram(values[good], bins=edges, weights=weights)[0]
            found[name] = (edges[:-1], 100.0 * counts[::-1].cumsum()[::-1] / weights.sum())
        return found
