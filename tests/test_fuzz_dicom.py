"""Thousands of damaged CTs, structure sets, doses and ion plans (IONRT_FUZZ=N): a right result, a word, or one clear error."""

from __future__ import annotations

import contextlib

import dicom_small
import fuzz
import pydicom
import pytest

from ionrt.patient import read_dicom, read_dose, read_ion_plan

SEEDS = (20, 15)
NOT_STATED = (
    "beam_dose",
    "dose_point_x",
    "dose_point_y",
    "dose_point_z",
    "snout_position",
    "source_x",
    "source_y",
    "size_x",
    "size_y",
)


def read_patient(path):
    return read_dicom(path.parent).compute()


def words(result):
    """What a result says about itself."""
    attrs = getattr(result, "attrs", None) or {}
    keys = ("left_out", "assumed", "doses_elsewhere_why")
    return [attrs.get(k, getattr(result, k, ())) or () for k in keys]


DOORS = {
    "CT": ("CT.2.dcm", read_patient, ()),
    "RTSTRUCT": ("RS.dcm", read_patient, ()),
    "dose of a patient": ("RD.dcm", read_patient, ()),
    "RTDOSE": ("RD.dcm", read_dose, ()),
    "RT Ion Plan": ("RN.dcm", read_ion_plan, NOT_STATED),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return dicom_small.save(dicom_small.study() | {"RN.dcm": dicom_small.ion_plan()}, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("how", ["elements", "bytes"])
@pytest.mark.parametrize("door", DOORS)
def test_damaged_files(door, how, whole, tmp_path):
    name, read, nan = DOORS[door]
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path, original = tmp_path / name, (whole / name).read_bytes()
    clean, data = read(whole / name), pydicom.dcmread(whole / name)

    def attempt(rng):
        if how == "bytes":
            mutant, what, legal = fuzz.mutate_bytes(rng, original)
            path.write_bytes(mutant)
        else:
            mutant, what, legal = fuzz.mutate_dicom(rng, data)
            with contextlib.suppress(Exception):  # what cannot be written is no input: the file stays as it was
                mutant.save_as(path)
        result, said = fuzz.warned(lambda: read(path))
        wrong = fuzz.complaint(result, nan=nan)
        if not wrong and not legal and not said and words(result) == words(clean):
            wrong = fuzz.difference(clean, result)
        return wrong and f"{what}: {wrong}"

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(12))
