"""A small SYNTHETIC study from scratch, in memory: CT of 6 slices, structure set, plan dose, RT Ion Plan of two beams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

FRAME, SERIES, STUDY, PLAN = "1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.840.10008.5.1.4.1.1.481.8"
Z = np.arange(6) * 3.0 - 6.0
BOX = ((-10.0, -8.0), (10.0, -8.0), (10.0, 8.0), (-10.0, 8.0))  # 20 x 16 mm


def item(**elements) -> Dataset:
    data = Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


def common(modality: str, sop_class: str, instance: str) -> Dataset:
    return item(
        SOPClassUID=sop_class, SOPInstanceUID=instance, Modality=modality, PatientName="SYNTHETIC", PatientID="S1",
        StudyInstanceUID=STUDY, FrameOfReferenceUID=FRAME, SpecificCharacterSet="ISO_IR 192",
    )  # fmt: skip


def slice_of(k: int, *, z: float | None = None, orientation=(1, 0, 0, 0, 1, 0), position=None) -> Dataset:
    """40 HU in the box, air around; 16 x 16 pixels of 2 mm."""
    data = common("CT", "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.9.{k}")
    data.SeriesInstanceUID, data.ImageType = SERIES, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient = position or [-15.0, -15.0, float(Z[k]) if z is None else z]
    data.ImageOrientationPatient, data.PixelSpacing = list(orientation), [2.0, 2.0]
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = "1", "-1024", "HU"
    pixels(data, np.pad(np.full((8, 10), 1064 + k, "<u2"), ((4, 4), (3, 3)), constant_values=24), 16)
    return data


def pixels(data: Dataset, values: np.ndarray, bits: int) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.Rows, data.Columns = values.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.add_new("PixelData", "OW", values.tobytes())


def contour(z: float, points=BOX, kind: str = "CLOSED_PLANAR") -> Dataset:
    numbers = [f"{v:g}" for x, y in points for v in (x, y, z)]
    return item(ContourGeometricType=kind, NumberOfContourPoints=len(points), ContourData=numbers)


def structure_set(structures: dict[str, list[Dataset]]) -> Dataset:
    """Structures by name, numbered from 1."""
    data = common("RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", "1.2.3.4")
    data.StructureSetLabel = "SYNTHETIC"
    data.ReferencedFrameOfReferenceSequence = [item(FrameOfReferenceUID=FRAME)]
    data.StructureSetROISequence = [
        item(ROINumber=i, ROIName=name, ReferencedFrameOfReferenceUID=FRAME) for i, name in enumerate(structures, 1)
    ]
    data.ROIContourSequence = [
        item(ReferencedROINumber=i, ContourSequence=drawn) for i, drawn in enumerate(structures.values(), 1)
    ]
    data.RTROIObservationsSequence = [
        item(ObservationNumber=i, ReferencedROINumber=i, RTROIInterpretedType="ORGAN") for i in range(1, len(structures) + 1)
    ]
    return data


def dose(value: float = 2.0, instance: str = "1.2.3.5", *, z=Z) -> Dataset:
    """A plan dose on the CT's grid."""
    data = common("RTDOSE", "1.2.840.10008.5.1.4.1.1.481.2", instance)
    data.DoseUnits, data.DoseType, data.DoseSummationType, data.DoseComment = "GY", "PHYSICAL", "PLAN", ""
    data.ImagePositionPatient, data.ImageOrientationPatient = [-15.0, -15.0, float(z[0])], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.NumberOfFrames, data.DoseGridScaling = [2.0, 2.0], len(z), "0.001"
    data.GridFrameOffsetVector = [float(v - z[0]) for v in z]
    pixels(data, np.full((len(z), 16, 16), round(value * 1000), "<u4"), 32)
    return data


def ion_plan(beams: int = 2) -> Dataset:
    """Carbon, two layers of four spots per beam, each written as two control points."""
    data = common("RTPLAN", PLAN, "1.2.3.6")
    data.RTPlanLabel = "SYNTHETIC"
    data.PatientSetupSequence = [item(PatientSetupNumber=1, PatientPosition="HFS")]
    reference = [item(ReferencedBeamNumber=b, BeamMeterset="8e6", BeamDose="1.0") for b in range(1, beams + 1)]
    data.FractionGroupSequence = [
        item(FractionGroupNumber=1, NumberOfFractionsPlanned=12, NumberOfBeams=beams, ReferencedBeamSequence=reference)
    ]
    data.IonBeamSequence = [_beam(b) for b in range(1, beams + 1)]
    return data


def _beam(number: int) -> Dataset:
    points = []
    for k, (energy, weight) in enumerate(((200.0, 1.0), (200.0, 0.0), (210.0, 3.0), (210.0, 0.0))):
        point = item(ControlPointIndex=k, NominalBeamEnergy=energy, CumulativeMetersetWeight=0.0)
        point.NumberOfScanSpotPositions, point.ScanSpotTuneID, point.NumberOfPaintings = 4, "1", 1
        point.ScanSpotPositionMap, point.ScanSpotMetersetWeights = [-2.0, -2, 2, -2, 2, 2, -2, 2], [weight] * 4
        point.ScanningSpotSize = [6.0, 6.0]
        if k == 0:
            point.GantryAngle, point.PatientSupportAngle, point.IsocenterPosition = 90.0 * number, 0.0, [0.0, 0, 1.5]
        points.append(point)
    return item(
        BeamNumber=number, BeamName=f"field {number}", RadiationType="ION", RadiationMassNumber=12, RadiationAtomicNumber=6,
        RadiationChargeState=6, TreatmentDeliveryType="TREATMENT", PrimaryDosimeterUnit="NP", ReferencedPatientSetupNumber=1,
        VirtualSourceAxisDistances=[2000.0, 2000.0], FinalCumulativeMetersetWeight="16", NumberOfControlPoints=4,
        IonControlPointSequence=points,
    )  # fmt: skip


STRUCTURES = {"CTV": range(1, 5), "Cord": range(6)}  # slices


def study() -> dict[str, Dataset]:
    """File names to objects: CTV on four slices, cord on all."""
    found = {f"CT.{k}.dcm": slice_of(k) for k in range(len(Z))}
    found["RS.dcm"] = structure_set({name: [contour(Z[k]) for k in on] for name, on in STRUCTURES.items()})
    found["RD.dcm"] = dose()
    return found


def save(objects: dict[str, Dataset], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in objects.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not hasattr(data, "file_meta"):
            data.file_meta = FileMetaDataset()
            data.file_meta.MediaStorageSOPClassUID = data.get("SOPClassUID", "1.2")
            data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID", "1.2")
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.save_as(folder / name, enforce_file_format=True)
    return folder
