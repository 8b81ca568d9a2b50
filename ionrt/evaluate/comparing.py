"""Two doses of two codes beside each other: difference, gamma, and what statistical uncertainty explains."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr

from ionrt.evaluate.gamma_index import gamma, pass_rate
from ionrt.quantities import IonrtError

GRID = ("z", "y", "x")


def agreement(
    reference: xr.DataArray,
    evaluation: xr.DataArray,
    *,
    uncertainty: xr.DataArray | None = None,
    target: xr.DataArray | None = None,
    dose_percent: float = 2.0,
    distance_mm: float = 2.0,
    threshold: float = 10.0,
) -> xr.Dataset:
    r"""Voxel-by-voxel comparison of a dose (or LETd) with that of another code on another grid.

    difference = evaluation - reference, deviation = difference / uncertainty; of a reference with nothing but statistical error
    95.4 % of the deviations lie within 2.

    Parameters
    ----------
    reference : the other code's quantity (z, y, x), Monte Carlo for instance, on any grid.
    evaluation : ours, on any grid.
    uncertainty : one standard deviation of `reference` on its grid, in its unit; without it a warning says that noise counts as
        disagreement.
    target : mask or volume fractions (z, y, x); its voxels must lie on the reference's grid.
    dose_percent, distance_mm : criteria of gamma (global).
    threshold : percent of the reference's maximum above which voxels are compared.

    Returns
    -------
    Dataset on the reference's grid: `difference` and `deviation` (NaN below the threshold or outside), `gamma_index`;
    attributes `gamma_percent`, `within_percent` (deviations of at most 2), `uncertainty_percent` (median, of the maximum),
    `mean_difference_percent`, `compared` (voxels).

    Raises
    ------
    IonrtError for grids that do not overlap, a target that the reference does not cover, an uncertainty that is negative, on
    another grid or zero where there is dose.

    References
    ----------
    Low et al., doi 10.1118/1.598248; Chetty et al. (AAPM TG 105), doi 10.1118/1.2795842.
    """
    if target is not None:
        _check_cover(reference, target)
    at = {d: reference[d] for d in GRID}
    mine = evaluation.interp(at).transpose(*GRID)
    use = (reference >= threshold / 100.0 * float(reference.max())) & mine.notnull() & (reference > 0.0)
    if not bool(use.any()):
        raise IonrtError("agreement: the grids share no voxel with dose; check positions and frames of reference")
    difference = (mine - reference).where(use)
    highest = float(reference.max())
    filled = evaluation.fillna(0.0).astype(np.float32).assign_attrs(evaluation.attrs)
    index = gamma(reference, filled, dose_percent=dose_percent, distance_mm=distance_mm, threshold_percent=threshold)
    out = xr.Dataset({"difference": difference, "gamma_index": index.where(use)})
    out.attrs = {
        "gamma_percent": 100.0 * float(pass_rate(index)),
        "mean_difference_percent": 100.0 * float(difference.mean()) / highest,
        "compared": int(use.sum()),
    }
    if uncertainty is None:
        warnings.warn("agreement: no statistical uncertainty; noise of the reference counts as disagreement", stacklevel=2)
        return out.assign_attrs(within_percent=np.nan, uncertainty_percent=np.nan)
    sigma = _checked(uncertainty, reference).where(use)
    deviation = difference / sigma
    return out.assign(deviation=deviation).assign_attrs(
        within_percent=100.0 * float((abs(deviation) <= 2.0).where(use).mean()),
        uncertainty_percent=100.0 * float(sigma.median()) / highest,
    )


def _check_cover(reference: xr.DataArray, target: xr.DataArray) -> None:
    """Raise where part of the target lies beyond the outermost voxels of the reference."""
    where = np.nonzero(target.transpose(*GRID).values > 0.0)
    for d, index in zip(GRID, where, strict=True):
        if not index.size:
            raise IonrtError("agreement: the target is empty")
        line = reference[d].values
        half = 0.5 * abs(float(line[-1] - line[0])) / max(line.size - 1, 1)
        low, high = (float(target[d].values[k]) for k in (index.min(), index.max()))
        if low < line.min() - half or high > line.max() + half:
            raise IonrtError(
                f"agreement: the reference's grid spans {d} = {line.min():g} to {line.max():g} mm and does not cover the target"
                f" ({low:g} to {high:g} mm); score it on a larger grid"
            )


def _checked(uncertainty: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    try:
        sigma, _ = xr.align(uncertainty, reference, join="exact")
    except ValueError as error:
        raise IonrtError("agreement: the uncertainty lies on another grid than the reference; give both on one") from error
    if bool((sigma < 0.0).any()) or not bool((sigma > 0.0).any()):
        raise IonrtError("agreement: expected an uncertainty above 0 where there is dose (one standard deviation, in its unit)")
    return sigma.transpose(*GRID)
