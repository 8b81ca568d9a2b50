"""Pooling of centres, conversions of dose systems, hand-over of follow-up, and the borders (ADTTE, REDCap)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import ionrt
from ionrt import cohort
from ionrt.cohort.adtte import from_adtte, to_adtte
from ionrt.cohort.analysis import metric_table
from ionrt.cohort.redcap import API, from_redcap, to_redcap
from ionrt.cohort.schema import CohortError, dictionary

ZHANG = "LEM_I to NIRS_MMKM, Zhang 2020"


@pytest.fixture(scope="module")
def tables():
    return cohort.synthetic(120, 2, indication="head_neck")


@pytest.fixture(scope="module")
def centres(tables):
    return cohort.split(tables)


def with_courses(tables, **columns):
    out = {name: table.copy() for name, table in tables.items()}
    out["course"] = out["course"].assign(**columns)
    return out


def test_pooling_nirs_and_lem_raises_and_says_what_to_do(centres):
    with pytest.raises(ionrt.IonrtError, match="rbe_model differs") as error:
        cohort.pool(centres["centre_B"], centres["centre_C"])
    assert "NIRS_MMKM" in str(error.value) and "LEM_I" in str(error.value) and "conversion=" in str(error.value)


def test_pooling_with_a_conversion_works_and_the_product_says_so(centres):
    both = cohort.pool(centres["centre_B"], centres["centre_C"], ZHANG)
    course = both["course"]
    converted = course[course["conversion"].notna()]
    assert set(course["rbe_model"]) == {"NIRS_MMKM"}
    assert len(converted) == len(centres["centre_C"]["course"])
    # the published factor at 3.00 Gy (RBE) per fraction is 1.37
    assert converted["rx_dose"].to_numpy() == pytest.approx(22 * 3.00 / 1.37)
    assert set(converted["rx_dose_original"]) == {66.0} and set(converted["rbe_model_original"]) == {"LEM_I"}
    assert converted["rx_verbatim"].str.startswith("66.0 Gy").all()
    said = both["course"].attrs["conversion"][0]
    assert said["name"] == ZHANG and "10.1186/s13014-020-01723-z" in said["reference"] and said["valid"] == [2.7, 3.0]
    assert set(both["dose_metric"]["rbe_model"].dropna()) == {"NIRS_MMKM", "LEM_I"}  # metrics keep their label


def test_one_cohort_is_held_to_the_same_rule(tables, centres):
    with pytest.raises(ionrt.IonrtError, match="rbe_model differs"):
        cohort.harmonise(tables)
    both, one = cohort.pool(centres["centre_B"], centres["centre_C"], ZHANG), cohort.harmonise(tables, ZHANG)
    a, b = (t["course"].sort_values("cid", ignore_index=True) for t in (both, one))
    pd.testing.assert_frame_equal(a, b, check_dtype=False)
    assert one["course"].attrs["conversion"][0]["name"] == ZHANG


def test_conversion_at_the_lower_published_point(centres):
    lem = with_courses(centres["centre_C"], rx_dose=2.70 * 20, n_fractions=20)
    both = cohort.pool(centres["centre_B"], lem, ZHANG)
    assert both["course"].query("conversion.notna()")["rx_dose"].to_numpy() == pytest.approx(20 * 2.70 / 1.46)


def test_a_course_outside_the_validity_of_a_conversion_is_an_error(centres):
    lem = with_courses(centres["centre_C"], rx_dose=70.4, n_fractions=16)  # 4.4 Gy (RBE) per fraction
    with pytest.raises(ionrt.IonrtError, match=r"valid for 2\.7 to 3"):
        cohort.pool(centres["centre_B"], lem, ZHANG)
    elsewhere = {name: table.copy() for name, table in centres["centre_C"].items()}
    elsewhere["patient"]["indication"] = "sarcoma"
    with pytest.raises(ionrt.IonrtError, match="outside the indications"):
        cohort.pool(centres["centre_B"], elsewhere, ZHANG)


def test_let_definitions_do_not_mix_either(centres):
    primary = with_courses(centres["centre_B"], let_definition="primary")
    primary = {n: t.assign(**({"pid": "X" + t["pid"]} if "pid" in t else {})) for n, t in primary.items()}
    primary["course"]["cid"] = "X" + primary["course"]["cid"]
    primary["dose_metric"]["cid"] = "X" + primary["dose_metric"]["cid"]
    with pytest.raises(ionrt.IonrtError, match="let_definition differs"):
        cohort.pool(centres["centre_B"], primary)
    own = cohort.Conversion("half", "made up for a test", "primary", "charged", lambda x: x / 2, (1, 200), "let_definition")
    both = cohort.pool(centres["centre_B"], primary, own)
    half = both["course"].query("conversion.notna()")["let_d_mean"].dropna()
    assert half.to_numpy() == pytest.approx(centres["centre_B"]["course"]["let_d_mean"].dropna().to_numpy() / 2)


def test_conversion_needs_name_reference_and_range():
    good = {"source": "LEM_I", "target": "SMK", "per_fraction": lambda x: x}
    with pytest.raises(ionrt.IonrtError, match="reference"):
        cohort.Conversion("name", " ", valid=(1, 2), **good)
    with pytest.raises(ionrt.IonrtError, match="valid"):
        cohort.Conversion("name", "doi", valid=(2, 1), **good)
    with pytest.raises(ionrt.IonrtError, match="does not exist"):
        cohort.pool(cohort.synthetic(3, 1), cohort.synthetic(3, 1), "nothing")


def test_conversion_without_a_course_to_convert_is_an_error(centres):
    with pytest.raises(ionrt.IonrtError, match="no course has"):
        cohort.pool(centres["centre_B"], centres["centre_B"], ZHANG)


def test_a_patient_in_both_centres_is_linked_and_a_contradiction_listed(centres):
    one = centres["centre_B"]
    both = cohort.pool(one, one)
    assert len(both["patient"]) == len(one["patient"]) == both["patient"].attrs["linked_patients"]
    other = {name: table.copy() for name, table in one.items()}
    other["patient"].loc[0, "ecog"] = 4
    with pytest.raises(CohortError, match="pid must be unique"):
        cohort.pool(one, other)


def test_synthetic_and_clinical_or_site_only_rows_are_not_pooled(centres):
    clinical = {name: table.assign(origin="clinical") for name, table in centres["centre_B"].items()}
    with pytest.raises(ionrt.IonrtError, match="SYNTHETIC"):
        cohort.pool(centres["centre_B"], clinical)
    at_home = {name: table.copy() for name, table in centres["centre_B"].items()}
    at_home["patient"].loc[[0, 1], "consent_scope"] = "site"
    with pytest.raises(ionrt.IonrtError, match="2 patients consented"):
        cohort.pool(centres["centre_B"], at_home)


def test_one_centre_only(tables):
    one = cohort.split(cohort.synthetic(40, 1, indication="prostate"))
    assert list(one) == ["centre_B"]
    assert len(cohort.pool(one["centre_B"], one["centre_B"])["patient"]) == 40


def hand_made():
    """Three exchanged patients: complete, died in the gap, died at home; and one treated and followed at one place."""
    syn = {"origin": "SYNTHETIC"}
    patient = pd.DataFrame(
        {
            "pid": ["AAAA", "BBBB", "CCCC", "DDDD"],
            **syn,
            "age_band": "60-69",
            "sex": "F",
            "indication": "other",
            "prior_rt": 0,
            "refer_centre": "home",
            "treat_centre": "away",
            "followup_centre": ["home", "home", "home", "away"],
            "consent_scope": "exchange",
        }
    )
    course = pd.DataFrame(
        {"cid": patient["pid"] + "1", "pid": patient["pid"], **syn, "start_day": 0, "treat_year": 2020, "modality": "C"}
    )
    course = course.assign(rx_verbatim="60/12", rx_dose=60.0, n_fractions=12, rbe_model="SMK", rx_point="D50")
    followup = pd.DataFrame(
        [
            ("AAAA", 90, "away", "alive"), ("AAAA", 200, "home", "alive"), ("AAAA", 900, "home", "lost"),
            ("BBBB", 90, "away", "alive"), ("BBBB", 150, "home", "dead"),
            ("CCCC", 60, "away", "alive"), ("CCCC", 160, "home", "alive"), ("CCCC", 400, "home", "dead"),
            ("DDDD", 90, "away", "alive"), ("DDDD", 500, "away", "alive"),
        ],
        columns=["pid", "day", "centre", "status"],
    ).assign(**syn)  # fmt: skip
    event = pd.DataFrame({"pid": patient["pid"], **syn, "endpoint": "OS", "day": [900, 150, 400, 500], "code": [0, 1, 1, 0]})
    return cohort.validate({"patient": patient, "course": course, "event": event, "followup": followup})


def test_hand_over_gap_by_hand():
    gap = cohort.handover(hand_made()).set_index("pid")
    assert gap["gap"].to_dict() == {"AAAA": 110, "BBBB": 60, "CCCC": 100, "DDDD": 0}
    assert gap["exchanged"].to_dict() == {"AAAA": True, "BBBB": True, "CCCC": True, "DDDD": False}


def test_intervals_leave_out_the_gap_and_the_event_in_it():
    rows = cohort.intervals_at_risk(hand_made(), "OS")
    got = [tuple(r) for r in rows[["pid", "start", "stop", "code"]].to_numpy().tolist()]
    assert got == [
        ("AAAA", 0, 90, 0), ("AAAA", 200, 900, 0),
        ("BBBB", 0, 90, 0),
        ("CCCC", 0, 60, 0), ("CCCC", 160, 400, 1),
        ("DDDD", 0, 500, 0),
    ]  # fmt: skip
    assert rows.attrs["events_in_gap"] == 1


def test_leaving_out_the_gap_leaves_the_hazard_unbiased():
    tables = cohort.synthetic(20000, 11, indication="pancreas")
    rows = cohort.intervals_at_risk(tables, "OS")
    early, at_risk = rows[rows["start"] < 365], np.clip(rows["stop"], None, 365) - np.clip(rows["start"], None, 365)
    rate = (early["code"].eq(1) & (early["stop"] <= 365)).sum() / at_risk.sum() * 365.25
    deaths = (early["code"].eq(1) & (early["stop"] <= 365)).sum()
    # the published survival of 73 % at one year is a hazard of 0.3147 per year, constant over that year
    assert rate == pytest.approx(-np.log(0.73), abs=3 * rate / np.sqrt(deaths))
    assert rows.attrs["events_in_gap"] > 100


def test_adtte_cnsr_zero_is_the_event_both_ways():
    tables = cohort.synthetic(200, 4, indication="pancreas")
    adtte = to_adtte(tables, study="TEST")
    code = tables["event"]["code"].to_numpy()
    assert set(code) == {0, 1, 2}
    assert (adtte["CNSR"].to_numpy() == np.select([code == 1, code == 0], [0, 1], 2)).all()
    back = from_adtte(adtte)
    pd.testing.assert_frame_equal(
        back[["pid", "endpoint", "day", "code", "cause"]],
        tables["event"][["pid", "endpoint", "day", "code", "cause"]],
        check_dtype=False,
    )
    again = to_adtte(tables | {"event": back}, study="TEST")
    pd.testing.assert_frame_equal(again, adtte, check_dtype=False)


def test_adtte_from_elsewhere():
    adtte = pd.DataFrame(
        {"USUBJID": ["a1", "a2", "a3"], "PARAMCD": "OS", "AVAL": [12, 24, 1.5], "CNSR": [0, 1, 4], "AVALU": "MONTHS"}
    )
    adtte["EVNTDESC"] = ["DEATH", "ALIVE", "WITHDRAWN"]
    event = from_adtte(adtte)
    assert event["code"].tolist() == [1, 0, 0]
    assert event["day"].tolist() == [365, 730, 46]
    assert event["cause"].tolist() == ["DEATH", "ALIVE", "WITHDRAWN"]
    for column, value in (("AVALU", "FORTNIGHTS"), ("PARAMCD", "XX"), ("CNSR", -1), ("CNSR", None)):
        with pytest.raises(ionrt.IonrtError, match=column):
            from_adtte(adtte.assign(**{column: value}))
    with pytest.raises(ionrt.IonrtError, match="CNSR"):
        from_adtte(adtte.drop(columns="CNSR"))


def test_the_unit_of_adtte_may_stand_in_param():
    adtte = pd.DataFrame({"USUBJID": ["a1", "a2"], "PARAMCD": ["OS", "PFS"], "AVAL": [12, 24], "CNSR": 1})
    said = from_adtte(adtte.assign(PARAM=["Overall Survival (Months)", "PFS (investigator) (week)"]))
    assert said["day"].tolist() == [365, 168] and said.attrs["assumed"] == ["AVALU: taken as PARAM says"]
    open_ = from_adtte(adtte.assign(PARAM=["Overall Survival (Months)", "PFS (investigator)"]))
    assert open_["day"].tolist() == [365, 24] and open_.attrs["assumed"][1] == "AVALU: taken as DAYS"
    assert from_adtte(adtte.assign(PARAM="OS (Months)", AVALU="DAY"))["day"].tolist() == [12, 24]


def test_what_competes_is_said_never_guessed(tmp_path):
    adtte = pd.DataFrame(
        {"USUBJID": list("abcd"), "PARAMCD": "PFS", "AVAL": ["100,5", "2", "3", "4"], "CNSR": ["0", "1", "2", "3"]}
    )
    adtte["EVNTDESC"] = ["PROGRESSION", "LAST VISIT", "NEW THERAPY", "Competing event: death"]
    adtte["SRCDOM"], adtte["TRTP"] = "AE", "A"  # the domain a row comes from is no centre
    adtte.to_csv(tmp_path / "adtte.csv", index=False, sep=";")
    event = from_adtte(tmp_path / "adtte.csv")
    assert event["code"].tolist() == [1, 0, 0, 2] and event["cause"].tolist()[2:] == ["NEW THERAPY", "death"]
    assert event["day"].tolist() == [100, 2, 3, 4] and event["site"].isna().all()
    assert event.attrs["not_read"] == ["SRCDOM", "TRTP"]
    assert from_adtte(adtte.assign(AVAL=1), competing=[2])["code"].tolist() == [1, 0, 2, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"AVAL": -1}, "AVAL must be a time"),
        ({"AVAL": np.inf}, "AVAL must be a time"),
        ({"AVAL": None}, "AVAL must be a time"),
        ({"AVAL": 1e9}, "AVAL must be a time"),
        ({"AVALU": 5.0}, "AVALU must be one of"),
        ({"AVALU": None}, "AVALU must be one of"),
        ({"USUBJID": "same"}, "stands twice"),
        ({"USUBJID": [["x"], ["x"]]}, "stands twice"),
        ({"CNSR": "one"}, "CNSR must be"),
        ({"ORIGIN": "somewhere"}, "ORIGIN must be"),
    ],
)
def test_adtte_that_is_none_names_column_and_rows(change, words):
    adtte = pd.DataFrame({"USUBJID": ["a1", "a2"], "PARAMCD": "OS", "AVAL": 100.0, "CNSR": 1, "AVALU": "DAYS"})
    with pytest.raises(ionrt.IonrtError, match=words) as error:
        from_adtte(adtte.assign(**change))
    assert "row" in str(error.value) and "same" not in str(error.value) and "somewhere" not in str(error.value)
    with pytest.raises(ionrt.IonrtError, match="competing"):
        from_adtte(adtte, competing=[0])


def redcap_field(name, kind="text", **cells):
    names = list(to_redcap().columns)
    row = dict.fromkeys(names, "") | {names[0]: name, names[1]: "form", names[3]: kind, names[4]: name}
    places = {"choices": 5, "check": 7, "low": 8, "high": 9, "branching": 11, "required": 12, "annotation": 17}
    return row | {names[places[key]]: value for key, value in cells.items()}


def test_fields_of_other_redcap_projects():
    fields = [
        redcap_field("record_id"),
        redcap_field("dose", check="number_2dp_comma_decimal", low="0,5", high="80"),
        redcap_field("late", "checkbox", choices="A1, Skin | -99, Unknown | b.2, Other"),
        redcap_field("stage", "radio", choices="1, I | 2, II", required="y", branching="[late___a1] = '1'"),
        redcap_field("total", "calc", choices="[a] + [b]"),
        redcap_field("logo", "descriptive"),
        redcap_field("weight", check="number", low="[floor]", annotation="@HIDDEN type=foo above=bar"),
    ]
    read = from_redcap(pd.DataFrame(fields))
    columns = read["tables"]["form"]["columns"]
    assert list(columns) == ["record_id", "dose", "late___a1", "late____99", "late___b_2", "stage", "total", "weight"]
    assert columns["dose"] | {"label": ""} == {"type": "float", "label": "", "min": 0.5, "max": 80}
    assert "required" not in columns["stage"]  # branching may hide it
    assert read["left_out"] == ["weight: min [floor] is another field's value"]
    data = pd.DataFrame(
        {"record_id": ["1", "2"], "dose": ["60", "90"], "late___a1": [1, 0], "late____99": 0, "late___b_2": 0, "total": "x"}
    )
    found = cohort.violations({"form": data.assign(stage=None, weight="70.5")}, dictionary=read)
    assert found[["row", "column", "rule"]].to_numpy().tolist() == [[1, "dose", "must be at most 80"]]


@pytest.mark.parametrize(
    "choices", ["1, Yes, all | 2, No", "1, Yes, all\n2, No\n", r"1, Yes, all \n 2, No", "1, Yes, all | 2, No |"]
)
@pytest.mark.parametrize("api", [False, True])
def test_redcap_dictionaries_of_other_releases_and_of_the_interface(choices, api):
    frame = pd.DataFrame([redcap_field("record_id"), redcap_field("late", "radio", choices=choices, required="y")])
    if api:
        frame.columns = API
    column = from_redcap(frame)["tables"]["form"]["columns"]["late"]
    assert column == {"type": "str", "label": "late", "required": True, "allowed": ["1", "2"]}


@pytest.mark.parametrize(
    "field",
    [
        redcap_field("x", "radio", choices="1, a | 1, b"),
        redcap_field("x", "radio", choices=""),
        redcap_field("x", "checkbox", choices="a-b, one | a_b, another"),  # one column
        redcap_field("x", check="integer", low="many"),
        redcap_field("x", annotation="ionrt=nodot type=int"),
        redcap_field("x", annotation="ionrt=a.b type=complex"),
        redcap_field("x", annotation="ionrt=a.b type=str pattern=(a+)+$"),
        redcap_field("1 x"),
    ],
)
def test_redcap_fields_that_are_none_are_named(field):
    with pytest.raises(ionrt.IonrtError, match="REDCap"):
        from_redcap(pd.DataFrame([redcap_field("record_id"), field]))


def test_redcap_dictionary_round_trip(tmp_path):
    redcap = to_redcap()
    assert redcap.shape[1] == 18 and redcap.iloc[0, 0] == "pid"
    assert redcap["Variable / Field Name"].is_unique
    assert redcap["Variable / Field Name"].str.fullmatch(r"[a-z][a-z0-9_]*").all()
    redcap.to_csv(tmp_path / "dictionary.csv", index=False)
    again = from_redcap(pd.read_csv(tmp_path / "dictionary.csv", dtype=str))
    shipped = dictionary()
    assert again["tables"] == shipped["tables"] and again["rules"] == shipped["rules"]


def test_a_foreign_redcap_dictionary_becomes_checks():
    names = list(to_redcap().columns)
    rows = [dict.fromkeys(names, "") for _ in range(3)]
    for row, (name, kind, choices, check, low, high) in zip(
        rows,
        [
            ("age", "text", "", "integer", "18", "99"),
            ("arm", "radio", "1, carbon | 2, proton", "", "", ""),
            ("ok", "yesno", "", "", "", ""),
        ],
        strict=True,
    ):
        row |= {names[0]: name, names[1]: "baseline", names[3]: kind, names[4]: name, names[5]: choices, names[7]: check}
        row |= {names[8]: low, names[9]: high, names[12]: "y"}
    read = from_redcap(pd.DataFrame(rows))
    assert read["tables"]["baseline"]["columns"]["age"] == {
        "type": "int",
        "label": "age",
        "required": True,
        "min": 18,
        "max": 99,
    }
    assert read["tables"]["baseline"]["columns"]["arm"]["allowed"] == ["1", "2"]
    assert read["tables"]["baseline"]["columns"]["ok"]["allowed"] == [0, 1]
    rows[0][names[7]] = "date_ymd"
    with pytest.raises(ionrt.IonrtError, match="dates"):
        from_redcap(pd.DataFrame(rows))
    with pytest.raises(ionrt.IonrtError, match="18 columns"):
        from_redcap(pd.DataFrame(rows).drop(columns=names[3]))


def test_patient_table_by_hand():
    table = cohort.patient_table(hand_made()).set_index("pid")
    assert table["last_day"].to_dict() == {"AAAA": 900, "BBBB": 150, "CCCC": 400, "DDDD": 500}
    assert table["dead"].to_dict() == {"AAAA": 0, "BBBB": 1, "CCCC": 1, "DDDD": 0}
    unseen = hand_made()
    unseen["followup"] = unseen["followup"].query("pid != 'AAAA'")
    with pytest.raises(ionrt.IonrtError, match="no follow-up"):
        cohort.patient_table(unseen)


def test_metric_table_keeps_dose_systems_in_columns_of_their_own(tables):
    wide = metric_table(tables)
    assert len(wide) == len(tables["course"])
    assert {"Bone_Mandible:D2cc:rbe_dose:LEM_I", "Bone_Mandible:D2cc:rbe_dose:NIRS_MMKM"} <= set(wide.columns)


def test_endpoint_table_names_what_there_is(tables):
    with pytest.raises(ionrt.IonrtError, match="'OS'"):
        cohort.endpoint_table(tables, "bRFS")
