"""De-identification as somebody sees it who hides, finds or damages: a small SYNTHETIC study; more with IONRT_FUZZ=N."""

from __future__ import annotations

import io
import os
import re
import secrets
import unicodedata
from itertools import pairwise, product

import fuzz
import numpy as np
import pydicom
import pytest
from dicom_small import item
from identifiers import walk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from ionrt.patient import deidentify
from ionrt.patient.deid.deidentification import _as_they_are
from ionrt.patient.deid.dicom_clean import _Copy
from ionrt.quantities import IonrtError

KEY = "7f3a9c51e2d04b86a1c7f9e05d2b6384"
NAME, NUMBER, BIRTH = "Kim^Chulsoo=金^哲洙=김^철수", "00048213", "19530417"
FRAME, STUDY, CT_CLASS = "1.2.3.10", "1.2.3.20", "1.2.840.10008.5.1.4.1.1.2"
PLAIN = ("chulsoo", "CHULSOO", "Chulsoo", "kim c", "KIM C", "Kim C", "48213", "19530417", "530417", "17.04.1953")
WIDE = [w.encode(c) for w in ("김철수", "철수", "金哲洙", "哲洙") for c in ("utf-8", "cp949", "gb18030")
        if w.encode(c, "ignore").decode(c) == w]  # fmt: skip
NEEDLES = [w.encode() for w in PLAIN] + WIDE
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of what is planted


def common(kind: str, sop_class: str, n: int) -> Dataset:
    data = item(
        SpecificCharacterSet="ISO_IR 192", SOPClassUID=sop_class, SOPInstanceUID=f"1.2.3.7.{n}", Modality=kind,
        StudyInstanceUID=STUDY, SeriesInstanceUID=f"1.2.3.4{len(kind)}", FrameOfReferenceUID=FRAME, StudyDate="20250310",
        StudyTime="134512.25", PatientName=NAME, PatientID=NUMBER, PatientBirthDate=BIRTH, PatientSex="F", StudyID="1",
        AccessionNumber="", ReferringPhysicianName="", Manufacturer="ionrt", SeriesNumber="1", InstanceNumber=str(n),
    )  # fmt: skip
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def pixels(data: Dataset, values: np.ndarray) -> Dataset:
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = values.shape[-2:]
    data.BitsAllocated = data.BitsStored = 8 * values.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    return data


def study() -> dict[str, Dataset]:
    """CT of three slices with noise, two structures, a dose, an ion plan of one beam."""
    noise = np.random.default_rng(5)
    made = {}
    for k in range(3):
        hounsfield = noise.normal(20, 12, (40, 48)).astype("<i2") + np.where(np.hypot(*np.mgrid[-20:20, -24:24]) < 17, 0, -1000)
        data = common("CT", CT_CLASS, k + 1)
        data.ImageType, data.ImagePositionPatient, data.PixelSpacing = (
            ["ORIGINAL", "PRIMARY", "AXIAL"],
            [-48, -40, 3 * k],
            [2, 2],
        )
        data.ImageOrientationPatient, data.RescaleIntercept, data.RescaleSlope = [1, 0, 0, 0, 1, 0], 0, 1
        data.KVP, data.SliceThickness, data.PatientPosition = 120, 3, "HFS"
        made[f"CT{k}.dcm"] = pixels(data, hounsfield.astype("<i2"))
    rs = common("RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", 10)
    rs.StructureSetLabel, rs.StructureSetDate, rs.StructureSetTime = "S", "20250310", "101112"
    rs.ReferencedFrameOfReferenceSequence = [item(FrameOfReferenceUID=FRAME)]
    rs.StructureSetROISequence = [
        item(ROINumber=n, ReferencedFrameOfReferenceUID=FRAME, ROIName=name, ROIGenerationAlgorithm="MANUAL")
        for n, name in enumerate(("CTV", "Heart"), 1)
    ]
    rs.ROIContourSequence, rs.RTROIObservationsSequence = [], []
    for n in (1, 2):
        square = [[-9.5 * n, -9.25, z, 9.5, -9.25, z, 9.5, 9.125, z] for z in (0, 3)]
        contour = [item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=3, ContourData=points) for points in square]
        rs.ROIContourSequence.append(item(ReferencedROINumber=n, ContourSequence=contour))
        rs.RTROIObservationsSequence.append(
            item(ObservationNumber=n, ReferencedROINumber=n, RTROIInterpretedType="ORGAN", ROIInterpreter="")
        )
    rd = common("RTDOSE", "1.2.840.10008.5.1.4.1.1.481.2", 20)
    rd.DoseUnits, rd.DoseType, rd.DoseSummationType, rd.DoseGridScaling = "GY", "PHYSICAL", "PLAN", "0.0001"
    rd.ImagePositionPatient, rd.ImageOrientationPatient, rd.PixelSpacing = [-20, -20, 0], [1, 0, 0, 0, 1, 0], [4, 4]
    rd.NumberOfFrames, rd.GridFrameOffsetVector, rd.FrameIncrementPointer = 2, [0, 3], 0x3004000C
    dose = 20000 * np.exp(-(np.hypot(*np.mgrid[-6:6, -6:6]) ** 2) / 9)
    pixels(rd, np.stack([dose, dose / 2]).astype("<u2"))
    rn = common("RTPLAN", "1.2.840.10008.5.1.4.1.1.481.8", 30)
    rn.RTPlanLabel, rn.RTPlanGeometry, rn.RTPlanDate, rn.RTPlanTime = "P", "PATIENT", "20250310", "101112"
    point = item(
        ControlPointIndex=0, NominalBeamEnergy="120.5", CumulativeMetersetWeight=0, ScanSpotTuneID="4.0",
        ScanSpotPositionMap=[1.5, -2.5, 3, 4],
        ScanSpotMetersetWeights=[10, 20], NumberOfScanSpotPositions=2, GantryAngle=90, IsocenterPosition=[0, 0, 0],
    )  # fmt: skip
    rn.IonBeamSequence = [
        item(BeamNumber=1, BeamName="b", BeamType="STATIC", RadiationType="ION", RadiationAtomicNumber=6,
             RadiationMassNumber=12, FinalCumulativeMetersetWeight=30, PrimaryDosimeterUnit="NP",
             IonControlPointSequence=[point], NumberOfControlPoints=1, SnoutSequence=[item(SnoutID="S1")])
    ]  # fmt: skip
    rn.FractionGroupSequence = [
        item(FractionGroupNumber=1, NumberOfFractionsPlanned=12, ReferencedBeamSequence=[item(ReferencedBeamNumber=1)])
    ]
    return {**made, "RS.dcm": rs, "RD.dcm": rd, "RN.dcm": rn}


