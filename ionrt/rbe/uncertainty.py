"""Ensembles over parameters and over the source of the stopping power, as a lazy dimension `sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import xarray as xr

from ionrt.biology.tissues import any_tissue
from ionrt.quantities import IonrtError, one_of, stamp
from ionrt.rbe.models import MODELS

TRACK_PARAMETERS = ("domain_radius", "nucleus_radius", "z0", "core_radius", "r_max_coefficient")


def _one(field: xr.Dataset, name: str, drawn: Mapping[str, float], params: Mapping[str, Any]) -> xr.DataArray:
    """The model with one draw: keys are parameters of the model, fields of its tissue, or moments to be scaled."""
    model = MODELS[name]
    merged = dict(params)
    moments = {k: v for k, v in drawn.items() if k in model.moments}
    own = {k: v for k, v in drawn.items() if k in model.defaults}
    cell = {k: v for k, v in drawn.items() if k not in moments and k not in own}
    if cell:
        tissue = merged.get("tissue", model.defaults.get("tissue"))
        if tissue is None:
            raise IonrtError(
                f"{name}: no parameter {next(iter(cell))!r}; it takes {', '.join((*model.defaults, *model.moments))}"
            )
        base = any_tissue(tissue)
        known = [f.name for f in fields(base)]
        for key in cell:
            if key in TRACK_PARAMETERS:
                raise IonrtError(f"{key} changes the moments themselves: make them again with moment_tables for each sample")
            one_of(key, [*known, *model.defaults, *model.moments], what=f"{name}, parameter to vary")
        changed: dict[str, Any] = dict(cell)
        merged["tissue"] = replace(base, **changed)
    scaled = field.assign({k: (field[k] * np.float32(v)).assign_attrs(field[k].attrs) for k, v in moments.items()})
    return model(scaled, **{**merged, **own})


def ensemble(field: xr.Dataset, name: str, *, samples: Mapping[str, Sequence[float]], **params: Any) -> xr.DataArray:
    """RBE-weighted dose for every draw of uncertain parameters, lazily.

    Parameters
    ----------
    field, name, params : the model and what it is called with, as in `apply_model`
    samples : {parameter: n values}: a number parameter of the model (``alpha_beta``, ``clinical_factor``), a coefficient of its
        tissue (``alpha0``, ``beta0``), or a moment (``zstar_x_dose``) with the factors to scale it by, which is how another
        source of the stopping power enters to first order (carbon z*: 3.3 % at 5 MeV/u, 1.6 % at 200).

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)] (sample, ...), one dask chunk per draw; nothing is computed.

    Raises
    ------
    IonrtError
        Unequal lengths, an unknown parameter, one that would change the moments (z0, radii).

    Examples
    --------
    >>> field = xr.Dataset({"dose": ("x", [2.0]), "let_x_dose": ("x", [5.0])})  # 2 Gy at LETd 2.5 keV/um, SYNTHETIC
    >>> draws = ionrt.rbe.ensemble(field, "wedenberg", samples={"alpha_beta": [2.0, 10.0]})  # Gy
    >>> draws.squeeze("x").round(2).values.tolist()  # Gy (RBE): late tissue, tumour
    [2.34, 2.15]
    """
    one_of(name, tuple(MODELS), what="RBE model")
    lengths = {k: len(v) for k, v in samples.items()}
    if not lengths or len(set(lengths.values())) != 1:
        raise IonrtError(f"samples: expected one or more parameters with equally many values, got {lengths}")
    lazy = field.chunk() if not field.chunks else field
    n = next(iter(lengths.values()))
    draws = [_one(lazy, name, {k: float(v[i]) for k, v in samples.items()}, params) for i in range(n)]
    out = xr.concat(draws, dim=xr.DataArray(np.arange(n), dims="sample", name="sample"), combine_attrs="drop_conflicts")
    return stamp(out, "rbe_dose", rbe_model=name, sampled=", ".join(samples), samples=n)


def bands(values: xr.DataArray, *, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> xr.DataArray:
    """Quantiles over `sample`.

    Parameters
    ----------
    values : any quantity with the dimension ``sample``
    quantiles : in [0, 1].

    Returns
    -------
    the same quantity (quantile, ...), lazy where the input is.

    Raises
    ------
    IonrtError
        Without the dimension ``sample``.

    Examples
    --------
    >>> draws = xr.DataArray([2.1, 2.2, 2.4], dims="sample", name="rbe_dose", attrs={"units": "Gy (RBE)"})  # SYNTHETIC
    >>> ionrt.rbe.bands(draws, quantiles=[0.5]).round(3).values.tolist()
    [2.2]
    """
    if "sample" not in values.dims:
        raise IonrtError(f"bands: expected the dimension 'sample', got {values.dims}")
    together = values.chunk(sample=-1) if values.chunks else values
    return together.quantile(list(quantiles), dim="sample", keep_attrs=True).astype(values.dtype)
