"""DICOM in: a folder with CT, structure set and dose becomes one Dataset on one grid."""

from __future__ import annotations

import warnings
from collections import defaultdict
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import xarray as xr

from ionrt.files import content_hash
from ionrt.parallel import each
from ionrt.patient.coverage import Contours, spacing
from ionrt.patient.dicom_dose import dose_on_grid
from ionrt.patient.dicom_files import Header, read_pixels, scan
from ionrt.patient.dicom_struct import choose_structure_set, read_contours
from ionrt.patient.grid import DIMS, Layout, affine, layout
from ionrt.patient.structures import add_structures
from ionrt.quantities import IonrtError, stamp

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SLICES_PER_CHUNK = 32


def read_dicom(
    folder: str | Path, *, series: str | None = None, structure_set: str | None = None, lazy: bool = False
) -> xr.Dataset:
    """Read a patient: CT, structures as volume fractions, dose.

    HU = slope * stored + intercept. Objects belong together by frame of reference; references by instance UID that lead
    nowhere only warn. Slices are sorted by position; a stack whose axes are a permutation of the patient axes is turned
    without interpolation, and attribute `orientation` says so.

    Parameters
    ----------
    folder : folder with the DICOM files (sub-folders included, any file names).
    series : SeriesInstanceUID of the CT to read; needed where the folder holds more than one.
    structure_set : SOPInstanceUID of the structure set; needed where more than one fits the CT.
    lazy : leave the CT on disk until it is used; the content hash then covers UIDs and geometry, not pixels.

    Returns
    -------
    Dataset on dims z, y, x (voxel centres in mm, LPS, ascending): `ct` in HU, float32; `structures`
    (structure, z, y, x), fractions 0..1, lazy, one block per structure; `dose`, `rbe_dose` or `let_d` where an RTDOSE lies
    on the same grid (`read_dose` reads the others on their own grid); the contours as ragged arrays (see `contours`).
    Attributes: `frame_of_reference_uid`, `series_instance_uid`, `study_instance_uid`,
    `affine` (16 numbers, row by row, voxel x, y, z to mm), `content_hash`, `orientation`, `source`.

    Raises
    ------
    IonrtError for an empty folder, no CT, several CT series, missing or duplicate slices, non-uniform spacing, gantry tilt,
    oblique or mixed orientation, truncated files, a structure set of another frame of reference.

    Valid for single-frame CT; reference: DICOM PS3.3 C.7.6.2 (image plane), C.8.8.5-6 (structure set).
    """
    headers = scan(folder)
    slices = _choose_series(headers, series, folder)
    _check_mixed(slices)
    positions = np.array([[float(v) for v in h.need("ImagePositionPatient")] for h in slices])
    first = slices[0]
    shape = (int(first.need("Rows")), int(first.need("Columns")))
    form = layout(positions, _numbers(first, "ImageOrientationPatient"), _numbers(first, "PixelSpacing"), shape)
    ordered = [slices[i] for i in form.order]
    values, digest = _lazy_ct(ordered, form, shape) if lazy else _eager_ct(ordered, form, shape)
    patient = _dataset(values, form, first, folder)
    chosen = choose_structure_set(headers, patient.attrs["frame_of_reference_uid"], structure_set, _frames(headers))
    if chosen is not None:
        found, types = read_contours(chosen, {h.get("SOPInstanceUID") for h in slices})
        patient = add_structures(patient, found, types)
        _warn_outside(found, form)
    patient = dose_on_grid(patient, headers)
    contours = [patient[name].values for name in ("contour_points", "contour_lengths") if name in patient]
    patient.attrs["content_hash"] = content_hash(digest, patient.attrs["affine"], *contours)
    return patient


def _choose_series(headers: list[Header], series: str | None, folder: str | Path) -> list[Header]:
    """The slices of the one CT series, or of the one asked for."""
    found: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        if header.get("SOPClassUID") == CT_IMAGE and "LOCALIZER" not in (header.get("ImageType") or ()):
            found[str(header.need("SeriesInstanceUID"))].append(header)
    if not found:
        kinds = ", ".join(sorted({str(h.get("Modality", "?")) for h in headers}))
        raise IonrtError(f"{folder}: no CT series (single-frame CT images); the folder holds {kinds}")
    listing = "; ".join(f"{uid} ({len(s)} slices, {s[0].get('SeriesDescription', 'no name')})" for uid, s in found.items())
    if series is None and len(found) > 1:
        raise IonrtError(f"{folder}: expected one CT series, found {len(found)}: {listing}; choose one with series=<its UID>")
    if series is not None and series not in found:
        raise IonrtError(f"{folder}: no CT series {series!r}; there are {listing}")
    chosen = found[series] if series is not None else next(iter(found.values()))
    if len(chosen) < 2:
        raise IonrtError(f"{folder}: the CT series has one slice only; expected a stack of at least two")
    return chosen


