"""RTSTRUCT out: added, propagated or drawn structures as outlines on the slices of the patient's CT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from ionrt.files import content_hash
from ionrt.patient.geometry.coverage import Contours
from ionrt.patient.geometry.grid import DIMS
from ionrt.patient.reading.dicom_files import Header
from ionrt.patient.writing.dicom_write import write_structure_set
from ionrt.patient.writing.objects import identity_of, series_of
from ionrt.quantities import IonrtError, check

STEPS = 30  # halvings until an outline has the area of its fractions
NEAR = 0.05  # mm between a plane of the structures and a slice of the CT


def write_rtstruct(
    structures: xr.DataArray,
    patient: xr.Dataset,
    path: str | Path,
    *,
    label: str = "ionrt",
    types: Mapping[str, str] | None = None,
    source: str | Path | None = None,
) -> Path:
    """Write structures that ionrt made (added, expanded, propagated to another day) as RTSTRUCT.

    On each slice of the CT an outline at the level of the fractions that encloses their area; holes are contours of their own
    (even-odd). Structures on another grid are interpolated between its planes.

    Parameters
    ----------
    structures : fractions 0..1 (structure, z, y, x), mm (LPS), in the patient's frame of reference.
    patient : Dataset of `read_dicom`, whose CT the outlines are drawn on.
    path : file to write, replaced only by a complete one.
    label : of the structure set.
    types : interpreted type by name ("GTV", "ORGAN", ...); empty where not given.
    source : folder with the patient's CT, by default `patient.attrs["source"]`.

    Returns
    -------
    The path written; a structure without volume on any slice has no contour.

    Raises
    ------
    IonrtError for values outside 0..1, no structure, a name twice, another frame of reference, a source without that CT.

    References
    ----------
    DICOM PS3.3 A.19, C.8.8.6.
    """
    fractions = check(structures, "structures", dims=("structure", *DIMS)).transpose("structure", *DIMS)
    names, mine = [str(n) for n in fractions["structure"].values], patient.attrs["frame_of_reference_uid"]
    theirs = str(fractions.attrs.get("frame_of_reference_uid", "") or mine)
    if not names or len(set(names)) < len(names) or theirs != mine:
        raise IonrtError(
            f"write_rtstruct: expected structures of different names in frame of reference {mine}, got"
            f" {', '.join(names) or 'none'} in {theirs}"
        )
    header, files = series_of(patient, source, what="write_rtstruct")
    images = _slices(patient, files)
    planes = fractions.interp(
        z=[z for z in images if fractions["z"][0] - NEAR <= z <= fractions["z"][-1] + NEAR],
        kwargs={"fill_value": "extrapolate"},
    )
    values = np.asarray(planes.values, dtype=float)
    if not np.isfinite(values).all() or values.min(initial=0.0) < -1e-6 or values.max(initial=0.0) > 1.0 + 1e-6:
        raise IonrtError("write_rtstruct: expected volume fractions between 0 and 1")
    axes = (planes["z"].values, planes["y"].values.astype(float), planes["x"].values.astype(float))
    found = [_outlines(name, one, *axes) for name, one in zip(names, values, strict=True)]
    identity = identity_of(header) | {
        "series": str(header.SeriesInstanceUID),
        "description": label,
        "label": label[:16],
        "frame": mine,
        "class": str(header.SOPClassUID),
        "digest": content_hash(label, names, values),
    }
    return write_structure_set(found, [(types or {}).get(n, "") for n in names], images, Path(path), identity)


def _slices(patient: xr.Dataset, mine: list[Header]) -> dict[float, str]:
    """Instance UID of the CT slice at each z of the patient."""
    place = patient["z"].values.astype(float)
    if len(mine) == 1:  # an enhanced object holds all slices
        return dict.fromkeys(place.tolist(), mine[0].code("SOPInstanceUID"))
    at = {h.code("SOPInstanceUID"): h.numbers("ImagePositionPatient", 3)[2] for h in mine}
    near = {float(z): min(at, key=lambda u: abs(at[u] - z)) for z in place}
    return {z: u for z, u in near.items() if abs(at[u] - z) < NEAR}


def _outlines(name: str, fractions: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> Contours:
    """Closed contours of fractions (z, y, x), each slice with the area of its fractions."""
    import contourpy

    cell = abs((y[1] - y[0]) * (x[1] - x[0]))
    wide = [np.pad(a, 1, mode="reflect", reflect_type="odd") for a in (x, y)]
    rings: list[np.ndarray] = []
    for level, one in zip(z, fractions, strict=True):
        wanted = float(one.sum()) * cell
        if wanted < 1e-3 * cell:
            continue
        lines = contourpy.contour_generator(x=wide[0], y=wide[1], z=np.pad(one, 1), line_type="Separate")
        low, high = 0.0, float(one.max())
        for _ in range(STEPS):
            middle = 0.5 * (low + high)
            area = sum(_area(np.asarray(ring)) for ring in lines.lines(middle))
            low, high = (middle, high) if area > wanted else (low, middle)
        drawn = [np.asarray(ring)[:-1] for ring in lines.lines(0.5 * (low + high))]
        rings += [np.column_stack([r.round(3), np.full(len(r), level)]) for r in drawn if len(r) > 2]
    points = np.concatenate(rings) if rings else np.empty((0, 3))
    return Contours(name, points, np.array([len(r) for r in rings], np.int64))


def _area(ring: np.ndarray) -> float:
    """Signed area of a closed line: higher values lie to its left, so that holes count negative."""
    x, y = ring[:, 0], ring[:, 1]
    return 0.5 * float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))
