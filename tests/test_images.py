"""Volumes of other codes: what another library wrote is read in the same place, and the other way round."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
import xarray as xr

from ionrt.evaluate.comparing import agreement
from ionrt.patient.images import read_image, write_image
from ionrt.patient.reading.notes import IncompleteWarning
from ionrt.quantities import IonrtError


@pytest.fixture(scope="module")
def dose():
    values = np.random.default_rng(5).uniform(0.0, 3.0, (4, 5, 6)).astype(np.float32)
    coords = {"z": -7.0 + 3.0 * np.arange(4), "y": 2.5 + 2.0 * np.arange(5), "x": -11.25 + 1.5 * np.arange(6)}
    return xr.DataArray(values, dims=("z", "y", "x"), coords=coords, name="dose", attrs={"units": "Gy"})


def same(one, two):
    np.testing.assert_allclose(one.values, two.values, rtol=1e-6)
    for d in "zyx":
        np.testing.assert_allclose(one[d], two[d], atol=1e-6)


@pytest.mark.parametrize("name", ["d.mha", "d.nrrd"])
def test_written_here_read_there_and_back(dose, tmp_path, name):
    path = write_image(dose, tmp_path / name)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), dose)
    np.testing.assert_allclose(image.GetOrigin(), [float(dose[d][0]) for d in "xyz"], atol=1e-9)
    np.testing.assert_allclose(image.GetSpacing(), [1.5, 2.0, 3.0], atol=1e-9)
    back = read_image(path)
    same(back, dose)
    assert back.attrs["units"] == "Gy" and back.name == "dose"


@pytest.mark.parametrize("kind", [sitk.sitkFloat32, sitk.sitkFloat64, sitk.sitkUInt16])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["d.mhd", "d.mha", "d.nrrd", "d.nhdr"])
def test_what_another_library_writes(dose, tmp_path, name, compressed, kind):
    image = sitk.GetImageFromArray(np.round(dose.values * 1000.0))
    image.SetOrigin([float(dose[d][0]) for d in "xyz"])
    image.SetSpacing([1.5, 2.0, 3.0])
    sitk.WriteImage(sitk.Cast(image, kind), str(tmp_path / name), compressed)
    same(read_image(tmp_path / name, factor=1e-3), dose.copy(data=np.round(dose * 1000.0) / 1000.0))


@pytest.mark.parametrize(
    ("left_out", "word"), [("ElementSpacing", "no spacing of the voxels"), ("Offset", "no place of the first voxel")]
)
def test_a_grid_that_is_not_stated_is_said(dose, tmp_path, left_out, word):
    path = write_image(dose, tmp_path / "d.mha")
    lines = path.read_bytes().split(b"\n", 10)
    path.write_bytes(b"\n".join(line for line in lines if not line.startswith(left_out.encode())))
    with pytest.warns(IncompleteWarning, match=f"d.mha: {word}"):
        back = read_image(path)
    assert word in back.attrs["assumed"] and float(back["x"][0]) == (0.0 if left_out == "Offset" else -11.25)


@pytest.mark.parametrize("name", ["d.mha", "d.nrrd"])
def test_turned_and_mirrored_axes(dose, tmp_path, name):
    """Any order and direction of the axes: every voxel stays where the other library says it lies."""
    image = sitk.GetImageFromArray(dose.values)
    image.SetDirection([0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0])
    image.SetOrigin([4.0, -3.0, 9.0])
    image.SetSpacing([1.5, 2.0, 3.0])
    sitk.WriteImage(image, str(tmp_path / name))
    back = read_image(tmp_path / name)
    for index in ((0, 0, 0), (5, 1, 3), (2, 4, 1)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        assert float(back.sel(x=x, y=y, z=z, method="nearest")) == pytest.approx(image[index])


def test_ras_and_detached_gzip(dose, tmp_path):
    (tmp_path / "v.gz").write_bytes(gzip.compress(dose.values.tobytes()))
    (tmp_path / "v.nhdr").write_text(
        "NRRD0004\ntype: float\ndimension: 3\nspace: right-anterior-superior\nsizes: 6 5 4\n"
        "space directions: (-1.5,0,0) (0,-2,0) (0,0,3)\nendian: little\nencoding: gzip\nspace origin: (11.25,-2.5,-7)\n"
        "data file: v.gz\n"
    )
    same(read_image(tmp_path / "v.nhdr"), dose)


def test_bad_images(dose, tmp_path):
    path = write_image(dose, tmp_path / "d.mha")
    (tmp_path / "short.mha").write_bytes(path.read_bytes()[:-4])
    (tmp_path / "text.nrrd").write_text("no volume")
    oblique = sitk.GetImageFromArray(dose.values)
    oblique.SetDirection([np.cos(0.2), -np.sin(0.2), 0, np.sin(0.2), np.cos(0.2), 0, 0, 0, 1])
    sitk.WriteImage(oblique, str(tmp_path / "oblique.mha"))
    write_image(dose * np.nan, tmp_path / "nan.mha")
    for name, message in (
        ("none.mha", "no such file"),
        ("short.mha", "bytes of voxels"),
        ("text.nrrd", "not an NRRD"),
        ("oblique.mha", "oblique axes"),
        ("nan.mha", "not finite"),
    ):
        with pytest.raises(IonrtError, match=message):
            read_image(tmp_path / name)
    with pytest.raises(IonrtError, match="let_d needs let_definition"):
        read_image(path, "let_d")
    with pytest.raises(IonrtError, match="factor above 0"):
        read_image(path, factor=0.0)


def test_agreement_within_noise():
    """With noise of the stated size 95.4 % of the deviations lie within two of them, and a shift shows."""
    line = 2.0 * np.arange(40)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    true = np.exp(-((x - 40.0) ** 2 + (y - 40.0) ** 2 + (z - 40.0) ** 2) / 800.0).astype(np.float32)
    coords = {"z": line, "y": line, "x": line}
    ours = xr.DataArray(true, dims=("z", "y", "x"), coords=coords, name="dose", attrs={"units": "Gy"})
    sigma = xr.full_like(ours, 0.01)
    noisy = ours.copy(data=true + np.random.default_rng(7).normal(0.0, 0.01, true.shape).astype(np.float32))
    found = agreement(noisy, ours, uncertainty=sigma)
    assert found.attrs["within_percent"] == pytest.approx(95.45, abs=0.6)
    assert found.attrs["gamma_percent"] > 99.0 and abs(found.attrs["mean_difference_percent"]) < 0.05
    moved = agreement(noisy, ours.assign_coords(x=ours["x"] + 3.0), uncertainty=sigma)
    assert moved.attrs["within_percent"] < 70.0
    with pytest.warns(UserWarning, match="no statistical uncertainty"):
        assert np.isnan(agreement(noisy, ours).attrs["within_percent"])
    target = (ours > 0.5).isel(x=slice(0, 30))
    agreement(noisy.isel(x=slice(0, 35)), ours, uncertainty=sigma.isel(x=slice(0, 35)), target=target)
    for bad, message in (
        ({"target": ours > 0.5, "uncertainty": sigma}, "does not cover the target"),
        ({"uncertainty": sigma}, "another grid"),
    ):
        with pytest.raises(IonrtError, match=message):
            agreement(noisy.isel(x=slice(0, 22)), ours, **bad)
    with pytest.raises(IonrtError, match="above 0 where there is dose"):
        agreement(noisy, ours, uncertainty=sigma * 0.0)
