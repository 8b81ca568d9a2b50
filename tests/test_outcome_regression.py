"""Cox, Fine-Gray and the test of proportional hazards: properties and second opinions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ionrt import outcome
from ionrt.outcome import hazards


def simulated(n: int = 250, seed: int = 7, *, ties: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, z, arm = rng.normal(size=n), rng.normal(50, 10, n), rng.integers(0, 2, n)
    failure = rng.exponential(np.exp(-0.5 * x + 0.02 * (z - 50) - 0.4 * arm))
    end = rng.exponential(1.5, n)
    time = np.minimum(failure, end)
    time = np.ceil(time * 20) / 20 if ties else time
    code = np.where(failure <= end, rng.choice([1, 2], n, p=[0.65, 0.35]), 0)
    df = pd.DataFrame({"time": time, "code": code, "event": (code == 1).astype(int), "x": x, "z": z, "arm": arm})
    return df.assign(
        start=np.where(arm == 1, time * 0.3, 0.0), centre=rng.choice(list("ABC"), n), w=rng.uniform(0.5, 2, n), unit=1.0
    )


def engine(df: pd.DataFrame, ties: str):
    x = df[["x", "arm"]].to_numpy(dtype=float)
    strata = pd.factorize(df.centre, sort=True)[0]
    sets = hazards.risk_sets(df.start.to_numpy(), df.time.to_numpy(), (df.event == 1).to_numpy(), strata)
    return x, sets, df.w.to_numpy(), ties


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_score_and_information_are_derivatives_of_the_likelihood(ties):
    x, sets, w, ties = engine(simulated(), ties)
    beta, step = np.array([0.3, -0.2]), 1e-5
    here = hazards.sweep(x, beta, w, sets, ties)
    for j, e in enumerate(np.eye(2) * step):
        up, down = hazards.sweep(x, beta + e, w, sets, ties), hazards.sweep(x, beta - e, w, sets, ties)
        assert (up.loglik - down.loglik) / (2 * step) == pytest.approx(here.score[j], rel=1e-7)
        np.testing.assert_allclose(-(up.score - down.score) / (2 * step), here.information[j], rtol=1e-7)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_score_residuals_add_up_to_the_score(ties):
    x, sets, w, ties = engine(simulated(), ties)
    beta = np.array([0.3, -0.2])
    swept = hazards.sweep(x - np.average(x, axis=0, weights=w), beta, w, sets, ties)
    residuals = hazards.score_residuals(x, beta, w, sets, swept)
    np.testing.assert_allclose(residuals.sum(axis=0), hazards.sweep(x, beta, w, sets, ties).score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_robust_error_adds_up_the_influence_of_each_patient(ties):
    """The influence is the derivative of the estimate in the patient's weight, here by finite differences."""
    df = simulated(50, ties=ties == "breslow")
    step, influence = 1e-4, []
    for i in range(len(df)):
        w = np.ones((len(df), 2))
        w[i] += [step, -step]
        up, down = (outcome.cox(df.assign(w=w[:, k]), "x + arm", "time", "event", weights="w", ties=ties).coef for k in (0, 1))
        influence.append((up - down) / (2 * step))
    fit = outcome.cox(df, "x + arm", "time", "event", ties=ties)
    np.testing.assert_allclose(fit.se_robust, np.sqrt(np.sum(np.square(influence), axis=0)), rtol=1e-6)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_agrees_with_statsmodels_where_it_is_right(ties):
    from statsmodels.duration.hazard_regression import PHReg

    df = simulated()
    other = PHReg(df.time, df[["x", "z", "arm"]], status=df.event, strata=df.centre, ties=ties).fit(disp=0)
    mine = outcome.cox(df, "x + z + arm", "time", "event", strata="centre", ties=ties)
    np.testing.assert_allclose(mine.coef, other.params, rtol=1e-5)
    np.testing.assert_allclose(mine.se, other.bse, rtol=1e-5)


def test_unit_weights_change_nothing_and_whole_weights_are_copies():
    df = simulated()
    plain = outcome.cox(df, "x + arm", "time", "event")
    weighted = outcome.cox(df, "x + arm", "time", "event", weights="unit")
    np.testing.assert_allclose(weighted.coef, plain.coef, rtol=1e-12)
    np.testing.assert_allclose(weighted.se_model, plain.se, rtol=1e-12)
    copies = pd.concat([df, df[df.arm == 1]])
    double = outcome.cox(df.assign(k=1.0 + df.arm), "x + z", "time", "event", weights="k", ties="breslow")
    np.testing.assert_allclose(double.coef, outcome.cox(copies, "x + z", "time", "event", ties="breslow").coef, rtol=1e-9)


def test_splitting_patients_into_intervals_changes_nothing():
    df = simulated()
    first = df.assign(stop=np.minimum(df.time, 0.5), begin=0.0, event=np.where(df.time <= 0.5, df.event, 0), pid=df.index)
    second = df[df.time > 0.5].assign(stop=lambda d: d.time, begin=0.5, pid=lambda d: d.index)
    split = pd.concat([first, second], ignore_index=True)
    whole = outcome.cox(df, "x + arm", "time", "event")
    parts = outcome.cox(split, "x + arm", "stop", "event", start="begin", cluster="pid")
    np.testing.assert_allclose(parts.coef, whole.coef, rtol=1e-10)
    np.testing.assert_allclose(parts.se_robust, whole.se_robust, rtol=1e-9)
    assert parts.attrs["n"] == len(df)


