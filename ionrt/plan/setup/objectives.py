"""Objectives of the optimisation: frozen data, each with its value and its gradient over the voxels of a structure.

q_i is the quantity in voxel i of the structure and c_i the fraction of the voxel inside it; <f> = sum c_i f_i / sum c_i.
Doses are per fraction. Over scenarios s an objective counts as its `robust` says: ``nominal`` f(q_0); ``expected``
sum p_s f(q_s); ``worst`` max_s f(q_s); ``composite`` the maximum over s of the sum of all composite objectives; ``voxel_worst``
f of the worst value that each voxel has in any scenario. Maxima of scenarios are smooth: (sum f_s^10)^(1/10).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import xarray as xr

from ionrt.patient.names import is_external, kinds_of, organs_of
from ionrt.quantities import IonrtError, one_of

OBJECTIVE_QUANTITIES = ("rbe_dose", "dose", "let_d", "high_let_dose")
ROBUST = ("nominal", "expected", "worst", "composite", "voxel_worst")

Gradient = tuple[float, np.ndarray]


def mean(share: np.ndarray, values: np.ndarray) -> float:
    """sum share_i values_i; not by BLAS, whose threads would wait for the next call at full speed."""
    return float(np.einsum("i,i", share, values))


@dataclass(frozen=True)
class Objective:
    """Base of all objectives: `structure` name, `weight`, `quantity` ("rbe_dose" Gy (RBE), "dose" Gy, "let_d" keV/um,
    "high_let_dose" Gy deposited above `let_threshold` keV/um); `robust` how it counts over scenarios; `hard` makes its
    `level` a limit that is met, in the scenarios in which it counts, instead of a wish."""

    structure: str
    weight: float = 1.0
    quantity: str = "rbe_dose"
    robust: str = field(default="nominal", kw_only=True)
    hard: bool = field(default=False, kw_only=True)
    let_threshold: float | None = field(default=None, kw_only=True)
    side: ClassVar[float] = 0.0  # +1: too much is bad, -1: too little, 0: both
    limits: ClassVar[bool] = False  # whether `hard` has a meaning

    @property
    def asks_for_dose(self) -> bool:
        """Whether it wants dose in its structure, so that this is a target whatever its name."""
        return self.quantity != "let_d" and self.side < 0.0

    def __post_init__(self) -> None:
        one_of(self.quantity, OBJECTIVE_QUANTITIES, what=f"objective on {self.structure!r}: quantity")
        one_of(self.robust, ROBUST, what=f"objective on {self.structure!r}: robust")
        if self.hard and not self.limits:
            raise IonrtError(
                f"objective on {self.structure!r}: {type(self).__name__} cannot be hard; SquaredOverdose, SquaredUnderdose"
                " and MeanDose can"
            )
        if self.hard and self.robust == "composite":
            raise IonrtError(f"objective on {self.structure!r}: a hard limit holds in every scenario; take robust='worst'")
        if (self.quantity == "high_let_dose") != (self.let_threshold is not None):
            raise IonrtError(f"objective on {self.structure!r}: let_threshold (keV/um) belongs to quantity='high_let_dose'")
        if not (math.isfinite(self.weight) and self.weight > 0.0):
            raise IonrtError(f"objective on {self.structure!r}: expected a positive weight, got {self.weight!r}")
        for name, value in vars(self).items():
            if isinstance(value, float) and not (math.isfinite(value) and value >= 0.0) and name != "exponent":
                raise IonrtError(f"objective on {self.structure!r}: expected {name} >= 0, got {value!r}")

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        """Value and its gradient with respect to `q` (both without `weight`); `share` = c_i / sum c."""
        raise NotImplementedError

    def worst(self, values: np.ndarray) -> np.ndarray:
        """Index of the scenario that is worst for each voxel; `values` (scenario, voxel)."""
        return np.argmax(self.side * values, axis=0)

    def excess(self, q: np.ndarray, share: np.ndarray) -> np.ndarray:
        """By how much a hard limit is passed, per voxel or (1,) for the whole structure; negative where it is kept."""
        raise NotImplementedError


@dataclass(frozen=True)
class SquaredDeviation(Objective):
    """<(q - level)^2>; `level` in the unit of the quantity."""

    level: float = 0.0

    @property
    def asks_for_dose(self) -> bool:
        """With a level above 0."""
        return self.quantity != "let_d" and self.level > 0.0

    def worst(self, values: np.ndarray) -> np.ndarray:
        """The value farthest from the level."""
        return np.argmax(np.abs(values - self.level), axis=0)

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        apart = q - self.level
        return mean(share, apart * apart), 2.0 * share * apart


@dataclass(frozen=True)
class _OneSided(Objective):
    level: float = 0.0
    limits: ClassVar[bool] = True

    def excess(self, q: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Beyond the level."""
        return self.side * (q - self.level)

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        apart = self.side * np.maximum(self.side * (q - self.level), 0.0)
        return mean(share, apart * apart), 2.0 * share * apart


