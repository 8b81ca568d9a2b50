"""Survival calls on 100,000 SYNTHETIC patients with 10 covariates; the same calls of statsmodels where it has them.

python benchmarks/outcome.py [patients]
python benchmarks/outcome.py --lifelines PYTHON     the same of lifelines, in an environment of its own (it holds pandas back)
python benchmarks/outcome.py coverage [cohorts]     how often 95 % limits hold a planted hazard ratio and LETd slope
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ionrt import outcome

TERMS = [f"x{i}" for i in range(10)]


def patients(n: int, seed: int = 1) -> pd.DataFrame:
    """Exponential failures in days, two causes, uniform follow-up of up to ten years, effects of alternating sign."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 10))
    effect = 0.2 * (-1.0) ** np.arange(10)
    failure, end = rng.exponential(2000 * np.exp(-x @ effect)), rng.uniform(30, 3650, n)
    day = np.ceil(np.minimum(failure, end))
    code = np.where(failure <= end, rng.choice([1, 2], n, p=[0.7, 0.3]), 0)
    df = pd.DataFrame(x, columns=TERMS).assign(day=day, exact=np.minimum(failure, end), code=code, event=(code == 1) * 1)
    return df.assign(centre=rng.integers(0, 5, n), start=np.floor(day * rng.uniform(0, 0.5, n)), w=rng.uniform(0.5, 2, n))


def timed(name: str, call: Callable[[], object]) -> object:
    """Run once and print the seconds."""
    begin = time.perf_counter()
    result = call()
    print(f"{name:58s} {time.perf_counter() - begin:8.2f} s", flush=True)
    return result


def main(n: int) -> None:
    small, df, formula = patients(200), patients(n), " + ".join(TERMS)
    timed("compile and load (first call, 200 patients)", lambda: outcome.cox(small, formula, "day", "event"))
    timed(
        "kaplan_meier, 5 strata, at 3 times", lambda: outcome.kaplan_meier(df, "day", "event", by="centre", at=[365, 730, 1825])
    )
    timed("kaplan_meier, whole curve, exact times", lambda: outcome.kaplan_meier(df, "exact", "event"))
    timed("logrank, 5 groups", lambda: outcome.logrank(df, "day", "event", "centre"))
    timed("cumulative_incidence, 5 strata", lambda: outcome.cumulative_incidence(df, "day", "code", by="centre"))
    timed("gray_test, 5 groups", lambda: outcome.gray_test(df, "day", "code", "centre"))
    mine = timed("cox, 10 covariates, days (ties, Efron)", lambda: outcome.cox(df, formula, "day", "event"))
    timed("cox, 10 covariates, exact times", lambda: outcome.cox(df, formula, "exact", "event"))
    full = {"start": "start", "weights": "w", "strata": "centre"}
    timed("cox, 10 covariates, late entry, weights, strata", lambda: outcome.cox(df, formula, "day", "event", **full))
    timed("ph_test, 10 covariates", lambda: outcome.ph_test(df, formula, "day", "event"))
    timed("fine_gray, 10 covariates", lambda: outcome.fine_gray(df, formula, "day", "code"))
    logit = "x0 + x1 + x2"
    timed(
        "fit_actuarial_ntcp, 3 covariates, 1,000 patients",
        lambda: outcome.fit_actuarial_ntcp(df.head(1000), logit, "exact", "code"),
    )

    from statsmodels.duration.hazard_regression import PHReg
    from statsmodels.duration.survfunc import SurvfuncRight, survdiff

    timed("statsmodels SurvfuncRight", lambda: SurvfuncRight(df.day, df.event))
    timed("statsmodels survdiff, 5 groups", lambda: survdiff(df.day, df.event, df.centre))
    other = timed(
        "statsmodels PHReg, 10 covariates, Efron", lambda: PHReg(df.day, df[TERMS], status=df.event, ties="efron").fit(disp=0)
    )
    print(f"largest difference of a coefficient: {np.abs(mine.coef.to_numpy() - other.params).max():.1e}")  # type: ignore[attr-defined]


