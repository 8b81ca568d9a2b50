"""Toxicity, weighting, imputation and meta-analysis."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ionrt import outcome
from ionrt.outcome.toxicity import actuarial_toxicity, crude_rate
from ionrt.quantities import IonrtError

PATIENTS = pd.DataFrame(
    {"pid": list("abcdef"), "last_day": [800, 60, 700, 500, 900, 100], "dead": [0, 1, 0, 1, 0, 0], "arm": list("xxxyyy")}
)
TOXICITY = pd.DataFrame(
    [
        ("a", "proctitis", 2, 300, 400),
        ("a", "proctitis", 3, 420, None),
        ("b", "dermatitis", 3, 20, None),  # acute, still open at the early death
        ("c", "dermatitis", 2, 30, 60),  # acute and over
        ("d", "cystitis", 2, 40, 200),  # began early, late from day 90
        ("e", "cystitis", 1, 500, 600),
    ],
    columns=["pid", "term", "grade", "day_from", "day_to"],
).assign(scale="CTCAE5")


def test_worst_grade_counts_patients_without_an_entry():
    worst = outcome.worst_grade(TOXICITY, PATIENTS)
    assert worst.grade.tolist() == [3, 3, 2, 2, 1, 0]
    by_term = outcome.worst_grade(TOXICITY, PATIENTS, by="term")
    assert len(by_term) == 18 and by_term.grade.sum() == 3 + 3 + 2 + 2 + 1
    assert outcome.worst_grade(TOXICITY.iloc[:0], PATIENTS).grade.eq(0).all()
    rates = crude_rate(by_term, grade=2, by="term").set_index("stratum")
    assert rates.events.to_dict() == {"cystitis": 1, "dermatitis": 2, "proctitis": 1} and rates.n.eq(6).all()


def test_late_toxicity_begins_where_it_is_late():
    times = outcome.toxicity_times(TOXICITY, PATIENTS, grade=2).set_index("pid")
    assert times.time.to_dict() == {"a": 300, "b": 60, "c": 700, "d": 90, "e": 900, "f": 100}
    assert times.code.to_dict() == {"a": 1, "b": 2, "c": 0, "d": 1, "e": 0, "f": 0}
    early = outcome.toxicity_times(TOXICITY, PATIENTS, grade=2, late_from=0).set_index("pid")
    assert early.code.to_dict() == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 0, "f": 0} and early.time["c"] == 30


def test_actuarial_toxicity_by_hand():
    # day 60: one death of six; day 90: one event of five; day 300: one event of three
    table = actuarial_toxicity(TOXICITY, PATIENTS, grade=2, at=[89, 95, 400])
    assert table.incidence.tolist() == pytest.approx([0, 5 / 6 / 5, 5 / 6 / 5 + 4 / 6 / 3])
    nobody = actuarial_toxicity(TOXICITY.iloc[:0], PATIENTS, grade=2, at=[400], by="arm")
    assert nobody.incidence.eq(0).all() and len(nobody) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: outcome.worst_grade(TOXICITY.assign(scale=["CTCAE4"] + ["CTCAE5"] * 5), PATIENTS),
            "scales CTCAE4, CTCAE5 are mixed",
        ),
        (lambda: outcome.worst_grade(TOXICITY, PATIENTS.iloc[:3]), "not among the patients"),
        (lambda: outcome.worst_grade(TOXICITY, pd.concat([PATIENTS, PATIENTS])), "more than one row"),
        (lambda: outcome.worst_grade(TOXICITY.assign(grade=7), PATIENTS), "expected 0..5"),
        (lambda: crude_rate(outcome.worst_grade(TOXICITY, PATIENTS), grade=9), "grade: expected"),
        (
            lambda: outcome.toxicity_times(TOXICITY, PATIENTS.assign(dead=2), grade=2),
            "column 'dead': codes",
        ),
        (
            lambda: outcome.toxicity_times(TOXICITY, PATIENTS.assign(last_day=200), grade=2),
            "after the last follow-up of patient 'a'",
        ),
        (lambda: outcome.binomial_ci(5, 4), "0 <= events <= n"),
    ],
)
def test_inconsistent_toxicity_is_named(call, message):
    with pytest.raises(IonrtError, match=message):
        call()


@pytest.mark.parametrize(("method", "least"), [("clopper-pearson", 0.95), ("wilson", 0.90)])
def test_intervals_cover(method, least):
    """Exact coverage by summing the binomial distribution: never below 95 % for Clopper-Pearson."""
    n = 40
    table = outcome.binomial_ci(range(n + 1), [n] * (n + 1), method=method)
    for p in (0.05, 0.2, 0.5, 0.77):
        held = ((table.lower <= p) & (p <= table.upper)).to_numpy()
        assert stats.binom.pmf(np.arange(n + 1), n, p)[held].sum() >= least


def confounded(n: int, seed: int = 1) -> pd.DataFrame:
    """SYNTHETIC: the sicker are treated more often; the treatment multiplies the hazard by 0.6."""
    rng = np.random.default_rng(seed)
    volume, ecog = rng.normal(size=n), rng.choice(["0", "1", "2"], n)
    treated = (rng.random(n) < 1 / (1 + np.exp(-(0.8 * volume + 0.7 * (ecog == "2"))))).astype(int)
    failure = rng.exponential(np.exp(-(0.8 * volume + np.log(0.6) * treated + 0.7 * (ecog == "2"))))
    end = rng.uniform(0.5, 4, n)
    df = pd.DataFrame({"time": np.minimum(failure, end), "event": (failure <= end).astype(int), "treated": treated})
    return df.assign(volume=volume, ecog=ecog)


@pytest.mark.parametrize("estimand", ["ATE", "ATT", "ATO"])
def test_weights_balance_the_arms(estimand):
    df = confounded(3000)
    scores = outcome.iptw(df, "treated", "volume + ecog", estimand=estimand)
    table = outcome.balance(df.assign(w=scores.weight), "treated", "volume + ecog", weights="w")
    assert table.smd_before.abs().max() > 0.5
    assert table.smd_after.abs().max() < (1e-6 if estimand == "ATO" else 0.08)  # overlap weights balance exactly
    arms = outcome.overlap(df, "treated", scores)
    assert (arms.effective_n <= arms.n + 1e-9).all() and arms.n.sum() == 3000
    if estimand == "ATT":
        assert arms.effective_n[1] == pytest.approx(arms.n[1])
    if estimand == "ATE":
        assert scores.weight.mean() == pytest.approx(1, abs=0.05)


def test_weighted_survival_removes_confounding():
    df = confounded(4000)
    scores = outcome.iptw(df, "treated", "volume + ecog")
    crude = outcome.rmst(df, "time", "event", by="treated", tau=2).difference[1]
    weighted = outcome.rmst(df.assign(w=scores.weight), "time", "event", by="treated", weights="w", tau=2).difference[1]
    assert crude < 0 < weighted  # the harm of the crude comparison is the sicker patients'


def test_propensity_is_logistic_regression():
    import statsmodels.genmod.api as sm

    df = confounded(400)
    x = np.column_stack([np.ones(400), df.volume])
    other = sm.GLM(df.treated, x, family=sm.families.Binomial()).fit(tol=1e-12).fittedvalues
    np.testing.assert_allclose(outcome.iptw(df, "treated", "volume").propensity, other, rtol=1e-7)


def test_weighting_refuses_what_cannot_be_weighted():
    df = confounded(60)
    with pytest.raises(IonrtError, match="both arms"):
        outcome.iptw(df.assign(treated=1), "treated", "volume")
    with pytest.raises(IonrtError, match="complete separation"):
        outcome.iptw(df.assign(treated=(df.volume > 0) * 1), "treated", "volume")
    with pytest.raises(IonrtError, match="expected 0 or 1"):
        outcome.iptw(df.assign(treated=df.volume), "treated", "ecog")


def test_imputation_is_reproducible_and_pooling_recovers_the_slope():
    rng = np.random.default_rng(5)
    df = confounded(400, 5).assign(cum=lambda d: d.time)
    holes = df.assign(volume=df.volume.where(rng.random(400) > 0.3), ecog=df.ecog.replace("2", "1"))
    holes["ecog"] = holes.ecog.where(rng.random(400) > 0.2)
    fill = {"predictors": ["time", "event", "treated"], "m": 4, "burn_in": 2, "seed": 3}
    tables = outcome.impute(holes, ["volume", "ecog"], **fill)
    again = outcome.impute(holes, ["volume", "ecog"], **fill)
    for a, b in zip(tables, again, strict=True):
        pd.testing.assert_frame_equal(a, b)
        assert a.volume.notna().all() and set(a.ecog) == {"0", "1"}
        known = holes.volume.notna()
        assert (a.volume[known] == holes.volume[known]).all()
    fits = [outcome.cox(t, "volume + treated", "time", "event") for t in tables]
    pooled = outcome.pool_imputations(fits, complete_df=df.event.sum() - 2)
    full = outcome.cox(df, "volume + treated", "time", "event")
    assert abs(pooled.coef[0] - full.coef[0]) < 3 * pooled.se[0] and (pooled.fmi > 0).all()
    assert (pooled.se > np.sqrt(pooled.within)).all()


def test_identical_imputations_add_no_variance():
    fit = pd.DataFrame({"term": ["x"], "coef": [0.4], "se": [0.2]})
    row = outcome.pool_imputations([fit, fit, fit]).iloc[0]
    assert (row.se, row.lower) == pytest.approx((0.2, 0.4 - 1.959964 * 0.2), rel=1e-6)


@pytest.mark.parametrize(("method", "other"), [("DL", "dl"), ("FE", None)])
def test_meta_analysis_agrees_with_statsmodels(method, other):
    from statsmodels.stats.meta_analysis import combine_effects

    sites = pd.DataFrame({"estimate": [0.1, 0.5, -0.2, 0.9], "se": [0.2, 0.1, 0.3, 0.25]})
    row = outcome.meta_analysis(sites, method=method).iloc[0]
    theirs = combine_effects(sites.estimate.to_numpy(), sites.se.to_numpy() ** 2, method_re=other or "dl")
    if other:
        assert (row.estimate, row.tau2) == pytest.approx((theirs.mean_effect_re, theirs.tau2), rel=1e-9)
        hk = outcome.meta_analysis(sites, method=method, knapp_hartung=True).se[0]
        assert hk == pytest.approx(theirs.sd_eff_w_re_hksj, rel=1e-9)
    else:
        assert (row.estimate, row.se) == pytest.approx((theirs.mean_effect_fe, theirs.sd_eff_w_fe), rel=1e-9)


def test_sites_that_agree_have_no_variance_between_them():
    row = outcome.meta_analysis(pd.DataFrame({"estimate": [0.3, 0.3, 0.3], "se": [0.1, 0.2, 0.3]})).iloc[0]
    assert row.tau2 == 0 and row.i2 == 0 and row.estimate == pytest.approx(0.3) and row.q == pytest.approx(0)


def test_summaries_of_two_sites_give_nearly_the_pooled_fit():
    df = confounded(2000, 8).assign(site=np.arange(2000) % 2)
    sites = pd.concat([outcome.cox(part, "volume + treated", "time", "event") for _, part in df.groupby("site")])
    combined = outcome.meta_analysis(sites[sites.term == "treated"], "coef", "se", method="FE").iloc[0]
    together = outcome.cox(df, "volume + treated", "time", "event", strata="site").set_index("term")
    assert combined.estimate == pytest.approx(together.coef["treated"], abs=0.1 * combined.se)
