"""gEUD, LKB, dose-response and actuarial NTCP fits, and the Delta-NTCP rule."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from ionrt import outcome
from ionrt.outcome import actuarial, likelihood, ntcp
from ionrt.quantities import IonrtError


def histograms(n: int, seed: int, *, volume: float = 0.2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Synthetic rectal histograms and complications from an LKB model with n = `volume`, m = 0.15, TD50 = 55."""
    rng = np.random.default_rng(seed)
    dose = np.linspace(1, 70, 30)
    share = np.exp(-dose / rng.uniform(10, 40, (n, 1))) + 0.4 * np.exp(-(((dose - rng.uniform(30, 68, (n, 1))) / 6) ** 2))
    long = pd.DataFrame({"pid": np.repeat(np.arange(n), 30), "dose": np.tile(dose, n), "volume": share.ravel()})
    p = outcome.lkb(long, n=volume, m=0.15, td50=55, by="pid")
    return long, pd.DataFrame({"pid": np.arange(n), "event": (rng.random(n) < p.to_numpy()).astype(int)})


def late_effects(n: int, seed: int, *, let: float = 0.06) -> pd.DataFrame:
    """Synthetic: logit 1.2 (dose - 60)/10 + let (LETd - 50) - 0.5, log-normal latency about 1.5 years, random follow-up."""
    rng = np.random.default_rng(seed)
    dose, let_d, volume = rng.normal(60, 8, n), rng.normal(50, 10, n), rng.lognormal(5, 0.6, n)
    let_d = let_d - 4 * (np.log(volume) - 5)  # large targets have low LETd
    p = 1 / (1 + np.exp(-(-0.5 + 0.12 * (dose - 60) + let * (let_d - 50))))
    onset = np.where(rng.random(n) < p, rng.lognormal(np.log(1.5), 0.6, n), np.inf)
    end = rng.uniform(1, 8, n)
    df = pd.DataFrame({"time": np.minimum(onset, end), "event": (onset <= end).astype(int)})
    return df.assign(dose=dose - 60, let_d=let_d - 50, log_volume=np.log(volume) - 5)


def test_geud_between_minimum_and_maximum():
    dvh = pd.DataFrame({"dose": [0.0, 20, 60], "volume": [3.0, 2, 1]})
    values = [outcome.geud(dvh, a) for a in (0.5, 1, 2, 12, 83, 1000, np.inf)]
    assert values == sorted(values) and values[1] == pytest.approx(100 / 6) and values[-1] == 60.0
    assert values[-2] == pytest.approx(60 * (1 / 6) ** 0.001, rel=1e-12)
    assert outcome.geud(dvh, -10) == 0.0
    uniform = pd.DataFrame({"dose": [54.0], "volume": [1.0]})
    assert outcome.geud(uniform, 83) == pytest.approx(54, rel=1e-12)


def test_geud_of_a_cumulative_curve_is_that_of_the_voxels():
    rng = np.random.default_rng(0)
    voxels = rng.gamma(9, 5, (2, 4000))
    axis = np.linspace(0, voxels.max(), 1501)
    curve = (voxels[:, None, :] >= axis[None, :, None]).mean(axis=2)
    dvh = xr.DataArray(
        curve,
        dims=("structure", "rbe_dose"),
        coords={"rbe_dose": axis, "structure": ["Rectum", "Bladder"]},
        attrs={"quantity": "rbe_dose"},
    )
    for a in (1, 8, 30):
        np.testing.assert_allclose(outcome.geud(dvh, a), np.mean(voxels**a, axis=1) ** (1 / a), rtol=2e-3)
    assert outcome.lkb(dvh, n=0.1, m=0.1, td50=60).dims == ("structure",)


def test_lkb_is_one_half_at_td50_of_uniform_dose():
    assert outcome.lkb(pd.DataFrame({"dose": [69.1], "volume": [4.0]}), n=0.012, m=0.046, td50=69.1) == pytest.approx(
        0.5, abs=1e-9
    )


def gradient_by_differences(objective, at):
    return np.array([(objective(at + e)[0] - objective(at - e)[0]) / 2e-6 for e in np.eye(len(at)) * 1e-6])


