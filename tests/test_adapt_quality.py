"""The numbers beside a registration: right where the truth is known, and loud where a limit is passed."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from adapt_fixtures import bumps, coords

from ionrt.adapt.quality import registration_quality
from ionrt.adapt.sampling import at_points, centres
from ionrt.adapt.transform import invert, move_points
from ionrt.patient.registration import field_transform, matrix_transform
from ionrt.plan.setup.geometry import Grid
from ionrt.quantities import IonrtError

ON = coords((21, 25, 27), spacing=(4.0, 4.0, 4.0), origin=(-40.0, -48.0, -52.0))
GRID = Grid((-40.0, -48.0, -52.0), (4.0, 4.0, 4.0), (21, 25, 27))


def phantom(way: xr.Dataset | None = None) -> xr.Dataset:
    """A SYNTHETIC cylinder with a sphere in it; pulled back through `way` where one is given."""
    at = centres(GRID) if way is None else move_points(way, centres(GRID))
    x, y, z = at.T
    skin = 1.0 / (1.0 + np.exp((np.hypot(x / 40.0, y / 36.0) - 1.0) * 10.0))
    hu = -1000.0 + skin * (1020.0 + 60.0 * np.sin(x / 8.0) * np.cos(z / 9.0))
    sphere = np.clip(0.5 + (15.0 - np.sqrt(x**2 + y**2 + z**2)) / 4.0, 0.0, 1.0)
    shape = GRID.shape
    return xr.Dataset(
        {
            "ct": (("z", "y", "x"), hu.reshape(shape).astype(np.float32), {"units": "HU"}),
            "structures": (("structure", "z", "y", "x"), sphere.reshape(1, *shape).astype(np.float32)),
        },
        coords={"structure": ["GTV"], **GRID.coords()},
    )


def test_the_true_transform_passes_and_says_so():
    way = bumps(3, ON, amplitude=3.0, n=2, shift=(2.0, -1.0, 1.0))
    day, planning = phantom(), phantom(way)
    table = registration_quality(way, planning, day, structures=["GTV"], truth=way, reverse=invert(way), others=[way])
    assert list(table.index) == ["body", "GTV"] and set(table["flags"]) == {"none"}
    assert table["error mean [mm]"].max() < 1e-9 and table["spread [mm]"].max() < 1e-9
    assert table.loc["GTV", "Dice"] > 0.93  # a sphere of 15 mm on voxels of 4 mm, interpolated twice
    assert np.isnan(table.loc["body", "Dice"])
    assert table["there and back [mm]"].max() < 0.1 and table["inverse residual [mm]"].max() < 0.1
    assert (table["HU off after"] < 0.5 * table["HU off before"]).all() and table["folds [%]"].max() == 0.0
    assert "TG-132" in table.attrs["limits"]["smallest Jacobian"][2]


def test_a_wrong_transform_is_flagged():
    way = bumps(3, ON, amplitude=3.0, n=2, shift=(2.0, -1.0, 1.0))
    day, planning = phantom(), phantom(way)
    wrong = np.eye(4)
    wrong[:3, 3] = -12.0, 8.0, 6.0
    table = registration_quality(matrix_transform(wrong), planning, day, structures=["GTV"], truth=way)
    assert "Dice" in table.loc["GTV", "flags"] and "error mean" in table.loc["GTV", "flags"]
    assert "larger than without" in table.loc["body", "flags"]


def test_landmarks_and_folding():
    day = phantom()
    way = matrix_transform(np.eye(4))
    points = np.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    table = registration_quality(way, day, day, landmarks=(points, points + np.array([3.0, 4.0, 0.0])))
    assert table.loc["landmarks", "error mean [mm]"] == pytest.approx(5.0)
    assert "error mean" in table.loc["landmarks", "flags"]
    with pytest.raises(IonrtError, match=r"two arrays \(n, 3\)"):
        registration_quality(way, day, day, landmarks=(points, points[:1]))
    u = np.zeros((3, *GRID.shape))
    u[0] = -20.0 * np.tanh(ON["x"] / 5.0)
    with pytest.raises(IonrtError, match="folds"):
        registration_quality(field_transform(u, ON), day, day)
    little = np.zeros((3, *GRID.shape))
    little[0, 10, 12, 13] = 12.0  # one voxel that runs into its neighbour
    found = registration_quality(field_transform(little, ON), day, day)
    assert "smallest Jacobian" in found.loc["body", "flags"] and found.loc["body", "folds [%]"] > 0.0


def test_an_empty_structure_is_refused():
    day = phantom()
    day["structures"] = day["structures"] * 0.2
    with pytest.raises(IonrtError, match="no voxel"):
        registration_quality(matrix_transform(np.eye(4)), day, day, structures=["GTV"])


def test_values_at_points_are_those_of_the_grid():
    values = np.arange(GRID.size, dtype=float).reshape(GRID.shape)
    np.testing.assert_array_equal(at_points(values[None], GRID, centres(GRID))[0], values.ravel())
