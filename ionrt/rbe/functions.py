"""The RBE models: field in, stamped RBE-weighted dose out.

Each stands here whole: what turns its parameters into the kernel's constants, what it is made of (citation, moments, kernel,
slopes, validity), and its public function, whose signature has parameters and defaults.
"""
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ionrt.biology.oxygen import osmk23_at
from ionrt.biology.tissues import INANIWA_2023, Kernel, Lem1, Mkm, Osmk21, Osmk23, Smk, Tissue, get_tissue
from ionrt.quantities import IonrtError
from ionrt.rbe import kernels
from ionrt.rbe.blocks import Validity
from ionrt.rbe.models import cell_model, let_model, model, on_let, positive

Number = float | xr.DataArray
Pair = tuple[float, float]
NO_THRESHOLD = 1e9  # Gy: tables of alpha and beta stay linear-quadratic at any dose
_TABLES = "as tabulated in doi 10.1259/bjr.20190334 and doi 10.1088/1361-6560/aad9db"
_LEM: dict[str, Any] = {
    "moments": ("alpha_x_dose", "sqrt_beta_x_dose"),
    "value": kernels.lem_value,
    "slopes": kernels.lem_slopes,
}
_STOCHASTIC: dict[str, Any] = {"moments": ("zstar_x_dose", "zd_x_dose", "zn_x_dose"), "validity": Validity(correction=0.5)}
_SMK: dict[str, Any] = {**_STOCHASTIC, "value": kernels.smk_value, "slopes": kernels.smk_slopes}


@model(
    "ICRU Report 78 (2007)",
    moments=(),
    resolve=lambda rbe: (positive(rbe, "rbe"),),
    value=kernels.constant_value,
    slopes=kernels.constant_slopes,
    validity=Validity(dose=np.inf),
    maps=("rbe",),
)
def constant(field: xr.Dataset, *, rbe: Number = 1.1) -> xr.DataArray:
    """RBE-weighted dose ``rbe * dose`` of a field.

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy]
    rbe : [1], a number or a map on the field's grid; 1.1 is for protons.
    """


def _nirs_mkm(tissue: str | Tissue, alpha_r: float, clinical_factor: float) -> tuple:
    t = get_tissue(tissue, Mkm)
    return t.alpha0, t.beta0, positive(alpha_r, "alpha_r"), t.beta0, positive(clinical_factor, "clinical_factor")


@cell_model(
    "Inaniwa et al. 2015, doi 10.1088/0031-9155/60/8/3271",
    Mkm,
    moments=("zstar_x_dose",),
    resolve=_nirs_mkm,
    value=kernels.mkm_value,
    slopes=kernels.mkm_slopes,
)
def nirs_mkm(
    field: xr.Dataset, *, tissue: str | Mkm = "mkm_nirs", alpha_r: float = 0.764, clinical_factor: float = 2.41
) -> xr.DataArray:
    """Clinical dose of the NIRS scanned carbon beam (modified microdosimetric kinetic model).

    E = (alpha0 + beta0 z*) D + beta0 D^2, D_clin = F [-alpha_r + sqrt(alpha_r^2 + 4 beta0 E)] / (2 beta0), z* the dose-weighted
    mean over everything in the voxel.

    Validity: up to 30 Gy per fraction.

    Parameters
    ----------
    field : Dataset (z, y, x) with ``dose`` [Gy per fraction] and ``zstar_x_dose`` [Gy2]
    tissue : an MKM parameter set
    alpha_r : [1/Gy] of the reference carbon beam
    clinical_factor : F [1] (confidence: one source).
    """


def _lem1(tissue: str | Tissue) -> tuple:
    t = get_tissue(tissue, Lem1)
    return t.alpha_x, t.beta_x, t.threshold, t.s_max


@cell_model("Kraemer and Scholz 2006, doi 10.1088/0031-9155/51/8/001", Lem1, resolve=_lem1, **_LEM)
def lem1(field: xr.Dataset, *, tissue: str | Lem1 = "lem1_chordoma") -> xr.DataArray:
    """RBE-weighted dose of the local effect model I in a mixed field.

    -ln S = alpha D + beta D^2 with dose-weighted alpha and sqrt(beta) (Zaider-Rossi), linear with slope s_max beyond the
    transition dose; the photon dose with the same effect follows by inverting the photon curve, which has the same form.

    Validity: up to 30 Gy per fraction; carbon and heavier, since the scheme puts alpha of fast light ions below that of photons
    (see `ionrt.biology.lem1`).

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy per fraction], ``alpha_x_dose`` [1], ``sqrt_beta_x_dose`` [1]
    tissue : a LEM I set.
    """


