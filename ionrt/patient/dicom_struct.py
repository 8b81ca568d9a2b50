"""RTSTRUCT: choose the structure set that belongs to the CT and take its contours out."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from ionrt.patient.geometry.coverage import Contours
from ionrt.patient.geometry.overlap import crossing, without_copies
from ionrt.patient.reading.dicom_files import Header, read_fields
from ionrt.patient.reading.door import DAMAGED, Fields
from ionrt.patient.reading.frames import frame_fault
from ionrt.patient.reading.notes import Notes
from ionrt.quantities import IonrtError

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
OPEN = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
FAR = 1e5  # mm
LONGEST_NAME = 64  # characters, as many as the standard allows


def choose_structure_set(
    headers: list[Header], frame: str, wanted: str | None, ct_frames: set[str], notes: Notes
) -> Header | None:
    """The structure set in the CT's frame of reference; None where the folder has none that could be meant.

    `ct_frames` are the frames of all CTs of the folder: a structure set of another CT is left alone, one that fits no CT is
    an error.
    """
    found = all_found = [h for h in headers if h.code("Modality") == "RTSTRUCT"]
    listing = "; ".join(f"{h.code('SOPInstanceUID')} ({h.text('StructureSetLabel', 'no label')}, {h.where})" for h in found)
    if wanted is not None:
        found = [h for h in found if h.code("SOPInstanceUID") == wanted]
        if not found:
            raise IonrtError(f"no structure set {wanted!r}; there are {listing or 'none'}")
    fitting = [h for h in found if not frame or not frames_of(h) or frame in frames_of(h)]
    if len(fitting) > 1:
        raise IonrtError(f"{len(fitting)} structure sets fit the CT: {listing}; choose one with structure_set=<its UID>")
    for header in all_found:
        if header not in fitting:
            notes.leave_out(f"{header.where}: structure set of another CT, or not the one asked for", quiet=True)
    if fitting:
        if not frames_of(fitting[0]):
            notes.assume(f"{fitting[0].where}: no frame of reference; associated with the CT by geometry")
        return fitting[0]
    strange = [h for h in found if not (frames_of(h) & ct_frames)]
    if strange:
        raise IonrtError(
            f"{strange[0].where}: the structure set belongs to frame of reference "
            f"{', '.join(sorted(frames_of(strange[0])))}, the CT to {frame}; expected the same"
            f" one: register it to this CT or remove it from the folder"
        )
    return None


def frames_of(header: Header) -> set[str]:
    """Frames of reference that a structure set names."""
    sequence = header.items("ReferencedFrameOfReferenceSequence")
    return ({item.uid("FrameOfReferenceUID") for item in sequence} | {header.uid("FrameOfReferenceUID")}) - {""}


def read_contours(header: Header, frame: str, images: set[str], notes: Notes) -> tuple[list[Contours], list[str]]:
    """All structures of the set in the CT's frame, in the order of the file, and their interpreted types ("" where none)."""
    data = read_fields(header.path, notes)
    for keyword in ("StructureSetROISequence", "ROIContourSequence"):
        if keyword not in data.data:
            raise data.error(keyword, "is missing; the structure set is truncated, export it again")
    drawn: dict[int, list[list[Fields]]] = defaultdict(list)  # number to the contours of each item that refers to it
    for item in data.items("ROIContourSequence"):
        drawn[item.integer("ReferencedROINumber")].append(item.items("ContourSequence"))
    rois = data.items("StructureSetROISequence")
    names = _names(rois, notes, data.where)
    types = _types(data)
    numbers = [roi.integer("ROINumber") for roi in rois]
    contours = _assigned(numbers, names, drawn, notes, data.where)
    several = len(frames_of(header)) > 1
    found, kinds = [], []
    for roi, number, name, items in zip(rois, numbers, names, contours, strict=True):
        if items is None:
            continue
        own = roi.uid("ReferencedFrameOfReferenceUID")
        if fault := frame_fault(frame, own):
            notes.leave_out(f"{data.where}: structure {name!r} {fault}")
            continue
        if several and not own:
            notes.assume(f"{data.where}: structure {name!r} does not say which of the set's frames of reference is its own")
        one = _one(name, items, data.where, notes)
        if one.flat_along() is None:
            notes.leave_out(f"{data.where}: structure {name!r} is drawn in oblique or non-planar contours; expected slices")
            continue
        if not len(one.lengths):
            notes.assume(f"{data.where}: structure {name!r} has no closed contours; it is empty", quiet=True)
        if number not in types:
            notes.assume(f"{data.where}: no interpreted type of structure {name!r} (no observation of it)", quiet=True)
        if len(mine := types.get(number, [""])) > 1:
            notes.assume(f"{data.where}: structure {name!r} has several interpreted types ({', '.join(mine)}); none is taken")
        for level, area in crossing(one):
            notes.assume(
                f"{data.where}: two contours of {name!r} at {level:.1f} mm overlap in part; the {area:.3g} cm2 in common are"
                " taken as outside (even-odd)"
            )
        found.append(one)
        kinds.append(mine[0] if len(mine) == 1 else "")
    _check_references([item for items in contours for item in items or ()], images, data.where, notes)
    return found, kinds


