"""RT Ion Plans written: the validator's verdict, our reader, readers of others, the dose of what was read back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, synthetic_base
from test_dicom_write import errors

import ionrt
from ionrt.patient import read_dicom, read_ion_plan, write_phantom
from ionrt.plan import Beam, Plan, Room, recompute
from ionrt.plan.delivery import ion_plan_of
from ionrt.quantities import IonrtError

ENERGIES = np.linspace(80.0, 330.0, 26)


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return read_dicom(write_phantom(tmp_path_factory.mktemp("out") / "dicom", anatomy="head", pixel=10.0, slice_distance=10.0))


@pytest.fixture(scope="module")
def base():
    return {ion: synthetic_base(ion, energies=ENERGIES) for ion in ("p", "C")}


def made(patient, base, *beams, seed=1, **more):
    settings = {
        "target": "CTV",
        "prescription": 3.0,
        "fractions": 16,
        "spacing": 10.0,
        "model": "nirs_mkm",
        "spot_spacing": 8.0,
    }
    plan = Plan(beams, **{**settings, **more})
    dij = ionrt.influence(patient, plan, base=base)
    weights = np.random.default_rng(seed).uniform(0.0, 1e6, dij.n_spots)
    weights[::7] = 0.0
    return plan, dij, weights


@pytest.fixture(scope="module")
def written(patient, base, tmp_path_factory):
    beams = (
        Beam("C", 90.0, room=POINT_ROOM),
        Beam("C", 200.0, 30.0, room=POINT_ROOM, range_shifter=30.0),
        Beam("C", 0.0, room=POINT_ROOM, position="FFP", pitch=2.0, roll=-3.0, isocentre=(3.0, -2.0, 7.0)),
    )
    plan, dij, weights = made(patient, base, *beams)
    path = tmp_path_factory.mktemp("plan") / "RN.dcm"
    return plan, dij, weights, ionrt.write_ion_plan(plan, dij, weights, patient, path, label="SYNTHETIC C")


def test_validator_finds_no_error(written):
    assert errors(written[3]) == []


def test_our_reader_gets_the_same_plan(written, patient):
    _, dij, weights, path = written
    ours, back = ion_plan_of(dij, weights, patient), read_ion_plan(path)
    assert back.fractions == 16 and back.label == "SYNTHETIC C"
    assert back.frame_of_reference_uid == patient.attrs["frame_of_reference_uid"]
    np.testing.assert_array_equal(back.spots[["beam", "layer"]], ours.spots[["beam", "layer"]])
    np.testing.assert_allclose(back.spots[["x", "y"]], ours.spots[["x", "y"]], rtol=1e-7)
    np.testing.assert_allclose(back.spots["energy"], ours.spots["energy"], rtol=1e-12)
    np.testing.assert_allclose(back.spots[["weight", "meterset"]], ours.spots[["weight", "meterset"]], rtol=2e-7)
    assert back.spots["meterset"].sum() == pytest.approx(weights.sum(), rel=1e-7)
    same = ["gantry_angle", "couch_angle", "patient_position", "table_pitch", "table_roll", "range_shifter", "meterset_unit"]
    assert back.beams[same].to_dict() == ours.beams[same].to_dict()
    numbers = ["isocentre_x", "isocentre_y", "isocentre_z", "source_x", "source_y", "range_shifter_distance", "z", "a", "q"]
    np.testing.assert_allclose(back.beams[numbers], ours.beams[numbers], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(back.layers[["size_x", "size_y"]], ours.layers[["size_x", "size_y"]], rtol=1e-6)


def test_what_the_file_says(written, patient):
    raw = pydicom.dcmread(written[3])
    assert raw.DoseReferenceSequence[0].TargetPrescriptionDose == 48.0 and "nirs_mkm" in raw.RTPlanDescription
    assert raw.PatientName == "SYNTHETIC^HEAD" and raw.StudyInstanceUID == patient.attrs["study_instance_uid"]
    struct = pydicom.dcmread(next(p for p in (patient.attrs["source"] + "/RS.dcm",)))
    assert raw.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == struct.SOPInstanceUID
    for beam in raw.IonBeamSequence:
        assert beam.NumberOfControlPoints == len(beam.IonControlPointSequence) and beam.RadiationAtomicNumber == 6
        assert float(beam.FinalCumulativeMetersetWeight) == float(beam.IonControlPointSequence[-1].CumulativeMetersetWeight)


def test_dose_of_what_was_read_back(patient, base, tmp_path):
    """Planned and recomputed from the file: the same within 1 % of the maximum, range shifter or not.

    A file states the spot size at the isocentre only; the room's beam hardly diverges, so that this says all.
    """
    room = Room("test gantry", window_thickness=0.0)
    for shifter in (0.0, 30.0):
        beams = (Beam("C", 90.0, room=room, range_shifter=shifter), Beam("C", 180.0, room=room, isocentre=(2.0, 3.0, 4.0)))
        plan, dij, weights = made(patient, base, *beams, spacing=5.0)
        ours = ionrt.field(dij, weights, models=())["dose"]
        back = read_ion_plan(ionrt.write_ion_plan(plan, dij, weights, patient, tmp_path / "RN.dcm"))
        theirs = recompute(patient, back, base=base, spacing=5.0, models=())["dose"]
        xr.testing.assert_allclose(theirs.coords.to_dataset(), ours.coords.to_dataset())
        assert float(np.abs(theirs - ours).max()) < 0.01 * float(ours.max())


def test_protons_and_one_spot(patient, base, tmp_path):
    plan, dij, weights = made(patient, base, Beam("p", 90.0, room=POINT_ROOM))
    weights[1:] = 0.0
    weights[0] = 5.0
    path = ionrt.write_ion_plan(plan, dij, weights, patient, tmp_path / "RN.dcm")
    assert errors(path) == []
    back = read_ion_plan(path)
    assert back.beams["ion"].tolist() == ["p"] and len(back.spots) == 1 and back.spots["meterset"][0] == 5.0


def test_same_plan_gives_the_same_file(patient, base, tmp_path):
    plan, dij, weights = made(patient, base, Beam("C", 90.0, room=POINT_ROOM))
    one, two = (ionrt.write_ion_plan(plan, dij, weights, patient, tmp_path / f"{k}.dcm").read_bytes() for k in range(2))
    assert one == two


def test_refuses(patient, base, tmp_path):
    plan, dij, weights = made(patient, base, Beam("C", 90.0, room=POINT_ROOM))
    path = tmp_path / "RN.dcm"
    for bad in (weights[:-1], -weights, weights * np.nan, weights * 0.0):
        with pytest.raises(IonrtError, match="finite weights >= 0, not all zero"):
            ionrt.write_ion_plan(plan, dij, bad, patient, path)
    with pytest.raises(IonrtError, match="plan that the influence was made for"):
        ionrt.write_ion_plan(replace(plan, prescription=1.0), dij, weights, patient, path)
    other = patient.assign_attrs(frame_of_reference_uid="1.2.3")
    with pytest.raises(IonrtError, match=r"holds no CT series|frame of reference"):
        ionrt.write_ion_plan(plan, dij, weights, other.assign_attrs(series_instance_uid="9"), path)
    assert not path.exists()
