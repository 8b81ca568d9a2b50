"""Regridding and cropping: exact means, kept volumes, laziness."""

import dask
import numpy as np
import pytest
import xarray as xr

from ionrt.patient import read_dicom, regrid, volumes, write_phantom
from ionrt.patient.geometry.grid import crop
from ionrt.patient.geometry.structures import contours, find_structure
from ionrt.quantities import IonrtError


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return read_dicom(write_phantom(tmp_path_factory.mktemp("grid") / "dicom", pixel=5.0, slice_distance=6.0))


def overlap(old, new):
    """Share of every old voxel in every new one, by brute force: rows new, columns old."""
    do, dn = old[1] - old[0], new[1] - new[0]
    low = np.maximum(new[:, None] - dn / 2, old - do / 2)
    high = np.minimum(new[:, None] + dn / 2, old + do / 2)
    return np.clip(high - low, 0, None) / dn


@pytest.mark.parametrize("spacing", [(12.0, 10.0, 10.0), (7.0, 6.5, 8.3), 4.0])
def test_ct_is_the_volume_mean(patient, spacing):
    coarse = regrid(patient, spacing=spacing)
    weights = []
    for dim in ("z", "y", "x"):
        w = overlap(patient[dim].values, coarse[dim].values)
        weights.append(w / w.sum(1, keepdims=True))
    expected = np.einsum("ai,bj,ck,ijk->abc", *weights, patient.ct.values.astype(float), optimize=True)
    np.testing.assert_allclose(coarse.ct, expected, atol=2e-3)
    assert coarse.ct.dtype == np.float32 and coarse.ct.attrs["units"] == "HU"
    size = (spacing,) * 3 if np.isscalar(spacing) else spacing
    for dim, step in zip(("z", "y", "x"), size, strict=True):
        np.testing.assert_allclose(np.diff(coarse[dim]), step)
        assert coarse[dim][0] - step / 2 == pytest.approx(float(patient[dim][0] - (patient[dim][1] - patient[dim][0]) / 2))


def test_structure_volumes_are_kept(patient):
    for spacing in (10.0, (9.0, 7.0, 11.0)):
        np.testing.assert_allclose(volumes(regrid(patient, spacing=spacing)), volumes(patient), rtol=1e-5)


def test_nested_grid_gives_the_mean_of_the_fractions(patient):
    """On a grid whose edges are edges of the old one, contours and averaging must agree voxel by voxel."""
    exact = regrid(patient, spacing=(12.0, 10.0, 10.0)).structures
    changed = patient.assign(structures=patient.structures * 1)  # no longer the untouched graph: averaged
    averaged = regrid(changed, spacing=(12.0, 10.0, 10.0)).structures
    np.testing.assert_allclose(averaged, exact, atol=1e-5)


def test_a_changed_structure_is_not_lost(patient):
    grown = patient.assign(
        structures=xr.where(patient.structures > 0, 1.0, 0.0).astype(np.float32).transpose("structure", "z", "y", "x")
    )
    np.testing.assert_allclose(volumes(regrid(grown, spacing=10.0)), volumes(grown), rtol=1e-5)
    assert float(volumes(grown)[0]) > float(volumes(patient)[0])


def test_lazy_stays_lazy(patient):
    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    lazy = patient.assign(ct=patient.ct.chunk(z=8), structures=patient.structures * 1)
    with dask.config.set(scheduler=refuse):
        coarse, plain = regrid(lazy, spacing=10.0), regrid(patient, spacing=10.0)
    assert coarse.ct.chunks is not None and plain.structures.chunks[0] == (1,) * patient.sizes["structure"]
    np.testing.assert_allclose(coarse.ct.values, plain.ct.values, atol=1e-3)


def test_contours_and_attributes_stay(patient):
    coarse = regrid(patient, spacing=10.0)
    assert len(contours(coarse, "CTV")) == len(contours(patient, "CTV"))
    assert coarse.attrs["regridded_from"] == pytest.approx((6.0, 5.0, 5.0))
    affine = np.reshape(coarse.attrs["affine"], (4, 4))
    np.testing.assert_allclose(affine @ [1, 2, 3, 1], [coarse.x[1], coarse.y[2], coarse.z[3], 1])
    assert list(coarse.data_vars) == list(patient.data_vars)


@pytest.mark.parametrize("spacing", [0.0, -2.0, np.nan, 500.0])
def test_bad_spacing(patient, spacing):
    with pytest.raises(IonrtError, match="regrid: expected a spacing above 0"):
        regrid(patient, spacing=spacing)
    with pytest.raises(IonrtError, match="three"):
        regrid(patient, spacing=(1.0, 2.0))


def test_crop_keeps_the_structure(patient):
    small = crop(patient, "CTV", margin=12.0)
    assert small.sizes["x"] < patient.sizes["x"] / 3
    one = float(find_structure(small, "CTV").sum())
    assert one == pytest.approx(float(find_structure(patient, "CTV").sum()))
    assert (
        float(find_structure(small, "CTV").x[0]) == small.x[0] and np.reshape(small.attrs["affine"], (4, 4))[0, 3] == small.x[0]
    )
    with pytest.raises(IonrtError, match="does not exist"):
        crop(patient, "CVT", margin=5.0)
    with pytest.raises(IonrtError, match="covers no voxel"):
        crop(patient.assign(structures=patient.structures * 0), "CTV", margin=5.0)
