"""Kinds of objects that others met: frames of reference, thickness of planes, lost structures, doses, CT, texts, plans.

Inputs are SYNTHETIC and made here; the right values follow from their geometry (a box of 20 x 16 mm on slices of 3 mm is
0.96 cm3 a slice).
"""

from __future__ import annotations

import os
import struct
import zlib

import dicom_small as small
import fuzz
import gdcm
import numpy as np
import pydicom
import pytest
import xarray as xr
from dicom_small import FRAME, Z, contour, item
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian

from ionrt import dose_at_volume, evaluate, gamma, regrid
from ionrt.patient import IncompleteWarning, read_dicom, read_dose, read_ion_plan, volumes, write_rtdose
from ionrt.patient.geometry.grid import layout
from ionrt.patient.reading.charset import decode
from ionrt.patient.reading.dicom_files import read_pixels
from ionrt.patient.reading.frames import check_frame
from ionrt.plan import recompute
from ionrt.quantities import IonrtError

SLICE = 20 * 16 * 3 / 1000.0  # cm3


def sizes(patient):
    return dict(zip(map(str, patient.structure.values), volumes(patient).values.round(4).tolist(), strict=True))


def read(objects, folder, **options):
    return read_dicom(small.save(objects, folder), **options)


def drawn(**structures):
    """The study with these structures."""
    return small.study() | {"RS.dcm": small.structure_set(structures)}


# --- frames of reference


def test_structure_of_another_frame_is_left_out_by_name(tmp_path):
    objects = small.study()
    objects["RS.dcm"].StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.99"
    with pytest.warns(IncompleteWarning, match=r"'Cord' belongs to another frame of reference \(1\.2\.99\)"):
        p = read(objects, tmp_path)
    assert sizes(p) == {"CTV": 4 * SLICE} and "Cord" in p.attrs["left_out"]
    with pytest.raises(IonrtError, match=r"strict reading.*'Cord'"):
        read_dicom(tmp_path, strict=True)


def test_dose_of_another_frame_is_not_taken_and_one_without_is_said(tmp_path):
    objects = small.study()
    objects["RD.dcm"].FrameOfReferenceUID = "1.2.99"
    p = read(objects, tmp_path / "other")
    assert "dose" not in p and p.attrs["doses_elsewhere"] == "RD.dcm" and "frame" in p.attrs["doses_elsewhere_why"]
    del objects["RD.dcm"].FrameOfReferenceUID
    with pytest.warns(IncompleteWarning, match=r"RD\.dcm: no frame of reference"):
        assert "dose" in read(objects, tmp_path / "none")


@pytest.mark.parametrize(
    "use",
    [
        lambda d, p: evaluate.statistics(d, p),
        lambda d, p: evaluate.dvh(d, p.structures, at=[1.0]),
        lambda d, p: dose_at_volume(d, p, cc=0.5),
        lambda d, p: gamma(p.dose, d, dose_percent=3.0, distance_mm=3.0),
        lambda d, p: evaluate.integral_dose(d, p),
        lambda d, p: evaluate.plan_quality(d, p, target="CTV", prescription=2.0),
        lambda d, p: write_rtdose(d, p, "never.dcm"),
    ],
)
def test_a_dose_of_another_frame_is_refused_wherever_it_meets_the_patient(use, tmp_path):
    """The same numbers of the same grid, of another frame of reference."""
    p = read(small.study(), tmp_path / "ct")
    other = small.dose()
    other.FrameOfReferenceUID = "1.2.99"
    d = read_dose(small.save({"RD.dcm": other}, tmp_path / "other") / "RD.dcm")
    with pytest.raises(IonrtError, match=r"another frame of reference \(1\.2\.(99|3\.1)\)"):
        use(d, p)


def test_one_function_places_what_others_bring(tmp_path):
    p = read(small.study(), tmp_path)
    check_frame(p, FRAME, what="plan")
    with pytest.raises(IonrtError, match="registration belongs to another frame of reference"):
        check_frame(p, "1.2.99", what="registration")
    with pytest.warns(IncompleteWarning, match="no frame of reference stated"):
        check_frame(p, p.dose.assign_attrs(frame_of_reference_uid=""), what="dose")


# --- thickness of contour planes


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (Z[[2]], 1),  # one slice
        (Z[[0, 5]], 2),  # two lesions
        (Z[[0, 3]], 2),  # two lesions three slices apart
        (Z[[0, 2, 4]], 5.5),  # every second slice throughout: half way to each other, and not beyond the CT
        (Z[1:4] + np.array([0.02, -0.03, 0.05]), 3),  # rounded
        (Z[[1, 2, 4]], 3),  # one slice not drawn
        (Z[[0, 2, 4, 5]], 6),  # every second slice, and one more at the end
        (Z[[4, 3, 2, 1]], 4),  # from above downwards
    ],
)
def test_one_volume_everywhere(levels, expected, tmp_path):
    p = read(drawn(S=[contour(z) for z in levels]), tmp_path)
    found = {
        "volumes": float(volumes(p)[0]),
        "1 mm": float(volumes(regrid(p, spacing=1.0))[0]),
        "6 mm": float(volumes(regrid(p, spacing=(9.0, 4.0, 4.0)))[0]),
        "statistics": evaluate.statistics(p.dose, p).volume_cc.iloc[0],
        "dvh": float(evaluate.dvh(p.dose, p, at=[1.0])["volume"][0]),
    }
    assert found == pytest.approx(dict.fromkeys(found, expected * SLICE), rel=1e-5)
    assert float(dose_at_volume(p.dose, p, cc=0.5)[0]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("levels", "word"),
    [
        (Z[[1, 2, 4]], "is not drawn on 1 of the slices between its first and last; they stay empty"),
        (Z[[0, 3]], "is not drawn on 2 of the slices"),
        (Z[[0, 2, 4, 5]], "is drawn on every 2. slice"),
    ],
)
def test_what_lies_between_planes_that_are_not_neighbours_is_said(levels, word, tmp_path):
    assert word in read(drawn(S=[contour(z) for z in levels]), tmp_path).attrs["assumed"]


