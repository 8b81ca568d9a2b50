"""Moment tables: contraction of dose spectra, checked on base data made of known particles."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ionrt.beam import stopping_power
from ionrt.biology import TISSUES, coefficients, specific_energy
from ionrt.biology.moments import NAMES, let_table, moment_tables
from ionrt.biology.oxygen import osmk23_at
from ionrt.quantities import IonrtError

ENERGY = np.array([100.0, 200.0])
KINETIC = np.geomspace(1.0, 400.0, 40)
CHARGE = np.arange(1, 11)
DEPTH = np.arange(0.0, 60.0, 0.5)
NODES = np.array([0.0, 10.0, 30.0, 50.0])


def base(shares):
    """SYNTHETIC base data with the dose of given particles: {(charge index, energy index): share at each node}."""
    spectrum = np.zeros((2, NODES.size, CHARGE.size, KINETIC.size), np.float32)
    for (z, e), share in shares.items():
        spectrum[:, :, z, e] += np.asarray(share, np.float32)
    let = np.stack([np.full((2, DEPTH.size), v, np.float32) for v in (10.0, 12.0, 14.0)])
    return xr.Dataset(
        {
            "dose_spectrum": (("energy", "node", "charge", "kinetic_energy"), spectrum),
            "spectrum_depth": (("energy", "node"), np.stack([NODES, NODES])),
            "let_d": (("let_definition", "energy", "depth"), let),
            "let_t": (("let_definition", "energy", "depth"), let / 2),
        },
        coords={
            "energy": ENERGY,
            "depth": DEPTH,
            "charge": CHARGE,
            "kinetic_energy": KINETIC,
            "let_definition": ["primary", "charged", "charged_with_target"],
        },
        attrs={"ion": "C"},
    )


CARBON, PROTON = (5, 20), (0, 30)


def particle(index):
    z, e = CHARGE[index[0]], KINETIC[index[1]]
    return int(z), float(e), float(let_table([z], [e])[0, 0])


def test_one_particle_gives_back_its_own_values():
    b, (z, e, let) = base({CARBON: 1.0}), particle(CARBON)
    t = TISSUES["smk_hsg"]
    expected = specific_energy(z, e, let=let, domain_radius=t.domain_radius, nucleus_radius=t.nucleus_radius, z0=t.z0)
    got = moment_tables(b, ["zstar_x_dose", "zd_x_dose", "zn_x_dose"], parameter_set="smk_hsg")
    for name, source in (("zstar_x_dose", "zstar"), ("zd_x_dose", "zd"), ("zn_x_dose", "zn")):
        np.testing.assert_allclose(got[name], float(expected[source]), rtol=1e-6)
        assert got[name].dims == ("energy", "depth")
        assert got[name].attrs["parameter_set"] == "smk_hsg"
    cell = coefficients(z, e, let=let, tissue="lem1_hsg")
    got = moment_tables(b, ["alpha_x_dose", "sqrt_beta_x_dose"], parameter_set="lem1_hsg")
    np.testing.assert_allclose(got.alpha_x_dose, float(cell.alpha), rtol=1e-6)
    np.testing.assert_allclose(got.sqrt_beta_x_dose**2, float(cell.beta), rtol=1e-6)


def test_mixture_is_the_dose_mean_and_linear_between_nodes():
    share = np.array([1.0, 0.8, 0.2, 0.0])
    b = base({CARBON: share, PROTON: 1 - share})
    values = [float(coefficients(z, e, let=s, tissue="mkm_nirs").alpha) for z, e, s in (particle(CARBON), particle(PROTON))]
    got = moment_tables(b, ["alpha_x_dose"], parameter_set="mkm_nirs").alpha_x_dose
    weight = np.interp(DEPTH, NODES, share)
    np.testing.assert_allclose(got, np.stack([weight * values[0] + (1 - weight) * values[1]] * 2), rtol=1e-5)


def test_let_of_charges_is_the_stopping_power():
    np.testing.assert_allclose(let_table([6], [10.0, 200.0])[0], stopping_power("C", [10.0, 200.0]) / 10, rtol=1e-12)
    np.testing.assert_allclose(let_table([1], [200.0, 10.0])[0], stopping_power("p", [10.0, 200.0])[::-1] / 10, rtol=1e-12)


def test_let_moments_come_from_the_base_data():
    got = moment_tables(base({CARBON: 1.0}), ["let_x_dose", "dose_per_let"], let_definition="primary")
    np.testing.assert_allclose(got.let_x_dose, 10.0)
    np.testing.assert_allclose(got.dose_per_let, 1 / 5.0)
    assert got.let_x_dose.attrs["let_definition"] == "primary"


def test_dose_above_a_threshold():
    b = base({CARBON: 0.25, PROTON: 0.75})
    carbon, proton = particle(CARBON)[2], particle(PROTON)[2]
    for threshold, expected in ((0.0, 1.0), (proton * 1.5, 0.25), (carbon * 1.5, 0.0)):
        got = moment_tables(b, ["high_let_dose"], let_threshold=threshold).high_let_dose
        np.testing.assert_allclose(got, expected, atol=1e-6)
        assert got.attrs["let_threshold"] == threshold
    # a threshold within the bin takes part of it
    part = moment_tables(b, ["high_let_dose"], let_threshold=carbon).high_let_dose
    assert 0.05 < float(part[0, 0]) < 0.2


def test_dose_above_thresholds_adds_up_to_the_mean_let():
    """The share of the dose above t, summed over all t, is the dose-averaged LET, whatever the spectrum."""
    b = base({CARBON: 0.25, PROTON: 0.6, (1, 15): 0.15})
    mean = 0.25 * particle(CARBON)[2] + 0.6 * particle(PROTON)[2] + 0.15 * particle((1, 15))[2]
    thresholds = np.concatenate([[0.0], np.geomspace(0.05, 300.0, 150)])
    above = [float(moment_tables(b, ["high_let_dose"], let_threshold=t).high_let_dose[0, 0]) for t in thresholds]
    assert (np.diff(above) <= 1e-6).all()
    assert np.trapezoid(above, thresholds) == pytest.approx(mean, rel=5e-3)


def test_another_stopping_power_moves_the_result():
    b = base({CARBON: 1.0})
    let = let_table(CHARGE, KINETIC).rename(energy="kinetic_energy")
    built_in, more = (
        moment_tables(b, ["zd_x_dose"], parameter_set="mkm_nirs", let=let * f).zd_x_dose[0, 0].item() for f in (1.0, 1.02)
    )
    assert built_in == pytest.approx(moment_tables(b, ["zd_x_dose"], parameter_set="mkm_nirs").zd_x_dose[0, 0].item())
    assert 1.0 < more / built_in < 1.1


def test_oxygen_model_of_2023_at_one_pressure():
    b = base({CARBON: 1.0})
    with pytest.raises(IonrtError, match="osmk23_at"):
        moment_tables(b, ["zstar_x_dose"], parameter_set="osmk23_cho")
    anoxic = moment_tables(b, ["zstar_x_dose"], parameter_set=osmk23_at("osmk23_cho", po2=0.0, z0_exponent=2.0))
    assert anoxic.zstar_x_dose.attrs["parameter_set"] == "osmk23_cho at 0 mmHg, z0 exponent 2"


def test_bad_input():
    b = base({CARBON: 1.0})
    with pytest.raises(IonrtError, match="zstar_x_dose"):
        moment_tables(b, ["zstar"], parameter_set="mkm_nirs")
    with pytest.raises(IonrtError, match="which cell"):
        moment_tables(b, ["zstar_x_dose"])
    with pytest.raises(IonrtError, match="cannot come from"):
        moment_tables(b, ["zstar_x_dose"], parameter_set="lem1_hsg")
    with pytest.raises(IonrtError, match="let_threshold"):
        moment_tables(b, ["high_let_dose"])
    with pytest.raises(IonrtError, match="let_definition"):
        moment_tables(b, ["let_x_dose"], let_definition="all")
    with pytest.raises(IonrtError, match="dose_spectrum"):
        moment_tables(b.drop_vars("dose_spectrum"), list(NAMES[3:4]), parameter_set="mkm_nirs")
    with pytest.raises(IonrtError, match="charge"):
        let_table([11], [100.0])
