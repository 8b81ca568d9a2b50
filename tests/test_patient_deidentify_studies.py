"""De-identification of shared studies of several systems: planted identifiers go, references and numbers stay."""

from __future__ import annotations

import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from identifiers import PLANTED, UID_ROOT, WORDS, plant_study, walk
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement

from ionrt.patient import deidentify, read_dose, read_ion_plan

KEY = "a site's secret of some length"
STUDIES = {  # kinds of object and how many of each are read (of images: the first slices of each series)
    "synthetic_carbon_study": {"CT": 8, "RTSTRUCT": 1, "RTPLAN": 1, "RTDOSE": 3, "REG": 1},
    "dcpt_headphantom_proton": {"CT": 4, "RTSTRUCT": 1, "RTPLAN": 1},
    "rt_ion_plans/plan01_sobp": {"RTPLAN": 1},
    "rt_ion_plans/plan03_ramp_full": {"RTSTRUCT": 1, "RTPLAN": 1, "RTDOSE": 3},
}
# objects that others of the study refer to; the head phantom's images were exported anew, only their frame of reference fits
LINKS = {
    "synthetic_carbon_study": 2,
    "dcpt_headphantom_proton": 0,
    "rt_ion_plans/plan01_sobp": 0,
    "rt_ion_plans/plan03_ramp_full": 2,
}
NUMBERS = {"DS", "IS", "FD", "FL", "US", "SS", "UL", "SL", "AT", "OB", "OW", "OF", "OD", "US or SS", "OB or OW"}
PAYLOAD = {
    "CT": "PixelData", "RTSTRUCT": "ContourData", "RTPLAN": "ScanSpotPositionMap", "RTDOSE": "PixelData",
    "REG": "FrameOfReferenceTransformationMatrix",
}  # fmt: skip
REMOVED = {"SourceImageSequence", "ReferencedStudySequence", "ReferencedPatientSequence"}  # by the profile
# UIDs of what the allow-list has no place for: coding tables, who made the file, the planted sequence at the top
UNLISTED = {"InstanceCreatorUID", "CodingSchemeUID", "ContextUID", "MappingResourceUID"}


@pytest.fixture(scope="module", params=list(STUDIES))
def study(request, shared, tmp_path_factory):
    """Planted and cleaned files of one study, in pairs."""
    root = tmp_path_factory.mktemp("study")
    source, out = root / "in", root / "out"
    places = plant_study(shared(f"data/dicom/{request.param}"), source)
    table = deidentify(source, out, key=KEY)
    pairs = [(source / row.source, out / row.file) for row in table.itertuples()]
    return SimpleNamespace(name=request.param, source=source, out=out, places=places, table=table, pairs=pairs)


def opened(study):
    return [(pydicom.dcmread(a), pydicom.dcmread(b)) for a, b in study.pairs]


def public(data):
    """Place to (data set, VR) of what the profile does not remove with the sequence around it."""
    found = walk(data, private=False)
    return {place: (part, vr) for place, part, vr in found if not REMOVED & {keyword_for_tag(t) for t in place[::2]}}


def raw(part, tag):
    """The value as it stands in the file."""
    element = part.get_item(tag)
    value = element.value if isinstance(element, RawDataElement) else part[tag].value
    return value.rstrip(b" \0") if isinstance(value, bytes) else value


def test_every_object_is_planted_and_taken(study):
    assert study.table["kind"].value_counts().to_dict() == STUDIES[study.name]
    assert not study.table["reason"].any()
    assert len(list(study.out.iterdir())) == len(study.places) == len(study.table)
    assert len(PLANTED) >= 60 and min(study.places.values()) > 180


def test_nothing_planted_is_in_any_byte(study):
    texts = WORDS | {str(value).casefold() for value in PLANTED.values()}
    needles = {w.encode(code) for w in texts for code in ("utf-8", "latin-1")}
    for before, after in study.pairs:
        raw_before, raw_after = before.read_bytes().lower(), after.read_bytes().lower()
        assert sum(needle in raw_before for needle in needles) > 60
        assert not [needle for needle in needles if needle in raw_after], before.name


