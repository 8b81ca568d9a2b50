"""Species: the five therapeutic ions and the isotopes that nuclear reactions make of them."""

from __future__ import annotations

from dataclasses import dataclass

from ionrt.quantities import IonrtError, one_of

ATOMIC_MASS_UNIT = 931.49410242  # MeV, CODATA 2018
ELECTRON_MASS = 0.51099895  # MeV
PROTON_MASS = 938.27208816  # MeV
GY_UM2 = 0.1602176634  # Gy um2 per keV/um, and Gy mm2 per MeV/mm and 1e6 particles, in water of 1 g/cm3; SI 2019

# MeV/u, of base data and rooms; the real facility's are unpublished, 430 is our assumption. Helium reaches as deep as protons,
# 38 cm: at 430 MeV/u it would reach 92 cm, and its base data would be larger than all others.
TOP_ENERGY: dict[str, float] = {"p": 250.0, "He": 250.0, "C": 430.0, "O": 430.0, "Ne": 430.0}


@dataclass(frozen=True)
class Isotope:
    """A bare nucleus: symbol, charge number Z, mass number A, nuclear mass in u."""

    symbol: str
    charge: int
    mass_number: int
    mass_u: float

    @property
    def mass_per_nucleon(self) -> float:
        """Nuclear mass divided by A, in u: turns MeV/u into MeV per u of mass."""
        return self.mass_u / self.mass_number


# Atomic masses of AME2020 (doi 10.1088/1674-1137/abddaf), in u, less Z electron masses.
_ATOMIC_MASS = """
1H 1.00782503190 2H 2.01410177784 3H 3.01604928132 3He 3.01602932197 4He 4.00260325413
6Li 6.01512288742 7Li 7.01600343426 7Be 7.01692871 9Be 9.01218306 10Be 10.01353469
10B 10.01293686 11B 11.009305166 10C 10.01685322 11C 11.01143260 12C 12.0 13C 13.003354835
13N 13.005738609 14N 14.003074004 15N 15.000108898 14O 14.008596706 15O 15.003065618 16O 15.994914619
17F 17.002095237 18F 18.000937325 19F 18.998403162 19Ne 19.001880907 20Ne 19.992440176
""".split()  # noqa: SIM905 (a table is easier to check against the source than a list of strings)
_CHARGE = {"H": 1, "He": 2, "Li": 3, "Be": 4, "B": 5, "C": 6, "N": 7, "O": 8, "F": 9, "Ne": 10}


def _isotope(symbol: str, atomic_mass: float) -> Isotope:
    mass_number = int("".join(c for c in symbol if c.isdigit()))
    charge = _CHARGE["".join(c for c in symbol if c.isalpha())]
    return Isotope(symbol, charge, mass_number, atomic_mass - charge * ELECTRON_MASS / ATOMIC_MASS_UNIT)


ISOTOPES: dict[str, Isotope] = {s: _isotope(s, float(m)) for s, m in zip(_ATOMIC_MASS[::2], _ATOMIC_MASS[1::2], strict=True)}
IONS: dict[str, Isotope] = {
    "p": ISOTOPES["1H"],
    "He": ISOTOPES["4He"],
    "C": ISOTOPES["12C"],
    "O": ISOTOPES["16O"],
    "Ne": ISOTOPES["20Ne"],
}
ION_NAMES = {"p": "protons", "He": "helium", "C": "carbon", "O": "oxygen", "Ne": "neon"}
ELEMENTS = ("H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne")


def get(ion: str) -> Isotope:
    """The isotope of a therapeutic ion ("p", "He", "C", "O", "Ne") or of a symbol such as "11C"; others raise."""
    if not isinstance(ion, str):
        raise IonrtError(f"ion: expected a name such as 'C', got {ion!r}")
    if ion in ISOTOPES:
        return ISOTOPES[ion]
    return IONS[one_of(ion, tuple(IONS), what="ion")]


def in_words(name: str) -> str:
    """The name of a therapeutic ion in words; anything else as it is."""
    return ION_NAMES.get(name, name)