def _types(data: Fields) -> dict[int, list[str]]:
    """Number to its interpreted types; more than one where observations contradict each other."""
    found: dict[int, list[str]] = {}
    for one in data.items("RTROIObservationsSequence"):
        mine, kind = found.setdefault(one.integer("ReferencedROINumber", -1), []), one.code("RTROIInterpretedType")
        if kind not in mine:
            mine.append(kind)
    return {number: [k for k in mine if k] or [""] for number, mine in found.items()}


def _assigned(
    numbers: list[int], names: list[str], drawn: dict[int, list[list[Fields]]], notes: Notes, file: str
) -> list[list[Fields] | None]:
    """The contours of each structure; None where it cannot be said whose they are."""
    count, taken = Counter(numbers), Counter[int]()
    out: list[list[Fields] | None] = []
    for number, name in zip(numbers, names, strict=True):
        parts = drawn.get(number, [])
        if count[number] == 1:
            if len(parts) > 1:
                notes.assume(f"{file}: structure {name!r} has {len(parts)} items of contours (number {number}); taken together")
            out.append([contour for part in parts for contour in part])
        elif len(parts) == count[number]:
            notes.assume(f"{file}: number {number} belongs to {count[number]} structures; {name!r} gets its contours by order")
            out.append(parts[taken[number]])
            taken[number] += 1
        else:
            notes.leave_out(
                f"{file}: number {number} belongs to {count[number]} structures with {len(parts)} items of contours;"
                f" whose they are cannot be said: {name!r} is left out"
            )
            out.append(None)
    for number in drawn.keys() - set(numbers):
        if any(drawn[number]):
            notes.leave_out(f"{file}: contours of number {number}, which belongs to no structure")
    return out


def _names(rois: list[Fields], notes: Notes, file: str) -> list[str]:
    """One name per structure, no two alike: the first keeps a name, others get their number behind it."""
    given = []
    for i, roi in enumerate(rois):
        name = roi.text("ROIName")
        if not name:
            name = f"ROI {roi.integer('ROINumber', i + 1)}"
            notes.assume(f"{file}: a structure without a name is called {name!r}", quiet=True)
        if len(name) > LONGEST_NAME:
            notes.assume(f"{file}: a structure's name of {len(name)} characters is cut to {name[:LONGEST_NAME]!r}")
        given.append(name[:LONGEST_NAME].strip())
    names: list[str] = []
    for i, (roi, name) in enumerate(zip(rois, given, strict=True)):
        if name in names:
            number = roi.integer("ROINumber", i + 1)
            made, k = f"{name} ({number})", 2
            while made in names or made in given:
                made, k = f"{name} ({number}, {k})", k + 1
            notes.assume(f"{file}: the name {name!r} comes twice; the second is {made}")
            name = made
        names.append(name)
    return names


def _one(name: str, items: list[Fields], file: str, notes: Notes) -> Contours:
    """The closed contours of one structure; points and open lines enclose nothing and are left out."""
    parts: list[np.ndarray] = []
    other: Counter[str] = Counter()
    loud = False
    for item in items:
        kind = item.code("ContourGeometricType")
        try:
            numbers = item.numbers("ContourData", default=np.empty(0), low=-FAR, high=FAR)
        except IonrtError as error:
            raise IonrtError(f"{file}: structure {name!r}: {str(error).rsplit(': ', 1)[-1]}") from error
        if numbers.size % 3:
            raise IonrtError(
                f"{file}: a contour of {name!r} has {numbers.size} coordinates; expected finite x, y, z triplets; {DAMAGED}"
            )
        stated = item.integer("NumberOfContourPoints", numbers.size // 3)
        if stated != numbers.size // 3:
            notes.assume(f"{file}: a contour of {name!r} has {numbers.size // 3} points and says {stated}; taken as they are")
        if np.any(item.numbers("ContourOffsetVector", default=0.0, low=-FAR, high=FAR)):
            notes.assume(
                f"{file}: a contour of {name!r} states an offset (ContourOffsetVector), which is not added to its points"
            )
        if kind in CLOSED and numbers.size >= 9:
            parts.append(numbers.reshape(-1, 3))
        else:
            other[kind or "no type"] += 1
            loud |= kind not in OPEN or numbers.size >= 9
    for kind, n in other.items():
        notes.leave_out(f"{file}: {n} contour{'s' if n > 1 else ''} of {name!r} ({kind}) enclose nothing", quiet=not loud)
    kept = without_copies(parts)
    if len(kept) < len(parts):
        notes.leave_out(f"{file}: {len(parts) - len(kept)} contours of {name!r} are in the file twice; the copies are left out")
    lengths = np.array([len(part) for part in kept], dtype=np.int64)
    return Contours(name, np.concatenate(kept) if kept else np.empty((0, 3)), lengths)


def _check_references(items: list[Fields], images: set[str], file: str, notes: Notes) -> None:
    """Say where the referenced images are not the CT's: wrong UIDs are common and geometry decides."""
    named = {i.code("ReferencedSOPInstanceUID") for item in items for i in item.items("ContourImageSequence")} - {""}
    strange = len(named - images)
    if strange:
        notes.assume(
            f"{file}: {strange} of {len(named)} referenced image UIDs are not among the CT slices;"
            " the frame of reference fits, geometry decides"
        )
