"""Standard errors of competing risks against formulas written out here and against R."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from ionrt import outcome
from ionrt.quantities import IonrtError


def competing(n: int, seed: int, *, ties: bool) -> pd.DataFrame:
    """Two causes, a cause that competes strongly and heavy censoring, so that the estimated censoring curve matters."""
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=n), rng.integers(0, 2, n).astype(float)
    mine, other, end = (
        rng.exponential(8 * np.exp(-0.6 * x)),
        rng.exponential(4 * np.exp(0.5 * x - 0.4 * z)),
        rng.exponential(6, n),
    )
    time = np.minimum(np.minimum(mine, other), end)
    code = np.select([time == mine, time == other], [1, 2], 0)
    return pd.DataFrame({"time": np.ceil(8 * time) if ties else time, "code": code, "x": x, "z": z})


def fine_gray_by_hand(df: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and standard errors of Fine and Gray 1999 with every patient by time matrix written out."""
    t, code, x = df.time.to_numpy(), df.code.to_numpy(), df[["x", "z"]].to_numpy()
    n = len(t)
    censored = np.unique(t[code == 0])
    at_risk = np.array([(t >= u).sum() for u in censored])
    leave = np.array([((t == u) & (code == 0)).sum() for u in censored])

    def before(s: float) -> float:  # G(s-)
        return float(np.prod((1 - leave / at_risk)[censored < s]))

    events = np.unique(t[code == 1])
    weight = np.zeros((n, len(events)))
    for i in range(n):
        for j, s in enumerate(events):
            weight[i, j] = 1.0 if t[i] >= s else before(s) / before(t[i]) if code[i] == 2 else 0.0
    deaths = np.array([((t == s) & (code == 1)).sum() for s in events])

    def parts(beta):
        r = weight * np.exp(x @ beta)[:, None]
        s0 = r.sum(axis=0)
        return r, s0, (r.T @ x) / s0[:, None]

    def score(beta):
        _, _, mean = parts(beta)
        return x[code == 1].sum(axis=0) - deaths @ mean

    beta = optimize.root(score, np.zeros(2), tol=1e-12).x
    r, s0, mean = parts(beta)
    information = sum(
        d * (np.einsum("i,ia,ib->ab", r[:, j], x, x) / s0[j] - np.outer(mean[j], mean[j])) for j, d in enumerate(deaths)
    )
    martingale = ((t[:, None] == events) & (code[:, None] == 1)) - r * deaths / s0  # w dM
    residual = x[:, None, :] - mean[None]
    eta = np.einsum("ij,ija->ia", martingale, residual)
    psi = np.zeros_like(eta)
    for k, u in enumerate(censored):
        counted = (t[:, None] <= u) & (u < events) & (code[:, None] == 2)
        q = -np.einsum("ij,ij,ija->a", counted, martingale, residual)
        own = ((t == u) & (code == 0)) - (t >= u) * leave[k] / at_risk[k]
        psi += own[:, None] * q / at_risk[k]
    inverse = np.linalg.inv(information)
    total = (eta + psi) @ inverse
    return beta, np.sqrt(np.diag(total.T @ total))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_fine_gray_standard_error_has_the_censoring_term(seed, ties):
    df = competing(300, seed, ties=ties)
    beta, se = fine_gray_by_hand(df)
    fit = outcome.fine_gray(df, "x + z", "time", "code")
    np.testing.assert_allclose(fit.coef, beta, rtol=1e-7)
    np.testing.assert_allclose(fit.se, se, rtol=1e-6)
    assert fit.attrs["variance"] == "sandwich with the censoring term"
    one_each = outcome.fine_gray(df.assign(pid=np.arange(len(df))[::-1]), "x + z", "time", "code", cluster="pid")
    np.testing.assert_allclose(one_each.se, fit.se, rtol=1e-12)


