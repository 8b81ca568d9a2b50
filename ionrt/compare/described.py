"""A phantom in words: where no CT came and the sender says what the plan was computed on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.files import content_hash
from ionrt.patient.dicom_struct import read_contours
from ionrt.patient.geometry.coverage import Contours
from ionrt.patient.geometry.structures import add_structures
from ionrt.patient.ionplan import IonPlan
from ionrt.patient.reading.dicom_files import read_header
from ionrt.patient.reading.notes import Notes
from ionrt.quantities import IonrtError, number_in, stamp

VOXEL = 2.5  # mm, about
AIR = 0.001
MOST = 4.0  # stopping-power ratio of what a phantom is made of
MOST_VOXELS = 4e7
WORDS = ("spr", "size", "at")


def described(parts: Mapping[str, Any], ion_plan: IonPlan, files: pd.DataFrame) -> xr.Dataset:
    """The phantom on a grid: stopping-power ratio, structures that came, boxes; air around it.

    `parts` are {name: stopping-power ratio of a structure that came}, or {name: {"spr", "size" (mm x, y, z: a box), "at" (its
    middle, mm; the first isocentre)}}; later ones lie in earlier ones. A box without "spr" is a structure only.
    """
    notes = Notes()
    sets = files[files["kind"] == "RTSTRUCT"]
    found: list[Contours] = []
    types: list[str] = []
    for path in sets["path"]:
        header = read_header(Path(path))
        if header is not None:
            came, kinds = read_contours(header, ion_plan.frame_of_reference_uid, set(), notes)
            found, types = found + came, types + kinds
    middle = ion_plan.beams[["isocentre_x", "isocentre_y", "isocentre_z"]].iloc[0].to_numpy(float)
    ratio: dict[str, float] = {}
    for name, said in parts.items():
        if not isinstance(name, str) or not name.strip():
            raise IonrtError(f"phantom: expected names of structures, got {name!r}")
        word = dict(said) if isinstance(said, Mapping) else {"spr": said}
        if unknown := set(word) - set(WORDS):
            raise IonrtError(f"phantom: {name}: {', '.join(sorted(unknown))}; expected {', '.join(WORDS)}")
        if "size" in word:
            if name in [one.name for one in found]:
                raise IonrtError(f"phantom: {name} came as a structure; give its stopping-power ratio only, or another name")
            found.append(_box(name, word["size"], word.get("at", middle)))
            types.append("EXTERNAL" if not ratio else "")
        elif name not in [one.name for one in found]:
            names = ", ".join(one.name for one in found) or "none"
            raise IonrtError(f"phantom: {name} is no structure that came ({names}); give its size in mm for a box")
        if word.get("spr") is not None:
            ratio[name] = number_in(word["spr"], f"phantom: stopping-power ratio of {name}", 0.0, MOST)
    if not ratio:
        raise IonrtError("phantom: no part has a stopping-power ratio")
    return _drawn(found, types, ratio, ion_plan)


def _box(name: str, size: Any, at: Any) -> Contours:
    """A box as one contour with its height."""
    half = [0.5 * number_in(s, f"phantom: size of {name} [mm]", 1.0, 2000.0) for s in _three(size, name)]
    x, y, z = (number_in(a, f"phantom: middle of {name} [mm]", -1e4, 1e4) for a in _three(at, name))
    corners = [(x + i * half[0], y + j * half[1], z) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return Contours(name, np.array(corners), np.array([4]), np.array([[z - half[2], z + half[2]]]))


def _three(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple, np.ndarray)) or len(value) != 3:
        raise IonrtError(f"phantom: {name}: expected three numbers (x, y, z in mm), got {value!r}")
    return list(value)


def _upright(one: Contours) -> Contours:
    """With the height that the distance of its own planes gives it, where it has two or more."""
    if one.bounds is not None or not len(one.lengths):
        return one
    levels = [np.unique(one.points[:, k]) for k in range(3)]
    return one.on_slices(*levels) if len(levels[one.axis()]) > 1 else one


def _drawn(found: list[Contours], types: list[str], ratio: dict[str, float], ion_plan: IonPlan) -> xr.Dataset:
    """Grid around all material, structures, material by the share of each voxel."""
    found = [_upright(one) for one in found]
    solid = [one for one in found if one.name in ratio]
    if empty := [one.name for one in solid if one.bounds is None or not len(one.lengths)]:
        raise IonrtError(
            f"phantom: {', '.join(empty)} has no contours, or one plane only; give its size in mm under another name"
        )
    ends = [(one.points.min(axis=0), one.points.max(axis=0), one.axis(), one.bounds) for one in solid if one.bounds is not None]
    for low, high, axis, bounds in ends:
        low[axis], high[axis] = bounds.min(), bounds.max()
    low, high = np.min([e[0] for e in ends], axis=0), np.max([e[1] for e in ends], axis=0)
    count = np.maximum(np.ceil((high - low) / VOXEL).astype(int), 2)
    if float(count.prod()) > MOST_VOXELS:
        raise IonrtError(
            f"phantom: {' x '.join(f'{e:.0f}' for e in high - low)} mm (x, y, z) are too large for {VOXEL:g} mm voxels"
        )
    step = (high - low) / count
    coords = {d: low[k] + step[k] * (np.arange(count[k]) + 0.5) for d, k in (("z", 2), ("y", 1), ("x", 0))}
    patient = add_structures(xr.Dataset(coords=coords), found, types)
    spr = np.full(tuple(patient.sizes[d] for d in "zyx"), AIR)
    for name, value in ratio.items():
        share = patient["structures"].sel(structure=name).values
        spr = (1.0 - share) * spr + share * value
    patient["spr"] = stamp(xr.DataArray(spr.astype(np.float32), dims=("z", "y", "x"), coords=coords), "spr")
    patient.attrs = {"frame_of_reference_uid": ion_plan.frame_of_reference_uid, "content_hash": content_hash(spr)}
    return patient
