"""Stopping powers and ranges: published values, scaling laws, inverse, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ionrt
from ionrt.beam import csda_range, energy_for_range, stopping_power
from ionrt.beam.physics.nuclear import cross_section
from ionrt.ions import ISOTOPES

PUBLISHED = pd.read_csv(Path(__file__).parent / "reference" / "transport_published.csv", comment="#")


@pytest.mark.parametrize("row", list(PUBLISHED.itertuples()), ids=lambda r: f"{r.ion}-{r.energy_MeV_u}")
def test_published_values(row: object) -> None:
    ours = stopping_power(row.ion, row.energy_MeV_u)  # type: ignore[attr-defined]
    assert float(ours[0]) == pytest.approx(row.stopping_power, rel=3e-3)  # type: ignore[attr-defined]
    if np.isfinite(row.csda_range):  # type: ignore[attr-defined]
        reach = float(csda_range(row.ion, row.energy_MeV_u)[0])  # type: ignore[attr-defined]
        assert reach == pytest.approx(10 * row.csda_range, abs=0.15)  # type: ignore[attr-defined]


def test_same_velocity_same_stopping_and_range_in_proportion_to_mass() -> None:
    """Isotopes of one element stop alike at one velocity, so their ranges are as their masses."""
    energy = 100.0
    proton, triton = ISOTOPES["1H"], ISOTOPES["3H"]
    same = energy * triton.mass_per_nucleon / proton.mass_per_nucleon
    assert float(stopping_power("3H", same)[0]) == pytest.approx(float(stopping_power("1H", energy)[0]), rel=1e-9)
    ratio = float(csda_range("3H", same)[0] / csda_range("1H", energy)[0])
    assert ratio == pytest.approx(triton.mass_u / proton.mass_u, rel=1e-4)


def test_range_is_the_integral_of_the_stopping_power() -> None:
    """Independent quadrature of dE/S between two energies."""
    energy = np.linspace(100.0, 300.0, 4001)
    integrand = 12 / (0.1 * stopping_power("C", energy).values)
    expected = np.trapezoid(integrand, energy)
    assert float(csda_range("C", 300.0)[0] - csda_range("C", 100.0)[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ion", ["p", "He", "C", "O", "Ne", "11C", "7Li"])
def test_energy_for_range_inverts(ion: str) -> None:
    energy = np.array([5.0, 60.0, 200.0, 400.0])
    back = energy_for_range(ion, csda_range(ion, energy).values)
    np.testing.assert_allclose(back.values, energy, rtol=1e-5)


def test_units_and_names() -> None:
    assert stopping_power("C", 200.0).attrs["units"] == "MeV cm2/g"
    assert csda_range("C", 200.0).attrs["units"] == "mm"
    assert energy_for_range("C", 100.0).attrs["units"] == "MeV/u"


@pytest.mark.parametrize(
    "call",
    [
        lambda: stopping_power("Fe", 100.0),
        lambda: stopping_power("C", -1.0),
        lambda: stopping_power("C", 2000.0),
        lambda: csda_range("C", float("nan")),
        lambda: csda_range("C", "many"),
        lambda: energy_for_range("C", -3.0),
        lambda: energy_for_range("C", 1e6),
        lambda: cross_section("C", 200.0, target="Fe"),
        lambda: cross_section("C", 200.0, kind="total"),
    ],
)
def test_bad_input(call: object) -> None:
    with pytest.raises(ionrt.IonrtError):
        call()  # type: ignore[operator]