def _lem_kernel(tissue: Kernel) -> tuple:
    t = get_tissue(tissue, Kernel)
    alpha, beta = positive(t.alpha_x, "alpha_x"), positive(t.beta_x, "beta_x")
    return alpha, beta, NO_THRESHOLD, t.alpha_x + 2.0 * t.beta_x * NO_THRESHOLD


@cell_model(
    "alpha and beta of the user's machine file; mixing after Zaider and Rossi 1980, doi 10.2307/3575352",
    Kernel,
    resolve=_lem_kernel,
    confidence="1",
    **_LEM,
)
def lem_kernel(field: xr.Dataset, *, tissue: Kernel) -> xr.DataArray:
    """RBE-weighted dose from alpha and beta tables that the base data carry, LEM IV for instance.

    alpha D + beta D^2 = alpha_x d + beta_x d^2, with dose-weighted alpha and sqrt(beta) (Zaider-Rossi).

    Validity: that of the tables.

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy per fraction], ``alpha_x_dose`` [1], ``sqrt_beta_x_dose`` [1], made with the same tissue
        class
    tissue : a class of the base data (`ionrt.biology.moments.kernel_tissues`), matched by exact alpha_x and beta_x.
    """


def _reference(tissue: Any, reference: Pair | None) -> Pair:
    """Coefficients of the reference radiation: given, or the limit of low LET of the parameter set itself."""
    alpha, beta = (tissue.alpha0, tissue.beta0) if reference is None else reference
    return positive(alpha, "reference alpha"), positive(beta, "reference beta")


def _smk(tissue: str | Tissue, reference: Pair | None, scale: float) -> tuple:
    t = get_tissue(tissue, Smk)
    return t.alpha0, t.beta0, *_reference(t, reference), positive(scale, "scale")


@cell_model("Inaniwa and Kanematsu 2018, doi 10.1088/1361-6560/aabede", Smk, resolve=_smk, confidence="1", **_SMK)
def smk(field: xr.Dataset, *, tissue: str | Smk = "smk_hsg", reference: Pair | None = None, scale: float = 1.0) -> xr.DataArray:
    """RBE-weighted dose of the stochastic microdosimetric kinetic model, for fields of one or several ions.

    alpha = alpha0 + beta0 z*, beta = beta0 z* / z_d, S = exp(-alpha D - beta D^2) {1 + D z_n [-beta + (alpha + 2 beta D)^2 /
    2]}; the reference radiation has the same effect at ``rbe_dose / scale``.

    Validity: the braces are a second-order expansion; a warning counts the voxels where it is off by more than 0.5 from 1, or
    where its part in the slope at low dose, z_n (alpha^2 / 2 - beta), exceeds 0.5 alpha. Particles from protons to neon, of
    0.02 to 400 MeV/u, stay below 0.3 alpha. A negative slope (more cells than without radiation) comes only from moments that
    do not belong together: the effect is then 0, and the voxel counted.

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy per fraction] and ``zstar_x_dose``, ``zd_x_dose``, ``zn_x_dose`` [Gy2]
    tissue : an SMK set
    reference : (alpha [1/Gy], beta [1/Gy2]) of the reference radiation, by default the set's own (alpha0, beta0), its limit of
        low LET
    scale : [1] a clinical factor (none is published for this model, hence 1).
    """


def _osmk(tissue: str | Tissue, po2: Any, reference: Pair | None, scale: float) -> tuple:
    t = get_tissue(tissue, Osmk21)
    pressure = np.asarray(po2, dtype=float)
    if not np.all((pressure >= 0.0) & np.isfinite(pressure)):
        raise IonrtError("osmk, po2: expected an oxygen partial pressure in mmHg >= 0, got NaN, infinite or negative values")
    oxygen = pressure if pressure.ndim else float(pressure)
    cell = (t.alpha_l, t.alpha_s, t.beta0, t.z_r, t.gamma, t.r_m, t.k)
    return oxygen, *cell, *_reference(t, reference), positive(scale, "scale")


