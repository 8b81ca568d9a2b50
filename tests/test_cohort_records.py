"""A REDCap-like export, invented here (SYNTHETIC), becomes the six tables: nothing guessed, what is left out is listed."""

from __future__ import annotations

import datetime as dt

import fuzz
import numpy as np
import pandas as pd
import pytest

from ionrt import IonrtError, cohort
from ionrt.cohort import records
from ionrt.cohort.schema import CohortError, dictionary
from ionrt.files import read_yaml

KEY = "a secret of the site for this test"
BASE = (
    "birth_date sex ecog diagnosis prior_rt_date consent___exchange rt_start rx_text rx_dose rx_fractions gtv_cc gtv_letd"
    " death_date death_cause relapse_date last_contact"
)
FIELDS = ["record_id", "redcap_event_name", "redcap_repeat_instrument", "redcap_repeat_instance", *BASE.split(), "tox_term"]
FIELDS += ["tox_grade", "tox_date", "visit_date", "surname"]


def day(start, n):
    return str(start + dt.timedelta(days=n))


@pytest.fixture(scope="module")
def export():
    """Thirty records with repeating visits and toxicities, raw codes, fields hidden by branching."""
    rows = []
    for i in range(1, 31):
        start = dt.date(2019, 1, 7) + dt.timedelta(days=30 * i)
        dead, last = i % 3 == 0, 700 + i
        base = {"birth_date": day(start, -365 * (40 + i)), "sex": str(1 + i % 2), "ecog": "-99" if i == 5 else str(i % 3)}
        base |= {
            "diagnosis": str(1 + i % 3),
            "consent___exchange": "1",
            "rt_start": str(start),
            "rx_text": "67,2 Gy (RBE) / 16",
        }
        base |= {
            "rx_dose": "67,2",
            "rx_fractions": "16",
            "gtv_cc": f"{20 + i},5",
            "last_contact": day(start, last),
            "surname": "Kim",
        }
        base |= {"death_date": day(start, last), "death_cause": "1"} if dead else {}
        base |= {"relapse_date": day(start, 300)} if i % 5 == 0 else {}
        rows.append({"record_id": str(i), "redcap_event_name": "base_arm_1", **base})
        repeat = {"record_id": str(i), "redcap_event_name": "fu_arm_1", "redcap_repeat_instance": "1"}
        rows.append(repeat | {"redcap_repeat_instrument": "visit", "visit_date": day(start, 90)})
        if i % 4 == 0:
            tox = {"tox_term": "Pain", "tox_grade": "2", "tox_date": day(start, 100)}
            rows.append(repeat | {"redcap_repeat_instrument": "toxicity"} | tox)
    return pd.DataFrame(rows, columns=FIELDS)


@pytest.fixture
def mapping(tmp_path):
    cohort.templates(tmp_path / "new")
    return read_yaml(tmp_path / "new" / "mapping.yaml")


def test_an_export_becomes_a_valid_cohort(export, tmp_path):
    files = cohort.templates(tmp_path)
    assert sorted(f.name for f in files)[:3] == ["course.csv", "dose_metric.csv", "event.csv"] and len(files) == 7
    export.to_csv(tmp_path / "export.csv", index=False, sep=";", encoding="utf-8-sig")
    tables = cohort.import_records(tmp_path / "export.csv", tmp_path / "mapping.yaml", key=KEY)
    assert {name: len(t) for name, t in tables.items()} == {
        "patient": 30,
        "course": 30,
        "dose_metric": 0,
        "event": 60,
        "toxicity": 7,
        "followup": 60,
    }
    patient = tables["patient"]
    assert patient["age_band"].tolist()[:1] + patient["age_band"].tolist()[-1:] == ["40-49", "60-69"]
    assert patient["sex"].tolist()[:2] == ["M", "F"] and patient["indication"].tolist()[:3] == [
        "chondrosarcoma",
        "pancreas",
        "chordoma",
    ]
    assert np.isnan(patient["ecog"][4]) and patient["ecog"][5] == 0
    assert (tables["course"]["rx_dose"] == 67.2).all() and tables["course"]["gtv_volume"][0] == 21.5
    assert tables["course"]["treat_year"].tolist() == pd.to_datetime(export["rt_start"].dropna()).dt.year.tolist()
    os, lc = (tables["event"].query("endpoint == @e").reset_index(drop=True) for e in ("OS", "LC"))
    assert os["day"].tolist() == [700 + i for i in range(1, 31)] and os["code"].sum() == 10
    assert lc["day"].tolist() == [300 if i % 5 == 0 else 700 + i for i in range(1, 31)]
    text = "".join(t.to_csv() for t in tables.values())
    assert "Kim" not in text and "2019-" not in text and patient["pid"].is_unique
    assert tables["event"].attrs["left_out"] == [("-", "surname", "no place in the mapping")]
    cohort.save(tables, tmp_path / "cohort")
    assert len(cohort.load(tmp_path / "cohort")["patient"]) == 30
    with pytest.raises(IonrtError, match="already"):
        cohort.templates(tmp_path)


