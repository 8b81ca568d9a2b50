"""Registrations as DICOM: a published vector byte for byte, exact round trips, directions settled by frames or series, other
readers; days of one patient."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from adapt_fixtures import bumps, coords
from pydicom.dataset import Dataset
from scipy.interpolate import RegularGridInterpolator
from test_dicom_write import errors
from test_foreign_readers import opened

from ionrt.adapt.transform import invert, move_points
from ionrt.patient import read_dicom, read_registration, write_registration
from ionrt.patient.registration import field_transform, matrix_transform
from ionrt.patient.writing.dicom_write import write_ct
from ionrt.quantities import IonrtError

ON = coords((7, 9, 11), spacing=(3.0, 2.0, 2.5), origin=(-9.0, -8.0, -12.5))


def make_ct(folder, *, day: int, frame: str = "", patient: str = "SYNTHETIC-1", **more) -> None:
    """A small CT series; `frame` of reference its own unless given."""
    rng = np.random.default_rng(day)
    identity = {
        "name": "SYNTHETIC^가나다^山田", "id": patient, "sex": "O", "date": f"2026010{day + 1}", "time": "120000",
        "study": f"2.25.10{day}", "series": f"2.25.20{day}", "frame": frame or f"2.25.30{day}",
        "study_description": "SYNTHETIC", "description": f"SYNTHETIC day {day}", "body_part": "ABDOMEN", **more,
    }  # fmt: skip
    write_ct(rng.normal(0.0, 20.0, (7, 9, 11)), ON, folder, identity)


@pytest.fixture
def pair(tmp_path):
    """Planning CT and daily CT, each with a frame of its own."""
    for day in range(2):
        make_ct(tmp_path / f"ct{day}", day=day)
    return tuple(read_dicom(tmp_path / f"ct{day}") for day in range(2))


@pytest.fixture
def same_frame(tmp_path):
    for day in range(2):
        make_ct(tmp_path / f"ct{day}", day=day, frame="2.25.999")
    return tuple(read_dicom(tmp_path / f"ct{day}") for day in range(2))


def rotation(degrees=3.0, shift=(4.0, -3.0, 6.0)) -> np.ndarray:
    a = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] = [[np.cos(a), -np.sin(a), 0.0], [np.sin(a), np.cos(a), 0.0], [0.0, 0.0, 1.0]]
    matrix[:3, 3] = shift
    return matrix


def golden():
    """The example of the published correction to PS3.3 C.20.3: four vectors on a 2 x 2 x 1 grid."""
    vectors = np.array([(-0.625, -0.625, -2.5), (-0.75, -0.625, -2.5), (-0.625, -0.75, -2.5), (-0.75, -0.75, -2.5)])
    on = {"z": np.array([2.5]), "y": np.array([0.0, 0.75]), "x": np.array([0.0, 0.75])}
    return field_transform(vectors.T.reshape(3, 1, 2, 2), on, resolution=(2.5, 0.75, 0.75))


def test_published_vector_byte_for_byte(pair, tmp_path):
    fixed, moving = pair
    path = write_registration(golden(), tmp_path / "dsr.dcm", fixed=fixed, moving=moving)
    grid = pydicom.dcmread(path).DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0]
    expected = np.array([-0.625, -0.625, -2.5, -0.75, -0.625, -2.5, -0.625, -0.75, -2.5, -0.75, -0.75, -2.5], "<f4").tobytes()
    assert bytes(grid.VectorGridData) == expected
    assert hashlib.sha256(grid.VectorGridData).hexdigest().startswith("d0673d2d")
    assert list(grid.GridDimensions) == [2, 2, 1] and list(grid.GridResolution) == [0.75, 0.75, 2.5]
    assert [float(v) for v in grid.ImagePositionPatient] == [0.0, 0.0, 2.5]
    read = read_registration(path, fixed=fixed, moving=moving)
    np.testing.assert_allclose(move_points(read, [[0.0, 0.0, 2.5]]), [[-0.625, -0.625, 0.0]], atol=1e-12)


def test_round_trips_are_exact(pair, tmp_path):
    fixed, moving = pair
    rigid = matrix_transform(rotation())
    read = read_registration(
        write_registration(rigid, tmp_path / "r.dcm", fixed=fixed, moving=moving), fixed=fixed, moving=moving
    )
    np.testing.assert_allclose(read["matrix"].values, rigid["matrix"].values, atol=1e-9)
    assert read.attrs["fixed_hash"] == fixed.attrs["content_hash"] and read.attrs["maps"] == "planning to daily"
    field = bumps(0, ON, n=3)
    field["displacement"] = field["displacement"].astype(np.float32).assign_attrs(field["displacement"].attrs)
    field["displacement"].values[:, 0, 0, 0] = np.nan
    path = write_registration(field, tmp_path / "d.dcm", fixed=fixed, moving=moving)
    back = read_registration(path, fixed=fixed, moving=moving)["displacement"]
    np.testing.assert_array_equal(back.values, field["displacement"].values)
    for d in "zyx":
        np.testing.assert_allclose(back[d].values, ON[d], atol=1e-9)
    first = path.read_bytes()
    write_registration(field, path, fixed=fixed, moving=moving)
    assert path.read_bytes() == first, "the same transform, the same file"


@pytest.mark.parametrize("kind", ["matrix", "grid"])
def test_validator_reports_nothing(pair, tmp_path, kind):
    way = matrix_transform(rotation()) if kind == "matrix" else bumps(0, ON, n=3)
    path = write_registration(way, tmp_path / "r.dcm", fixed=pair[0], moving=pair[1])
    assert errors(path) == []


def test_a_matrix_read_the_other_way_round_is_turned(pair, tmp_path):
    fixed, moving = pair
    path = write_registration(matrix_transform(rotation()), tmp_path / "r.dcm", fixed=fixed, moving=moving)
    other = read_registration(path, fixed=moving, moving=fixed)
    np.testing.assert_allclose(other["matrix"].values, np.linalg.inv(rotation()), atol=1e-9)


def test_a_grid_of_the_other_direction_is_refused_with_the_way_out(pair, tmp_path):
    fixed, moving = pair
    path = write_registration(bumps(0, ON, n=3), tmp_path / "d.dcm", fixed=fixed, moving=moving)
    with pytest.raises(IonrtError, match=r"ionrt\.adapt\.transform\.invert"):
        read_registration(path, fixed=moving, moving=fixed)


def test_one_frame_is_settled_by_series(same_frame, tmp_path):
    fixed, moving = same_frame
    path = write_registration(matrix_transform(rotation()), tmp_path / "r.dcm", fixed=fixed, moving=moving)
    np.testing.assert_allclose(read_registration(path, fixed=fixed, moving=moving)["matrix"].values, rotation(), atol=1e-9)
    np.testing.assert_allclose(
        read_registration(path, fixed=moving, moving=fixed)["matrix"].values, np.linalg.inv(rotation()), atol=1e-9
    )
    data = pydicom.dcmread(path)
    for item in data.RegistrationSequence:
        del item.ReferencedImageSequence
    data.save_as(tmp_path / "bare.dcm")
    with pytest.raises(IonrtError, match="direction is not known"):
        read_registration(tmp_path / "bare.dcm", fixed=fixed, moving=moving)


def changed(path, change, out):
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(out)
    return out


def test_two_matrices_are_refused_with_the_reason(pair, tmp_path):
    fixed, moving = pair
    path = write_registration(matrix_transform(rotation()), tmp_path / "r.dcm", fixed=fixed, moving=moving)

    def double(data):
        inner = data.RegistrationSequence[1].MatrixRegistrationSequence[0]
        inner.MatrixSequence.append(inner.MatrixSequence[0])

    with pytest.raises(IonrtError, match="exactly one matrix, found 2; the order"):
        read_registration(changed(path, double, tmp_path / "two.dcm"), fixed=fixed, moving=moving)


def test_two_items_of_one_image_are_refused(pair, tmp_path):
    fixed, moving = pair
    path = write_registration(matrix_transform(rotation()), tmp_path / "r.dcm", fixed=fixed, moving=moving)

    def double(data):
        data.RegistrationSequence.append(data.RegistrationSequence[1])

    with pytest.raises(IonrtError, match="relates points of the moving CT twice"):
        read_registration(changed(path, double, tmp_path / "two.dcm"), fixed=fixed, moving=moving)


def test_damaged_files_are_refused(pair, tmp_path):
    fixed, moving = pair
    rigid = write_registration(matrix_transform(rotation()), tmp_path / "r.dcm", fixed=fixed, moving=moving)
    grid = write_registration(bumps(0, ON, n=3), tmp_path / "d.dcm", fixed=fixed, moving=moving)

    def stretched(data):
        inner = data.RegistrationSequence[1].MatrixRegistrationSequence[0].MatrixSequence[0]
        inner.FrameOfReferenceTransformationMatrix[0] = "1.3"

    def short(data):
        g = data.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0]
        g.VectorGridData = g.VectorGridData[:-12]

    def voxels(data):
        g = data.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0]
        g.VectorGridData = (np.frombuffer(g.VectorGridData, "<f4") * 500).tobytes()

    def strange(data):
        data.RegistrationSequence[1].FrameOfReferenceUID = "2.25.77"

    for source, change, said in (
        (rigid, stretched, "called RIGID, but stretches"),
        (grid, short, "2076 values; expected 2079"),
        (grid, voxels, "expected -200 to 200"),
        (rigid, strange, "relates no points of the moving CT"),
    ):
        with pytest.raises(IonrtError, match=said):
            read_registration(changed(source, change, tmp_path / "x.dcm"), fixed=fixed, moving=moving)
    with pytest.raises(IonrtError, match=r"expected a .* Spatial Registration, got CT"):
        read_registration(next((tmp_path / "ct0").glob("*.dcm")), fixed=fixed, moving=moving)


def test_matrices_around_a_grid_are_put_into_the_displacement(pair, tmp_path):
    """x = M_post (M_pre X + D), PS3.3 C.20.3."""
    fixed, moving = pair
    path = write_registration(golden(), tmp_path / "d.dcm", fixed=fixed, moving=moving)

    def around(data):
        item = data.DeformableRegistrationSequence[0]
        for when, matrix in (("Pre", rotation(2.0, (1.0, 2.0, 3.0))), ("Post", rotation(-1.0, (0.0, 0.5, -1.0)))):
            one = Dataset()
            one.FrameOfReferenceTransformationMatrix = [f"{v:.10g}" for v in matrix.ravel()]
            one.FrameOfReferenceTransformationMatrixType = "RIGID"
            setattr(item, f"{when}DeformationMatrixRegistrationSequence", [one])

    read = read_registration(changed(path, around, tmp_path / "x.dcm"), fixed=fixed, moving=moving)
    point = np.array([0.75, 0.0, 2.5, 1.0])
    middle = rotation(2.0, (1.0, 2.0, 3.0)) @ point + np.array([-0.75, -0.625, -2.5, 0.0])
    expected = (rotation(-1.0, (0.0, 0.5, -1.0)) @ middle)[:3]
    np.testing.assert_allclose(move_points(read, point[None, :3])[0], expected, atol=1e-6)


def test_a_grid_stored_in_another_orientation(pair, tmp_path):
    """Rows along -x: the points move as before, whatever way the file runs."""
    fixed, moving = pair
    way = bumps(1, ON, n=3)
    path = write_registration(way, tmp_path / "d.dcm", fixed=fixed, moving=moving)

    def flip(data):
        g = data.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0]
        nx, ny, nz = g.GridDimensions
        values = np.frombuffer(g.VectorGridData, "<f4").reshape(nz, ny, nx, 3)[::-1, :, ::-1]
        g.VectorGridData = np.ascontiguousarray(values).tobytes()
        g.ImageOrientationPatient = ["-1", "0", "0", "0", "1", "0"]
        g.ImagePositionPatient = [f"{ON['x'][-1]:g}", f"{ON['y'][0]:g}", f"{ON['z'][-1]:g}"]

    read = read_registration(changed(path, flip, tmp_path / "x.dcm"), fixed=fixed, moving=moving)
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(ON[d][0], ON[d][-1], 20) for d in "xyz"], axis=1)
    np.testing.assert_allclose(move_points(read, points), move_points(way, points), atol=1e-5)


def test_registration_of_the_synthetic_carbon_study(shared):
    """Made by others: the daily image lies (4, -3, 6) mm away."""
    root = shared("data/dicom/synthetic_carbon_study")
    plan, day = (read_dicom(root / f"CT_{n}") for n in ("plan", "day1"))
    read = read_registration(root / "REG_day1_to_plan.dcm", fixed=plan, moving=day)
    truth = json.loads((root / "truth.json").read_text())["day1_to_plan_translation_mm"]
    np.testing.assert_allclose(-read["matrix"].values[:3, 3], truth, atol=1e-6)


def other_points(way, n=50):
    """`n` points where the transform is defined, and where it takes them."""
    rng = np.random.default_rng(7)
    points = np.stack([rng.uniform(ON[d][0] + 1, ON[d][-1] - 1, 4 * n) for d in "xyz"], axis=1)
    to = move_points(way, points)
    good = np.flatnonzero(np.isfinite(to).all(axis=1))[:n]
    assert good.size == n
    return points[good], to[good]


def transform_of(kind, backwards):
    """A transform and its inverse are both read, so that a sign or a direction cannot cancel."""
    way = matrix_transform(rotation()) if kind == "matrix" else bumps(2, ON, n=3, amplitude=3.0)
    return invert(way) if backwards else way


def check_points(way, read):
    """`read` maps 50 points as `way` does, within 0.01 mm."""
    points, expected = other_points(way)
    assert np.abs(read(points) - expected).max() < 0.01


both_kinds = pytest.mark.parametrize("kind", ["matrix", "grid"])
both_ways = pytest.mark.parametrize("backwards", [False, True])


@both_kinds
@both_ways
def test_pydicomrt_reads_the_same_points(pair, tmp_path, kind, backwards):
    pytest.importorskip("pydicomrt", reason="an independent reader: pip install pydicomrt")
    parser = importlib.import_module("pydicomrt.reg.parser")
    fixed, moving = pair
    way = transform_of(kind, backwards)
    data = pydicom.dcmread(write_registration(way, tmp_path / "r.dcm", fixed=fixed, moving=moving))
    frames = [p.attrs["frame_of_reference_uid"] for p in pair]
    if kind == "matrix":
        theirs = np.array(parser.get_spatial_registrations(data)[frames[0]][frames[1]]).reshape(4, 4)  # moving to fixed
        check_points(way, lambda p: (np.linalg.inv(theirs) @ np.c_[p, np.ones(len(p))].T)[:3].T)
        return
    found = parser.get_deformable_registrations(data)[0]
    grid = found["DeformableRegistrationGrid"]
    assert found["SourceFrameOfReferenceUID"] == frames[1]
    origin, step = (np.array(grid[k], float)[::-1] for k in ("ImagePositionPatient", "GridResolution"))
    axes = [o + s * np.arange(n) for o, s, n in zip(origin, step, grid["VectorGridData"].shape[:3], strict=True)]
    sampled = RegularGridInterpolator(axes, grid["VectorGridData"].astype(float))
    check_points(way, lambda p: p + sampled(p[:, ::-1]))


@both_kinds
@both_ways
def test_opentps_reads_the_same_points(pair, tmp_path, kind, backwards):
    """A second independent reader, by an interpreter of IONRT_READERS."""
    fixed, moving = pair
    way = transform_of(kind, backwards)
    path = write_registration(way, tmp_path / "r.dcm", fixed=fixed, moving=moving)
    found = opened("opentps_registration", path, tmp_path / "found.npz")
    if kind == "matrix":
        check_points(way, lambda p: (found["matrix"] @ np.c_[p, np.ones(len(p))].T)[:3].T)
        return
    u = found["displacement"].astype(float)  # x, y, z
    axes = [
        o + s * np.arange(n)
        for o, s, n in zip(found["origin"].astype(float), found["spacing"].astype(float), u.shape, strict=False)
    ]
    check_points(way, lambda p: p + RegularGridInterpolator(axes, u)(p))


def plastimatch(*arguments):
    """Run the program; skips where it is absent."""
    program = shutil.which("plastimatch")
    if program is None:
        pytest.skip("an independent program: pip install plastimatch, or Debian package plastimatch")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    return done.stdout + done.stderr


def as_itk(way, folder):
    """The transform as ITK's file, which plastimatch reads; its direction is ours."""
    sitk = pytest.importorskip("SimpleITK", reason="writes the transform that plastimatch reads")
    if "matrix" in way:
        transform, path = sitk.AffineTransform(3), folder / "way.tfm"
        transform.SetMatrix(way["matrix"].values[:3, :3].ravel().tolist())
        transform.SetTranslation(way["matrix"].values[:3, 3].tolist())
        sitk.WriteTransform(transform, str(path))
        return path
    u, path = way["displacement"], folder / "way.mha"
    image = sitk.GetImageFromArray(u.transpose("z", "y", "x", "axis").values.astype(np.float32), isVector=True)
    image.SetOrigin([float(u[d][0]) for d in "xyz"])
    image.SetSpacing([float(s) for s in u.attrs["resolution"][::-1]])
    sitk.WriteImage(image, str(path))
    return path


