"""What leaves the site: an outsider with the totals and a computer does not find a count below ten."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import fuzz
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ionrt
from ionrt import cohort
from ionrt.cohort.exchange import select
from ionrt.cohort.register import safe_together


def every_solution(shown, rows, columns):
    """Every table of counts with the shown cells and the true totals, by enumeration: values each hidden cell can take."""
    values = shown.to_numpy(dtype="float64", na_value=np.nan)
    hidden = np.argwhere(np.isnan(values))
    seen = {tuple(cell): set() for cell in hidden}
    limit = [range(int(min(rows[r], columns[c])) + 1) for r, c in hidden[:-1]]
    for trial in product(*limit):
        table = values.copy()
        for (r, c), v in zip(hidden[:-1], trial, strict=True):
            table[r, c] = v
        r, c = hidden[-1]
        table[r, c] = rows[r] - np.nansum(np.delete(table[r], c))
        if table[r, c] >= 0 and (table.sum(axis=1) == rows).all() and (table.sum(axis=0) == columns).all():
            for cell in seen:
                seen[cell].add(table[cell])
    return seen


@pytest.mark.parametrize("counts", [[[1, 7], [4, 5]], [[3, 4, 1], [5, 3, 6]], [[0, 5], [4, 4], [3, 6]], [[1, 3, 3], [4, 3, 6]]])
def test_enumeration_of_all_tables_with_the_same_totals_leaves_a_wide_range(counts):
    df = pd.DataFrame(counts)
    shown = cohort.safe_table(df, 3)
    seen = every_solution(shown, df.sum(axis=1).to_numpy(), df.sum(axis=0).to_numpy())
    small = [tuple(cell) for cell in np.argwhere(df.to_numpy() < 3)]
    assert small
    for cell in small:
        assert cell in seen
        assert max(seen[cell]) - min(seen[cell]) >= 3


def solve_by_elimination(shown):
    """The oldest attack: a line with one hole gives the hole away."""
    table = shown.to_numpy(dtype="float64", na_value=np.nan).copy()
    found, again = {}, True
    while again:
        again = False
        for r, c in np.argwhere(np.isnan(table)):
            for line, at in ((table[r], c), (table[:, c], r)):
                if np.isnan(line).sum() == 1:
                    inner = np.nansum(line[:-1])
                    table[r, c] = inner if at == len(line) - 1 else line[-1] - inner
                    found[(int(r), int(c))], again = table[r, c], True
                    break
    return found


@given(
    st.integers(1, 4).flatmap(
        lambda r: st.integers(2, 4).flatmap(
            lambda c: st.lists(st.lists(st.integers(0, 60), min_size=c, max_size=c), min_size=r, max_size=r)
        )
    )
)
@settings(max_examples=25, deadline=None)
def test_nothing_shown_is_small_and_nothing_follows_by_subtraction(counts):
    df = pd.DataFrame(counts)
    with_totals = cohort.safe_table(df, totals=True)
    values = with_totals.to_numpy(dtype="float64", na_value=np.nan)
    assert not (values < 10).any()
    assert solve_by_elimination(with_totals) == {}
    # rank: in the homogeneous system of the hidden cells every small cell moves
    hidden = np.argwhere(np.isnan(values))
    if len(hidden):
        rows, columns = values.shape
        matrix = np.zeros((rows + columns, len(hidden)))
        for k, (r, c) in enumerate(hidden):
            matrix[r, k] = -1.0 if c == columns - 1 else 1.0
            matrix[rows + c, k] = -1.0 if r == rows - 1 else 1.0
        _, s, v = np.linalg.svd(matrix)
        null = v[np.sum(s > 1e-9) :]
        true = np.pad(df.to_numpy(), ((0, 1), (0, 1)))
        true[:, -1] = true.sum(axis=1)
        true[-1, :] = true.sum(axis=0)
        small = true[tuple(hidden.T)] < 10
        assert (np.abs(null[:, small]).max(axis=0, initial=0.0) > 1e-9).all()


def test_a_table_without_small_cells_is_untouched():
    df = pd.DataFrame({"F": [10, 30], "M": [25, 12]}, index=["C", "p"])
    shown = cohort.safe_table(df)
    assert (shown == df).all(axis=None) and shown.attrs["suppressed"] == 0


def test_totals_are_counted_again_and_small_totals_hidden():
    df = pd.DataFrame({"F": [3, 30, 33], "M": [4, 12, 16], "Total": [7, 42, 49]}, index=["kidney", "lung", "Total"])
    shown = cohort.safe_table(df, totals=True)
    assert shown.loc["kidney"].isna().all()
    assert shown.loc["lung", "Total"] is pd.NA and shown.loc["Total", "Total"] == 49
    assert list(cohort.safe_table(df).columns) == ["F", "M"]


def test_a_cohort_that_is_too_small_is_told_so():
    tables = cohort.synthetic(19, 1, indication="kidney")
    shown = cohort.safe_table(pd.crosstab(tables["patient"]["sex"], tables["patient"]["ecog"].fillna(-1)))
    assert shown.isna().all(axis=None)
    assert "too small" in shown.attrs["note"] and "n = 19" in shown.attrs["note"]
    tiny = cohort.safe_table(pd.DataFrame({"a": [2, 3]}))
    assert "n < 10" in tiny.attrs["note"] and "5" not in tiny.attrs["note"]


@pytest.mark.parametrize("cell", [-1, 2.5, np.nan, "many"])
def test_cells_that_are_no_counts(cell):
    with pytest.raises(ionrt.IonrtError, match=r"count|whole"):
        cohort.safe_table(pd.DataFrame({"a": pd.Series([cell, 12], dtype=object)}))


def test_safe_table_bad_arguments():
    with pytest.raises(ionrt.IonrtError, match="no cells"):
        cohort.safe_table(pd.DataFrame())
    with pytest.raises(ionrt.IonrtError, match="min_cell"):
        cohort.safe_table(pd.DataFrame({"a": [1]}), 0)


def exact_curve(day, event):
    """A Kaplan-Meier curve written for this test, one row per distinct time."""
    time = np.unique(np.append(0.0, day))
    risk = np.array([(day >= t).sum() for t in time])
    d = np.array([event[day == t].sum() for t in time])
    s = np.cumprod(1 - d / np.maximum(risk, 1))
    return pd.DataFrame({"time": time, "at_risk": risk, "events": d, "survival": s, "lower": s, "upper": s})


@pytest.fixture(scope="module")
def curve():
    rng = np.random.default_rng(3)
    time, censored = rng.exponential(3.0, 300), rng.uniform(1, 8, 300)
    return exact_curve(np.minimum(time, censored), (time <= censored).astype(int))


def test_safe_curve_points_are_the_estimate_at_round_times(curve):
    safe = cohort.safe_curve(curve, time_step=0.25, digits=6)
    assert (safe["time"] * 4 % 1 == 0).all()
    exact = [curve.loc[curve["time"] <= t, "survival"].iloc[-1] for t in safe["time"]]
    assert safe["survival"].to_numpy() == pytest.approx(exact, abs=1e-6)
    assert set(safe.columns) == {"time", "survival", "lower", "upper", "at_risk"}


def test_no_step_of_a_safe_curve_is_fewer_than_ten_events(curve):
    safe = cohort.safe_curve(curve, time_step=0.1, digits=8)
    between = [
        curve.loc[(curve["time"] > a) & (curve["time"] <= b), "events"].sum()
        for a, b in zip(safe["time"], safe["time"][1:], strict=False)
    ]
    assert min(between) >= 10 and len(between) > 5
    last = safe["time"].iloc[-1]
    assert curve.loc[curve["time"] > last, "at_risk"].iloc[0] >= 10
    assert curve.loc[curve["time"] > last + 0.1, "at_risk"].iloc[0] < 10  # and not cut earlier than needed
    assert (safe["at_risk"] % 10 == 0).all()


def test_a_curve_of_few_events_or_patients_is_not_drawn(curve):
    few = exact_curve(np.linspace(1, 5, 60), (np.arange(60) < 9).astype(int))
    small = exact_curve(np.linspace(1, 5, 9), np.ones(9, dtype=int))
    both = pd.concat([few.assign(stratum="few"), small.assign(stratum="small"), curve.assign(stratum="enough")])
    safe = cohort.safe_curve(both, time_step=0.5)
    assert set(safe["stratum"]) == {"enough"} and safe.attrs["not_shown"] == ["few", "small"]
    with pytest.raises(ionrt.IonrtError, match="at_risk"):
        cohort.safe_curve(curve.drop(columns="at_risk"), time_step=1)
    with pytest.raises(ionrt.IonrtError, match="time_step"):
        cohort.safe_curve(curve, time_step=0)


def test_all_censored_shows_no_curve():
    nobody = exact_curve(np.linspace(1, 5, 60), np.zeros(60, dtype=int))
    assert cohort.safe_curve(nobody, time_step=1).empty


def test_rows_are_exported_only_with_k_anonymity_and_consent(tmp_path):
    tables = cohort.synthetic(300, 9)
    small = cohort.k_anonymity(tables)
    assert (small["patients"] < 5).all() and len(small)
    with pytest.raises(ionrt.IonrtError, match="fewer than 5"):
        cohort.export_rows(tables, tmp_path / "out")
    alike = {name: table.copy() for name, table in tables.items()}
    alike["patient"] = alike["patient"].assign(indication="lung", age_band="70-79", sex="M", treat_centre="centre_B")
    alike["course"]["treat_year"] = 2020
    assert cohort.k_anonymity(alike).empty
    alike["patient"].loc[0, "consent_scope"] = "site"
    with pytest.raises(ionrt.IonrtError, match="consented"):
        cohort.export_rows(alike, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    alike["patient"].loc[0, "consent_scope"] = "exchange"
    alike["dose_metric"].loc[0, "structure"] = "Kim_left"
    with pytest.raises(ionrt.IonrtError, match=r"values of .* fewer than 5"):
        cohort.export_rows(alike, tmp_path / "out")
    alike["toxicity"]["term"], alike["dose_metric"]["structure"] = "Pain", "Lungs"
    alike["toxicity"] = alike["toxicity"].drop_duplicates(["pid", "day_from"])
    alike["patient"]["histology"], alike["patient"]["x_note"] = "call 02-1234-5678", "Mr K"
    cohort.export_rows(alike, tmp_path / "out")
    written = "".join(f.read_text() for f in (tmp_path / "out").glob("*.csv"))
    assert "call" not in written and "Mr K" not in written and "in 16 fr" not in written
    again = cohort.load(tmp_path / "out")
    assert again["patient"]["histology"].isna().all() and (again["course"]["rx_verbatim"] == "left out").all()
    assert again["course"]["gtv_volume"].nunique() < 30 < alike["course"]["gtv_volume"].nunique()
    assert set(again["event"]["cause"].dropna()) <= {"death", "cancer", "toxicity", "other"}
    cohort.export_rows(alike, tmp_path / "named", free_text=["patient.histology"])
    assert "call" in (tmp_path / "named" / "patient.csv").read_text()
    with pytest.raises(ionrt.IonrtError, match="no column patient"):
        cohort.export_rows(alike, tmp_path / "named", free_text=["patient.histologie"])


def counts_in(node):
    """Every number called n or events in a summary."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("n", "events") and value is not None:
                yield value
            yield from counts_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from counts_in(value)


