"""What makes an RBE model of a public function: the function has name, parameters and defaults, the lines above it the rest."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import xarray as xr

from ionrt.biology.tissues import get_tissue
from ionrt.quantities import IonrtError
from ionrt.rbe import kernels_let
from ionrt.rbe.blocks import Validity
from ionrt.rbe.model import MODELS, Model, apply_model

Function = TypeVar("Function", bound=Callable[..., xr.DataArray])
on_let: Any = kernels_let  # numba functions have no types
CONFIDENCE = {"2+": "", "1": " (confidence: one source)", "?": ' (confidence "?")'}
ALIKE = """
Returns
-------
``rbe_dose`` [Gy (RBE)], the field's shape.

Raises
------
IonrtError
    As in `apply_model`: a moment that is missing or of another set, ions or parameters that the model is not made for.

References
----------
"""


def model(citation: str, **definition: Any) -> Callable[[Function], Function]:
    """The function below as a model; what all of them return and refuse, and the citation, are added to its docstring."""

    def made(function: Function) -> Function:
        parameters = {k: p.default for k, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
        defaults = {k: None if v is inspect.Parameter.empty else v for k, v in parameters.items()}
        one = MODELS[function.__name__] = Model(name=function.__name__, defaults=defaults, citation=citation, **definition)

        @wraps(function)
        def call(field: xr.Dataset, **params: Any) -> xr.DataArray:
            return apply_model(field, one.name, **params)

        call.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n{ALIKE}{citation}{CONFIDENCE[one.confidence]}."
        return cast(Function, call)

    return made


def cell_model(citation: str, kind: type, **definition: Any) -> Callable[[Function], Function]:
    """A model whose moments are made with a cell, the parameter `tissue`, of this kind."""
    known = {"cell": lambda tissue, **_: get_tissue(tissue, kind), "validity": Validity()}
    return model(citation, **known | definition)


def let_model(citation: str, resolve: Any, **definition: Any) -> Callable[[Function], Function]:
    """A model of LETd; unless it says otherwise, of protons, with alpha/beta that may be a map and `let_value` as kernel.

    RBEmax = a0 + (a1 / ab + a2) L, RBEmin = b0 + (b1 / ab + b2 sqrt(ab)) L, of six constants where these are all it has.
    """
    if isinstance(resolve, tuple):
        constants = resolve
        resolve = lambda alpha_beta: (positive(alpha_beta, "alpha_beta"), *constants)  # noqa: E731
    known = {
        "moments": ("let_x_dose",),
        "value": on_let.let_value,
        "slopes": on_let.let_slopes,
        "validity": Validity(ions=("p",), let=20.0),
        "maps": ("alpha_beta",),
        "let_definition": "charged",
    }
    return model(citation, resolve=resolve, **known | definition)


def positive(value: Any, what: str) -> Any:
    """A positive finite number, an array of them, or a map as it is."""
    if isinstance(value, xr.DataArray):
        return value
    array = np.asarray(value, dtype=float)
    if not np.all((array > 0.0) & np.isfinite(array)):
        raise IonrtError(f"{what}: expected positive finite numbers, got {value!r}")
    return array if array.ndim else float(array)