def test_no_private_element_preamble_or_old_uid(study):
    for _, data in opened(study):
        assert not data.preamble.strip(b"\0")
        for part in (data.file_meta, data):
            for place, holder, vr in walk(part):
                assert not place[-1].is_private
                assert vr != "UI" or UID_ROOT not in str(holder[place[-1]].value)


def test_references_resolve_to_the_same_objects(study):
    """Old to new UID is one to one over all files, and each reference inside the study still leads to its object."""
    new_of, old_of, before_ids, after_ids, before_refs, after_refs = {}, {}, set(), set(), Counter(), Counter()
    for a, b in opened(study):
        before_ids.add(a.SOPInstanceUID)
        after_ids.add(b.SOPInstanceUID)
        assert b.file_meta.MediaStorageSOPInstanceUID == b.SOPInstanceUID
        after = public(b)
        for place, (part, vr) in public(a).items():
            if vr != "UI" or not part[place[-1]].value:
                continue
            if place not in after:
                assert keyword_for_tag(place[-1]) in UNLISTED or keyword_for_tag(place[0]) == "RTReferencedStudySequence", place
                continue
            old, new = str(part[place[-1]].value), str(after[place][0][place[-1]].value)
            assert new_of.setdefault(old, new) == new and old_of.setdefault(new, old) == old
            assert (old == new) == (old.startswith("1.2.840.10008.") and "19511103" not in old)
            if keyword_for_tag(place[-1]) == "ReferencedSOPInstanceUID":
                before_refs[old] += 1
                after_refs[new] += 1
    inside = {old: n for old, n in before_refs.items() if old in before_ids}
    assert {new_of[old]: n for old, n in inside.items()} == {new: n for new, n in after_refs.items() if new in after_ids}
    assert len(inside) >= LINKS[study.name]


def test_every_number_is_bit_identical(study):
    """Each number of the output stands in the input at the same place, and none is lost but padding."""
    seen = set()
    for a, b in opened(study):
        before, after = public(a), public(b)
        for place, (part, vr) in after.items():
            if vr in NUMBERS:
                assert raw(part, place[-1]) == raw(before[place][0], place[-1]), place
                seen.add(keyword_for_tag(place[-1]))
        lost = {keyword_for_tag(p[-1]) for p, (_, vr) in before.items() if vr in NUMBERS and p not in after}
        assert lost == {"DataSetTrailingPadding"}
    assert {PAYLOAD[kind] for kind in STUDIES[study.name]} <= seen


def test_doses_and_plans_are_read_alike(study):
    for (before, after), kind in zip(study.pairs, study.table["kind"], strict=True):
        if kind == "RTDOSE":
            one, two = read_dose(before), read_dose(after)
            np.testing.assert_array_equal(one, two)
            for dim in ("z", "y", "x"):
                np.testing.assert_array_equal(one[dim], two[dim])
        elif kind == "RTPLAN":
            one, two = read_ion_plan(before), read_ion_plan(after)
            for column in ("x", "y", "energy", "weight", "meterset"):
                np.testing.assert_array_equal(one.spots[column], two.spots[column])
            assert list(one.beams["ion"]) == list(two.beams["ion"])


def test_one_patient_one_pseudonym_per_key(study, tmp_path):
    """Every object of the study has it, another run with the same key too, another key gives another."""
    alone = tmp_path / "in"
    alone.mkdir()
    shutil.copy(min((a for a, _ in study.pairs), key=lambda p: p.stat().st_size), alone)
    found = {b.PatientID for _, b in opened(study)}

    def once(key):
        table = deidentify(alone, tmp_path / key, key=key)
        return {pydicom.dcmread(tmp_path / key / name).PatientID for name in table["file"]}

    assert len(found) == 1
    assert once(KEY) == found != once(KEY + "2")