def key_in(folder, number=0):
    """A site's key that is the same in every run of the tests."""
    (folder / "export.key").write_bytes(hashlib.sha256(b"of a test %d" % number).digest())
    return folder


def new_site(tables, number=0, **options):
    """The export of a site that has exported nothing yet."""
    with tempfile.TemporaryDirectory() as folder:
        return cohort.summary(tables, **{"site": "s", "register": key_in(Path(folder), number)} | options)


def test_a_summary_is_json_without_small_counts_or_patients(tmp_path):
    tables = cohort.synthetic(500, 12)
    effects = pd.DataFrame(
        {"term": ["let_d_mean", "rare"], "estimate": [-0.03, 1.0], "se": [0.01, 0.5], "n": [500, 500], "events": [123, 4]}
    )
    made = cohort.summary(tables, site="centre_B", effects=effects, register=key_in(tmp_path))
    text = json.dumps(made)
    assert "SYN-" not in text and made["origin"] == "SYNTHETIC"
    assert min(counts_in(made)) >= 10 and all(n % 10 == 0 for n in counts_in(made))
    assert [e["term"] for e in made["effects"]] == ["let_d_mean"]
    assert any("kidney" in note for note in made["notes"]) and any("rare" in note for note in made["notes"])
    assert not any(s["indication"] == "kidney" for s in made["survival"] + made["rates"])
    assert cohort.summary(tables, site="centre_B", effects=effects, register=tmp_path) == made  # nothing to average over
    assert new_site(tables, 2, site="centre_B", effects=effects) != made


