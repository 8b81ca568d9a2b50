"""Reading DICOM: the good folder, and each kind of bad one."""

import os
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import xarray as xr

from ionrt.patient import IncompleteWarning, read_dicom, read_dose, volumes, write_phantom, write_rtdose
from ionrt.quantities import IonrtError


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A coarse phantom: 25 slices of 51 x 35 voxels."""
    return write_phantom(tmp_path_factory.mktemp("coarse") / "dicom", pixel=8.0, slice_distance=8.0)


@pytest.fixture
def folder(phantom, tmp_path):
    """A copy of it to spoil."""
    return Path(shutil.copytree(phantom, tmp_path / "dicom"))


def slices(folder):
    return sorted(folder.glob("CT.*.dcm"))


def edit(path, change):
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)


def edit_all(folder, change):
    for k, path in enumerate(slices(folder)):
        edit(path, lambda data, k=k: change(data, k))


def test_grid_units_and_provenance(phantom):
    p = read_dicom(phantom)
    assert p.ct.dims == ("z", "y", "x") and p.ct.dtype == np.float32 and p.ct.attrs["units"] == "HU"
    for dim in ("z", "y", "x"):
        assert (np.diff(p[dim]) > 0).all() and p[dim].attrs["units"] == "mm"
    affine = np.reshape(p.attrs["affine"], (4, 4))
    np.testing.assert_allclose(affine @ [3, 4, 5, 1], [p.x[3], p.y[4], p.z[5], 1])
    assert p.attrs["frame_of_reference_uid"] == p.ct.attrs["frame_of_reference_uid"] != ""
    assert p.attrs["content_hash"] == read_dicom(phantom).attrs["content_hash"]
    assert "SYNTHETIC^PELVIS" not in str(p.attrs)  # a Dataset carries no patient name


def test_hounsfield_by_rescale(folder):
    before = read_dicom(folder).ct

    def rescale(data, _):
        data.PixelData = (data.pixel_array.astype("<i2") + 1024).astype("<i2").tobytes()
        data.RescaleIntercept = "-1024"

    edit_all(folder, rescale)
    np.testing.assert_array_equal(read_dicom(folder).ct, before)

    def halve(data, _):
        data.RescaleSlope, data.RescaleIntercept = "0.5", "-512"

    edit_all(folder, halve)
    np.testing.assert_allclose(read_dicom(folder).ct, before / 2)


def test_names_order_and_strangers_do_not_matter(folder):
    before = read_dicom(folder)
    rng = np.random.default_rng(1)
    (folder / "deep").mkdir()
    for path, number in zip(slices(folder), rng.permutation(1000), strict=False):
        path.rename(folder / "deep" / f"{number}")  # no extension, other order
    (folder / "notes.txt").write_text("not DICOM")
    (folder / "zero.dcm").write_bytes(b"")
    after = read_dicom(folder)
    np.testing.assert_array_equal(after.ct, before.ct)
    assert after.attrs["content_hash"] == before.attrs["content_hash"]


def test_flipped_stack_is_turned_without_interpolation(folder):
    before = read_dicom(folder)

    def prone(data, _):  # columns run to the right, rows to the front
        position = [float(v) for v in data.ImagePositionPatient]
        data.PixelData = np.ascontiguousarray(data.pixel_array[::-1, ::-1]).tobytes()
        data.ImagePositionPatient = [position[0] + 8.0 * (data.Columns - 1), position[1] + 8.0 * (data.Rows - 1), position[2]]
        data.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]

    edit_all(folder, prone)
    after = read_dicom(folder)
    np.testing.assert_array_equal(after.ct, before.ct)
    np.testing.assert_allclose(volumes(after), volumes(before), rtol=1e-6)
    assert "flipped along y, x" in after.attrs["orientation"]


def test_sagittal_series_is_permuted(tmp_path, phantom):
    before = read_dicom(phantom)
    template = pydicom.dcmread(slices(phantom)[0])
    stored = before.ct.values.astype("<i2")
    out = tmp_path / "sagittal"
    out.mkdir()
    for i, x in enumerate(before.x.values):
        data = template
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{i}"
        data.ImagePositionPatient = [float(x), float(before.y[0]), float(before.z[-1])]
        data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        data.Rows, data.Columns = stored.shape[:2]
        data.PixelData = np.ascontiguousarray(stored[::-1, :, i]).tobytes()
        data.save_as(out / f"{i}")
    after = read_dicom(out)
    np.testing.assert_array_equal(after.ct, before.ct)
    assert "permuted" in after.attrs["orientation"]


def test_engine_opens_lazily_and_gives_the_same(phantom):
    lazy = xr.open_dataset(phantom, engine="dicom-rt")
    assert not lazy.ct.variable._in_memory and not lazy.structures.variable._in_memory
    assert xr.open_dataset(phantom, engine="dicom-rt", chunks={}).structures.chunks[0] == (1,) * 13
    np.testing.assert_array_equal(lazy.ct.values, read_dicom(phantom).ct.values)
    assert "ct" not in xr.open_dataset(phantom, engine="dicom-rt", drop_variables="ct")


# --- bad input: one clear error each


def test_empty_folder(tmp_path):
    with pytest.raises(IonrtError, match="empty"):
        read_dicom(tmp_path)
    with pytest.raises(IonrtError, match="does not exist"):
        read_dicom(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(IonrtError, match="none of them DICOM"):
        read_dicom(tmp_path)


def test_no_ct(folder):
    for path in slices(folder):
        path.unlink()
    with pytest.raises(IonrtError, match=r"no CT series.*RTSTRUCT"):
        read_dicom(folder)


def test_two_series_are_listed_and_one_can_be_chosen(folder, tmp_path):
    first = str(pydicom.dcmread(slices(folder)[0]).SeriesInstanceUID)
    shutil.copytree(folder, folder / "second", ignore=shutil.ignore_patterns("RS.dcm"))
    edit_all(folder / "second", lambda data, k: setattr(data, "SeriesInstanceUID", "1.2.3.4"))
    with pytest.raises(IonrtError, match=r"found 2.*1\.2\.3\.4 \(25 slices.*series="):
        read_dicom(folder)
    assert read_dicom(folder, series="1.2.3.4").attrs["series_instance_uid"] == "1.2.3.4"
    assert read_dicom(folder, series=first).sizes["structure"] > 5
    with pytest.raises(IonrtError, match="no CT series '9'"):
        read_dicom(folder, series="9")


def test_missing_slice(folder):
    slices(folder)[10].unlink()
    with pytest.raises(IonrtError, match=r"8 mm, but 16 mm between.*missing"):
        read_dicom(folder)


def test_duplicate_slice(folder):
    """A copy counts once; another image at the same place is refused."""
    before = read_dicom(folder)
    again = shutil.copy(slices(folder)[3], folder / "again.dcm")
    shutil.copy(folder / "RS.dcm", folder / "RS copy.dcm")
    found = read_dicom(folder)
    assert found.drop_attrs().identical(before.drop_attrs()) and "2 files equal to another" in found.attrs["left_out"]
    data = pydicom.dcmread(again)
    data.SOPInstanceUID += ".1"
    data.save_as(again)
    with pytest.raises(IonrtError, match="share a position"):
        read_dicom(folder)


def test_gantry_tilt(folder):
    def shear(data, k):
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, float(y) + 8.0 * k * np.tan(np.radians(14)), z]

    edit_all(folder, shear)
    with pytest.raises(IonrtError, match=r"14\.0 degrees \(gantry tilt\)"):
        read_dicom(folder)


def test_oblique(folder):
    c, s = np.cos(np.radians(5)), np.sin(np.radians(5))
    edit_all(
        folder,
        lambda data, k: setattr(data, "ImageOrientationPatient", [f"{c:.9f}", f"{s:.9f}", 0, f"{-s:.9f}", f"{c:.9f}", 0]),
    )
    with pytest.raises(IonrtError, match=r"5\.0 degrees.*oblique"):
        read_dicom(folder)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, -1]),
        ("PixelSpacing", [8, 7]),
        ("Rows", 30),
        ("FrameOfReferenceUID", "1.2.3"),
        ("PatientPosition", "FFS"),
    ],
)
def test_mixed_series(folder, keyword, value):
    edit(slices(folder)[5], lambda data: setattr(data, keyword, value))
    with pytest.raises(IonrtError, match=f"mixed {keyword}"):
        read_dicom(folder)


def test_truncated_slice(folder):
    path = slices(folder)[4]
    os.truncate(path, path.stat().st_size - 500)
    with pytest.raises(IonrtError, match=rf"{path.name}.*truncated"):
        read_dicom(folder)


def test_slice_cut_in_the_header(folder):
    path = slices(folder)[4]
    os.truncate(path, 700)
    with pytest.raises(IonrtError, match=rf"{path.name}.*truncated|missing"):
        read_dicom(folder)


def test_missing_position(folder):
    edit(slices(folder)[4], lambda data: delattr(data, "ImagePositionPatient"))
    with pytest.raises(IonrtError, match="ImagePositionPatient is missing"):
        read_dicom(folder)


def test_one_slice_only(folder):
    for path in slices(folder)[1:]:
        path.unlink()
    with pytest.raises(IonrtError, match="one slice only"):
        read_dicom(folder)


def test_structure_set_of_another_frame(folder):
    def move(data):
        data.FrameOfReferenceUID = data.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"

    edit(folder / "RS.dcm", move)
    with pytest.raises(IonrtError, match=r"RS\.dcm.*frame of reference 1\.2\.3"):
        read_dicom(folder)


def test_two_structure_sets(folder):
    shutil.copy(folder / "RS.dcm", folder / "RS2.dcm")
    edit(folder / "RS2.dcm", lambda data: setattr(data, "SOPInstanceUID", "1.2.3"))
    with pytest.raises(IonrtError, match=r"2 structure sets fit.*structure_set="):
        read_dicom(folder)
    assert "structures" in read_dicom(folder, structure_set="1.2.3")


def test_broken_references_warn_only(folder):
    def wrong(data):
        for roi in data.ROIContourSequence:
            for contour in roi.ContourSequence:
                contour.ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"

    edit(folder / "RS.dcm", wrong)
    with pytest.warns(UserWarning, match="not among the CT slices"):
        assert "structures" in read_dicom(folder)


def test_no_structure_set(folder):
    (folder / "RS.dcm").unlink()
    assert "structures" not in read_dicom(folder)


def test_damaged_contour(folder):
    edit(folder / "RS.dcm", lambda d: setattr(d.ROIContourSequence[0].ContourSequence[0], "ContourData", [1, 2, 3, 4]))
    with pytest.raises(IonrtError, match=r"BODY.*4 coordinates"):
        read_dicom(folder)


def test_truncated_structure_set(folder):
    """Wherever the file ends early, it is an error and never fewer contours."""
    size = (folder / "RS.dcm").stat().st_size
    whole = (folder / "RS.dcm").read_bytes()
    for share in (0.05, 0.2, 0.5, 0.8, 0.95):
        (folder / "RS.dcm").write_bytes(whole[: int(share * size)])
        with pytest.raises(IonrtError, match=r"RS\.dcm.*truncated"):
            read_dicom(folder)


def test_structure_beyond_the_ct_is_named(folder):
    def move(data):
        for contour in data.ROIContourSequence[-1].ContourSequence:
            points = np.reshape([float(v) for v in contour.ContourData], (-1, 3)) + np.array([300.0, 0, 0])
            contour.ContourData = [f"{v:.3f}" for v in points.ravel()]

    edit(folder / "RS.dcm", move)
    with pytest.warns(UserWarning, match="'GTV' reaches .* mm or more beyond the CT"):
        assert float(volumes(read_dicom(folder))[-1]) == 0.0


def test_points_and_double_names(folder):
    def change(data):
        data.StructureSetROISequence[1].ROIName = "BODY"
        for contour in data.ROIContourSequence[2].ContourSequence:
            contour.ContourGeometricType = "POINT"

    edit(folder / "RS.dcm", change)
    with (
        pytest.warns(IncompleteWarning, match="comes twice"),
        pytest.warns(IncompleteWarning, match=r"13 contours of 'Ilium_R' \(POINT\) enclose nothing"),
    ):
        p = read_dicom(folder)
    names = [str(n) for n in p.structure.values]
    assert names[:2] == ["BODY", "BODY (2)"]
    assert float(volumes(p)[2]) == 0.0


def test_dose_on_the_ct_grid_is_added_and_another_is_named(folder):
    p = read_dicom(folder)
    dose = (p.ct * 0 + 1.5).rename("dose")
    dose.attrs = {}
    write_rtdose(dose, p, folder / "RD.dcm", fractions=1)
    write_rtdose(dose.isel(x=slice(3, 20)), p, folder / "RD_small.dcm", fractions=1)
    again = read_dicom(folder)
    np.testing.assert_allclose(again.dose, 1.5, rtol=1e-6)
    assert again.attrs["doses_elsewhere"] == "RD_small.dcm"
    assert read_dose(folder / "RD_small.dcm").sizes["x"] == 17
    with pytest.raises(IonrtError, match="expected an RTDOSE"):
        read_dose(folder / "RS.dcm")


# --- files of others


def unpack(archive, folder):
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_real_gantry_tilt(shared, tmp_path):
    with pytest.raises(IonrtError, match="gantry tilt"):
        read_dicom(unpack(shared("data/dicom/corner_cases/d2n_gantrytilting/gantrytilting.tar.xz"), tmp_path))


def test_real_slice_increment(shared, tmp_path):
    """Two series of four slices, each with one distance that is twice the others."""
    unpack(shared("data/dicom/corner_cases/d2n_sliceincrement/sliceincrement.tar.xz"), tmp_path)
    series = {str(pydicom.dcmread(f, stop_before_pixels=True).SeriesInstanceUID) for f in tmp_path.rglob("*.dcm")}
    assert len(series) == 2
    for uid in series:
        with pytest.raises(IonrtError, match="not uniform"):
            read_dicom(tmp_path, series=uid)


def test_head_study(shared, tmp_path):
    """Real study: 177 slices, structure volumes listed by the clinic's system; broken references; about 2 s."""
    source = shared("data/dicom/dcpt_headphantom_proton")
    unpack(source / "CT_177slices.tar.xz", tmp_path)
    for path in source.glob("*.dcm"):
        shutil.copy(path, tmp_path)
    start = time.process_time()
    with pytest.warns(UserWarning, match="177 of 177"):
        p = read_dicom(tmp_path)
    assert time.process_time() - start < 5.0  # 0.8 s on an idle machine; processor time, so that a busy one does not fail it
    assert p.sizes["z"] == 177 and p.sizes["x"] == 512
    v = volumes(p.sel(structure=["BODY", "CTV", "BrainStem"]))
    np.testing.assert_allclose(v, [6870.355, 121.186, 33.889], rtol=5e-4)
    assert float(volumes(p.sel(structure=["Beekley"]))[0]) == pytest.approx(0.039, abs=5e-4)


