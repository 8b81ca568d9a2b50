"""Spread-out Bragg peaks in water: weights of a few energies that make a depth interval flat, and the field they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import nnls

from ionrt.beam import base_data, energy_for_range
from ionrt.biology.moments import moment_tables
from ionrt.ions import GY_UM2
from ionrt.quantities import IonrtError, one_of, stamp
from ionrt.rbe import MODELS
from ionrt.rbe.model import Model

GY_MM2 = GY_UM2 / 1e6  # per particle
ROW_STEP = 1.0  # mm between the depths that the weights look at
ROUNDS = 20
SETTLED = 1e-4  # of the prescription


def layers(
    ion: str,
    *,
    interval: tuple[float, float],
    step: float = 3.0,
    ripple_sigma: float = 1.2,
    depth_step: float = 0.5,
    progress: bool | None = None,
) -> xr.Dataset:
    """Base data of the energies that a spread-out Bragg peak over `interval` needs.

    Parameters
    ----------
    ion : "p", "He", "C", "O", "Ne"
    interval : (from, to) [mm] of water
    step : [mm] of range between energies
    ripple_sigma : [mm] of the ripple filter that widens each peak
    depth_step : [mm] kept, a multiple of 0.1
    progress : as in `ionrt.beam.base_data`.

    Returns
    -------
    base data Dataset (energy, depth, ...), cached on disk.

    Raises
    ------
    IonrtError
        An interval that is not 0 < from < to or that the ion cannot reach.
    """
    near, far = _interval(interval)
    if not step > 0:
        raise IonrtError(f"step: expected a distance > 0 mm, got {step!r}")
    count = int(np.ceil((far - near) / step)) + 1
    energy = energy_for_range(ion, np.linspace(near, far + 0.5 * step, count)).values
    base = base_data(ion, energy=energy, ripple_sigma=ripple_sigma, progress=progress)
    every = max(round(depth_step / float(base["depth"][1] - base["depth"][0])), 1)
    return base.isel(depth=slice(None, None, every))


def fluence(
    base: xr.Dataset,
    *,
    interval: tuple[float, float],
    prescription: float,
    model: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Primary ions per area and energy that make `interval` flat in dose, or in RBE-weighted dose under `model`.

    min over w >= 0 of |q(w) - prescription|^2 over the depths of the interval; non-negative least squares, for a model
    repeated on its linearisation by `Model.partials`.

    Validity: one broad field in water.

    Parameters
    ----------
    base : as from `layers`
    interval : (from, to) [mm]
    prescription : [Gy, or Gy (RBE)] per fraction
    model : a name in `ionrt.rbe.MODELS` or None for physical dose
    parameters : of the model.

    Returns
    -------
    ``planar_fluence`` [1/mm2] (energy), attributes ``worst`` (largest deviation, share of the prescription) and ``rbe_model``.

    Raises
    ------
    IonrtError
        An empty interval, a prescription <= 0, bad parameters.
    """
    near, far = _interval(interval)
    if not (np.isfinite(prescription) and prescription > 0):
        raise IonrtError(f"prescription: expected a dose per fraction > 0, got {prescription!r}")
    chosen, given = _model(model, parameters)
    tables = _tables(base, chosen, given, extra=(), let_definition="charged", let_threshold=None)
    depth = base["depth"].values
    rows = np.unique(np.searchsorted(depth, np.arange(near, far + 1e-9, ROW_STEP)))
    if rows[-1] >= depth.size:
        raise IonrtError(f"interval: {far:g} mm lies behind the base data, which end at {depth[-1]:g} mm")
    columns = [GY_MM2 * t[:, rows].T for t in _per_primary(base, tables, chosen.moments)]
    w = nnls(columns[0], np.full(rows.size, float(prescription)))[0]
    for _ in range(ROUNDS):
        numerators = [c @ w for c in columns]
        got = chosen.kernel(*numerators, **given)
        slope = sum(p[:, None] * c for p, c in zip(chosen.partials(*numerators, **given), columns, strict=True))
        new = nnls(slope, prescription - got + slope @ w)[0]
        settled = np.abs(slope @ (new - w)).max() < SETTLED * prescription
        w = new
        if settled:
            break
    worst = np.abs(chosen.kernel(*(c @ w for c in columns), **given) / prescription - 1.0).max()
    out = xr.DataArray(w, dims="energy", coords={"energy": base["energy"]})
    return stamp(
        out,
        "planar_fluence",
        ion=base.attrs.get("ion"),
        rbe_model=model,
        prescription=float(prescription),
        interval=f"{near:g} to {far:g} mm",
        worst=float(worst),
        dose_per="fraction",
    )


