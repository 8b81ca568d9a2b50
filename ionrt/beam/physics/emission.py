"""What one reaction sends on: species, energy, number and angle of the fragments of each parent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from ionrt.beam.physics.nuclear import by_parent, constants, helium_recoil, macroscopic, momentum, multiplicities_at, slowed
from ionrt.beam.physics.stopping import Array, beta_gamma, table
from ionrt.ions import ISOTOPES, PROTON_MASS

SPECIES = (*ISOTOPES, "target")  # target: protons knocked out of the water
TARGET = len(SPECIES) - 1
INDEX = {s: i for i, s in enumerate(SPECIES)}
PROTONS_KNOCKED = 0.8  # per collision that leaves 4He whole: all of those on hydrogen, half of those on oxygen


def isotope_of(species: str) -> str:
    """The isotope whose stopping power a species has."""
    return "1H" if species == "target" else species


@dataclass(frozen=True)
class Emission:
    """Fragments of one parent at several energies: species (n); energy interval MeV/u, number in it and theta2 rad2
    (energies, n); local = energy that stays at the place of the reaction in MeV (energies)."""

    species: np.ndarray
    low: Array
    high: Array
    number: Array
    theta2: Array
    local: Array


def _shares(count: int) -> tuple[Array, Array]:
    """Edges and middles of `count` equal parts of (0, 1)."""
    edges = np.linspace(0, 1, count + 1)
    return edges, 0.5 * (edges[1:] + edges[:-1])


def _gaussian(count: int) -> tuple[Array, Array]:
    """Edges and contents of `count` equal bins of a unit Gaussian cut at 2.8 sigma."""
    edges = np.linspace(-2.8, 2.8, count + 1)
    inside = np.diff(ndtr(edges))
    return edges, inside / inside.sum()


def _fragment(parent: str, daughter: str, energy: Array, number: Array, nodes: int, *, slow: bool) -> tuple[Array, ...]:
    """Energy, number, theta2 of one daughter (Goldhaber widths, mean loss of velocity)."""
    c = constants()["fragment"]
    a, b = ISOTOPES[parent], ISOTOPES[daughter]
    factor = c["energy_factor"].get({1: "H", 2: "He"}.get(b.charge, "heavy"))
    width = np.sqrt(b.mass_number * (a.mass_number - b.mass_number) / (a.mass_number - 1))
    along, across = c["sigma_parallel"] * width, c["sigma_perpendicular"] * width
    if slow:
        factor, along, across = c["slow_factor"], c["slow_sigma"], c["slow_sigma"]
    mean = factor * energy
    beta, gamma = beta_gamma(mean, b.mass_per_nucleon)
    spread = beta * along / (b.mass_number * b.mass_per_nucleon)  # dT = beta_lab dp_lab = beta_lab gamma dp_rest
    x, w = _gaussian(nodes)
    edges = np.maximum(mean[:, None] + (spread * gamma)[:, None] * x, 0.05 * mean[:, None])
    low, high = edges[:, :-1], edges[:, 1:]
    theta2 = np.minimum((across / momentum(b, 0.5 * (low + high))) ** 2, 0.25)
    return low, high, number[:, None] * w, theta2


def _target_protons(parent: str, kinetic: Array, nodes: int) -> tuple[Array, ...]:
    """Protons out of the target, spectrum 1/E up to the projectile's energy per nucleon (knock-out of a free nucleon)."""
    c = constants()["target"]
    low, share = c["proton_lowest_MeV"], c["proton_top_share"]
    high = np.maximum(share * kinetic / ISOTOPES[parent].mass_number, 2 * low)
    edges = low * (high / low)[:, None] ** _shares(nodes)[0] * np.minimum(1.0, kinetic / 400.0)[:, None]
    shape = (kinetic.size, nodes)
    number = np.full(shape, by_parent("target.protons", ISOTOPES[parent]) / nodes)
    return edges[:, :-1], edges[:, 1:], number, np.full(shape, constants()["momentum"]["slow_theta"] ** 2)


def _proton(energy: Array, nodes: int) -> Emission:
    """Protons of p + O: a cascade part uniform up to nearly the full energy, an evaporated part of a few MeV."""
    c = constants()["proton"]
    edge, x = _shares(nodes)
    fast = c["cascade_fraction"] * energy[:, None] * edge
    low, high = c["evaporated_MeV"]
    slow = (low + (high - low) * edge) * np.minimum(1.0, energy / 80.0)[:, None]
    onset = np.minimum(1.0, energy / 60.0)[:, None]
    number = onset * np.repeat([c["cascade_protons"] / nodes, c["evaporated_protons"] / nodes], nodes)
    theta2 = np.concatenate([0.15 * (1.3 - x) ** 2 + 0.01, np.full(nodes, 0.25)])
    local = c["local_MeV"] * np.minimum(1, energy / 60.0) + c["local_fraction"] * energy
    below, above = np.hstack([fast[:, :-1], slow[:, :-1]]), np.hstack([fast[:, 1:], slow[:, 1:]])
    species = np.full(2 * nodes, INDEX["1H"])
    return Emission(species, below, above, number, np.broadcast_to(theta2, number.shape), local)


def elastic_pairs(energy: Array, nodes: int = 32) -> Emission:
    """Both protons of an elastic collision with hydrogen: energies uniform between 0 and E, at right angles."""
    edge, x = _shares(nodes)
    edges = energy[:, None] * edge
    theta2 = np.broadcast_to(np.minimum((1 - x) / (2 * x), 0.25), (energy.size, nodes))
    number = np.full(theta2.shape, 2.0 / nodes)
    return Emission(np.full(nodes, INDEX["1H"]), edges[:, :-1], edges[:, 1:], number, theta2, np.zeros(energy.size))


