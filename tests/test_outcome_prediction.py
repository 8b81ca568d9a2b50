"""Calibration, Brier score, AUC and the band of an actuarial NTCP, against formulas written out and against simulation."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from ionrt import outcome
from ionrt.quantities import IonrtError


def cohort(n: int, seed: int, *, end: float = 8.0) -> pd.DataFrame:
    """SYNTHETIC: complication with probability p at a log-normal time, death and loss before it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    p = 1 / (1 + np.exp(1.0 - 0.9 * x))
    onset = np.where(rng.random(n) < p, rng.lognormal(np.log(1.5), 0.5, n), np.inf)
    death, look = rng.exponential(10.0, n), rng.uniform(min(2.0, end / 2), end, n)
    time = np.minimum(np.minimum(onset, death), look)
    return pd.DataFrame({"x": x, "time": time, "code": np.select([onset == time, death == time], [1, 2], 0), "p": p})


def test_without_times_the_scores_are_the_plain_ones():
    rng = np.random.default_rng(1)
    df = pd.DataFrame({"p": rng.random(200).round(1)}).assign(y=lambda d: (rng.random(200) < d.p).astype(int))
    table = outcome.calibration(df, "p", "y", groups=4)
    assert table.attrs["brier"] == pytest.approx(((df.y - df.p) ** 2).mean())
    assert table.attrs["brier_null"] == pytest.approx(df.y.mean() * (1 - df.y.mean()))
    a, b = df.p[df.y == 1].to_numpy()[:, None], df.p[df.y == 0].to_numpy()
    assert table.attrs["auc"] == pytest.approx(((a > b) + 0.5 * (a == b)).mean())
    assert table.n.sum() == 200 and table.n_events.sum() == df.y.sum()


def weights_by_hand(df: pd.DataFrame, at: float) -> np.ndarray:
    """1 / P(still followed) just before the event, or at the horizon; death and loss end the following."""
    lost = df.code.to_numpy() != 1

    def followed(t: float, *, before: bool) -> float:
        out = 1.0
        for s in np.unique(df.time[lost]):
            if s < t or (s == t and not before):
                out *= 1 - (lost & (df.time == s)).sum() / (df.time >= s).sum()
        return out

    w = [
        1 / followed(t, before=True) if c == 1 and t <= at else 1 / followed(at, before=False) if t > at else 0.0
        for t, c in zip(df.time, df.code, strict=True)
    ]
    return np.array(w)


def test_censored_scores_by_hand():
    df, at = cohort(120, 2), 3.0
    table = outcome.calibration(df, "p", "code", "time", at=at, groups=3)
    w, y = weights_by_hand(df, at), ((df.code == 1) & (df.time <= at)).to_numpy()
    assert table.attrs["brier"] == pytest.approx((w * (y - df.p) ** 2).sum() / len(df))
    pairs = w[y][:, None] * w[~y & (w > 0)]
    better = df.p.to_numpy()[y][:, None] > df.p.to_numpy()[~y & (w > 0)]
    assert table.attrs["auc"] == pytest.approx((pairs * better).sum() / pairs.sum())
    half = df.sort_values("p").iloc[:40].assign(event=lambda d: (d.code == 1) * 1)
    assert table.observed[0] == pytest.approx(1 - outcome.kaplan_meier(half, "time", "event", at=[at]).survival[0])


def test_true_probabilities_are_calibrated_and_wrong_ones_are_not():
    from scipy import stats

    df, at = cohort(6000, 3), 3.0
    df["q"] = df.p * stats.norm.cdf(np.log(at / 1.5) / 0.5)
    good = outcome.calibration(df, "q", "code", "time", at=at)
    assert ((good.lower - 0.01 < good.predicted) & (good.predicted < good.upper + 0.01)).all()
    bad = outcome.calibration(df.assign(q=df.q / 2), "q", "code", "time", at=at)
    assert (bad.predicted < bad.lower)[1:].all() and bad.attrs["brier"] > good.attrs["brier"]
    assert bad.attrs["auc"] == pytest.approx(good.attrs["auc"]), "ranks are the same"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: outcome.calibration(d.assign(p=50.0), "p", "code", "time", at=2), "expected probabilities 0..1"),
        (lambda d: outcome.calibration(d, "p", "code", "time"), "give both time"),
        (lambda d: outcome.calibration(d, "p", "code", "time", at=99), "nobody is followed so long"),
        (lambda d: outcome.calibration(d, "p", "code", "when", at=2), "column 'when' is not in the table"),
        (lambda d: outcome.calibration(d, "p", "code"), "competing events"),
    ],
)
def test_bad_calibration(call, message):
    with pytest.raises(IonrtError, match=message):
        call(cohort(50, 4))


def test_band_of_the_actuarial_ntcp_holds_the_truth():
    """60 cohorts of 300: the 95 % limits of the three-year risk hold the true one in 57 on average (4 standard errors)."""
    from scipy import stats

    new, held = pd.DataFrame({"x": [-1.0, 0.0, 1.0]}), []
    truth = 1 / (1 + np.exp(1.0 - 0.9 * new.x.to_numpy())) * stats.norm.cdf(np.log(3 / 1.5) / 0.5)
    for seed in range(60):
        fit = outcome.fit_actuarial_ntcp(cohort(300, 100 + seed), "x", "time", "code")
        rows = outcome.predict_ntcp(fit, new, at=[3.0]).query("time == 3")
        assert ((rows.lower < rows.ntcp) & (rows.ntcp < rows.upper)).all()
        held.append((rows.lower.to_numpy() < truth) & (truth < rows.upper.to_numpy()))
    share = np.mean(held, axis=0)
    assert (np.abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 60)).all(), share


def test_short_follow_up_warns_and_says_so():
    """Followed for 1.6 years at most, latency 1.5 years: "ever" is not identified, the risk within it still has limits."""
    short = cohort(3000, 3, end=1.6)
    with pytest.warns(UserWarning, match="exceeds the median follow-up"):
        fit = outcome.fit_actuarial_ntcp(short, "x", "time", "code")
    assert not fit.attrs["identified"] and fit.attrs["latency_scale"] > fit.attrs["follow_up"]
    rows = outcome.predict_ntcp(fit, short.head(3), at=[0.8])
    assert not rows.attrs["identified"]
    within, ever = rows[rows.time == 0.8], rows[rows.time == np.inf]
    assert ((within.upper - within.lower) < (ever.upper - ever.lower)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outcome.fit_actuarial_ntcp(cohort(400, 6), "x", "time", "code").attrs["identified"]


def test_median_follow_up_is_the_reverse_kaplan_meier():
    df = cohort(150, 8).assign(event=lambda d: (d.code == 1) * 1)
    seen = outcome.kaplan_meier(df, "time", "event")
    reverse = outcome.kaplan_meier(df.assign(event=1 - df.event), "time", "event")
    assert seen.follow_up[0] == pytest.approx(reverse["median"][0])
    tied = pd.DataFrame({"time": [1, 1, 2, 2], "event": [1, 0, 0, 0]})
    assert outcome.kaplan_meier(tied, "time", "event").follow_up[0] == 2, "who had the event at 1 left before the loss at 1"
