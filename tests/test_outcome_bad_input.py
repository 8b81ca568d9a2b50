"""Input that no analysis can use ends in a sentence that names the column, the rows and what to do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ionrt import outcome
from ionrt.quantities import IonrtError

CURVES = {
    "kaplan_meier": lambda d, **k: outcome.kaplan_meier(d, "time", "event", **k),
    "at_risk": lambda d, **k: outcome.at_risk(d, "time", "event", **k),
    "logrank": lambda d, **k: outcome.logrank(d, "time", "event", "arm", **k),
    "rmst": lambda d, **k: outcome.rmst(d, "time", "event", tau=4, **k),
    "cumulative_incidence": lambda d, **k: outcome.cumulative_incidence(d, "time", "event", **k),
    "cox": lambda d, **k: outcome.cox(d, "x", "time", "event", **k),
    "ph_test": lambda d, **k: outcome.ph_test(d, "x", "time", "event", **k),
}
UNSTARTED = CURVES | {
    "gray_test": lambda d: outcome.gray_test(d, "time", "event", "arm"),
    "fine_gray": lambda d: outcome.fine_gray(d, "x", "time", "event"),
    "fit_actuarial_ntcp": lambda d: outcome.fit_actuarial_ntcp(d, "x", "time", "event"),
}


def good(n: int = 24) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    time = rng.integers(1, 9, n) + 8.0 * (np.arange(n) % 2 == 0)  # those without event are seen longer
    return pd.DataFrame(
        {"time": time, "event": np.arange(n) % 2, "arm": np.arange(n) // 3 % 2, "x": rng.normal(size=n), "start": time / 2}
    )


@pytest.mark.parametrize("name", UNSTARTED)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.drop(columns="event"), "column 'event' is not in the table; it has time"),
        (lambda d: d.assign(time=d.time.where(d.index != 3)), r"column 'time': 1 value \(row 3\) missing"),
        (lambda d: d.assign(time=d.time.where(d.index != 3, -2)), r"column 'time': 1 value \(row 3\) below 0"),
        (lambda d: d.assign(time=d.time.where(d.index != 3, np.inf)), r"column 'time': 1 value \(row 3\) not finite"),
        (lambda d: d.assign(time="soon"), "column 'time': expected numbers"),
        (lambda d: d.assign(event=d.event + 0.5), "not an event code"),
        (lambda d: d.iloc[:0], "no rows"),
        (lambda d: d.to_dict(), "expected a pandas DataFrame"),
    ],
)
def test_columns_are_checked_everywhere(name, spoil, message):
    UNSTARTED[name](good())
    with pytest.raises(IonrtError, match=message):
        UNSTARTED[name](spoil(good()))


@pytest.mark.parametrize("name", CURVES)
def test_intervals_of_length_zero_are_named(name):
    df = good().assign(start=lambda d: d.start.where(d.index != 2, d.time))
    with pytest.raises(IonrtError, match=r"\(row 2\) with start >= stop"):
        CURVES[name](df, start="start")


@pytest.mark.parametrize("name", ["kaplan_meier", "logrank", "rmst", "cox", "ph_test"])
def test_competing_codes_are_not_taken_for_events(name):
    with pytest.raises(IonrtError, match="with competing events use cumulative_incidence"):
        CURVES[name](good().assign(event=lambda d: d.event * 2))


REGRESSIONS = {"cox": CURVES["cox"], "fine_gray": UNSTARTED["fine_gray"], "ph_test": CURVES["ph_test"]}


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.assign(event=0), "no event"),
        (lambda d: d.assign(x=1.0), "'x' has the same value in every row"),
        (lambda d: d.assign(x="one centre"), "leaves no term"),
        (lambda d: d.assign(x=d.x.where(d.index != 5)), "missing"),
        (lambda d: d.assign(x=d.event * 1.0), "'x': the hazard ratio goes to infinity .complete separation"),
        (lambda d: d.assign(x=1.0 - d.event), "'x': the hazard ratio goes to zero .complete separation"),
    ],
)
def test_regressions_that_have_no_answer(name, spoil, message):
    with pytest.raises(IonrtError, match=message):
        REGRESSIONS[name](spoil(good()))


def test_one_event_and_a_perfect_predictor_of_it():
    df = good().assign(event=lambda d: (d.index == 4) * 1)
    assert np.isfinite(outcome.kaplan_meier(df, "time", "event", at=[3]).survival[0])
    assert outcome.logrank(df, "time", "event", "arm").p[0] > 0.05
    middle = df.assign(x=np.where(df.index == 4, np.median(df.x), df.x))
    fit = outcome.cox(middle, "x", "time", "event")
    assert np.isfinite(fit.se[0]) and fit.lower[0] < 1 < fit.upper[0]
    with pytest.raises(IonrtError, match="complete separation"):
        outcome.cox(df.assign(x=np.where(df.index == 4, 9.0, df.x)), "x", "time", "event")


def test_terms_that_cannot_be_told_apart():
    df = good().assign(y=lambda d: 3 - 2 * d.x)
    with pytest.raises(IonrtError, match="x, y are linearly dependent"):
        outcome.cox(df, "x + y", "time", "event")
    with pytest.raises(IonrtError, match="formula 'x \\+ nowhere'"):
        outcome.cox(df, "x + nowhere", "time", "event")


def test_all_at_the_same_time():
    df = good().assign(time=5.0)
    for ties in ("efron", "breslow"):
        assert np.isfinite(outcome.cox(df, "x", "time", "event", ties=ties).coef[0])
    assert outcome.kaplan_meier(df, "time", "event", at=[5]).survival[0] == pytest.approx(0.5)
    assert np.isfinite(outcome.gray_test(df.assign(event=np.arange(24) % 3), "time", "event", "arm").chi2).all()


def test_one_group_only():
    df = good().assign(arm="B")
    for call in (CURVES["logrank"], UNSTARTED["gray_test"]):
        with pytest.raises(IonrtError, match="at least two groups in 'arm', got only 'B'"):
            call(df)


def test_weights_and_levels_are_checked():
    df = good()
    with pytest.raises(IonrtError, match="all weights are zero"):
        outcome.cox(df.assign(w=0.0), "x", "time", "event", weights="w")
    with pytest.raises(IonrtError, match="below 0"):
        outcome.kaplan_meier(df.assign(w=-1.0), "time", "event", weights="w")
    with pytest.raises(IonrtError, match="between 0 and 1"):
        outcome.kaplan_meier(df, "time", "event", level=95)
    with pytest.raises(IonrtError, match="'exact' does not exist"):
        outcome.cox(df, "x", "time", "event", ties="exact")
    with pytest.raises(IonrtError, match="beyond the last follow-up"):
        outcome.rmst(df.assign(event=0), "time", "event", tau=500)
    with pytest.raises(IonrtError, match="no event of cause 3"):
        outcome.fine_gray(df, "x", "time", "event", cause=3)


def test_zero_weight_is_the_same_as_leaving_the_patient_out():
    df = good().assign(w=lambda d: (d.index != 7) * 1.0)
    kept = df[df.w > 0]
    a, b = outcome.cox(df, "x", "time", "event", weights="w"), outcome.cox(kept, "x", "time", "event", weights="w")
    np.testing.assert_allclose(a[["coef", "se"]], b[["coef", "se"]], rtol=1e-9)


SMALL = {
    "kaplan_meier": lambda d: outcome.kaplan_meier(d, "t", "e", by="g", weights="w", start="s"),
    "rmst": lambda d: outcome.rmst(d, "t", "e", by="g", tau=2, weights="w"),
    "logrank": lambda d: outcome.logrank(d, "t", "e", "g", strata="h", start="s", weights="tarone-ware"),
    "cumulative_incidence": lambda d: outcome.cumulative_incidence(d, "t", "c", by="g", start="s", weights="w"),
    "gray_test": lambda d: outcome.gray_test(d, "t", "c", "g"),
    "cox": lambda d: outcome.cox(d, "x + C(g)", "t", "e", start="s", weights="w", strata="h"),
    "cox in few clusters": lambda d: outcome.cox(d, "x * h", "t", "e", ties="breslow", cluster="g"),
    "ph_test": lambda d: outcome.ph_test(d, "x", "t", "e"),
    "fine_gray": lambda d: outcome.fine_gray(d, "x + h", "t", "c"),
    "fit_ntcp": lambda d: outcome.fit_ntcp(d, "x + h", "e"),
    "iptw": lambda d: outcome.overlap(d, "h", outcome.iptw(d, "h", "x + C(g)")),
}


@pytest.mark.parametrize("name", SMALL)
def test_tiny_tables_end_in_a_table_or_a_sentence(name):
    """Ties everywhere, empty groups, zero weights, covariates of any size: no warning, no other exception."""
    answered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 25))
        time = rng.integers(1, 6, n).astype(float)
        df = pd.DataFrame({"t": time, "c": rng.integers(0, 3, n), "g": rng.integers(0, 3, n), "h": rng.integers(0, 2, n)})
        df = df.assign(e=(df.c == 1) * 1, s=np.floor(time * rng.random(n) * 0.99), w=rng.integers(0, 3, n) * 0.5)
        df["x"] = np.round(rng.normal(size=n) * 10.0 ** rng.integers(-3, 4), 2)
        try:
            assert len(SMALL[name](df)) > 0
            answered += 1
        except IonrtError:
            continue
    assert answered >= 3


ANSWERS = {  # all censored, one event at day 4, everything at one time: a message, or what the result must be
    "kaplan_meier": ((lambda t: t.survival.eq(1).all()), (lambda t: t.survival.iloc[-1] < 1), (lambda t: len(t) == 2)),
    "at_risk": ((lambda t: t.events.eq(0).all()), (lambda t: set(t.events) == {0, 1}), (lambda t: t.at_risk.le(24).all())),
    "logrank": ("no event in any group", (lambda t: t.observed.sum() == 1), (lambda t: t.p.between(0, 1).all())),
    "rmst": ((lambda t: t.rmst[0] == 4 and t.se[0] == 0), (lambda t: t.rmst[0] <= 4), (lambda t: t.rmst[0] == 4)),
    "cumulative_incidence": (
        (lambda t: t.incidence.eq(0).all()), (lambda t: t.incidence.max() > 0), (lambda t: t.incidence.max() == 0.5),
    ),
    "cox": ("no event", (lambda t: t.se[0] > 1), (lambda t: np.isfinite(t.coef[0]))),
    "ph_test": ("no event", (lambda t: t.p.isna().all()), (lambda t: t.p.isna().all())),
    "gray_test": ("no event in any group", (lambda t: t.p[0] > 0.05), (lambda t: t.p.between(0, 1).all())),
    "fine_gray": ("no event of cause 1", (lambda t: t.se_model[0] > 1), (lambda t: np.isfinite(t.coef[0]))),
    "fit_actuarial_ntcp": ("got 0 events", "too few events", "too short"),
}  # fmt: skip
SPOILT = (lambda d: d.assign(event=0), lambda d: d.assign(event=(d.index == 4) * 1), lambda d: d.assign(time=5.0))


@pytest.mark.parametrize("name", UNSTARTED)
@pytest.mark.parametrize("which", range(3), ids=["all censored", "one event", "ties everywhere"])
def test_all_censored_one_event_and_ties_everywhere(name, which):
    answer = ANSWERS[name][which]
    if isinstance(answer, str):
        with pytest.raises(IonrtError, match=answer):
            UNSTARTED[name](SPOILT[which](good()))
    else:
        assert answer(UNSTARTED[name](SPOILT[which](good())))


@pytest.mark.parametrize("kind", ["object", "str", "category"])
@pytest.mark.parametrize("name", ["cox", "fine_gray", "fit_actuarial_ntcp", "ph_test"])
def test_a_covariate_that_is_missing_is_no_level_of_its_own(name, kind):
    df = good()
    df["x"] = pd.Series(np.where(df["x"] > 0, "high", "low"), dtype=object).where(np.arange(len(df)) != 3).astype(kind)
    with pytest.raises(IonrtError, match=r"formula 'x': 1 value \(row 3\) missing"):
        UNSTARTED[name](df)


def test_columns_of_a_formula_are_found_and_functions_are_not():
    df = good().rename(columns={"x": "gtv volume"}).assign(log=np.nan, size=1.0 + np.arange(24))
    found = outcome.cox(df, "np.log(size) + C(arm) + Q('gtv volume')", "time", "event")
    assert len(found) == 3
    df.loc[2, "gtv volume"] = np.nan
    with pytest.raises(IonrtError, match=r"1 value \(row 2\) missing"):
        outcome.cox(df, "Q('gtv volume')", "time", "event")


@pytest.mark.parametrize("written", ["a ", "A", " a"])
def test_one_level_written_in_two_ways_is_refused(written):
    df = good().assign(arm=[written, *["a", "b"] * 11, "a"])
    for use in (CURVES["logrank"], lambda d: outcome.cox(d, "arm", "time", "event"), UNSTARTED["gray_test"]):
        with pytest.raises(IonrtError, match="differ by space or capitals only"):
            use(df)


def test_codes_without_a_censored_row_are_said():
    """In R 1 is censored and 2 the event; here that is two competing events."""
    df = good().assign(event=[1, 2] * 12)
    for found in (
        outcome.cumulative_incidence(df, "time", "event"),
        outcome.gray_test(df, "time", "event", "arm"),
        outcome.fine_gray(df, "x", "time", "event"),
    ):
        assert "nobody is taken as censored" in found.attrs["assumed"]
    df.loc[0, "event"] = 0
    assert "assumed" not in outcome.cumulative_incidence(df, "time", "event").attrs
    with pytest.raises(IonrtError, match="say what counts as event"):
        outcome.kaplan_meier(df, "time", "event")


def test_a_risk_set_that_empties_before_others_enter_is_said():
    df = pd.DataFrame({"entry": [0.0, 0, 5, 5], "time": [1.0, 2, 6, 7], "event": [1, 1, 1, 0]})
    for use in (CURVES["kaplan_meier"], lambda d, **k: outcome.rmst(d, "time", "event", tau=6.5, **k)):
        assert "everybody at risk at 2 had the event, others enter later" in use(df, start="entry").attrs["assumed"]
        assert not use(df).attrs
    later = outcome.kaplan_meier(df[df["time"] > 2], "time", "event", start="entry")
    assert later["survival"].tolist() == [1.0, 0.5, 0.5]
