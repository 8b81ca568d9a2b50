"""Isoeffective doses of courses, also of fractions that differ (they add effect, ions within one mix); oxygen-weighted dose."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ionrt.biology.oxygen import oer_antonovic
from ionrt.parallel import running_sum
from ionrt.quantities import GY_RBE, IonrtError, check, check_same_grid, stamp

Number = float | xr.DataArray


def _fraction_dose(dose: xr.DataArray, fractions: int, alpha_beta: Any, what: str) -> xr.DataArray:
    """A dose per fraction in Gy or Gy (RBE), with sensible fractionation."""
    if not isinstance(dose, xr.DataArray):
        raise IonrtError(f"{what}: expected a DataArray of dose per fraction, got {type(dose).__name__}")
    check(dose, "rbe_dose" if dose.attrs.get("units") == GY_RBE else "dose", what=what)
    if not (int(fractions) == fractions and fractions >= 1):
        raise IonrtError(f"{what}: expected a whole number of fractions >= 1, got {fractions!r}")
    if isinstance(alpha_beta, xr.DataArray):
        check_same_grid(dose, alpha_beta, what=f"{what}, alpha_beta")
    elif not (np.isfinite(alpha_beta) and alpha_beta > 0):
        raise IonrtError(f"{what}: expected alpha_beta > 0 Gy, got {alpha_beta!r}")
    return dose


def bed(dose: xr.DataArray, *, fractions: int, alpha_beta: Number) -> xr.DataArray:
    """Biologically effective dose n d (1 + d / (alpha/beta)).

    Parameters, validity, errors and reference as of `eqd2`; returns ``bed`` [Gy] of the shape of `dose`.
    """
    d = _fraction_dose(dose, fractions, alpha_beta, "bed")
    carried = {k: d.attrs.get(k) for k in ("rbe_model", "assumed")}
    return stamp(d * fractions * (1.0 + d / alpha_beta), "bed", **carried, fractions=int(fractions))


def eqdx(dose: xr.DataArray, *, fractions: int, alpha_beta: Number, fraction_size: float) -> xr.DataArray:
    """Equieffective total dose in fractions of x Gy, n d (d + alpha/beta) / (x + alpha/beta).

    `fraction_size` x [Gy]; the rest as of `eqd2`.
    """
    if not fraction_size > 0:
        raise IonrtError(f"eqdx: expected fraction_size > 0 Gy, got {fraction_size!r}")
    d = _fraction_dose(dose, fractions, alpha_beta, "eqdx")
    total = d * fractions * (d + alpha_beta) / (fraction_size + alpha_beta)
    carried = {k: d.attrs.get(k) for k in ("rbe_model", "assumed")}
    return stamp(total, "eqd", **carried, fractions=int(fractions), fraction_size=float(fraction_size))


def eqd2(dose: xr.DataArray, *, fractions: int, alpha_beta: Number) -> xr.DataArray:
    """Equieffective total dose in 2 Gy fractions, n d (d + alpha/beta) / (2 + alpha/beta).

    Validity: linear-quadratic range, complete repair between fractions, no repopulation.

    Parameters
    ----------
    dose : d per fraction [Gy or Gy (RBE)], any shape
    fractions : n
    alpha_beta : [Gy] of photons, a number or a map.

    Returns
    -------
    ``eqd`` [Gy] of the shape of `dose`.

    Raises
    ------
    IonrtError
        Other units, fractions < 1, alpha_beta <= 0.

    References
    ----------
    Fowler 1989, Br J Radiol 62 (740), 679-694, doi 10.1259/0007-1285-62-740-679.

    Examples
    --------
    16 fractions of 4.6 Gy (RBE) at alpha/beta 2 Gy: 73.6 Gy (RBE) act as 73.6 (4.6 + 2) / (2 + 2) Gy in fractions of 2.

    >>> fraction = xr.DataArray([4.6], dims="x", name="rbe_dose", attrs={"units": "Gy (RBE)"})
    >>> ionrt.rbe.eqd2(fraction, fractions=16, alpha_beta=2.0).round(2).values.tolist()  # Gy
    [121.44]
    """
    return eqdx(dose, fractions=fractions, alpha_beta=alpha_beta, fraction_size=2.0)


def add_fractions(
    rbe_dose: xr.DataArray, *, alpha_beta: float | xr.DataArray, fraction_size: float | None = None
) -> xr.DataArray:
    r"""Effect of a course with different fractions, as biologically effective dose or in fractions of one size.

    BED = sum_f n_f d_f (1 + d_f / (alpha/beta)); EQD_x = BED / (1 + x / (alpha/beta)). Ions given within a fraction mix before
    the model (moments of the field add); given in different fractions each has its own d_f and the effects add.

    Validity: linear-quadratic range, complete repair between fractions, no repopulation.

    Parameters
    ----------
    rbe_dose : (fraction, ...) [Gy (RBE)] per fraction, with the coordinate ``fractions`` (n_f along ``fraction``; missing: 1
        each), e.g. a model applied to `ionrt.plan.mixture.course`
    alpha_beta : [Gy] of photons
    fraction_size : x [Gy].

    Returns
    -------
    ``bed`` [Gy], or ``eqd`` [Gy] where `fraction_size` is given, without ``fraction``.

    Raises
    ------
    IonrtError
        No dimension ``fraction``, counts below 1, as `bed`.

    References
    ----------
    Fowler 1989, doi 10.1259/0007-1285-62-740-679.

    Examples
    --------
    20 fractions of 2 and a boost of 8 fractions of 3.6 Gy (RBE), alpha/beta 2 Gy: 20 * 2 * 2 + 8 * 3.6 * 2.8 = 160.64 Gy.

    >>> parts = xr.DataArray([2.0, 3.6], {"fractions": ("fraction", [20, 8])}, ["fraction"], "rbe_dose", {"units": "Gy (RBE)"})
    >>> round(float(ionrt.rbe.add_fractions(parts, alpha_beta=2.0)), 2)
    160.64
    """
    check(rbe_dose, "rbe_dose", dims=("fraction",))
    counts = (
        [int(n) for n in rbe_dose["fractions"].values] if "fractions" in rbe_dose.coords else [1] * rbe_dose.sizes["fraction"]
    )
    plain = rbe_dose.drop_vars("fractions", errors="ignore")
    parts = (bed(plain.isel(fraction=f, drop=True), fractions=n, alpha_beta=alpha_beta) for f, n in enumerate(counts))
    total = running_sum(p.drop_attrs() for p in parts)
    carried = {**{k: rbe_dose.attrs.get(k) for k in ("rbe_model", "assumed")}, "fractions": sum(counts)}
    if fraction_size is None:
        return stamp(total, "bed", **carried)
    if not fraction_size > 0:
        raise IonrtError(f"add_fractions: expected fraction_size > 0 Gy, got {fraction_size!r}")
    per_dose = 1.0 + fraction_size / alpha_beta
    return stamp((total / per_dose).astype(total.dtype), "eqd", **carried, fraction_size=float(fraction_size))


def oxygen_weighted_dose(rbe_dose: xr.DataArray, let: xr.DataArray, *, po2: Number, **oer: float) -> xr.DataArray:
    """RBE-weighted dose that aerobic cells would need for the same effect, D_RBE / OER(LETd, pO2).

    Validity: that of the OER model and of dose-modifying oxygen (the OSMK does without this assumption).

    Parameters
    ----------
    rbe_dose : [Gy (RBE)]
    let : ``let_d`` [keV/um] on its grid
    po2 : [mmHg], a number or a map
    oer : constants of `ionrt.biology.oer_antonovic`.

    Returns
    -------
    ``rbe_dose`` [Gy (RBE)].

    Raises
    ------
    IonrtError
        Differing grids, units, negative pressure.

    Examples
    --------
    At 2.5 mmHg (equal to K) and 30 keV/um the OER is 1.47, so that 4 Gy (RBE) do what 2.7 would in air.

    >>> dose = xr.DataArray([4.0], dims="x", name="rbe_dose", attrs={"units": "Gy (RBE)"})
    >>> let = xr.DataArray([30.0], dims="x", name="let_d", attrs={"units": "keV/um", "let_definition": "charged"})
    >>> ionrt.rbe.oxygen_weighted_dose(dose, let, po2=2.5).round(2).values.tolist()  # Gy (RBE)
    [2.71]
    """
    check(rbe_dose, "rbe_dose")
    check_same_grid(rbe_dose, let, what="oxygen_weighted_dose")
    weighted = (rbe_dose / oer_antonovic(let, po2=po2, **oer)).astype(rbe_dose.dtype)
    return stamp(weighted, "rbe_dose", rbe_model=f"{rbe_dose.attrs.get('rbe_model', 'unknown')}, oxygen: antonovic")
