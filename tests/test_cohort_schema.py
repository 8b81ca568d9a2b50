"""The dictionary of the cohort: what is accepted, and that every violation is listed at once."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import ionrt
from ionrt import cohort
from ionrt.cohort.schema import CohortError, dictionary


@pytest.fixture(scope="module")
def tables():
    return cohort.synthetic(60, 5)


@pytest.fixture
def broken(tables):
    return {name: table.copy() for name, table in tables.items()}


def rules_found(tables):
    found = cohort.violations(tables)
    return set(zip(found["table"], found["column"], strict=True)), found


def text_of(rule):
    return dictionary()["rules"][rule]


def test_synthetic_tables_are_valid_and_say_so_in_every_row(tables):
    checked = cohort.validate(tables)
    for name, table in checked.items():
        assert (table["origin"] == "SYNTHETIC").all(), name
        assert table.attrs["origin"] == "SYNTHETIC"
    assert set(checked) == {"patient", "course", "dose_metric", "event", "toxicity", "followup"}


def test_save_and_load_give_the_same_tables(tables, tmp_path):
    cohort.save(tables, tmp_path)
    again = cohort.load(tmp_path)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again[name], table, check_dtype=False, atol=1e-4, rtol=0)
    assert not list(tmp_path.glob(".*"))


def test_every_violation_is_listed_with_table_row_column_and_value(broken):
    broken["patient"].loc[[3, 7], "sex"] = ["male", None]
    broken["course"].loc[2, "rbe_model"] = "GyE"
    broken["course"].loc[4, "n_fractions"] = 0
    broken["course"]["rx_dose"] = broken["course"]["rx_dose"].astype(object)
    broken["course"].loc[5, "rx_dose"] = "about 60"
    with pytest.raises(CohortError) as error:
        cohort.validate(broken)
    found = error.value.violations
    expected = {
        ("patient", 3, "sex"),
        ("patient", 7, "sex"),
        ("course", 2, "rbe_model"),
        ("course", 4, "n_fractions"),
        ("course", 5, "rx_dose"),
    }
    assert set(zip(found["table"], found["row"], found["column"], strict=True)) == expected
    assert list(found) == ["table", "row", "column", "rule"]
    for part in ("row 2", "LEM_I", "may not be empty", "at least 1"):
        assert part in str(error.value)
    assert "GyE" not in str(error.value) and "about 60" not in str(error.value)  # cells may be a patient's
    shown = cohort.violations(broken, values=True)
    assert shown.set_index(["table", "row"]).loc[("course", 5), "value"] == "about 60"
    assert isinstance(error.value, ionrt.IonrtError)


def test_one_wrong_code_in_every_row_is_one_line(broken):
    broken["patient"]["sex"] = "1"
    with pytest.raises(CohortError) as error:
        cohort.validate(broken)
    assert len(error.value.violations) == 60 and len(str(error.value).splitlines()) == 2
    assert "patient, sex: 60 rows (0, 1, 2, 3, 4, ...): must be one of F, M, other" in str(error.value)


def test_chordoma_and_chondrosarcoma_are_indications(broken):
    broken["patient"].loc[[0, 1], "indication"] = ["chordoma", "chondrosarcoma"]
    broken["patient"].loc[[0, 1], "age_band"] = "50-59"
    assert cohort.violations(broken).empty


def test_a_file_without_a_line_of_names_does_not_show_its_first_patient(tables, tmp_path):
    cohort.save(tables, tmp_path)
    lines = (tmp_path / "patient.csv").read_text().splitlines(keepends=True)
    (tmp_path / "patient.csv").write_text("".join(lines[1:]))
    with pytest.raises(ionrt.IonrtError, match=r"patient\.csv: columns .* have one name") as error:
        cohort.load(tmp_path)
    assert "SYN-" not in str(error.value) and "centre" not in str(error.value)
    lines[1] = ",".join(f"cell{i}" for i in range(lines[0].count(",") + 1)) + "\n"
    (tmp_path / "patient.csv").write_text("".join(lines[1:]))
    with pytest.raises(CohortError, match="line of names missing") as error:
        cohort.load(tmp_path)
    assert "cell" not in str(error.value)


def test_wrong_missing_and_unknown_columns(broken):
    broken["patient"] = broken["patient"].rename(columns={"indication": "diagnosis"})
    broken["course"]["x_tumour_marker"] = 1.0
    broken["weather"] = pd.DataFrame({"rain": [1]})
    del broken["followup"]
    places, found = rules_found(broken)
    assert {("patient", "indication"), ("patient", "diagnosis"), ("weather", "-"), ("followup", "-")} <= places
    assert not found["column"].eq("x_tumour_marker").any()


def test_own_columns_survive(broken):
    broken["course"]["x_tumour_marker"] = 1.0
    assert "x_tumour_marker" in cohort.validate(broken)["course"]


# as the two hospitals and their neighbours write a day: ISO, European, American, Korean, Japanese, Chinese, written out
DATES = """2019-03-07|07.03.2019|7/3/2019|20190307|2019. 3. 1|2019년 3월 1일|01-MAR-2019|Mar 1, 2019|2019年3月1日
平成31年3月1日|令和元年5月1日|H31.3.1|S60.01.02|二〇一九年三月一日|１９８５年７月３日|2019/03|Mar 2019
1. März 2019|1er mars 2019|1 de marzo de 2019|01MAR2019|20190307T101500|20190307101500|19.03.07|85-03-07|3/7/19
850307-1234567|3월 1일|3月1日|1st March|March 1|07032019|2019-W10|2019-060|dob_19850307|'19년 3월|15 Oct 07
2019-3-7T10:00:00Z|5 mei 2019|民國108年3月1日|Oct-07-2019
1.3.19|1. 3. 19|'19.3.1|19. 3. 1|1. März|2019_03_01|2019 03 01|01 03 2019|3/2019|1-III-2019|平31.3.1|昭60.1.2|Mar-19|1-Mar
٢٠١٩-٠٣-٠١|2019-3|2019. 3.|Mär 2019|600203-1******"""
NO_DATES = """57.6 Gy (RBE) in 16 fr.|70.4/16|cT2N0M0|CTCAE 5.0|8140/3|PTV_5760|60/30/2|2 may progress|week 12|70-79
LEM_I to NIRS_MMKM, Zhang 2020|doi 10.1186/s13014-020-01723-z|a1b2c3d4e5f60718|50.4 Gy/28|2019
4.40 Gy x 12 = 52.8|Eclipse 16.1.2|I-III|may-be|R0|1.2.840|12-24 months|v2.1.3|1/2/3|25-30|SYN-000001-1"""


def test_what_looks_like_a_date_and_is_none_passes(broken):
    for i, text in enumerate(NO_DATES.replace("\n", "|").split("|")):
        broken["patient"].loc[i, "histology"] = text
    assert cohort.violations(broken).empty


@pytest.mark.parametrize("cell", DATES.replace("\n", "|").split("|"))
def test_calendar_dates_are_refused(broken, cell):
    broken["patient"].loc[0, "stage"] = f"T2 ({cell})"
    _, found = rules_found(broken)
    assert list(found["rule"]) == [text_of("relative_days")]


def test_a_timestamp_or_serial_date_is_no_day(broken):
    broken["event"]["day"] = broken["event"]["day"].astype(object)
    broken["event"].loc[0, "day"] = pd.Timestamp("2019-03-07")
    broken["event"].loc[1, "day"] = 43531  # a spreadsheet's serial date
    _, found = rules_found(broken)
    assert {(0, "day"), (1, "day")} <= set(zip(found["row"], found["column"], strict=True))


def test_event_after_last_follow_up(broken):
    row = int(np.flatnonzero(broken["event"]["code"].eq(0))[0])
    broken["event"].loc[row, "day"] += 1
    _, found = rules_found(broken)
    assert found[["table", "row", "column", "rule"]].values.tolist() == [
        ["event", row, "day", text_of("event_before_last_contact")]
    ]


def test_patient_without_any_follow_up(broken):
    gone = broken["patient"]["pid"][0]
    broken["followup"] = broken["followup"][broken["followup"]["pid"] != gone]
    _, found = rules_found(broken)
    assert text_of("event_before_last_contact") in set(found["rule"])


def grade_5(broken, cause):
    death = broken["event"].query("endpoint == 'OS' and code == 1").iloc[0]
    row = {"pid": death["pid"], "origin": "SYNTHETIC", "term": "Perforation", "grade": 5, "scale": "CTCAE5"}
    row |= {"day_from": death["day"], "day_to": np.nan, "attribution": "probable", "last_clean_day": 0}
    broken["toxicity"] = pd.concat([broken["toxicity"], pd.DataFrame([row])], ignore_index=True)
    broken["event"].loc[death.name, "cause"] = cause
    return broken


def test_grade_5_is_death_by_toxicity(broken):
    assert cohort.violations(grade_5(broken, "toxicity")).empty


def test_grade_5_without_death_by_toxicity(broken):
    _, found = rules_found(grade_5(broken, "cancer"))
    assert list(found["rule"]) == [text_of("grade_5_is_death")]


@pytest.mark.parametrize(
    ("table", "where", "column", "value", "rule"),
    [
        ("event", "endpoint == 'OS' and code == 1", "cause", "toxicity", "grade_5_is_death"),  # death without a grade 5
        ("dose_metric", "quantity == 'let_d'", "unit", "Gy", "dose_system_fits"),
    ],
)
def test_one_cell_that_contradicts_others(broken, table, where, column, value, rule):
    broken[table].loc[broken[table].query(where).index[0], column] = value
    _, found = rules_found(broken)
    assert list(found["rule"]) == [text_of(rule)]


def test_death_in_one_table_only(broken):
    row = broken["followup"].query("status == 'dead'").index[0]
    broken["followup"].loc[row, "status"] = "alive"
    _, found = rules_found(broken)
    assert text_of("death_is_death") in set(found["rule"])


def test_event_after_death_and_os_with_competitor(broken):
    dead = broken["event"].query("endpoint == 'OS' and code == 1").iloc[0]
    broken["event"].loc[dead.name, "day"] -= 1
    other = broken["event"].query("endpoint == 'OS' and code == 0").index[0]
    broken["event"].loc[other, ["code", "cause"]] = [2, "cancer"]
    _, found = rules_found(broken)
    assert {text_of("event_before_death"), text_of("os_has_no_competitor")} <= set(found["rule"])


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"modality": "mixed"}, "ion_shares"),
        ({"modality": "O"}, "ion_shares"),
        ({"share_C": 0.7, "share_He": 0.2}, "ion_shares"),
        ({"let_definition": None}, "let_definition_given"),
        ({"modality": "photon", "share_C": None}, "dose_system_fits"),
        ({"start_day": 3}, "first_course_day_0"),
    ],
)
def test_rules_of_a_course(broken, changes, rule):
    row = int(np.flatnonzero(broken["course"]["let_d_mean"].notna())[0])
    for column, value in changes.items():
        broken["course"].loc[row, column] = value
    _, found = rules_found(broken)
    assert list(found["rule"]) == [text_of(rule)]
    assert list(found["row"]) == [row]


def test_duplicates_and_orphans(broken):
    broken["patient"].loc[1, "pid"] = broken["patient"].loc[0, "pid"]
    places, found = rules_found(broken)
    assert "pid must be unique" in set(found["rule"])
    assert {("course", "pid"), ("event", "pid")} <= places  # the rows of the patient that vanished


def test_synthetic_rows_never_mix_with_clinical_ones(broken):
    broken["patient"].loc[0, "origin"] = "clinical"
    _, found = rules_found(broken)
    assert set(found["rule"]) == {text_of("one_origin")}


def test_toxicity_days_and_paediatric_age(broken):
    broken["toxicity"].loc[0, "last_clean_day"] = broken["toxicity"].loc[0, "day_from"] + 1
    broken["patient"].loc[0, ["indication", "age_band"]] = ["paediatric", "60-69"]
    _, found = rules_found(broken)
    assert {text_of("toxicity_days"), text_of("paediatric_age")} == set(found["rule"])


def test_text_of_a_file_is_taken_as_it_stands(tables, tmp_path):
    tables = {name: table.copy() for name, table in tables.items()}
    tables["patient"].loc[0, "stage"] = "NA"  # a stage, not a missing value
    cohort.save(tables, tmp_path)
    assert cohort.load(tmp_path)["patient"].loc[0, "stage"] == "NA"


def test_load_says_what_is_missing(tables, tmp_path):
    with pytest.raises(ionrt.IonrtError, match="folder"):
        cohort.load(tmp_path / "nowhere")
    cohort.save(tables, tmp_path)
    (tmp_path / "course.csv").unlink()
    (tmp_path / "toxicity.csv").unlink()
    with pytest.raises(ionrt.IonrtError, match="no file for course"):
        cohort.load(tmp_path)


def test_empty_tables_are_valid(tables):
    empty = {name: table.iloc[:0] for name, table in tables.items()}
    assert all(len(table) == 0 for table in cohort.validate(empty).values())


def test_half_a_surrogate_pair_is_a_violation(broken, tmp_path):
    broken["patient"].loc[2, "histology"] = "\ud800"
    with pytest.raises(CohortError, match="patient, histology: row 2: holds characters"):
        cohort.save(broken, tmp_path)


def test_nothing_is_written_where_the_tables_are_wrong(broken, tmp_path):
    broken["patient"].loc[0, "sex"] = "?"
    with pytest.raises(CohortError):
        cohort.save(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_rule_of_the_dictionary_has_code():
    from ionrt.cohort.rules import RULES

    assert set(dictionary()["rules"]) == set(RULES)


def test_importing_the_room_is_light():
    code = "import sys, ionrt.cohort as c; c.synthetic; print('scipy.stats' in sys.modules, 'statsmodels' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("table", "column", "value", "rule"),
    [
        ("event", "day", -3, "must be at least 0"),
        ("course", "start_day", 40000, "must be at most 36500"),
        ("followup", "day", 12.5, "a whole number is needed"),
        ("course", "treat_year", 1889, "must be at least 1990"),
        ("event", "day", "31.02.2020", "a whole number is needed"),
    ],
)
def test_impossible_days(broken, table, column, value, rule):
    broken[table][column] = broken[table][column].astype(object)
    broken[table].loc[0, column] = value
    found = cohort.violations(broken)
    assert rule in set(found.loc[found["table"].eq(table) & found["column"].eq(column) & found["row"].eq(0), "rule"])


def test_parquet_needs_its_package_and_says_so(tables, tmp_path):
    cohort.save(tables, tmp_path)
    (tmp_path / "patient.csv").rename(tmp_path / "patient.parquet")
    with pytest.raises(ionrt.IonrtError, match=r"patient\.parquet.*CSV"):
        cohort.load(tmp_path)
