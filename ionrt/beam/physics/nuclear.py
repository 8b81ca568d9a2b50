"""Nuclear reactions of light ions in water: total cross sections and what a reaction emits."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.special import exp1

from ionrt.beam.physics.stopping import Array, beta_gamma, energies, read_rows
from ionrt.ions import ATOMIC_MASS_UNIT, ISOTOPES, Isotope, get
from ionrt.quantities import one_of, stamp

_REFERENCE = "Karol 1975, doi 10.1103/PhysRevC.11.1203, normalised to doi 10.1103/PhysRevC.79.061601"


@cache
def constants() -> dict[str, Any]:
    """The constants of `tables/reactions.toml`."""
    return tomllib.loads((files("ionrt.beam.physics") / "tables" / "reactions.toml").read_text(encoding="utf-8"))


def _radius(isotope: Isotope) -> float:
    """Matter radius in fm."""
    known: dict[str, float] = constants()["karol"]["radius_fm"]
    return known.get(isotope.symbol, 0.93 * isotope.mass_number ** (1 / 3) + 0.2)


def _nucleon_nucleon(energy: Array, a: Isotope, b: Isotope) -> Array:
    """Isospin-averaged nucleon-nucleon cross section in mb (Charagi and Gupta)."""
    beta, _ = beta_gamma(np.maximum(energy, 10.0), 1.0)
    pp = 13.73 - 15.04 / beta + 8.76 / beta**2 + 68.67 * beta**4
    pn = -70.67 - 18.18 / beta + 25.26 / beta**2 + 113.85 * beta
    za, na, zb, nb = a.charge, a.mass_number - a.charge, b.charge, b.mass_number - b.charge
    like = (za * zb + na * nb) / (a.mass_number * b.mass_number)
    return like * pp + (1 - like) * pn


def _overlap(projectile: Isotope, target: Isotope, energy: Array) -> tuple[float, Array]:
    """Area pi a^2 in mb and central opacity chi of two nuclei, Gaussian densities."""
    c = constants()["karol"]
    area = 10 * np.pi * ((2 / 3) * (_radius(projectile) ** 2 + _radius(target) ** 2) + c["range2_fm2"])
    nn = c["nucleon_nucleon_scale"] * _nucleon_nucleon(energy, projectile, target)
    return area, nn * projectile.mass_number * target.mass_number / area


def _karol(projectile: Isotope, target: Isotope, energy: Array) -> Array:
    """Reaction cross section in mb: optical limit of Glauber with Gaussian densities and a Coulomb barrier."""
    c = constants()["karol"]
    area, chi = _overlap(projectile, target, energy)
    third = projectile.mass_number ** (1 / 3) + target.mass_number ** (1 / 3)
    barrier = 1.44 * projectile.charge * target.charge / (1.3 * third + 2)
    centre = energy * projectile.mass_number * target.mass_number / (projectile.mass_number + target.mass_number)
    value = area * (np.log(chi) + np.euler_gamma + exp1(chi)) * np.maximum(1 - barrier / centre, 0)
    return value * np.interp(energy, c["energy"], c["factor"])


def _proton_oxygen(energy: Array) -> Array:
    c = constants()["proton"]
    rise = 1 + c["oxygen_rise"] * np.exp(-energy / c["oxygen_rise_MeV"])
    threshold = np.clip((energy - c["threshold_MeV"]) / c["threshold_MeV"], 0, 1)
    return c["oxygen_mb"] * rise * threshold


@cache
def _targets() -> dict[str, Isotope]:
    return {"H": ISOTOPES["1H"], "C": ISOTOPES["12C"], "O": ISOTOPES["16O"]}


def reaction(projectile: Isotope, target: str, energy: Array) -> Array:
    """Reaction cross section in mb on H, C, O or H2O."""
    if target == "H2O":
        return 2 * reaction(projectile, "H", energy) + reaction(projectile, "O", energy)
    if projectile.symbol == "1H":
        scale = {"H": 0.0, "O": 1.0, "C": (12 / 16) ** (2 / 3)}[target]
        return scale * _proton_oxygen(energy)
    if projectile.charge == 2 and target == "H":
        return on_hydrogen(projectile.symbol, energy)
    value, c = _karol(projectile, _targets()[target], energy), constants()["karol"]
    return value * np.interp(energy, c["helium_energy"], c["helium_on_oxygen"]) if projectile.charge == 2 else value


def on_hydrogen(what: str, energy: Array) -> Array:
    """Reactions of 3He or 4He, or elastic scattering of 4He, on hydrogen in mb."""
    c = constants()["helium"]
    return np.interp(energy, c["hydrogen_energy"], c[f"hydrogen_{what}"])


def intact_helium(energy: Array) -> Array:
    """Collisions, mb per molecule of water, after which 4He goes on whole but slower.

    Hydrogen: elastic scattering as measured. Oxygen: a single elastic collision with one nucleon that gives it at least the
    first excitation energy, pi a^2 (sigma_el/sigma_tot) (1 - exp(-chi_0)) exp(-E_1/T), Gaussian densities; more break the ion.
    """
    helium = ISOTOPES["4He"]
    area, opacity = _overlap(helium, _targets()["O"], energy)
    elastic = on_hydrogen("elastic", energy)
    share = elastic / (elastic + reaction(helium, "H", energy))
    enough = np.exp(-constants()["helium"]["oxygen_lowest_MeV"] / helium_recoil(energy))
    return 2 * elastic + enough * area * share * -np.expm1(-opacity)


def helium_recoil(energy: Array) -> Array:
    """Mean energy in MeV that 4He gives to one nucleon."""
    c = constants()["helium"]
    return np.interp(energy, c["recoil_energy"], c["recoil_MeV"])


def per_mm(millibarn: Array) -> Array:
    """Reactions per mm of water from a cross section per molecule."""
    return millibarn * 1e-28 * constants()["water"]["molecules_per_cm3"]


def by_parent(name: str, parent: Isotope) -> float:
    """A constant of the section.key `name` that differs between H, He and heavier parents."""
    section, key = name.split(".")
    return float(constants()[section][key][{1: "H", 2: "He"}.get(parent.charge, "heavy")])


def macroscopic(projectile: Isotope, energy: Array) -> Array:
    """Reactions per mm of water."""
    return per_mm(reaction(projectile, "H2O", energy))


def slowed(symbol: str, energy: Array) -> Array:
    """Collisions per mm of water that leave an ion whole but slower: of 4He; those of protons are not transported twice."""
    return per_mm(intact_helium(energy)) if symbol == "4He" else np.zeros(np.shape(energy))


def elastic_hydrogen(energy: Array) -> Array:
    """Elastic proton-hydrogen collisions per mm of water."""
    return per_mm(2 * constants()["proton"]["elastic_hydrogen_mb"] * np.maximum(1.0, (150.0 / np.maximum(energy, 10.0)) ** 0.9))


def elastic_oxygen(energy: Array) -> Array:
    """Elastic proton-oxygen collisions per mm of water."""
    return per_mm(constants()["proton"]["elastic_oxygen_mb"] * (150.0 / np.maximum(energy, 20.0)) ** 0.8)


def kept_charge(projectile: Isotope, target: str, energy: Array) -> Array:
    """Share of the reactions that remove neutrons only, and so keep the charge."""
    if projectile.symbol == "4He":
        c = constants()["helium"]
        oxygen, hydrogen = (np.interp(energy, c["energy"], c[f"{name}_to_3He"]) for name in ("oxygen", "hydrogen"))
        of_water = 2 * reaction(projectile, "H", energy) / reaction(projectile, "H2O", energy)
        return oxygen + {"H": 1.0, "H2O": of_water}.get(target, 0.0) * (hydrogen - oxygen)
    lighter = f"{projectile.mass_number - 1}{projectile.symbol.lstrip('0123456789')}"
    return np.full(np.shape(energy), multiplicities(projectile.symbol).get(lighter, 0.0) if projectile.charge > 1 else 0.0)


def multiplicities_at(symbol: str, energy: Array) -> dict[str, Array]:
    """Mean number of each isotope per reaction at each energy; only 4He's depends on it."""
    if symbol != "4He":
        return {k: np.full(energy.shape, v) for k, v in multiplicities(symbol).items()}
    kept = kept_charge(ISOTOPES[symbol], "H2O", energy)
    broken: dict[str, float] = constants()["helium"]["broken"]
    shares = {"1H": 2 - sum(broken.values())} | broken
    return {"3He": kept} | {k: v * (1 - kept) for k, v in shares.items()}


