"""Gamma index by shifting in ascending distance, with early stop."""

from __future__ import annotations

import math

import numba
import numpy as np
import xarray as xr

from ionrt.evaluate.sampling import GRID, kept_attrs, quantity_of, trilinear
from ionrt.parallel import each, slabs
from ionrt.patient.reading.frames import check_frame
from ionrt.quantities import IonrtError, check, one_of, shared_attr, stamp

SEARCHED = 4096  # voxels per piece: their searches differ in length


def _axis(da: xr.DataArray, dim: str) -> tuple[float, float]:
    """First centre and spacing [mm] of one axis; a single voxel has no extent to search in."""
    centres = da[dim].values.astype(float)
    if centres.size < 2:
        return float(centres[0]), math.inf
    steps = np.diff(centres)
    if np.abs(steps - steps[0]).max() > 1e-3 * abs(steps[0]) or steps[0] <= 0:
        raise IonrtError(f"gamma: {dim} must ascend with equal spacing, got steps {steps.min():g} to {steps.max():g} mm")
    return float(centres[0]), float((centres[-1] - centres[0]) / (centres.size - 1))


def _offsets(spacing: np.ndarray, radius: float, interpolation: int) -> tuple[np.ndarray, np.ndarray]:
    """Search points (n, 3) [mm] within `radius`, nearest first, and their distances."""
    axes = []
    for step in spacing / interpolation:
        reach = 0 if math.isinf(step) else int(radius / step)
        axes.append(np.arange(-reach, reach + 1) * (step if reach else 0.0))
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.sqrt((points**2).sum(axis=1))
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] <= radius]
    return points[order], distance[order]


@numba.njit(nogil=True, cache=True)
def _search(values, reference, tolerance, position, shift, distance, max_gamma):
    """Smallest gamma of each reference voxel; positions and shifts are in indices of the evaluation, distance in DTA."""
    out = np.empty(reference.size, dtype=np.float32)
    for n in range(reference.size):
        best = max_gamma * max_gamma
        for m in range(distance.size):
            apart = distance[m] * distance[m]
            if apart >= best:
                break
            value = trilinear(values, position[n, 0] + shift[m, 0], position[n, 1] + shift[m, 1], position[n, 2] + shift[m, 2])
            if not math.isnan(value):
                difference = (value - reference[n]) / tolerance[n]
                best = min(best, apart + difference * difference)
        out[n] = math.sqrt(best)
    return out


def _gamma(reference, evaluation, *, axes, dose_percent, distance_mm, local, threshold_percent, interpolation, max_gamma):
    """Gamma on plain arrays; NaN below the threshold."""
    if np.isnan(reference).any() or np.isnan(evaluation).any():
        raise IonrtError("gamma: NaN in a dose; every voxel of both grids needs a value")
    out = np.full(reference.shape, np.nan, dtype=np.float32)
    highest = float(reference.max())
    where = np.argwhere((reference >= threshold_percent / 100 * highest) & (reference > 0))
    if not len(where):
        return out
    dose = reference[tuple(where.T)].astype(float)
    tolerance = dose_percent / 100 * (dose if local else np.full_like(dose, highest))
    (origin, step), (first, spacing) = (np.array(one).T for one in axes)
    world = origin + where * np.where(np.isinf(step), 0.0, step)
    shift, distance = _offsets(spacing, max_gamma * distance_mm, interpolation)
    scale = np.where(np.isinf(spacing), 1.0, spacing)
    values, position, shift = np.ascontiguousarray(evaluation), (world - first) / scale, shift / scale
    parts = slabs(len(where), SEARCHED)
    apart = distance / distance_mm
    found = each(lambda p: _search(values, dose[p], tolerance[p], position[p], shift, apart, max_gamma), parts)
    out[tuple(where.T)] = np.concatenate(found)
    return out


