"""One pristine broad beam in water: depth dose, fluence, LET, dose spectra and lateral spread per primary ion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ionrt.beam.physics.emission import INDEX, TARGET
from ionrt.beam.physics.nuclear import by_parent
from ionrt.beam.physics.stopping import Array, energies
from ionrt.beam.physics.water import primary as primaries
from ionrt.beam.physics.water import shower
from ionrt.beam.physics.water.cells import CHARGE_OF, CHARGES, KINETIC_EDGES
from ionrt.beam.physics.water.shower import Mesh, mesh_of
from ionrt.ions import ELEMENTS, Isotope, get
from ionrt.quantities import LET_DEFINITIONS, IonrtError, stamp

ENERGY_LIMITS = {"p": (10.0, 300.0)}  # MeV/u; other ions:
_ENERGY_LIMITS = (20.0, 500.0)
KINETIC_ENERGY = np.sqrt(KINETIC_EDGES[1:] * KINETIC_EDGES[:-1])
CITATION = "ionrt deterministic transport; tables and sources in ionrt/beam/physics/tables/README.md"


@dataclass
class Solution:
    """Arrays of one beam on `depth` (mm): energy per mm and LET x energy per mm by species, path, lateral moments."""

    depth: Array
    primary: Array  # (3, depth): energy, LET x energy, path
    secondary: Array  # (4, species, depth): energy, LET x energy, path, energy x lateral variance
    local: Array  # (depth)
    neutron: Array  # (depth)
    moments: Array  # (3, depth): Fermi-Eyges moments of the primaries
    alive: Array  # (depth)
    cone: Array  # (depth, charge)
    spectrum_depth: Array
    spectrum: Array  # (node, charge, kinetic_energy), shares
    energy_in: float
    neutral: float
    beyond: float  # charged energy that leaves the last slab


def _between(values: Array, centre: Array, depth: Array) -> Array:
    """Linear interpolation along the last axis; the first half slab is extrapolated, nothing becomes negative."""
    x = np.clip((depth - centre[0]) / (centre[1] - centre[0]), -0.5, centre.size - 1.0)
    k = np.clip(x.astype(int), 0, centre.size - 2)
    f = x - k
    return np.maximum(values[..., k] * (1 - f) + values[..., k + 1] * f, 0.0)


def _behind(second: shower.Secondaries, end: float) -> float:
    """Energy the secondaries leave between a depth and the last slab, MeV."""
    width = second.depth[1] - second.depth[0]
    share = np.clip((second.depth + width / 2 - end) / width, 0, 1)
    return float(((second.profile[0].sum(0) + second.local + second.neutron) * share).sum() * width)


def _shares(spectrum: Array) -> Array:
    """Normalise to 1 per node; nodes that nothing reaches keep the last spectrum before them."""
    total = spectrum.sum((1, 2))
    reached = np.maximum.accumulate(np.where(total > 1e-12, np.arange(total.size), 0))
    shares: Array = spectrum[reached] / np.maximum(total[reached], 1e-300)[:, None, None]
    return shares


def solve(
    isotope: Isotope,
    energy: float,
    depth: Array,
    *,
    spectrum_depth: Array | None = None,
    energy_spread: float = 0.0,
    range_sigma: float = 0.0,
    range_shifter: float = 0.0,
    cone: float = 0.0,
    mesh: Mesh | None = None,
) -> Solution:
    """Transport one beam and bring everything to `depth`; the private door of `transport` and `base_data`."""
    mesh = mesh or mesh_of(isotope)
    inside = depth + range_shifter
    nodes = np.empty(0) if spectrum_depth is None else np.asarray(spectrum_depth, float) + range_shifter
    end = float(max(inside[-1], nodes.max(initial=0.0))) + 2 * mesh.width  # the last depths lie between two slabs
    beam = primaries.start(isotope, energy, end, energy_spread=energy_spread, range_sigma=range_sigma)
    wanted = shower.Wanted(nodes if nodes.size else None, cone)
    second = shower.run(beam, end, wanted=wanted, mesh=mesh)
    spectrum = np.zeros((nodes.size, CHARGES.size, KINETIC_ENERGY.size))
    if nodes.size:
        slab = np.minimum(nodes / mesh.width, second.depth.size - 1).astype(int)
        spectrum += second.spectra[slab]
        spectrum[:, isotope.charge - 1] += primaries.spectrum(beam, nodes)
        spectrum = _shares(spectrum)
    return Solution(
        depth,
        primaries.profile(beam, inside),
        _between(second.profile, second.depth, inside),
        _between(second.local, second.depth, inside),
        _between(second.neutron, second.depth, inside),
        primaries.lateral(beam, inside),
        beam.at(inside, "alive"),
        _between(second.cone.T, second.depth, inside).T if cone else np.empty((0, 0)),
        nodes - range_shifter,
        spectrum,
        energy * isotope.mass_number,
        second.neutral,
        second.escaped + _behind(second, inside[-1]),
    )


def origins(isotope: Isotope) -> tuple[str, ...]:
    """Labels of `dose_by_origin`: the primaries, fragments by element up to the ion's own, what the target gave."""
    return ("primary", *ELEMENTS[: isotope.charge], "target")


