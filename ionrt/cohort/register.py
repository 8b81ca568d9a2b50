"""What a site has said so far, and about whom: no number leaves that sets few patients apart (`min_cell`, or 5 % of a group).

A register is a folder at the site: its key, and one sealed file per export with the numbers and the keyed fingerprints of the
patients they rest on. Files are only added, numbered without gaps; two processes cannot take the same number.
"""

from __future__ import annotations

import datetime as dt
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from ionrt.cohort.perturb import Noise, secret
from ionrt.files import content_hash, read_sealed, write_sealed
from ionrt.quantities import IonrtError

SHARE = 0.05  # of a group that has to have changed, where that is more than `min_cell`


class OvertakenError(Exception):
    """Another process exported in between: read again, decide again."""


class Register:
    """The exports of a site, and the one that is being made."""

    def __init__(self, folder: str | Path | None, min_cell: int) -> None:
        self.folder = Path(folder or Path(platformdirs.user_data_dir("ionrt")) / "exports")
        self.parts: list[dict[str, Any]] = []  # of earlier exports, with their number
        try:
            there = {f.name for f in self.folder.glob("*.export")}
        except OSError as error:
            raise IonrtError(f"the register of exports cannot be read ({error.strerror})") from None
        if there and not (self.folder / "export.key").is_file():
            raise IonrtError(
                "export.key of the register of exports is gone: put it back from a copy; a new one knows no patient"
            )
        self.key = secret(folder=self.folder)
        for number in count(1):
            if not there:
                break
            file = self.folder / f"{number:04d}.export"
            content = read_sealed(file)
            if content is None:
                state = "is damaged" if file.name in there else "is gone"
                raise IonrtError(
                    f"{file.name} of the register of exports {state}: put it back from a copy; without it nobody can say what"
                    " a further export would give away"
                )
            there.discard(file.name)
            export = json.loads(content)
            if export.get("key", self._mark()) != self._mark():  # another key hides the same patients behind new noise
                raise IonrtError(
                    "export.key of the register of exports is not the one its exports were made with: put it back from a copy"
                )
            if export["min_cell"] != min_cell:
                raise IonrtError(f"min_cell: the exports of this register were made with {export['min_cell']}; keep it")
            self.parts += [{**part, "number": number} for part in export["parts"]]
        self.next, self.min_cell, self._made = number, min_cell, list[dict[str, Any]]()
        self.numbers: dict[str, int] = {}  # name -> export whose numbers stand

    def part(self, name: str, who: Sequence[str], settings: Any, make: Callable[[Noise], Any]) -> Any:
        """What stands under a name for these patients: made now, or as exported before where too few have changed, or None."""
        earlier = [part for part in self.parts if part["name"] == name]
        same = [part for part in earlier if part["who"] == sorted(who)]
        fewest = max(self.min_cell, round(SHARE * len(who)))
        if not same and safe_together([*(part["who"] for part in earlier), who], fewest):
            result = make(Noise(self.key, name, who))
            self._made.append({"name": name, "who": sorted(who), "settings": settings, "result": result})
            self.numbers[name] = self.next
            return self._made[-1]["result"]
        nearest = max(same or earlier, key=lambda part: (-_apart(part["who"], who), part["number"]), default=None)
        if nearest is None or _apart(nearest["who"], who) >= fewest:
            if len(who) >= self.min_cell:
                self._warn(f"{name}: nothing is exported; beside earlier exports it would set few patients apart")
            return None
        if not same or nearest["settings"] != json.loads(json.dumps(settings)):
            what = "other settings or values" if same else f"fewer than {fewest} patients changed"
            self._warn(f"{name}: as in export {nearest['number']}, since when {what}")
        self.numbers[name] = nearest["number"]
        return nearest["result"]

    def close(self) -> None:
        """Keep what is new. Raises OvertakenError where another export came in between."""
        if self._made:
            content = {
                "format": "ionrt.cohort.exports/1",
                "date": dt.date.today().isoformat(),
                "min_cell": self.min_cell,
                "key": self._mark(),
                "parts": self._made,
            }
            try:
                write_sealed(self.folder / f"{self.next:04d}.export", json.dumps(content).encode(), new=True)
            except FileExistsError:
                raise OvertakenError from None

    def _mark(self) -> str:
        """What tells the site's key from another one and says nothing about it."""
        return content_hash(b"register of exports", self.key)

    def _warn(self, text: str) -> None:
        warnings.warn(f"summary: {text}", stacklevel=5)


def _apart(one: Iterable[str], other: Iterable[str]) -> int:
    """Patients by whom two groups differ; a changed record is one patient."""
    a, b = Counter(one), Counter(other)
    return max((a - b).total(), (b - a).total())


def safe_together(groups: Sequence[Iterable[str]], fewest: int) -> bool:
    """Whether every sum and difference of these groups that rests on anybody rests on `fewest` people no group tells apart.

    Who is in the same groups (equal people: equally often) is one block. What can be computed from the groups is a combination
    of their columns, blocks by groups: one that vanishes on all large blocks has to vanish on all.
    """
    often = [Counter(group) for group in groups]
    blocks = Counter(tuple(c[one] for c in often) for one in {one for c in often for one in c})
    columns = np.array(list(blocks), dtype=float).reshape(-1, len(groups))
    large = columns[np.array(list(blocks.values()), dtype=int) >= fewest]
    return len(large) > 0 and int(np.linalg.matrix_rank(large)) == int(np.linalg.matrix_rank(columns))