def depth_field(
    base: xr.Dataset,
    weights: xr.DataArray,
    *,
    model: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    moments: Sequence[str] = (),
    let_definition: str = "charged",
    let_threshold: float | None = None,
) -> xr.Dataset:
    """The field of a broad beam along depth: dose and additive moments, which every RBE model and LET function takes.

    D(x) = k sum_E w_E d_E(x), numerator_m(x) = k sum_E w_E d_E(x) m_E(x), k = 1.602e-7 Gy mm2 / (MeV/mm).

    Parameters
    ----------
    base : as from `layers`
    weights : ``planar_fluence`` [1/mm2] (energy) of `fluence`
    model, parameters : whose moments to add
    moments : further ones by name (``let_x_dose``, ``dose_per_let``, ``high_let_dose``)
    let_definition, let_threshold : [keV/um] of those.

    Returns
    -------
    Dataset (depth) [mm] with ``dose`` [Gy] and the moments, coordinate ``ion``. One parameter set per field: another model or
        cell is another call.

    Raises
    ------
    IonrtError
        Weights of other energies, and as `moment_tables`.
    """
    if "energy" not in weights.dims or not np.array_equal(weights["energy"].values, base["energy"].values):
        raise IonrtError("weights: expected one per energy of these base data (dimension 'energy'); compute them with fluence")
    chosen, given = _model(model, parameters)
    for name in moments:
        one_of(name, ("let_x_dose", "dose_per_let", "high_let_dose"), what="further moment")
    tables = _tables(base, chosen, given, extra=moments, let_definition=let_definition, let_threshold=let_threshold)
    names = [str(n) for n in tables]
    w = GY_MM2 * weights.values
    found = dict(zip(("dose", *names), (w @ t for t in _per_primary(base, tables, names)), strict=True))
    field = xr.Dataset(coords={"depth": base["depth"], "ion": str(base.attrs.get("ion", ""))})
    for name, values in found.items():
        attrs = (
            {} if name == "dose" else {k: v for k, v in tables[name].attrs.items() if k not in ("units", "long_name", "per")}
        )
        field[name] = stamp(xr.DataArray(values, dims="depth"), name, **attrs)
    return field


def _interval(interval: tuple[float, float]) -> tuple[float, float]:
    near, far = (float(x) for x in interval)
    if not 0.0 < near < far:
        raise IonrtError(f"interval: expected (from, to) in mm with 0 < from < to, got {interval!r}")
    return near, far


def _model(name: str | None, parameters: Mapping[str, Any] | None) -> tuple[Model, dict[str, Any]]:
    """The RBE model with its parameters, physical dose being the constant RBE of 1."""
    if name is None:
        return MODELS["constant"], {"rbe": 1.0}
    return MODELS[one_of(name, tuple(MODELS), what="RBE model")], dict(parameters or {})


def _tables(
    base: xr.Dataset, model: Model, given: Mapping[str, Any], *, extra: Sequence[str], let_definition: str, let_threshold: Any
) -> xr.Dataset:
    """Moments per unit dose (energy, depth) of a model and further ones; a model's own LET definition counts."""
    merged = model.parameters(given)
    tissue = model.cell(**merged) if model.cell else None
    names = tuple(dict.fromkeys((*model.moments, *extra)))
    definition = model.let_definition or let_definition
    return moment_tables(base, names, parameter_set=tissue, let_definition=definition, let_threshold=let_threshold)


def _per_primary(base: xr.Dataset, tables: xr.Dataset, names: Sequence[str]) -> list[np.ndarray]:
    """Dose and numerators [MeV/mm and times the moment] (energy, depth) per primary ion."""
    dose = base["dose"].transpose("energy", "depth").values.astype(float)
    return [dose, *(dose * tables[n].values for n in names)]