@cache
def multiplicities(symbol: str) -> dict[str, float]:
    """Mean number of each isotope per reaction of `symbol` (4He: at 200 MeV/u); hydrogen by conservation of charge."""
    parent = ISOTOPES[symbol]
    element = symbol.lstrip("0123456789")
    if symbol == "4He":
        return {k: float(v[0]) for k, v in multiplicities_at(symbol, np.array([200.0])).items()}
    if symbol in ("3He", "3H", "2H"):
        broken: dict[str, dict[str, float]] = {
            "3He": {"1H": 1.4, "2H": 0.5},
            "3H": {"1H": 0.4, "2H": 0.5},
            "2H": {"1H": 0.9},
        }
        return broken[symbol]
    rows = {r["element"]: float(r["multiplicity"]) for r in read_rows("multiplicity.csv") if r["parent"] == element}
    same = rows.pop("same")
    out: dict[str, float] = {}
    charge = 0.0
    for name, value in rows.items():
        charge += value * ISOTOPES[next(s for s in ISOTOPES if s.lstrip("0123456789") == name)].charge
        out |= _split(name, value, parent)
    out |= _split("H", parent.charge - charge, parent)
    out = _within_mass(out, parent)
    lighter = f"{parent.mass_number - 1}{element}"
    if lighter not in ISOTOPES:
        return out
    return {lighter: same / (1 + same)} | {k: v / (1 + same) for k, v in out.items()}


