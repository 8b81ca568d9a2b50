"""The facts of the indications: planted faults of every kind are named, and no plan meets a limit of another dose system."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ionrt import plot
from ionrt.cohort.anchors import published
from ionrt.indications import load, plans, tables
from ionrt.indications.facts import counts
from ionrt.indications.limits import check_limits, limits_received, measure
from ionrt.quantities import IonrtError, stamp
from ionrt.resources import shipped

FACTS = load()
PAGES = sorted(FACTS.pages)


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(shipped("datasets") / "indications", tmp_path / "indications")


def plant(folder, table, row, **values):
    path = folder / f"{table}.csv"
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    if row is None:
        rows.loc[len(rows)] = rows.iloc[0]
        row = len(rows) - 1
    for column, value in values.items():
        rows.loc[row, column] = value
    rows.to_csv(path, index=False)


PLANTED = {
    "same id twice": ("schedules", None, {}, "schedules.csv, pr1: the id stands twice"),
    "no total": ("schedules", 1, {"total": ""}, "schedules.csv, pr2: total is missing"),
    "no fractions": ("schedules", 2, {"fractions": ""}, "schedules.csv, pr3: fractions is missing"),
    "no number": ("constraints", 0, {"limit": "37,6"}, "constraints.csv, prc1: limit: expected a positive number, got '37,6'"),
    "unknown dose system": ("schedules", 3, {"system": "NIRS"}, "schedules.csv, pr4: system: 'NIRS' is not one of NIRS-mMKM"),
    "basis of nothing": ("schedules", 10, {"basis": "inferred"}, "schedules.csv, pa4: basis: 'inferred' does not go with"),
    "no such source": ("toxicity", 0, {"source": "gunma"}, "toxicity.csv, prt1: source: there is no 'gunma'"),
    "no source": ("constraints", 3, {"source": ""}, "constraints.csv, prc4: source: there is no ''"),
    "no confidence": ("toxicity", 1, {"confidence": "sure"}, "toxicity.csv, prt2: confidence: 'sure' is not one of retrieved"),
    "memory as default": ("schedules", 0, {"confidence": "memory"}, "prostate: schedule: 'pr1' is from memory"),
    "source without address": ("sources", 0, {"doi": "", "pmc": "", "registry": ""}, "sources.csv, gunma0702: no address"),
    "a doi that is none": ("sources", 2, {"doi": "doi:bjc"}, "sources.csv, nomiya_1002: doi: 'doi:bjc' does not look like one"),
    "no such page": ("trials", 0, {"page": "breast"}, "trials.csv, prostate SIB: page: there is no 'breast'"),
    "more than all": ("outcomes", 0, {"percent": "192"}, "outcomes.csv, P1: percent: expected at most 100, got 192"),
    "events that do not divide": ("toxicity", 4, {"events": "9"}, "toxicity.csv, pat1: events: 9 of 64 is not 6.25 %"),
    "a part of a fraction": ("schedules", 4, {"fractions": "12.5"}, "schedules.csv, pr5: fractions: expected a whole number"),
    "no id": ("toxicity", 3, {"id": ""}, "toxicity.csv, row 5: no id"),
    "more events than patients": ("toxicity", 5, {"events": "900"}, "toxicity.csv, pat2: events: 900 of 64 is not 0 %"),
    "a wrong date of a trial": ("trials", 0, {"seen": "yesterday"}, "trials.csv, prostate SIB: seen: expected a month such as"),
    "a unit of old": ("constraints", 1, {"unit": "GyE"}, "constraints.csv, prc2: unit: 'GyE'"),
    "a limit without an operator": ("constraints", 2, {"op": "below"}, "constraints.csv, prc3: op: 'below' is not one of"),
    "a total in cGy": ("schedules", 5, {"total": "6560"}, "schedules.csv, pr6: total: 6560 in 16 is 410 per fraction"),
    "limits beside the value": ("outcomes", 31, {"low": "60", "high": "70"}, "outcomes.csv, PA1: limits: 60 to 70 do not hold"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_fault_is_named(copy, kind):
    table, row, values, said = PLANTED[kind]
    plant(copy, table, row, **values)
    with pytest.raises(IonrtError, match="1 violations") as error:
        load(copy)
    assert said in str(error.value)


def test_all_faults_are_named_at_once(copy):
    chosen = [k for k in PLANTED if k != "same id twice"]
    for kind in chosen:
        table, row, values, _ = PLANTED[kind]
        plant(copy, table, row, **values)
    with pytest.raises(IonrtError) as error:
        load(copy)
    missed = [k for k in chosen if PLANTED[k][3] not in str(error.value)]
    assert missed == []


def test_faults_of_the_pages_are_named(copy):
    text = (copy / "pages.yaml").read_text()
    for old, new, said in (
        ("outcomes: [P1,", "outcomes: [P9,", "outcomes: there is no 'P9' of this page"),
        ("schedule: pa1", "schedule: pr1", "pancreas: schedule: there is no 'pr1' of this page"),
        ("planned_in: LEM-I", "planned_in: NIRS-Kanai", "planned_in: 'NIRS-Kanai' has no formula here"),
        ("source: parrella_2024, read: abstract", "source: null, read: abstract", "expected a source, or read: memory"),
        ("  title: Kidney", "  name: Kidney", "kidney: expected title"),
    ):
        (copy / "pages.yaml").write_text(text.replace(old, new, 1))
        with pytest.raises(IonrtError, match="1 violations") as error:
            load(copy)
        assert said in str(error.value)


def test_what_is_there():
    """Counts of a second reading by hand; the schedule without fractions is no schedule."""
    sizes = {t: len(getattr(FACTS, t)) for t in ("schedules", "constraints", "toxicity", "trials")}
    assert sizes == {"schedules": 51, "constraints": 63, "toxicity": 27, "trials": 20}
    assert (FACTS.schedules["basis"] == "stated").sum() == 2
    assert FACTS.constraints["kind"].value_counts().to_dict() == {
        "cut_off": 28,
        "clinical": 20,
        "converted": 14,
        "objective": 1,
    }
    assert len(PAGES) == 9
    assert FACTS.schedule("paediatric") is None and FACTS.schedule("sarcoma")["total"] == 73.6
    with pytest.raises(IonrtError, match="indication: 'rectum' does not exist"):
        FACTS.schedule("rectum")


def test_no_default_is_from_memory():
    for page in PAGES:
        one = FACTS.schedule(page)
        assert one is None or one["confidence"] in ("retrieved", "derived")


def test_counts_behind_a_percentage():
    assert counts(9, 304) == [26, 27, 28] and counts(4.6, 65) == [3]
    assert counts(37, 29) == [] and counts(37, 27) == [10]  # why the femoral heads carry a remark


def test_a_table_is_kept_until_code_phantom_or_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("IONRT_CACHE", str(tmp_path))
    made = []

    def gap():
        made.append(3.0)
        return pd.DataFrame({"a": [3.0]})

    table = plans._kept("abdomen")(gap)
    assert table()["a"][0] == table()["a"][0] == 3.0 and len(made) == 1
    plans._kept("thorax")(gap)()
    monkeypatch.setattr(plans, "_code", lambda: "other")
    table()
    assert len(made) == 3 and len(list(tmp_path.rglob("gap-*"))) == 3
    for path in tmp_path.rglob("gap-*"):
        path.write_bytes(path.read_bytes()[:-1])
    table()
    assert len(made) == 4


# a small plan, known voxel by voxel: 1..20 Gy (RBE) along x, LETd 10 times that
GRID = {"z": [0.0, 3.0], "y": [0.0, 3.0], "x": 3.0 * np.arange(20)}
STEP = np.broadcast_to(np.arange(1.0, 21.0), (2, 2, 20))
DOSE = stamp(xr.DataArray(STEP.copy(), dims=tuple(GRID), coords=GRID), "rbe_dose", rbe_model="lem1")
LET = stamp(xr.DataArray(10 * STEP, dims=tuple(GRID), coords=GRID), "let_d", let_definition="charged")


def organ(name):
    here = xr.DataArray(np.ones((1, 2, 2, 20)), dims=("structure", *GRID), coords={"structure": [name], **GRID})
    return stamp(here, "structures")


def test_metrics_against_counting():
    one = organ("Rectum")
    assert measure("Mean", DOSE, one) == pytest.approx(10.5)
    assert measure("Dmax", DOSE, one) == pytest.approx(20.0)
    assert measure("V16Gy", DOSE, one) == pytest.approx(25.0)
    assert measure("D25%", DOSE, one) == pytest.approx(15.5)
    # a quarter of 80 voxels of 27 mm3
    assert measure("D0.54cc", DOSE, one) == pytest.approx(15.5)
    assert measure("share D>=11Gy LETd>150keV/um", DOSE, one, LET) == pytest.approx(30.0)
    assert measure("share D>=19Gy LETd>0keV/um", DOSE, one, LET) == pytest.approx(10.0)
    with pytest.raises(IonrtError, match="not one that is measured"):
        measure("LKB TD50", DOSE, one)


def planted(page, **differs):
    """One limit that agrees with the page's plan in all but what differs."""
    one = FACTS.schedule(page)
    fractions = 16.0 if one is None else one["fractions"]
    row = {"organ": "Rectum", "metric": "Dmax", "op": "<", "limit": 1000.0, "unit": "Gy (RBE)", "fractions": fractions}
    row |= {"system": FACTS.pages[page]["planned_in"], "kind": "clinical", "confidence": "retrieved"} | differs
    return check_limits(
        pd.DataFrame([row], index=["planted"]),
        system=FACTS.pages[page]["planned_in"],
        fractions=fractions,
        dose=DOSE,
        let_d=LET,
        structures=organ("Rectum"),
    ).loc["planted"]