def gamma(
    reference: xr.DataArray,
    evaluation: xr.DataArray,
    *,
    dose_percent: float,
    distance_mm: float,
    local: bool = False,
    threshold_percent: float = 10.0,
    interpolation: int = 4,
    max_gamma: float = 2.0,
) -> xr.DataArray:
    r"""Gamma index of an evaluated dose against a reference, per voxel of the reference.

    :math:`\gamma(r) = \min_{r'} \sqrt{|r'-r|^2/\Delta d^2 + (D_e(r')-D_r(r))^2/\Delta D^2}`. The search
    goes outwards over points a fraction of a voxel apart and ends where the distance alone exceeds the best value. The pass
    rate depends on that fraction, so every setting is recorded in the attributes.

    Parameters
    ----------
    reference, evaluation : the same quantity on (z, y, x), mm; the grids may differ, spacing equal along each axis.
    dose_percent : dose tolerance [%] of the maximum of the reference.
    distance_mm : distance to agreement [mm].
    local : dose tolerance of the local dose.
    threshold_percent : voxels of the reference below this share [%] of its maximum are NaN.
    interpolation : search points per voxel of the evaluation along each axis; 1 is voxels only.
    max_gamma : the search ends there; larger values are reported as this one.

    Returns
    -------
    DataArray ``gamma_index`` on the reference's grid, float32.

    Raises
    ------
    IonrtError
        Different quantities or RBE models, NaN, uneven spacing, or tolerances that are not positive.

    References
    ----------
    Low et al., Med. Phys. 25 (1998) 656, doi 10.1118/1.598248.

    Examples
    --------
    A dose that is 2 % too high everywhere, at 3 % and 2 mm: no neighbour is nearer to the reference, gamma = 2 / 3.

    >>> centre = [0.0, 3.0]  # mm
    >>> dose = xr.DataArray(np.full((2, 2, 2), 2.0), {"z": centre, "y": centre, "x": centre}, ["z", "y", "x"], "dose")  # Gy
    >>> index = ionrt.gamma(dose, dose * 1.02, dose_percent=3, distance_mm=2)
    >>> round(float(index.max()), 3)
    0.667
    """
    for what, value in {"dose_percent": dose_percent, "distance_mm": distance_mm, "max_gamma": max_gamma}.items():
        if not value > 0:
            raise IonrtError(f"gamma: {what} must be positive, got {value}")
    if int(interpolation) != interpolation or interpolation < 1:
        raise IonrtError(f"gamma: interpolation counts search points per voxel, 1 or more, got {interpolation}")
    reference, name = quantity_of(reference)
    evaluation, other = quantity_of(evaluation)
    one_of(other, [name], what="gamma: quantity of the evaluation")
    check_frame(reference, evaluation, what="gamma: the evaluation", quiet=True)
    for carried in ("let_definition", "rbe_model"):
        shared_attr((reference, evaluation), carried)
    settings = {
        "dose_percent": dose_percent,
        "distance_mm": distance_mm,
        "interpolation": interpolation,
        "max_gamma": max_gamma,
    }
    settings["threshold_percent"] = threshold_percent
    axes = [[_axis(da, d) for d in GRID] for da in (reference, evaluation)]
    inner = {d: f"evaluation_{d}" for d in GRID}
    whole = [da.chunk(dict.fromkeys(GRID, -1)) if da.chunks is not None else da for da in (reference, evaluation)]
    result = xr.apply_ufunc(
        _gamma,
        whole[0],
        whole[1].drop_vars(GRID).rename(inner),
        kwargs={**settings, "interpolation": int(interpolation), "local": local, "axes": axes},
        input_core_dims=[list(GRID), list(inner.values())],
        output_core_dims=[list(GRID)],
        vectorize=True,
        dask="parallelized",
        join="exact",
        keep_attrs=False,
        output_dtypes=[np.float32],
    )
    normalisation = "local" if local else "global, maximum of the reference"
    attrs = {**kept_attrs(reference), **settings, "normalisation": normalisation}
    return stamp(result, "gamma_index", **attrs, quantity=name)


def pass_rate(index: xr.DataArray) -> xr.DataArray:
    """Share of the evaluated voxels (those that are not NaN) with a gamma index of at most 1, in 0..1.

    Parameter `index`: ``gamma_index`` on (..., z, y, x). Returns ``volume_fraction`` (...); the settings of
    the index stay in its attributes.
    """
    index = check(index, "gamma_index", dims=GRID)
    inside = index.notnull().sum(GRID)
    share = (index <= 1.0).sum(GRID) / inside.where(inside > 0)
    return stamp(share, "volume_fraction", **kept_attrs(index))
