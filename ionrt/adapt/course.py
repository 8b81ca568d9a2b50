"""Days become a course: moments of every day on planning points, effects added over fractions, and what shortcuts would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import rbe
from ionrt.adapt.mapping import map_field
from ionrt.evaluate.sampling import kept_attrs
from ionrt.let import let_d
from ionrt.parallel import running_sum
from ionrt.plan.mixture import course
from ionrt.quantities import IonrtError, stamp


def accumulate(
    fields: Sequence[xr.Dataset],
    transforms: Sequence[xr.Dataset],
    *,
    parts: Sequence[int],
    like: xr.Dataset | xr.DataArray,
    method: str = "direct",
    mass: Sequence[xr.DataArray] | None = None,
) -> xr.Dataset:
    """The days of a course on planning points, along ``fraction``; as lazy as the fields, one day a block.

    Parameters
    ----------
    fields : one per day, of `daily_field`.
    transforms : planning to each day.
    parts : fractions that each day stands for, e.g. (5, 5, 6); for a projection to the end of the course the last day also
        stands for the fractions that are left.
    like, method : as in `map_field`.
    mass : one per day, for "energy_mass".

    Returns
    -------
    Dataset (fraction, z, y, x) as of `ionrt.plan.field`; ``outside`` in attrs is the share of voxels that any day leaves
    without a value (NaN).

    Raises
    ------
    IonrtError for unequal numbers of days, and as `map_field`.
    """
    if not len(fields) == len(transforms) == len(parts):
        raise IonrtError(
            f"accumulate: {len(fields)} fields, {len(transforms)} transforms, {len(parts)} counts; one each per day"
        )
    masses = [None] * len(fields) if mass is None else list(mass)
    mapped = [map_field(f, t, like=like, method=method, mass=m) for f, t, m in zip(fields, transforms, masses, strict=True)]
    out = course(mapped, parts=parts)
    out.attrs |= {"mapped": method, "outside": max(m.attrs["outside"] for m in mapped)}
    return out


def total(days: xr.Dataset) -> xr.Dataset:
    r"""Moments of the whole course, :math:`\sum_f n_f M_f`: for dose and LETd (and models linear in dose), no other model.

    Parameters
    ----------
    days : Dataset (fraction, z, y, x) of `accumulate`.

    Returns
    -------
    Dataset (z, y, x), ``dose_per`` "course", NaN where a day is NaN.

    Raises
    ------
    IonrtError
        A moment without what it must say, such as LET without its definition.
    """
    counts, out = days["fractions"].values, xr.Dataset(attrs={**days.attrs, "dose_per": "course"})
    for name, a in days.data_vars.items():
        wide = a.astype(np.float64).drop_vars("fractions")
        summed = running_sum(float(n) * wide.isel(fraction=k, drop=True) for k, n in enumerate(counts)).astype(a.dtype)
        out[name] = stamp(summed, str(name), **kept_attrs(a) | {"dose_per": "course", "outside": days.attrs.get("outside")})
    return out


def weighted(days: xr.Dataset, model: str, parameters: Mapping[str, Any] | None = None) -> xr.DataArray:
    """RBE-weighted dose of a mapped field or course, fraction by fraction, with attribute ``outside``; NaN without a dose."""
    known = days["dose"].notnull()
    filled = xr.Dataset({str(n): a.fillna(0.0).assign_attrs(a.attrs) for n, a in days.data_vars.items()}, attrs=days.attrs)
    value = rbe.apply_model(filled, model, **(parameters or {}))
    return value.where(known).assign_attrs(value.attrs | {"outside": days.attrs.get("outside", 0.0)})


def shortcuts(
    days: xr.Dataset, model: str, parameters: Mapping[str, Any] | None = None, *, alpha_beta: float, within: xr.DataArray
) -> pd.DataFrame:
    r"""How far three common shortcuts are off in a structure, against effects added over fractions: mean and largest difference
    [%].

    Right: :math:`\sum_f n_f E(A_f, B_f)` and :math:`\sum n L D / \sum n D`. Shortcuts: the model on the mean field, times the
    number of fractions; the model on the sum of all fractions as if given at once; the plain mean of the days' LETd. `days` of
    `accumulate`, `alpha_beta` [Gy] of photons, `within` the fractions (z, y, x) of the structure.
    """
    n = int(days["fractions"].sum())
    whole = total(days)
    mean = whole.map(lambda a: (a * np.float32(1.0 / n)).assign_attrs(a.attrs), keep_attrs=True)
    right = rbe.add_fractions(weighted(days, model, parameters), alpha_beta=alpha_beta)
    d = weighted(mean, model, parameters)
    at_once = weighted(whole, model, parameters)
    daily_let = (let_d(days) * days["fractions"]).sum("fraction") / n
    found = {
        "model on the mean field": (n * d * (1.0 + d / alpha_beta), right),
        "all fractions as one": (at_once * (1.0 + at_once / alpha_beta), right),
        "plain mean of daily LETd": (daily_let, let_d(whole)),
    }
    inside = within.values >= 0.5
    rows = {}
    for name, (value, truth) in found.items():
        off = 100.0 * (np.asarray(value)[inside] / np.asarray(truth)[inside] - 1.0)
        off = off[np.isfinite(off)]
        rows[name] = {"mean [%]": float(off.mean()), "largest [%]": float(off[np.abs(off).argmax()])}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("shortcut")