def test_labels_serve_as_well_as_codes(export, mapping):
    labelled = export.assign(sex=export["sex"].map({"1": "Female", "2": "Male"}))
    raw, other = (cohort.import_records(e, mapping, key=KEY)["patient"] for e in (export, labelled))
    pd.testing.assert_frame_equal(raw, other)
    again = cohort.import_records(export, mapping, key=KEY + "2")["patient"]
    assert not set(again["pid"]) & set(raw["pid"])


def test_what_cannot_be_taken_over_is_left_out_and_said(export, mapping):
    broken = export.copy()
    at = broken["rt_start"].notna()
    first, second, third = broken.index[at][:3]
    broken.loc[first, "rt_start"] = None
    broken.loc[second, "ecog"], broken.loc[third, "prior_rt_date"] = None, None
    visit = broken.index[broken["redcap_repeat_instrument"].eq("visit")][1]
    broken.loc[visit, "visit_date"] = "1999-01-01"
    tables, said = fuzz.warned(lambda: cohort.import_records(broken, mapping, key=KEY))
    assert len(tables["patient"]) == 29 and len(tables["followup"]) == 57
    listed = [(row, why) for row, _, why in tables["patient"].attrs["left_out"] if row != "-"]
    assert listed == [
        (int(first), "record without a date of the first fraction"),
        (int(visit), "row before the first fraction"),
    ]
    assert "1 x record without" in said and "1999" not in said
    broken.loc[visit, "visit_date"] = "soon"
    with pytest.raises(CohortError, match="followup, day: row 0: may not be empty"), pytest.warns(match="no date"):
        cohort.import_records(broken, mapping, key=KEY)
    broken.loc[second, "diagnosis"] = "77"
    with pytest.raises(CohortError, match="indication"), pytest.warns(match="code is not in the mapping"):
        cohort.import_records(broken, mapping, key=KEY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"record": "nobody"}, "no field nobody"),
        ({"colour": 1}, "possible are"),
        ({"dates": "ydm"}, "dates"),
        ({"tables": {"patients": {}}}, "table"),
        ({"tables": {"patient": {"columns": {"gender": 1}}}}, "column of patient"),
        ({"tables": {"patient": {"columns": {"sex": {"field": "sex", "date": "sex"}}}}}, "expected one of"),
        ({"tables": {"followup": {"instrument": "visit"}}}, "expected columns"),
        ({"tables": 5}, "tables"),
    ],
)
def test_mappings_that_do_not_fit(export, mapping, change, words):
    with pytest.raises(IonrtError, match=words):
        cohort.import_records(export, mapping | change, key=KEY)


def longitudinal():
    """Two visits as events of one record: what is empty at a visit is not that of another."""
    rows = [
        {"record_id": "1", "redcap_event_name": "base", "rt_start": "2019-01-07", "visit": "2019-01-07", "state": "1"},
        {"record_id": "1", "redcap_event_name": "month_3", "visit": "2019-04-07", "late___1": "0"},
        {"record_id": "2", "redcap_event_name": "base", "rt_start": "2019-01-07", "visit": "2019-01-07", "state": "2"},
        {"record_id": "2", "redcap_event_name": "month_3", "visit": "2019-04-09", "state": "1", "late___1": "1"},
    ]
    return pd.DataFrame(rows)