def test_hole_whose_z_is_rounded_is_a_hole(tmp_path):
    hole = ((-5, -5), (5, -5), (5, 5), (-5, 5))
    p = read(drawn(Ring=[contour(Z[2]), contour(Z[2] + 0.02, hole)]), tmp_path)
    assert float(volumes(p)[0]) == pytest.approx((320 - 100) * 3 / 1000)


def test_contours_off_the_slices_keep_their_own_distance_and_say_so(tmp_path):
    p = read(drawn(S=[contour(z) for z in (-4.7, -2.7, -0.7)]), tmp_path)
    assert float(volumes(p)[0]) == pytest.approx(3 * 2 * 320 / 1000)
    assert "'S' is not drawn on the CT's slices; its planes are taken to be 2 mm" in p.attrs["assumed"]


# --- structures lost or merged


def test_number_twice_two_items_and_strange_contours(tmp_path):
    objects = drawn(CTV=[contour(Z[1])], Cord=[contour(Z[2]), contour(Z[3])])
    rs = objects["RS.dcm"]
    for sequence in (rs.StructureSetROISequence, rs.ROIContourSequence):
        for one in sequence:
            one["ROINumber" if "ROINumber" in one else "ReferencedROINumber"].value = 19
    with pytest.warns(IncompleteWarning, match="number 19 belongs to 2 structures"):
        assert sizes(read(objects, tmp_path / "twice")) == {"CTV": SLICE, "Cord": 2 * SLICE}
    rs.ROIContourSequence = rs.ROIContourSequence[:1]
    with pytest.warns(IncompleteWarning, match="whose they are cannot be said"):
        assert read(objects, tmp_path / "whose").sizes["structure"] == 0
    objects = drawn(CTV=[contour(Z[1])])
    objects["RS.dcm"].ROIContourSequence += [item(ReferencedROINumber=1, ContourSequence=[contour(Z[2])])]
    with pytest.warns(IncompleteWarning, match="2 items of contours"):
        assert sizes(read(objects, tmp_path / "items")) == {"CTV": 2 * SLICE}
    objects["RS.dcm"].ROIContourSequence[1].ReferencedROINumber = 7
    with pytest.warns(IncompleteWarning, match="contours of number 7, which belongs to no structure"):
        assert sizes(read(objects, tmp_path / "nobody")) == {"CTV": SLICE}


def test_names_that_collide_are_told_apart(tmp_path):
    objects = drawn(a=[contour(Z[1])], b=[contour(Z[2])], c=[contour(Z[3])], d=[contour(Z[4])])
    for roi, name in zip(objects["RS.dcm"].StructureSetROISequence, ("CTV (2)", "CTV", "CTV", "x" * 80), strict=True):
        roi.add_new("ROIName", "UT", name)  # as LO it could not be written
    objects["RS.dcm"].StructureSetROISequence[2].ROINumber = objects["RS.dcm"].ROIContourSequence[2].ReferencedROINumber = 2000
    with (
        pytest.warns(IncompleteWarning, match=r"'CTV' comes twice; the second is CTV \(2000\)"),
        pytest.warns(IncompleteWarning, match="80 characters"),
    ):
        names = list(sizes(read(objects, tmp_path)))
    assert names == ["CTV (2)", "CTV", "CTV (2000)", "x" * 64]


@pytest.mark.parametrize("copy", ["same", "turned", "rounded"])
def test_contour_that_comes_twice_counts_once(copy, tmp_path):
    points = {"same": small.BOX, "turned": small.BOX[2:] + small.BOX[:2], "rounded": [(x + 0.01, y) for x, y in small.BOX]}
    with pytest.warns(IncompleteWarning, match=r"1 contours of 'CTV' are in the file twice"):
        p = read(drawn(CTV=[contour(Z[1]), contour(Z[1], points[copy])]), tmp_path)
    assert sizes(p) == {"CTV": pytest.approx(SLICE)}


CIRCLE = [(8.0 * np.cos(t), 8.0 * np.sin(t)) for t in np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)]
HOLE = ((-5, -5), (5, -5), (5, 5), (-5, 5))


@pytest.mark.parametrize(
    "copy", [CIRCLE[::2], CIRCLE[::-1], [*CIRCLE[7:], *CIRCLE[:7], CIRCLE[7]], CIRCLE[:20] + CIRCLE[20::2]]
)
def test_a_copy_with_other_vertices_of_one_line_counts_once(copy, tmp_path):
    with pytest.warns(IncompleteWarning, match=r"1 contours of 'CTV' are in the file twice"):
        p = read(drawn(CTV=[contour(Z[1], CIRCLE), contour(Z[1], copy)]), tmp_path)
    area = 0.5 * 40 * 8.0**2 * np.sin(2.0 * np.pi / 40)  # of the regular polygon
    assert sizes(p) == {"CTV": pytest.approx(area * 3 / 1000, rel=1e-3)}


@pytest.mark.parametrize(("shift", "common"), [(1.0, 19.0 * 16.0), (5.0, 15.0 * 16.0), (0.2, 19.8 * 16.0), (0.1, 19.9 * 16.0)])
def test_contours_that_overlap_in_part_are_said(shift, common, tmp_path):
    other = [(x - shift, y) for x, y in small.BOX]
    with pytest.warns(IncompleteWarning, match=f"overlap in part; the {common / 100:.3g} cm2 in common are taken as outside"):
        p = read(drawn(CTV=[contour(Z[1]), contour(Z[1], other)]), tmp_path)
    assert sizes(p) == {"CTV": pytest.approx((320 + 320 - 2 * common) * 3 / 1000, abs=1e-4)}


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_holes_islands_neighbours_and_keyholes_need_no_word(kind, tmp_path):
    island = [(x / 5, y / 5) for x, y in HOLE]
    beside = [(x, y + 11.0) for x, y in HOLE[:3]]
    keyhole = [*small.BOX, small.BOX[0], *HOLE[::-1], HOLE[-1]]
    rings = {
        "Ring": [contour(Z[1], small.BOX, kind), contour(Z[1], HOLE, kind)],
        "Island": [contour(Z[1], small.BOX, kind), contour(Z[1], HOLE, kind), contour(Z[1], island, kind)],
        "Wall": [contour(Z[1], small.BOX, kind), contour(Z[1], [(x * 0.97, y * 0.97) for x, y in small.BOX], kind)],
        "Two": [contour(Z[1], HOLE, kind), contour(Z[1], beside, kind)],
        "Keyhole": [contour(Z[1], keyhole, kind)],
    }
    p = read(drawn(**rings), tmp_path)
    areas = {"Ring": 220, "Island": 224, "Wall": 320 * (1 - 0.97**2), "Two": 150, "Keyhole": 220}
    assert sizes(p) == pytest.approx({name: area * 3 / 1000 for name, area in areas.items()}, abs=1e-4)


