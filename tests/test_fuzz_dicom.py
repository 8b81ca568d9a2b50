"""Thousands of damaged CTs, structure sets, doses and ion plans (IONRT_FUZZ=N): a right result, a word, or one clear error."""

from __future__ import annotations

import contextlib
from copy import deepcopy

import dicom_small
import fuzz
import pydicom
import pytest
from test_dicom_kinds import enhanced

from ionrt.patient import read_days, read_dicom, read_dose, read_ion_plan

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


def read_both(path):
    return {name: day.compute() for name, day in read_days(path.parent).items()}


def words(result):
    """What a result says about itself."""
    if isinstance(result, dict):
        return [words(one) for one in result.values()]
    attrs = getattr(result, "attrs", None) or {}
    keys = ("left_out", "assumed", "doses_elsewhere_why")
    return [attrs.get(k, getattr(result, k, ())) or () for k in keys]


DOORS = {  # the folder, the file that is damaged, who reads it, what it need not state
    "CT": ("study", "CT.2.dcm", read_patient, ()),
    "enhanced CT": ("enhanced", "E.dcm", read_patient, ()),
    "CT of a day": ("days", "CT.day.3.dcm", read_both, ()),
    "RTSTRUCT": ("study", "RS.dcm", read_patient, ()),
    "RTSTRUCT beside days": ("days", "RS.dcm", read_both, ()),
    "dose of a patient": ("study", "RD.dcm", read_patient, ()),
    "RTDOSE": ("study", "RD.dcm", read_dose, ()),
    "RT Ion Plan": ("study", "RN.dcm", read_ion_plan, NOT_STATED),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    study = dicom_small.study()
    one_file = {name: data for name, data in study.items() if not name.startswith("CT")} | {"E.dcm": enhanced()}
    days = deepcopy(study)
    for name, data in study.items():
        days[name].StudyDate = "20260101"
        if name.startswith("CT"):
            day = days[name.replace("CT", "CT.day")] = deepcopy(data)
            day.SOPInstanceUID, day.SeriesInstanceUID, day.StudyDate = f"{data.SOPInstanceUID}.7", "1.2.3.7", "20260108"
    sets = {"study": study | {"RN.dcm": dicom_small.ion_plan()}, "enhanced": one_file, "days": days}
    return {name: dicom_small.save(objects, tmp_path_factory.mktemp(name)) for name, objects in sets.items()}


@pytest.mark.parametrize("how", ["elements", "bytes"])
@pytest.mark.parametrize("door", DOORS)
def test_damaged_files(door, how, whole, tmp_path):
    folder, name, read, nan = DOORS[door]
    for path in whole[folder].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path, original = tmp_path / name, (whole[folder] / name).read_bytes()
    clean, data = read(whole[folder] / name), pydicom.dcmread(whole[folder] / name)

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

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(8))