def test_another_key_than_that_of_the_exports_is_refused(tmp_path):
    """It would hide the same patients behind new noise, and the mean of both exports is nearer to the truth."""
    tables = cohort.synthetic(60, 3, indication="lung")
    cohort.summary(tables, site="s", register=key_in(tmp_path))
    with pytest.raises(ionrt.IonrtError, match="not the one its exports were made with"):
        cohort.summary(tables, site="s", register=key_in(tmp_path, 1))


def test_what_is_there_tells_nobody(monkeypatch):
    """A value that one patient has alone (an indication, a dose system) leaves no trace by being listed."""
    tables = cohort.synthetic(120, 12, indication="lung")
    other = {name: table.copy() for name, table in tables.items()}
    other["patient"].loc[0, "indication"] = "chordoma"
    other["course"].loc[0, "rbe_model"] = "LEM_IV"
    a, b = (new_site(t) for t in (tables, other))
    assert [(r["indication"], r["sex"]) for r in a["patients"]] == [(r["indication"], r["sex"]) for r in b["patients"]]
    assert a["rbe_model"] == b["rbe_model"] == ["NIRS_MMKM"] and a["notes"] == b["notes"]


def test_patients_who_consented_to_their_site_only_do_not_leave_it():
    tables = cohort.synthetic(200, 5, indication="sarcoma")
    tables["patient"].loc[:99, "consent_scope"] = "site"
    made = new_site(tables)
    assert made["n"] <= 140 and made["consent"]["site"] is not None and made["consent"]["exchange"] is None
    tables["patient"]["consent_scope"] = "site"
    with pytest.raises(ionrt.IonrtError, match="consented"):
        new_site(tables)


