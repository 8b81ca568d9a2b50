"""Times are numbers in one unit; what is neither is refused by name, and rounding of a computation splits no tie."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ionrt import outcome, trial
from ionrt.quantities import IonrtError
from ionrt.trial.survival_design import event_probability

DAY = pd.Timedelta(1, "D")
CALLS = {
    "kaplan_meier": lambda d, t: outcome.kaplan_meier(d, t, "e"),
    "at_risk": lambda d, t: outcome.at_risk(d, t, "e"),
    "rmst": lambda d, t: outcome.rmst(d, t, "e", tau=200),
    "logrank": lambda d, t: outcome.logrank(d, t, "e", "g"),
    "cumulative_incidence": lambda d, t: outcome.cumulative_incidence(d, t, "e"),
    "gray_test": lambda d, t: outcome.gray_test(d, t, "e", "g"),
    "cox": lambda d, t: outcome.cox(d, "g", t, "e"),
    "late entry": lambda d, t: outcome.cox(d.assign(end=800.0), "g", "end", "e", start=t),
    "weights": lambda d, t: outcome.kaplan_meier(d, "days", "e", weights=t),
    "fine_gray": lambda d, t: outcome.fine_gray(d, "g", t, "e"),
    "fit_actuarial_ntcp": lambda d, t: outcome.fit_actuarial_ntcp(d, "g", t, "e"),
    "covariate": lambda d, t: outcome.cox(d, f"g + {t}", "follow", "e"),
    "dose response": lambda d, t: outcome.fit_ntcp(d, t, "e"),
}
KINDS = {
    "durations": lambda days: days * DAY,
    "dates": lambda days: pd.Timestamp("2020-01-01") + days * DAY,
    "durations of Python": lambda days: pd.Series([timedelta(float(v)) for v in days], dtype=object),
    "dates of Python": lambda days: pd.Series([date(2020, 1, 1) + timedelta(float(v)) for v in days], dtype=object),
    "periods": lambda days: (pd.Timestamp("2020-01-01") + days * DAY).dt.to_period("M"),
}


def patients() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    days = pd.Series(rng.integers(10, 700, 40).astype(float))
    follow = rng.permutation(days)
    return pd.DataFrame({"days": days, "follow": follow, "e": rng.integers(0, 2, 40), "g": np.arange(40) % 2})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_durations_and_dates_are_refused(name, kind):
    df = patients()
    CALLS[name](df, "days")
    if name in ("covariate", "dose response") and kind not in ("durations", "dates"):
        return  # a formula takes other objects for categories, each its own: it fails as such
    with pytest.raises(IonrtError, match=r"'when': expected numbers, got (durations|dates)"):
        CALLS[name](df.assign(when=KINDS[kind](df.days)), "when")


@pytest.mark.parametrize("kind", ["text", "complex", "categories of text"])
def test_text_and_complex_numbers_are_refused(kind):
    df = patients()
    when = {"text": df.days.astype(str), "complex": df.days + 1j, "categories of text": df.days.astype(str).astype("category")}
    with pytest.raises(IonrtError, match="'when': expected numbers"):
        outcome.kaplan_meier(df.assign(when=when[kind]), "when", "e")


@pytest.mark.parametrize("kind", ["Int64", "Float64", "float32", "category", "decimal", "object"])
def test_every_kind_of_number_is_taken(kind):
    df = patients()
    when = df.days.map(lambda v: Decimal(int(v))) if kind == "decimal" else df.days.astype(kind)
    seen = outcome.kaplan_meier(df.assign(when=when), "when", "e", at=[100, 300])
    pd.testing.assert_frame_equal(seen, outcome.kaplan_meier(df, "days", "e", at=[100, 300]))


@pytest.mark.parametrize("at", [[DAY], [np.timedelta64(5, "D")], [np.nan], [-1.0], ["5"], [np.inf]])
def test_moments_asked_for_are_checked(at):
    df = patients()
    for call in (
        lambda: outcome.kaplan_meier(df, "days", "e", at=at),
        lambda: outcome.at_risk(df, "days", "e", at=at),
        lambda: outcome.cumulative_incidence(df, "days", "e", at=at),
        lambda: outcome.rmst(df, "days", "e", tau=at[0]),
    ):
        with pytest.raises(IonrtError, match="at: expected"):
            call()


def test_end_of_an_episode_as_duration_is_refused():
    toxicity = pd.DataFrame({"pid": ["a"], "grade": [3], "scale": ["CTCAE5"], "day_from": [100], "day_to": [50 * DAY]})
    patients = pd.DataFrame({"pid": ["a"], "last_day": [900], "dead": [0]})
    with pytest.raises(IonrtError, match="'day_to': expected numbers, got durations"):
        outcome.toxicity_times(toxicity, patients, grade=2)


def test_near_ties_are_ties():
    """0.1 * 3 and 0.3: one event among five at risk, whichever way the number was computed and is asked for."""
    df = pd.DataFrame({"t": [0.1 * 3, 0.3, 0.3, 0.5, 0.6], "e": [1, 0, 0, 1, 0]})
    for asked in (0.3, 0.1 * 3, 0.3 * (1 + 1e-12)):
        row = outcome.kaplan_meier(df, "t", "e", at=[asked]).iloc[0]
        assert (row.at_risk, row.survival) == (5, pytest.approx(0.8))
        assert outcome.at_risk(df, "t", "e", at=[asked]).iloc[0].to_dict() | {"stratum": 0, "time": 0} == {
            "stratum": 0, "time": 0, "at_risk": 5, "events": 1, "censored": 2,
        }  # fmt: skip


def test_distinct_times_stay_distinct():
    df = pd.DataFrame({"t": [1.0, 1.0 + 1e-6, 2.0], "e": [1, 1, 0]})
    assert len(outcome.kaplan_meier(df, "t", "e")) == 4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.integers(0, 1)), min_size=6, max_size=30),
    st.floats(1e-6, 1e6),
    st.integers(0, 2**32 - 1),
)
def test_unit_and_rounding_change_nothing(rows, unit, seed):
    """Survival, incidence and log-rank of times in any unit, each off by the rounding of a few operations."""
    t, e, g = (np.array(column) for column in zip(*rows, strict=True))
    noise = 1 + np.random.default_rng(seed).uniform(-1e-14, 1e-14, len(t))
    whole = pd.DataFrame({"t": t.astype(float), "e": e.astype(int), "g": g})
    other = whole.assign(t=t * unit * noise)
    for call in (
        lambda d: outcome.kaplan_meier(d, "t", "e").survival,
        lambda d: outcome.cumulative_incidence(d, "t", "e").se,
        lambda d: outcome.logrank(d, "t", "e", "g").chi2 if d.e.any() and d.g.nunique() > 1 else d.e,
        lambda d: outcome.kaplan_meier(d.assign(s=d.t * 0.0), "t", "e", start="s").at_risk,
    ):
        np.testing.assert_allclose(call(other), call(whole), rtol=1e-12, atol=1e-12)


def test_boin_selects_levels_with_patients_only():
    design = trial.boin(0.3, levels=4)
    assert design.select([0, 2, 0, 0], [0, 6, 0, 0]) == 2
    assert design.select([0, 0, 1, 0], [0, 0, 3, 0]) == 3
    assert design.select([0, 0, 0, 0], [0, 0, 0, 0]) == 0
    assert design.select([0, 5, 0, 0], [0, 6, 0, 0]) == 0  # the only level tried is closed


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1)), min_size=2, max_size=6), st.floats(0.1, 0.5))
def test_boin_never_selects_an_untried_or_closed_level(rows, target):
    n = np.array([count for count, _ in rows])
    x = np.array([round(share * count) for count, share in rows])
    design = trial.boin(target, levels=len(rows))
    chosen = design.select(x, n)
    assert chosen == 0 or n[chosen - 1] > 0


@pytest.mark.parametrize(
    ("follow_up", "message"),
    [
        ([200, np.nan, 30], "follow_up: expected finite"),
        ([200, None, 30], "follow_up: expected finite"),
        ([200, -1, 30], "follow_up: expected times from 0 up"),
        ([200 * DAY, 10 * DAY, 30 * DAY], "follow_up: expected numbers, got durations"),
        (["200", "10", "30"], "follow_up: expected numbers"),
        ([200, 10], "one time per patient"),
    ],
)
def test_tite_crm_needs_every_follow_up(follow_up, message):
    design = trial.crm([0.05, 0.1, 0.2, 0.35], 0.2, window=180)
    with pytest.raises(IonrtError, match=message):
        design.fit([1, 1, 2], [0, 0, 0], follow_up=follow_up)


@pytest.mark.parametrize("level", [[1.7, 1], ["1", 2], [np.nan, 1], [0, 1], [4, 1]])
def test_crm_levels_are_whole(level):
    with pytest.raises(IonrtError, match="level"):
        trial.crm([0.05, 0.1, 0.2], 0.2).fit(level, [0, 0])


def test_crm_says_that_its_level_is_untried():
    fit = trial.crm([0.05, 0.1, 0.2], 0.2).fit([1, 1, 1], [0, 0, 0])
    assert fit.attrs["untried"]
    assert not trial.crm([0.05, 0.1, 0.2], 0.2).fit([1, 2, 3], [0, 0, 0]).attrs["untried"]


@pytest.mark.parametrize("counts", [([0.9, 0], [3, 0]), ([np.nan, 0], [3, 0]), ([-1, 0], [3, 0]), (["0", 0], [3, 0])])
def test_boin_counts_are_whole(counts):
    with pytest.raises(IonrtError, match="toxicities"):
        trial.boin(0.3, levels=2).next_level(1, *counts)


def test_three_plus_three_of_one_level():
    """3+3 at one level: passed with 0 of 3 or 1 of 6, then at most 1 of 6 to be recommended."""
    p = 0.2
    b = [(1 - p) ** 3, 3 * p * (1 - p) ** 2]
    table = trial.three_plus_three([p])
    assert table.selected[1] == pytest.approx(b[0] * (b[0] + b[1]) + b[1] * b[0])
    assert table.selected.sum() == pytest.approx(1)
    with pytest.raises(IonrtError, match="finite"):
        trial.three_plus_three([0.1, np.nan])


@pytest.mark.parametrize("time", [1e-12, 1e-9, 1e-6, 1e-3, 1.0, 5.0, 12.0, 40.0])
@pytest.mark.parametrize("dropout", [0.0, 0.02])
def test_event_probability_keeps_its_digits(time, dropout):
    """Against the integral over entry times; the closed form used to be negative below 1e-8."""
    from scipy import integrate

    c, a = 0.05 + dropout, min(time, 12.0)
    area = integrate.quad(lambda s: -np.expm1(-c * (time - s)), 0, a, epsabs=0, epsrel=1e-12)[0]
    seen = event_probability(time, hazard=0.05, accrual=12.0, dropout=dropout)
    assert seen == pytest.approx(0.05 / c * area / a, rel=1e-10)
