"""Depth tables of the additive moments: base-data dose spectra contracted with a model's table over charge and energy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from ionrt.beam import stopping_power
from ionrt.biology.lem import lem1
from ionrt.biology.specific import specific_energy
from ionrt.biology.tissues import TISSUES, Kernel, Lem1, Mkm, Osmk21, Smk, Tissue, any_tissue
from ionrt.parallel import each, slabs
from ionrt.quantities import FIELD, LET_MOMENTS, OWN_DOSE, WHOLE_DOSE, IonrtError, one_of, stamp

NAMES = FIELD[1:]  # every additive voxel quantity but dose itself
ISOTOPE_OF_CHARGE = ("", "1H", "4He", "7Li", "9Be", "11B", "12C", "14N", "16O", "19F", "20Ne")  # LET depends on A by < 0.1 %
_SPECIFIC = {"zstar_x_dose": "zstar", "zd_x_dose": "zd", "zn_x_dose": "zn"}
ENERGIES = 16  # contracted together
_SUBDIVIDE = 16  # energies per bin when a threshold cuts through bins


def let_table(charge: Any, energy: Any) -> xr.DataArray:
    """Unrestricted LET [keV/um] = S [MeV cm2/g] / 10 in water (charge, energy) at `energy` [MeV/u].

    Of the most abundant isotope of charges 1 to 10.
    """
    z, e = np.atleast_1d(np.asarray(charge)), np.atleast_1d(np.asarray(energy, float))
    wrong = [int(c) for c in z if not 1 <= int(c) <= 10]
    if wrong:
        raise IonrtError(f"charge: expected 1 to 10, got {wrong[0]}")
    values = np.stack([_let(int(c), e.tobytes()) for c in z])
    da = xr.DataArray(values, dims=("charge", "energy"), coords={"charge": z, "energy": e})
    return stamp(da, "let_d", let_definition="primary", medium="water")


@lru_cache(maxsize=64)
def _let(charge: int, energy: bytes) -> np.ndarray:
    e = np.frombuffer(energy)
    order, values = np.argsort(e), np.empty(e.size)
    values[order] = stopping_power(ISOTOPE_OF_CHARGE[charge], e[order]).values * 0.1
    return values


@lru_cache(maxsize=64)
def _cell_table(tissue: Tissue, charge: bytes, energy: bytes, let: bytes) -> xr.Dataset:
    """Specific energies and coefficients of a parameter set over (charge, energy)."""
    z, e = np.frombuffer(charge), np.frombuffer(energy)
    s = np.frombuffer(let).reshape(z.size, e.size)
    if isinstance(tissue, Lem1):
        return lem1(z[:, None], e, let=s, tissue=tissue)
    if not isinstance(tissue, (Mkm, Smk, Osmk21)):
        raise IonrtError(f"{tissue.name}: oxygen changes the domain itself; use its set at one pressure, osmk23_at")
    table = specific_energy(
        z[:, None], e, let=s, domain_radius=tissue.domain_radius, nucleus_radius=tissue.nucleus_radius, z0=tissue.z0
    )
    if isinstance(tissue, Mkm):
        table = table.assign(alpha=tissue.alpha0 + tissue.beta0 * table.zstar, beta=xr.full_like(table.zstar, tissue.beta0))
    return table


def _values(name: str, tissue: Tissue, base: xr.Dataset, let: xr.DataArray) -> np.ndarray:
    """Table (charge, kinetic_energy) whose dose mean is the moment per unit dose."""
    key = [np.ascontiguousarray(a, dtype=float).tobytes() for a in (base["charge"], base["kinetic_energy"], let)]
    table = _cell_table(tissue, *key)
    source = _SPECIFIC.get(name, "alpha" if name == "alpha_x_dose" else "beta")
    if source not in table:
        raise IonrtError(f"{name}: cannot come from the parameter set {tissue.name!r} ({type(tissue).__name__})")
    return np.sqrt(table["beta"].values) if name == "sqrt_beta_x_dose" else table[source].values


def _above(base: xr.Dataset, threshold: float, let: xr.DataArray | None) -> np.ndarray:
    """Share of each (charge, kinetic energy) bin above the LET threshold, bins on a log grid."""
    energy = np.log(base["kinetic_energy"].values.astype(float))
    step = np.gradient(energy)
    inside = (np.arange(_SUBDIVIDE) + 0.5) / _SUBDIVIDE - 0.5
    fine = energy[:, None] + step[:, None] * inside
    if let is not None:
        rows = [np.interp(fine, energy, row) for row in let.values]
    else:
        fine = np.clip(fine, np.log(0.001), np.log(1000.0))
        rows = [let_table(z, np.exp(fine.ravel())).values.reshape(fine.shape) for z in base["charge"].values]
    return np.mean(np.array(rows) > threshold, axis=-1)


def contract(base: xr.Dataset, tables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Dose mean over each node's spectrum, then linear in depth: name -> (energy, depth) float32."""
    depth, energy = base["depth"].values.astype(float), base["energy"].values
    stack = np.array(list(tables.values())).reshape(len(tables), -1)
    out = {name: np.zeros((energy.size, depth.size), np.float32) for name in tables}
    spectra = base["dose_spectrum"].transpose("energy", "node", "charge", "kinetic_energy").values
    nodes = base["spectrum_depth"].transpose("energy", "node").values

    def one(i: int) -> None:
        share = spectra[i].reshape(spectra.shape[1], -1).astype(float)
        total = share.sum(axis=1)
        known = total > 0
        if not known.any():
            raise IonrtError(f"base data: no dose spectrum at {float(energy[i]):g} MeV/u")
        node = nodes[i, known].astype(float)
        for name, mean in zip(tables, (share[known] @ stack.T / total[known, None]).T, strict=True):
            out[name][i] = np.interp(depth, node, mean)

    def some(part: slice) -> None:
        for i in range(part.start, part.stop):
            one(i)

    each(some, slabs(energy.size, ENERGIES))
    return out