def _within_mass(out: dict[str, float], parent: Isotope) -> dict[str, float]:
    """Turn 2H and 3H into 1H as far as the parent has not enough nucleons (7Be, 6Li)."""
    excess = sum(v * ISOTOPES[k].mass_number for k, v in out.items()) - parent.mass_number
    spare = out.get("2H", 0.0) + 2 * out.get("3H", 0.0)
    share = min(1.0, max(0.0, excess / spare)) if spare else 0.0
    moved: dict[str, float] = {k: share * out[k] for k in ("2H", "3H") if k in out}
    out = {k: v - moved.get(k, 0.0) for k, v in out.items()}
    out["1H"] = out.get("1H", 0.0) + sum(moved.values())
    return out


def _split(element: str, multiplicity: float, parent: Isotope) -> dict[str, float]:
    """Isotopes of one element, those that the parent can still release."""
    shares = {r["isotope"]: float(r["share"]) for r in read_rows("isotope_share.csv") if r["element"] == element}
    neutrons = parent.mass_number - parent.charge
    open_ = {
        s: v
        for s, v in shares.items()
        if ISOTOPES[s].mass_number < parent.mass_number and ISOTOPES[s].mass_number - ISOTOPES[s].charge <= neutrons
    }
    total = sum(open_.values())
    return {s: multiplicity * v / total for s, v in open_.items()} if total else {}


def charge_changing(projectile: Isotope, target: str, energy: Array) -> Array:
    """Charge-changing cross section in mb: reaction less removal of neutrons only."""
    return reaction(projectile, target, energy) * (1 - kept_charge(projectile, target, energy))


def momentum(isotope: Isotope, energy: ArrayLike) -> Array:
    """Momentum in MeV/c at a kinetic energy per nucleon."""
    beta, gamma = beta_gamma(energy, isotope.mass_per_nucleon)
    return isotope.mass_u * ATOMIC_MASS_UNIT * beta * gamma


def cross_section(ion: str, energy: ArrayLike, *, target: str = "H2O", kind: str = "reaction") -> xr.DataArray:
    """Total cross section of an ion on a target of water's elements.

    sigma = pi a^2 [ln chi + 0.5772 + E1(chi)] (1 - B/E_cm), chi = sigma_NN A_p A_t / (pi a^2).

    Parameters
    ----------
    ion: "p", "He", "C", "O", "Ne" or an isotope symbol.
    energy: kinetic energy / A in MeV/u, scalar or 1-d, 5 to 1000.
    target: "H", "C", "O" or "H2O" (one molecule).
    kind: "reaction" or "charge_changing".

    Returns
    -------
    DataArray (energy) in mb.

    Raises
    ------
    IonrtError: unknown ion, target or kind; energy outside the limits.

    References
    ----------
    Karol 1975, doi 10.1103/PhysRevC.11.1203.
    """
    isotope, value = get(ion), energies(energy, low=5.0)
    one_of(target, ("H", "C", "O", "H2O"), what="target")
    one_of(kind, ("reaction", "charge_changing"), what="kind")
    mb = reaction(isotope, target, value) if kind == "reaction" else charge_changing(isotope, target, value)
    da = xr.DataArray(mb, dims="energy", coords={"energy": value})
    return stamp(da, "cross_section", ion=ion, target=target, kind=kind, citation=_REFERENCE)
