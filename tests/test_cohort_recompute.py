"""LETd and RBE-weighted dose that no file holds: recalculated from the ion plan while the feature table is made."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial

import pytest

import ionrt
from ionrt import cohort
from ionrt.patient import read_dicom

WANTED = {"structures": ["GTV"], "metrics": ["Mean", "D98", "D2"], "origin": "SYNTHETIC"}


@pytest.fixture(scope="module")
def studies(shared, tmp_path_factory):
    """The carbon study (140 to 190 MeV/u) with its physical dose, and the same without any dose."""
    root, source = tmp_path_factory.mktemp("studies"), shared("data/dicom/synthetic_carbon_study")
    for course, names in (("COURSE-1", ("RD_physical.dcm",)), ("COURSE-2", ())):
        shutil.copytree(source / "CT_plan", root / course / "CT_plan")
        for name in ("RS.dcm", "RN_C12.dcm", *names):
            shutil.copy(source / name, root / course / name)
    return root


@pytest.fixture(scope="module")
def tables(studies, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return {
        model: cohort.patient_features(
            studies, out, recompute=partial(cohort.recomputed, rbe_model=model, spacing=6.0), **WANTED
        )
        for model in ("NIRS_MMKM", "FIXED_1.1")
    }


def test_both_quantities_come_from_the_plan(tables):
    table = tables["NIRS_MMKM"]
    assert table.attrs["failures"].empty
    value = table.query("cid == 'COURSE-1'").set_index(["quantity", "metric"])["value"]
    assert value["dose", "Mean"] == pytest.approx(20.0, abs=0.05)  # imported, as stated for the study
    # the entrance of carbon at 190 MeV/u has 17 keV/um, nothing in water exceeds a few hundred
    assert 15 < value["let_d", "D98"] < value["let_d", "Mean"] < value["let_d", "D2"] < 400


def test_rows_say_what_they_rest_on(tables):
    table = tables["NIRS_MMKM"]
    got = set(table[["cid", "quantity", "source"]].itertuples(index=False, name=None))
    assert got == {
        ("COURSE-1", "dose", "imported"),
        ("COURSE-1", "let_d", "recomputed_scaled"), ("COURSE-1", "rbe_dose", "recomputed_scaled"),
        ("COURSE-2", "let_d", "recomputed"), ("COURSE-2", "rbe_dose", "recomputed"),
    }  # fmt: skip
    assert set(table.query("quantity == 'let_d'")["let_definition"]) == {"charged"}
    assert set(table.query("quantity == 'rbe_dose'")["rbe_model"]) == {"NIRS_MMKM"}
    made = cohort.synthetic(1, 1)
    cohort.validate(made | {"dose_metric": table.query("cid == 'COURSE-1'").assign(cid=made["course"]["cid"][0])})


def test_scaling_moves_the_dose_and_leaves_the_let(tables):
    """LETd is a quotient: the factor to the delivered dose drops out."""
    value = tables["NIRS_MMKM"].set_index(["quantity", "cid", "metric"])["value"]
    for metric in ("Mean", "D98", "D2"):
        assert value["let_d", "COURSE-1", metric] == pytest.approx(value["let_d", "COURSE-2", metric], rel=1e-5)
    assert value["rbe_dose", "COURSE-1", "Mean"] != pytest.approx(value["rbe_dose", "COURSE-2", "Mean"], rel=1e-3)


def test_another_model_is_computed_again(tables):
    """Carbon's RBE exceeds 1.1 everywhere in its Bragg peak; the partial's settings count for what is resumed."""
    first, second = (t.set_index(["cid", "quantity", "metric"])["value"]["COURSE-1"] for t in tables.values())
    assert second["rbe_dose", "Mean"] < first["rbe_dose", "Mean"]
    assert second["let_d", "Mean"] == first["let_d", "Mean"]


def test_fixed_rbe_is_the_delivered_dose_times_it(studies):
    """Where the high dose is, 1.1 times the field that was fitted to the physical dose, over all fractions."""
    folder = studies / "COURSE-1"
    patient = read_dicom(folder, lazy=True)
    _, dose = cohort.recomputed(patient, folder, rbe_model="FIXED_1.1", spacing=6.0)
    delivered = ionrt.cohort.features.imported_doses(patient, folder)["dose"]
    mine = dose.interp(z=delivered["z"], y=delivered["y"], x=delivered["x"])
    high = delivered >= 0.5 * delivered.max()
    # least squares: the residual is orthogonal to the field
    residual = (delivered - mine / 1.1).where(high & mine.notnull())
    assert abs(float((residual * mine).sum())) < 1e-4 * float((mine**2).where(high).sum())


def test_what_cannot_be_recomputed(studies):
    folder = studies / "COURSE-2"
    patient = read_dicom(folder, lazy=True)
    for said, message in (
        ({"rbe_model": "LEM_IV"}, "rbe_model"),
        ({"rbe_model": "FIXED_1.1", "parameters": {"rbe": 1.2}}, "no parameters"),
    ):
        with pytest.raises(ionrt.IonrtError, match=message):
            cohort.recomputed(patient, folder, **said)


def test_let_alone_needs_no_number_of_particles(shared, monkeypatch):
    """A plan in monitor units that states no beam dose still has an LETd, the same whatever the unit's worth."""
    folder = shared("data/dicom/synthetic_carbon_study")
    patient = read_dicom(folder / "CT_plan")
    (out,) = cohort.recomputed(patient, folder / "RN_C12.dcm", spacing=6.0)
    assert out.name == "let_d" and out.attrs["let_definition"] == "charged" and out.attrs["units"] == "keV/um"
    assert 10.0 < float(out.where(out > 0.0).median()) < 200.0
    plan = ionrt.patient.read_ion_plan(folder / "RN_C12.dcm")
    bare = replace(plan, beams=plan.beams.assign(meterset_unit="MU", beam_dose=float("nan")))
    monkeypatch.setattr(ionrt.patient, "read_ion_plan", lambda _: bare)
    (units,) = cohort.recomputed(patient, folder / "RN_C12.dcm", spacing=6.0)
    assert 10.0 < float(units.where(units > 0.0).median()) < 200.0
    with pytest.raises(ionrt.IonrtError, match="particles_per_mu="):
        cohort.recomputed(patient, folder / "RN_C12.dcm", rbe_model="NIRS_MMKM", spacing=6.0)
