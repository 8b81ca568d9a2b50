"""What leaves the site: an outsider with the totals and a computer does not find a count below ten."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ionrt
from ionrt import cohort


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
    cohort.export_rows(alike, tmp_path / "out")
    assert (tmp_path / "out" / "patient.csv").exists()


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


def test_a_summary_is_json_without_small_counts_or_patients():
    tables = cohort.synthetic(500, 12)
    effects = pd.DataFrame(
        {"term": ["let_d_mean", "rare"], "estimate": [-0.03, 1.0], "se": [0.01, 0.5], "n": [701, 700], "events": [123, 4]}
    )
    made = cohort.summary(tables, site="centre_B", effects=effects)
    text = json.dumps(made)
    assert "SYN-" not in text and made["origin"] == "SYNTHETIC"
    assert min(counts_in(made)) >= 10
    assert [e["term"] for e in made["effects"]] == ["let_d_mean"] and made["effects"][0]["n"] == 700
    assert any("kidney" in note for note in made["notes"]) and any("rare" in note for note in made["notes"])
    assert not any(s["indication"] == "kidney" for s in made["survival"] + made["rates"])


def test_the_survival_of_a_summary_is_the_published_one():
    tables = cohort.synthetic(20000, 3, indication="sarcoma")
    pooled = cohort.combine([cohort.summary(tables, site="centre_B")])
    row = pooled.query("kind == 'survival' and endpoint == 'OS' and years == 5").iloc[0]
    assert row["lower"] < 0.52 < row["upper"] and row["upper"] - row["lower"] < 0.03


def one_effect(site, estimate, se, **labels):
    effects = pd.DataFrame([{"term": "x", "estimate": estimate, "se": se, "n": 200, "events": 100, **labels}])
    return cohort.summary(cohort.synthetic(20, 1, indication="lung"), site=site, effects=effects)


def test_meta_analysis_agrees_with_metafor(shared):
    reference = pd.read_csv(shared("reference/statistics/reference.csv")).query("case == 'D12'").set_index("quantity")
    trials = pd.read_csv(shared("data/statistics/bcg.csv"))
    sites = [one_effect(f"trial {i}", y, v**0.5) for i, (y, v) in enumerate(trials.to_numpy())]
    pooled = cohort.combine(sites).query("kind == 'effect'").iloc[0]
    for name, value in (("est", pooled["estimate"]), ("se", pooled["se"]), ("tau2", pooled["tau2"]), ("I2", pooled["i2"])):
        row = reference.loc[f"bcg DL {name}"]
        assert value == pytest.approx(row["value"], rel=row["rel_tol_suggested"]), name
    assert pooled["sites"] == 13


def test_meta_analysis_in_closed_form():
    pooled = cohort.combine([one_effect("a", 0.2, 0.1), one_effect("b", 0.2, 0.2)]).query("kind == 'effect'").iloc[0]
    assert pooled["tau2"] == 0 and pooled["i2"] == 0
    assert pooled["estimate"] == pytest.approx(0.2) and pooled["se"] == pytest.approx((100 + 25) ** -0.5)
    alone = cohort.combine([one_effect("a", 0.2, 0.1)]).query("kind == 'effect'").iloc[0]
    assert (alone["estimate"], alone["se"], alone["sites"]) == (0.2, 0.1, 1)


def test_combine_refuses_two_meanings():
    with pytest.raises(ionrt.IonrtError, match="rbe_model"):
        cohort.combine([one_effect("a", 0.2, 0.1, rbe_model="LEM_I"), one_effect("b", 0.2, 0.1, rbe_model="NIRS_MMKM")])
    clinical = one_effect("b", 0.2, 0.1) | {"origin": "clinical"}
    with pytest.raises(ionrt.IonrtError, match="SYNTHETIC"):
        cohort.combine([one_effect("a", 0.2, 0.1), clinical])
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
        one_effect("a", np.inf, 1.0)
