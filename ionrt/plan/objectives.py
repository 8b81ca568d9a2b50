"""Objectives of the optimisation: frozen data, each with its value and its gradient over the voxels of a structure.

q_i is the quantity in voxel i of the structure and c_i the fraction of the voxel inside it; <f> = sum c_i f_i / sum c_i.
Doses are per fraction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ionrt.quantities import IonrtError, one_of

OBJECTIVE_QUANTITIES = ("rbe_dose", "dose", "let_d")
EXTERNAL_NAMES = ("body", "external", "skin", "outline", "patient")

TARGET_NAMES = ("gtv", "ctv", "itv", "ptv")

Gradient = tuple[float, np.ndarray]


@dataclass(frozen=True)
class Objective:
    """Base of all objectives: `structure` name, `weight`, `quantity` ("rbe_dose" Gy (RBE), "dose" Gy, "let_d" keV/um)."""

    structure: str
    weight: float = 1.0
    quantity: str = "rbe_dose"

    def __post_init__(self) -> None:
        one_of(self.quantity, OBJECTIVE_QUANTITIES, what=f"objective on {self.structure!r}: quantity")
        if not (math.isfinite(self.weight) and self.weight > 0.0):
            raise IonrtError(f"objective on {self.structure!r}: expected a positive weight, got {self.weight!r}")
        for name, value in vars(self).items():
            if isinstance(value, float) and not (math.isfinite(value) and value >= 0.0) and name != "exponent":
                raise IonrtError(f"objective on {self.structure!r}: expected {name} >= 0, got {value!r}")

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        """Value and its gradient with respect to `q` (both without `weight`); `share` = c_i / sum c."""
        raise NotImplementedError


@dataclass(frozen=True)
class SquaredDeviation(Objective):
    """<(q - level)^2>; `level` in the unit of the quantity."""

    level: float = 0.0

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        apart = q - self.level
        return float(np.dot(share, apart * apart)), 2.0 * share * apart


@dataclass(frozen=True)
class SquaredOverdose(Objective):
    """<max(0, q - level)^2>; `level` in the unit of the quantity."""

    level: float = 0.0

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        apart = np.maximum(q - self.level, 0.0)
        return float(np.dot(share, apart * apart)), 2.0 * share * apart


@dataclass(frozen=True)
class SquaredUnderdose(Objective):
    """<max(0, level - q)^2>; `level` in the unit of the quantity."""

    level: float = 0.0

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        apart = np.minimum(q - self.level, 0.0)
        return float(np.dot(share, apart * apart)), 2.0 * share * apart


@dataclass(frozen=True)
class MeanDose(Objective):
    """max(0, <q> - level)^2; `level` in the unit of the quantity."""

    level: float = 0.0

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        apart = max(float(np.dot(share, q)) - self.level, 0.0)
        return apart * apart, 2.0 * apart * share


@dataclass(frozen=True)
class GEUD(Objective):
    """max(0, gEUD - level)^2 with gEUD = <q^exponent>^(1/exponent); a negative `exponent` (target) turns the sign round.

    Reference: Niemierko, Med Phys 26 (1999) 1100; Wu et al., doi 10.1016/S0360-3016(01)02585-8.
    """

    level: float = 0.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.exponent) or self.exponent == 0.0:
            raise IonrtError(f"objective on {self.structure!r}: expected a finite exponent other than 0, got {self.exponent!r}")

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        positive = np.maximum(q, 1e-6)  # the power of zero has no gradient
        scale = float(positive.max())
        power = (positive / scale) ** self.exponent
        total = float(np.dot(share, power))
        geud = scale * total ** (1.0 / self.exponent)
        apart = geud - self.level
        if apart * self.exponent <= 0.0:
            return 0.0, np.zeros_like(q)
        slope = np.where(q > 1e-6, geud / total * share * power / positive, 0.0)
        return apart * apart, 2.0 * apart * slope


@dataclass(frozen=True)
class DoseVolume(Objective):
    """At most (`upper`) or at least (not `upper`) the fraction `volume` of the structure may exceed `level`.

    Voxels between `level` and the present dose at `volume` count with their squared distance from `level`, as in
    Wu and Mohan, doi 10.1118/1.599012.
    """

    level: float = 0.0
    volume: float = 0.05
    upper: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.volume < 1.0:
            raise IonrtError(
                f"objective on {self.structure!r}: expected a volume fraction between 0 and 1, got {self.volume!r}"
            )

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        order = np.argsort(-q)
        reached = np.cumsum(share[order])
        at_volume = q[order[min(int(np.searchsorted(reached, self.volume)), q.size - 1)]]
        counts = (q > self.level) & (q <= at_volume) if self.upper else (q < self.level) & (q >= at_volume)
        apart = np.where(counts, q - self.level, 0.0)
        return float(np.dot(share, apart * apart)), 2.0 * share * apart


def is_external(name: str) -> bool:
    """Whether a structure is the patient's outline, by its usual names."""
    return name.strip().lower() in EXTERNAL_NAMES


def is_target(name: str) -> bool:
    """Whether a structure is a target volume (GTV, CTV, ITV, PTV), by its name."""
    return any(volume in name.lower() for volume in TARGET_NAMES)


def default_objectives(
    target: str, prescription: float, structures: Iterable[str], *, organs: Iterable[str] | None = None
) -> tuple[Objective, ...]:
    """Objectives that make a sensible first plan.

    Uniform prescription in the target, underdose and more than 3 % overdose penalised again; organs above half the prescription
    and in the mean; the outline (``BODY``, ``EXTERNAL``, ...; without the target) above the prescription, and lightly above
    half of it. The outline's weights are large because they count against its whole volume.

    Parameters: `target` name; `prescription` Gy (RBE) per fraction; `structures` all names in the patient; `organs`
    those to spare (None: every structure that is neither a target volume nor the outline).
    Returns a tuple of objectives. Raises where a name does not exist.
    """
    names = [str(s) for s in structures]
    one_of(target, names, what="target")
    spare = [s for s in names if s != target and not is_external(s) and not is_target(s)] if organs is None else list(organs)
    out: list[Objective] = [
        SquaredDeviation(target, weight=100.0, level=prescription),
        SquaredUnderdose(target, weight=300.0, level=prescription),
        SquaredOverdose(target, weight=300.0, level=1.03 * prescription),
    ]
    for organ in spare:
        one_of(organ, names, what="organ")
        out += [
            SquaredOverdose(organ, weight=10.0, level=0.5 * prescription),
            MeanDose(organ, weight=2.0),
        ]
    for name in names:
        if is_external(name):
            out += [
                SquaredOverdose(name, weight=3000.0, level=prescription),
                SquaredOverdose(name, weight=100.0, level=0.5 * prescription),
                MeanDose(name, weight=20.0),
            ]
    return tuple(out)