def saved(objects: dict[str, Dataset], folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in objects.items():
        _as_they_are(correct_ambiguous_vr(data, True), implicit=False)  # else what is planted is decoded and encoded on the way
        data.save_as(folder / name, enforce_file_format=True)
    return folder


def drawn(values: np.ndarray, value: int) -> np.ndarray:
    """KIM in letters of five by seven."""
    letters = (
        "10001 10010 10100 11000 10100 10010 10001",
        "01110 00100 00100 00100 00100 00100 01110",
        "10001 11011 10101 10101 10001 10001 10001",
    )
    for n, letter in enumerate(letters):
        for row, line in enumerate(letter.split()):
            for column, bit in enumerate(line):
                if bit == "1":
                    values[3 + row, 2 + 6 * n + column] = value
    return values


def ct(**elements):
    return lambda s: [setattr(s["CT1.dcm"], k, v) for k, v in elements.items()]


def raw_in(name, keyword, vr, value, find=lambda data: data):
    def plant(s):
        tag = pydicom.tag.Tag(keyword)
        find(s[name])[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)

    return plant


def rows(name, change):
    def plant(s):
        data = s[name]
        kind = "<i2" if data.PixelRepresentation else "<u2"
        values = np.frombuffer(data.PixelData, kind).reshape(-1, data.Rows, data.Columns).copy()
        change(values)
        data.PixelData = values.tobytes()

    return plant


def spelled(values):
    values[0, 0, :5] = np.frombuffer(b"KIMCHULSOO", values.dtype)


def upright(s):
    s["CT1.dcm"].ImageOrientationPatient, s["CT1.dcm"].SeriesInstanceUID = [1, 0, 0, 0, 0, -1], "1.2.3.99"


def number(s):
    rs = s["RS.dcm"]
    rs.StructureSetROISequence[1].ROINumber = rs.ROIContourSequence[1].ReferencedROINumber = 48213
    rs.RTROIObservationsSequence[1].ReferencedROINumber = 48213
    rs.StructureSetROISequence[1].ROIName = "node"
    rs.ROIContourSequence[0].ContourSequence[0].ContourNumber = 48213


def padded(s):
    ct(PixelPaddingValue=-2000, PixelPaddingRangeLimit=32767)(s)
    rows("CT1.dcm", spelled)(s)


def beam(data):
    return data.IonBeamSequence[0]


ATTACKS = {
    "overlay": lambda s: s["CT1.dcm"].add_new(0x60003000, "OW", b"KIM CHULSOO "),
    "curve": lambda s: s["CT1.dcm"].add_new(0x50003000, "OW", b"KIM CHULSOO "),
    "icon": ct(IconImageSequence=[item(Rows=2, Columns=6, BitsAllocated=8, PixelData=b"KIM CHULSOO ")]),
    "trailing": ct(DataSetTrailingPadding=b"KIM CHULSOO "),
    "preamble": lambda s: setattr(s["CT1.dcm"], "preamble", b"KIM CHULSOO".ljust(128, b"\0")),
    "text in DS": raw_in("CT1.dcm", "DataCollectionDiameter", "DS", b"KIM CHULSOO "),
    "number in IS": raw_in("CT1.dcm", "Exposure", "IS", b"48213 "),
    "birth date in IS": raw_in("CT1.dcm", "XRayTubeCurrent", "IS", b"530417"),
    "text in FD": raw_in("CT1.dcm", "SingleCollimationWidth", "FD", b"KIM CHULSOO 0017"),
    "text in spots": raw_in("RN.dcm", "ScanSpotPositionMap", "FL", b"KIM CHULSOO 1953",
                            lambda d: beam(d).IonControlPointSequence[0]),
    "text in AT": raw_in("RD.dcm", "FrameIncrementPointer", "AT", b"KIM CHULSOO "),
    "text in US": raw_in("CT1.dcm", "PixelPaddingValue", "US", b"KIM CHULSOO "),
    "name in CS": ct(BodyPartExamined="KIM CHULSOO"),
    "image type": ct(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "KIM CHULSOO"]),
    "standard root": ct(IrradiationEventUID="1.2.840.10008.48213", InstanceCreatorUID="1.2.840.10008.1.19530417"),
    "time and zone": ct(TimezoneOffsetFromUTC="+0900", AcquisitionDateTime="20250310134512.482130+0900"),
    "age and weight": ct(PatientAge="095Y", PatientWeight="148.213", PatientSize="1.53"),
    "structure": lambda s: [setattr(r, "ROIName", n) for r, n in zip(
        s["RS.dcm"].StructureSetROISequence, ("PTV_48213", "김철수"), strict=True)],
    "structure words": lambda s: setattr(s["RS.dcm"].StructureSetROISequence[0], "ROIName", "Kim CTV"),
    "structure number": number,
    "devices": lambda s: [setattr(beam(s["RN.dcm"]), "BeamName", "Kim C"),
                          setattr(beam(s["RN.dcm"]).SnoutSequence[0], "SnoutID", "Kim C"),
                          setattr(beam(s["RN.dcm"]).IonControlPointSequence[0], "ScanSpotTuneID", "48213")],
    "comments": lambda s: [setattr(s["RD.dcm"], k, "dose in water, Kim Chulsoo") for k in ("DoseComment", "SeriesDescription")],
    "codes": lambda s: setattr(s["RS.dcm"].RTROIObservationsSequence[0], "RTROIIdentificationCodeSequence", [
        item(CodeValue="48213", CodingSchemeDesignator="SCT", CodeMeaning="Heart"),
        item(CodeValue="80891009", CodingSchemeDesignator="SCT", CodeMeaning="Kim Chulsoo")]),
    "maker": ct(Manufacturer="Kim C", ManufacturerModelName="Chulsoo", SoftwareVersions="17.04.1953",
                ConvolutionKernel="KIM C"),
    "EUC-KR undeclared": raw_in("CT1.dcm", "ConvolutionKernel", "SH", "김철수".encode("cp949")),
    "GB18030": raw_in("CT1.dcm", "ManufacturerModelName", "LO", "金哲洙".encode("gb18030")),
    "ISO 2022 JP": raw_in("CT1.dcm", "Manufacturer", "LO", "金哲洙".encode("iso2022_jp", "ignore")),
    "character set": ct(SpecificCharacterSet="ISO_IR 100", StationName="KIM CHULSOO"),
    "private": lambda s: s["CT1.dcm"].private_block(0x11, "KIM CHULSOO", create=True).add_new(1, "LO", "48213"),
    "file meta": lambda s: setattr(s["CT1.dcm"].file_meta, "SourceApplicationEntityTitle", "KIM CHULSOO"),
    "pixels of a CT": rows("CT1.dcm", spelled),
    "pixels of a dose": rows("RD.dcm", spelled),
    "padding range": padded,
    "histogram": lambda s: setattr(s["RD.dcm"], "DVHSequence", [item(DVHType="KIM CHULSOO", DVHData=[1, 48213])]),
    "after the pixels": lambda s: setattr(s["CT1.dcm"], "PixelData", s["CT1.dcm"].PixelData + b"KIM CHULSOO "),
    "fragment of its own": lambda s: fragment(s["CT1.dcm"], b"KIM CHULSOO "),
    "pixels in a sequence": ct(SourceImageSequence=[item(PixelData=b"KIM CHULSOO ", Rows=1, Columns=6, BitsAllocated=8)]),
    "pixels of floats": raw_in("RD.dcm", "FloatPixelData", "OF", b"KIM CHULSOO "),
    "text in UL": raw_in("CT1.dcm", "SimpleFrameList", "UL", b"KIM CHULSOO "),
    "text in SL": raw_in("CT1.dcm", "DisplayedAreaTopLeftHandCorner", "SL", b"KIM CHULSOO 1953"),
    "text in contour": raw_in("RS.dcm", "ContourData", "DS", b"1\\2\\KIM CHULSOO ",
                              lambda d: d.ROIContourSequence[0].ContourSequence[0]),
    "contour image": lambda s: setattr(s["RS.dcm"].ROIContourSequence[0].ContourSequence[0], "ContourImageSequence",
                                       [item(ReferencedSOPClassUID=CT_CLASS, ReferencedSOPInstanceUID="1.2.3.48213.19530417")]),
    "number in a frame UID": lambda s: [setattr(d, "FrameOfReferenceUID", "1.2.48213.19530417") for d in s.values()],
    "name reordered": lambda s: setattr(s["RS.dcm"], "StructureSetLabel", "Chulsoo, Kim"),
    "initials": lambda s: setattr(s["RN.dcm"], "RTPlanLabel", "K.C. boost"),
    "number with zeros": lambda s: setattr(s["RS.dcm"].StructureSetROISequence[0], "ROIName", "CTV_0000048213"),
    "birth date in a name": lambda s: setattr(s["RS.dcm"], "StructureSetName", "CTV 17/04/1953"),
    "birth date in words": lambda s: setattr(beam(s["RN.dcm"]), "BeamDescription", "born 17 Apr 1953"),
    "time of a dose": lambda s: [setattr(s["RD.dcm"], k, "134512.482130") for k in ("ContentTime", "InstanceCreationTime")],
    "number of a beam": lambda s: [
        setattr(beam(s["RN.dcm"]), "BeamNumber", 48213),
        setattr(s["RN.dcm"].FractionGroupSequence[0].ReferencedBeamSequence[0], "ReferencedBeamNumber", 48213)],
    "number of a group": lambda s: setattr(s["RN.dcm"].FractionGroupSequence[0], "FractionGroupNumber", 48213),
    "instance number": ct(InstanceNumber="48213", SeriesNumber="48213", AcquisitionNumber="48213"),
    "private in private": lambda s: s["CT1.dcm"].private_block(0x11, "X", create=True).add_new(
        1, "SQ", [item(PatientName=NAME, ImageComments="KIM CHULSOO 48213")]),
    "observer": lambda s: [setattr(s["RS.dcm"].RTROIObservationsSequence[0], k, "Kim Chulsoo")
                           for k in ("ROIInterpreter", "ROIObservationLabel", "ROIObservationDescription")],
    "approval": lambda s: [setattr(s["RN.dcm"], k, v) for k, v in (
        ("ApprovalStatus", "APPROVED"), ("ReviewerName", NAME), ("ReviewDate", BIRTH), ("ReviewTime", "134512.25"))],
}  # fmt: skip
PLAIN_B64, PLAIN_HEX, REVERSED = b"S2ltIENodWxzb28", b"4b696d2043", b"oosluhC miK"
OWN = {  # kinds of our own, with what else is looked for
    "address": (lambda s: s["CT1.dcm"].add_new("RetrieveURL", "UR", "http://pacs/48213/KIM CHULSOO"), ()),
    "digits of full width": (lambda s: roi(s, "\uff14\uff18\uff12\uff11\uff13"), ("\uff14\uff18".encode(),)),
    "syllables taken apart": (lambda s: roi(s, unicodedata.normalize("NFD", "\uae40\ucca0\uc218")), (b"\xe1\x84\x80\xe1\x85",)),
    "letters of no width between": (lambda s: roi(s, "Chul\u200bsoo"), (b"Chul\xe2\x80\x8b",)),
    "right to left": (lambda s: roi(s, "\u202eoosluhC miK"), (REVERSED,)),
    "backwards": (lambda s: setattr(beam(s["RN.dcm"]), "BeamName", "oosluhC miK"), (REVERSED,)),
    "base 64": (lambda s: setattr(beam(s["RN.dcm"]), "BeamDescription", PLAIN_B64.decode()), (PLAIN_B64,)),
    "hexadecimal": (lambda s: setattr(beam(s["RN.dcm"]), "TreatmentMachineName", PLAIN_HEX.decode()), (PLAIN_HEX,)),
    "behind a zero": (raw_in("CT1.dcm", "Manufacturer", "LO", b"ionrt\0KIM CHULSOO"), ()),
    "second value": (ct(SoftwareVersions=["1.0", "KIM CHULSOO"], ConvolutionKernel=["STANDARD", "48213"]), ()),
    "lines": (raw_in("CT1.dcm", "ManufacturerModelName", "LO", b"model\r\nKim C "), ()),
    "control characters": (raw_in("CT1.dcm", "Manufacturer", "LO", b"\x1b]0;KIM CHULSOO\x07"), ()),
    "overlay of another group": (lambda s: s["CT1.dcm"].add_new(0x60120022, "LO", "Kim Chulsoo"), ()),
    "tag of nobody": (raw_in("CT1.dcm", 0x00089999, "UN", b"KIM CHULSOO "), ()),
    "document": (lambda s: s["CT1.dcm"].add_new("EncapsulatedDocument", "OB", b"%PDF KIM CHULSOO 48213"), ()),
    "wave": (ct(WaveformSequence=[item(WaveformData=b"KIM CHULSOO ", WaveformBitsAllocated=8, ChannelLabel="Kim C")]), ()),
    "graphics": (ct(GraphicAnnotationSequence=[item(TextObjectSequence=[item(UnformattedTextValue="Kim Chulsoo")])]), ()),
    "setup": (lambda s: setattr(s["RN.dcm"], "PatientSetupSequence", [
        item(PatientSetupNumber=1, PatientPosition="HFS", SetupTechniqueDescription="Kim Chulsoo on the couch",
             FixationDeviceSequence=[item(FixationDeviceType="MASK", FixationDeviceLabel="48213",
                                          FixationDeviceDescription="mask of Kim Chulsoo")])]), ()),
    "dose reference": (lambda s: setattr(s["RN.dcm"], "DoseReferenceSequence", [
        item(DoseReferenceNumber=1, DoseReferenceUID="1.2.3.48213", DoseReferenceDescription="Kim C",
             DoseReferenceType="TARGET", DoseReferenceStructureType="SITE")]), ()),
    "tolerance": (lambda s: setattr(s["RN.dcm"], "ToleranceTableSequence", [
        item(ToleranceTableNumber=1, ToleranceTableLabel="Kim Chulsoo")]), ()),
    "accessory": (lambda s: setattr(beam(s["RN.dcm"]), "RangeShifterSequence", [
        item(RangeShifterNumber=1, RangeShifterID="Kim C", AccessoryCode="48213", RangeShifterType="BINARY")]), ()),
    "prescription": (lambda s: [setattr(s["RN.dcm"], "PrescriptionDescription", "Kim Chulsoo, 17.04.1953"),
                                setattr(s["RN.dcm"], "RTPlanDescription", "Kim Chulsoo"),
                                setattr(s["RN.dcm"], "TreatmentSites", "Kim Chulsoo")], ()),
    "twice declared": (ct(SpecificCharacterSet=["", "ISO 2022 IR 149"], Manufacturer="\uae40\ucca0\uc218"), ()),
    "file and folder name": (lambda s: s.update({"KIM CHULSOO 48213.dcm": s.pop("CT1.dcm")}), (b"CHULSOO", b"48213")),
}  # fmt: skip