@pytest.mark.parametrize("link", likelihood.LINKS)
def test_gradients_of_the_likelihoods(link):
    df = late_effects(80, 1)
    x, t = np.column_stack([np.ones(80), df.dose, df.let_d]), df.time.to_numpy()
    objective = likelihood.binomial_objective(x, df.event.to_numpy(dtype=float), np.ones(80), link)
    at = np.array([-0.4, 0.05, 0.02])
    np.testing.assert_allclose(objective(at)[1], gradient_by_differences(objective, at), rtol=1e-5, atol=1e-6)
    for latency in actuarial.LATENCIES:
        timed = actuarial._objective(x, t, df.event.to_numpy() == 1, link, latency)
        at5 = np.append(at, [0.3, -0.4])
        np.testing.assert_allclose(timed(at5)[1], gradient_by_differences(timed, at5), rtol=1e-5, atol=1e-5)


def test_gradient_of_the_lkb_likelihood():
    dvh, outcomes = histograms(60, 2)
    dose, volume = ntcp._histograms(dvh, outcomes, "pid")
    for n, at in ((None, np.log([0.25, 0.2, 50.0])), (0.3, np.log([0.2, 50.0]))):
        objective = ntcp._lkb_objective(dose, volume, outcomes.event.to_numpy(dtype=float), n)
        np.testing.assert_allclose(objective(at)[1], gradient_by_differences(objective, at), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("link", likelihood.LINKS)
def test_links_keep_their_digits_in_the_tails(link):
    u = np.linspace(-30, 30, 61) if link != "cloglog" else np.linspace(-30, 6, 61)
    up, down, dup, ddown = likelihood.log_probabilities(u, link)
    assert np.isfinite([up, down, dup, ddown]).all()
    middle = np.abs(u) < 5
    np.testing.assert_allclose(np.exp(up[middle]) + np.exp(down[middle]), 1, rtol=1e-12)


def test_logistic_fit_agrees_with_statsmodels_and_its_limits_lie_on_the_profile():
    import statsmodels.genmod.api as sm

    df = late_effects(150, 3)
    fit = outcome.fit_ntcp(df, "dose + let_d", "event")
    x = np.column_stack([np.ones(150), df.dose, df.let_d])
    other = sm.GLM(df.event, x, family=sm.families.Binomial()).fit(tol=1e-14)
    np.testing.assert_allclose(fit.coef, other.params, rtol=1e-7)
    np.testing.assert_allclose(fit.se, other.bse, rtol=1e-6)
    for limit in (fit.lower[2], fit.upper[2]):
        fixed = sm.GLM(df.event, x[:, :2], offset=limit * x[:, 2], family=sm.families.Binomial()).fit()
        assert 2 * (other.llf - fixed.llf) == pytest.approx(stats.chi2.ppf(0.95, 1), rel=1e-4)
    without = sm.GLM(df.event, x[:, :2], family=sm.families.Binomial()).fit()
    assert fit.p[2] == pytest.approx(stats.chi2.sf(2 * (other.llf - without.llf), 1), rel=1e-5)


def test_lkb_fit_with_fixed_n_is_a_probit_regression():
    dvh, outcomes = histograms(200, 5)
    g = outcome.geud(dvh, 5, by="pid").rename("g").reset_index()
    probit = outcome.fit_ntcp(outcomes.merge(g, on="pid"), "g", "event", link="probit")
    fit = outcome.fit_lkb(dvh, outcomes, n=0.2).set_index("term")
    assert fit.estimate["td50"] == pytest.approx(probit.attrs["td50"], rel=1e-5)
    assert fit.estimate["m"] == pytest.approx(probit.attrs["m"], rel=1e-5)
    assert fit.attrs["loglik"] == pytest.approx(probit.attrs["loglik"], rel=1e-9)


def test_lkb_fit_finds_its_parameters_again():
    dvh, outcomes = histograms(600, 8)
    fit = outcome.fit_lkb(dvh, outcomes).set_index("term")
    for term, truth in (("n", 0.2), ("m", 0.15), ("td50", 55.0)):
        assert fit.lower[term] < truth < fit.upper[term]
        assert fit.lower[term] < fit.estimate[term] < fit.upper[term]


def test_actuarial_fit_with_complete_follow_up_is_the_binary_fit():
    df = late_effects(200, 6)
    df["time"] = np.where(df.event == 1, df.time, 1e6)
    timed, binary = (
        outcome.fit_actuarial_ntcp(df, "dose + let_d", "time", "event"),
        outcome.fit_ntcp(df, "dose + let_d", "event"),
    )
    np.testing.assert_allclose(timed[["coef", "lower", "upper"]][:3], binary[["coef", "lower", "upper"]], rtol=1e-4)
    log_t = np.log(df.time[df.event == 1])
    assert timed.coef[3] == pytest.approx(log_t.mean(), rel=1e-5)
    assert timed.coef[4] == pytest.approx(np.log(log_t.std(ddof=0)), rel=1e-5)


def test_let_slope_is_recovered_with_volume_in_the_model():
    """Profile limits of 40 cohorts of 250 hold the planted slope, within three binomial standard errors of 95 %."""
    held, slopes = 0, []
    for seed in range(40):
        fit = outcome.fit_actuarial_ntcp(late_effects(250, seed), "dose + let_d + log_volume", "time", "event").set_index(
            "term"
        )
        held += fit.lower["let_d"] <= 0.06 <= fit.upper["let_d"]
        slopes.append(fit.coef["let_d"])
    assert held / 40 >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 40)
    assert np.mean(slopes) == pytest.approx(0.06, abs=3 * np.std(slopes) / np.sqrt(40) + 0.003)


