"""The built-in phantom: valid DICOM, the same every time, with the target where it is said to be."""

import time

import numpy as np
import pandas as pd
import pytest
from test_dicom_write import errors

from ionrt.patient import add_ellipsoid, read_dicom, regrid, stopping_power_ratio, volumes, write_phantom
from ionrt.patient.geometry.structures import find_structure
from ionrt.patient.phantom import EXTENT, recipe
from ionrt.quantities import IonrtError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom") / "dicom")


@pytest.fixture(scope="module")
def patient(folder):
    return read_dicom(folder)


def test_every_file_passes_the_validator(folder):
    files = sorted(folder.glob("*.dcm"))
    assert len(files) == 66
    bad = {path.name: found for path in files if (found := errors(path))}
    assert bad == {}


def test_says_synthetic_everywhere(folder):
    import pydicom

    for path in folder.glob("*.dcm"):
        data = pydicom.dcmread(path, stop_before_pixels=True)
        assert all(
            "SYNTHETIC" in str(data[k].value) for k in ("PatientName", "PatientID", "StudyDescription", "SeriesDescription")
        )


def test_writing_and_reading_are_quick(tmp_path):
    start = time.process_time()
    write_phantom(tmp_path / "a")
    middle = time.process_time()
    read_dicom(tmp_path / "a")
    end = time.process_time()
    assert middle - start < 6.0 and end - middle < 4.0  # 1.3 s and 0.4 s alone on two cores


def test_same_bytes_every_time(tmp_path):
    one, two = (write_phantom(tmp_path / name, pixel=10.0, slice_distance=10.0) for name in "ab")
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_an_existing_phantom_is_kept_and_other_files_are_not_touched(tmp_path):
    folder = write_phantom(tmp_path / "a", pixel=10.0, slice_distance=10.0)
    stamp = (folder / "RS.dcm").stat().st_mtime_ns
    assert write_phantom(folder, pixel=10.0, slice_distance=10.0) == folder
    assert (folder / "RS.dcm").stat().st_mtime_ns == stamp
    with pytest.raises(IonrtError, match="not empty"):
        write_phantom(folder, pixel=5.0, slice_distance=10.0)
    with pytest.raises(IonrtError, match=r"between 0\.5 and 10"):
        write_phantom(tmp_path / "b", pixel=0.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_ellipsoids_have_their_volume(patient):
    """The stack of elliptic discs exactly, and 4/3 pi abc within what 3 mm slices can say."""
    parts = recipe().set_index("name")
    v = dict(zip(patient.structure.values, volumes(patient).values, strict=True))
    for name in ("CTV", "GTV", "Bladder", "Femur_Head_L", "LungInsert"):
        r = parts.loc[name, ["rx", "ry", "rz"]].astype(float)
        discs = np.clip(1 - ((patient.z.values - float(parts.loc[name, "z"])) / r["rz"]) ** 2, 0, None).sum()
        assert v[name] == pytest.approx(np.pi * r["rx"] * r["ry"] * discs * 3 / 1000, rel=1e-4)
        assert v[name] == pytest.approx(4 / 3 * np.pi * r.prod() / 1000, rel=0.015)
    body = np.pi * 180 * 120 * 65 * 3 / 1000
    assert v["BODY"] == pytest.approx(body, rel=1e-3)


def test_ct_numbers_are_those_of_the_recipe(patient):
    parts = recipe().set_index("name")
    for name, tolerance in (("GTV", 1.0), ("Femur_Head_R", 1.5), ("LungInsert", 1.5), ("AirInsert", 0.5)):
        inside = find_structure(patient, name).values > 0.999
        assert patient.ct.values[inside].mean() == pytest.approx(parts.loc[name, "hu"], abs=tolerance)


def test_reach(patient):
    """WEPL of the far edge of the CTV: oxygen reaches from the side, neon only from behind (reach 230 and 184 mm of water)."""
    spr = stopping_power_ratio(patient.ct).values
    target = find_structure(patient, "CTV").values > 0.01
    side = np.cumsum(spr[:, :, ::-1], axis=2)[:, :, ::-1] * 2.5
    back = np.cumsum(spr[:, ::-1, :], axis=1)[:, ::-1, :] * 2.5
    # 3.5 % range uncertainty and 5 mm margin still within reach
    assert side[target].max() > 184.0 and side[target].max() * 1.035 + 5.0 < 230.0
    assert back[target].max() > 120.0 and back[target].max() * 1.035 + 5.0 < 184.0


def test_recipe_is_a_table():
    parts = recipe()
    assert isinstance(parts, pd.DataFrame) and parts["name"].is_unique
    assert (parts[["rx", "ry", "rz"]].astype(float) > 0).all().all()


def test_an_ellipsoid_more(patient):
    more = add_ellipsoid(patient, "GTV deep", centre=(0.0, 5.0, 0.0), radii=(20.0, 25.0, 24.0))
    assert more["structure"].values[-1] == "GTV deep" and more["roi_type"].values[-1] == "GTV"
    size = volumes(more)
    # slices of 3 mm and their half-slice caps give the ellipsoid to a per cent
    assert float(size.sel(structure="GTV deep")) == pytest.approx(4e-3 / 3 * np.pi * 20 * 25 * 24, rel=0.01)
    np.testing.assert_allclose(size.sel(structure=patient["structure"]), volumes(patient), rtol=1e-6)
    coarse = volumes(regrid(more, spacing=5.0)).sel(structure="GTV deep")
    assert float(coarse) == pytest.approx(float(size.sel(structure="GTV deep")), rel=1e-5), "contours survive"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "CTV"}, "has a structure 'CTV'"),
        ({"radii": 0.0}, "positive radii"),
        ({"radii": (1.0, 2.0)}, "positive radii"),
        ({"centre": (0.0, 0.0, 900.0)}, "meets no slice"),
    ],
)
def test_an_ellipsoid_that_cannot_be(patient, change, message):
    settings = {"name": "new", "centre": (0.0, 0.0, 0.0), "radii": 10.0} | change
    with pytest.raises(IonrtError, match=message):
        add_ellipsoid(patient, settings.pop("name"), **settings)


