"""What an RBE model consists of before it meets a field: names of moments, kernels, declared validity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any


@dataclass(frozen=True)
class Validity:
    """Where a model was fitted: ions it may be used for (None: every ion), LET [keV/um] and dose per fraction [Gy] up to which.

    `correction` is the largest size of the second-order term of the SMK that still counts as small: in the bracket against 1,
    in the slope at low dose against alpha.
    """

    ions: tuple[str, ...] | None = None
    let: float | None = None
    dose: float = 30.0
    correction: float | None = None

    @property
    def limits(self) -> tuple[float, ...]:
        """The numbers the kernels compare with, in their order."""
        return (*(x for x in (self.let, self.correction) if x is not None), self.dose)

    def __str__(self) -> str:
        parts = [] if self.let is None else [f"LETd <= {self.let:g} keV/um"]
        if self.correction is not None:
            parts.append(f"second-order correction <= {self.correction:g}")
        return ", ".join([*parts, f"dose per fraction <= {self.dose:g} Gy"])


@dataclass(frozen=True)
class Definition:
    """What the kernels are run with; `ionrt.rbe.Model` adds how a user meets it."""

    name: str
    moments: tuple[str, ...]
    resolve: Callable[..., tuple[Any, ...]]
    """Turns the user's parameters into the kernel's constants, in order."""
    value: Callable[..., tuple[int, int]] = dataclass_field(repr=False)
    slopes: Callable[..., None] = dataclass_field(repr=False)
    validity: Validity
