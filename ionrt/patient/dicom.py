"""DICOM in: a folder with CT, structure set and dose becomes one Dataset on one grid."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import xarray as xr
from pydicom.uid import UID

from ionrt.files import content_hash
from ionrt.parallel import each
from ionrt.patient.ct import Scaling, Slice, check_mixed, hounsfield, is_ct, note_scaling, padding_of, slices_of
from ionrt.patient.dicom_dose import doses_of
from ionrt.patient.dicom_struct import choose_structure_set, read_contours
from ionrt.patient.geometry.coverage import Contours, spacing
from ionrt.patient.geometry.grid import DIMS, Layout, affine, layout
from ionrt.patient.geometry.structures import add_structures
from ionrt.patient.reading.dicom_files import Header, scan, without_copies
from ionrt.patient.reading.notes import Notes
from ionrt.quantities import IonrtError, stamp

SLICES_PER_CHUNK = 32
READ_HERE = ("RTSTRUCT", "RTDOSE", "RTPLAN", "REG")  # by this or another function of the room


def read_dicom(
    folder: str | Path,
    *,
    series: str | None = None,
    structure_set: str | None = None,
    dose: str | None = None,
    lazy: bool = False,
    strict: bool = False,
) -> xr.Dataset:
    """Read a patient: CT, structures as volume fractions, dose.

    HU = slope * stored + intercept; padding is air. Objects belong together by frame of reference; references by instance UID
    that lead nowhere only warn. Slices are sorted by position; a stack whose axes are a permutation of the patient axes is
    turned without interpolation, and attribute `orientation` says so. Of the doses in the CT's frame the one plan dose of each
    quantity on the CT's grid is taken; where there are two, none. What is damaged is refused; what is valid and cannot be used
    is left out by name.

    Parameters
    ----------
    folder : folder with the DICOM files (sub-folders included, any file names).
    series : SeriesInstanceUID of the CT to read; needed where the folder holds more than one.
    structure_set : SOPInstanceUID of the structure set; needed where more than one fits the CT.
    dose : SOPInstanceUID of the plan dose to take where several of one quantity lie on the CT's grid.
    lazy : leave the CT on disk until it is used; the content hash then covers UIDs and geometry, not pixels.
    strict : raise where something would be left out or assumed.

    Returns
    -------
    Dataset on dims z, y, x (voxel centres in mm, LPS, ascending): `ct` in HU, float32; `structures`
    (structure, z, y, x), fractions 0..1, lazy, one block per structure; `dose`, `rbe_dose` or `let_d` where an RTDOSE lies
    on the same grid (`read_dose` reads the others on their own grid); the contours as ragged arrays (see `contours`).
    Attributes: `frame_of_reference_uid`, `series_instance_uid`, `study_instance_uid`,
    `affine` (16 numbers, row by row, voxel x, y, z to mm), `content_hash`, `orientation`, `source`; `doses_elsewhere`
    (files below the folder) and `doses_elsewhere_why`, one a line; `left_out` and `assumed`, which also warn
    (`IncompleteWarning`) unless they are routine.

    Raises
    ------
    IonrtError for an empty folder, no CT, several CT series, two patients, missing or duplicate slices, non-uniform spacing,
    gantry tilt, oblique or mixed orientation, no rescale slope or intercept, damaged files, a structure set of another frame
    of reference.

    Valid for CT and enhanced multi-frame CT; reference: DICOM PS3.3 C.7.6.2 (image plane), C.8.8.5-6 (structure set).
    """
    notes = Notes()
    headers = without_copies(scan(folder, notes), notes)
    slices = _choose_series(headers, series, folder, notes)
    check_mixed(slices)
    first = slices[0]
    form = layout(np.array([s.position for s in slices]), first.orientation, first.spacing, first.shape)
    ordered = [slices[i] for i in form.order]
    values: np.ndarray | da.Array
    scalings: list[Scaling] = []
    if lazy:
        values, digest = _lazy_ct(ordered, form), "".join(one.uid for one in ordered).encode()
        notes.assume("CT: read when it is used; scaling and padding of its pixels were not looked at", quiet=True)
    else:
        stack, digests, scalings = _stack(ordered)
        values, digest = form.arrange(stack), b"".join(digests)
    note_scaling(scalings, notes)
    patient = _dataset(values, form, first.header, folder, padding_of(scalings), notes)
    frame, frames = patient.attrs["frame_of_reference_uid"], {h.uid("FrameOfReferenceUID") for h in headers if is_ct(h)}
    chosen = choose_structure_set(headers, frame, structure_set, frames, notes)
    doses = [h for h in headers if h.code("Modality") == "RTDOSE"]
    _check_one_patient([first.header, *([chosen] if chosen else []), *doses], headers, series is not None, notes)
    if chosen is not None:
        found, types = read_contours(chosen, frame, {s.header.code("SOPInstanceUID") for s in slices}, notes)
        found = [one.on_slices(*(form.coords[d] for d in ("x", "y", "z")), notes=notes) for one in found]
        patient = add_structures(patient, found, types)
        _note_outside(found, form, notes)
    patient = doses_of(patient, doses, Path(folder), dose, notes)
    contours = [patient[name].values for name in ("contour_points", "contour_lengths") if name in patient]
    patient.attrs["content_hash"] = content_hash(digest, patient.attrs["affine"], *contours)
    patient.attrs |= {"left_out": "", "assumed": ""} | notes.attrs(strict=strict)
    return patient


def _choose_series(headers: list[Header], series: str | None, folder: str | Path, notes: Notes) -> list[Slice]:
    """The slices of the one CT series, or of the one asked for."""
    found: dict[str, list[Header]] = defaultdict(list)
    others: dict[str, int] = defaultdict(int)
    for header in headers:
        if is_ct(header):
            uid = header.code("SeriesInstanceUID")
            if not uid:
                raise header.error("SeriesInstanceUID", "is missing; the file is truncated or damaged, export it again")
            found[uid].append(header)
        elif header.code("Modality") not in READ_HERE:
            others[header.code("Modality", "?")] += 1
    if not found:
        kinds = ", ".join(
            sorted({f"{h.code('Modality', '?')} ({UID(h.uid('SOPClassUID')).name or 'no class'})" for h in headers})
        )
        raise IonrtError(f"{folder}: no CT series (CT or enhanced CT images, scouts apart); the folder holds {kinds}")
    listing = "; ".join(f"{uid} ({len(s)} slices, {s[0].text('SeriesDescription', 'no name')})" for uid, s in found.items())
    if series is None and len(found) > 1:
        raise IonrtError(f"{folder}: expected one CT series, found {len(found)}: {listing}; choose one with series=<its UID>")
    if series is not None and series not in found:
        raise IonrtError(f"{folder}: no CT series {series!r}; there are {listing}")
    chosen = found[series] if series is not None else next(iter(found.values()))
    for kind, n in sorted(others.items()):
        notes.leave_out(
            f"{n} file{'s' if n > 1 else ''} of modality {kind} (scouts, secondary captures, other images)", quiet=True
        )
    if len(found) > 1:
        notes.leave_out(f"{len(found) - 1} other CT series", quiet=True)
    slices = [one for header in chosen for one in slices_of(header)]
    if len(slices) < 2:
        raise IonrtError(f"{folder}: the CT series has one slice only; expected a stack of at least two")
    return slices


def _check_one_patient(used: list[Header], headers: list[Header], chosen: bool, notes: Notes) -> None:
    """One folder, one patient: no object of another may be combined with this CT; ids and names stay out of the message."""
    first: dict[str, Header] = {}
    unnumbered: dict[str, Header] = {}
    for header in used if chosen else [*used, *headers]:
        if who := header.text("PatientID").casefold():
            first.setdefault(who, header)
        elif name := "".join(sorted(filter(str.isalnum, header.text("PatientName").casefold()))):
            unnumbered.setdefault(name, header)
    if len(unnumbered) > 1:
        one, other, *_ = unnumbered.values()
        notes.assume(f"{one.where} and {other.where} have no patient ID and different names; taken for one patient")
    if len(first) > 1:
        one, other, *_ = first.values()
        raise IonrtError(
            f"two patients in one folder: {one.where} and {other.where} have different patient IDs; expected one patient:"
            " separate them, or correct the ID if it is one person"
        )


def _stack(slices: list[Slice]) -> tuple[np.ndarray, list[bytes], list[Scaling]]:
    """Slices in HU (slice, row, column), read in threads, a file of many frames once; digest and scaling of each."""
    stack = np.empty((len(slices), *slices[0].shape), dtype=np.float32)
    files: dict[Path, list[int]] = defaultdict(list)
    for i, one in enumerate(slices):
        files[one.header.path].append(i)
    told: dict[int, tuple[bytes, Scaling]] = {}

    def fill(where: list[int]) -> None:
        for i, (values, digest, scaling) in zip(where, hounsfield([slices[i] for i in where]), strict=True):
            stack[i], told[i] = values, (digest, scaling)

    each(fill, files.values())
    return stack, [told[i][0] for i in range(len(slices))], [told[i][1] for i in range(len(slices))]


def _lazy_ct(slices: list[Slice], form: Layout) -> da.Array:
    """The same as a dask array that reads chunks of slices when they are used; their scaling is not known before."""
    parts = [slices[i : i + SLICES_PER_CHUNK] for i in range(0, len(slices), SLICES_PER_CHUNK)]
    load = dask.delayed(lambda part: _stack(part)[0])
    blocks = [da.from_delayed(load(part), (len(part), *part[0].shape), np.float32) for part in parts]
    return da.flip(da.transpose(da.concatenate(blocks), form.axes), form.flips)


def _dataset(
    values: np.ndarray | da.Array, form: Layout, first: Header, folder: str | Path, padding: str | None, notes: Notes
) -> xr.Dataset:
    """The Dataset with `ct` and the attributes of its series."""
    frame = first.uid("FrameOfReferenceUID")
    if not frame:
        notes.assume("CT: no frame of reference UID; objects are associated by geometry only")
    series = first.code("SeriesInstanceUID")
    ct = stamp(
        xr.DataArray(values, dims=DIMS, coords=form.coords),
        "ct",
        frame_of_reference_uid=frame,
        series_instance_uid=series,
        padding=padding,
    )
    patient = ct.to_dataset()
    for dim in DIMS:
        patient[dim].attrs = {"units": "mm", "long_name": f"{dim} of the voxel centre, DICOM patient system (LPS)"}
    patient.attrs = {
        "frame_of_reference_uid": frame,
        "series_instance_uid": series,
        "study_instance_uid": first.code("StudyInstanceUID"),
        "patient_position": first.code("PatientPosition"),
        "affine": affine(form.coords),
        "orientation": form.note or "as stored",
        "source": str(folder),
    }
    return patient


def _note_outside(found: list[Contours], form: Layout, notes: Notes) -> None:
    """Say which structures reach beyond the CT by more than a voxel: that part has no voxels to be counted in."""
    ends = np.array([[form.coords[d][0], form.coords[d][-1]] for d in ("x", "y", "z")])
    edge = np.array([1.5 * spacing(form.coords[d]) for d in ("x", "y", "z")])  # half a voxel to the grid's end, one of grace
    for one in (one for one in found if len(one.points)):
        low, high = one.points.min(axis=0), one.points.max(axis=0)
        beyond = float(max((ends[:, 0] - edge - low).max(), (high - ends[:, 1] - edge).max()))
        if beyond > 0.0:
            notes.leave_out(f"structure {one.name!r} reaches {beyond:.1f} mm or more beyond the CT; that part is not seen")
