"""What may go wrong: range and set-up errors as data, and the usual sets of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from ionrt.quantities import IonrtError

Shift = tuple[float, float, float]
LARGEST_RANGE_SHIFT = 0.3  # relative; more than that is a percentage given by mistake
LARGEST_SETUP = 300.0  # mm


@dataclass(frozen=True)
class Scenario:
    """One possible delivery of a plan.

    Parameters
    ----------
    range_shift : relative change of every range in the patient (0.025: beams reach 2.5 % farther than the CT says,
        water-equivalent paths are shorter by 1/1.025; a range shifter in front of the patient is known exactly)
    setup : (x, y, z) mm LPS, how far the isocentre lies from where it was planned, in the patient
    weight : relative probability, for expected values
    daily : further set-up shifts (x, y, z) mm, one per fraction (empty: every fraction is alike).

    Raises
    ------
    IonrtError
        A value that is not finite, a range shift given in percent, a weight that is not positive.
    """

    range_shift: float = 0.0
    setup: Shift = (0.0, 0.0, 0.0)
    weight: float = 1.0
    daily: tuple[Shift, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.range_shift) and abs(self.range_shift) <= LARGEST_RANGE_SHIFT):
            raise IonrtError(
                f"scenario: expected a relative range_shift within +-{LARGEST_RANGE_SHIFT:g} (0.025 for 2.5 %),"
                f" got {self.range_shift!r}"
            )
        object.__setattr__(self, "setup", _shift(self.setup, "setup"))
        object.__setattr__(self, "daily", tuple(_shift(d, "daily shift") for d in self.daily))
        if not (math.isfinite(self.weight) and self.weight > 0.0):
            raise IonrtError(f"scenario: expected a positive weight, got {self.weight!r}")

    @property
    def label(self) -> str:
        """Such as ``nominal``, ``range +2.5 %``, ``set-up x -2 mm``."""
        parts = [f"range {100.0 * self.range_shift:+.3g} %"] if self.range_shift else []
        moved = " ".join(f"{axis} {d:+.3g}" for axis, d in zip("xyz", self.setup, strict=True) if d)
        parts += [f"set-up {moved} mm"] if moved else []
        return ", ".join(parts) or "nominal"

    @property
    def is_nominal(self) -> bool:
        """No error at all."""
        return not (self.range_shift or any(self.setup) or self.daily)

    def fractions(self) -> tuple[Scenario, ...]:
        """One scenario per fraction, systematic and daily set-up together; itself alone where every fraction is alike."""
        if not self.daily:
            return (self,)
        moved = [tuple(a + b for a, b in zip(self.setup, d, strict=True)) for d in self.daily]
        return tuple(Scenario(self.range_shift, m, self.weight) for m in moved)  # type: ignore[arg-type]


def _shift(given: Sequence[float], what: str) -> Shift:
    values = tuple(float(v) for v in given)
    if len(values) != 3 or not all(math.isfinite(v) and abs(v) <= LARGEST_SETUP for v in values):
        raise IonrtError(f"scenario: expected {what} as (x, y, z) in mm, each within {LARGEST_SETUP:g} mm, got {given!r}")
    return values


NOMINAL: Scenario = Scenario()


def _sigma(value: float | Sequence[float], what: str) -> np.ndarray:
    """One standard deviation per axis."""
    values = np.broadcast_to(np.asarray(value, dtype=float), 3)
    if not (np.isfinite(values).all() and (values >= 0.0).all()):
        raise IonrtError(f"{what}: expected standard deviations >= 0, got {value!r}")
    return values


def _error(value: float, what: str) -> float:
    if not (math.isfinite(value) and value >= 0.0):
        raise IonrtError(f"{what}: expected an error >= 0 (both signs are taken), got {value!r}")
    return float(value)


def _setups(setup: float) -> list[Shift]:
    """No shift, and plus and minus `setup` along each axis."""
    out = [(0.0, 0.0, 0.0)]
    if setup:
        out += [tuple(s * setup * (k == axis) for k in range(3)) for axis in range(3) for s in (1.0, -1.0)]  # type: ignore[misc]
    return out


def scenario_set(*, range_shift: float = 0.025, setup: float = 2.0, together: bool = False) -> tuple[Scenario, ...]:
    """Nominal, range + and -, set-up + and - along x, y and z: nine with one error at a time, or the grid of 21.

    Parameters
    ----------
    range_shift : relative (0.025: 2.5 %)
    setup : mm. An error of 0 leaves its scenarios out.
    together : the grid: each of the seven set-up positions with the range nominal, longer and shorter.

    Returns
    -------
    a tuple of `Scenario` of equal weight, the nominal one first.

    Raises
    ------
    IonrtError
        Negative or not finite errors.

    Examples
    --------
    >>> len(ionrt.plan.scenario_set(range_shift=0.035, setup=3.0))  # nominal, 2 of range, 6 of set-up (3 mm)
    9
    >>> len(ionrt.plan.scenario_set(range_shift=0.035, setup=3.0, together=True))
    21
    """
    r, s = _error(range_shift, "range_shift"), _error(setup, "setup")
    ranges = (r, -r) if r else ()
    if together:
        return tuple(Scenario(shift, d) for d, shift in product(_setups(s), (0.0, *ranges)))
    return (NOMINAL, *map(Scenario, ranges), *(Scenario(setup=d) for d in _setups(s)[1:]))


scenarios_single = partial(scenario_set, together=False)  # names of 0.1.0
scenarios_grid = partial(scenario_set, together=True)


def scenarios_random(
    n: int,
    *,
    seed: int,
    range_sigma: float = 0.0125,
    setup_sigma: float | Sequence[float] = 1.0,
    daily_sigma: float | Sequence[float] = 0.0,
    fractions: int = 1,
) -> tuple[Scenario, ...]:
    """`n` courses drawn from normal distributions, of equal weight; the same seed gives the same courses.

    Range (relative) and systematic set-up error once per course, daily error per fraction (doi
    10.1053/j.semradonc.2003.10.003); standard deviations of set-up in mm, one number or (x, y, z). `fractions` are used where
    `daily_sigma` is above 0.
    """
    for what, value in (("n", n), ("fractions", fractions)):
        if not (isinstance(value, int) and value >= 1):
            raise IonrtError(f"{what}: expected a whole number of at least 1, got {value!r}")
    range_sd = float(_sigma(range_sigma, "range_sigma")[0])
    systematic, random = _sigma(setup_sigma, "setup_sigma"), _sigma(daily_sigma, "daily_sigma")
    rng = np.random.default_rng(seed)
    ranges = rng.normal(0.0, 1.0, n) * range_sd
    setups = rng.normal(0.0, 1.0, (n, 3)) * systematic
    days = rng.normal(0.0, 1.0, (n, fractions, 3)) * random
    daily = [tuple(tuple(d) for d in course.tolist()) if random.any() else () for course in days]
    return tuple(Scenario(float(r), tuple(s), daily=d) for r, s, d in zip(ranges, setups.tolist(), daily, strict=True))


def check_scenarios(scenarios: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """As a tuple; raises where there is none or something else came."""
    out = (scenarios,) if isinstance(scenarios, Scenario) else tuple(scenarios)
    if not out:
        raise IonrtError("scenarios: expected at least one Scenario, got an empty list; see ionrt.plan.scenario_set")
    wrong = [s for s in out if not isinstance(s, Scenario)]
    if wrong:
        raise IonrtError(f"scenarios: expected ionrt.plan.Scenario, got {wrong[0]!r}")
    return out