@pytest.mark.parametrize("page", PAGES)
def test_a_limit_of_another_system_or_fractionation_is_never_compared(page):
    assert planted(page)["verdict"] == "within the limit"  # the control: the same, and measured
    own = FACTS.pages[page]["planned_in"]
    for other in ({"NIRS-mMKM", "NIRS-Kanai", "NIRS-family", "SMK", "LEM-I", "LEM-IV", "RBE-1.1", "unknown"}) - {own}:
        found = planted(page, system=other)
        assert found["verdict"] == "not comparable" and np.isnan(found["value"]) and other in found["reason"]
    for fractions in (np.nan, 5.0):
        found = planted(page, fractions=fractions)
        assert found["verdict"] == "not comparable" and np.isnan(found["value"]) and "fraction" in found["reason"]
    assert planted(page, confidence="memory")["reason"] == "from memory"


def test_a_cut_off_is_an_association_and_the_course_is_compared():
    page = "sarcoma"
    assert planted(page, kind="cut_off", limit=320.1)["verdict"] == "within an association"  # 16 fractions of at most 20
    assert planted(page, limit=319.9)["verdict"] == "beyond the limit"
    assert planted(page, organ="Skin")["reason"] == "no Skin drawn"
    assert planted(page, op="", limit=np.nan)["reason"] == "no threshold"
    assert planted(page, kind="objective")["reason"] == "a weight of an optimiser"


