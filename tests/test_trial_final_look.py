"""The last look with the information that is really there, and the test of two rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ionrt import trial
from ionrt.files import read_yaml
from ionrt.quantities import IonrtError
from ionrt.trial.rates import difference_limits, farrington_manning, superiority_rates
from ionrt.trial.reading import from_mapping
from ionrt.trial.sequential import final_bound, interim_bounds

FOLDER = Path(__file__).resolve().parents[1] / "trials"
OBF = "lan_demets_obrien_fleming"


def rejection(information, bounds) -> float:
    """P(some Z_k >= its bound | 0) by the multivariate normal distribution, no recursion."""
    t = np.asarray(information, float)
    correlation = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    return 1 - stats.multivariate_normal(np.zeros(t.size), correlation, seed=1, abseps=1e-9).cdf(bounds)


@pytest.mark.parametrize(
    ("planned", "spending", "values"),
    [
        # two equally spaced looks, one-sided 0.025 (Jennison & Turnbull 2000, tables 2.3 and 7.2; rpact 3.3 gives the same)
        ([0.5, 1.0], OBF, (2.9626, 1.9686)),
        ([0.5, 1.0], "obrien_fleming", (2.7965, 1.9774)),
        ([0.5, 1.0], "pocock", (2.1783, 2.1783)),
        ([1 / 3, 2 / 3, 1.0], OBF, (3.7103, 2.5114, 1.9930)),
    ],
)
def test_final_bound_with_the_planned_information_is_the_published_one(planned, spending, values):
    upper, _ = interim_bounds(planned[:-1], alpha=0.025, spending=spending, planned=planned)
    last = final_bound(planned, alpha=0.025, spending=spending, planned=planned)
    np.testing.assert_allclose([*upper, last], values, atol=6e-5)


@pytest.mark.parametrize("spending", ["lan_demets_obrien_fleming", "lan_demets_pocock", "obrien_fleming", "pocock"])
@pytest.mark.parametrize("now", [0.72, 0.9, 1.0, 1.15, 1.6])
def test_final_look_uses_all_of_alpha_and_no_more(spending, now):
    """Fewer or more events than planned: rejection stays at 0.025 with the bounds in force at the earlier looks."""
    earlier, planned = [0.35, 0.65], [0.4, 0.7, 1.0]
    upper, _ = interim_bounds(earlier, alpha=0.025, spending=spending, planned=planned)
    last = final_bound([*earlier, now], alpha=0.025, spending=spending, planned=planned)
    assert rejection([*earlier, now], [*upper, last]) == pytest.approx(0.025, abs=2e-6)


def test_what_the_final_look_did_before():
    """After a look at 60 %: 20 % more events cut to full information spent less than alpha; fewer were never final."""
    upper, _ = interim_bounds([0.6], alpha=0.025)
    before = float(trial.spending_bounds([0.6, 1.0], power=0.8).z_efficacy[2])
    after = final_bound([0.6, 1.2], alpha=0.025)
    assert after == pytest.approx(before, abs=0.02) and after != before
    assert rejection([0.6, 1.2], [*upper, before]) > 0.025, "the correlation is lower than the bound was made for"
    assert final_bound([0.8], alpha=0.025) == pytest.approx(1.959964, abs=1e-6)


def test_binding_futility_is_counted_on():
    rules = {"alpha": 0.025, "power": 0.9, "beta_spending": OBF}
    loose = final_bound([0.5, 0.9], binding=False, **rules)
    assert final_bound([0.5, 0.9], binding=True, **rules) < loose == pytest.approx(final_bound([0.5, 0.9], alpha=0.025))


@pytest.mark.parametrize(
    ("information", "options"),
    [
        ([0.5, 0.4], {}),
        ([1.0, 1.2], {}),
        ([0.0, 1.0], {}),
        ([], {}),
        ([0.3, 0.6, 0.9], {"spending": "pocock", "planned": [0.5, 1.0]}),
    ],
)
def test_impossible_final_looks(information, options):
    with pytest.raises(IonrtError, match=r"information|planned looks"):
        final_bound(information, alpha=0.025, **options)


@pytest.fixture(scope="module")
def protocol():
    return trial.load(FOLDER / "pancreas_randomised.yaml")


def data(events: int, *, more: int = 0, hr: float = 0.7) -> pd.DataFrame:
    """SYNTHETIC patients with exactly `events` events."""
    n = max(234, events + 20) + more
    rng = np.random.default_rng(3)
    df = pd.DataFrame({"arm": np.where(np.arange(n) % 3 == 0, "photon", "carbon")})
    df["centre"], df["head_of_pancreas"] = rng.choice(["A", "B"], n), rng.choice(["yes", "no"], n)
    df["time"] = rng.exponential(np.where(df.arm == "carbon", 24 / hr, 24))
    stop = df.time.nsmallest(events).max()
    return df.assign(event=(df.time <= stop).astype(int), time=df.time.clip(upper=stop))


def test_interim_that_ends_early_or_late(protocol):
    planned = trial.design_of(protocol)["events_planned"]
    for events in (int(0.85 * planned), int(1.15 * planned)):
        look = trial.interim(protocol, data(events), previous=(0.6,), final=True)
        assert look.information == pytest.approx(events / planned)
        assert look.z_efficacy == pytest.approx(final_bound([0.6, events / planned], alpha=0.025), abs=1e-9)
        assert look.decision == ("reject" if look.z >= look.z_efficacy else "do not reject")
    assert trial.interim(protocol, data(int(0.85 * planned)), previous=(0.6,)).decision in ("continue", "stop for efficacy")
    over = trial.interim(protocol, data(planned + 20), previous=(0.6,))
    assert over.information > 1 and over.decision in ("reject", "do not reject"), "all planned events are there: the last look"
    with pytest.raises(IonrtError, match="below 1 before the last"):
        trial.interim(protocol, data(planned + 20), previous=(0.6, 1.05))


def test_analysis_has_the_bound_of_the_events_there(protocol):
    planned = trial.design_of(protocol)["events_planned"]
    for events in (planned - 15, planned, planned + 25):
        row = trial.analyse(protocol, data(events)).iloc[0]
        assert row.bound == pytest.approx(final_bound([0.6, events / planned], alpha=0.025), abs=1e-9)
        assert row.information == pytest.approx(events / planned)
    early = trial.analyse(protocol, data(int(0.5 * planned))).iloc[0]
    assert early.bound == pytest.approx(1.959964, abs=1e-6), "stopped before the first look: no look was spent"


def test_missing_events_are_not_counted_as_none(protocol):
    df = data(100).astype({"event": float})
    df.loc[3, "event"] = np.nan
    for call in (trial.interim, trial.analyse):
        with pytest.raises(IonrtError, match="'event'"):
            call(protocol, df)


@pytest.mark.parametrize(("p1", "p0", "power"), [(0.75, 0.50, 0.90), (0.65, 0.45, 0.80), (0.30, 0.10, 0.80)])
def test_superiority_size_is_that_of_the_pooled_test(p1, p0, power):
    """Per arm, by Fleiss's formula written out; the first is the example of R's power.prop.test (n = 76.7)."""
    size = superiority_rates(p1, p0, power=power)
    mean = (p1 + p0) / 2
    z = stats.norm.isf(0.025) * np.sqrt(2 * mean * (1 - mean)) + stats.norm.ppf(power) * np.sqrt(p1 * (1 - p1) + p0 * (1 - p0))
    assert size["n"] / 2 == pytest.approx((z / (p1 - p0)) ** 2, rel=1e-9)
    if p1 == 0.75:
        assert size["n"] / 2 == pytest.approx(76.7, abs=0.05)


def test_superiority_test_is_pearsons():
    chi2 = stats.chi2_contingency([[30, 20], [45, 55]], correction=False)[0]
    assert float(farrington_manning(30, 50, 45, 100, margin=0)) == pytest.approx(np.sqrt(chi2))


@pytest.mark.parametrize(
    ("counts", "limits"),
    [
        # Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I, table II, method 5 (Mee)
        ((56, 70, 48, 80), (0.0533, 0.3377)),
        ((9, 10, 3, 10), (0.1821, 0.8370)),
        ((6, 7, 2, 7), (0.0544, 0.8478)),
        ((5, 56, 0, 29), (-0.0313, 0.1926)),
    ],
)
def test_limits_of_a_difference_are_the_published_ones(counts, limits):
    np.testing.assert_allclose(difference_limits(*counts, alpha=0.025), limits, atol=6e-5)


def superiority(**change):
    content = read_yaml(FOLDER / "chordoma_noninferiority.yaml")
    parameters = {"p_experimental": 0.9, "p_control": 0.7, **change}
    content |= {"design": "superiority_rates", "parameters": parameters, "illustrative": list(parameters), "n": 98}
    return content


def test_a_superiority_protocol_is_planned_simulated_and_analysed():
    """A new design touches one file: this one is read, sized, simulated and analysed by what its `Design` says."""
    protocol = from_mapping(superiority())
    table = trial.simulate(protocol, 4000, seed=2)
    se = np.sqrt(table.nominal * (1 - table.nominal) / 4000)
    assert (np.abs(table.rejected - table.nominal) < 3.5 * se).all()
    assert table.nominal["alternative"] > 0.78 and table.nominal["null"] < 0.06
    rows = pd.DataFrame({"arm": ["proton"] * 49 + ["carbon"] * 49, "success": [1] * 34 + [0] * 15 + [1] * 45 + [0] * 4})
    row = trial.analyse(protocol, rows).iloc[0]
    assert row.reject and row.estimate == pytest.approx(11 / 49) and 0 < row.lower < row.estimate < row.upper
    with pytest.raises(IonrtError, match="nothing to show"):
        from_mapping(superiority(p_experimental=0.7))
