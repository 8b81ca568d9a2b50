"""The validation lines of `ionrt.beam.validation` against measurements and Monte Carlo, each with its target.

`MISSED` holds the lines whose target is not reached, with the bound that is: a regression test, not a pass.
`python benchmarks/beam.py validate` prints all of them with their targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from ionrt.beam import csda_range, stopping_power, validation
from ionrt.beam.physics.nuclear import cross_section, multiplicities, on_hydrogen

# line: bound that holds, in the unit of the line; the reasons are in docs/decisions/0020
MISSED = {
    "C 400 dose 4 to 27.3 cm, mean of 2.2 to 7.2 cm": 3.3,
    "C 400 dose at 2.2 cm, mean of 2.2 to 7.2 cm": 4.8,
    "C 400 dose 4 to 27.3 cm, fitted scale": 3.3,
    "C 400 dose at 2.2 cm, fitted scale": 4.8,
    "C 400 survival at 0.5 and 0.75 R": 6.0,
}


@pytest.mark.parametrize("section", validation.SECTIONS, ids=lambda s: s.__name__)
def test_lines(section: Callable[[], Iterable[validation.Line]]) -> None:
    lines = list(section())
    over = [f"{line.name}: {line.measured:.3f} > {line.target} {line.unit}" for line in lines if not line.reached]
    unexpected = [text for text in over if text.split(":")[0] not in MISSED]
    assert not unexpected
    for line in lines:
        assert line.measured <= MISSED.get(line.name, line.target), line.name


def test_helium_cross_sections_within_two_error_bars_of_every_measured_point() -> None:
    data = validation.read("total_cross_sections").query("ion == 'He' and error.notna() and energy < 500", engine="python")
    assert len(data) >= 24
    for row in data.itertuples():
        parts = {"CH2": (("C", 1), ("H", 2))}.get(row.target, ((row.target, 1),))
        kind = row.kind.replace("-", "_")
        ours = sum(n * float(cross_section("He", row.energy, target=t, kind=kind)[0]) for t, n in parts)
        assert abs(ours - row.value) <= 2 * row.error, (row.target, row.energy, kind, ours, row.value)


# EXFOR (CC BY 4.0): A1261, Sourkes 1976; O0451, Cairns 1964 (4 % for identification); O1011, De Vismes 2002; O2441, Horst 2019;
# A0925, Kozodaev 1960; O0744, Jaros 1978: MeV/u, mb, error
REACTIONS_ON_HYDROGEN = [
    (23.35, 51, 12), (24.45, 59, 11), (25.7, 57, 11), (27, 55, 10), (28, 64, 10), (30.2, 70, 9), (32.25, 73, 8),
    (34.1, 82, 7), (37, 95, 7), (39.6, 105, 6), (42.3, 107, 6), (44.7, 109, 6), (47.9, 114, 5), (53, 107.7, 6.1), (71, 137, 69),
    (81.1, 131, 6), (119, 117, 37), (213, 104, 35), (630, 126, 14), (870, 120, 6.2),
]  # fmt: skip
# nuclear part of the total; neutrons (11151, Measday 1966) by charge symmetry; protons: O0561, Schwaller 1979; A0493, Neumaier
# 2002; O0744
TOTAL_ON_HYDROGEN = [
    (77.2, 221.5, 3.1), (88.2, 195.1, 2.8), (110.0, 154.9, 2.2), (129.4, 136.0, 1.9), (150.9, 121.4, 1.7), (224, 106.3, 1.3),
    (273, 105.7, 1.3), (345, 106.8, 1.1), (413, 110.8, 1.2), (430, 112.8, 1.0), (491, 117.6, 1.5), (563, 123.7, 0.9),
    (702, 131.2, 1.5), (870, 142.7, 1.2),
]  # fmt: skip
# integrals of differential cross sections: E0077, Imai 1979; O1605, Burzynski 1989; C0053, Votta 1974; O0531, Nicholls 1972
# (32.5 beyond 10 degrees); O1564, Comparat 1975; D0376, Aslanides 1977
ELASTIC_ON_HYDROGEN = [(59.6, 171), (64.9, 148), (71.9, 124), (85, 98), (141, 39.5), (156, 38), (350, 26)]


def test_helium_reacts_with_hydrogen_as_measured_with_protons() -> None:
    for energy, value, error in REACTIONS_ON_HYDROGEN:
        assert abs(float(cross_section("He", energy, target="H")[0]) - value) <= 2 * error, energy
    for energy, value, error in TOTAL_ON_HYDROGEN:
        ours = float(cross_section("He", energy, target="H")[0]) + float(on_hydrogen("elastic", np.array(energy)))
        assert abs(ours - value) <= 2 * error, energy
    for energy, value in ELASTIC_ON_HYDROGEN:
        assert float(on_hydrogen("elastic", np.array(energy))) == pytest.approx(value, rel=0.1), energy
    assert float(cross_section("He", 22.9, target="H")[0]) == 0  # 18.35 MeV in the centre of mass open the first channel
    assert abs(float(cross_section("3He", 47.65, target="H")[0]) - 124) <= 2 * 5  # A1261


@pytest.mark.parametrize(  # EXFOR (CC BY 4.0) O0330, Carlson 1975; O0579, Ingemarsson 1999; O0213, Renberg 1972
    ("energy", "value", "error"),
    [
        (18.8, 531, 18), (22.0, 535, 15), (24.7, 548, 17), (27.6, 503, 14), (30.6, 487, 14), (34.8, 481, 13), (37.8, 461, 11),
        (43.2, 432, 12), (46.3, 418, 13), (65.5, 365, 15), (231, 295, 12), (345, 282, 14), (464, 288, 15), (552, 290, 15),
    ],
)  # fmt: skip
def test_protons_react_with_oxygen_as_measured(energy: float, value: float, error: float) -> None:
    assert abs(float(cross_section("p", energy, target="O")[0]) - value) <= 2 * error


# b, 12C of 95 MeV/u on hydrogen and oxygen (Dudouet 2013, table V; EXFOR O2170, CC BY 4.0): value and error
DUDOUET = {
    "3He": ((0.041, 0.004), (0.40, 0.05)), "4He": ((0.20, 0.08), (1.2, 0.4)),
    "6Li": ((0.012, 0.006), (0.074, 0.015)), "7Li": ((0.0080, 0.0018), (0.066, 0.014)),
}  # fmt: skip


@pytest.mark.parametrize(("light", "heavy"), [("3He", "4He"), ("6Li", "7Li")])
def test_isotopes_of_carbon_within_the_error_of_the_measurement(light: str, heavy: str) -> None:
    (a, error_a), (b, error_b) = ((2 * h + o, math.hypot(2 * dh, do)) for (h, dh), (o, do) in (DUDOUET[light], DUDOUET[heavy]))
    error, made = math.hypot(b * error_a, a * error_b) / (a + b) ** 2, multiplicities("12C")
    assert error < 0.1
    assert abs(made[light] / (made[light] + made[heavy]) - a / (a + b)) <= error


@pytest.mark.parametrize(
    ("ion", "energy", "power", "reach"),
    [("He", 1.0, 1021.0, 0.02737), ("C", 1.0, 6507.1, 0.017275), ("C", 5.0, 2750.0, 0.1413)],
)
def test_slow_ions_stop_as_icru_90_says(ion: str, energy: float, power: float, reach: float) -> None:
    """ICRU Report 90, electronic stopping power in MeV cm2/g and range in mm of water; 1 um for what is below the table."""
    assert float(stopping_power(ion, energy)[0]) == pytest.approx(power, rel=0.01)
    assert float(csda_range(ion, energy)[0]) == pytest.approx(reach, abs=1.1e-3)