def test_scores_against_a_shift_and_a_scale_of_the_covariate():
    df = simulated()
    a = outcome.cox(df, "z", "time", "event")
    b = outcome.cox(df.assign(z=1e6 + 1000 * df.z), "z", "time", "event")
    assert b.coef[0] * 1000 == pytest.approx(a.coef[0], rel=1e-6)


def test_score_test_of_one_binary_covariate_is_the_logrank_test():
    df = simulated(ties=False)
    score = outcome.cox(df, "arm", "time", "event").attrs["score_chi2"]
    assert score == pytest.approx(outcome.logrank(df, "time", "event", "arm").chi2[0], rel=1e-9)


def test_fine_gray_without_competing_events_is_cox():
    df = simulated()
    for ties in ("breslow", "efron"):
        cox = outcome.cox(df, "x + arm", "time", "event", ties=ties)
        fine_gray = outcome.fine_gray(df, "x + arm", "time", "event", ties=ties)
        np.testing.assert_allclose(fine_gray[["coef", "se", "se_model"]], cox[["coef", "se_robust", "se_model"]], rtol=1e-10)


def test_fine_gray_without_censoring_keeps_failed_patients_at_risk_for_ever():
    df = simulated()
    df = df.assign(code=np.where(df.code == 0, 2, df.code))
    immortal = df.assign(time=np.where(df.code == 2, df.time.max() + 1, df.time), event=(df.code == 1).astype(int))
    a = outcome.fine_gray(df, "x + arm", "time", "code")
    b = outcome.cox(immortal, "x + arm", "time", "event", ties="breslow")
    np.testing.assert_allclose(a.coef, b.coef, rtol=1e-10)
    np.testing.assert_allclose(a.se, b.se_robust, rtol=1e-9)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_fine_gray_is_cox_on_rows_written_out_with_their_weights(ties):
    """The textbook expansion, row by row, through the Cox regression with weights, intervals and clusters; its standard errors
    lack the term of the estimated censoring curve, which `test_outcome_variances` has."""
    df = simulated(80)
    censoring = outcome.kaplan_meier(df.assign(lost=(df.code == 0) * 1), "time", "lost")

    def followed(t):
        return censoring.survival[censoring.time < t].iloc[-1]

    cuts, rows = np.unique(df.time[df.code == 1]), []
    for pid, row in df.iterrows():
        rows.append((pid, row.x, row.arm, 0.0, row.time, int(row.code == 1), 1.0))
        if row.code == 2:
            later = cuts[cuts > row.time]
            for a, b in zip([row.time, *later], later, strict=False):
                rows.append((pid, row.x, row.arm, a, b, 0, followed(b) / followed(row.time)))
    long = pd.DataFrame(rows, columns=["pid", "x", "arm", "start", "stop", "event", "w"])
    expected = outcome.cox(long, "x + arm", "stop", "event", start="start", weights="w", cluster="pid", ties=ties)
    mine = outcome.fine_gray(df, "x + arm", "time", "code", ties=ties)
    np.testing.assert_allclose(mine["coef"], expected["coef"], rtol=1e-9)
    np.testing.assert_allclose(mine["se"], expected["se"], rtol=0.1)
    assert not np.allclose(mine["se"], expected["se"], rtol=1e-6)
    assert mine.attrs["loglik"] == pytest.approx(expected.attrs["loglik"], rel=1e-12)


def test_proportional_hazards_are_accepted_and_crossing_ones_found():
    rng = np.random.default_rng(2)
    arm = rng.integers(0, 2, 600)
    proportional = pd.DataFrame({"time": rng.exponential(np.exp(-0.7 * arm)), "event": 1, "arm": arm})
    crossing = pd.DataFrame({"time": rng.weibull(np.where(arm == 1, 2.0, 0.7)), "event": 1, "arm": arm})
    assert outcome.ph_test(proportional, "arm", "time", "event").p[0] > 0.01
    for transform in ("km", "rank", "log", "identity"):
        assert outcome.ph_test(crossing, "arm", "time", "event", transform=transform).p[0] < 1e-6


def test_concordance_counts_pairs():
    df = simulated(60)
    fit = outcome.cox(df, "x", "time", "event")
    risk, t, e = fit.coef[0] * df.x.to_numpy(), df.time.to_numpy(), df.event.to_numpy()
    good = total = 0.0
    for i in range(60):
        for j in range(60):
            if e[i] and (t[i] < t[j] or (t[i] == t[j] and not e[j])):
                total += 1
                good += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    assert fit.attrs["concordance"] == pytest.approx(good / total, rel=1e-12)


def test_planted_hazard_ratio_is_covered():
    """95 % intervals of 300 simulated trials hold the planted log hazard ratio of -0.5; band of three standard errors."""
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        arm = np.arange(120) % 2
        failure, end = rng.exponential(np.exp(0.5 * arm)), rng.uniform(0.3, 3, 120)
        df = pd.DataFrame({"time": np.minimum(failure, end), "event": (failure <= end).astype(int), "arm": arm})
        row = outcome.cox(df, "arm", "time", "event").iloc[0]
        held += row.lower <= np.exp(-0.5) <= row.upper
    assert held / 300 == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / 300))


def test_result_is_a_plain_table():
    fit = outcome.cox(simulated(), "x + C(centre)", "time", "event")
    assert fit.term.tolist() == ["C(centre)[T.B]", "C(centre)[T.C]", "x"]
    pd.concat([fit, fit])  # attrs must stay comparable
    assert np.asarray(fit.attrs["covariance"]).shape == (3, 3)