def test_fine_gray_standard_errors_of_r(shared):
    """R cmprsk 2.2.11 on bmtcrr: within 0.05 % (the sandwich without the censoring term is up to 0.13 % off)."""
    df = pd.read_csv(shared("data/statistics/bmtcrr.csv"), comment="#")
    table = pd.read_csv(shared("reference/statistics/reference.csv"), comment="#")
    rows = table[table.case.eq("S8") & table.quantity.str.startswith("bmtcrr.crr.se.")]
    wanted = rows.set_index(rows.quantity.str.rsplit(".", n=1).str[-1]).value.astype(float)
    fit = outcome.fine_gray(df, "Sex + D + Phase + Age + Source", "ftime", "Status")
    seen = fit.set_index(fit.term.str.replace(r"\[T\.|\]", "", regex=True)).se
    assert len(wanted) == 7
    for name, value in wanted.items():
        assert seen[name] == pytest.approx(value, rel=5e-4), name


def aalen_by_hand(df: pd.DataFrame, at: float) -> float:
    """Variance of the incidence of cause 1 as sums over jumps of both martingales (Aalen 1978; R cmprsk)."""
    t, code = df.time.to_numpy(), df.code.to_numpy()
    jumps, survival, curve = [], 1.0, 0.0
    for s in np.unique(t[(code > 0) & (t <= at)]):
        n, mine, other = (t >= s).sum(), ((t == s) & (code == 1)).sum(), ((t == s) & (code == 2)).sum()
        after = survival * (1 - (mine + other) / n)
        curve += survival * mine / n
        jumps.append((survival, after, curve, n, mine, other))
        survival = after
    total = 0.0
    for before, after, here, n, mine, other in jumps:
        lost = (curve - here) / after if after > 0 else 0.0
        for d, answer in ((mine, 1 - lost), (other, -lost)):
            if d:
                total += answer**2 * before**2 * d / n**2 * (1 - (d - 1) / (n - 1) if d > 1 else 1)
    return total


@pytest.mark.parametrize("at", [0.5, 2.0, 5.0])
def test_incidence_says_whose_variance_it_gives(at):
    df = competing(120, 3, ties=False)
    aalen = outcome.cumulative_incidence(df, "time", "code", at=[at], variance="aalen")
    delta = outcome.cumulative_incidence(df, "time", "code", at=[at])
    assert (aalen.attrs["variance"], delta.attrs["variance"]) == ("aalen", "delta")
    assert aalen.se[0] == pytest.approx(np.sqrt(aalen_by_hand(df, at)), rel=1e-10)
    assert aalen.incidence.equals(delta.incidence)
    assert 1.0 < aalen.se[0] / delta.se[0] < 1.03
    from statsmodels.duration.survfunc import CumIncidenceRight

    theirs = CumIncidenceRight(df.time, df.code)
    k = np.searchsorted(theirs.times, at, side="right") - 1
    np.testing.assert_allclose(delta.se, [se[k] for se in theirs.cinc_se], rtol=1e-9)


def test_aalen_variance_without_competing_events_is_that_of_the_product_limit():
    """With one cause, 1 - F is the Kaplan-Meier estimate; its variance by (n - d) / (n - 1) d / n^2, multiplied through."""
    df = competing(80, 4, ties=False).assign(code=lambda d: (d.code > 0) * 1)
    row = outcome.cumulative_incidence(df, "time", "code", at=[2.0], variance="aalen").iloc[0]
    assert row.se == pytest.approx(np.sqrt(aalen_by_hand(df, 2.0)), rel=1e-10)


def test_aalen_variance_needs_counted_patients():
    df = competing(30, 5, ties=True).assign(w=1.0)
    with pytest.raises(IonrtError, match="with weights use 'delta'"):
        outcome.cumulative_incidence(df, "time", "code", weights="w", variance="aalen")
    for only in (df.assign(code=1), df.iloc[:1].assign(code=1), df.assign(code=0)):
        assert np.isfinite(outcome.cumulative_incidence(only, "time", "code", variance="aalen").se).all()