def roi(s, name):
    s["RS.dcm"].StructureSetROISequence[0].ROIName = name


def fragment(data, text):
    """Run-length coded pixels with one fragment too many."""
    data.compress(RLELossless)
    frames = list(generate_fragments(data.PixelData))[1:]
    data.PixelData = encapsulate([frames[0]]) + b""
    data.PixelData = data.PixelData[:-8] if data.PixelData.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0") else data.PixelData
    data.PixelData += b"\xfe\xff\x00\xe0" + len(text).to_bytes(4, "little") + text
    data["PixelData"].is_undefined_length = True


@pytest.mark.parametrize("attack", [*ATTACKS, *OWN])
def test_what_is_hidden_does_not_leave(tmp_path, attack):
    """Gone, or the run or the object refused; no message shows what it was. IONRT_FUZZ_TABLE names a file for the counts."""
    objects, (plant, also) = study(), OWN.get(attack) or (ATTACKS[attack], ())
    plant(objects)
    source = saved(objects, tmp_path / "in")
    needles = {
        *NEEDLES,
        *also,
        b"095Y",
        b"148.2",
        b"0900",
        b"134512",
        b"K.C.",
        b"17/04/1953",
        b"17 Apr 1953",
        "金哲".encode("iso2022_jp")[3:7],
    }
    plain = saved(study(), tmp_path / "plain")
    tried = sum(max(found(source, [n]) - found(plain, [n]), 0) for n in needles)
    assert tried
    try:
        table = deidentify(source, tmp_path / "out", key=KEY)
    except IonrtError as error:
        assert "chulsoo" not in str(error).lower() and "48213" not in str(error) and not (tmp_path / "out").exists()
        left, how = 0, "refused"
    else:
        written = list((tmp_path / "out").iterdir())
        assert sorted(table["file"][table["file"] != ""]) == sorted(p.name for p in written)
        assert len(written) >= len(objects) - 1
        left, how = found(tmp_path / "out", needles), "gone" if len(written) == len(objects) else "object refused"
    if place := os.environ.get("IONRT_FUZZ_TABLE"):
        with open(place, "a", encoding="utf-8") as file:
            file.write(f"{'own' if attack in OWN else 'given'}\t{attack}\t{tried}\t{left}\t{how}\n")
    assert left == 0


