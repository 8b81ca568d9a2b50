"""Isoeffect by hand, dose systems, and ensembles."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from rbe_fields import field

from ionrt.quantities import IonrtError
from ionrt.rbe import (
    DOSE_SYSTEMS,
    bands,
    convert,
    convert_prescription,
    ensemble,
    eqd2,
    nirs_mkm,
    oxygen_weighted_dose,
    wedenberg,
)
from ionrt.rbe.isoeffect import bed, eqdx
from ionrt.rbe.systems import dose_in_system


def test_isoeffect_by_hand():
    d = xr.DataArray(np.array([2.0, 4.6]), dims="x", attrs={"units": "Gy (RBE)", "rbe_model": "nirs_mkm"})
    np.testing.assert_allclose(bed(d, fractions=12, alpha_beta=3.0), 12 * np.array([2 * (1 + 2 / 3), 4.6 * (1 + 4.6 / 3)]))
    np.testing.assert_allclose(eqd2(d, fractions=12, alpha_beta=3.0)[0], 24.0)  # already 2 Gy fractions
    np.testing.assert_allclose(eqdx(d, fractions=12, alpha_beta=3.0, fraction_size=4.6)[1], 12 * 4.6)
    assert bed(d, fractions=12, alpha_beta=3.0).attrs["rbe_model"] == "nirs_mkm"
    # the same BED in any fraction size
    total = eqdx(d, fractions=12, alpha_beta=3.0, fraction_size=1.5)
    np.testing.assert_allclose(total * (1 + 1.5 / 3), bed(d, fractions=12, alpha_beta=3.0))


def test_isoeffect_refuses_nonsense():
    d = xr.DataArray(np.array([2.0]), dims="x")
    for change, message in (
        ({"fractions": 0}, "fractions"),
        ({"fractions": 2.5}, "fractions"),
        ({"alpha_beta": 0.0}, "alpha_beta"),
    ):
        with pytest.raises(IonrtError, match=message):
            bed(d, **{"fractions": 10, "alpha_beta": 3.0, **change})
    with pytest.raises(IonrtError, match="cGy"):
        eqd2(d.assign_attrs(units="cGy"), fractions=10, alpha_beta=3.0)


def test_hypoxic_cells_need_more():
    f = field("wedenberg")
    let = (f.let_x_dose / f.dose).assign_attrs(let_definition="charged")
    rbe_dose = wedenberg(f, alpha_beta=3.0)
    anoxic = oxygen_weighted_dose(rbe_dose, let, po2=0.0)
    assert (anoxic < rbe_dose).all()
    np.testing.assert_allclose(oxygen_weighted_dose(rbe_dose, let, po2=1e9), rbe_dose, rtol=1e-6)
    assert "oxygen" in anoxic.attrs["rbe_model"]


def test_conversion_is_recalculation():
    f = xr.merge([field("nirs_mkm"), field("lem1").drop_vars("dose")])
    out = convert(f, source="LEM-I", target="NIRS-mMKM")
    np.testing.assert_allclose(out.target, nirs_mkm(f))
    np.testing.assert_allclose(out.factor * out.source, out.target, rtol=1e-6)
    assert out.source.attrs["dose_system"] == "LEM-I"


def test_systems_without_a_formula_say_why():
    assert set(DOSE_SYSTEMS) == {"NIRS-mMKM", "NIRS-Kanai", "SMK", "LEM-I", "LEM-IV", "RBE-1.1"}
    for name in ("NIRS-Kanai", "LEM-IV"):
        with pytest.raises(IonrtError, match="cannot be computed"):
            dose_in_system(field("nirs_mkm"), name)


def test_published_prescription_factor():
    got = convert_prescription(3.0, source="LEM-I", target="NIRS-mMKM")
    assert got.dose_per_fraction == pytest.approx(3.0 / 1.37)
    assert (got.low, got.high) == pytest.approx((3.0 / 1.39, 3.0 / 1.35))  # the published 95 % limits
    assert "fallback" in got.label
    boost = convert_prescription(2.70, source="LEM-I", target="NIRS-mMKM")
    assert (boost.low, boost.dose_per_fraction, boost.high) == pytest.approx((2.7 / 1.51, 2.7 / 1.46, 2.7 / 1.41))
    between = convert_prescription(2.85, source="LEM-I", target="NIRS-mMKM")
    assert 1.37 < 2.85 / between.dose_per_fraction < 1.46
    back = convert_prescription(got.dose_per_fraction, source="NIRS-mMKM", target="LEM-I")
    assert back.dose_per_fraction == pytest.approx(3.0, rel=1e-9)
    for wrong in (
        {"dose_per_fraction": 1.0, "source": "LEM-I", "target": "NIRS-mMKM"},
        {"dose_per_fraction": 3.0, "source": "LEM-IV", "target": "NIRS-mMKM"},
    ):
        with pytest.raises(IonrtError, match="recalculate"):
            convert_prescription(wrong.pop("dose_per_fraction"), **wrong)


def test_ensemble_is_lazy_and_each_sample_is_the_model():
    f = field("nirs_mkm")
    out = ensemble(f, "nirs_mkm", samples={"clinical_factor": [2.3, 2.5], "zstar_x_dose": [1.0, 1.03]})
    assert out.dims[0] == "sample"
    assert out.chunks is not None
    assert out.chunks[0] == (1, 1)
    np.testing.assert_allclose(out[0], nirs_mkm(f, clinical_factor=2.3), rtol=1e-6)
    scaled = f.assign(zstar_x_dose=f.zstar_x_dose * np.float32(1.03))
    np.testing.assert_allclose(out[1], nirs_mkm(scaled, clinical_factor=2.5), rtol=1e-6)
    low, middle, high = bands(out).compute().values
    assert ((low < middle) & (middle < high)).all()
    assert bands(out).attrs["units"] == "Gy (RBE)"


def test_ensemble_of_cell_coefficients():
    f = field("nirs_mkm")
    out = ensemble(f, "nirs_mkm", samples={"alpha0": [0.172, 0.2]})
    np.testing.assert_allclose(out[0], nirs_mkm(f), rtol=1e-6)
    assert (out[1] > out[0]).all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"z0": [40.0]}, "moment_tables"),
        ({"alpha": [0.1]}, "alpha0"),
        ({"alpha0": [0.1], "beta0": [0.1, 0.2]}, "equally many"),
        ({}, "equally many"),
    ],
)
def test_ensemble_refuses(samples, message):
    with pytest.raises(IonrtError, match=message):
        ensemble(field("nirs_mkm"), "nirs_mkm", samples=samples)
