"""Designs against independent calculations: brute force, direct simulation, quadrature; and their bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from ionrt import trial
from ionrt.quantities import IonrtError
from ionrt.trial.axis import Axis
from ionrt.trial.phase2 import survival_rate, two_stage_ci
from ionrt.trial.rates import _restricted, exact_rejection, farrington_manning
from ionrt.trial.simulation import dose_finding
from ionrt.trial.survival_design import event_probability, freedman, logrank_drift, time_of_events

LET = Axis("let_d", (70, 80, 90), let_definition="charged")
CURVE = [0.10, 0.25, 0.45]


def three_plus_three_by_hand(p, rng):
    """One trial, patient by patient: level recommended and patients per level."""
    n, x, level = [0] * len(p), [0] * len(p), 0
    while True:
        n[level] += 3
        x[level] += rng.binomial(3, p[level])
        if x[level] == 0 or (n[level] == 6 and x[level] == 1):
            if level == len(p) - 1:
                break
            level += 1
        elif x[level] > 1:
            level -= 1
            break
    while level >= 0:
        if n[level] == 3:
            n[level] += 3
            x[level] += rng.binomial(3, p[level])
        if x[level] <= 1:
            break
        level -= 1
    return level + 1, n


def test_three_plus_three_equals_simulation():
    rng, trials = np.random.default_rng(3), 20_000
    table = trial.three_plus_three(CURVE, axis=LET)
    outcome = [three_plus_three_by_hand(CURVE, rng) for _ in range(trials)]
    share = np.bincount([o[0] for o in outcome], minlength=4) / trials
    se = np.sqrt(table.selected * (1 - table.selected) / trials)
    assert np.all(np.abs(share - table.selected) < 3.5 * se + 1e-9)
    patients = np.array([o[1] for o in outcome])
    assert np.abs(patients.mean(axis=0) - table.n[1:]).max() < 3.5 * patients.std() / np.sqrt(trials)
    assert table.selected.sum() == pytest.approx(1.0, abs=1e-12)
    assert table.value[1:].tolist() == [70, 80, 90]


@pytest.mark.parametrize("p", [[0.0, 0.0], [1.0, 1.0]])
def test_three_plus_three_limits(p):
    """Without toxicity the last level is recommended after 6 patients there; with certain toxicity none, after 3."""
    table = trial.three_plus_three(p)
    assert table.selected.tolist() == ([0, 0, 1] if p[0] == 0 else [1, 0, 0])
    assert table.n.sum() == (9 if p[0] == 0 else 3)


def test_boin_decides_by_its_table():
    design = trial.boin(0.3, axis=LET)
    assert design.next_level(1, [0, 0, 0], [3, 0, 0]) == 2
    assert design.next_level(2, [0, 2, 0], [3, 3, 0]) == 1
    assert design.next_level(2, [0, 1, 0], [3, 3, 0]) == 2
    assert design.next_level(1, [3, 0, 0], [3, 0, 0]) == 0
    assert design.next_level(2, [0, 0, 3], [3, 3, 3]) == 2, "a level closed for toxicity is not entered again"
    assert design.next_level(3, [0, 0, 0], [3, 3, 3]) == 3
    assert design.select([0, 1, 4], [3, 9, 6]) == 2
    assert design.select([3, 0, 0], [3, 0, 0]) == 0


def test_boin_pools_violators():
    """Rates 2/6 and 1/6 pool below the target: of two levels with one estimate the higher is taken."""
    design = trial.boin(0.25, levels=3)
    assert design.select([2, 1, 0], [6, 6, 0]) == 2


def test_crm_equals_direct_integration():
    design = trial.crm([0.1, 0.25, 0.4], 0.25, axis=LET)
    level, y = np.array([1, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 1, 0, 1])

    def posterior(b):
        p = np.array([0.1, 0.25, 0.4]) ** np.exp(b)
        return np.prod(np.where(y == 1, p[level - 1], 1 - p[level - 1])) * stats.norm.pdf(b, scale=np.sqrt(1.34))

    total = integrate.quad(posterior, -12, 12, epsabs=1e-14, limit=200)[0]
    mean = integrate.quad(lambda b: b * posterior(b), -12, 12, epsabs=1e-14, limit=200)[0] / total
    assert design.fit(level, y).attrs["estimate"] == pytest.approx(mean, abs=1e-7)


def test_tite_with_full_follow_up_is_crm():
    options = {"skeleton": [0.1, 0.25, 0.4], "target": 0.25}
    level, y = [1, 1, 2, 2, 3], [0, 0, 0, 1, 1]
    late = trial.crm(**options, window=90).fit(level, y, follow_up=[90, 100, 90, 20, 5])
    assert late.attrs["estimate"] == pytest.approx(trial.crm(**options).fit(level, y).attrs["estimate"], rel=1e-12)


def test_tite_follow_up_counts():
    """Less observation without toxicity says less: the estimate of toxicity is higher."""
    design = trial.crm([0.1, 0.25, 0.4], 0.25, window=90)
    short, long = (design.fit([1, 1, 2, 2], [0, 0, 0, 1], follow_up=[t, t, t, 90]).p_toxicity for t in (10, 90))
    assert (short > long).all()


@pytest.mark.parametrize("design", [trial.boin(0.25, axis=LET), trial.crm([0.12, 0.25, 0.38], 0.25, axis=LET)])
def test_simulated_design_finds_the_target(design):
    """Level 2, exactly at the target, is recommended most often; no more than n_max patients; toxicities fit the truth."""
    table = dose_finding(design, CURVE, n_sim=2000, seed=5)
    assert table.selected.idxmax() == 2
    assert table.selected.sum() == pytest.approx(1.0)
    assert table.n.sum() <= design.n_max
    assert table.toxicities[1:].to_numpy() == pytest.approx(table.n[1:] * CURVE, abs=0.15)


def test_compiled_crm_follows_fit():
    """A certain and an impossible toxicity curve leave one path, which `fit` reproduces decision by decision."""
    design = trial.crm([0.12, 0.25, 0.38], 0.25, n_max=12)
    table = dose_finding(design, [0.0, 0.0, 0.0], n_sim=20, seed=1)
    level, levels, y = 1, [], []
    for _ in range(4):
        levels += [level] * 3
        y += [0] * 3
        level = min(design.fit(levels, y).attrs["level"], max(levels) + 1)
    assert table.n[1:].tolist() == [levels.count(k) for k in (1, 2, 3)]
    assert table.selected[level] == 1.0
    assert dose_finding(design, [1.0, 1.0, 1.0], n_sim=20, seed=1).selected[0] == 1.0


def test_simon_meets_its_error_rates_by_brute_force():
    design = trial.simon(0.1, 0.3).loc["optimal"]
    r1, n1, r, n = (int(design[k]) for k in ("r1", "n1", "r", "n"))
    for p, expected in ((0.1, design.type1), (0.3, design.power)):
        first, second = np.meshgrid(np.arange(n1 + 1), np.arange(n - n1 + 1), indexing="ij")
        chance = stats.binom.pmf(first, n1, p) * stats.binom.pmf(second, n - n1, p)
        assert chance[(first > r1) & (first + second > r)].sum() == pytest.approx(expected, abs=1e-12)


def test_two_stage_interval_covers():
    """Coverage by enumeration is at least 95 % for every rate; the plain interval reaches less somewhere."""
    r1, n1, n = 1, 10, 29
    limits = {k: two_stage_ci(k, r1=r1, n1=n1, n=n) for k in range(n + 1)}
    for p in np.linspace(0.05, 0.9, 18):
        covered = sum(stats.binom.pmf(k, n1, p) for k in range(r1 + 1) if limits[k][0] <= p <= limits[k][1])
        for first in range(r1 + 1, n1 + 1):
            for more in range(n - n1 + 1):
                low, high = limits[first + more]
                covered += stats.binom.pmf(first, n1, p) * stats.binom.pmf(more, n - n1, p) * (low <= p <= high)
        assert covered >= 0.95 - 1e-9


def test_event_probability_is_the_integral():
    rate, loss, accrual, time = 0.04, 0.01, 36.0, 30.0
    late = integrate.quad(lambda e: rate / (rate + loss) * (1 - np.exp(-(rate + loss) * (time - e))), 0, time)[0] / time
    assert event_probability(time, hazard=rate, accrual=accrual, dropout=loss) == pytest.approx(late, rel=1e-10)


def test_time_of_events_inverts():
    options = {"hr": 0.7, "control_hazard": 0.04, "accrual": 36.0, "allocation": 2.0, "dropout": 0.005}
    t = time_of_events(120, 240, **options)
    expected = 0.0
    for hazard, share in ((0.04, 1 / 3), (0.028, 2 / 3)):
        expected += 240 * share * event_probability(t, hazard=hazard, accrual=36.0, dropout=0.005) * min(t / 36, 1)
    assert expected == pytest.approx(120, abs=1e-6)
    assert time_of_events(241, 240, **options) == np.inf


def test_logrank_drift_near_one_is_schoenfeld():
    """Close to hazard ratio 1 the numerical drift becomes the local formula."""
    options = {"control_hazard": 0.05, "accrual": 24.0, "allocation": 1.0}
    drift = logrank_drift(1000, 0.99, time=48.0, **options)
    p = [event_probability(48.0, hazard=h, accrual=24.0) for h in (0.05, 0.0495)]
    local = -np.log(0.99) * np.sqrt(1000 * np.mean(p) / 4)
    assert drift == pytest.approx(local, rel=2e-4)


@pytest.mark.parametrize(
    ("pe", "pc", "k", "margin"), [(0.9, 0.85, 1.0, 0.1), (0.6, 0.7, 2.0, 0.15), (0.5, 0.5, 0.5, 0.3), (1.0, 1.0, 1.0, 0.1)]
)
def test_restricted_rates_maximise_the_likelihood(pe, pc, k, margin):
    def loss(c):
        e = c - margin
        return -(k * (pe * np.log(e) + (1 - pe) * np.log1p(-e)) + pc * np.log(c) + (1 - pc) * np.log1p(-c))

    found = optimize.minimize_scalar(loss, bounds=(margin + 1e-9, 1 - 1e-9), method="bounded", options={"xatol": 1e-12})
    assert float(_restricted(pe, pc, k, margin)[1]) == pytest.approx(found.x, abs=1e-5)


def test_exact_rejection_equals_simulation():
    rng = np.random.default_rng(0)
    xe, xc = rng.binomial(58, 0.75, 40_000), rng.binomial(58, 0.90, 40_000)
    share = (farrington_manning(xe, 58, xc, 58, margin=0.15) >= stats.norm.isf(0.05)).mean()
    exact = exact_rejection(0.75, 0.90, n_experimental=58, n_control=58, margin=0.15, alpha=0.05)
    assert share == pytest.approx(exact, abs=3 * np.sqrt(exact / 40_000))


@pytest.mark.parametrize("spending", ["lan_demets_obrien_fleming", "lan_demets_pocock", "obrien_fleming", "pocock"])
def test_bounds_hold_alpha_and_power_by_simulation(spending):
    """Random walks with independent increments cross as often as the recursion says."""
    rng, walks = np.random.default_rng(7), 200_000
    t = np.array([0.3, 0.55, 1.0])
    table = trial.spending_bounds(t, spending=spending, power=0.9)
    steps = rng.normal(size=(walks, 3)) * np.sqrt(np.diff(t, prepend=0.0))
    for drift, expected in ((0.0, 0.025), (table.attrs["drift"], 0.9)):
        z = (np.cumsum(steps, axis=1) + drift * t) / np.sqrt(t)
        share = (z >= table.z_efficacy.to_numpy()).any(axis=1).mean()
        assert share == pytest.approx(expected, abs=3.5 * np.sqrt(expected * (1 - expected) / walks))


@pytest.mark.parametrize("binding", [False, True])
def test_futility_bounds_by_simulation(binding):
    rng, walks, t = np.random.default_rng(8), 200_000, np.array([0.4, 0.7, 1.0])
    table = trial.spending_bounds(t, power=0.8, beta_spending="lan_demets_pocock", binding=binding)
    steps = rng.normal(size=(walks, 3)) * np.sqrt(np.diff(t, prepend=0.0))
    up, low = table.z_efficacy.to_numpy(), table.z_futility.to_numpy()

    def rejected(drift, *, heed):
        z = (np.cumsum(steps, axis=1) + drift * t) / np.sqrt(t)
        alive, out = np.ones(walks, bool), np.zeros(walks, bool)
        for k in range(3):
            out |= alive & (z[:, k] >= up[k])
            alive &= (z[:, k] < up[k]) & ((z[:, k] >= low[k]) | (not heed))
        return out.mean()

    assert rejected(table.attrs["drift"], heed=True) == pytest.approx(0.8, abs=3.5 * np.sqrt(0.16 / walks))
    assert rejected(0.0, heed=binding) == pytest.approx(0.025, abs=3.5 * np.sqrt(0.0244 / walks))
    assert low[-1] == up[-1]


def test_one_look_is_the_fixed_test():
    table = trial.spending_bounds(1, power=0.9)
    assert table.z_efficacy[1] == pytest.approx(stats.norm.isf(0.025), abs=1e-9)
    assert table.attrs["inflation"] == pytest.approx(1.0, abs=1e-8)


def test_survival_rate_methods_agree():
    """Complete follow-up: the large-sample size on the arcsine scale is close to the exact binomial one."""
    options = {"time": 3, "accrual": 2, "follow_up": 3, "alpha": 0.025, "power": 0.8}
    exact = survival_rate(0.4, 0.65, **options)
    assert (exact["n_planned"], exact["r"]) == (32, 18)
    smooth = survival_rate(0.4, 0.65, **options, method="arcsine")
    closed = ((stats.norm.isf(0.025) + stats.norm.ppf(0.8)) / (2 * (np.arcsin(0.65**0.5) - np.arcsin(0.4**0.5)))) ** 2
    assert smooth["n"] == pytest.approx(closed, rel=1e-6)
    censored = survival_rate(0.4, 0.65, **{**options, "follow_up": 1.5}, method="arcsine", dropout=0.05)
    assert censored["n"] > smooth["n"]


BAD = {
    "no design within n_max": (lambda: trial.simon(0.4, 0.45, n_max=40), "up to n_max=40"),
    "no single stage within n_max": (lambda: trial.ahern(0.4, 0.41, n_max=50), "the power at n_max is"),
    "p1 below p0": (lambda: trial.simon(0.4, 0.3), "p1: expected a rate above p0 = 0.4, got 0.3"),
    "alpha above half": (lambda: trial.spending_bounds(3, alpha=0.6), "type I error below 0.5"),
    "alpha zero": (lambda: trial.schoenfeld(0.7, alpha=0.0), "alpha: expected a probability"),
    "power of one": (lambda: trial.schoenfeld(0.7, power=1.0), "power: expected a probability"),
    "power below alpha": (lambda: freedman(0.7, alpha=0.05, power=0.01), "power: expected more than alpha"),
    "no effect": (lambda: trial.schoenfeld(1.0), "no number of events"),
    "true ratio at the margin": (lambda: trial.schoenfeld(1.3, margin=1.3), "no number of events"),
    "rate below the limit": (lambda: trial.noninferiority_rates(0.7, 0.9, 0.1), "nothing to show"),
    "skeleton not increasing": (lambda: trial.crm([0.1, 0.3, 0.2], 0.2), "value 2 is 0.3 and value 3 is 0.2"),
    "skeleton outside (0, 1)": (lambda: trial.crm([0.1, 0.3, 1.0], 0.2), "skeleton: expected a probability"),
    "toxicity decreasing": (lambda: trial.three_plus_three([0.2, 0.1]), "increasing"),
    "levels not increasing": (lambda: Axis("let_d", (70, 90, 80), let_definition="charged"), "let_d levels"),
    "LET without definition": (lambda: Axis("let_d", (70, 80)), "needs let_definition"),
    "RBE dose without model": (lambda: Axis("rbe_dose", (60, 64)), "needs rbe_model"),
    "unknown axis": (lambda: Axis("letd", (70, 80)), "does not exist"),
    "axis of other length": (lambda: trial.crm([0.1, 0.2], 0.2, axis=LET), "expected 2 levels"),
    "boundaries out of order": (lambda: trial.boin(0.3, p_saf=0.4), "p_saf < target < p_tox"),
    "curve of other length": (lambda: dose_finding(trial.boin(0.3), [0.1, 0.2]), "each of the 3 levels"),
    "information beyond 1": (lambda: trial.spending_bounds([0.5, 1.2]), "increase to 1"),
    "unknown spending": (lambda: trial.spending_bounds(2, spending="obrien"), "does not exist"),
    "beta spending without power": (lambda: trial.spending_bounds(2, beta_spending="lan_demets_pocock"), "needs power"),
    "s1 below s0": (lambda: survival_rate(0.6, 0.4, time=2, accrual=2, follow_up=3), "s1: expected a rate above s0 = 0.6"),
    "nobody observed": (lambda: survival_rate(0.4, 0.6, time=6, accrual=2, follow_up=3), "nobody is observed"),
    "exact with censoring": (
        lambda: survival_rate(0.4, 0.6, time=3, accrual=2, follow_up=2),
        "use method='arcsine'",
    ),
    "toxicity of 2": (lambda: trial.crm([0.1, 0.2], 0.2).fit([1], [2]), "0 or 1"),
    "level of 0": (lambda: trial.crm([0.1, 0.2], 0.2).fit([0], [1]), "from 1 to 2"),
    "late toxicity without follow-up": (lambda: trial.crm([0.1, 0.2], 0.2, window=9).fit([1], [0]), "give follow_up"),
    "more toxicities than patients": (lambda: trial.boin(0.3).select([4, 0, 0], [3, 0, 0]), "do not fit"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what):
    call, message = BAD[what]
    with pytest.raises(IonrtError, match=message.replace("(", r"\(")):
        call()
