"""Patient positions, table angle, pitch and roll: phantom and beam moved together give the same dose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from plan_fixtures import synthetic_base
from scipy.ndimage import gaussian_filter1d, map_coordinates
from scipy.spatial.transform import Rotation

from ionrt.patient.ionplan import IonPlan
from ionrt.plan import recompute
from ionrt.plan.setup.geometry import bev_axes
from ionrt.quantities import IonrtError

# where beams at gantry 0 and 90 degrees come from, seen by the patient: (x, y, z) LPS
ANATOMY = {
    "HFS": ("anterior", "left"),
    "HFP": ("posterior", "right"),
    "FFS": ("anterior", "right"),
    "FFP": ("posterior", "left"),
    "HFDR": ("left", "posterior"),  # the right side lies on the table
    "HFDL": ("right", "anterior"),
    "FFDR": ("left", "anterior"),
    "FFDL": ("right", "posterior"),
}
SIDES = {"left": (1, 0, 0), "right": (-1, 0, 0), "posterior": (0, 1, 0), "anterior": (0, -1, 0)}
TABLES = [(0, 0, 0), (90, 0, 0), (30, 0, 0), (0, 90, 0), (0, 0, 90), (0, 6, 0), (0, 0, -8), (25, 4, -5)]  # couch, pitch, roll
STEP, FINE, SIZE = 2.0, 2.0 / 3.0, 87  # mm of the dose grid and of the phantom, voxels of it
ENERGIES = (100.0, 106.0, 112.0)
BASE = {"C": synthetic_base("C", energies=ENERGIES, halo=False)}
# blurred by 6 mm along the depth, so that voxels turned by any angle sample the same dose
BASE["C"]["dose"] = BASE["C"]["dose"].copy(data=gaussian_filter1d(BASE["C"]["dose"].values, 60.0, axis=1))


@pytest.mark.parametrize("position", ANATOMY)
def test_where_the_beam_comes_from(position):
    for gantry, side in zip((0.0, 90.0), ANATOMY[position], strict=True):
        np.testing.assert_allclose(bev_axes(gantry, 0.0, position)[2], SIDES[side], atol=1e-12)
    head = 1.0 if position.startswith("HF") else -1.0
    np.testing.assert_allclose(bev_axes(0.0, 0.0, position)[1], (0.0, 0.0, head), atol=1e-12)  # the head points to the gantry


def room_to_patient(position, couch, pitch, roll):
    """Rotation of room axes (IEC fixed) into the patient's (LPS), by the rotations of another library and the anatomy."""
    table = Rotation.from_euler("ZXY", [couch, pitch, roll], degrees=True)  # about the axes as turned: couch, pitch, roll
    up = np.array(SIDES[ANATOMY[position][0]], float)
    right = np.array(SIDES[ANATOMY[position][1]], float)
    lying = np.stack([right, np.cross(up, right), up], axis=1)  # columns: table X, Y, Z seen by the patient
    return lying @ table.as_matrix().T


def material(room):
    """Smooth stopping-power ratio without any symmetry, fixed in the room, in a ball with a soft edge."""
    x, y, z = np.moveaxis(room, -1, 0)
    ball = 1.0 / (1.0 + np.exp((np.sqrt(x**2 + y**2 + z**2) - 20.0) / 3.0))
    bump = 0.8 * np.exp(-((x - 9.0) ** 2 + (y + 6.0) ** 2 + (z - 4.0) ** 2) / 160.0)
    dip = 0.4 * np.exp(-((x + 8.0) ** 2 + (y - 9.0) ** 2 + (z + 3.0) ** 2) / 130.0)
    return (ball * (1.0 + bump - dip)).astype(np.float32)


def patient(rotation, centre):
    line = FINE * (np.arange(SIZE) - 0.5 * (SIZE - 1))
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    room = np.stack([x, y, z], axis=-1) @ rotation  # the transpose takes the patient's axes to the room's
    coords = {d: c + line for d, c in zip("zyx", centre[::-1], strict=True)}
    return xr.Dataset({"spr": (("z", "y", "x"), material(room))}, coords=coords)