def test_prediction_rises_to_the_eventual_probability():
    df = late_effects(300, 9)
    fit = outcome.fit_actuarial_ntcp(df, "dose + let_d", "time", "event", latency="weibull", link="probit")
    table = outcome.predict_ntcp(fit, df.head(4), at=[0, 1, 3])
    curves = table.set_index("time", append=True).ntcp.unstack()
    assert (curves.diff(axis=1).iloc[:, 1:] > 0).all(axis=None) and (curves[0.0] == 0).all()
    assert curves[np.inf].to_numpy() == pytest.approx(
        stats.norm.cdf(fit.coef[0] + fit.coef[1] * df.dose[:4] + fit.coef[2] * df.let_d[:4]), rel=1e-9
    )


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda d: outcome.fit_ntcp(d.assign(x=d.event * 3 + d.dose * 1e-3), "x", "event"), "complete separation"),
        (lambda d: outcome.fit_actuarial_ntcp(d.assign(event=0), "dose", "time", "event"), "with and without event"),
        (lambda d: outcome.fit_ntcp(d.assign(event=1), "dose", "event"), "with and without event"),
        (lambda d: outcome.fit_ntcp(d.assign(y=2 * d.dose), "dose + y", "event"), "linearly dependent"),
        (lambda d: outcome.fit_actuarial_ntcp(d.assign(time=d.time * (d.event == 0)), "dose", "time", "event"), "time 0"),
        (lambda d: outcome.fit_ntcp(d.assign(event=0.3), "dose", "event"), "whole numbers"),
        (lambda d: outcome.predict_ntcp(outcome.fit_ntcp(d, "dose", "event"), d), "fit_actuarial_ntcp"),
        (lambda d: outcome.geud(pd.DataFrame({"dose": [1.0], "volume": [0.0]}), 1), "without volume"),
        (lambda d: outcome.geud(pd.DataFrame({"dose": [1.0], "volume": [1.0]}), 0), "other than 0"),
        (lambda d: outcome.geud(pd.DataFrame({"dose": [-1.0], "volume": [1.0]}), 1), "below 0"),
        (lambda d: outcome.lkb(pd.DataFrame({"dose": [1.0], "volume": [1.0]}), n=1, m=0, td50=5), "m: expected a positive"),
        (lambda d: outcome.fit_lkb(histograms(5, 1)[0], pd.DataFrame({"pid": [77], "event": [1]})), "no histogram"),
    ],
)
def test_bad_input_is_named(fit, message):
    with pytest.raises(IonrtError, match=message):
        fit(late_effects(40, 4))


def test_delta_ntcp_rule():
    rows = [
        ("one grade 2", 0.30, 0.20, 2),
        ("one grade 3", 0.15, 0.10, 3),
        ("sum", 0.30, 0.22, 2),
        ("sum", 0.30, 0.23, 2),
        ("none", 0.30, 0.205, 2),
        ("none", 0.10, 0.051, 4),
        ("worse elsewhere", 0.30, 0.21, 2),
        ("worse elsewhere", 0.20, 0.25, 2),
    ]
    df = pd.DataFrame(rows, columns=["pid", "ntcp_reference", "ntcp_candidate", "grade"])
    out = outcome.delta_ntcp_rule(df).set_index("pid")
    assert out.qualifies.to_dict() == {
        "one grade 2": True,
        "one grade 3": True,
        "sum": True,
        "none": False,
        "worse elsewhere": False,
    }
    assert out.sum_grade_2["sum"] == pytest.approx(15) and "sum of grade 2" in out.reason["sum"]
    with pytest.raises(IonrtError, match="probabilities"):
        outcome.delta_ntcp_rule(df.assign(ntcp_candidate=20.0))