def test_names_and_types_that_are_made_up_or_contradict_are_said(tmp_path):
    objects = drawn(a=[contour(Z[1])], b=[contour(Z[2])])
    objects["RS.dcm"].StructureSetROISequence[0].ROIName = ""
    objects["RS.dcm"].RTROIObservationsSequence += [item(ReferencedROINumber=2, RTROIInterpretedType="CTV")]
    with pytest.warns(IncompleteWarning, match=r"'b' has several interpreted types \(ORGAN, CTV\); none is taken"):
        p = read(objects, tmp_path)
    assert sizes(p) == {"ROI 1": SLICE, "b": SLICE} and p.roi_type.values.tolist() == ["ORGAN", ""]
    assert "without a name is called 'ROI 1'" in p.attrs["assumed"]


def test_an_offset_beside_the_points_is_said(tmp_path):
    shifted = contour(Z[2])
    shifted.ContourOffsetVector = ["0", "0", "3"]
    with pytest.warns(IncompleteWarning, match=r"'S' states an offset \(ContourOffsetVector\), which is not added"):
        read(drawn(S=[shifted]), tmp_path)


@pytest.mark.parametrize("kind", ["copies", "nothing odd"])
def test_a_patient_is_kept_by_netcdf_with_what_was_said(kind, tmp_path):
    objects = small.study()
    if kind == "copies":
        objects |= {f"again/{name}": data for name, data in objects.items()}
    p = read(objects, tmp_path / "in")
    p.to_netcdf(tmp_path / "p.nc")
    back = xr.load_dataset(tmp_path / "p.nc")
    assert sizes(back) == sizes(p) == {"CTV": 4 * SLICE, "Cord": 6 * SLICE} and float(back.dose.max()) == 2.0
    said = "8 files equal to another, byte for byte" * (kind == "copies")
    assert [back.attrs[k] for k in ("left_out", "assumed", "frame_of_reference_uid")] == [said, "", FRAME]


def test_oblique_open_and_damaged_contours(tmp_path):
    objects = drawn(CTV=[contour(Z[1])], Catheter=[contour(Z[1])], Iso=[contour(Z[1], small.BOX[:1], "POINT")])
    objects["RS.dcm"].ROIContourSequence[1].ContourSequence[0].ContourData = [0, 0, 0, 10, 0, 3, 10, 10, 5, 0, 10, 2]
    with pytest.warns(IncompleteWarning, match="'Catheter' is drawn in oblique"):
        p = read(objects, tmp_path / "oblique")
    assert sizes(p) == {"CTV": SLICE, "Iso": 0.0} and "'Iso' (POINT)" in p.attrs["left_out"]
    objects["RS.dcm"].ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 5
    del objects["RS.dcm"].ROIContourSequence[1:], objects["RS.dcm"].StructureSetROISequence[1:]
    with pytest.warns(IncompleteWarning, match="has 4 points and says 5"):
        read(objects, tmp_path / "points")


# --- dose


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0)])
def test_absolute_frame_offsets_are_positions(orientation, tmp_path):
    d = small.dose()
    d.ImageOrientationPatient = list(orientation)
    start = 10.0
    d.ImagePositionPatient[2] = start
    d.GridFrameOffsetVector = [start - 3.0 * k for k in range(6)]
    back = read_dose(small.save({"RD.dcm": d}, tmp_path) / "RD.dcm")
    assert (back.z[0], back.z[-1]) == (-5.0, 10.0)


def test_offsets_that_fit_neither_rule_are_refused_and_ambiguous_ones_said(tmp_path):
    d = small.dose()
    d.GridFrameOffsetVector = [100.0 + 3.0 * k for k in range(6)]
    with pytest.raises(IonrtError, match=r"GridFrameOffsetVector begins with 100"):
        read_dose(small.save({"RD.dcm": d}, tmp_path / "far") / "RD.dcm")
    d = small.dose()
    d.ImageOrientationPatient, d.ImagePositionPatient[2] = [-1, 0, 0, 0, 1, 0], 0.0
    with pytest.warns(IncompleteWarning, match="distances or positions"):
        read_dose(small.save({"RD.dcm": d}, tmp_path / "zero") / "RD.dcm")