@dataclass(frozen=True)
class SquaredOverdose(_OneSided):
    """<max(0, q - level)^2>; `level` in the unit of the quantity."""

    side: ClassVar[float] = 1.0


@dataclass(frozen=True)
class SquaredUnderdose(_OneSided):
    """<max(0, level - q)^2>; `level` in the unit of the quantity."""

    side: ClassVar[float] = -1.0


@dataclass(frozen=True)
class MeanDose(Objective):
    """max(0, <q> - level)^2; `level` in the unit of the quantity."""

    level: float = 0.0
    side: ClassVar[float] = 1.0
    limits: ClassVar[bool] = True

    def excess(self, q: np.ndarray, share: np.ndarray) -> np.ndarray:
        """The mean above the level."""
        return np.array([mean(share, q) - self.level])

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        apart = max(mean(share, q) - self.level, 0.0)
        return apart * apart, 2.0 * apart * share


@dataclass(frozen=True)
class GEUD(Objective):
    """max(0, gEUD - level)^2 with gEUD = <q^exponent>^(1/exponent); a negative `exponent` (target) turns the sign round.

    References
    ----------
    Niemierko, Med Phys 26 (1999) 1100; Wu et al., doi 10.1016/S0360-3016(01)02585-8.
    """

    level: float = 0.0
    exponent: float = 1.0

    @property
    def asks_for_dose(self) -> bool:
        """With a negative exponent."""
        return self.quantity != "let_d" and self.exponent < 0.0

    def worst(self, values: np.ndarray) -> np.ndarray:
        """The largest value, or the smallest for a negative exponent."""
        return np.argmax(np.sign(self.exponent) * values, axis=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.exponent) or self.exponent == 0.0:
            raise IonrtError(f"objective on {self.structure!r}: expected a finite exponent other than 0, got {self.exponent!r}")

    def evaluate(self, q: np.ndarray, share: np.ndarray) -> Gradient:
        positive = np.maximum(q, 1e-6)  # the power of zero has no gradient
        scale = float(positive.max())
        power = (positive / scale) ** self.exponent
        total = mean(share, power)
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

    @property
    def asks_for_dose(self) -> bool:
        """As a lower limit."""
        return self.quantity != "let_d" and not self.upper

    def worst(self, values: np.ndarray) -> np.ndarray:
        """The largest value for an upper limit, else the smallest."""
        return np.argmax(values if self.upper else -values, axis=0)

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
        return mean(share, apart * apart), 2.0 * share * apart


def make_robust(objectives: Iterable[Objective], *, robust: str = "worst", structures: Iterable[str]) -> tuple[Objective, ...]:
    """The same objectives, those on `structures` (names) counting over scenarios as `robust` says, one of `ROBUST`."""
    chosen, given = set(structures), tuple(objectives)
    if not any(o.structure in chosen for o in given):
        raise IonrtError(f"make_robust: no objective on any of {', '.join(sorted(chosen)) or 'no structures'}")
    return tuple(replace(o, robust=robust) if o.structure in chosen else o for o in given)


def default_objectives(
    target: str,
    prescription: float,
    structures: xr.Dataset | xr.DataArray | Iterable[str],
    *,
    organs: Iterable[str] | None = None,
) -> tuple[Objective, ...]:
    """Objectives that make a sensible first plan for a `prescription` [Gy (RBE) per fraction].

    Uniform prescription in the target, underdose and more than 3 % overdose penalised again; organs above half the prescription
    and in the mean; the outline (``BODY``, ``EXTERNAL``, ...; without the target) above the prescription, and lightly above
    half of it. The outline's weights are large because they count against its whole volume. Without `organs` every structure is
    spared that is neither a target volume nor the outline, by its name, as the target's margin ``<target> + ...``, or by its
    type, where `structures` is a patient and not bare names.
    """
    kinds = kinds_of(structures)
    names = list(kinds)
    one_of(target, names, what="target")
    spare = organs_of(kinds, target) if organs is None else list(organs)
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
        if is_external(name, kinds[name]):
            out += [
                SquaredOverdose(name, weight=3000.0, level=prescription),
                SquaredOverdose(name, weight=100.0, level=0.5 * prescription),
                MeanDose(name, weight=20.0),
            ]
    return tuple(out)
