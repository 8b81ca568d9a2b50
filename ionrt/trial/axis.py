"""What is escalated: a dose or an LET, with its unit and its definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ionrt.quantities import QUANTITIES, IonrtError, one_of
from ionrt.trial import limits

ESCALATED = ("dose", "rbe_dose", "let_d")


@dataclass(frozen=True)
class Axis:
    """Levels of a phase I trial in physical terms: of "dose" [Gy], "rbe_dose" [Gy (RBE)] or "let_d" [keV/um], increasing.

    An LET needs to say which particles it counts (`let_definition`), an RBE-weighted dose its dose system (`rbe_model`).
    """

    quantity: str
    levels: tuple[float, ...]
    let_definition: str | None = None
    rbe_model: str | None = None

    def __post_init__(self) -> None:
        one_of(self.quantity, ESCALATED, what="axis quantity")
        levels = limits.increasing(self.levels, f"{self.quantity} levels", least=1)
        limits.positive(float(levels[0]), f"{self.quantity} levels", unit=self.unit)
        object.__setattr__(self, "levels", tuple(float(v) for v in levels))
        for key in QUANTITIES[self.quantity].carries:
            if not getattr(self, key):
                raise IonrtError(f"axis {self.quantity}: needs {key}; a level in {self.unit} has no meaning without it")

    @property
    def unit(self) -> str:
        """Unit of the levels."""
        return QUANTITIES[self.quantity].unit

    @property
    def label(self) -> str:
        """Text for a figure's axis."""
        carried = self.let_definition or self.rbe_model
        return f"{QUANTITIES[self.quantity].long_name} [{self.unit}]" + (f", {carried}" if carried else "")


def level_values(axis: Axis | None, n_levels: int) -> Sequence[float]:
    """Values of the levels; their numbers 1, 2, ... where no axis is given."""
    if axis is None:
        return np.arange(1, n_levels + 1).tolist()
    if len(axis.levels) != n_levels:
        raise IonrtError(f"axis: expected {n_levels} levels, got {len(axis.levels)}: {axis.levels}")
    return axis.levels