def test_which_dose_was_taken_is_said(tmp_path):
    objects = small.study()
    assert "only plan dose" in read(objects, tmp_path / "one").dose.attrs["chosen"]
    objects |= {"b/RD.dcm": small.dose(3.0, "1.2.3.50"), "c/RD.dcm": small.dose(1.0, "1.2.3.51")}
    objects["c/RD.dcm"].DoseSummationType = "BEAM"
    with pytest.warns(IncompleteWarning, match=r"2 plan doses of dose lie on the CT's grid \(RD\.dcm, b/RD\.dcm\)"):
        p = read(objects, tmp_path / "two")
    assert "dose" not in p and p.attrs["doses_elsewhere"] == "RD.dcm\nb/RD.dcm\nc/RD.dcm"
    p = read_dicom(tmp_path / "two", dose="1.2.3.50")
    assert float(p.dose.max()) == pytest.approx(3.0) and p.dose.attrs["source_file"] == "b/RD.dcm"
    with pytest.raises(IonrtError, match=r"no plan dose '9'"):
        read_dicom(tmp_path / "two", dose="9")
    objects["b/RD.dcm"] = small.dose(2.0, "1.2.3.50")
    with pytest.warns(IncompleteWarning, match="the same plan dose 2 times"):
        assert float(read(objects, tmp_path / "same").dose.max()) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: delattr(d, "PixelData"), "no dose grid"),
        (lambda d: setattr(d, "PixelData", b""), "no dose grid"),
        (lambda d: setattr(d, "DoseGridScaling", "0"), "DoseGridScaling is 0"),
        (lambda d: setattr(d, "ImageOrientationPatient", [0.996, 0.087, 0, -0.087, 0.996, 0]), "oblique"),
        (lambda d: setattr(d, "Rows", 15), "PixelData has 6144 bytes; expected 5760"),
        (lambda d: setattr(d, "GridFrameOffsetVector", [0, 3, 6, 9, 12]), "5 frame offsets"),
        (lambda d: delattr(d, "DoseUnits"), "DoseUnits not stated, DoseType PHYSICAL"),
        (lambda d: delattr(d, "DoseType"), "DoseUnits GY, DoseType not stated"),
        (lambda d: setattr(d, "DoseType", "ERROR"), "DoseUnits GY, DoseType ERROR"),
        (lambda d: setattr(d, "PhotometricInterpretation", "PALETTE COLOR"), "expected grey values"),
    ],
)
def test_an_odd_dose_does_not_stop_the_patient(change, why, tmp_path):
    objects = small.study() | {"RD2.dcm": small.dose(instance="1.2.3.52")}
    change(objects["RD2.dcm"])
    with pytest.warns(IncompleteWarning, match=f"dose left out: RD2.*{why}"):
        p = read(objects, tmp_path)
    assert float(p.dose.max()) == pytest.approx(2.0) and why in p.attrs["doses_elsewhere_why"]


@pytest.mark.parametrize(("kind", "quantity"), [("PHYSICAL", "dose"), ("EFFECTIVE", "rbe_dose")])
def test_centigray_is_said(kind, quantity, tmp_path):
    d = small.dose(200.0)
    d.DoseUnits, d.DoseType = "CGY", kind
    back = read_dose(small.save({"RD.dcm": d}, tmp_path) / "RD.dcm")
    assert back.name == quantity and float(back.max()) == pytest.approx(2.0) and "taken as 0.01 Gy" in back.attrs["assumed"]


def test_words_in_a_comment_that_look_like_let_or_contradict_the_type(tmp_path):
    def named(comment, **change):
        data = small.dose()
        data.DoseComment = comment
        for keyword, value in change.items():
            setattr(data, keyword, value)
        return read_dose(small.save({"RD.dcm": data}, tmp_path / str(len(list(tmp_path.iterdir())))) / "RD.dcm").name

    assert [named(c, DoseUnits="RELATIVE") for c in ("LETd in water", "doseAveragedLET")] == ["let_d"] * 2
    assert [named(c, DoseUnits="RELATIVE") for c in ("PALLET 3", "newsLETTER", "")] == ["relative_dose"] * 3
    assert named("absorbed dose") == "dose"
    with pytest.warns(
        IncompleteWarning, match=r"DoseType PHYSICAL, and its comment \(RBE 1.1\) names an RBE; taken as absorbed"
    ):
        assert named("RBE 1.1") == "dose"


def test_structure_on_the_end_slices_lies_within_a_grid_that_ends_there(tmp_path):
    p = read(small.study(), tmp_path)
    coarse = regrid(p, spacing=(6.0, 4.0, 4.0)).dose  # ends where the CT ends
    table = evaluate.statistics(coarse, p.structures.sel(structure=["Cord"]))
    assert table["outside_%"].item() == 0.0 and table["mean"].item() == pytest.approx(2.0)


# --- CT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: delattr(d, "RescaleIntercept"), "RescaleIntercept is missing"),
        (lambda d: setattr(d, "RescaleSlope", None), "RescaleSlope is missing"),
        (lambda d: setattr(d, "RescaleType", "ED"), "RescaleType is ED; expected CT numbers"),
        (lambda d: setattr(d, "PhotometricInterpretation", "PALETTE COLOR"), "expected grey values"),
        (lambda d: setattr(d, "SamplesPerPixel", 3), "one sample"),
        (lambda d: setattr(d, "PatientID", "S2"), "two patients in one folder"),
        (lambda d: setattr(d, "ImagePositionPatient", [-14.0, -15.0, 0.0]), "sideways"),
    ],
)
def test_what_a_ct_may_not_be(change, message, tmp_path):
    objects = small.study()
    change(objects["CT.2.dcm"])
    with pytest.raises(IonrtError, match=message):
        read(objects, tmp_path)


def test_two_patients_of_one_frame(tmp_path):
    objects = small.study()
    objects["RS.dcm"].PatientID = "S2"
    with pytest.raises(IonrtError, match=r"two patients in one folder: .*RS\.dcm"):
        read(objects, tmp_path)


def test_padding_is_air_in_every_representation(tmp_path):
    for name, signed, value, limit in (("signed", 1, -2000, None), ("unsigned", 0, 0, None), ("range", 0, 0, 10)):
        objects = small.study()
        for k in range(6):
            ct = objects[f"CT.{k}.dcm"]
            stored = np.frombuffer(ct.PixelData, "<u2").reshape(16, 16).astype("<i4")
            stored[0, :3] = value if limit is None else [0, 5, 10]
            ct.PixelData, ct.PixelRepresentation = stored.astype("<i2" if signed else "<u2").tobytes(), signed
            ct.add_new("PixelPaddingValue", "SS" if signed else "US", value)
            if limit:
                ct.add_new("PixelPaddingRangeLimit", "US", limit)
        p = read(objects, tmp_path / name)
        assert (p.ct[:, 0, :4] == -1000.0).all() and float(p.ct[2, 8, 8]) == 42.0
        assert p.ct.attrs["padding"] == "18 padding voxels read as -1000 HU"


