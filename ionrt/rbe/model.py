"""What an RBE model is: names of moments, one kernel, its slopes, its declared validity; called on a field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np
import xarray as xr

from ionrt.biology.tissues import Tissue
from ionrt.files import content_hash
from ionrt.let import definition_of, ions_of
from ionrt.parallel import slabs
from ionrt.quantities import IonrtError, check, check_same_grid, one_of, stamp
from ionrt.rbe import blocks
from ionrt.rbe.blocks import Definition

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Model(Definition):
    """An RBE model: a pure function of dose and additive moments, voxel by voxel. Doses are per fraction.

    ``model(field, **params)`` returns the labelled RBE-weighted dose; ``model.kernel(dose, *moments, **params)`` and
    ``model.partials(dose, *moments, **params)`` work on plain arrays and serve the optimiser.
    """

    citation: str
    confidence: str = "2+"
    defaults: Mapping[str, Any] = dataclass_field(default_factory=dict)
    maps: tuple[str, ...] = ()
    """Parameters that may be a map (one value per voxel) instead of a number."""
    cell: Callable[..., Tissue] | None = None
    """The parameter set that the moments must be made with, from the user's parameters; None where they hold LET."""
    let_definition: str | None = None

    def parameters(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The given parameters with the defaults filled in; unknown or missing names raise."""
        merged = {**self.defaults, **params}
        unknown = [k for k in params if k not in self.defaults]
        if unknown:
            raise IonrtError(f"{self.name}: no parameter {unknown[0]!r}; it takes {', '.join(self.defaults) or 'none'}")
        missing = [k for k, v in merged.items() if v is None and k not in ("reference",)]
        if missing:
            raise IonrtError(f"{self.name}: the parameter {missing[0]!r} must be given, it has no default")
        return merged

    def kernel(self, dose: np.ndarray, *moments: np.ndarray, **params: Any) -> np.ndarray:
        """RBE-weighted dose [Gy (RBE)] of plain arrays of one shape; float32 in, float32 out. Bad values raise."""
        constants = self.resolve(**self.parameters(params))
        return blocks.evaluate(self, (dose, *moments), constants)[0]

    def partials(self, dose: np.ndarray, *moments: np.ndarray, **params: Any) -> Arrays:
        """Slopes of the RBE-weighted dose by dose and by each moment, each of the shape of `dose`; finite at zero dose."""
        constants = self.resolve(**self.parameters(params))
        arrays, maps = blocks.prepare(self, (dose, *moments), constants)
        maps = tuple(m if isinstance(m, np.ndarray) else float(c) for m, c in zip(maps, constants, strict=True))
        outs = tuple(np.empty_like(arrays[0]) for _ in arrays)
        for p in slabs(arrays[0].size):
            self.slopes(*(o[p] for o in outs), *(a[p] for a in arrays), *blocks.cut(maps, p))
        return tuple(o.reshape(np.shape(dose)) for o in outs)

    def __call__(self, field: xr.Dataset, **params: Any) -> xr.DataArray:
        """RBE-weighted dose of a field; see the module functions of `ionrt.rbe`."""
        merged, arrays, given = self._inputs(field, params)
        said = definition_of(field, self.moments[0], default=self.let_definition) if self.let_definition else {}
        label = self.cell(**merged).name if self.cell else None
        out = blocks.labelled(self, arrays, merged, given)
        shown = {k: ("map" if k in given else getattr(v, "name", v)) for k, v in merged.items() if v is not None}
        return stamp(
            out,
            "rbe_dose",
            rbe_model=self.name,
            parameter_set=label,
            parameters=", ".join(f"{k}={v}" for k, v in shown.items()) or None,
            parameters_hash=content_hash(self.name, sorted((k, str(v)) for k, v in shown.items())),
            **said,
            citation=self.citation,
            confidence=self.confidence,
            validity=str(self.validity),
            dose_per="fraction",
        )

    def outside(self, field: xr.Dataset, **params: Any) -> xr.DataArray:
        """Number of voxels outside the declared range; see `ionrt.rbe.model.voxels_outside`."""
        merged, arrays, given = self._inputs(field, params)
        return stamp(
            blocks.outside(self, arrays, merged, given), "voxels_outside", rbe_model=self.name, validity=str(self.validity)
        )

    def _inputs(
        self, field: xr.Dataset, params: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[xr.DataArray], tuple[str, ...]]:
        """Parameters with defaults, checked arrays on one grid (dose, moments, maps) and the names of the maps."""
        merged = self.parameters(params)
        self._check_ions(field)
        given = {k: v for k, v in merged.items() if isinstance(v, xr.DataArray)}
        for name in given:
            if name not in self.maps:
                takes = ", ".join(self.maps) or "no parameter"
                raise IonrtError(f"{self.name}, {name}: expected a number, got a map; a map may be given for {takes}")
        label = self.cell(**merged).name if self.cell else None
        arrays = [self._variable(field, name, label) for name in ("dose", *self.moments)]
        for name, value in given.items():
            check_same_grid(arrays[0], value, what=f"{self.name}, {name}")
        together = [*arrays, *given.values()]
        if any(a.dims != arrays[0].dims for a in together) or given:  # the variables of one field are aligned by nature
            together = list(xr.broadcast(*xr.align(*together, join="exact", copy=False)))
        return merged, together, tuple(given)

    def _variable(self, field: xr.Dataset, name: str, label: str | None) -> xr.DataArray:
        if not isinstance(field, xr.Dataset):
            raise IonrtError(
                f"{self.name}: expected a field (xarray.Dataset with dose and moments), got {type(field).__name__}"
            )
        if name not in field:
            has = ", ".join(map(str, field.data_vars)) or "nothing"
            raise IonrtError(f"{self.name} needs the field variable {name!r}; the field has {has}. Compute it with this model")
        if name == "dose":
            return check(field[name], name)
        if name == "let_x_dose":
            return check(field[name], name, let_definition=self.let_definition)
        return check(field[name], name, parameter_set=label)

    def _check_ions(self, field: xr.Dataset) -> None:
        """Refuse ions that the model was not made for, where the field says which ions it holds."""
        if self.validity.ions is None or not isinstance(field, xr.Dataset):
            return
        wrong = [i for i in ions_of(field) if i not in self.validity.ions]
        if wrong:
            raise IonrtError(
                f"{self.name}: made for {', '.join(self.validity.ions)}, the field holds {wrong[0]!r}; LET alone does not "
                "determine the RBE across ions. Use a model with a table over charge and energy (nirs_mkm, smk, lem1)"
            )


MODELS: dict[str, Model] = {}
"""Every model by its name."""


def apply_model(field: xr.Dataset, name: str, **params: Any) -> xr.DataArray:
    """RBE-weighted dose of `field` under the model `name` of `MODELS`; every model answers this call.

    Validity: that of the model (attribute ``validity``); warns once with the number of voxels outside, for a chunked field that
    of the first block that has any (`voxels_outside` counts them all).

    Parameters
    ----------
    field : Dataset (z, y, x) with ``dose`` [Gy] per fraction and the model's moments
    name : of the model, a key of `MODELS`
    params : those of the model.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], shape of dose, float32 where the field is; lazy where the field is chunked.

    Raises
    ------
    IonrtError
        An unknown model, a missing moment, wrong units or definitions, NaN, negative or infinite values.

    Examples
    --------
    2 Gy of protons at LETd 2.5 keV/um (SYNTHETIC) in tissue of alpha/beta 2 Gy: RBEmax = 1 + 0.434 * 2.5 / 2 = 1.54.

    >>> field = xr.Dataset({"dose": ("x", [2.0]), "let_x_dose": ("x", [5.0])})  # Gy, Gy keV/um
    >>> dose = ionrt.rbe.apply_model(field, "wedenberg", alpha_beta=2.0)
    >>> dose.round(2).values.tolist(), dose.attrs["units"]
    ([2.34], 'Gy (RBE)')
    """
    return MODELS[one_of(name, tuple(MODELS), what="RBE model")](field, **params)


def voxels_outside(field: xr.Dataset, name: str, **params: Any) -> xr.DataArray:
    """How many voxels of `field` lie outside the range that the model `name` was made for; lazy where the field is chunked.

    A chunked field warns when the first such block is computed and counts that block alone; this counts all of them.
    """
    return MODELS[one_of(name, tuple(MODELS), what="RBE model")].outside(field, **params)
