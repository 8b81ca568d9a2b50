"""How far a registration can be trusted: nothing accumulated is shown without these numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.adapt.images import body_of, hounsfield, resampled
from ionrt.adapt.sampling import at_points, centres
from ionrt.adapt.transform import invert, jacobian, move_points
from ionrt.patient.names import kinds_of
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.scene import structure_fractions
from ionrt.quantities import IonrtError

# limit, kind, source. TG-132 (doi 10.1002/mp.12256) as quoted by Latifi et al. 2018, PMC6036411, and defaults of ionrt.
LIMITS = {
    "smallest Jacobian": (0.0, "above", "no folding (TG-132)"),
    "inverse residual [mm]": (3.0, "below", "largest voxel of the registration (TG-132)"),
    "there and back [mm]": (3.0, "below", "largest voxel of the registration (TG-132)"),
    "Dice": (0.8, "above", "contouring uncertainty 0.8 to 0.9 (TG-132)"),
    "error mean [mm]": (2.0, "below", "phantom: mean 2 mm (TG-132 in PMC6036411)"),
    "error 95 % [mm]": (5.0, "below", "phantom: maximum 5 mm (TG-132 in PMC6036411)"),
}
SAMPLES = 60_000  # voxels of a structure that stand for all


def registration_quality(
    transform: xr.Dataset,
    fixed: xr.Dataset,
    moving: xr.Dataset,
    *,
    structures: Sequence[str] = (),
    truth: xr.Dataset | None = None,
    landmarks: tuple[np.ndarray, np.ndarray] | None = None,
    reverse: xr.Dataset | None = None,
    others: Sequence[xr.Dataset] = (),
) -> pd.DataFrame:
    """Numbers of a registration, in the body and in structures, each beside its limit.

    `truth` is the known transform of a phantom, `landmarks` are points (n, 3) [mm] on the planning CT and where they lie that
    day, `reverse` is an independent registration of planning onto daily CT, `others` are registrations of the same pair: how
    far they lie apart is a band, no error.

    One row per region ("body", structures, "landmarks"): smallest and largest Jacobian, share that folds [%], inverse residual,
    there and back, Dice, HU difference (mean absolute) without and with the registration, error (mean, 95 %, largest) against
    truth or landmarks, spread of the registrations [mm]; column ``flags`` names every limit that is passed. NaN: not known.
    ``DataFrame.attrs["limits"]`` holds limits and sources. No surrogate proves accuracy: inverse consistency goes with the true
    error at r = 0.29 only (PMC4068011). Brock et al., doi 10.1002/mp.12256 (TG-132).
    """
    values, home = hounsfield(fixed)
    other, there = hounsfield(moving)
    regions = {"body": body_of(fixed, values)}
    regions |= {s: structure_fractions(fixed, s) >= 0.5 for s in structures}
    inverse = invert(transform)
    rows = {}
    for name, inside in regions.items():
        index = np.flatnonzero(inside.ravel())
        if not index.size:
            raise IonrtError(f"registration_quality: {name!r} fills no voxel of the planning CT by half")
        points = centres(home)[index[:: max(1, index.size // SAMPLES)]]
        moved = move_points(transform, points)
        row = _volume_change(transform, points)
        row["inverse residual [mm]"] = _mean(move_points(inverse, moved) - points)
        row["there and back [mm]"] = np.nan if reverse is None else _mean(move_points(reverse, moved) - points)
        row["Dice"] = _dice(transform, inside, home, moving, name) if name in structures else np.nan
        here = at_points(values[None], home, points)[0]
        row["HU off before"], row["HU off after"] = (
            float(np.nanmean(np.abs(at_points(other[None], there, at)[0] - here))) for at in (points, moved)
        )
        row |= _error(None if truth is None else move_points(truth, points) - moved)
        row["spread [mm]"] = max((_mean(move_points(o, points) - moved) for o in others), default=np.nan)
        rows[name] = row
    if landmarks is not None:
        a, b = (np.asarray(p, dtype=float) for p in landmarks)
        if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3:
            raise IonrtError(f"registration_quality: expected landmarks as two arrays (n, 3), got {a.shape} and {b.shape}")
        rows["landmarks"] = _error(move_points(transform, a) - b)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("region")
    table["flags"] = [", ".join(_flags(row)) or "none" for _, row in table.iterrows()]
    table.attrs = {"limits": LIMITS, "method": str(transform.attrs.get("method", "unknown"))}
    return table


def _volume_change(transform: xr.Dataset, points: np.ndarray) -> dict[str, float]:
    """Jacobian at points."""
    found = (change := jacobian(transform)).values
    if change.ndim:  # of a matrix it is one number
        found = at_points(np.asarray(found, np.float64)[None], Grid.of(change, what="displacement"), points)[0]
    return {
        "smallest Jacobian": float(np.nanmin(found)),
        "largest Jacobian": float(np.nanmax(found)),
        "folds [%]": 100.0 * float(np.mean(found[np.isfinite(found)] <= 0.0)),
    }


def _mean(apart: np.ndarray) -> float:
    distance = np.linalg.norm(apart, axis=1)
    return float(np.nanmean(distance)) if np.isfinite(distance).any() else np.nan


def _error(apart: np.ndarray | None) -> dict[str, float]:
    """Mean, 95 % and largest distance."""
    names = ("error mean [mm]", "error 95 % [mm]", "error largest [mm]")
    if apart is None:
        return dict.fromkeys(names, np.nan)
    distance = np.linalg.norm(apart, axis=1)
    distance = distance[np.isfinite(distance)]
    return dict(zip(names, (float(v) for v in (distance.mean(), np.percentile(distance, 95), distance.max())), strict=True))


def _dice(transform: xr.Dataset, inside: np.ndarray, home: Grid, moving: xr.Dataset, name: str) -> float:
    """Overlap of the day's own contour, brought to planning, with the planned one; NaN where the day has none."""
    if name not in kinds_of(moving):
        return np.nan
    own, there = structure_fractions(moving, name), Grid.of(moving)
    back = resampled(own, there, home, move_points(transform, centres(home)), outside=0.0) >= 0.5
    return float(2.0 * (inside & back).sum() / max(inside.sum() + back.sum(), 1))


def _flags(row: pd.Series) -> list[str]:
    """Limits that a row passes, and a match that is worse than none."""
    out = []
    for name, (limit, kind, _) in LIMITS.items():
        value = row.get(name, np.nan)
        if np.isfinite(value) and (value <= limit if kind == "above" else value > limit):
            out.append(f"{name} {value:.3g}")
    if row.get("HU off after", np.nan) > row.get("HU off before", np.nan):
        out.append("HU difference larger than without registration")
    return out
