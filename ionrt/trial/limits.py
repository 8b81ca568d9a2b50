"""Checks of design parameters: each returns the value or raises and says what was expected."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ionrt.outcome.columns import numbers
from ionrt.quantities import IonrtError

MOST = 1000  # patients and levels of a dose-finding design, whose decision table has a row for each


def _is_number(value: Any) -> bool:
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return real and bool(abs(value) <= sys.float_info.max)  # whole numbers of 400 digits are none


def probability(value: float, name: str) -> float:
    """A number strictly between 0 and 1."""
    if not _is_number(value) or not 0.0 < value < 1.0:
        raise IonrtError(f"{name}: expected a probability between 0 and 1 (both excluded), got {value!r}")
    return float(value)


def error_rates(alpha: float, power: float) -> tuple[float, float]:
    """Type I error below 0.5, power above it and below 1."""
    alpha, power = probability(alpha, "alpha"), probability(power, "power")
    if alpha >= 0.5:
        raise IonrtError(f"alpha: expected a type I error below 0.5, got {alpha:g}")
    if power <= alpha:
        raise IonrtError(f"power: expected more than alpha = {alpha:g}, got {power:g}; give the power, not its complement")
    return alpha, power


def positive(value: float, name: str, *, unit: str = "") -> float:
    """A finite number above 0."""
    if not _is_number(value) or value <= 0:
        raise IonrtError(f"{name}: expected a number above 0{' ' + unit if unit else ''}, got {value!r}")
    return float(value)


def non_negative(value: float, name: str) -> float:
    """A finite number, 0 or above."""
    if not _is_number(value) or value < 0:
        raise IonrtError(f"{name}: expected 0 or more, got {value!r}")
    return float(value)


def count(value: int, name: str, *, least: int = 1, most: int | None = None) -> int:
    """A whole number of at least `least`, and at most `most`."""
    if not _is_number(value) or int(value) != value or value < least or (most is not None and value > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise IonrtError(f"{name}: expected a whole number {wanted}, got {value!r}")
    return int(value)


def counts(values: Sequence[int], name: str) -> np.ndarray:
    """Whole numbers of one dimension, none negative; nothing is rounded."""
    array = finite(values, name)
    if np.any(array != np.round(array)) or np.any(array < 0):
        raise IonrtError(f"{name}: expected whole numbers from 0 up, got {list(values)!r}")
    return array.astype(np.int64)


def finite(values: Sequence[float], name: str) -> np.ndarray:
    """Finite numbers of one dimension; text, durations and missing values raise."""
    if np.ndim(values) != 1:
        raise IonrtError(f"{name}: expected values in one dimension, got {values!r}")
    array = numbers(values, name)
    if not np.isfinite(array).all():
        raise IonrtError(f"{name}: expected finite numbers, got {list(values)!r}; a missing value cannot be guessed")
    return array


def increasing(values: Sequence[float], name: str, *, strictly: bool = True, least: int = 2) -> np.ndarray:
    """One-dimensional, finite, at least `least` entries, ascending."""
    array = finite(values, name)
    if array.size < least:
        raise IonrtError(f"{name}: expected at least {least} value{'s' if least > 1 else ''}, got {values!r}")
    steps = np.diff(array)
    bad = np.flatnonzero(steps <= 0 if strictly else steps < 0)
    if bad.size:
        i = int(bad[0])
        raise IonrtError(
            f"{name}: expected {'strictly ' if strictly else ''}increasing values, but value {i + 1} is {array[i]:g}"
            f" and value {i + 2} is {array[i + 1]:g}; sort the levels or correct the value"
        )
    return array


def skeleton(values: Sequence[float]) -> np.ndarray:
    """Prior toxicity probabilities: in (0, 1), strictly increasing with the level."""
    array = increasing(values, "skeleton")
    for value in array:
        probability(float(value), "skeleton")
    return array


def toxicity(values: Sequence[float], name: str = "p_true") -> np.ndarray:
    """True toxicity probabilities: in [0, 1], not decreasing with the level."""
    array = increasing(values, name, strictly=False, least=1)
    if array[0] < 0 or array[-1] > 1:
        raise IonrtError(f"{name}: expected probabilities in [0, 1], got {array.tolist()}")
    return array


def rates(uninteresting: float, interesting: float, names: tuple[str, str] = ("p0", "p1")) -> tuple[float, float]:
    """Two rates of which the one of interest lies above the uninteresting one."""
    low, high = (probability(p, name) for p, name in zip((uninteresting, interesting), names, strict=True))
    if high <= low:
        raise IonrtError(
            f"{names[1]}: expected a rate above {names[0]} = {low:g}, got {high:g}; a design needs a rate worth finding"
        )
    return low, high


def whole_arms(control: float, allocation: float) -> dict[str, int]:
    """Patients of both arms, whole and in the allocation ratio, from a size of the control arm that need not be whole."""
    n_control = int(np.ceil(control - 1e-9))
    n_experimental = int(np.ceil(allocation * n_control - 1e-9))
    return {"n_control": n_control, "n_experimental": n_experimental, "n_planned": n_control + n_experimental}
