"""Beams and plans as frozen data, validated when they are made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ionrt import ions
from ionrt.plan.setup.geometry import POSITIONS, bev_axes
from ionrt.plan.setup.objectives import Objective
from ionrt.plan.setup.room import GANTRY_1, Room
from ionrt.quantities import IonrtError, one_of


class ReachError(IonrtError):
    """An ion cannot reach the target; `missing_depth` is what is missing, in mm of water."""

    def __init__(self, message: str, *, missing_depth: float) -> None:
        super().__init__(message)
        self.missing_depth = missing_depth


@dataclass(frozen=True)
class Beam:
    """One beam: `ion` name, `gantry` and `couch` angle (degrees, IEC 61217), `isocentre` (x, y, z) mm LPS
    (None: centroid of the target), `room`, `range_shifter` mm of water before the patient, `position` of the patient on the
    table ("HFS", "FFP", "HFDR", ...), `pitch` and `roll` of the table top (degrees)."""

    ion: str
    gantry: float
    couch: float = 0.0
    isocentre: tuple[float, float, float] | None = None
    room: Room = GANTRY_1
    range_shifter: float = 0.0
    position: str = "HFS"
    pitch: float = 0.0
    roll: float = 0.0

    def __post_init__(self) -> None:
        one_of(self.ion, tuple(ions.IONS), what="ion")
        one_of(self.position, tuple(POSITIONS), what="patient position")
        for what in ("gantry", "couch", "pitch", "roll"):
            if not math.isfinite(getattr(self, what)):
                raise IonrtError(f"beam: expected a finite {what} angle in degrees, got {getattr(self, what)!r}")
        if not 0.0 <= self.range_shifter < 500.0:
            raise IonrtError(f"beam: expected a range shifter of 0 to 500 mm of water, got {self.range_shifter!r}")
        if self.isocentre is not None:
            if len(self.isocentre) != 3 or not all(math.isfinite(c) for c in self.isocentre):
                raise IonrtError(f"beam: expected the isocentre as (x, y, z) in mm, got {self.isocentre!r}")
            object.__setattr__(self, "isocentre", tuple(float(c) for c in self.isocentre))
        self.room.energy_range(self.ion)
        self.room.check_angles(self.gantry, self.couch)

    @property
    def name(self) -> str:
        """A label such as ``C gantry 90``."""
        further = [f" {what} {a:g}" for what in ("couch", "pitch", "roll") if (a := getattr(self, what))]
        return f"{self.ion} gantry {self.gantry:g}{''.join(further)}{'' if self.position == 'HFS' else f' {self.position}'}"

    @property
    def axes(self) -> np.ndarray:
        """Rows u, v, w of the beam's eye view in LPS (x, y, z); the beam flies along -w."""
        return bev_axes(self.gantry, self.couch, self.position, self.pitch, self.roll)


