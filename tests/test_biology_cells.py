"""Cell models against published survival, closed forms against quadrature, oxygen limits."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from ionrt import rbe
from ionrt.biology import TISSUES, coefficients, dose_at_survival, energy_at_let, lem1, oer_antonovic, survival
from ionrt.biology.lem import track_lethal_events
from ionrt.biology.moments import let_table
from ionrt.biology.oxygen import osmk21_resistance, osmk23_at
from ionrt.biology.tissues import Osmk23, saturation_z0
from ionrt.quantities import IonrtError
from ionrt.rbe.functions import osmk23

CHARGE = {"H": 1, "He": 2, "C": 6, "Ne": 10}
CONV = 0.1602176634


def rows(path):
    return list(csv.DictReader(line for line in Path(path).read_text().splitlines() if line and line[0] != "#"))


def numbers(ion, let, **how):
    table = coefficients(CHARGE[ion], energy_at_let(CHARGE[ion], let), let=let, **how)
    return {str(k): float(v) for k, v in table.items()}


def d10(ion, let, tissue="mkm_nirs"):
    return dose_at_survival(0.1, **numbers(ion, let, tissue=tissue))


def oer10(ion, let):
    anoxic, aerobic = (dose_at_survival(0.1, **numbers(ion, let, tissue="osmk21_hsg", po2=p)) for p in (0.0, 160.0))
    return anoxic / aerobic


def published():
    return rows(Path(__file__).parent / "reference" / "biology.csv")


@pytest.mark.parametrize("row", published(), ids=lambda r: f"{r['quantity']}-{r['ion']}-{r['let_keV_um']}")
def test_published_survival(row):
    model = {"d10_hsg": d10, "oer_hsg": oer10}[row["quantity"]]
    assert model(row["ion"], float(row["let_keV_um"])) == pytest.approx(float(row["value"]), rel=float(row["tolerance"]))


def test_all_published_d10(shared):
    for row in rows(shared("reference/biology/d10_hsg.csv")):
        assert d10(row["ion"], float(row["let_keV_um"])) == pytest.approx(float(row["d10_Gy"]), rel=0.05), row


def test_all_published_oer(shared):
    for row in rows(shared("reference/biology/oer_hsg.csv")):
        assert oer10(row["ion"], float(row["let_keV_um"])) == pytest.approx(float(row["oer"]), rel=0.06), row


def test_reference_beam_of_the_clinical_system():
    t = TISSUES["mkm_nirs"]
    assert t.alpha0 + t.beta0 * 9.63 == pytest.approx(0.764, rel=1e-3)
    assert dose_at_survival(0.1, alpha=0.764, beta=0.0615) == pytest.approx(2.508, rel=1e-3)
    assert dose_at_survival(0.1, alpha=0.313, beta=0.0615) == pytest.approx(4.082, rel=1e-3)
    assert t.z0 == pytest.approx(48.98, abs=0.005)
    assert saturation_z0(0.32, 3.9, 0.0615) == t.z0


@pytest.mark.parametrize("name", ["lem1_hsg", "lem1_chordoma"])
@pytest.mark.parametrize(("energy", "let"), [(142.557, 20.0), (9.36755, 184.131), (1.0, 650.0), (0.3, 700.0), (400.0, 11.0)])
def test_lem_closed_form_equals_quadrature(name, energy, let):
    t = TISSUES[name]
    r_max = max(t.r_max_coefficient * energy**1.7, t.core_radius)
    k = CONV * let / (math.pi * (1 + 2 * math.log(r_max / t.core_radius)))

    def lethal(r):
        dose = k / max(r, t.core_radius) ** 2
        linear = t.s_max * dose - t.beta_x * t.threshold**2
        return linear if dose > t.threshold else t.alpha_x * dose + t.beta_x * dose**2

    end = min(r_max, t.nucleus_radius)
    turn = min(max(math.sqrt(k / t.threshold), t.core_radius), end)
    total = math.pi * t.core_radius**2 * lethal(0.0)
    for a, b in ((t.core_radius, turn), (turn, end)):
        if b > a:  # on a logarithmic scale
            total += quad(
                lambda u: 2 * math.pi * math.exp(2 * u) * lethal(math.exp(u)), math.log(a), math.log(b), epsrel=1e-12
            )[0]
    got = track_lethal_events(np.array([energy]), np.array([let]), t)[0]
    assert got == pytest.approx(total, rel=1e-9)


def test_lem_table_of_another_code(shared):
    for row in rows(shared("reference/biology/lem1.csv")):
        got = lem1(CHARGE[row["ion"]], float(row["energy_MeV_u"]), let=float(row["let_keV_um"]), tissue="lem1_hsg")
        assert float(got.alpha) == pytest.approx(float(row["alpha_per_Gy"]), rel=0.004)
        assert float(got.beta) == pytest.approx(float(row["beta_per_Gy2"]), rel=0.004)


def test_lem_at_low_let_counts_the_dose_within_the_nucleus():
    t = TISSUES["lem1_hsg"]
    got = lem1(1, 900.0, let=1e-4, tissue=t)
    inside, whole = (1 + 2 * math.log(r / t.core_radius) for r in (t.nucleus_radius, t.r_max_coefficient * 900.0**1.7))
    assert float(got.alpha) == pytest.approx(t.alpha_x * inside / whole, rel=1e-4)
    # slope and transition dose are kept: alpha_z + 2 beta_z D_t = s_max
    assert float(got.alpha) + 2 * float(got.beta) * t.threshold == pytest.approx(t.s_max, rel=1e-3)


def at_pressure(tissue, po2):
    """The set itself, or for the OSMK of 2023 its set at this pressure."""
    return osmk23_at(tissue, po2=po2, z0_exponent=2.0) if isinstance(TISSUES[tissue], Osmk23) else tissue


@pytest.mark.parametrize("tissue", list(TISSUES))
def test_every_parameter_set_gives_survival_that_falls(tissue):
    chosen = at_pressure(tissue, po2=7.0)
    cell = coefficients(6, [20.0, 100.0, 400.0], let=[96.0, 26.3, 10.8], tissue=chosen)
    for i in range(3):
        c = {str(k): float(v[i]) for k, v in cell.items()}
        s = survival(np.linspace(0.0, 8.0, 50), **c)
        assert s[0] == 1.0
        assert (np.diff(s) < 0).all()
        assert survival(dose_at_survival(0.1, **c), **c) == pytest.approx(0.1, rel=1e-9)


@pytest.mark.parametrize("tissue", [n for n, t in TISSUES.items() if hasattr(t, "z0") and n[:3] != "mkm"])
@pytest.mark.parametrize("po2", [0.0, 160.0])
def test_second_order_term_is_small_for_every_particle(tissue, po2):
    """z_n (alpha^2 / 2 - beta) stays below alpha: no slope at low dose is negative (`ionrt.rbe.smk` counts from half of it)."""
    chosen, energy, charge = at_pressure(tissue, po2), np.geomspace(0.02, 400.0, 30), np.array([1, 2, 6, 8, 10])
    cell = coefficients(charge[:, None], energy, let=let_table(charge, energy).values, tissue=chosen, po2=po2)
    share = cell.zn * (0.5 * cell.alpha**2 - cell.beta) / cell.alpha
    assert float(share.max()) < 0.3


@given(st.floats(0.1, 500.0), st.floats(0.1, 500.0), st.floats(0.0, 100.0), st.floats(0.0, 100.0))
@settings(max_examples=80, deadline=None)
def test_oxygen_limits(l1, l2, p1, p2):
    low, high = sorted((l1, l2))
    few, many = sorted((p1, p2))
    anoxic = 1.10 + 1.82 * math.exp(-((low / 114.0) ** 2))
    assert float(oer_antonovic(low, po2=0.0)) == pytest.approx(anoxic, rel=1e-12)
    assert float(oer_antonovic(low, po2=1e12)) == pytest.approx(1.0, abs=1e-9)
    assert float(oer_antonovic(low, po2=few)) >= float(oer_antonovic(low, po2=many)) >= 1.0
    assert float(oer_antonovic(low, po2=few)) >= float(oer_antonovic(high, po2=few)) - 1e-12


def test_oer_in_air_is_near_one():
    # a swapped K and O in this formula gives 0.03 here
    assert float(oer_antonovic(2.0, po2=160.0)) == pytest.approx(1.01, abs=0.01)


@given(st.floats(0.0, 200.0), st.floats(0.0, 300.0), st.sampled_from(["osmk21_hsg", "osmk21_v79", "osmk21_cho"]))
@settings(max_examples=60, deadline=None)
def test_radioresistance_stays_between_one_and_its_maximum(zd, po2, tissue):
    r = osmk21_resistance(zd, po2=po2, tissue=tissue)
    assert 1.0 <= r <= TISSUES[tissue].r_m + 1e-9
    assert osmk21_resistance(0.0, po2=0.0, tissue=tissue) == pytest.approx(TISSUES[tissue].r_m)
    assert osmk21_resistance(zd, po2=1e12, tissue=tissue) == pytest.approx(1.0)


def test_osmk23_is_pure_and_has_its_limits():
    t = TISSUES["osmk23_cho"]
    before = repr(t)
    anoxic, aerobic = (osmk23_at(t, po2=p, z0_exponent=2.0) for p in (0.0, 1e12))
    assert repr(t) == before
    assert anoxic.domain_radius == pytest.approx(t.domain_radius / t.f_rd_max)
    assert anoxic.alpha0 == pytest.approx(t.alpha_s / t.r_max)
    assert (aerobic.domain_radius, aerobic.z0, aerobic.beta0) == pytest.approx((t.domain_radius, t.z0, t.beta0))
    assert osmk23_at(t, po2=0.0, z0_exponent=2.0) == anoxic
    for exponent in (1.0, 2.0):
        cell = osmk23_at(t, po2=0.0, z0_exponent=exponent)
        assert cell.z0 == pytest.approx(t.z0 * t.f_z0_max**exponent)
        assert cell.name.endswith(f"z0 exponent {exponent:g}")
    with pytest.raises(IonrtError, match="z0_exponent"):
        osmk23_at(t, po2=0.0, z0_exponent=0.0)
    with pytest.raises(IonrtError, match="osmk23_at"):
        coefficients(6, 100.0, let=26.3, tissue=t)


def test_no_parameter_set_holds_an_unconfirmed_constant():
    for tissue in TISSUES.values():
        assert tissue.confidence in ("1", "2+"), tissue.name
        assert "doi" in tissue.citation or tissue.name == "osmk23_cho", tissue.name
        values = [getattr(tissue, f.name) for f in dataclasses.fields(tissue)]
        assert all(np.isfinite(v) and v >= 0 for v in values if isinstance(v, float)), tissue.name


def test_an_unconfirmed_constant_has_no_default_and_the_docstring_says_so():
    """The one constant marked "?" in use: the exponent of f_z0 in the OSMK of 2023."""
    for function in (osmk23_at, osmk23):
        assert inspect.signature(function).parameters["z0_exponent"].default is inspect.Parameter.empty
        assert "UNCONFIRMED" in function.__doc__
        assert '(confidence "?")' in " ".join(function.__doc__.split())
    unconfirmed = [m for m in rbe.MODELS.values() if m.confidence == "?"]
    assert [m.name for m in unconfirmed] == ["osmk23"]
    assert unconfirmed[0].defaults["z0_exponent"] is None
    assert osmk23_at("osmk23_cho", po2=7.0, z0_exponent=2.0).confidence == "?"
    # a set with such a constant is a default of no model, and no dose system rests on one
    for model in rbe.MODELS.values():
        if isinstance(name := model.defaults.get("tissue"), str):
            assert TISSUES[name].confidence in ("1", "2+")
    assert "osmk23" not in {s.model for s in rbe.DOSE_SYSTEMS.values()}


def test_bad_input():
    with pytest.raises(IonrtError, match="lem1_hsg"):
        lem1(6, 100.0, let=26.3, tissue="lem1_hs")
    with pytest.raises(IonrtError, match="Lem1"):
        lem1(6, 100.0, let=26.3, tissue=TISSUES["smk_hsg"])
    with pytest.raises(IonrtError, match="po2"):
        oer_antonovic(10.0, po2=-1.0)
    with pytest.raises(IonrtError, match="between 0 and 1"):
        dose_at_survival(1.5, alpha=0.1, beta=0.05)
    with pytest.raises(IonrtError, match="keV/um"):
        energy_at_let(6, 1e5)