def test_the_limits_of_the_pages_that_can_be_compared():
    """Of 63 limits two can be held against the plan of their page: the sacral nerves."""
    found = {}
    for page in PAGES:
        one = FACTS.schedule(page)
        rows = FACTS.of("constraints", page)
        table = check_limits(
            rows, system=FACTS.pages[page]["planned_in"], fractions=np.nan if one is None else one["fractions"]
        )
        found[page] = sorted(table.index[table["reason"] == "no plan"])
    assert {k: v for k, v in found.items() if v} == {"sarcoma": ["sac7", "sac8"]}


def test_the_limits_met_by_a_plan_say_their_system():
    plan = {name: one.expand_dims(case=["C"]) for name, one in (("rbe_dose", DOSE), ("let_d", LET))}
    made = SimpleNamespace(plans=["C"], maps=xr.Dataset(plan), grid=xr.Dataset({"structures": organ("SacralNerves")}))
    table = plans.limits_of(FACTS, "sarcoma", made)
    assert table["unit"].tolist() == ["Gy (RBE; LEM-I)", "%"]
    assert table["carbon"].str.contains("the limit|an association").all()


@pytest.mark.parametrize("page", PAGES)
def test_every_dose_of_a_page_says_its_system_and_every_row_leads_to_a_source(page):
    made = tables(FACTS, page)
    cells = [v for t in made.values() for v in (*t.columns, *t.reset_index().to_numpy().ravel())]
    text = "\n".join(map(str, cells))
    doses = re.findall(r"GyE|Gy ?\(RBE[^)]*\)", text)
    assert [d for d in doses if not re.fullmatch(r"Gy \(RBE; [\w.-]+, (stated|inferred|not stated)\)", d)] == []
    outcomes = made["outcomes"].reset_index()
    assert outcomes["schedule"].ne("").all()  # an empty cell would read as the schedule of the row above
    assert not outcomes["group"].str.fullmatch(r"[<≥ ]*[\d.-]+( Gy)?").any()  # a dose level says its unit and system
    listed = set(made["sources"]["ref"])
    for name in ("schedules", "constraints", "outcomes", "toxicity", "beams", "why", "trials", "gaps"):
        for _, row in made[name].iterrows():
            ref = row.get("ref", "memory, no source")
            if name == "gaps" and not ref:
                assert not re.search(r"\d", row["what"])  # no number without a source
                continue
            assert ref == "memory, no source" or re.fullmatch(r"(\[\d+\])\s\((abstract|table|registry|web page)\)", ref)
            assert ref == "memory, no source" or ref.split()[0] in listed
    assert made["sources"]["where"].str.len().gt(0).all()


