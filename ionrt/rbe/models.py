"""The RBE models: each a `Model` in `MODELS`, made of its public function, whose signature has the defaults, and kernels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from ionrt.biology.oxygen import osmk23_at
from ionrt.biology.tissues import INANIWA_2023, Kernel, Lem1, Mkm, Osmk21, Osmk23, Smk, Tissue, get_tissue
from ionrt.quantities import IonrtError
from ionrt.rbe import functions, kernels, kernels_let
from ionrt.rbe.blocks import Validity
from ionrt.rbe.model import MODELS, Model

Number = float | xr.DataArray
PROTONS = ("p",)
NO_THRESHOLD = 1e9  # Gy: tables of alpha and beta stay linear-quadratic at any dose
on_let: Any = kernels_let  # numba functions have no types
_TABLES = "as tabulated in doi 10.1259/bjr.20190334 and doi 10.1088/1361-6560/aad9db"


def _positive(value: Any, what: str) -> Any:
    if isinstance(value, xr.DataArray):
        return value
    array = np.asarray(value, dtype=float)
    if not np.all((array > 0.0) & np.isfinite(array)):
        raise IonrtError(f"{what}: expected positive finite numbers, got {value!r}")
    return array if array.ndim else float(array)


def _constant(rbe: float) -> tuple:
    return (_positive(rbe, "rbe"),)


def _nirs_mkm(tissue: str | Tissue, alpha_r: float, clinical_factor: float) -> tuple:
    t = get_tissue(tissue, Mkm)
    return t.alpha0, t.beta0, _positive(alpha_r, "alpha_r"), t.beta0, _positive(clinical_factor, "clinical_factor")


def _reference(tissue: Any, reference: tuple[float, float] | None) -> tuple[float, float]:
    """Coefficients of the reference radiation: given, or the limit of low LET of the parameter set itself."""
    alpha, beta = (tissue.alpha0, tissue.beta0) if reference is None else reference
    return _positive(alpha, "reference alpha"), _positive(beta, "reference beta")


def _smk(tissue: str | Tissue, reference: tuple[float, float] | None, scale: float) -> tuple:
    t = get_tissue(tissue, Smk)
    return t.alpha0, t.beta0, *_reference(t, reference), _positive(scale, "scale")


def _osmk(tissue: str | Tissue, po2: Any, reference: tuple[float, float] | None, scale: float) -> tuple:
    t = get_tissue(tissue, Osmk21)
    pressure = np.asarray(po2, dtype=float)
    if not np.all((pressure >= 0.0) & np.isfinite(pressure)):
        raise IonrtError("osmk, po2: expected an oxygen partial pressure in mmHg >= 0, got NaN, infinite or negative values")
    oxygen = pressure if pressure.ndim else float(pressure)
    cell = (t.alpha_l, t.alpha_s, t.beta0, t.z_r, t.gamma, t.r_m, t.k)
    return oxygen, *cell, *_reference(t, reference), _positive(scale, "scale")


def _osmk23_cell(tissue: str | Tissue, po2: float, z0_exponent: float, **_: Any) -> Smk:
    return osmk23_at(get_tissue(tissue, Osmk23), po2=po2, z0_exponent=z0_exponent)


def _osmk23(tissue: str | Tissue, po2: float, z0_exponent: float, reference: tuple[float, float] | None, scale: float) -> tuple:
    aerobic, cell = get_tissue(tissue, Osmk23), _osmk23_cell(tissue, po2, z0_exponent)
    return cell.alpha0, cell.beta0, *_reference(aerobic, reference), _positive(scale, "scale")


def _lem1(tissue: str | Tissue) -> tuple:
    t = get_tissue(tissue, Lem1)
    return t.alpha_x, t.beta_x, t.threshold, t.s_max


def _lem_kernel(tissue: Kernel) -> tuple:
    t = get_tissue(tissue, Kernel)
    return (
        _positive(t.alpha_x, "alpha_x"),
        _positive(t.beta_x, "beta_x"),
        NO_THRESHOLD,
        t.alpha_x + 2.0 * t.beta_x * NO_THRESHOLD,
    )


def _model(function: Callable[..., Any], citation: str, **definition: Any) -> Model:
    """The model of a public function, whose name and parameters it has; None where a parameter has no default."""
    parameters = {k: p.default for k, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    defaults = {k: None if v is inspect.Parameter.empty else v for k, v in parameters.items()}
    return Model(name=function.__name__, defaults=defaults, citation=citation, **definition)


def _cell_model(function: Callable[..., Any], citation: str, kind: type, **definition: Any) -> Model:
    """A model whose moments are made with a cell, the parameter `tissue`, of this kind."""
    known = {"cell": lambda tissue, **_: get_tissue(tissue, kind), "validity": Validity()}
    return _model(function, citation, **known | definition)


def _let_model(function: Callable[..., Any], citation: str, resolve: Any, **definition: Any) -> Model:
    """A model of LETd; unless it says otherwise, of protons, with alpha/beta that may be a map and `let_value` as kernel.

    RBEmax = a0 + (a1 / ab + a2) L, RBEmin = b0 + (b1 / ab + b2 sqrt(ab)) L, of six constants where these are all it has.
    """
    if isinstance(resolve, tuple):
        constants = resolve
        resolve = lambda alpha_beta: (_positive(alpha_beta, "alpha_beta"), *constants)  # noqa: E731
    known = {
        "moments": ("let_x_dose",),
        "value": on_let.let_value,
        "slopes": on_let.let_slopes,
        "validity": Validity(ions=PROTONS, let=20.0),
        "maps": ("alpha_beta",),
        "let_definition": "charged",
    }
    return _model(function, citation, resolve=resolve, **known | definition)


def _linear(slope: float, intercept: float) -> tuple:
    if not (np.isfinite(slope) and slope >= 0):
        raise IonrtError(f"linear, slope: expected a number >= 0 in um/keV, got {slope!r}")
    return _positive(intercept, "intercept"), float(slope)


def _wilkens(alpha_beta: Any, alpha_x: float) -> tuple:
    a = _positive(alpha_x, "alpha_x")
    return _positive(alpha_beta, "alpha_beta"), 0.1 / a, 0.0, 0.02 / a, 1.0, 0.0, 0.0


def _chen(alpha_beta: Any, alpha_x: float) -> tuple:
    return _positive(alpha_beta, "alpha_beta"), _positive(alpha_x, "alpha_x"), 0.1, 0.0013, 0.045


_STOCHASTIC: dict[str, Any] = {"moments": ("zstar_x_dose", "zd_x_dose", "zn_x_dose"), "validity": Validity(correction=0.5)}
_SMK: dict[str, Any] = {**_STOCHASTIC, "value": kernels.smk_value, "slopes": kernels.smk_slopes}
_LEM: dict[str, Any] = {
    "moments": ("alpha_x_dose", "sqrt_beta_x_dose"),
    "value": kernels.lem_value,
    "slopes": kernels.lem_slopes,
}
_ALL = (
    _model(
        functions.constant,
        "ICRU Report 78 (2007)",
        moments=(),
        resolve=_constant,
        value=kernels.constant_value,
        slopes=kernels.constant_slopes,
        validity=Validity(dose=np.inf),
        maps=("rbe",),
    ),
    _cell_model(
        functions.nirs_mkm,
        "Inaniwa et al. 2015, doi 10.1088/0031-9155/60/8/3271",
        Mkm,
        moments=("zstar_x_dose",),
        resolve=_nirs_mkm,
        value=kernels.mkm_value,
        slopes=kernels.mkm_slopes,
    ),
    _cell_model(functions.lem1, "Kraemer and Scholz 2006, doi 10.1088/0031-9155/51/8/001", Lem1, resolve=_lem1, **_LEM),
    _cell_model(
        functions.lem_kernel,
        "alpha and beta of the user's machine file; mixing after Zaider and Rossi 1980, doi 10.2307/3575352",
        Kernel,
        resolve=_lem_kernel,
        confidence="1",
        **_LEM,
    ),
    _cell_model(
        functions.smk, "Inaniwa and Kanematsu 2018, doi 10.1088/1361-6560/aabede", Smk, resolve=_smk, confidence="1", **_SMK
    ),
    _cell_model(
        functions.osmk,
        "Inaniwa et al. 2021, doi 10.1088/1361-6560/ac29cc",
        Osmk21,
        resolve=_osmk,
        value=kernels.osmk_value,
        slopes=kernels.osmk_slopes,
        confidence="1",
        maps=("po2",),
        **_STOCHASTIC,
    ),
    _model(functions.osmk23, INANIWA_2023, resolve=_osmk23, cell=_osmk23_cell, confidence="?", **_SMK),
    _let_model(
        functions.wedenberg, "Wedenberg et al. 2013, doi 10.3109/0284186X.2012.705892", (1.0, 0.434, 0.0, 1.0, 0.0, 0.0)
    ),
    _let_model(
        functions.carabe,
        "Carabe-Fernandez et al. 2012, doi 10.1088/0031-9155/57/5/1159",
        (0.843, 0.154 * 2.686, 0.0, 1.09, 0.006 * 2.686, 0.0),
    ),
    _let_model(
        functions.mcnamara,
        "McNamara et al. 2015, doi 10.1088/0031-9155/60/21/8399",
        (0.99064, 0.35605, 0.0, 1.1012, 0.0, -0.0038703),
    ),
    _let_model(functions.rorvik, f"Rorvik et al., unweighted fit, {_TABLES}", (1.0, 0.645, 0.0, 1.0, 0.0, 0.0)),
    _let_model(functions.wilkens, f"Wilkens and Oelfke 2004, {_TABLES}", _wilkens),
    _let_model(
        functions.chen,
        f"Chen and Ahmad 2012, {_TABLES}",
        _chen,
        value=on_let.chen_value,
        slopes=on_let.chen_slopes,
        confidence="1",
    ),
    _let_model(
        functions.linear,
        f"form of Unkelbach et al. 2016, see {_TABLES}",
        _linear,
        value=on_let.linear_value,
        slopes=on_let.linear_slopes,
        maps=(),
    ),
    _let_model(
        functions.mairani_helium,
        "Mairani et al. 2016, doi 10.1088/0031-9155/61/2/888",
        (0.136938, 9.73154e-3, 1.51998e-2),
        value=on_let.helium_value,
        slopes=on_let.helium_slopes,
        validity=Validity(ions=("He",), let=140.0),
        confidence="1",
    ),
)
MODELS.update({m.name: m for m in _ALL})