def at_dose(field: xr.Dataset, dose: float | np.ndarray, *, depth: float | None = None) -> xr.Dataset:
    """The radiation quality of a depth field at other doses: dose and moments scaled together, quality unchanged.

    Parameters
    ----------
    field : of `depth_field`
    dose : [Gy] per fraction, a number, or several with `depth`
    depth : [mm] of the one place to look at, None for every depth.

    Returns
    -------
    field with the dimension ``depth``, or ``fraction_dose`` [Gy] for several doses; depths without dose are left out.

    Raises
    ------
    IonrtError
        Doses <= 0, several doses without a depth, a place without dose.

    Examples
    --------
    The same radiation at 4 Gy instead of 2: the moment doubles with the dose, LETd = 6 / 2 = 12 / 4 = 3 keV/um stays.

    >>> moments = {"dose": ("depth", [2.0]), "let_x_dose": ("depth", [6.0])}  # Gy, Gy keV/um, SYNTHETIC
    >>> field = xr.Dataset(moments, {"depth": [100.0]})  # mm
    >>> scaled = ionrt.sobp.at_dose(field, 4.0)
    >>> scaled["dose"].values.tolist(), scaled["let_x_dose"].values.tolist()
    ([4.0], [12.0])
    """
    doses = np.asarray(dose, float)
    if not np.all((doses > 0) & np.isfinite(doses)) or (doses.ndim and depth is None):
        raise IonrtError(f"dose: expected a number > 0 in Gy, or several together with one depth, got {dose!r}")
    place = field.sel(depth=depth, method="nearest") if depth is not None else field.isel(depth=field["dose"].values > 0)
    if not float(place["dose"].min()) > 0:
        raise IonrtError(f"depth: the field has no dose at {depth:g} mm")
    wanted = xr.DataArray(doses, dims=("fraction_dose",) if doses.ndim else (), attrs={"units": "Gy"})
    if doses.ndim:
        wanted = wanted.assign_coords(fraction_dose=doses)
    with xr.set_options(keep_attrs=True):
        unit = {name: place[name] / place["dose"].values for name in place.data_vars}
        return xr.Dataset({name: (value * wanted).assign_attrs(place[name].attrs) for name, value in unit.items()})


def rbe_doses(
    base: xr.Dataset, weights: xr.DataArray, cases: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> dict[str, xr.DataArray]:
    """One beam under several models: what each of them calls the RBE-weighted dose of the same particles.

    Parameters
    ----------
    base, weights : as for `depth_field`
    cases : {name: (model, parameters)}.

    Returns
    -------
    {name: ``rbe_dose`` [Gy (RBE)] (depth)}.

    Raises
    ------
    IonrtError
        As `depth_field` and the models.
    """
    return {
        name: MODELS[one_of(model, tuple(MODELS), what="RBE model")](
            depth_field(base, weights, model=model, parameters=given), **given
        )
        for name, (model, given) in cases.items()
    }


def rbe_of(rbe_dose: xr.DataArray, field: xr.Dataset) -> xr.DataArray:
    """RBE = RBE-weighted dose / dose; 0 where there is no dose.

    Parameters
    ----------
    rbe_dose : [Gy (RBE)] of a model
    field : with ``dose`` [Gy] on the same grid.

    Returns
    -------
    ``rbe`` [1].

    Examples
    --------
    >>> dose = xr.DataArray([3.6], dims="depth", name="rbe_dose", attrs={"units": "Gy (RBE)", "rbe_model": "SYNTHETIC"})
    >>> ionrt.sobp.rbe_of(dose, xr.Dataset({"dose": ("depth", [1.5])})).round(2).values.tolist()
    [2.4]
    """
    dose = field["dose"]
    ratio = xr.where(dose > 0, rbe_dose / dose.where(dose > 0), 0.0)
    return stamp(ratio, "rbe", rbe_model=rbe_dose.attrs.get("rbe_model"), parameter_set=rbe_dose.attrs.get("parameter_set"))
