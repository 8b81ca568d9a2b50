"""One function per RBE model: field in, stamped RBE-weighted dose out; its signature has parameters and defaults."""

from __future__ import annotations

import xarray as xr

from ionrt.biology.tissues import Kernel, Lem1, Mkm, Osmk21, Osmk23, Smk
from ionrt.rbe.model import apply_model

Number = float | xr.DataArray


def constant(field: xr.Dataset, *, rbe: Number = 1.1) -> xr.DataArray:
    """RBE-weighted dose ``rbe * dose`` of a field.

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy]
    rbe : [1], a number or a map on the field's grid.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], the field's shape.

    Raises
    ------
    IonrtError
        As in `apply_model`.

    References
    ----------
    ICRU Report 78 (2007), 1.1 for protons.
    """
    return apply_model(field, "constant", rbe=rbe)


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

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], the field's shape.

    Raises
    ------
    IonrtError
        As in `apply_model`.

    References
    ----------
    Inaniwa et al. 2015, doi 10.1088/0031-9155/60/8/3271.
    """
    return apply_model(field, "nirs_mkm", tissue=tissue, alpha_r=alpha_r, clinical_factor=clinical_factor)


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

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)].

    Raises
    ------
    IonrtError
        As in `apply_model`.

    References
    ----------
    Kraemer and Scholz 2006, doi 10.1088/0031-9155/51/8/001.
    """
    return apply_model(field, "lem1", tissue=tissue)


def lem_kernel(field: xr.Dataset, *, tissue: Kernel) -> xr.DataArray:
    """RBE-weighted dose from alpha and beta tables that the base data carry, LEM IV for instance.

    alpha D + beta D^2 = alpha_x d + beta_x d^2, with dose-weighted alpha and sqrt(beta) (Zaider-Rossi).

    Validity: that of the tables.

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy per fraction], ``alpha_x_dose`` [1], ``sqrt_beta_x_dose`` [1], made with the same tissue
        class
    tissue : a class of the base data (`ionrt.biology.moments.kernel_tissues`), matched by exact alpha_x and beta_x.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)].

    Raises
    ------
    IonrtError
        As in `apply_model`; a field of another class or model.

    References
    ----------
    Zaider and Rossi 1980, doi 10.2307/3575352.
    """
    return apply_model(field, "lem_kernel", tissue=tissue)


def smk(
    field: xr.Dataset, *, tissue: str | Smk = "smk_hsg", reference: tuple[float, float] | None = None, scale: float = 1.0
) -> xr.DataArray:
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

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], the field's shape.

    Raises
    ------
    IonrtError
        As in `apply_model`; moments of another set.

    References
    ----------
    Inaniwa and Kanematsu 2018, doi 10.1088/1361-6560/aabede (confidence: one source).
    """
    return apply_model(field, "smk", tissue=tissue, reference=reference, scale=scale)


def osmk(
    field: xr.Dataset,
    *,
    tissue: str | Osmk21 = "osmk21_hsg",
    po2: Number = 160.0,
    reference: tuple[float, float] | None = None,
    scale: float = 1.0,
) -> xr.DataArray:
    """RBE-weighted dose of the oxygen-effect stochastic microdosimetric kinetic model (2021), relative to aerobic photons.

    R = (p + K) / (p + K [(z_d/z_R)^g + 1] / [(z_d/z_R)^g + R_m]); alpha = alpha_L + alpha_S/R + beta0 z*/R^2, beta = beta0
    z*/(z_d R^2); survival as in `smk`.

    Parameters
    ----------
    field : as for `smk`
    tissue : an OSMK 2021 set
    po2 : [mmHg], a number or a map on the field's grid
    reference, scale : as for `smk`.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], the field's shape. Validity as for `smk`.

    Raises
    ------
    IonrtError
        As in `apply_model`; moments of another set; negative `po2`.

    References
    ----------
    Inaniwa et al. 2021, doi 10.1088/1361-6560/ac29cc (confidence: one source).
    """
    return apply_model(field, "osmk", tissue=tissue, po2=po2, reference=reference, scale=scale)


def osmk23(
    field: xr.Dataset,
    *,
    z0_exponent: float,
    tissue: str | Osmk23 = "osmk23_cho",
    po2: float = 160.0,
    reference: tuple[float, float] | None = None,
    scale: float = 1.0,
) -> xr.DataArray:
    """RBE-weighted dose of the oxygen-effect stochastic microdosimetric kinetic model of 2023, relative to aerobic photons.

    Oxygen changes domain radius, z0 and coefficients of the cell (`ionrt.biology.oxygen.osmk23_at`); survival as in `smk`.

    Parameters
    ----------
    field : as for `smk`, its moments made with the set at this pressure
    z0_exponent : [1] as in `osmk23_at`, UNCONFIRMED (confidence "?") and therefore without a default
    tissue : an OSMK 2023 set
    po2 : [mmHg] a number, since the moments themselves depend on it
    reference, scale : as for `smk`.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], the field's shape. Validity as for `smk`.

    Raises
    ------
    IonrtError
        As in `apply_model`; moments of another set; negative `po2`.

    References
    ----------
    Inaniwa and Kanematsu 2023, J Radiat Res.
    """
    return apply_model(field, "osmk23", tissue=tissue, po2=po2, z0_exponent=z0_exponent, reference=reference, scale=scale)


def wedenberg(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Proton RBE-weighted dose: RBEmax = 1 + 0.434 LETd / (alpha/beta), RBEmin = 1.

    Validity: protons, LETd <= 20 keV/um (warns beyond, refuses other ions).

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy per fraction], ``let_x_dose`` [Gy keV/um] of all charged particles without target
        fragments
    alpha_beta : [Gy] of photons, a number or a map.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], the field's shape.

    Raises
    ------
    IonrtError
        As in `apply_model`; alpha_beta <= 0.

    References
    ----------
    Wedenberg et al. 2013, doi 10.3109/0284186X.2012.705892.
    """
    return apply_model(field, "wedenberg", alpha_beta=alpha_beta)


