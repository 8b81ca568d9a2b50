"""What a registration looks at: a common grid, the body without couch and gas, masks; the only importer of SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import binary_dilation, binary_fill_holes, binary_opening, gaussian_filter, label

from ionrt.adapt.sampling import at_points, centres
from ionrt.lazy import needed
from ionrt.parallel import thread_count
from ionrt.patient import regrid
from ionrt.patient.names import outline_of
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.scene import structure_fractions
from ionrt.quantities import IonrtError, check

DIMS = ("z", "y", "x")
SPACING = 3.0  # mm: finer detail than this moves no dose
SKIN = -300.0  # HU
GAS = -300.0  # HU, inside the body
TISSUE = 40.0  # HU, in place of gas
AIR = -1000.0  # HU
PAINTED = 300.0  # HU, on structures that guide
LUNG = 300.0  # cm3: larger pockets are lung, not gas
WORK_UNITS = 8  # pieces that every filter is cut into, whatever the number of threads: sums have one order


def sitk() -> Any:
    """SimpleITK, loaded on first use."""
    return needed("SimpleITK", "registration")


def steady(filtering: Any) -> Any:
    """The filter in a fixed number of pieces, so that the number of threads does not change a bit."""
    filtering.SetNumberOfWorkUnits(WORK_UNITS)
    filtering.SetNumberOfThreads(thread_count())
    return filtering


def to_image(values: np.ndarray, grid: Grid, *, vector: bool = False) -> Any:
    """A SimpleITK image of values (z, y, x[, 3])."""
    image = sitk().GetImageFromArray(values, isVector=vector)
    image.SetOrigin([float(o) for o in grid.origin[::-1]])
    image.SetSpacing([float(s) for s in grid.spacing[::-1]])
    return image


def averaged(values: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """Volume averages on the common grid; nothing is skipped, so nothing is shifted."""
    steps = tuple(max(SPACING, s) for s in grid.spacing)
    if all(abs(a - b) < 1e-6 for a, b in zip(steps, grid.spacing, strict=True)):
        return values, grid
    whole = regrid(xr.Dataset({"ct": (DIMS, values)}, coords=grid.coords()), spacing=steps)
    return whole["ct"].values, Grid.of(whole)


def coarser(grid: Grid, level: float) -> Grid:
    """The same extent in voxels of `level` times 3 mm (or the grid's own, where larger): low edges stay, as in `averaged`."""
    steps = tuple(level * max(SPACING, s) for s in grid.spacing)
    shape = tuple(max(2, int(np.ceil(n * s / t - 1e-6))) for n, s, t in zip(grid.shape, grid.spacing, steps, strict=True))
    low = (o + 0.5 * (t - s) for o, s, t in zip(grid.origin, grid.spacing, steps, strict=True))
    return Grid(tuple(low), steps, shape)  # type: ignore[arg-type]


def resampled(
    values: np.ndarray, there: Grid, here: Grid, points: np.ndarray | None = None, outside: float = AIR
) -> np.ndarray:
    """Values on another grid by trilinear interpolation, at its voxels or at `points`; float32."""
    at = centres(here) if points is None else points
    found = at_points(np.ascontiguousarray(values, np.float32)[None], there, at)[0]
    return np.nan_to_num(found, nan=outside).reshape(here.shape)


def smoothed(values: np.ndarray, grid: Grid, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` mm."""
    return gaussian_filter(values, [sigma / s for s in grid.spacing], mode="nearest", truncate=3.0)


def hounsfield(patient: xr.Dataset) -> tuple[np.ndarray, Grid]:
    """CT numbers (z, y, x), finite, and their grid."""
    if "ct" not in patient:
        raise IonrtError("registration: expected a Dataset with ct (HU), as ionrt.read_dicom returns it")
    ct = check(patient["ct"], "ct", dims=DIMS).transpose(*DIMS)
    values = np.asarray(ct.values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise IonrtError("registration: the CT has values that are not finite; repair it first")
    return values, Grid.of(ct, what="CT")


def body_of(patient: xr.Dataset, values: np.ndarray) -> np.ndarray:
    """The body on the CT's grid: its outline, else the largest piece of tissue, couch cut off, holes filled."""
    if (outline := outline_of(patient)) is not None:
        return structure_fractions(patient, outline) >= 0.5
    pieces, n = label(binary_opening(values > SKIN, iterations=2))
    if n == 0:
        raise IonrtError("registration: no body found: nothing denser than -300 HU; expected a CT of a patient, in HU")
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = binary_dilation(pieces == sizes.argmax(), iterations=2) & (values > SKIN)
    return np.stack([binary_fill_holes(layer) for layer in largest])


def seen_by_registration(
    patient: xr.Dataset, *, fill_gas: bool, guide: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """CT numbers with air outside the body and, where asked for, tissue in gas pockets; the body; their grid."""
    values, grid = hounsfield(patient)
    body = body_of(patient, values)
    out = np.where(binary_dilation(body, iterations=2), values, np.float32(AIR))  # the skin keeps its gradient
    if fill_gas:
        pockets, _ = label(out < GAS)
        large = np.bincount(pockets.ravel()) * grid.voxel_volume > 1000.0 * LUNG  # among them the air around the body
        out[(pockets > 0) & ~large[pockets]] = TISSUE
    for name in guide:
        out += np.float32(PAINTED) * structure_fractions(patient, name)
    return out, body, grid
