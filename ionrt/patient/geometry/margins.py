"""A structure expanded by a margin."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr
from scipy.ndimage import distance_transform_edt, zoom

from ionrt.quantities import IonrtError, one_of, stamp

FINE = 1.0  # mm


def with_margin(patient: xr.Dataset, structure: str, *, margin: float, name: str, within: str | None = None) -> xr.Dataset:
    """The patient with one more structure: another one expanded by `margin` mm in all directions, not beyond `within`.

    The margin is measured from the surface where the structure fills half a voxel; a voxel that the new edge crosses is filled
    in part, so that margins smaller than a voxel count. Only `structures` is enlarged (lazily): the new one has the type
    (`roi_type`) of the one it came from, and no contours; images, dose and contours stay.
    """
    for known in (structure, *([within] if within else [])):
        one_of(known, [str(s) for s in patient["structure"].values], what="structure")
    if name in patient["structure"].values:
        raise IonrtError(f"with_margin: {name!r} exists already; choose another name")
    if not (np.isfinite(margin) and margin >= 0.0):
        raise IonrtError(f"with_margin: expected a margin >= 0 mm, got {margin!r}")
    fractions = patient["structures"].transpose("structure", "z", "y", "x")
    spacing = [float(np.diff(fractions[d].values).mean()) for d in ("z", "y", "x")]
    inside = np.asarray(fractions.sel(structure=structure).values) >= 0.5
    if not inside.any():
        raise IonrtError(f"with_margin: {structure!r} fills no voxel by half")
    box = []
    for axis, step in enumerate(spacing):
        hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        pad = int(np.ceil(margin / step)) + 1
        box.append(slice(max(hit[0] - pad, 0), hit[-1] + pad + 1))
    part = np.asarray(fractions.sel(structure=structure).values[tuple(box)], dtype=np.float32)
    part = np.maximum(part, _within_reach(part, spacing, margin))
    if within:
        part = np.minimum(part, np.asarray(fractions.sel(structure=within).values[tuple(box)], dtype=np.float32))
    outer = [(s.start, n - min(s.stop, n)) for s, n in zip(box, inside.shape, strict=True)]
    whole = da.pad(da.from_array(part, chunks=-1), outer).rechunk(-1)[None]
    values = da.concatenate([da.asarray(fractions.data), whole.astype(fractions.dtype)], axis=0)
    source = [str(s) for s in patient["structure"].values].index(structure)
    told = {c: np.append(v.values, v.values[source]) for c, v in patient.coords.items() if v.dims == ("structure",)}
    told["structure"] = np.append(patient["structure"].values.astype(str), name)
    coords = {c: ("structure", v) for c, v in told.items()} | {d: patient[d] for d in "zyx"}
    joined = xr.DataArray(values, dims=("structure", "z", "y", "x"), coords=coords)
    joined = stamp(joined, "structures", frame_of_reference_uid=fractions.attrs.get("frame_of_reference_uid"))
    return patient.drop_vars(["structures", *told]).assign(structures=joined)[list(patient.data_vars)]


def _within_reach(part: np.ndarray, spacing: list[float], margin: float) -> np.ndarray:
    """Share of each voxel no farther than `margin` from the surface at half filling, found on cells of `FINE` or less."""
    if margin == 0.0:
        return part
    fine = [int(np.ceil(step / FINE)) for step in spacing]
    inside = zoom(part, fine, order=1, mode="nearest", grid_mode=True) >= 0.5
    step = np.asarray([s / n for s, n in zip(spacing, fine, strict=True)])
    distance = distance_transform_edt(~inside, sampling=step)
    edge = float(step.mean())
    share = np.where(
        inside, 1.0, np.clip((margin - distance) / edge + 1.0, 0.0, 1.0)
    )  # centres lie half a cell behind the surface
    shape = [k for n, k in zip(part.shape, fine, strict=True) for k in (n, k)]
    return share.reshape(shape).mean(axis=(1, 3, 5)).astype(np.float32)