@both_kinds
@both_ways
def test_plastimatch_writes_what_is_read(pair, tmp_path, kind, backwards):
    """An independent writer of both objects, from ITK's transform or vector field; plastimatch 1.9 and 1.10 read neither."""
    fixed, moving = pair
    way = transform_of(kind, backwards)
    sides = ["--fixed-rcs", tmp_path / "ct0", "--moving-rcs", tmp_path / "ct1"]
    said = plastimatch("xf-convert", "--input", as_itk(way, tmp_path), "--output-dicom", tmp_path / "out", *sides)
    written = sorted((tmp_path / "out").glob("*"))
    assert written, said
    read = read_registration(written[0], fixed=fixed, moving=moving)
    check_points(way, lambda p: move_points(read, p))


@both_kinds
@both_ways
def test_plastimatch_places_the_same_points(pair, tmp_path, kind, backwards):
    """What we write and read again, as a vector field of 50 voxel centres (between them plastimatch takes the nearest)."""
    fixed, moving = pair
    written = write_registration(transform_of(kind, backwards), tmp_path / "r.dcm", fixed=fixed, moving=moving)
    way = read_registration(written, fixed=fixed, moving=moving)
    given = as_itk(way, tmp_path)
    if kind == "matrix":
        grid = ["--dim", *map(len, (ON[d] for d in "xyz"))], ["--origin", *(ON[d][0] for d in "xyz")]
        steps = ["--spacing", *(ON[d][1] - ON[d][0] for d in "xyz")]
        grid = [part for name, *values in (*grid, steps) for part in (name, " ".join(f"{v:g}" for v in values))]
        said = plastimatch("xf-convert", "--input", given, "--output", tmp_path / "f.mha", "--output-type", "vf", *grid)
        given = tmp_path / "f.mha"
        assert given.exists(), said
    rng = np.random.default_rng(11)
    points = np.stack([rng.choice(ON[d][1:-1], 300) for d in "xyz"], axis=1)
    expected = move_points(way, points)
    points, expected = (p[np.isfinite(expected).all(axis=1)][:50] for p in (points, expected))
    rows = "".join(f"p-{k},{-x:.6f},{-y:.6f},{z:.6f},1,1\n" for k, (x, y, z) in enumerate(points))  # RAS
    (tmp_path / "p.fcsv").write_text(f"# Fiducial List file p\n# numPoints = {len(points)}\n{rows}")
    said = plastimatch("warp", "--input", tmp_path / "p.fcsv", "--xf", given, "--output-pointset", tmp_path / "q.fcsv")
    assert (tmp_path / "q.fcsv").exists(), said
    lines = [line.split(",") for line in (tmp_path / "q.fcsv").read_text().splitlines() if line and line[0] != "#"]
    got = np.array([line[1:4] for line in lines], dtype=float) * [-1.0, -1.0, 1.0]
    assert len(got) == 50 and np.abs(expected - points).max() > 1.0
    assert np.abs(got - expected).max() < 0.01
