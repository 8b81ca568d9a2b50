"""Masses against published nuclear masses, and names."""

from __future__ import annotations

import pytest

from ionrt import ions
from ionrt.quantities import IonrtError


@pytest.mark.parametrize(
    ("symbol", "nuclear_mass_mev"),
    # CODATA 2018 (doi 10.1103/RevModPhys.93.025010): proton, deuteron, triton, helion, alpha particle
    [("1H", 938.27208816), ("2H", 1875.61294257), ("3H", 2808.92113298), ("3He", 2808.39160743), ("4He", 3727.3794066)],
)
def test_nuclear_masses_agree_with_codata(symbol, nuclear_mass_mev):
    # the atomic masses include the binding of the electrons, below 0.1 keV here
    assert ions.ISOTOPES[symbol].mass_u * ions.ATOMIC_MASS_UNIT == pytest.approx(nuclear_mass_mev, abs=2e-4)


def test_therapeutic_ions_are_the_isotopes_their_names_say():
    assert {n: (i.charge, i.mass_number) for n, i in ions.IONS.items()} == {
        "p": (1, 1), "He": (2, 4), "C": (6, 12), "O": (8, 16), "Ne": (10, 20),
    }  # fmt: skip


def test_all_isotopes_are_bound_nuclei_of_plausible_mass():
    for isotope in ions.ISOTOPES.values():
        assert 1 <= isotope.charge <= isotope.mass_number
        binding = (
            isotope.charge * ions.PROTON_MASS
            + (isotope.mass_number - isotope.charge) * 939.56542
            - isotope.mass_u * ions.ATOMIC_MASS_UNIT
        )
        assert -0.001 <= binding / isotope.mass_number < 8.8, isotope


def test_names():
    assert ions.get("C") is ions.get("12C")
    with pytest.raises(IonrtError, match="ion: 'carbon' does not exist; there are"):
        ions.get("carbon")
    with pytest.raises(IonrtError, match="expected a name"):
        ions.get(6)