@lru_cache(4)
def _noise(rows: int, columns: int) -> Array:
    """Normal deviates cut at 3, evenly spread over rows and columns (two irrational steps)."""
    return np.clip(ndtri((np.arange(columns) * 0.7548776662 + 0.25 + np.arange(rows)[:, None] * 0.5698402910) % 1.0), -3, 3)


def deflected(energy: Array, straggling: float, nodes: int = 256) -> Emission:
    """Protons after elastic scattering on oxygen: range shortened to its projection, with the straggling (mm) of the beam."""
    tab = table("1H")
    proton = ISOTOPES["1H"]
    across = constants()["proton"]["elastic_momentum"] / momentum(proton, energy)
    x = (np.arange(nodes) + 0.5) / nodes
    theta2 = np.minimum(-2 * np.log(1 - x) * across[:, None] ** 2, 0.6)  # squared polar angle, Rayleigh quantiles
    projected = tab.at_energy(energy)[:, None] * np.sqrt(1 - theta2) + straggling * _noise(energy.size, nodes)
    value = tab.at_range(np.maximum(projected, 0.05))
    number = (
        energy[:, None] / value.mean(1, keepdims=True) / nodes
    )  # the path is longer by 1/cos, and so is the energy left per depth
    return Emission(
        np.full(nodes, INDEX["1H"]), value, value, np.broadcast_to(number, value.shape), theta2 / 2, np.zeros(energy.size)
    )


def whole_helium(energy: Array, nodes: int = 12) -> Emission:
    """4He that gave energy to one nucleon and goes on, and that nucleon where it is a proton: losses fall exponentially."""
    helium = ISOTOPES["4He"]
    edges = _shares(nodes)[0] * (1 - np.exp(-6.0))
    loss = np.minimum(
        -helium_recoil(energy)[:, None] * np.log1p(-edges), 0.64 * helium.mass_number * energy[:, None]
    )  # most a free nucleon takes
    left = energy[:, None] - loss / helium.mass_number
    low, high = left[:, 1:], left[:, :-1]
    mean = 0.5 * (loss[:, 1:] + loss[:, :-1])
    theta2 = np.minimum(mean * PROTON_MASS / momentum(helium, 0.5 * (low + high)) ** 2, 0.25)  # q2 = 2 m T, one plane
    each = np.full(low.shape, 1.0 / nodes)
    wide = np.full(low.shape, constants()["momentum"]["slow_theta"] ** 2)
    species = np.repeat([INDEX["4He"], TARGET], nodes)
    number = np.hstack([each, PROTONS_KNOCKED * each])
    return Emission(
        species,
        np.hstack([low, loss[:, :-1]]),
        np.hstack([high, loss[:, 1:]]),
        number,
        np.hstack([theta2, wide]),
        np.zeros(energy.size),
    )


def _mixed(one: Emission, other: Emission, share: Array) -> Emission:
    """Events of which `share` (energies) emit like the other."""
    keep, other_share = (1 - share)[:, None], share[:, None]
    low, high = np.hstack([one.low, other.low]), np.hstack([one.high, other.high])
    number = np.hstack([one.number * keep, other.number * other_share])
    theta2 = np.hstack([np.broadcast_to(e.theta2, e.number.shape) for e in (one, other)])
    local = one.local * (1 - share) + other.local * share
    return Emission(np.concatenate([one.species, other.species]), low, high, number, theta2, local)


def secondary(parent: str, energy: Array, nodes: int, hydrogen: int) -> Emission:
    """What a secondary emits per event; the events of 4He count those that leave it whole."""
    breaks = emission(parent, energy, nodes, hydrogen)
    if parent != "4He":
        return breaks
    whole = slowed(parent, energy)
    return _mixed(breaks, whole_helium(energy, nodes), whole / (whole + macroscopic(ISOTOPES[parent], energy)))


def emission(parent: str, energy: Array, nodes: int = 12, hydrogen: int = 24) -> Emission:
    """All that a reaction of `parent` emits, at each of `energy` (MeV/u), each fragment in so many energy intervals."""
    if parent == "1H":
        return _proton(energy, hydrogen)
    share = by_parent("fragment.slow_share", ISOTOPES[parent]) if ISOTOPES[parent].charge > 1 else 0.0
    parts: list[tuple[str, tuple[Array, ...]]] = []
    for daughter, number in multiplicities_at(parent, energy).items():
        slow = share if daughter in ("1H", "2H") else 0.0
        fine = hydrogen if ISOTOPES[daughter].charge == 1 else nodes  # some stop together with the primaries: no lumps
        parts.append((daughter, _fragment(parent, daughter, energy, number * (1 - slow), fine, slow=False)))
        if slow:
            parts.append((daughter, _fragment(parent, daughter, energy, number * slow, fine, slow=True)))
    kinetic = energy * ISOTOPES[parent].mass_number
    parts.append(("target", _target_protons(parent, kinetic, hydrogen)))
    species = np.concatenate([np.full(p[0].shape[1], INDEX[name]) for name, p in parts])
    low, high, count, theta2 = (np.concatenate([p[k] for _, p in parts], axis=1) for k in range(4))
    local = by_parent("target.local_MeV", ISOTOPES[parent]) * np.minimum(1.0, kinetic / 400.0)
    return Emission(species, low, high, count, theta2, local)