def carabe(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Proton RBE-weighted dose after Carabe.

    RBEmax = 0.843 + 0.154 * 2.686 LETd / (alpha/beta), RBEmin = 1.09 + 0.006 * 2.686 LETd / (alpha/beta).

    Validity: protons, LETd <= 20 keV/um (warns beyond, refuses other ions).

    Parameters
    ----------
    field, alpha_beta : as for `wedenberg`.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], the field's shape.

    Raises
    ------
    IonrtError
        As `wedenberg`.

    References
    ----------
    Carabe-Fernandez et al. 2012, doi 10.1088/0031-9155/57/5/1159.
    """
    return apply_model(field, "carabe", alpha_beta=alpha_beta)


def mcnamara(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Proton RBE-weighted dose after McNamara.

    RBEmax = 0.99064 + 0.35605 LETd / (alpha/beta), RBEmin = 1.1012 - 0.0038703 sqrt(alpha/beta) LETd, not below 0.

    Validity: protons, LETd <= 20 keV/um (warns beyond, refuses other ions).

    Parameters
    ----------
    field, alpha_beta : as for `wedenberg`.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], the field's shape.

    Raises
    ------
    IonrtError
        As `wedenberg`.

    References
    ----------
    McNamara et al. 2015, doi 10.1088/0031-9155/60/21/8399.
    """
    return apply_model(field, "mcnamara", alpha_beta=alpha_beta)


def rorvik(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Proton RBE-weighted dose: RBEmax = 1 + 0.645 LETd / (alpha/beta), RBEmin = 1 (the fit with LETd, not with LET spectra).

    Parameters, return and validity as for `wedenberg`. Reference: doi 10.1088/1361-6560/aad9db, doi 10.1259/bjr.20190334.
    """
    return apply_model(field, "rorvik", alpha_beta=alpha_beta)


def wilkens(field: xr.Dataset, *, alpha_beta: Number, alpha_x: float = 0.112) -> xr.DataArray:
    """Proton RBE-weighted dose: RBEmax = (0.1 + 0.02 LETd) / alpha_x, RBEmin = 1.

    Parameters as for `wedenberg`; `alpha_x` [1/Gy] of photons, by default that of the V79 cells the line was fitted to.
    Return and validity as for `wedenberg`; V79 cells only. Reference: doi 10.1259/bjr.20190334, doi 10.1088/1361-6560/aad9db.
    """
    return apply_model(field, "wilkens", alpha_beta=alpha_beta, alpha_x=alpha_x)


def chen(field: xr.Dataset, *, alpha_beta: Number, alpha_x: float = 0.1) -> xr.DataArray:
    """Proton RBE-weighted dose: RBEmax = [0.1 + (1 - exp(-0.0013 LETd^2)) / (0.045 LETd)] / alpha_x, RBEmin = 1.

    Parameters as for `wedenberg`; `alpha_x` [1/Gy] of photons, by default the model's own limit of low LET. Return and validity
    as for `wedenberg`; V79 cells only, normalisation read in secondary sources (confidence: one source), doi
    10.1259/bjr.20190334, doi 10.1088/1361-6560/aad9db.
    """
    return apply_model(field, "chen", alpha_beta=alpha_beta, alpha_x=alpha_x)


def linear(field: xr.Dataset, *, slope: float, intercept: float = 1.0) -> xr.DataArray:
    """Proton RBE-weighted dose linear in LET at every dose: D (intercept + slope LETd).

    Parameters
    ----------
    field : as for `wedenberg`
    slope : [um/keV], no default (the review below gives 0.055)
    intercept : [1]. Return and validity as for `wedenberg`.

    References
    ----------
    doi 10.1088/1361-6560/aad9db.
    """
    return apply_model(field, "linear", slope=slope, intercept=intercept)


def mairani_helium(field: xr.Dataset, *, alpha_beta: Number) -> xr.DataArray:
    """Helium RBE-weighted dose: RBEmax = 1 + (0.136938 + 1/(alpha/beta)) 9.73154e-3 LETd^2 exp(-1.51998e-2 LETd), RBEmin = 1.

    Validity: helium ions (refuses others).

    Parameters
    ----------
    field, alpha_beta : as for `wedenberg`.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)], the field's shape.

    Raises
    ------
    IonrtError
        As `wedenberg`.

    References
    ----------
    Mairani et al. 2016, doi 10.1088/0031-9155/61/2/888 (confidence: one source).
    """
    return apply_model(field, "mairani_helium", alpha_beta=alpha_beta)
