"""RTDOSE in: scaling, frame offsets, units and type kept; a dose stays on its own grid."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import xarray as xr

from ionrt.files import content_hash
from ionrt.patient.geometry.grid import DIMS, affine, layout
from ionrt.patient.reading.dicom_files import Header, read_fields, read_header, read_pixels
from ionrt.patient.reading.frames import frame_fault
from ionrt.patient.reading.notes import Notes
from ionrt.quantities import IonrtError, stamp

COMMENTS = {"dose": "absorbed dose", "rbe_dose": "RBE-weighted dose, ", "let_d": "LETd [keV/um], "}  # as written
PER_FRACTION = "; per fraction"
MOST = {"dose": 1e5, "rbe_dose": 1e5, "let_d": 1e5, "relative_dose": 1e9}  # Gy, keV/um: no plan goes there
LET, RBE = (re.compile(f"(?<![A-Z]){word}(?![A-Z])") for word in ("LET", "RBE"))  # LETd, doseAveragedLET; no PALLET
TAKEN = "the only plan dose of this quantity in the CT's frame of reference and on its grid"


def read_dose(path: str | Path) -> xr.DataArray:
    """Read one RTDOSE file on its own grid.

    value = DoseGridScaling * stored. PHYSICAL in GY becomes `dose` (Gy); EFFECTIVE in GY becomes `rbe_dose`
    (Gy (RBE)), with the comment of the file as its model; RELATIVE whose comment names an LET becomes `let_d` (keV/um).
    Frames lie at ImagePositionPatient + offset * normal where the first offset is 0, and at z = offset where it is not.

    Parameters
    ----------
    path : the RTDOSE file.

    Returns
    -------
    DataArray (z, y, x), float32, voxel centres in mm (LPS), with the attributes `dose_units`, `dose_type`,
    `dose_summation_type`, `dose_comment`, `frame_of_reference_uid`, `affine`, `content_hash`, and `assumed` where the file
    leaves something open (which warns).

    Raises
    ------
    IonrtError for a file that is no RTDOSE, holds no dose grid (DVH only), is damaged, or has an oblique or non-uniform grid.

    Valid for dose grids in the patient's axes; reference: DICOM PS3.3 C.8.8.3.
    """
    notes = Notes()
    header = read_header(Path(path), notes)
    if header is None or header.code("Modality") != "RTDOSE":
        raise IonrtError(f"{path}: expected an RTDOSE file, got {header.code('Modality') if header else 'no DICOM file'}")
    dose = _dose(header, notes)
    dose.attrs |= notes.attrs(strict=False)
    return dose


def doses_of(patient: xr.Dataset, doses: list[Header], folder: Path, wanted: str | None, notes: Notes) -> xr.Dataset:
    """Add the plan dose of each quantity that lies on the patient's grid; name the others in `doses_elsewhere`, with reasons.

    One odd file does not stop the others: what cannot be read is left out by name. Where two plan doses of one quantity lie on
    the grid, neither is taken unless `wanted` is the instance UID of one.
    """
    elsewhere: dict[str, str] = {}
    fitting: dict[str, list[tuple[str, xr.DataArray]]] = {}
    for header in doses:
        name = header.path.relative_to(folder).as_posix()
        if fault := frame_fault(patient.attrs["frame_of_reference_uid"], header.uid("FrameOfReferenceUID")):
            elsewhere[name] = fault
            continue
        try:
            dose = _dose(header, notes)
        except IonrtError as error:
            elsewhere[name] = str(error)
            notes.leave_out(f"dose left out: {error}")
            continue
        if not dose.any():
            notes.assume(f"{name}: the dose is 0 everywhere; taken as it is")
        kind = dose.attrs["dose_summation_type"]
        if kind != "PLAN":
            elsewhere[name] = f"dose of type {kind or 'not stated'}, not of a plan"
        elif not all(dose.sizes[d] == patient.sizes[d] and np.allclose(dose[d], patient[d], atol=1e-3) for d in DIMS):
            elsewhere[name] = "on a grid of its own"
        else:
            if not header.uid("FrameOfReferenceUID"):
                notes.assume(f"{name}: no frame of reference; associated with the CT by geometry")
            fitting.setdefault(str(dose.name), []).append((name, dose))
    for quantity, found in fitting.items():
        asked = [(n, d) for n, d in found if wanted is not None and d.attrs["sop_instance_uid"] == wanted]
        chosen = (asked or found)[0]
        if len(found) > 1 and len(asked) != 1:
            if len({d.attrs["content_hash"] for _, d in found}) > 1:
                listing = ", ".join(n for n, _ in found)
                elsewhere |= {n: f"one of {len(found)} plan doses of {quantity} on the CT's grid" for n, _ in found}
                notes.leave_out(
                    f"{len(found)} plan doses of {quantity} lie on the CT's grid ({listing}): none is taken; choose one with"
                    " dose=<its SOPInstanceUID>"
                )
                continue
            notes.assume(f"{', '.join(n for n, _ in found)}: the same plan dose {len(found)} times; taken once")
        elsewhere |= {n: "not the plan dose that was asked for, or the same again" for n, _ in found if n != chosen[0]}
        why = "asked for by its instance UID" if asked else TAKEN
        dose = chosen[1].assign_coords({dim: patient[dim] for dim in DIMS})
        patient[quantity] = dose.assign_attrs(source_file=chosen[0], chosen=why)
    if wanted is not None and all(d.attrs["sop_instance_uid"] != wanted for found in fitting.values() for _, d in found):
        raise IonrtError(f"no plan dose {wanted!r} on the CT's grid; there are {', '.join(h.where for h in doses) or 'none'}")
    if elsewhere:
        patient.attrs["doses_elsewhere"] = "\n".join(sorted(elsewhere))
        patient.attrs["doses_elsewhere_why"] = "\n".join(elsewhere[n] for n in sorted(elsewhere))
    return patient


def _dose(header: Header, notes: Notes) -> xr.DataArray:
    """One RTDOSE as a stamped DataArray."""
    data = read_fields(header.path, notes)
    if "PixelData" not in data:
        raise IonrtError(f"{header.where}: holds no dose grid (no pixels: a histogram only, or an empty object)")
    stored, _, digest = read_pixels(header.path)
    orientation = data.numbers("ImageOrientationPatient", 6, low=-1.01, high=1.01)
    positions = _positions(data, len(stored), orientation, notes)
    spacing = data.numbers("PixelSpacing", 2, low=1e-3, high=1e3)
    form = layout(positions, orientation, spacing, stored.shape[1:], what=header.where)
    factor = data.number("DoseGridScaling", low=0.0, high=1e6)
    if not factor > 0.0:
        raise IonrtError(f"{header.where}: DoseGridScaling is {factor:g}; expected a positive factor")
    values = form.arrange((stored[form.order] * factor).astype(np.float32))
    attrs = {
        "dose_units": data.code("DoseUnits"),
        "dose_type": data.code("DoseType"),
        "dose_summation_type": data.code("DoseSummationType"),
        "dose_comment": data.text("DoseComment"),
        "frame_of_reference_uid": data.uid("FrameOfReferenceUID"),
        "sop_instance_uid": data.code("SOPInstanceUID"),
        "affine": affine(form.coords),
        "content_hash": content_hash(digest, factor, affine(form.coords)),
    }
    dose = _named(xr.DataArray(values, dims=DIMS, coords=form.coords), attrs, header, notes)
    highest, lowest = float(dose.max()), float(dose.min())
    if highest > MOST[str(dose.name)]:
        raise IonrtError(
            f"{header.where}: the largest {dose.name} is {highest:g} {dose.attrs['units']}; {MOST[str(dose.name)]:g} at most"
        )
    if lowest < 0.0:
        notes.assume(f"{header.where}: values down to {lowest:g} {dose.attrs['units']} (a difference, or an error); kept")
    return dose


def _named(values: xr.DataArray, attrs: dict, header: Header, notes: Notes) -> xr.DataArray:
    """Give the values the quantity that units, type and comment of the file state."""
    units, kind, comment = attrs["dose_units"], attrs["dose_type"], attrs["dose_comment"].strip()
    stated = _stated(comment)
    if units == "CGY":
        notes.assume(f"{header.where}: DoseUnits CGY, which the standard does not have; taken as 0.01 Gy", quiet=True)
        values, units = values * np.float32(0.01), "GY"
    if units == "GY" and kind == "PHYSICAL":
        if RBE.search(comment):
            notes.assume(f"{header.where}: DoseType PHYSICAL, and its comment ({comment}) names an RBE; taken as absorbed dose")
        return stamp(values, "dose", **attrs)
    if units == "GY" and kind == "EFFECTIVE":
        return stamp(values, "rbe_dose", rbe_model=stated or f"as imported: {comment or 'not stated'}", **attrs)
    described = comment if LET.search(comment) else header.text("SeriesDescription")
    if units == "RELATIVE" and LET.search(described):
        return stamp(values, "let_d", let_definition=stated or f"as imported: {described}", **attrs)
    if units != "RELATIVE":
        raise IonrtError(
            f"{header.where}: DoseUnits {units or 'not stated'}, DoseType {kind or 'not stated'}; expected GY with PHYSICAL or"
            " EFFECTIVE, or RELATIVE"
        )
    values.name, values.attrs = "relative_dose", {"units": "1", **attrs}
    return values


def _stated(comment: str) -> str | None:
    """The model or LET definition in a comment that `write_rtdose` wrote."""
    for prefix in COMMENTS.values():
        if prefix.endswith(", ") and comment.startswith(prefix):
            return comment.removeprefix(prefix).split("; ")[0]
    return None


def _positions(data: Header, frames: int, orientation: np.ndarray, notes: Notes) -> np.ndarray:
    """Place of each frame (n, 3): offsets along the normal from the first, or absolute z where the first offset is not 0."""
    origin = data.numbers("ImagePositionPatient", 3, low=-1e5, high=1e5)
    offsets = data.numbers("GridFrameOffsetVector", default=None, low=-1e5, high=1e5)
    normal = np.cross(orientation[:3], orientation[3:])
    if offsets is None:
        if frames > 1:
            raise data.error("GridFrameOffsetVector", "is missing; the distance of the frames is unknown")
        offsets = np.zeros(1)
    if len(offsets) != frames:
        raise IonrtError(f"{data.where}: {len(offsets)} frame offsets for {frames} frames; the file is damaged")
    if abs(offsets[0]) < 1e-3 and not (abs(origin[2]) < 1e-3 and normal[2] < -0.5 and frames > 1):
        return origin + (offsets - offsets[0])[:, None] * normal
    if abs(offsets[0]) < 1e-3:
        notes.assume(
            f"{data.where}: frame offsets from 0 at z = 0 against the axis may be distances or positions; taken as distances"
        )
        return origin + offsets[:, None] * normal
    if abs(abs(normal[2]) - 1.0) > 1e-3 or abs(offsets[0] - origin[2]) > 0.11:
        raise data.error(
            "GridFrameOffsetVector",
            f"begins with {offsets[0]:g}; expected 0, or the z of ImagePositionPatient ({origin[2]:g}) in transverse frames",
        )
    places = np.tile(origin, (frames, 1))
    places[:, 2] = offsets
    return places