def dose_by_origin(isotope: Isotope, s: Solution) -> Array:
    """Energy per mm by origin; shape (origin, depth)."""
    rows = [s.primary[0]]
    rows += [s.secondary[0, z == CHARGE_OF].sum(0) for z in range(1, isotope.charge + 1)]
    return np.stack([*rows, s.secondary[0, TARGET] + s.local + s.neutron])


def _quotient(top: Array, bottom: Array) -> Array:
    return np.where(bottom > 1e-9, top / np.maximum(bottom, 1e-30), 0.0)


def let_averages(isotope: Isotope, s: Solution) -> tuple[Array, Array]:
    """Dose- and track-averaged LET in keV/um (= MeV/mm) under the three definitions; shapes (definition, depth)."""
    charged = s.primary + s.secondary[:3, CHARGE_OF > 0].sum(1)
    let = by_parent("target.effective_let", isotope)
    target = s.secondary[:3, TARGET]
    alike = target / np.maximum(target[0], 1e-30) * s.neutron  # neutrons' protons: the LET of the target's other protons
    full = charged + target + np.where(target[0] > 1e-12, alike, 0.0) + np.stack([s.local, s.local * let, s.local / let])
    parts = [s.primary, charged, full]
    return np.stack([_quotient(p[1], p[0]) for p in parts]), np.stack([_quotient(p[0], p[2]) for p in parts])


def _held(value: Array, energy: Array) -> Array:
    """The last value before where next to no energy is left, there and beyond."""
    return value[np.maximum.accumulate(np.where(energy > 1e-7 * energy.max(), np.arange(value.size), 0))]


def lateral(isotope: Isotope, s: Solution) -> tuple[Array, Array, Array]:
    """Core sigma, halo weight, halo sigma (mm). Core: primaries and fragments of Z >= 3, of helium also those slowed whole.

    What elastic scattering adds to the second moment of slowed helium widens the halo, the core has the width of multiple
    scattering: so the whole has its second moment, and fields of 12 mm and more are nearer than with those ions in the halo.
    """
    heavy = CHARGE_OF >= 3
    slowed = (np.arange(CHARGE_OF.size) == INDEX["4He"]) & (isotope.symbol == "4He")
    rest = ~(heavy | slowed)
    narrow = s.primary[0] + s.secondary[0, slowed].sum(0)
    core_energy = narrow + s.secondary[0, heavy].sum(0)
    core = narrow * s.moments[2] + s.secondary[3, heavy].sum(0)
    halo_energy = s.secondary[0, rest].sum(0) + s.local
    halo = s.secondary[3, rest | slowed].sum(0) + (s.local - s.secondary[0, slowed].sum(0)) * s.moments[2]
    sigma = _held(np.sqrt(_quotient(core, core_energy)), core_energy)
    wide = _held(np.sqrt(_quotient(halo, halo_energy)), halo_energy)
    halo_energy = halo_energy + s.neutron  # as wide as the rest of the halo, for want of better
    weight = _quotient(halo_energy, halo_energy + core_energy)
    return sigma, np.clip(weight, 0, 1), np.maximum(wide, sigma)


def check_beam(ion: str, energy: float) -> Isotope:
    """The isotope, if the physics of this room covers the ion and the energy."""
    isotope = get(ion)
    low, high = ENERGY_LIMITS["p"] if isotope.charge == 1 else _ENERGY_LIMITS
    energies(energy, low=low, high=high)
    return isotope