def found(folder, needles):
    """How often they stand in the files of a folder and in their names."""
    raw = b"\n".join(p.name.encode() + b"\n" + p.read_bytes() for p in sorted(folder.iterdir()))
    return sum(raw.count(needle) for needle in needles)


def test_the_kinds_are_counted():
    assert len(ATTACKS) >= 55 and len(OWN) >= 20 and not set(ATTACKS) & set(OWN)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rows("CT1.dcm", lambda v: drawn(v[0], 1400)), "text drawn"),
        (rows("CT1.dcm", lambda v: drawn(v[0], 3071)), "text drawn"),
        (upright, "scout"),
        (ct(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "scout"),
        (ct(SeriesDescription="Topogram 0.6 T20f"), "scout"),
        (ct(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), "secondary capture"),
        (ct(PhotometricInterpretation="MONOCHROME1"), "grey-scale"),
        (ct(ConversionType="WSD"), "secondary capture"),
    ],
)
def test_images_that_may_hold_text_are_refused_whatever_the_flags_say(tmp_path, change, reason):
    objects = study()
    change(objects)
    objects["CT1.dcm"].BurnedInAnnotation = "NO"
    table = deidentify(saved(objects, tmp_path / "in"), tmp_path / "out", key=KEY).set_index("source")
    assert reason in table.loc["CT1.dcm", "reason"] and table.loc["CT1.dcm", "file"] == ""
    assert (table["file"] != "").sum() == len(objects) - 1, "the others go"


