"""From DICOM studies to rows of `dose_metric`: published values of the analytic study, failures listed, work resumed."""

from __future__ import annotations

import shutil
import threading

import dask
import pandas as pd
import pytest

import ionrt
from ionrt import cohort
from ionrt.patient import read_dose

SAID = {"rbe_model": "LEM_I", "let_definition": "charged", "origin": "SYNTHETIC"}


@pytest.fixture(scope="module")
def studies(shared, tmp_path_factory):
    """Two good studies (one without dose) and one that is no study."""
    root = tmp_path_factory.mktemp("studies")
    source = shared("data/dicom/synthetic_carbon_study")
    for cid, keep in (
        ("COURSE-1", ("CT_plan", "RS.dcm", "RD_physical.dcm", "RD_rbe.dcm", "RD_letd.dcm")),
        ("COURSE-2", ("CT_plan", "RS.dcm")),
    ):
        (root / cid).mkdir()
        for name in keep:
            copy = shutil.copytree if (source / name).is_dir() else shutil.copy
            copy(source / name, root / cid / name)
    (root / "COURSE-3").mkdir()
    (root / "COURSE-3" / "letter.txt").write_text("no images")
    return root


@pytest.fixture(scope="module")
def rows(studies, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, cohort.patient_features(studies, out, structures=["GTV"], metrics=["Mean", "D98", "D50", "D2"], **SAID)


def test_metrics_are_those_of_the_analytic_study(rows):
    """GTV of the synthetic study: dose and LETd are linear across a sphere, so the quantiles are known in closed form."""
    table = rows[1].query("cid == 'COURSE-1'").set_index(["quantity", "metric"])["value"]
    for metric, value in (("Mean", 60.000), ("D98", 49.019), ("D50", 60.000), ("D2", 70.981)):
        assert table["rbe_dose", metric] == pytest.approx(value, abs=0.15), metric
    for metric, value in (("Mean", 50.000), ("D98", 31.698), ("D2", 68.302)):
        assert table["let_d", metric] == pytest.approx(value, abs=0.25), metric


def test_rows_fit_the_dictionary(rows):
    tables = cohort.synthetic(1, 1)
    table = rows[1].assign(cid=tables["course"]["cid"][0])
    cohort.validate(tables | {"dose_metric": table})


def test_what_failed_is_listed_and_written(rows):
    out, table = rows
    failures = table.attrs["failures"].set_index("cid")
    assert set(failures.index) == {"COURSE-2", "COURSE-3"}
    assert "no dose" in failures.loc["COURSE-2", "why"]
    assert "COURSE-3" in failures.loc["COURSE-3", "why"]
    assert len(pd.read_csv(out / "failures.csv")) == 2
    assert len(pd.read_csv(out / "dose_metric.csv")) == len(table) == 3 * 4


def test_a_finished_course_is_not_computed_again(rows, studies, monkeypatch):
    out, table = rows
    seen = []
    import ionrt.cohort.features as features

    one = features._one
    monkeypatch.setattr(features, "_one", lambda folder, part, plan: seen.append(folder.name) or one(folder, part, plan))
    again = cohort.patient_features(studies, out, structures=["GTV"], metrics=["Mean", "D98", "D50", "D2"], **SAID)
    assert sorted(seen) == ["COURSE-2", "COURSE-3"]
    pd.testing.assert_frame_equal(again, table)


def test_dask_s_configuration_says_where_studies_are_read(tmp_path):
    ran = []

    def where(patient, folder):
        ran.append(threading.current_thread())

    for cid in "ABC":
        ionrt.write_phantom(tmp_path / "in" / cid, pixel=10.0, slice_distance=10.0)
    with dask.config.set(scheduler="synchronous"):
        cohort.patient_features(tmp_path / "in", tmp_path / "out", metrics=["Mean"], recompute=where, **SAID)
    assert ran == [threading.main_thread()] * 3


def test_a_dose_system_is_never_guessed(studies, tmp_path):
    table = cohort.patient_features(studies, tmp_path, structures=["GTV"], origin="SYNTHETIC")
    why = table.attrs["failures"].set_index("cid").loc["COURSE-1", "why"]
    assert "rbe_model=" in why or "let_definition=" in why
    assert table.empty


def test_a_structure_outside_the_dose_grid_or_absent_is_listed(studies, tmp_path):
    wanted = {"BODY": ["Mean"], "Heart": ["D2cc"], "GTV": ["V30keV/um", "V40Gy"]}
    table = cohort.patient_features(studies, tmp_path, metrics=wanted, **SAID)
    why = table.attrs["failures"].query("cid == 'COURSE-1'")
    assert why.loc[why["what"].eq("BODY"), "why"].str.contains("lie outside the grid").any()
    assert "no such structure" in set(why["why"])
    got = set(table[["metric", "quantity"]].itertuples(index=False, name=None))
    assert got == {("V40Gy", "dose"), ("V40Gy", "rbe_dose"), ("V30keV/um", "let_d")}


def test_bad_arguments(tmp_path):
    with pytest.raises(ionrt.IonrtError, match="sub-folder"):
        cohort.patient_features(tmp_path, tmp_path / "out")
    (tmp_path / "COURSE-1").mkdir()
    with pytest.raises(ionrt.IonrtError, match="metric"):
        cohort.patient_features(tmp_path, tmp_path / "out", metrics=["D95%"])
    with pytest.raises(ionrt.IonrtError, match="rbe_model"):
        cohort.patient_features(tmp_path, tmp_path / "out", rbe_model="GyE")


def doubled(patient, folder):
    """Stands for a recalculation from the plan: LETd of every voxel from what lies in the folder."""
    assert (folder / "RS.dcm").exists() and "structures" in patient
    let_d = read_dose(folder / "RD_letd.dcm")
    return [(2 * let_d).rename("let_d").assign_attrs(units="keV/um", let_definition="primary")]


def test_recomputed_arrays_take_the_place_of_imported_ones(studies, rows, tmp_path):
    """Only of the same quantity, with their own definition, and settings that differ compute again."""
    said = {k: v for k, v in SAID.items() if k != "let_definition"}
    wanted = {"structures": ["GTV"], "metrics": ["Mean", "D98"]}
    table = cohort.patient_features(studies, tmp_path, recompute=doubled, **wanted, **said)
    before = rows[1].set_index(["quantity", "metric"])["value"]
    after = table.query("cid == 'COURSE-1'").set_index(["quantity", "metric"])
    for metric in ("Mean", "D98"):
        assert after.loc[("let_d", metric), "value"] == pytest.approx(2 * before["let_d", metric], rel=1e-6)
        assert after.loc[("rbe_dose", metric), "value"] == before["rbe_dose", metric]
    assert set(after.loc["let_d", "let_definition"]) == {"primary"}
    plain = cohort.patient_features(studies, tmp_path, **wanted, **SAID)
    assert plain.query("quantity == 'let_d'")["value"].tolist() != table.query("quantity == 'let_d'")["value"].tolist()


def test_a_recalculation_that_fails_is_listed(studies, tmp_path):
    def broken(patient, folder):
        raise ionrt.IonrtError("no plan in the folder")

    table = cohort.patient_features(studies, tmp_path, recompute=broken, structures=["GTV"], **SAID)
    assert table.attrs["failures"]["why"].str.contains("no plan in the folder").sum() == 2


@pytest.mark.slow
def test_processes_give_the_same_rows(studies, rows, tmp_path):
    table = cohort.patient_features(
        studies, tmp_path, structures=["GTV"], metrics=["Mean", "D98", "D50", "D2"], processes=2, **SAID
    )
    pd.testing.assert_frame_equal(table, rows[1])
    assert len(table.attrs["failures"]) == 2
