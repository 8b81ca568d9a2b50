"""RTSTRUCT of structures that ionrt made: volumes and places come back, the validator finds no error."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import xarray as xr
from test_dicom_write import errors

from ionrt.patient import read_dicom, regrid, write_phantom, write_rtstruct
from ionrt.patient.geometry.margins import with_margin
from ionrt.quantities import IonrtError


@pytest.fixture(scope="module")
def came(tmp_path_factory):
    folder = write_phantom(tmp_path_factory.mktemp("rs") / "dicom", anatomy="head", pixel=4.0, slice_distance=4.0)
    return folder, read_dicom(folder)


def test_expanded_and_drawn_structures_come_back(came, tmp_path):
    """Volumes within 0.5 %, centres within 0.1 mm; a shell keeps its hole; the CT's slices are named."""
    folder, patient = came
    more = with_margin(patient, "CTV", margin=6.0, name="CTV_wide")["structures"].sel(structure=["CTV", "CTV_wide"]).compute()
    wide, target = more.sel(structure="CTV_wide", drop=True), more.sel(structure="CTV", drop=True)
    parts = xr.concat([wide, (wide - target).clip(0.0, 1.0)], "structure")
    made = parts.assign_coords(structure=["CTV_wide", "갑상선 shell"]).rename("structures")
    path = write_rtstruct(made, patient, tmp_path / "RS.dcm", label="planning helpers", types={"CTV_wide": "PTV"})
    assert errors(path) == []
    raw = pydicom.dcmread(path)
    slices = {str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in folder.glob("CT*")}
    named = {str(i.ReferencedSOPInstanceUID) for c in raw.ROIContourSequence[0].ContourSequence for i in c.ContourImageSequence}
    assert named and named <= slices and raw.RTROIObservationsSequence[0].RTROIInterpretedType == "PTV"
    (folder / "RS.dcm").rename(tmp_path / "first.dcm")
    (folder / "RS.dcm").write_bytes(path.read_bytes())
    try:
        back = read_dicom(folder)
        found = back["structures"].compute()
    finally:
        (folder / "RS.dcm").write_bytes((tmp_path / "first.dcm").read_bytes())
    assert list(back["structure"].values) == ["CTV_wide", "갑상선 shell"]
    for name in made["structure"].values:
        a, b = (s.sel(structure=name) for s in (made, found))
        assert float(b.sum()) == pytest.approx(float(a.sum()), rel=5e-3)
        for d in "zyx":
            assert float((b * b[d]).sum() / b.sum()) == pytest.approx(float((a * a[d]).sum() / a.sum()), abs=0.1)
        assert float(np.abs(a - b).mean() / a.mean()) < 0.1


def test_from_a_coarser_grid_and_without_volume(came, tmp_path):
    _, patient = came
    coarse = regrid(patient.drop_vars("ct"), spacing=8.0)["structures"].sel(structure=["Brain"]).compute()
    empty = (0.0 * coarse).assign_coords(structure=["NOTHING"])
    path = write_rtstruct(xr.concat([coarse, empty], "structure").rename("structures"), patient, tmp_path / "RS.dcm")
    raw = pydicom.dcmread(path)
    first, second = raw.ROIContourSequence
    z = sorted({float(c.ContourData[2]) for c in first.ContourSequence})
    np.testing.assert_allclose(np.diff(z), 4.0)
    assert len(second.get("ContourSequence") or []) == 0


def test_refuses(came, tmp_path):
    _, patient = came
    one = patient["structures"].sel(structure=["CTV"]).compute()
    for change, message in (
        (2.0 * one, "between 0 and 1"),
        (xr.concat([one, one], "structure"), "different names"),
        (one.assign_attrs(frame_of_reference_uid="1.2.3"), "in 1.2.3"),
        (one.isel(structure=slice(0)), "got none"),
    ):
        with pytest.raises(IonrtError, match=message):
            write_rtstruct(change.rename("structures"), patient, tmp_path / "RS.dcm")
    assert not list(tmp_path.iterdir())