def test_unused_bits_carry_nothing_and_values_stay(tmp_path):
    objects = study()
    data = objects["CT1.dcm"]
    data.BitsStored, data.HighBit = 12, 11
    values = np.frombuffer(data.PixelData, "<i2") & 0x0FFF
    data.PixelData = (values | 0x5000).astype("<i2").tobytes()
    table = deidentify(saved(objects, tmp_path / "in"), tmp_path / "out", key=KEY).set_index("source")
    new = np.frombuffer(pydicom.dcmread(tmp_path / "out" / table.loc["CT1.dcm", "file"]).PixelData, "<i2")
    np.testing.assert_array_equal(new & 0x0FFF, values)
    assert set(np.unique(new >> 12)) <= {0, -1}


@pytest.mark.parametrize(
    "key", ["a" * 16, "k" * 32, "password" * 4, "0123456789abcdef", "12345678" * 3, "ab" * 16, b"\0" * 40, "short"]
)
def test_keys_that_can_be_guessed_are_refused(tmp_path, key):
    with pytest.raises(IonrtError, match="that nobody can guess") as caught:
        deidentify(saved(study(), tmp_path / "in"), tmp_path / "out", key=key)
    assert str(key) not in str(caught.value)


def test_keys_made_by_chance_are_taken_and_never_shown(tmp_path, monkeypatch):
    from ionrt.patient.deid.deidentification import _secret

    for key in [secrets.token_hex(16) for _ in range(200)] + [secrets.token_bytes(16) for _ in range(200)]:
        assert repr(_secret(key)) == "Secret()"
    monkeypatch.setattr(_Copy, "_empty", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        deidentify(saved(study(), tmp_path / "in"), tmp_path / "out", key=KEY)
    frames = [
        entry.frame.f_locals for entry in caught.traceback if "ionrt" in str(entry.path) and "tests" not in str(entry.path)
    ]
    assert frames and not any(KEY in repr(value) for frame in frames for value in frame.values())


def test_one_study_one_patient_and_nothing_overwritten(tmp_path):
    objects = study()
    objects["RS.dcm"].PatientID = objects["RS.dcm"].PatientName = ""
    objects["RN.dcm"].PatientID = "OTHER-7"
    source = saved(objects, tmp_path / "in")
    (source / "copy.dcm").write_bytes((source / "RD.dcm").read_bytes())
    os.mkfifo(source / "pipe")
    table = deidentify(source, tmp_path / "out", key=KEY).set_index("source")
    new = [pydicom.dcmread(p) for p in (tmp_path / "out").iterdir()]
    assert len({d.PatientID for d in new}) == len({d.StudyDate for d in new}) == 1
    assert "copy" in " ".join(table["reason"]) and (table["file"] != "").sum() == len(new) == len(objects)
    assert "patient ID" in table.loc["RS.dcm", "note"] and "patient ID" in table.loc["RN.dcm", "note"]
    objects["RD.dcm"].SOPInstanceUID = objects["RN.dcm"].SOPInstanceUID
    with pytest.raises(IonrtError, match=r"RD.dcm and RN.dcm: different objects with the same SOP instance UID"):
        deidentify(saved(objects, tmp_path / "twice"), tmp_path / "none", key=KEY)


LATIN = (
    "Li", "An", "Oh", "Yi", "Gu", "Kim", "Lee", "Rome", "Heart", "Lung", "Plan", "Park", "Abe", "Sato", "Ueda", "Choi",
    "Mori", "Ptv", "Ctv", "Brain", "Kobayashi", "Yamamoto", "Hashimoto", "Nakagawa", "Mustermann", "Planar", "Closed",
    "Axial", "Patient", "Beam", "Gantry", "Proton", "Carbon", "Static", "Manual", "Organ", "Primary", "Original",
    "Schulze", "Weissenberg", "Bartholomew",
)  # fmt: skip
KOREAN = [a + b for a, b in product("김이박최정강조윤", ("", "민준", "서연", "철수", "하나"))]
JAPANESE = [
    a + b
    for a, b in product(
        ("山田", "佐藤", "鈴木", "高橋", "中", "林", "小笠原", "勅使河原"), ("", "太郎", "花子", "一", "さくら")
    )
]
TERMS = [
    "Plan",
    "PATIENT",
    "CLOSED_PLANAR",
    "POINT",
    "ORGAN",
    "CTV",
    "GTV",
    "EXTERNAL",
    "MANUAL",
    "AXIAL",
    "PRIMARY",
    "ORIGINAL",
    "HFS",
    "MONOCHROME2",
    "GY",
    "PHYSICAL",
    "STATIC",
    "ION",
    "NP",
]
NAMES = (
    [f"{a}^{b}" for a, b in pairwise(LATIN)] + [f"{x}^{y}" for x, y in product(LATIN[:10], LATIN[10:18])] + KOREAN + JAPANESE
)


def protected(data: Dataset) -> list[tuple]:
    """Geometry, types and codes, by place."""
    kept = {"DS", "FL", "FD", "US", "OW"}
    terms = {"ContourGeometricType", "RTROIInterpretedType", "ROIGenerationAlgorithm", "Modality", "RTPlanGeometry",
             "DoseUnits", "PhotometricInterpretation", "DoseType", "DoseSummationType", "RadiationType", "BeamType",
             "PatientPosition"}  # fmt: skip
    found = []
    for place, part, vr in walk(data):
        if vr in kept or pydicom.datadict.keyword_for_tag(place[-1]) in terms:
            found.append((place, str(part[place[-1]].value)))
    return found


def free_text(data: Dataset) -> str:
    made = (data.DeidentificationMethod, *(str(c.CodeMeaning) for c in data.DeidentificationMethodCodeSequence))
    words = [str(part[p[-1]].value) for p, part, vr in walk(data) if vr in ("LO", "SH", "LT", "ST", "UT", "PN")]
    return " ".join(w for w in words if w not in made)


def check_name(tmp_path, name: str, label: str) -> None:
    objects = study()
    for data in objects.values():
        data.PatientName = name
    objects["RS.dcm"].StructureSetLabel, objects["RN.dcm"].RTPlanLabel = label, label
    objects["RS.dcm"].StructureSetROISequence[1].ROIName = name.replace("^", " ")
    source = saved(objects, tmp_path / "in")
    table = deidentify(source, tmp_path / "out", key=KEY)
    assert not table["reason"].any() and len(table) == len(objects)
    for row in table.itertuples():
        before, after = pydicom.dcmread(source / row.source), pydicom.dcmread(tmp_path / "out" / row.file)
        assert protected(before) == protected(after), row.source
        left = set(re.findall(r"\w+?(?=_|\b)", free_text(after).casefold()))
        assert not left & {part.casefold() for part in name.split("^") if len(part) > 1}, (row.source, left)


@pytest.mark.parametrize(("vr", "value"), [("SS", -2000), ("SS", -32768), ("SS", 0), ("US", 63536)])
def test_a_padding_value_of_any_scanner_stays(tmp_path, vr, value):
    """Bytes that are no text, in an element that is US or SS."""
    objects = study()
    images = [name for name, data in objects.items() if data.Modality == "CT"]
    for name in images:
        objects[name].add_new("PixelPaddingValue", vr, value)
    source = saved(objects, tmp_path / "in")
    table = deidentify(source, tmp_path / "out", key=KEY).set_index("source")
    for name in images:
        before, after = pydicom.dcmread(source / name), pydicom.dcmread(tmp_path / "out" / table.loc[name, "file"])
        assert after.PixelPaddingValue % 65_536 == value % 65_536 and after.PixelData == before.PixelData


@pytest.mark.parametrize("n", range(max(10, min(len(NAMES), int(os.environ.get("IONRT_FUZZ") or 0)))))
def test_names_and_labels_change_nothing_that_is_measured(tmp_path, n):
    """Every fourteenth name in continuous integration, more by option; the label is one of the defined terms."""
    many = bool(os.environ.get("IONRT_FUZZ"))
    k = n if many else n * (len(NAMES) // 10)
    check_name(tmp_path, NAMES[k], TERMS[k % len(TERMS)])


def test_mutated_files_are_cleaned_or_refused(tmp_path):
    """Never another exception, never for ever; what comes out holds no name."""
    objects = study()
    names = list(objects)
    source, count = saved(objects, tmp_path / "in"), iter(range(10**9))
    whole = {name: (source / name).read_bytes() for name in names}

    def attempt(rng: np.random.Generator) -> str:
        name = names[rng.integers(len(names))]
        if rng.random() < 0.6:
            mutant = io.BytesIO()
            try:
                fuzz.mutate_dicom(rng, pydicom.dcmread(io.BytesIO(whole[name])))[0].save_as(mutant)
            except (TypeError, ValueError, AttributeError):
                return ""  # a mutant that pydicom itself cannot write is no file
            (source / name).write_bytes(mutant.getvalue())
        else:
            (source / name).write_bytes(fuzz.mutate_bytes(rng, whole[name])[0])
        out = tmp_path / f"out{next(count)}"
        try:
            deidentify(source, out, key=KEY)
            raw = b"".join(p.read_bytes() for p in out.iterdir())
            return "; ".join(str(n) for n in NEEDLES[:5] if n in raw)
        finally:
            (source / name).write_bytes(whole[name])

    fuzz.hold(attempt, seeds=(1,), n=None if os.environ.get("IONRT_FUZZ") else 25)


@pytest.mark.parametrize("what", ["NumberOfWedges", "NumberOfBoli"])
def test_a_plan_with_a_wedge_or_bolus_is_not_sent_without_it(tmp_path, what):
    objects = study()
    setattr(beam(objects["RN.dcm"]), what, 1)
    with pytest.raises(IonrtError, match=rf"RN\.dcm.*{what}"):
        deidentify(saved(objects, tmp_path / "in"), tmp_path / "out", key=KEY)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("1.2.840.10008.5.1.4.1.1.2.1", "Enhanced CT Image Storage"), ("1.2.840.10008.5.1.4.1.1.66.3", "Deformable Spatial Reg")],
)
def test_objects_without_a_list_are_refused_by_name(tmp_path, kind, name):
    objects = study()
    objects["RN.dcm"].SOPClassUID = objects["RN.dcm"].file_meta.MediaStorageSOPClassUID = kind
    table = deidentify(saved(objects, tmp_path / "in"), tmp_path / "out", key=KEY).set_index("source")
    assert name in table.loc["RN.dcm", "reason"] and not table.loc["RN.dcm", "file"]
