"""From weights to the additive field: dose and moments on the dose grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.ndimage import binary_dilation
from tqdm.auto import tqdm

from ionrt.files import content_hash
from ionrt.parallel import each, slabs
from ionrt.plan.engine.influence import Influence
from ionrt.plan.setup.moments import Moment, merge, moment_values, moments_of
from ionrt.plan.setup.scenarios import Scenario, check_scenarios
from ionrt.plan.setup.scene import make_scene, on_dose_grid, structure_fractions
from ionrt.plan.solve import kernels
from ionrt.plan.solve.assemble import check_nominal, in_scenario
from ionrt.plan.solve.products import largest_first, whole
from ionrt.quantities import IonrtError, one_of, stamp

Values = Mapping[str, list[np.ndarray]]


def field(
    influence: Influence,
    weights: xr.DataArray | np.ndarray,
    *,
    models: Sequence[str] = ("nirs_mkm",),
    let_definition: str = "charged",
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    let_threshold: float | None = None,
    moments: Sequence[str] = (),
    by: str | None = None,
) -> xr.Dataset:
    """The additive field of a plan: dose, LET x dose and the moments of the models, per fraction.

    dose_i = sum_j D_ij w_j, moment_i = sum_j D_ij w_j T(ion, energy_j, depth_i).

    Parameters
    ----------
    influence, weights : (spot) particles per fraction
    models : names in `ionrt.rbe.MODELS` whose moments are wanted
    let_definition : of ``let_x_dose``
    parameters : {model: its parameters}
    let_threshold : keV/um adds ``high_let_dose``, the dose above it
    moments : ("dose_per_let",) adds what `ionrt.let.let_t` needs
    by : "beam" or "ion" keeps that dimension, None sums over all.

    Returns
    -------
    a Dataset (z, y, x) float32, with `beam` or `ion` in front where asked for.

    Raises
    ------
    IonrtError
        Weights of another plan, negative or not finite; unknown model; two parameter sets for one moment.
    """
    w = check_weights(influence, weights)
    if by is not None:
        one_of(by, ("beam", "ion"), what="by")
    further = [Moment(one_of(m, ("dose_per_let",), what="moments"), let_definition=let_definition) for m in moments]
    wanted = merge((*field_moments(models, parameters or {}, let_definition, let_threshold), *further))
    labels = [b.beam.name if by == "beam" else b.beam.ion for b in influence.beams]
    if by == "beam" and len(set(labels)) < len(labels):
        labels = [f"{i + 1} {label}" for i, label in enumerate(labels)]
    groups = list(dict.fromkeys(labels)) if by else [None]
    values = _values(influence, wanted)
    grids = [_accumulate(influence, w, wanted, values, [g is None or g == label for label in labels]) for g in groups]
    return _dataset(influence, grids, wanted, by, groups, w)


def scenario_field(
    patient: xr.Dataset,
    influence: Influence,
    weights: xr.DataArray | np.ndarray,
    scenarios: Sequence[Scenario],
    *,
    models: Sequence[str] = ("nirs_mkm",),
    let_definition: str = "charged",
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    let_threshold: float | None = None,
    within: Sequence[str] | None = None,
    memory: float = 6.0,
) -> xr.Dataset:
    """The field of a plan, its weights as they are, under each scenario; per fraction.

    `weights` are (spot), or (plan, spot) of several plans of the same spots; one scenario is in memory at a time, the result
    may take `memory` GB. Outside of the structures `within` (and of one voxel around) nothing is computed and the field is 0:
    many times faster where only these are evaluated.

    Dataset (scenario, z, y, x) float32, or (scenario, fraction, z, y, x) where scenarios have daily shifts, `plan` in front
    where the weights have it, with coordinates along `scenario`: its label, ``range_shift`` (relative), ``setup_x``,
    ``setup_y``, ``setup_z`` mm, ``weight``.
    """
    check_nominal(influence)
    chosen, several = check_scenarios(scenarios), np.ndim(weights) == 2
    each = [check_weights(influence, w) for w in (weights if several else [weights])]
    wanted = field_moments(models, parameters or {}, let_definition, let_threshold)
    days = [s.fractions() for s in chosen]
    n = max(len(d) for d in days)
    if any(len(d) not in (1, n) for d in days):
        raise IonrtError(f"scenarios: expected one number of fractions, got {sorted({len(d) for d in days})}")
    size = 4e-9 * len(each) * len(chosen) * n * (1 + len(wanted)) * influence.grid.size
    if size > memory:
        raise IonrtError(
            f"scenario_field: {len(chosen)} scenarios of {n} fractions need {size:.1f} GB, more than memory={memory:g}; take"
            " fewer scenarios or fractions, or a coarser grid"
        )
    values = _values(influence, wanted)
    scene, use = make_scene(patient, influence.plan), [True] * len(influence.beams)
    index = None if within is None else _voxels_of(patient, influence, within, scene.body)
    grids: list[list[np.ndarray]] = [[] for _ in each]
    with tqdm(total=sum(map(len, days)), desc="scenarios", disable=None, leave=False) as bar:
        for deliveries in days:
            for one in deliveries:
                beams = influence.beams if one.is_nominal and index is None else in_scenario(influence, scene, one, index)
                for made, w in zip(grids, each, strict=True):
                    made.append(_accumulate(replace(influence, beams=beams), w, wanted, values, use))
                bar.update()
            for made in grids:
                made += [made[-1]] * (n - len(deliveries))
    labels = [f"course {k + 1}: {s.label}" if s.daily else s.label for k, s in enumerate(chosen)]
    fields = []
    for made, w in zip(grids, each, strict=True):
        out = _dataset(influence, made, wanted, "delivery", list(range(len(made))), w, chosen, within)
        if within is not None:
            out.attrs["within"] = ", ".join(within)
        fields.append(_by_scenario(out, chosen, labels, n))
    if not several:
        return fields[0]
    names = weights["plan"].values if isinstance(weights, xr.DataArray) and "plan" in weights.coords else range(len(fields))
    return xr.concat(fields, pd.Index(list(names), name="plan"), join="exact", combine_attrs="drop_conflicts")


def _voxels_of(patient: xr.Dataset, influence: Influence, names: Sequence[str], body: np.ndarray) -> np.ndarray:
    """Flat indices of the structures and one voxel around, in the body."""
    coarse = on_dose_grid(patient, influence.plan)
    inside = np.zeros(influence.grid.shape, dtype=bool)
    for name in names:
        inside |= structure_fractions(coarse, name) > 0.0
    if not inside.any():
        raise IonrtError(f"within: no voxel of the dose grid lies in {', '.join(names) or 'no structure'}")
    return np.flatnonzero(binary_dilation(inside, np.ones((3, 3, 3), bool)).ravel() & body)


def _by_scenario(out: xr.Dataset, scenarios: Sequence[Scenario], labels: list[str], n: int) -> xr.Dataset:
    """`delivery` as scenario and fraction, with what each scenario is."""
    variables = {}
    for name, da in out.data_vars.items():
        shape = (len(labels), n, *da.shape[1:])
        values = xr.DataArray(da.values.reshape(shape), dims=("scenario", "fraction", "z", "y", "x"), attrs=da.attrs)
        variables[name] = values if n > 1 else values.isel(fraction=0)
    about: dict[str, Any] = {
        "scenario": labels,
        "range_shift": ("scenario", [s.range_shift for s in scenarios]),
        "weight": ("scenario", [s.weight for s in scenarios]),
    }
    for k, axis in enumerate("xyz"):
        about[f"setup_{axis}"] = ("scenario", [s.setup[k] for s in scenarios], {"units": "mm"})
    if n > 1:
        about["fraction"] = np.arange(1, n + 1)
    return xr.Dataset(variables, {**{d: out[d] for d in ("z", "y", "x")}, **about}, out.attrs)


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
    models: Sequence[str],
    parameters: Mapping[str, Mapping[str, Any]],
    let_definition: str,
    let_threshold: float | None = None,
) -> tuple[Moment, ...]:
    """LET x dose first, then what the models need."""
    from ionrt.rbe import MODELS

    models = (models,) if isinstance(models, str) else tuple(models)
    wanted = [Moment("let_x_dose", let_definition=let_definition)]
    for name in models:
        one_of(name, tuple(MODELS), what="RBE model")
        wanted += moments_of(MODELS[name], parameters.get(name, {}), let_definition=let_definition)
    if let_threshold is not None:
        wanted.append(Moment("high_let_dose", let_threshold=let_threshold))
    return merge(wanted)


def _values(influence: Influence, wanted: Sequence[Moment]) -> Values:
    """Value per unit dose of each moment, per ion."""
    return dict(zip(influence.base, each(lambda base: moment_values(base, wanted), influence.base.values()), strict=True))


def _accumulate(
    influence: Influence, w: np.ndarray, wanted: Sequence[Moment], values: Values, use: Sequence[bool]
) -> np.ndarray:
    """(1 + moments, voxels) float32 of the chosen beams."""
    out = np.zeros((1 + len(wanted), influence.grid.size), dtype=np.float32)
    for beam, spots, chosen in zip(influence.beams, influence.slices(), use, strict=True):
        if chosen:
            mine = [(columns, w[spots]) for columns in whole(beam, values[beam.beam.ion])]
            for part in largest_first(lambda columns, own: columns.forward(own), mine):
                each(lambda one: kernels.add(out, *one), [(beam.voxel[s], part[s]) for s in slabs(beam.voxel.size)])
    return out


def _dataset(
    influence: Influence,
    grids: list[np.ndarray],
    wanted: Sequence[Moment],
    by: str | None,
    groups: list,
    *inputs: object,
) -> xr.Dataset:
    """Label and stamp; `inputs` is what the values depend on beside influence and moments."""
    shape, coords = influence.grid.shape, influence.grid.coords()
    ions = sorted({b.beam.ion for b in influence.beams})
    inputs_hash = content_hash(_delivery(influence), wanted, by, *inputs)
    provenance = {"ion": ", ".join(ions), "dose_per": "fraction", "inputs_hash": inputs_hash}
    out = xr.Dataset()
    for k, name in enumerate(("dose", *(m.name for m in wanted))):
        parts = [g[k].reshape(shape) for g in grids]
        if by is None:
            da = xr.DataArray(parts[0], dims=("z", "y", "x"), coords=coords)
        else:
            da = xr.DataArray(np.stack(parts), dims=(by, "z", "y", "x"), coords={by: groups, **coords})
        carried = wanted[k - 1].attrs(influence.base.values()) if k else {}
        out[name] = stamp(da, name, **carried, **provenance)
    out.attrs = {"target": influence.plan.target, "fractions": influence.plan.fractions, **provenance}
    return out


def _delivery(influence: Influence) -> str:
    """Of everything that makes a field from given moments and weights: patient, base data, scenario, grid, kernel, beams and
    spots."""
    parts: list[object] = [sorted(influence.attrs.items()), influence.grid, influence.plan.lateral_loss]
    for one in influence.beams:
        spots, machine = one.spots, one.machine
        parts += [
            one.beam,
            one.isocentre,
            spots.u,
            spots.v,
            spots.first,
            spots.count,
            spots.spacing,
            machine.energy,
            machine.air,
        ]
    return content_hash(*parts)