def test_noise_averages_to_the_truth_and_is_in_the_standard_error():
    tables = cohort.synthetic(400, 3, indication="sarcoma")
    rows = cohort.endpoint_table(tables, "OS")
    true = np.log(rows["event"].sum() / rows["time"].sum())
    made = [new_site(tables, i) for i in range(40)]
    rate = np.array([next(r["log_rate"] for r in m["rates"] if r["endpoint"] == "OS") for m in made])
    se = np.array([next(r["se"] for r in m["rates"] if r["endpoint"] == "OS") for m in made])
    events = int(rows["event"].sum())
    assert abs(rate.mean() - true) < 3 * rate.std() / 40**0.5 + 0.5 * (6 / events) ** 2  # the logarithm of noise: second order
    assert np.median(se) ** 2 == pytest.approx(1 / events + rate.var(), rel=0.3)
    n = np.array([m["n"] for m in made])
    assert abs(n.mean() - 400) < 3 * n.std() / 40**0.5


def test_the_survival_of_a_summary_is_the_published_one():
    tables = cohort.synthetic(20000, 3, indication="sarcoma")
    pooled = cohort.combine([new_site(tables)])
    row = pooled.query("kind == 'survival' and endpoint == 'OS' and years == 5").iloc[0]
    assert row["lower"] < 0.52 < row["upper"] and row["upper"] - row["lower"] < 0.03


def rare_term(d):
    """An effect of a binary term whose standard error is that of `d` events among its few patients."""
    return pd.DataFrame([{"term": "rare", "estimate": 1.2, "se": (1 / d + 1 / 150) ** 0.5, "n": 500, "events": 150 + d}])


def test_a_rare_term_does_not_give_its_number_of_events():
    tables = cohort.synthetic(200, 12, indication="sarcoma")
    for d in (2, 5, 9):
        assert new_site(tables, effects=rare_term(d))["effects"] == []
    told = []
    for d in (30, 31):
        made = [new_site(tables, i, effects=rare_term(d))["effects"] for i in range(20)]
        told.append([1 / (e[0]["se"] ** 2) for e in made if e])
    spread = np.std(told[0])
    one = np.diff([1 / rare_term(d)["se"].iloc[0] ** 2 for d in (30, 31)])[0]  # what one event more adds
    assert spread > 2.5 * one and abs(np.mean(told[0]) - np.mean(told[1])) < spread


def test_a_continuous_term_of_little_information_may_be_said_to_be_one():
    tables = cohort.synthetic(500, 12)
    row = {"term": "log_gtv", "estimate": 0.4, "se": 0.35, "n": 500, "events": 60}
    assert new_site(tables, effects=pd.DataFrame([row]))["effects"] == []
    made = new_site(tables, effects=pd.DataFrame([row | {"smaller_group": np.nan}]))["effects"]
    assert made[0]["estimate"] == pytest.approx(0.4, abs=9 * 0.35 / 60**0.5)
    assert new_site(tables, effects=pd.DataFrame([row | {"smaller_group": 4}]))["effects"] == []


def one_patient_apart(tables, pid):
    """The cohort without a patient, with another record of the patient, with the patient elsewhere, and with a twin."""
    yield select(tables, set(tables["patient"]["pid"]) - {pid})
    changed = ("event", {"code": 1, "day": 400}), ("patient", {"indication": "lung", "sex": "other"})
    for table, changes in (*changed, ("patient", {"consent_scope": "site"})):
        other = {name: t.copy() for name, t in tables.items()}
        other[table].loc[other[table]["pid"].eq(pid), list(changes)] = list(changes.values())
        yield other
    for table in ("event", "course"):  # of a patient of whom no more is known yet
        yield tables | {table: tables[table][tables[table]["pid"].ne(pid)].reset_index(drop=True)}
    twin = select(tables, [pid])
    twin = {name: t.assign(**{c: "twin" for c in ("pid", "cid") if c in t}) for name, t in twin.items()}
    yield {name: pd.concat([t, twin[name]], ignore_index=True) for name, t in tables.items()}