def test_dose_files_of_another_system(shared):
    folder = shared("data/dicom/rt_ion_plans/plan03_ramp_full")
    doses = [read_dose(path) for path in sorted(folder.glob("RD*.dcm"))]
    plan = next(d for d in doses if d.attrs["dose_summation_type"] == "PLAN")
    beams = [d for d in doses if d.attrs["dose_summation_type"] == "BEAM"]
    assert plan.name == "rbe_dose" and plan.attrs["units"] == "Gy (RBE)" and plan.attrs["rbe_model"].startswith("as imported")
    assert float(abs(sum(b.values for b in beams) - plan.values).max()) < 5e-5  # Gy


@pytest.mark.parametrize("name", ["rtdose_expb", "rtdose_rle"])
def test_dose_transfer_syntaxes(shared, name):
    folder = shared("data/dicom/corner_cases/pydicom_rt")
    np.testing.assert_array_equal(read_dose(folder / f"{name}.dcm"), read_dose(folder / "rtdose.dcm"))


def test_dose_with_more_offsets_than_frames(shared):
    with pytest.raises(IonrtError, match="15 frame offsets for 1 frames"):
        read_dose(shared("data/dicom/corner_cases/pydicom_rt/rtdose_1frame.dcm"))


def test_synthetic_study_doses(shared):
    folder = shared("data/dicom/synthetic_carbon_study")
    assert read_dose(folder / "RD_physical.dcm").name == "dose"
    assert read_dose(folder / "RD_rbe.dcm").name == "rbe_dose"
    let = read_dose(folder / "RD_letd.dcm")
    assert let.name == "let_d" and let.attrs["units"] == "keV/um" and let.attrs["let_definition"].startswith("as imported")


def test_two_ct_study_needs_a_choice(shared):
    folder = shared("data/dicom/synthetic_carbon_study")
    with pytest.raises(IonrtError, match=r"CT_plan.*CT_day1|CT_day1.*CT_plan"):
        read_dicom(folder)
    day = read_dicom(folder, series="2.25.149556244161032652445543001027270219")
    assert "structures" not in day  # the structure set belongs to the other CT of the folder
