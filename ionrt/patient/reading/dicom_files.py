"""Files of a DICOM folder: which objects lie there, and the pixels of one of them. No geometry here."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from ionrt.patient.reading.decoder import decode_pixels
from ionrt.patient.reading.door import DAMAGED, Fields, files_of, in_short, read_dataset
from ionrt.patient.reading.notes import Notes
from ionrt.quantities import IonrtError

HEADER = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "PatientID", "StudyInstanceUID",
    "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "FrameOfReferenceUID", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "PatientPosition",
    "ReferencedFrameOfReferenceSequence", "StructureSetLabel", "BurnedInAnnotation", "PatientName",
    "DoseType", "DoseUnits", "DoseSummationType", "RTPlanLabel", "RadiationType",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
PIXELS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "PixelData", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "DoseGridScaling", "PixelPaddingValue", "PixelPaddingRangeLimit",
)  # fmt: skip
MOST_PIXELS = 1 << 30  # bytes of one file's decoded pixels


class Header(Fields):
    """What the reader needs to know of one file before it looks at pixels or contours."""

    def __init__(self, path: Path, data: Dataset, notes: Notes | None = None) -> None:
        super().__init__(data, path.name, notes=notes)
        self.path = path

    def get(self, keyword: str, default: Any = None) -> Any:
        """Value of an element as pydicom converts it, `default` where it is absent or empty."""
        try:
            value = self.data.get(keyword, default)
        except Exception as error:
            raise self.error(keyword, f"cannot be read ({in_short(error)}); {DAMAGED}") from error
        return default if value is None or value == "" else value

    def need(self, keyword: str) -> Any:
        """Value of an element that must be there."""
        value = self.get(keyword)
        if value is None:
            raise self.error(keyword, f"is missing; {DAMAGED}, export it again")
        return value


def scan(folder: str | Path, notes: Notes | None = None) -> list[Header]:
    """Headers of all DICOM files below a folder, whatever their names; other files are passed over."""
    root = Path(folder)
    if not os.path.isdir(root):
        raise IonrtError(f"{root}: expected a folder with DICOM files, and it does not exist or is not a folder")
    paths = list(files_of(root))
    found = [header for path in paths if (header := read_header(path, notes)) is not None]
    if not found:
        state = "is empty" if not paths else f"holds {len(paths)} files, none of them DICOM"
        raise IonrtError(f"{root}: the folder {state}; expected CT slices and a structure set")
    return found


def without_copies(headers: list[Header], notes: Notes) -> list[Header]:
    """Each object once: files that equal another of the same instance UID byte for byte are left out."""
    twice = Counter(h.code("SOPInstanceUID") for h in headers)
    kept: dict[tuple[object, ...], Header] = {}
    for header in headers:
        uid = header.code("SOPInstanceUID")
        mark = hashlib.sha256(header.path.read_bytes()).digest() if twice[uid] > 1 else header.path
        kept.setdefault((uid, mark), header)
    if n := len(headers) - len(kept):
        notes.leave_out(f"{n} file{'s' if n > 1 else ''} equal to another, byte for byte", quiet=True)
    return list(kept.values())


def read_header(path: Path, notes: Notes | None = None) -> Header | None:
    """The header of a file, None where it is not DICOM."""
    data = read_dataset(path, HEADER, pixels=False)
    return Header(path, data, notes) if data is not None and ("SOPClassUID" in data or "Modality" in data) else None


def read_all(path: Path) -> FileDataset:
    """A whole file; one that ends early is refused, where the parser would hand over a shorter one."""
    data = read_dataset(path)
    if data is None:
        raise IonrtError(f"{path.name}: cannot be read as DICOM; {DAMAGED}")
    try:
        whole = _is_whole(data)
    except Exception as error:
        raise IonrtError(f"{path.name}: cannot be read as DICOM ({in_short(error)}); {DAMAGED}") from error
    if not whole:
        raise IonrtError(f"{path.name}: the file is truncated: an element is shorter than it says; export it again")
    return data


def read_fields(path: Path, notes: Notes | None = None) -> Header:
    """A whole file as checked values."""
    return Header(path, read_all(path), notes)


def read_pixels(path: Path, data: FileDataset | None = None) -> tuple[np.ndarray, Fields, bytes]:
    """Stored values (frame, row, column) of a file (read already: `data`), its elements, and a digest of the values.

    Bits that are not part of the stored value (overlays, rubbish) are cut off; `cut` of the elements says of how many pixels.
    """
    data = data or read_dataset(path, PIXELS)
    if data is None:
        raise IonrtError(f"{path.name}: the pixels cannot be read; {DAMAGED}")
    fields = Fields(data, path.name)
    shape = (
        fields.integer("NumberOfFrames", 1, low=1, high=100_000),
        fields.integer("Rows", low=1, high=65_535),
        fields.integer("Columns", low=1, high=65_535),
    )
    bits = fields.integer("BitsAllocated", low=1, high=64)
    stored = fields.integer("BitsStored", bits, low=1, high=64)
    high = fields.integer("HighBit", stored - 1, low=0, high=63)
    signed = fields.integer("PixelRepresentation", 0, low=0, high=1)
    if fields.integer("SamplesPerPixel", 1, low=1, high=9) != 1 or bits not in (8, 16, 32) or not stored <= high + 1 <= bits:
        raise IonrtError(
            f"{path.name}: expected one sample of 8, 16 or 32 bits per pixel, got {fields.integer('SamplesPerPixel', 1)} of"
            f" {bits} ({stored} stored, high bit {high}); {DAMAGED}, or it is a colour image"
        )
    if math.prod(shape) * bits // 8 > MOST_PIXELS:
        raise IonrtError(f"{path.name}: declares {shape} voxels of {bits} bits, more than {MOST_PIXELS >> 20} MB; {DAMAGED}")
    if (kind := fields.code("PhotometricInterpretation", "MONOCHROME2")) not in ("MONOCHROME1", "MONOCHROME2"):
        raise fields.error(
            "PhotometricInterpretation", f"is {kind}; expected grey values: the pixels are places in a table of colours"
        )
    syntax = _syntax(data)  # a file without meta information is not encapsulated
    packed = bool(syntax) and (not syntax.is_transfer_syntax or syntax.is_compressed)
    raw = _decoded(data, fields, shape, bits, path) if packed else _native(data, fields, shape, bits)
    values = _stored(raw, bits, stored, high, bool(signed))
    fields.cut = _cut(raw, values, stored, high)
    return values, fields, hashlib.sha256(values.tobytes()).digest()


def _syntax(data: FileDataset) -> UID:
    try:
        return UID(str(data.file_meta.get("TransferSyntaxUID") or ""))
    except Exception:
        return UID("")


def _native(data: FileDataset, fields: Fields, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """Pixels that stand in the file as they are."""
    element = data.get_item("PixelData")
    value = getattr(element, "value", None)
    if not isinstance(value, bytes) or not value:
        raise fields.error("PixelData", "is missing: the pixels cannot be read; the file is truncated or holds no image")
    expected = math.prod(shape) * bits // 8
    if len(value) != expected + expected % 2 and len(value) != expected:
        state = "the file is truncated" if len(value) < expected else DAMAGED
        raise fields.error("PixelData", f"has {len(value)} bytes; expected {expected} for {shape} of {bits} bits; {state}")
    little = element.is_little_endian if isinstance(element, RawDataElement) else True
    if not little and bits == 8:
        raise fields.error("PixelData", "is 8 bit in big-endian order; expected little-endian: convert the file")
    return np.frombuffer(value, f"{'<' if little else '>'}u{bits // 8}", math.prod(shape)).reshape(shape)


def _decoded(data: FileDataset, fields: Fields, shape: tuple[int, ...], bits: int, path: Path) -> np.ndarray:
    """Pixels of an encapsulated file; the decoders are those that pydicom finds (python-gdcm is a dependency)."""
    try:
        values = decode_pixels(path)
    except IonrtError as error:
        raise IonrtError(
            f"{path.name}: the pixels cannot be read: {_syntax(data).name} ({error}); {DAMAGED}, or its decoder (python-gdcm)"
            " is not installed"
        ) from error
    if values.size != math.prod(shape):
        raise fields.error("PixelData", f"decodes to {values.size} pixels; expected {shape}; {DAMAGED}")
    return values.reshape(shape).astype(f"<i{bits // 8}", copy=False).view(f"<u{bits // 8}")


def _stored(raw: np.ndarray, bits: int, stored: int, high: int, signed: bool) -> np.ndarray:
    """Cut out the stored bits and give them their sign."""
    kind = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    if stored == bits:
        return raw.astype(raw.dtype.newbyteorder("=")).view(kind)
    up = bits - 1 - high
    shifted = np.left_shift(raw.astype(raw.dtype.newbyteorder("=")), np.array(up, raw.dtype.newbyteorder("=")))
    return np.right_shift(shifted.view(kind), np.array(bits - stored, kind))


def _cut(raw: np.ndarray, values: np.ndarray, stored: int, high: int) -> int:
    """Pixels that have bits set above the stored ones which are no sign of theirs."""
    if high + 1 == raw.dtype.itemsize * 8:
        return 0
    above = np.right_shift(raw.astype(raw.dtype.newbyteorder("=")), np.array(high + 1, raw.dtype.newbyteorder("=")))
    sign = np.where(values < 0, above.dtype.type(-1 % (1 << (raw.dtype.itemsize * 8 - high - 1))), above.dtype.type(0))
    return int(((above != 0) & (above != sign)).sum())


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
