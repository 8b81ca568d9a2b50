"""Treatment rooms as data: angles, ions with their energies, source distances, spot size in air."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ionrt import ions
from ionrt.quantities import IonrtError, one_of

MINIMUM_ENERGY = {"p": 50.0, "He": 50.0, "C": 80.0, "O": 100.0, "Ne": 100.0}
ENERGY_RANGE = tuple((ion, (MINIMUM_ENERGY[ion], ions.TOP_ENERGY[ion])) for ion in ions.IONS)

RADIATION_LENGTH_WATER = 360.8  # mm, PDG (doi 10.1093/ptep/ptac097)
FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))  # of a Gaussian, in standard deviations
RADIATION_LENGTH_AIR = 303_900.0  # mm at 20 C and 1 atm, the same source


@dataclass(frozen=True)
class Room:
    """A treatment room.

    Parameters
    ----------
    name, gantry_angles : degrees (IEC 61217), None for a rotating gantry that reaches every angle
    couch_angles : degrees, None for every angle
    energies : {ion: (lowest, highest) MeV/u}
    source_distance : mm from the isocentre to the virtual sources of the two scanning magnets, along BEV x and y
    optics_sigma : mm of the beam in the isocentre plane in vacuum
    window_thickness : mm of water-equivalent material (vacuum window, monitors) crossed `window_distance` mm before the
        isocentre, with air behind it. Published spot sizes of a multi-ion gantry do not exist; the defaults (2 mm optics, 1.5
        mm of water at 1.2 m) are an assumption. They give a sigma in air of 7-10 mm for protons below 60 MeV and of 2-3 mm for
        carbon.
    """

    name: str
    gantry_angles: tuple[float, ...] | None = None
    couch_angles: tuple[float, ...] | None = None
    energies: Mapping[str, tuple[float, float]] | tuple[tuple[str, tuple[float, float]], ...] = field(default=ENERGY_RANGE)
    source_distance: tuple[float, float] = (7000.0, 6500.0)
    optics_sigma: float = 2.0
    window_thickness: float = 1.5
    window_distance: float = 1200.0

    def __post_init__(self) -> None:
        pairs = dict(self.energies)
        for ion, (lowest, highest) in pairs.items():
            one_of(ion, tuple(ions.IONS), what=f"room {self.name!r}: ion")
            if not 0.0 < lowest < highest:
                raise IonrtError(f"room {self.name!r}: expected 0 < lowest < highest MeV/u for {ion}, got {lowest}, {highest}")
        if min(self.source_distance) <= 500.0:
            raise IonrtError(f"room {self.name!r}: source distances of {self.source_distance} mm; expected more than 500 mm")
        if min(self.optics_sigma, self.window_distance) <= 0.0 or self.window_thickness < 0.0:
            raise IonrtError(
                f"room {self.name!r}: optics_sigma and window_distance must be positive, window_thickness not negative"
            )
        # a tuple of pairs keeps the dataclass hashable
        object.__setattr__(self, "energies", tuple((i, (float(a), float(b))) for i, (a, b) in sorted(pairs.items())))

    def energy_range(self, ion: str) -> tuple[float, float]:
        """Lowest and highest energy of `ion` in MeV/u; an ion that the room does not offer raises."""
        offered = dict(self.energies)
        return offered[one_of(ion, tuple(offered), what=f"ion in room {self.name!r}")]

    def check_angles(self, gantry: float, couch: float) -> None:
        """Raise unless the room can deliver from these angles (degrees)."""
        for what, angle, allowed in (("gantry", gantry, self.gantry_angles), ("couch", couch, self.couch_angles)):
            if allowed is None:
                continue
            if all(abs((angle - a + 180.0) % 360.0 - 180.0) > 1e-6 for a in allowed):
                angles = ", ".join(f"{a:g}" for a in allowed)
                raise IonrtError(f"room {self.name!r} cannot deliver {what} {angle:g} degrees; it offers {angles}")

    def offers(self, gantry: float, couch: float) -> bool:
        """Whether the room can deliver from these angles (degrees)."""
        try:
            self.check_angles(gantry, couch)
        except IonrtError:
            return False
        return True

    def angles(self, *, gantry_step: float = 10.0, couch_step: float = 15.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Gantry and couch angles (degrees) worth looking at.

        Those the room lists; where it offers every gantry angle, one each `gantry_step` at couch 0; where the gantry stands
        still, a couch angle each `couch_step` all round (beyond +-90 degrees the patient lies feet first).
        """
        for what, step in (("gantry_step", gantry_step), ("couch_step", couch_step)):
            if not 0.0 < step <= 360.0:
                raise IonrtError(f"room {self.name!r}: expected {what} above 0 and at most 360 degrees, got {step!r}")
        rotating = self.gantry_angles is None
        gantry = tuple(np.arange(0.0, 360.0, gantry_step).tolist()) if rotating else self.gantry_angles
        every_couch = (0.0,) if rotating else tuple(np.arange(0.0, 360.0, couch_step).tolist())
        return gantry, every_couch if self.couch_angles is None else self.couch_angles  # type: ignore[return-value]

    def sigma_in_air(self, ion: str, energy: float, *, upstream: float = 0.0) -> float:
        r"""Standard deviation of the spot in air.

        sigma^2 = optics_sigma^2 + theta_w^2 d^2 + theta_a^2 d^2/3, d = window_distance - upstream,
        theta the Highland angles of the window and of d mm of air.

        Parameters
        ----------
        ion : name
        energy : MeV/u
        upstream : mm from the isocentre towards the source. Returns mm.

        References
        ----------
        Highland, Nucl Instrum Methods 129 (1975) 497, with the constants of the PDG review (doi 10.1093/ptep/ptac097).
        """
        distance = max(self.window_distance - upstream, 0.0)
        window = self.window_thickness / RADIATION_LENGTH_WATER
        air = distance / RADIATION_LENGTH_AIR
        theta2 = highland(ion, energy, window + air) ** 2
        share = (window + air / 3.0) / (window + air) if window + air > 0.0 else 0.0
        return math.sqrt(self.optics_sigma**2 + theta2 * share * distance**2)


def highland(ion: str, energy: float, radiation_lengths: float) -> float:
    """Plane-projected scattering angle (rad) in a thin slab."""
    if radiation_lengths <= 0.0:
        return 0.0
    isotope = ions.get(ion)
    mass = isotope.mass_u * ions.ATOMIC_MASS_UNIT
    kinetic = energy * isotope.mass_number
    momentum_beta = kinetic * (kinetic + 2.0 * mass) / (kinetic + mass)
    return 13.6 * isotope.charge / momentum_beta * math.sqrt(radiation_lengths) * (1.0 + 0.038 * math.log(radiation_lengths))


GANTRY_1: Room = Room("gantry 1")
GANTRY_2: Room = Room("gantry 2")
FIXED_ROOM: Room = Room("fixed beam", gantry_angles=(90.0,))
REFERENCE_FACILITY: tuple[Room, ...] = (GANTRY_1, GANTRY_2, FIXED_ROOM)