def fields_of(rows, block, **said):
    mapping = {"record": "record_id", "day0": "rt_start", "tables": {"followup": block}} | said
    export = records._Export(rows, records._mapping(mapping), b"0123456789abcdef")
    return [{k: v for k, v in row.items() if k not in ("pid", "origin")} for row in export.rows("followup", [
        records._block(block, "followup", dictionary()["tables"]["followup"])])], export.left_out  # fmt: skip


def test_a_value_of_one_event_is_not_that_of_another():
    columns = {"day": {"date": "visit"}, "status": {"field": "state"}}
    found, left_out = fields_of(longitudinal(), {"event": "month_3", "columns": columns})
    assert found == [{"day": 90, "status": None}, {"day": 92, "status": "1"}] and not left_out
    found, _ = fields_of(longitudinal(), {"event": "base", "columns": columns})
    assert found == [{"day": 0, "status": "1"}, {"day": 0, "status": "2"}]


def test_a_box_that_is_not_ticked_is_not_filled():
    columns = {"day": {"date": "visit"}, "status": {"filled": "late___1", "then": "dead", "otherwise": "alive"}}
    found, _ = fields_of(longitudinal(), {"event": "month_3", "columns": columns})
    assert [row["status"] for row in found] == ["alive", "dead"]
    found, _ = fields_of(longitudinal(), {"event": "month_3", "when": "late___1", "columns": columns})
    assert [row["day"] for row in found] == [92]
    labelled = longitudinal().replace({"late___1": {"0": "Unchecked", "1": "Checked"}})
    assert fields_of(labelled, {"event": "month_3", "when": "late___1", "columns": columns})[0] == found


@pytest.mark.parametrize("held", [("0", "1"), ("No", "Yes")])
def test_a_field_of_yes_and_no_is_filled_in_both_cases_and_refused(held):
    rows = longitudinal().assign(died=[held[0], held[1], held[0], held[0]])
    columns = {"day": {"date": "visit"}, "status": {"filled": "died", "then": "dead", "otherwise": "alive"}}
    with pytest.raises(IonrtError, match="died holds yes and no, so that it is filled in both cases"):
        fields_of(rows, {"event": "month_3", "columns": columns})


def test_numbers_of_a_frame_are_those_of_the_file():
    rows = longitudinal().assign(record_id=[1.0, 1.0, 2.0, 2.0], state=[1.0, np.nan, -99.0, 1.0])
    columns = {"day": {"date": "visit"}, "status": {"field": "state", "codes": {1: "alive"}}}
    found, left_out = fields_of(rows, {"event": "base", "columns": columns}, missing=[-99])
    assert [row["status"] for row in found] == ["alive", None] and not left_out


def test_european_and_american_dates(export, mapping):
    dates = [c for c in export if "date" in c or c in ("rt_start", "last_contact")]
    for order, form in (("dmy", "%d.%m.%Y"), ("mdy", "%m/%d/%Y")):
        other = export.copy()
        for column in dates:
            other[column] = pd.to_datetime(other[column]).dt.strftime(form)
        tables = cohort.import_records(other, mapping | {"dates": order}, key=KEY)
        for name, table in cohort.import_records(export, mapping, key=KEY).items():
            pd.testing.assert_frame_equal(tables[name], table)
    with pytest.raises(IonrtError), pytest.warns(match="without a date"):  # in the wrong order most are no dates
        cohort.import_records(other, mapping, key=KEY)


def test_mutated_exports_and_mappings_are_refused_or_valid(export, mapping, tmp_path):
    """As frame and dict, and as the files that they come from."""
    whole, rules = export.to_csv(index=False).encode(), (tmp_path / "new" / "mapping.yaml").read_bytes()

    def attempt(rng):
        frame, said, kind = export, mapping, rng.integers(4)
        if kind == 0:
            frame = fuzz.mutate_frame(rng, export)
        elif kind == 1:
            said = fuzz.mutate_tree(rng, mapping)[0]
        elif kind == 2:
            frame = tmp_path / "export.csv"
            frame.write_bytes(fuzz.mutate_table(rng, whole))
        else:
            said = tmp_path / "mapping.yaml"
            said.write_bytes(fuzz.mutate_bytes(rng, rules)[0])
        tables = cohort.import_records(frame, said, key=KEY)
        if not (tables["event"]["day"].between(0, 36500)).all():
            return "day absurd"
        return ""

    fuzz.hold(attempt, seeds=(1, 2), n=fuzz.tries(15))
