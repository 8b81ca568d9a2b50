"""Plans of several ions: parts of an influence, weights and shares per ion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.let import ions_of
from ionrt.plan.engine.influence import BeamInfluence, Influence
from ionrt.plan.setup.beams import Beam, Plan
from ionrt.quantities import QUANTITIES, IonrtError, assumptions, check, shared_attr, stamp

CARRIED = ("let_definition", "weighted_with", "parameter_set", "let_threshold")


def join_influences(plan: Plan, parts: Sequence[Influence]) -> Influence:
    """The influence of a plan put together from those of its beams on one grid, without computing anything again.

    Beams in the order of `plan`, each in one of the parts; entries are shared, not copied. Parts of different patients,
    scenarios or base data of one ion are refused.
    """
    if not parts:
        raise IonrtError("join_influences: expected at least one influence")
    first = parts[0]
    for part in parts:
        if part.grid != first.grid:
            raise IonrtError("join_influences: the parts lie on different dose grids; use one spacing and one patient")
        for setting in ("margin", "spot_spacing", "lateral_loss", "target"):
            if getattr(part.plan, setting) != getattr(plan, setting):
                raise IonrtError(f"join_influences: a part was made with another {setting} than the plan's")
        if part.attrs.get("patient") != first.attrs.get("patient"):
            raise IonrtError("join_influences: the parts belong to different patients or targets")
        if part.attrs.get("scenario_hash") != first.attrs.get("scenario_hash"):
            named = " and ".join(repr(p.attrs.get("scenario", "nominal")) for p in (first, part))
            raise IonrtError(f"join_influences: the parts belong to different scenarios, {named}")
    found: dict[Beam, BeamInfluence] = {}
    for part in parts:
        found.update({b.beam: b for b in part.beams})
    missing = [b.name for b in plan.beams if b not in found]
    if missing:
        raise IonrtError(f"join_influences: no part has the beam {missing[0]}")
    base: dict[str, xr.Dataset] = {}
    for ion, data in ((i, d) for part in parts for i, d in part.base.items() if i in plan.ions):
        known = base.setdefault(ion, data)
        if known is not data and not known.equals(data):
            raise IonrtError(f"join_influences: the parts have different base data of {ion}; make them all with the same base")
    stated = {k: dict.fromkeys(p.attrs[k] for p in parts if k in p.attrs) for k in ("base", "kernel")}
    attrs = {**first.attrs, **{k: " ".join(v) for k, v in stated.items() if v}}
    return replace(first, plan=plan, beams=tuple(found[b] for b in plan.beams), base=base, attrs=attrs)


def ion_share(field: xr.Dataset, *, quantity: str = "dose", least: float = 0.02) -> xr.DataArray:
    """Share of each ion in an additive quantity, voxel by voxel: q_ion / sum over ions of q.

    Parameters
    ----------
    field : Dataset (ion, z, y, x) of `ionrt.field(..., by="ion")`
    quantity : one of its variables, "dose" or "let_x_dose" ...
    least : share of the largest sum below which a voxel has no share (NaN).

    Returns
    -------
    ``ion_share`` (ion, z, y, x), 0..1.

    Raises
    ------
    IonrtError
        No dimension ion, a quantity that does not add up or is missing.

    Examples
    --------
    >>> dose = xr.DataArray([[1.5], [0.5]], {"ion": ["C", "He"]}, ["ion", "x"])  # Gy, SYNTHETIC
    >>> ionrt.plan.ion_share(xr.Dataset({"dose": dose})).squeeze("x").values.tolist()
    [0.75, 0.25]
    """
    if quantity not in field or not QUANTITIES[quantity].additive:
        additive = [str(v) for v in field.data_vars if v in QUANTITIES and QUANTITIES[str(v)].additive]
        raise IonrtError(f"ion_share: {quantity!r} is not an additive quantity of the field; it has {', '.join(additive)}")
    part = check(field[quantity], quantity, dims=("ion",))
    whole = part.sum("ion")
    share = (part / whole.where(whole > 0.0)).where(whole > least * whole.max())
    return stamp(share.astype(part.dtype), "ion_share", of=quantity, let_definition=part.attrs.get("let_definition"))


def spot_table(weights: xr.DataArray) -> pd.DataFrame:
    """Spots of a plan per beam: ion, spots, those in use, particles per fraction, lowest and highest energy in use [MeV/u].

    In use are those of at least 1e-3 of the beam's largest weight.
    """
    check(weights, "spot_weight", dims=("spot",))
    frame = pd.DataFrame({k: weights[k].values for k in ("beam", "ion", "energy")} | {"weight": weights.values})
    if "beam_index" in weights.coords:  # beams of one direction, e.g. with another range shifter, share the name
        frame["index"] = weights["beam_index"].values
        if frame.groupby("beam")["index"].nunique().max() > 1:
            frame["beam"] = (frame["index"] + 1).astype(str) + " " + frame["beam"]
    rows = {}
    for beam, part in frame.groupby("beam", sort=False):
        used = part[part["weight"] > 1e-3 * max(part["weight"].max(), 1e-300)]
        rows[beam] = {
            "ion": part["ion"].iloc[0],
            "spots": len(part),
            "in use": len(used),
            "particles": float(part["weight"].sum()),
            "lowest [MeV/u]": float(used["energy"].min()) if len(used) else np.nan,
            "highest [MeV/u]": float(used["energy"].max()) if len(used) else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("beam")


def course(fields: Sequence[xr.Dataset], *, parts: Sequence[int]) -> xr.Dataset:
    """Fields of a course whose fractions differ, along a new dimension ``fraction``; ``fractions`` says how many of each.

    Ions of one field mix within a fraction (their moments add before the model; sum the dimension `ion` first); fields of
    different fractions must not: apply the model to the result, which keeps ``fraction``, and add effect with
    `ionrt.rbe.add_fractions`.
    """
    if len(fields) != len(parts) or not fields:
        raise IonrtError(f"course: expected one count per field, got {len(fields)} fields and {len(parts)} counts")
    if any(int(n) != n or n < 1 for n in parts):
        raise IonrtError(f"course: expected whole numbers of fractions >= 1, got {tuple(parts)}")
    ions = ", ".join(sorted({i for f in fields for i in ions_of(f)})) or None
    out = xr.Dataset(attrs={"ion": ions} if ions else {})
    for name, carried in shared_variables(fields, what="course").items():
        joined = xr.concat([f[name] for f in fields], "fraction", join="exact", combine_attrs="drop")
        out[name] = stamp(joined, name, ion=ions, **carried)
    return out.assign_coords(fractions=("fraction", [int(n) for n in parts]))


def shared_variables(fields: Sequence[xr.Dataset], *, what: str) -> dict[str, dict[str, Any]]:
    """The variables of fields that belong together, with what each carries; one that a field lacks, or that means two things,
    raises."""
    for other in fields[1:]:
        if apart := set(fields[0].data_vars) ^ set(other.data_vars):
            raise IonrtError(f"{what}: not all fields have {', '.join(sorted(map(str, apart)))}; ask `field` for the same ones")
    found: dict[str, dict[str, Any]] = {}
    for name in map(str, fields[0].data_vars):
        arrays = [f[name] for f in fields]
        found[name] = {k: shared_attr(arrays, k) for k in CARRIED} | {"assumed": assumptions(arrays)}
    return found