@pytest.mark.filterwarnings("ignore:summary:UserWarning")
def test_what_is_one_patient_apart_has_the_same_answer(tmp_path):
    """Before, indication and sex followed in every try and the event in half of them. Over 200 patients: decision 0170."""
    tables = cohort.synthetic(500, 21)
    effects = pd.DataFrame([{"term": "x", "estimate": 0.4, "se": 0.1, "n": 500, "events": 150}])
    whole = cohort.summary(tables, site="s", effects=effects, register=tmp_path)
    renamed = {name: t.assign(**{c: "new " + t[c] for c in ("pid", "cid") if c in t}) for name, t in tables.items()}
    for pid in np.random.default_rng(2).choice(tables["patient"]["pid"], 6, replace=False):
        for other in one_patient_apart(tables, pid):
            again = cohort.summary(other, site="s", effects=effects.assign(estimate=0.39), register=tmp_path)
            assert again == whole
        less = select(renamed, set(renamed["patient"]["pid"]) - {"new " + pid})
        assert cohort.summary(less, site="s", horizons=[1.5, 4.0], register=tmp_path)["survival"] == whole["survival"]
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["0001.export", "export.key"]
    assert "SYN-" not in (tmp_path / "0001.export").read_bytes().decode("latin-1")


def rounded_fingerprints(patient, kept, register):
    """Of earlier versions: one patient without an event, or whose consent is the site's only, rounded the sums of all."""
    sums = {}
    for name, columns in (
        ("patient", ["indication", "sex", "consent_scope"]),
        ("event", ["endpoint", "day", "code"]),
        ("course", ["rbe_model", "let_definition"]),
    ):
        rows = (patient if name == "patient" else kept[name]).set_index("pid")[columns]
        rows = rows.astype({c: "float64" for c in columns if c in ("day", "code")}).astype("str")
        hashed = pd.util.hash_pandas_object(rows, index=False, hash_key=register.key.hex()[:16])
        sums[name] = hashed.groupby(level=0).sum()
    whole = pd.DataFrame(sums).reindex(patient["pid"]).fillna(0).astype("str")
    return pd.util.hash_pandas_object(whole, index=False, hash_key=register.key.hex()[:16]).map("{:016x}".format)


@pytest.mark.filterwarnings("ignore:summary:UserWarning")
@pytest.mark.parametrize("lacking", ["consent", "event", "course", "nothing"])
def test_a_register_of_an_earlier_version_still_knows_its_patients(tmp_path, monkeypatch, lacking):
    tables = cohort.synthetic(300, 4, indication="sarcoma")
    pid = tables["patient"]["pid"]
    if lacking == "consent":
        tables["patient"].loc[0, "consent_scope"] = "site"
    elif lacking != "nothing":
        tables[lacking] = tables[lacking][tables[lacking]["pid"].ne(pid[0])].reset_index(drop=True)
    with monkeypatch.context() as earlier:
        earlier.setattr("ionrt.cohort.federated._fingerprints", rounded_fingerprints)
        first = cohort.summary(tables, site="s", register=tmp_path)
    for known in (tables, select(tables, pid[1:]), select(tables, pid[:-2])):
        assert cohort.summary(known, site="s", register=tmp_path) == first
    assert len(list(tmp_path.glob("*.export"))) == 1


def test_enough_new_patients_give_new_numbers_and_few_of_an_indication_do_not(tmp_path):
    tables = cohort.synthetic(500, 21, indication="sarcoma")
    tables["patient"].loc[:99, "indication"] = "lung"
    pids = tables["patient"]["pid"].to_list()
    first = cohort.summary(select(tables, pids[5:400]), site="s", register=tmp_path)
    with pytest.warns(UserWarning, match="lung: as in export 1, since when fewer than 10"):
        second = cohort.summary(tables, site="s", register=tmp_path)
    assert second["exports"] == {"lung": 1, "sarcoma": 2} and first["exports"] == {"lung": 1, "sarcoma": 1}
    numbers = [[r for r in s["rates"] if r["indication"] == "lung"] for s in (first, second)]
    assert numbers[0] == numbers[1] and first["rates"] != second["rates"]


