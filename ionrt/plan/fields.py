"""From weights to the additive field: dose and moments on the dose grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ionrt.plan.engine import Influence
from ionrt.plan.moments import Moment, merge, moment_values, moments_of
from ionrt.plan.products import whole
from ionrt.quantities import IonrtError, content_hash, one_of, stamp


def field(
    influence: Influence,
    weights: xr.DataArray | np.ndarray,
    *,
    models: Sequence[str] = ("nirs_mkm",),
    let_definition: str = "charged",
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    by: str | None = None,
) -> xr.Dataset:
    """The additive field of a plan: dose, LET x dose and the moments of the models, per fraction.

    dose_i = sum_j D_ij w_j, moment_i = sum_j D_ij w_j T(ion, energy_j, depth_i).

    Parameters: `influence`; `weights` (spot) particles per fraction; `models` names in `ionrt.rbe.MODELS` whose moments are
    wanted; `let_definition` of ``let_x_dose``; `parameters` {model: its parameters}; `by` "beam" or "ion" keeps that
    dimension, None sums over all.
    Returns a Dataset (z, y, x) float32, with `beam` or `ion` in front where asked for.
    Errors: weights of another plan, negative or not finite; unknown model; two parameter sets for one moment.
    """
    w = check_weights(influence, weights)
    if by is not None:
        one_of(by, ("beam", "ion"), what="by")
    wanted = field_moments(models, parameters or {}, let_definition)
    labels = [b.beam.name if by == "beam" else b.beam.ion for b in influence.beams]
    if by == "beam" and len(set(labels)) < len(labels):
        labels = [f"{i + 1} {label}" for i, label in enumerate(labels)]
    groups = list(dict.fromkeys(labels)) if by else [None]
    grids = [_accumulate(influence, w, wanted, [g is None or g == label for label in labels]) for g in groups]
    return _dataset(influence, grids, wanted, by, groups, w)


def check_weights(influence: Influence, weights: xr.DataArray | np.ndarray) -> np.ndarray:
    """Weights as float64, one per spot, finite and not negative."""
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (influence.n_spots,):
        raise IonrtError(
            f"weights: expected one per spot, ({influence.n_spots},), got shape {w.shape}; use this plan's own weights"
        )
    if not np.isfinite(w).all() or w.min(initial=0.0) < 0.0:
        raise IonrtError("weights: expected finite particle numbers >= 0; NaN, infinite or negative values came")
    return w


def field_moments(
    models: Sequence[str], parameters: Mapping[str, Mapping[str, Any]], let_definition: str
) -> tuple[Moment, ...]:
    """LET x dose first, then what the models need."""
    from ionrt.rbe import MODELS

    models = (models,) if isinstance(models, str) else tuple(models)
    wanted = [Moment("let_x_dose", let_definition=let_definition)]
    for name in models:
        one_of(name, tuple(MODELS), what="RBE model")
        wanted += moments_of(MODELS[name], parameters.get(name, {}), let_definition=let_definition)
    return merge(wanted)


def _accumulate(influence: Influence, w: np.ndarray, wanted: Sequence[Moment], use: Sequence[bool]) -> np.ndarray:
    """(1 + moments, voxels) float32 of the chosen beams."""
    out = np.zeros((1 + len(wanted), influence.grid.size), dtype=np.float32)
    values = {ion: moment_values(base, wanted) for ion, base in influence.base.items()}
    for beam, spots, chosen in zip(influence.beams, influence.slices(), use, strict=True):
        if chosen:
            for columns in whole(beam, values[beam.beam.ion]):
                out[:, beam.voxel] += columns.forward(w[spots]).T
    return out


def _dataset(
    influence: Influence, grids: list[np.ndarray], wanted: Sequence[Moment], by: str | None, groups: list, w: np.ndarray
) -> xr.Dataset:
    """Label and stamp."""
    shape, coords = influence.grid.shape, influence.grid.coords()
    ions = sorted({b.beam.ion for b in influence.beams})
    provenance = {"ion": ", ".join(ions), "dose_per": "fraction", "inputs_hash": content_hash(*influence.attrs.values(), w)}
    out = xr.Dataset()
    for k, name in enumerate(("dose", *(m.name for m in wanted))):
        parts = [g[k].reshape(shape) for g in grids]
        if by is None:
            da = xr.DataArray(parts[0], dims=("z", "y", "x"), coords=coords)
        else:
            da = xr.DataArray(np.stack(parts), dims=(by, "z", "y", "x"), coords={by: groups, **coords})
        carried = wanted[k - 1].attrs if k else {}
        out[name] = stamp(da, name, **carried, **provenance)
    out.attrs = {"target": influence.plan.target, "fractions": influence.plan.fractions, **provenance}
    return out
