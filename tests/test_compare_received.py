"""A received folder: the checklist stops where something is missing or contradicts, and names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from plan_fixtures import POINT_ROOM, synthetic_base

import ionrt
from ionrt.compare import dose_scope, gamma_table, receive
from ionrt.patient import read_dicom, write_phantom, write_rtdose
from ionrt.plan import Beam, Plan, recompute
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
    ours = recompute(received.patient, received.ion_plan, base=BASE, spacing=10.0, models=())["dose"]
    theirs = received.theirs("dose")
    assert dose_scope(theirs, ours, 16) == "fraction" and dose_scope(theirs * 16.0, ours, 16) == "course"
    with pytest.raises(IonrtError, match="neither one fraction nor 16"):
        dose_scope(theirs * 5.0, ours, 16)
    rates = gamma_table(theirs, ours, "x")["passing [%]"]
    assert rates.iloc[0] == 100.0 and rates.is_monotonic_decreasing


@pytest.mark.parametrize("key", STATED)
def test_stops_at_what_is_missing(came, key):
    with pytest.raises(IonrtError, match=rf"cannot be judged yet\. {key}: not in the files"):
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
    with pytest.raises(IonrtError, match=r"effective / physical is 0\.33: they seem to be swapped"):
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
    with pytest.raises(IonrtError, match="'system' is nothing that is asked for"):
        receive(copy, system="x")
    change(copy / "effective.dcm", PatientID="SOMEONE-ELSE")
    with pytest.raises(IonrtError, match="objects of 2 patients"):
        receive(copy)
    change(copy / "effective.dcm", PatientID="SYNTHETIC-HEAD")
    data = pydicom.dcmread(copy / "RN.dcm")
    frame = str(data.FrameOfReferenceUID)
    change(copy / "RN.dcm", FrameOfReferenceUID="1.2.3")
    with pytest.raises(IonrtError, match=r"belongs to frame of reference 1\.2\.3"):
        receive(copy)
    data.FrameOfReferenceUID = frame
    for point in data.IonBeamSequence[0].IonControlPointSequence:
        point.ScanSpotMetersetWeights = [0.0] * int(point.NumberOfScanSpotPositions)
    data.save_as(copy / "RN.dcm")
    with pytest.raises(IonrtError, match=r"no scan spots with a weight|spot"):
        receive(copy)
    (copy / "RN.dcm").unlink()
    with pytest.raises(IonrtError, match="expected one RT Ion Plan, found 0"):
        receive(copy)