def test_padding_that_may_be_tissue_and_values_below_air_are_said(tmp_path):
    objects = small.study()
    objects["CT.2.dcm"].add_new("PixelPaddingValue", "US", 1024)
    with pytest.warns(IncompleteWarning, match="padding value stands for 0 HU"):
        read(objects, tmp_path / "water")
    objects = small.study()
    objects["CT.2.dcm"].RescaleIntercept = "-2024"
    with (
        pytest.warns(IncompleteWarning, match="2 different rescale slopes"),
        pytest.warns(IncompleteWarning, match="below -1100 HU"),
    ):
        read(objects, tmp_path / "below")


def altered(change):
    objects = small.study()
    for k in range(6):
        change(objects[f"CT.{k}.dcm"])
    return objects


def stored(ct):
    return np.frombuffer(ct.PixelData, "<u2").reshape(16, 16).astype("<i4")


def test_high_bits_are_no_part_of_the_value(tmp_path):
    def overlay(ct):
        ct.BitsStored, ct.HighBit, ct.PixelData = 12, 11, (stored(ct) | 0x8000).astype("<u2").tobytes()  # in the top bit

    def signed(ct):  # the sign is carried on to the top, or not
        ct.BitsStored, ct.HighBit, ct.PixelRepresentation, ct.RescaleIntercept = 12, 11, 1, "0"
        values = stored(ct) - 1024
        values[1:] &= 0x0FFF
        ct.PixelData = values.astype("<i2").tobytes()

    with pytest.warns(IncompleteWarning, match=r"1536 pixels have bits set beside those said to be stored"):
        assert float(read(altered(overlay), tmp_path / "overlay").ct[2, 8, 8]) == 42.0
    p = read(altered(signed), tmp_path / "signed")
    assert float(p.ct[2, 8, 8]) == 42.0 and float(p.ct.min()) == -1000.0


def test_ct_numbers_that_rest_on_a_guess_are_said(tmp_path):
    def without_intercept(ct):
        ct.RescaleIntercept = "0"

    with pytest.warns(IncompleteWarning, match="unsigned with an intercept of 0, so that none can be below 0 HU, nor be air"):
        read(altered(without_intercept), tmp_path / "air")
    for kind in ("US", "HOUNSFIELD"):
        with pytest.warns(IncompleteWarning, match=f"RescaleType is {kind}, which does not say HU; taken for HU"):
            read(altered(lambda ct, kind=kind: setattr(ct, "RescaleType", kind)), tmp_path / kind)
    lazy = read_dicom(small.save(small.study(), tmp_path / "lazy"), lazy=True)
    assert "scaling and padding of its pixels were not looked at" in lazy.attrs["assumed"]


def test_what_needs_no_guess_is_read_without_a_word(tmp_path):
    """Inverted display, one instance UID for all slices, a SliceLocation of its own, cosines of six digits, half HU."""

    def odd(ct):
        ct.PhotometricInterpretation, ct.SOPInstanceUID, ct.SliceLocation = "MONOCHROME1", "1.2.3.9.0", "77"
        ct.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 1e-6]
        ct.RescaleSlope, ct.RescaleIntercept = "0.5", "-1000.5"

    p = read(altered(odd), tmp_path)
    assert float(p.ct[2, 8, 8]) == 1066 / 2 - 1000.5 and not p.attrs["left_out"]
    assert not p.attrs["assumed"]


def test_two_names_without_a_number_are_said(tmp_path):
    objects = small.study()
    for data in objects.values():
        data.PatientID = ""
    objects["RS.dcm"].PatientName = "Synthetic"  # the same
    read(objects, tmp_path / "same")
    objects["RS.dcm"].PatientName = "SYNTHETIC^OTHER"
    with pytest.warns(IncompleteWarning, match=r"no patient ID and different names; taken for one patient"):
        read(objects, tmp_path / "other")


@pytest.mark.parametrize("digits", [0, 1])
def test_positions_rounded_to_a_tenth_are_a_uniform_stack_and_a_gap_is_not(digits):
    exact = np.arange(60) * 0.625 - 17.3
    at = np.round(exact, digits)
    places = np.column_stack([np.zeros((60, 2)), at])
    if digits == 0:  # to whole millimetres: two slices share one
        with pytest.raises(IonrtError, match="share a position"):
            layout(places, (1, 0, 0, 0, 1, 0), (1, 1), (4, 4))
        return
    np.testing.assert_allclose(layout(places, (1, 0, 0, 0, 1, 0), (1, 1), (4, 4)).coords["z"], exact, atol=0.05)
    with pytest.raises(IonrtError, match=r"1\.3 mm between"):
        layout(np.delete(places, 30, axis=0), (1, 0, 0, 0, 1, 0), (1, 1), (4, 4))


