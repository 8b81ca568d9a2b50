"""The RBE models: each a `Model` in `MODELS`; `ionrt.rbe.functions` has a function of the same name for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ionrt.biology.oxygen import osmk23_at
from ionrt.biology.tissues import INANIWA_2023, Kernel, Lem1, Mkm, Osmk21, Osmk23, Smk, Tissue, get_tissue
from ionrt.quantities import IonrtError
from ionrt.rbe import kernels, kernels_let
from ionrt.rbe.definition import Validity
from ionrt.rbe.model import Model

Number = float | xr.DataArray
PROTONS = ("p",)
NO_THRESHOLD = 1e9  # Gy: tables of alpha and beta stay linear-quadratic at any dose
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


def _cell(kind: type) -> Any:
    return lambda tissue, **_: get_tissue(tissue, kind)


def _let_model(name: str, constants: tuple[float, ...], citation: str, confidence: str = "2+") -> Model:
    """RBEmax = a0 + (a1 / ab + a2) L, RBEmin = b0 + (b1 / ab + b2 sqrt(ab)) L."""
    return Model(
        name=name,
        moments=("let_x_dose",),
        resolve=lambda alpha_beta: (_positive(alpha_beta, "alpha_beta"), *constants),
        value=kernels_let.let_value,
        slopes=kernels_let.let_slopes,
        validity=Validity(ions=PROTONS, let=20.0),
        citation=citation,
        confidence=confidence,
        defaults={"alpha_beta": None},
        maps=("alpha_beta",),
        let_definition="charged",
    )


def _linear(slope: float, intercept: float) -> tuple:
    if not (np.isfinite(slope) and slope >= 0):
        raise IonrtError(f"linear, slope: expected a number >= 0 in um/keV, got {slope!r}")
    return _positive(intercept, "intercept"), float(slope)


def _wilkens(alpha_beta: Any, alpha_x: float) -> tuple:
    a = _positive(alpha_x, "alpha_x")
    return _positive(alpha_beta, "alpha_beta"), 0.1 / a, 0.0, 0.02 / a, 1.0, 0.0, 0.0


def _chen(alpha_beta: Any, alpha_x: float) -> tuple:
    return _positive(alpha_beta, "alpha_beta"), _positive(alpha_x, "alpha_x"), 0.1, 0.0013, 0.045


_ALL = (
    Model(
        "constant",
        (),
        _constant,
        kernels.constant_value,
        kernels.constant_slopes,
        Validity(dose=np.inf),
        "ICRU Report 78 (2007)",
        defaults={"rbe": 1.1},
        maps=("rbe",),
    ),
    Model(
        "nirs_mkm",
        ("zstar_x_dose",),
        _nirs_mkm,
        kernels.mkm_value,
        kernels.mkm_slopes,
        Validity(),
        "Inaniwa et al. 2015, doi 10.1088/0031-9155/60/8/3271",
        defaults={"tissue": "mkm_nirs", "alpha_r": 0.764, "clinical_factor": 2.41},
        cell=_cell(Mkm),
    ),
    Model(
        "lem1",
        ("alpha_x_dose", "sqrt_beta_x_dose"),
        _lem1,
        kernels.lem_value,
        kernels.lem_slopes,
        Validity(),
        "Kraemer and Scholz 2006, doi 10.1088/0031-9155/51/8/001",
        defaults={"tissue": "lem1_chordoma"},
        cell=_cell(Lem1),
    ),
    Model(
        "lem_kernel",
        ("alpha_x_dose", "sqrt_beta_x_dose"),
        _lem_kernel,
        kernels.lem_value,
        kernels.lem_slopes,
        Validity(),
        "alpha and beta of the user's machine file; mixing after Zaider and Rossi 1980, doi 10.2307/3575352",
        "1",
        defaults={"tissue": None},
        cell=_cell(Kernel),
    ),
    Model(
        "smk",
        ("zstar_x_dose", "zd_x_dose", "zn_x_dose"),
        _smk,
        kernels.smk_value,
        kernels.smk_slopes,
        Validity(correction=0.5),
        "Inaniwa and Kanematsu 2018, doi 10.1088/1361-6560/aabede",
        "1",
        defaults={"tissue": "smk_hsg", "reference": None, "scale": 1.0},
        cell=_cell(Smk),
    ),
    Model(
        "osmk",
        ("zstar_x_dose", "zd_x_dose", "zn_x_dose"),
        _osmk,
        kernels.osmk_value,
        kernels.osmk_slopes,
        Validity(correction=0.5),
        "Inaniwa et al. 2021, doi 10.1088/1361-6560/ac29cc",
        "1",
        defaults={"tissue": "osmk21_hsg", "po2": 160.0, "reference": None, "scale": 1.0},
        maps=("po2",),
        cell=_cell(Osmk21),
    ),
    Model(
        "osmk23",
        ("zstar_x_dose", "zd_x_dose", "zn_x_dose"),
        _osmk23,
        kernels.smk_value,
        kernels.smk_slopes,
        Validity(correction=0.5),
        INANIWA_2023,
        "?",
        defaults={"tissue": "osmk23_cho", "po2": 160.0, "z0_exponent": None, "reference": None, "scale": 1.0},
        cell=_osmk23_cell,
    ),
    _let_model("wedenberg", (1.0, 0.434, 0.0, 1.0, 0.0, 0.0), "Wedenberg et al. 2013, doi 10.3109/0284186X.2012.705892"),
    _let_model(
        "carabe",
        (0.843, 0.154 * 2.686, 0.0, 1.09, 0.006 * 2.686, 0.0),
        "Carabe-Fernandez et al. 2012, doi 10.1088/0031-9155/57/5/1159",
    ),
    _let_model(
        "mcnamara",
        (0.99064, 0.35605, 0.0, 1.1012, 0.0, -0.0038703),
        "McNamara et al. 2015, doi 10.1088/0031-9155/60/21/8399",
    ),
    _let_model("rorvik", (1.0, 0.645, 0.0, 1.0, 0.0, 0.0), f"Rorvik et al., unweighted fit, {_TABLES}"),
    Model(
        "wilkens",
        ("let_x_dose",),
        _wilkens,
        kernels_let.let_value,
        kernels_let.let_slopes,
        Validity(ions=PROTONS, let=20.0),
        f"Wilkens and Oelfke 2004, {_TABLES}",
        defaults={"alpha_beta": None, "alpha_x": 0.112},
        maps=("alpha_beta",),
        let_definition="charged",
    ),
    Model(
        "chen",
        ("let_x_dose",),
        _chen,
        kernels_let.chen_value,
        kernels_let.chen_slopes,
        Validity(ions=PROTONS, let=20.0),
        f"Chen and Ahmad 2012, {_TABLES}",
        "1",
        defaults={"alpha_beta": None, "alpha_x": 0.1},
        maps=("alpha_beta",),
        let_definition="charged",
    ),
    Model(
        "linear",
        ("let_x_dose",),
        _linear,
        kernels_let.linear_value,
        kernels_let.linear_slopes,
        Validity(ions=PROTONS, let=20.0),
        f"form of Unkelbach et al. 2016, see {_TABLES}",
        defaults={"slope": None, "intercept": 1.0},
        let_definition="charged",
    ),
    Model(
        "mairani_helium",
        ("let_x_dose",),
        lambda alpha_beta: (_positive(alpha_beta, "alpha_beta"), 0.136938, 9.73154e-3, 1.51998e-2),
        kernels_let.helium_value,
        kernels_let.helium_slopes,
        Validity(ions=("He",), let=140.0),
        "Mairani et al. 2016, doi 10.1088/0031-9155/61/2/888",
        "1",
        defaults={"alpha_beta": None},
        maps=("alpha_beta",),
        let_definition="charged",
    ),
)
MODELS: dict[str, Model] = {m.name: m for m in _ALL}
