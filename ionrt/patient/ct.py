"""CT slices, single-frame or frames of an enhanced object: where each lies, and its pixels in HU."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ionrt.patient.reading.dicom_files import Header, read_pixels
from ionrt.patient.reading.door import Fields
from ionrt.patient.reading.notes import Notes
from ionrt.quantities import IonrtError

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")  # and its legacy converted form
AIR = -1000.0  # HU
MOST_HU = 1e5  # the extended scale ends at 65,535
NOT_HU = ("OD", "MGML", "ED", "EDW", "PCT", "Z_EFF", "HU_MOD")  # rescale types of PS3.3 C.11.1.1.2 that are no CT numbers
UNCLEAR = 100.0  # HU above air: a padding value that tissue may have


@dataclass(frozen=True)
class Slice:
    """One slice: place (mm, LPS), direction cosines, pixel size (row, column), matrix, and what scales its pixels."""

    header: Header
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    shape: tuple[int, int]
    frame: int | None  # in a file of several
    scale: Fields | None  # of an enhanced object; a single-frame image carries it beside its pixels

    @property
    def uid(self) -> str:
        """Instance UID, with the frame's number behind it in a file of several."""
        uid = self.header.code("SOPInstanceUID")
        return uid if self.frame is None else f"{uid}#{self.frame + 1}"


def is_ct(header: Header) -> bool:
    """Whether a file is a CT image and no scout."""
    return header.code("SOPClassUID") in (CT_IMAGE, *ENHANCED_CT) and "LOCALIZER" not in header.codes("ImageType")


def slices_of(header: Header) -> list[Slice]:
    """The slice of a CT image, or every frame of an enhanced one."""
    shape = (header.integer("Rows", low=1, high=65_535), header.integer("Columns", low=1, high=65_535))
    if header.code("SOPClassUID") == CT_IMAGE:
        return [Slice(header, *_place(header, header, header), shape, None, None)]
    shared, frames = header.item("SharedFunctionalGroupsSequence"), header.items("PerFrameFunctionalGroupsSequence")
    if len(frames) != header.integer("NumberOfFrames", low=1):
        raise header.error("PerFrameFunctionalGroupsSequence", f"has {len(frames)} items; expected one per frame")
    found = []
    for i, own in enumerate(frames):

        def group(keyword: str, own: Fields = own) -> Fields:
            item = own.item(keyword) or (shared.item(keyword) if shared else None)
            if item is None:
                raise own.error(keyword, "is missing; expected it per frame or shared")
            return item

        place = _place(group("PlanePositionSequence"), group("PlaneOrientationSequence"), group("PixelMeasuresSequence"))
        found.append(Slice(header, *place, shape, i, group("PixelValueTransformationSequence")))
    return found


def _place(position: Fields, orientation: Fields, measures: Fields) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        position.numbers("ImagePositionPatient", 3, low=-1e5, high=1e5),
        orientation.numbers("ImageOrientationPatient", 6, low=-1.01, high=1.01),
        measures.numbers("PixelSpacing", 2, low=1e-3, high=1e3),
    )


def check_mixed(slices: list[Slice]) -> None:
    """All slices must share orientation, pixel spacing, matrix, frame of reference and patient position."""
    first = slices[0]
    for one in slices[1:]:
        for keyword, a, b in (
            ("ImageOrientationPatient", first.orientation, one.orientation),
            ("PixelSpacing", first.spacing, one.spacing),
            ("Rows", first.shape[0], one.shape[0]),
            ("Columns", first.shape[1], one.shape[1]),
            ("FrameOfReferenceUID", first.header.uid("FrameOfReferenceUID"), one.header.uid("FrameOfReferenceUID")),
            ("PatientPosition", first.header.code("PatientPosition"), one.header.code("PatientPosition")),
        ):
            if a is b or (np.allclose(a, b, atol=1e-4) if isinstance(a, np.ndarray) else a == b):
                continue
            raise IonrtError(
                f"CT: mixed {keyword} in one series: {_plain(a)} in {first.header.where}, {_plain(b)} in {one.header.where};"
                " expected one stack of equal slices: separate them or choose another series"
            )


def _plain(value: object) -> object:
    return [float(v) for v in value] if isinstance(value, np.ndarray) else value