POSITIONS = {  # rows and columns run along these patient axes
    "HFS": (1, 0, 0, 0, 1, 0), "HFP": (-1, 0, 0, 0, -1, 0), "FFS": (-1, 0, 0, 0, 1, 0), "FFP": (1, 0, 0, 0, -1, 0),
    "HFDR": (0, -1, 0, 1, 0, 0), "HFDL": (0, 1, 0, -1, 0, 0), "FFDR": (0, 1, 0, 1, 0, 0), "FFDL": (0, -1, 0, -1, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", POSITIONS)
def test_each_patient_position_is_read_to_its_place(name, tmp_path):
    """One bright voxel at a place that is known, wherever rows and columns run."""
    row, column = np.array(POSITIONS[name][:3], float), np.array(POSITIONS[name][3:], float)
    bright = np.array([5.0, -3.0, 3.0])
    objects = {}
    for k, z in enumerate(Z):
        ct = small.slice_of(k, orientation=POSITIONS[name])
        corner = np.array([0.0, 0.0, z]) - 15.0 * row - 15.0 * column  # of the first voxel
        ct.ImagePositionPatient = corner.tolist()
        stored = np.full((16, 16), 24, "<u2")
        if z == bright[2]:
            i, j = ((bright - corner) @ d / 2.0 for d in (row, column))
            stored[round(j), round(i)] = 2024
        ct.PixelData = stored.tobytes()
        objects[f"{k}.dcm"] = ct
    p = read(objects, tmp_path)
    place = p.ct.where(p.ct == 1000, drop=True)
    assert [float(place[d].item()) for d in "xyz"] == bright.tolist()


def enhanced() -> pydicom.Dataset:
    """The same slices as frames of one enhanced CT, in reverse order."""
    data = small.slice_of(0)
    data.SOPClassUID, data.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.2.1", 6
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[2.0, 2.0])],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence, stored = [shared], [], b""
    for k in reversed(range(6)):
        one = small.slice_of(k)
        stored += one.PixelData
        transformation = item(RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU")
        data.PerFrameFunctionalGroupsSequence.append(
            item(
                PlanePositionSequence=[item(ImagePositionPatient=one.ImagePositionPatient)],
                PixelValueTransformationSequence=[transformation],
            )
        )
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(data, keyword)
    data.PixelData = stored
    return data


def test_enhanced_ct_is_the_same_as_its_slices(tmp_path):
    objects = small.study()
    single = read(objects, tmp_path / "single")
    rest = {name: data for name, data in objects.items() if not name.startswith("CT")}
    p = read(rest | {"E.dcm": enhanced()}, tmp_path / "enhanced")
    np.testing.assert_array_equal(p.ct, single.ct)
    np.testing.assert_array_equal(p.z, single.z)
    np.testing.assert_array_equal(read_dicom(tmp_path / "enhanced", lazy=True).ct, single.ct)
    assert sizes(p) == sizes(single) and "dose" in p
    broken = enhanced()
    del broken.PerFrameFunctionalGroupsSequence[3].PixelValueTransformationSequence
    with pytest.raises(IonrtError, match="PixelValueTransformationSequence is missing"):
        read(rest | {"E.dcm": broken}, tmp_path / "broken")
    broken = enhanced()
    del broken.PerFrameFunctionalGroupsSequence[3:]
    with pytest.raises(IonrtError, match="has 3 items; expected one per frame"):
        read(rest | {"E.dcm": broken}, tmp_path / "fewer")


def compress(path, syntax):
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize("syntax", ["JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless", "RLELossless"])
def test_lossless_compression_changes_nothing(syntax, tmp_path):
    folder = small.save(small.study(), tmp_path)
    before = read_dicom(folder).ct.values
    for path in folder.glob("CT*"):
        compress(path, syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID != ExplicitVRLittleEndian
    np.testing.assert_array_equal(read_dicom(folder).ct.values, before)


@pytest.mark.parametrize("syntax", ["JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless", "RLELossless"])
def test_a_frame_that_is_cut_is_refused(syntax, tmp_path):
    """Some decoders fill what is missing with zeros. A changed bit within a frame cannot be told from another image."""
    data = small.slice_of(2)
    small.pixels(data, np.random.default_rng(0).integers(1000, 1200, (48, 48)).astype("<u2"), 16)
    path = small.save({"c.dcm": data}, tmp_path) / "c.dcm"
    compress(path, syntax)
    data, before = pydicom.dcmread(path), read_pixels(path)[0]
    (frame,) = generate_frames(data.PixelData, number_of_frames=1)
    for cut in np.linspace(20, len(frame) - 4, 8).astype(int):
        data.PixelData = encapsulate([frame[:cut]])
        data["PixelData"].is_undefined_length = True
        data.save_as(path)
        try:
            np.testing.assert_array_equal(read_pixels(path)[0], before)
        except IonrtError as error:
            assert "c.dcm" in str(error)


@pytest.mark.parametrize("syntax", ["JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless", "RLELossless"])
def test_a_decoder_that_aborts_takes_only_itself_along(syntax, tmp_path):
    path = small.save({"c.dcm": small.slice_of(2)}, tmp_path) / "c.dcm"
    compress(path, syntax)
    whole = path.read_bytes()
    start = whole.rfind(b"\xe0\x7f\x10\x00") + 12

    def attempt(rng):
        path.write_bytes(whole[:start] + fuzz.mutate_bytes(rng, whole[start:])[0])
        return fuzz.complaint(read_pixels(path)[0])

    assert fuzz.hold(attempt, n=fuzz.tries(12)).counts["refused"] > 0
    path.write_bytes(whole)
    assert read_pixels(path)[0][0, 8, 8] == 1066


# --- character sets


@pytest.mark.parametrize(
    ("declared", "raw", "text", "doubt"),
    [
        ("", b"CTV", "CTV", ""),
        ("ISO_IR 192", "간_우엽".encode(), "간_우엽", ""),
        ("ISO_IR 192", "\u1100\u1161\u11ab".encode(), "간", ""),  # decomposed, as some systems write
        ("\\ISO 2022 IR 149", b"\x1b$)C\xb0\xa3", "간", ""),
        ("ISO 2022 IR 149", "간".encode("euc_kr"), "간", ""),
        ("\\ISO 2022 IR 87", b"\x1b$B4N\x1b(B L", "肝 L", ""),
        ("ISO_IR 13", "ｶﾝ".encode("shift_jis"), "ｶﾝ", ""),
        ("ISO_IR 100", "Höhle".encode("latin-1"), "Höhle", ""),
        ("ISO_IR 149", "간".encode("euc_kr"), "간", "not in the standard"),
        ("", "간".encode("euc_kr"), "간", "taken for cp949"),
        ("", "간".encode(), "간", "taken for utf-8"),
        ("", "腫瘍の中".encode("cp932"), "腫瘍の中", "taken for cp932"),
        ("", "表".encode("cp932"), "表", "taken for cp932"),  # its second byte is a backslash
        ("", "がん".encode("euc_jp"), "がん", "taken for euc_jp"),
        ("ISO_IR 100", "간".encode(), "간", "taken for utf-8"),
        ("ISO_IR 100", "간장".encode("euc_kr"), "°£Àå", "as cp949 it would be '간장'"),
        ("ISO_IR 192", "간".encode("euc_kr"), "간", "taken for cp949"),
        ("\\ISO 2022 IR 149", "간".encode("euc_kr"), "간", "taken for cp949"),
        ("", b"\x1b$B4N\x1b(B", "肝", ""),  # escapes say what they are
        ("ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏ".encode("shift_jis") + b"\x1b$B4N\x1b(J", "ﾔﾏ肝", ""),
        ("ISO_IR 192", "\ufeff간".encode(), "간", ""),  # a byte order mark is no part of a name
        ("ISO_IR 192", "간장우엽".encode()[:-1], "간장우", "taken for utf-8"),  # cut at a number of bytes
        ("ISO_IR 100", "直腸".encode("cp932"), "直腸", "taken for cp932"),
        ("", "똠방".encode("cp949"), "똠방", "taken for cp949"),
        ("ISO_IR 144", "Печень".encode("iso8859-5"), "Печень", ""),
        ("ISO_IR 126", "Ήπαρ".encode("iso8859-7"), "Ήπαρ", ""),
        ("ISO_IR 144", "Печень".encode(), "Печень", "taken for utf-8"),
        ("ISO_IR 999", "Höhle".encode("latin-1"), "Höhle", "taken for latin-1"),
    ],
)
def test_character_sets_declared_undeclared_and_wrong(declared, raw, text, doubt):
    found, said = decode(raw, tuple(declared.split("\\")) if declared else ())
    assert found == text and (doubt in said if doubt else said == "")


def test_names_of_a_structure_set_without_a_character_set_are_said(tmp_path):
    objects = small.study()
    rs = objects["RS.dcm"]
    del rs.SpecificCharacterSet
    rs.StructureSetROISequence[0].add_new("ROIName", "UN", "간".encode("euc_kr") + b"")
    with pytest.warns(IncompleteWarning, match=r"RS\.dcm.*ROIName: .*taken for cp949: '간'"):
        assert list(sizes(read(objects, tmp_path))) == ["간", "Cord"]


# --- ion plans


def plan(change, folder):
    data = small.ion_plan()
    change(data)
    return read_ion_plan(small.save({"RN.dcm": data}, folder) / "RN.dcm")


def test_fractions_are_those_of_the_beam(tmp_path):
    def split(data, fractions=5):
        one = data.FractionGroupSequence[0]
        boost = item(NumberOfFractionsPlanned=fractions, ReferencedBeamSequence=[one.ReferencedBeamSequence.pop()])
        one.NumberOfBeams = 1
        data.FractionGroupSequence.append(boost)

    assert plan(lambda data: None, tmp_path / "one").fractions == 12
    with pytest.warns(IncompleteWarning, match=r"different numbers of fractions \[5, 12\]"):
        two = plan(split, tmp_path / "two")
    assert two.fractions == 0 and two.beams.fractions.tolist() == [12, 5]
    assert plan(lambda data: split(data, 12), tmp_path / "same").fractions == 12

    def again(data):
        data.FractionGroupSequence.append(data.FractionGroupSequence[0])

    with pytest.raises(IonrtError, match="beam 1 stands in more than one fraction group"):
        plan(again, tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.IonBeamSequence.append(d.IonBeamSequence[0]), "beam number 1 comes twice"),
        (lambda d: d.IonBeamSequence[0].IonControlPointSequence.pop(), "3 control points, and it says 4"),
        (lambda d: delattr(d, "FractionGroupSequence"), "no meterset"),
        (lambda d: setattr(d.IonBeamSequence[0], "FinalCumulativeMetersetWeight", "0"), "FinalCumulativeMetersetWeight is 0"),
        (
            lambda d: setattr(d.IonBeamSequence[0].IonControlPointSequence[0], "ScanSpotMetersetWeights", [1.0, -1, 1, 1]),
            "ScanSpotMetersetWeights is -1",
        ),
        (
            lambda d: setattr(d.IonBeamSequence[0].IonControlPointSequence[0], "NominalBeamEnergy", 20_000.0),
            "NominalBeamEnergy is 20000; expected 0.01 to 1000",
        ),
        (lambda d: setattr(d.IonBeamSequence[0].IonControlPointSequence[0], "ScanningSpotSize", [np.nan, 1]), "not finite"),
    ],
)
def test_plans_that_are_refused(change, message, tmp_path):
    with pytest.raises(IonrtError, match=message):
        plan(change, tmp_path)