def check_depth(depth: ArrayLike) -> Array:
    """Depths in mm: 1-d, ascending, not negative."""
    value = np.atleast_1d(np.asarray(getattr(depth, "values", depth), float))
    if value.ndim != 1 or not value.size or not np.all(np.isfinite(value)) or value[0] < 0 or np.any(np.diff(value) <= 0):
        raise IonrtError("depth: expected ascending, non-negative depths in mm of water (1-d); sort them first")
    return value


def fluence(isotope: Isotope, s: Solution) -> Array:
    """Ions per primary crossing each depth, by charge (targets left out); shape (charge, depth)."""
    out = np.stack([s.secondary[2, z == CHARGE_OF].sum(0) for z in CHARGES])
    out[isotope.charge - 1] += s.primary[2]
    return out


def transport(
    ion: str,
    energy: float,
    *,
    depth: ArrayLike,
    energy_spread: float = 0.0,
    ripple_sigma: float = 0.0,
    range_shifter: float = 0.0,
) -> xr.Dataset:
    """One broad beam of one energy in water, per primary ion.

    Continuous slowing down on s = R(E) + z, Gaussian straggling, nuclear reactions of primaries and all secondaries.

    Parameters
    ----------
    ion: "p", "He", "C", "O", "Ne" or an isotope symbol.
    energy: kinetic energy / A in MeV/u; protons 10 to 300, ions 20 to 500.
    depth: depths in mm of water, ascending, not negative.
    energy_spread: relative standard deviation of the energy.
    ripple_sigma: standard deviation in mm of range that a ripple filter adds.
    range_shifter: mm of water in front of depth 0.

    Returns
    -------
    Dataset: dose(depth) and dose_by_origin(origin, depth) in MeV/mm; fluence(charge, depth); let_d and
    let_t(let_definition, depth) in keV/um; dose_spectrum(depth, charge, kinetic_energy), shares of the dose of primaries and
    projectile fragments; sigma, halo_weight, halo_sigma(depth) in mm. Attributes energy_in, energy_neutral,
    energy_beyond (MeV per primary) close the energy balance: dose up to the last depth + neutral + beyond = in.

    Raises
    ------
    IonrtError: unknown ion, energy outside the limits, bad depths.

    References
    ----------
    See ionrt/beam/physics/tables/README.md.
    """
    isotope, value = check_beam(ion, energy), check_depth(depth)
    s = solve(
        isotope,
        float(energy),
        value,
        spectrum_depth=value,
        energy_spread=energy_spread,
        range_sigma=ripple_sigma,
        range_shifter=range_shifter,
    )
    ds = xr.Dataset(
        coords={
            "depth": value,
            "origin": list(origins(isotope)),
            "charge": CHARGES,
            "let_definition": list(LET_DEFINITIONS),
            "kinetic_energy": KINETIC_ENERGY,
        }
    )
    by_origin = dose_by_origin(isotope, s)
    let_d, let_t = let_averages(isotope, s)
    sigma, weight, halo = lateral(isotope, s)
    note = {"ion": ion, "energy": float(energy), "citation": CITATION}
    definitions = "see coordinate let_definition"

    def put(name: str, dims: tuple[str, ...], data: Array, quantity: str, **attrs: str) -> None:
        ds[name] = stamp(xr.DataArray(data.astype(np.float32), dims=dims), quantity, **note, **attrs)

    put("dose", ("depth",), by_origin.sum(0), "depth_dose")
    put("dose_by_origin", ("origin", "depth"), by_origin, "depth_dose")
    put("fluence", ("charge", "depth"), fluence(isotope, s), "fluence")
    put("let_d", ("let_definition", "depth"), let_d, "let_d", let_definition=definitions)
    put("let_t", ("let_definition", "depth"), let_t, "let_t", let_definition=definitions)
    put("dose_spectrum", ("depth", "charge", "kinetic_energy"), s.spectrum, "dose_spectrum", population=LET_DEFINITIONS[1])
    put("sigma", ("depth",), sigma, "sigma")
    put("halo_weight", ("depth",), weight, "halo_weight")
    put("halo_sigma", ("depth",), halo, "halo_sigma")
    ds.attrs = note | {"energy_in": s.energy_in, "energy_neutral": s.neutral, "energy_beyond": s.beyond}
    for dim, unit in (("depth", "mm"), ("kinetic_energy", "MeV/u")):
        ds[dim].attrs["units"] = unit
    return ds