@pytest.mark.parametrize("page", PAGES)
def test_what_no_plan_can_be_held_against_is_grey(page):
    """Grey rows are those that `check_limits` finds "not comparable" with every dose system that the page plans in."""
    rows, one = FACTS.of("constraints", page), FACTS.schedule(page)
    made = tables(FACTS, page)["constraints"]
    if not len(rows):
        return
    fractions = np.nan if one is None else one["fractions"]
    systems = {FACTS.pages[page]["planned_in"]} | ({"RBE-1.1"} if "p" in FACTS.pages[page]["plan"]["ions"] else set())
    met = sum((check_limits(rows, system=s, fractions=fractions)["reason"] == "no plan").any() for s in systems)
    shown = made["compared"].str.startswith("with")
    assert shown.sum() == (2 if page == "sarcoma" else 0) and bool(met) == bool(shown.any())
    html = plot.table(made, quiet=~shown).element._repr_html_()
    assert html.count("<tr style='color: #") == (~shown).sum()


def test_a_volume_at_a_dose_in_its_own_unit():
    """A limit in cm3 is never held against per cent: 20 of 80 voxels of 27 mm3 have at least 16 Gy (RBE)."""
    assert measure("V16Gy", DOSE, organ("Rectum"), unit="cc") == pytest.approx(0.54)
    assert planted("sarcoma", metric="V256Gy", unit="cc", limit=0.6)["verdict"] == "within the limit"
    assert planted("sarcoma", metric="V256Gy", unit="percent", limit=0.6)["verdict"] == "beyond the limit"


def test_the_cohort_rests_on_the_same_outcomes():
    """Every anchor of the SYNTHETIC cohort is a row of the indications: one fact, one number, one group size."""
    mine = FACTS.outcomes
    for one in published().itertuples():
        near = mine[(mine["page"] == one.indication) & (mine["percent"] == one.percent)]
        near = near[near["years"].isna() | (near["years"] == one.horizon_years)]
        assert (near["n"].isna() | (near["n"] == one.n)).any(), one


