"""RTSTRUCT: choose the structure set that belongs to the CT and take its contours out."""

from __future__ import annotations

import warnings

import numpy as np
from pydicom.dataset import Dataset

from ionrt.patient.coverage import Contours
from ionrt.patient.dicom_files import Header, read_all
from ionrt.quantities import IonrtError

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")


def choose_structure_set(headers: list[Header], frame: str, wanted: str | None, ct_frames: set[str]) -> Header | None:
    """The structure set in the CT's frame of reference; None where the folder has none that could be meant.

    `ct_frames` are the frames of all CTs of the folder: a structure set of another CT is left alone, one that fits no CT is
    an error.
    """
    found = [h for h in headers if h.get("Modality") == "RTSTRUCT"]
    listing = "; ".join(f"{h.get('SOPInstanceUID')} ({h.get('StructureSetLabel', 'no label')}, {h.path.name})" for h in found)
    if wanted is not None:
        found = [h for h in found if h.get("SOPInstanceUID") == wanted]
        if not found:
            raise IonrtError(f"no structure set {wanted!r}; there are {listing or 'none'}")
    fitting = [h for h in found if not frame or not frames_of(h) or frame in frames_of(h)]
    if len(fitting) > 1:
        raise IonrtError(f"{len(fitting)} structure sets fit the CT: {listing}; choose one with structure_set=<its UID>")
    if fitting:
        if not frames_of(fitting[0]):
            warnings.warn(f"{fitting[0].path.name}: no frame of reference; associated with the CT by geometry", stacklevel=3)
        return fitting[0]
    strange = [h for h in found if not (frames_of(h) & ct_frames)]
    if strange:
        raise IonrtError(
            f"{strange[0].path.name}: the structure set belongs to frame of reference "
            f"{', '.join(sorted(frames_of(strange[0])))}, the CT to {frame}; expected the same"
            f" one: register it to this CT or remove it from the folder"
        )
    return None


def frames_of(header: Header) -> set[str]:
    """Frames of reference that a structure set names."""
    sequence = header.get("ReferencedFrameOfReferenceSequence") or []
    named = {str(item.get("FrameOfReferenceUID", "")) for item in sequence} | {str(header.get("FrameOfReferenceUID", ""))}
    return named - {""}


def read_contours(header: Header, images: set[str]) -> tuple[list[Contours], list[str]]:
    """All structures of the set in the order of their numbers, and their interpreted types ("" where none)."""
    data = read_all(header.path)
    for keyword in ("StructureSetROISequence", "ROIContourSequence"):
        if keyword not in data:
            raise IonrtError(f"{header.path.name}: {keyword} is missing; the structure set is truncated, export it again")
    names = _names(data)
    types = {
        int(o.get("ReferencedROINumber", -1)): str(o.get("RTROIInterpretedType") or "")
        for o in _sequence(data, "RTROIObservationsSequence")
    }
    items = {
        int(item.ReferencedROINumber): _sequence(item, "ContourSequence") for item in _sequence(data, "ROIContourSequence")
    }
    found = [_one(name, items.get(number, []), header.path.name) for number, name in names.items()]
    _check_references(items.values(), images, header.path.name)
    return found, [types.get(number, "") for number in names]


def _names(data: Dataset) -> dict[int, str]:
    """Number to name; a name that comes twice gets its number behind it."""
    rois = _sequence(data, "StructureSetROISequence")
    names: dict[int, str] = {}
    for roi in rois:
        number, name = int(roi.ROINumber), str(roi.get("ROIName") or f"ROI {roi.ROINumber}").strip()
        if name in names.values():
            warnings.warn(f"structure set: the name {name!r} comes twice; the second is {name} ({number})", stacklevel=4)
            name = f"{name} ({number})"
        names[number] = name
    return names


def _one(name: str, items: list[Dataset], file: str) -> Contours:
    """The closed contours of one structure; points and open lines enclose nothing and are left out."""
    parts = []
    for item in items:
        if item.get("ContourGeometricType") not in CLOSED:
            continue
        numbers = _decimals(item)
        if numbers.size % 3 or not np.isfinite(numbers).all():
            raise IonrtError(f"{file}: a contour of {name!r} has {numbers.size} coordinates; expected finite x, y, z triplets")
        if numbers.size >= 9:
            parts.append(numbers.reshape(-1, 3))
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    one = Contours(name, np.concatenate(parts) if parts else np.empty((0, 3)), lengths)
    one.axis()  # refuses oblique contours here, where the file is known
    return one


def _decimals(item: Dataset) -> np.ndarray:
    """Contour coordinates, parsed in one go: a decimal object per number would take seconds."""
    raw = item.get_item("ContourData")
    if raw is None:
        return np.empty(0)
    value = raw.value
    if isinstance(value, bytes):
        text = value.decode("ascii", "replace").strip(" \0")
        return np.array(text.split("\\") if text else [], dtype=float)
    return np.array(value if value is not None else [], dtype=float).ravel()


def _check_references(contours, images: set[str], file: str) -> None:
    """Warn where the referenced images are not the CT's: wrong UIDs are common and geometry decides."""
    named = {
        str(i.get("ReferencedSOPInstanceUID", ""))
        for items in contours
        for item in items
        for i in _sequence(item, "ContourImageSequence")
    }
    named.discard("")
    strange = len(named - images)
    if strange:
        warnings.warn(
            f"{file}: {strange} of {len(named)} referenced image UIDs are not among the CT slices;"
            " the frame of reference fits, geometry decides",
            stacklevel=4,
        )


def _sequence(data: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence, none where it is absent or empty."""
    return list(data.get(keyword) or [])
