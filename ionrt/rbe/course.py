"""Courses whose fractions differ: fractions add effect, what is given within one mixes."""

from __future__ import annotations

import xarray as xr

from ionrt.parallel import running_sum
from ionrt.quantities import IonrtError, check, stamp
from ionrt.rbe.isoeffect import bed


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
