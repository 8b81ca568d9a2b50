"""What every DICOM object that we write has: identity, a name of its own, a file that is whole or not there."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydicom
import xarray as xr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from ionrt import __version__
from ionrt.files import atomic, content_hash
from ionrt.patient.ct import is_ct
from ionrt.patient.reading.dicom_files import Header, scan
from ionrt.quantities import IonrtError

IMPLEMENTATION = "2.25.150276391487906424513180926381475826127"
IDENTITY = {
    "name": "PatientName",
    "id": "PatientID",
    "birth": "PatientBirthDate",
    "sex": "PatientSex",
    "study": "StudyInstanceUID",
    "study_id": "StudyID",
    "date": "StudyDate",
    "time": "StudyTime",
    "study_description": "StudyDescription",
}


def series_of(patient: xr.Dataset, source: str | Path | None = None, *, what: str) -> tuple[Dataset, list[Header]]:
    """What identifies the patient's CT series, and the headers of its files: a Dataset carries no names."""
    folder, series = source or patient.attrs.get("source", ""), patient.attrs.get("series_instance_uid")
    mine = [h for h in scan(folder) if is_ct(h) and h.code("SeriesInstanceUID") == series]
    if not mine:
        raise IonrtError(f"{what}: {folder} holds no CT series {series}; expected the folder with the patient's CT")
    return pydicom.dcmread(mine[0].path, stop_before_pixels=True), mine


def identity_of(header: Dataset) -> dict[str, Any]:
    """Patient and study of a header, by the keys of `IDENTITY`."""
    return {k: header.get(keyword, "") for k, keyword in IDENTITY.items()}


def uid(*parts: object) -> str:
    """A UID that is always the same for the same parts (UUID form, PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, content_hash('ionrt', *parts)).int}"


def new_object(
    who: Dataset | Mapping[str, Any],
    sop_class: str,
    modality: str,
    instance: str,
    *,
    series: str,
    number: int,
    description: str,
    frame: str,
    place: int = 1,
) -> Dataset:
    """Patient, study, series, frame and equipment modules; `who` is a CT's header or an identity by the keys `IDENTITY`."""
    identity = identity_of(who) if isinstance(who, Dataset) else who
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = UID(sop_class), UID(instance), modality
    data.InstanceCreationDate, data.InstanceCreationTime = identity["date"], identity["time"]
    data.StudyDate, data.StudyTime, data.AccessionNumber = identity["date"], identity["time"], ""
    if modality != "RTSTRUCT":
        data.ContentDate, data.ContentTime = identity["date"], identity["time"]
    data.ReferringPhysicianName, data.OperatorsName = "", ""
    data.Manufacturer, data.ManufacturerModelName, data.InstitutionName = "ionrt", "ionrt", ""
    data.DeviceSerialNumber, data.SoftwareVersions = "0", __version__
    data.PatientName, data.PatientID = identity["name"], identity["id"]
    data.PatientBirthDate, data.PatientSex = identity.get("birth", ""), identity.get("sex", "")
    data.StudyInstanceUID, data.StudyID = identity["study"], identity.get("study_id", "1")
    data.StudyDescription = identity["study_description"]
    data.SeriesInstanceUID, data.SeriesNumber, data.InstanceNumber = series, number, place
    data.SeriesDescription = plain(description)
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame, ""
    return data


def item(**elements: Any) -> Dataset:
    """A sequence item."""
    data = Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


def add_pixels(data: Dataset, values: bytes, shape: tuple[int, int], *, bits: int, signed: bool) -> None:
    """Image pixel module and pixel data."""
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = shape
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(signed)
    data.add_new("PixelData", "OW", values)


def decimal(value: float) -> DSfloat:
    """A decimal string of at most 16 characters."""
    return DSfloat(float(value), auto_format=True)


def plain(text: str) -> str:
    """Text that fits LO: 64 characters, no backslash or control characters."""
    return "".join(c if c.isprintable() and c != "\\" else " " for c in text).strip()[:64]


def coded(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    """An item of a code sequence."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def meta_of(data: Dataset, syntax: UID = ExplicitVRLittleEndian) -> FileMetaDataset:
    """The file meta information of an object."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = syntax, UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "IONRT"
    return meta


def save(data: Dataset, path: Path) -> Path:
    """Write whole or not at all."""
    data.file_meta = meta_of(data)
    with atomic(path) as place:
        pydicom.dcmwrite(place, data, enforce_file_format=True)
    return path