def moment_tables(
    base: xr.Dataset,
    names: Sequence[str],
    *,
    parameter_set: str | Tissue | Kernel | None = None,
    let_definition: str = "charged",
    let_threshold: float | None = None,
    let: xr.DataArray | None = None,
) -> xr.Dataset:
    """Moments per unit dose as functions of (energy, depth), for every energy of the base data.

    <m>(E0, x) = sum over (Z, E) of p(Z, E | E0, x) m(Z, E), p the share of the dose; a field's numerator is the sum over
    spots of dose times this. ``let_x_dose`` and ``dose_per_let`` (1 / LETt) come from the base data's own LET; of ``primary``
    they hold the primaries' share of the dose, which comes along as ``counted_dose`` and is what they are divided by.

    Validity: that of the base data; spectra hold transported charged particles, target fragments enter only through the LET
    definition. Base data that do not say what the primaries deposit (`dose_by_origin`; machine files) have them weighted with
    the dose of all particles, up to 12 % off where energies meet, and ``assumed`` says so. ``charged`` is weighted with the
    whole dose, target fragments included: in spread-out peaks LETd differs from the charged particles' own mean by up to
    1.5 % (He) and 0.4 to 0.7 % (others), LETt by up to 2 %.

    `names` are of let_x_dose, dose_per_let, counted_dose, high_let_dose, zstar_x_dose, zd_x_dose, zn_x_dose, alpha_x_dose,
    sqrt_beta_x_dose; `parameter_set` is the cell, a name in `TISSUES` or a set; `let_threshold` [keV/um] of high_let_dose has
    no default, the literature uses several; `let` [keV/um] (charge, kinetic_energy) takes the place of the built-in stopping
    power.
    """
    for name in names:
        one_of(name, NAMES, what="moment")
    if let_definition in OWN_DOSE and set(LET_MOMENTS).intersection(names):
        names = tuple(dict.fromkeys((*names, "counted_dose")))
    own = isinstance(parameter_set, Kernel)
    needs = {
        "let_t" if n == "dose_per_let" else "let_d" if n in LET_MOMENTS else "alpha" if own else "dose_spectrum" for n in names
    }
    lacking = [n for n in needs if n not in base]
    if lacking:
        raise IonrtError(f"base data: {lacking[0]!r} is missing; needed for {', '.join(names)}")
    if let is not None:
        let = let.transpose("charge", "kinetic_energy")
    out: dict[str, xr.DataArray] = {}
    tables: dict[str, np.ndarray] = {}
    attrs: dict[str, dict[str, Any]] = {}
    for name in names:
        if name in LET_MOMENTS:
            out[name] = _from_let(base, name, let_definition)
        elif name == "high_let_dose":
            if let_threshold is None or not let_threshold >= 0:
                raise IonrtError("high_let_dose: give let_threshold in keV/um (>= 0)")
            tables[name] = _above(base, let_threshold, let)
            attrs[name] = {"let_definition": "charged", "let_threshold": float(let_threshold)}
        elif isinstance(parameter_set, Kernel):
            out[name] = _from_kernel(base, name, parameter_set)
        elif parameter_set is None:
            raise IonrtError(f"{name}: which cell? give parameter_set, one of {', '.join(TISSUES)}, or a set of your own")
        else:
            tissue = any_tissue(parameter_set, "parameter_set")
            source = let if let is not None else let_table(base["charge"].values, base["kinetic_energy"].values)
            tables[name] = _values(name, tissue, base, source)
            attrs[name] = {"parameter_set": tissue.name, "citation": tissue.citation}
    coords = {k: base[k] for k in ("energy", "depth")}
    for name, values in (contract(base, tables) if tables else {}).items():
        out[name] = xr.DataArray(values, dims=("energy", "depth"), coords=coords, attrs={**attrs[name], "per": "Gy"}, name=name)
    return xr.Dataset({n: out[n] for n in names}, attrs={"ion": base.attrs.get("ion", "")})


