"""DICOM out: RT dose for other systems, and the CT and structure set of synthetic phantoms."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import xarray as xr
from pydicom.dataset import Dataset

from ionrt.patient.ct import CT_IMAGE
from ionrt.patient.dicom_dose import COMMENTS, PER_FRACTION
from ionrt.patient.geometry.coverage import Contours, spacing
from ionrt.patient.geometry.grid import DIMS
from ionrt.patient.reading.frames import check_frame
from ionrt.patient.writing.objects import add_pixels, decimal, item, new_object, save, series_of, uid
from ionrt.quantities import QUANTITIES, IonrtError, check, defined, one_of

RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
RT_STRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"
KINDS = {"dose": ("GY", "PHYSICAL"), "rbe_dose": ("GY", "EFFECTIVE"), "let_d": ("RELATIVE", "PHYSICAL")}
DOSE_TYPES = {"physical": "dose", "effective": "rbe_dose", "let_d": "let_d"}


def write_rtdose(
    dose: xr.DataArray,
    patient: xr.Dataset,
    path: str | Path,
    *,
    fractions: int | None = None,
    dose_type: str | None = None,
    source: str | Path | None = None,
) -> Path:
    """Write a dose, an RBE-weighted dose or an LETd as RTDOSE.

    stored = round(value / scaling) in 32 bit, scaling = max / (2^32 - 1). `dose` is written as GY, PHYSICAL; `rbe_dose` as GY,
    EFFECTIVE; `let_d`, for which the standard has no quantity, as RELATIVE, never as GY. The RBE model or LET definition stands
    in the dose comment and the series description, and so does what the dose is of: with `fractions` it is multiplied by them
    and of the course (summation type PLAN), without it is of one session (FRACTION_SESSION, "per fraction").

    Parameters
    ----------
    dose : DataArray (z, y, x) named `dose` (Gy), `rbe_dose` (Gy (RBE)) or `let_d` (keV/um), uniform grid in mm (LPS).
    patient : Dataset of `read_dicom`; gives frame of reference and study.
    path : file to write; an existing one is replaced only by a complete one.
    fractions : of the course, for a dose per fraction as our plans have it; 1 for a dose that is the course's already. An LETd
        is that of the plan and takes none.
    dose_type : "physical", "effective" or "let_d"; needed where the DataArray has no such name.
    source : folder with the patient's CT, from which identity and study are taken; `patient.attrs["source"]` by default.

    Returns
    -------
    The path written.

    Raises
    ------
    IonrtError for other quantities, wrong units, values that are negative or not finite, an RBE-weighted dose without model,
    an LET without definition or with fractions, fractions that are no whole number >= 1, a source without that CT; for what is
    no dose or no patient.

    Reference: DICOM PS3.3 A.18, C.8.8.3.
    """
    for what, came, kind in (("dose", dose, xr.DataArray), ("patient", patient, xr.Dataset)):
        if not isinstance(came, kind):
            raise IonrtError(
                f"write_rtdose(dose, patient, path): expected {kind.__name__} as {what}, got {type(came).__name__}"
            )
    name = (
        DOSE_TYPES[one_of(dose_type, list(DOSE_TYPES), what="dose_type")]
        if dose_type
        else one_of(str(dose.name), list(KINDS), what="write_rtdose: quantity")
    )
    defined(check(dose, name, dims=DIMS), name, what="write_rtdose")
    values = np.asarray(dose.transpose(*DIMS).values, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0.0:
        raise IonrtError(
            f"write_rtdose: expected finite values >= 0, got {values.min():g} as the smallest; mask or fill them first"
        )
    if fractions is not None:
        if name == "let_d":
            raise IonrtError("write_rtdose: an LETd does not add up over fractions; leave fractions out")
        if isinstance(fractions, bool) or fractions != int(fractions) or fractions < 1:
            raise IonrtError(f"write_rtdose: fractions: expected a whole number of at least 1, got {fractions!r}")
        values = values * int(fractions)
    check_frame(patient, dose, what="write_rtdose: the dose", quiet=True)
    template, _ = series_of(patient, source, what="write_rtdose")
    data = _dose_object(name, dose, values, template, fractions)
    return save(data, Path(path))


def write_ct(ct: np.ndarray, coords: dict[str, np.ndarray], folder: Path, identity: dict[str, Any]) -> list[str]:
    """Write a volume in HU (z, y, x) as one CT file per slice; returns the instance UIDs, ascending in z."""
    stored = np.rint(ct).astype("<i2")
    instances = []
    for k, z in enumerate(coords["z"]):
        of = {"series": identity["series"], "description": identity["description"], "frame": identity["frame"]}
        data = new_object(identity, CT_IMAGE, "CT", uid(identity["series"], "slice", k), number=1, place=k + 1, **of)
        data.BodyPartExamined = identity["body_part"]
        data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        data.AcquisitionNumber, data.KVP, data.PatientPosition = 1, "120", "HFS"
        data.SliceThickness = decimal(spacing(coords["z"]))
        data.ImagePositionPatient = [decimal(coords["x"][0]), decimal(coords["y"][0]), decimal(z)]
        data.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        data.PixelSpacing = [decimal(spacing(coords["y"])), decimal(spacing(coords["x"]))]
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "0", "1", "HU"
        add_pixels(data, stored[k].tobytes(), stored.shape[1:], bits=16, signed=True)
        save(data, folder / f"CT.{k + 1:03d}.dcm")
        instances.append(str(data.SOPInstanceUID))
    return instances


def write_structure_set(
    found: Sequence[Contours], types: Sequence[str], images: dict[float, str], path: Path, identity: dict[str, Any]
) -> Path:
    """Write contours as RTSTRUCT; `images` maps slice position z to the instance UID of the CT slice. `identity` may
    have `label`, `digest` (of what is written) and `class` (of the images), too."""
    series, of = identity["series"], {"description": identity["description"], "frame": identity["frame"]}
    own = uid(series, "structure series")
    instance = uid(series, "structures", *([identity["digest"]] if "digest" in identity else []))
    data = new_object(identity, RT_STRUCT, "RTSTRUCT", instance, series=own, number=2, **of)
    data.StructureSetLabel = identity.get("label", "SYNTHETIC")
    data.StructureSetDate, data.StructureSetTime = identity["date"], identity["time"]
    data.ReferencedFrameOfReferenceSequence = [_frame_reference(images, identity)]
    data.StructureSetROISequence, data.ROIContourSequence, data.RTROIObservationsSequence = [], [], []
    for number, (one, kind) in enumerate(zip(found, types, strict=True), 1):
        data.StructureSetROISequence.append(
            item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=identity["frame"],
                ROIName=one.name,
                ROIGenerationAlgorithm="AUTOMATIC",
            )
        )
        data.ROIContourSequence.append(_roi_contours(number, one, images, identity.get("class", CT_IMAGE)))
        data.RTROIObservationsSequence.append(
            item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType=kind, ROIInterpreter="")
        )
    data.ApprovalStatus = "UNAPPROVED"
    return save(data, path)


def _dose_object(name: str, dose: xr.DataArray, values: np.ndarray, template: Dataset, fractions: int | None) -> Dataset:
    """The RTDOSE dataset. FRACTION would be a fraction group, all its fractions (PS3.3 C.8.8.3): one session is not that."""
    described = COMMENTS[name] + "".join(str(dose.attrs[key]) for key in QUANTITIES[name].carries)
    if name != "let_d":
        described += PER_FRACTION if fractions is None else f"; course of {fractions} fractions" * (fractions > 1)
    scaling = max(float(values.max()), 1e-6) / (2**32 - 1)
    digest = hashlib.sha256(values.tobytes()).hexdigest()
    series = template.SeriesInstanceUID
    data = new_object(
        template,
        RT_DOSE,
        "RTDOSE",
        uid(series, name, described, digest),
        series=uid(series, "dose", name, described),
        number=3,
        description=described,
        frame=template.FrameOfReferenceUID,
    )
    data.DoseComment = data.SeriesDescription
    x, y, z = (dose[dim].values for dim in ("x", "y", "z"))
    data.ImagePositionPatient = [decimal(x[0]), decimal(y[0]), decimal(z[0])]
    data.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    data.PixelSpacing, data.SliceThickness = [decimal(spacing(y)), decimal(spacing(x))], decimal(spacing(z))
    data.NumberOfFrames, data.FrameIncrementPointer = len(z), pydicom.tag.Tag("GridFrameOffsetVector")
    data.GridFrameOffsetVector = [decimal(value - z[0]) for value in z]
    data.DoseUnits, data.DoseType = KINDS[name]
    whole = fractions is not None or name == "let_d"
    data.DoseSummationType, data.TissueHeterogeneityCorrection = "PLAN" if whole else "FRACTION_SESSION", "IMAGE"
    factor = decimal(scaling)
    if float(factor) * (2**32 - 1) < values.max():  # rounding to 16 characters must not push the maximum out of 32 bit
        factor = decimal(scaling * (1.0 + 1e-9))
    data.DoseGridScaling = factor
    stored = np.rint(values / float(factor)).astype("<u4")
    add_pixels(data, stored.tobytes(), values.shape[1:], bits=32, signed=False)
    return data


def _frame_reference(images: dict[float, str], identity: dict[str, Any]) -> Dataset:
    """Frame of reference, study, series and slices that the structure set was drawn on."""
    kind = identity.get("class", CT_IMAGE)
    slices = [item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=one) for one in dict.fromkeys(images.values())]
    series = item(SeriesInstanceUID=identity["series"], ContourImageSequence=slices)
    study = item(
        ReferencedSOPClassUID=STUDY_COMPONENT, ReferencedSOPInstanceUID=identity["study"], RTReferencedSeriesSequence=[series]
    )
    return item(FrameOfReferenceUID=identity["frame"], RTReferencedStudySequence=[study])


def _roi_contours(number: int, one: Contours, images: dict[float, str], kind: str) -> Dataset:
    """The contours of one structure, each with the slice it lies on."""
    colour = [int(c) for c in hashlib.sha256(one.name.encode()).digest()[:3]]
    roi = item(ROIDisplayColor=colour, ReferencedROINumber=number)
    items = []
    for k, points in enumerate(np.split(one.points, np.cumsum(one.lengths)[:-1]) if len(one.lengths) else [], 1):
        image = item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=images[float(points[0, 2])])
        numbers = [decimal(value) for value in points.ravel()]
        items.append(
            item(
                ContourNumber=k,
                ContourImageSequence=[image],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=numbers,
            )
        )
    roi.ContourSequence = items
    return roi
