"""A received folder: the checklist stops where something is missing or contradicts, and names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from plan_fixtures import POINT_ROOM, synthetic_base

import ionrt
from ionrt.compare import receive
from ionrt.patient import IncompleteWarning, read_dicom, write_phantom, write_rtdose
from ionrt.plan import Beam, Plan
from ionrt.quantities import IonrtError

STATED = {"calibration": "generic_ion", "machine": "SYNTHETIC", "dose_scope": "fraction"}
BASE = {"C": synthetic_base("C", energies=np.linspace(80.0, 330.0, 26))}


@pytest.fixture(scope="module")
def came(tmp_path_factory):
    """CT, structures, a carbon plan and its physical and effective dose (RBE 3, of no model)."""
    folder = write_phantom(tmp_path_factory.mktemp("came") / "dicom", anatomy="head", pixel=10.0, slice_distance=10.0)
    patient = read_dicom(folder)
    plan = Plan((Beam("C", 90.0, room=POINT_ROOM),), "CTV", 3.0, fractions=16, spacing=10.0, spot_spacing=8.0)
    dij = ionrt.influence(patient, plan, base=BASE)
    weights = np.full(dij.n_spots, 1e6)
    dose = ionrt.field(dij, weights, models=())["dose"]
    ionrt.write_ion_plan(plan, dij, weights, patient, folder / "RN.dcm")
    write_rtdose(dose, patient, folder / "physical.dcm")
    effective = (3.0 * dose).rename("rbe_dose").assign_attrs(units="Gy (RBE)", rbe_model="SYNTHETIC")
    write_rtdose(effective, patient, folder / "effective.dcm")
    return folder


@pytest.fixture
def copy(came, tmp_path):
    return Path(shutil.copytree(came, tmp_path / "copy"))


def change(path, **elements):
    data = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.save_as(path)


def test_complete_when_the_rest_is_stated(came):
    received = receive(came, **STATED)
    table = received.require()
    assert table.loc["dose_system", "found"] == "SYNTHETIC" and table.loc["fractions", "found"] == "16"
    assert (table["status"] == "stated").sum() == 3
    field = received.recomputed(base=BASE, spacing=10.0, models=())
    row = received.gamma_table(field).loc["plan"]
    assert row.iloc[0] == 100.0 and row.iloc[:3].is_monotonic_decreasing
    assert row["their dose"] == "is of one fraction, as stated" and row["ours / theirs"] == pytest.approx(1.0, abs=0.01)
    index = received.gamma_map(field)
    high = index.where(received.physical()["plan"] > 0.1 * received.physical()["plan"].max())
    assert 100 * float((high <= 1).sum() / high.notnull().sum()) == pytest.approx(row.iloc[0], abs=1e-3)
    course = receive(came, **STATED | {"dose_scope": "course"}).gamma_table(field).loc["plan", "their dose"]
    assert course == "is of one fraction, and not of one course as stated"
    odd = received.gamma_table(field.map(lambda da: 0.2 * da, keep_attrs=True)).loc["plan", "their dose"]
    assert odd.startswith("fits neither one fraction nor the course of 16")


@pytest.mark.parametrize("key", STATED)
def test_stops_at_what_is_missing(came, key):
    with pytest.raises(IonrtError, match=rf"cannot be judged yet\. {key}: (not in the files|the plan names)"):
        receive(came, **{k: v for k, v in STATED.items() if k != key}).require()


def test_fractions_missing(copy):
    data = pydicom.dcmread(copy / "RN.dcm")
    data.FractionGroupSequence[0].NumberOfFractionsPlanned = None
    data.save_as(copy / "RN.dcm")
    with pytest.raises(IonrtError, match=r"fractions: not in the plan; state fractions="):
        receive(copy, **STATED).require()
    assert receive(copy, fractions=16, **STATED).require().loc["fractions", "found"] == "16"


def test_dose_system_not_stated(copy):
    change(copy / "effective.dcm", DoseComment="", SeriesDescription="")
    with pytest.raises(IonrtError, match="dose_system: not in the files"):
        receive(copy, **STATED).require()
    assert receive(copy, dose_system="NIRS-mMKM", **STATED).require().loc["dose_system", "status"] == "stated"


def test_physical_and_effective_swapped(copy):
    change(copy / "physical.dcm", DoseType="EFFECTIVE")
    change(copy / "effective.dcm", DoseType="PHYSICAL")
    with (
        pytest.warns(IncompleteWarning, match="DoseType PHYSICAL, and its comment .* names an RBE"),
        pytest.raises(IonrtError, match=r"effective / physical is 0\.33: they seem to be swapped"),
    ):
        receive(copy, dose_system="x", **STATED).require()


def test_dose_of_another_plan_and_mixed_types(copy):
    other = pydicom.Dataset()
    other.ReferencedSOPClassUID, other.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.8", "1.2.3"
    change(copy / "physical.dcm", ReferencedRTPlanSequence=[other])
    with pytest.raises(IonrtError, match=r"physical\.dcm belong to another plan"):
        receive(copy, **STATED).require()
    change(copy / "physical.dcm", ReferencedRTPlanSequence=[], DoseSummationType="BEAM")
    with pytest.raises(IonrtError, match="plan and beam doses are of different kinds: dose, rbe_dose"):
        receive(copy, **STATED).require()


def test_several_patients_no_plan_no_spots(copy):
    with pytest.raises(IonrtError, match="'system' does not exist"):
        receive(copy, system="x")
    change(copy / "effective.dcm", PatientID="SOMEONE-ELSE")
    with pytest.raises(IonrtError, match=r"objects of 2 patients \(RTDOSE; CT and RTDOSE and RTPLAN and RTSTRUCT\)"):
        receive(copy, **STATED).require()
    change(copy / "effective.dcm", PatientID="SYNTHETIC-HEAD")
    data = pydicom.dcmread(copy / "RN.dcm")
    frame = str(data.FrameOfReferenceUID)
    change(copy / "RN.dcm", FrameOfReferenceUID="1.2.3")
    with pytest.raises(IonrtError, match=r"belongs to frame of reference 1\.2\.3"):
        receive(copy, **STATED).recomputed(base=BASE)
    data.FrameOfReferenceUID = frame
    for point in data.IonBeamSequence[0].IonControlPointSequence:
        point.ScanSpotMetersetWeights = [0.0] * int(point.NumberOfScanSpotPositions)
    data.save_as(copy / "RN.dcm")
    with pytest.raises(IonrtError, match=r"no scan spots with a weight|spot"):
        receive(copy)
    (copy / "RN.dcm").unlink()
    with pytest.raises(IonrtError, match="expected one RT Ion Plan, found 0"):
        receive(copy)


def test_unknown_machine_is_named(copy):
    data = pydicom.dcmread(copy / "RN.dcm")
    data.IonBeamSequence[0].TreatmentMachineName = "GTR-7"
    data.save_as(copy / "RN.dcm")
    without = {k: v for k, v in STATED.items() if k != "machine"}
    with pytest.raises(IonrtError, match="machine: the plan names GTR-7, of which there are no beams here"):
        receive(copy, **without).recomputed(base=BASE)
    assert receive(copy, **STATED).beams_table()["machine"].tolist() == ["GTR-7"]


def test_without_ct_the_rest_is_still_listed(copy):
    for path in copy.glob("CT*"):
        path.unlink()
    received = receive(copy, **STATED)
    assert received.patient is None and received.checklist.loc["doses", "status"] == "ok"
    assert received.checklist.loc["CT", "found"] == "none came: nothing to compute on"
    with pytest.raises(IonrtError, match=r"CT: none came.*structures: came, without a CT to lie on"):
        received.recomputed(base=BASE)


def test_two_planning_cts_ask_which(copy):
    for path in list(copy.glob("CT*")):
        data = pydicom.dcmread(path)
        data.SeriesInstanceUID += ".1"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{data.SOPInstanceUID}.1"
        data.save_as(copy / f"again_{path.name}")
    with pytest.raises(IonrtError, match=r"CT: 2 series came; say which is the planning CT: series="):
        receive(copy, **STATED).require()
    first = str(pydicom.dcmread(next(copy.glob("CT*"))).SeriesInstanceUID)
    assert receive(copy, series=first, **STATED).require().loc["CT", "status"] == "ok"


def test_doses_that_cannot_be_judged(copy):
    shutil.copy(copy / "physical.dcm", copy / "again.dcm")
    change(copy / "again.dcm", SOPInstanceUID="1.2.3.4")
    with pytest.raises(IonrtError, match="several plan doses of dose: keep the one that is meant"):
        receive(copy, **STATED).require()
    (copy / "again.dcm").unlink()
    (copy / "physical.dcm").unlink()
    with pytest.raises(IonrtError, match="physical dose: only RBE-weighted doses came"):
        receive(copy, **STATED).require()
    (copy / "effective.dcm").unlink()
    few = {k: v for k, v in STATED.items() if k != "dose_scope"}  # nothing to ask it of
    received = receive(copy, **few)
    assert received.require().loc["doses", "status"] == "absent"
    table = received.gamma_table(received.recomputed(base=BASE, spacing=12.0, models=()))
    assert table["their dose"].tolist() == ["did not come"]


def test_doses_of_beams_are_compared_beam_by_beam(copy):
    data = pydicom.dcmread(copy / "physical.dcm")
    data.DoseSummationType, data.SOPInstanceUID = "BEAM", "1.2.3.5"
    beam, group, plan = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    beam.ReferencedBeamNumber, group.ReferencedBeamSequence = 1, [beam]
    group.ReferencedFractionGroupNumber, plan.ReferencedFractionGroupSequence = 1, [group]
    plan.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.8"
    plan.ReferencedSOPInstanceUID = str(pydicom.dcmread(copy / "RN.dcm").SOPInstanceUID)
    data.ReferencedRTPlanSequence = [plan]
    data.save_as(copy / "beam.dcm")
    (copy / "effective.dcm").unlink()
    received = receive(copy, **STATED)
    table = received.gamma_table(received.recomputed(base=BASE, spacing=10.0, models=()))
    assert set(table.index) == {"plan", "C gantry 90"}
    np.testing.assert_allclose(table.iloc[0, :4].astype(float), table.iloc[1, :4].astype(float))


def test_without_ct_on_a_phantom_in_words(copy, shared):
    """What the sender says the plan was computed on: boxes, or structures that came; the page goes on."""
    for path in copy.glob("CT*"):
        path.unlink()
    stated = {k: v for k, v in STATED.items() if k != "calibration"}
    words = {
        "BODY": 1.0,
        "plate": {"spr": 1.6, "size": [10.0, 60.0, 60.0], "at": [40.0, 0.0, 0.0]},
        "TEST": {"size": [20, 20, 20]},
    }
    received = receive(copy, phantom=words, **stated)
    table = received.require()
    assert table.loc["CT", "status"] == "stated" and "BODY 1, plate 1.6" in table.loc["CT", "found"]
    spr = received.patient["spr"]
    assert float(spr.sel(x=40.0, y=0.0, z=0.0, method="nearest")) == pytest.approx(1.6)
    assert float(spr.min()) == pytest.approx(0.001) and float(received.image.max()) == pytest.approx(600.0, abs=1.0)
    volume = {str(s): float(received.patient["structures"].sel(structure=s).sum()) for s in ("plate", "TEST")}
    assert volume["plate"] / volume["TEST"] == pytest.approx(36.0 / 8.0, rel=1e-3)
    row = received.gamma_table(received.recomputed(base=BASE, spacing=10.0, models=())).loc["plan"]
    assert row["ours / theirs"] == pytest.approx(1.0, abs=0.3)
    for bad, why in (
        ({"x": 1.0}, "x is no structure that came"),
        ({"BODY": {"spr": 1.0, "size": [1, 1, 1]}}, "BODY came as a structure"),
        ({"a": {"size": [9, 9, 9]}}, "no part has a stopping-power ratio"),
        ({"a": {"size": [9, 9], "spr": 1.0}}, "expected three numbers"),
        ({"a": {"size": [9, 9, 9], "spr": "water"}}, "expected a number from 0 to 4, got 'water'"),
        ({7: {"size": [9, 9, 9], "spr": 1.0}}, "expected names of structures, got 7"),
        ({"a": {"side": 3}}, "side; expected spr, size, at"),
        ({"a": {"size": [[9], 9, 9], "spr": 1.0}}, r"size of a \[mm\]: expected a number from 1 to 2000, got \[9\]"),
        ({"a": {"size": [1500, 1500, 1500], "spr": 1.0}}, "1500 x 1500 x 1500 mm .* are too large"),
    ):
        with pytest.raises(IonrtError, match=why):
            receive(copy, phantom=bad, **stated)


def test_statements_on_gantry_and_identity(came, copy):
    change(copy / "effective.dcm", PatientID="RENUMBERED")
    table = receive(copy, identity="numbered anew on export", **STATED).checklist
    assert table.loc["patient", "status"] == "stated"
    assert "numbered anew" in table.loc["patient", "found"] and "RENUMBERED" not in table["found"].str.cat()
    turned = receive(came, gantry={1: 80.0}, **STATED)
    assert turned.beams_table()["gantry [deg]"].tolist() == [80.0]
    assert turned.require().loc["gantry", "found"] == "beam 1 from 80 degrees, 90 in the file (stated by the receiver)"
    with pytest.raises(IonrtError, match="beam: '7' does not exist"):
        receive(came, gantry={7: 80.0}, **STATED)
    with pytest.raises(IonrtError, match="a CT came"):
        receive(came, phantom={"BODY": 1.0}, **STATED)


@pytest.mark.parametrize("study", ["raystation", "eclipse"])
def test_shared_studies_without_ct_give_a_field(shared, study):
    """RayStation's boxes as its structure set has them; Eclipse's as its readme says; notebook 15 does the rest."""
    own = {"machine": "ionrt"}
    if study == "raystation":
        folder, target = shared("data/dicom/rt_ion_plans/plan03_ramp_full"), "Cube101010"
        own |= {"dose_scope": "fraction", "dose_system": "RBE-1.1", "identity": "numbered anew for irradiation"}
        more = {"phantom": {"External": 1.0, "PMMA": 1.16}, "gantry": {1: 0.0, 2: 180.0}}
    else:
        folder, target = shared("data/dicom/rt_ion_plans/plan01_sobp"), "PTV"
        block = {"spr": 1.0, "size": [300, 205, 300]}
        more = {"phantom": {"BODY": block, "PMMA": {"spr": 1.16, "size": [300, 5, 300]}, "PTV": {"size": [100, 100, 100]}}}
    received = receive(folder, **more, **own)
    received.require()
    assert target in received.patient["structure"].values
    solid = received.patient["spr"] > 0.5
    size = [float(received.patient[d][1] - received.patient[d][0]) * received.patient.sizes[d] for d in "zyx"]
    assert size == pytest.approx([205.0, 205.0, 205.0] if study == "raystation" else [300.0, 205.0, 300.0]) and bool(
        solid.all()
    )