def test_three_exports_do_not_single_out_what_two_do_not(tmp_path):
    """All, a part, and the rest without one: any two differ by many."""
    tables = cohort.synthetic(300, 4, indication="sarcoma")
    pids = tables["patient"]["pid"].to_list()
    for kept in (pids, pids[:150]):
        cohort.summary(select(tables, kept), site="s", register=tmp_path)
    with pytest.warns(UserWarning, match="sarcoma: nothing is exported"):
        assert cohort.summary(select(tables, pids[151:]), site="s", register=tmp_path)["rates"] == []
    assert cohort.summary(select(tables, pids[150:]), site="s", register=tmp_path)["rates"]  # the rest itself tells nothing new


@given(st.lists(st.lists(st.integers(0, 11)), min_size=1, max_size=5), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_no_small_combination_of_groups_told_safe_rests_on_few(groups, fewest):
    """Against a search over all small whole-number combinations: who has a weight that is not 0."""
    if not safe_together(groups, fewest):
        return
    who = sorted(set().union(*groups))
    columns = np.array([[g.count(p) for g in groups] for p in who], dtype=int)
    for weights in product((-2, -1, 0, 1, 2), repeat=len(groups)):
        rests_on = np.count_nonzero(columns @ weights)
        assert rests_on == 0 or rests_on >= fewest


def test_two_processes_do_not_export_past_each_other(tmp_path):
    """Each alone would be a first export; one patient apart they must not both have numbers of their own."""
    code = """
import json, sys
from ionrt import cohort
from ionrt.cohort.exchange import select
from ionrt.cohort.register import safe_together
tables = cohort.synthetic(200, 5, indication="sarcoma")
pids = tables["patient"]["pid"][int(sys.argv[2]) :]
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(cohort.summary(select(tables, pids), site="s", register=sys.argv[1])))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "r"), str(i)], **pipes) for i in range(3)
    ]
    assert [p.stdout.readline() for p in both] == ["ready\n"] * 3
    for p in both:
        p.stdin.write("go\n")
        p.stdin.flush()
    told = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0, 0], told
    assert len({out for out, _ in told}) == 1
    assert sorted(f.name for f in (tmp_path / "r").iterdir()) == ["0001.export", "export.key"]


def test_a_register_with_a_gap_or_damage_stops_exports(tmp_path):
    tables = cohort.synthetic(200, 5, indication="sarcoma")
    pids = tables["patient"]["pid"]
    for kept in (pids[:100], pids[100:]):
        cohort.summary(select(tables, kept), site="s", register=tmp_path)
    with pytest.raises(ionrt.IonrtError, match="made with 10"):
        cohort.summary(tables, site="s", register=tmp_path, min_cell=5)
    first = tmp_path / "0001.export"
    content = first.read_bytes()
    first.write_bytes(content[:-1])
    with pytest.raises(ionrt.IonrtError, match=r"0001.export of the register of exports is damaged"):
        cohort.summary(tables, site="s", register=tmp_path)
    first.unlink()
    with pytest.raises(ionrt.IonrtError, match=r"0001.export of the register of exports is gone"):
        cohort.summary(tables, site="s", register=tmp_path)
    first.write_bytes(content)
    assert cohort.summary(tables, site="s", register=tmp_path)["rates"]
    (tmp_path / "export.key").unlink()
    with pytest.raises(ionrt.IonrtError, match=r"export.key of the register of exports is gone"):
        cohort.summary(tables, site="s", register=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ionrt.IonrtError, match="could not be written"):
        cohort.summary(tables, site="s", register=tmp_path / "file")


def test_no_effect_moves_by_one_patient_as_far_as_by_its_noise():
    """The second wall: who has two summaries without a register sees the patient's influence under sqrt(2) times this noise."""
    tables = cohort.synthetic(500, 21)
    rows = cohort.endpoint_table(tables, "OS").dropna(subset=["ecog"]).reset_index(drop=True)

    def fit(table):
        return ionrt.outcome.cox(table, "ecog", "time", "event", strata="indication").rename(columns={"coef": "estimate"})

    whole = fit(rows).assign(n=len(rows), events=int(rows["event"].sum()))
    who = np.random.default_rng(2).choice(len(rows), 25, replace=False)
    moved = np.array([fit(rows.drop(index=i))["estimate"][0] - whole["estimate"][0] for i in who])
    noisy = [new_site(tables, i, effects=whole)["effects"][0] for i in range(25)]
    noise = np.std([e["estimate"] for e in noisy])
    assert (
        np.abs(moved).mean() < 0.4 * noise and np.abs(moved).max() < 3 * noise
    )  # mean and largest influence; 1.5 se / sqrt(events)
    assert np.mean([e["se"] for e in noisy]) > whole["se"][0]


def effect_file(site, estimate, se, **labels):
    """A site's summary as it comes by mail: one effect, no noise."""
    effect = {"term": "x", "estimate": estimate, "se": se, "n": 200, "events": 100, **labels}
    made = {"format": "ionrt.cohort.summary/2", "site": site, "origin": "SYNTHETIC", "n": 200}
    return made | {"survival": [], "rates": [], "effects": [effect]}


def test_meta_analysis_agrees_with_metafor(shared):
    reference = pd.read_csv(shared("reference/statistics/reference.csv")).query("case == 'D12'").set_index("quantity")
    trials = pd.read_csv(shared("data/statistics/bcg.csv"))
    sites = [effect_file(f"trial {i}", y, v**0.5) for i, (y, v) in enumerate(trials.to_numpy())]
    pooled = cohort.combine(sites).query("kind == 'effect'").iloc[0]
    for name, value in (("est", pooled["estimate"]), ("se", pooled["se"]), ("tau2", pooled["tau2"]), ("I2", pooled["i2"])):
        row = reference.loc[f"bcg DL {name}"]
        assert value == pytest.approx(row["value"], rel=row["rel_tol_suggested"]), name
    assert pooled["sites"] == 13


def test_meta_analysis_in_closed_form(tmp_path):
    both = [effect_file("a", 0.2, 0.1), effect_file("b", 0.2, 0.2)]
    pooled = cohort.combine(both).query("kind == 'effect'").iloc[0]
    assert pooled["tau2"] == 0 and pooled["i2"] == 0
    assert pooled["estimate"] == pytest.approx(0.2) and pooled["se"] == pytest.approx((100 + 25) ** -0.5)
    alone = cohort.combine(both[:1]).query("kind == 'effect'").iloc[0]
    assert (alone["estimate"], alone["se"], alone["sites"]) == (0.2, 0.1, 1)
    for i, one in enumerate(both):
        (tmp_path / f"{i}.json").write_text(json.dumps(one), encoding="utf-8")
    pd.testing.assert_frame_equal(cohort.combine(sorted(tmp_path.glob("*.json"))), cohort.combine(both))


def test_the_pooled_hazard_ratio_is_within_five_percent_of_that_without_noise():
    worst = 0.0
    for seed in range(3):
        rows, made = [], []
        for k in range(3):
            tables = cohort.synthetic(350, 100 * seed + k)
            table = cohort.endpoint_table(tables, "OS").dropna(subset=["ecog"])
            fit = ionrt.outcome.cox(table, "ecog", "time", "event", strata="indication")
            effects = fit.rename(columns={"coef": "estimate"}).assign(n=len(table), events=int(table["event"].sum()))
            rows.append(effects)
            made.append(new_site(tables, 3 * seed + k, site=f"site {k}", effects=effects))
        without = ionrt.outcome.meta_analysis(pd.concat(rows), method="DL").iloc[0]
        pooled = cohort.combine(made).query("kind == 'effect'").iloc[0]
        worst = max(worst, abs(np.exp(pooled["estimate"] - without["estimate"]) - 1))
        assert pooled["sites"] == 3 and pooled["se"] < 1.3 * without["se"]
    assert worst < 0.05


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"effects": [{"term": "x", "estimate": float("nan"), "se": 0.1, "n": 20, "events": 10}]},
            "estimate: expected a number",
        ),
        ({"effects": [{"term": "x", "estimate": 0.1, "se": -0.1, "n": 20, "events": 10}]}, "se: expected a number"),
        ({"effects": [{"term": "x", "estimate": 0.1, "se": 0.1, "n": 20, "events": 30}]}, "more events than patients"),
        ({"effects": [{"term": "x", "estimate": 0.1, "se": 0.1, "n": 2000, "events": 30}]}, "more patients than the site"),
        ({"effects": [{"term": "x", "estimate": 0.1, "se": 0.1, "n": 20, "events": 3}] * 2}, "one result stands twice"),
        ({"effects": 5}, "expected a list"),
        ({"effects": [5]}, "expected an object"),
        ({"site": ""}, "expected text"),
        ({"origin": {}}, "origin"),
        ({"n": True}, "whole number"),
    ],
)
def test_summaries_that_are_none_name_site_and_field(change, words):
    with pytest.raises(ionrt.IonrtError, match=words):
        cohort.combine([effect_file("a", 0.2, 0.1) | change])