def shifter(setting, thickness=30.0):
    return item(
        ReferencedRangeShifterNumber=1, RangeShifterSetting=setting, RangeShifterWaterEquivalentThickness=thickness,
        IsocenterToRangeShifterDistance=300.0,
    )  # fmt: skip


def point(data, k):
    return data.IonBeamSequence[0].IonControlPointSequence[k]


def late_shifter(data):
    point(data, 2).RangeShifterSettingsSequence = [shifter("IN")]


def shifter_taken_out(data):
    point(data, 0).RangeShifterSettingsSequence = [shifter("IN")]
    point(data, 2).RangeShifterSettingsSequence = [shifter("OUT")]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (late_shifter, "range shifters that change"),
        (shifter_taken_out, "range shifters that change"),
        (lambda d: setattr(point(d, 2), "IsocenterPosition", [0.0, 0.0, 20.0]), "isocentre that moves"),
        (lambda d: setattr(d.IonBeamSequence[0], "NumberOfBlocks", 1), "block"),
        (lambda d: setattr(d.IonBeamSequence[0], "NumberOfCompensators", 1), "compensator"),
        (lambda d: setattr(d.IonBeamSequence[0], "NumberOfBoli", 1), "bolus"),
        (lambda d: setattr(d.IonBeamSequence[0], "NumberOfRangeShifters", 1), "range shifter that may be in or out"),
    ],
)
def test_what_the_tables_of_a_plan_do_not_hold_gives_no_dose(change, word, tmp_path):
    with pytest.warns(IncompleteWarning, match=f"beam 1: {word}; the tables do not hold it"):
        found = plan(change, tmp_path)
    assert found.beams.hindered.tolist() == [word, ""]
    with pytest.raises(IonrtError, match=f"beam 1: {word}; expected a beam with nothing in its way"):
        recompute(None, found)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: delattr(d.IonBeamSequence[0], "PrimaryDosimeterUnit"), "no unit of its meterset stated"),
        (lambda d: setattr(d.IonBeamSequence[0], "PrimaryDosimeterUnit", "MINUTE"), "unit MINUTE of its meterset stated"),
        (lambda d: setattr(d.IonBeamSequence[0], "ModulatedScanModeType", "LINEAR"), "scan mode LINEAR"),
        (lambda d: setattr(d.IonBeamSequence[0], "ScanMode", "UNIFORM"), "scan mode UNIFORM"),
        (
            lambda d: setattr(d.FractionGroupSequence[0].ReferencedBeamSequence[0], "BeamMeterset", "0"),
            "its meterset is 0",
        ),
        (
            lambda d: [setattr(point(d, k), "CumulativeMetersetWeight", w) for k, w in enumerate((0.0, 8.0, 8.0, 16.0))],
            "cumulative weights and spot weights do not agree",
        ),
    ],
)
def test_what_a_plan_says_twice_or_not_at_all_is_said(change, word, tmp_path):
    with pytest.warns(IncompleteWarning, match=f"beam 1: {word}"):
        plan(change, tmp_path)