def test_small_numbers_and_the_stand_in_system_stand_in_the_banner():
    small = {p for p in PAGES if "SMALL NUMBERS" in tables(FACTS, p)["banner"].to_string()}
    assert small == {"kidney", "paediatric"}
    assert "continuity is assumed" in tables(FACTS, "kidney")["banner"].to_string()
    assert "continuity" not in tables(FACTS, "sarcoma")["banner"].to_string()
    limits = tables(FACTS, "kidney")["toxicity"]["95 % limits"].tolist()
    assert limits[:2] == ["28.4 to 99.5", "0.0 to 23.2"]  # 4 of 5, 0 of 14


def test_limits_of_a_received_plan_are_held_in_each_system_alone():
    """Their dose (40 Gy in their system), the recomputed field (RBE-1.1, 17.6 Gy), at equal fractions only; organs by name."""
    at = {d: 4.0 * np.arange(4) for d in "zyx"}
    flat = xr.DataArray(np.ones((4, 4, 4), np.float32), dims=("z", "y", "x"), coords=at)
    structures = xr.concat([flat, flat, flat], dim="structure").assign_coords(structure=["brain stem", "Parotid_L", "CTV"])
    structures = structures.copy()
    structures[0, 2:], structures[1, :2] = 0.0, 0.0
    theirs = (2.5 * flat).isel(z=slice(0, 2))  # their grid leaves the parotid out
    received = SimpleNamespace(theirs=lambda name: {"plan": theirs}, system="NIRS-mMKM", fractions=16)
    moment = stamp(50.0 * flat, "let_x_dose", ion="p", let_definition="charged")
    field = xr.Dataset({"dose": stamp(flat, "dose", ion="p"), "let_x_dose": moment}, attrs={"ions": "p"})
    one = {"metric": "Dmax", "op": "<=", "limit": 39.0, "unit": "Gy (RBE)", "kind": "clinical", "confidence": "retrieved"}
    asked = {  # system, organ, fractions: theirs, here, why not
        ("NIRS-mMKM", "Brainstem", 16.0): ("beyond the limit (40)", "–", "here: no open formula"),
        ("RBE-1.1", "Brainstem", 16.0): ("–", "within the limit (17.6)", "theirs: other dose system (RBE-1.1)"),
        ("NIRS-Kanai", "Brainstem", 16.0): ("–", "–", "theirs: other dose system (NIRS-Kanai); here: no open formula"),
        ("RBE-1.1", "Parotid", 16.0): ("–", "within the limit (17.6)", "theirs: other dose system (RBE-1.1)"),
        ("NIRS-mMKM", "Parotid", 16.0): ("–", "–", "theirs: no Parotid_L drawn; here: no open formula"),
        ("RBE-1.1", "Brainstem", 12.0): ("–", "–", "theirs: other dose system (RBE-1.1); here: other fractionation (12)"),
        ("RBE-1.1", "Rectum", 16.0): ("–", "–", "theirs: other dose system (RBE-1.1); here: no Rectum drawn"),
    }
    keys = ("system", "organ", "fractions")
    keys = ("system", "organ", "fractions")
    rows = pd.DataFrame([one | dict(zip(keys, k, strict=True)) for k in asked]).rename("row {}".format)
    for key, row in zip(asked, rows.index, strict=True):
        found = limits_received(rows.loc[[row]], received, [field], structures)
        assert tuple(found.iloc[0][["their dose", "recomputed here", "not compared"]]) == asked[key], key
    together = limits_received(rows, received, [field], structures).reset_index()
    assert len(together) == len(asked) and set(together["organ"]) == {"brain stem", "Parotid_L", "Rectum"}
    assert limits_received(rows.iloc[:0], received, [field], structures).empty