OTHER = """
import sys, time
import pandas as pd
from lifelines import AalenJohansenFitter, CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
df = pd.read_csv(sys.argv[1])
x = [f"x{i}" for i in range(10)]
def timed(name, call):
    begin = time.perf_counter()
    result = call()
    print(f"{name:58s} {time.perf_counter() - begin:8.2f} s", flush=True)
    return result
timed("lifelines KaplanMeierFitter", lambda: KaplanMeierFitter().fit(df.day, df.event))
timed("lifelines KaplanMeierFitter, exact times", lambda: KaplanMeierFitter().fit(df.exact, df.event))
timed("lifelines multivariate_logrank_test, 5 groups", lambda: multivariate_logrank_test(df.day, df.centre, df.event))
fit = timed("lifelines CoxPHFitter, 10 covariates, Efron", lambda: CoxPHFitter().fit(df[[*x, "day", "event"]], "day", "event"))
timed("lifelines AalenJohansenFitter", lambda: AalenJohansenFitter(calculate_variance=False).fit(df.exact, df.code, 1))
fit.params_.to_csv(sys.argv[2], header=False)
"""


def lifelines(python: str, n: int) -> None:
    """The calls that lifelines has, on the same patients, with the interpreter of another environment."""
    df = patients(n)
    with tempfile.TemporaryDirectory() as folder:
        rows, found = Path(folder) / "rows.csv", Path(folder) / "coef.csv"
        df.to_csv(rows, index=False)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        subprocess.run([python, "-c", OTHER, str(rows), str(found)], check=True, env=environment)
        theirs = pd.read_csv(found, header=None, index_col=0)[1]
    mine = outcome.cox(df, " + ".join(TERMS), "day", "event").set_index("term").coef
    print(f"largest difference of a coefficient: {(mine - theirs).abs().max():.1e}")


def late_effects(n: int, seed: int) -> pd.DataFrame:
    """SYNTHETIC: late effects after dose and LETd (slope 0.06 per keV/um), confounded by GTV volume; death and loss censor."""
    rng = np.random.default_rng(seed)
    log_volume, arm = rng.normal(0, 0.6, n), rng.integers(0, 2, n)
    dose, let_d = rng.normal(0, 8, n), rng.normal(0, 10, n) - 4 * log_volume
    p = 1 / (1 + np.exp(0.5 - 0.12 * dose - 0.06 * let_d - 0.3 * log_volume))
    onset = np.where(rng.random(n) < p, rng.lognormal(np.log(1.5), 0.6, n), np.inf)
    death, end = rng.exponential(6 * np.exp(0.5 * arm)), rng.uniform(1, 8, n)
    time = np.minimum(np.minimum(onset, death), end)
    df = pd.DataFrame({"time": time, "code": np.select([onset == time, death == time], [1, 2], 0), "arm": arm})
    return df.assign(dose=dose, let_d=let_d, log_volume=log_volume)


def coverage(cohorts: int) -> None:
    """Print the share of cohorts of 250 whose limits hold the planted values."""
    slope, ratio = [], []
    for seed in range(cohorts):
        df = late_effects(250, seed)
        fit = outcome.fit_actuarial_ntcp(df, "dose + let_d + log_volume", "time", "code").set_index("term").loc["let_d"]
        slope.append((fit.coef, fit.lower <= 0.06 <= fit.upper))
        row = outcome.cox(df.assign(dead=(df.code == 2) * 1), "arm", "time", "dead").iloc[0]
        ratio.append((row.coef, row.lower <= np.exp(-0.5) <= row.upper))
    for name, truth, found in (("slope of LETd", 0.06, slope), ("log hazard ratio", -0.5, ratio)):
        mean, held = np.mean(found, axis=0)
        print(f"{name}: planted {truth:g}, mean {mean:.4f}, held by 95 % limits in {100 * held:.1f} % of {cohorts} cohorts")


if __name__ == "__main__":
    if sys.argv[1:2] == ["coverage"]:
        coverage(int(sys.argv[2]) if len(sys.argv) > 2 else 400)
    elif sys.argv[1:2] == ["--lifelines"]:
        main(int(sys.argv[3]) if len(sys.argv) > 3 else 100_000)
        lifelines(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 100_000)
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
