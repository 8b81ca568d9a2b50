"""The SYNTHETIC cohort follows published outcomes and gives the planted effects back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

import ionrt
from ionrt import cohort
from ionrt.cohort.analysis import metric_table

ANCHORS = cohort.published()
SURVIVAL = ANCHORS[ANCHORS["kind"].ne("crude")]
DATA = Path(__file__).resolve().parents[1] / "datasets" / "exchange_cohort"
N = 12000


@pytest.fixture(scope="module")
def large():
    return {name: cohort.synthetic(N, 2026, indication=name) for name in ANCHORS["indication"].unique()}


def late(tables):
    """Time to the late toxicity; it is not drawn early, so that the first row of a patient is the event."""
    rows = cohort.patient_table(tables)
    onset = rows["pid"].map(tables["toxicity"].set_index("pid")["day_from"])
    return rows.assign(
        day=onset.fillna(rows["last_day"]), event=onset.notna().astype(int), code=np.where(onset.notna(), 1, 2 * rows["dead"])
    )


def estimate(day, code, horizon, kind):
    """Kaplan-Meier and Aalen-Johansen written for this test: percent and standard error at the horizon [a]."""
    order = np.argsort(day, kind="stable")
    day, code = day[order], code[order]
    before = day <= horizon * 365.25
    risk = (day.size - np.searchsorted(day, day, side="left"))[before]
    any_event = (code > 0)[before] if kind == "CIF" else (code == 1)[before]
    left = np.concatenate([[1.0], np.cumprod(1 - any_event / risk)])
    at_risk = day.size - before.sum()
    value = np.sum(left[:-1] * (code == 1)[before] / risk) if kind == "CIF" else left[-1]
    greenwood = left[-1] * np.sqrt(np.sum(any_event / risk / np.maximum(risk - 1, 1)))
    binomial = np.sqrt(value * (1 - value) / max(at_risk, 1))
    return 100 * value, 100 * (binomial if kind == "CIF" else greenwood)


@pytest.mark.parametrize(
    "anchor", list(SURVIVAL.itertuples()), ids=lambda a: f"{a.indication}-{a.endpoint}-{a.horizon_years:g}a"
)
def test_curves_pass_through_the_published_outcomes(large, anchor):
    event = large[anchor.indication]["event"].query("endpoint == @anchor.endpoint")
    value, se = estimate(event["day"].to_numpy(), event["code"].to_numpy(), anchor.horizon_years, anchor.kind)
    assert abs(value - anchor.percent) < 3 * se
    assert se < 1.0  # the test can see a percent
    published_se = np.sqrt(anchor.percent * (100 - anchor.percent) / anchor.n)
    assert abs(value - anchor.percent) < published_se


@pytest.mark.parametrize("anchor", list(ANCHORS.query("kind == 'crude'").itertuples()), ids=lambda a: a.indication)
def test_late_toxicity_without_death_is_the_published_share(large, anchor):
    rows = late(large[anchor.indication])
    free, se = estimate(rows["day"].to_numpy(), rows["code"].to_numpy(), anchor.horizon_years, "KM")
    assert abs(100 - free - anchor.percent) < 3 * se


def test_local_failure_and_death_add_up(large):
    """Independent causes with constant hazards between knots: incidence in closed form for lung, 0 to 3 years."""
    event = large["lung"]["event"].query("endpoint == 'LC'")
    fail, die = -np.log(0.964) / 3, -np.log(0.912) / 3
    expected = 100 * fail / (fail + die) * (1 - np.exp(-3 * (fail + die)))
    value, se = estimate(event["day"].to_numpy(), event["code"].to_numpy(), 3, "CIF")
    assert abs(value - expected) < 3 * se


def cox_fit(time, event, x):
    """Breslow partial likelihood by a general optimiser; estimate and standard error from the observed information."""
    order = np.argsort(-time, kind="stable")
    event, x = event[order].astype(bool), x[order] - x.mean(axis=0)

    def score_parts(beta):
        w = np.exp(x @ beta)
        s0, s1 = np.cumsum(w), np.cumsum(w[:, None] * x, axis=0)
        return s0[event], s1[event]

    def negative(beta):
        s0, s1 = score_parts(beta)
        return np.log(s0).sum() - (x[event] @ beta).sum(), (s1 / s0[:, None]).sum(axis=0) - x[event].sum(axis=0)

    fit = minimize(negative, np.zeros(x.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-6 * event.sum()})
    step = 1e-4 * np.eye(x.shape[1])
    information = np.array([(negative(fit.x + h)[1] - negative(fit.x - h)[1]) / 2e-4 for h in step])
    return fit.x, np.sqrt(np.diag(np.linalg.inv(information)))


def test_planted_hazard_ratios_of_local_control_come_back(large):
    rows = cohort.endpoint_table(large["head_neck"], "LC").dropna(subset=["let_d_mean"])
    beta, se = cox_fit(rows["day"].to_numpy(), rows["event"].to_numpy(), rows[["log_gtv", "let_d_mean"]].to_numpy())
    assert abs(beta - [0.40, -0.03]) == pytest.approx(0, abs=3 * se.max())
    assert (np.abs(beta - [0.40, -0.03]) < 3 * se).all()


def test_without_the_gtv_volume_the_letd_slope_is_confounded(large):
    rows = cohort.endpoint_table(large["head_neck"], "LC").dropna(subset=["let_d_mean"])
    crude, se = cox_fit(rows["day"].to_numpy(), rows["event"].to_numpy(), rows[["let_d_mean"]].to_numpy())
    # omitted-variable formula: slope + 0.40 * regression of ln(GTV) on LETd = -0.03 - 0.40 * 0.6 * 0.7 / 6
    assert abs(crude[0] - (-0.058)) < 3 * se[0] + 0.003  # hazards are not collapsible: a little less
    assert crude[0] < -0.03 - 3 * se[0]


def test_dose_response_of_recurrent_rectal_cancer_is_the_published_one(large):
    """Yamada: three-year local control 70, 84, 93 % at 67.2, 70.4, 73.6 Gy (RBE) in 10, 19, 63 patients."""
    rows = cohort.endpoint_table(large["recurrent"], "LC")
    for dose, percent, n in ((67.2, 70, 10), (70.4, 84, 19), (73.6, 93, 63)):
        group = rows[rows["rx_dose"].eq(dose)]
        value, _ = estimate(group["day"].to_numpy(), group["code"].to_numpy(), 3, "KM")
        assert abs(value - percent) < np.sqrt(percent * (100 - percent) / n)


def test_planted_effects_on_death_and_toxicity_come_back(large):
    tables = large["head_neck"]
    rows = cohort.endpoint_table(tables, "OS").dropna(subset=["ecog"])
    beta, se = cox_fit(rows["day"].to_numpy(), rows["event"].to_numpy(), rows[["ecog", "treat_year"]].to_numpy(dtype=float))
    assert (np.abs(beta - [np.log(1.6), 0.0]) < 3 * se).all()
    rows = late(tables).merge(metric_table(tables), on="cid")
    rows = rows[rows["rbe_model"].eq("NIRS_MMKM")]
    x = rows[["Bone_Mandible:D2cc:rbe_dose:NIRS_MMKM", "Bone_Mandible:Mean:let_d:charged", "log_gtv"]].to_numpy()
    beta, se = cox_fit(rows["day"].to_numpy(), rows["event"].to_numpy(), x)
    assert (np.abs(beta - [0.06, 0.03, 0.20]) < 3 * se).all()


def test_the_same_seed_gives_the_same_tables_and_another_does_not():
    a, b, c = cohort.synthetic(50, 1), cohort.synthetic(50, 1), cohort.synthetic(50, 2)
    for name in a:
        pd.testing.assert_frame_equal(a[name], b[name])
    assert not a["event"].equals(c["event"])


@pytest.mark.parametrize("n", [1, 2, 7])
def test_small_cohorts_are_valid(n):
    for seed in range(3):
        assert len(cohort.validate(cohort.synthetic(n, seed))["patient"]) == n


def test_a_large_mixed_cohort_is_valid():
    tables = cohort.validate(cohort.synthetic(5000, 8))
    assert set(tables["patient"]["indication"]) == set(ANCHORS["indication"])
    assert set(tables["course"]["rbe_model"]) == {"NIRS_MMKM", "LEM_I"}
    assert tables["patient"]["refer_centre"].eq("centre_A").mean() > 0.5


def test_bad_arguments():
    with pytest.raises(ionrt.IonrtError, match="at least one"):
        cohort.synthetic(0, 1)
    with pytest.raises(ionrt.IonrtError, match="indication"):
        cohort.synthetic(5, 1, indication="prostata")
    with pytest.raises(ionrt.IonrtError, match="anchor"):
        cohort.published("other")


def test_shipped_cohort_is_synthetic_valid_and_has_the_hashes_of_its_card():
    tables = cohort.load(DATA)
    assert all((table["origin"] == "SYNTHETIC").all() for table in tables.values())
    card = (DATA / "README.md").read_text(encoding="utf-8")
    files = sorted(DATA.glob("*.csv"))
    assert len(files) == 6
    for file in files:
        assert hashlib.sha256(file.read_bytes()).hexdigest() in card, file.name
    assert sum(f.stat().st_size for f in files) < 1_000_000


def test_shipped_cohort_is_what_its_recipe_makes(tmp_path):
    cohort.save(cohort.synthetic(1000, 20311), tmp_path)
    for file in sorted(DATA.glob("*.csv")):
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / file.name), pd.read_csv(file), atol=2e-4, rtol=0)


def test_the_stored_coverage_is_of_these_effects_and_near_95_percent():
    """Made by benchmarks/cohort.py; an effect that is planted differently from now on makes the table stale."""
    table = pd.read_csv(DATA.parent / "planted_effects" / "coverage.csv")
    endpoint = {"local control": "LC", "local control without the volume": "LC", "death": "OS", "late toxicity": "late"}
    planted = {(e, k): v for e, effects in cohort.PLANTED.items() for k, v in effects.items()}
    for row in table.itertuples():
        assert row.planted == pytest.approx(planted[endpoint[row.analysis], row.term], abs=1e-5)
    adjusted = table[~table["analysis"].str.contains("without")]
    assert {endpoint[a] for a in adjusted["analysis"]} == set(cohort.PLANTED) and len(adjusted) == len(planted)
    assert adjusted["coverage"].between(0.93, 0.97).all() and (adjusted["cohorts"] >= 400).all()
    assert ((adjusted["coverage"] - 0.95).abs() < 3.5 * adjusted["coverage_se"]).all()
    confounded = table.set_index(["analysis", "term"]).loc[("local control without the volume", "let_d_mean")]
    assert confounded["coverage"] < 0.7