@cell_model(
    "Inaniwa et al. 2021, doi 10.1088/1361-6560/ac29cc",
    Osmk21,
    resolve=_osmk,
    value=kernels.osmk_value,
    slopes=kernels.osmk_slopes,
    confidence="1",
    maps=("po2",),
    **_STOCHASTIC,
)
def osmk(
    field: xr.Dataset,
    *,
    tissue: str | Osmk21 = "osmk21_hsg",
    po2: Number = 160.0,
    reference: Pair | None = None,
    scale: float = 1.0,
) -> xr.DataArray:
    """RBE-weighted dose of the oxygen-effect stochastic microdosimetric kinetic model (2021), relative to aerobic photons.

    R = (p + K) / (p + K [(z_d/z_R)^g + 1] / [(z_d/z_R)^g + R_m]); alpha = alpha_L + alpha_S/R + beta0 z*/R^2, beta = beta0
    z*/(z_d R^2); survival and validity as of `smk`.

    Parameters
    ----------
    field : as for `smk`
    tissue : an OSMK 2021 set
    po2 : [mmHg] >= 0, a number or a map on the field's grid
    reference, scale : as for `smk`.
    """


def _osmk23_cell(tissue: str | Tissue, po2: float, z0_exponent: float, **_: Any) -> Smk:
    return osmk23_at(get_tissue(tissue, Osmk23), po2=po2, z0_exponent=z0_exponent)


def _osmk23(tissue: str | Tissue, po2: float, z0_exponent: float, reference: Pair | None, scale: float) -> tuple:
    aerobic, cell = get_tissue(tissue, Osmk23), _osmk23_cell(tissue, po2, z0_exponent)
    return cell.alpha0, cell.beta0, *_reference(aerobic, reference), positive(scale, "scale")


@model(INANIWA_2023, resolve=_osmk23, cell=_osmk23_cell, confidence="?", **_SMK)
def osmk23(
    field: xr.Dataset,
    *,
    z0_exponent: float,
    tissue: str | Osmk23 = "osmk23_cho",
    po2: float = 160.0,
    reference: Pair | None = None,
    scale: float = 1.0,
) -> xr.DataArray:
    """RBE-weighted dose of the oxygen-effect stochastic microdosimetric kinetic model of 2023, relative to aerobic photons.

    Oxygen changes domain radius, z0 and coefficients of the cell (`ionrt.biology.oxygen.osmk23_at`); survival and validity as
    of `smk`.

    Parameters
    ----------
    field : as for `smk`, its moments made with the set at this pressure
    z0_exponent : [1] as in `osmk23_at`, UNCONFIRMED (confidence "?") and therefore without a default
    tissue : an OSMK 2023 set
    po2 : [mmHg] >= 0, a number, since the moments themselves depend on it
    reference, scale : as for `smk`.
    """


@let_model("Wedenberg et al. 2013, doi 10.3109/0284186X.2012.705892", (1.0, 0.434, 0.0, 1.0, 0.0, 0.0))
def wedenberg(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Proton RBE-weighted dose: RBEmax = 1 + 0.434 LETd / (alpha/beta), RBEmin = 1.

    Validity: protons, LETd <= 20 keV/um (warns beyond, refuses other ions).

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy per fraction], ``let_x_dose`` [Gy keV/um] of all charged particles without target
        fragments
    alpha_beta : [Gy] of photons > 0, a number or a map.
    """


@let_model(
    "Carabe-Fernandez et al. 2012, doi 10.1088/0031-9155/57/5/1159", (0.843, 0.154 * 2.686, 0.0, 1.09, 0.006 * 2.686, 0.0)
)
def carabe(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Proton RBE-weighted dose after Carabe.

    RBEmax = 0.843 + 0.154 * 2.686 LETd / (alpha/beta), RBEmin = 1.09 + 0.006 * 2.686 LETd / (alpha/beta).

    Validity: protons, LETd <= 20 keV/um (warns beyond, refuses other ions).

    Parameters
    ----------
    field, alpha_beta : as for `wedenberg`.
    """