@dataclass(frozen=True)
class Plan:
    """What is to be planned; beams of several ions are optimised together.

    Parameters
    ----------
    beams : , all in one room
    target : structure name
    prescription : Gy (RBE) **per fraction**
    fractions, model : name in `ionrt.rbe.MODELS` with
    parameters, objectives : (None: made from target and prescription by `default_objectives`)
    spacing : mm of the dose grid, one number or (z, y, x)
    margin : mm around the target that spots cover
    spot_spacing : mm in the isocentre plane (None: from the size of the spots)
    let_definition : of LETd objectives
    lateral_loss : share of the dose that the lateral cut-off may drop.
    """

    beams: tuple[Beam, ...]
    target: str
    prescription: float
    fractions: int = 1
    model: str = "nirs_mkm"
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    objectives: tuple[Objective, ...] | None = None
    spacing: float | tuple[float, float, float] = 3.0
    margin: float = 5.0
    spot_spacing: float | None = None
    let_definition: str = "charged"
    lateral_loss: float = 0.002

    def __post_init__(self) -> None:
        beams = (self.beams,) if isinstance(self.beams, Beam) else tuple(self.beams)
        object.__setattr__(self, "beams", beams)
        if not beams or not all(isinstance(b, Beam) for b in beams):
            raise IonrtError(f"plan: expected at least one ionrt.Beam, got {beams!r}")
        _check_rooms(beams)
        if not (math.isfinite(self.prescription) and self.prescription > 0.0):
            raise IonrtError(f"plan: expected a positive prescription in Gy (RBE) per fraction, got {self.prescription!r}")
        if not (isinstance(self.fractions, int) and self.fractions > 0):
            raise IonrtError(f"plan: expected a positive whole number of fractions, got {self.fractions!r}")
        steps = self.grid_spacing
        if len(steps) != 3 or not all(0.2 <= s <= 20.0 for s in steps):
            raise IonrtError(f"plan: expected a grid spacing of 0.2 to 20 mm, got {self.spacing!r}")
        if not 0.0 <= self.margin <= 50.0:
            raise IonrtError(f"plan: expected a margin of 0 to 50 mm, got {self.margin!r}")
        if self.spot_spacing is not None and not 0.5 <= self.spot_spacing <= 30.0:
            raise IonrtError(f"plan: expected a spot spacing of 0.5 to 30 mm, got {self.spot_spacing!r}")
        if not 0.0 < self.lateral_loss < 0.1:
            raise IonrtError(f"plan: expected a lateral loss between 0 and 0.1, got {self.lateral_loss!r}")
        if self.objectives is not None:
            object.__setattr__(self, "objectives", tuple(self.objectives))
            if not self.objectives:
                raise IonrtError("plan: an empty list of objectives; leave it None for the default ones")

    @property
    def ions(self) -> tuple[str, ...]:
        """The ions of the plan, each once, in the order of the beams."""
        return tuple(dict.fromkeys(b.ion for b in self.beams))

    @property
    def grid_spacing(self) -> tuple[float, float, float]:
        """Spacing of the dose grid along z, y, x in mm."""
        if isinstance(self.spacing, (int, float)):
            return (float(self.spacing),) * 3
        return tuple(float(s) for s in self.spacing)  # type: ignore[return-value]


def _check_rooms(beams: tuple[Beam, ...]) -> None:
    """One plan is delivered in one room, described in one way, and no beam twice."""
    names = sorted({b.room.name for b in beams})
    if len(names) > 1:
        raise IonrtError(f"plan: beams of one plan must share a room, got {', '.join(names)}; make one plan per room")
    if len({b.room for b in beams}) > 1:
        raise IonrtError(
            f"plan: beams disagree about room {names[0]!r} (angles, energies, distances or spot size differ);"
            " give all of them the same ionrt.Room"
        )
    twice = [b.name for b in beams if beams.count(b) > 1]
    if twice:
        raise IonrtError(f"plan: beam {twice[0]} is there twice; give each ion and direction once")


def beam_set(
    ions: str | Iterable[str],
    angles: Iterable[float | tuple[float, float]],
    *,
    room: Room = GANTRY_1,
    isocentre: tuple[float, float, float] | None = None,
) -> tuple[Beam, ...]:
    """Beams of one or several ions from the same directions, for one plan.

    Parameters
    ----------
    ions : name or names
    angles : gantry angles, or pairs (gantry, couch), degrees (IEC 61217)
    room, isocentre : (x, y, z) mm LPS (None: centroid of the target).

    Returns
    -------
    a tuple of beams, direction by direction, ions within.

    Raises
    ------
    IonrtError
        An ion or angle that the room does not offer.

    Examples
    --------
    >>> [(b.ion, b.gantry, b.couch) for b in ionrt.plan.beam_set(["C", "He"], [90.0, (270.0, 10.0)])]  # degrees, IEC 61217
    [('C', 90.0, 0.0), ('He', 90.0, 0.0), ('C', 270.0, 10.0), ('He', 270.0, 10.0)]
    """
    names = (ions,) if isinstance(ions, str) else tuple(ions)
    pairs = [a if isinstance(a, tuple) else (a, 0.0) for a in angles]
    return tuple(Beam(ion, float(g), float(c), isocentre, room) for g, c in pairs for ion in names)