def kernel_tissues(base: xr.Dataset) -> list[Kernel]:
    """Tissue classes of base data that carry `alpha` and `beta` tables (`ionrt.beam.read_matrad`), in the order of the file."""
    missing = [n for n in ("alpha", "beta", "alpha_x", "beta_x") if n not in base]
    if missing:
        raise IonrtError(
            f"base data of {base.attrs.get('ion', '?')}: no table {missing[0]!r}; expected a machine file with kernels"
        )
    source = str(base.attrs.get("kernel_source", base.attrs.get("citation", "")))
    return [Kernel(float(a), float(b), source) for a, b in zip(base["alpha_x"].values, base["beta_x"].values, strict=True)]


def _from_kernel(base: xr.Dataset, name: str, tissue: Kernel) -> xr.DataArray:
    """alpha, or the root of beta, of the tables of one tissue class, matched exactly."""
    if name not in ("alpha_x_dose", "sqrt_beta_x_dose"):
        raise IonrtError(f"{name}: cannot come from {tissue.name}; tables of alpha and beta serve lem_kernel only")
    classes = kernel_tissues(base)
    if tissue not in classes:
        raise IonrtError(f"{tissue.name} is no tissue class of the base data; they hold {'; '.join(c.name for c in classes)}")
    picked = base["alpha" if name == "alpha_x_dose" else "beta"].isel(tissue=classes.index(tissue), drop=True)
    picked = picked.transpose("energy", "depth").rename(name)
    picked = picked if name == "alpha_x_dose" else picked.copy(data=np.sqrt(picked.values))
    picked.attrs = {"parameter_set": tissue.name, "citation": tissue.citation, "per": "Gy"}
    return picked.astype(np.float32)


def let_attrs(definition: str | None, bases: Iterable[xr.Dataset] = ()) -> dict[str, str]:
    """Attributes of a LET numerator made of base data: its definition, the dose it is weighted with and what that rests on."""
    if definition not in OWN_DOSE:
        return {"let_definition": definition} if definition else {}
    said = {"let_definition": definition, "weighted_with": "counted_dose"}
    return said if all(_tells(b, definition) for b in bases) else said | {"assumed": WHOLE_DOSE}


def _tells(base: xr.Dataset, definition: str) -> bool:
    """Whether base data say what the particles of a definition deposit."""
    return "dose_by_origin" in base and definition in base["origin"].values


def _from_let(base: xr.Dataset, name: str, definition: str) -> xr.DataArray:
    """LETd, 1 / LETt or 1 under one definition, times the share of the dose that its particles have where that counts."""
    source = base["let_t" if name == "dose_per_let" else "let_d"]
    one_of(definition, [str(d) for d in source["let_definition"].values], what="let_definition")
    picked = source.sel(let_definition=definition, drop=True).transpose("energy", "depth")
    if name == "dose_per_let":
        picked = xr.where(picked > 0, 1.0 / picked.where(picked > 0), 0.0).astype(picked.dtype)
    if name == "counted_dose":
        picked = (picked > 0).astype(picked.dtype)
    if definition in OWN_DOSE and _tells(base, definition):
        share = base["dose_by_origin"].sel(origin=definition, drop=True) / base["dose"].where(base["dose"] > 0)
        picked = picked * share.fillna(0.0)
    picked = picked.copy().rename(name)
    picked.attrs = {**let_attrs(definition, (base,)), "per": "Gy"}
    return picked
