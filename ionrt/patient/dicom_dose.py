"""RTDOSE in: scaling, frame offsets, units and type kept; a dose stays on its own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from ionrt.files import content_hash
from ionrt.patient.dicom_files import Header, read_all, read_header, read_pixels
from ionrt.patient.grid import DIMS, affine, layout
from ionrt.quantities import IonrtError, stamp

COMMENTS = {"dose": "absorbed dose", "rbe_dose": "RBE-weighted dose, ", "let_d": "LETd [keV/um], "}  # as written


def read_dose(path: str | Path) -> xr.DataArray:
    """Read one RTDOSE file on its own grid.

    value = DoseGridScaling * stored. PHYSICAL in GY becomes `dose` (Gy); EFFECTIVE in GY becomes `rbe_dose`
    (Gy (RBE)), with the comment of the file as its model; RELATIVE whose comment names an LET becomes `let_d` (keV/um).

    Parameters
    ----------
    path : the RTDOSE file.

    Returns
    -------
    DataArray (z, y, x), float32, voxel centres in mm (LPS), with the attributes `dose_units`, `dose_type`,
    `dose_summation_type`, `dose_comment`, `frame_of_reference_uid`, `affine`, `content_hash`.

    Raises
    ------
    IonrtError for a file that is no RTDOSE, is truncated, or has an oblique or non-uniform grid.

    Valid for dose grids in the patient's axes; reference: DICOM PS3.3 C.8.8.3.
    """
    header = read_header(Path(path))
    if header is None or header.get("Modality") != "RTDOSE":
        raise IonrtError(f"{path}: expected an RTDOSE file, got {header.get('Modality') if header else 'no DICOM file'}")
    return _dose(header)


def dose_on_grid(patient: xr.Dataset, headers: list[Header]) -> xr.Dataset:
    """Add the plan doses of the folder that lie on the patient's grid; name the others in attribute `doses_elsewhere`."""
    elsewhere = []
    for header in headers:
        if header.get("Modality") != "RTDOSE":
            continue
        frame = str(header.get("FrameOfReferenceUID", ""))
        dose = _dose(header) if frame == patient.attrs["frame_of_reference_uid"] else None
        if dose is None or not _same_grid(dose, patient) or dose.name in patient or dose.attrs["dose_summation_type"] != "PLAN":
            elsewhere.append(header.path.name)
        else:
            patient[str(dose.name)] = dose.assign_coords({dim: patient[dim] for dim in DIMS})
    if elsewhere:
        patient.attrs["doses_elsewhere"] = tuple(elsewhere)
    return patient


def _dose(header: Header) -> xr.DataArray:
    """One RTDOSE as a stamped DataArray."""
    stored, scaling, digest = read_pixels(header.path)
    data = read_all(header.path)
    if stored.ndim == 2:
        stored = stored[None]
    offsets = _offsets(data, len(stored), header)
    origin = np.array([float(v) for v in header.need("ImagePositionPatient")])
    orientation = [float(v) for v in header.need("ImageOrientationPatient")]
    normal = np.cross(orientation[:3], orientation[3:])
    spacing = [float(v) for v in header.need("PixelSpacing")]
    form = layout(origin + offsets[:, None] * normal, orientation, spacing, stored.shape[1:], what=header.path.name)
    factor = float(scaling.get("DoseGridScaling") or 0.0)
    if not factor > 0.0:
        raise IonrtError(f"{header.path.name}: DoseGridScaling is {factor:g}; expected a positive factor")
    values = form.arrange((stored[form.order] * factor).astype(np.float32))
    attrs = {
        "dose_units": str(data.get("DoseUnits", "")),
        "dose_type": str(data.get("DoseType", "")),
        "dose_summation_type": str(data.get("DoseSummationType", "")),
        "dose_comment": str(data.get("DoseComment", "")),
        "frame_of_reference_uid": str(header.get("FrameOfReferenceUID", "")),
        "sop_instance_uid": str(header.get("SOPInstanceUID", "")),
        "affine": affine(form.coords),
        "content_hash": content_hash(digest, factor, affine(form.coords)),
    }
    return _named(xr.DataArray(values, dims=DIMS, coords=form.coords), attrs, header)


def _named(values: xr.DataArray, attrs: dict, header: Header) -> xr.DataArray:
    """Give the values the quantity that units, type and comment of the file state."""
    units, kind, comment = attrs["dose_units"], attrs["dose_type"], attrs["dose_comment"].strip()
    stated = _stated(comment)
    if units == "GY" and kind == "PHYSICAL":
        return stamp(values, "dose", **attrs)
    if units == "GY" and kind == "EFFECTIVE":
        return stamp(values, "rbe_dose", rbe_model=stated or f"as imported: {comment or 'not stated'}", **attrs)
    described = comment if "LET" in comment else str(header.get("SeriesDescription", ""))
    if units == "RELATIVE" and "LET" in described:
        return stamp(values, "let_d", let_definition=stated or f"as imported: {described}", **attrs)
    if units == "CGY" and kind == "PHYSICAL":
        return stamp(values * np.float32(0.01), "dose", **attrs)
    values.name, values.attrs = "relative_dose", {"units": "1", **attrs}
    return values


def _stated(comment: str) -> str | None:
    """The model or LET definition in a comment that `write_rtdose` wrote."""
    for prefix in COMMENTS.values():
        if prefix.endswith(", ") and comment.startswith(prefix):
            return comment.removeprefix(prefix)
    return None


def _offsets(data, frames: int, header: Header) -> np.ndarray:
    """Distance of each frame from the first along the normal; absolute z positions are turned into distances."""
    given = data.get("GridFrameOffsetVector")
    if given is None:
        if frames > 1:
            raise IonrtError(f"{header.path.name}: GridFrameOffsetVector is missing; the distance of the frames is unknown")
        return np.zeros(1)
    values = np.atleast_1d(np.array(given, dtype=float))
    if len(values) != frames:
        raise IonrtError(f"{header.path.name}: {len(values)} frame offsets for {frames} frames; the file is damaged")
    return values - values[0]


def _same_grid(dose: xr.DataArray, patient: xr.Dataset) -> bool:
    """Whether the dose has the voxels of the CT."""
    return all(dose.sizes[d] == patient.sizes[d] and np.allclose(dose[d], patient[d], atol=1e-3) for d in DIMS)
