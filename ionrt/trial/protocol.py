"""A trial protocol as data; `ionrt.trial.reading` makes one from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ionrt.outcome.columns import require
from ionrt.quantities import IonrtError
from ionrt.trial.axis import Axis


@dataclass(frozen=True)
class Protocol:
    """A trial protocol; fields as in `schema.yaml`. Make one with `load`."""

    id: str
    title: str
    status: str
    population: str
    arms: tuple[Mapping[str, Any], ...]
    endpoint: Mapping[str, Any]
    time_zero: str
    design: str
    parameters: Mapping[str, Any]
    n: int
    alpha: float
    power: float | None
    sided: int
    strata: Mapping[str, list]
    stopping: tuple[str, ...]
    analysis: Mapping[str, Any]
    illustrative: tuple[str, ...]
    sources: tuple[Mapping[str, str], ...]
    axis: Axis | None = None
    looks: Mapping[str, Any] = field(default_factory=dict)
    scenarios: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def one_sided_alpha(self) -> float:
        """Type I error on one side."""
        return self.alpha / self.sided

    def two_arms(self, data: Any = None) -> tuple[str, str]:
        """Names of the control and the experimental arm; raises unless there are these two, and for other arms in `data`."""
        names = [arm["name"] for arm in self.arms]
        if len(names) != 2:
            raise IonrtError(f"{self.id}: expected two arms, the protocol has {names}")
        if data is not None:
            require(data, "arm")
        strangers = set() if data is None else {str(arm) for arm in data["arm"]} - set(names)
        if strangers:
            raise IonrtError(f"data: arms {sorted(strangers)} are not in the protocol {names}")
        return names[0], names[1]
