"""Where a planning point lies on another day: applied to points, put one after the other, inverted, and how volumes change."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ionrt.adapt.sampling import at_points, centres
from ionrt.patient.registration import check_transform, field_transform, matrix_transform
from ionrt.plan.setup.geometry import Grid
from ionrt.quantities import IonrtError, stamp

AXES = ("x", "y", "z")
ROUNDS = 50  # of the fixed point; smooth fields need 5 to 20
CLOSE = 1e-3  # mm
FOLDED = 1e-3  # share of the voxels; fewer are noise of the registration outside the patient


def move_points(transform: xr.Dataset, points: np.ndarray) -> np.ndarray:
    """Planning points (n, 3) [mm, LPS] on the other day, :math:`x = A X + t` or :math:`x = X + u(X)`; NaN without u."""
    kind, points = check_transform(transform), np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise IonrtError(f"move_points: expected points (n, 3) in mm, got shape {points.shape}")
    if kind == "matrix":
        matrix = transform["matrix"].values
        return points @ matrix[:3, :3].T + matrix[:3, 3]
    u, grid = _displacement(transform)
    return points + at_points(u, grid, points).T


def compose(first: xr.Dataset, second: xr.Dataset) -> xr.Dataset:
    r"""`first`, then `second`: :math:`\phi = \phi_2 \circ \phi_1`.

    Where `first` is a matrix and `second` a displacement, the result is given on the grid of `second` taken back by `first`'s
    translation (its corners may then lie outside and are NaN).
    """
    kinds = check_transform(first), check_transform(second)
    if kinds == ("matrix", "matrix"):
        return matrix_transform(second["matrix"].values @ first["matrix"].values, **_carried(first))
    if kinds[0] == "displacement":
        grid = _displacement(first)[1]
    else:
        back = np.linalg.inv(first["matrix"].values)[:3, 3]
        near = _displacement(second)[1]
        grid = Grid(tuple(o + float(b) for o, b in zip(near.origin, back[::-1], strict=True)), near.spacing, near.shape)  # type: ignore[arg-type]
    start = centres(grid)
    return _on_grid(move_points(second, move_points(first, start)) - start, grid, **_carried(first))


def invert(transform: xr.Dataset, *, like: xr.Dataset | xr.DataArray | None = None) -> xr.Dataset:
    """The way back, from the day to the planning CT: exact for a matrix, else the fixed point of :math:`v(x) = -u(x + v(x))`.

    It lies on the grid of `like` (the daily CT), default that of `transform`, whose edge it may not leave (NaN); attribute
    ``inverse_residual`` [mm] is the mean of :math:`|x + v + u(x + v) - x|`. Refused where the displacement folds in more than
    0.1 % of its voxels, or is so steep that no inverse is found (residual above 1 mm on average). Chen et al., doi
    10.1118/1.2816107 (the fixed point).
    """
    if check_transform(transform) == "matrix":
        return matrix_transform(np.linalg.inv(transform["matrix"].values), **_carried(transform, turned=True))
    folded = float((jacobian(transform) <= 0.0).mean())
    if folded > FOLDED:
        raise IonrtError(f"invert: the displacement folds in {100 * folded:.1f} % of its voxels; register again, smoother")
    u, grid = _displacement(transform)
    grid_of_day = grid if like is None else Grid.of(like, what="invert: like")
    x = centres(grid_of_day)
    v = -at_points(u, grid, x).T
    left = np.flatnonzero(np.isfinite(v).all(axis=1))
    for _ in range(ROUNDS):
        step = -at_points(u, grid, x[left] + v[left]).T
        apart = np.abs(step - v[left]).max(axis=1)
        v[left] = step
        left = left[apart > CLOSE]
        if not left.size:
            break
    residual = np.linalg.norm(v + at_points(u, grid, x + v).T, axis=1)
    mean = float(np.nanmean(residual)) if np.isfinite(residual).any() else np.nan
    if not mean < 1.0:
        raise IonrtError(
            f"invert: no inverse found, {mean:.2f} mm are left on average; the displacement is too steep: register it"
            " again, smoother"
        )
    return _on_grid(v, grid_of_day, **_carried(transform, turned=True), inverse_residual=mean)


def jacobian(transform: xr.Dataset) -> xr.DataArray:
    r"""Change of volume on the way to the other day, :math:`J = \det(1 + \nabla u)` [1]; below 0 the space folds."""
    if check_transform(transform) == "matrix":
        return stamp(xr.DataArray(np.linalg.det(transform["matrix"].values[:3, :3])), "jacobian")
    u, grid = _displacement(transform)
    slopes = np.stack([np.stack(np.gradient(one, *grid.spacing)[::-1]) for one in u])  # component, then x, y, z
    full = np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3)
    dims = ("z", "y", "x")
    det = xr.DataArray(np.linalg.det(full), dims=dims, coords={d: transform[d].values for d in dims})
    return stamp(det, "jacobian")


def _displacement(transform: xr.Dataset) -> tuple[np.ndarray, Grid]:
    """Components (x, y, z) on their grid, float64."""
    u = transform["displacement"].transpose("axis", "z", "y", "x").sel(axis=list(AXES))
    origin = tuple(float(u[d].values[0]) for d in ("z", "y", "x"))
    steps = tuple(u.attrs["resolution"])  # an axis may have one voxel only
    return np.ascontiguousarray(u.values, dtype=np.float64), Grid(origin, steps, u.shape[1:])  # type: ignore[arg-type]


def _on_grid(u: np.ndarray, grid: Grid, **attrs: object) -> xr.Dataset:
    """Displacements (n, 3) of the voxels of a grid, as a transform."""
    return field_transform(u.T.reshape(3, *grid.shape), grid.coords(), **attrs)


def _carried(transform: xr.Dataset, *, turned: bool = False) -> dict[str, object]:
    """What is known of the two images; `turned`: the other way round."""
    other = {"fixed": "moving", "moving": "fixed"}
    out = {}
    for key, value in transform.attrs.items():
        side, _, rest = str(key).partition("_")
        out[f"{other[side]}_{rest}" if turned and side in other else str(key)] = value
    if turned and "maps" in out:
        out["maps"] = "daily to planning" if out["maps"] == "planning to daily" else "planning to daily"
    return out
