"""Water-equivalent depth against an exact ray trace of our own: every crossing of every plane, sorted (Siddon's first form)."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, synthetic_base
from scipy.spatial.transform import Rotation

from ionrt.patient import read_dicom, regrid, stopping_power_ratio, write_phantom
from ionrt.plan import Beam, Plan, Scenario, influence
from ionrt.plan.setup.geometry import Grid, bev_axes
from ionrt.plan.setup.raytrace import trace

GANTRY_NEAR, GANTRY_FAR = (2000.0, 2560.0), (7000.0, 6500.0)
DIRECTIONS = [
    (0.0, 0.0, GANTRY_FAR),
    (90.0, 0.0, GANTRY_FAR),
    (270.0, 0.0, GANTRY_NEAR),
    (37.0, 0.0, GANTRY_FAR),
    (215.0, 0.0, GANTRY_NEAR),
    (90.0, 20.0, GANTRY_FAR),
    (301.0, 345.0, GANTRY_NEAR),
    (55.0, 90.0, GANTRY_FAR),
]


def axes_of(gantry: float, couch: float) -> np.ndarray:
    """Rows u, v, w in LPS, from rotations of the room: the gantry about the long axis of the room, the couch about the
    vertical."""
    turned = Rotation.from_euler("y", gantry, degrees=True).apply(np.eye(3))  # IEC gantry axes in the fixed system
    on_couch = Rotation.from_euler("z", -couch, degrees=True).apply(turned)
    return np.stack([on_couch[:, 0], -on_couch[:, 2], on_couch[:, 1]], axis=1)


def exact(
    spr: xr.DataArray, points: np.ndarray, gantry: float, couch: float, isocentre: np.ndarray, source: tuple[float, float]
) -> np.ndarray:
    """WEPL (mm) of points (x, y, z). The ray through a point crosses the isocentre plane at (u, v) and a plane w mm upstream at
    (u (Su - w) / Su, v (Sv - w) / Sv); its pieces lie between neighbouring crossings of voxel planes, each in the voxel that
    holds its middle. Where a point lies beyond the grid, the outermost voxels reach as far."""
    values, out = spr.values.astype(float), np.zeros(len(points))
    faces = [np.append(c - 0.5 * (c[1] - c[0]), c[-1] + 0.5 * (c[1] - c[0])) for c in (spr[d].values for d in "xyz")]
    axes, source_at = axes_of(gantry, couch), np.array(source)
    for i, point in enumerate(points):
        edges = [np.concatenate([[min(f[0], p)], f[1:-1], [max(f[-1], p)]]) for f, p in zip(faces, point, strict=True)]
        *uv, w = axes @ (point - isocentre)
        at_isocentre = np.array(uv) * source_at / (source_at - w)
        upstream = w + 3000.0 if min(source) > w + 3000.0 else w + 0.5 * (min(source) - w)
        far = isocentre + np.append(at_isocentre * (source_at - upstream) / source_at, upstream) @ axes
        crossings = [np.array([0.0, 1.0])]
        for k in range(3):
            if far[k] != point[k]:
                crossings.append((edges[k] - point[k]) / (far[k] - point[k]))
        t = np.unique(np.clip(np.concatenate(crossings), 0.0, 1.0))
        middle = point + 0.5 * (t[1:] + t[:-1])[:, None] * (far - point)
        cell = np.stack([np.searchsorted(edges[k], middle[:, k], side="right") - 1 for k in (2, 1, 0)])
        inside = np.all([(cell[k] >= 0) & (cell[k] < values.shape[k]) for k in range(3)], axis=0)
        out[i] = np.diff(t)[inside] @ values[tuple(cell[:, inside])] * np.linalg.norm(far - point)
    return out


def centres_of(grid: Grid, index: np.ndarray) -> np.ndarray:
    """(n, 3) x, y, z of voxels."""
    places = np.unravel_index(index, grid.shape)
    return np.stack([o + s * i for o, s, i in zip(grid.origin, grid.spacing, places, strict=True)][::-1], axis=1)


def apart(spr: xr.DataArray, points: np.ndarray, isocentre: np.ndarray) -> np.ndarray:
    """Our tracer against the exact trace, mm: (direction, point)."""
    grid, values = Grid.of(spr), np.ascontiguousarray(spr.values)
    place = np.array(grid.origin), np.array(grid.spacing)
    found = []
    for gantry, couch, source in DIRECTIONS:
        ours = np.empty(len(points))
        trace(points, values, *place, bev_axes(gantry, couch), isocentre, np.array(source), ours)
        found.append(ours - exact(spr, points, gantry, couch, isocentre, source))
    return np.abs(found)


@pytest.fixture(scope="module", params=["pelvis", "head"])
def phantom(request, tmp_path_factory):
    folder = write_phantom(tmp_path_factory.mktemp(request.param) / "dicom", anatomy=request.param)
    patient = read_dicom(folder)
    return patient.drop_vars("ct").assign(spr=stopping_power_ratio(patient["ct"]).transpose("z", "y", "x"))


@pytest.mark.parametrize(("gantry", "couch"), [(0.0, 0.0), (33.0, 0.0), (90.0, 20.0), (250.0, 305.0)])
def test_axes_are_rotations_of_gantry_and_couch(gantry, couch):
    np.testing.assert_allclose(bev_axes(gantry, couch), axes_of(gantry, couch), atol=1e-14)


def test_depth_in_the_phantom_is_that_of_an_exact_trace(phantom):
    """Voxels of the dose grid all over the body, the worst of them: rounding, where 0.3 mm were asked for."""
    coarse = regrid(phantom, spacing=3.0)
    grid = Grid.of(coarse)
    body = np.flatnonzero(coarse["structures"].sel(structure="BODY").values.ravel() > 0.0)
    points = centres_of(grid, np.random.default_rng(3).choice(body, 400, replace=False))
    found = apart(phantom["spr"], points, np.array([10.0, -8.0, 5.0]))
    assert np.percentile(found, 95.0) < 1e-9 and found.max() < 1e-9


def test_depth_in_a_real_head_is_that_of_an_exact_trace(shared, tmp_path):
    """Anthropomorphic head phantom with bone, teeth and cavities, 0.6 x 0.6 x 1.5 mm; points anywhere in the voxels."""
    with tarfile.open(shared("data/dicom/dcpt_headphantom_proton/CT_177slices.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    spr = stopping_power_ratio(read_dicom(tmp_path)["ct"]).transpose("z", "y", "x")
    rng = np.random.default_rng(4)
    dense = np.argwhere(spr.values > 0.5)
    place = dense[rng.choice(len(dense), 400, replace=False)] + rng.uniform(-0.5, 0.5, (400, 3))
    points = np.stack(
        [spr[d].values[0] + place[:, k] * np.diff(spr[d].values[:2]) for k, d in ((2, "x"), (1, "y"), (0, "z"))], 1
    )
    found = apart(spr, points, points.mean(axis=0))
    assert np.percentile(found, 95.0) < 1e-9 and found.max() < 1e-9


def test_rays_along_faces_and_through_corners(phantom):
    """Dose grids of twice the CT's spacing have their centres on the corners of its voxels. A ray that runs within a face
    belongs to either side, and to none besides."""
    spr = phantom["spr"]
    grid = Grid.of(spr)
    rng = np.random.default_rng(5)
    dense = np.argwhere(spr.values[1:-1, 1:-1, 1:-1] > 0.5)[:: 1 + spr.size // 200_000] + 1
    corner = dense[rng.choice(len(dense), 200, replace=False)] + 0.5
    points = np.stack([grid.origin[k] + grid.spacing[k] * corner[:, k] for k in (2, 1, 0)], axis=1)
    isocentre = points[0].copy()
    points[::2, 0], points[::3, 2] = isocentre[0], isocentre[2]  # many in the planes in which rays do not diverge
    found = apart(spr, points, isocentre)
    values = np.ascontiguousarray(spr.values)
    for k, (gantry, couch, source) in enumerate(DIRECTIONS):
        doubtful = np.flatnonzero(found[k] > 1e-9)
        if not doubtful.size:
            continue
        ours = np.empty(doubtful.size)
        axes = bev_axes(gantry, couch)
        trace(points[doubtful], values, np.array(grid.origin), np.array(grid.spacing), axes, isocentre, np.array(source), ours)
        sides = []
        for side in np.ndindex(2, 2, 2):
            moved = 1e-7 * (2.0 * np.array(side) - 1.0)
            sides.append(exact(spr, points[doubtful] + moved, gantry, couch, isocentre + moved, source))
        assert np.abs(np.array(sides) - ours).min(axis=0).max() < 1e-4, (gantry, couch)


@pytest.mark.parametrize(
    ("shifter", "scenario"),
    [(0.0, Scenario()), (30.0, Scenario()), (0.0, Scenario(0.03)), (12.5, Scenario(-0.025, (3.0, -2.0, 4.0)))],
)
def test_the_engine_looks_doses_up_at_that_depth(phantom, shifter, scenario):
    """Depth bins of 0.1 mm: half a bin beside the exact depth at most; set-up errors move the beam, range errors scale it."""
    beam = Beam("C", 70.0, 15.0, isocentre=(2.0, -3.0, 4.0), room=POINT_ROOM, range_shifter=shifter)
    plan = Plan((beam,), "CTV", 2.0, spacing=4.0, spot_spacing=8.0, model="constant")
    base = synthetic_base("C", energies=np.linspace(80.0, 430.0, 36), depth_end=420.0)
    made = influence(phantom, plan, base={"C": base}, scenario=scenario).beams[0]
    pick = np.random.default_rng(6).choice(made.voxel.size, 400, replace=False)
    points = centres_of(Grid.of(regrid(phantom, spacing=4.0)), made.voxel[pick])
    isocentre = np.array(beam.isocentre) + scenario.setup
    path = exact(phantom["spr"], points, beam.gantry, beam.couch, isocentre, beam.room.source_distance)
    expected = path / (1.0 + scenario.range_shift) + shifter
    assert np.abs(0.1 * made.parts[0].bins[pick] - expected).max() < 0.05 + 1e-6


def test_beyond_the_last_slice_the_depth_goes_on():
    """Centres of dose voxels may lie a little beyond the CT; nearly parallel rays then take long to come in. Slices of
    different material: the last one counts, not the one where the ray comes in."""
    z, y, x = np.arange(0.0, 20.0, 2.0), np.arange(0.0, 200.0, 2.0), np.arange(0.0, 200.0, 2.0)
    spr = xr.DataArray(np.ones((10, 100, 100), np.float32), dims=("z", "y", "x"), coords={"z": z, "y": y, "x": x})
    spr[-1, :50] = 1.5  # the anterior half of the last slice
    points = np.array([[100.0, 150.0, at] for at in (18.9, 19.1, 20.0)])  # the CT ends at 19
    out = np.empty(3)
    place = np.zeros(3), np.full(3, 2.0)
    trace(points, spr.values, *place, bev_axes(0.0, 0.0), np.array([100.0, 100.0, 0.0]), np.array(GANTRY_FAR), out)
    np.testing.assert_allclose(out, 51.0 + 1.5 * 100.0, atol=0.01)  # rays lean by 0.44 mm: within the slice all the way
