"""The built-in digital phantoms: SYNTHETIC pelvis, head, abdomen and thorax with deep targets, written as genuine DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.files import atomic
from ionrt.patient.geometry.coverage import Contours, coverage
from ionrt.patient.geometry.structures import add_structures, contours_of
from ionrt.patient.names import kinds_of
from ionrt.patient.writing.dicom_write import write_ct, write_structure_set
from ionrt.patient.writing.objects import uid
from ionrt.quantities import IonrtError, one_of

AIR = -1000.0
NOISE = 8.0  # HU, standard deviation
SEED = 20260101
EXTENT = {
    "pelvis": {"z": (-96.0, 96.0), "y": (-140.0, 140.0), "x": (-200.0, 200.0)},
    "head": {"z": (-105.0, 105.0), "y": (-115.0, 115.0), "x": (-95.0, 95.0)},
    "abdomen": {"z": (-105.0, 105.0), "y": (-125.0, 125.0), "x": (-185.0, 185.0)},
    "thorax": {"z": (-135.0, 135.0), "y": (-130.0, 130.0), "x": (-195.0, 195.0)},
}
MOVES = {"gap": ("abdomen", "Duodenum", "x", -1.0), "shift": ("thorax", "GTV_peripheral", "z", 1.0)}  # who moves, along what
MOST = 40.0  # mm
VERTICES = 120
PIXEL, SLICE = 2.5, 3.0


def write_phantom(
    folder: str | Path,
    *,
    anatomy: str = "pelvis",
    pixel: float = PIXEL,
    slice_distance: float = SLICE,
    day: int = 0,
    gap: float = 0.0,
    shift: float = 0.0,
) -> Path:
    """Write a SYNTHETIC pelvis, head, abdomen or thorax as DICOM: one CT series and one structure set.

    HU = sum over parts of covered fraction times the part's CT number, with 8 HU of noise (fixed seed) inside the body.
    Pelvis: the torso is an ellipse of 36 x 24 cm; the CTV (ellipsoid, radii 22, 21, 24 mm, about 46 cm3) lies at its centre
    between bladder, rectum and bowel. Its far edge is 210 mm of water from the side and 147 mm from the back: at 430 MeV/u
    oxygen reaches from both, neon from the back only. Head: a CTV of about 53 cm3 at the skull base between brain stem,
    chiasm and parotids, next to air. Abdomen: targets in pancreas (14 cm3, beside the duodenum), liver and kidney.
    Thorax: a peripheral (8 cm3) and a central (113 cm3) target of the right lung.

    Parameters
    ----------
    folder : where to write; a folder that already holds this phantom in this resolution is left as it is.
    anatomy : "pelvis", "head", "abdomen" or "thorax".
    pixel : in-plane voxel size in mm.
    slice_distance : slice distance in mm.
    day : 0 for the planning CT; 1, 2, 3 for daily CTs of pelvis and head with a frame of reference of their own (see `recipe`).
    gap : abdomen, distance of duodenum and pancreatic target in mm, 0 to 40.
    shift : thorax, the peripheral target's displacement to the head in mm, -40 to 40: one breathing phase per value.

    Returns
    -------
    The folder.

    Raises
    ------
    IonrtError for a folder that holds other files, a spacing that is not between 0.5 and 10 mm, or a gap or shift that this
    anatomy does not have.

    Valid for tests, teaching and comparison of methods; it is nobody's anatomy. The same arguments give the same bytes.
    """
    one_of(anatomy, tuple(EXTENT), what="anatomy")
    out = Path(folder)
    for name, value in (("pixel", pixel), ("slice_distance", slice_distance)):
        if not 0.5 <= value <= 10.0:
            raise IonrtError(f"write_phantom: expected {name} between 0.5 and 10 mm, got {value:g}")
    parts = recipe(anatomy, day=day, gap=gap, shift=shift)
    form = f"{anatomy}{f' gap {gap:g}' * bool(gap)}{f' shift {shift:g}' * bool(shift)}"
    on = f", day {day}" if day else ""
    label = f"SYNTHETIC {form} {pixel:g} x {pixel:g} x {slice_distance:g} mm{on}\n"
    if out.exists() and any(out.iterdir()):
        mark = out / "SYNTHETIC.txt"
        if mark.is_file() and mark.read_text() == label:
            return out
        raise IonrtError(f"write_phantom: {out} is not empty; expected an empty or new folder")
    with atomic(out, folder=True) as place:
        _write(place, parts, anatomy, form, pixel, slice_distance, day)
        (place / "SYNTHETIC.txt").write_text(label)
    return out


def add_ellipsoid(
    patient: xr.Dataset, name: str, *, centre: Sequence[float], radii: float | Sequence[float], kind: str = "GTV"
) -> xr.Dataset:
    """The patient with one more structure, a SYNTHETIC ellipsoid drawn on the CT slices.

    Parameters
    ----------
    patient : Dataset of `read_dicom` (contours are kept, fractions stay lazy).
    name : of the new structure.
    centre : (x, y, z) [mm, LPS].
    radii : one number or (x, y, z) [mm].
    kind : interpreted type.

    Returns
    -------
    Dataset with the structure at the end of the list.

    Raises
    ------
    IonrtError for a name that exists, radii that are not positive, or an ellipsoid that meets no slice of the CT.
    """
    size = [float(radii)] * 3 if isinstance(radii, (int, float)) else [float(r) for r in radii]
    if len(size) != 3 or len(centre) != 3 or not all(np.isfinite([*size, *centre])) or min(size) <= 0.0:
        raise IonrtError(f"add_ellipsoid: expected a centre (x, y, z) and positive radii in mm, got {centre!r}, {radii!r}")
    names = kinds_of(patient)
    if name in names:
        raise IonrtError(f"add_ellipsoid: the patient has a structure {name!r}; choose another name")
    if names and "contour_points" not in patient:
        raise IonrtError("add_ellipsoid: the patient's structures have no contours; expected a patient of read_dicom")
    z = patient["z"].values
    near = z[np.abs(z - centre[2]) < size[2]]
    if not near.size:
        raise IonrtError(f"add_ellipsoid: {name!r} meets no slice; the CT spans z = {z[0]:g} to {z[-1]:g} mm")
    values = dict(zip(("x", "y", "z", "rx", "ry", "rz"), (*map(float, centre), *size), strict=True))
    drawn = _contours(pd.Series({"name": name, **values, "low": -np.inf, "high": np.inf}), z)
    have = [contours_of(patient, n) for n in names]
    bare = patient.drop_dims(["structure", "contour", "point"], errors="ignore")
    return add_structures(bare, [*have, drawn], [*names.values(), kind])


def recipe(anatomy: str = "pelvis", *, day: int = 0, gap: float = 0.0, shift: float = 0.0) -> pd.DataFrame:
    """The parts of a phantom (`write_phantom`), one row each in the order of painting.

    `name`, `type` (of the structure; empty where it is none), `hu` (HU), centre `x`, `y`, `z`, radii `rx`, `ry`, `rz`, cut
    `low`, `high` (mm, LPS). `day` 0 is the planning CT, day 1: set-up only. Pelvis, day 2: target 5 mm off the bones, 20 mm of
    rectal gas; day 3: target 3 mm smaller all round, patient 6 mm thinner, gas gone. Head, day 2: nose and sinus filled; day 3:
    target smaller and off.
    """
    one_of(anatomy, tuple(EXTENT), what="anatomy")
    parts = _table(anatomy).astype(dict.fromkeys(("hu", "x", "y", "z", "rx", "ry", "rz", "low", "high"), float))
    for name, value in (("gap", gap), ("shift", shift)):
        where, part, axis, sign = MOVES[name]
        least = 0.0 if name == "gap" else -MOST
        if not least <= value <= MOST or (value and anatomy != where):
            raise IonrtError(f"{name}: expected {least:g} to {MOST:g} mm, of the {where} only, got {value:g} for the {anatomy}")
        parts.loc[parts["name"] == part, axis] += sign * value
    if not day:
        return parts
    changes = _table("days")
    changes = changes[(changes["anatomy"] == anatomy) & (changes["day"] == day)]
    if changes.empty:
        raise IonrtError(f"recipe: the {anatomy} has no day {day!r}; there are 0 (planning), 1, 2 and 3 of pelvis and head")
    for one in changes.itertuples():
        here = parts["name"] == one.part if one.part != "*" else slice(None)
        for column in (one.what, *(("low", "high") if one.part == "*" and one.what == "z" else ())):
            parts.loc[here, column] += one.add
    return parts


def _table(name: str) -> pd.DataFrame:
    """A table of the room's folder."""
    with (resources.files("ionrt.patient") / "tables" / f"{name}.csv").open() as file:
        return pd.read_csv(file, comment="#", keep_default_na=False, dtype={"name": str, "type": str})


