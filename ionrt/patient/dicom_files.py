"""Files of a DICOM folder: which objects lie there, and the pixels of one of them. No geometry here."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError

from ionrt.quantities import IonrtError

HEADER = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesDescription", "SeriesNumber", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "PatientPosition", "ReferencedFrameOfReferenceSequence",
    "StructureSetLabel", "BurnedInAnnotation", "PatientName",
    "DoseType", "DoseUnits", "DoseSummationType", "RTPlanLabel", "RadiationType",
)  # fmt: skip
PIXELS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "PixelData", "RescaleSlope", "RescaleIntercept", "DoseGridScaling",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What the reader needs to know of one file before it looks at pixels or contours."""

    path: Path
    data: FileDataset

    def get(self, keyword: str, default: Any = None) -> Any:
        """Value of an element, `default` where it is absent or empty."""
        value = self.data.get(keyword, default)
        return default if value is None or value == "" else value

    def need(self, keyword: str) -> Any:
        """Value of an element that must be there."""
        value = self.get(keyword)
        if value is None:
            raise IonrtError(f"{self.path.name}: {keyword} is missing; the file is truncated or damaged, export it again")
        return value


def scan(folder: str | Path) -> list[Header]:
    """Headers of all DICOM files below a folder, whatever their names; other files are passed over."""
    root = Path(folder)
    if not root.is_dir():
        raise IonrtError(f"{root}: expected a folder with DICOM files, and it does not exist or is not a folder")
    paths = sorted(Path(base) / name for base, _, names in os.walk(root) for name in names if name != "DICOMDIR")
    found = [header for header in map(read_header, paths) if header is not None]
    if not found:
        state = "is empty" if not paths else f"holds {len(paths)} files, none of them DICOM"
        raise IonrtError(f"{root}: the folder {state}; expected CT slices and a structure set")
    return found


def read_header(path: Path) -> Header | None:
    """The header of a file, None where it is not DICOM."""
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER), force=_starts_bare(path))
    except InvalidDicomError:
        return None
    except Exception as error:  # whatever a damaged file makes the parser raise
        raise IonrtError(f"{path.name}: cannot be read as DICOM ({error}); the file is truncated or damaged") from error
    return Header(path, data) if "SOPClassUID" in data or "Modality" in data else None


def read_all(path: Path) -> FileDataset:
    """A whole file; one that ends early is refused, where the parser would hand over a shorter one."""
    try:
        data = pydicom.dcmread(path, force=_starts_bare(path))
        whole = _is_whole(data)
    except Exception as error:
        raise IonrtError(f"{path.name}: cannot be read as DICOM ({error}); the file is truncated or damaged") from error
    if not whole:
        raise IonrtError(f"{path.name}: the file is truncated: an element is shorter than it says; export it again")
    return data


def read_pixels(path: Path) -> tuple[np.ndarray, FileDataset, bytes]:
    """Stored pixel values of a file, the elements that scale them, and a digest of the values."""
    try:
        data = pydicom.dcmread(path, specific_tags=list(PIXELS), force=_starts_bare(path))
        values = data.pixel_array
    except Exception as error:
        raise IonrtError(
            f"{path.name}: the pixels cannot be read ({error}); the file is truncated, damaged or compressed in a way that"
            " needs decompressing first"
        ) from error
    return values, data, hashlib.sha256(values.tobytes()).digest()


def _is_whole(data: Dataset) -> bool:
    """Whether every element has the length it declares; only sequences without a length need a look inside."""
    for tag in data.keys():  # noqa: SIM118 (iterating the data set itself would convert every element)
        element = data.get_item(tag)
        if isinstance(element, RawDataElement):
            if element.value is not None and element.length != 0xFFFFFFFF and len(element.value) < element.length:
                return False
        elif element.VR == "SQ" and not all(_is_whole(item) for item in element.value or ()):
            return False
    return True


def _starts_bare(path: Path) -> bool:
    """Whether a file starts with a data element instead of the 128-byte preamble (old exports)."""
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] != b"DICM" and start[:2] in (b"\x02\x00", b"\x08\x00") and start[2:4] < b"\xff\x00"
