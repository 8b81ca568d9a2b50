"""RT Ion Plans of two treatment planning systems and a synthetic carbon plan."""

import numpy as np
import pydicom
import pytest

from ionrt.patient import read_ion_plan
from ionrt.quantities import IonrtError


def test_proton_plan_of_the_head_study(shared):
    plan = read_ion_plan(shared("data/dicom/dcpt_headphantom_proton"))
    assert plan.fractions == 5
    assert list(plan.beams["layers"]) == [24, 19, 19]
    assert list(plan.beams["spots"]) == [659, 624, 624]  # spots with a weight
    np.testing.assert_allclose(plan.beams["final_weight"], [2888.35, 3073.6611, 2625.6278], rtol=1e-7)
    np.testing.assert_allclose(plan.spots.groupby("beam")["weight"].sum(), plan.beams["final_weight"], rtol=1e-6)
    np.testing.assert_allclose(plan.spots.groupby("beam")["meterset"].sum(), plan.beams["meterset"], rtol=1e-6)
    assert set(plan.beams["ion"]) == {"p"} and set(plan.beams["range_shifters"]) == {"RS_5CM"}
    assert set(plan.beams["source_x"]) == {2000.0} and set(plan.beams["source_y"]) == {2560.0}
    assert plan.beams["meterset"][0] == pytest.approx(5199.03)
    assert plan.layers["energy"][0] == pytest.approx(186.197)


def test_carbon_plan(shared):
    plan = read_ion_plan(shared("data/dicom/synthetic_carbon_study/RN_C12.dcm"))
    beam = plan.beams.iloc[0]
    assert (beam["ion"], beam["z"], beam["a"], beam["q"], beam["meterset_unit"]) == ("C", 6, 12, 6, "NP")
    assert list(plan.layers["spots"]) == [97] * 12 and plan.fractions == 20
    np.testing.assert_allclose(plan.layers["energy"], np.linspace(140, 190, 12), atol=5e-5)
    assert plan.spots["meterset"].sum() == pytest.approx(2.328e9, rel=1e-6)
    assert (beam["gantry_angle"], beam["isocentre_x"], beam["isocentre_y"], beam["isocentre_z"]) == (90.0, 30.0, -5.0, 6.0)


@pytest.mark.parametrize("name", ["plan01_sobp", "plan03_ramp_full"])
def test_other_plans_add_up(shared, name):
    plan = read_ion_plan(shared(f"data/dicom/rt_ion_plans/{name}"))
    np.testing.assert_allclose(plan.layers.groupby("beam")["weight"].sum(), plan.beams["final_weight"], rtol=1e-5)
    assert (plan.spots["weight"] > 0).all() and len(plan.spots) == plan.beams["spots"].sum()


def test_patient_position_and_table_angles(shared, tmp_path):
    path = shared("data/dicom/synthetic_carbon_study/RN_C12.dcm")
    places = ["patient_position", "table_pitch", "table_roll"]
    assert read_ion_plan(path).beams.iloc[0][places].tolist() == ["HFS", 0.0, 0.0]
    data = pydicom.dcmread(path)
    data.PatientSetupSequence[0].PatientPosition = "FFP"
    points = data.IonBeamSequence[0].IonControlPointSequence
    points[0].TableTopPitchAngle, points[-1].TableTopRollAngle = 359.0, 2.0
    data.save_as(tmp_path / "turned.dcm")
    assert read_ion_plan(tmp_path / "turned.dcm").beams.iloc[0][places].tolist() == ["FFP", -1.0, 2.0]
    points[-1].TableTopEccentricAngle, points[1].GantryPitchAngle = 3.0, 358.0
    points[2].GantryAngle, points[3].PatientSupportAngle = 85.0, 359.0
    data.save_as(tmp_path / "arc.dcm")
    further = ["table_eccentric", "gantry_pitch", "angle_change"]
    assert read_ion_plan(tmp_path / "arc.dcm").beams.iloc[0][further].tolist() == [3.0, -2.0, 5.0]
    assert read_ion_plan(path).beams.iloc[0][further].tolist() == [0.0, 0.0, 0.0]
    del data.PatientSetupSequence
    data.save_as(tmp_path / "unknown.dcm")
    assert read_ion_plan(tmp_path / "unknown.dcm").beams["patient_position"].tolist() == [""]


def test_what_is_no_ion_plan(shared, tmp_path):
    folder = shared("data/dicom/corner_cases/pydicom_rt")
    with pytest.raises(IonrtError, match="expected an RT Ion Plan, got RTPLAN"):
        read_ion_plan(folder / "rtplan.dcm")
    with pytest.raises(IonrtError, match="found 0"):
        read_ion_plan(tmp_path)
    with pytest.raises(IonrtError, match="does not exist"):
        read_ion_plan(tmp_path / "x.dcm")


def test_truncated_plan(shared, tmp_path):
    """Wherever the file ends early, it is an error and never a shorter plan."""
    whole = shared("data/dicom/synthetic_carbon_study/RN_C12.dcm").read_bytes()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        (tmp_path / "cut.dcm").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(IonrtError, match=r"truncated|no scan spots"):
            read_ion_plan(tmp_path / "cut.dcm")


def test_range_shifter_of_the_head_study(shared):
    beams = read_ion_plan(shared("data/dicom/dcpt_headphantom_proton")).beams
    np.testing.assert_allclose(beams["range_shifter"], 57.0)
    np.testing.assert_allclose(beams["range_shifter_distance"], [275.5312, 293.6173, 252.2347], atol=1e-3)
    assert list(read_ion_plan(shared("data/dicom/synthetic_carbon_study/RN_C12.dcm")).beams["range_shifter"]) == [0.0]
