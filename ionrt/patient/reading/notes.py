"""Nothing vanishes without a word: what a reader left out or assumed, as attributes of its result and as warnings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from ionrt.quantities import IonrtError


class IncompleteWarning(UserWarning):
    """Something of a patient was left out, or rests on an assumption; the result's attributes say the same."""


@dataclass
class Notes:
    """What was left out and what was assumed while reading: attributes `left_out` and `assumed` of the result, and warnings.

    `quiet` entries are routine (marker points): they stand in the attribute only.
    """

    left_out: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    loud: list[str] = field(default_factory=list)

    def leave_out(self, what: str, *, quiet: bool = False) -> None:
        """Something that is in the files and not in the result: what, where and why."""
        self._add(self.left_out, what, quiet)

    def assume(self, what: str, *, quiet: bool = False) -> None:
        """Something that the files do not say, or not clearly, and how it was taken."""
        self._add(self.assumed, what, quiet)

    def _add(self, where: list[str], what: str, quiet: bool) -> None:
        if what not in where:
            where.append(what)
            self.loud += [] if quiet else [what]

    def attrs(self, *, strict: bool) -> dict[str, str]:
        """`tell` as texts, since netCDF keeps no lists of them."""
        return {key: "; ".join(said) for key, said in self.tell(strict=strict, stacklevel=4).items()}

    def tell(self, *, strict: bool, stacklevel: int = 3) -> dict[str, tuple[str, ...]]:
        """Warn, or raise where `strict`; the attributes for the result."""
        if strict and self.loud:
            raise IonrtError(f"strict reading: {'; '.join(self.loud)}")
        for what in self.loud:
            warnings.warn(what, IncompleteWarning, stacklevel=stacklevel)
        found = {"left_out": tuple(self.left_out), "assumed": tuple(self.assumed)}
        return {key: value for key, value in found.items() if value}