def test_weights_that_agree_need_no_word(tmp_path):
    def weights(data):
        for k, weight in enumerate((0.0, 4.0, 4.0, 16.0)):
            point(data, k).CumulativeMetersetWeight = weight
        data.IonBeamSequence[0].NumberOfRangeModulators = 1

    (said,) = plan(weights, tmp_path).assumed
    assert "range modulator in the beam; taken as part of the machine's base data" in said


def test_a_range_shifter_without_setting_or_distance_is_said(tmp_path):
    def bare(data):
        data.IonBeamSequence[0].NumberOfRangeShifters = 1
        one = shifter("IN")
        del one.RangeShifterSetting, one.IsocenterToRangeShifterDistance
        point(data, 0).RangeShifterSettingsSequence = [one]

    found = plan(bare, tmp_path)
    assert found.beams.range_shifter.tolist() == [30.0, 0.0] and not found.beams.hindered.any()
    setting, distance = found.assumed
    assert (
        "no setting of a range shifter (taken as in)" in setting and "no distance of a range shifter (taken as 0)" in distance
    )


def test_a_source_nearer_than_any_magnet_is_none(tmp_path):
    found = plan(lambda d: setattr(d.IonBeamSequence[0], "VirtualSourceAxisDistances", [0.0, 0.0]), tmp_path)
    assert found.assumed == ("beam 1: no virtual source distance from 500 mm on stated",)


def test_beams_that_are_missing_or_not_read_are_named(tmp_path):
    with pytest.warns(IncompleteWarning, match="a fraction group names 2 beams and says 3; the others are not known"):
        plan(lambda d: setattr(d.FractionGroupSequence[0], "NumberOfBeams", 3), tmp_path / "more")
    with pytest.warns(IncompleteWarning, match="names beam 2, which the plan does not hold"):
        plan(lambda d: d.IonBeamSequence.pop(), tmp_path / "lost")
    with pytest.warns(IncompleteWarning, match=r"beam 2 is no treatment beam \(CONTINUATION\)"):
        found = plan(lambda d: setattr(d.IonBeamSequence[1], "TreatmentDeliveryType", "CONTINUATION"), tmp_path / "other")
    assert found.beams.beam.tolist() == [1] and "CONTINUATION" in found.left_out[0]


# --- hostile files and folders


def test_pipes_links_and_devices_are_not_opened(tmp_path):
    folder = small.save(small.study(), tmp_path / "study")
    os.mkfifo(folder / "pipe.dcm")
    (folder / "self").symlink_to(folder / "self")
    (folder / "round").symlink_to(folder, target_is_directory=True)
    (folder / "zero").symlink_to("/dev/zero")
    assert "dose" in read_dicom(folder)
    small.save({"RN.dcm": small.ion_plan()}, folder)
    assert len(read_ion_plan(folder).beams) == 2
    with pytest.raises(IonrtError, match="expected a regular file"):
        read_dose(folder / "pipe.dcm")


def test_sizes_are_looked_at_before_memory_is_taken(tmp_path):
    folder = small.save(small.study(), tmp_path)
    data = pydicom.dcmread(folder / "RD.dcm")
    data.Rows = data.Columns = 65_535
    data.NumberOfFrames = 99_999
    data.save_as(folder / "RD.dcm")
    with pytest.raises(IonrtError, match="more than 1024 MB"):
        read_dose(folder / "RD.dcm")
    bomb = zlib.compressobj(9, wbits=-15)
    body = b"".join([*(bomb.compress(bytes(1 << 24)) for _ in range(40)), bomb.flush()])
    meta = b"\x02\x00\x10\x00UI" + struct.pack("<H", 22) + b"1.2.840.10008.1.2.1.99"
    (folder / "bomb.dcm").write_bytes(bytes(128) + b"DICM" + meta + body)
    assert len(body) < 1 << 20
    with pytest.raises(IonrtError, match=r"bomb\.dcm: inflates to more than 512 MB"):
        read_dicom(folder)


@pytest.mark.parametrize("closed", [True, False])
def test_sequences_a_thousand_deep(closed, tmp_path):
    """Items of undefined length within each other, more than any parser recurses."""
    depth = 5000
    opened = b"\x06\x30\x80\x00SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    ends = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00" * depth if closed else b""
    small.save({"RS.dcm": small.structure_set({})}, tmp_path)
    whole = (tmp_path / "RS.dcm").read_bytes()
    (tmp_path / "RS.dcm").write_bytes(whole + opened + ends)
    with pytest.raises(IonrtError, match=r"RS\.dcm: cannot be read|no CT series"):
        read_dicom(tmp_path)
