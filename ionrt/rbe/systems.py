"""Dose systems: what "Gy (RBE)" means where, and how one is turned into another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ionrt.quantities import IonrtError, one_of, stamp
from ionrt.rbe.models import MODELS


@dataclass(frozen=True)
class DoseSystem:
    """A meaning of Gy (RBE): the model that computes it here, or None with the reason why there is none."""

    name: str
    model: str | None
    note: str


DOSE_SYSTEMS: dict[str, DoseSystem] = {
    s.name: s
    for s in (
        DoseSystem("NIRS-mMKM", "nirs_mkm", "scanned carbon, reference beam alpha_r 0.764, factor 2.41"),
        DoseSystem(
            "NIRS-Kanai", None, "passive carbon before the MKM, RBE without dose dependence; its constants are not confirmed"
        ),
        DoseSystem("SMK", "smk", "multi-ion; no clinical scale factor is published, scale = 1"),
        DoseSystem("LEM-I", "lem1", "European carbon; alpha/beta 2 Gy, transition dose 30 Gy"),
        DoseSystem("LEM-IV", None, "no open table per fragment exists; import base data that carry alpha and beta"),
        DoseSystem("RBE-1.1", "constant", "protons"),
    )
}


def dose_in_system(field: xr.Dataset, system: str, **params: Any) -> xr.DataArray:
    """RBE-weighted dose of a field under a dose system, a name in `DOSE_SYSTEMS`; attribute ``dose_system``."""
    s = DOSE_SYSTEMS[one_of(system, tuple(DOSE_SYSTEMS), what="dose system")]
    if s.model is None:
        raise IonrtError(f"{s.name}: cannot be computed: {s.note}")
    return MODELS[s.model](field, **params).assign_attrs(dose_system=s.name)


def first_in_system(fields: Iterable[xr.Dataset], system: str) -> xr.DataArray:
    """`dose_in_system` of the first field that has the moments; where none has, the reason of the last."""
    why = IonrtError(f"{system}: no field")
    for field in fields:
        try:
            return dose_in_system(field, system)
        except IonrtError as error:
            why = error
    raise why


def convert(
    field: xr.Dataset, *, source: str, target: str, params: Mapping[str, Mapping[str, Any]] | None = None
) -> xr.Dataset:
    """One field under two dose systems: conversion by recalculation, voxel by voxel.

    Parameters
    ----------
    field : with the moments of both models (one parameter set per moment: NIRS-mMKM and SMK share z* and need two fields)
    source, target : names in `DOSE_SYSTEMS`
    params : {system: parameters of its model}.

    Returns
    -------
    Dataset ``source``, ``target`` [Gy (RBE)] and ``factor`` target / source [1], 0 where there is no dose.

    Raises
    ------
    IonrtError
        As `dose_in_system`.
    """
    given = params or {}
    a, b = (dose_in_system(field, s, **given.get(s, {})) for s in (source, target))
    factor = xr.where(a > 0, b / a.where(a > 0), 0.0).astype(a.dtype)
    ratio = stamp(factor, "rbe", rbe_model=f"{target} / {source}").assign_attrs(long_name="conversion factor of dose systems")
    return xr.Dataset({"source": a.rename("source"), "target": b.rename("target"), "factor": ratio})


ZHANG_2020 = (
    "Zhang et al. 2020, doi 10.1186/s13014-020-01723-z: 20 patients with recurrent nasopharyngeal carcinoma, LEM I plans "
    "recalculated with the MKM"
)
# its factors LEM I / MKM at LEM I doses per fraction [Gy (RBE)], and their 95 % confidence limits
LEM_PER_MKM = {"dose": (2.70, 3.00), "factor": (1.46, 1.37), "low": (1.41, 1.35), "high": (1.51, 1.39)}


@dataclass(frozen=True)
class ConvertedPrescription:
    """A prescription converted without a field: `low` and `high` bracket it; `label` says that it is a fallback."""

    dose_per_fraction: float
    low: float
    high: float
    source: str
    target: str
    label: str


def convert_prescription(dose_per_fraction: float, *, source: str, target: str) -> ConvertedPrescription:
    """Fallback where no field exists: a published LEM I / MKM factor, for prescriptions like those it was measured on.

    The factor is 1.37 (95 % limits 1.35 to 1.39) at 3.00 Gy (RBE) of LEM I and 1.46 (1.41 to 1.51) at 2.70, linear between
    them; below it rises to 3 at 0.24 Gy (RBE), in organs, and no number is given.

    Validity: prescriptions of 2.70 to 3.00 Gy (RBE) of LEM I per fraction; other sites, fraction sizes or systems raise:
    recalculate from physical dose and radiation quality with `convert`.

    Parameters
    ----------
    dose_per_fraction : [Gy (RBE)] in the source system
    source, target : "LEM-I" and "NIRS-mMKM" in either order.

    Returns
    -------
    `ConvertedPrescription`, `low` and `high` from the published limits: those of the mean of one site and centre, not the
        spread of patients.

    Raises
    ------
    IonrtError
        Other systems, a dose per fraction outside the published ones.

    References
    ----------
    Zhang et al. 2020, doi 10.1186/s13014-020-01723-z (PMC7731771).

    Examples
    --------
    >>> p = ionrt.rbe.convert_prescription(3.0, source="LEM-I", target="NIRS-mMKM")  # Gy (RBE) per fraction
    >>> round(p.low, 2), round(p.dose_per_fraction, 2), round(p.high, 2)  # 3 / 1.39, 3 / 1.37, 3 / 1.35
    (2.16, 2.19, 2.22)
    """
    if {source, target} != {"LEM-I", "NIRS-mMKM"}:
        raise IonrtError(
            f"no published factor from {source!r} to {target!r}; recalculate from the field with ionrt.rbe.convert"
        )
    published = {k: np.array(v) for k, v in LEM_PER_MKM.items()}
    known = published["dose"] if source == "LEM-I" else published["dose"] / published["factor"]
    order = np.argsort(known)
    if not known.min() - 1e-9 <= dose_per_fraction <= known.max() + 1e-9:
        raise IonrtError(
            f"{dose_per_fraction:g} Gy (RBE) per fraction: published are {known.min():.3g} to {known.max():.3g} only; "
            "the factor depends strongly on dose: recalculate from the field with ionrt.rbe.convert"
        )
    factors = [float(np.interp(dose_per_fraction, known[order], published[k][order])) for k in ("factor", "low", "high")]
    values = [dose_per_fraction * (1 / x if source == "LEM-I" else x) for x in factors]
    label = f"literature fallback, not a recalculation: {ZHANG_2020}"
    return ConvertedPrescription(values[0], min(values[1:]), max(values[1:]), source, target, label)