def ion_plan(position, couch, pitch, roll, isocentres, gantry=(20.0,)):
    rows, layers, spots = [], [], []
    for k, (iso, angle) in enumerate(zip(isocentres, gantry, strict=True), 1):
        rows.append(
            {
                "beam": k, "name": "", "ion": "C", "z": 6, "a": 12, "q": 6, "meterset_unit": "NP", "final_weight": 1.0,
                "meterset": 1e6, "beam_dose": np.nan, "gantry_angle": angle, "couch_angle": couch, "patient_position": position,
                "table_pitch": pitch, "table_roll": roll, "table_eccentric": 0.0, "gantry_pitch": 0.0, "angle_change": 0.0,
                "isocentre_x": iso[0], "isocentre_y": iso[1], "isocentre_z": iso[2], "source_x": 2000.0, "source_y": 2500.0,
                "range_shifter": 0.0, "range_shifter_distance": 0.0,
            }
        )  # fmt: skip
        for n, energy in enumerate(ENERGIES):
            layers.append({"beam": k, "layer": n, "energy": energy, "weight": 1.0, "spots": 2, "size_x": 15.0, "size_y": 15.0})
            for x, y, w in ((-6.0, 3.0, 1.0), (5.0, 7.0, 2.0)):
                spots.append({"beam": k, "layer": n, "energy": energy, "x": x, "y": y, "weight": w, "meterset": 1e6 * w})
    return IonPlan("t", 1, "", pd.DataFrame(rows), pd.DataFrame(layers), pd.DataFrame(spots))


def dose_in_room(position, couch, pitch, roll, centre=(0.0, 0.0, 0.0)):
    """Dose at points of the room well inside the phantom."""
    rotation = room_to_patient(position, couch, pitch, roll)
    plan = ion_plan(position, couch, pitch, roll, [centre])
    found = recompute(patient(rotation, np.array(centre)), plan, base=BASE, spacing=STEP, models=())["dose"]
    line = STEP * np.arange(-7, 8)
    x, y, z = np.meshgrid(line, line, line, indexing="ij")
    room = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    points = room[(room**2).sum(axis=1) <= 14.0**2] @ rotation.T + np.array(centre)
    place = [(points[:, k] - float(found[d][0])) / STEP for d, k in (("z", 2), ("y", 1), ("x", 0))]
    return map_coordinates(found.values.astype(float), place, order=3)


@pytest.fixture(scope="module")
def unmoved():
    return dose_in_room("HFS", 0.0, 0.0, 0.0)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: "couch {} pitch {} roll {}".format(*t))
@pytest.mark.parametrize("position", ANATOMY)
def test_moved_together(unmoved, position, table):
    assert unmoved.min() < 0.1 * unmoved.max()  # there is something to be seen
    moved = dose_in_room(position, *table, centre=(11.0, -7.0, 5.0))
    assert np.abs(moved - unmoved).max() < 0.01 * unmoved.max()


def test_several_isocentres():
    """A plan of two isocentres is the sum of two plans; an isocentre moved with the phantom leaves the dose as it is."""
    both = [(2.0, -3.0, 1.0), (-4.0, 5.0, -2.0)]
    here = patient(np.eye(3), np.zeros(3))

    def dose(*chosen):
        plan = ion_plan("HFS", 0.0, 0.0, 0.0, [both[k] for k in chosen], gantry=[(20.0, 110.0)[k] for k in chosen])
        return recompute(here, plan, base=BASE, spacing=STEP, models=())["dose"].values

    np.testing.assert_allclose(dose(0, 1), dose(0) + dose(1), atol=1e-4 * dose(0).max())


def test_eccentric_table_turns_as_the_support_does(unmoved):
    plan = ion_plan("HFS", 10.0, 0.0, 0.0, [(0.0, 0.0, 0.0)])
    shared = replace(plan, beams=plan.beams.assign(couch_angle=4.0, table_eccentric=6.0))
    here = patient(np.eye(3), np.zeros(3))
    one, two = (recompute(here, p, base=BASE, spacing=STEP, models=())["dose"] for p in (plan, shared))
    np.testing.assert_allclose(two, one, atol=1e-6 * unmoved.max())


def test_unknown_position_and_tilts_that_change():
    here = patient(np.eye(3), np.zeros(3))
    plan = ion_plan("HFS", 0.0, 0.0, 0.0, [(0.0, 0.0, 0.0)])
    for change, message in (
        ({"patient_position": "SITTING"}, "patient position: 'SITTING' does not exist"),
        ({"gantry_pitch": -2.0}, "expected an upright gantry, got gantry pitch -2 degrees"),
        ({"angle_change": 3.0}, "gantry or table turns by 3 degrees"),
    ):
        with pytest.raises(IonrtError, match=message):
            recompute(here, replace(plan, beams=plan.beams.assign(**change)), base=BASE, spacing=STEP)