def _write(folder: Path, parts: pd.DataFrame, anatomy: str, form: str, pixel: float, slice_distance: float, day: int) -> None:
    """Paint the CT, write slices and structure set."""
    steps = {"z": slice_distance, "y": pixel, "x": pixel}
    # symmetric about zero, so that every size has a voxel row through the target
    half = {dim: int(np.floor((high - low) / 2.0 / steps[dim])) for dim, (low, high) in EXTENT[anatomy].items()}
    coords = {dim: np.round(steps[dim] * np.arange(-n, n + 1), 6) for dim, n in half.items()}
    drawn = [_contours(part, coords["z"]) for _, part in parts.iterrows()]
    ct = _paint(drawn, parts["hu"].to_numpy(float), coords, SEED + day)
    identity = _identity(anatomy, form, pixel, slice_distance, day)
    images = dict(zip((float(z) for z in coords["z"]), write_ct(ct, coords, folder, identity), strict=True))
    chosen = [(one, kind) for one, kind in zip(drawn, parts["type"], strict=True) if kind]
    write_structure_set([c for c, _ in chosen], [k for _, k in chosen], images, folder / "RS.dcm", identity)


def _paint(drawn: list[Contours], hounsfield: np.ndarray, coords: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """CT numbers (z, y, x): each part replaces what it covers, partial voxels in proportion."""
    grid = (coords["z"], coords["y"], coords["x"])
    body = coverage(drawn[0], *grid)
    noise = np.random.default_rng(seed).normal(0.0, NOISE, body.shape)
    ct = np.full(body.shape, AIR)
    for one, value in zip(drawn, hounsfield, strict=True):
        share = coverage(one, *grid)
        ct += share * (value - ct)
    return np.maximum(ct + noise * body * (ct > -900.0), -1024.0)


def _contours(part: pd.Series, z: np.ndarray) -> Contours:
    """Ellipses of equal area on every slice the part reaches."""
    angle = 2.0 * np.pi * np.arange(VERTICES) / VERTICES
    # a polygon inscribed in the ellipse has too small an area; the factor restores it
    grow = np.sqrt(angle[1] / np.sin(angle[1]))
    rings = []
    for level in z[(z >= part["low"]) & (z <= part["high"])]:
        height = (level - part["z"]) / part["rz"]
        if abs(height) >= 1.0:
            continue
        scale = grow * np.sqrt(1.0 - height**2)
        x, y = part["x"] + part["rx"] * scale * np.cos(angle), part["y"] + part["ry"] * scale * np.sin(angle)
        rings.append(np.column_stack([x.round(3), y.round(3), np.full(VERTICES, level)]))
    return Contours(str(part["name"]), np.concatenate(rings), np.full(len(rings), VERTICES))


def _identity(anatomy: str, form: str, pixel: float, slice_distance: float, day: int) -> dict[str, str]:
    """Who and when: nobody, and always the same days."""
    size = (pixel, slice_distance, *((day,) if day else ()))
    return {
        "name": f"SYNTHETIC^{anatomy.upper()}",
        "id": f"SYNTHETIC-{anatomy.upper()}",
        "sex": "O",
        "date": f"202601{1 + 7 * day:02d}",
        "time": "120000",
        "study": uid(form, "study", size),
        "series": uid(form, "series", size),
        "frame": uid(form, "frame", size),
        "study_description": "SYNTHETIC phantom",
        "description": f"SYNTHETIC {form}{f', day {day}' if day else ''}",
        "body_part": {"thorax": "CHEST"}.get(anatomy, anatomy.upper()),
    }
