"""What one reaction sends on: species, energy, number and angle of the fragments of each parent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ionrt.beam.nuclear import constants, momentum, multiplicities
from ionrt.beam.stopping import Array, beta_gamma
from ionrt.ions import ISOTOPES

SPECIES = (*ISOTOPES, "target")  # target: protons knocked out of the water
TARGET = len(SPECIES) - 1
INDEX = {s: i for i, s in enumerate(SPECIES)}


def isotope_of(species: str) -> str:
    """The isotope whose stopping power a species has."""
    return "1H" if species == "target" else species


@dataclass(frozen=True)
class Emission:
    """Fragments of one parent at several energies: species (n), energy MeV/u, number, theta2 rad2 (energies, n),
    local = energy that stays at the place of the reaction in MeV (energies)."""

    species: np.ndarray
    energy: Array
    number: Array
    theta2: Array
    local: Array


@cache
def _nodes(count: int) -> tuple[Array, Array]:
    """Nodes and weights of a unit Gaussian on equal probabilities steps of +-2.6 sigma."""
    x = np.linspace(-2.6, 2.6, count)
    w = np.exp(-(x**2) / 2)
    w /= w.sum()
    return x / np.sqrt(np.sum(w * x**2)), w


def _fragment(parent: str, daughter: str, energy: Array, number: float, nodes: int, *, slow: bool) -> tuple[Array, ...]:
    """Energy, number, theta2 of one daughter (Goldhaber widths, mean loss of velocity)."""
    c = constants()["fragment"]
    a, b = ISOTOPES[parent], ISOTOPES[daughter]
    factor = c["energy_factor"].get({1: "H", 2: "He"}.get(b.charge, "heavy"))
    width = np.sqrt(b.mass_number * (a.mass_number - b.mass_number) / (a.mass_number - 1))
    along, across = c["sigma_parallel"] * width, c["sigma_perpendicular"] * width
    if slow:
        factor, along, across = c["slow_proton_factor"], c["slow_proton_sigma"], c["slow_proton_sigma"]
    mean = factor * energy
    beta, gamma = beta_gamma(mean, b.mass_per_nucleon)
    spread = beta * along / (b.mass_number * b.mass_per_nucleon)  # dT = beta_lab dp_lab = beta_lab gamma dp_rest
    x, w = _nodes(nodes)
    value = np.maximum(mean[:, None] + (spread * gamma)[:, None] * x, 0.05 * mean[:, None])
    theta2 = np.minimum((across / momentum(b, value)) ** 2, 0.25)
    return value, np.broadcast_to(number * w, value.shape), theta2


def _target_protons(kinetic: Array, nodes: int) -> tuple[Array, ...]:
    """Protons out of the target, spectrum 1/E; slower where the projectile has little energy left."""
    c = constants()["target"]
    low, high = c["proton_energy_MeV"]
    x = (np.arange(nodes) + 0.5) / nodes
    value = low * (high / low) ** x * np.minimum(1.0, kinetic / 400.0)[:, None]
    return value, np.full(value.shape, c["protons"] / nodes), np.full(value.shape, constants()["momentum"]["slow_theta"] ** 2)


def _proton(energy: Array, nodes: int) -> Emission:
    """Secondary protons of p + O, uniform in energy."""
    c = constants()["proton"]
    x = (np.arange(nodes) + 0.5) / nodes
    value = c["secondary_fraction"] * energy[:, None] * x
    number = np.full(value.shape, c["secondary_protons"] / nodes) * np.minimum(1.0, energy / 60.0)[:, None]
    theta2 = np.broadcast_to(0.15 * (1.3 - x) ** 2 + 0.01, value.shape)
    local = c["local_MeV"] * np.minimum(1, energy / 40.0) + c["local_fraction"] * energy
    return Emission(np.full(nodes, INDEX["1H"]), value, number, theta2, local)


def elastic_pairs(energy: Array, nodes: int = 12) -> Emission:
    """Both protons of an elastic collision with hydrogen: energies uniform between 0 and E, at right angles."""
    x = (np.arange(nodes) + 0.5) / nodes
    value = energy[:, None] * x
    theta2 = np.broadcast_to(np.minimum((1 - x) / (2 * x), 0.25), value.shape)
    number = np.full(value.shape, 2.0 / nodes)
    return Emission(np.full(nodes, INDEX["1H"]), value, number, theta2, np.zeros(energy.size))


@cache
def emission(parent: str, energies: tuple[float, ...], nodes: int = 9) -> Emission:
    """All that a reaction of `parent` emits, at each of `energies` (MeV/u)."""
    energy = np.array(energies)
    if parent == "1H":
        return _proton(energy, 2 * nodes)
    share = constants()["fragment"]["slow_proton_share"]
    parts: list[tuple[str, tuple[Array, ...]]] = []
    for daughter, number in multiplicities(parent).items():
        fast = number * (1 - share) if daughter == "1H" else number
        parts.append((daughter, _fragment(parent, daughter, energy, fast, nodes, slow=False)))
        if daughter == "1H":
            parts.append((daughter, _fragment(parent, daughter, energy, number * share, nodes, slow=True)))
    kinetic = energy * ISOTOPES[parent].mass_number
    parts.append(("target", _target_protons(kinetic, nodes)))
    species = np.concatenate([np.full(p[0].shape[1], INDEX[name]) for name, p in parts])
    value, count, theta2 = (np.concatenate([p[k] for _, p in parts], axis=1) for k in range(3))
    local = constants()["target"]["local_MeV"] * np.minimum(1.0, kinetic / 400.0)
    return Emission(species, value, count, theta2, local)
