"""LET of a field: averages, weighted dose. Every value carries the definition it was made with."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import xarray as xr

from ionrt.ions import ISOTOPES, get
from ionrt.quantities import OWN_DOSE, WHOLE_DOSE, IonrtError, check, stamp


def _variable(field: xr.Dataset, name: str, let_definition: str | None) -> xr.DataArray:
    if not isinstance(field, xr.Dataset):
        raise IonrtError(f"expected a field (xarray.Dataset with dose and {name}), got {type(field).__name__}")
    for needed in ("dose", name):
        if needed not in field:
            raise IonrtError(f"the field has no {needed!r}; it has {', '.join(map(str, field.data_vars)) or 'nothing'}")
    check(field["dose"], "dose")
    return check(field[name], name, let_definition=let_definition)


def definition_of(field: xr.Dataset, name: str, stated: str | None = None, *, default: str = "charged") -> dict[str, str]:
    """What a numerator of a field says, with what it was assumed to be, else what the caller says, as attributes of the result.

    A numerator of another's making that says nothing is taken as the default, and the result says so. One that this package
    made and that says nothing any more was combined from two definitions, or lost its own, and is refused.
    """
    moment = field[name]
    if said := moment.attrs.get("let_definition") or stated:
        return {"let_definition": said} | {k: moment.attrs[k] for k in ("assumed",) if k in moment.attrs}
    if "ionrt_version" in moment.attrs or "counted_dose" in field:
        raise IonrtError(
            f"{moment.name} without let_definition: arithmetic of two definitions drops it; combine fields of one definition,"
            " or say which one the value has: .assign_attrs(let_definition=...)"
        )
    return {"let_definition": default, "assumed": f"let_definition: the field does not say; taken as {default}"}


def _moment(field: xr.Dataset, name: str, stated: str | None) -> tuple[xr.DataArray, xr.DataArray, dict[str, str]]:
    """A numerator, the dose that it is weighted with, and what the result says: its definition and what was assumed.

    That of the counted particles where the definition has its own. Numerators made before it did hold the whole dose.
    """
    moment, said = _variable(field, name, stated), definition_of(field, name, stated)
    if said["let_definition"] not in OWN_DOSE:
        return moment, field["dose"], said
    if "counted_dose" in field:
        return moment, check(field["counted_dose"], "counted_dose", let_definition=said["let_definition"]), said
    if own := moment.attrs.get("weighted_with"):
        raise IonrtError(
            f"{name} of definition {said['let_definition']!r} is weighted with {own!r}, which the field has no more;"
            " take both along"
        )
    return moment, field["dose"], said | {"assumed": WHOLE_DOSE}


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, 0 where b is 0; float32 stays float32."""
    return np.divide(a, b, out=np.zeros_like(b), where=b > 0)


