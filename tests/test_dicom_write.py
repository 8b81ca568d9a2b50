"""Writing RT dose: what other systems read back, and the validator's verdict."""

import os
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import xarray as xr

from ionrt.files import DiskError
from ionrt.patient import read_dicom, read_dose, regrid, write_phantom, write_rtdose
from ionrt.quantities import IonrtError


def errors(path):
    """Error lines of dciodvfy (dicom3tools); required in CI."""
    program = shutil.which("dciodvfy")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("dciodvfy is not installed (Debian package dicom3tools)")
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "the validator said nothing at all"
    return [line for line in lines if line.startswith("Error")]


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return read_dicom(write_phantom(tmp_path_factory.mktemp("write") / "dicom", pixel=10.0, slice_distance=10.0))


def quantity(patient, name, **attrs):
    grid = regrid(patient, spacing=(20.0, 10.0, 10.0))
    values = np.random.default_rng(3).uniform(0, 70, [grid.sizes[d] for d in ("z", "y", "x")]).astype(np.float32)
    return xr.DataArray(values, dims=("z", "y", "x"), coords={d: grid[d] for d in ("z", "y", "x")}, name=name, attrs=attrs)


@pytest.mark.parametrize(
    ("name", "attrs", "units", "kind"),
    [
        ("dose", {}, "GY", "PHYSICAL"),
        ("rbe_dose", {"rbe_model": "nirs_mkm"}, "GY", "EFFECTIVE"),
        ("let_d", {"let_definition": "charged"}, "RELATIVE", "PHYSICAL"),
    ],
)
def test_round_trip(patient, tmp_path, name, attrs, units, kind):
    da = quantity(patient, name, **attrs)
    path = write_rtdose(da, patient, tmp_path / "RD.dcm")
    raw = pydicom.dcmread(path)
    assert (raw.DoseUnits, raw.DoseType, raw.BitsAllocated) == (units, kind, 32)
    assert raw.PatientName == "SYNTHETIC^PELVIS" and raw.FrameOfReferenceUID == patient.attrs["frame_of_reference_uid"]
    assert raw.StudyInstanceUID == patient.attrs["study_instance_uid"]
    for element in raw:
        if element.VR == "DS":
            assert all(len(str(v)) <= 16 for v in np.atleast_1d(element.value)), element
    back = read_dose(path)
    assert back.name == name
    np.testing.assert_allclose(back, da, atol=70 / 2**32 + 4e-6)  # half a step of 32 bit, and float32 itself
    xr.testing.assert_allclose(back.coords.to_dataset(), da.coords.to_dataset().drop_attrs())
    for key, value in attrs.items():
        assert back.attrs[key] == value  # model and definition survive
        assert value in raw.DoseComment and value in raw.SeriesDescription
    if name == "let_d":
        assert raw.DoseSummationType == "PLAN" and "fraction" not in raw.DoseComment  # the same in every fraction
    else:
        assert raw.DoseSummationType == "FRACTION_SESSION" and raw.DoseComment.endswith("; per fraction")
    assert errors(path) == []


@pytest.mark.parametrize(("name", "attrs"), [("dose", {}), ("rbe_dose", {"rbe_model": "nirs_mkm"})])
def test_a_course_is_written_as_a_plan_with_its_total(patient, tmp_path, name, attrs):
    da = quantity(patient, name, **attrs)
    path = write_rtdose(da, patient, tmp_path / "RD.dcm", fractions=16)
    raw = pydicom.dcmread(path)
    assert raw.DoseSummationType == "PLAN" and "16 fractions" in raw.DoseComment
    assert float(raw.pixel_array.max()) * float(raw.DoseGridScaling) == pytest.approx(16 * float(da.max()), rel=1e-6)
    assert read_dose(path).attrs.get("rbe_model") == attrs.get("rbe_model")
    assert errors(path) == []
    total = pydicom.dcmread(write_rtdose(da, patient, tmp_path / "total.dcm", fractions=1))
    assert total.DoseSummationType == "PLAN" and "fraction" not in total.DoseComment