def test_one_site_counts_once():
    a = effect_file("a", 0.2, 0.1)
    with pytest.raises(ionrt.IonrtError, match="stands twice"):
        cohort.combine([a, effect_file(" A ", 0.3, 0.1)])
    with pytest.raises(ionrt.IonrtError, match="two names"):
        cohort.combine([a, a | {"site": "b"}])


def test_mutated_summaries_are_refused_or_finite(tmp_path):
    whole = json.loads(json.dumps([new_site(cohort.synthetic(300, i), i, site=f"s{i}") for i in range(2)]))
    for one in whole:
        one["effects"] = [{"term": "x", "estimate": 0.2, "se": 0.1, "n": 200, "events": 100, "rbe_model": "NIRS_MMKM"}]
        one["survival"], one["rates"], one["patients"] = one["survival"][:3], one["rates"][:3], one["patients"][:2]

    def attempt(rng):
        given = fuzz.mutate_tree(rng, whole)[0]
        if not rng.integers(3):  # as the files of two sites, one of them damaged
            given = [tmp_path / "a.json", tmp_path / "b.json"]
            given[0].write_text(json.dumps(whole[0]))
            given[1].write_bytes(fuzz.mutate_json(rng, json.dumps(whole[1]).encode()))
        pooled = cohort.combine(given)
        if (pooled["se"] <= 0).any():
            return "se not positive"
        return fuzz.complaint(pooled, nan=("years",))

    fuzz.hold(attempt, seeds=(1, 2, 3))


