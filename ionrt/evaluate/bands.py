"""What scenarios do to any evaluated quantity: bands, worst and expected values, systematic and random parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ionrt.evaluate.sampling import kept_attrs, name_of
from ionrt.quantities import IonrtError, stamp

NOMINAL = "nominal"


def band(
    da: xr.DataArray, *, dim: str = "scenario", percent: Sequence[float] = (5.0, 95.0), weights: xr.DataArray | None = None
) -> xr.DataArray:
    r"""Extremes, expected value and percentiles over scenarios of a histogram, a metric or a map.

    Expected :math:`\sum_s p_s q_s`; percentiles of the scenarios weighted with :math:`p_s`; each point of a histogram by
    itself, so that the band's edge need not be the histogram of one scenario. Where a value is NaN in any scenario, every
    statistic over scenarios is NaN (``nominal`` is that scenario's own value).

    Parameters
    ----------
    da : any stamped quantity with the dimension `dim`: ``volume_fraction`` of `dvh`, a `dose_at_volume`, a voxel map.
    dim : over which.
    percent : percentiles [%].
    weights : (dim) relative probabilities > 0; default the coordinate ``weight`` of `da`, else all equal.

    Returns
    -------
    DataArray of the same quantity, with ``statistic`` first: ``nominal`` (where a scenario has this label), ``expected``,
    ``min``, ``max``, ``5 %``, ``95 %``.

    Raises
    ------
    IonrtError
        `dim` is missing or empty, or for percentiles outside 0..100.

    Examples
    --------
    >>> scenarios = {"scenario": ["nominal", "range +", "range -"]}
    >>> d95 = xr.DataArray([60.0, 58.0, 56.0], scenarios, ["scenario"], "dose")  # Gy, SYNTHETIC
    >>> found = ionrt.evaluate.band(d95)
    >>> [round(float(found.sel(statistic=s)), 2) for s in ("nominal", "min", "expected")]
    [60.0, 56.0, 58.0]
    """
    weights = _weights(da, dim, weights)
    level = np.atleast_1d(np.asarray(percent, dtype=float))
    if not ((level >= 0.0) & (level <= 100.0)).all():
        raise IonrtError(f"percent: expected percentiles between 0 and 100, got {percent}")
    da = da.reset_coords(drop=True).chunk({dim: -1}) if da.chunks is not None else da
    found = {
        "expected": (da * weights).sum(dim, skipna=False),
        "min": da.min(dim, skipna=False),
        "max": da.max(dim, skipna=False),
    }
    labels = [str(v) for v in da[dim].values] if dim in da.coords else []
    if NOMINAL in labels:
        found = {NOMINAL: da.isel({dim: labels.index(NOMINAL)}, drop=True), **found}
    for q in level:
        found[f"{q:g} %"] = _quantile(da, dim, weights.values, q / 100.0)
    parts = [v.drop_vars([c for c in v.coords if c not in v.dims], errors="ignore") for v in found.values()]
    out = xr.concat(parts, "statistic", join="exact", combine_attrs="drop").assign_coords(statistic=list(found))
    kept = {c: da[c] for c in ("volume", "outside") if c in da.coords and dim not in da[c].dims}
    return stamp(out.assign_coords(kept), name_of(da), **kept_attrs(da))


def error_parts(da: xr.DataArray, *, course: str = "scenario", fraction: str = "fraction") -> xr.DataArray:
    r"""Mean, and the standard deviations of the systematic and of the random part, of a metric per course and fraction.

    Random: root mean square over courses of the standard deviation over fractions, :math:`\sigma^2 = \langle s_c^2\rangle`;
    systematic: of the courses' means, less what the random part leaves in them, :math:`\Sigma^2 = S^2 - \sigma^2/n`; at least
    two courses and fractions. van Herk, Semin Radiat Oncol 14 (2004) 52, doi 10.1053/j.semradonc.2003.10.003.
    """
    for dim in (course, fraction):
        if da.sizes.get(dim, 0) < 2:
            raise IonrtError(f"error_parts: expected at least two along {dim!r}, got {da.sizes.get(dim, 0)}")
    n = da.sizes[fraction]
    random = da.var(fraction, ddof=1).mean(course)
    between = da.mean(fraction).var(course, ddof=1) - random / n
    parts = [da.mean([course, fraction]), np.sqrt(between.clip(min=0.0)), np.sqrt(random)]
    named = xr.Dataset(dict(zip(("mean", "systematic", "random"), parts, strict=True)))
    out = named.to_dataarray("part")
    return stamp(out, name_of(da), **kept_attrs(da))


def _quantile(da: xr.DataArray, dim: str, weights: np.ndarray, q: float) -> xr.DataArray:
    """Linear between the middles of the sorted, weighted values; the extremes beyond."""

    def kernel(values: np.ndarray) -> np.ndarray:
        if weights.size == 1:
            return values[..., 0]
        order = np.argsort(values, axis=-1)
        values, share = np.take_along_axis(values, order, -1), weights[order]
        middle = np.cumsum(share, axis=-1) - 0.5 * share
        above = np.clip((middle < q).sum(axis=-1, keepdims=True), 1, weights.size - 1)
        (x0, y0), (x1, y1) = (
            (np.take_along_axis(middle, at, -1), np.take_along_axis(values, at, -1)) for at in (above - 1, above)
        )
        found = (y0 + (y1 - y0) * np.clip((q - x0) / (x1 - x0), 0.0, 1.0))[..., 0]
        return np.where(np.isnan(values[..., -1]), np.nan, found)  # sorted: NaN comes last

    return xr.apply_ufunc(
        kernel, da, input_core_dims=[[dim]], dask="parallelized", join="exact", keep_attrs=False, output_dtypes=[float]
    )


def _weights(da: xr.DataArray, dim: str, weights: xr.DataArray | None) -> xr.DataArray:
    """Normalised, along `dim`."""
    if da.sizes.get(dim, 0) < 1:
        raise IonrtError(f"expected the dimension {dim!r} with at least one entry, got {dict(da.sizes)}")
    if weights is None and "weight" in da.coords and da["weight"].dims == (dim,):
        weights = da["weight"]
    values = np.ones(da.sizes[dim]) if weights is None else np.asarray(weights, dtype=float)
    if values.shape != (da.sizes[dim],) or not (np.isfinite(values).all() and (values > 0.0).all()):
        raise IonrtError(f"weights: expected {da.sizes[dim]} positive numbers along {dim!r}, got {values}")
    return xr.DataArray(values / values.sum(), dims=dim)
