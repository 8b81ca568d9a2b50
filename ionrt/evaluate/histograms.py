"""Volume histograms of any quantity: exact, weighted with occupancy, nothing binned and nothing dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.evaluate.sampling import (
    GRID,
    Sampler,
    Structures,
    kept_attrs,
    labelled_structures,
    per_structure,
    quantity_of,
)
from ionrt.quantities import QUANTITIES, IonrtError, check_same_grid, stamp

Numbers = float | Sequence[float] | np.ndarray


def _axis(da: xr.DataArray, at: Numbers | None, n: int = 401) -> np.ndarray:
    """The requested values, or a regular axis from 0 to just above the largest value."""
    if at is not None:
        return np.atleast_1d(np.asarray(at, dtype=float))
    if da.chunks is not None:
        raise IonrtError(f"{da.name}: lazy values; give the axis, e.g. at=np.linspace(0, 70, 351), or load() them")
    highest = float(np.nanmax(da.values, initial=0.0)) or 1.0
    return np.linspace(0.0, highest, n)


def _percentages(percent: Numbers) -> np.ndarray:
    values = np.atleast_1d(np.asarray(percent, dtype=float))
    if not ((values >= 0) & (values <= 100)).all():
        raise IonrtError(f"percent: expected volumes between 0 and 100 %, got {percent}")
    return values


def dvh(da: xr.DataArray, structures: Structures, *, at: Numbers | None = None) -> xr.DataArray:
    r"""Cumulative volume histogram of any quantity: dose, RBE-weighted dose, LETd, RBE.

    :math:`V(q) = \sum_i w_i [q_i \ge q] / \sum_i w_i`, weighted with occupancy times voxel volume. Exact at every value
    of the axis. A structure on another (usually finer) grid is sampled there, with the quantity interpolated linearly.

    Parameters
    ----------
    da : quantity on (..., z, y, x), mm; in its own unit. Leading dimensions (ion, beam, scenario) are kept.
    structures : volume fractions (structure, z, y, x) in 0..1, or one structure (z, y, x); or the Dataset of `read_dicom`,
        whose contours are then sampled finely and independently of any grid.
    at : values [unit of `da`] at which the histogram is wanted; default 401 values from 0 to the maximum. Needed for lazy
        input.

    Returns
    -------
    DataArray ``volume_fraction`` (..., structure, <name of da>) in 0..1 of the volume inside the grid of `da`, with coordinates
    ``volume`` (structure) [cm3], of the whole structure, and ``outside``, the share of it without a value. An empty structure
    is NaN.

    Raises
    ------
    IonrtError
        NaN in a dose, wrong units, or an axis that cannot be chosen because the input is lazy.

    Examples
    --------
    >>> half = [[[60.0, 50.0]] * 2] * 2  # Gy, SYNTHETIC: one half of a cube of 6 mm at 60, the other at 50
    >>> dose = xr.DataArray(half, {"z": [0.0, 3.0], "y": [0.0, 3.0], "x": [0.0, 3.0]}, ["z", "y", "x"], "dose")
    >>> ctv = xr.ones_like(dose)

    >>> curve = ionrt.dvh(dose, ctv, at=[50.0, 55.0, 60.0, 65.0])  # Gy
    >>> curve.squeeze().round(3).values.tolist()
    [1.0, 0.5, 0.5, 0.0]
    >>> curve["volume"].round(3).values.tolist()  # cm3
    [0.216]
    """
    da, name = quantity_of(da)
    axis = _axis(da, at)
    curve = per_structure(da, structures, lambda s: s.at_value(axis), dim=name, at=axis)
    return stamp(curve, "volume_fraction", **kept_attrs(da), quantity=name)


def dose_at_volume(
    da: xr.DataArray, structures: Structures, *, percent: Numbers | None = None, cc: Numbers | None = None
) -> xr.DataArray:
    r"""The value that the hottest part of a structure receives at least: D95 %, D2 %, D0.1 cc, L98 %.

    :math:`D_v = \inf\{q : V(q) \le v\}`, linear between the middles of the sorted samples; 0 % is the
    maximum, 100 % the minimum.

    Parameters
    ----------
    da, structures : as in `dvh`.
    percent : volume [%] of the structure, number or sequence. Exactly one of `percent` and `cc` is given.
    cc : volume [cm3]; larger than the structure gives NaN.

    Returns
    -------
    DataArray of the same quantity as `da`, (..., structure) and, for a sequence, ``percent`` or ``cc``.

    Raises
    ------
    IonrtError
        A quantity or unit of another kind, NaN in a dose, grids that differ, neither percent nor cc.

    Examples
    --------
    >>> half = [[[60.0, 50.0]] * 2] * 2  # Gy, SYNTHETIC: one half of a cube of 6 mm at 60, the other at 50
    >>> dose = xr.DataArray(half, {"z": [0.0, 3.0], "y": [0.0, 3.0], "x": [0.0, 3.0]}, ["z", "y", "x"], "dose")
    >>> ctv = xr.ones_like(dose)

    >>> ionrt.dose_at_volume(dose, ctv, percent=[95, 50, 2]).squeeze().round(2).values.tolist()  # D95 %, D50 %, D2 % [Gy]
    [50.0, 55.0, 60.0]
    """
    if (percent is None) == (cc is None):
        raise IonrtError("dose_at_volume: give either percent=95 or cc=0.1")
    dim, wanted = ("percent", _percentages(percent)) if percent is not None else ("cc", np.atleast_1d(np.asarray(cc, float)))
    if dim == "cc" and not (wanted >= 0).all():
        raise IonrtError(f"cc: expected volumes of at least 0 cm3, got {cc}")
    da, name = quantity_of(da)

    def kernel(samples):
        share = wanted / 100.0 if dim == "percent" else wanted / (samples.sampled or np.nan)
        return np.where(share <= 1.0, samples.at_volume(share), np.nan)

    out = per_structure(da, structures, kernel, dim=dim, at=wanted)
    out = out.isel({dim: 0}) if np.isscalar(percent if cc is None else cc) else out
    return stamp(out, name, **kept_attrs(da))


def volume_at_dose(da: xr.DataArray, structures: Structures, *, dose: Numbers) -> xr.DataArray:
    r"""The share of a structure with at least `dose`: V20, V95 %; multiply by the coordinate ``volume`` for cm3.

    :math:`V_d = \sum_i w_i [q_i \ge d] / \sum_i w_i`.

    Parameters
    ----------
    da, structures : as in `dvh`.
    dose : value [unit of `da`], number or sequence.

    Returns
    -------
    DataArray ``volume_fraction`` (..., structure) in 0..1 and, for a sequence, the name of `da` as last dimension.

    Raises
    ------
    IonrtError
        A quantity or unit of another kind, NaN in a dose, grids that differ.

    Examples
    --------
    >>> half = [[[60.0, 50.0]] * 2] * 2  # Gy, SYNTHETIC: one half of a cube of 6 mm at 60, the other at 50
    >>> dose = xr.DataArray(half, {"z": [0.0, 3.0], "y": [0.0, 3.0], "x": [0.0, 3.0]}, ["z", "y", "x"], "dose")
    >>> ctv = xr.ones_like(dose)

    >>> v55 = ionrt.volume_at_dose(dose, ctv, dose=55.0)
    >>> v55.values.tolist(), (v55 * v55["volume"]).round(3).values.tolist()  # share, cm3
    ([0.5], [0.108])
    """
    curve = dvh(da, structures, at=dose)
    return curve if np.ndim(dose) else curve.isel({curve.attrs["quantity"]: 0})


def mean_value(da: xr.DataArray, structures: Structures) -> xr.DataArray:
    r"""Occupancy-weighted mean :math:`\sum_i w_i q_i / \sum_i w_i` of a quantity per structure, in its own unit.

    Parameters are those of `dvh`; the result has the dimensions (..., structure).
    """
    da, name = quantity_of(da)
    out = per_structure(da, structures, lambda s: np.array([s.mean()]), dim="statistic", at=np.zeros(1))
    return stamp(out.isel(statistic=0, drop=True), name, **kept_attrs(da))


def statistics(
    da: xr.DataArray,
    structures: Structures,
    *,
    percent: Sequence[float] = (98, 95, 50, 5, 2),
    cc: Sequence[float] = (),
    dose: Sequence[float] = (),
) -> pd.DataFrame:
    """One row per structure (and per ion, beam ... where `da` has them): volume, share outside the grid, mean, extremes.

    Columns ``Dxx%`` (``Lxx%`` for LET) for each `percent`, ``Dxcc`` for each `cc` [cm3], ``Vx`` [%] for each `dose`
    [unit of `da`]. The unit of the values stands in ``DataFrame.attrs["units"]``. Computes: this is the end of a chain.

    Parameters
    ----------
    da : ``dose`` [Gy], ``rbe_dose`` [Gy (RBE)], LET [keV/um] on (..., z, y, x).
    structures : as in `ionrt.dvh`.
    percent : of the volume, for D or L [%].
    cc : of the volume, for D [cm3].
    dose : levels for V [unit of `da`].

    Returns
    -------
    DataFrame, one row per structure (and per ion, beam ...).

    Raises
    ------
    IonrtError
        NaN in a dose, wrong units, grids that differ.

    Examples
    --------
    >>> half = [[[60.0, 50.0]] * 2] * 2  # Gy, SYNTHETIC: one half of a cube of 6 mm at 60, the other at 50
    >>> dose = xr.DataArray(half, {"z": [0.0, 3.0], "y": [0.0, 3.0], "x": [0.0, 3.0]}, ["z", "y", "x"], "dose")
    >>> ctv = xr.ones_like(dose)

    >>> table = ionrt.evaluate.statistics(dose, ctv, percent=[98, 2], dose=[55.0])
    >>> table[["D98%", "D2%", "V55"]].iloc[0].round(2).tolist()  # Gy, Gy, %
    [50.0, 60.0, 50.0]
    """
    da, name = quantity_of(da)
    letter, unit = ("L" if name.startswith("let") else "D"), QUANTITIES[name].unit
    share, size, level = (np.asarray(v, dtype=float) for v in (percent, cc, dose))

    def kernel(s):
        volumes = size / (s.sampled or np.nan)
        hot = np.where(volumes <= 1, s.at_volume(volumes), np.nan)
        ends = (s.values[0], s.values[-1]) if s.values.size else (np.nan, np.nan)
        return np.concatenate([[s.mean(), *ends], s.at_volume(share / 100), hot, 100 * s.at_value(level)])

    columns = [
        "mean",
        "min",
        "max",
        *(f"{letter}{v:g}%" for v in share),
        *(f"{letter}{v:g}cc" for v in size),
        *(f"V{v:g}" for v in level),
    ]
    result = per_structure(da, structures, kernel, dim="statistic", at=np.arange(len(columns))).compute()
    result = result.assign_coords(statistic=columns)
    index = [d for d in result.dims if d != "statistic"]
    parts: dict[Any, xr.DataArray] = {
        "volume_cc": result["volume"].broadcast_like(result.isel(statistic=0, drop=True)),
        "outside_%": 100 * result["outside"],
        **{c: result.sel(statistic=c, drop=True) for c in columns},
    }
    table = pd.DataFrame({c: v.transpose(*index).values.ravel() for c, v in parts.items()})
    labels = [result[d].values if d in result.coords else np.arange(result.sizes[d]) for d in index]
    table.index = pd.MultiIndex.from_product(labels, names=index) if len(index) > 1 else pd.Index(labels[0], name=index[0])
    table.attrs = {"quantity": name, "units": unit, **kept_attrs(da)}
    return table


def dose_let_histogram(
    dose: xr.DataArray, let: xr.DataArray, structures: xr.DataArray, *, dose_at: Numbers, let_at: Numbers
) -> xr.DataArray:
    r"""Joint volume histogram: the share of a structure with at least this dose *and* at least this LET.

    :math:`V(d, l) = \sum_i w_i [D_i \ge d][L_i \ge l] / \sum_i w_i`. Voxels without an LET count as LET 0.

    Parameters
    ----------
    dose : ``dose`` [Gy] or ``rbe_dose`` [Gy (RBE)] on (z, y, x).
    let : ``let_d`` [keV/um] on the same grid.
    structures : volume fractions (structure, z, y, x) on that grid.
    dose_at, let_at : values [Gy or Gy (RBE)], [keV/um].

    Returns
    -------
    DataArray ``volume_fraction`` (structure, <name of dose>, <name of let>) in 0..1. Computes.

    Raises
    ------
    IonrtError
        Quantities of another kind, NaN in a dose, grids that differ.
    """
    dose, dose_name = quantity_of(dose)
    let, let_name = quantity_of(let)
    structures = labelled_structures(structures)
    check_same_grid(dose, let, what="dose and LET")
    check_same_grid(dose, structures, what="dose and structures")
    axes = [np.sort(np.atleast_1d(np.asarray(a, dtype=float))) for a in (dose_at, let_at)]
    sampler = Sampler(dose, structures)
    values = [np.nan_to_num(np.asarray(da.transpose(*GRID).values, dtype=float)) for da in (dose, let)]
    joint = []
    for name in structures["structure"].values:
        fractions = structures.sel(structure=name).transpose(*GRID).values
        inside = fractions > 0
        weights = fractions[inside] * np.broadcast_to(sampler.volume, fractions.shape)[inside]
        edges = [np.append(a, np.inf) for a in axes]
        counts = np.histogram2d(values[0][inside], values[1][inside], bins=edges, weights=weights)[0]
        joint.append(counts[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1] / (weights.sum() or np.nan))
    coords = {"structure": structures["structure"].values, dose_name: axes[0], let_name: axes[1]}
    out = xr.DataArray(np.array(joint), dims=tuple(coords), coords=coords)
    return stamp(out, "volume_fraction", **(kept_attrs(dose) | kept_attrs(let)))
