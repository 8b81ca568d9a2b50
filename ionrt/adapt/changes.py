"""What has changed on a day, as numbers: structures, depths, dose, LETd, organ limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy.ndimage import binary_erosion, distance_transform_edt

from ionrt import evaluate
from ionrt.adapt.depth import depth_change
from ionrt.adapt.sampling import at_points, centres, middle_of
from ionrt.evaluate.gamma_index import pass_rate
from ionrt.plan.engine.influence import Influence
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.scene import structure_fractions
from ionrt.quantities import IonrtError

DIMS = ("z", "y", "x")
SURFACE = 2.0  # mm: grid on which surfaces are compared


def anatomy_change(planning: xr.Dataset, daily: xr.Dataset, *, structures: Sequence[str]) -> pd.DataFrame:
    """Structures of a day against planning: volume, centroid, surface, and what the CT shows in them.

    A registration follows what has shrunk only in part (decision 0155): the volume of a propagated contour is then too large.
    How much of it is no longer the planned structure is seen in its HU, whatever the registration says.

    One row per structure: volume planned and that day [cm3], change [%], shift of the centroid (x, y, z, length) [mm], distance
    of the surfaces (mean, 95 %, both ways) [mm]; ``other HU [%]``, the share of the day's contour, at least, that shows HU
    which the planned structure has not (the largest difference of the two distributions, that of Kolmogorov and Smirnov; NaN
    without ``ct``): other tissue, gas, or HU of another scale; noise and mixed voxels at the rim make a few per cent of it
    where nothing has changed, more in small structures; ``contour`` says whose the day's is: "own", or "propagated" with that
    share.
    """
    rows = {}
    for name in structures:
        sides = [_of(p, name, what) for p, what in ((planning, "planning CT"), (daily, "day"))]
        volumes = [float(a.sum(dtype=np.float64)) * g.voxel_volume / 1000.0 for a, g in sides]
        shift = middle_of(*sides[1]) - middle_of(*sides[0])
        other = _other_hu(*((p, a) for p, (a, _) in zip((planning, daily), sides, strict=True)))
        mean, high = _surfaces(*sides)
        rows[name] = {
            "planned [cm3]": volumes[0],
            "that day [cm3]": volumes[1],
            "volume [%]": 100.0 * (volumes[1] / volumes[0] - 1.0),
            **{f"{axis} [mm]": float(v) for axis, v in zip("xyz", shift, strict=True)},
            "centroid [mm]": float(np.linalg.norm(shift)),
            "surface mean [mm]": mean,
            "surface 95 % [mm]": high,
            "other HU [%]": other,
            "contour": "propagated" if name in daily.attrs.get("propagated", ()) else "own",
        }
        if rows[name]["contour"] == "propagated" and np.isfinite(other):
            rows[name]["contour"] = f"propagated; at least {other:.0f} % of it shows other HU"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("structure")


def depth_table(change: xr.Dataset) -> pd.DataFrame:
    """Of `depth_change`, per beam: median, 95th percentile and largest size [mm], the median also with its sign, and rays."""
    rows = {}
    for beam in (str(b) for b in change["beam"].values):
        values = change["wepl_change"].sel(beam=beam).values
        values = values[np.isfinite(values)]
        size = np.abs(values)
        rows[beam] = {
            "median [mm]": float(np.median(values)),
            "median size [mm]": float(np.median(size)),
            "95 % [mm]": float(np.percentile(size, 95)),
            "largest [mm]": float(size.max()),
            "rays": int(size.size),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("beam")


def measure(
    influence: Influence,
    planning: xr.Dataset,
    daily: xr.Dataset,
    *,
    organs: Sequence[str] = (),
    planned: xr.Dataset | None = None,
    field: xr.Dataset | None = None,
) -> dict[str, float]:
    """Everything the rules of a replanning trigger look at, by name.

    Parameters
    ----------
    influence : of the plan.
    planning, daily : Datasets, the second of `place`, with the target.
    organs : whose near-maximum dose is compared.
    planned, field : maps ``rbe_dose`` and ``let_d`` of the plan on the planning CT, and of the day on its own structures;
        without them only image and depth are measured (the screen).

    Returns
    -------
    Mapping: ``centroid`` [mm], ``volume`` [%, size of the change], ``depth_median`` and ``depth_95`` [mm, worst beam]; with
    dose also ``V95`` [%], ``D98_loss`` [% of the prescription], ``L98_loss`` [%], ``gamma`` (of `gamma_passed`) [%],
    ``D0.03cc <organ>`` [Gy (RBE)] and ``D0.03cc rise <organ>`` [% of the prescription].

    Raises
    ------
    IonrtError
        As `anatomy_change` and `depth_change`; maps without the structures that are looked at.
    """
    target, dose = influence.plan.target, influence.plan.prescription
    shape = anatomy_change(planning, daily, structures=[target]).loc[target]
    depth = depth_table(depth_change(influence, planning, daily))
    out = {
        "centroid": float(shape["centroid [mm]"]),
        "volume": abs(float(shape["volume [%]"])),
        "depth_median": float(depth["median size [mm]"].max()),
        "depth_95": float(depth["95 % [mm]"].max()),
    }
    if planned is None or field is None:
        return out
    sides = [(m, p["structures"].sel(structure=[target, *organs])) for m, p in ((planned, planning), (field, daily))]
    at = [evaluate.statistics(m["rbe_dose"], s.sel(structure=[target]), percent=(98,), dose=(0.95 * dose,)) for m, s in sides]
    let = [evaluate.statistics(m["let_d"], s.sel(structure=[target]), percent=(98,)) for m, s in sides]
    d98, l98 = [t.loc[target, "D98%"] for t in at], [t.loc[target, "L98%"] for t in let]
    out |= {
        "V95": float(at[1].loc[target, f"V{0.95 * dose:g}"]),
        "D98_loss": 100.0 * float(d98[0] - d98[1]) / dose,
        "L98_loss": 100.0 * float(1.0 - l98[1] / l98[0]),
        "gamma": gamma_passed(planned["rbe_dose"], field["rbe_dose"]),
    }
    for organ in organs:
        hot = [float(evaluate.dose_at_volume(m["rbe_dose"], s.sel(structure=[organ]), cc=0.03)[0]) for m, s in sides]
        out |= {f"D0.03cc {organ}": hot[1], f"D0.03cc rise {organ}": 100.0 * (hot[1] - hot[0]) / dose}
    return out


def gamma_passed(planned: xr.DataArray, delivered: xr.DataArray) -> float:
    """Share [%] of the voxels of a planned dose above 10 % of its maximum that find the day's within 3 % of it and 3 mm."""
    return 100.0 * float(pass_rate(evaluate.gamma(planned, delivered, dose_percent=3.0, distance_mm=3.0)))