@dataclass(frozen=True)
class Scaling:
    """What was done to the pixels of one slice: slope, intercept, the HU of padding (NaN: none), how many were padding."""

    slope: float
    intercept: float
    padding: float
    padded: int
    below: int  # voxels under any CT number that a scanner measures, and not declared as padding
    lowest: float  # HU that the pixels could hold
    kind: str  # rescale type
    cut: int  # pixels with bits beside the stored ones


def hounsfield(file: list[Slice]) -> list[tuple[np.ndarray, bytes, Scaling]]:
    """Slices of one file in HU, float32, with a digest of stored values and scaling each, in the order given."""
    stored, pixels, _ = read_pixels(file[0].header.path)
    return [_one(one, stored, pixels) for one in file]


def _one(one: Slice, stored: np.ndarray, pixels: Fields) -> tuple[np.ndarray, bytes, Scaling]:
    if one.frame is None and len(stored) != 1:
        raise IonrtError(f"{one.header.where}: {len(stored)} frames in a single-frame CT image; expected one")
    values = stored[one.frame or 0]
    if values.shape != one.shape:
        raise IonrtError(f"{one.header.where}: expected a {one.shape} matrix, got {values.shape}")
    scale = one.scale or pixels
    kind = scale.code("RescaleType", "HU")
    if kind in NOT_HU:
        raise scale.error("RescaleType", f"is {kind}; expected CT numbers in HU: this map cannot be taken for a CT")
    slope, intercept = scale.number("RescaleSlope", low=1e-6, high=1e3), scale.number("RescaleIntercept", low=-1e6, high=1e6)
    hu = values.astype(np.float32)
    hu *= np.float32(slope)
    hu += np.float32(intercept)
    lowest, highest = float(hu.min()), float(hu.max())
    if max(-lowest, highest) > MOST_HU:
        raise IonrtError(f"{one.header.where}: CT numbers from {lowest:g} to {highest:g} HU; expected less than {MOST_HU:g}")
    padding, padded = np.nan, 0
    if "PixelPaddingValue" in pixels:
        ends = [pixels.number(k) for k in ("PixelPaddingValue", "PixelPaddingRangeLimit") if k in pixels]
        if values.dtype.kind == "i":  # written as unsigned by some, whatever the pixels are
            ends = [e - 65_536 if e > 32_767 else e for e in ends]
        low, high = min(ends), max(ends)
        padding = high * slope + intercept
        if padding <= AIR + UNCLEAR:
            where = (values >= low) & (values <= high)
            padded = int(where.sum())
            hu[where] = AIR
    below = int((hu < -1100.0).sum()) if lowest < -1100.0 else 0
    digest = hashlib.sha256(values.tobytes()).digest() + np.array([slope, intercept]).tobytes()
    floor = -np.inf if values.dtype.kind == "i" else intercept
    return hu, digest, Scaling(slope, intercept, padding, padded, below, floor, kind, pixels.cut)


def note_scaling(scalings: list[Scaling], notes: Notes) -> None:
    """What the scaling of the slices leaves open."""
    if len({(s.slope, s.intercept) for s in scalings}) > 1:
        kinds = sorted({(s.slope, s.intercept) for s in scalings})
        notes.assume(
            f"CT: slices of one series have {len(kinds)} different rescale slopes and intercepts; each is taken as it says"
        )
    unclear = sorted({s.padding for s in scalings if s.padding > AIR + UNCLEAR})
    if unclear:
        notes.assume(f"CT: the padding value stands for {unclear[0]:g} HU, which tissue may have; left as it is")
    for kind in sorted({s.kind for s in scalings} - {"HU"}):  # "US" is unspecified, any other not in the standard
        notes.assume(f"CT: RescaleType is {kind}, which does not say HU; taken for HU")
    if scalings and (floor := min(s.lowest for s in scalings)) > AIR + UNCLEAR:
        notes.assume(
            f"CT: its pixels are unsigned with an intercept of {floor:g}, so that none can be below {floor:g} HU, nor be air;"
            " taken as written, but the intercept may be wrong"
        )
    if cut := sum(s.cut for s in scalings):
        notes.assume(f"CT: {cut} pixels have bits set beside those said to be stored (an overlay, or larger values); cut off")
    below = sum(s.below for s in scalings)
    if below:
        notes.assume(f"CT: {below} voxels lie below -1100 HU and are not declared as padding; left as they are")


def padding_of(scalings: list[Scaling]) -> str | None:
    """The attribute that says what happened to padding."""
    n = sum(s.padded for s in scalings)
    return f"{n} padding voxels read as {AIR:g} HU" if n else None