def test_a_head_in_the_same_way(tmp_path):
    folder = write_phantom(tmp_path / "head", anatomy="head", pixel=5.0, slice_distance=5.0)
    bad = {path.name: found for path in sorted(folder.glob("*.dcm")) if (found := errors(path))}
    assert bad == {}
    head = read_dicom(folder)
    assert set(head["structure"].values) == set(recipe("head").query("type != ''")["name"])
    assert float(volumes(head).sel(structure="CTV")) == pytest.approx(4e-3 / 3 * np.pi * 26 * 22 * 22, rel=0.02)
    with pytest.raises(IonrtError, match="anatomy: 'heart' does not exist"):
        write_phantom(tmp_path / "x", anatomy="heart")


@pytest.fixture(scope="module", params=EXTENT)
def each(request, tmp_path_factory):
    return request.param, write_phantom(tmp_path_factory.mktemp(request.param) / "dicom", anatomy=request.param)


def analytic(part, low, high):
    """Volume in cm3 of an ellipsoid or elliptic tube between two planes: the integral of pi rx ry (1 - ((z - z0) / rz)^2)."""
    low, high = max(part.low, low, part.z - part.rz), min(part.high, high, part.z + part.rz)
    cap = ((high - part.z) ** 3 - (low - part.z) ** 3) / (3 * part.rz**2)
    return 1e-3 * np.pi * part.rx * part.ry * (high - low - cap)


def test_every_phantom_is_valid_dicom_with_analytic_volumes(each):
    """No error of dciodvfy in any file; every structure, cut ones and tubes too, within 1 % of its analytic volume."""
    anatomy, folder = each
    files = sorted(folder.glob("*.dcm"))
    assert len(files) == {"pelvis": 65, "head": 71, "abdomen": 71, "thorax": 91}[anatomy] + 1
    # every slice is written by the same lines: the first, the last, one between, and the structures
    chosen = [files[0], files[len(files) // 2], files[-2], folder / "RS.dcm"]
    assert {p.name: found for p in chosen if (found := errors(p))} == {}
    patient = read_dicom(folder)
    ends = patient.z.values[0] - 1.5, patient.z.values[-1] + 1.5
    parts = recipe(anatomy).query("type != ''").set_index("name")
    made = dict(zip(patient.structure.values, volumes(patient).values, strict=True))
    assert set(made) == set(parts.index)
    assert made == pytest.approx({part.Index: analytic(part, *ends) for part in parts.itertuples()}, rel=0.01)


@pytest.mark.parametrize("anatomy", ["pelvis", "head"])
@pytest.mark.parametrize("day", [1, 2, 3])
def test_structures_of_the_days_keep_their_volume_between_the_slices(anatomy, day):
    """Where a set-up shift puts the slices elsewhere through a structure, their stack is still its volume within 1 %."""
    half = np.floor(EXTENT[anatomy]["z"][1] / 3.0)
    z = 3.0 * np.arange(-half, half + 1)
    for part in recipe(anatomy, day=day).query("type != ''").itertuples():
        inside = z[(z >= part.low) & (z <= part.high)]
        stack = 3e-3 * np.pi * part.rx * part.ry * np.clip(1 - ((inside - part.z) / part.rz) ** 2, 0, None).sum()
        assert stack == pytest.approx(analytic(part, z[0] - 1.5, z[-1] + 1.5), rel=0.01), part.name


@pytest.mark.parametrize("gap", [0.0, 3.0, 10.0])
def test_the_gap_is_the_distance_of_the_surfaces(gap):
    """Independent of the recipe's argument: the nearest points of two densely sampled surfaces."""
    parts = recipe("abdomen", gap=gap).set_index("name")
    theta, phi = np.meshgrid(np.linspace(0, np.pi, 91), np.linspace(0, 2 * np.pi, 180, endpoint=False))
    unit = np.stack([np.cos(theta), np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi)], -1).reshape(-1, 3)
    one, other = (
        unit * parts.loc[n, ["rx", "ry", "rz"]].to_numpy(float) + parts.loc[n, ["x", "y", "z"]].to_numpy(float)
        for n in ("GTV_head", "Duodenum")
    )
    near = [np.sqrt(((other - p) ** 2).sum(1)).min() for p in one[one[:, 0] < -10]]
    assert min(near) == pytest.approx(gap, abs=1e-6)


def test_a_phase_moves_the_target_of_the_lung_and_nothing_else(tmp_path):
    still, moved = recipe("thorax"), recipe("thorax", shift=-5.0)
    away = moved["z"] - still["z"]
    assert away[moved["name"] == "GTV_peripheral"].tolist() == [-5.0] and away.abs().sum() == 5.0
    folders = [write_phantom(tmp_path / f"{s:g}", anatomy="thorax", pixel=10, slice_distance=10, shift=s) for s in (0.0, 5.0)]
    assert len({read_dicom(f).attrs["frame_of_reference_uid"] for f in folders}) == 2
    for arguments in ({"gap": 3.0}, {"anatomy": "thorax", "gap": 3.0}, {"anatomy": "abdomen", "gap": -1.0}, {"shift": 5.0}):
        with pytest.raises(IonrtError, match=r"(gap|shift): expected"):
            recipe(**arguments)