def _of(patient: xr.Dataset, name: str, what: str) -> tuple[np.ndarray, Grid]:
    values = structure_fractions(patient, name)
    if not values.any():
        raise IonrtError(f"anatomy_change: {name!r} is empty on the {what}")
    return values, Grid.of(patient, what=what)


def _other_hu(planned: tuple[xr.Dataset, np.ndarray], day: tuple[xr.Dataset, np.ndarray]) -> float:
    """Largest difference of the distributions of HU within two structures, voxels weighted by their fractions [%]."""
    found = []
    for patient, inside in (planned, day):
        if "ct" not in patient:
            return np.nan
        hu = np.rint(np.asarray(patient["ct"].transpose(*DIMS).values)[inside > 0.0])  # a turned CT shows 44.9999 HU, not 45
        weight = inside[inside > 0.0].astype(np.float64)
        order = np.argsort(hu)
        found.append((hu[order], np.concatenate([[0.0], np.cumsum(weight[order])]) / weight.sum()))
    at = np.concatenate([hu for hu, _ in found])
    below = [share[np.searchsorted(hu, at, side="right")] for hu, share in found]
    return 100.0 * float(np.abs(below[0] - below[1]).max())


def _surfaces(a: tuple[np.ndarray, Grid], b: tuple[np.ndarray, Grid]) -> tuple[float, float]:
    """Mean and 95th percentile of the distances between two surfaces, both ways, on a grid that holds both."""
    ends = []
    for values, grid in (a, b):
        hit = np.argwhere(values >= 0.5)
        hit = np.argwhere(values > 0.0) if not hit.size else hit
        corners = np.array(grid.origin) + np.array(grid.spacing) * np.stack([hit.min(0), hit.max(0)])
        ends.append(corners)
    low, high = np.min([e[0] for e in ends], axis=0) - 4 * SURFACE, np.max([e[1] for e in ends], axis=0) + 4 * SURFACE
    shape = tuple(int(n) for n in np.ceil((high - low) / SURFACE) + 1)
    grid = Grid(tuple(low), (SURFACE,) * 3, shape)  # type: ignore[arg-type]
    inside = [np.nan_to_num(at_points(v[None], g, centres(grid))[0]).reshape(shape) >= 0.5 for v, g in (a, b)]
    edges = [i & ~binary_erosion(i) for i in inside]
    if not all(e.any() for e in edges):
        return np.nan, np.nan
    apart = [distance_transform_edt(~e, sampling=SURFACE) for e in edges]
    both = np.concatenate([apart[1][edges[0]], apart[0][edges[1]]])
    return float(both.mean()), float(np.percentile(both, 95))