def test_fractions_and_arguments_are_checked(patient, tmp_path):
    dose = quantity(patient, "dose")
    for wrong in (0, -2, 1.5, True):
        with pytest.raises(IonrtError, match="whole number of at least 1"):
            write_rtdose(dose, patient, tmp_path / "RD.dcm", fractions=wrong)
    with pytest.raises(IonrtError, match="does not add up"):
        write_rtdose(quantity(patient, "let_d", let_definition="charged"), patient, tmp_path / "RD.dcm", fractions=16)
    with pytest.raises(IonrtError, match="expected DataArray as dose, got Dataset"):
        write_rtdose(patient, dose, tmp_path / "RD.dcm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "attrs"), [("dose", {}), ("rbe_dose", {"rbe_model": "nirs_mkm"}), ("let_d", {"let_definition": "charged"})]
)
def test_other_readers_see_the_same_values_in_the_same_place(patient, tmp_path, name, attrs):
    import SimpleITK as sitk

    da = quantity(patient, name, **attrs)
    path = write_rtdose(da, patient, tmp_path / "RD.dcm")
    raw = pydicom.dcmread(path)
    by_pydicom = raw.pixel_array * float(raw.DoseGridScaling)
    image = sitk.ReadImage(str(path))
    by_sitk = sitk.GetArrayFromImage(image).astype(float)
    # some versions apply the scaling of the dose grid, others leave the stored numbers
    by_sitk = by_sitk if by_sitk.max() < 1e4 else by_sitk * float(raw.DoseGridScaling)
    for values in (by_pydicom, by_sitk):
        assert np.abs(values - da.values).max() <= 1e-3 * float(da.max())
    np.testing.assert_allclose(image.GetOrigin(), [float(da[d][0]) for d in "xyz"], atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), [float(da[d][1] - da[d][0]) for d in "xyz"], atol=1e-4)


def test_extreme_values_stay_in_32_bit(patient, tmp_path):
    for value in (1e-9, 1.0 / 3.0, 123.456789, 0.0):
        da = quantity(patient, "dose") * 0 + value
        back = read_dose(write_rtdose(da.rename("dose"), patient, tmp_path / "RD.dcm"))
        np.testing.assert_allclose(back, np.float32(value), rtol=3e-7, atol=1e-15)


def test_same_dose_gives_the_same_file(patient, tmp_path):
    da = quantity(patient, "dose")
    one, two = (write_rtdose(da, patient, tmp_path / f"{k}.dcm").read_bytes() for k in range(2))
    assert one == two


def test_refuses_what_a_file_cannot_say(patient, tmp_path):
    path = tmp_path / "RD.dcm"
    for da, message in (
        (quantity(patient, "rbe_dose"), "without rbe_model"),
        (quantity(patient, "let_d"), "without let_definition"),
        (quantity(patient, "dose", units="keV/um"), "units='keV/um'"),
        (quantity(patient, "ct"), "'ct' does not exist"),
        (-quantity(patient, "dose"), "finite values >= 0"),
        (quantity(patient, "dose") * np.nan, "finite values >= 0"),
    ):
        with pytest.raises(IonrtError, match=message):
            write_rtdose(da, patient, path)
    with pytest.raises(IonrtError, match="dose_type: 'eff' does not exist"):
        write_rtdose(quantity(patient, "dose"), patient, path, dose_type="eff")
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_unnamed_array_needs_its_type(patient, tmp_path):
    da = quantity(patient, None)
    assert read_dose(write_rtdose(da, patient, tmp_path / "a.dcm", dose_type="physical")).name == "dose"


def test_source_that_moved(patient, tmp_path):
    gone = patient.assign_attrs(source=str(tmp_path / "gone"))
    with pytest.raises(IonrtError, match="does not exist"):
        write_rtdose(quantity(patient, "dose"), gone, tmp_path / "RD.dcm")
    assert write_rtdose(quantity(patient, "dose"), gone, tmp_path / "RD.dcm", source=patient.attrs["source"]).exists()


def test_failed_write_leaves_the_old_file(patient, tmp_path, monkeypatch):
    path = write_rtdose(quantity(patient, "dose"), patient, tmp_path / "RD.dcm")
    before = path.read_bytes()
    monkeypatch.setattr(pydicom, "dcmwrite", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(DiskError, match="disk full"):
        write_rtdose(quantity(patient, "dose") * 2, patient, path, dose_type="physical")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