def _check_mixed(slices: list[Header]) -> None:
    """All slices must share orientation, pixel spacing, matrix and frame of reference."""
    first = slices[0]
    for header in slices[1:]:
        for keyword in ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "FrameOfReferenceUID"):
            one, other = first.get(keyword), header.get(keyword)
            if one == other:
                continue
            numbers = keyword in ("ImageOrientationPatient", "PixelSpacing") and one is not None and other is not None
            if numbers and np.allclose(np.array(one, float), np.array(other, float), atol=1e-4):
                continue
            raise IonrtError(
                f"CT: mixed {keyword} in one series: {one} in {first.path.name}, {other} in {header.path.name};"
                " expected one stack of equal slices: separate them or choose another series"
            )


def _numbers(header: Header, keyword: str) -> list[float]:
    """The numbers of a multi-valued element."""
    return [float(value) for value in header.need(keyword)]


def _slice(header: Header, shape: tuple[int, int]) -> tuple[np.ndarray, bytes]:
    """One slice in HU and the digest of its stored values and scaling."""
    stored, data, digest = read_pixels(header.path)
    if stored.shape != shape:
        raise IonrtError(f"{header.path.name}: expected a {shape} matrix, got {stored.shape}")
    slope, intercept = float(data.get("RescaleSlope", 1.0)), float(data.get("RescaleIntercept", 0.0))
    hounsfield = stored.astype(np.float32)
    hounsfield *= np.float32(slope)
    hounsfield += np.float32(intercept)
    return hounsfield, digest + np.array([slope, intercept]).tobytes()


def _eager_ct(slices: list[Header], form: Layout, shape: tuple[int, int]) -> tuple[np.ndarray, bytes]:
    """All slices in HU on the grid, read in threads."""
    stack = np.empty((len(slices), *shape), dtype=np.float32)

    def fill(i: int) -> bytes:
        stack[i], digest = _slice(slices[i], shape)
        return digest

    digests = each(fill, range(len(slices)))
    return form.arrange(stack), b"".join(digests)


def _lazy_ct(slices: list[Header], form: Layout, shape: tuple[int, int]) -> tuple[da.Array, bytes]:
    """The same as a dask array that reads chunks of slices when they are used."""

    def load(part: list[Header]) -> np.ndarray:
        return np.stack(each(lambda header: _slice(header, shape)[0], part))

    parts = [slices[i : i + SLICES_PER_CHUNK] for i in range(0, len(slices), SLICES_PER_CHUNK)]
    blocks = [da.from_delayed(dask.delayed(load)(part), (len(part), *shape), np.float32) for part in parts]
    stack = da.flip(da.transpose(da.concatenate(blocks), form.axes), form.flips)
    return stack, "".join(str(h.need("SOPInstanceUID")) for h in slices).encode()


def _dataset(values: np.ndarray | da.Array, form: Layout, first: Header, folder: str | Path) -> xr.Dataset:
    """The Dataset with `ct` and the attributes of its series."""
    frame = first.get("FrameOfReferenceUID")
    if frame is None:
        warnings.warn("CT: no frame of reference UID; objects are associated by geometry only", stacklevel=3)
    series = str(first.need("SeriesInstanceUID"))
    ct = stamp(
        xr.DataArray(values, dims=DIMS, coords=form.coords),
        "ct",
        frame_of_reference_uid=str(frame or ""),
        series_instance_uid=series,
    )
    patient = ct.to_dataset()
    for dim in DIMS:
        patient[dim].attrs = {"units": "mm", "long_name": f"{dim} of the voxel centre, DICOM patient system (LPS)"}
    patient.attrs = {
        "frame_of_reference_uid": str(frame or ""),
        "series_instance_uid": series,
        "study_instance_uid": str(first.get("StudyInstanceUID", "")),
        "patient_position": str(first.get("PatientPosition", "")),
        "affine": affine(form.coords),
        "orientation": form.note or "as stored",
        "source": str(folder),
    }
    return patient


def _warn_outside(found: list[Contours], form: Layout) -> None:
    """Say which structures reach beyond the CT by more than a voxel: that part has no voxels to be counted in."""
    for one in found:
        if not len(one.points):
            continue
        beyond = 0.0
        for axis, dim in enumerate(("x", "y", "z")):
            at, values = form.coords[dim], one.points[:, axis]
            edge = 1.5 * spacing(at)  # half a voxel to the edge of the grid, one of grace
            beyond = max(beyond, float(at[0] - edge - values.min()), float(values.max() - at[-1] - edge))
        if beyond > 0.0:
            warnings.warn(
                f"structure {one.name!r} reaches {beyond:.1f} mm or more beyond the CT; that part is not seen", stacklevel=3
            )


def _frames(headers: list[Header]) -> set[str]:
    """Frames of reference of all CT images of the folder."""
    return {str(h.get("FrameOfReferenceUID", "")) for h in headers if h.get("SOPClassUID") == CT_IMAGE}