def test_the_key_is_made_once_and_kept_with_the_register(tmp_path, monkeypatch):
    tables = cohort.synthetic(60, 1, indication="lung")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name: str(tmp_path / "data" / name))
    one, two = (cohort.summary(tables, site="s") for _ in range(2))
    file = tmp_path / "data" / "ionrt" / "exports" / "export.key"
    assert one == two and file.stat().st_mode & 0o077 == 0 and file.parent.stat().st_mode & 0o077 == 0
    assert file.read_bytes().hex()[:16] not in json.dumps(one)
    file.write_bytes(b"")
    with pytest.raises(ionrt.IonrtError, match="damaged"):
        cohort.summary(tables, site="s")


def test_a_curve_of_everybody_does_not_give_the_hidden_stratum(curve):
    few = exact_curve(np.linspace(1, 5, 60), (np.arange(60) < 9).astype(int)).assign(stratum="few")
    large, middle = (
        curve.assign(stratum="large"),
        exact_curve(np.linspace(1, 5, 80), np.ones(80, dtype=int)).assign(stratum="middle"),
    )
    shown = cohort.safe_curve(pd.concat([few, large, middle]), time_step=0.5)
    assert set(shown["stratum"]) == {"large"} and shown.attrs["not_shown"] == ["few", "middle"]  # 89 events, 9 of them few's?
    assert cohort.safe_curve(pd.concat([few, large]), time_step=0.5).empty  # large and everybody would give few
    causes = pd.concat([large.assign(cause=1), few.assign(cause=1), large.assign(cause=2), middle.assign(cause=2)])
    assert set(cohort.safe_curve(causes, time_step=0.5)["cause"]) == {2}


def test_combine_refuses_two_meanings():
    with pytest.raises(ionrt.IonrtError, match="rbe_model"):
        cohort.combine([effect_file("a", 0.2, 0.1, rbe_model="LEM_I"), effect_file("b", 0.2, 0.1, rbe_model="NIRS_MMKM")])
    clinical = effect_file("b", 0.3, 0.1) | {"origin": "clinical"}
    with pytest.raises(ionrt.IonrtError, match="SYNTHETIC"):
        cohort.combine([effect_file("a", 0.2, 0.1), clinical])
    with pytest.raises(ionrt.IonrtError, match="at least one"):
        cohort.combine([])
    with pytest.raises(ionrt.IonrtError, match="format"):
        cohort.combine([{"format": "other"}])


def test_summary_refuses_what_it_cannot_protect_or_read():
    with pytest.raises(ionrt.IonrtError, match="fewer than 10"):
        cohort.summary(cohort.synthetic(9, 1), site="a")
    with pytest.raises(ionrt.IonrtError, match="columns estimate"):
        cohort.summary(cohort.synthetic(30, 1), site="a", effects=pd.DataFrame({"term": ["x"], "se": [1.0]}))
    with pytest.raises(ionrt.IonrtError, match="finite"):
        effects = pd.DataFrame([{"term": "x", "estimate": np.inf, "se": 1.0, "n": 20, "events": 10}])
        cohort.summary(cohort.synthetic(30, 1), site="a", effects=effects)
