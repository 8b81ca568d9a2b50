"""Registration of a daily CT: rigid on bone, body or a structure, and deformable; the same input gives the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ionrt.adapt.deform import IMAGE_SMOOTHING, STIFFNESS, smooth_displacement
from ionrt.adapt.images import (
    SKIN,
    SPACING,
    averaged,
    body_of,
    coarser,
    hounsfield,
    resampled,
    seen_by_registration,
    sitk,
    smoothed,
    steady,
    to_image,
)
from ionrt.adapt.sampling import at_points, centres, middle_of
from ionrt.adapt.transform import move_points
from ionrt.evaluate.profile import centroid
from ionrt.parallel import thread_count
from ionrt.patient.geometry.structures import find_structure
from ionrt.patient.names import kinds_of
from ionrt.patient.registration import check_transform, field_transform, image_attrs, matrix_transform
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.scene import structure_fractions
from ionrt.quantities import IonrtError, one_of

LEVELS = (4, 2, 1)
RIGID_SMOOTHING = (6.0, 3.0, 3.0)  # mm
RIGID_SAMPLES = (1.0, 0.5, 0.25)  # of the voxels, on a regular lattice
WINDOW = (-1000.0, 1500.0)  # HU
BONE = 150.0  # HU
NEAR_BONE, NEAR_STRUCTURE, NEAR_BODY = 6.0, 10.0, 6.0  # mm
FINER = {2: (30, 4.0), 1: (15, 3.0)}  # level: demons' iterations, image smoothing in mm, on what the smooth field leaves
VOXELS = 1.5  # of each level: Gaussian of the demons' displacement
THRESHOLD = 20.0  # HU: smaller differences are noise, after the smoothing
EDGE = 3.0 * max(IMAGE_SMOOTHING)  # mm from the faces of either CT, or an eighth of it: cut tissue there is no edge to match
LITTLE = 0.5  # HU: days that differ by less are equal, and a match of them no worse
FAR = 150.0  # mm; displacements of more than 200 are taken for another unit
START_STEP, LEAST_STEP, STEPS = 2.0, 1e-3, 100


def register_rigid(
    fixed: xr.Dataset,
    moving: xr.Dataset,
    *,
    on: str = "bone",
    by: str = "image",
    degrees: int = 6,
    start: xr.Dataset | None = None,
) -> xr.Dataset:
    r"""The rigid set-up correction, :math:`x = R X + t`: least mean squared HU difference in a mask on the planning CT.

    Parameters
    ----------
    fixed : planning CT.
    moving : daily CT; Datasets of `read_dicom`.
    on : "bone" (HU > 150 in the body, and 6 mm around), "body", or the name of a structure (and 10 mm around): tumour match.
    by : "image", or "contours" for a structure that both CTs have: its centroids meet, turned as `start` (default: not at all).
    degrees : 6, or 3 for a couch that does not turn.
    start : a rigid transform to begin with (the bone match before a tumour match); default the match on the
        body, for which it is the better of none and centre to centre.

    Returns
    -------
    Dataset with ``matrix``; attributes ``shift`` (x, y, z) [mm] of the mask's middle, ``rotation`` [degrees], ``hu_before`` and
    ``hu_after`` [HU, root mean square in the mask], settings, versions.

    Raises
    ------
    IonrtError for the same image twice, no CT, no body, an empty mask, or where the result is worse than no registration.

    References
    ----------
    Yaniv et al., J. Digit. Imaging 31 (2018) 290, doi 10.1007/s10278-017-0037-8 (SimpleITK).
    """
    _different(fixed, moving)
    if degrees not in (3, 6):
        raise IonrtError(f"register_rigid: expected 3 or 6 degrees of freedom, got {degrees!r}")
    if one_of(by, ("image", "contours"), what="register_rigid: by") == "contours":
        return _centroids_meet(fixed, moving, on, start)
    if start is None and on != "body":  # a tube of bone alone does not say where along it; coarse is near enough
        start = _matched(fixed, moving, "body", degrees, None, LEVELS[:-1])
    return _matched(fixed, moving, on, degrees, start, LEVELS if start is None else LEVELS[1:])


def _matched(
    fixed: xr.Dataset, moving: xr.Dataset, on: str, degrees: int, start: xr.Dataset | None, levels: tuple[int, ...]
) -> xr.Dataset:
    """`register_rigid` by the image, on some levels of the pyramid."""
    values, home = hounsfield(fixed)
    other, there = hounsfield(moving)
    mask = _mask(fixed, values, home, on)
    base = coarser(home, 1.0)
    around = base.near(resampled(mask.astype(np.float32), home, base, outside=0.0) >= 0.5, 0.5 * max(base.spacing))
    pair = [averaged(np.clip(a, *WINDOW), g) for a, g in ((values, home), (other, there))]
    middle, seen = middle_of(around, base), centres(base)[np.flatnonzero(around.ravel())]
    begin = _better_start(pair, seen) if start is None else start["matrix"].values
    transform = _started(begin, middle, degrees)
    for level in levels:
        sigma, share = RIGID_SMOOTHING[LEVELS.index(level)], RIGID_SAMPLES[LEVELS.index(level)]
        images = [_level(a, g, level, sigma) for a, g in pair]
        method = steady(sitk().ImageRegistrationMethod())
        method.SetMetricAsMeanSquares()
        method.SetMetricFixedMask(to_image(around.astype(np.uint8), base))
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, seed=42)
        method.SetInterpolator(sitk().sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(START_STEP * level / 4, LEAST_STEP, STEPS, 0.5, 1e-6)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(*images)
        except RuntimeError as e:
            sizes = [" x ".join(str(n) for n in image.GetSize()) for image in images]
            raise IonrtError(
                f"register_rigid: SimpleITK cannot match images of {sizes[0]} and {sizes[1]} voxels of {level * SPACING:g} mm"
                f" on {on!r}; give CTs that both show it, at least four slices each ({str(e).strip().splitlines()[-1].strip()})"
            ) from e
    matrix = _matrix_of(transform)
    before, after = (_mismatch(pair, seen, m) for m in (begin, matrix))
    if after > 1.01 * before + LITTLE and levels[-1] == LEVELS[-1]:  # a coarse match is a start, not a result
        raise IonrtError(
            f"register_rigid: the match on {on!r} got worse ({before:.1f} to {after:.1f} HU); check that both CTs show it,"
            " or give another start"
        )
    moved = matrix[:3, :3] @ middle + matrix[:3, 3] - middle
    about = _about(fixed, moving, f"rigid on {on}") | {
        "on": on,
        "degrees_of_freedom": degrees,
        "shift": tuple(float(v) for v in moved),
        "rotation": _angle(matrix),
        "hu_before": _mismatch(pair, seen, np.eye(4)),
        "hu_after": after,
        "settings": f"window {WINDOW}, levels {levels} of {LEVELS}, smoothing {RIGID_SMOOTHING} mm, samples {RIGID_SAMPLES}",
    }
    return matrix_transform(matrix, **about)


def register_deformable(
    fixed: xr.Dataset,
    moving: xr.Dataset,
    *,
    start: xr.Dataset | None = None,
    smoothing: float = 20.0,
    window: tuple[float, float] = WINDOW,
    fill_gas: bool = False,
    guide: Sequence[str] = (),
) -> xr.Dataset:
    r"""Where every planning point lies in the daily CT, :math:`x = X + u(X)`: a rigid start, a smooth field, then demons.

    Parameters
    ----------
    fixed : planning CT.
    moving : daily CT.
    start : rigid transform; default `register_rigid` on the body.
    smoothing : Gaussian that the displacement is made of [mm]; finer detail is left to demons with symmetric forces, on what
        the smooth field leaves. Several values give a band. A tumour that shrinks by itself is followed by lengths well below
        its radius only (decision 0155), at the price of accuracy elsewhere.
    window : HU outside which differences do not count.
    fill_gas : take gas pockets in the body (HU < -300, less than 300 cm3) as tissue, in the registration only: for bowel
        or rectal gas that comes and goes. Where air is anatomy (head), its edges are what the registration holds on to.
    guide : structures contoured on both CTs that the images hardly show: painted denser by 300 HU on both, in the
        registration only.

    Returns
    -------
    Dataset with ``displacement`` (axis, z, y, x) [mm], on voxels of 3 mm (or the CT's, where coarser) over the planning CT;
    attributes with settings, versions, mean HU difference in the body before and after.

    Raises
    ------
    IonrtError for the same image twice, no CT, no body, or a result that is worse than the rigid start.

    Validity: soft tissue between days. Sliding (pleura), tissue that is gone and homogeneous regions are guesses of the
    smoothing; see `registration_quality`.

    References
    ----------
    Thirion, Med. Image Anal. 2 (1998) 243, doi 10.1016/S1361-8415(98)80022-4; Vercauteren et al., NeuroImage 45 (2009) S61,
    doi 10.1016/j.neuroimage.2008.10.040 (symmetric forces). Smooth field: `ionrt.adapt.deform.smooth_displacement`.
    """
    _different(fixed, moving)
    start = register_rigid(fixed, moving, on="body") if start is None else start
    if check_transform(start) != "matrix":
        raise IonrtError("register_deformable: the start is a rigid transform; got a displacement")
    values, body, home = seen_by_registration(fixed, fill_gas=fill_gas, guide=guide)
    other, _, there = seen_by_registration(moving, fill_gas=fill_gas, guide=guide)
    base = coarser(home, 1.0)
    box = _box_around(resampled(body.astype(np.float32), home, base, outside=0.0) >= 0.5, base)
    placed = move_points(start, centres(box))
    if (far := float(np.abs(placed - centres(box)).max())) > FAR:
        raise IonrtError(
            f"register_deformable: the start moves the patient by {far:.0f} mm; bring the day into the planning frame first"
            " (place) and register the placed day"
        )
    coarse = (averaged(values, home), averaged(other, there))
    here = resampled(*coarse[0], box)
    there_too = at_points(coarse[1][0].astype(np.float32)[None], coarse[1][1], placed)[0].reshape(box.shape)
    at = centres(box)
    usable = (_inner(at, base) & _inner(placed, coarse[1][1])).reshape(box.shape)
    there_too = np.where(np.isfinite(there_too), there_too, here)  # no force where the daily CT ends
    pair = [np.clip(a, *window) for a in (here, there_too)]
    smooth = smooth_displacement(pair[0], pair[1], usable, box, smoothing)
    pulled = resampled(pair[1], box, box, at + smooth.reshape(3, -1).T, outside=np.nan)
    rest = _finer((pair[0], np.where(usable & np.isfinite(pulled), pulled, pair[0])), box)
    nearly = np.clip(at + rest, at[0], at[-1])
    u = rest + np.stack([resampled(one, box, box, nearly).ravel() for one in smooth], axis=1)
    total = _total(u.reshape(*box.shape, 3), box, base, start)
    inside = usable & (resampled(body.astype(np.float32), home, box, outside=0.0) >= 0.5)
    moved = resampled(pair[1], box, box, at + u, outside=window[0])
    before, after = (float(np.abs(pair[0] - b)[inside].mean()) if inside.any() else np.inf for b in (pair[1], moved))
    if not after < 1.01 * before + LITTLE:
        raise IonrtError(
            f"register_deformable: the result is worse than its start ({before:.1f} to {after:.1f} HU in the body); check the"
            " two CTs"
        )
    about = _about(fixed, moving, f"deformable, smoothing {smoothing:g}, from {start.attrs.get('method', 'a rigid start')}") | {
        "hu_before": before,
        "hu_after": after,
        "settings": f"window {window}, smooth field of {smoothing:g} mm on HU smoothed by {IMAGE_SMOOTHING} mm, stiffness"
        f" {STIFFNESS:g}; demons on the rest, level: (iterations, image smoothing in mm) {FINER}, displacement smoothing"
        f" {VOXELS:g} voxels, threshold {THRESHOLD:g} HU; {EDGE:g} mm at the faces unused; gas filled: {fill_gas}, guided by"
        f" {tuple(guide)}",
    }
    return field_transform(total, base.coords(), **about)


def _inner(points: np.ndarray, grid: Grid) -> np.ndarray:
    """Which points lie away from the faces of an image."""
    out = np.ones(len(points), bool)
    for k, (low, step, n) in enumerate(zip(grid.origin[::-1], grid.spacing[::-1], grid.shape[::-1], strict=True)):
        away = min(EDGE, step * n / 8.0) - 0.5 * step
        out &= (points[:, k] >= low + away) & (points[:, k] <= low + step * (n - 1) - away)
    return out


def _finer(pair: tuple[np.ndarray, np.ndarray], box: Grid) -> np.ndarray:
    """Displacements (n, 3) that demons with symmetric forces find between two images, coarse to fine."""
    u: Any = None
    for level, (iterations, sigma) in FINER.items():
        grid = coarser(box, level)
        images = [to_image(resampled(smoothed(a, box, sigma), box, grid), grid) for a in pair]
        method = steady(sitk().FastSymmetricForcesDemonsRegistrationFilter())
        method.SetNumberOfIterations(iterations)
        method.SetStandardDeviations(VOXELS)
        method.SetSmoothDisplacementField(True)
        method.SetSmoothUpdateField(False)
        method.SetIntensityDifferenceThreshold(THRESHOLD)
        made = method.Execute(*images) if u is None else method.Execute(*images, _on(u, grid))
        u = (sitk().GetArrayFromImage(made), grid)
    return np.moveaxis(u[0], -1, 0).reshape(3, -1).T


def _centroids_meet(fixed: xr.Dataset, moving: xr.Dataset, on: str, start: xr.Dataset | None) -> xr.Dataset:
    """The rigid transform that takes the centroid of a structure to where it is that day."""
    matrix = np.eye(4) if start is None else start["matrix"].values.copy()
    at = [centroid(find_structure(p, on)) for p in (fixed, moving)]
    matrix[:3, 3] = at[1] - matrix[:3, :3] @ at[0]
    shift = tuple(float(v) for v in at[1] - at[0])
    about = _about(fixed, moving, f"rigid on contours of {on}")
    return matrix_transform(matrix, **about, on=on, shift=shift, rotation=_angle(matrix))


def _different(fixed: xr.Dataset, moving: xr.Dataset) -> None:
    for key in ("content_hash", "series_instance_uid"):
        if fixed is moving or (fixed.attrs.get(key) and fixed.attrs[key] == moving.attrs.get(key)):
            raise IonrtError("registration: fixed and moving are the same image; give the CT of another day")


def _about(fixed: xr.Dataset, moving: xr.Dataset, method: str) -> dict[str, object]:
    """Whose images, and how."""
    return {
        "method": method,
        **image_attrs(fixed, moving),
        "simpleitk": sitk().Version_VersionString(),
        "threads": thread_count(),
    }


def _mask(patient: xr.Dataset, values: np.ndarray, grid: Grid, on: str) -> np.ndarray:
    """Where the rigid match looks, on the CT's grid."""
    names = kinds_of(patient)
    if on in names:
        mask = grid.near(structure_fractions(patient, on) >= 0.5, NEAR_STRUCTURE)
    else:
        one_of(on, ("bone", "body", *names), what="register_rigid: on")
        body = body_of(patient, values)
        mask = grid.near(body, NEAR_BODY) if on == "body" else grid.near(body & (values > BONE), NEAR_BONE)
    if not mask.any():
        raise IonrtError(f"register_rigid: there is no {on} on the planning CT to match on; choose another")
    return mask


def _started(matrix: np.ndarray, middle: np.ndarray, degrees: int) -> Any:
    """The transform that is optimised, turning about the middle of the mask."""
    shift = matrix[:3, :3] @ middle + matrix[:3, 3] - middle
    if degrees == 3:
        return sitk().TranslationTransform(3, shift.tolist())
    out = sitk().Euler3DTransform()
    out.SetCenter(middle.tolist())
    out.SetMatrix(matrix[:3, :3].ravel().tolist(), 1e-6)
    out.SetTranslation(shift.tolist())
    return out


def _better_start(pair: Sequence[tuple[np.ndarray, Grid]], seen: np.ndarray) -> np.ndarray:
    """None, or body centre to body centre, whichever differs less."""
    bodies = [image > SKIN for image, _ in pair]
    if not all(b.any() for b in bodies):
        raise IonrtError("register_rigid: nothing denser than -300 HU in one of the images; expected CTs of a patient, in HU")
    at = [middle_of(b, grid) for b, (_, grid) in zip(bodies, pair, strict=True)]
    ways = [np.eye(4), np.eye(4)]
    ways[1][:3, 3] = at[1] - at[0]
    return min(ways, key=lambda m: _mismatch(pair, seen, m))


def _mismatch(pair: Sequence[tuple[np.ndarray, Grid]], seen: np.ndarray, matrix: np.ndarray) -> float:
    """Root mean square HU difference at planning points that the daily CT holds; infinite where it holds less than half."""
    some = seen[:: max(1, len(seen) // 50_000)]
    values = [
        at_points(np.asarray(image, np.float32)[None], grid, at)[0].astype(float)
        for (image, grid), at in zip(pair, (some, some @ matrix[:3, :3].T + matrix[:3, 3]), strict=True)
    ]
    apart = (values[1] - values[0]) ** 2
    return float(np.sqrt(np.nanmean(apart))) if np.isfinite(apart).mean() > 0.5 else float("inf")


def _level(values: np.ndarray, grid: Grid, level: int, sigma: float) -> Any:
    """An image of the common grid smoothed and on voxels `level` times as large."""
    coarse = coarser(grid, level)
    return to_image(resampled(smoothed(values, grid, sigma), grid, coarse), coarse)


def _matrix_of(transform: Any) -> np.ndarray:
    """4 x 4 from what the transform does to points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    for k in range(3):
        matrix[:3, k] = np.array(transform.TransformPoint(tuple(float(k == j) for j in range(3)))) - origin
    if np.abs(matrix[:3, :3] - np.eye(3)).max() < 1e-12:
        matrix[:3, :3] = np.eye(3)
    return matrix


def _angle(matrix: np.ndarray) -> float:
    """Of the rotation, degrees."""
    return float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1.0) / 2.0, -1.0, 1.0))))


def _box_around(body: np.ndarray, grid: Grid) -> Grid:
    """The part of a grid that holds the body and 10 mm around it."""
    origin, shape = [], []
    for axis, step in enumerate(grid.spacing):
        hit = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        pad = int(np.ceil(10.0 / step))
        low, high = max(int(hit[0]) - pad, 0), min(int(hit[-1]) + pad, body.shape[axis] - 1)
        origin.append(grid.origin[axis] + step * low)
        shape.append(high - low + 1)
    return Grid(tuple(origin), grid.spacing, tuple(shape))  # type: ignore[arg-type]


def _on(u: tuple[np.ndarray, Grid], grid: Grid) -> Any:
    """A displacement of one level on the next one's grid."""
    parts = [resampled(u[0][..., k], u[1], grid, outside=0.0) for k in range(3)]
    return to_image(np.stack(parts, axis=-1).astype(np.float64), grid, vector=True)


def _total(u: np.ndarray, box: Grid, base: Grid, start: xr.Dataset) -> np.ndarray:
    """Rigid start after the deformation, on the whole planning CT; beyond the box its edge goes on."""
    low = [round((b - o) / s) for b, o, s in zip(box.origin, base.origin, base.spacing, strict=True)]
    pad = [(k, n - k - m) for k, n, m in zip(low, base.shape, box.shape, strict=True)]
    whole = np.pad(np.moveaxis(u, -1, 0), [(0, 0), *pad], mode="edge").reshape(3, -1).T
    at = centres(base)
    return (move_points(start, at + whole) - at).T.reshape(3, *base.shape).astype(np.float32)