@let_model("McNamara et al. 2015, doi 10.1088/0031-9155/60/21/8399", (0.99064, 0.35605, 0.0, 1.1012, 0.0, -0.0038703))
def mcnamara(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Proton RBE-weighted dose after McNamara.

    RBEmax = 0.99064 + 0.35605 LETd / (alpha/beta), RBEmin = 1.1012 - 0.0038703 sqrt(alpha/beta) LETd, not below 0.

    Validity: protons, LETd <= 20 keV/um (warns beyond, refuses other ions).

    Parameters
    ----------
    field, alpha_beta : as for `wedenberg`.
    """


@let_model(f"Rorvik et al., unweighted fit, {_TABLES}", (1.0, 0.645, 0.0, 1.0, 0.0, 0.0))
def rorvik(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Proton RBE-weighted dose: RBEmax = 1 + 0.645 LETd / (alpha/beta), RBEmin = 1 (the fit with LETd, not with LET spectra).

    Parameters and validity as of `wedenberg`.
    """


def _wilkens(alpha_beta: Any, alpha_x: float) -> tuple:
    a = positive(alpha_x, "alpha_x")
    return positive(alpha_beta, "alpha_beta"), 0.1 / a, 0.0, 0.02 / a, 1.0, 0.0, 0.0


@let_model(f"Wilkens and Oelfke 2004, {_TABLES}", _wilkens)
def wilkens(field: xr.Dataset, *, alpha_beta: Number, alpha_x: float = 0.112) -> xr.DataArray:
    """Proton RBE-weighted dose: RBEmax = (0.1 + 0.02 LETd) / alpha_x, RBEmin = 1.

    Parameters and validity as of `wedenberg`, V79 cells only; `alpha_x` [1/Gy] of photons, by default that of the V79 cells the
    line was fitted to.
    """


def _chen(alpha_beta: Any, alpha_x: float) -> tuple:
    return positive(alpha_beta, "alpha_beta"), positive(alpha_x, "alpha_x"), 0.1, 0.0013, 0.045


@let_model(f"Chen and Ahmad 2012, {_TABLES}", _chen, value=on_let.chen_value, slopes=on_let.chen_slopes, confidence="1")
def chen(field: xr.Dataset, *, alpha_beta: Number, alpha_x: float = 0.1) -> xr.DataArray:
    """Proton RBE-weighted dose: RBEmax = [0.1 + (1 - exp(-0.0013 LETd^2)) / (0.045 LETd)] / alpha_x, RBEmin = 1.

    Parameters and validity as of `wedenberg`, V79 cells only; `alpha_x` [1/Gy] of photons, by default the model's own limit of
    low LET. The normalisation was read in secondary sources.
    """


def _linear(slope: float, intercept: float) -> tuple:
    if not (np.isfinite(slope) and slope >= 0):
        raise IonrtError(f"linear, slope: expected a number >= 0 in um/keV, got {slope!r}")
    return positive(intercept, "intercept"), float(slope)


@let_model(
    f"form of Unkelbach et al. 2016, see {_TABLES}", _linear, value=on_let.linear_value, slopes=on_let.linear_slopes, maps=()
)
def linear(field: xr.Dataset, *, slope: float, intercept: float = 1.0) -> xr.DataArray:
    """Proton RBE-weighted dose linear in LET at every dose: D (intercept + slope LETd).

    Field and validity as of `wedenberg`; `slope` [um/keV] has no default (the review below gives 0.055), `intercept` [1].
    """


@let_model(
    "Mairani et al. 2016, doi 10.1088/0031-9155/61/2/888",
    (0.136938, 9.73154e-3, 1.51998e-2),
    value=on_let.helium_value,
    slopes=on_let.helium_slopes,
    validity=Validity(ions=("He",), let=140.0),
    confidence="1",
)
def mairani_helium(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Helium RBE-weighted dose: RBEmax = 1 + (0.136938 + 1/(alpha/beta)) 9.73154e-3 LETd^2 exp(-1.51998e-2 LETd), RBEmin = 1.

    Validity: helium ions (refuses others).

    Parameters
    ----------
    field, alpha_beta : as for `wedenberg`.
    """
