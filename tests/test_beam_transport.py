"""Transport of one beam: conservation, consistency of LET, spectra and dose, options, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ionrt
from ionrt.beam import csda_range, energy_for_range, stopping_power, transport
from ionrt.beam.physics.emission import INDEX, whole_helium
from ionrt.beam.physics.nuclear import helium_recoil, multiplicities
from ionrt.ions import ELEMENTS, IONS, ISOTOPES

BEAMS = {"p": 120.0, "He": 120.0, "C": 220.0, "O": 250.0, "Ne": 280.0}


@pytest.fixture(scope="module", params=BEAMS)
def beam(request: pytest.FixtureRequest) -> xr.Dataset:
    ion = request.param
    reach = float(csda_range(ion, BEAMS[ion])[0])
    return transport(ion, BEAMS[ion], depth=np.arange(0, reach + 40, 0.5))


@pytest.mark.parametrize("symbol", [s for s in ISOTOPES if s != "1H"])
def test_a_reaction_makes_neither_charge_nor_nucleons(symbol: str) -> None:
    parent, out = ISOTOPES[symbol], multiplicities(symbol)
    assert min(out.values()) >= 0
    assert sum(v * ISOTOPES[k].charge for k, v in out.items()) <= parent.charge + 1e-9
    assert sum(v * ISOTOPES[k].mass_number for k, v in out.items()) <= parent.mass_number + 1e-9


@pytest.mark.parametrize("ion", BEAMS)
def test_energy_is_accounted_for(ion: str) -> None:
    """Dose to the last depth + neutral + carried beyond = incoming; fine steps so that the peak is integrated."""
    reach = float(csda_range(ion, BEAMS[ion])[0])
    ds = transport(ion, BEAMS[ion], depth=np.arange(0, reach + 30, 0.1))
    total = np.trapezoid(ds.dose.values.astype(float), ds.depth.values) + ds.attrs["energy_neutral"] + ds.attrs["energy_beyond"]
    assert total == pytest.approx(BEAMS[ion] * IONS[ion].mass_number, rel=1e-3)
    assert ds.attrs["energy_in"] == pytest.approx(BEAMS[ion] * IONS[ion].mass_number)


def test_dose_is_the_sum_of_its_origins(beam: xr.Dataset) -> None:
    np.testing.assert_allclose(beam.dose_by_origin.sum("origin"), beam.dose, rtol=1e-5)
    assert float(beam.dose_by_origin.min()) >= 0


def test_peak_lies_at_the_range(beam: xr.Dataset) -> None:
    reach = float(csda_range(beam.attrs["ion"], beam.attrs["energy"])[0])
    assert float(beam.depth[np.argmax(beam.dose.values)]) == pytest.approx(reach, abs=1.5)


def test_let_of_primaries_is_their_stopping_power(beam: xr.Dataset) -> None:
    ion, energy = beam.attrs["ion"], beam.attrs["energy"]
    reach = float(csda_range(ion, energy)[0])
    for share in (0.0, 0.3, 0.6):
        here = energy_for_range(ion, reach * (1 - share)).values
        expected = float(stopping_power(ion, here)[0]) / 10
        ours = float(beam.let_d.sel(let_definition="primary").interp(depth=share * reach))
        assert ours == pytest.approx(expected, rel=0.01)


def test_let_rises_to_the_peak_and_definitions_are_ordered(beam: xr.Dataset) -> None:
    before = beam.depth.values < float(csda_range(beam.attrs["ion"], beam.attrs["energy"])[0])
    primary = beam.let_d.sel(let_definition="primary").values[before]
    assert np.all(np.diff(primary) > 0)
    plateau = beam.depth.values < 0.6 * float(csda_range(beam.attrs["ion"], beam.attrs["energy"])[0])
    full = beam.let_d.sel(let_definition="charged_with_target").values[plateau]
    if beam.attrs["ion"] in ("p", "He", "C"):  # for O and Ne the slow target protons weigh as much as the recoils
        assert np.all(full > beam.let_d.sel(let_definition="charged").values[plateau])
    assert np.all(beam.let_d.values >= beam.let_t.values * 0.999)


def test_spectrum_gives_the_let_of_the_charged_definition(beam: xr.Dataset) -> None:
    """Contraction of the dose spectrum with the stopping power: the way every moment is made."""
    sum_let = np.zeros(beam.sizes["depth"])
    for charge in beam.charge.values:
        symbol = {1: "1H", 2: "4He", 3: "7Li", 4: "9Be", 5: "11B", 6: "12C", 7: "14N", 8: "16O", 9: "19F", 10: "20Ne"}[
            int(charge)
        ]
        let = stopping_power(symbol, beam.kinetic_energy.values).values / 10
        sum_let += beam.dose_spectrum.sel(charge=charge).values @ let
    before = (beam.depth.values > 5) & (
        beam.depth.values < 0.97 * float(csda_range(beam.attrs["ion"], beam.attrs["energy"])[0])
    )
    charged = beam.let_d.sel(let_definition="charged").values
    np.testing.assert_allclose(sum_let[before], charged[before], rtol=0.03)
    np.testing.assert_allclose(beam.dose_spectrum.sum(("charge", "kinetic_energy")), 1, rtol=1e-5)


def test_no_charge_above_the_projectile(beam: xr.Dataset) -> None:
    z = IONS[beam.attrs["ion"]].charge
    assert float(beam.dose_spectrum.sel(charge=slice(z + 1, None)).sum()) == 0
    assert list(beam.origin.values) == ["primary", *ELEMENTS[:z], "target"]


def test_primaries_only_become_fewer(beam: xr.Dataset) -> None:
    z = IONS[beam.attrs["ion"]].charge
    reach = float(csda_range(beam.attrs["ion"], beam.attrs["energy"])[0])
    count = beam.fluence.sel(charge=z).values[beam.depth.values < 0.9 * reach]
    if z > 1:
        assert np.all(np.diff(count) < 1e-4)
    assert float(beam.fluence.min()) >= 0


def test_range_shifter_moves_the_profile() -> None:
    depth = np.arange(0, 60, 0.5)
    plain = transport("C", 150.0, depth=depth + 10)
    shifted = transport("C", 150.0, depth=depth, range_shifter=10.0)
    np.testing.assert_allclose(shifted.dose.values, plain.dose.values, rtol=1e-6)


def test_ripple_filter_widens_the_peak_and_keeps_the_energy() -> None:
    depth = np.arange(0, 80, 0.1)
    sharp, wide = (transport("C", 150.0, depth=depth, ripple_sigma=s) for s in (0.0, 1.5))
    assert float(wide.dose.max()) < 0.7 * float(sharp.dose.max())
    assert np.trapezoid(wide.dose, depth) == pytest.approx(np.trapezoid(sharp.dose, depth), rel=2e-3)


def test_radioactive_isotope_as_beam() -> None:
    ds = transport("11C", 200.0, depth=np.arange(0, 90, 0.5))
    assert float(ds.depth[np.argmax(ds.dose.values)]) == pytest.approx(float(csda_range("11C", 200.0)[0]), abs=1)


def test_lateral_spread_falls_with_mass() -> None:
    """Same range of 100 mm: the heavier the ion, the narrower the core; the halo is wider than the core."""
    last = np.inf
    for ion in IONS:
        ds = transport(ion, float(energy_for_range(ion, 100.0)[0]), depth=np.arange(0, 101.0))
        sigma = float(ds.sigma.sel(depth=99))
        assert sigma < last
        assert bool((ds.halo_sigma >= ds.sigma).all()) and 0 <= float(ds.halo_weight.min()) <= float(ds.halo_weight.max()) <= 1
        last = sigma


@pytest.mark.parametrize(
    ("ion", "energy", "depth"),
    [
        ("Fe", 100.0, [0, 1]),
        ("C", 5.0, [0, 1]),
        ("p", 400.0, [0, 1]),
        ("C", 200.0, [-1, 1]),
        ("C", 200.0, [2, 1]),
        ("C", 200.0, []),
    ],
)
def test_bad_input(ion: str, energy: float, depth: list[float]) -> None:
    with pytest.raises(ionrt.IonrtError):
        transport(ion, energy, depth=depth)


def test_whole_helium_hands_its_loss_to_one_nucleon() -> None:
    """Elastic: energy of the slowed ion and of the recoil add up; nothing gains energy; the mean loss is the measured one."""
    energy = np.array([60.0, 150.0, 220.0])
    e = whole_helium(energy, nodes=400)
    helium = e.species == INDEX["4He"]
    mean = 0.5 * (e.low + e.high)
    assert np.all(e.low >= 0) and np.all(e.high <= np.maximum(energy[:, None], 0.64 * 4 * energy[:, None]) + 1e-9)
    np.testing.assert_allclose(e.number[:, helium].sum(1), 1.0)
    lost = 4 * (energy - (mean * e.number)[:, helium].sum(1))
    recoils = (mean * e.number)[:, ~helium].sum(1) / e.number[:, ~helium].sum(1)
    np.testing.assert_allclose(lost, recoils, rtol=1e-9)
    np.testing.assert_allclose(lost, helium_recoil(energy), rtol=0.02)


def test_core_of_helium_is_half_as_wide_as_that_of_protons_of_its_range() -> None:
    """Multiple scattering alone: the angle goes with Z / (A beta^2 gamma), half that of protons; 6 % for the formula."""
    depth = np.arange(0.0, 158.0, 2.0)
    protons, helium = (transport(ion, 150.0, depth=depth).sigma.values for ion in ("p", "He"))
    assert np.all(np.diff(helium) > -1e-6)
    np.testing.assert_allclose(helium[10:78], 0.5 * protons[10:78], rtol=0.07)


def test_slow_stopping_joins_the_formula_smoothly() -> None:
    for ion in ("He", "C", "O", "Ne", "7Li", "11B"):
        energy = np.geomspace(0.05, 20, 4000)
        slope = np.gradient(np.log(stopping_power(ion, energy).values), np.log(energy))
        assert np.abs(np.diff(slope)).max() < 0.01  # a jump of the value would be a spike of the slope


def test_neutrons_of_helium_give_energy_and_the_balance_closes() -> None:
    """What the neutrals take along falls with every slab that they cross; `test_energy_is_accounted_for` closes it."""
    short, long = (transport("He", 120.0, depth=np.arange(0, end, 0.1)) for end in (130.0, 330.0))
    assert long.attrs["energy_neutral"] < short.attrs["energy_neutral"]
