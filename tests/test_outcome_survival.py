"""Kaplan-Meier, log-rank, RMST, competing risks: properties, and statsmodels as a second opinion."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ionrt import outcome

TIED = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2), st.integers(0, 2)), min_size=12, max_size=60)


def frame(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["time", "code", "arm"])


@pytest.fixture(scope="module")
def cohort() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    n = 300
    arm = rng.integers(0, 3, n)
    late = rng.exponential(400 / (1 + 0.4 * arm))
    end = rng.uniform(50, 900, n)
    code = np.where(late < end, rng.choice([1, 2], n, p=[0.7, 0.3]), 0)
    time = np.ceil(np.minimum(late, end) / 15) * 15  # ties
    start = np.where(rng.random(n) < 0.4, np.floor(time * rng.uniform(0, 0.9, n)), 0.0)
    frame = pd.DataFrame({"time": time, "code": code, "event": (code == 1).astype(int), "arm": arm, "start": start})
    return frame.assign(centre=rng.choice(["A", "B"], n), unit=1.0)


def test_kaplan_meier_with_late_entry_agrees_with_statsmodels(cohort):
    from statsmodels.duration.survfunc import SurvfuncRight

    other = SurvfuncRight(cohort.time, cohort.event, entry=cohort.start)
    keep = (other.n_risk > other.n_events) & (other.surv_prob > 0)
    mine = outcome.kaplan_meier(cohort, "time", "event", at=other.surv_times[keep], start="start")
    np.testing.assert_allclose(mine.survival, other.surv_prob[keep], rtol=1e-12)
    np.testing.assert_allclose(mine.se, other.surv_prob_se[keep], rtol=1e-12)
    np.testing.assert_array_equal(mine.at_risk, other.n_risk[keep])


def test_logrank_agrees_with_statsmodels(cohort):
    from statsmodels.duration.survfunc import survdiff

    names = {"logrank": {}, "gehan-breslow": {"weight_type": "gb"}, "tarone-ware": {"weight_type": "tw"}}
    for weights, other in names.items():
        for strata in (None, "centre"):
            mine = outcome.logrank(cohort, "time", "event", "arm", strata=strata, weights=weights)
            chi2, p = survdiff(cohort.time, cohort.event, cohort.arm, strata=None if strata is None else cohort.centre, **other)
            assert (mine.chi2[0], mine.p[0]) == pytest.approx((chi2, p), rel=1e-9)
    late = outcome.logrank(cohort, "time", "event", "arm", start="start")
    assert late.chi2[0] == pytest.approx(survdiff(cohort.time, cohort.event, cohort.arm, entry=cohort.start)[0], rel=1e-9)


def test_fleming_harrington_contains_the_others(cohort):
    def chi2(**kwargs):
        return outcome.logrank(cohort, "time", "event", "arm", **kwargs).chi2[0]

    assert chi2(weights="fleming-harrington", rho=0) == pytest.approx(chi2(), rel=1e-12)
    assert chi2(weights="fleming-harrington", rho=1) == pytest.approx(chi2(weights="peto-peto"), rel=1e-12)


def test_incidence_and_its_error_agree_with_statsmodels(cohort):
    from statsmodels.duration.survfunc import CumIncidenceRight

    other = CumIncidenceRight(cohort.time, cohort.code)
    mine = outcome.cumulative_incidence(cohort, "time", "code", at=other.times)
    for cause in (1, 2):
        curve = mine[mine.cause == cause]
        np.testing.assert_allclose(curve.incidence, other.cinc[cause - 1], rtol=1e-12)
        ok = np.isfinite(other.cinc_se[cause - 1])
        np.testing.assert_allclose(curve.se[ok], other.cinc_se[cause - 1][ok], rtol=1e-7, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(TIED)
def test_incidences_and_event_free_survival_add_up_to_one(rows):
    table = outcome.cumulative_incidence(frame(rows), "time", "code", by="arm", causes=(1, 2))
    total = table.groupby(["stratum", "time"]).agg(i=("incidence", "sum"), s=("event_free", "first"))
    np.testing.assert_allclose(total.i + total.s, 1.0, rtol=1e-12)
    assert (table.se >= 0).all()


@settings(max_examples=60, deadline=None)
@given(TIED)
def test_kaplan_meier_counts_every_patient_once(rows):
    table = outcome.kaplan_meier(frame(rows).assign(event=lambda d: (d.code == 1) * 1), "time", "event", by="arm")
    for _, curve in table.groupby("stratum"):
        assert curve.events.sum() + curve.censored.sum() == curve.n.iloc[0]
        assert curve.survival.is_monotonic_decreasing and curve.survival.iloc[0] == 1.0
        assert (curve.at_risk.diff().dropna() == -(curve.events + curve.censored).shift().dropna()).all()
        inside = curve.lower.notna()
        assert (curve.lower[inside] <= curve.survival[inside]).all() and (curve.survival[inside] <= curve.upper[inside]).all()


def test_without_censoring_survival_is_the_share_alive_and_rmst_the_mean():
    rng = np.random.default_rng(1)
    df = pd.DataFrame({"time": rng.integers(1, 50, 200).astype(float), "event": 1})
    for t in (5, 20, 40):
        alive = (df.time > t).mean()
        row = outcome.kaplan_meier(df, "time", "event", at=[t]).iloc[0]
        assert row.survival == pytest.approx(alive, abs=1e-12)
        assert row.se == pytest.approx(np.sqrt(alive * (1 - alive) / 200), rel=1e-9)
    row = outcome.rmst(df, "time", "event", tau=30).iloc[0]
    assert row.rmst == pytest.approx(df.time.clip(upper=30).mean(), rel=1e-12)
    assert row.se == pytest.approx(df.time.clip(upper=30).std(ddof=0) / np.sqrt(200), rel=1e-9)


def test_one_cause_only_is_one_minus_kaplan_meier(cohort):
    at = [100, 300, 600]
    km = outcome.kaplan_meier(cohort, "time", "event", by="arm", at=at, start="start")
    cif = outcome.cumulative_incidence(cohort, "time", "event", by="arm", at=at, start="start")
    np.testing.assert_allclose(cif.incidence, 1 - km.survival, rtol=1e-12)
    np.testing.assert_allclose(cif.se, km.se, rtol=1e-6)


@pytest.mark.parametrize("function", [outcome.kaplan_meier, outcome.cumulative_incidence])
def test_unit_weights_change_nothing_and_whole_weights_are_copies(cohort, function):
    at = [60, 200, 500]
    plain = function(cohort, "time", "event", at=at)
    pd.testing.assert_frame_equal(function(cohort, "time", "event", at=at, weights="unit"), plain, check_dtype=False)
    twice = pd.concat([cohort, cohort[cohort.arm == 1]])
    weighted = function(cohort.assign(w=1.0 + (cohort.arm == 1)), "time", "event", at=at, weights="w")
    estimate = "survival" if "survival" in plain else "incidence"
    np.testing.assert_allclose(weighted[estimate], function(twice, "time", "event", at=at)[estimate], rtol=1e-12)


def test_standard_errors_of_weighted_curves_do_not_depend_on_the_unit_of_the_weights(cohort):
    one, hundred = (
        outcome.kaplan_meier(cohort.assign(w=s * (1.0 + cohort.arm)), "time", "event", at=[200], weights="w").se[0]
        for s in (1, 100)
    )
    assert one == pytest.approx(hundred, rel=1e-12)


def test_numbers_at_risk_are_those_before_the_time(cohort):
    table = outcome.at_risk(cohort, "time", "code", by="arm", at=[0, 60, 300])
    for row in table.itertuples():
        mine = cohort[cohort.arm == row.stratum]
        assert row.at_risk == (mine.time >= row.time).sum()
        assert row.events == ((mine.time <= row.time) & (mine.code > 0)).sum()
        assert row.at_risk + row.events + row.censored == len(mine) + (mine.time == row.time).sum()
    assert len(outcome.at_risk(cohort, "time", "event")) in (5, 6)


def test_gray_against_its_permutation_distribution():
    """The chi-squared p value of one data set against relabelled groups; nothing of the formula is repeated."""
    rng = np.random.default_rng(11)
    n = 120
    df = pd.DataFrame(
        {"time": rng.exponential(1, n), "code": rng.choice([0, 1, 2], n, p=[0.3, 0.4, 0.3]), "arm": np.arange(n) % 2}
    )
    df["time"] *= np.where((df.arm == 1) & (df.code == 1), 0.75, 1.0)
    observed = outcome.gray_test(df, "time", "code", "arm").iloc[0]
    shuffled = [outcome.gray_test(df.assign(arm=rng.permutation(df.arm)), "time", "code", "arm").chi2[0] for _ in range(400)]
    share = np.mean(np.array(shuffled) >= observed.chi2)
    assert share == pytest.approx(observed.p, abs=3 * np.sqrt(max(observed.p * (1 - observed.p), 0.01) / 400) + 0.01)


def test_grays_score_without_competing_events_is_the_logrank_score(cohort):
    from ionrt.outcome.columns import survival_columns
    from ionrt.outcome.competing import _gray_score

    score, variance = _gray_score(survival_columns(cohort, "time", "event", by="arm"), 1, 0.0)
    logrank = outcome.logrank(cohort, "time", "event", "arm")
    np.testing.assert_allclose(score, logrank.observed - logrank.expected, rtol=1e-10)
    np.testing.assert_allclose(variance.sum(axis=0), 0, atol=1e-10)
    assert (np.linalg.eigvalsh(variance)[1:] > 0).all()


def test_all_censored_is_defined():
    df = pd.DataFrame({"time": [3.0, 5.0, 8.0], "event": 0})
    km = outcome.kaplan_meier(df, "time", "event", at=[4, 8, 9])
    assert list(km.survival[:2]) == [1.0, 1.0] and np.isnan(km.survival[2]) and km["median"].isna().all()
    assert outcome.cumulative_incidence(df, "time", "event", at=[4]).incidence[0] == 0.0
    assert outcome.rmst(df, "time", "event", tau=6).loc[0, ["rmst", "se"]].tolist() == [6.0, 0.0]


def test_everybody_fails_at_once():
    df = pd.DataFrame({"time": 4.0, "event": 1, "arm": [0, 0, 1, 1]})
    km = outcome.kaplan_meier(df, "time", "event", by="arm", at=[3, 4, 10])
    assert km.survival.tolist() == [1, 0, 0] * 2 and km["median"].eq(4).all()
    assert outcome.rmst(df, "time", "event", tau=10).rmst[0] == 4.0
    test = outcome.logrank(df, "time", "event", "arm")
    assert test.df[0] == 0 and np.isnan(test.chi2[0])