def _divide(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    dtype = np.result_type(a.dtype, b.dtype, np.float32)
    a, b = a.astype(dtype), b.astype(dtype)
    return xr.apply_ufunc(_ratio, a, b, dask="parallelized", join="exact", keep_attrs=False, output_dtypes=[dtype])


def let_d(field: xr.Dataset, *, let_definition: str | None = None) -> xr.DataArray:
    """Dose-averaged LET, sum(D_i L_i) / sum(D_i).

    D_i is the dose of all particles; of the definition "primary" that of the primaries, which such a field has along.

    Validity: unrestricted LET in water. A field of definition "primary" without ``counted_dose``, as earlier versions wrote
    them, is weighted with the dose of all particles, which is up to 12 % off, and the result says so in ``assumed``.

    Parameters
    ----------
    field : Dataset (z, y, x) with ``dose`` [Gy] and ``let_x_dose`` [Gy keV/um], for "primary" also ``counted_dose`` [Gy]
    let_definition : what the numerator holds, where it does not say ("primary", "charged", "charged_with_target"; default
        "charged", noted in the result's ``assumed``); a contradiction raises.

    Returns
    -------
    ``let_d`` [keV/um], the field's shape; 0 where there is no dose. Lazy where the field is chunked.

    Raises
    ------
    IonrtError
        Missing variables, wrong units, another definition, or one that was lost when two were combined.

    References
    ----------
    Kalholm et al. 2021, doi 10.1016/j.radonc.2021.04.007 (why the definition must be stated).

    Examples
    --------
    Two voxels of a proton field (SYNTHETIC), plateau and distal edge, and one without dose:

    >>> field = xr.Dataset({"dose": ("x", [2.0, 1.0, 0.0]), "let_x_dose": ("x", [5.0, 8.0, 0.0])})  # Gy, Gy keV/um
    >>> let = ionrt.let_d(field, let_definition="charged")
    >>> let.values.tolist(), let.attrs["units"]
    ([2.5, 8.0, 0.0], 'keV/um')
    """
    moment, weight, said = _moment(field, "let_x_dose", let_definition)
    about = {k: field["dose"].attrs.get(k) for k in ("ion", "synthetic")}
    return stamp(_divide(moment, weight), "let_d", **said, averaging="dose", medium="water", **about)


def let_t(field: xr.Dataset, *, let_definition: str | None = None) -> xr.DataArray:
    """Track-averaged (fluence-averaged) LET, sum(D_i) / sum(D_i / L_i), since fluence is dose over LET.

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy] and ``dose_per_let`` [Gy um/keV], for "primary" also ``counted_dose`` [Gy]
    let_definition : as in `let_d`.

    Returns
    -------
    ``let_t`` [keV/um], the field's shape; 0 where there is no dose.

    Raises
    ------
    IonrtError
        As in `let_d`.

    Examples
    --------
    1 Gy at 2 keV/um and 1 Gy at 8 keV/um (SYNTHETIC): the track average is below the dose average, (2 + 8) / 2 = 5.

    >>> field = xr.Dataset({"dose": ("x", [2.0]), "dose_per_let": ("x", [1 / 2 + 1 / 8])})  # Gy, Gy um/keV
    >>> ionrt.let.let_t(field, let_definition="charged").round(3).values.tolist()  # keV/um
    [3.2]
    """
    moment, weight, said = _moment(field, "dose_per_let", let_definition)
    return stamp(_divide(weight, moment), "let_t", **said, averaging="track", medium="water")


def let_weighted_dose(field: xr.Dataset, *, c: float, form: Literal["sum", "product"] = "sum") -> xr.DataArray:
    """LET-weighted dose, D (1 + c LETd), or c LETd D alone with ``form="product"``.

    Validity: derived for protons; warns where the field states a heavier ion.

    Parameters
    ----------
    field : Dataset with ``dose`` [Gy], ``let_x_dose`` [Gy keV/um]
    c : [um/keV], e.g. 0.055 in the review below
    form : "sum" or "product".

    Returns
    -------
    ``let_weighted_dose`` [Gy], the field's shape.

    Raises
    ------
    IonrtError
        As in `let_d`, c negative or not finite.

    References
    ----------
    Rorvik et al. 2018, doi 10.1088/1361-6560/aad9db.

    Examples
    --------
    >>> field = xr.Dataset({"dose": ("x", [2.0]), "let_x_dose": ("x", [6.0])})  # 2 Gy at LETd 3 keV/um, SYNTHETIC
    >>> ionrt.let_weighted_dose(field, c=0.055).round(3).values.tolist()  # 2 Gy (1 + 0.055 * 3)
    [2.33]
    """
    if not (np.isfinite(c) and c >= 0):
        raise IonrtError(f"c: expected a number >= 0 in um/keV, got {c!r}")
    if form not in ("sum", "product"):
        raise IonrtError(f"form: expected 'sum' or 'product', got {form!r}")
    moment, weight, said = _moment(field, "let_x_dose", None)
    heavy = [i for i in ions_of(field) if (i in ISOTOPES or i in ("p", "He", "C", "O", "Ne")) and get(i).charge > 2]
    if heavy:
        warnings.warn(
            f"let_weighted_dose: c LETd D was derived for protons; the field holds {', '.join(heavy)}, where LET alone "
            "does not rank the effect. Use a model with a table over charge and energy",
            UserWarning,
            stacklevel=2,
        )
    if weight.name != "dose":
        moment = _divide(moment, weight) * field["dose"]
    weighted = moment * np.float32(c) if form == "product" else field["dose"] + moment * np.float32(c)
    return stamp(weighted, "let_weighted_dose", form=form, c=float(c), **said)


def high_let_dose(field: xr.Dataset) -> xr.DataArray:
    """Dose deposited by particles above an LET threshold ("dirty dose").

    Parameters
    ----------
    field : Dataset with ``high_let_dose`` [Gy], whose attribute ``let_threshold`` [keV/um] says which.

    Returns
    -------
    ``high_let_dose`` [Gy].

    Raises
    ------
    IonrtError
        Where the variable or its threshold is missing.
    """
    moment = _variable(field, "high_let_dose", None)
    threshold = moment.attrs.get("let_threshold")
    if threshold is None:
        raise IonrtError("high_let_dose: the attribute let_threshold [keV/um] is missing; without it the number means nothing")
    own = moment.copy(deep=False)  # the field keeps its attributes
    return stamp(own, "high_let_dose", let_threshold=threshold, **definition_of(field, "high_let_dose"))


def ions_of(field: xr.Dataset) -> tuple[str, ...]:
    """Ions that the field states, by its coordinate or attribute ``ion``; empty where it does not say."""
    if "ion" in field.coords:
        return tuple(dict.fromkeys(str(i) for i in np.atleast_1d(field["ion"].values)))
    stated = field.attrs.get("ion")
    if stated is None:
        stated = field.variables["dose"].attrs.get("ion", ()) if "dose" in field.variables else ()
    if isinstance(stated, str):
        stated = stated.replace("+", ",").split(",")
    return tuple(dict.fromkeys(str(i).strip() for i in stated))
